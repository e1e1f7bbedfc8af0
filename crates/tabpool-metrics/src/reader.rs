//! Questions to the store: of a running pool through [`MetricsStore::reader`](crate::MetricsStore::reader), or of a file that
//! nobody writes.

use std::path::Path;
use std::sync::Arc;

use duckdb::Connection;
use duckdb::types::{TimeUnit, ValueRef};
use serde::Serialize;
use serde_json::Value as Json;

use crate::database::{Access, Database, FileLock};
use crate::error::{OpenError, QueryError};
use crate::migrate::migrate;

/// A connection that only asks. `Send`, not `Sync`: one per thread.
pub struct Reader {
    // Before the lock, so that the file is closed when the lock ends.
    pub(crate) connection: Connection,
    access: Access,
    _lock: Option<Arc<FileLock>>,
}

/// The answer to a question in SQL.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows, a value for each column.
    pub rows: Vec<Vec<Json>>,
    /// Whether there were more rows than asked for.
    pub more: bool,
}

impl Reader {
    /// Opens a file for reading. Several processes may do so at once, as long as none writes.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; [`OpenError::Locked`] while a pool runs.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let mut database = Database::open(path, Access::Read)?;
        migrate(&mut database.connection, path, Access::Read)?;
        Ok(Self { connection: database.connection, access: Access::Read, _lock: database.lock.map(Arc::new) })
    }

    pub(crate) fn of_running_store(connection: Connection, lock: Option<Arc<FileLock>>) -> Self {
        Self { connection, access: Access::Write, _lock: lock }
    }

    /// Runs SQL of one's own and gives at most `max_rows` rows. Only on a file from [`Reader::open`]: there DuckDB itself
    /// refuses every change, while a running store's connections could write.
    ///
    /// # Errors
    ///
    /// [`QueryError::NotReadOnly`] on a running store, [`QueryError::Database`] when the SQL is refused.
    pub fn sql(&self, sql: &str, max_rows: usize) -> Result<Answer, QueryError> {
        if self.access != Access::Read {
            return Err(QueryError::NotReadOnly);
        }
        let failed = || QueryError::database("the answer to a question in SQL");
        let mut statement = self.connection.prepare(sql).map_err(failed())?;
        let mut found = statement.query([]).map_err(failed())?;
        let mut answer = Answer { columns: Vec::new(), rows: Vec::new(), more: false };
        while let Some(row) = found.next().map_err(failed())? {
            if answer.rows.len() == max_rows {
                answer.more = true;
                break;
            }
            let width = row.as_ref().column_count();
            let cells = (0..width).map(|index| row.get_ref(index).map(json)).collect::<duckdb::Result<_>>();
            answer.rows.push(cells.map_err(failed())?);
        }
        drop(found);
        answer.columns = statement.column_names();
        Ok(answer)
    }
}

/// Numbers that JSON cannot hold and types with no counterpart become text.
fn json(value: ValueRef<'_>) -> Json {
    match value {
        ValueRef::Null => Json::Null,
        ValueRef::Boolean(value) => value.into(),
        ValueRef::TinyInt(value) => value.into(),
        ValueRef::SmallInt(value) => value.into(),
        ValueRef::Int(value) => value.into(),
        ValueRef::BigInt(value) => value.into(),
        ValueRef::UTinyInt(value) => value.into(),
        ValueRef::USmallInt(value) => value.into(),
        ValueRef::UInt(value) => value.into(),
        ValueRef::UBigInt(value) => value.into(),
        ValueRef::HugeInt(value) => i64::try_from(value).map_or_else(|_| value.to_string().into(), Json::from),
        ValueRef::Float(value) => value.into(),
        ValueRef::Double(value) => value.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Timestamp(TimeUnit::Microsecond, micros) => crate::calendar::text(micros).into(),
        other => format!("{:?}", other.to_owned()).into(),
    }
}
