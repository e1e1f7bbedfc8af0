//! The requests that wait, in the order in which they are due, without ever being sorted again.
//!
//! Ageing makes a request's claim grow while it waits. If it grows linearly, and equally fast for all, the order of
//! two waiting requests never changes: a step of priority is worth a fixed time of waiting, so a request is
//! simply filed as if it had come that much earlier. That is its [`Rank`], fixed at arrival.
//!
//! Requests of one client that may run in the same places are interchangeable for placement and share a [`Lane`]. Only
//! the heads of lanes are ever looked at, so a thousand waiting requests cost no more than one.
//!
//! That order holds among the requests of one client. Between clients the one goes first that was served least: each
//! has a *turn*, which grows by the seconds of work that are sent out for it, and starts at the queue's clock, the
//! turn of whoever was served last, so that nobody is paid for the time in which he wanted nothing, or pays for having
//! been alone (start-time fair queueing, Goyal, Vin and Cheng 1996).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use crate::id::{Api, ClientId, ModelId, ProgramId, RequestId, WorkerId};
use crate::placement::Placement;

/// Empty lanes are kept for what they remember, up to this many.
const LANES_KEPT: usize = 256;
/// Clients of whom nothing waits are kept for what they were served, up to this many.
const CLIENTS_KEPT: usize = 1024;

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
    pub(crate) client: ClientId,
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

/// What one client has waiting, and how much he was served.
#[derive(Debug, Default)]
struct Client {
    /// Nanoseconds of work that were sent out for him, from where the clock stood when he came.
    turn: u64,
    /// The first request of each of his lanes that has any.
    heads: BTreeMap<Rank, LaneId>,
    /// His requests that wait for their first attempt.
    fresh: usize,
    /// In which placement pass his lanes were last visited, and the last head whose lane needs no other visit in it.
    visited: (u64, Option<Rank>),
}

impl Client {
    /// The first head that this pass has not done with.
    fn next(&self, pass: u64) -> Option<(Rank, LaneId)> {
        let done = if self.visited.0 == pass { self.visited.1 } else { None };
        let from = done.map_or(Bound::Unbounded, Bound::Excluded);
        self.heads.range((from, Bound::Unbounded)).next().map(|(rank, id)| (*rank, *id))
    }
}

