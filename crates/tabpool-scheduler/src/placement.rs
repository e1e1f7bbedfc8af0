//! Where a request may run, and the arithmetic that says where it would be finished first.
//!
//! The arithmetic is kept free of ids and state so that it can be checked by hand: an [`Offer`] says when a worker
//! could start and how long it would take, [`finished_by`] says how many requests the others would have finished
//! by some moment, and from that follows whether a slower worker helps anybody who waits.

use std::fmt;

use crate::id::{Api, WorkerId, WorkerKind};

/// Where a request may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement {
    /// The kinds of worker allowed.
    pub kinds: KindSet,
    /// The APIs allowed, best first. Within one worker the first that it has and that works is taken, and where none is
    /// named the one that was measured to be fastest; between workers the expected finish decides.
    pub apis: ApiOrder,
    /// Only this worker.
    pub worker: Option<WorkerId>,
}

impl Placement {
    /// Anywhere, with whatever each worker likes best.
    pub const ANY: Self = Self { kinds: KindSet::ANY, apis: ApiOrder::ANY, worker: None };

    /// Only on these kinds of worker.
    #[must_use]
    pub fn on(mut self, kinds: &[WorkerKind]) -> Self {
        self.kinds = KindSet::of(kinds);
        self
    }

    /// Only with these APIs, best first.
    #[must_use]
    pub fn with(mut self, apis: &[Api]) -> Self {
        self.apis = ApiOrder::of(apis);
        self
    }

    /// Only on this worker.
    #[must_use]
    pub fn pinned(mut self, worker: WorkerId) -> Self {
        self.worker = Some(worker);
        self
    }
}

impl Default for Placement {
    fn default() -> Self {
        Self::ANY
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.worker {
            Some(worker) => write!(f, "{worker}")?,
            None => write!(f, "a worker")?,
        }
        if self.kinds == KindSet::ANY {
            write!(f, " of any kind")?;
        } else {
            write!(f, " of kind {}", self.kinds)?;
        }
        if self.apis == ApiOrder::ANY { write!(f, " with any API") } else { write!(f, " with {}", self.apis) }
    }
}

/// A set of worker kinds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindSet(u8);

impl KindSet {
    /// Every kind.
    pub const ANY: Self = Self(u8::MAX);

    /// Exactly these kinds; none for an empty slice.
    #[must_use]
    pub fn of(kinds: &[WorkerKind]) -> Self {
        Self(kinds.iter().fold(0, |bits, kind| bits | 1 << (*kind as u8)))
    }

    /// Whether the kind is in the set.
    #[must_use]
    pub const fn contains(self, kind: WorkerKind) -> bool {
        self.0 & (1 << (kind as u8)) != 0
    }
}

impl fmt::Display for KindSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for kind in WorkerKind::ALL.into_iter().filter(|kind| self.contains(*kind)) {
            write!(f, "{separator}{kind}")?;
            separator = " or ";
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for KindSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// APIs in order of preference, each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiOrder([Option<Api>; 3]);

impl ApiOrder {
    /// Whatever each worker likes best.
    pub const ANY: Self = Self([None; 3]);

    /// These, best first; repetitions are dropped. An empty slice is [`ApiOrder::ANY`].
    #[must_use]
    pub fn of(apis: &[Api]) -> Self {
        let mut order = Self::ANY;
        let mut used = 0;
        for api in apis {
            if !order.contains(*api) {
                order.0[used] = Some(*api);
                used += 1;
            }
        }
        order
    }

    /// Whether the API is named.
    #[must_use]
    pub fn contains(self, api: Api) -> bool {
        self.0.contains(&Some(api))
    }

    /// The APIs named, best first.
    pub fn iter(self) -> impl Iterator<Item = Api> {
        self.0.into_iter().flatten()
    }

