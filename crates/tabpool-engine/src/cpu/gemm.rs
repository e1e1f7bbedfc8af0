//! Matrix products from packed operands, with what follows a linear layer done while a tile is still in the cache.
//!
//! The right operand is packed into panels of `NR` columns, `[panel][k][NR]`, the last one filled up with zeros; weights
//! are packed once, at load. The left operand is packed for each product into tiles of `MR` rows, `[tile][k][rows]`, a
//! block of rows at a time. The scheme is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008), without its outermost loop.

mod kernel;

use tabpool_graph::Activation;

use super::isa::Isa;
use super::math;
use super::threads::Threads;
use kernel::{MAX_MR, MAX_NR, Tile, multiply};

pub(crate) use kernel::tile_size;

/// Rows of the left operand that are packed at a time: a multiple of every level's `MR`, and with the `k` of an
/// encoder no more than an L2 cache holds.
const BLOCK_ROWS: usize = 240;

/// Steps of `k` between writing sums back: the panel's part that is read again for each tile stays in the L1 cache of a
/// browser, whose panels are narrow; native panels are wide and stream from L2 either way.
const BLOCK_STEPS: usize = if cfg!(target_arch = "wasm32") { 384 } else { 768 };

/// The elements of a packed right operand.
pub(crate) fn packed_right_len(isa: Isa, k: usize, n: usize) -> usize {
    let nr = tile_size(isa).1;
    n.div_ceil(nr) * nr * k
}

/// The elements that packing a left operand needs at most.
pub(crate) fn packed_left_len(m: usize, k: usize) -> usize {
    m.min(BLOCK_ROWS) * k
}

/// A matrix inside a slice: where it begins is where the slice does.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) elements: &'a [f32],
    /// From one row to the next.
    pub(crate) row_stride: usize,
    /// From one column to the next.
    pub(crate) column_stride: usize,
}

/// A matrix that is written, in parts, by several threads at once.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    first: *mut f32,
    stride: usize,
}

// SAFETY: a target is an address; those who write through it (`product`, attention's heads) each write elements that
// nobody else touches meanwhile.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// The matrix that begins with the slice.
    pub(crate) fn new(elements: &mut [f32], stride: usize) -> Self {
        Self { first: elements.as_mut_ptr(), stride }
    }

    /// The part that begins at this row and column.
    ///
    /// # Safety
    /// The part begins inside the matrix.
    pub(crate) unsafe fn part(self, row: usize, column: usize) -> Self {
        // SAFETY: the caller says that the element exists.
        Self { first: unsafe { self.first.add(row * self.stride + column) }, stride: self.stride }
    }
}

/// Packs a right operand of `k` rows and `n` columns into the beginning of `out`.
pub(crate) fn pack_right(isa: Isa, b: Matrix<'_>, k: usize, n: usize, out: &mut [f32]) {
    let nr = tile_size(isa).1;
    for (panel, out) in out[..packed_right_len(isa, k, n)].chunks_exact_mut(nr * k).enumerate() {
        let columns = nr.min(n - panel * nr);
        for (step, out) in out.chunks_exact_mut(nr).enumerate() {
            let first = step * b.row_stride + panel * nr * b.column_stride;
            if b.column_stride == 1 {
                out[..columns].copy_from_slice(&b.elements[first..][..columns]);
            } else {
                for (j, out) in out[..columns].iter_mut().enumerate() {
                    *out = b.elements[first + j * b.column_stride];
                }
            }
            out[columns..].fill(0.0);
        }
    }
}

/// Where an element of a linear weight `[n, k]` lies once packed.
#[inline]
pub(crate) fn packed_position(nr: usize, k: usize, row: usize, column: usize) -> usize {
    row / nr * nr * k + column * nr + row % nr
}

/// Packs rows of a left operand with `k` columns into tiles.
pub(crate) fn pack_left(isa: Isa, a: Matrix<'_>, rows: usize, k: usize, out: &mut [f32]) {
    let mr = tile_size(isa).0;
    for (tile, out) in out[..rows * k].chunks_mut(mr * k).enumerate() {
        pack_tile(&a.elements[tile * mr * a.row_stride..], a.row_stride, k, out);
    }
}

