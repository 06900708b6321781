use std::{fs, future::Future};

use bytes::Bytes;
use mcp_authz_core::grant::TokenDigest;
use prometheus_client::registry::Registry;
use serde_json::Value as Json;

mod traced;

use super::*;
use crate::{
    clock::ManualClock,
    config::Paths,
    envoy::wire::{
        AttributeContext, CheckResponse, Entry, HeaderMap, HttpResponse, Kind, Metadata, RawHeader, Request,
    },
    quota::embedded::{EmbeddedLedger, settle_leaks},
    settle::Settler,
    telemetry::audit::{Sink, WhenUnavailable, read_back::records},
};

const TOKEN: &str = "mcpa_test";
const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"once","arguments":{}}}"#;

struct Rig {
    adapter: Adapter<EmbeddedLedger>,
    ledger: Arc<EmbeddedLedger>,
    settling: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    registry: Registry,
    folder: tempfile::TempDir,
}

const SETTINGS: Settings = Settings {
    body: Limits { bytes_max: 1_048_576, depth_max: 64, nodes_max: 100_000 },
    headers: HeaderLimits { count_max: 200, bytes_max: 65_536 },
    checks_in_flight_max: 16,
    check: Duration::from_secs(1),
    margin: Duration::from_millis(20),
    accept_lossy_body: false,
    args: ArgsMode::Keys,
    outcomes: true,
    response: RESPONSE,
};

const RESPONSE: response::Settings = response::Settings {
    recording: response::Recording::Policy,
    limits: mcp_authz_core::response::Limits {
        bytes_max: 1_048_576,
        depth_max: 64,
        nodes_max: 100_000,
        list_ttl_max_ms: 60_000,
    },
    memory_bytes_max: 1 << 28,
    patience: Duration::from_secs(1),
};

fn rig(settings: Settings) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["policies", "grants", "credentials"] {
        fs::create_dir(path(name)).unwrap();
    }
    let policy = r#"{"version":"1","default":"deny","tools":{"free":{},
        "once":{"limits":[{"counter":"c","window":"day","scope":"grant","max":1,"on_deny":"Once a day."}]}}}"#;
    fs::write(path("policies/p.json"), policy).unwrap();
    fs::write(path("credentials/secret"), "upstream-secret").unwrap();
    let server = |name: &str, extra: &str| {
        format!("  {name}: {{policy: p, credential: {{kind: header, name: x-{name}-key, secret: secret}}{extra}}}\n")
    };
    let route = ", match: [{host: mcp.test, path: /mcp}]";
    fs::write(path("servers.yaml"), format!("servers:\n{}{}", server("one", route), server("two", ""))).unwrap();
    let digest = TokenDigest::of(TOKEN.as_bytes()).hex();
    fs::write(path("grants/g.yaml"), format!("grants: [{{label: agent, sha256: \"{digest}\", servers: [one]}}]\n"))
        .unwrap();
    let paths = Paths {
        policies: path("policies"),
        servers: path("servers.yaml"),
        grants: path("grants"),
        credentials: path("credentials"),
        response_phase: true,
    };
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, 0);
    let (state, _) = State::load(&paths, 0).unwrap();
    metrics.set_servers(state.snapshot().server_names());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(1_000_000));
    let bounds = mcp_authz_core::ledger::machine::Bounds { counters_max: 100, reservations_max: 100 };
    let ledger = Arc::new(EmbeddedLedger::new(bounds, Arc::clone(&clock), Arc::new(|_| {})).unwrap());
    let on_leak = settle_leaks(Arc::clone(&ledger), |_, _| {});
    let engine = Engine::new(Arc::clone(&ledger), Duration::from_secs(60), on_leak, metrics.clone());
    let audit = AuditSink::open(&Sink::File(path("audit.jsonl")), WhenUnavailable::Count, 1 << 20, metrics.clone());
    let audit = Arc::new(audit.unwrap());
    let settler = Settler {
        ledger: Arc::clone(&ledger),
        clock: Arc::clone(&clock),
        metrics: metrics.clone(),
        audit: Arc::clone(&audit),
        hold: Duration::from_secs(60),
    };
    let (settlements, settling) = settler.start();
    let (state, keys) = (Arc::new(state), Arc::clone(&ledger));
    let responses = Responses::new(
        Arc::clone(&state),
        move || keys.keys(),
        Arc::new(response::NoPins),
        Arc::clone(&clock),
        metrics.clone(),
        Arc::clone(&audit),
    );
    let after = After { settlements, responses: Arc::new(responses) };
    let adapter = Adapter::new(engine, state, clock, metrics, audit, settings, after);
    Rig { adapter, ledger, settling: Box::pin(settling), registry, folder }
}

