//! The CPU backend: SIMD kernels in WebAssembly and natively, with threads where there are any.
//!
//! Loading works everything out that does not depend on a run's inputs: nodes become steps, weights of linear layers are
//! packed for the kernels, nodes over weights alone are computed, and all memory is made. A run copies its inputs,
//! executes the steps and copies the outputs; it allocates nothing else. It computes on the calling thread (and on
//! the backend's own), so it is over when its future is first polled.

mod attention;
mod elementwise;
mod gemm;
mod isa;
mod layout;
mod machine;
mod math;
mod rows;
mod step;
mod threads;
mod weights;
mod words;

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use tabpool_graph::{Graph, Program};
use tabpool_tensor::{DType, Tensor};
use web_time::Instant;

use crate::backend::{
    Api, Backend, BackendInfo, EngineError, Executable, LoadReport, Loaded, RunOutput, WeightSource, check_inputs,
};
use crate::memory::{self, MemoryPlan};
use isa::Isa;
use machine::Machine;
use step::{Leaves, Operand, ScratchSize, Source, Step, locate, step};
use threads::Threads;
use weights::{LoadedWeights, WeightCache};
use words::Words;

/// How a [`CpuBackend`] is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    threads: Option<NonZeroUsize>,
}

impl CpuOptions {
    /// As many threads as the machine runs at once; one in WebAssembly.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This many threads. WebAssembly has one whatever is asked for.
    #[must_use]
    pub fn threads(self, threads: NonZeroUsize) -> Self {
        Self { threads: Some(threads) }
    }
}

/// The processor as a backend.
pub struct CpuBackend {
    info: BackendInfo,
    isa: Isa,
    threads: Rc<Threads>,
    weights: WeightCache,
}

impl CpuBackend {
    /// A backend with threads of its own, which end with it and with its executables.
    ///
    /// # Errors
    /// [`EngineError::Device`] where the operating system gives no threads.
    pub fn new(options: &CpuOptions) -> Result<Self, EngineError> {
        Self::with_isa(options, Isa::detect())
    }

    fn with_isa(options: &CpuOptions, isa: Isa) -> Result<Self, EngineError> {
        let wanted = options.threads.or_else(|| std::thread::available_parallelism().ok());
        let threads = Threads::new(wanted.map_or(1, NonZeroUsize::get))?;
        let plural = if threads.count() == 1 { "" } else { "s" };
        let device = format!("{}, {} thread{plural}", isa.name(), threads.count());
        let info = BackendInfo { api: Api::Cpu, device };
        Ok(Self { info, isa, threads: Rc::new(threads), weights: WeightCache::default() })
    }
}

#[async_trait(?Send)]
impl Backend for CpuBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    async fn load(&self, program: &Program, weights: &dyn WeightSource) -> Result<Loaded, EngineError> {
        let graph = program.graph();
        let begin = Instant::now();
        let plan = memory::plan(graph);
        let mut compile = begin.elapsed();
        let begin = Instant::now();
        let loaded = self.weights.load(self.isa, graph, weights).await?;
        let upload = begin.elapsed();
        let begin = Instant::now();
        let mut memory = loaded.memory;
        let executable = self.compile(graph, &plan, loaded)?;
        compile += begin.elapsed();
        memory.scratch = executable.machine.borrow().bytes();
        Ok(Loaded { executable: Rc::new(executable), report: LoadReport { compile, upload, memory } })
    }
}

