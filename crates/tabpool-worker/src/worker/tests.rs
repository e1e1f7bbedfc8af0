//! A worker against a host that is a list of messages: loads, runs, corrupt blocks, cut links.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use tabpool_content::{Cid, raw_cid};
use tabpool_engine::{
    Api, Backend, BackendInfo, EngineError, Executable, Loaded, RunOutput, Timing, Tuning, WeightSource, Winner,
};
use tabpool_graph::{Binary, BlockRef, GraphBuilder, Op, Program};
use tabpool_protocol::{ApiKind, Capabilities, FaultKind, Frame, Limits, Message, TunedClass, VERSION, WorkerStatus};
use tabpool_tensor::{DType, Tensor};
use web_time::{Duration, Instant};

use super::{Worker, WorkerOptions};
use crate::{BlockCache, BlockFetcher, Environment};

mod states;

/// Adds its weight to its input, so that results show which bytes arrived. Loses its device on the input -1. Finds `wide`
/// the winner for `add n2` where it has a budget and does not know it.
#[derive(Default)]
struct Adder {
    tuning: RefCell<Tuning>,
    found: RefCell<Vec<Winner>>,
    /// The next load that looks for a winner goes on until it is hurried, and has found none.
    slow: Cell<bool>,
    hurried: Cell<bool>,
}

struct Added(Vec<f32>);

#[async_trait(?Send)]
impl Executable for Added {
    async fn run(&self, inputs: &[Tensor]) -> Result<RunOutput, EngineError> {
        let x = inputs[0].to_f32().expect("floats");
        if x[0] == -1.0 {
            return Err(EngineError::DeviceLost { reason: "the test says so".to_owned() });
        }
        let sum = x.iter().zip(&self.0).map(|(a, b)| a + b).collect();
        let tensors = vec![Tensor::from_f32([self.0.len()], sum).expect("fits")];
        Ok(RunOutput { tensors, compute: Default::default(), readback: Default::default() })
    }
}

#[async_trait(?Send)]
impl Backend for Adder {
    fn info(&self) -> &BackendInfo {
        static INFO: std::sync::OnceLock<BackendInfo> = std::sync::OnceLock::new();
        INFO.get_or_init(|| BackendInfo { api: Api::Cpu, device: "adder".to_owned() })
    }

    async fn load(&self, program: &Program, weights: &dyn WeightSource) -> Result<Loaded, EngineError> {
        let blocks = &program.graph().weights()[0].blocks;
        weights.expect(blocks);
        let mut bytes = Vec::new();
        for block in blocks {
            let got = weights.block(block).await;
            bytes.extend(got.map_err(|source| EngineError::Weight { name: "w".to_owned(), source })?);
        }
        let weight = Tensor::new(DType::F32, [bytes.len() / 4], bytes.into()).expect("whole floats");
        let tuning = self.tuning.borrow().clone();
        let looks = !tuning.budget.is_zero() && tuning.known.iter().all(|w| w.class != "add n2");
        if looks && self.slow.take() {
            self.hurried.set(false);
            std::future::poll_fn(|_| if self.hurried.get() { Poll::Ready(()) } else { Poll::Pending }).await;
        } else if looks {
            let timings = vec![Timing { variant: "wide".to_owned(), time: Some(tuning.budget) }];
            let winner = Winner { class: "add n2".to_owned(), variant: "wide".to_owned(), timings };
            self.found.borrow_mut().push(winner);
        }
        let executable = Rc::new(Added(weight.to_f32().expect("floats").into_owned()));
        Ok(Loaded { executable, report: Default::default() })
    }

    fn tunes(&self) -> bool {
        true
    }

    fn tune(&self, tuning: Tuning) {
        *self.tuning.borrow_mut() = tuning;
    }

    fn hurry(&self) {
        self.hurried.set(true);
    }

    fn take_winners(&self) -> Vec<Winner> {
        std::mem::take(&mut self.found.borrow_mut())
    }
}

