//! How an event becomes a row: the only file that knows the tables' column order.
//!
//! Text is cleaned here: NUL becomes U+2400 (C programs reading the file would cut the string there) and anything past a
//! limit is cut on a character's edge, because names and messages may come from a page we do not control. For the same
//! reason times stay within the calendar and durations within a year: a worker that claims to have computed for 300 000
//! years would otherwise overflow the sums of every report.

use std::borrow::Cow;
use std::time::Duration;

use duckdb::types::{TimeUnit, Value};
use duckdb::{Appender, ToSql, params};

use crate::event::{
    Connection, Decision, Event, Inference, KernelTuning, ModelLoad, Outcome, PoolSample, Timestamp, WorkerIdentity,
    micros,
};

/// Names, versions, ids.
const NAME_BYTES: usize = 512;
/// Messages and reasons.
const MESSAGE_BYTES: usize = 4096;
/// A year, in microseconds.
const LONGEST_US: i64 = 365 * 86_400 * 1_000_000;
/// The end of the year 9999, in microseconds since the epoch.
const LAST_US: i64 = 253_402_300_799_999_999;

/// The tables that events go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Inferences,
    Connections,
    ModelLoads,
    PoolSamples,
    KernelTimings,
    Decisions,
}

impl Table {
    pub(crate) const ALL: [Self; 6] = [
        Self::Inferences,
        Self::Connections,
        Self::ModelLoads,
        Self::PoolSamples,
        Self::KernelTimings,
        Self::Decisions,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Inferences => "inferences",
            Self::Connections => "connections",
            Self::ModelLoads => "model_loads",
            Self::PoolSamples => "pool_samples",
            Self::KernelTimings => "kernel_timings",
            Self::Decisions => "decisions",
        }
    }

    pub(crate) const fn of(event: &Event) -> Self {
        match event {
            Event::Inference(_) => Self::Inferences,
            Event::Connection(_) => Self::Connections,
            Event::ModelLoad(_) => Self::ModelLoads,
            Event::PoolSample(_) => Self::PoolSamples,
            Event::KernelTuning(_) => Self::KernelTimings,
            Event::Decision(_) => Self::Decisions,
        }
    }
}

/// Appends one event to the appender of its table.
pub(crate) fn append(appender: &mut Appender<'_>, run: i64, event: &Event) -> duckdb::Result<()> {
    match event {
        Event::Inference(event) => inference(appender, run, event),
        Event::Connection(event) => connection(appender, run, event),
        Event::ModelLoad(event) => model_load(appender, run, event),
        Event::PoolSample(event) => pool_sample(appender, run, event),
        Event::KernelTuning(event) => kernel_tuning(appender, run, event),
        Event::Decision(event) => decision(appender, run, event),
    }
}

fn inference(appender: &mut Appender<'_>, run: i64, event: &Inference) -> duckdb::Result<()> {
    let who = Who::of(&event.worker);
    let (outcome, code, message) = outcome(&event.outcome);
    appender.append_row(params![
        run,
        at(event.at),
        event.request,
        name(&event.model.name),
        name(&event.model.cid),
        int(event.bucket.batch),
        int(event.bucket.sequence),
        int(event.batch_used),
        event.tokens,
        who.worker,
        who.session,
        who.browser,
        who.browser_version,
        who.os,
        who.vendor,
        who.architecture,
        who.description,
        event.api.as_str(),
        event.precision.as_str(),
        span(event.queue_wait),
        span(event.transfer),
        span(event.compute),
        span(event.readback),
        span(event.total),
        big(event.bytes_in),
        big(event.bytes_out),
        int(event.attempts),
        outcome,
        code,
        message,
    ] as &[&dyn ToSql])
}

fn connection(appender: &mut Appender<'_>, run: i64, event: &Connection) -> duckdb::Result<()> {
    let who = Who::of(&event.worker);
    appender.append_row(params![
        run,
        at(event.at),
        who.worker,
        who.session,
        event.slot.map(int),
        who.browser,
        who.browser_version,
        who.os,
        who.vendor,
        who.architecture,
        who.description,
        name(&event.profile),
        event.event.as_str(),
        clean(&event.reason, MESSAGE_BYTES),
        event.pid,
        event.start_up.map(span),
    ] as &[&dyn ToSql])
}

