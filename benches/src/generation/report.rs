//! What was measured, as lines on the terminal, as JSON, and as the tables of `benches/README.md`.

use std::fmt::Write as _;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::measure::{Case, Measured, Outcome};
use super::{Folders, Options, Setting};
use crate::Fault;
use crate::rig::machine::Machine;
use crate::rig::{figure, keep_in_readme, load, percentile};

const BEGIN: &str = "<!-- generation: begin -->";
const END: &str = "<!-- generation: end -->";
const HEAD: &str =
    "| where | | ours, ms (quartiles) | onnxruntime-web, ms (quartiles) | ours to the caller, ms | times as fast |
|---|---|---|---|---|---|";
/// Contexts about a power of two whose steps are shown one by one.
const ABOUT: [[usize; 4]; 2] = [[255, 256, 257, 258], [511, 512, 513, 514]];

/// One of the peer's setups, and how it did where the fastest was chosen.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Tried {
    pub(super) setup: String,
    /// The prompt's reading and a step, in milliseconds.
    pub(super) ms: Option<[f64; 2]>,
    pub(super) failed: Option<String>,
}

/// Everything of one setting.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    pub(super) what: String,
    /// What each side computed on, or is, as it says itself.
    pub(super) devices: [String; 2],
    /// Whether the peer computes with another API.
    pub(super) stand_in: bool,
    pub(super) tried: Vec<Tried>,
    pub(super) cases: Vec<Case>,
    /// Why nothing was measured.
    pub(super) failed: Option<String>,
}

/// Everything of one run of the benchmark.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    command: String,
    /// Seconds since 1970.
    at: u64,
    /// Runnable tasks a minute before the begin and at the end, by the system's count: others' work is in every figure.
    load: [String; 2],
    model: String,
    entries: Vec<Entry>,
}

impl Report {
    pub(super) fn new(machine: Machine, options: &Options) -> Self {
        let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let sizes = options.sizes();
        Self {
            machine,
            command: format!("cargo xtask bench generation {arguments}").trim_end().to_owned(),
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            load: [load(), String::new()],
            model: format!(
                "{} layers, hidden {}, {} heads, vocabulary {}, {} positions",
                sizes.layers, sizes.hidden, sizes.heads, sizes.vocabulary, sizes.positions
            ),
            entries: Vec::new(),
        }
    }

    /// Shows a setting's figures and keeps all so far.
    pub(super) fn entry(&mut self, entry: Entry, folders: &Folders) -> Result<(), Fault> {
        println!("{}", entry.lines().join("\n"));
        for line in entry.notes() {
            println!("{line}");
        }
        self.entries.push(entry);
        self.keep(folders)
    }

    fn keep(&self, folders: &Folders) -> Result<(), Fault> {
        let path = folders.out.join(format!("generation-{}.json", self.at));
        fs::create_dir_all(&folders.out)?;
        fs::write(&path, serde_json::to_string_pretty(self)?).map_err(|e| format!("{}: {e}", path.display()).into())
    }

    /// Writes the tables where a whole run or `--write` asks for it.
    pub(super) fn finish(mut self, options: &Options, folders: &Folders) -> Result<(), Fault> {
        self.load[1] = load();
        self.keep(folders)?;
        println!("\n{}", self.markdown());
        if !options.whole() && !options.write {
            return Ok(());
        }
        let path = keep_in_readme(&folders.root, [BEGIN, END], &self.markdown())?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }

    fn markdown(&self) -> String {
        let Self { machine, command, load: [before, after], model, .. } = self;
        let mut text = format!(
            "\n`{command}` on {machine}. {model}. Load of the machine, by the system's count: {before} before, {after} at the end.\n\n{HEAD}\n"
        );
        let lines =
            |of: &dyn Fn(&Entry) -> Vec<String>| self.entries.iter().flat_map(of).collect::<Vec<_>>().join("\n");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}\n", lines(&Entry::lines));
        for notes in self.entries.iter().map(|entry| entry.notes().join(" ")).filter(|notes| !notes.is_empty()) {
            let _ = writeln!(text, "{notes}\n");
        }
        let steps = lines(&Entry::passing);
        if !steps.is_empty() {
            let head = ABOUT.as_flattened().iter().fold(String::new(), |head, context| format!("{head} {context} |"));
            let _ = writeln!(text, "| a step by the tokens it sees, median ms |{head}\n|---|{}", "---|".repeat(8));
            let _ = writeln!(text, "{steps}\n");
        }
        text
    }
}

impl Entry {
    pub(super) fn new(setting: &Setting) -> Self {
        Self {
            what: setting.what(),
            devices: [String::new(), String::new()],
            stand_in: false,
            tried: Vec::new(),
            cases: Vec::new(),
            failed: None,
        }
    }

