//! tabpool beside its named peers, on the same machine and in the same run.
//!
//! Contenders run the same model on the same tokens and give the same output, back in memory as 32-bit floats. In a browser
//! each side has a browser of its own, the same program with the same flags, and its pages are isolated from other
//! origins, so that both have threads. Weights are loaded before the timed part. Rounds interleave the sides; what is
//! shown are medians and quartiles, and the largest error against the scalar oracle.
//!
//! Nothing here is a constant of an earlier run: ratios come from this run's figures, and what failed is shown as failed.

#![expect(clippy::print_stdout, reason = "what is measured is shown as it comes: a whole run takes an hour")]

mod case;
mod contender;
mod first;
mod goals;
mod measure;
mod onnxruntime;
mod options;
mod ours;
mod peaks;
mod pipeline;
mod report;
mod start;
mod wasm;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use tabpool::{ApiKind, SearchPaths};
use tabpool_browser::{GpuMode, Installed};

pub use options::{Options, Part};

use crate::Fault;
use crate::onnx::export_bert;
use crate::rig::host::Host;
use crate::rig::machine::{self, Machine};
use crate::rig::page::Starter;
use crate::rig::server::{PeerServer, Root};
use case::{Case, Reference, Subject};
use contender::{Entrant, Place, Surroundings};
use first::First;
use measure::{Measured, interleaved, two_at_once};
use onnxruntime::WebSetup;
use pipeline::{Pipeline, Texts};
use report::{FirstRow, PipelineRow, Report, Row, StartRow};
use start::Start;

/// Tokens of the case by which openings and first runs are measured.
const START_TOKENS: usize = 128;
/// Rounds by which one of the peer's builds is chosen.
const CHOOSING_ROUNDS: usize = 3;

/// Where the peers are, our model, and where results go.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The repository.
    pub root: PathBuf,
    /// The unpacked packages: `onnxruntime-web`, `transformers`, `python` and so on.
    pub peers: PathBuf,
    /// all-MiniLM-L6-v2.
    pub model: PathBuf,
    /// What the benchmark writes.
    pub out: PathBuf,
}

/// Measures what the options name, prints it, and keeps it.
///
/// # Errors
/// Where nothing can be measured at all. A contender that fails is part of the result.
pub async fn run(options: &Options, folders: &Folders) -> Result<(), Fault> {
    let browsers = browsers(options).await?;
    let machine = Machine::read(&browsers);
    println!("{machine}\n");
    let mut report = Report::new(machine);
    let subjects = subjects(options, folders)?;
    let models = folders.out.join("models");
    for subject in &subjects {
        lay_out(subject, &models.join(&subject.name))?;
    }
    let scratch = tempfile::Builder::new().prefix("tabpool-bench-").tempdir()?;
    let here = Surroundings {
        server: PeerServer::start(roots(folders, &models)).await?,
        starter: Starter { profiles: scratch.path().join("profiles"), gpu: GpuMode::detect() },
        host: Host::start(&folders.out.join("data"), &options.threads).await?,
        packages: folders.peers.join("python"),
        models,
    };
    let bench = Bench { options, folders, here: &here, subjects: &subjects };
    if options.wants(Part::Peaks) {
        for on in &browsers {
            match peaks::measure(&here, on, &options.threads).await {
                Ok(peaks) => report.peaks(peaks, folders)?,
                Err(e) => println!("{}: peaks: {e}", on.kind),
            }
        }
    }
    if options.wants(Part::Runs) {
        bench.runs(&browsers, &mut report).await?;
    }
    if options.wants(Part::First) {
        bench.firsts(&browsers, &mut report).await?;
    }
    if options.wants(Part::Start) {
        bench.starts(&browsers, &mut report).await?;
    }
    if options.wants(Part::Pipeline) {
        bench.pipelines(&browsers, &mut report).await?;
    }
    report.finish(options, folders)?;
    Ok(here.host.accelerator.close().await?)
}

struct Bench<'a> {
    options: &'a Options,
    folders: &'a Folders,
    here: &'a Surroundings,
    subjects: &'a [Subject],
}