fn model_load(appender: &mut Appender<'_>, run: i64, event: &ModelLoad) -> duckdb::Result<()> {
    let who = Who::of(&event.worker);
    let (outcome, code, message) = outcome(&event.outcome);
    appender.append_row(params![
        run,
        at(event.at),
        name(&event.model.name),
        name(&event.model.cid),
        who.worker,
        who.session,
        who.browser,
        who.browser_version,
        who.os,
        who.vendor,
        who.architecture,
        who.description,
        event.api.as_str(),
        big(event.bytes_fetched),
        big(event.bytes_cached),
        event.blocks_fetched,
        event.blocks_cached,
        span(event.fetch),
        span(event.compile),
        span(event.upload),
        span(event.total),
        outcome,
        code,
        message,
        event.precision.as_str(),
    ] as &[&dyn ToSql])
}

fn pool_sample(appender: &mut Appender<'_>, run: i64, event: &PoolSample) -> duckdb::Result<()> {
    appender.append_row(params![
        run,
        at(event.at),
        int(event.workers_starting),
        int(event.workers_idle),
        int(event.workers_busy),
        int(event.workers_draining),
        int(event.workers_set_aside),
        event.queue_length,
        event.in_flight,
        big(event.accepted_total),
        big(event.finished_total),
        big(event.failed_total),
        big(event.host_rss_bytes),
        big(event.browsers_memory_bytes),
    ] as &[&dyn ToSql])
}

fn decision(appender: &mut Appender<'_>, run: i64, event: &Decision) -> duckdb::Result<()> {
    let who = Who::of(&event.worker);
    appender.append_row(params![
        run,
        at(event.at),
        event.kind.as_str(),
        event.slot.map(int),
        who.worker,
        who.session,
        who.browser,
        who.browser_version,
        name(&event.model.name),
        event.api.map(|api| api.as_str()),
        clean(&event.reason, MESSAGE_BYTES),
    ] as &[&dyn ToSql])
}

/// One row for each variant. A winner that was not timed, the only one there was, is a row without a time.
fn kernel_tuning(appender: &mut Appender<'_>, run: i64, event: &KernelTuning) -> duckdb::Result<()> {
    let who = Who::of(&event.worker);
    let untimed = event.timings.iter().all(|(variant, _)| *variant != event.winner);
    let rows = event.timings.iter().map(|(variant, time)| (variant, *time));
    for (variant, time) in rows.chain(untimed.then_some((&event.winner, None))) {
        appender.append_row(params![
            run,
            at(event.at),
            who.browser,
            who.browser_version,
            who.os,
            who.vendor,
            who.architecture,
            who.description,
            event.api.as_str(),
            name(&event.class),
            name(variant),
            time.map(|time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)),
            *variant == event.winner,
        ] as &[&dyn ToSql])?;
    }
    Ok(())
}

/// The columns that most tables have in common.
struct Who<'a> {
    worker: Cow<'a, str>,
    session: Cow<'a, str>,
    browser: Cow<'a, str>,
    browser_version: Cow<'a, str>,
    os: Cow<'a, str>,
    vendor: Cow<'a, str>,
    architecture: Cow<'a, str>,
    description: Cow<'a, str>,
}

impl<'a> Who<'a> {
    fn of(identity: &'a WorkerIdentity) -> Self {
        Self {
            worker: name(&identity.worker),
            session: name(&identity.session),
            browser: name(&identity.browser),
            browser_version: name(&identity.browser_version),
            os: name(&identity.os),
            vendor: name(&identity.adapter.vendor),
            architecture: name(&identity.adapter.architecture),
            description: name(&identity.adapter.description),
        }
    }
}

fn outcome(outcome: &Outcome) -> (&'static str, Option<Cow<'_, str>>, Option<Cow<'_, str>>) {
    match outcome {
        Outcome::Failed { code, message } => (outcome.as_str(), Some(name(code)), Some(clean(message, MESSAGE_BYTES))),
        Outcome::Ok | Outcome::TimedOut | Outcome::Cancelled => (outcome.as_str(), None, None),
    }
}

pub(crate) fn at(time: Timestamp) -> Value {
    Value::Timestamp(TimeUnit::Microsecond, time.as_micros().clamp(0, LAST_US))
}

fn span(duration: Duration) -> i64 {
    micros(duration).min(LONGEST_US)
}

fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn big(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn name(text: &str) -> Cow<'_, str> {
    clean(text, NAME_BYTES)
}

fn clean(text: &str, limit: usize) -> Cow<'_, str> {
    let short = &text[..text.floor_char_boundary(limit)];
    if short.contains('\0') { Cow::Owned(short.replace('\0', "\u{2400}")) } else { Cow::Borrowed(short) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_on_a_characters_edge_and_loses_its_nuls() {
        assert_eq!(clean("añb", 2), "a");
        assert_eq!(clean("añb", 3), "añ");
        assert_eq!(clean("a\0b", 100), "a\u{2400}b");
        assert!(matches!(clean("plain", 100), Cow::Borrowed("plain")));
    }
}
