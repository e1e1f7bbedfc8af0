//! The accelerator: a pool, a library of models, and one call from a model's name to its answers.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use tabpool_browser::{BrowserKind, SearchPaths, discover};
use tabpool_content::Cid;
use tabpool_pool::{
    JoinEndpoint, ModelKind, ModelRequest, PoolBuilder, Profile, ResourcePool, Target, WorkerSpec, WorkerState,
};
use tabpool_protocol::ApiKind;
use tabpool_tensor::Precision;

use crate::choice::workers_for;
use crate::error::Error;
use crate::library::{InUse, Library, Resolved};
use crate::model::Model;
use crate::origin;

/// What a model is to be computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// WebGPU, in a browser or natively.
    WebGpu,
    /// WebNN, in a browser.
    WebNn,
    /// The processor.
    Cpu,
    /// Whatever is measured to be fastest.
    #[default]
    Auto,
}

impl Platform {
    fn api(self) -> Option<ApiKind> {
        match self {
            Self::WebGpu => Some(ApiKind::WebGpu),
            Self::WebNn => Some(ApiKind::WebNn),
            Self::Cpu => Some(ApiKind::Cpu),
            Self::Auto => None,
        }
    }
}

/// Sets up an [`Accelerator`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct AcceleratorBuilder {
    pool: PoolBuilder,
    data_dir: Option<PathBuf>,
    search: SearchPaths,
    workers: Vec<WorkerSpec>,
    targets: Vec<Target>,
    guests_only: bool,
    profile: Profile,
    threads: Option<NonZeroUsize>,
    listen: Option<SocketAddr>,
    ready_within: Duration,
}

impl Default for AcceleratorBuilder {
    fn default() -> Self {
        Self {
            pool: ResourcePool::builder(),
            data_dir: None,
            search: SearchPaths::from_env(),
            workers: Vec::new(),
            targets: Vec::new(),
            guests_only: false,
            profile: Profile::Kept,
            threads: None,
            listen: None,
            ready_within: Duration::from_secs(60),
        }
    }
}

impl AcceleratorBuilder {
    /// Where models, browser profiles and measurements are kept. Without it everything lives in a temporary folder that is
    /// removed with the accelerator.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// A slot to keep filled, besides those of [`AcceleratorBuilder::on`].
    pub fn worker(mut self, spec: WorkerSpec) -> Self {
        self.workers.push(spec);
        self
    }

    /// Workers of this target, as in `"chromium:webgpu".parse()`. May be said several times. Where neither this nor
    /// [`AcceleratorBuilder::worker`] is said, every kind of browser that is found gets one worker, and where there is no
    /// browser at all, the native worker serves.
    pub fn on(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    /// Starts no worker where none is asked for: only tabs that join by themselves compute, with a
    /// [ticket](ResourcePool::join) of the pool's.
    pub fn guests_only(mut self) -> Self {
        self.guests_only = true;
        self
    }

    /// The profile of browsers that are not given as [`AcceleratorBuilder::worker`]s: kept by default, so that weights are
    /// found again.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// The threads that workers compute with on the processor, where they are not given as
    /// [`AcceleratorBuilder::worker`]s; one for each core where it is not said.
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Workers at once at most.
    pub fn max_connections(mut self, most: usize) -> Self {
        self.pool = self.pool.max_connections(most);
        self
    }

    /// Tries models of this kind on this browser first, until measurements say otherwise.
    pub fn prefer(mut self, kind: ModelKind, browser: BrowserKind) -> Self {
        self.pool = self.pool.prefer(kind, browser);
        self
    }

    /// Where browsers are looked for.
    pub fn search(mut self, paths: SearchPaths) -> Self {
        self.search = paths;
        self
    }

    /// Measures into memory instead of the data folder's `metrics.duckdb`, which one pool at a time may write.
    pub fn metrics_in_memory(mut self) -> Self {
        self.pool = self.pool.metrics_in_memory();
        self
    }

    /// Where the pool listens. By default a port of loopback that is chosen once for each data folder: browsers keep
    /// weights under the page's address, so with another port they would have to fetch them again.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Lets tabs of other machines join here, with a [ticket](ResourcePool::join) of the pool's.
    pub fn join_from(mut self, endpoint: JoinEndpoint) -> Self {
        self.pool = self.pool.join_from(endpoint);
        self
    }

    /// Changes settings of the pool that have no method here. Its data folder, search paths and address are set by the
    /// methods above.
    pub fn pool(mut self, change: impl FnOnce(PoolBuilder) -> PoolBuilder) -> Self {
        self.pool = change(self.pool);
        self
    }

    /// How long workers may take to start. A minute by default.
    pub fn ready_within(mut self, limit: Duration) -> Self {
        self.ready_within = limit;
        self
    }

    /// Starts the workers and waits until each has joined or failed. One that joined is enough; of
    /// [guests](AcceleratorBuilder::guests_only) none is waited for.
    ///
    /// # Errors
    ///
    /// [`Error::Choice`] for a browser that is not here, [`Error::NoWorkers`] where none starts, [`Error::Library`] and
    /// [`Error::Pool`] where the data folder cannot be used. Nothing stays behind.
    pub async fn build(self) -> Result<Accelerator, Error> {
        let temporary = match self.data_dir {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("tabpool-").tempdir().map_err(Error::TemporaryFolder)?),
        };
        let data_dir = match (&temporary, self.data_dir) {
            (Some(folder), _) => folder.path().to_owned(),
            (None, given) => given.unwrap_or_default(),
        };
        let library = Library::open(&data_dir)?;
        let in_use = library.in_use()?;
        let address = self.listen.unwrap_or_else(|| origin::address(&data_dir));
        let mut pool = self.pool.data_dir(&data_dir).search(self.search.clone()).listen(address);
        let explicit = !self.workers.is_empty() || self.guests_only;
        let alone = self.workers.is_empty() && self.targets.is_empty() && self.guests_only;
        for spec in self.workers {
            pool = pool.worker(spec);
        }
        if !explicit || !self.targets.is_empty() {
            // Browsers are asked for their versions, which takes them a moment.
            let found = tokio::task::spawn_blocking(move || discover(&self.search))
                .await
                .map_err(|_| Error::Interrupted { doing: "looking for browsers" })?;
            for spec in workers_for(&self.targets, &found, self.profile)? {
                pool = pool.worker(match self.threads {
                    Some(threads) => spec.threads(threads),
                    None => spec,
                });
            }
        }
        let pool = pool.build().await?;
        if alone {
            return Ok(Accelerator { pool, library, _in_use: in_use, _temporary: temporary });
        }
        // Some that failed are not the end; with none there is nothing to go on with.
        let ready = pool.wait_ready(self.ready_within).await;
        let workers = pool.workers();
        if !workers.iter().any(|worker| worker.id.is_some()) {
            let reasons = workers.iter().map(|worker| {
                let reason = match (&*worker.last_reason, &worker.state) {
                    ("", WorkerState::Starting) => "did not join in time",
                    ("", _) => "ended",
                    (reason, _) => reason,
                };
                format!("{}: {reason}", worker.kind)
            });
            let reasons = reasons.collect::<Vec<_>>().join("; ");
            let closed = pool.close().await;
            ready?;
            closed?;
            return Err(Error::NoWorkers { reasons });
        }
        if let Err(error) = ready {
            tracing::warn!(%error, "going on with the workers that joined");
        }
        Ok(Accelerator { pool, library, _in_use: in_use, _temporary: temporary })
    }
}

