//! Blocks from the host's trustless gateway, by fetch from the page's own origin.
//!
//! What is asked for in one turn of the worker's thread is asked of the host in one request, or a few, and comes in as many
//! answers: a request for each block costs a browser more than the block's bytes do. What an answer leaves out is asked for
//! by itself, so that the host says why.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{LocalBoxFuture, Shared};
use js_sys::{ArrayBuffer, Uint8Array};
use tabpool_content::{CarReader, Cid, MAX_BLOCK_BYTES};
use tabpool_worker::BlockFetcher;
use wasm_bindgen::prelude::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{AbortController, Headers, RequestCache, RequestInit, Response};
use web_time::{Duration, Instant};

use crate::body::Body;
use crate::navigator::{is_firefox, scope, thrown};
use crate::outside::Outside;
use crate::retry::wait_ms;
use crate::timers::{Interval, sleep};

/// How long nothing may come: a megabyte over a slow mobile network, with its neighbours beside it.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How often that is looked at.
const LOOK_MS: u32 = 5_000;
/// How often blocks are asked for when nothing comes. A phone that changes its network must not lose a load that is nearly
/// done.
const ATTEMPTS: u32 = 4;
/// Blocks in one request; the host takes no more.
const MOST_AT_ONCE: usize = 1024;
/// Bytes in one request where answers are taken whole. Several such requests are under way at once, and the first blocks
/// should be here soon.
const GROUP_BYTES: usize = 3 << 20;

/// Fetches blocks. One that several loads want at the same time is fetched once.
pub(crate) struct Gateway {
    source: Rc<Source>,
    /// Bounded by what loads fetch ahead.
    coming: RefCell<HashMap<Cid, Coming>>,
}

/// A block on its way to everybody who asked for it.
type Coming = Shared<LocalBoxFuture<'static, Result<Bytes, String>>>;
/// Who waits for it, where the host is asked.
type Waiting = oneshot::Sender<Result<Bytes, String>>;

struct Source {
    /// What a CID is appended to.
    address: String,
    /// Whether blocks are kept by this runtime, so that the browser need not keep them as well.
    kept: bool,
    /// How answers of several blocks are read.
    reading: Reading,
    fetched: Cell<(u32, u64)>,
    /// The session, which lets this worker have blocks of a host that is not on this machine.
    session: RefCell<String>,
    /// Where whole answers are laid for the cache.
    outside: Rc<Outside>,
    /// What was asked for and is in no request yet.
    pending: RefCell<VecDeque<Wanted>>,
}

/// How an answer of several blocks is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Piece by piece, all blocks in one answer.
    Stream,
    /// Whole, a few blocks in each of several answers. Firefox takes twice as long to hand a stream over.
    Whole,
}

/// A block that was asked for.
struct Wanted {
    cid: Cid,
    len: usize,
    waiting: Waiting,
}

/// Why blocks did not come, and whether asking again may help.
struct Failure {
    reason: String,
    again: bool,
}

/// An answer of the host, given up when nothing of it comes for too long.
struct Answer {
    response: Response,
    heard: Rc<Cell<Instant>>,
    _watch: Interval,
}

impl Gateway {
    pub(crate) fn new(address: String, kept: bool, outside: Rc<Outside>) -> Self {
        let reading = if is_firefox() { Reading::Whole } else { Reading::Stream };
        let (fetched, session, pending) = Default::default();
        let source = Source { address, kept, reading, fetched, session, outside, pending };
        Self { source: Rc::new(source), coming: RefCell::default() }
    }

    /// The host has let this worker in, under this name.
    pub(crate) fn joined(&self, session: String) {
        *self.source.session.borrow_mut() = session;
    }

    /// Blocks and bytes that came so far.
    pub(crate) fn fetched(&self) -> (u32, u64) {
        self.source.fetched.get()
    }
}

#[async_trait(?Send)]
impl BlockFetcher for Gateway {
    async fn fetch(&self, cid: &Cid, len: usize) -> Result<Bytes, String> {
        let coming = {
            let mut all = self.coming.borrow_mut();
            all.entry(*cid).or_insert_with(|| self.source.ask(*cid, len)).clone()
        };
        let result = coming.await;
        self.coming.borrow_mut().remove(cid);
        result
    }
}

