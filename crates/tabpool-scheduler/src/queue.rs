//! The requests that wait, in the order in which they are due, without ever being sorted again.
//!
//! Ageing makes a request's claim grow while it waits. If it grows linearly, and equally fast for all, the order of
//! two waiting requests never changes: a step of priority is worth a fixed time of waiting, so a request is
//! simply filed as if it had come that much earlier. That is its [`Rank`], fixed at arrival.
//!
//! Requests that may run in the same places are interchangeable for placement and share a [`Lane`]. Only the
//! heads of lanes are ever looked at, so a thousand waiting requests cost no more than one.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use crate::id::{Api, ModelId, ProgramId, RequestId, WorkerId};
use crate::placement::Placement;

/// Empty lanes are kept for what they remember, up to this many.
const LANES_KEPT: usize = 256;

/// A request's place in the order: less goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    class: Class,
    /// Nanoseconds of arrival, moved by priority.
    arrival: i64,
    /// The number of the arrival: no two requests share it.
    sequence: u64,
}

/// What was accepted and lost through no fault of its own goes before everything that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Replayed,
    New,
}

impl Rank {
    fn new(now: Duration, priority: i8, ageing: Duration, sequence: u64) -> Self {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let advance = nanos(ageing).saturating_mul(i64::from(priority));
        Self { class: Class::New, arrival: nanos(now).saturating_sub(advance), sequence }
    }

    /// The same request's place when it comes back.
    pub(crate) fn replayed(self) -> Self {
        Self { class: Class::Replayed, ..self }
    }

    pub(crate) fn is_replayed(self) -> bool {
        self.class == Class::Replayed
    }
}

/// Names a lane within the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LaneId(u64);

/// What the requests of one lane have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LaneKey {
    pub(crate) model: ModelId,
    pub(crate) program: ProgramId,
    pub(crate) placement: Placement,
    /// The worker that failed them last: only if there is no other.
    pub(crate) avoid: Option<WorkerId>,
}

/// Requests that may run in the same places.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) key: LaneKey,
    waiting: BTreeMap<Rank, RequestId>,
    /// The cost the latest request stated, in ordinary requests.
    pub(crate) cost: f64,
    /// Where its requests may run, as of `epoch`.
    pub(crate) candidates: Vec<Candidate>,
    /// The count of changes to the pool for which `candidates` holds.
    pub(crate) epoch: u64,
    /// Seconds that requests waited for a busy worker since the last load for this lane; see `scheduler/place.rs`.
    pub(crate) regret: f64,
    /// Since when some worker has the program ready.
    pub(crate) ready_since: Option<Duration>,
    /// The worker on which its program waits for room.
    pub(crate) claim: Option<WorkerId>,
}

/// A worker and API that may run a lane's requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) worker: WorkerId,
    pub(crate) api: Api,
    pub(crate) readiness: Readiness,
    /// Its circuit lets one request through at a time.
    pub(crate) trying: bool,
}

/// How far the program is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Resident,
    Loading { since: Duration },
    Absent,
}

impl Lane {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn head(&self) -> Option<Rank> {
        self.waiting.first_key_value().map(|(rank, _)| *rank)
    }

    /// The request that `position` others of the lane precede.
    pub(crate) fn nth(&self, position: usize) -> Option<RequestId> {
        self.waiting.values().nth(position).copied()
    }
}

/// All requests that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lanes: BTreeMap<LaneId, Lane>,
    index: BTreeMap<LaneKey, LaneId>,
    /// The first request of every lane that has any.
    heads: BTreeMap<Rank, LaneId>,
    fresh: usize,
    replayed: usize,
    next_lane: u64,
    next_sequence: u64,
}

impl Queue {
    /// Requests waiting for their first attempt; the bound of admission applies to these.
    pub(crate) fn fresh(&self) -> usize {
        self.fresh
    }

    pub(crate) fn len(&self) -> usize {
        self.fresh + self.replayed
    }

    pub(crate) fn rank(&mut self, now: Duration, priority: i8, ageing: Duration) -> Rank {
        self.next_sequence += 1;
        Rank::new(now, priority, ageing, self.next_sequence)
    }

    /// The lane of this key, made if there is none.
    pub(crate) fn lane_for(&mut self, key: LaneKey) -> LaneId {
        if let Some(id) = self.index.get(&key) {
            return *id;
        }
        self.next_lane += 1;
        let id = LaneId(self.next_lane);
        self.index.insert(key, id);
        self.lanes.insert(
            id,
            Lane {
                key,
                waiting: BTreeMap::new(),
                cost: 1.0,
                candidates: Vec::new(),
                epoch: 0,
                regret: 0.0,
                ready_since: None,
                claim: None,
            },
        );
        id
    }

    pub(crate) fn lane(&self, id: LaneId) -> Option<&Lane> {
        self.lanes.get(&id)
    }