/// One tile: as many rows as `out` has room for. It is a transpose, done in squares of four by four, which LLVM turns
/// into shuffles of registers, and a few steps of all rows at a time, so that the lines they share stay in the L1 cache.
fn pack_tile(a: &[f32], row_stride: usize, k: usize, out: &mut [f32]) {
    const STEPS: usize = 32;
    let rows = out.len() / k;
    for (block, out) in out.chunks_mut(STEPS * rows).enumerate() {
        let steps = out.len() / rows;
        let row = |r: usize| &a[r * row_stride + block * STEPS..][..steps];
        for r in (0..rows / 4 * 4).step_by(4) {
            pack_four([row(r), row(r + 1), row(r + 2), row(r + 3)], &mut out[r..], rows);
        }
        for r in rows / 4 * 4..rows {
            for (&v, out) in row(r).iter().zip(out[r..].iter_mut().step_by(rows)) {
                *out = v;
            }
        }
    }
}

/// Four rows, turned, to the first four elements of every `stride`.
fn pack_four(rows: [&[f32]; 4], out: &mut [f32], stride: usize) {
    let [(a, a_rest), (b, b_rest), (c, c_rest), (d, d_rest)] = rows.map(<[f32]>::as_chunks::<4>);
    let (squares, rest) = out.split_at_mut((a.len() * 4 * stride).min(out.len()));
    for ((((a, b), c), d), out) in a.iter().zip(b).zip(c).zip(d).zip(squares.chunks_mut(4 * stride)) {
        for (column, out) in out.chunks_mut(stride).enumerate() {
            out[..4].copy_from_slice(&[a[column], b[column], c[column], d[column]]);
        }
    }
    for ((((a, b), c), d), out) in a_rest.iter().zip(b_rest).zip(c_rest).zip(d_rest).zip(rest.chunks_mut(stride)) {
        out[..4].copy_from_slice(&[*a, *b, *c, *d]);
    }
}

/// What is added to and done with the sums.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// One element for each column.
    pub(crate) bias: Option<&'a [f32]>,
    /// Applied last.
    pub(crate) activation: Option<Activation>,
}

/// The sizes of a product: `[m, k] @ [k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
}

/// `out = activation(a @ right + bias)`, rows of `a` being packed into `scratch` ([`packed_left_len`] elements).
pub(crate) fn product(
    (isa, threads): (Isa, &Threads),
    size: Size,
    a: Matrix<'_>,
    right: &[f32],
    out: &mut [f32],
    epilogue: Epilogue<'_>,
    scratch: &mut [f32],
) {
    let Size { m, k, n } = size;
    let (mr, nr) = tile_size(isa);
    for first in (0..m).step_by(BLOCK_ROWS) {
        let rows = BLOCK_ROWS.min(m - first);
        let left = &mut scratch[..rows * k];
        let block = &a.elements[first * a.row_stride..];
        // A tile is a row of its own for splitting; the last one may be shorter, and no piece ends inside a tile.
        threads.rows(left, mr * k, |tile, part| {
            let rest = Matrix { elements: &block[tile * mr * a.row_stride..], ..a };
            pack_left(isa, rest, part.len() / k, k, part);
        });
        let left = &*left;
        let target = Target::new(&mut out[first * n..][..rows * n], n);
        let panels = n.div_ceil(nr);
        // Four pieces a thread even out threads of unequal speed; below some thousand products none is worth waking.
        let pieces = if rows * k * n < 1 << 16 { 1 } else { panels.min(threads.count() * 4) };
        threads.each(pieces, |piece| {
            let range = piece * panels / pieces..(piece + 1) * panels / pieces;
            // SAFETY: pieces are disjoint ranges of columns of `out`, which has `rows` rows of `n` elements here.
            unsafe { multiply_panels(isa, Size { m: rows, k, n }, left, right, range, target, epilogue) };
        });
    }
}

