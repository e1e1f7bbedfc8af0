//! What the pool knows of devices' fastest kernel variants: read from the database at the start, sent at every handshake,
//! added to as workers find more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tabpool_metrics::{KernelTuning, Timestamp, TuningInForce, TuningKey, WorkerIdentity};
use tabpool_protocol::TunedClass;

/// Devices remembered at most: a worker from outside may claim any adapter, and must not fill the host's memory with them.
const MOST_DEVICES: usize = 1024;

/// How workers tune their kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TuningPolicy {
    budget: Duration,
    forget: bool,
}

impl Default for TuningPolicy {
    /// One second for each load, starting from what earlier sessions measured.
    fn default() -> Self {
        Self { budget: Duration::from_secs(1), forget: false }
    }
}

impl TuningPolicy {
    /// How long one load may spend on timing kernel variants; with zero, workers take what is known, or their first guess.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// Measures anew what earlier sessions measured already.
    #[must_use]
    pub fn forget(mut self) -> Self {
        self.forget = true;
        self
    }

    pub(crate) fn budget_ms(self) -> u32 {
        u32::try_from(self.budget.as_millis()).unwrap_or(u32::MAX)
    }

    pub(crate) fn starts_anew(self) -> bool {
        self.forget
    }
}

/// The winners by device, bounded.
#[derive(Debug, Default)]
pub(crate) struct Tunings {
    devices: BTreeMap<TuningKey, BTreeMap<String, TunedClass>>,
}

impl Tunings {
    pub(crate) fn new(in_force: Vec<TuningInForce>) -> Self {
        let mut tunings = Self::default();
        for TuningInForce { key, class, variant, timings } in in_force {
            let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let timings = timings.into_iter().map(|(variant, time)| (variant, time.map(ns))).collect();
            tunings.keep(&key, TunedClass { class, variant, timings });
        }
        tunings
    }

    /// What is known of a device.
    pub(crate) fn of(&self, key: &TuningKey) -> Vec<TunedClass> {
        self.devices.get(key).map(|classes| classes.values().cloned().collect()).unwrap_or_default()
    }

    /// Remembers a winner; says whether there was room.
    pub(crate) fn keep(&mut self, key: &TuningKey, tuned: TunedClass) -> bool {
        if !tuned.is_sane() || (self.devices.len() >= MOST_DEVICES && !self.devices.contains_key(key)) {
            return false;
        }
        let classes = self.devices.entry(key.clone()).or_default();
        let room = classes.len() < TunedClass::MOST || classes.contains_key(&tuned.class);
        if room {
            classes.insert(tuned.class.clone(), tuned);
        }
        room
    }
}

/// A worker's device as tunings tell devices apart.
pub(crate) fn key(identity: &WorkerIdentity, api: tabpool_metrics::Api) -> TuningKey {
    TuningKey {
        browser: identity.browser.clone(),
        browser_version: identity.browser_version.clone(),
        os: identity.os.clone(),
        adapter: identity.adapter.clone(),
        api: api.as_str().to_owned(),
    }
}

/// A winner as the database keeps it.
pub(crate) fn event(worker: Arc<WorkerIdentity>, api: tabpool_metrics::Api, tuned: TunedClass) -> KernelTuning {
    let timings = tuned.timings.into_iter().map(|(variant, ns)| (variant, ns.map(Duration::from_nanos))).collect();
    KernelTuning { at: Timestamp::now(), worker, api, class: tuned.class, winner: tuned.variant, timings }
}

#[cfg(test)]
mod tests {
    use tabpool_metrics::TuningKey;
    use tabpool_protocol::TunedClass;

    use super::{MOST_DEVICES, Tunings};

    fn device(number: usize) -> TuningKey {
        TuningKey { browser_version: number.to_string(), ..TuningKey::default() }
    }

    fn tuned(class: &str, variant: &str) -> TunedClass {
        TunedClass { class: class.to_owned(), variant: variant.to_owned(), timings: Vec::new() }
    }

    #[test]
    fn the_last_winner_of_a_class_is_known_on_its_device_alone() {
        let mut tunings = Tunings::default();
        assert!(tunings.keep(&device(1), tuned("gemm", "row")));
        assert!(tunings.keep(&device(1), tuned("gemm", "tall")));
        assert_eq!(tunings.of(&device(1)), [tuned("gemm", "tall")]);
        assert_eq!(tunings.of(&device(2)), []);
    }

    #[test]
    fn neither_devices_nor_classes_nor_odd_names_are_kept_without_end() {
        let mut tunings = Tunings::default();
        assert!(!tunings.keep(&device(0), tuned("", "row")));
        for class in 0..=TunedClass::MOST {
            assert_eq!(tunings.keep(&device(0), tuned(&class.to_string(), "row")), class < TunedClass::MOST);
        }
        for number in 1..=MOST_DEVICES {
            assert_eq!(tunings.keep(&device(number), tuned("gemm", "row")), number < MOST_DEVICES);
        }
        assert!(tunings.keep(&device(0), tuned("0", "tall")), "what is known may change");
    }
}
