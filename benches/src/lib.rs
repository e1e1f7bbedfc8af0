//! Benchmarks of tabpool: what each measures, at what size, and beside which peer, stands at the head of its program under
//! `src/bin`. `cargo xtask bench` lists them. Here is what they share: rounds that interleave the contenders, so that a
//! noisy machine is unfair to all alike, and quartiles instead of single figures.

pub mod generation;
pub mod onnx;
pub mod overhead;
pub mod peers;
pub mod pooling;
mod rig;

use std::time::{Duration, Instant};

/// Whatever made a benchmark fail.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A contender's times.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// The time below which a share of the runs lies, in per cent; zero without runs.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) * percent.min(100) / 100).copied().unwrap_or_default()
    }
}

/// Runs every contender once a round, in turn, and gives each one's times. The first round is not counted.
///
/// # Errors
/// The first failure of a contender.
pub fn interleave<E>(rounds: usize, contenders: &mut [&mut dyn FnMut() -> Result<(), E>]) -> Result<Vec<Times>, E> {
    let mut times = vec![Times::default(); contenders.len()];
    for round in 0..=rounds {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            let begin = Instant::now();
            contender()?;
            if round > 0 {
                times.0.push(begin.elapsed());
            }
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::interleave;

    #[test]
    fn every_contender_runs_in_turn_and_the_first_round_does_not_count() {
        let order = std::cell::RefCell::new(String::new());
        let mut a = || -> Result<(), Infallible> {
            order.borrow_mut().push('a');
            Ok(())
        };
        let mut b = || -> Result<(), Infallible> {
            order.borrow_mut().push('b');
            Ok(())
        };
        let times = interleave(2, &mut [&mut a, &mut b]).expect("neither fails");
        assert_eq!(*order.borrow(), "ababab");
        assert!(times.iter().all(|t| t.0.len() == 2 && t.percentile(25) <= t.percentile(75)));
    }
}
