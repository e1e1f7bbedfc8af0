//! Lowering of single nodes.

use tabpool_engine::EngineError;
use tabpool_graph::{Binary, Node, Op, ValueId};
use tabpool_tensor::DType;

use super::{Bound, Lowering, Source, Step};
use crate::kernels::gather::Part;
use crate::kernels::layer_norm::LayerNorm;
use crate::kernels::rope::Rope;
use crate::kernels::row::{RowVariant, Rows, Rowwise};
use crate::kernels::{
    Launch, MAX_RANK, activation, binary, cast, concat, gather, l2_normalize, ranking, reduce, rope, strided,
    token_positions, unary, write_rows,
};
use crate::strides::{Joined, broadcast};

/// A launch with the buffers it reads and the one it writes, before limits are checked.
pub(super) struct Dispatch {
    pub(super) launch: Launch,
    pub(super) reads: Vec<Bound>,
    /// The node's result where `None`.
    pub(super) write: Option<Source>,
}

impl Dispatch {
    /// One that writes the node's result.
    pub(super) fn new(launch: Launch, reads: Vec<Bound>) -> Self {
        Self { launch, reads, write: None }
    }
}

impl Lowering<'_> {
    /// Appends the steps of one node.
    pub(super) fn node(&mut self, position: usize, steps: &mut Vec<Step>) -> Result<(), EngineError> {
        let graph = self.graph;
        let node = &graph.nodes()[position];
        let result = match self.source(node.output) {
            slot @ Source::Slot(_) => slot,
            state @ Source::State(_) if graph.in_place(node).is_some() => state,
            _ => return Err(unsupported(node, "has no slot for its result".to_owned())),
        };
        self.check_bindings(node)?;
        for Dispatch { launch, reads, write } in self.dispatches(node)? {
            let groups = launch.groups.folded(self.device.groups).ok_or_else(|| {
                let most = self.device.groups;
                unsupported(node, format!("needs more workgroups than {most} in one dimension"))
            })?;
            let (variant, params, write) = (launch.variant, launch.params, write.unwrap_or(result));
            steps.push(Step { node: position, variant, params, reads, write, groups });
        }
        Ok(())
    }

    /// Refuses operands and results that are larger than a binding may be, apart from what is bound in parts or is checked
    /// as it lies in its buffer.
    fn check_bindings(&self, node: &Node) -> Result<(), EngineError> {
        let apart = match &node.op {
            Op::Gather => Some(node.inputs[0]),
            Op::Linear { .. } => Some(node.inputs[1]).filter(|&w| self.weight_of(w).is_some()),
            _ => None,
        };
        for &id in node.inputs.iter().chain([&node.output]).filter(|&&id| Some(id) != apart) {
            let value = self.graph.value(id);
            self.check_bytes(node, value.shape.elements() as u64 * 4, &format!("{:?}", value.name))?;
        }
        Ok(())
    }

    /// Refuses more bytes than a binding may span.
    pub(super) fn check_bytes(&self, node: &Node, bytes: u64, what: &str) -> Result<(), EngineError> {
        let limit = self.device.binding.min(self.device.buffer);
        if bytes > limit {
            let reason = format!("needs {bytes} bytes for {what}, the device binds at most {limit}");
            return Err(unsupported(node, reason));
        }
        Ok(())
    }

    pub(super) fn dims(&self, id: ValueId) -> &[usize] {
        self.graph.value(id).shape.dims()
    }

    fn elements(&self, id: ValueId) -> usize {
        self.graph.value(id).shape.elements()
    }

    /// The rows and the row length over the last dimension.
    pub(super) fn rows(&self, id: ValueId) -> (usize, usize) {
        let n = self.dims(id).last().copied().unwrap_or(1);
        (self.elements(id) / n, n)
    }

    pub(super) fn bound(&mut self, id: ValueId) -> Bound {
        self.source(id).into()
    }

    fn dispatches(&mut self, node: &Node) -> Result<Vec<Dispatch>, EngineError> {
        let inputs = &*node.inputs;
        let x = inputs[0];
        let (rows, n) = self.rows(x);
        let launch = match &node.op {
            Op::Gather => return self.gather(node),
            Op::Linear { activation, residual } => return self.linear(node, *activation, *residual),
            Op::Conv2d { .. } => return self.convolution(node),
            Op::Attention { .. } => return Ok(self.attention(node)),
            Op::Concat { axis } => return Ok(self.concat(node, *axis)),
            Op::WriteRows => return Ok(self.write_rows(node)),
            Op::LayerNorm { epsilon } => return Ok(vec![self.layer_norm(node, *epsilon)]),
            Op::AddLayerNorm { epsilon } => {
                let of = LayerNorm { epsilon: *epsilon, residual: true, scale: true, shift: true };
                self.rowwise(Rowwise::LayerNorm(of), rows, n)
            }
            Op::RmsNorm { epsilon } => self.rowwise(Rowwise::RmsNorm { epsilon: *epsilon }, rows, n),
            Op::Softmax => self.rowwise(Rowwise::Softmax, rows, n),
            Op::MatMul { transpose_b } => self.matmul(node, *transpose_b)?,
            Op::L2Normalize { epsilon } => l2_normalize::launch(rows, n, *epsilon),
            Op::Reduce { reduction, axis, .. } => {
                let code = reduce::code(*reduction).ok_or_else(|| unknown(node))?;
                reduce::launch(code, self.dims(x), *axis)
            }
            Op::Binary(op) => self.binary(node, *op)?,
            Op::Unary(op) => {
                let code = activation::code(*op).ok_or_else(|| unknown(node))?;
                unary::launch(code, self.elements(x))
            }
            Op::Transpose { permutation } => {
                let strides = self.graph.value(x).shape.strides();
                let strides = permutation.iter().map(|&p| strides[p]).collect();
                strided::launch(0, &self.joined(node, self.dims(node.output), &[strides])?)
            }
            Op::Slice { axis, start, .. } => {
                let strides = self.graph.value(x).shape.strides();
                let first = start * strides[*axis];
                strided::launch(first, &self.joined(node, self.dims(node.output), &[strides])?)
            }
            Op::Rope { heads, rotary } => self.rope(node, *heads, *rotary),
            Op::ArgMax => ranking::arg_max(rows, n, self.graph.value(x).dtype == DType::I32),
            Op::TopK { k } => ranking::top_k(rows, n, *k),
            Op::Cast { to } => cast::launch(self.graph.value(x).dtype, *to, self.elements(x)),
            Op::TokenPositions { padding_id } => token_positions::launch(rows, n, *padding_id),
            _ => return Err(unknown(node)),
        };
        let mut reads: Vec<Bound> = inputs.iter().map(|&id| self.bound(id)).collect();
        reads.resize(launch.variant.kernel.reads as usize, Source::Absent.into());
        Ok(vec![Dispatch::new(launch, reads)])
    }

    pub(super) fn joined(&self, node: &Node, dims: &[usize], strides: &[Vec<usize>]) -> Result<Joined, EngineError> {
        let joined = Joined::new(dims, strides);
        let rank = joined.dims.len();
        if rank > MAX_RANK {
            return Err(unsupported(node, format!("walks over {rank} dimensions, kernels take {MAX_RANK}")));
        }
        Ok(joined)
    }

    /// Work on rows by the variant that is forced, the one that won on this device, or the likely best.
    fn rowwise(&mut self, of: Rowwise, rows: usize, n: usize) -> Launch {
        let of = Rows { of, rows, n };
        let class = of.class();
        let won = self.tuner.choice(&class).and_then(|name| RowVariant::named(&name)).filter(|v| v.fits(n));
        let forced = self.device.forced.rows.filter(|v| v.fits(n));
        self.rows.entry(class).or_insert((of, 0)).1 += 1;
        let variant = forced.or(won);
        of.launch(variant.unwrap_or_else(|| RowVariant::candidates(rows, n, self.device.kind)[0]))
    }

    fn layer_norm(&mut self, node: &Node, epsilon: f32) -> Dispatch {
        let &[x, ref affine @ ..] = &*node.inputs else { unreachable!("validated: layer_norm has an operand") };
        let (rows, n) = self.rows(x);
        let of = LayerNorm { epsilon, residual: false, scale: !affine.is_empty(), shift: affine.len() > 1 };
        let launch = self.rowwise(Rowwise::LayerNorm(of), rows, n);
        let mut reads = vec![self.bound(x), Source::Absent.into()];
        reads.extend(affine.iter().map(|&id| self.bound(id)));
        reads.resize(launch.variant.kernel.reads as usize, Source::Absent.into());
        Dispatch::new(launch, reads)
    }

    fn binary(&self, node: &Node, op: Binary) -> Result<Launch, EngineError> {
        let code = binary::code(op).ok_or_else(|| unknown(node))?;
        let dims = self.dims(node.output);
        let strides: Vec<_> = node.inputs.iter().map(|&v| broadcast(self.dims(v), dims)).collect();
        let integer = self.graph.value(node.output).dtype == DType::I32;
        Ok(binary::launch(code, integer, &self.joined(node, dims, &strides)?))
    }

    fn rope(&self, node: &Node, heads: usize, rotary: usize) -> Launch {
        let (x, cos) = (self.dims(node.inputs[0]), self.dims(node.inputs[1]));
        let (count, width) = (self.elements(node.output), x[2]);
        rope::launch(Rope { count, width, depth: width / heads, rotary, positions: cos[0] * cos[1] })
    }

    /// A dispatch for each operand, which copies it to its place.
    fn concat(&mut self, node: &Node, axis: usize) -> Vec<Dispatch> {
        let inner: usize = self.dims(node.output)[axis + 1..].iter().product();
        let stride = self.dims(node.output)[axis] * inner;
        let mut start = 0;
        let mut dispatches = Vec::with_capacity(node.inputs.len());
        for &id in &node.inputs {
            let length = self.dims(id)[axis] * inner;
            let launch = concat::launch(self.elements(id), length, stride, start);
            dispatches.push(Dispatch::new(launch, vec![self.bound(id)]));
            start += length;
        }
        dispatches
    }

    /// Writes rows over those of the target: where it lies if it is a state, otherwise over a copy.
    fn write_rows(&mut self, node: &Node) -> Vec<Dispatch> {
        let [target, rows, at] = [0, 1, 2].map(|i| node.inputs[i]);
        let (&[batches, capacity, width], count) = (self.dims(target), self.dims(rows)[1]) else {
            unreachable!("validated: write_rows has a target of rank 3")
        };
        let mut dispatches = Vec::new();
        if self.graph.in_place(node).is_none() {
            let elements = self.elements(target);
            let copy = concat::launch(elements, elements, elements, 0);
            dispatches.push(Dispatch::new(copy, vec![self.bound(target)]));
        }
        let launch = write_rows::launch(batches, count, capacity, width);
        dispatches.push(Dispatch::new(launch, vec![self.bound(rows), self.bound(at)]));
        dispatches
    }

    fn gather(&mut self, node: &Node) -> Result<Vec<Dispatch>, EngineError> {
        let (table, ids) = (node.inputs[0], node.inputs[1]);
        let table_rows = self.dims(table)[0];
        let row = self.elements(table) / table_rows;
        let bytes = self.elements(table) as u64 * 4;
        let (limit, buffer) = (self.device.binding, self.device.buffer);
        if bytes > buffer {
            let reason = format!("reads a table of {bytes} bytes, the device's buffers hold at most {buffer}");
            return Err(unsupported(node, reason));
        }
        let parts = gather::parts(table_rows, row, limit, self.device.alignment).ok_or_else(|| {
            unsupported(node, format!("has rows of {row} elements, the device binds at most {limit} bytes"))
        })?;
        let whole = parts.len() == 1;
        let (table, ids) = (self.source(table), self.bound(ids));
        let count = self.elements(node.output);
        let bound = |part: Part| {
            let range = (part.first as u64 * row as u64 * 4, part.rows as u64 * row as u64 * 4);
            let table = Bound { source: table, range: (!whole).then_some(range) };
            Dispatch::new(gather::launch(count, row, table_rows, part), vec![table, ids])
        };
        Ok(parts.into_iter().map(bound).collect())
    }
}

pub(super) fn unsupported(node: &Node, reason: String) -> EngineError {
    EngineError::Unsupported { api: "webgpu", node: node.name.clone(), op: node.op.name(), reason }
}

pub(super) fn unknown(node: &Node) -> EngineError {
    unsupported(node, "has no kernel".to_owned())
}
