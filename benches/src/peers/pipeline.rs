//! From texts to embeddings, beside transformers.js: tokenizer, model, pooling and normalisation, as its users call it. Ours
//! is timed by the caller, through the pool and over the link; the peer by its own page, which has no link.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};
use tabpool::{ApiKind, Model};
use tabpool_browser::Installed;

use super::case::Subject;
use super::contender::{RUN_LIMIT, SETTLING, Surroundings};
use super::measure::{Measured, Outcome, PAUSE, WARM_UP};
use super::onnxruntime::OPENING;
use crate::Fault;
use crate::rig::host::Worker;
use crate::rig::milliseconds;
use crate::rig::page::Page;

/// Texts with the embeddings that sentence-transformers gives them.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    texts: Vec<String>,
    embeddings: Vec<Vec<f32>>,
}

impl Texts {
    /// Reads the golden of all-MiniLM-L6-v2.
    pub(super) fn read(root: &Path) -> Result<Self, Fault> {
        let path = root.join("tests/fixtures/minilm/golden.json");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let golden: Value = serde_json::from_str(&text)?;
        let sentences = golden["sentences"].as_array().ok_or("the golden has no sentences")?;
        let mut this = Self { texts: Vec::new(), embeddings: Vec::new() };
        for sentence in sentences {
            this.texts.push(sentence["text"].as_str().ok_or("a sentence without a text")?.to_owned());
            this.embeddings.push(serde_json::from_value(sentence["embedding"].clone())?);
        }
        Ok(this)
    }

    /// The first so many texts, repeated where there are fewer.
    fn take(&self, count: usize) -> Vec<String> {
        self.texts.iter().cycle().take(count).cloned().collect()
    }

    /// The largest absolute difference; infinite where the sizes differ.
    fn error_of<'a>(&self, rows: impl ExactSizeIterator<Item = &'a [f32]>, count: usize) -> f32 {
        if rows.len() != count {
            return f32::INFINITY;
        }
        let pairs = rows.zip(self.embeddings.iter().cycle());
        pairs.fold(0.0, |worst, (got, want)| {
            if got.len() != want.len() {
                return f32::INFINITY;
            }
            got.iter()
                .zip(want)
                .map(|(g, w)| (g - w).abs())
                .fold(worst, |w, d| if d.is_nan() { f32::INFINITY } else { w.max(d) })
        })
    }
}

/// One browser and API.
pub(super) struct Pipeline<'a> {
    pub(super) here: &'a Surroundings,
    pub(super) on: &'a Installed,
    pub(super) api: ApiKind,
    pub(super) threads: usize,
    pub(super) subject: &'a Subject,
    pub(super) texts: &'a Texts,
}

/// What came of so many texts in one call.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Embedded {
    pub(super) texts: usize,
    pub(super) ours: Outcome,
    pub(super) peer: Outcome,
}

impl Pipeline<'_> {
    /// Embeds so many texts at once, for each of the counts.
    pub(super) async fn measure(&self, counts: &[usize], rounds: usize) -> Vec<Embedded> {
        let ours = self.join().await;
        let peer = self.open().await;
        tokio::time::sleep(SETTLING).await;
        let mut ours = ours.map_err(|e| e.to_string());
        let mut peer = peer.map_err(|e| e.to_string());
        let mut all = Vec::new();
        for &count in counts {
            all.push(self.count(count, rounds, &mut ours, &mut peer).await);
        }
        if let Ok((worker, _)) = ours {
            worker.close().await;
        }
        if let Ok(page) = peer {
            page.close(&self.here.server).await;
        }
        all
    }

    async fn join(&self) -> Result<(Worker, Model), Fault> {
        let host = &self.here.host;
        let threads = (self.api == ApiKind::Cpu).then_some(self.threads);
        let worker = host.tab(&self.here.starter, self.on, (self.api, threads)).await?;
        let model = host.accelerator.accelerate_model(self.subject.folder.display().to_string()).await?;
        let model = model.pinned(worker.id);
        Ok((worker, model))
    }

    async fn open(&self) -> Result<Page, Fault> {
        let mut page = Page::open(&self.here.server, &self.here.starter, self.on, "transformers.html").await?;
        let device = if self.api == ApiKind::Cpu { "wasm".to_owned() } else { self.api.to_string() };
        let command = json!({ "do": "open", "model": self.subject.name, "device": device, "threads": self.threads });
        page.ask(&command, OPENING).await?;
        Ok(page)
    }

    async fn count(
        &self,
        count: usize,
        rounds: usize,
        ours: &mut Result<(Worker, Model), String>,
        peer: &mut Result<Page, String>,
    ) -> Embedded {
        let mut outcomes = [ours.as_ref().err(), peer.as_ref().err()].map(|failed| match failed {
            Some(reason) => Outcome::Failed(reason.clone()),
            None => Outcome::Measured(Measured::default()),
        });
        for round in 0..WARM_UP + rounds {
            if let (Ok((_, model)), Outcome::Measured(measured)) = (&*ours, &mut outcomes[0]) {
                tokio::time::sleep(PAUSE).await;
                let mut result = self.embed_ours(model, count).await;
                if measured.is_short() && result.is_ok() {
                    result = self.embed_ours(model, count).await;
                }
                outcomes[0] = taken(measured, round, result);
            }
            if let (Ok(page), Outcome::Measured(measured)) = (&mut *peer, &mut outcomes[1]) {
                tokio::time::sleep(PAUSE).await;
                let mut result = self.embed_peer(page, count).await;
                if measured.is_short() && result.is_ok() {
                    result = self.embed_peer(page, count).await;
                }
                outcomes[1] = taken(measured, round, result);
            }
        }
        let [ours, peer] = outcomes;
        Embedded { texts: count, ours, peer }
    }

    async fn embed_ours(&self, model: &Model, count: usize) -> Result<(f64, f32), Fault> {
        let texts = self.texts.take(count);
        let begin = Instant::now();
        let embeddings = tokio::time::timeout(RUN_LIMIT, model.embed(&texts)).await??;
        let ms = milliseconds(begin.elapsed());
        Ok((ms, self.texts.error_of(embeddings.iter(), count)))
    }

    async fn embed_peer(&self, page: &mut Page, count: usize) -> Result<(f64, f32), Fault> {
        let answer = page.ask(&json!({ "do": "embed", "texts": self.texts.take(count) }), RUN_LIMIT).await?;
        let ms = answer.figures["ms"].as_f64().ok_or("the page told no time")?;
        let rows = answer.output.chunks_exact((answer.output.len() / count).max(1));
        Ok((ms, self.texts.error_of(rows, count)))
    }
}

/// Adds a run to what a contender has measured so far.
fn taken(measured: &mut Measured, round: usize, result: Result<(f64, f32), Fault>) -> Outcome {
    match result {
        Err(e) => Outcome::Failed(e.to_string()),
        Ok((ms, error)) => {
            let mut measured = std::mem::take(measured);
            measured.error = measured.error.max(error);
            let runs = if round < WARM_UP { &mut measured.warm_up_ms } else { &mut measured.runs_ms };
            runs.push(ms);
            Outcome::Measured(measured)
        }
    }
}