    fn lines(&self) -> Vec<String> {
        if let Some(failed) = &self.failed {
            return vec![format!("| {} | | failed: {} | – | – | – |", self.what, plain(failed))];
        }
        let mut lines = Vec::new();
        for (at, case) in self.cases.iter().enumerate() {
            if at == 0 {
                let what = format!("{} tokens read", case.prompt);
                lines.push(self.line(&what, case, |m| m.prefill_ms.clone(), |m| &m.caller_prefill_ms));
            }
            let most = case.ours.measured().and_then(|m| m.steps_ms.first()).map_or(0, Vec::len);
            let what = format!("a step at {} to {}", case.prompt + 1, case.prompt + most);
            lines.push(self.line(&what, case, Measured::steps, |m| &m.caller_step_ms));
        }
        lines
    }

    fn line(
        &self,
        what: &str,
        case: &Case,
        of: impl Fn(&Measured) -> Vec<f64>,
        caller: impl Fn(&Measured) -> &Vec<f64>,
    ) -> String {
        let shown = |outcome: &Outcome| match outcome {
            Outcome::Measured(m) => spread(&of(m)),
            Outcome::Failed(reason) => format!("failed: {}", plain(reason)),
            Outcome::Absent => "–".to_owned(),
        };
        let to_caller = case.ours.measured().map_or_else(|| "–".to_owned(), |m| figure(percentile(caller(m), 50)));
        // By what the caller sees: where steps overlap, a worker's figure of one may hold a part of another.
        let ratio = match (case.ours.measured(), case.peer.measured()) {
            (Some(ours), Some(peer)) => format!("**{:.2}**", percentile(&of(peer), 50) / percentile(caller(ours), 50)),
            _ => "–".to_owned(),
        };
        let (ours, peer) = (shown(&case.ours), shown(&case.peer));
        format!("| {} | {what} | {ours} | {peer} | {to_caller} | {ratio} |", self.what)
    }

    /// What is to be known of the peer.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.stand_in {
            notes.push(format!("{}: the peer computes in wasm; its WebNN, which is set up for fixed sizes, was not tried with caches that grow.", self.what));
        }
        if self.tried.len() > 1 {
            let one = |tried: &Tried| match (tried.ms, &tried.failed) {
                (Some([prefill, step]), _) => format!("{} {} and {}", tried.setup, figure(prefill), figure(step)),
                (None, failed) => format!("{} failed ({})", tried.setup, plain(failed.as_deref().unwrap_or("unknown"))),
            };
            let all = self.tried.iter().map(one).collect::<Vec<_>>().join("; ");
            notes.push(format!(
                "{}: the peer is {}; the first prompt and a step after it took, in ms: {all}.",
                self.what, self.devices[1]
            ));
        }
        notes
    }

    /// Our steps about powers of two, where all of a row were measured; and the peer's.
    fn passing(&self) -> Vec<String> {
        let of = |side: &dyn Fn(&Case) -> Option<&Measured>, name: &str| {
            let at = |context: usize| {
                let case = self.cases.iter().rfind(|case| case.prompt < context)?;
                Some(side(case)?.step_at(context - case.prompt - 1)).filter(|ms| !ms.is_nan())
            };
            let all: Vec<_> = ABOUT.as_flattened().iter().map(|context| at(*context)).collect();
            let shown = all.iter().map(|ms| ms.map_or_else(|| " – |".to_owned(), |ms| format!(" {} |", figure(ms))));
            let row = format!("| {}, {name} |{}", self.what, shown.collect::<String>());
            all.iter().any(Option::is_some).then_some(row)
        };
        let rows = [of(&|case| case.ours.measured(), "ours"), of(&|case| case.peer.measured(), "onnxruntime-web")];
        rows.into_iter().flatten().collect()
    }
}

fn plain(text: &str) -> String {
    text.replace(['|', '\n'], " ")
}

fn spread(values: &[f64]) -> String {
    let [low, median, high] = [25, 50, 75].map(|p| figure(percentile(values, p)));
    format!("{median} ({low}–{high})")
}

#[cfg(test)]
mod tests {
    use super::super::measure::{Case, Measured, Outcome};
    use super::Entry;

    #[test]
    fn steps_are_found_by_the_tokens_they_see() {
        // Sixteen steps after 248 tokens see 249 to 264.
        let steps = (249..265).map(f64::from).collect();
        let ours = Outcome::Measured(Measured { steps_ms: vec![steps], ..Measured::default() });
        let cases = vec![Case { prompt: 248, ours, peer: Outcome::Failed("no | browser".to_owned()) }];
        let entry = Entry {
            what: "here".to_owned(),
            devices: Default::default(),
            stand_in: false,
            tried: Vec::new(),
            cases,
            failed: None,
        };
        assert_eq!(entry.passing(), ["| here, ours | 255 | 256 | 257 | 258 | – | – | – | – |"]);
        let lines = entry.lines();
        assert!(
            lines[1].starts_with("| here | a step at 249 to 264 | 256 (252–260) | failed: no   browser |"),
            "{lines:?}"
        );
    }
}
