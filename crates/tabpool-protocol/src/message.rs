//! The messages, each with its number, its direction and what its id means.

use serde::{Deserialize, Serialize};
use tabpool_tensor::Precision;

use crate::{ApiKind, Capabilities, HeldStates, StateSpec, TunedClass};

/// The first frame of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest protocol version the worker speaks.
    pub oldest: u8,
    /// The newest protocol version the worker speaks.
    pub newest: u8,
    /// The token that lets it join.
    pub token: String,
    /// The session it wants to resume.
    pub resume: Option<String>,
    /// Requests it holds: running, or finished and not yet delivered. Empty unless it resumes.
    pub held: Vec<u64>,
    /// Programs it has loaded, with their APIs. Empty unless it resumes.
    pub loaded: Vec<(u64, ApiKind)>,
    /// What it is.
    pub capabilities: Capabilities,
    /// Sets of states it holds or is making. Empty unless it resumes. Since version 2; it travels beside the body, as the
    /// frame's first tensor (`u8`: postcard of the list), because the body keeps its shape in all versions.
    #[serde(skip)]
    pub states: Vec<HeldStates>,
}

/// Why a worker may not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefusalCode {
    /// The token is wrong, spent or expired.
    Token,
    /// No version is spoken by both.
    Version,
    /// The pool takes no more workers.
    Full,
    /// The first frame was no valid `Hello`.
    Malformed,
    /// The pool is closing.
    Closing,
}

/// Whose fault a failure is, which decides what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FaultKind {
    /// The request's own: it would fail anywhere and is not tried again.
    Input,
    /// The worker lacks something the program needs: another worker may have it.
    Unsupported,
    /// A block could not be had or was corrupt.
    Content,
    /// Memory ran out.
    Memory,
    /// The device is lost or misbehaved, or a program is not on it that should be; the worker makes a new one, and the host
    /// loads anew.
    Device,
    /// Anything else that went wrong in the worker.
    Worker,
    /// The request was cancelled.
    Cancelled,
    /// The set of states that the request names is not there, or not any more: whoever kept something in it makes another
    /// and begins anew. Since version 2.
    States,
}

/// Why a worker ended a set of states that its host had not freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StatesLoss {
    /// No run named it for as long as its lease says.
    Lease,
    /// The device failed in a run on it, which leaves its content undefined.
    Failed,
}

/// What a load cost. Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStats {
    /// From the frame's arrival to the end.
    pub total_us: u64,
    /// Waiting for blocks from the host or the cache.
    pub fetch_us: u64,
    /// Making and compiling kernels.
    pub compile_us: u64,
    /// Bringing weights onto the device, waiting for blocks included.
    pub upload_us: u64,
    /// Blocks and bytes that came from the host.
    pub fetched: (u32, u64),
    /// Blocks and bytes that came from the worker's own cache.
    pub cached: (u32, u64),
    /// Bytes of weights on the device, and of those, bytes another program had brought already.
    pub weights: (u64, u64),
    /// Bytes of activations and staging on the device.
    pub scratch: u64,
    /// The least exact arithmetic of its linear layers.
    #[serde(with = "crate::precision")]
    pub precision: Precision,
    /// How many runs the device computes at once.
    pub at_once: u16,
}

/// Where a run's time went, in microseconds, all on the worker's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStats {
    /// Waiting in the worker before the run began.
    pub queue_us: u64,
    /// The device's work.
    pub compute_us: u64,
    /// Bringing the outputs back.
    pub readback_us: u64,
    /// The least exact arithmetic of the program's linear layers, as it was loaded.
    #[serde(with = "crate::precision")]
    pub precision: Precision,
}