/// A request as Envoy sends it for an allowed call; tests change what they are about.
fn request(body: &str) -> HttpRequest {
    let header = |key: &'static str, value: String| RawHeader {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::new(),
        raw_value: Bytes::from(value),
    };
    HttpRequest {
        id: Bytes::from_static(b"123"),
        method: Bytes::from_static(b"POST"),
        path: Bytes::from_static(b"/mcp"),
        host: Bytes::from_static(b"mcp.test"),
        size: i64::try_from(body.len()).unwrap(),
        raw_body: Bytes::from(body.to_owned()),
        header_map: Some(HeaderMap {
            headers: vec![
                header("authorization", format!("Bearer {TOKEN}")),
                header("content-type", "application/json".to_owned()),
                header("x-request-id", "r-1".to_owned()),
            ],
        }),
        ..HttpRequest::default()
    }
}

fn asked(http: HttpRequest, extensions: &[(&'static str, &'static str)]) -> CheckRequest {
    let entry = |(key, value): &(&'static str, &'static str)| Entry {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request { http: Some(http) }),
            context_extensions: extensions.iter().map(entry).collect(),
            ..AttributeContext::default()
        }),
    }
}

impl Rig {
    async fn check_from(
        &self,
        request: CheckRequest,
        received: Instant,
        grpc_timeout: Option<Duration>,
    ) -> CheckResponse {
        let response = self.adapter.check(request, CallMeta { received, grpc_timeout, trace: None }).await.sent();
        let allows = matches!(response.http_response, Some(HttpResponse::Ok(_)));
        assert_eq!(response.status.as_ref().map(|status| status.code == 0), Some(allows), "status and answer agree");
        response
    }

    /// `allow`, or `<status> <reason>`.
    async fn says(&self, request: CheckRequest) -> String {
        verdict(&self.check_from(request, Instant::now(), None).await)
    }

    fn audit(&self) -> String {
        self.adapter.audit.close(Duration::from_secs(5)).unwrap();
        fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap()
    }

    fn metrics(&self) -> String {
        let mut out = String::new();
        prometheus_client::encoding::text::encode(&mut out, &self.registry).unwrap();
        out
    }
}

fn verdict(response: &CheckResponse) -> String {
    match &response.http_response {
        Some(HttpResponse::Ok(_)) => "allow".to_owned(),
        Some(HttpResponse::Denied(denied)) => {
            let body: Json = serde_json::from_str(&denied.body).unwrap_or_default();
            let decision =
                [&body["result"]["_meta"], &body["error"]["data"]].map(|at| at["mcp-authz.dev/decision"].clone());
            let reason = decision.iter().find_map(|decision| decision["reason"].as_str()).unwrap_or("-").to_owned();
            format!("{} {reason}", denied.status.map_or(0, |status| status.code))
        }
        Some(HttpResponse::Error(_)) | None => "no answer".to_owned(),
    }
}

fn without(mut http: HttpRequest, name: &str) -> HttpRequest {
    http.header_map.as_mut().unwrap().headers.retain(|header| header.key != name.as_bytes());
    http
}

