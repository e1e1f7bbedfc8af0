//! The program encoding, version 3: `u8` version, `u8` precision (its code), then a postcard body of the structures below.
//! Version 1 had no precision, version 2 no states and fewer numbers for linear layers and attention; neither is read any
//! more.
//!
//! These are wire types: the IR itself is not serialisable, so it can change without changing what is written. An
//! operator is a number with a list of integers and one of floats. Numbers are never reused.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tabpool_tensor::{DType, Precision, Shape, Tensor};

use super::{PROGRAM_VERSION, ProgramError, ProgramLimits};
use crate::graph::Output;
use crate::{Activation, Binary, BlockRef, Constant, Graph, Node, Op, Reduction, State, Unary, Value, ValueId, Weight};

#[derive(Serialize, Deserialize)]
struct WireProgram<'a> {
    #[serde(borrow)]
    values: Vec<WireValue<'a>>,
    inputs: Vec<u32>,
    #[serde(borrow)]
    weights: Vec<WireWeight<'a>>,
    #[serde(borrow)]
    constants: Vec<WireConstant<'a>>,
    #[serde(borrow)]
    nodes: Vec<WireNode<'a>>,
    #[serde(borrow)]
    outputs: Vec<(&'a str, u32)>,
    /// The value a state is read by, and the one it becomes.
    states: Vec<(u32, u32)>,
}

#[derive(Serialize, Deserialize)]
struct WireValue<'a> {
    name: &'a str,
    dtype: u8,
    dims: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct WireWeight<'a> {
    value: u32,
    stored: u8,
    #[serde(borrow)]
    blocks: Vec<(&'a [u8], u32)>,
}

#[derive(Serialize, Deserialize)]
struct WireConstant<'a> {
    value: u32,
    data: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct WireNode<'a> {
    name: &'a str,
    op: u16,
    ints: Vec<i64>,
    floats: Vec<f32>,
    inputs: Vec<u32>,
    output: u32,
}

pub(super) fn encode(graph: &Graph, precision: Precision) -> Vec<u8> {
    let wire = WireProgram {
        values: graph
            .values
            .iter()
            .map(|v| WireValue {
                name: &v.name,
                dtype: v.dtype.code(),
                // A valid value's dimensions fit 32 bits.
                dims: v.shape.iter().map(|&d| u32::try_from(d).unwrap_or(u32::MAX)).collect(),
            })
            .collect(),
        inputs: graph.inputs.iter().map(|id| id.0).collect(),
        weights: graph
            .weights
            .iter()
            .map(|w| WireWeight {
                value: w.value.0,
                stored: w.stored.code(),
                blocks: w.blocks.iter().map(|b| (&*b.cid, b.len)).collect(),
            })
            .collect(),
        constants: graph.constants.iter().map(|c| WireConstant { value: c.value.0, data: c.tensor.data() }).collect(),
        nodes: graph.nodes.iter().map(wire_node).collect(),
        outputs: graph.outputs.iter().map(|o| (o.name.as_str(), o.value.0)).collect(),
        states: graph.states.iter().map(|s| (s.value.0, s.next.0)).collect(),
    };
    let start = vec![PROGRAM_VERSION, precision.code()];
    postcard::to_extend(&wire, start).unwrap_or_default()
}

pub(super) fn decode(bytes: &[u8], limits: &ProgramLimits) -> Result<(Graph, Precision), ProgramError> {
    let bound = |what, got, limit| (got <= limit).then_some(()).ok_or(ProgramError::TooLarge { what, got, limit });
    bound("bytes", bytes.len(), limits.bytes)?;
    let (&version, body) = bytes.split_first().ok_or_else(|| malformed("no bytes"))?;
    if version != PROGRAM_VERSION {
        return Err(ProgramError::Version { got: version });
    }
    let (&code, body) = body.split_first().ok_or_else(|| malformed("it ends after its version"))?;
    let precision = Precision::from_code(code).ok_or_else(|| malformed(&format!("unknown precision code {code}")))?;
    let (wire, rest) = postcard::take_from_bytes::<WireProgram<'_>>(body).map_err(|e| malformed(&e.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(&format!("{} bytes follow its end", rest.len())));
    }
    bound("values", wire.values.len(), limits.values)?;
    bound("nodes", wire.nodes.len(), limits.nodes)?;
    bound("states", wire.states.len(), limits.states)?;
    let values = wire.values.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    let constants = wire.constants.iter().map(|c| constant(c, &values)).collect::<Result<_, _>>()?;
    let states = wire.states.iter().map(|&(value, next)| State { value: ValueId(value), next: ValueId(next) });
    let graph = Graph {
        states: states.collect(),
        inputs: wire.inputs.into_iter().map(ValueId).collect(),
        weights: wire.weights.iter().map(weight).collect::<Result<_, _>>()?,
        constants,
        nodes: wire.nodes.iter().map(node).collect::<Result<_, _>>()?,
        outputs: wire.outputs.iter().map(|(name, v)| Output { name: (*name).to_owned(), value: ValueId(*v) }).collect(),
        values,
    };
    let state_bytes = |s: &State| graph.values.get(s.value.index()).map_or(Some(0), byte_size);
    let state_bytes = graph.states.iter().try_fold(0usize, |sum, s| sum.checked_add(state_bytes(s)?));
    bound("bytes of states", state_bytes.unwrap_or(usize::MAX), limits.state_bytes)?;
    Ok((graph, precision))
}

