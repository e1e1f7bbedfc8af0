//! Figures of a pool as a whole, kept in memory: what is recorded in full goes to the database.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Latencies kept for quantiles.
const KEPT: usize = 4096;

/// Figures of a pool since it started.
#[derive(Clone, Debug, Default)]
pub struct PoolMetrics {
    /// Programs loaded.
    pub loads: u64,
    /// Time spent loading, all workers together.
    pub load_time: Duration,
    /// Requests answered with a result.
    pub finished: u64,
    /// Requests answered with an error.
    pub failed: u64,
    /// Requests that ran again because a worker did not answer.
    pub replayed: u64,
    /// Requests that were tried on a second worker because the first took long.
    pub hedged: u64,
    /// Time on devices, all workers together.
    pub compute_time: Duration,
    /// Answers a second over the time in which there were any.
    pub throughput_hz: f64,
    /// The median from submission to answer, of the last few thousand.
    pub latency_p50: Duration,
    /// The 95th percentile from submission to answer, of the last few thousand.
    pub latency_p95: Duration,
    /// Bytes of weights that browsers got from this host.
    pub bytes_fetched: u64,
    /// Bytes of weights that browsers still had.
    pub bytes_cached: u64,
    /// Bytes of the page and the runtime that tabs got from this host.
    pub runtime_bytes: u64,
    /// Results by worker kind and API, as in `chromium:webgpu`.
    pub platforms: BTreeMap<String, u64>,
}

/// What the actor counts.
#[derive(Default)]
pub(crate) struct Counters {
    figures: PoolMetrics,
    latencies: VecDeque<Duration>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Counters {
    pub(crate) fn loaded(&mut self, took: Duration, fetched: u64, cached: u64) {
        self.figures.loads += 1;
        self.figures.load_time += took;
        self.figures.bytes_fetched += fetched;
        self.figures.bytes_cached += cached;
    }

    pub(crate) fn served_runtime(&mut self, bytes: usize) {
        self.figures.runtime_bytes += bytes as u64;
    }

    pub(crate) fn finished(&mut self, platform: String, total: Duration, compute: Duration) {
        let now = Instant::now();
        self.first.get_or_insert(now.checked_sub(total).unwrap_or(now));
        self.last = Some(now);
        self.figures.finished += 1;
        self.figures.compute_time += compute;
        *self.figures.platforms.entry(platform).or_default() += 1;
        if self.latencies.len() == KEPT {
            self.latencies.pop_front();
        }
        self.latencies.push_back(total);
    }

    pub(crate) fn failed(&mut self) {
        self.figures.failed += 1;
    }

    pub(crate) fn replayed(&mut self) {
        self.figures.replayed += 1;
    }

    pub(crate) fn hedged(&mut self) {
        self.figures.hedged += 1;
    }

    pub(crate) fn figures(&self) -> PoolMetrics {
        let mut figures = self.figures.clone();
        let mut sorted: Vec<_> = self.latencies.iter().copied().collect();
        sorted.sort_unstable();
        let at = |share: usize| sorted.get((sorted.len().saturating_sub(1)) * share / 100).copied().unwrap_or_default();
        (figures.latency_p50, figures.latency_p95) = (at(50), at(95));
        if let (Some(first), Some(last)) = (self.first, self.last) {
            let active = last.duration_since(first).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a rate is a quotient")]
            let finished = figures.finished as f64;
            figures.throughput_hz = if active > 0.0 { finished / active } else { 0.0 };
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Counters;

    #[test]
    fn quantiles_and_sums_are_of_what_was_counted() {
        let mut counters = Counters::default();
        for ms in 1..=100 {
            counters.finished("native:cpu".to_owned(), Duration::from_millis(ms), Duration::from_millis(2));
        }
        counters.loaded(Duration::from_secs(1), 10, 20);
        let figures = counters.figures();
        assert_eq!((figures.finished, figures.platforms["native:cpu"]), (100, 100));
        assert_eq!(figures.latency_p50, Duration::from_millis(50));
        assert_eq!(figures.latency_p95, Duration::from_millis(95));
        assert_eq!(figures.compute_time, Duration::from_millis(200));
        assert_eq!((figures.bytes_fetched, figures.bytes_cached), (10, 20));
    }
}
