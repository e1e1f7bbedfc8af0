//! Rounds that interleave two contenders, and what comes of them.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::case::{Case, Reference};
use super::contender::{Place, Run};
use super::report::TwoContexts;
use crate::Fault;
use crate::rig::percentile;

/// Runs of each before the first that counts.
pub(super) const WARM_UP: usize = 2;
/// A warm-up run this long is the only one: a second would cost minutes and change little.
const LONG: f64 = 5e3;
/// Rounds are over when this much time is, but not before [`FEWEST`].
const BUDGET: Duration = Duration::from_secs(40);
const FEWEST: usize = 3;
/// Between two turns, so that what one left running (buffers that are freed, threads that spin) has ended. onnxruntime's threads
/// spin for some sixty milliseconds after a run, on the cores that the other's threads want.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// What takes less than this, in milliseconds, is run once more in each turn.
const SHORT: f64 = 500.0;
/// One turn of those whose answers a second are counted.
const SLICE: Duration = Duration::from_secs(2);

/// Times of one contender, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Measured {
    /// Each run before the first that counts, compilation and the like included.
    pub(super) warm_up_ms: Vec<f64>,
    /// Each run that counts.
    pub(super) runs_ms: Vec<f64>,
    /// The same by the caller's clock, for contenders behind a link.
    pub(super) caller_ms: Vec<f64>,
    /// The largest absolute difference from the reference.
    pub(super) error: f32,
}

/// What became of a contender in a case.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Measured(Measured),
    Failed(String),
}

impl Outcome {
    pub(super) fn measured(&self) -> Option<&Measured> {
        match self {
            Self::Measured(measured) => Some(measured),
            Self::Failed(_) => None,
        }
    }
}

impl Measured {
    /// Whether runs are short, by the latest: before one that counts goes one that does not, because after a pause threads have to
    /// be woken, and one side's are kept awake between runs for that.
    pub(super) fn is_short(&self) -> bool {
        self.runs_ms.last().or(self.warm_up_ms.last()).is_some_and(|ms| *ms < SHORT)
    }

    pub(super) fn median(&self) -> f64 {
        percentile(&self.runs_ms, 50)
    }
}

/// Warms all up and runs them in turn, each in every round. One that fails is out; the others go on, so that their figures
/// are had all the same.
pub(super) async fn interleaved(
    places: &mut [&mut Place<'_>],
    case: &Case,
    reference: &Reference,
    rounds: usize,
) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(places.len());
    for place in &mut *places {
        outcomes.push(warm_up(place, case, reference).await);
    }
    let begin = Instant::now();
    for round in 0..rounds {
        if round >= FEWEST && begin.elapsed() > BUDGET {
            break;
        }
        for (place, outcome) in places.iter_mut().zip(&mut outcomes) {
            let Outcome::Measured(measured) = outcome else { continue };
            tokio::time::sleep(PAUSE).await;
            match turn(place, case, measured.is_short()).await {
                Ok(run) => {
                    measured.runs_ms.push(run.ms);
                    measured.caller_ms.extend(run.caller_ms);
                }
                Err(e) => *outcome = Outcome::Failed(e.to_string()),
            }
        }
    }
    outcomes
}

/// One run that counts, after one that does not where they are short.
async fn turn(place: &mut Place<'_>, case: &Case, short: bool) -> Result<Run, Fault> {
    if short {
        place.run(case, false).await?;
    }
    place.run(case, false).await
}

/// Answers a second of our two contexts, each with a run and one that follows it, and of the peer's one, whose session takes one
/// run at a time; in slices that take turns. The median slice counts.
pub(super) async fn two_at_once(
    browser: &str,
    [ours, peer]: [&mut Place<'_>; 2],
    case: &Case,
    rounds: usize,
) -> TwoContexts {
    let (mut ours_hz, mut peer_hz, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        for (place, at_once, hz) in [(&mut *ours, 4, &mut ours_hz), (&mut *peer, 1, &mut peer_hz)] {
            tokio::time::sleep(PAUSE).await;
            match place.throughput(case, at_once, SLICE).await {
                // The first slice loads the model into both contexts.
                Ok(_) if round == 0 => {}
                Ok(rate) => hz.push(rate),
                Err(e) => failed.push(e.to_string()),
            }
        }
        if !failed.is_empty() {
            break;
        }
    }
    let median = |rates: &[f64]| Some(percentile(rates, 50)).filter(|rate| !rate.is_nan());
    TwoContexts {
        browser: browser.to_owned(),
        batch: case.batch,
        ours_hz: median(&ours_hz),
        peer_hz: median(&peer_hz),
        failed,
    }
}

async fn warm_up(place: &mut Place<'_>, case: &Case, reference: &Reference) -> Outcome {
    let mut measured = Measured::default();
    // The other side's threads may still be spinning after the case before this one.
    tokio::time::sleep(PAUSE).await;
    for at in 0..WARM_UP {
        let run = match place.run(case, at == 0).await {
            Ok(run) => run,
            Err(e) => return Outcome::Failed(e.to_string()),
        };
        if at == 0 {
            measured.error = run.output.map_or(f32::INFINITY, |output| reference.error_of(case, &output));
        }
        measured.warm_up_ms.push(run.ms);
        if run.ms > LONG {
            break;
        }
    }
    place.settled().await;
    Outcome::Measured(measured)
}
