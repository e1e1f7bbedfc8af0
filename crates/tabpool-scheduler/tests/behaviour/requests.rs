//! Requests, workers and slots: what becomes of them when things go well and when they do not.

use std::time::Duration;

use tabpool_scheduler::*;

use crate::pool::*;

#[test]
fn a_program_is_loaded_before_its_first_request_is_sent_and_only_once() {
    let mut pool = Pool::new();
    pool.join(1, WorkerKind::Chromium, 4);
    assert_eq!(loads(&pool.submit(request_of(1))), [(1, Api::WebGpu, LoadReason::First)]);
    assert_eq!(pool.submit(request_of(2)), []);
    assert_eq!(sent(&pool.loaded(1)), [(1, 1, 1), (1, 2, 1)]);
}

#[test]
fn a_worker_holds_no_more_than_it_offers_and_no_more_than_allowed() {
    for (offered, held) in [(2, 2), (64, 4)] {
        let mut pool = Pool::new();
        pool.ready(1, WorkerKind::Chromium, offered, 10);
        let all: Vec<_> = (1..=9).flat_map(|request| sent(&pool.submit(request_of(request)))).collect();
        assert_eq!(all.len(), held);
        assert_eq!(sent(&pool.finished(1, 1, 1, 10)).len(), 1, "one answer frees one credit");
    }
}

#[test]
fn repeated_late_and_made_up_frames_change_nothing() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.submit(request_of(1));
    assert_eq!(pool.finished(1, 1, 2, 10), [], "an attempt that was never made");
    assert_eq!(pool.finished(9, 1, 1, 10), [], "a worker that never was");
    assert_eq!(replies(&pool.finished(1, 1, 1, 10)), [(1, finished(1, 1))]);
    assert_eq!(pool.finished(1, 1, 1, 10), [], "the same again");
    assert_eq!(pool.failed((1, 1, 1), Fault::Worker), []);
    assert_eq!(pool.loaded(1), []);
    let ignored = pool.scheduler.stats().ignored;
    assert_eq!((ignored.attempt, ignored.worker, ignored.load), (3, 1, 1));
}

#[test]
fn a_request_submitted_twice_is_run_once() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    assert_eq!(sent(&pool.submit(request_of(1))).len(), 1);
    assert_eq!(pool.submit(request_of(1)), []);
}

#[test]
fn what_a_lost_worker_held_goes_first_and_elsewhere() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 2, 10);
    pool.ready(2, WorkerKind::Chromium, 2, 10);
    for request in 1..=6 {
        pool.submit(request_of(request));
    }
    let actions = pool.lost(1);
    assert!(sent(&actions).is_empty() && replies(&actions).is_empty(), "worker 2 is full: {actions:?}");
    assert_eq!(sent(&pool.finished(2, 2, 1, 10)), [(2, 1, 2)]);
    assert_eq!(sent(&pool.finished(2, 4, 1, 10)), [(2, 3, 2)]);
    assert_eq!(sent(&pool.finished(2, 1, 2, 10)), [(2, 5, 1)]);
    assert_eq!(pool.finished(1, 3, 1, 10), [], "the lost worker's last words");
}

#[test]
fn a_request_that_fails_everywhere_is_answered_with_every_reason() {
    let mut pool = Pool::new();
    for worker in 1..=3 {
        pool.ready(worker, WorkerKind::Chromium, 4, 10);
    }
    pool.submit(request_of(1));
    assert_eq!(sent(&pool.lost(1)), [(2, 1, 2)]);
    assert_eq!(sent(&pool.lost(2)), [(3, 1, 3)]);
    let replies = replies(&pool.lost(3));
    let [(1, Outcome::Failed { cause: FailureCause::Poison, reason, attempts: 3 })] = &replies[..] else {
        panic!("{replies:?}");
    };
    let all = "attempt 1 on worker 1: crashed; attempt 2 on worker 2: crashed; attempt 3 on worker 3: crashed";
    assert_eq!(reason, all);
}