#[derive(Default)]
struct Place {
    host: RefCell<HashMap<Cid, Bytes>>,
    cached: RefCell<HashMap<Cid, Bytes>>,
    sent: RefCell<Vec<Frame>>,
    down: RefCell<bool>,
    tasks: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    /// What every API is, instead of an adder, or why there is none.
    device: RefCell<Option<Result<Rc<dyn Backend>, String>>>,
    /// When the place began, and how long ago that is by its own clock.
    began: OnceCell<Instant>,
    elapsed: Cell<Duration>,
    paused: Cell<bool>,
}

struct Here(Rc<Place>);

#[async_trait(?Send)]
impl BlockFetcher for Here {
    async fn fetch(&self, cid: &Cid, _len: usize) -> Result<Bytes, String> {
        self.0.host.borrow().get(cid).cloned().ok_or_else(|| "404".to_owned())
    }
}

#[async_trait(?Send)]
impl BlockCache for Here {
    fn has(&self, cid: &Cid) -> bool {
        self.0.cached.borrow().contains_key(cid)
    }
    async fn get(&self, cid: &Cid) -> Option<Bytes> {
        self.0.cached.borrow().get(cid).cloned()
    }
    async fn put(&self, cid: &Cid, bytes: &Bytes) {
        self.0.cached.borrow_mut().insert(*cid, bytes.clone());
    }
    async fn remove(&self, cid: &Cid) {
        self.0.cached.borrow_mut().remove(cid);
    }
}

#[async_trait(?Send)]
impl Environment for Here {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
    fn status(&self) -> WorkerStatus {
        WorkerStatus { paused: self.0.paused.get(), ..WorkerStatus::default() }
    }
    fn send(&self, message: Bytes) -> bool {
        if *self.0.down.borrow() {
            return false;
        }
        self.0.sent.borrow_mut().push(Frame::decode(&message, &Limits::default()).expect("a frame"));
        true
    }
    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.0.tasks.borrow_mut().push(task);
    }
    fn now(&self) -> Instant {
        *self.0.began.get_or_init(Instant::now) + self.0.elapsed.get()
    }
    async fn backend(&self, _api: ApiKind) -> Result<Rc<dyn Backend>, EngineError> {
        match &*self.0.device.borrow() {
            None => Ok(Rc::new(Adder::default())),
            Some(Ok(backend)) => Ok(Rc::clone(backend)),
            Some(Err(reason)) => Err(EngineError::Device { doing: "opening".to_owned(), reason: reason.clone() }),
        }
    }
    fn fetcher(&self) -> Rc<dyn BlockFetcher> {
        Rc::new(Here(Rc::clone(&self.0)))
    }
    fn cache(&self) -> Option<Rc<dyn BlockCache>> {
        Some(Rc::new(Here(Rc::clone(&self.0))))
    }
}

impl Place {
    /// Polls every task until none gets further; nothing in these tests waits for the outside.
    fn settle(&self) {
        self.settle_in(|_| {});
    }

