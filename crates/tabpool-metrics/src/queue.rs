//! The bounded queue between the hot path and the writer thread, and the flush that both sides agree on.
//!
//! A mutex around a vector, not a channel: the writer takes everything with one swap, so the lock is held for a push or a
//! pointer exchange and never while anything is written; and a flush or a close cannot get stuck behind a full queue.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::error::FlushError;
use crate::event::Event;

/// What has become of the events so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecorderStats {
    /// Events accepted into the queue.
    pub recorded: u64,
    /// Events that are in the database.
    pub written: u64,
    /// Events dropped because the queue was full or the store closed.
    pub queue_full: u64,
    /// Events dropped because the database could not be written.
    pub write_failed: u64,
    /// Events waiting in the queue now.
    pub waiting: usize,
    /// Transactions committed.
    pub batches: u64,
    /// What DuckDB said when writing last failed.
    pub last_error: Option<String>,
}

/// What the writer takes out in one go.
pub(crate) struct Taken {
    pub(crate) flush: Option<Arc<FlushSlot>>,
    /// Events dropped at the queue since the last time.
    pub(crate) queue_full: u64,
    pub(crate) closing: bool,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    flush: Option<Arc<FlushSlot>>,
    queue_full_unreported: u64,
    closing: bool,
    ended: bool,
    stats: RecorderStats,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    capacity: usize,
    batch: usize,
    interval: Duration,
}

impl Queue {
    pub(crate) fn new(capacity: usize, batch: usize, interval: Duration) -> Self {
        let capacity = capacity.max(1);
        // Pages of a large vector are not touched before they are used, so the room costs nothing until it is needed.
        let state = State { events: Vec::with_capacity(capacity), ..State::default() };
        Self { state: Mutex::new(state), wake: Condvar::new(), capacity, batch: batch.clamp(1, capacity), interval }
    }

    /// A panic elsewhere leaves the state whole: every critical section below only moves values.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event) {
        let mut state = self.state();
        if state.closing || state.events.len() >= self.capacity {
            state.stats.queue_full += 1;
            state.queue_full_unreported += 1;
            // The event's own memory is freed after the lock.
            drop(state);
            drop(event);
            return;
        }
        state.events.push(event);
        state.stats.recorded += 1;
        let waiting = state.events.len();
        drop(state);
        // The first event starts the writer's clock, a full batch ends it; all others cost no wake-up.
        if waiting == 1 || waiting == self.batch {
            self.wake.notify_one();
        }
    }

    pub(crate) fn flush(&self) -> Flush {
        let mut state = self.state();
        if state.ended || state.closing {
            return Flush { slot: FlushSlot::done(Err(FlushError::Closed)) };
        }
        // All who ask before the writer's next turn share one slot, so that flushes cannot pile up.
        let slot = Arc::clone(state.flush.get_or_insert_default());
        drop(state);
        self.wake.notify_one();
        Flush { slot }
    }

    pub(crate) fn close(&self) {
        self.state().closing = true;
        self.wake.notify_one();
    }

    pub(crate) fn stats(&self) -> RecorderStats {
        let state = self.state();
        RecorderStats { waiting: state.events.len(), ..state.stats.clone() }
    }

    /// Waits until there is something to do, then swaps the waiting events with `spare`, which must be empty.
    pub(crate) fn take(&self, spare: &mut Vec<Event>) -> Taken {
        let mut state = self.state();
        let idle = |state: &mut State| {
            state.events.is_empty() && state.flush.is_none() && state.queue_full_unreported == 0 && !state.closing
        };
        state = self.wake.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + self.interval;
        while state.events.len() < self.batch && state.flush.is_none() && !state.closing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(&mut state.events, spare);
        let queue_full = std::mem::take(&mut state.queue_full_unreported);
        Taken { flush: state.flush.take(), queue_full, closing: state.closing }
    }

    /// Lets `pause` pass before the next attempt to write; true when the store is being closed, which cuts it short.
    pub(crate) fn pause(&self, pause: Duration) -> bool {
        let waited = self.wake.wait_timeout_while(self.state(), pause, |state| !state.closing);
        waited.unwrap_or_else(PoisonError::into_inner).0.closing
    }

    pub(crate) fn wrote(&self, events: usize, result: &Result<(), FlushError>) {
        let mut state = self.state();
        let events = events as u64;
        match result {
            Ok(()) => {
                state.stats.written += events;
                state.stats.batches += u64::from(events > 0);
            }
            Err(error) => {
                state.stats.write_failed += events;
                state.stats.last_error = Some(match error {
                    FlushError::Write { message } => message.clone(),
                    other => other.to_string(),
                });
            }
        }
    }

    /// Called by the writer thread when it ends, for whatever reason: nobody waits for it in vain.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.closing = true;
        state.ended = true;
        let flush = state.flush.take();
        drop(state);
        if let Some(slot) = flush {
            slot.complete(Err(FlushError::Closed));
        }
    }
}

#[derive(Default)]
struct SlotState {
    result: Option<Result<(), FlushError>>,
    wakers: Vec<Waker>,
}

/// Where the writer leaves the result of a flush.
#[derive(Default)]
pub(crate) struct FlushSlot {
    state: Mutex<SlotState>,
    done: Condvar,
}

impl FlushSlot {
    fn done(result: Result<(), FlushError>) -> Arc<Self> {
        let slot = Self::default();
        slot.complete(result);
        Arc::new(slot)
    }

    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn complete(&self, result: Result<(), FlushError>) {
        let mut state = self.state();
        state.result = Some(result);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.done.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The end of a flush: await it in any executor, or [`wait`](Self::wait) for it on a thread.
///
/// Cancel safe: dropping it stops the waiting, not the writing.
#[must_use = "a flush is only known to have happened once it has been waited for"]
pub struct Flush {
    slot: Arc<FlushSlot>,
}

impl Flush {
    /// Blocks this thread until the events are in the file, at most for `limit`.
    ///
    /// # Errors
    ///
    /// [`FlushError`] when they could not be written, the store was closed meanwhile, or `limit` has passed.
    pub fn wait(self, limit: Duration) -> Result<(), FlushError> {
        let waited = self.slot.done.wait_timeout_while(self.slot.state(), limit, |state| state.result.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.result.clone().unwrap_or(Err(FlushError::TimedOut))
    }
}

impl Future for Flush {
    type Output = Result<(), FlushError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slot.state();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}
