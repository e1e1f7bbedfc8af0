//! Hashes of blocks by the browser, which has the processor's own instructions for them and threads beside this one.

use js_sys::{Promise, Uint8Array};
use tabpool_content::sha256 as by_this_module;
use wasm_bindgen::prelude::{JsCast, JsValue, wasm_bindgen};
use wasm_bindgen_futures::JsFuture;

use crate::navigator::{is_firefox, property};
use crate::outside::Outside;

/// Bytes from which on it pays to ask: the way there and back takes as long as this module takes for so many.
const LEAST: usize = 32 << 10;

#[wasm_bindgen(raw_module = "./kernels.js")]
extern "C" {
    /// Lets whatever has come to this thread be handled, as long as threads of the kernels are on their way.
    #[wasm_bindgen(js_name = pauseForHelpers)]
    fn pause_for_helpers() -> Option<Promise>;
    /// Has a thread of the kernels hash, where one has nothing else to do yet. Takes a copy of the bytes before it returns, and
    /// gives it with the hash.
    #[wasm_bindgen(js_name = digestAside)]
    fn digest_aside(bytes: &[u8]) -> Option<Promise>;
    /// Takes such a copy back.
    #[wasm_bindgen(js_name = takeBack)]
    fn take_back(bytes: &Uint8Array);
}

#[wasm_bindgen]
extern "C" {
    type WithCrypto;
    #[wasm_bindgen(method, getter)]
    fn crypto(this: &WithCrypto) -> Option<Crypto>;

    type Crypto;
    #[wasm_bindgen(method, getter)]
    fn subtle(this: &Crypto) -> Option<Subtle>;

    type Subtle;
    /// Takes a copy of the bytes before it returns.
    #[wasm_bindgen(method, catch)]
    fn digest(this: &Subtle, algorithm: &str, bytes: &[u8]) -> Result<Promise, JsValue>;
}

/// The sha2-256 of bytes. Where they had to be copied for that and are a block that came from the host, the copy is the cache's.
pub(crate) async fn sha256(bytes: &[u8], outside: &Outside) -> [u8; 32] {
    if bytes.len() >= LEAST
        && let Some(hash) = by_browser(bytes, outside).await
    {
        return hash;
    }
    by_this_module(bytes)
}

/// `None` where there is nobody to ask: pages that came over plain http from elsewhere are given no cryptography.
async fn by_browser(bytes: &[u8], outside: &Outside) -> Option<[u8; 32]> {
    // Firefox hashes beside this thread by itself; Chromium hashes in it.
    let mut aside = None;
    if hashes_here() {
        if let Some(pause) = pause_for_helpers() {
            // It is never rejected.
            let _ = JsFuture::from(pause).await;
        }
        aside = digest_aside(bytes);
    }
    if let Some(promise) = aside
        && let Ok(hashed) = JsFuture::from(promise).await
        && let Some(digest) = digest_in(&property(&hashed, "hash"))
    {
        let copy = property(&hashed, "bytes").unchecked_into();
        if let Some(unwanted) = outside.offer(&digest, copy) {
            take_back(&unwanted);
        }
        return Some(digest);
    }
    let scope: WithCrypto = js_sys::global().unchecked_into();
    let promise = scope.crypto()?.subtle()?.digest("SHA-256", bytes).ok()?;
    digest_in(&JsFuture::from(promise).await.ok()?)
}

/// Whether this browser hashes on the thread that asks.
fn hashes_here() -> bool {
    !is_firefox()
}

/// The digest in an `ArrayBuffer`, where it is one.
fn digest_in(buffer: &JsValue) -> Option<[u8; 32]> {
    let hash = Uint8Array::new(buffer);
    let mut digest = [0; 32];
    if hash.length() as usize != digest.len() {
        return None;
    }
    hash.copy_to(&mut digest);
    Some(digest)
}
