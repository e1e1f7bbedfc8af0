//! The processor in this process: memory of the allocator's, and threads of the operating system's where there are any.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tabpool_kernels::team::{Park, Team};
use tabpool_kernels::{Isa, Step, TileSize, weights};

use super::processor::{Placement, Processor};
use crate::backend::EngineError;

/// Memory begins at a cache line, so that no vector load of a packed panel straddles two.
const ALIGNMENT: usize = 64;

/// This process's processor.
pub(crate) struct InProcess {
    isa: Isa,
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    team: Team,
    parking: Parking,
}

impl InProcess {
    /// A processor of this many threads, of which the caller's is one.
    ///
    /// # Errors
    /// [`EngineError::Device`] where the operating system gives no threads.
    pub(crate) fn new(isa: Isa, threads: usize) -> Result<Self, EngineError> {
        let mut processor = Self { isa, shared: Arc::default(), helpers: Vec::new() };
        let threads = if cfg!(target_arch = "wasm32") { 1 } else { threads };
        for lane in 1..threads {
            let shared = Arc::clone(&processor.shared);
            let builder = std::thread::Builder::new().name(format!("tabpool-cpu-{lane}"));
            let helper = builder.spawn(move || help(isa, lane, &shared)).map_err(|e| EngineError::Device {
                doing: format!("starting {threads} threads"),
                reason: e.to_string(),
            })?;
            processor.helpers.push(helper);
        }
        Ok(processor)
    }
}

fn help(isa: Isa, lane: usize, shared: &Shared) {
    /// A helper that panics leaves its task behind.
    struct Watch<'a>(&'a Shared);
    impl Drop for Watch<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.team.abandon(&self.0.parking);
            }
        }
    }
    let _watch = Watch(shared);
    // SAFETY: every step that is led keeps the promises of `Processor::execute`, and each helper has a lane of its own.
    unsafe { shared.team.help(isa, lane, &shared.parking) };
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.shared.team.end(&self.shared.parking);
        for helper in self.helpers.drain(..) {
            // One that panicked said so already.
            let _ = helper.join();
        }
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, ALIGNMENT).ok()
}

// SAFETY: the allocator gives what it is asked for.
unsafe impl Processor for InProcess {
    fn description(&self) -> String {
        let threads = self.threads();
        format!("{}, {threads} thread{}", self.isa.name(), if threads == 1 { "" } else { "s" })
    }

    fn tile(&self) -> TileSize {
        self.isa.tile()
    }

    fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    fn allocate(&self, bytes: usize, doing: &str) -> Result<usize, EngineError> {
        // SAFETY: the size is not zero.
        let memory = layout(bytes.max(1)).map(|layout| unsafe { alloc_zeroed(layout) }).filter(|m| !m.is_null());
        memory.map(|memory| memory.expose_provenance()).ok_or_else(|| EngineError::OutOfMemory {
            doing: doing.to_owned(),
            reason: format!("the system gives no {bytes} bytes"),
        })
    }

    unsafe fn free(&self, address: usize, bytes: usize) {
        if let Some(layout) = layout(bytes.max(1)) {
            // SAFETY: the caller's promise: this is what was allocated.
            unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address), layout) };
        }
    }

    unsafe fn write(&self, address: usize, bytes: *const u8, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(bytes, std::ptr::with_exposed_provenance_mut(address), len) };
    }

    unsafe fn read(&self, address: usize, bytes: &mut [u8]) {
        let from = std::ptr::with_exposed_provenance::<u8>(address);
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
    }

    unsafe fn place(&self, placement: Placement, bytes: &[u8]) -> Result<(), EngineError> {
        let Placement { stored, first, packed_rows_of, address, len } = placement;
        let memory = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: the caller's promise.
        let out = unsafe { std::slice::from_raw_parts_mut(memory, len) };
        match packed_rows_of {
            Some(k) => weights::pack(self.tile(), stored, bytes, first, k, out),
            None => weights::widen(stored, bytes, &mut out[first..][..bytes.len() / stored.size()]),
        }
        Ok(())
    }

    unsafe fn execute(&self, address: usize, count: usize) -> Result<(), EngineError> {
        let first = std::ptr::with_exposed_provenance::<Step>(address);
        // SAFETY: the caller's promise.
        let steps = unsafe { std::slice::from_raw_parts(first, count) };
        // SAFETY: the caller's promise; only whoever owns this processor leads its team, from one thread.
        unsafe { self.shared.team.lead(self.isa, steps, &self.shared.parking) }
            .map_err(|_| EngineError::DeviceLost { reason: "a thread of the processor panicked".to_owned() })
    }
}

/// Waiting by a condition variable. One for all words: those who wait look again when they are woken.
#[derive(Default)]
struct Parking {
    mutex: Mutex<()>,
    changed: Condvar,
}

impl Park for Parking {
    fn wait(&self, word: &AtomicU32, seen: u32, milliseconds: u32) {
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        if word.load(Ordering::SeqCst) == seen {
            let timeout = Duration::from_millis(milliseconds.into());
            // Why it returned does not matter: whoever waits looks again.
            drop(self.changed.wait_timeout(guard, timeout));
        }
    }

    fn wake(&self, _word: &AtomicU32) {
        // Whoever saw the old value holds the mutex until it waits.
        drop(self.mutex.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    fn gives_up(&self) -> bool {
        // A thread that is slow may still write into memory that would be freed; one that panics says so.
        false
    }
}
