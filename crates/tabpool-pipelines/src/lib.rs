//! What stands between people's inputs and a model's tensors, and between its tensors and people.
//!
//! | in | out |
//! |---|---|
//! | texts: [`TextEncoder`], [`Tokenizer`], [`chat`] | text as it is generated: [`TextStream`] |
//! | pictures: [`image`] | embeddings compared: [`cosine_similarity`]; classes: [`labels`] |
//! | sounds: [`audio`] | what was said: [`ctc`], [`transcript`] |
//!
//! Everything is read from the model's folder, refuses by name what it does not know, and has a bound on what it takes.
//!
//! A [`TextEncoder`] reads the tokenizer of a model's folder and turns texts into the `input_ids`, `attention_mask` and
//! `token_type_ids` that the model takes, as sentence-transformers would: trimmed, prompted where the folder says so, cut
//! to the model's length, padded to the longest of the batch. [`TextEncoder::batches`] groups many texts so that little
//! of a run is padding. Pooling and normalisation are part of the model's program; what is left for afterwards is
//! comparing embeddings ([`cosine_similarity`], [`similarity_matrix`]).
//!
//! A [`Tokenizer`] alone gives tokens and their offsets in the text, untrimmed and uncut. Nothing here runs a model or
//! touches a network.
//!
//! ```no_run
//! use tabpool_content::{Cid, Directory, MemoryStore};
//! use tabpool_models::Model;
//! use tabpool_pipelines::TextEncoder;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (store, root) = (MemoryStore::new(1 << 30), Cid::default());
//! let folder = Directory::open(&store, &root)?;
//! let model = Model::read(&folder)?;
//! let encoder = TextEncoder::read(&folder, &model)?;
//! for batch in encoder.batches(&["A man is eating food.", "Nobody hurries."], model.max_batch())? {
//!     let inputs = batch.encoded.inputs(model.signature());
//!     let request = model.prepare(&inputs, &["sentence_embedding".to_owned()])?;
//!     // Row i of what the run gives is the embedding of text batch.indices[i].
//! }
//! # Ok(())
//! # }
//! ```

pub mod audio;
mod batches;
pub mod chat;
mod config;
pub mod ctc;
mod encoder;
mod error;
mod guard;
pub mod image;
pub mod labels;
mod sampling;
mod similarity;
mod stream;
mod tokenizer;
pub mod transcript;
mod vocabulary;

pub use batches::TextBatch;
pub use config::ConfigError;
pub use encoder::{Encoded, TextEncoder};
pub use error::{SimilarityError, TextError};
pub use sampling::{Sampling, SamplingError, TokenRule};
pub use similarity::{cosine_similarity, similarity_matrix};
pub use stream::{StreamedText, TextStream};
pub use tokenizer::{SpecialTokens, Tokenized, Tokenizer};
