//! What the actor shows: views of its workers, and regular samples for the database.

use std::sync::Arc;

use tabpool_metrics::{PoolSample, Timestamp};
use tabpool_scheduler::{SlotId, WorkerId};

use super::links::Worker;
use super::slots::Slot;
use super::{Actor, Command};
use crate::launch::Running;
use crate::{WorkerState, WorkerView};

impl Actor {
    /// Publishes the views of all workers and slots, if anything about them changed.
    pub(super) fn publish(&self) {
        let mut views: Vec<WorkerView> = self.slots.iter().map(|(id, slot)| self.slot_view(*id, slot)).collect();
        views.sort_unstable_by_key(|v| v.slot);
        let mut guests: Vec<_> =
            self.workers.values().filter(|w| w.slot.is_none()).map(|w| view(None, w, self.held_by(w))).collect();
        guests.sort_unstable_by_key(|v| v.id);
        views.extend(guests);
        self.setup.views.send_if_modified(|published| {
            let same = published.len() == views.len()
                && published.iter().zip(&views).all(|(a, b)| {
                    a.id == b.id
                        && a.state == b.state
                        && a.starts == b.starts
                        && a.states == b.states
                        && a.memory == b.memory
                        && a.pid == b.pid
                        && a.last_reason == b.last_reason
                });
            if !same {
                *published = views;
            }
            !same
        });
    }

    fn slot_view(&self, id: SlotId, slot: &Slot) -> WorkerView {
        if let Some(worker) = self.workers.values().find(|w| w.slot == Some(id)) {
            return view(Some((id, slot)), worker, self.held_by(worker));
        }
        WorkerView {
            id: None,
            slot: Some(id.0),
            ticket: None,
            remote: String::new(),
            kind: slot.spec.kind(),
            state: if slot.set_aside { WorkerState::SetAside } else { WorkerState::Starting },
            capabilities: tabpool_protocol::Capabilities::default(),
            apis: Vec::new(),
            memory: (0, slot.spec.memory),
            states: (0, 0),
            session: String::new(),
            pid: slot.running.as_ref().and_then(Running::pid),
            start_up: None,
            starts: slot.starts,
            last_reason: slot.last_reason.clone(),
        }
    }

    fn held_by(&self, worker: &Worker) -> Held {
        let id = WorkerId(worker.link.id().0);
        let memory = self.scheduler.worker(id).map_or((0, None), |view| (view.memory, view.memory_limit));
        Held { states: self.sessions.on(id), memory }
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

/// What a worker's memory is taken by.
#[derive(Clone, Copy)]
struct Held {
    states: (usize, u64),
    memory: (u64, Option<u64>),
}

fn view(slot: Option<(SlotId, &Slot)>, worker: &Worker, held: Held) -> WorkerView {
    let state = match (worker.detached, worker.status.paused, worker.in_flight.is_empty()) {
        (true, ..) => WorkerState::Detached,
        (false, true, _) => WorkerState::Paused,
        (false, false, true) => WorkerState::Idle,
        (false, false, false) => WorkerState::Busy,
    };
    WorkerView {
        id: Some(worker.link.id()),
        slot: slot.map(|(id, _)| id.0),
        ticket: worker.ticket.as_ref().map(|ticket| ticket.id),
        remote: worker.remote.clone(),
        kind: worker.kind,
        state,
        capabilities: worker.capabilities.clone(),
        apis: worker.apis.clone(),
        memory: held.memory,
        states: held.states,
        session: worker.session.clone(),
        pid: slot.and_then(|(_, s)| s.running.as_ref()).and_then(Running::pid),
        start_up: worker.start_up,
        starts: slot.map_or(0, |(_, s)| s.starts),
        last_reason: slot.map(|(_, s)| s.last_reason.clone()).unwrap_or_default(),
    }
}

/// The resident bytes of this process, 0 where the system does not tell.
fn host_memory() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}
