//! What keeping workers and sharing them out is worth: the same mixed requests in a browser started for each, on one worker
//! that is kept, and on all workers at once.
//!
//! Text is all-MiniLM-L6-v2; the models for pictures and sounds have weights drawn for them. The tabs are of one browser, compute
//! on the processor with a thread each, and join a real pool; a browser started for a request has all threads, as it would.
//!
//! Nothing here is a constant of an earlier run: ratios come from this run's figures.

#![expect(clippy::print_stdout, reason = "what is measured is shown as it comes")]

mod options;
mod report;
mod subjects;
mod ways;

use std::path::PathBuf;

use tabpool::{ApiKind, Cid, SearchPaths};
use tabpool_browser::{GpuMode, Installed};

pub use options::Options;

use crate::Fault;
use crate::rig::host::Host;
use crate::rig::machine::Machine;
use crate::rig::page::Starter;
use report::Report;
use subjects::Subject;
use ways::{Times, agree, at_once, each_anew, one_by_one, ready};

/// Where things are.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The repository.
    pub root: PathBuf,
    /// all-MiniLM-L6-v2.
    pub model: PathBuf,
    /// What the benchmark writes.
    pub out: PathBuf,
}

/// What every way needs.
#[derive(Debug)]
struct Surroundings {
    host: Host,
    starter: Starter,
    on: Installed,
    api: ApiKind,
    subjects: Vec<Subject>,
    /// Their folders, imported.
    roots: Vec<Cid>,
}

impl Surroundings {
    /// The subject of each request, the kinds mixed.
    fn requests(&self, count: usize) -> Vec<(usize, usize)> {
        (0..count).map(|number| (number % self.subjects.len(), number / self.subjects.len())).collect()
    }
}

/// Measures, prints, and keeps it.
///
/// # Errors
/// Where a browser or a worker is not there, or answers differ.
pub async fn run(options: &Options, folders: &Folders) -> Result<(), Fault> {
    let found = tokio::task::spawn_blocking(|| tabpool::discover(&SearchPaths::from_env())).await?;
    let wanted = |browser: &Installed| browser.kind.name() == options.browser;
    let on = found.installed.into_iter().find(wanted).ok_or_else(|| format!("there is no {}", options.browser))?;
    let machine = Machine::read(std::slice::from_ref(&on));
    println!("{machine}\n");
    let scratch = tempfile::Builder::new().prefix("tabpool-bench-").tempdir()?;
    // A pool has at least one slot; the native worker in it is asked for nothing.
    let host = Host::start(&scratch.path().join("data"), &[1]).await?;
    let subjects = subjects::write(&folders.model, scratch.path())?;
    let mut roots = Vec::new();
    for subject in &subjects {
        roots.push(*host.accelerator.accelerate_model(subject.folder.display().to_string()).await?.handle().root());
    }
    let here = Surroundings {
        host,
        starter: Starter { profiles: scratch.path().join("profiles"), gpu: GpuMode::detect() },
        on,
        api: options.api()?,
        subjects,
        roots,
    };
    let requests = here.requests(options.requests);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let mut report = Report::new(machine, options, &here, cores);

    report.anew = each_anew(&here, options.samples, cores).await?;
    println!("a browser for each request: {:?}", report.anew);

    let whole = here.host.tab(&here.starter, &here.on, (here.api, Some(cores))).await?;
    ready(&here, &whole).await?;
    for round in 0..=options.rounds {
        report.add(round, "whole", one_by_one(&here, &whole, &requests).await?.0);
    }
    whole.close().await;

    let one = here.host.tab(&here.starter, &here.on, (here.api, Some(1))).await?;
    ready(&here, &one).await?;
    let mut others = Vec::new();
    for _ in 1..cores {
        let other = here.host.tab(&here.starter, &here.on, (here.api, Some(1))).await?;
        ready(&here, &other).await?;
        others.push(other);
    }
    // One and all take turns, so that whatever else the machine does is unfair to both alike. The first round does not count: what
    // computes in two stages has compiled the second by then.
    for round in 0..=options.rounds {
        let (times, right) = one_by_one(&here, &one, &requests).await?;
        report.add(round, "one", times);
        let (times, answers) = at_once(&here, &requests).await?;
        agree(&right, &answers)?;
        report.add(round, "pool", times);
    }
    for worker in others.into_iter().chain([one]) {
        worker.close().await;
    }
    report.finish(options, folders)?;
    Ok(here.host.accelerator.close().await?)
}

/// A way's times in a round that counts.
type Rounds = Vec<Times>;
