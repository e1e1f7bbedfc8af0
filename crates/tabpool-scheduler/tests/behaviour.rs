//! Each rule of the scheduler on its own, seen from outside: events in, actions out.

use std::time::Duration;

use tabpool_scheduler::{
    Action, Api, Config, Event, FailureCause, Fault, LoadReason, LoadRetry, MOST_AT_ONCE, ModelId, Outcome, Placement,
    ProgramId, Record, RequestId, Scheduler, SlotId, SlotState, StopTarget, Submit, WorkerId, WorkerKind,
};

const PROGRAM: ProgramId = ProgramId(7);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A scheduler with a clock in milliseconds, and shorthand for what the tests say often.
struct Pool {
    scheduler: Scheduler,
    now: Duration,
}

/// What was sent out: worker, request, attempt.
type Sent = (u64, u64, u32);

impl Pool {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.restart.jitter = 0.0;
        change(&mut config);
        let scheduler = Scheduler::new(config, 1).expect("the configuration is valid");
        Self { scheduler, now: Duration::ZERO }
    }

    fn at(&mut self, at: u64, event: Event) -> Vec<Action> {
        self.now = ms(at);
        self.then(event)
    }

    fn then(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.scheduler.handle(self.now, event, &mut actions);
        self.scheduler.audit().expect("the books agree");
        actions
    }

    /// Ticks exactly when asked to, up to `until`.
    fn tick_until(&mut self, until: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(due) = self.scheduler.next_wakeup()
            && due <= ms(until)
        {
            self.now = due;
            actions.extend(self.then(Event::Tick));
        }
        self.now = ms(until);
        actions
    }

    fn join(&mut self, worker: u64, kind: WorkerKind, credits: u32) -> Vec<Action> {
        self.join_in(None, worker, kind, credits)
    }

    fn join_in(&mut self, slot: Option<u64>, worker: u64, kind: WorkerKind, credits: u32) -> Vec<Action> {
        let slot = slot.map(SlotId);
        let apis = vec![Api::WebGpu, Api::Cpu];
        self.then(Event::Joined { worker: WorkerId(worker), slot, kind, apis, credits })
    }

    /// A joined worker that holds the program and has shown how long it takes.
    fn ready(&mut self, worker: u64, kind: WorkerKind, credits: u32, compute: u64) {
        self.ready_at_once(worker, kind, credits, compute, 1);
    }

    fn ready_at_once(&mut self, worker: u64, kind: WorkerKind, credits: u32, compute: u64, at_once: u32) {
        self.join(worker, kind, credits);
        let request = 1_000_000 + worker;
        self.submit(Submit { placement: Placement::ANY.pinned(WorkerId(worker)), ..request_of(request) });
        self.now += ms(500);
        self.loaded_at_once(worker, Api::WebGpu, at_once);
        self.now += ms(compute);
        self.finished(worker, request, 1, compute);
    }

    fn submit(&mut self, submit: Submit) -> Vec<Action> {
        self.then(Event::Submit(submit))
    }

    fn loaded(&mut self, worker: u64) -> Vec<Action> {
        self.loaded_with(worker, Api::WebGpu)
    }

    fn loaded_with(&mut self, worker: u64, api: Api) -> Vec<Action> {
        self.loaded_at_once(worker, api, 1)
    }

    fn loaded_at_once(&mut self, worker: u64, api: Api, at_once: u32) -> Vec<Action> {
        let (worker, took) = (WorkerId(worker), ms(500));
        self.then(Event::LoadFinished { worker, program: PROGRAM, api, took, at_once })
    }

    fn finished(&mut self, worker: u64, request: u64, attempt: u32, compute: u64) -> Vec<Action> {
        let (worker, request) = (WorkerId(worker), RequestId(request));
        self.then(Event::Finished { worker, request, attempt, compute: ms(compute) })
    }

    fn failed(&mut self, (worker, request, attempt): Sent, fault: Fault) -> Vec<Action> {
        let (worker, request, reason) = (WorkerId(worker), RequestId(request), "broke".to_owned());
        self.then(Event::Failed { worker, request, attempt, fault, reason })
    }

    fn lost(&mut self, worker: u64) -> Vec<Action> {
        self.then(Event::Lost { worker: WorkerId(worker), reason: "crashed".to_owned() })
    }
}

fn request_of(request: u64) -> Submit {
    Submit {
        request: RequestId(request),
        model: ModelId(1),
        program: PROGRAM,
        placement: Placement::ANY,
        priority: 0,
        deadline: None,
        cost: 1.0,
        max_attempts: None,
    }
}

fn sent(actions: &[Action]) -> Vec<Sent> {
    let dispatch = |action: &Action| match action {
        Action::Dispatch { worker, request, attempt, .. } => Some((worker.0, request.0, *attempt)),
        _ => None,
    };
    actions.iter().filter_map(dispatch).collect()
}

fn replies(actions: &[Action]) -> Vec<(u64, Outcome)> {
    let reply = |action: &Action| match action {
        Action::Reply { request, outcome } => Some((request.0, outcome.clone())),
        _ => None,
    };
    actions.iter().filter_map(reply).collect()
}

fn loads(actions: &[Action]) -> Vec<(u64, Api, LoadReason)> {
    let load = |action: &Action| match action {
        Action::Load { worker, api, why, .. } => Some((worker.0, *api, *why)),
        _ => None,
    };
    actions.iter().filter_map(load).collect()
}

fn finished(worker: u64, attempt: u32) -> Outcome {
    Outcome::Finished { worker: WorkerId(worker), attempt }
}

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
