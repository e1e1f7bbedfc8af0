//! Deciding what runs where, and which program is loaded where.
//!
//! A *pass* visits the lanes in the order of their heads and sends out one request at a time, until nobody who
//! waits can be served better by going than by waiting. What a lane leaves waiting is *pledged* to the workers it
//! waits for, so that a later lane does not take them for idle.
//!
//! A slower worker that is free gets the first request of the lane that would be finished there sooner than by
//! waiting for the better ones, which need not be the head: the head is served by the better worker.
//!
//! A program is loaded on one more worker for one of two reasons. Either what waits now would be finished sooner,
//! the load included; that answers a burst. Or requests have lost as much time by waiting for busy workers as the
//! load costs; that answers a steady load, under which the queue is never long but never empty. The second is
//! the rent-or-buy rule: buying once the rent has added up to the price costs at most twice the optimum, whatever
//! the future brings.

use std::time::Duration;

use super::memory::Room;
use super::routing::Task;
use super::{Changed, Scheduler};
use crate::action::{Action, LoadReason, Outcome};
use crate::id::{RequestId, WorkerId};
use crate::latency::Question;
use crate::placement::{Offer, finished_by};
use crate::queue::{Candidate, LaneId, LaneKey, Readiness};
use crate::timer::Timer;
use crate::worker::{CircuitState, InFlight, OnWorker, Standing, Worker};

/// How soon a request that is held back for a better worker is looked at again, at the soonest.
const RECHECK_AT_LEAST: Duration = Duration::from_millis(1);

/// Placement passes that one event may lead to.
const PASSES: usize = 3;

/// An attempt is never allowed more than this, however slow its program.
const LONGEST_ALLOWANCE: Duration = Duration::from_secs(24 * 3600);

/// A candidate as it looks in this pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    candidate: Candidate,
    offer: Offer,
    /// It could be sent a request now.
    ready: bool,
    /// Seconds until a load here would be done; 0 where none is needed.
    load: f64,
    /// A load could be started here now, where memory permits.
    loadable: bool,
    /// Whether it does.
    room: Room,
}

impl Seen {
    fn is_absent(&self) -> bool {
        self.candidate.readiness == Readiness::Absent
    }

    /// Whether a load can be started here now. What somebody else waits for goes only for a lane that nobody serves.
    fn may_load(&self, nobody_serves: bool) -> bool {
        self.is_absent() && self.loadable && (self.room == Room::Free || nobody_serves && self.room == Room::Taken)
    }

    /// The offer if the program were there.
    fn if_loaded(&self, backlog: f64) -> Offer {
        Offer { start: backlog, ..self.offer }
    }
}

/// Where a request is sent, and what is expected there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) candidate: Candidate,
    pub(super) offer: Offer,
}

/// What became of a visit to a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    /// It sent out a request, and may send out another.
    Sent,
    /// Nothing more can be done for it now.
    Done,
}

/// Why a lane is visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// It has a new request.
    Lane,
    /// A worker has a free credit.
    Worker(WorkerId),
    /// Anything may have changed.
    Pool,
}

/// What a lane may hope for when it has no candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    Candidates,
    /// A slot is starting, a circuit is open or a worker is silent: it may become otherwise by itself.
    Waits,
    Nobody,
}

impl Scheduler {
    /// Places what the event and the timers have made possible.
    pub(super) fn place(&mut self, actions: &mut Vec<Action>) {
        // A pass itself changes something where a lane that had claimed a worker is served or dismissed.
        for _ in 0..PASSES {
            match std::mem::take(&mut self.changed) {
                Changed::Nothing => return,
                Changed::Lane(lane) => {
                    self.pass += 1;
                    while self.visit(lane, Scope::Lane, actions) == Visit::Sent {}
                }
                Changed::Worker(worker) => self.run_pass(Scope::Worker(worker), actions),
                Changed::Anything => self.run_pass(Scope::Pool, actions),
            }
        }
    }

    /// Visits the lanes, in the order in which they are due, for as long as somebody is there to serve them.
    fn run_pass(&mut self, scope: Scope, actions: &mut Vec<Action>) {
        self.pass += 1;
        while let Some((rank, lane)) = self.queue.next_head(self.pass) {
            let exhausted = |id| self.workers.get(&id).is_none_or(|known| known.free_credits() == 0);
            if matches!(scope, Scope::Worker(id) if exhausted(id)) {
                return;
            }
            let client = self.queue.lane(lane).map(|lane| lane.key.client).unwrap_or_default();
            if self.visit(lane, scope, actions) == Visit::Done {
                self.queue.done(self.pass, rank, client);
            }
        }
    }

