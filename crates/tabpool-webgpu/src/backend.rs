//! The backend: opens a device and loads programs onto it.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use async_trait::async_trait;
use tabpool_engine::memory::{self, MemoryPlan};
use tabpool_engine::tuning::{Tuning, Winner};
use tabpool_engine::{
    Api, Backend, BackendInfo, EngineError, LoadReport, Loaded, MemoryUse, StateSet, StateSpec, WeightSource,
};
use tabpool_graph::{Graph, Node, Op, Program};
use web_time::Instant;

use crate::bindings::{Bindings, Found};
use crate::device::Gpu;
use crate::executable::{Buffers, WebGpuExecutable};
use crate::kernels::Variant;
use crate::kernels::attention::{self, AttentionVariant};
use crate::kernels::gemm::{self, GemmVariant};
use crate::kernels::row::RowVariant;
use crate::lower::{Forced, Lowered, Permission, lower, turned};
use crate::options::Options;
use crate::report::AdapterReport;
use crate::states::States;
use crate::trial::Trial;
use crate::tuner::Tuner;
use crate::weights::{self, WeightBuffer};

/// How an attempt to load a program ended.
enum Attempt {
    Loaded(Rc<WebGpuExecutable>, LoadReport),
    /// These weights do not fit the format they were to have; the buffers of the others are filled.
    Unfit(Vec<usize>, Vec<Rc<WeightBuffer>>),
}

/// The linear nodes that read these weights.
fn readers(graph: &Graph, weights: &BTreeSet<usize>) -> Vec<String> {
    let values: Vec<_> = weights.iter().map(|&w| graph.weights()[w].value).collect();
    let reads = |node: &&Node| {
        matches!(node.op, Op::Linear { .. }) && node.inputs.get(1).is_some_and(|weight| values.contains(weight))
    };
    graph.nodes().iter().filter(reads).map(|node| node.name.clone()).collect()
}

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

    /// Whether the device can run a variant.
    #[must_use]
    pub fn runs(&self, gemm: GemmVariant) -> bool {
        gemm.runs_with(self.gpu.capabilities.has)
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
        let mut unfit = BTreeSet::new();
        // What fits stays on the device for the next attempt; each attempt finds at least one weight more that does not.
        let mut earlier = Vec::new();
        loop {
            match self.attempt(program, source, &unfit).await? {
                Attempt::Loaded(executable, report) => return Ok((executable, report)),
                Attempt::Unfit(more, weights) => {
                    unfit.extend(more);
                    earlier.extend(weights);
                }
            }
        }
    }

    /// Loads a program with these weights in 32 bits, whatever is permitted.
    async fn attempt(
        &self,
        program: &Program,
        source: &dyn WeightSource,
        unfit: &BTreeSet<usize>,
    ) -> Result<Attempt, EngineError> {
        let gpu = &self.gpu;
        gpu.health.alive()?;
        let graph = program.graph();
        let mut plan = memory::plan(graph);
        plan.leave_out(graph, turned(graph, &gpu.capabilities).keys());
        let permission = Permission { precision: program.precision(), unfit };
        let first = lower(graph, &plan, gpu.capabilities, &self.tuner, permission)?;
        // Blocks are on their way while kernels are tried and compiled.
        weights::expect(gpu, graph, &first.weights, source);
        let started = Instant::now();
        let lowered = self.tuned(graph, &plan, first, permission).await?;
        self.compile(graph, &lowered).await?;
        let compile = started.elapsed();

        let make =
            || (weights::allocate(gpu, graph, &lowered.weights), Buffers::new(gpu, graph, &plan, lowered.scratch));
        let (mut weights, buffers) = gpu.scoped("making a program's buffers", make).await?;
        let started = Instant::now();
        let more = weights.fill(gpu, graph, source).await?;
        if !more.is_empty() {
            return Ok(Attempt::Unfit(more, weights.buffers));
        }
        self.tuner.settle(&lowered.products);
        buffers.write_constants(gpu, graph);
        gpu.scoped("clearing a program's buffers", || buffers.clear(gpu)).await?;
        let all: Vec<_> = weights.buffers.iter().cloned().map(Some).collect();
        let found = Found { gpu, buffers: &buffers, weights: &all, states: &[] };
        let bind = || {
            let (load, run) = (Bindings::new(found, &lowered.load), Bindings::new(found, &lowered.run));
            let stand_ins = States::stand_ins(gpu, graph.states().len());
            let warming = run.of_states(Found { states: &stand_ins, ..found });
            (load, run, warming)
        };
        let (load, run, warming) = gpu.scoped("binding a program's buffers", bind).await?;
        if !lowered.load.is_empty() {
            gpu.scoped("computing what no run changes", || load.submit(gpu)).await?;
        }
        gpu.scoped("warming a program's kernels up", || run.warm_up(gpu, &warming)).await?;
        drop(warming);
        gpu.drained().await?;
        let upload = started.elapsed();
        let memory = MemoryUse { weights: weights.bytes, shared: weights.shared, scratch: buffers.bytes() };
        let report =
            LoadReport { compile, upload, memory, precision: lowered.precision(), kept: readers(graph, unfit) };
        let executable = WebGpuExecutable::new(gpu.clone(), graph, buffers, &weights.buffers, run, &lowered);
        Ok(Attempt::Loaded(Rc::new(executable), report))
    }

    /// Finds out which variants win on this device where that is unknown, and lowers the graph again with them.
    async fn tuned(
        &self,
        graph: &Graph,
        plan: &MemoryPlan,
        first: Lowered,
        permission: Permission<'_>,
    ) -> Result<Lowered, EngineError> {
        let (gpu, tuner) = (&self.gpu, &self.tuner);
        if gpu.capabilities.forced != Forced::default() {
            return Ok(first);
        }
        let products = first.products.iter().map(|(&of, &(nodes, _))| {
            let candidates = tuner.candidates(of, &gpu.capabilities);
            Trial { nodes, ..gemm::trial::trial(of, &candidates) }
        });
        let attentions = first.attentions.values().map(|(of, nodes)| {
            let candidates = AttentionVariant::candidates(of, gpu.capabilities.kind);
            Trial { nodes: *nodes, ..attention::trial::trial(of, &candidates) }
        });
        let rows = first.rows.values().map(|&(of, nodes)| {
            let candidates = RowVariant::candidates(of.rows, of.n, gpu.capabilities.kind);
            Trial { nodes, ..of.trial(&candidates) }
        });
        tuner.learn(gpu, products.chain(attentions).chain(rows).collect()).await?;
        lower(graph, plan, gpu.capabilities, tuner, permission)
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

    async fn new_states(&self, specs: &[StateSpec]) -> Result<Rc<dyn StateSet>, EngineError> {
        Ok(Rc::new(States::new(&self.gpu, specs).await?))
    }

    fn tunes(&self) -> bool {
        true
    }

    fn tune(&self, tuning: Tuning) {
        self.tuner.set(tuning);
    }

    fn hurry(&self) {
        self.tuner.hurry();
    }

    fn take_winners(&self) -> Vec<Winner> {
        self.tuner.take()
    }
}

#[cfg(test)]
mod tests;