    fn settle_in(&self, order: impl Fn(&mut Vec<LocalBoxFuture<'static, ()>>)) {
        for _ in 0..100 {
            let mut tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            order(&mut tasks);
            for mut task in tasks {
                if (&mut task).now_or_never().is_none() {
                    self.tasks.borrow_mut().push(task);
                }
            }
        }
    }

    fn take(&self) -> Vec<Frame> {
        self.settle();
        std::mem::take(&mut *self.sent.borrow_mut())
    }
}

fn welcome(worker: &Rc<Worker>, resumed: bool) {
    let message = Message::Welcome {
        version: VERSION,
        session: "s".to_owned(),
        resumed,
        heartbeat_ms: 1000,
        timeout_ms: 9000,
        credits: 4,
    };
    worker.received(&Frame::from(message).encode()).expect("welcome");
}

fn joined() -> (Rc<Place>, Rc<Worker>) {
    let place = Rc::new(Place::default());
    let worker = Worker::new(Rc::new(Here(Rc::clone(&place))), WorkerOptions::default());
    worker.opened("token");
    assert!(matches!(&place.take()[..], [Frame { message: Message::Hello(h), .. }] if h.token == "token"));
    welcome(&worker, false);
    (place, worker)
}

/// The program `x + w` with two elements in two blocks, which the host has.
fn adder(place: &Place, w: [f32; 2]) -> Program {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2]).expect("valid");
    let v = b.weight("w", DType::F32, [2]).expect("valid");
    let y = b.node("y", Op::Binary(Binary::Add), &[x, v]).expect("valid");
    b.output("y", y).expect("valid");
    let mut graph = b.finish().expect("valid");
    for (_, blocks) in graph.weights_mut() {
        for v in w {
            let bytes = Bytes::from(v.to_le_bytes().to_vec());
            let cid = raw_cid(&bytes);
            blocks.push(BlockRef { cid: cid.to_bytes().into(), len: 4 });
            place.host.borrow_mut().insert(cid, bytes);
        }
    }
    Program::new(graph).expect("bound")
}

fn load(worker: &Rc<Worker>, number: u64, program: &Program) {
    let encoded = program.encode();
    let tensor = Tensor::new(DType::U8, [encoded.len()], encoded.into()).expect("bytes");
    let message = Message::Load { program: number, api: ApiKind::Cpu, name: "adder".to_owned() };
    worker.received(&Frame { id: 0, message, tensors: vec![tensor] }.encode()).expect("load");
}

fn run(worker: &Rc<Worker>, request: u64, x: [f32; 2]) {
    let message = Message::Run { program: 1, api: ApiKind::Cpu, attempt: 1, states: None };
    let tensors = vec![Tensor::from_f32([2], x.to_vec()).expect("two")];
    worker.received(&Frame { id: request, message, tensors }.encode()).expect("run");
}

fn loaded_stats(frames: &[Frame]) -> tabpool_protocol::LoadStats {
    let stats = frames.iter().find_map(|f| match &f.message {
        Message::Loaded { stats, .. } => Some(*stats),
        _ => None,
    });
    stats.unwrap_or_else(|| panic!("no Loaded among {frames:?}"))
}

#[test]
fn a_program_loads_runs_and_a_second_load_moves_no_bytes() {
    let (place, worker) = joined();
    let program = adder(&place, [1.0, 2.0]);
    load(&worker, 1, &program);
    let stats = loaded_stats(&place.take());
    assert_eq!((stats.fetched, stats.cached), ((2, 8), (0, 0)));
    run(&worker, 5, [10.0, 20.0]);
    let frames = place.take();
    let [Frame { id: 5, message: Message::Finished { attempt: 1, .. }, tensors }] = &frames[..] else {
        panic!("{frames:?}");
    };
    assert_eq!(tensors[0].to_f32().expect("floats").as_ref(), [11.0, 22.0]);
    load(&worker, 2, &program);
    let stats = loaded_stats(&place.take());
    assert_eq!((stats.fetched, stats.cached), ((0, 0), (2, 8)));
}

#[test]
fn a_corrupt_cached_block_is_fetched_again_and_a_lying_host_is_named() {
    let (place, worker) = joined();
    let program = adder(&place, [1.0, 2.0]);
    let bad: Vec<Cid> = place.host.borrow().keys().copied().collect();
    place.cached.borrow_mut().insert(bad[0], Bytes::from_static(b"junk"));
    load(&worker, 1, &program);
    assert_eq!(loaded_stats(&place.take()).fetched, (2, 8));
    place.cached.borrow_mut().clear();
    place.host.borrow_mut().insert(bad[0], Bytes::from_static(b"junk"));
    load(&worker, 2, &program);
    let frames = place.take();
    assert!(
        frames.iter().any(|f| matches!(&f.message,
            Message::LoadFailed { fault: FaultKind::Content, reason, .. } if reason.contains(&bad[0].to_string()))),
        "{frames:?}"
    );
}

