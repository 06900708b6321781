//! The admin listener: health, metrics and what is loaded, over plain HTTP/1.1. Without secrets, and read-only but for the
//! counters of quotas, which ask for a token.
//!
//! Connections are bounded in number, time and header size. When there are too many, the oldest goes: an honest request takes
//! milliseconds, so clients that sit on connections only push out each other.

use std::{borrow::Cow, collections::VecDeque, future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use crate::telemetry::metrics::{ErrorKind, Metrics, Page};

mod pins;
mod quota;
pub mod token;

pub use pins::PinPages;
#[cfg(test)]
pub(crate) use pins::{Rig as PinRig, rig as pin_rig};
pub use quota::QuotaPages;

/// Open connections; one more closes the oldest.
const CONNECTIONS_MAX: usize = 64;
/// Time for a client to send its headers.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
/// Time for a whole connection, which carries one request.
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of headers that are read.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Pause after a failed accept, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time for open connections at the end.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);

const PAGES: &str = "/livez /readyz /metrics /config /policy /quota /quota/reset /quota/accept-loss /pins /pins/diff /pins/approve /pins/forget /pins/reset";
const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Whether new requests should come here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not now, and why: shown to whoever asks.
    NotReady(Cow<'static, str>),
    /// A configuration is loaded and the process is not about to stop.
    Ready,
}

/// What the admin pages show. Called on the runtime for each request: must not block.
pub trait AdminView: Send + Sync + 'static {
    /// For `/readyz`.
    fn readiness(&self) -> Readiness;
    /// For `/config`: the effective configuration and the outcome of the last load with all its defects. Holds no secret and
    /// no grant digest.
    fn config(&self) -> Value;
    /// For `/policy`: the policies that serve, with their digests.
    fn policy(&self) -> Value;
}

#[derive(Clone)]
struct Shown {
    view: Arc<dyn AdminView>,
    metrics: Page,
}

/// The pages.
pub fn router(view: Arc<dyn AdminView>, metrics: Page, quota: QuotaPages, pins: Option<PinPages>) -> Router {
    let pages = Router::new()
        .route("/livez", get(|| async { text_page(StatusCode::OK, "ok\n") }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .route("/config", get(|State(shown): State<Shown>| async move { json_page(&shown.view.config()) }))
        .route("/policy", get(|State(shown): State<Shown>| async move { json_page(&shown.view.policy()) }))
        .with_state(Shown { view, metrics });
    pages
        .merge(quota::router(quota))
        .merge(pins.map_or_else(Router::new, pins::router))
        .fallback(|| async { text_page(StatusCode::NOT_FOUND, format!("no such page; there are {PAGES}\n")) })
        .method_not_allowed_fallback(|uri: Uri| async move {
            let (methods, text) = match uri.path() {
                "/quota/reset" | "/quota/accept-loss" | "/pins/approve" | "/pins/forget" | "/pins/reset" => {
                    ("POST", "POST only\n")
                }
                _ => ("GET, HEAD", "read-only: GET or HEAD\n"),
            };
            let page = text_page(StatusCode::METHOD_NOT_ALLOWED, text);
            ([(header::ALLOW, methods)], page).into_response()
        })
}

/// Serves the pages until `stop` is ready, then for at most another second what is still open.
pub async fn serve(listener: TcpListener, pages: Router, metrics: Metrics, stop: impl Future<Output = ()> + Send) {
    let mut stop = pin!(stop);
    let mut connections = JoinSet::new();
    // Oldest first.
    let mut handles: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    metrics.error(ErrorKind::Panic);
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    handles.retain(|handle| !handle.is_finished());
                    if handles.len() >= CONNECTIONS_MAX && let Some(oldest) = handles.pop_front() {
                        oldest.abort();
                    }
                    handles.push_back(connections.spawn(connection(stream, pages.clone())));
                }
                Err(error) => {
                    metrics.error(ErrorKind::Admin);
                    tracing::warn!(error = %error, "admin listener cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_WITHIN, drained).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(stream: TcpStream, pages: Router) {
    let serving = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    // How a connection ends is the client's affair: there is nobody to tell and nothing to mend.
    let _ended = tokio::time::timeout(CONNECTION_WITHIN, serving).await.is_ok();
}

async fn readyz(State(shown): State<Shown>) -> Response {
    match shown.view.readiness() {
        Readiness::NotReady(why) => text_page(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        Readiness::Ready => text_page(StatusCode::OK, "ready\n"),
    }
}

async fn metrics_page(State(shown): State<Shown>) -> Response {
    match shown.metrics.text() {
        Ok(text) => page(StatusCode::OK, OPEN_METRICS, text),
        Err(std::fmt::Error) => text_page(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be encoded\n"),
    }
}

fn json_page(value: &Value) -> Response {
    // The alternate form of a Value is indented JSON and cannot fail.
    page(StatusCode::OK, JSON, format!("{value:#}\n"))
}

fn text_page(status: StatusCode, text: impl Into<String>) -> Response {
    page(status, TEXT, text.into())
}

fn page(status: StatusCode, content_type: &'static str, body: String) -> Response {
    const HEADERS: [(HeaderName, &str); 2] =
        [(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, [(header::CONTENT_TYPE, content_type)], HEADERS, body).into_response()
}

#[cfg(test)]
mod tests;
