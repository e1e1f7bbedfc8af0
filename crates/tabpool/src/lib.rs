//! AI models on a pool of web browsers.
//!
//! An [`Accelerator`] starts browsers (or takes a native worker where there is none), ships models to them
//! block by block, and runs them there with WebGPU, WebNN or on the processor. A model is named by a person, kept in a
//! [`Library`], and asked for by one call; what comes back are tensors, or [`Embeddings`] of texts.
//!
//! ```no_run
//! use tabpool::{Accelerator, Platform};
//!
//! # async fn example() -> Result<(), tabpool::Error> {
//! let accelerator = Accelerator::builder().data_dir("/var/lib/tabpool").build().await?;
//! let model = accelerator.accelerate_model("all-MiniLM-L6-v2").platform(Platform::WebGpu).await?;
//! let embeddings = model.embed(&["A man is eating food.", "Someone has a meal."]).await?;
//! let cosines = embeddings.similarity().expect("two rows of one length");
//! println!("{} numbers a text, cosine {}", embeddings.dimension(), cosines.to_f32()?[1]);
//! accelerator.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Underneath is a [`ResourcePool`]: workers, placement, replay of what a lost browser held, and measurements in DuckDB.
//! It can be had alone, and so can each crate below it; what is re-exported here by name is what most programs need.
//!
//! Nothing here reads the environment but [`SearchPaths::from_env`] and [`HubClient::from_env`], and nothing prints.

mod accelerator;
mod choice;
mod embeddings;
mod error;
mod generate;
mod library;
mod model;
mod origin;

pub use accelerator::{Accelerate, Accelerator, AcceleratorBuilder, Platform};
pub use choice::{ChoiceError, workers_for};
pub use embeddings::{EmbeddingRun, Embeddings};
pub use error::Error;
pub use generate::{
    Finish, GenerateOptions, GeneratedText, GenerationFigures, TextGeneration, TextPiece, TokenGeneration, TokenPrompt,
    Tokens,
};
pub use library::{AddProgress, Added, Freed, InUse, Library, LibraryError, Listed, Resolved, Stage, Summary};
pub use model::Model;

pub use tabpool_browser::{BrowserKind, Discovery, GpuMode, SearchPaths, discover};
pub use tabpool_content::Cid;
pub use tabpool_hub::{HubClient, HubError, HubModel};
pub use tabpool_models::{Dim, GenerationDefaults, InputSpec, OutputSpec, Signature};
pub use tabpool_pipelines::chat;
pub use tabpool_pipelines::{Sampling, TextEncoder, TokenRule, cosine_similarity, similarity_matrix};
pub use tabpool_pool::{
    Answer, ModelHandle, ModelKind, ModelRequest, ParseTargetError, PoolBuilder, PoolError, PoolEvent, PoolMetrics,
    Profile, ResourcePool, Target, Timing, TuningPolicy, WorkerId, WorkerSpec, WorkerState, WorkerView,
};
pub use tabpool_protocol::{AdapterInfo, ApiKind, ApiReport, Capabilities, LoadStats, TunedClass};
pub use tabpool_scheduler::WorkerKind;
pub use tabpool_tensor::{DType, Precision, Shape, Tensor, TensorError};