/// Models on a pool of browsers. Ends its browsers when dropped; [`Accelerator::close`] does so in order.
#[derive(Debug)]
pub struct Accelerator {
    pool: ResourcePool,
    library: Library,
    // A model that comes from a folder has no name, so its blocks must be kept from being collected.
    _in_use: InUse,
    // After the pool, which writes into it.
    _temporary: Option<tempfile::TempDir>,
}

impl Accelerator {
    /// Begins to set one up.
    pub fn builder() -> AcceleratorBuilder {
        AcceleratorBuilder::default()
    }

    /// Gets a model ready to be run: `accelerate_model(name).platform(Platform::WebGpu).await`.
    ///
    /// The name is one in the library, or a path to a model's folder, which is then imported.
    pub fn accelerate_model(&self, name: impl Into<String>) -> Accelerate<'_> {
        Accelerate {
            accelerator: self,
            name: name.into(),
            root: None,
            kind: None,
            target: Target::default(),
            hardware: Vec::new(),
            precision: Precision::F32,
        }
    }

    /// The pool, for what is not here: its workers, its events, its figures.
    #[must_use]
    pub fn pool(&self) -> &ResourcePool {
        &self.pool
    }

    /// The models of the data folder.
    #[must_use]
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// Ends the workers, writes what was measured, and returns when no process is left.
    ///
    /// # Errors
    ///
    /// Where measurements could not be written. Everything is closed all the same.
    pub async fn close(self) -> Result<(), Error> {
        Ok(self.pool.close().await?)
    }
}

/// A model about to be accelerated. Await it.
#[derive(Debug)]
#[must_use = "nothing happens until it is awaited"]
pub struct Accelerate<'a> {
    accelerator: &'a Accelerator,
    name: String,
    root: Option<Cid>,
    kind: Option<ModelKind>,
    target: Target,
    hardware: Vec<ApiKind>,
    precision: Precision,
}

impl<'a> Accelerate<'a> {
    /// The CID of the model's folder, already in the library: the name is then only what people call it.
    pub fn root(mut self, root: Cid) -> Self {
        self.root = Some(root);
        self
    }

    /// What the model works on, told by its inputs where it is not said; decides which browser is tried first.
    pub fn kind(mut self, kind: ModelKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// What it is computed with, and with nothing else.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.target.api = platform.api();
        self
    }

    /// Which workers may run it, and with what; replaces what [`Accelerate::platform`] said.
    pub fn on(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// What it may be computed with, best first.
    pub fn hardware(mut self, apis: impl IntoIterator<Item = ApiKind>) -> Self {
        self.hardware = apis.into_iter().collect();
        self
    }

    /// The least exact arithmetic that its linear layers may be computed with; see [`ModelRequest::precision`].
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    async fn go(self) -> Result<Model, Error> {
        let (library, name) = (self.accelerator.library.clone(), self.name);
        let resolved = match self.root {
            Some(root) => Resolved { name, root },
            None => tokio::task::spawn_blocking(move || library.resolve(&name, &mut |_| {}))
                .await
                .map_err(|_| Error::Interrupted { doing: "reading the model" })??,
        };
        let mut request = ModelRequest::new(resolved.name).root(resolved.root).on(self.target);
        if let Some(kind) = self.kind {
            request = request.kind(kind);
        }
        request = request.precision(self.precision);
        if !self.hardware.is_empty() {
            request = request.hardware(self.hardware);
        }
        let Accelerator { pool, library, .. } = self.accelerator;
        let workers = pool.workers().iter().filter(|worker| worker.id.is_some()).count();
        Ok(Model::new(pool.model(request).await?, library.clone(), workers))
    }
}

impl<'a> IntoFuture for Accelerate<'a> {
    type Output = Result<Model, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.go())
    }
}
