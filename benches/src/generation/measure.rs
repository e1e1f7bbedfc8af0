//! Rounds that take turns, and what comes of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::sides::{Ours, Peer, Said};
use crate::Fault;
use crate::rig::percentile;

/// Rounds are over when this much time is, but not before [`FEWEST`].
const BUDGET: Duration = Duration::from_secs(90);
const FEWEST: usize = 3;
/// A peer whose step takes longer than so many milliseconds makes only [`FEW_STEPS`] of them: more would cost minutes and change
/// little.
pub(super) const SLOW: f64 = 300.0;
const FEW_STEPS: usize = 3;
/// Between two turns, so that what one left running (threads that spin, buffers that are freed) has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// Times of one side after one prompt, in milliseconds, of all rounds that count.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Measured {
    /// The prompt's reading, to the first token.
    pub(super) prefill_ms: Vec<f64>,
    pub(super) caller_prefill_ms: Vec<f64>,
    /// The steps of each round, in order.
    pub(super) steps_ms: Vec<Vec<f64>>,
    /// A step on average, of each round.
    pub(super) caller_step_ms: Vec<f64>,
}

impl Measured {
    /// Every step of every round.
    pub(super) fn steps(&self) -> Vec<f64> {
        self.steps_ms.concat()
    }

    /// The median of the step that comes at this place.
    pub(super) fn step_at(&self, place: usize) -> f64 {
        let all: Vec<f64> = self.steps_ms.iter().filter_map(|round| round.get(place).copied()).collect();
        percentile(&all, 50)
    }

    fn add(&mut self, said: Said) {
        self.prefill_ms.extend(said.prefill_ms);
        if !said.steps_ms.is_empty() {
            self.steps_ms.push(said.steps_ms);
        }
        if let Some([prefill, step]) = said.caller {
            self.caller_prefill_ms.push(prefill);
            self.caller_step_ms.push(step);
        }
    }
}

/// What became of a side.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Measured(Measured),
    Failed(String),
    /// Nobody was to be measured.
    Absent,
}

impl Outcome {
    pub(super) fn measured(&self) -> Option<&Measured> {
        match self {
            Self::Measured(measured) => Some(measured),
            Self::Failed(_) | Self::Absent => None,
        }
    }

    fn add(&mut self, said: Result<Said, Fault>) {
        match (&mut *self, said) {
            (Self::Measured(measured), Ok(said)) => measured.add(said),
            (Self::Measured(_), Err(e)) => *self = Self::Failed(e.to_string()),
            (Self::Failed(_) | Self::Absent, _) => {}
        }
    }
}

/// Both sides after a prompt of so many tokens.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Case {
    pub(super) prompt: usize,
    pub(super) ours: Outcome,
    pub(super) peer: Outcome,
}

/// What was first said after each prompt, wherever that was: everybody else is held against it.
pub(super) type Expected = HashMap<usize, Vec<i32>>;

/// Warms ours up after each prompt, and sees that it says what was said elsewhere.
pub(super) async fn warm_up(ours: &Ours, prompts: &[Vec<i32>], steps: usize, expected: &mut Expected) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for ids in prompts {
        // The first makes what the second finds; and where programs are compiled in two stages, they are by then.
        let said = match ours.say(ids.clone(), steps).await {
            Ok(_) => ours.say(ids.clone(), steps).await,
            failed => failed,
        };
        if let (Ok(said), false) = (&said, expected.contains_key(&ids.len())) {
            expected.insert(ids.len(), said.ids.clone());
        }
        let expected = expected.get(&ids.len()).map_or(&[][..], |ids| ids);
        outcomes.push(match same(said, expected) {
            Ok(_) => Outcome::Measured(Measured::default()),
            Err(e) => Outcome::Failed(e.to_string()),
        });
    }
    outcomes
}

