//! Products of seven quarters instead of eight.
//!
//! Both operands and the result are cut into halves both ways. Strassen ("Gaussian elimination is not optimal", 1969) found
//! that seven products of sums of quarters do where the plain way takes eight of quarters; the form with the fewest additions
//! is Winograd's. One level of it takes an eighth of the multiplications away, and of what that gains its sums take about a third
//! at 128 rows, less at more. The columns' halves are not far apart: a panel is paired with the next one, so that what is at
//! work stays in the L1 cache. Sums of the left operand are made when it is packed, those of the right one as a pair of panels comes
//! by: weights lie in memory as they do for the plain way, which products of few rows take.
//!
//! Rounding errors are about twice those of the plain way, which are bounded element by element, while these are only by the
//! largest elements of what is multiplied together. Rows may be of different requests. So a row and its partner in the other half must
//! be alike in size, or their block goes the plain way; for the same reason what is infinite or no number stays in its own row.
//! Columns of the right operand must be alike in the same way, which is for whoever loads weights to see ([`columns_alike`]).

use core::array;
use core::ops::Range;

use super::pack::pack_tile;
use super::tile::{Ahead, Left, MAX_COLUMNS, Tile, TileSize, multiply};
use super::{Epilogue, FINISHED_COLUMNS, Right, Rows, Size, Target, multiply_panels};
use crate::isa::{Isa, vectorised};
use crate::step::line;

/// With fewer rows the sums of the right operand take as long as what they save.
const FEWEST_ROWS: usize = 48;

/// With fewer steps of `k` the sums of the result take as long as what they save.
const FEWEST_STEPS: usize = 128;

/// The most steps of `k` at a time: of the packed rows of a block so many stay in an L2 cache.
const MOST_STEPS: usize = 768;

/// How far the exponents of the largest elements of two partners, rows or columns, may be apart: what the larger one adds to the
/// smaller one's rounding errors stays a few bits. Trained weights have single columns 60 times as large as their partners; with
/// those let through an encoder's errors are five times as large.
const UNLIKE: u32 = 4;

/// What is packed of the left operand, in this order.
#[derive(Clone, Copy)]
enum Packed {
    A11,
    A12,
    A22,
    S1,
    S2,
    S3,
    S4,
}

/// Whether a product of this size is worth it.
pub(super) fn pays(tile: TileSize, size: Size, right: Right) -> bool {
    right == Right::Packed
        && size.m >= FEWEST_ROWS
        && size.k >= FEWEST_STEPS
        && size.k.is_multiple_of(2)
        && size.n.is_multiple_of(2 * tile.columns)
}

/// Whether a block of so many rows of such a product is.
pub(super) fn pays_for(rows: usize) -> bool {
    rows >= FEWEST_ROWS
}

/// The elements of a block's packed rows.
pub(super) fn packed_left_len(rows: usize, k: usize) -> usize {
    line(7 * (rows / 2) * (k / 2))
}

/// The elements of the memory that [`multiply_pairs`] works in.
pub(super) fn work_len(tile: TileSize, rows: usize, k: usize) -> usize {
    line(4 * tile.columns * (chunk_steps(k) / 2 + rows / 2))
}

/// Steps that are taken together: an even number, and all alike but the last ones.
fn chunk_steps(k: usize) -> usize {
    k.div_ceil(k.div_ceil(MOST_STEPS)).next_multiple_of(2)
}

fn chunks(k: usize) -> impl Iterator<Item = Range<usize>> {
    let steps = chunk_steps(k);
    (0..k).step_by(steps).map(move |first| first..(first + steps).min(k))
}

/// Where a quarter, or a sum of quarters, of these steps lies among packed rows.
fn packed_at(which: Packed, half_rows: usize, steps: &Range<usize>) -> Range<usize> {
    let len = half_rows * (steps.len() / 2);
    let first = 7 * half_rows * (steps.start / 2) + which as usize * len;
    first..first + len
}

