//! Softmax, norms and reductions.

use tabpool_graph::{Binary, Op, Reduction};
use tabpool_tensor::DType;

use super::case::{Case, CaseError, Fill, Sketch};

const SHAPES: &[&[usize]] =
    &[&[1], &[3], &[1, 1], &[5, 7], &[3, 5, 17], &[7, 33], &[61, 65], &[2, 127], &[3, 384], &[2, 1031]];

pub(super) fn cases() -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    for &shape in SHAPES {
        all.push(one(format!("softmax {shape:?}"), Op::Softmax, shape, Fill::Uniform(-8.0, 8.0))?);
        let op = Op::L2Normalize { epsilon: 1e-12 };
        all.push(one(format!("l2_normalize {shape:?}"), op, shape, Fill::PLAIN)?);
        // The variance of one element is 0; over a root of 1e-12 the rounding of its mean would be all there is.
        let epsilons = if shape.ends_with(&[1]) { &[0.1][..] } else { &[1e-12, 0.1] };
        for &epsilon in epsilons {
            all.push(layer_norm(shape, epsilon, false)?);
            all.push(layer_norm(shape, epsilon, true)?);
            for affine in 0..2 {
                all.push(partial_layer_norm(shape, epsilon, affine)?);
            }
        }
        all.push(rms_norm(shape, 1e-6)?);
    }
    all.push(one("softmax of large numbers".into(), Op::Softmax, &[5, 33], Fill::Uniform(-100.0, 100.0))?);
    all.push(one("softmax of masked numbers".into(), Op::Softmax, &[5, 33], Fill::Mask(-1e9))?);
    all.push(one("softmax of equal lowest numbers".into(), Op::Softmax, &[3, 5], Fill::Cycle(&[f32::MIN]))?);
    let op = Op::L2Normalize { epsilon: 0.5 };
    all.push(one("l2_normalize of short rows".into(), op, &[3, 5], Fill::Uniform(-0.1, 0.1))?);
    all.push(one("l2_normalize of zeros".into(), Op::L2Normalize { epsilon: 1e-12 }, &[3, 5], Fill::Cycle(&[0.0]))?);
    all.push(shifted_layer_norm()?);
    all.push(rms_norm(&[3, 5], 0.25)?);
    all.push(group_norm()?);
    let ropes: [([usize; 3], usize, usize, usize); 7] = [
        ([1, 1, 2], 1, 2, 1),
        ([2, 5, 12], 3, 4, 1),
        ([2, 5, 12], 3, 4, 2),
        ([3, 7, 65], 5, 6, 1),
        ([3, 7, 65], 5, 12, 3),
        ([1, 33, 64], 1, 64, 1),
        ([2, 129, 70], 2, 34, 2),
    ];
    for (shape, heads, rotary, tables) in ropes {
        all.push(rope(shape, heads, rotary, tables)?);
    }
    for reduction in [Reduction::Sum, Reduction::Mean, Reduction::Max] {
        let shapes: [&[usize]; 8] = [&[1], &[7], &[1031], &[5, 33], &[33, 5], &[3, 17, 7], &[2, 65, 3], &[2, 3, 5, 61]];
        for shape in shapes {
            for axis in 0..shape.len() {
                let op = Op::Reduce { reduction, axis, keep: axis % 2 == 0 };
                all.push(one(
                    format!("reduce {reduction:?} {shape:?} axis {axis}"),
                    op,
                    shape,
                    Fill::Uniform(-3.0, -0.5),
                )?);
            }
        }
    }
    Ok(all)
}

fn one(name: String, op: Op, shape: &[usize], fill: Fill) -> Result<Case, CaseError> {
    let mut s = Sketch::new(name);
    let x = s.input(shape, fill)?;
    let y = s.node(op, &[x])?;
    s.finish(&[y], 1e-5)
}

