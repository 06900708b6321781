//! The pages over the embedded ledger, with real documents: who may ask, what is answered, and what a reset leaves behind.

use std::{path::Path, time::Duration};

use axum::http::{Method, Request};
use mcp_authz_core::{decision::Denial, ledger::machine::Bounds};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::{
    clock::{Clock, ManualClock, SystemClock},
    config::Paths,
    credential::Credential,
    engine::{Case, Engine},
    quota::{
        Ledger,
        desk::LedgerDesk,
        embedded::EmbeddedLedger,
        redis::{RedisLedger, Settings, Topology},
    },
    state::State as Documents,
    telemetry::{
        audit::{AuditSink, Sink, WhenUnavailable, read_back::records},
        metrics::Metrics,
    },
};

const NOW_MS: u64 = 1_800_000_000_000;
const TOKEN: &str = "Bearer 0123456789abcdef";
const POLICY: &str = r#"{"version": "1", "default": "allow", "tools": {
  "post": {"limits": [{"counter": "messages", "window": "hour", "scope": "grant", "max": 5}]},
  "send": {"limits": [{"counter": "messages", "window": "hour", "scope": "grant", "max": 7}]}},
  "all_tools": {"limits": [{"counter": "calls", "window": "day", "scope": "policy", "max": 100}]}}"#;
const SECOND: &str = r#"{"version": "2", "default": "deny", "tools": {"refund": {"limits": [
  {"counter": "cents", "window": "day", "scope": "identity", "max": 500, "scale": 2, "increment_from": "args.amount", "disclose": true},
  {"counter": "equal", "window": {"streak": {"idle": "10m"}}, "scope": "grant", "max": 3},
  {"counter": "running", "window": {"in_flight": {"lease": "1m"}}, "scope": "server", "max": 4}]}}}"#;
const GRANTS: &str = "grants:
- {label: v2, servers: [a], policy: q, subject: 'user:ann', sha256: '4444444444444444444444444444444444444444444444444444444444444444'}
- {label: g1, servers: [a], policy: p, subject: 'user:ann', sha256: '1111111111111111111111111111111111111111111111111111111111111111'}
- {label: g2, servers: [a], policy: p, subject: 'user:ann', sha256: '2222222222222222222222222222222222222222222222222222222222222222'}
- {label: g+3, servers: [a], sha256: '3333333333333333333333333333333333333333333333333333333333333333'}
";

struct Rig<L: Ledger> {
    folder: tempfile::TempDir,
    documents: Arc<Documents>,
    engine: Engine<L>,
    pages: Router,
    audit: Arc<AuditSink>,
}

/// A desk over the embedded ledger; without a token if `token` says so.
fn rig(token: Option<&str>) -> Rig<EmbeddedLedger> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW_MS));
    let bounds = Bounds { counters_max: 1_000, reservations_max: 1_000 };
    let ledger = EmbeddedLedger::new(bounds, Arc::clone(&clock), Arc::new(|_| {})).unwrap();
    rig_over(ledger, clock, token)
}

/// A desk over documents in a folder.
fn rig_over<L: Ledger>(ledger: L, clock: Arc<dyn Clock>, token: Option<&str>) -> Rig<L> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        std::fs::write(at(name), text).unwrap();
    };
    write("policies/p.json", POLICY);
    write("policies/q.json", SECOND);
    write("servers.yaml", "servers: {a: {credential: {kind: none}}}\n");
    write("grants/g.yaml", GRANTS);
    write("token", token.unwrap_or_default());
    std::fs::create_dir_all(at("credentials")).unwrap();
    let metrics = Metrics::new(&mut Registry::default(), 0);
    let (documents, _) = Documents::load(&Paths::below(folder.path()), NOW_MS).unwrap();
    let documents = Arc::new(documents);
    let ledger = Arc::new(ledger);
    let engine = Engine::new(Arc::clone(&ledger), Duration::from_secs(60), Arc::new(|_, _| {}), metrics.clone());
    let sink = Sink::File(at("audit.jsonl"));
    let audit = Arc::new(AuditSink::open(&sink, WhenUnavailable::Deny, 65_536, metrics).unwrap());
    let desk = LedgerDesk::new(ledger, Arc::clone(&documents), Arc::clone(&audit), clock);
    let path = token.map(|_| at("token"));
    let token = Arc::new(AdminToken::load(path.as_deref().map(Path::new)).unwrap());
    let pages = router(QuotaPages { desk: Arc::new(desk), token });
    Rig { folder, documents, engine, pages, audit }
}

