//! Models of a pool: asking for one, and running it.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tabpool_bridge::WorkerId;
use tabpool_content::Cid;
use tabpool_graph::{KeptValue, Program};
use tabpool_metrics::ModelIdentity;
use tabpool_models::{Bucket, EntryPoint, Model, ModelError, Plan, Signature, Stage};
use tabpool_protocol::ApiKind;
use tabpool_scheduler::{ClientId, ModelId, Needs, Placement, ProgramId, RequestId, WeightId};
use tabpool_tensor::{DType, Precision, Shape, Tensor};
use tokio::sync::oneshot;

use crate::actor::{Command, Job, RawAnswer};
use crate::batching::{Batcher, Batching, GroupKey};
use crate::pool::Shared;
use crate::session::InSession;
use crate::target::{Target, scheduler_api};
use crate::{ModelKind, PoolError};

/// The output that sentence encoders have besides those of their network.
const SENTENCE_EMBEDDING: &str = "sentence_embedding";

/// Which model, and where it may run.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until a pool is given it"]
pub struct ModelRequest {
    pub(crate) name: String,
    pub(crate) root: Option<Cid>,
    /// What it works on, if whoever asked for it has said so.
    pub(crate) kind: Option<ModelKind>,
    placement: Placement,
    client: ClientId,
    priority: i8,
    timeout: Option<Duration>,
    precision: Precision,
    batching: Option<Batching>,
}

impl ModelRequest {
    /// A model by its name in the pool's library, or by its folder's path.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            root: None,
            kind: None,
            placement: Placement::ANY,
            client: ClientId::default(),
            priority: 0,
            timeout: None,
            precision: Precision::F32,
            batching: None,
        }
    }

    /// The folder's CID, so that the name is only what people call it.
    pub fn root(mut self, root: Cid) -> Self {
        self.root = Some(root);
        self
    }

    /// What the model works on; told by its inputs where it is not said.
    pub fn kind(mut self, kind: ModelKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Only these APIs, best first.
    pub fn hardware(mut self, apis: impl IntoIterator<Item = ApiKind>) -> Self {
        let apis: Vec<_> = apis.into_iter().map(scheduler_api).collect();
        self.placement = self.placement.with(&apis);
        self
    }

    /// The least exact arithmetic that its linear layers may be computed with; 32 bits by default. A worker uses what is
    /// fastest on its device among what is permitted, and every answer says what that was.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Only this kind of worker, this API, or both.
    pub fn on(mut self, target: Target) -> Self {
        let wanted = target.placement();
        if target.kind.is_some() {
            self.placement.kinds = wanted.kinds;
        }
        if target.api.is_some() {
            self.placement.apis = wanted.apis;
        }
        self
    }

    /// Only this worker.
    pub fn pinned(mut self, worker: WorkerId) -> Self {
        self.placement = self.placement.pinned(tabpool_scheduler::WorkerId(worker.0));
        self
    }

    /// Runs requests that wait together, up to so many rows; as the pool does where it is not said.
    pub fn batching(mut self, batching: Batching) -> Self {
        self.batching = Some(batching);
        self
    }

    /// On whose behalf. While there is more to do than the pool can, each client gets as much of its time as the others, however
    /// much each asks for; requests of nobody in particular are of one client, too.
    pub fn client(mut self, name: &str) -> Self {
        self.client = ClientId::named(name);
        self
    }

    /// Higher goes first among the requests of a client; 0 by default.
    pub fn priority(mut self, priority: i8) -> Self {
        self.priority = priority;
        self
    }

    /// How long an answer is of use; two minutes by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From submission to being sent to the worker that answered.
    pub queue_wait: Duration,
    /// On the wire, both ways, and in the worker's queue.
    pub transfer: Duration,
    /// On the device.
    pub compute: Duration,
    /// From the device's memory to the worker's.
    pub readback: Duration,
    /// From submission to the answer.
    pub total: Duration,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The outputs, in the order they were asked for.
    pub outputs: Vec<(String, Tensor)>,
    /// Who ran it.
    pub worker: WorkerId,
    /// With which API.
    pub api: ApiKind,
    /// The least exact arithmetic that its linear layers were computed with.
    pub precision: Precision,
    /// Where the time went.
    pub timing: Timing,
    /// Attempts it took; 1 where the first gave the answer.
    pub attempts: u32,
}

