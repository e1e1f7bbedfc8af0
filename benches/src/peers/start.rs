//! From opening a page to the first result: cold, with an empty browser and a pool that knows nothing, and warm, with what
//! the first opening left in the profile.
//!
//! The clock starts when the browser asks for the address (which sends it on to the page that is measured), and stops when
//! the first output is in the host's memory. Starting the browser itself is not counted: it shows another page until it has
//! come to rest. Weights come over loopback.
//!
//! Where weights go through the page's memory, a bare page shows the limit of all this: it moves and hashes as many bytes in the same
//! ways, and computes nothing.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use tabpool::{ApiKind, ModelRequest, PoolEvent, ResourcePool};
use tabpool_browser::{BrowserKind, Installed};

use super::case::{Case, OUTPUT, Reference};
use super::contender::Surroundings;
use super::onnxruntime::{OPENING, WebSetup, running};
use crate::Fault;
use crate::rig::host::joined;
use crate::rig::milliseconds;
use crate::rig::page::Page;

/// From the start of a browser to the first result at most.
const LIMIT: Duration = Duration::from_secs(180);
const GRACE: Duration = Duration::from_secs(5);
/// How long a browser is left to itself after its start. Firefox alone computes for two seconds.
const SETTLING: Duration = Duration::from_secs(5);
/// How long a page stays open after its result: browsers, and tabs of ours, write down what they keep when nobody waits.
const KEEPING: Duration = Duration::from_secs(3);

/// Answers that a page takes whole, side by side, where streams are slow.
const WHOLE_ANSWERS: usize = 4;

/// One opening.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Opening {
    pub(super) ms: f64,
    /// Bytes of page and runtime, not of weights, that the server sent for it.
    pub(super) runtime_bytes: u64,
    pub(super) error: f32,
    /// Where the time went, where we can tell: of ours.
    pub(super) phases: Option<Phases>,
}

/// Where the time of an opening of ours went. What is left of [`Opening::ms`] is the run, and the ways between.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Phases {
    /// From the opening until the tab had joined.
    joined_ms: f64,
    /// The whole load.
    load_ms: f64,
    /// Of the load, waiting for blocks of weights.
    fetch_ms: f64,
    /// Of the load, making and compiling kernels or graphs.
    compile_ms: f64,
    /// Of the load, getting weights (waiting included) and bringing them onto the device.
    upload_ms: f64,
}

/// Openings of one contender, cold and warm.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Openings {
    cold: Vec<Opening>,
    warm: Vec<Opening>,
    /// What went wrong, where something did.
    pub(super) failed: Option<String>,
}

impl Openings {
    pub(super) fn cold(&self) -> &[Opening] {
        &self.cold
    }

    pub(super) fn warm(&self) -> &[Opening] {
        &self.warm
    }

    fn take(&mut self, result: Result<[Opening; 2], Fault>) {
        match result {
            Ok([cold, warm]) => {
                self.cold.push(cold);
                self.warm.push(warm);
            }
            Err(e) => self.failed = Some(e.to_string()),
        }
    }
}

/// What was opened in turn.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct InTurn {
    pub(super) ours: Openings,
    pub(super) peer: Openings,
    pub(super) bare: Option<Openings>,
}

/// What is opened where.
pub(super) struct Start<'a> {
    pub(super) here: &'a Surroundings,
    pub(super) on: &'a Installed,
    pub(super) api: ApiKind,
    /// How the peer is set up; ours decides by itself.
    pub(super) setup: WebSetup,
    pub(super) case: &'a Case,
    pub(super) reference: &'a Reference,
}

