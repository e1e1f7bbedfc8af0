//! Answers that could not be sent because the link was down.

use bytes::Bytes;

/// Bytes kept at most. Answers beyond it are dropped: the host, told at the next join which requests are held, replays
/// them.
const LARGEST: usize = 64 << 20;

/// What waits for the next link.
#[derive(Default)]
pub(super) struct Outbox {
    messages: Vec<(u64, Bytes)>,
    bytes: usize,
}

impl Outbox {
    pub(super) fn keep(&mut self, request: u64, message: Bytes) {
        if self.bytes + message.len() <= LARGEST {
            self.bytes += message.len();
            self.messages.push((request, message));
        }
    }

    /// The requests whose answers are here.
    pub(super) fn requests(&self) -> impl Iterator<Item = u64> {
        self.messages.iter().map(|(request, _)| *request).filter(|&r| r != 0)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn take(&mut self) -> impl Iterator<Item = Bytes> + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.messages).into_iter().map(|(_, message)| message)
    }
}
