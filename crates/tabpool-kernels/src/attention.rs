//! Attention, one head of one sequence at a time: scores of a block of queries, softmax, and the weighted sum, all while
//! they are in the cache. Heads of few queries read keys and values where they lie; others have them packed, as far as the last
//! query sees.

use crate::gemm::{Epilogue, Matrix, Rows, Size, Target, TileSize, multiply_panels, pack_right, packed_right_len};
use crate::isa::{Isa, vectorised};
use crate::rows::{dot, scale_in_place, shares_in_place};
use crate::step::{Units, line};

/// Queries whose scores are held at once: a multiple of every level's [`strided_rows`](Isa::strided_rows).
const BLOCK_QUERIES: usize = 48;

/// The most queries of a head that are multiplied with keys and values as they lie: packing those would take longer than what
/// it speeds up. A decoder has one.
const FEW_QUERIES: usize = 3;

/// The sizes of an attention node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Sequences.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// How many heads share one of keys and values.
    pub shared: usize,
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
    /// Whether queries see keys up to their own position only.
    pub causal: bool,
}

/// What one head of one sequence is computed from; the slices begin with its first elements.
#[derive(Clone, Copy)]
struct Head<'a> {
    batch: usize,
    head: usize,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    biases: [Option<&'a [f32]>; 2],
    /// The position of the first query among the keys.
    start: usize,
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
        if self.queries <= FEW_QUERIES {
            return [0, 0, line(self.keys)];
        }
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

    /// Elements from one row of queries, of keys and of values to the next.
    fn widths(&self) -> [usize; 3] {
        let kv_heads = self.heads / self.shared;
        [self.heads * self.depth, kv_heads * self.depth, kv_heads * self.depth_v]
    }

    /// How many keys a query sees, at least one.
    fn seen(&self, start: usize, query: usize) -> usize {
        if self.causal { start.saturating_add(query + 1).min(self.keys) } else { self.keys }
    }

    /// Computes heads. Those of one thread that share keys share what is packed.
    ///
    /// # Safety
    /// `out` is the first element of the whole result; nobody else touches the rows and columns of these heads.
    // A function of its own in a browser: see `vectorised!`.
    #[cfg_attr(target_family = "wasm", inline(never))]
    #[expect(clippy::too_many_arguments, reason = "what a step has, each once")]
    pub(crate) unsafe fn compute(
        &self,
        isa: Isa,
        [q, k, v]: [&[f32]; 3],
        biases: [Option<&[f32]>; 2],
        start: i32,
        out: *mut f32,
        lane: &mut [f32],
        units: &mut Units<'_, '_>,
    ) {
        let tile = isa.tile();
        let target = Target { first: out, stride: self.heads * self.depth_v };
        let [width, width_k, width_v] = self.widths();
        let start = usize::try_from(start).unwrap_or(0);
        let [keys_len, values_len, scores_len] = self.parts(tile);
        let (packed_k, lane) = lane.split_at_mut(keys_len);
        let (packed_v, lane) = lane.split_at_mut(values_len);
        let scores = &mut lane[..scores_len];
        let mut holds = None;
        for unit in units {
            let (batch, head) = (unit / self.heads, unit % self.heads);
            let kv_head = head / self.shared;
            // SAFETY: the head's first row and column are inside the output.
            let target = unsafe { target.part(batch * self.queries, head * self.depth_v) };
            let of = Head {
                batch,
                head,
                q: &q[batch * self.queries * width + head * self.depth..],
                k: &k[batch * self.keys * width_k + kv_head * self.depth..],
                v: &v[batch * self.keys * width_v + kv_head * self.depth_v..],
                biases,
                start,
            };
            if self.queries <= FEW_QUERIES {
                // SAFETY: no other call writes this head's rows and columns.
                unsafe { self.few(isa, of, target, scores) };
                continue;
            }
            // Nothing beyond what the last query sees is looked at.
            let seen = self.seen(start, self.queries - 1);
            if holds.replace((batch, kv_head)) != Some((batch, kv_head)) {
                let turned = Matrix { elements: of.k, row_stride: 1, column_stride: width_k };
                pack_right(tile, turned, self.depth, seen, packed_k);
                let values = Matrix { elements: of.v, row_stride: width_v, column_stride: 1 };
                pack_right(tile, values, seen, self.depth_v, packed_v);
            }
            // SAFETY: as above.
            unsafe { self.many(isa, of, [packed_k, packed_v], target, scores) };
        }
    }

    /// A head of few queries, one after the other, over keys and values as they lie.
    ///
    /// # Safety
    /// `target` has `queries` rows of `depth_v` elements that nobody else touches meanwhile.
    unsafe fn few(&self, isa: Isa, of: Head<'_>, target: Target, scores: &mut [f32]) {
        let [width, width_k, width_v] = self.widths();
        for query in 0..self.queries {
            let scores = &mut scores[..self.seen(of.start, query)];
            dots(isa, &of.q[query * width..][..self.depth], of.k, width_k, scores);
            let sum = self.shares(isa, &of, query, scores);
            // SAFETY: the row is inside the target.
            let out = unsafe { core::slice::from_raw_parts_mut(target.part(query, 0).first, self.depth_v) };
            out.fill(0.0);
            add_weighted(isa, scores, of.v, width_v, out);
            scale_in_place(isa, out, sum);
        }
    }

    /// A head whose keys and values are packed, as far as its last query sees.
    ///
    /// # Safety
    /// As for [`few`](Self::few).
    unsafe fn many(
        &self,
        isa: Isa,
        of: Head<'_>,
        [packed_k, packed_v]: [&[f32]; 2],
        target: Target,
        scores: &mut [f32],
    ) {
        let (tile, [width, ..]) = (isa.tile(), self.widths());
        for first in (0..self.queries).step_by(BLOCK_QUERIES) {
            let rows = BLOCK_QUERIES.min(self.queries - first);
            let mut sums = [0.0; BLOCK_QUERIES];
            let queries = Rows::Strided(&of.q[first * width..], width);
            let row = self.row(tile);
            let size = Size { m: rows, k: self.depth, n: row };
            let into = Target { first: scores.as_mut_ptr(), stride: row };
            let panels = 0..self.seen(of.start, first + rows - 1).div_ceil(tile.columns);
            // SAFETY: the scores have `rows` rows of `row` elements and are this call's own; the last panel of keys is filled up.
            unsafe { multiply_panels(isa, size, queries, packed_k, panels, into, Epilogue::NONE) };
            for ((query, scores), sum) in scores.chunks_exact_mut(row).enumerate().zip(&mut sums[..rows]) {
                let seen = self.seen(of.start, first + query);
                *sum = self.shares(isa, &of, first + query, &mut scores[..seen]);
            }
            // SAFETY: the block begins inside the head, which is this call's own.
            unsafe {
                let into = target.part(first, 0);
                self.weigh(isa, of, (first, rows), packed_v, scores, into);
                for (row, &scale) in sums[..rows].iter().enumerate() {
                    let row = core::slice::from_raw_parts_mut(into.part(row, 0).first, self.depth_v);
                    scale_in_place(isa, row, scale);
                }
            }
        }
    }

    /// The sums of values that a block of queries sees, weighed by their shares.
    ///
    /// # Safety
    /// `into` has as many rows of `depth_v` elements, which nobody else touches meanwhile.
    unsafe fn weigh(
        &self,
        isa: Isa,
        of: Head<'_>,
        (first, rows): (usize, usize),
        packed_v: &[f32],
        scores: &[f32],
        into: Target,
    ) {
        let (tile, [.., width_v], row) = (isa.tile(), self.widths(), self.row(isa.tile()));
        let packed = self.seen(of.start, self.queries - 1);
        // Queries that see different keys go a tile at a time: what all of them see is a product, and the few keys that some of
        // them see alone come after it. So a value that a query does not see is never multiplied with, whatever it is.
        let alike = self.seen(of.start, first) == self.seen(of.start, first + rows - 1);
        let step = if alike { rows } else { isa.strided_rows() };
        for at in (0..rows).step_by(step) {
            let count = step.min(rows - at);
            let common = self.seen(of.start, first + at);
            let shares = Rows::Strided(&scores[at * row..], row);
            for panel in 0..self.depth_v.div_ceil(tile.columns) {
                let columns = tile.columns.min(self.depth_v - panel * tile.columns);
                let size = Size { m: count, k: common, n: columns };
                let values = &packed_v[panel * packed * tile.columns..];
                // SAFETY: the caller's promise; the panel holds `packed` rows, at least those that are common.
                unsafe {
                    let into = into.part(at, panel * tile.columns);
                    multiply_panels(isa, size, shares, values, 0..1, into, Epilogue::NONE);
                }
            }
            for query in at + 1..at + count {
                let alone = &scores[query * row..][common..self.seen(of.start, first + query)];
                if !alone.is_empty() {
                    // SAFETY: the row is inside the target.
                    let out = unsafe { core::slice::from_raw_parts_mut(into.part(query, 0).first, self.depth_v) };
                    add_weighted(isa, alone, &of.v[common * width_v..], width_v, out);
                }
            }
        }
    }

    /// Turns the scores of one query into shares, up to the factor that is returned.
    fn shares(&self, isa: Isa, of: &Head<'_>, query: usize, scores: &mut [f32]) -> f32 {
        let seen = scores.len();
        let row = |n: usize| {
            let [sb, sh, sq, sk] = self.bias_strides[n];
            let elements: &[f32] = of.biases[n]?;
            Some(&elements[of.batch * sb + of.head * sh + query * sq..][..if sk == 0 { 1 } else { seen }])
        };
        shares_in_place(isa, scores, self.scale, [row(0), row(1)])
    }
}

