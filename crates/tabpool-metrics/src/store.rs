//! The store while a pool runs: one thread owns the writing connection, everybody else has a [`Recorder`] or a [`Reader`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use duckdb::{Connection, params};

use crate::database::{Access, Database, FileLock, in_our_words};
use crate::error::{FlushError, OpenError, QueryError};
use crate::event::{Event, Timestamp};
use crate::migrate::migrate;
use crate::queue::{Flush, Queue, RecorderStats};
use crate::reader::Reader;
use crate::rows::{self, Table, at};

/// Attempts to write a batch before its events count as lost.
const ATTEMPTS: u32 = 3;

/// How a store is opened for writing.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    program: String,
    queue_capacity: usize,
    batch: usize,
    interval: Duration,
    keep: Duration,
}

impl Default for StoreOptions {
    /// 16 384 events in the queue, a transaction every 400 ms or 4096 events, rows kept for a year.
    fn default() -> Self {
        Self {
            program: format!("tabpool-metrics {}", env!("CARGO_PKG_VERSION")),
            queue_capacity: 16_384,
            batch: 4096,
            interval: Duration::from_millis(400),
            keep: Duration::from_secs(365 * 24 * 3600),
        }
    }
}

impl StoreOptions {
    /// The program and version noted with the run.
    #[must_use]
    pub fn program(mut self, program: impl Into<String>) -> Self {
        self.program = program.into();
        self
    }

    /// Events that may wait; more are dropped and counted.
    #[must_use]
    pub fn queue_capacity(mut self, events: usize) -> Self {
        self.queue_capacity = events;
        self
    }

    /// Events that make a transaction before its time.
    #[must_use]
    pub fn batch(mut self, events: usize) -> Self {
        self.batch = events;
        self
    }

    /// The longest an event waits before it is written. A crash loses this much, plus the time of one transaction.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How long rows are kept; older ones are removed when the store is opened.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }
}

/// An open store. Closing it, or dropping it, writes what waits and ends its thread.
pub struct MetricsStore {
    path: PathBuf,
    run: i64,
    queue: Arc<Queue>,
    // Only cloned from, for readers; behind a mutex because a connection must not be shared.
    source: Mutex<Connection>,
    writer: Option<JoinHandle<()>>,
    // Last, so that every connection of ours is closed before another process may have the file.
    lock: Option<Arc<FileLock>>,
}

impl MetricsStore {
    /// Opens the database file for writing, makes it if need be, migrates it, and starts a new run.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. A file that cannot be used is left as it is.
    pub fn open(path: impl AsRef<Path>, options: StoreOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        Self::start(Database::open(path, Access::Write)?, path, options)
    }

    /// A store that ends with the process, for tests and for `--no-metrics`.
    ///
    /// # Errors
    ///
    /// When DuckDB cannot be initialised.
    pub fn in_memory(options: StoreOptions) -> Result<Self, OpenError> {
        Self::start(Database::in_memory()?, Path::new(":memory:"), options)
    }

    #[expect(clippy::needless_pass_by_value, reason = "options are built in place by every caller")]
    fn start(mut database: Database, path: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        let failed = |error| in_our_words(path, error);
        migrate(&mut database.connection, path, Access::Write)?;
        let run = begin_run(&database.connection, &options).map_err(failed)?;
        let source = database.connection.try_clone().map_err(failed)?;
        let queue = Arc::new(Queue::new(options.queue_capacity, options.batch, options.interval));
        let lock = database.lock.map(Arc::new);
        let writer = Writer {
            connection: database.connection,
            run,
            queue: Arc::clone(&queue),
            capacity: options.queue_capacity.max(1),
            interval: options.interval,
            _lock: lock.clone(),
        };
        let writer = std::thread::Builder::new()
            .name("tabpool-metrics".to_owned())
            .spawn(move || writer.work())
            .map_err(|source| OpenError::Io { path: path.to_owned(), action: "start the writer thread", source })?;
        Ok(Self { path: path.to_owned(), run, queue, source: Mutex::new(source), writer: Some(writer), lock })
    }