#[test]
fn answers_wait_for_a_link_that_resumes_and_are_forgotten_by_one_that_does_not() {
    let (place, worker) = joined();
    load(&worker, 1, &adder(&place, [1.0, 2.0]));
    place.take();
    run(&worker, 5, [0.0, 0.0]);
    worker.closed();
    *place.down.borrow_mut() = true;
    place.settle();
    *place.down.borrow_mut() = false;
    worker.opened("token");
    let hello = place.take();
    let [Frame { message: Message::Hello(h), .. }] = &hello[..] else { panic!("{hello:?}") };
    assert_eq!((h.resume.as_deref(), &h.held[..], &h.loaded[..]), (Some("s"), &[5][..], &[(1, ApiKind::Cpu)][..]));
    welcome(&worker, true);
    assert!(matches!(place.take()[..], [Frame { id: 5, message: Message::Finished { .. }, .. }]));
    worker.closed();
    worker.opened("token");
    place.take();
    welcome(&worker, false);
    run(&worker, 6, [0.0, 0.0]);
    let frames = place.take();
    assert!(
        matches!(&frames[..], [Frame { id: 6, message: Message::Failed { fault: FaultKind::Device, reason, .. }, .. }]
        if reason == "program 1 is not loaded for cpu"),
        "{frames:?}"
    );
}

#[test]
fn a_lost_device_fails_its_run_and_is_made_anew_at_the_next_load() {
    let (place, worker) = joined();
    let program = adder(&place, [1.0, 2.0]);
    load(&worker, 1, &program);
    place.take();
    run(&worker, 5, [-1.0, 0.0]);
    let frames = place.take();
    assert!(
        matches!(
            &frames[..],
            [
                Frame { message: Message::DeviceLost { api: ApiKind::Cpu, .. }, .. },
                Frame { id: 5, message: Message::Failed { fault: FaultKind::Device, .. }, .. },
            ]
        ),
        "{frames:?}"
    );
    load(&worker, 1, &program);
    loaded_stats(&place.take());
}

#[test]
fn a_load_that_goes_on_while_a_device_is_lost_is_answered() {
    let (place, worker) = joined();
    let program = adder(&place, [1.0, 2.0]);
    load(&worker, 1, &program);
    place.take();
    run(&worker, 5, [-1.0, 0.0]);
    load(&worker, 2, &program);
    let frames = place.take();
    let lost = frames.iter().position(|f| matches!(f.message, Message::DeviceLost { .. }));
    let loaded = frames.iter().position(|f| matches!(f.message, Message::Loaded { program: 2, .. }));
    assert!(lost.is_some() && lost < loaded, "{frames:?}");
    run(&worker, 6, [0.0, 0.0]);
    assert!(matches!(&place.take()[..], [Frame { message: Message::Failed { fault: FaultKind::Device, .. }, .. }]));
}

#[test]
fn a_request_cancelled_while_it_waits_does_not_run() {
    let (place, worker) = joined();
    load(&worker, 1, &adder(&place, [1.0, 2.0]));
    place.take();
    run(&worker, 5, [0.0, 0.0]);
    worker
        .received(&Frame { id: 5, message: Message::Cancel { attempt: 1 }, tensors: vec![] }.encode())
        .expect("cancel");
    assert!(matches!(place.take()[..], [Frame { message: Message::Failed { fault: FaultKind::Cancelled, .. }, .. }]));
}

fn tune(worker: &Rc<Worker>, budget_ms: u32, at_load: bool, known: Vec<TunedClass>) {
    let message = Message::Tune { api: ApiKind::Cpu, budget_ms, at_load, known };
    worker.received(&Frame::from(message).encode()).expect("tune");
}

fn tuned(frames: &[Frame]) -> Vec<TunedClass> {
    let found = frames.iter().filter_map(|f| match &f.message {
        Message::Tuned { api: ApiKind::Cpu, found } => Some(found.clone()),
        _ => None,
    });
    found.flatten().collect()
}

