//! The names by which events and actions speak of things: plain numbers given out by the caller.
//!
//! The scheduler never makes an id up and never reads meaning into one. Two ids of one sort must not be reused
//! while the first may still be mentioned: a `RequestId` given out twice would let a late frame of the first
//! request be taken for one of the second.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($noun, " {}"), self.0)
            }
        }
    };
}

id!(
    /// One joined worker: a tab, a native process, a remote page. A restart is a new worker.
    WorkerId,
    "worker"
);
id!(
    /// A place in the pool that is kept filled by launching a browser or a native worker.
    SlotId,
    "slot"
);
id!(
    /// One request of a caller, from `Submit` to its only `Reply`.
    RequestId,
    "request"
);
id!(
    /// A model; its programs share latency estimates until they have their own.
    ModelId,
    "model"
);
id!(
    /// A model's static program for one bucket of shapes: the unit that is loaded and run.
    ProgramId,
    "program"
);
id!(
    /// The elements of one weight, whichever programs use it.
    WeightId,
    "weight"
);

id!(
    /// Somebody who shares the pool with others, each of whom gets as much of it as the others while all want more. Whoever does
    /// not say who he is is the default one.
    ClientId,
    "client"
);

impl ClientId {
    /// The client of this name: 64-bit FNV-1a of it.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }
}

impl Default for ClientId {
    fn default() -> Self {
        Self::named("")
    }
}

/// The API a worker runs a program with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Api {
    /// WebGPU, in a browser or natively.
    WebGpu,
    /// WebNN, in a browser.
    WebNn,
    /// Threads and SIMD.
    Cpu,
}

impl Api {
    /// Every API, in declaration order.
    pub const ALL: [Self; 3] = [Self::WebGpu, Self::WebNn, Self::Cpu];

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WebGpu => "webgpu",
            Self::WebNn => "webnn",
            Self::Cpu => "cpu",
        })
    }
}

/// What sort of worker this is; workers of one kind share latency estimates and priors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkerKind {
    /// Chromium, launched by the pool.
    Chromium,
    /// Google Chrome, launched by the pool.
    Chrome,
    /// Microsoft Edge, launched by the pool.
    Edge,
    /// Firefox, launched by the pool.
    Firefox,
    /// The WebNN shell, launched by the pool.
    WebNnShell,
    /// A native worker of the same protocol.
    Native,
    /// A page that somebody opened somewhere.
    Remote,
}

impl WorkerKind {
    /// Every kind, in declaration order.
    pub const ALL: [Self; 7] =
        [Self::Chromium, Self::Chrome, Self::Edge, Self::Firefox, Self::WebNnShell, Self::Native, Self::Remote];
}

impl fmt::Display for WorkerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chromium => "chromium",
            Self::Chrome => "chrome",
            Self::Edge => "edge",
            Self::Firefox => "firefox",
            Self::WebNnShell => "webnn-shell",
            Self::Native => "native",
            Self::Remote => "remote",
        })
    }
}
