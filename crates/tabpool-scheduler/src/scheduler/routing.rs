//! Which of its APIs a worker serves a program with.
//!
//! A worker has its APIs in an order, which is a belief. Where the caller has no wish of his own, measurements overrule it:
//!
//! - The first in the order serves until it has been measured. From then on, of the APIs with which a program is ready, the one
//!   that is expected to be clearly faster serves.
//! - One that is measured to be faster and not ready is loaded once its absence has cost as much time as its load: the same
//!   rule of rent or buy as for one more worker. Until then the others serve.
//! - One that nobody has measured with this model on this kind of worker is *tried*, once: it is loaded while nobody waits and
//!   memory is free, and gets the next few requests, or only one of them if that one took far longer than it would have
//!   elsewhere. Trials are begun only as far as they stay within a share of the time that the model's runs took there
//!   ([`ExploringConfig`](crate::ExploringConfig)).
//! - What was overtaken and is not used any more is unloaded.
//!
//! What follows a run in the same place counts with it: a session is begun where its steps are fast, not where its prompt is.
//!
//! Measurements are of a kind of worker, which is one browser on one machine. Guests are of many machines, of which one has a
//! GPU and another none: they keep their own order.

use std::time::Duration;

use super::Scheduler;
use crate::action::{Action, LoadReason};
use crate::id::{Api, ModelId, ProgramId, WorkerId, WorkerKind};
use crate::latency::Question;
use crate::placement::{ApiOrder, Placement};
use crate::queue::Readiness;
use crate::routes::{TRIAL, Trial};
use crate::worker::{InFlight, LoadState, OnWorker, Worker};

/// An API is clearly faster than another if it takes less than this share of its time: less is noise.
const CLEARLY: f64 = 0.9;
/// A trial ends with the first request that takes so many times as long as it would have elsewhere.
const FAR_SLOWER: f64 = 2.0;
/// What was overtaken is unloaded when it has not been used for so long.
const UNUSED_FOR: Duration = Duration::from_secs(60);

/// An API that may serve a program on a worker now or once it is loaded.
pub(super) type Way = (Api, Readiness);

/// What is asked of a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) model: ModelId,
    pub(super) program: ProgramId,
    pub(super) placement: Placement,
    pub(super) cost: f64,
}

impl Scheduler {
    /// The ways in which a worker may serve a task, the likeliest first.
    fn ways(&self, worker: &Worker, task: &Task) -> impl Iterator<Item = Way> {
        let on_worker = worker.programs.get(&task.program);
        let apis = task.placement.apis.on_offer(worker.apis);
        apis.filter(|api| worker.set_aside[api.index()].is_none()).filter_map(move |api| {
            let readiness = match on_worker.map(|on_worker| on_worker.load(api)) {
                None | Some(LoadState::Absent) if self.fits_alone(worker, task.program, api) => Readiness::Absent,
                None | Some(LoadState::Absent | LoadState::Refused { .. }) => return None,
                Some(LoadState::Loading { since, .. }) => Readiness::Loading { since: *since },
                Some(LoadState::Resident { .. }) => Readiness::Resident,
            };
            Some((api, readiness))
        })
    }

    /// The way in which a worker serves a task; `None` if there is none.
    pub(super) fn way(&self, id: WorkerId, worker: &Worker, task: &Task) -> Option<Way> {
        let mut ways = self.ways(worker, task);
        let first = ways.next()?;
        if !is_learned(worker, &task.placement) {
            return Some(first);
        }
        let ready = |way: &Way| way.1 == Readiness::Resident;
        let served = self.routes.served(task.model, worker.kind);
        let tried = |way: &Way| ready(way) && served.tries(id, task.program, way.0);
        if let Some(way) = self.ways(worker, task).find(tried) {
            return Some(way);
        }
        let Some(mut best) = self.seconds(worker, task, first.0).map(|seconds| (first, seconds)) else {
            return Some(first);
        };
        // Nobody waits for a load where somebody is ready.
        let nobody_ready =
            !self.ways(worker, task).any(|way| ready(&way) && self.seconds(worker, task, way.0).is_some());
        for way in ways {
            let Some(seconds) = self.seconds(worker, task, way.0) else { continue };
            let eligible = |way: &Way| nobody_ready || ready(way);
            if eligible(&way) && (!eligible(&best.0) || seconds < CLEARLY * best.1) {
                best = (way, seconds);
            }
        }
        Some(best.0)
    }

