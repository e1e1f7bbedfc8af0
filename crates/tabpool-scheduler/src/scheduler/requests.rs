//! Requests from submission to their one answer: admission, cancelling, deadlines, and going back to the queue.

use std::time::Duration;

use super::{Changed, Request, RequestState, Scheduler};
use crate::action::{Action, FailureCause, Outcome, Record};
use crate::event::Submit;
use crate::id::{ClientId, RequestId, WorkerId};
use crate::queue::{LaneId, LaneKey, Rank};
use crate::timer::Timer;

/// Costs outside this range say more about the caller's arithmetic than about the program.
const COST_RANGE: (f64, f64) = (1e-4, 1e6);

/// A cost that can be reckoned with.
pub(super) fn sound_cost(cost: f32) -> f64 {
    let cost = f64::from(cost);
    if cost.is_finite() { cost.clamp(COST_RANGE.0, COST_RANGE.1) } else { 1.0 }
}

impl Scheduler {
    pub(super) fn submit(&mut self, submit: &Submit, actions: &mut Vec<Action>) {
        if self.requests.contains_key(&submit.request) {
            self.stats.ignored.request += 1;
            return;
        }
        self.stats.submitted += 1;
        if !self.has_place(submit.client) {
            let queued = self.queue.fresh();
            let retry_after = self.throughput.retry_after(self.now, queued);
            let reason = format!("{queued} requests are waiting, which is as many as may");
            self.answer(submit.request, Outcome::Rejected { retry_after, reason }, actions);
            return;
        }
        let deadline = submit.deadline.unwrap_or_else(|| self.now.saturating_add(self.config.request_timeout));
        let lane = self.queue.lane_for(LaneKey {
            client: submit.client,
            model: submit.model,
            program: submit.program,
            placement: submit.placement,
            avoid: None,
        });
        let cost = sound_cost(submit.cost);
        let rank = self.queue.rank(self.now, submit.priority, self.config.ageing);
        let most = self.config.max_attempts;
        let max_attempts = submit.max_attempts.map_or(most, |wanted| wanted.clamp(1, most));
        let request = Request {
            client: submit.client,
            model: submit.model,
            program: submit.program,
            placement: submit.placement,
            cost,
            rank,
            submitted_at: self.now,
            deadline,
            attempts: 0,
            max_attempts,
            repeatable: submit.repeatable,
            reasons: Vec::new(),
            state: RequestState::Queued { lane },
        };
        self.requests.insert(submit.request, request);
        self.timers.set(deadline, Timer::Request(submit.request));
        if let Some(lane) = self.queue.lane_mut(lane) {
            lane.cost = cost;
        }
        self.queue.push(lane, rank, submit.request);
        self.changed(Changed::Lane(lane));
    }

    /// Whether one more request of a client may wait. Where others fill the queue, a client has places beyond it, for as long as
    /// he has less than his share of it.
    fn has_place(&self, client: ClientId) -> bool {
        let (queued, most) = (self.queue.fresh(), self.config.max_queued);
        let (own, clients) = self.queue.fresh_of(client);
        let share = most / (clients + usize::from(own == 0));
        queued < most || own < share && queued < most.saturating_mul(2)
    }

    pub(super) fn cancel(&mut self, request: RequestId, actions: &mut Vec<Action>) {
        if self.requests.contains_key(&request) {
            self.give_up(request, Outcome::Cancelled, actions);
        } else {
            self.stats.ignored.request += 1;
        }
    }

    pub(super) fn deadline_passed(&mut self, request: RequestId, actions: &mut Vec<Action>) {
        if let Some(known) = self.requests.get(&request) {
            let reason = self.explain_wait(known);
            self.give_up(request, Outcome::TimedOut { reason }, actions);
        }
    }

    /// Answers a request that may be anywhere. What runs of it on workers is no longer wanted.
    fn give_up(&mut self, request: RequestId, outcome: Outcome, actions: &mut Vec<Action>) {
        let Some(known) = self.requests.get(&request) else { return };
        match known.state {
            RequestState::Queued { lane } => {
                let rank = known.rank;
                self.unqueue(lane, rank);
            }
            RequestState::InFlight(flights) => self.unwant(request, flights, actions),
        }
        self.answer(request, outcome, actions);
    }

    /// Takes a request out of the queue. A lane that is empty waits for no room.
    pub(super) fn unqueue(&mut self, lane: LaneId, rank: Rank) {
        if self.queue.lane(lane).is_some_and(|queued| queued.len() == 1) {
            self.release(lane);
        }
        self.queue.remove(lane, rank);
    }

    /// The one place that answers: forgets the request, so that nothing can answer it again.
    ///
    /// A queued request must be out of the queue before.
    pub(super) fn answer(&mut self, request: RequestId, outcome: Outcome, actions: &mut Vec<Action>) {
        if let Some(known) = self.requests.remove(&request) {
            self.timers.clear(known.deadline, Timer::Request(request));
        }
        self.stats.answered(&outcome);
        actions.push(Action::Reply { request, outcome });
    }

    /// An attempt ended without an answer: the request goes back to the front, or is taken for poison.
    pub(super) fn retry(&mut self, request: RequestId, failed: FailedAttempt, actions: &mut Vec<Action>) {
        let Some(known) = self.requests.get_mut(&request) else { return };
        let FailedAttempt { worker, attempt, reason, elsewhere } = failed;
        known.reasons.push(format!("attempt {attempt} on {worker}: {reason}"));
        if let RequestState::InFlight(flights) = known.state
            && let Some(others) = flights.without(worker, attempt)
        {
            // Another attempt goes on, and may answer.
            known.state = RequestState::InFlight(others);
            return;
        }
        let attempts = known.attempts;
        if attempts >= known.max_attempts {
            let reason = known.reasons.join("; ");
            let outcome = Outcome::Failed { cause: FailureCause::Poison, reason, attempts };
            self.answer(request, outcome, actions);
            return;
        }
        let lane = self.queue.lane_for(LaneKey {
            client: known.client,
            model: known.model,
            program: known.program,
            placement: known.placement,
            avoid: elsewhere,
        });
        if let Some(lane) = self.queue.lane_mut(lane) {
            lane.cost = known.cost;
        }
        known.rank = known.rank.replayed();
        known.state = RequestState::Queued { lane };
        self.queue.push(lane, known.rank, request);
        self.stats.replayed += 1;
        actions.push(Action::Record(Record::Replayed { request, worker, attempt, reason }));
        self.changed(Changed::Anything);
    }

    /// How long a request has been here.
    pub(super) fn age(&self, request: &Request) -> Duration {
        self.now.saturating_sub(request.submitted_at)
    }
}

/// An attempt that did not answer its request.
#[derive(Debug)]
pub(super) struct FailedAttempt {
    pub(super) worker: WorkerId,
    pub(super) attempt: u32,
    pub(super) reason: String,
    /// The worker to keep away from; `None` if it is gone, for its successor is as good as any.
    pub(super) elsewhere: Option<WorkerId>,
}
