//! Making room on workers: what is unloaded so that something else fits, and who has to wait for it.
//!
//! Unloading is *free* where nobody waits for what is unloaded. Where somebody does, two programs that do not fit together
//! are wanted at once, and take turns: one that was loaded stays for [`TURN`] times as long as a load takes, so that loading
//! stays the smaller part; then a lane that nobody serves *claims* the worker, which gets nothing else until what it runs has
//! ended and the load can begin.

use std::collections::BTreeSet;

use super::{Changed, Scheduler};
use crate::action::{Action, Record};
use crate::id::{Api, ProgramId, WorkerId, WorkerKind};
use crate::queue::LaneId;
use crate::worker::{LoadState, OnWorker, Worker};

/// How many times as long as its load takes a program stays at least, while others wait for its room.
const TURN: f64 = 4.0;

/// Whether a program can be loaded on a worker, as far as memory goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Room {
    /// Nothing that is wanted has to go for it.
    Free,
    /// What goes for it has had its turn.
    Taken,
    /// What would have to go for it has had its turn, and is at work.
    Busy,
    /// Not now. Perhaps in so many seconds, when what is there has had its turn.
    None(Option<f64>),
}

/// Something that could be unloaded.
#[derive(Clone, Copy, Debug)]
struct Victim {
    program: ProgramId,
    api: Api,
    /// Somebody waits for it.
    wanted: bool,
    /// It runs something.
    busy: bool,
    /// Seconds until it has had its turn.
    turn: f64,
    /// How little it is missed: seconds since its last use, times the bytes it frees, over the seconds of its load.
    weight: f64,
}

impl Victim {
    /// Those that go first come first.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        let class = |it: &Self| (it.busy, it.wanted && it.turn > 0.0, it.wanted);
        class(self).cmp(&class(other)).then(other.weight.total_cmp(&self.weight))
    }

    fn room(&self) -> Room {
        match (self.wanted && self.turn > 0.0, self.busy, self.wanted) {
            (true, ..) => Room::None(Some(self.turn)),
            (false, true, _) => Room::Busy,
            (false, false, true) => Room::Taken,
            (false, false, false) => Room::Free,
        }
    }
}

impl Scheduler {
    /// Whether a program could ever be loaded on a worker that holds nothing else.
    pub(super) fn fits_alone(&self, worker: &Worker, program: ProgramId, api: Api) -> bool {
        worker.memory.is_none_or(|limit| self.sizes.estimate(program, worker.kind, api).alone() <= limit)
    }

    /// Whether a program can be loaded on a worker beside all that is there.
    pub(super) fn fits_beside(&self, worker: &Worker, program: ProgramId, api: Api) -> bool {
        let cost = || worker.ledger.cost(api, &self.sizes.estimate(program, worker.kind, api));
        worker.memory.is_none_or(|limit| worker.ledger.used().saturating_add(cost()) <= limit)
    }

    /// Whether a program can be loaded on a worker now.
    pub(super) fn room(&self, worker: &Worker, program: ProgramId, api: Api) -> Room {
        self.make_room(worker, program, api).1
    }

    /// What would have to go so that a program fits on a worker, and whether it can.
    fn make_room(&self, worker: &Worker, program: ProgramId, api: Api) -> (Vec<Victim>, Room) {
        let Some(limit) = worker.memory else { return (Vec::new(), Room::Free) };
        if self.fits_beside(worker, program, api) {
            return (Vec::new(), Room::Free);
        }
        let estimate = self.sizes.estimate(program, worker.kind, api);
        let mut rest = worker.ledger.clone();
        let (mut gone, mut room) = (Vec::new(), Room::Free);
        for victim in self.victims(worker) {
            if (victim.program, victim.api) == (program, api) {
                continue;
            }
            rest.remove(victim.program, victim.api);
            room = worse(room, victim.room());
            gone.push(victim);
            if rest.used().saturating_add(rest.cost(api, &estimate)) <= limit {
                return (gone, room);
            }
        }
        (Vec::new(), Room::None(None))
    }

    /// What a worker holds ready, in the order in which it would go.
    fn victims(&self, worker: &Worker) -> Vec<Victim> {
        let wanted: BTreeSet<ProgramId> =
            self.queue.lanes().filter(|(_, lane)| lane.len() > 0).map(|(_, lane)| lane.key.program).collect();
        let mut victims = Vec::new();
        for (&program, on_worker) in &worker.programs {
            for api in Api::ALL {
                let LoadState::Resident { since } = on_worker.load(api) else { continue };
                let load = self.latency.load(program, worker.kind, api);
                let here = self.now.saturating_sub(*since).as_secs_f64();
                let idle = self.now.saturating_sub(on_worker.used_at(api)).as_secs_f64().max(1e-3);
                let freed = self.sizes.estimate(program, worker.kind, api).alone() as f64;
                victims.push(Victim {
                    program,
                    api,
                    wanted: wanted.contains(&program),
                    busy: on_worker.in_flight > 0,
                    turn: (load * TURN - here).max(0.0),
                    weight: idle * freed / load,
                });
            }
        }
        victims.sort_by(Victim::order);
        victims
    }

