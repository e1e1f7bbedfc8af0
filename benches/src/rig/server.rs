//! The server of the peers' pages: their files, a line of commands and answers to each page, and the stamp of the moment
//! at which a page was opened.
//!
//! A page asks for its next command and posts the answer. That is all the link there is: a page measures by its own
//! clock what it is told to measure, and the time of the link is in no figure, except in the time to the first result,
//! where the answer's way back counts for every contender alike.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;

use crate::Fault;

/// The largest answer: the output of 8 sequences of 512 tokens is 6 MB.
const LARGEST_ANSWER: usize = 64 << 20;
/// How long a page's question for a command stays open before it asks again.
const QUESTION: Duration = Duration::from_secs(20);
/// Commands and answers that wait: a page does one thing at a time.
const WAITING: usize = 4;

/// What a page answered.
#[derive(Debug)]
pub(crate) struct PageAnswer {
    /// Its figures, or an `error`.
    pub(crate) figures: Value,
    /// The output, where it was asked for.
    pub(crate) output: Vec<f32>,
    /// When the whole answer had arrived.
    pub(crate) at: Instant,
}

/// One page's end of the line, here.
#[derive(Debug)]
pub(crate) struct Line {
    /// What the page names itself by.
    pub(crate) id: u64,
    pub(crate) commands: mpsc::Sender<String>,
    pub(crate) answers: mpsc::Receiver<PageAnswer>,
}

impl Line {
    /// Gives a command. A page that is not open yet takes it when it is.
    pub(crate) async fn tell(&self, command: &Value) -> Result<(), Fault> {
        self.commands.send(command.to_string()).await.map_err(|_| "the page's line is cut".into())
    }
}

/// The server. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct PeerServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// Files under a first path segment.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    pub(crate) segment: String,
    pub(crate) folder: PathBuf,
    /// Whether what is served from here counts as runtime that a page downloads.
    pub(crate) runtime: bool,
}

#[derive(Debug)]
struct Shared {
    roots: Vec<Root>,
    lines: Mutex<HashMap<u64, Arc<Ends>>>,
    opened: Mutex<HashMap<u64, Instant>>,
    next_id: AtomicU64,
    runtime_bytes: AtomicU64,
    held: Mutex<Bytes>,
}

#[derive(Debug)]
struct Ends {
    commands: AsyncMutex<mpsc::Receiver<String>>,
    answers: mpsc::Sender<PageAnswer>,
}