impl Bench<'_> {
    async fn runs(&self, browsers: &[Installed], report: &mut Report) -> Result<(), Fault> {
        let mut references = References::default();
        for on in browsers {
            for (api, threads) in self.settings(on) {
                let ours = Entrant::Tab { on: on.clone(), api, threads };
                let setup = self.best_setup(on, api, threads.unwrap_or(1), report).await?;
                let peer = Entrant::Page { on: on.clone(), setup };
                self.pair(&Heading::of(on, api, threads), [ours, peer], &mut references, report).await?;
            }
        }
        for (at, threads) in self.native() {
            let entrants = [Entrant::Worker { at }, Entrant::Process { threads }];
            self.pair(&Heading::native(threads), entrants, &mut references, report).await?;
        }
        Ok(())
    }

    /// The native workers that are wanted: their places in the pool, and their threads.
    fn native(&self) -> Vec<(usize, usize)> {
        let wanted = self.options.wants_browser("native") && self.options.wants_api("cpu");
        self.options.threads.iter().copied().enumerate().filter(|_| wanted).collect()
    }

    /// First runs after a load, everywhere.
    async fn firsts(&self, browsers: &[Installed], report: &mut Report) -> Result<(), Fault> {
        let Some(case) = self.start_case() else { return Ok(()) };
        let openings = if self.options.quick { 3 } else { 5 };
        let first = First { here: self.here, case: &case, openings };
        for on in browsers {
            for (api, threads) in self.settings(on) {
                let ours = first.tabs(on, api, threads).await;
                let setup = report.chosen_setup(on.kind.name(), api, threads.unwrap_or(1))?;
                let peer = first.peers_where_slow(&ours, Entrant::Page { on: on.clone(), setup }).await;
                report.first(FirstRow::new(&Heading::of(on, api, threads), ours, peer), self.folders)?;
            }
        }
        for (_, threads) in self.native() {
            let ours = first.natives(threads).await;
            let peer = first.peers_where_slow(&ours, Entrant::Process { threads }).await;
            report.first(FirstRow::new(&Heading::native(threads), ours, peer), self.folders)?;
        }
        Ok(())
    }

    /// The peer's build that is fastest here: where it has several for an API, each runs one case, in turn. Which
    /// one leads differs by browser and by adapter, and a peer that is not at its best proves nothing.
    async fn best_setup(
        &self,
        on: &Installed,
        api: ApiKind,
        threads: usize,
        report: &mut Report,
    ) -> Result<WebSetup, Fault> {
        if !self.options.onnxruntime_build.is_empty() {
            return WebSetup::of(api, threads).build(&self.options.onnxruntime_build);
        }
        // The case that the goals are about, or of what is measured the one nearest to it: the largest model's.
        let far = |case: &Case| {
            let size = case.subject.sizes.hidden * case.subject.sizes.layers;
            (std::cmp::Reverse(size), case.batch, case.sequence.abs_diff(START_TOKENS))
        };
        let nearest = self.cases().into_iter().min_by_key(far);
        let (Some(case), ApiKind::WebGpu) = (nearest, api) else { return Ok(WebSetup::of(api, threads)) };
        let reference = References::default().of(&case, self.here, &self.folders.out.join("references")).await?;
        let builds = ["webgpu", "jspi", "all"];
        let setups = builds.map(|name| WebSetup::of(api, threads).build(name));
        let mut places = Vec::new();
        for setup in &setups {
            let setup = setup.as_ref().map_err(ToString::to_string)?.clone();
            places.push(Place::new(self.here, Entrant::Page { on: on.clone(), setup }));
        }
        let mut each: Vec<&mut Place<'_>> = places.iter_mut().collect();
        let rounds = if self.options.quick { 1 } else { CHOOSING_ROUNDS };
        let outcomes = interleaved(&mut each, &case, &reference, rounds).await;
        let mut best: Option<(f64, usize)> = None;
        for (at, outcome) in outcomes.iter().enumerate() {
            let median = outcome.measured().map(Measured::median);
            if let Some(median) = median.filter(|median| best.is_none_or(|(fastest, _)| *median < fastest)) {
                best = Some((median, at));
            }
        }
        for mut place in places {
            place.empty().await;
        }
        let chosen = builds[best.map_or(0, |(_, at)| at)];
        report.choice(on.kind.name(), chosen, builds.iter().copied().zip(outcomes).collect(), self.folders)?;
        WebSetup::of(api, threads).build(chosen)
    }

    /// The APIs of a browser that are wanted.
    fn apis(&self, on: &Installed) -> Vec<ApiKind> {
        // The browser that has WebNN is there for that; with --api it is measured with the others, too.
        let there = |api: &ApiKind| match machine::has_webnn(on) {
            true => *api == ApiKind::WebNn || !self.options.api.is_empty(),
            false => *api != ApiKind::WebNn,
        };
        let wanted = |api: &ApiKind| self.options.wants_api(&api.to_string());
        [ApiKind::Cpu, ApiKind::WebGpu, ApiKind::WebNn].into_iter().filter(there).filter(wanted).collect()
    }

    /// The same, on the processor with each number of threads.
    fn settings(&self, on: &Installed) -> Vec<(ApiKind, Option<usize>)> {
        let threads = |api| match api {
            ApiKind::Cpu => self.options.threads.iter().map(|threads| Some(*threads)).collect(),
            _ => vec![None],
        };
        self.apis(on).into_iter().flat_map(|api| threads(api).into_iter().map(move |t| (api, t))).collect()
    }

    /// How long a page takes to its first result, with every API.
    async fn starts(&self, browsers: &[Installed], report: &mut Report) -> Result<(), Fault> {
        let Some(case) = self.start_case() else { return Ok(()) };
        let reference = References::default().of(&case, self.here, &self.folders.out.join("references")).await?;
        let threads = self.most_threads();
        for on in browsers {
            for api in self.apis(on) {
                let setup = report.chosen_setup(on.kind.name(), api, threads)?;
                let start = Start { here: self.here, on, api, setup, case: &case, reference: &reference };
                let measured = start.measure(if self.options.quick { 1 } else { 3 }).await;
                let browser = on.kind.name().to_owned();
                report.start(StartRow { browser, api, measured }, self.folders)?;
            }
        }
        Ok(())
    }

    /// The case by which openings and first runs are measured.
    fn start_case(&self) -> Option<Case> {
        let subject = self.subjects.first()?;
        Some(Case { subject: subject.clone(), batch: 1, sequence: START_TOKENS.min(subject.sizes.positions) })
    }

    /// Texts to embeddings, with every API.
    async fn pipelines(&self, browsers: &[Installed], report: &mut Report) -> Result<(), Fault> {
        // The texts' embeddings are known for this model.
        let Some(subject) = self.subjects.iter().find(|subject| subject.name == "minilm") else { return Ok(()) };
        let texts = Texts::read(&self.folders.root)?;
        let threads = self.most_threads();
        for on in browsers {
            for api in self.apis(on) {
                let pipeline = Pipeline { here: self.here, on, api, threads, subject, texts: &texts };
                for embedded in pipeline.measure(&self.options.batch, self.options.rounds()).await {
                    let browser = on.kind.name().to_owned();
                    report.pipeline(PipelineRow { browser, api, embedded }, self.folders)?;
                }
            }
        }
        Ok(())
    }

    fn most_threads(&self) -> usize {
        self.options.threads.iter().copied().max().unwrap_or(1)
    }

    async fn pair(
        &self,
        heading: &Heading,
        [ours, peer]: [Entrant; 2],
        references: &mut References,
        report: &mut Report,
    ) -> Result<(), Fault> {
        let (mut ours, mut peer) = (Place::new(self.here, ours), Place::new(self.here, peer));
        for case in self.cases() {
            let reference = references.of(&case, self.here, &self.folders.out.join("references")).await?;
            let rounds = self.options.rounds();
            let mut outcomes = interleaved(&mut [&mut ours, &mut peer], &case, &reference, rounds).await;
            let (Some(its), Some(own)) = (outcomes.pop(), outcomes.pop()) else { continue };
            let devices = [ours.device.clone(), peer.device.clone()];
            report.row(Row::new(heading, &case, [own, its], devices), self.folders)?;
        }
        if heading.api == ApiKind::WebNn {
            for case in self.cases().iter().filter(|case| case.sequence == START_TOKENS) {
                let rounds = if self.options.quick { 2 } else { 5 };
                let two = two_at_once(&heading.browser, [&mut ours, &mut peer], case, rounds).await;
                report.two(two, self.folders)?;
            }
        }
        ours.empty().await;
        peer.empty().await;
        Ok(())
    }

    fn cases(&self) -> Vec<Case> {
        let mut all = Vec::new();
        for subject in self.subjects {
            for &batch in &self.options.batch {
                let most = subject.sizes.positions;
                // A fixture that takes fewer tokens is measured at the most it takes.
                let mut sequences: Vec<_> = self.options.sequences().iter().map(|s| *s.min(&most)).collect();
                sequences.dedup();
                all.extend(sequences.into_iter().map(|sequence| Case { subject: subject.clone(), batch, sequence }));
            }
        }
        all
    }
}

