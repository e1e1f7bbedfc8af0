//! Requests of one model that wait are run together.
//!
//! A request goes at once while the pool has room for it: nothing is held back in the hope of company. Only when as many runs
//! of its group are under way as the workers can take do requests wait here, for the next run that ends or for the longest
//! delay, and then go together. So a quiet pool answers as fast as without, and a busy one computes larger batches.
//!
//! What shares a run has the same entry point, outputs, length of bucket, precision, placement, client, priority and time-out, and
//! nothing of a row depends on another's. A run that fails is taken apart: each of its requests is then tried alone, so that
//! none is answered for another's fault.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{Either, join_all, select};
use tabpool_models::{Bucket, Merged, Prepared};
use tabpool_scheduler::{ClientId, Placement};
use tabpool_tensor::{Precision, Tensor};
use tokio::sync::oneshot;

use crate::model::{Made, ModelHandle, Submission};
use crate::{Answer, PoolError, Timing};

/// How requests of one model are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Batching {
    most: usize,
    delay: Duration,
}

impl Batching {
    /// Up to so many rows in a run; with one, every request has a run of its own.
    #[must_use]
    pub fn up_to(most: usize) -> Self {
        Self { most: most.max(1), delay: Duration::from_millis(100) }
    }

    /// The longest that a request waits for others while the workers are busy, after which it goes with those that are there;
    /// 100 ms where it is not said.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub(crate) fn most(self) -> usize {
        self.most
    }

    /// The rows of programs that runs are made of: one, half of the most and the most, so that no more than three programs are
    /// loaded for a length, and at most half of a run of several requests is padding.
    fn sizes(self) -> [usize; 3] {
        [1, (self.most / 2).max(1), self.most]
    }

    /// The smallest size that holds so many rows.
    fn size_for(self, rows: usize) -> usize {
        self.sizes().into_iter().find(|size| *size >= rows).unwrap_or(rows)
    }
}

/// What requests have in common that may share a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    pub(crate) entry: &'static str,
    pub(crate) sequence: usize,
    pub(crate) outputs: Vec<String>,
    pub(crate) precision: Precision,
    pub(crate) placement: Placement,
    pub(crate) client: ClientId,
    pub(crate) priority: i8,
    pub(crate) timeout: Option<Duration>,
    pub(crate) batching: Batching,
}

/// Requests that may share runs, oldest first, and how many runs of them are under way.
#[derive(Debug)]
struct Group<T> {
    waiting: VecDeque<(T, usize, Instant)>,
    running: usize,
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), running: 0 }
    }
}

/// What is to be done for a group.
#[derive(Debug, PartialEq)]
enum Next<T> {
    /// Run these together.
    Run(Vec<T>),
    /// Look again then, or when a run has ended.
    Wait(Instant),
    /// Nobody waits.
    Nothing,
}

impl<T> Group<T> {
    /// Takes the requests that are to be run now, where `room` runs may be under way.
    fn next(&mut self, batching: Batching, room: usize, now: Instant) -> Next<T> {
        let Some((_, _, since)) = self.waiting.front() else { return Next::Nothing };
        let due = *since + batching.delay;
        if self.running >= room && now < due {
            return Next::Wait(due);
        }
        let mut rows = 0;
        let mut taken = Vec::new();
        while let Some((_, count, _)) = self.waiting.front() {
            if !taken.is_empty() && rows + count > batching.most {
                break;
            }
            rows += count;
            taken.extend(self.waiting.pop_front().map(|(item, ..)| item));
        }
        self.running += 1;
        Next::Run(taken)
    }
}

/// A request that waits for a run.
struct Item {
    work: Work,
    reply: oneshot::Sender<Result<Answer, PoolError>>,
}

/// What it wants run.
struct Work {
    prepared: Prepared,
    rows: usize,
    tokens: usize,
    since: Instant,
}

/// The requests of one model that wait to be run together.
#[derive(Default)]
pub(crate) struct Batcher {
    groups: Mutex<HashMap<GroupKey, Group<Item>>>,
}