/// What a worker tells of itself now and then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Bytes of wasm or process memory.
    pub memory: u64,
    /// Bytes it holds on devices.
    pub device_memory: u64,
    /// Whether its page is hidden.
    pub hidden: bool,
    /// Battery charge in percent and whether it charges.
    pub battery: Option<(u8, bool)>,
    /// Sets of states it holds and the bytes they take on their devices, which `device_memory` does not count. Since
    /// version 2.
    pub states: (u32, u64),
    /// Whether somebody at it wants it to compute nothing for a while: it is given nothing new, what it was computing is wanted
    /// from others, and it keeps what it has loaded. Since version 3.
    pub paused: bool,
}

/// What a frame says. The number in each variant's documentation is its kind on the wire; numbers are never reused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Message {
    /// 1, host to worker: the worker has joined.
    Welcome {
        /// The version both speak from now on.
        version: u8,
        /// The session, to resume it with.
        session: String,
        /// Whether an earlier session goes on.
        resumed: bool,
        /// How often each side sends something, in milliseconds.
        heartbeat_ms: u32,
        /// After how long a silence the other side counts as gone, in milliseconds.
        timeout_ms: u32,
        /// How many requests the worker may be given at once for each run that its device computes at once.
        credits: u16,
    },
    /// 2, host to worker: the worker may not join; the host closes.
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        reason: String,
    },
    /// 3, host to worker: load a program. One tensor: the encoded program as `u8`.
    Load {
        /// The host's number for the program.
        program: u64,
        /// The API to load it for.
        api: ApiKind,
        /// What people call it.
        name: String,
    },
    /// 4, host to worker: free a program.
    Unload {
        /// The program.
        program: u64,
        /// The API it was loaded for.
        api: ApiKind,
    },
    /// 5, host to worker; id: the request. Run a loaded program; the tensors are its inputs, in order.
    Run {
        /// The program.
        program: u64,
        /// The API to run it on.
        api: ApiKind,
        /// Which attempt of the request this is, counted over all workers.
        attempt: u32,
        /// The set of states to run on, which must be of the same API; nothing for a program without states. Several runs on
        /// one set may be in flight: they take effect in the order they were sent, and may be sent before `StatesMade` came.
        /// One that is refused or cancelled changes nothing, and those after it go on without. A set that is not there
        /// fails the run as [`FaultKind::States`], one of other states than the program's as [`FaultKind::Input`]. Since
        /// version 2.
        states: Option<u64>,
    },
    /// 6, host to worker; id: the request. Its answer is no longer wanted.
    Cancel {
        /// Which attempt.
        attempt: u32,
    },
    /// 7, either way: are you there?
    Ping {
        /// Comes back in the pong.
        nonce: u64,
    },
    /// 8, either way: yes.
    Pong {
        /// The ping's.
        nonce: u64,
    },
    /// 9, either way: this side leaves on purpose.
    Bye {
        /// Why, for people.
        reason: String,
    },
    /// 64, worker to host: the first frame.
    Hello(Box<Hello>),
    /// 65, worker to host: a program is ready.
    Loaded {
        /// The program.
        program: u64,
        /// The API.
        api: ApiKind,
        /// What it cost.
        stats: LoadStats,
        /// Nodes that stayed more exact because their weights do not fit a format that was otherwise used.
        kept: Vec<String>,
    },
    /// 66, worker to host: a program could not be loaded.
    LoadFailed {
        /// The program.
        program: u64,
        /// The API.
        api: ApiKind,
        /// Whose fault it is.
        fault: FaultKind,
        /// What went wrong, for people.
        reason: String,
    },
    /// 67, worker to host: how far a load has come.
    LoadProgress {
        /// The program.
        program: u64,
        /// The API.
        api: ApiKind,
        /// Bytes of weights on the device so far.
        done: u64,
        /// Bytes of weights in all.
        total: u64,
    },
    /// 68, worker to host; id: the request. The tensors are the program's outputs, in order.
    Finished {
        /// Which attempt.
        attempt: u32,
        /// Where the time went.
        stats: RunStats,
    },
    /// 69, worker to host; id: the request. It failed.
    Failed {
        /// Which attempt.
        attempt: u32,
        /// Whose fault it is.
        fault: FaultKind,
        /// What went wrong, for people.
        reason: String,
    },
    /// 70, worker to host: how the worker is.
    Status(WorkerStatus),
    /// 71, worker to host: a device was lost, and with it everything loaded for its API and every set of states held or being
    /// made there, of which no further word comes.
    DeviceLost {
        /// The API.
        api: ApiKind,
        /// What the device said.
        reason: String,
    },
    /// 10, host to worker: how to tune kernels for an API, sent before its first load, and what is known of the device.
    Tune {
        /// The API.
        api: ApiKind,
        /// How long one load may spend on timing variants, in milliseconds.
        budget_ms: u32,
        /// Whether loads wait for that. Otherwise a program is loaded with what is known, and tuned once the worker has nothing
        /// else to do.
        at_load: bool,
        /// Winners of earlier sessions.
        known: Vec<TunedClass>,
    },
    /// 72, worker to host: winners that a load found.
    Tuned {
        /// The API.
        api: ApiKind,
        /// The winners.
        found: Vec<TunedClass>,
    },
    /// 11, host to worker, since version 2: make a set of states, all zeros. It is answered by `StatesMade` or `StatesFailed`
    /// unless it is freed or lost before.
    MakeStates {
        /// The host's number for the set, which no set that the worker holds has.
        states: u64,
        /// The API to make it for. Its device is opened if need be.
        api: ApiKind,
        /// How long the set lives without a run that names it, in milliseconds: at least 1. Runs that wait or compute keep it.
        lease_ms: u32,
        /// What it holds, in the order of the programs that will run on it; see [`StateLimits`](crate::StateLimits).
        specs: Vec<StateSpec>,
    },
    /// 12, host to worker, since version 2: free a set of states. Runs on it that were sent before are still done; a set that is
    /// not there is no error. There is no answer.
    FreeStates {
        /// The set.
        states: u64,
    },
    /// 73, worker to host, since version 2: a set of states is made.
    StatesMade {
        /// The set.
        states: u64,
        /// The API.
        api: ApiKind,
        /// The bytes that it takes on its device, exactly.
        bytes: u64,
    },
    /// 74, worker to host, since version 2: a set of states could not be made: [`FaultKind::Input`] where it is not sound,
    /// [`FaultKind::Memory`] where it is too much, [`FaultKind::Unsupported`] where the API is not there or keeps no such states,
    /// [`FaultKind::Device`] where that failed, [`FaultKind::Worker`] where a set of this number is there already, which stays.
    StatesFailed {
        /// The set.
        states: u64,
        /// The API.
        api: ApiKind,
        /// Whose fault it is.
        fault: FaultKind,
        /// What went wrong, for people.
        reason: String,
    },
    /// 75, worker to host, since version 2: the worker ended a set of states by itself.
    StatesLost {
        /// The set.
        states: u64,
        /// The API.
        api: ApiKind,
        /// Why, for programs.
        cause: StatesLoss,
        /// Why, for people.
        reason: String,
    },
}

impl Message {
    /// The number of this message on the wire.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Message::Welcome { .. } => 1,
            Message::Refused { .. } => 2,
            Message::Load { .. } => 3,
            Message::Unload { .. } => 4,
            Message::Run { .. } => 5,
            Message::Cancel { .. } => 6,
            Message::Ping { .. } => 7,
            Message::Pong { .. } => 8,
            Message::Bye { .. } => 9,
            Message::Hello(_) => 64,
            Message::Loaded { .. } => 65,
            Message::LoadFailed { .. } => 66,
            Message::LoadProgress { .. } => 67,
            Message::Finished { .. } => 68,
            Message::Failed { .. } => 69,
            Message::Status(_) => 70,
            Message::DeviceLost { .. } => 71,
            Message::Tune { .. } => 10,
            Message::Tuned { .. } => 72,
            Message::MakeStates { .. } => 11,
            Message::FreeStates { .. } => 12,
            Message::StatesMade { .. } => 73,
            Message::StatesFailed { .. } => 74,
            Message::StatesLost { .. } => 75,
        }
    }
}
