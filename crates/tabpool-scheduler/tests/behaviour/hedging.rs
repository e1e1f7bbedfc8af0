//! Second attempts beside a first that takes long.

use tabpool_scheduler::*;

use crate::pool::*;

/// Two workers of which the first is the faster, and a request that may run twice and is under way on it.
fn pool() -> Pool {
    let mut pool = Pool::with(|config| config.hedging.share = 1.0);
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.ready(2, WorkerKind::Firefox, 4, 40);
    assert_eq!(sent(&pool.submit(repeatable(1))), [(1, 1, 1)]);
    pool
}

fn repeatable(request: u64) -> Submit {
    Submit { repeatable: true, ..request_of(request) }
}

/// What is sent out within this time, in milliseconds.
fn later(pool: &mut Pool, time: u64) -> Vec<Action> {
    let until = pool.now.as_millis() as u64 + time;
    pool.tick_until(until)
}

fn cancelled(actions: &[Action]) -> Vec<Sent> {
    let cancel = |action: &Action| match action {
        Action::CancelOn { worker, request, attempt } => Some((worker.0, request.0, *attempt)),
        _ => None,
    };
    actions.iter().filter_map(cancel).collect()
}

#[test]
fn what_takes_long_is_tried_elsewhere_too_and_the_first_answer_counts() {
    let mut pool = pool();
    assert_eq!(sent(&later(&mut pool, 499)), []);
    assert_eq!(sent(&later(&mut pool, 2)), [(2, 1, 2)]);
    let actions = pool.finished(2, 1, 2, 40);
    assert_eq!((replies(&actions), cancelled(&actions)), (vec![(1, finished(2, 2))], vec![(1, 1, 1)]));
    assert_eq!(replies(&pool.finished(1, 1, 1, 600)), [], "nobody waits for it any more");
    assert_eq!(pool.scheduler.stats().late, 1);
}

#[test]
fn the_first_may_still_be_the_first_to_answer() {
    let mut pool = pool();
    later(&mut pool, 501);
    let actions = pool.finished(1, 1, 1, 505);
    assert_eq!((replies(&actions), cancelled(&actions)), (vec![(1, finished(1, 1))], vec![(2, 1, 2)]));
}

#[test]
fn while_one_of_two_goes_on_the_failure_of_the_other_is_no_failure() {
    let mut pool = pool();
    later(&mut pool, 501);
    assert_eq!(sent(&pool.failed((2, 1, 2), Fault::Worker)), []);
    assert_eq!(replies(&pool.finished(1, 1, 1, 600)), [(1, finished(1, 1))]);

    let mut pool = pool_with_hedge();
    pool.lost(1);
    assert_eq!(replies(&pool.finished(2, 1, 2, 40)), [(1, finished(2, 2))]);

    let mut pool = pool_with_hedge();
    pool.lost(1);
    let actions = pool.failed((2, 1, 2), Fault::Worker);
    assert_eq!(sent(&actions), [(2, 1, 3)], "the last attempt: {actions:?}");
}

fn pool_with_hedge() -> Pool {
    let mut pool = pool();
    later(&mut pool, 501);
    pool
}

#[test]
fn a_cancelled_request_is_cancelled_on_both() {
    let mut pool = pool_with_hedge();
    let actions = pool.then(Event::Cancel { request: RequestId(1) });
    assert_eq!(cancelled(&actions), [(1, 1, 1), (2, 1, 2)]);
    assert_eq!(replies(&actions), [(1, Outcome::Cancelled)]);
}

#[test]
fn what_may_not_run_twice_and_what_has_one_attempt_is_not_tried_elsewhere() {
    for submit in [request_of(1), Submit { max_attempts: Some(1), ..repeatable(1) }] {
        let mut pool = Pool::with(|config| config.hedging.share = 1.0);
        pool.ready(1, WorkerKind::Chromium, 4, 10);
        pool.ready(2, WorkerKind::Firefox, 4, 40);
        pool.submit(submit);
        assert_eq!(sent(&later(&mut pool, 5_000)), []);
    }
}

#[test]
fn there_are_no_more_than_a_share_of_them() {
    let mut pool = Pool::with(|config| config.hedging.share = 0.0);
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.ready(2, WorkerKind::Firefox, 4, 40);
    pool.submit(repeatable(1));
    assert_eq!(sent(&later(&mut pool, 5_000)), []);
}
