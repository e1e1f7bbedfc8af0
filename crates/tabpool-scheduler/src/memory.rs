//! What a worker's memory holds, by the scheduler's own books: weights, each counted once whoever uses it, what programs need
//! beside them, and states.
//!
//! What a program takes is known in three degrees: nothing, what its caller says of it ([`Needs`]), and what a worker measured
//! when it had loaded it ([`Footprint`]), which also serves the next worker's estimate. Weights are told apart by number and
//! API: a worker that runs one model on two APIs has its weights twice. What workers measure is kept apart by their kind, and
//! believed within bounds.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{Api, ProgramId, WeightId, WorkerKind};

/// No device has weights in so many times more or fewer bytes than they are stored in.
const MOST_SCALE: f64 = 32.0;
/// No program takes more beside its weights: 16 TiB, so that sums of it stay sums.
const MOST_SCRATCH: u64 = 1 << 44;

/// What a program takes on a device, as far as is known before it was loaded anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its weights and their bytes. A number stands for the same elements in every program that names it.
    pub weights: Vec<(WeightId, u64)>,
    /// Bytes beside them.
    pub scratch: u64,
}

impl Needs {
    /// Bytes of its weights.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What a program took on a device, as its worker measured it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of its weights, those it shares with others included.
    pub weights: u64,
    /// Bytes beside them.
    pub scratch: u64,
}

/// What is known of every program's size.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    programs: BTreeMap<ProgramId, Size>,
}

#[derive(Debug, Default)]
struct Size {
    needs: Arc<Needs>,
    measured: BTreeMap<(WorkerKind, Api), Measured>,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Bytes on the device for each byte that was said.
    scale: f64,
    scratch: u64,
}

/// What a program is expected to take with an API.
#[derive(Clone, Debug)]
pub(crate) struct Estimate {
    needs: Arc<Needs>,
    scale: f64,
    scratch: u64,
}

impl Estimate {
    /// On a device that holds nothing.
    pub(crate) fn alone(&self) -> u64 {
        self.needs.weights.iter().map(|(_, bytes)| scaled(*bytes, self.scale)).sum::<u64>() + self.scratch
    }
}

impl Sizes {
    pub(crate) fn say(&mut self, program: ProgramId, mut needs: Needs) {
        needs.scratch = needs.scratch.min(MOST_SCRATCH);
        self.programs.entry(program).or_default().needs = Arc::new(needs);
    }

    pub(crate) fn estimate(&self, program: ProgramId, kind: WorkerKind, api: Api) -> Estimate {
        let Some(size) = self.programs.get(&program) else {
            return Estimate { needs: Arc::default(), scale: 1.0, scratch: 0 };
        };
        let said = Measured { scale: 1.0, scratch: size.needs.scratch };
        let Measured { scale, scratch } = size.measured.get(&(kind, api)).copied().unwrap_or(said);
        Estimate { needs: Arc::clone(&size.needs), scale, scratch }
    }

    /// Learns from what a worker measured. Weights that nobody spoke of count as scratch: they are shared with nobody known.
    pub(crate) fn learn(&mut self, program: ProgramId, kind: WorkerKind, api: Api, footprint: Footprint) {
        let size = self.programs.entry(program).or_default();
        let said = size.needs.weight_bytes();
        let measured = if said == 0 {
            let scratch = footprint.weights.saturating_add(footprint.scratch).min(MOST_SCRATCH);
            Measured { scale: 1.0, scratch }
        } else {
            let scale = (footprint.weights as f64 / said as f64).clamp(1.0 / MOST_SCALE, MOST_SCALE);
            Measured { scale, scratch: footprint.scratch.min(MOST_SCRATCH) }
        };
        size.measured.insert((kind, api), measured);
    }
}

/// What a worker holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    weights: BTreeMap<(Api, WeightId), Held>,
    programs: BTreeMap<(ProgramId, Api), Estimate>,
    states: u64,
    used: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    bytes: u64,
    users: u32,
}

impl Ledger {
    /// Bytes in all.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Bytes that sessions keep, which nothing here unloads.
    pub(crate) fn set_states(&mut self, bytes: u64) {
        let bytes = bytes.min(MOST_SCRATCH);
        self.used = self.used - self.states + bytes;
        self.states = bytes;
    }

    /// Bytes more that a program would take, weights that are there already not counted.
    pub(crate) fn cost(&self, api: Api, estimate: &Estimate) -> u64 {
        let absent = estimate.needs.weights.iter().filter(|(id, _)| !self.weights.contains_key(&(api, *id)));
        absent.map(|(_, bytes)| scaled(*bytes, estimate.scale)).sum::<u64>() + estimate.scratch
    }

    /// Takes a program in; once only.
    pub(crate) fn add(&mut self, program: ProgramId, api: Api, estimate: Estimate) {
        for (id, bytes) in &estimate.needs.weights {
            let bytes = scaled(*bytes, estimate.scale);
            let held = self.weights.entry((api, *id)).or_insert(Held { bytes, users: 0 });
            if held.users == 0 {
                self.used += held.bytes;
            }
            held.users += 1;
        }
        self.used += estimate.scratch;
        self.programs.insert((program, api), estimate);
    }

