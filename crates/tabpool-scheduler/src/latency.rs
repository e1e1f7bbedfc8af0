//! How long things take: exponentially weighted means of what was measured, and priors until then.
//!
//! A computing time is looked for in three places, the most specific first: this program on this kind of worker
//! with this API; the same model's other programs there, scaled by cost; the prior, scaled by cost. One machine
//! that is faster or slower than its kind is accounted for by the worker's own pace (see `worker.rs`), so that a
//! phone and a workstation may share a kind without spoiling each other's estimates.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Priors;
use crate::id::{Api, ModelId, ProgramId, WorkerKind};
use crate::placement::KindSet;

/// The weight of the newest measurement. A fifth follows a change within some ten requests and is not thrown by one
/// slow run.
const NEWEST: f64 = 0.2;

/// Estimates are in seconds; nothing takes less than this, so that rates stay finite.
pub(crate) const LEAST: f64 = 1e-6;

/// What a preference makes of a prior: enough to be tried first, too little to wait for.
const PREFERENCE: f64 = 0.8;

/// Moves a mean towards a measurement.
pub(crate) fn follow(mean: &mut f64, measured: f64) {
    *mean += NEWEST * (measured - *mean);
}

/// What an estimate is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) model: ModelId,
    pub(crate) program: ProgramId,
    pub(crate) kind: WorkerKind,
    pub(crate) api: Api,
    /// In ordinary requests.
    pub(crate) cost: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Compute(ProgramId, WorkerKind, Api),
    /// Seconds per unit of cost.
    ComputeModel(ModelId, WorkerKind, Api),
    Load(ProgramId, WorkerKind, Api),
    LoadKind(WorkerKind, Api),
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    seconds: f64,
    /// The count of measurements at the last one: the least is the stalest.
    touched: u64,
}

/// Everything measured so far.
#[derive(Debug)]
pub(crate) struct Latency {
    estimates: BTreeMap<Key, Estimate>,
    priors: Priors,
    /// Kinds that a model is believed to suit. As many as the caller has models.
    preferred: BTreeMap<ModelId, KindSet>,
    max_estimates: usize,
    measurements: u64,
}

impl Latency {
    pub(crate) fn new(priors: Priors, max_estimates: usize) -> Self {
        Self { estimates: BTreeMap::new(), priors, preferred: BTreeMap::new(), max_estimates, measurements: 0 }
    }

    /// Seconds that a request of this sort is expected to compute on an average worker of the kind.
    pub(crate) fn compute(&self, question: Question) -> f64 {
        self.known(question).unwrap_or_else(|| self.prior(question))
    }

    /// The same as far as it rests on measurements, of this program or of the model's others.
    pub(crate) fn known(&self, question: Question) -> Option<f64> {
        let Question { model, kind, api, cost, .. } = question;
        self.known_itself(question).or_else(|| {
            let model = self.estimates.get(&Key::ComputeModel(model, kind, api))?;
            Some((model.seconds * cost).max(LEAST))
        })
    }

    /// The same as far as it rests on measurements of this very program.
    pub(crate) fn known_itself(&self, question: Question) -> Option<f64> {
        let own = self.estimates.get(&Key::Compute(question.program, question.kind, question.api))?;
        Some(own.seconds.max(LEAST))
    }

    fn prior(&self, Question { model, kind, api, cost, .. }: Question) -> f64 {
        let prior = self.priors.compute.get(&(kind, api)).copied();
        let prior = prior.unwrap_or(self.priors.compute_otherwise[api.index()]).as_secs_f64() * cost;
        let preferred = self.preferred.get(&model).is_some_and(|kinds| kinds.contains(kind));
        let prior = if preferred { prior * PREFERENCE } else { prior };
        prior.max(LEAST)
    }

    /// Takes these kinds to be somewhat faster for a model, until something is measured.
    pub(crate) fn prefer(&mut self, model: ModelId, kinds: KindSet) {
        self.preferred.insert(model, kinds);
    }

    /// Seconds that loading is expected to take.
    pub(crate) fn load(&self, program: ProgramId, kind: WorkerKind, api: Api) -> f64 {
        let own = self.estimates.get(&Key::Load(program, kind, api));
        let known = own.or_else(|| self.estimates.get(&Key::LoadKind(kind, api)));
        known.map_or(self.priors.load.as_secs_f64(), |estimate| estimate.seconds).max(LEAST)
    }

    /// A request computed for this many seconds, on a worker of average pace.
    pub(crate) fn computed(&mut self, question: Question, seconds: f64) {
        let Question { model, program, kind, api, cost } = question;
        self.measured(Key::Compute(program, kind, api), seconds);
        self.measured(Key::ComputeModel(model, kind, api), seconds / cost);
    }

