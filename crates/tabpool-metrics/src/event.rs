//! What can be recorded: plain values with their units in their types, and nothing else.
//!
//! The structs hold what a caller knows at the moment something ended. They are not the tables: `rows.rs` alone knows how
//! an event becomes a row, so that a column can move without any caller noticing. Strings may come from anywhere (a remote
//! tab names its own adapter), hence they are bounded and cleaned on the way to the file, never here on the hot path.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The time now, by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// The time `micros` microseconds after (before, when negative) the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This time less `span`, stopping at the earliest time there is.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(micros(span)))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(micros(after)),
            Err(before) => Self(-micros(before.duration())),
        }
    }
}

/// Microseconds of a duration, stopping at 292 000 years.
pub(crate) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// Who did the work: one per session of a worker, shared by all its events so that recording costs no copies of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerIdentity {
    /// The worker's id in the pool.
    pub worker: String,
    /// The session under which it is connected; a reconnection that resumes keeps it.
    pub session: String,
    /// `chromium`, `firefox`, `edge`, `native`, and so on.
    pub browser: String,
    /// The browser's full version, or the program's own for a native worker.
    pub browser_version: String,
    /// The operating system the worker runs on, with its version where known.
    pub os: String,
    /// The accelerator it computes on.
    pub adapter: Adapter,
}

/// A GPU (or its software stand-in, or a CPU) as the worker describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Adapter {
    /// `nvidia`, `google`, `mesa`, …
    pub vendor: String,
    /// `ampere`, `swiftshader`, …
    pub architecture: String,
    /// Free text, often empty in browsers.
    pub description: String,
}

/// Which model: its name in the pool and its root CID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelIdentity {
    /// The name it was asked for by.
    pub name: String,
    /// The CID of its folder, as text.
    pub cid: String,
}

/// The API that computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// WGSL kernels over WebGPU, in a browser or natively.
    WebGpu,
    /// `MLGraphBuilder` in a browser.
    WebNn,
    /// SIMD on the processor.
    Cpu,
}

impl Api {
    /// The name under which it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebGpu => "webgpu",
            Self::WebNn => "webnn",
            Self::Cpu => "cpu",
        }
    }
}

/// The number format of the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// 8-bit integers with scales.
    Int8,
}

impl Precision {
    /// The name under which it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Ok,
    /// With an error.
    Failed {
        /// A short stable word, such as `out_of_memory`.
        code: String,
        /// The message for a person.
        message: String,
    },
    /// Its deadline passed first.
    TimedOut,
    /// Whoever asked for it no longer wants it.
    Cancelled,
}

impl Outcome {
    /// The word under which the outcome is stored.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed { .. } => "error",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The static shapes the program that ran was built for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Rows of the batch dimension.
    pub batch: u32,
    /// Length of the sequence dimension (tokens, frames, patches).
    pub sequence: u32,
}

/// One request answered, however it ended.
#[derive(Clone, Debug)]
pub struct Inference {
    /// When the answer was complete on the host.
    pub at: Timestamp,
    /// The request's id, unique within one run of the pool.
    pub request: u64,
    /// What ran.
    pub model: Arc<ModelIdentity>,
    /// Who ran it. A request that never reached a worker has an identity of empty strings.
    pub worker: Arc<WorkerIdentity>,
    /// The program's bucket.
    pub bucket: Bucket,
    /// How many rows of the bucket's batch held real inputs, all requests of the batch together.
    pub batch_used: u32,
    /// Tokens (frames, patches) of this request that were not padding.
    pub tokens: u32,
    /// The API that computed.
    pub api: Api,
    /// The number format of the arithmetic.
    pub precision: Precision,
    /// From admission to being sent to a worker.
    pub queue_wait: Duration,
    /// On the wire and in (de)serialisation, both ways together.
    pub transfer: Duration,
    /// On the device, of the whole batch.
    pub compute: Duration,
    /// From the device's memory to the worker's, of the whole batch.
    pub readback: Duration,
    /// From admission to the answer, everything included.
    pub total: Duration,
    /// Bytes sent to the worker for it.
    pub bytes_in: u64,
    /// Bytes that came back.
    pub bytes_out: u64,
    /// 1 when the first try gave the answer.
    pub attempts: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionEvent {
    /// A browser or native worker was started.
    Launched,
    /// A worker completed its handshake.
    Joined,
    /// A worker came back with the session it had.
    Resumed,
    /// The link broke or the heartbeats stopped.
    Lost,
    /// A replacement is being started.
    Restarting,
    /// The worker failed too often, or its golden case, and gets no work.
    SetAside,
    /// The connection ended in order.
    Closed,
    /// A handshake was refused.
    Rejected,
}

impl ConnectionEvent {
    /// The word under which the event is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Launched => "launched",
            Self::Joined => "joined",
            Self::Resumed => "resumed",
            Self::Lost => "lost",
            Self::Restarting => "restarting",
            Self::SetAside => "set_aside",
            Self::Closed => "closed",
            Self::Rejected => "rejected",
        }
    }
}

/// One step in the life of a connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// When it happened.
    pub at: Timestamp,
    /// Whose connection. Before the handshake only what the launcher knows is filled in.
    pub worker: Arc<WorkerIdentity>,
    /// The pool's slot, for workers the pool started itself.
    pub slot: Option<u32>,
    /// `fresh`, `kept`, or empty where the pool has no profile to speak of.
    pub profile: String,
    /// What happened.
    pub event: ConnectionEvent,
    /// Why, in words; empty where the event says it all.
    pub reason: String,
    /// The process, where the pool started one.
    pub pid: Option<u32>,
    /// From the start of the process to the handshake, on [`ConnectionEvent::Joined`].
    pub start_up: Option<Duration>,
}

