//! The innermost loops of matrix products: one tile of the result in registers.
//!
//! A tile is `rows` by `columns` elements, of which the last tile may have fewer rows. The right operand comes packed,
//! `columns` elements for each step of `k`; the left one packed too, `rows` elements for each step, or as it lies in memory.
//! The sizes fill the register file: 24 of AVX-512's 32 registers hold sums, 12 of AVX2's 16, and 12 of the 15 that engines
//! of browsers give out, or 10 where a product needs a register of its own before it is added.

use crate::isa::Isa;

/// The rows of the largest tile of any level.
pub(crate) const MAX_ROWS: usize = 12;
/// The columns of the widest tile of any level.
pub(crate) const MAX_COLUMNS: usize = 32;

/// How a build of the kernels tiles its products: what whoever packs for it must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileSize {
    /// Rows of a tile.
    pub rows: usize,
    /// Columns of a tile: the width of a packed panel.
    pub columns: usize,
}

impl Isa {
    /// The tiles of a level.
    #[must_use]
    pub fn tile(self) -> TileSize {
        #[cfg(target_arch = "x86_64")]
        {
            if self.has_avx512() {
                return TileSize { rows: 12, columns: 32 };
            }
            if self.has_avx2() {
                return TileSize { rows: 6, columns: 16 };
            }
        }
        BASELINE
    }

    /// Rows of a tile whose left operand is read where it lies. In a browser that is an address for each row, and rows of
    /// some thousand bytes crowd each other out of the L1 cache: there six rows are slower than four.
    pub(crate) fn strided_rows(self) -> usize {
        if cfg!(all(target_arch = "wasm32", target_feature = "simd128")) { 4 } else { self.tile().rows }
    }
}

const BASELINE: TileSize = if cfg!(target_arch = "aarch64") {
    TileSize { rows: 8, columns: 8 }
} else if cfg!(target_feature = "relaxed-simd") {
    TileSize { rows: 6, columns: 8 }
} else if cfg!(target_feature = "simd128") {
    TileSize { rows: 5, columns: 8 }
} else {
    TileSize { rows: 4, columns: 8 }
};

/// Where a tile's sums start, and where they go.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// The first row's starting values, `NR` of them.
    pub(crate) start: *const f32,
    /// From one row's starting values to the next; 0 where all rows start alike.
    pub(crate) start_stride: usize,
    /// The first element of the result.
    pub(crate) out: *mut f32,
    /// From one row of the result to the next.
    pub(crate) out_stride: usize,
    /// What to fetch meanwhile.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "as for what it says"))]
    pub(crate) ahead: Ahead,
}

/// Memory that will be read next, fetched a little with every step of `k`: weights come from memory more slowly than they are
/// multiplied, so a panel is on its way while the one before it is used. Only a hint; there may be nothing there.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other kernels leave fetching to the processor"))]
pub(crate) struct Ahead {
    /// Where it begins.
    pub(crate) first: *const f32,
    /// Bytes for each step.
    pub(crate) bytes: usize,
}

/// A left operand: packed for the tile, or rows as they lie in memory.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub(crate) first: *const f32,
    /// From one row to the next.
    pub(crate) row: usize,
    /// From one step of `k` to the next.
    pub(crate) step: usize,
}

#[cfg(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128")))]
impl Left {
    /// Whether its elements lie in the order in which a tile of so many rows reads them.
    fn follows(&self, rows: usize) -> bool {
        self.step == rows && (self.row == 1 || rows == 1)
    }
}

