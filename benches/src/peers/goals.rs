//! What was to be reached, and what this run says of it.

use std::fmt::Write as _;

use super::first::FirstRuns;
use super::peaks::{Peak, WEBNN};
use super::report::{FirstRow, Report, Row, StartRow, TwoContexts, median_of};
use super::start::{Opening, Openings};
use crate::rig::{figure, percentile};

/// The goals are for one case: this model, so many tokens.
const MODEL: &str = "minilm";
const TOKENS: usize = 128;

/// A ratio to be reached.
struct Goal {
    what: &'static str,
    browsers: &'static [&'static str],
    api: &'static str,
    threads: Option<usize>,
    batch: usize,
    at_least: f64,
}

const GOALS: &[Goal] = &[
    Goal { what: "Chromium WebGPU", browsers: &["chromium"], api: "webgpu", threads: None, batch: 1, at_least: 10.0 },
    Goal { what: "Firefox WebGPU", browsers: &["firefox"], api: "webgpu", threads: None, batch: 1, at_least: 5.0 },
    Goal {
        what: "wasm, one thread",
        browsers: &["chromium", "firefox"],
        api: "cpu",
        threads: Some(1),
        batch: 1,
        at_least: 2.0,
    },
    Goal {
        what: "wasm, two threads",
        browsers: &["chromium", "firefox"],
        api: "cpu",
        threads: Some(2),
        batch: 1,
        at_least: 2.0,
    },
    Goal { what: "WebNN", browsers: &["webnn-shell"], api: "webnn", threads: None, batch: 1, at_least: 1.5 },
    Goal { what: "WebNN, batch 8", browsers: &["webnn-shell"], api: "webnn", threads: None, batch: 8, at_least: 1.3 },
    Goal {
        what: "native CPU, one thread",
        browsers: &["native"],
        api: "cpu",
        threads: Some(1),
        batch: 1,
        at_least: 1.0,
    },
    Goal {
        what: "native CPU, two threads",
        browsers: &["native"],
        api: "cpu",
        threads: Some(2),
        batch: 1,
        at_least: 1.0,
    },
];

/// Two contexts on two cores are to answer twice as often again as one, whose goal depends on the batch.
const TWO_CONTEXTS: f64 = 2.0;
/// Of a run after "loaded" over the tenth: what is compiled or made at a first run belongs to the load.
pub(super) const FIRST_AT_MOST: f64 = 1.2;
/// From opening a page to its first result, the peer's time over ours.
const START_AT_LEAST: f64 = 2.0;

/// The table of goals, from the rows of a run. What was not measured says so.
pub(super) fn table(report: &Report) -> String {
    let mut text = format!(
        "| goal ({MODEL}, {TOKENS} tokens, batch 1 where not said) | times as fast, at least | measured | |\n|---|---|---|---|\n"
    );
    for goal in GOALS {
        for browser in goal.browsers {
            let row = report.rows.iter().find(|row| goal.is_of(row, browser));
            let what = if goal.browsers.len() > 1 { format!("{}, {browser}", goal.what) } else { goal.what.to_owned() };
            line(&mut text, &what, goal.at_least, row.map(|row| row.ratio()), &limit(report, row, goal.at_least));
        }
    }
    for row in &report.firsts {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", first(row));
    }
    for two in &report.two_contexts {
        let what = format!("{}, two contexts, batch {}, answers a second", two.browser, two.batch);
        let Some(goal) = GOALS.iter().find(|goal| goal.api == "webnn" && goal.batch == two.batch) else { continue };
        let limit = two_contexts_limit(report, two).unwrap_or_default();
        line(&mut text, &what, TWO_CONTEXTS * goal.at_least, Some(two.ratio()), &limit);
    }
    for start in &report.starts {
        for (what, which) in [("cold", Openings::cold as fn(&Openings) -> &[Opening]), ("warm", Openings::warm)] {
            let limit = start.limit(which).unwrap_or_default();
            let what = format!("page open to first result, {what}, {} {}", start.browser, start.api_name());
            line(&mut text, &what, START_AT_LEAST, Some(start.ratio(which)), &limit);
        }
    }
    text
}

/// The goal's line for the first answers of one place.
pub(super) fn first(row: &FirstRow) -> String {
    let runs = &row.ours;
    let measured = match (runs.ratio(), &runs.failed) {
        (None, failed) => format!("failed: {}", failed.as_deref().unwrap_or("nothing was measured")),
        (Some(ratio), _) => format!("{ratio:.2} ({} over {} ms)", figure(runs.first()), figure(runs.later())),
    };
    let verdict = match row.peer.as_ref().map(FirstRuns::ratio) {
        _ if runs.keep_to(FIRST_AT_MOST) => "met".to_owned(),
        Some(Some(its)) => format!("**not met**; the peer's own: {its:.2}"),
        _ => "**not met**".to_owned(),
    };
    format!(
        "| first run after a load over the tenth, {} | at most {FIRST_AT_MOST} | {measured} | {verdict} |",
        row.what()
    )
}

