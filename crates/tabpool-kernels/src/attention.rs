//! Attention, one head of one sequence at a time: scores of a block of queries, softmax, and the weighted sum, all while
//! they are in the cache.

use crate::gemm::{Epilogue, Matrix, Rows, Size, Target, TileSize, multiply_panels, pack_right, packed_right_len};
use crate::isa::Isa;
use crate::rows::{scale_in_place, shares_in_place};
use crate::step::line;

/// Queries whose scores are held at once: a multiple of every level's tile.
const BLOCK_QUERIES: usize = 48;

/// The sizes of an attention node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Sequences.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Queries of a sequence.
    pub queries: usize,
    /// Keys of a sequence.
    pub keys: usize,
    /// The width of one head of queries and keys.
    pub depth: usize,
    /// The width of one head of values.
    pub depth_v: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// The strides of both biases over `[batch, heads, queries, keys]`, 0 where one stretches.
    pub bias_strides: [[usize; 4]; 2],
}

impl Attention {
    /// The parts that may be computed independently: heads of sequences.
    pub(crate) fn units(&self) -> usize {
        self.batch * self.heads
    }

    /// The elements of memory each thread needs.
    pub(crate) fn lane_len(&self, tile: TileSize) -> usize {
        self.parts(tile).iter().sum()
    }

    /// Packed keys, packed values, scores; each a multiple of a cache line. Queries and scores are read where they are: they
    /// are few and in the cache, and packing them would take as long as a good part of their product.
    fn parts(&self, tile: TileSize) -> [usize; 3] {
        let queries = BLOCK_QUERIES.min(self.queries);
        [
            line(packed_right_len(tile, self.depth, self.keys)),
            line(packed_right_len(tile, self.keys, self.depth_v)),
            line(queries * self.row(tile)),
        ]
    }

    /// Elements from one row of scores to the next: whole panels, so that no tile goes through a buffer.
    fn row(&self, tile: TileSize) -> usize {
        self.keys.next_multiple_of(tile.columns)
    }

    /// Computes heads.
    ///
    /// # Safety
    /// `out` is the first element of the whole result; nobody else touches the rows and columns of these heads.
    // A function of its own in a browser: see `vectorised!`.
    #[cfg_attr(target_family = "wasm", inline(never))]
    pub(crate) unsafe fn compute(
        &self,
        isa: Isa,
        [q, k, v]: [&[f32]; 3],
        biases: [Option<&[f32]>; 2],
        out: *mut f32,
        lane: &mut [f32],
        units: &mut dyn Iterator<Item = usize>,
    ) {
        let target = Target { first: out, stride: self.heads * self.depth_v };
        for unit in units {
            let (batch, head) = (unit / self.heads, unit % self.heads);
            // SAFETY: the head's first row and column are inside the output.
            let target = unsafe { target.part(batch * self.queries, head * self.depth_v) };
            let first = |rows: usize, depth: usize| (batch * rows * self.heads + head) * depth;
            let part = [
                &q[first(self.queries, self.depth)..],
                &k[first(self.keys, self.depth)..],
                &v[first(self.keys, self.depth_v)..],
            ];
            // SAFETY: no other call writes this head's rows and columns.
            unsafe { self.head(isa, (batch, head), part, biases, target, lane) };
        }
    }

    /// One head of one sequence, whose first elements the operands begin with.
    ///
    /// # Safety
    /// `target` has `queries` rows of `depth_v` elements that nobody else touches meanwhile.
    unsafe fn head(
        &self,
        isa: Isa,
        (batch, head): (usize, usize),
        [q, k, v]: [&[f32]; 3],
        biases: [Option<&[f32]>; 2],
        target: Target,
        memory: &mut [f32],
    ) {
        let (width, width_v) = (self.heads * self.depth, self.heads * self.depth_v);
        let tile = isa.tile();
        let [keys_len, values_len, scores_len] = self.parts(tile);
        let (packed_k, memory) = memory.split_at_mut(keys_len);
        let (packed_v, memory) = memory.split_at_mut(values_len);
        let scores = &mut memory[..scores_len];
        let turned = Matrix { elements: k, row_stride: 1, column_stride: width };
        pack_right(tile, turned, self.depth, self.keys, packed_k);
        let values = Matrix { elements: v, row_stride: width_v, column_stride: 1 };
        pack_right(tile, values, self.keys, self.depth_v, packed_v);
        for first in (0..self.queries).step_by(BLOCK_QUERIES) {
            let rows = BLOCK_QUERIES.min(self.queries - first);
            let mut sums = [0.0; BLOCK_QUERIES];
            let queries = Rows::Strided(&q[first * width..], width);
            let row = self.row(tile);
            let size = Size { m: rows, k: self.depth, n: row };
            let into = Target { first: scores.as_mut_ptr(), stride: row };
            let panels = 0..row / tile.columns;
            // SAFETY: the scores have `rows` rows of `row` elements and are this call's own; the last panel of keys is filled up.
            unsafe { multiply_panels(isa, size, queries, packed_k, panels, into, Epilogue::NONE) };
            for ((query, scores), sum) in scores.chunks_exact_mut(row).enumerate().zip(&mut sums[..rows]) {
                *sum = self.shares(isa, [batch, head, first + query], biases, &mut scores[..self.keys]);
            }
            let shares = Rows::Strided(scores, row);
            let size = Size { m: rows, k: self.keys, n: self.depth_v };
            // SAFETY: the block begins inside the head, which is this call's own.
            unsafe {
                let into = target.part(first, 0);
                let panels = 0..self.depth_v.div_ceil(tile.columns);
                multiply_panels(isa, size, shares, packed_v, panels, into, Epilogue::NONE);
                for (row, &scale) in sums[..rows].iter().enumerate() {
                    let row = core::slice::from_raw_parts_mut(into.part(row, 0).first, self.depth_v);
                    scale_in_place(isa, row, scale);
                }
            }
        }
    }

    /// Turns the scores of one query into shares, up to the factor that is returned.
    fn shares(&self, isa: Isa, at: [usize; 3], biases: [Option<&[f32]>; 2], scores: &mut [f32]) -> f32 {
        let row = |n: usize| {
            let [sb, sh, sq, sk] = self.bias_strides[n];
            let elements: &[f32] = biases[n]?;
            Some(&elements[at[0] * sb + at[1] * sh + at[2] * sq..][..if sk == 0 { 1 } else { self.keys }])
        };
        shares_in_place(isa, scores, self.scale, [row(0), row(1)])
    }
}
