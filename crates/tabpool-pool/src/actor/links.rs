//! Workers that have joined: their links, what they hold, what they say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tabpool_bridge::{LinkError, WorkerLink};
use tabpool_metrics::{
    Adapter, Connection, ConnectionEvent, DecisionKind, ModelLoad, Outcome, Timestamp, TuningKey, WorkerIdentity,
};
use tabpool_protocol::{ApiKind, Capabilities, FaultKind, Frame, Hello, LoadStats, Message, TunedClass, WorkerStatus};
use tabpool_scheduler::{Api, Event, Fault, Footprint, LoadRetry, ProgramId, RequestId, SlotId, WorkerId, WorkerKind};
use tabpool_tensor::Precision;

use super::Actor;
use super::decisions::About;
use crate::PoolEvent;
use crate::join::Issued;
use crate::target::{protocol_api, scheduler_api};
use crate::tuning;

/// Loads that failed for want of a block are tried again this often; a block that is corrupt stays so.
const CONTENT_TRIES: u32 = 2;
/// How many nodes that stayed more exact are told of, and how many characters of each name.
const KEPT_NAMES: usize = 16;
/// The most memory that browsers tell of, in MiB, whatever there is.
const MOST_TOLD_MIB: u32 = 8192;
const KEPT_NAME: usize = 200;

/// A worker that joins, as the bridge tells of it.
pub(super) struct Joining {
    pub(super) link: WorkerLink,
    pub(super) tag: Option<u64>,
    pub(super) ticket: Option<Arc<Issued>>,
    pub(super) session: String,
    pub(super) remote: String,
    pub(super) capabilities: Capabilities,
}

/// A worker that has joined.
pub(super) struct Worker {
    pub(super) link: WorkerLink,
    pub(super) slot: Option<SlotId>,
    pub(super) ticket: Option<Arc<Issued>>,
    pub(super) remote: String,
    pub(super) kind: WorkerKind,
    pub(super) session: String,
    pub(super) identity: Arc<WorkerIdentity>,
    pub(super) capabilities: Capabilities,
    pub(super) apis: Vec<ApiKind>,
    pub(super) start_up: Option<Duration>,
    /// APIs that its numbers were wrong with, and what was wrong.
    pub(super) distrusted: BTreeMap<Api, String>,
    pub(super) status: WorkerStatus,
    pub(super) detached: bool,
    /// Requests it was sent and has not answered, with the attempt.
    pub(super) in_flight: HashMap<RequestId, u32>,
    /// Requests it has answered.
    pub(super) answered: u64,
    /// It is to be replaced, and has been given its last request.
    pub(super) recycling: bool,
    pub(super) loading: BTreeSet<(ProgramId, Api)>,
    pub(super) loaded: BTreeSet<(ProgramId, Api)>,
    content_failures: HashMap<(ProgramId, Api), u32>,
    /// Who computed with which API, as every answer is recorded with it.
    identities: [OnceLock<Arc<WorkerIdentity>>; Api::ALL.len()],
}

impl Worker {
    /// Who is told to have computed with an API.
    pub(super) fn identity_for(&self, api: Api) -> Arc<WorkerIdentity> {
        let place = Api::ALL.iter().position(|known| *known == api).and_then(|at| self.identities.get(at));
        place.map_or_else(|| self.made_identity(api), |place| Arc::clone(place.get_or_init(|| self.made_identity(api))))
    }

    fn made_identity(&self, api: Api) -> Arc<WorkerIdentity> {
        let info = self.capabilities.working().find(|(a, _)| scheduler_api(*a) == api).map(|(_, info)| info);
        let adapter = info.map(|info| Adapter {
            vendor: info.vendor.clone(),
            architecture: info.architecture.clone(),
            description: if info.description.is_empty() { info.device.clone() } else { info.description.clone() },
        });
        Arc::new(WorkerIdentity { adapter: adapter.unwrap_or_default(), ..(*self.identity).clone() })
    }

