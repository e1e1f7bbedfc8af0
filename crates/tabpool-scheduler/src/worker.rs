//! One joined worker as the scheduler sees it: what it holds, what it is loading, what it has been given to do, and
//! how its programs have fared.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{Api, ProgramId, RequestId, SlotId, WorkerId, WorkerKind};
use crate::latency::follow;
use crate::memory::Ledger;
use crate::placement::ApiOrder;
use crate::queue::LaneId;

/// A worker's own pace stays within this factor of its kind's, so that one wild measurement cannot banish it.
const PACE_LIMIT: f64 = 20.0;

/// The most runs a worker is believed to compute at once.
pub const MOST_AT_ONCE: u32 = 16;

/// A joined worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) kind: WorkerKind,
    pub(crate) slot: Option<SlotId>,
    pub(crate) apis: ApiOrder,
    /// Why it gets nothing more for an API.
    pub(crate) set_aside: [Option<String>; 3],
    /// The most it may hold for each run that it computes at once.
    credits: u32,
    pub(crate) joined_at: Duration,
    /// It has finished a request, so its start was worth while.
    pub(crate) useful: bool,
    pub(crate) draining: bool,
    /// Unanswered attempts and loads since the last answer in time.
    pub(crate) timeouts_in_a_row: u32,
    /// Dispatched and not answered, oldest first. At most `credits()` long.
    pub(crate) in_flight: Vec<InFlight>,
    /// How many runs it computes at once, for each API. One, until it has loaded a program with that API.
    at_once: [u32; 3],
    /// How many times longer than its kind's mean it takes.
    pub(crate) pace: f64,
    /// How many times longer it is looked upon to take, because it had better not work.
    pub(crate) reluctance: f64,
    pub(crate) programs: BTreeMap<ProgramId, OnWorker>,
    pub(crate) loads: u32,
    /// The bytes it may hold.
    pub(crate) memory: Option<u64>,
    pub(crate) ledger: Ledger,
    /// The lane whose program waits for room here. Nobody else is served until what is in flight has ended and it is loaded.
    pub(crate) claim: Option<LaneId>,
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
    /// When another may be made beside it.
    pub(crate) hedge_at: Option<Duration>,
    pub(crate) standing: Standing,
    /// It went where nobody knew how long it would take.
    pub(crate) on_trial: bool,
    pub(crate) question: crate::latency::Question,
    /// Since when it is computed, as far as can be told from here; `None` while others come first.
    pub(crate) running_since: Option<Duration>,
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
    /// When it was loaded or given something to do for the last time, with each API.
    used_at: [Duration; 3],
    /// Seconds lost because it is not ready with an API that is measured to be faster; see `scheduler/routing.rs`.
    pub(crate) regret: f64,
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

    pub(crate) fn used_at(&self, api: Api) -> Duration {
        self.used_at[api.index()]
    }

    pub(crate) fn use_at(&mut self, api: Api, now: Duration) {
        self.used_at[api.index()] = now;
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
        memory: Option<u64>,
        joined_at: Duration,
    ) -> Self {
        Self {
            kind,
            slot,
            apis,
            set_aside: Default::default(),
            credits,
            joined_at,
            useful: false,
            draining: false,
            timeouts_in_a_row: 0,
            in_flight: Vec::with_capacity(credits as usize),
            at_once: [1; 3],
            pace: 1.0,
            reluctance: 1.0,
            programs: BTreeMap::new(),
            loads: 0,
            memory,
            ledger: Ledger::default(),
            claim: None,
            pledge: (0, 0.0),
        }
    }

    /// Whether it owes an answer that is overdue. It gets nothing until it has given it: if it hangs, whatever it
    /// got would lose an attempt with it.
    pub(crate) fn is_silent(&self) -> bool {
        self.in_flight.iter().any(|entry| entry.standing == Standing::Overdue)
    }

    pub(crate) fn free_credits(&self) -> u32 {
        if self.draining { 0 } else { self.credits().saturating_sub(self.in_flight.len() as u32) }
    }

    /// The most it may hold.
    pub(crate) fn credits(&self) -> u32 {
        let most = self.at_once.iter().copied().max().unwrap_or(1);
        self.credits.saturating_mul(most)
    }

    pub(crate) fn at_once(&self, api: Api) -> u32 {
        self.at_once[api.index()]
    }

    /// What a worker says it computes at once is a claim: within bounds it is believed, because it fools itself with it.
    /// It never shrinks, so that what is in flight stays within the credits.
    pub(crate) fn set_at_once(&mut self, api: Api, claimed: u32, now: Duration) {
        let known = &mut self.at_once[api.index()];
        *known = claimed.clamp(*known, MOST_AT_ONCE);
        self.begin_runs(now);
    }

    /// Seconds until it could begin a run of this API.
    ///
    /// A run that is late is expected to stay late for as long again: nothing is known of it but that it takes
    /// longer than expected, and a hung worker must look worse with every moment, or requests would be held back
    /// for it until the time-out.
    pub(crate) fn backlog(&self, api: Api, now: Duration) -> f64 {
        let mut ends = Ends::default();
        for entry in &self.in_flight {
            if let Some(since) = entry.running_since {
                let elapsed = now.saturating_sub(since).as_secs_f64();
                ends.push((entry.expected - elapsed).abs());
            }
        }
        for entry in self.in_flight.iter().filter(|entry| entry.running_since.is_none()) {
            let begin = ends.wait_for(self.at_once(entry.api));
            ends.push(begin + entry.expected);
        }
        ends.wait_for(self.at_once(api))
    }

    pub(crate) fn pledged(&self, pass: u64) -> f64 {
        if self.pledge.0 == pass { self.pledge.1 } else { 0.0 }
    }

    pub(crate) fn pledge(&mut self, pass: u64, seconds: f64) {
        self.pledge = (pass, self.pledged(pass) + seconds);
    }

    pub(crate) fn put_in_flight(&mut self, entry: InFlight) {
        let at = entry.dispatched_at;
        let on_worker = self.programs.entry(entry.program).or_default();
        on_worker.in_flight += 1;
        on_worker.use_at(entry.api, at);
        self.in_flight.push(entry);
        self.begin_runs(at);
    }

    /// Takes note of the runs that can begin now, in their order. A run of one API waits for those of another: they
    /// share the machine.
    fn begin_runs(&mut self, now: Duration) {
        let mut running = self.in_flight.iter().filter(|entry| entry.running_since.is_some()).count();
        for entry in &mut self.in_flight {
            if entry.running_since.is_some() {
                continue;
            }
            if running >= self.at_once[entry.api.index()] as usize {
                return;
            }
            entry.running_since = Some(now);
            running += 1;
        }
    }

    /// Whether somebody runs where somebody waits, and nobody waits where there is room.
    pub(crate) fn audit_running(&self) -> Result<(), String> {
        let running = self.in_flight.iter().filter(|entry| entry.running_since.is_some()).count();
        match self.in_flight.iter().find(|entry| entry.running_since.is_none()) {
            Some(next) if running < self.at_once(next.api) as usize => {
                Err(format!("{} waits behind {running} of {}", next.request, self.at_once(next.api)))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn in_flight_mut(&mut self, request: RequestId, attempt: u32) -> Option<&mut InFlight> {
        self.in_flight.iter_mut().find(|entry| entry.request == request && entry.attempt == attempt)
    }

    pub(crate) fn take_in_flight(&mut self, request: RequestId, attempt: u32, now: Duration) -> Option<InFlight> {
        let position = self.in_flight.iter().position(|entry| entry.request == request && entry.attempt == attempt)?;
        let entry = self.in_flight.remove(position);
        self.begin_runs(now);
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

/// When the runs that a worker computes at once end, in seconds from now, soonest first.
#[derive(Default)]
struct Ends {
    ends: [f64; MOST_AT_ONCE as usize],
    len: usize,
}

impl Ends {
    /// One more run; there are never more than are computed at once.
    fn push(&mut self, end: f64) {
        let at = self.ends[..self.len].partition_point(|&other| other <= end);
        self.ends.copy_within(at..self.len, at + 1);
        self.ends[at] = end;
        self.len += 1;
    }

    /// Seconds until fewer than `room` of them go on; those that end until then are taken out.
    fn wait_for(&mut self, room: u32) -> f64 {
        let over = (self.len + 1).saturating_sub(room as usize);
        let wait = if over == 0 { 0.0 } else { self.ends[over - 1] };
        self.ends.copy_within(over..self.len, 0);
        self.len -= over;
        wait
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
    /// Bytes that programs and states take there, loads going on included.
    pub memory: u64,
    /// The most they may take.
    pub memory_limit: Option<u64>,
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
            credits: self.credits(),
            in_flight: self.in_flight.len() as u32,
            loading: self.loads,
            resident: states.filter(|load| matches!(load, LoadState::Resident { .. })).count() as u32,
            memory: self.ledger.used(),
            memory_limit: self.memory,
            draining: self.draining,
        }
    }
}
