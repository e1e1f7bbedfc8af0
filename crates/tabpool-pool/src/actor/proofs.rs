//! Whether workers compute right numbers: their first answer for each model and API is checked before it or any other is
//! given to a caller, and others now and then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tabpool_metrics::DecisionKind;
use tabpool_protocol::RunStats;
use tabpool_scheduler::{Api, Event, Fault, ModelId, RequestId, WorkerId};
use tabpool_tensor::Tensor;

use super::Actor;
use super::decisions::About;
use crate::PoolEvent;
use crate::model::ProgramEntry;
use crate::referee::{Case, Prospect, Verdict};
use crate::target::protocol_api;

/// Whose answers are checked, and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Checking {
    first: First,
    spot: f64,
}

/// Whose first answers are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Nobody,
    Guests,
    Everybody,
}

impl Checking {
    /// Nobody's: what workers say is believed.
    #[must_use]
    pub const fn nobody() -> Self {
        Self { first: First::Nobody, spot: 0.0 }
    }

    /// That of workers which the pool did not start itself.
    #[must_use]
    pub const fn guests() -> Self {
        Self { first: First::Guests, spot: 0.0 }
    }

    /// Everybody's: native workers and the pool's own browsers too.
    #[must_use]
    pub const fn everybody() -> Self {
        Self { first: First::Everybody, spot: 0.0 }
    }

    /// Besides the first answers this share of all others, from 0 to 1, of the same workers. They are checked after they were
    /// given to their callers.
    #[must_use]
    pub fn spot_checks(mut self, share: f64) -> Self {
        self.spot = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        self
    }

    fn concerns(self, is_guest: bool) -> bool {
        match self.first {
            First::Nobody => false,
            First::Guests => is_guest,
            First::Everybody => true,
        }
    }

    pub(crate) fn is_on(self) -> bool {
        self.first != First::Nobody
    }
}

/// A worker with a model and an API.
type Subject = (WorkerId, ModelId, Api);

/// An answer that is kept until its worker has proved itself.
pub(super) struct Kept {
    pub(super) request: RequestId,
    pub(super) attempt: u32,
    pub(super) stats: RunStats,
    pub(super) tensors: Vec<Tensor>,
}

/// What is proved, and what is being proved.
#[derive(Default)]
pub(super) struct Proofs {
    proved: HashSet<Subject>,
    /// Answers that wait for the verdict on the first of them.
    waiting: HashMap<Subject, Vec<Kept>>,
    /// The subjects of cases under way; of spot checks, too.
    cases: HashMap<u64, Subject>,
    last_case: u64,
    /// Adds up the share of answers to be checked; one is due at each whole number.
    due: f64,
}

impl Proofs {
    /// A worker is gone, and what it had to prove with it.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.proved.retain(|(id, ..)| *id != worker);
        self.waiting.retain(|(id, ..), _| *id != worker);
    }

    fn is_due(&mut self, share: f64) -> bool {
        self.due += share;
        let due = self.due >= 1.0;
        if due {
            self.due -= 1.0;
        }
        due
    }
}

impl Actor {
    /// Guests may come and load this.
    pub(super) fn expect_proofs(&self, program: &Arc<ProgramEntry>) {
        if let Some(referee) = self.setup.referee.as_ref().filter(|_| self.setup.checking.concerns(true)) {
            referee.prepare(Prospect { program: Arc::clone(program), inputs: None });
        }
    }

    /// A worker loads a program: the host, which will check its first answer, does so as well meanwhile, and computes what waits
    /// for it longest.
    pub(super) fn prepare_proof(&self, id: WorkerId, program: &Arc<ProgramEntry>, api: Api) {
        let is_guest = self.workers.get(&id).is_some_and(|worker| worker.slot.is_none());
        let proved = self.proofs.proved.contains(&(id, program.model, api));
        // What sessions compute is not checked.
        let will_be_checked = self.setup.checking.concerns(is_guest) && !proved && program.states.is_empty();
        if let Some(referee) = self.setup.referee.as_ref().filter(|_| will_be_checked) {
            let inputs = self.waiting_longest_for(program.id);
            referee.prepare(Prospect { program: Arc::clone(program), inputs });
        }
    }