fn with(mut http: HttpRequest, name: &'static str, value: &'static str) -> HttpRequest {
    let raw_value = Bytes::from_static(value.as_bytes());
    let key = Bytes::from_static(name.as_bytes());
    http.header_map.as_mut().unwrap().headers.push(RawHeader { key, value: Bytes::new(), raw_value });
    http
}

#[tokio::test]
async fn an_allowed_call_gets_the_servers_credential_and_loses_all_others() {
    let rig = rig(SETTINGS);
    let http = with(with(request(CALL), "x-mcp-authz-forged", "1"), "x-two-key", "stolen");
    let response = rig.check_from(asked(http, &[("server", "one")]), Instant::now(), None).await;
    let Some(HttpResponse::Ok(ok)) = &response.http_response else { panic!("{response:?}") };
    let set: Vec<_> = ok.headers.iter().map(|option| option.header.clone().unwrap()).collect();
    assert_eq!((set.len(), set[0].key.as_str(), set[0].value.as_str()), (1, "x-one-key", "upstream-secret"));
    for name in ["authorization", "cookie", "proxy-authorization", "x-two-key", "x-mcp-authz-forged"] {
        assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}");
    }
    assert!(!ok.headers_to_remove.iter().any(|removed| removed == "x-one-key"), "removal would undo setting");
}

/// A server behind CGI or WSGI reads `x_one_key` as `x-one-key`.
#[tokio::test]
async fn other_spellings_of_a_credential_header_do_not_pass() {
    let rig = rig(SETTINGS);
    let http = with(with(request(CALL), "x_one_key", "stolen"), "x-two_key", "stolen");
    let response = rig.check_from(asked(http, &[("server", "one")]), Instant::now(), None).await;
    let Some(HttpResponse::Ok(ok)) = &response.http_response else { panic!("{response:?}") };
    for name in ["x_one_key", "x-two_key"] {
        assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}");
    }
}

#[tokio::test]
async fn a_call_past_its_time_is_told_so_and_gets_its_units_back() {
    let rig = rig(SETTINGS);
    let ask = |id: &'static str| {
        asked(HttpRequest { id: Bytes::from_static(id.as_bytes()), ..request(CALL) }, &[("server", "one")])
    };
    let late = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
    assert_eq!(verdict(&rig.check_from(ask("1"), late, None).await), "200 deadline");
    // Envoy's own time counts where it is shorter, less the margin.
    let short = Some(Duration::from_millis(20));
    assert_eq!(verdict(&rig.check_from(ask("2"), Instant::now(), short).await), "200 deadline");
    assert!(rig.metrics().contains("mcp_authz_errors_total{kind=\"deadline\"} 2"), "{}", rig.metrics());
    // Nothing stayed charged: the one call a day is still there. The streams that were given back stay refused.
    assert_eq!(rig.says(ask("1")).await, "200 ledger_unavailable");
    assert_eq!(rig.says(ask("3")).await, "allow");
}

/// The settle token of an answer.
fn token(response: &CheckResponse) -> Option<String> {
    let fields = &response.dynamic_metadata.as_ref()?.fields;
    let kind = fields.iter().find(|field| field.name == "settle")?.value.clone()?.kind?;
    let Kind::Text(text) = kind else { panic!("{kind:?}") };
    Some(text)
}

#[tokio::test]
async fn only_an_answer_that_holds_something_carries_a_token() {
    let rig = rig(SETTINGS);
    let say = |http: HttpRequest| rig.check_from(asked(http, &[("server", "one")]), Instant::now(), None);
    let held = say(request(CALL)).await;
    let read = Token::read(token(&held).unwrap().as_bytes(), &rig.ledger.keys()).unwrap();
    assert_eq!((read.booking.id.as_str(), &*read.policy, read.issued_ms), ("123", "p", 1_000_000));
    let again = HttpRequest { id: Bytes::from_static(b"124"), ..request(CALL) };
    let denied = say(again).await;
    assert_eq!((verdict(&denied), token(&denied)), ("200 quota_exhausted".to_owned(), None));
    let free = say(request(&CALL.replace("once", "free"))).await;
    assert_eq!((verdict(&free), token(&free)), ("allow".to_owned(), None));
    assert!(!rig.audit().contains(&token(&held).unwrap()), "the token is for Envoy alone");
}

