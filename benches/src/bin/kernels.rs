//! The WebGPU kernels: billions of operations a second of every variant at every shape, natively and in each installed
//! browser, beside what the adapter's arithmetic reaches in the same run.
//!
//! `cargo xtask bench kernels [FILTER]`, where only classes that hold the filter are timed, as in `m128`. Browsers load the
//! runtime that the conformance suite uses; on software adapters a full round takes minutes each.

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tabpool_benches::Fault;
use tabpool_browser::{Browser, BrowserKind, GpuMode, Installed, LaunchOptions, SearchPaths, discover};
use tabpool_webgpu::{Options, WebGpuBackend};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// All shapes and variants on a software adapter of a loaded machine.
const FINISHED_WITHIN: Duration = Duration::from_secs(600);

/// One variant at one shape on one adapter.
struct Rate {
    class: String,
    variant: String,
    /// Zero where it failed or gave wrong numbers.
    gigaflops: f64,
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let filter = std::env::args().nth(1).unwrap_or_default();
    // It becomes part of an address.
    if let Some(c) = filter.chars().find(|c| !c.is_ascii_alphanumeric()) {
        return Err(format!("a filter holds letters and digits only, not {c:?}").into());
    }
    match native(&filter).await {
        Ok((device, rates)) => show(&format!("native ({device})"), &rates),
        Err(e) => show(&format!("native: left out: {e}"), &[]),
    }
    let found = discover(&SearchPaths::from_env());
    for kind in [BrowserKind::Chromium, BrowserKind::Firefox] {
        let Some(installed) = found.of_kind(kind) else { continue };
        let report = report_of(installed, &filter).await?;
        if let Some(error) = report["error"].as_str() {
            show(&format!("{kind}: {error}"), &[]);
            continue;
        }
        let text = |key: &str| report[key].as_str().unwrap_or("?").to_owned();
        show(&format!("{kind} {} ({})", text("version"), text("device")), &rates_in(&report));
    }
    Ok(())
}

async fn native(filter: &str) -> Result<(String, Vec<Rate>), Fault> {
    // The backend belongs to one thread.
    let filter = filter.to_owned();
    let timed = tokio::task::spawn_blocking(move || -> Result<_, Fault> {
        pollster::block_on(async {
            let backend = WebGpuBackend::new(Options::default()).await?;
            let rates = backend.kernel_rates(&filter).await?;
            let rates =
                rates.into_iter().map(|r| Rate { gigaflops: r.gigaflops(), class: r.class, variant: r.variant });
            Ok((backend.adapter_report().title(), rates.collect()))
        })
    });
    timed.await?
}

fn rates_in(report: &Value) -> Vec<Rate> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rate = |rate: &Value| Rate {
        class: text(&rate["class"]),
        variant: text(&rate["variant"]),
        gigaflops: rate["seconds"]
            .as_f64()
            .filter(|s| *s > 0.0)
            .map_or(0.0, |s| rate["operations"].as_f64().unwrap_or_default() / s / 1e9),
    };
    report["rates"].as_array().map(|rates| rates.iter().map(rate).collect()).unwrap_or_default()
}

/// Prints a table of one adapter: the peak first, each rate with its share of that.
fn show(title: &str, rates: &[Rate]) {
    println!("\n{title}");
    let peak = rates.iter().find(|r| r.class.starts_with("peak")).map_or(0.0, |r| r.gigaflops);
    for Rate { class, variant, gigaflops } in rates {
        if *gigaflops > 0.0 {
            println!("  {class:<24} {variant:<22} {gigaflops:9.2} GF/s  {:5.1} %", 100.0 * gigaflops / peak);
        } else {
            println!("  {class:<24} {variant:<22} failed or wrong here");
        }
    }
}

fn dist() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../web-runtime/dist-conformance")
}

/// Opens the page that times the kernels, and waits for what it posts.
async fn report_of(installed: &Installed, filter: &str) -> Result<Value, Fault> {
    let profiles = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/index.html#rates&filter={filter}&report=/report", listener.local_addr()?);
    let (reports, mut posted) = mpsc::channel(1);
    let router = Router::new().route("/report", post(receive)).with_state(reports).route("/{file}", get(file));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let browser = Browser::launch(installed, LaunchOptions::new(url, profiles.path(), GpuMode::detect())).await?;
    let waited = tokio::time::timeout(FINISHED_WITHIN, posted.recv()).await;
    let log = browser.log_tail();
    browser.close(Duration::from_secs(5)).await;
    server.abort();
    let body = waited.map_err(|_| format!("no report within {FINISHED_WITHIN:?}; the browser wrote: {log}"))?;
    Ok(serde_json::from_slice(&body.ok_or("the server ended")?)?)
}

async fn receive(State(reports): State<mpsc::Sender<Bytes>>, body: Bytes) -> StatusCode {
    // A second report finds nobody listening.
    if reports.send(body).await.is_ok() { StatusCode::NO_CONTENT } else { StatusCode::GONE }
}

/// A file of the built runtime.
async fn file(Path(name): Path<String>) -> Response {
    let media = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    };
    match std::fs::read(dist().join(name)) {
        Ok(bytes) => ([(header::CONTENT_TYPE, media)], bytes).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}
