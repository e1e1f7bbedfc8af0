//! What a worker's global scope offers, as far as it is needed here.
//!
//! Written by hand where web-sys has it only behind its unstable flag (WebGPU, user agent data) or not at all (WebNN), and
//! everything optional is an `Option`: which of it exists is exactly what this runtime has to find out.

use js_sys::{Array, Object, Promise};
use wasm_bindgen::prelude::{JsCast, JsValue, wasm_bindgen};
use web_sys::StorageManager;

#[wasm_bindgen]
extern "C" {
    /// The global scope of a dedicated worker.
    pub(crate) type Scope;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn navigator(this: &Scope) -> Navigator;
    #[wasm_bindgen(method, getter, js_name = crossOriginIsolated)]
    pub(crate) fn cross_origin_isolated(this: &Scope) -> Option<bool>;
    #[wasm_bindgen(method, getter, js_name = isSecureContext)]
    pub(crate) fn is_secure_context(this: &Scope) -> Option<bool>;
    #[wasm_bindgen(method, catch)]
    pub(crate) fn fetch(this: &Scope, url: &str, init: &web_sys::RequestInit) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = postMessage)]
    pub(crate) fn post_message(this: &Scope, message: &JsValue) -> Result<(), JsValue>;
    #[wasm_bindgen(method, js_name = setTimeout)]
    pub(crate) fn set_timeout(this: &Scope, callback: &JsValue, milliseconds: u32) -> f64;
    #[wasm_bindgen(method, js_name = setInterval)]
    pub(crate) fn set_interval(this: &Scope, callback: &JsValue, milliseconds: u32) -> f64;
    #[wasm_bindgen(method, js_name = clearInterval)]
    pub(crate) fn clear_interval(this: &Scope, id: f64);

    pub(crate) type Navigator;
    #[wasm_bindgen(method, getter, js_name = userAgent)]
    pub(crate) fn user_agent(this: &Navigator) -> String;
    #[wasm_bindgen(method, getter, js_name = hardwareConcurrency)]
    pub(crate) fn hardware_concurrency(this: &Navigator) -> Option<u32>;
    #[wasm_bindgen(method, getter, js_name = deviceMemory)]
    pub(crate) fn device_memory(this: &Navigator) -> Option<f64>;
    #[wasm_bindgen(method, getter, js_name = userAgentData)]
    pub(crate) fn user_agent_data(this: &Navigator) -> Option<UserAgentData>;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn gpu(this: &Navigator) -> Option<Gpu>;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn ml(this: &Navigator) -> Option<Object>;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn storage(this: &Navigator) -> Option<StorageManager>;

    pub(crate) type UserAgentData;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn brands(this: &UserAgentData) -> Array;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn mobile(this: &UserAgentData) -> bool;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn platform(this: &UserAgentData) -> String;
    #[wasm_bindgen(method, js_name = getHighEntropyValues)]
    pub(crate) fn high_entropy_values(this: &UserAgentData, hints: &Array) -> Promise;

    pub(crate) type Gpu;
    #[wasm_bindgen(method, js_name = requestAdapter)]
    pub(crate) fn request_adapter(this: &Gpu, options: &Object) -> Promise;
    #[wasm_bindgen(method, getter, js_name = wgslLanguageFeatures)]
    pub(crate) fn wgsl_language_features(this: &Gpu) -> JsValue;

    pub(crate) type Adapter;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn info(this: &Adapter) -> JsValue;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn features(this: &Adapter) -> JsValue;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn limits(this: &Adapter) -> JsValue;
    #[wasm_bindgen(method, getter, js_name = isFallbackAdapter)]
    pub(crate) fn is_fallback_adapter(this: &Adapter) -> Option<bool>;
}

/// The worker's global scope.
pub(crate) fn scope() -> Scope {
    js_sys::global().unchecked_into()
}

/// Whether this is Firefox, for what no feature test tells: what costs how much. What it can do is asked for by feature.
pub(crate) fn is_firefox() -> bool {
    scope().navigator().user_agent().contains("Firefox/")
}

/// What a thrown value says: its name and message where it is an error.
pub(crate) fn thrown(value: &JsValue) -> String {
    let part = |key: &str| text(value, key).filter(|t| !t.is_empty());
    match (part("name"), part("message")) {
        (Some(name), Some(message)) => format!("{name}: {message}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => value.as_string().unwrap_or_else(|| format!("{value:?}")),
    }
}

/// A property, `undefined` where there is none.
pub(crate) fn property(value: &JsValue, key: &str) -> JsValue {
    // Reading from something that is no object, or a getter that throws: as good as absent.
    js_sys::Reflect::get(value, &JsValue::from_str(key)).unwrap_or(JsValue::UNDEFINED)
}

/// A property that is text.
pub(crate) fn text(value: &JsValue, key: &str) -> Option<String> {
    property(value, key).as_string()
}
