//! Sets of states: on the processor, and on a device that does what a test says.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::task::Poll;

use async_trait::async_trait;
use futures::FutureExt;
use tabpool_engine::cpu::{CpuBackend, CpuOptions};
use tabpool_engine::{
    Api, Backend, BackendInfo, EngineError, Executable, Loaded, RunOutput, StateSet, StateSpec as EngineSpec,
    WeightSource, check_states,
};
use tabpool_graph::{Binary, Graph, GraphBuilder, Op, Program};
use tabpool_protocol::{ApiKind, Frame, HeldStates, Message, StateLimits, StateSpec, WorkerStatus};
use tabpool_tensor::{DType, Tensor};
use web_time::Duration;

use super::{Here, Place, welcome};
use crate::{Worker, WorkerOptions};

const LEASE: Duration = Duration::from_secs(5);
const CPU: ApiKind = ApiKind::Cpu;
const GPU: ApiKind = ApiKind::WebGpu;

/// `sum = 2 sum + x`, so that the order of runs shows; its output is what the state becomes.
fn doubling(state: &str) -> Program {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2]).expect("valid");
    let sum = b.state(state, DType::F32, [2]).expect("valid");
    let twice = b.node("twice", Op::Binary(Binary::Add), &[sum, sum]).expect("valid");
    let more = b.node("more", Op::Binary(Binary::Add), &[twice, x]).expect("valid");
    b.next(sum, more).expect("a state");
    b.output("y", more).expect("valid");
    Program::new(b.finish().expect("valid")).expect("bound")
}

/// `x` and what it holds, which stays as it is.
fn looking() -> Program {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2]).expect("valid");
    let sum = b.state("sum", DType::F32, [2]).expect("valid");
    let y = b.node("y", Op::Binary(Binary::Add), &[sum, x]).expect("valid");
    b.output("y", y).expect("valid");
    Program::new(b.finish().expect("valid")).expect("bound")
}

fn sum() -> Vec<StateSpec> {
    vec![StateSpec { name: "sum".to_owned(), dtype: DType::F32, dims: vec![2] }]
}

/// What the test says the device does, and what it did.
#[derive(Default)]
struct Script {
    /// Runs stay where they are.
    hold: Cell<bool>,
    /// Sets stay unmade.
    hold_making: Cell<bool>,
    /// Why the next set is not made.
    refuse: RefCell<Option<EngineError>>,
    /// The runs that began, by what they were given, and the sets that were dropped.
    log: RefCell<Vec<String>>,
}

/// A device that takes several runs at once. Runs on -1 lose it, runs on -2 fail on it.
struct Device {
    script: Rc<Script>,
    info: BackendInfo,
}

struct Scripted {
    script: Rc<Script>,
    graph: Graph,
}

struct ScriptedSet {
    script: Rc<Script>,
    specs: Vec<EngineSpec>,
}

impl StateSet for ScriptedSet {
    fn specs(&self) -> &[EngineSpec] {
        &self.specs
    }
    fn bytes(&self) -> u64 {
        256
    }
}

impl Drop for ScriptedSet {
    fn drop(&mut self) {
        self.script.log.borrow_mut().push("dropped".to_owned());
    }
}

