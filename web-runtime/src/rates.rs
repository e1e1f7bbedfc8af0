//! The variants of the WebGPU kernels in this browser: whether each conforms and how fast it is, for suites and benchmarks
//! that drive real browsers.

use js_sys::{Array, JSON};
use tabpool_engine::conformance::{CaseResult, run_matching, run_permitting};
use tabpool_engine::{Backend as _, EngineError};
use tabpool_tensor::Precision;
use tabpool_webgpu::{AttentionVariant, GemmVariant, Options, RowVariant, WebGpuBackend};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};
use web_time::Instant;

use crate::conformance::case_note;
use crate::facts;
use crate::kernels::KernelChoice;
use crate::page::Note;

fn told(e: &dyn std::fmt::Display) -> JsValue {
    JsValue::from_str(&e.to_string())
}

/// Opens WebGPU with these variants forced, or with the backend's own choice.
async fn open(browser: &str, options: Options) -> Result<WebGpuBackend, EngineError> {
    WebGpuBackend::new(Options { nudge_maps: browser == "firefox", ..options }).await
}

/// A variant with what forces it and the words in the names of the cases that concern it.
fn forced(here: &WebGpuBackend) -> Vec<(&'static str, Options, &'static [&'static str])> {
    let gemms = GemmVariant::ALL.into_iter().filter(|&gemm| here.runs(gemm)).map(|gemm| {
        // Natively they meet every layer; here each size once, which SwiftShader and lavapipe compile in minutes. Few
        // convolutions show whether results lie as channels do, in fours and apart.
        let exact = &["then nothing and a residual", "linear in fours", "conv2d in fours", "conv2d [2, 33"];
        let concerned: &[&str] = if gemm.precision() == Precision::F32 { exact } else { &["linear"] };
        (gemm.name(), Options { gemm: Some(gemm), ..Options::default() }, concerned)
    });
    // Natively they meet every case; here as many as show that the browser compiles them as they are meant.
    let attentions = AttentionVariant::ALL.into_iter().map(|attention| {
        let options = Options { attention: Some(attention), ..Options::default() };
        (attention.name(), options, ["attention in fours", "are no numbers", "decoder"].as_slice())
    });
    let rows = RowVariant::ALL.into_iter().map(|rows| {
        (
            rows.name(),
            Options { rows: Some(rows), ..Options::default() },
            ["softmax in fours", "norm in fours"].as_slice(),
        )
    });
    gemms.chain(attentions).chain(rows).collect()
}

/// Runs the suite's cases that concern it on every variant of a kernel that the device can run, those of its precision on one
/// that is less exact than 32 bits. The result is JSON as that of `conformance`.
///
/// # Errors
/// A text where a device does not open.
#[wasm_bindgen]
pub async fn variants() -> Result<String, JsValue> {
    let facts = facts::gather(&[], KernelChoice::default()).await;
    let (start, mut device, cases) = (Instant::now(), String::new(), Array::new());
    let here = open(&facts.browser, Options::default()).await.map_err(|e| told(&e))?;
    for (variant, options, concerned) in forced(&here) {
        let precision = options.gemm.map_or(Precision::F32, GemmVariant::precision);
        let backend = open(&facts.browser, options).await.map_err(|e| told(&e))?;
        for words in concerned {
            let results = match precision {
                Precision::F32 => run_matching(&backend, words).await,
                less => run_permitting(&backend, less, words).await,
            };
            for case in results {
                let name = format!("{variant}: {}", case.name);
                cases.push(&case_note(CaseResult { name, ..case }));
            }
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
    let backend = open(&facts.browser, Options::default()).await.map_err(|e| told(&e))?;
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
