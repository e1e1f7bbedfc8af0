//! What was measured, as JSON and as the table of `benches/README.md`.

use std::fmt::Write as _;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{Folders, HELD, Options, Parts, Side};
use crate::Fault;
use crate::rig::machine::Machine;
use crate::rig::{figure, keep_in_readme, load, percentile};

const BEGIN: &str = "<!-- overhead: begin -->";
const END: &str = "<!-- overhead: end -->";
/// The goals: the median of a request in microseconds at most, and requests a second at least.
const MEDIAN_US: f64 = 300.0;
const RATE_HZ: f64 = 10_000.0;

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    command: String,
    /// Seconds since 1970.
    at: u64,
    /// By the system's count, at the end.
    load: String,
    at_once: usize,
    /// The bytes of a question and of its answer.
    sizes: [usize; 2],
    ours: Side,
    bare: Side,
    /// The same with no more at a time than a worker holds.
    held: Side,
    parts: Parts,
    /// Measurements that did not fit into the recorder's queue.
    lost: u64,
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        options: &Options,
        sizes: [usize; 2],
        [ours, bare, held]: [Side; 3],
        parts: Parts,
        lost: u64,
    ) -> Self {
        let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        Self {
            machine,
            command: format!("cargo xtask bench overhead {arguments}").trim_end().to_owned(),
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            load: load(),
            at_once: options.at_once,
            sizes,
            ours,
            bare,
            held,
            parts,
            lost,
        }
    }

    /// Shows and keeps it; writes the table where a whole run or `--write` asks for it.
    pub(super) fn finish(&self, options: &Options, folders: &Folders) -> Result<(), Fault> {
        let path = folders.out.join(format!("overhead-{}.json", self.at));
        fs::create_dir_all(&folders.out)?;
        fs::write(&path, serde_json::to_string_pretty(self)?).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("{}", self.markdown());
        if options.whole() || options.write {
            let path = keep_in_readme(&folders.root, [BEGIN, END], &self.markdown())?;
            println!("written to {}", path.display());
        }
        Ok(())
    }

    fn markdown(&self) -> String {
        let Self { machine, command, load, at_once, sizes: [question, answer], ours, bare, held, parts, lost, .. } =
            self;
        let mut text = format!(
            "\n`{command}` on {machine}. A request is a frame of {question} bytes, its answer one of {answer}. Load of the \
             machine at the end, by the system's count: {load}.\n\n| | ours | bare WebSocket | ours over bare |\n|---|---|---|---|\n"
        );
        let rows = [
            ("one at a time, median, µs".to_owned(), ours.alone(50), bare.alone(50)),
            ("one at a time, 99th percentile, µs".to_owned(), ours.alone(99), bare.alone(99)),
            (format!("{at_once} at a time, a second"), ours.rate(), bare.rate()),
            (format!("{at_once} at a time, processor time each, µs"), ours.processor(), bare.processor()),
            (format!("{at_once} at a time beside {HELD}, which a worker holds, a second"), ours.rate(), held.rate()),
            ("the same, processor time each, µs".to_owned(), ours.processor(), held.processor()),
        ];
        for (what, ours, bare) in rows {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {what} | {} | {} | **{:.2}** |", figure(ours), figure(bare), ours / bare);
        }
        let [queue, transfer, hands] =
            [&parts.queue_us, &parts.transfer_us, &parts.hands_us].map(|times| figure(percentile(times, 50)));
        let _ = writeln!(
            text,
            "\nOf ours, one at a time: {queue} µs from the actor's inbox to the link, {transfer} µs on the link, in the worker and \
             back to the actor, {hands} µs to the actor and from it to the caller (medians). {lost} measurements did not fit \
             into the queue of the database.\n\n| goal | | measured | |\n|---|---|---|---|"
        );
        for (what, bound, measured, met) in [
            ("median of a request, µs", format!("under {MEDIAN_US}"), ours.alone(50), ours.alone(50) < MEDIAN_US),
            ("requests a second", format!("at least {RATE_HZ}"), ours.rate(), ours.rate() >= RATE_HZ),
        ] {
            let met = if met { "met" } else { "**not met**" };
            let _ = writeln!(text, "| {what} | {bound} | {} | {met} |", figure(measured));
        }
        text.push('\n');
        text
    }
}
