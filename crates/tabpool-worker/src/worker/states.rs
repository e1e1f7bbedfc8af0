//! Sets of states: made, leased, run on in the order that runs came, and ended.
//!
//! A run finds its set when its frame arrives, so a set that is freed afterwards still serves it. It takes a *turn* at the
//! same moment and gives it back once it has begun on the device: runs on one set begin in the order they came, however
//! their tasks are woken, and several may be in flight. Making the set is its first turn.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;

use futures::poll;
use tabpool_engine::{Backend, EngineError, Executable, RunOutput, StateSet, StateSpec as EngineSpec};
use tabpool_protocol::{ApiKind, FaultKind, HeldStates, Message, StateLimits, StateSpec, StatesLoss};
use tabpool_tensor::{DType, Tensor};
use web_time::Duration;

use super::Worker;
use super::serve::fault;
use crate::gate::{Gate, Pass};

/// A failure as the host is told it.
type Failure = (FaultKind, String);

/// One set.
pub(super) struct Set {
    number: u64,
    api: ApiKind,
    lease: Duration,
    /// Bytes of its elements while it is being made, then what it takes on its device.
    bytes: Cell<u64>,
    content: RefCell<Content>,
    turns: Rc<Gate>,
    /// Runs that name it and are not over.
    runs: Cell<usize>,
    /// When it was made, or a run last named it or ended.
    used: Cell<Duration>,
}

enum Content {
    Making,
    Made(Rc<dyn StateSet>),
    /// It is gone, and why.
    Gone(String),
}

/// The sets of a worker by number.
#[derive(Default)]
pub(super) struct Sets(RefCell<BTreeMap<u64, Rc<Set>>>);

impl Sets {
    /// All of them, for the host.
    pub(super) fn listed(&self) -> Vec<HeldStates> {
        let listed = |set: &Rc<Set>| {
            let bytes = set.is_made().then(|| set.bytes.get());
            HeldStates { states: set.number, api: set.api, bytes }
        };
        self.0.borrow().values().map(listed).collect()
    }

    /// How many are made and the bytes they take.
    pub(super) fn held(&self) -> (u32, u64) {
        let sets = self.0.borrow();
        let made = || sets.values().filter(|set| set.is_made());
        (u32::try_from(made().count()).unwrap_or(u32::MAX), made().map(|set| set.bytes.get()).sum())
    }

    /// Forgets those of an API, whose device was lost: runs that wait for them fail.
    pub(super) fn lose(&self, api: ApiKind, reason: &str) {
        self.0.borrow_mut().retain(|_, set| {
            if set.api == api {
                set.end(format!("went with its device: {reason}"));
            }
            set.api != api
        });
    }

    /// Forgets all: their host does not know them.
    pub(super) fn clear(&self) {
        self.0.borrow_mut().clear();
    }

    /// Forgets one that the host has no use for. Runs that came before have it still.
    pub(super) fn free(&self, number: u64) {
        self.0.borrow_mut().remove(&number);
    }

    fn holds(&self, set: &Rc<Set>) -> bool {
        self.0.borrow().get(&set.number).is_some_and(|held| Rc::ptr_eq(held, set))
    }

    /// Forgets a set unless that has happened already.
    fn remove(&self, set: &Rc<Set>) -> bool {
        let holds = self.holds(set);
        if holds {
            self.0.borrow_mut().remove(&set.number);
        }
        holds
    }

    /// Makes room in the books for a set of so many bytes.
    fn admit(&self, set: Set, limits: &StateLimits) -> Result<Rc<Set>, Failure> {
        let mut sets = self.0.borrow_mut();
        if let Some(there) = sets.get(&set.number) {
            let reason = format!("set {} of states is there already, for {}", set.number, there.api);
            return Err((FaultKind::Worker, reason));
        }
        if sets.len() >= limits.sets {
            let reason = format!("this worker holds {} sets of states, at most {} allowed", sets.len(), limits.sets);
            return Err((FaultKind::Memory, reason));
        }
        let (taken, more) = (sets.values().map(|set| set.bytes.get()).sum::<u64>(), set.bytes.get());
        if taken.saturating_add(more) > limits.all_bytes {
            let limit = limits.all_bytes;
            let reason = format!("this worker's sets of states take {taken} bytes, {more} more are beyond {limit}");
            return Err((FaultKind::Memory, reason));
        }
        let set = Rc::new(set);
        sets.insert(set.number, Rc::clone(&set));
        Ok(set)
    }
}

