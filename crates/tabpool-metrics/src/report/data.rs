//! The rows of a report's sections. Their field order is the column order of the SQL file of the same section.

use serde::Serialize;

use crate::event::Timestamp;

/// Counts over the whole choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Requests answered, however.
    pub requests: i64,
    /// Requests answered with a result.
    pub ok: i64,
    /// Requests that needed more than one try.
    pub retried: i64,
    /// Runs they belong to.
    pub runs: i64,
    /// When the first one was admitted.
    pub first: Option<Timestamp>,
    /// When the last one was answered.
    pub last: Option<Timestamp>,
    /// Events missing because the recorder's queue was full.
    pub events_dropped: i64,
    /// Events missing because the database could not be written.
    pub events_unwritten: i64,
}

/// How long requests took in one place. Times are in milliseconds, and absent where nothing was answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the quantities, with their units")]
pub struct Latency {
    pub model: String,
    pub browser: String,
    pub browser_version: String,
    pub adapter: String,
    pub api: String,
    pub precision: String,
    pub requests: i64,
    pub ok: i64,
    pub retried: i64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub compute_p50_ms: Option<f64>,
    pub compute_p95_ms: Option<f64>,
    pub compute_p99_ms: Option<f64>,
    pub queue_p50_ms: Option<f64>,
    pub queue_p95_ms: Option<f64>,
    pub transfer_p50_ms: Option<f64>,
    pub readback_p50_ms: Option<f64>,
    pub batch_mean: Option<f64>,
    /// Seconds with a request under way, pauses of up to a second included.
    pub active_s: f64,
    /// Answers per second of that time.
    pub requests_per_s: Option<f64>,
    pub tokens_per_s: Option<f64>,
}

/// One place where a model ran in a bucket.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the quantities, with their units")]
pub struct Contender {
    pub model: String,
    pub bucket_batch: i64,
    pub bucket_sequence: i64,
    pub browser: String,
    pub browser_version: String,
    pub adapter: String,
    pub api: String,
    pub precision: String,
    pub ok: i64,
    /// Median of total time less queue wait.
    pub service_p50_ms: f64,
    /// Times the fastest's median; 1 is the fastest.
    pub times_fastest: Option<f64>,
}

/// The newest run with at least 20 answers against the one before, in one place and bucket.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the quantities, with their units")]
pub struct Regression {
    pub model: String,
    pub browser: String,
    pub adapter: String,
    pub api: String,
    pub precision: String,
    pub bucket_batch: i64,
    pub bucket_sequence: i64,
    pub old_run: i64,
    pub new_run: i64,
    pub old_version: String,
    pub new_version: String,
    pub old_ok: i64,
    pub new_ok: i64,
    pub old_median_ms: f64,
    pub new_median_ms: f64,
    /// `slower` or `faster` when the medians of service time differ by a fifth or more and the middle halves do not
    /// overlap; otherwise `unchanged`.
    pub verdict: String,
}

/// One day, in UTC.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the quantities, with their units")]
pub struct Day {
    pub model: String,
    pub browser: String,
    pub api: String,
    pub precision: String,
    pub day: String,
    pub requests: i64,
    pub ok: i64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
}

/// Loads of one model in one kind of place.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the quantities, with their units")]
pub struct Loads {
    pub model: String,
    pub browser: String,
    pub browser_version: String,
    pub api: String,
    pub precision: String,
    pub loads: i64,
    pub ok: i64,
    pub bytes_fetched: i64,
    pub bytes_cached: i64,
    pub blocks_fetched: i64,
    pub blocks_cached: i64,
    pub fetch_p50_ms: Option<f64>,
    pub compile_p50_ms: Option<f64>,
    pub upload_p50_ms: Option<f64>,
    pub total_p50_ms: Option<f64>,
}

/// What happened to the connections of one browser.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the quantities, with their units")]
pub struct Connections {
    pub browser: String,
    pub browser_version: String,
    pub launched: i64,
    pub joined: i64,
    pub resumed: i64,
    pub lost: i64,
    pub restarting: i64,
    pub set_aside: i64,
    pub closed: i64,
    pub rejected: i64,
    pub start_up_p50_ms: Option<f64>,
    pub start_up_p95_ms: Option<f64>,
}

/// What was decided about one browser, model and API.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the quantities")]
pub struct Decided {
    pub decision: String,
    pub browser: String,
    pub model: String,
    pub api: String,
    pub times: i64,
    pub last_reason: String,
}

/// The highest values among the pool's samples; absent without samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the quantities, with their units")]
pub struct PoolPeaks {
    pub samples: i64,
    pub queue_length: Option<i64>,
    pub in_flight: Option<i64>,
    pub workers: Option<i64>,
    pub host_rss_bytes: Option<i64>,
    pub browsers_memory_bytes: Option<i64>,
}
