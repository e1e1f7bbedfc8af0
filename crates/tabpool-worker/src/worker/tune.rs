//! Tuning: what the host knows of a device goes to its backend, what loads found goes to the host.

use std::rc::{Rc, Weak};

use tabpool_engine::{Backend, Executable, Timing, Tuning, Winner};
use tabpool_graph::Program;
use tabpool_protocol::{ApiKind, Message, TunedClass};
use web_time::Duration;

use super::{Held, Worker};
use crate::Blocks;

/// The most programs that wait to be loaded anew; more keep what they have.
const MOST_UNTUNED: usize = 64;
/// How long nobody must have asked for anything before a program is improved again; the first time there is no wait.
const CALM: Duration = Duration::from_secs(1);
/// How many times as long as an improvement took the next one waits where there is never such a calm, so that a worker that
/// always has work finds what is fastest too, for a tenth of its time.
const PAUSE: u32 = 9;

/// A program that was loaded with what was known.
pub(super) struct Untuned {
    number: u64,
    api: ApiKind,
    program: Program,
    /// What it was loaded to, unless that was unloaded.
    executable: Weak<dyn Executable>,
    /// It was improved already, and may be further.
    again: bool,
}

impl Worker {
    /// How loads that somebody waits for are tuned: without a budget, unless the host wants it otherwise.
    pub(super) fn at_load(&self, api: ApiKind, tuning: &Tuning) -> Tuning {
        let waits = self.tuned_at_load.borrow().contains(&api);
        Tuning { budget: if waits { tuning.budget } else { Duration::ZERO }, known: tuning.known.clone() }
    }

    /// Notes a program that was just loaded without a budget, where one would have found out more.
    pub(super) fn tune_later(
        &self,
        number: u64,
        api: ApiKind,
        program: Program,
        (backend, executable): (&dyn Backend, &Rc<dyn Executable>),
    ) {
        if self.tuned_at_load.borrow().contains(&api) {
            return;
        }
        let budget = self.tunings.borrow().get(&api).map_or(Duration::ZERO, |tuning| tuning.budget);
        let mut untuned = self.untuned.borrow_mut();
        if backend.tunes() && !budget.is_zero() && untuned.len() < MOST_UNTUNED {
            let executable = Rc::downgrade(executable);
            untuned.push_back(Untuned { number, api, program, executable, again: false });
        }
    }

    /// Where nobody waits for an answer or a load, and nobody has paused this worker, loads one of the programs noted anew, with the budget to try what is unknown,
    /// and again in moments of calm as long as that finds something: the first answer of a device does not wait for that, and
    /// whoever comes meanwhile has it end.
    pub(super) fn improve_when_idle(self: &Rc<Self>) {
        let loading = || self.programs.borrow().values().any(|held| matches!(held, Held::Loading(_)));
        if self.improving.get() || !self.requests.borrow().is_empty() || loading() || self.env.status().paused {
            return;
        }
        let Some(untuned) = self.next_untuned() else { return };
        let began = self.now();
        self.improving.set(true);
        let this = Rc::clone(self);
        self.env.spawn(Box::pin(async move {
            this.improve(untuned).await;
            this.improving.set(false);
            let ended = this.now();
            this.improve_after.set(ended + (ended.saturating_sub(began)) * PAUSE);
            this.improve_when_idle();
        }));
    }

    /// The program to improve now: one that never was, or another where it is calm, or the last improvement is long past.
    fn next_untuned(&self) -> Option<Untuned> {
        let now = self.now();
        let calm = now >= self.busy_at.get() + CALM || now >= self.improve_after.get();
        let mut untuned = self.untuned.borrow_mut();
        let place = untuned.iter().position(|program| calm || !program.again)?;
        untuned.remove(place)
    }

    /// A request has come or was answered: the device is wanted for other things than improvements.
    pub(super) fn note_work(&self, api: ApiKind) {
        self.busy_at.set(self.now());
        if self.improving.get()
            && let Some(device) = self.devices.borrow().get(&api)
        {
            self.interrupted.set(true);
            device.backend.hurry();
        }
    }