    /// The database file, or `:memory:`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of this run, which every row of it carries.
    #[must_use]
    pub fn run(&self) -> i64 {
        self.run
    }

    /// A handle for recording, to be given to whoever measures.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        Recorder { queue: Arc::clone(&self.queue) }
    }

    /// A connection for questions, which sees what has been written and holds nobody up. It keeps the file locked while
    /// it lives, so it should not outlive the store for long. Its questions block: ask them off the async threads.
    ///
    /// # Errors
    ///
    /// When DuckDB refuses another connection.
    pub fn reader(&self) -> Result<Reader, QueryError> {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = source.try_clone().map_err(QueryError::database("a second connection"))?;
        Ok(Reader::of_running_store(connection, self.lock.clone()))
    }

    /// Writes what waits and ends the writer thread. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// When recorded events are missing from the database. The store is closed all the same.
    pub fn close(mut self) -> Result<RecorderStats, FlushError> {
        self.end();
        let stats = self.queue.stats();
        if stats.written == stats.recorded {
            return Ok(stats);
        }
        Err(stats.last_error.map_or(FlushError::Closed, |message| FlushError::Write { message }))
    }

    fn end(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the metrics writer panicked");
        }
    }
}

impl Drop for MetricsStore {
    fn drop(&mut self) {
        self.end();
    }
}

/// Records events. Cheap to clone, never blocks, never fails: what cannot be kept is counted.
#[derive(Clone)]
pub struct Recorder {
    queue: Arc<Queue>,
}

impl Recorder {
    /// Hands an event to the writer. When the queue is full, or the store closed, the event is dropped and counted in
    /// [`RecorderStats::queue_full`] and in the table `lost_events`.
    pub fn record(&self, event: impl Into<Event>) {
        self.queue.push(event.into());
    }

    /// Asks for everything recorded so far to be written now. The answer is an error when anything recorded since the
    /// flush before could not be written; events dropped at a full queue are counted only.
    pub fn flush(&self) -> Flush {
        self.queue.flush()
    }

    /// What has become of the events so far.
    #[must_use]
    pub fn stats(&self) -> RecorderStats {
        self.queue.stats()
    }
}

/// Removes what is too old and opens a new run.
fn begin_run(connection: &Connection, options: &StoreOptions) -> duckdb::Result<i64> {
    let now = Timestamp::now();
    let oldest = at(now.minus(options.keep));
    for table in Table::ALL.map(Table::name).into_iter().chain(["lost_events"]) {
        connection.execute(&format!("DELETE FROM {table} WHERE happened_at < ?"), params![oldest])?;
    }
    connection.execute("DELETE FROM runs WHERE ended_at < ?", params![oldest])?;
    let sql = "INSERT INTO runs SELECT coalesce(max(run), 0) + 1, ?, NULL, ?, ? FROM runs RETURNING run";
    connection.query_row(sql, params![at(now), rows::name(&options.program), std::process::id()], |row| row.get(0))
}

/// The thread's side of the store.
struct Writer {
    connection: Connection,
    run: i64,
    queue: Arc<Queue>,
    capacity: usize,
    interval: Duration,
    _lock: Option<Arc<FileLock>>,
}