    /// Unloads what has to go for a program.
    pub(super) fn clear_room(&mut self, worker: WorkerId, program: ProgramId, api: Api, actions: &mut Vec<Action>) {
        let Some(known) = self.workers.get(&worker) else { return };
        let (gone, _) = self.make_room(known, program, api);
        for victim in gone {
            self.unload(worker, victim.program, victim.api, format!("room for {program}"), actions);
        }
    }

    pub(super) fn unload(
        &mut self,
        worker: WorkerId,
        program: ProgramId,
        api: Api,
        reason: String,
        actions: &mut Vec<Action>,
    ) {
        let Some(known) = self.workers.get_mut(&worker) else { return };
        let Some(on_worker) = known.programs.get_mut(&program) else { return };
        *on_worker.load_mut(api) = LoadState::Absent;
        let bytes = known.ledger.remove(program, api);
        known.prune(program);
        self.stats.unloads += 1;
        self.epoch += 1;
        actions.push(Action::Unload { worker, program, api, bytes, reason });
    }

    /// After a load took more than was expected, or sessions keep more: unloads what is not at work until the worker is within
    /// its limit again. The program just loaded goes last, and for good if it does not fit even alone.
    pub(super) fn trim(&mut self, worker: WorkerId, loaded: ProgramId, api: Api, actions: &mut Vec<Action>) {
        let Some(known) = self.workers.get(&worker) else { return };
        let Some(limit) = known.memory.filter(|limit| known.ledger.used() > *limit) else { return };
        let victims = self.victims(known);
        let others = victims.iter().filter(|victim| (victim.program, victim.api) != (loaded, api));
        let own = victims.iter().filter(|victim| (victim.program, victim.api) == (loaded, api));
        let mut last = None;
        for victim in others.chain(own).filter(|victim| !victim.busy) {
            let Some(known) = self.workers.get(&worker) else { return };
            if known.ledger.used() <= limit {
                return;
            }
            let reason = format!("{loaded} takes more than was expected");
            self.unload(worker, victim.program, victim.api, reason, actions);
            last = Some((victim.program, victim.api));
        }
        if last == Some((loaded, api)) {
            let kind = self.workers.get(&worker).map_or(WorkerKind::Remote, |known| known.kind);
            let takes = self.sizes.estimate(loaded, kind, api).alone();
            let reason = format!("it takes {}, of at most {}", bytes(takes), bytes(limit));
            actions.push(Action::Record(Record::TooLarge { worker, program: loaded, api, reason }));
        }
    }

    pub(super) fn states_changed(&mut self, worker: WorkerId, bytes: u64) {
        let Some(known) = self.workers.get_mut(&worker) else {
            self.stats.ignored.worker += 1;
            return;
        };
        let before = known.ledger.used();
        known.ledger.set_states(bytes);
        if known.memory.is_some() && known.ledger.used() < before {
            self.changed(Changed::Anything);
        }
    }

    /// A lane that nobody serves waits for room on a worker.
    pub(super) fn claim(&mut self, lane: LaneId, worker: WorkerId) {
        let Some(known) = self.workers.get_mut(&worker).filter(|known| known.claim.is_none()) else { return };
        let Some(queued) = self.queue.lane_mut(lane).filter(|queued| queued.claim.is_none()) else { return };
        known.claim = Some(lane);
        queued.claim = Some(worker);
    }

    /// A lane waits for room no more.
    pub(super) fn release(&mut self, lane: LaneId) {
        let claimed = self.queue.lane_mut(lane).and_then(|queued| queued.claim.take());
        if let Some(known) = claimed.and_then(|worker| self.workers.get_mut(&worker)) {
            known.claim = None;
            self.changed(Changed::Anything);
        }
    }

    /// What keeps a program from ever being loaded on a worker with an API, as far as memory goes.
    pub(super) fn explain_size(&self, worker: &Worker, program: ProgramId, api: Api) -> Option<String> {
        let limit = worker.memory?;
        let takes = self.sizes.estimate(program, worker.kind, api).alone();
        let on_worker = worker.programs.get(&program).map(OnWorker::is_loading);
        (takes > limit && on_worker != Some(true))
            .then(|| format!("it takes {} with {api}, of at most {}", bytes(takes), bytes(limit)))
    }
}

/// The worse of two.
fn worse(one: Room, other: Room) -> Room {
    match (one, other) {
        (Room::None(a), Room::None(b)) => Room::None(a.zip(b).map(|(a, b)| a.max(b))),
        (none @ Room::None(_), _) | (_, none @ Room::None(_)) => none,
        (Room::Busy, _) | (_, Room::Busy) => Room::Busy,
        (Room::Taken, _) | (_, Room::Taken) => Room::Taken,
        (Room::Free, Room::Free) => Room::Free,
    }
}

/// Bytes, for a person.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