impl Batcher {
    fn with<R>(&self, key: &GroupKey, change: impl FnOnce(&mut Group<Item>) -> R) -> R {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let group = groups.entry(key.clone()).or_default();
        let result = change(group);
        if group.waiting.is_empty() && group.running == 0 {
            groups.remove(key);
        }
        result
    }
}

impl ModelHandle {
    /// Runs a request, together with others if they wait anyway. Dropping the future cancels it.
    pub(crate) async fn run_batched(
        &self,
        key: GroupKey,
        prepared: Prepared,
        tokens: usize,
    ) -> Result<Answer, PoolError> {
        let (reply, answer) = oneshot::channel();
        let (rows, since) = (prepared.rows().unwrap_or(1), Instant::now());
        let item = Item { work: Work { prepared, rows, tokens, since }, reply };
        self.batcher().with(&key, |group| group.waiting.push_back((item, rows, since)));
        self.shared().held_back.add(1);
        self.send_batches(&key);
        answer.await.map_err(|_| PoolError::Closed)?
    }

    /// Starts the runs that a group's requests make now.
    fn send_batches(&self, key: &GroupKey) {
        loop {
            let (room, now) = (self.room_for_runs(), Instant::now());
            match self.batcher().with(key, |group| group.next(key.batching, room, now)) {
                Next::Nothing => return,
                Next::Wait(until) => {
                    let (model, key) = (self.clone(), key.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep_until(until.into()).await;
                        model.send_batches(&key);
                    });
                    return;
                }
                Next::Run(items) => {
                    self.shared().held_back.take(items.len());
                    let running = Running { model: self.clone(), key: key.clone() };
                    tokio::spawn(async move {
                        running.run(items).await;
                        let Running { model, key } = &running;
                        let (model, key) = (model.clone(), key.clone());
                        drop(running);
                        model.send_batches(&key);
                    });
                }
            }
        }
    }
}

/// A run of a group that is under way.
struct Running {
    model: ModelHandle,
    key: GroupKey,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.model.batcher().with(&self.key, |group| group.running -= 1);
    }
}

impl Running {
    async fn run(&self, items: Vec<Item>) {
        let wanted = items.into_iter().filter(|item| !item.reply.is_closed());
        let (work, mut replies): (Vec<Work>, Vec<_>) = wanted.map(|item| (item.work, item.reply)).unzip();
        if work.len() > 1 {
            let abandoned = join_all(replies.iter_mut().map(oneshot::Sender::closed));
            let answered = match select(Box::pin(self.run_together(&work)), abandoned).await {
                Either::Left((answered, _)) => answered,
                // Nobody waits any more; dropping the run has cancelled it.
                Either::Right(_) => return,
            };
            // Whoever asked may have stopped waiting.
            match answered {
                Ok(answers) => {
                    for (reply, answer) in replies.into_iter().zip(answers) {
                        let _ = reply.send(Ok(answer));
                    }
                    return;
                }
                Err(PoolError::TimedOut(reason)) => {
                    for reply in replies {
                        let _ = reply.send(Err(PoolError::TimedOut(reason.clone())));
                    }
                    return;
                }
                Err(PoolError::Busy { retry_after, reason }) => {
                    for reply in replies {
                        let _ = reply.send(Err(PoolError::Busy { retry_after, reason: reason.clone() }));
                    }
                    return;
                }
                Err(reason) => tracing::info!(model = self.model.name(), %reason, "a shared run is taken apart"),
            }
        }
        join_all(work.into_iter().zip(replies).map(|(work, reply)| self.run_alone(work, reply))).await;
    }

    async fn run_alone(&self, work: Work, mut reply: oneshot::Sender<Result<Answer, PoolError>>) {
        let Work { prepared, rows, tokens, since } = work;
        let one = async {
            let mut answer = self.submit(prepared.bucket, prepared.tensors, rows, tokens).await?;
            answer.timing = with_wait(answer.timing, since);
            let tensors = answer.outputs.into_iter().map(|(_, tensor)| tensor).collect();
            let cut = prepared.crop.apply(tensors);
            answer.outputs = cut.map_err(|e| PoolError::unfit(answer.worker, &e))?;
            Ok(answer)
        };
        let answered = match select(Box::pin(one), Box::pin(reply.closed())).await {
            Either::Left((answered, _)) => answered,
            Either::Right(_) => return,
        };
        let _ = reply.send(answered);
    }

