//! Matrix products from packed operands, with what follows a linear layer done while a tile is still in the cache.
//!
//! The right operand is packed into panels as wide as a tile, `[panel][k][columns]`, the last one filled up with zeros;
//! weights are packed once, at load. The left operand is packed by whoever needs it into tiles, `[tile][k][rows]`, a block of
//! rows at a time, or read where it lies, where packing would not pay. The scheme is that of Goto and van de Geijn, "Anatomy
//! of High-Performance Matrix Multiplication" (2008), without its outermost loop. Large products by weights take seven multiplications
//! instead of eight, see [`strassen`].

mod pack;
mod strassen;
mod tile;

use core::ops::Range;

use crate::isa::{Isa, vectorised};
use crate::layout::Axes;
use crate::math::{self, Function};
use crate::step::{Units, line};
use pack::pack_left;
use strassen::Operands;
use tile::{Ahead, Left, MAX_ROWS, Tile, multiply};

pub(crate) use pack::pack_right;
pub(crate) use tile::MAX_COLUMNS;

pub use tile::TileSize;

/// Rows of the left operand that are gone through for each panel: a multiple of twice every level's tile, and with the `k` of an
/// encoder no more than an L2 cache holds.
pub(crate) const BLOCK_ROWS: usize = 240;

/// Steps of `k` between writing sums back: the panel's part that is read again for each tile stays in a browser's L1 cache, for
/// its panels are narrow; native panels are wide and stream from L2 either way.
const BLOCK_STEPS: usize = 768;

/// Columns whose sums are finished together, where a tile is not wider: what follows is called for each row, and a call is as
/// long as what it does to the 8 columns of a browser's tile.
const FINISHED_COLUMNS: usize = 64;

/// The smallest task worth another thread: some ten microseconds.
const SMALLEST_TASK: usize = 1 << 19;

/// Rows whose product takes no longer than one row's: with fewer, what takes the time is to fetch the right operand.
const FETCHED_ROWS: usize = 8;

/// The elements of a packed right operand of `k` rows and `n` columns.
#[must_use]
pub fn packed_right_len(tile: TileSize, k: usize, n: usize) -> usize {
    n.div_ceil(tile.columns) * tile.columns * k
}

/// Whether the columns of a packed right operand of `k` rows are alike enough in size to be added, where a product [does
/// that](Product::adds_columns): what rounding takes from the sum of a large one and a small one may be all of the small one. There is
/// an even number of panels then; a last one without a partner is not looked at.
#[must_use]
pub fn columns_alike(isa: Isa, packed: &[f32], k: usize) -> bool {
    strassen::columns_alike(isa, packed, k)
}

/// The elements that packing rows of a left operand needs.
fn packed_left_len(rows: usize, k: usize) -> usize {
    line(rows * k)
}

/// The sizes of a product: `[m, k] @ [k, n]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows of the left operand.
    pub m: usize,
    /// Columns of the left and rows of the right operand.
    pub k: usize,
    /// Columns of the right operand.
    pub n: usize,
}

/// How a right operand lies in memory.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Packed, at load.
    Packed,
    /// Row-major `[k, n]`.
    Rows,
    /// Row-major `[n, k]`.
    Columns,
}

/// Products of matrices: `function(left @ right + bias) + residual`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    size: Size,
    /// Which matrices of the operands each matrix of the result is the product of.
    matrices: Axes,
    right: Right,
    function: Function,
    /// Whether blocks of enough rows are multiplied by quarters.
    quartered: bool,
    /// Rows that are packed together.
    block_rows: usize,
    /// Rows of one task: those of a block, or all.
    task_rows: usize,
    /// Panels of one task.
    task_panels: usize,
    panels: usize,
}

impl Product {
    /// Products of this size over `matrices`, cut so that `threads` threads are busy. Only one matrix may be packed.
    #[must_use]
    pub fn new(tile: TileSize, size: Size, matrices: Axes, right: Right, function: Function, threads: usize) -> Self {
        let panels = size.n.div_ceil(tile.columns);
        let quartered = strassen::pays(tile, size, right);
        // Blocks of one size, whose halves are whole tiles.
        let blocks = size.m.div_ceil(BLOCK_ROWS).max(1);
        let block_rows = size.m.div_ceil(blocks).next_multiple_of(2 * tile.rows).clamp(1, size.m.max(1));
        let (task_rows, task_panels) = (size.m, panels);
        let mut whole = Self { size, matrices, right, function, quartered, block_rows, task_rows, task_panels, panels };
        let count = matrices.elements();
        let work = size.m.max(FETCHED_ROWS).saturating_mul(size.k).saturating_mul(size.n).saturating_mul(count);
        // Four tasks a thread even out threads of unequal speed.
        let tasks = (work / SMALLEST_TASK).min(4 * threads);
        if threads == 1 || tasks < 2 {
            return whole;
        }
        if right == Right::Packed {
            // No more blocks than packing needs: every thread that has panels of its own reads the weights of those only,
            // and panels are alike, while the last block of rows may be small.
            whole.task_rows = block_rows;
        }
        let blocks = size.m.div_ceil(whole.task_rows);
        whole.task_panels = panels.div_ceil(tasks.div_ceil(blocks * count).clamp(1, panels));
        if quartered {
            whole.task_panels = whole.task_panels.next_multiple_of(2);
        }
        whole
    }