/// What the rows of one pair have in common.
#[derive(Clone, Debug)]
struct Heading {
    browser: String,
    api: ApiKind,
    threads: Option<usize>,
}

impl Heading {
    fn of(on: &Installed, api: ApiKind, threads: Option<usize>) -> Self {
        Self { browser: on.kind.name().to_owned(), api, threads }
    }

    fn native(threads: usize) -> Self {
        Self { browser: "native".to_owned(), api: ApiKind::Cpu, threads: Some(threads) }
    }
}

/// References that were needed so far.
#[derive(Debug, Default)]
struct References(HashMap<(String, usize, usize), Reference>);

impl References {
    async fn of(&mut self, case: &Case, here: &Surroundings, kept: &Path) -> Result<Reference, Fault> {
        let key = (case.subject.name.clone(), case.batch.min(2), case.sequence);
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let opened = here.host.accelerator.accelerate_model(case.subject.folder.display().to_string()).await?;
        let (case, kept) = (case.clone(), kept.to_owned());
        let handle = opened.handle().clone();
        let work = move || Reference::of(&case, handle.model(), handle.root(), &kept);
        let reference = tokio::task::spawn_blocking(work).await??;
        self.0.insert(key, reference.clone());
        Ok(reference)
    }
}

async fn browsers(options: &Options) -> Result<Vec<Installed>, Fault> {
    let found = tokio::task::spawn_blocking(|| tabpool::discover(&SearchPaths::from_env())).await?;
    let wanted = found.installed.into_iter().filter(|b| options.wants_browser(b.kind.name()));
    Ok(wanted.collect())
}

