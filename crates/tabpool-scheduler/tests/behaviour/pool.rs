//! A scheduler driven by hand, and shorthand for what the tests say often.

use std::time::Duration;

use tabpool_scheduler::{
    Action, Api, ClientId, Config, Event, Fault, Footprint, LoadReason, ModelId, Outcome, Placement, ProgramId,
    RequestId, Scheduler, SlotId, Submit, WorkerId, WorkerKind,
};

pub(crate) const PROGRAM: ProgramId = ProgramId(7);

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A scheduler with a clock in milliseconds, and shorthand for what the tests say often.
pub(crate) struct Pool {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Duration,
}

/// What was sent out: worker, request, attempt.
pub(crate) type Sent = (u64, u64, u32);

impl Pool {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.restart.jitter = 0.0;
        change(&mut config);
        let scheduler = Scheduler::new(config, 1).expect("the configuration is valid");
        Self { scheduler, now: Duration::ZERO }
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) -> Vec<Action> {
        self.now = ms(at);
        self.then(event)
    }

    pub(crate) fn then(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.scheduler.handle(self.now, event, &mut actions);
        self.scheduler.audit().expect("the books agree");
        actions
    }

    /// Ticks exactly when asked to, up to `until`.
    pub(crate) fn tick_until(&mut self, until: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(due) = self.scheduler.next_wakeup()
            && due <= ms(until)
        {
            self.now = due;
            actions.extend(self.then(Event::Tick));
        }
        self.now = ms(until);
        actions
    }

    pub(crate) fn join(&mut self, worker: u64, kind: WorkerKind, credits: u32) -> Vec<Action> {
        self.join_in(None, worker, kind, credits)
    }

    pub(crate) fn join_in(&mut self, slot: Option<u64>, worker: u64, kind: WorkerKind, credits: u32) -> Vec<Action> {
        let slot = slot.map(SlotId);
        let apis = vec![Api::WebGpu, Api::Cpu];
        self.then(Event::Joined { worker: WorkerId(worker), slot, kind, apis, credits, memory: None })
    }

    /// A joined worker that holds the program and has shown how long it takes.
    pub(crate) fn ready(&mut self, worker: u64, kind: WorkerKind, credits: u32, compute: u64) {
        self.ready_at_once(worker, kind, credits, compute, 1);
    }

    pub(crate) fn ready_at_once(&mut self, worker: u64, kind: WorkerKind, credits: u32, compute: u64, at_once: u32) {
        self.join(worker, kind, credits);
        let request = 1_000_000 + worker;
        self.submit(Submit { placement: Placement::ANY.pinned(WorkerId(worker)), ..request_of(request) });
        self.now += ms(500);
        self.loaded_at_once(worker, Api::WebGpu, at_once);
        self.now += ms(compute);
        self.finished(worker, request, 1, compute);
    }

    pub(crate) fn submit(&mut self, submit: Submit) -> Vec<Action> {
        self.then(Event::Submit(submit))
    }

    pub(crate) fn loaded(&mut self, worker: u64) -> Vec<Action> {
        self.loaded_with(worker, Api::WebGpu)
    }

    pub(crate) fn loaded_with(&mut self, worker: u64, api: Api) -> Vec<Action> {
        self.loaded_at_once(worker, api, 1)
    }

    pub(crate) fn loaded_at_once(&mut self, worker: u64, api: Api, at_once: u32) -> Vec<Action> {
        let (worker, took) = (WorkerId(worker), ms(500));
        let footprint = Footprint::default();
        self.then(Event::LoadFinished { worker, program: PROGRAM, api, took, at_once, footprint })
    }

    pub(crate) fn finished(&mut self, worker: u64, request: u64, attempt: u32, compute: u64) -> Vec<Action> {
        let (worker, request) = (WorkerId(worker), RequestId(request));
        self.then(Event::Finished { worker, request, attempt, compute: ms(compute) })
    }

    pub(crate) fn failed(&mut self, (worker, request, attempt): Sent, fault: Fault) -> Vec<Action> {
        let (worker, request, reason) = (WorkerId(worker), RequestId(request), "broke".to_owned());
        self.then(Event::Failed { worker, request, attempt, fault, reason })
    }

    pub(crate) fn lost(&mut self, worker: u64) -> Vec<Action> {
        self.then(Event::Lost { worker: WorkerId(worker), reason: "crashed".to_owned() })
    }
}

pub(crate) fn request_of(request: u64) -> Submit {
    Submit {
        request: RequestId(request),
        client: ClientId::default(),
        model: ModelId(1),
        program: PROGRAM,
        placement: Placement::ANY,
        priority: 0,
        deadline: None,
        cost: 1.0,
        max_attempts: None,
        repeatable: false,
    }
}

pub(crate) fn sent(actions: &[Action]) -> Vec<Sent> {
    let dispatch = |action: &Action| match action {
        Action::Dispatch { worker, request, attempt, .. } => Some((worker.0, request.0, *attempt)),
        _ => None,
    };
    actions.iter().filter_map(dispatch).collect()
}

pub(crate) fn replies(actions: &[Action]) -> Vec<(u64, Outcome)> {
    let reply = |action: &Action| match action {
        Action::Reply { request, outcome } => Some((request.0, outcome.clone())),
        _ => None,
    };
    actions.iter().filter_map(reply).collect()
}

pub(crate) fn loads(actions: &[Action]) -> Vec<(u64, Api, LoadReason)> {
    let load = |action: &Action| match action {
        Action::Load { worker, api, why, .. } => Some((worker.0, *api, *why)),
        _ => None,
    };
    actions.iter().filter_map(load).collect()
}

pub(crate) fn finished(worker: u64, attempt: u32) -> Outcome {
    Outcome::Finished { worker: WorkerId(worker), attempt }
}
