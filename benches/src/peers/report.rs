//! What was measured, as lines on the terminal, as JSON, and as the tables of `benches/README.md`.

use std::fmt::Write as _;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use tabpool::ApiKind;

use super::case::Case;
use super::first::FirstRuns;
use super::goals;
use super::measure::{Measured, Outcome};
use super::onnxruntime::WebSetup;
use super::peaks::Peak;
use super::pipeline::Embedded;
use super::start::{self, Opening, Openings};
use super::{Folders, Heading, Options};
use crate::Fault;
use crate::rig::machine::Machine;
use crate::rig::{figure, keep_in_readme, percentile};

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
    /// What each side computed on, or is, as it says itself.
    devices: [String; 2],
    pub(super) gigaflops: f64,
    pub(super) ours: Outcome,
    pub(super) peer: Outcome,
}

impl Row {
    pub(super) fn new(heading: &Heading, case: &Case, [ours, peer]: [Outcome; 2], devices: [String; 2]) -> Self {
        Self {
            browser: heading.browser.clone(),
            api: heading.api.to_string(),
            threads: heading.threads,
            model: case.subject.name.clone(),
            batch: case.batch,
            sequence: case.sequence,
            devices,
            gigaflops: case.gigaflops(),
            ours,
            peer,
        }
    }

    /// How many times as fast as the peer's median our median is.
    pub(super) fn ratio(&self) -> Option<f64> {
        Some(self.peer.measured()?.median() / self.ours.measured()?.median())
    }

    fn markdown(&self) -> String {
        let ratio = self.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("**{ratio:.2}**"));
        let caller = self.ours.measured().map_or_else(|| "–".to_owned(), |m| figure(percentile(&m.caller_ms, 50)));
        format!(
            "| {} | {} | {} x {} | {} | {} | {caller} | {ratio} | {} | {} |",
            place_name(&self.browser, &self.api, self.threads),
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

/// A browser or `native`, an API, and so many threads where it computes on the processor.
fn place_name(browser: &str, api: &str, threads: Option<usize>) -> String {
    let api = if api == "cpu" && browser != "native" { "wasm" } else { api };
    let threads = threads.map_or_else(String::new, |t| format!(", {t} thread{}", if t == 1 { "" } else { "s" }));
    format!("{browser} {api}{threads}")
}

/// First answers after a load, beside the tenth.
#[derive(Clone, Debug, Serialize)]
pub(super) struct FirstRow {
    pub(super) browser: String,
    pub(super) api: String,
    pub(super) threads: Option<usize>,
    pub(super) ours: FirstRuns,
    /// Measured where ours are slow.
    pub(super) peer: Option<FirstRuns>,
}

impl FirstRow {
    pub(super) fn new(heading: &Heading, ours: FirstRuns, peer: Option<FirstRuns>) -> Self {
        let (browser, api) = (heading.browser.clone(), heading.api.to_string());
        Self { browser, api, threads: heading.threads, ours, peer }
    }

    pub(super) fn what(&self) -> String {
        place_name(&self.browser, &self.api, self.threads)
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

/// From opening a page to the first result.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StartRow {
    pub(super) browser: String,
    pub(super) api: ApiKind,
    #[serde(flatten)]
    pub(super) measured: start::InTurn,
}

/// From texts to embeddings.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PipelineRow {
    pub(super) browser: String,
    pub(super) api: ApiKind,
    pub(super) embedded: Embedded,
}

/// Answers a second with two of our contexts at work, and with one of the peer's.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TwoContexts {
    pub(super) browser: String,
    pub(super) batch: usize,
    pub(super) ours_hz: Option<f64>,
    pub(super) peer_hz: Option<f64>,
    pub(super) failed: Vec<String>,
}

/// Which of the peer's builds is measured in a browser, and how all of them did.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Choice {
    browser: String,
    build: &'static str,
    outcomes: Vec<(&'static str, Outcome)>,
}

/// Everything of one run of the benchmark.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    command: String,
    /// Seconds since 1970.
    at: u64,
    choices: Vec<Choice>,
    pub(super) rows: Vec<Row>,
    pub(super) two_contexts: Vec<TwoContexts>,
    pub(super) firsts: Vec<FirstRow>,
    pub(super) starts: Vec<StartRow>,
    pub(super) pipelines: Vec<PipelineRow>,
    pub(super) peaks: Vec<Peak>,
}