    /// Whether sums of columns of the right operand are multiplied. They must be alike in size then, see [`columns_alike`].
    #[must_use]
    pub fn adds_columns(&self) -> bool {
        self.quartered
    }

    /// The same product in the way that adds no columns.
    #[must_use]
    pub fn without_adding_columns(self) -> Self {
        Self { quartered: false, ..self }
    }

    /// The parts that may be computed independently.
    pub(crate) fn units(&self) -> usize {
        self.matrices.elements() * self.row_blocks() * self.panel_groups()
    }

    fn row_blocks(&self) -> usize {
        self.size.m.div_ceil(self.task_rows)
    }

    fn panel_groups(&self) -> usize {
        self.panels.div_ceil(self.task_panels)
    }

    /// The elements of memory each thread needs: packed rows, then packed columns or what products by quarters work in.
    pub(crate) fn lane_len(&self, tile: TileSize) -> usize {
        let k = self.size.k;
        let right = if self.right == Right::Packed { 0 } else { line(self.task_panels * tile.columns * k) };
        let work = if self.quartered { strassen::work_len(tile, self.block_rows, k) } else { 0 };
        self.packed_left_len() + right + work
    }

    fn packed_left_len(&self) -> usize {
        let quarters = if self.quartered { strassen::packed_left_len(self.block_rows, self.size.k) } else { 0 };
        packed_left_len(self.block_rows, self.size.k).max(quarters)
    }

    /// Computes units. Those of one thread share what they pack.
    ///
    /// # Safety
    /// `out` is the first element of as many `[m, n]` matrices as there are; nobody else touches what these units write.
    // A function of its own in a browser: see `vectorised!`.
    #[cfg_attr(target_family = "wasm", inline(never))]
    pub(crate) unsafe fn compute(
        &self,
        isa: Isa,
        [a, b]: [&[f32]; 2],
        [bias, residual]: [Option<&[f32]>; 2],
        out: *mut f32,
        lane: &mut [f32],
        units: &mut Units<'_, '_>,
    ) {
        let (tile, Size { m, k, n }) = (isa.tile(), self.size);
        let (left, lane) = lane.split_at_mut(self.packed_left_len());
        let (mut left_holds, mut right_holds) = (None, None);
        for unit in units {
            let (block, rest) = (unit % self.row_blocks(), unit / self.row_blocks());
            let (group, matrix) = (rest % self.panel_groups(), rest / self.panel_groups());
            let [at_a, at_b] = self.matrices.offsets(matrix);
            let panels = group * self.task_panels..((group + 1) * self.task_panels).min(self.panels);
            let first_column = panels.start * tile.columns;
            let columns = n.min(panels.end * tile.columns) - first_column;
            let (right, work) = match self.right {
                Right::Packed => (&b[panels.start * tile.columns * k..], &mut *lane),
                form => {
                    if right_holds.replace((at_b, group)) != Some((at_b, group)) {
                        let (row_stride, column_stride) = if form == Right::Rows { (n, 1) } else { (1, k) };
                        let elements = &b[at_b * k * n + first_column * column_stride..];
                        pack_right(tile, Matrix { elements, row_stride, column_stride }, k, columns, lane);
                    }
                    (&*lane, &mut [][..])
                }
            };
            let bias = bias.map(|b| &b[first_column..]);
            let rows = block * self.task_rows..((block + 1) * self.task_rows).min(m);
            for first in rows.clone().step_by(self.block_rows) {
                let rows = self.block_rows.min(rows.end - first);
                let elements = &a[(at_a * m + first) * k..][..rows * k];
                let quartered = match left_holds {
                    Some((block, quartered)) if block == (at_a, first) => quartered,
                    _ => self.pack_left(isa, elements, rows, left),
                };
                left_holds = Some(((at_a, first), quartered));
                let residual = residual.map(|r| (&r[(matrix * m + first) * n + first_column..], n));
                let epilogue = Epilogue { bias, row_bias: None, function: self.function, residual };
                let size = Size { m: rows, k, n: columns };
                // SAFETY: the part lies inside its matrix of the result, and no other unit has it.
                unsafe {
                    let target = Target { first: out, stride: n }.part(matrix * m + first, first_column);
                    if quartered {
                        let operands = Operands { packed: left, last_row: &elements[(rows - 1) * k..], right };
                        strassen::multiply_pairs(isa, size, operands, work, target, epilogue);
                    } else {
                        multiply_panels(isa, size, Rows::Packed(left), right, 0..panels.len(), target, epilogue);
                    }
                }
            }
        }
    }

