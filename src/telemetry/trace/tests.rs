use prometheus_client::registry::Registry;

use super::*;
use crate::{
    clock::ManualClock,
    telemetry::{
        metrics::{Metrics, Signal},
        otlp::{
            settings::Batch,
            tests::{Span as Read, attributes, settings, spans},
        },
        trace::sampler::Ratio,
    },
};

const NOW_MS: u64 = 1_800_000_000_000;
const PARENT: TraceContext = TraceContext { trace_id: [7; 16], span_id: [8; 8], sampled: true };

/// A tracer, and what it hands over.
pub(crate) struct Rig {
    pub(crate) tracer: Tracer,
    queue: Arc<Batcher>,
}

impl Rig {
    pub(crate) fn new(sampler: Sampler, is_store_shared: bool) -> Self {
        let metrics = Metrics::new(&mut Registry::default(), 0);
        let queue = Arc::new(Batcher::new(Signal::Traces, Batch::default(), metrics));
        let mut settings = settings([]);
        settings.sampler = sampler;
        let clock = Arc::new(ManualClock::new(NOW_MS));
        Self { tracer: Tracer::new(Arc::clone(&queue), &settings, clock, is_store_shared), queue }
    }

    pub(crate) fn taken(&self) -> Vec<Read> {
        spans(&self.queue.drain())
    }
}

pub(crate) fn all() -> Rig {
    Rig::new(Sampler::default(), false)
}

fn facts() -> CheckFacts<'static> {
    CheckFacts {
        method: "tools/call",
        version: Some("2026-07-28"),
        id: Some("\"a-1\""),
        tool: Some("refund"),
        is_tool_known: true,
        server: Some("billing"),
        grant: Some("agent"),
        policy: Some("support"),
        policy_digest: Some("sha256:0a"),
        stream_id: Some("123"),
        is_held: true,
        ..CheckFacts::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_is_a_span_with_its_steps_in_their_time() {
    let rig = Rig::new(Sampler::default(), true);
    let received = Instant::now();
    let after = |us: u64| tokio::time::advance(Duration::from_micros(us));
    let mut span = rig.tracer.check(Some(PARENT), b"123", received);
    let context = span.context().unwrap();
    assert_eq!((context.trace_id, context.sampled), (PARENT.trace_id, true));
    after(1).await;
    span.enter(Step::Identity);
    after(2).await;
    span.enter(Step::Parse);
    after(3).await;
    span.enter(Step::Evaluate);
    after(4).await;
    span.enter(Step::Reserve);
    after(5).await;
    span.leave();
    after(6).await;
    span.enter(Step::Credential);
    after(7).await;
    span.finish(&facts());
    drop(span);
    let spans = rig.taken();
    let shown: Vec<(&str, i32, u64, u64)> =
        spans.iter().map(|span| (span.name.as_str(), span.kind, end_us(span.start_ns), end_us(span.end_ns))).collect();
    let expected = [
        ("tools/call refund", 2, 28, 0),
        ("mcp_authz.identity", 1, 27, 25),
        ("mcp_authz.parse", 1, 25, 22),
        ("mcp_authz.evaluate", 1, 22, 18),
        ("mcp_authz.reserve", 3, 18, 13),
        ("mcp_authz.credential", 1, 7, 0),
    ];
    assert_eq!(shown, expected, "µs before the end");
    let check = &spans[0];
    assert_eq!((&check.parent_span_id[..], &check.span_id[..]), (&PARENT.span_id[..], &context.span_id[..]));
    assert_eq!((check.flags, &check.status, &check.trace_state), (0x301, &None, &String::new()));
    for step in &spans[1..] {
        assert_eq!((&step.parent_span_id, &step.trace_id, step.flags), (&check.span_id, &check.trace_id, 0x101));
    }
    let reserve = attributes(&spans[4].attributes);
    assert_eq!(reserve.get("db.system.name").map(String::as_str), Some("redis"));
    let mut ids: Vec<&Vec<u8>> = spans.iter().map(|span| &span.span_id).collect();
    ids.dedup();
    assert_eq!(ids.len(), spans.len());
}

fn end_us(ns: u64) -> u64 {
    u64::try_from(Duration::from_millis(NOW_MS).saturating_sub(Duration::from_nanos(ns)).as_micros()).unwrap()
}

#[test]
fn the_attributes_of_an_allowed_call_are_these_and_no_others() {
    let rig = all();
    rig.tracer.check(Some(PARENT), b"123", Instant::now()).finish(&facts());
    let spans = rig.taken();
    let expected = [
        ("gen_ai.tool.name", "refund"),
        ("jsonrpc.request.id", "a-1"),
        ("mcp.method.name", "tools/call"),
        ("mcp.protocol.version", "2026-07-28"),
        ("mcp_authz.decision", "allow"),
        ("mcp_authz.grant", "agent"),
        ("mcp_authz.policy", "support"),
        ("mcp_authz.policy.digest", "sha256:0a"),
        ("mcp_authz.reason", "allowed"),
        ("mcp_authz.reservation.id", "123"),
        ("mcp_authz.server", "billing"),
        ("mcp_authz.stream_id", "123"),
        ("rpc.system.name", "grpc"),
    ];
    let said: Vec<(&str, String)> = attributes(&spans[0].attributes).into_iter().collect();
    assert_eq!(said, expected.map(|(key, value)| (key, value.to_owned())));
}

#[test]
fn a_denial_is_no_error_and_a_failure_to_decide_is_one() {
    let rig = all();
    let end = |facts: CheckFacts<'_>| {
        rig.tracer.check(Some(PARENT), b"1", Instant::now()).finish(&facts);
        rig.taken().remove(0)
    };
    let denied = end(CheckFacts { reason: Some(Reason::Condition), rule: Some("/tools/refund/deny_if/0"), ..facts() });
    let said = attributes(&denied.attributes);
    assert_eq!((said["mcp_authz.decision"].as_str(), said["mcp_authz.reason"].as_str()), ("deny", "condition"));
    assert_eq!(said["mcp_authz.rule"], "/tools/refund/deny_if/0");
    assert!(denied.status.is_none() && !said.contains_key("error.type"));
    let failed =
        end(CheckFacts { reason: Some(Reason::LedgerUnavailable), is_failure: true, is_unmetered: true, ..facts() });
    let said = attributes(&failed.attributes);
    assert_eq!((said["error.type"].as_str(), said["mcp_authz.unmetered"].as_str()), ("ledger_unavailable", "true"));
    assert_eq!(failed.status.map(|status| (status.code, status.message)), Some((2, String::new())));
}

