//! What the host asks for, and loading and unloading programs.

use std::cell::Cell;
use std::rc::Rc;

use tabpool_engine::{Backend, EngineError, Loaded, WeightSource as _};
use tabpool_graph::{Program, ProgramLimits};
use tabpool_protocol::{ApiKind, FaultKind, Frame, LoadStats, Message};
use tabpool_tensor::Tensor;
use web_time::{Duration, Instant};

use super::run::{Asked, Ends};
use super::{Device, Held, Worker};
use crate::Blocks;
use crate::gate::Gate;

/// How often a load's progress is told at most.
const PROGRESS: Duration = Duration::from_millis(100);
/// How many nodes that stayed more exact are named at most.
const KEPT_NAMES: usize = 16;

impl Worker {
    /// Does what a frame of the host asks for.
    pub(super) fn serve(self: &Rc<Self>, frame: Frame) {
        let Frame { id, message, tensors } = frame;
        match message {
            Message::Load { program, api, name } => self.start_load(program, api, name, &tensors),
            Message::Unload { program, api } => {
                self.programs.borrow_mut().remove(&(program, api));
            }
            Message::Run { program, api, attempt, states } => {
                self.start_run(Asked { request: id, program, api, attempt, states }, tensors);
            }
            Message::MakeStates { states, api, lease_ms, specs } => self.make_states(states, api, lease_ms, &specs),
            Message::FreeStates { states } => self.sets.free(states),
            Message::Tune { api, budget_ms, at_load, known } => self.tune(api, budget_ms, at_load, known),
            Message::Cancel { attempt } => {
                if let Some(pending) = self.requests.borrow_mut().get_mut(&id)
                    && pending.attempt == attempt
                {
                    pending.cancelled = true;
                }
            }
            // The session lets nothing else through.
            _ => {}
        }
    }

    fn start_load(self: &Rc<Self>, program: u64, api: ApiKind, name: String, tensors: &[Tensor]) {
        if let Some(Held::Ready(_, precision)) = self.programs.borrow().get(&(program, api)) {
            let lanes = self.devices.borrow().get(&api).map_or(1, |device| device.backend.lanes());
            let at_once = u16::try_from(lanes).unwrap_or(u16::MAX);
            let stats = LoadStats { precision: *precision, at_once, ..LoadStats::default() };
            self.deliver(&Message::Loaded { program, api, stats, kept: Vec::new() }.into());
            return;
        }
        let load = self.loads.get() + 1;
        self.loads.set(load);
        self.programs.borrow_mut().insert((program, api), Held::Loading(load));
        let bytes = tensors.first().map(|t| t.data().clone()).unwrap_or_default();
        let this = Rc::clone(self);
        self.env.spawn(Box::pin(async move {
            let outcome = this.load(program, api, &name, &bytes).await;
            // Another load of the program, an unload or a new session may have overtaken this one.
            let current = matches!(this.programs.borrow().get(&(program, api)), Some(Held::Loading(l)) if *l == load);
            if !current {
                return;
            }
            let answer = match outcome {
                Ok((loaded, stats)) => {
                    let Loaded { executable, report } = loaded;
                    this.programs.borrow_mut().insert((program, api), Held::Ready(executable, report.precision));
                    let kept = report.kept.into_iter().take(KEPT_NAMES).collect();
                    Message::Loaded { program, api, stats, kept }
                }
                Err((fault, reason)) => {
                    this.programs.borrow_mut().remove(&(program, api));
                    Message::LoadFailed { program, api, fault, reason }
                }
            };
            this.deliver(&answer.into());
        }));
    }

