use std::fs;
use std::path::Path;

use bytes::Bytes;
use mcp_authz_core::{
    grant::TokenDigest,
    mcp::{Era, Method},
    pins::{Book, Bounds, OnChange, Rules, Sighting, Trust, View},
    response::Head,
};
use prometheus_client::{encoding::text, registry::Registry};

use super::{pins::Answer, *};
use crate::{
    clock::ManualClock,
    config::Paths,
    telemetry::audit::{Sink, WhenUnavailable, read_back},
};

const RESULT: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"fine"}]}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"a"},{"name":"gone"}]}}"#;
const NOW_MS: u64 = 1_000_000_000_000;

struct Rig {
    responses: Arc<Responses>,
    state: Arc<State>,
    clock: Arc<ManualClock>,
    audit: Arc<AuditSink>,
    registry: Registry,
    folder: tempfile::TempDir,
}

/// A store that never answers.
#[derive(Debug)]
struct Silent;

impl PinStore for Silent {
    fn book<'a>(&'a self, _: &'a str) -> Answer<'a, Option<View>> {
        Box::pin(std::future::pending())
    }

    fn record<'a>(&'a self, _: &'a str, _: Sighting) -> Answer<'a, View> {
        Box::pin(std::future::pending())
    }
}

/// A store that is away, after it was read.
#[derive(Debug)]
struct Away;

impl PinStore for Away {
    fn book<'a>(&'a self, server: &'a str) -> Answer<'a, Option<View>> {
        Silent.book(server)
    }

    fn last<'a>(&'a self, _: &'a str) -> Answer<'a, Option<View>> {
        let rules = Rules { trust: Trust::FirstUse, on_change: OnChange::Hide };
        Box::pin(async move { Ok(Some(Arc::new(Book::new(Arc::default(), rules, Bounds::default())) as View)) })
    }

    fn record<'a>(&'a self, server: &'a str, seen: Sighting) -> Answer<'a, View> {
        Silent.record(server, seen)
    }
}

fn keys() -> Keys {
    Keys::derive(&[7; 32])
}

fn write(folder: &Path, policy: &str, servers: &str, revoked: bool) {
    for name in ["policies", "grants", "credentials"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    fs::write(folder.join("policies/p.yaml"), policy).unwrap();
    fs::write(folder.join("servers.yaml"), servers).unwrap();
    let digest = TokenDigest::of(b"t").hex();
    let grant = format!("grants: [{{label: agent, sha256: \"{digest}\", servers: [one], revoked: {revoked}}}]\n");
    fs::write(folder.join("grants/g.yaml"), grant).unwrap();
}

const POLICY: &str = "version: '2'\ndefault: allow\nhide: [gone]\n";
const SERVERS: &str = "servers: {one: {policy: p, credential: {kind: none}}}\n";

impl Rig {
    fn new() -> Self {
        Self::with(SERVERS, Arc::new(NoPins))
    }

    fn with(servers: &str, pins: Arc<dyn PinStore>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), POLICY, servers, false);
        let (state, _) = State::load(&Paths::below(folder.path()), 0).unwrap();
        let (state, clock) = (Arc::new(state), Arc::new(ManualClock::new(NOW_MS)));
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 0);
        metrics.set_servers(state.snapshot().server_names());
        let sink = Sink::File(folder.path().join("audit"));
        let audit = Arc::new(AuditSink::open(&sink, WhenUnavailable::Count, 1 << 20, metrics.clone()).unwrap());
        let states = Arc::clone(&state);
        let clocks: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        let responses = Responses::new(states, || Arc::new(keys()), pins, clocks, metrics, Arc::clone(&audit));
        Self { responses: Arc::new(responses), state, clock, audit, registry, folder }
    }

    fn session(&self, settings: Settings) -> Session {
        Session::new(&self.responses, settings)
    }

    fn ticket(&self, asked: Asked) -> Ticket {
        let snapshot = self.state.snapshot();
        Ticket {
            issued_ms: NOW_MS,
            server: "one".into(),
            policy: "p".into(),
            policy_digest: snapshot.policy("p").unwrap().digest().prefix(),
            grant: "agent".into(),
            asked,
            era: Era::Modern,
            id: Some("7".into()),
            stream_id: Some("123".into()),
            request_id: None,
        }
    }

    fn list(&self) -> String {
        self.ticket(Asked::Request(Method::ToolsList)).sign(&keys()).unwrap()
    }

    fn call(&self) -> String {
        self.ticket(Asked::Call("a".into())).sign(&keys()).unwrap()
    }

    fn metrics(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).unwrap();
        page
    }

    fn withheld(&self, reason: &str, times: u64) -> bool {
        let line = format!("mcp_authz_response_withheld_total{{reason=\"{reason}\"}} {times}");
        self.metrics().lines().any(|shown| shown == line)
    }

    /// Every record, the sink closed.
    fn records(&self) -> Vec<serde_json::Value> {
        self.audit.close(Duration::from_secs(60)).unwrap();
        let text = fs::read_to_string(self.folder.path().join("audit")).unwrap();
        read_back::records(&text)
    }
}

