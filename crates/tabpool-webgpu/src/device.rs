//! An open device with what all executables on it share.

use std::sync::Arc;

use futures::channel::oneshot;
use tabpool_engine::EngineError;

use crate::health::Health;
use crate::kernels::gemm::Has;
use crate::lower::{Capabilities, Forced};
use crate::options::{AdapterChoice, Options, Power};
use crate::pipelines::Pipelines;
use crate::pump::Pump;
use crate::report::AdapterReport;
use crate::weights::WeightCache;

/// An open device.
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) capabilities: Capabilities,
    /// What offsets of uniform bindings must be multiples of.
    pub(crate) uniform_alignment: u64,
    pub(crate) health: Health,
    pub(crate) pump: Pump,
    pub(crate) pipelines: Pipelines,
    pub(crate) weights: WeightCache,
    /// Zeros, bound where an optional operand is absent.
    pub(crate) absent: wgpu::Buffer,
    pub(crate) report: AdapterReport,
}

/// The bytes of [`Gpu::absent`]; larger than any minimal binding of a kernel.
const ABSENT_BYTES: u64 = 64;

impl Gpu {
    pub(crate) async fn open(options: &Options) -> Result<Self, EngineError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = find_adapter(&instance, options).await?;
        let limits = required_limits(&adapter.limits());
        let required_features = adapter.features() & (wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP);
        let descriptor = wgpu::DeviceDescriptor { required_features, required_limits: limits, ..Default::default() };
        let (device, queue) =
            adapter.request_device(&descriptor).await.map_err(|e| failed("opening the adapter", e.to_string()))?;
        let health = Health::default();
        let theirs = health.clone();
        device.set_device_lost_callback(move |reason, message| theirs.lose(format!("{reason:?}: {message}")));
        let theirs = health.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| theirs.report(error.to_string())));
        let pump = Pump::new(&device, &queue, options.nudge_maps)
            .map_err(|e| failed("starting the thread that polls the device", e.to_string()))?;
        let report = AdapterReport::new(&instance, &adapter, &device);
        let limits = device.limits();
        let has = Has {
            f16: device.features().contains(wgpu::Features::SHADER_F16),
            // The text of kernels with subgroups differs between browsers and wgpu itself, which cannot ask browsers for
            // subgroups anyhow.
            subgroups: cfg!(not(target_arch = "wasm32")) && device.features().contains(wgpu::Features::SUBGROUP),
        };
        if let Some(forced) = options.gemm.filter(|v| !v.runs_with(has)) {
            return Err(failed("opening the adapter", format!("it lacks what {} needs", forced.name())));
        }
        let capabilities = Capabilities {
            binding: limits.max_storage_buffer_binding_size,
            buffer: limits.max_buffer_size,
            alignment: u64::from(limits.min_storage_buffer_offset_alignment),
            groups: limits.max_compute_workgroups_per_dimension,
            kind: report.kind(),
            has,
            forced: Forced { gemm: options.gemm, attention: options.attention, rows: options.rows },
        };
        let uniform_alignment = u64::from(limits.min_uniform_buffer_offset_alignment);
        let absent = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("absent"),
            size: ABSENT_BYTES,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let (pipelines, weights) = (Pipelines::default(), WeightCache::default());
        Ok(Self { device, queue, capabilities, uniform_alignment, health, pump, pipelines, weights, absent, report })
    }

    /// Makes device objects with error scopes around. The scopes are popped before anything is awaited, because they form a
    /// stack of the device and other loads run between awaits.
    pub(crate) async fn scoped<T>(&self, doing: &str, make: impl FnOnce() -> T) -> Result<T, EngineError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        let errors = (validation.pop(), internal.pop(), memory.pop());
        let errors = [errors.0.await, errors.1.await, errors.2.await];
        self.health.alive()?;
        match errors.into_iter().flatten().next() {
            None => Ok(made),
            Some(wgpu::Error::OutOfMemory { source }) => {
                Err(EngineError::OutOfMemory { doing: doing.to_owned(), reason: source.to_string() })
            }
            Some(e) => Err(failed(doing, e.to_string())),
        }
    }

    /// Waits until the device has done everything submitted so far, so that no more than a bounded amount of uploaded
    /// bytes waits in the driver.
    pub(crate) async fn drained(&self) -> Result<(), EngineError> {
        self.queue.submit(None);
        let (done, finished) = oneshot::channel();
        let _pending = self.pump.begin();
        self.queue.on_submitted_work_done(move || {
            // Nobody waits any more where the load was dropped.
            let _ = done.send(());
        });
        self.unless_lost(finished)
            .await?
            .map_err(|_| self.blame("waiting for the device", "it never answered".to_owned()))
    }

    /// Why something failed: because the device is lost, because of an error nobody waited for, or for this reason.
    pub(crate) fn blame(&self, doing: &str, reason: String) -> EngineError {
        self.pump.settle(&self.device, || self.health.alive().is_err());
        self.health.check().err().unwrap_or_else(|| failed(doing, reason))
    }

    /// Awaits something of the device, or its loss.
    pub(crate) async fn unless_lost<F: Future + Unpin>(&self, mut future: F) -> Result<F::Output, EngineError> {
        let watch = self.health.watch();
        std::future::poll_fn(|cx| {
            if let std::task::Poll::Ready(value) = std::pin::Pin::new(&mut future).poll(cx) {
                return std::task::Poll::Ready(Ok(value));
            }
            match watch.register(cx.waker()) {
                Ok(()) => std::task::Poll::Pending,
                Err(lost) => std::task::Poll::Ready(Err(lost)),
            }
        })
        .await
    }
}

pub(crate) fn failed(doing: &str, reason: String) -> EngineError {
    EngineError::Device { doing: doing.to_owned(), reason }
}

async fn find_adapter(instance: &wgpu::Instance, options: &Options) -> Result<wgpu::Adapter, EngineError> {
    let wanted = wgpu::RequestAdapterOptions {
        power_preference: match options.power {
            Power::High => wgpu::PowerPreference::HighPerformance,
            Power::Low => wgpu::PowerPreference::LowPower,
        },
        force_fallback_adapter: options.adapter == AdapterChoice::Software,
        ..Default::default()
    };
    let adapter =
        instance.request_adapter(&wanted).await.map_err(|e| failed("looking for a WebGPU adapter", e.to_string()))?;
    let software = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
    match options.adapter {
        AdapterChoice::Hardware if software => {
            Err(failed("looking for a hardware adapter", "there is only a software adapter".to_owned()))
        }
        AdapterChoice::Software if !software => {
            Err(failed("looking for a software adapter", "there is only a hardware adapter".to_owned()))
        }
        _ => Ok(adapter),
    }
}

/// WebGPU's default limits, with those that models outgrow raised to what the adapter has.
fn required_limits(has: &wgpu::Limits) -> wgpu::Limits {
    wgpu::Limits {
        max_buffer_size: has.max_buffer_size,
        max_storage_buffer_binding_size: has.max_storage_buffer_binding_size,
        min_uniform_buffer_offset_alignment: has.min_uniform_buffer_offset_alignment,
        min_storage_buffer_offset_alignment: has.min_storage_buffer_offset_alignment,
        ..wgpu::Limits::defaults()
    }
}

/// A buffer of at least so many bytes, padded to whole vec4s, which kernels may load and store beyond the last element.
pub(crate) fn buffer(device: &wgpu::Device, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    let size = bytes.next_multiple_of(16).max(16);
    device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
}
