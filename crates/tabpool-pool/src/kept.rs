//! Outputs that stay on the worker that computed them, for other models to go on from.
//!
//! They are a session's states: they lie on one worker under a lease, count in its memory, and are lost with it. A request that
//! goes on from them goes to that worker.

use std::sync::Arc;
use std::time::Duration;

use tabpool_models::KeptOutputs;
use tabpool_protocol::{ApiKind, StateSpec};
use tabpool_tensor::Tensor;

use crate::model::{Made, Submission};
use crate::session::{Inner, LEASE};
use crate::{Answer, ModelHandle, PoolError, WorkerId};

/// Outputs of a run that lie on its worker. Cloning gives another handle to the same; the last one dropped frees them at once, and a
/// worker frees by itself what nobody named for its lease.
#[derive(Clone)]
pub struct Kept {
    inner: Arc<Inner>,
    outputs: KeptOutputs,
    worker: WorkerId,
    api: ApiKind,
}

/// How outputs are kept.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Keeping {
    /// How long they stay when nobody goes on from them; ten minutes by default.
    pub lease: Duration,
}

impl Default for Keeping {
    fn default() -> Self {
        Self { lease: LEASE }
    }
}

impl Keeping {
    /// For so long when nobody goes on from them.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease }
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("outputs", &self.outputs)
            .field("worker", &self.worker)
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

impl Kept {
    /// Where they are.
    #[must_use]
    pub fn place(&self) -> (WorkerId, ApiKind) {
        (self.worker, self.api)
    }

    /// The bytes that they take there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.outputs.bytes()
    }

    /// The same outputs, of which one is called otherwise by the model that is to go on from it.
    ///
    /// # Errors
    /// [`PoolError::NotKept`] where nothing of the first name was kept.
    pub fn standing_for(&self, kept: &str, output: &str) -> Result<Self, PoolError> {
        let outputs =
            self.outputs.standing_for(kept, output).map_err(|source| PoolError::NotKept(source.to_string()))?;
        Ok(Self { outputs, ..self.clone() })
    }
}

impl ModelHandle {
    /// Runs the model once and leaves these outputs where they were computed. Dropping the future cancels the request.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn keep(
        &self,
        inputs: Vec<(String, Tensor)>,
        outputs: &[&str],
        keeping: Keeping,
    ) -> Result<Kept, PoolError> {
        let kept: Vec<String> = outputs.iter().map(ToString::to_string).collect();
        let prepared = self.entry_point().prepare(&inputs, &kept).map_err(|source| self.refused(source))?;
        let rows = prepared.crop.batch();
        let tokens = inputs.iter().map(|(_, t)| t.shape().elements()).max().unwrap_or_default();
        let program = self.program(Made::Keeping { entry: self.entry_name(), bucket: prepared.bucket, kept }).await?;
        let specs = program.states.iter().map(|value| StateSpec::new(&value.name, value.dtype, &value.shape)).collect();
        let outputs = KeptOutputs::of(program.states.clone(), &prepared);
        let inner = Inner::new(Arc::clone(self.shared()), specs, keeping.lease);
        let (session, placement) = inner.run(true, *self.placement())?;
        let work = Submission { program, placement, tensors: prepared.tensors, rows, tokens, session: Some(session) };
        let answer = self.submit(work).await?.await?;
        inner.begun(&answer);
        Ok(Kept { inner, outputs, worker: answer.worker, api: answer.api })
    }

    /// Runs what is left of the model from kept outputs on, on the worker where they are, and gives these outputs. Of the inputs
    /// only those are given that are still needed. A kept output stands for the model's output of the same name, or of the one
    /// that [`Kept::standing_for`] says; the others are let alone.
    ///
    /// # Errors
    /// [`PoolError::SessionLost`] where they are not there any more, [`PoolError::Model`] where they have not the shapes that
    /// this model gives, and [`PoolError`].
    pub async fn go_on(
        &self,
        kept: &Kept,
        inputs: Vec<(String, Tensor)>,
        outputs: &[&str],
    ) -> Result<Answer, PoolError> {
        let names: Vec<String> = outputs.iter().map(ToString::to_string).collect();
        let entry = self.entry_point();
        let stands_for = kept.outputs.at(entry);
        if stands_for.iter().all(Option::is_none) {
            let names: Vec<_> = kept.outputs.values().iter().map(|value| value.name.as_str()).collect();
            let of = format!("{} of {}", entry.name(), self.name());
            return Err(PoolError::NotKept(format!("{} stands for no output of {of}", names.join(", "))));
        }
        let request = entry.go_on(&kept.outputs, &inputs, &names).map_err(|source| self.refused(source))?;
        let (entry, values) = (self.entry_name(), kept.outputs.values().to_vec());
        let made = Made::Continuing { entry, bucket: request.bucket, outputs: names, values, stands_for };
        let program = self.program(made).await?;
        let tensors = request.tensors(&program.inputs).map_err(|source| self.refused(source))?;
        let (rows, tokens) = (request.crop.batch(), request.crop.batch() * request.crop.sequence());
        let (session, placement) = kept.inner.run(false, *self.placement())?;
        let work = Submission { program, placement, tensors, rows, tokens, session: Some(session) };
        let mut answer = self.submit(work).await?.await?;
        let tensors = answer.outputs.into_iter().map(|(_, tensor)| tensor).collect();
        answer.outputs = request.crop.apply(tensors).map_err(|source| PoolError::unfit(answer.worker, &source))?;
        Ok(answer)
    }
}
