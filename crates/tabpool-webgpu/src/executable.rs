//! A program on the device: its buffers, its bind groups, and how it runs.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use tabpool_engine::memory::{MemoryPlan, byte_size};
use tabpool_engine::{EngineError, Executable, RunOutput, StateSet, check_inputs, check_states, state};
use tabpool_graph::Graph;
use tabpool_tensor::{DType, Shape, Tensor};
use web_time::Instant;

use crate::bindings::{Bindings, Found, StateGroups};
use crate::device::{Gpu, buffer, failed};
use crate::lower::{Lowered, Source};
use crate::staging::{Map, Ring, Staging};
use crate::states::States;
use crate::weights::WeightBuffer;

/// How many runs of one executable may be on the device at once.
const IN_FLIGHT: usize = 3;

/// The buffers of a program apart from its weights.
pub(crate) struct Buffers {
    pub(crate) slots: Vec<wgpu::Buffer>,
    pub(crate) inputs: Vec<wgpu::Buffer>,
    pub(crate) constants: Vec<wgpu::Buffer>,
    staging: Vec<wgpu::Buffer>,
}

impl Buffers {
    /// Makes them, with a slot of `scratch` bytes after those of the plan. Call within error scopes.
    pub(crate) fn new(gpu: &Gpu, graph: &Graph, plan: &MemoryPlan, scratch: u64) -> Self {
        use wgpu::BufferUsages as U;
        let make = |bytes: u64, usage: U| buffer(&gpu.device, bytes, usage);
        let of_outputs = graph.outputs().iter().map(|o| byte_size(graph.value(o.value))).sum();
        Self {
            slots: (plan.slots.iter().copied().chain((scratch > 0).then_some(scratch)))
                .map(|s| make(s, U::STORAGE | U::COPY_DST | U::COPY_SRC))
                .collect(),
            inputs: (graph.inputs().iter())
                .map(|&id| make(byte_size(graph.value(id)), U::STORAGE | U::COPY_DST | U::COPY_SRC))
                .collect(),
            constants: (graph.constants().iter())
                .map(|c| make(byte_size(graph.value(c.value)), U::STORAGE | U::COPY_DST | U::COPY_SRC))
                .collect(),
            staging: (0..IN_FLIGHT).map(|_| make(of_outputs, U::MAP_READ | U::COPY_DST)).collect(),
        }
    }

    /// Writes the constants.
    pub(crate) fn write_constants(&self, gpu: &Gpu, graph: &Graph) {
        for (constant, buffer) in graph.constants().iter().zip(&self.constants) {
            gpu.queue.write_buffer(buffer, 0, constant.tensor.data());
        }
    }

    /// Fills the slots with zeros before anything is computed. A buffer is cleared at its first use otherwise, and its memory made by
    /// whoever made it only then: the first run would pay for both.
    pub(crate) fn clear(&self, gpu: &Gpu) {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for slot in &self.slots {
            encoder.clear_buffer(slot, 0, None);
        }
        gpu.queue.submit([encoder.finish()]);
    }

    /// The bytes they take.
    pub(crate) fn bytes(&self) -> u64 {
        let all = self.slots.iter().chain(&self.inputs).chain(&self.constants).chain(&self.staging);
        all.map(wgpu::Buffer::size).sum()
    }
}

/// A value a run gives back, and what it is copied from.
struct Output {
    dtype: DType,
    shape: Shape,
    bytes: u64,
    from: Source,
}

/// A state that becomes a copy of what lies elsewhere.
struct Copied {
    state: usize,
    bytes: u64,
    from: Source,
}

/// A program on the device.
pub struct WebGpuExecutable {
    gpu: Rc<Gpu>,
    /// Names it to sets of states.
    id: u64,
    buffers: Buffers,
    run: Bindings,
    ring: Rc<Ring>,
    graph: Graph,
    outputs: Vec<Output>,
    copies: Vec<Copied>,
    /// The end of the run that was submitted last.
    last: RefCell<Option<oneshot::Receiver<()>>>,
    /// The sets of states that keep bind groups of this executable.
    sets: RefCell<Vec<Weak<States>>>,
    /// Those that runs read; kept so that other programs may share them.
    weights: Vec<Option<Rc<WeightBuffer>>>,
}