/// All requests that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lanes: BTreeMap<LaneId, Lane>,
    index: BTreeMap<LaneKey, LaneId>,
    clients: BTreeMap<ClientId, Client>,
    /// The turn, before it was served, of whoever was served last.
    clock: u64,
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

    /// How many of a client's requests wait for their first attempt, and how many clients have any.
    pub(crate) fn fresh_of(&self, client: ClientId) -> (usize, usize) {
        let own = self.clients.get(&client).map_or(0, |client| client.fresh);
        (own, self.clients.values().filter(|client| client.fresh > 0).count())
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
        let client = self.clients.entry(lane.key.client).or_default();
        if client.heads.is_empty() {
            client.turn = client.turn.max(self.clock);
        }
        if rank.is_replayed() {
            self.replayed += 1;
        } else {
            self.fresh += 1;
            client.fresh += 1;
        }
        if before.is_none_or(|head| rank < head) {
            if let Some(head) = before {
                client.heads.remove(&head);
            }
            client.heads.insert(rank, id);
        }
    }

    /// Takes a request out. An emptied lane is forgotten if it served a replay or if there are many.
    pub(crate) fn remove(&mut self, id: LaneId, rank: Rank) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let was_head = lane.head() == Some(rank);
        if lane.waiting.remove(&rank).is_none() {
            return;
        }
        let client = self.clients.entry(lane.key.client).or_default();
        if rank.is_replayed() {
            self.replayed -= 1;
        } else {
            self.fresh -= 1;
            client.fresh -= 1;
        }
        if was_head {
            client.heads.remove(&rank);
            if let Some(head) = lane.head() {
                client.heads.insert(head, id);
            }
        }
        let forgettable = lane.key.avoid.is_some() || lane.key.placement.worker.is_some();
        if lane.waiting.is_empty() && (forgettable || self.lanes.len() > LANES_KEPT) {
            self.forget(id);
        }
        self.forget_clients();
    }

    /// Work of so many seconds is sent out for a client.
    pub(crate) fn charge(&mut self, client: ClientId, seconds: f64) {
        let nanos = Duration::try_from_secs_f64(seconds).map_or(u64::MAX, |work| work.as_nanos() as u64);
        if let Some(client) = self.clients.get_mut(&client) {
            self.clock = self.clock.max(client.turn);
            client.turn = client.turn.saturating_add(nanos);
        }
    }

    /// Forgets clients of whom nothing waits: where nobody waits, for then nobody had to be preferred, and where there are many.
    fn forget_clients(&mut self) {
        if self.len() == 0 {
            self.clients.clear();
            self.clock = 0;
        } else if self.clients.len() > CLIENTS_KEPT {
            self.clients.retain(|_, client| !client.heads.is_empty());
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

    /// The lane whose head comes first of those that a placement pass has not done with: of replays the oldest, else that
    /// of the client who was served least.
    pub(crate) fn next_head(&self, pass: u64) -> Option<(Rank, LaneId)> {
        let next = self.clients.values().filter_map(|client| Some((client, client.next(pass)?)));
        let turn = |client: &Client, rank: Rank| if rank.is_replayed() { 0 } else { client.turn };
        let order = |(one, (a, _)): &(&Client, (Rank, LaneId)), (other, (b, _)): &(&Client, (Rank, LaneId))| {
            let replays = b.is_replayed().cmp(&a.is_replayed());
            replays.then(turn(one, *a).cmp(&turn(other, *b))).then(a.cmp(b))
        };
        next.min_by(order).map(|(_, head)| head)
    }

    /// The lane of this head needs no other visit in this pass.
    pub(crate) fn done(&mut self, pass: u64, head: Rank, client: ClientId) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.visited = (pass, Some(head));
        }
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
        let mut heads: BTreeMap<ClientId, BTreeMap<Rank, LaneId>> = BTreeMap::new();
        for (id, lane) in self.lanes() {
            heads.entry(lane.key.client).or_default().extend(lane.head().map(|head| (head, id)));
        }
        heads.retain(|_, heads| !heads.is_empty());
        let kept: BTreeMap<_, _> = self.clients.iter().filter(|(_, client)| !client.heads.is_empty()).collect();
        if !heads.iter().eq(kept.iter().map(|(id, client)| (*id, &client.heads))) {
            return Err(format!("heads of lanes are {heads:?} and are kept as {kept:?}"));
        }
        if self.clients.values().map(|client| client.fresh).sum::<usize>() != self.fresh {
            return Err(format!("{} new requests are not those of {:?}", self.fresh, self.clients));
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
        of_client(0, program)
    }

    fn of_client(client: u64, program: u64) -> LaneKey {
        let (client, model, program) = (ClientId(client), ModelId(1), ProgramId(program));
        LaneKey { client, model, program, placement: Placement::ANY, avoid: None }
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
        while let Some((rank, lane)) = queue.next_head(1) {
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

    /// Serves `count` requests that each take a second, of clients given as (client, requests); whose they were.
    fn shares(queue: &mut Queue, count: usize) -> Vec<u64> {
        let mut served = Vec::new();
        for _ in 0..count {
            let (rank, lane) = queue.next_head(1).expect("somebody waits");
            let client = queue.lane(lane).expect("a lane").key.client;
            queue.charge(client, 1.0);
            queue.remove(lane, rank);
            queue.audit().expect("the queue is consistent");
            served.push(client.0);
        }
        served
    }

    fn flood(queue: &mut Queue, client: u64, count: u64) {
        for _ in 0..count {
            let rank = queue.rank(Duration::ZERO, 0, AGEING);
            let lane = queue.lane_for(of_client(client, 1));
            queue.push(lane, rank, RequestId(rank.sequence));
        }
    }

    #[test]
    fn whoever_comes_to_a_flood_gets_his_share_and_nothing_for_the_time_before() {
        let mut queue = Queue::default();
        flood(&mut queue, 1, 100);
        assert_eq!(shares(&mut queue, 10), [1; 10]);
        flood(&mut queue, 2, 4);
        assert_eq!(shares(&mut queue, 9), [2, 1, 2, 1, 2, 1, 2, 1, 1]);
        flood(&mut queue, 2, 2);
        flood(&mut queue, 3, 2);
        let mut both = shares(&mut queue, 6);
        both.sort_unstable();
        assert_eq!(both, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn what_waits_for_nobody_is_passed_over_in_its_pass_alone() {
        let mut queue = Queue::default();
        flood(&mut queue, 1, 1);
        flood(&mut queue, 2, 1);
        let (rank, lane) = queue.next_head(7).expect("two wait");
        queue.done(7, rank, queue.lane(lane).expect("a lane").key.client);
        let (other, second) = queue.next_head(7).expect("one waits");
        assert_ne!(lane, second);
        queue.done(7, other, queue.lane(second).expect("a lane").key.client);
        assert_eq!(queue.next_head(7), None);
        assert_eq!(queue.next_head(8), Some((rank, lane)));
    }

    #[test]
    fn clients_are_bounded() {
        let mut queue = Queue::default();
        flood(&mut queue, 0, 1);
        for client in 1..10_000 {
            flood(&mut queue, client, 1);
            let (rank, lane) = queue.next_head(client).expect("two wait");
            let served = queue.lane(lane).expect("a lane").key.client;
            queue.charge(served, 1.0);
            queue.remove(lane, rank);
            assert!(queue.clients.len() <= CLIENTS_KEPT + 1);
        }
        queue.audit().expect("the queue is consistent");
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
