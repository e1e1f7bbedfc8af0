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

/// Values one after another along a dimension.
pub(super) fn concat(x: &[&Array], axis: usize, shape: &Shape) -> Elements {
    fn joined<'a, T: Copy>(x: &[&'a Array], axis: usize, shape: &Shape, of: fn(&'a Array) -> &'a [T]) -> Vec<T> {
        let inner: usize = shape[axis + 1..].iter().product();
        let outer: usize = shape[..axis].iter().product();
        let part = |v: &&'a Array, n: usize| &of(v)[n * v.shape[axis] * inner..][..v.shape[axis] * inner];
        (0..outer).flat_map(|n| x.iter().flat_map(move |v| part(v, n))).copied().collect()
    }
    match x[0].elements {
        Elements::F32(_) => Elements::F32(joined(x, axis, shape, Array::floats)),
        Elements::I32(_) => Elements::I32(joined(x, axis, shape, Array::integers)),
    }
}

/// The target with rows replaced from `at` on; those outside are dropped.
pub(super) fn write_rows(target: &Array, rows: &Array, at: i32) -> Elements {
    fn replaced<T: Copy>(target: &Array, rows: &Array, at: i32, of: fn(&Array) -> &[T]) -> Vec<T> {
        let (capacity, count, width) = (target.shape[1], rows.shape[1], target.shape[2]);
        let mut out = of(target).to_vec();
        for (n, row) in of(rows).chunks(width).enumerate() {
            let (batch, row_at) = (n / count, i64::from(at) + i64::try_from(n % count).unwrap_or(i64::MAX));
            if let Some(to) = usize::try_from(row_at).ok().filter(|&to| to < capacity) {
                out[(batch * capacity + to) * width..][..width].copy_from_slice(row);
            }
        }
        out
    }
    match target.elements {
        Elements::F32(_) => Elements::F32(replaced(target, rows, at, Array::floats)),
        Elements::I32(_) => Elements::I32(replaced(target, rows, at, Array::integers)),
    }
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
