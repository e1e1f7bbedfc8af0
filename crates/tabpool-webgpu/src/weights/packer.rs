//! Makes panels of 16-bit or 8-bit numbers out of a weight's elements while they arrive.
//!
//! Elements come in the order they are stored, cut anywhere; sixteen rows of the weight are one panel, so no more than that
//! waits here, whatever the weight's size. It is done on the processor and not on the device: two numbers of one word are of
//! two different rows there, a column's scale wants all of a row, and what does not fit the format has to be known before
//! the weight is used.

use half::{bf16, f16};
use tabpool_tensor::{DType, Precision};

use crate::kernels::gemm::{PANEL, Panels};

/// How many bytes of finished panels are written at once, at least.
const WRITTEN_AT_ONCE: usize = 256 << 10;

/// The largest whole number of 8 bits that has its negative.
const MOST: f32 = 127.0;

/// See the module's documentation.
pub(crate) struct Packer {
    panels: Panels,
    stored: DType,
    /// The length of a row of the weight.
    k: usize,
    /// The rows of the panel that is being filled.
    rows: Vec<f32>,
    filled: usize,
    /// Finished panels that were not written yet, and where they go.
    finished: Vec<u8>,
    written: u64,
    scales: Vec<f32>,
    fits: bool,
}

impl Packer {
    /// A packer of a weight `[n, k]` whose elements are `stored`.
    pub(crate) fn new(precision: Precision, stored: DType, n: usize, k: usize) -> Self {
        Self {
            panels: Panels::of(precision, n, k),
            stored,
            k,
            rows: vec![0.0; PANEL * k],
            filled: 0,
            finished: Vec::new(),
            written: 0,
            scales: Vec::new(),
            fits: true,
        }
    }

    /// Takes the next elements, whole ones, and writes the panels they finish: each time an offset and bytes.
    pub(crate) fn push(&mut self, bytes: &[u8], write: &mut impl FnMut(u64, &[u8])) {
        match self.stored {
            DType::F16 => self.take(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()), write),
            DType::BF16 => self.take(bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()), write),
            _ => self.take(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])), write),
        }
    }

    fn take(&mut self, mut elements: impl ExactSizeIterator<Item = f32>, write: &mut impl FnMut(u64, &[u8])) {
        while elements.len() > 0 {
            let to = &mut self.rows[self.filled..];
            let count = to.len().min(elements.len());
            for (to, element) in to.iter_mut().zip(elements.by_ref().take(count)) {
                *to = element;
            }
            self.filled += count;
            if self.filled == self.rows.len() {
                self.finish_panel();
                if self.finished.len() >= WRITTEN_AT_ONCE {
                    self.write_finished(write);
                }
            }
        }
    }

    /// Writes what is left. Says whether every element fits the format; where one does not, the weight must not be used.
    pub(crate) fn finish(mut self, write: &mut impl FnMut(u64, &[u8])) -> bool {
        if self.filled > 0 {
            self.rows[self.filled..].fill(0.0);
            self.finish_panel();
        }
        self.finished.extend(self.scales.iter().flat_map(|s| s.to_le_bytes()));
        self.write_finished(write);
        self.fits
    }

    fn write_finished(&mut self, write: &mut impl FnMut(u64, &[u8])) {
        write(self.written, &self.finished);
        self.written += self.finished.len() as u64;
        self.finished.clear();
    }

    fn finish_panel(&mut self) {
        let start = self.finished.len();
        self.finished.resize(start + self.panels.panel_bytes(), 0);
        let (to, k) = (&mut self.finished[start..], self.k);
        if self.panels.precision == Precision::Int8 {
            self.fits &= integers(&self.rows, k, to, &mut self.scales);
        } else {
            self.fits &= halves(&self.rows, k, to);
        }
        self.filled = 0;
    }
}

/// Writes sixteen rows of `k` numbers as f16, transposed. Says whether none was lost to infinity.
fn halves(rows: &[f32], k: usize, to: &mut [u8]) -> bool {
    let mut fits = true;
    for (column, row) in rows.chunks_exact(k).enumerate() {
        for (i, &v) in row.iter().enumerate() {
            let half = f16::from_f32(v);
            fits &= half.is_finite() || !v.is_finite();
            let at = (i * PANEL + column) * 2;
            to[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    fits
}

/// Writes sixteen rows of `k` numbers as multiples of a scale for each, four along k next to each other, and appends the
/// scales. Says whether all were numbers.
fn integers(rows: &[f32], k: usize, to: &mut [u8], scales: &mut Vec<f32>) -> bool {
    let mut fits = true;
    for (column, row) in rows.chunks_exact(k).enumerate() {
        let most = row.iter().fold(0.0_f32, |most, v| if v.is_finite() { most.max(v.abs()) } else { f32::INFINITY });
        fits &= most.is_finite();
        // A row of numbers so small that the factor is infinite counts as zeros.
        let factor = if most > 1e-30 { MOST / most } else { 0.0 };
        scales.push(most / MOST);
        for (i, &v) in row.iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "within 127, or the weight is not used")]
            let whole = (v * factor).round_ties_even().clamp(-MOST, MOST) as i8;
            to[(i / 4 * PANEL + column) * 4 + i % 4] = whole.cast_unsigned();
        }
    }
    fits
}

