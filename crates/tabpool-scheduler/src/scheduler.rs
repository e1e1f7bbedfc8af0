//! The state machine: takes an event, changes its picture of the pool, and says what to do.
//!
//! `handle` is the only way in. It applies the event, then lets everything happen that is due by now, then places
//! what can be placed. The order matters: an answer that is seen at the moment of its deadline counts as an answer.
//! Placement is done last and once, whatever the event has set free.

mod answers;
mod audit;
mod explain;
mod hedging;
mod loads;
mod membership;
mod memory;
mod place;
mod requests;
mod routing;
mod starts;

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use crate::action::Action;
use crate::config::{Config, ConfigError};
use crate::event::Event;
use crate::id::{ClientId, ModelId, ProgramId, RequestId, SlotId, WorkerId, WorkerKind};
use crate::latency::Latency;
use crate::memory::Sizes;
use crate::placement::Placement;
use crate::queue::{Lane, LaneId, Queue, Rank};
use crate::routes::Routes;
use crate::slots::{Chance, Slot, SlotView};
use crate::stats::{Stats, Throughput};
use crate::timer::{Timer, Timers};
use crate::worker::{Worker, WorkerView};

/// The pool's decisions; see the crate's documentation.
#[derive(Debug)]
pub struct Scheduler {
    config: Config,
    /// The latest time that any event brought.
    now: Duration,
    workers: BTreeMap<WorkerId, Worker>,
    slots: BTreeMap<SlotId, Slot>,
    requests: BTreeMap<RequestId, Request>,
    queue: Queue,
    timers: Timers,
    latency: Latency,
    sizes: Sizes,
    routes: Routes,
    chance: Chance,
    throughput: Throughput,
    stats: Stats,
    /// Counts the changes to who may run what; lanes that have not seen the latest look again.
    epoch: u64,
    /// Counts placement passes.
    pass: u64,
    changed: Changed,
    recheck_at: Option<Duration>,
    /// Reused by placement, so that a pass does not allocate.
    seen: Vec<place::Seen>,
}

/// A request that is not answered yet.
#[derive(Debug)]
struct Request {
    client: ClientId,
    model: ModelId,
    program: ProgramId,
    placement: Placement,
    cost: f64,
    rank: Rank,
    submitted_at: Duration,
    deadline: Duration,
    /// Attempts dispatched.
    attempts: u32,
    max_attempts: u32,
    repeatable: bool,
    /// Why attempts failed, one each.
    reasons: Vec<String>,
    state: RequestState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    Queued { lane: LaneId },
    InFlight(hedging::Flights),
}

/// What placement has to look at again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Changed {
    #[default]
    Nothing,
    /// One lane has a new request.
    Lane(LaneId),
    /// One worker has a free credit.
    Worker(WorkerId),
    Anything,
}