#[tokio::test]
async fn an_answer_that_never_left_gives_its_units_back() {
    let rig = rig(SETTINGS);
    let ask = |id: &'static str| {
        asked(HttpRequest { id: Bytes::from_static(id.as_bytes()), ..request(CALL) }, &[("server", "one")])
    };
    let meta = CallMeta { received: Instant::now(), grpc_timeout: None, trace: None };
    drop(rig.adapter.check(ask("1"), meta).await);
    let sent = rig.adapter.check(ask("2"), meta).await.sent();
    assert_eq!(verdict(&sent), "allow");
    drop(sent);
    assert_eq!(rig.says(ask("3")).await, "200 quota_exhausted", "what has left stays spent");
}

/// An entry of Envoy's access log for the answer.
fn logged(response: &CheckResponse, is_sent: bool) -> LogEntry {
    use crate::envoy::wire::log::{LogCommon, Present};
    use prost::Message as _;
    let metadata = response.dynamic_metadata.as_ref().unwrap().encode_to_vec();
    let namespace = Bytes::from_static(b"envoy.filters.http.ext_authz");
    let metadata = Metadata { filter_metadata: vec![Entry { key: namespace, value: metadata.into() }] };
    let first_upstream_tx = is_sent.then_some(Present {});
    let log_type = LogCommon::END;
    let common = LogCommon { metadata: Some(metadata), first_upstream_tx, log_type, ..LogCommon::default() };
    LogEntry { common: Some(common), response: None }
}

#[tokio::test]
async fn the_access_log_gives_back_what_was_never_sent_and_nothing_else() {
    for (is_sent, then) in [(false, "allow"), (true, "200 quota_exhausted")] {
        let rig = rig(SETTINGS);
        let ask = |id: &'static str| {
            asked(HttpRequest { id: Bytes::from_static(id.as_bytes()), ..request(CALL) }, &[("server", "one")])
        };
        let answer = rig.check_from(ask("1"), Instant::now(), None).await;
        rig.adapter.logged(&logged(&answer, is_sent));
        let Rig { adapter, mut settling, folder, .. } = rig;
        let outcome = if is_sent { "unknown" } else { "refunded" };
        loop {
            // The queue stays open, so the work on it never ends by itself.
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(settling.as_mut().poll(&mut context).is_pending());
            tokio::task::yield_now().await;
            let mut page = String::new();
            prometheus_client::encoding::text::encode(&mut page, &rig.registry).unwrap();
            if page.contains(&format!("mcp_authz_settlements_total{{outcome=\"{outcome}\"}} 1")) {
                break;
            }
        }
        let meta = CallMeta { received: Instant::now(), grpc_timeout: None, trace: None };
        assert_eq!(verdict(&adapter.check(ask("2"), meta).await.sent()), then, "{outcome}");
        drop(folder);
    }
}

#[tokio::test]
async fn no_header_of_the_caller_steers_envoy() {
    let rig = rig(SETTINGS);
    let http = respond::STEERING.iter().fold(request(CALL), |http, name| with(http, name, "1"));
    let response = rig.check_from(asked(http, &[("server", "one")]), Instant::now(), None).await;
    let Some(HttpResponse::Ok(ok)) = &response.http_response else { panic!("{response:?}") };
    for name in respond::STEERING {
        assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}");
    }
}

