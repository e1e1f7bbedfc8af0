//! Placement, queueing, replay and recovery for a pool of workers, as a pure state machine.
//!
//! [`Event`]s go in with the time at which they were seen, [`Action`]s come out. The scheduler holds no clock, no
//! thread, no socket and no randomness but its seed, so the pool's actor drives it in production and a simulation
//! drives the same code with hundreds of thousands of events a second. It knows workers, programs and requests by
//! number only.
//!
//! What it promises, whatever events come and in whatever order:
//!
//! - every request submitted is answered by exactly one [`Action::Reply`];
//! - a worker is never given more than its credits, and nothing it has not loaded;
//! - what a lost, failing or silent worker held is tried elsewhere, before everything else, a bounded number of times;
//! - what takes far longer than expected is tried on a second worker beside the first, if it may run twice;
//! - a queue that is full says when to come back, and a wish that nobody can fulfil is refused with a sentence.
//!
//! # The life of a request
//!
//! It is filed in a *lane* with the others that may run in the same places ([`Placement`]), ranked by priority and
//! arrival. Among the workers allowed, the one that would be finished first is sought: its queue, the load if
//! the program is not there, and the computing time as measured for this program, kind of worker and API. If the
//! best worker has no credit left the request waits, unless so many wait that a slower one helps. Loading a
//! program on one more worker is decided by the same reckoning, and by what waiting has cost so far.
//!
//! # Memory
//!
//! Each worker has a ledger of what it holds, equal weights counted once, and may have a limit. A load that does not fit
//! makes room by unloading what costs least to bring back for the longest time it was not used. A program that does not fit
//! even alone is never loaded there, and who asks for it is told the numbers. Programs that are wanted and do not fit
//! together take turns, long enough that loading stays the smaller part.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use tabpool_scheduler::{
//!     Action, Api, ClientId, Config, Event, Footprint, ModelId, Outcome, Placement, ProgramId, RequestId,
//!     Scheduler, Submit, WorkerId, WorkerKind,
//! };
//!
//! # fn main() -> Result<(), tabpool_scheduler::ConfigError> {
//! let mut scheduler = Scheduler::new(Config::default(), 1)?;
//! let mut actions = Vec::new();
//! let ms = Duration::from_millis;
//! let (worker, program, request) = (WorkerId(1), ProgramId(7), RequestId(1));
//!
//! let joined =
//!     Event::Joined { worker, slot: None, kind: WorkerKind::Native, apis: vec![Api::Cpu], credits: 2, memory: None };
//! scheduler.handle(ms(0), joined, &mut actions);
//! let submit = Submit {
//!     request,
//!     client: ClientId::default(),
//!     model: ModelId(1),
//!     program,
//!     placement: Placement::ANY,
//!     priority: 0,
//!     deadline: None,
//!     cost: 1.0,
//!     max_attempts: None,
//!     repeatable: true,
//! };
//! scheduler.handle(ms(1), Event::Submit(submit), &mut actions);
//! assert!(matches!(actions[..], [Action::Load { api: Api::Cpu, .. }]));
//!
//! actions.clear();
//! let footprint = Footprint { weights: 90_000_000, scratch: 4_000_000 };
//! let loaded = Event::LoadFinished { worker, program, api: Api::Cpu, took: ms(200), at_once: 1, footprint };
//! scheduler.handle(ms(201), loaded, &mut actions);
//! assert!(matches!(actions[..], [Action::Dispatch { attempt: 1, .. }]));
//!
//! actions.clear();
//! let finished = Event::Finished { worker, request, attempt: 1, compute: ms(30) };
//! scheduler.handle(ms(232), finished, &mut actions);
//! assert_eq!(actions, [Action::Reply { request, outcome: Outcome::Finished { worker, attempt: 1 } }]);
//! # Ok(())
//! # }
//! ```

mod action;
mod config;
mod event;
mod id;
mod latency;
mod memory;
mod placement;
mod queue;
mod routes;
mod scaling;
mod scheduler;
mod slots;
mod stats;
mod timer;
mod worker;

pub use action::{Action, FailureCause, LoadReason, Outcome, Record, StopTarget};
pub use config::{CircuitConfig, Config, ConfigError, ExploringConfig, HedgingConfig, Priors, RestartConfig};
pub use event::{Event, Fault, LoadRetry, Submit};
pub use id::{Api, ClientId, ModelId, ProgramId, RequestId, SlotId, WeightId, WorkerId, WorkerKind};
pub use memory::{Footprint, Needs};
pub use placement::{ApiOrder, KindSet, Placement};
pub use scaling::{Decision, GroupLoad, Scaler, ScalingConfig, SlotLoad};
pub use scheduler::Scheduler;
pub use slots::{SlotState, SlotView};
pub use stats::{Ignored, Stats};
pub use worker::{MOST_AT_ONCE, WorkerView};
