//! Sessions: a model's programs that take turns on one set of states, which lies on one worker.
//!
//! A session's first run goes wherever the pool thinks best; its worker makes the states, and every later run goes to it.
//! What has been computed there is nowhere else, so a later run is tried once: where the worker, its device or the states
//! are lost, the run fails with [`PoolError::SessionLost`], and whoever has the session begins it again from what he knows.
//! Dropping a session frees its states at once, after what was sent to them; a host that forgets to is forgiven by a lease.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tabpool_models::{Generation, Plan, Stage};
use tabpool_protocol::{ApiKind, StateSpec};
use tabpool_scheduler::Placement;
use tabpool_tensor::Tensor;

use crate::actor::Command;
use crate::model::{Made, ProgramEntry, Submission};
use crate::pool::Shared;
use crate::target::scheduler_api;
use crate::{Answer, ModelHandle, PoolError, WorkerId};

/// How long a worker keeps states that no run names: a slow load of another of the session's programs, a reader who thinks.
pub(crate) const LEASE: Duration = Duration::from_secs(600);

/// The number of a session, for the actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// What a session's run tells the actor of the session.
#[derive(Clone)]
pub(crate) struct InSession {
    pub(crate) id: SessionId,
    /// Whether this is the first run, which may go anywhere and has the states made.
    pub(crate) begins: bool,
    pub(crate) specs: Arc<[StateSpec]>,
    pub(crate) lease: Duration,
    /// What will follow the first run where that runs.
    pub(crate) followed: Option<Followed>,
}

/// What follows a session's first run.
#[derive(Clone)]
pub(crate) struct Followed {
    pub(crate) by: Arc<ProgramEntry>,
    /// How many times, about.
    pub(crate) times: f32,
}

/// What sessions and their runs share; the last of them ends the session.
pub(crate) struct Inner {
    shared: Arc<Shared>,
    id: SessionId,
    specs: Arc<[StateSpec]>,
    lease: Duration,
    at: Mutex<Option<(WorkerId, ApiKind)>>,
}

impl Inner {
    /// A session that has not begun.
    pub(crate) fn new(shared: Arc<Shared>, specs: Arc<[StateSpec]>, lease: Duration) -> Arc<Self> {
        Arc::new(Self { id: shared.next_session(), shared, specs, lease, at: Mutex::default() })
    }

    /// Where its states are, once it has begun.
    pub(crate) fn place(&self) -> Option<(WorkerId, ApiKind)> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its first run was answered: that is where its states are.
    pub(crate) fn begun(&self, answer: &Answer) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some((answer.worker, answer.api));
    }

    /// What a run tells the actor of it, and where it may run.
    ///
    /// # Errors
    /// [`PoolError::SessionLost`] for a later run of a session that has not begun.
    pub(crate) fn run(&self, begins: bool, placement: Placement) -> Result<(InSession, Placement), PoolError> {
        let run = InSession { id: self.id, begins, specs: Arc::clone(&self.specs), lease: self.lease, followed: None };
        if begins {
            return Ok((run, placement));
        }
        let not_begun = || PoolError::SessionLost { reason: "it has not begun".to_owned() };
        let (worker, api) = self.place().ok_or_else(not_begun)?;
        Ok((run, placement.pinned(tabpool_scheduler::WorkerId(worker.0)).with(&[scheduler_api(api)])))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.tell(Command::EndSession(self.id));
    }
}

/// A set of states on one worker, and the programs of a model's [`Generation`] that run on it.
pub struct Session {
    handle: ModelHandle,
    plan: Plan,
    /// Steps that are expected.
    steps: usize,
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("plan", &self.plan).field("at", &self.place()).finish_non_exhaustive()
    }
}

