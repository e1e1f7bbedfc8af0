//! What the scheduler tells the caller to do, in order.
//!
//! Actions are orders, not suggestions: the scheduler's picture of the pool assumes that each is carried out, and
//! that what comes of it is told as an [`Event`](crate::Event).

use std::time::Duration;

use crate::id::{Api, ProgramId, RequestId, SlotId, WorkerId};

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Start the slot's browser or process. Answered by `Joined` or `LaunchFailed`.
    Launch {
        /// Where.
        slot: SlotId,
        /// Counts the starts in a row that brought no useful worker, this one included.
        attempt: u32,
    },
    /// End a worker, or whatever a slot has started. The scheduler has forgotten it already: no answer is due.
    Stop {
        /// What to end.
        target: StopTarget,
        /// Why, for a person.
        reason: String,
    },
    /// Make a program ready. Answered by `LoadFinished` or `LoadFailed`.
    Load {
        /// On which worker.
        worker: WorkerId,
        /// Which program.
        program: ProgramId,
        /// With which API.
        api: Api,
        /// Why here and now.
        why: LoadReason,
    },
    /// Give up what a program takes, so that something else fits. The scheduler counts it as gone at once: no answer is due,
    /// and a worker does what it is told in order.
    Unload {
        /// On which worker. It holds no request for the program.
        worker: WorkerId,
        /// Which program.
        program: ProgramId,
        /// From which API.
        api: Api,
        /// Bytes that this frees; weights that others use stay.
        bytes: u64,
        /// Why, for a person.
        reason: String,
    },
    /// Run a request. Answered by exactly one `Finished` or `Failed` with this attempt, cancelled or not.
    Dispatch {
        /// On which worker, which holds the program.
        worker: WorkerId,
        /// Which request.
        request: RequestId,
        /// Which attempt, from 1.
        attempt: u32,
        /// The program to run.
        program: ProgramId,
        /// With which API.
        api: Api,
        /// When an answer is expected, from now: queue on the worker and computing.
        expected: Duration,
    },
    /// The answer to this attempt is no longer wanted. The worker still owes an answer (any), which frees the credit.
    CancelOn {
        /// Which worker.
        worker: WorkerId,
        /// Which request.
        request: RequestId,
        /// Which attempt.
        attempt: u32,
    },
    /// Answer the caller. Comes exactly once for every request submitted.
    Reply {
        /// Which request.
        request: RequestId,
        /// With what.
        outcome: Outcome,
    },
    /// A slot failed too often and is left alone for a long time.
    SetAside {
        /// Which slot.
        slot: SlotId,
        /// Why, for a person.
        reason: String,
        /// When it will be tried again, on the scheduler's clock.
        until: Duration,
    },
    /// Nothing to do, but something to keep: a decision and its reason.
    Record(Record),
}

/// What `Stop` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopTarget {
    /// A joined worker, and the browser or process behind it.
    Worker(WorkerId),
    /// What a slot started, which has not joined.
    Slot(SlotId),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It ran; the caller holds the outputs of this attempt.
    Finished {
        /// Where it ran.
        worker: WorkerId,
        /// Which attempt it was.
        attempt: u32,
    },
    /// The queue is full; it was never accepted.
    Rejected {
        /// When to come back, from now.
        retry_after: Duration,
        /// Why, for a person.
        reason: String,
    },
    /// Its deadline passed.
    TimedOut {
        /// What it was waiting for, for a person.
        reason: String,
    },
    /// Its caller cancelled it.
    Cancelled,
    /// It was tried and will not be tried again.
    Failed {
        /// Whether the request or the pool is to blame.
        cause: FailureCause,
        /// Why, for a person: each attempt's reason.
        reason: String,
        /// How many attempts were made.
        attempts: u32,
    },
    /// No worker that is here or on its way may serve it.
    NoWorker {
        /// What was asked for and what there is, for a person.
        reason: String,
    },
}

/// Why a request will not be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureCause {
    /// A worker said that the request itself is wrong.
    Input,
    /// Every attempt it was allowed failed: it may well be what kills the workers.
    Poison,
}

/// Why a program is loaded on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadReason {
    /// No worker has it.
    First,
    /// What waits would be finished sooner with one more worker, its load included.
    Queue,
    /// As much time has been lost by waiting as the load costs.
    Waiting,
    /// This API is measured to be faster, and its absence has cost as much time as the load does.
    Faster {
        /// Than the one that serves meanwhile.
        than: Api,
    },
    /// Nobody has measured this API with the model on this kind of worker: it is tried.
    Trial,
}

/// A decision worth keeping.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// An attempt failed and the request went back to the front of the queue.
    Replayed {
        /// Which request.
        request: RequestId,
        /// The worker that did not answer it.
        worker: WorkerId,
        /// The attempt that failed.
        attempt: u32,
        /// Why, for a person.
        reason: String,
    },
    /// An attempt took long, and another was made beside it.
    Hedged {
        /// Which request.
        request: RequestId,
        /// The worker that takes long.
        slow: WorkerId,
        /// The worker that tries it too.
        worker: WorkerId,
        /// How long the first has taken.
        waited: Duration,
    },
    /// A program failed too often in a row on a worker and is not placed there for a while.
    CircuitOpened {
        /// Which worker.
        worker: WorkerId,
        /// Which program.
        program: ProgramId,
        /// Failures in a row.
        failures: u32,
        /// Until when, on the scheduler's clock.
        until: Duration,
        /// The last failure, for a person.
        reason: String,
    },
    /// The program ran on the worker again.
    CircuitClosed {
        /// Which worker.
        worker: WorkerId,
        /// Which program.
        program: ProgramId,
    },
    /// A worker can never run a program with an API.
    LoadRefused {
        /// Which worker.
        worker: WorkerId,
        /// Which program.
        program: ProgramId,
        /// With which API.
        api: Api,
        /// Why, for a person.
        reason: String,
    },
    /// A program turned out not to fit a worker even alone.
    TooLarge {
        /// Which worker.
        worker: WorkerId,
        /// Which program.
        program: ProgramId,
        /// With which API.
        api: Api,
        /// The numbers, for a person.
        reason: String,
    },
    /// A slot's next start waits.
    BackOff {
        /// Which slot.
        slot: SlotId,
        /// Useless starts in a row so far.
        failures: u32,
        /// How long.
        delay: Duration,
        /// The last failure, for a person.
        reason: String,
    },
}