/// Adds `left @ right` to the starting values of a tile.
///
/// # Safety
/// `rows` is 1 to the rows of `isa`'s tile, or to its [`strided_rows`](Isa::strided_rows) where `left` is not packed; `left` holds `rows * k` elements, `right` `columns * k`; every row of `tile`
/// holds `columns` elements, and nothing else reads or writes its result meanwhile.
pub(crate) unsafe fn multiply(isa: Isa, rows: usize, k: usize, left: Left, right: *const f32, tile: Tile) {
    macro_rules! call {
        ($kernel:ident, $left:expr, $($rows:literal)*) => {
            match rows {
                // SAFETY: the caller's promises are those of the kernel, and the level was detected.
                $($rows => unsafe { $kernel::<$rows>(k, $left, right, tile) },)*
                _ => debug_assert!(false, "a tile of {rows} rows"),
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    {
        if isa.has_avx512() {
            call!(avx512, left, 1 2 3 4 5 6 7 8 9 10 11 12);
            return;
        }
        if isa.has_avx2() {
            call!(avx2, left, 1 2 3 4 5 6);
            return;
        }
    }
    let _ = isa;
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    if left.follows(rows) {
        // SAFETY: the caller's promises are those of the kernels.
        unsafe { in_order(rows, k, left.first, right, tile) };
        return;
    }
    #[cfg(not(target_arch = "aarch64"))]
    call!(baseline, left, 1 2 3 4);
    #[cfg(target_arch = "aarch64")]
    call!(baseline, left, 1 2 3 4 5 6 7 8);
}

/// How many steps before it is used the panel at hand is brought from the L2 cache, where it is, into the smaller one: with
/// rows as wide as these it does not stay there from one tile to the next.
#[cfg(target_arch = "x86_64")]
const NEAR: usize = 8;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const ROWS: usize>(k: usize, left: Left, mut right: *const f32, tile: Tile) {
    use core::arch::x86_64::{
        _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };
    // SAFETY: the caller keeps the promises of `multiply`.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for (r, row) in sums.iter_mut().enumerate() {
            let start = tile.start.add(r * tile.start_stride);
            *row = [_mm512_loadu_ps(start), _mm512_loadu_ps(start.add(16))];
        }
        let (mut x, mut ahead) = (left.first, tile.ahead.first);
        for _ in 0..k {
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            ahead = ahead.wrapping_byte_add(tile.ahead.bytes);
            _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add(NEAR * 32).cast());
            _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add(NEAR * 32 + 16).cast());
            let columns = [_mm512_loadu_ps(right), _mm512_loadu_ps(right.add(16))];
            for (r, row) in sums.iter_mut().enumerate() {
                let y = _mm512_set1_ps(*x.add(r * left.row));
                row[0] = _mm512_fmadd_ps(y, columns[0], row[0]);
                row[1] = _mm512_fmadd_ps(y, columns[1], row[1]);
            }
            x = x.add(left.step);
            right = right.add(32);
        }
        for (r, row) in sums.iter().enumerate() {
            let out = tile.out.add(r * tile.out_stride);
            _mm512_storeu_ps(out, row[0]);
            _mm512_storeu_ps(out.add(16), row[1]);
        }
    }
}

/// Steps of a packed left operand that are written out one after the other.
#[cfg(target_arch = "x86_64")]
const UNROLLED: usize = 4;

/// Where the left operand is packed every load is at a constant distance, and a few steps share one count: whatever else an
/// instruction is needed for takes its turn from the sums. A core that computes for somebody else as well hands out half as many
/// turns; there this loop is a quarter faster than one that counts each step, and 2 % where the core is its own.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const ROWS: usize>(k: usize, left: Left, mut right: *const f32, tile: Tile) {
    use core::arch::x86_64::{
        _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_storeu_ps,
    };
    // SAFETY: the caller keeps the promises of `multiply`.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        for (r, row) in sums.iter_mut().enumerate() {
            let start = tile.start.add(r * tile.start_stride);
            *row = [_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(8))];
        }
        let (mut x, mut ahead) = (left.first, tile.ahead.first);
        macro_rules! step {
            ($x:expr, $distance:expr, $right:expr) => {{
                let (x, right): (*const f32, *const f32) = ($x, $right);
                _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add(NEAR * 16).cast());
                let columns = [_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(8))];
                for (r, row) in sums.iter_mut().enumerate() {
                    let y = _mm256_set1_ps(*x.add(r * $distance));
                    row[0] = _mm256_fmadd_ps(y, columns[0], row[0]);
                    row[1] = _mm256_fmadd_ps(y, columns[1], row[1]);
                }
            }};
        }
        let unrolled = if left.follows(ROWS) { k / UNROLLED } else { 0 };
        for _ in 0..unrolled {
            for step in 0..UNROLLED {
                if step % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    ahead = ahead.wrapping_byte_add(2 * tile.ahead.bytes);
                }
                step!(x.add(step * ROWS), 1, right.add(step * 16));
            }
            x = x.add(UNROLLED * ROWS);
            right = right.add(UNROLLED * 16);
        }
        for _ in unrolled * UNROLLED..k {
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            ahead = ahead.wrapping_byte_add(tile.ahead.bytes);
            step!(x, left.row, right);
            x = x.add(left.step);
            right = right.add(16);
        }
        for (r, row) in sums.iter().enumerate() {
            let out = tile.out.add(r * tile.out_stride);
            _mm256_storeu_ps(out, row[0]);
            _mm256_storeu_ps(out.add(8), row[1]);
        }
    }
}