    /// Takes an answer of a worker that has to prove itself first, or gives it back to be used.
    pub(super) fn keep_until_proved(&mut self, id: WorkerId, api: Api, kept: Kept) -> Option<Kept> {
        let checking = self.setup.checking;
        let is_guest = self.workers.get(&id).is_some_and(|worker| worker.slot.is_none());
        let Some(waiting) = self.requests.get(&kept.request).filter(|_| checking.concerns(is_guest)) else {
            return Some(kept);
        };
        // What a session has computed is nowhere else: there is nothing to compare it with.
        if !waiting.is_repeatable() {
            return Some(kept);
        }
        let (program, inputs) = waiting.case();
        let subject = (id, program.model, api);
        let proved = self.proofs.proved.contains(&subject);
        if proved && !self.proofs.is_due(checking.spot) {
            return Some(kept);
        }
        if let Some(others) = self.proofs.waiting.get_mut(&subject) {
            others.push(kept);
            return None;
        }
        let number = self.proofs.last_case + 1;
        let (outputs, precision) = (kept.tensors.clone(), kept.stats.precision);
        let asked = self
            .setup
            .referee
            .as_ref()
            .is_some_and(|referee| referee.judge(Case { number, program, inputs, outputs, precision }));
        if !asked {
            // A later answer is checked instead.
            return Some(kept);
        }
        self.proofs.last_case = number;
        self.proofs.cases.insert(number, subject);
        if proved {
            return Some(kept);
        }
        self.proofs.waiting.insert(subject, vec![kept]);
        None
    }

    pub(super) fn judged(&mut self, number: u64, verdict: Verdict) {
        let Some(subject) = self.proofs.cases.remove(&number) else { return };
        let (id, model, api) = subject;
        let kept = self.proofs.waiting.remove(&subject).unwrap_or_default();
        match verdict {
            Verdict::Wrong(reason) => {
                self.proofs.proved.remove(&subject);
                let reason = format!("its numbers are wrong: {reason}");
                tracing::warn!(worker = %id, %model, %api, reason, "an API of a worker is set aside");
                let worker = tabpool_bridge::WorkerId(id.0);
                self.tell(PoolEvent::Distrusted { worker, api: protocol_api(api), reason: reason.clone() });
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.distrusted.insert(api, reason.clone());
                }
                let about = About { api: Some(api), ..About::worker(id) };
                self.decided(DecisionKind::Distrust, about, reason.clone());
                self.handle(Event::ApiSetAside { worker: id, api, reason: reason.clone() });
                for Kept { request, attempt, .. } in kept {
                    let (fault, reason) = (Fault::Worker, reason.clone());
                    self.handle(Event::Failed { worker: id, request, attempt, fault, reason });
                }
            }
            Verdict::Right | Verdict::Unknown(_) => {
                if let Verdict::Unknown(reason) = verdict {
                    tracing::warn!(worker = %id, %model, %api, reason, "the host cannot check an answer");
                } else if self.workers.contains_key(&id) {
                    self.proofs.proved.insert(subject);
                }
                for kept in kept {
                    self.use_answer(id, kept);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Checking, Proofs};

    #[test]
    fn guests_prove_themselves_where_nothing_else_is_said_of_others() {
        assert!(Checking::guests().concerns(true) && !Checking::guests().concerns(false));
        assert!(Checking::everybody().concerns(false) && !Checking::nobody().concerns(true));
        assert!(!Checking::nobody().is_on());
    }

    #[test]
    fn as_many_answers_are_checked_as_were_asked_for() {
        let mut proofs = Proofs::default();
        let share = Checking::guests().spot_checks(0.05).spot;
        assert_eq!((0..1000).filter(|_| proofs.is_due(share)).count(), 50);
        assert_eq!(Checking::guests().spot_checks(f64::NAN).spot.to_bits(), 0.0_f64.to_bits());
    }
}
