//! The harness of the end-to-end suites: real browsers, real models, real faults.
//!
//! Each suite under `suites/` is a test program. What they share is here: the folders of fixtures and models ([`places`]),
//! the browsers of this machine and how to say that one is missing ([`browsers`]), reference outputs ([`golden`]) and the table
//! that is kept of how far answers are from them ([`error_table`]), pools that are watched ([`scene`]), what the database says
//! afterwards ([`records`]), processes seen from outside ([`processes`]), a host to be killed ([`host`]), a worker that
//! does what no worker should ([`intruder`]), a bad line between a tab and its host ([`relay`]), a disk that can be filled
//! ([`room`]), and dice that fall alike when they are thrown again ([`chance`]).
//!
//! A case that this machine cannot run is left out with a line that says what was missing; nothing here is ignored. No
//! case sleeps and hopes: each waits for an event or polls with a deadline.

pub mod browsers;
pub mod chance;
pub mod error_table;
pub mod golden;
pub mod host;
pub mod intruder;
pub mod places;
pub mod processes;
pub mod records;
pub mod relay;
pub mod room;
pub mod scene;

use std::io::Write as _;

/// How a case ends.
pub type Outcome = Result<(), Fault>;

/// Whatever made a case fail.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Fails with `what` unless `condition` holds: for cases that return their failures, so that everything they started
/// is dropped in order.
///
/// # Errors
/// The text, where the condition does not hold.
pub fn require(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(what().into()) }
}

/// Shows figures of a case. Unlike what is printed by macros, they are seen of a case that passes, too: that is what they
/// are for.
pub fn show(figures: &str) {
    // A run whose error output is closed has nobody to show them to.
    let _ = writeln!(std::io::stderr(), "{figures}");
}