const JSON: Head<'static> = Head {
    status: 200,
    content_types: &[b"application/json"],
    content_encodings: &[],
    content_length: None,
    is_end: false,
};
const EVENTS: Head<'static> = Head { content_types: &[b"text/event-stream"], ..JSON };

/// The text of an answer in place of a response, which must be one of those.
fn replaced(opened: &Opened) -> String {
    let Opened::Withheld(Replacement { body, .. }) = opened else { panic!("{opened:?}") };
    body.clone()
}

#[tokio::test]
async fn a_list_is_filtered_and_recorded() {
    let rig = Rig::new();
    let mut session = rig.session(Settings::default());
    assert_eq!(session.head(rig.list().as_bytes(), &JSON, None).await, Opened::Body);
    let (first, rest) = LIST.split_at(20);
    assert_eq!(session.chunk(Bytes::from(first), false).await, Chunk::Bytes(Vec::new()));
    assert!(rig.metrics().contains("mcp_authz_response_held_bytes 20\n") && session.came().is_none());
    let Chunk::Bytes(out) = session.chunk(Bytes::from(rest), true).await else { panic!("changed") };
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("\"a\"") && !text.contains("gone"), "{text}");
    assert!(session.came().is_some());
    assert_eq!(session.chunk(Bytes::from("more"), true).await, Chunk::Cut, "after the end");
    drop(session);
    let page = rig.metrics();
    assert!(page.contains("mcp_authz_response_held_bytes 0\n") && page.contains("mcp_authz_response_streams 0\n"));
    assert!(
        page.contains("mcp_authz_responses_total{outcome=\"ok\",server=\"one\",method=\"tools/list\"} 1\n"),
        "{page}"
    );
    let records = rig.records();
    assert_eq!(records.len(), 1);
    assert_eq!(
        ["answer", "hidden", "stream_id", "outcome"].map(|name| records[0][name].as_str().unwrap()),
        ["ok", "1", "123", "allowed"]
    );
}

