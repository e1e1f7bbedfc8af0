//! What was measured, as JSON and as the table of `benches/README.md`.

use std::fmt::Write as _;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{Folders, Options, Rounds, Surroundings, Times};
use crate::Fault;
use crate::rig::machine::Machine;
use crate::rig::{figure, keep_in_readme, load, percentile};

const BEGIN: &str = "<!-- pooling: begin -->";
const END: &str = "<!-- pooling: end -->";
/// The goals: how many times as fast the pool is as a browser for each request, and as one worker.
const OVER_ANEW: f64 = 20.0;
const OVER_ONE: f64 = 1.8;

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    command: String,
    /// Seconds since 1970.
    at: u64,
    /// By the system's count, at the end.
    load: String,
    browser: String,
    requests: usize,
    cores: usize,
    subjects: Vec<&'static str>,
    /// From the start of a browser to its answer, of each subject's samples, in milliseconds.
    pub(super) anew: Vec<Vec<f64>>,
    one: Rounds,
    whole: Rounds,
    pool: Rounds,
}

impl Report {
    pub(super) fn new(machine: Machine, options: &Options, here: &Surroundings, cores: usize) -> Self {
        let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        Self {
            machine,
            command: format!("cargo xtask bench pooling {arguments}").trim_end().to_owned(),
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            load: String::new(),
            browser: format!("{} {}", here.on.kind, if options.api == "cpu" { "wasm" } else { &options.api }),
            requests: options.requests,
            cores,
            subjects: here.subjects.iter().map(|subject| subject.name).collect(),
            anew: Vec::new(),
            one: Vec::new(),
            whole: Vec::new(),
            pool: Vec::new(),
        }
    }

    /// Adds a way's times; the first round does not count.
    pub(super) fn add(&mut self, round: usize, way: &str, times: Times) {
        println!("round {round}, {way}: {times:?}");
        if round > 0 {
            match way {
                "one" => self.one.push(times),
                "whole" => self.whole.push(times),
                _ => self.pool.push(times),
            }
        }
    }

    /// Shows and keeps it; writes the table where a whole run or `--write` asks for it.
    pub(super) fn finish(mut self, options: &Options, folders: &Folders) -> Result<(), Fault> {
        self.load = load();
        let path = folders.out.join(format!("pooling-{}.json", self.at));
        fs::create_dir_all(&folders.out)?;
        fs::write(&path, serde_json::to_string_pretty(&self)?).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("{}", self.markdown());
        if options.whole() || options.write {
            let path = keep_in_readme(&folders.root, [BEGIN, END], &self.markdown())?;
            println!("written to {}", path.display());
        }
        Ok(())
    }

    /// What a browser for each of all requests would take, in seconds: each subject's mean, for as many as it has.
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    fn anew_seconds(&self) -> f64 {
        let of = |at: usize| (self.requests + self.subjects.len() - 1 - at) / self.subjects.len();
        let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len().max(1) as f64;
        self.anew.iter().enumerate().map(|(at, times)| mean(times) * of(at) as f64 / 1e3).sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    fn markdown(&self) -> String {
        let Self { machine, command, load, browser, requests, cores, subjects, .. } = self;
        let median =
            |rounds: &Rounds, of: fn(&Times) -> f64| percentile(&rounds.iter().map(of).collect::<Vec<_>>(), 50);
        let seconds = |rounds: &Rounds| median(rounds, |times| times.seconds);
        let (anew, one, whole, pool) =
            (self.anew_seconds(), seconds(&self.one), seconds(&self.whole), seconds(&self.pool));
        let samples = self.anew.iter().map(Vec::len).sum::<usize>();
        let mut text = format!(
            "\n`{command}` on {machine}. {requests} requests in {browser}: {}, in turn. Load of the machine at the end, by the \
             system's count: {load}.\n\n| way | seconds | requests a second | cores busy with it | others' | times as fast as the first |\n\
             |---|---|---|---|---|---|\n",
            subjects.join(", ")
        );
        let mut row = |what: String, seconds: f64, cores: [f64; 2]| {
            let rate = *requests as f64 / seconds;
            let [cores, others] =
                cores.map(|cores| if cores.is_nan() { "–".to_owned() } else { format!("{cores:.2}") });
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {what} | {} | {} | {cores} | {others} | **{:.1}** |",
                figure(seconds),
                figure(rate),
                anew / seconds
            );
        };
        let busy = |rounds: &Rounds| [median(rounds, |times| times.cores), median(rounds, |times| times.others)];
        row(
            format!(
                "a) a browser started for each, {cores} threads: {samples} measured, the rest reckoned by their means"
            ),
            anew,
            [f64::NAN; 2],
        );
        row("b) one worker that is kept, 1 thread, one request after another".to_owned(), one, busy(&self.one));
        row(format!("the same with {cores} threads"), whole, busy(&self.whole));
        row(format!("c) the pool: {cores} such workers of 1 thread, all requests at once"), pool, busy(&self.pool));
        let computed = median(&self.one, |times| times.computed_seconds);
        let limit = computed / *cores as f64;
        let starts: Vec<String> = subjects
            .iter()
            .zip(&self.anew)
            .map(|(name, times)| format!("{name} {} s", figure(percentile(times, 50) / 1e3)))
            .collect();
        let _ = writeln!(
            text,
            "\nFrom the start of a browser to its answer (medians): {}. The closing of a browser is in no figure. Of b, {} s were \
             computed on one core; on {cores} cores without anything else that is {} s, of which c takes {:.2} times as long. \
             By processor time of this program and its browsers b cost {} s and c {} s.\n\n\
             | goal | at least | measured | |\n|---|---|---|---|",
            starts.join(", "),
            figure(computed),
            figure(limit),
            pool / limit,
            figure(median(&self.one, |times| times.cores * times.seconds)),
            figure(median(&self.pool, |times| times.cores * times.seconds)),
        );
        for (what, bound, measured) in [("c over a", OVER_ANEW, anew / pool), ("c over b", OVER_ONE, one / pool)] {
            let met = if measured >= bound { "met" } else { "**not met**" };
            let _ = writeln!(text, "| {what} | {bound} | {measured:.2} | {met} |");
        }
        let _ = writeln!(text, "| b over a | – | {:.2} | |\n", anew / one);
        text
    }
}
