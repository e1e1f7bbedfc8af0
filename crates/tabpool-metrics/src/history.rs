//! How long models took in earlier runs, by browser and API: where the next run begins.

use std::time::Duration;

use crate::error::QueryError;
use crate::event::Bucket;
use crate::reader::Reader;

/// The newest requests of a sort that count: a new driver or browser shows within so many.
const NEWEST: usize = 50;
/// Fewer say nothing yet: the first ones of a device are not like the others.
const LEAST: usize = 3;
/// Rows read at most, the newest first.
const MOST_ROWS: usize = 8192;

/// What a program of a model took on a sort of worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastLatency {
    /// The CID of the model's folder.
    pub model_cid: String,
    /// The browser, or `native`.
    pub browser: String,
    /// The API, by the name it is stored under.
    pub api: String,
    /// The precision, by the name it is stored under.
    pub precision: String,
    /// The program's bucket.
    pub bucket: Bucket,
    /// The median of computing and reading back.
    pub compute: Duration,
}

impl Reader {
    /// What every sort of request took of late, where there were enough of it.
    ///
    /// # Errors
    ///
    /// [`QueryError::Database`].
    pub fn past_latencies(&self) -> Result<Vec<PastLatency>, QueryError> {
        let failed = || QueryError::database("the latencies of earlier runs");
        let mut statement = self.connection.prepare(include_str!("history/latencies.sql")).map_err(failed())?;
        let mut rows = statement.query([NEWEST, LEAST, MOST_ROWS]).map_err(failed())?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(failed())? {
            let text = |index: usize| row.get::<_, String>(index).map_err(failed());
            let size = |index: usize| row.get::<_, u32>(index).map_err(failed());
            let micros: i64 = row.get(6).map_err(failed())?;
            found.push(PastLatency {
                model_cid: text(0)?,
                browser: text(1)?,
                api: text(2)?,
                precision: text(3)?,
                bucket: Bucket { batch: size(4)?, sequence: size(5)? },
                compute: Duration::from_micros(micros.unsigned_abs()),
            });
        }
        Ok(found)
    }
}
