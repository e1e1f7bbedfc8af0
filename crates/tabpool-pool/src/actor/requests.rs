//! Requests: from submission to the one answer each gets.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tabpool_bridge::LinkError;
use tabpool_metrics::{Bucket, Inference, Outcome as Recorded, Timestamp};
use tabpool_protocol::{ApiKind, FaultKind, Frame, Message, RunStats};
use tabpool_scheduler::{
    Api, ClientId, Event, FailureCause, Outcome, Placement, ProgramId, RequestId, Submit, WorkerId,
};
use tabpool_tensor::{Precision, Tensor};
use tokio::sync::oneshot;

use super::Actor;
use super::links::{fault_of, metrics_api, metrics_precision};
use super::proofs::Kept;
use crate::model::ProgramEntry;
use crate::session::{Followed, InSession};
use crate::target::protocol_api;
use crate::{PoolError, Timing};

/// A request as a handle submits it.
pub(crate) struct Job {
    pub(crate) request: RequestId,
    pub(crate) program: Arc<ProgramEntry>,
    pub(crate) placement: Placement,
    pub(crate) client: ClientId,
    pub(crate) priority: i8,
    pub(crate) timeout: Option<Duration>,
    pub(crate) tensors: Vec<Tensor>,
    /// Rows of the batch that are no padding.
    pub(crate) rows: usize,
    /// Tokens given, padding of the caller's own included.
    pub(crate) tokens: usize,
    pub(crate) session: Option<InSession>,
    pub(crate) reply: oneshot::Sender<Result<RawAnswer, PoolError>>,
}

/// An answer before its outputs are cut back to the request.
pub(crate) struct RawAnswer {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) worker: tabpool_bridge::WorkerId,
    pub(crate) api: ApiKind,
    pub(crate) precision: Precision,
    pub(crate) timing: Timing,
    pub(crate) attempts: u32,
}

/// A request that was not answered yet.
pub(super) struct Request {
    program: Arc<ProgramEntry>,
    tensors: Vec<Tensor>,
    rows: usize,
    tokens: usize,
    session: Option<InSession>,
    pub(super) reply: oneshot::Sender<Result<RawAnswer, PoolError>>,
    submitted: Instant,
    /// Its attempts, of which there are few.
    sent: Vec<Sent>,
    answer: Option<(u32, RunStats, Vec<Tensor>, Instant)>,
}

/// An attempt at a request.
#[derive(Clone, Copy)]
struct Sent {
    worker: WorkerId,
    attempt: u32,
    api: Api,
    at: Instant,
}

/// How a request was computed, as it is recorded.
struct Ran<'a> {
    timing: Timing,
    /// What the worker computed with; what was permitted where none did.
    precision: Precision,
    outputs: &'a [Tensor],
    attempts: u32,
}

impl Actor {
    /// The inputs of the request that has waited longest for a program.
    pub(super) fn waiting_longest_for(&self, program: ProgramId) -> Option<Vec<Tensor>> {
        let of_program = self.requests.iter().filter(|(_, request)| request.program.id == program);
        of_program.min_by_key(|(id, _)| **id).map(|(_, request)| request.tensors.clone())
    }

    pub(super) fn submit(&mut self, job: Job) {
        let Job { request, program, placement, client, priority, timeout, tensors, rows, tokens, session, reply } = job;
        let now = self.epoch.elapsed();
        let bucket = program.bucket;
        self.introduce_program(&program);
        if let Some(Followed { by, times }) = session.as_ref().and_then(|session| session.followed.as_ref()) {
            self.introduce_program(by);
            self.handle(Event::Followed { program: program.id, by: by.id, times: *times });
        }
        let submit = Submit {
            request,
            client,
            model: program.model,
            program: program.id,
            placement,
            priority,
            deadline: timeout.map(|t| now + t),
            cost: cost(bucket.batch * bucket.sequence),
            // What a later run finds is on its worker alone, and it changes it: twice would be once too often.
            max_attempts: session.as_ref().filter(|session| !session.begins).map(|_| 1),
            repeatable: session.is_none(),
        };
        self.wake_for(&placement);
        let submitted = Instant::now();
        let waiting =
            Request { program, tensors, rows, tokens, session, reply, submitted, sent: Vec::new(), answer: None };
        self.requests.insert(request, waiting);
        self.handle(Event::Submit(submit));
    }

    /// Tells the scheduler all there is to know of a program, when it comes up for the first time.
    fn introduce_program(&mut self, program: &Arc<ProgramEntry>) {
        let Entry::Vacant(place) = self.programs.entry(program.id) else { return };
        place.insert(Arc::clone(program));
        self.handle(Event::Program { program: program.id, needs: program.needs.clone() });
        let kinds = self.setup.preferences.of(program.kind);
        self.handle(Event::Preferred { model: program.model, kinds });
        for remembered in self.setup.history.of(program, cost) {
            self.handle(remembered);
        }
    }

