//! Drives the scheduler through over a million events in a made-up pool where everything goes wrong, and
//! checks after every event that its promises hold.
//!
//! A failing run names its seed. `TABPOOL_SIMULATION_SEED=n cargo test -p tabpool-scheduler --test simulation` runs
//! that seed alone; `TABPOOL_SIMULATION_EVENTS` sets how many events each seed gets, `TABPOOL_SIMULATION_SEEDS` how
//! many seeds are run.

mod chance;
mod rules;
mod world;

use std::time::Instant;

use tabpool_scheduler::Stats;

use crate::world::{Scenario, World};

const SEEDS: u64 = 16;
const EVENTS: u64 = 70_000;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name} is {value:?}, not a number: {error}")))
}

/// Says which seed was running if the scheduler itself panics.
struct Running(u64);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with TABPOOL_SIMULATION_SEED={}", self.0);
        }
    }
}

fn run(seed: u64, scenario: Scenario) -> Stats {
    let running = Running(seed);
    let events = setting("TABPOOL_SIMULATION_EVENTS").unwrap_or(EVENTS);
    let mut world = World::new(seed, scenario);
    let outcome = world.run(events).and_then(|()| world.settle());
    if let Err(broken) = outcome {
        panic!("seed {}, {scenario:?}, {}: {broken}", running.0, world.moment());
    }
    world.stats()
}

fn seeds() -> Vec<u64> {
    match setting("TABPOOL_SIMULATION_SEED") {
        Some(seed) => vec![seed],
        None => (1..=setting("TABPOOL_SIMULATION_SEEDS").unwrap_or(SEEDS)).collect(),
    }
}

#[test]
fn promises_hold_while_everything_goes_wrong() {
    let began = Instant::now();
    let seeds = seeds();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let replies: u64 = std::thread::scope(|scope| {
        let share = |first| {
            let seeds = seeds.iter().copied().skip(first).step_by(threads);
            move || seeds.map(run_rough).sum::<u64>()
        };
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(share(first))).collect();
        running.into_iter().map(|thread| thread.join().expect("a seed failed; see above")).sum()
    });
    eprintln!("{replies} requests answered in {:.1} s", began.elapsed().as_secs_f64());
}

/// Runs a seed in which everything goes wrong; says how many requests were answered.
fn run_rough(seed: u64) -> u64 {
    let stats = run(seed, Scenario::of_seed(seed));
    eprintln!("seed {seed}: {stats:?}");
    // A simulation in which a fault never happened would prove nothing about it.
    assert!(stats.finished > 0 && stats.replayed > 0 && stats.lost > 0, "seed {seed}: {stats:?}");
    assert!(stats.attempt_timeouts > 0 && stats.late > 0, "seed {seed}: {stats:?}");
    assert!(stats.timed_out > 0 && stats.cancelled > 0 && stats.failed > 0, "seed {seed}: {stats:?}");
    assert!(stats.hedged > 0 && stats.hedged * 5 <= stats.dispatched, "seed {seed}: {stats:?}");
    assert!(stats.unloads > 0 && stats.overtaking > 0, "seed {seed}: {stats:?}");
    // In a storm somebody always waits, and nothing is tried.
    assert!(stats.trials > 0 || Scenario::of_seed(seed) == Scenario::Storm, "seed {seed}: {stats:?}");
    let ignored = stats.ignored;
    assert!(ignored.worker > 0 && ignored.attempt > 0 && ignored.load > 0, "seed {seed}: {stats:?}");
    stats.replies()
}

#[test]
fn a_calm_pool_answers_everything_with_outputs() {
    for seed in seeds() {
        let stats = run(seed, Scenario::Calm);
        let (finished, submitted) = (stats.finished, stats.submitted);
        assert_eq!(finished, submitted, "seed {seed}: {stats:?}");
        assert_eq!(stats.replayed, 0, "seed {seed}: {stats:?}");
    }
}

#[test]
fn the_same_seed_decides_the_same() {
    assert_eq!(run(3, Scenario::Rough), run(3, Scenario::Rough));
}
