//! Measuring one worker with one API, and all of them together.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use tabpool::{Accelerator, ApiKind, Model, PoolEvent, Precision, WorkerId, WorkerKind, WorkerView};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::session::{worker_name, worker_view};

/// Copies of the texts that all workers are given together in each round: enough that none runs out of work at once.
const COPIES: usize = 4;

/// What one worker did with one API.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) worker: String,
    pub(super) browser: String,
    pub(super) version: String,
    pub(super) api: ApiKind,
    pub(super) adapter: String,
    /// Its blocks come from this process, so it neither fetches nor caches.
    pub(super) native: bool,
    pub(super) loads: Loads,
    /// What it computed, or why it did not.
    pub(super) result: Result<Measurement, String>,
}

/// What its loads cost, all programs together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loads {
    pub(super) programs: u32,
    pub(super) time: Duration,
    pub(super) fetched: u64,
    pub(super) cached: u64,
    /// The least exact arithmetic of all of them.
    pub(super) precision: Precision,
}

/// What it computed, and how fast.
#[derive(Debug)]
pub(super) struct Measurement {
    /// One embedding a text, by the last round.
    pub(super) embeddings: Vec<Vec<f32>>,
    /// For each text, all rounds: the numbers furthest apart from those of `embeddings`.
    pub(super) latencies: Vec<Duration>,
    /// Texts a second, given together.
    pub(super) throughput: f64,
    pub(super) rounds: u32,
}

/// What all workers did together.
#[derive(Debug)]
pub(super) struct Together {
    pub(super) throughput: f64,
    pub(super) texts: usize,
    /// Texts by worker and API.
    pub(super) shares: BTreeMap<String, usize>,
    /// One embedding a text, by the last round.
    pub(super) embeddings: Vec<Vec<f32>>,
}

impl Measured {
    pub(super) fn failure(&self) -> Option<String> {
        self.result.as_ref().err().map(|reason| format!("{} {}: {reason}", self.worker, self.api))
    }
}

impl Measurement {
    /// The median and the 95th percentile of the time from question to answer.
    pub(super) fn quantiles(&self) -> (Duration, Duration) {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = |share: usize| {
            let rank = (sorted.len() * share).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        (at(50), at(95))
    }
}

/// Loads the model on one worker, warms it up, and measures it: each text alone for its latency, all together for
/// throughput.
pub(super) async fn measure(
    accelerator: &Accelerator,
    model: &Model,
    worker: &WorkerView,
    api: ApiKind,
    texts: &[&str],
    rounds: u32,
    patience: Duration,
) -> Measured {
    let mut loads = Loads::default();
    let of = worker.id;
    let result = watching(accelerator, of, api, &mut loads, timed(model, texts, rounds, patience)).await;
    Measured {
        worker: worker_name(worker),
        browser: worker.capabilities.browser.clone(),
        version: worker.capabilities.version.clone(),
        api,
        adapter: worker.adapter(api).unwrap_or_default(),
        native: worker.kind == WorkerKind::Native,
        loads,
        result: result.map_err(|error| format!("{error:#}")),
    }
}

/// Does the work and counts the loads that one worker tells of meanwhile.
async fn watching<T>(
    accelerator: &Accelerator,
    of: Option<WorkerId>,
    with: ApiKind,
    loads: &mut Loads,
    work: impl Future<Output = T>,
) -> T {
    let mut events = accelerator.pool().events();
    let mut count = |event: PoolEvent| {
        if let PoolEvent::Loaded { worker, api, stats, .. } = event
            && Some(worker) == of
            && api == with
        {
            loads.programs += 1;
            loads.time += Duration::from_micros(stats.total_us);
            loads.fetched += stats.fetched.1;
            loads.cached += stats.cached.1;
            loads.precision = loads.precision.max(stats.precision);
        }
    };
    let mut work = std::pin::pin!(work);
    let mut open = true;
    let value = loop {
        tokio::select! {
            biased;
            event = events.recv(), if open => match event {
                Ok(event) => count(event),
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "loads may be missing from the figures"),
                Err(RecvError::Closed) => open = false,
            },
            value = &mut work => break value,
        }
    };
    loop {
        match events.try_recv() {
            Ok(event) => count(event),
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return value,
        }
    }
}

async fn timed(model: &Model, texts: &[&str], rounds: u32, patience: Duration) -> Result<Measurement> {
    // Once everything in both ways, so that every program is loaded and every cache warm before the clock runs. One text
    // comes first: it brings the weights, which the programs after it find on the device.
    for text in texts {
        model.embed(&[text]).await?;
    }
    model.embed(texts).await?;
    let begun = Instant::now();
    let mut measurement = Measurement { embeddings: Vec::new(), latencies: Vec::new(), throughput: 0.0, rounds: 0 };
    let mut busy = Duration::ZERO;
    while measurement.rounds < rounds && (measurement.rounds == 0 || begun.elapsed() < patience) {
        measurement.rounds += 1;
        for text in texts {
            let answer = model.embed(&[text]).await?;
            measurement.latencies.extend(answer.runs().iter().map(|run| run.timing.total));
        }
        let start = Instant::now();
        let embeddings = model.embed(texts).await?;
        busy += start.elapsed();
        measurement.embeddings = embeddings.iter().map(<[f32]>::to_vec).collect();
    }
    measurement.throughput = rate(texts.len() * measurement.rounds as usize, busy);
    Ok(measurement)
}

/// Gives all workers more texts than one of them could take, and counts who did how many.
pub(super) async fn together(
    accelerator: &Accelerator,
    model: &Model,
    texts: &[&str],
    rounds: u32,
) -> Result<Together> {
    let many: Vec<&str> = texts.iter().copied().cycle().take(texts.len() * COPIES).collect();
    // The shares of so many texts may be programs of their own.
    model.embed(&many).await?;
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    let mut embeddings = Vec::new();
    let start = Instant::now();
    for _ in 0..rounds {
        let answer = model.embed(&many).await?;
        for run in answer.runs() {
            let worker = worker_view(accelerator, run.worker);
            let name = worker.as_ref().map_or_else(|| run.worker.to_string(), worker_name);
            *shares.entry(format!("{name} {}", run.api)).or_default() += run.items.len();
        }
        embeddings = answer.iter().take(texts.len()).map(<[f32]>::to_vec).collect();
    }
    let done = many.len() * rounds as usize;
    Ok(Together { throughput: rate(done, start.elapsed()), texts: done, shares, embeddings })
}

fn rate(texts: usize, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate is a quotient")]
    let texts = texts as f64;
    if time.is_zero() { 0.0 } else { texts / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Measurement;

    #[test]
    fn quantiles_are_of_what_was_measured() {
        let of = |millis: &[u64]| {
            let latencies = millis.iter().map(|ms| Duration::from_millis(*ms)).collect();
            let measurement = Measurement { embeddings: Vec::new(), latencies, throughput: 0.0, rounds: 1 };
            let (median, p95) = measurement.quantiles();
            (median.as_millis(), p95.as_millis())
        };
        assert_eq!(of(&[3, 1, 2]), (2, 3));
        assert_eq!(of(&(1..=100).rev().collect::<Vec<_>>()), (50, 95));
        assert_eq!(of(&[7]), (7, 7));
        assert_eq!(of(&[]), (0, 0));
    }
}