    pub(super) fn dispatch(&mut self, id: WorkerId, request: RequestId, attempt: u32, program: ProgramId, api: Api) {
        let fault = tabpool_scheduler::Fault::Worker;
        let session = self.requests.get(&request).and_then(|waiting| waiting.session.clone());
        let states = match session.map(|session| self.arrange_states(&session, id, api)).transpose() {
            Ok(states) => states,
            Err(reason) => {
                self.follow_ups.push_back(Event::Failed { worker: id, request, attempt, fault, reason });
                return;
            }
        };
        let (Some(worker), Some(waiting)) = (self.workers.get_mut(&id), self.requests.get_mut(&request)) else {
            let reason = "the worker is gone".to_owned();
            self.follow_ups.push_back(Event::Failed { worker: id, request, attempt, fault, reason });
            return;
        };
        let message = Message::Run { program: program.0, api: protocol_api(api), attempt, states };
        let sent = worker.link.send(Frame { id: request.0, message, tensors: waiting.tensors.clone() });
        if sent == Err(LinkError::Full) {
            let reason = LinkError::Full.to_string();
            self.follow_ups.push_back(Event::Failed { worker: id, request, attempt, fault, reason });
            return;
        }
        // Where the link is cut, its resumption shows that the request did not arrive.
        worker.in_flight.insert(request, attempt);
        waiting.sent.push(Sent { worker: id, attempt, api, at: Instant::now() });
    }

    pub(super) fn cancel_on(&mut self, id: WorkerId, request: RequestId, attempt: u32) {
        if let Some(worker) = self.workers.get(&id) {
            // A cancel that does not arrive costs a run whose answer nobody wants; the answer frees the credit.
            let _ =
                worker.link.send(Frame { id: request.0, message: Message::Cancel { attempt }, tensors: Vec::new() });
        }
    }

    pub(super) fn finished(
        &mut self,
        id: WorkerId,
        request: RequestId,
        attempt: u32,
        stats: RunStats,
        tensors: Vec<Tensor>,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.in_flight.get(&request) != Some(&attempt) {
            return;
        }
        worker.in_flight.remove(&request);
        worker.answered += 1;
        let waiting = self.requests.get(&request);
        let api = waiting.and_then(|waiting| waiting.attempt(attempt)).map_or(Api::Cpu, |sent| sent.api);
        // Workers are not trusted: what does not fit is a failure of the worker's, and another one is asked.
        if let Some(Err(reason)) = waiting.map(|waiting| waiting.fits(&stats, &tensors)) {
            let reason = format!("the answer of {} does not fit: {reason}", worker.link.id());
            let fault = tabpool_scheduler::Fault::Worker;
            return self.handle(Event::Failed { worker: id, request, attempt, fault, reason });
        }
        if let Some(kept) = self.keep_until_proved(id, api, Kept { request, attempt, stats, tensors }) {
            self.use_answer(id, kept);
        }
    }

    /// An answer may be given to whoever asked.
    pub(super) fn use_answer(&mut self, id: WorkerId, Kept { request, attempt, stats, tensors }: Kept) {
        if let Some(waiting) = self.requests.get_mut(&request) {
            waiting.answer = Some((attempt, stats, tensors, Instant::now()));
        }
        let compute = Duration::from_micros(stats.compute_us.saturating_add(stats.readback_us));
        self.handle(Event::Finished { worker: id, request, attempt, compute });
        self.recycle_if_due(id);
    }

    pub(super) fn failed(&mut self, id: WorkerId, request: RequestId, attempt: u32, fault: FaultKind, reason: String) {
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.in_flight.get(&request) == Some(&attempt)
        {
            worker.in_flight.remove(&request);
            self.handle(Event::Failed { worker: id, request, attempt, fault: fault_of(fault), reason });
        }
    }

