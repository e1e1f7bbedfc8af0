//! One class of work as it is tried on the device: operands that are made up, the ways to compute it, and what must come
//! out. The tuner and the benchmark of kernels time the same trials.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures::channel::oneshot;
use tabpool_engine::EngineError;
use web_time::Instant;

use crate::device::{Gpu, buffer};
use crate::kernels::{Launch, word};
use crate::pipelines::Pipeline;

/// How many elements of a result are computed here to compare the device's with.
const SAMPLES: usize = 64;
/// What is being done when a trial's buffer does not map.
const READING: &str = "reading the result of a trial";

/// A class of work and the ways to compute it.
pub(crate) struct Trial {
    /// The kernel and the class of its shapes, as in `gemm m128 n384 k384`.
    pub(crate) class: String,
    /// The ways, likely best first.
    pub(crate) candidates: Vec<Candidate>,
    /// Additions and multiplications of one launch.
    pub(crate) operations: u64,
    /// How many nodes of the program are of this class.
    pub(crate) nodes: u64,
    /// What is computed.
    pub(crate) work: Rc<dyn Work>,
}

/// One way to compute a trial.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Its name.
    pub(crate) name: &'static str,
    /// What is launched, in order.
    pub(crate) launches: Vec<TrialLaunch>,
}

/// A launch with the operands of the trial that it reads, by their numbers (a few zeros where there is no such operand), and the
/// one it writes; the result where `None`.
#[derive(Clone, Debug)]
pub(crate) struct TrialLaunch {
    pub(crate) launch: Launch,
    pub(crate) reads: Vec<usize>,
    pub(crate) write: Option<usize>,
}

impl Candidate {
    /// One launch that reads the operands in their order.
    pub(crate) fn plain(name: &'static str, launch: Launch) -> Self {
        let reads = (0..launch.variant.kernel.reads as usize).collect();
        Self { name, launches: vec![TrialLaunch { launch, reads, write: None }] }
    }
}

/// What a trial computes.
pub(crate) trait Work {
    /// How many words each operand has.
    fn operands(&self) -> Vec<usize>;

    /// Element `i` of an operand of f32 as it lies in its buffer.
    fn element(&self, operand: usize, i: usize) -> f32;

    /// An operand as it lies in its buffer.
    fn words(&self, operand: usize, count: usize) -> Vec<u32> {
        (0..count).map(|i| self.element(operand, i).to_bits()).collect()
    }

    /// How many elements the result has.
    fn results(&self) -> usize;

    /// What element `i` of the result must be, and how far from it a right kernel may be.
    fn expected(&self, i: usize) -> (f64, f64);

    /// How far a candidate may be from element `i`, where its arithmetic is less exact than the others'.
    fn allowed(&self, _candidate: &'static str, _i: usize, otherwise: f64) -> f64 {
        otherwise
    }
}

/// A number between -0.5 and 0.5 that depends on nothing but the operand and the place.
pub(crate) fn made_up(operand: usize, i: usize) -> f32 {
    let mixed = (word(i) ^ (word(operand) << 28)).wrapping_mul(0x9e37_79b9);
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca6b);
    // 24 bits are exact in f32.
    ((mixed >> 8) as f32) / 16_777_216.0 - 0.5
}

/// The operands of a trial on the device.
pub(crate) struct Bench<'a> {
    gpu: &'a Gpu,
    work: Rc<dyn Work>,
    reads: Vec<wgpu::Buffer>,
    write: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// A few bytes, mapped to learn when the device is done.
    tick: wgpu::Buffer,
}

/// A candidate that was compiled and bound.
pub(crate) struct Contender {
    name: &'static str,
    launches: Vec<Bound>,
}

struct Bound {
    pipeline: Rc<Pipeline>,
    group: wgpu::BindGroup,
    groups: [u32; 2],
}

