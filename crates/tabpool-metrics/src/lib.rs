//! What tabpool measures, kept in DuckDB.
//!
//! A pool opens one [`MetricsStore`] and gives [`Recorder`]s to whoever measures something. Recording costs a push into a
//! bounded queue; one thread writes the queue to the file in transactions, so a crash loses at most the last second and
//! never the file. What does not fit is dropped, counted, and the count is stored as well. Questions go through a
//! [`Reader`], of the running store or of a file at rest, and a [`Report`] is what most people ask for.
//!
//! The file is plain DuckDB: its tables are described in `migrations/`, and any DuckDB client can read it while no pool
//! runs. DuckDB allows one writing process per file.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use tabpool_metrics::{
//!     Api, Bucket, Inference, MetricsStore, ModelIdentity, Outcome, Precision, Report, ReportFilter, StoreOptions,
//!     Timestamp, WorkerIdentity,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MetricsStore::in_memory(StoreOptions::default())?;
//! let recorder = store.recorder();
//! recorder.record(Inference {
//!     at: Timestamp::now(),
//!     request: 1,
//!     model: Arc::new(ModelIdentity { name: "all-MiniLM-L6-v2".into(), cid: "bafy…".into() }),
//!     worker: Arc::new(WorkerIdentity { browser: "firefox".into(), ..WorkerIdentity::default() }),
//!     bucket: Bucket { batch: 1, sequence: 128 },
//!     batch_used: 1,
//!     tokens: 17,
//!     api: Api::WebGpu,
//!     precision: Precision::F32,
//!     queue_wait: Duration::from_micros(300),
//!     transfer: Duration::from_micros(700),
//!     compute: Duration::from_millis(40),
//!     readback: Duration::from_millis(2),
//!     total: Duration::from_millis(43),
//!     bytes_in: 1024,
//!     bytes_out: 1536,
//!     attempts: 1,
//!     outcome: Outcome::Ok,
//! });
//! recorder.flush().wait(Duration::from_secs(5))?;
//! let report = Report::build(&store.reader()?, ReportFilter::default())?;
//! assert_eq!(report.latency[0].p50_ms, Some(43.0));
//! println!("{}", report.render_text(100));
//! # Ok(())
//! # }
//! ```

mod calendar;
mod database;
mod error;
mod event;
mod history;
mod migrate;
mod queue;
mod reader;
mod report;
mod rows;
mod store;
mod tuning;

pub use error::{FlushError, OpenError, QueryError};
pub use event::{
    Adapter, Api, Bucket, Connection, ConnectionEvent, Decision, DecisionKind, Event, Inference, KernelTuning,
    ModelIdentity, ModelLoad, Outcome, PoolSample, Precision, Timestamp, WorkerIdentity,
};
pub use history::PastLatency;
pub use queue::{Flush, RecorderStats};
pub use reader::{Answer, Reader};
pub use report::{
    Connections, Contender, Day, Decided, Latency, Loads, PoolPeaks, Regression, Report, ReportFilter, Totals,
};
pub use store::{MetricsStore, Recorder, StoreOptions};
pub use tuning::{TuningInForce, TuningKey};
