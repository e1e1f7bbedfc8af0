//! Pauses: somebody at a worker wants it to compute nothing for a while.
//!
//! The scheduler knows no pauses. To it the worker is gone and comes back at once, willing to hold nothing; when the pause is over it
//! comes back willing to hold something. What it was computing is computed elsewhere, and what it has loaded stays where it is,
//! so that asking it to load that again moves nothing.

use tabpool_protocol::{Frame, Message, WorkerStatus};
use tabpool_scheduler::{Event, WorkerId};

use super::Actor;
use crate::PoolEvent;
use crate::target::scheduler_api;

impl Actor {
    pub(super) fn told_status(&mut self, id: WorkerId, status: WorkerStatus) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let before = std::mem::replace(&mut worker.status, status).paused;
        if before != status.paused {
            self.turned(id, status.paused);
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
        let (slot, kind) = (worker.slot, worker.kind);
        let apis: Vec<_> = worker.apis.iter().copied().map(scheduler_api).collect();
        self.release_states(id);
        let credits = if paused { 0 } else { u32::from(self.setup_credits()) };
        let worker = tabpool_bridge::WorkerId(id.0);
        self.tell(if paused { PoolEvent::Paused { worker } } else { PoolEvent::Unpaused { worker } });
        if slot.is_none() {
            // Says why what it held is computed elsewhere. A slot would be filled anew.
            self.handle(Event::Lost { worker: id, reason: "it was paused".to_owned() });
        }
        let memory = self.memory_limit(id);
        self.handle(Event::Joined { worker: id, slot, kind, apis, credits, memory });
    }
}