/// What a pool decides by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecisionKind {
    /// A group of workers gets one more.
    Grow,
    /// A group gives one up.
    Shrink,
    /// A worker is replaced although nothing is wrong with it.
    Recycle,
    /// A model is loaded on a worker.
    Load,
    /// A worker gives a model up.
    Unload,
    /// A worker can never run a model with an API.
    Refuse,
    /// A model is kept away from a worker for a while.
    Suspend,
    /// It is not any more.
    Resume,
    /// What keeps failing to start is not started for a while.
    SetAside,
    /// A worker gets nothing more for an API, because its numbers are wrong.
    Distrust,
}

impl DecisionKind {
    /// The word under which the decision is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grow => "grow",
            Self::Shrink => "shrink",
            Self::Recycle => "recycle",
            Self::Load => "load",
            Self::Unload => "unload",
            Self::Refuse => "refuse",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::SetAside => "set_aside",
            Self::Distrust => "distrust",
        }
    }
}

/// Something that a pool decided.
#[derive(Clone, Debug)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: DecisionKind,
    /// About which worker; empty where about none.
    pub worker: Arc<WorkerIdentity>,
    /// About which slot.
    pub slot: Option<u32>,
    /// About which model; empty where about none.
    pub model: Arc<ModelIdentity>,
    /// About which API.
    pub api: Option<Api>,
    /// Why, in words.
    pub reason: String,
}

/// A model made ready on a worker.
#[derive(Clone, Debug)]
pub struct ModelLoad {
    /// When the load ended.
    pub at: Timestamp,
    /// What was loaded.
    pub model: Arc<ModelIdentity>,
    /// Where.
    pub worker: Arc<WorkerIdentity>,
    /// The API it was prepared for.
    pub api: Api,
    /// The number format of the arithmetic it came to; the one asked for where the load failed.
    pub precision: Precision,
    /// Weight bytes that came from the host.
    pub bytes_fetched: u64,
    /// Weight bytes that the worker still had.
    pub bytes_cached: u64,
    /// Blocks that came from the host.
    pub blocks_fetched: u32,
    /// Blocks that the worker still had.
    pub blocks_cached: u32,
    /// Getting and verifying the blocks, from wherever.
    pub fetch: Duration,
    /// Compiling pipelines or building graphs.
    pub compile: Duration,
    /// Moving weights to the device.
    pub upload: Duration,
    /// From the order to readiness.
    pub total: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// The variants of a kernel that a worker timed for one class of shapes.
#[derive(Clone, Debug)]
pub struct KernelTuning {
    /// When it was told.
    pub at: Timestamp,
    /// On whose device.
    pub worker: Arc<WorkerIdentity>,
    /// The API the kernel runs on.
    pub api: Api,
    /// The kernel and the class, as in `gemm m128 n384 k384`.
    pub class: String,
    /// The variant that won.
    pub winner: String,
    /// Every variant with the time of one launch; `None` where it failed. The winner is added where it is missing.
    pub timings: Vec<(String, Option<Duration>)>,
}

/// The pool as a whole, at one moment.
#[derive(Clone, Debug, Default)]
pub struct PoolSample {
    /// When it was taken.
    pub at: Timestamp,
    /// Workers being started.
    pub workers_starting: u32,
    /// Workers ready and without work.
    pub workers_idle: u32,
    /// Workers with work.
    pub workers_busy: u32,
    /// Workers finishing what they have before they end.
    pub workers_draining: u32,
    /// Workers that get no work because of their failures.
    pub workers_set_aside: u32,
    /// Requests waiting.
    pub queue_length: u32,
    /// Requests sent to workers and not yet answered.
    pub in_flight: u32,
    /// Requests admitted since the pool started.
    pub accepted_total: u64,
    /// Requests answered with a result since the pool started.
    pub finished_total: u64,
    /// Requests answered with an error since the pool started.
    pub failed_total: u64,
    /// Resident bytes of the host process.
    pub host_rss_bytes: u64,
    /// Bytes of all browser processes together (PSS where the system tells it).
    pub browsers_memory_bytes: u64,
}

/// Anything that can be recorded.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request was answered.
    Inference(Inference),
    /// A connection changed.
    Connection(Connection),
    /// A model was loaded, or was not.
    ModelLoad(ModelLoad),
    /// A regular sample of the pool.
    PoolSample(PoolSample),
    /// A class of kernels was tuned.
    KernelTuning(KernelTuning),
    /// The pool decided something.
    Decision(Decision),
}

macro_rules! event_from {
    ($($kind:ident),+) => {$(
        impl From<$kind> for Event {
            fn from(event: $kind) -> Self {
                Self::$kind(event)
            }
        }
    )+};
}

event_from!(Inference, Connection, ModelLoad, PoolSample, KernelTuning, Decision);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_are_negative_microseconds() {
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_micros(7)).as_micros(), -7);
        assert_eq!(Timestamp::from(UNIX_EPOCH + Duration::from_nanos(7_999)).as_micros(), 7);
    }

    #[test]
    fn absurd_spans_stop_at_the_bound_instead_of_wrapping() {
        assert_eq!(micros(Duration::MAX), i64::MAX);
        assert_eq!(Timestamp::from_micros(i64::MIN).minus(Duration::MAX).as_micros(), i64::MIN);
    }
}