const HEAD: &str = "| where | model | batch x tokens | ours, ms (quartiles) | onnxruntime, ms (quartiles) | ours to the caller, ms | times as fast | our error | its error |
|---|---|---|---|---|---|---|---|---|";
const START_HEAD: &str =
    "| page open to first result | ours, s | onnxruntime-web, s | times as fast | our runtime, MB | its runtime, MB | bare page, s |
|---|---|---|---|---|---|---|";
const PIPELINE_HEAD: &str = "| text to embedding | texts | ours to the caller, ms (quartiles) | transformers.js, ms (quartiles) | times as fast | our error | its error |
|---|---|---|---|---|---|---|";
const PEAK_HEAD: &str = "| peak | threads | |\n|---|---|---|";

impl Choice {
    fn markdown(&self) -> String {
        let each = self.outcomes.iter().map(|(build, outcome)| format!("{build} {}", times(outcome)));
        let each = each.collect::<Vec<_>>().join(", ");
        format!("{}: the peer's build for WebGPU is `{}`; one case took, in ms: {each}.", self.browser, self.build)
    }
}

impl StartRow {
    pub(super) fn api_name(&self) -> String {
        web_name(self.api)
    }

    fn markdown(&self) -> String {
        let lines =
            [("cold", Openings::cold as fn(&Openings) -> &[Opening]), ("warm", Openings::warm)].map(|(what, of)| {
                let start::InTurn { ours: all_ours, peer: all_peer, bare } = &self.measured;
                let (ours, peer) = (of(all_ours), of(all_peer));
                let bare = bare.as_ref().map_or_else(|| "–".to_owned(), |bare| seconds(bare, of(bare)));
                let ratio = match (median_of(ours), median_of(peer)) {
                    (Some(ours), Some(peer)) => format!("**{:.2}**", peer / ours),
                    _ => "–".to_owned(),
                };
                format!(
                    "| {} {}, {what} | {} | {} | {ratio} | {} | {} | {bare} |",
                    self.browser,
                    self.api_name(),
                    seconds(all_ours, ours),
                    seconds(all_peer, peer),
                    megabytes(ours),
                    megabytes(peer),
                )
            });
        lines.join("\n")
    }
}

impl PipelineRow {
    fn markdown(&self) -> String {
        let Embedded { texts, ours, peer } = &self.embedded;
        let ratio = match (ours.measured(), peer.measured()) {
            (Some(ours), Some(peer)) => format!("**{:.2}**", peer.median() / ours.median()),
            _ => "–".to_owned(),
        };
        let (mine, its) = (times(ours), times(peer));
        let what = format!("{} {}", self.browser, web_name(self.api));
        format!("| {what} | {texts} | {mine} | {its} | {ratio} | {} | {} |", error(ours), error(peer))
    }
}

impl TwoContexts {
    fn markdown(&self) -> String {
        let hz = |hz: Option<f64>| hz.map_or_else(|| "failed".to_owned(), |hz| format!("{hz:.1}"));
        let failed = self.failed.join("; ").replace(['|', '\n'], " ");
        let ratio = self.ratio().map_or(failed, |ratio| format!("{ratio:.2} times as many"));
        format!(
            "{}, batch {}: {} answers a second from two of our contexts, {} from the peer's one: {ratio}",
            self.browser,
            self.batch,
            hz(self.ours_hz),
            hz(self.peer_hz)
        )
    }
}

impl Peak {
    fn markdown(&self) -> String {
        let threads = self.threads.map_or_else(|| "–".to_owned(), |threads| threads.to_string());
        let value = match (&self.giga, &self.failed) {
            (Some(giga), _) => format!("{giga:.1} {}", self.unit),
            (None, failed) => format!("failed: {}", failed.as_deref().unwrap_or_default().replace(['|', '\n'], " ")),
        };
        format!("| {} {} | {threads} | {value} |", self.browser, self.what)
    }
}

/// What an API is called where it is a page that computes.
fn web_name(api: ApiKind) -> String {
    if api == ApiKind::Cpu { "wasm".to_owned() } else { api.to_string() }
}

pub(super) fn median_of(openings: &[Opening]) -> Option<f64> {
    let all: Vec<f64> = openings.iter().map(|opening| opening.ms).collect();
    Some(percentile(&all, 50)).filter(|ms| !ms.is_nan())
}

fn seconds(all: &Openings, these: &[Opening]) -> String {
    let failed = all.failed.as_ref().map(|reason| format!("failed: {}", reason.replace(['|', '\n'], " ")));
    match median_of(these) {
        None => failed.unwrap_or_else(|| "–".to_owned()),
        // One of several that failed does not hide the others, nor they it.
        Some(ms) => format!("{:.2}{}", ms / 1e3, failed.map_or_else(String::new, |f| format!(" (one {f})"))),
    }
}