/// Tells the queue that the thread is gone, also when it panics.
struct EndOnDrop(Arc<Queue>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Writer {
    fn work(self) {
        let _end = EndOnDrop(Arc::clone(&self.queue));
        let mut events = Vec::with_capacity(self.capacity);
        let mut lost = Lost::default();
        let mut failure = None;
        loop {
            let taken = self.queue.take(&mut events);
            lost.queue_full += taken.queue_full;
            let result = self.write_patiently(&events, &mut lost);
            self.queue.wrote(events.len(), &result);
            if let Err(error) = &result {
                lost.write_failed += events.len() as u64;
                tracing::warn!(events = events.len(), %error, "metrics lost");
                failure = Some(error.clone());
            }
            events.clear();
            if let Some(slot) = taken.flush {
                // A batch that failed just before the flush was asked for belongs to what it answers for.
                slot.complete(failure.take().map_or(Ok(()), Err));
            }
            if taken.closing {
                break;
            }
        }
        // What the last batch cost has had no later transaction to be noted in.
        if let Err(error) = self.write(&[], lost) {
            tracing::warn!(%error, "cannot note the last losses");
        }
        let ended = self
            .connection
            .execute("UPDATE runs SET ended_at = ? WHERE run = ?", params![at(Timestamp::now()), self.run]);
        if let Err(error) = ended {
            tracing::warn!(%error, "cannot note the end of the run");
        }
    }

    /// Tries a few times, an interval apart: a full disk may have room again a moment later.
    fn write_patiently(&self, events: &[Event], lost: &mut Lost) -> Result<(), FlushError> {
        let mut attempt = 1;
        loop {
            let Err(error) = self.write(events, *lost) else {
                *lost = Lost::default();
                return Ok(());
            };
            // After a failed statement the transaction is open and useless; rolling back has nothing left to lose.
            let _ = self.connection.execute_batch("ROLLBACK");
            if attempt == ATTEMPTS || self.queue.pause(self.interval) {
                return Err(FlushError::Write { message: error.to_string() });
            }
            attempt += 1;
        }
    }

    /// One transaction: all of the batch or none of it.
    fn write(&self, events: &[Event], lost: Lost) -> duckdb::Result<()> {
        if events.is_empty() && lost == Lost::default() {
            return Ok(());
        }
        self.connection.execute_batch("BEGIN TRANSACTION")?;
        for table in Table::ALL {
            let mut of_table = events.iter().filter(|event| Table::of(event) == table).peekable();
            if of_table.peek().is_none() {
                continue;
            }
            let mut appender = self.connection.appender(table.name())?;
            for event in of_table {
                rows::append(&mut appender, self.run, event)?;
            }
            appender.flush()?;
        }
        if lost != Lost::default() {
            self.connection.execute(
                "INSERT INTO lost_events VALUES (?, ?, ?, ?)",
                params![self.run, at(Timestamp::now()), lost.queue_full, lost.write_failed],
            )?;
        }
        self.connection.execute_batch("COMMIT")
    }
}

/// Losses not yet in the table `lost_events`.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Lost {
    queue_full: u64,
    write_failed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::PoolSample;

    fn sql<T: duckdb::types::FromSql>(store: &MetricsStore, sql: &str) -> T {
        let source = store.source.lock().expect("nobody panicked");
        source.query_row(sql, [], |row| row.get(0)).expect("a value")
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_store_goes_on() {
        const PATIENCE: Duration = Duration::from_secs(30);
        let options = StoreOptions::default().interval(Duration::from_millis(5));
        let store = MetricsStore::in_memory(options).expect("a store");
        let recorder = store.recorder();
        let sample = || PoolSample { at: Timestamp::now(), ..PoolSample::default() };
        let rename = |from: &str, to: &str| {
            let source = store.source.lock().expect("nobody panicked");
            source.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}")).expect("renamed");
        };

        rename("pool_samples", "elsewhere");
        recorder.record(sample());
        let failed = recorder.flush().wait(PATIENCE);
        assert!(
            matches!(&failed, Err(FlushError::Write { message }) if message.contains("pool_samples")),
            "{failed:?}"
        );
        rename("elsewhere", "pool_samples");
        recorder.record(sample());
        recorder.flush().wait(PATIENCE).expect("the next batch is written");

        let stats = recorder.stats();
        assert_eq!((stats.recorded, stats.written, stats.write_failed), (2, 1, 1));
        assert_eq!(sql::<i64>(&store, "SELECT count(*) FROM pool_samples"), 1);
        assert_eq!(sql::<i64>(&store, "SELECT sum(write_failed)::BIGINT FROM lost_events"), 1);
        let closed = store.close();
        assert!(matches!(closed, Err(FlushError::Write { .. })), "a loss is not forgotten at the end: {closed:?}");
    }
}
