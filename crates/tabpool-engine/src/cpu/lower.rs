//! From nodes to steps: everything that can be known before a run is worked out here, at load.

use std::collections::HashMap;

use tabpool_graph::{Activation, Binary, Graph, Node, Op, Reduction, Unary, Value, ValueId};
use tabpool_kernels::attention::Attention;
use tabpool_kernels::elementwise::{self, Broadcast};
use tabpool_kernels::layout::{Axes, Walk};
use tabpool_kernels::math::Function;
use tabpool_kernels::{Kernel, Product, Right, Size, Span, Step, TileSize, packed_right_len};
use tabpool_tensor::{DType, Shape};

use crate::backend::EngineError;
use crate::memory::MemoryPlan;

/// Where everything is that steps read and write: addresses in the processor's memory.
#[derive(Default)]
pub(crate) struct Addresses {
    /// The slots of the memory plan.
    pub(crate) slots: Vec<usize>,
    /// Inputs, plain weights and constants.
    pub(crate) leaves: HashMap<ValueId, usize>,
    /// Packed weights.
    pub(crate) packed: HashMap<ValueId, usize>,
}

/// Makes the steps of one program.
pub(crate) struct Lowering<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) plan: &'a MemoryPlan,
    pub(crate) addresses: &'a Addresses,
    pub(crate) tile: TileSize,
    pub(crate) threads: usize,
}

impl Lowering<'_> {
    /// Where a value is, through its aliases.
    ///
    /// # Errors
    /// [`EngineError::Device`] for a value without an origin, which a valid graph does not read.
    pub(crate) fn locate(&self, id: ValueId) -> Result<Span, EngineError> {
        let slot = self.plan.slot(id).map(|slot| self.addresses.slots[slot]);
        let address = slot.or_else(|| self.addresses.leaves.get(&self.plan.root(id)).copied());
        let address = address.ok_or_else(|| EngineError::Device {
            doing: "loading a program".to_owned(),
            reason: format!("value {id} ({:?}) has no origin", self.graph.value(id).name),
        })?;
        Ok(Span { address, len: self.graph.value(id).shape.elements() })
    }

    /// The step of a node.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for operators this build does not know, and for tensors of too many dimensions.
    pub(crate) fn step(&self, node: &Node) -> Result<Step, EngineError> {
        let values: Vec<&Value> = node.inputs.iter().map(|&id| self.graph.value(id)).collect();
        let result = self.graph.value(node.output);
        let kernel = self.kernel(node, &values, &result.shape).map_err(|reason| EngineError::Unsupported {
            api: "cpu",
            node: node.name.clone(),
            op: node.op.name(),
            reason: reason.to_owned(),
        })?;
        let mut operands = [Span::NONE; 5];
        for (position, (&id, operand)) in node.inputs.iter().zip(&mut operands).enumerate() {
            *operand = match self.packed(node).filter(|_| position == 1) {
                Some(address) => {
                    // A weight that is only needed packed has no plain form to be located.
                    let (k, n) = (last(values[1]), values[1].shape[0]);
                    Span { address, len: packed_right_len(self.tile, k, n) }
                }
                None => self.locate(id)?,
            };
        }
        let out = self.plan.slot(node.output).ok_or_else(|| EngineError::Device {
            doing: "loading a program".to_owned(),
            reason: format!("node {:?} has no memory", node.name),
        })?;
        let out = Span { address: self.addresses.slots[out], len: result.shape.elements() };
        Ok(Step::new(kernel, operands, out, self.threads))
    }

    /// Where the packed form of a linear node's weight is, if it has one.
    fn packed(&self, node: &Node) -> Option<usize> {
        if !matches!(node.op, Op::Linear { .. }) {
            return None;
        }
        self.addresses.packed.get(&node.inputs[1]).copied()
    }

    /// What a node computes, or why that cannot be said.
    fn kernel(&self, node: &Node, x: &[&Value], out: &Shape) -> Result<Kernel, &'static str> {
        const UNKNOWN: &str = "is not known to this build";
        const DEEP: &str = "has more dimensions than the kernels walk";
        Ok(match &node.op {
            Op::Gather => Kernel::Gather { rows: x[0].shape[0] },
            Op::Linear { activation, residual: false } => {
                let (k, n) = (last(x[0]), x[1].shape[0]);
                let size = Size { m: x[0].shape.elements() / k, k, n };
                let right = if self.packed(node).is_some() { Right::Packed } else { Right::Columns };
                let function = activation.map_or(Some(Function::Identity), activation_of).ok_or(UNKNOWN)?;
                Kernel::Product(Product::new(self.tile, size, Axes::NONE, right, function, self.threads))
            }
            Op::MatMul { transpose_b } => {
                Kernel::Product(self.matmul(&x[0].shape, &x[1].shape, *transpose_b, out).ok_or(DEEP)?)
            }
            Op::Binary(op) => {
                let how = Broadcast::new(&x[0].shape, &x[1].shape, out).ok_or(DEEP)?;
                let op = binary(*op).ok_or(UNKNOWN)?;
                if x[0].dtype == DType::I32 { Kernel::BinaryIntegers(op, how) } else { Kernel::Binary(op, how) }
            }
            Op::Unary(op) => Kernel::Unary(function(*op).ok_or(UNKNOWN)?),
            Op::Softmax => Kernel::Softmax { width: last(x[0]) },
            Op::LayerNorm { epsilon } if x.len() == 3 => Kernel::LayerNorm { epsilon: *epsilon },
            Op::AddLayerNorm { epsilon } => Kernel::AddLayerNorm { epsilon: *epsilon },
            Op::Reduce { reduction, axis, .. } => {
                let inner = x[0].shape[axis + 1..].iter().product();
                let reduction = reduction_of(*reduction).ok_or(UNKNOWN)?;
                Kernel::Reduce { reduction, size: x[0].shape[*axis], inner }
            }
            Op::L2Normalize { epsilon } => Kernel::L2Normalize { width: last(x[0]), epsilon: *epsilon },
            // The plan makes reshapes aliases; one that came through all the same is a copy.
            Op::Reshape { .. } => Kernel::Copy,
            Op::Transpose { permutation } => Kernel::Walk(Walk::transpose(&x[0].shape, permutation).ok_or(DEEP)?),
            Op::Slice { axis, start, .. } => Kernel::Walk(Walk::slice(&x[0].shape, *axis, *start, out).ok_or(DEEP)?),
            Op::Cast { to } => match (x[0].dtype, to) {
                (DType::I32, DType::F32) => Kernel::CastToF32,
                (DType::F32, DType::I32) => Kernel::CastToI32,
                _ => Kernel::Copy,
            },
            Op::TokenPositions { padding_id } => Kernel::TokenPositions { width: last(x[0]), padding_id: *padding_id },
            Op::Attention { heads, kv_heads, scale, causal: false } if heads == kv_heads => {
                Kernel::Attention(attention(x, *heads, *scale))
            }
            _ => return Err(UNKNOWN),
        })
    }

    fn matmul(&self, a: &Shape, b: &Shape, transpose_b: bool, out: &Shape) -> Option<Product> {
        let matrices = |s: &Shape| Shape::from(&s[..s.rank() - 2]);
        let (of_a, of_b, of_out) = (matrices(a), matrices(b), matrices(out));
        let mut size = Size { m: out[out.rank() - 2], n: out[out.rank() - 1], k: a[a.rank() - 1] };
        let axes = if of_b.elements() == 1 {
            // One right operand for all: the left matrices are one tall matrix.
            size.m *= of_out.elements();
            Axes::NONE
        } else {
            Axes::of_matrices(&of_a, &of_b, &of_out)?
        };
        let right = if transpose_b { Right::Columns } else { Right::Rows };
        Some(Product::new(self.tile, size, axes, right, Function::Identity, self.threads))
    }
}

