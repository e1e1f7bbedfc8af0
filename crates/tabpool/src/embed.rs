//! Texts, pictures and sounds to vectors, which two-tower models put into one space.

use tabpool_pipelines::audio::Sound;
use tabpool_pipelines::image::Picture;
use tabpool_pipelines::similarity_matrix;
use tabpool_pool::{Answer, ModelHandle};
use tabpool_tensor::Tensor;

use crate::embeddings::Embeddings;
use crate::error::Error;
use crate::model::Model;
use crate::runs::Answers;

/// The outputs that give one vector a text, best first.
const OF_TEXTS: &[&str] = &["sentence_embedding", "text_embeds"];
/// The same for pictures. Of the last the first vector counts, which stands for the picture.
const OF_PICTURES: &[&str] = &["image_embeds", "pooler_output", "last_hidden_state"];
/// The same for sounds.
const OF_SOUNDS: &[&str] = &["audio_embeds"];

impl Model {
    /// Embeds texts, one vector each, in their order. A model of two towers embeds them into the space of its pictures or
    /// sounds.
    ///
    /// Texts of similar length run together and as many runs go on at once as the workers can take; a caller need not
    /// batch. Memory holds all texts and all embeddings; whoever streams calls this for some thousand at a time.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model embeds no texts, [`Error::Text`] where it has no tokenizer or a text cannot be read
    /// by it, [`Error::Pool`] for the first run that failed; the others are then given up.
    pub async fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Embeddings, Error> {
        if texts.is_empty() {
            return Ok(Embeddings::default());
        }
        let handle = self.texts_in()?;
        let output = self.embedding(&handle, OF_TEXTS, "texts")?;
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let batches = self.text_encoder()?.batches(&texts, self.together(&handle, texts.len()))?;
        let read = |answer: &Answer| self.vectors(answer, output);
        self.embeddings(self.gather_texts(&handle, &[output], batches, read).await?)
    }

    /// Embeds pictures, one vector each, in their order: what the model's own pooling makes of them, of length one where the
    /// model has a tower for texts too.
    ///
    /// Pictures are resized while others are computed. Memory holds all of them, and a few batches once more.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model embeds no pictures, [`Error::Image`] where its folder does not say what is done to
    /// pictures, [`Error::Pool`] for the first run that failed.
    pub async fn embed_images(&self, pictures: &[Picture]) -> Result<Embeddings, Error> {
        if pictures.is_empty() {
            return Ok(Embeddings::default());
        }
        let handle = self.pictures_in().await?;
        let output = self.embedding(&handle, OF_PICTURES, "pictures")?;
        let batches = self.picture_batches(&handle, pictures)?;
        let read = |answer: &Answer| self.vectors(answer, output);
        self.embeddings(self.gather(&handle, &[output], pictures.len(), batches, read).await?)
    }

    /// Embeds sounds, one vector each, in their order, of length one. Of a sound that is longer than the model's window, its
    /// middle counts.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] where the model embeds no sounds, [`Error::Audio`] where a sound is empty or the folder does not say
    /// what is done to sounds, [`Error::Pool`] for the first run that failed.
    pub async fn embed_sounds(&self, sounds: &[Sound]) -> Result<Embeddings, Error> {
        if sounds.is_empty() {
            return Ok(Embeddings::default());
        }
        let handle = self.sounds_in()?;
        let output = self.embedding(&handle, OF_SOUNDS, "sounds")?;
        let batches = self.sound_batches(&handle, sounds)?;
        let read = |answer: &Answer| self.vectors(answer, output);
        self.embeddings(self.gather(&handle, &[output], sounds.len(), batches, read).await?)
    }

    /// The cosine of each text of `a` with each of `b`, as `f32 [a, b]`.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub async fn similarity<A: AsRef<str>, B: AsRef<str>>(&self, a: &[A], b: &[B]) -> Result<Tensor, Error> {
        let texts: Vec<&str> = a.iter().map(AsRef::as_ref).chain(b.iter().map(AsRef::as_ref)).collect();
        let all = self.embed(&texts).await?;
        let (first, second) = all.values.split_at(a.len() * all.dimension);
        let first = Tensor::from_f32([a.len(), all.dimension], first.to_vec())?;
        let second = Tensor::from_f32([b.len(), all.dimension], second.to_vec())?;
        similarity_matrix(&first, &second).map_err(|error| self.unexpected(error.to_string()))
    }

    /// The first of these outputs that an entry point has.
    fn embedding(&self, handle: &ModelHandle, names: &[&'static str], what: &str) -> Result<&'static str, Error> {
        let found = names.iter().find(|name| handle.signature().output(name).is_some());
        let outputs = || handle.signature().outputs.iter().map(|output| output.name).collect::<Vec<_>>().join(", ");
        let none = || self.unfit(format!("gives no one vector for {what}: its outputs are {}", outputs()), "");
        found.copied().ok_or_else(none)
    }

    /// One vector for each row of an output, `[rows, numbers]` or the first of each row of `[rows, vectors, numbers]`.
    fn vectors(&self, answer: &Answer, output: &str) -> Result<Vec<Vec<f32>>, Error> {
        let tensor = self.output(answer, output)?;
        let (row, dimension) = match *tensor.shape().dims() {
            [_, dimension] => (dimension, dimension),
            [_, vectors, dimension] => (vectors * dimension, dimension),
            _ => (0, 0),
        };
        if dimension == 0 || row == 0 {
            return Err(self.unexpected(format!("embeddings of shape {}", tensor.shape())));
        }
        Ok(tensor.to_f32()?.chunks_exact(row).map(|row| row[..dimension].to_vec()).collect())
    }

    fn embeddings(&self, answers: Answers<Vec<f32>>) -> Result<Embeddings, Error> {
        let dimension = answers.values.first().map_or(0, Vec::len);
        if let Some(other) = answers.values.iter().find(|row| row.len() != dimension) {
            return Err(self.unexpected(format!("one run gave {dimension} numbers, another {}", other.len())));
        }
        let values = answers.values.concat();
        Ok(Embeddings { dimension, values, runs: answers.runs, truncated: answers.truncated })
    }
}