/// Packs rows of a left operand that lie one after the other, without the last one of an odd number. False where partners are
/// not alike: nothing is packed then.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(super) fn pack_left(isa: Isa, a: &[f32], rows: usize, k: usize, out: &mut [f32]) -> bool {
    let (half_rows, mr) = (rows / 2, isa.tile().rows);
    let size = |row: usize| largest(isa, &a[row * k..][..k]);
    if !(0..half_rows).all(|row| alike(size(row), size(row + half_rows))) {
        return false;
    }
    for chunk in chunks(k) {
        let half = chunk.len() / 2;
        let len = half_rows * half;
        let mut parts = out[7 * half_rows * (chunk.start / 2)..][..7 * len].chunks_exact_mut(len);
        let mut parts: [&mut [f32]; 7] = array::from_fn(|_| parts.next().expect("seven parts"));
        for at in (0..half_rows).step_by(mr) {
            let rows = mr.min(half_rows - at);
            let [a11, a12, a22, s1, s2, s3, s4] = parts.each_mut().map(|part| &mut part[at * half..][..rows * half]);
            let pack = |i: usize, j: usize, out: &mut [f32]| {
                pack_tile(&a[(i * half_rows + at) * k + chunk.start + j * half..], k, half, out);
            };
            pack(0, 0, a11);
            pack(0, 1, a12);
            pack(1, 0, s3);
            pack(1, 1, a22);
            add_left(isa, [a11, a12, a22], s3, [s1, s2, s4]);
        }
    }
    true
}

/// Whether two rows or columns may be added, by their largest elements.
fn alike(a: u32, b: u32) -> bool {
    let (a, b) = (a >> 23, b >> 23);
    a.max(b) < 255 && a.abs_diff(b) <= UNLIKE
}

vectorised! {
    /// The size of the largest element, as bits: that of what is no number is larger still.
    fn largest(row: &[f32]) -> u32 {
        row.iter().map(|x| x.to_bits() & 0x7fff_ffff).fold(0, |a, b| if a > b { a } else { b })
    }
}

/// Whether columns of a packed right operand may be added that are partners. It has an even number of panels.
pub(super) fn columns_alike(isa: Isa, packed: &[f32], k: usize) -> bool {
    let nr = isa.tile().columns;
    packed.chunks_exact(2 * nr * k).all(|pair| {
        let mut sizes = [[0; MAX_COLUMNS]; 2];
        for (panel, sizes) in pair.chunks_exact(nr * k).zip(&mut sizes) {
            largest_each(isa, panel, &mut sizes[..nr]);
        }
        sizes[0][..nr].iter().zip(&sizes[1]).all(|(&a, &b)| alike(a, b))
    })
}

vectorised! {
    /// The sizes of the largest element of every column of a panel, as bits.
    fn largest_each(panel: &[f32], sizes: &mut [u32]) {
        let across = sizes.len();
        for (column, sizes) in sizes.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            let mut most = [0u32; WIDTH];
            for step in panel.chunks_exact(across) {
                let step: &[f32; WIDTH] = step[column * WIDTH..].first_chunk().expect("panels are whole vectors wide");
                most = array::from_fn(|i| most[i].max(step[i].to_bits() & 0x7fff_ffff));
            }
            *sizes = most;
        }
    }
}

vectorised! {
    /// The four sums of quarters of the left operand; `third` is the lower left quarter and becomes the third one.
    fn add_left(quarters: [&[f32]; 3], third: &mut [f32], sums: [&mut [f32]; 3]) {
        let len = third.len();
        let [a11, a12, a22] = quarters.map(|quarter| &quarter[..len]);
        let [s1, s2, s4] = sums.map(|sum| &mut sum[..len]);
        for i in 0..len {
            let a21 = third[i];
            let (first, second) = (a21 + a22[i], a21 + a22[i] - a11[i]);
            s1[i] = first;
            s2[i] = second;
            third[i] = a11[i] - a21;
            s4[i] = a12[i] - second;
        }
    }
}

