//! A made-up pool: callers that submit and change their minds, browsers that start or do not, workers that compute,
//! dawdle, hang, crash, repeat themselves and speak when they should be dead.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use tabpool_scheduler::{
    Action, Api, ClientId, Config, Event, Fault, Footprint, LoadRetry, ModelId, Needs, Placement, ProgramId, RequestId,
    Scheduler, SlotId, Stats, StopTarget, Submit, WeightId, WorkerId, WorkerKind,
};

use crate::chance::Chance;
use crate::rules::Rules;

const SLOTS: u64 = 5;
const PROGRAMS: u64 = 6;
const CLIENTS: u64 = 3;
/// What a worker's memory may be limited to. The smallest holds one program at a time, and not the largest.
const MEMORY: [Option<u64>; 6] = [None, None, Some(700), Some(400), Some(260), Some(150)];
/// Nothing going on while requests wait must end within this: the longest cool-down, and time aside for slots.
const STALL_LIMIT: Duration = Duration::from_secs(25);

/// How bad things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Nothing goes wrong.
    Calm,
    /// Everything goes wrong now and then; the pool keeps up.
    Rough,
    /// Everything goes wrong often, and there is far too much to do.
    Storm,
}

impl Scenario {
    pub(crate) fn of_seed(seed: u64) -> Self {
        if seed.is_multiple_of(2) { Self::Storm } else { Self::Rough }
    }

    /// Microseconds between arrivals, on average.
    fn arrival_gap(self) -> u64 {
        match self {
            Self::Calm => 12_000,
            Self::Rough => 7_000,
            Self::Storm => 2_500,
        }
    }

    fn chaos_gap(self) -> u64 {
        match self {
            Self::Calm => 0,
            Self::Rough => 400_000,
            Self::Storm => 120_000,
        }
    }

    /// Scales a share of faults in a thousand.
    fn permille(self, rough: u64) -> u64 {
        match self {
            Self::Calm => 0,
            Self::Rough => rough,
            Self::Storm => rough * 2,
        }
    }
}

#[derive(Debug)]
enum Happening {
    Deliver(Box<Event>),
    Arrival,
    Chaos,
}

/// A worker as it really is.
#[derive(Debug)]
struct Body {
    slowness: u64,
    hung: bool,
    /// Until when each of the runs that it computes at once goes on.
    busy_until: Vec<Duration>,
}

pub(crate) struct World {
    scenario: Scenario,
    chance: Chance,
    now: Duration,
    scheduler: Scheduler,
    rules: Rules,
    bodies: BTreeMap<WorkerId, Body>,
    kinds: BTreeMap<SlotId, WorkerKind>,
    agenda: BinaryHeap<Reverse<(Duration, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next_happening: u64,
    next_worker: u64,
    next_request: u64,
    next_slot: u64,
    handled: u64,
    settling: bool,
    stalled_since: Option<Duration>,
    actions: Vec<Action>,
}

fn config(scenario: Scenario) -> Config {
    let mut config = Config::default();
    if scenario == Scenario::Calm {
        config.max_queued = 100_000;
        return config;
    }
    config.max_queued = 150;
    config.request_timeout = Duration::from_secs(20);
    config.attempt_timeout = Duration::from_secs(1);
    config.load_timeout = Duration::from_secs(3);
    config.circuit.cool_down = Duration::from_secs(2);
    config.restart.launch_timeout = Duration::from_secs(2);
    config.restart.set_aside = Duration::from_secs(15);
    config.restart.max = Duration::from_secs(4);
    config.max_estimates = 40;
    config.hedging.at_least = Duration::from_millis(50);
    config.hedging.share = 0.2;
    config.exploring.share = 0.3;
    config
}

/// Two programs of a model share most of their weights.
fn needs(program: u64) -> Needs {
    let model = program / 2;
    Needs { weights: vec![(WeightId(model), 60 + 30 * model), (WeightId(100 + program), 20)], scratch: 5 * program }
}

/// What a program takes is what was said of it: the observer knows nothing else.
fn footprint(program: ProgramId) -> Footprint {
    let needs = needs(program.0);
    Footprint { weights: needs.weight_bytes(), scratch: needs.scratch }
}

impl World {
    pub(crate) fn new(seed: u64, scenario: Scenario) -> Self {
        let config = config(scenario);
        let scheduler = Scheduler::new(config.clone(), seed).expect("the simulation's configuration is valid");
        let mut world = Self {
            scenario,
            chance: Chance::new(seed),
            now: Duration::ZERO,
            scheduler,
            rules: Rules::new(config),
            bodies: BTreeMap::new(),
            kinds: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_happening: 0,
            next_worker: 0,
            next_request: 0,
            next_slot: 0,
            handled: 0,
            settling: false,
            stalled_since: None,
            actions: Vec::new(),
        };
        for program in 0..PROGRAMS {
            let event = Event::Program { program: ProgramId(program), needs: needs(program) };
            world.at(Duration::ZERO, Happening::Deliver(Box::new(event)));
        }
        let (program, by) = (ProgramId(0), ProgramId(1));
        let followed = Event::Followed { program, by, times: 8.0 };
        world.at(Duration::ZERO, Happening::Deliver(Box::new(followed)));
        for _ in 0..SLOTS {
            world.add_slot();
        }
        world.at(Duration::from_millis(1), Happening::Arrival);
        if scenario != Scenario::Calm {
            world.at(Duration::from_secs(2), Happening::Chaos);
        }
        world
    }

