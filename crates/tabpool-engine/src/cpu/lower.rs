//! From nodes to steps: everything that can be known before a run is worked out here, at load.

use std::collections::HashMap;
use std::rc::Rc;

use tabpool_graph::{Activation, Binary, Graph, Node, Op, Reduction, State, Unary, Value, ValueId};
use tabpool_kernels::attention::Attention;
use tabpool_kernels::convolution::{Convolution, Geometry};
use tabpool_kernels::elementwise::{self, Broadcast};
use tabpool_kernels::layout::{Axes, Spread, Walk, Write};
use tabpool_kernels::math::Function;
use tabpool_kernels::{Kernel, MAX_OPERANDS, Product, Right, Size, Span, Step, TileSize, packed_right_len};
use tabpool_tensor::{DType, Shape};

use super::processor::Processor;
use super::weights::LoadedWeight;
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
    pub(crate) packed: HashMap<ValueId, Rc<LoadedWeight>>,
    /// States, by their distance from where a set of them begins.
    pub(crate) states: HashMap<ValueId, usize>,
}

/// Where a value is.
#[derive(Clone, Copy)]
pub(crate) struct Located {
    pub(crate) span: Span,
    /// Whether the address is a distance from where the set of states begins.
    pub(crate) in_states: bool,
}

/// Makes the steps of one program.
pub(crate) struct Lowering<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) plan: &'a MemoryPlan,
    pub(crate) addresses: &'a Addresses,
    pub(crate) processor: &'a dyn Processor,
    pub(crate) tile: TileSize,
    pub(crate) threads: usize,
}

