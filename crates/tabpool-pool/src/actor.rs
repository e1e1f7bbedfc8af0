//! The actor: the one task that owns the scheduler, the workers, the slots and the requests.
//!
//! Whatever happens, a command, an event of the bridge, a browser's end, the clock, becomes an event of the scheduler;
//! whatever the scheduler orders is carried out here, at once and without waiting: what takes time runs in a task that
//! sends a command back.

mod decisions;
mod links;
mod proofs;
mod requests;
mod sampling;
mod scaling;
mod slots;
mod states;
mod status;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tabpool_bridge::{Bridge, BridgeEvent, Events};
use tabpool_content::BlockStore;
use tabpool_metrics::{Recorder, Timestamp};
use tabpool_scheduler::{Action, Config, Event, ProgramId, RequestId, Scheduler, SlotId, StopTarget};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::history::History;
use crate::join::Tickets;
use crate::launch::{BrowserPlan, Running};
use crate::metrics::Counters;
use crate::model::ProgramEntry;
use crate::preferences::Preferences;
use crate::referee::{Referee, Verdict};
use crate::session::SessionId;
use crate::tuning::Tunings;
use crate::{PoolError, PoolEvent, Profile, TuningPolicy, WorkerSpec, WorkerView};
pub(crate) use links::metrics_precision;
use links::{Joining, Worker};
pub use proofs::Checking;
use proofs::Proofs;
use requests::Request;
pub(crate) use requests::{Job, RawAnswer};
use scaling::Scaling;
pub(crate) use scaling::{GroupPlan, HeldBack, Recycle};
use slots::Slot;
use states::Sessions;

/// What the actor is asked, or told by its own tasks.
pub(crate) enum Command {
    Submit(Box<Job>),
    Cancel(RequestId),
    EndSession(SessionId),
    /// A launch has come to something, good or bad.
    Launched {
        slot: SlotId,
        start: u32,
        outcome: Result<Running, String>,
    },
    /// What ran in a slot has ended by itself.
    Exited {
        slot: SlotId,
        start: u32,
        reason: String,
    },
    /// A sample of memory, measured outside.
    Memory {
        host: u64,
        browsers: u64,
    },
    /// An answer was checked.
    Judged {
        number: u64,
        verdict: Verdict,
    },
    /// Guests may come, and will compute this.
    Expect(Arc<ProgramEntry>),
    Close(oneshot::Sender<()>),
}

/// A slot to keep filled.
pub(crate) struct SlotPlan {
    pub(crate) spec: WorkerSpec,
    pub(crate) browser: Option<BrowserPlan>,
}

/// What an actor is made of.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) slots: Vec<SlotPlan>,
    pub(crate) groups: Vec<GroupPlan>,
    /// Bytes of host and browsers above which no group grows.
    pub(crate) ceiling: Option<u64>,
    /// Workers at most.
    pub(crate) most_workers: usize,
    pub(crate) held_back: HeldBack,
    pub(crate) bridge: Bridge,
    pub(crate) url: String,
    pub(crate) store: Arc<dyn BlockStore>,
    pub(crate) recorder: Recorder,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: broadcast::Sender<PoolEvent>,
    pub(crate) views: watch::Sender<Vec<WorkerView>>,
    pub(crate) counters: Arc<Mutex<Counters>>,
    pub(crate) sample_every: Duration,
    pub(crate) tuning: TuningPolicy,
    pub(crate) tunings: Tunings,
    pub(crate) history: History,
    pub(crate) preferences: Preferences,
    pub(crate) checking: Checking,
    pub(crate) referee: Option<Referee>,
    pub(crate) tickets: Arc<Tickets>,
}

/// How long tabs whose profile is kept have to write what they keep, when the pool closes.
const LEAVING: Duration = Duration::from_secs(5);

pub(crate) struct Actor {
    scheduler: Scheduler,
    epoch: Instant,
    setup: Setup,
    slots: HashMap<SlotId, Slot>,
    workers: HashMap<tabpool_scheduler::WorkerId, Worker>,
    programs: HashMap<ProgramId, Arc<ProgramEntry>>,
    requests: HashMap<RequestId, Request>,
    sessions: Sessions,
    scaling: Scaling,
    proofs: Proofs,
    /// Events that carrying out an action brought about, handled next.
    follow_ups: VecDeque<Event>,
    memory: (u64, u64),
    failed_total: u64,
}

impl Actor {
    pub(crate) fn new(mut setup: Setup) -> Result<Self, PoolError> {
        let scheduler = Scheduler::new(setup.config.clone(), Timestamp::now().as_micros().unsigned_abs())
            .map_err(|e| PoolError::NoWorker(e.to_string()))?;
        let plans = std::mem::take(&mut setup.slots);
        let next_slot = plans.len() as u64 + 1;
        let slots = plans.into_iter().zip(1..).map(|(plan, id)| (SlotId(id), Slot::new(plan))).collect();
        let groups = std::mem::take(&mut setup.groups);
        let scaling = Scaling::new(groups, setup.ceiling, setup.most_workers, next_slot);
        Ok(Self {
            scheduler,
            epoch: Instant::now(),
            setup,
            slots,
            workers: HashMap::new(),
            programs: HashMap::new(),
            requests: HashMap::new(),
            sessions: Sessions::default(),
            scaling,
            proofs: Proofs::default(),
            follow_ups: VecDeque::new(),
            memory: (0, 0),
            failed_total: 0,
        })
    }

