//! One joined worker as the scheduler sees it: what it holds, what it is loading, what it has been given to do, and
//! how its programs have fared.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{Api, ProgramId, RequestId, SlotId, WorkerId, WorkerKind};
use crate::latency::follow;
use crate::placement::ApiOrder;

/// A worker's own pace stays within this factor of its kind's, so that one wild measurement cannot banish it.
const PACE_LIMIT: f64 = 20.0;

/// A joined worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) kind: WorkerKind,
    pub(crate) slot: Option<SlotId>,
    pub(crate) apis: ApiOrder,
    pub(crate) credits: u32,
    pub(crate) joined_at: Duration,
    /// It has finished a request, so its start was worth while.
    pub(crate) useful: bool,
    pub(crate) draining: bool,
    /// Unanswered attempts and loads since the last answer in time.
    pub(crate) timeouts_in_a_row: u32,
    /// Dispatched and not answered, oldest first. At most `credits` long.
    pub(crate) in_flight: Vec<InFlight>,
    /// Since when the oldest of them is the oldest: workers compute one after the other.
    head_since: Duration,
    /// How many times longer than its kind's mean it takes.
    pub(crate) pace: f64,
    pub(crate) programs: BTreeMap<ProgramId, OnWorker>,
    pub(crate) loads: u32,
    /// Seconds of work that other lanes will send here first, as reckoned in the placement pass of this number.
    pledge: (u64, f64),
}

/// One dispatched attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) request: RequestId,
    pub(crate) attempt: u32,
    pub(crate) program: ProgramId,
    pub(crate) api: Api,
    pub(crate) dispatched_at: Duration,
    /// Seconds of computing expected.
    pub(crate) expected: f64,
    /// When it counts as unanswered.
    pub(crate) due: Duration,
    pub(crate) standing: Standing,
    pub(crate) question: crate::latency::Question,
}

/// Whether anybody waits for an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its answer answers the request.
    Wanted,
    /// Cancelled, or its request's deadline passed: only the credit is waited for.
    Unwanted,
    /// As `Unwanted`, and it has been unanswered once already.
    Overdue,
}

/// A program on a worker.
#[derive(Debug, Default)]
pub(crate) struct OnWorker {
    loads: [LoadState; 3],
    /// Attempts in flight, wanted or not.
    pub(crate) in_flight: u32,
    pub(crate) circuit: Circuit,
}

/// How far a program is on a worker's API.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum LoadState {
    #[default]
    Absent,
    Loading {
        since: Duration,
        due: Duration,
        /// It was due once already.
        overdue: bool,
    },
    Resident {
        since: Duration,
    },
    /// The worker can never run it.
    Refused {
        reason: String,
    },
}

impl OnWorker {
    pub(crate) fn load(&self, api: Api) -> &LoadState {
        &self.loads[api.index()]
    }

    pub(crate) fn load_mut(&mut self, api: Api) -> &mut LoadState {
        &mut self.loads[api.index()]
    }

    /// Whether it is being loaded with any API. It is loaded with one at a time: the weights would come twice.
    pub(crate) fn is_loading(&self) -> bool {
        self.loads.iter().any(|load| matches!(load, LoadState::Loading { .. }))
    }

    /// Whether forgetting it would lose nothing.
    fn is_blank(&self) -> bool {
        let absent = self.loads.iter().all(|load| *load == LoadState::Absent);
        absent && self.in_flight == 0 && self.circuit == Circuit::default()
    }
}

/// The breaker between a program and a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Circuit {
    /// Failures in a row.
    pub(crate) failures: u32,
    pub(crate) state: CircuitState,
}

/// Whether a circuit lets requests through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CircuitState {
    /// All.
    #[default]
    Closed,
    /// None, until then.
    Open(Duration),
    /// One at a time: the next answer closes it or opens it again.
    Trying,
}

impl Worker {
    pub(crate) fn new(
        kind: WorkerKind,
        slot: Option<SlotId>,
        apis: ApiOrder,
        credits: u32,
        joined_at: Duration,
    ) -> Self {
        Self {
            kind,
            slot,
            apis,
            credits,
            joined_at,
            useful: false,
            draining: false,
            timeouts_in_a_row: 0,
            in_flight: Vec::with_capacity(credits as usize),
            head_since: joined_at,
            pace: 1.0,
            programs: BTreeMap::new(),
            loads: 0,
            pledge: (0, 0.0),
        }
    }

