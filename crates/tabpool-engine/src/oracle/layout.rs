//! Operators that move elements without computing with them, and token positions.

use tabpool_tensor::Shape;

use super::{Array, Elements};

/// For each element of `to`, row-major, the position in a tensor of shape `from` that broadcasting reads there.
pub(super) fn broadcast_offsets(from: &Shape, to: &Shape) -> Vec<usize> {
    let added = to.rank() - from.rank();
    let strides = from.strides();
    let stride = |d: usize| if d < added || from[d - added] == 1 { 0 } else { strides[d - added] };
    offsets(to, &(0..to.rank()).map(stride).collect::<Vec<_>>())
}

/// For each element of a shape, row-major, the sum of its coordinates times these strides.
fn offsets(shape: &Shape, strides: &[usize]) -> Vec<usize> {
    let own = shape.strides();
    let at = |flat: usize| (0..shape.rank()).map(|d| flat / own[d] % shape[d] * strides[d]).sum();
    (0..shape.elements()).map(at).collect()
}

fn pick(x: &Array, offsets: &[usize]) -> Elements {
    match &x.elements {
        Elements::F32(v) => Elements::F32(offsets.iter().map(|&i| v[i]).collect()),
        Elements::I32(v) => Elements::I32(offsets.iter().map(|&i| v[i]).collect()),
    }
}

pub(super) fn transpose(x: &Array, permutation: &[usize], shape: &Shape) -> Elements {
    let strides = x.shape.strides();
    pick(x, &offsets(shape, &permutation.iter().map(|&p| strides[p]).collect::<Vec<_>>()))
}

pub(super) fn slice(x: &Array, axis: usize, start: usize, shape: &Shape) -> Elements {
    let strides = x.shape.strides();
    let first = start * strides[axis];
    pick(x, &offsets(shape, &strides).iter().map(|at| at + first).collect::<Vec<_>>())
}

/// Rows of a table; an index outside reads the nearest row.
pub(super) fn gather(table: &Array, indices: &Array) -> Vec<f32> {
    let rows = table.shape[0];
    let row = table.shape.elements() / rows;
    let nearest = |i: i32| usize::try_from(i).unwrap_or(0).min(rows - 1);
    let read = |&i: &i32| &table.floats()[nearest(i) * row..][..row];
    indices.integers().iter().flat_map(read).copied().collect()
}

/// Positions of real tokens counted from the padding id on; padding stays at the padding id.
pub(super) fn token_positions(ids: &Array, padding_id: i32) -> Vec<i32> {
    let sequence = |ids: &[i32]| {
        let mut count = 0i32;
        let position = |&id: &i32| {
            if id == padding_id {
                return padding_id;
            }
            count = count.wrapping_add(1);
            padding_id.wrapping_add(count)
        };
        ids.iter().map(position).collect::<Vec<_>>()
    };
    ids.integers().chunks(ids.width()).flat_map(sequence).collect()
}