    /// Sends out at most one request of a lane, or loads its program somewhere.
    fn visit(&mut self, lane: LaneId, scope: Scope, actions: &mut Vec<Action>) -> Visit {
        match self.outlook(lane) {
            Outlook::Candidates => {}
            Outlook::Waits => return Visit::Done,
            Outlook::Nobody => {
                self.dismiss(lane, actions);
                return Visit::Done;
            }
        }
        let mut seen = std::mem::take(&mut self.seen);
        let visit = self.visit_candidates(lane, scope, &mut seen, actions);
        self.seen = seen;
        visit
    }

    fn visit_candidates(
        &mut self,
        lane: LaneId,
        scope: Scope,
        seen: &mut Vec<Seen>,
        actions: &mut Vec<Action>,
    ) -> Visit {
        let Some(waiting) = self.look(lane, scope, seen) else { return Visit::Done };
        if seen.iter().any(|it| !it.is_absent()) {
            self.release(lane);
        }
        let by_finish = |one: &&Seen, other: &&Seen| one.offer.finish().total_cmp(&other.offer.finish());
        if let Some(best) = seen.iter().filter(|it| it.ready).min_by(by_finish).copied() {
            let others = || seen.iter().filter(|it| it.candidate != best.candidate && !it.is_absent());
            let before = finished_by(others().map(|it| it.offer), best.offer.finish());
            if before < waiting {
                if self.send(lane, before, &best, actions).is_none() {
                    return Visit::Done;
                }
                self.spread_after(lane, &best, seen, actions);
                return Visit::Sent;
            }
            let soonest = others().map(|it| it.offer.finish()).fold(f64::INFINITY, f64::min);
            self.hold_back((best.offer.finish() - soonest) / 2.0);
        }
        self.spread(lane, waiting, seen, actions);
        self.ask_for_room(lane, seen);
        self.pledge_rest(waiting, seen);
        Visit::Done
    }

    /// Fills `seen` with the lane's candidates as they are now, and says how many requests wait. `None` if there is
    /// nothing to decide.
    fn look(&self, lane: LaneId, scope: Scope, seen: &mut Vec<Seen>) -> Option<usize> {
        seen.clear();
        let id = lane;
        let lane = self.queue.lane(id)?;
        let concerned = |id| lane.candidates.iter().any(|candidate| candidate.worker == id);
        if lane.len() == 0 || matches!(scope, Scope::Worker(id) if !concerned(id)) {
            return None;
        }
        let workers = || {
            let known = |candidate: &Candidate| Some((*candidate, self.workers.get(&candidate.worker)?));
            lane.candidates.iter().filter_map(known)
        };
        let loadable = |candidate: &Candidate, worker: &Worker| {
            let on_worker = worker.programs.get(&lane.key.program);
            candidate.readiness == Readiness::Absent
                && worker.loads < self.config.loads_per_worker
                && !on_worker.is_some_and(OnWorker::is_loading)
        };
        // The common case under load: nobody can be sent or load anything, and no later lane depends on this one.
        let usable = |(it, worker): (Candidate, &Worker)| is_ready(&it, worker, id, &lane.key) || loadable(&it, worker);
        if scope == Scope::Lane && !workers().any(usable) {
            return None;
        }
        for (candidate, worker) in workers() {
            let LaneKey { model, program, .. } = lane.key;
            let (kind, api) = (worker.kind, candidate.api);
            let question = Question { model, program, kind, api, cost: lane.cost };
            let load = match candidate.readiness {
                Readiness::Resident => 0.0,
                Readiness::Absent => self.latency.load(program, kind, api),
                // As with a late request: what is late is expected to stay so for as long again.
                Readiness::Loading { since } => {
                    let elapsed = self.now.saturating_sub(since).as_secs_f64();
                    (self.latency.load(program, kind, api) - elapsed).abs()
                }
            };
            let queue = worker.backlog(api, self.now) + worker.pledged(self.pass);
            let compute = self.latency.compute(question) * worker.pace;
            // As if it began later: what it is expected to compute stays what it computes.
            let spared = compute * (worker.reluctance - 1.0);
            seen.push(Seen {
                candidate,
                // Loads go on beside other work.
                offer: Offer { start: queue.max(load) + spared, compute, at_once: f64::from(worker.at_once(api)) },
                ready: is_ready(&candidate, worker, id, &lane.key),
                load,
                loadable: loadable(&candidate, worker),
                room: match candidate.readiness {
                    Readiness::Absent => self.room(worker, program, api),
                    _ => Room::Free,
                },
            });
        }
        Some(lane.len())
    }

