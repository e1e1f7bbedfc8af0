//! The promises, kept by an observer that believes nothing the scheduler says of itself: it sees only the events
//! that go in and the actions that come out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tabpool_scheduler::{
    Action, Api, Config, Event, FailureCause, Fault, LoadRetry, MOST_AT_ONCE, Needs, Outcome, ProgramId, RequestId,
    SlotId, StopTarget, Submit, WorkerId, WorkerKind,
};

/// A worker as the observer knows it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) kind: WorkerKind,
    pub(crate) slot: Option<SlotId>,
    pub(crate) apis: Vec<Api>,
    /// The most it may be given for each run it computes at once.
    pub(crate) credits: usize,
    pub(crate) at_once: usize,
    pub(crate) draining: bool,
    /// Attempts dispatched and not answered, with the moment of dispatch.
    pub(crate) held: BTreeMap<(RequestId, u32), (ProgramId, Api, Duration)>,
    pub(crate) loading: BTreeSet<(ProgramId, Api)>,
    pub(crate) resident: BTreeMap<(ProgramId, Api), Duration>,
    pub(crate) refused: BTreeSet<(ProgramId, Api)>,
    pub(crate) memory: Option<u64>,
    pub(crate) set_aside: BTreeSet<Api>,
}

/// A slot as the observer knows it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) kind: WorkerKind,
    pub(crate) state: PlaceState,
    pub(crate) apis: Option<Vec<Api>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlaceState {
    Coming,
    Starting,
    Running(WorkerId),
    SetAside,
}

/// A request that is not answered.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) submit: Submit,
    pub(crate) deadline: Duration,
    pub(crate) attempts: u32,
    /// Where its wanted attempts are.
    pub(crate) on: BTreeMap<u32, WorkerId>,
}

/// The observer.
#[derive(Debug)]
pub(crate) struct Rules {
    config: Config,
    pub(crate) workers: BTreeMap<WorkerId, Seen>,
    pub(crate) slots: BTreeMap<SlotId, Place>,
    pub(crate) open: BTreeMap<RequestId, Open>,
    answered: BTreeSet<RequestId>,
    needs: BTreeMap<ProgramId, Needs>,
    /// The answer that the current event gives, if the worker did hold the attempt.
    answering: Option<(WorkerId, RequestId, u32)>,
    input_fault: Option<RequestId>,
    cancelling: Option<RequestId>,
    now: Duration,
}

type Verdict = Result<(), String>;

fn holds(promise: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if promise { Ok(()) } else { Err(otherwise()) }
}

fn most_attempts(config: &Config, submit: &Submit) -> u32 {
    submit.max_attempts.unwrap_or(u32::MAX).min(config.max_attempts)
}