impl PeerServer {
    pub(crate) async fn start(roots: Vec<Root>) -> Result<Self, Fault> {
        let shared = Arc::new(Shared {
            roots,
            lines: Mutex::default(),
            opened: Mutex::default(),
            next_id: AtomicU64::new(1),
            runtime_bytes: AtomicU64::new(0),
            held: Mutex::default(),
        });
        let router = Router::new()
            .route("/go", get(go))
            .route("/next", get(next))
            .route("/answer", post(answer))
            .route("/held", get(held))
            .fallback(get(file))
            .layer(DefaultBodyLimit::max(LARGEST_ANSWER))
            .layer(middleware::from_fn(isolate))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            if let Err(e) = axum::serve(listener, router).await {
                eprintln!("the server of the peers' pages ended: {e}");
            }
        });
        Ok(Self { shared, address, task })
    }

    /// A line to a page that is about to be opened.
    pub(crate) fn line(&self) -> Line {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (commands, waiting) = mpsc::channel(WAITING);
        let (answers, given) = mpsc::channel(WAITING);
        locked(&self.shared.lines).insert(id, Arc::new(Ends { commands: AsyncMutex::new(waiting), answers }));
        Line { id, commands, answers: given }
    }

    /// A page of this server by its path, as a URL.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// A URL that notes when it is opened, under a number, and sends the browser on.
    pub(crate) fn stamped(&self, id: u64, to: &str) -> String {
        format!("http://{}/go?id={id}&to={}", self.address, escape(to))
    }

    /// A page that waits for so long and then goes to a URL.
    pub(crate) fn waiting(&self, wait: Duration, to: &str) -> String {
        self.url(&format!("waiting/wait.html#{}:{}", wait.as_millis(), escape(to)))
    }

    /// A number that nothing else has.
    pub(crate) fn fresh_id(&self) -> u64 {
        self.shared.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// When a stamped URL was opened.
    pub(crate) fn opened_at(&self, id: u64) -> Option<Instant> {
        locked(&self.shared.opened).get(&id).copied()
    }

    /// Bytes of runtimes served so far.
    pub(crate) fn runtime_bytes(&self) -> u64 {
        self.shared.runtime_bytes.load(Ordering::Relaxed)
    }

    /// Holds bytes in memory, which pages get in parts as `/held?from=…&length=…`.
    pub(crate) fn hold(&self, bytes: Bytes) {
        *locked(&self.shared.held) = bytes;
    }

    /// Ends a line: its page is told to stop asking.
    pub(crate) fn hang_up(&self, id: u64) {
        locked(&self.shared.lines).remove(&id);
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Percent-encodes what a query could not hold.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Isolates every page from other origins: without it there are no threads.
async fn isolate(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-embedder-policy", "require-corp"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[derive(serde::Deserialize)]
struct Departure {
    id: u64,
    to: String,
}

async fn go(State(shared): State<Arc<Shared>>, Query(departure): Query<Departure>) -> Response {
    // A browser may ask twice; the first time is when the person would have opened it.
    locked(&shared.opened).entry(departure.id).or_insert_with(Instant::now);
    match HeaderValue::from_str(&departure.to) {
        Ok(to) => (StatusCode::FOUND, [(header::LOCATION, to), (header::CACHE_CONTROL, NO_STORE)]).into_response(),
        Err(_) => (StatusCode::BAD_REQUEST, "not a URL\n").into_response(),
    }
}

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

#[derive(serde::Deserialize)]
struct Who {
    page: u64,
}

async fn next(State(shared): State<Arc<Shared>>, Query(who): Query<Who>) -> Response {
    let Some(ends) = locked(&shared.lines).get(&who.page).cloned() else {
        return (StatusCode::GONE, "no such page\n").into_response();
    };
    let mut commands = ends.commands.lock().await;
    match tokio::time::timeout(QUESTION, commands.recv()).await {
        Ok(Some(command)) => ([(header::CACHE_CONTROL, NO_STORE)], command).into_response(),
        Ok(None) => (StatusCode::GONE, "nobody has commands for this page any more\n").into_response(),
        Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

#[derive(serde::Deserialize)]
struct Part {
    from: usize,
    length: usize,
}

async fn held(State(shared): State<Arc<Shared>>, Query(part): Query<Part>) -> Response {
    let bytes = locked(&shared.held).clone();
    match part.from.checked_add(part.length).filter(|end| *end <= bytes.len()) {
        Some(end) => ([(header::CACHE_CONTROL, NO_STORE)], bytes.slice(part.from..end)).into_response(),
        None => (StatusCode::RANGE_NOT_SATISFIABLE, "so much is not held\n").into_response(),
    }
}

/// An answer's body: the length of its figures in four bytes, the figures as JSON, the output as 32-bit floats.
async fn answer(State(shared): State<Arc<Shared>>, Query(who): Query<Who>, body: Bytes) -> Response {
    let at = Instant::now();
    let Some(ends) = locked(&shared.lines).get(&who.page).cloned() else {
        return (StatusCode::GONE, "no such page\n").into_response();
    };
    match read_answer(&body, at) {
        // Where nobody listens any more, the page was given up.
        Ok(answer) => drop(ends.answers.try_send(answer)),
        Err(reason) => return (StatusCode::BAD_REQUEST, reason.to_string()).into_response(),
    }
    StatusCode::NO_CONTENT.into_response()
}

fn read_answer(body: &[u8], at: Instant) -> Result<PageAnswer, Fault> {
    let (length, rest) = body.split_first_chunk::<4>().ok_or("no length")?;
    let length = usize::try_from(u32::from_le_bytes(*length))?;
    let (figures, output) = rest.split_at_checked(length).ok_or("figures longer than the body")?;
    let (values, left) = output.as_chunks::<4>();
    if !left.is_empty() {
        return Err("the output is not of whole floats".into());
    }
    let output = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    Ok(PageAnswer { figures: serde_json::from_slice(figures)?, output, at })
}

/// A file below one of the roots. Names carry versions or the run is fresh, so browsers may keep what they get: the
/// second opening of a page is then as warm as its makers could wish.
async fn file(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches('/');
    let (segment, inner) = path.split_once('/').unwrap_or(("", path));
    let plain = !inner.split('/').any(|part| part.is_empty() || part == ".." || part == ".");
    let Some(root) = shared.roots.iter().find(|root| root.segment == segment).filter(|_| plain) else {
        return (StatusCode::NOT_FOUND, "no such file\n").into_response();
    };
    let from = root.folder.join(inner);
    let media = media(&from);
    let Ok(Ok(bytes)) = tokio::task::spawn_blocking(move || std::fs::read(from)).await else {
        return (StatusCode::NOT_FOUND, "no such file\n").into_response();
    };
    if root.runtime {
        shared.runtime_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    let kept = HeaderValue::from_static("public, max-age=604800, immutable");
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(media)), (header::CACHE_CONTROL, kept)];
    (headers, bytes).into_response()
}

fn media(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{escape, read_answer};

    #[test]
    fn an_answer_is_its_figures_and_its_floats() {
        let mut body = 9u32.to_le_bytes().to_vec();
        body.extend(br#"{"ms":12}"#);
        body.extend(1.5f32.to_le_bytes());
        let answer = read_answer(&body, Instant::now()).expect("well formed");
        assert_eq!((answer.figures["ms"].as_i64(), answer.output), (Some(12), vec![1.5]));
        for cut in [0, 3, 8, 14] {
            assert!(read_answer(&body[..cut], Instant::now()).is_err(), "{cut} bytes are no answer");
        }
    }

    #[test]
    fn a_url_survives_being_an_argument_of_another() {
        assert_eq!(escape("http://127.0.0.1:8/#token=a_b"), "http%3A%2F%2F127.0.0.1%3A8%2F%23token%3Da_b");
    }
}