impl Source {
    /// Has a block brought with whatever else is asked for in this turn.
    fn ask(self: &Rc<Self>, cid: Cid, len: usize) -> Coming {
        let (waiting, receiver) = oneshot::channel();
        let first = {
            let mut pending = self.pending.borrow_mut();
            pending.push_back(Wanted { cid, len, waiting });
            pending.len() == 1
        };
        if first {
            // Tasks that run now run before one that is spawned now.
            let this = Rc::clone(self);
            spawn_local(async move { this.send_pending() });
        }
        let given_up = || Err("its request was given up".to_owned());
        receiver.map(move |result| result.unwrap_or_else(|_| given_up())).boxed_local().shared()
    }

    fn send_pending(self: &Rc<Self>) {
        loop {
            let request: Vec<_> = {
                let mut pending = self.pending.borrow_mut();
                let most = self.at_once(&pending);
                pending.drain(..most).collect()
            };
            if request.is_empty() {
                return;
            }
            spawn_local(Rc::clone(self).bring(request));
        }
    }

    /// How many of those pending go into one request, the first in any case.
    fn at_once(&self, pending: &VecDeque<Wanted>) -> usize {
        let most = pending.len().min(MOST_AT_ONCE);
        if self.reading == Reading::Stream {
            return most;
        }
        let mut bytes = 0;
        let fit = pending.iter().take(most).take_while(|wanted| {
            bytes += wanted.len;
            bytes <= GROUP_BYTES
        });
        fit.count().max(most.min(1))
    }

    /// Brings blocks, in one answer where they are several.
    async fn bring(self: Rc<Self>, request: Vec<Wanted>) {
        let order: Vec<Cid> = request.iter().map(|wanted| wanted.cid).collect();
        let mut missing: HashMap<Cid, Waiting> = request.into_iter().map(|w| (w.cid, w.waiting)).collect();
        let mut attempt = 0;
        while missing.len() > 1 {
            let before = missing.len();
            match self.several(&order, &mut missing).await {
                Ok(()) => break,
                Err(failure) => {
                    // A host that brings something each time is asked until everything is here.
                    attempt = if missing.len() < before { 0 } else { attempt + 1 };
                    if !failure.again || attempt >= ATTEMPTS {
                        for (_, waiting) in missing.drain() {
                            let _ = waiting.send(Err(failure.reason.clone()));
                        }
                        return;
                    }
                    sleep(wait_ms(attempt, js_sys::Math::random())).await;
                }
            }
        }
        for (cid, waiting) in missing {
            let this = Rc::clone(&self);
            spawn_local(async move {
                // Nobody waits any more where the load was given up.
                let _ = waiting.send(this.single(&cid).await);
            });
        }
    }

    fn came(&self, bytes: &Bytes) {
        let (blocks, total) = self.fetched.get();
        self.fetched.set((blocks + 1, total + bytes.len() as u64));
    }

    /// Asks for those missing in the order they were asked for, and hands out those that come.
    async fn several(&self, order: &[Cid], missing: &mut HashMap<Cid, Waiting>) -> Result<(), Failure> {
        let url = &self.address;
        let broken = |e: &JsValue| Failure { reason: format!("{url}: {}", thrown(e)), again: true };
        let wanted = order.iter().filter(|cid| missing.contains_key(cid));
        let list: Vec<String> = wanted.map(ToString::to_string).collect();
        // Of an answer that is taken whole nothing is heard before all of it is here.
        let silence = match self.reading {
            Reading::Stream => TIMEOUT,
            Reading::Whole => TIMEOUT * u32::try_from(list.len()).unwrap_or(u32::MAX),
        };
        let answer = self.answer(url, "application/vnd.ipld.car", Some(&list.join("\n")), silence).await?;
        let mut car = CarReader::default();
        let mut push = |outside: &Uint8Array, whole: bool| {
            let piece = Bytes::from(outside.to_vec());
            let found = |cid: Cid, bytes: Bytes| {
                // A block that was not asked for is nobody's.
                if let Some(waiting) = missing.remove(&cid) {
                    self.came(&bytes);
                    if self.kept {
                        match whole {
                            true => self.outside.lay(&cid, within(outside, &piece, &bytes)),
                            false => self.outside.expect(&cid),
                        }
                    }
                    let _ = waiting.send(Ok(bytes));
                }
            };
            car.push(&piece, found).map_err(|e| Failure { reason: format!("{url}: {e}"), again: false })
        };
        match self.reading {
            Reading::Stream => {
                let body =
                    answer.response.body().ok_or_else(|| broken(&JsValue::from_str("the answer has no body")))?;
                let mut body = Body::new(body.into()).map_err(|e| broken(&e))?;
                while let Some(piece) = body.next().await.map_err(|e| broken(&e))? {
                    answer.heard.set(Instant::now());
                    push(&piece, false)?;
                }
            }
            Reading::Whole => {
                let promise = answer.response.array_buffer().map_err(|e| broken(&e))?;
                let whole = JsFuture::from(promise).await.map_err(|e| broken(&e))?;
                push(&Uint8Array::new(&whole), true)?;
            }
        }
        car.finish().map_err(|e| Failure { reason: format!("{url}: {e}"), again: true })
    }

