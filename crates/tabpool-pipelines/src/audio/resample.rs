//! Another sampling rate: a long windowed sinc, applied in blocks by the Fourier transform.
//!
//! Blocks hold a whole number of periods of both rates, so every output has its exact place between the inputs, and the filter's
//! delay is a whole number of outputs. The filter spans at least 512 samples of the slower rate, so that what lies above
//! half of it is suppressed by as much whichever way the sound goes. Resampling has no single right answer: libraries
//! differ in the last twentieth of the band.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

use super::AudioError;

/// Samples of the slower rate under the filter, at least.
const FILTER_LENGTH: u32 = 512;

/// `length` samples of a sound at another rate. Rates are not zero.
pub(super) fn resampled(samples: &[f32], from: u32, to: u32, length: usize) -> Result<Vec<f32>, AudioError> {
    if from == to || samples.is_empty() {
        return Ok(samples.to_vec());
    }
    let failed = |reason: String| AudioError::Transform { reason };
    let divisor = greatest_common_divisor(from, to);
    let (period_in, period_out) = (from / divisor, to / divisor);
    // An even number of periods, so that half of a block is a whole number of samples at both rates.
    let periods = FILTER_LENGTH.div_ceil(period_in.min(period_out)).next_multiple_of(2);
    let (block, channels, parts) = ((periods * period_in) as usize, 1, 1);
    let mut resampler = Fft::<f32>::new_custom(
        from as usize,
        to as usize,
        block,
        parts,
        channels,
        WindowFunction::BlackmanHarris2,
        FixedSync::Input,
    )
    .map_err(|e| failed(e.to_string()))?;
    let input = InterleavedSlice::new(samples, channels, samples.len()).map_err(|e| failed(e.to_string()))?;
    let output = resampler.process_all(&input, samples.len(), None).map_err(|e| failed(e.to_string()))?;
    let mut output = output.take_data();
    // The library counts in floating point, which may add or take the last sample.
    output.resize(length, 0.0);
    Ok(output)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
