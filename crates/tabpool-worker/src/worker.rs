//! The worker: programs, requests and the link, in one place and on one thread.

mod outbox;
mod run;
mod serve;
mod states;
mod tune;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use tabpool_engine::{Backend, Executable, Tuning};
use tabpool_protocol::{
    ApiKind, Frame, Hello, Limits, Message, OLDEST_VERSION, SessionError, StateLimits, VERSION, WorkerEvent,
    WorkerSession, WorkerStatus,
};
use tabpool_tensor::Precision;
use web_time::{Duration, Instant};

use crate::Environment;
use crate::gate::Gate;
use outbox::Outbox;
use run::Ends;
use states::Sets;
use tune::Untuned;

/// How a worker behaves.
#[derive(Clone, Copy, Debug)]
pub struct WorkerOptions {
    /// How large frames may be.
    pub limits: Limits,
    /// How long the host has to answer the first frame.
    pub handshake: Duration,
    /// Runs of one device in flight at once: with two, inputs of the next are written while the last is read back. A
    /// device that computes several at a time gets as many more.
    pub runs_in_flight: usize,
    /// How much sets of states may take.
    pub states: StateLimits,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            handshake: Duration::from_secs(10),
            runs_in_flight: 2,
            states: StateLimits::default(),
        }
    }
}

/// A program of this worker.
enum Held {
    /// Being loaded; the number tells this load from an earlier one of the same program.
    Loading(u64),
    /// What runs, and the least exact arithmetic of its linear layers.
    Ready(Rc<dyn Executable>, Precision),
}

/// A device and what keeps its runs in order.
struct Device {
    backend: Rc<dyn Backend>,
    gate: Rc<Gate>,
    /// Whether nothing was loaded on it yet.
    fresh: Cell<bool>,
    /// When its last runs ended, so that runs that overlap do not count the same time twice.
    ends: Rc<Ends>,
}

/// A request that was not answered yet.
struct Pending {
    attempt: u32,
    cancelled: bool,
}

/// A worker on one link at a time. See the crate's documentation.
pub struct Worker {
    env: Rc<dyn Environment>,
    options: WorkerOptions,
    epoch: Instant,
    link: RefCell<Option<WorkerSession>>,
    session: RefCell<Option<String>>,
    devices: RefCell<BTreeMap<ApiKind, Device>>,
    /// Lets one task at a time open a device.
    opening: Rc<Gate>,
    /// How to tune, and what is known, by API; outlives its device.
    tunings: RefCell<BTreeMap<ApiKind, Tuning>>,
    /// Programs that were loaded with what was known, to be loaded anew with a budget to find out more.
    untuned: RefCell<VecDeque<Untuned>>,
    /// Whether one of them is being loaded anew.
    improving: Cell<bool>,
    /// Whether somebody came meanwhile.
    interrupted: Cell<bool>,
    /// When the last request came or was answered.
    busy_at: Cell<Duration>,
    /// When a program that was improved may be again, whatever else goes on.
    improve_after: Cell<Duration>,
    /// APIs of which the host wants to know what wins as soon as something is loaded.
    tuned_at_load: RefCell<BTreeSet<ApiKind>>,
    programs: RefCell<HashMap<(u64, ApiKind), Held>>,
    requests: RefCell<HashMap<u64, Pending>>,
    sets: Sets,
    outbox: RefCell<Outbox>,
    loads: Cell<u64>,
    completed: Cell<u64>,
}

impl Worker {
    /// A worker that is not linked yet.
    #[must_use]
    pub fn new(env: Rc<dyn Environment>, options: WorkerOptions) -> Rc<Self> {
        let epoch = env.now();
        Rc::new(Self {
            env,
            options,
            epoch,
            link: RefCell::default(),
            session: RefCell::default(),
            devices: RefCell::default(),
            opening: Gate::new(1),
            tunings: RefCell::default(),
            untuned: RefCell::default(),
            improving: Cell::new(false),
            interrupted: Cell::new(false),
            busy_at: Cell::default(),
            improve_after: Cell::default(),
            tuned_at_load: RefCell::default(),
            programs: RefCell::default(),
            requests: RefCell::default(),
            sets: Sets::default(),
            outbox: RefCell::default(),
            loads: Cell::new(0),
            completed: Cell::new(0),
        })
    }

