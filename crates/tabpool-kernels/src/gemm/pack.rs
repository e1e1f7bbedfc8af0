//! Laying operands of a product out in the order in which its tiles read them.

use super::tile::TileSize;
use super::{Matrix, packed_right_len};

/// Packs a right operand of `k` rows and `n` columns into the beginning of `out`. Along rows or along columns elements
/// are contiguous.
pub(crate) fn pack_right(tile: TileSize, b: Matrix<'_>, k: usize, n: usize, out: &mut [f32]) {
    let nr = tile.columns;
    for (panel, out) in out[..packed_right_len(tile, k, n)].chunks_exact_mut(nr * k).enumerate() {
        let columns = nr.min(n - panel * nr);
        if columns < nr {
            out.fill(0.0);
        }
        if b.column_stride == 1 {
            for (step, out) in out.chunks_exact_mut(nr).enumerate() {
                copy(&b.elements[step * b.row_stride + panel * nr..][..columns], out);
            }
            continue;
        }
        let column = |j: usize| &b.elements[(panel * nr + j) * b.column_stride..][..k];
        for j in (0..columns / 4 * 4).step_by(4) {
            pack_four([column(j), column(j + 1), column(j + 2), column(j + 3)], &mut out[j..], nr);
        }
        for j in columns / 4 * 4..columns {
            for (&v, out) in column(j).iter().zip(out[j..].iter_mut().step_by(nr)) {
                *out = v;
            }
        }
    }
}

/// Copies a few elements to the beginning of `out`, four at a time: a call to copy memory takes longer than that.
#[inline(always)]
fn copy(from: &[f32], out: &mut [f32]) {
    let (fours, rest) = from.as_chunks::<4>();
    let (out_fours, out) = out.split_at_mut(fours.len() * 4);
    for (from, out) in fours.iter().zip(out_fours.as_chunks_mut::<4>().0) {
        *out = *from;
    }
    for (from, out) in rest.iter().zip(out) {
        *out = *from;
    }
}

/// Packs rows of a left operand with `k` columns into tiles.
pub(crate) fn pack_left(tile: TileSize, a: Matrix<'_>, rows: usize, k: usize, out: &mut [f32]) {
    let mr = tile.rows;
    for (n, out) in out[..rows * k].chunks_mut(mr * k).enumerate() {
        pack_tile(&a.elements[n * mr * a.row_stride..], a.row_stride, k, out);
    }
}

/// One tile: as many rows as `out` has room for. It is a transpose, done in squares of four by four in registers, and a few steps
/// of all rows at a time, so that the lines they share stay in the L1 cache.
pub(super) fn pack_tile(a: &[f32], row_stride: usize, k: usize, out: &mut [f32]) {
    const STEPS: usize = 32;
    let rows = out.len() / k;
    for (block, out) in out.chunks_mut(STEPS * rows).enumerate() {
        let steps = out.len() / rows;
        let row = |r: usize| &a[r * row_stride + block * STEPS..][..steps];
        for r in (0..rows / 4 * 4).step_by(4) {
            pack_four([row(r), row(r + 1), row(r + 2), row(r + 3)], &mut out[r..], rows);
        }
        let mut r = rows / 4 * 4;
        if rows - r >= 2 {
            pack_two([row(r), row(r + 1)], &mut out[r..], rows);
            r += 2;
        }
        for r in r..rows {
            for (&v, out) in row(r).iter().zip(out[r..].iter_mut().step_by(rows)) {
                *out = v;
            }
        }
    }
}

/// Four rows of one length, turned, to the first four elements of every `stride`.
fn pack_four(rows: [&[f32]; 4], out: &mut [f32], stride: usize) {
    let steps = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == steps), "rows of one length");
    assert!(steps == 0 || out.len() >= (steps - 1) * stride + 4, "room for every step");
    let whole = steps / 4 * 4;
    for step in (0..whole).step_by(4) {
        // SAFETY: the rows have four elements from here, and there is room for this and the next three steps.
        unsafe { turn(rows.map(|row| row.as_ptr().add(step)), out.as_mut_ptr().add(step * stride), stride) };
    }
    for step in whole..steps {
        out[step * stride..][..4].copy_from_slice(&rows.map(|row| row[step]));
    }
}

