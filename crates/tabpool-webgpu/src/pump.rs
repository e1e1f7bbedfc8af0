//! Who makes callbacks of the device happen. Natively nothing happens unless somebody polls the device; a thread does that
//! while something is pending, so that futures never block the runtime they are polled on. The thread sleeps while
//! nothing is pending and ends with the [`Pump`].
//!
//! It asks again and again instead of waiting for the last submission: wgpu-core 30 panics where another thread submits
//! between its look at the last index and its look at the queue.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks at the device: short at first, for runs that take less than a millisecond, then longer, so that long
/// ones cost no processor time.
const SHORTEST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_micros(500);

/// The thread that polls.
pub(crate) struct Pump {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: usize,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to poll for; `false` where the pump is closed.
    fn wait(&self) -> bool {
        let state = self.state();
        let idle = |s: &mut State| s.pending == 0 && !s.closed;
        let state = self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        !state.closed
    }
}

impl Pump {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn new(device: &wgpu::Device, _queue: &wgpu::Queue, _nudge: bool) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (theirs, device) = (shared.clone(), device.clone());
        let thread = std::thread::Builder::new().name("webgpu-poll".to_owned()).spawn(move || {
            let mut pause = SHORTEST_PAUSE;
            while theirs.wait() {
                // A lost device is told to those who wait by its own callback.
                let _ = device.poll(wgpu::PollType::Poll);
                let pending = theirs.state().pending;
                if pending == 0 {
                    pause = SHORTEST_PAUSE;
                } else {
                    std::thread::sleep(pause);
                    pause = (pause * 5 / 4).min(LONGEST_PAUSE);
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Says that a callback is awaited until the result is dropped, which the callback does.
    pub(crate) fn begin(&self) -> Pending {
        self.shared.state().pending += 1;
        self.shared.changed.notify_one();
        Pending(self.shared.clone())
    }

    /// Gives the device up to a fifth of a second to announce its loss, after something failed that may be due to it: what
    /// waits on a lost device fails a moment before the loss is announced, maybe on the other thread. Blocks, which
    /// only matters to a device that has failed.
    pub(crate) fn settle(&self, device: &wgpu::Device, announced: impl Fn() -> bool) {
        for _ in 0..20 {
            let _ = device.poll(wgpu::PollType::Poll);
            if announced() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It ends within the poll's time-out; a panic in it was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// A callback that is awaited.
pub(crate) struct Pending(Arc<Shared>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.state().pending -= 1;
    }
}
