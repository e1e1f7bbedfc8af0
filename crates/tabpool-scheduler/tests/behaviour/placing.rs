//! What runs where, and what is loaded where.

use std::time::Duration;

use tabpool_scheduler::*;

use crate::pool::*;

#[test]
fn a_burst_uses_both_workers() {
    let mut pool = Pool::new();
    pool.join(1, WorkerKind::Chromium, 2);
    pool.join(2, WorkerKind::Firefox, 2);
    let all: Vec<_> = (1..=20).flat_map(|request| loads(&pool.submit(request_of(request)))).collect();
    assert_eq!(all, [(1, Api::WebGpu, LoadReason::First), (2, Api::WebGpu, LoadReason::Queue)]);
    assert_eq!(sent(&pool.loaded(1)).len(), 2);
    assert_eq!(sent(&pool.loaded(2)).len(), 2);
}

#[test]
fn a_worker_that_had_better_not_work_does_what_others_would_do_much_later() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 2, 10);
    pool.ready(2, WorkerKind::Chromium, 2, 10);
    pool.then(Event::Reluctant { worker: WorkerId(1), factor: 3.0 });
    let order: Vec<_> = (1..=4).flat_map(|request| sent(&pool.submit(request_of(request)))).collect();
    assert_eq!(order.iter().map(|(worker, ..)| *worker).collect::<Vec<_>>(), [2, 2, 1], "{order:?}");
    pool.lost(2);
    let served = sent(&pool.submit(request_of(5)));
    assert!(served.iter().all(|(worker, ..)| *worker == 1), "{served:?}");
    assert_eq!(pool.scheduler.workers().next().map(|view| view.in_flight), Some(2), "it serves where nobody else does");
}

#[test]
fn one_request_at_a_time_is_no_reason_to_load_a_second_worker() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.join(2, WorkerKind::Chromium, 4);
    for request in 1..=2000 {
        assert_eq!(loads(&pool.submit(request_of(request))), []);
        pool.now += ms(10);
        pool.finished(1, request, 1, 10);
    }
}

#[test]
fn steady_waiting_loads_a_second_worker_once_it_has_cost_as_much_as_the_load() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.join(2, WorkerKind::Chromium, 4);
    pool.submit(request_of(1));
    let began = pool.now;
    for request in 2..=2000 {
        let loads = loads(&pool.submit(request_of(request)));
        if !loads.is_empty() {
            assert_eq!(loads, [(2, Api::WebGpu, LoadReason::Waiting)]);
            let waited = (pool.now - began).as_millis();
            // The load on worker 1 took 500 ms, and one of the two always waits.
            assert!((450..600).contains(&waited), "after {waited} ms");
            return;
        }
        pool.now += ms(10);
        pool.finished(1, request - 1, 1, 10);
    }
    panic!("two requests at a time for 20 s, and the second worker stood idle");
}

#[test]
fn a_slow_worker_gets_nothing_until_so_many_wait_that_it_helps() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    pool.ready(2, WorkerKind::Firefox, 1, 200);
    let few: Vec<_> = (1..=15).flat_map(|request| sent(&pool.submit(request_of(request)))).collect();
    assert_eq!(few, [(1, 1, 1)], "the fast one is done with 15 before the slow one is with 1");
    let many: Vec<_> = (16..=40).flat_map(|request| sent(&pool.submit(request_of(request)))).collect();
    assert_eq!(many.len(), 1, "{many:?}");
    assert!(many[0].0 == 2 && many[0].1 >= 16, "the slow worker took one from the front: {many:?}");
}

#[test]
fn a_fast_worker_that_turns_out_to_hang_is_not_waited_for_until_the_time_out() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    pool.ready(2, WorkerKind::Firefox, 1, 200);
    let began = pool.now.as_millis() as u64;
    pool.submit(request_of(1));
    assert_eq!(sent(&pool.submit(request_of(2))), []);
    assert_eq!(sent(&pool.tick_until(began + 500)), [(2, 2, 1)]);
}

#[test]
fn measurements_overrule_priors() {
    let mut pool = Pool::with(|config| {
        config.priors.compute.insert((WorkerKind::Chromium, Api::WebGpu), ms(1));
        config.priors.compute.insert((WorkerKind::Firefox, Api::WebGpu), ms(500));
    });
    pool.ready(1, WorkerKind::Chromium, 1, 800);
    pool.ready(2, WorkerKind::Firefox, 1, 5);
    assert_eq!(sent(&pool.submit(request_of(1))), [(2, 1, 1)]);
}