    pub(crate) fn lane_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.lanes.get_mut(&id)
    }

    pub(crate) fn push(&mut self, id: LaneId, rank: Rank, request: RequestId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let before = lane.head();
        if lane.waiting.insert(rank, request).is_some() {
            return;
        }
        *if rank.is_replayed() { &mut self.replayed } else { &mut self.fresh } += 1;
        if before.is_none_or(|head| rank < head) {
            if let Some(head) = before {
                self.heads.remove(&head);
            }
            self.heads.insert(rank, id);
        }
    }

    /// Takes a request out. An emptied lane is forgotten if it served a replay or if there are many.
    pub(crate) fn remove(&mut self, id: LaneId, rank: Rank) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let was_head = lane.head() == Some(rank);
        if lane.waiting.remove(&rank).is_none() {
            return;
        }
        *if rank.is_replayed() { &mut self.replayed } else { &mut self.fresh } -= 1;
        if was_head {
            self.heads.remove(&rank);
            if let Some(head) = lane.head() {
                self.heads.insert(head, id);
            }
        }
        let forgettable = lane.key.avoid.is_some() || lane.key.placement.worker.is_some();
        if lane.waiting.is_empty() && (forgettable || self.lanes.len() > LANES_KEPT) {
            self.forget(id);
        }
    }

    /// Drops a lane that holds nothing.
    pub(crate) fn forget(&mut self, id: LaneId) {
        if self.lanes.get(&id).is_some_and(|lane| lane.waiting.is_empty())
            && let Some(lane) = self.lanes.remove(&id)
        {
            self.index.remove(&lane.key);
        }
    }

    /// The lane whose head comes first after `rank`; the very first for `None`.
    pub(crate) fn next_head(&self, after: Option<Rank>) -> Option<(Rank, LaneId)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.heads.range((from, Bound::Unbounded)).next().map(|(rank, id)| (*rank, *id))
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        self.lanes.iter().map(|(id, lane)| (*id, lane))
    }

    pub(crate) fn requests(&self) -> impl Iterator<Item = (LaneId, Rank, RequestId)> {
        let of = |(id, lane): (LaneId, &Lane)| {
            lane.waiting.iter().map(move |(rank, request)| (id, *rank, *request)).collect::<Vec<_>>()
        };
        self.lanes().flat_map(of)
    }

    /// Whether the index of heads and the counts agree with the lanes.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let heads: BTreeMap<Rank, LaneId> =
            self.lanes().filter_map(|(id, lane)| lane.head().map(|head| (head, id))).collect();
        if heads != self.heads {
            return Err(format!("heads of lanes are {heads:?} and are kept as {:?}", self.heads));
        }
        let replayed = self.requests().filter(|(_, rank, _)| rank.is_replayed()).count();
        let all = self.requests().count();
        if (self.fresh, self.replayed) != (all - replayed, replayed) {
            return Err(format!("{all} requests wait, counted as {} and {}", self.fresh, self.replayed));
        }
        if self.index.len() != self.lanes.len() {
            return Err(format!("{} lanes, {} indexed", self.lanes.len(), self.index.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGEING: Duration = Duration::from_secs(1);

    fn key(program: u64) -> LaneKey {
        LaneKey { model: ModelId(1), program: ProgramId(program), placement: Placement::ANY, avoid: None }
    }

    /// Files requests given as (program, arrival in ms, priority), numbered from 0, and returns them in order.
    fn order(requests: &[(u64, u64, i8)]) -> Vec<u64> {
        let mut queue = Queue::default();
        for (number, (program, at, priority)) in requests.iter().enumerate() {
            let rank = queue.rank(Duration::from_millis(*at), *priority, AGEING);
            let lane = queue.lane_for(key(*program));
            queue.push(lane, rank, RequestId(number as u64));
        }
        drain(&mut queue)
    }

    fn drain(queue: &mut Queue) -> Vec<u64> {
        let mut order = Vec::new();
        while let Some((rank, lane)) = queue.next_head(None) {
            let request = queue.lane(lane).and_then(|lane| lane.nth(0)).expect("a head without a request");
            queue.remove(lane, rank);
            queue.audit().expect("the queue is consistent");
            order.push(request.0);
        }
        order
    }

    #[test]
    fn equal_priorities_go_first_come_first_served_across_lanes() {
        assert_eq!(order(&[(1, 0, 0), (2, 1, 0), (1, 2, 0), (2, 2, 0)]), [0, 1, 2, 3]);
    }

    #[test]
    fn a_higher_priority_overtakes() {
        assert_eq!(order(&[(1, 0, 0), (1, 1, 1), (2, 2, 2)]), [2, 1, 0]);
    }

    #[test]
    fn waiting_one_step_of_ageing_makes_up_for_one_step_of_priority() {
        assert_eq!(order(&[(1, 0, 0), (1, 999, 1), (1, 1001, 1)]), [1, 0, 2]);
    }

    #[test]
    fn what_comes_back_goes_before_everything() {
        let mut queue = Queue::default();
        let lane = queue.lane_for(key(1));
        let old = queue.rank(Duration::ZERO, 0, AGEING);
        let urgent = queue.rank(Duration::ZERO, 127, AGEING);
        queue.push(lane, urgent, RequestId(2));
        let other = queue.lane_for(LaneKey { avoid: Some(WorkerId(1)), ..key(1) });
        queue.push(other, old.replayed(), RequestId(1));
        assert_eq!((queue.fresh(), queue.len()), (1, 2));
        assert_eq!(drain(&mut queue), [1, 2]);
        assert_eq!(queue.lanes().count(), 1, "the lane of the replay was kept");
    }

    #[test]
    fn empty_lanes_are_bounded() {
        let mut queue = Queue::default();
        for program in 0..10_000 {
            let rank = queue.rank(Duration::ZERO, 0, AGEING);
            let lane = queue.lane_for(key(program));
            queue.push(lane, rank, RequestId(program));
            queue.remove(lane, rank);
        }
        assert!(queue.lanes().count() <= LANES_KEPT);
        queue.audit().expect("the queue is consistent");
    }
}