impl CpuBackend {
    fn compile(&self, graph: &Graph, plan: &MemoryPlan, loaded: LoadedWeights) -> Result<CpuExecutable, EngineError> {
        let (mut leaves, mut fixed, mut packed) = (Leaves::default(), Vec::new(), Vec::new());
        for (position, &id) in graph.inputs().iter().enumerate() {
            leaves.sources.insert(id, Source::Input(position));
        }
        for ((weight, plain), own) in graph.weights().iter().zip(loaded.plain).zip(loaded.packed) {
            if let Some(words) = plain {
                leaves.sources.insert(weight.value, Source::Fixed(fixed.len()));
                fixed.push(words);
            }
            if let Some(words) = own {
                leaves.packed.insert(weight.value, packed.len());
                packed.push(words);
            }
        }
        for constant in graph.constants() {
            leaves.sources.insert(constant.value, Source::Fixed(fixed.len()));
            fixed.push(Arc::new(Words::of_bytes(constant.tensor.data(), "keeping a constant")?));
        }
        let steps = |nodes: &[usize]| {
            nodes.iter().map(|&n| step(graph, plan, &leaves, &graph.nodes()[n])).collect::<Result<Vec<_>, _>>()
        };
        let (at_load, steps) = (steps(&plan.load_nodes)?, steps(&plan.run_nodes)?);
        let every = at_load.iter().chain(&steps).map(|s| s.scratch(self.isa));
        let scratch = every.fold(ScratchSize::default(), ScratchSize::max);
        let elements = |bytes: &u64| usize::try_from(bytes / 4).unwrap_or(usize::MAX);
        let slots: Vec<_> = plan.slots.iter().map(elements).collect();
        let inputs: Vec<_> = graph.inputs().iter().map(|&id| graph.value(id).shape.elements()).collect();
        let mut machine = Machine::new(&slots, &inputs, scratch, self.threads.count())?;
        (machine.fixed, machine.packed) = (fixed, packed);
        let outputs = graph.outputs().iter().map(|o| locate(graph, plan, &leaves, o.value));
        let outputs = outputs.collect::<Result<_, _>>()?;
        let executable = CpuExecutable {
            isa: self.isa,
            threads: self.threads.clone(),
            graph: graph.clone(),
            steps,
            outputs,
            machine: RefCell::new(machine),
        };
        executable.execute(&at_load);
        Ok(executable)
    }
}

/// A program in memory.
struct CpuExecutable {
    isa: Isa,
    threads: Rc<Threads>,
    graph: Graph,
    steps: Vec<Step>,
    outputs: Vec<Operand>,
    machine: RefCell<Machine>,
}

impl CpuExecutable {
    fn execute(&self, steps: &[Step]) {
        let mut machine = self.machine.borrow_mut();
        let (isa, threads, machine) = (self.isa, &*self.threads, &mut *machine);
        threads.install(|| steps.iter().for_each(|step| machine.execute((isa, threads), step)));
    }

    fn output(&self, position: usize, inputs: &[Tensor]) -> Result<Tensor, EngineError> {
        let value = self.graph.value(self.graph.outputs()[position].value);
        let shape = value.shape.clone();
        let tensor = match (self.outputs[position].source, value.dtype) {
            // An output that is an input, under whatever shape, shares its bytes.
            (Source::Input(input), _) => inputs[input].clone().reshape(shape),
            (_, DType::I32) => {
                let machine = self.machine.borrow();
                Tensor::from_i32(shape, bytemuck::cast_slice(machine.read(self.outputs[position])).to_vec())
            }
            _ => {
                let machine = self.machine.borrow();
                Tensor::from_f32(shape, bytemuck::cast_slice(machine.read(self.outputs[position])).to_vec())
            }
        };
        tensor.map_err(|e| EngineError::Device { doing: format!("reading output {position}"), reason: e.to_string() })
    }
}

#[async_trait(?Send)]
impl Executable for CpuExecutable {
    async fn run(&self, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        check_inputs(&self.graph, inputs)?;
        let begin = Instant::now();
        for (words, tensor) in self.machine.borrow_mut().inputs.iter_mut().zip(inputs) {
            words.fill(tensor.data());
        }
        self.execute(&self.steps);
        let compute = begin.elapsed();
        let begin = Instant::now();
        let tensors = (0..self.outputs.len()).map(|n| self.output(n, inputs)).collect::<Result<_, _>>()?;
        Ok(RunOutput { tensors, compute, readback: begin.elapsed() })
    }
}

#[cfg(test)]
mod tests;
