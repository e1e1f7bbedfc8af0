//! How many workers of each sort there should be: a state machine of its own, beside the scheduler.
//!
//! Now and then the caller says what each group has and does ([`GroupLoad`]), and gets back what to add and what to remove, each
//! with its reason. A group wants as many workers as its requests, those that wait included, need at so many for each, and its
//! spares; it gets one more when it has wanted more for a while, and one less when it has wanted fewer for a longer while, so
//! that neither a burst nor a pause of a moment starts or ends a browser. It is never below its least nor above its most, and
//! where memory is short it grows no further and shrinks by one worker a time.

use std::time::Duration;

use crate::id::{SlotId, WorkerKind};

/// How a group scales.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ScalingConfig {
    /// Workers at least; none lets it sleep.
    pub min: usize,
    /// Workers at most.
    pub max: usize,
    /// Requests under way or waiting that one worker is to have.
    pub target: f64,
    /// How long more must have been wanted before one is added.
    pub up_after: Duration,
    /// How long fewer must have been wanted before one is removed.
    pub down_after: Duration,
    /// Workers kept warm beyond what is wanted.
    pub spares: usize,
}

impl ScalingConfig {
    /// Between so many workers: two requests each, one more after two seconds, one less after a minute, no spares.
    #[must_use]
    pub fn between(min: usize, max: usize) -> Self {
        Self {
            min,
            max: max.max(min).max(1),
            target: 2.0,
            up_after: Duration::from_secs(2),
            down_after: Duration::from_secs(60),
            spares: 0,
        }
    }

    /// Requests under way or waiting that one worker is to have.
    #[must_use]
    pub fn target(mut self, target: f64) -> Self {
        self.target = target;
        self
    }

    /// How long more, and how long fewer, must have been wanted.
    #[must_use]
    pub fn delays(mut self, up_after: Duration, down_after: Duration) -> Self {
        (self.up_after, self.down_after) = (up_after, down_after);
        self
    }

    /// Workers kept warm beyond what is wanted.
    #[must_use]
    pub fn spares(mut self, spares: usize) -> Self {
        self.spares = spares;
        self
    }

    fn wanted(&self, ongoing: usize) -> usize {
        let needed = (ongoing as f64 / self.target.max(0.1)).ceil() as usize;
        needed.saturating_add(self.spares).clamp(self.min, self.max)
    }
}

/// What a group has and does at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupLoad {
    /// Its slots, with what their workers hold; a slot whose worker has not joined holds nothing.
    pub slots: Vec<SlotLoad>,
    /// Requests that wait and may be served by it.
    pub waiting: usize,
}

/// One slot of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLoad {
    /// The slot.
    pub slot: SlotId,
    /// Requests that its worker holds.
    pub in_flight: usize,
    /// Programs that its worker has ready: one without any is missed least.
    pub resident: usize,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// One more worker in a group.
    Add {
        /// The group, by its place in the list.
        group: usize,
        /// Why, for a person.
        reason: String,
    },
    /// A slot less.
    Remove {
        /// Which.
        slot: SlotId,
        /// Why, for a person.
        reason: String,
    },
}

/// The groups, and since when each has wanted what it has not.
#[derive(Clone, Debug, Default)]
pub struct Scaler {
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
struct Group {
    kind: WorkerKind,
    config: ScalingConfig,
    more_since: Option<Duration>,
    fewer_since: Option<Duration>,
}

impl Scaler {
    /// Groups of these kinds, in this order.
    #[must_use]
    pub fn new(groups: impl IntoIterator<Item = (WorkerKind, ScalingConfig)>) -> Self {
        let group = |(kind, config)| Group { kind, config, more_since: None, fewer_since: None };
        Self { groups: groups.into_iter().map(group).collect() }
    }

    /// Decides, given what each group has and does, in order; `short` says that memory is.
    pub fn decide(&mut self, now: Duration, loads: &[GroupLoad], short: bool) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for (index, (group, load)) in self.groups.iter_mut().zip(loads).enumerate() {
            decisions.extend(group.decide(index, now, load, short));
        }
        decisions
    }
}

impl Group {
    fn decide(&mut self, index: usize, now: Duration, load: &GroupLoad, short: bool) -> Option<Decision> {
        let Self { kind, config, .. } = *self;
        let there = load.slots.len();
        let in_flight: usize = load.slots.iter().map(|slot| slot.in_flight).sum();
        let wanted = config.wanted(in_flight + load.waiting);
        let since = |known: &mut Option<Duration>, holds: bool| {
            *known = holds.then(|| known.unwrap_or(now));
            known.map(|since| now.saturating_sub(since))
        };
        let more = since(&mut self.more_since, wanted > there);
        let fewer = since(&mut self.fewer_since, wanted < there);
        let doing = format!("{in_flight} requests under way and {} waiting", load.waiting);
        if there < config.min {
            let reason = format!("{there} of at least {} {kind} workers", config.min);
            return Some(Decision::Add { group: index, reason });
        }
        if short && there > config.min {
            let reason = format!("memory is short, and {there} {kind} workers are more than {}", config.min);
            self.fewer_since = None;
            return load.least_missed().map(|slot| Decision::Remove { slot, reason });
        }
        if !short && more.is_some_and(|waited| waited >= config.up_after) {
            self.more_since = None;
            let reason = format!("{doing} want {wanted} {kind} workers, and there are {there}");
            return Some(Decision::Add { group: index, reason });
        }
        if fewer.is_some_and(|waited| waited >= config.down_after) {
            self.fewer_since = None;
            let reason = format!("{doing} want no more than {wanted} {kind} workers, and there are {there}");
            return load.least_missed().map(|slot| Decision::Remove { slot, reason });
        }
        None
    }
}

