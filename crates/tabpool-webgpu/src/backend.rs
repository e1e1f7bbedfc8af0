//! The backend: opens a device and loads programs onto it.

use std::collections::HashSet;
use std::rc::Rc;

use async_trait::async_trait;
use tabpool_engine::memory::{self, MemoryPlan};
use tabpool_engine::tuning::{Tuning, Winner};
use tabpool_engine::{Api, Backend, BackendInfo, EngineError, LoadReport, Loaded, MemoryUse, WeightSource};
use tabpool_graph::{Graph, Program};
use web_time::Instant;

use crate::device::Gpu;
use crate::executable::{Bindings, Buffers, WebGpuExecutable};
use crate::kernels::Variant;
use crate::kernels::attention::{self, AttentionVariant};
use crate::kernels::gemm::{self, GemmVariant};
use crate::lower::{Lowered, lower};
use crate::options::Options;
use crate::report::AdapterReport;
use crate::trial::Trial;
use crate::tuner::Tuner;
use crate::weights;

/// One adapter through WebGPU, or natively through Vulkan, Metal or Direct3D 12. Lives on one thread.
pub struct WebGpuBackend {
    pub(crate) gpu: Rc<Gpu>,
    info: BackendInfo,
    tuner: Tuner,
}

impl WebGpuBackend {
    /// Finds an adapter and opens it.
    ///
    /// # Errors
    /// [`EngineError::Device`] where there is no adapter of the kind asked for, or it does not open.
    pub async fn new(options: Options) -> Result<Self, EngineError> {
        let gpu = Rc::new(Gpu::open(&options).await?);
        let info = BackendInfo { api: Api::WebGpu, device: gpu.report.title() };
        Ok(Self { gpu, info, tuner: Tuner::default() })
    }

    /// What the adapter says of itself.
    #[must_use]
    pub fn adapter_report(&self) -> &AdapterReport {
        &self.gpu.report
    }

    /// As [`Backend::load`], with the executable's own type.
    ///
    /// # Errors
    /// As [`Backend::load`].
    pub async fn load_program(
        &self,
        program: &Program,
        source: &dyn WeightSource,
    ) -> Result<(Rc<WebGpuExecutable>, LoadReport), EngineError> {
        let gpu = &self.gpu;
        gpu.health.alive()?;
        let graph = program.graph();
        let plan = memory::plan(graph);
        let first = lower(graph, &plan, gpu.capabilities, &self.tuner)?;
        let make = || (weights::allocate(gpu, graph, &first.weights), Buffers::new(gpu, graph, &plan));
        let (mut weights, buffers) = gpu.scoped("making a program's buffers", make).await?;
        // Blocks are on their way while kernels are tried and compiled.
        weights.expect(graph, source);
        let started = Instant::now();
        let lowered = self.tuned(graph, &plan, first).await?;
        self.compile(graph, &lowered).await?;
        let compile = started.elapsed();

        let started = Instant::now();
        weights.fill(gpu, graph, source).await?;
        buffers.write_constants(gpu, graph);
        let bind = |steps| Bindings::new(gpu, &buffers, &weights.buffers, steps);
        let (load, run) =
            gpu.scoped("binding a program's buffers", || (bind(&lowered.load), bind(&lowered.run))).await?;
        if !lowered.load.is_empty() {
            gpu.scoped("computing what no run changes", || load.submit(gpu)).await?;
            gpu.drained().await?;
        }
        let upload = started.elapsed();
        let memory = MemoryUse { weights: weights.bytes, shared: weights.shared, scratch: buffers.bytes() };
        let executable = WebGpuExecutable::new(gpu.clone(), graph, buffers, &weights.buffers, run, &lowered);
        Ok((Rc::new(executable), LoadReport { compile, upload, memory }))
    }

    /// Finds out which variants win on this device where that is unknown, and lowers the graph again with them. Weights lie
    /// the same for all variants, so the buffers of the first lowering fit.
    async fn tuned(&self, graph: &Graph, plan: &MemoryPlan, first: Lowered) -> Result<Lowered, EngineError> {
        let (gpu, tuner) = (&self.gpu, &self.tuner);
        if gpu.capabilities.gemm.is_some() {
            return Ok(first);
        }
        let kind = gpu.capabilities.kind;
        let products = first.products.iter().map(|(&(m, n, k), &nodes)| {
            let candidates = GemmVariant::candidates(m, kind);
            Trial { nodes, ..gemm::trial::trial(m, n, k, candidates) }
        });
        let attentions = first.attentions.values().map(|(of, nodes)| {
            let candidates = AttentionVariant::candidates(of, kind);
            Trial { nodes: *nodes, ..attention::trial::trial(of, &candidates) }
        });
        tuner.learn(gpu, products.chain(attentions).collect()).await?;
        let lowered = lower(graph, plan, gpu.capabilities, tuner)?;
        debug_assert_eq!(lowered.weights, first.weights);
        Ok(lowered)
    }

    /// Compiles every kernel the program needs.
    async fn compile(&self, graph: &Graph, lowered: &Lowered) -> Result<(), EngineError> {
        let unpack = weights::variants(graph, &lowered.weights);
        let steps = lowered.load.iter().chain(&lowered.run).map(|s| &s.variant);
        let mut seen = HashSet::new();
        let variants: Vec<&Variant> =
            unpack.iter().chain(steps).filter(|v| seen.insert((v.kernel.name, &v.constants))).collect();
        for few in variants.chunks(4) {
            let make = || few.iter().for_each(|v| drop(self.gpu.pipelines.get(&self.gpu.device, v)));
            self.gpu.scoped("compiling kernels", make).await.inspect_err(|_| self.gpu.pipelines.forget(few))?;
        }
        Ok(())
    }
}

#[async_trait(?Send)]
impl Backend for WebGpuBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    async fn load(&self, program: &Program, weights: &dyn WeightSource) -> Result<Loaded, EngineError> {
        let (executable, report) = self.load_program(program, weights).await?;
        Ok(Loaded { executable, report })
    }

    fn tune(&self, tuning: Tuning) {
        self.tuner.set(tuning);
    }

    fn take_winners(&self) -> Vec<Winner> {
        self.tuner.take()
    }
}

#[cfg(test)]
mod tests;
