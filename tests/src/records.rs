//! What a pool's database says once the pool has closed.

use std::path::Path;

use serde_json::Value;
use tabpool_metrics::Reader;

use crate::Fault;

/// More rows than any case looks for.
const MOST_ROWS: usize = 10_000;

/// The database of a data directory, after its pool has closed.
pub struct Records(Reader);

impl Records {
    /// Opens it.
    ///
    /// # Errors
    /// While a pool writes it, or where there is none.
    pub fn open(data: &Path) -> Result<Self, Fault> {
        Ok(Self(Reader::open(data.join("metrics.duckdb"))?))
    }

    /// The rows of a question in SQL.
    ///
    /// # Errors
    /// Where the question is no SQL.
    pub fn rows(&self, sql: &str) -> Result<Vec<Vec<Value>>, Fault> {
        Ok(self.0.sql(sql, MOST_ROWS)?.rows)
    }

    /// The one number that answers a question in SQL.
    ///
    /// # Errors
    /// Where the answer is not one number.
    pub fn number(&self, sql: &str) -> Result<i64, Fault> {
        let rows = self.rows(sql)?;
        let number = rows.first().and_then(|row| row.first()).and_then(Value::as_i64);
        Ok(number.ok_or_else(|| format!("{sql}: {rows:?} is not one number"))?)
    }
}
