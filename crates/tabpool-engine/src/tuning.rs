//! What a backend learnt about its device: which variant of a kernel wins for which class of work.
//!
//! A backend finds winners while it loads programs, within a budget of time. The worker sends them to the host, which keeps
//! them under the adapter's name and sends them back at the next handshake, so that a known adapter starts tuned.

use std::time::Duration;

/// One variant as it was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The variant's name, stable between versions that compute it the same way.
    pub variant: String,
    /// A low quantile of its time for one launch; `None` where it failed to compile or gave wrong numbers here.
    pub time: Option<Duration>,
}

/// The fastest right variant for one class of work on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Winner {
    /// The kernel and the class of its shapes, as in `gemm m128 n384 k384`; stable like a variant's name.
    pub class: String,
    /// The variant that won.
    pub variant: String,
    /// Everything that was timed, the winner included, fastest first.
    pub timings: Vec<Timing>,
}

/// How a backend is to tune, and what is known of its device already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long one load may spend on timing variants; zero to take what is known, or the prior, as it is. What a load leaves
    /// out, a later one tries.
    pub budget: Duration,
    /// Winners of earlier sessions. Unknown classes and variants are ignored.
    pub known: Vec<Winner>,
}

impl Default for Tuning {
    /// One second a load, nothing known.
    fn default() -> Self {
        Self { budget: Duration::from_secs(1), known: Vec::new() }
    }
}
