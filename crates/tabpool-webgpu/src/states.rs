//! States on the device: buffers that outlive runs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use futures::channel::oneshot;
use tabpool_engine::{EngineError, StateSet, StateSpec};

use crate::bindings::StateGroups;
use crate::device::{Gpu, buffer};

/// A set of states of one device.
///
/// It keeps the bind groups that executables have for it, so that its buffers go when it goes; an executable takes its own out
/// when that goes first.
pub(crate) struct States {
    gpu: Rc<Gpu>,
    specs: Vec<StateSpec>,
    buffers: Vec<wgpu::Buffer>,
    bound: RefCell<HashMap<u64, StateGroups>>,
    /// The end of the turn that was taken last.
    last: RefCell<Option<oneshot::Receiver<()>>>,
}

/// A run's turn on a set. The next one begins when this is dropped, and not before.
pub(crate) struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _end: oneshot::Sender<()>,
}

impl Turn {
    /// Waits until every run that asked before has submitted its work, or was dropped.
    pub(crate) async fn begin(&mut self) {
        if let Some(before) = self.before.take() {
            // It never sends; its drop is the news.
            let _ = before.await;
        }
    }
}

impl States {
    /// Makes a set of zeros.
    ///
    /// # Errors
    /// [`EngineError::State`] where a state is larger than the device's buffers may be, otherwise what the device reports.
    pub(crate) async fn new(gpu: &Rc<Gpu>, specs: &[StateSpec]) -> Result<Self, EngineError> {
        gpu.health.alive()?;
        let limit = gpu.capabilities.binding.min(gpu.capabilities.buffer);
        if let Some(large) = specs.iter().find(|spec| spec.bytes() > limit) {
            let (name, bytes) = (&large.name, large.bytes());
            let reason = format!("cannot be kept: {name:?} takes {bytes} bytes, the device binds at most {limit}");
            return Err(EngineError::State { reason });
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let make = || specs.iter().map(|spec| buffer(&gpu.device, spec.bytes(), usage)).collect();
        let buffers = gpu.scoped("making states", make).await?;
        let (bound, last) = (RefCell::default(), RefCell::default());
        Ok(Self { gpu: gpu.clone(), specs: specs.to_vec(), buffers, bound, last })
    }

    /// A few zeros in place of each state, for bind groups that are never run for somebody.
    pub(crate) fn stand_ins(gpu: &Gpu, count: usize) -> Vec<wgpu::Buffer> {
        (0..count).map(|_| buffer(&gpu.device, gpu.absent.size(), wgpu::BufferUsages::STORAGE)).collect()
    }

    /// Whether it lies on this device.
    pub(crate) fn is_on(&self, gpu: &Rc<Gpu>) -> bool {
        Rc::ptr_eq(&self.gpu, gpu)
    }

    pub(crate) fn buffers(&self) -> &[wgpu::Buffer] {
        &self.buffers
    }

    /// The bind groups of an executable for this set.
    pub(crate) fn bound(&self, executable: u64) -> Option<StateGroups> {
        self.bound.borrow().get(&executable).cloned()
    }

    /// Keeps the bind groups of an executable.
    pub(crate) fn bind(&self, executable: u64, groups: StateGroups) {
        self.bound.borrow_mut().insert(executable, groups);
    }

    /// Lets go of what is kept for an executable.
    pub(crate) fn unbind(&self, executable: u64) {
        self.bound.borrow_mut().remove(&executable);
    }

    /// For how many executables bind groups are kept.
    #[cfg(test)]
    pub(crate) fn bound_executables(&self) -> usize {
        self.bound.borrow().len()
    }

    /// Takes the next turn. Whoever asks first comes first.
    pub(crate) fn turn(&self) -> Turn {
        let (end, ended) = oneshot::channel();
        Turn { before: self.last.replace(Some(ended)), _end: end }
    }
}

impl StateSet for States {
    fn specs(&self) -> &[StateSpec] {
        &self.specs
    }

    fn bytes(&self) -> u64 {
        self.buffers.iter().map(wgpu::Buffer::size).sum()
    }
}

impl Drop for States {
    fn drop(&mut self) {
        // A browser would free them with its next collection of garbage only. What was submitted still finishes.
        self.buffers.iter().for_each(wgpu::Buffer::destroy);
    }
}