#[test]
fn winners_go_to_the_host_once_and_outlive_their_device() {
    let (place, worker) = joined();
    let program = adder(&place, [1.0, 2.0]);
    tune(&worker, 7, false, Vec::new());
    load(&worker, 1, &program);
    assert_eq!(tuned(&place.take()), [], "a load is not kept waiting");
    run(&worker, 4, [0.0, 0.0]);
    let frames = place.take();
    assert!(matches!(frames[0].message, Message::Finished { .. }), "{frames:?}");
    let found = tuned(&frames);
    let timings = vec![("wide".to_owned(), Some(7_000_000))];
    assert_eq!(found, [TunedClass { class: "add n2".to_owned(), variant: "wide".to_owned(), timings }]);
    run(&worker, 5, [-1.0, 0.0]);
    place.take();
    load(&worker, 1, &program);
    let frames = place.take();
    loaded_stats(&frames);
    assert_eq!(tuned(&frames), [], "the next device knows what the lost one found");
}

#[test]
fn an_improvement_that_was_interrupted_goes_on_when_it_is_calm() {
    let (place, worker) = joined();
    *place.device.borrow_mut() = Some(Ok(Rc::new(Adder { slow: Cell::new(true), ..Adder::default() })));
    tune(&worker, 7, false, Vec::new());
    load(&worker, 1, &adder(&place, [1.0, 2.0]));
    place.take();
    for request in [5, 6] {
        run(&worker, request, [0.0, 0.0]);
        let frames = place.take();
        assert!(matches!(&frames[..], [Frame { message: Message::Finished { .. }, .. }]), "{frames:?}");
        place.elapsed.set(Duration::from_secs(1));
    }
    worker.tick().expect("linked");
    assert_eq!(tuned(&place.take()), [], "somebody has just been here");
    place.elapsed.set(Duration::from_secs(3));
    worker.tick().expect("linked");
    assert_eq!(tuned(&place.take()).len(), 1);
    place.elapsed.set(Duration::from_secs(6));
    worker.tick().expect("linked");
    assert_eq!(tuned(&place.take()), [], "there is nothing more to find");
}

#[test]
fn what_the_host_knows_is_not_timed_again_and_no_budget_times_nothing() {
    let known = TunedClass { class: "add n2".to_owned(), variant: "wide".to_owned(), timings: Vec::new() };
    for (budget_ms, known) in [(1000, vec![known]), (0, Vec::new())] {
        let (place, worker) = joined();
        tune(&worker, budget_ms, true, known);
        load(&worker, 1, &adder(&place, [1.0, 2.0]));
        place.take();
        run(&worker, 5, [0.0, 0.0]);
        assert_eq!(tuned(&place.take()), []);
    }
}

#[test]
fn a_host_that_wants_to_know_has_loads_tune() {
    let (place, worker) = joined();
    tune(&worker, 7, true, Vec::new());
    load(&worker, 1, &adder(&place, [1.0, 2.0]));
    let frames = place.take();
    assert_eq!(tuned(&frames).len(), 1);
    loaded_stats(&frames);
}

#[test]
fn a_paused_worker_says_so_at_once_keeps_what_it_loaded_and_tunes_nothing() {
    let (place, worker) = joined();
    let program = adder(&place, [1.0, 2.0]);
    tune(&worker, 7, false, Vec::new());
    load(&worker, 1, &program);
    place.take();
    for paused in [true, false] {
        place.paused.set(paused);
        worker.tell_status();
        let frames = place.take();
        assert!(matches!(&frames[..], [Frame { message: Message::Status(s), .. }] if s.paused == paused), "{frames:?}");
        // The host asks for what is there already.
        load(&worker, 1, &program);
        assert_eq!(loaded_stats(&place.take()).fetched, (0, 0));
        worker.tick().expect("linked");
        assert_eq!(tuned(&place.take()).is_empty(), paused);
    }
}