fn byte_size(value: &Value) -> Option<usize> {
    value.shape.checked_elements()?.checked_mul(value.dtype.size())
}

fn malformed(reason: &str) -> ProgramError {
    ProgramError::Malformed(reason.to_owned())
}

fn dtype(code: u8) -> Result<DType, ProgramError> {
    DType::from_code(code).ok_or_else(|| malformed(&format!("unknown dtype code {code}")))
}

fn value(v: &WireValue<'_>) -> Result<Value, ProgramError> {
    let dims = v.dims.iter().map(|&d| d as usize).collect::<Vec<_>>();
    Ok(Value { name: v.name.to_owned(), dtype: dtype(v.dtype)?, shape: dims.into() })
}

fn weight(w: &WireWeight<'_>) -> Result<Weight, ProgramError> {
    let blocks = w.blocks.iter().map(|&(cid, len)| BlockRef { cid: cid.into(), len }).collect();
    Ok(Weight { value: ValueId(w.value), stored: dtype(w.stored)?, blocks })
}

fn constant(c: &WireConstant<'_>, values: &[Value]) -> Result<Constant, ProgramError> {
    let v = values.get(c.value as usize).ok_or_else(|| malformed("a constant without a value"))?;
    let tensor = Tensor::new(v.dtype, v.shape.clone(), Bytes::copy_from_slice(c.data))
        .map_err(|e| malformed(&format!("constant {:?}: {e}", v.name)))?;
    Ok(Constant { value: ValueId(c.value), tensor })
}

fn node(n: &WireNode<'_>) -> Result<Node, ProgramError> {
    let op =
        read_op(n).ok_or_else(|| malformed(&format!("node {:?} has operator {} with {:?}", n.name, n.op, n.ints)))?;
    let inputs = n.inputs.iter().map(|&i| ValueId(i)).collect();
    Ok(Node { name: n.name.to_owned(), op, inputs, output: ValueId(n.output) })
}

const UNARY: [Unary; 14] = [
    Unary::Gelu,
    Unary::GeluTanh,
    Unary::Relu,
    Unary::Tanh,
    Unary::Sigmoid,
    Unary::Silu,
    Unary::Erf,
    Unary::Exp,
    Unary::Sqrt,
    Unary::Neg,
    Unary::Abs,
    Unary::QuickGelu,
    Unary::Log,
    Unary::Reciprocal,
];
const BINARY: [Binary; 6] = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min];
const REDUCTION: [Reduction; 3] = [Reduction::Sum, Reduction::Mean, Reduction::Max];

/// The number of an enumeration's variant: its place in the table of its kind.
fn number<T: PartialEq>(table: &[T], v: &T) -> i64 {
    table.iter().position(|t| t == v).and_then(|i| i64::try_from(i).ok()).unwrap_or(i64::MAX)
}

fn variant<T: Copy>(table: &[T], number: i64) -> Option<T> {
    table.get(usize::try_from(number).ok()?).copied()
}

