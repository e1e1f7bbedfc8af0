//! Whisper's log-mel spectrogram, after `WhisperFeatureExtractor` of transformers.
//!
//! Slaney filters up to 8 kHz; logarithms to base ten, none more than 8 below the sound's largest; then `(x + 4) / 4`.
//! Sounds are cut or padded to the model's window of (nearly always) 30 seconds; longer ones are cut into windows.

use super::mel::{MelFilters, Scale};
use super::spectrogram::Spectrogram;
use super::{AudioError, Sound};
use crate::ConfigError;
use crate::config::Options;

/// A part of a long sound, as long as the model's window or, at the end, shorter.
#[derive(Clone, Debug, PartialEq)]
pub struct SoundWindow {
    /// The sound, at the model's rate.
    pub sound: Sound,
    /// Where it begins in the whole sound, in seconds.
    pub start_s: f64,
    /// How many of the window's frames hold sound: the rest is padding. Time stamps beyond them stand for nothing.
    pub frames: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Whisper {
    pub(super) rate: u32,
    samples: usize,
    hop: usize,
    padding: f32,
    filters: MelFilters,
    spectrogram: Spectrogram,
}

impl Whisper {
    pub(super) fn of(options: &Options) -> Result<Self, ConfigError> {
        let rate = super::processor::rate(options, 16_000)?;
        let frame = options.count("n_fft", 400, 1 << 16)?;
        let hop = options.count("hop_length", 160, 1 << 16)?;
        let samples = options.count("chunk_length", 30, 600)? * rate as usize;
        let bands = options.count("feature_size", 80, 1024)?;
        if options.number("dither", 0.0)? != 0.0 {
            return Err(options.refuse("dither", "which adds noise at random and is not supported"));
        }
        if options.flag("return_attention_mask", false)? {
            return Err(options.refuse("return_attention_mask", "which is not supported for Whisper"));
        }
        if frame < 2 || samples <= frame / 2 || samples < hop {
            return Err(options.refuse("n_fft", "or hop_length is longer than the window of chunk_length"));
        }
        let filters = MelFilters::new(Scale::Slaney, bands, frame / 2 + 1, rate, (0.0, 8000.0));
        let padding = super::processor::padding(options)?;
        Ok(Self { rate, samples, hop, padding, filters, spectrogram: Spectrogram::new(frame, hop) })
    }

    /// Of one sound: bands, frames.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.filters.len(), self.samples / self.hop]
    }

    /// `[bands, frames]` of a sound at the model's rate.
    #[expect(clippy::cast_possible_truncation, reason = "the reference rounds to f32 here")]
    pub(super) fn features(&self, samples: &[f32]) -> Result<Vec<f32>, AudioError> {
        let mut padded = samples[..samples.len().min(self.samples)].to_vec();
        padded.resize(self.samples, self.padding);
        let mut rows = self.spectrogram.log_mel(&padded, &self.filters)?;
        let [bands, frames] = self.shape();
        // The last frame, centred on the end, is left out.
        rows.truncate(frames * bands);
        let largest = rows.iter().copied().fold(f64::MIN, f64::max) as f32;
        let value = |value: f64| ((value as f32).max(largest - 8.0) + 4.0) / 4.0;
        Ok((0..bands).flat_map(|band| rows[band..].iter().step_by(bands).map(|&v| value(v))).collect())
    }

    /// The parts of a sound at the model's rate.
    #[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^52")]
    pub(super) fn windows(&self, sound: &Sound) -> Result<Vec<SoundWindow>, AudioError> {
        let part = |(index, samples): (usize, &[f32])| {
            Ok(SoundWindow {
                sound: Sound::from_samples(self.rate, samples.to_vec())?,
                start_s: (index * self.samples) as f64 / f64::from(self.rate),
                frames: samples.len().div_ceil(self.hop).min(self.shape()[1]),
            })
        };
        sound.samples().chunks(self.samples).enumerate().map(part).collect()
    }
}
