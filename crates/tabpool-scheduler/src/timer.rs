//! What is due when: one ordered set for every deadline in the scheduler.
//!
//! Timers are taken out as soon as what they guard has ended, rather than skipped when they come up: at hundreds
//! of thousands of requests a second with deadlines of minutes, lazy removal would keep millions of dead entries.
//! So whoever sets a timer keeps its time, and both change together.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::{Api, ProgramId, RequestId, SlotId, WorkerId};

/// What a moment is awaited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A slot's start is due, or took too long, or its time aside is over.
    Slot(SlotId),
    /// A load took too long.
    Load(WorkerId, ProgramId, Api),
    /// A dispatched attempt is unanswered.
    Attempt(WorkerId, RequestId, u32),
    /// A dispatched attempt takes long.
    Hedge(WorkerId, RequestId, u32),
    /// A circuit may be tried again.
    Circuit(WorkerId, ProgramId),
    /// A request's deadline.
    Request(RequestId),
    /// A request was held back for a better worker; see whether it still is better.
    Recheck,
}

/// All timers, soonest first.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    pub(crate) fn set(&mut self, at: Duration, timer: Timer) {
        self.due.insert((at, timer));
    }

    pub(crate) fn clear(&mut self, at: Duration, timer: Timer) {
        self.due.remove(&(at, timer));
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes out the soonest one that is due by `now`.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.due.pop_first().map(|(_, timer)| timer)
    }

    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }

    pub(crate) fn contains(&self, at: Duration, timer: Timer) -> bool {
        self.due.contains(&(at, timer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_out_in_order_and_what_is_not_stays() {
        let mut timers = Timers::default();
        let at = Duration::from_secs;
        timers.set(at(3), Timer::Recheck);
        timers.set(at(1), Timer::Request(RequestId(1)));
        timers.set(at(2), Timer::Request(RequestId(2)));
        timers.clear(at(2), Timer::Request(RequestId(2)));
        assert_eq!(timers.pop(at(2)), Some(Timer::Request(RequestId(1))));
        assert_eq!(timers.pop(at(2)), None);
        assert_eq!(timers.next(), Some(at(3)));
    }
}
