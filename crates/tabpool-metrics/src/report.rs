//! A report: plain data out of SQL, before anything is rendered.
//!
//! Each section is one `.sql` file beside this one, run over the rows a [`ReportFilter`] chooses. Quantiles are DuckDB's
//! `quantile_cont`: linear between the two nearest values. Latencies count answered requests only; errors are counted, not
//! averaged. Rendering is in the sibling modules and knows nothing of the database.

mod data;
mod html;
mod markdown;
mod sections;
mod text;

use duckdb::types::{TimeUnit, Value};
use duckdb::{Row, params_from_iter};
use serde::Serialize;

pub use data::{Connections, Contender, Day, Decided, Latency, Loads, PoolPeaks, Regression, Totals};

use crate::error::QueryError;
use crate::event::{Api, Timestamp};
use crate::reader::Reader;

/// Rows of one section; the SQL asks for one more, to tell whether there are more.
const MAX_ROWS: usize = 1000;

/// Which rows a report is about. The default is everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReportFilter {
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// One browser.
    pub browser: Option<String>,
    /// One run. A regression needs two, so that section is empty then.
    pub run: Option<i64>,
    /// One model; connections and pool samples have none and are not filtered by it.
    pub model: Option<String>,
    /// One API; as for the model.
    pub api: Option<Api>,
}

impl ReportFilter {
    fn times(&self) -> [Value; 2] {
        [self.since, self.until]
            .map(|time| time.map_or(Value::Null, |time| Value::Timestamp(TimeUnit::Microsecond, time.as_micros())))
    }

    /// Parameters of sections that know time and run only.
    fn of_pool(&self) -> Vec<Value> {
        let [since, until] = self.times();
        vec![since, until, self.run.into()]
    }

    /// Parameters of sections that know the browser too.
    fn of_browser(&self) -> Vec<Value> {
        let [since, until] = self.times();
        vec![since, until, self.browser.clone().into(), self.run.into()]
    }

    /// Parameters of sections that know everything.
    fn of_model(&self) -> Vec<Value> {
        let api = self.api.map(|api| api.as_str().to_owned());
        self.of_browser().into_iter().chain([self.model.clone().into(), api.into()]).collect()
    }
}

/// Everything in one place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// When it was made.
    pub generated_at: Timestamp,
    /// What it is about.
    pub filter: ReportFilter,
    /// Over all groups.
    pub totals: Totals,
    /// Per model, browser, version, adapter, API and precision.
    pub latency: Vec<Latency>,
    /// Who is fastest, for each model and bucket that ran in more than one place.
    pub comparison: Vec<Contender>,
    /// The newest run against the one before.
    pub regressions: Vec<Regression>,
    /// Per model, browser, API and day.
    pub trend: Vec<Day>,
    /// Model loads per model, browser, version, API and precision.
    pub loads: Vec<Loads>,
    /// Connections per browser and version.
    pub connections: Vec<Connections>,
    /// What the pool decided, per decision, browser, model and API.
    pub decisions: Vec<Decided>,
    /// The pool's peaks.
    pub pool: PoolPeaks,
    /// Sections that had more rows than are listed.
    pub truncated: Vec<&'static str>,
}

const INFERENCES: &str = include_str!("report/sql/inferences.sql");

impl Report {
    /// Asks the database. Blocks while it answers.
    ///
    /// # Errors
    ///
    /// [`QueryError::Database`], naming the section.
    pub fn build(reader: &Reader, filter: ReportFilter) -> Result<Self, QueryError> {
        let of_inferences = |sql: &str| format!("{INFERENCES}{sql}");
        let mut truncated = Vec::new();
        let model = filter.of_model();
        let totals = totals(reader, &filter)?;
        let sql = of_inferences(include_str!("report/sql/latency.sql"));
        let latency = section(reader, "latency", &sql, &model, latency_row, &mut truncated)?;
        let sql = of_inferences(include_str!("report/sql/comparison.sql"));
        let comparison = section(reader, "comparison", &sql, &model, contender_row, &mut truncated)?;
        let sql = of_inferences(include_str!("report/sql/regressions.sql"));
        let regressions = section(reader, "regressions", &sql, &model, regression_row, &mut truncated)?;
        let sql = of_inferences(include_str!("report/sql/trend.sql"));
        let trend = section(reader, "trend", &sql, &model, day_row, &mut truncated)?;
        let sql = include_str!("report/sql/loads.sql");
        let loads = section(reader, "loads", sql, &model, loads_row, &mut truncated)?;
        let sql = include_str!("report/sql/connections.sql");
        let connections = section(reader, "connections", sql, &filter.of_browser(), connections_row, &mut truncated)?;
        let sql = include_str!("report/sql/decisions.sql");
        let decisions = section(reader, "decisions", sql, &filter.of_browser(), decided_row, &mut truncated)?;
        let pool = one(reader, "pool", include_str!("report/sql/pool.sql"), &filter.of_pool(), pool_row)?;
        Ok(Self {
            generated_at: Timestamp::now(),
            filter,
            totals,
            latency,
            comparison,
            regressions,
            trend,
            loads,
            connections,
            decisions,
            pool,
            truncated,
        })
    }

