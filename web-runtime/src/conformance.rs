//! The engine's conformance suite in this browser, for suites that drive real browsers.

use js_sys::{Array, JSON};
use tabpool_engine::conformance::{CaseResult, MemoryWeights, Outcome, cases, run_matching};
use tabpool_engine::{Backend as _, EngineError};
use tabpool_protocol::ApiKind;
use tabpool_webnn::WebNnBackend;
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};
use web_time::Instant;

use crate::facts;
use crate::kernels::KernelChoice;
use crate::lane;
use crate::page::Note;
use crate::tab::open_backend;

/// Runs the cases whose names hold `filter` on an API; `kernels` and `threads` are those of [`Config`](crate::Config). The result is JSON: `api`, `device`, `seconds`, and `cases` with
/// `name`, `outcome` (`passed`, `unsupported` or `failed`), `reason`, `worstError` and `tolerance`.
///
/// # Errors
/// A text where the API is unknown or its device does not open.
#[wasm_bindgen]
pub async fn conformance(api: String, filter: String, kernels: String, threads: String) -> Result<String, JsValue> {
    let told = |e: &dyn std::fmt::Display| JsValue::from_str(&e.to_string());
    let api: ApiKind = api.parse().map_err(|e: String| told(&e))?;
    let kernels = KernelChoice::parse(&kernels, &threads).map_err(|e| told(&e))?;
    let facts = facts::gather(&[], kernels).await;
    let backend = open_backend(api, &facts, kernels).await.map_err(|e| told(&e))?;
    let start = Instant::now();
    let mut results = run_matching(&*backend, &filter).await;
    if api == ApiKind::WebNn && LOST_CONTEXT.contains(&filter) {
        results.push(lost_context(facts.cores).await);
    }
    let cases: Array = results.into_iter().map(case_note).collect();
    let result = Note::plain()
        .with("api", api.name())
        .with("device", backend.info().device.as_str())
        .with("browser", facts.browser)
        .with("version", facts.version)
        .with("seconds", start.elapsed().as_secs_f64())
        .with("cases", cases);
    JSON::stringify(&result.into()).map(String::from)
}

/// One case as the page posts it.
pub(crate) fn case_note(case: CaseResult) -> JsValue {
    let (outcome, reason) = match case.outcome {
        Outcome::Passed => ("passed", None),
        Outcome::Unsupported(reason) => ("unsupported", Some(reason)),
        Outcome::Failed(reason) => ("failed", Some(reason)),
    };
    let note = Note::plain().with("name", case.name).with("outcome", outcome).with("reason", reason);
    note.with("worstError", case.worst_error).with("tolerance", case.tolerance).into()
}

/// What is asked of WebNN beyond the suite.
const LOST_CONTEXT: &str = "a context that is taken away is a lost device, and the next one works";

async fn lost_context(cores: u32) -> CaseResult {
    let outcome = match lose_context(cores).await {
        Ok(()) => Outcome::Passed,
        Err(reason) => Outcome::Failed(reason),
    };
    CaseResult { name: LOST_CONTEXT.to_owned(), worst_error: 0.0, tolerance: 1.0, outcome }
}

/// Loads and runs a program, takes the context away, and holds every answer from then on to `DeviceLost`.
async fn lose_context(cores: u32) -> Result<(), String> {
    let all = cases().map_err(|e| e.to_string())?;
    let case = all.iter().find(|case| case.name().starts_with("linear")).ok_or("the suite has no linear layer")?;
    let mut source = MemoryWeights::new();
    let program = source.bind(case.graph().clone(), case.weights()).map_err(|e| e.to_string())?;
    let told = |e: EngineError| e.to_string();
    for _ in 0..2 {
        let backend = WebNnBackend::open(lane::options(cores)).await.map_err(told)?;
        let loaded = backend.load(&program, &source).await.map_err(told)?;
        let inputs = &case.runs()[0];
        let got = loaded.executable.run(inputs).await.map_err(told)?;
        case.compare(inputs, &got.tensors)?;
        backend.destroy();
        match loaded.executable.run(inputs).await {
            Err(EngineError::DeviceLost { .. }) => {}
            Err(e) => return Err(format!("a run on a lost context says: {e}")),
            Ok(_) => return Err("a run on a lost context gave something".to_owned()),
        }
        match backend.load(&program, &source).await {
            Err(EngineError::DeviceLost { .. }) => {}
            Err(e) => return Err(format!("a load onto a lost context says: {e}")),
            Ok(_) => return Err("a load onto a lost context gave something".to_owned()),
        }
    }
    Ok(())
}