    /// Whether it may be given the model in a folder. One that the pool has not started says by its ticket; where that is gone,
    /// nothing is known of it and it gets nothing.
    fn may_have(&self, root: &str) -> bool {
        self.slot.is_some() || self.ticket.as_ref().is_some_and(|ticket| ticket.admits(root))
    }

    /// Its device as tunings tell devices apart. A worker that came by itself only claims what it is: what it measured is
    /// kept apart from what the pool's own workers did.
    fn tuning_key(&self, api: ApiKind) -> TuningKey {
        let mut key = tuning::key(&self.identity_for(scheduler_api(api)), metrics_api(scheduler_api(api)));
        if self.slot.is_none() {
            key.browser.push_str(" (joined)");
        }
        key
    }
}

fn kind_of(browser: &str) -> WorkerKind {
    let known = WorkerKind::ALL.into_iter().find(|k| k.to_string() == browser);
    known.unwrap_or(WorkerKind::Remote)
}

impl Actor {
    pub(super) fn joined(&mut self, joining: Joining) {
        let Joining { link, tag, ticket, session, remote, capabilities } = joining;
        let id = WorkerId(link.id().0);
        let slot = tag.map(SlotId).filter(|slot| self.slots.contains_key(slot));
        // A page that was loaded anew joins in the place of the one before.
        let before = self.workers.iter().find(|(_, w)| slot.is_some() && w.slot == slot).map(|(id, _)| *id);
        if let Some(before) = before {
            self.close_link(before, "its page joined again");
            self.lost(tabpool_bridge::WorkerId(before.0), "its page joined again".to_owned());
        }
        let place = slot.and_then(|slot| self.slots.get(&slot));
        let kind = place.map_or_else(|| kind_of(&capabilities.browser), |slot| slot.spec.kind());
        let mut apis: Vec<ApiKind> = capabilities.working().map(|(api, _)| api).collect();
        if let Some(wanted) = place.and_then(|slot| slot.spec.apis.as_ref()) {
            apis = wanted.iter().copied().filter(|api| apis.contains(api)).collect();
        }
        let start_up = place.and_then(|slot| slot.started).map(|at| at.elapsed());
        let identity = Arc::new(WorkerIdentity {
            worker: id.0.to_string(),
            session: session.clone(),
            browser: kind.to_string(),
            browser_version: capabilities.version.clone(),
            os: capabilities.os.clone(),
            adapter: Adapter::default(),
        });
        let status = WorkerStatus { battery: capabilities.battery, ..WorkerStatus::default() };
        let worker = Worker {
            link,
            slot,
            ticket,
            remote,
            kind,
            session,
            identity,
            capabilities,
            apis: apis.clone(),
            start_up,
            status,
            distrusted: BTreeMap::new(),
            detached: false,
            in_flight: HashMap::new(),
            answered: 0,
            recycling: false,
            loading: BTreeSet::new(),
            loaded: BTreeSet::new(),
            content_failures: HashMap::new(),
            identities: Default::default(),
        };
        self.workers.insert(id, worker);
        self.worker_connection(id, ConnectionEvent::Joined, String::new());
        self.tell(PoolEvent::Joined { worker: tabpool_bridge::WorkerId(id.0), slot: slot.map(|s| s.0), kind });
        self.send_tunings(id, &apis);
        self.introduce(id);
    }

    /// The bytes that a worker may hold: what its slot says, or half of what it says it has. A browser rounds that down to a few
    /// steps; from the highest on nothing is known.
    pub(super) fn memory_limit(&self, id: WorkerId) -> Option<u64> {
        let worker = self.workers.get(&id)?;
        let said = worker.slot.and_then(|slot| self.slots.get(&slot)).and_then(|slot| slot.spec.memory);
        let told = worker.capabilities.memory_mib.filter(|mib| *mib < MOST_TOLD_MIB);
        said.or(told.map(|mib| u64::from(mib) * (1024 * 1024) / 2))
    }

