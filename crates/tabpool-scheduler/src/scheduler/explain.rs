//! Sentences for people: why nobody may serve a request, and what one was waiting for.

use std::fmt::Write as _;

use super::{Request, RequestState, Scheduler};
use crate::id::{Api, ProgramId};
use crate::placement::Placement;
use crate::slots::SlotState;
use crate::worker::{LoadState, Worker};

/// A sentence names so many workers or slots, and counts the rest.
const NAMED: usize = 8;

impl Scheduler {
    /// What was asked for and what there is.
    pub(super) fn explain_nobody(&self, program: ProgramId, placement: &Placement) -> String {
        let mut text = format!("{program} was to run on {placement}");
        let workers = self.workers.iter().map(|(id, worker)| {
            let mut entry = format!("{id} ({}: {}", worker.kind, worker.apis);
            describe_obstacle(&mut entry, worker, program);
            for api in placement.apis.on_offer(worker.apis) {
                if let Some(reason) = self.explain_size(worker, program, api) {
                    let _ = write!(entry, ", has no room for it: {reason}");
                }
            }
            entry + ")"
        });
        let slots = self.slots.iter().filter_map(|(id, slot)| {
            let state = match slot.state {
                SlotState::Running { .. } => return None,
                SlotState::Waiting { .. } => "about to start".to_owned(),
                SlotState::Starting { .. } => "starting".to_owned(),
                SlotState::SetAside { .. } => format!("set aside: {}", slot.last_reason),
            };
            Some(format!("{id} ({}, {state})", slot.kind))
        });
        let there: Vec<String> = workers.chain(slots).collect();
        if there.is_empty() {
            text.push_str("; the pool has no worker and starts none");
            return text;
        }
        text.push_str("; the pool has ");
        text.push_str(&there[..there.len().min(NAMED)].join(", "));
        if there.len() > NAMED {
            // Writing to a String cannot fail.
            let _ = write!(text, " and {} more", there.len() - NAMED);
        }
        text
    }

    /// What a request was waiting for when its deadline passed.
    pub(super) fn explain_wait(&self, request: &Request) -> String {
        let waited = self.age(request).as_secs_f64();
        let mut text = match request.state {
            RequestState::InFlight(flights) => {
                let worker = flights.first();
                format!("not answered by {worker} when its deadline passed, {waited:.3} s after it came")
            }
            RequestState::Queued { .. } => {
                let ready = self.workers.values().filter(|worker| self.has_ready(worker, request)).count();
                format!(
                    "still waiting when its deadline passed, {waited:.3} s after it came; {} of {} workers had {} \
                     ready",
                    ready,
                    self.workers.len(),
                    request.program,
                )
            }
        };
        for reason in &request.reasons {
            let _ = write!(text, "; {reason}");
        }
        text
    }

    fn has_ready(&self, worker: &Worker, request: &Request) -> bool {
        let on_worker = worker.programs.get(&request.program);
        on_worker.is_some_and(|on_worker| {
            Api::ALL.into_iter().any(|api| matches!(on_worker.load(api), LoadState::Resident { .. }))
        })
    }
}

/// Appends what keeps a worker from running a program, beyond its kind and APIs.
fn describe_obstacle(entry: &mut String, worker: &Worker, program: ProgramId) {
    if worker.draining {
        entry.push_str(", being drained");
    }
    if worker.credits() == 0 {
        entry.push_str(", takes no requests");
    }
    for api in Api::ALL {
        if let Some(reason) = &worker.set_aside[api.index()] {
            let _ = write!(entry, ", set aside with {api}: {reason}");
        }
    }
    let Some(on_worker) = worker.programs.get(&program) else { return };
    for api in Api::ALL {
        if let LoadState::Refused { reason } = on_worker.load(api) {
            let _ = write!(entry, ", cannot run it with {api}: {reason}");
        }
    }
}