#[test]
fn the_name_of_a_span_is_never_the_clients() {
    let rig = all();
    let name = |facts: CheckFacts<'_>| {
        rig.tracer.check(Some(PARENT), b"1", Instant::now()).finish(&facts);
        rig.taken().remove(0).name
    };
    assert_eq!(name(CheckFacts { is_tool_known: false, tool: Some("evil\n"), ..facts() }), "tools/call _other");
    assert_eq!(name(CheckFacts { tool: None, prompt: Some("evil"), method: "prompts/get", ..facts() }), "prompts/get");
}

#[test]
fn texts_of_the_wire_are_made_fit_and_cut() {
    let rig = all();
    let said = |tool: &str, id: &str| {
        rig.tracer.check(Some(PARENT), b"1", Instant::now()).finish(&CheckFacts {
            tool: Some(tool),
            id: Some(id),
            ..facts()
        });
        let spans = rig.taken();
        let said = attributes(&spans[0].attributes);
        (said["gen_ai.tool.name"].clone(), said["jsonrpc.request.id"].clone())
    };
    assert_eq!(said(&"t".repeat(128), &"1".repeat(64)), ("t".repeat(128), "1".repeat(64)));
    assert_eq!(said(&"t".repeat(129), &"1".repeat(65)), ("t".repeat(128), "1".repeat(64)));
    assert_eq!(said(&format!("{}ü", "t".repeat(127)), "7").0, "t".repeat(127), "whole characters");
    assert_eq!(said("a\u{1b}[31m\n", "\"\u{202e}\""), ("a\\u{1b}[31m\\u{a}".to_owned(), "\\u{202e}".to_owned()));
    assert!(said(&"\n".repeat(4_096), "7").0.len() <= 128);
}

