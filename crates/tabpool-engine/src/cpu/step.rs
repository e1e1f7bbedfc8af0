//! Steps: nodes with everything that can be known before a run worked out, at load.

use std::collections::HashMap;

use tabpool_graph::{Activation, Binary, Graph, Node, Op, Reduction, Unary, Value, ValueId};
use tabpool_tensor::{DType, Shape};

use super::attention::Attention;
use super::elementwise::{self, Broadcast, broadcast_strides};
use super::gemm::{Size, packed_left_len, packed_right_len};
use super::isa::Isa;
use super::layout::Walk;
use super::{math, rows};
use crate::backend::EngineError;
use crate::memory::MemoryPlan;

/// Where an operand's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A slot of the memory plan.
    Slot(usize),
    /// An input of the run, by position.
    Input(usize),
    /// A weight in its plain form or a constant, by position in [`Fixed::plain`].
    Fixed(usize),
}

/// An operand: where it is, and how many elements it has (a slot may have room for more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operand {
    pub(crate) source: Source,
    pub(crate) len: usize,
}

/// Where a graph's leaves are.
#[derive(Default)]
pub(crate) struct Leaves {
    /// Inputs, plain weights and constants.
    pub(crate) sources: HashMap<ValueId, Source>,
    /// Weights that are packed, by position among the packed ones.
    pub(crate) packed: HashMap<ValueId, usize>,
}

/// What a step computes; the operands' order is that of the operator.
pub(crate) enum Kernel {
    Gather {
        rows: usize,
    },
    /// `packed` is the weight, where it was packed at load.
    Linear {
        size: Size,
        packed: Option<usize>,
        activation: Option<Activation>,
    },
    /// `pairs` says which matrices of the operands each matrix of the result is the product of.
    MatMul {
        size: Size,
        transpose_b: bool,
        pairs: Vec<[usize; 2]>,
    },
    Binary(Binary, Broadcast),
    BinaryIntegers(Binary, Broadcast),
    Unary(Unary),
    Softmax {
        width: usize,
    },
    LayerNorm {
        epsilon: f32,
    },
    AddLayerNorm {
        epsilon: f32,
    },
    Reduce {
        reduction: Reduction,
        size: usize,
        inner: usize,
    },
    L2Normalize {
        width: usize,
        epsilon: f32,
    },
    Walk(Walk),
    Copy,
    CastToF32,
    CastToI32,
    TokenPositions {
        width: usize,
        padding_id: i32,
    },
    Attention {
        sizes: Attention,
        bias_strides: Vec<[usize; 4]>,
    },
}

/// One node, ready to run.
pub(crate) struct Step {
    pub(crate) kernel: Kernel,
    pub(crate) operands: Vec<Operand>,
    /// The slot of the result.
    pub(crate) out: usize,
    /// The elements of the result.
    pub(crate) len: usize,
}

/// The elements of scratch memory that steps share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScratchSize {
    pub(crate) left: usize,
    pub(crate) right: usize,
    /// For each thread.
    pub(crate) lane: usize,
}

/// Where a value is, through its aliases.
///
/// # Errors
/// [`EngineError::Device`] for a value without an origin, which a valid graph does not read.
pub(crate) fn locate(graph: &Graph, plan: &MemoryPlan, leaves: &Leaves, id: ValueId) -> Result<Operand, EngineError> {
    let slot = plan.slot(id).map(Source::Slot);
    let source = slot.or_else(|| leaves.sources.get(&plan.root(id)).copied());
    let source = source.ok_or_else(|| EngineError::Device {
        doing: "loading a program".to_owned(),
        reason: format!("value {id} ({:?}) has no origin", graph.value(id).name),
    })?;
    Ok(Operand { source, len: graph.value(id).shape.elements() })
}

/// The step of a node.
///
/// # Errors
/// [`EngineError::Unsupported`] for operators this build does not know.
pub(crate) fn step(graph: &Graph, plan: &MemoryPlan, leaves: &Leaves, node: &Node) -> Result<Step, EngineError> {
    let values: Vec<&Value> = node.inputs.iter().map(|&id| graph.value(id)).collect();
    let result = graph.value(node.output);
    let kernel = kernel(node, &values, &result.shape, leaves).ok_or_else(|| EngineError::Unsupported {
        api: "cpu",
        node: node.name.clone(),
        op: node.op.name(),
        reason: "is not known to this build".to_owned(),
    })?;
    // A weight that is only needed packed has no plain form to be located.
    let packed = matches!(kernel, Kernel::Linear { packed: Some(_), .. });
    let plain = node.inputs.iter().enumerate().filter(|(position, _)| !(packed && *position == 1));
    let operands = plain.map(|(_, &id)| locate(graph, plan, leaves, id)).collect::<Result<_, _>>()?;
    let out = plan.slot(node.output).ok_or_else(|| EngineError::Device {
        doing: "loading a program".to_owned(),
        reason: format!("node {:?} has no memory", node.name),
    })?;
    Ok(Step { kernel, operands, out, len: result.shape.elements() })
}

