//! Sets of states: which worker holds what a session keeps between its runs.

use std::collections::{HashMap, HashSet};

use tabpool_protocol::{ApiKind, FaultKind, HeldStates, Message};
use tabpool_scheduler::{Api, Event, WorkerId};

use super::Actor;
use crate::session::{InSession, SessionId};
use crate::target::{protocol_api, scheduler_api};

/// Sessions and the sets they have. A session has one at most; one that has none has no entry.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    held: HashMap<SessionId, Held>,
    /// The number of the last set. Numbers are never used again, so that no run meets another's states.
    last: u64,
}

/// A set of states on a worker.
#[derive(Clone, Copy, Debug)]
struct Held {
    set: u64,
    worker: WorkerId,
    api: Api,
    /// What it takes on its device, once the worker has said so.
    bytes: Option<u64>,
}

/// What is to be told to workers, so that a run finds its states.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrangement {
    /// The set that the run names.
    pub(super) set: u64,
    /// Whether it must be made before.
    pub(super) make: bool,
    /// What the session had elsewhere and needs no more.
    pub(super) free: Option<(WorkerId, u64)>,
}

impl Sessions {
    /// Finds the set for a run of a session on a worker. One that begins the session has a set made where there is none, and
    /// gives up the one it had elsewhere; any other has to find it there.
    pub(super) fn arrange(&mut self, session: &InSession, worker: WorkerId, api: Api) -> Option<Arrangement> {
        let before = self.held.get(&session.id).copied();
        if let Some(held) = before.filter(|held| (held.worker, held.api) == (worker, api)) {
            return Some(Arrangement { set: held.set, make: false, free: None });
        }
        if !session.begins {
            return None;
        }
        self.last += 1;
        self.held.insert(session.id, Held { set: self.last, worker, api, bytes: None });
        Some(Arrangement { set: self.last, make: true, free: before.map(|held| (held.worker, held.set)) })
    }

    /// A session is over: what is to be freed, and where.
    fn end(&mut self, session: SessionId) -> Option<(WorkerId, u64)> {
        self.held.remove(&session).map(|held| (held.worker, held.set))
    }

    fn made(&mut self, worker: WorkerId, set: u64, bytes: u64) {
        if let Some(held) = self.held.values_mut().find(|held| (held.worker, held.set) == (worker, set)) {
            held.bytes = Some(bytes);
        }
    }

    /// Forgets sets of a worker.
    fn forget(&mut self, worker: WorkerId, gone: impl Fn(u64, Api) -> bool) {
        self.held.retain(|_, held| held.worker != worker || !gone(held.set, held.api));
    }

    /// Forgets all sets of a worker; gives their numbers.
    fn release(&mut self, worker: WorkerId) -> Vec<u64> {
        let sets = self.held.values().filter(|held| held.worker == worker).map(|held| held.set).collect();
        self.forget(worker, |_, _| true);
        sets
    }

    /// Compares with what a worker that is back says it holds; gives the sets that nobody needs.
    fn resume(&mut self, worker: WorkerId, holds: &[HeldStates]) -> Vec<u64> {
        let there: HashSet<u64> = holds.iter().map(|held| held.states).collect();
        self.forget(worker, |set, _| !there.contains(&set));
        for held in holds {
            if let Some(bytes) = held.bytes {
                self.made(worker, held.states, bytes);
            }
        }
        let wanted: HashSet<u64> = self.held.values().filter(|h| h.worker == worker).map(|h| h.set).collect();
        there.difference(&wanted).copied().collect()
    }

    /// How many sets a worker has, and the bytes they take there as far as it has said.
    pub(super) fn on(&self, worker: WorkerId) -> (usize, u64) {
        let there = self.held.values().filter(|held| held.worker == worker);
        there.fold((0, 0), |(sets, bytes), held| (sets + 1, bytes + held.bytes.unwrap_or(0)))
    }
}

impl Actor {
    /// Sees to it that a run of a session finds its states; gives the number of their set, or why there is none.
    pub(super) fn arrange_states(&mut self, session: &InSession, id: WorkerId, api: Api) -> Result<u64, String> {
        let arranged = self.sessions.arrange(session, id, api);
        let Arrangement { set, make, free } = arranged.ok_or("what its session had computed is lost")?;
        if let Some((worker, set)) = free {
            self.free_states(worker, set);
            self.count_states(worker);
        }
        if make && let Some(worker) = self.workers.get(&id) {
            let lease_ms = u32::try_from(session.lease.as_millis()).unwrap_or(u32::MAX);
            let (api, specs) = (protocol_api(api), session.specs.to_vec());
            // Where this does not arrive, neither does the run.
            let _ = worker.link.send(Message::MakeStates { states: set, api, lease_ms, specs }.into());
        }
        Ok(set)
    }

    /// Nobody has a session any more.
    pub(super) fn end_session(&mut self, session: SessionId) {
        if let Some((worker, set)) = self.sessions.end(session) {
            self.free_states(worker, set);
            self.count_states(worker);
        }
    }

