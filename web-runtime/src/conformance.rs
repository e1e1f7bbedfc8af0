//! The engine's conformance suite in this browser, for suites that drive real browsers.

use js_sys::{Array, JSON};
use tabpool_engine::conformance::{Outcome, run_matching};
use tabpool_protocol::ApiKind;
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};
use web_time::Instant;

use crate::facts;
use crate::page::Note;
use crate::tab::open_backend;

/// Runs the cases whose names hold `filter` on an API. The result is JSON: `api`, `device`, `seconds`, and `cases` with
/// `name`, `outcome` (`passed`, `unsupported` or `failed`), `reason`, `worstError` and `tolerance`.
///
/// # Errors
/// A text where the API is unknown or its device does not open.
#[wasm_bindgen]
pub async fn conformance(api: String, filter: String) -> Result<String, JsValue> {
    let told = |e: &dyn std::fmt::Display| JsValue::from_str(&e.to_string());
    let api: ApiKind = api.parse().map_err(|e: String| told(&e))?;
    let facts = facts::gather(&[]).await;
    let backend = open_backend(api, &facts).await.map_err(|e| told(&e))?;
    let start = Instant::now();
    let cases: Array = run_matching(&*backend, &filter)
        .await
        .into_iter()
        .map(|case| {
            let (outcome, reason) = match case.outcome {
                Outcome::Passed => ("passed", None),
                Outcome::Unsupported(reason) => ("unsupported", Some(reason)),
                Outcome::Failed(reason) => ("failed", Some(reason)),
            };
            let note = Note::plain().with("name", case.name).with("outcome", outcome).with("reason", reason);
            JsValue::from(note.with("worstError", case.worst_error).with("tolerance", case.tolerance))
        })
        .collect();
    let result = Note::plain()
        .with("api", api.name())
        .with("device", backend.info().device.as_str())
        .with("browser", facts.browser)
        .with("version", facts.version)
        .with("seconds", start.elapsed().as_secs_f64())
        .with("cases", cases);
    JSON::stringify(&result.into()).map(String::from)
}