impl<L: Ledger> Rig<L> {
    async fn ask(&self, method: Method, uri: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.pages.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn show(&self, query: &str) -> (u16, String) {
        self.ask(Method::GET, &format!("/quota?{query}"), &[("authorization", TOKEN)], "").await
    }

    async fn rows(&self, query: &str) -> Vec<Value> {
        let (status, body) = self.show(query).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["counters"].as_array().unwrap().clone()
    }

    async fn reset(&self, body: &Value) -> (u16, String) {
        let headers = [("authorization", TOKEN), ("content-type", "application/json")];
        self.ask(Method::POST, "/quota/reset", &headers, &body.to_string()).await
    }

    /// Whether a call of the tool passes under that grant.
    async fn call(&self, label: &str, tool: &str) -> bool {
        self.called(label, tool, json!({})).await.is_ok()
    }

    async fn called(&self, label: &str, tool: &str, arguments: Value) -> Result<(), Denial> {
        let snapshot = Arc::clone(&self.documents.snapshot());
        let grant = snapshot.grants().find(|grant| &**grant.label() == label).unwrap();
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}});
        let body = body.to_string();
        let document = mcp_authz_core::json::Document::parse(body.as_bytes(), Default::default()).unwrap();
        let headers: [(&[u8], &[u8]); 1] = [(b"content-type", b"application/json")];
        let headers = mcp_authz_core::http::Headers::classify(
            headers.into_iter(),
            mcp_authz_core::http::Repeats::Apart,
            mcp_authz_core::http::HeaderLimits { count_max: 10, bytes_max: 1_000 },
        );
        let versions = mcp_authz_core::mcp::ProtocolVersion::ALL;
        let headers = headers.unwrap();
        let message = mcp_authz_core::mcp::Message::read(&document, &headers, versions).unwrap();
        let case = Case {
            known: mcp_authz_core::pins::Known::Off,
            policy: grant.policy().and_then(|id| snapshot.policy(id)).map(AsRef::as_ref),
            principal: grant.principal(),
            server: "a",
            message: Some(&message),
            stream_id: "",
            now_ms: NOW_MS,
            deadline: tokio::time::Instant::now().checked_add(Duration::from_secs(5)).unwrap(),
        };
        let permit = self.engine.check(&case, &Credential::None, &mut crate::telemetry::trace::Span::default()).await;
        permit.map(|permit| drop(permit.hand_over()))
    }

    fn audit(self) -> Vec<Value> {
        self.audit.close(Duration::from_secs(5)).unwrap();
        records(&std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap())
    }
}

#[tokio::test]
async fn without_the_token_nothing_is_told_and_nothing_is_done() {
    let off = rig(None);
    for (method, uri) in
        [(Method::GET, "/quota?grant=g1"), (Method::POST, "/quota/reset"), (Method::POST, "/quota/accept-loss")]
    {
        let (status, body) = off.ask(method.clone(), uri, &[("authorization", TOKEN)], "{}").await;
        assert_eq!(status, 403);
        assert!(body.contains("`admin.token_file`"), "{body}");
    }
    let on = rig(Some("0123456789abcdef"));
    for (method, uri) in
        [(Method::GET, "/quota?grant=g1"), (Method::POST, "/quota/reset"), (Method::POST, "/quota/accept-loss")]
    {
        for headers in
            [&[][..], &[("authorization", "Bearer 0123456789abcdeX")], &[("cookie", "token=0123456789abcdef")]]
        {
            let (status, body) = on.ask(method.clone(), uri, headers, "{").await;
            assert_eq!((status, &*body), (401, "the admin token is missing or wrong\n"), "{headers:?}");
        }
    }
    assert!(on.audit().is_empty());
}

#[tokio::test]
async fn a_page_of_counters_says_where_each_stands() {
    let rig = rig(Some("0123456789abcdef"));
    for _ in 0..2 {
        assert!(rig.call("g1", "post").await);
    }
    let (_, body) = rig.show("grant=g1&tool=post").await;
    let page: Value = serde_json::from_str(&body).unwrap();
    let members: Vec<&String> = page.as_object().unwrap().keys().collect();
    assert_eq!(members, ["counters", "revision", "time"]);
    assert_eq!(
        (&page["revision"], &page["time"]),
        (&json!(rig.documents.snapshot().revision()), &json!("2027-01-15T08:00:00Z"))
    );
    let expected = json!([{
        "policy": "p", "counter": "messages", "window": "hour", "scope": "grant", "server": null, "tool": "post", "group": null,
        "mode": "consume", "grants": ["g1"], "scale": 0, "used": 2, "max": 5, "left": 3, "resets_at": "2027-01-15T09:00:00Z",
    }]);
    assert_eq!(page["counters"], expected);
    let all = rig.rows("grant=g1").await;
    let brief: Vec<_> =
        all.iter().map(|row| (row["counter"].as_str().unwrap(), row["used"].as_u64().unwrap())).collect();
    assert_eq!(brief, [("calls", 2), ("messages", 2), ("messages", 0)]);
    assert_eq!(all[2]["resets_at"], Value::Null);
}

