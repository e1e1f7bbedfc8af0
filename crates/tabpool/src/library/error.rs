//! What can go wrong with a library, and what to do about it.

use std::path::PathBuf;

use tabpool_content::{GarbageError, ImportError, RefError, StoreError};
use tabpool_hub::HubError;
use tabpool_models::ModelError;

/// Why a model could not be added, found, listed or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// Neither a name in the library nor a folder.
    #[error("there is no model {name:?}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The folder cannot be looked at.
    #[error("cannot open the folder {}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The folder has no name of its own that could be the model's.
    #[error("{} has no name that a model could take", folder.display())]
    Nameless {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder could not be stored.
    #[error("cannot add {}", folder.display())]
    Import {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: Box<ImportError>,
    },
    /// The folder is stored but holds no model that can be run.
    #[error("{place} is not a model that can be run")]
    Model {
        /// The folder, or its CID.
        place: String,
        /// Why.
        source: Box<ModelError>,
    },
    /// The download failed.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The blocks cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The names cannot be read or written.
    #[error(transparent)]
    Refs(#[from] RefError),
    /// Garbage could not be collected.
    #[error("cannot free the blocks of removed models")]
    Garbage(#[from] GarbageError),
    /// The lock that adding and collecting share cannot be had.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The program is ending while a model is being added.
    #[error("adding {} was interrupted", folder.display())]
    Interrupted {
        /// The folder.
        folder: PathBuf,
    },
}

impl LibraryError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { name, .. } if name.starts_with("hf:") => {
                Some(format!("add it first: tabpool models add {name}"))
            }
            Self::Unknown { known, .. } if known.is_empty() => Some(
                "name a model's folder, or add a model: tabpool models add hf:sentence-transformers/all-MiniLM-L6-v2"
                    .to_owned(),
            ),
            Self::Unknown { known, .. } => {
                const SHOWN: usize = 8;
                let more = if known.len() > SHOWN { ", …" } else { "" };
                let known = known[..known.len().min(SHOWN)].join(", ");
                Some(format!("known are {known}{more}; others come from a folder or by tabpool models add"))
            }
            Self::Nameless { .. } => Some("give a name with --name".to_owned()),
            Self::Folder { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("a model on a hub is named hf:org/name".to_owned())
            }
            Self::Import { source, .. } => source.hint(),
            Self::Model { source, .. } => source.hint(),
            Self::Hub(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Refs(error) => error.hint(),
            Self::Garbage(GarbageError::Store(error)) => error.hint(),
            Self::Interrupted { .. } => Some("run the same again: what was done is kept".to_owned()),
            _ => None,
        }
    }
}
