//! The worker's timers, which browsers do not throttle when the page is hidden.

use std::pin::pin;

use futures::future::{Either, select};
use js_sys::Promise;
use wasm_bindgen::prelude::{Closure, JsValue};
use wasm_bindgen_futures::JsFuture;

use crate::navigator::scope;

/// Waits.
pub(crate) async fn sleep(milliseconds: u32) {
    let promise = Promise::new(&mut |resolve, _| {
        scope().set_timeout(&resolve, milliseconds);
    });
    // A promise that only a timer resolves is never rejected.
    let _ = JsFuture::from(promise).await;
}

/// Waits for a promise, so long at most.
///
/// # Errors
/// What the promise was rejected with, or a text that says how long was waited.
pub(crate) async fn within(milliseconds: u32, promise: Promise) -> Result<JsValue, JsValue> {
    let timer = pin!(sleep(milliseconds));
    match select(JsFuture::from(promise), timer).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(JsValue::from_str(&format!("no answer within {} s", milliseconds / 1000))),
    }
}

/// Calls something again and again until it is dropped. The callback itself may drop it: wasm-bindgen keeps a closure that runs.
pub(crate) struct Interval {
    id: f64,
    _callback: Closure<dyn FnMut()>,
}

impl Interval {
    pub(crate) fn new(milliseconds: u32, callback: impl FnMut() + 'static) -> Self {
        let callback = Closure::<dyn FnMut()>::new(callback);
        Self { id: scope().set_interval(callback.as_ref(), milliseconds), _callback: callback }
    }
}

impl Drop for Interval {
    fn drop(&mut self) {
        scope().clear_interval(self.id);
    }
}
