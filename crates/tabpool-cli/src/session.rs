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
use crate::terminal::shortened;

/// How long the pool may take to close: browsers get seconds, a native worker ends its run first.
const CLOSING: Duration = Duration::from_secs(20);
/// Bars shown at once; a worker more is loaded without one.
const MOST_BARS: usize = 8;
/// Columns of what is said of a tab that joined, and of why it left.
const GUEST_COLUMNS: usize = 100;
/// How long a worker may take from being told of to being among the pool's, and how often that is looked at.
const SHOWN_WITHIN: Duration = Duration::from_secs(2);
const LOOKED_FOR_EVERY: Duration = Duration::from_millis(10);

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

/// Shows loads as bars and tells of workers that are lost and of tabs that come and go, until it is dropped.
async fn watch(accelerator: &Accelerator, context: &Context) -> Infallible {
    let Context { terminal, bars, .. } = context;
    let mut events = accelerator.pool().events();
    let mut loading: HashMap<(WorkerId, ApiKind), Bar> = HashMap::new();
    // Tabs that joined by themselves; there are no more than the pool lets in.
    let mut guests: HashMap<WorkerId, String> = HashMap::new();
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
            PoolEvent::Joined { worker, slot: None, .. } => {
                let Some(view) = arrival(accelerator, worker).await else { continue };
                let guest = guest(&view);
                bars.aside(|| terminal.tell(&format!("joined: {guest}, {}", shortened(&view.remote, GUEST_COLUMNS))));
                guests.insert(worker, guest);
            }
            PoolEvent::Lost { worker, reason } if guests.contains_key(&worker) => {
                loading.retain(|(of, _), _| *of != worker);
                let guest = guests.remove(&worker).unwrap_or_default();
                bars.aside(|| terminal.tell(&format!("left: {guest}: {}", shortened(&reason, GUEST_COLUMNS))));
            }
            PoolEvent::Paused { worker } if guests.contains_key(&worker) => {
                bars.aside(|| terminal.tell(&format!("paused: {}", guests[&worker])));
            }
            PoolEvent::Unpaused { worker } if guests.contains_key(&worker) => {
                bars.aside(|| terminal.tell(&format!("goes on: {}", guests[&worker])));
            }
            PoolEvent::Rejected { remote, reason } => {
                let reason = shortened(&reason, GUEST_COLUMNS);
                bars.aside(|| terminal.tell(&format!("not let in: {}: {reason}", shortened(&remote, GUEST_COLUMNS))));
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

/// A worker that has just been told of, once the pool shows it. It is told of first; one that is gone already is not found.
async fn arrival(accelerator: &Accelerator, worker: WorkerId) -> Option<WorkerView> {
    let mut ticks = tokio::time::interval(LOOKED_FOR_EVERY);
    let found = async {
        loop {
            ticks.tick().await;
            if let Some(view) = worker_view(accelerator, worker) {
                return view;
            }
        }
    };
    tokio::time::timeout(SHOWN_WITHIN, found).await.ok()
}

/// What is said of a tab that joined by itself: its browser, its system, and what it computes with. All of it is the tab's own
/// claim.
fn guest(view: &WorkerView) -> String {
    let best = view.apis.first().map_or_else(
        || "with nothing to compute with".to_owned(),
        |&api| match view.adapter(api) {
            Some(adapter) if !adapter.is_empty() => format!("{api} on {adapter}"),
            _ => api.to_string(),
        },
    );
    let system = &view.capabilities.os;
    let system = if system.is_empty() { String::new() } else { format!(" on {system}") };
    shortened(&format!("{}{system}, {best}", worker_name(view)), GUEST_COLUMNS)
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
