//! The processor in this process: memory of the allocator's, and threads of the operating system's where there are any.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tabpool_kernels::team::{Park, Team};
use tabpool_kernels::{Isa, Step, TileSize, weights};

use super::chunks::Chunks;
use super::processor::{Placement, Processor};
use crate::backend::EngineError;

/// This process's processor.
pub(crate) struct InProcess {
    isa: Isa,
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    memory: RefCell<Chunks>,
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
        let mut processor = Self { isa, shared: Arc::default(), helpers: Vec::new(), memory: RefCell::default() };
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
            self.0.parking.helpers.leave();
            if std::thread::panicking() {
                self.0.team.abandon(&HelperParking(&self.0.parking));
            }
        }
    }
    shared.parking.helpers.join();
    let _watch = Watch(shared);
    // Woken on another core it is there within microseconds, and needs no patience.
    // SAFETY: every step that is led keeps the promises of `Processor::execute`, and each helper has a lane of its own.
    unsafe { shared.team.help(isa, lane, 0, &HelperParking(&shared.parking)) };
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

// SAFETY: chunks give each stretch to one at a time, zeroed and at a cache line.
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
        self.memory.borrow_mut().take(bytes).ok_or_else(|| EngineError::OutOfMemory {
            doing: doing.to_owned(),
            reason: format!("the system gives no {bytes} bytes"),
        })
    }

    unsafe fn free(&self, address: usize, bytes: usize) {
        // SAFETY: the caller's promise, handed on.
        unsafe { self.memory.borrow_mut().give(address, bytes) };
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
        let Placement { stored, first, packed, address, len } = placement;
        let memory = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: the caller's promise.
        let out = unsafe { std::slice::from_raw_parts_mut(memory, len) };
        match packed {
            Some(rows) => weights::pack(self.tile(), stored, bytes, first, rows, out),
            None => weights::widen(stored, bytes, &mut out[first..][..bytes.len() / stored.size()]),
        }
        Ok(())
    }

    unsafe fn columns_alike(&self, address: usize, len: usize, k: usize) -> Result<bool, EngineError> {
        // SAFETY: the caller's promise.
        let packed = unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(address), len) };
        Ok(tabpool_kernels::columns_alike(self.isa, packed, k))
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
    helpers: crowding::Sleepers,
    begun: Begun,
}

/// When counting began.
struct Begun(Instant);

impl Default for Begun {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Parking {
    fn notify(&self) {
        // Whoever saw the old value holds the mutex until it waits.
        drop(self.mutex.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

/// How the leader waits and wakes helpers.
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
        self.helpers.wake_elsewhere(|| self.notify());
    }

    fn gives_up(&self) -> bool {
        // A thread that is slow may still write into memory that would be freed; one that panics says so.
        false
    }

    fn micros(&self) -> u32 {
        // It wraps around, as it is meant to.
        self.begun.0.elapsed().as_micros() as u32
    }
}

/// How helpers wait and wake the leader. They are on another core than it already.
struct HelperParking<'a>(&'a Parking);

impl Park for HelperParking<'_> {
    fn wait(&self, word: &AtomicU32, seen: u32, milliseconds: u32) {
        self.0.wait(word, seen, milliseconds);
    }

    fn wake(&self, _word: &AtomicU32) {
        self.0.notify();
    }

    fn gives_up(&self) -> bool {
        self.0.gives_up()
    }

    fn micros(&self) -> u32 {
        self.0.micros()
    }
}

/// Keeping a woken thread off the core of whoever wakes it.
///
/// Inside virtual machines Linux takes an idle core for one whose host has no time for it, and puts the woken thread beside
/// the one that woke it, where it waits until cores are balanced: for most of a run, which then has one thread. While it
/// is woken it may therefore use any core but the waker's.
#[cfg(target_os = "linux")]
mod crowding {
    use std::sync::{Mutex, PoisonError};

    use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

    /// Threads that are woken.
    #[derive(Default)]
    pub(super) struct Sleepers(Mutex<Vec<Pid>>);

    impl Sleepers {
        /// The calling thread will sleep.
        pub(super) fn join(&self) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(gettid());
        }

        /// The calling thread ends.
        pub(super) fn leave(&self) {
            let own = gettid();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|sleeper| *sleeper != own);
        }

        /// Wakes them, on other cores than the caller's. Where there is no other, or the system refuses, on any.
        pub(super) fn wake_elsewhere(&self, wake: impl FnOnce()) {
            let sleepers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let core = sched_getcpu();
            let kept_off = |&sleeper: &Pid| -> Option<(Pid, CpuSet)> {
                let allowed = sched_getaffinity(Some(sleeper)).ok()?;
                let mut others = allowed;
                others.unset(core);
                (others.count() > 0 && sched_setaffinity(Some(sleeper), &others).is_ok()).then_some((sleeper, allowed))
            };
            let moved: Vec<_> = sleepers.iter().filter_map(kept_off).collect();
            wake();
            for (sleeper, allowed) in moved {
                // One that has ended meanwhile needs no core.
                let _ = sched_setaffinity(Some(sleeper), &allowed);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod crowding {
    /// Other systems' schedulers were not seen to crowd.
    #[derive(Default)]
    pub(super) struct Sleepers;

    impl Sleepers {
        pub(super) fn join(&self) {}

        pub(super) fn leave(&self) {}

        pub(super) fn wake_elsewhere(&self, wake: impl FnOnce()) {
            wake();
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::mpsc;

    use rustix::thread::{sched_getaffinity, sched_getcpu};

    use super::crowding::Sleepers;

    #[test]
    fn a_woken_thread_is_on_another_core_and_may_use_all_of_them_afterwards() {
        let allowed = sched_getaffinity(None).expect("the system says which cores there are");
        let sleepers = Sleepers::default();
        let (wake, woken) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        std::thread::scope(|threads| {
            let sleepers = &sleepers;
            threads.spawn(move || {
                sleepers.join();
                tell.send(usize::MAX).expect("the test listens");
                while woken.recv().is_ok() {
                    tell.send(sched_getcpu()).expect("the test listens");
                }
                assert!(sched_getaffinity(None).expect("as before") == allowed);
                sleepers.leave();
            });
            told.recv().expect("the thread joins");
            // The system may move either thread at any time; it does not do so each time.
            let apart = (0..50).any(|_| {
                let own = sched_getcpu();
                sleepers.wake_elsewhere(|| wake.send(()).expect("the thread waits"));
                told.recv().expect("the thread answers") != own
            });
            assert_eq!(apart, allowed.count() > 1);
            drop(wake);
        });
    }
}
