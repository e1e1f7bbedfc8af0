//! The link between a host and its workers: frames, their limits, and the state of a session without any I/O.
//!
//! # A frame
//!
//! One binary message carries one frame, little-endian throughout:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | protocol version |
//! | 1 | kind: the number of a [`Message`] variant |
//! | 2 | flags, 0 in this version |
//! | 4 | length of the body |
//! | 8 | id: of the request where there is one, otherwise 0 |
//! | … | body: postcard of the message, then a list of tensor headers (dtype, dimensions) |
//! | … | zeros up to a multiple of 8 |
//! | … | each tensor's bytes, each padded to a multiple of 8 |
//!
//! Tensor bytes never pass through serde: a decoded frame's tensors are slices of the message.
//!
//! # Versions
//!
//! A worker's [`Hello`] names the range of versions it speaks; the host answers with the one both use, or refuses and
//! says why. `Hello`, `Welcome` and `Refused` keep their shape in all versions.
//!
//! - **1**: everything but what the next ones added.
//! - **2**: sets of states. `MakeStates`, `FreeStates`, `StatesMade`, `StatesFailed` and `StatesLost`; `Run` names a set,
//!   `Hello` lists those held (in a tensor, so that its body keeps its shape), `Status` counts them;
//!   [`FaultKind::States`]. As `Run` and `Status` have other bodies than before, version 1 is not spoken any more.
//! - **3**: `Status` says whether the worker is paused. As it has another body than before, version 2 is not spoken any more.
//!
//! # What this crate does not do
//!
//! It opens no socket, reads no clock and holds no model: [`HostSession`] and [`WorkerSession`] take frames and the time
//! in and give frames and events out. Programs and their APIs travel as opaque bytes and numbers.

mod capabilities;
mod frame;
mod message;
mod precision;
mod session;
mod states;
mod tuning;

pub use capabilities::{AdapterInfo, ApiKind, ApiReport, Capabilities, DeviceClass};
pub use frame::{Frame, FrameError, HEADER_LEN, Limits};
pub use message::{FaultKind, Hello, LoadStats, Message, RefusalCode, RunStats, StatesLoss, WorkerStatus};
pub use session::{HostEvent, HostSession, SessionConfig, SessionError, WorkerEvent, WorkerSession};
pub use states::{HeldStates, StateLimits, StateSpec, StatesError};
pub use tuning::TunedClass;

/// The newest protocol version this crate speaks.
pub const VERSION: u8 = 3;
/// The oldest protocol version this crate speaks.
pub const OLDEST_VERSION: u8 = 3;
