//! Memory: what is unloaded for what, what never fits, and who has to wait.

use tabpool_scheduler::*;

use crate::pool::*;

/// A pool with one worker of so many bytes, and programs 1 to 4 of 100 bytes each, of which half are one weight that 1 and 2
/// share, and another that 3 and 4 do.
fn small_pool(memory: u64) -> Pool {
    let mut pool = Pool::new();
    for program in 1..=4 {
        let weights = vec![(WeightId(100 + program / 3), 50), (WeightId(program), 40)];
        pool.then(Event::Program { program: ProgramId(program), needs: Needs { weights, scratch: 10 } });
    }
    let (worker, apis) = (WorkerId(1), vec![Api::Cpu]);
    let kind = WorkerKind::Native;
    pool.then(Event::Joined { worker, slot: None, kind, apis, credits: 4, memory: Some(memory) });
    pool
}

fn ask(pool: &mut Pool, request: u64, program: u64) -> Vec<Action> {
    pool.submit(Submit { program: ProgramId(program), model: ModelId(program), ..request_of(request) })
}

fn load(pool: &mut Pool, program: u64) -> Vec<Action> {
    load_of(pool, program, Footprint { weights: 90, scratch: 10 })
}

fn load_of(pool: &mut Pool, program: u64, footprint: Footprint) -> Vec<Action> {
    let (worker, program, api, took) = (WorkerId(1), ProgramId(program), Api::Cpu, ms(100));
    pool.now += took;
    pool.then(Event::LoadFinished { worker, program, api, took, at_once: 1, footprint })
}

/// Submits, loads and finishes one request.
fn run(pool: &mut Pool, request: u64, program: u64) -> Vec<Action> {
    let mut actions = ask(pool, request, program);
    if !loads(&actions).is_empty() {
        actions.extend(load(pool, program));
    }
    pool.now += ms(10);
    actions.extend(pool.finished(1, request, 1, 10));
    actions
}

fn unloads(actions: &[Action]) -> Vec<(u64, u64)> {
    let unload = |action: &Action| match action {
        Action::Unload { program, bytes, .. } => Some((program.0, *bytes)),
        _ => None,
    };
    actions.iter().filter_map(unload).collect()
}

fn memory(pool: &Pool) -> u64 {
    pool.scheduler.workers().map(|view| view.memory).sum()
}

#[test]
fn equal_weights_are_counted_once() {
    let mut pool = small_pool(1000);
    run(&mut pool, 1, 1);
    assert_eq!(memory(&pool), 100);
    run(&mut pool, 2, 2);
    assert_eq!(memory(&pool), 150, "half of it is there");
    run(&mut pool, 3, 3);
    assert_eq!(memory(&pool), 250);
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let mut pool = small_pool(250);
    run(&mut pool, 1, 1);
    run(&mut pool, 2, 2);
    run(&mut pool, 3, 3);
    run(&mut pool, 4, 1);
    assert_eq!(unloads(&run(&mut pool, 5, 4)), [(2, 50)], "1 was used since");
    assert_eq!(memory(&pool), 250);
}

#[test]
fn a_program_that_does_not_fit_even_alone_is_refused_with_the_numbers() {
    let mut pool = small_pool(80);
    let replies = replies(&ask(&mut pool, 1, 1));
    let [(1, Outcome::NoWorker { reason })] = &replies[..] else { panic!("{replies:?}") };
    assert!(reason.contains("it takes 100 B with cpu, of at most 80 B"), "{reason}");
}

#[test]
fn what_turns_out_larger_than_was_said_makes_others_go_and_not_itself() {
    let mut pool = small_pool(250);
    run(&mut pool, 1, 1);
    ask(&mut pool, 2, 3);
    let actions = load_of(&mut pool, 3, Footprint { weights: 90, scratch: 150 });
    assert_eq!(unloads(&actions), [(1, 100)]);
    assert_eq!(sent(&actions), [(1, 2, 1)]);
    assert_eq!(memory(&pool), 240);
}

#[test]
fn what_turns_out_not_to_fit_at_all_is_given_up_and_said_so() {
    let mut pool = small_pool(250);
    ask(&mut pool, 1, 3);
    let actions = load_of(&mut pool, 3, Footprint { weights: 90, scratch: 1150 });
    assert_eq!(unloads(&actions), [(3, 1240)]);
    assert!(actions.iter().any(|action| matches!(action, Action::Record(Record::TooLarge { .. }))));
    assert!(matches!(&replies(&actions)[..], [(1, Outcome::NoWorker { reason })] if reason.contains("1.2 kB")));
    assert_eq!(memory(&pool), 0);
}

#[test]
fn a_program_at_work_is_never_unloaded_and_two_that_are_wanted_take_turns() {
    let mut pool = small_pool(120);
    ask(&mut pool, 1, 1);
    load(&mut pool, 1);
    for request in 2..=8 {
        ask(&mut pool, request, 1);
    }
    // Too soon: 1 was loaded just now, and is wanted.
    assert_eq!(ask(&mut pool, 100, 3), []);
    let mut done = Vec::new();
    let mut queued_for_one = 9;
    while done.is_empty() {
        // Program 1 never runs out of work.
        pool.now += ms(20);
        let next = pool.scheduler.workers().map(|view| view.in_flight).sum::<u32>();
        assert!(next > 0 && queued_for_one < 100, "program 3 waits for ever");
        let actions = pool.finished(1, queued_for_one - 8, 1, 20);
        done = unloads(&actions);
        ask(&mut pool, queued_for_one, 1);
        queued_for_one += 1;
    }
    assert_eq!(done, [(1, 100)]);
    assert_eq!(sent(&load(&mut pool, 3)), [(1, 100, 1)]);
    let soon = pool.now.as_millis() as u64 + 5_000;
    let back = pool.tick_until(soon);
    assert!(loads(&back).is_empty() && memory(&pool) == 100, "its turn is not over while it works: {back:?}");
    let actions = pool.finished(1, 100, 1, 10);
    assert_eq!(unloads(&actions), [(3, 100)], "and then the first comes back");
}

#[test]
fn states_take_memory_too() {
    let mut pool = small_pool(250);
    run(&mut pool, 1, 1);
    pool.then(Event::States { worker: WorkerId(1), bytes: 100 });
    assert_eq!(memory(&pool), 200);
    assert_eq!(unloads(&run(&mut pool, 2, 3)), [(1, 100)]);
    pool.then(Event::States { worker: WorkerId(1), bytes: 0 });
    assert_eq!(memory(&pool), 100);
}
