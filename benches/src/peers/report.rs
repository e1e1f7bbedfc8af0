//! What was measured, as lines on the terminal, as JSON, and as the tables of `benches/README.md`.

use std::fmt::Write as _;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::case::Case;
use super::machine::Machine;
use super::measure::{Measured, Outcome, percentile};
use super::{Folders, Heading, Options};
use crate::Fault;

const BEGIN: &str = "<!-- peers: begin -->";
const END: &str = "<!-- peers: end -->";

/// One case of one pair.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) browser: String,
    pub(super) api: String,
    pub(super) threads: Option<usize>,
    pub(super) model: String,
    pub(super) batch: usize,
    pub(super) sequence: usize,
    /// What our side computed on, as it says itself.
    device: String,
    gigaflops: f64,
    pub(super) ours: Outcome,
    pub(super) peer: Outcome,
}

impl Row {
    pub(super) fn new(heading: &Heading, case: &Case, [ours, peer]: [Outcome; 2], device: &str) -> Self {
        Self {
            browser: heading.browser.clone(),
            api: heading.api.to_string(),
            threads: heading.threads,
            model: case.subject.name.clone(),
            batch: case.batch,
            sequence: case.sequence,
            device: device.to_owned(),
            gigaflops: case.gigaflops(),
            ours,
            peer,
        }
    }

    /// How many times as fast as the peer's median our median is.
    pub(super) fn ratio(&self) -> Option<f64> {
        Some(self.peer.measured()?.median() / self.ours.measured()?.median())
    }

    fn what(&self) -> String {
        let api = if self.api == "cpu" && self.browser != "native" { "wasm" } else { &self.api };
        let threads =
            self.threads.map_or_else(String::new, |t| format!(", {t} thread{}", if t == 1 { "" } else { "s" }));
        format!("{} {api}{threads}", self.browser)
    }

    fn markdown(&self) -> String {
        let ratio = self.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("**{ratio:.2}**"));
        let caller = self.ours.measured().map_or_else(|| "–".to_owned(), |m| figure(percentile(&m.caller_ms, 50)));
        format!(
            "| {} | {} | {} x {} | {} | {} | {caller} | {ratio} | {} | {} |",
            self.what(),
            self.model,
            self.batch,
            self.sequence,
            times(&self.ours),
            times(&self.peer),
            error(&self.ours),
            error(&self.peer),
        )
    }
}

/// Milliseconds with three digits that say something.
pub(super) fn figure(ms: f64) -> String {
    match ms {
        ms if ms.is_nan() => "–".to_owned(),
        ms if ms >= 100.0 => format!("{ms:.0}"),
        ms if ms >= 10.0 => format!("{ms:.1}"),
        ms => format!("{ms:.2}"),
    }
}

fn times(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Measured(m) => spread(m),
        Outcome::Failed(reason) => format!("failed: {}", reason.replace(['|', '\n'], " ")),
    }
}

fn spread(measured: &Measured) -> String {
    let [low, median, high] = [25, 50, 75].map(|p| figure(percentile(&measured.runs_ms, p)));
    format!("{median} ({low}–{high})")
}

fn error(outcome: &Outcome) -> String {
    outcome.measured().map_or_else(|| "–".to_owned(), |m| format!("{:.0e}", m.error))
}

/// Everything of one run of the benchmark.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    command: String,
    /// Seconds since 1970.
    at: u64,
    rows: Vec<Row>,
}

const HEAD: &str = "| where | model | batch x tokens | ours, ms (quartiles) | onnxruntime, ms (quartiles) | ours to the caller, ms | times as fast | our error | its error |
|---|---|---|---|---|---|---|---|---|";

impl Report {
    pub(super) fn new(machine: Machine, _options: &Options) -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let command = format!("cargo xtask bench peers {}", arguments.join(" ")).trim_end().to_owned();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        println!("{HEAD}");
        Self { machine, command, at, rows: Vec::new() }
    }

    /// Adds a row, shows it, and keeps what is known so far: a run that is cut short has measured something.
    pub(super) fn row(&mut self, row: Row, folders: &Folders) -> Result<(), Fault> {
        println!("{}", row.markdown());
        self.rows.push(row);
        self.keep(folders)
    }

    fn keep(&self, folders: &Folders) -> Result<(), Fault> {
        let path = folders.out.join(format!("peers-{}.json", self.at));
        fs::create_dir_all(&folders.out)?;
        fs::write(&path, serde_json::to_string_pretty(self)?).map_err(|e| format!("{}: {e}", path.display()).into())
    }

    /// Writes the tables where a whole run or `--write` asks for it.
    pub(super) fn finish(&self, options: &Options, folders: &Folders) -> Result<(), Fault> {
        self.keep(folders)?;
        if !options.whole() && !options.write {
            return Ok(());
        }
        let path = folders.root.join("benches/README.md");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let (before, rest) = text.split_once(BEGIN).ok_or("benches/README.md has no place for the tables")?;
        let (_, after) = rest.split_once(END).ok_or("the place for the tables in benches/README.md has no end")?;
        fs::write(&path, format!("{before}{BEGIN}\n{}{END}{after}", self.markdown()))?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = format!("\n`{}` on {}.\n\n{HEAD}\n", self.command, self.machine);
        for row in &self.rows {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", row.markdown());
        }
        text.push('\n');
        text
    }
}
