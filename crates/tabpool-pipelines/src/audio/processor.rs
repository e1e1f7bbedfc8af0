//! What `preprocessor_config.json` says is done to a sound, and batches of the result.

use tabpool_content::Directory;
use tabpool_models::Signature;
use tabpool_tensor::Tensor;

use super::clap::Clap;
use super::wav2vec2::Wav2Vec2;
use super::whisper::{SoundWindow, Whisper};
use super::{AudioError, Sound};
use crate::ConfigError;
use crate::config::{Options, read_processor};

/// The most numbers of one batch: a gigabyte of them.
pub const MAX_BATCH_VALUES: usize = 1 << 28;

/// A model's inputs made of sounds, named as transformers names them.
#[derive(Clone, Debug)]
pub struct AudioInputs {
    tensors: Vec<(&'static str, Tensor)>,
}

impl AudioInputs {
    /// The tensor of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(n, _)| *n == name).map(|(_, tensor)| tensor)
    }

    /// Those of the tensors that a model takes, named as it names them.
    #[must_use]
    pub fn inputs(&self, signature: &Signature) -> Vec<(String, Tensor)> {
        let taken = self.tensors.iter().filter(|(name, _)| signature.input(name).is_some());
        taken.map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect()
    }
}

#[derive(Clone, Debug)]
enum Kind {
    Whisper(Whisper),
    Clap(Clap),
    Wav2Vec2(Wav2Vec2),
}

/// Turns sounds into the inputs of Whisper, CLAP or wav2vec 2.0.
#[derive(Clone, Debug)]
pub struct AudioProcessor {
    kind: Kind,
}

impl AudioProcessor {
    /// Reads the processor of the model whose files lie under `base` (`""`, or a path that ends in `/`):
    /// `preprocessor_config.json`, or the `feature_extractor` in `processor_config.json`. Where that names none, `model_type` of
    /// `config.json` decides.
    ///
    /// # Errors
    /// [`ConfigError`] with the file and the key at fault.
    pub fn read(folder: &Directory<'_>, base: &str) -> Result<Self, ConfigError> {
        read_processor(folder, base, "feature_extractor", Self::of)
    }

    /// Reads a processor from the bytes of a `preprocessor_config.json`; errors call it `file`.
    ///
    /// # Errors
    /// [`ConfigError`] with the key at fault.
    pub fn from_json(file: &str, bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::of(&Options::parse(file, bytes)?, None)
    }

    fn of(options: &Options, model: Option<&str>) -> Result<Self, ConfigError> {
        const KEY: &str = "feature_extractor_type";
        if options.text("padding_side")?.is_some_and(|side| side != "right") {
            return Err(options.refuse("padding_side", "but padding is supported on the right only"));
        }
        let kind = match (options.text(KEY)?, model) {
            (Some("WhisperFeatureExtractor"), _) | (None, Some("whisper")) => Kind::Whisper(Whisper::of(options)?),
            (Some("ClapFeatureExtractor"), _) | (None, Some("clap")) => Kind::Clap(Clap::of(options)?),
            (Some("Wav2Vec2FeatureExtractor"), _) | (None, Some("wav2vec2")) => Kind::Wav2Vec2(Wav2Vec2::of(options)?),
            (Some(_), _) => {
                return Err(options.refuse(KEY, "which is not supported: those of Whisper, CLAP and wav2vec 2.0 are"));
            }
            (None, _) => return Err(options.refuse(KEY, "and config.json names no model whose processor is known")),
        };
        Ok(Self { kind })
    }

    /// The rate that sounds are resampled to, in Hz.
    #[must_use]
    pub fn rate_hz(&self) -> u32 {
        match &self.kind {
            Kind::Whisper(whisper) => whisper.rate,
            Kind::Clap(clap) => clap.rate,
            Kind::Wav2Vec2(wav2vec2) => wav2vec2.rate,
        }
    }

    /// The parts of a sound that a Whisper model sees one by one, none longer than its window. They follow each other without
    /// a gap and do not overlap.
    ///
    /// # Errors
    /// [`AudioError::NoWindows`] for other models; as [`Sound::resampled`].
    pub fn windows(&self, sound: &Sound) -> Result<Vec<SoundWindow>, AudioError> {
        match &self.kind {
            Kind::Whisper(whisper) => whisper.windows(&sound.resampled(whisper.rate)?),
            _ => Err(AudioError::NoWindows),
        }
    }