    /// Sends the request that `position` others of the lane precede. `None` if there is none.
    fn send(&mut self, lane: LaneId, position: usize, to: &Seen, actions: &mut Vec<Action>) -> Option<()> {
        let queued = self.queue.lane(lane)?;
        let (client, request) = (queued.key.client, queued.nth(position)?);
        let known = self.requests.get(&request)?;
        let (rank, submitted_at) = (known.rank, known.submitted_at);
        self.dispatch(request, &Target { candidate: to.candidate, offer: to.offer }, actions)?;
        self.charge_wait(lane, submitted_at, to);
        // What is done again was lost through no fault of his.
        if !rank.is_replayed() {
            self.queue.charge(client, to.offer.compute);
        }
        self.unqueue(lane, rank);
        Some(())
    }

    /// Makes one more attempt at a request.
    pub(super) fn dispatch(&mut self, request: RequestId, to: &Target, actions: &mut Vec<Action>) -> Option<()> {
        let Candidate { worker, api, .. } = to.candidate;
        let expected = Duration::try_from_secs_f64(to.offer.finish()).unwrap_or(LONGEST_ALLOWANCE);
        let hedge_at = self.hedge_at(request, expected);
        let known = self.requests.get(&request)?;
        let task = Task { model: known.model, program: known.program, placement: known.placement, cost: known.cost };
        let on_trial = self.sent_with(worker, &task, api);
        let known = self.requests.get_mut(&request)?;
        let holder = self.workers.get_mut(&worker)?;
        known.attempts += 1;
        let (attempt, program) = (known.attempts, known.program);
        known.state = known.state.and(worker, attempt);
        let patience = expected.saturating_mul(self.config.attempt_patience);
        let allowance = self.config.attempt_timeout.saturating_add(patience).min(LONGEST_ALLOWANCE);
        let question = Question { model: known.model, program, kind: holder.kind, api, cost: known.cost };
        let due = self.now.saturating_add(allowance);
        holder.put_in_flight(InFlight {
            request,
            attempt,
            program,
            dispatched_at: self.now,
            api,
            expected: to.offer.compute,
            due,
            hedge_at,
            standing: Standing::Wanted,
            on_trial,
            question,
            running_since: None,
        });
        self.timers.set(due, Timer::Attempt(worker, request, attempt));
        if let Some(at) = hedge_at {
            self.timers.set(at, Timer::Hedge(worker, request, attempt));
        }
        self.stats.dispatched += 1;
        actions.push(Action::Dispatch { worker, request, attempt, program, api, expected });
        Some(())
    }

    /// Adds to a lane's regret what one more worker with the program would have saved this request: at most one
    /// request's time each, because that is what one more worker takes off the queue while this one runs.
    fn charge_wait(&mut self, lane: LaneId, submitted_at: Duration, to: &Seen) {
        let now = self.now;
        let Some(lane) = self.queue.lane_mut(lane) else { return };
        let since = lane.ready_since.map_or(now, |ready| ready.max(submitted_at));
        let waited = now.saturating_sub(since).as_secs_f64();
        lane.regret += (waited + to.offer.start).min(to.offer.compute);
    }

    /// After a request went to `sent`: whether the next one had better find one more worker ready.
    fn spread_after(&mut self, lane: LaneId, sent: &Seen, seen: &mut [Seen], actions: &mut Vec<Action>) {
        // The lane is gone, or still has requests and will be visited again.
        if self.queue.lane(lane).is_none_or(|lane| lane.len() > 0) {
            return;
        }
        for it in seen.iter_mut().filter(|it| it.candidate == sent.candidate) {
            it.ready = false;
        }
        self.spread(lane, 1, seen, actions);
    }

