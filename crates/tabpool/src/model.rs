//! A model that is ready to be run on tensors; what it does with texts, pictures and sounds is in files of their own.

use std::sync::{Arc, OnceLock};

use futures::StreamExt;
use tabpool_pipelines::TextEncoder;
use tabpool_pool::{Answer, ModelHandle, Target, WorkerId};
use tabpool_tensor::Tensor;

use crate::error::Error;
use crate::library::Library;
use crate::media::Readers;

/// Requests of one [`Model::run_batch`] that are under way at most; the pool's queue holds more than a hundred times that.
const REQUESTS_UNDER_WAY: usize = 64;

/// A model, ready to be run. Cheap to clone; clones are the same model.
#[derive(Clone, Debug)]
pub struct Model {
    handle: ModelHandle,
    library: Library,
    /// Read at the first use: not every model has a tokenizer, and not every use of one needs it.
    encoder: Arc<OnceLock<TextEncoder>>,
    readers: Arc<Readers>,
    /// How many workers there were when the model was asked for; decides how texts are shared out, nothing else.
    workers: usize,
}

impl Model {
    pub(crate) fn new(handle: ModelHandle, library: Library, workers: usize) -> Self {
        Self { handle, library, encoder: Arc::default(), readers: Arc::default(), workers: workers.max(1) }
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

    /// The same model, run on behalf of a client; see [`ModelHandle::client`].
    #[must_use]
    pub fn client(&self, name: &str) -> Self {
        Self { handle: self.handle.client(name), ..self.clone() }
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

    pub(crate) fn library(&self) -> &Library {
        &self.library
    }

    pub(crate) fn readers(&self) -> &Readers {
        &self.readers
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers
    }
}
