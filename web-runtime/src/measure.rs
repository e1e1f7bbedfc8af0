//! How long an encoder takes in this browser, for those who work on kernels: no pool, no link, random weights.

use js_sys::{Array, JSON};
use tabpool_engine::conformance::{EncoderSize, MemoryWeights, encoder};
use tabpool_protocol::ApiKind;
use tabpool_tensor::DType;
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};
use web_time::{Duration, Instant};

use crate::facts;
use crate::kernels::KernelChoice;
use crate::page::Note;
use crate::tab::open_backend;

/// Runs an encoder of all-MiniLM-L6-v2's size on an API; `kernels` and `threads` are those of [`Config`](crate::Config).
/// The result is JSON: `device`, milliseconds for `open` and `load`, and `runs`, in order.
///
/// # Errors
/// A text where the API is unknown, its device does not open, or a run fails.
#[wasm_bindgen]
pub async fn measure(
    api: String,
    kernels: String,
    threads: String,
    batch: usize,
    sequence: usize,
    rounds: usize,
) -> Result<String, JsValue> {
    let told = |e: &dyn std::fmt::Display| JsValue::from_str(&e.to_string());
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let api: ApiKind = api.parse().map_err(|e: String| told(&e))?;
    let kernels = KernelChoice::parse(&kernels, &threads).map_err(|e| told(&e))?;
    let facts = facts::gather(&[], kernels).await;
    let begin = Instant::now();
    let backend = open_backend(api, &facts, kernels).await.map_err(|e| told(&e))?;
    let open = ms(begin.elapsed());
    let case = encoder(EncoderSize::minilm(batch, sequence), DType::F32)
        .and_then(|case| case.optimised())
        .map_err(|e| told(&e))?;
    let mut weights = MemoryWeights::new();
    let program = weights.bind(case.graph().clone(), case.weights()).map_err(|e| told(&e))?;
    let begin = Instant::now();
    let loaded = backend.load(&program, &weights).await.map_err(|e| told(&e))?;
    let load = ms(begin.elapsed());
    let runs = Array::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        loaded.executable.run(&case.runs()[0]).await.map_err(|e| told(&e))?;
        runs.push(&ms(begin.elapsed()).into());
    }
    let result = Note::plain()
        .with("device", backend.info().device.as_str())
        .with("open", open)
        .with("load", load)
        .with("runs", runs);
    JSON::stringify(&result.into()).map(String::from)
}
