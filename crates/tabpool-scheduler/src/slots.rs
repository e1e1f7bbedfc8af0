//! Places in the pool that are kept filled: when to start, when to pause, when to give up for long.
//!
//! A slot only knows starts and their ends. What a start brought counts as *useless* when it never joined, or when
//! its worker was lost before it finished anything or lived for a while: a browser that joins and crashes on its
//! first shader must not be restarted at full speed for ever.

use std::time::Duration;

use crate::config::RestartConfig;
use crate::id::{SlotId, WorkerId, WorkerKind};
use crate::placement::ApiOrder;

/// A place in the pool.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) kind: WorkerKind,
    pub(crate) state: SlotState,
    /// Useless starts in a row.
    pub(crate) failures: u32,
    pub(crate) last_reason: String,
    /// What its last worker offered; `None` before the first.
    pub(crate) apis: Option<ApiOrder>,
}

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// The next start is due then.
    Waiting {
        /// On the scheduler's clock.
        until: Duration,
    },
    /// Started; it has to join by then.
    Starting {
        /// On the scheduler's clock.
        until: Duration,
    },
    /// Filled.
    Running {
        /// By this worker.
        worker: WorkerId,
    },
    /// It failed too often; the next start is due then.
    SetAside {
        /// On the scheduler's clock.
        until: Duration,
    },
}

impl SlotState {
    /// The moment its timer is set to.
    pub(crate) fn due(self) -> Option<Duration> {
        match self {
            Self::Waiting { until } | Self::Starting { until } | Self::SetAside { until } => Some(until),
            Self::Running { .. } => None,
        }
    }

    /// Whether a worker may be expected from it soon.
    pub(crate) fn is_coming(self) -> bool {
        matches!(self, Self::Waiting { .. } | Self::Starting { .. })
    }
}

/// A slot, for those who look from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotView {
    /// Its id.
    pub slot: SlotId,
    /// What is launched there.
    pub kind: WorkerKind,
    /// What it is doing.
    pub state: SlotState,
    /// Useless starts in a row.
    pub failures: u32,
    /// Why its last worker ended or its last start failed; empty before the first.
    pub last_reason: String,
}

impl Slot {
    pub(crate) fn new(kind: WorkerKind, now: Duration) -> Self {
        Self { kind, state: SlotState::Waiting { until: now }, failures: 0, last_reason: String::new(), apis: None }
    }

    pub(crate) fn view(&self, slot: SlotId) -> SlotView {
        SlotView {
            slot,
            kind: self.kind,
            state: self.state,
            failures: self.failures,
            last_reason: self.last_reason.clone(),
        }
    }

    /// A start was useless: decides when the next one is due, or that there is none for long.
    pub(crate) fn failed(&mut self, now: Duration, reason: String, config: &RestartConfig, chance: &mut Chance) {
        self.last_reason = reason;
        self.failures = self.failures.saturating_add(1);
        self.state = if self.failures >= config.failures_before_set_aside {
            SlotState::SetAside { until: now.saturating_add(config.set_aside) }
        } else {
            let delay = back_off(self.failures, config, chance.unit());
            SlotState::Waiting { until: now.saturating_add(delay) }
        };
    }

    /// A useful worker ended: the next start is due at once.
    pub(crate) fn ended(&mut self, now: Duration, reason: String) {
        self.last_reason = reason;
        self.failures = 0;
        self.state = SlotState::Waiting { until: now };
    }
}

/// The pause after so many useless starts; `unit` in 0..1 places it within the jitter.
fn back_off(failures: u32, config: &RestartConfig, unit: f64) -> Duration {
    let power = config.factor.powi(failures.saturating_sub(1).min(64) as i32);
    let pause = (config.initial.as_secs_f64() * power).min(config.max.as_secs_f64());
    let off = 1.0 + config.jitter * (2.0 * unit - 1.0);
    Duration::try_from_secs_f64(pause * off).unwrap_or(config.max)
}

/// Numbers that look random and follow from the seed: SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly spread over 0..1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact() -> RestartConfig {
        RestartConfig { jitter: 0.0, ..RestartConfig::default() }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> = (1..=9).map(|failures| back_off(failures, &exact(), 0.5).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let config = RestartConfig::default();
        let mut chance = Chance::new(7);
        let pauses: Vec<_> = (0..1000).map(|_| back_off(2, &config, chance.unit()).as_secs_f64()).collect();
        assert!(pauses.iter().all(|pause| (0.8..=1.2).contains(pause)));
        let (low, high) = (pauses.iter().filter(|p| **p < 0.9).count(), pauses.iter().filter(|p| **p > 1.1).count());
        assert!(low > 150 && high > 150, "{low} low and {high} high of 1000");
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses() {
        let (mut one, mut other) = (Chance::new(3), Chance::new(3));
        assert!((0..10).all(|_| one.unit().to_bits() == other.unit().to_bits()));
    }

    #[test]
    fn a_slot_is_set_aside_after_so_many_useless_starts() {
        let config = exact();
        let mut slot = Slot::new(WorkerKind::Edge, Duration::ZERO);
        let mut chance = Chance::new(1);
        for _ in 1..config.failures_before_set_aside {
            slot.failed(Duration::ZERO, "no such file".to_owned(), &config, &mut chance);
            assert!(slot.state.is_coming());
        }
        slot.failed(Duration::ZERO, "no such file".to_owned(), &config, &mut chance);
        assert_eq!(slot.state, SlotState::SetAside { until: config.set_aside });
    }

    #[test]
    fn a_useful_worker_wipes_the_slate_clean() {
        let mut slot = Slot::new(WorkerKind::Edge, Duration::ZERO);
        slot.failed(Duration::ZERO, "crash".to_owned(), &exact(), &mut Chance::new(1));
        slot.ended(Duration::from_secs(9), "crash".to_owned());
        assert_eq!((slot.failures, slot.state), (0, SlotState::Waiting { until: Duration::from_secs(9) }));
    }
}