fn last(value: &Value) -> usize {
    value.shape.last().copied().unwrap_or(1)
}

fn attention(x: &[&Value], heads: usize, scale: f32) -> Attention {
    let (q, k, v) = (&x[0].shape, &x[1].shape, &x[2].shape);
    let strides = |bias: Option<&&Value>| {
        // A dimension of one stretches, here as everywhere.
        let strides = |bias: &&Value| {
            let own = bias.shape.strides();
            [0, 1, 2, 3].map(|d| if bias.shape[d] == 1 { 0 } else { own[d] })
        };
        bias.map_or([0; 4], strides)
    };
    Attention {
        batch: q[0],
        heads,
        queries: q[1],
        keys: k[1],
        depth: q[2] / heads,
        depth_v: v[2] / heads,
        scale,
        bias_strides: [strides(x.get(3)), strides(x.get(4))],
    }
}

fn activation_of(activation: Activation) -> Option<Function> {
    function(activation.unary())
}

fn function(op: Unary) -> Option<Function> {
    Some(match op {
        Unary::Gelu => Function::Gelu,
        Unary::GeluTanh => Function::GeluTanh,
        Unary::Relu => Function::Relu,
        Unary::Tanh => Function::Tanh,
        Unary::Sigmoid => Function::Sigmoid,
        Unary::Silu => Function::Silu,
        Unary::Erf => Function::Erf,
        Unary::Exp => Function::Exp,
        Unary::Sqrt => Function::Sqrt,
        Unary::Neg => Function::Neg,
        Unary::Abs => Function::Abs,
        _ => return None,
    })
}

fn binary(op: Binary) -> Option<elementwise::Binary> {
    Some(match op {
        Binary::Add => elementwise::Binary::Add,
        Binary::Sub => elementwise::Binary::Sub,
        Binary::Mul => elementwise::Binary::Mul,
        Binary::Div => elementwise::Binary::Div,
        Binary::Max => elementwise::Binary::Max,
        Binary::Min => elementwise::Binary::Min,
        _ => return None,
    })
}

fn reduction_of(reduction: Reduction) -> Option<tabpool_kernels::Reduction> {
    Some(match reduction {
        Reduction::Sum => tabpool_kernels::Reduction::Sum,
        Reduction::Mean => tabpool_kernels::Reduction::Mean,
        Reduction::Max => tabpool_kernels::Reduction::Max,
        _ => return None,
    })
}
