//! A hub on loopback that does what a test tells it to, wrong things included: cut connections, lie, redirect, demand
//! tokens, and be a proxy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The same request for another target.
    pub(crate) fn to(&self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self.clone() }
    }

    /// Where the range asked for begins.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Send only so much of the body, then do as `ending` says.
    pub(crate) stop_after: Option<usize>,
    pub(crate) ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Close,
    /// Keep the connection open and say nothing.
    Hang,
    /// Join the connection to another address, as a proxy does after CONNECT.
    Tunnel(SocketAddr),
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), stop_after: None, ending: Ending::Close }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A file, or the part of it that a range asks for.
    pub(crate) fn file(request: &Request, bytes: &[u8]) -> Self {
        match request.from() {
            Some(from) if from >= bytes.len() => {
                Self::new(416, "").with("content-range", format!("bytes */{}", bytes.len()))
            }
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Self::new(206, &bytes[from..]).with("content-range", range)
            }
            None => Self::new(200, bytes),
        }
    }

    pub(crate) fn cut(mut self, after: usize, ending: Ending) -> Self {
        (self.stop_after, self.ending) = (Some(after), ending);
        self
    }
}

pub(crate) type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// The running server. Ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    _accepting: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(handler, None).await
    }

    pub(crate) async fn start_with(
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(handler);
        let mut accepting = JoinSet::new();
        let log = Arc::clone(&seen);
        accepting.spawn(async move {
            // Connections end with the server: they are owned by the task that accepted them.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, log, tls) = (Arc::clone(&handler), Arc::clone(&log), tls.clone());
                connections.spawn(async move {
                    // A client that goes away in the middle is part of some tests.
                    let _ = match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &*handler, &log).await,
                            Err(error) => Err(error),
                        },
                        None => serve(stream, &*handler, &log).await,
                    };
                });
            }
        });
        Self { address, seen, _accepting: accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no handler panics while logging").clone()
    }

    /// The requests whose target ends with `suffix`.
    pub(crate) fn seen_for(&self, suffix: &str) -> Vec<Request> {
        self.seen().into_iter().filter(|request| request.target.ends_with(suffix)).collect()
    }
}

/// One request a connection: simple, and every request is a connection that can fail.
async fn serve<S>(mut stream: S, handler: &Handler, log: &Mutex<Vec<Request>>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let request = Request { method, target, headers };
    log.lock().expect("no handler panics while logging").push(request.clone());
    let answer = handler(&request);

    let mut head = format!("HTTP/1.1 {} Whatever\r\n", answer.status);
    if !matches!(answer.ending, Ending::Tunnel(_)) {
        head += &format!("content-length: {}\r\nconnection: close\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    let stop = answer.stop_after.unwrap_or(answer.body.len()).min(answer.body.len());
    stream.write_all(&answer.body[..stop]).await?;
    stream.flush().await?;
    match answer.ending {
        Ending::Close => {}
        Ending::Hang => std::future::pending().await,
        Ending::Tunnel(address) => {
            copy_bidirectional(&mut stream, &mut TcpStream::connect(address).await?).await?;
        }
    }
    stream.shutdown().await
}