    async fn run_together(&self, work: &[Work]) -> Result<Vec<Answer>, PoolError> {
        let rows = work.iter().map(|it| it.rows).sum();
        let requests: Vec<&Prepared> = work.iter().map(|it| &it.prepared).collect();
        let merged = Merged::new(&requests, self.key.batching.size_for(rows)).map_err(|e| self.model.refused(e))?;
        let tokens = work.iter().map(|it| it.tokens).sum();
        let answer = self.submit(merged.bucket, merged.tensors.clone(), rows, tokens).await?;
        let outputs: Vec<Tensor> = answer.outputs.iter().map(|(_, tensor)| tensor.clone()).collect();
        let each = merged.split(&outputs).map_err(|e| PoolError::unfit(answer.worker, &e))?;
        let of = |(it, outputs): (&Work, _)| Answer {
            outputs,
            timing: with_wait(answer.timing, it.since),
            ..answer.clone()
        };
        Ok(work.iter().zip(each).map(of).collect())
    }

    async fn submit(
        &self,
        bucket: Bucket,
        tensors: Vec<Tensor>,
        rows: usize,
        tokens: usize,
    ) -> Result<Answer, PoolError> {
        let made = Made::Entry { entry: self.key.entry, bucket, outputs: self.key.outputs.clone() };
        let program = self.model.program(made).await?;
        let work = Submission { program, placement: self.key.placement, tensors, rows, tokens, session: None };
        self.model.submit(work).await?.await
    }
}

/// A run's times, with the wait here before it was submitted.
fn with_wait(timing: Timing, since: Instant) -> Timing {
    let total = since.elapsed();
    let queue_wait = timing.queue_wait + total.saturating_sub(timing.total);
    Timing { queue_wait, total, ..timing }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCHING: Batching = Batching { most: 8, delay: Duration::from_millis(50) };

    fn group(rows: &[usize], running: usize, since: Instant) -> Group<usize> {
        let waiting = rows.iter().enumerate().map(|(number, rows)| (number, *rows, since)).collect();
        Group { waiting, running }
    }

    #[test]
    fn a_request_goes_at_once_while_there_is_room() {
        let now = Instant::now();
        let mut group = group(&[1], 1, now);
        assert_eq!(group.next(BATCHING, 2, now), Next::Run(vec![0]));
        assert_eq!((group.running, group.next(BATCHING, 2, now)), (2, Next::Nothing));
    }

    #[test]
    fn without_room_requests_wait_and_go_together_when_a_run_ends() {
        let now = Instant::now();
        let mut group = group(&[1, 1, 2], 2, now);
        assert_eq!(group.next(BATCHING, 2, now), Next::Wait(now + BATCHING.delay));
        group.running -= 1;
        assert_eq!(group.next(BATCHING, 2, now), Next::Run(vec![0, 1, 2]));
    }

    #[test]
    fn nobody_waits_longer_than_the_delay() {
        let now = Instant::now();
        let mut group = group(&[1, 1], 2, now);
        assert_eq!(group.next(BATCHING, 2, now + BATCHING.delay), Next::Run(vec![0, 1]));
    }

    #[test]
    fn a_run_has_no_more_rows_than_it_may_and_the_order_is_kept() {
        let now = Instant::now();
        let mut group = group(&[3, 4, 2, 1], 0, now);
        assert_eq!(group.next(BATCHING, 9, now), Next::Run(vec![0, 1]));
        assert_eq!(group.next(BATCHING, 9, now), Next::Run(vec![2, 3]));
    }

    #[test]
    fn what_is_larger_than_a_run_goes_alone() {
        let now = Instant::now();
        let mut group = group(&[20, 1], 0, now);
        assert_eq!(group.next(BATCHING, 9, now), Next::Run(vec![0]));
    }

    #[test]
    fn at_most_half_of_a_shared_run_is_padding() {
        for rows in 2..=8 {
            let size = BATCHING.size_for(rows);
            assert!(rows * 2 >= size, "{rows} rows in {size}");
        }
        assert_eq!(BATCHING.size_for(1), 1);
    }
}
