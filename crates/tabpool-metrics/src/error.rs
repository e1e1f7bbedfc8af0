//! The errors of opening, writing and reading, each with what a person needs to act on it.

use std::path::PathBuf;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Somebody else has the file: one process may write, or several may read.
    #[error("{} is in use by {}", path.display(), holder.as_deref().unwrap_or("another process"))]
    Locked {
        /// The database file.
        path: PathBuf,
        /// Who has it, as far as can be told.
        holder: Option<String>,
    },
    /// There is no such file to read.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The database file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not a DuckDB database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// A DuckDB database, but not one of ours.
    #[error("{} is a DuckDB database without tabpool's tables (it has {table:?})", path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
        /// One of the tables found there.
        table: String,
    },
    /// The file is cut short or its checksums do not match.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What DuckDB said.
        detail: String,
    },
    /// A later tabpool has migrated the file.
    #[error("{} has schema {found}, newer than {known}, the newest this program knows", path.display())]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// The schema version in the file.
        found: i64,
        /// The newest schema version of this program.
        known: i64,
    },
    /// The file must be migrated first, which reading alone may not do.
    #[error("{} has schema {found}, older than {known}, and is open for reading only", path.display())]
    OlderSchema {
        /// The database file.
        path: PathBuf,
        /// The schema version in the file.
        found: i64,
        /// The newest schema version of this program.
        known: i64,
    },
    /// A migration that the file went through is not the one this program has under that number.
    #[error("{} went through another migration {version} ({name}) than this program's", path.display())]
    ChangedMigration {
        /// The database file.
        path: PathBuf,
        /// The migration's number.
        version: i64,
        /// Its name in the file.
        name: String,
    },
    /// A migration failed; the file is as it was.
    #[error("migration {version} ({name}) of {} failed", path.display())]
    Migration {
        /// The database file.
        path: PathBuf,
        /// The migration's number.
        version: i64,
        /// The migration's name.
        name: &'static str,
        /// What DuckDB said.
        source: Box<duckdb::Error>,
    },
    /// The folder, the lock file or the writer thread could not be made.
    #[error("cannot {action} for {}", path.display())]
    Io {
        /// The database file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anything else DuckDB refuses.
    #[error("cannot open {}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What DuckDB said.
        source: duckdb::Error,
    },
}

impl OpenError {
    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Locked { .. } => Some("a pool is running; ask it over HTTP or stop it"),
            Self::Missing { .. } => Some("it appears once a pool has run with this data directory"),
            Self::NotADatabase { .. } | Self::Foreign { .. } => {
                Some("name another file, or move this one away and a new one is made")
            }
            Self::Damaged { .. } => Some("move the file and its .wal away and a new one is made"),
            Self::NewerSchema { .. } => Some("use the tabpool that wrote it, or a later one"),
            Self::OlderSchema { .. } => Some("start a pool once: it migrates the file"),
            Self::ChangedMigration { .. } => Some("the file comes from an unreleased build; move it away"),
            Self::Migration { .. } | Self::Io { .. } | Self::Database { .. } => None,
        }
    }
}

/// Why events could not be written. Cloneable because several waiters share one flush.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The batch could not be written, its events are counted as lost.
    #[error("cannot write metrics: {message}")]
    Write {
        /// What DuckDB said at the last attempt.
        message: String,
    },
    /// The store is closed, or its thread has ended.
    #[error("the metrics store is closed")]
    Closed,
    /// The writer did not get there in time.
    #[error("metrics are not written yet")]
    TimedOut,
}

/// Why a question could not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// DuckDB refused or failed.
    #[error("cannot read {what} from the metrics store")]
    Database {
        /// What was asked for.
        what: &'static str,
        /// What DuckDB said.
        source: duckdb::Error,
    },
    /// Free SQL needs a file opened for reading only, where DuckDB itself refuses to write.
    #[error("SQL of one's own runs only on a file opened for reading")]
    NotReadOnly,
    /// The store is closed.
    #[error("the metrics store is closed")]
    Closed,
}

impl QueryError {
    pub(crate) fn database(what: &'static str) -> impl FnOnce(duckdb::Error) -> Self {
        move |source| Self::Database { what, source }
    }
}
