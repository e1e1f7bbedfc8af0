//! The engine: what every backend promises, and the parts they share.
//!
//! A [`Backend`] turns a [`Program`](tabpool_graph::Program) into an [`Executable`] on one device. There is one
//! conformance suite ([`conformance`]) that every backend runs, and one oracle ([`oracle`]) that says what is right.
//! Memory is planned once, at load, by the liveness of values ([`memory`]); a run allocates nothing.
//!
//! Futures here are not `Send`: a backend lives on the thread of its worker, in a browser and natively alike.

pub mod backend;
pub mod conformance;
pub mod cpu;
pub mod memory;
pub mod oracle;
pub mod state;
pub mod tuning;

pub use backend::{
    Api, Backend, BackendInfo, EngineError, Executable, LoadReport, Loaded, MemoryUse, RunOutput, WeightError,
    WeightSource, check_inputs,
};
pub use state::{StateSet, StateSpec, check_states};
pub use tuning::{Timing, Tuning, Winner};