    /// Sounds as one batch, resampled to the model's rate.
    ///
    /// | model | tensors |
    /// |---|---|
    /// | Whisper | `input_features` `f32 [sounds, bands, frames]`; what is longer than the window is cut off |
    /// | CLAP | `input_features` `f32 [sounds, 1 or 4, frames, bands]` in decibels, `is_longer` `i32 [sounds, 1]` |
    /// | wav2vec 2.0 | `input_values` `f32 [sounds, longest]`; `attention_mask` of that shape, `i32`, where the file asks for it |
    ///
    /// # Errors
    /// [`AudioError::NoSounds`], [`AudioError::Empty`], [`AudioError::BatchTooLarge`], and as [`Sound::resampled`].
    pub fn process(&self, sounds: &[Sound]) -> Result<AudioInputs, AudioError> {
        if sounds.is_empty() {
            return Err(AudioError::NoSounds);
        }
        if let Some(position) = sounds.iter().position(|s| s.samples().is_empty()) {
            return Err(AudioError::Empty { position });
        }
        match &self.kind {
            Kind::Whisper(whisper) => {
                let [bands, frames] = whisper.shape();
                check_batch(sounds.len(), bands * frames)?;
                let mut all = Vec::with_capacity(sounds.len() * bands * frames);
                for sound in sounds {
                    all.extend(whisper.features(sound.resampled(whisper.rate)?.samples())?);
                }
                let features = Tensor::from_f32([sounds.len(), bands, frames], all)?;
                Ok(AudioInputs { tensors: vec![("input_features", features)] })
            }
            Kind::Clap(clap) => {
                let [channels, frames, bands] = clap.shape();
                check_batch(sounds.len(), channels * frames * bands)?;
                let (mut all, mut longer) = (Vec::with_capacity(sounds.len() * channels * frames * bands), Vec::new());
                for sound in sounds {
                    let features = clap.features(sound.resampled(clap.rate)?.samples())?;
                    all.extend(features.values);
                    longer.push(i32::from(features.longer));
                }
                let features = Tensor::from_f32([sounds.len(), channels, frames, bands], all)?;
                let longer = Tensor::from_i32([sounds.len(), 1], longer)?;
                Ok(AudioInputs { tensors: vec![("input_features", features), ("is_longer", longer)] })
            }
            Kind::Wav2Vec2(wav2vec2) => values(wav2vec2, sounds),
        }
    }
}

/// The samples of sounds, padded to the longest.
fn values(wav2vec2: &Wav2Vec2, sounds: &[Sound]) -> Result<AudioInputs, AudioError> {
    let sounds = sounds.iter().map(|s| s.resampled(wav2vec2.rate)).collect::<Result<Vec<_>, _>>()?;
    let longest = sounds.iter().map(|s| s.samples().len()).max().unwrap_or(0);
    check_batch(sounds.len(), longest)?;
    let (mut all, mut mask) = (Vec::with_capacity(sounds.len() * longest), Vec::new());
    for (index, sound) in sounds.iter().enumerate() {
        all.extend(wav2vec2.values(sound.samples()));
        all.resize((index + 1) * longest, wav2vec2.padding);
        if wav2vec2.mask {
            mask.resize(mask.len() + sound.samples().len(), 1);
            mask.resize((index + 1) * longest, 0);
        }
    }
    let shape = [sounds.len(), longest];
    let mut tensors = vec![("input_values", Tensor::from_f32(shape, all)?)];
    if wav2vec2.mask {
        tensors.push(("attention_mask", Tensor::from_i32(shape, mask)?));
    }
    Ok(AudioInputs { tensors })
}

fn check_batch(sounds: usize, each: usize) -> Result<(), AudioError> {
    let values = sounds as u64 * each as u64;
    if values > MAX_BATCH_VALUES as u64 {
        return Err(AudioError::BatchTooLarge { sounds, values, limit: MAX_BATCH_VALUES });
    }
    Ok(())
}

/// The model's sampling rate.
pub(super) fn rate(options: &Options, default: usize) -> Result<u32, ConfigError> {
    let rate = options.count("sampling_rate", default, 768_000)?;
    let rate = u32::try_from(rate).ok().filter(|r| *r >= 1000);
    rate.ok_or_else(|| options.refuse("sampling_rate", "not from 1000 to 768000 Hz"))
}

/// What short sounds are padded with.
#[expect(clippy::cast_possible_truncation, reason = "samples are f32")]
pub(super) fn padding(options: &Options) -> Result<f32, ConfigError> {
    Ok(options.number("padding_value", 0.0)? as f32)
}