    /// Has the scheduler hear, before anything else, what sessions take on a worker.
    fn count_states(&mut self, worker: WorkerId) {
        let (_, bytes) = self.sessions.on(worker);
        self.follow_ups.push_back(Event::States { worker, bytes });
    }

    /// Where the link is cut, the set is freed when the worker is back.
    fn free_states(&self, worker: WorkerId, states: u64) {
        if let Some(worker) = self.workers.get(&worker) {
            let _ = worker.link.send(Message::FreeStates { states }.into());
        }
    }

    pub(super) fn states_made(&mut self, id: WorkerId, set: u64, bytes: u64) {
        self.sessions.made(id, set, bytes);
        self.count_states(id);
    }

    /// The runs that name the set fail by themselves, with what the worker says of it.
    pub(super) fn states_gone(&mut self, id: WorkerId, set: u64, reason: &str) {
        tracing::info!(worker = %id, set, reason, "states are gone");
        self.sessions.forget(id, |other, _| other == set);
        self.count_states(id);
    }

    pub(super) fn states_failed(&mut self, id: WorkerId, set: u64, fault: FaultKind, reason: &str) {
        // It is there already: a frame that was repeated.
        if fault != FaultKind::Worker {
            self.states_gone(id, set, reason);
        }
    }

    pub(super) fn states_resumed(&mut self, id: WorkerId, holds: &[HeldStates]) {
        for set in self.sessions.resume(id, holds) {
            self.free_states(id, set);
        }
        self.count_states(id);
    }

    /// A device is gone with every set that lay on it.
    pub(super) fn states_lost_with(&mut self, id: WorkerId, api: ApiKind) {
        self.sessions.forget(id, |_, other| other == scheduler_api(api));
        self.count_states(id);
    }

    /// A worker keeps no states any more: its sessions begin elsewhere.
    pub(super) fn release_states(&mut self, id: WorkerId) {
        for set in self.sessions.release(id) {
            self.free_states(id, set);
        }
    }

    /// A worker is gone.
    pub(super) fn states_lost(&mut self, id: WorkerId) {
        self.sessions.forget(id, |_, _| true);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tabpool_protocol::{ApiKind, HeldStates};
    use tabpool_scheduler::{Api, WorkerId};

    use super::{Arrangement, Sessions};
    use crate::session::{InSession, SessionId};

    fn run(begins: bool) -> InSession {
        InSession { id: SessionId(1), begins, specs: Vec::new().into(), lease: Duration::from_secs(1), followed: None }
    }

    #[test]
    fn a_session_has_one_set_and_only_its_first_run_makes_one() {
        let (mut sessions, one, other) = (Sessions::default(), WorkerId(1), WorkerId(2));
        assert_eq!(sessions.arrange(&run(false), one, Api::Cpu), None);
        let made = Arrangement { set: 1, make: true, free: None };
        assert_eq!(sessions.arrange(&run(true), one, Api::Cpu), Some(made));
        let found = Some(Arrangement { set: 1, make: false, free: None });
        assert_eq!(sessions.arrange(&run(false), one, Api::Cpu), found);
        assert_eq!(sessions.arrange(&run(true), one, Api::Cpu), found, "a first run that is tried again");
        assert_eq!(sessions.arrange(&run(false), one, Api::WebGpu), None);
        assert_eq!(sessions.arrange(&run(false), other, Api::Cpu), None);
        let moved = Arrangement { set: 2, make: true, free: Some((one, 1)) };
        assert_eq!(sessions.arrange(&run(true), other, Api::Cpu), Some(moved));
        assert_eq!((sessions.on(one), sessions.on(other)), ((0, 0), (1, 0)));
        sessions.made(other, 2, 4096);
        sessions.made(one, 2, 1);
        assert_eq!(sessions.on(other), (1, 4096));
        assert_eq!((sessions.end(SessionId(1)), sessions.end(SessionId(1))), (Some((other, 2)), None));
    }

    #[test]
    fn a_worker_that_is_back_keeps_what_is_wanted_and_what_it_lost_is_forgotten() {
        let (mut sessions, worker) = (Sessions::default(), WorkerId(1));
        for id in 1..=3 {
            sessions.arrange(&InSession { id: SessionId(id), ..run(true) }, worker, Api::WebGpu);
        }
        assert_eq!(sessions.end(SessionId(3)), Some((worker, 3)));
        let held = |states| HeldStates { states, api: ApiKind::WebGpu, bytes: Some(100 * states) };
        // The link was cut when the third was to be freed, and before the first was to be made.
        assert_eq!(sessions.resume(worker, &[held(2), held(3)]), [3]);
        assert_eq!(sessions.on(worker), (1, 200));
        assert_eq!(sessions.arrange(&run(false), worker, Api::WebGpu), None);
        sessions.forget(worker, |_, api| api == Api::WebGpu);
        assert_eq!(sessions.on(worker), (0, 0));
        sessions.arrange(&run(true), worker, Api::Cpu);
        assert_eq!((sessions.release(worker), sessions.release(worker)), (vec![4], vec![]));
    }
}
