//! Pictures and sounds on their way into a model: where they go in, and batches that are prepared when their turn comes.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use tabpool_content::Directory;
use tabpool_models::Dim;
use tabpool_pipelines::Tokenizer;
use tabpool_pipelines::audio::{AudioError, AudioProcessor, Sound};
use tabpool_pipelines::image::{ImageProcessor, Picture};
use tabpool_pipelines::labels::Labels;
use tabpool_pool::ModelHandle;

use crate::error::Error;
use crate::model::Model;
use crate::runs::{Batch, aside};

const PIXEL_VALUES: &str = "pixel_values";

/// What a model's folder says besides its encoder of texts, each read at its first use: not every model has all of it.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    images: OnceLock<Arc<ImageProcessor>>,
    sounds: OnceLock<Arc<AudioProcessor>>,
    labels: OnceLock<Labels>,
    /// As opposed to the encoder's, it cuts no text.
    tokenizer: OnceLock<Tokenizer>,
}

/// What `cell` holds, read once.
fn once<T>(cell: &OnceLock<T>, read: impl FnOnce() -> Result<T, Error>) -> Result<&T, Error> {
    if let Some(known) = cell.get() {
        return Ok(known);
    }
    let read = read()?;
    Ok(cell.get_or_init(|| read))
}

impl Model {
    /// The model's folder.
    pub(crate) fn folder(&self) -> Result<Directory<'_>, Error> {
        Directory::open(self.library().store(), self.handle().root())
            .map_err(|source| Error::Text(tabpool_pipelines::TextError::Folder(source)))
    }

    /// What turns pictures into this model's inputs.
    ///
    /// # Errors
    /// [`Error::Image`] where the model's folder does not say what is done to pictures.
    pub fn image_processor(&self) -> Result<&Arc<ImageProcessor>, Error> {
        once(&self.readers().images, || {
            Ok(Arc::new(ImageProcessor::read(&self.folder()?, self.handle().model().files())?))
        })
    }

    /// What turns sounds into this model's inputs.
    ///
    /// # Errors
    /// [`Error::Audio`] where the model's folder does not say what is done to sounds.
    pub fn audio_processor(&self) -> Result<&Arc<AudioProcessor>, Error> {
        once(&self.readers().sounds, || {
            Ok(Arc::new(AudioProcessor::read(&self.folder()?, self.handle().model().files())?))
        })
    }

    /// What turns texts into ids and back.
    ///
    /// # Errors
    /// [`Error::Text`] where the model's folder has no tokenizer that can be read.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        once(&self.readers().tokenizer, || Ok(Tokenizer::read(&self.folder()?, self.handle().model().files())?))
    }

    /// The classes that the model tells apart.
    ///
    /// # Errors
    /// [`Error::Text`] where its configuration contradicts itself.
    pub fn labels(&self) -> Result<&Labels, Error> {
        once(&self.readers().labels, || {
            let labels = Labels::read(&self.folder()?, self.handle().model().files());
            Ok(labels.map_err(tabpool_pipelines::TextError::from)?)
        })
    }

    /// Where texts go in: the tower for them, or the model as a whole.
    pub(crate) fn texts_in(&self) -> Result<ModelHandle, Error> {
        self.tower("text", &["input_ids"], "texts")
    }

    /// Where pictures go in, in the size that the folder's processor makes of them.
    pub(crate) async fn pictures_in(&self) -> Result<ModelHandle, Error> {
        let handle = self.tower("vision", &[PIXEL_VALUES], "pictures")?;
        let trained = handle.signature().input(PIXEL_VALUES).and_then(|input| match input.dims[..] {
            [_, _, Dim::Fixed(height), Dim::Fixed(width)] => Some((height, width)),
            _ => None,
        });
        match (trained, self.image_processor()?.output_size()) {
            (Some(trained), Some((height, width))) if trained != (height, width) => {
                Ok(handle.for_pictures(height, width).await?)
            }
            _ => Ok(handle),
        }
    }

    /// Where sounds go in.
    pub(crate) fn sounds_in(&self) -> Result<ModelHandle, Error> {
        self.tower("audio", &["input_features", "input_values"], "sounds")
    }

    /// The entry point of this name or else the first one, provided that it takes one of these inputs and needs nothing that
    /// is made of something else.
    fn tower(&self, entry: &str, inputs: &[&str], what: &str) -> Result<ModelHandle, Error> {
        let handle = self.handle().entry(entry).unwrap_or_else(|_| self.handle().clone());
        let content = ["input_ids", PIXEL_VALUES, "input_features", "input_values", "decoder_input_ids"];
        let signature = handle.signature();
        let takes = inputs.iter().any(|name| signature.input(name).is_some());
        let needs_more = content.iter().any(|name| !inputs.contains(name) && signature.input(name).is_some());
        if takes && !needs_more {
            return Ok(handle);
        }
        let given: Vec<_> = signature.inputs.iter().map(|input| input.name).collect();
        Err(self.unfit(format!("does not take {what} alone: its inputs are {}", given.join(", ")), ""))
    }

    /// Pictures in batches for one entry point. Resizing goes on aside, when a batch's turn comes.
    pub(crate) fn picture_batches<'a>(
        &'a self,
        handle: &ModelHandle,
        pictures: &'a [Picture],
    ) -> Result<Vec<impl Future<Output = Batch> + 'a>, Error> {
        let processor = self.image_processor()?;
        let together = self.together(handle, pictures.len());
        let batch = move |(index, pictures): (usize, &'a [Picture])| async move {
            let (processor, owned) = (Arc::clone(processor), pictures.to_vec());
            let pixels = aside("preparing pictures", move || processor.process(&owned)).await?;
            Ok((places(index, together, pictures.len()), vec![(PIXEL_VALUES.to_owned(), pixels)]))
        };
        Ok(pictures.chunks(together).enumerate().map(batch).collect())
    }

    /// Sounds in batches for one entry point, which takes sounds of one length.
    pub(crate) fn sound_batches<'a>(
        &'a self,
        handle: &'a ModelHandle,
        sounds: &'a [Sound],
    ) -> Result<Vec<impl Future<Output = Batch> + 'a>, Error> {
        if let Some(position) = sounds.iter().position(|sound| sound.samples().is_empty()) {
            return Err(AudioError::Empty { position }.into());
        }
        let processor = self.audio_processor()?;
        let together = self.together(handle, sounds.len());
        let batch = move |(index, sounds): (usize, &'a [Sound])| async move {
            let (processor, owned) = (Arc::clone(processor), sounds.to_vec());
            let inputs = aside("preparing sounds", move || processor.process(&owned)).await?;
            Ok((places(index, together, sounds.len()), inputs.inputs(handle.signature())))
        };
        Ok(sounds.chunks(together).enumerate().map(batch).collect())
    }
}

/// Where the members of a batch stand among all.
fn places(index: usize, together: usize, count: usize) -> Vec<usize> {
    (index * together..index * together + count).collect()
}