/// A program as the actor knows it.
pub(crate) struct ProgramEntry {
    pub(crate) id: ProgramId,
    pub(crate) model: ModelId,
    pub(crate) identity: Arc<ModelIdentity>,
    pub(crate) bucket: Bucket,
    /// The least exact arithmetic permitted.
    pub(crate) precision: Precision,
    /// The encoding, as it travels.
    pub(crate) encoded: Tensor,
    /// The names of what it is given, in order.
    pub(crate) inputs: Vec<String>,
    /// The names of what it gives, in order.
    names: Vec<String>,
    /// Its states.
    pub(crate) states: Vec<KeptValue>,
    /// What the model works on.
    pub(crate) kind: ModelKind,
    /// What it takes on a device, as far as its graph tells.
    pub(crate) needs: Needs,
    /// What it gives, in order. An answer that is anything else is not believed.
    pub(crate) outputs: Vec<(DType, Shape)>,
}

impl ProgramEntry {
    /// Whether these tensors are what the program gives, and if not, what is wrong. Their values say nothing.
    pub(crate) fn fits(&self, tensors: &[Tensor]) -> Result<(), String> {
        if tensors.len() != self.outputs.len() {
            return Err(format!("{} outputs came, {} were wanted", tensors.len(), self.outputs.len()));
        }
        for (index, (got, (dtype, shape))) in tensors.iter().zip(&self.outputs).enumerate() {
            if (got.dtype(), got.shape()) != (*dtype, shape) {
                return Err(format!("output {index} is {}{}, {dtype}{shape} was wanted", got.dtype(), got.shape()));
            }
        }
        Ok(())
    }
}

/// What a model works on, by what it takes.
fn kind_of(signature: &Signature) -> ModelKind {
    let takes = |name: &str| signature.input(name).is_some();
    if takes("pixel_values") {
        ModelKind::Vision
    } else if takes("input_features") || takes("input_values") {
        ModelKind::Audio
    } else {
        ModelKind::Text
    }
}

/// The weights of a program, by what they are made of: the same blocks are the same elements, on a device too if they are
/// laid out for the same permission.
fn needs(program: &Program) -> Needs {
    let weights = program.graph().weights().iter().map(|weight| {
        let mut hasher = DefaultHasher::new();
        (program.precision(), weight.stored).hash(&mut hasher);
        for block in &weight.blocks {
            block.cid.hash(&mut hasher);
        }
        let bytes = weight.blocks.iter().map(|block| u64::from(block.len)).sum();
        (WeightId(hasher.finish()), bytes)
    });
    // A weight that is used twice under two names is there once.
    let weights: BTreeMap<WeightId, u64> = weights.collect();
    Needs { weights: weights.into_iter().collect(), scratch: 0 }
}

/// What a program of a model is built from; all of it comes from short lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProgramKey {
    made: Made,
    precision: Precision,
}

