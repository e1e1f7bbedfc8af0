//! Attention, one head of one sequence at a time: scores of a block of queries, softmax, and the weighted sum, all while
//! they are in the cache. Heads are split over threads.

use super::gemm::{
    Epilogue, Matrix, Size, Target, multiply_panels, pack_left, pack_right, packed_right_len, tile_size,
};
use super::isa::Isa;
use super::rows::{scale_and_add, softmax_in_place};
use super::threads::Threads;
use super::words::Words;

/// Queries whose scores are held at once: a multiple of every level's tile.
const BLOCK_QUERIES: usize = 48;

/// The sizes of an attention node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Attention {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// The width of one head of queries and keys.
    pub(crate) depth: usize,
    /// The width of one head of values.
    pub(crate) depth_v: usize,
    pub(crate) scale: f32,
}

/// A bias with its strides over `[batch, heads, queries, keys]`, 0 where it stretches.
#[derive(Clone, Copy)]
pub(crate) struct Bias<'a> {
    pub(crate) elements: &'a [f32],
    pub(crate) strides: [usize; 4],
}

impl Attention {
    /// The elements of scratch memory each thread needs.
    pub(crate) fn scratch_len(&self, isa: Isa) -> usize {
        self.parts(isa).iter().sum()
    }

    /// Packed keys, packed values, scores, packed rows of queries or scores; each a multiple of a cache line.
    fn parts(&self, isa: Isa) -> [usize; 4] {
        let queries = BLOCK_QUERIES.min(self.queries);
        [
            packed_right_len(isa, self.depth, self.keys),
            packed_right_len(isa, self.keys, self.depth_v),
            queries * self.keys,
            queries * self.depth.max(self.keys),
        ]
        .map(|len| len.next_multiple_of(16))
    }

    /// Computes all heads. `scratch` holds the memory of each thread.
    pub(crate) fn compute(
        &self,
        (isa, threads): (Isa, &Threads),
        [q, k, v]: [&[f32]; 3],
        biases: &[Option<Bias<'_>>; 2],
        out: &mut [f32],
        scratch: &mut [Words],
    ) {
        let width_v = self.heads * self.depth_v;
        let target = Target::new(out, width_v);
        let heads = self.batch * self.heads;
        let lanes = scratch.len().min(heads);
        let lanes_of_memory = Lanes(scratch.as_mut_ptr());
        let lanes_of_memory = &lanes_of_memory;
        threads.each(lanes, |lane| {
            // SAFETY: each lane is given to one call, and `lane` is below the number of scratch memories.
            let memory = unsafe { lanes_of_memory.get(lane) };
            for head in (lane..heads).step_by(lanes) {
                let (batch, head) = (head / self.heads, head % self.heads);
                // SAFETY: the head's first row and column are inside the output.
                let target = unsafe { target.part(batch * self.queries, head * self.depth_v) };
                let first = |rows: usize, depth: usize| (batch * rows * self.heads + head) * depth;
                let part = [
                    &q[first(self.queries, self.depth)..],
                    &k[first(self.keys, self.depth)..],
                    &v[first(self.keys, self.depth_v)..],
                ];
                // SAFETY: no other call writes this head's rows and columns.
                unsafe { self.head(isa, (batch, head), part, biases, target, memory.floats_mut()) };
            }
        });
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
        biases: &[Option<Bias<'_>>; 2],
        target: Target,
        memory: &mut [f32],
    ) {
        let (width, width_v) = (self.heads * self.depth, self.heads * self.depth_v);
        let nr = tile_size(isa).1;
        let [keys_len, values_len, scores_len, _] = self.parts(isa);
        let (packed_k, memory) = memory.split_at_mut(keys_len);
        let (packed_v, memory) = memory.split_at_mut(values_len);
        let (scores, left) = memory.split_at_mut(scores_len);
        let turned = Matrix { elements: k, row_stride: 1, column_stride: width };
        pack_right(isa, turned, self.depth, self.keys, packed_k);
        let values = Matrix { elements: v, row_stride: width_v, column_stride: 1 };
        pack_right(isa, values, self.keys, self.depth_v, packed_v);
        for first in (0..self.queries).step_by(BLOCK_QUERIES) {
            let rows = BLOCK_QUERIES.min(self.queries - first);
            let queries = Matrix { elements: &q[first * width..], row_stride: width, column_stride: 1 };
            pack_left(isa, queries, rows, self.depth, left);
            let size = Size { m: rows, k: self.depth, n: self.keys };
            let (into, panels) = (Target::new(scores, self.keys), 0..self.keys.div_ceil(nr));
            // SAFETY: the scores have `rows` rows of `keys` elements and are this call's own.
            unsafe { multiply_panels(isa, size, left, packed_k, panels, into, Epilogue::default()) };
            for (row, scores) in scores.chunks_exact_mut(self.keys).enumerate().take(rows) {
                self.shares(isa, [batch, head, first + row], biases, scores);
            }
            let shares = Matrix { elements: scores, row_stride: self.keys, column_stride: 1 };
            pack_left(isa, shares, rows, self.keys, left);
            let size = Size { m: rows, k: self.keys, n: self.depth_v };
            // SAFETY: the block begins inside the head, which is this call's own.
            unsafe {
                let into = target.part(first, 0);
                multiply_panels(isa, size, left, packed_v, 0..self.depth_v.div_ceil(nr), into, Epilogue::default());
            }
        }
    }

    /// Turns the scores of one query into shares.
    fn shares(&self, isa: Isa, at: [usize; 3], biases: &[Option<Bias<'_>>; 2], scores: &mut [f32]) {
        let mut scale = self.scale;
        for bias in biases.iter().flatten() {
            let [sb, sh, sq, sk] = bias.strides;
            let first = at[0] * sb + at[1] * sh + at[2] * sq;
            scale_and_add(isa, scores, scale, &bias.elements[first..][..if sk == 0 { 1 } else { self.keys }]);
            scale = 1.0;
        }
        if biases[0].is_none() {
            scale_and_add(isa, scores, scale, &[0.0]);
        }
        softmax_in_place(isa, scores);
    }
}

/// The scratch memories of all threads.
struct Lanes(*mut Words);

// SAFETY: an address; `get`'s callers take different lanes.
unsafe impl Sync for Lanes {}

impl Lanes {
    /// # Safety
    /// `lane` is below the number of memories, and no other reference to it exists.
    #[expect(clippy::mut_from_ref, reason = "each lane is taken once, as the safety section asks")]
    unsafe fn get(&self, lane: usize) -> &mut Words {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.add(lane) }
    }
}
