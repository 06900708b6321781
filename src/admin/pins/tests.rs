//! The pages over pins in memory: who may ask, what is answered, and what an approval leaves behind.

use axum::{body::to_bytes, http::Request};
use mcp_authz_core::{
    json::{Document, Limits},
    pins::{Bounds, Sighting, Standing},
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::{
    clock::ManualClock,
    config::Paths,
    pins::{FolderStore, Pinboard, store::AnyStore},
    state::State as Documents,
    telemetry::{
        audit::{AuditSink, Sink, WhenUnavailable, read_back::records},
        metrics::Metrics,
    },
};

const NOW_MS: u64 = 1_800_000_000_000;
const TOKEN: &str = "Bearer 0123456789abcdef";
const SERVERS: &str = "servers:
  tickets: {credential: {kind: none}, tools: {trust: first_use}}
  other: {credential: {kind: none}, tools: {trust: pinned, on_change: report}}
  plain: {credential: {kind: none}}
";

/// Pages over pins in memory or in the folder `ledger`.
pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) board: Arc<Pinboard>,
    pub(crate) pages: PinPages,
    audit: Arc<AuditSink>,
}

pub(crate) fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["policies", "grants", "credentials"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("servers.yaml"), SERVERS).unwrap();
    std::fs::write(at("token"), "0123456789abcdef\n").unwrap();
    let metrics = Metrics::new(&mut Registry::default(), 0);
    let documents = Arc::new(Documents::load(&Paths::below(folder.path()), NOW_MS).unwrap().0);
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let store = AnyStore::Folder(FolderStore::new(Some(&at("ledger"))));
    std::fs::create_dir(at("ledger")).unwrap();
    let bounds = Bounds::default();
    let board = Pinboard::new(store, Arc::clone(&documents), clock.clone(), metrics.clone(), bounds);
    let board = Arc::new(board);
    let sink = Sink::File(at("audit.jsonl"));
    let audit = Arc::new(AuditSink::open(&sink, WhenUnavailable::Deny, 65_536, metrics).unwrap());
    let desk = Arc::new(PinDesk::new(Arc::clone(&board), documents, Arc::clone(&audit), clock));
    let token = Arc::new(AdminToken::load(Some(&at("token"))).unwrap());
    Rig { folder, board, pages: PinPages { desk, token }, audit }
}