#[tokio::test]
async fn every_end_leaves_one_record() {
    let rig = Rig::new();
    // Cut in the middle.
    let mut session = rig.session(Settings::default());
    session.head(rig.list().as_bytes(), &EVENTS, None).await;
    session.chunk(Bytes::from("data: {"), false).await;
    drop(session);
    // Cut before anything but the head was there.
    let mut session = rig.session(Settings::default());
    session.head(rig.list().as_bytes(), &JSON, None).await;
    drop(session);
    // Without a body.
    let mut session = rig.session(Settings::default());
    let head = Head { status: 202, is_end: true, content_types: &[], ..JSON };
    assert_eq!(session.head(rig.list().as_bytes(), &head, None).await, Opened::Pass);
    assert_eq!(session.chunk(Bytes::from("x"), true).await, Chunk::Same);
    drop(session);
    // A stream without an answer.
    let mut session = rig.session(Settings::default());
    session.head(rig.list().as_bytes(), &EVENTS, None).await;
    session.chunk(Bytes::from(": nothing\n\n"), true).await;
    drop(session);
    // Neither a message nor a ticket: nothing to record.
    drop(rig.session(Settings::default()));
    rig.session(Settings::default()).leave_alone();
    let records = rig.records();
    let outcomes: Vec<&str> = records.iter().map(|record| record["answer"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["cut", "cut", "passed", "no_answer"]);
}

#[tokio::test]
async fn a_ticket_that_is_not_ours_or_too_old_withholds() {
    let rig = Rig::new();
    let forged = rig.ticket(Asked::Call("a".into())).sign(&Keys::derive(&[8; 32])).unwrap();
    for ticket in ["", "AAAA", &forged] {
        let text = replaced(&rig.session(Settings::default()).head(ticket.as_bytes(), &JSON, None).await);
        assert!(text.contains("could not be matched") && !text.contains("\"id\""), "{text}");
    }
    assert!(rig.withheld("ticket", 3));
    let ticket = rig.call();
    rig.clock.advance_ms(AGE_MAX_MS);
    assert_eq!(rig.session(Settings::default()).head(ticket.as_bytes(), &JSON, None).await, Opened::Body);
    rig.clock.advance_ms(1);
    let text = replaced(&rig.session(Settings::default()).head(ticket.as_bytes(), &JSON, None).await);
    assert!(text.contains("\"id\":7"), "its own word is still good for the id: {text}");
    assert!(rig.withheld("ticket", 4));
}

#[tokio::test]
async fn the_policy_that_decided_judges_as_long_as_it_is_remembered() {
    let rig = Rig::new();
    let (list, call) = (rig.list(), rig.call());
    let open = "version: '2'\ndefault: allow\n";
    write(rig.folder.path(), open, SERVERS, false);
    rig.state.reload(1).unwrap();
    let filtered = async |rig: &Rig| {
        let mut session = rig.session(Settings::default());
        assert_eq!(session.head(list.as_bytes(), &JSON, None).await, Opened::Body);
        match session.chunk(Bytes::from(LIST), true).await {
            Chunk::Bytes(out) => !String::from_utf8(out).unwrap().contains("gone"),
            Chunk::Same => false,
            Chunk::Cut => panic!("cut"),
        }
    };
    assert!(filtered(&rig).await, "the new policy hides nothing");
    for n in 0..crate::state::REPLACED_MAX {
        write(rig.folder.path(), &format!("{open}# {n}\n"), SERVERS, false);
        rig.state.reload(2).unwrap();
    }
    assert!(!filtered(&rig).await, "forgotten: the one in force judges");
    write(rig.folder.path(), "version: '2'\ndefault: allow\nhide: [a]\n", SERVERS, false);
    rig.state.reload(3).unwrap();
    let opened = rig.session(Settings::default()).head(call.as_bytes(), &JSON, None).await;
    assert!(replaced(&opened).contains("no longer in force"), "a tool that it does not show");
    assert!(rig.withheld("policy", 1));
}

#[tokio::test]
async fn a_grant_that_is_gone_or_revoked_sees_nothing() {
    let rig = Rig::new();
    let ticket = rig.call();
    write(rig.folder.path(), POLICY, SERVERS, true);
    rig.state.reload(1).unwrap();
    let opened = rig.session(Settings::default()).head(ticket.as_bytes(), &JSON, None).await;
    assert!(replaced(&opened).contains("grant"));
    fs::write(rig.folder.path().join("grants/g.yaml"), "grants: []\n").unwrap();
    rig.state.reload(2).unwrap();
    let opened = rig.session(Settings::default()).head(ticket.as_bytes(), &JSON, None).await;
    assert!(replaced(&opened).contains("grant"));
    assert!(rig.withheld("grant", 2));
}

#[tokio::test(start_paused = true)]
async fn pins_that_cannot_be_read_withhold_and_nobody_waits_for_long() {
    let servers = "servers: {one: {policy: p, credential: {kind: none}, tools: {trust: first_use}}}\n";
    let rig = Rig::with(servers, Arc::new(Silent));
    let opened = rig.session(Settings::default()).head(rig.list().as_bytes(), &JSON, None).await;
    assert!(replaced(&opened).contains("definitions"));
    let none = Rig::with(servers, Arc::new(NoPins));
    let opened = none.session(Settings::default()).head(none.list().as_bytes(), &JSON, None).await;
    assert!(replaced(&opened).contains("definitions"));
    assert!(rig.withheld("pins", 1) && none.withheld("pins", 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_call_brings_does_not_hang_on_the_store_of_pins() {
    let servers = "servers: {one: {policy: p, credential: {kind: none}, tools: {trust: first_use}}}\n";
    // Only recorded, so nobody asks for pins.
    let rig = Rig::with(servers, Arc::new(Silent));
    let mut session = rig.session(Settings::default());
    assert_eq!(session.head(rig.call().as_bytes(), &JSON, None).await, Opened::Body);
    assert_eq!(session.chunk(Bytes::from(RESULT), true).await, Chunk::Same);
    // Masked: what was known last is enough.
    let rig = Rig::with(servers, Arc::new(Away));
    let policy = format!("{POLICY}mask: [{{pattern: fine, name: word}}]\n");
    write(rig.folder.path(), &policy, servers, false);
    rig.state.reload(1).unwrap();
    let mut session = rig.session(Settings::default());
    assert_eq!(session.head(rig.call().as_bytes(), &JSON, None).await, Opened::Body);
    let Chunk::Bytes(out) = session.chunk(Bytes::from(RESULT), true).await else { panic!("changed") };
    assert!(String::from_utf8(out).unwrap().contains("[word]"));
    // Lists are compared with what is there now.
    let opened = rig.session(Settings::default()).head(rig.list().as_bytes(), &JSON, None).await;
    assert!(replaced(&opened).contains("definitions"));
}

#[tokio::test]
async fn lists_of_a_server_that_is_in_no_file_any_more_are_withheld() {
    let servers = "servers: {one: {policy: p, credential: {kind: none}, tools: {trust: first_use}}}\n";
    let rig = Rig::with(servers, Arc::new(NoPins));
    let (list, call) = (rig.list(), rig.call());
    let folder = rig.folder.path();
    fs::write(folder.join("servers.yaml"), "servers: {two: {policy: p, credential: {kind: none}}}\n").unwrap();
    let grants = fs::read_to_string(folder.join("grants/g.yaml")).unwrap().replace("[one]", "[two]");
    fs::write(folder.join("grants/g.yaml"), grants).unwrap();
    rig.state.reload(2).unwrap();
    let opened = rig.session(Settings::default()).head(list.as_bytes(), &JSON, None).await;
    assert!(replaced(&opened).contains("no longer in force"));
    let opened = rig.session(Settings::default()).head(call.as_bytes(), &JSON, None).await;
    assert_eq!(opened, Opened::Body, "its calls go on");
}

#[tokio::test]
async fn only_so_many_large_pieces_are_judged_at_once() {
    let rig = Rig::new();
    let large = Bytes::from(format!("{}{LIST}", " ".repeat(200_000)));
    let mut session = rig.session(Settings::default());
    session.head(rig.list().as_bytes(), &JSON, None).await;
    let count = u32::try_from(rig.responses.judging.available_permits()).unwrap();
    let places = rig.responses.judging.acquire_many(count).await.unwrap();
    let mut judged = Box::pin(session.chunk(large, true));
    for _ in 0..100 {
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(judged.as_mut().poll(cx))).await;
        assert!(polled.is_pending(), "there is no place");
        tokio::task::yield_now().await;
    }
    drop(places);
    let Chunk::Bytes(out) = judged.await else { panic!("filtered") };
    assert!(String::from_utf8(out).unwrap().ends_with(&LIST.replace(r#",{"name":"gone"}"#, "")));
}

#[tokio::test]
async fn what_there_is_no_memory_for_is_withheld() {
    let rig = Rig::new();
    let settings = Settings { memory_bytes_max: LIST.len(), ..Settings::default() };
    let mut other = rig.session(settings);
    other.head(rig.list().as_bytes(), &JSON, None).await;
    // Exactly as much as there is room for.
    let (first, last) = LIST.split_at(LIST.len() - 1);
    assert_eq!(other.chunk(Bytes::from(first), false).await, Chunk::Bytes(Vec::new()));
    let mut session = rig.session(settings);
    session.head(rig.list().as_bytes(), &JSON, None).await;
    let Chunk::Bytes(out) = session.chunk(Bytes::from("{\"a\":1}"), false).await else { panic!("given up") };
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("[POLICY WITHHELD]") && text.contains("\"id\":7"), "{text}");
    // The rest of it comes, and none of it goes out.
    assert_eq!(session.chunk(Bytes::from("}"), true).await, Chunk::Bytes(Vec::new()));
    drop(session);
    assert!(rig.withheld("overload", 1), "{}", rig.metrics());
    assert!(matches!(other.chunk(Bytes::from(last), true).await, Chunk::Bytes(_)), "the other one goes on");
    drop(other);
    assert!(rig.metrics().contains("mcp_authz_response_held_bytes 0\n"));
}

#[tokio::test]
async fn large_pieces_are_judged_as_small_ones_are() {
    let rig = Rig::new();
    let text = RESULT.replace("fine", &"f".repeat(300_000));
    for size in [text.len(), 100_000, 4_096] {
        let mut session = rig.session(Settings::default());
        assert_eq!(session.head(rig.list().as_bytes(), &JSON, None).await, Opened::Body);
        let (mut out, mut rest) = (Vec::new(), text.as_bytes());
        while let Some((piece, next)) =
            rest.split_at_checked(size.min(rest.len())).filter(|(piece, _)| !piece.is_empty())
        {
            let piece = Bytes::copy_from_slice(piece);
            match session.chunk(piece.clone(), next.is_empty()).await {
                Chunk::Same => out.extend_from_slice(&piece),
                Chunk::Bytes(bytes) => out.extend(bytes),
                Chunk::Cut => panic!("cut"),
            }
            rest = next;
        }
        let out = String::from_utf8(out).unwrap();
        assert!(out.len() > 300 && out.contains("\"id\":7"), "{size}: {}", out.len());
    }
}

#[tokio::test]
async fn trailers_in_the_place_of_an_end_lose_what_is_held_back() {
    let rig = Rig::new();
    let mut session = rig.session(Settings::default());
    session.head(rig.list().as_bytes(), &JSON, None).await;
    session.chunk(Bytes::from(LIST), false).await;
    assert!(session.trailers(), "the list is held back, and can never leave");
    drop(session);
    assert!(rig.withheld("trailers", 1));
    let mut session = rig.session(Settings::default());
    session.head(rig.list().as_bytes(), &EVENTS, None).await;
    session.chunk(Bytes::from(": nothing\n\n"), false).await;
    assert!(!session.trailers(), "every event has left");
}

#[tokio::test]
async fn an_obstacle_withholds_whatever_the_ticket_says() {
    let rig = Rig::new();
    for (reason, word) in [(WithheldReason::Mode, "operator"), (WithheldReason::Overload, "no room")] {
        let opened = rig.session(Settings::default()).head(rig.call().as_bytes(), &JSON, Some(reason)).await;
        let text = replaced(&opened);
        assert!(text.contains(word) && text.contains("\"id\":7") && text.contains("may have run"), "{text}");
    }
    assert!(rig.withheld("mode", 1) && rig.withheld("overload", 1));
}