impl GroupLoad {
    /// The slot that does least, and has least to do it with; the newest of those.
    fn least_missed(&self) -> Option<SlotId> {
        let missed = |slot: &&SlotLoad| (slot.in_flight, slot.resident, std::cmp::Reverse(slot.slot));
        self.slots.iter().min_by_key(missed).map(|slot| slot.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn scaler(min: usize, max: usize) -> Scaler {
        Scaler::new([(WorkerKind::Chromium, ScalingConfig::between(min, max))])
    }

    /// A group with a slot for each entry, holding so many requests.
    fn load(in_flight: &[usize], waiting: usize) -> [GroupLoad; 1] {
        let slot = |(slot, &in_flight): (usize, &usize)| SlotLoad { slot: SlotId(slot as u64), in_flight, resident: 1 };
        [GroupLoad { slots: in_flight.iter().enumerate().map(slot).collect(), waiting }]
    }

    fn adds(decisions: &[Decision]) -> bool {
        matches!(decisions, [Decision::Add { group: 0, .. }])
    }

    #[test]
    fn a_group_grows_only_when_more_has_been_wanted_for_a_while() {
        let mut scaler = scaler(1, 4);
        assert_eq!(scaler.decide(secs(0), &load(&[4], 4), false), []);
        assert_eq!(scaler.decide(secs(1), &load(&[1], 0), false), [], "a burst of a moment");
        assert_eq!(scaler.decide(secs(2), &load(&[4], 4), false), []);
        let grown = scaler.decide(secs(4), &load(&[4], 4), false);
        let [Decision::Add { reason, .. }] = &grown[..] else { panic!("{grown:?}") };
        assert_eq!(reason, "4 requests under way and 4 waiting want 4 chromium workers, and there are 1");
        assert_eq!(scaler.decide(secs(5), &load(&[4, 0], 4), false), [], "one at a time");
    }

    #[test]
    fn it_shrinks_more_slowly_by_the_one_that_does_least_and_never_below_its_least() {
        let mut scaler = scaler(1, 4);
        assert_eq!(scaler.decide(secs(0), &load(&[1, 0, 0], 0), false), []);
        assert_eq!(scaler.decide(secs(59), &load(&[1, 0, 0], 0), false), []);
        let shrunk = scaler.decide(secs(60), &load(&[1, 0, 0], 0), false);
        assert!(matches!(shrunk[..], [Decision::Remove { slot: SlotId(2), .. }]), "{shrunk:?}");
        assert_eq!(scaler.decide(secs(1000), &load(&[0], 0), false), []);
    }

    #[test]
    fn it_sleeps_and_wakes() {
        let mut scaler = scaler(0, 2);
        assert_eq!(scaler.decide(secs(0), &load(&[0], 0), false), []);
        assert!(matches!(scaler.decide(secs(60), &load(&[0], 0), false)[..], [Decision::Remove { .. }]));
        assert_eq!(scaler.decide(secs(61), &load(&[], 0), false), []);
        scaler.decide(secs(70), &load(&[], 1), false);
        assert!(adds(&scaler.decide(secs(72), &load(&[], 1), false)));
    }

    #[test]
    fn what_is_missing_of_the_least_is_added_at_once() {
        assert!(adds(&scaler(2, 2).decide(secs(0), &load(&[0], 0), false)));
    }

    #[test]
    fn spares_are_kept_warm() {
        let config = ScalingConfig::between(0, 4).spares(1).delays(secs(0), secs(60));
        let mut scaler = Scaler::new([(WorkerKind::Firefox, config)]);
        assert!(adds(&scaler.decide(secs(0), &load(&[], 0), false)));
        assert_eq!(scaler.decide(secs(1), &load(&[0], 0), false), []);
        assert!(adds(&scaler.decide(secs(2), &load(&[1], 0), false)));
    }

    #[test]
    fn where_memory_is_short_it_shrinks_instead_of_growing() {
        let mut scaler = scaler(1, 4);
        scaler.decide(secs(0), &load(&[4, 4], 9), true);
        let decided = scaler.decide(secs(9), &load(&[4, 4], 9), true);
        assert!(matches!(&decided[..], [Decision::Remove { reason, .. }] if reason.contains("memory is short")));
        assert_eq!(scaler.decide(secs(99), &load(&[4], 9), true), []);
    }

    #[test]
    fn it_never_wants_more_than_its_most() {
        let mut scaler = scaler(0, 2);
        scaler.decide(secs(0), &load(&[9, 9], 500), false);
        assert_eq!(scaler.decide(secs(99), &load(&[9, 9], 500), false), []);
    }
}