    /// What a request with this wish may use on a worker that has `offered`, best first.
    pub(crate) fn on_offer(self, offered: Self) -> impl Iterator<Item = Api> {
        let order = if self == Self::ANY { offered } else { self };
        order.iter().filter(move |api| offered.contains(*api))
    }
}

impl fmt::Display for ApiOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for api in self.iter() {
            write!(f, "{separator}{api}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("any") } else { Ok(()) }
    }
}

/// What one worker offers to one program, in seconds from now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// When it could start: its queue, and the rest of its load.
    pub(crate) start: f64,
    /// How long it computes.
    pub(crate) compute: f64,
    /// How many it computes at once, at least 1.
    pub(crate) at_once: f64,
}

impl Offer {
    /// When it would be finished.
    pub(crate) fn finish(self) -> f64 {
        self.start + self.compute
    }

    /// How many requests it would have finished strictly before `moment`: the first after its own time, and from then on
    /// as many in that time as it computes at once. Its runs are taken to be staggered; where they begin together it
    /// is underrated by less than one round.
    ///
    /// Strictly, so that of two workers that would be finished together the one that is free now is taken.
    fn finished_before(self, moment: f64) -> f64 {
        let rounds = (moment - self.start) / self.compute.max(1e-9);
        let after_first = rounds - 1e-6 - 1.0;
        if after_first < 0.0 { 0.0 } else { 1.0 + (after_first * self.at_once).floor() }
    }
}

/// How many requests the offers, together, would have finished before `moment`.
pub(crate) fn finished_by(offers: impl Iterator<Item = Offer>, moment: f64) -> usize {
    let total: f64 = offers.map(|offer| offer.finished_before(moment)).sum();
    total as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(start: f64, compute: f64) -> Offer {
        Offer { start, compute, at_once: 1.0 }
    }

    #[test]
    fn requests_go_on_in_the_worker_order_when_the_caller_has_no_wish() {
        let offered = ApiOrder::of(&[Api::Cpu, Api::WebGpu]);
        let picked: Vec<_> = ApiOrder::ANY.on_offer(offered).collect();
        assert_eq!(picked, [Api::Cpu, Api::WebGpu]);
    }

    #[test]
    fn the_caller_order_wins_and_leaves_out_what_the_worker_lacks() {
        let offered = ApiOrder::of(&[Api::Cpu, Api::WebGpu]);
        let picked: Vec<_> = ApiOrder::of(&[Api::WebNn, Api::WebGpu, Api::Cpu]).on_offer(offered).collect();
        assert_eq!(picked, [Api::WebGpu, Api::Cpu]);
    }

    #[test]
    fn repeated_apis_are_named_once() {
        assert_eq!(ApiOrder::of(&[Api::Cpu, Api::Cpu]), ApiOrder::of(&[Api::Cpu]));
    }

    #[test]
    fn an_empty_set_of_kinds_holds_none() {
        assert!(WorkerKind::ALL.into_iter().all(|kind| !KindSet::of(&[]).contains(kind)));
        assert_eq!(KindSet::of(&[]).to_string(), "none");
    }

    #[test]
    fn a_fast_worker_finishes_what_fits_before_the_moment() {
        // Starts at 20 ms, 10 ms each: done at 30, 40, … 990; the one done at 1000 does not count.
        assert_eq!(finished_by([offer(0.020, 0.010)].into_iter(), 1.0), 97);
        assert_eq!(finished_by([offer(0.020, 0.010)].into_iter(), 0.030), 0);
        assert_eq!(finished_by([offer(5.0, 0.010)].into_iter(), 1.0), 0);
    }

    #[test]
    fn the_wish_reads_as_a_sentence() {
        let wish = Placement::ANY.on(&[WorkerKind::Firefox]).with(&[Api::WebGpu, Api::Cpu]);
        assert_eq!(wish.to_string(), "a worker of kind firefox with webgpu, cpu");
        assert_eq!(Placement::ANY.pinned(WorkerId(3)).to_string(), "worker 3 of any kind with any API");
    }
}