impl Scheduler {
    /// A scheduler of an empty pool. The seed decides the jitter of restarts and nothing else.
    ///
    /// # Errors
    ///
    /// A configuration with a zero or a factor that would make the scheduler spin or stand still.
    pub fn new(config: Config, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            latency: Latency::new(config.priors.clone(), config.max_estimates),
            config,
            now: Duration::ZERO,
            workers: BTreeMap::new(),
            slots: BTreeMap::new(),
            requests: BTreeMap::new(),
            queue: Queue::default(),
            timers: Timers::default(),
            sizes: Sizes::default(),
            routes: Routes::default(),
            chance: Chance::new(seed),
            throughput: Throughput::default(),
            stats: Stats::default(),
            epoch: 1,
            pass: 0,
            changed: Changed::Nothing,
            recheck_at: None,
            seen: Vec::new(),
        })
    }

    /// Applies an event seen at `now` (since the scheduler's beginning) and appends what to do about it to `actions`.
    ///
    /// A `now` before that of an earlier event is taken for the latter's.
    pub fn handle(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.apply(event, actions);
        while let Some(timer) = self.timers.pop(self.now) {
            self.fire(timer, actions);
        }
        self.place(actions);
    }

    /// When the next [`Event::Tick`] is due, if no other event comes before. `None`: nothing is waited for.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Requests that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Requests that wait and may run on workers of a kind that are still to come.
    #[must_use]
    pub fn waiting_for(&self, kind: WorkerKind) -> usize {
        let serves = |lane: &Lane| lane.key.placement.worker.is_none() && lane.key.placement.kinds.contains(kind);
        self.queue.lanes().filter(|(_, lane)| serves(lane)).map(|(_, lane)| lane.len()).sum()
    }

    /// Requests that a worker is running, or has been given to run.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.requests.len() - self.queue.len()
    }

    /// The workers, by id.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.workers.iter().map(|(id, worker)| worker.view(*id))
    }

    /// The bytes that programs and states take on a worker, loads going on included, and the most they may.
    #[must_use]
    pub fn memory(&self, worker: WorkerId) -> Option<(u64, Option<u64>)> {
        self.workers.get(&worker).map(|known| (known.ledger.used(), known.memory))
    }

    /// The slots, by id.
    pub fn slots(&self) -> impl Iterator<Item = SlotView> {
        self.slots.iter().map(|(id, slot)| slot.view(*id))
    }

    fn apply(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::SlotAdded { slot, kind } => self.slot_added(slot, kind),
            Event::SlotRemoved { slot } => self.slot_removed(slot, actions),
            Event::LaunchFailed { slot, reason } => self.launch_failed(slot, reason, actions),
            Event::Joined { worker, slot, kind, apis, credits, memory } => {
                self.joined(worker, membership::Hello { slot, kind, apis, credits, memory }, actions);
            }
            Event::Lost { worker, reason } => self.lost(worker, reason, actions),
            Event::Program { program, needs } => self.sizes.say(program, needs),
            Event::Followed { program, by, times } => self.routes.follow(program, by, requests::sound_cost(times)),
            Event::ApiSetAside { worker, api, reason } => self.api_set_aside(worker, api, reason),
            Event::Reluctant { worker, factor } => self.reluctant(worker, factor),
            Event::Preferred { model, kinds } => self.latency.prefer(model, kinds),
            Event::Remembered { model, program, kind, api, cost, compute } => {
                let cost = requests::sound_cost(cost);
                self.latency.remember(
                    (model, program),
                    kind,
                    api,
                    compute.as_secs_f64() / program.map_or(cost, |_| 1.0),
                );
            }
            Event::States { worker, bytes } => self.states_changed(worker, bytes),
            Event::Submit(submit) => self.submit(&submit, actions),
            Event::Cancel { request } => self.cancel(request, actions),
            Event::LoadFinished { worker, program, api, took, at_once, footprint } => {
                let load = loads::Load { took, at_once, footprint };
                self.load_finished(worker, program, api, load, actions);
            }
            Event::LoadFailed { worker, program, api, reason, retry } => {
                self.load_failed(worker, program, api, loads::LoadFailure { reason, retry }, actions);
            }
            Event::Unloaded { worker, program, api } => self.unloaded(worker, program, api),
            Event::Finished { worker, request, attempt, compute } => {
                self.finished(worker, request, attempt, compute, actions);
            }
            Event::Failed { worker, request, attempt, fault, reason } => {
                self.failed(worker, request, attempt, answers::Failure { fault, reason }, actions);
            }
            Event::Drain { worker } => self.drain(worker, actions),
            Event::Tick => {}
        }
    }

    /// Lets happen what was due. The timer is out of the set already.
    fn fire(&mut self, timer: Timer, actions: &mut Vec<Action>) {
        match timer {
            Timer::Slot(slot) => self.slot_due(slot, actions),
            Timer::Load(worker, program, api) => self.load_overdue(worker, program, api, actions),
            Timer::Attempt(worker, request, attempt) => self.attempt_overdue(worker, request, attempt, actions),
            Timer::Hedge(worker, request, attempt) => self.hedge_due(worker, request, attempt, actions),
            Timer::Circuit(worker, program) => self.circuit_due(worker, program),
            Timer::Request(request) => self.deadline_passed(request, actions),
            Timer::Recheck => {
                self.recheck_at = None;
                self.changed(Changed::Anything);
            }
        }
    }

    /// Remembers what placement has to look at when the event is done.
    fn changed(&mut self, what: Changed) {
        self.changed = match (mem::take(&mut self.changed), what) {
            (Changed::Nothing, change) | (change, Changed::Nothing) => change,
            (one, other) if one == other => one,
            _ => Changed::Anything,
        };
    }

    /// Remembers that who may run what has changed.
    fn pool_changed(&mut self) {
        self.epoch += 1;
        self.changed(Changed::Anything);
    }
}
