//! The pages over the embedded ledger, with real documents: who may ask, what is answered, and what a reset leaves behind.

use std::{path::Path, time::Duration};

use axum::http::{Method, Request};
use mcp_authz_core::ledger::machine::Bounds;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::{
    clock::{Clock, ManualClock},
    config::Paths,
    credential::Credential,
    engine::{Case, Engine},
    quota::{desk::LedgerDesk, embedded::EmbeddedLedger},
    state::State as Documents,
    telemetry::{
        audit::{AuditSink, Sink, WhenUnavailable},
        metrics::Metrics,
    },
};

const NOW_MS: u64 = 1_800_000_000_000;
const TOKEN: &str = "Bearer 0123456789abcdef";
const POLICY: &str = r#"{"version": "1", "default": "allow", "tools": {
  "post": {"limits": [{"counter": "messages", "window": "hour", "scope": "grant", "max": 5}]},
  "send": {"limits": [{"counter": "messages", "window": "hour", "scope": "grant", "max": 7}]}},
  "all_tools": {"limits": [{"counter": "calls", "window": "day", "scope": "policy", "max": 100}]}}"#;
const GRANTS: &str = "grants:
- {label: g1, servers: [a], policy: p, subject: 'user:ann', sha256: '1111111111111111111111111111111111111111111111111111111111111111'}
- {label: g2, servers: [a], policy: p, subject: 'user:ann', sha256: '2222222222222222222222222222222222222222222222222222222222222222'}
- {label: g+3, servers: [a], sha256: '3333333333333333333333333333333333333333333333333333333333333333'}
";

struct Rig {
    folder: tempfile::TempDir,
    documents: Arc<Documents>,
    engine: Engine<EmbeddedLedger>,
    pages: Router,
    audit: Arc<AuditSink>,
}

/// A desk over documents in a folder; without a token if `token` says so.
fn rig(token: Option<&str>) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        std::fs::write(at(name), text).unwrap();
    };
    write("policies/p.json", POLICY);
    write("servers.yaml", "servers: {a: {credential: {kind: none}}}\n");
    write("grants/g.yaml", GRANTS);
    write("token", token.unwrap_or_default());
    std::fs::create_dir_all(at("credentials")).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW_MS));
    let metrics = Metrics::new(&mut Registry::default(), 0);
    let (documents, _) = Documents::load(&Paths::below(folder.path()), NOW_MS).unwrap();
    let documents = Arc::new(documents);
    let bounds = Bounds { counters_max: 1_000, reservations_max: 1_000 };
    let ledger = Arc::new(EmbeddedLedger::new(bounds, Arc::clone(&clock), Arc::new(|_| {})).unwrap());
    let engine = Engine::new(Arc::clone(&ledger), Duration::from_secs(60), Arc::new(|_, _| {}), metrics.clone());
    let sink = Sink::File(at("audit.jsonl"));
    let audit = Arc::new(AuditSink::open(&sink, WhenUnavailable::Deny, 65_536, metrics).unwrap());
    let desk = LedgerDesk::new(ledger, Arc::clone(&documents), Arc::clone(&audit), clock);
    let path = token.map(|_| at("token"));
    let token = Arc::new(AdminToken::load(path.as_deref().map(Path::new)).unwrap());
    let pages = router(QuotaPages { desk: Arc::new(desk), token });
    Rig { folder, documents, engine, pages, audit }
}

impl Rig {
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
        let snapshot = Arc::clone(&self.documents.snapshot());
        let grant = snapshot.grants().find(|grant| &**grant.label() == label).unwrap();
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}});
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
            policy: snapshot.policy("p").map(AsRef::as_ref),
            principal: grant.principal(),
            server: "a",
            message: Some(&message),
            stream_id: "",
            now_ms: NOW_MS,
            deadline: tokio::time::Instant::now().checked_add(Duration::from_secs(5)).unwrap(),
        };
        let permit = self.engine.check(&case, &Credential::None).await;
        permit.map(|permit| drop(permit.hand_over())).is_ok()
    }

    fn audit(self) -> String {
        self.audit.close(Duration::from_secs(5)).unwrap();
        std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap()
    }
}

#[tokio::test]
async fn without_the_token_nothing_is_told_and_nothing_is_done() {
    let off = rig(None);
    for (method, uri) in [(Method::GET, "/quota?grant=g1"), (Method::POST, "/quota/reset")] {
        let (status, body) = off.ask(method.clone(), uri, &[("authorization", TOKEN)], "{}").await;
        assert_eq!(status, 403);
        assert!(body.contains("`admin.token_file`"), "{body}");
    }
    let on = rig(Some("0123456789abcdef"));
    for (method, uri) in [(Method::GET, "/quota?grant=g1"), (Method::POST, "/quota/reset")] {
        for headers in
            [&[][..], &[("authorization", "Bearer 0123456789abcdeX")], &[("cookie", "token=0123456789abcdef")]]
        {
            let (status, body) = on.ask(method.clone(), uri, headers, "{").await;
            assert_eq!((status, &*body), (401, "the admin token is missing or wrong\n"), "{headers:?}");
        }
    }
    assert_eq!(on.audit(), "");
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
    let lines = rig.audit();
    let record: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let counter = json!({"policy": "p", "counter": "messages", "window": "hour", "scope": "grant", "tool": "post"});
    assert_eq!(record["counters"], json!([counter]));
    assert_eq!(
        (&record["event"], &record["who"], &record["grant"]),
        (&json!("quota_reset"), &json!("operator"), &json!("g1"))
    );
    assert!(!lines.contains("user:ann"));
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
