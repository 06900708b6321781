//! What each kind of refusal looks like on the wire, in both eras.

use super::harness::authz::{Grant, METADATA, Settings, token};
use super::harness::http1::{Request, Response};
use super::harness::message::{self, MODERN, Said};
use super::harness::stack::{Options, Stack};
use super::harness::until;

const POLICY: &str = r#"{
  "version": "1",
  "default": "deny",
  "hide": ["secret_tool"],
  "tools": {
    "open": {},
    "guarded": {
      "require": [{"conditions": [{"path": "args.repo", "op": "regex", "value": "^sandbox-"}], "on_deny": "Only sandbox repositories."}]
    },
    "watched": {
      "deny_if": [{"conditions": [{"path": "args.amount", "op": "gt", "value": 100}], "on_deny": "Too much."}]
    },
    "limited": {
      "limits": [{"counter": "limited_calls", "window": "day", "scope": "grant", "max": 2, "on_deny": "Enough for today."}]
    }
  }
}"#;

fn grants() -> Vec<Grant> {
    vec![
        Grant::new("good", "main"),
        Grant::with("expired", "servers: [alpha], policy: main, expires: 2020-01-01T00:00:00Z"),
        Grant::with("early", "servers: [alpha], policy: main, not_before: 2999-01-01T00:00:00Z"),
        Grant::with("revoked", "servers: [alpha], policy: main, revoked: true"),
        Grant::with("elsewhere", "servers: [beta], policy: main"),
        Grant::with("bare", "servers: [alpha]"),
    ]
}

async fn start() -> Stack {
    let authz = Settings {
        alpha: "    hosts: [mcp.test]\n    origins: [\"https://app.test\"]".to_owned(),
        policies: vec![("main.json".to_owned(), POLICY.to_owned())],
        grants: grants(),
        ..Settings::default()
    };
    Stack::start(&Options { authz, ..Options::default() }).await
}

fn good() -> String {
    token("good")
}

fn legacy(method: &str, params: &str) -> Request {
    Request::post("/mcp", message::request(method, params)).bearer(&good())
}

fn call(tool: &str, arguments: &str) -> Request {
    Request::post("/mcp", message::call(tool, arguments)).bearer(&good())
}

/// One row: what is sent, what must be said, and how often the upstream is reached.
struct Row {
    name: &'static str,
    request: Request,
    said: Said,
    hits: usize,
}

fn row(name: &'static str, request: Request, said: Said, hits: usize) -> Row {
    Row { name, request, said, hits }
}

fn denied(text: &str, reason: &str) -> Said {
    Said::Denied { text: format!("[POLICY DENIED] {text}"), reason: reason.to_owned() }
}

fn error(status: u16, code: i64, reason: &str) -> Said {
    Said::Error { status, code, reason: reason.to_owned() }
}

