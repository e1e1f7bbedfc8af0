//! The variants of the WebGPU kernels in this browser: whether each conforms and how fast it is, for suites and benchmarks
//! that drive real browsers.

use js_sys::{Array, JSON};
use tabpool_engine::conformance::{CaseResult, run_matching, run_permitting};
use tabpool_engine::{Backend as _, EngineError};
use tabpool_tensor::Precision;
use tabpool_webgpu::{GemmVariant, Options, WebGpuBackend};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};
use web_time::Instant;

use crate::conformance::case_note;
use crate::facts;
use crate::kernels::KernelChoice;
use crate::page::Note;

fn told(e: &dyn std::fmt::Display) -> JsValue {
    JsValue::from_str(&e.to_string())
}

/// Opens WebGPU with a GEMM variant for every linear node, or with the backend's own choice.
async fn open(browser: &str, gemm: Option<GemmVariant>) -> Result<WebGpuBackend, EngineError> {
    WebGpuBackend::new(Options { gemm, nudge_maps: browser == "firefox", ..Options::default() }).await
}

/// Runs the suite's cases of linear nodes on every GEMM variant that the device can run, those of its precision on one that
/// is less exact than 32 bits. The result is JSON as that of `conformance`.
///
/// # Errors
/// A text where a device does not open.
#[wasm_bindgen]
pub async fn variants() -> Result<String, JsValue> {
    let facts = facts::gather(&[], KernelChoice::default()).await;
    let (start, mut device, cases) = (Instant::now(), String::new(), Array::new());
    let here = open(&facts.browser, None).await.map_err(|e| told(&e))?;
    for gemm in GemmVariant::ALL.into_iter().filter(|&gemm| here.runs(gemm)) {
        let backend = open(&facts.browser, Some(gemm)).await.map_err(|e| told(&e))?;
        let results = match gemm.precision() {
            Precision::F32 => run_matching(&backend, "linear").await,
            less => run_permitting(&backend, less, "linear").await,
        };
        for case in results {
            let name = format!("{}: {}", gemm.name(), case.name);
            cases.push(&case_note(CaseResult { name, ..case }));
        }
        device.clone_from(&backend.info().device);
    }
    let result = Note::plain()
        .with("api", "webgpu")
        .with("device", device)
        .with("browser", facts.browser)
        .with("version", facts.version)
        .with("seconds", start.elapsed().as_secs_f64())
        .with("cases", cases);
    JSON::stringify(&result.into()).map(String::from)
}

/// Times every variant of the kernels whose class holds `filter` on WebGPU. The result is JSON: `device`, `browser`,
/// `version`, and `rates` with `class`, `variant`, `operations` and `seconds`, which is missing where a variant failed.
///
/// # Errors
/// A text where there is no device, or it is lost.
#[wasm_bindgen]
pub async fn rates(filter: String) -> Result<String, JsValue> {
    let facts = facts::gather(&[], KernelChoice::default()).await;
    let backend = open(&facts.browser, None).await.map_err(|e| told(&e))?;
    let timed = backend.kernel_rates(&filter).await.map_err(|e| told(&e))?;
    let rates: Array = timed
        .into_iter()
        .map(|rate| {
            let note = Note::plain().with("class", rate.class).with("variant", rate.variant);
            let seconds = rate.time.map(|t| t.as_secs_f64());
            JsValue::from(note.with("operations", rate.operations as f64).with("seconds", seconds))
        })
        .collect();
    let result = Note::plain()
        .with("device", backend.adapter_report().title())
        .with("browser", facts.browser)
        .with("version", facts.version)
        .with("rates", rates);
    JSON::stringify(&result.into()).map(String::from)
}
