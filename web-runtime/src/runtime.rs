//! What JavaScript sees of this module: start, and what a person may ask of a running worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures::channel::mpsc;
use js_sys::{Array, Promise};
use tabpool_protocol::{ApiKind, Capabilities, Frame, Message, RefusalCode};
use tabpool_worker::Worker;
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};
use wasm_bindgen_futures::spawn_local;
use web_sys::WebSocket;

use crate::activity::Activity;
use crate::facts;
use crate::gateway::Gateway;
use crate::kernels::KernelChoice;
use crate::link::{Address, Ending, Order, State, keep};
use crate::opfs::Opfs;
use crate::outside::Outside;
use crate::page::Note;
use crate::tab::Tab;
use crate::timers::Interval;

/// Orders of a person that were not carried out yet; more are not listened to.
const MOST_ORDERS: usize = 4;

#[wasm_bindgen]
extern "C" {
    /// How to join; a plain object of the page.
    pub type Config;
    /// The host's WebSocket, as in `ws://127.0.0.1:8600/link`.
    #[wasm_bindgen(method, getter)]
    fn url(this: &Config) -> String;
    /// Where blocks are, as in `http://127.0.0.1:8600/ipfs/`.
    #[wasm_bindgen(method, getter)]
    fn gateway(this: &Config) -> String;
    /// The token that lets this tab join.
    #[wasm_bindgen(method, getter)]
    fn token(this: &Config) -> String;
    /// Names of the only APIs to use, separated by commas; all where empty.
    #[wasm_bindgen(method, getter)]
    fn apis(this: &Config) -> Option<String>;
    /// Which build of the CPU kernels to use: `simd128` or `relaxed-simd`; the best one where empty.
    #[wasm_bindgen(method, getter)]
    fn kernels(this: &Config) -> Option<String>;
    /// How many threads the CPU kernels use; as many as there are cores, up to a few, where empty.
    #[wasm_bindgen(method, getter)]
    fn threads(this: &Config) -> Option<String>;
    /// A connection to the host that was begun already.
    #[wasm_bindgen(method, getter)]
    fn socket(this: &Config) -> Option<WebSocket>;
    /// A promise of the first pack, opened already; of nothing where it could not be.
    #[wasm_bindgen(method, getter)]
    fn pack(this: &Config) -> Option<Promise>;
}

thread_local! {
    /// The tab, for the hook that reports a panic.
    static TAB: RefCell<Option<Rc<Tab>>> = const { RefCell::new(None) };
}

/// A worker of this tab.
#[wasm_bindgen]
pub struct Runtime {
    inner: Rc<Inner>,
}

struct Inner {
    tab: Rc<Tab>,
    address: Address,
    orders: RefCell<Option<mpsc::Sender<Order>>>,
    worker: RefCell<Option<Rc<Worker>>>,
    /// Runs of workers before the present one.
    earlier: Cell<u64>,
    state: RefCell<State>,
    _ticking: RefCell<Option<Interval>>,
}

/// Finds out what this browser is, and joins.
///
/// # Errors
/// A text where the configuration is not sound.
#[wasm_bindgen]
pub async fn start(config: Config) -> Result<Runtime, JsValue> {
    std::panic::set_hook(Box::new(|info| report_panic(&info.to_string())));
    let only = chosen(&config.apis().unwrap_or_default()).map_err(|e| JsValue::from_str(&e))?;
    let (kernels, threads) = (config.kernels().unwrap_or_default(), config.threads().unwrap_or_default());
    let kernels = KernelChoice::parse(&kernels, &threads).map_err(|e| JsValue::from_str(&e))?;
    let outside = Rc::new(Outside::default());
    let cache = Opfs::open(config.pack(), Rc::clone(&outside));
    let (capabilities, cache) = futures::join!(facts::gather(&only, kernels), cache);
    let (cache, trouble) = match cache {
        Ok(cache) => (Some(Rc::new(cache)), None),
        Err(reason) => (None, Some(reason)),
    };
    let gateway = Gateway::new(config.gateway(), cache.is_some(), Rc::clone(&outside));
    tell_facts(&capabilities, trouble);
    let tab = Rc::new(Tab::new(capabilities, kernels, Rc::new(gateway), cache, outside));
    TAB.set(Some(Rc::clone(&tab)));
    let inner = Rc::new(Inner {
        tab,
        address: Address { url: config.url(), token: config.token(), begun: RefCell::new(config.socket()) },
        orders: RefCell::default(),
        worker: RefCell::default(),
        earlier: Cell::default(),
        state: RefCell::new(State::Connecting),
        _ticking: RefCell::default(),
    });
    let ticking = Rc::downgrade(&inner);
    let interval = Interval::new(1000, move || {
        if let Some(inner) = ticking.upgrade() {
            inner.tell_status();
        }
    });
    *inner._ticking.borrow_mut() = Some(interval);
    inner.run();
    Ok(Runtime { inner })
}

