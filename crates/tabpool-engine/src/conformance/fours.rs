//! Sizes that are multiples of four: where kernels take four elements at once, what every other case keeps them from.

use tabpool_graph::{Activation, Binary, Op, Unary};
use tabpool_tensor::DType;

use super::case::{Case, CaseError, Fill, Sketch};

pub(super) fn cases() -> Result<Vec<Case>, CaseError> {
    let mut all = row_by_row()?;
    all.extend(moved()?);
    all.extend(broadcast()?);
    all.extend(attentions()?);
    all.extend(products()?);
    Ok(all)
}

/// Rows in numbers below and above what a kernel may ask for.
fn row_by_row() -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    for shape in [&[3, 8][..], &[37, 20], &[2, 9, 64], &[1, 1028], &[17, 4]] {
        let width = shape.last().copied().unwrap_or(1);
        let mut s = Sketch::new(format!("softmax in fours {shape:?}"));
        let x = s.input(shape, Fill::Uniform(-8.0, 8.0))?;
        let y = s.node(Op::Softmax, &[x])?;
        all.push(s.finish(&[y], 1e-5)?);

        let mut s = Sketch::new(format!("rms_norm in fours {shape:?}"));
        let x = s.input(shape, Fill::PLAIN)?;
        let scale = s.weight_between(DType::F32, [width], 0.5, 1.5)?;
        let y = s.node(Op::RmsNorm { epsilon: 1e-6 }, &[x, scale])?;
        all.push(s.finish(&[y], 1e-5)?);

        for affine in 0..4 {
            let mut s = Sketch::new(format!("layer_norm in fours {shape:?} with {affine} more operands"));
            let x = s.input(shape, Fill::PLAIN)?;
            let residual = s.input(shape, Fill::PLAIN)?;
            let scale = s.weight_between(DType::F32, [width], 0.5, 1.5)?;
            let shift = s.weight_between(DType::F16, [width], -0.5, 0.5)?;
            let epsilon = 1e-5;
            let (op, operands) = match affine {
                3 => (Op::AddLayerNorm { epsilon }, vec![x, residual, scale, shift]),
                few => (Op::LayerNorm { epsilon }, [x, scale, shift][..=few].to_vec()),
            };
            let y = s.node(op, &operands)?;
            all.push(s.finish(&[y], 2e-5)?);
        }
    }
    for (shape, heads, rotary, tables) in
        [([2, 5, 48], 3, 16, 2), ([1, 7, 64], 4, 8, 1), ([3, 3, 32], 2, 12, 1), ([1, 9, 64], 1, 64, 1)]
    {
        let mut s = Sketch::new(format!("rope in fours {shape:?} {heads} heads rotating {rotary} by {tables} tables"));
        let x = s.input(shape, Fill::PLAIN)?;
        let cos = s.input([tables, shape[1], rotary / 2], Fill::Uniform(-1.0, 1.0))?;
        let sin = s.input([tables, shape[1], rotary / 2], Fill::Uniform(-1.0, 1.0))?;
        let y = s.node(Op::Rope { heads, rotary }, &[x, cos, sin])?;
        all.push(s.finish(&[y], 1e-6)?);
    }
    Ok(all)
}

/// What moves elements and does not look at them.
fn moved() -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    for width in [4, 12, 384] {
        let mut s = Sketch::new(format!("gather in fours of {width}"));
        let table = s.weight(DType::F16, [61, width])?;
        let ids = s.input([3, 5], Fill::Integers(-3, 70))?;
        let y = s.node(Op::Gather, &[table, ids])?;
        all.push(s.finish(&[y], 0.0)?);
    }
    for fill in [Fill::PLAIN, Fill::Integers(-99, 99)] {
        for (shape, permutation) in [
            (&[3, 5, 2, 8][..], &[0, 2, 1, 3][..]),
            (&[5, 3, 12], &[1, 0, 2]),
            (&[4, 8], &[1, 0]),
            (&[8, 4, 4], &[0, 2, 1]),
        ] {
            let mut s = Sketch::new(format!("transpose in fours {shape:?} {permutation:?} {fill:?}"));
            let x = s.input(shape, fill)?;
            let y = s.node(Op::Transpose { permutation: permutation.to_vec() }, &[x])?;
            all.push(s.finish(&[y], 0.0)?);
        }
        for (shape, axis, start, length) in
            [(&[16][..], 0, 4, 7), (&[5, 8], 0, 1, 3), (&[5, 16], 1, 4, 8), (&[5, 16], 1, 3, 8), (&[3, 6, 4], 1, 2, 3)]
        {
            let mut s = Sketch::new(format!("slice in fours {shape:?} axis {axis} from {start} by {length} {fill:?}"));
            let x = s.input(shape, fill)?;
            let y = s.node(Op::Slice { axis, start, length }, &[x])?;
            all.push(s.finish(&[y], 0.0)?);
        }
        for (shapes, axis) in
            [(&[[3, 8], [3, 4], [3, 12]], 1), (&[[1, 8], [3, 8], [2, 8]], 0), (&[[3, 4], [3, 3], [3, 5]], 1)]
        {
            let mut s = Sketch::new(format!("concat in fours {shapes:?} axis {axis} {fill:?}"));
            let operands = shapes.iter().map(|&shape| s.input(shape, fill)).collect::<Result<Vec<_>, _>>()?;
            let y = s.node(Op::Concat { axis }, &operands)?;
            all.push(s.finish(&[y], 0.0)?);
        }
        for kept in [false, true] {
            let mut s = Sketch::new(format!("write_rows in fours, a state: {kept} {fill:?}"));
            let dtype = if matches!(fill, Fill::Integers(..)) { DType::I32 } else { DType::F32 };
            let shape = [2, 9, 12];
            let target = if kept { s.state(dtype, shape)? } else { s.input(shape, fill)? };
            let rows = s.input([2, 3, 12], fill)?;
            let at = s.input([1], Fill::Each(&[0, 6, 3, -1, 8, 100]))?;
            let y = s.node(Op::WriteRows, &[target, rows, at])?;
            if kept {
                s.next(target, y)?;
            }
            s.runs(6);
            all.push(s.finish(&[y], 0.0)?);
        }
    }
    Ok(all)
}

