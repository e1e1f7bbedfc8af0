//! Lowering of single nodes.

use tabpool_engine::EngineError;
use tabpool_graph::{Activation, Binary, Node, Op, ValueId};
use tabpool_tensor::DType;

use super::{Bound, Layout, Lowering, Source, Step};
use crate::kernels::attention::{Attention, AttentionVariant};
use crate::kernels::gather::Part;
use crate::kernels::gemm::{Gemm, GemmVariant, padded};
use crate::kernels::matmul::MatMul;
use crate::kernels::{
    Launch, MAX_RANK, activation, attention, binary, cast, gather, gemm, l2_normalize, layer_norm, matmul, reduce,
    softmax, strided, token_positions, unary,
};
use crate::strides::{Joined, broadcast};

/// A launch with the buffers it reads, before limits are checked.
type Bindings = (Launch, Vec<Bound>);

impl Lowering<'_> {
    /// Appends the steps of one node.
    pub(super) fn node(&mut self, position: usize, steps: &mut Vec<Step>) -> Result<(), EngineError> {
        let graph = self.graph;
        let node = &graph.nodes()[position];
        for (launch, reads) in self.bindings(node)? {
            let groups = launch.groups.folded(self.device.groups).ok_or_else(|| {
                let most = self.device.groups;
                unsupported(node, format!("needs more workgroups than {most} in one dimension"))
            })?;
            let Source::Slot(write) = self.source(node.output) else {
                return Err(unsupported(node, "has no slot for its result".to_owned()));
            };
            self.check_bindings(node, &reads)?;
            steps.push(Step { node: position, variant: launch.variant, params: launch.params, reads, write, groups });
        }
        Ok(())
    }

    /// Refuses operands and results that are larger than a binding may be.
    fn check_bindings(&self, node: &Node, reads: &[Bound]) -> Result<(), EngineError> {
        let limit = self.device.binding.min(self.device.buffer);
        let sizes = node.inputs.iter().chain([&node.output]).zip(reads.iter().map(|r| r.range).chain([None]));
        for (&id, range) in sizes {
            let value = self.graph.value(id);
            let bytes = range.map_or(value.shape.elements() as u64 * 4, |r| r.1);
            if bytes > limit {
                let reason = format!("needs {bytes} bytes for {:?}, the device binds at most {limit}", value.name);
                return Err(unsupported(node, reason));
            }
        }
        Ok(())
    }

    fn dims(&self, id: ValueId) -> &[usize] {
        self.graph.value(id).shape.dims()
    }

    fn elements(&self, id: ValueId) -> usize {
        self.graph.value(id).shape.elements()
    }

    /// The rows and the row length over the last dimension.
    fn rows(&self, id: ValueId) -> (usize, usize) {
        let n = self.dims(id).last().copied().unwrap_or(1);
        (self.elements(id) / n, n)
    }

    fn bound(&mut self, id: ValueId) -> Bound {
        self.source(id).into()
    }

    fn bindings(&mut self, node: &Node) -> Result<Vec<Bindings>, EngineError> {
        let inputs = &*node.inputs;
        let x = inputs[0];
        let (rows, n) = self.rows(x);
        let launch = match &node.op {
            Op::Gather => return self.gather(node),
            Op::Linear { activation } => return Ok(vec![self.linear(node, *activation)?]),
            Op::MatMul { transpose_b } => self.matmul(node, *transpose_b)?,
            Op::Attention { heads, scale } => return Ok(vec![self.attention(node, *heads, *scale)]),
            Op::LayerNorm { epsilon } => {
                let reads = vec![self.bound(x), Source::Absent.into(), self.bound(inputs[1]), self.bound(inputs[2])];
                return Ok(vec![(layer_norm::launch(rows, n, *epsilon, false, self.device.kind.is_software()), reads)]);
            }
            Op::AddLayerNorm { epsilon } => layer_norm::launch(rows, n, *epsilon, true, self.device.kind.is_software()),
            Op::Softmax => softmax::launch(rows, n),
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
            Op::Cast { to } => cast::launch(self.graph.value(x).dtype, *to, self.elements(x)),
            Op::TokenPositions { padding_id } => token_positions::launch(rows, n, *padding_id),
            _ => return Err(unknown(node)),
        };
        let mut reads: Vec<Bound> = inputs.iter().map(|&id| self.bound(id)).collect();
        reads.resize(launch.variant.kernel.reads as usize, Source::Absent.into());
        Ok(vec![(launch, reads)])
    }

    fn joined(&self, node: &Node, dims: &[usize], strides: &[Vec<usize>]) -> Result<Joined, EngineError> {
        let joined = Joined::new(dims, strides);
        let rank = joined.dims.len();
        if rank > MAX_RANK {
            return Err(unsupported(node, format!("walks over {rank} dimensions, kernels take {MAX_RANK}")));
        }
        Ok(joined)
    }

    fn binary(&self, node: &Node, op: Binary) -> Result<Launch, EngineError> {
        let code = binary::code(op).ok_or_else(|| unknown(node))?;
        let dims = self.dims(node.output);
        let strides: Vec<_> = node.inputs.iter().map(|&v| broadcast(self.dims(v), dims)).collect();
        let integer = self.graph.value(node.output).dtype == DType::I32;
        Ok(binary::launch(code, integer, &self.joined(node, dims, &strides)?))
    }

    fn matmul(&self, node: &Node, transpose_b: bool) -> Result<Launch, EngineError> {
        let (a, b, y) = (self.dims(node.inputs[0]), self.dims(node.inputs[1]), self.dims(node.output));
        let (batch, m, n) = (&y[..y.len() - 2], y[y.len() - 2], y[y.len() - 1]);
        let k = a[a.len() - 1];
        // Strides over batches count elements: those of the leading dimensions, times the size of a matrix.
        let scaled = |dims: &[usize]| {
            let matrix = dims[dims.len() - 2] * dims[dims.len() - 1];
            let strides = broadcast(&dims[..dims.len() - 2], batch);
            strides.into_iter().map(|s| s * matrix).collect::<Vec<_>>()
        };
        let batch = self.joined(node, batch, &[scaled(a), scaled(b)])?;
        Ok(matmul::launch(&MatMul { m, n, k, transpose_b, batch: &batch, bias: false, function: 0 }))
    }

    fn linear(&mut self, node: &Node, after: Option<Activation>) -> Result<Bindings, EngineError> {
        let function = activation::code_after(after).ok_or_else(|| unknown(node))?;
        let (x, w) = (node.inputs[0], node.inputs[1]);
        let (m, k) = self.rows(x);
        let n = self.dims(w)[0];
        let bias = node.inputs.get(2).copied();
        let (launch, weight) = if let Some(weight) = self.weight_of(w) {
            let (rows, columns) = padded(k, n);
            let (bytes, limit) = (rows as u64 * columns as u64 * 4, self.device.binding.min(self.device.buffer));
            if bytes > limit {
                let reason = format!("needs {bytes} bytes for its weight, the device binds at most {limit}");
                return Err(unsupported(node, reason));
            }
            let variant = self.gemm_variant(m, n, k);
            let launch = gemm::launch(variant, Gemm { m, n, k, bias: bias.is_some(), function });
            (launch, self.weight(weight, Layout::Panels))
        } else {
            let batch = Joined::new(&[], &[Vec::new(), Vec::new()]);
            let of = MatMul { m, n, k, transpose_b: true, batch: &batch, bias: bias.is_some(), function };
            (matmul::launch(&of), self.source(w))
        };
        let bias = bias.map_or(Source::Absent, |id| self.source(id));
        Ok((launch, vec![self.bound(x), weight.into(), bias.into()]))
    }

    /// The variant that is forced, the one that won on this device, or the likely best.
    fn gemm_variant(&mut self, m: usize, n: usize, k: usize) -> GemmVariant {
        *self.products.entry((m, n, k)).or_default() += 1;
        let won = || self.tuner.choice(&gemm::trial::class(m, n, k)).and_then(|name| GemmVariant::named(&name));
        let likely = || GemmVariant::candidates(m, self.device.kind)[0];
        self.device.gemm.or_else(won).unwrap_or_else(likely)
    }

    /// As [`gemm_variant`](Self::gemm_variant).
    fn attention_variant(&mut self, of: &Attention) -> AttentionVariant {
        let class = attention::trial::class(of);
        let won = self.tuner.choice(&class).and_then(|name| AttentionVariant::named(&name)).filter(|v| v.fits(of));
        self.attentions.entry(class).or_insert_with(|| (of.clone(), 0)).1 += 1;
        won.unwrap_or_else(|| AttentionVariant::candidates(of, self.device.kind)[0])
    }

    fn gather(&mut self, node: &Node) -> Result<Vec<Bindings>, EngineError> {
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
            (gather::launch(count, row, table_rows, part), vec![table, ids])
        };
        Ok(parts.into_iter().map(bound).collect())
    }

    fn attention(&mut self, node: &Node, heads: usize, scale: f32) -> Bindings {
        let [q, k, v] = [0, 1, 2].map(|i| node.inputs[i]);
        let (qd, kd, vd) = (self.dims(q), self.dims(k), self.dims(v));
        let scores = [qd[0], heads, qd[1], kd[1]];
        let biases: Vec<[usize; 4]> = node.inputs[3..]
            .iter()
            .map(|&bias| {
                let strides = broadcast(self.dims(bias), &scores);
                [strides[0], strides[1], strides[2], strides[3]]
            })
            .collect();
        let of = Attention {
            batches: qd[0],
            heads,
            queries: qd[1],
            keys: kd[1],
            size: qd[2] / heads,
            value_size: vd[2] / heads,
            scale,
            biases,
        };
        let launch = attention::launch(self.attention_variant(&of), &of);
        let mut reads: Vec<Bound> = node.inputs.iter().map(|&id| self.bound(id)).collect();
        reads.resize(launch.variant.kernel.reads as usize, Source::Absent.into());
        (launch, reads)
    }
}

fn unsupported(node: &Node, reason: String) -> EngineError {
    EngineError::Unsupported { api: "webgpu", node: node.name.clone(), op: node.op.name(), reason }
}

fn unknown(node: &Node) -> EngineError {
    unsupported(node, "has no kernel".to_owned())
}
