//! Short-time Fourier transforms into mel bands: `spectrogram` of transformers, centred, under a periodic Hann window.

use std::f64::consts::PI;
use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex};

use super::AudioError;
use super::mel::MelFilters;

/// The least power of a band, so that silence has a logarithm.
const FLOOR: f64 = 1e-10;

/// The transform of one model's frames.
#[derive(Clone)]
pub(super) struct Spectrogram {
    window: Vec<f64>,
    hop: usize,
    transform: Arc<dyn RealToComplex<f64>>,
}

impl std::fmt::Debug for Spectrogram {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = formatter.debug_struct("Spectrogram");
        fields.field("frame", &self.window.len()).field("hop", &self.hop).finish_non_exhaustive()
    }
}

impl Spectrogram {
    /// Frames of `frame` samples, one every `hop`.
    #[expect(clippy::cast_precision_loss, reason = "frames are short")]
    pub(super) fn new(frame: usize, hop: usize) -> Self {
        let hann = |i: usize| 0.5 - 0.5 * (2.0 * PI * i as f64 / frame as f64).cos();
        let transform = RealFftPlanner::new().plan_fft_forward(frame);
        Self { window: (0..frame).map(hann).collect(), hop, transform }
    }

    /// How many frames this many samples have.
    pub(super) fn frames(&self, samples: usize) -> usize {
        1 + samples / self.hop
    }

    /// For each frame, the logarithm to base ten of the power in each band, band by band: `[frames, bands]`. The sound is mirrored at
    /// both ends, so it must be longer than half a frame.
    pub(super) fn log_mel(&self, samples: &[f32], filters: &MelFilters) -> Result<Vec<f64>, AudioError> {
        let frame = self.window.len();
        let half = frame / 2;
        if samples.len() <= half {
            let reason = format!("{} samples cannot be mirrored for frames of {frame}", samples.len());
            return Err(AudioError::Transform { reason });
        }
        let (mut buffer, mut spectrum) = (self.transform.make_input_vec(), self.transform.make_output_vec());
        let mut scratch = self.transform.make_scratch_vec();
        let mut power = vec![0.0; spectrum.len()];
        let frames = self.frames(samples.len());
        let mut out = Vec::with_capacity(frames * filters.len());
        for index in 0..frames {
            let start = (index * self.hop).cast_signed() - half.cast_signed();
            for (offset, (value, window)) in buffer.iter_mut().zip(&self.window).enumerate() {
                *value = f64::from(samples[mirrored(start + offset.cast_signed(), samples.len())]) * window;
            }
            self.transform
                .process_with_scratch(&mut buffer, &mut spectrum, &mut scratch)
                .map_err(|e| AudioError::Transform { reason: e.to_string() })?;
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                // The reference keeps the spectrum in single precision and squares in double.
                let (re, im) = (rounded(bin.re), rounded(bin.im));
                *power = re * re + im * im;
            }
            out.extend(filters.apply(&power).map(|p| p.max(FLOOR).log10()));
        }
        Ok(out)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
fn rounded(value: f64) -> f64 {
    f64::from(value as f32)
}

/// The sample that stands at this place of a sound mirrored at its ends, which are not repeated.
fn mirrored(at: isize, len: usize) -> usize {
    let at = at.unsigned_abs();
    if at < len { at } else { (2 * (len - 1)).saturating_sub(at) }
}