async fn run(stack: &Stack, rows: Vec<Row>) {
    let mut wrong = Vec::new();
    for row in rows {
        let response = stack.send(&row.request).await;
        let (said, hits) = (message::said(&response), stack.upstream.take().len());
        if said != row.said || hits != row.hits {
            let text = response.text();
            wrong
                .push(format!("{}: wanted {:?} and {}, got {said:?} and {hits}: {text}", row.name, row.said, row.hits));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn policy_rows(modern: bool) -> Vec<Row> {
    let call = |tool: &str, arguments: &str| {
        if modern { message::modern_call("/mcp", tool, arguments).bearer(&good()) } else { call(tool, arguments) }
    };
    let other = |method: &str, name: Option<&str>, params: &str| {
        if modern {
            message::modern("/mcp", method, name, params).bearer(&good())
        } else {
            legacy(method, &format!("{{{params}}}"))
        }
    };
    let unknown = if modern { 404 } else { 200 };
    let not_permitted = "Tool \"unlisted\" is not permitted by policy";
    let hidden = "Tool \"secret_tool\" is hidden by policy";
    vec![
        row("a listed tool", call("open", "{}"), Said::Result, 1),
        row("an unlisted tool", call("unlisted", "{}"), denied(not_permitted, "default_deny"), 0),
        row("a hidden tool", call("secret_tool", "{}"), denied(hidden, "hidden"), 0),
        row("a requirement that holds", call("guarded", r#"{"repo":"sandbox-1"}"#), Said::Result, 1),
        row(
            "a requirement that does not hold",
            call("guarded", r#"{"repo":"prod"}"#),
            denied("Only sandbox repositories.", "requirement"),
            0,
        ),
        row("a missing argument", call("guarded", "{}"), denied("Only sandbox repositories.", "requirement"), 0),
        row("below the threshold", call("watched", r#"{"amount":100}"#), Said::Result, 1),
        row("above the threshold", call("watched", r#"{"amount":100.5}"#), denied("Too much.", "condition"), 0),
        row("above every float", call("watched", r#"{"amount":1e400}"#), denied("Too much.", "type_mismatch"), 0),
        row("a string is no amount", call("watched", r#"{"amount":"1"}"#), denied("Too much.", "type_mismatch"), 0),
        row("tools/list", other("tools/list", None, ""), Said::Result, 1),
        row("prompts/get", other("prompts/get", Some("p"), r#""name":"p""#), error(200, -31403, "method_denied"), 0),
        row(
            "resources/read",
            other("resources/read", Some("file:///a"), r#""uri":"file:///a""#),
            error(200, -31403, "method_denied"),
            0,
        ),
        row("an unknown method", other("tools/explode", None, ""), error(unknown, -32601, "unknown_method"), 0),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_has_the_shape_that_every_client_understands() {
    let stack = start().await;
    run(&stack, policy_rows(false)).await;
    run(&stack, policy_rows(true)).await;
    run(&stack, legacy_rows()).await;
    run(&stack, modern_rows()).await;
    run(&stack, place_rows()).await;
}

fn notification(method: &str) -> Request {
    Request::post("/mcp", format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#)).bearer(&good())
}

fn legacy_rows() -> Vec<Row> {
    let initialize = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#;
    let bare = |request: Request| request.bearer(&token("bare"));
    let plain = |method: &str| Request::new(method, "/mcp").header("accept", "text/event-stream").bearer(&good());
    let answer = r#"{"jsonrpc":"2.0","id":5,"result":{}}"#;
    vec![
        row("initialize", legacy("initialize", initialize), Said::Result, 1),
        row("ping", legacy("ping", "{}"), Said::Result, 1),
        row("a notification", notification("notifications/initialized"), Said::Accepted, 1),
        row("an unknown notification is dropped", notification("notifications/evil"), Said::Accepted, 0),
        row(
            "the answer to a request of the server's",
            Request::post("/mcp", answer).header("mcp-session-id", "s").bearer(&good()),
            Said::Accepted,
            1,
        ),
        row("the stream of a session", plain("GET").header("mcp-session-id", "s"), Said::Plain(200), 1),
        row("the end of a session", plain("DELETE").header("mcp-session-id", "s"), Said::Accepted, 1),
        row(
            "logging/setLevel",
            legacy("logging/setLevel", r#"{"level":"debug"}"#),
            error(200, -31403, "method_denied"),
            0,
        ),
        row(
            "a call without a policy",
            bare(call("open", "{}")),
            denied("No policy is assigned to this caller", "no_policy"),
            0,
        ),
        row("a list without a policy", bare(legacy("tools/list", "{}")), error(200, -31403, "no_policy"), 0),
        row("initialize without a policy", bare(legacy("initialize", initialize)), error(403, -31403, "no_policy"), 0),
        row("a notification without a policy", bare(notification("notifications/initialized")), Said::Accepted, 0),
    ]
}

fn modern_rows() -> Vec<Row> {
    let plain = |method: &str| {
        let request = Request::new(method, "/mcp").header("accept", "text/event-stream").bearer(&good());
        request.header("mcp-protocol-version", MODERN)
    };
    let notification =
        Request::post("/mcp", message::modern_body("notifications/initialized", "").replacen(r#""id":1,"#, "", 1))
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", "notifications/initialized")
            .bearer(&good());
    vec![
        row("server/discover", message::modern("/mcp", "server/discover", None, "").bearer(&good()), Said::Result, 1),
        row("GET", plain("GET"), error(405, -31403, "http_method"), 0),
        row("DELETE", plain("DELETE"), error(405, -31403, "http_method"), 0),
        row("a notification", notification, error(400, -32600, "unknown_method"), 0),
    ]
}

fn place_rows() -> Vec<Row> {
    let open = || call("open", "{}");
    let elsewhere = |path: &str| Request::post(path, message::call("open", "{}")).bearer(&good());
    let foreign = || error(403, -31403, "origin");
    vec![
        row("an origin of the list", open().header("origin", "https://app.test"), Said::Result, 1),
        row("another origin", open().header("origin", "https://evil.test"), foreign(), 0),
        row("an origin that only begins right", open().header("origin", "https://app.test.evil.test"), foreign(), 0),
        row("no origin at all, said", open().header("origin", "null"), foreign(), 0),
        row("another host", open().with("host", "127.0.0.1.evil.test"), foreign(), 0),
        row(
            "a route to a server that is not registered",
            elsewhere("/unknown"),
            error(403, -31403, "unknown_server"),
            0,
        ),
        row("a route to no server", elsewhere("/unbound"), error(403, -31403, "unknown_server"), 0),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_names_its_rule_and_keeps_the_id_as_written() {
    let stack = start().await;
    let body = r#"{"jsonrpc":"2.0","id":"x\u0041","method":"tools/call","params":{"name":"guarded","arguments":{}}}"#;
    let response = stack.send(&Request::post("/mcp", body).bearer(&good())).await;
    assert!(response.text().contains(r#""id":"x\u0041""#), "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let result = response.json()["result"].clone();
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result.get("structuredContent"), None);
    let meta = &result["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/authorization"]["reason"], "insufficient_authorization");
    let decision = &meta["mcp-authz.dev/decision"];
    assert_eq!(decision["decision"], "deny");
    assert_eq!(decision["rule"], "/tools/guarded/require/args.repo-regex");
    assert_eq!(decision["rule_exact"], "/tools/guarded/require/0/conditions/0");
    assert!(decision["policy_digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{decision}");
    assert!(decision["request_id"].is_string(), "{decision}");
    let log = || stack.envoy.process.stdout();
    until("Envoy's access log has the decision", async || log().contains("\"decision\":\"deny\"").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_up_quota_says_when_to_come_back() {
    let stack = start().await;
    for _ in 0..2 {
        assert_eq!(message::said(&stack.send(&call("limited", "{}")).await), Said::Result);
    }
    stack.upstream.take();
    let response = stack.send(&call("limited", "{}")).await;
    assert_eq!(message::said(&response), denied("Enough for today.", "quota_exhausted"));
    assert_eq!(stack.upstream.count(), 0);
    let meta = response.json()["result"]["_meta"].clone();
    assert_eq!(meta.get("io.modelcontextprotocol/authorization"), None, "waiting helps");
    assert!(meta["mcp-authz.dev/decision"]["retryAfterMs"].as_u64().is_some_and(|ms| (1..=86_400_000).contains(&ms)));
    assert!(response.header("retry-after").is_some());
}

/// Without what differs from request to request on purpose.
fn comparable(response: &Response) -> (u16, serde_json::Value) {
    let mut body = response.json();
    if let Some(decision) = body.pointer_mut("/error/data/mcp-authz.dev~1decision").and_then(|d| d.as_object_mut()) {
        decision.remove("request_id");
    }
    (response.status, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_token_gets_the_same_challenge() {
    let stack = start().await;
    let requests = [
        ("call", call("open", "{}")),
        ("list", legacy("tools/list", "{}")),
        ("modern call", message::modern_call("/mcp", "open", "{}")),
        ("stream", Request::new("GET", "/mcp").header("mcp-session-id", "s")),
        ("notification", notification("notifications/initialized")),
    ];
    let sent = format!("Bearer resource_metadata=\"{METADATA}\", error=\"invalid_token\"");
    let missing = format!("Bearer resource_metadata=\"{METADATA}\"");
    for (what, request) in requests {
        let none = stack.send(&request.clone().without("authorization")).await;
        assert_eq!(none.header("www-authenticate"), Some(missing.as_str()), "{what}");
        assert_eq!((none.status, none.json()["error"]["code"].as_i64()), (401, Some(-31401)), "{what}");
        let unknown = stack.send(&request.clone().bearer(&token("nobody"))).await;
        assert_eq!(unknown.header("www-authenticate"), Some(sent.as_str()), "{what}");
        for label in ["expired", "early", "revoked", "elsewhere"] {
            let other = stack.send(&request.clone().bearer(&token(label))).await;
            assert_eq!(comparable(&other), comparable(&unknown), "{what} {label}");
            assert_eq!(other.header("www-authenticate"), Some(sent.as_str()), "{what} {label}");
        }
        for bad in ["Bearer", "Bearer x", "Basic dTpw", "mcpa_", &format!("Bearer {} {}", good(), good())] {
            let other = stack.send(&request.clone().with("authorization", bad)).await;
            assert_eq!(other.status, 401, "{what} {bad}: {}", other.text());
        }
    }
    assert_eq!(stack.upstream.count(), 0);
    let said = stack.everything_said(&good()).await;
    for reason in [
        "token_missing",
        "token_unknown",
        "grant_expired",
        "grant_not_yet_valid",
        "grant_revoked",
        "grant_wrong_server",
    ] {
        assert!(said.contains(&format!("\"reason\":\"{reason}\"")), "no audit record says {reason}");
    }
}

/// A tool's name is the caller's to choose: it must not write into anybody's terminal or log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_tool_name_stays_inside_its_string() {
    let stack = start().await;
    let long = "n".repeat(4096);
    let names = ["a\u{202e}b", "a\u{2028}b", "\\\",\\\"level\\\":\\\"error", "<script>", &long];
    for name in names {
        let response = stack.send(&call(name, "{}")).await;
        assert!(matches!(message::said(&response), Said::Denied { reason, .. } if reason == "default_deny"), "{name}");
        assert!(!response.text().contains(['\u{202e}', '\u{2028}']), "{name}: {}", response.text());
    }
    let said = stack.everything_said(&good()).await;
    assert!(!said.contains(['\u{202e}', '\u{2028}']) && !said.contains(&long), "raw in an output");
    let records: Vec<serde_json::Value> = stack
        .authz
        .process
        .stdout()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no record: {line}: {error}")))
        .collect();
    let decisions = records.iter().filter(|record| record["event_type"] == "decision").count();
    assert_eq!(decisions, names.len() + 1, "one record a decision");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_however_many_ask_at_once() {
    let stack = start().await;
    let calls: Vec<_> = (0..60)
        .map(|_| {
            tokio::spawn({
                let (call, to) = (call("limited", "{}"), stack.envoy.address);
                async move { call.send(to).await }
            })
        })
        .collect();
    let mut served = 0;
    for call in calls {
        let said = message::said(&call.await.expect("sending works"));
        if said == Said::Result {
            served += 1;
        } else {
            assert_eq!(said, denied("Enough for today.", "quota_exhausted"));
        }
    }
    assert_eq!((served, stack.upstream.count()), (2, 2));
}
