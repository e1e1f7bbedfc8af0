//! How many events the scheduler handles a second, and that a deep queue does not make it slow.
//!
//! The figure is printed (`--nocapture`); what is asserted is a ratio, because machines differ and are shared.

use std::time::{Duration, Instant};

use tabpool_scheduler::{
    Action, Api, ClientId, Config, Event, Footprint, ModelId, Placement, ProgramId, RequestId, Scheduler, Submit,
    WorkerId, WorkerKind,
};

const WORKERS: u64 = 8;
const PROGRAMS: u64 = 8;

/// Handles `events` events of a busy pool with about `depth` requests waiting, and returns events a second.
fn rate(depth: u64, events: u64) -> f64 {
    let mut config = Config::default();
    config.max_queued = 1_000_000;
    let mut scheduler = Scheduler::new(config, 1).expect("the configuration is valid");
    let mut actions = Vec::new();
    let mut todo: Vec<Action> = Vec::new();
    let mut now = Duration::ZERO;
    let mut requests = 0;
    for worker in 0..WORKERS {
        let apis = vec![Api::WebGpu, Api::Cpu];
        let kind = WorkerKind::ALL[worker as usize % 3];
        let joined = Event::Joined { worker: WorkerId(worker), slot: None, kind, apis, credits: 4, memory: None };
        scheduler.handle(now, joined, &mut actions);
    }
    let began = Instant::now();
    for _ in 0..events {
        now += Duration::from_micros(50);
        let open = (scheduler.queued() + scheduler.in_flight()) as u64;
        let event = if open < depth + 4 * WORKERS || todo.is_empty() {
            requests += 1;
            let program = requests % PROGRAMS;
            Event::Submit(Submit {
                request: RequestId(requests),
                client: ClientId::default(),
                model: ModelId(program / 2),
                program: ProgramId(program),
                placement: Placement::ANY,
                priority: (requests % 3) as i8,
                deadline: None,
                cost: 1.0,
                max_attempts: None,
                repeatable: true,
            })
        } else {
            match todo.swap_remove(requests as usize % todo.len()) {
                Action::Load { worker, program, api, .. } => {
                    let (took, footprint) = (Duration::from_millis(100), Footprint::default());
                    Event::LoadFinished { worker, program, api, took, at_once: 1, footprint }
                }
                Action::Dispatch { worker, request, attempt, program, .. } => {
                    let compute = Duration::from_micros(200 + 20 * program.0 + 30 * worker.0);
                    Event::Finished { worker, request, attempt, compute }
                }
                _ => Event::Tick,
            }
        };
        scheduler.handle(now, event, &mut actions);
        let answerable = |it: &Action| matches!(it, Action::Load { .. } | Action::Dispatch { .. });
        todo.extend(actions.drain(..).filter(answerable));
    }
    scheduler.audit().expect("the books agree");
    assert!(scheduler.queued() as u64 >= depth, "{} wait", scheduler.queued());
    events as f64 / began.elapsed().as_secs_f64()
}

#[test]
fn a_deep_queue_costs_little_more_than_a_shallow_one() {
    // The best of a few turns: whatever else the machine does can only slow a turn down.
    let (mut shallow, mut deep) = (0.0_f64, 0.0_f64);
    for _ in 0..4 {
        shallow = shallow.max(rate(50, 30_000));
        deep = deep.max(rate(5_000, 30_000));
    }
    eprintln!("events a second: {shallow:.0} with 50 waiting, {deep:.0} with 5000");
    assert!(deep * 5.0 > shallow, "{shallow:.0} a second with 50 waiting, {deep:.0} with 5000");
}