    /// Takes over what an earlier session measured, where this one has measured nothing: seconds of a program, or seconds for
    /// each unit of cost of a model's programs.
    pub(crate) fn remember(
        &mut self,
        (model, program): (ModelId, Option<ProgramId>),
        kind: WorkerKind,
        api: Api,
        seconds: f64,
    ) {
        let key = program.map_or(Key::ComputeModel(model, kind, api), |program| Key::Compute(program, kind, api));
        if !self.estimates.contains_key(&key) {
            self.measured(key, seconds.max(LEAST));
        }
    }

    /// A load took this long.
    pub(crate) fn loaded(&mut self, program: ProgramId, kind: WorkerKind, api: Api, took: Duration) {
        let seconds = took.as_secs_f64();
        self.measured(Key::Load(program, kind, api), seconds);
        self.measured(Key::LoadKind(kind, api), seconds);
    }

    fn measured(&mut self, key: Key, seconds: f64) {
        self.measurements += 1;
        let touched = self.measurements;
        let known = self.estimates.entry(key).or_insert(Estimate { seconds, touched });
        follow(&mut known.seconds, seconds);
        known.touched = touched;
        if self.estimates.len() > self.max_estimates {
            self.forget_stalest();
        }
    }

    /// Forgets the stalest quarter at once, so that the scan is paid for by many measurements.
    fn forget_stalest(&mut self) {
        let mut ages: Vec<u64> = self.estimates.values().map(|estimate| estimate.touched).collect();
        let middle = ages.len() / 4;
        let (_, oldest_kept, _) = ages.select_nth_unstable(middle);
        let oldest_kept = *oldest_kept;
        self.estimates.retain(|_, estimate| estimate.touched > oldest_kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(program: u64, cost: f64) -> Question {
        Question { model: ModelId(1), program: ProgramId(program), kind: WorkerKind::Chromium, api: Api::WebGpu, cost }
    }

    fn latency() -> Latency {
        Latency::new(Priors::default(), 100)
    }

    #[test]
    fn a_prior_holds_until_the_first_measurement_and_not_a_moment_longer() {
        let mut latency = latency();
        assert!((latency.compute(question(1, 2.0)) - 0.060).abs() < 1e-9);
        latency.computed(question(1, 2.0), 0.5);
        assert!((latency.compute(question(1, 2.0)) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_preference_holds_until_the_first_measurement() {
        let mut latency = latency();
        latency.prefer(ModelId(1), KindSet::of(&[WorkerKind::Firefox]));
        let firefox = Question { kind: WorkerKind::Firefox, ..question(1, 1.0) };
        assert!((latency.compute(firefox) - 0.024).abs() < 1e-9);
        assert!((latency.compute(question(1, 1.0)) - 0.030).abs() < 1e-9);
        latency.computed(firefox, 0.5);
        assert!((latency.compute(firefox) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn what_an_earlier_session_measured_holds_until_something_is_measured_now() {
        let (mut latency, model) = (latency(), ModelId(1));
        latency.remember((model, Some(ProgramId(1))), WorkerKind::Chromium, Api::WebGpu, 0.5);
        latency.remember((model, None), WorkerKind::Chromium, Api::WebGpu, 0.2);
        assert!((latency.compute(question(1, 2.0)) - 0.5).abs() < 1e-9);
        assert!((latency.compute(question(2, 8.0)) - 1.6).abs() < 1e-9);
        latency.computed(question(1, 2.0), 0.1);
        latency.remember((model, Some(ProgramId(1))), WorkerKind::Chromium, Api::WebGpu, 9.0);
        assert!(latency.compute(question(1, 2.0)) < 0.5);
    }

    #[test]
    fn a_new_program_of_a_measured_model_is_scaled_by_cost() {
        let mut latency = latency();
        latency.computed(question(1, 2.0), 0.5);
        assert!((latency.compute(question(2, 8.0)) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_mean_follows_a_change() {
        let mut latency = latency();
        latency.computed(question(1, 1.0), 1.0);
        for _ in 0..20 {
            latency.computed(question(1, 1.0), 0.1);
        }
        let now = latency.compute(question(1, 1.0));
        assert!((0.1..0.12).contains(&now), "{now}");
    }

    #[test]
    fn another_kind_and_another_api_are_not_touched() {
        let mut latency = latency();
        latency.computed(question(1, 1.0), 9.0);
        let cpu = Question { api: Api::Cpu, ..question(1, 1.0) };
        let firefox = Question { kind: WorkerKind::Firefox, ..question(1, 1.0) };
        assert!(latency.compute(cpu) < 1.0 && latency.compute(firefox) < 1.0);
    }

    #[test]
    fn estimates_are_bounded_and_the_stalest_go_first() {
        let mut latency = latency();
        for program in 0..10_000 {
            latency.computed(question(program, 1.0), 0.2);
        }
        assert!(latency.estimates.len() <= 100);
        assert!(latency.known_itself(question(9_999, 1.0)).is_some());
        assert!(latency.known_itself(question(0, 1.0)).is_none());
    }
}
