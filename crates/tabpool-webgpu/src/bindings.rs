//! The steps of a program as a device takes them: pipelines, parameters and bind groups, made once.
//!
//! Steps that touch no state have their bind group for good. The others have one for each set of states, which the set keeps:
//! a bind group holds the buffers in it, and a set's memory goes with the set.

use std::collections::HashSet;
use std::rc::Rc;

use crate::device::{Gpu, buffer};
use crate::executable::Buffers;
use crate::lower::{Bound, Source, Step};
use crate::pipelines::Pipeline;
use crate::weights::WeightBuffer;

/// Where the buffers that steps bind are found.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) buffers: &'a Buffers,
    /// Those of the program, by their positions in [`Lowered::weights`](crate::lower::Lowered::weights); `None` for what
    /// only the load read.
    pub(crate) weights: &'a [Option<Rc<WeightBuffer>>],
    /// Those of a set of states; none where steps that touch states are not bound.
    pub(crate) states: &'a [wgpu::Buffer],
}

impl<'a> Found<'a> {
    /// The buffer of a source. What is not there is a few zeros, which lowering makes sure nobody meets.
    pub(crate) fn buffer(self, source: Source) -> &'a wgpu::Buffer {
        let found = match source {
            Source::Slot(i) => self.buffers.slots.get(i),
            Source::Input(i) => self.buffers.inputs.get(i),
            Source::Constant(i) => self.buffers.constants.get(i),
            Source::Weight(i) => self.weights.get(i).and_then(Option::as_ref).map(|w| &w.buffer),
            Source::State(i) => self.states.get(i),
            Source::Absent => None,
        };
        found.unwrap_or(&self.gpu.absent)
    }
}

/// The bind groups of the steps that touch states, for one set of them.
pub(crate) type StateGroups = Rc<[wgpu::BindGroup]>;

/// See the module's documentation.
pub(crate) struct Bindings {
    steps: Vec<BoundStep>,
    /// What is bound for each set of states: the step and where its parameters begin.
    of_states: Vec<(Step, u64)>,
    params: wgpu::Buffer,
}

struct BoundStep {
    pipeline: Rc<Pipeline>,
    group: Group,
    groups: [u32; 2],
    node: usize,
    kernel: &'static str,
}

enum Group {
    Fixed(wgpu::BindGroup),
    /// A position in [`StateGroups`].
    OfStates(usize),
}

impl Bindings {
    /// Makes them. Call within error scopes.
    pub(crate) fn new(found: Found<'_>, steps: &[Step]) -> Self {
        let gpu = found.gpu;
        let (params, offsets) = write_params(gpu, steps);
        let mut of_states = Vec::new();
        let bind = |(step, &offset): (&Step, &u64)| {
            let pipeline = gpu.pipelines.get(&gpu.device, &step.variant);
            let group = if step.touches_states() {
                of_states.push((step.clone(), offset));
                Group::OfStates(of_states.len() - 1)
            } else {
                Group::Fixed(bind(found, &pipeline, &params, step, offset))
            };
            BoundStep { pipeline, group, groups: step.groups, node: step.node, kernel: step.variant.kernel.name }
        };
        let steps = steps.iter().zip(&offsets).map(bind).collect();
        Self { steps, of_states, params }
    }

    /// Binds the steps that touch states to a set of them. Call within error scopes.
    pub(crate) fn of_states(&self, found: Found<'_>) -> StateGroups {
        let gpu = found.gpu;
        let group = |(step, offset): &(Step, u64)| {
            let pipeline = gpu.pipelines.get(&gpu.device, &step.variant);
            bind(found, &pipeline, &self.params, step, *offset)
        };
        self.of_states.iter().map(group).collect()
    }

    /// How many dispatches there are.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// What is dispatched, in order: the position of the node and the name of the kernel.
    pub(crate) fn plan(&self) -> impl Iterator<Item = (usize, &'static str)> {
        self.steps.iter().map(|s| (s.node, s.kernel))
    }

    /// Records all steps in one pass.
    pub(crate) fn record(&self, encoder: &mut wgpu::CommandEncoder, of_states: &[wgpu::BindGroup]) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let mut current: Option<&Rc<Pipeline>> = None;
        for step in &self.steps {
            if !current.is_some_and(|c| Rc::ptr_eq(c, &step.pipeline)) {
                pass.set_pipeline(&step.pipeline.pipeline);
                current = Some(&step.pipeline);
            }
            pass.set_bind_group(0, step.group.of(of_states), &[]);
            pass.dispatch_workgroups(step.groups[0], step.groups[1], 1);
        }
    }

    /// Runs one workgroup of every pipeline. Drivers put the last stage of compiling off until a pipeline is first used: the first run
    /// would pay for it. What is written, every run writes anew; in place of states that are somebody's there are a few zeros.
    pub(crate) fn warm_up(&self, gpu: &Gpu, of_states: &[wgpu::BindGroup]) {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            let mut seen = HashSet::new();
            for step in self.steps.iter().filter(|s| seen.insert(Rc::as_ptr(&s.pipeline))) {
                pass.set_pipeline(&step.pipeline.pipeline);
                pass.set_bind_group(0, step.group.of(of_states), &[]);
                pass.dispatch_workgroups(1, 1, 1);
            }
        }
        gpu.queue.submit([encoder.finish()]);
    }

    /// Runs the steps once, none of which touches a state.
    pub(crate) fn submit(&self, gpu: &Gpu) {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.record(&mut encoder, &[]);
        gpu.queue.submit([encoder.finish()]);
    }
}

impl Group {
    /// The bind group, or none where a set of states lacks it, which the device then refuses.
    fn of<'a>(&'a self, of_states: &'a [wgpu::BindGroup]) -> Option<&'a wgpu::BindGroup> {
        match self {
            Group::Fixed(group) => Some(group),
            Group::OfStates(position) => of_states.get(*position),
        }
    }
}

fn bind(found: Found<'_>, pipeline: &Pipeline, params: &wgpu::Buffer, step: &Step, offset: u64) -> wgpu::BindGroup {
    let size = std::num::NonZeroU64::new(step.params.len() as u64 * 4);
    let first = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: params, offset, size });
    let reads = step.reads.iter().map(|&Bound { source, range }| match range {
        None => found.buffer(source).as_entire_binding(),
        Some((offset, size)) => wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: found.buffer(source),
            offset,
            size: std::num::NonZeroU64::new(size),
        }),
    });
    let write = found.buffer(step.write).as_entire_binding();
    let resources = std::iter::once(first).chain(reads).chain([write]);
    let entries: Vec<_> =
        (0..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
    found.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.layout,
        entries: &entries,
    })
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