#[test]
fn an_api_with_wrong_numbers_gets_nothing_more_and_the_next_one_serves() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    let reason = "wrong numbers".to_owned();
    pool.then(Event::ApiSetAside { worker: WorkerId(1), api: Api::WebGpu, reason: reason.clone() });
    assert_eq!(loads(&pool.submit(request_of(1))), [(1, Api::Cpu, LoadReason::First)]);
    let actions = pool.then(Event::ApiSetAside { worker: WorkerId(1), api: Api::Cpu, reason });
    let [(1, Outcome::NoWorker { reason })] = &replies(&actions)[..] else { panic!("{actions:?}") };
    assert!(reason.contains("set aside with cpu: wrong numbers"), "{reason}");
}

#[test]
fn a_request_that_may_be_tried_once_is_not_tried_elsewhere() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.ready(2, WorkerKind::Chromium, 4, 10);
    pool.submit(Submit { max_attempts: Some(1), ..request_of(1) });
    let replies = replies(&pool.lost(1));
    let reason = "attempt 1 on worker 1: crashed".to_owned();
    assert_eq!(replies, [(1, Outcome::Failed { cause: FailureCause::Poison, reason, attempts: 1 })]);
    assert_eq!(sent(&pool.submit(Submit { max_attempts: Some(0), ..request_of(2) })), [(2, 2, 1)], "once at least");
}

#[test]
fn the_caller_is_told_at_once_when_the_input_is_at_fault() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.submit(request_of(1));
    let replies = replies(&pool.failed((1, 1, 1), Fault::Input));
    let cause = FailureCause::Input;
    assert_eq!(replies, [(1, Outcome::Failed { cause, reason: "broke".to_owned(), attempts: 1 })]);
}

#[test]
fn a_fault_of_the_worker_sends_the_request_elsewhere_even_to_a_slower_one() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.ready(2, WorkerKind::Firefox, 4, 900);
    assert_eq!(sent(&pool.submit(request_of(1))), [(1, 1, 1)]);
    assert_eq!(sent(&pool.failed((1, 1, 1), Fault::Worker)), [(2, 1, 2)]);
}

#[test]
fn a_fault_of_the_only_worker_sends_the_request_there_again() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.submit(request_of(1));
    assert_eq!(sent(&pool.failed((1, 1, 1), Fault::Worker)), [(1, 1, 2)]);
}

#[test]
fn a_lost_device_makes_the_program_load_again_and_only_once() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.submit(request_of(1));
    pool.submit(request_of(2));
    pool.now += ms(5);
    let actions = pool.failed((1, 1, 1), Fault::Device);
    assert_eq!((loads(&actions).len(), sent(&actions).len()), (1, 0), "{actions:?}");
    pool.now += ms(5);
    assert_eq!(sent(&pool.loaded(1)), [(1, 1, 2)]);
    let actions = pool.failed((1, 2, 1), Fault::Device);
    assert_eq!(loads(&actions), [], "the second attempt ran on the device that was lost before");
    assert_eq!(sent(&actions), [(1, 2, 2)]);
}

#[test]
fn an_unanswered_attempt_is_cancelled_and_tried_elsewhere() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    pool.ready(2, WorkerKind::Chromium, 1, 20);
    assert_eq!(sent(&pool.submit(request_of(1))), [(1, 1, 1)]);
    let actions = pool.tick_until(40_000);
    let cancel = Action::CancelOn { worker: WorkerId(1), request: RequestId(1), attempt: 1 };
    assert!(actions.contains(&cancel), "{actions:?}");
    assert_eq!(sent(&actions), [(2, 1, 2)]);
    assert_eq!(sent(&pool.submit(request_of(2))), [], "the silent worker still holds its only credit");
    assert_eq!(pool.finished(1, 1, 1, 10).iter().filter(|it| matches!(it, Action::Reply { .. })).count(), 0);
    assert_eq!(replies(&pool.finished(2, 1, 2, 20)), [(1, finished(2, 2))]);
}

