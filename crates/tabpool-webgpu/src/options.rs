//! How a backend is opened.

use crate::{AttentionVariant, GemmVariant, RowVariant};

/// Which of the machine's adapters to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterChoice {
    /// The best one there is; a software adapter where there is nothing else.
    #[default]
    Any,
    /// Only a real GPU. In a browser: no fallback adapter.
    Hardware,
    /// Only a software adapter, for tests.
    Software,
}

/// What to favour where a machine has several GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Power {
    /// Speed.
    #[default]
    High,
    /// Battery.
    Low,
}

/// How a backend is opened. Start from [`Options::default`].
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which adapter.
    pub adapter: AdapterChoice,
    /// What to favour.
    pub power: Power,
    /// Firefox resolves a pending map on a timer of 100 ms unless something is submitted; with this set, an empty list is
    /// submitted every 2 ms while a map is pending. Of no use elsewhere, and ignored natively.
    pub nudge_maps: bool,
    /// The GEMM variant for every linear node that may be computed so; chosen by the kind of adapter, the number of rows
    /// and the precision permitted where `None`. A device that cannot run it does not open.
    pub gemm: Option<GemmVariant>,
    /// The variant for every attention that it can compute; chosen by the kind of adapter and the shapes where `None`.
    pub attention: Option<AttentionVariant>,
    /// The variant for every softmax and normalisation that it can compute; chosen likewise where `None`.
    pub rows: Option<RowVariant>,
}
