//! A pool for the time of one command: started with a spinner, watched while the work goes on, closed whatever happens.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use anyhow::Result;
use tabpool::{Accelerator, AcceleratorBuilder, ApiKind, PoolError, PoolEvent, Profile, Target, WorkerId, WorkerView};
use tabpool_metrics::OpenError;
use tokio::sync::broadcast::error::RecvError;

use crate::context::Context;
use crate::progress::Bar;

/// How long the pool may take to close: browsers get seconds, a native worker ends its run first.
const CLOSING: Duration = Duration::from_secs(20);
/// Bars shown at once; a worker more is loaded without one.
const MOST_BARS: usize = 8;

/// What measurements are to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measuring {
    /// An answer is worth more than the record of its time.
    Wanted,
    /// They are what the command is for.
    Required,
}

/// A builder as commands use it: data where the program keeps it, profiles that keep weights.
pub(crate) fn builder(context: &Context, targets: &[Target]) -> AcceleratorBuilder {
    let builder = Accelerator::builder().data_dir(&context.data_dir).profile(Profile::Kept);
    let builder = match context.threads {
        Some(threads) => builder.threads(threads),
        None => builder,
    };
    targets.iter().fold(builder, |builder, target| builder.on(*target))
}

/// Starts an accelerator, works with it, and closes it: also when the work fails, and when somebody asks for an end.
///
/// One process at a time may write the database. Where another pool has it and measurements are only
/// [wanted](Measuring::Wanted), a warning says that they are not kept and the work goes on.
///
/// # Errors
///
/// Those of the start and of the work, then those of the end.
pub(crate) async fn with_accelerator<T>(
    context: &Context,
    measuring: Measuring,
    builder: impl Fn() -> AcceleratorBuilder,
    work: impl AsyncFnOnce(&Accelerator) -> Result<T>,
) -> Result<T> {
    let spinner = context.bars.spinner("starting workers");
    let starting = async {
        match builder().build().await {
            Err(tabpool::Error::Pool(PoolError::Metrics(locked)))
                if measuring == Measuring::Wanted && matches!(*locked, OpenError::Locked { .. }) =>
            {
                context.bars.aside(|| context.terminal.warn(&format!("measurements are not kept: {locked}")));
                Ok(builder().metrics_in_memory().build().await?)
            }
            built => Ok(built?),
        }
    };
    let accelerator = context.interrupt.guard(starting).await?;
    spinner.clear();
    for worker in accelerator.pool().workers().iter().filter(|worker| worker.id.is_none()) {
        let reason = if worker.last_reason.is_empty() { "it did not join in time" } else { &worker.last_reason };
        context.terminal.warn(&format!("{} did not start: {reason}", worker.kind));
    }

    let watching = watch(&accelerator, context);
    let working = context.interrupt.guard(work(&accelerator));
    let result = tokio::select! {
        result = working => result,
        never = watching => match never {},
    };

    let spinner = context.bars.spinner("closing workers");
    let closed = tokio::time::timeout(CLOSING, accelerator.close()).await;
    spinner.clear();
    let value = result?;
    match closed {
        Ok(closed) => closed?,
        Err(_) => context.terminal.warn("the workers did not close in time and were ended"),
    }
    Ok(value)
}

/// Shows loads as bars and tells of workers that are lost, until it is dropped.
async fn watch(accelerator: &Accelerator, context: &Context) -> Infallible {
    let Context { terminal, bars, .. } = context;
    let mut events = accelerator.pool().events();
    let mut loading: HashMap<(WorkerId, ApiKind), Bar> = HashMap::new();
    let name = |worker: WorkerId| {
        let workers = accelerator.pool().workers();
        workers
            .iter()
            .find(|view| view.id == Some(worker))
            .map_or_else(|| worker.to_string(), |view| view.kind.to_string())
    };
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            // Bars that miss a step catch up with the next one.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => std::future::pending().await,
        };
        tracing::debug!(?event, "pool");
        match event {
            PoolEvent::Loading { worker, model, api, done, total } => {
                if !loading.contains_key(&(worker, api)) && loading.len() < MOST_BARS {
                    loading.insert((worker, api), bars.bytes("loading"));
                }
                if let Some(bar) = loading.get(&(worker, api)) {
                    bar.at(done, total, &format!("{}:{api} {model}", name(worker)));
                }
            }
            PoolEvent::Loaded { worker, api, .. } => drop(loading.remove(&(worker, api))),
            PoolEvent::LoadFailed { worker, model, api, reason } => {
                loading.remove(&(worker, api));
                bars.aside(|| terminal.warn(&format!("{}:{api} could not load {model}: {reason}", name(worker))));
            }
            PoolEvent::Lost { worker, reason } => {
                loading.retain(|(of, _), _| *of != worker);
                bars.aside(|| terminal.warn(&format!("{worker} was lost: {reason}")));
            }
            PoolEvent::SetAside { reason, .. } => {
                bars.aside(|| terminal.warn(&format!("a worker failed too often and is left alone: {reason}")));
            }
            _ => {}
        }
    }
}

/// A worker as tables call it: its browser and the version's leading number, `native` without one.
pub(crate) fn worker_name(worker: &WorkerView) -> String {
    let capabilities = &worker.capabilities;
    let browser = if capabilities.browser.is_empty() { worker.kind.to_string() } else { capabilities.browser.clone() };
    let major = capabilities.version.split('.').next().unwrap_or_default();
    if major.is_empty() || browser == "native" { browser } else { format!("{browser} {major}") }
}

/// A worker by its id, as answers name it.
pub(crate) fn worker_view(accelerator: &Accelerator, id: WorkerId) -> Option<WorkerView> {
    accelerator.pool().workers().into_iter().find(|worker| worker.id == Some(id))
}
