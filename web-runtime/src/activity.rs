//! What a person at the page wants to know of the work, read off the frames that pass.

use std::collections::BTreeMap;

use bytes::Bytes;
use tabpool_protocol::{FaultKind, Frame, Limits, Message, StatesLoss};

/// Names kept at most; the host numbers its programs upwards, so the oldest goes.
const MOST_NAMES: usize = 256;

/// The wire's numbers of what is looked at. Everything else passes undecoded.
const LOAD: u8 = 3;
const TOLD: [u8; 7] = [65, 66, 67, 69, 71, 74, 75];

/// A load under way.
#[derive(Clone, Debug)]
pub(crate) struct Loading {
    program: u64,
    /// What people call it.
    pub(crate) name: String,
    /// Bytes on the device.
    pub(crate) done: u64,
    /// Bytes in all.
    pub(crate) total: u64,
}

/// What is going on.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    names: BTreeMap<u64, String>,
    /// The load that last told its progress.
    pub(crate) loading: Option<Loading>,
    /// The last thing that went wrong.
    pub(crate) error: Option<String>,
    /// How many things went wrong.
    pub(crate) errors: u32,
}

impl Activity {
    /// A message of the host.
    pub(crate) fn incoming(&mut self, message: &Bytes) {
        if message.get(1) == Some(&LOAD)
            && let Ok(frame) = Frame::decode(message, &Limits::default())
            && let Message::Load { program, name, .. } = frame.message
        {
            self.names.insert(program, name);
            while self.names.len() > MOST_NAMES {
                self.names.pop_first();
            }
        }
    }

    /// A message to the host.
    pub(crate) fn outgoing(&mut self, message: &Bytes) {
        if !message.get(1).is_some_and(|kind| TOLD.contains(kind)) {
            return;
        }
        // Finished runs, which may be large, are not among these; what is decoded here is short.
        let Ok(frame) = Frame::decode(message, &Limits::default()) else { return };
        match frame.message {
            Message::LoadProgress { program, done, total, .. } => {
                let name = self.names.get(&program).cloned().unwrap_or_default();
                self.loading = Some(Loading { program, name, done, total });
            }
            Message::Loaded { program, .. } => self.loaded(program),
            Message::LoadFailed { program, reason, .. } => {
                self.loaded(program);
                self.wrong(reason);
            }
            Message::Failed { fault, reason, .. } if fault != FaultKind::Cancelled => self.wrong(reason),
            Message::StatesFailed { reason, .. } => self.wrong(reason),
            // A lease that is over is no failure: the host has forgotten them.
            Message::StatesLost { cause: StatesLoss::Failed, reason, .. } => self.wrong(reason),
            Message::DeviceLost { api, reason } => self.wrong(format!("{api} lost its device: {reason}")),
            _ => {}
        }
    }

    /// Something went wrong.
    pub(crate) fn wrong(&mut self, reason: String) {
        self.error = Some(reason);
        self.errors = self.errors.saturating_add(1);
    }

    fn loaded(&mut self, program: u64) {
        if self.loading.as_ref().is_some_and(|l| l.program == program) {
            self.loading = None;
        }
    }
}
