//! What the actor shows: views of its workers, and regular samples for the database.

use std::sync::Arc;

use tabpool_metrics::{PoolSample, Timestamp};
use tabpool_scheduler::{SlotId, WorkerId, WorkerKind};

use super::links::Worker;
use super::slots::Slot;
use super::{Actor, Command};
use crate::launch::Running;
use crate::{WorkerState, WorkerView};

/// What of a view changes while its worker stays: all that is looked at with every event.
struct Glance<'a> {
    slot: Option<(SlotId, &'a Slot)>,
    worker: Option<&'a Worker>,
    state: WorkerState,
    states: (usize, u64),
    memory: (u64, Option<u64>),
}

impl Glance<'_> {
    fn worker_id(&self) -> Option<tabpool_bridge::WorkerId> {
        self.worker.map(|worker| worker.link.id())
    }

    fn slot_id(&self) -> Option<u64> {
        self.slot.map(|(id, _)| id.0)
    }

    fn pid(&self) -> Option<u32> {
        self.slot.and_then(|(_, slot)| slot.running.as_ref()).and_then(Running::pid)
    }

    fn starts(&self) -> u32 {
        self.slot.map_or(0, |(_, slot)| slot.starts)
    }

    fn last_reason(&self) -> &str {
        self.slot.map_or("", |(_, slot)| &slot.last_reason)
    }

    /// Whether a view is of the same worker in the same place.
    fn is_of(&self, view: &WorkerView) -> bool {
        (view.id, view.slot) == (self.worker_id(), self.slot_id())
    }

    /// Brings a view up to date; says whether it was not.
    fn refresh(&self, view: &mut WorkerView) -> bool {
        let figures = (self.starts(), self.states, self.memory, self.pid());
        let same = view.state == self.state
            && (view.starts, view.states, view.memory, view.pid) == figures
            && view.last_reason == self.last_reason();
        if !same {
            view.state.clone_from(&self.state);
            (view.starts, view.states, view.memory, view.pid) = figures;
            self.last_reason().clone_into(&mut view.last_reason);
        }
        !same
    }

    fn view(&self) -> WorkerView {
        let worker = self.worker;
        WorkerView {
            id: self.worker_id(),
            slot: self.slot_id(),
            ticket: worker.and_then(|worker| worker.ticket.as_ref()).map(|ticket| ticket.id),
            remote: worker.map(|worker| worker.remote.clone()).unwrap_or_default(),
            kind: worker
                .map(|worker| worker.kind)
                .or(self.slot.map(|(_, slot)| slot.spec.kind()))
                .unwrap_or(WorkerKind::Remote),
            state: self.state.clone(),
            capabilities: worker.map(|worker| worker.capabilities.clone()).unwrap_or_default(),
            apis: worker.map(|worker| worker.apis.clone()).unwrap_or_default(),
            memory: self.memory,
            states: self.states,
            session: worker.map(|worker| worker.session.clone()).unwrap_or_default(),
            pid: self.pid(),
            start_up: worker.and_then(|worker| worker.start_up),
            starts: self.starts(),
            last_reason: self.last_reason().to_owned(),
        }
    }
}

impl Actor {
    /// Publishes the views of all workers and slots, if anything about them changed. This follows every event, so what stays
    /// with a worker is not made anew as it becomes busy and idle.
    pub(super) fn publish(&self) {
        let now = self.glances();
        self.setup.views.send_if_modified(|published| {
            let same_workers =
                published.len() == now.len() && published.iter().zip(&now).all(|(view, now)| now.is_of(view));
            if !same_workers {
                *published = now.iter().map(Glance::view).collect();
                return true;
            }
            // Every view is to be refreshed, the first change notwithstanding.
            published.iter_mut().zip(&now).fold(false, |changed, (view, now)| now.refresh(view) || changed)
        });
    }

    /// The slots in order, then the workers that came by themselves.
    fn glances(&self) -> Vec<Glance<'_>> {
        let filled = self.slots.iter().map(|(id, slot)| {
            let worker = self.workers.values().find(|worker| worker.slot == Some(*id));
            self.glance(Some((*id, slot)), worker)
        });
        let guests = self.workers.values().filter(|worker| worker.slot.is_none());
        let mut all: Vec<_> = filled.chain(guests.map(|worker| self.glance(None, Some(worker)))).collect();
        all.sort_unstable_by_key(|glance| (glance.slot.is_none(), glance.slot_id(), glance.worker_id()));
        all
    }

    fn glance<'a>(&self, slot: Option<(SlotId, &'a Slot)>, worker: Option<&'a Worker>) -> Glance<'a> {
        let state = match (worker, slot) {
            (Some(worker), _) if worker.detached => WorkerState::Detached,
            (Some(worker), _) if worker.status.paused => WorkerState::Paused,
            (Some(worker), _) if worker.in_flight.is_empty() => WorkerState::Idle,
            (Some(_), _) => WorkerState::Busy,
            (None, Some((_, slot))) if slot.set_aside => WorkerState::SetAside,
            (None, _) => WorkerState::Starting,
        };
        let id = worker.map(|worker| WorkerId(worker.link.id().0));
        let states = id.map(|id| self.sessions.on(id)).unwrap_or_default();
        let memory = id.and_then(|id| self.scheduler.memory(id));
        let memory = memory.unwrap_or((0, slot.and_then(|(_, slot)| slot.spec.memory)));
        Glance { slot, worker, state, states, memory }
    }

    /// Records a sample of the pool, and has memory measured for the next.
    pub(super) fn sample(&mut self) {
        let count = |test: &dyn Fn(&Worker) -> bool| {
            u32::try_from(self.workers.values().filter(|w| test(w)).count()).unwrap_or(u32::MAX)
        };
        let waiting = |test: &dyn Fn(&Slot) -> bool| {
            let filled = |id: &SlotId| self.workers.values().any(|w| w.slot == Some(*id));
            u32::try_from(self.slots.iter().filter(|(id, s)| !filled(id) && test(s)).count()).unwrap_or(u32::MAX)
        };
        let stats = self.scheduler.stats();
        self.setup.recorder.record(PoolSample {
            at: Timestamp::now(),
            workers_starting: waiting(&|s| !s.set_aside),
            workers_idle: count(&|w| w.in_flight.is_empty()),
            workers_busy: count(&|w| !w.in_flight.is_empty()),
            workers_draining: 0,
            workers_set_aside: waiting(&|s| s.set_aside),
            queue_length: u32::try_from(self.scheduler.queued()).unwrap_or(u32::MAX),
            in_flight: u32::try_from(self.scheduler.in_flight()).unwrap_or(u32::MAX),
            accepted_total: stats.submitted - stats.rejected,
            finished_total: stats.finished,
            failed_total: self.failed_total,
            host_rss_bytes: self.memory.0,
            browsers_memory_bytes: self.memory.1,
        });
        let browsers: Vec<_> = self
            .slots
            .values()
            .filter_map(|slot| match &slot.running {
                Some(Running::Browser(browser)) => Some(Arc::downgrade(browser)),
                _ => None,
            })
            .collect();
        let commands = self.setup.commands.clone();
        // Reading the memory maps of a browser's processes takes milliseconds; the handles stay weak, so that nothing
        // here keeps a browser from being closed.
        tokio::task::spawn_blocking(move || {
            let of = |b: &std::sync::Weak<tabpool_browser::Browser>| b.upgrade()?.resident_memory();
            let browsers = browsers.iter().filter_map(of).sum();
            let _ = commands.try_send(Command::Memory { host: host_memory(), browsers });
        });
    }
}

/// The resident bytes of this process, 0 where the system does not tell.
fn host_memory() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}