    /// Packs a block of rows; whether it is by quarters.
    fn pack_left(&self, isa: Isa, elements: &[f32], rows: usize, left: &mut [f32]) -> bool {
        let (tile, k) = (isa.tile(), self.size.k);
        if self.quartered && strassen::pays_for(rows) && strassen::pack_left(isa, elements, rows, k, left) {
            return true;
        }
        pack_left(tile, Matrix { elements, row_stride: k, column_stride: 1 }, rows, k, left);
        false
    }
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

/// A left operand ready to be multiplied.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Packed into tiles.
    Packed(&'a [f32]),
    /// As it lies in memory, with the elements from one row to the next.
    Strided(&'a [f32], usize),
}

impl Rows<'_> {
    /// How many rows a tile has.
    fn of_a_tile(&self, isa: Isa) -> usize {
        match self {
            Rows::Packed(_) => isa.tile().rows,
            Rows::Strided(..) => isa.strided_rows(),
        }
    }

    /// The tile of `rows` rows that begins at row `at`, from step `first` of `k` on.
    fn tile(&self, k: usize, at: usize, rows: usize, first: usize) -> Left {
        match *self {
            Rows::Packed(elements) => Left { first: elements[at * k + first * rows..].as_ptr(), row: 1, step: rows },
            Rows::Strided(elements, stride) => {
                Left { first: elements[at * stride + first..].as_ptr(), row: stride, step: 1 }
            }
        }
    }

    /// Whether there are so many rows of `k` elements.
    fn hold(&self, rows: usize, k: usize) -> bool {
        match *self {
            Rows::Packed(elements) => elements.len() >= rows * k,
            Rows::Strided(elements, stride) => elements.len() >= (rows - 1) * stride + k,
        }
    }
}

/// A matrix that is written, in parts, by several threads at once.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) first: *mut f32,
    /// From one row to the next.
    pub(crate) stride: usize,
}

impl Target {
    /// The part that begins at this row and column.
    ///
    /// # Safety
    /// The part begins inside the matrix.
    pub(crate) unsafe fn part(self, row: usize, column: usize) -> Self {
        // SAFETY: the caller says that the element exists.
        Self { first: unsafe { self.first.add(row * self.stride + column) }, stride: self.stride }
    }
}

/// What is added to and done with the sums.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// One element for each column.
    pub(crate) bias: Option<&'a [f32]>,
    /// One element for each row.
    pub(crate) row_bias: Option<&'a [f32]>,
    /// Applied to the sums with what was added to them.
    pub(crate) function: Function,
    /// Added last: a matrix as large as the result, with the elements from one row to the next.
    pub(crate) residual: Option<(&'a [f32], usize)>,
}

impl Epilogue<'_> {
    /// The sums as they are.
    pub(crate) const NONE: Self = Self { bias: None, row_bias: None, function: Function::Identity, residual: None };

    /// Whether the sums are not the result.
    fn follows(&self) -> bool {
        self.row_bias.is_some() || self.function != Function::Identity || self.residual.is_some()
    }

    /// Finishes sums of this row from this column on.
    fn finish(&self, isa: Isa, row: usize, column: usize, sums: &mut [f32]) {
        if let Some(bias) = self.row_bias {
            add_everywhere(isa, sums, bias[row]);
        }
        if self.function != Function::Identity {
            math::apply_in_place(isa, self.function, sums);
        }
        if let Some((residual, stride)) = self.residual {
            add_each(isa, sums, &residual[row * stride + column..][..sums.len()]);
        }
    }
}

vectorised! {
    fn add_everywhere(sums: &mut [f32], addend: f32) {
        sums.iter_mut().for_each(|x| *x += addend);
    }
}

vectorised! {
    fn add_each(sums: &mut [f32], addends: &[f32]) {
        sums.iter_mut().zip(addends).for_each(|(x, y)| *x += y);
    }
}

