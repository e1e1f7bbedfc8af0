//! Operators that move elements without computing with them, and token positions.

use crate::step::{MAX_RANK, Units};

/// Dimensions of a result with the strides at which two operands are read along each, outermost first. Dimensions that are
/// walked as one are joined.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axes {
    len: usize,
    sizes: [usize; MAX_RANK],
    strides: [[usize; 2]; MAX_RANK],
}

impl Axes {
    /// No dimensions: one element.
    pub const NONE: Self = Self { len: 0, sizes: [1; MAX_RANK], strides: [[0; 2]; MAX_RANK] };

    /// Two shapes read as if they had the shape they broadcast to; `None` where too many dimensions stay.
    pub(crate) fn new<'a>(mut operands: impl Iterator<Item = &'a [usize]>, out: &[usize]) -> Option<Self> {
        let (a, b) = (operands.next().unwrap_or(&[]), operands.next().unwrap_or(&[]));
        let stride = |from: &[usize], dimension: usize| {
            let added = out.len() - from.len();
            match dimension.checked_sub(added) {
                Some(own) if from[own] != 1 => from[own + 1..].iter().product(),
                _ => 0,
            }
        };
        let mut axes = Self::NONE;
        for (dimension, &size) in out.iter().enumerate() {
            axes.push(size, [stride(a, dimension), stride(b, dimension)])?;
        }
        Some(axes)
    }

    /// For matrices that broadcast over their leading dimensions, given without the last two; strides count matrices.
    #[must_use]
    pub fn of_matrices(a: &[usize], b: &[usize], out: &[usize]) -> Option<Self> {
        Self::new([a, b].into_iter(), out)
    }

    /// Adds an innermost dimension, or widens the one that is walked with it as one.
    fn push(&mut self, size: usize, strides: [usize; 2]) -> Option<()> {
        if size == 1 {
            return Some(());
        }
        if let Some(last) = self.len.checked_sub(1)
            && self.strides[last] == strides.map(|stride| stride * size)
        {
            self.sizes[last] *= size;
            self.strides[last] = strides;
            return Some(());
        }
        *self.sizes.get_mut(self.len)? = size;
        self.strides[self.len] = strides;
        self.len += 1;
        Some(())
    }

    /// Takes the innermost dimension away.
    pub(crate) fn pop(&mut self) -> Option<(usize, [usize; 2])> {
        self.len = self.len.checked_sub(1)?;
        let taken = (self.sizes[self.len], self.strides[self.len]);
        // Unused places are alike, so that equal axes are equal.
        (self.sizes[self.len], self.strides[self.len]) = (1, [0; 2]);
        Some(taken)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many elements the result has.
    pub(crate) fn elements(&self) -> usize {
        self.sizes[..self.len].iter().product()
    }

    /// Where both operands are read for an element of the result.
    pub(crate) fn offsets(&self, mut element: usize) -> [usize; 2] {
        let mut at = [0; 2];
        for (size, strides) in self.sizes[..self.len].iter().zip(&self.strides).rev() {
            let i = element % size;
            element /= size;
            at = [at[0] + i * strides[0], at[1] + i * strides[1]];
        }
        at
    }
}

/// A walk over a tensor that gives the elements of a result in order: what transposes and slices do.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    outer: Axes,
    width: usize,
    stride: usize,
    first: usize,
}

impl Walk {
    /// The walk that gives the dimensions of `operand` in the order of `permutation`; `None` where too many stay.
    #[must_use]
    pub fn transpose(operand: &[usize], permutation: &[usize]) -> Option<Self> {
        let dimensions = permutation.iter().map(|&p| (operand[p], operand[p + 1..].iter().product()));
        Self::new(dimensions, 0)
    }

    /// The walk of a slice along `axis` from `start` on that gives `shape`.
    #[must_use]
    pub fn slice(operand: &[usize], axis: usize, start: usize, shape: &[usize]) -> Option<Self> {
        let stride = |d: usize| -> usize { operand[d + 1..].iter().product() };
        Self::new(shape.iter().enumerate().map(|(d, &size)| (size, stride(d))), start * stride(axis))
    }

    fn new(dimensions: impl Iterator<Item = (usize, usize)>, first: usize) -> Option<Self> {
        let mut outer = Axes::NONE;
        for (size, stride) in dimensions {
            outer.push(size, [stride, 0])?;
        }
        let (width, [stride, _]) = outer.pop().unwrap_or((1, [1, 0]));
        Some(Self { outer, width, stride, first })
    }

    /// The elements that are copied in one go.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Copies the part of the result that begins at element `first`, a multiple of the width.
    #[cfg_attr(target_family = "wasm", inline(never))]
    pub(crate) fn copy(&self, x: &[u32], first: usize, out: &mut [u32]) {
        for (row, out) in out.chunks_exact_mut(self.width).enumerate() {
            let at = self.first + self.outer.offsets(first / self.width + row)[0];
            if self.stride == 1 {
                out.copy_from_slice(&x[at..][..self.width]);
            } else {
                out.iter_mut().zip(x[at..].iter().step_by(self.stride)).for_each(|(out, &x)| *out = x);
            }
        }
    }
}