impl Set {
    fn is_made(&self) -> bool {
        matches!(*self.content.borrow(), Content::Made(_))
    }

    fn end(&self, why: String) {
        *self.content.borrow_mut() = Content::Gone(why);
    }

    fn content(&self) -> Result<Rc<dyn StateSet>, Failure> {
        let gone = |why: &str| (FaultKind::States, format!("set {} of states {why}", self.number));
        match &*self.content.borrow() {
            Content::Made(states) => Ok(Rc::clone(states)),
            Content::Making => Err(gone("is not made")),
            Content::Gone(why) => Err(gone(why)),
        }
    }
}

/// A run's hold on its set: its turn, and the set's lease as long as it lasts.
pub(super) struct Claim {
    set: Rc<Set>,
    worker: Rc<Worker>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.set.runs.set(self.set.runs.get() - 1);
        self.set.used.set(self.worker.now());
    }
}

impl Claim {
    /// # Errors
    /// The set was not made, or is gone.
    pub(super) fn set_is_there(&self) -> Result<(), Failure> {
        self.set.content().map(|_| ())
    }

    /// Runs on the set, and lets the next run on it begin once this one has.
    pub(super) async fn run(
        &self,
        turn: Pass,
        (backend, executable): (&Rc<dyn Backend>, &dyn Executable),
        inputs: &[Tensor],
    ) -> Result<RunOutput, Failure> {
        let states = self.set.content()?;
        let mut running = pin!(executable.run_on(&states, inputs));
        let begun = poll!(running.as_mut());
        drop(turn);
        let result = match begun {
            std::task::Poll::Ready(result) => result,
            std::task::Poll::Pending => running.await,
        };
        result.map_err(|e| {
            self.worker.check_device(self.set.api, backend, &e);
            self.worker.check_set(&self.set, &e);
            (fault(&e), e.to_string())
        })
    }
}

impl Worker {
    /// Takes hold of a run's set and queues for it, now, in the order that runs come.
    ///
    /// # Errors
    /// The set is not there, or of another API than the run.
    pub(super) fn claim(
        self: &Rc<Self>,
        number: u64,
        api: ApiKind,
    ) -> Result<(Claim, impl Future<Output = Pass> + use<>), Failure> {
        let set = self.sets.0.borrow().get(&number).cloned();
        let set = set.ok_or_else(|| (FaultKind::States, format!("set {number} of states is not here")))?;
        if set.api != api {
            let reason = format!("set {number} of states is for {}, the run for {api}", set.api);
            return Err((FaultKind::Input, reason));
        }
        set.runs.set(set.runs.get() + 1);
        let turn = set.turns.queue();
        Ok((Claim { set, worker: Rc::clone(self) }, turn))
    }

    /// Makes a set, and tells the host how that went.
    pub(super) fn make_states(self: &Rc<Self>, number: u64, api: ApiKind, lease_ms: u32, specs: &[StateSpec]) {
        let failed = |(fault, reason): Failure| Message::StatesFailed { states: number, api, fault, reason };
        let asked = self.admit(number, api, Duration::from_millis(u64::from(lease_ms)), specs);
        let (set, specs) = match asked {
            Ok(asked) => asked,
            Err(failure) => return self.deliver(&failed(failure).into()),
        };
        let (this, turn) = (Rc::clone(self), set.turns.queue());
        self.env.spawn(Box::pin(async move {
            let turn = turn.await;
            let made = this.make(api, &specs).await;
            // It may have been freed, or lost with its device, or a new session may have begun.
            if !this.sets.holds(&set) {
                set.end("was freed before it was made".to_owned());
                return;
            }
            let answer = match made {
                Ok(states) => {
                    let bytes = states.bytes();
                    set.bytes.set(bytes);
                    set.used.set(this.now());
                    *set.content.borrow_mut() = Content::Made(states);
                    Message::StatesMade { states: number, api, bytes }
                }
                Err((fault, reason)) => {
                    set.end(format!("could not be made: {reason}"));
                    this.sets.remove(&set);
                    Message::StatesFailed { states: number, api, fault, reason }
                }
            };
            this.deliver(&answer.into());
            drop(turn);
        }));
    }