impl Start<'_> {
    /// Opens ours, the peer's page and, where it says something, the bare one in turn.
    pub(super) async fn measure(&self, rounds: usize) -> InTurn {
        let mut measured = InTurn::default();
        for _ in 0..rounds {
            measured.ours.take(self.ours().await);
            measured.peer.take(self.peer().await);
            if self.api == ApiKind::Cpu {
                measured.bare.get_or_insert_default().take(self.bare().await);
            }
        }
        measured
    }

    /// A pool that knows nothing, and a tab that is opened twice with the same profile.
    async fn ours(&self) -> Result<[Opening; 2], Fault> {
        let profile = "start-ours";
        self.here.starter.forget(profile)?;
        let pool = ResourcePool::builder().metrics_in_memory().build().await?;
        // The host has the model before anybody asks for it; reading it is no part of opening a page.
        let folder = self.case.subject.folder.display().to_string();
        let root = *pool.model(ModelRequest::new(folder)).await?.root();
        let mut openings = Vec::new();
        for _ in 0..2 {
            openings.push(tokio::time::timeout(LIMIT, self.open_ours(&pool, root, profile)).await.map_err(late)??);
        }
        pool.close().await?;
        self.here.starter.forget(profile)?;
        openings.try_into().map_err(|_| "two openings are two".into())
    }

    async fn open_ours(&self, pool: &ResourcePool, root: tabpool::Cid, profile: &str) -> Result<Opening, Fault> {
        let server = &self.here.server;
        let stamp = server.fresh_id();
        let url = server.stamped(stamp, &format!("{}&apis={}", pool.join_url(), self.api));
        let url = server.waiting(SETTLING, &url);
        let inputs = self.case.inputs()?;
        let bytes_before = pool.metrics().runtime_bytes;
        let mut events = pool.events();
        // The page may be open before whoever started its browser is sure of it.
        let answered = async {
            let worker = joined(&mut events).await?;
            let joined = Instant::now();
            let request = ModelRequest::new(&*self.case.subject.name).root(root).hardware([self.api]).pinned(worker);
            let answer = pool.model(request.timeout(LIMIT)).await?.run_for(inputs, &[OUTPUT]).await?;
            Ok((answer, joined, Instant::now()))
        };
        let started = self.here.starter.start(self.on, &url, Some(profile));
        let (browser, (answer, joined, end)) = tokio::try_join!(started, answered)?;
        let runtime_bytes = pool.metrics().runtime_bytes - bytes_before;
        tokio::time::sleep(KEEPING).await;
        browser.close(GRACE).await;
        let (_, output) = answer.outputs.first().ok_or("the answer is empty")?;
        let mut opening = self.opening(stamp, end, runtime_bytes, &output.to_f32()?)?;
        let begin = server.opened_at(stamp).unwrap_or(joined);
        while let Ok(event) = events.try_recv() {
            if let PoolEvent::Loaded { stats, .. } = event {
                let ms = |us: u64| milliseconds(Duration::from_micros(us));
                // The first one is what the answer waited for; later ones only find out what is faster.
                opening.phases.get_or_insert(Phases {
                    joined_ms: milliseconds(joined.saturating_duration_since(begin)),
                    load_ms: ms(stats.total_us),
                    fetch_ms: ms(stats.fetch_us),
                    compile_ms: ms(stats.compile_us),
                    upload_ms: ms(stats.upload_us),
                });
            }
        }
        Ok(opening)
    }

    async fn peer(&self) -> Result<[Opening; 2], Fault> {
        let profile = "start-peer";
        self.here.starter.forget(profile)?;
        let openings = [self.open_peer(profile).await?, self.open_peer(profile).await?];
        self.here.starter.forget(profile)?;
        Ok(openings)
    }

    async fn open_peer(&self, profile: &str) -> Result<Opening, Fault> {
        let server = &self.here.server;
        let (stamp, line) = (server.fresh_id(), server.line());
        let page = server.url(&format!("pages/onnxruntime-web.html?page={}", line.id));
        let bytes_before = server.runtime_bytes();
        let url = server.waiting(SETTLING, &server.stamped(stamp, &page));
        line.tell(&self.setup.opening(self.case)).await?;
        let browser = self.here.starter.start(self.on, &url, Some(profile)).await?;
        let mut page = Page::of(browser, line);
        page.answer(OPENING).await?;
        let answer = page.ask(&running(self.case, true), LIMIT).await?;
        let runtime_bytes = server.runtime_bytes() - bytes_before;
        tokio::time::sleep(KEEPING).await;
        page.close(server).await;
        self.opening(stamp, answer.at, runtime_bytes, &answer.output)
    }

    /// A page that brings the model's file into memory, piece by piece hashed: the first time from the server, the second time from
    /// where it kept it.
    async fn bare(&self) -> Result<[Opening; 2], Fault> {
        let profile = "start-bare";
        self.here.starter.forget(profile)?;
        let weights = self.case.subject.folder.join("model.safetensors");
        let weights = std::fs::read(&weights).map_err(|e| format!("{}: {e}", weights.display()))?;
        let length = weights.len();
        self.here.server.hold(weights.into());
        let openings = [self.open_bare(profile, length, false).await?, self.open_bare(profile, length, true).await?];
        self.here.server.hold(Vec::new().into());
        self.here.starter.forget(profile)?;
        Ok(openings)
    }

    async fn open_bare(&self, profile: &str, length: usize, kept: bool) -> Result<Opening, Fault> {
        let server = &self.here.server;
        let (stamp, line) = (server.fresh_id(), server.line());
        let page = server.url(&format!("pages/bare.html?page={}", line.id));
        let url = server.waiting(SETTLING, &server.stamped(stamp, &page));
        // As our own pages take them in these browsers.
        let answers = if self.on.kind == BrowserKind::Firefox { WHOLE_ANSWERS } else { 1 };
        line.tell(&json!({ "do": "move", "length": length, "answers": answers, "kept": kept })).await?;
        let browser = self.here.starter.start(self.on, &url, Some(profile)).await?;
        let mut page = Page::of(browser, line);
        let answer = page.answer(LIMIT).await?;
        if !kept {
            page.ask(&json!({ "do": "keep" }), LIMIT).await?;
        }
        tokio::time::sleep(KEEPING).await;
        page.close(server).await;
        let begin = server.opened_at(stamp).ok_or("the page was never opened")?;
        let ms = milliseconds(answer.at.duration_since(begin));
        Ok(Opening { ms, runtime_bytes: 0, error: 0.0, phases: None })
    }

    fn opening(&self, stamp: u64, end: Instant, runtime_bytes: u64, output: &[f32]) -> Result<Opening, Fault> {
        let begin = self.here.server.opened_at(stamp).ok_or("the page was never opened")?;
        let error = self.reference.error_of(self.case, output);
        Ok(Opening { ms: milliseconds(end.duration_since(begin)), runtime_bytes, error, phases: None })
    }
}

fn late(_: tokio::time::error::Elapsed) -> Fault {
    format!("no result within {} s", LIMIT.as_secs()).into()
}