vectorised! {
    /// The four sums of quarters of a pair of panels, one after the other.
    fn add_right(quarters: [&[f32]; 4], sums: &mut [f32]) {
        let [b11, b12, b21, b22] = quarters;
        let len = b11.len();
        let (b12, b21, b22) = (&b12[..len], &b21[..len], &b22[..len]);
        let (t1, rest) = sums.split_at_mut(len);
        let (t2, rest) = rest.split_at_mut(len);
        let (t3, t4) = rest.split_at_mut(len);
        let t4 = &mut t4[..len];
        for i in 0..len {
            t1[i] = b12[i] - b11[i];
            t2[i] = b22[i] - t1[i];
            t3[i] = b22[i] - b12[i];
            t4[i] = b21[i] - t2[i];
        }
    }
}

/// Elements that are added at a time.
const WIDTH: usize = 8;

/// Rows of a panel's columns: with what their sums start, and where they go.
#[derive(Clone, Copy)]
struct Quarter {
    start: *const f32,
    start_stride: usize,
    out: Target,
}

impl Quarter {
    /// # Safety
    /// The row and so many columns are inside the quarter.
    #[inline(always)]
    unsafe fn start(&self, row: usize, column: usize) -> [f32; WIDTH] {
        // SAFETY: the caller's promise.
        unsafe { self.start.add(row * self.start_stride + column).cast::<[f32; WIDTH]>().read_unaligned() }
    }
}

/// The sums of products that are sums of others: of as many rows as a half has, as wide as a panel.
struct Sums<'a> {
    p1: &'a mut [f32],
    u2: &'a mut [f32],
    u3: &'a mut [f32],
    p5: &'a mut [f32],
}

vectorised! {
    /// What the last three products start with, and the lower right quarter.
    fn join(columns: usize, sums: &mut Sums<'_>, quarters: &[Quarter; 4]) {
        let add = |a: &[f32; WIDTH], b: &[f32; WIDTH]| -> [f32; WIDTH] { array::from_fn(|i| a[i] + b[i]) };
        let [c11, c12, c21, c22] = quarters;
        let across = columns / WIDTH;
        let Sums { p1, u2, u3, p5 } = sums;
        let [p1, u2, u3] = [p1, u2, u3].map(|sums| sums.as_chunks_mut::<WIDTH>().0.iter_mut());
        for (n, (((p1, u2), u3), p5)) in p1.zip(u2).zip(u3).zip(p5.as_chunks::<WIDTH>().0).enumerate() {
            let (row, column) = (n / across, n % across * WIDTH);
            // SAFETY: `multiply_pair` makes quarters with as many rows and columns as there are sums.
            unsafe {
                let corner = add(&add(u3, p5), &c22.start(row, column));
                c22.out.part(row, column).first.cast::<[f32; WIDTH]>().write_unaligned(corner);
                *u2 = add(&add(u2, p5), &c12.start(row, column));
                *u3 = add(u3, &c21.start(row, column));
                *p1 = add(p1, &c11.start(row, column));
            }
        }
    }
}

/// Operands of a product of a block of rows.
pub(super) struct Operands<'a> {
    /// What [`pack_left`] packed.
    pub(super) packed: &'a [f32],
    /// The left operand's last row, which is not among that if there is an odd number of rows.
    pub(super) last_row: &'a [f32],
    /// Panels, an even number.
    pub(super) right: &'a [f32],
}