/// The part of a model that a program is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Made {
    /// An entry point, for these outputs.
    Entry { entry: &'static str, bucket: Bucket, outputs: Vec<String> },
    /// An entry point whose outputs stay on the worker.
    Keeping { entry: &'static str, bucket: Bucket, kept: Vec<String> },
    /// An entry point, for these outputs, from what stayed there on.
    Continuing {
        entry: &'static str,
        bucket: Bucket,
        outputs: Vec<String>,
        values: Vec<KeptValue>,
        stands_for: Vec<Option<String>>,
    },
    /// A stage of its generation.
    Stage { stage: Stage, plan: Plan },
}

impl Made {
    fn program(&self, model: &Model) -> Result<Program, ModelError> {
        fn borrowed(names: &[String]) -> Vec<&str> {
            names.iter().map(String::as_str).collect()
        }
        match self {
            Self::Entry { entry, bucket, outputs } => model.entry(entry)?.program(*bucket, &borrowed(outputs)),
            Self::Keeping { entry, bucket, kept } => model.entry(entry)?.keeping_program(*bucket, &borrowed(kept)),
            Self::Continuing { entry, bucket, outputs, values, stands_for } => {
                model.entry(entry)?.continuing_program(*bucket, &borrowed(outputs), values, stands_for)
            }
            Self::Stage { stage, plan } => {
                let none = || ModelError::Plan { reason: "the model generates nothing".to_owned() };
                model.generation().ok_or_else(none)?.program(*stage, plan)
            }
        }
    }

    /// Its size, as it is recorded.
    fn bucket(&self) -> Bucket {
        match self {
            Self::Entry { bucket, .. } | Self::Keeping { bucket, .. } | Self::Continuing { bucket, .. } => *bucket,
            Self::Stage { stage, plan } => {
                let sequence = match stage {
                    Stage::Encode => plan.source,
                    Stage::Prefill => plan.chunk,
                    _ => 1,
                };
                Bucket { batch: plan.batch, sequence }
            }
        }
    }
}

/// A run to be submitted.
pub(crate) struct Submission {
    pub(crate) program: Arc<ProgramEntry>,
    pub(crate) placement: Placement,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) rows: usize,
    pub(crate) tokens: usize,
    pub(crate) session: Option<InSession>,
}

/// A run that was submitted: a future of its answer, uncut. Dropping it cancels the run.
pub(crate) struct Pending {
    shared: Arc<Shared>,
    request: Option<RequestId>,
    answer: oneshot::Receiver<Result<RawAnswer, PoolError>>,
    program: Arc<ProgramEntry>,
}

impl Future for Pending {
    type Output = Result<Answer, PoolError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = ready!(Pin::new(&mut self.answer).poll(context));
        self.request = None;
        Poll::Ready(answered.map_err(|_| PoolError::Closed).flatten().map(|raw| {
            let RawAnswer { tensors, worker, api, precision, timing, attempts } = raw;
            let outputs = self.program.names.iter().cloned().zip(tensors).collect();
            Answer { outputs, worker, api, precision, timing, attempts }
        }))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            self.shared.tell(Command::Cancel(request));
        }
    }
}

/// A model that was opened.
pub(crate) struct ModelEntry {
    pub(crate) id: ModelId,
    pub(crate) root: Cid,
    pub(crate) identity: Arc<ModelIdentity>,
    pub(crate) model: Model,
    programs: Mutex<HashMap<ProgramKey, Arc<ProgramEntry>>>,
    batcher: Batcher,
}

impl ModelEntry {
    pub(crate) fn new(id: ModelId, root: Cid, name: &str, model: Model) -> Self {
        let identity = Arc::new(ModelIdentity { name: name.to_owned(), cid: root.to_string() });
        Self { id, root, identity, model, programs: Mutex::default(), batcher: Batcher::default() }
    }
}

/// A model of a pool, ready to be run. Cloning gives another handle to the same model.
#[derive(Clone)]
pub struct ModelHandle {
    shared: Arc<Shared>,
    opened: Arc<ModelEntry>,
    kind: ModelKind,
    /// The entry point that is run.
    entry: &'static str,
    placement: Placement,
    client: ClientId,
    priority: i8,
    timeout: Option<Duration>,
    precision: Precision,
    batching: Batching,
}

impl std::fmt::Debug for ModelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelHandle")
            .field("name", &self.name())
            .field("placement", &self.placement)
            .finish_non_exhaustive()
    }
}

impl ModelHandle {
    pub(crate) fn new(shared: Arc<Shared>, opened: Arc<ModelEntry>, request: &ModelRequest) -> Self {
        let ModelRequest { kind, placement, client, priority, timeout, precision, batching, .. } = *request;
        let kind = kind.unwrap_or_else(|| kind_of(opened.model.first().signature()));
        let entry = opened.model.first().name();
        let batching = batching.unwrap_or(shared.batching);
        Self { shared, opened, kind, entry, placement, client, priority, timeout, precision, batching }
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.opened.identity.name
    }

