//! The pool: browsers and native workers that run models for one host.
//!
//! A [`ResourcePool`] is a handle to one task, the *actor*, that owns everything: the scheduler's state machine, the
//! bridge's events, the slots and the processes in them, the requests that wait. Data flows one way: commands and events
//! go into the actor, actions come out of the scheduler, the actor carries them out. Around it stand an HTTP server on
//! loopback (the page and runtime that tabs load, the blocks of weights, the link), one thread for each native worker,
//! and the metrics store's writer. Tabs that nobody here has started join with a ticket ([`ResourcePool::join`]), those of other
//! machines from an endpoint ([`PoolBuilder::join_from`]).
//!
//! ```no_run
//! use tabpool_browser::BrowserKind;
//! use tabpool_pool::{ModelRequest, ResourcePool, WorkerSpec};
//! use tabpool_tensor::Tensor;
//!
//! # async fn example() -> Result<(), tabpool_pool::PoolError> {
//! let pool = ResourcePool::builder()
//!     .worker(WorkerSpec::browser(BrowserKind::Chromium))
//!     .worker(WorkerSpec::native())
//!     .build()
//!     .await?;
//! let model = pool.model(ModelRequest::new("/models/all-MiniLM-L6-v2")).await?;
//! let ids = Tensor::from_i64([1, 3], vec![101, 7592, 102]).expect("three ids");
//! let answer = model.run_for(vec![("input_ids".to_owned(), ids)], &["sentence_embedding"]).await?;
//! println!("{} on {}", answer.outputs[0].1.shape(), answer.worker);
//! pool.close().await
//! # }
//! ```

mod actor;
mod assets;
mod batching;
mod config;
mod door;
mod endpoint;
mod error;
mod event;
mod history;
mod join;
mod kept;
mod launch;
mod listening;
mod metrics;
mod model;
mod native;
mod pool;
mod preferences;
mod readiness;
mod referee;
mod server;
mod session;
mod target;
mod tuning;

pub use actor::Checking;
pub use batching::Batching;
pub use config::{ModelKind, PoolBuilder, Profile, WorkerSpec};
pub use endpoint::{EndpointError, JoinEndpoint};
pub use error::PoolError;
pub use event::{PoolEvent, WorkerState, WorkerView};
pub use join::{JoinError, JoinOptions, JoinTicket, Revocation, TicketId};
pub use kept::{Keeping, Kept};
pub use metrics::PoolMetrics;
pub use model::{Answer, ModelHandle, ModelRequest, Timing};
pub use pool::ResourcePool;
pub use session::{Pending, Session};
pub use tabpool_bridge::WorkerId;
pub use tabpool_scheduler::ScalingConfig;
pub use target::{ParseTargetError, Target};
pub use tuning::TuningPolicy;
