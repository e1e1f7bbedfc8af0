//! This tab as a worker sees it: its environment.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tabpool_engine::{Backend, EngineError};
use tabpool_protocol::{ApiKind, Capabilities, Frame, Limits, Message, WorkerStatus};
use tabpool_webgpu::{Options, WebGpuBackend};
use tabpool_webnn::WebNnBackend;
use tabpool_worker::{BlockCache, BlockFetcher, Environment};
use wasm_bindgen::prelude::{JsCast, wasm_bindgen};
use web_sys::WebSocket;

use crate::activity::Activity;
use crate::gateway::Gateway;
use crate::hash;
use crate::kernels::{KernelChoice, open_cpu};
use crate::lane;
use crate::opfs::Opfs;
use crate::outside::Outside;

/// Bytes that may wait in the socket. More means that the host takes nothing any more: then answers wait in the worker,
/// which bounds them as well.
const MOST_BUFFERED: u32 = 256 << 20;

#[wasm_bindgen]
extern "C" {
    /// The module's memory, for its size.
    type Memory;
    #[wasm_bindgen(method, getter)]
    fn buffer(this: &Memory) -> js_sys::ArrayBuffer;
}

/// A browser tab.
pub(crate) struct Tab {
    capabilities: Capabilities,
    kernels: KernelChoice,
    gateway: Rc<Gateway>,
    cache: Option<Rc<Opfs>>,
    outside: Rc<Outside>,
    /// The open or opening link.
    pub(crate) socket: RefCell<Option<WebSocket>>,
    /// What is going on, for the page.
    pub(crate) activity: RefCell<Activity>,
    /// Whether the page is hidden, as it says itself.
    pub(crate) hidden: Cell<bool>,
    /// Whether the person at it wants a pause.
    pub(crate) paused: Cell<bool>,
    /// The battery, as the page says: workers are not told.
    pub(crate) battery: Cell<Option<(u8, bool)>>,
}

impl Tab {
    pub(crate) fn new(
        capabilities: Capabilities,
        kernels: KernelChoice,
        gateway: Rc<Gateway>,
        cache: Option<Rc<Opfs>>,
        outside: Rc<Outside>,
    ) -> Self {
        Self {
            capabilities,
            kernels,
            gateway,
            cache,
            outside,
            socket: RefCell::default(),
            activity: RefCell::default(),
            hidden: Cell::default(),
            paused: Cell::default(),
            battery: Cell::default(),
        }
    }

    /// What the host is told of this browser, as found out at the start.
    pub(crate) fn told(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The host has let this tab in.
    pub(crate) fn joined(&self, welcome: &Bytes) {
        if let Ok(Frame { message: Message::Welcome { session, .. }, .. }) = Frame::decode(welcome, &Limits::default())
        {
            self.gateway.joined(session);
        }
    }

    /// Blocks and bytes that came from the host.
    pub(crate) fn fetched(&self) -> (u32, u64) {
        self.gateway.fetched()
    }

    /// The cache, where this browser has one.
    pub(crate) fn opfs(&self) -> Option<&Opfs> {
        self.cache.as_deref()
    }

    /// Bytes of the module's memory.
    pub(crate) fn memory() -> u64 {
        u64::from(wasm_bindgen::memory().unchecked_into::<Memory>().buffer().byte_length())
    }
}

#[async_trait(?Send)]
impl Environment for Tab {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.capabilities.clone();
        capabilities.battery = self.battery.get();
        capabilities.cached = self.cache.as_ref().map(|cache| cache.holds()).unwrap_or_default();
        capabilities
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            memory: Self::memory(),
            // Backends tell what a load took in its report and nothing after that.
            device_memory: 0,
            hidden: self.hidden.get(),
            battery: self.battery.get(),
            paused: self.paused.get(),
            ..WorkerStatus::default()
        }
    }

    fn send(&self, message: Bytes) -> bool {
        let mut activity = self.activity.borrow_mut();
        activity.outgoing(&message);
        if let Some(cache) = &self.cache {
            cache.touch();
        }
        let socket = self.socket.borrow();
        let open =
            socket.as_ref().filter(|s| s.ready_state() == WebSocket::OPEN && s.buffered_amount() <= MOST_BUFFERED);
        let sent = open.is_some_and(|socket| socket.send_with_u8_array(&message).is_ok());
        if sent {
            activity.sent += message.len() as u64;
        }
        sent
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        wasm_bindgen_futures::spawn_local(task);
    }

    async fn backend(&self, api: ApiKind) -> Result<Rc<dyn Backend>, EngineError> {
        open_backend(api, &self.capabilities, self.kernels).await
    }

    fn fetcher(&self) -> Rc<dyn BlockFetcher> {
        Rc::clone(&self.gateway) as Rc<dyn BlockFetcher>
    }

    async fn sha256(&self, bytes: &Bytes) -> [u8; 32] {
        hash::sha256(bytes, &self.outside).await
    }

    fn cache(&self) -> Option<Rc<dyn BlockCache>> {
        self.cache.as_ref().map(|cache| Rc::clone(cache) as Rc<dyn BlockCache>)
    }
}

/// Opens the device behind an API.
///
/// # Errors
/// [`EngineError::Device`] with the reason that the capabilities gave, or with what the device said.
pub(crate) async fn open_backend(
    api: ApiKind,
    facts: &Capabilities,
    kernels: KernelChoice,
) -> Result<Rc<dyn Backend>, EngineError> {
    let refused = |reason: &str| EngineError::Device { doing: format!("opening {api}"), reason: reason.to_owned() };
    let report = facts.apis.iter().find(|r| r.api == api).ok_or_else(|| refused("this worker does not know it"))?;
    if let Err(reason) = &report.adapter {
        return Err(refused(reason));
    }
    match api {
        ApiKind::WebGpu => {
            // Firefox alone looks at pending maps on a slow timer.
            let options = Options { nudge_maps: facts.browser == "firefox", ..Options::default() };
            Ok(Rc::new(WebGpuBackend::new(options).await?))
        }
        ApiKind::WebNn => Ok(Rc::new(WebNnBackend::open(lane::options(facts.cores)).await?)),
        ApiKind::Cpu => Ok(Rc::new(open_cpu(kernels).await?)),
        _ => Err(refused("this worker has no backend for it")),
    }
}
