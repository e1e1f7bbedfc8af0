//! Buffers that outputs are read back through: a few for each executable, made at load, handed out first come first
//! served. Their number bounds how many runs are in flight on the device.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// See the module's documentation.
pub(crate) struct Ring(RefCell<State>);

struct State {
    free: Vec<wgpu::Buffer>,
    waiting: VecDeque<(u64, Option<Waker>)>,
    next: u64,
}

impl Ring {
    pub(crate) fn new(buffers: Vec<wgpu::Buffer>) -> Rc<Self> {
        Rc::new(Self(RefCell::new(State { free: buffers, waiting: VecDeque::new(), next: 0 })))
    }

    /// A buffer, once one is free and everybody who asked before has theirs.
    pub(crate) async fn take(self: &Rc<Self>) -> Staging {
        let place = Place::new(self);
        std::future::poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            let first = state.waiting.front().is_some_and(|w| w.0 == place.id);
            if let Some(buffer) = first.then(|| state.free.pop()).flatten() {
                return Poll::Ready(Staging { ring: self.clone(), buffer, mapping: false });
            }
            if let Some(waiting) = state.waiting.iter_mut().find(|w| w.0 == place.id) {
                waiting.1 = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn wake_first(&self) {
        let waker = {
            let mut state = self.0.borrow_mut();
            if state.free.is_empty() { None } else { state.waiting.front_mut().and_then(|w| w.1.take()) }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A place in the queue, given up when dropped: by then its owner has a buffer or wants none.
struct Place<'a> {
    ring: &'a Ring,
    id: u64,
}

impl<'a> Place<'a> {
    fn new(ring: &'a Ring) -> Self {
        let mut state = ring.0.borrow_mut();
        state.next += 1;
        let id = state.next;
        state.waiting.push_back((id, None));
        Place { ring, id }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.ring.0.borrow_mut().waiting.retain(|w| w.0 != self.id);
        self.ring.wake_first();
    }
}

/// A buffer on loan. Goes back unmapped when dropped, even with a map pending: unmapping cancels that.
pub(crate) struct Staging {
    ring: Rc<Ring>,
    pub(crate) buffer: wgpu::Buffer,
    /// Whether a map was asked for: unmapping is an error otherwise.
    pub(crate) mapping: bool,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.mapping {
            self.buffer.unmap();
        }
        self.ring.0.borrow_mut().free.push(self.buffer.clone());
        self.ring.wake_first();
    }
}
