//! What can go wrong with a pool, a model or a request.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tabpool_bridge::WorkerId;
use tabpool_browser::BrowserKind;
use tabpool_content::{ImportError, RefError, StoreError};
use tabpool_metrics::{FlushError, OpenError, QueryError};
use tabpool_models::{ModelError, RequestError};

use crate::{EndpointError, JoinError};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// A folder of the data directory cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The block store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The names of models cannot be used.
    #[error(transparent)]
    Refs(#[from] RefError),
    /// The metrics database cannot be used.
    #[error(transparent)]
    Metrics(Box<OpenError>),
    /// The metrics database could not be read.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Measurements could not be written.
    #[error("measurements could not be written: {0}")]
    Flush(#[from] FlushError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// An address beyond loopback.
    #[error("will not listen on {0}: the pool's own address is one of loopback")]
    NotLoopback(SocketAddr),
    /// Tabs of other machines cannot join as it was asked for.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A ticket was asked for that would let nobody in.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A browser was asked for that is not here.
    #[error("no {kind} was found{}", unusable.as_ref().map(|u| format!(" ({u})")).unwrap_or_default())]
    NoBrowser {
        /// The browser.
        kind: BrowserKind,
        /// What was found and does not start.
        unusable: Option<String>,
    },
    /// This program was built without the browser runtime.
    #[error("this program was built without the browser runtime")]
    NoRuntime,
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// Workers did not join in time.
    #[error("not every worker joined within {waited:?}: {missing}")]
    NotReady {
        /// How long was waited.
        waited: Duration,
        /// Which slots are empty, and why as far as known.
        missing: String,
    },
    /// No model of this name, and no such folder.
    #[error("there is no model {name:?}: {known}")]
    UnknownModel {
        /// The name.
        name: String,
        /// What there is.
        known: String,
    },
    /// A folder could not be imported.
    #[error(transparent)]
    Import(Box<ImportError>),
    /// A model's folder cannot be read.
    #[error("model {name:?}: {source}")]
    Model {
        /// The model.
        name: String,
        /// Why not.
        source: Box<ModelError>,
    },
    /// The request does not fit the model.
    #[error("model {model:?}: {source}")]
    Request {
        /// The model.
        model: String,
        /// Why not.
        source: Box<RequestError>,
    },
    /// A worker found the request itself wrong.
    #[error("the request was refused by its worker: {0}")]
    Input(String),
    /// The model says nothing token by token.
    #[error("the model {model:?} generates no text: it has no decoder with a language model's head")]
    NoGeneration {
        /// The model.
        model: String,
    },
    /// What a session had computed is lost with its worker, its device or its lease; it can be begun again.
    #[error("what the session had computed is lost: {reason}")]
    SessionLost {
        /// Why.
        reason: String,
    },
    /// Kept outputs of which there are none that are wanted.
    #[error("nothing that was kept can be gone on from: {0}")]
    NotKept(String),
    /// The queue is full.
    #[error("the pool is busy: {reason}")]
    Busy {
        /// When to come back.
        retry_after: Duration,
        /// Why.
        reason: String,
    },
    /// The deadline passed.
    #[error("not answered in time: {0}")]
    TimedOut(String),
    /// The caller gave it up.
    #[error("cancelled")]
    Cancelled,
    /// Every attempt failed.
    #[error("failed after {attempts} attempts: {reason}")]
    Failed {
        /// How many attempts were made.
        attempts: u32,
        /// Each attempt's reason.
        reason: String,
    },
    /// No worker may serve it.
    #[error("{0}")]
    NoWorker(String),
    /// An answer came whose tensors are not what the program gives.
    #[error("the answer of {worker} does not fit: {reason}")]
    Answer {
        /// The worker.
        worker: String,
        /// What is wrong.
        reason: String,
    },
    /// The pool has closed.
    #[error("the pool is closed")]
    Closed,
}

impl From<ImportError> for PoolError {
    fn from(error: ImportError) -> Self {
        Self::Import(Box::new(error))
    }
}

impl From<OpenError> for PoolError {
    fn from(error: OpenError) -> Self {
        Self::Metrics(Box::new(error))
    }
}

impl PoolError {
    /// An answer of a worker whose tensors are not what the program gives.
    pub(crate) fn unfit(worker: WorkerId, source: &RequestError) -> Self {
        Self::Answer { worker: worker.to_string(), reason: source.to_string() }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            PoolError::Store(e) => e.hint(),
            PoolError::Refs(e) => e.hint(),
            PoolError::Metrics(e) => e.hint().map(str::to_owned),
            PoolError::Import(e) => e.hint(),
            PoolError::Model { source, .. } => source.hint(),
            PoolError::NoBrowser { kind, .. } => {
                Some(format!("install {kind}, or name its program in {}", kind.override_variable()))
            }
            PoolError::NoRuntime => Some("run `cargo xtask build-web`, then build this program again".to_owned()),
            PoolError::UnknownModel { .. } => {
                Some("add one with `tabpool models add`, or name a model's folder".to_owned())
            }
            PoolError::Busy { retry_after, .. } => Some(format!("try again in {retry_after:?}")),
            PoolError::NotLoopback(_) => {
                Some("listen on 127.0.0.1, and let tabs of other machines join from an endpoint".to_owned())
            }
            PoolError::Endpoint(e) => e.hint().map(str::to_owned),
            _ => None,
        }
    }
}