#[wasm_bindgen]
impl Runtime {
    /// Computes nothing until [`resume`](Self::resume), and keeps what is loaded. What was being computed is computed elsewhere.
    pub fn pause(&self) {
        self.inner.set_paused(true);
    }

    /// Leaves the pool and frees everything; [`resume`](Self::resume) joins again.
    pub fn leave(&self) {
        self.inner.order(Order::Leave);
    }

    /// Leaves the pool because the page goes away.
    pub fn close(&self) {
        self.inner.order(Order::Close);
    }

    /// Goes on after a pause, or joins again.
    pub fn resume(&self) {
        self.inner.set_paused(false);
        if matches!(*self.inner.state.borrow(), State::Ended(_)) {
            self.inner.run();
        }
    }

    /// Where this tab waits for its next attempt, tries now.
    pub fn hurry(&self) {
        self.inner.order(Order::Hurry);
    }

    /// The page says whether it is hidden. One that is shown again does not wait for its next attempt.
    #[wasm_bindgen(js_name = setHidden)]
    pub fn set_hidden(&self, hidden: bool) {
        self.inner.tab.hidden.set(hidden);
        if !hidden {
            self.inner.order(Order::Hurry);
        }
    }

    /// The page says how its battery is: charge in percent, and whether it charges.
    #[wasm_bindgen(js_name = setBattery)]
    pub fn set_battery(&self, percent: u8, charging: bool) {
        self.inner.tab.battery.set(Some((percent.min(100), charging)));
    }
}

impl Inner {
    /// Joins, and stays until the link ends for good.
    fn run(self: &Rc<Self>) {
        let (sender, orders) = mpsc::channel(MOST_ORDERS);
        *self.orders.borrow_mut() = Some(sender);
        *self.state.borrow_mut() = State::Connecting;
        let this = Rc::clone(self);
        spawn_local(async move {
            let shown = Rc::downgrade(&this);
            let show = Rc::new(move |state| {
                if let Some(this) = shown.upgrade() {
                    this.show(state);
                }
            });
            let ending = keep(Rc::clone(&this.tab), &this.address, orders, &this.worker, show).await;
            *this.orders.borrow_mut() = None;
            if let Some(worker) = this.worker.take() {
                this.earlier.set(this.earlier.get() + worker.completed());
            }
            this.tab.activity.borrow_mut().ended();
            this.show(State::Ended(ending));
        });
    }

    /// Tells the host at once, or when there is one again.
    fn set_paused(&self, paused: bool) {
        if self.tab.paused.replace(paused) == paused {
            return;
        }
        if *self.state.borrow() == State::Joined
            && let Some(worker) = &*self.worker.borrow()
        {
            worker.tell_status();
        }
        self.tell_status();
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &mut *self.orders.borrow_mut() {
            // Where four orders wait already, a fifth changes nothing.
            let _ = orders.try_send(order);
        }
    }

    fn show(&self, state: State) {
        *self.state.borrow_mut() = state;
        self.tell_status();
    }

