//! Operators over whole rows: softmax, norms, reductions.

use tabpool_graph::Reduction;

use super::{Array, round};

/// The shares of one row. The largest element is subtracted first, so that no exponential overflows.
pub(super) fn softmax_row(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = row.iter().map(|v| (v - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn each_row(x: &Array, f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f32> {
    let rows = x.floats().chunks(x.width()).map(|row| row.iter().copied().map(f64::from).collect::<Vec<_>>());
    rows.flat_map(|row| f(&row)).map(round).collect()
}

pub(super) fn softmax(x: &Array) -> Vec<f32> {
    each_row(x, softmax_row)
}

/// `epsilon` is an `f32` in the graph and widened here, not the decimal number it was written as. `affine` is scale and
/// shift, as far as they are there.
pub(super) fn layer_norm(x: &Array, residual: Option<&Array>, affine: &[&Array], epsilon: f32) -> Vec<f32> {
    let width = x.width();
    let affine = |n: usize, j: usize, otherwise: f64| affine.get(n).map_or(otherwise, |v| f64::from(v.floats()[j]));
    let mut out = Vec::with_capacity(x.floats().len());
    for (i, row) in x.floats().chunks(width).enumerate() {
        let added = |j: usize| residual.map_or(0.0, |r| f64::from(r.floats()[i * width + j]));
        let row: Vec<f64> = row.iter().enumerate().map(|(j, &v)| f64::from(v) + added(j)).collect();
        let mean = mean(&row);
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / length(&row);
        let deviation = (variance + f64::from(epsilon)).sqrt();
        for (j, v) in row.iter().enumerate() {
            out.push(round((v - mean) / deviation * affine(0, j, 1.0) + affine(1, j, 0.0)));
        }
    }
    out
}

pub(super) fn rms_norm(x: &Array, scale: &Array, epsilon: f32) -> Vec<f32> {
    each_row(x, |row| {
        let squares = row.iter().map(|v| v * v).sum::<f64>() / length(row);
        let root = (squares + f64::from(epsilon)).sqrt();
        row.iter().zip(scale.floats()).map(|(v, &scale)| v / root * f64::from(scale)).collect()
    })
}

/// Rotates pairs that lie half the rotated width apart.
pub(super) fn rope(x: &Array, [cos, sin]: [&Array; 2], heads: usize, rotary: usize) -> Vec<f32> {
    let (sequence, depth, half) = (x.shape[1], x.width() / heads, rotary / 2);
    let mut out = x.floats().to_vec();
    for (n, head) in out.chunks_mut(depth).enumerate() {
        let row = n / heads;
        let row = if cos.shape[0] == 1 { row % sequence } else { row };
        for i in 0..half {
            let angle = |v: &Array| f64::from(v.floats()[row * half + i]);
            let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
            head[i] = round(a * angle(cos) - b * angle(sin));
            head[i + half] = round(b * angle(cos) + a * angle(sin));
        }
    }
    out
}

pub(super) fn l2_normalize(x: &Array, epsilon: f32) -> Vec<f32> {
    each_row(x, |row| {
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::from(epsilon));
        row.iter().map(|v| v / length).collect()
    })
}

pub(super) fn reduce(x: &Array, reduction: Reduction, axis: usize) -> Vec<f32> {
    let size = x.shape[axis];
    let inner: usize = x.shape[axis + 1..].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    let element = |o: usize, i: usize, n: usize| f64::from(x.floats()[(o * size + n) * inner + i]);
    let reduced = |o: usize, i: usize| {
        let row: Vec<f64> = (0..size).map(|n| element(o, i, n)).collect();
        round(match reduction {
            Reduction::Sum => row.iter().sum(),
            Reduction::Mean => mean(&row),
            Reduction::Max => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            other => unreachable!("the oracle does not know the reduction {other:?}"),
        })
    };
    (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))).map(|(o, i)| reduced(o, i)).collect()
}

fn mean(row: &[f64]) -> f64 {
    row.iter().sum::<f64>() / length(row)
}

#[expect(clippy::cast_precision_loss, reason = "no row has 2^53 elements")]
fn length(row: &[f64]) -> f64 {
    row.len() as f64
}
