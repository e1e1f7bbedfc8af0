//! The host's side of one connection.

use std::time::Duration;

use bytes::Bytes;

use super::{Heartbeat, SessionConfig, SessionError};
use crate::{Frame, Hello, Limits, Message, OLDEST_VERSION, RefusalCode, VERSION};

/// What a host must react to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HostEvent {
    /// A worker asks to join: answer with [`HostSession::welcome`] or [`HostSession::refuse`].
    Hello(Box<Hello>),
    /// A frame of a joined worker.
    Frame(Frame),
}

#[derive(Debug)]
enum State {
    /// Waiting for `Hello`, since then.
    Fresh(Duration),
    /// `Hello` came; waiting for the host's decision.
    Asking,
    /// Joined.
    Open(Heartbeat),
    Closed,
}

/// One connection as the host sees it: handshake, heartbeats, what may come when.
#[derive(Debug)]
pub struct HostSession {
    config: SessionConfig,
    limits: Limits,
    state: State,
}

impl HostSession {
    /// A connection that was accepted just now.
    #[must_use]
    pub fn new(config: SessionConfig, limits: Limits, now: Duration) -> Self {
        Self { config, limits, state: State::Fresh(now) }
    }

    /// Takes a message of the worker. Frames to send back are pushed to `out`.
    ///
    /// # Errors
    /// The session is over; send what is in `out`, then close.
    pub fn receive(
        &mut self,
        now: Duration,
        bytes: &Bytes,
        out: &mut Vec<Frame>,
    ) -> Result<Option<HostEvent>, SessionError> {
        let frame = match Frame::decode(bytes, &self.limits) {
            Ok(frame) => frame,
            Err(e) => {
                if matches!(self.state, State::Fresh(_)) {
                    out.push(refusal(RefusalCode::Malformed, format!("the first frame could not be read: {e}")));
                }
                self.state = State::Closed;
                return Err(SessionError::Frame(e.to_string()));
            }
        };
        let kind = frame.message.kind();
        match (&mut self.state, frame.message) {
            (State::Fresh(_), Message::Hello(hello)) => self.hello(hello, out),
            (State::Open(_), Message::Bye { reason }) => {
                self.state = State::Closed;
                Err(SessionError::Left(reason))
            }
            (State::Open(beat), Message::Ping { nonce }) => {
                beat.heard = now;
                out.push(Message::Pong { nonce }.into());
                Ok(None)
            }
            (State::Open(beat), Message::Pong { .. }) => {
                beat.heard = now;
                Ok(None)
            }
            (State::Open(beat), message) if kind > 64 => {
                beat.heard = now;
                Ok(Some(HostEvent::Frame(Frame { id: frame.id, message, tensors: frame.tensors })))
            }
            (state, _) => {
                if matches!(state, State::Fresh(_)) {
                    out.push(refusal(RefusalCode::Malformed, "the first frame must be a hello".to_owned()));
                }
                *state = State::Closed;
                Err(SessionError::Unexpected(kind))
            }
        }
    }

    fn hello(&mut self, hello: Box<Hello>, out: &mut Vec<Frame>) -> Result<Option<HostEvent>, SessionError> {
        if hello.oldest > VERSION || hello.newest < OLDEST_VERSION {
            let reason = format!(
                "the worker speaks protocol versions {} to {}, this host {OLDEST_VERSION} to {VERSION}: reload the page",
                hello.oldest, hello.newest
            );
            out.push(refusal(RefusalCode::Version, reason.clone()));
            self.state = State::Closed;
            return Err(SessionError::Refused { code: RefusalCode::Version, reason });
        }
        self.state = State::Asking;
        Ok(Some(HostEvent::Hello(hello)))
    }

    /// Lets the worker join; gives the frame that tells it.
    pub fn welcome(&mut self, now: Duration, session: &str, resumed: bool) -> Frame {
        self.state = State::Open(Heartbeat::new(now, self.config.heartbeat, self.config.timeout));
        let ms = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
        Frame::from(Message::Welcome {
            version: VERSION,
            session: session.to_owned(),
            resumed,
            heartbeat_ms: ms(self.config.heartbeat),
            timeout_ms: ms(self.config.timeout),
            credits: self.config.credits,
        })
    }

    /// Turns the worker away; gives the frame that tells it. Close after sending it.
    pub fn refuse(&mut self, code: RefusalCode, reason: String) -> Frame {
        self.state = State::Closed;
        refusal(code, reason)
    }

    /// Lets time pass: heartbeats to send are pushed to `out`.
    ///
    /// # Errors
    /// The session is over.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<Frame>) -> Result<(), SessionError> {
        match &mut self.state {
            State::Fresh(since) if now.saturating_sub(*since) >= self.config.handshake => {
                self.state = State::Closed;
                Err(SessionError::Handshake(self.config.handshake))
            }
            State::Open(beat) => {
                out.extend(beat.tick(now)?.map(Frame::from));
                Ok(())
            }
            State::Fresh(_) | State::Asking | State::Closed => Ok(()),
        }
    }

    /// When [`tick`](Self::tick) must be called at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        match &self.state {
            State::Fresh(since) => Some(*since + self.config.handshake),
            State::Open(beat) => Some(beat.deadline()),
            State::Asking | State::Closed => None,
        }
    }
}

fn refusal(code: RefusalCode, reason: String) -> Frame {
    Message::Refused { code, reason }.into()
}
