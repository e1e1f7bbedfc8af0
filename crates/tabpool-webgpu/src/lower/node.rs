//! Lowering of single nodes.

use tabpool_engine::EngineError;
use tabpool_graph::{Activation, Binary, Node, Op, ValueId};
use tabpool_tensor::{DType, Precision};

use super::{Bound, Layout, Lowering, Product, Source, Step};
use crate::kernels::attention::{Attention, AttentionVariant};
use crate::kernels::gather::Part;
use crate::kernels::gemm::{Gemm, GemmVariant, Panels};
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
        if let Some((launch, read)) = self.integers(node)? {
            steps.push(self.step(position, launch, vec![read], self.plan.slots.len())?);
        }
        for (launch, reads) in self.bindings(node)? {
            let Source::Slot(write) = self.source(node.output) else {
                return Err(unsupported(node, "has no slot for its result".to_owned()));
            };
            self.check_bindings(node, &reads)?;
            steps.push(self.step(position, launch, reads, write)?);
        }
        Ok(())
    }

    fn step(&self, position: usize, launch: Launch, reads: Vec<Bound>, write: usize) -> Result<Step, EngineError> {
        let groups = launch.groups.folded(self.device.groups).ok_or_else(|| {
            let most = self.device.groups;
            let reason = format!("needs more workgroups than {most} in one dimension");
            unsupported(&self.graph.nodes()[position], reason)
        })?;
        Ok(Step { node: position, variant: launch.variant, params: launch.params, reads, write, groups })
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
            Op::Linear { residual: true, .. } => {
                return Err(unsupported(node, "adds a residual, which its kernel does not".to_owned()));
            }
            Op::Linear { activation, residual: false } => return Ok(vec![self.linear(node, *activation)?]),
            Op::MatMul { transpose_b } => self.matmul(node, *transpose_b)?,
            Op::Attention { heads, kv_heads, scale, causal: false } if heads == kv_heads => {
                return Ok(vec![self.attention(node, *heads, *scale)]);
            }
            Op::Attention { .. } => {
                return Err(unsupported(node, "is causal or shares keys, which its kernels do not know".to_owned()));
            }
            Op::LayerNorm { .. } if inputs.len() < 3 => {
                return Err(unsupported(node, "has no scale or no shift, which its kernel needs".to_owned()));
            }
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
        let mut rows = self.bound(x);
        let (launch, weight) = if let Some(weight) = self.weight_of(w) {
            let product = self.product(weight, m, n, k);
            let variant = self.gemm_variant(product);
            self.products.entry(product).or_insert((0, variant)).0 += 1;
            let bytes = Panels::of(variant.stored(), n, k).bytes() as u64;
            let limit = self.device.binding.min(self.device.buffer);
            if bytes > limit {
                let reason = format!("needs {bytes} bytes for its weight, the device binds at most {limit}");
                return Err(unsupported(node, reason));
            }
            if variant.stored() == Precision::Int8 {
                rows = Source::Slot(self.plan.slots.len()).into();
            }
            let launch = gemm::launch(variant, Gemm { m, n, k, bias: bias.is_some(), function });
            (launch, self.weight(weight, Layout::Panels(variant.stored())))
        } else {
            let batch = Joined::new(&[], &[Vec::new(), Vec::new()]);
            let of = MatMul { m, n, k, transpose_b: true, batch: &batch, bias: bias.is_some(), function };
            (matmul::launch(&of), self.source(w))
        };
        let bias = bias.map_or(Source::Absent, |id| self.source(id));
        Ok((launch, vec![rows, weight.into(), bias.into()]))
    }

    /// What makes the rows of a linear node integers, where its variant takes such and they are not there yet.
    fn integers(&mut self, node: &Node) -> Result<Option<(Launch, Bound)>, EngineError> {
        let (Op::Linear { .. }, &[x, w, ..]) = (&node.op, &*node.inputs) else { return Ok(None) };
        let Some(weight) = self.weight_of(w) else { return Ok(None) };
        let ((m, k), n) = (self.rows(x), self.dims(w)[0]);
        let variant = self.gemm_variant(self.product(weight, m, n, k));
        let Some((launch, words)) = gemm::integers(variant, m, k, self.device.kind.is_software()) else {
            return Ok(None);
        };
        let (bytes, limit) = (words as u64 * 4, self.device.binding.min(self.device.buffer));
        if bytes > limit {
            let reason = format!("needs {bytes} bytes for its rows as integers, the device binds at most {limit}");
            return Err(unsupported(node, reason));
        }
        self.scratch = self.scratch.max(bytes);
        // Several linear nodes of one value take the same integers.
        let there = self.in_scratch.replace(x) == Some(x);
        Ok((!there).then_some((launch, self.bound(x))))
    }

    /// A product of a weight with what it permits.
    fn product(&self, weight: usize, m: usize, n: usize, k: usize) -> Product {
        let wanted = self.permission.precision;
        let permitted = match wanted {
            _ if self.permission.unfit.contains(&weight) => Precision::F32,
            Precision::Int8 if !gemm::sums_integers(k) => Precision::F16,
            _ => wanted,
        };
        Product { permitted, m, n, k }
    }

    /// The variant that is forced, the one that won on this device, or the likely best.
    fn gemm_variant(&self, of: Product) -> GemmVariant {
        let candidates = self.tuner.candidates(of, &self.device);
        let format = self.tuner.format(of);
        let allowed = |v: &GemmVariant| {
            let fits = v.precision().within(of.permitted) && v.runs_with(self.device.has);
            fits && format.is_none_or(|f| f == v.stored())
        };
        let forced = self.device.gemm.filter(|v| v.precision().within(of.permitted));
        let won = || self.tuner.choice(&gemm::trial::class(of)).and_then(|name| GemmVariant::named(&name));
        forced.or_else(|| won().filter(allowed)).unwrap_or_else(|| candidates[0])
    }

    /// The variant that won on this device, or the likely best.
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
