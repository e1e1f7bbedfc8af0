//! Sounds to a model's inputs: decoding, resampling, and the features of Whisper, CLAP and wav2vec 2.0.
//!
//! [`Sound::decode`] turns a file's bytes into mono samples; an [`AudioProcessor`], read from a model's
//! `preprocessor_config.json`, resamples sounds to the model's rate and gives the tensors that the model takes. Frames are
//! transformed in f64, as the NumPy code of transformers does it, and rounded to f32 where that rounds.

mod clap;
mod decode;
mod mel;
mod processor;
mod resample;
mod spectrogram;
mod wav2vec2;
mod whisper;

pub use decode::{MAX_SOUND_BYTES, MAX_SOUND_SAMPLES, Sound};
pub use processor::{AudioInputs, AudioProcessor, MAX_BATCH_VALUES};
pub use whisper::SoundWindow;

use tabpool_tensor::TensorError;

use crate::ConfigError;

/// Why sounds cannot be turned into a model's inputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AudioError {
    /// The processor's configuration is missing, unreadable, or asks for what is not supported.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file is larger than any sound that makes sense.
    #[error("the sound's file has {bytes} bytes, more than the {limit} allowed")]
    FileTooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        limit: usize,
    },
    /// The bytes are no sound of a known format, or a damaged one.
    #[error("the sound cannot be decoded: {reason}")]
    Decode {
        /// What the decoder says.
        reason: String,
    },
    /// A sound is longer than what is held in memory at once.
    #[error("the sound has at least {samples} samples, more than the {limit} allowed")]
    TooLong {
        /// Samples of one channel, counted or claimed.
        samples: u64,
        /// The most samples.
        limit: usize,
    },
    /// A sampling rate is not one of sound.
    #[error("a sampling rate of {rate} Hz is not supported: 1000 to 768000 are")]
    Rate {
        /// The rate in Hz.
        rate: u32,
    },
    /// A sample is not a number.
    #[error("sample {at} is {value}")]
    NotFinite {
        /// Which sample.
        at: usize,
        /// Its value.
        value: f32,
    },
    /// There is no sound.
    #[error("there are no sounds to process")]
    NoSounds,
    /// A sound has no samples.
    #[error("sound {position} has no samples")]
    Empty {
        /// Which sound.
        position: usize,
    },
    /// A batch is larger than what is held in memory at once.
    #[error("{sounds} sounds are {values} numbers, more than the {limit} of one batch")]
    BatchTooLarge {
        /// Sounds given.
        sounds: usize,
        /// Numbers they come to.
        values: u64,
        /// The most of one batch.
        limit: usize,
    },
    /// Windows were asked of a processor whose model takes sounds whole.
    #[error("the model takes sounds whole: only Whisper's are cut into windows")]
    NoWindows,
    /// The library failed at what should not fail.
    #[error("the sound cannot be transformed: {reason}")]
    Transform {
        /// What it says.
        reason: String,
    },
    /// A tensor contradicts itself.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}
