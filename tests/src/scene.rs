//! Pools for cases: set up, watched, waited for.

use std::collections::VecDeque;
use std::time::Duration;

use tabpool_browser::BrowserKind;
use tabpool_pool::{PoolBuilder, PoolEvent, Profile, ResourcePool, WorkerSpec};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::Fault;

/// No browser takes longer to join, a loaded machine included.
pub const JOINED_WITHIN: Duration = Duration::from_secs(60);

/// A browser's slot.
#[must_use]
pub fn browser(kind: BrowserKind, profile: Profile) -> WorkerSpec {
    WorkerSpec::browser(kind).profile(profile)
}

/// A pool whose slots are all filled.
///
/// # Errors
/// Where a worker does not join; the pool is ended then.
pub async fn ready(builder: PoolBuilder) -> Result<ResourcePool, Fault> {
    let pool = builder.build().await?;
    pool.wait_ready(JOINED_WITHIN).await?;
    Ok(pool)
}

/// What a pool told since it was first watched. Events that no wait was for are kept for a later one.
pub struct Watch {
    events: Receiver<PoolEvent>,
    kept: VecDeque<PoolEvent>,
}

impl Watch {
    /// Watches from now on.
    #[must_use]
    pub fn on(pool: &ResourcePool) -> Self {
        Self { events: pool.events(), kept: VecDeque::new() }
    }

    /// Waits until the pool tells what `wanted` picks out, and gives that. Earlier events count.
    ///
    /// # Errors
    /// Where it does not come in time; `what` says what was waited for.
    pub async fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&PoolEvent) -> Option<T>,
    ) -> Result<T, Fault> {
        for at in 0..self.kept.len() {
            if let Some(found) = wanted(&self.kept[at]) {
                self.kept.remove(at);
                return Ok(found);
            }
        }
        let deadline = Instant::now() + limit;
        loop {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            match event {
                Ok(Ok(event)) => match wanted(&event) {
                    Some(found) => return Ok(found),
                    None => self.kept.push_back(event),
                },
                Ok(Err(RecvError::Lagged(missed))) => return Err(format!("{missed} events were missed").into()),
                Ok(Err(RecvError::Closed)) => return Err(format!("the pool ended before {what}").into()),
                Err(_) => return Err(format!("not within {limit:?}: {what}; told was {:#?}", self.kept).into()),
            }
        }
    }
}

/// Polls until `condition` gives something.
///
/// # Errors
/// Where it does not in time; `what` says what was waited for.
pub async fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T, Fault> {
    let deadline = Instant::now() + limit;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("not within {limit:?}: {what}").into());
        }
        ticks.tick().await;
    }
}

/// One case of a suite at a time: those that start browsers or measure would only slow each other.
static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Waits for the machine, and keeps it until the guard is dropped.
pub async fn machine() -> tokio::sync::MutexGuard<'static, ()> {
    MACHINE.lock().await
}
