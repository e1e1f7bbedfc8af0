//! Workers joining, being drained, being stopped and being lost.

use super::Scheduler;
use super::requests::FailedAttempt;
use crate::action::{Action, StopTarget};
use crate::id::{Api, SlotId, WorkerId, WorkerKind};
use crate::placement::ApiOrder;
use crate::slots::SlotState;
use crate::timer::Timer;
use crate::worker::{CircuitState, LoadState, Standing, Worker};

/// So many times a reluctant worker may be held to be slower.
const MOST_RELUCTANT: f64 = 1000.0;

/// What a worker said of itself when it joined.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) slot: Option<SlotId>,
    pub(super) kind: WorkerKind,
    pub(super) apis: Vec<Api>,
    pub(super) credits: u32,
    pub(super) memory: Option<u64>,
}

impl Scheduler {
    pub(super) fn joined(&mut self, worker: WorkerId, hello: Hello, actions: &mut Vec<Action>) {
        let Hello { slot, kind, apis, credits, memory } = hello;
        if let Some(old) = self.take_worker(worker, "it joined anew", actions) {
            self.stats.lost += 1;
            if old.slot != slot {
                self.slot_lost(&old, "its worker joined from elsewhere".to_owned(), actions);
            }
        }
        let apis = ApiOrder::of(&apis);
        if let Some(slot) = slot {
            let Some(known) = self.slots.get_mut(&slot) else {
                self.stats.ignored.slot += 1;
                let reason = format!("{slot} is no longer wanted");
                actions.push(Action::Stop { target: StopTarget::Worker(worker), reason });
                return;
            };
            let before = std::mem::replace(&mut known.state, SlotState::Running { worker });
            known.apis = Some(apis);
            if let Some(due) = before.due() {
                self.timers.clear(due, Timer::Slot(slot));
            }
            // A page that was reloaded joins as a new worker before the old link is found to be dead.
            if let SlotState::Running { worker: old } = before
                && self.take_worker(old, "another worker joined in its slot", actions).is_some()
            {
                self.stats.lost += 1;
            }
        }
        let credits = credits.min(self.config.credits_per_worker);
        self.workers.insert(worker, Worker::new(kind, slot, apis, credits, memory, self.now));
        self.pool_changed();
    }

    pub(super) fn lost(&mut self, worker: WorkerId, reason: String, actions: &mut Vec<Action>) {
        let Some(known) = self.take_worker(worker, &reason, actions) else {
            self.stats.ignored.worker += 1;
            return;
        };
        self.stats.lost += 1;
        self.slot_lost(&known, reason, actions);
    }

    /// What it holds ready with the API stays until something else needs the room.
    pub(super) fn api_set_aside(&mut self, worker: WorkerId, api: Api, reason: String) {
        let Some(known) = self.workers.get_mut(&worker) else {
            self.stats.ignored.worker += 1;
            return;
        };
        known.set_aside[api.index()].get_or_insert(reason);
        self.pool_changed();
    }

    pub(super) fn reluctant(&mut self, worker: WorkerId, factor: f64) {
        let Some(known) = self.workers.get_mut(&worker) else {
            self.stats.ignored.worker += 1;
            return;
        };
        known.reluctance = if factor.is_finite() { factor.clamp(1.0, MOST_RELUCTANT) } else { 1.0 };
        self.pool_changed();
    }

    /// Ends a worker that does not answer.
    pub(super) fn stop_silent(&mut self, worker: WorkerId, reason: String, actions: &mut Vec<Action>) {
        let stop = Action::Stop { target: StopTarget::Worker(worker), reason: reason.clone() };
        actions.push(stop);
        if let Some(known) = self.take_worker(worker, &reason, actions) {
            self.stats.lost += 1;
            self.slot_lost(&known, reason, actions);
        }
    }

    pub(super) fn drain(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        let Some(known) = self.workers.get_mut(&worker) else {
            self.stats.ignored.worker += 1;
            return;
        };
        known.draining = true;
        self.pool_changed();
        self.stop_if_drained(worker, actions);
    }

    /// Stops a draining worker that owes nothing. Its slot, if it still has one, is filled anew.
    pub(super) fn stop_if_drained(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        let done = |known: &Worker| known.draining && known.in_flight.is_empty();
        if !self.workers.get(&worker).is_some_and(done) {
            return;
        }
        let Some(known) = self.take_worker(worker, "drained", actions) else { return };
        let reason = "drained".to_owned();
        actions.push(Action::Stop { target: StopTarget::Worker(worker), reason: reason.clone() });
        if let Some(slot) = known.slot
            && let Some(place) = self.slots.get_mut(&slot)
        {
            place.ended(self.now, reason);
            self.timers.set(self.now, Timer::Slot(slot));
        }
    }

    /// Forgets a worker with all that is timed about it; what it held is tried again.
    fn take_worker(&mut self, worker: WorkerId, reason: &str, actions: &mut Vec<Action>) -> Option<Worker> {
        let mut known = self.workers.remove(&worker)?;
        if let Some(lane) = known.claim.and_then(|lane| self.queue.lane_mut(lane)) {
            lane.claim = None;
        }
        for (program, on_worker) in &known.programs {
            if let CircuitState::Open(until) = on_worker.circuit.state {
                self.timers.clear(until, Timer::Circuit(worker, *program));
            }
            for api in Api::ALL {
                if let LoadState::Loading { due, .. } = on_worker.load(api) {
                    self.timers.clear(*due, Timer::Load(worker, *program, api));
                }
            }
        }
        for entry in std::mem::take(&mut known.in_flight) {
            self.timers.clear(entry.due, Timer::Attempt(worker, entry.request, entry.attempt));
            if let Some(at) = entry.hedge_at {
                self.timers.clear(at, Timer::Hedge(worker, entry.request, entry.attempt));
            }
            if entry.standing == Standing::Wanted {
                let failed =
                    FailedAttempt { worker, attempt: entry.attempt, reason: reason.to_owned(), elsewhere: None };
                self.retry(entry.request, failed, actions);
            }
        }
        self.pool_changed();
        Some(known)
    }
}
