//! Teams under stress: many small steps, helpers that come late, never, or are lost.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::sync::LazyLock;
use std::thread;
use std::time::Instant;
use std::vec;
use std::vec::Vec;

use super::{Lost, Park, Team};
use crate::isa::Isa;
use crate::math::Function;
use crate::step::{Kernel, MAX_OPERANDS, Span, Step};

/// How long helpers look out for work, in microseconds: long enough to do so between some steps, and to sleep before others.
const PATIENCE: u32 = 300;

/// Waits by looking again every now and then, which is slow and cannot miss anything.
struct Polling;

impl Park for Polling {
    fn wait(&self, word: &AtomicU32, seen: u32, milliseconds: u32) {
        for _ in 0..milliseconds.min(100) * 10 {
            if word.load(Ordering::SeqCst) != seen {
                return;
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    fn wake(&self, _: &AtomicU32) {}

    fn gives_up(&self) -> bool {
        false
    }

    fn micros(&self) -> u32 {
        static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGIN.elapsed().as_micros() as u32
    }
}

/// A chain of steps, each of which negates what the one before it gave, over several tasks each.
struct Chain {
    steps: Vec<Step>,
    rows: Vec<Vec<f32>>,
}

impl Chain {
    const LEN: usize = 70_000;

    fn new(length: usize, threads: usize) -> Self {
        let mut rows: Vec<Vec<f32>> = (0..=length).map(|_| vec![0.0; Self::LEN]).collect();
        for (i, x) in rows[0].iter_mut().enumerate() {
            *x = i as f32;
        }
        let spans: Vec<Span> =
            rows.iter_mut().map(|row| Span { address: row.as_mut_ptr().expose_provenance(), len: row.len() }).collect();
        let step = |pair: &[Span]| {
            let mut operands = [Span::NONE; MAX_OPERANDS];
            operands[0] = pair[0];
            Step::new(Kernel::Unary(Function::Neg), operands, pair[1], threads)
        };
        Self { steps: spans.windows(2).map(step).collect(), rows }
    }

    fn run(&self, team: &Team) -> Result<(), Lost> {
        assert!(self.steps.iter().all(|step| step.tasks() > 1), "there is something to share");
        // SAFETY: each step reads one row and writes the next, and nobody else touches them.
        unsafe { team.lead(Isa::detect(), &self.steps, &Polling) }
    }

    fn is_right(&self) -> bool {
        let sign = if self.steps.len().is_multiple_of(2) { 1.0 } else { -1.0 };
        let last = self.rows.last().expect("there is one");
        last.iter().enumerate().all(|(i, x)| *x == sign * i as f32)
    }
}

#[test]
fn every_task_of_every_step_is_done_once_whoever_does_it() {
    let team = Team::new();
    thread::scope(|scope| {
        for lane in 1..4 {
            let team = &team;
            // SAFETY: lanes are apart; the steps use no scratch memory.
            scope.spawn(move || unsafe { team.help(Isa::detect(), lane, PATIENCE, &Polling) });
        }
        for length in [1, 2, 33, 100] {
            let chain = Chain::new(length, 4);
            for _ in 0..5 {
                assert_eq!(chain.run(&team), Ok(()));
                assert!(chain.is_right(), "a chain of {length}");
            }
            // Long enough for helpers to park.
            thread::sleep(Duration::from_millis(2));
        }
        team.end(&Polling);
    });
}

#[test]
fn a_team_whose_helpers_never_come_is_only_slower() {
    let chain = Chain::new(7, 4);
    assert_eq!(chain.run(&Team::new()), Ok(()));
    assert!(chain.is_right());
}

#[test]
fn a_helper_lost_with_a_task_ends_the_run_with_an_error() {
    let (team, chain) = (Team::new(), Chain::new(3, 4));
    thread::scope(|scope| {
        let thief = scope.spawn(|| {
            while team.take().is_none() {
                thread::yield_now();
            }
            team.abandon(&Polling);
        });
        // The thief may come late for a run or two.
        let lost = (0..100_000).any(|_| chain.run(&team) == Err(Lost));
        assert!(lost);
        thief.join().expect("it only steals");
    });
}