/// A block of rows by some panels.
///
/// # Safety
/// `target` has `m` rows of `n` elements at its stride, and nobody else touches them meanwhile.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(super) unsafe fn multiply_pairs(
    isa: Isa,
    Size { m, k, n }: Size,
    Operands { packed, last_row, right }: Operands<'_>,
    work: &mut [f32],
    target: Target,
    epilogue: Epilogue<'_>,
) {
    let nr = isa.tile().columns;
    let half_rows = m / 2;
    assert!(packed.len() >= 7 * half_rows * (k / 2) && right.len() >= n * k, "operands are whole");
    let together = (FINISHED_COLUMNS / (2 * nr)).max(1) * 2 * nr;
    for first in (0..n).step_by(together) {
        let columns = together.min(n - first);
        for chunk in chunks(k) {
            for column in (first..first + columns).step_by(2 * nr) {
                let bias = epilogue.bias.map(|bias| &bias[column..][..2 * nr]);
                let pair = Pair { chunk: chunk.clone(), k, half_rows, bias };
                // SAFETY: the columns are inside the target, and the caller's promise.
                unsafe { multiply_pair(isa, &pair, packed, &right[column * k..n * k], work, target.part(0, column)) };
            }
        }
        if epilogue.follows() {
            for row in 0..2 * half_rows {
                // SAFETY: the caller's promise.
                let sums = unsafe { core::slice::from_raw_parts_mut(target.part(row, first).first, columns) };
                epilogue.finish(isa, row, first, sums);
            }
        }
    }
    if m % 2 == 1 {
        let row = m - 1;
        let residual = epilogue.residual.map(|(rows, stride)| (&rows[row * stride..], stride));
        let epilogue = Epilogue { residual, ..epilogue };
        // SAFETY: the caller's promise; a row as it lies is a packed tile of one row.
        unsafe {
            let target = target.part(row, 0);
            multiply_panels(isa, Size { m: 1, k, n }, Rows::Packed(last_row), right, 0..n / nr, target, epilogue);
        }
    }
}

/// Where a pair of panels is.
struct Pair<'a> {
    chunk: Range<usize>,
    k: usize,
    half_rows: usize,
    /// Of both panels.
    bias: Option<&'a [f32]>,
}

/// The steps of a chunk of a pair of panels, which `right` begins with.
///
/// # Safety
/// `target` has twice `half_rows` rows as long as two panels are wide, which nobody else touches; the operands are whole.
unsafe fn multiply_pair(isa: Isa, pair: &Pair<'_>, packed: &[f32], right: &[f32], work: &mut [f32], target: Target) {
    let Pair { ref chunk, k, half_rows, bias } = *pair;
    let nr = isa.tile().columns;
    let half = chunk.len() / 2;
    let quarter = |i: usize, j: usize| &right[(j * k + chunk.start + i * half) * nr..][..half * nr];
    let [b11, b12, b21, b22] = [quarter(0, 0), quarter(0, 1), quarter(1, 0), quarter(1, 1)];
    let (t, work) = work.split_at_mut(4 * half * nr);
    add_right(isa, [b11, b12, b21, b22], t);
    let [t1, t2, t3, t4] = array::from_fn(|i| &t[i * half * nr..][..half * nr]);
    let (p1, work) = work.split_at_mut(half_rows * nr);
    let (u2, work) = work.split_at_mut(half_rows * nr);
    let (u3, work) = work.split_at_mut(half_rows * nr);
    let mut sums = Sums { p1, u2, u3, p5: &mut work[..half_rows * nr] };

    let next = |j: usize| right.get(((2 + j) * k + chunk.start) * nr..((2 + j) * k + chunk.end) * nr).unwrap_or(&[]);
    let mut soon = Soon::new([next(0), next(1)], 7 * half_rows.div_ceil(isa.tile().rows));
    let nothing = [0.0f32; MAX_COLUMNS];
    let result = |i: usize, j: usize| {
        // SAFETY: the caller's promise.
        let out = unsafe { target.part(i * half_rows, j * nr) };
        let (start, start_stride) = match bias {
            _ if chunk.start > 0 => (out.first.cast_const(), out.stride),
            Some(bias) => (bias[j * nr..].as_ptr(), 0),
            None => (nothing.as_ptr(), 0),
        };
        Quarter { start, start_stride, out }
    };
    let quarters = [result(0, 0), result(0, 1), result(1, 0), result(1, 1)];
    let mut multiply = |which: Packed, right: &[f32], start: (*const f32, usize), out: Target| {
        let left = &packed[packed_at(which, half_rows, chunk)];
        // SAFETY: the operands have `half` steps; starts and results have `half_rows` rows as wide as a panel.
        unsafe { multiply_rows(isa, half_rows, left, right, start, out, &mut soon) };
    };
    let own = |sums: &mut [f32]| Target { first: sums.as_mut_ptr(), stride: nr };
    let from = |sums: &[f32]| (sums.as_ptr(), nr);
    let zero = (nothing.as_ptr(), 0);
    multiply(Packed::A11, b11, zero, own(sums.p1));
    multiply(Packed::S2, t2, from(sums.p1), own(sums.u2));
    multiply(Packed::S3, t3, from(sums.u2), own(sums.u3));
    multiply(Packed::S1, t1, zero, own(sums.p5));
    join(isa, nr, &mut sums, &quarters);
    multiply(Packed::A12, b21, from(sums.p1), quarters[0].out);
    multiply(Packed::S4, b22, from(sums.u2), quarters[1].out);
    multiply(Packed::A22, t4, from(sums.u3), quarters[2].out);
}