    /// Loads the lane's program on more workers, as long as one of the two reasons holds for `waiting` requests.
    fn spread(&mut self, lane: LaneId, waiting: usize, seen: &mut [Seen], actions: &mut Vec<Action>) {
        loop {
            let nobody_serves = seen.iter().all(Seen::is_absent);
            let absent = seen.iter().enumerate().filter(|(_, it)| it.may_load(nobody_serves));
            let finish = |it: &(usize, &Seen)| it.1.offer.finish();
            let Some((index, best)) = absent.min_by(|one, other| finish(one).total_cmp(&finish(other))) else {
                return;
            };
            let Some(why) = self.reason_to_load(lane, waiting, best, seen) else { return };
            let Candidate { worker, api, .. } = best.candidate;
            let Some(lane) = self.queue.lane_mut(lane) else { return };
            if why == LoadReason::Waiting {
                lane.regret = 0.0;
            }
            let program = lane.key.program;
            self.clear_room(worker, program, api, actions);
            self.start_load(worker, program, api, why, actions);
            seen[index].candidate.readiness = Readiness::Loading { since: self.now };
        }
    }

    /// Where nobody has a lane's program or will have it, and room is all that is missing: sees to it that there will be.
    fn ask_for_room(&mut self, lane: LaneId, seen: &[Seen]) {
        if !seen.iter().all(Seen::is_absent) {
            self.release(lane);
            return;
        }
        let by_finish = |one: &&Seen, other: &&Seen| one.offer.finish().total_cmp(&other.offer.finish());
        let busy = seen.iter().filter(|it| it.loadable && it.room == Room::Busy).min_by(by_finish);
        if let Some(best) = busy {
            self.claim(lane, best.candidate.worker);
        }
        let turns = seen.iter().filter_map(|it| match it.room {
            Room::None(again) => again,
            _ => None,
        });
        if let Some(soonest) = turns.min_by(f64::total_cmp) {
            self.hold_back(soonest);
        }
    }

    fn reason_to_load(&self, lane: LaneId, waiting: usize, best: &Seen, seen: &[Seen]) -> Option<LoadReason> {
        let present = || seen.iter().filter(|it| !it.is_absent());
        if present().next().is_none() {
            return Some(LoadReason::First);
        }
        let finished = |moment: f64| finished_by(present().map(|it| it.offer), moment);
        // Of two that would be done together, the one that needs no further load is to be preferred: hence the margin.
        let margin = 0.01 * best.offer.compute;
        if finished(best.offer.finish() + margin) < waiting {
            return Some(LoadReason::Queue);
        }
        let worker = self.workers.get(&best.candidate.worker)?;
        let ready_made = best.if_loaded(worker.backlog(best.candidate.api, self.now) + worker.pledged(self.pass));
        let regret = self.queue.lane(lane)?.regret;
        let worth_it = regret >= best.load && finished(ready_made.finish() + margin) < waiting;
        worth_it.then_some(LoadReason::Waiting)
    }

    /// Pledges what a lane leaves waiting to those it waits for. They work at it together, so each is kept busy for
    /// the same time.
    fn pledge_rest(&mut self, waiting: usize, seen: &[Seen]) {
        let awaited = || seen.iter().filter(|it| !it.ready && !it.is_absent());
        let rate: f64 = awaited().map(|it| it.offer.at_once / it.offer.compute).sum();
        if rate <= 0.0 {
            return;
        }
        for it in awaited() {
            if let Some(worker) = self.workers.get_mut(&it.candidate.worker) {
                worker.pledge(self.pass, waiting as f64 / rate);
            }
        }
    }

    /// Arranges for another look: the worker that is waited for may turn out to be late.
    pub(super) fn hold_back(&mut self, seconds: f64) {
        let pause = Duration::try_from_secs_f64(seconds).unwrap_or_default().max(RECHECK_AT_LEAST);
        let at = self.now.saturating_add(pause);
        if self.recheck_at.is_some_and(|set| set <= at) {
            return;
        }
        if let Some(set) = self.recheck_at.replace(at) {
            self.timers.clear(set, Timer::Recheck);
        }
        self.timers.set(at, Timer::Recheck);
    }

    /// Answers all requests of a lane that nobody will ever serve.
    fn dismiss(&mut self, lane: LaneId, actions: &mut Vec<Action>) {
        let Some(key) = self.queue.lane(lane).map(|lane| lane.key) else { return };
        let why = self.explain_nobody(key.program, &key.placement);
        while let Some(request) = self.queue.lane(lane).and_then(|lane| lane.nth(0)) {
            let Some(known) = self.requests.get(&request) else { return };
            let rank = known.rank;
            let mut reason = why.clone();
            for attempt in &known.reasons {
                reason.push_str("; ");
                reason.push_str(attempt);
            }
            self.unqueue(lane, rank);
            self.answer(request, Outcome::NoWorker { reason }, actions);
        }
        self.queue.forget(lane);
    }

