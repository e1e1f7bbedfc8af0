//! What the pool decides by itself is written down, with the reason.

use std::sync::Arc;

use tabpool_metrics::{Decision, DecisionKind, Timestamp};
use tabpool_scheduler::{Api, LoadReason, ProgramId, Record, SlotId, WorkerId};

use super::links::metrics_api;
use super::{Actor, Counters};
use crate::PoolEvent;

/// What a decision is about, as far as it is about anything of the kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct About {
    pub(super) worker: Option<WorkerId>,
    pub(super) slot: Option<SlotId>,
    pub(super) program: Option<ProgramId>,
    pub(super) api: Option<Api>,
}

impl About {
    pub(super) fn slot(slot: SlotId) -> Self {
        Self { slot: Some(slot), ..Self::default() }
    }

    pub(super) fn worker(worker: WorkerId) -> Self {
        Self { worker: Some(worker), ..Self::default() }
    }

    pub(super) fn program(worker: WorkerId, program: ProgramId, api: Option<Api>) -> Self {
        Self { program: Some(program), api, ..Self::worker(worker) }
    }
}

impl Actor {
    pub(super) fn decided(&self, kind: DecisionKind, about: About, reason: impl Into<String>) {
        let worker = about.worker.and_then(|id| self.workers.get(&id));
        let slot = about.slot.or_else(|| worker.and_then(|worker| worker.slot));
        let identity = match worker {
            Some(worker) => Arc::clone(&worker.identity),
            None => slot.and_then(|id| self.slots.get(&id)).map(|slot| slot.expected()).unwrap_or_default(),
        };
        let entry = about.program.and_then(|id| self.programs.get(&id));
        self.setup.recorder.record(Decision {
            at: Timestamp::now(),
            kind,
            worker: identity,
            slot: slot.and_then(|slot| u32::try_from(slot.0).ok()),
            model: entry.map(|entry| Arc::clone(&entry.identity)).unwrap_or_default(),
            api: about.api.map(metrics_api),
            reason: reason.into(),
        });
    }

    pub(super) fn load_decided(&self, worker: WorkerId, program: ProgramId, api: Api, why: LoadReason) {
        let reason = match why {
            LoadReason::First => "no worker has it".to_owned(),
            LoadReason::Queue => "what waits will be finished sooner with one more worker".to_owned(),
            LoadReason::Waiting => "as much time was lost by waiting as the load costs".to_owned(),
            LoadReason::Faster { than } => {
                format!("it is measured to be faster than {than}, by more in the meantime than the load costs")
            }
            LoadReason::Trial => format!("how fast {api} is for this model here is not known: it is tried"),
        };
        self.decided(DecisionKind::Load, About::program(worker, program, Some(api)), reason);
    }

    /// What the scheduler has to say of its decisions.
    pub(super) fn record(&mut self, record: Record) {
        match record {
            Record::Replayed { worker, reason, request, attempt } => {
                tracing::info!(%worker, %request, attempt, reason, "replaying a request");
                self.counters(Counters::replayed);
                self.tell(PoolEvent::Replayed { worker: tabpool_bridge::WorkerId(worker.0), reason });
            }
            Record::Hedged { request, slow, worker, waited } => {
                tracing::info!(%request, %slow, %worker, ?waited, "trying a request on a second worker");
                self.counters(Counters::hedged);
            }
            Record::BackOff { slot, delay, reason, .. } => {
                tracing::info!(%slot, ?delay, reason, "the next start waits");
            }
            Record::CircuitOpened { worker, program, failures, reason, .. } => {
                tracing::warn!(%worker, %program, failures, reason, "a program is kept away from a worker for a while");
                let reason = format!("{failures} failures in a row, the last: {reason}");
                self.decided(DecisionKind::Suspend, About::program(worker, program, None), reason);
            }
            Record::CircuitClosed { worker, program } => {
                tracing::info!(%worker, %program, "a program runs on a worker again");
                self.decided(DecisionKind::Resume, About::program(worker, program, None), "it ran there again");
            }
            Record::LoadRefused { worker, program, api, reason }
            | Record::TooLarge { worker, program, api, reason } => {
                tracing::warn!(%worker, %program, %api, reason, "a worker can never run a program with an API");
                self.decided(DecisionKind::Refuse, About::program(worker, program, Some(api)), reason);
            }
        }
    }
}