fn subjects(options: &Options, folders: &Folders) -> Result<Vec<Subject>, Fault> {
    let fixtures = folders.root.join("tests/fixtures");
    let all = [("minilm", folders.model.clone()), ("bert_odd", fixtures.join("bert_odd"))];
    let chosen = all.iter().filter(|(name, _)| options.wants_model(name));
    chosen.map(|(name, folder)| Subject::read(name, folder)).collect()
}

/// A subject as the peers expect it: the ONNX file in `onnx/`, the tokenizer's files beside that folder.
fn lay_out(subject: &Subject, folder: &Path) -> Result<(), Fault> {
    fs::create_dir_all(folder.join("onnx"))?;
    let model = folder.join("onnx/model.onnx");
    let newer = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
    let program = std::env::current_exe()?;
    // The exporter is part of this program: what an older one wrote is written again.
    let stale = newer(&model).ok().is_none_or(|made| newer(&program).is_ok_and(|built| built > made));
    if stale {
        export_bert(&subject.folder, &model)?;
    }
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        let from = subject.folder.join(file);
        if from.is_file() {
            fs::copy(&from, folder.join(file)).map_err(|e| format!("{}: {e}", from.display()))?;
        }
    }
    Ok(())
}

fn roots(folders: &Folders, models: &Path) -> Vec<Root> {
    let root = |segment: &str, folder: PathBuf, runtime| Root { segment: segment.to_owned(), folder, runtime };
    vec![
        root("pages", Path::new(env!("CARGO_MANIFEST_DIR")).join("pages"), true),
        root("waiting", Path::new(env!("CARGO_MANIFEST_DIR")).join("pages"), false),
        root("models", models.to_owned(), false),
        root("onnxruntime-web", folders.peers.join("onnxruntime-web/dist"), true),
        root("transformers", folders.peers.join("transformers/dist"), true),
        root("transformers-onnxruntime-web", folders.peers.join("transformers-onnxruntime-web/dist"), true),
    ]
}
