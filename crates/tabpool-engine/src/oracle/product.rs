//! Operators that sum products: matrix products, linear layers, attention.

use tabpool_graph::Activation;
use tabpool_tensor::Shape;

use super::layout::broadcast_offsets;
use super::rows::softmax_row;
use super::{Array, elementwise, round};

/// The sum of the products of two sequences.
fn dot(a: impl Iterator<Item = f32>, b: impl Iterator<Item = f32>) -> f64 {
    a.zip(b).map(|(a, b)| f64::from(a) * f64::from(b)).sum()
}

pub(super) fn matmul(a: &Array, b: &Array, transpose_b: bool, shape: &Shape) -> Vec<f32> {
    let rank = shape.rank();
    let (m, n, k) = (shape[rank - 2], shape[rank - 1], a.width());
    let batch = Shape::from(&shape[..rank - 2]);
    // Which matrix of each operand every matrix of the result is made of.
    let from_a = broadcast_offsets(&Shape::from(&a.shape[..a.shape.rank() - 2]), &batch);
    let from_b = broadcast_offsets(&Shape::from(&b.shape[..b.shape.rank() - 2]), &batch);
    let mut out = Vec::with_capacity(shape.elements());
    for (matrix_a, matrix_b) in from_a.into_iter().zip(from_b) {
        let a = &a.floats()[matrix_a * m * k..][..m * k];
        let b = &b.floats()[matrix_b * k * n..][..k * n];
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let left = a[row * k..][..k].iter().copied();
            let sum = if transpose_b {
                dot(left, b[column * k..][..k].iter().copied())
            } else {
                dot(left, b[column..].iter().step_by(n).copied())
            };
            out.push(round(sum));
        }
    }
    out
}

pub(super) fn linear(x: &[&Array], activation: Option<Activation>, residual: bool) -> Vec<f32> {
    let (x, weight, mut optional) = (x[0], x[1], &x[2..]);
    let mut added = None;
    if residual && let Some((last, before)) = optional.split_last() {
        (added, optional) = (Some(last.floats()), before);
    }
    let (bias, k) = (optional.first(), x.width());
    let mut out = Vec::with_capacity(x.floats().len() / k * weight.shape[0]);
    for row in x.floats().chunks(k) {
        for (column, weights) in weight.floats().chunks(k).enumerate() {
            let bias = bias.map_or(0.0, |b| f64::from(b.floats()[column]));
            let sum = dot(row.iter().copied(), weights.iter().copied()) + bias;
            let sum = activation.map_or(sum, |a| elementwise::unary(a.unary(), sum));
            out.push(round(sum + added.map_or(0.0, |added| f64::from(added[out.len()]))));
        }
    }
    out
}

/// Attention as `Op::Attention` documents it. Scores are rounded to `f32` after the scaling and after each bias: a mask
/// of -1e9 in `f32` swallows the score it is added to, so that a fully masked row gives equal shares, in PyTorch as
/// here; with exact sums such a row would give the shares it has without the mask. Where there is a start, keys beyond
/// a query's own position are not looked at.
pub(super) fn attention(x: &[&Array], [heads, kv_heads]: [usize; 2], scale: f32, start: Option<usize>) -> Vec<f32> {
    let (q, k, v) = (x[0], x[1], x[2]);
    let (batches, queries, keys) = (q.shape[0], q.shape[1], k.shape[1]);
    let (depth, depth_v, shared) = (q.width() / heads, v.width() / kv_heads, heads / kv_heads);
    let scores_shape = Shape::from([batches, heads, queries, keys]);
    let biases: Vec<_> = x[3..].iter().map(|b| (b.floats(), broadcast_offsets(&b.shape, &scores_shape))).collect();
    let width_out = heads * depth_v;
    let mut out = vec![0.0; batches * queries * width_out];
    for (batch, head, query) in each(batches, heads, queries) {
        let (kv_head, seen) = (head / shared, start.map_or(keys, |start| keys.min(start + query + 1)));
        let q_row = &q.floats()[(batch * queries + query) * q.width() + head * depth..][..depth];
        let score = |key: usize| {
            let k_row = &k.floats()[(batch * keys + key) * k.width() + kv_head * depth..][..depth];
            let score = round(dot(q_row.iter().copied(), k_row.iter().copied()) * f64::from(scale));
            let at = ((batch * heads + head) * queries + query) * keys + key;
            biases.iter().fold(score, |score, (bias, offsets)| score + bias[offsets[at]])
        };
        let shares = softmax_row(&(0..seen).map(|key| f64::from(score(key))).collect::<Vec<_>>());
        for d in 0..depth_v {
            let column = v.floats()[batch * keys * v.width() + kv_head * depth_v + d..].iter().step_by(v.width());
            let sum: f64 = shares.iter().zip(column).map(|(share, &v)| share * f64::from(v)).sum();
            out[(batch * queries + query) * width_out + head * depth_v + d] = round(sum);
        }
    }
    out
}

fn each(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}