fn wire_node(n: &Node) -> WireNode<'_> {
    let int = |v: usize| i64::try_from(v).unwrap_or(i64::MAX);
    let (op, ints, floats) = match &n.op {
        Op::Gather => (1, vec![], vec![]),
        Op::MatMul { transpose_b } => (2, vec![i64::from(*transpose_b)], vec![]),
        Op::Linear { activation, residual } => {
            (3, [vec![i64::from(*residual)], wire_activation(*activation)].concat(), vec![])
        }
        Op::Binary(b) => (4, vec![number(&BINARY, b)], vec![]),
        Op::Unary(u) => (5, vec![number(&UNARY, u)], vec![]),
        Op::Softmax => (6, vec![], vec![]),
        Op::LayerNorm { epsilon } => (7, vec![], vec![*epsilon]),
        Op::AddLayerNorm { epsilon } => (8, vec![], vec![*epsilon]),
        Op::Reduce { reduction, axis, keep } => {
            (9, vec![number(&REDUCTION, reduction), int(*axis), i64::from(*keep)], vec![])
        }
        Op::L2Normalize { epsilon } => (10, vec![], vec![*epsilon]),
        Op::Reshape { shape } => (11, shape.iter().map(|&d| int(d)).collect(), vec![]),
        Op::Transpose { permutation } => (12, permutation.iter().map(|&d| int(d)).collect(), vec![]),
        Op::Slice { axis, start, length } => (13, vec![int(*axis), int(*start), int(*length)], vec![]),
        Op::Cast { to } => (14, vec![i64::from(to.code())], vec![]),
        Op::TokenPositions { padding_id } => (15, vec![i64::from(*padding_id)], vec![]),
        Op::Attention { heads, kv_heads, scale, causal } => {
            (16, vec![int(*heads), int(*kv_heads), i64::from(*causal)], vec![*scale])
        }
        Op::Conv2d { stride, padding, dilation, groups, activation } => {
            let sizes = stride.iter().chain(padding).chain(dilation).chain([groups]).map(|&v| int(v));
            (17, [sizes.collect(), wire_activation(*activation)].concat(), vec![])
        }
        Op::Concat { axis } => (18, vec![int(*axis)], vec![]),
        Op::RmsNorm { epsilon } => (19, vec![], vec![*epsilon]),
        Op::Rope { heads, rotary } => (20, vec![int(*heads), int(*rotary)], vec![]),
        Op::ArgMax => (21, vec![], vec![]),
        Op::TopK { k } => (22, vec![int(*k)], vec![]),
        Op::WriteRows => (23, vec![], vec![]),
    };
    let inputs = n.inputs.iter().map(|id| id.0).collect();
    WireNode { name: &n.name, op, ints, floats, inputs, output: n.output.0 }
}

/// The number of an activation, or nothing.
fn wire_activation(activation: Option<Activation>) -> Vec<i64> {
    activation.iter().map(|a| number(&UNARY, &a.unary())).collect()
}

fn read_activation(numbers: &[i64]) -> Option<Option<Activation>> {
    match numbers {
        [] => Some(None),
        &[a] => Some(Some(Activation::from_unary(variant(&UNARY, a)?)?)),
        _ => None,
    }
}

fn read_op(n: &WireNode<'_>) -> Option<Op> {
    let size = |v: &i64| usize::try_from(*v).ok();
    Some(match (n.op, &*n.ints, &*n.floats) {
        (1, [], []) => Op::Gather,
        (2, [t], []) => Op::MatMul { transpose_b: flag(*t)? },
        (3, [residual, a @ ..], []) => Op::Linear { activation: read_activation(a)?, residual: flag(*residual)? },
        (4, [b], []) => Op::Binary(variant(&BINARY, *b)?),
        (5, [u], []) => Op::Unary(variant(&UNARY, *u)?),
        (6, [], []) => Op::Softmax,
        (7, [], [epsilon]) => Op::LayerNorm { epsilon: *epsilon },
        (8, [], [epsilon]) => Op::AddLayerNorm { epsilon: *epsilon },
        (9, [r, axis, keep], []) => {
            Op::Reduce { reduction: variant(&REDUCTION, *r)?, axis: size(axis)?, keep: flag(*keep)? }
        }
        (10, [], [epsilon]) => Op::L2Normalize { epsilon: *epsilon },
        (11, dims, []) => Op::Reshape { shape: Shape::new(dims.iter().map(size).collect::<Option<Vec<_>>>()?) },
        (12, p, []) => Op::Transpose { permutation: p.iter().map(size).collect::<Option<Vec<_>>>()? },
        (13, [axis, start, length], []) => Op::Slice { axis: size(axis)?, start: size(start)?, length: size(length)? },
        (14, [to], []) => Op::Cast { to: DType::from_code(u8::try_from(*to).ok()?)? },
        (15, [id], []) => Op::TokenPositions { padding_id: i32::try_from(*id).ok()? },
        (16, [heads, kv_heads, causal], [scale]) => {
            let (heads, kv_heads) = (size(heads)?, size(kv_heads)?);
            Op::Attention { heads, kv_heads, scale: *scale, causal: flag(*causal)? }
        }
        (17, [sy, sx, top, left, bottom, right, dy, dx, groups, a @ ..], []) => Op::Conv2d {
            stride: [size(sy)?, size(sx)?],
            padding: [size(top)?, size(left)?, size(bottom)?, size(right)?],
            dilation: [size(dy)?, size(dx)?],
            groups: size(groups)?,
            activation: read_activation(a)?,
        },
        (18, [axis], []) => Op::Concat { axis: size(axis)? },
        (19, [], [epsilon]) => Op::RmsNorm { epsilon: *epsilon },
        (20, [heads, rotary], []) => Op::Rope { heads: size(heads)?, rotary: size(rotary)? },
        (21, [], []) => Op::ArgMax,
        (22, [k], []) => Op::TopK { k: size(k)? },
        (23, [], []) => Op::WriteRows,
        _ => return None,
    })
}

fn flag(v: i64) -> Option<bool> {
    match v {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}