    /// Seconds that a task takes with an API, what follows it included; `None` where nothing like it was measured.
    fn seconds(&self, worker: &Worker, task: &Task, api: Api) -> Option<f64> {
        let Task { model, program, cost, .. } = *task;
        let question = Question { model, program, kind: worker.kind, api, cost };
        let own = self.latency.known(question)?;
        let Some((by, times)) = self.routes.followed(program) else { return Some(own) };
        // Of what follows only its own measurements count: a prompt's say little of a step's.
        let step = self.latency.known_itself(Question { program: by, ..question });
        Some(own + step.map_or(0.0, |step| step * times))
    }

    /// Takes note that a request is sent. Whether it is sent on trial.
    pub(super) fn sent_with(&mut self, worker: WorkerId, task: &Task, api: Api) -> bool {
        let Some(known) = self.workers.get(&worker) else { return false };
        let served = self.routes.served(task.model, known.kind);
        let on_trial = task.placement.apis == ApiOrder::ANY && served.tries(worker, task.program, api);
        if on_trial && self.routes.served_mut(task.model, known.kind).send_on_trial(api) {
            self.pool_changed();
        }
        on_trial
    }

    /// Learns from a run where else its like could be served, and sees to it that it will be.
    pub(super) fn learn(&mut self, worker: WorkerId, entry: &InFlight, seconds: f64, actions: &mut Vec<Action>) {
        let Question { model, program, kind, cost, .. } = entry.question;
        let served = self.routes.served_mut(model, kind);
        served.computed += seconds;
        if entry.on_trial {
            served.tried += seconds;
        }
        if served.is_trying() {
            self.end_slow_trial(entry);
        }
        // Of what nobody waits for any more nothing is known but that it ran.
        let Some(placement) = self.requests.get(&entry.request).map(|request| request.placement) else { return };
        let Some(known) = self.workers.get(&worker) else { return };
        let no_choice = known.apis.iter().nth(1).is_none();
        if no_choice || !is_learned(known, &placement) || placement.worker.is_some() || known.draining {
            return;
        }
        let task = Task { model, program, placement, cost };
        let Some((serves, _)) = self.way(worker, known, &task) else { return };
        if serves != entry.api {
            // Lanes look again at who serves them.
            self.pool_changed();
        }
        if !self.load_faster(worker, &task, entry.api, actions) {
            self.try_unmeasured(worker, &task, actions);
        }
        self.unload_overtaken(worker, &task, actions);
    }

    /// Ends a trial with the first run of any of the model's programs that is known to take far less elsewhere: a step of a
    /// session that was begun on trial, too.
    fn end_slow_trial(&mut self, entry: &InFlight) {
        let others = Api::ALL.into_iter().filter(|api| *api != entry.api);
        let known = others.filter_map(|api| self.latency.known_itself(Question { api, ..entry.question }));
        let best = known.fold(f64::INFINITY, f64::min);
        let here = self.latency.compute(entry.question);
        let Question { model, kind, .. } = entry.question;
        let going = matches!(self.routes.served(model, kind).trial(entry.api), Trial::Going { .. });
        if going && here > FAR_SLOWER * best {
            self.routes.served_mut(model, kind).end_trial(entry.api);
            self.pool_changed();
        }
    }

    /// A request that was sent on trial failed: no other is.
    pub(super) fn give_up_trial(&mut self, entry: &InFlight) {
        let Question { model, kind, .. } = entry.question;
        if self.routes.served_mut(model, kind).end_trial(entry.api) {
            self.pool_changed();
        }
    }

    /// Loads a program with an API that is measured to be faster, once its absence has cost as much as the load. Whether there
    /// is such an API.
    fn load_faster(&mut self, worker: WorkerId, task: &Task, serves: Api, actions: &mut Vec<Action>) -> bool {
        let Some(known) = self.workers.get(&worker) else { return false };
        let Some(here) = self.seconds(known, task, serves) else { return false };
        let absent = self.ways(known, task).filter(|way| way.1 == Readiness::Absent);
        let timed = absent.filter_map(|way| Some((way.0, self.seconds(known, task, way.0)?)));
        let Some((api, there)) = timed.min_by(|one, other| one.1.total_cmp(&other.1)) else { return false };
        if there >= CLEARLY * here {
            return false;
        }
        let load = self.latency.load(task.program, known.kind, api);
        let may = self.may_load_beside(known, task.program, api);
        let Some(on_worker) = self.workers.get_mut(&worker).and_then(|known| known.programs.get_mut(&task.program))
        else {
            return true;
        };
        on_worker.regret += here - there;
        if on_worker.regret >= load && may {
            on_worker.regret = 0.0;
            self.stats.overtaking += 1;
            self.start_load(worker, task.program, api, LoadReason::Faster { than: serves }, actions);
        }
        true
    }