impl WebGpuExecutable {
    pub(crate) fn new(
        gpu: Rc<Gpu>,
        graph: &Graph,
        mut buffers: Buffers,
        weights: &[Rc<WeightBuffer>],
        run: Bindings,
        lowered: &Lowered,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let output = |(o, &from): (&tabpool_graph::Output, &Source)| {
            let value = graph.value(o.value);
            Output { dtype: value.dtype, shape: value.shape.clone(), bytes: byte_size(value), from }
        };
        let copied = |&(from, state): &(Source, usize)| {
            let bytes = byte_size(graph.value(graph.states()[state].value));
            Copied { state, bytes, from }
        };
        let kept = |i: usize| reads_weight(lowered, i);
        let ring = Ring::new(gpu.device.clone(), std::mem::take(&mut buffers.staging));
        Self {
            weights: (0..).zip(weights).map(|(i, w)| kept(i).then(|| w.clone())).collect(),
            graph: graph.clone(),
            outputs: graph.outputs().iter().zip(&lowered.outputs).map(output).collect(),
            copies: lowered.copies.iter().map(copied).collect(),
            last: RefCell::default(),
            sets: RefCell::default(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            gpu,
            buffers,
            run,
            ring,
        }
    }

    /// How many dispatches a run takes.
    #[must_use]
    pub fn dispatches(&self) -> usize {
        self.run.len()
    }

    /// What a run dispatches, in order: the name of the node and that of the kernel.
    pub fn plan(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.run.plan().map(|(node, kernel)| (self.graph.nodes()[node].name.as_str(), kernel))
    }

    /// Where buffers are found, with these states.
    fn found<'a>(&'a self, states: &'a [wgpu::Buffer]) -> Found<'a> {
        Found { gpu: &self.gpu, buffers: &self.buffers, weights: &self.weights, states }
    }

    /// The bind groups for a set of states, made at its first run.
    async fn groups(&self, states: &Rc<States>) -> Result<StateGroups, EngineError> {
        if let Some(bound) = states.bound(self.id) {
            return Ok(bound);
        }
        let make = || self.run.of_states(self.found(states.buffers()));
        let groups = self.gpu.scoped("binding states", make).await?;
        states.bind(self.id, groups.clone());
        let mut sets = self.sets.borrow_mut();
        sets.retain(|set| set.strong_count() > 0);
        sets.push(Rc::downgrade(states));
        Ok(groups)
    }

    /// Writes the inputs, records and submits the run.
    fn submit(&self, inputs: &[Tensor], staging: &Staging, states: &[wgpu::Buffer], groups: &[wgpu::BindGroup]) {
        let gpu = &self.gpu;
        for (tensor, buffer) in inputs.iter().zip(&self.buffers.inputs) {
            gpu.queue.write_buffer(buffer, 0, tensor.data());
        }
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.run.record(&mut encoder, groups);
        let found = self.found(states);
        let mut offset = 0;
        for output in &self.outputs {
            encoder.copy_buffer_to_buffer(found.buffer(output.from), 0, &staging.buffer, offset, output.bytes);
            offset += output.bytes;
        }
        for copied in &self.copies {
            let to = found.buffer(Source::State(copied.state));
            encoder.copy_buffer_to_buffer(found.buffer(copied.from), 0, to, 0, copied.bytes);
        }
        gpu.queue.submit([encoder.finish()]);
    }

    /// Runs once, on a set of states where the program keeps some.
    async fn run_with(&self, states: Option<&Rc<States>>, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        check_inputs(&self.graph, inputs)?;
        check_states(&self.graph, states.map(|set| set.specs()))?;
        self.gpu.health.check()?;
        let mut turn = states.map(|set| set.turn());
        let groups = match states {
            Some(set) => self.groups(set).await?,
            None => Rc::from([]),
        };
        // Whose turn it is waits for a buffer; whoever waits for a turn holds none.
        if let Some(turn) = &mut turn {
            turn.begin().await;
        }
        let mut staging = self.ring.take().await;
        self.gpu.health.alive()?;
        let started = Instant::now();
        self.submit(inputs, &staging, states.map_or(&[], |set| set.buffers()), &groups);
        drop(turn);
        // The device works in order, but a browser may resolve maps in another one (Firefox does), and runs promise to
        // finish as they were started. The sender goes with this future, however that ends.
        let (_finished, end) = oneshot::channel();
        let before = self.last.replace(Some(end));
        self.mapped(&mut staging).await?;
        let compute: Duration = started.elapsed();
        if let Some(before) = before {
            // It never sends; its drop is the news.
            let _ = before.await;
        }
        let started = Instant::now();
        let tensors = self.read(&staging)?;
        Ok(RunOutput { tensors, compute, readback: started.elapsed() })
    }

    /// Waits until the outputs are mapped.
    async fn mapped(&self, staging: &mut Staging) -> Result<(), EngineError> {
        let (done, mapped) = oneshot::channel();
        let pending = self.gpu.pump.begin();
        staging.map = Map::Pending;
        staging.buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            drop(pending);
            // Nobody waits any more where the run was dropped.
            let _ = done.send(result);
        });
        let result = self.gpu.unless_lost(mapped).await?;
        if matches!(result, Ok(Ok(()))) {
            staging.map = Map::Done;
            return Ok(());
        }
        Err(self.gpu.blame("reading outputs back", "the device did not map them".to_owned()))
    }

    fn read(&self, staging: &Staging) -> Result<Vec<Tensor>, EngineError> {
        let doing = "reading outputs back";
        let all = {
            let view = staging.buffer.get_mapped_range(..).map_err(|e| self.gpu.blame(doing, e.to_string()))?;
            Bytes::copy_from_slice(&view)
        };
        let mut at = 0;
        let mut tensors = Vec::with_capacity(self.outputs.len());
        for output in &self.outputs {
            // The staging buffer is as large as all outputs together.
            let end = at + usize::try_from(output.bytes).unwrap_or(usize::MAX - at);
            let tensor = Tensor::new(output.dtype, output.shape.clone(), all.slice(at..end));
            tensors.push(tensor.map_err(|e| failed(doing, e.to_string()))?);
            at = end;
        }
        Ok(tensors)
    }
}

/// Whether something after the load reads a weight.
fn reads_weight(lowered: &Lowered, weight: usize) -> bool {
    let source = Source::Weight(weight);
    let copied = lowered.copies.iter().any(|(from, _)| *from == source);
    copied || lowered.run.iter().flat_map(|s| &s.reads).any(|r| r.source == source) || lowered.outputs.contains(&source)
}

#[async_trait(?Send)]
impl Executable for WebGpuExecutable {
    async fn run(&self, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        self.run_with(None, inputs).await
    }

    async fn run_on(&self, states: &Rc<dyn StateSet>, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        let states: Rc<States> = state::own(states)?;
        if !states.is_on(&self.gpu) {
            return Err(EngineError::State { reason: "were made by another backend".to_owned() });
        }
        self.run_with(Some(&states), inputs).await
    }
}

impl Drop for WebGpuExecutable {
    fn drop(&mut self) {
        for set in self.sets.borrow().iter().filter_map(Weak::upgrade) {
            set.unbind(self.id);
        }
    }
}
