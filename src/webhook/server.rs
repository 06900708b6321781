//! The listener of the webhook: HTTP/1.1 over TLS, bounded in connections, time and sizes.

use std::{collections::VecDeque, future::Future, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    envoy::tls::Tls,
    telemetry::{
        metrics::webhook::{WebhookError, WebhookMetrics},
        seldom::Seldom,
    },
};

/// Open connections; one more closes the oldest.
const CONNECTIONS_MAX: usize = 256;
/// Time for a TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Time for a client to send the head of its next request.
const HEADERS_WITHIN: Duration = Duration::from_secs(60);
/// Time for a whole connection; the API server opens another one.
const CONNECTION_WITHIN: Duration = Duration::from_secs(600);
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Pause after a failed accept, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time for reviews under way at the end.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// What every connection needs.
#[derive(Clone)]
struct Served {
    tls: Arc<Tls>,
    pages: Router,
    metrics: WebhookMetrics,
    warnings: Arc<Seldom>,
}

/// Serves the pages until `stop` is ready, then for a few seconds what is under way.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<Tls>,
    pages: Router,
    metrics: WebhookMetrics,
    stop: impl Future<Output = ()>,
) {
    let served = Served { tls, pages, metrics, warnings: Arc::new(Seldom::new()) };
    let mut stop = pin!(stop);
    let (draining, drain) = tokio::sync::watch::channel(false);
    let mut connections = JoinSet::new();
    // Oldest first.
    let mut handles: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    handles.retain(|handle| !handle.is_finished());
                    if handles.len() >= CONNECTIONS_MAX && let Some(oldest) = handles.pop_front() {
                        oldest.abort();
                    }
                    handles.push_back(connections.spawn(connection(stream, served.clone(), drain.clone())));
                }
                Err(error) => {
                    served.metrics.error(WebhookError::Listener);
                    if served.warnings.is_due() {
                        tracing::warn!(%error, "The webhook cannot accept connections.");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    draining.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_WITHIN, drained).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(stream: TcpStream, served: Served, mut drain: tokio::sync::watch::Receiver<bool>) {
    let acceptor = TlsAcceptor::from(served.tls.http1());
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await else {
        // A probe that only connects ends here as well, so the log does not hear of it.
        return served.metrics.error(WebhookError::Tls);
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(served.pages));
    let mut serving = pin!(serving);
    let within = async {
        tokio::select! {
            _ended = serving.as_mut() => return,
            // Either way the end has come: a dropped sender is a stop as well.
            _ = drain.wait_for(|is_draining| *is_draining) => {}
        }
        serving.as_mut().graceful_shutdown();
        // How a connection ends is the client's affair.
        drop(serving.as_mut().await);
    };
    drop(tokio::time::timeout(CONNECTION_WITHIN, within).await);
}
