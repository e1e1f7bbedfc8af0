//! The HTTP side of a pool: the page and runtime that tabs load, the blocks of weights, the link.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::StreamExt as _;
use tabpool_bridge::Bridge;
use tabpool_content::{BlockStore, Cid, car_header, car_section};

use crate::assets::{self, Asset};
use crate::endpoint::Names;
use crate::metrics::Counters;

/// Blocks that one request may name.
const MOST_BLOCKS: usize = 1024;
/// Bytes of a request that names so many.
const LONGEST_LIST: usize = MOST_BLOCKS * 128;
/// Blocks of one answer that are read ahead of the network.
const READ_AHEAD: usize = 3;

/// What is served, whoever asks.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) bridge: Bridge,
    pub(crate) store: Arc<dyn BlockStore>,
    pub(crate) counters: Arc<Mutex<Counters>>,
}

/// The host names that are answered.
type Hosts = Arc<[String]>;

/// Everything a pool serves on its own address. Only pages of the same origin can read it: browsers of other sites' pages are
/// told so by the headers, and names other than the one listened on are refused, so that no foreign name can be pointed here.
pub(crate) fn router(served: Served, address: SocketAddr) -> Router {
    let hosts = [address.to_string(), format!("localhost:{}", address.port())];
    guarded(blocks_of(&served).merge(served.bridge.router()), served, hosts.into())
}

/// The same for whoever comes from beyond this machine. Blocks are for those who have joined.
pub(crate) fn public_router(served: Served, names: Names) -> Router {
    let passed = middleware::from_fn_with_state(served.bridge.clone(), joined_only);
    let blocks = blocks_of(&served).route_layer(passed);
    guarded(blocks.merge(served.bridge.entrance(names.entrance)), served, names.hosts.into())
}

fn blocks_of(served: &Served) -> Router {
    Router::new()
        .route("/ipfs/{cid}", get(block))
        .route("/ipfs/", post(blocks).layer(DefaultBodyLimit::max(LONGEST_LIST)))
        .with_state(Arc::clone(&served.store))
}

fn guarded(routes: Router, served: Served, hosts: Hosts) -> Router {
    let assets = Router::new().fallback(get(asset).with_state(served.counters));
    routes.merge(assets).layer(middleware::from_fn_with_state(hosts, guard))
}

/// Lets those through who name their session, which is a secret of theirs.
async fn joined_only(State(bridge): State<Bridge>, request: Request, next: Next) -> Response {
    let named = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let session = named.and_then(|value| value.strip_prefix("Bearer "));
    if session.is_some_and(|session| bridge.is_session(session)) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "blocks are for workers that have joined\n").into_response()
    }
}

/// Refuses requests under foreign host names, and isolates what is served from other origins.
async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if !hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host)) {
        return (StatusCode::FORBIDDEN, "this server answers under its own address only\n").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-embedder-policy", "require-corp"),
        ("cross-origin-resource-policy", "same-origin"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "frame-ancestors 'none'"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A file of the runtime. Browsers check with every load whether it changed, because the host may be a newer one; where it
/// did not, they keep what they have, and with it the code they compiled from it.
async fn asset(State(counters): State<Arc<Mutex<Counters>>>, uri: Uri, request: HeaderMap) -> Response {
    let Some(Asset { bytes, media, tag }) = assets::find(uri.path()) else {
        return (StatusCode::NOT_FOUND, "no such file\n").into_response();
    };
    let headers = [(header::CONTENT_TYPE, media), (header::CACHE_CONTROL, "no-cache"), (header::ETAG, tag)];
    if request.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    counters.lock().unwrap_or_else(PoisonError::into_inner).served_runtime(bytes.len());
    (headers, bytes).into_response()
}

#[derive(serde::Deserialize)]
struct Format {
    format: Option<String>,
}

/// A raw block, as a trustless gateway gives it. Not cached by HTTP: workers keep blocks themselves, under their CIDs.
async fn block(
    State(store): State<Arc<dyn BlockStore>>,
    Path(cid): Path<String>,
    Query(query): Query<Format>,
) -> Response {
    if query.format.as_deref().is_some_and(|f| f != "raw") {
        return (StatusCode::NOT_ACCEPTABLE, "only format=raw is served here\n").into_response();
    }
    let Ok(cid) = cid.parse::<Cid>() else {
        return (StatusCode::BAD_REQUEST, "not a CID\n").into_response();
    };
    let found = tokio::task::spawn_blocking(move || store.get(&cid)).await;
    match found {
        Ok(Ok(Some(bytes))) => {
            let headers = [(header::CONTENT_TYPE, "application/vnd.ipld.raw"), (header::CACHE_CONTROL, "no-store")];
            (headers, bytes).into_response()
        }
        Ok(Ok(None)) => (StatusCode::NOT_FOUND, "the host does not have this block\n").into_response(),
        Ok(Err(e)) => {
            tracing::error!(%cid, error = %e, "a block could not be served");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

/// Several raw blocks in one stream, as CARv1 without roots: a request for each would cost a browser more than their bytes. The
/// body names them, a CID a line. What is not here or cannot be read is left out, and nothing is verified, because whoever asks does; asked for alone, a
/// block is verified and gets its reason.
async fn blocks(State(store): State<Arc<dyn BlockStore>>, list: String) -> Response {
    let wanted: Result<Vec<Cid>, _> = list.split_ascii_whitespace().map(str::parse).collect();
    let Ok(wanted) = wanted else {
        return (StatusCode::BAD_REQUEST, "not a list of CIDs\n").into_response();
    };
    if wanted.len() > MOST_BLOCKS {
        return (StatusCode::BAD_REQUEST, format!("one request names {MOST_BLOCKS} blocks at most\n")).into_response();
    }
    let read = move |cid: Cid| {
        let store = Arc::clone(&store);
        async move {
            match tokio::task::spawn_blocking(move || store.stored(&cid)).await {
                Ok(Ok(Some(bytes))) => vec![Bytes::from(car_section(&cid, bytes.len())), bytes],
                Ok(Ok(None)) => Vec::new(),
                Ok(Err(e)) => {
                    tracing::error!(%cid, error = %e, "a block could not be served");
                    Vec::new()
                }
                Err(e) => {
                    tracing::error!(%cid, error = %e, "a block was not read");
                    Vec::new()
                }
            }
        }
    };
    let sections = futures::stream::iter(wanted).map(read).buffered(READ_AHEAD).flat_map(futures::stream::iter);
    let header = futures::stream::once(async { Bytes::from_static(car_header()) });
    let body = header.chain(sections).map(Ok::<_, std::convert::Infallible>);
    let media = "application/vnd.ipld.car; version=1";
    ([(header::CONTENT_TYPE, media), (header::CACHE_CONTROL, "no-store")], Body::from_stream(body)).into_response()
}
