//! A program on the device: its buffers, its bind groups, and how it runs.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use tabpool_engine::memory::{MemoryPlan, byte_size};
use tabpool_engine::{EngineError, Executable, RunOutput, check_inputs};
use tabpool_graph::Graph;
use tabpool_tensor::{DType, Shape, Tensor};
use web_time::Instant;

use crate::device::{Gpu, buffer, failed};
use crate::lower::{Bound, Lowered, Source, Step};
use crate::pipelines::Pipeline;
use crate::staging::{Map, Ring, Staging};
use crate::weights::WeightBuffer;

/// How many runs of one executable may be on the device at once.
const IN_FLIGHT: usize = 3;

/// The buffers of a program apart from its weights.
pub(crate) struct Buffers {
    slots: Vec<wgpu::Buffer>,
    inputs: Vec<wgpu::Buffer>,
    constants: Vec<wgpu::Buffer>,
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
                .map(|s| make(s, U::STORAGE | U::COPY_SRC))
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

    /// The bytes they take.
    pub(crate) fn bytes(&self) -> u64 {
        let all = self.slots.iter().chain(&self.inputs).chain(&self.constants).chain(&self.staging);
        all.map(wgpu::Buffer::size).sum()
    }
}

/// Steps with their pipelines, parameters and bind groups, made once.
pub(crate) struct Bindings {
    steps: Vec<BoundStep>,
}

struct BoundStep {
    pipeline: Rc<Pipeline>,
    group: wgpu::BindGroup,
    groups: [u32; 2],
    node: usize,
    kernel: &'static str,
}

impl Bindings {
    /// Makes them. Call within error scopes.
    pub(crate) fn new(gpu: &Gpu, buffers: &Buffers, weights: &[Rc<WeightBuffer>], steps: &[Step]) -> Self {
        let (params, offsets) = write_params(gpu, steps);
        let find = |source: Source| match source {
            Source::Slot(i) => &buffers.slots[i],
            Source::Input(i) => &buffers.inputs[i],
            Source::Constant(i) => &buffers.constants[i],
            Source::Weight(i) => &weights[i].buffer,
            Source::Absent => &gpu.absent,
        };
        let bind = |(step, &offset): (&Step, &u64)| {
            let pipeline = gpu.pipelines.get(&gpu.device, &step.variant);
            let size = std::num::NonZeroU64::new(step.params.len() as u64 * 4);
            let first = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &params, offset, size });
            let reads = step.reads.iter().map(|&Bound { source, range }| match range {
                None => find(source).as_entire_binding(),
                Some((offset, size)) => wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: find(source),
                    offset,
                    size: std::num::NonZeroU64::new(size),
                }),
            });
            let resources = std::iter::once(first).chain(reads).chain([buffers.slots[step.write].as_entire_binding()]);
            let entries: Vec<_> =
                (0..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
            let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            });
            BoundStep { pipeline, group, groups: step.groups, node: step.node, kernel: step.variant.kernel.name }
        };
        Self { steps: steps.iter().zip(&offsets).map(bind).collect() }
    }

    /// Records all steps in one pass.
    fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let mut current: Option<&Rc<Pipeline>> = None;
        for step in &self.steps {
            if !current.is_some_and(|c| Rc::ptr_eq(c, &step.pipeline)) {
                pass.set_pipeline(&step.pipeline.pipeline);
                current = Some(&step.pipeline);
            }
            pass.set_bind_group(0, &step.group, &[]);
            pass.dispatch_workgroups(step.groups[0], step.groups[1], 1);
        }
    }

    /// Runs one workgroup of every pipeline. Drivers put the last stage of compiling off until a pipeline is first used, and
    /// buffers are cleared then: the first run would pay for both. What is written, every run writes anew.
    pub(crate) fn warm_up(&self, gpu: &Gpu) {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            let mut seen = HashSet::new();
            for step in self.steps.iter().filter(|s| seen.insert(Rc::as_ptr(&s.pipeline))) {
                pass.set_pipeline(&step.pipeline.pipeline);
                pass.set_bind_group(0, &step.group, &[]);
                pass.dispatch_workgroups(1, 1, 1);
            }
        }
        gpu.queue.submit([encoder.finish()]);
    }

    /// Runs the steps once.
    pub(crate) fn submit(&self, gpu: &Gpu) {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.record(&mut encoder);
        gpu.queue.submit([encoder.finish()]);
    }
}

