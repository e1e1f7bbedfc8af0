//! Many inputs in few runs: several at a time, and each answer where its input stands.

use std::future::Future;

use futures::StreamExt;
use tabpool_pipelines::TextBatch;
use tabpool_pool::{Answer, ModelHandle, Timing, WorkerId};
use tabpool_protocol::ApiKind;
use tabpool_tensor::{Precision, Tensor};

use crate::error::Error;
use crate::model::Model;

/// Runs in flight for each worker: one that computes, one whose inputs are on their way, and one to spare.
const RUNS_A_WORKER: usize = 3;

/// A run's inputs by their names.
pub(crate) type Inputs = Vec<(String, Tensor)>;

/// Which of the inputs a run is about, and what it is given.
pub(crate) type Batch = Result<(Vec<usize>, Inputs), Error>;

/// One run that gave some of the answers.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which of the inputs it was about.
    pub items: Vec<usize>,
    /// The worker that did it.
    pub worker: WorkerId,
    /// The API it used.
    pub api: ApiKind,
    /// The least exact arithmetic it used.
    pub precision: Precision,
    /// Where the time went.
    pub timing: Timing,
    /// How many attempts it took.
    pub attempts: u32,
}

/// What a model made of some inputs, one value for each, with what it took to get them.
#[derive(Clone, Debug)]
pub struct Answers<T> {
    pub(crate) values: Vec<T>,
    pub(crate) runs: Vec<Run>,
    pub(crate) truncated: Vec<usize>,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Self { values: Vec::new(), runs: Vec::new(), truncated: Vec::new() }
    }
}

impl<T> Answers<T> {
    /// The values, in the order of the inputs unless the method that gave them says otherwise.
    #[must_use]
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// The values alone.
    #[must_use]
    pub fn into_values(self) -> Vec<T> {
        self.values
    }

    /// The runs that gave them, in the order in which they ended.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The texts of which a part was cut off because the model takes no more tokens.
    #[must_use]
    pub fn truncated(&self) -> &[usize] {
        &self.truncated
    }
}

impl Model {
    /// How many of so many inputs go into one run: two runs for each worker even out that some are slower, more would make
    /// the runs small.
    pub(crate) fn together(&self, handle: &ModelHandle, items: usize) -> usize {
        items.div_ceil(2 * self.workers()).clamp(1, handle.entry_point().max_batch())
    }

    /// Runs batches, as many at once as the workers can take, each prepared when its turn comes, and reads one value for each
    /// of their `items`. The first that fails ends all.
    pub(crate) async fn gather<T, F>(
        &self,
        handle: &ModelHandle,
        outputs: &[&str],
        items: usize,
        batches: Vec<F>,
        mut read: impl FnMut(&Answer) -> Result<Vec<T>, Error>,
    ) -> Result<Answers<T>, Error>
    where
        F: Future<Output = Batch>,
    {
        let runs = batches.into_iter().map(|batch| async move {
            let (items, inputs) = batch.await?;
            let answer = handle.run_for(inputs, outputs).await?;
            Ok::<_, Error>((items, answer))
        });
        let mut runs = futures::stream::iter(runs).buffer_unordered(RUNS_A_WORKER * self.workers());
        let mut values: Vec<Option<T>> = std::iter::repeat_with(|| None).take(items).collect();
        let mut answers = Answers::default();
        while let Some(run) = runs.next().await {
            let (items, answer) = run?;
            let rows = read(&answer)?;
            if rows.len() != items.len() {
                return Err(self.unexpected(format!("{} answers to {} inputs", rows.len(), items.len())));
            }
            for (row, item) in rows.into_iter().zip(&items) {
                values[*item] = Some(row);
            }
            let Answer { worker, api, precision, timing, attempts, .. } = answer;
            answers.runs.push(Run { items, worker, api, precision, timing, attempts });
        }
        let all = values.into_iter().collect::<Option<Vec<_>>>();
        answers.values = all.ok_or_else(|| self.unexpected("no answer to some inputs".to_owned()))?;
        Ok(answers)
    }

    /// The same for texts that are tokens already.
    pub(crate) async fn gather_texts<T>(
        &self,
        handle: &ModelHandle,
        outputs: &[&str],
        batches: Vec<TextBatch>,
        read: impl FnMut(&Answer) -> Result<Vec<T>, Error>,
    ) -> Result<Answers<T>, Error> {
        let items = batches.iter().map(|batch| batch.indices.len()).sum();
        let mut truncated = Vec::new();
        for batch in &batches {
            let cut = batch.indices.iter().zip(&batch.encoded.truncated).filter(|(_, cut)| **cut);
            truncated.extend(cut.map(|(text, _)| *text));
        }
        truncated.sort_unstable();
        let signature = handle.signature();
        let inputs = |batch: TextBatch| {
            let inputs = batch.encoded.inputs(signature);
            std::future::ready(Ok((batch.indices, inputs)))
        };
        let batches = batches.into_iter().map(inputs).collect();
        let answers = self.gather(handle, outputs, items, batches, read).await?;
        Ok(Answers { truncated, ..answers })
    }

    /// An output of a run.
    pub(crate) fn output<'a>(&self, answer: &'a Answer, name: &str) -> Result<&'a Tensor, Error> {
        let found = answer.outputs.iter().find(|(output, _)| output == name).map(|(_, tensor)| tensor);
        found.ok_or_else(|| self.unexpected(format!("no output {name:?}")))
    }

    pub(crate) fn unexpected(&self, what: String) -> Error {
        Error::Unexpected { model: self.handle().name().to_owned(), what }
    }

    pub(crate) fn unfit(&self, reason: impl Into<String>, hint: &'static str) -> Error {
        Error::Unfit { model: self.handle().name().to_owned(), reason: reason.into(), hint }
    }
}

/// Does on a thread for such work what takes the processor a while.
pub(crate) async fn aside<T, E>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Error>
where
    T: Send + 'static,
    E: Send + 'static,
    Error: From<E>,
{
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted { doing })??)
}
