//! A report as titled tables of cells: what all renderers have in common, so that they differ in syntax only.

use super::{Report, Totals};
use crate::calendar;
use crate::event::Timestamp;

/// A cell: text may come from outside and may be shortened, a number is ours and never is.
pub(super) enum Cell {
    Text(String),
    Number(String),
}

impl Cell {
    pub(super) fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Number(content) => content,
        }
    }
}

/// A titled table.
pub(super) struct Section {
    pub(super) title: &'static str,
    /// How to read it.
    pub(super) note: &'static str,
    pub(super) head: &'static [&'static str],
    pub(super) rows: Vec<Vec<Cell>>,
}

/// The sections that have rows, in the order in which they are read.
pub(super) fn sections(report: &Report) -> Vec<Section> {
    let all = [
        latency(report),
        comparison(report),
        regressions(report),
        loads(report),
        connections(report),
        decisions(report),
        trend(report),
        pool(report),
    ];
    all.into_iter().filter(|section| !section.rows.is_empty()).collect()
}

/// The sentences above the tables.
pub(super) fn summary(report: &Report) -> Vec<String> {
    let Totals { requests, ok, retried, runs, first, last, events_dropped, events_unwritten } = &report.totals;
    if *requests == 0 {
        return vec!["No inference was recorded.".to_owned()];
    }
    let time = |time: &Option<Timestamp>| {
        let text = calendar::text(time.unwrap_or_default().as_micros());
        text.split('.').next().unwrap_or_default().to_owned()
    };
    let failed = requests - ok;
    let mut lines = vec![format!(
        "{requests} requests in {runs} runs from {} to {} UTC: {ok} answered, {failed} failed, {retried} tried again.",
        time(first),
        time(last)
    )];
    if events_dropped + events_unwritten > 0 {
        lines.push(format!(
            "Incomplete: {events_dropped} events were dropped at a full queue, {events_unwritten} could not be written."
        ));
    }
    if !report.truncated.is_empty() {
        lines.push(format!("Only the first 1000 rows are listed of: {}.", report.truncated.join(", ")));
    }
    lines
}

fn latency(report: &Report) -> Section {
    let row = |row: &super::Latency| {
        vec![
            text(&row.model),
            place(&row.browser, &row.browser_version),
            text(&row.adapter),
            place(&row.api, &row.precision),
            int(row.requests),
            int(row.requests - row.ok),
            ms(row.p50_ms),
            ms(row.p95_ms),
            ms(row.p99_ms),
            ms(row.compute_p50_ms),
            ms(row.compute_p95_ms),
            ms(row.queue_p50_ms),
            ms(row.requests_per_s),
        ]
    };
    Section {
        title: "Latency",
        note: "Milliseconds from admission to answer, answered requests only; per second of active time.",
        head: &[
            "model",
            "browser",
            "adapter",
            "api",
            "requests",
            "failed",
            "p50",
            "p95",
            "p99",
            "compute p50",
            "compute p95",
            "queue p50",
            "req/s",
        ],
        rows: report.latency.iter().map(row).collect(),
    }
}

fn comparison(report: &Report) -> Section {
    let row = |row: &super::Contender| {
        vec![
            text(&row.model),
            bucket(row.bucket_batch, row.bucket_sequence),
            place(&row.browser, &row.browser_version),
            text(&row.adapter),
            place(&row.api, &row.precision),
            int(row.ok),
            ms(Some(row.service_p50_ms)),
            ms(row.times_fastest),
        ]
    };
    Section {
        title: "Comparison",
        note: "The same model in the same bucket (batch x length): median milliseconds without the wait in the queue.",
        head: &["model", "bucket", "browser", "adapter", "api", "answers", "p50", "x fastest"],
        rows: report.comparison.iter().map(row).collect(),
    }
}

fn regressions(report: &Report) -> Section {
    let row = |row: &super::Regression| {
        let versions = if row.old_version == row.new_version {
            text(&row.new_version)
        } else {
            text(&format!("{} to {}", row.old_version, row.new_version))
        };
        vec![
            text(&row.verdict),
            text(&row.model),
            bucket(row.bucket_batch, row.bucket_sequence),
            text(&row.browser),
            versions,
            text(&row.adapter),
            place(&row.api, &row.precision),
            Cell::Number(format!("{} to {}", row.old_run, row.new_run)),
            ms(Some(row.old_median_ms)),
            ms(Some(row.new_median_ms)),
        ]
    };
    Section {
        title: "Newest run against the one before",
        note: "Slower or faster: medians differ by a fifth or more and the middle halves do not overlap; runs with 20 or \
               more answers, milliseconds without the wait in the queue.",
        head: &["verdict", "model", "bucket", "browser", "version", "adapter", "api", "runs", "before", "now"],
        rows: report.regressions.iter().map(row).collect(),
    }
}

