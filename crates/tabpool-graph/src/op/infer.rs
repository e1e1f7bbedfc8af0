//! Shape and dtype inference: what each operator accepts and gives. The reason of a refusal is a clause that the caller
//! completes with the node, the operator and the operands.

use tabpool_tensor::{DType, Shape};

use crate::{Op, Value};

/// The most values of one concatenation.
const MOST_CONCATENATED: usize = 16;

/// The longest row whose positions an `f32` holds exactly.
const LONGEST_RANKED: usize = 1 << 24;

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
            Op::Linear { residual, .. } => linear(inputs, *residual),
            Op::Conv2d { stride, padding, dilation, groups, .. } => {
                conv2d(inputs, *stride, *padding, *dilation, *groups)
            }
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
            Op::RmsNorm { epsilon } => layer_norm(inputs[0], &inputs[1..], *epsilon),
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
            Op::Concat { axis } => concat(inputs, *axis),
            Op::WriteRows => write_rows(inputs),
            Op::ArgMax => arg_max(inputs[0]),
            Op::TopK { k } => top_k(inputs[0], *k),
            Op::Rope { heads, rotary } => rope(inputs, *heads, *rotary),
            Op::Attention { heads, kv_heads, scale, causal } => attention(inputs, [*heads, *kv_heads], *scale, *causal),
        }
    }

    /// The least and the greatest number of operands.
    fn operands(&self) -> (usize, usize) {
        match self {
            Op::Gather | Op::MatMul { .. } | Op::Binary(_) | Op::RmsNorm { .. } => (2, 2),
            Op::Linear { residual, .. } => (2 + usize::from(*residual), 3 + usize::from(*residual)),
            Op::Conv2d { .. } => (2, 3),
            Op::LayerNorm { .. } => (1, 3),
            Op::WriteRows | Op::Rope { .. } => (3, 3),
            Op::AddLayerNorm { .. } => (4, 4),
            Op::Concat { .. } => (1, MOST_CONCATENATED),
            Op::Attention { causal, .. } => (3 + usize::from(*causal), 5 + usize::from(*causal)),
            Op::Unary(_)
            | Op::Softmax
            | Op::L2Normalize { .. }
            | Op::Reduce { .. }
            | Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Cast { .. }
            | Op::ArgMax
            | Op::TopK { .. }
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

fn linear(inputs: &[&Value], residual: bool) -> Inferred {
    float(inputs[0], "its operand")?;
    float(inputs[1], "the weight")?;
    rank(inputs[1], 2, "the weight")?;
    let (k, n) = (last(inputs[0])?, inputs[1].shape[0]);
    if inputs[1].shape[1] != k {
        return Err(format!("needs a weight of [out, {k}]"));
    }
    let mut dims = inputs[0].shape.dims().to_vec();
    if let Some(d) = dims.last_mut() {
        *d = n;
    }
    let mut optional = &inputs[2..];
    if residual && let Some((last, before)) = optional.split_last() {
        float(last, "the residual")?;
        if last.shape.dims() != dims {
            return Err(format!("needs a residual of {}", Shape::from(dims)));
        }
        optional = before;
    }
    channel_bias(optional.first().copied(), n)?;
    Ok((DType::F32, dims.into()))
}

/// A bias of `n` elements, where there is one.
fn channel_bias(bias: Option<&Value>, n: usize) -> Result<(), String> {
    let Some(bias) = bias else { return Ok(()) };
    float(bias, "the bias")?;
    (bias.shape.dims() == [n]).then_some(()).ok_or_else(|| format!("needs a bias of [{n}]"))
}

fn conv2d(inputs: &[&Value], stride: [usize; 2], padding: [usize; 4], dilation: [usize; 2], groups: usize) -> Inferred {
    float(inputs[0], "its operand")?;
    float(inputs[1], "the weight")?;
    let (&[b, c, h, w], &[o, cg, kh, kw]) = (inputs[0].shape.dims(), inputs[1].shape.dims()) else {
        return Err("needs an operand and a weight of rank 4".to_owned());
    };
    if stride.contains(&0) || dilation.contains(&0) {
        return Err(format!("needs strides and dilations of at least 1, not {stride:?} and {dilation:?}"));
    }
    if groups == 0 || c % groups != 0 || o % groups != 0 {
        return Err(format!("cannot divide {c} and {o} channels into {groups} groups"));
    }
    if cg != c / groups {
        return Err(format!("needs a weight of [out, {}, height, width]", c / groups));
    }
    channel_bias(inputs.get(2).copied(), o)?;
    let [top, left, bottom, right] = padding;
    let along = |size: usize, before: usize, after: usize, kernel: usize, d: usize| {
        let padded = size.checked_add(before)?.checked_add(after).filter(|&p| i32::try_from(p).is_ok())?;
        let reach = kernel.checked_sub(1)?.checked_mul(dilation[d])?;
        Some(padded.checked_sub(reach)?.checked_sub(1)? / stride[d] + 1)
    };
    match (along(h, top, bottom, kh, 0), along(w, left, right, kw, 1)) {
        (Some(out_h), Some(out_w)) => Ok((DType::F32, [b, o, out_h, out_w].into())),
        _ => {
            Err(format!("has no room for a kernel of {kh} by {kw} with padding {padding:?} and dilation {dilation:?}"))
        }
    }
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

fn concat(inputs: &[&Value], axis: usize) -> Inferred {
    let first = inputs[0];
    if axis >= first.shape.rank() {
        return Err(format!("has no dimension {axis} to join along"));
    }
    let mut dims = first.shape.dims().to_vec();
    dims[axis] = 0;
    for v in inputs {
        if v.dtype != first.dtype {
            return Err("needs operands of one dtype".to_owned());
        }
        let alike = |d: usize| d == axis || v.shape.get(d) == first.shape.get(d);
        if v.shape.rank() != first.shape.rank() || !(0..first.shape.rank()).all(alike) {
            return Err(format!("needs shapes that differ in dimension {axis} only"));
        }
        dims[axis] =
            dims[axis].checked_add(v.shape[axis]).ok_or_else(|| "joins more than can be counted".to_owned())?;
    }
    Ok((first.dtype, dims.into()))
}

fn write_rows(inputs: &[&Value]) -> Inferred {
    let (target, rows) = (inputs[0], inputs[1]);
    if target.dtype != rows.dtype {
        return Err("needs a target and rows of one dtype".to_owned());
    }
    match (target.shape.dims(), rows.shape.dims()) {
        (&[b, c, w], &[b2, s, w2]) if b == b2 && w == w2 && s <= c => {}
        _ => return Err("needs a target [B, C, W] and rows [B, S, W] with S of at most C".to_owned()),
    }
    position(inputs[2], "the position")?;
    Ok(same(target))
}

/// One `i32`.
fn position(v: &Value, what: &str) -> Result<(), String> {
    integer(v, what)?;
    (v.shape.dims() == [1]).then_some(()).ok_or_else(|| format!("needs {what} of shape [1]"))
}

fn arg_max(x: &Value) -> Inferred {
    let n = last(x)?;
    if i32::try_from(n).is_err() {
        return Err(format!("cannot give positions among {n} elements as i32"));
    }
    Ok((DType::I32, x.shape[..x.shape.rank() - 1].into()))
}

fn top_k(x: &Value, k: usize) -> Inferred {
    float(x, "its operand")?;
    let n = last(x)?;
    if k == 0 || k > n {
        return Err(format!("cannot give the {k} largest of {n} elements"));
    }
    if n > LONGEST_RANKED {
        return Err(format!("cannot give positions among {n} elements as f32, at most {LONGEST_RANKED}"));
    }
    Ok((DType::F32, [&x.shape[..x.shape.rank() - 1], &[2, k]].concat().into()))
}

fn rope(inputs: &[&Value], heads: usize, rotary: usize) -> Inferred {
    for (v, what) in inputs.iter().zip(["its operand", "cos", "sin"]) {
        float(v, what)?;
        rank(v, 3, what)?;
    }
    let (x, cos, sin) = (&inputs[0].shape, &inputs[1].shape, &inputs[2].shape);
    if heads == 0 || x[2] % heads != 0 {
        return Err(format!("cannot split {} over {heads} heads", x[2]));
    }
    let depth = x[2] / heads;
    if rotary == 0 || !rotary.is_multiple_of(2) || rotary > depth {
        return Err(format!("cannot rotate {rotary} of the {depth} elements of a head"));
    }
    if cos != sin || (cos[0] != 1 && cos[0] != x[0]) || cos[1..] != [x[1], rotary / 2] {
        return Err(format!("needs cos and sin of [{} or 1, {}, {}]", x[0], x[1], rotary / 2));
    }
    Ok(same(inputs[0]))
}

fn attention(inputs: &[&Value], [heads, kv_heads]: [usize; 2], scale: f32, causal: bool) -> Inferred {
    let (inputs, start) = if causal { inputs.split_at(inputs.len() - 1) } else { (inputs, &[][..]) };
    if let Some(start) = start.first() {
        position(start, "the start")?;
    }
    for (v, what) in inputs.iter().zip(["q", "k", "v"]) {
        float(v, what)?;
        rank(v, 3, what)?;
    }
    let (q, k, v) = (&inputs[0].shape, &inputs[1].shape, &inputs[2].shape);
    if q[0] != k[0] || q[0] != v[0] || k[1] != v[1] || k[1] == 0 {
        return Err("needs q [B, Sq, H], k [B, Sk, Hk], v [B, Sk, Hv]".to_owned());
    }
    if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
        return Err(format!("cannot share {kv_heads} heads of keys among {heads} heads"));
    }
    let depth = q[2] / heads;
    if depth == 0 || q[2] % heads != 0 || k[2] % kv_heads != 0 || v[2] % kv_heads != 0 {
        return Err(format!(
            "cannot split {}, {} and {} over {heads}, {kv_heads} and {kv_heads} heads",
            q[2], k[2], v[2]
        ));
    }
    if k[2] / kv_heads != depth {
        return Err(format!("needs heads of keys as wide as those of queries, {depth}, not {}", k[2] / kv_heads));
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
    let width = (v[2] / kv_heads).checked_mul(heads).ok_or_else(|| "gives more than can be counted".to_owned())?;
    Ok((DType::F32, [q[0], q[1], width].into()))
}