    /// Whether a lane has candidates, after looking again if the pool has changed since it last did.
    fn outlook(&mut self, lane: LaneId) -> Outlook {
        let Some(known) = self.queue.lane(lane) else { return Outlook::Waits };
        let (key, cost) = (known.key, known.cost);
        if known.epoch == self.epoch && !known.candidates.is_empty() {
            return Outlook::Candidates;
        }
        let mut candidates = Vec::with_capacity(self.workers.len());
        let mut may_recover = false;
        for (id, worker) in &self.workers {
            match self.candidacy(*id, worker, &key, cost) {
                Candidacy::Yes(candidate) => candidates.push(candidate),
                Candidacy::NotNow => may_recover = true,
                Candidacy::No => {}
            }
        }
        if candidates.len() > 1 {
            candidates.retain(|candidate| Some(candidate.worker) != key.avoid);
        }
        let has_candidates = !candidates.is_empty();
        let has_ready = candidates.iter().any(|candidate| candidate.readiness == Readiness::Resident);
        let (epoch, now) = (self.epoch, self.now);
        if let Some(lane) = self.queue.lane_mut(lane) {
            lane.candidates = candidates;
            lane.epoch = epoch;
            lane.ready_since = if has_ready { lane.ready_since.or(Some(now)) } else { None };
        }
        if has_candidates {
            Outlook::Candidates
        } else if may_recover || self.is_somebody_coming(&key) {
            Outlook::Waits
        } else {
            Outlook::Nobody
        }
    }

    fn candidacy(&self, id: WorkerId, worker: &Worker, key: &LaneKey, cost: f64) -> Candidacy {
        let placement = &key.placement;
        let allowed = placement.kinds.contains(worker.kind) && placement.worker.is_none_or(|pin| pin == id);
        if !allowed || worker.draining || worker.credits() == 0 {
            return Candidacy::No;
        }
        if worker.is_silent() {
            return Candidacy::NotNow;
        }
        let on_worker = worker.programs.get(&key.program);
        let LaneKey { model, program, placement, .. } = *key;
        let Some((api, readiness)) = self.way(id, worker, &Task { model, program, placement, cost }) else {
            return Candidacy::No;
        };
        let circuit = on_worker.map(|on_worker| on_worker.circuit.state).unwrap_or_default();
        if matches!(circuit, CircuitState::Open(_)) {
            return Candidacy::NotNow;
        }
        let trying = circuit == CircuitState::Trying;
        Candidacy::Yes(Candidate { worker: id, api, readiness, trying })
    }

    /// The worker as a candidate of a lane, if it is one now.
    pub(super) fn candidate(&self, id: WorkerId, worker: &Worker, key: &LaneKey, cost: f64) -> Option<Candidate> {
        match self.candidacy(id, worker, key, cost) {
            Candidacy::Yes(candidate) => Some(candidate),
            Candidacy::NotNow | Candidacy::No => None,
        }
    }

    /// Whether a slot will bring a worker that may serve the lane.
    fn is_somebody_coming(&self, key: &LaneKey) -> bool {
        let placement = key.placement;
        if placement.worker.is_some() {
            // A new worker has a new id.
            return false;
        }
        self.slots.values().any(|slot| {
            let drains = |worker| self.workers.get(&worker).is_some_and(|known| known.draining);
            let coming = slot.state.is_coming()
                || matches!(slot.state, crate::slots::SlotState::Running { worker } if drains(worker));
            let may_offer = |apis| placement.apis.on_offer(apis).next().is_some();
            coming && placement.kinds.contains(slot.kind) && slot.apis.is_none_or(may_offer)
        })
    }
}

/// Whether a worker may run a lane's requests.
enum Candidacy {
    Yes(Candidate),
    /// Once its circuit is closed, or it speaks again.
    NotNow,
    No,
}

/// Whether a candidate could be sent a request now.
fn is_ready(candidate: &Candidate, worker: &Worker, lane: LaneId, key: &LaneKey) -> bool {
    if worker.claim.is_some_and(|claim| claim != lane) {
        return false;
    }
    let lets_through = || {
        let on_worker = worker.programs.get(&key.program);
        !candidate.trying || on_worker.is_none_or(|on_worker| on_worker.in_flight == 0)
    };
    candidate.readiness == Readiness::Resident && worker.free_credits() > 0 && lets_through()
}
