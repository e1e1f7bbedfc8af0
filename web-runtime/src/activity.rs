//! What a person at the page wants to know of the work, read off the frames that pass.

use std::collections::BTreeMap;

use bytes::Bytes;
use tabpool_protocol::{ApiKind, FaultKind, Frame, Limits, Message, StatesLoss};

/// Names kept at most; the host numbers its programs upwards, so the oldest goes.
const MOST_NAMES: usize = 256;

/// The wire's numbers of what is looked at. Everything else passes undecoded.
const HEARD: [u8; 3] = [1, 3, 4];
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
    /// Programs that are ready, with the bytes of weights that each of them brought.
    ready: BTreeMap<(u64, ApiKind), u64>,
    /// Bytes of messages from the host.
    pub(crate) received: u64,
    /// Bytes of messages to the host.
    pub(crate) sent: u64,
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
        self.received += message.len() as u64;
        if !message.get(1).is_some_and(|kind| HEARD.contains(kind)) {
            return;
        }
        let Ok(frame) = Frame::decode(message, &Limits::default()) else { return };
        match frame.message {
            // A worker that does not go on with its session forgets what it has loaded.
            Message::Welcome { resumed: false, .. } => self.ended(),
            Message::Unload { program, api } => drop(self.ready.remove(&(program, api))),
            Message::Load { program, name, .. } => {
                self.names.insert(program, name);
                while self.names.len() > MOST_NAMES {
                    if let Some((oldest, _)) = self.names.pop_first() {
                        self.ready.retain(|(program, _), _| *program != oldest);
                    }
                }
            }
            _ => {}
        }
    }

    /// The worker has ended, and with it everything it had loaded.
    pub(crate) fn ended(&mut self) {
        self.loading = None;
        self.ready.clear();
    }

    /// What is ready: each model's name and API, and the bytes of its weights. Programs of a model share them.
    pub(crate) fn models(&self) -> Vec<(&str, ApiKind, u64)> {
        let mut models: BTreeMap<(&str, ApiKind), u64> = BTreeMap::new();
        for ((program, api), bytes) in &self.ready {
            let name = self.names.get(program).map_or("", String::as_str);
            *models.entry((name, *api)).or_default() += bytes;
        }
        models.into_iter().map(|((name, api), bytes)| (name, api, bytes)).collect()
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
            Message::Loaded { program, api, stats, .. } => {
                self.loaded(program);
                let (weights, shared) = stats.weights;
                // One that was there already is told of without its weights.
                self.ready.entry((program, api)).or_insert(weights.saturating_sub(shared));
            }
            Message::LoadFailed { program, reason, .. } => {
                self.loaded(program);
                self.wrong(reason);
            }
            Message::Failed { fault, reason, .. } if fault != FaultKind::Cancelled => self.wrong(reason),
            Message::StatesFailed { reason, .. } => self.wrong(reason),
            // A lease that is over is no failure: the host has forgotten them.
            Message::StatesLost { cause: StatesLoss::Failed, reason, .. } => self.wrong(reason),
            Message::DeviceLost { api, reason } => {
                self.ready.retain(|(_, other), _| *other != api);
                self.wrong(format!("{api} lost its device: {reason}"));
            }
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

#[cfg(test)]
mod tests {
    use tabpool_protocol::{ApiKind, FaultKind, Frame, LoadStats, Message, VERSION};

    use super::{Activity, MOST_NAMES};

    const API: ApiKind = ApiKind::Cpu;

    fn hear(activity: &mut Activity, message: Message) {
        activity.incoming(&Frame::from(message).encode());
    }

    fn tell(activity: &mut Activity, message: Message) {
        activity.outgoing(&Frame::from(message).encode());
    }

    fn load(activity: &mut Activity, program: u64, name: &str, weights: (u64, u64)) {
        hear(activity, Message::Load { program, api: API, name: name.to_owned() });
        let stats = LoadStats { weights, ..LoadStats::default() };
        tell(activity, Message::Loaded { program, api: API, stats, kept: Vec::new() });
    }

    #[test]
    fn programs_of_a_model_are_one_line_and_weights_they_share_count_once() {
        let activity = &mut Activity::default();
        load(activity, 1, "bert", (90, 0));
        load(activity, 2, "bert", (100, 90));
        load(activity, 3, "vit", (50, 0));
        assert_eq!(activity.models(), [("bert", API, 100), ("vit", API, 50)]);
        load(activity, 1, "bert", (0, 0));
        hear(activity, Message::Unload { program: 2, api: API });
        assert_eq!(activity.models(), [("bert", API, 90), ("vit", API, 50)], "told again, it weighs what it did");
        tell(activity, Message::DeviceLost { api: API, reason: "gone".to_owned() });
        assert_eq!(activity.models(), []);
        for program in 1..=2 * MOST_NAMES as u64 {
            load(activity, program, "bert", (1, 0));
        }
        assert_eq!(activity.models(), [("bert", API, MOST_NAMES as u64)]);
        let (session, heartbeat_ms, timeout_ms) = ("s".to_owned(), 1, 1);
        hear(
            activity,
            Message::Welcome { version: VERSION, session, resumed: false, heartbeat_ms, timeout_ms, credits: 1 },
        );
        assert_eq!(activity.models(), [], "a session that begins has nothing");
    }

    #[test]
    fn what_is_loaded_and_what_went_wrong_is_told_and_all_bytes_count() {
        let activity = &mut Activity::default();
        hear(activity, Message::Load { program: 1, api: API, name: "bert".to_owned() });
        tell(activity, Message::LoadProgress { program: 1, api: API, done: 3, total: 9 });
        let loading = activity.loading.as_ref().expect("a load");
        assert_eq!((loading.name.as_str(), loading.done, loading.total), ("bert", 3, 9));
        let (fault, reason) = (FaultKind::Memory, "too much".to_owned());
        tell(activity, Message::LoadFailed { program: 1, api: API, fault, reason });
        tell(activity, Message::Failed { attempt: 1, fault: FaultKind::Cancelled, reason: "cancelled".to_owned() });
        assert!(activity.loading.is_none() && activity.models().is_empty());
        assert_eq!((activity.error.as_deref(), activity.errors), (Some("too much"), 1));
        let before = activity.received;
        hear(activity, Message::Ping { nonce: 1 });
        // What was sent is counted by whoever sends it.
        assert_eq!((activity.received - before, activity.sent), (24, 0));
    }
}