    /// Opens the device of an API before anybody asks for it. Where that fails, the first load says why.
    pub fn prepare(self: &Rc<Self>, api: ApiKind) {
        let this = Rc::clone(self);
        self.env.spawn(Box::pin(async move {
            let _ = this.backend(api).await;
        }));
    }

    /// The link is open: introduces this worker with its token, and with the session of an earlier link, if any.
    pub fn opened(&self, token: &str) {
        // Nobody may have called `tick` since the last link.
        self.end_leases();
        *self.link.borrow_mut() = Some(WorkerSession::new(self.options.limits, self.options.handshake, self.now()));
        let resume = self.session.borrow().clone();
        let (mut held, mut loaded, mut states) = (Vec::new(), Vec::new(), Vec::new());
        if resume.is_some() {
            held.extend(self.requests.borrow().keys().copied());
            held.extend(self.outbox.borrow().requests());
            let programs = self.programs.borrow();
            loaded.extend(programs.iter().filter(|(_, h)| matches!(h, Held::Ready(..))).map(|(key, _)| *key));
            states = self.sets.listed();
        }
        let hello = Hello {
            oldest: OLDEST_VERSION,
            newest: VERSION,
            token: token.to_owned(),
            resume,
            held,
            loaded,
            capabilities: self.env.capabilities(),
            states,
        };
        self.env.send(Frame::from(Message::Hello(Box::new(hello))).encode());
    }

    /// A message of the host.
    ///
    /// # Errors
    /// The link is of no use any more: close it; open another unless the host refused or dismissed this worker.
    pub fn received(self: &Rc<Self>, message: &Bytes) -> Result<(), SessionError> {
        let mut out = Vec::new();
        let event = match &mut *self.link.borrow_mut() {
            Some(link) => link.receive(self.now(), message, &mut out),
            None => Ok(None),
        };
        for frame in out {
            self.env.send(frame.encode());
        }
        match event? {
            Some(WorkerEvent::Joined { session, resumed, .. }) => self.joined(session, resumed),
            Some(WorkerEvent::Frame(frame)) => self.serve(frame),
            _ => {}
        }
        Ok(())
    }

    /// Lets time pass; call about once a second.
    ///
    /// # Errors
    /// As [`received`](Self::received).
    pub fn tick(self: &Rc<Self>) -> Result<(), SessionError> {
        self.improve_when_idle();
        self.end_leases();
        let mut out = Vec::new();
        let result = match &mut *self.link.borrow_mut() {
            Some(link) => link.tick(self.now(), &mut out),
            None => Ok(()),
        };
        for frame in out {
            self.env.send(frame.encode());
            self.tell_status();
        }
        result
    }

    /// Tells the host how this worker is, without waiting for a heartbeat. Only for one that has joined.
    pub fn tell_status(&self) {
        let status = WorkerStatus { states: self.sets.held(), ..self.env.status() };
        self.env.send(Frame::from(Message::Status(status)).encode());
    }

    /// The link is closed. What runs goes on; its answers wait for the next link.
    pub fn closed(&self) {
        *self.link.borrow_mut() = None;
    }

    /// Says goodbye, so that the host does not wait for this worker to come back.
    pub fn leave(&self, reason: &str) {
        self.env.send(Frame::from(Message::Bye { reason: reason.to_owned() }).encode());
        self.closed();
    }

    /// How many runs this worker has completed, for showing.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.completed.get()
    }

    fn joined(&self, session: String, resumed: bool) {
        *self.session.borrow_mut() = Some(session);
        if resumed {
            for message in self.outbox.borrow_mut().take() {
                self.env.send(message);
            }
        } else {
            // The host knows nothing of what an earlier session held.
            self.programs.borrow_mut().clear();
            self.requests.borrow_mut().clear();
            self.sets.clear();
            self.outbox.borrow_mut().clear();
        }
    }

    fn now(&self) -> Duration {
        self.env.now().duration_since(self.epoch)
    }

    /// Sends a frame that must not be lost: where the link is down it waits for the next one.
    fn deliver(&self, frame: &Frame) {
        let message = frame.encode();
        let open = self.link.borrow().is_some();
        if !(open && self.env.send(message.clone())) {
            self.outbox.borrow_mut().keep(frame.id, message);
        }
    }
}

#[cfg(test)]
mod tests;
