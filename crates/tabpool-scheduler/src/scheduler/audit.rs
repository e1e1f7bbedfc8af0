//! A full check of the scheduler's own books, for simulations and for an actor that wants to be sure.

use super::{RequestState, Scheduler};
use crate::id::Api;
use crate::slots::SlotState;
use crate::timer::Timer;
use crate::worker::{CircuitState, LoadState, Standing, Worker};

impl Scheduler {
    /// Compares everything that is kept twice, and looks at everything, so it is slow.
    ///
    /// # Errors
    ///
    /// A sentence about the first thing that does not agree: a defect of this crate, whatever events came.
    pub fn audit(&self) -> Result<(), String> {
        self.queue.audit()?;
        self.audit_requests()?;
        self.audit_workers()?;
        self.audit_slots()?;
        self.audit_timers()
    }

    fn audit_requests(&self) -> Result<(), String> {
        for (lane, rank, request) in self.queue.requests() {
            let known = self.requests.get(&request).ok_or(format!("{request} waits and is unknown"))?;
            if known.state != (RequestState::Queued { lane }) || known.rank != rank {
                return Err(format!("{request} waits in {lane:?} at {rank:?} and is {known:?}"));
            }
        }
        let mut in_flight = 0;
        for (id, request) in &self.requests {
            if request.deadline < self.now {
                return Err(format!("{id} outlived its deadline"));
            }
            let RequestState::InFlight(flights) = request.state else { continue };
            in_flight += 1;
            for (worker, attempt) in flights.iter() {
                let holder = self.workers.get(&worker).ok_or(format!("{id} is on lost {worker}"))?;
                let held = |entry: &&crate::worker::InFlight| {
                    entry.request == *id && entry.attempt == attempt && entry.standing == Standing::Wanted
                };
                if holder.in_flight.iter().filter(held).count() != 1 || attempt > request.attempts {
                    return Err(format!("{worker} does not hold {id}, attempt {attempt}"));
                }
            }
        }
        // As many again may wait of clients who came to a full queue.
        if self.queue.fresh() > self.config.max_queued.saturating_mul(2) {
            return Err(format!("{} of at most twice {} wait", self.queue.fresh(), self.config.max_queued));
        }
        if in_flight != self.in_flight() {
            return Err(format!("{in_flight} in flight, counted as {}", self.in_flight()));
        }
        Ok(())
    }

    fn audit_workers(&self) -> Result<(), String> {
        let mut wanted = 0;
        for (id, worker) in &self.workers {
            if worker.in_flight.len() > worker.credits() as usize {
                return Err(format!("{id} holds {} of {}", worker.in_flight.len(), worker.credits()));
            }
            worker.audit_running().map_err(|e| format!("{id}: {e}"))?;
            self.audit_memory(*id, worker)?;
            let (loading, held) = count(worker);
            if (loading, held) != (worker.loads, worker.in_flight.len() as u32) {
                return Err(format!("{id} counts wrong: {worker:?}"));
            }
            if worker.draining && worker.in_flight.is_empty() {
                return Err(format!("{id} is drained and still here"));
            }
            let running = |slot| self.slots.get(&slot).map(|slot| slot.state);
            if worker.slot.is_some_and(|slot| running(slot) != Some(SlotState::Running { worker: *id })) {
                return Err(format!("{id} is not in its slot {:?}", worker.slot));
            }
            wanted += worker.in_flight.iter().filter(|entry| entry.standing == Standing::Wanted).count();
        }
        let flights = self.requests.values().map(|request| match request.state {
            RequestState::InFlight(flights) => flights.iter().count(),
            RequestState::Queued { .. } => 0,
        });
        let flights: usize = flights.sum();
        if wanted != flights {
            return Err(format!("{wanted} attempts are wanted, {flights} under way"));
        }
        Ok(())
    }

    fn audit_memory(&self, id: crate::id::WorkerId, worker: &Worker) -> Result<(), String> {
        worker.ledger.audit().map_err(|e| format!("{id}: {e}"))?;
        for (program, on_worker) in &worker.programs {
            for api in Api::ALL {
                let there = matches!(on_worker.load(api), LoadState::Loading { .. } | LoadState::Resident { .. });
                if there != worker.ledger.holds(*program, api) {
                    return Err(format!(
                        "{id}: {program} with {api} is {:?} and not so in its books",
                        on_worker.load(api)
                    ));
                }
            }
        }
        let claims = |lane| self.queue.lane(lane).is_some_and(|lane| lane.claim == Some(id) && lane.len() > 0);
        if worker.claim.is_some_and(|lane| !claims(lane)) {
            return Err(format!("{id} is claimed by {:?}, which waits for nothing there", worker.claim));
        }
        Ok(())
    }

    fn audit_slots(&self) -> Result<(), String> {
        for (id, slot) in &self.slots {
            if let SlotState::Running { worker } = slot.state
                && self.workers.get(&worker).is_none_or(|known| known.slot != Some(*id))
            {
                return Err(format!("{id} runs {worker}, which is not there"));
            }
        }
        Ok(())
    }

    fn audit_timers(&self) -> Result<(), String> {
        let mut wanted: Vec<_> = self.requests.iter().map(|(id, it)| (it.deadline, Timer::Request(*id))).collect();
        for (id, worker) in &self.workers {
            let attempt =
                |entry: &crate::worker::InFlight| (entry.due, Timer::Attempt(*id, entry.request, entry.attempt));
            wanted.extend(worker.in_flight.iter().map(attempt));
            let hedge = |entry: &crate::worker::InFlight| {
                Some((entry.hedge_at?, Timer::Hedge(*id, entry.request, entry.attempt)))
            };
            wanted.extend(worker.in_flight.iter().filter_map(hedge));
            for (program, on_worker) in &worker.programs {
                if let CircuitState::Open(until) = on_worker.circuit.state {
                    wanted.push((until, Timer::Circuit(*id, *program)));
                }
                for api in Api::ALL {
                    if let LoadState::Loading { due, .. } = on_worker.load(api) {
                        wanted.push((*due, Timer::Load(*id, *program, api)));
                    }
                }
            }
        }
        let slots = self.slots.iter();
        wanted.extend(slots.filter_map(|(id, slot)| Some((slot.state.due()?, Timer::Slot(*id)))));
        wanted.extend(self.recheck_at.map(|at| (at, Timer::Recheck)));
        if let Some(missing) = wanted.iter().find(|(at, timer)| !self.timers.contains(*at, *timer)) {
            return Err(format!("no timer is set for {missing:?}"));
        }
        if wanted.len() != self.timers.len() {
            return Err(format!("{} timers are set, {} wanted", self.timers.len(), wanted.len()));
        }
        Ok(())
    }
}

/// Loads going on and attempts held, counted from the programs.
fn count(worker: &Worker) -> (u32, u32) {
    let mut loading = 0;
    let mut held = 0;
    for on_worker in worker.programs.values() {
        let is_loading = |api: &Api| matches!(on_worker.load(*api), LoadState::Loading { .. });
        loading += Api::ALL.iter().filter(|api| is_loading(api)).count() as u32;
        held += on_worker.in_flight;
    }
    (loading, held)
}