/// Two rows of one length, turned, to the first two elements of every `stride`.
fn pack_two([a, b]: [&[f32]; 2], out: &mut [f32], stride: usize) {
    let steps = a.len();
    assert!(b.len() == steps, "rows of one length");
    assert!(steps == 0 || out.len() >= (steps - 1) * stride + 2, "room for every step");
    let whole = steps / 4 * 4;
    for step in (0..whole).step_by(4) {
        // SAFETY: the rows have four elements from here, and there is room for this and the next three steps.
        unsafe { turn_two([a, b].map(|row| row.as_ptr().add(step)), out.as_mut_ptr().add(step * stride), stride) };
    }
    for step in whole..steps {
        out[step * stride..][..2].copy_from_slice(&[a[step], b[step]]);
    }
}

/// Four elements of two rows, turned, in pairs `stride` elements apart.
///
/// # Safety
/// Each row has four elements, and there are four places for two of them in `out`.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(always)]
unsafe fn turn_two(rows: [*const f32; 2], out: *mut f32, stride: usize) {
    use core::arch::wasm32::{i32x4_shuffle, v128, v128_load, v128_store64_lane};
    // SAFETY: the caller's promise; WebAssembly loads and stores need no alignment.
    unsafe {
        let [a, b] = rows.map(|row| v128_load(row.cast::<v128>()));
        let (low, high) = (i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<2, 6, 3, 7>(a, b));
        v128_store64_lane::<0>(low, out.cast());
        v128_store64_lane::<1>(low, out.add(stride).cast());
        v128_store64_lane::<0>(high, out.add(2 * stride).cast());
        v128_store64_lane::<1>(high, out.add(3 * stride).cast());
    }
}

/// The same element by element.
///
/// # Safety
/// As above.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
unsafe fn turn_two([a, b]: [*const f32; 2], out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for step in 0..4 {
            out.add(step * stride).cast::<[f32; 2]>().write_unaligned([*a.add(step), *b.add(step)]);
        }
    }
}

/// A square of four by four elements, turned, its rows `stride` elements apart.
///
/// # Safety
/// Each row has four elements, and so has each of the four places in `out`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turn(rows: [*const f32; 4], out: *mut f32, stride: usize) {
    use core::arch::x86_64::{
        _mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps, _mm_unpackhi_ps, _mm_unpacklo_ps,
    };
    // SAFETY: the caller's promise; every processor of this architecture has these instructions.
    unsafe {
        let [a, b, c, d] = rows.map(|row| _mm_loadu_ps(row));
        let [ab, cd] = [_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d)];
        let [ab_high, cd_high] = [_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d)];
        _mm_storeu_ps(out, _mm_movelh_ps(ab, cd));
        _mm_storeu_ps(out.add(stride), _mm_movehl_ps(cd, ab));
        _mm_storeu_ps(out.add(2 * stride), _mm_movelh_ps(ab_high, cd_high));
        _mm_storeu_ps(out.add(3 * stride), _mm_movehl_ps(cd_high, ab_high));
    }
}

/// The same with a browser's vectors.
///
/// # Safety
/// As above.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(always)]
unsafe fn turn(rows: [*const f32; 4], out: *mut f32, stride: usize) {
    use core::arch::wasm32::{i32x4_shuffle, i64x2_shuffle, v128, v128_load, v128_store};
    // SAFETY: the caller's promise; WebAssembly loads and stores need no alignment.
    unsafe {
        let [a, b, c, d] = rows.map(|row| v128_load(row.cast::<v128>()));
        let [ab, cd] = [i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<0, 4, 1, 5>(c, d)];
        let [ab_high, cd_high] = [i32x4_shuffle::<2, 6, 3, 7>(a, b), i32x4_shuffle::<2, 6, 3, 7>(c, d)];
        v128_store(out.cast(), i64x2_shuffle::<0, 2>(ab, cd));
        v128_store(out.add(stride).cast(), i64x2_shuffle::<1, 3>(ab, cd));
        v128_store(out.add(2 * stride).cast(), i64x2_shuffle::<0, 2>(ab_high, cd_high));
        v128_store(out.add(3 * stride).cast(), i64x2_shuffle::<1, 3>(ab_high, cd_high));
    }
}

/// The same element by element, for LLVM to find the shuffles.
///
/// # Safety
/// As above.
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "wasm32", target_feature = "simd128"))))]
#[inline(always)]
unsafe fn turn(rows: [*const f32; 4], out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let square = rows.map(|row| row.cast::<[f32; 4]>().read_unaligned());
        for step in 0..4 {
            let column = square.map(|row| row[step]);
            out.add(step * stride).cast::<[f32; 4]>().write_unaligned(column);
        }
    }
}
