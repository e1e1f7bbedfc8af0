//! A team of threads that executes steps: a leader, who is whoever runs a program, and helpers.
//!
//! The leader publishes a step by storing a ticket: how many tasks it has and which one is next. Everybody, the leader
//! too, takes tasks off it by adding one. A step is over when as many tasks were reported done as there are. Nobody waits for
//! a helper that took none: one that the operating system has put aside, or that never started, costs speed and nothing
//! else. A helper that took a task and cannot finish it says so ([`Team::abandon`]), and one that says nothing exhausts
//! the leader's patience.
//!
//! Waiting is done by looking again for some ten microseconds, the time between two steps of a run, and then by the
//! platform's own way ([`Park`]): a condition variable, or `Atomics.wait` in a browser. Where waking a thread costs much, helpers
//! are told to look out for longer (`team/lookout.rs`).

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::isa::Isa;
use crate::step::Step;

mod lookout;
mod tasks;

use lookout::Lookout;
pub(crate) use tasks::Tasks;

/// How often a thread looks again before it parks. A look costs a few nanoseconds in WebAssembly, which has no instruction
/// that pauses, and some forty where there is one.
const LOOKS: u32 = if cfg!(target_arch = "wasm32") { 12_000 } else { 800 };

/// How long one wait of the leader's lasts.
const LEADER_WAIT_MS: u32 = 100;

/// How often the leader waits so long before it takes a helper for lost: half a minute, many times what the longest task
/// takes on a slow phone.
const LEADER_WAITS: u32 = 300;

/// How a platform's threads wait.
pub trait Park {
    /// Waits until `word` is woken, unless it no longer is `seen`; for so many milliseconds at most. May return early.
    fn wait(&self, word: &AtomicU32, seen: u32, milliseconds: u32);
    /// Wakes everybody who waits for `word`.
    fn wake(&self, word: &AtomicU32);
    /// Whether a helper that is silent may be given up. Only where what it may still write is nobody else's memory.
    fn gives_up(&self) -> bool;
    /// A clock in microseconds that wraps around.
    fn micros(&self) -> u32;
}

/// A helper took a task and did not finish it. The team is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// A step under way. Dropped only where the leader's own task panics: then no more tasks are taken, and the memory they use
/// is not given up before helpers have done those they took.
struct Led<'a, P: Park> {
    team: &'a Team,
    /// Tasks the leader took.
    own: Cell<u32>,
    park: &'a P,
}

impl<P: Park> Drop for Led<'_, P> {
    fn drop(&mut self) {
        let ticket = self.team.ticket.swap(1, Ordering::SeqCst);
        let taken = (ticket & 0xffff).min(ticket >> 16);
        // A helper that is lost as well has nothing under way any more.
        let _ = self.team.wait_for(taken - self.own.get(), self.park);
    }
}

/// What the threads of a team share.
#[derive(Debug, Default)]
pub struct Team {
    /// Tasks of the present step in the upper half, the next one in the lower half.
    ticket: AtomicU32,
    /// The present step's address.
    step: AtomicUsize,
    /// Tasks of the present step that helpers have done.
    done: AtomicU32,
    leader_waits: AtomicU32,
    sleepers: AtomicU32,
    ended: AtomicU32,
    abandoned: AtomicU32,
    /// Microseconds that the latest run took; the most where one is about to come.
    latest: AtomicU32,
}