#[test]
fn one_slow_machine_of_a_kind_does_not_spoil_the_other() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Remote, 1, 300);
    pool.ready(2, WorkerKind::Remote, 1, 10);
    for request in (1..=40).step_by(2) {
        pool.submit(Submit { placement: Placement::ANY.pinned(WorkerId(1)), ..request_of(request) });
        pool.submit(Submit { placement: Placement::ANY.pinned(WorkerId(2)), ..request_of(request + 1) });
        pool.now += ms(300);
        pool.finished(1, request, 1, 300);
        pool.finished(2, request + 1, 1, 10);
    }
    assert_eq!(sent(&pool.submit(request_of(100))), [(2, 100, 1)]);
    assert_eq!(sent(&pool.submit(request_of(101))), [], "waiting for the fast one is better");
}

#[test]
fn a_refused_api_falls_back_to_the_next_and_then_to_nobody() {
    let mut pool = Pool::new();
    pool.join(1, WorkerKind::Chromium, 4);
    pool.submit(request_of(1));
    let refuse = |api| {
        let (worker, reason, retry) = (WorkerId(1), "no subgroups".to_owned(), LoadRetry::Never);
        Event::LoadFailed { worker, program: PROGRAM, api, reason, retry }
    };
    assert_eq!(loads(&pool.then(refuse(Api::WebGpu))), [(1, Api::Cpu, LoadReason::First)]);
    let replies = replies(&pool.then(refuse(Api::Cpu)));
    let [(1, Outcome::NoWorker { reason })] = &replies[..] else { panic!("{replies:?}") };
    assert!(reason.contains("cannot run it with webgpu: no subgroups"), "{reason}");
}

#[test]
fn a_load_that_fails_for_now_is_repeated_but_not_for_ever() {
    let mut pool = Pool::new();
    pool.join(1, WorkerKind::Chromium, 4);
    pool.submit(request_of(1));
    let fail = || {
        let (worker, reason, retry) = (WorkerId(1), "no block".to_owned(), LoadRetry::Later);
        Event::LoadFailed { worker, program: PROGRAM, api: Api::WebGpu, reason, retry }
    };
    assert_eq!(loads(&pool.then(fail())).len(), 1);
    assert_eq!(loads(&pool.then(fail())).len(), 1);
    assert_eq!(loads(&pool.then(fail())).len(), 0);
    assert_eq!(loads(&pool.tick_until(30_000)).len(), 1, "after the cool-down");
}

#[test]
fn a_load_without_an_end_stops_the_worker() {
    let mut pool = Pool::new();
    pool.join(1, WorkerKind::Chromium, 4);
    pool.submit(Submit { deadline: Some(Duration::from_secs(3600)), ..request_of(1) });
    assert!(pool.tick_until(300_000).iter().all(|it| !matches!(it, Action::Stop { .. })), "a little patience");
    let actions = pool.tick_until(400_000);
    assert!(actions.iter().any(|it| matches!(it, Action::Stop { .. })), "{actions:?}");
}

#[test]
fn an_unloaded_program_is_loaded_again() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.then(Event::Unloaded { worker: WorkerId(1), program: PROGRAM, api: Api::WebGpu });
    assert_eq!(loads(&pool.submit(request_of(1))), [(1, Api::WebGpu, LoadReason::First)]);
}

#[test]
fn a_draining_worker_ends_what_it_holds_and_its_slot_is_filled_anew() {
    let mut pool = Pool::new();
    pool.then(Event::SlotAdded { slot: SlotId(1), kind: WorkerKind::Chromium });
    pool.join_in(Some(1), 1, WorkerKind::Chromium, 4);
    pool.submit(request_of(1));
    pool.loaded(1);
    assert_eq!(pool.then(Event::Drain { worker: WorkerId(1) }), []);
    assert_eq!(pool.submit(request_of(2)), [], "it waits for the successor");
    let actions = pool.finished(1, 1, 1, 10);
    assert_eq!(replies(&actions), [(1, finished(1, 1))]);
    assert!(actions.iter().any(|it| matches!(it, Action::Stop { target: StopTarget::Worker(_), .. })));
    assert!(actions.contains(&Action::Launch { slot: SlotId(1), attempt: 1 }), "{actions:?}");
}

