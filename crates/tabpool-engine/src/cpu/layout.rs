//! Operators that move elements without computing with them, and token positions.

use tabpool_tensor::Shape;

use super::threads::Threads;

/// A walk over a tensor that gives the elements of a result in order: what transposes and slices do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Dimensions of the result with the operand's strides, those that are walked as one joined.
    outer: Vec<(usize, usize)>,
    width: usize,
    stride: usize,
    first: usize,
}

impl Walk {
    /// A walk in the order of a shape, with the operand's stride for each of its dimensions, from an element on.
    fn new(shape: &[usize], strides: &[usize], first: usize) -> Self {
        let mut dims: Vec<(usize, usize)> = Vec::new();
        for (&size, &stride) in shape.iter().zip(strides).filter(|(size, _)| **size != 1) {
            match dims.last_mut() {
                Some((last, outer)) if *outer == stride * size => (*last, *outer) = (*last * size, stride),
                _ => dims.push((size, stride)),
            }
        }
        let (width, stride) = dims.pop().unwrap_or((1, 1));
        Self { outer: dims, width, stride, first }
    }

    /// The walk of a transpose.
    pub(crate) fn transpose(operand: &Shape, permutation: &[usize]) -> Self {
        let strides = operand.strides();
        let shape: Vec<_> = permutation.iter().map(|&p| operand[p]).collect();
        Self::new(&shape, &permutation.iter().map(|&p| strides[p]).collect::<Vec<_>>(), 0)
    }

    /// The walk of a slice that gives `shape`.
    pub(crate) fn slice(operand: &Shape, axis: usize, start: usize, shape: &Shape) -> Self {
        let strides = operand.strides();
        Self::new(shape, &strides, start * strides[axis])
    }

    pub(crate) fn copy(&self, threads: &Threads, x: &[u32], out: &mut [u32]) {
        threads.rows(out, self.width, |first_row, out| {
            for (row, out) in out.chunks_exact_mut(self.width).enumerate() {
                let (mut row, mut at) = (first_row + row, self.first);
                for &(size, stride) in self.outer.iter().rev() {
                    at += row % size * stride;
                    row /= size;
                }
                if self.stride == 1 {
                    out.copy_from_slice(&x[at..][..self.width]);
                } else {
                    out.iter_mut().zip(x[at..].iter().step_by(self.stride)).for_each(|(out, &x)| *out = x);
                }
            }
        });
    }
}

/// Rows of a table; an index outside reads the nearest row.
pub(crate) fn gather(threads: &Threads, table: &[f32], rows: usize, indices: &[i32], out: &mut [f32]) {
    let width = table.len() / rows;
    threads.rows(out, width, |first, out| {
        for (out, &index) in out.chunks_exact_mut(width).zip(&indices[first..]) {
            let row = usize::try_from(index).unwrap_or(0).min(rows - 1);
            out.copy_from_slice(&table[row * width..][..width]);
        }
    });
}

/// Positions of real tokens counted from the padding id on; padding stays at the padding id.
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
    use tabpool_tensor::Shape;

    use super::Walk;

    #[test]
    fn heads_are_swapped_by_whole_rows() {
        let walk = Walk::transpose(&Shape::from([2, 5, 3, 4]), &[0, 2, 1, 3]);
        assert_eq!((walk.outer, walk.width, walk.stride), (vec![(2, 60), (3, 4), (5, 12)], 4, 1));
        let walk = Walk::slice(&Shape::from([7, 5, 3]), 0, 2, &Shape::from([4, 5, 3]));
        assert_eq!((walk.outer, walk.width, walk.first), (vec![], 60, 30));
    }
}