    /// Tables for a terminal of `width` columns. Long names are shortened to fit, numbers never. No colours, and no
    /// character of a name reaches the terminal as a control sequence.
    #[must_use]
    pub fn render_text(&self, width: usize) -> String {
        text::render(self, width)
    }

    /// GitHub-flavoured Markdown.
    #[must_use]
    pub fn render_markdown(&self) -> String {
        markdown::render(self)
    }

    /// One self-contained HTML page with charts in SVG, without scripts or requests to anywhere.
    #[must_use]
    pub fn render_html(&self) -> String {
        html::render(self)
    }

    /// The data itself, for programs.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        // Only maps with keys other than text and failing `Serialize` implementations can fail, and there are none here.
        serde_json::to_value(self).unwrap_or_default()
    }
}

fn totals(reader: &Reader, filter: &ReportFilter) -> Result<Totals, QueryError> {
    let sql = format!("{INFERENCES}{}", include_str!("report/sql/totals.sql"));
    let totals = one(reader, "totals", &sql, &filter.of_model(), |row| {
        let time = |micros: Option<i64>| micros.map(Timestamp::from_micros);
        Ok(Totals {
            requests: row.get(0)?,
            ok: row.get(1)?,
            retried: row.get(2)?,
            runs: row.get(3)?,
            first: time(row.get(4)?),
            last: time(row.get(5)?),
            ..Totals::default()
        })
    })?;
    let lost = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let (events_dropped, events_unwritten) =
        one(reader, "lost events", include_str!("report/sql/lost.sql"), &filter.of_pool(), lost)?;
    Ok(Totals { events_dropped, events_unwritten, ..totals })
}

fn one<T>(
    reader: &Reader,
    what: &'static str,
    sql: &str,
    parameters: &[Value],
    map: impl FnOnce(&Row<'_>) -> duckdb::Result<T>,
) -> Result<T, QueryError> {
    reader.connection.query_row(sql, params_from_iter(parameters), map).map_err(QueryError::database(what))
}

fn section<T>(
    reader: &Reader,
    what: &'static str,
    sql: &str,
    parameters: &[Value],
    map: fn(&Row<'_>) -> duckdb::Result<T>,
    truncated: &mut Vec<&'static str>,
) -> Result<Vec<T>, QueryError> {
    let found: duckdb::Result<Vec<T>> = reader
        .connection
        .prepare(sql)
        .and_then(|mut statement| statement.query_map(params_from_iter(parameters), map)?.collect());
    let mut rows = found.map_err(QueryError::database(what))?;
    if rows.len() > MAX_ROWS {
        rows.truncate(MAX_ROWS);
        truncated.push(what);
    }
    Ok(rows)
}

/// Fills a struct from the columns in order: the SELECT lists them as the struct does.
macro_rules! in_order {
    ($function:ident, $kind:ident { $($field:ident),+ $(,)? }) => {
        fn $function(row: &Row<'_>) -> duckdb::Result<$kind> {
            let mut columns = 0..;
            let mut next = || columns.next().unwrap_or(usize::MAX);
            Ok($kind { $($field: row.get(next())?),+ })
        }
    };
}

in_order!(
    latency_row,
    Latency {
        model,
        browser,
        browser_version,
        adapter,
        api,
        precision,
        requests,
        ok,
        retried,
        p50_ms,
        p95_ms,
        p99_ms,
        compute_p50_ms,
        compute_p95_ms,
        compute_p99_ms,
        queue_p50_ms,
        queue_p95_ms,
        transfer_p50_ms,
        readback_p50_ms,
        batch_mean,
        active_s,
        requests_per_s,
        tokens_per_s,
    }
);
in_order!(
    contender_row,
    Contender {
        model,
        bucket_batch,
        bucket_sequence,
        browser,
        browser_version,
        adapter,
        api,
        precision,
        ok,
        service_p50_ms,
        times_fastest,
    }
);
in_order!(
    regression_row,
    Regression {
        model,
        browser,
        adapter,
        api,
        precision,
        bucket_batch,
        bucket_sequence,
        old_run,
        new_run,
        old_version,
        new_version,
        old_ok,
        new_ok,
        old_median_ms,
        new_median_ms,
        verdict,
    }
);
in_order!(day_row, Day { model, browser, api, precision, day, requests, ok, p50_ms, p95_ms });
in_order!(
    loads_row,
    Loads {
        model,
        browser,
        browser_version,
        api,
        precision,
        loads,
        ok,
        bytes_fetched,
        bytes_cached,
        blocks_fetched,
        blocks_cached,
        fetch_p50_ms,
        compile_p50_ms,
        upload_p50_ms,
        total_p50_ms,
    }
);
in_order!(
    connections_row,
    Connections {
        browser,
        browser_version,
        launched,
        joined,
        resumed,
        lost,
        restarting,
        set_aside,
        closed,
        rejected,
        start_up_p50_ms,
        start_up_p95_ms,
    }
);
in_order!(decided_row, Decided { decision, browser, model, api, times, last_reason });
in_order!(pool_row, PoolPeaks { samples, queue_length, in_flight, workers, host_rss_bytes, browsers_memory_bytes });
