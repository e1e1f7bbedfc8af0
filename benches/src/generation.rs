//! One token after another, beside onnxruntime-web in the same browser.
//!
//! Both sides have the same weights, are given the same prompts and choose the likeliest token; what they say has to be the
//! same. Each has a browser of its own, the same program with the same flags. Of ours a round is a whole generation through
//! the pool, with a session of its own; of the peer it is as many steps as a page makes after a prompt that it has read. On
//! WebGPU the peer's caches stay in the device's buffers.
//!
//! Nothing here is a constant of an earlier run: ratios come from this run's figures, and what failed is shown as failed.

#![expect(clippy::print_stdout, reason = "what is measured is shown as it comes")]

mod measure;
mod options;
mod report;
mod sides;
mod subject;

use std::path::{Path, PathBuf};

use tabpool::{ApiKind, SearchPaths};
use tabpool_browser::{GpuMode, Installed};

pub use options::Options;

use crate::Fault;
use crate::onnx::{Gpt2Form, Gpt2Sizes};
use crate::rig::host::Host;
use crate::rig::machine::{Machine, has_webnn};
use crate::rig::page::Starter;
use crate::rig::percentile;
use crate::rig::server::{PeerServer, Root};
use measure::{Expected, Outcome, SLOW, interleaved, same, warm_up};
use report::{Entry, Report, Tried};
use sides::{Ours, Peer, Setup};
use subject::{FORMS, Subject};

/// Steps by which the fastest of the peer's setups is chosen.
const CHOOSING_STEPS: usize = 8;
/// How many steps count as much as one reading of the prompt there.
const STEPS_A_PROMPT: f64 = 32.0;

/// Where the peers are, and where results go.
#[derive(Clone, Debug)]
pub struct Folders {
    /// The repository.
    pub root: PathBuf,
    /// The unpacked packages: `onnxruntime-web`.
    pub peers: PathBuf,
    /// What the benchmark writes.
    pub out: PathBuf,
}

/// What both sides need from outside.
#[derive(Debug)]
struct Surroundings {
    server: PeerServer,
    starter: Starter,
    host: Host,
    /// Of the native workers, in their order.
    threads: Vec<usize>,
}

/// Where it is computed.
#[derive(Clone, Debug)]
struct Setting {
    /// The browser; nothing where it is natively.
    on: Option<Installed>,
    api: ApiKind,
    threads: Option<usize>,
}

impl Setting {
    fn what(&self) -> String {
        let browser = self.on.as_ref().map_or("native", |on| on.kind.name());
        let api = if self.api == ApiKind::Cpu && self.on.is_some() { "wasm".to_owned() } else { self.api.to_string() };
        let threads =
            self.threads.map_or_else(String::new, |t| format!(", {t} thread{}", if t == 1 { "" } else { "s" }));
        format!("{browser} {api}{threads}")
    }
}

/// Measures what the options name, prints it, and keeps it.
///
/// # Errors
/// Where nothing can be measured at all. A side that fails is part of the result.
pub async fn run(options: &Options, folders: &Folders) -> Result<(), Fault> {
    let found = tokio::task::spawn_blocking(|| tabpool::discover(&SearchPaths::from_env())).await?;
    let browsers: Vec<_> = found.installed.into_iter().filter(|b| options.wants_browser(b.kind.name())).collect();
    let machine = Machine::read(&browsers);
    println!("{machine}\n");
    let mut report = Report::new(machine, options);
    let scratch = tempfile::Builder::new().prefix("tabpool-bench-").tempdir()?;
    let models = scratch.path().join("models");
    let subject = Subject::write(options.sizes(), &scratch.path().join("gpt2"), &models)?;
    let here = Surroundings {
        server: PeerServer::start(roots(folders, &models)).await?,
        starter: Starter { profiles: scratch.path().join("profiles"), gpu: GpuMode::detect() },
        host: Host::start(&scratch.path().join("data"), &options.threads).await?,
        threads: options.threads.clone(),
    };
    let mut expected = Expected::new();
    for setting in settings(options, &browsers) {
        let mut entry = Entry::new(&setting);
        if let Err(e) = measure(&here, &setting, &subject, options, (&mut entry, &mut expected)).await {
            entry.failed = Some(e.to_string());
        }
        report.entry(entry, folders)?;
    }
    report.finish(options, folders)?;
    Ok(here.host.accelerator.close().await?)
}

fn roots(folders: &Folders, models: &Path) -> Vec<Root> {
    let root = |segment: &str, folder: PathBuf, runtime| Root { segment: segment.to_owned(), folder, runtime };
    vec![
        root("pages", Path::new(env!("CARGO_MANIFEST_DIR")).join("pages"), true),
        root("models", models.to_owned(), false),
        root("onnxruntime-web", folders.peers.join("onnxruntime-web/dist"), true),
    ]
}

fn settings(options: &Options, browsers: &[Installed]) -> Vec<Setting> {
    let threads = |api| match api {
        ApiKind::Cpu => options.threads.iter().map(|threads| Some(*threads)).collect(),
        _ => vec![None],
    };
    let mut settings = Vec::new();
    for on in browsers {
        for api in [ApiKind::Cpu, ApiKind::WebGpu, ApiKind::WebNn] {
            // The browser that has WebNN is there for that; with --api it is measured with the others, too.
            let there =
                if has_webnn(on) { api == ApiKind::WebNn || !options.api.is_empty() } else { api != ApiKind::WebNn };
            if there && options.wants_api(&api.to_string()) {
                let on = Some(on.clone());
                settings.extend(threads(api).into_iter().map(|threads| Setting { on: on.clone(), api, threads }));
            }
        }
    }
    if options.wants_browser("native") && options.wants_api("cpu") {
        let native = |threads| Setting { on: None, api: ApiKind::Cpu, threads };
        settings.extend(threads(ApiKind::Cpu).into_iter().map(native));
    }
    settings
}

