//! A model that is ready to be run.

use std::sync::{Arc, OnceLock};

use futures::StreamExt;
use tabpool_content::Directory;
use tabpool_pipelines::{TextEncoder, TextError, Tokenizer};
use tabpool_pool::{Answer, ModelHandle, PoolError, Target, WorkerId};
use tabpool_tensor::Tensor;

use crate::embeddings::{EmbeddingRun, Embeddings};
use crate::error::Error;
use crate::library::Library;

/// The output that embedding models give one vector a sequence under.
const SENTENCE_EMBEDDING: &str = "sentence_embedding";

/// Runs in flight for each worker: one that computes, one whose inputs are on their way, and one to spare.
const RUNS_A_WORKER: usize = 3;

/// Requests of one [`Model::run_batch`] that are under way at most; the pool's queue holds more than a hundred times that.
const REQUESTS_UNDER_WAY: usize = 64;

/// A model, ready to be run. Cheap to clone; clones are the same model.
#[derive(Clone, Debug)]
pub struct Model {
    handle: ModelHandle,
    library: Library,
    /// Read at the first use: not every model has a tokenizer, and not every use of one needs it.
    encoder: Arc<OnceLock<TextEncoder>>,
    /// The same for generation, which cuts no text.
    tokenizer: Arc<OnceLock<Tokenizer>>,
    /// How many workers there were when the model was asked for; decides how texts are shared out, nothing else.
    workers: usize,
}

impl Model {
    pub(crate) fn new(handle: ModelHandle, library: Library, workers: usize) -> Self {
        Self { handle, library, encoder: Arc::default(), tokenizer: Arc::default(), workers: workers.max(1) }
    }

    /// The pool's handle of it, for its signature and for what is not here.
    #[must_use]
    pub fn handle(&self) -> &ModelHandle {
        &self.handle
    }

    /// Runs one request, tensors under the names the model's authors use, and gives every output but the pooled
    /// embedding.
    ///
    /// # Errors
    ///
    /// [`Error::Pool`].
    pub async fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<Answer, Error> {
        Ok(self.handle.run(inputs).await?)
    }

    /// The same model, run on a target only.
    #[must_use]
    pub fn on(&self, target: Target) -> Self {
        Self { handle: self.handle.on(target), ..self.clone() }
    }

    /// The same model, run on one worker only.
    #[must_use]
    pub fn pinned(&self, worker: WorkerId) -> Self {
        Self { handle: self.handle.pinned(worker), workers: 1, ..self.clone() }
    }

    /// Runs several requests, several at a time, on as many workers as serve the model. The answers are in the order of
    /// the requests; one that fails does not keep the others.
    pub async fn run_batch(&self, requests: Vec<Vec<(String, Tensor)>>) -> Vec<Result<Answer, Error>> {
        let runs = requests.into_iter().map(|inputs| self.run(inputs));
        futures::stream::iter(runs).buffered(REQUESTS_UNDER_WAY).collect().await
    }

    /// Embeds texts, one vector each, in their order.
    ///
    /// Texts of similar length run together and as many runs go on at once as the workers can take; a caller need not
    /// batch. Memory holds all texts and all embeddings; whoever streams calls this for some thousand at a time.
    ///
    /// # Errors
    ///
    /// [`Error::Text`] where the model has no tokenizer or a text cannot be read by it, [`Error::Pool`] for the first
    /// run that failed; the others are then given up.
    pub async fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Embeddings, Error> {
        if texts.is_empty() {
            return Ok(Embeddings::default());
        }
        let encoder = self.text_encoder()?;
        let signature = self.handle.signature();
        // Two runs for each worker even out that some are slower; more would make the runs small.
        let together = texts.len().div_ceil(2 * self.workers).clamp(1, self.handle.model().max_batch());
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let batches = encoder.batches(&texts, together)?;

        let mut truncated = Vec::new();
        for batch in &batches {
            let cut = batch.indices.iter().zip(&batch.encoded.truncated).filter(|(_, cut)| **cut);
            truncated.extend(cut.map(|(text, _)| *text));
        }
        truncated.sort_unstable();

        let runs = batches.into_iter().map(|batch| async move {
            let inputs = batch.encoded.inputs(signature);
            let answer = self.handle.run_for(inputs, &[SENTENCE_EMBEDDING]).await?;
            Ok::<_, PoolError>((batch.indices, answer))
        });
        let mut runs = futures::stream::iter(runs).buffer_unordered(RUNS_A_WORKER * self.workers);
        let mut embeddings = Embeddings { truncated, ..Embeddings::default() };
        while let Some(run) = runs.next().await {
            let (indices, answer) = run?;
            self.place(&mut embeddings, texts.len(), &indices, &answer)?;
            let Answer { worker, api, precision, timing, attempts, .. } = answer;
            embeddings.runs.push(EmbeddingRun { texts: indices, worker, api, precision, timing, attempts });
        }
        Ok(embeddings)
    }

    /// What turns texts into this model's inputs.
    ///
    /// # Errors
    ///
    /// [`Error::Text`] where the model's folder has no tokenizer that can be read.
    pub fn text_encoder(&self) -> Result<&TextEncoder, Error> {
        if let Some(encoder) = self.encoder.get() {
            return Ok(encoder);
        }
        let encoder = TextEncoder::open(self.library.store(), self.handle.root(), self.handle.model())?;
        Ok(self.encoder.get_or_init(|| encoder))
    }

    /// What turns texts into ids and back.
    ///
    /// # Errors
    ///
    /// [`Error::Text`] where the model's folder has no tokenizer that can be read.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let tokenizer = self.folder(|folder| Tokenizer::read(folder, self.handle.model().files()))?;
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }

    /// Reads something in the model's folder.
    pub(crate) fn folder<T, E: Into<Error>>(
        &self,
        read: impl FnOnce(&Directory<'_>) -> Result<T, E>,
    ) -> Result<T, Error> {
        let folder = Directory::open(self.library.store(), self.handle.root()).map_err(TextError::from)?;
        read(&folder).map_err(Into::into)
    }

    /// Puts the rows of one run where their texts stand.
    fn place(&self, all: &mut Embeddings, texts: usize, indices: &[usize], answer: &Answer) -> Result<(), Error> {
        let none = |reason: String| Error::NoEmbeddings { model: self.handle.name().to_owned(), reason };
        let tensor = answer.outputs.iter().find(|(name, _)| name == SENTENCE_EMBEDDING).map(|(_, tensor)| tensor);
        let tensor = tensor.ok_or_else(|| none(format!("it has no output {SENTENCE_EMBEDDING:?}")))?;
        let &[rows, dimension] = tensor.shape().dims() else {
            return Err(none(format!("the output has shape {}", tensor.shape())));
        };
        if rows != indices.len() || dimension == 0 {
            return Err(none(format!("{} texts gave {}", indices.len(), tensor.shape())));
        }
        if all.values.is_empty() {
            all.dimension = dimension;
            all.values = vec![0.0; texts * dimension];
        }
        if all.dimension != dimension {
            return Err(none(format!("one run gave {dimension} numbers a text, another {}", all.dimension)));
        }
        let values = tensor.to_f32()?;
        for (row, text) in values.chunks_exact(dimension).zip(indices) {
            all.values[text * dimension..][..dimension].copy_from_slice(row);
        }
        Ok(())
    }
}