    /// Takes a program out, and says how many bytes that frees.
    pub(crate) fn remove(&mut self, program: ProgramId, api: Api) -> u64 {
        let Some(estimate) = self.programs.remove(&(program, api)) else { return 0 };
        let before = self.used;
        for (id, _) in &estimate.needs.weights {
            let Some(held) = self.weights.get_mut(&(api, *id)) else { continue };
            held.users -= 1;
            if held.users == 0 {
                self.used -= held.bytes;
                self.weights.remove(&(api, *id));
            }
        }
        self.used -= estimate.scratch;
        before - self.used
    }

    /// Replaces what was expected of a program that is here by what is known now.
    pub(crate) fn correct(&mut self, program: ProgramId, api: Api, estimate: Estimate) {
        if self.programs.contains_key(&(program, api)) {
            self.remove(program, api);
            self.add(program, api, estimate);
        }
    }

    pub(crate) fn holds(&self, program: ProgramId, api: Api) -> bool {
        self.programs.contains_key(&(program, api))
    }

    /// Counts anew, and compares.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let weights: u64 = self.weights.values().map(|held| held.bytes).sum();
        let scratch: u64 = self.programs.values().map(|estimate| estimate.scratch).sum();
        let all = weights + scratch + self.states;
        if all != self.used {
            return Err(format!("{all} bytes are held, counted as {}", self.used));
        }
        let users: u64 = self.weights.values().map(|held| u64::from(held.users)).sum();
        let named: usize = self.programs.values().map(|estimate| estimate.needs.weights.len()).sum();
        if users != named as u64 {
            return Err(format!("weights have {users} users, and programs name {named}"));
        }
        Ok(())
    }
}

fn scaled(bytes: u64, scale: f64) -> u64 {
    (bytes as f64 * scale).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: WorkerKind = WorkerKind::Chromium;
    const ONE: ProgramId = ProgramId(1);
    const TWO: ProgramId = ProgramId(2);

    fn sizes() -> Sizes {
        let mut sizes = Sizes::default();
        let tower = (WeightId(1), 1000);
        sizes.say(ONE, Needs { weights: vec![tower, (WeightId(2), 10)], scratch: 5 });
        sizes.say(TWO, Needs { weights: vec![tower, (WeightId(3), 20)], scratch: 7 });
        sizes
    }

    #[test]
    fn equal_weights_count_once_for_each_api() {
        let (sizes, mut ledger) = (sizes(), Ledger::default());
        ledger.add(ONE, Api::Cpu, sizes.estimate(ONE, KIND, Api::Cpu));
        assert_eq!(ledger.cost(Api::Cpu, &sizes.estimate(TWO, KIND, Api::Cpu)), 27);
        assert_eq!(ledger.cost(Api::WebGpu, &sizes.estimate(TWO, KIND, Api::WebGpu)), 1027);
        ledger.add(TWO, Api::Cpu, sizes.estimate(TWO, KIND, Api::Cpu));
        assert_eq!(ledger.used(), 1042);
        assert_eq!(ledger.remove(ONE, Api::Cpu), 15, "the tower stays");
        assert_eq!(ledger.remove(TWO, Api::Cpu), 1027);
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn what_was_measured_corrects_what_was_said_here_and_for_the_next() {
        let (mut sizes, mut ledger) = (sizes(), Ledger::default());
        ledger.add(ONE, Api::WebGpu, sizes.estimate(ONE, KIND, Api::WebGpu));
        sizes.learn(ONE, KIND, Api::WebGpu, Footprint { weights: 505, scratch: 100 });
        ledger.correct(ONE, Api::WebGpu, sizes.estimate(ONE, KIND, Api::WebGpu));
        assert_eq!(ledger.used(), 605, "half the bytes: the device has them as f16");
        assert_eq!(sizes.estimate(ONE, KIND, Api::WebGpu).alone(), 605);
        assert_eq!(sizes.estimate(ONE, KIND, Api::Cpu).alone(), 1015, "another API has its own");
        assert_eq!(sizes.estimate(ONE, WorkerKind::Remote, Api::WebGpu).alone(), 1015, "and another kind");
        ledger.audit().expect("the books agree");
    }

    #[test]
    fn a_program_that_nobody_described_counts_from_its_first_load() {
        let (mut sizes, mut ledger) = (Sizes::default(), Ledger::default());
        ledger.add(ONE, Api::Cpu, sizes.estimate(ONE, KIND, Api::Cpu));
        assert_eq!(ledger.used(), 0);
        sizes.learn(ONE, KIND, Api::Cpu, Footprint { weights: 300, scratch: 50 });
        ledger.correct(ONE, Api::Cpu, sizes.estimate(ONE, KIND, Api::Cpu));
        ledger.set_states(11);
        assert_eq!(ledger.used(), 361);
        ledger.audit().expect("the books agree");
    }
}
