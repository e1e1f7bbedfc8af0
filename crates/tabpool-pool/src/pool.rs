//! The handle to a pool, and its start.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tabpool_bridge::Bridge;
use tabpool_browser::{discover, sweep};
use tabpool_content::{BlockStore, Cid, DiskStore, ImportOptions, RefStore, import_folder};
use tabpool_metrics::{MetricsStore, Reader, Recorder, StoreOptions};
use tabpool_models::Model;
use tabpool_scheduler::{ModelId, ProgramId, RequestId};
use tabpool_tensor::Tensor;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::actor::{Actor, Command, GroupPlan, HeldBack, Setup, SlotPlan};
use crate::assets;
use crate::history::History;
use crate::join::Tickets;
use crate::listening::Listening;
use crate::metrics::Counters;
use crate::model::ModelEntry;
use crate::referee::Referee;
use crate::server::Served;
use crate::session::SessionId;
use crate::tuning::Tunings;
use crate::{
    Answer, Batching, JoinOptions, JoinTicket, ModelHandle, ModelRequest, PoolBuilder, PoolError, PoolEvent,
    PoolMetrics, WorkerSpec, WorkerState, WorkerView,
};

/// Commands that wait for the actor at most; then callers wait.
const INBOX: usize = 1024;
/// Events a slow watcher may fall behind before it misses some.
const WATCHERS_BEHIND: usize = 1024;
/// How long closing may take before what is left is dropped.
const CLOSING: Duration = Duration::from_secs(15);

/// A folder, and the height and width of pictures where they are not those that its model was made for.
type ModelKey = (Cid, Option<[usize; 2]>);

/// What handles and actor share.
pub(crate) struct Shared {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) store: Arc<dyn BlockStore>,
    refs: RefStore,
    models: Mutex<HashMap<ModelKey, Arc<ModelEntry>>>,
    events: broadcast::Sender<PoolEvent>,
    views: watch::Receiver<Vec<WorkerView>>,
    counters: Arc<Mutex<Counters>>,
    requests: AtomicU64,
    programs: AtomicU64,
    sessions: AtomicU64,
    pub(crate) batching: Batching,
    pub(crate) held_back: HeldBack,
    /// Whether it may be ready without a worker.
    sleeps: bool,
    /// Whether anybody was given a way to join.
    pub(crate) invited: AtomicBool,
}

impl Shared {
    /// Tells the actor something from where nobody can wait: a destructor. Where the inbox is full a task waits.
    pub(crate) fn tell(&self, command: Command) {
        if let Err(TrySendError::Full(command)) = self.commands.try_send(command)
            && let Ok(runtime) = Handle::try_current()
        {
            let commands = self.commands.clone();
            runtime.spawn(async move { commands.send(command).await });
        }
    }

    /// Workers that are here.
    pub(crate) fn joined(&self) -> usize {
        self.views.borrow().iter().filter(|view| view.id.is_some()).count()
    }