#[tokio::test]
async fn more_checks_than_may_run_are_told_so_with_their_id() {
    let rig = rig(Settings { checks_in_flight_max: 0, ..SETTINGS });
    let response = rig.check_from(asked(request(CALL), &[("server", "one")]), Instant::now(), None).await;
    assert_eq!(verdict(&response), "200 overload");
    let Some(HttpResponse::Denied(denied)) = response.http_response else { panic!() };
    let body: Json = serde_json::from_str(&denied.body).unwrap();
    assert_eq!((&body["id"], &body["result"]["isError"]), (&Json::from(7), &Json::from(true)));
    assert_eq!(rig.adapter.in_flight.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_server_is_bound_by_the_route_or_by_exact_host_and_path() {
    let rig = rig(SETTINGS);
    let free = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"free"}}"#;
    let at = |host: &'static str, path: &'static str| {
        let (host, path) = (Bytes::from_static(host.as_bytes()), Bytes::from_static(path.as_bytes()));
        HttpRequest { host, path, ..request(free) }
    };
    for (http, extensions, expected) in [
        (at("mcp.test", "/mcp"), &[("server", "one")][..], "allow"),
        (at("other", "/x"), &[("server", "one")], "allow"),
        (at("mcp.test", "/mcp"), &[], "allow"),
        (at("MCP.test", "/mcp?x=1"), &[], "allow"),
        (at("mcp.test", "/mcp"), &[("unrelated", "x")], "allow"),
        // The grant is not for this server; nobody is told whether it exists.
        (at("mcp.test", "/mcp"), &[("server", "two")], "401 identity"),
        (at("mcp.test", "/mcp"), &[("server", "none")], "403 unknown_server"),
        (at("mcp.test", "/mcp"), &[("server", "")], "403 unknown_server"),
        (at("mcp.test", "/mcp"), &[("server", "one"), ("server", "one")], "403 unknown_server"),
        (at("mcp.test", "/mcp/"), &[], "403 unknown_server"),
        (at("mcp.test", "/MCP"), &[], "403 unknown_server"),
        (at("mcp.test:80", "/mcp"), &[], "403 unknown_server"),
        (at("mcp.test", "/x/../mcp"), &[], "400 malformed.path"),
        (at("mcp.test", "//mcp"), &[("server", "one")], "400 malformed.path"),
        (at("mcp.test", ""), &[("server", "one")], "400 malformed.path"),
    ] {
        let (host, path) = (http.host.clone(), http.path.clone());
        assert_eq!(rig.says(asked(http, extensions)).await, expected, "{host:?} {path:?} {extensions:?}");
    }
}

#[tokio::test]
async fn what_envoy_did_not_hand_over_whole_is_refused() {
    let rig = rig(SETTINGS);
    let one = &[("server", "one")][..];
    let lossy = |mut http: HttpRequest| {
        http.body = std::mem::take(&mut http.raw_body);
        http
    };
    let both = HttpRequest { body: Bytes::from_static(b"{}"), ..request(CALL) };
    let mut two_values = request(CALL);
    two_values.header_map.as_mut().unwrap().headers[0].value = Bytes::from_static(b"another");
    for (http, expected) in [
        (with(request(CALL), "x-envoy-auth-partial-body", "true"), "413 malformed.truncated"),
        (HttpRequest { size: 1_000_000, ..request(CALL) }, "413 malformed.truncated"),
        (with(request(CALL), "content-length", "1"), "413 malformed.truncated"),
        (lossy(request(CALL)), "400 malformed.request"),
        (both, "400 malformed.request"),
        (two_values, "400 malformed.request"),
        (HttpRequest { raw_body: Bytes::new(), size: 0, ..request(CALL) }, "400 malformed.empty"),
        (HttpRequest { header_map: None, ..request(CALL) }, "401 identity"),
        (without(request(CALL), "content-type"), "415 malformed.content_type"),
    ] {
        assert_eq!(rig.says(asked(http, one)).await, expected);
    }
    assert_eq!(rig.says(CheckRequest::default()).await, "400 malformed.request");
    assert_eq!(rig.says(CheckRequest { attributes: Some(AttributeContext::default()) }).await, "400 malformed.request");
    let usage = rig.ledger.usage();
    assert_eq!((usage.counters, usage.reservations), (0, 0), "nothing was charged");
}