impl ModelHandle {
    /// Prepares a session of this model; nothing is asked of a worker before [`Session::begin`].
    ///
    /// # Errors
    /// [`PoolError::NoGeneration`] where the model generates nothing, [`PoolError::Model`] where the plan does not fit it.
    pub fn session(&self, plan: Plan) -> Result<Session, PoolError> {
        let states = self.generation()?.states(&plan).map_err(|source| self.unsound(source))?;
        let specs = states.iter().map(|slot| StateSpec::new(&slot.name, slot.dtype, &slot.shape)).collect();
        let shared = Arc::clone(self.shared());
        Ok(Session { handle: self.clone(), plan, steps: 0, inner: Inner::new(shared, specs, LEASE) })
    }

    /// How the model says one token after another.
    ///
    /// # Errors
    /// [`PoolError::NoGeneration`] where it does not.
    pub fn generation(&self) -> Result<Generation<'_>, PoolError> {
        let none = || PoolError::NoGeneration { model: self.name().to_owned() };
        self.model().generation().ok_or_else(none)
    }
}

impl Session {
    /// The sizes it was made with.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// About so many steps will follow the first run: it begins where those are fast.
    #[must_use]
    pub fn expecting(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Where its states are, once it has begun.
    #[must_use]
    pub fn place(&self) -> Option<(WorkerId, ApiKind)> {
        self.inner.place()
    }

    /// The bytes of its states: what its worker has to have room for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inner.specs.iter().filter_map(StateSpec::bytes).sum()
    }

    /// The first run, which must not depend on what is in the states: [`Stage::Encode`], or [`Stage::Prefill`] from position
    /// 0. It is tried elsewhere where a worker fails. Inputs are those of [`Generation::inputs`], in that order.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn begin(&self, stage: Stage, plan: &Plan, inputs: Vec<Tensor>) -> Result<Answer, PoolError> {
        let answer = self.submit_as(stage, plan, inputs, true).await?.await?;
        self.inner.begun(&answer);
        Ok(answer)
    }

    /// Submits a later run, on whatever the runs submitted before leave in the states. `plan` may differ from the session's in
    /// its chunk and its choice. Several may be under way: they take effect in the order in which they were submitted.
    /// Dropping what this gives cancels the run, unless it has been computed already.
    ///
    /// # Errors
    /// [`PoolError::SessionLost`] where the session has not begun, and [`PoolError`]; those of the run itself come with its
    /// answer.
    pub async fn submit(&self, stage: Stage, plan: &Plan, inputs: Vec<Tensor>) -> Result<Pending, PoolError> {
        self.submit_as(stage, plan, inputs, false).await
    }

    async fn submit_as(
        &self,
        stage: Stage,
        plan: &Plan,
        inputs: Vec<Tensor>,
        begins: bool,
    ) -> Result<Pending, PoolError> {
        let same = Plan { chunk: self.plan.chunk, choice: self.plan.choice, ..*plan };
        if same != self.plan {
            let reason = format!("a plan of {plan:?} on the states of {:?}", self.plan);
            return Err(self.handle.unsound(tabpool_models::ModelError::Plan { reason }));
        }
        let (mut session, placement) = self.inner.run(begins, *self.handle.placement())?;
        if begins && self.steps > 0 {
            let by = self.handle.program(Made::Stage { stage: Stage::Step, plan: self.plan }).await?;
            session.followed = Some(Followed { by, times: f32::from(u16::try_from(self.steps).unwrap_or(u16::MAX)) });
        }
        let tokens = match stage {
            Stage::Encode => plan.source,
            Stage::Prefill => plan.chunk,
            _ => 1,
        };
        let program = self.handle.program(Made::Stage { stage, plan: *plan }).await?;
        let work = Submission {
            program,
            placement,
            tensors: inputs,
            rows: plan.batch,
            tokens: plan.batch * tokens,
            session: Some(session),
        };
        let pending = self.handle.submit(work).await?;
        Ok(Pending { run: pending, _session: Arc::clone(&self.inner) })
    }
}

/// A run of a session that was submitted: a future of its answer. It keeps the session's states.
#[must_use = "dropping it cancels the run"]
pub struct Pending {
    // Before the session, which may end with it.
    run: crate::model::Pending,
    _session: Arc<Inner>,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

impl Future for Pending {
    type Output = Result<Answer, PoolError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.run).poll(context)
    }
}