#[test]
fn what_is_not_sampled_is_not_recorded() {
    let rig = Rig::new(Sampler { heeds_parent: true, ratio: Ratio::NONE }, false);
    let unsampled = TraceContext { sampled: false, ..PARENT };
    for parent in [Some(unsampled), None] {
        let mut span = rig.tracer.check(parent, b"1", Instant::now());
        assert!(!span.is_recorded() && span.context().is_none());
        span.enter(Step::Parse);
        span.link(LinkFrom::Meta, PARENT);
        span.finish(&facts());
        rig.tracer.response(
            parent,
            Instant::now(),
            &ResponseFacts { stream_id: Some("1"), ..ResponseFacts::default() },
        );
    }
    assert_eq!(rig.taken(), []);
    let off = Tracer::off();
    assert!(!off.is_on() && !off.check(Some(PARENT), b"1", Instant::now()).is_recorded());
    let mut recorded = rig.tracer.check(Some(PARENT), b"1", Instant::now());
    recorded.finish(&facts());
    assert_eq!(rig.taken().len(), 1, "the flag of the parent decides");
}

#[test]
fn without_a_parent_the_stream_names_the_trace_and_the_response_finds_it() {
    let (check, elsewhere) = (all(), all());
    check.tracer.check(None, b"123", Instant::now()).finish(&facts());
    elsewhere.tracer.response(
        None,
        Instant::now(),
        &ResponseFacts { stream_id: Some("123"), ..ResponseFacts::default() },
    );
    let (check, response) = (check.taken().remove(0), elsewhere.taken().remove(0));
    assert_eq!((check.parent_span_id.len(), check.flags), (0, 0x101));
    assert_eq!((&response.trace_id, &response.parent_span_id), (&check.trace_id, &check.span_id));
    assert_ne!(response.span_id, check.span_id);
    let rig = all();
    (0..2).for_each(|_| rig.tracer.check(None, b"", Instant::now()).finish(&facts()));
    let spans = rig.taken();
    assert_ne!(spans[0].trace_id, spans[1].trace_id, "without an id of a stream each is alone");
}

#[test]
fn a_context_is_not_read_where_operators_say_so() {
    let metrics = Metrics::new(&mut Registry::default(), 0);
    let queue = Arc::new(Batcher::new(Signal::Traces, Batch::default(), metrics));
    let settings = settings([("OTEL_PROPAGATORS", "none")]);
    let tracer = Tracer::new(Arc::clone(&queue), &settings, Arc::new(ManualClock::new(NOW_MS)), false);
    tracer.check(Some(PARENT), b"1", Instant::now()).finish(&facts());
    let span = spans(&queue.drain()).remove(0);
    assert_ne!(span.trace_id, PARENT.trace_id);
    assert_eq!(span.parent_span_id.len(), 0);
}

#[test]
fn the_clients_own_traces_are_linked_and_nothing_more() {
    let rig = all();
    let other = |byte: u8| TraceContext { trace_id: [byte; 16], span_id: [byte; 8], sampled: byte == 1 };
    let mut span = rig.tracer.check(Some(PARENT), b"1", Instant::now());
    span.link(LinkFrom::Header, TraceContext { span_id: [9; 8], ..PARENT });
    span.link(LinkFrom::Header, other(1));
    span.link(LinkFrom::Meta, other(1));
    span.link(LinkFrom::Meta, other(2));
    span.link(LinkFrom::Meta, other(3));
    span.finish(&facts());
    let check = rig.taken().remove(0);
    assert_eq!(check.trace_id, PARENT.trace_id);
    let links: Vec<_> = check
        .links
        .iter()
        .map(|link| {
            (link.trace_id[0], link.span_id[0], link.flags, attributes(&link.attributes)["mcp_authz.link"].clone())
        })
        .collect();
    assert_eq!(links, [(1, 1, 0x301, "header".to_owned()), (2, 2, 0x300, "meta".to_owned())]);
}