#[test]
fn a_worker_silent_twice_in_a_row_is_stopped_and_its_slot_started_again() {
    let mut pool = Pool::new();
    pool.then(Event::SlotAdded { slot: SlotId(1), kind: WorkerKind::Chromium });
    pool.join_in(Some(1), 1, WorkerKind::Chromium, 4);
    pool.submit(request_of(1));
    pool.loaded(1);
    pool.finished(1, 1, 1, 10);
    pool.submit(request_of(2));
    pool.submit(request_of(3));
    let actions = pool.tick_until(60_000);
    let stops = |it: &&Action| matches!(it, Action::Stop { target: StopTarget::Worker(WorkerId(1)), .. });
    assert_eq!(actions.iter().filter(stops).count(), 1, "{actions:?}");
    assert!(actions.contains(&Action::Launch { slot: SlotId(1), attempt: 1 }), "{actions:?}");
    assert_eq!(pool.scheduler.queued(), 2);
    pool.join_in(Some(1), 2, WorkerKind::Chromium, 4);
    assert_eq!(sent(&pool.loaded(2)), [(2, 2, 2), (2, 3, 2)]);
}

#[test]
fn an_answer_between_two_silences_keeps_the_worker() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    for request in [1, 3] {
        pool.submit(request_of(request));
        pool.submit(Submit { deadline: Some(Duration::MAX), ..request_of(request + 1) });
        let until = pool.now.as_millis() as u64 + 15_000;
        pool.tick_until(until);
        pool.finished(1, request, 1, 10);
        pool.tick_until(until + 20_000);
        let held: Vec<_> = pool.scheduler.workers().collect();
        assert_eq!(held.len(), 1, "stopped after one silence");
        // The late answer lets the second attempt be made.
        assert_eq!(sent(&pool.finished(1, request + 1, 1, 10)), [(1, request + 1, 2)]);
        pool.finished(1, request + 1, 2, 10);
    }
}

#[test]
fn a_program_that_keeps_failing_on_a_worker_is_kept_away_and_tried_again_later() {
    let mut pool = Pool::with(|config| config.max_attempts = 9);
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.submit(request_of(1));
    pool.failed((1, 1, 1), Fault::Worker);
    pool.failed((1, 1, 2), Fault::Worker);
    let actions = pool.failed((1, 1, 3), Fault::Worker);
    let opened = |it: &Action| matches!(it, Action::Record(Record::CircuitOpened { failures: 3, .. }));
    assert!(actions.iter().any(opened), "{actions:?}");
    assert_eq!((sent(&actions), replies(&actions)), (vec![], vec![]), "it waits for the cool-down");
    pool.submit(request_of(2));
    assert_eq!(sent(&pool.tick_until(35_000)), [(1, 1, 4)], "one at a time tries");
    let actions = pool.finished(1, 1, 4, 10);
    assert!(actions.contains(&Action::Record(Record::CircuitClosed { worker: WorkerId(1), program: PROGRAM })));
    assert_eq!(sent(&actions), [(1, 2, 1)]);
}

#[test]
fn an_open_circuit_leaves_other_programs_alone() {
    let mut pool = Pool::with(|config| config.circuit.failures = 1);
    pool.ready(1, WorkerKind::Chromium, 4, 10);
    pool.submit(request_of(1));
    pool.failed((1, 1, 1), Fault::Worker);
    let other = Submit { program: ProgramId(8), ..request_of(2) };
    assert_eq!(loads(&pool.submit(other)).len(), 1);
}

#[test]
fn a_wish_nobody_can_fulfil_is_refused_at_once_with_what_there_is() {
    let mut pool = Pool::new();
    pool.join(1, WorkerKind::Chromium, 4);
    let wish = Placement::ANY.on(&[WorkerKind::Firefox]).with(&[Api::WebNn]);
    let replies = replies(&pool.submit(Submit { placement: wish, ..request_of(1) }));
    let [(1, Outcome::NoWorker { reason })] = &replies[..] else { panic!("{replies:?}") };
    let sentence = "program 7 was to run on a worker of kind firefox with webnn; the pool has worker 1 (chromium: \
                    webgpu, cpu)";
    assert_eq!(reason, sentence);
}

