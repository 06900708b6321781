//! CheckRequests that no Envoy of ours would send: the answer is never an OK, and the process goes on.

use std::collections::HashMap;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use tonic::transport::Channel;

use super::harness::authz::{Authz, Grant, Settings, token};
use super::harness::envoy::Authorizer;
use super::harness::message;

const POLICY: &str = r#"{
  "version": "1", "default": "deny",
  "tools": {"open": {}, "once": {"limits": [{"counter": "once", "window": "day", "scope": "grant", "max": 1}]}}
}"#;

async fn start() -> (tempfile::TempDir, Authz, AuthorizationClient<Channel>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let settings = Settings {
        tcp: true,
        policies: vec![("main.json".to_owned(), POLICY.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    };
    let authz = Authz::start(dir.path(), &settings).await;
    let Authorizer::Tcp(address) = &authz.listener else { panic!("asked for TCP") };
    let client = AuthorizationClient::connect(format!("http://{address}")).await.expect("it listens");
    (dir, authz, client)
}

/// What Envoy sends for a sound call, without `encode_raw_headers`.
pub(crate) fn http(tool: &str, id: &str) -> HttpRequest {
    let body = message::call(tool, "{}").into_bytes();
    let headers = [
        (":method", "POST".to_owned()),
        (":path", "/mcp".to_owned()),
        ("content-type", "application/json".to_owned()),
        ("content-length", body.len().to_string()),
        ("authorization", format!("Bearer {}", token("agent"))),
        ("x-envoy-auth-partial-body", "false".to_owned()),
    ];
    HttpRequest {
        id: id.to_owned(),
        method: "POST".to_owned(),
        path: "/mcp".to_owned(),
        host: "mcp.test".to_owned(),
        scheme: "http".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        size: i64::try_from(body.len()).expect("small"),
        raw_body: body,
        ..HttpRequest::default()
    }
}

pub(crate) fn check(http: HttpRequest) -> CheckRequest {
    let attributes = AttributeContext {
        request: Some(Request { http: Some(http), ..Request::default() }),
        context_extensions: HashMap::from([("server".to_owned(), "alpha".to_owned())]),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }
}

/// An answer lets the request through if its status is zero, whatever else it holds.
fn is_ok(response: &CheckResponse) -> bool {
    response.status.as_ref().is_none_or(|status| status.code == 0)
}

async fn asks(client: &mut AuthorizationClient<Channel>, request: CheckRequest) -> bool {
    match client.check(request).await {
        Ok(response) => is_ok(response.get_ref()),
        // Envoy refuses the request when the authorizer fails.
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_holes_is_never_let_through() {
    let (_dir, mut authz, mut client) = start().await;
    let whole = || http("open", "1");
    let no_http = AttributeContext { request: Some(Request::default()), ..AttributeContext::default() };
    let unbound = AttributeContext {
        request: Some(Request { http: Some(whole()), ..Request::default() }),
        ..AttributeContext::default()
    };
    let partial = |value: &str| {
        let mut http = whole();
        http.headers.insert("x-envoy-auth-partial-body".to_owned(), value.to_owned());
        http
    };
    let cases = [
        ("nothing at all", CheckRequest::default()),
        ("no request", CheckRequest { attributes: Some(AttributeContext::default()) }),
        ("no HTTP", CheckRequest { attributes: Some(no_http) }),
        ("no server", CheckRequest { attributes: Some(unbound) }),
        ("no body", check(HttpRequest { raw_body: Vec::new(), ..whole() })),
        ("no headers", check(HttpRequest { headers: HashMap::new(), ..whole() })),
        ("no method", check(HttpRequest { method: String::new(), ..whole() })),
        ("no path", check(HttpRequest { path: String::new(), ..whole() })),
        ("a lossy body", check(HttpRequest { body: message::call("open", "{}"), raw_body: Vec::new(), ..whole() })),
        ("more on the wire than in the body", check(HttpRequest { size: 1_000_000, ..whole() })),
        ("cut", check(partial("true"))),
        ("cut, oddly said", check(partial("True"))),
        ("two megabytes", check(HttpRequest { raw_body: vec![b' '; 2_000_000], ..whole() })),
        ("sixteen megabytes", check(HttpRequest { raw_body: vec![b' '; 16_000_000], ..whole() })),
    ];
    for (what, request) in cases {
        assert!(!asks(&mut client, request).await, "{what} is let through");
        authz.process.assert_running();
    }
    assert!(asks(&mut client, check(whole())).await, "a whole request is let through");
}

/// Envoy repeats a Check with the same id when a retry policy says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_check_is_charged_once() {
    let (_dir, _authz, mut client) = start().await;
    assert!(asks(&mut client, check(http("once", "17"))).await);
    assert!(asks(&mut client, check(http("once", "17"))).await, "the same request gets the same decision");
    assert!(!asks(&mut client, check(http("once", "18"))).await, "another request has no call left");
}