    /// Whether it owes an answer that is overdue. It gets nothing until it has given it: if it hangs, whatever it
    /// got would lose an attempt with it.
    pub(crate) fn is_silent(&self) -> bool {
        self.in_flight.iter().any(|entry| entry.standing == Standing::Overdue)
    }

    pub(crate) fn free_credits(&self) -> u32 {
        if self.draining { 0 } else { self.credits.saturating_sub(self.in_flight.len() as u32) }
    }

    /// Seconds until what it was given is done.
    ///
    /// A head that is late is expected to stay late for as long again: nothing is known of it but that it takes
    /// longer than expected, and a hung worker must look worse with every moment, or requests would be held back
    /// for it until the time-out.
    pub(crate) fn backlog(&self, now: Duration) -> f64 {
        let Some((head, rest)) = self.in_flight.split_first() else { return 0.0 };
        let elapsed = now.saturating_sub(self.head_since).as_secs_f64();
        (head.expected - elapsed).abs() + rest.iter().map(|entry| entry.expected).sum::<f64>()
    }

    pub(crate) fn pledged(&self, pass: u64) -> f64 {
        if self.pledge.0 == pass { self.pledge.1 } else { 0.0 }
    }

    pub(crate) fn pledge(&mut self, pass: u64, seconds: f64) {
        self.pledge = (pass, self.pledged(pass) + seconds);
    }

    pub(crate) fn put_in_flight(&mut self, entry: InFlight) {
        if self.in_flight.is_empty() {
            self.head_since = entry.dispatched_at;
        }
        self.programs.entry(entry.program).or_default().in_flight += 1;
        self.in_flight.push(entry);
    }

    pub(crate) fn in_flight_mut(&mut self, request: RequestId, attempt: u32) -> Option<&mut InFlight> {
        self.in_flight.iter_mut().find(|entry| entry.request == request && entry.attempt == attempt)
    }

    pub(crate) fn take_in_flight(&mut self, request: RequestId, attempt: u32, now: Duration) -> Option<InFlight> {
        let position = self.in_flight.iter().position(|entry| entry.request == request && entry.attempt == attempt)?;
        let entry = self.in_flight.remove(position);
        if position == 0 {
            self.head_since = now;
        }
        if let Some(program) = self.programs.get_mut(&entry.program) {
            program.in_flight -= 1;
        }
        self.prune(entry.program);
        Some(entry)
    }

    /// Forgets a program of which there is nothing to remember.
    pub(crate) fn prune(&mut self, program: ProgramId) {
        if self.programs.get(&program).is_some_and(OnWorker::is_blank) {
            self.programs.remove(&program);
        }
    }

    pub(crate) fn keep_pace(&mut self, ratio: f64) {
        follow(&mut self.pace, ratio.clamp(1.0 / PACE_LIMIT, PACE_LIMIT));
    }
}

/// A worker, for those who look from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerView {
    /// Its id.
    pub worker: WorkerId,
    /// What it is.
    pub kind: WorkerKind,
    /// The slot it fills.
    pub slot: Option<SlotId>,
    /// The most it may hold.
    pub credits: u32,
    /// What it holds, cancelled attempts that it still owes an answer included.
    pub in_flight: u32,
    /// Loads it is doing.
    pub loading: u32,
    /// Programs it holds ready, counted per API.
    pub resident: u32,
    /// Whether it is being drained.
    pub draining: bool,
}

impl Worker {
    pub(crate) fn view(&self, worker: WorkerId) -> WorkerView {
        let states = self.programs.values().flat_map(|program| program.loads.iter());
        WorkerView {
            worker,
            kind: self.kind,
            slot: self.slot,
            credits: self.credits,
            in_flight: self.in_flight.len() as u32,
            loading: self.loads,
            resident: states.filter(|load| matches!(load, LoadState::Resident { .. })).count() as u32,
            draining: self.draining,
        }
    }
}