#[test]
fn requests_wait_for_a_slot_that_is_starting_and_not_for_one_set_aside() {
    let mut pool = Pool::with(|config| config.restart.failures_before_set_aside = 2);
    let launch = pool.then(Event::SlotAdded { slot: SlotId(1), kind: WorkerKind::Edge });
    assert_eq!(launch, [Action::Launch { slot: SlotId(1), attempt: 1 }]);
    assert_eq!(pool.submit(request_of(1)), []);
    let fail = || Event::LaunchFailed { slot: SlotId(1), reason: "no such file".to_owned() };
    assert_eq!(replies(&pool.then(fail())), []);
    assert_eq!(pool.tick_until(600), [Action::Launch { slot: SlotId(1), attempt: 2 }]);
    let actions = pool.then(fail());
    assert!(actions.iter().any(|it| matches!(it, Action::SetAside { .. })), "{actions:?}");
    let replies = replies(&actions);
    let [(1, Outcome::NoWorker { reason })] = &replies[..] else { panic!("{actions:?}") };
    assert!(reason.contains("slot 1 (edge, set aside: no such file)"), "{reason}");
    let later = pool.tick_until(601_000);
    assert!(later.contains(&Action::Launch { slot: SlotId(1), attempt: 3 }), "{later:?}");
}

#[test]
fn a_slot_that_never_joins_is_stopped_and_started_again() {
    let mut pool = Pool::new();
    pool.then(Event::SlotAdded { slot: SlotId(1), kind: WorkerKind::Edge });
    let actions = pool.tick_until(60_600);
    assert!(actions.iter().any(|it| matches!(it, Action::Stop { target: StopTarget::Slot(_), .. })), "{actions:?}");
    assert!(actions.contains(&Action::Launch { slot: SlotId(1), attempt: 2 }), "{actions:?}");
}

#[test]
fn a_worker_that_crashes_before_it_was_of_use_is_started_with_growing_pauses() {
    let mut pool = Pool::new();
    pool.then(Event::SlotAdded { slot: SlotId(1), kind: WorkerKind::Edge });
    let mut pauses = Vec::new();
    for worker in 1..=4 {
        pool.join_in(Some(1), worker, WorkerKind::Edge, 4);
        pool.lost(worker);
        let due = pool.scheduler.next_wakeup().expect("a start is due");
        pauses.push((due - pool.now).as_millis());
        pool.tick_until(due.as_millis() as u64);
    }
    assert_eq!(pauses, [500, 1000, 2000, 4000]);
    pool.join_in(Some(1), 5, WorkerKind::Edge, 4);
    pool.lost(5);
    let slot = pool.scheduler.slots().next().expect("the slot is there");
    assert!(matches!(slot.state, SlotState::SetAside { .. }), "{slot:?}");
}

#[test]
fn a_full_queue_turns_away_with_a_time_to_come_back() {
    let mut pool = Pool::with(|config| config.max_queued = 3);
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    for request in 1..=4 {
        assert_eq!(replies(&pool.submit(request_of(request))), []);
    }
    let replies = replies(&pool.submit(request_of(5)));
    assert!(
        matches!(&replies[..], [(5, Outcome::Rejected { retry_after, .. })] if !retry_after.is_zero()),
        "{replies:?}"
    );
    assert_eq!(sent(&pool.finished(1, 1, 1, 10)), [(1, 2, 1)]);
    assert_eq!(pool.submit(request_of(6)), [], "there is a place again");
}

#[test]
fn higher_priority_goes_first_until_the_lower_has_waited_long_enough() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    pool.submit(request_of(1));
    pool.submit(request_of(2));
    pool.now += ms(900);
    pool.submit(Submit { priority: 1, ..request_of(3) });
    pool.now += ms(200);
    pool.submit(Submit { priority: 1, ..request_of(4) });
    let order: Vec<_> = [1, 3, 2].into_iter().flat_map(|it| sent(&pool.finished(1, it, 1, 10))).collect();
    assert_eq!(order, [(1, 3, 1), (1, 2, 1), (1, 4, 1)]);
}

fn of_client(client: u64, request: u64) -> Submit {
    Submit { client: ClientId(client), ..request_of(request) }
}

#[test]
fn who_comes_to_a_crowded_pool_gets_as_much_of_it_as_who_was_there_before() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    for request in 1..=20 {
        pool.submit(of_client(1, request));
    }
    for request in 1..=5 {
        pool.now += ms(10);
        pool.finished(1, request, 1, 10);
    }
    // Whatever priority he claims: it orders what is his.
    for request in 101..=103 {
        pool.submit(Submit { priority: (request - 100) as i8, ..of_client(2, request) });
    }
    let mut order = Vec::new();
    let mut running = 6;
    for _ in 0..6 {
        pool.now += ms(10);
        let next = sent(&pool.finished(1, running, 1, 10));
        running = next[0].1;
        order.push(running);
    }
    // Which of two goes first that were served as much is a matter of the last nanosecond.
    assert_eq!((order[0], order.iter().filter(|it| **it > 100).count()), (103, 3), "{order:?}");
    let of = |client: bool| order.iter().copied().filter(|it| (*it > 100) == client).collect::<Vec<_>>();
    assert_eq!([of(true), of(false)], [vec![103, 102, 101], vec![7, 8, 9]]);
}