/// All steps' parameters in one buffer, and where each begins.
fn write_params(gpu: &Gpu, steps: &[Step]) -> (wgpu::Buffer, Vec<u64>) {
    let mut bytes: Vec<u8> = Vec::new();
    let mut offsets = Vec::with_capacity(steps.len());
    let alignment = usize::try_from(gpu.uniform_alignment).unwrap_or(256);
    for step in steps {
        bytes.resize(bytes.len().next_multiple_of(alignment), 0);
        offsets.push(bytes.len() as u64);
        bytes.extend_from_slice(bytemuck::cast_slice(&step.params));
    }
    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let params = buffer(&gpu.device, bytes.len() as u64, usage);
    gpu.queue.write_buffer(&params, 0, &bytes);
    (params, offsets)
}

/// A value a run gives back.
struct Output {
    dtype: DType,
    shape: Shape,
    bytes: u64,
    /// What it is copied from.
    from: wgpu::Buffer,
}

/// A program on the device.
pub struct WebGpuExecutable {
    gpu: Rc<Gpu>,
    buffers: Buffers,
    run: Bindings,
    ring: Rc<Ring>,
    graph: Graph,
    outputs: Vec<Output>,
    /// The end of the run that was submitted last.
    last: RefCell<Option<oneshot::Receiver<()>>>,
    /// Kept so that other programs may share them.
    _weights: Vec<Rc<WeightBuffer>>,
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
        let find = |source: &Source| match *source {
            Source::Slot(i) => buffers.slots[i].clone(),
            Source::Input(i) => buffers.inputs[i].clone(),
            Source::Constant(i) => buffers.constants[i].clone(),
            Source::Weight(i) => weights[i].buffer.clone(),
            Source::Absent => gpu.absent.clone(),
        };
        let output = |(o, source): (&tabpool_graph::Output, &Source)| {
            let value = graph.value(o.value);
            Output { dtype: value.dtype, shape: value.shape.clone(), bytes: byte_size(value), from: find(source) }
        };
        let outputs = graph.outputs().iter().zip(&lowered.outputs).map(output).collect();
        let kept = |i: usize| reads_weight(lowered, i);
        let ring = Ring::new(gpu.device.clone(), std::mem::take(&mut buffers.staging));
        Self {
            _weights: (0..).zip(weights).filter(|(i, _)| kept(*i)).map(|(_, w)| w.clone()).collect(),
            graph: graph.clone(),
            outputs,
            last: RefCell::default(),
            gpu,
            buffers,
            run,
            ring,
        }
    }

    /// How many dispatches a run takes.
    #[must_use]
    pub fn dispatches(&self) -> usize {
        self.run.steps.len()
    }

    /// What a run dispatches, in order: the name of the node and that of the kernel.
    pub fn plan(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.run.steps.iter().map(|s| (self.graph.nodes()[s.node].name.as_str(), s.kernel))
    }

    /// Writes the inputs, records and submits the run.
    fn submit(&self, inputs: &[Tensor], staging: &Staging) {
        let gpu = &self.gpu;
        for (tensor, buffer) in inputs.iter().zip(&self.buffers.inputs) {
            gpu.queue.write_buffer(buffer, 0, tensor.data());
        }
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.run.record(&mut encoder);
        let mut offset = 0;
        for output in &self.outputs {
            encoder.copy_buffer_to_buffer(&output.from, 0, &staging.buffer, offset, output.bytes);
            offset += output.bytes;
        }
        gpu.queue.submit([encoder.finish()]);
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
    lowered.run.iter().flat_map(|s| &s.reads).any(|r| r.source == source) || lowered.outputs.contains(&source)
}

#[async_trait(?Send)]
impl Executable for WebGpuExecutable {
    async fn run(&self, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        check_inputs(&self.graph, inputs)?;
        self.gpu.health.check()?;
        let mut staging = self.ring.take().await;
        self.gpu.health.alive()?;
        let started = Instant::now();
        self.submit(inputs, &staging);
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
}