    pub(crate) fn next_session(&self) -> SessionId {
        SessionId(self.sessions.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn next_request(&self) -> RequestId {
        RequestId(self.requests.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn next_program(&self) -> ProgramId {
        ProgramId(self.programs.fetch_add(1, Ordering::Relaxed))
    }

    /// The model in a folder, for pictures of this height and width where they are not those it was made for. Blocks.
    pub(crate) fn open(
        self: &Arc<Self>,
        name: &str,
        root: Cid,
        pictures: Option<[usize; 2]>,
    ) -> Result<Arc<ModelEntry>, PoolError> {
        let key = (root, pictures);
        if let Some(known) = self.models.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(known));
        }
        let refused = |source| PoolError::Model { name: name.to_owned(), source: Box::new(source) };
        let model = Model::open(&*self.store, &root).map_err(refused)?;
        let model = match pictures {
            Some([height, width]) => model.for_pictures(height, width).map_err(refused)?,
            None => model,
        };
        let entry = {
            let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
            let id = ModelId(models.len() as u64 + 1);
            let entry = models.entry(key).or_insert_with(|| Arc::new(ModelEntry::new(id, root, name, model)));
            Arc::clone(entry)
        };
        self.expect_model(&entry);
        Ok(entry)
    }

    /// The models opened so far.
    pub(crate) fn opened(&self) -> Vec<Arc<ModelEntry>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// A pool of workers. Dropping it ends everything it started; [`close`](Self::close) does so in order.
pub struct ResourcePool {
    shared: Arc<Shared>,
    bridge: Bridge,
    tickets: Arc<Tickets>,
    url: String,
    data_dir: PathBuf,
    actor: Option<JoinHandle<()>>,
    servers: JoinSet<()>,
    metrics: Option<MetricsStore>,
    /// Last, so that a temporary data directory is removed when nothing uses it any more.
    _temporary: Option<TempDir>,
}

impl std::fmt::Debug for ResourcePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResourcePool").field("url", &self.url).field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

impl ResourcePool {
    /// Sets up a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    pub(crate) async fn start(builder: PoolBuilder) -> Result<Self, PoolError> {
        if !builder.listen.ip().is_loopback() {
            return Err(PoolError::NotLoopback(builder.listen));
        }
        let (data_dir, temporary) = data_dir(builder.data_dir.as_deref())?;
        let store: Arc<dyn BlockStore> = Arc::new(DiskStore::open(data_dir.join("blocks"))?);
        let refs = RefStore::open(data_dir.join("refs"))?;
        let options = StoreOptions::default().program(builder.program.clone());
        let metrics = if builder.metrics {
            MetricsStore::open(data_dir.join("metrics.duckdb"), options)?
        } else {
            MetricsStore::in_memory(options)?
        };
        let known = if builder.tuning.starts_anew() { Vec::new() } else { metrics.reader()?.tunings()? };
        let history = History::new(metrics.reader()?.past_latencies()?);
        let profiles = data_dir.join("profiles");
        let (slots, groups) = plans(&builder, &profiles).await?;
        let sleeps = slots.is_empty() && groups.iter().all(|group| group.config.min == 0);

        let mut config = builder.bridge.clone();
        config.most_workers = config.most_workers.min(builder.max_connections);
        let (bridge, bridge_events) = Bridge::new(config);
        let counters = Arc::new(Mutex::new(Counters::default()));
        let served = Served { bridge: bridge.clone(), store: Arc::clone(&store), counters: Arc::clone(&counters) };
        let Listening { url, join_url, servers } =
            Listening::start(builder.listen, builder.join_from.as_ref(), served).await?;

        let (commands, inbox) = mpsc::channel(INBOX);
        let (events, _) = broadcast::channel(WATCHERS_BEHIND);
        let (publish, views) = watch::channel(Vec::new());
        let held_back = HeldBack::default();
        let referee = builder.checking.is_on().then(|| Referee::start(Arc::clone(&store), commands.clone()));
        let referee = referee.transpose().map_err(PoolError::Thread)?;
        let tickets = Arc::new(Tickets::new(bridge.clone(), join_url));
        let actor = Actor::new(Setup {
            config: builder.scheduler.clone(),
            slots,
            groups,
            ceiling: builder.memory_ceiling,
            most_workers: builder.max_connections,
            held_back: held_back.clone(),
            bridge: bridge.clone(),
            url: url.clone(),
            store: Arc::clone(&store),
            recorder: metrics.recorder(),
            commands: commands.clone(),
            events: events.clone(),
            views: publish,
            counters: Arc::clone(&counters),
            sample_every: builder.sample_every,
            tuning: builder.tuning,
            tunings: Tunings::new(known),
            history,
            preferences: builder.preferences.clone(),
            checking: builder.checking,
            referee,
            tickets: Arc::clone(&tickets),
        })?;
        let actor = Some(tokio::spawn(actor.run(inbox, bridge_events)));
        let shared = Shared {
            commands,
            store,
            refs,
            models: Mutex::default(),
            events,
            views,
            counters,
            requests: AtomicU64::new(1),
            programs: AtomicU64::new(1),
            sessions: AtomicU64::new(1),
            batching: builder.batching,
            held_back,
            sleeps,
            invited: AtomicBool::new(false),
        };
        let (shared, metrics) = (Arc::new(shared), Some(metrics));
        Ok(Self { shared, bridge, tickets, url, data_dir, actor, servers, metrics, _temporary: temporary })
    }

    /// Opens a model: its folder's config and headers are read, its weights stay where they are.
    ///
    /// # Errors
    /// [`PoolError::UnknownModel`], or whatever is wrong with the folder.
    pub async fn model(&self, request: ModelRequest) -> Result<ModelHandle, PoolError> {
        let (shared, name, root) = (Arc::clone(&self.shared), request.name.clone(), request.root);
        let opened = tokio::task::spawn_blocking(move || {
            let root = root.map_or_else(|| resolve(&shared, &name), Ok)?;
            shared.open(&name, root, None)
        });
        let entry = opened.await.map_err(|_| PoolError::Closed)??;
        Ok(ModelHandle::new(Arc::clone(&self.shared), entry, &request))
    }

    /// Runs several models at once; answers come in the order of the requests.
    pub async fn execute_concurrent(
        &self,
        requests: impl IntoIterator<Item = (&ModelHandle, Vec<(String, Tensor)>)>,
    ) -> Vec<Result<Answer, PoolError>> {
        join_all(requests.into_iter().map(|(model, inputs)| model.run(inputs))).await
    }

    /// Waits until every slot has a worker.
    ///
    /// # Errors
    /// [`PoolError::NotReady`] when the time is over or a slot was set aside, with the reasons as far as known.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), PoolError> {
        let mut views = self.shared.views.clone();
        let sleeps = self.shared.sleeps;
        let ready = |views: &Vec<WorkerView>| {
            (sleeps || !views.is_empty()) && views.iter().all(|v| v.id.is_some() || v.state == WorkerState::SetAside)
        };
        let waited = tokio::time::timeout(timeout, views.wait_for(ready)).await;
        // What was found is a lock held for reading: the actor could not publish while it is, and `workers` would wait for
        // the actor.
        let waited = waited.map(|found| found.map(drop));
        let missing: Vec<String> = self.workers().iter().filter(|v| v.id.is_none()).map(describe_missing).collect();
        match waited {
            Ok(Err(_)) => Err(PoolError::Closed),
            Ok(Ok(_)) if missing.is_empty() => Ok(()),
            _ => Err(PoolError::NotReady { waited: timeout, missing: missing.join("; ") }),
        }
    }

    /// The workers and the slots that wait for one, at the moment.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerView> {
        self.shared.views.borrow().clone()
    }

