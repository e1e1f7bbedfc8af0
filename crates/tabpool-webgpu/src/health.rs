//! What a device has said about itself since it was opened: whether it is lost, and errors that no scope caught.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tabpool_engine::EngineError;

/// Shared with callbacks that wgpu may call from another thread.
#[derive(Clone, Default)]
pub(crate) struct Health(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lost: Option<String>,
    /// The first error nobody waited for; the next run gives it back.
    uncaptured: Option<String>,
    /// Who waits for the device, to be woken when it is lost. One entry for each wait that is pending.
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding the lock; were it so, the state would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lose(&self, reason: String) {
        let waiting = {
            let mut state = self.state();
            state.lost.get_or_insert(reason);
            std::mem::take(&mut state.waiting)
        };
        for waker in waiting.into_values() {
            waker.wake();
        }
    }

    pub(crate) fn report(&self, error: String) {
        self.state().uncaptured.get_or_insert(error);
    }

    /// [`EngineError::DeviceLost`] where the device is lost.
    pub(crate) fn alive(&self) -> Result<(), EngineError> {
        match &self.state().lost {
            Some(reason) => Err(EngineError::DeviceLost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// As [`alive`](Self::alive), and the error that nobody waited for, once.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        self.alive()?;
        match self.state().uncaptured.take() {
            Some(reason) => Err(EngineError::Device { doing: "working on an earlier run".to_owned(), reason }),
            None => Ok(()),
        }
    }

    /// A place among those who are woken when the device is lost.
    pub(crate) fn watch(&self) -> Watch {
        let mut state = self.state();
        state.next += 1;
        Watch { health: self.clone(), id: state.next }
    }
}

/// See [`Health::watch`]. Gives its place up when dropped.
pub(crate) struct Watch {
    health: Health,
    id: u64,
}

impl Watch {
    /// Wakes this waker once the device is lost; fails at once where it is lost already.
    pub(crate) fn register(&self, waker: &Waker) -> Result<(), EngineError> {
        self.health.alive()?;
        self.health.state().waiting.insert(self.id, waker.clone());
        // The device may have been lost between the two locks.
        self.health.alive()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.health.state().waiting.remove(&self.id);
    }
}