fn layer_norm(shape: &[usize], epsilon: f32, residual: bool) -> Result<Case, CaseError> {
    let width = shape.last().copied().unwrap_or(1);
    let op = if residual { Op::AddLayerNorm { epsilon } } else { Op::LayerNorm { epsilon } };
    let mut s = Sketch::new(format!("{} {shape:?} epsilon {epsilon}", op.name()));
    let mut operands = vec![s.input(shape, Fill::PLAIN)?];
    if residual {
        operands.push(s.input(shape, Fill::PLAIN)?);
    }
    operands.push(s.weight_between(DType::F32, [width], 0.5, 1.5)?);
    operands.push(s.weight_between(DType::F16, [width], -0.5, 0.5)?);
    let y = s.node(op, &operands)?;
    s.finish(&[y], 2e-5)
}

/// Scale alone, or neither.
fn partial_layer_norm(shape: &[usize], epsilon: f32, affine: usize) -> Result<Case, CaseError> {
    let what = if affine == 0 { "without scale" } else { "without shift" };
    let mut s = Sketch::new(format!("layer_norm {shape:?} {what} epsilon {epsilon}"));
    let mut operands = vec![s.input(shape, Fill::PLAIN)?];
    if affine > 0 {
        operands.push(s.weight_between(DType::F32, [shape.last().copied().unwrap_or(1)], 0.5, 1.5)?);
    }
    let y = s.node(Op::LayerNorm { epsilon }, &operands)?;
    s.finish(&[y], 2e-5)
}

fn rms_norm(shape: &[usize], epsilon: f32) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("rms_norm {shape:?} epsilon {epsilon}"));
    let x = s.input(shape, Fill::PLAIN)?;
    let scale = s.weight_between(DType::BF16, [shape.last().copied().unwrap_or(1)], 0.5, 1.5)?;
    let y = s.node(Op::RmsNorm { epsilon }, &[x, scale])?;
    s.finish(&[y], 1e-5)
}

/// Channels in groups, each normalised over its channels and pixels, as builders write it.
fn group_norm() -> Result<Case, CaseError> {
    let mut s = Sketch::new("a group norm of 3 groups [2, 6, 5, 7]");
    let x = s.input([2, 6, 5, 7], Fill::PLAIN)?;
    let scale = s.weight_between(DType::F32, [6, 1, 1], 0.5, 1.5)?;
    let shift = s.weight_between(DType::F32, [6, 1, 1], -0.5, 0.5)?;
    let y = s.node(Op::Reshape { shape: [2, 3, 70].into() }, &[x])?;
    let y = s.node(Op::LayerNorm { epsilon: 1e-5 }, &[y])?;
    let y = s.node(Op::Reshape { shape: [2, 6, 5, 7].into() }, &[y])?;
    let y = s.node(Op::Binary(Binary::Mul), &[y, scale])?;
    let y = s.node(Op::Binary(Binary::Add), &[y, shift])?;
    s.finish(&[y], 2e-5)
}

fn rope(shape: [usize; 3], heads: usize, rotary: usize, tables: usize) -> Result<Case, CaseError> {
    let mut s = Sketch::new(format!("rope {shape:?} {heads} heads rotating {rotary} by {tables} tables"));
    let x = s.input(shape, Fill::PLAIN)?;
    let cos = s.input([tables, shape[1], rotary / 2], Fill::Uniform(-1.0, 1.0))?;
    let sin = s.input([tables, shape[1], rotary / 2], Fill::Uniform(-1.0, 1.0))?;
    let y = s.node(Op::Rope { heads, rotary }, &[x, cos, sin])?;
    s.finish(&[y], 1e-6)
}

/// A mean far from zero, where the variance as a difference of squares would cancel to nothing.
fn shifted_layer_norm() -> Result<Case, CaseError> {
    let mut s = Sketch::new("layer_norm far from zero");
    let x = s.input([5, 129], Fill::Uniform(99.0, 101.0))?;
    let scale = s.weight_between(DType::F32, [129], 0.5, 1.5)?;
    let shift = s.weight_between(DType::F32, [129], -0.5, 0.5)?;
    let y = s.node(Op::LayerNorm { epsilon: 1e-5 }, &[x, scale, shift])?;
    // The mean itself is off by up to half a unit in its last place, 4e-6, of a deviation of 0.58.
    s.finish(&[y], 1e-4)
}
