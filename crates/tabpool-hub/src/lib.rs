//! Downloads of model folders from a Hugging Face compatible hub.
//!
//! One model, one folder: the client asks the hub which files a revision has, picks those that a model needs here (its
//! configuration, its tokenizer, its safetensors), and fetches them under the commit the hub named, so that a branch
//! that moves meanwhile cannot mix two versions. A download that was cut off goes on where it stopped; every file is held against
//! the hash the hub gave before it gets its name.
//!
//! ```no_run
//! use tabpool_hub::{HubClient, HubModel};
//!
//! # async fn download() -> Result<(), Box<dyn std::error::Error>> {
//! let client = HubClient::from_env()?;
//! let model: HubModel = "hf:sentence-transformers/all-MiniLM-L6-v2".parse()?;
//! let folder = std::path::Path::new("models/minilm");
//! let downloaded = client
//!     .download(&model, folder, &mut |progress| println!("{} {}/{}", progress.file, progress.done, progress.total))
//!     .await?;
//! println!("commit {}", downloaded.commit);
//! # Ok(())
//! # }
//! ```
//!
//! The environment is read by [`HubClient::from_env`] and [`HubClientBuilder::environment`] and nowhere else. The crate
//! knows nothing of blocks, CIDs or workers: what to do with the folder is its caller's business.

mod client;
mod digest;
mod download;
mod error;
mod listing;
mod model;
mod part;

pub use client::{HubClient, HubClientBuilder};
pub use download::{Downloaded, Progress};
pub use error::HubError;
pub use listing::{Listing, RemoteFile};
pub use model::HubModel;
