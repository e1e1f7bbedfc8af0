//! Our side: a real pool, and tabs that join it as anybody's would, by opening its address.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use tabpool::{Accelerator, ApiKind, ModelHandle, ModelRequest, PoolEvent, WorkerId, WorkerSpec};
use tabpool_browser::{Browser, Installed};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::case::{Case, OUTPUT, Subject};
use super::contender::{RUN_LIMIT, Run};
use super::page::Starter;
use crate::Fault;

/// No browser takes longer to join.
const JOINING: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(3);

/// The pool.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) accelerator: Accelerator,
}

/// A worker of the pool. One that is a tab has a browser of its own.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) api: ApiKind,
    browser: Option<Browser>,
    /// The models it was asked to run so far, by the subjects' names.
    models: HashMap<String, ModelHandle>,
}

impl Host {
    /// A pool with native workers of one and of several threads, and room for tabs.
    pub(super) async fn start(data: &Path, threads: &[usize]) -> Result<Self, Fault> {
        let mut builder = Accelerator::builder().data_dir(data);
        for threads in threads {
            let threads = NonZeroUsize::new(*threads).ok_or("no worker computes with 0 threads")?;
            builder = builder.worker(WorkerSpec::native().apis(&[ApiKind::Cpu]).threads(threads));
        }
        Ok(Self { accelerator: builder.build().await? })
    }

    /// The native worker that was asked for at this place.
    pub(super) fn native(&self, at: usize) -> Result<Worker, Fault> {
        let workers = self.accelerator.pool().workers();
        let mut native: Vec<_> = workers.iter().filter(|view| view.slot.is_some()).collect();
        native.sort_by_key(|view| view.slot);
        let view = native.get(at).ok_or("the native worker is gone")?;
        Ok(Worker {
            id: view.id.ok_or_else(|| view.last_reason.clone())?,
            api: ApiKind::Cpu,
            browser: None,
            models: HashMap::new(),
        })
    }

    /// The address for a tab that is to use one API, with so many threads where it computes on the processor.
    pub(super) fn address(&self, api: ApiKind, threads: Option<usize>) -> String {
        let threads = threads.map_or_else(String::new, |threads| format!("&threads={threads}"));
        format!("{}&apis={api}{threads}", self.accelerator.pool().join_url())
    }

    /// Starts a browser and waits for its tab.
    pub(super) async fn tab(
        &self,
        starter: &Starter,
        on: &Installed,
        (api, threads): (ApiKind, Option<usize>),
    ) -> Result<Worker, Fault> {
        let mut events = self.accelerator.pool().events();
        let browser = starter.start(on, &self.address(api, threads), None).await?;
        let joined = tokio::select! {
            joined = tokio::time::timeout(JOINING, joined(&mut events)) => joined,
            reason = browser.ended() => return Err(format!("{} ended: {reason}", browser.kind()).into()),
        };
        let id = joined.map_err(|_| format!("no tab joined within {} s", JOINING.as_secs()))??;
        Ok(Worker { id, api, browser: Some(browser), models: HashMap::new() })
    }

    /// What a worker says of the device behind its API.
    pub(super) fn device(&self, worker: &Worker) -> String {
        let workers = self.accelerator.pool().workers();
        let view = workers.iter().find(|view| view.id == Some(worker.id));
        view.and_then(|view| view.adapter(worker.api)).unwrap_or_default()
    }

    /// A model, imported at its first use, on one worker only.
    pub(super) async fn model(&self, subject: &Subject, worker: &mut Worker) -> Result<ModelHandle, Fault> {
        if let Some(model) = worker.models.get(&subject.name) {
            return Ok(model.clone());
        }
        let opened = self.accelerator.accelerate_model(subject.folder.display().to_string()).await?;
        let request = ModelRequest::new(&*subject.name)
            .root(*opened.handle().root())
            .hardware([worker.api])
            .timeout(RUN_LIMIT)
            .pinned(worker.id);
        let model = self.accelerator.pool().model(request).await?;
        worker.models.insert(subject.name.clone(), model.clone());
        Ok(model)
    }

    /// Runs a case once on a worker.
    pub(super) async fn run(&self, case: &Case, worker: &mut Worker, keep: bool) -> Result<Run, Fault> {
        let model = self.model(&case.subject, worker).await?;
        let begin = std::time::Instant::now();
        let answer = model.run_for(case.inputs()?, &[OUTPUT]).await?;
        let caller_ms = milliseconds(begin.elapsed());
        let output = match answer.outputs.first().filter(|_| keep) {
            Some((_, output)) => Some(output.to_f32()?.into_owned()),
            None => None,
        };
        Ok(Run { ms: milliseconds(answer.timing.compute + answer.timing.readback), caller_ms: Some(caller_ms), output })
    }
}

impl Worker {
    pub(super) async fn close(self) {
        if let Some(browser) = self.browser {
            browser.close(GRACE).await;
        }
    }
}

/// The next worker that joins by itself.
pub(super) async fn joined(events: &mut Receiver<PoolEvent>) -> Result<WorkerId, Fault> {
    loop {
        match events.recv().await {
            Ok(PoolEvent::Joined { worker, slot: None, .. }) => return Ok(worker),
            Ok(PoolEvent::Rejected { reason, .. }) => return Err(format!("the tab was refused: {reason}").into()),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Err("the pool ended".into()),
        }
    }
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