    async fn load(
        self: &Rc<Self>,
        number: u64,
        api: ApiKind,
        name: &str,
        bytes: &[u8],
    ) -> Result<(Loaded, LoadStats), (FaultKind, String)> {
        let start = Instant::now();
        let program = Program::decode(bytes, &ProgramLimits::default())
            .map_err(|e| (FaultKind::Unsupported, format!("{name}: {e}")))?;
        let (total, this, told) = (program.weight_bytes(), Rc::downgrade(self), Cell::new(start));
        let blocks = Blocks::new(Rc::clone(&self.env), move |done| {
            if let Some(this) = this.upgrade()
                && (done == total || told.get().elapsed() >= PROGRESS)
            {
                told.set(Instant::now());
                let message = Message::LoadProgress { program: number, api, done, total };
                this.env.send(Frame::from(message).encode());
            }
        });
        if self.devices.borrow().get(&api).is_none_or(|device| device.fresh.replace(false)) {
            // Nothing can be on a device that has loaded nothing, so everything is wanted, and comes while it opens.
            let all: Vec<_> = program.graph().weights().iter().flat_map(|w| &w.blocks).cloned().collect();
            blocks.expect(&all);
        }
        let backend = self.backend(api).await.map_err(|e| (fault(&e), format!("{name}: {e}")))?;
        let loaded = backend.load(&program, &blocks).await;
        self.tell_winners(api, &*backend);
        let loaded = loaded.map_err(|e| {
            self.check_device(api, &backend, &e);
            (fault(&e), format!("{name}: {e}"))
        })?;
        if !self.is_current(api, &backend) {
            return Err((FaultKind::Device, format!("{name}: the device was lost as it was loaded")));
        }
        let (counts, report) = (blocks.counts(), &loaded.report);
        let stats = LoadStats {
            total_us: micros(start.elapsed()),
            fetch_us: micros(counts.waited),
            compile_us: micros(report.compile),
            upload_us: micros(report.upload),
            fetched: counts.fetched,
            cached: counts.cached,
            weights: (report.memory.weights, report.memory.shared),
            scratch: report.memory.scratch,
            precision: report.precision,
            at_once: u16::try_from(backend.lanes()).unwrap_or(u16::MAX),
        };
        self.tune_later(number, api, program, (&*backend, &loaded.executable));
        Ok((loaded, stats))
    }

    /// The backend of an API, made now if this is its first use or its device was lost.
    pub(super) async fn backend(&self, api: ApiKind) -> Result<Rc<dyn Backend>, EngineError> {
        // Whoever comes while it is being opened waits for the same device.
        let _turn = self.opening.pass().await;
        if let Some(device) = self.devices.borrow().get(&api) {
            return Ok(Rc::clone(&device.backend));
        }
        let backend = self.env.backend(api).await?;
        // A processor computes one run at a time; other devices take the next one while the last is read back.
        let lanes = backend.lanes().max(1);
        let width = if api == ApiKind::Cpu { 1 } else { self.options.runs_in_flight * lanes };
        if let Some(tuning) = self.tunings.borrow().get(&api) {
            backend.tune(self.at_load(api, tuning));
        }
        let (gate, ends, fresh) = (Gate::new(width), Ends::new(lanes), Cell::new(true));
        let device = Device { backend: Rc::clone(&backend), gate, fresh, ends };
        self.devices.borrow_mut().insert(api, device);
        Ok(backend)
    }

    fn is_current(&self, api: ApiKind, backend: &Rc<dyn Backend>) -> bool {
        self.devices.borrow().get(&api).is_some_and(|device| Rc::ptr_eq(&device.backend, backend))
    }

    /// After a lost device everything on it is gone: forgets it and tells the host, once. The device that was opened in its
    /// place has nothing to do with what late runs on the lost one say.
    pub(super) fn check_device(&self, api: ApiKind, backend: &Rc<dyn Backend>, error: &EngineError) {
        let EngineError::DeviceLost { reason } = error else { return };
        if self.is_current(api, backend) {
            self.devices.borrow_mut().remove(&api);
            // Loads that go on end by themselves, and have to be answered.
            self.programs.borrow_mut().retain(|(_, a), held| *a != api || matches!(held, Held::Loading(_)));
            self.sets.lose(api, reason);
            self.deliver(&Message::DeviceLost { api, reason: reason.clone() }.into());
        }
    }
}

/// Whose fault an engine's error is.
pub(super) fn fault(error: &EngineError) -> FaultKind {
    match error {
        EngineError::Unsupported { .. } => FaultKind::Unsupported,
        EngineError::Weight { .. } => FaultKind::Content,
        EngineError::Input { .. } | EngineError::State { .. } => FaultKind::Input,
        EngineError::OutOfMemory { .. } => FaultKind::Memory,
        EngineError::DeviceLost { .. } | EngineError::Device { .. } => FaultKind::Device,
        _ => FaultKind::Worker,
    }
}

/// Whole microseconds, as the wire has them.
pub(super) fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
