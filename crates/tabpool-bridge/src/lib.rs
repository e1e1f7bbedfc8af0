//! The host's side of the link to workers: who may join, sessions, heartbeats, flow of frames, reconnection.
//!
//! A [`Bridge`] accepts connections, WebSockets through [`Bridge::router`] and in-process ones through
//! [`Bridge::connect_local`], and turns them into a single stream of [`BridgeEvent`]s. One task owns each connection;
//! everything it queues is bounded. A worker whose connection breaks has a grace period to come back with its session;
//! until then its [`WorkerLink`] accepts nothing, and the host learns from [`BridgeEvent::Resumed`] what the worker still
//! holds.
//!
//! The bridge knows nothing of models, placement or browsers: it moves frames.

mod bridge;
mod connection;
mod local;
mod sessions;
mod socket;
mod strikes;
mod tokens;

pub use bridge::{Bridge, BridgeConfig, BridgeEvent, Entrance, Events};
pub use local::LocalLink;
pub use sessions::{LinkError, WorkerId, WorkerLink};
pub use strikes::StrikeLimit;
pub use tokens::{Grant, Token, TokenError, TokenId, Tokens};
