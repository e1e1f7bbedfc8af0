//! What workers say about attempts, and what follows when they say nothing.

use std::time::Duration;

use super::requests::FailedAttempt;
use super::{Changed, Scheduler};
use crate::action::{Action, FailureCause, Outcome, Record};
use crate::event::Fault;
use crate::id::{Api, ProgramId, RequestId, WorkerId};
use crate::latency::LEAST;
use crate::timer::Timer;
use crate::worker::{CircuitState, InFlight, LoadState, Standing};

/// What a worker said of an attempt that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) reason: String,
}

impl Scheduler {
    pub(super) fn finished(
        &mut self,
        worker: WorkerId,
        request: RequestId,
        attempt: u32,
        compute: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.end_attempt(worker, request, attempt) else { return };
        let seconds = self.measure(worker, &entry, compute);
        self.learn(worker, &entry, seconds, actions);
        self.throughput.finished(self.now);
        if let Some(known) = self.workers.get_mut(&worker) {
            known.useful = true;
        }
        self.circuit_succeeded(worker, entry.program, actions);
        if entry.standing == Standing::Wanted {
            self.unwant_others(request, worker, attempt, actions);
            self.answer(request, Outcome::Finished { worker, attempt }, actions);
        }
        self.stop_if_drained(worker, actions);
    }

    pub(super) fn failed(
        &mut self,
        worker: WorkerId,
        request: RequestId,
        attempt: u32,
        failure: Failure,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.end_attempt(worker, request, attempt) else { return };
        let Failure { fault, reason } = failure;
        if fault == Fault::Device {
            self.device_lost(worker, &entry);
        }
        if entry.on_trial {
            self.give_up_trial(&entry);
        }
        if entry.standing == Standing::Wanted {
            if fault == Fault::Input {
                self.unwant_others(request, worker, attempt, actions);
                let outcome = Outcome::Failed { cause: FailureCause::Input, reason, attempts: attempt };
                self.answer(request, outcome, actions);
            } else {
                self.circuit_failed(worker, entry.program, &reason, actions);
                self.retry(request, FailedAttempt { worker, attempt, reason, elsewhere: Some(worker) }, actions);
            }
        }
        self.stop_if_drained(worker, actions);
    }

    /// An attempt was not answered in time. The first time its request goes elsewhere, and the worker gets nothing more
    /// until it answers; a worker that stays silent, about this attempt or another, is stopped.
    pub(super) fn attempt_overdue(
        &mut self,
        worker: WorkerId,
        request: RequestId,
        attempt: u32,
        actions: &mut Vec<Action>,
    ) {
        let (now, limit) = (self.now, self.config.timeouts_before_stop);
        let Some(known) = self.workers.get_mut(&worker) else { return };
        known.timeouts_in_a_row += 1;
        let silent = known.timeouts_in_a_row >= limit;
        let Some(entry) = known.in_flight_mut(request, attempt) else { return };
        let before = entry.standing;
        entry.standing = Standing::Overdue;
        entry.due = now.saturating_add(self.config.attempt_timeout);
        let entry = *entry;
        self.pool_changed();
        self.timers.set(entry.due, Timer::Attempt(worker, request, attempt));
        self.stats.attempt_timeouts += 1;
        let waited = self.now.saturating_sub(entry.dispatched_at).as_secs_f64();
        let reason = format!("no answer in {waited:.1} s");
        if before == Standing::Wanted {
            actions.push(Action::CancelOn { worker, request, attempt });
            self.circuit_failed(worker, entry.program, &reason, actions);
            let failed = FailedAttempt { worker, attempt, reason: reason.clone(), elsewhere: Some(worker) };
            self.retry(request, failed, actions);
        }
        if silent || before == Standing::Overdue {
            self.stop_silent(worker, format!("{request}, attempt {attempt}: {reason}"), actions);
        }
    }