#[cfg(test)]
mod tests {
    use half::f16;
    use tabpool_tensor::{DType, Precision};

    use super::{PANEL, Packer, Panels};

    /// Packs a weight whose bytes come in pieces of so many elements.
    fn packed(precision: Precision, n: usize, k: usize, elements: &[f32], piece: usize) -> (Vec<u8>, bool) {
        let mut packer = Packer::new(precision, DType::F32, n, k);
        let mut out = vec![0xee; Panels::of(precision, n, k).bytes()];
        let mut write = |offset: u64, bytes: &[u8]| {
            let at = usize::try_from(offset).expect("small");
            out[at..at + bytes.len()].copy_from_slice(bytes);
        };
        for piece in elements.chunks(piece) {
            let bytes: Vec<u8> = piece.iter().flat_map(|v| v.to_le_bytes()).collect();
            packer.push(&bytes, &mut write);
        }
        let fits = packer.finish(&mut write);
        (out, fits)
    }

    fn weight(n: usize, k: usize) -> Vec<f32> {
        (0..n * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect()
    }

    #[test]
    fn halves_lie_transposed_in_panels_with_zeros_around() {
        let (n, k) = (37, 6);
        let elements = weight(n, k);
        let (out, fits) = packed(Precision::F16, n, k, &elements, 17);
        assert!(fits && out.len() == 8 * 48 * 2);
        for column in 0..48 {
            for row in 0..8 {
                let at = ((column / PANEL * 8 + row) * PANEL + column % PANEL) * 2;
                let got = f16::from_le_bytes([out[at], out[at + 1]]).to_f32();
                let want = if column < n && row < k { elements[column * k + row] } else { 0.0 };
                assert_eq!(got.to_bits() << 1, want.to_bits() << 1, "column {column}, row {row}");
            }
        }
    }

    #[test]
    fn integers_times_their_scales_are_within_half_a_step() {
        let (n, k) = (37, 21);
        let elements = weight(n, k);
        let (out, fits) = packed(Precision::Int8, n, k, &elements, 100);
        assert!(fits && out.len() == 32 * 48 + 48 * 4);
        for column in 0..48 {
            let at = 32 * 48 + column * 4;
            let scale = f32::from_le_bytes([out[at], out[at + 1], out[at + 2], out[at + 3]]);
            for row in 0..32 {
                let at = ((column / PANEL * 8 + row / 4) * PANEL + column % PANEL) * 4 + row % 4;
                let got = f32::from(out[at].cast_signed()) * scale;
                let want = if column < n && row < k { elements[column * k + row] } else { 0.0 };
                assert!((got - want).abs() <= scale * 0.5001, "column {column}, row {row}: {got}, {want}");
            }
        }
    }

    #[test]
    fn where_pieces_end_changes_nothing() {
        let elements = weight(50, 13);
        for precision in [Precision::F16, Precision::Int8] {
            let whole = packed(precision, 50, 13, &elements, 1000);
            for piece in [1, 12, 13, 208, 209] {
                assert_eq!(packed(precision, 50, 13, &elements, piece), whole, "{precision} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let with = |v: f32| vec![1.0, v, -2.0, 0.5];
        assert!(packed(Precision::F16, 2, 2, &with(65_504.0), 4).1);
        assert!(!packed(Precision::F16, 2, 2, &with(65_520.0), 4).1);
        assert!(!packed(Precision::F16, 2, 2, &with(-1e30), 4).1);
        assert!(packed(Precision::F16, 2, 2, &with(f32::INFINITY), 4).1, "infinity itself is one of its numbers");
        assert!(packed(Precision::Int8, 2, 2, &with(1e30), 4).1);
        assert!(!packed(Precision::Int8, 2, 2, &with(f32::NAN), 4).1);
        assert!(!packed(Precision::Int8, 2, 2, &with(f32::NEG_INFINITY), 4).1);
    }
}
