//! Every number the scheduler is tuned by, with the reason for its default.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{Api, WorkerKind};

/// The scheduler's settings. Start from `Config::default()` and set what differs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The most requests a worker holds, whatever it offers. Two hide the way there and back; a few more absorb
    /// jitter; many more would only move the queue to where it cannot be reordered.
    pub credits_per_worker: u32,
    /// The most requests that wait; one more is rejected. Requests that come back from a lost worker are let in
    /// above it, because they were accepted once, and as many again of clients who have less than their share of it.
    pub max_queued: usize,
    /// When a request without a deadline of its own is answered with a time-out.
    pub request_timeout: Duration,
    /// How long a dispatched request may stay unanswered beyond `attempt_patience` times what was expected.
    pub attempt_timeout: Duration,
    /// How many times the expected time an attempt gets on top of `attempt_timeout`, so that slow programs on slow
    /// machines are not taken for hung ones.
    pub attempt_patience: u32,
    /// How long a load may take. After it the load counts as a time-out; after it again the worker is stopped.
    pub load_timeout: Duration,
    /// The most loads a worker is asked to do at once.
    pub loads_per_worker: u32,
    /// How often a request is tried before it is taken for poison.
    pub max_attempts: u32,
    /// Unanswered attempts in a row after which a worker is stopped.
    pub timeouts_before_stop: u32,
    /// Waiting this long is worth one step of priority.
    pub ageing: Duration,
    /// How starts are repeated.
    pub restart: RestartConfig,
    /// When a program is kept away from a worker.
    pub circuit: CircuitConfig,
    /// When a request is tried on a second worker beside the first.
    pub hedging: HedgingConfig,
    /// How much is spent on finding out which API is the fastest.
    pub exploring: ExploringConfig,
    /// What is believed before anything was measured.
    pub priors: Priors,
    /// The most latency estimates kept; the stalest are forgotten.
    pub max_estimates: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            credits_per_worker: 4,
            max_queued: 4096,
            request_timeout: Duration::from_secs(120),
            attempt_timeout: Duration::from_secs(30),
            attempt_patience: 4,
            load_timeout: Duration::from_secs(180),
            loads_per_worker: 2,
            max_attempts: 3,
            timeouts_before_stop: 2,
            ageing: Duration::from_secs(1),
            restart: RestartConfig::default(),
            circuit: CircuitConfig::default(),
            hedging: HedgingConfig::default(),
            exploring: ExploringConfig::default(),
            priors: Priors::default(),
            max_estimates: 16_384,
        }
    }
}

/// How a slot's starts are repeated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestartConfig {
    /// The pause after the first useless start. A worker that had proved useful is replaced without a pause.
    pub initial: Duration,
    /// What each further useless start multiplies the pause by.
    pub factor: f64,
    /// The longest pause.
    pub max: Duration,
    /// How far the pause may be off either way, as a share of it, so that slots do not start in step.
    pub jitter: f64,
    /// How long a start may take until the worker joins.
    pub launch_timeout: Duration,
    /// Useless starts in a row after which the slot is set aside.
    pub failures_before_set_aside: u32,
    /// How long it is set aside.
    pub set_aside: Duration,
    /// A worker that lived this long, or finished a request, was useful: the count of useless starts begins anew.
    pub useful_after: Duration,
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            factor: 2.0,
            max: Duration::from_secs(30),
            jitter: 0.2,
            launch_timeout: Duration::from_secs(60),
            failures_before_set_aside: 5,
            set_aside: Duration::from_secs(600),
            useful_after: Duration::from_secs(60),
        }
    }
}

/// When a program is kept away from a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CircuitConfig {
    /// Failures in a row that open the circuit.
    pub failures: u32,
    /// How long it stays open; then one request at a time tries.
    pub cool_down: Duration,
}

impl Default for CircuitConfig {
    fn default() -> Self {
        Self { failures: 3, cool_down: Duration::from_secs(30) }
    }
}

/// When a request is tried on a second worker beside the first.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HedgingConfig {
    /// How many times as long as expected the first attempt must have taken.
    pub patience: f64,
    /// How long it must have taken at least: less is jitter.
    pub at_least: Duration,
    /// The most second attempts there may be, as a share of all attempts; none with zero.
    pub share: f64,
}

