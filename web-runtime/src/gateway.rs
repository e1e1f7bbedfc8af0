//! Blocks from the host's trustless gateway, by fetch from the page's own origin.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use js_sys::{ArrayBuffer, Uint8Array};
use tabpool_content::{Cid, MAX_BLOCK_BYTES};
use tabpool_worker::BlockFetcher;
use wasm_bindgen::prelude::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Headers, RequestCache, RequestInit, Response};

use crate::navigator::{scope, thrown};
use crate::retry::wait_ms;
use crate::timers::sleep;

/// How long one block may take: a megabyte over a slow mobile network, with its neighbours beside it.
const TIMEOUT_MS: u32 = 120_000;
/// How often one block is asked for. A phone that changes its network must not lose a load that is nearly done.
const ATTEMPTS: u32 = 4;

/// Fetches blocks. One that several loads want at the same time is fetched once.
pub(crate) struct Gateway {
    source: Rc<Source>,
    /// Bounded by what loads fetch ahead.
    coming: RefCell<HashMap<Cid, Coming>>,
}

/// A block on its way to everybody who asked for it.
type Coming = Shared<LocalBoxFuture<'static, Result<Bytes, String>>>;

struct Source {
    /// What a CID is appended to.
    address: String,
    /// Whether blocks are kept by this runtime, so that the browser need not keep them as well.
    kept: bool,
    fetched: Cell<(u32, u64)>,
}

/// Why a block did not come, and whether asking again may help.
struct Failure {
    reason: String,
    again: bool,
}

impl Gateway {
    pub(crate) fn new(address: String, kept: bool) -> Self {
        let source = Rc::new(Source { address, kept, fetched: Cell::default() });
        Self { source, coming: RefCell::default() }
    }

    /// Blocks and bytes that came so far.
    pub(crate) fn fetched(&self) -> (u32, u64) {
        self.source.fetched.get()
    }
}

#[async_trait(?Send)]
impl BlockFetcher for Gateway {
    async fn fetch(&self, cid: &Cid) -> Result<Bytes, String> {
        let coming = {
            let mut all = self.coming.borrow_mut();
            let start = || Rc::clone(&self.source).fetch(*cid).boxed_local().shared();
            all.entry(*cid).or_insert_with(start).clone()
        };
        let result = coming.await;
        self.coming.borrow_mut().remove(cid);
        result
    }
}

impl Source {
    async fn fetch(self: Rc<Self>, cid: Cid) -> Result<Bytes, String> {
        let url = format!("{}{cid}?format=raw", self.address);
        let mut attempt = 0;
        loop {
            match self.ask(&url).await {
                Ok(bytes) => {
                    let (blocks, total) = self.fetched.get();
                    self.fetched.set((blocks + 1, total + bytes.len() as u64));
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

    async fn ask(&self, url: &str) -> Result<Bytes, Failure> {
        let broken = |e: &JsValue| Failure { reason: format!("{url}: {}", thrown(e)), again: true };
        let init = RequestInit::new();
        let headers = Headers::new().map_err(|e| broken(&e))?;
        headers.set("Accept", "application/vnd.ipld.raw").map_err(|e| broken(&e))?;
        init.set_headers_headers(&headers);
        init.set_signal(Some(&AbortSignal::timeout_with_u32(TIMEOUT_MS)));
        if self.kept {
            init.set_cache(RequestCache::NoStore);
        }
        let promise = scope().fetch(url, &init).map_err(|e| broken(&e))?;
        let response: Response = JsFuture::from(promise).await.map_err(|e| broken(&e))?.unchecked_into();
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
        let told = response.headers().get("Content-Length").ok().flatten().and_then(|v| v.parse::<usize>().ok());
        if let Some(told) = told.filter(|&told| told > MAX_BLOCK_BYTES) {
            return Err(Failure { reason: format!("{url}: {told} bytes are no block"), again: false });
        }
        let promise = response.array_buffer().map_err(|e| broken(&e))?;
        let buffer: ArrayBuffer = JsFuture::from(promise).await.map_err(|e| broken(&e))?.unchecked_into();
        Ok(Bytes::from(Uint8Array::new(&buffer).to_vec()))
    }
}
