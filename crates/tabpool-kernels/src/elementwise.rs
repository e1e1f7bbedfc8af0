//! Functions of two elements that broadcast, and casts.

use crate::isa::{Isa, vectorised};
use crate::layout::Axes;
use crate::math::{larger, smaller};

/// Functions of two elements.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`; floating point only.
    Div,
    /// The larger.
    Max,
    /// The smaller.
    Min,
}

/// How two operands are read to make one result: dimensions that all three walk alike are joined, so most nodes end
/// up with one or two.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// The outer dimensions with the strides of both operands.
    outer: Axes,
    /// The innermost dimension.
    width: usize,
    /// Whether each operand moves along the innermost dimension: 0 or 1.
    moves: [usize; 2],
}

impl Broadcast {
    /// For operands of shapes that broadcast to `out`; `None` where more dimensions than [`crate::MAX_RANK`] stay.
    #[must_use]
    pub fn new(a: &[usize], b: &[usize], out: &[usize]) -> Option<Self> {
        let mut outer = Axes::new([a, b].into_iter(), out)?;
        // Past a dimension of their own, operands are contiguous: innermost strides are 0 or 1.
        let (width, moves) = outer.pop().unwrap_or((1, [1, 1]));
        Some(Self { outer, width, moves: moves.map(|stride| usize::from(stride != 0)) })
    }

    /// The elements of the result that are computed in one go; 1 where any number may be.
    #[must_use]
    pub fn width(&self) -> usize {
        if self.outer.is_empty() { 1 } else { self.width }
    }

    /// Computes a part of the result that begins at element `first`: `f(out, a, b)` for rows, the operands being as long as
    /// `out` or one element.
    fn each<T: Copy>(&self, [a, b]: [&[T]; 2], first: usize, out: &mut [T], f: impl Fn(&mut [T], &[T], &[T])) {
        let one = |row: usize, from: usize, out: &mut [T]| {
            let at = self.outer.offsets(row);
            let (a, b) = (
                if self.moves[0] == 1 { &a[at[0] + from..][..out.len()] } else { &a[at[0]..=at[0]] },
                if self.moves[1] == 1 { &b[at[1] + from..][..out.len()] } else { &b[at[1]..=at[1]] },
            );
            f(out, a, b);
        };
        if self.outer.is_empty() {
            one(0, first, out);
        } else {
            for (row, out) in out.chunks_exact_mut(self.width).enumerate() {
                one(first / self.width + row, 0, out);
            }
        }
    }
}

/// One row: operands of one element stretch.
#[inline(always)]
fn zip<T: Copy>(out: &mut [T], a: &[T], b: &[T], f: impl Fn(T, T) -> T) {
    match (a, b) {
        (&[a], b) if b.len() == out.len() => out.iter_mut().zip(b).for_each(|(out, &b)| *out = f(a, b)),
        (a, &[b]) if a.len() == out.len() => out.iter_mut().zip(a).for_each(|(out, &a)| *out = f(a, b)),
        (&[a], &[b]) => out.fill(f(a, b)),
        (a, b) => out.iter_mut().zip(a).zip(b).for_each(|((out, &a), &b)| *out = f(a, b)),
    }
}

vectorised! {
    fn floats_row(op: Binary, out: &mut [f32], a: &[f32], b: &[f32]) {
        match op {
            Binary::Add => zip(out, a, b, #[inline(always)] |a, b| a + b),
            Binary::Sub => zip(out, a, b, #[inline(always)] |a, b| a - b),
            Binary::Mul => zip(out, a, b, #[inline(always)] |a, b| a * b),
            Binary::Div => zip(out, a, b, #[inline(always)] |a, b| a / b),
            Binary::Max => zip(out, a, b, larger),
            Binary::Min => zip(out, a, b, smaller),
        }
    }
}

fn integers_row(op: Binary, out: &mut [i32], a: &[i32], b: &[i32]) {
    match op {
        Binary::Add => zip(out, a, b, i32::wrapping_add),
        Binary::Sub => zip(out, a, b, i32::wrapping_sub),
        Binary::Mul => zip(out, a, b, i32::wrapping_mul),
        Binary::Max => zip(out, a, b, i32::max),
        Binary::Min => zip(out, a, b, i32::min),
        // Graphs divide floating-point numbers only.
        Binary::Div => zip(out, a, b, |a, b| a.checked_div(b).unwrap_or(0)),
    }
}

#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn floats(isa: Isa, op: Binary, how: &Broadcast, operands: [&[f32]; 2], first: usize, out: &mut [f32]) {
    how.each(operands, first, out, |out, a, b| floats_row(isa, op, out, a, b));
}

#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn integers(op: Binary, how: &Broadcast, operands: [&[i32]; 2], first: usize, out: &mut [i32]) {
    how.each(operands, first, out, |out, a, b| integers_row(op, out, a, b));
}

/// Integers to the nearest `f32`.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn cast_to_f32(x: &[i32], out: &mut [f32]) {
    #[expect(clippy::cast_precision_loss, reason = "the cast the graph asks for")]
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = x as f32);
}

/// Towards zero.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn cast_to_i32(x: &[f32], out: &mut [i32]) {
    #[expect(clippy::cast_possible_truncation, reason = "the cast the graph asks for")]
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = x as i32);
}

#[cfg(test)]
mod tests {
    use super::Broadcast;

    fn dims(a: &[usize], b: &[usize], out: &[usize]) -> (usize, usize, [usize; 2]) {
        let how = Broadcast::new(a, b, out).expect("few dimensions");
        (how.outer.len(), how.width, how.moves)
    }

    #[test]
    fn dimensions_walked_alike_are_joined() {
        assert_eq!(dims(&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]), (0, 24, [1, 1]));
        assert_eq!(dims(&[2, 3, 4], &[4], &[2, 3, 4]), (1, 4, [1, 1]));
        assert_eq!(dims(&[2, 3, 4], &[], &[2, 3, 4]), (0, 24, [1, 0]));
        assert_eq!(dims(&[2, 1, 3, 1, 7], &[1, 5, 1, 3, 7], &[2, 5, 3, 3, 7]), (4, 7, [1, 1]));
        assert_eq!(dims(&[1, 1], &[1], &[1, 1]), (0, 1, [1, 1]));
    }

    #[test]
    fn more_dimensions_than_fit_are_refused_and_joined_ones_do_not_count() {
        let (all, odd) = ([2; 12], [2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1]);
        assert!(Broadcast::new(&all, &all, &all).is_some());
        assert!(Broadcast::new(&all, &odd, &all).is_none());
    }
}
