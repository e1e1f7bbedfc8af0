//! Groups of slots that grow and shrink with what there is to do.

use std::time::Duration;

use tabpool_metrics::DecisionKind;
use tabpool_scheduler::{Decision, Event, GroupLoad, Placement, Scaler, ScalingConfig, SlotId, SlotLoad, WorkerKind};
use tokio::task::JoinHandle;

use super::decisions::About;
use super::slots::Slot;
use super::{Actor, SlotPlan};
use crate::PoolEvent;

/// How often a pool looks whether it should grow or shrink.
pub(super) const EVERY: Duration = Duration::from_millis(250);

/// A group: what may fill its slots, as many as it may have at most.
pub(crate) struct GroupPlan {
    pub(crate) config: ScalingConfig,
    pub(crate) plans: Vec<SlotPlan>,
}

/// The groups of a pool.
pub(super) struct Scaling {
    scaler: Scaler,
    groups: Vec<Group>,
    /// Bytes of host and browsers together above which nothing grows.
    ceiling: Option<u64>,
    /// Slots at most, those outside of groups included.
    most: usize,
    next_slot: u64,
}

struct Group {
    kind: WorkerKind,
    /// What no slot uses at the moment, each with the end of what used it last.
    free: Vec<(SlotPlan, Option<JoinHandle<()>>)>,
}

/// A slot's place in its group.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    pub(super) group: Option<usize>,
    /// Why it is being given up, if it is.
    pub(super) leaving: Option<String>,
}

impl Scaling {
    /// Numbers of slots begin at `next_slot`.
    pub(super) fn new(groups: Vec<GroupPlan>, ceiling: Option<u64>, most: usize, next_slot: u64) -> Self {
        let kind = |group: &GroupPlan| group.plans.first().map_or(WorkerKind::Native, |plan| plan.spec.kind());
        let scaler = Scaler::new(groups.iter().map(|group| (kind(group), group.config)));
        let free = |group: GroupPlan| {
            let kind = kind(&group);
            // The first is used first.
            Group { kind, free: group.plans.into_iter().rev().map(|plan| (plan, None)).collect() }
        };
        Self { scaler, groups: groups.into_iter().map(free).collect(), ceiling, most, next_slot }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.groups.is_empty()
    }

    /// What is still being ended.
    pub(super) fn endings(&mut self) -> impl Iterator<Item = JoinHandle<()>> {
        self.groups.iter_mut().flat_map(|group| group.free.iter_mut().filter_map(|(_, ending)| ending.take()))
    }
}

impl Actor {
    /// Lets every group grow or shrink.
    pub(super) fn scale(&mut self) {
        let loads: Vec<GroupLoad> = (0..self.scaling.groups.len()).map(|group| self.group_load(group)).collect();
        let short = self.scaling.ceiling.is_some_and(|ceiling| self.memory.0.saturating_add(self.memory.1) > ceiling);
        for decision in self.scaling.scaler.decide(self.epoch.elapsed(), &loads, short) {
            match decision {
                Decision::Add { group, reason } => self.add_slot(group, reason),
                Decision::Remove { slot, reason } => self.remove_slot(slot, reason),
            }
        }
    }

    fn group_load(&self, group: usize) -> GroupLoad {
        let of = |(id, slot): (&SlotId, &Slot)| {
            let member = slot.membership.group == Some(group) && slot.membership.leaving.is_none();
            let worker = self.workers.values().find(|worker| worker.slot == Some(*id));
            let (in_flight, resident) = worker.map_or((0, 0), |worker| (worker.in_flight.len(), worker.loaded.len()));
            member.then_some(SlotLoad { slot: *id, in_flight, resident })
        };
        let slots = self.slots.iter().filter_map(of).collect();
        let waiting = self.scheduler.waiting_for(self.scaling.groups[group].kind) + self.setup.held_back.count();
        GroupLoad { slots, waiting }
    }

    /// A request has come: where nobody may serve it because every group that could is asleep, one wakes.
    pub(super) fn wake_for(&mut self, placement: &Placement) {
        if self.scaling.is_idle() || placement.worker.is_some() {
            return;
        }
        let allowed = |kind| placement.kinds.contains(kind);
        let slot = |slot: &Slot| allowed(slot.spec.kind()) && slot.membership.leaving.is_none();
        let guest = |worker: &super::links::Worker| worker.slot.is_none() && allowed(worker.kind);
        if self.slots.values().any(slot) || self.workers.values().any(guest) {
            return;
        }
        if let Some(group) = self.scaling.groups.iter().position(|group| allowed(group.kind)) {
            self.add_slot(group, "a request came, and all were asleep".to_owned());
        }
    }

