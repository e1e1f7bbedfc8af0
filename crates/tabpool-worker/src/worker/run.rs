//! Running requests.

use std::rc::Rc;

use tabpool_engine::EngineError;
use tabpool_protocol::{ApiKind, FaultKind, Frame, Message, RunStats};
use tabpool_tensor::Tensor;
use web_time::Instant;

use super::serve::{fault, micros};
use super::{Held, Pending, Worker};

impl Worker {
    pub(super) fn start_run(
        self: &Rc<Self>,
        request: u64,
        program: u64,
        api: ApiKind,
        attempt: u32,
        inputs: Vec<Tensor>,
    ) {
        self.requests.borrow_mut().insert(request, Pending { attempt, cancelled: false });
        let (this, arrived) = (Rc::clone(self), Instant::now());
        self.env.spawn(Box::pin(async move {
            let outcome = this.run(request, program, api, arrived, &inputs).await;
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
        }));
    }

    async fn run(
        &self,
        request: u64,
        program: u64,
        api: ApiKind,
        arrived: Instant,
        inputs: &[Tensor],
    ) -> Result<(Vec<Tensor>, RunStats), (FaultKind, String)> {
        let not_loaded = || (FaultKind::Worker, format!("program {program} is not loaded for {api}"));
        let (gate, last_end) = {
            let devices = self.devices.borrow();
            let device = devices.get(&api).ok_or_else(not_loaded)?;
            (Rc::clone(&device.gate), Rc::clone(&device.last_end))
        };
        let pass = gate.pass().await;
        if self.requests.borrow().get(&request).is_none_or(|p| p.cancelled) {
            return Err((FaultKind::Cancelled, "cancelled before it ran".to_owned()));
        }
        let executable = match self.programs.borrow().get(&(program, api)) {
            Some(Held::Ready(executable)) => Rc::clone(executable),
            _ => return Err(not_loaded()),
        };
        let start = Instant::now();
        let result = executable.run(inputs).await;
        let end = Instant::now();
        drop(pass);
        let output = result.map_err(|e: EngineError| {
            self.check_device(api, &e);
            (fault(&e), e.to_string())
        })?;
        // While an earlier run was still on the device this one only waited.
        let waited =
            last_end.replace(Some(end)).map_or_else(Default::default, |last| last.saturating_duration_since(start));
        let stats = RunStats {
            queue_us: micros(start.duration_since(arrived) + waited),
            compute_us: micros(output.compute.saturating_sub(waited)),
            readback_us: micros(output.readback),
        };
        Ok((output.tensors, stats))
    }
}
