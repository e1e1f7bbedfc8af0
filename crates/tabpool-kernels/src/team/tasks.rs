//! Where a thread that executes a step gets its tasks from.
//!
//! One type for all who ask, instead of a function pointer for each: a browser guesses where those lead, builds its guess into the
//! kernel's code, and throws that away in the middle of a run when a step is led for the first time by several threads. Only waking
//! the leader goes through a pointer, which always leads to the same place.

use core::cell::Cell;
use core::sync::atomic::Ordering;

use super::{Park, Team};

/// The tasks of one step, as far as one thread gets them.
pub(crate) enum Tasks<'a> {
    /// The only one, of a step that nobody else knows of; none once it was given.
    Only(Option<usize>),
    /// Those that a leader takes, and how many that were.
    Led { team: &'a Team, own: &'a Cell<u32> },
    /// Those that a helper takes. The first one was taken before anything was known of the step.
    Helped { team: &'a Team, first: Option<usize>, park: &'a dyn Park },
}

impl Tasks<'_> {
    /// The next task, if one is left; the one before it is done.
    // A function of its own in a browser: see `vectorised!`.
    #[cfg_attr(target_family = "wasm", inline(never))]
    pub(crate) fn next(&mut self) -> Option<usize> {
        match self {
            Tasks::Only(task) => task.take(),
            Tasks::Led { team, own } => {
                let task = team.take();
                own.set(own.get() + u32::from(task.is_some()));
                task
            }
            Tasks::Helped { team, first, park } => {
                if first.is_some() {
                    return first.take();
                }
                // The next one is taken before the last one is reported: until then it is of the same step.
                let next = team.take();
                team.done.fetch_add(1, Ordering::SeqCst);
                if team.leader_waits.load(Ordering::SeqCst) != 0 {
                    park.wake(&team.done);
                }
                next
            }
        }
    }
}