    fn add_slot(&mut self, group: usize, reason: String) {
        if self.slots.len() >= self.scaling.most {
            tracing::debug!(most = self.scaling.most, reason, "no further slot: there are as many as may be");
            return;
        }
        let Some((plan, ending)) = self.scaling.groups.get_mut(group).and_then(|group| group.free.pop()) else {
            return;
        };
        let id = SlotId(self.scaling.next_slot);
        self.scaling.next_slot += 1;
        let kind = plan.spec.kind();
        let mut slot = Slot::new(plan);
        slot.membership.group = Some(group);
        slot.ending = ending;
        // The database has it as the reason of the start.
        slot.last_reason.clone_from(&reason);
        self.slots.insert(id, slot);
        self.decided(DecisionKind::Grow, About::slot(id), reason.clone());
        self.tell(PoolEvent::Scaled { slot: id.0, kind, up: true, reason });
        self.handle(Event::SlotAdded { slot: id, kind });
    }

    fn remove_slot(&mut self, id: SlotId, reason: String) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.membership.leaving = Some(reason.clone());
        let kind = slot.spec.kind();
        self.decided(DecisionKind::Shrink, About::slot(id), reason.clone());
        self.tell(PoolEvent::Scaled { slot: id.0, kind, up: false, reason });
        self.handle(Event::SlotRemoved { slot: id });
        self.forget_left(id);
    }

    /// Forgets a slot that is given up and has no worker any more; what fills it may fill another.
    pub(super) fn forget_left(&mut self, id: SlotId) {
        let leaving = self.slots.get(&id).is_some_and(|slot| slot.membership.leaving.is_some());
        if !leaving || self.workers.values().any(|worker| worker.slot == Some(id)) {
            return;
        }
        let Some(mut slot) = self.slots.remove(&id) else { return };
        if let Some(token) = slot.token.take() {
            self.setup.bridge.tokens().revoke(token.id);
        }
        let ending = slot.end().or(slot.ending.take());
        if let Some(group) = slot.membership.group.and_then(|group| self.scaling.groups.get_mut(group)) {
            group.free.push((slot.into_plan(), ending));
        }
    }

    /// Has a worker that has served its time end, once it has answered what it holds; its slot is filled anew.
    pub(super) fn recycle_if_due(&mut self, id: tabpool_scheduler::WorkerId) {
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.recycling) else { return };
        let Some(slot) = worker.slot.and_then(|slot| self.slots.get_mut(&slot)) else { return };
        let Some(recycle) = slot.spec.recycle else { return };
        let reason = recycle.is_due(worker.answered, worker.status.memory.max(worker.status.device_memory));
        let Some(reason) = reason else { return };
        worker.recycling = true;
        tracing::info!(worker = %worker.link.id(), reason, "a worker is to be replaced");
        self.decided(DecisionKind::Recycle, About::worker(id), reason);
        self.handle(Event::Drain { worker: id });
    }
}

/// When a worker is replaced by a new one although nothing is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recycle {
    pub(crate) requests: Option<u64>,
    pub(crate) memory: Option<u64>,
}

impl Recycle {
    fn is_due(self, answered: u64, memory: u64) -> Option<String> {
        if let Some(most) = self.requests.filter(|most| answered >= *most) {
            return Some(format!("it has answered {answered} requests, of at most {most}"));
        }
        let most = self.memory.filter(|most| memory > *most)?;
        Some(format!("it takes {memory} bytes, of at most {most}"))
    }
}

/// Requests that wait for company before they reach the scheduler.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldBack(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl HeldBack {
    pub(crate) fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn add(&self, requests: usize) {
        self.0.fetch_add(requests, std::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn take(&self, requests: usize) {
        self.0.fetch_sub(requests, std::sync::atomic::Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Recycle;

    #[test]
    fn a_worker_is_replaced_after_so_many_requests_or_above_so_much_memory() {
        let recycle = Recycle { requests: Some(100), memory: Some(1000) };
        assert_eq!(recycle.is_due(99, 1000), None);
        assert_eq!(recycle.is_due(100, 0).as_deref(), Some("it has answered 100 requests, of at most 100"));
        assert_eq!(recycle.is_due(0, 1001).as_deref(), Some("it takes 1001 bytes, of at most 1000"));
        assert_eq!(Recycle::default().is_due(u64::MAX, u64::MAX), None);
    }
}