/// The pair of panels that comes next, of which every tile brings a part into the cache: weights come from memory, and while sums
/// of them are made there is nothing else to do.
struct Soon<'a> {
    panels: [&'a [f32]; 2],
    /// Elements for each tile, whole lines.
    part: usize,
    /// Elements that were left to later tiles.
    due: usize,
}

impl<'a> Soon<'a> {
    /// Elements of a cache line.
    const LINE: usize = 16;

    /// Elements that a program reads together where it cannot ask for lines without waiting for them. It waits about once,
    /// however many there are: with 5 lines for each tile an encoder's products are up to 8 % slower in Chromium on an Intel
    /// Xeon than with 12 for some; with none they are 1 to 2 % faster there, which nobody has measured elsewhere. With 16 to 48
    /// at a time they are slower again.
    const READ: usize = 12 * Self::LINE;

    fn new(panels: [&'a [f32]; 2], tiles: usize) -> Self {
        let part = (panels[0].len() + panels[1].len()).div_ceil(tiles).next_multiple_of(Self::LINE);
        Self { panels, part, due: 0 }
    }

    /// What this tile fetches, if it is its turn.
    #[inline(always)]
    fn fetch(&mut self, steps: usize) -> Ahead {
        if self.panels[0].is_empty() {
            self.panels = [self.panels[1], &[]];
        }
        self.due += self.part;
        let len = if cfg!(not(target_family = "wasm")) {
            self.due
        } else if self.due < Self::READ {
            0
        } else {
            Self::READ
        };
        self.due -= len;
        let (part, rest) = self.panels[0].split_at(len.min(self.panels[0].len()));
        self.panels[0] = rest;
        #[cfg(target_family = "wasm")]
        for line in part.chunks(Self::LINE) {
            // SAFETY: a line has an element.
            unsafe { line.as_ptr().read_volatile() };
        }
        Ahead { first: part.as_ptr(), bytes: (part.len() * 4).div_ceil(steps) }
    }
}

/// Adds packed rows by a panel to what they start with.
///
/// # Safety
/// `left` and `right` have as many steps, `start` and `out` as many rows as `left` and columns as a panel; nobody else touches
/// the rows of `out`.
unsafe fn multiply_rows(
    isa: Isa,
    rows: usize,
    left: &[f32],
    right: &[f32],
    (start, start_stride): (*const f32, usize),
    out: Target,
    soon: &mut Soon<'_>,
) {
    let TileSize { rows: mr, columns: nr } = isa.tile();
    let steps = right.len() / nr;
    for at in (0..rows).step_by(mr) {
        let rows = mr.min(rows - at);
        let left = Left { first: left[at * steps..].as_ptr(), row: 1, step: rows };
        let ahead = soon.fetch(steps);
        // SAFETY: the caller's promise.
        unsafe {
            let start = start.add(at * start_stride);
            let Target { first: out, stride: out_stride } = out.part(at, 0);
            multiply(isa, rows, steps, left, right.as_ptr(), Tile { start, start_stride, out, out_stride, ahead });
        }
    }
}
