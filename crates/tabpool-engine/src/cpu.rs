//! The CPU backend: SIMD kernels in WebAssembly and natively, with threads where there are any.
//!
//! Loading works everything out that does not depend on a run's inputs: nodes become steps, weights of linear layers are
//! packed for the kernels, nodes over weights alone are computed, and all memory is made. A run copies its inputs,
//! executes the steps and copies the outputs; it allocates nothing else. It computes on the calling thread (and on
//! the backend's own), so it is over when its future is first polled. States are memory apart: a run on another set than the
//! last one's writes its steps anew, with other addresses, which takes a copy of some kilobytes.

mod arena;
mod chunks;
mod in_process;
mod lower;
mod processor;
mod states;
mod warm;
mod weights;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::rc::Rc;

use async_trait::async_trait;
use tabpool_graph::{Graph, Program, ValueId};
use tabpool_kernels::{Isa, Scratch, Span, Step};
use tabpool_tensor::{DType, Tensor};
use web_time::Instant;

use crate::backend::{
    Api, Backend, BackendInfo, EngineError, Executable, LoadReport, Loaded, RunOutput, WeightSource, check_inputs,
};
use crate::memory::{self, MemoryPlan};
use crate::state::{self, StateSet, StateSpec, check_states};
use in_process::InProcess;
use lower::{Addresses, Located, Lowering};
use processor::Region;
use states::CpuStates;
use weights::{LoadedWeights, WeightCache};

pub use arena::{Arena, Taken};
pub use processor::{Placement, Processor};
/// How kernels expect weights and steps: for those who write a [`Processor`].
pub use tabpool_kernels;

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
    /// Made when it is first asked for: how many threads there are is known only once all have come.
    info: OnceCell<BackendInfo>,
    processor: Rc<dyn Processor>,
    weights: WeightCache,
}

impl CpuBackend {
    /// A backend in this process, with threads of its own, which end with it and with its executables.
    ///
    /// # Errors
    /// [`EngineError::Device`] where the operating system gives no threads.
    pub fn new(options: &CpuOptions) -> Result<Self, EngineError> {
        Self::with_isa(options, Isa::detect())
    }

    fn with_isa(options: &CpuOptions, isa: Isa) -> Result<Self, EngineError> {
        let wanted = options.threads.or_else(|| std::thread::available_parallelism().ok());
        Ok(Self::on(Rc::new(InProcess::new(isa, wanted.map_or(1, NonZeroUsize::get))?)))
    }

    /// A backend whose kernels run elsewhere.
    #[must_use]
    pub fn on(processor: Rc<dyn Processor>) -> Self {
        Self { info: OnceCell::new(), processor, weights: WeightCache::default() }
    }
}

#[async_trait(?Send)]
impl Backend for CpuBackend {
    fn info(&self) -> &BackendInfo {
        self.info.get_or_init(|| BackendInfo { api: Api::Cpu, device: self.processor.description() })
    }

    async fn load(&self, program: &Program, weights: &dyn WeightSource) -> Result<Loaded, EngineError> {
        self.processor.rouse();
        let (executable, report) = self.make(program, weights, Assembly::Awaited).await?;
        // Who loads a program will run it.
        self.processor.rouse();
        Ok(Loaded { executable: Rc::new(executable), report })
    }

    async fn new_states(&self, specs: &[StateSpec]) -> Result<Rc<dyn StateSet>, EngineError> {
        Ok(Rc::new(CpuStates::new(&self.processor, specs)?))
    }
}

fn too_large(doing: &str) -> EngineError {
    EngineError::OutOfMemory { doing: doing.to_owned(), reason: "they are more than can be addressed".to_owned() }
}

/// Whether a program is made for all threads, or for those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Assembly {
    Awaited,
    /// What is made so must be gone before anybody waits for the threads.
    AsItIs,
}

impl CpuBackend {
    async fn make(
        &self,
        program: &Program,
        weights: &dyn WeightSource,
        assembly: Assembly,
    ) -> Result<(CpuExecutable, LoadReport), EngineError> {
        let graph = program.graph();
        let begin = Instant::now();
        let turned = memory::turned_weights(graph);
        let mut plan = memory::plan(graph);
        plan.leave_out(graph, turned.keys());
        let mut compile = begin.elapsed();
        let begin = Instant::now();
        let loaded = self.weights.load(&self.processor, graph, weights, &turned, plan.slots.iter().sum()).await?;
        let upload = begin.elapsed();
        let begin = Instant::now();
        if assembly == Assembly::Awaited {
            self.processor.assembled().await?;
        }
        let mut memory = loaded.memory;
        let executable = self.compile(graph, &plan, loaded, &turned)?;
        compile += begin.elapsed();
        memory.scratch = executable.regions.iter().map(Region::bytes).sum();
        Ok((executable, LoadReport { compile, upload, memory, ..LoadReport::default() }))
    }