    pub(super) fn setup_credits(&self) -> u16 {
        u16::try_from(self.setup.config.credits_per_worker).unwrap_or(u16::MAX)
    }

    /// A worker is back. What went into the link as it broke reached nobody, and neither side can know what that was: the worker's
    /// word of what it holds is compared with what is known of it here.
    pub(super) fn resumed(&mut self, worker: tabpool_bridge::WorkerId, hello: &Hello) {
        let id = WorkerId(worker.0);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.detached = false;
        let held: BTreeSet<_> = hello.loaded.iter().map(|(p, api)| (ProgramId(*p), scheduler_api(*api))).collect();
        let gone: Vec<_> = worker.loaded.difference(&held).copied().collect();
        worker.loaded.retain(|program| held.contains(program));
        let unwanted: Vec<_> =
            held.difference(&worker.loaded).filter(|p| !worker.loading.contains(p)).copied().collect();
        let missing: Vec<_> =
            worker.in_flight.iter().filter(|(r, _)| !hello.held.contains(&r.0)).map(|(r, a)| (*r, *a)).collect();
        let pending: Vec<_> = worker.loading.iter().copied().collect();
        self.worker_connection(id, ConnectionEvent::Resumed, String::new());
        self.states_resumed(id, &hello.states);
        for (program, api) in gone {
            self.handle(Event::Unloaded { worker: id, program, api });
        }
        for (program, api) in unwanted {
            self.send_unload(id, program, api);
        }
        for (request, attempt) in missing {
            self.failed(id, request, attempt, FaultKind::Worker, "lost while the link was cut".to_owned());
        }
        // A load that the worker has finished, or never heard of, is answered when it is asked for again.
        for (program, api) in pending {
            self.load(id, program, api);
        }
    }

    pub(super) fn detached(&mut self, worker: tabpool_bridge::WorkerId, reason: &str) {
        if let Some(worker) = self.workers.get_mut(&WorkerId(worker.0)) {
            tracing::info!(worker = %worker.link.id(), reason, "a link is cut");
            worker.detached = true;
        }
    }

    pub(super) fn lost(&mut self, worker: tabpool_bridge::WorkerId, reason: String) {
        let id = WorkerId(worker.0);
        if !self.workers.contains_key(&id) {
            return;
        }
        self.worker_connection(id, ConnectionEvent::Lost, reason.clone());
        let slot = self.workers.remove(&id).and_then(|gone| gone.slot);
        if let Some(slot) = slot.and_then(|slot| self.slots.get_mut(&slot)) {
            slot.last_reason.clone_from(&reason);
        }
        self.proofs.forget(id);
        self.states_lost(id);
        self.tell(PoolEvent::Lost { worker, reason: reason.clone() });
        self.handle(Event::Lost { worker: id, reason });
        if let Some(slot) = slot {
            self.forget_left(slot);
        }
    }

    pub(super) fn rejected(&mut self, remote: String, reason: String) {
        self.setup.recorder.record(Connection {
            at: Timestamp::now(),
            worker: Arc::default(),
            slot: None,
            profile: String::new(),
            event: ConnectionEvent::Rejected,
            reason: format!("{remote}: {reason}"),
            pid: None,
            start_up: None,
        });
        self.tell(PoolEvent::Rejected { remote, reason });
    }

    /// Closes a worker's link; the worker itself stays known until it is lost or stopped.
    pub(super) fn close_link(&mut self, worker: WorkerId, reason: &str) {
        if let Some(worker) = self.workers.get(&worker) {
            worker.link.close(reason);
        }
    }

