//! Classes: which of a model's labels fit a text or a picture.

use tabpool_pipelines::TextBatch;
use tabpool_pipelines::image::Picture;
use tabpool_pipelines::labels::ScoredLabel;
use tabpool_pool::{Answer, ModelHandle};

use crate::error::Error;
use crate::model::Model;
use crate::runs::Answers;

pub(crate) const LOGITS: &str = "logits";

/// What to do where a model has no classes of its own.
const OTHERS: &str = "labels of your own can be compared by a model of two towers, as CLIP, SigLIP or CLAP";

impl Model {
    /// The `top` labels of each text, the likeliest first, with the scores that the model's configuration asks for: one
    /// softmax over all, or a sigmoid for each.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model tells no classes of texts apart, [`Error::Text`] where it has no tokenizer or a text
    /// cannot be read by it, [`Error::Pool`] for the first run that failed.
    pub async fn classify_texts<T: AsRef<str>>(
        &self,
        texts: &[T],
        top: usize,
    ) -> Result<Answers<Vec<ScoredLabel>>, Error> {
        let handle = self.texts_in()?;
        self.classes(&handle, "texts")?;
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let batches = self.text_encoder()?.batches(&texts, self.together(&handle, texts.len()))?;
        self.classify_batches(&handle, batches, top).await
    }

    pub(crate) async fn classify_batches(
        &self,
        handle: &ModelHandle,
        batches: Vec<TextBatch>,
        top: usize,
    ) -> Result<Answers<Vec<ScoredLabel>>, Error> {
        let labels = self.labels()?;
        let read = |answer: &Answer| Ok(labels.top(self.output(answer, LOGITS)?, top, labels.scores())?);
        self.gather_texts(handle, &[LOGITS], batches, read).await
    }

    /// The same for pictures.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model tells no classes of pictures apart, [`Error::Image`] where its folder does not say
    /// what is done to pictures, [`Error::Pool`] for the first run that failed.
    pub async fn classify_images(&self, pictures: &[Picture], top: usize) -> Result<Answers<Vec<ScoredLabel>>, Error> {
        let handle = self.pictures_in().await?;
        self.classes(&handle, "pictures")?;
        let labels = self.labels()?;
        let batches = self.picture_batches(&handle, pictures)?;
        let read = |answer: &Answer| Ok(labels.top(self.output(answer, LOGITS)?, top, labels.scores())?);
        self.gather(&handle, &[LOGITS], pictures.len(), batches, read).await
    }

    /// Refuses an entry point that does not give each of its inputs a number for each of the model's labels.
    pub(crate) fn classes(&self, handle: &ModelHandle, what: &str) -> Result<(), Error> {
        let logits = handle.signature().output(LOGITS).is_some_and(|output| output.dims.len() == 2);
        if logits && !self.handle().model().labels().is_empty() {
            return Ok(());
        }
        Err(self.unfit(format!("has no classes of {what}"), OTHERS))
    }
}