#[tokio::test]
async fn a_lossy_body_is_judged_only_where_the_operator_said_so() {
    let rig = rig(Settings { accept_lossy_body: true, ..SETTINGS });
    let mut http = request(CALL);
    http.body = std::mem::take(&mut http.raw_body);
    assert_eq!(rig.says(asked(http, &[("server", "one")])).await, "allow");
    assert!(rig.metrics().contains("mcp_authz_lossy_bodies_total 1"));
}

#[tokio::test]
async fn joined_headers_are_judged_like_raw_ones() {
    let rig = rig(SETTINGS);
    let joined = |authorization: &str| {
        let mut http = request(CALL);
        let entry =
            |key: &str, value: &str| Entry { key: Bytes::from(key.to_owned()), value: Bytes::from(value.to_owned()) };
        http.header_map = None;
        http.headers = vec![entry("authorization", authorization), entry("content-type", "application/json")];
        asked(http, &[("server", "one")])
    };
    assert_eq!(rig.says(joined(&format!("Bearer {TOKEN},Bearer other"))).await, "400 malformed.multi_value");
    assert_eq!(rig.says(joined(&format!("Bearer {TOKEN}"))).await, "allow");
}

#[tokio::test]
async fn a_check_sent_twice_is_charged_once_and_a_second_call_is_not_free() {
    let rig = rig(SETTINGS);
    let ask = |id: &'static str| {
        asked(HttpRequest { id: Bytes::from_static(id.as_bytes()), ..request(CALL) }, &[("server", "one")])
    };
    assert_eq!(rig.says(ask("1")).await, "allow");
    assert_eq!(rig.says(ask("1")).await, "allow");
    assert_eq!(rig.says(ask("2")).await, "200 quota_exhausted");
}

#[tokio::test]
async fn streams_belong_to_legacy_sessions() {
    let rig = rig(SETTINGS);
    let stream = |method: &'static str, headers: &[(&'static str, &'static str)]| {
        let bare = HttpRequest {
            method: Bytes::from_static(method.as_bytes()),
            raw_body: Bytes::new(),
            size: 0,
            ..request("")
        };
        asked(headers.iter().fold(bare, |http, (name, value)| with(http, name, value)), &[("server", "one")])
    };
    for (method, headers, expected) in [
        ("GET", &[("mcp-session-id", "s")][..], "allow"),
        ("DELETE", &[("mcp-session-id", "s"), ("mcp-protocol-version", "2025-11-25")], "allow"),
        ("GET", &[], "405 http_method"),
        ("GET", &[("mcp-session-id", "s"), ("mcp-protocol-version", "2026-07-28")], "405 http_method"),
        ("GET", &[("mcp-session-id", "s"), ("mcp-protocol-version", "1999-01-01")], "400 unsupported_version"),
        ("GET", &[("mcp-session-id", "s"), ("mcp-name", "x")], "400 header_mismatch"),
        ("OPTIONS", &[("mcp-session-id", "s")], "405 http_method"),
        ("get", &[("mcp-session-id", "s")], "405 http_method"),
        ("", &[], "405 http_method"),
    ] {
        assert_eq!(rig.says(stream(method, headers)).await, expected, "{method} {headers:?}");
    }
    let mut with_body = request(CALL);
    with_body.method = Bytes::from_static(b"GET");
    let with_body = with(with_body, "mcp-session-id", "s");
    assert_eq!(rig.says(asked(with_body, &[("server", "one")])).await, "400 malformed.empty");
}

#[tokio::test]
async fn denials_are_counted_by_the_rule_of_the_policy_and_never_by_what_a_client_sent() {
    let rig = rig(SETTINGS);
    for name in ["once", "CANARY", "another"] {
        rig.says(asked(request(&CALL.replace("once", name)), &[("server", "one")])).await;
    }
    rig.says(asked(without(request(CALL), "authorization"), &[("server", "one")])).await;
    let metrics = rig.metrics();
    let denials: Vec<&str> = metrics.lines().filter(|line| line.starts_with("mcp_authz_rule_denials_total")).collect();
    assert_eq!(denials, ["mcp_authz_rule_denials_total{policy=\"p\",rule=\"(default deny)\"} 2"]);
}

