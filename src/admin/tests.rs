//! The pages over a real socket, and clients that misbehave.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
    task::JoinHandle,
};

use super::*;
use crate::{
    quota::desk::{Answer, Desk, Wanted},
    telemetry::metrics::Verdict,
};

#[derive(Default)]
struct View {
    draining: AtomicBool,
}

impl AdminView for View {
    fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::SeqCst) { Readiness::NotReady("draining".into()) } else { Readiness::Ready }
    }

    fn config(&self) -> Value {
        json!({"revision": 3})
    }

    fn policy(&self) -> Value {
        json!({"policies": []})
    }
}

/// Without a token file it is never asked.
struct NoDesk;

impl Desk for NoDesk {
    fn accept_loss(&self) -> Answer<'_> {
        panic!("the token comes first")
    }

    fn show<'a>(&'a self, _: &'a Wanted) -> Answer<'a> {
        panic!("the token comes first")
    }

    fn reset<'a>(&'a self, _: &'a Wanted) -> Answer<'a> {
        panic!("the token comes first")
    }
}

struct Rig {
    address: SocketAddr,
    view: Arc<View>,
    metrics: Metrics,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

async fn rig() -> Rig {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, 0);
    let view = Arc::new(View::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        assert!(stopped.await.is_ok());
    };
    let quota = QuotaPages { desk: Arc::new(NoDesk), token: Arc::new(token::AdminToken::load(None).unwrap()) };
    let pages = router(Arc::<View>::clone(&view), Page::new(Arc::new(registry), metrics.clone()), quota, None);
    let server = tokio::spawn(serve(listener, pages, metrics.clone(), stopped));
    Rig { address, view, metrics, stop, server }
}

async fn ask(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn health_follows_the_view() {
    let rig = rig().await;
    assert_eq!(ask(rig.address, "GET /readyz").await.0, 200);
    rig.view.draining.store(true, Ordering::SeqCst);
    let (status, _, body) = ask(rig.address, "GET /readyz").await;
    assert_eq!((status, &*body), (503, "not ready: draining\n"));
    assert_eq!(ask(rig.address, "GET /livez").await.0, 200);
}

#[tokio::test]
async fn metrics_are_open_metrics() {
    let rig = rig().await;
    rig.metrics.request(Verdict::Allow, "", "tools/call", Duration::ZERO, None);
    let (status, head, body) = ask(rig.address, "GET /metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    assert!(body.contains("mcp_authz_requests_total{decision=\"allow\""), "{body}");
    assert!(body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn config_and_policy_are_json() {
    let rig = rig().await;
    for (path, expected) in [("/config", json!({"revision": 3})), ("/policy", json!({"policies": []}))] {
        let (status, head, body) = ask(rig.address, &format!("GET {path}")).await;
        assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (200, expected));
        assert!(head.contains("content-type: application/json") && head.contains("cache-control: no-store"), "{head}");
    }
}

#[tokio::test]
async fn pages_are_read_only_and_unknown_ones_name_those_there_are() {
    let rig = rig().await;
    for path in ["/livez", "/readyz", "/metrics", "/config", "/policy"] {
        let (status, _, body) = ask(rig.address, &format!("HEAD {path}")).await;
        assert_eq!((status, &*body), (200, ""), "{path}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            let (status, head, _) = ask(rig.address, &format!("{method} {path}")).await;
            assert_eq!(status, 405, "{method} {path}");
            assert!(head.contains("allow: GET, HEAD\r\n"), "{head}");
            assert_eq!(head.matches("allow:").count(), 1, "{head}");
        }
    }
    for path in ["/", "/livez/", "/Livez", "/reload", "/%2e%2e/config"] {
        let (status, _, body) = ask(rig.address, &format!("GET {path}")).await;
        assert_eq!(
            (status, &*body),
            (
                404,
                "no such page; there are /livez /readyz /metrics /config /policy /quota /quota/reset /quota/accept-loss /pins /pins/diff /pins/approve /pins/forget /pins/reset\n"
            ),
            "{path}"
        );
    }
}

#[tokio::test]
async fn clients_that_sit_on_connections_do_not_shut_out_others() {
    let rig = rig().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX * 2 {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nx-slow: ").await.unwrap();
        idle.push(stream);
    }
    assert_eq!(ask(rig.address, "GET /livez").await.0, 200);
    // The oldest was closed to make room.
    let mut rest = Vec::new();
    assert!(idle[0].read_to_end(&mut rest).await.map_or(true, |n| n == 0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_header_ends_the_connection() {
    let rig = rig().await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nx-slow: ").await.unwrap();
    let started = tokio::time::Instant::now();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(started.elapsed() <= CONNECTION_WITHIN);
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn large_headers_are_refused() {
    let rig = rig().await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    // Refused before it is read to the end, so that the rest may not be deliverable.
    let sent =
        stream.write_all(format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024)).as_bytes()).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    assert!(sent.is_err() || read.is_err() || answer.starts_with(b"HTTP/1.1 431"), "{}", answer.escape_ascii());
    assert_eq!(ask(rig.address, "GET /livez").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn it_stops_though_a_client_stays() {
    let rig = rig().await;
    let stream = TcpStream::connect(rig.address).await.unwrap();
    rig.stop.send(()).unwrap();
    rig.server.await.unwrap();
    assert!(TcpStream::connect(rig.address).await.is_err());
    drop(stream);
}