    /// Ends a worker that the scheduler has given up, and what runs in its slot.
    pub(super) fn stop_worker(&mut self, id: WorkerId, reason: &str) {
        self.close_link(id, reason);
        let place = self.workers.get(&id).and_then(|worker| worker.slot);
        let left = place.and_then(|slot| self.slots.get(&slot)).and_then(|slot| slot.membership.leaving.clone());
        let reason = left.as_deref().unwrap_or(reason);
        self.worker_connection(id, ConnectionEvent::Closed, reason.to_owned());
        if self.workers.remove(&id).is_none() {
            return;
        }
        self.proofs.forget(id);
        self.states_lost(id);
        self.tell(PoolEvent::Lost { worker: tabpool_bridge::WorkerId(id.0), reason: reason.to_owned() });
        if let Some(slot) = place.and_then(|slot| self.slots.get_mut(&slot)) {
            reason.clone_into(&mut slot.last_reason);
            if let Some(ending) = slot.end() {
                slot.ending = Some(ending);
            }
        }
        if let Some(slot) = place {
            self.forget_left(slot);
        }
    }

    /// Orders a load. Where the link is cut the order is repeated when it resumes.
    pub(super) fn load(&mut self, id: WorkerId, program: ProgramId, api: Api) {
        let (Some(worker), Some(entry)) = (self.workers.get_mut(&id), self.programs.get(&program)) else { return };
        if !worker.may_have(&entry.identity.cid) {
            let (reason, retry) = ("the ticket it came with is for other models".to_owned(), LoadRetry::Never);
            self.follow_ups.push_back(Event::LoadFailed { worker: id, program, api, reason, retry });
            return;
        }
        worker.loading.insert((program, api));
        let message = Message::Load { program: program.0, api: protocol_api(api), name: entry.identity.name.clone() };
        let sent = worker.link.send(Frame { id: 0, message, tensors: vec![entry.encoded.clone()] });
        if sent == Err(LinkError::Full) {
            worker.loading.remove(&(program, api));
            let reason = LinkError::Full.to_string();
            self.follow_ups.push_back(Event::LoadFailed { worker: id, program, api, reason, retry: LoadRetry::Later });
            return;
        }
        let entry = Arc::clone(entry);
        self.prepare_proof(id, &entry, api);
    }