    /// What happens from now on. A watcher that falls far behind misses the oldest events.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<PoolEvent> {
        self.shared.events.subscribe()
    }

    /// Figures since the pool started.
    #[must_use]
    pub fn metrics(&self) -> PoolMetrics {
        self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner).figures()
    }

    /// Writes measurements of the caller's own beside the pool's.
    #[must_use]
    pub fn recorder(&self) -> Option<Recorder> {
        self.metrics.as_ref().map(MetricsStore::recorder)
    }

    /// Waits until everything measured so far is in the database, and reads from it. Blocks; see
    /// [`tabpool_metrics::Reader`].
    ///
    /// # Errors
    /// [`PoolError::Flush`] or [`PoolError::Query`].
    pub async fn metrics_reader(&self) -> Result<Reader, PoolError> {
        let store = self.metrics.as_ref().ok_or(PoolError::Closed)?;
        store.recorder().flush().await?;
        Ok(store.reader()?)
    }

    /// The folder that holds blocks, refs, profiles and `metrics.duckdb`.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The blocks of this pool's models.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn BlockStore> {
        &self.shared.store
    }

    /// A ticket: a URL that makes tabs workers of this pool, until it expires or is revoked.
    ///
    /// # Errors
    /// [`PoolError::Join`] where the options would let nobody in.
    pub fn join(&self, options: JoinOptions) -> Result<JoinTicket, PoolError> {
        let ticket = self.tickets.issue(options)?;
        self.shared.expect_guests();
        Ok(ticket)
    }

    /// The URL of a new ticket that lets any number of tabs in for a day: [`join`](Self::join) with nothing said.
    #[must_use]
    pub fn join_url(&self) -> String {
        let ticket = self.tickets.issue_unchecked(JoinOptions::default());
        self.shared.expect_guests();
        ticket.url().to_owned()
    }

    /// The tickets that let tabs in, and those that brought tabs that are still here; oldest first.
    #[must_use]
    pub fn tickets(&self) -> Vec<JoinTicket> {
        self.tickets.all()
    }

    /// Ends everything in order: nobody joins any more, waiting requests are answered, browsers close, measurements
    /// are written.
    ///
    /// # Errors
    /// [`PoolError::Flush`] where measurements could not be written.
    pub async fn close(mut self) -> Result<(), PoolError> {
        self.bridge.stop_admission();
        let (done, closed) = oneshot::channel();
        if self.shared.commands.send(Command::Close(done)).await.is_ok() {
            // An actor that does not finish in time is dropped, which ends browsers all the same.
            let _ = tokio::time::timeout(CLOSING, closed).await;
        }
        self.end().await;
        if let Some(metrics) = self.metrics.take() {
            tokio::task::spawn_blocking(move || metrics.close()).await.map_err(|_| PoolError::Closed)??;
        }
        Ok(())
    }

    async fn end(&mut self) {
        self.servers.abort_all();
        if let Some(actor) = self.actor.take() {
            actor.abort();
            let _ = actor.await;
        }
    }
}

