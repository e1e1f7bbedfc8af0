//! What the caller tells the scheduler: everything that happened, in the order in which it was seen.
//!
//! Events may be late, repeated, about workers long gone or about attempts given up. Such events are counted in
//! [`Stats::ignored`](crate::Stats::ignored) and change nothing, so the caller forwards frames without judging them.

use std::time::Duration;

use crate::id::{Api, ClientId, ModelId, ProgramId, RequestId, SlotId, WorkerId, WorkerKind};
use crate::memory::{Footprint, Needs};
use crate::placement::{KindSet, Placement};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The pool has a new place to keep filled.
    SlotAdded {
        /// Its id, not in use.
        slot: SlotId,
        /// What is launched there.
        kind: WorkerKind,
    },
    /// The place is given up: its worker is drained, then stopped, and not launched again.
    SlotRemoved {
        /// Which place.
        slot: SlotId,
    },
    /// A launch that was asked for did not bring a worker.
    LaunchFailed {
        /// The place.
        slot: SlotId,
        /// Why, for a person.
        reason: String,
    },
    /// A worker finished its handshake.
    Joined {
        /// Its id. If it is that of a worker already known, that one is taken for lost.
        worker: WorkerId,
        /// The slot whose launch brought it; `None` for a worker that came by itself.
        slot: Option<SlotId>,
        /// What it is.
        kind: WorkerKind,
        /// What it runs with, best first.
        apis: Vec<Api>,
        /// How many requests it is willing to hold for each run that it computes at once.
        credits: u32,
        /// The bytes that programs and states may take there; `None` where that is not limited.
        memory: Option<u64>,
    },
    /// A worker is gone: closed, crashed or silent for too long.
    Lost {
        /// Which.
        worker: WorkerId,
        /// Why, for a person.
        reason: String,
    },
    /// What a program takes, as far as can be said before it was loaded. Said before the first request for it.
    Program {
        /// The program.
        program: ProgramId,
        /// What it takes.
        needs: Needs,
    },
    /// Where a program has run, others of its model will be: a session is begun where its steps will be computed.
    Followed {
        /// The program.
        program: ProgramId,
        /// What follows each of its runs, with the same worker and API.
        by: ProgramId,
        /// How many times, about.
        times: f32,
    },
    /// Kinds of worker that are taken to be somewhat faster for a model than others, until something is measured.
    Preferred {
        /// The model.
        model: ModelId,
        /// The kinds.
        kinds: KindSet,
    },
    /// What an earlier session measured. Believed until something is measured now.
    Remembered {
        /// The model.
        model: ModelId,
        /// The program; `None` for any of the model's that nothing is known of.
        program: Option<ProgramId>,
        /// The kind of worker.
        kind: WorkerKind,
        /// The API.
        api: Api,
        /// How heavy what was measured is, as in [`Submit::cost`].
        cost: f32,
        /// How long it computed.
        compute: Duration,
    },
    /// A worker's numbers are wrong with an API: it is given nothing more for it.
    ApiSetAside {
        /// Which worker.
        worker: WorkerId,
        /// Which API.
        api: Api,
        /// What is wrong, for a person.
        reason: String,
    },
    /// A worker had better not work: it runs on a battery. It is looked upon as if it took so many times as long.
    Reluctant {
        /// Which worker.
        worker: WorkerId,
        /// How many times; 1 for one that is willing again, and no more than 1000 count.
        factor: f64,
    },
    /// What sessions keep on a worker has become more or less.
    States {
        /// Which worker.
        worker: WorkerId,
        /// Bytes of all of it.
        bytes: u64,
    },
    /// A caller wants a program run.
    Submit(Submit),
    /// The caller no longer wants the answer.
    Cancel {
        /// Of which request.
        request: RequestId,
    },
    /// A worker holds a program ready to run.
    LoadFinished {
        /// Which worker.
        worker: WorkerId,
        /// Which program.
        program: ProgramId,
        /// With which API.
        api: Api,
        /// How long it took, as measured by the worker.
        took: Duration,
        /// How many runs its device of this API computes at once; at least one, and no more than
        /// [`MOST_AT_ONCE`](crate::MOST_AT_ONCE) count.
        at_once: u32,
        /// What it takes there.
        footprint: Footprint,
    },
    /// A worker could not load a program.
    LoadFailed {
        /// Which worker.
        worker: WorkerId,
        /// Which program.
        program: ProgramId,
        /// With which API.
        api: Api,
        /// Why, for a person.
        reason: String,
        /// Whether another try may end otherwise: a block that did not arrive, not an operator that is missing.
        retry: LoadRetry,
    },
    /// A worker dropped a program by itself.
    Unloaded {
        /// Which worker.
        worker: WorkerId,
        /// Which program.
        program: ProgramId,
        /// From which API.
        api: Api,
    },
    /// A worker ran a request. The caller keeps the outputs and hands them on if `Reply` says so.
    Finished {
        /// Which worker.
        worker: WorkerId,
        /// Which request.
        request: RequestId,
        /// Which attempt, as given by `Dispatch`.
        attempt: u32,
        /// How long it computed, as measured by the worker.
        compute: Duration,
    },
    /// A worker did not manage to run a request, or ended it because of `CancelOn`.
    Failed {
        /// Which worker.
        worker: WorkerId,
        /// Which request.
        request: RequestId,
        /// Which attempt, as given by `Dispatch`.
        attempt: u32,
        /// Whose fault it was.
        fault: Fault,
        /// Why, for a person.
        reason: String,
    },
    /// Give the worker nothing new, and stop it when it holds nothing.
    Drain {
        /// Which worker.
        worker: WorkerId,
    },
    /// Nothing but time passed. Due at the latest at [`Scheduler::next_wakeup`](crate::Scheduler::next_wakeup).
    Tick,
}

/// A request, as its caller submits it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Submit {
    /// Its id, never used before.
    pub request: RequestId,
    /// On whose behalf.
    pub client: ClientId,
    /// The model, whose other programs lend their measurements until this program has its own.
    pub model: ModelId,
    /// The program to run.
    pub program: ProgramId,
    /// Where it may run.
    pub placement: Placement,
    /// Higher goes first among those of one client; a lower one catches up by waiting.
    pub priority: i8,
    /// When the answer is of no use any more, on the scheduler's clock; `None` takes the configured time-out.
    pub deadline: Option<Duration>,
    /// How heavy the program is, in ordinary requests: scales the priors and the measurements of its model's
    /// other programs until it has its own. `1.0` where nothing is known.
    pub cost: f32,
    /// Attempts at most, where it may not be tried as often as others: once, if it changes what only its worker has. At least
    /// one is made, and no more than [`Config::max_attempts`](crate::Config::max_attempts).
    pub max_attempts: Option<u32>,
    /// Whether two workers may run it at once: it changes nothing on them.
    pub repeatable: bool,
}

/// Who is to blame for a failed attempt, and so what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request itself is wrong: answered at once, never tried again.
    Input,
    /// The worker failed: tried again, elsewhere if there is an elsewhere.
    Worker,
    /// The worker's device was lost: as `Worker`, and what was resident with that API must be loaded again.
    Device,
}

/// Whether a failed load may be tried again on the same worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadRetry {
    /// The same load may succeed later.
    Later,
    /// This worker can never run this program with this API.
    Never,
}
