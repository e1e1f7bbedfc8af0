//! How a pool is set up.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use tabpool_bridge::BridgeConfig;
use tabpool_browser::{BrowserKind, GpuMode, SearchPaths};
use tabpool_protocol::ApiKind;
use tabpool_scheduler::{Config, ScalingConfig, WorkerKind};

use crate::actor::Recycle;
use crate::preferences::Preferences;
use crate::{Batching, Checking, JoinEndpoint, PoolError, ResourcePool, TuningPolicy};

/// What a model works on: decides which browser is tried first, until measurements say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModelKind {
    /// Text.
    #[default]
    Text,
    /// Pictures.
    Vision,
    /// Sound.
    Audio,
}

/// Which profile a browser runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// A new one, removed with the browser.
    #[default]
    Fresh,
    /// One that stays in the pool's data directory, so that weights cached by the browser are found again. The slot's
    /// kind and its number among slots of that kind name it. Browsers keep things by origin, port included: give the pool
    /// the same address to [listen](PoolBuilder::listen) on each time.
    Kept,
}

/// What a slot of the pool is filled with.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    pub(crate) browser: Option<BrowserKind>,
    pub(crate) profile: Profile,
    pub(crate) apis: Option<Vec<ApiKind>>,
    pub(crate) gpu: Option<GpuMode>,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) memory: Option<u64>,
    pub(crate) scaling: Option<ScalingConfig>,
    pub(crate) recycle: Option<Recycle>,
}

impl WorkerSpec {
    /// A browser of this kind, headless.
    #[must_use]
    pub fn browser(kind: BrowserKind) -> Self {
        Self {
            browser: Some(kind),
            profile: Profile::Fresh,
            apis: None,
            gpu: None,
            threads: None,
            memory: None,
            scaling: None,
            recycle: None,
        }
    }

    /// A worker within this process.
    #[must_use]
    pub fn native() -> Self {
        Self {
            browser: None,
            profile: Profile::Fresh,
            apis: None,
            gpu: None,
            threads: None,
            memory: None,
            scaling: None,
            recycle: None,
        }
    }

    /// The profile of a browser.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Only these APIs, best first, whatever else the worker has.
    #[must_use]
    pub fn apis(mut self, apis: &[ApiKind]) -> Self {
        self.apis = Some(apis.to_vec());
        self
    }

    /// The adapter a browser is started with; found out where it is not said.
    #[must_use]
    pub fn gpu(mut self, gpu: GpuMode) -> Self {
        self.gpu = Some(gpu);
        self
    }

    /// The threads a worker computes with on the processor; one for each core where it is not said, in browsers up to
    /// eight.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The bytes that models and sessions may take on a worker, on all of its devices together; what is not used goes to make
    /// room, and a model that does not fit even alone is refused. Where it is not said, half of the memory that the worker tells
    /// of, if it does.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// As many such workers as there is work for, within limits; exactly one where it is not said.
    #[must_use]
    pub fn scaling(mut self, scaling: ScalingConfig) -> Self {
        self.scaling = Some(scaling);
        self
    }

    /// Replaced by a new one after so many requests.
    #[must_use]
    pub fn recycle_after(mut self, requests: u64) -> Self {
        self.recycle.get_or_insert_default().requests = Some(requests.max(1));
        self
    }

    /// Replaced by a new one when it says that it takes more bytes than this, in its own memory or on its devices.
    #[must_use]
    pub fn recycle_above(mut self, bytes: u64) -> Self {
        self.recycle.get_or_insert_default().memory = Some(bytes);
        self
    }

    pub(crate) fn kind(&self) -> WorkerKind {
        match self.browser {
            None => WorkerKind::Native,
            Some(BrowserKind::Chromium) => WorkerKind::Chromium,
            Some(BrowserKind::Chrome) => WorkerKind::Chrome,
            Some(BrowserKind::Edge) => WorkerKind::Edge,
            Some(BrowserKind::Firefox) => WorkerKind::Firefox,
            Some(BrowserKind::WebNnShell) => WorkerKind::WebNnShell,
        }
    }
}

