//! What Envoy does by itself, measured with a stub in place of the authorizer.
//!
//! The other tables lean on these facts: if one changes with a new Envoy, it fails here and not somewhere far away.

use super::harness::envoy::{Authorizer, Envoy, Settings};
use super::harness::http1::Request;
use super::harness::http2::{self, End, Shape};
use super::harness::message::{self, Said};
use super::harness::stub::{Stub, Verdict};
use super::harness::upstream::Upstream;

const LIMIT: usize = 1024;

async fn start(verdict: Verdict, body_size_limit: bool) -> (tempfile::TempDir, Upstream, Stub, Envoy) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let upstream = Upstream::start().await;
    let stub = Stub::start(verdict).await;
    let settings = Settings {
        authorizer: Authorizer::Tcp(stub.address),
        upstream: upstream.address,
        body_bytes_max: LIMIT,
        body_size_limit,
        ..Settings::shipped()
    };
    let envoy = Envoy::start(dir.path(), &settings).await;
    (dir, upstream, stub, envoy)
}

fn allow() -> Verdict {
    Verdict::Allow { set: vec![("authorization", "Bearer UPSTREAM")], remove: vec!["cookie"] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_request_reaches_the_upstream_unchanged_but_for_the_headers() {
    let (_dir, upstream, stub, envoy) = start(allow(), true).await;
    let body = message::call("tool", r#"{"a": [1,  2]}"#);
    let request = Request::post("/mcp", body.clone()).bearer("caller").header("cookie", "a=b");
    let response = request.send(envoy.address).await;
    assert_eq!(message::said(&response), Said::Result, "{}", response.text());
    let hits = upstream.take();
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].body, body.as_bytes());
    assert_eq!(hits[0].values("authorization"), ["Bearer UPSTREAM"]);
    assert_eq!(hits[0].values("cookie"), [""; 0]);
    let checks = stub.take();
    let http = checks[0].attributes.as_ref().and_then(|a| a.request.as_ref()).and_then(|r| r.http.as_ref());
    assert_eq!(http.expect("an HTTP request").raw_body, body.as_bytes());
    assert_eq!(
        checks[0].attributes.as_ref().and_then(|a| a.context_extensions.get("server")).map(String::as_str),
        Some("alpha")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_of_the_stub_arrives_byte_for_byte() {
    const BODY: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true,"content":[]}}"#;
    let (_dir, upstream, _stub, envoy) = start(Verdict::Deny(BODY), true).await;
    let response = Request::post("/mcp", message::call("tool", "{}")).send(envoy.address).await;
    assert_eq!((response.status, response.text().as_str()), (200, BODY));
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(upstream.count(), 0);
}

/// Why the authorizer has to look at Envoy's mark of a cut body: without the filter of 1.40, a body over the limit
/// reaches it cut, and would be forwarded whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_size_filter_a_long_last_frame_is_checked_cut_and_forwarded_whole() {
    let (_dir, upstream, stub, envoy) = start(allow(), false).await;
    let shape = Shape { frames: &[LIMIT + 1], end: End::LastData };
    let body = vec![b' '; LIMIT + 1];
    let (status, _) = http2::post(envoy.address, "/mcp", "caller", &body, shape).await;
    assert_eq!((status, upstream.count()), (202, 1));
    let checks = stub.take();
    let http = checks[0].attributes.as_ref().and_then(|a| a.request.as_ref()).and_then(|r| r.http.as_ref());
    assert_eq!(http.expect("an HTTP request").raw_body.len(), LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_filter_answers_413_to_every_shape_over_the_limit() {
    let (_dir, upstream, stub, envoy) = start(allow(), true).await;
    for shape in super::frames::OVER_THE_LIMIT {
        let body = vec![b' '; shape.frames.iter().sum()];
        let (status, _) = http2::post(envoy.address, "/mcp", "caller", &body, *shape).await;
        assert_eq!(status, 413, "{shape:?}");
    }
    assert_eq!((upstream.count(), stub.take().len()), (0, 0));
}