/// Words of the smallest piece of rows handed to another thread.
const SMALLEST_PIECE: usize = 8192;

/// Rows put into a larger result at a distance from each other: one operand of a concatenation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// How many rows.
    pub rows: usize,
    /// Words of a row.
    pub width: usize,
    /// Words from one row of the result to the next.
    pub stride: usize,
    /// Where the first row goes.
    pub first: usize,
}

/// Rows put into a larger result at a position that a run says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Sequences.
    pub batch: usize,
    /// Rows of a sequence in the result.
    pub capacity: usize,
    /// Rows of a sequence in the operand.
    pub rows: usize,
    /// Words of a row.
    pub width: usize,
}

/// Rows of one part, so that it is worth another thread.
fn rows_together(width: usize) -> usize {
    (SMALLEST_PIECE / width).max(1)
}

impl Spread {
    pub(crate) fn units(&self) -> usize {
        self.rows.div_ceil(rows_together(self.width))
    }

    /// Copies the rows of units.
    ///
    /// # Safety
    /// `out` is the first word of the whole result; nobody else touches these rows' places.
    #[cfg_attr(target_family = "wasm", inline(never))]
    pub(crate) unsafe fn copy(&self, x: &[u32], out: *mut u32, units: &mut Units<'_, '_>) {
        let together = rows_together(self.width);
        for unit in units {
            for row in unit * together..((unit + 1) * together).min(self.rows) {
                // SAFETY: the row's place is inside the result, and the caller's promise.
                unsafe { put(&x[row * self.width..][..self.width], out.add(self.first + row * self.stride)) };
            }
        }
    }
}

impl Write {
    pub(crate) fn units(&self) -> usize {
        (self.batch * self.rows).div_ceil(rows_together(self.width))
    }

    /// Copies the rows of units to their places from `at` on; those whose place is outside the result are dropped.
    ///
    /// # Safety
    /// As for [`Spread::copy`].
    #[cfg_attr(target_family = "wasm", inline(never))]
    pub(crate) unsafe fn copy(&self, x: &[u32], at: i32, out: *mut u32, units: &mut Units<'_, '_>) {
        let together = rows_together(self.width);
        for unit in units {
            for row in unit * together..((unit + 1) * together).min(self.batch * self.rows) {
                let (batch, n) = (row / self.rows, row % self.rows);
                let Some(to) = place(at, n).filter(|&to| to < self.capacity) else { continue };
                // SAFETY: the row's place is inside the result, and the caller's promise.
                unsafe {
                    let out = out.add((batch * self.capacity + to) * self.width);
                    put(&x[row * self.width..][..self.width], out);
                }
            }
        }
    }
}

/// The place `n` further than `at`, unless it is below 0.
fn place(at: i32, n: usize) -> Option<usize> {
    match usize::try_from(at) {
        Ok(at) => at.checked_add(n),
        Err(_) => n.checked_sub(at.unsigned_abs() as usize),
    }
}

/// # Safety
/// There is room for the words, which nobody else touches.
unsafe fn put(words: &[u32], out: *mut u32) {
    // SAFETY: the caller's promise; operands and results do not overlap.
    unsafe { core::ptr::copy_nonoverlapping(words.as_ptr(), out, words.len()) };
}

/// Rows of a table; an index outside reads the nearest row.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn gather(table: &[f32], rows: usize, indices: &[i32], out: &mut [f32]) {
    let width = table.len() / rows;
    for (out, &index) in out.chunks_exact_mut(width).zip(indices) {
        let row = usize::try_from(index).unwrap_or(0).min(rows - 1);
        out.copy_from_slice(&table[row * width..][..width]);
    }
}

/// Positions of real tokens counted from the padding id on; padding stays at the padding id.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn token_positions(width: usize, padding_id: i32, ids: &[i32], out: &mut [i32]) {
    for (out, ids) in out.chunks_exact_mut(width).zip(ids.chunks_exact(width)) {
        let mut last = padding_id;
        for (out, &id) in out.iter_mut().zip(ids) {
            last = last.wrapping_add(i32::from(id != padding_id));
            *out = if id == padding_id { padding_id } else { last };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Walk;

    #[test]
    fn heads_are_swapped_by_whole_rows() {
        let walk = Walk::transpose(&[2, 5, 3, 4], &[0, 2, 1, 3]).expect("few dimensions");
        assert_eq!((walk.outer.len(), walk.width, walk.stride), (3, 4, 1));
        assert_eq!([0, 1, 3, 5, 29].map(|row| walk.outer.offsets(row)[0]), [0, 12, 36, 4, 116]);
        let walk = Walk::slice(&[7, 5, 3], 0, 2, &[4, 5, 3]).expect("few dimensions");
        assert_eq!((walk.outer.len(), walk.width, walk.first), (0, 60, 30));
    }
}