    /// The CID of its folder.
    #[must_use]
    pub fn root(&self) -> &Cid {
        &self.opened.root
    }

    /// What it takes and gives.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        self.entry_point().signature()
    }

    /// The entry point that is run: the one that stands for the model, or that of [`entry`](Self::entry).
    #[must_use]
    pub fn entry_point(&self) -> EntryPoint<'_> {
        // The name came from this model.
        self.opened.model.entry(self.entry).unwrap_or_else(|_| self.opened.model.first())
    }

    /// The same model, run at another of its entry points, as in `text`, `vision`, `audio` or `encoder`.
    ///
    /// # Errors
    /// [`PoolError::Model`] with the names there are.
    pub fn entry(&self, name: &str) -> Result<Self, PoolError> {
        let found = self.opened.model.entry(name).map_err(|source| self.unsound(source))?;
        Ok(Self { entry: found.name(), ..self.clone() })
    }

    /// The model as read from its folder: its buckets and limits.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.opened.model
    }

    /// The same model for pictures of another height and width, in pixels; see [`Model::for_pictures`].
    ///
    /// # Errors
    /// [`PoolError::Model`] where it takes none, or none of that size.
    pub async fn for_pictures(&self, height: usize, width: usize) -> Result<Self, PoolError> {
        let (shared, name, root) = (Arc::clone(&self.shared), self.name().to_owned(), *self.root());
        let opened = tokio::task::spawn_blocking(move || shared.open(&name, root, Some([height, width])));
        let opened = opened.await.map_err(|_| PoolError::Closed)??;
        opened.model.entry(self.entry).map_err(|source| self.unsound(source))?;
        Ok(Self { opened, ..self.clone() })
    }

    /// The same model, run only on one worker.
    #[must_use]
    pub fn pinned(&self, worker: WorkerId) -> Self {
        Self { placement: self.placement.pinned(tabpool_scheduler::WorkerId(worker.0)), ..self.clone() }
    }

    /// The same model with another permission; see [`ModelRequest::precision`].
    #[must_use]
    pub fn precision(&self, precision: Precision) -> Self {
        Self { precision, ..self.clone() }
    }

    /// The same model, run on behalf of a client; see [`ModelRequest::client`].
    #[must_use]
    pub fn client(&self, name: &str) -> Self {
        Self { client: ClientId::named(name), ..self.clone() }
    }

    /// The same model, run only on a target.
    #[must_use]
    pub fn on(&self, target: Target) -> Self {
        Self { placement: target.placement(), ..self.clone() }
    }

    /// Runs the model once and gives every output of its network (not `sentence_embedding`, which is asked for by name).
    /// Dropping the future cancels the request.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<Answer, PoolError> {
        let names: Vec<_> =
            self.signature().outputs.iter().map(|o| o.name).filter(|&n| n != SENTENCE_EMBEDDING).collect();
        self.run_for(inputs, &names).await
    }

    /// Runs the model once and gives these outputs. Dropping the future cancels the request.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn run_for(&self, inputs: Vec<(String, Tensor)>, outputs: &[&str]) -> Result<Answer, PoolError> {
        let names: Vec<String> = outputs.iter().map(ToString::to_string).collect();
        let prepared = self.entry_point().prepare(&inputs, &names).map_err(|source| self.refused(source))?;
        let tokens = inputs.iter().map(|(_, t)| t.shape().elements()).max().unwrap_or_default();
        let rows = inputs.first().and_then(|(_, t)| t.shape().first().copied()).unwrap_or_default();
        if self.batching.most() > 1 && prepared.rows().is_some_and(|rows| rows < self.batching.most()) {
            return self.run_batched(self.group(prepared.bucket.sequence, names), prepared, tokens).await;
        }
        let program = self.program(Made::Entry { entry: self.entry, bucket: prepared.bucket, outputs: names }).await?;
        let work =
            Submission { program, placement: self.placement, tensors: prepared.tensors, rows, tokens, session: None };
        let mut answer = self.submit(work).await?.await?;
        let tensors = answer.outputs.into_iter().map(|(_, tensor)| tensor).collect();
        answer.outputs = prepared.crop.apply(tensors).map_err(|source| PoolError::unfit(answer.worker, &source))?;
        Ok(answer)
    }

    /// Submits a run; what comes back is not cut.
    pub(crate) async fn submit(&self, work: Submission) -> Result<Pending, PoolError> {
        let Submission { program, placement, tensors, rows, tokens, session } = work;
        let (reply, answer) = oneshot::channel();
        let request = self.shared.next_request();
        let (client, priority, timeout) = (self.client, self.priority, self.timeout);
        let job = Job {
            request,
            program: Arc::clone(&program),
            placement,
            client,
            priority,
            timeout,
            tensors,
            rows,
            tokens,
            session,
            reply,
        };
        self.shared.commands.send(Command::Submit(Box::new(job))).await.map_err(|_| PoolError::Closed)?;
        Ok(Pending { shared: Arc::clone(&self.shared), request: Some(request), answer, program })
    }

    /// What a request has in common with those it may share a run with.
    fn group(&self, sequence: usize, outputs: Vec<String>) -> GroupKey {
        let Self { entry, precision, placement, client, priority, timeout, batching, .. } = *self;
        GroupKey { entry, sequence, outputs, precision, placement, client, priority, timeout, batching }
    }

    /// Which entry point is run.
    pub(crate) fn entry_name(&self) -> &'static str {
        self.entry
    }

    pub(crate) fn batcher(&self) -> &Batcher {
        &self.opened.batcher
    }

    /// How many runs of this model may be under way before others wait for company: one at work and one on its way for each
    /// worker.
    pub(crate) fn room_for_runs(&self) -> usize {
        (self.shared.joined() * 2).max(1)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    pub(crate) fn refused(&self, source: tabpool_models::RequestError) -> PoolError {
        PoolError::Request { model: self.name().to_owned(), source: Box::new(source) }
    }

    pub(crate) fn unsound(&self, source: ModelError) -> PoolError {
        PoolError::Model { name: self.name().to_owned(), source: Box::new(source) }
    }

    /// A program of the model, built at its first use.
    pub(crate) async fn program(&self, made: Made) -> Result<Arc<ProgramEntry>, PoolError> {
        let key = ProgramKey { made, precision: self.precision };
        if let Some(known) = self.opened.programs.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(known));
        }
        let (opened, id) = (Arc::clone(&self.opened), self.shared.next_program());
        let (kind, precision) = (self.kind, self.precision);
        // Building reads nothing but what the model read when it was opened, yet takes milliseconds.
        let built = tokio::task::spawn_blocking(move || {
            let program = key.made.program(&opened.model)?.permitting(precision);
            let graph = program.graph();
            let inputs = graph.inputs().iter().map(|id| graph.value(*id).name.clone()).collect();
            let states = graph.kept();
            let names = graph.outputs().iter().map(|output| output.name.clone()).collect();
            let values = graph.outputs().iter().map(|output| graph.value(output.value));
            let outputs = values.map(|value| (value.dtype, value.shape.clone())).collect();
            let needs = needs(&program);
            let bytes = program.encode();
            let (model, identity, bucket) = (opened.id, Arc::clone(&opened.identity), key.made.bucket());
            let encoded = Tensor::new(DType::U8, [bytes.len()], bytes.into());
            Ok((
                key,
                encoded.map(|encoded| ProgramEntry {
                    id,
                    model,
                    identity,
                    bucket,
                    precision,
                    encoded,
                    inputs,
                    names,
                    states,
                    kind,
                    needs,
                    outputs,
                }),
            ))
        });
        let built = built.await.map_err(|_| PoolError::Closed)?;
        let (key, built) = built.map_err(|source| self.unsound(source))?;
        let built = built.map_err(|e| PoolError::Answer { worker: "this host".to_owned(), reason: e.to_string() })?;
        let mut programs = self.opened.programs.lock().unwrap_or_else(PoisonError::into_inner);
        // Two first uses may have built it at once; the first one's is the one both use.
        Ok(Arc::clone(programs.entry(key).or_insert_with(|| Arc::new(built))))
    }
}