#[tokio::test]
async fn counters_are_found_by_identity_and_shared_ones_come_once() {
    let rig = rig(Some("0123456789abcdef"));
    assert!(rig.call("g2", "send").await);
    let rows = rig.rows("identity=user%3Aann&counter=calls").await;
    assert_eq!((rows.len(), &rows[0]["grants"], &rows[0]["used"]), (1, &json!(["g1", "g2"]), &json!(1)));
    assert_eq!(rig.rows("identity=user%3Aann&tool=send").await.len(), 2);
    // Its server names no policy, so it can call nothing and has no counter.
    assert_eq!(rig.rows("grant=g+3").await, Vec::<Value>::new());
    for (query, status, text) in [
        ("", 400, "name a grant or an identity\n"),
        ("counter=calls", 400, "name a grant or an identity\n"),
        ("grant=v2&tool=post", 404, "no policy of the grant has such a counter\n"),
        ("grant=g9", 404, "no such grant\n"),
        ("grant=g1&identity=user%3Abob", 404, "no such grant\n"),
        ("grant=g1&counter=nothing", 404, "no policy of the grant has such a counter\n"),
        ("grant=g1&policy=q", 404, "no policy of the grant has such a counter\n"),
        ("grant=g1&grant=g2", 400, "a name comes twice\n"),
        ("grant=%ff", 400, "a value is no percent-encoded UTF-8 text of at most 512 bytes\n"),
        ("grant=%+1", 400, "a value is no percent-encoded UTF-8 text of at most 512 bytes\n"),
        ("grants=g1", 400, "expected grant, identity, policy, counter or tool\n"),
        ("grant", 400, "expected name=value\n"),
    ] {
        assert_eq!(rig.show(query).await, (status, text.to_owned()), "{query}");
    }
}

#[tokio::test]
async fn a_reset_frees_one_counter_and_stands_in_the_audit() {
    let rig = rig(Some("0123456789abcdef"));
    for tool in ["post", "send"] {
        for _ in 0..5 {
            assert!(rig.call("g1", tool).await);
        }
    }
    assert!(!rig.call("g1", "post").await);
    let (status, body) = rig.reset(&json!({"grant": "g1", "counter": "messages", "tool": "post"})).await;
    assert_eq!(status, 200, "{body}");
    let page: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((page["reset"].as_array().unwrap().len(), &page["reset"][0]["used"]), (1, &json!(5)));
    let used: Vec<u64> = rig.rows("grant=g1").await.iter().map(|row| row["used"].as_u64().unwrap()).collect();
    assert_eq!(used, [10, 0, 5]);
    assert!(rig.call("g1", "post").await);
    let digest = rig.documents.snapshot().policy("p").unwrap().digest().as_str().to_owned();
    let lines = rig.audit();
    let record = &lines[0];
    let counter = json!({"policy": "p", "policy_digest": digest, "counter": "messages", "window": "hour", "scope": "grant", "tool": "post"});
    assert_eq!(record["counters"], json!([counter]));
    assert_eq!(
        (&record["event_type"], &record["principal_id"], &record["grant"]),
        (&json!("quota_reset"), &json!("operator"), &json!("g1"))
    );
    assert!(!format!("{lines:?}").contains("user:ann"));
}

#[tokio::test]
async fn a_reset_of_something_else_than_was_shown_is_refused() {
    let rig = rig(Some("0123456789abcdef"));
    assert!(rig.call("g1", "post").await);
    let revision = rig.documents.snapshot().revision().to_owned();
    for (body, status) in [
        (json!({"grant": "g1"}), 400),
        (json!({"counter": "messages"}), 400),
        (json!({"grant": "g1", "counter": "messages", "revision": "sha256:0"}), 409),
        (json!({"grant": "g1", "counter": "other"}), 404),
        (json!({"grant": "g1", "counter": "messages", "all": "yes"}), 400),
        (json!({"grant": 1, "counter": "messages"}), 400),
        (json!({"grant": "g".repeat(5_000), "counter": "messages"}), 413),
    ] {
        assert_eq!(rig.reset(&body).await.0, status, "{body}");
    }
    let text = json!({"grant": "g1", "counter": "messages"}).to_string();
    for headers in [&[("authorization", TOKEN)][..], &[("authorization", TOKEN), ("content-type", "text/plain")]] {
        assert_eq!(rig.ask(Method::POST, "/quota/reset", headers, &text).await.0, 415);
    }
    assert_eq!(rig.rows("grant=g1&tool=post").await[0]["used"], 1);
    assert_eq!(rig.reset(&json!({"grant": "g1", "counter": "messages", "revision": revision})).await.0, 200);
    assert_eq!(rig.rows("grant=g1&tool=post").await[0]["used"], 0);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let rig = rig(Some("0123456789abcdef"));
    assert!(rig.call("g1", "post").await);
    rig.audit.close(Duration::from_secs(5)).unwrap();
    let (status, body) = rig.reset(&json!({"grant": "g1", "counter": "messages"})).await;
    assert_eq!((status, &*body), (503, "the audit record cannot be kept, so nothing was done\n"));
    assert_eq!(rig.rows("grant=g1&tool=post").await[0]["used"], 1);
}