    /// Begins a trial of an API that nobody has measured, where that disturbs nobody and is within bounds.
    fn try_unmeasured(&mut self, worker: WorkerId, task: &Task, actions: &mut Vec<Action>) {
        let Some(kind) = self.workers.get(&worker).map(|known| known.kind) else { return };
        self.end_lost_trials(task.model, kind);
        let Some(known) = self.workers.get(&worker) else { return };
        let served = self.routes.served(task.model, kind);
        if self.queue.len() > 0 || known.loads > 0 || served.is_trying() {
            return;
        }
        let may = |api: &Api| {
            let question =
                Question { model: task.model, program: task.program, kind: known.kind, api: *api, cost: task.cost };
            let load = self.latency.load(task.program, known.kind, *api);
            let expected = load + f64::from(TRIAL) * self.latency.compute(question);
            served.trial(*api) == Trial::Never
                && self.latency.known(question).is_none()
                && served.tried + expected <= served.computed * self.config.exploring.share
                && self.may_load_beside(known, task.program, *api)
        };
        let absent = self.ways(known, task).filter(|way| way.1 == Readiness::Absent).map(|way| way.0);
        let Some(api) = absent.into_iter().find(may) else { return };
        let load = self.latency.load(task.program, known.kind, api);
        self.routes.served_mut(task.model, known.kind).begin_trial(worker, task.program, api, load);
        self.stats.trials += 1;
        self.start_load(worker, task.program, api, LoadReason::Trial, actions);
    }

    /// Ends trials whose program did not come to its worker, or is gone from it.
    fn end_lost_trials(&mut self, model: ModelId, kind: WorkerKind) {
        let served = self.routes.served(model, kind);
        for api in Api::ALL {
            let Trial::Going { worker, program, .. } = served.trial(api) else { continue };
            let on_worker = self.workers.get(&worker).and_then(|known| known.programs.get(&program));
            let there = |it: &OnWorker| matches!(it.load(api), LoadState::Loading { .. } | LoadState::Resident { .. });
            if !on_worker.is_some_and(there) {
                self.routes.served_mut(model, kind).end_trial(api);
            }
        }
    }

    /// Whether a program can be loaded with one more API while it serves with another.
    fn may_load_beside(&self, worker: &Worker, program: ProgramId, api: Api) -> bool {
        let loading = worker.programs.get(&program).is_some_and(OnWorker::is_loading);
        let busy = loading || worker.loads >= self.config.loads_per_worker || worker.claim.is_some();
        !busy && self.fits_beside(worker, program, api)
    }

    /// Unloads a program from an API that was overtaken, when nobody has used it there for a while.
    fn unload_overtaken(&mut self, worker: WorkerId, task: &Task, actions: &mut Vec<Action>) {
        let Some(known) = self.workers.get(&worker) else { return };
        let Some(on_worker) = known.programs.get(&task.program).filter(|on_worker| on_worker.in_flight == 0) else {
            return;
        };
        let Some((serves, Readiness::Resident)) = self.way(worker, known, task) else { return };
        let Some(fastest) = self.seconds(known, task, serves) else { return };
        let unused = |api: Api| self.now.saturating_sub(on_worker.used_at(api)) >= UNUSED_FOR;
        let ready =
            self.ways(known, task).filter(|way| way.0 != serves && way.1 == Readiness::Resident && unused(way.0));
        let slower = ready.filter_map(|way| Some((way.0, self.seconds(known, task, way.0)?)));
        let overtaken: Vec<(Api, f64)> = slower.filter(|(_, seconds)| fastest < CLEARLY * seconds).collect();
        for (api, seconds) in overtaken {
            let reason = format!("{serves} is faster: {:.1} ms beside {:.1} ms", fastest * 1e3, seconds * 1e3);
            self.unload(worker, task.program, api, reason, actions);
        }
    }
}

/// Whether measurements decide which API serves: a caller's order is an order, and so is a guest's.
fn is_learned(worker: &Worker, placement: &Placement) -> bool {
    placement.apis == ApiOrder::ANY && worker.kind != WorkerKind::Remote
}