    /// Tells the page how things stand.
    fn tell_status(&self) {
        let worker = self.worker.borrow();
        let runs = self.earlier.get() + worker.as_ref().map_or(0, |w| w.completed());
        let activity = self.tab.activity.borrow();
        let (state, detail, wait_ms) = match &*self.state.borrow() {
            State::Connecting => ("connecting", None, None),
            State::Joined if self.tab.paused.get() => ("paused", None, None),
            State::Joined => ("joined", None, None),
            State::Waiting { wait_ms, reason } => ("waiting", Some(reason.clone()), Some(*wait_ms)),
            State::Ended(Ending::Refused(code, reason)) => (refusal(*code), Some(reason.clone()), None),
            State::Ended(Ending::Dismissed(reason)) => ("dismissed", Some(reason.clone()), None),
            State::Ended(Ending::Left) => ("left", None, None),
            State::Ended(Ending::GaveUp(reason)) => ("gave-up", Some(reason.clone()), None),
        };
        let mut note = Note::of("status")
            .with("state", state)
            .with("detail", detail)
            .with("waitMs", wait_ms)
            .with("runs", runs as f64)
            .with("memory", Tab::memory() as f64)
            .with("errors", activity.errors)
            .with("error", activity.error.clone())
            .with("received", (activity.received + self.tab.fetched().1) as f64)
            .with("sent", activity.sent as f64)
            .with("models", models(&activity));
        if let Some(loading) = &activity.loading {
            let name = loading.name.as_str();
            let loading =
                Note::plain().with("name", name).with("done", loading.done as f64).with("total", loading.total as f64);
            note = note.with("loading", loading);
        }
        if let Some(cache) = self.tab.opfs() {
            note = note.with_blocks("stored", cache.holds()).with_blocks("served", cache.served());
            note = note.with("cacheTrouble", cache.trouble());
        }
        note.post();
    }
}

/// What is loaded, model by model and API by API.
fn models(activity: &Activity) -> Array {
    let note = |(name, api, bytes): (&str, ApiKind, u64)| {
        JsValue::from(Note::plain().with("name", name).with("api", api.name()).with("bytes", bytes as f64))
    };
    activity.models().into_iter().map(note).collect()
}

/// The page's name for a refusal, which decides what it tells people to do.
fn refusal(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::Token => "refused-token",
        RefusalCode::Version => "refused-version",
        RefusalCode::Full => "refused-full",
        RefusalCode::Closing => "refused-closing",
        _ => "refused",
    }
}

/// The APIs named, separated by commas.
fn chosen(names: &str) -> Result<Vec<ApiKind>, String> {
    names.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::parse).collect()
}

fn tell_facts(capabilities: &Capabilities, cache_trouble: Option<String>) {
    let apis: Array = capabilities
        .apis
        .iter()
        .map(|report| {
            let note = Note::plain().with("api", report.api.name());
            let note = match &report.adapter {
                Ok(adapter) => note.with("adapter", adapter.label()).with("software", adapter.fallback),
                Err(reason) => note.with("reason", reason.as_str()),
            };
            JsValue::from(note)
        })
        .collect();
    Note::of("facts")
        .with("browser", capabilities.browser.as_str())
        .with("version", capabilities.version.as_str())
        .with("os", capabilities.os.as_str())
        .with("cores", capabilities.cores)
        .with("apis", apis)
        .with("cacheTrouble", cache_trouble)
        .post();
}

/// Tells the page and the host of a panic; the module aborts right after.
fn report_panic(what: &str) {
    Note::of("died").with("reason", what).post();
    let Ok(Some(tab)) = TAB.try_with(|tab| tab.try_borrow().ok()?.clone()) else { return };
    let Ok(socket) = tab.socket.try_borrow() else { return };
    if let Some(socket) = socket.as_ref().filter(|s| s.ready_state() == WebSocket::OPEN) {
        let reason: String = format!("the worker panicked: {what}").chars().take(1000).collect();
        // This is the last thing this module does; if it fails, the host hears the socket close.
        let _ = socket.send_with_u8_array(&Frame::from(Message::Bye { reason }).encode());
    }
}