impl Team {
    /// A team without helpers so far.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            ticket: AtomicU32::new(0),
            step: AtomicUsize::new(0),
            done: AtomicU32::new(0),
            leader_waits: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            abandoned: AtomicU32::new(0),
            latest: AtomicU32::new(0),
        }
    }

    /// Executes steps in order, as the thread of lane 0, with whatever helpers there are.
    ///
    /// # Errors
    /// [`Lost`], after which this team must not lead again.
    ///
    /// # Safety
    /// The steps' addresses are those of living memory that nobody else uses meanwhile, their results do not overlap their
    /// operands, their scratch memory has a lane for each member; nobody else leads this team.
    pub unsafe fn lead(&self, isa: Isa, steps: &[Step], park: &impl Park) -> Result<(), Lost> {
        let begun = park.micros();
        for step in steps {
            // SAFETY: the caller's promise, handed on.
            unsafe { self.lead_step(isa, step, park)? };
        }
        self.latest.store(park.micros().wrapping_sub(begun), Ordering::Relaxed);
        Ok(())
    }

    /// # Safety
    /// As for [`lead`](Self::lead).
    unsafe fn lead_step(&self, isa: Isa, step: &Step, park: &impl Park) -> Result<(), Lost> {
        let tasks = step.tasks();
        if tasks == 1 {
            // SAFETY: the caller's promise; nobody else knows of this step.
            unsafe { step.work(isa, 0, &mut Tasks::Only(Some(0))) };
            return Ok(());
        }
        self.done.store(0, Ordering::Relaxed);
        self.step.store(core::ptr::from_ref(step).expose_provenance(), Ordering::Relaxed);
        let tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
        self.ticket.store(tasks << 16, Ordering::SeqCst);
        self.wake_sleepers(park);
        let led = Led { team: self, own: Cell::new(0), park };
        // SAFETY: a task is given to one thread only, and lane 0 is the leader's.
        unsafe { step.work(isa, 0, &mut Tasks::Led { team: self, own: &led.own }) };
        let own = led.own.get();
        core::mem::forget(led);
        self.wait_for(tasks - own, park)
    }

    /// Waits until helpers have done so many tasks.
    fn wait_for(&self, tasks: u32, park: &impl Park) -> Result<(), Lost> {
        let mut waits = 0;
        loop {
            for _ in 0..LOOKS {
                if self.done.load(Ordering::Acquire) == tasks {
                    return Ok(());
                }
                core::hint::spin_loop();
            }
            if self.abandoned.load(Ordering::Relaxed) != 0 || waits == LEADER_WAITS && park.gives_up() {
                return Err(Lost);
            }
            // Announced before the last look: a helper that reports after it sees that somebody waits.
            self.leader_waits.store(1, Ordering::SeqCst);
            let done = self.done.load(Ordering::SeqCst);
            if done != tasks {
                park.wait(&self.done, done, LEADER_WAIT_MS);
            }
            self.leader_waits.store(0, Ordering::SeqCst);
            waits = (waits + 1).min(LEADER_WAITS);
        }
    }

    /// A task of the present step, if one is left.
    fn take(&self) -> Option<usize> {
        let left = |ticket: u32| (ticket & 0xffff) < ticket >> 16;
        // Looked at first, so that threads that look again and again do not count the next task up for ever.
        if !left(self.ticket.load(Ordering::SeqCst)) {
            return None;
        }
        let ticket = self.ticket.fetch_add(1, Ordering::SeqCst);
        left(ticket).then_some((ticket & 0xffff) as usize)
    }

    /// Helps as the thread of this lane until the team ends; once it has nothing to do it looks out for work for so many
    /// microseconds before it sleeps, unless somebody else wants its core.
    ///
    /// # Safety
    /// As for [`lead`](Self::lead), for every step that is led; no other thread has this lane, which is not 0.
    pub unsafe fn help(&self, isa: Isa, lane: usize, patience: u32, park: &impl Park) {
        let mut lookout = Lookout::new(patience);
        while self.ended.load(Ordering::Relaxed) == 0 {
            let first = self.take();
            if first.is_some() {
                // SAFETY: a task was taken and not reported, so the leader is still at this step, which lives.
                let step: &Step = unsafe { &*core::ptr::with_exposed_provenance(self.step.load(Ordering::Acquire)) };
                // SAFETY: the caller's promise; tasks are given to one thread only.
                unsafe { step.work(isa, lane, &mut Tasks::Helped { team: self, first, park }) };
                lookout.begin();
            } else if lookout.goes_on(self.latest.load(Ordering::Relaxed), park) {
                core::hint::spin_loop();
            } else {
                self.sleep(park);
                lookout.begin();
            }
        }
    }

    /// Waits for a ticket.
    fn sleep(&self, park: &impl Park) {
        // Announced before the last look: a leader who publishes after it sees that somebody sleeps.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let ticket = self.ticket.load(Ordering::SeqCst);
        if ticket & 0xffff >= ticket >> 16 && self.ended.load(Ordering::SeqCst) == 0 {
            park.wait(&self.ticket, ticket, u32::MAX);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes helpers that sleep, so that they look out for work that is about to come.
    pub fn rouse(&self, park: &impl Park) {
        self.latest.store(u32::MAX, Ordering::Relaxed);
        self.wake_sleepers(park);
    }

    fn wake_sleepers(&self, park: &impl Park) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            park.wake(&self.ticket);
        }
    }

    /// Says that a helper is gone and may have left a task behind.
    pub fn abandon(&self, park: &impl Park) {
        self.abandoned.store(1, Ordering::SeqCst);
        park.wake(&self.done);
    }

    /// Sends the helpers home. Nobody may lead afterwards.
    pub fn end(&self, park: &impl Park) {
        self.ended.store(1, Ordering::SeqCst);
        // An empty ticket unlike the last one: a helper about to park sees that something changed.
        self.ticket.store(1, Ordering::SeqCst);
        park.wake(&self.ticket);
    }
}

#[cfg(test)]
mod tests;
