//! Functions of two elements that broadcast, and casts.

use tabpool_graph::Binary;
use tabpool_tensor::Shape;

use super::isa::{Isa, vectorised};
use super::math::{larger, smaller};
use super::threads::Threads;

/// How two operands are read to make one result: dimensions that all three walk alike are joined, so most nodes end
/// up with one or two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broadcast {
    /// The outer dimensions with the strides of both operands.
    outer: Vec<(usize, [usize; 2])>,
    /// The innermost dimension.
    width: usize,
    /// Whether each operand moves along the innermost dimension.
    moves: [bool; 2],
}

impl Broadcast {
    /// For operands of shapes that broadcast to `out`.
    pub(crate) fn new(a: &Shape, b: &Shape, out: &Shape) -> Self {
        let (sa, sb) = (broadcast_strides(a, out), broadcast_strides(b, out));
        let mut dims: Vec<(usize, [usize; 2])> = Vec::new();
        for ((&size, &sa), &sb) in out.iter().zip(&sa).zip(&sb).filter(|((size, _), _)| **size != 1) {
            match dims.last_mut() {
                Some((last, [la, lb])) if *la == sa * size && *lb == sb * size => {
                    *last *= size;
                    (*la, *lb) = (sa, sb);
                }
                _ => dims.push((size, [sa, sb])),
            }
        }
        // Past a dimension of their own, operands are contiguous: innermost strides are 0 or 1.
        let (width, [sa, sb]) = dims.pop().unwrap_or((1, [1, 1]));
        Self { outer: dims, width, moves: [sa != 0, sb != 0] }
    }

    /// Where both operands begin for a row of the result.
    fn row(&self, mut row: usize) -> [usize; 2] {
        let mut at = [0; 2];
        for &(size, strides) in self.outer.iter().rev() {
            let i = row % size;
            row /= size;
            at = [at[0] + i * strides[0], at[1] + i * strides[1]];
        }
        at
    }

    /// Computes the result: `f(out, a, b)` for rows or, where rows are long, parts of rows, the operands being as long
    /// as `out` or one element.
    fn each<T: Copy + Send + Sync>(
        &self,
        threads: &Threads,
        [a, b]: [&[T]; 2],
        out: &mut [T],
        f: impl Fn(&mut [T], &[T], &[T]) + Sync,
    ) {
        let read = |x, moves: bool, at: usize, from: usize, len: usize| -> &[T] {
            let x: &[T] = x;
            if moves { &x[at + from..][..len] } else { &x[at..=at] }
        };
        let one = |row: usize, from: usize, out: &mut [T]| {
            let at = self.row(row);
            let (a, b) =
                (read(a, self.moves[0], at[0], from, out.len()), read(b, self.moves[1], at[1], from, out.len()));
            f(out, a, b);
        };
        if self.outer.is_empty() {
            threads.rows(out, 1, |from, part| one(0, from, part));
        } else {
            threads.rows(out, self.width, |first, part| {
                for (row, out) in part.chunks_exact_mut(self.width).enumerate() {
                    one(first + row, 0, out);
                }
            });
        }
    }
}

/// The strides with which an operand is read as if it had the broadcast shape.
pub(crate) fn broadcast_strides(from: &Shape, to: &Shape) -> Vec<usize> {
    let added = to.rank() - from.rank();
    let strides = from.strides();
    (0..to.rank()).map(|d| if d < added || from[d - added] == 1 { 0 } else { strides[d - added] }).collect()
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
            // Programs with functions this build does not know are refused when they are loaded.
            _ => {}
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
        _ => {}
    }
}

/// Whether [`floats`] and [`integers`] know a function.
pub(crate) fn knows(op: Binary) -> bool {
    matches!(op, Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Max | Binary::Min)
}

pub(crate) fn floats(
    (isa, threads): (Isa, &Threads),
    op: Binary,
    how: &Broadcast,
    operands: [&[f32]; 2],
    out: &mut [f32],
) {
    how.each(threads, operands, out, |out, a, b| floats_row(isa, op, out, a, b));
}

pub(crate) fn integers(threads: &Threads, op: Binary, how: &Broadcast, operands: [&[i32]; 2], out: &mut [i32]) {
    how.each(threads, operands, out, |out, a, b| integers_row(op, out, a, b));
}

/// Integers to the nearest `f32`.
pub(crate) fn cast_to_f32(x: &[i32], out: &mut [f32]) {
    #[expect(clippy::cast_precision_loss, reason = "the cast the graph asks for")]
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = x as f32);
}

/// Towards zero.
pub(crate) fn cast_to_i32(x: &[f32], out: &mut [i32]) {
    #[expect(clippy::cast_possible_truncation, reason = "the cast the graph asks for")]
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = x as i32);
}

#[cfg(test)]
mod tests {
    use tabpool_tensor::Shape;

    use super::Broadcast;

    fn dims(a: &[usize], b: &[usize], out: &[usize]) -> (usize, usize, [bool; 2]) {
        let how = Broadcast::new(&Shape::from(a), &Shape::from(b), &Shape::from(out));
        (how.outer.len(), how.width, how.moves)
    }

    #[test]
    fn dimensions_walked_alike_are_joined() {
        assert_eq!(dims(&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]), (0, 24, [true, true]));
        assert_eq!(dims(&[2, 3, 4], &[4], &[2, 3, 4]), (1, 4, [true, true]));
        assert_eq!(dims(&[2, 3, 4], &[], &[2, 3, 4]), (0, 24, [true, false]));
        assert_eq!(dims(&[2, 1, 3, 1, 7], &[1, 5, 1, 3, 7], &[2, 5, 3, 3, 7]), (4, 7, [true, true]));
        assert_eq!(dims(&[1, 1], &[1], &[1, 1]), (0, 1, [true, true]));
    }
}