#[test]
fn a_removed_slot_drains_its_worker_and_is_not_filled_again() {
    let mut pool = Pool::new();
    pool.then(Event::SlotAdded { slot: SlotId(1), kind: WorkerKind::Chromium });
    pool.join_in(Some(1), 1, WorkerKind::Chromium, 4);
    pool.submit(request_of(1));
    pool.loaded(1);
    assert_eq!(pool.then(Event::SlotRemoved { slot: SlotId(1) }), []);
    let actions = pool.finished(1, 1, 1, 10);
    assert_eq!(replies(&actions), [(1, finished(1, 1))]);
    assert!(!actions.iter().any(|it| matches!(it, Action::Launch { .. })), "{actions:?}");
    assert_eq!((pool.scheduler.workers().count(), pool.scheduler.next_wakeup()), (0, None));
}

#[test]
fn a_worker_that_joins_anew_is_a_new_one_and_its_work_is_done_again() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.submit(request_of(1));
    assert_eq!(loads(&pool.join(1, WorkerKind::Chromium, 4)).len(), 1);
    assert_eq!(sent(&pool.loaded(1)), [(1, 1, 2)]);
}

#[test]
fn a_pinned_request_stays_where_it_is_pinned_or_ends() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    pool.ready(2, WorkerKind::Chromium, 1, 10);
    let pinned = |request| Submit { placement: Placement::ANY.pinned(WorkerId(1)), ..request_of(request) };
    assert_eq!(sent(&pool.submit(pinned(1))), [(1, 1, 1)]);
    assert_eq!(sent(&pool.submit(pinned(2))), []);
    let replies = replies(&pool.lost(1));
    let nobody = |(_, outcome): &(u64, Outcome)| matches!(outcome, Outcome::NoWorker { .. });
    assert!(replies.len() == 2 && replies.iter().all(nobody), "{replies:?}");
}

#[test]
fn work_of_another_lane_that_waits_for_a_worker_counts_as_its_queue() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    pool.ready(2, WorkerKind::Firefox, 1, 100);
    for request in 1..=50 {
        pool.submit(Submit { placement: Placement::ANY.pinned(WorkerId(1)), ..request_of(request) });
    }
    let mut actions = pool.submit(request_of(51));
    let until = pool.now.as_millis() as u64 + 60;
    actions.extend(pool.tick_until(until));
    assert_eq!(sent(&actions), [(2, 51, 1)], "half a second of pinned work waits for the fast worker");
}

#[test]
fn a_clock_that_runs_backwards_is_taken_for_one_that_stands() {
    let mut pool = Pool::new();
    pool.at(5000, Event::SlotAdded { slot: SlotId(1), kind: WorkerKind::Edge });
    pool.at(10, Event::Tick);
    assert_eq!(pool.scheduler.next_wakeup(), Some(ms(65_000)));
}

/// Whom two requests go to, sent at the same moment to a fast worker and a slower one.
fn two_requests(at_once: u32, credits: u32) -> Vec<Sent> {
    let mut pool = Pool::new();
    pool.ready_at_once(1, WorkerKind::Chromium, credits, 100, at_once);
    pool.ready(2, WorkerKind::Firefox, 4, 150);
    let mut all = sent(&pool.submit(request_of(1)));
    all.extend(sent(&pool.submit(request_of(2))));
    all
}

#[test]
fn a_worker_that_computes_two_at_once_gets_both_before_a_slower_one_gets_any() {
    assert_eq!(two_requests(1, 4), [(1, 1, 1), (2, 2, 1)], "one after the other, the second would take 200 ms");
    assert_eq!(two_requests(2, 4), [(1, 1, 1), (1, 2, 1)]);
}

#[test]
fn credits_count_for_each_run_that_a_worker_computes_at_once() {
    let mut pool = Pool::new();
    pool.ready_at_once(1, WorkerKind::Chromium, 2, 100, 2);
    let given = |pool: &mut Pool, request| sent(&pool.submit(request_of(request))).len();
    assert_eq!((1..=6).map(|request| given(&mut pool, request)).collect::<Vec<_>>(), [1, 1, 1, 1, 0, 0]);
    // Whatever a worker claims, no more than a bound is believed, and a claim is not taken back.
    let mut pool = Pool::new();
    pool.ready_at_once(1, WorkerKind::Chromium, 1, 100, u32::MAX);
    let taken: usize = (1..=u64::from(MOST_AT_ONCE) + 4).map(|request| given(&mut pool, request)).sum();
    assert_eq!(taken, MOST_AT_ONCE as usize);
}