    async fn improve(&self, Untuned { number, api, program, executable, .. }: Untuned) {
        // It may have been unloaded, or lost with its device.
        let held = || match self.programs.borrow().get(&(number, api)) {
            Some(Held::Ready(held, _)) => Weak::ptr_eq(&Rc::downgrade(held), &executable),
            _ => false,
        };
        let backend = self.devices.borrow().get(&api).map(|device| Rc::clone(&device.backend));
        let (Some(backend), true) = (backend, held()) else { return };
        let Some(tuning) = self.tunings.borrow().get(&api).cloned() else { return };
        backend.tune(tuning.clone());
        self.interrupted.set(false);
        // Its weights are on the device.
        let loaded = backend.load(&program, &Blocks::new(Rc::clone(&self.env), |_| {})).await;
        backend.tune(self.at_load(api, &tuning));
        let found = self.tell_winners(api, &*backend);
        let executable = match loaded {
            Ok(loaded) if found && held() => {
                let executable = Rc::downgrade(&loaded.executable);
                self.programs
                    .borrow_mut()
                    .insert((number, api), Held::Ready(loaded.executable, loaded.report.precision));
                executable
            }
            // Whoever came may have ended it before anything was found; what was compiled until then is kept.
            Ok(_) if self.interrupted.get() => executable,
            Ok(_) => return,
            // What was loaded before goes on, unless the device is gone.
            Err(e) => return self.check_device(api, &backend, &e),
        };
        // The budget may have ended before all was tried; what comes meanwhile goes first.
        self.untuned.borrow_mut().push_back(Untuned { number, api, program, executable, again: true });
    }

    /// The host says how to tune for an API. A device that is open already is told at once.
    pub(super) fn tune(&self, api: ApiKind, budget_ms: u32, at_load: bool, known: Vec<TunedClass>) {
        let known = known.into_iter().take(TunedClass::MOST).map(winner).collect();
        let tuning = Tuning { budget: Duration::from_millis(u64::from(budget_ms)), known };
        if at_load {
            self.tuned_at_load.borrow_mut().insert(api);
        } else {
            self.tuned_at_load.borrow_mut().remove(&api);
        }
        if let Some(device) = self.devices.borrow().get(&api) {
            device.backend.tune(self.at_load(api, &tuning));
        }
        self.tunings.borrow_mut().insert(api, tuning);
    }

    /// Tells the host what loads on this backend found, and remembers it for the backend that follows a lost device. Says whether
    /// they found anything.
    pub(super) fn tell_winners(&self, api: ApiKind, backend: &dyn Backend) -> bool {
        let mut winners = backend.take_winners();
        winners.truncate(TunedClass::MOST);
        if winners.is_empty() {
            return false;
        }
        {
            let mut tunings = self.tunings.borrow_mut();
            let known = &mut tunings.entry(api).or_default().known;
            known.retain(|old| winners.iter().all(|new| new.class != old.class));
            known.extend(winners.iter().cloned());
            // The oldest go: the worker lives long, and classes of shapes could be without end.
            let over = known.len().saturating_sub(TunedClass::MOST);
            known.drain(..over);
        }
        let found = winners.into_iter().map(tuned_class).collect();
        self.deliver(&Message::Tuned { api, found }.into());
        true
    }
}

fn winner(known: TunedClass) -> Winner {
    let timing = |(variant, ns): (String, Option<u64>)| Timing { variant, time: ns.map(Duration::from_nanos) };
    let timings = known.timings.into_iter().map(timing).collect();
    Winner { class: known.class, variant: known.variant, timings }
}

fn tuned_class(winner: Winner) -> TunedClass {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let timings = winner.timings.into_iter().map(|timing| (timing.variant, timing.time.map(ns))).collect();
    TunedClass { class: winner.class, variant: winner.variant, timings }
}
