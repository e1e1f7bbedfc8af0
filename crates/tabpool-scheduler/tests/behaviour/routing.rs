//! Which of its APIs a worker serves a program with. Workers here prefer WebGPU to the processor.

use tabpool_scheduler::*;

use crate::pool::*;

/// How long a run takes with WebGPU and with the processor, in milliseconds.
#[derive(Clone, Copy)]
struct Speeds {
    webgpu: u64,
    cpu: u64,
}

/// A pool with one worker, which answers whatever it is given in the time that its API takes.
struct Stage {
    pool: Pool,
    speeds: Speeds,
    next: u64,
}

fn dispatched(actions: &[Action]) -> Option<(u64, u32, Api)> {
    actions.iter().find_map(|action| match action {
        Action::Dispatch { request, attempt, api, .. } => Some((request.0, *attempt, *api)),
        _ => None,
    })
}

fn unloads(actions: &[Action]) -> Vec<(Api, String)> {
    let unload = |action: &Action| match action {
        Action::Unload { api, reason, .. } => Some((*api, reason.clone())),
        _ => None,
    };
    actions.iter().filter_map(unload).collect()
}

impl Stage {
    fn new(speeds: Speeds, change: impl FnOnce(&mut Config)) -> Self {
        let mut pool = Pool::with(change);
        pool.join(1, WorkerKind::Chromium, 2);
        Self { pool, speeds, next: 0 }
    }

    /// One request from its submission to its answer, its load included where there is one: the API it ran with, and all that was
    /// decided on the way.
    fn run(&mut self, placement: Placement) -> (Api, Vec<Action>) {
        self.next += 1;
        let mut actions = self.pool.submit(Submit { placement, ..request_of(self.next) });
        if let Some((_, api, _)) = loads(&actions).first().copied()
            && dispatched(&actions).is_none()
        {
            self.pool.now += ms(500);
            actions.extend(self.pool.loaded_with(1, api));
        }
        let (request, attempt, api) = dispatched(&actions).expect("somebody serves it");
        let compute = if api == Api::WebGpu { self.speeds.webgpu } else { self.speeds.cpu };
        self.pool.now += ms(compute);
        actions.extend(self.pool.finished(1, request, attempt, compute));
        (api, actions)
    }

    /// Runs requests without a wish until something is loaded beside what serves: how many it took, and what is loaded.
    fn run_until_load(&mut self, most: usize) -> Option<(usize, Api, LoadReason)> {
        (1..=most).find_map(|count| {
            let (_, actions) = self.run(Placement::ANY);
            let load = loads(&actions).into_iter().find(|(.., why)| *why != LoadReason::First);
            load.map(|(_, api, why)| (count, api, why))
        })
    }

    /// The APIs of the next requests.
    fn apis(&mut self, count: usize) -> Vec<Api> {
        (0..count).map(|_| self.run(Placement::ANY).0).collect()
    }
}

fn only(api: Api) -> Placement {
    Placement::ANY.with(&[api])
}

#[test]
fn an_api_that_nobody_measured_is_tried_once_it_is_affordable_and_serves_if_it_is_faster() {
    let mut stage = Stage::new(Speeds { webgpu: 100, cpu: 20 }, |_| {});
    let (count, api, why) = stage.run_until_load(1000).expect("the processor is tried");
    assert_eq!((api, why), (Api::Cpu, LoadReason::Trial));
    // A load is believed to take 1.5 s and three runs 60 ms each: 1.68 s, of twenty times as many.
    assert_eq!(count, 336, "runs of 100 ms");
    assert_eq!(stage.apis(2), [Api::WebGpu; 2], "it is still loading");
    stage.pool.loaded_with(1, Api::Cpu);
    assert_eq!(stage.apis(20), [Api::Cpu; 20]);
    assert_eq!(stage.pool.scheduler.stats().trials, 1);
}

#[test]
fn what_was_overtaken_goes_when_nobody_has_used_it_for_a_minute() {
    let mut stage = Stage::new(Speeds { webgpu: 100, cpu: 20 }, |_| {});
    stage.run_until_load(1000).expect("the processor is tried");
    stage.pool.loaded_with(1, Api::Cpu);
    let gone: Vec<_> = (0..2900).flat_map(|_| unloads(&stage.run(Placement::ANY).1)).collect();
    assert_eq!(gone, [], "58 s");
    let gone: Vec<_> = (0..200).flat_map(|_| unloads(&stage.run(Placement::ANY).1)).collect();
    let [(Api::WebGpu, reason)] = &gone[..] else { panic!("{gone:?}") };
    assert_eq!(reason, "cpu is faster: 20.0 ms beside 100.0 ms");
}

