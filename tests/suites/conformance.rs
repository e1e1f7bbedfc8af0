//! The engine's conformance suite where it counts: in the real browsers, on WebGPU and on the processor, through the
//! runtime that tabs load. Natively the crates of the backends run it themselves.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tabpool_browser::{Browser, GpuMode, Installed, LaunchOptions};
use tabpool_tests::{Fault, Outcome, browsers, places, require, scene};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// The suite on a software adapter, and a tenth of it on every variant, on a loaded machine.
const FINISHED_WITHIN: Duration = Duration::from_secs(1800);
/// Fewer cases are not the suite.
const LEAST_CASES: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_conform_on_webgpu() -> Outcome {
    // The backend's own choice of kernels, then every variant that the tuner may choose.
    let page = |words| Page { words, ..Page::of("webgpu") };
    on_each_browser(&[page(""), page("&variants")]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_conform_on_the_processor() -> Outcome {
    // Every build of the kernels, with one thread and with two. Without isolation there is one, whatever is asked for.
    let page = |words, isolated, device| Page { words, isolated, device, ..Page::of("cpu") };
    // A thread that does not start is one thread less, and the backend says so.
    let lonely = Page { without: "kernels-thread.js", ..page("&threads=2", true, "wasm relaxed-simd, 1 thread") };
    on_each_browser(&[
        page("&kernels=relaxed-simd&threads=1", true, "wasm relaxed-simd, 1 thread"),
        page("&kernels=relaxed-simd&threads=2", true, "wasm relaxed-simd, 2 threads"),
        page("&kernels=simd128&threads=1", true, "wasm simd128, 1 thread"),
        page("&kernels=simd128&threads=3", true, "wasm simd128, 3 threads"),
        page("&threads=2", false, "wasm relaxed-simd, 1 thread"),
        lonely,
    ])
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_webnn_shell_conforms_on_webnn() -> Outcome {
    let _alone = scene::machine().await;
    let case = "conformance on webnn";
    match browsers::webnn_shell(case) {
        Some(installed) => on(&[installed], case, &[Page::of("webnn")]).await,
        None => Ok(()),
    }
}

/// How the page is opened, and what it must then run on.
struct Page {
    api: &'static str,
    /// What the address says beyond that.
    words: &'static str,
    /// Whether the server isolates the page from other origins, without which memory cannot be shared.
    isolated: bool,
    /// What the backend calls its device; anything where empty.
    device: &'static str,
    /// A file that the server does not have.
    without: &'static str,
}

impl Page {
    /// The page as pools serve it.
    fn of(api: &'static str) -> Self {
        Self { api, words: "", isolated: true, device: "", without: "" }
    }
}

async fn on_each_browser(pages: &[Page]) -> Outcome {
    let _alone = scene::machine().await;
    let api = pages.first().map(|page| page.api).unwrap_or_default();
    let case = format!("conformance on {api}");
    on(&browsers::each(&case), &case, pages).await
}

async fn on(all: &[Installed], case: &str, pages: &[Page]) -> Outcome {
    if !dist().join("index.html").is_file() {
        places::left_out(case, "the browser runtime is not built; `cargo xtask test` builds it");
        return Ok(());
    }
    // Side by side: what takes the time is compilers with one thread each.
    let judged = futures::future::join_all(all.iter().map(|installed| conforms(installed, pages))).await;
    let faults: Vec<String> = judged.into_iter().filter_map(|outcome| outcome.err().map(|e| e.to_string())).collect();
    require(faults.is_empty(), || faults.join("\n"))
}

async fn conforms(installed: &Installed, pages: &[Page]) -> Outcome {
    for page in pages {
        let Page { api, words, .. } = page;
        let told = |e: Fault| format!("{} {api}{words}: {e}", installed.kind);
        let report = report_of(installed, page).await.map_err(told)?;
        judge(&report).map_err(told)?;
        let device = report["device"].as_str().unwrap_or_default();
        require(page.device.is_empty() || device == page.device, || {
            format!("{} {api}{words}: runs on {device:?}, not on {:?}", installed.kind, page.device)
        })?;
    }
    Ok(())
}

fn dist() -> std::path::PathBuf {
    places::repository().join("web-runtime/dist-conformance")
}

/// Opens the page in the mode that runs the suite, and waits for what it posts.
async fn report_of(installed: &Installed, page: &Page) -> Result<Value, Fault> {
    let profiles = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let &Page { api, words, isolated, without, .. } = page;
    let url = format!("http://{}/index.html#conformance={api}{words}&report=/report", listener.local_addr()?);
    let (reports, mut posted) = mpsc::channel(1);
    let router = Router::new().route("/report", post(receive)).with_state(reports).route("/{file}", get(file));
    let lacking = move |request: Request, next: Next| async move {
        let lacks = !without.is_empty() && request.uri().path().ends_with(without);
        if lacks { StatusCode::NOT_FOUND.into_response() } else { next.run(request).await }
    };
    let router = router.layer(middleware::from_fn(lacking));
    let router = if isolated { router.layer(middleware::map_response(isolate)) } else { router };
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let browser = Browser::launch(installed, LaunchOptions::new(url, profiles.path(), GpuMode::detect())).await?;
    let waited = tokio::time::timeout(FINISHED_WITHIN, posted.recv()).await;
    let log = browser.log_tail();
    browser.close(Duration::from_secs(5)).await;
    server.abort();
    let body = waited.map_err(|_| format!("no report within {FINISHED_WITHIN:?}; the browser wrote: {log}"))?;
    Ok(serde_json::from_slice(&body.ok_or("the server ended")?)?)
}

/// The headers under which browsers let a page share memory between its workers.
async fn isolate(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-embedder-policy", HeaderValue::from_static("require-corp"));
    response
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

fn judge(report: &Value) -> Outcome {
    if let Some(error) = report["error"].as_str() {
        return Err(error.to_owned().into());
    }
    let cases = report["cases"].as_array().ok_or_else(|| format!("no cases: {report}"))?;
    let failed: Vec<String> = cases
        .iter()
        .filter(|case| case["outcome"] != "passed")
        .map(|case| format!("{} {}: {}", case["outcome"], case["name"], case["reason"]))
        .collect();
    let share = |case: &Value| Some(case["worstError"].as_f64()? / case["tolerance"].as_f64()?);
    let worst = cases.iter().filter_map(share).fold(0.0, f64::max);
    let text = |key: &str| report[key].as_str().unwrap_or("?").to_owned();
    tabpool_tests::show(&format!(
        "{} {} {} ({}): {} cases, {} not passed, worst error {worst:.3} of the tolerance, {:.1} s",
        text("browser"),
        text("version"),
        text("api"),
        text("device"),
        cases.len(),
        failed.len(),
        report["seconds"].as_f64().unwrap_or_default()
    ));
    require(failed.is_empty(), || format!("{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n")))?;
    require(cases.len() >= LEAST_CASES, || format!("only {} cases ran", cases.len()))
}
