//! `tabpool report`: what was measured, out of the data folder's database.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use clap::{Args, ValueEnum};
use tabpool_metrics::{Api, Reader, Report, ReportFilter, Timestamp};

use crate::context::Context;
use crate::failure::Verdict;
use crate::quantity::span;

/// Arguments of `report`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Only what was measured since: a span as in 90s, 30m, 24h, 7d, 2w, or a day as in 2026-01-31 (UTC)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Timestamp>,

    /// Only this model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Only this browser, as in firefox or native
    #[arg(long, value_name = "NAME")]
    browser: Option<String>,

    /// Only this API
    #[arg(long, value_enum, value_name = "API")]
    api: Option<ApiName>,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables for a terminal
    Text,
    /// GitHub-flavoured Markdown
    Markdown,
    /// One page with charts
    Html,
    /// The data itself
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ApiName {
    Webgpu,
    Webnn,
    Cpu,
}

impl From<ApiName> for Api {
    fn from(name: ApiName) -> Self {
        match name {
            ApiName::Webgpu => Api::WebGpu,
            ApiName::Webnn => Api::WebNn,
            ApiName::Cpu => Api::Cpu,
        }
    }
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let filter = ReportFilter {
        since: arguments.since,
        model: arguments.model.clone(),
        browser: arguments.browser.clone(),
        api: arguments.api.map(Api::from),
        ..ReportFilter::default()
    };
    let (file, format, terminal) = (context.metrics_file(), arguments.format, context.terminal);
    let text = context
        .interrupt
        .guard(async move {
            let report = tokio::task::spawn_blocking(move || {
                let report = Report::build(&Reader::open(file)?, filter)?;
                Ok::<_, anyhow::Error>(match format {
                    Format::Text => report.render_text(terminal.width),
                    Format::Markdown => report.render_markdown(),
                    Format::Html => report.render_html(),
                    Format::Json => format!("{}\n", report.to_json()),
                })
            });
            report.await?
        })
        .await?;
    context.terminal.print(&text)?;
    Ok(Verdict::Fine)
}

/// Reads `7d` or `2026-01-31`.
fn since(text: &str) -> Result<Timestamp, String> {
    if let Some(day) = day(text) {
        return Ok(day);
    }
    let bad = || "neither a span as in 24h or 7d nor a day as in 2026-01-31".to_owned();
    let span = span(text).ok_or_else(bad)?;
    Ok(Timestamp::now().minus(span))
}

/// The first moment of a day in UTC.
fn day(text: &str) -> Option<Timestamp> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let well_formed = year.len() == 4 && month.len() == 2 && day.len() == 2 && parts.next().is_none();
    let (year, month, day): (u64, u64, u64) = (year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    if !well_formed || year < 1970 || day == 0 || day > length {
        return None;
    }
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let days = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let days = days + lengths[..usize::try_from(month - 1).ok()?].iter().sum::<u64>() + day - 1;
    Some(Timestamp::from(UNIX_EPOCH + Duration::from_secs(days * 86_400)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use tabpool_metrics::Timestamp;

    use super::since;
    use crate::arguments::Arguments;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        // By `date -u -d DAY +%s`.
        for (day, seconds) in [
            ("1970-01-01", 0),
            ("1999-12-31", 946_598_400),
            ("2000-02-29", 951_782_400),
            ("2024-03-01", 1_709_251_200),
            ("2026-11-23", 1_795_392_000_i64),
            ("2100-03-01", 4_107_542_400),
        ] {
            assert_eq!(since(day).expect(day), Timestamp::from_micros(seconds * 1_000_000), "{day}");
        }
    }

    #[test]
    fn spans_reach_back_from_now() {
        let week = since("1w").expect("a span");
        let away = Timestamp::now().as_micros() - week.as_micros() - 7 * 86_400 * 1_000_000;
        assert!((0..60_000_000).contains(&away), "{away}");
        assert!(since("99999999999999999999d").is_err());
        assert!(
            since(&format!("{}w", u64::MAX)).expect("stops at the earliest time")
                < Timestamp::now().minus(Duration::ZERO)
        );
    }

    #[test]
    fn what_is_no_time_is_a_wrong_argument() {
        for text in
            ["", "d", "7", "7 d", "7y", "-7d", "2026-13-01", "2026-02-29", "26-01-01", "2026-1-1", "2026-01-00", "é"]
        {
            assert!(since(text).is_err(), "{text:?}");
        }
        assert!(Arguments::try_parse_from(["tabpool", "report", "--since", "yesterday"]).is_err());
        assert!(Arguments::try_parse_from(["tabpool", "report", "--format", "html", "--since", "7d"]).is_ok());
        assert!(Arguments::try_parse_from(["tabpool", "report", "--format", "pdf"]).is_err());
    }
}
