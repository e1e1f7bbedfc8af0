//! Softmax, norms and reductions.
//!
//! Sums run in [`LANES`] separate lanes: that is what a vector register does, LLVM may not reorder additions on its own,
//! and the error of a long sum shrinks on the way.

use crate::isa::{Isa, vectorised};
#[cfg(target_arch = "wasm32")]
use crate::math::Vector;
use crate::math::{Number, constant, exp_normal, larger, square_root};

const LANES: usize = 16;

/// How rows are reduced.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The sum.
    Sum,
    /// The arithmetic mean.
    Mean,
    /// The largest element.
    Max,
}

/// `sum of f(x)` over a row.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    halve(
        &mut lanes,
        #[inline(always)]
        |a, b| a + b,
    )
}

/// The sum of the products of two rows of one length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    halve(
        &mut lanes,
        #[inline(always)]
        |a, b| a + b,
    )
}

/// The largest element; something else where one is no number.
#[inline(always)]
pub(crate) fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, x);
    }
    halve(&mut lanes, larger)
}

/// Joins the lanes pairwise, as a tree.
#[inline(always)]
fn halve(lanes: &mut [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[expect(clippy::cast_precision_loss, reason = "no row has 2^24 elements that its mean would need exactly")]
fn length(width: usize) -> f32 {
    width as f32
}

vectorised! {
    /// Softmax of one row, in place.
    pub(crate) fn softmax_in_place(row: &mut [f32]) {
        let most = largest(row);
        let scale = 1.0 / exponentials(row, most);
        for x in row.iter_mut() {
            *x *= scale;
        }
    }
}

/// `exp(x)` of what is at most 0; exactly 0 where the true value is below the smallest normal number. Masked keys are there,
/// and processors take a hundred times as long for each product that is not normal.
#[inline(always)]
fn share<T: Number>(x: T) -> T {
    let least = constant!(T, -87.0);
    x.where_less(least, constant!(T, 0.0), exp_normal(least.larger(x)))
}

/// `exp(x - most)` of each element, in place, and their sum, in one pass.
#[cfg(not(target_arch = "wasm32"))]
#[inline(always)]
fn exponentials(row: &mut [f32], most: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = share(*x - most);
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = share(*x - most);
        *lane += *x;
    }
    halve(
        &mut lanes,
        #[inline(always)]
        |a, b| a + b,
    )
}

/// The same with a browser's vectors.
#[cfg(target_arch = "wasm32")]
#[inline(always)]
fn exponentials(row: &mut [f32], most: f32) -> f32 {
    let most = Vector::splat(most);
    let mut sum = Vector::splat(0.0);
    let (whole, rest) = row.as_chunks_mut();
    for x in whole {
        let y = share(Vector::load(x) - most);
        y.store(x);
        sum = sum + y;
    }
    Vector::map_in_place(rest, |x| share(x - most));
    let mut lanes = [0.0; Vector::WIDTH];
    sum.store(&mut lanes);
    let [a, b, c, d, e, f, g, h] = lanes;
    let whole = ((a + e) + (c + g)) + ((b + f) + (d + h));
    rest.iter().fold(whole, |sum, x| sum + x)
}

/// `x * scale + bias` of each element, in place, and the largest result, in one pass; a bias of one element stretches.
#[cfg(not(target_arch = "wasm32"))]
#[inline(always)]
fn scaled(row: &mut [f32], scale: f32, bias: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks_mut::<LANES>();
    let one = [bias[0]; LANES];
    let (biases, bias_rest) = if bias.len() == 1 { (&[][..], &one[..]) } else { bias.as_chunks::<LANES>() };
    for (i, chunk) in chunks.iter_mut().enumerate() {
        let bias = biases.get(i).unwrap_or(&one);
        for ((x, bias), lane) in chunk.iter_mut().zip(bias).zip(&mut lanes) {
            *x = *x * scale + bias;
            *lane = larger(*lane, *x);
        }
    }
    for ((x, bias), lane) in rest.iter_mut().zip(bias_rest).zip(&mut lanes) {
        *x = *x * scale + bias;
        *lane = larger(*lane, *x);
    }
    halve(&mut lanes, larger)
}

/// The same with a browser's vectors.
#[cfg(target_arch = "wasm32")]
#[inline(always)]
fn scaled(row: &mut [f32], scale: f32, bias: &[f32]) -> f32 {
    let (whole, rest) = row.as_chunks_mut();
    let one = [bias[0]; Vector::WIDTH];
    let (biases, bias_rest) = if bias.len() == 1 { (&[][..], &one[..]) } else { bias.as_chunks() };
    let factor = Vector::splat(scale);
    let mut most = Vector::splat(f32::NEG_INFINITY);
    for (i, x) in whole.iter_mut().enumerate() {
        let y = Vector::load(x).fused(factor, Vector::load(biases.get(i).unwrap_or(&one)));
        y.store(x);
        most = most.larger(y);
    }
    let mut lanes = [0.0; Vector::WIDTH];
    most.store(&mut lanes);
    for ((x, bias), lane) in rest.iter_mut().zip(bias_rest).zip(&mut lanes) {
        *x = *x * scale + bias;
        *lane = larger(*lane, *x);
    }
    lanes.into_iter().reduce(larger).unwrap_or(f32::NEG_INFINITY)
}

vectorised! {
    /// `exp` of a row less its largest element, in place, once it is scaled and every bias, where there is one, is added; a
    /// bias of one element stretches. The result is one over their sum: whoever multiplies with the row multiplies with
    /// that afterwards, where rows are shorter.
    pub(crate) fn shares_in_place(row: &mut [f32], scale: f32, biases: [Option<&[f32]>; 2]) -> f32 {
        let most = match biases {
            [None, None] => scaled(row, scale, &[0.0]),
            [Some(only), None] | [None, Some(only)] => scaled(row, scale, only),
            [Some(first), Some(second)] => {
                scaled(row, scale, first);
                scaled(row, 1.0, second)
            }
        };
        1.0 / exponentials(row, most)
    }
}

vectorised! {
    pub(crate) fn scale_in_place(row: &mut [f32], scale: f32) {
        row.iter_mut().for_each(|x| *x *= scale);
    }
}

#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn softmax(isa: Isa, width: usize, x: &[f32], out: &mut [f32]) {
    out.copy_from_slice(x);
    out.chunks_exact_mut(width).for_each(|row| softmax_in_place(isa, row));
}

