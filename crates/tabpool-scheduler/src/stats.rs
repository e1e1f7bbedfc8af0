//! What the scheduler has counted since it began.

use std::time::Duration;

use crate::action::Outcome;
use crate::latency::follow;

/// Counts since the beginning; `submitted` is the sum of the outcomes and of what is queued or in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Requests submitted, rejected ones included.
    pub submitted: u64,
    /// Answered with outputs.
    pub finished: u64,
    /// Turned away at a full queue.
    pub rejected: u64,
    /// Answered because their deadline passed.
    pub timed_out: u64,
    /// Answered because their caller cancelled.
    pub cancelled: u64,
    /// Answered with a failure.
    pub failed: u64,
    /// Answered because nobody may serve them.
    pub no_worker: u64,
    /// Attempts sent out.
    pub dispatched: u64,
    /// Attempts that failed and led to another.
    pub replayed: u64,
    /// Attempts made beside another that took long.
    pub hedged: u64,
    /// Attempts unanswered in time.
    pub attempt_timeouts: u64,
    /// Answers to attempts nobody waited for any more.
    pub late: u64,
    /// Loads asked for.
    pub loads: u64,
    /// Those of them that try an API which nobody had measured.
    pub trials: u64,
    /// Those of them that bring an API which is measured to be faster than the one that serves.
    pub overtaking: u64,
    /// Programs unloaded to make room, or because another API is faster.
    pub unloads: u64,
    /// Loads unanswered in time.
    pub load_timeouts: u64,
    /// Starts asked for.
    pub launches: u64,
    /// Workers lost, those stopped for silence included.
    pub lost: u64,
    /// Events that said nothing about anything known.
    pub ignored: Ignored,
}

/// Events that were dropped, by what they spoke of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ignored {
    /// A worker that has not joined, or is gone.
    pub worker: u64,
    /// A slot that is unknown, already there or in no state for the event.
    pub slot: u64,
    /// A request that is answered already or was submitted twice.
    pub request: u64,
    /// An attempt that the worker does not hold: repeated, made up or taken back.
    pub attempt: u64,
    /// A load that was not asked for, or is done.
    pub load: u64,
}

impl Ignored {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.worker + self.slot + self.request + self.attempt + self.load
    }
}

impl Stats {
    pub(crate) fn answered(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Finished { .. } => &mut self.finished,
            Outcome::Rejected { .. } => &mut self.rejected,
            Outcome::TimedOut { .. } => &mut self.timed_out,
            Outcome::Cancelled => &mut self.cancelled,
            Outcome::Failed { .. } => &mut self.failed,
            Outcome::NoWorker { .. } => &mut self.no_worker,
        } += 1;
    }

    /// Requests answered, however they ended.
    #[must_use]
    pub const fn replies(&self) -> u64 {
        self.finished + self.rejected + self.timed_out + self.cancelled + self.failed + self.no_worker
    }
}

/// How fast requests leave the pool, for telling callers when to come back.
#[derive(Debug, Default)]
pub(crate) struct Throughput {
    last: Option<Duration>,
    /// Mean seconds between two finished requests.
    gap: Option<f64>,
}

impl Throughput {
    pub(crate) fn finished(&mut self, now: Duration) {
        if let Some(last) = self.last.replace(now) {
            let gap = now.saturating_sub(last).as_secs_f64();
            follow(self.gap.get_or_insert(gap), gap);
        }
    }

    /// When a quarter of `queued` will be gone: coming back for the first free place, all who were turned away would
    /// meet at it.
    pub(crate) fn retry_after(&self, now: Duration, queued: usize) -> Duration {
        const SOONEST: Duration = Duration::from_millis(50);
        const LATEST: Duration = Duration::from_secs(30);
        const UNKNOWN: Duration = Duration::from_secs(1);
        let (Some(last), Some(gap)) = (self.last, self.gap) else { return UNKNOWN };
        // A pool that has stood still for longer than usual is as slow as that.
        let gap = gap.max(now.saturating_sub(last).as_secs_f64());
        let wait = gap * (queued / 4).max(1) as f64;
        Duration::try_from_secs_f64(wait).unwrap_or(LATEST).clamp(SOONEST, LATEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coming_back_follows_the_throughput() {
        let mut throughput = Throughput::default();
        assert_eq!(throughput.retry_after(Duration::ZERO, 100), Duration::from_secs(1));
        for ms in (0..1000).step_by(10) {
            throughput.finished(Duration::from_millis(ms));
        }
        let wait = throughput.retry_after(Duration::from_millis(990), 400);
        assert_eq!(wait.as_millis(), 1000);
        let stalled = throughput.retry_after(Duration::from_millis(1990), 40);
        assert_eq!(stalled.as_millis(), 10_000);
    }
}
