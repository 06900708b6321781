//! Bodies over the limit, in every way that HTTP/2 can cut them into frames.

use super::harness::authz::{Grant, Settings, token};
use super::harness::http2::{self, End, Shape};
use super::harness::message;
use super::harness::stack::{Options, Stack};

/// Every shape is longer than 1024 bytes; the first three reach an authorizer cut to the limit on Envoy before 1.40.
pub(crate) const OVER_THE_LIMIT: &[Shape<'static>] = &[
    Shape { frames: &[1025], end: End::LastData },
    Shape { frames: &[16_384], end: End::LastData },
    Shape { frames: &[1024, 16_384], end: End::LastData },
    Shape { frames: &[16_384, 16_384, 16_384], end: End::LastData },
    Shape { frames: &[2000], end: End::EmptyData },
    Shape { frames: &[2000], end: End::Trailers },
];

const LIMIT: usize = 1024;

async fn start(body_size_limit: bool) -> Stack {
    let policy = r#"{"version": "1", "default": "deny", "tools": {"t": {}}}"#;
    let authz = Settings {
        policies: vec![("main.json".to_owned(), policy.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    };
    Stack::start(&Options { authz, body_bytes_max: LIMIT, body_size_limit, ..Options::default() }).await
}

/// A whole call that is padded with spaces: cut to the limit it is still a sound message.
fn body(shape: Shape<'_>) -> Vec<u8> {
    let mut body = message::call("t", "{}").into_bytes();
    body.resize(shape.frames.iter().sum(), b' ');
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_size_filter_a_cut_body_is_refused_though_it_reads_well() {
    let stack = start(false).await;
    let mut cut = 0;
    for shape in OVER_THE_LIMIT {
        let (status, answer) = http2::post(stack.envoy.address, "/mcp", &token("agent"), &body(*shape), *shape).await;
        assert_eq!(status, 413, "{shape:?}: {}", String::from_utf8_lossy(&answer));
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
        if answer.pointer("/error/data/mcp-authz.dev~1decision/reason").is_some_and(|r| r == "malformed.truncated") {
            cut += 1;
        }
    }
    assert_eq!(stack.upstream.count(), 0);
    assert!(cut >= 3, "{cut} cut bodies reached us; the others were refused by Envoy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_size_filter_no_body_over_the_limit_gets_through() {
    let stack = start(true).await;
    for shape in OVER_THE_LIMIT {
        let (status, _) = http2::post(stack.envoy.address, "/mcp", &token("agent"), &body(*shape), *shape).await;
        assert_eq!(status, 413, "{shape:?}");
    }
    assert_eq!(stack.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_up_to_the_limit_runs_in_whatever_frames_it_comes() {
    const WITHIN: &[Shape<'static>] = &[
        Shape { frames: &[1024], end: End::LastData },
        Shape { frames: &[1024], end: End::EmptyData },
        Shape { frames: &[1024], end: End::Trailers },
        Shape { frames: &[1, 1, 1000, 22], end: End::LastData },
        Shape { frames: &[500], end: End::LastData },
    ];
    for body_size_limit in [false, true] {
        let stack = start(body_size_limit).await;
        for shape in WITHIN {
            let body = body(*shape);
            let (status, _) = http2::post(stack.envoy.address, "/mcp", &token("agent"), &body, *shape).await;
            let hits = stack.upstream.take();
            assert_eq!((status, hits.len()), (200, 1), "{shape:?}");
            assert_eq!(hits[0].body, body, "{shape:?}");
        }
    }
}
