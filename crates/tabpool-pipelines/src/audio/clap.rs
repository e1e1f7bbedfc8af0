//! CLAP's log-mel spectrogram in decibels, after `ClapFeatureExtractor` of transformers.
//!
//! Short sounds are repeated, padded or both to `max_length_s`. Of long ones the reference takes a part at random
//! (`rand_trunc`), or stacks a shrunken spectrogram of the whole with three parts at random, one from each third
//! (`fusion`). Here parts lie in the middle of where they may lie, so that equal sounds have equal features.

use super::AudioError;
use super::mel::{MelFilters, Scale};
use super::spectrogram::Spectrogram;
use crate::ConfigError;
use crate::config::Options;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Padding {
    Repeat,
    RepeatPad,
    Pad,
}

#[derive(Clone, Debug)]
pub(super) struct Clap {
    pub(super) rate: u32,
    samples: usize,
    hop: usize,
    fusion: bool,
    padding: Padding,
    filters: MelFilters,
    spectrogram: Spectrogram,
}

/// One sound's features.
pub(super) struct ClapFeatures {
    /// `[channels, frames, bands]`.
    pub(super) values: Vec<f32>,
    /// Whether the sound did not fit, or counts as if it did not.
    pub(super) longer: bool,
}

impl Clap {
    pub(super) fn of(options: &Options) -> Result<Self, ConfigError> {
        let rate = super::processor::rate(options, 48_000)?;
        let frame = options.count("fft_window_size", 1024, 1 << 16)?;
        let hop = options.count("hop_length", 480, 1 << 16)?;
        let bands = options.count("feature_size", 64, 1024)?;
        let seconds = options.number("max_length_s", 10.0)?;
        let samples = seconds * f64::from(rate);
        if samples.fract() != 0.0 || !(1.0..=600.0).contains(&seconds) {
            return Err(options.refuse("max_length_s", "not from 1 to 600 seconds of whole samples"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number of this range")]
        let samples = samples as usize;
        if frame < 2 || samples <= frame / 2 {
            return Err(options.refuse("fft_window_size", "too long for max_length_s, or no window"));
        }
        let (low, high) = (options.number("frequency_min", 0.0)?, options.number("frequency_max", 14_000.0)?);
        if low < 0.0 || high <= low {
            return Err(options.refuse("frequency_max", "not above frequency_min"));
        }
        let fusion = match options.text("truncation")? {
            None | Some("fusion") => true,
            Some("rand_trunc") => false,
            Some(_) => return Err(options.refuse("truncation", "neither \"fusion\" nor \"rand_trunc\"")),
        };
        let padding = match options.text("padding")? {
            None | Some("repeatpad") => Padding::RepeatPad,
            Some("repeat") => Padding::Repeat,
            Some("pad") => Padding::Pad,
            Some(_) => return Err(options.refuse("padding", "none of \"repeatpad\", \"repeat\" and \"pad\"")),
        };
        let scale = if fusion { Scale::Htk } else { Scale::Slaney };
        let filters = MelFilters::new(scale, bands, frame / 2 + 1, rate, (low, high));
        Ok(Self { rate, samples, hop, fusion, padding, filters, spectrogram: Spectrogram::new(frame, hop) })
    }

    /// Of one sound: channels, frames, bands.
    pub(super) fn shape(&self) -> [usize; 3] {
        [if self.fusion { 4 } else { 1 }, self.samples / self.hop + 1, self.filters.len()]
    }

    /// The features of a sound at the model's rate that is not empty.
    pub(super) fn features(&self, samples: &[f32]) -> Result<ClapFeatures, AudioError> {
        let over = samples.len().saturating_sub(self.samples);
        match (self.fusion, over > 0) {
            (false, false) => Ok(ClapFeatures { values: self.decibels(&self.filled(samples))?, longer: false }),
            (false, true) => {
                let part = &samples[over / 2..][..self.samples];
                Ok(ClapFeatures { values: self.decibels(part)?, longer: true })
            }
            // The reference calls one sound of a batch longer if none is: alone, each counts as longer.
            (true, false) => Ok(ClapFeatures { values: self.decibels(&self.filled(samples))?.repeat(4), longer: true }),
            (true, true) => self.fused(&self.decibels(samples)?),
        }
    }

    /// A short sound, filled up.
    fn filled(&self, samples: &[f32]) -> Vec<f32> {
        let mut filled = match self.padding {
            Padding::Pad => samples.to_vec(),
            Padding::RepeatPad => samples.repeat(self.samples / samples.len()),
            Padding::Repeat => samples.repeat(self.samples / samples.len() + 1),
        };
        filled.resize(self.samples, 0.0);
        filled
    }

    /// `[frames, bands]` in decibels.
    #[expect(clippy::cast_possible_truncation, reason = "the reference rounds to f32 here")]
    fn decibels(&self, samples: &[f32]) -> Result<Vec<f32>, AudioError> {
        let rows = self.spectrogram.log_mel(samples, &self.filters)?;
        Ok(rows.into_iter().map(|v| (10.0 * v) as f32).collect())
    }

    /// The whole of a long sound shrunken, and a part from each third.
    fn fused(&self, mel: &[f32]) -> Result<ClapFeatures, AudioError> {
        let [_, frames, bands] = self.shape();
        let total = mel.len() / bands;
        if total == frames {
            return Ok(ClapFeatures { values: mel.repeat(4), longer: true });
        }
        let mut values = shrunken(mel, bands, frames);
        for start in starts(total - frames + 1) {
            values.extend_from_slice(&mel[start * bands..][..frames * bands]);
        }
        Ok(ClapFeatures { values, longer: true })
    }
}

/// The middle of each third of `0..count`, cut as `numpy.array_split` cuts; zero for a third that is empty.
fn starts(count: usize) -> [usize; 3] {
    let mut begin = 0;
    std::array::from_fn(|third| {
        let size = count / 3 + usize::from(third < count % 3);
        let start = if size == 0 { 0 } else { begin + (size - 1) / 2 };
        begin += size;
        start
    })
}

/// Rows interpolated linearly between their centres, as PyTorch's `interpolate` does without aligned corners.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positions are small and not negative")]
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn shrunken(rows: &[f32], width: usize, count: usize) -> Vec<f32> {
    let total = rows.len() / width;
    let scale = total as f32 / count as f32;
    let mut out = Vec::with_capacity(count * width);
    for index in 0..count {
        let at = ((index as f32 + 0.5) * scale - 0.5).max(0.0);
        let first = (at as usize).min(total - 1);
        let second = (first + 1).min(total - 1);
        let share = at - first as f32;
        let pair = rows[first * width..][..width].iter().zip(&rows[second * width..][..width]);
        out.extend(pair.map(|(a, b)| a * (1.0 - share) + b * share));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{shrunken, starts};

    #[test]
    fn parts_lie_in_the_middle_of_each_third() {
        assert_eq!(starts(9), [1, 4, 7]);
        assert_eq!(starts(10), [1, 5, 8]);
        assert_eq!(starts(2), [0, 1, 0]);
        assert_eq!(starts(1), [0, 0, 0]);
    }

    /// Five rows onto three: the centres lie at 1/3, 2 and 3 2/3.
    #[test]
    fn rows_are_interpolated_between_their_centres() {
        let got = shrunken(&[0.0, 1.0, 4.0, 9.0, 16.0], 1, 3);
        for (got, want) in got.iter().zip([1.0 / 3.0, 4.0, 13.666_667]) {
            assert!((got - want).abs() < 1e-5, "{got} is not {want}");
        }
    }
}
