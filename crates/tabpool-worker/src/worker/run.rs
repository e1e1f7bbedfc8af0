//! Running requests.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tabpool_protocol::{ApiKind, FaultKind, Frame, Message, RunStats};
use tabpool_tensor::Tensor;
use web_time::{Duration, Instant};

use super::serve::{fault, micros};
use super::states::Claim;
use super::{Held, Pending, Worker};
use crate::gate::Pass;

/// When the last runs of a device ended, as many as it computes at a time.
pub(super) struct Ends {
    lanes: usize,
    ends: RefCell<VecDeque<Instant>>,
}

impl Ends {
    pub(super) fn new(lanes: usize) -> Rc<Self> {
        Rc::new(Self { lanes, ends: RefCell::default() })
    }

    /// Notes that a run ended, and says how long of its time it only waited: with every lane taken by an earlier run, it
    /// began when the first of those ended.
    fn waited(&self, start: Instant, end: Instant) -> Duration {
        let mut ends = self.ends.borrow_mut();
        ends.push_back(end);
        if ends.len() <= self.lanes {
            return Duration::ZERO;
        }
        ends.pop_front().map_or(Duration::ZERO, |freed| freed.saturating_duration_since(start))
    }
}

/// What a `Run` asks for.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) request: u64,
    pub(super) program: u64,
    pub(super) api: ApiKind,
    pub(super) attempt: u32,
    pub(super) states: Option<u64>,
}

impl Worker {
    pub(super) fn start_run(self: &Rc<Self>, asked: Asked, inputs: Vec<Tensor>) {
        let Asked { request, api, attempt, states, .. } = asked;
        self.requests.borrow_mut().insert(request, Pending { attempt, cancelled: false });
        self.note_work(api);
        let claim = states.map(|number| self.claim(number, api)).transpose();
        let (this, arrived) = (Rc::clone(self), Instant::now());
        self.env.spawn(Box::pin(async move {
            let outcome = match claim {
                Ok(claim) => this.run(asked, claim, arrived, &inputs).await,
                Err(failure) => Err(failure),
            };
            drop(inputs);
            // A new session forgets the requests of the one before; a newer attempt answers for itself.
            if this.requests.borrow().get(&request).is_none_or(|p| p.attempt != attempt) {
                return;
            }
            this.requests.borrow_mut().remove(&request);
            let frame = match outcome {
                Ok((tensors, stats)) => {
                    this.completed.set(this.completed.get() + 1);
                    Frame { id: request, message: Message::Finished { attempt, stats }, tensors }
                }
                Err((fault, reason)) => {
                    Frame { id: request, message: Message::Failed { attempt, fault, reason }, tensors: Vec::new() }
                }
            };
            this.deliver(&frame);
            this.note_work(api);
            this.improve_when_idle();
        }));
    }

    async fn run(
        &self,
        Asked { request, program, api, attempt, .. }: Asked,
        claim: Option<(Claim, impl Future<Output = Pass>)>,
        arrived: Instant,
        inputs: &[Tensor],
    ) -> Result<(Vec<Tensor>, RunStats), (FaultKind, String)> {
        let on = match claim {
            Some((claim, turn)) => Some((claim, turn.await)),
            None => None,
        };
        // A set may have gone while the run waited, and the program with it: that it begins anew is what the host must know.
        let set_is_there = || on.as_ref().map_or(Ok(()), |(claim, _)| claim.set_is_there());
        set_is_there()?;
        // Whatever the host believes is there, it is to load anew.
        let not_loaded = || (FaultKind::Device, format!("program {program} is not loaded for {api}"));
        let (gate, ends) = {
            let devices = self.devices.borrow();
            let device = devices.get(&api).ok_or_else(not_loaded)?;
            (Rc::clone(&device.gate), Rc::clone(&device.ends))
        };
        let pass = gate.pass().await;
        if self.requests.borrow().get(&request).is_none_or(|p| p.cancelled || p.attempt != attempt) {
            return Err((FaultKind::Cancelled, "cancelled before it ran".to_owned()));
        }
        set_is_there()?;
        let (executable, precision) = match self.programs.borrow().get(&(program, api)) {
            Some(Held::Ready(executable, precision)) => (Rc::clone(executable), *precision),
            _ => return Err(not_loaded()),
        };
        // Where the device was lost meanwhile, this is the one that the program was loaded on since.
        let backend =
            self.devices.borrow().get(&api).map(|device| Rc::clone(&device.backend)).ok_or_else(not_loaded)?;
        let start = Instant::now();
        let result = match on {
            Some((claim, turn)) => claim.run(turn, (&backend, &*executable), inputs).await,
            None => executable.run(inputs).await.map_err(|e| {
                self.check_device(api, &backend, &e);
                (fault(&e), e.to_string())
            }),
        };
        let end = Instant::now();
        drop(pass);
        let output = result?;
        let waited = ends.waited(start, end);
        let stats = RunStats {
            queue_us: micros(start.duration_since(arrived) + waited),
            compute_us: micros(output.compute.saturating_sub(waited)),
            readback_us: micros(output.readback),
            precision,
        };
        Ok((output.tensors, stats))
    }
}

#[cfg(test)]
mod tests {
    use web_time::{Duration, Instant};

    use super::Ends;

    #[test]
    fn a_run_waits_for_the_lane_that_is_free_first() {
        let epoch = Instant::now();
        let at = |ms: u64| epoch + Duration::from_millis(ms);
        // One lane: the second run, begun while the first computed, waited for its end.
        let one = Ends::new(1);
        assert_eq!(one.waited(at(0), at(40)), Duration::ZERO);
        assert_eq!(one.waited(at(10), at(80)), Duration::from_millis(30));
        assert_eq!(one.waited(at(100), at(140)), Duration::ZERO, "nothing was running");
        // Two lanes: the second run has one of its own, the third waits for the first one's.
        let two = Ends::new(2);
        assert_eq!(two.waited(at(0), at(40)), Duration::ZERO);
        assert_eq!(two.waited(at(10), at(50)), Duration::ZERO);
        assert_eq!(two.waited(at(20), at(80)), Duration::from_millis(20));
    }
}