    /// Takes an attempt from its worker because the worker has answered.
    fn end_attempt(&mut self, worker: WorkerId, request: RequestId, attempt: u32) -> Option<InFlight> {
        let Some(known) = self.workers.get_mut(&worker) else {
            self.stats.ignored.worker += 1;
            return None;
        };
        let Some(entry) = known.take_in_flight(request, attempt, self.now) else {
            self.stats.ignored.attempt += 1;
            return None;
        };
        self.timers.clear(entry.due, Timer::Attempt(worker, request, attempt));
        if let Some(at) = entry.hedge_at {
            self.timers.clear(at, Timer::Hedge(worker, request, attempt));
        }
        if entry.standing != Standing::Overdue {
            known.timeouts_in_a_row = 0;
        }
        if entry.standing != Standing::Wanted {
            self.stats.late += 1;
        }
        if entry.standing == Standing::Overdue {
            self.pool_changed();
        } else {
            self.changed(Changed::Worker(worker));
        }
        Some(entry)
    }

    /// Learns from a finished attempt, and says how many seconds it took. The worker's word is believed only as far as the
    /// clock here allows.
    fn measure(&mut self, worker: WorkerId, entry: &InFlight, compute: Duration) -> f64 {
        let Some(known) = self.workers.get_mut(&worker) else { return 0.0 };
        let elapsed = self.now.saturating_sub(entry.dispatched_at);
        let seconds = compute.min(elapsed).as_secs_f64().max(LEAST);
        if let Some(expected) = self.latency.known_itself(entry.question) {
            known.keep_pace(seconds / expected);
        }
        self.latency.computed(entry.question, seconds / known.pace);
        seconds
    }

    /// The device an attempt ran on is gone, and with it all that was resident there when the attempt was sent.
    /// What was loaded since is on the new device.
    fn device_lost(&mut self, worker: WorkerId, entry: &InFlight) {
        let Some(known) = self.workers.get_mut(&worker) else { return };
        for (id, program) in &mut known.programs {
            let load = program.load_mut(entry.api);
            if matches!(load, LoadState::Resident { since } if *since <= entry.dispatched_at) {
                *load = LoadState::Absent;
                known.ledger.remove(*id, entry.api);
            }
        }
        self.pool_changed();
    }

    /// Counts a failure of a program on a worker, and opens the circuit between them when it is one too many.
    pub(super) fn circuit_failed(
        &mut self,
        worker: WorkerId,
        program: ProgramId,
        reason: &str,
        actions: &mut Vec<Action>,
    ) {
        let Some(known) = self.workers.get_mut(&worker) else { return };
        let circuit = &mut known.programs.entry(program).or_default().circuit;
        circuit.failures = circuit.failures.saturating_add(1);
        let trip = circuit.state == CircuitState::Trying || circuit.failures >= self.config.circuit.failures;
        if !trip || matches!(circuit.state, CircuitState::Open(_)) {
            return;
        }
        let until = self.now.saturating_add(self.config.circuit.cool_down);
        circuit.state = CircuitState::Open(until);
        let (failures, reason) = (circuit.failures, reason.to_owned());
        self.timers.set(until, Timer::Circuit(worker, program));
        actions.push(Action::Record(Record::CircuitOpened { worker, program, failures, until, reason }));
        self.pool_changed();
    }

    /// The cool-down is over: one request at a time may try.
    pub(super) fn circuit_due(&mut self, worker: WorkerId, program: ProgramId) {
        let Some(known) = self.workers.get_mut(&worker) else { return };
        if let Some(on_worker) = known.programs.get_mut(&program) {
            on_worker.circuit.state = CircuitState::Trying;
        }
        self.pool_changed();
    }

    fn circuit_succeeded(&mut self, worker: WorkerId, program: ProgramId, actions: &mut Vec<Action>) {
        let Some(known) = self.workers.get_mut(&worker) else { return };
        let Some(on_worker) = known.programs.get_mut(&program) else { return };
        let before = std::mem::take(&mut on_worker.circuit);
        known.prune(program);
        if let CircuitState::Open(until) = before.state {
            self.timers.clear(until, Timer::Circuit(worker, program));
        }
        if before.state != CircuitState::Closed {
            actions.push(Action::Record(Record::CircuitClosed { worker, program }));
            self.pool_changed();
        }
    }

    /// Whether a worker holds a program ready, for those who must know before they dispatch.
    pub(super) fn is_resident(&self, worker: WorkerId, program: ProgramId, api: Api) -> bool {
        let on_worker = self.workers.get(&worker).and_then(|known| known.programs.get(&program));
        on_worker.is_some_and(|on_worker| matches!(on_worker.load(api), LoadState::Resident { .. }))
    }
}
