//! What a pool tells those who watch it.

use std::time::Duration;

use tabpool_bridge::WorkerId;
use tabpool_protocol::{ApiKind, Capabilities, LoadStats, TunedClass};
use tabpool_scheduler::WorkerKind;

use crate::TicketId;

/// Where a slot or a worker is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerState {
    /// Being started, or waiting for its next start.
    Starting,
    /// Joined and without work.
    Idle,
    /// Joined, with work.
    Busy,
    /// Somebody at it wants it to compute nothing for a while.
    Paused,
    /// Its link is cut; it has a few seconds to come back.
    Detached,
    /// Failed too often and left alone for a while.
    SetAside,
}

/// One worker, or a slot that waits for one.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// The worker; `None` while the slot has none.
    pub id: Option<WorkerId>,
    /// The slot; `None` for a worker that came by itself.
    pub slot: Option<u64>,
    /// The ticket it came with; `None` for a worker that the pool has started.
    pub ticket: Option<TicketId>,
    /// Where it is, as an address or `local`; empty before it joined.
    pub remote: String,
    /// What it is.
    pub kind: WorkerKind,
    /// Where it is in its life.
    pub state: WorkerState,
    /// What it said of itself; empty before it joined.
    pub capabilities: Capabilities,
    /// The APIs it is used with, best first.
    pub apis: Vec<ApiKind>,
    /// Bytes that models and sessions take there, loads going on included, and the most they may.
    pub memory: (u64, Option<u64>),
    /// Sets of states that sessions have there, and the bytes that they take on its devices.
    pub states: (usize, u64),
    /// Its session.
    pub session: String,
    /// The process of a browser the pool started.
    pub pid: Option<u32>,
    /// From the start of the process to the join.
    pub start_up: Option<Duration>,
    /// How often the slot was started.
    pub starts: u32,
    /// Why its last worker ended or its last start failed; empty before the first.
    pub last_reason: String,
}

impl WorkerView {
    /// The device behind an API, as people read it.
    #[must_use]
    pub fn adapter(&self, api: ApiKind) -> Option<String> {
        self.capabilities.working().find(|(a, _)| *a == api).map(|(_, info)| info.label())
    }
}

/// Something that happened in the pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolEvent {
    /// A slot is being started, for the n-th time.
    Launching {
        /// The slot.
        slot: u64,
        /// What is started.
        kind: WorkerKind,
        /// Counts from 1.
        start: u32,
    },
    /// A group of slots grows or shrinks.
    Scaled {
        /// The slot that is added or given up.
        slot: u64,
        /// What fills it.
        kind: WorkerKind,
        /// Whether it is added.
        up: bool,
        /// Why.
        reason: String,
    },
    /// A worker joined.
    Joined {
        /// The worker.
        worker: WorkerId,
        /// Its slot.
        slot: Option<u64>,
        /// What it is.
        kind: WorkerKind,
    },
    /// Somebody at a worker wants it to compute nothing for a while. What it was computing is computed elsewhere.
    Paused {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker that was paused computes again.
    Unpaused {
        /// The worker.
        worker: WorkerId,
    },
    /// A load goes on.
    Loading {
        /// The worker.
        worker: WorkerId,
        /// The model.
        model: String,
        /// The API.
        api: ApiKind,
        /// Bytes of weights on the device so far.
        done: u64,
        /// Bytes of weights in all.
        total: u64,
    },
    /// A program is ready.
    Loaded {
        /// The worker.
        worker: WorkerId,
        /// The model.
        model: String,
        /// The API.
        api: ApiKind,
        /// What it cost, and the precision it came to.
        stats: LoadStats,
        /// Nodes that stayed more exact because their weights do not fit a format that was otherwise used.
        kept: Vec<String>,
    },
    /// A worker computed wrong numbers, and is given nothing more for that API.
    Distrusted {
        /// The worker.
        worker: WorkerId,
        /// The API.
        api: ApiKind,
        /// What was wrong.
        reason: String,
    },
    /// A program was given up to make room.
    Unloaded {
        /// The worker.
        worker: WorkerId,
        /// The model.
        model: String,
        /// The API.
        api: ApiKind,
        /// Bytes that this freed; weights that others use stay.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// A load found the fastest variants of its kernels.
    Tuned {
        /// The worker.
        worker: WorkerId,
        /// The API.
        api: ApiKind,
        /// The winners, with what every variant took.
        found: Vec<TunedClass>,
    },
    /// A program could not be loaded.
    LoadFailed {
        /// The worker.
        worker: WorkerId,
        /// The model.
        model: String,
        /// The API.
        api: ApiKind,
        /// Why.
        reason: String,
    },
    /// A worker is gone.
    Lost {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// A start failed.
    LaunchFailed {
        /// The slot.
        slot: u64,
        /// Why.
        reason: String,
    },
    /// A slot failed too often and is left alone for a while.
    SetAside {
        /// The slot.
        slot: u64,
        /// Why.
        reason: String,
    },
    /// Somebody was not let in.
    Rejected {
        /// Where from.
        remote: String,
        /// Why.
        reason: String,
    },
    /// A request was replayed because its worker did not answer it.
    Replayed {
        /// The worker that did not.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
}
