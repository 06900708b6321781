//! What the upstream gets to see: its own credential once, and nothing that only we or the agent may know.

use super::harness::authz::{ALPHA_SECRET, BETA_SECRET, Grant, Settings, token};
use super::harness::http1::Request;
use super::harness::http2::{self, End, Shape};
use super::harness::message::{self, Said};
use super::harness::stack::{Options, Stack};
use super::harness::upstream::Hit;

const POLICY: &str = r#"{"version": "1", "default": "allow"}"#;

/// What no client may get past us, whatever it is meant for.
const FORGED: &[(&str, &str)] = &[
    ("cookie", "session=forged"),
    ("proxy-authorization", "Basic Zm9yZ2Vk"),
    ("x-api-key", "forged"),
    ("x-envoy-auth-failure-mode-allowed", "forged"),
    ("x-envoy-original-path", "/forged"),
    ("x-forwarded-client-cert", "By=forged"),
    ("x-mcp-authz-grant", "forged"),
    ("x-mcp-authz-subject", "forged"),
    ("x-mcp-authz-anything", "forged"),
    ("X-MCP-Authz-Decision", "forged"),
];

async fn start() -> Stack {
    let authz = Settings {
        policies: vec![("open.json".to_owned(), POLICY.to_owned())],
        grants: vec![Grant::with("agent", "servers: [alpha, beta], policy: open")],
        ..Settings::default()
    };
    Stack::start(&Options { authz, ..Options::default() }).await
}

fn requests(path: &str) -> Vec<(&'static str, Request)> {
    let call = Request::post(path, message::call("t", "{}"));
    let list = Request::post(path, message::request("tools/list", "{}"));
    vec![
        ("call", call),
        ("list", list),
        ("modern call", message::modern_call(path, "t", "{}")),
        ("stream", Request::new("GET", path).header("mcp-session-id", "s")),
        ("end of session", Request::new("DELETE", path).header("mcp-session-id", "s")),
    ]
}

fn only(mut hits: Vec<Hit>, what: &str) -> Hit {
    assert_eq!(hits.len(), 1, "{what}");
    hits.remove(0)
}