    /// Has a worker give a program up. Where its link is cut it hears of it when it is back, before anything else.
    pub(super) fn unload(&mut self, id: WorkerId, program: ProgramId, api: Api, bytes: u64, reason: String) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.loaded.remove(&(program, api));
        self.decided(DecisionKind::Unload, About::program(id, program, Some(api)), reason.clone());
        self.send_unload(id, program, api);
        if let Some(entry) = self.programs.get(&program) {
            let (worker, model, api) = (tabpool_bridge::WorkerId(id.0), entry.identity.name.clone(), protocol_api(api));
            self.tell(PoolEvent::Unloaded { worker, model, api, bytes, reason });
        }
    }

    fn send_unload(&self, id: WorkerId, program: ProgramId, api: Api) {
        let Some(worker) = self.workers.get(&id) else { return };
        let message = Message::Unload { program: program.0, api: protocol_api(api) };
        if worker.link.send(message.into()) == Err(LinkError::Full) {
            tracing::warn!(worker = %worker.link.id(), %program, "a worker was not told to unload: its link is full");
        }
    }

    pub(super) fn frame(&mut self, worker: tabpool_bridge::WorkerId, frame: Frame) {
        let id = WorkerId(worker.0);
        if !self.workers.contains_key(&id) {
            return;
        }
        let request = RequestId(frame.id);
        match frame.message {
            Message::Loaded { program, api, stats, kept } => {
                self.load_finished(id, ProgramId(program), api, &stats, kept);
            }
            Message::LoadFailed { program, api, fault, reason } => {
                self.load_failed(id, ProgramId(program), api, fault, reason);
            }
            Message::LoadProgress { program, api, done, total } => {
                if let Some(entry) = self.programs.get(&ProgramId(program)) {
                    self.tell(PoolEvent::Loading { worker, model: entry.identity.name.clone(), api, done, total });
                }
            }
            Message::Finished { attempt, stats } => self.finished(id, request, attempt, stats, frame.tensors),
            Message::Failed { attempt, fault, reason } => self.failed(id, request, attempt, fault, reason),
            Message::Status(status) => self.told_status(id, status),
            Message::Tuned { api, found } => self.tuned(id, api, found),
            Message::StatesMade { states, bytes, .. } => self.states_made(id, states, bytes),
            Message::StatesFailed { states, fault, reason, .. } => self.states_failed(id, states, fault, &reason),
            Message::StatesLost { states, reason, .. } => self.states_gone(id, states, &reason),
            Message::DeviceLost { api, reason } => {
                self.states_lost_with(id, api);
                self.device_lost(id, scheduler_api(api), &reason);
            }
            // The session lets no other frame of a worker through.
            _ => {}
        }
    }

    fn load_finished(&mut self, id: WorkerId, program: ProgramId, api: ApiKind, stats: &LoadStats, kept: Vec<String>) {
        let api_here = scheduler_api(api);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !worker.loading.remove(&(program, api_here)) {
            return;
        }
        worker.loaded.insert((program, api_here));
        worker.content_failures.remove(&(program, api_here));
        let took = Duration::from_micros(stats.total_us);
        self.record_load(id, program, api_here, stats, Outcome::Ok);
        self.counters(|c| c.loaded(took, stats.fetched.1, stats.cached.1));
        if let Some(entry) = self.programs.get(&program) {
            let (worker, model) = (tabpool_bridge::WorkerId(id.0), entry.identity.name.clone());
            // Workers are not trusted: what they say at length is cut.
            let kept: Vec<String> =
                kept.into_iter().take(KEPT_NAMES).map(|n| n.chars().take(KEPT_NAME).collect()).collect();
            if !kept.is_empty() {
                tracing::warn!(%worker, model, nodes = ?kept, "nodes stay more exact than permitted: their weights do not fit");
            }
            self.tell(PoolEvent::Loaded { worker, model, api, stats: *stats, kept });
        }
        self.handle(Event::LoadFinished {
            worker: id,
            program,
            api: api_here,
            took,
            at_once: u32::from(stats.at_once),
            footprint: Footprint { weights: stats.weights.0, scratch: stats.scratch },
        });
    }

    fn load_failed(&mut self, id: WorkerId, program: ProgramId, api: ApiKind, fault: FaultKind, reason: String) {
        let key = (program, scheduler_api(api));
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !worker.loading.remove(&key) {
            return;
        }
        let retry = match fault {
            FaultKind::Unsupported => LoadRetry::Never,
            FaultKind::Content => {
                let failures = worker.content_failures.entry(key).or_default();
                *failures += 1;
                if *failures >= CONTENT_TRIES { LoadRetry::Never } else { LoadRetry::Later }
            }
            _ => LoadRetry::Later,
        };
        let outcome = Outcome::Failed { code: format!("{fault:?}").to_lowercase(), message: reason.clone() };
        let permitted = self.programs.get(&program).map(|entry| entry.precision).unwrap_or_default();
        self.record_load(id, program, key.1, &LoadStats { precision: permitted, ..LoadStats::default() }, outcome);
        if let Some(entry) = self.programs.get(&program) {
            let (worker, model) = (tabpool_bridge::WorkerId(id.0), entry.identity.name.clone());
            self.tell(PoolEvent::LoadFailed { worker, model, api, reason: reason.clone() });
        }
        self.handle(Event::LoadFailed { worker: id, program, api: key.1, reason, retry });
    }

    fn device_lost(&mut self, id: WorkerId, api: Api, reason: &str) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        tracing::warn!(worker = %worker.link.id(), %api, reason, "a device was lost");
        let gone: Vec<_> = worker.loaded.iter().copied().filter(|(_, a)| *a == api).collect();
        worker.loaded.retain(|(_, a)| *a != api);
        for (program, api) in gone {
            self.handle(Event::Unloaded { worker: id, program, api });
        }
    }

    /// Tells a worker that has just joined how to tune, and what is known of its devices. A link that is full already is
    /// about to be lost; the worker then tunes by itself.
    fn send_tunings(&self, id: WorkerId, apis: &[ApiKind]) {
        let Some(worker) = self.workers.get(&id) else { return };
        for &api in apis {
            let known = self.setup.tunings.of(&worker.tuning_key(api));
            // Who starts anew wants to know; everybody else wants the first answer.
            let (budget_ms, at_load) = (self.setup.tuning.budget_ms(), self.setup.tuning.starts_anew());
            let message = Message::Tune { api, budget_ms, at_load, known };
            if let Err(e) = worker.link.send(message.into()) {
                tracing::warn!(worker = %worker.link.id(), error = %e, "could not send what is known of its kernels");
            }
        }
    }

    /// A worker found winners: they are kept for the next one with that device.
    fn tuned(&mut self, id: WorkerId, api: ApiKind, found: Vec<TunedClass>) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (key, identity) = (worker.tuning_key(api), worker.identity_for(scheduler_api(api)));
        let api_here = metrics_api(scheduler_api(api));
        let found: Vec<_> = found.into_iter().take(TunedClass::MOST).collect();
        let kept: Vec<_> = found.into_iter().filter(|one| self.setup.tunings.keep(&key, one.clone())).collect();
        let identity = Arc::new(WorkerIdentity { browser: key.browser, ..(*identity).clone() });
        for one in &kept {
            self.setup.recorder.record(tuning::event(Arc::clone(&identity), api_here, one.clone()));
        }
        self.tell(PoolEvent::Tuned { worker: tabpool_bridge::WorkerId(id.0), api, found: kept });
    }

    fn record_load(&self, id: WorkerId, program: ProgramId, api: Api, stats: &LoadStats, outcome: Outcome) {
        let (Some(worker), Some(entry)) = (self.workers.get(&id), self.programs.get(&program)) else { return };
        let us = Duration::from_micros;
        self.setup.recorder.record(ModelLoad {
            at: Timestamp::now(),
            model: Arc::clone(&entry.identity),
            worker: worker.identity_for(api),
            api: metrics_api(api),
            precision: metrics_precision(stats.precision),
            bytes_fetched: stats.fetched.1,
            bytes_cached: stats.cached.1,
            blocks_fetched: stats.fetched.0,
            blocks_cached: stats.cached.0,
            fetch: us(stats.fetch_us),
            compile: us(stats.compile_us),
            upload: us(stats.upload_us),
            total: us(stats.total_us),
            outcome,
        });
    }

    /// Records a step in the life of a worker's connection.
    fn worker_connection(&self, id: WorkerId, event: ConnectionEvent, reason: String) {
        let Some(worker) = self.workers.get(&id) else { return };
        let start_up = (event == ConnectionEvent::Joined).then_some(worker.start_up).flatten();
        match worker.slot {
            Some(slot) => self.connection(slot, event, reason, start_up),
            None => self.setup.recorder.record(Connection {
                at: Timestamp::now(),
                worker: Arc::clone(&worker.identity),
                slot: None,
                profile: String::new(),
                event,
                reason,
                pid: None,
                start_up,
            }),
        }
    }
}

pub(super) fn metrics_api(api: Api) -> tabpool_metrics::Api {
    match api {
        Api::WebGpu => tabpool_metrics::Api::WebGpu,
        Api::WebNn => tabpool_metrics::Api::WebNn,
        Api::Cpu => tabpool_metrics::Api::Cpu,
    }
}

pub(crate) fn metrics_precision(precision: Precision) -> tabpool_metrics::Precision {
    match precision {
        Precision::F16 => tabpool_metrics::Precision::F16,
        Precision::Int8 => tabpool_metrics::Precision::Int8,
        _ => tabpool_metrics::Precision::F32,
    }
}

/// Whose fault the scheduler takes a failure for.
pub(super) fn fault_of(fault: FaultKind) -> Fault {
    match fault {
        FaultKind::Input => Fault::Input,
        FaultKind::Device => Fault::Device,
        _ => Fault::Worker,
    }
}
