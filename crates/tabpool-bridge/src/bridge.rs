//! The bridge: connections in, one stream of events out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, State};
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tabpool_protocol::{Frame, Hello, Limits, SessionConfig};
use tokio::sync::{Semaphore, mpsc};

use crate::connection::serve;
use crate::local::{LocalLink, QUEUE};
use crate::sessions::{Order, Sessions, WorkerId, WorkerLink};
use crate::socket::Socket;
use crate::strikes::{StrikeLimit, Strikes};
use crate::tokens::{TokenId, Tokens};

/// How a bridge behaves.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// Heartbeats, time-outs, credits.
    pub session: SessionConfig,
    /// How large frames may be.
    pub limits: Limits,
    /// How long a worker whose connection broke has to come back.
    pub grace: Duration,
    /// How long a worker that is sent away has to hang up by itself. A tab writes down what it keeps by then.
    pub parting: Duration,
    /// Workers at once at most.
    pub most_workers: usize,
    /// Connections at once at most, joined or not.
    pub most_connections: usize,
    /// Events that wait for the host at most; then connections wait.
    pub events: usize,
    /// How many failed joins an [`Entrance`] bears with.
    pub strikes: StrikeLimit,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            session: SessionConfig::default(),
            limits: Limits::default(),
            grace: Duration::from_secs(5),
            parting: Duration::from_secs(3),
            most_workers: 256,
            most_connections: 512,
            events: 1024,
            strikes: StrikeLimit::default(),
        }
    }
}

/// A way in from beyond this machine.
#[derive(Clone, Debug, Default)]
pub struct Entrance {
    /// The origins of the pages that may join, as in `https://pool.example:8600`. What is no page names no origin.
    pub origins: Vec<String>,
    /// Whether whoever connects is a proxy that appends the address of its own client to `X-Forwarded-For`.
    pub proxied: bool,
}

/// What happened on the bridge, in the order it happened for each worker.
#[derive(Debug)]
#[non_exhaustive]
pub enum BridgeEvent {
    /// A worker has joined.
    Joined {
        /// How to reach it.
        link: WorkerLink,
        /// The token it joined with.
        token: TokenId,
        /// That token's tag.
        tag: Option<u64>,
        /// Its session.
        session: String,
        /// What it said of itself.
        hello: Box<Hello>,
        /// Where it is, as an address or `local`.
        remote: String,
    },
    /// A worker came back within its grace period. Whatever the host sent and the hello does not name is lost.
    Resumed {
        /// The worker.
        worker: WorkerId,
        /// What it said of itself, and what it holds.
        hello: Box<Hello>,
    },
    /// A frame of a worker.
    Frame {
        /// The worker.
        worker: WorkerId,
        /// The frame.
        frame: Frame,
    },
    /// A worker's connection broke; it has its grace period to come back.
    Detached {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// A worker is gone for good.
    Lost {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// A connection ended before it joined.
    Refused {
        /// Where it was.
        remote: String,
        /// Why.
        reason: String,
    },
}

/// The stream of a bridge's events.
pub type Events = mpsc::Receiver<BridgeEvent>;

pub(crate) struct Shared {
    pub(crate) config: BridgeConfig,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) strikes: Strikes,
    events: mpsc::Sender<BridgeEvent>,
    connections: Arc<Semaphore>,
}

/// Where a connection comes from.
pub(crate) struct Remote {
    /// As people read it: an address, or `local`.
    pub(crate) name: String,
    /// Whose strikes count.
    pub(crate) counted: Option<IpAddr>,
}

impl Remote {
    fn uncounted(name: impl Into<String>) -> Self {
        Self { name: name.into(), counted: None }
    }
}

impl Shared {
    /// Hands an event to the host, waiting while it is behind. Where the host is gone there is nobody to tell.
    pub(crate) async fn tell(&self, event: BridgeEvent) {
        let _ = self.events.send(event).await;
    }
}

/// The host's side of the link. Cloning gives another handle to the same bridge.
#[derive(Clone)]
pub struct Bridge {
    shared: Arc<Shared>,
}

impl Bridge {
    /// A bridge, and the stream of its events. Connections end when the stream is dropped.
    #[must_use]
    pub fn new(config: BridgeConfig) -> (Self, Events) {
        let (events, stream) = mpsc::channel(config.events);
        let connections = Arc::new(Semaphore::new(config.most_connections));
        let (sessions, tokens) = (Arc::default(), Arc::default());
        let strikes = Strikes::new(config.strikes);
        (Self { shared: Arc::new(Shared { config, sessions, tokens, strikes, events, connections }) }, stream)
    }

    /// The tokens workers join with.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.shared.tokens
    }

    /// The route `/link`, a WebSocket. Serve it with connection info (`SocketAddr`). A request that names an `Origin` must
    /// name the host it asks: a page of another site cannot join for its visitor.
    pub fn router(&self) -> Router {
        Router::new().route("/link", get(upgrade)).with_state(Arc::clone(&self.shared))
    }