/// Warms the peer up, sees that it says the same, and has both take turns. One that fails is out; the other goes on, so that its
/// figures are had all the same. Of the peer each prompt is read once and its steps go on from there in every round; only the
/// first prompt's reading is measured.
pub(super) async fn interleaved(
    (ours, warm): (&Ours, Vec<Outcome>),
    mut peer: Option<&mut Peer>,
    prompts: &[Vec<i32>],
    (steps, rounds): (usize, usize),
    expected: &Expected,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for (ids, ours) in prompts.iter().zip(warm) {
        let prompt = ids.len();
        let expected = expected.get(&prompt).map_or(&[][..], |ids| ids);
        let peer = match &mut peer {
            Some(peer) => peer_warm_up(peer, ids, steps, expected).await.map_err(|e| e.to_string()),
            None => Ok(0),
        };
        let (peer, its_steps) = match peer {
            Ok(0) => (Outcome::Absent, 0),
            Ok(steps) => (Outcome::Measured(Measured::default()), steps),
            Err(e) => (Outcome::Failed(e), 0),
        };
        cases.push((Case { prompt, ours, peer }, ids, expected, its_steps));
    }
    let begin = Instant::now();
    for round in 0..rounds {
        if round >= FEWEST && begin.elapsed() > BUDGET {
            break;
        }
        for (at, (case, ids, expected, its_steps)) in cases.iter_mut().enumerate() {
            if case.ours.measured().is_some() {
                tokio::time::sleep(PAUSE).await;
                case.ours.add(same(ours.say(ids.clone(), steps).await, expected));
            }
            let Some(peer) = peer.as_mut().filter(|_| case.peer.measured().is_some()) else { continue };
            tokio::time::sleep(PAUSE).await;
            if at == 0 {
                case.peer.add(same(peer.read(ids, false).await, &expected[..1]));
            }
            let (count, expected) = (*its_steps, &expected[..=*its_steps]);
            case.peer.add(same(peer.step(ids.len(), expected[0], count).await, expected));
        }
    }
    cases.into_iter().map(|(case, ..)| case).collect()
}

/// Reads a prompt, keeps it, and makes its steps once; gives how many a round has.
async fn peer_warm_up(peer: &mut Peer, ids: &[i32], steps: usize, expected: &[i32]) -> Result<usize, Fault> {
    let read = same(peer.read(ids, true).await, expected.get(..1).ok_or("nobody has said what follows")?)?;
    let few = FEW_STEPS.min(steps);
    let said = same(peer.step(ids.len(), read.ids[0], few).await, &expected[..=few])?;
    if percentile(&said.steps_ms, 50) > SLOW {
        return Ok(few);
    }
    same(peer.step(ids.len(), read.ids[0], steps).await, expected).map(|_| steps)
}

/// What was said, if it is what is expected.
pub(super) fn same(said: Result<Said, Fault>, expected: &[i32]) -> Result<Said, Fault> {
    let said = said?;
    if said.ids == expected {
        return Ok(said);
    }
    let at = said.ids.iter().zip(expected).position(|(got, want)| got != want);
    let at = at.unwrap_or(said.ids.len().min(expected.len()));
    let [got, want] = [&said.ids, expected].map(|ids| ids.get(at).copied());
    Err(format!("says other tokens: {got:?} for {want:?} in place {at}").into())
}

#[cfg(test)]
mod tests {
    use super::{Measured, Said, same};

    #[test]
    fn other_tokens_are_a_failure_that_names_the_first() {
        let said = |ids: &[i32]| Ok(Said { ids: ids.to_vec(), ..Said::default() });
        assert!(same(said(&[1, 2, 3]), &[1, 2, 3]).is_ok());
        let error = same(said(&[1, 5, 3]), &[1, 2, 3]).expect_err("it says others").to_string();
        assert!(error.contains("Some(5) for Some(2) in place 1"), "{error}");
        assert!(same(said(&[1]), &[1, 2]).is_err(), "too few are others, too");
    }

    #[test]
    fn the_step_at_a_place_is_the_median_of_its_rounds() {
        let steps_ms = vec![vec![1.0, 9.0], vec![3.0, 7.0], vec![2.0, 8.0]];
        let measured = Measured { steps_ms, ..Measured::default() };
        assert_eq!([measured.step_at(0), measured.step_at(1)], [2.0, 8.0]);
        assert!(measured.step_at(2).is_nan());
    }
}