    /// Runs until the pool closes, or every handle to it is gone.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Command>, mut events: Events) {
        let mut ids: Vec<_> = self.slots.iter().map(|(id, slot)| (*id, slot.spec.kind())).collect();
        ids.sort_unstable();
        for (slot, kind) in ids {
            self.handle(Event::SlotAdded { slot, kind });
        }
        self.publish();
        let mut samples = tokio::time::interval(self.setup.sample_every);
        samples.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut scalings = tokio::time::interval(scaling::EVERY);
        scalings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wakeup = self.scheduler.next_wakeup().map(|at| tokio::time::Instant::from_std(self.epoch + at));
            let sleep = async {
                match wakeup {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Close(done)) => {
                        self.close(&mut events).await;
                        // Whoever asked may have stopped waiting.
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.command(command),
                    None => return,
                },
                event = events.recv() => match event {
                    Some(event) => self.bridge_event(event),
                    None => return,
                },
                () = sleep => self.handle(Event::Tick),
                _ = samples.tick() => self.sample(),
                _ = scalings.tick(), if !self.scaling.is_idle() => self.scale(),
            }
            self.publish();
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Submit(job) => self.submit(*job),
            Command::Cancel(request) => self.handle(Event::Cancel { request }),
            Command::EndSession(session) => self.end_session(session),
            Command::Launched { slot, start, outcome } => self.launched(slot, start, outcome),
            Command::Exited { slot, start, reason } => self.exited(slot, start, &reason),
            Command::Memory { host, browsers } => self.memory = (host, browsers),
            Command::Judged { number, verdict } => self.judged(number, verdict),
            Command::Expect(program) => self.expect_proofs(&program),
            // Taken by the loop.
            Command::Close(_) => {}
        }
    }

    fn bridge_event(&mut self, event: BridgeEvent) {
        match event {
            BridgeEvent::Joined { link, token, tag, session, hello, remote } => {
                let ticket = self.setup.tickets.of(token);
                self.joined(Joining { link, tag, ticket, session, remote, capabilities: hello.capabilities });
            }
            BridgeEvent::Resumed { worker, hello } => self.resumed(worker, &hello),
            BridgeEvent::Frame { worker, frame } => self.frame(worker, frame),
            BridgeEvent::Detached { worker, reason } => self.detached(worker, &reason),
            BridgeEvent::Lost { worker, reason } => self.lost(worker, reason),
            BridgeEvent::Refused { remote, reason } => self.rejected(remote, reason),
            _ => {}
        }
    }

    /// Gives the scheduler an event and carries out what it orders, and what comes of that.
    fn handle(&mut self, event: Event) {
        self.follow_ups.push_back(event);
        let mut actions = Vec::new();
        while let Some(event) = self.follow_ups.pop_front() {
            self.scheduler.handle(self.epoch.elapsed(), event, &mut actions);
            for action in actions.drain(..) {
                self.carry_out(action);
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Launch { slot, .. } => self.launch(slot),
            Action::Stop { target: StopTarget::Worker(worker), reason } => self.stop_worker(worker, &reason),
            Action::Stop { target: StopTarget::Slot(slot), reason } => self.stop_slot(slot, &reason),
            Action::Load { worker, program, api, why } => {
                self.load_decided(worker, program, api, why);
                self.load(worker, program, api);
            }
            Action::Unload { worker, program, api, bytes, reason } => self.unload(worker, program, api, bytes, reason),
            Action::Dispatch { worker, request, attempt, program, api, .. } => {
                self.dispatch(worker, request, attempt, program, api);
            }
            Action::CancelOn { worker, request, attempt } => self.cancel_on(worker, request, attempt),
            Action::Reply { request, outcome } => self.reply(request, outcome),
            Action::SetAside { slot, reason, .. } => self.set_aside(slot, reason),
            Action::Record(record) => self.record(record),
        }
    }

    /// Tells those who watch. Where nobody does, nothing is lost.
    fn tell(&self, event: PoolEvent) {
        let _ = self.setup.events.send(event);
    }

    fn counters(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.setup.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Answers what waits, closes links, ends what was started.
    async fn close(&mut self, events: &mut Events) {
        for (_, request) in self.requests.drain() {
            let _ = request.reply.send(Err(PoolError::Closed));
        }
        let workers: Vec<_> = self.workers.keys().copied().collect();
        for worker in workers {
            self.close_link(worker, "the pool closes");
        }
        // A tab whose profile is kept writes down what it has fetched before it hangs up; only then its browser may end.
        let keeps = |worker: &&Worker| {
            let slot = worker.slot.and_then(|slot| self.slots.get(&slot));
            !worker.detached && slot.is_some_and(|slot| slot.spec.profile == Profile::Kept)
        };
        let mut writing: HashSet<_> = self.workers.values().filter(keeps).map(|worker| worker.link.id()).collect();
        let all_left = async {
            while !writing.is_empty() {
                match events.recv().await {
                    Some(BridgeEvent::Lost { worker, .. }) => drop(writing.remove(&worker)),
                    Some(_) => {}
                    None => return,
                }
            }
        };
        if tokio::time::timeout(LEAVING, all_left).await.is_err() {
            tracing::warn!("not every worker left in time");
        }
        let mut endings: Vec<_> = self.slots.values_mut().filter_map(Slot::end).collect();
        endings.extend(self.slots.values_mut().filter_map(|slot| slot.ending.take()));
        endings.extend(self.scaling.endings());
        for ending in endings {
            let _ = ending.await;
        }
    }
}