/// What a node computes, `None` where this build does not know it.
fn kernel(node: &Node, x: &[&Value], out: &Shape, leaves: &Leaves) -> Option<Kernel> {
    let width = |v: &Value| v.shape.last().copied().unwrap_or(1);
    Some(match &node.op {
        Op::Gather => Kernel::Gather { rows: x[0].shape[0] },
        Op::Linear { activation } => {
            let (k, n) = (width(x[0]), x[1].shape[0]);
            let size = Size { m: x[0].shape.elements() / k, k, n };
            let packed = leaves.packed.get(&node.inputs[1]).copied();
            Kernel::Linear { size, packed, activation: activation.filter(|a| math::knows(a.unary())) }
        }
        Op::MatMul { transpose_b } => matmul(&x[0].shape, &x[1].shape, *transpose_b, out),
        Op::Binary(op) if elementwise::knows(*op) => {
            let how = Broadcast::new(&x[0].shape, &x[1].shape, out);
            if x[0].dtype == DType::I32 { Kernel::BinaryIntegers(*op, how) } else { Kernel::Binary(*op, how) }
        }
        Op::Unary(op) if math::knows(*op) => Kernel::Unary(*op),
        Op::Softmax => Kernel::Softmax { width: width(x[0]) },
        Op::LayerNorm { epsilon } => Kernel::LayerNorm { epsilon: *epsilon },
        Op::AddLayerNorm { epsilon } => Kernel::AddLayerNorm { epsilon: *epsilon },
        Op::Reduce { reduction, axis, .. } if rows::knows(*reduction) => {
            let inner = x[0].shape[axis + 1..].iter().product();
            Kernel::Reduce { reduction: *reduction, size: x[0].shape[*axis], inner }
        }
        Op::L2Normalize { epsilon } => Kernel::L2Normalize { width: width(x[0]), epsilon: *epsilon },
        // The plan makes reshapes aliases; one that came through all the same is a copy.
        Op::Reshape { .. } => Kernel::Copy,
        Op::Transpose { permutation } => Kernel::Walk(Walk::transpose(&x[0].shape, permutation)),
        Op::Slice { axis, start, .. } => Kernel::Walk(Walk::slice(&x[0].shape, *axis, *start, out)),
        Op::Cast { to } => match (x[0].dtype, to) {
            (DType::I32, DType::F32) => Kernel::CastToF32,
            (DType::F32, DType::I32) => Kernel::CastToI32,
            _ => Kernel::Copy,
        },
        Op::TokenPositions { padding_id } => Kernel::TokenPositions { width: width(x[0]), padding_id: *padding_id },
        Op::Attention { heads, scale } => attention(x, *heads, *scale),
        _ => return None,
    })
}

fn matmul(a: &Shape, b: &Shape, transpose_b: bool, out: &Shape) -> Kernel {
    let batch_of = |s: &Shape| Shape::from(&s[..s.rank() - 2]);
    let (batch_a, batch_b, batch) = (batch_of(a), batch_of(b), batch_of(out));
    let (m, n, k) = (out[out.rank() - 2], out[out.rank() - 1], a[a.rank() - 1]);
    if batch_b.elements() == 1 {
        // One right operand for all: the left matrices are one tall matrix.
        return Kernel::MatMul { size: Size { m: m * batch.elements(), k, n }, transpose_b, pairs: vec![[0, 0]] };
    }
    let (strides_a, strides_b) = (broadcast_strides(&batch_a, &batch), broadcast_strides(&batch_b, &batch));
    let own = batch.strides();
    let matrix = |i: usize, strides: &[usize]| (0..batch.rank()).map(|d| i / own[d] % batch[d] * strides[d]).sum();
    let pairs = (0..batch.elements()).map(|i| [matrix(i, &strides_a), matrix(i, &strides_b)]).collect();
    Kernel::MatMul { size: Size { m, k, n }, transpose_b, pairs }
}

fn attention(x: &[&Value], heads: usize, scale: f32) -> Kernel {
    let (q, k, v) = (&x[0].shape, &x[1].shape, &x[2].shape);
    let sizes =
        Attention { batch: q[0], heads, queries: q[1], keys: k[1], depth: q[2] / heads, depth_v: v[2] / heads, scale };
    let scores = Shape::from([q[0], heads, q[1], k[1]]);
    let strides = |bias: &&Value| {
        let strides = broadcast_strides(&bias.shape, &scores);
        [strides[0], strides[1], strides[2], strides[3]]
    };
    Kernel::Attention { sizes, bias_strides: x[3..].iter().map(strides).collect() }
}

impl Step {
    /// The scratch memory this step needs.
    pub(crate) fn scratch(&self, isa: Isa) -> ScratchSize {
        match &self.kernel {
            Kernel::Linear { size, packed, .. } => {
                let right = if packed.is_some() { 0 } else { packed_right_len(isa, size.k, size.n) };
                ScratchSize { left: packed_left_len(size.m, size.k), right, lane: 0 }
            }
            Kernel::MatMul { size, .. } => {
                let (left, right) = (packed_left_len(size.m, size.k), packed_right_len(isa, size.k, size.n));
                ScratchSize { left, right, lane: 0 }
            }
            Kernel::Attention { sizes, .. } => ScratchSize { lane: sizes.scratch_len(isa), ..ScratchSize::default() },
            _ => ScratchSize::default(),
        }
    }
}

impl ScratchSize {
    /// Enough for either.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { left: self.left.max(other.left), right: self.right.max(other.right), lane: self.lane.max(other.lane) }
    }
}