/// The columns of some panels of a product whose operands are ready.
///
/// # Safety
/// `target` has `m` rows of `n` elements at its stride, and nobody else touches the columns of these panels meanwhile.
pub(crate) unsafe fn multiply_panels(
    isa: Isa,
    Size { m, k, n }: Size,
    left: Rows<'_>,
    right: &[f32],
    panels: Range<usize>,
    target: Target,
    epilogue: Epilogue<'_>,
) {
    let nr = isa.tile().columns;
    assert!(left.hold(m, k) && right.len() >= panels.end * nr * k, "operands are whole");
    let together = if epilogue.follows() { (FINISHED_COLUMNS / nr).max(1) } else { panels.len().max(1) };
    for first in panels.clone().step_by(together) {
        let panels = first..(first + together).min(panels.end);
        // SAFETY: the caller's promise; the operands are whole.
        unsafe { sum_panels(isa, Size { m, k, n }, left, right, panels.clone(), target, epilogue.bias) };
        if epilogue.follows() {
            let columns = panels.start * nr..n.min(panels.end * nr);
            for row in 0..m {
                // SAFETY: the caller's promise.
                let sums = unsafe {
                    let first = target.part(row, columns.start).first;
                    core::slice::from_raw_parts_mut(first, columns.len())
                };
                epilogue.finish(isa, row, columns.start, sums);
            }
        }
    }
}

/// The sums of some panels, as [`multiply_panels`] has them before what follows.
///
/// # Safety
/// As for [`multiply_panels`]; `left` holds `m` rows, and `right` the panels.
unsafe fn sum_panels(
    isa: Isa,
    Size { m, k, n }: Size,
    left: Rows<'_>,
    right: &[f32],
    panels: Range<usize>,
    target: Target,
    bias: Option<&[f32]>,
) {
    let nr = isa.tile().columns;
    let mr = left.of_a_tile(isa);
    for panel in panels {
        let columns = nr.min(n - panel * nr);
        let mut starts = [0.0; MAX_COLUMNS];
        if let Some(bias) = bias {
            starts[..columns].copy_from_slice(&bias[panel * nr..][..columns]);
        }
        for first in (0..k).step_by(BLOCK_STEPS) {
            let steps = BLOCK_STEPS.min(k - first);
            let right = &right[(panel * k + first) * nr..][..steps * nr];
            // What lies behind this part of the panel comes next; each tile fetches as much of it as the others.
            let share = (right.len() * 4).div_ceil(m.div_ceil(mr));
            for at in (0..m).step_by(mr) {
                let rows = mr.min(m - at);
                let behind = right.as_ptr_range().end.wrapping_byte_add(at / mr * share);
                let ahead = Ahead { first: behind, bytes: share.div_ceil(steps) };
                let left = left.tile(k, at, rows, first);
                // SAFETY: the tile begins inside the target.
                let part = unsafe { target.part(at, panel * nr) };
                let place = Place { rows, columns, nr, continues: first > 0, ahead };
                // SAFETY: the tile's rows and columns are inside the target and nobody else's; the operands were seen to
                // hold `steps` steps from here.
                unsafe { multiply_tile(isa, place, left, right, &starts, part) };
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
    ahead: Ahead,
}

/// One tile, through a buffer where it is narrower than the kernel's.
///
/// # Safety
/// `out` has `rows` rows of `columns` elements, which nobody else touches meanwhile; `left` holds as many steps as `right`.
unsafe fn multiply_tile(isa: Isa, place: Place, left: Left, right: &[f32], bias: &[f32; MAX_COLUMNS], out: Target) {
    let Place { rows, columns, nr, continues, ahead } = place;
    let steps = right.len() / nr;
    let from_bias = (bias.as_ptr(), 0);
    if columns == nr {
        let (start, start_stride) = if continues { (out.first.cast_const(), out.stride) } else { from_bias };
        let tile = Tile { start, start_stride, out: out.first, out_stride: out.stride, ahead };
        // SAFETY: the operands hold `steps` steps, the tile is whole.
        unsafe { multiply(isa, rows, steps, left, right.as_ptr(), tile) };
        return;
    }
    let mut buffer = [0.0f32; MAX_ROWS * MAX_COLUMNS];
    let first = buffer.as_mut_ptr();
    let rows_of = |row: usize| {
        // SAFETY: the row is inside the target and nobody else's.
        unsafe { core::slice::from_raw_parts_mut(out.first.add(row * out.stride), columns) }
    };
    if continues {
        for (row, buffer) in buffer.chunks_exact_mut(nr).enumerate().take(rows) {
            buffer[..columns].copy_from_slice(rows_of(row));
        }
    }
    let (start, start_stride) = if continues { (first.cast_const(), nr) } else { from_bias };
    let tile = Tile { start, start_stride, out: first, out_stride: nr, ahead };
    // SAFETY: the operands hold `steps` steps, the buffer holds the largest tile; each row is read before it is written.
    unsafe { multiply(isa, rows, steps, left, right.as_ptr(), tile) };
    for (row, buffer) in buffer.chunks_exact(nr).enumerate().take(rows) {
        rows_of(row).copy_from_slice(&buffer[..columns]);
    }
}

#[cfg(test)]
mod tests;