    pub(crate) fn stats(&self) -> Stats {
        *self.scheduler.stats()
    }

    /// Where a run has got to.
    pub(crate) fn moment(&self) -> String {
        format!("event {} at {:?}", self.handled, self.now)
    }

    /// Runs until so many events were handled.
    pub(crate) fn run(&mut self, events: u64) -> Result<(), String> {
        while self.handled < events {
            self.step()?;
        }
        Ok(())
    }

    /// Lets everything end that was begun, and sees that nothing is left.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.settling = true;
        let limit = self.now + Duration::from_secs(300);
        while !self.rules.open.is_empty() {
            if self.now > limit {
                return Err(format!("{} requests are never answered: {:?}", self.rules.open.len(), self.rules.open));
            }
            self.step()?;
        }
        self.scheduler.audit()?;
        let stats = self.scheduler.stats();
        if stats.submitted != stats.replies() {
            return Err(format!("{} submitted, {} answered", stats.submitted, stats.replies()));
        }
        Ok(())
    }

    /// One event: the next on the agenda, or a tick if one is due before it.
    fn step(&mut self) -> Result<(), String> {
        let next = self.agenda.peek().map(|Reverse((at, _))| *at);
        let wakeup = self.scheduler.next_wakeup();
        if let Some(due) = wakeup
            && next.is_none_or(|next| due < next)
        {
            // An actor's timers are late by a little, and now and then by much.
            let late = if self.chance.permille(20) { self.chance.micros(0, 50_000) } else { Duration::ZERO };
            self.now = next.map_or(due + late, |next| next.min(due + late));
            return self.handle(Event::Tick);
        }
        let Some(Reverse((at, number))) = self.agenda.pop() else {
            return Err("nothing will ever happen again".to_owned());
        };
        self.now = self.now.max(at);
        match self.happenings.remove(&number) {
            Some(Happening::Deliver(event)) => self.handle(*event),
            Some(Happening::Arrival) if !self.settling => self.arrive(),
            Some(Happening::Chaos) if !self.settling => self.go_wrong(),
            _ => Ok(()),
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        if let Event::Joined { worker, .. } = &event {
            let slowness = if self.scenario == Scenario::Calm { 1 } else { self.chance.pick(&[1, 1, 1, 2, 6]) };
            let at_once = self.chance.pick(&[1, 1, 2, 4]);
            self.bodies.insert(*worker, Body { slowness, hung: false, busy_until: vec![self.now; at_once] });
        }
        if let Event::Lost { worker, .. } = &event {
            self.bodies.remove(worker);
        }
        let described = format!("{event:?}");
        self.rules.before(self.now, &event);
        let mut actions = std::mem::take(&mut self.actions);
        self.scheduler.handle(self.now, event, &mut actions);
        self.handled += 1;
        for action in actions.drain(..) {
            self.rules.judge(&action).map_err(|broken| format!("after {described}: {broken}"))?;
            self.react(&action);
        }
        self.actions = actions;
        self.check().map_err(|broken| format!("after {described}: {broken}"))
    }

    fn check(&mut self) -> Result<(), String> {
        if let Some(due) = self.scheduler.next_wakeup()
            && due <= self.now
        {
            return Err(format!("a tick is due at {due:?}, which is past"));
        }
        let counted = self.scheduler.queued() + self.scheduler.in_flight();
        if counted != self.rules.open.len() {
            return Err(format!("{counted} requests are kept, {} are open", self.rules.open.len()));
        }
        if let Some((id, open)) = self.rules.open.first_key_value()
            && open.deadline < self.now
        {
            return Err(format!("{id} outlived its deadline {:?}", open.deadline));
        }
        for view in self.scheduler.workers() {
            if view.in_flight as usize != self.rules.held(view.worker) {
                let held = self.rules.held(view.worker);
                return Err(format!("{} holds {held}, counted as {}", view.worker, view.in_flight));
            }
        }
        if self.scheduler.queued() == 0 || self.rules.is_anything_going_on() {
            self.stalled_since = None;
        } else if *self.stalled_since.get_or_insert(self.now) + STALL_LIMIT < self.now {
            return Err(format!("{} requests wait and nothing goes on", self.scheduler.queued()));
        }
        if self.handled.is_multiple_of(16) { self.scheduler.audit() } else { Ok(()) }
    }

    fn at(&mut self, at: Duration, happening: Happening) {
        self.next_happening += 1;
        self.agenda.push(Reverse((at, self.next_happening)));
        self.happenings.insert(self.next_happening, happening);
    }

    /// Something a worker or browser says after `delay`, perhaps twice.
    fn say(&mut self, delay: Duration, event: Event) {
        if self.chance.permille(self.scenario.permille(20)) {
            let again = delay + self.chance.micros(0, 3_000_000);
            self.at(self.now + again, Happening::Deliver(Box::new(event.clone())));
        }
        self.at(self.now + delay, Happening::Deliver(Box::new(event)));
    }

    fn react(&mut self, action: &Action) {
        match action {
            Action::Launch { slot, .. } => self.launch(*slot),
            Action::Stop { target: StopTarget::Worker(worker), .. } => {
                self.bodies.remove(worker);
                if self.chance.permille(500) {
                    let delay = self.chance.micros(0, 100_000);
                    self.say(delay, Event::Lost { worker: *worker, reason: "stopped".to_owned() });
                }
            }
            Action::Load { worker, program, api, .. } => self.load(*worker, *program, *api),
            Action::Dispatch { worker, request, attempt, program, api, .. } => {
                self.compute(*worker, *request, *attempt, (*program, *api));
            }
            Action::CancelOn { worker, request, attempt } => {
                let answers = self.bodies.get(worker).is_some_and(|body| !body.hung);
                if answers && self.chance.permille(500) {
                    let delay = self.chance.micros(100, 5_000);
                    let (worker, request, attempt) = (*worker, *request, *attempt);
                    let (fault, reason) = (Fault::Worker, "cancelled".to_owned());
                    self.say(delay, Event::Failed { worker, request, attempt, fault, reason });
                }
            }
            Action::Stop { .. }
            | Action::Unload { .. }
            | Action::Reply { .. }
            | Action::SetAside { .. }
            | Action::Record(_) => {}
        }
    }

    fn launch(&mut self, slot: SlotId) {
        let Some(kind) = self.kinds.get(&slot).copied() else { return };
        let delay = self.chance.micros(30_000, 400_000);
        if self.chance.permille(self.scenario.permille(150)) {
            self.say(delay, Event::LaunchFailed { slot, reason: "no such file".to_owned() });
        } else if !self.chance.permille(self.scenario.permille(50)) {
            let joined = self.joined(Some(slot), kind);
            self.at(self.now + delay, Happening::Deliver(Box::new(joined)));
        }
    }

    fn joined(&mut self, slot: Option<SlotId>, kind: WorkerKind) -> Event {
        self.next_worker += 1;
        let apis = match kind {
            WorkerKind::Native => vec![Api::Cpu],
            WorkerKind::Firefox => vec![Api::WebGpu, Api::Cpu],
            _ => vec![Api::WebNn, Api::WebGpu, Api::Cpu],
        };
        let credits = self.chance.below(6) as u32;
        let credits = if self.scenario == Scenario::Calm { credits.max(1) } else { credits };
        let memory = if self.scenario == Scenario::Calm { None } else { self.chance.pick(&MEMORY) };
        Event::Joined { worker: WorkerId(self.next_worker), slot, kind, apis, credits, memory }
    }

    fn load(&mut self, worker: WorkerId, program: ProgramId, api: Api) {
        let Some(body) = self.bodies.get(&worker).filter(|body| !body.hung) else { return };
        let at_once = body.busy_until.len() as u32;
        let took = self.chance.micros(5_000, 400_000);
        if self.chance.permille(self.scenario.permille(40)) {
            let retry = if self.chance.permille(300) { LoadRetry::Never } else { LoadRetry::Later };
            self.say(took, Event::LoadFailed { worker, program, api, reason: "no block".to_owned(), retry });
        } else if !self.chance.permille(self.scenario.permille(10)) {
            let footprint = footprint(program);
            self.say(took, Event::LoadFinished { worker, program, api, took, at_once, footprint });
        }
    }

    fn compute(&mut self, worker: WorkerId, request: RequestId, attempt: u32, (program, api): (ProgramId, Api)) {
        let compute = self.chance.micros(2_000, 6_000) * (1 << program.0) as u32;
        // The order in which workers have their APIs is wrong for a third of the models.
        let compute = compute * if (program.0 / 2 + api as u64).is_multiple_of(3) { 1 } else { 2 };
        let Some(body) = self.bodies.get_mut(&worker) else { return };
        let compute = compute * body.slowness as u32;
        let Some(free) = body.busy_until.iter_mut().min() else { return };
        let done = (*free).max(self.now) + compute;
        *free = done;
        if body.hung || self.chance.permille(self.scenario.permille(3)) {
            return;
        }
        let delay = done - self.now + self.chance.micros(100, 2_000);
        if self.chance.permille(self.scenario.permille(20)) {
            let fault = self.chance.pick(&[Fault::Input, Fault::Worker, Fault::Device, Fault::Worker]);
            let reason = "out of memory".to_owned();
            self.say(delay, Event::Failed { worker, request, attempt, fault, reason });
        } else {
            self.say(delay, Event::Finished { worker, request, attempt, compute });
        }
    }

    fn add_slot(&mut self) {
        self.next_slot += 1;
        let slot = SlotId(self.next_slot);
        let kind = self.chance.pick(&[WorkerKind::Chromium, WorkerKind::Firefox, WorkerKind::Native]);
        self.kinds.insert(slot, kind);
        self.at(self.now, Happening::Deliver(Box::new(Event::SlotAdded { slot, kind })));
    }

    fn placement(&mut self) -> Placement {
        if self.scenario == Scenario::Calm {
            return Placement::ANY;
        }
        match self.chance.below(20) {
            0 => Placement::ANY.on(&[WorkerKind::Firefox]),
            1 => Placement::ANY.on(&[WorkerKind::Chromium, WorkerKind::Native]),
            2 => Placement::ANY.with(&[Api::WebGpu]),
            3 => Placement::ANY.with(&[Api::WebNn, Api::Cpu]),
            4 => Placement::ANY.on(&[WorkerKind::Firefox]).with(&[Api::WebNn]),
            5 => Placement::ANY.pinned(WorkerId(self.next_worker.saturating_sub(self.chance.below(6)))),
            _ => Placement::ANY,
        }
    }

    fn arrive(&mut self) -> Result<(), String> {
        let gap = self.scenario.arrival_gap();
        let burst = if self.chance.permille(10) { 1 + self.chance.below(60) } else { 1 };
        let pause = self.chance.micros(0, gap * 2) * burst as u32;
        self.at(self.now + pause, Happening::Arrival);
        for _ in 0..burst {
            self.submit()?;
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<(), String> {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let program = self.chance.below(PROGRAMS);
        let rough = self.scenario != Scenario::Calm;
        let hurried = rough && self.chance.permille(200);
        let deadline = hurried.then(|| self.now + self.chance.micros(1_000, 3_000_000));
        let submit = Submit {
            request,
            client: ClientId(self.chance.below(CLIENTS)),
            model: ModelId(program / 2),
            program: ProgramId(program),
            placement: self.placement(),
            priority: self.chance.below(7) as i8 - 3,
            deadline,
            cost: (1 << program) as f32,
            max_attempts: (rough && self.chance.permille(150)).then_some(1),
            repeatable: self.chance.permille(700),
        };
        if rough && self.chance.permille(40) {
            let when = self.now + self.chance.micros(0, 2_000_000);
            self.at(when, Happening::Deliver(Box::new(Event::Cancel { request })));
        }
        if rough && self.chance.permille(5) {
            self.handle(Event::Submit(submit))?;
            let open = self.rules.open.contains_key(&request);
            // A caller's mistake: while the first is open, the second must be dropped.
            return if open { self.handle(Event::Submit(submit)) } else { Ok(()) };
        }
        self.handle(Event::Submit(submit))
    }

    fn some_worker(&mut self) -> Option<WorkerId> {
        let ids: Vec<WorkerId> = self.bodies.keys().copied().collect();
        (!ids.is_empty()).then(|| self.chance.pick(&ids))
    }

    fn go_wrong(&mut self) -> Result<(), String> {
        let gap = self.scenario.chaos_gap();
        let pause = self.chance.micros(0, gap * 2);
        self.at(self.now + pause, Happening::Chaos);
        let worker = self.some_worker();
        match (self.chance.below(14), worker) {
            (13, Some(worker)) => {
                let factor = [1.0, 1.5, 10.0, f64::NAN][self.chance.below(4) as usize];
                self.handle(Event::Reluctant { worker, factor })
            }
            (12, Some(worker)) => {
                let (api, reason) = (self.chance.pick(&Api::ALL), "wrong numbers".to_owned());
                self.handle(Event::ApiSetAside { worker, api, reason })
            }
            (0 | 1, Some(worker)) => self.handle(Event::Lost { worker, reason: "crashed".to_owned() }),
            (2, Some(worker)) => {
                if let Some(body) = self.bodies.get_mut(&worker) {
                    body.hung = true;
                }
                Ok(())
            }
            (3, Some(worker)) => self.handle(Event::Drain { worker }),
            (4, Some(worker)) => self.join_anew(worker),
            (5, Some(worker)) => {
                let (program, api) = (ProgramId(self.chance.below(PROGRAMS)), self.chance.pick(&Api::ALL));
                self.handle(Event::Unloaded { worker, program, api })
            }
            (6, _) => {
                self.add_slot();
                let slot = SlotId(1 + self.chance.below(self.next_slot));
                self.kinds.remove(&slot);
                self.handle(Event::SlotRemoved { slot })
            }
            (7, _) if self.bodies.len() < 8 => {
                let joined = self.joined(None, WorkerKind::Remote);
                self.handle(joined)
            }
            (8, _) => self.reload_page(),
            _ => self.talk_nonsense(),
        }
    }

    /// A worker joins again under its own id before anybody has noticed that it was gone.
    fn join_anew(&mut self, worker: WorkerId) -> Result<(), String> {
        let Some(seen) = self.rules.workers.get(&worker) else { return Ok(()) };
        let (slot, kind, apis, memory) = (seen.slot, seen.kind, seen.apis.clone(), seen.memory);
        self.handle(Event::Joined { worker, slot, kind, apis, credits: 2, memory })
    }

    /// A page in a slot joins as a new worker while the old one is thought to be there.
    fn reload_page(&mut self) -> Result<(), String> {
        let slots: Vec<(SlotId, WorkerKind)> = self.kinds.iter().map(|(id, kind)| (*id, *kind)).collect();
        if slots.is_empty() {
            return Ok(());
        }
        let (slot, kind) = self.chance.pick(&slots);
        let joined = self.joined(Some(slot), kind);
        self.handle(joined)
    }

    /// Frames about anything, true by accident at most.
    fn talk_nonsense(&mut self) -> Result<(), String> {
        let worker = WorkerId(self.chance.below(self.next_worker + 3));
        let request = RequestId(self.next_request.saturating_sub(self.chance.below(40)));
        let attempt = self.chance.below(5) as u32;
        let (program, api) = (ProgramId(self.chance.below(PROGRAMS)), self.chance.pick(&Api::ALL));
        let reason = "nonsense".to_owned();
        let event = match self.chance.below(7) {
            0 => Event::Finished { worker, request, attempt, compute: Duration::MAX },
            1 => Event::Failed { worker, request, attempt, fault: Fault::Device, reason },
            2 => {
                let (took, at_once, footprint) = (Duration::MAX, u32::MAX, footprint(program));
                Event::LoadFinished { worker, program, api, took, at_once, footprint }
            }
            3 => Event::LoadFailed { worker, program, api, reason, retry: LoadRetry::Later },
            4 => Event::LaunchFailed { slot: SlotId(self.chance.below(self.next_slot + 2)), reason },
            5 => Event::Cancel { request: RequestId(self.next_request + 1000) },
            _ => Event::Lost { worker: WorkerId(self.next_worker + 1000), reason },
        };
        self.handle(event)
    }
}
