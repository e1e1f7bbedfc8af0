//! What can go wrong while a model is accelerated and used.

use tabpool_pipelines::chat::ChatError;
use tabpool_pipelines::{SamplingError, TextError};
use tabpool_pool::PoolError;
use tabpool_tensor::TensorError;

use crate::choice::ChoiceError;
use crate::library::LibraryError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model could not be found, added or read.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// Workers were asked for that cannot be had.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// The pool failed, or a request did.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Texts could not be turned into the model's inputs.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The temporary data folder could not be made.
    #[error("cannot make a temporary data folder")]
    TemporaryFolder(#[source] std::io::Error),
    /// No worker came to be.
    #[error("no worker started: {reasons}")]
    NoWorkers {
        /// Why, for each slot.
        reasons: String,
    },
    /// A setting of how tokens are chosen is out of its range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A conversation could not be written as the model reads it.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// Nothing can be generated, or what came back is no token.
    #[error("cannot generate: {reason}")]
    Generation {
        /// Why not.
        reason: String,
    },
    /// A worker gave back something else than embeddings.
    #[error("the model {model:?} gave no embeddings: {reason}")]
    NoEmbeddings {
        /// The model.
        model: String,
        /// What it gave.
        reason: String,
    },
    /// An answer contradicts itself.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Work on another thread was cut off because the program is ending.
    #[error("{doing} was interrupted")]
    Interrupted {
        /// What was being done.
        doing: &'static str,
    },
}

impl Error {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Library(error) => error.hint(),
            Self::Choice(error) => error.hint(),
            Self::Pool(error) => error.hint(),
            Self::Text(error) => error.hint(),
            Self::TemporaryFolder(_) => Some("name a data folder".to_owned()),
            Self::NoWorkers { .. } => Some("tabpool doctor says what is missing".to_owned()),
            _ => None,
        }
    }
}