#[test]
fn a_trial_ends_with_the_first_run_that_takes_far_longer() {
    let mut stage = Stage::new(Speeds { webgpu: 100, cpu: 900 }, |_| {});
    stage.run_until_load(1000).expect("the processor is tried");
    stage.pool.loaded_with(1, Api::Cpu);
    assert_eq!(stage.apis(4), [Api::Cpu, Api::WebGpu, Api::WebGpu, Api::WebGpu]);
    assert_eq!(stage.run_until_load(3000), None, "it is known now");
    assert_eq!(stage.pool.scheduler.stats().trials, 1);
}

#[test]
fn a_run_that_fails_ends_a_trial() {
    let mut stage = Stage::new(Speeds { webgpu: 100, cpu: 20 }, |_| {});
    stage.run_until_load(1000).expect("the processor is tried");
    stage.pool.loaded_with(1, Api::Cpu);
    let actions = stage.pool.submit(request_of(900_000));
    assert_eq!(dispatched(&actions), Some((900_000, 1, Api::Cpu)));
    let actions = stage.pool.failed((1, 900_000, 1), Fault::Worker);
    assert_eq!(dispatched(&actions), Some((900_000, 2, Api::WebGpu)), "the same request, as before");
    stage.pool.now += ms(100);
    stage.pool.finished(1, 900_000, 2, 100);
    assert_eq!(stage.apis(5), [Api::WebGpu; 5]);
}

#[test]
fn a_trial_whose_load_fails_is_over_and_makes_room_for_another() {
    let mut stage = Stage::new(Speeds { webgpu: 100, cpu: 20 }, |_| {});
    stage.run_until_load(1000).expect("the processor is tried");
    let (worker, reason, retry) = (WorkerId(1), "no block".to_owned(), LoadRetry::Later);
    stage.pool.then(Event::LoadFailed { worker, program: PROGRAM, api: Api::Cpu, reason, retry });
    assert_eq!(stage.run_until_load(3000), None, "it is not tried for ever");
    assert_eq!(stage.apis(5), [Api::WebGpu; 5]);
}

#[test]
fn nothing_is_tried_while_somebody_waits_or_when_it_is_not_wanted_or_has_no_room() {
    let speeds = Speeds { webgpu: 100, cpu: 20 };
    let mut never = Stage::new(speeds, |config| config.exploring.share = 0.0);
    assert_eq!(never.run_until_load(3000), None);
    let mut busy = Stage::new(speeds, |_| {});
    busy.run(Placement::ANY);
    for request in 2..=3000 {
        busy.pool.submit(request_of(request));
    }
    for request in 2..=2900 {
        busy.pool.now += ms(100);
        assert_eq!(loads(&busy.pool.finished(1, request, 1, 100)), []);
    }
    let mut full = Pool::new();
    full.then(Event::Program { program: PROGRAM, needs: Needs { weights: vec![(WeightId(1), 60)], scratch: 10 } });
    let (worker, apis) = (WorkerId(1), vec![Api::WebGpu, Api::Cpu]);
    full.then(Event::Joined { worker, slot: None, kind: WorkerKind::Chromium, apis, credits: 2, memory: Some(100) });
    let mut full = Stage { pool: full, speeds, next: 0 };
    full.run(Placement::ANY);
    full.pool.then(Event::States { worker, bytes: 50 });
    assert_eq!(full.run_until_load(3000), None, "70 bytes are wanted, and at most 50 are left");
}

#[test]
fn what_is_measured_to_be_faster_is_loaded_when_its_absence_has_cost_as_much() {
    let mut stage = Stage::new(Speeds { webgpu: 100, cpu: 20 }, |config| config.exploring.share = 0.0);
    let (model, program, kind) = (ModelId(1), Some(PROGRAM), WorkerKind::Chromium);
    let remembered = Event::Remembered { model, program, kind, api: Api::Cpu, cost: 1.0, compute: ms(20) };
    assert_eq!(stage.run(Placement::ANY).0, Api::WebGpu, "the first in the order is measured first");
    stage.pool.then(remembered);
    let (count, api, why) = stage.run_until_load(100).expect("it is loaded");
    assert_eq!((api, why), (Api::Cpu, LoadReason::Faster { than: Api::WebGpu }));
    // 80 ms are lost with each; a load is believed to take 1.5 s.
    assert_eq!(count, 19);
    stage.pool.loaded_with(1, Api::Cpu);
    assert_eq!(stage.apis(5), [Api::Cpu; 5]);
}

#[test]
fn what_an_earlier_session_found_out_decides_what_is_loaded_first() {
    let mut stage = Stage::new(Speeds { webgpu: 100, cpu: 20 }, |_| {});
    let (model, kind) = (ModelId(1), WorkerKind::Chromium);
    for (api, compute) in [(Api::WebGpu, ms(100)), (Api::Cpu, ms(20))] {
        stage.pool.then(Event::Remembered { model, program: None, kind, api, cost: 1.0, compute });
    }
    assert_eq!(stage.apis(3), [Api::Cpu; 3]);
}