/// The columns of some panels of a product whose operands are packed.
///
/// # Safety
/// `target` has `m` rows of `n` elements at its stride, and nobody else touches the columns of these panels meanwhile.
pub(crate) unsafe fn multiply_panels(
    isa: Isa,
    Size { m, k, n }: Size,
    left: &[f32],
    right: &[f32],
    panels: std::ops::Range<usize>,
    target: Target,
    epilogue: Epilogue<'_>,
) {
    let (mr, nr) = tile_size(isa);
    assert!(left.len() >= m * k && right.len() >= panels.end * nr * k, "packed operands are whole");
    for panel in panels {
        let columns = nr.min(n - panel * nr);
        let mut bias = [0.0; MAX_NR];
        if let Some(all) = epilogue.bias {
            bias[..columns].copy_from_slice(&all[panel * nr..][..columns]);
        }
        for first in (0..k).step_by(BLOCK_STEPS) {
            let steps = BLOCK_STEPS.min(k - first);
            let right = &right[(panel * k + first) * nr..][..steps * nr];
            for tile in 0..m.div_ceil(mr) {
                let rows = mr.min(m - tile * mr);
                let left = &left[tile * mr * k + first * rows..][..steps * rows];
                // SAFETY: the tile begins inside the target.
                let part = unsafe { target.part(tile * mr, panel * nr) };
                let place = Place { rows, columns, nr, continues: first > 0 };
                // SAFETY: the tile's rows and columns are inside the target and nobody else's.
                unsafe { multiply_tile(isa, place, left, right, &bias, part) };
                if let Some(activation) = epilogue.activation.filter(|_| first + steps == k) {
                    for row in 0..rows {
                        // SAFETY: as above.
                        let row = unsafe { std::slice::from_raw_parts_mut(part.part(row, 0).first, columns) };
                        math::apply_in_place(isa, activation.unary(), row);
                    }
                }
            }
        }
    }
}

/// How much of a tile is real, and whether its sums go on from those written before.
#[derive(Clone, Copy)]
struct Place {
    rows: usize,
    columns: usize,
    nr: usize,
    continues: bool,
}

/// One tile, through a buffer where it is narrower than the kernel's.
///
/// # Safety
/// `out` has `rows` rows of `columns` elements, which nobody else touches meanwhile.
unsafe fn multiply_tile(isa: Isa, place: Place, left: &[f32], right: &[f32], bias: &[f32; MAX_NR], out: Target) {
    let Place { rows, columns, nr, continues } = place;
    let steps = right.len() / nr;
    let from_bias = (bias.as_ptr(), 0);
    if columns == nr {
        let (start, start_stride) = if continues { (out.first.cast_const(), out.stride) } else { from_bias };
        let tile = Tile { start, start_stride, out: out.first, out_stride: out.stride };
        // SAFETY: the operands hold `steps` steps, the tile is whole.
        unsafe { multiply(isa, rows, steps, left.as_ptr(), right.as_ptr(), tile) };
        return;
    }
    let mut buffer = [0.0f32; MAX_MR * MAX_NR];
    let first = buffer.as_mut_ptr();
    let rows_of = |row: usize| {
        // SAFETY: the row is inside the target and nobody else's.
        unsafe { std::slice::from_raw_parts_mut(out.first.add(row * out.stride), columns) }
    };
    if continues {
        for (row, buffer) in buffer.chunks_exact_mut(nr).enumerate().take(rows) {
            buffer[..columns].copy_from_slice(rows_of(row));
        }
    }
    let (start, start_stride) = if continues { (first.cast_const(), nr) } else { from_bias };
    let tile = Tile { start, start_stride, out: first, out_stride: nr };
    // SAFETY: the operands hold `steps` steps, the buffer holds the largest tile; each row is read before it is written.
    unsafe { multiply(isa, rows, steps, left.as_ptr(), right.as_ptr(), tile) };
    for (row, buffer) in buffer.chunks_exact(nr).enumerate().take(rows) {
        rows_of(row).copy_from_slice(&buffer[..columns]);
    }
}
