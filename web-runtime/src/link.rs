//! The WebSocket to the host: opened, kept, and opened again when it breaks, until somebody ends it.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use futures::future::{Either, select};
use js_sys::{ArrayBuffer, Uint8Array};
use tabpool_protocol::{RefusalCode, SessionError};
use tabpool_worker::{Worker, WorkerOptions};
use wasm_bindgen::prelude::{Closure, JsCast};
use web_sys::{BinaryType, CloseEvent, MessageEvent, WebSocket};
use web_time::{Duration, Instant};

use crate::navigator::thrown;
use crate::retry::wait_ms;
use crate::tab::Tab;
use crate::timers::{Interval, sleep};

/// How long a connection may take to open; browsers themselves wait for minutes.
const OPENING: Duration = Duration::from_secs(20);
/// A link that held for so long was a good one: the next attempt comes at once again.
const STEADY: Duration = Duration::from_secs(10);
/// After so long without a host this tab stops asking. Somebody may press the button.
const GIVE_UP: Duration = Duration::from_secs(15 * 60);
/// The wire's number of the frame that lets a worker join.
const WELCOME: u8 = 1;
/// The close code of those who leave on purpose.
const NORMAL: u16 = 1000;

/// Where and as whom to join.
#[derive(Debug)]
pub(crate) struct Address {
    /// The host's WebSocket.
    pub(crate) url: String,
    /// The token that lets this tab join.
    pub(crate) token: String,
    /// A connection to it that was begun before.
    pub(crate) begun: RefCell<Option<WebSocket>>,
}

/// How the link is, for the page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// A connection is being opened, or the host has not answered yet.
    Connecting,
    /// The host has let this worker join.
    Joined,
    /// The link broke and is tried again after so many milliseconds.
    Waiting {
        /// How long.
        wait_ms: u32,
        /// What broke it.
        reason: String,
    },
    /// Over for good, unless somebody asks for it again.
    Ended(Ending),
}

/// Why a link is not opened again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    /// The host does not want this worker, for this reason in the words of programs and of people.
    Refused(RefusalCode, String),
    /// The host sent this worker away.
    Dismissed(String),
    /// The person at the page, or the page itself, has left.
    Left,
    /// There was no host for too long.
    GaveUp(String),
}

/// What somebody may ask of a running link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The person at the page leaves the pool.
    Leave,
    /// The page goes away.
    Close,
    /// Stop waiting, try now.
    Hurry,
}

/// Why one connection ended.
enum Over {
    Session(SessionError),
    Closed(String),
    Left,
}

/// Keeps a worker linked until its link ends for good. The worker, and with it everything it has loaded, ends with it.
pub(crate) async fn keep(
    tab: Rc<Tab>,
    address: &Address,
    mut orders: mpsc::Receiver<Order>,
    worker: &RefCell<Option<Rc<Worker>>>,
    show: Rc<dyn Fn(State)>,
) -> Ending {
    let serving = Worker::new(Rc::clone(&tab) as Rc<dyn tabpool_worker::Environment>, WorkerOptions::default());
    *worker.borrow_mut() = Some(Rc::clone(&serving));
    // Work is most likely to come for what this browser does best.
    if let Some((api, _)) = tab.told().working().next() {
        serving.prepare(api);
    }
    let (mut attempt, mut host_seen) = (0, Instant::now());
    loop {
        show(State::Connecting);
        let joined = Rc::new(Cell::new(None));
        let over = connection(&tab, &serving, address, &mut orders, &joined, &show).await;
        serving.closed();
        let reason = match over {
            Over::Session(SessionError::Refused { code, reason }) => {
                return Ending::Refused(code, reason);
            }
            Over::Session(SessionError::Left(reason)) => return Ending::Dismissed(reason),
            Over::Left => return Ending::Left,
            Over::Session(other) => other.to_string(),
            Over::Closed(reason) => reason,
        };
        if let Some(since) = joined.get() {
            host_seen = Instant::now();
            if host_seen.duration_since(since) >= STEADY {
                attempt = 0;
            }
        }
        if host_seen.elapsed() >= GIVE_UP {
            return Ending::GaveUp(reason);
        }
        let wait_ms = wait_ms(attempt, js_sys::Math::random());
        attempt += 1;
        show(State::Waiting { wait_ms, reason });
        match select(pin!(sleep(wait_ms)), orders.next()).await {
            Either::Right((Some(Order::Leave | Order::Close) | None, _)) => return Ending::Left,
            Either::Right((Some(Order::Hurry), _)) | Either::Left(_) => {}
        }
    }
}