#[test]
fn about_as_fast_is_not_faster() {
    let mut stage = Stage::new(Speeds { webgpu: 100, cpu: 95 }, |_| {});
    let (model, kind) = (ModelId(1), WorkerKind::Chromium);
    for (api, compute) in [(Api::WebGpu, ms(100)), (Api::Cpu, ms(95))] {
        stage.pool.then(Event::Remembered { model, program: None, kind, api, cost: 1.0, compute });
    }
    assert_eq!(stage.apis(3), [Api::WebGpu; 3]);
    assert_eq!(stage.run_until_load(3000), None);
}

#[test]
fn a_caller_who_names_apis_is_obeyed() {
    let mut stage = Stage::new(Speeds { webgpu: 100, cpu: 20 }, |_| {});
    for _ in 0..1000 {
        let (api, actions) = stage.run(only(Api::WebGpu));
        assert_eq!(api, Api::WebGpu);
        assert!(loads(&actions).iter().all(|(.., why)| *why == LoadReason::First), "{actions:?}");
    }
    let both = Placement::ANY.with(&[Api::WebGpu, Api::Cpu]);
    assert_eq!(stage.run(only(Api::Cpu)).0, Api::Cpu);
    assert_eq!(stage.run(both).0, Api::WebGpu, "his order is an order");
    assert_eq!(stage.run(Placement::ANY).0, Api::Cpu, "who has no wish gets the faster one");
}

#[test]
fn a_session_begins_where_its_steps_are_fast() {
    let mut stage = Stage::new(Speeds { webgpu: 20, cpu: 60 }, |config| config.exploring.share = 0.0);
    let (model, kind, step) = (ModelId(1), WorkerKind::Chromium, ProgramId(8));
    for (program, api, compute) in [
        (PROGRAM, Api::WebGpu, ms(20)),
        (step, Api::WebGpu, ms(15)),
        (PROGRAM, Api::Cpu, ms(60)),
        (step, Api::Cpu, ms(7)),
    ] {
        stage.pool.then(Event::Remembered { model, program: Some(program), kind, api, cost: 1.0, compute });
    }
    assert_eq!(stage.run(Placement::ANY).0, Api::WebGpu, "a prompt alone is read faster there");
    stage.pool.then(Event::Followed { program: PROGRAM, by: step, times: 32.0 });
    let (_, api, why) = stage.run_until_load(20).expect("the processor is loaded");
    assert_eq!((api, why), (Api::Cpu, LoadReason::Faster { than: Api::WebGpu }));
    stage.pool.loaded_with(1, Api::Cpu);
    assert_eq!(stage.apis(5), [Api::Cpu; 5]);
}

#[test]
fn guests_are_not_alike_and_keep_their_order() {
    let mut pool = Pool::new();
    pool.join(1, WorkerKind::Remote, 2);
    let mut stage = Stage { pool, speeds: Speeds { webgpu: 100, cpu: 20 }, next: 0 };
    assert_eq!(stage.run(only(Api::Cpu)).0, Api::Cpu);
    assert_eq!(stage.apis(3), [Api::WebGpu; 3]);
    assert_eq!(stage.run_until_load(3000), None);
    assert_eq!(stage.apis(3), [Api::WebGpu; 3]);
}

#[test]
fn a_slow_step_ends_the_trial_that_its_session_was_begun_on() {
    let mut stage = Stage::new(Speeds { webgpu: 100, cpu: 60 }, |_| {});
    let (model, kind, step) = (ModelId(1), WorkerKind::Chromium, ProgramId(8));
    let remembered =
        Event::Remembered { model, program: Some(step), kind, api: Api::WebGpu, cost: 1.0, compute: ms(10) };
    stage.pool.then(remembered);
    stage.pool.then(Event::Followed { program: PROGRAM, by: step, times: 32.0 });
    stage.run_until_load(1000).expect("the processor is tried");
    stage.pool.loaded_with(1, Api::Cpu);
    assert_eq!(stage.apis(1), [Api::Cpu]);
    // The session's first step, where it was begun.
    let (worker, request) = (WorkerId(1), 800_000);
    let placement = Placement::ANY.pinned(worker).with(&[Api::Cpu]);
    stage.pool.submit(Submit { program: step, placement, ..request_of(request) });
    let (took, footprint) = (ms(500), Footprint::default());
    stage.pool.now += took;
    stage.pool.then(Event::LoadFinished { worker, program: step, api: Api::Cpu, took, at_once: 1, footprint });
    stage.pool.now += ms(50);
    stage.pool.finished(1, request, 1, 50);
    assert_eq!(stage.apis(3), [Api::WebGpu; 3]);
}