fn megabytes(openings: &[Opening]) -> String {
    let most = openings.iter().map(|opening| opening.runtime_bytes).max();
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    most.map_or_else(|| "–".to_owned(), |bytes| format!("{:.2}", bytes as f64 / 1e6))
}

impl Report {
    pub(super) fn new(machine: Machine) -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let command = format!("cargo xtask bench peers {}", arguments.join(" ")).trim_end().to_owned();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self {
            machine,
            command,
            at,
            choices: Vec::new(),
            rows: Vec::new(),
            two_contexts: Vec::new(),
            firsts: Vec::new(),
            starts: Vec::new(),
            pipelines: Vec::new(),
            peaks: Vec::new(),
        }
    }

    /// Notes which of the peer's builds for WebGPU is measured in a browser.
    pub(super) fn choice(
        &mut self,
        browser: &str,
        build: &'static str,
        outcomes: Vec<(&'static str, Outcome)>,
        folders: &Folders,
    ) -> Result<(), Fault> {
        let choice = Choice { browser: browser.to_owned(), build, outcomes };
        println!("{}", choice.markdown());
        self.choices.push(choice);
        self.keep(folders)
    }

    /// How the peer is set up for an API of a browser, as far as this run chose.
    pub(super) fn chosen_setup(&self, browser: &str, api: ApiKind, threads: usize) -> Result<WebSetup, Fault> {
        let chosen = self.choices.iter().find(|choice| choice.browser == browser && api == ApiKind::WebGpu);
        WebSetup::of(api, threads).build(chosen.map_or("", |choice| choice.build))
    }

    /// Adds a row, shows it, and keeps what is known so far: a run that is cut short has measured something.
    pub(super) fn row(&mut self, row: Row, folders: &Folders) -> Result<(), Fault> {
        println!("{}", row.markdown());
        self.rows.push(row);
        self.keep(folders)
    }

    /// Adds what two contexts gave.
    pub(super) fn two(&mut self, two: TwoContexts, folders: &Folders) -> Result<(), Fault> {
        println!("{}", two.markdown());
        self.two_contexts.push(two);
        self.keep(folders)
    }

    /// Adds first answers.
    pub(super) fn first(&mut self, row: FirstRow, folders: &Folders) -> Result<(), Fault> {
        println!("{}", goals::first(&row));
        self.firsts.push(row);
        self.keep(folders)
    }

    /// Adds openings of a page.
    pub(super) fn start(&mut self, row: StartRow, folders: &Folders) -> Result<(), Fault> {
        println!("{}", row.markdown());
        self.starts.push(row);
        self.keep(folders)
    }

    /// Adds embeddings of texts.
    pub(super) fn pipeline(&mut self, row: PipelineRow, folders: &Folders) -> Result<(), Fault> {
        println!("{}", row.markdown());
        self.pipelines.push(row);
        self.keep(folders)
    }

    /// Adds a browser's peaks.
    pub(super) fn peaks(&mut self, peaks: Vec<Peak>, folders: &Folders) -> Result<(), Fault> {
        for peak in &peaks {
            println!("{}", peak.markdown());
        }
        self.peaks.extend(peaks);
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
        println!("\n{}", goals::table(self));
        if !options.whole() && !options.write {
            return Ok(());
        }
        let path = keep_in_readme(&folders.root, [BEGIN, END], &self.markdown())?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = format!("\n`{}` on {}.\n\n", self.command, self.machine);
        for choice in &self.choices {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}\n", choice.markdown());
        }
        let lines = |rows: &mut dyn Iterator<Item = String>| rows.collect::<Vec<_>>();
        table(&mut text, HEAD, &lines(&mut self.rows.iter().map(Row::markdown)));
        for two in &self.two_contexts {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}\n", two.markdown());
        }
        table(&mut text, START_HEAD, &lines(&mut self.starts.iter().map(StartRow::markdown)));
        table(&mut text, PIPELINE_HEAD, &lines(&mut self.pipelines.iter().map(PipelineRow::markdown)));
        table(&mut text, PEAK_HEAD, &lines(&mut self.peaks.iter().map(Peak::markdown)));
        let _ = writeln!(text, "{}", goals::table(self));
        text
    }
}

/// A table, where it has rows.
fn table(text: &mut String, head: &str, rows: &[String]) {
    if !rows.is_empty() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{head}\n{}\n", rows.join("\n"));
    }
}
