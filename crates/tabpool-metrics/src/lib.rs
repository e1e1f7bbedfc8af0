//! What tabpool measures, kept in DuckDB: events, store, queries, reports.
mod calendar;
mod database;
mod error;
mod event;
mod migrate;
mod queue;
mod reader;
mod rows;
mod store;

pub use error::{FlushError, OpenError, QueryError};
pub use event::{
    Adapter, Api, Bucket, Connection, ConnectionEvent, Event, Inference, ModelIdentity, ModelLoad, Outcome, PoolSample,
    Precision, Timestamp, WorkerIdentity,
};
pub use queue::{Flush, RecorderStats};
pub use reader::{Answer, Reader};
pub use store::{MetricsStore, Recorder, StoreOptions};