vectorised! {
    /// `out` holds the row; it becomes its norm. Mean and variance are taken apart, so that neither cancels.
    fn layer_norm_row(out: &mut [f32], scale: &[f32], shift: &[f32], epsilon: f32) {
        let n = length(out.len());
        let mean = sum(out, #[inline(always)] |x| x) / n;
        let variance = sum(out, #[inline(always)] |x| (x - mean) * (x - mean)) / n;
        let inverse = 1.0 / square_root(variance + epsilon);
        if scale.is_empty() {
            out.iter_mut().for_each(|x| *x = (*x - mean) * inverse);
        } else if shift.is_empty() {
            out.iter_mut().zip(scale).for_each(|(x, scale)| *x = (*x - mean) * inverse * scale);
        } else {
            for ((x, scale), shift) in out.iter_mut().zip(scale).zip(shift) {
                *x = (*x - mean) * inverse * scale + shift;
            }
        }
    }
}

vectorised! {
    fn rms_norm_row(out: &mut [f32], x: &[f32], scale: &[f32], epsilon: f32) {
        let squares = sum(x, #[inline(always)] |x| x * x) / length(x.len());
        let inverse = 1.0 / square_root(squares + epsilon);
        for ((out, x), scale) in out.iter_mut().zip(x).zip(scale) {
            *out = x * inverse * scale;
        }
    }
}

/// Rows divided by the root of the mean of their squares; the scale says how wide a row is.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn rms_norm(isa: Isa, scale: &[f32], epsilon: f32, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.chunks_exact_mut(scale.len()).zip(x.chunks_exact(scale.len())) {
        rms_norm_row(isa, out, x, scale, epsilon);
    }
}

vectorised! {
    /// Rotates the pairs of `a` and `b` by angles.
    fn rotate(a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) {
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// Rows of heads of `depth` elements, of whose first `rotary` the halves are rotated; `row` says which row of the tables, of
/// `tables` rows, is the first's.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn rope(
    isa: Isa,
    [depth, rotary, width]: [usize; 3],
    (row, tables): (usize, usize),
    [cos, sin]: [&[f32]; 2],
    out: &mut [f32],
) {
    let half = rotary / 2;
    for (n, out) in out.chunks_exact_mut(width).enumerate() {
        let at = (row + n) % tables * half;
        for head in out.chunks_exact_mut(depth) {
            let (a, b) = head[..rotary].split_at_mut(half);
            rotate(isa, a, b, &cos[at..][..half], &sin[at..][..half]);
        }
    }
}

vectorised! {
    fn add(out: &mut [f32], a: &[f32], b: &[f32]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = a + b;
        }
    }
}

/// Layer norm of rows of `x`, or of `x + residual`; scale and shift may be empty.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn layer_norm(
    isa: Isa,
    width: usize,
    x: &[f32],
    residual: Option<&[f32]>,
    [scale, shift]: [&[f32]; 2],
    epsilon: f32,
    out: &mut [f32],
) {
    for (row, out) in out.chunks_exact_mut(width).enumerate() {
        let at = row * width;
        match residual {
            Some(residual) => add(isa, out, &x[at..][..width], &residual[at..][..width]),
            None => out.copy_from_slice(&x[at..][..width]),
        }
        layer_norm_row(isa, out, scale, shift, epsilon);
    }
}

