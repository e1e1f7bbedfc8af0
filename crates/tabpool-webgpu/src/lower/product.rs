//! Lowering of products: linear layers, products of computed operands, and convolutions.

use tabpool_engine::EngineError;
use tabpool_graph::{Activation, Node, Op};
use tabpool_tensor::Precision;

use super::node::{Dispatch, unknown, unsupported};
use super::{Bound, Layout, Lowering, Product, Source};
use crate::kernels::convolution::Convolution;
use crate::kernels::gemm::{Gemm, GemmVariant, Panels};
use crate::kernels::matmul::MatMul;
use crate::kernels::{Launch, activation, gemm, matmul};
use crate::strides::{Joined, broadcast};

impl Lowering<'_> {
    pub(super) fn matmul(&self, node: &Node, transpose_b: bool) -> Result<Launch, EngineError> {
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
        let of = MatMul { m, n, k, transpose_b, batch: &batch, bias: false, function: 0, residual: false };
        Ok(matmul::launch(&of))
    }

    /// A linear layer, its rows made integers first where its variant takes such and they are not there yet; in parts where
    /// its weight is larger than a binding may be.
    pub(super) fn linear(
        &mut self,
        node: &Node,
        after: Option<Activation>,
        adds: bool,
    ) -> Result<Vec<Dispatch>, EngineError> {
        let function = activation::code_after(after).ok_or_else(|| unknown(node))?;
        let (operands, residual) = node.inputs.split_at(node.inputs.len() - usize::from(adds));
        let (x, w) = (operands[0], operands[1]);
        let (m, k) = self.rows(x);
        let n = self.dims(w)[0];
        let bias = operands.get(2).copied();
        let bias_source = bias.map_or(Source::Absent, |id| self.source(id));
        let residual = residual.first().map_or(Source::Absent, |&id| self.source(id));
        let turned = self.turned.get(&w).copied();
        let Some(weight) = self.weight_of(w).or(turned) else {
            let batch = Joined::new(&[], &[Vec::new(), Vec::new()]);
            let (bias, transpose_b) = (bias.is_some(), true);
            let of = MatMul { m, n, k, transpose_b, batch: &batch, bias, function, residual: adds };
            let reads = vec![self.bound(x), self.bound(w), bias_source.into(), residual.into()];
            return Ok(vec![Dispatch::new(matmul::launch(&of), reads)]);
        };
        let product = match turned {
            Some(_) => Product { permitted: Precision::F32, m, n, k },
            None => self.product(weight, m, n, k),
        };
        let variant = self.gemm_variant(product);
        self.products.entry(product).or_insert((0, variant)).0 += 1;
        let mut rows = self.bound(x);
        let mut dispatches = Vec::new();
        if let Some((launch, words)) = gemm::integers(variant, m, k, self.device.kind.is_software()) {
            self.take_scratch(node, words as u64 * 4, "its rows as integers")?;
            // Several linear nodes of one value take the same integers.
            if self.in_scratch.replace(x) != Some(x) {
                dispatches.push(Dispatch { write: Some(self.scratch()), ..Dispatch::new(launch, vec![rows]) });
            }
            rows = self.scratch().into();
        }
        let panels = Panels::of(variant.stored(), n, k);
        let bytes = panels.bytes() as u64;
        let (limit, buffer) = (self.device.binding.min(self.device.buffer), self.device.buffer);
        let parts = panels.parts(n, limit, self.device.alignment).filter(|_| bytes <= buffer).ok_or_else(|| {
            let limits = format!("the device binds at most {limit} of buffers of {buffer}");
            unsupported(node, format!("needs {bytes} bytes for its weight, {limits}"))
        })?;
        let layout = if turned.is_some() { Layout::TurnedPanels } else { Layout::Panels(variant.stored()) };
        let source = self.weight(weight, layout);
        for part in parts {
            let of = Gemm { bias: bias.is_some(), function, residual: adds, ..Gemm::new(m, part.columns, k) };
            let launch = gemm::launch(variant, Gemm { part: Some(part), ..of });
            let reads = vec![rows, Bound { source, range: part.bytes }, bias_source.into(), residual.into()];
            dispatches.push(Dispatch::new(launch, reads));
        }
        Ok(dispatches)
    }

    /// A convolution: products of its weight with what lies under the kernel, piece by piece, or all at once where groups
    /// have few channels. Nothing for another operator.
    pub(super) fn convolution(&mut self, node: &Node) -> Result<Vec<Dispatch>, EngineError> {
        let Op::Conv2d { stride, padding, dilation, groups, activation } = &node.op else { return Ok(Vec::new()) };
        let function = activation::code_after(*activation).ok_or_else(|| unknown(node))?;
        let (x, w, bias) = (node.inputs[0], node.inputs[1], node.inputs.get(2).copied());
        let (&[batches, c, h, width], &[_, _, kh, kw], &[_, o, oh, ow]) =
            (self.dims(x), self.dims(w), self.dims(node.output))
        else {
            return Err(unsupported(node, "is not of rank 4".to_owned()));
        };
        let of = Convolution {
            batches,
            image: [c, h, width],
            result: [o, oh, ow],
            kernel: [kh, kw],
            stride: *stride,
            padding: [padding[0], padding[1]],
            dilation: *dilation,
            groups: *groups,
            bias: bias.is_some(),
            function,
        };
        let (x, w) = (self.bound(x), self.bound(w));
        let bias = bias.map_or(Source::Absent.into(), |id| self.bound(id));
        if !of.is_product() {
            return Ok(vec![Dispatch::new(of.direct(), vec![x, w, bias])]);
        }
        let (m, n, k) = of.product();
        let product = Product { permitted: Precision::F32, m, n, k };
        let variant = self.gemm_variant(product);
        let pieces = of.pieces();
        self.products.entry(product).or_insert((0, variant)).0 += pieces.len() as u64;
        self.in_scratch = None;
        let mut dispatches = Vec::with_capacity(2 * pieces.len());
        for piece in pieces {
            self.take_scratch(node, of.piece_bytes(piece), "what lies under its kernel")?;
            let columns = self.scratch();
            dispatches.push(Dispatch { write: Some(columns), ..Dispatch::new(of.columns(piece), vec![x]) });
            let reads = vec![w, columns.into(), bias, Source::Absent.into()];
            dispatches.push(Dispatch::new(of.multiply(variant, piece), reads));
        }
        Ok(dispatches)
    }

    /// The slot after those of the plan.
    fn scratch(&self) -> Source {
        Source::Slot(self.plan.slots.len())
    }

    /// Sees to it that the scratch slot holds so many bytes.
    fn take_scratch(&mut self, node: &Node, bytes: u64, what: &str) -> Result<(), EngineError> {
        self.check_bytes(node, bytes, what)?;
        self.scratch = self.scratch.max(bytes);
        Ok(())
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
        let forced = self.device.forced.gemm.filter(|v| v.precision().within(of.permitted));
        let won = || self.tuner.choice(&gemm::trial::class(of)).and_then(|name| GemmVariant::named(&name));
        forced.or_else(|| won().filter(allowed)).unwrap_or_else(|| candidates[0])
    }
}