#[test]
fn a_check_that_is_given_up_says_so() {
    let rig = all();
    let mut span = rig.tracer.check(Some(PARENT), b"1", Instant::now());
    span.enter(Step::Identity);
    drop(span);
    let mut span = rig.tracer.check(Some(PARENT), b"1", Instant::now());
    span.set_method("tools/call");
    drop(span);
    let spans = rig.taken();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["cancelled", "mcp_authz.identity", "tools/call"]);
    let said = attributes(&spans[2].attributes);
    assert_eq!(
        said.into_iter().collect::<Vec<_>>(),
        [
            ("error.type", "cancelled".to_owned()),
            ("mcp.method.name", "tools/call".to_owned()),
            ("rpc.system.name", "grpc".to_owned()),
        ]
    );
    assert!(!attributes(&spans[0].attributes).contains_key("mcp.method.name"));
    assert_eq!(spans[2].status.as_ref().map(|status| status.code), Some(2));
}

#[test]
fn more_steps_than_there_is_room_for_are_left_out() {
    let rig = all();
    let mut span = rig.tracer.check(Some(PARENT), b"1", Instant::now());
    (0..=MARKS_MAX).for_each(|_| span.enter(Step::Parse));
    span.finish(&facts());
    assert_eq!(rig.taken().len(), 1 + MARKS_MAX);
}

#[test]
fn a_response_is_a_span_under_the_call_that_shows_it() {
    let rig = all();
    let facts = ResponseFacts {
        outcome: "withheld",
        withheld: Some("overload"),
        is_failure: true,
        method: Some("tools/call"),
        tool: Some("refund"),
        server: Some("billing"),
        grant: Some("agent"),
        policy: Some("support"),
        policy_digest: Some("sha256:0a"),
        stream_id: Some("123"),
    };
    rig.tracer.response(Some(PARENT), Instant::now(), &facts);
    rig.tracer.response(
        Some(PARENT),
        Instant::now(),
        &ResponseFacts { withheld: Some("blocked"), is_failure: false, ..facts },
    );
    let spans = rig.taken();
    let [failed, withheld] = &spans[..] else { panic!("two") };
    assert_eq!(
        (failed.name.as_str(), failed.kind, &failed.parent_span_id[..]),
        ("mcp_authz.response", 2, &PARENT.span_id[..])
    );
    let keys: Vec<&str> = attributes(&failed.attributes).into_keys().collect();
    assert_eq!(
        keys,
        [
            "error.type",
            "gen_ai.tool.name",
            "mcp.method.name",
            "mcp_authz.grant",
            "mcp_authz.outcome",
            "mcp_authz.policy",
            "mcp_authz.policy.digest",
            "mcp_authz.server",
            "mcp_authz.stream_id",
            "mcp_authz.withheld",
        ]
    );
    assert_eq!((failed.status.is_some(), withheld.status.is_some()), (true, false));
    assert!(!attributes(&withheld.attributes).contains_key("error.type"));
}

#[test]
fn a_settlement_is_a_child_of_its_check_and_of_no_other() {
    let rig = Rig::new(Sampler { heeds_parent: false, ratio: Ratio::NONE }, true);
    let facts = SettlementFacts {
        outcome: "refunded",
        is_failure: false,
        is_asked: true,
        reservation: "123",
        policy: "support",
    };
    rig.tracer.settlement(Some(PARENT), Instant::now(), &facts);
    rig.tracer.settlement(Some(PARENT), Instant::now(), &SettlementFacts { is_asked: false, ..facts });
    rig.tracer.settlement(
        Some(PARENT),
        Instant::now(),
        &SettlementFacts { is_failure: true, outcome: "failed", ..facts },
    );
    rig.tracer.settlement(None, Instant::now(), &facts);
    let spans = rig.taken();
    assert_eq!(spans.iter().map(|span| span.kind).collect::<Vec<_>>(), [3, 1, 3]);
    for span in &spans {
        assert_eq!((&span.trace_id[..], &span.parent_span_id[..]), (&PARENT.trace_id[..], &PARENT.span_id[..]));
        assert_eq!(span.name, "mcp_authz.settle");
    }
    let said = attributes(&spans[0].attributes);
    assert_eq!((said["mcp_authz.outcome"].as_str(), said["mcp_authz.reservation.id"].as_str()), ("refunded", "123"));
    assert_eq!(attributes(&spans[2].attributes)["error.type"], "failed");
}