    /// The same route for whoever comes from beyond this machine: the origin must be one of the entrance's, and an address
    /// whose joins fail too often is not listened to for a while.
    pub fn entrance(&self, entrance: Entrance) -> Router {
        let state = (Arc::clone(&self.shared), Arc::new(entrance));
        Router::new().route("/link", get(enter)).with_state(state)
    }

    /// Whether this is the name of a session that goes on, which only its worker knows.
    #[must_use]
    pub fn is_session(&self, name: &str) -> bool {
        self.shared.sessions.lock().by_name.get(name).is_some_and(|session| !session.expelled)
    }

    /// A link within this process. Must be called on a tokio runtime.
    #[must_use]
    pub fn connect_local(&self) -> LocalLink {
        let (outgoing, incoming) = mpsc::channel(QUEUE);
        let (to_worker, from_host) = mpsc::channel(QUEUE);
        let socket = Socket::Local { incoming, outgoing: to_worker };
        let shared = Arc::clone(&self.shared);
        spawn(shared, socket, Remote::uncounted("local"));
        LocalLink { outgoing, incoming: from_host }
    }

    /// How many workers there are that joined with a token, those whose links are cut included until they are lost.
    #[must_use]
    pub fn joined_with(&self, token: TokenId) -> usize {
        self.shared.sessions.lock().joined_with(token)
    }

    /// Sends the workers home that joined with a token; those whose links are cut may not come back. The token itself goes on
    /// unless it is [revoked](Tokens::revoke).
    pub fn expel(&self, token: TokenId, reason: &str) {
        let mut table = self.shared.sessions.lock();
        for session in table.by_name.values_mut().filter(|s| s.token == token) {
            session.expelled = true;
            if let Some(orders) = &session.orders {
                // A queue that is full belongs to a worker that does not read; its connection ends by its silence.
                let _ = orders.try_send(Order::Close(reason.to_owned()));
            }
        }
    }

    /// Whether anybody may join.
    #[must_use]
    pub fn admits(&self) -> bool {
        !self.shared.sessions.lock().closing
    }

    /// Lets nobody join any more; workers that are here stay until their links are closed.
    pub fn stop_admission(&self) {
        self.shared.sessions.lock().closing = true;
    }
}

/// Serves a connection in a task of its own, which ends with its socket, or when the host drops the events.
fn spawn(shared: Arc<Shared>, socket: Socket, remote: Remote) {
    let gone = shared.events.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = serve(shared, socket, remote) => {}
            () = gone.closed() => {}
        }
    });
}

async fn upgrade(
    State(shared): State<Arc<Shared>>,
    extensions: Extensions,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !same_origin(&headers) {
        return (StatusCode::FORBIDDEN, "a page of another origin may not join").into_response();
    }
    let remote = extensions.get::<ConnectInfo<SocketAddr>>();
    let remote = remote.map_or_else(|| "unknown".to_owned(), |ConnectInfo(address)| address.to_string());
    open(shared, upgrade, Remote::uncounted(remote))
}

async fn enter(
    State((shared, entrance)): State<(Arc<Shared>, Arc<Entrance>)>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    // A page of another site must not use up its visitor's strikes either, so this comes first.
    if !one_of(&entrance.origins, &headers) {
        return (StatusCode::FORBIDDEN, "a page of another origin may not join").into_response();
    }
    let forwarded = entrance.proxied.then(|| forwarded_for(&headers)).flatten();
    let counted = forwarded.unwrap_or_else(|| address.ip());
    if let Some(wait) = shared.strikes.wait(counted) {
        let seconds = (wait.as_secs() + 1).to_string();
        let why = "too many joins from this address have failed";
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds)], why).into_response();
    }
    let name = forwarded.map_or_else(|| address.to_string(), |forwarded| forwarded.to_string());
    open(shared, upgrade, Remote { name, counted: Some(counted) })
}

/// Opens the socket and serves it, if there is room for another.
fn open(shared: Arc<Shared>, upgrade: WebSocketUpgrade, remote: Remote) -> Response {
    let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many connections").into_response();
    };
    let limit = shared.config.limits.frame;
    upgrade.max_message_size(limit).max_frame_size(limit).on_upgrade(move |socket| async move {
        let gone = shared.events.clone();
        tokio::select! {
            () = serve(shared, Socket::Web(Box::new(socket)), remote) => {}
            () = gone.closed() => {}
        }
        drop(permit);
    })
}

/// Whether a request comes from a page of one of these origins, or from no page at all.
fn one_of(origins: &[String], headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    origin.to_str().is_ok_and(|origin| origins.iter().any(|ours| ours.eq_ignore_ascii_case(origin)))
}

/// The address that the nearest proxy has seen. What stands before it anybody could have written.
fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?;
    last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

/// Whether a request comes from a page of this host, or from no page at all.
fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|v: &axum::http::HeaderValue| v.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else { return !headers.contains_key(header::ORIGIN) };
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    host.is_some() && host == text(header::HOST)
}

#[cfg(test)]
mod tests;