impl Rules {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            workers: BTreeMap::new(),
            slots: BTreeMap::new(),
            open: BTreeMap::new(),
            answered: BTreeSet::new(),
            needs: BTreeMap::new(),
            answering: None,
            input_fault: None,
            cancelling: None,
            now: Duration::ZERO,
        }
    }

    /// Takes note of an event before the scheduler sees it.
    pub(crate) fn before(&mut self, now: Duration, event: &Event) {
        self.now = now;
        (self.answering, self.input_fault, self.cancelling) = (None, None, None);
        match event {
            Event::SlotAdded { slot, kind } => {
                let place = Place { kind: *kind, state: PlaceState::Coming, apis: None };
                self.slots.entry(*slot).or_insert(place);
            }
            Event::SlotRemoved { slot } => self.slot_removed(*slot),
            Event::LaunchFailed { slot, .. } => {
                if let Some(place) = self.slots.get_mut(slot)
                    && place.state == PlaceState::Starting
                {
                    place.state = PlaceState::Coming;
                }
            }
            Event::Joined { worker, slot, kind, apis, credits, memory } => {
                self.joined(*worker, (*slot, *kind), apis, *credits, *memory);
            }
            Event::Lost { worker, .. } => self.gone(*worker),
            Event::Submit(submit) => {
                let deadline = submit.deadline.unwrap_or(now + self.config.request_timeout);
                if !self.answered.contains(&submit.request) {
                    let open = Open { submit: *submit, deadline, attempts: 0, on: BTreeMap::new() };
                    self.open.entry(submit.request).or_insert(open);
                }
            }
            Event::Cancel { request } => self.cancelling = Some(*request),
            Event::Finished { worker, request, attempt, .. } => {
                if self.take_held(*worker, *request, *attempt).is_some() {
                    self.answering = Some((*worker, *request, *attempt));
                }
            }
            Event::Failed { worker, request, attempt, fault, .. } => {
                let Some((_, api, sent)) = self.take_held(*worker, *request, *attempt) else { return };
                self.no_longer_on(*worker, *request, *attempt);
                if *fault == Fault::Input {
                    self.input_fault = Some(*request);
                }
                if let (Fault::Device, Some(seen)) = (fault, self.workers.get_mut(worker)) {
                    seen.resident.retain(|(_, on), since| *on != api || *since > sent);
                }
            }
            Event::Drain { worker } => {
                if let Some(seen) = self.workers.get_mut(worker) {
                    seen.draining = true;
                }
            }
            Event::LoadFinished { .. } | Event::LoadFailed { .. } | Event::Unloaded { .. } => self.load_event(event),
            Event::Program { program, needs } => drop(self.needs.insert(*program, needs.clone())),
            Event::ApiSetAside { worker, api, .. } => {
                if let Some(seen) = self.workers.get_mut(worker) {
                    seen.set_aside.insert(*api);
                }
            }
            Event::States { .. }
            | Event::Reluctant { .. }
            | Event::Preferred { .. }
            | Event::Followed { .. }
            | Event::Remembered { .. }
            | Event::Tick => {}
        }
    }

    fn load_event(&mut self, event: &Event) {
        match event {
            Event::LoadFinished { worker, program, api, at_once, .. } => {
                if let Some(seen) = self.workers.get_mut(worker)
                    && seen.loading.remove(&(*program, *api))
                {
                    seen.at_once = seen.at_once.max((*at_once).min(MOST_AT_ONCE) as usize);
                    seen.resident.insert((*program, *api), self.now);
                }
            }
            Event::LoadFailed { worker, program, api, retry, .. } => {
                if let Some(seen) = self.workers.get_mut(worker)
                    && seen.loading.remove(&(*program, *api))
                    && *retry == LoadRetry::Never
                {
                    seen.refused.insert((*program, *api));
                }
            }
            Event::Unloaded { worker, program, api } => {
                if let Some(seen) = self.workers.get_mut(worker) {
                    seen.resident.remove(&(*program, *api));
                }
            }
            _ => {}
        }
    }

    fn take_held(&mut self, worker: WorkerId, request: RequestId, attempt: u32) -> Option<(ProgramId, Api, Duration)> {
        self.workers.get_mut(&worker)?.held.remove(&(request, attempt))
    }

    fn no_longer_on(&mut self, worker: WorkerId, request: RequestId, attempt: u32) {
        if let Some(open) = self.open.get_mut(&request)
            && open.on.get(&attempt) == Some(&worker)
        {
            open.on.remove(&attempt);
        }
    }

    fn slot_removed(&mut self, slot: SlotId) {
        if let Some(Place { state: PlaceState::Running(worker), .. }) = self.slots.remove(&slot)
            && let Some(seen) = self.workers.get_mut(&worker)
        {
            seen.slot = None;
            seen.draining = true;
        }
    }

    fn joined(
        &mut self,
        worker: WorkerId,
        (slot, kind): (Option<SlotId>, WorkerKind),
        apis: &[Api],
        credits: u32,
        memory: Option<u64>,
    ) {
        self.gone(worker);
        if let Some(slot) = slot {
            let Some(place) = self.slots.get_mut(&slot) else { return };
            if let PlaceState::Running(old) = place.state {
                self.workers.remove(&old);
                for open in self.open.values_mut() {
                    open.on.retain(|_, on| *on != old);
                }
            }
            place.state = PlaceState::Running(worker);
            place.apis = Some(apis.to_vec());
        }
        let credits = credits.min(self.config.credits_per_worker) as usize;
        let seen = Seen {
            kind,
            slot,
            apis: apis.to_vec(),
            credits,
            at_once: 1,
            draining: false,
            held: BTreeMap::new(),
            loading: BTreeSet::new(),
            resident: BTreeMap::new(),
            refused: BTreeSet::new(),
            memory,
            set_aside: BTreeSet::new(),
        };
        self.workers.insert(worker, seen);
    }

    fn gone(&mut self, worker: WorkerId) {
        for open in self.open.values_mut() {
            open.on.retain(|_, on| *on != worker);
        }
        if let Some(slot) = self.workers.remove(&worker).and_then(|seen| seen.slot)
            && let Some(place) = self.slots.get_mut(&slot)
        {
            place.state = PlaceState::Coming;
        }
    }

    /// Judges an action.
    pub(crate) fn judge(&mut self, action: &Action) -> Verdict {
        let verdict = match action {
            Action::Launch { slot, .. } => self.judge_launch(*slot),
            Action::Stop { target: StopTarget::Worker(worker), reason } => {
                let held = self.held(*worker);
                self.gone(*worker);
                holds(reason != "drained" || held == 0, || format!("drops {held} attempts"))
            }
            Action::Stop { target: StopTarget::Slot(slot), .. } => {
                if let Some(place) = self.slots.get_mut(slot) {
                    place.state = PlaceState::Coming;
                }
                Ok(())
            }
            Action::Load { worker, program, api, .. } => self.judge_load(*worker, *program, *api),
            Action::Unload { worker, program, api, .. } => self.judge_unload(*worker, *program, *api),
            Action::Dispatch { worker, request, attempt, program, api, .. } => {
                self.judge_dispatch(*worker, *request, *attempt, (*program, *api))
            }
            Action::CancelOn { worker, request, attempt } => {
                let seen = self.workers.get(worker);
                let held = seen.is_some_and(|seen| seen.held.contains_key(&(*request, *attempt)));
                self.no_longer_on(*worker, *request, *attempt);
                holds(held, || "cancels what the worker does not hold".to_owned())
            }
            Action::Reply { request, outcome } => self.judge_reply(*request, outcome),
            Action::SetAside { slot, .. } => {
                if let Some(place) = self.slots.get_mut(slot) {
                    place.state = PlaceState::SetAside;
                }
                Ok(())
            }
            Action::Record(_) => Ok(()),
        };
        verdict.map_err(|broken| format!("{action:?}: {broken}"))
    }

    fn judge_launch(&mut self, slot: SlotId) -> Verdict {
        let place = self.slots.get_mut(&slot).ok_or("launches in an unknown slot")?;
        let before = std::mem::replace(&mut place.state, PlaceState::Starting);
        let free = matches!(before, PlaceState::Coming | PlaceState::SetAside);
        holds(free, || format!("launches in a slot that is {before:?}"))
    }

    fn judge_load(&mut self, worker: WorkerId, program: ProgramId, api: Api) -> Verdict {
        let limit = self.config.loads_per_worker as usize;
        let seen = self.workers.get_mut(&worker).ok_or("loads on an unknown worker")?;
        let twice = seen.loading.iter().any(|(loading, _)| *loading == program);
        holds(!twice, || "loads a program that is being loaded".to_owned())?;
        holds(!seen.resident.contains_key(&(program, api)), || "loads what is there".to_owned())?;
        holds(!seen.refused.contains(&(program, api)), || "loads what was refused".to_owned())?;
        holds(!seen.draining, || "loads on a draining worker".to_owned())?;
        holds(seen.apis.contains(&api), || "loads for an API the worker lacks".to_owned())?;
        holds(!seen.set_aside.contains(&api), || "loads for an API that was set aside".to_owned())?;
        seen.loading.insert((program, api));
        holds(seen.loading.len() <= limit, || "too many loads at once".to_owned())?;
        let held = self.bytes_on(worker);
        let memory = self.workers.get(&worker).and_then(|seen| seen.memory);
        holds(memory.is_none_or(|memory| held <= memory), || format!("brings it to {held} bytes of {memory:?}"))
    }

    fn judge_unload(&mut self, worker: WorkerId, program: ProgramId, api: Api) -> Verdict {
        let seen = self.workers.get_mut(&worker).ok_or("unloads from an unknown worker")?;
        holds(seen.resident.remove(&(program, api)).is_some(), || "unloads what is not there".to_owned())?;
        let at_work = seen.held.values().any(|(held, on, _)| (*held, *on) == (program, api));
        holds(!at_work, || "unloads what is at work".to_owned())
    }

    /// What a worker holds and brings in, equal weights counted once.
    fn bytes_on(&self, worker: WorkerId) -> u64 {
        let Some(seen) = self.workers.get(&worker) else { return 0 };
        let (mut weights, mut scratch) = (BTreeMap::new(), 0);
        for (program, api) in seen.resident.keys().chain(&seen.loading) {
            let Some(needs) = self.needs.get(program) else { continue };
            weights.extend(needs.weights.iter().map(|(id, bytes)| ((*api, *id), *bytes)));
            scratch += needs.scratch;
        }
        weights.values().sum::<u64>() + scratch
    }

    /// Whether a program would fit a worker that holds nothing else.
    fn fits(&self, seen: &Seen, program: ProgramId) -> bool {
        let takes = self.needs.get(&program).map_or(0, |needs| needs.weight_bytes() + needs.scratch);
        seen.memory.is_none_or(|memory| takes <= memory)
    }

    fn judge_dispatch(
        &mut self,
        worker: WorkerId,
        request: RequestId,
        attempt: u32,
        (program, api): (ProgramId, Api),
    ) -> Verdict {
        if let Some(open) = self.open.get(&request).filter(|open| !open.on.is_empty()) {
            let second = open.submit.repeatable && open.on.len() == 1 && open.on.values().all(|on| *on != worker);
            holds(second, || format!("is still wanted from {:?}", open.on))?;
        }
        let seen = self.workers.get_mut(&worker).ok_or("dispatches to an unknown worker")?;
        let open = self.open.get_mut(&request).ok_or("dispatches a request that is answered")?;
        let placement = open.submit.placement;
        open.attempts += 1;
        open.on.insert(attempt, worker);
        holds(attempt == open.attempts, || format!("is attempt {}", open.attempts))?;
        holds(attempt <= most_attempts(&self.config, &open.submit), || "is one attempt too many".to_owned())?;
        holds(program == open.submit.program, || "runs another program".to_owned())?;
        holds(seen.resident.contains_key(&(program, api)), || "runs what is not loaded".to_owned())?;
        holds(!seen.draining, || "gives work to a draining worker".to_owned())?;
        holds(!seen.set_aside.contains(&api), || "gives work to an API that was set aside".to_owned())?;
        holds(placement.kinds.contains(seen.kind), || "runs on a kind that is not allowed".to_owned())?;
        let allowed = placement.apis.iter().next().is_none() || placement.apis.contains(api);
        holds(allowed, || "runs with an API that is not allowed".to_owned())?;
        holds(placement.worker.is_none_or(|pin| pin == worker), || "leaves its pin".to_owned())?;
        holds(seen.held.insert((request, attempt), (program, api, self.now)).is_none(), || {
            "is dispatched twice".to_owned()
        })?;
        let credits = seen.credits * seen.at_once;
        holds(seen.held.len() <= credits, || format!("exceeds {credits} credits"))?;
        Ok(())
    }

    fn judge_reply(&mut self, request: RequestId, outcome: &Outcome) -> Verdict {
        holds(self.answered.insert(request), || "is a second answer".to_owned())?;
        let open = self.open.remove(&request).ok_or("answers what was never asked")?;
        match outcome {
            Outcome::Finished { worker, attempt } => {
                let given = self.answering == Some((*worker, request, *attempt));
                let alone = open.on.len() == 1 && open.on.get(attempt) == Some(worker);
                holds(given && alone, || format!("was not finished just now, or elsewhere too: {:?}", open.on))
            }
            Outcome::Rejected { retry_after, .. } => {
                holds(!retry_after.is_zero() && open.attempts == 0, || "is a bad rejection".to_owned())
            }
            Outcome::TimedOut { .. } => holds(self.now >= open.deadline, || "is too early".to_owned()),
            Outcome::Cancelled => holds(self.cancelling == Some(request), || "was not cancelled".to_owned()),
            Outcome::Failed { cause: FailureCause::Input, .. } => {
                holds(self.input_fault == Some(request), || "has no input fault".to_owned())
            }
            Outcome::Failed { cause: FailureCause::Poison, attempts, .. } => {
                let spent = *attempts == most_attempts(&self.config, &open.submit)
                    && *attempts == open.attempts
                    && open.on.is_empty();
                holds(spent, || "gives up too early".to_owned())
            }
            Outcome::NoWorker { .. } => {
                let server = self.server(&open.submit);
                holds(server.is_none(), || format!("could be served by {server:?}"))
            }
        }
    }

    /// Somebody who may serve the request, or is expected.
    fn server(&self, submit: &Submit) -> Option<String> {
        let placement = submit.placement;
        let wishes: Vec<Api> = placement.apis.iter().collect();
        let worker = self.workers.iter().find(|(id, seen)| {
            let usable = |api: &Api| {
                let wished = wishes.is_empty() || wishes.contains(api);
                wished && !seen.set_aside.contains(api) && !seen.refused.contains(&(submit.program, *api))
            };
            let allowed = placement.kinds.contains(seen.kind) && placement.worker.is_none_or(|pin| pin == **id);
            let fits = self.fits(seen, submit.program);
            allowed && fits && !seen.draining && seen.credits > 0 && seen.apis.iter().any(usable)
        });
        if let Some((id, _)) = worker {
            return Some(id.to_string());
        }
        let slot = self.slots.iter().find(|(_, place)| {
            let drains = |id| self.workers.get(&id).is_some_and(|seen| seen.draining);
            let coming = match place.state {
                PlaceState::Coming | PlaceState::Starting => true,
                PlaceState::Running(worker) => drains(worker),
                PlaceState::SetAside => false,
            };
            let offers = |apis: &Vec<Api>| wishes.is_empty() || apis.iter().any(|api| wishes.contains(api));
            coming && placement.kinds.contains(place.kind) && place.apis.as_ref().is_none_or(offers)
        });
        slot.filter(|_| placement.worker.is_none()).map(|(id, _)| id.to_string())
    }

    /// Whether anything goes on that could change what waits: work, loads or starts.
    pub(crate) fn is_anything_going_on(&self) -> bool {
        let busy = |seen: &Seen| !seen.held.is_empty() || !seen.loading.is_empty();
        let starting = |place: &Place| matches!(place.state, PlaceState::Coming | PlaceState::Starting);
        self.workers.values().any(busy) || self.slots.values().any(starting)
    }

    /// Requests dispatched and wanted, as far as can be told from outside.
    pub(crate) fn held(&self, worker: WorkerId) -> usize {
        self.workers.get(&worker).map_or(0, |seen| seen.held.len())
    }
}