impl Drop for ResourcePool {
    fn drop(&mut self) {
        // Dropping the actor drops its browsers, which ends them at once.
        self.servers.abort_all();
        if let Some(actor) = &self.actor {
            actor.abort();
        }
    }
}

fn describe_missing(view: &WorkerView) -> String {
    let slot = view.slot.map_or_else(String::new, |slot| format!(" in slot {slot}"));
    let why = if view.last_reason.is_empty() { "still starting" } else { &view.last_reason };
    format!("{}{slot}: {why}", view.kind)
}

fn data_dir(wanted: Option<&Path>) -> Result<(PathBuf, Option<TempDir>), PoolError> {
    let (path, temporary) = match wanted {
        Some(path) => (path.to_owned(), None),
        None => {
            let made = tempfile::Builder::new().prefix("tabpool-").tempdir();
            let folder = made.map_err(|source| PoolError::DataDir { path: std::env::temp_dir(), source })?;
            (folder.path().to_owned(), Some(folder))
        }
    };
    std::fs::create_dir_all(&path).map_err(|source| PoolError::DataDir { path: path.clone(), source })?;
    // Browsers are given the profile's path and must find it from wherever they run.
    let path = path.canonicalize().map_err(|source| PoolError::DataDir { path: path.clone(), source })?;
    Ok((path, temporary))
}

/// Finds the browser of each slot. Profiles that an earlier host left behind are swept first.
async fn plans(builder: &PoolBuilder, profiles: &Path) -> Result<(Vec<SlotPlan>, Vec<GroupPlan>), PoolError> {
    let wants_browser = builder.workers.iter().any(|w| w.browser.is_some());
    let (search, folder) = (builder.search.clone(), profiles.to_owned());
    let found = tokio::task::spawn_blocking(move || {
        if folder.is_dir() {
            let report = sweep(&folder);
            tracing::debug!(?report, "swept stale profiles");
        }
        wants_browser.then(|| discover(&search))
    });
    let found = found.await.map_err(|_| PoolError::Closed)?;
    if wants_browser && !assets::present() {
        return Err(PoolError::NoRuntime);
    }
    let mut numbers = HashMap::new();
    let mut plan = |spec: &WorkerSpec| {
        let browser = match spec.browser {
            None => None,
            Some(kind) => {
                let number = numbers.entry(kind).or_insert(0u32);
                let kept = (spec.profile == crate::Profile::Kept).then(|| format!("{kind}-{number}"));
                *number += 1;
                let found = found.as_ref();
                let installed = found.and_then(|f| f.of_kind(kind)).cloned().ok_or_else(|| {
                    let unusable = found.and_then(|f| f.unusable.iter().find(|u| u.kind == kind));
                    let unusable = unusable.map(|u| format!("{} {}", u.path.display(), u.reason));
                    PoolError::NoBrowser { kind, unusable }
                })?;
                let gpu = spec.gpu.unwrap_or_else(tabpool_browser::GpuMode::detect);
                Some(crate::launch::BrowserPlan { installed, profiles: profiles.to_owned(), kept, gpu })
            }
        };
        Ok::<_, PoolError>(SlotPlan { spec: spec.clone(), browser })
    };
    let (mut slots, mut groups) = (Vec::new(), Vec::new());
    for spec in &builder.workers {
        match spec.scaling {
            None => slots.push(plan(spec)?),
            Some(config) => {
                let most = config.max.clamp(1, builder.max_connections);
                let plans = (0..most).map(|_| plan(spec)).collect::<Result<_, _>>()?;
                groups.push(GroupPlan { config, plans });
            }
        }
    }
    Ok((slots, groups))
}

/// The CID of a model's folder: that of its name in the library, or of the folder of that path, imported now.
fn resolve(shared: &Shared, name: &str) -> Result<Cid, PoolError> {
    // A path such as `../x` is no valid name of the library, so its refusal there is not the last word.
    if let Ok(Some(root)) = shared.refs.get(name) {
        return Ok(root);
    }
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(import_folder(path, &*shared.store, &ImportOptions::default(), &mut |_| {})?.root);
    }
    let names: Vec<String> = shared.refs.list()?.into_iter().map(|(name, _)| name).collect();
    let known = if names.is_empty() {
        "the library is empty, and there is no such folder".to_owned()
    } else {
        format!("the library has {}, and there is no such folder", names.join(", "))
    };
    Err(PoolError::UnknownModel { name: name.to_owned(), known })
}
