//! Shape and dtype inference: what each operator accepts and gives. The reason of a refusal is a clause that the caller
//! completes with the node, the operator and the operands.

use tabpool_tensor::{DType, Shape};

use crate::{Op, Value};

type Inferred = Result<(DType, Shape), String>;

impl Op {
    /// The dtype and shape of this operator's result for these operands.
    ///
    /// # Errors
    /// A clause that says which rule the operands break.
    pub(crate) fn infer(&self, inputs: &[&Value]) -> Inferred {
        let (least, most) = self.operands();
        if inputs.len() < least || inputs.len() > most {
            let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
            return Err(format!("takes {wanted} operands, got {}", inputs.len()));
        }
        match self {
            Op::Gather => gather(inputs),
            Op::MatMul { transpose_b } => matmul(inputs, *transpose_b),
            Op::Linear { .. } => linear(inputs),
            Op::Binary(op) => binary(inputs, *op),
            Op::Unary(_) => float(inputs[0], "its operand").map(|()| same(inputs[0])),
            Op::Softmax | Op::L2Normalize { .. } => {
                float(inputs[0], "its operand")?;
                last(inputs[0]).map(|_| same(inputs[0]))
            }
            Op::LayerNorm { epsilon } => layer_norm(inputs[0], &inputs[1..], *epsilon),
            Op::AddLayerNorm { epsilon } => {
                float(inputs[1], "the residual")?;
                if inputs[0].shape != inputs[1].shape {
                    return Err("needs a residual of the same shape".to_owned());
                }
                layer_norm(inputs[0], &inputs[2..], *epsilon)
            }
            Op::Reduce { axis, keep, .. } => reduce(inputs[0], *axis, *keep),
            Op::Reshape { shape } => {
                if shape.checked_elements() != Some(inputs[0].shape.elements()) {
                    return Err(format!("cannot give {shape}: another number of elements"));
                }
                Ok((inputs[0].dtype, shape.clone()))
            }
            Op::Transpose { permutation } => transpose(inputs[0], permutation),
            Op::Slice { axis, start, length } => slice(inputs[0], *axis, *start, *length),
            Op::Cast { to } => match to {
                DType::F32 | DType::I32 => Ok((*to, inputs[0].shape.clone())),
                other => Err(format!("converts to f32 or i32, not {other}")),
            },
            Op::TokenPositions { .. } => {
                integer(inputs[0], "the ids")?;
                rank(inputs[0], 2, "the ids").map(|()| same(inputs[0]))
            }
            Op::Attention { heads, scale } => attention(inputs, *heads, *scale),
        }
    }

    /// The least and the greatest number of operands.
    fn operands(&self) -> (usize, usize) {
        match self {
            Op::Gather | Op::MatMul { .. } | Op::Binary(_) => (2, 2),
            Op::Linear { .. } => (2, 3),
            Op::LayerNorm { .. } => (3, 3),
            Op::AddLayerNorm { .. } => (4, 4),
            Op::Attention { .. } => (3, 5),
            Op::Unary(_)
            | Op::Softmax
            | Op::L2Normalize { .. }
            | Op::Reduce { .. }
            | Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Cast { .. }
            | Op::TokenPositions { .. } => (1, 1),
        }
    }
}

fn same(v: &Value) -> (DType, Shape) {
    (v.dtype, v.shape.clone())
}

fn float(v: &Value, what: &str) -> Result<(), String> {
    (v.dtype == DType::F32).then_some(()).ok_or_else(|| format!("needs {what} in f32, not {}", v.dtype))
}

fn integer(v: &Value, what: &str) -> Result<(), String> {
    (v.dtype == DType::I32).then_some(()).ok_or_else(|| format!("needs {what} in i32, not {}", v.dtype))
}

fn rank(v: &Value, want: usize, what: &str) -> Result<(), String> {
    (v.shape.rank() == want).then_some(()).ok_or_else(|| format!("needs {what} of rank {want}"))
}

/// The size of the last dimension.
fn last(v: &Value) -> Result<usize, String> {
    v.shape.last().copied().ok_or_else(|| "needs at least one dimension".to_owned())
}

fn gather(inputs: &[&Value]) -> Inferred {
    float(inputs[0], "the table")?;
    integer(inputs[1], "the indices")?;
    match inputs[0].shape.split_first() {
        Some((&rows, row)) if rows > 0 => Ok((DType::F32, [inputs[1].shape.dims(), row].concat().into())),
        _ => Err("needs a table with at least one row".to_owned()),
    }
}

fn matmul(inputs: &[&Value], transpose_b: bool) -> Inferred {
    float(inputs[0], "the first operand")?;
    float(inputs[1], "the second operand")?;
    let (a, b) = (&inputs[0].shape, &inputs[1].shape);
    let (&[ref batch_a @ .., m, k], &[ref batch_b @ .., b0, b1]) = (a.dims(), b.dims()) else {
        return Err("needs operands of rank 2 or more".to_owned());
    };
    let (kb, n) = if transpose_b { (b1, b0) } else { (b0, b1) };
    if k != kb {
        return Err(format!("needs equal inner dimensions, got {k} and {kb}"));
    }
    let batch = Shape::from(batch_a)
        .broadcast(&Shape::from(batch_b))
        .ok_or_else(|| "needs leading dimensions that broadcast".to_owned())?;
    Ok((DType::F32, [batch.dims(), &[m, n]].concat().into()))
}