fn loads(report: &Report) -> Section {
    let row = |row: &super::Loads| {
        vec![
            text(&row.model),
            place(&row.browser, &row.browser_version),
            place(&row.api, &row.precision),
            int(row.loads),
            int(row.loads - row.ok),
            bytes(Some(row.bytes_fetched)),
            bytes(Some(row.bytes_cached)),
            ms(row.fetch_p50_ms),
            ms(row.compile_p50_ms),
            ms(row.upload_p50_ms),
            ms(row.total_p50_ms),
        ]
    };
    Section {
        title: "Model loads",
        note: "Weights that came from the host and weights the worker still had; median milliseconds.",
        head: &[
            "model", "browser", "api", "loads", "failed", "fetched", "cached", "fetch", "compile", "upload", "total",
        ],
        rows: report.loads.iter().map(row).collect(),
    }
}

fn connections(report: &Report) -> Section {
    let row = |row: &super::Connections| {
        vec![
            place(&row.browser, &row.browser_version),
            int(row.launched),
            int(row.joined),
            int(row.resumed),
            int(row.lost),
            int(row.restarting),
            int(row.set_aside),
            int(row.closed),
            int(row.rejected),
            ms(row.start_up_p50_ms),
            ms(row.start_up_p95_ms),
        ]
    };
    Section {
        title: "Connections",
        note: "How often each happened; start-up in milliseconds from the start of the process to the handshake.",
        head: &[
            "browser",
            "launched",
            "joined",
            "resumed",
            "lost",
            "restarted",
            "set aside",
            "closed",
            "rejected",
            "start-up p50",
            "start-up p95",
        ],
        rows: report.connections.iter().map(row).collect(),
    }
}

fn decisions(report: &Report) -> Section {
    let row = |row: &super::Decided| {
        vec![
            text(&row.decision),
            text(&row.browser),
            text(&row.model),
            text(&row.api),
            int(row.times),
            text(&row.last_reason),
        ]
    };
    Section {
        title: "Decisions",
        note: "What the pool decided by itself, how often, and why the last time.",
        head: &["decision", "browser", "model", "api", "times", "last reason"],
        rows: report.decisions.iter().map(row).collect(),
    }
}

fn trend(report: &Report) -> Section {
    let row = |row: &super::Day| {
        vec![
            text(&row.model),
            text(&row.browser),
            place(&row.api, &row.precision),
            Cell::Number(row.day.clone()),
            int(row.requests),
            int(row.requests - row.ok),
            ms(row.p50_ms),
            ms(row.p95_ms),
        ]
    };
    Section {
        title: "By day",
        note: "Milliseconds from admission to answer; days in UTC.",
        head: &["model", "browser", "api", "day", "requests", "failed", "p50", "p95"],
        rows: report.trend.iter().map(row).collect(),
    }
}

fn pool(report: &Report) -> Section {
    let pool = &report.pool;
    let rows = if pool.samples == 0 {
        Vec::new()
    } else {
        let count = |value: Option<i64>| value.map_or_else(none, int);
        vec![vec![
            int(pool.samples),
            count(pool.workers),
            count(pool.queue_length),
            count(pool.in_flight),
            bytes(pool.host_rss_bytes),
            bytes(pool.browsers_memory_bytes),
        ]]
    };
    Section {
        title: "Pool at its highest",
        note: "The largest value of each among the samples.",
        head: &["samples", "workers", "queue", "in flight", "host memory", "browsers' memory"],
        rows,
    }
}

fn text(content: &str) -> Cell {
    Cell::Text(content.to_owned())
}

fn place(what: &str, detail: &str) -> Cell {
    Cell::Text(format!("{what} {detail}").trim_end().to_owned())
}

fn bucket(batch: i64, sequence: i64) -> Cell {
    Cell::Number(format!("{batch}x{sequence}"))
}

fn none() -> Cell {
    Cell::Number("-".to_owned())
}

fn int(value: i64) -> Cell {
    Cell::Number(value.to_string())
}

fn ms(value: Option<f64>) -> Cell {
    value.map_or_else(none, |value| Cell::Number(decimal(value)))
}

/// Three figures that matter, without an exponent.
pub(super) fn decimal(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
fn bytes(value: Option<i64>) -> Cell {
    let Some(value) = value else { return none() };
    let mut size = value as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    Cell::Number(if unit == "B" { format!("{value} B") } else { format!("{} {unit}", decimal(size)) })
}

/// A name from outside with everything visible: control characters and those that reorder text become `\u{…}`, so that it
/// can neither steer a terminal nor break a table.
pub(super) fn visible(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    for letter in content.chars() {
        let reorders = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let breaks = matches!(letter, '\u{2028}' | '\u{2029}');
        if letter.is_control() || reorders || breaks {
            out.extend(letter.escape_unicode());
        } else {
            out.push(letter);
        }
    }
    out
}
