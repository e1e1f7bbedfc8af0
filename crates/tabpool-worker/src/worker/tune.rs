//! Tuning: what the host knows of a device goes to its backend, what loads found goes to the host.

use tabpool_engine::{Backend, Timing, Tuning, Winner};
use tabpool_protocol::{ApiKind, Message, TunedClass};
use web_time::Duration;

use super::Worker;

impl Worker {
    /// The host says how to tune for an API. A device that is open already is told at once.
    pub(super) fn tune(&self, api: ApiKind, budget_ms: u32, known: Vec<TunedClass>) {
        let known = known.into_iter().take(TunedClass::MOST).map(winner).collect();
        let tuning = Tuning { budget: Duration::from_millis(u64::from(budget_ms)), known };
        if let Some(device) = self.devices.borrow().get(&api) {
            device.backend.tune(tuning.clone());
        }
        self.tunings.borrow_mut().insert(api, tuning);
    }

    /// Tells the host what loads on this backend found, and remembers it for the backend that follows a lost device.
    pub(super) fn tell_winners(&self, api: ApiKind, backend: &dyn Backend) {
        let mut winners = backend.take_winners();
        winners.truncate(TunedClass::MOST);
        if winners.is_empty() {
            return;
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
