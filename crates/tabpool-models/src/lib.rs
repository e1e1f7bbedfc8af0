//! Hugging Face model folders into tabpool programs.
//!
//! A [`Model`] is what a folder of the content layer says it is: `config.json` names the architecture and its sizes,
//! `*.safetensors` the weights, and sentence-transformers' `modules.json` how token vectors become one vector a text.
//! Opening a model reads those small files and the headers only, never a weight, and checks every tensor the
//! architecture needs. For a [`Bucket`] of shapes a model then gives a [`Program`](tabpool_graph::Program): a static graph,
//! optimised, whose weights are named by the blocks that hold them. Workers run programs and know nothing of families.
//!
//! What goes in and comes out is in the [`Signature`], under the names that the model's authors use; requests are
//! checked against it, padded to a bucket and cut back by [`Model::prepare`].
//!
//! A model has one or more *entry points* ([`Model::entries`]): the model as a whole, and where there is use for them its
//! parts, as the text and the vision tower of CLIP. A model that says one token after another has a [`Generation`] besides,
//! with programs that keep what they read in states.
//!
//! A family is a file under `families/` that reads its configuration into a type which refuses what it does not know, and
//! builds graphs of the blocks in `blocks/`; the table in `family.rs` names them all. There is no arithmetic here and no
//! text: the first is the engine's, the second the pipelines'.
//!
//! ```no_run
//! use tabpool_content::{Cid, MemoryStore};
//! use tabpool_models::Model;
//! use tabpool_tensor::Tensor;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (store, root) = (MemoryStore::new(1 << 30), Cid::default());
//! let model = Model::open(&store, &root)?;
//! let ids = Tensor::from_i64([1, 4], vec![101, 7592, 2088, 102])?;
//! let outputs = vec!["sentence_embedding".to_owned()];
//! let request = model.prepare(&[("input_ids".to_owned(), ids)], &outputs)?;
//! let program = model.program(request.bucket, &["sentence_embedding"])?;
//! // A worker runs `program` on `request.tensors`; `request.crop.apply` cuts what comes back to one row.
//! # Ok(())
//! # }
//! ```

mod batch;
mod blocks;
mod bucket;
mod comparison;
mod defaults;
mod error;
mod families;
mod family;
mod fields;
mod generation;
mod kept;
mod merge;
mod model;
mod relative;
mod safetensors;
mod sentence;
mod signature;
mod weights;

pub use batch::{Crop, Prepared};
pub use bucket::Bucket;
pub use comparison::Comparison;
pub use defaults::GenerationDefaults;
pub use error::{ModelError, RequestError};
pub use generation::{Choice, Generation, MAX_CANDIDATES, Plan, Slot, Stage};
pub use kept::{Continued, KeptOutputs};
pub use merge::Merged;
pub use model::{EntryPoint, Model};
pub use signature::{Absent, Dim, InputSpec, OutputSpec, Signature};
