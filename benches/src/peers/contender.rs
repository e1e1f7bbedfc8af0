//! One who is measured: ours or a peer's, in a browser or native, behind one call.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tabpool::ApiKind;
use tabpool_browser::Installed;

use super::case::{Case, OUTPUT};
use super::onnxruntime::{Native, Web, WebSetup};
use super::ours;
use crate::Fault;
use crate::rig::host::{Host, Worker};
use crate::rig::page::{Page, Starter};
use crate::rig::server::PeerServer;

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// By the clock of whoever computed: from inputs in its memory to the output in its memory.
    pub(super) ms: f64,
    /// By the caller's clock, over the link; nothing where there is no link.
    pub(super) caller_ms: Option<f64>,
    /// The output, where it was to be kept.
    pub(super) output: Option<Vec<f32>>,
}

/// How long a run may take. What takes longer is of no use to anybody, and counts as failed.
pub(super) const RUN_LIMIT: Duration = Duration::from_secs(60);
/// How long a browser that was just started is left alone: it still does other things.
pub(super) const SETTLING: Duration = Duration::from_secs(5);

/// Who is to compute, and how.
#[derive(Clone, Debug)]
pub(super) enum Entrant {
    /// A tab of ours in a browser, with so many threads where it computes on the processor.
    Tab { on: Installed, api: ApiKind, threads: Option<usize> },
    /// onnxruntime-web in a browser.
    Page { on: Installed, setup: WebSetup },
    /// Our native worker of that place in the pool.
    Worker { at: usize },
    /// onnxruntime natively.
    Process { threads: usize },
}

/// What everybody who is measured needs from outside.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) server: PeerServer,
    pub(super) starter: Starter,
    pub(super) host: Host,
    /// Where the Python packages are.
    pub(super) packages: PathBuf,
    /// Where the subjects' ONNX files are.
    pub(super) models: PathBuf,
}

/// Who computes.
#[derive(Debug)]
enum Contender {
    Ours(Worker),
    Web(Web),
    Native(Box<Native>),
}

/// An entrant's place: filled when it is first needed, and again after what it held was lost.
#[derive(Debug)]
pub(super) struct Place<'a> {
    here: &'a Surroundings,
    entrant: Entrant,
    contender: Option<Contender>,
    /// What it computes on, as it says itself.
    pub(super) device: String,
}

impl<'a> Place<'a> {
    pub(super) fn new(here: &'a Surroundings, entrant: Entrant) -> Self {
        Self { here, entrant, contender: None, device: String::new() }
    }

    /// Starts the contender if it does not run. Returns once it may be measured.
    pub(super) async fn fill(&mut self) -> Result<(), Fault> {
        if self.contender.is_some() {
            return Ok(());
        }
        let here = self.here;
        let contender = match &self.entrant {
            Entrant::Tab { on, api, threads } => {
                let worker = here.host.tab(&here.starter, on, (*api, *threads)).await?;
                self.device = here.host.device(&worker);
                Contender::Ours(worker)
            }
            Entrant::Page { on, setup } => {
                let page = Page::open(&here.server, &here.starter, on, "onnxruntime-web.html").await?;
                self.device = setup.name();
                Contender::Web(Web::new(page, setup.clone()))
            }
            Entrant::Worker { at } => {
                let worker = here.host.native(*at)?;
                self.device = here.host.device(&worker);
                Contender::Ours(worker)
            }
            Entrant::Process { threads } => {
                let native = Native::start(&here.packages, &here.models, *threads).await?;
                self.device = format!("onnxruntime {}", native.version);
                Contender::Native(Box::new(native))
            }
        };
        if matches!(self.entrant, Entrant::Tab { .. } | Entrant::Page { .. }) {
            tokio::time::sleep(SETTLING).await;
        }
        self.contender = Some(contender);
        Ok(())
    }

    /// Computes a case once. A contender that fails is ended: what it left behind would disturb the others.
    ///
    /// # Errors
    /// Whatever keeps it from answering within [`RUN_LIMIT`].
    pub(super) async fn run(&mut self, case: &Case, keep: bool) -> Result<Run, Fault> {
        self.fill().await?;
        let result = match self.contender.as_mut().ok_or("nobody computes")? {
            Contender::Ours(worker) => {
                match tokio::time::timeout(RUN_LIMIT, ours::run(&self.here.host, case, worker, keep)).await {
                    Ok(run) => run,
                    Err(_) => Err(format!("no answer within {} s", RUN_LIMIT.as_secs()).into()),
                }
            }
            Contender::Web(web) => web.run(case, keep).await,
            Contender::Native(native) => native.run(case, keep).await,
        };
        if result.is_err() {
            self.empty().await;
        }
        result
    }

    /// Waits until it is as fast as it will be: ours chooses its kernels while nobody waits.
    pub(super) async fn settled(&self) {
        if let Some(Contender::Ours(worker)) = &self.contender {
            self.here.host.settled(worker).await;
        }
    }

    /// Answers a second to a case, with so many requests of ours under way at once; a peer's page and process do one thing
    /// at a time, and are asked again as soon as they have answered.
    ///
    /// # Errors
    /// As [`Place::run`].
    pub(super) async fn throughput(&mut self, case: &Case, at_once: usize, time: Duration) -> Result<f64, Fault> {
        self.fill().await?;
        let begin = Instant::now();
        let mut answers = 0_u32;
        if let Some(Contender::Ours(worker)) = &mut self.contender {
            let model = ours::model(&self.here.host, &case.subject, worker).await?;
            let inputs = case.inputs()?;
            let runs = (0..at_once).map(async |_| {
                let mut answers = 0_u32;
                while begin.elapsed() < time {
                    model.run_for(inputs.clone(), &[OUTPUT]).await?;
                    answers += 1;
                }
                Ok::<_, Fault>(answers)
            });
            for of_one in join_all(runs).await {
                answers += of_one?;
            }
        } else {
            while begin.elapsed() < time {
                self.run(case, false).await?;
                answers += 1;
            }
        }
        Ok(f64::from(answers) / begin.elapsed().as_secs_f64())
    }

    /// Ends the contender.
    pub(super) async fn empty(&mut self) {
        match self.contender.take() {
            Some(Contender::Ours(worker)) => worker.close().await,
            Some(Contender::Web(web)) => web.page.close(&self.here.server).await,
            Some(Contender::Native(native)) => native.close().await,
            None => {}
        }
    }
}