    /// Asks for one block until it comes.
    async fn single(&self, cid: &Cid) -> Result<Bytes, String> {
        let url = format!("{}{cid}?format=raw", self.address);
        let mut attempt = 0;
        loop {
            match self.block(&url).await {
                Ok(bytes) => {
                    self.outside.forget(cid);
                    self.came(&bytes);
                    return Ok(bytes);
                }
                Err(Failure { again: true, .. }) if attempt + 1 < ATTEMPTS => {
                    sleep(wait_ms(attempt, js_sys::Math::random())).await;
                    attempt += 1;
                }
                Err(Failure { reason, .. }) => return Err(reason),
            }
        }
    }

    async fn block(&self, url: &str) -> Result<Bytes, Failure> {
        let broken = |e: &JsValue| Failure { reason: format!("{url}: {}", thrown(e)), again: true };
        let answer = self.answer(url, "application/vnd.ipld.raw", None, TIMEOUT).await?;
        let headers = answer.response.headers();
        let told = headers.get("Content-Length").ok().flatten().and_then(|v| v.parse::<usize>().ok());
        if let Some(told) = told.filter(|&told| told > MAX_BLOCK_BYTES) {
            return Err(Failure { reason: format!("{url}: {told} bytes are no block"), again: false });
        }
        let promise = answer.response.array_buffer().map_err(|e| broken(&e))?;
        let buffer: ArrayBuffer = JsFuture::from(promise).await.map_err(|e| broken(&e))?.unchecked_into();
        Ok(Bytes::from(Uint8Array::new(&buffer).to_vec()))
    }

    /// A good answer of the host: to a list of what is wanted where there is one. It is given up after so long a `silence`.
    async fn answer(&self, url: &str, accept: &str, list: Option<&str>, silence: Duration) -> Result<Answer, Failure> {
        let broken = |e: &JsValue| Failure { reason: format!("{url}: {}", thrown(e)), again: true };
        let init = RequestInit::new();
        let headers = Headers::new().map_err(|e| broken(&e))?;
        headers.set("Accept", accept).map_err(|e| broken(&e))?;
        let session = self.session.borrow().clone();
        if !session.is_empty() {
            headers.set("Authorization", &format!("Bearer {session}")).map_err(|e| broken(&e))?;
        }
        init.set_headers_headers(&headers);
        if let Some(list) = list {
            init.set_method("POST");
            init.set_body(&JsValue::from_str(list));
        }
        if self.kept {
            init.set_cache(RequestCache::NoStore);
        }
        let abort = AbortController::new().map_err(|e| broken(&e))?;
        init.set_signal(Some(&abort.signal()));
        let heard = Rc::new(Cell::new(Instant::now()));
        let last = Rc::clone(&heard);
        let watch = Interval::new(LOOK_MS, move || {
            if last.get().elapsed() >= silence {
                let reason = format!("nothing came for {} s", silence.as_secs());
                abort.abort_with_reason(&JsValue::from_str(&reason));
            }
        });
        let promise = scope().fetch(url, &init).map_err(|e| broken(&e))?;
        let response: Response = JsFuture::from(promise).await.map_err(|e| broken(&e))?.unchecked_into();
        heard.set(Instant::now());
        if !response.ok() {
            let status = response.status();
            let again = status >= 500 || status == 429;
            let said = match response.text() {
                Ok(promise) => JsFuture::from(promise).await.ok().and_then(|t| t.as_string()).unwrap_or_default(),
                Err(_) => String::new(),
            };
            let said: String = said.trim().chars().take(200).collect();
            return Err(Failure { reason: format!("{url}: {status} {} {said}", response.status_text()), again });
        }
        Ok(Answer { response, heard, _watch: watch })
    }
}

/// The part of an answer outside this module's memory that a block in its copy here, `piece`, came from.
fn within(outside: &Uint8Array, piece: &Bytes, block: &Bytes) -> Uint8Array {
    let start = (block.as_ptr() as usize).saturating_sub(piece.as_ptr() as usize) as u32;
    outside.subarray(start, start + block.len() as u32)
}