#[tokio::test]
async fn accepting_a_loss_is_recorded_even_if_nothing_was_lost() {
    let rig = rig(Some("0123456789abcdef"));
    let headers = [("authorization", TOKEN), ("content-type", "application/json")];
    let accept = |body| rig.ask(Method::POST, "/quota/accept-loss", &headers, body);
    assert_eq!(accept("{\"grant\": \"g1\"}").await.0, 400);
    let (status, body) = accept("{}").await;
    assert_eq!((status, &serde_json::from_str::<Value>(&body).unwrap()["accepted"]), (200, &json!(false)));
    let lines = rig.audit();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["event_type"], "quota_accept_loss");
}

#[tokio::test]
async fn every_kind_of_counter_is_shown_as_far_as_it_can_be() {
    let rig = rig(Some("0123456789abcdef"));
    for _ in 0..2 {
        rig.called("v2", "refund", json!({"amount": 1.99})).await.unwrap();
    }
    let rows = rig.rows("grant=v2").await;
    let brief: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!([row["counter"], row["server"], row["scale"], row["used"], row["max"], row["left"], row["resets_at"]])
        })
        .collect();
    let expected = json!([
        ["cents", null, 2, 398, 50_000, 49_602, "2027-01-16T00:00:00Z"],
        // Which row of equal calls goes on depends on the next call.
        ["equal", null, 0, null, 3, null, null],
        ["running", "a", 0, 2, 4, 2, null],
    ]);
    assert_eq!(Value::from(brief), expected);
    let denial = rig.called("v2", "refund", json!({"amount": 497})).await.unwrap_err();
    assert!(
        denial.message.ends_with(" (3.98 of 500.00 used today, 496.02 left; resets in 16 h)"),
        "{}",
        denial.message
    );
    // A row of equal calls can be ended all the same. The refused call was another one, so this row has three calls to go.
    assert_eq!(rig.reset(&json!({"grant": "v2", "counter": "running"})).await.0, 200);
    for allowed in [true, true, true, false] {
        assert_eq!(rig.called("v2", "refund", json!({"amount": 1.99})).await.is_ok(), allowed);
    }
    assert_eq!(rig.reset(&json!({"grant": "v2", "counter": "equal"})).await.0, 200);
    rig.called("v2", "refund", json!({"amount": 1.99})).await.unwrap();
}

#[tokio::test]
async fn counters_in_redis_are_shown_and_reset_all_the_same() {
    let server = test_redis::RedisServer::start(&["--appendonly", "yes"]);
    let topology = Topology::standalone(&format!("unix://{}", server.socket().display())).unwrap();
    let settings = Settings { timeout: Duration::from_secs(2), fence: Duration::ZERO, ..Settings::new(topology) };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ledger = RedisLedger::connect(settings, Arc::clone(&clock), Arc::new(|_| {})).await.unwrap();
    let deadline = tokio::time::Instant::now().checked_add(Duration::from_secs(20)).unwrap();
    assert!(ledger.connected(deadline).await);
    let rig = rig_over(ledger, clock, Some("0123456789abcdef"));
    for _ in 0..3 {
        rig.called("v2", "refund", json!({"amount": 1.99})).await.unwrap();
    }
    assert!(rig.called("v2", "refund", json!({"amount": 1.99})).await.is_err());
    let rows = rig.rows("identity=user%3Aann&policy=q").await;
    let brief: Vec<Value> =
        rows.iter().map(|row| json!([row["counter"], row["used"], row["max"], row["left"]])).collect();
    assert_eq!(json!(brief), json!([["cents", 597, 50_000, 49_403], ["equal", null, 3, null], ["running", 3, 4, 1]]));
    assert!(rows[0]["resets_at"].as_str().unwrap().ends_with("T00:00:00Z"));
    for counter in ["cents", "equal", "running"] {
        assert_eq!(rig.reset(&json!({"grant": "v2", "counter": counter})).await.0, 200);
    }
    let rows = rig.rows("grant=v2").await;
    assert_eq!((&rows[0]["used"], &rows[2]["used"]), (&json!(0), &json!(0)));
    rig.called("v2", "refund", json!({"amount": 1.99})).await.unwrap();
    let headers = [("authorization", TOKEN), ("content-type", "application/json")];
    let (status, body) = rig.ask(Method::POST, "/quota/accept-loss", &headers, "{}").await;
    assert_eq!((status, &serde_json::from_str::<Value>(&body).unwrap()["accepted"]), (200, &json!(false)));
}