    fn compile(
        &self,
        graph: &Graph,
        plan: &MemoryPlan,
        weights: LoadedWeights,
        turned: &HashMap<ValueId, ValueId>,
    ) -> Result<CpuExecutable, EngineError> {
        let mut addresses = Addresses::default();
        let activations = self.lay_out(graph, plan, &weights, &mut addresses)?;
        for (&value, &of) in turned {
            let at = graph.weights().iter().position(|weight| weight.value == of);
            let turned = at.and_then(|at| weights.turned[at].clone());
            addresses.packed.extend(turned.map(|weight| (value, weight)));
        }
        let (in_set, _) = states::lay_out(&StateSpec::of(graph))?;
        addresses.states = graph.states().iter().map(|s| s.value).zip(in_set).collect();
        let inputs = graph.inputs().iter().map(|id| addresses.leaves[id]).collect();
        let (tile, threads) = (self.processor.tile(), self.processor.threads());
        let lowering = Lowering { graph, plan, addresses: &addresses, processor: &*self.processor, tile, threads };
        let mut steps = Vec::with_capacity(plan.load_nodes.len() + plan.run_nodes.len());
        for &node in &plan.load_nodes {
            lowering.steps(&graph.nodes()[node], &mut steps)?;
        }
        let at_load = steps.len();
        for &node in &plan.run_nodes {
            lowering.steps(&graph.nodes()[node], &mut steps)?;
        }
        for &state in &plan.state_copies {
            steps.push(lowering.copy_state(&graph.states()[state])?);
        }
        let lane_len = steps.iter().map(|step| step.lane_len(tile)).max().unwrap_or(0).next_multiple_of(LINE);
        let scratch = Region::ready(&self.processor, lane_len * threads, "making room for scratch memory")?;
        for step in &mut steps {
            step.set_scratch(Scratch { address: scratch.address(), lane_len });
        }
        let outputs = graph.outputs().iter().map(|output| {
            let input = graph.inputs().iter().position(|&id| id == plan.root(output.value));
            match input {
                Some(input) => Ok(Output::Input(input)),
                None => lowering.locate(output.value).map(|place| match place {
                    Located { span, in_states: true } => Output::State(span),
                    Located { span, in_states: false } => Output::Memory(span),
                }),
            }
        });
        let outputs = outputs.collect::<Result<_, EngineError>>()?;
        let program = Region::of_steps(&self.processor, &steps)?;
        let program_address = program.address();
        let in_run = steps.split_off(at_load);
        let count = in_run.len();
        let executable = CpuExecutable {
            processor: Rc::clone(&self.processor),
            graph: graph.clone(),
            steps: (program_address + at_load * size_of::<Step>(), count),
            // Programs without states are never moved.
            movable: RefCell::new(Movable {
                steps: if graph.states().is_empty() { Vec::new() } else { in_run },
                set: 0,
            }),
            inputs,
            outputs,
            regions: vec![activations, scratch, program],
            _weights: weights,
        };
        // SAFETY: the steps were just written, and all they name is this executable's.
        unsafe { self.processor.execute(program_address, at_load)? };
        Ok(executable)
    }

    /// Gives slots, inputs and constants their places in one region, fills in the constants, and says where weights are.
    fn lay_out(
        &self,
        graph: &Graph,
        plan: &MemoryPlan,
        weights: &LoadedWeights,
        addresses: &mut Addresses,
    ) -> Result<Region, EngineError> {
        let too_large = || too_large("making room for activations");
        let mut words = 0usize;
        let mut place = |len: usize| {
            let at = words;
            words = len.checked_next_multiple_of(LINE).and_then(|len| words.checked_add(len)).ok_or_else(too_large)?;
            Ok::<_, EngineError>(at)
        };
        let slot_words = |&bytes: &u64| usize::try_from(bytes.div_ceil(4)).unwrap_or(usize::MAX);
        let slots = plan.slots.iter().map(|bytes| place(slot_words(bytes))).collect::<Result<Vec<_>, _>>()?;
        let mut leaf = |id| Ok((id, place(graph.value(id).shape.elements())?));
        let inputs = graph.inputs().iter().map(|&id| leaf(id)).collect::<Result<Vec<_>, EngineError>>()?;
        let constants = graph.constants().iter().map(|c| leaf(c.value)).collect::<Result<Vec<_>, EngineError>>()?;
        let region = Region::ready(&self.processor, words, "making room for activations")?;
        let address = |word: usize| region.address() + word * 4;
        addresses.slots = slots.into_iter().map(address).collect();
        addresses.leaves.extend(inputs.iter().chain(&constants).map(|&(id, word)| (id, address(word))));
        for (constant, (_, word)) in graph.constants().iter().zip(constants) {
            let bytes = constant.tensor.data();
            // SAFETY: the place is as long as the constant, and new.
            unsafe { self.processor.write(address(word), bytes.as_ptr(), bytes.len()) };
        }
        for ((weight, plain), packed) in graph.weights().iter().zip(&weights.plain).zip(&weights.packed) {
            addresses.leaves.extend(plain.iter().map(|region| (weight.value, region.address())));
            addresses.packed.extend(packed.iter().map(|packed| (weight.value, Rc::clone(packed))));
        }
        Ok(region)
    }
}