impl<'a> Bench<'a> {
    /// Brings a trial's operands onto the device.
    pub(crate) async fn new(gpu: &'a Gpu, work: Rc<dyn Work>) -> Result<Self, EngineError> {
        use wgpu::BufferUsages as U;
        let operands = work.operands();
        let bytes = |elements: usize| elements as u64 * 4;
        let make = || {
            let reads: Vec<_> =
                operands.iter().map(|&n| buffer(&gpu.device, bytes(n), U::STORAGE | U::COPY_DST)).collect();
            let write = buffer(&gpu.device, bytes(work.results()), U::STORAGE | U::COPY_SRC);
            let staging = buffer(&gpu.device, bytes(work.results()), U::MAP_READ | U::COPY_DST);
            let tick = buffer(&gpu.device, 16, U::MAP_READ | U::COPY_DST);
            (reads, write, staging, tick)
        };
        let (reads, write, staging, tick) = gpu.scoped("making the buffers of a trial", make).await?;
        for (operand, (&n, buffer)) in operands.iter().zip(&reads).enumerate() {
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&work.words(operand, n)));
        }
        Ok(Self { gpu, work, reads, write, staging, tick })
    }

    /// Compiles a candidate and binds the operands to it.
    pub(crate) async fn contender(&self, candidate: &Candidate) -> Result<Contender, EngineError> {
        let mut launches = Vec::with_capacity(candidate.launches.len());
        for one in &candidate.launches {
            launches.push(self.bound(one).await?);
        }
        Ok(Contender { name: candidate.name, launches })
    }

    async fn bound(&self, TrialLaunch { launch, reads, write }: &TrialLaunch) -> Result<Bound, EngineError> {
        let gpu = self.gpu;
        let doing = "compiling a kernel to try";
        let Some(groups) = launch.groups.folded(gpu.capabilities.groups) else {
            return Err(crate::device::failed(doing, "it needs too many workgroups".to_owned()));
        };
        let make = || {
            let pipeline = gpu.pipelines.get(&gpu.device, &launch.variant);
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let params = buffer(&gpu.device, launch.params.len() as u64 * 4, usage);
            gpu.queue.write_buffer(&params, 0, bytemuck::cast_slice(&launch.params));
            let operand = |i: usize| self.reads.get(i).unwrap_or(&gpu.absent);
            let resources = std::iter::once(&params)
                .chain(reads.iter().map(|&i| operand(i)))
                .chain([write.map_or(&self.write, operand)]);
            let entries: Vec<_> = (0..)
                .zip(resources)
                .map(|(binding, b)| wgpu::BindGroupEntry { binding, resource: b.as_entire_binding() })
                .collect();
            let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            });
            Bound { pipeline, group, groups }
        };
        let made = gpu.scoped(doing, make).await;
        made.inspect_err(|_| gpu.pipelines.forget(&[&launch.variant]))
    }

    /// How long `launches` of them take together, from the submit until the device says that they are done.
    pub(crate) async fn time(&self, contender: &Contender, launches: u32) -> Result<Duration, EngineError> {
        let mut encoder = self.encoder();
        self.record(&mut encoder, contender, launches);
        // A map is what browsers answer soonest: Firefox tells of finished work ten times a second only.
        encoder.copy_buffer_to_buffer(&self.write, 0, &self.tick, 0, self.tick.size());
        let started = Instant::now();
        self.gpu.queue.submit([encoder.finish()]);
        self.map(&self.tick).await?;
        let took = started.elapsed();
        self.tick.unmap();
        Ok(took)
    }

    /// Launches it once and compares some of the result with what it must be; the first element that is wrong.
    pub(crate) async fn wrong(&self, contender: &Contender) -> Result<Option<String>, EngineError> {
        let gpu = self.gpu;
        let mut encoder = self.encoder();
        encoder.clear_buffer(&self.staging, 0, None);
        self.record(&mut encoder, contender, 1);
        encoder.copy_buffer_to_buffer(&self.write, 0, &self.staging, 0, self.write.size());
        gpu.queue.submit([encoder.finish()]);
        self.map(&self.staging).await?;
        let verdict = {
            let view = self.staging.get_mapped_range(..).map_err(|e| gpu.blame(READING, e.to_string()))?;
            self.judge(contender.name, bytemuck::cast_slice(&view))
        };
        self.staging.unmap();
        Ok(verdict)
    }

    /// Waits until the device has done everything up to the copy into this buffer.
    async fn map(&self, staging: &wgpu::Buffer) -> Result<(), EngineError> {
        let (done, mapped) = oneshot::channel();
        let pending = self.gpu.pump.begin();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            drop(pending);
            // Nobody waits any more where the load was dropped.
            let _ = done.send(result);
        });
        if matches!(self.gpu.unless_lost(mapped).await?, Ok(Ok(()))) {
            return Ok(());
        }
        Err(self.gpu.blame(READING, "the device did not map it".to_owned()))
    }

    fn judge(&self, candidate: &'static str, got: &[f32]) -> Option<String> {
        let n = self.work.results();
        // Both ends, and places that lie in different rows and columns whatever the shape.
        let spread = (0..SAMPLES).map(|i| (i * n / SAMPLES + i * 7919) % n);
        let places: BTreeSet<usize> = spread.chain([0, n - 1]).collect();
        places.into_iter().find_map(|i| {
            let (want, tolerance) = self.work.expected(i);
            let tolerance = self.work.allowed(candidate, i, tolerance);
            let error = (f64::from(got[i]) - want).abs();
            // Not a number is wrong as well.
            let right = error <= tolerance;
            (!right).then(|| format!("element {i} is {} and must be {want}", got[i]))
        })
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    fn record(&self, encoder: &mut wgpu::CommandEncoder, contender: &Contender, launches: u32) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let alone = contender.launches.len() == 1;
        for time in 0..launches {
            for Bound { pipeline, group, groups } in &contender.launches {
                if time == 0 || !alone {
                    pass.set_pipeline(&pipeline.pipeline);
                    pass.set_bind_group(0, group, &[]);
                }
                pass.dispatch_workgroups(groups[0], groups[1], 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::made_up;

    #[test]
    fn made_up_numbers_spread_and_differ_between_operands() {
        let mean = |operand| (0..10_000).map(|i| f64::from(made_up(operand, i))).sum::<f64>() / 10_000.0;
        assert!(mean(0).abs() < 0.02 && mean(1).abs() < 0.02);
        assert!((0..1000).all(|i| made_up(0, i).abs() <= 0.5));
        assert!((0..100).any(|i| (made_up(0, i) - made_up(1, i)).abs() > 0.1));
    }
}
