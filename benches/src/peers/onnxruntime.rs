//! The peers: onnxruntime-web in a page, and onnxruntime natively in a Python process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tabpool::ApiKind;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::case::Case;
use super::contender::{RUN_LIMIT, Run};
use crate::Fault;
use crate::rig::library;
use crate::rig::page::Page;

/// Making a session: reading 90 MB, optimising, compiling.
pub(super) const OPENING: Duration = Duration::from_secs(120);

/// How onnxruntime-web is set up for an API: the library, the provider, and options of its session.
#[derive(Clone, Debug)]
pub(super) struct WebSetup {
    pub(super) api: ApiKind,
    pub(super) threads: usize,
    library: &'static str,
    /// Whether a session serves one shape only.
    fixed: bool,
}

impl WebSetup {
    /// The settings that were the fastest of those tried; the README says which others were.
    pub(super) fn of(api: ApiKind, threads: usize) -> Self {
        let (library, fixed) = match api {
            ApiKind::WebGpu => ("ort.webgpu.bundle.min.mjs", false),
            ApiKind::WebNn => ("ort.all.bundle.min.mjs", true),
            _ => ("ort.wasm.bundle.min.mjs", false),
        };
        Self { api, threads, library, fixed }
    }

    /// Another build of the library than the one that is best for the API, for showing that it is; empty for that one.
    pub(super) fn build(mut self, name: &str) -> Result<Self, Fault> {
        if !name.is_empty() {
            self.library = library(name)?;
        }
        Ok(self)
    }

    /// What it is, for the record.
    pub(super) fn name(&self) -> String {
        format!("onnxruntime-web, {}", self.library)
    }

    /// The command that makes a page open a session.
    pub(super) fn opening(&self, case: &Case) -> Value {
        let provider = match self.api {
            ApiKind::WebGpu => json!("webgpu"),
            ApiKind::WebNn => json!({ "name": "webnn", "deviceType": "cpu" }),
            _ => json!("wasm"),
        };
        let options = if self.fixed {
            json!({ "freeDimensionOverrides": { "batch": case.batch, "seq": case.sequence } })
        } else {
            json!({})
        };
        json!({
            "do": "open",
            "library": format!("/onnxruntime-web/{}", self.library),
            "model": model_url(case),
            "provider": provider,
            "threads": self.threads,
            "options": options,
        })
    }

    /// What a session is good for: the same key, the same session.
    fn key(&self, case: &Case) -> (String, usize, usize) {
        let (batch, sequence) = if self.fixed { (case.batch, case.sequence) } else { (0, 0) };
        (case.subject.name.clone(), batch, sequence)
    }
}

/// Where the server has a subject's ONNX file.
pub(super) fn model_url(case: &Case) -> String {
    format!("/models/{}/onnx/model.onnx", case.subject.name)
}

/// The command that runs a case once.
pub(super) fn running(case: &Case, keep: bool) -> Value {
    json!({ "do": "run", "batch": case.batch, "sequence": case.sequence, "ids": case.ids(), "keep": keep })
}

/// onnxruntime-web in a page.
#[derive(Debug)]
pub(super) struct Web {
    pub(super) page: Page,
    setup: WebSetup,
    open: Option<(String, usize, usize)>,
}

impl Web {
    pub(super) fn new(page: Page, setup: WebSetup) -> Self {
        Self { page, setup, open: None }
    }

    /// Makes the session that a case needs, where the page has another.
    pub(super) async fn open(&mut self, case: &Case) -> Result<Value, Fault> {
        if self.open.as_ref() == Some(&self.setup.key(case)) {
            return Ok(Value::Null);
        }
        self.open = None;
        let answer = self.page.ask(&self.setup.opening(case), OPENING).await?;
        self.open = Some(self.setup.key(case));
        Ok(answer.figures)
    }

    pub(super) async fn run(&mut self, case: &Case, keep: bool) -> Result<Run, Fault> {
        self.open(case).await?;
        let answer = self.page.ask(&running(case, keep), RUN_LIMIT).await?;
        let ms = answer.figures["ms"].as_f64().ok_or("the page told no time")?;
        Ok(Run { ms, caller_ms: None, output: keep.then_some(answer.output) })
    }
}

/// onnxruntime in a Python process.
#[derive(Debug)]
pub(super) struct Native {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    threads: usize,
    models: PathBuf,
    pub(super) version: String,
    open: Option<String>,
}

impl Native {
    /// Starts it. `packages` is the folder that holds onnxruntime and what it needs.
    pub(super) async fn start(packages: &Path, models: &Path, threads: usize) -> Result<Self, Fault> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/pages/native.py");
        let mut process = Command::new("python3")
            .arg(script)
            .env("PYTHONPATH", packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = process.stdin.take().ok_or("no stdin")?;
        let output = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        let models = models.to_owned();
        let mut this = Self { process, input, output, threads, models, version: String::new(), open: None };
        let hello = this.answer(OPENING).await?;
        this.version = hello["version"].as_str().unwrap_or_default().to_owned();
        Ok(this)
    }

    pub(super) async fn run(&mut self, case: &Case, keep: bool) -> Result<Run, Fault> {
        if self.open.as_ref() != Some(&case.subject.name) {
            let model = self.models.join(&case.subject.name).join("onnx/model.onnx");
            self.ask(&json!({ "do": "open", "model": model, "threads": self.threads }), OPENING).await?;
            self.open = Some(case.subject.name.clone());
        }
        let figures = self.ask(&running(case, keep), RUN_LIMIT).await?;
        let ms = figures["ms"].as_f64().ok_or("the process told no time")?;
        let mut output = None;
        if let Some(count) = figures["output"].as_u64().filter(|_| keep) {
            let mut bytes = vec![0; usize::try_from(count)?];
            self.output.read_exact(&mut bytes).await?;
            output = Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
        }
        Ok(Run { ms, caller_ms: None, output })
    }

    pub(super) async fn close(mut self) {
        // Its end of input ends it; what does not end by itself is killed when dropped.
        drop(self.input);
        let _ = tokio::time::timeout(Duration::from_secs(3), self.process.wait()).await;
    }

    async fn ask(&mut self, command: &Value, limit: Duration) -> Result<Value, Fault> {
        self.input.write_all(format!("{command}\n").as_bytes()).await?;
        self.input.flush().await?;
        self.answer(limit).await
    }

    async fn answer(&mut self, limit: Duration) -> Result<Value, Fault> {
        let mut line = String::new();
        let read = tokio::time::timeout(limit, self.output.read_line(&mut line)).await;
        if read.map_err(|_| format!("no answer within {} s", limit.as_secs()))?? == 0 {
            return Err("onnxruntime's process ended; its error output says why".into());
        }
        let figures: Value = serde_json::from_str(&line)?;
        match figures["error"].as_str() {
            Some(error) => Err(error.into()),
            None => Ok(figures),
        }
    }
}
