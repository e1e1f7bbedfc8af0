//! Buffers that outputs are read back through: a few for each executable, made at load, handed out first come first
//! served. Their number bounds how many runs are in flight on the device.
//!
//! A buffer whose map is still pending when its run is dropped does not come back: another takes its place. wgpu-core keeps
//! the cancelled map in the list of its submission, and at that submission's end resolves whatever map the buffer has
//! by then, so that the next run could read the dropped one's outputs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::device::buffer;

/// See the module's documentation.
pub(crate) struct Ring {
    device: wgpu::Device,
    state: RefCell<State>,
}

struct State {
    free: Vec<wgpu::Buffer>,
    waiting: VecDeque<(u64, Option<Waker>)>,
    next: u64,
}

impl Ring {
    pub(crate) fn new(device: wgpu::Device, buffers: Vec<wgpu::Buffer>) -> Rc<Self> {
        let state = State { free: buffers, waiting: VecDeque::new(), next: 0 };
        Rc::new(Self { device, state: RefCell::new(state) })
    }

    /// A buffer, once one is free and everybody who asked before has theirs.
    pub(crate) async fn take(self: &Rc<Self>) -> Staging {
        let place = Place::new(self);
        std::future::poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            let first = state.waiting.front().is_some_and(|w| w.0 == place.id);
            if let Some(buffer) = first.then(|| state.free.pop()).flatten() {
                return Poll::Ready(Staging { ring: self.clone(), buffer, map: Map::None });
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
            let mut state = self.state.borrow_mut();
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
        let mut state = ring.state.borrow_mut();
        state.next += 1;
        let id = state.next;
        state.waiting.push_back((id, None));
        Place { ring, id }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.ring.state.borrow_mut().waiting.retain(|w| w.0 != self.id);
        self.ring.wake_first();
    }
}

/// What has become of a staging buffer's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    /// None was asked for.
    None,
    /// Asked for, not answered with success.
    Pending,
    /// Mapped.
    Done,
}

/// A buffer on loan. Goes back unmapped when dropped; with a map pending that is cancelled, and a new buffer goes back.
pub(crate) struct Staging {
    ring: Rc<Ring>,
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) map: Map,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.map != Map::None {
            self.buffer.unmap();
        }
        let back = match self.map {
            Map::Pending => buffer(&self.ring.device, self.buffer.size(), self.buffer.usage()),
            Map::None | Map::Done => self.buffer.clone(),
        };
        self.ring.state.borrow_mut().free.push(back);
        self.ring.wake_first();
    }
}