fn linear(inputs: &[&Value]) -> Inferred {
    float(inputs[0], "its operand")?;
    float(inputs[1], "the weight")?;
    rank(inputs[1], 2, "the weight")?;
    let (k, n) = (last(inputs[0])?, inputs[1].shape[0]);
    if inputs[1].shape[1] != k {
        return Err(format!("needs a weight of [out, {k}]"));
    }
    if let Some(bias) = inputs.get(2) {
        float(bias, "the bias")?;
        if bias.shape.dims() != [n] {
            return Err(format!("needs a bias of [{n}]"));
        }
    }
    let mut dims = inputs[0].shape.dims().to_vec();
    if let Some(d) = dims.last_mut() {
        *d = n;
    }
    Ok((DType::F32, dims.into()))
}

fn binary(inputs: &[&Value], op: crate::Binary) -> Inferred {
    let dtype = inputs[0].dtype;
    if dtype != inputs[1].dtype {
        return Err("needs operands of one dtype".to_owned());
    }
    if op == crate::Binary::Div {
        float(inputs[0], "its operands")?;
    }
    let shape =
        inputs[0].shape.broadcast(&inputs[1].shape).ok_or_else(|| "needs operands that broadcast".to_owned())?;
    Ok((dtype, shape))
}

fn layer_norm(x: &Value, affine: &[&Value], epsilon: f32) -> Inferred {
    float(x, "its operand")?;
    let n = last(x)?;
    for v in affine {
        float(v, "scale and shift")?;
        if v.shape.dims() != [n] {
            return Err(format!("needs scale and shift of [{n}]"));
        }
    }
    if !(epsilon.is_finite() && epsilon >= 0.0) {
        return Err(format!("needs a finite epsilon of at least 0, not {epsilon}"));
    }
    Ok(same(x))
}

fn reduce(x: &Value, axis: usize, keep: bool) -> Inferred {
    float(x, "its operand")?;
    if x.shape.get(axis).is_none_or(|&d| d == 0) {
        return Err(format!("needs a dimension {axis} of at least one element"));
    }
    let mut dims = x.shape.dims().to_vec();
    if keep {
        dims[axis] = 1;
    } else {
        dims.remove(axis);
    }
    Ok((DType::F32, dims.into()))
}

fn transpose(x: &Value, permutation: &[usize]) -> Inferred {
    let mut seen = vec![false; x.shape.rank()];
    let valid = permutation.len() == seen.len()
        && permutation.iter().all(|&p| seen.get_mut(p).is_some_and(|s| !std::mem::replace(s, true)));
    if !valid {
        return Err(format!("needs a permutation of 0..{}, not {permutation:?}", x.shape.rank()));
    }
    Ok((x.dtype, permutation.iter().map(|&p| x.shape[p]).collect::<Vec<_>>().into()))
}

fn slice(x: &Value, axis: usize, start: usize, length: usize) -> Inferred {
    let size = *x.shape.get(axis).ok_or_else(|| format!("has no dimension {axis} to cut"))?;
    if length == 0 || start.checked_add(length).is_none_or(|end| end > size) {
        return Err(format!("cannot take {length} elements from {start} on of {size}"));
    }
    let mut dims = x.shape.dims().to_vec();
    dims[axis] = length;
    Ok((x.dtype, dims.into()))
}

fn attention(inputs: &[&Value], heads: usize, scale: f32) -> Inferred {
    for (v, what) in inputs.iter().zip(["q", "k", "v"]) {
        float(v, what)?;
        rank(v, 3, what)?;
    }
    let (q, k, v) = (&inputs[0].shape, &inputs[1].shape, &inputs[2].shape);
    if q[0] != k[0] || q[0] != v[0] || k[1] != v[1] || q[2] != k[2] {
        return Err("needs q [B, Sq, H], k [B, Sk, H], v [B, Sk, Hv]".to_owned());
    }
    if heads == 0 || q[2] % heads != 0 || v[2] % heads != 0 || q[2] == 0 || k[1] == 0 {
        return Err(format!("cannot split {} and {} over {heads} heads", q[2], v[2]));
    }
    if !scale.is_finite() {
        return Err(format!("needs a finite scale, not {scale}"));
    }
    let scores = Shape::from([q[0], heads, q[1], k[1]]);
    for bias in &inputs[3..] {
        float(bias, "a bias")?;
        if bias.shape.rank() != 4 || bias.shape.broadcast(&scores).as_ref() != Some(&scores) {
            return Err(format!("needs biases of rank 4 that broadcast to {scores}"));
        }
    }
    Ok((DType::F32, [q[0], q[1], v[2]].into()))
}