async fn measure(
    here: &Surroundings,
    setting: &Setting,
    subject: &Subject,
    options: &Options,
    (entry, expected): (&mut Entry, &mut Expected),
) -> Result<(), Fault> {
    let prompts: Vec<_> = options.prompts().into_iter().map(|tokens| subject.prompt(tokens)).collect();
    let ours = Ours::start(here, setting, subject).await?;
    entry.devices[0].clone_from(&ours.device);
    let warm = warm_up(&ours, &prompts, options.steps, expected).await;
    ours.settled(here).await;
    let mut peer = None;
    if let (Some(on), Some(prompt)) = (&setting.on, prompts.first()) {
        let said = expected.get(&prompt.len()).map_or(&[][..], |ids| ids);
        let (prompt, sizes) = ((&**prompt, said), subject.sizes);
        match choose(here, (on, setting), sizes, prompt, options, entry).await {
            Some(setup) => {
                entry.stand_in = setup.stands_in(setting.api);
                match Peer::start(here, on, setup, sizes).await {
                    Ok(started) => {
                        entry.devices[1] = format!("onnxruntime-web {}, {}", started.version, setup.name());
                        peer = Some(started);
                    }
                    Err(e) => entry.devices[1] = e.to_string(),
                }
            }
            None => "none that answers rightly".clone_into(&mut entry.devices[1]),
        }
    }
    let size = (options.steps, options.rounds());
    entry.cases = interleaved((&ours, warm), peer.as_mut(), &prompts, size, expected).await;
    ours.close().await;
    if peer.is_none() && setting.on.is_some() {
        entry.cases.iter_mut().for_each(|case| case.peer = Outcome::Failed(entry.devices[1].clone()));
    }
    if let Some(peer) = peer {
        peer.close(here).await;
    }
    Ok(())
}

/// The peer's setup that is fastest here, by one reading of a prompt and some steps after it: of several builds and forms it
/// differs by browser and adapter which one that is, and a peer that is not at its best proves nothing. One that says other
/// tokens than ours is none of them.
async fn choose(
    here: &Surroundings,
    (on, setting): (&Installed, &Setting),
    sizes: Gpt2Sizes,
    prompt: (&[i32], &[i32]),
    options: &Options,
    entry: &mut Entry,
) -> Option<Setup> {
    let provider = if setting.api == ApiKind::WebGpu { "webgpu" } else { "wasm" };
    let builds: &[&'static str] = match provider {
        "webgpu" if options.quick => &["webgpu"],
        "webgpu" => &["webgpu", "jspi", "all"],
        _ => &["wasm"],
    };
    let threads = setting.threads.unwrap_or_else(|| options.threads.iter().copied().max().unwrap_or(1));
    let mut best: Option<(f64, Setup)> = None;
    for build in
        builds.iter().filter(|build| options.onnxruntime_build.is_empty() || options.onnxruntime_build == **build)
    {
        let setup = |form: Gpt2Form| Setup { build, form, provider, threads };
        let mut open: Option<Peer> = None;
        for setup in FORMS.map(setup) {
            let ms = try_once(here, on, (setup, sizes), prompt, &mut open).await;
            if let Ok([prefill, step]) = ms {
                let all = prefill + STEPS_A_PROMPT * step;
                if best.is_none_or(|(fastest, _)| all < fastest) {
                    best = Some((all, setup));
                }
            }
            let (ms, failed) = match ms {
                Ok(ms) => (Some(ms), None),
                Err(e) => (None, Some(e.to_string())),
            };
            entry.tried.push(Tried { setup: setup.name(), ms, failed });
        }
        if let Some(peer) = open {
            peer.close(here).await;
        }
    }
    best.map(|(_, setup)| setup)
}

/// A setup's times for a prompt and a step, in the page that is open for its build, or in a new one.
async fn try_once(
    here: &Surroundings,
    on: &Installed,
    (setup, sizes): (Setup, Gpt2Sizes),
    (prompt, expected): (&[i32], &[i32]),
    open: &mut Option<Peer>,
) -> Result<[f64; 2], Fault> {
    let mut peer = match open.take() {
        Some(mut peer) => {
            if let Err(e) = peer.open(setup, sizes).await {
                peer.close(here).await;
                return Err(e);
            }
            peer
        }
        None => Peer::start(here, on, setup, sizes).await?,
    };
    let tried = async {
        let first = peer.read(prompt, true).await?.ids[0];
        let read = peer.read(prompt, false).await?.prefill_ms.unwrap_or(f64::INFINITY);
        // The second time counts; a slow one is known by the first.
        let few = expected.get(..3).ok_or("nobody has said what follows")?;
        let mut steps = same(peer.step(prompt.len(), first, 2).await, few)?.steps_ms;
        if percentile(&steps, 50) < SLOW {
            let expected = &expected[..expected.len().min(CHOOSING_STEPS + 1)];
            steps = same(peer.step(prompt.len(), first, expected.len() - 1).await, expected)?.steps_ms;
        }
        Ok::<_, Fault>([read, percentile(&steps, 50)])
    };
    match tried.await {
        Ok(ms) => {
            *open = Some(peer);
            Ok(ms)
        }
        Err(e) => {
            peer.close(here).await;
            Err(e)
        }
    }
}
