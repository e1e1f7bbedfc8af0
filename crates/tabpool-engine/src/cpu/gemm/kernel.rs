//! The innermost loops of matrix products: one tile of the result in registers.
//!
//! A tile is `rows` by `NR` elements, `rows` at most `MR`. Both operands come packed: of the left one `rows` elements
//! for each step of `k`, of the right one `NR`. The sizes fill the register file: 24 of AVX-512's 32 registers hold sums,
//! 12 of AVX2's 16, 8 of the 16 that a browser has for `simd128`.

use crate::cpu::isa::Isa;

/// The rows of the largest tile of any level.
pub(crate) const MAX_MR: usize = 12;
/// The columns of the widest tile of any level.
pub(crate) const MAX_NR: usize = 32;

/// Rows and columns of a level's tiles.
pub(crate) fn tile_size(isa: Isa) -> (usize, usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if isa.has_avx512() {
            return (12, 32);
        }
        if isa.has_avx2() {
            return (6, 16);
        }
    }
    let _ = isa;
    (BASELINE_ROWS, 8)
}

const BASELINE_ROWS: usize = if cfg!(target_arch = "aarch64") { 8 } else { 4 };

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
}

/// Adds `left @ right` to the starting values of a tile.
///
/// # Safety
/// `rows` is 1 to the `MR` of `isa`; `left` holds `rows * k` elements, `right` `NR * k`; every row of `tile` holds `NR`
/// elements, and nothing else reads or writes its result meanwhile.
pub(crate) unsafe fn multiply(isa: Isa, rows: usize, k: usize, left: *const f32, right: *const f32, tile: Tile) {
    macro_rules! call {
        ($kernel:ident, $($rows:literal)*) => {
            match rows {
                // SAFETY: the caller's promises are those of the kernel, and the level was detected.
                $($rows => unsafe { $kernel::<$rows>(k, left, right, tile) },)*
                _ => debug_assert!(false, "a tile of {rows} rows"),
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    {
        if isa.has_avx512() {
            call!(avx512, 1 2 3 4 5 6 7 8 9 10 11 12);
            return;
        }
        if isa.has_avx2() {
            call!(avx2, 1 2 3 4 5 6);
            return;
        }
    }
    let _ = isa;
    call!(baseline, 1 2 3 4 5 6 7 8);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const ROWS: usize>(k: usize, mut left: *const f32, mut right: *const f32, tile: Tile) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};
    // SAFETY: the caller keeps the promises of `multiply`.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for (r, row) in sums.iter_mut().enumerate() {
            let start = tile.start.add(r * tile.start_stride);
            *row = [_mm512_loadu_ps(start), _mm512_loadu_ps(start.add(16))];
        }
        for _ in 0..k {
            let columns = [_mm512_loadu_ps(right), _mm512_loadu_ps(right.add(16))];
            for (r, row) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*left.add(r));
                row[0] = _mm512_fmadd_ps(x, columns[0], row[0]);
                row[1] = _mm512_fmadd_ps(x, columns[1], row[1]);
            }
            left = left.add(ROWS);
            right = right.add(32);
        }
        for (r, row) in sums.iter().enumerate() {
            let out = tile.out.add(r * tile.out_stride);
            _mm512_storeu_ps(out, row[0]);
            _mm512_storeu_ps(out.add(16), row[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const ROWS: usize>(k: usize, mut left: *const f32, mut right: *const f32, tile: Tile) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    // SAFETY: the caller keeps the promises of `multiply`.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        for (r, row) in sums.iter_mut().enumerate() {
            let start = tile.start.add(r * tile.start_stride);
            *row = [_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(8))];
        }
        for _ in 0..k {
            let columns = [_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(8))];
            for (r, row) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*left.add(r));
                row[0] = _mm256_fmadd_ps(x, columns[0], row[0]);
                row[1] = _mm256_fmadd_ps(x, columns[1], row[1]);
            }
            left = left.add(ROWS);
            right = right.add(16);
        }
        for (r, row) in sums.iter().enumerate() {
            let out = tile.out.add(r * tile.out_stride);
            _mm256_storeu_ps(out, row[0]);
            _mm256_storeu_ps(out.add(8), row[1]);
        }
    }
}

/// WebAssembly has no fused multiplication and addition that every engine accepts, so the two are apart.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
unsafe fn baseline<const ROWS: usize>(k: usize, mut left: *const f32, mut right: *const f32, tile: Tile) {
    use std::arch::wasm32::{f32x4_add, f32x4_mul, f32x4_splat, v128, v128_load, v128_load32_splat, v128_store};
    // SAFETY: the caller keeps the promises of `multiply`; WebAssembly loads and stores need no alignment.
    unsafe {
        let mut sums = [[f32x4_splat(0.0); 2]; ROWS];
        for (r, row) in sums.iter_mut().enumerate() {
            let start = tile.start.add(r * tile.start_stride).cast::<v128>();
            *row = [v128_load(start), v128_load(start.add(1))];
        }
        for _ in 0..k {
            let columns = [v128_load(right.cast::<v128>()), v128_load(right.cast::<v128>().add(1))];
            for (r, row) in sums.iter_mut().enumerate() {
                let x = v128_load32_splat(left.add(r).cast::<u32>());
                row[0] = f32x4_add(row[0], f32x4_mul(x, columns[0]));
                row[1] = f32x4_add(row[1], f32x4_mul(x, columns[1]));
            }
            left = left.add(ROWS);
            right = right.add(8);
        }
        for (r, row) in sums.iter().enumerate() {
            let out = tile.out.add(r * tile.out_stride).cast::<v128>();
            v128_store(out, row[0]);
            v128_store(out.add(1), row[1]);
        }
    }
}

/// Written with arrays that LLVM turns into whatever vectors the target has.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
unsafe fn baseline<const ROWS: usize>(k: usize, left: *const f32, right: *const f32, tile: Tile) {
    // SAFETY: the caller keeps the promises of `multiply`.
    unsafe {
        let mut sums = [[0.0f32; 8]; ROWS];
        for (r, row) in sums.iter_mut().enumerate() {
            *row = tile.start.add(r * tile.start_stride).cast::<[f32; 8]>().read_unaligned();
        }
        for step in 0..k {
            let columns = right.add(step * 8).cast::<[f32; 8]>().read_unaligned();
            let rows = left.add(step * ROWS).cast::<[f32; ROWS]>().read_unaligned();
            for (x, sums) in rows.iter().zip(&mut sums) {
                for (sum, y) in sums.iter_mut().zip(&columns) {
                    // NEON always has the fused form; SSE2 never, and there it would be a call.
                    *sum = if cfg!(target_arch = "aarch64") { x.mul_add(*y, *sum) } else { x * y + *sum };
                }
            }
        }
        for (r, row) in sums.iter().enumerate() {
            tile.out.add(r * tile.out_stride).cast::<[f32; 8]>().write_unaligned(*row);
        }
    }
}
