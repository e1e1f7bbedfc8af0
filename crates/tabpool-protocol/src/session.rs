//! Sessions as state machines: frames and the time in, frames and events out. No I/O.
//!
//! Time is a [`Duration`] since any fixed moment of the side that keeps it; the two sides share no clock.

mod host;
mod worker;

use std::time::Duration;

pub use host::{HostEvent, HostSession};
pub use worker::{WorkerEvent, WorkerSession};

/// How a host keeps its sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// How often each side sends something.
    pub heartbeat: Duration,
    /// After how long a silence the other side counts as gone.
    pub timeout: Duration,
    /// How long a worker has for its first frame.
    pub handshake: Duration,
    /// How many requests a worker may be given at once.
    pub credits: u16,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(2),
            timeout: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            credits: 4,
        }
    }
}

/// Why a session ended.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// Nothing came for too long.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// The handshake did not finish in time.
    #[error("no handshake within {0:?}")]
    Handshake(Duration),
    /// A frame that does not decode.
    #[error("a frame could not be read: {0}")]
    Frame(String),
    /// A frame that may not come now, or not from this side.
    #[error("a frame of kind {0} may not come now")]
    Unexpected(u8),
    /// The other side left on purpose.
    #[error("the other side left: {0}")]
    Left(String),
    /// The host refused the worker.
    #[error("refused ({code:?}): {reason}")]
    Refused {
        /// Why, for programs.
        code: crate::RefusalCode,
        /// Why, for people.
        reason: String,
    },
}

/// Both sides' heartbeat: when to ping, when to give up.
#[derive(Debug)]
struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    heard: Duration,
    sent: Duration,
    nonce: u64,
}

impl Heartbeat {
    fn new(now: Duration, interval: Duration, timeout: Duration) -> Self {
        Self { interval, timeout, heard: now, sent: now, nonce: 0 }
    }

    /// A ping where one is due, an error where the other side is gone.
    fn tick(&mut self, now: Duration) -> Result<Option<crate::Message>, SessionError> {
        let silence = now.saturating_sub(self.heard);
        if silence >= self.timeout {
            return Err(SessionError::Silent(silence));
        }
        if now.saturating_sub(self.sent) < self.interval {
            return Ok(None);
        }
        self.sent = now;
        self.nonce += 1;
        Ok(Some(crate::Message::Ping { nonce: self.nonce }))
    }

    fn deadline(&self) -> Duration {
        (self.heard + self.timeout).min(self.sent + self.interval)
    }
}

#[cfg(test)]
mod tests;
