//! The most that a browser's arithmetic and memory do on this machine, in the same run: what stands beside a goal that is out
//! of reach.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tabpool_browser::Installed;

use super::contender::{SETTLING, Surroundings};
use super::wasm::{Arithmetic, BYTES, OPERATIONS, module};
use crate::Fault;
use crate::rig::machine::has_webnn;
use crate::rig::page::Page;

const LIMIT: Duration = Duration::from_secs(60);
/// How long one try goes on.
const TRY_MS: u32 = 100;

/// What WebNN's peak is of.
pub(super) const WEBNN: &str = "WebNN, products of matrices";

/// One peak.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Peak {
    pub(super) browser: String,
    /// What was done with what.
    pub(super) what: &'static str,
    pub(super) threads: Option<usize>,
    /// Billions a second.
    pub(super) giga: Option<f64>,
    pub(super) unit: &'static str,
    pub(super) failed: Option<String>,
}

/// Measures a browser.
pub(super) async fn measure(here: &Surroundings, on: &Installed, threads: &[usize]) -> Result<Vec<Peak>, Fault> {
    let mut page = Page::open(&here.server, &here.starter, on, "peaks.html").await?;
    tokio::time::sleep(SETTLING).await;
    let mut peaks = Vec::new();
    for &threads in threads {
        for (what, arithmetic, call, scale, unit) in [
            ("wasm, multiply and add", Arithmetic::Separate, "arithmetic", OPERATIONS, "GF/s"),
            ("wasm, relaxed multiply-add", Arithmetic::Relaxed, "arithmetic", OPERATIONS, "GF/s"),
            ("wasm, reading memory", Arithmetic::Separate, "read", BYTES, "GB/s"),
        ] {
            let command =
                json!({ "do": "wasm", "bytes": module(arithmetic), "call": call, "ms": TRY_MS, "threads": threads });
            let rate = rate(&mut page, &command).await.map(|rate| rate * scale);
            peaks.push(peak(on, what, Some(threads), unit, rate));
        }
    }
    let rate = self::rate(&mut page, &json!({ "do": "webgpu", "ms": TRY_MS })).await;
    peaks.push(peak(on, "WebGPU, fused multiply-add", None, "GF/s", rate));
    if has_webnn(on) {
        // One core works for each context.
        for &contexts in threads {
            let rate = self::rate(&mut page, &json!({ "do": "webnn", "ms": TRY_MS, "threads": contexts })).await;
            peaks.push(peak(on, WEBNN, Some(contexts), "GF/s", rate));
        }
    }
    page.close(&here.server).await;
    Ok(peaks)
}

async fn rate(page: &mut Page, command: &serde_json::Value) -> Result<f64, Fault> {
    let answer = page.ask(command, LIMIT).await?;
    answer.figures["rate"].as_f64().ok_or_else(|| "the page told no rate".into())
}

fn peak(
    on: &Installed,
    what: &'static str,
    threads: Option<usize>,
    unit: &'static str,
    rate: Result<f64, Fault>,
) -> Peak {
    let (giga, failed) = match rate {
        Ok(rate) => (Some(rate / 1e9), None),
        Err(e) => (None, Some(e.to_string())),
    };
    Peak { browser: on.kind.name().to_owned(), what, threads, giga, unit, failed }
}