/// Columns of a browser's tile.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
const COLUMNS: usize = BASELINE.columns;

/// Vectors of a browser in a row of a tile.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
const VECTORS: usize = BASELINE.columns / 4;

/// A tile whose left operand lies in the order in which it is read. Few rows have several sums an element, for steps that
/// take turns: a sum waits four cycles for the one before it, and it takes eight at a time to fill them.
///
/// # Safety
/// As for [`multiply`], of a left operand that [`Left::follows`] this number of rows.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
unsafe fn in_order(rows: usize, k: usize, left: *const f32, right: *const f32, tile: Tile) {
    macro_rules! call {
        ($($rows:literal by $turns:literal)*) => {
            match rows {
                // SAFETY: the caller's promises.
                $($rows => unsafe { packed::<$rows, $turns>(k, left, right, tile) },)*
                _ => debug_assert!(false, "a tile of {rows} rows"),
            }
        };
    }
    #[cfg(target_feature = "relaxed-simd")]
    call!(1 by 4 2 by 2 3 by 2 4 by 1 5 by 1 6 by 1);
    #[cfg(not(target_feature = "relaxed-simd"))]
    call!(1 by 2 2 by 2 3 by 1 4 by 1 5 by 1);
}

/// Every load is at a constant distance from one of two addresses, so that it is one instruction, without an addition before
/// it, and browsers' compilers keep all sums in registers. LLVM would make a variable of every distance; the module is built
/// without that pass (`build_web/kernels.rs` in `xtask`). Of the sizes and orders that were measured this is the fastest in
/// Chromium and in Firefox, at 98 % of what fused sums reach there without any load on an AMD EPYC, and 96 % on an Intel Xeon. V8
/// adds the distance to the address of a load that broadcasts before it loads; without these additions it is no faster.
///
/// Four steps are written out for one count. After each stands the question whether it was the last: an instruction, and the
/// reason why each sum is needed between two steps. Without it compilers make one expression of a sum's four products, in
/// which each waits for the one before, and that is a sixth slower than counting every step.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(never)]
unsafe fn packed<const ROWS: usize, const TURNS: usize>(
    k: usize,
    mut left: *const f32,
    mut right: *const f32,
    tile: Tile,
) {
    use core::arch::wasm32::{f32x4_add, f32x4_splat, v128, v128_load, v128_load32_splat, v128_store};
    // SAFETY: the caller keeps the promises of `multiply`; WebAssembly loads and stores need no alignment.
    unsafe {
        let mut sums = [[[f32x4_splat(0.0); VECTORS]; ROWS]; TURNS];
        for (r, row) in sums[0].iter_mut().enumerate() {
            let start = tile.start.add(r * tile.start_stride).cast::<v128>();
            for (i, sum) in row.iter_mut().enumerate() {
                *sum = v128_load(start.add(i));
            }
        }
        let step = |left: *const f32, right: *const f32, sums: &mut [[v128; VECTORS]; ROWS]| {
            let mut columns = [f32x4_splat(0.0); VECTORS];
            for (i, column) in columns.iter_mut().enumerate() {
                *column = v128_load(right.cast::<v128>().add(i));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = v128_load32_splat(left.add(r).cast::<u32>());
                for (sum, column) in sums.iter_mut().zip(&columns) {
                    *sum = multiply_and_add(x, *column, *sum);
                }
            }
        };
        // What the address of a round of four steps is when its first, second, third or no step is the last.
        let ends = [1, 2, 3, 0].map(|n: usize| right.wrapping_add(k * COLUMNS).wrapping_sub(n * COLUMNS));
        macro_rules! steps {
            ($($n:literal)*) => {
                loop {
                    $(
                        step(left.add($n * ROWS), right.add($n * COLUMNS), &mut sums[$n % TURNS]);
                        if $n < 3 && right == ends[$n] {
                            break;
                        }
                    )*
                    left = left.add(4 * ROWS);
                    right = right.add(4 * COLUMNS);
                    if right == ends[3] {
                        break;
                    }
                }
            };
        }
        if k > 0 {
            steps!(0 1 2 3);
        }
        for r in 0..ROWS {
            let out = tile.out.add(r * tile.out_stride).cast::<v128>();
            for i in 0..VECTORS {
                let sum = sums[1..].iter().fold(sums[0][r][i], |sum, turn| f32x4_add(sum, turn[r][i]));
                v128_store(out.add(i), sum);
            }
        }
    }
}