impl Default for HedgingConfig {
    fn default() -> Self {
        Self { patience: 4.0, at_least: Duration::from_millis(500), share: 0.05 }
    }
}

/// How much is spent on finding out which API is the fastest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExploringConfig {
    /// The most seconds that trials of APIs may take, as a share of those that a model's runs took on a kind of worker;
    /// no trials with zero. An API that turns out slow may take more than that: one request's time, or one session's.
    pub share: f64,
}

impl Default for ExploringConfig {
    fn default() -> Self {
        Self { share: 0.05 }
    }
}

/// What is believed before anything was measured. Measurements overrule it at the first request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Priors {
    /// One ordinary request, by kind and API.
    pub compute: BTreeMap<(WorkerKind, Api), Duration>,
    /// One ordinary request on what `compute` does not name, by API in the order of [`Api::ALL`].
    pub compute_otherwise: [Duration; 3],
    /// One load.
    pub load: Duration,
}

impl Default for Priors {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { compute: BTreeMap::new(), compute_otherwise: [ms(30), ms(30), ms(60)], load: ms(1500) }
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A count or a time that must not be nothing is nothing.
    #[error("{setting} must be more than zero")]
    Zero {
        /// Its path in [`Config`].
        setting: &'static str,
    },
    /// A factor outside its range.
    #[error("{setting} must be from {least} to {most}")]
    Range {
        /// Its path in [`Config`].
        setting: &'static str,
        /// The least it may be.
        least: u32,
        /// The most it may be.
        most: u32,
    },
}

impl Config {
    /// Whether the scheduler can work with it: a zero here would mean a loop without a pause or a pool that
    /// takes nothing.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let counts = [
            ("credits_per_worker", self.credits_per_worker as usize),
            ("max_queued", self.max_queued),
            ("loads_per_worker", self.loads_per_worker as usize),
            ("max_attempts", self.max_attempts as usize),
            ("timeouts_before_stop", self.timeouts_before_stop as usize),
            ("max_estimates", self.max_estimates),
            ("restart.failures_before_set_aside", self.restart.failures_before_set_aside as usize),
            ("circuit.failures", self.circuit.failures as usize),
        ];
        if let Some((setting, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(ConfigError::Zero { setting });
        }
        let times = [
            ("request_timeout", self.request_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("load_timeout", self.load_timeout),
            ("restart.initial", self.restart.initial),
            ("restart.launch_timeout", self.restart.launch_timeout),
            ("restart.set_aside", self.restart.set_aside),
            ("circuit.cool_down", self.circuit.cool_down),
            ("hedging.at_least", self.hedging.at_least),
            ("priors.load", self.priors.load),
        ];
        if let Some((setting, _)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(ConfigError::Zero { setting });
        }
        if !(1.0..=100.0).contains(&self.restart.factor) {
            return Err(ConfigError::Range { setting: "restart.factor", least: 1, most: 100 });
        }
        if !(1.0..=1000.0).contains(&self.hedging.patience) {
            return Err(ConfigError::Range { setting: "hedging.patience", least: 1, most: 1000 });
        }
        if !(0.0..=1.0).contains(&self.hedging.share) {
            return Err(ConfigError::Range { setting: "hedging.share", least: 0, most: 1 });
        }
        if !(0.0..=1.0).contains(&self.exploring.share) {
            return Err(ConfigError::Range { setting: "exploring.share", least: 0, most: 1 });
        }
        if !(0.0..=1.0).contains(&self.restart.jitter) {
            return Err(ConfigError::Range { setting: "restart.jitter", least: 0, most: 1 });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_usable() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn a_zero_names_its_setting() {
        let mut config = Config::default();
        config.circuit.cool_down = Duration::ZERO;
        assert_eq!(config.validate(), Err(ConfigError::Zero { setting: "circuit.cool_down" }));
    }

    #[test]
    fn a_factor_that_is_not_a_number_is_out_of_range() {
        let mut config = Config::default();
        config.restart.factor = f64::NAN;
        let error = config.validate().expect_err("NaN was taken for a factor");
        assert_eq!(error.to_string(), "restart.factor must be from 1 to 100");
    }
}
