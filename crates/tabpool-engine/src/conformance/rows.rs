//! Softmax, norms and reductions.

use tabpool_graph::{Op, Reduction};
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
        }
    }
    all.push(one("softmax of large numbers".into(), Op::Softmax, &[5, 33], Fill::Uniform(-100.0, 100.0))?);
    all.push(one("softmax of masked numbers".into(), Op::Softmax, &[5, 33], Fill::Mask(-1e9))?);
    all.push(one("softmax of equal lowest numbers".into(), Op::Softmax, &[3, 5], Fill::Cycle(&[f32::MIN]))?);
    let op = Op::L2Normalize { epsilon: 0.5 };
    all.push(one("l2_normalize of short rows".into(), op, &[3, 5], Fill::Uniform(-0.1, 0.1))?);
    all.push(one("l2_normalize of zeros".into(), Op::L2Normalize { epsilon: 1e-12 }, &[3, 5], Fill::Cycle(&[0.0]))?);
    all.push(shifted_layer_norm()?);
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
