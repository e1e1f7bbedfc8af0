//! Pictures to a model's `pixel_values`: decoding, Pillow's resampling, and what image processors do around it.
//!
//! [`Picture::decode`] turns a file's bytes into 8-bit RGB as the pipelines of transformers load pictures; an
//! [`ImageProcessor`], read from a model's `preprocessor_config.json`, turns pictures into `f32 [batch, 3, height, width]`.
//! The numbers are those of the Pillow-based processors, to the last bit where the decoder is exact.

mod decode;
mod processor;
mod resize;

pub use decode::{MAX_PICTURE_BYTES, MAX_PIXELS, Picture};
pub use processor::{ImageProcessor, MAX_BATCH_VALUES};
pub use resize::Resampling;

use tabpool_tensor::TensorError;

use crate::ConfigError;

/// Why pictures cannot be turned into a model's inputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The processor's configuration is missing, unreadable, or asks for what is not supported.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file is larger than any picture that makes sense.
    #[error("the picture's file has {bytes} bytes, more than the {limit} allowed")]
    FileTooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// The bytes are no picture of a known format, or a damaged one.
    #[error("the picture cannot be decoded: {reason}")]
    Decode {
        /// What the decoder says.
        reason: String,
    },
    /// A picture has no pixels, or more than are allowed.
    #[error("{what} has {width} x {height} pixels; 1 to {limit} are allowed")]
    Size {
        /// Which picture: the one given, or the one that was asked for.
        what: &'static str,
        /// Columns.
        width: u64,
        /// Rows.
        height: u64,
        /// The most pixels.
        limit: u64,
    },
    /// Bytes given as pixels are not three for each.
    #[error("{width} x {height} RGB pixels are {want} bytes, not {got}")]
    Pixels {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes of that many pixels.
        want: usize,
        /// Bytes given.
        got: usize,
    },
    /// There is no picture.
    #[error("there are no pictures to process")]
    NoPictures,
    /// Pictures of one batch come out in different sizes.
    #[error(
        "picture {position} comes out {width} x {height}, the first one {first_width} x {first_height}: they fit no batch"
    )]
    Sizes {
        /// Which picture.
        position: usize,
        /// Its columns.
        width: usize,
        /// Its rows.
        height: usize,
        /// The first picture's columns.
        first_width: usize,
        /// The first picture's rows.
        first_height: usize,
    },
    /// A batch is larger than what is held in memory at once.
    #[error("{pictures} pictures are {values} numbers, more than the {limit} of one batch")]
    BatchTooLarge {
        /// Pictures given.
        pictures: usize,
        /// Numbers they come to.
        values: u64,
        /// The most of one batch.
        limit: usize,
    },
    /// A tensor contradicts itself.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}
