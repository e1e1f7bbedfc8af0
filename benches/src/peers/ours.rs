//! Our side of a case: a run of its model on a worker of the pool.

use tabpool::ModelHandle;

use super::case::{Case, OUTPUT, Subject};
use super::contender::{RUN_LIMIT, Run};
use crate::Fault;
use crate::rig::host::{Host, Worker};
use crate::rig::milliseconds;

/// A subject's model on one worker only.
pub(super) async fn model(host: &Host, subject: &Subject, worker: &mut Worker) -> Result<ModelHandle, Fault> {
    host.model(&subject.name, &subject.folder, worker, RUN_LIMIT).await
}

/// Runs a case once on a worker.
pub(super) async fn run(host: &Host, case: &Case, worker: &mut Worker, keep: bool) -> Result<Run, Fault> {
    let model = model(host, &case.subject, worker).await?;
    let begin = std::time::Instant::now();
    let answer = model.run_for(case.inputs()?, &[OUTPUT]).await?;
    let caller_ms = milliseconds(begin.elapsed());
    let output = match answer.outputs.first().filter(|_| keep) {
        Some((_, output)) => Some(output.to_f32()?.into_owned()),
        None => None,
    };
    Ok(Run { ms: milliseconds(answer.timing.compute + answer.timing.readback), caller_ms: Some(caller_ms), output })
}