    fn admit(
        &self,
        number: u64,
        api: ApiKind,
        lease: Duration,
        specs: &[StateSpec],
    ) -> Result<(Rc<Set>, Vec<EngineSpec>), Failure> {
        let limits = &self.options.states;
        let bytes = limits.check(specs, lease).map_err(|e| (FaultKind::Input, e.to_string()))?;
        let specs = specs.iter().map(engine_spec).collect::<Result<_, _>>()?;
        let set = Set {
            number,
            api,
            lease,
            bytes: Cell::new(bytes),
            content: RefCell::new(Content::Making),
            turns: Gate::new(1),
            runs: Cell::new(0),
            used: Cell::new(self.now()),
        };
        Ok((self.sets.admit(set, limits)?, specs))
    }

    async fn make(&self, api: ApiKind, specs: &[EngineSpec]) -> Result<Rc<dyn StateSet>, Failure> {
        let backend = self.backend(api).await.map_err(|e| {
            let there = self.env.capabilities().working().any(|(working, _)| working == api);
            (if there { fault(&e) } else { FaultKind::Unsupported }, e.to_string())
        })?;
        backend.new_states(specs).await.map_err(|e| {
            self.check_device(api, &backend, &e);
            // A set that is sound is refused by a backend that keeps none.
            let fault = if matches!(e, EngineError::State { .. }) { FaultKind::Unsupported } else { fault(&e) };
            (fault, e.to_string())
        })
    }

    /// After an error of the device in a run on a set, its content is undefined: ends the set and tells the host.
    fn check_set(&self, set: &Rc<Set>, error: &EngineError) {
        let unharmed = matches!(
            error,
            EngineError::Input { .. }
                | EngineError::State { .. }
                | EngineError::Unsupported { .. }
                | EngineError::Weight { .. }
        );
        if unharmed {
            return;
        }
        if !matches!(*set.content.borrow(), Content::Gone(_)) {
            set.end(format!("was lost in an earlier run: {error}"));
        }
        // A lost device has been told as such.
        if self.sets.remove(set) {
            self.tell_lost(set, StatesLoss::Failed, error.to_string());
        }
    }

    /// Ends the sets whose lease is over.
    pub(super) fn end_leases(&self) {
        let now = self.now();
        let over =
            |set: &Rc<Set>| set.is_made() && set.runs.get() == 0 && now.saturating_sub(set.used.get()) >= set.lease;
        let ended: Vec<_> = self.sets.0.borrow().values().filter(|set| over(set)).cloned().collect();
        for set in ended {
            self.sets.remove(&set);
            self.tell_lost(&set, StatesLoss::Lease, format!("no run named it for {:?}", set.lease));
        }
    }

    fn tell_lost(&self, set: &Set, cause: StatesLoss, reason: String) {
        self.deliver(&Message::StatesLost { states: set.number, api: set.api, cause, reason }.into());
    }
}

/// A state as the engine knows it.
fn engine_spec(spec: &StateSpec) -> Result<EngineSpec, Failure> {
    let StateSpec { name, dtype, dims } = spec;
    if !matches!(dtype, DType::F32 | DType::I32) {
        let reason = format!("state {name:?} of {dtype}{dims:?}: programs keep f32 and i32");
        return Err((FaultKind::Unsupported, reason));
    }
    let too_large = || (FaultKind::Memory, format!("state {name:?} of {dtype}{dims:?}: no memory here is as large"));
    Ok(EngineSpec { name: name.clone(), dtype: *dtype, shape: spec.shape().ok_or_else(too_large)? })
}
