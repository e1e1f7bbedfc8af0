//! The largest elements of rows, and where they are.

use crate::isa::{Isa, vectorised};
use crate::rows::largest;

/// Elements that are looked at together: where none of them is large enough, none is looked at alone.
const TOGETHER: usize = 64;

vectorised! {
    /// The position of the first of the largest elements; of some element where one is no number.
    fn first_of_largest(row: &[f32]) -> usize {
        let most = largest(row);
        let whole = row.chunks(TOGETHER).position(#[inline(always)] |part| largest(part) >= most).unwrap_or(0) * TOGETHER;
        whole + row[whole..].iter().position(|&x| x >= most).unwrap_or(0)
    }
}

/// Positions of the largest elements of rows of `width`.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn arg_max(isa: Isa, width: usize, x: &[f32], out: &mut [i32]) {
    for (out, row) in out.iter_mut().zip(x.chunks_exact(width)) {
        *out = position(first_of_largest(isa, row));
    }
}

/// The same of integers.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn arg_max_integers(width: usize, x: &[i32], out: &mut [i32]) {
    for (out, row) in out.iter_mut().zip(x.chunks_exact(width)) {
        let mut best = 0;
        for (i, &x) in row.iter().enumerate() {
            if x > row[best] {
                best = i;
            }
        }
        *out = position(best);
    }
}

/// Rows are validated to be short enough.
fn position(at: usize) -> i32 {
    i32::try_from(at).unwrap_or(i32::MAX)
}

vectorised! {
    /// The `k` largest elements of a row, the largest first, then their positions; `out` has room for both.
    fn top_k_row(k: usize, row: &[f32], out: &mut [f32]) {
        let (values, positions) = out.split_at_mut(k);
        let mut held = 0;
        for (n, part) in row.chunks(TOGETHER).enumerate() {
            if held == k && largest(part) <= values[k - 1] {
                continue;
            }
            for (i, &x) in part.iter().enumerate() {
                if held == k && x <= values[k - 1] {
                    continue;
                }
                // Behind those that are as large: they come first.
                let at = values[..held].partition_point(|&v| v >= x);
                held = k.min(held + 1);
                if at < held {
                    values.copy_within(at..held - 1, at + 1);
                    positions.copy_within(at..held - 1, at + 1);
                    values[at] = x;
                    #[expect(clippy::cast_precision_loss, reason = "rows are validated to have positions that fit")]
                    {
                        positions[at] = (n * TOGETHER + i) as f32;
                    }
                }
            }
        }
    }
}

/// The largest elements of rows of `width` and their positions, `[rows, 2, k]`.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn top_k(isa: Isa, width: usize, k: usize, x: &[f32], out: &mut [f32]) {
    for (out, row) in out.chunks_exact_mut(2 * k).zip(x.chunks_exact(width)) {
        top_k_row(isa, k, row, out);
    }
}