/// Operands that repeat along the innermost dimension, along others, and along none.
fn broadcast() -> Result<Vec<Case>, CaseError> {
    let pairs: [(&[usize], &[usize]); 9] = [
        (&[3, 5, 8], &[3, 5, 8]),
        (&[3, 5, 8], &[8]),
        (&[3, 5, 8], &[5, 1]),
        (&[5, 1], &[3, 5, 8]),
        (&[3, 1, 8], &[3, 5, 8]),
        (&[12, 1], &[1, 8]),
        (&[2, 3, 1, 1], &[2, 1, 5, 4]),
        (&[7, 16], &[1]),
        (&[1], &[13]),
    ];
    let mut all = Vec::new();
    for (a, b) in pairs {
        for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Max] {
            for fill in [Fill::PLAIN, Fill::Integers(-99, 99)] {
                let name = Op::Binary(op).name();
                let mut s = Sketch::new(format!("{name} in fours {a:?} {b:?} {fill:?}"));
                let operands = [s.input(a, fill)?, s.input(b, fill)?];
                let y = s.node(Op::Binary(op), &operands)?;
                all.push(s.finish(&[y], 1e-6)?);
            }
        }
    }
    Ok(all)
}

/// Heads of the sizes that models have, with few queries and with many.
fn attentions() -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    for (heads, shared, depth) in [(4, 2, 64), (2, 1, 128), (2, 2, 32), (1, 1, 264)] {
        for (batch, queries, keys) in [(1, 1, 33), (2, 1, 300), (1, 3, 7), (1, 37, 37)] {
            for causal in [false, true] {
                let seen = if causal { "up to a position" } else { "all" };
                let mut s = Sketch::new(format!(
                    "attention in fours of {batch}x{heads} heads of {depth} sharing keys by {shared}, {queries} queries \
                     seeing {seen} of {keys} keys"
                ));
                let kv_heads = heads / shared;
                let mut operands = vec![
                    s.input([batch, queries, heads * depth], Fill::Uniform(-1.0, 1.0))?,
                    s.input([batch, keys, kv_heads * depth], Fill::Uniform(-1.0, 1.0))?,
                    s.input([batch, keys, kv_heads * depth], Fill::PLAIN)?,
                ];
                if causal {
                    operands.push(s.input([1], Fill::Each(&[5, 0]))?);
                } else {
                    operands.push(s.input([batch, 1, 1, keys], Fill::Mask(-1e9))?);
                }
                let y = s.node(Op::Attention { heads, kv_heads, scale: 0.125, causal }, &operands)?;
                all.push(s.finish(&[y], 2e-5)?);
            }
        }
    }
    Ok(all)
}

/// Linear layers with what may follow them, and convolutions.
fn products() -> Result<Vec<Case>, CaseError> {
    let mut all = Vec::new();
    for (m, k, n) in [(1, 64, 48), (5, 20, 36), (17, 64, 128), (70, 36, 64), (1, 64, 50), (33, 64, 51), (9, 51, 64)] {
        for activation in [None, Some(Activation::Gelu)] {
            let followed = activation.map_or("nothing", |a| Op::Unary(a.unary()).name());
            let mut s = Sketch::new(format!("linear in fours [{m}] {k} to {n} then {followed} and a residual"));
            let x = s.input([m, k], Fill::PLAIN)?;
            let weight = s.weight(DType::F32, [n, k])?;
            let bias = s.weight_between(DType::F32, [n], -1.0, 1.0)?;
            let residual = s.input([m, n], Fill::PLAIN)?;
            let y = s.node(Op::Linear { activation, residual: true }, &[x, weight, bias, residual])?;
            all.push(s.finish(&[y], 2e-5)?);
        }
    }
    let images = [
        ([2, 8, 8, 8], 16, [3, 3], 1, 1),
        ([1, 64, 8, 8], 72, [1, 1], 1, 1),
        ([1, 16, 16, 12], 32, [3, 3], 1, 2),
        ([1, 4, 4, 8], 4, [3, 3], 4, 1),
        ([1, 32, 1, 24], 32, [1, 5], 4, 1),
        ([3, 12, 6, 6], 20, [3, 3], 1, 1),
    ];
    for (image, out, kernel, groups, step) in images {
        let mut s = Sketch::new(format!("conv2d in fours {image:?} to {out} by {kernel:?} in {groups} groups"));
        let x = s.input(image, Fill::PLAIN)?;
        let weight = s.weight(DType::F16, [out, image[1] / groups, kernel[0], kernel[1]])?;
        let bias = s.weight_between(DType::F32, [out], -1.0, 1.0)?;
        let (down, right) = (kernel[0] / 2, kernel[1] / 2);
        let op = Op::Conv2d {
            stride: [step, step],
            padding: [down, right, down, right],
            dilation: [1, 1],
            groups,
            activation: Some(Activation::Relu),
        };
        let y = s.node(op, &[x, weight, bias])?;
        let z = s.node(Op::Unary(Unary::Neg), &[y])?;
        all.push(s.finish(&[y, z], 1e-4)?);
    }
    Ok(all)
}