#[tokio::test]
async fn every_decision_leaves_one_record_without_values_or_tokens() {
    let rig = rig(SETTINGS);
    let body = r#"{"jsonrpc":"2.0","id":"CANARY","method":"tools/call","params":{"name":"free","arguments":{"key":"CANARY"}}}"#;
    assert_eq!(rig.says(asked(request(body), &[("server", "one")])).await, "allow");
    assert_eq!(rig.says(asked(without(request(body), "authorization"), &[("server", "one")])).await, "401 identity");
    let audit = rig.audit();
    let records = records(&audit);
    assert_eq!(records.len(), 2, "{audit}");
    assert_eq!((&records[0]["decision"], &records[0]["arg_keys"]), (&Json::from("allow"), &serde_json::json!(["key"])));
    assert_eq!((&records[1]["decision"], &records[1]["reason"]), (&Json::from("deny"), &Json::from("token_missing")));
    for secret in ["CANARY", TOKEN, "upstream-secret"] {
        assert!(!audit.contains(secret) && !rig.metrics().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_refusal_carries_what_an_access_log_needs() {
    let rig = rig(SETTINGS);
    let response = rig.check_from(asked(request(CALL), &[("server", "two")]), Instant::now(), None).await;
    let metadata = format!("{:?}", response.dynamic_metadata.unwrap());
    for part in ["decision", "deny", "grant_wrong_server", "(identity)", "two"] {
        assert!(metadata.contains(part), "{part} in {metadata}");
    }
}

#[tokio::test]
async fn every_denial_names_the_policy_as_it_was_read_once_the_caller_is_known() {
    let rig = rig(SETTINGS);
    let expected = rig.adapter.state.snapshot().policy("p").unwrap().digest().as_str().to_owned();
    let call = |id: &'static str, body: String| HttpRequest { id: Bytes::from_static(id.as_bytes()), ..request(&body) };
    assert_eq!(rig.says(asked(call("1", CALL.to_owned()), &[("server", "one")])).await, "allow");
    let read = r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a:b"}}"#.to_owned();
    let denials = [
        ("quota_exhausted", call("2", CALL.to_owned()), Some(&expected)),
        ("default_deny", call("3", CALL.replace("once", "other")), Some(&expected)),
        ("method_denied", call("4", read), Some(&expected)),
        ("header_mismatch", with(request(CALL), "mcp-method", "tools/list"), Some(&expected)),
        ("token_missing", without(request(CALL), "authorization"), None),
    ];
    for (reason, http, digest) in denials {
        let response = rig.check_from(asked(http, &[("server", "one")]), Instant::now(), None).await;
        let Some(HttpResponse::Denied(denied)) = &response.http_response else { panic!("{response:?}") };
        let found = denied.body.split_once("\"policy_digest\":\"").and_then(|(_, rest)| rest.split_once('"'));
        assert!(denied.body.contains(reason) || digest.is_none(), "{reason}: {}", denied.body);
        assert_eq!(found.map(|(found, _)| found), digest.map(String::as_str), "{reason}: {}", denied.body);
    }
}

/// An entry of the access log for an answer of ours, as Envoy returns its metadata.
fn log_entry(response: &CheckResponse, more: &[(&str, &str)]) -> LogEntry {
    use envoy_types::pb::envoy::{
        config::core::v3::Metadata,
        data::accesslog::v3::{AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpResponseProperties},
    };
    use envoy_types::pb::google::protobuf::{Duration, Struct, UInt32Value, Value, value::Kind as Is};
    use prost::Message as _;
    let text = |text: &str| Value { kind: Some(Is::StringValue(text.to_owned())) };
    let said = response.dynamic_metadata.iter().flat_map(|metadata| &metadata.fields).map(|field| {
        let Some(Kind::Text(value)) = field.value.clone().unwrap().kind else { panic!("no text") };
        (field.name.clone(), text(&value))
    });
    let ours = Struct { fields: said.collect() };
    let seen = Struct { fields: more.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect() };
    let mut filter_metadata = std::collections::HashMap::from([("envoy.filters.http.ext_authz".to_owned(), ours)]);
    if !more.is_empty() {
        filter_metadata.insert("mcp_authz".to_owned(), seen);
    }
    let entry = HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            metadata: Some(Metadata { filter_metadata, ..Metadata::default() }),
            time_to_first_upstream_tx_byte: Some(Duration::default()),
            time_to_first_upstream_rx_byte: Some(Duration::default()),
            upstream_request_attempt_count: 1,
            upstream_wire_bytes_sent: 300,
            access_log_type: AccessLogType::DownstreamEnd.into(),
            ..AccessLogCommon::default()
        }),
        response: Some(HttpResponseProperties {
            response_code: Some(UInt32Value { value: 200 }),
            response_code_details: "via_upstream".to_owned(),
            ..HttpResponseProperties::default()
        }),
        ..HttpAccessLogEntry::default()
    };
    LogEntry::decode(entry.encode_to_vec().as_slice()).unwrap()
}

