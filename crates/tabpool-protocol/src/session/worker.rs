//! The worker's side of one connection.

use std::time::Duration;

use bytes::Bytes;

use super::{Heartbeat, SessionError};
use crate::{Frame, Limits, Message, RefusalCode, VERSION};

/// What a worker must react to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// The worker has joined.
    Joined {
        /// The session, to resume it with.
        session: String,
        /// Whether an earlier session goes on; where it does not, whatever was loaded is to be freed.
        resumed: bool,
        /// How many requests may come at once.
        credits: u16,
    },
    /// Work: `Load`, `Unload`, `Run`, `Cancel`, `Tune`, `MakeStates` or `FreeStates`.
    Frame(Frame),
}

#[derive(Debug)]
enum State {
    Greeting(Duration),
    Open(Heartbeat),
    Closed,
}

/// One connection as the worker sees it. The worker sends its `Hello` itself, as the first frame.
#[derive(Debug)]
pub struct WorkerSession {
    limits: Limits,
    handshake: Duration,
    state: State,
}

impl WorkerSession {
    /// A connection that was opened just now and has `handshake` to be answered.
    #[must_use]
    pub fn new(limits: Limits, handshake: Duration, now: Duration) -> Self {
        Self { limits, handshake, state: State::Greeting(now) }
    }

    /// Takes a message of the host. Frames to send back are pushed to `out`.
    ///
    /// # Errors
    /// The session is over; close.
    pub fn receive(
        &mut self,
        now: Duration,
        bytes: &Bytes,
        out: &mut Vec<Frame>,
    ) -> Result<Option<WorkerEvent>, SessionError> {
        let frame = Frame::decode(bytes, &self.limits).map_err(|e| {
            self.state = State::Closed;
            SessionError::Frame(e.to_string())
        })?;
        let kind = frame.message.kind();
        if let State::Open(beat) = &mut self.state {
            beat.heard = now;
        }
        let over = match (&self.state, frame.message) {
            (State::Greeting(_), Message::Welcome { version, session, resumed, heartbeat_ms, timeout_ms, credits }) => {
                if version == VERSION {
                    let ms = |v: u32| Duration::from_millis(u64::from(v.max(1)));
                    self.state = State::Open(Heartbeat::new(now, ms(heartbeat_ms), ms(timeout_ms)));
                    return Ok(Some(WorkerEvent::Joined { session, resumed, credits }));
                }
                let reason = format!("the host chose protocol version {version}, this worker speaks {VERSION}");
                SessionError::Refused { code: RefusalCode::Version, reason }
            }
            (State::Greeting(_), Message::Refused { code, reason }) => SessionError::Refused { code, reason },
            (State::Open(_), Message::Bye { reason }) => SessionError::Left(reason),
            (State::Open(_), Message::Ping { nonce }) => {
                out.push(Message::Pong { nonce }.into());
                return Ok(None);
            }
            (State::Open(_), Message::Pong { .. }) => return Ok(None),
            (State::Open(_), message) if matches!(kind, 3..=6 | 10..=12) => {
                return Ok(Some(WorkerEvent::Frame(Frame { id: frame.id, message, tensors: frame.tensors })));
            }
            _ => SessionError::Unexpected(kind),
        };
        self.state = State::Closed;
        Err(over)
    }

    /// Lets time pass: heartbeats to send are pushed to `out`.
    ///
    /// # Errors
    /// The session is over.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Frame>) -> Result<(), SessionError> {
        match &mut self.state {
            State::Greeting(since) if now.saturating_sub(*since) >= self.handshake => {
                self.state = State::Closed;
                Err(SessionError::Handshake(self.handshake))
            }
            State::Open(beat) => {
                out.extend(beat.tick(now)?.map(Frame::from));
                Ok(())
            }
            State::Greeting(_) | State::Closed => Ok(()),
        }
    }
}