impl Rig {
    /// A complete list of the server: pairs of name and the rest of the definition.
    pub(crate) async fn list(&self, server: &str, tools: &[(&str, &str)]) {
        let view = self.board.book(server).await.unwrap().unwrap();
        let observed = tools.iter().filter_map(|(name, rest)| {
            let text = format!(r#"{{"name":{},{rest}}}"#, json!(name));
            let document = Document::parse(text.as_bytes(), Limits::default()).unwrap();
            match view.standing(name, document.root()) {
                Standing::Record(observed) => Some(observed),
                Standing::Approved | Standing::Hidden | Standing::Reported => None,
            }
        });
        let sighting = Sighting { seen: observed.collect(), is_last_page: true };
        self.board.record(server, sighting).await.unwrap();
    }

    async fn ask(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: &Value) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        let response = router(self.pages.clone()).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 24).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, uri: &str) -> (u16, Value) {
        let (status, body) = self.ask("GET", uri, &[("authorization", TOKEN)], &Value::Null).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    async fn post(&self, uri: &str, body: &Value) -> (u16, Value) {
        let headers = [("authorization", TOKEN), ("content-type", "application/json")];
        let (status, body) = self.ask("POST", uri, &headers, body).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// Every record, once all are written.
    pub(crate) fn audit(self) -> Vec<Value> {
        let Self { folder, pages, board, audit } = self;
        drop((pages, board));
        audit.close(std::time::Duration::from_secs(10)).unwrap();
        let text = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
        records(&text)
    }
}

#[tokio::test]
async fn only_whoever_has_the_token_is_answered() {
    let rig = rig();
    let json = ("content-type", "application/json");
    for (method, uri) in [
        ("GET", "/pins"),
        ("GET", "/pins/diff"),
        ("POST", "/pins/approve"),
        ("POST", "/pins/forget"),
        ("POST", "/pins/reset"),
    ] {
        assert_eq!(rig.ask(method, uri, &[json], &json!({})).await.0, 401, "{uri}");
        assert_eq!(rig.ask(method, uri, &[json, ("authorization", "Bearer 0")], &json!({})).await.0, 401, "{uri}");
    }
    for uri in ["/pins/approve", "/pins/forget", "/pins/reset"] {
        assert_eq!(rig.ask("POST", uri, &[("authorization", TOKEN)], &json!({})).await.0, 415, "{uri}");
        assert_eq!(rig.post(uri, &json!({"server": "tickets", "extra": 1})).await.0, 400, "{uri}");
        assert_eq!(rig.post(uri, &json!({})).await.0, 400, "{uri}");
        let digest = format!("sha256:{}", "0".repeat(64));
        let body = match uri {
            "/pins/approve" => json!({"server": "plain", "digest": digest}),
            "/pins/forget" => json!({"server": "plain", "tool": "x"}),
            _ => json!({"server": "plain"}),
        };
        assert_eq!(rig.post(uri, &body).await.0, 404, "{uri}: a server without pins");
    }
    assert_eq!(rig.get("/pins?server=plain").await.0, 404);
    assert_eq!(rig.get("/pins?what=x").await.0, 400);
    assert_eq!(rig.get("/pins?server=tickets&server=other").await.0, 400);
    assert_eq!(rig.get("/pins/diff").await.0, 400);
}

#[tokio::test]
async fn what_waits_is_listed_and_only_what_was_read_is_approved() {
    let rig = rig();
    rig.list("tickets", &[("a", r#""description":"one""#), ("b", r#""description":"one""#)]).await;
    rig.list(
        "tickets",
        &[
            ("a", r#""description":"two","annotations":{"x":1}"#),
            ("b", r#""description":"one""#),
            ("c", r#""title":"C""#),
        ],
    )
    .await;
    let (status, page) = rig.get("/pins").await;
    assert_eq!(status, 200);
    let [other, tickets] = [&page["servers"][1], &page["servers"][0]];
    assert_eq!(
        (&other["trust"], &other["on_change"], &other["complete"]),
        (&json!("pinned"), &json!("report"), &json!(false))
    );
    assert_eq!((&tickets["approved"], &tickets["complete"]), (&json!(2), &json!(true)));
    let kinds: Vec<&Value> = tickets["pending"].as_array().unwrap().iter().map(|row| &row["kind"]).collect();
    assert_eq!(kinds, ["changed", "new"]);
    let (_, diff) = rig.get("/pins/diff?server=tickets&tool=a").await;
    assert_eq!(
        diff["pending"][0]["changes"],
        json!([
            {"at": "/description", "old": "\"one\"", "new": "\"two\""},
            {"at": "/annotations", "old": null, "new": "{\"x\":1}"},
        ])
    );
    let digest = diff["pending"][0]["digest"].clone();
    let wrong = diff["pending"][0]["approved_digest"].clone();
    assert_eq!(rig.post("/pins/approve", &json!({"server": "tickets", "tool": "a", "digest": wrong})).await.0, 409);
    assert_eq!(rig.post("/pins/approve", &json!({"server": "tickets", "tool": "a", "digest": "a"})).await.0, 400);
    assert_eq!(rig.post("/pins/approve", &json!({"server": "tickets", "digest": digest})).await.0, 409);
    let approval = json!({"server": "tickets", "tool": "a", "digest": digest});
    assert_eq!(rig.post("/pins/approve", &approval).await, (200, json!({"server": "tickets", "approved": 1})));
    let (_, page) = rig.get("/pins?server=tickets").await;
    let all = json!({"server": "tickets", "digest": page["servers"][0]["digest"]});
    assert_eq!(rig.post("/pins/approve", &all).await.1["approved"], 1);
    assert_eq!(rig.post("/pins/approve", &all).await.0, 409, "nothing waits any more");
    assert_eq!(rig.post("/pins/forget", &json!({"server": "tickets", "tool": "c"})).await.0, 200);
    assert_eq!(rig.post("/pins/forget", &json!({"server": "tickets", "tool": "c"})).await.0, 409);
    let events: Vec<Value> = rig.audit().into_iter().map(|record| record["event_type"].clone()).collect();
    assert_eq!(events, ["pins_approve", "pins_approve", "pins_forget", "pins_forget", "pins_failed"]);
}

#[tokio::test]
async fn damage_is_told_and_mended() {
    let rig = rig();
    rig.list("tickets", &[("a", r#""title":"A""#)]).await;
    let other = self::rig();
    std::fs::create_dir(other.folder.path().join("ledger/pins")).unwrap();
    std::fs::write(other.folder.path().join("ledger/pins/tickets.pins"), "garbage").unwrap();
    let (status, page) = other.get("/pins").await;
    assert_eq!(status, 200, "other servers are listed all the same");
    assert!(page["servers"][0]["error"].as_str().unwrap().contains("mcp-authz pins reset --server tickets"), "{page}");
    assert_eq!(other.get("/pins/diff?server=tickets").await.0, 409);
    assert_eq!(other.post("/pins/reset", &json!({"server": "tickets"})).await.0, 200);
    assert_eq!(other.get("/pins?server=tickets").await.1["servers"][0]["approved"], 0);
    assert_eq!(other.audit()[0]["event_type"], "pins_reset");
}

#[tokio::test]
async fn one_answer_tells_of_a_bounded_number_of_tools() {
    let rig = rig();
    let names: Vec<String> = (0..101).map(|n| format!("t{n:03}")).collect();
    let tools: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), r#""title":"x""#)).collect();
    rig.list("other", &tools[..100]).await;
    assert_eq!(rig.get("/pins/diff?server=other").await.0, 200);
    rig.list("other", &tools).await;
    let (status, text) = rig.get("/pins/diff?server=other").await;
    assert_eq!((status, text), (400, json!("more than 100 tools wait: name one\n")));
    assert_eq!(rig.get("/pins/diff?server=other&tool=t100").await.0, 200);
}
