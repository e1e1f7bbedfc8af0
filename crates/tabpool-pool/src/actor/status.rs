//! What a worker says of itself as it goes on: that it is to compute nothing for a while, or had better not.
//!
//! The scheduler knows no pauses. To it the worker is gone and comes back at once, willing to hold nothing; when the pause is over it
//! comes back willing to hold something. What it was computing is computed elsewhere, and what it has loaded stays where it is,
//! so that asking it to load that again moves nothing.

use tabpool_protocol::{Frame, Message, WorkerStatus};
use tabpool_scheduler::{Event, WorkerId};

use super::Actor;
use crate::PoolEvent;
use crate::target::scheduler_api;

/// How much later a worker is to be asked than others because it runs on its battery: charge in percent, and whether it is
/// being charged.
fn reluctance(battery: Option<(u8, bool)>) -> f64 {
    match battery {
        None | Some((_, true)) => 1.0,
        Some((50.., false)) => 1.5,
        Some((20.., false)) => 3.0,
        Some((_, false)) => 10.0,
    }
}

impl Actor {
    pub(super) fn told_status(&mut self, id: WorkerId, status: WorkerStatus) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let before = std::mem::replace(&mut worker.status, status);
        if before.paused != status.paused {
            self.turned(id, status.paused);
        }
        if reluctance(before.battery) != reluctance(status.battery) {
            self.handle(Event::Reluctant { worker: id, factor: reluctance(status.battery) });
        }
        self.recycle_if_due(id);
    }

    fn turned(&mut self, id: WorkerId, paused: bool) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let mut held: Vec<_> = worker.in_flight.drain().collect();
        held.sort_unstable();
        for (request, attempt) in held {
            // Nobody wants its answer any more. Where this does not arrive, the answer comes and is ignored.
            let cancel = Frame { id: request.0, message: Message::Cancel { attempt }, tensors: Vec::new() };
            let _ = worker.link.send(cancel);
        }
        worker.loading.clear();
        let slot = worker.slot;
        self.release_states(id);
        let worker = tabpool_bridge::WorkerId(id.0);
        self.tell(if paused { PoolEvent::Paused { worker } } else { PoolEvent::Unpaused { worker } });
        if slot.is_none() {
            // Says why what it held is computed elsewhere. A slot would be filled anew.
            self.handle(Event::Lost { worker: id, reason: "it was paused".to_owned() });
        }
        self.introduce(id);
    }

    /// Tells the scheduler of a worker, with all that is known of it.
    pub(super) fn introduce(&mut self, id: WorkerId) {
        let memory = self.memory_limit(id);
        let Some(worker) = self.workers.get(&id) else { return };
        let (slot, kind, factor) = (worker.slot, worker.kind, reluctance(worker.status.battery));
        let apis: Vec<_> = worker.apis.iter().copied().map(scheduler_api).collect();
        let distrusted: Vec<_> = worker.distrusted.iter().map(|(api, reason)| (*api, reason.clone())).collect();
        let credits = if worker.status.paused { 0 } else { u32::from(self.setup_credits()) };
        self.handle(Event::Joined { worker: id, slot, kind, apis, credits, memory });
        self.handle(Event::Reluctant { worker: id, factor });
        for (api, reason) in distrusted {
            self.handle(Event::ApiSetAside { worker: id, api, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::reluctance;

    #[test]
    fn a_worker_is_spared_the_more_the_less_its_battery_holds() {
        let unplugged = [100, 50, 49, 20, 19, 0].map(|percent| reluctance(Some((percent, false))));
        assert_eq!(unplugged, [1.5, 1.5, 3.0, 3.0, 10.0, 10.0]);
        assert_eq!([reluctance(None), reluctance(Some((3, true)))], [1.0, 1.0]);
    }
}
