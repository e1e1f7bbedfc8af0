//! Programs coming to workers and going from them.

use std::time::Duration;

use super::Scheduler;
use crate::action::{Action, LoadReason, Record};
use crate::event::LoadRetry;
use crate::id::{Api, ProgramId, WorkerId};
use crate::memory::Footprint;
use crate::timer::Timer;
use crate::worker::LoadState;

/// What a worker said of a load that failed.
#[derive(Debug)]
pub(super) struct LoadFailure {
    pub(super) reason: String,
    pub(super) retry: LoadRetry,
}

/// What a worker said of a load that succeeded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) took: Duration,
    pub(super) at_once: u32,
    pub(super) footprint: Footprint,
}

impl Scheduler {
    /// Begins a load; there is room for it.
    pub(super) fn start_load(
        &mut self,
        worker: WorkerId,
        program: ProgramId,
        api: Api,
        why: LoadReason,
        actions: &mut Vec<Action>,
    ) {
        let Some(known) = self.workers.get_mut(&worker) else { return };
        let due = self.now.saturating_add(self.config.load_timeout);
        *known.programs.entry(program).or_default().load_mut(api) =
            LoadState::Loading { since: self.now, due, overdue: false };
        known.loads += 1;
        known.ledger.add(program, api, self.sizes.estimate(program, known.kind, api));
        self.timers.set(due, Timer::Load(worker, program, api));
        self.stats.loads += 1;
        self.epoch += 1;
        actions.push(Action::Load { worker, program, api, why });
    }

    pub(super) fn load_finished(
        &mut self,
        worker: WorkerId,
        program: ProgramId,
        api: Api,
        load: Load,
        actions: &mut Vec<Action>,
    ) {
        let Some(ended) = self.end_load(worker, program, api) else { return };
        let Some(known) = self.workers.get_mut(&worker) else { return };
        let Load { took, at_once, footprint } = load;
        known.set_at_once(api, at_once, self.now);
        let on_worker = known.programs.entry(program).or_default();
        *on_worker.load_mut(api) = LoadState::Resident { since: self.now };
        on_worker.use_at(api, self.now);
        if !ended.overdue {
            known.timeouts_in_a_row = 0;
        }
        let took = took.min(self.now.saturating_sub(ended.since));
        self.latency.loaded(program, known.kind, api, took);
        self.sizes.learn(program, known.kind, api, footprint);
        known.ledger.correct(program, api, self.sizes.estimate(program, known.kind, api));
        self.trim(worker, program, api, actions);
        self.pool_changed();
    }

    pub(super) fn load_failed(
        &mut self,
        worker: WorkerId,
        program: ProgramId,
        api: Api,
        failure: LoadFailure,
        actions: &mut Vec<Action>,
    ) {
        if self.end_load(worker, program, api).is_none() {
            return;
        }
        let Some(known) = self.workers.get_mut(&worker) else { return };
        known.ledger.remove(program, api);
        let load = known.programs.entry(program).or_default().load_mut(api);
        let LoadFailure { reason, retry } = failure;
        match retry {
            LoadRetry::Never => {
                *load = LoadState::Refused { reason: reason.clone() };
                actions.push(Action::Record(Record::LoadRefused { worker, program, api, reason }));
            }
            LoadRetry::Later => {
                *load = LoadState::Absent;
                self.circuit_failed(worker, program, &format!("load with {api}: {reason}"), actions);
            }
        }
        self.pool_changed();
    }

    pub(super) fn unloaded(&mut self, worker: WorkerId, program: ProgramId, api: Api) {
        if !self.is_resident(worker, program, api) {
            self.stats.ignored.load += 1;
            return;
        }
        if let Some(known) = self.workers.get_mut(&worker) {
            if let Some(on_worker) = known.programs.get_mut(&program) {
                *on_worker.load_mut(api) = LoadState::Absent;
            }
            known.ledger.remove(program, api);
            known.prune(program);
        }
        self.pool_changed();
    }

    /// A load takes too long. It may still end well, so it is left alone once; a worker on which it stays silent
    /// for as long again is stopped.
    pub(super) fn load_overdue(&mut self, worker: WorkerId, program: ProgramId, api: Api, actions: &mut Vec<Action>) {
        let again = self.now.saturating_add(self.config.load_timeout);
        let Some(known) = self.workers.get_mut(&worker) else { return };
        let Some(on_worker) = known.programs.get_mut(&program) else { return };
        let LoadState::Loading { since, due, overdue } = on_worker.load_mut(api) else { return };
        let reason = format!("load of {program} with {api}: no answer in {:.0} s", {
            self.now.saturating_sub(*since).as_secs_f64()
        });
        let before = std::mem::replace(overdue, true);
        *due = again;
        self.timers.set(again, Timer::Load(worker, program, api));
        known.timeouts_in_a_row += 1;
        let silent = known.timeouts_in_a_row >= self.config.timeouts_before_stop;
        self.stats.load_timeouts += 1;
        if silent || before {
            self.stop_silent(worker, reason, actions);
        } else {
            self.circuit_failed(worker, program, &reason, actions);
        }
    }

    /// Takes note that a load that was asked for has ended somehow.
    fn end_load(&mut self, worker: WorkerId, program: ProgramId, api: Api) -> Option<EndedLoad> {
        let Some(known) = self.workers.get_mut(&worker) else {
            self.stats.ignored.worker += 1;
            return None;
        };
        let state = known.programs.get(&program).map(|on_worker| on_worker.load(api).clone());
        let Some(LoadState::Loading { since, due, overdue }) = state else {
            self.stats.ignored.load += 1;
            return None;
        };
        known.loads -= 1;
        self.timers.clear(due, Timer::Load(worker, program, api));
        Some(EndedLoad { since, overdue })
    }
}

/// A load that is no longer going on.
#[derive(Debug)]
struct EndedLoad {
    since: Duration,
    overdue: bool,
}
