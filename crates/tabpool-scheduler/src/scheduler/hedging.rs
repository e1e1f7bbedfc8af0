//! Second attempts beside a first that takes long: whichever answers first answers the request.
//!
//! An attempt that takes several times as long as expected has met a machine that does something else, or one that will never
//! answer; its time-out is far longer, for a program may be slow. A request that may run twice is sent to another worker that
//! has its program ready and nothing better to do, where that is expected to be done sooner than the first has waited
//! already. There are never more than two attempts at once, and no more of these than a small share of all.

use std::time::Duration;

use super::place::Target;
use super::{RequestState, Scheduler};
use crate::action::{Action, Record};
use crate::id::{RequestId, WorkerId};
use crate::latency::Question;
use crate::placement::Offer;
use crate::queue::{LaneKey, Readiness};
use crate::timer::Timer;
use crate::worker::Standing;

/// The attempts of a request that are under way and wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flights {
    one: (WorkerId, u32),
    other: Option<(WorkerId, u32)>,
}

impl Flights {
    pub(super) fn new(worker: WorkerId, attempt: u32) -> Self {
        Self { one: (worker, attempt), other: None }
    }

    fn with(self, worker: WorkerId, attempt: u32) -> Self {
        Self { other: Some((worker, attempt)), ..self }
    }

    /// What goes on when one of them has ended.
    pub(super) fn without(self, worker: WorkerId, attempt: u32) -> Option<Self> {
        let mut rest = self.iter().filter(|flight| *flight != (worker, attempt));
        let one = rest.next()?;
        Some(Self { one, other: rest.next() })
    }

    pub(super) fn iter(self) -> impl Iterator<Item = (WorkerId, u32)> {
        [Some(self.one), self.other].into_iter().flatten()
    }

    /// The worker that was given the request first.
    pub(super) fn first(self) -> WorkerId {
        self.one.0
    }
}

impl RequestState {
    /// The same with one more attempt under way.
    pub(super) fn and(self, worker: WorkerId, attempt: u32) -> Self {
        Self::InFlight(match self {
            Self::InFlight(flights) => flights.with(worker, attempt),
            Self::Queued { .. } => Flights::new(worker, attempt),
        })
    }
}

impl Scheduler {
    /// When an attempt that is sent now has taken long enough for another beside it; `None` where there must be none.
    pub(super) fn hedge_at(&self, request: RequestId, expected: Duration) -> Option<Duration> {
        let hedging = &self.config.hedging;
        let known = self.requests.get(&request)?;
        let alone = matches!(known.state, RequestState::Queued { .. });
        let may = known.repeatable && alone && hedging.share > 0.0 && known.attempts + 1 < known.max_attempts;
        may.then(|| self.now.saturating_add(expected.mul_f64(hedging.patience).max(hedging.at_least)))
    }

    /// An attempt has taken long: another is made beside it, if there is a worker for it.
    pub(super) fn hedge_due(&mut self, worker: WorkerId, request: RequestId, attempt: u32, actions: &mut Vec<Action>) {
        let now = self.now;
        let Some(entry) = self.workers.get_mut(&worker).and_then(|known| known.in_flight_mut(request, attempt)) else {
            return;
        };
        entry.hedge_at = None;
        if entry.standing != Standing::Wanted {
            return;
        }
        let waited = now.saturating_sub(entry.dispatched_at);
        if let Some(to) = self.hedge_target(worker, request, waited.as_secs_f64()) {
            self.stats.hedged += 1;
            let helper = to.candidate.worker;
            self.dispatch(request, &to, actions);
            actions.push(Action::Record(Record::Hedged { request, slow: worker, worker: helper, waited }));
            return;
        }
        // Perhaps later; ever more seldom.
        let again = now.saturating_add(waited.max(self.config.hedging.at_least));
        if let Some(entry) = self.workers.get_mut(&worker).and_then(|known| known.in_flight_mut(request, attempt)) {
            entry.hedge_at = Some(again);
            self.timers.set(again, Timer::Hedge(worker, request, attempt));
        }
    }

    /// The worker that would be done soonest, if it is sooner than the first attempt has waited.
    fn hedge_target(&self, slow: WorkerId, request: RequestId, waited: f64) -> Option<Target> {
        let most = self.stats.dispatched as f64 * self.config.hedging.share;
        if self.stats.hedged as f64 >= most {
            return None;
        }
        let known = self.requests.get(&request)?;
        let (model, program, placement) = (known.model, known.program, known.placement);
        let key = LaneKey { client: known.client, model, program, placement, avoid: None };
        let others = self.workers.iter().filter(|(id, _)| **id != slow);
        let targets = others.filter_map(|(id, worker)| {
            let candidate = self.candidate(*id, worker, &key, known.cost)?;
            let ready = candidate.readiness == Readiness::Resident && !candidate.trying && worker.claim.is_none();
            if !ready || worker.free_credits() == 0 {
                return None;
            }
            let (kind, api) = (worker.kind, candidate.api);
            let compute = self.latency.compute(Question { model, program, kind, api, cost: known.cost }) * worker.pace;
            let start = worker.backlog(api, self.now);
            Some(Target { candidate, offer: Offer { start, compute, at_once: f64::from(worker.at_once(api)) } })
        });
        let best = targets.min_by(|one, other| one.offer.finish().total_cmp(&other.offer.finish()))?;
        (best.offer.finish() < waited).then_some(best)
    }

    /// An attempt has answered for its request: the other is not wanted any more.
    pub(super) fn unwant_others(
        &mut self,
        request: RequestId,
        worker: WorkerId,
        attempt: u32,
        actions: &mut Vec<Action>,
    ) {
        let Some(RequestState::InFlight(flights)) = self.requests.get(&request).map(|known| known.state) else {
            return;
        };
        if let Some(others) = flights.without(worker, attempt) {
            self.unwant(request, others, actions);
        }
    }

    /// Takes back attempts. They keep their credits until their workers have answered: only those know when they are free
    /// again.
    pub(super) fn unwant(&mut self, request: RequestId, flights: Flights, actions: &mut Vec<Action>) {
        for (worker, attempt) in flights.iter() {
            let holder = self.workers.get_mut(&worker);
            if let Some(entry) = holder.and_then(|holder| holder.in_flight_mut(request, attempt)) {
                entry.standing = Standing::Unwanted;
                actions.push(Action::CancelOn { worker, request, attempt });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Flights, WorkerId};

    #[test]
    fn what_goes_on_is_what_has_not_ended() {
        let one = Flights::new(WorkerId(1), 1);
        assert_eq!(one.without(WorkerId(1), 1), None);
        let both = one.with(WorkerId(2), 2);
        assert_eq!(both.without(WorkerId(1), 1), Some(Flights::new(WorkerId(2), 2)));
        assert_eq!(both.without(WorkerId(2), 2), Some(one));
        assert_eq!(both.without(WorkerId(2), 1), Some(both), "another attempt");
    }
}