/// A tile whose left operand is read where it lies.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(never)]
unsafe fn baseline<const ROWS: usize>(k: usize, left: Left, mut right: *const f32, tile: Tile) {
    use core::arch::wasm32::{f32x4_splat, v128, v128_load, v128_load32_splat, v128_store};
    // SAFETY: the caller keeps the promises of `multiply`; WebAssembly loads and stores need no alignment.
    unsafe {
        let mut sums = [[f32x4_splat(0.0); VECTORS]; ROWS];
        for (r, row) in sums.iter_mut().enumerate() {
            let start = tile.start.add(r * tile.start_stride).cast::<v128>();
            for (i, sum) in row.iter_mut().enumerate() {
                *sum = v128_load(start.add(i));
            }
        }
        let mut rows = [left.first; ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = row.add(r * left.row);
        }
        for step in 0..k {
            let mut columns = [f32x4_splat(0.0); VECTORS];
            for (i, column) in columns.iter_mut().enumerate() {
                *column = v128_load(right.cast::<v128>().add(i));
            }
            for (row, sums) in rows.iter().zip(&mut sums) {
                let x = v128_load32_splat(row.add(step).cast::<u32>());
                for (sum, column) in sums.iter_mut().zip(&columns) {
                    *sum = multiply_and_add(x, *column, *sum);
                }
            }
            right = right.add(BASELINE.columns);
        }
        for (r, row) in sums.iter().enumerate() {
            let out = tile.out.add(r * tile.out_stride).cast::<v128>();
            for (i, sum) in row.iter().enumerate() {
                v128_store(out.add(i), *sum);
            }
        }
    }
}

/// Fused where the module may ask for that; every engine accepts the two apart.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(always)]
fn multiply_and_add(
    a: core::arch::wasm32::v128,
    b: core::arch::wasm32::v128,
    c: core::arch::wasm32::v128,
) -> core::arch::wasm32::v128 {
    #[cfg(target_feature = "relaxed-simd")]
    return core::arch::wasm32::f32x4_relaxed_madd(a, b, c);
    #[cfg(not(target_feature = "relaxed-simd"))]
    core::arch::wasm32::f32x4_add(c, core::arch::wasm32::f32x4_mul(a, b))
}

/// Written with arrays that LLVM turns into whatever vectors the target has.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
unsafe fn baseline<const ROWS: usize>(k: usize, left: Left, right: *const f32, tile: Tile) {
    // SAFETY: the caller keeps the promises of `multiply`.
    unsafe {
        let mut sums = [[0.0f32; 8]; ROWS];
        for (r, row) in sums.iter_mut().enumerate() {
            *row = tile.start.add(r * tile.start_stride).cast::<[f32; 8]>().read_unaligned();
        }
        for step in 0..k {
            let columns = right.add(step * 8).cast::<[f32; 8]>().read_unaligned();
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = *left.first.add(row * left.row + step * left.step);
                for (sum, y) in sums.iter_mut().zip(&columns) {
                    *sum = fused_or_not(x, *y, *sum);
                }
            }
        }
        for (r, row) in sums.iter().enumerate() {
            tile.out.add(r * tile.out_stride).cast::<[f32; 8]>().write_unaligned(*row);
        }
    }
}

/// NEON always has the fused form; SSE2 never, and there it would be a call.
#[cfg(not(target_arch = "wasm32"))]
#[inline(always)]
fn fused_or_not(x: f32, y: f32, sum: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { x.mul_add(y, sum) } else { x * y + sum }
}

/// WebAssembly without vectors.
#[cfg(all(target_arch = "wasm32", not(target_feature = "simd128")))]
#[inline(always)]
fn fused_or_not(x: f32, y: f32, sum: f32) -> f32 {
    x * y + sum
}