/// Sets up a [`ResourcePool`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct PoolBuilder {
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) workers: Vec<WorkerSpec>,
    pub(crate) max_connections: usize,
    pub(crate) listen: SocketAddr,
    pub(crate) join_from: Option<JoinEndpoint>,
    pub(crate) search: SearchPaths,
    pub(crate) metrics: bool,
    pub(crate) program: String,
    pub(crate) scheduler: Config,
    pub(crate) bridge: BridgeConfig,
    pub(crate) sample_every: Duration,
    pub(crate) tuning: TuningPolicy,
    pub(crate) batching: Batching,
    pub(crate) memory_ceiling: Option<u64>,
    pub(crate) checking: Checking,
    pub(crate) preferences: Preferences,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            data_dir: None,
            workers: Vec::new(),
            max_connections: 16,
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            join_from: None,
            search: SearchPaths::from_env(),
            metrics: true,
            program: concat!("tabpool ", env!("CARGO_PKG_VERSION")).to_owned(),
            scheduler: Config::default(),
            bridge: BridgeConfig::default(),
            sample_every: Duration::from_secs(1),
            tuning: TuningPolicy::default(),
            batching: Batching::up_to(1),
            memory_ceiling: None,
            checking: Checking::guests(),
            preferences: Preferences::default(),
        }
    }
}

impl PoolBuilder {
    /// Where the pool keeps blocks, refs, profiles and measurements. Without it everything lives in a temporary folder
    /// that is removed with the pool.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// A slot to keep filled.
    pub fn worker(mut self, spec: WorkerSpec) -> Self {
        self.workers.push(spec);
        self
    }

    /// Workers at once at most, those that join by themselves included. 16 by default.
    pub fn max_connections(mut self, most: usize) -> Self {
        self.max_connections = most;
        self
    }

    /// Tries models of this kind on this browser first, until measurements say otherwise. Where nothing is said, sound is tried on
    /// Firefox first, pictures on Chrome or Chromium, text on Edge.
    pub fn prefer(mut self, kind: ModelKind, browser: BrowserKind) -> Self {
        self.preferences.prefer(kind, WorkerSpec::browser(browser).kind());
        self
    }

    /// Lets tabs of other machines join here, besides those of this one. The URLs of [tickets](ResourcePool::join) lead here.
    pub fn join_from(mut self, endpoint: JoinEndpoint) -> Self {
        self.join_from = Some(endpoint);
        self
    }

    /// Where to listen for the pool's own workers and tabs of this machine; a free port on loopback by default. Only loopback
    /// addresses are taken: [`join_from`](Self::join_from) is for others.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// Where browsers are looked for; `PATH`, `TABPOOL_…` variables and well-known places by default.
    pub fn search(mut self, paths: SearchPaths) -> Self {
        self.search = paths;
        self
    }

    /// The scheduler's settings.
    pub fn scheduler(mut self, config: Config) -> Self {
        self.scheduler = config;
        self
    }

    /// The link's settings.
    pub fn bridge(mut self, config: BridgeConfig) -> Self {
        self.bridge = config;
        self
    }

    /// How workers tune their kernels.
    pub fn tuning(mut self, policy: TuningPolicy) -> Self {
        self.tuning = policy;
        self
    }

    /// Runs requests of one model together where they wait anyway; each alone by default.
    pub fn batching(mut self, batching: Batching) -> Self {
        self.batching = batching;
        self
    }

    /// Whose answers are checked with the host's own engine: the first ones of guests by default.
    pub fn checking(mut self, checking: Checking) -> Self {
        self.checking = checking;
        self
    }

    /// Bytes that host and browsers may take together before no [scaled](WorkerSpec::scaling) group grows any further, and those
    /// above their least shrink.
    pub fn memory_ceiling(mut self, bytes: u64) -> Self {
        self.memory_ceiling = Some(bytes);
        self
    }

    /// Measures into memory instead of the data directory's `metrics.duckdb`, which only one pool may write.
    pub fn metrics_in_memory(mut self) -> Self {
        self.metrics = false;
        self
    }

    /// Starts the pool: its server listens and its slots are being filled when this returns.
    ///
    /// # Errors
    /// [`PoolError`] where the data directory, the database or the port cannot be had, or a browser was asked for that
    /// is not here. Nothing stays behind.
    pub async fn build(self) -> Result<ResourcePool, PoolError> {
        ResourcePool::start(self).await
    }
}