vectorised! {
    /// The product of a query with each of these keys, which lie `stride` elements apart.
    fn dots(query: &[f32], keys: &[f32], stride: usize, scores: &mut [f32]) {
        for (score, key) in scores.iter_mut().zip(keys.chunks(stride)) {
            *score = dot(query, &key[..query.len()]);
        }
    }
}

vectorised! {
    /// Adds rows, which lie `stride` elements apart, each times its weight; four at a time, so that sums are read and written a
    /// quarter as often.
    fn add_weighted(weights: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
        let width = out.len();
        let row = |n: usize| &rows[n * stride..][..width];
        let (fours, rest) = weights.as_chunks::<4>();
        for (n, &[a, b, c, d]) in fours.iter().enumerate() {
            let [ra, rb, rc, rd] = [row(4 * n), row(4 * n + 1), row(4 * n + 2), row(4 * n + 3)];
            for ((((out, ra), rb), rc), rd) in out.iter_mut().zip(ra).zip(rb).zip(rc).zip(rd) {
                *out += (a * ra + b * rb) + (c * rc + d * rd);
            }
        }
        for (n, weight) in rest.iter().enumerate() {
            out.iter_mut().zip(row(4 * fours.len() + n)).for_each(|(out, x)| *out += weight * x);
        }
    }
}
