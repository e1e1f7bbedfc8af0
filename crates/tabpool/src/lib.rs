//! AI models on a pool of web browsers.
//!
//! An [`Accelerator`] starts browsers (or takes a native worker where there is none), ships models to them
//! block by block, and runs them there with WebGPU, WebNN or on the processor. A model is named by a person, kept in a
//! [`Library`], and asked for by one call. A [`Model`] runs on tensors, and does what it was trained for with texts, pictures
//! and sounds:
//!
//! | from | to | method of [`Model`] |
//! |---|---|---|
//! | texts, pictures, sounds | vectors | [`embed`](Model::embed), [`embed_images`](Model::embed_images), [`embed_sounds`](Model::embed_sounds), [`similarity`](Model::similarity) |
//! | texts, pictures | classes | [`classify_texts`](Model::classify_texts), [`classify_images`](Model::classify_images) |
//! | texts, pictures, sounds | a caller's own classes | [`zero_shot`](Model::zero_shot) |
//! | texts | what single tokens are | [`find_entities`](Model::find_entities), [`answer_questions`](Model::answer_questions), [`fill_masks`](Model::fill_masks) |
//! | a query and documents | the documents in order | [`rerank`](Model::rerank) |
//! | a sound | what was said | [`transcribe`](Model::transcribe) |
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
mod classify;
mod embed;
mod embeddings;
mod error;
mod generate;
mod library;
mod media;
mod model;
mod origin;
mod rerank;
mod runs;
mod tokens;
mod transcribe;
mod zero_shot;

pub use accelerator::{Accelerate, Accelerator, AcceleratorBuilder, Platform};
pub use choice::{ChoiceError, workers_for};
pub use embeddings::Embeddings;
pub use error::Error;
pub use generate::{
    Finish, GenerateOptions, GeneratedText, GenerationFigures, TextGeneration, TextPiece, TokenGeneration, TokenPrompt,
    Tokens,
};
pub use library::{AddProgress, Added, Freed, InUse, Library, LibraryError, Listed, Resolved, Stage, Summary};
pub use model::Model;
pub use rerank::Ranked;
pub use runs::{Answers, Run};
pub use tokens::Span;
pub use transcribe::{TranscribeOptions, Transcription, Word};
pub use zero_shot::ZeroShot;

pub use tabpool_browser::{BrowserKind, Discovery, GpuMode, SearchPaths, discover};
pub use tabpool_content::Cid;
pub use tabpool_hub::{HubClient, HubError, HubModel};
pub use tabpool_models::{Dim, GenerationDefaults, InputSpec, OutputSpec, Signature};
pub use tabpool_pipelines::audio::{AudioError, AudioProcessor, MAX_SOUND_BYTES, Sound};
pub use tabpool_pipelines::chat;
pub use tabpool_pipelines::image::{ImageError, ImageProcessor, MAX_PICTURE_BYTES, Picture};
pub use tabpool_pipelines::labels::{Labels, ScoredLabel, Scores};
pub use tabpool_pipelines::transcript::{Segment, Transcript};
pub use tabpool_pipelines::whisper::{Task, Timestamps};
pub use tabpool_pipelines::{
    Sampling, SamplingError, SimilarityError, SpecialTokens, TextEncoder, TextError, TokenRule, Tokenizer,
    cosine_similarity, similarity_matrix,
};
pub use tabpool_pool::{
    Answer, Batching, Checking, EndpointError, JoinEndpoint, JoinError, JoinOptions, JoinTicket, Keeping, Kept,
    ModelHandle, ModelKind, ModelRequest, ParseTargetError, PoolBuilder, PoolError, PoolEvent, PoolMetrics, Profile,
    ResourcePool, Revocation, ScalingConfig, Target, TicketId, Timing, TuningPolicy, WorkerId, WorkerSpec, WorkerState,
    WorkerView,
};
pub use tabpool_protocol::{AdapterInfo, ApiKind, ApiReport, Capabilities, LoadStats, TunedClass};
pub use tabpool_scheduler::WorkerKind;
pub use tabpool_tensor::{DType, Precision, Shape, Tensor, TensorError};
