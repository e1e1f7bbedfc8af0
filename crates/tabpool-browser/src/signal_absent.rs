//! Stands in for `signal.rs` on platforms without Unix signals, where [`Browser::launch`](crate::Browser::launch)
//! refuses before any of this is reached. It exists so that discovery and diagnosis build there.

use std::io;
use std::process::Command;

/// As on Unix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// A request to end in good order.
    Terminate,
    /// The end, at once.
    Kill,
}

/// Reaches nothing: no browser was started.
pub(crate) fn send(_pid: u32, _signal: Signal) {}

/// Reaches nothing: no browser was started.
pub(crate) fn send_to_group(_group: u32, _signal: Signal) {}

/// Cannot wait for what was never started.
pub(crate) fn wait_without_reaping(_pid: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There are no sessions.
pub(crate) fn in_own_session(_command: &mut Command) {}