/// Words of a cache line: everything begins at one, so that no vector load straddles two.
const LINE: usize = 16;

/// Where an output is.
enum Output {
    /// It is an input, under whatever shape, and shares its bytes.
    Input(usize),
    Memory(Span),
    /// It lies in the set of states, at this distance from where that begins.
    State(Span),
}

/// The steps of a run as they are in memory, and the number of the set of states they are of; 0 before the first.
struct Movable {
    steps: Vec<Step>,
    set: u64,
}

/// A program in memory.
struct CpuExecutable {
    processor: Rc<dyn Processor>,
    graph: Graph,
    /// Where the steps of a run are, and how many.
    steps: (usize, usize),
    movable: RefCell<Movable>,
    /// Where inputs go.
    inputs: Vec<usize>,
    outputs: Vec<Output>,
    regions: Vec<Region>,
    /// What the steps name.
    _weights: LoadedWeights,
}

impl CpuExecutable {
    fn output(&self, position: usize, states: usize, inputs: &[Tensor]) -> Result<Tensor, EngineError> {
        let value = self.graph.value(self.graph.outputs()[position].value);
        let shape = value.shape.clone();
        let span = match self.outputs[position] {
            Output::Input(input) => Err(input),
            Output::Memory(span) => Ok(span),
            Output::State(span) => Ok(Span { address: states + span.address, ..span }),
        };
        let tensor = match (span, value.dtype) {
            (Err(input), _) => inputs[input].clone().reshape(shape),
            (Ok(span), DType::I32) => {
                let mut words = vec![0i32; span.len];
                self.read(span, bytemuck::cast_slice_mut(&mut words));
                Tensor::from_i32(shape, words)
            }
            (Ok(span), _) => {
                let mut words = vec![0f32; span.len];
                self.read(span, bytemuck::cast_slice_mut(&mut words));
                Tensor::from_f32(shape, words)
            }
        };
        tensor.map_err(|e| EngineError::Device { doing: format!("reading output {position}"), reason: e.to_string() })
    }

    fn read(&self, span: Span, bytes: &mut [u8]) {
        // SAFETY: the span is this executable's, as long as the bytes, and no run is under way: runs end before they return.
        unsafe { self.processor.read(span.address, bytes) };
    }
}

impl CpuExecutable {
    /// Makes the steps ones of a set of states, if they are another's.
    fn move_to(&self, address: usize, set: u64) {
        let mut movable = self.movable.borrow_mut();
        if movable.steps.is_empty() || movable.set == set {
            return;
        }
        movable.steps.iter_mut().for_each(|step| step.move_states(address));
        movable.set = set;
        // SAFETY: the place is as long as these steps, which lay there before; no run is under way.
        unsafe { self.processor.write(self.steps.0, movable.steps.as_ptr().cast(), size_of_val(&movable.steps[..])) };
    }

    /// Runs with states that begin at this address, inputs and states being right.
    fn execute(&self, states: usize, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        let begin = Instant::now();
        for (&address, tensor) in self.inputs.iter().zip(inputs) {
            let bytes = tensor.data();
            // SAFETY: the place was made for this input, whose shape and dtype were just checked.
            unsafe { self.processor.write(address, bytes.as_ptr(), bytes.len()) };
        }
        let (address, count) = self.steps;
        // SAFETY: the steps were written at load, and what they name lives as long as this executable, or is the set of states
        // that they were moved to and that the caller holds.
        unsafe { self.processor.execute(address, count)? };
        let compute = begin.elapsed();
        let begin = Instant::now();
        let tensors = (0..self.outputs.len()).map(|n| self.output(n, states, inputs)).collect::<Result<_, _>>()?;
        Ok(RunOutput { tensors, compute, readback: begin.elapsed() })
    }
}

#[async_trait(?Send)]
impl Executable for CpuExecutable {
    async fn run(&self, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        check_inputs(&self.graph, inputs)?;
        check_states(&self.graph, None)?;
        self.execute(0, inputs)
    }

    async fn run_on(&self, states: &Rc<dyn StateSet>, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        check_inputs(&self.graph, inputs)?;
        check_states(&self.graph, Some(states.specs()))?;
        let (address, set) = state::own::<CpuStates>(states)?.place(&self.processor)?;
        self.move_to(address, set);
        self.execute(address, inputs)
    }
}

#[cfg(test)]
mod tests;
