//! Weights on their way into place: widened to `f32` and, where they are right operands, packed as they arrive, block by
//! block, wherever blocks are cut.

use crate::gemm::TileSize;

/// How a weight is stored.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    BF16,
}

impl Stored {
    /// Bytes of an element.
    #[must_use]
    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// The way of this number, as it crosses into a module.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16].into_iter().find(|s| *s as u32 == number)
    }
}

/// How a weight that becomes a right operand lies as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// `[n, k]`, row-major: rows of so many elements.
    Of(usize),
    /// `[k, n]`, row-major, the other way round: rows of so many elements.
    Turned(usize),
}

/// Little-endian bytes as stored to `f32`; as many elements as `out` has.
pub fn widen(stored: Stored, bytes: &[u8], out: &mut [f32]) {
    match stored {
        Stored::F32 => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*b);
            }
        }
        Stored::F16 => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = widen_half(u16::from_le_bytes(*b));
            }
        }
        Stored::BF16 => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }
    }
}

/// A half as `f32`, exactly and without branches: the exponent moves to its new place by a multiplication, which makes
/// subnormal halves normal on the way; what is infinite or no number keeps the largest exponent.
#[inline(always)]
fn widen_half(half: u16) -> f32 {
    let bits = u32::from(half);
    // 2^112: the difference of the exponents' biases.
    let scaled = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((112 + 127) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (bits & 0x8000) << 16)
}

/// Where an element of a linear weight `[n, k]` lies once packed.
#[inline]
fn packed_position(columns: usize, k: usize, row: usize, column: usize) -> usize {
    row / columns * columns * k + column * columns + row % columns
}

/// Bytes as stored, which begin at element `first` of a linear weight, to their places in its packed form, all of which is
/// `out`.
pub fn pack(tile: TileSize, stored: Stored, bytes: &[u8], first: usize, rows: Rows, out: &mut [f32]) {
    match rows {
        Rows::Of(k) => pack_rows(tile, stored, bytes, first, k, out),
        Rows::Turned(n) => pack_turned(tile, stored, bytes, first, n, out),
    }
}

/// The same for rows of `n`, each of which is one step of every panel.
fn pack_turned(tile: TileSize, stored: Stored, bytes: &[u8], first: usize, n: usize, out: &mut [f32]) {
    let mut buffer = [0.0f32; 256];
    let (size, columns) = (stored.size(), tile.columns);
    let panel = out.len() / n.div_ceil(columns);
    let mut at = first;
    for chunk in bytes.chunks(buffer.len() * size) {
        let values = &mut buffer[..chunk.len() / size];
        widen(stored, chunk, values);
        let mut values = &*values;
        while !values.is_empty() {
            let (step, column) = (at / n, at % n);
            // Up to the end of the panel or of the row, whichever comes first.
            let run;
            (run, values) = values.split_at(values.len().min(columns - column % columns).min(n - column));
            let start = column / columns * panel + step * columns + column % columns;
            out[start..][..run.len()].copy_from_slice(run);
            at += run.len();
        }
    }
}

fn pack_rows(tile: TileSize, stored: Stored, bytes: &[u8], first: usize, k: usize, out: &mut [f32]) {
    let mut buffer = [0.0f32; 256];
    let size = stored.size();
    let mut at = first;
    for chunk in bytes.chunks(buffer.len() * size) {
        let values = &mut buffer[..chunk.len() / size];
        widen(stored, chunk, values);
        let mut values = &*values;
        while !values.is_empty() {
            let (row, column) = (at / k, at % k);
            let run;
            (run, values) = values.split_at(values.len().min(k - column));
            let start = packed_position(tile.columns, k, row, column);
            for (out, &v) in out[start..].iter_mut().step_by(tile.columns).zip(run) {
                *out = v;
            }
            at += run.len();
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::{Rows, Stored, pack, widen_half};
    use crate::gemm::{TileSize, packed_right_len};

    #[test]
    fn a_turned_weight_is_packed_as_the_other_one_is_wherever_it_is_cut() {
        let (n, k) = (21, 5);
        let tile = TileSize { rows: 4, columns: 8 };
        let bytes = |of: &dyn Fn(usize) -> usize| -> Vec<u8> {
            (0..n * k).flat_map(|at| (of(at) as f32).to_le_bytes()).collect()
        };
        // Element (row, column) of `[n, k]` is the number of its place there.
        let (plain, turned) = (bytes(&|at| at), bytes(&|at| at % n * k + at / n));
        let len = packed_right_len(tile, k, n);
        let mut want = vec![0.0; len];
        pack(tile, Stored::F32, &plain, 0, Rows::Of(k), &mut want);
        for cut in [0, 1, 8, 20, 21, 50, n * k] {
            let mut got = vec![0.0; len];
            pack(tile, Stored::F32, &turned[..cut * 4], 0, Rows::Turned(n), &mut got);
            pack(tile, Stored::F32, &turned[cut * 4..], cut, Rows::Turned(n), &mut got);
            assert_eq!(got, want, "cut at {cut}");
        }
    }

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let size = match exponent {
                0 => fraction / 1024.0 * 2f64.powi(-14),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
            };
            let (got, want) = (f64::from(widen_half(bits)), if sign == 1 { -size } else { size });
            assert!(got == want && got.is_sign_negative() == want.is_sign_negative() || got.is_nan() && want.is_nan());
        }
    }
}