vectorised! {
    fn l2_normalize_row(out: &mut [f32], x: &[f32], epsilon: f32) {
        let scale = 1.0 / larger(square_root(sum(x, #[inline(always)] |x| x * x)), epsilon);
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * scale;
        }
    }
}

#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn l2_normalize(isa: Isa, width: usize, epsilon: f32, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        l2_normalize_row(isa, out, x, epsilon);
    }
}

vectorised! {
    fn reduce_row(reduction: Reduction, row: &[f32]) -> f32 {
        match reduction {
            Reduction::Max => largest(row),
            Reduction::Mean => sum(row, #[inline(always)] |x| x) / length(row.len()),
            Reduction::Sum => sum(row, #[inline(always)] |x| x),
        }
    }
}

vectorised! {
    /// Reduces `x`, rows as long as `out`, over its rows.
    fn reduce_rows(reduction: Reduction, x: &[f32], out: &mut [f32]) {
        let rows = x.chunks_exact(out.len());
        let count = length(rows.len());
        out.fill(if reduction == Reduction::Max { f32::NEG_INFINITY } else { 0.0 });
        for row in rows {
            if reduction == Reduction::Max {
                out.iter_mut().zip(row).for_each(|(out, &x)| *out = larger(*out, x));
            } else {
                out.iter_mut().zip(row).for_each(|(out, &x)| *out += x);
            }
        }
        if reduction == Reduction::Mean {
            out.iter_mut().for_each(|x| *x /= count);
        }
    }
}

/// Reduces `x` of `[outer, size, inner]` to `[outer, inner]`.
#[cfg_attr(target_family = "wasm", inline(never))]
pub(crate) fn reduce(isa: Isa, reduction: Reduction, size: usize, inner: usize, x: &[f32], out: &mut [f32]) {
    if inner == 1 {
        for (out, row) in out.iter_mut().zip(x.chunks_exact(size)) {
            *out = reduce_row(isa, reduction, row);
        }
    } else {
        for (out, x) in out.chunks_exact_mut(inner).zip(x.chunks_exact(size * inner)) {
            reduce_rows(isa, reduction, x, out);
        }
    }
}
