//! The HTTP side of a pool: the page and runtime that tabs load, the blocks of weights, the link.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tabpool_bridge::Bridge;
use tabpool_content::{BlockStore, Cid};

use crate::assets::{self, Asset};
use crate::metrics::Counters;

/// Everything a pool serves. Only pages of the same origin can read it: browsers of other sites' pages are told so by
/// the headers, and names other than the one listened on are refused, so that no foreign name can be pointed here.
pub(crate) fn router(
    bridge: &Bridge,
    store: Arc<dyn BlockStore>,
    counters: Arc<Mutex<Counters>>,
    address: SocketAddr,
) -> Router {
    Router::new()
        .route("/ipfs/{cid}", get(block))
        .with_state(store)
        .fallback(get(asset).with_state(counters))
        .merge(bridge.router())
        .layer(middleware::from_fn_with_state(address, guard))
}

/// Refuses requests under foreign host names, and isolates what is served from other origins.
async fn guard(State(address): State<SocketAddr>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let port = address.port();
    if host != address.to_string() && host != format!("localhost:{port}") {
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
