//! Slots: starting what fills them, and starting it again.

use super::Scheduler;
use crate::action::{Action, Record, StopTarget};
use crate::id::{SlotId, WorkerKind};
use crate::slots::{Slot, SlotState};
use crate::timer::Timer;
use crate::worker::Worker;

impl Scheduler {
    pub(super) fn slot_added(&mut self, slot: SlotId, kind: WorkerKind) {
        if self.slots.contains_key(&slot) {
            self.stats.ignored.slot += 1;
            return;
        }
        self.slots.insert(slot, Slot::new(kind, self.now));
        self.timers.set(self.now, Timer::Slot(slot));
        self.pool_changed();
    }

    pub(super) fn slot_removed(&mut self, slot: SlotId, actions: &mut Vec<Action>) {
        let Some(place) = self.slots.remove(&slot) else {
            self.stats.ignored.slot += 1;
            return;
        };
        if let Some(due) = place.state.due() {
            self.timers.clear(due, Timer::Slot(slot));
        }
        match place.state {
            SlotState::Starting { .. } => {
                let reason = format!("{slot} is no longer wanted");
                actions.push(Action::Stop { target: StopTarget::Slot(slot), reason });
            }
            SlotState::Running { worker } => {
                if let Some(known) = self.workers.get_mut(&worker) {
                    known.slot = None;
                }
                self.drain(worker, actions);
            }
            SlotState::Waiting { .. } | SlotState::SetAside { .. } => {}
        }
        self.pool_changed();
    }

    pub(super) fn launch_failed(&mut self, slot: SlotId, reason: String, actions: &mut Vec<Action>) {
        let starting = self.slots.get(&slot).map(|place| place.state);
        let Some(SlotState::Starting { until }) = starting else {
            self.stats.ignored.slot += 1;
            return;
        };
        self.timers.clear(until, Timer::Slot(slot));
        self.start_was_useless(slot, reason, actions);
    }

    /// A slot's moment has come: to start, or to give up on what was started.
    pub(super) fn slot_due(&mut self, slot: SlotId, actions: &mut Vec<Action>) {
        let Some(place) = self.slots.get_mut(&slot) else { return };
        match place.state {
            SlotState::Waiting { .. } | SlotState::SetAside { .. } => {
                let until = self.now.saturating_add(self.config.restart.launch_timeout);
                place.state = SlotState::Starting { until };
                let attempt = place.failures.saturating_add(1);
                self.timers.set(until, Timer::Slot(slot));
                self.stats.launches += 1;
                actions.push(Action::Launch { slot, attempt });
            }
            SlotState::Starting { .. } => {
                let limit = self.config.restart.launch_timeout.as_secs_f64();
                let reason = format!("nothing joined within {limit:.0} s of the start");
                actions.push(Action::Stop { target: StopTarget::Slot(slot), reason: reason.clone() });
                self.start_was_useless(slot, reason, actions);
            }
            SlotState::Running { .. } => {}
        }
    }

    /// A worker is gone: its slot, if it has one, is filled anew, the sooner the more useful the worker was.
    pub(super) fn slot_lost(&mut self, worker: &Worker, reason: String, actions: &mut Vec<Action>) {
        let Some(slot) = worker.slot else { return };
        let lived = self.now.saturating_sub(worker.joined_at);
        if worker.useful || lived >= self.config.restart.useful_after {
            if let Some(place) = self.slots.get_mut(&slot) {
                place.ended(self.now, reason);
                self.timers.set(self.now, Timer::Slot(slot));
            }
        } else {
            self.start_was_useless(slot, reason, actions);
        }
    }

    fn start_was_useless(&mut self, slot: SlotId, reason: String, actions: &mut Vec<Action>) {
        let Some(place) = self.slots.get_mut(&slot) else { return };
        place.failed(self.now, reason.clone(), &self.config.restart, &mut self.chance);
        let failures = place.failures;
        match place.state {
            SlotState::SetAside { until } => {
                self.timers.set(until, Timer::Slot(slot));
                let reason = format!("{failures} starts in a row were of no use; the last: {reason}");
                actions.push(Action::SetAside { slot, reason, until });
            }
            SlotState::Waiting { until } => {
                self.timers.set(until, Timer::Slot(slot));
                let delay = until.saturating_sub(self.now);
                actions.push(Action::Record(Record::BackOff { slot, failures, delay, reason }));
            }
            SlotState::Starting { .. } | SlotState::Running { .. } => {}
        }
        self.pool_changed();
    }
}