/// One connection from opening to closing.
async fn connection(
    tab: &Rc<Tab>,
    worker: &Rc<Worker>,
    address: &Address,
    orders: &mut mpsc::Receiver<Order>,
    joined: &Rc<Cell<Option<Instant>>>,
    show: &Rc<dyn Fn(State)>,
) -> Over {
    let (end, mut ended) = oneshot::channel();
    let end = End(Rc::new(Cell::new(Some(end))));
    let _open = match Open::new(tab, worker, address, &end, joined, show) {
        Ok(open) => open,
        Err(reason) => return Over::Closed(reason),
    };
    loop {
        match select(&mut ended, orders.next()).await {
            Either::Left((over, _)) => {
                let over = over.unwrap_or_else(|_| Over::Closed("given up".to_owned()));
                if let (Over::Session(SessionError::Left(_)), Some(cache)) = (&over, tab.opfs()) {
                    // The host waits for this socket to close before it ends a browser of its own.
                    cache.settle();
                }
                return over;
            }
            Either::Right((Some(Order::Hurry), _)) => {}
            Either::Right((Some(order), _)) => {
                let closed = order == Order::Close;
                worker.leave(if closed { "the page was closed" } else { "the person at this browser left" });
                return Over::Left;
            }
            Either::Right((None, _)) => return Over::Left,
        }
    }
}

/// Ends a connection once, whoever notices first.
#[derive(Clone)]
struct End(Rc<Cell<Option<oneshot::Sender<Over>>>>);

impl End {
    fn over(&self, why: Over) {
        if let Some(end) = self.0.take() {
            // Nobody waits where the connection was ended from the other side already.
            let _ = end.send(why);
        }
    }
}

/// A socket with its callbacks; dropping it closes it.
struct Open {
    tab: Rc<Tab>,
    socket: WebSocket,
    _tick: Interval,
    _opened: Closure<dyn FnMut()>,
    _message: Closure<dyn FnMut(MessageEvent)>,
    _closed: Closure<dyn FnMut(CloseEvent)>,
}

impl Open {
    fn new(
        tab: &Rc<Tab>,
        worker: &Rc<Worker>,
        address: &Address,
        end: &End,
        joined: &Rc<Cell<Option<Instant>>>,
        show: &Rc<dyn Fn(State)>,
    ) -> Result<Self, String> {
        // The first connection was begun while this module was still compiling.
        let begun = address.begun.take().filter(|s| matches!(s.ready_state(), WebSocket::CONNECTING | WebSocket::OPEN));
        let socket = match begun {
            Some(socket) => socket,
            None => WebSocket::new(&address.url).map_err(|e| format!("{}: {}", address.url, thrown(&e)))?,
        };
        socket.set_binary_type(BinaryType::Arraybuffer);
        *tab.socket.borrow_mut() = Some(socket.clone());

        let (theirs, token) = (Rc::clone(worker), address.token.clone());
        let opened = Closure::<dyn FnMut()>::new(move || theirs.opened(&token));
        socket.set_onopen(Some(opened.as_ref().unchecked_ref()));

        let (theirs, here, over) = (Rc::clone(worker), Rc::clone(tab), end.clone());
        let (joined, show) = (Rc::clone(joined), Rc::clone(show));
        let message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let Ok(buffer) = event.data().dyn_into::<ArrayBuffer>() else {
                return over.over(Over::Closed("the host sent text where frames are expected".to_owned()));
            };
            let bytes = Bytes::from(Uint8Array::new(&buffer).to_vec());
            here.activity.borrow_mut().incoming(&bytes);
            match theirs.received(&bytes) {
                Err(e) => over.over(Over::Session(e)),
                Ok(()) if bytes.get(1) == Some(&WELCOME) => {
                    here.joined(&bytes);
                    if here.paused.get() {
                        theirs.tell_status();
                    }
                    joined.set(Some(Instant::now()));
                    show(State::Joined);
                }
                Ok(()) => {}
            }
        });
        socket.set_onmessage(Some(message.as_ref().unchecked_ref()));

        let (over, url) = (end.clone(), address.url.clone());
        let closed = Closure::<dyn FnMut(CloseEvent)>::new(move |event: CloseEvent| {
            let said = event.reason();
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            over.over(Over::Closed(format!("{url} was closed (code {}){said}", event.code())));
        });
        socket.set_onclose(Some(closed.as_ref().unchecked_ref()));
        if socket.ready_state() == WebSocket::OPEN {
            worker.opened(&address.token);
        }

        let (theirs, over, its, start) = (Rc::clone(worker), end.clone(), socket.clone(), Instant::now());
        let tick = Interval::new(1000, move || {
            if its.ready_state() == WebSocket::CONNECTING && start.elapsed() >= OPENING {
                return over.over(Over::Closed(format!("{} did not open within {OPENING:?}", its.url())));
            }
            if let Err(e) = theirs.tick() {
                over.over(Over::Session(e));
            }
        });
        Ok(Self { tab: Rc::clone(tab), socket, _tick: tick, _opened: opened, _message: message, _closed: closed })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.socket.set_onopen(None);
        self.socket.set_onmessage(None);
        self.socket.set_onclose(None);
        *self.tab.socket.borrow_mut() = None;
        // What waits in the socket still goes out before it closes. Closing fails for invalid codes only.
        let _ = self.socket.close_with_code(NORMAL);
    }
}
