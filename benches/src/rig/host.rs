//! Our side: a real pool, and tabs that join it as anybody's would, by opening its address.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use tabpool::{Accelerator, ApiKind, Checking, ModelHandle, ModelRequest, PoolEvent, WorkerId, WorkerSpec};
use tabpool_browser::{Browser, Installed};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::page::Starter;
use crate::Fault;

/// No browser takes longer to join.
const JOINING: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(3);
/// A worker that says nothing of its kernels for so long has found them all; a variant may take seconds to compile.
const QUIET: Duration = Duration::from_secs(8);
/// The longest that is waited for that.
const SETTLING: Duration = Duration::from_secs(120);

/// The pool.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) accelerator: Accelerator,
}

/// A worker of the pool. One that is a tab has a browser of its own.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) api: ApiKind,
    browser: Option<Browser>,
    /// The models it was asked to run so far, by their names.
    models: HashMap<String, ModelHandle>,
}

impl Host {
    /// A pool with a native worker for each of these counts of threads, and room for tabs.
    pub(crate) async fn start(data: &Path, threads: &[usize]) -> Result<Self, Fault> {
        // The tabs stand for browsers that the pool starts itself, whose answers are not checked.
        let mut builder =
            Accelerator::builder().data_dir(data).guests_only().pool(|pool| pool.checking(Checking::nobody()));
        for threads in threads {
            let threads = NonZeroUsize::new(*threads).ok_or("no worker computes with 0 threads")?;
            builder = builder.worker(WorkerSpec::native().apis(&[ApiKind::Cpu]).threads(threads));
        }
        Ok(Self { accelerator: builder.build().await? })
    }

    /// The native worker that was asked for at this place.
    pub(crate) fn native(&self, at: usize) -> Result<Worker, Fault> {
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
    pub(crate) fn address(&self, api: ApiKind, threads: Option<usize>) -> String {
        let threads = threads.map_or_else(String::new, |threads| format!("&threads={threads}"));
        format!("{}&apis={api}{threads}", self.accelerator.pool().join_url())
    }

    /// Starts a browser and waits for its tab.
    pub(crate) async fn tab(
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

    /// Waits until a worker has found out which kernels are fastest for what it has loaded, if it does: it tells as it goes, while
    /// nobody asks it for anything.
    pub(crate) async fn settled(&self, worker: &Worker) {
        if worker.api != ApiKind::WebGpu {
            return;
        }
        let mut events = self.accelerator.pool().events();
        let deadline = tokio::time::Instant::now() + SETTLING;
        let mut quiet_at = tokio::time::Instant::now() + QUIET;
        while let Ok(event) = tokio::time::timeout_at(quiet_at.min(deadline), events.recv()).await {
            match event {
                Ok(PoolEvent::Tuned { worker: id, .. }) if id == worker.id => {
                    quiet_at = tokio::time::Instant::now() + QUIET;
                }
                Err(RecvError::Closed) => return,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
            }
        }
    }

    /// What a worker says of the device behind its API.
    pub(crate) fn device(&self, worker: &Worker) -> String {
        let workers = self.accelerator.pool().workers();
        let view = workers.iter().find(|view| view.id == Some(worker.id));
        view.and_then(|view| view.adapter(worker.api)).unwrap_or_default()
    }

    /// A model by its folder, imported at its first use, on one worker only. No run may take longer than the limit.
    pub(crate) async fn model(
        &self,
        name: &str,
        folder: &Path,
        worker: &mut Worker,
        limit: Duration,
    ) -> Result<ModelHandle, Fault> {
        if let Some(model) = worker.models.get(name) {
            return Ok(model.clone());
        }
        let opened = self.accelerator.accelerate_model(folder.display().to_string()).await?;
        let request = ModelRequest::new(name)
            .root(*opened.handle().root())
            .hardware([worker.api])
            .timeout(limit)
            .pinned(worker.id);
        let model = self.accelerator.pool().model(request).await?;
        worker.models.insert(name.to_owned(), model.clone());
        Ok(model)
    }
}

impl Worker {
    pub(crate) async fn close(self) {
        if let Some(browser) = self.browser {
            browser.close(GRACE).await;
        }
    }
}

/// The next worker that joins by itself.
pub(crate) async fn joined(events: &mut Receiver<PoolEvent>) -> Result<WorkerId, Fault> {
    loop {
        match events.recv().await {
            Ok(PoolEvent::Joined { worker, slot: None, .. }) => return Ok(worker),
            Ok(PoolEvent::Rejected { reason, .. }) => return Err(format!("the tab was refused: {reason}").into()),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Err("the pool ended".into()),
        }
    }
}
