//! The native worker: the same worker as in a tab, on a thread of this process.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tabpool_bridge::LocalLink;
use tabpool_content::{BlockStore, Cid};
use tabpool_engine::cpu::{CpuBackend, CpuOptions};
use tabpool_engine::{Backend, EngineError};
use tabpool_protocol::{AdapterInfo, ApiKind, ApiReport, Capabilities, DeviceClass, WorkerStatus};
use tabpool_webgpu::WebGpuBackend;
use tabpool_worker::{BlockCache, BlockFetcher, Environment, Worker, WorkerOptions};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// What a native worker is started with.
pub(crate) struct NativeConfig {
    pub(crate) link: LocalLink,
    pub(crate) token: String,
    pub(crate) store: Arc<dyn BlockStore>,
    /// Only these APIs, where given.
    pub(crate) apis: Option<Vec<ApiKind>>,
    pub(crate) threads: Option<NonZeroUsize>,
}

/// Starts a native worker. Its thread ends when the link does.
///
/// # Errors
/// Where the system gives no thread.
pub(crate) fn start(config: NativeConfig) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("tabpool-worker".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(e) => return tracing::error!(error = %e, "a native worker has no runtime"),
        };
        LocalSet::new().block_on(&runtime, serve(config));
    })
}

async fn serve(config: NativeConfig) {
    let NativeConfig { link: LocalLink { outgoing, mut incoming }, token, store, apis, threads } = config;
    let here = Here::open(outgoing, store, apis.as_deref(), threads).await;
    let worker = Worker::new(Rc::new(here), WorkerOptions::default());
    worker.opened(&token);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        let result = tokio::select! {
            message = incoming.recv() => match message {
                Some(message) => worker.received(&message),
                None => return,
            },
            _ = ticks.tick() => worker.tick(),
        };
        if let Err(e) = result {
            tracing::debug!(reason = %e, "a native worker ends");
            return;
        }
    }
}

struct Here {
    outgoing: mpsc::Sender<Bytes>,
    store: Arc<dyn BlockStore>,
    threads: Option<NonZeroUsize>,
    reports: Vec<ApiReport>,
    /// Backends opened to describe them, until their first use.
    opened: RefCell<BTreeMap<ApiKind, Rc<dyn Backend>>>,
}

impl Here {
    async fn open(
        outgoing: mpsc::Sender<Bytes>,
        store: Arc<dyn BlockStore>,
        only: Option<&[ApiKind]>,
        threads: Option<NonZeroUsize>,
    ) -> Self {
        let wanted = |api| only.is_none_or(|apis| apis.contains(&api));
        let mut here = Self { outgoing, store, threads, reports: Vec::new(), opened: RefCell::default() };
        if wanted(ApiKind::WebGpu) {
            here.open_webgpu().await;
        }
        if wanted(ApiKind::Cpu) {
            let adapter = here.cpu().map_err(|e| e.to_string()).map(|backend| {
                let description = backend.info().device.clone();
                here.opened.borrow_mut().insert(ApiKind::Cpu, backend);
                AdapterInfo { description, ..AdapterInfo::default() }
            });
            // A software adapter computes on the same processor, more slowly: then the processor comes first.
            let first = here.reports.iter().all(|r| r.adapter.as_ref().map_or(true, |a| a.fallback));
            let report = ApiReport { api: ApiKind::Cpu, adapter };
            here.reports.insert(if first { 0 } else { here.reports.len() }, report);
        }
        here
    }

    async fn open_webgpu(&mut self) {
        let adapter = match WebGpuBackend::new(tabpool_webgpu::Options::default()).await {
            Ok(backend) => {
                let report = backend.adapter_report();
                let info = AdapterInfo {
                    description: [&*report.description, &*report.driver].join(" ").trim().to_owned(),
                    fallback: report.is_fallback,
                    features: report.shader_f16.then(|| "shader-f16".to_owned()).into_iter().collect(),
                    language_features: report.wgsl_features.iter().map(ToString::to_string).collect(),
                    limits: vec![
                        ("maxBufferSize".to_owned(), report.max_buffer_bytes),
                        ("maxStorageBufferBindingSize".to_owned(), report.max_storage_binding_bytes),
                    ],
                    ..AdapterInfo::default()
                };
                self.opened.borrow_mut().insert(ApiKind::WebGpu, Rc::new(backend));
                Ok(info)
            }
            Err(e) => Err(e.to_string()),
        };
        self.reports.push(ApiReport { api: ApiKind::WebGpu, adapter });
    }

    fn cpu(&self) -> Result<Rc<dyn Backend>, EngineError> {
        let options = CpuOptions::new();
        let options = self.threads.map_or(options, |threads| options.threads(threads));
        Ok(Rc::new(CpuBackend::new(&options)?))
    }
}

struct Store(Arc<dyn BlockStore>);

impl Store {
    async fn read(&self, cid: &Cid) -> Result<Bytes, String> {
        let (store, cid) = (Arc::clone(&self.0), *cid);
        let found = tokio::task::spawn_blocking(move || store.get(&cid)).await.map_err(|e| e.to_string())?;
        found.map_err(|e| e.to_string())?.ok_or_else(|| "the host does not have this block".to_owned())
    }
}

#[async_trait(?Send)]
impl BlockFetcher for Store {
    async fn fetch(&self, cid: &Cid, _len: usize) -> Result<Bytes, String> {
        self.read(cid).await
    }
}

/// The host's store is the native worker's own: what it takes from there counts as cached. A block that is missing or
/// corrupt is asked for once more as from a host, which says what is wrong with it.
#[async_trait(?Send)]
impl BlockCache for Store {
    fn has(&self, _cid: &Cid) -> bool {
        true
    }

    async fn get(&self, cid: &Cid) -> Option<Bytes> {
        self.read(cid).await.ok()
    }

    async fn put(&self, _cid: &Cid, _bytes: &Bytes) {}

    async fn remove(&self, _cid: &Cid) {}
}

#[async_trait(?Send)]
impl Environment for Here {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            browser: "native".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            device_class: DeviceClass::Native,
            apis: self.reports.clone(),
            cores: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            ..Capabilities::default()
        }
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus::default()
    }

    fn send(&self, message: Bytes) -> bool {
        self.outgoing.try_send(message).is_ok()
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(task);
    }

    async fn backend(&self, api: ApiKind) -> Result<Rc<dyn Backend>, EngineError> {
        let opened = self.opened.borrow_mut().remove(&api);
        match (opened, api) {
            (Some(backend), _) => Ok(backend),
            (None, ApiKind::Cpu) => self.cpu(),
            (None, ApiKind::WebGpu) => Ok(Rc::new(WebGpuBackend::new(tabpool_webgpu::Options::default()).await?)),
            (None, api) => Err(EngineError::Device {
                doing: "opening a device".to_owned(),
                reason: format!("the native worker has no {api}"),
            }),
        }
    }

    fn fetcher(&self) -> Rc<dyn BlockFetcher> {
        Rc::new(Store(Arc::clone(&self.store)))
    }

    fn cache(&self) -> Option<Rc<dyn BlockCache>> {
        Some(Rc::new(Store(Arc::clone(&self.store))))
    }
}