impl Goal {
    fn is_of(&self, row: &Row, browser: &str) -> bool {
        (&*row.browser, &*row.api, row.threads) == (browser, self.api, self.threads) && is_main_case(row, self.batch)
    }
}

fn is_main_case(row: &Row, batch: usize) -> bool {
    (&*row.model, row.batch, row.sequence) == (MODEL, batch, TOKENS)
}

/// `measured` is none where the case was not measured, and holds none where a side failed.
fn line(text: &mut String, what: &str, at_least: f64, measured: Option<Option<f64>>, limit: &str) {
    let (measured, verdict) = match measured {
        None => ("not measured".to_owned(), String::new()),
        Some(None) => ("failed".to_owned(), "**not met**".to_owned()),
        Some(Some(ratio)) if ratio >= at_least => (format!("{ratio:.2}"), "met".to_owned()),
        Some(Some(ratio)) => (format!("{ratio:.2}"), format!("**not met**{limit}")),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "| {what} | {at_least} | {measured} | {verdict} |");
}

/// Beside a goal that was not reached: what the goal would take, and what the machine's arithmetic gives at best.
fn limit(report: &Report, row: Option<&Row>, at_least: f64) -> String {
    let Some((row, ours, peer)) = row.and_then(|row| Some((row, row.ours.measured()?, row.peer.measured()?))) else {
        return String::new();
    };
    let wanted = row.gigaflops / (peer.median() / at_least) * 1e3;
    let reached = row.gigaflops / ours.median() * 1e3;
    let fits = |peak: &&Peak| {
        let of_api = match &*row.api {
            "cpu" => peak.what.starts_with("wasm") && peak.threads == row.threads,
            "webnn" => peak.what == WEBNN && peak.threads == Some(1),
            _ => peak.threads.is_none(),
        };
        peak.browser == row.browser && peak.unit == "GF/s" && of_api
    };
    let best = report.peaks.iter().filter(fits).filter_map(|peak| peak.giga).fold(0.0, f64::max);
    let of_peak = if best > 0.0 {
        format!("; the peak measured in this run is {best:.0}, of which we reach {:.0} %", reached / best * 100.0)
    } else {
        String::new()
    };
    let fastest = percentile(&peer.runs_ms, 0) / percentile(&ours.runs_ms, 0);
    format!(
        ": it would take {} ms, {wanted:.0} GF/s, and we do {reached:.0}{of_peak}; by each side's fastest run {fastest:.2}",
        figure(peer.median() / at_least)
    )
}

/// The answers a second that two contexts would give if they did nothing but multiply matrices.
fn two_contexts_limit(report: &Report, two: &TwoContexts) -> Option<String> {
    let of_batch = |row: &&Row| row.browser == two.browser && row.batch == two.batch;
    let row = report.rows.iter().filter(of_batch).find(|row| (&*row.model, row.sequence) == (MODEL, TOKENS))?;
    let of_two = |peak: &&Peak| peak.browser == two.browser && peak.what == WEBNN && peak.threads == Some(2);
    let peak = report.peaks.iter().find(of_two)?.giga?;
    let (ours, peer, most) = (two.ours_hz?, two.peer_hz?, peak / row.gigaflops);
    Some(format!(
        ": products of matrices alone would give {most:.1} answers a second, {:.2} times the peer's, and we reach {:.0} % of it",
        most / peer,
        ours / most * 100.0
    ))
}

impl StartRow {
    fn ratio(&self, which: fn(&Openings) -> &[Opening]) -> Option<f64> {
        Some(median_of(which(&self.measured.peer))? / median_of(which(&self.measured.ours))?)
    }

    /// What the goal would leave for everything but moving bytes.
    fn limit(&self, which: fn(&Openings) -> &[Opening]) -> Option<String> {
        let of = |openings: &Openings| median_of(which(openings)).map(|ms| ms / 1e3);
        let (ours, peer, bare) =
            (of(&self.measured.ours)?, of(&self.measured.peer)?, of(self.measured.bare.as_ref()?)?);
        Some(format!(
            ": it would take {:.2} s, and we take {ours:.2}; a bare page that moves and hashes as many bytes and computes nothing takes {bare:.2}, {:.2} times as fast as the peer",
            peer / START_AT_LEAST,
            peer / bare
        ))
    }
}

impl TwoContexts {
    /// Answers a second of two contexts over those of the peer's one.
    pub(super) fn ratio(&self) -> Option<f64> {
        Some(self.ours_hz? / self.peer_hz?)
    }
}