#[test]
fn shares_are_of_the_time_that_requests_take() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    for request in 1..=20 {
        pool.submit(of_client(1, request));
        pool.submit(Submit { cost: 3.0, program: ProgramId(8), ..of_client(2, 100 + request) });
    }
    pool.then(Event::LoadFinished {
        worker: WorkerId(1),
        program: ProgramId(8),
        api: Api::WebGpu,
        took: ms(500),
        at_once: 1,
        footprint: Footprint::default(),
    });
    let (mut running, mut counts) = (1, [0, 0]);
    for _ in 0..16 {
        let compute = if running > 100 { 30 } else { 10 };
        pool.now += ms(compute);
        let next = sent(&pool.finished(1, running, 1, compute));
        running = next[0].1;
        counts[usize::from(running > 100)] += 1;
    }
    assert_eq!(counts, [12, 4]);
}

#[test]
fn a_client_who_fills_the_queue_leaves_others_their_places() {
    let mut pool = Pool::with(|config| config.max_queued = 4);
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    let rejected = |actions: &[Action]| matches!(&replies(actions)[..], [(_, Outcome::Rejected { .. })]);
    let mut request = 0;
    let mut admitted = |pool: &mut Pool, client| {
        let more = (0..10).take_while(|_| {
            request += 1;
            !rejected(&pool.submit(of_client(client, request)))
        });
        more.count()
    };
    assert_eq!(admitted(&mut pool, 1), 5, "one is sent out");
    assert_eq!(admitted(&mut pool, 2), 2, "half of four");
    assert_eq!(admitted(&mut pool, 3), 1, "a third of four");
    assert_eq!(admitted(&mut pool, 4), 1);
    assert_eq!(admitted(&mut pool, 5), 0, "twice as many wait as may");
    assert_eq!(admitted(&mut pool, 1), 0);
    pool.scheduler.audit().expect("the books agree");
}

#[test]
fn a_deadline_answers_wherever_the_request_is() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    let deadline = Some(pool.now + ms(50));
    pool.submit(Submit { deadline, ..request_of(1) });
    pool.submit(Submit { deadline, ..request_of(2) });
    let until = pool.now.as_millis() as u64 + 60;
    let actions = pool.tick_until(until);
    let timed_out = replies(&actions);
    assert!(timed_out.iter().all(|(_, outcome)| matches!(outcome, Outcome::TimedOut { .. })), "{timed_out:?}");
    assert_eq!(timed_out.len(), 2);
    let cancel = Action::CancelOn { worker: WorkerId(1), request: RequestId(1), attempt: 1 };
    assert!(actions.contains(&cancel), "{actions:?}");
    assert_eq!(sent(&pool.submit(request_of(3))), [], "the worker has not given the credit back");
    assert_eq!(sent(&pool.failed((1, 1, 1), Fault::Worker)), [(1, 3, 1)]);
    assert_eq!(pool.submit(Submit { deadline: Some(ms(1)), ..request_of(4) }).len(), 1, "a deadline in the past");
}

#[test]
fn a_cancelled_request_is_answered_so_and_only_so() {
    let mut pool = Pool::new();
    pool.ready(1, WorkerKind::Chromium, 1, 10);
    pool.submit(request_of(1));
    pool.submit(request_of(2));
    for request in [2, 1] {
        let actions = pool.then(Event::Cancel { request: RequestId(request) });
        assert_eq!(replies(&actions), [(request, Outcome::Cancelled)]);
        assert_eq!(pool.then(Event::Cancel { request: RequestId(request) }), []);
    }
    assert_eq!(pool.finished(1, 1, 1, 10), []);
    assert_eq!(sent(&pool.submit(request_of(3))), [(1, 3, 1)]);
}
