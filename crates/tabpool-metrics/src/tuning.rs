//! The tunings in force: the newest one of each class of work on each adapter.

use std::time::Duration;

use crate::error::QueryError;
use crate::event::{Adapter, Api};
use crate::reader::Reader;

/// Rows read at most; the newest tunings come first. About thirty adapters with a hundred classes of ten variants each.
const MOST_ROWS: usize = 32_768;

/// A device as tuning tells devices apart: any difference in driver, browser or version may change which variant wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TuningKey {
    /// The browser, or `native`.
    pub browser: String,
    /// Its full version.
    pub browser_version: String,
    /// The operating system.
    pub os: String,
    /// The adapter; natively its description holds the driver and its version.
    pub adapter: Adapter,
    /// The API, by the name it is stored under.
    pub api: String,
}

impl TuningKey {
    /// The API, where this program knows it.
    #[must_use]
    pub fn api(&self) -> Option<Api> {
        [Api::WebGpu, Api::WebNn, Api::Cpu].into_iter().find(|api| api.as_str() == self.api)
    }
}

/// What one class of work on one device was tuned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TuningInForce {
    /// The device.
    pub key: TuningKey,
    /// The kernel and its class of shapes.
    pub class: String,
    /// The variant that won.
    pub variant: String,
    /// Every variant that was timed, fastest first; those that failed come last.
    pub timings: Vec<(String, Option<Duration>)>,
}

impl Reader {
    /// The tunings in force, ordered by device and class.
    ///
    /// # Errors
    ///
    /// [`QueryError::Database`].
    pub fn tunings(&self) -> Result<Vec<TuningInForce>, QueryError> {
        let failed = || QueryError::database("the kernel timings");
        let mut statement = self.connection.prepare(include_str!("tuning/in_force.sql")).map_err(failed())?;
        let mut rows = statement.query([MOST_ROWS]).map_err(failed())?;
        let mut found: Vec<TuningInForce> = Vec::new();
        while let Some(row) = rows.next().map_err(failed())? {
            let text = |index: usize| row.get::<_, String>(index).map_err(failed());
            let key = TuningKey {
                browser: text(0)?,
                browser_version: text(1)?,
                os: text(2)?,
                adapter: Adapter { vendor: text(3)?, architecture: text(4)?, description: text(5)? },
                api: text(6)?,
            };
            let (class, variant) = (text(7)?, text(8)?);
            let time = row.get::<_, Option<u64>>(9).map_err(failed())?.map(Duration::from_nanos);
            let won: bool = row.get(10).map_err(failed())?;
            let goes_on = found.last().is_some_and(|last| last.key == key && last.class == class);
            if !goes_on {
                found.push(TuningInForce { key, class, variant: String::new(), timings: Vec::new() });
            }
            if let Some(tuning) = found.last_mut() {
                if won {
                    tuning.variant.clone_from(&variant);
                }
                tuning.timings.push((variant, time));
            }
        }
        // A tuning cut off by the limit may have lost its winner.
        found.retain(|tuning| !tuning.variant.is_empty());
        Ok(found)
    }
}