async fn until(reached: impl Fn() -> bool) {
    poll_fn(|_| if reached() { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[async_trait(?Send)]
impl Executable for Scripted {
    async fn run(&self, _inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        check_states(&self.graph, None)?;
        Err(EngineError::Input { name: "x".to_owned(), reason: "has no state here".to_owned() })
    }

    async fn run_on(&self, states: &Rc<dyn StateSet>, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        check_states(&self.graph, Some(states.specs()))?;
        let x = inputs[0].to_f32().expect("floats")[0];
        self.script.log.borrow_mut().push(format!("run {x}"));
        until(|| !self.script.hold.get()).await;
        if x == -1.0 {
            return Err(EngineError::DeviceLost { reason: "the test says so".to_owned() });
        }
        if x == -2.0 {
            let (doing, reason) = ("running".to_owned(), "the test says so".to_owned());
            return Err(EngineError::Device { doing, reason });
        }
        Ok(RunOutput { tensors: inputs.to_vec(), compute: Duration::ZERO, readback: Duration::ZERO })
    }
}

#[async_trait(?Send)]
impl Backend for Device {
    fn info(&self) -> &BackendInfo {
        &self.info
    }
    async fn load(&self, program: &Program, _weights: &dyn WeightSource) -> Result<Loaded, EngineError> {
        let executable = Scripted { script: Rc::clone(&self.script), graph: program.graph().clone() };
        Ok(Loaded { executable: Rc::new(executable), report: Default::default() })
    }
    async fn new_states(&self, specs: &[EngineSpec]) -> Result<Rc<dyn StateSet>, EngineError> {
        until(|| !self.script.hold_making.get()).await;
        match self.script.refuse.take() {
            Some(error) => Err(error),
            None => Ok(Rc::new(ScriptedSet { script: Rc::clone(&self.script), specs: specs.to_vec() })),
        }
    }
}

/// A joined worker with the host's side of its link.
struct Linked {
    place: Rc<Place>,
    worker: Rc<Worker>,
    script: Rc<Script>,
}

impl Linked {
    fn new(options: WorkerOptions) -> Self {
        let (place, script) = (Rc::new(Place::default()), Rc::new(Script::default()));
        let worker = Worker::new(Rc::new(Here(Rc::clone(&place))), options);
        let linked = Self { place, worker, script };
        linked.join(false);
        linked
    }

    /// On the processor, with `doubling` as program 1.
    fn on_cpu() -> Self {
        let linked = Self::new(WorkerOptions::default());
        let backend = CpuBackend::new(&CpuOptions::new().threads(NonZeroUsize::MIN)).expect("a processor");
        *linked.place.device.borrow_mut() = Some(Ok(Rc::new(backend)));
        linked.load(1, CPU, &doubling("sum"));
        linked
    }

    /// On the device of the script, with `doubling` as program 1.
    fn scripted() -> Self {
        let linked = Self::new(WorkerOptions::default());
        linked.new_device();
        linked.load(1, GPU, &doubling("sum"));
        linked
    }

    fn new_device(&self) {
        let info = BackendInfo { api: Api::WebGpu, device: "script".to_owned() };
        let device = Device { script: Rc::clone(&self.script), info };
        *self.place.device.borrow_mut() = Some(Ok(Rc::new(device)));
    }

    /// Joins on a new link; gives the sets that the worker lists.
    fn join(&self, resumed: bool) -> Vec<HeldStates> {
        self.worker.opened("token");
        let frames = self.place.take();
        let [Frame { message: Message::Hello(hello), .. }] = &frames[..] else { panic!("{frames:?}") };
        welcome(&self.worker, resumed);
        hello.states.clone()
    }

    fn send(&self, id: u64, message: Message, tensors: Vec<Tensor>) {
        self.worker.received(&Frame { id, message, tensors }.encode()).expect("a frame of the host");
    }

    fn load(&self, program: u64, api: ApiKind, what: &Program) {
        let encoded = what.encode();
        let tensor = Tensor::new(DType::U8, [encoded.len()], encoded.into()).expect("bytes");
        self.send(0, Message::Load { program, api, name: "doubling".to_owned() }, vec![tensor]);
        super::loaded_stats(&self.place.take());
    }

    fn ask(&self, states: u64, api: ApiKind, specs: Vec<StateSpec>) {
        let lease_ms = u32::try_from(LEASE.as_millis()).expect("short");
        self.send(0, Message::MakeStates { states, api, lease_ms, specs }, Vec::new());
    }

    fn make(&self, states: u64, api: ApiKind) -> u64 {
        self.ask(states, api, sum());
        match &self.place.take()[..] {
            [Frame { message: Message::StatesMade { states: made, bytes, .. }, .. }] if *made == states => *bytes,
            other => panic!("{other:?}"),
        }
    }

    fn free(&self, states: u64) {
        self.send(0, Message::FreeStates { states }, Vec::new());
    }

    fn run(&self, request: u64, api: ApiKind, states: impl Into<Option<u64>>, x: f32) {
        self.run_program(request, 1, api, states, x);
    }

    fn run_program(&self, request: u64, program: u64, api: ApiKind, states: impl Into<Option<u64>>, x: f32) {
        let message = Message::Run { program, api, attempt: 1, states: states.into() };
        self.send(request, message, vec![Tensor::from_f32([2], vec![x, 0.0]).expect("two")]);
    }

    /// What the worker says next, each a line.
    fn said(&self) -> Vec<String> {
        self.place.take().iter().map(line).collect()
    }

    fn did(&self) -> Vec<String> {
        self.place.settle();
        std::mem::take(&mut self.script.log.borrow_mut())
    }

    /// Lets so much time pass on the worker's clock. The session may end of silence; what it holds does not mind.
    fn pass(&self, time: Duration) {
        self.place.elapsed.set(self.place.elapsed.get() + time);
        let _ = self.worker.tick();
    }
}

fn line(frame: &Frame) -> String {
    match &frame.message {
        Message::Finished { .. } => format!("{} is {}", frame.id, frame.tensors[0].to_f32().expect("floats")[0]),
        Message::Failed { fault, reason, .. } => format!("{} failed, {fault:?}: {reason}", frame.id),
        Message::StatesMade { states, bytes, .. } => format!("set {states} made, {bytes}"),
        Message::StatesFailed { states, fault, reason, .. } => format!("set {states} failed, {fault:?}: {reason}"),
        Message::StatesLost { states, cause, reason, .. } => format!("set {states} lost, {cause:?}: {reason}"),
        Message::DeviceLost { api, .. } => format!("{api} lost"),
        Message::Ping { .. } => "ping".to_owned(),
        Message::Status(WorkerStatus { states, .. }) => format!("status {states:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn runs_on_a_set_take_effect_in_the_order_they_were_sent_whoever_wakes_first() {
    let linked = Linked::on_cpu();
    let exact = {
        let Some(Ok(backend)) = linked.place.device.borrow().clone() else { panic!("a device") };
        let specs = EngineSpec::of(doubling("sum").graph());
        let states = backend.new_states(&specs).now_or_never().expect("at once").expect("made");
        states.bytes()
    };
    assert_eq!(linked.make(5, CPU), exact);
    for (request, x) in [(1, 1.0), (2, 10.0), (3, 100.0), (4, 1000.0)] {
        linked.run(request, CPU, 5, x);
    }
    linked.place.settle_in(|tasks| tasks.reverse());
    assert_eq!(linked.said(), ["1 is 1", "2 is 12", "3 is 124", "4 is 1248"]);
}

#[test]
fn sets_are_apart_and_programs_with_the_same_states_share_one() {
    let linked = Linked::on_cpu();
    linked.load(2, CPU, &looking());
    linked.make(5, CPU);
    linked.make(6, CPU);
    linked.run(1, CPU, 5, 1.0);
    linked.run(2, CPU, 6, 3.0);
    linked.run_program(3, 2, CPU, 5, 0.5);
    linked.run_program(4, 2, CPU, 6, 0.5);
    assert_eq!(linked.said(), ["1 is 1", "2 is 3", "3 is 1.5", "4 is 3.5"]);
}

#[test]
fn a_freed_set_serves_the_runs_that_came_before_and_none_after() {
    let linked = Linked::scripted();
    linked.make(5, GPU);
    linked.run(1, GPU, 5, 1.0);
    linked.free(5);
    linked.run(2, GPU, 5, 2.0);
    linked.free(5);
    assert_eq!(linked.did(), ["run 1", "dropped"]);
    assert_eq!(linked.said(), ["1 is 1", "2 failed, States: set 5 of states is not here"]);
    linked.make(5, GPU);
}

#[test]
fn several_runs_on_one_set_are_in_flight_and_begin_in_order() {
    let linked = Linked::scripted();
    linked.make(5, GPU);
    linked.script.hold.set(true);
    for (request, x) in [(1, 1.0), (2, 2.0), (3, 3.0)] {
        linked.run(request, GPU, 5, x);
    }
    linked.place.settle_in(|tasks| tasks.reverse());
    assert_eq!(linked.did(), ["run 1", "run 2"], "the device takes two");
    linked.script.hold.set(false);
    assert_eq!(linked.did(), ["run 3"]);
    assert_eq!(linked.said().len(), 3);
}

#[test]
fn runs_may_be_sent_before_their_set_is_made() {
    let linked = Linked::scripted();
    linked.script.hold_making.set(true);
    linked.ask(5, GPU, sum());
    linked.run(1, GPU, 5, 1.0);
    linked.run(2, GPU, 5, 2.0);
    assert_eq!(linked.said(), [""; 0]);
    linked.script.hold_making.set(false);
    assert_eq!(linked.said(), ["set 5 made, 256", "1 is 1", "2 is 2"]);
    let reason = "256 bytes more".to_owned();
    *linked.script.refuse.borrow_mut() = Some(EngineError::OutOfMemory { doing: "making room".to_owned(), reason });
    linked.ask(6, GPU, sum());
    linked.run(3, GPU, 6, 3.0);
    let why = "out of memory on the device while making room: 256 bytes more";
    let said =
        [format!("set 6 failed, Memory: {why}"), format!("3 failed, States: set 6 of states could not be made: {why}")];
    assert_eq!(linked.said(), said);
}

#[test]
fn a_run_is_refused_where_its_set_does_not_fit_and_changes_nothing() {
    let linked = Linked::on_cpu();
    linked.load(2, CPU, &doubling("total"));
    linked.make(5, CPU);
    linked.run(1, CPU, 5, 1.0);
    linked.run_program(2, 2, CPU, 5, 7.0);
    linked.run(3, CPU, None, 7.0);
    linked.run(4, GPU, 5, 7.0);
    linked.run(5, CPU, 9, 7.0);
    linked.run_program(6, 8, CPU, 5, 7.0);
    linked.run(7, CPU, 5, 1.0);
    let mut said = linked.said();
    said.sort();
    assert_eq!(
        said,
        [
            "1 is 1",
            "2 failed, Input: the states have \"sum\", f32[2], where the program keeps \"total\", f32[2]",
            "3 failed, Input: the states are missing: the program keeps 1, \"sum\" first",
            "4 failed, Input: set 5 of states is for cpu, the run for webgpu",
            "5 failed, States: set 9 of states is not here",
            "6 failed, Device: program 8 is not loaded for cpu",
            "7 is 3",
        ]
    );
}

#[test]
fn a_cancelled_run_changes_nothing_and_those_after_it_go_on() {
    let linked = Linked::on_cpu();
    linked.make(5, CPU);
    linked.run(1, CPU, 5, 1.0);
    linked.run(2, CPU, 5, 7.0);
    linked.run(3, CPU, 5, 1.0);
    linked.send(2, Message::Cancel { attempt: 1 }, Vec::new());
    assert_eq!(linked.said(), ["1 is 1", "2 failed, Cancelled: cancelled before it ran", "3 is 3"]);
}

#[test]
fn a_set_is_refused_where_it_is_not_sound_too_much_or_cannot_be_kept() {
    let states = StateLimits { sets: 2, all_bytes: 300, ..StateLimits::default() };
    let linked = Linked::new(WorkerOptions { states, ..WorkerOptions::default() });
    let spec = |dtype, dims: &[u64]| vec![StateSpec { name: "s".to_owned(), dtype, dims: dims.to_vec() }];
    linked.ask(1, CPU, spec(DType::F32, &[2, 0]));
    linked.ask(1, CPU, spec(DType::F16, &[2]));
    linked.ask(1, CPU, sum());
    assert_eq!(
        linked.said(),
        [
            "set 1 failed, Input: state \"s\" of f32[2, 0]: it holds nothing",
            "set 1 failed, Unsupported: state \"s\" of f16[2]: programs keep f32 and i32",
            "set 1 failed, Unsupported: the states cannot be kept by this backend: \"sum\"",
        ]
    );
    *linked.place.device.borrow_mut() = Some(Err("there is none".to_owned()));
    linked.ask(1, ApiKind::WebNn, sum());
    assert_eq!(linked.said(), ["set 1 failed, Unsupported: the device failed while opening: there is none"]);
    linked.new_device();
    linked.make(1, GPU);
    linked.ask(1, GPU, sum());
    linked.ask(2, GPU, spec(DType::F32, &[12]));
    linked.ask(3, GPU, spec(DType::F32, &[11]));
    linked.ask(4, GPU, spec(DType::I32, &[1]));
    assert_eq!(
        linked.said(),
        [
            "set 1 failed, Worker: set 1 of states is there already, for webgpu",
            "set 2 failed, Memory: this worker's sets of states take 256 bytes, 48 more are beyond 300",
            "set 4 failed, Memory: this worker holds 2 sets of states, at most 2 allowed",
            "set 3 made, 256",
        ]
    );
}

#[test]
fn sets_go_with_their_device_and_runs_that_wait_for_them_fail() {
    let linked = Linked::scripted();
    linked.make(5, GPU);
    linked.make(6, GPU);
    linked.script.hold.set(true);
    linked.script.hold_making.set(true);
    linked.ask(7, GPU, sum());
    for (request, x) in [(1, -1.0), (2, 2.0), (3, 3.0)] {
        linked.run(request, GPU, 5, x);
    }
    linked.place.settle();
    linked.script.hold.set(false);
    let mut said = linked.said();
    said.sort();
    assert_eq!(
        said,
        [
            "1 failed, Device: the device is lost: the test says so",
            "2 is 2",
            "3 failed, States: set 5 of states went with its device: the test says so",
            "webgpu lost",
        ]
    );
    assert_eq!(linked.did().iter().filter(|did| *did == "dropped").count(), 2);
    linked.script.hold_making.set(false);
    assert_eq!(linked.said(), [""; 0], "of a set that was being made no further word comes");
    assert_eq!(linked.did(), ["dropped"]);
    linked.run(4, GPU, 6, 4.0);
    assert_eq!(linked.said(), ["4 failed, States: set 6 of states is not here"]);
    linked.new_device();
    linked.load(1, GPU, &doubling("sum"));
    linked.make(5, GPU);
    linked.run(5, GPU, 5, 5.0);
    assert_eq!(linked.said(), ["5 is 5"]);
}

#[test]
fn what_a_lost_device_says_late_does_not_end_the_one_in_its_place() {
    let linked = Linked::scripted();
    linked.make(5, GPU);
    linked.make(6, GPU);
    linked.script.hold.set(true);
    linked.run(1, GPU, 5, -1.0);
    linked.place.settle();
    let late = std::mem::take(&mut *linked.place.tasks.borrow_mut());
    linked.run(2, GPU, 6, -1.0);
    linked.place.settle();
    linked.script.hold.set(false);
    assert_eq!(linked.said(), ["webgpu lost", "2 failed, Device: the device is lost: the test says so"]);
    linked.new_device();
    linked.load(1, GPU, &doubling("sum"));
    linked.make(7, GPU);
    linked.place.tasks.borrow_mut().extend(late);
    assert_eq!(linked.said(), ["1 failed, Device: the device is lost: the test says so"]);
    linked.run(3, GPU, 7, 3.0);
    assert_eq!(linked.said(), ["3 is 3"]);
}

#[test]
fn a_set_on_which_the_device_failed_is_ended_alone() {
    let linked = Linked::scripted();
    linked.make(5, GPU);
    linked.make(6, GPU);
    linked.script.hold.set(true);
    for (request, x) in [(1, -2.0), (2, -2.0), (3, 3.0)] {
        linked.run(request, GPU, 5, x);
    }
    linked.place.settle();
    linked.script.hold.set(false);
    linked.run(4, GPU, 6, 4.0);
    let why = "the device failed while running: the test says so";
    let said = [
        format!("set 5 lost, Failed: {why}"),
        format!("1 failed, Device: {why}"),
        format!("2 failed, Device: {why}"),
        format!("3 failed, States: set 5 of states was lost in an earlier run: {why}"),
        "4 is 4".to_owned(),
    ];
    let mut got = linked.said();
    got[1..].sort();
    assert_eq!(got, said);
}

#[test]
fn a_set_that_no_run_names_is_freed_when_its_lease_is_over() {
    let linked = Linked::scripted();
    linked.make(5, GPU);
    linked.pass(LEASE / 2);
    assert_eq!(linked.said(), ["ping", "status (1, 256)"]);
    linked.run(1, GPU, 5, 1.0);
    assert_eq!(linked.said(), ["1 is 1"]);
    linked.pass(LEASE - Duration::from_millis(1));
    assert_eq!(linked.said(), ["ping", "status (1, 256)"], "the run renewed it");
    linked.script.hold.set(true);
    linked.run(2, GPU, 5, 2.0);
    linked.place.settle();
    linked.pass(LEASE * 10);
    linked.script.hold.set(false);
    assert_eq!(linked.said(), ["2 is 2"], "a run in flight keeps it");
    linked.did();
    linked.pass(LEASE);
    assert_eq!(linked.did(), ["dropped"]);
    assert_eq!(linked.said(), ["set 5 lost, Lease: no run named it for 5s"]);
    linked.run(3, GPU, 5, 3.0);
    assert_eq!(linked.said(), ["3 failed, States: set 5 of states is not here"]);
}

#[test]
fn a_resumed_session_lists_what_is_held_and_another_session_frees_it() {
    let linked = Linked::scripted();
    linked.make(5, GPU);
    linked.make(6, GPU);
    linked.pass(LEASE / 2);
    linked.run(1, GPU, 6, 1.0);
    linked.script.hold_making.set(true);
    linked.ask(7, GPU, sum());
    linked.said();
    linked.worker.closed();
    linked.place.elapsed.set(linked.place.elapsed.get() + LEASE / 2);
    let held = |states, bytes| HeldStates { states, api: GPU, bytes };
    assert_eq!(linked.join(true), [held(6, Some(256)), held(7, None)], "the lease of set 5 ended meanwhile");
    assert_eq!(linked.said(), ["set 5 lost, Lease: no run named it for 5s"]);
    linked.run(2, GPU, 6, 2.0);
    assert_eq!(linked.said(), ["2 is 2"]);
    linked.did();
    linked.worker.closed();
    linked.join(false);
    linked.script.hold_making.set(false);
    assert_eq!(linked.did(), ["dropped", "dropped"]);
    linked.run(3, GPU, 6, 3.0);
    assert_eq!(linked.said(), ["3 failed, States: set 6 of states is not here"]);
    linked.pass(Duration::from_secs(2));
    assert_eq!(linked.said(), ["ping", "status (0, 0)"]);
}

#[test]
fn a_set_freed_while_it_is_made_is_dropped_without_a_word() {
    let linked = Linked::scripted();
    linked.script.hold_making.set(true);
    linked.ask(5, GPU, sum());
    linked.run(1, GPU, 5, 1.0);
    linked.place.settle();
    linked.free(5);
    linked.script.hold_making.set(false);
    assert_eq!(linked.said(), ["1 failed, States: set 5 of states was freed before it was made"]);
    assert_eq!(linked.did(), ["dropped"]);
}
