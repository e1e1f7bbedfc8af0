//! Resizing exactly as Pillow does it (`src/libImaging/Resample.c`), on 8-bit values.
//!
//! Two passes, columns first: each output value is a weighted sum of the inputs under a filter that is as wide as the
//! reduction demands, with weights as integers of 22 fractional bits, and is rounded to 8 bits after each pass. Resizing in
//! floating point would differ by a level here and there, and a model would see another picture than it was trained on.
//! Nearest-neighbour resizing is Pillow's affine transform instead (`Geometry.c`), whose positions are running sums.

use std::f64::consts::PI;

/// Fractional bits of the weights: 32, less 8 for the values and 2 so that sums of negative weights fit.
const PRECISION_BITS: u32 = 22;

/// How pixels between pixels are made, with the numbers that Pillow gives the kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resampling {
    /// 0: the pixel in which the centre falls.
    Nearest,
    /// 1: three lobes of a sinc, windowed by a wider one.
    Lanczos,
    /// 2: a triangle.
    Bilinear,
    /// 3: Keys' cubic with a = -0.5.
    Bicubic,
    /// 4: the mean of what lies under the pixel.
    Box,
    /// 5: a sinc under Hamming's window, one lobe.
    Hamming,
}

impl Resampling {
    /// The kind that has this number in Pillow.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        let kinds = [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box, Self::Hamming];
        kinds.get(usize::try_from(number).ok()?).copied()
    }

    /// Half of the filter's width, in output pixels, where the picture shrinks.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The filter's value.
    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            // Not symmetric: a pixel on the border between two belongs to one of them.
            Self::Nearest | Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Hamming if distance == 0.0 => 1.0,
            Self::Hamming if distance >= 1.0 => 0.0,
            Self::Hamming => {
                let x = distance * PI;
                x.sin() / x * (0.54 + 0.46 * x.cos())
            }
            Self::Bicubic => {
                const A: f64 = -0.5;
                if distance < 1.0 {
                    ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0
                } else if distance < 2.0 {
                    (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

/// RGB pixels of one size in another. Sizes are not zero and as checked by the caller; `(width, height)`.
pub(super) fn resize(rgb: &[u8], from: (usize, usize), to: (usize, usize), resampling: Resampling) -> Vec<u8> {
    if from == to {
        return rgb.to_vec();
    }
    if resampling == Resampling::Nearest {
        return nearest(rgb, from, to);
    }
    let wide = if from.0 == to.0 { rgb.to_vec() } else { horizontal(rgb, from, to.0, resampling) };
    if from.1 == to.1 { wide } else { vertical(&wide, (to.0, from.1), to.1, resampling) }
}

/// Which inputs one output is made of.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// The windows of every output along one axis (`precompute_coeffs` and `normalize_coeffs_8bpc`).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "truncation is how the reference rounds")]
#[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^52")]
fn windows(from: usize, to: usize, resampling: Resampling) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let filter_scale = scale.max(1.0);
    let support = resampling.support() * filter_scale;
    let inverse = 1.0 / filter_scale;
    let window = |output: usize| {
        let center = (output as f64 + 0.5) * scale;
        let first = ((center - support + 0.5) as i64).max(0) as usize;
        let end = ((center + support + 0.5) as i64).clamp(0, from as i64) as usize;
        let raw: Vec<f64> =
            (first..end).map(|input| resampling.weight((input as f64 - center + 0.5) * inverse)).collect();
        let sum: f64 = raw.iter().sum();
        let fixed = |weight: &f64| {
            let weight = if sum == 0.0 { *weight } else { weight / sum } * f64::from(1u32 << PRECISION_BITS);
            (weight + 0.5f64.copysign(weight)) as i32
        };
        Window { first, weights: raw.iter().map(fixed).collect() }
    };
    (0..to).map(window).collect()
}

/// Rounds a sum of weighted values to 8 bits.
fn rounded(sum: i32) -> u8 {
    u8::try_from((sum >> PRECISION_BITS).clamp(0, 255)).unwrap_or(0)
}

/// Half of the last place, with which sums begin so that shifting rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn horizontal(rgb: &[u8], (width, height): (usize, usize), to: usize, resampling: Resampling) -> Vec<u8> {
    let windows = windows(width, to, resampling);
    let mut out = Vec::with_capacity(to * height * 3);
    for row in rgb.chunks_exact(width * 3) {
        for window in &windows {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[window.first * 3..].chunks_exact(3).zip(&window.weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
                }
            }
            out.extend(sums.map(rounded));
        }
    }
    out
}

fn vertical(rgb: &[u8], (width, _): (usize, usize), to: usize, resampling: Resampling) -> Vec<u8> {
    let stride = width * 3;
    let windows = windows(rgb.len() / stride, to, resampling);
    let mut out = Vec::with_capacity(to * stride);
    let mut sums = vec![0i32; stride];
    for window in windows {
        sums.fill(HALF);
        for (row, weight) in rgb[window.first * stride..].chunks_exact(stride).zip(&window.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
            }
        }
        out.extend(sums.iter().map(|&sum| rounded(sum)));
    }
    out
}

fn nearest(rgb: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let (columns, rows) = (positions(from.0, to.0), positions(from.1, to.1));
    let mut out = Vec::with_capacity(to.0 * to.1 * 3);
    for row in rows {
        let row = &rgb[row * from.0 * 3..][..from.0 * 3];
        for column in &columns {
            out.extend_from_slice(&row[column * 3..][..3]);
        }
    }
    out
}

/// Which input each output along an axis is. Steps are added up, with the rounding that this brings, as in the reference.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "truncation is how the reference rounds")]
#[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^52")]
fn positions(from: usize, to: usize) -> Vec<usize> {
    let step = from as f64 / to as f64;
    let mut at = step * 0.5;
    let mut next = || {
        // Rounding may bring the last position to the end, where the reference leaves black; a pixel is better.
        let position = (at as usize).min(from - 1);
        at += step;
        position
    };
    (0..to).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Resampling, resize, windows};

    #[test]
    fn weights_of_every_output_sum_to_one() {
        let kinds = (0..6).map(|n| Resampling::from_number(n).expect("six kinds"));
        for kind in kinds.filter(|k| *k != Resampling::Nearest) {
            for (from, to) in [(1, 7), (7, 1), (97, 61), (61, 97), (3, 1000), (1000, 3)] {
                for window in windows(from, to, kind) {
                    let sum: i64 = window.weights.iter().map(|&w| i64::from(w)).sum();
                    let slack = i64::try_from(window.weights.len()).expect("few");
                    assert!((sum - (1 << 22)).abs() <= slack, "{kind:?} {from} to {to}: {sum}");
                }
            }
        }
        assert_eq!(Resampling::from_number(6), None);
    }

    #[test]
    fn one_colour_stays_one_colour() {
        let rgb: Vec<u8> = [7, 255, 0].repeat(5 * 4);
        for kind in (0..6).filter_map(Resampling::from_number) {
            for to in [(1, 1), (9, 3), (5, 9), (2, 4)] {
                assert_eq!(resize(&rgb, (5, 4), to, kind), [7, 255, 0].repeat(to.0 * to.1), "{kind:?} {to:?}");
            }
        }
    }
}
