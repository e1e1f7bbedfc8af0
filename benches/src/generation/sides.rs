//! Ours and the peer's, each in a browser of its own.

use std::time::Duration;

use serde_json::{Value, json};
use tabpool::{ApiKind, GenerateOptions, Model, TokenPrompt};
use tabpool_browser::Installed;

use super::subject::{Subject, file};
use super::{Setting, Surroundings};
use crate::Fault;
use crate::onnx::{Gpt2Form, Gpt2Sizes};
use crate::rig::host::Worker;
use crate::rig::page::Page;
use crate::rig::{library, milliseconds};

/// How long a prompt with the steps after it may take. What takes longer is of no use to anybody, and counts as failed.
const LIMIT: Duration = Duration::from_secs(120);
/// Making a session: reading the file, optimising, compiling.
const OPENING: Duration = Duration::from_secs(120);
/// How long a browser that was just started is left alone: it still does other things.
const SETTLING: Duration = Duration::from_secs(5);

/// A prompt's reading, and steps after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// Every token that was said, the prompt's first.
    pub(super) ids: Vec<i32>,
    /// The prompt's reading by the clock of whoever computed, where it was read.
    pub(super) prefill_ms: Option<f64>,
    /// Each step by that clock.
    pub(super) steps_ms: Vec<f64>,
    /// Both by the caller's clock, over the link; a step's on average. Nothing where there is no link.
    pub(super) caller: Option<[f64; 2]>,
}

/// A tab of ours, or a native worker.
#[derive(Debug)]
pub(super) struct Ours {
    worker: Worker,
    model: Model,
    pub(super) device: String,
}

impl Ours {
    pub(super) async fn start(here: &Surroundings, setting: &Setting, subject: &Subject) -> Result<Self, Fault> {
        let worker = match &setting.on {
            Some(on) => {
                let worker = here.host.tab(&here.starter, on, (setting.api, setting.threads)).await?;
                tokio::time::sleep(SETTLING).await;
                worker
            }
            None => here.host.native(here.threads.iter().position(|t| Some(*t) == setting.threads).unwrap_or(0))?,
        };
        let opened = here.host.accelerator.accelerate_model(subject.folder.display().to_string());
        let model = opened.hardware([worker.api]).await?.pinned(worker.id);
        let device = here.host.device(&worker);
        Ok(Self { worker, model, device })
    }

    /// Waits until it is as fast as it will be.
    pub(super) async fn settled(&self, here: &Surroundings) {
        here.host.settled(&self.worker).await;
    }

    /// A whole generation: a prompt, its first token, and so many steps.
    pub(super) async fn say(&self, prompt: Vec<i32>, steps: usize) -> Result<Said, Fault> {
        let options = GenerateOptions { max_new_tokens: steps + 1, ignore_ends: true, ..GenerateOptions::default() };
        let prompt = TokenPrompt { ids: vec![prompt], source: Vec::new() };
        let mut generation = self.model.generate_tokens(prompt, &options)?;
        let mut said = Said::default();
        let all = async {
            while let Some(tokens) = generation.next().await? {
                said.ids.extend(tokens.ids.iter().flatten());
                match said.prefill_ms {
                    None => said.prefill_ms = Some(milliseconds(tokens.computed)),
                    Some(_) => said.steps_ms.push(milliseconds(tokens.computed)),
                }
            }
            Ok::<_, Fault>(())
        };
        tokio::time::timeout(LIMIT, all).await.map_err(|_| too_long())??;
        let figures = generation.figures();
        let step = milliseconds(figures.stepping) / f64::from(u32::try_from(steps.max(1))?);
        said.caller = Some([milliseconds(figures.first_token), step]);
        Ok(said)
    }

    pub(super) async fn close(self) {
        self.worker.close().await;
    }
}

fn too_long() -> String {
    format!("no answer within {} s", LIMIT.as_secs())
}

/// How onnxruntime-web is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) build: &'static str,
    pub(super) form: Gpt2Form,
    pub(super) provider: &'static str,
    pub(super) threads: usize,
}

impl Setup {
    /// What it is, for the record.
    pub(super) fn name(&self) -> String {
        format!("{} with attention {}", self.build, self.form.name())
    }

    /// Whether it computes with another API than ours does.
    pub(super) fn stands_in(&self, api: ApiKind) -> bool {
        api == ApiKind::WebNn && self.provider != "webnn"
    }
}

/// onnxruntime-web in a page.
#[derive(Debug)]
pub(super) struct Peer {
    page: Page,
    pub(super) setup: Setup,
    pub(super) version: String,
}

impl Peer {
    pub(super) async fn start(
        here: &Surroundings,
        on: &Installed,
        setup: Setup,
        sizes: Gpt2Sizes,
    ) -> Result<Self, Fault> {
        let page = Page::open(&here.server, &here.starter, on, "generation.html").await?;
        tokio::time::sleep(SETTLING).await;
        let mut peer = Self { page, setup, version: String::new() };
        match peer.open(setup, sizes).await {
            Ok(()) => Ok(peer),
            Err(e) => {
                peer.close(here).await;
                Err(e)
            }
        }
    }

    /// Makes another session in the same page; the build and the threads stay.
    pub(super) async fn open(&mut self, setup: Setup, sizes: Gpt2Sizes) -> Result<(), Fault> {
        let Gpt2Sizes { layers, hidden, heads, .. } = sizes;
        let command = json!({
            "do": "open",
            "library": format!("/onnxruntime-web/{}", library(setup.build)?),
            "model": format!("/models/{}", file(setup.form)),
            "provider": setup.provider,
            "threads": setup.threads,
            "sizes": { "layers": layers, "heads": heads, "size": hidden / heads },
        });
        let figures = self.page.ask(&command, OPENING).await?.figures;
        self.version = figures["version"].as_str().unwrap_or_default().to_owned();
        self.setup = setup;
        Ok(())
    }

    /// Reads a prompt, and keeps what steps go on from where that is asked for.
    pub(super) async fn read(&mut self, prompt: &[i32], keep: bool) -> Result<Said, Fault> {
        let figures = self.page.ask(&json!({ "do": "prefill", "ids": prompt, "keep": keep }), LIMIT).await?.figures;
        let ms = figures["ms"].as_f64().ok_or("the page told no time")?;
        Ok(Said { ids: integers(&json!([figures["id"]]))?, prefill_ms: Some(ms), ..Said::default() })
    }

    /// Steps after a prompt that was kept.
    pub(super) async fn step(&mut self, prompt: usize, first: i32, steps: usize) -> Result<Said, Fault> {
        let command = json!({ "do": "steps", "prompt": prompt, "first": first, "count": steps });
        let figures = self.page.ask(&command, LIMIT).await?.figures;
        let steps_ms: Option<Vec<f64>> =
            figures["all"].as_array().and_then(|all| all.iter().map(Value::as_f64).collect());
        let mut ids = vec![first];
        ids.extend(integers(&figures["ids"])?);
        Ok(Said { ids, steps_ms: steps_ms.ok_or("the page told no times")?, ..Said::default() })
    }

    pub(super) async fn close(self, here: &Surroundings) {
        self.page.close(&here.server).await;
    }
}

fn integers(values: &Value) -> Result<Vec<i32>, Fault> {
    let integer = |value: &Value| value.as_i64().and_then(|id| i32::try_from(id).ok());
    let all = values.as_array().and_then(|all| all.iter().map(integer).collect());
    Ok(all.ok_or("the page told no tokens")?)
}