#[tokio::test]
async fn a_call_whose_response_nobody_looked_at_has_a_record_of_its_end() {
    let rig = rig(SETTINGS);
    let say = |http: HttpRequest| rig.check_from(asked(http, &[("server", "one")]), Instant::now(), None);
    let held = say(request(CALL)).await;
    let denied = say(HttpRequest { id: Bytes::from_static(b"124"), ..request(CALL) }).await;
    assert_eq!(verdict(&denied), "200 quota_exhausted");
    rig.adapter.logged(&log_entry(&held, &[]));
    // One that was looked at has a record already, and a denial never ran.
    rig.adapter.logged(&log_entry(&held, &[("seen", "1")]));
    rig.adapter.logged(&log_entry(&denied, &[]));
    let records = records(&rig.audit());
    let outcomes: Vec<&Json> = records.iter().filter(|record| record["event_type"] == "outcome").collect();
    assert_eq!(outcomes.len(), 1, "{records:?}");
    let decision = records.iter().find(|record| record["outcome"] == "allowed").unwrap();
    for name in ["principal_id", "grant", "stream_id", "policy", "policy_digest", "server", "method"] {
        assert!(decision[name].is_string() && outcomes[0][name] == decision[name], "{name}: {records:?}");
    }
    assert_eq!((&outcomes[0]["fate"], &outcomes[0]["status"]), (&"answered".into(), &"200".into()));
}

#[tokio::test]
async fn outcomes_can_be_left_out() {
    let rig = rig(Settings { outcomes: false, ..SETTINGS });
    let held = rig.check_from(asked(request(CALL), &[("server", "one")]), Instant::now(), None).await;
    assert!(!format!("{:?}", held.dynamic_metadata).contains("stream_id"));
    rig.adapter.logged(&log_entry(&held, &[]));
    assert_eq!(records(&rig.audit()).len(), 1);
}

#[tokio::test]
async fn values_are_hashed_with_the_keys_of_the_store() {
    let said = async |body: &str| {
        let rig = rig(Settings { args: ArgsMode::Hmac, ..SETTINGS });
        rig.says(asked(request(body), &[("server", "one")])).await;
        (records(&rig.audit())[0]["args"].clone(), rig)
    };
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"free","arguments":{"key":"CANARY","same":"CANARY"}}}"#;
    let (args, rig) = said(body).await;
    assert!(args[0]["digest"].is_string() && args[0]["digest"] == args[1]["digest"], "{args}");
    assert_ne!(said(body).await.0[0]["digest"], args[0]["digest"], "another store, another key");
    drop(rig);
}