    /// Answers a request: the scheduler says so exactly once for each.
    pub(super) fn reply(&mut self, request: RequestId, outcome: Outcome) {
        let Some(mut waiting) = self.requests.remove(&request) else { return };
        let attempts = waiting.sent.last().map_or(0, |s| s.attempt);
        let goes_on = waiting.session.as_ref().is_some_and(|session| !session.begins);
        let answer = match outcome {
            Outcome::Finished { worker, attempt } => match waiting.answer.take() {
                Some((given, stats, tensors, at)) if given == attempt => Ok((worker, attempt, stats, tensors, at)),
                _ => Err(PoolError::Failed { attempts, reason: "the answer was lost".to_owned() }),
            },
            Outcome::Rejected { retry_after, reason } => Err(PoolError::Busy { retry_after, reason }),
            Outcome::TimedOut { reason } => Err(PoolError::TimedOut(reason)),
            Outcome::Cancelled => Err(PoolError::Cancelled),
            Outcome::Failed { cause: FailureCause::Input, reason, .. } => Err(PoolError::Input(reason)),
            Outcome::Failed { reason, .. } | Outcome::NoWorker { reason } if goes_on => {
                Err(PoolError::SessionLost { reason })
            }
            Outcome::Failed { reason, attempts, .. } => Err(PoolError::Failed { attempts, reason }),
            Outcome::NoWorker { reason } => Err(PoolError::NoWorker(reason)),
        };
        let total = waiting.submitted.elapsed();
        match answer {
            Ok((id, attempts, stats, tensors, at)) => {
                let (timing, precision) = (waiting.timing(attempts, &stats, at), stats.precision);
                let ran = Ran { timing, precision, outputs: &tensors, attempts };
                self.record_inference(request, &waiting, &ran, Recorded::Ok);
                let api = waiting.attempt(attempts).map_or(Api::Cpu, |s| s.api);
                let kind = self.workers.get(&id).map_or_else(|| "gone".to_owned(), |w| w.kind.to_string());
                self.counters(|c| c.finished(format!("{kind}:{api}"), timing.total, timing.compute));
                let (worker, api) = (tabpool_bridge::WorkerId(id.0), protocol_api(api));
                // Whoever asked may have stopped waiting.
                let _ = waiting.reply.send(Ok(RawAnswer { tensors, worker, api, precision, timing, attempts }));
            }
            Err(error) => {
                self.failed_total += 1;
                self.counters(super::Counters::failed);
                let timing = Timing { total, ..Timing::default() };
                let precision = waiting.program.precision;
                let ran = Ran { timing, precision, outputs: &[], attempts: attempts.max(1) };
                self.record_inference(request, &waiting, &ran, recorded(&error));
                let _ = waiting.reply.send(Err(error));
            }
        }
    }

    fn record_inference(&self, id: RequestId, request: &Request, ran: &Ran<'_>, outcome: Recorded) {
        let &Ran { timing, precision, outputs, attempts } = ran;
        let sent = request.attempt(attempts);
        let worker = sent.and_then(|s| Some(self.workers.get(&s.worker)?.identity_for(s.api)));
        let bytes = |tensors: &[Tensor]| tensors.iter().map(|t| t.data().len() as u64).sum();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let bucket = request.program.bucket;
        self.setup.recorder.record(Inference {
            at: Timestamp::now(),
            request: id.0,
            model: Arc::clone(&request.program.identity),
            worker: worker.unwrap_or_default(),
            bucket: Bucket { batch: small(bucket.batch), sequence: small(bucket.sequence) },
            batch_used: small(request.rows),
            tokens: small(request.tokens),
            api: metrics_api(sent.map_or(Api::Cpu, |s| s.api)),
            precision: metrics_precision(precision),
            queue_wait: timing.queue_wait,
            transfer: timing.transfer,
            compute: timing.compute,
            readback: timing.readback,
            total: timing.total,
            bytes_in: bytes(&request.tensors),
            bytes_out: bytes(outputs),
            attempts,
            outcome,
        });
    }
}

impl Request {
    /// Whether an answer is what the program gives, as exact as was permitted; if not, what is wrong.
    fn fits(&self, stats: &RunStats, tensors: &[Tensor]) -> Result<(), String> {
        self.program.fits(tensors)?;
        let permitted = self.program.precision;
        stats.precision.within(permitted).then_some(()).ok_or_else(|| format!("{} is not {permitted}", stats.precision))
    }

    /// Whether computing it again elsewhere gives the same.
    pub(super) fn is_repeatable(&self) -> bool {
        self.session.is_none()
    }

    /// What it computes, and of what.
    pub(super) fn case(&self) -> (Arc<ProgramEntry>, Vec<Tensor>) {
        (Arc::clone(&self.program), self.tensors.clone())
    }

    /// One of its attempts.
    fn attempt(&self, attempt: u32) -> Option<Sent> {
        self.sent.iter().find(|sent| sent.attempt == attempt).copied()
    }

    fn timing(&self, attempt: u32, stats: &RunStats, answered: Instant) -> Timing {
        let sent = self.attempt(attempt).map_or(self.submitted, |s| s.at);
        let (compute, readback) = (Duration::from_micros(stats.compute_us), Duration::from_micros(stats.readback_us));
        let away = answered.saturating_duration_since(sent);
        Timing {
            queue_wait: sent.saturating_duration_since(self.submitted),
            transfer: away.saturating_sub(compute + readback),
            compute,
            readback,
            total: answered.saturating_duration_since(self.submitted),
        }
    }
}

/// How heavy a bucket is, in ordinary requests of one sentence of 32 tokens.
fn cost(tokens: usize) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let tokens = tokens as f32;
    (tokens / 32.0).max(0.25)
}

fn recorded(error: &PoolError) -> Recorded {
    let code = match error {
        PoolError::TimedOut(_) => return Recorded::TimedOut,
        PoolError::Cancelled => return Recorded::Cancelled,
        PoolError::Busy { .. } => "busy",
        PoolError::Input(_) => "input",
        PoolError::NoWorker(_) => "no_worker",
        _ => "failed",
    };
    Recorded::Failed { code: code.to_owned(), message: error.to_string() }
}