fn assert_no_trace_of_the_agent(hit: &Hit, what: &str) {
    let token = token("agent");
    for (name, value) in &hit.headers {
        let value = String::from_utf8_lossy(value);
        assert!(!value.contains(&token), "{what}: the agent's token is in {name}");
        assert!(!value.contains("forged"), "{what}: a forged value is in {name}");
        assert!(!name.starts_with("x-mcp-authz-"), "{what}: {name} reached the upstream");
    }
    assert!(hit.values("cookie").is_empty() && hit.values("proxy-authorization").is_empty(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_sees_its_own_credential_once_and_no_forged_header() {
    let stack = start().await;
    for (path, name, value) in
        [("/mcp", "authorization", format!("Bearer {ALPHA_SECRET}")), ("/beta", "x-api-key", BETA_SECRET.to_owned())]
    {
        for (what, request) in requests(path) {
            let forged = FORGED.iter().fold(request.bearer(&token("agent")), |r, (name, value)| r.header(name, value));
            let response = stack.send(&forged).await;
            assert!((200..300).contains(&response.status), "{path} {what}: {}", response.text());
            let hit = only(stack.upstream.take(), what);
            assert_eq!(hit.values(name), std::slice::from_ref(&value), "{path} {what}");
            assert_no_trace_of_the_agent(&hit, what);
            if path == "/beta" {
                assert!(hit.values("authorization").is_empty(), "{what}: the token was not taken away");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tricks_with_connection_and_letter_case_change_nothing() {
    let stack = start().await;
    let call = || Request::post("/mcp", message::call("t", "{}"));
    let bearer = format!("Bearer {}", token("agent"));
    let tricks = [
        call().header("authorization", &bearer).header("connection", "authorization, close"),
        call().header("AUTHORIZATION", &bearer),
        call().header("Authorization", format!("bearer {}", token("agent"))),
        call().header("authorization", &bearer).header("connection", "close, cookie").header("cookie", "a=forged"),
    ];
    for (at, request) in tricks.iter().enumerate() {
        let response = stack.send(request).await;
        let hits = stack.upstream.take();
        if response.status == 200 {
            let hit = only(hits, &at.to_string());
            assert_eq!(hit.values("authorization"), [format!("Bearer {ALPHA_SECRET}")], "trick {at}");
            assert_no_trace_of_the_agent(&hit, &at.to_string());
        } else {
            assert!(hits.is_empty() && (400..500).contains(&response.status), "trick {at}: {}", response.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_authorization_headers_are_refused() {
    let stack = start().await;
    let bearer = format!("Bearer {}", token("agent"));
    for second in [bearer.as_str(), "Bearer other", "Basic dTpw"] {
        let call = Request::post("/mcp", message::call("t", "{}"));
        let response = stack.send(&call.header("authorization", &bearer).header("Authorization", second)).await;
        // Envoy joins the two with a comma before anybody sees them.
        let want = Said::Error { status: 400, code: -32600, reason: "malformed.multi_value".to_owned() };
        assert_eq!(message::said(&response), want, "{second}");
    }
    assert_eq!(stack.upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_upstream_answers_comes_back_unchanged() {
    use super::harness::upstream::Mode;
    let stack = start().await;
    let call = || Request::post("/mcp", message::call("t", "{}")).bearer(&token("agent"));
    stack.upstream.answer(Mode::Sse);
    let stream = stack.send(&call()).await;
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    assert!(stream.text().starts_with("event: message\ndata: {") && stream.text().ends_with("}\n\n"));
    stack.upstream.answer(Mode::Broken);
    let broken = stack.send(&call()).await;
    assert_eq!((broken.status, broken.text().as_str()), (500, "broken on purpose"));
    stack.upstream.answer(Mode::Json);
    assert_eq!(message::said(&stack.send(&call()).await), Said::Result);
}

/// What the case tries, how it changes a sound request, and whether that runs.
type Http2Case = (&'static str, fn(http::request::Builder) -> http::request::Builder, bool);

const HTTP2_CASES: &[Http2Case] = &[
    ("a sound call", |request| request, true),
    ("forged headers", |request| request.header("cookie", "forged").header("x-mcp-authz-subject", "forged"), true),
    ("two tokens", |request| request.header("authorization", "Bearer other"), false),
    ("two names", |request| request.header("mcp-name", "t").header("mcp-name", "t"), false),
    ("two sessions", |request| request.header("mcp-session-id", "a").header("mcp-session-id", "b"), false),
    ("another authority", |request| request.uri("http://evil.test/mcp"), false),
    ("another path", |request| request.uri("http://mcp.test/mcp/x"), false),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_the_same_rules_hold() {
    let authz = Settings {
        alpha: "    hosts: [mcp.test]".to_owned(),
        policies: vec![("open.json".to_owned(), POLICY.to_owned())],
        grants: vec![Grant::new("agent", "open")],
        ..Settings::default()
    };
    let stack = Stack::start(&Options { authz, ..Options::default() }).await;
    let body = message::call("t", "{}");
    for (what, change, runs) in HTTP2_CASES {
        // Trailers come after the decision, so they must not carry anything either.
        for end in [End::LastData, End::Trailers] {
            let request = change(http2::request("/mcp", &token("agent")));
            let shape = Shape { frames: &[body.len()], end };
            let (status, answer) = http2::send(stack.envoy.address, request, body.as_bytes(), shape).await;
            let (hits, answer) = (stack.upstream.take(), String::from_utf8_lossy(&answer).into_owned());
            assert_eq!((status == 200, hits.len()), (*runs, usize::from(*runs)), "{what} {end:?}: {status} {answer}");
            for hit in hits {
                assert_eq!(hit.values("authorization"), [format!("Bearer {ALPHA_SECRET}")], "{what} {end:?}");
                assert_no_trace_of_the_agent(&hit, what);
            }
        }
    }
}