impl Lowering<'_> {
    /// Where a value is, through its aliases.
    ///
    /// # Errors
    /// [`EngineError::Device`] for a value without an origin, which a valid graph does not read.
    pub(crate) fn locate(&self, id: ValueId) -> Result<Located, EngineError> {
        let (root, len) = (self.plan.root(id), self.graph.value(id).shape.elements());
        if let Some(&address) = self.addresses.states.get(&root) {
            return Ok(Located { span: Span { address, len }, in_states: true });
        }
        let slot = self.plan.slot(id).map(|slot| self.addresses.slots[slot]);
        let address = slot.or_else(|| self.addresses.leaves.get(&root).copied());
        let address = address.ok_or_else(|| EngineError::Device {
            doing: "loading a program".to_owned(),
            reason: format!("value {id} ({:?}) has no origin", self.graph.value(id).name),
        })?;
        Ok(Located { span: Span { address, len }, in_states: false })
    }

    /// Adds the steps of a node: one, but where operands are put into a result one by one.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for operators this build does not know, and for tensors of too many dimensions.
    pub(crate) fn steps(&self, node: &Node, steps: &mut Vec<Step>) -> Result<(), EngineError> {
        let values: Vec<&Value> = node.inputs.iter().map(|&id| self.graph.value(id)).collect();
        let result = self.graph.value(node.output);
        match &node.op {
            Op::Concat { axis } => {
                let inner: usize = result.shape[axis + 1..].iter().product();
                let (rows, stride) = (result.shape[..*axis].iter().product(), result.shape[*axis] * inner);
                let mut first = 0;
                for (&id, value) in node.inputs.iter().zip(values) {
                    let width = value.shape[*axis] * inner;
                    let spread = Spread { rows, width, stride, first };
                    steps.push(self.step(Kernel::Spread(spread), &[(0, id)], node.output)?);
                    first += width;
                }
            }
            Op::WriteRows => {
                let (target, rows) = (&values[0].shape, &values[1].shape);
                if self.graph.in_place(node).is_none() {
                    steps.push(self.step(Kernel::Copy, &[(0, node.inputs[0])], node.output)?);
                }
                let write = Write { batch: target[0], capacity: target[1], rows: rows[1], width: target[2] };
                let operands = [(0, node.inputs[1]), (1, node.inputs[2])];
                steps.push(self.step(Kernel::Write(write), &operands, node.output)?);
            }
            _ => {
                let kernel = self.kernel(node, &values, &result.shape).map_err(|reason| EngineError::Unsupported {
                    api: "cpu",
                    node: node.name.clone(),
                    op: node.op.name(),
                    reason: reason.to_owned(),
                })?;
                let places = places(node);
                let mut operands: Vec<_> = places.into_iter().zip(node.inputs.iter().copied()).collect();
                let packed = self.packed(node);
                if packed.is_some() {
                    // A weight that is only needed packed has no plain form to be located.
                    operands.remove(1);
                }
                let Some(weight) = packed else {
                    steps.push(self.step(kernel, &operands, node.output)?);
                    return Ok(());
                };
                let (k, n) = (last(values[1]), values[1].shape[0]);
                let kernel = match kernel {
                    Kernel::Product(product)
                        if product.adds_columns() && !weight.columns_alike(self.processor, n, k)? =>
                    {
                        Kernel::Product(product.without_adding_columns())
                    }
                    kernel => kernel,
                };
                let span = Span { address: weight.address(), len: packed_right_len(self.tile, k, n) };
                steps.push(self.step(kernel, &operands, node.output)?.with_operand(1, span));
            }
        }
        Ok(())
    }

    /// The step that makes a state what it becomes.
    ///
    /// # Errors
    /// As [`locate`](Self::locate).
    pub(crate) fn copy_state(&self, state: &State) -> Result<Step, EngineError> {
        self.step(Kernel::Copy, &[(0, state.next)], state.value)
    }

    /// A step over these operands, each with its place.
    fn step(&self, kernel: Kernel, operands: &[(usize, ValueId)], out: ValueId) -> Result<Step, EngineError> {
        let mut spans = [Span::NONE; MAX_OPERANDS];
        let mut in_states = Vec::new();
        for &(place, id) in operands {
            let located = self.locate(id)?;
            spans[place] = located.span;
            in_states.extend(located.in_states.then_some(place));
        }
        let located = self.locate(out)?;
        in_states.extend(located.in_states.then_some(MAX_OPERANDS));
        let step = Step::new(kernel, spans, located.span, self.threads);
        Ok(in_states.into_iter().fold(step, Step::in_states))
    }

    /// The packed form of a linear node's weight, if it has one.
    fn packed(&self, node: &Node) -> Option<&LoadedWeight> {
        if !matches!(node.op, Op::Linear { .. }) {
            return None;
        }
        self.addresses.packed.get(&node.inputs[1]).map(|weight| &**weight)
    }

    /// What a node computes, or why that cannot be said.
    fn kernel(&self, node: &Node, x: &[&Value], out: &Shape) -> Result<Kernel, &'static str> {
        const UNKNOWN: &str = "is not known to this build";
        const DEEP: &str = "has more dimensions than the kernels walk";
        Ok(match &node.op {
            Op::Gather => Kernel::Gather { rows: x[0].shape[0] },
            Op::Linear { activation, .. } => {
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
            Op::Conv2d { stride, padding, dilation, groups, activation } => {
                let (image, kernel) = (&x[0].shape, &x[1].shape);
                let geometry = Geometry {
                    batch: image[0],
                    channels: image[1],
                    image: [image[2], image[3]],
                    out_channels: out[1],
                    out: [out[2], out[3]],
                    kernel: [kernel[2], kernel[3]],
                    stride: *stride,
                    padding: [padding[0], padding[1]],
                    dilation: *dilation,
                    groups: *groups,
                };
                let function = activation.map_or(Some(Function::Identity), activation_of).ok_or(UNKNOWN)?;
                Kernel::Convolution(Convolution::new(self.tile, geometry, function, self.threads))
            }
            Op::LayerNorm { epsilon } => Kernel::LayerNorm { width: last(x[0]), epsilon: *epsilon },
            Op::RmsNorm { epsilon } => Kernel::RmsNorm { epsilon: *epsilon },
            Op::Rope { heads, rotary } => {
                // Tables of one sequence come again for each, tables of all never.
                let (width, tables) = (last(x[0]), x[1].shape[0] * x[1].shape[1]);
                Kernel::Rope { depth: width / heads, rotary: *rotary, width, tables }
            }
            Op::ArgMax if x[0].dtype == DType::I32 => Kernel::ArgMaxIntegers { width: last(x[0]) },
            Op::ArgMax => Kernel::ArgMax { width: last(x[0]) },
            Op::TopK { k } => Kernel::TopK { width: last(x[0]), k: *k },
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
            Op::Attention { heads, kv_heads, scale, causal } => {
                Kernel::Attention(attention(x, [*heads, *kv_heads], *scale, *causal))
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

/// The places of a node's operands among those of its step: what is optional has one of its own.
fn places(node: &Node) -> Vec<usize> {
    let count = node.inputs.len();
    let mut places: Vec<_> = (0..count).collect();
    match node.op {
        // Left, right, bias, residual.
        Op::Linear { residual: true, .. } => places[count - 1] = 3,
        // Queries, keys, values, two biases, start.
        Op::Attention { causal: true, .. } => places[count - 1] = 5,
        _ => {}
    }
    places
}

fn attention(x: &[&Value], [heads, kv_heads]: [usize; 2], scale: f32, causal: bool) -> Attention {
    let biases = &x[3..x.len() - usize::from(causal)];
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
        shared: heads / kv_heads,
        queries: q[1],
        keys: k[1],
        depth: q[2] / heads,
        depth_v: v[2] / kv_heads,
        scale,
        bias_strides: [strides(biases.first()), strides(biases.get(1))],
        causal,
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
        Unary::QuickGelu => Function::QuickGelu,
        Unary::Log => Function::Log,
        Unary::Reciprocal => Function::Reciprocal,
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
