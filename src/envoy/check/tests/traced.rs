//! Spans of Checks, responses and settlements as the adapter records them.

use mcp_authz_core::settle::{Facts, Fate};

use super::*;
use crate::{
    quota::{Keys, ReservationId},
    settle::Seen,
    telemetry::{
        otlp::tests::{Span as Read, attributes},
        trace::{
            sampler::{Ratio, Sampler},
            tests::{Rig as Traces, all},
        },
    },
};

const PARENT: TraceContext = TraceContext { trace_id: [0xab; 16], span_id: [0xcd; 8], sampled: true };
const CLIENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const SECOND: &str = "00-1bf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// A rig whose Checks are recorded.
fn traced(traces: &Traces) -> Rig {
    let rig = rig(SETTINGS);
    Rig { adapter: rig.adapter.with_tracer(traces.tracer.clone()), ..rig }
}

impl Rig {
    async fn under(&self, trace: Option<TraceContext>, http: HttpRequest) -> CheckResponse {
        let meta = CallMeta { received: Instant::now(), grpc_timeout: None, trace };
        self.adapter.check(asked(http, &[("server", "one")]), meta).await.sent()
    }

    /// The token on the answer, read.
    fn token(&self, response: &CheckResponse) -> Token {
        let fields = &response.dynamic_metadata.as_ref().unwrap().fields;
        let field = fields.iter().find(|field| field.name == logged::TOKEN_KEY).unwrap();
        let Some(Kind::Text(text)) = field.value.as_ref().and_then(|value| value.kind.as_ref()) else { panic!("text") };
        Token::read(text.as_bytes(), &Keys::clone(&self.ledger.keys())).unwrap()
    }
}

fn names(spans: &[Read]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

#[tokio::test]
async fn an_allowed_call_has_all_its_steps_and_its_token_names_its_span() {
    let traces = all();
    let rig = traced(&traces);
    assert!(rig.adapter.wants_traces());
    let response = rig.under(Some(PARENT), request(CALL)).await;
    assert_eq!(verdict(&response), "allow");
    let spans = traces.taken();
    let steps = ["identity", "parse", "evaluate", "reserve", "credential"].map(|step| format!("mcp_authz.{step}"));
    assert_eq!(names(&spans)[1..], steps);
    let check = &spans[0];
    assert_eq!((check.name.as_str(), &check.trace_id[..]), ("tools/call once", &PARENT.trace_id[..]));
    let said = attributes(&check.attributes);
    for (key, value) in [
        ("mcp_authz.server", "one"),
        ("mcp_authz.grant", "agent"),
        ("mcp_authz.policy", "p"),
        ("mcp_authz.reservation.id", "123"),
        ("mcp_authz.decision", "allow"),
        ("jsonrpc.request.id", "7"),
        ("gen_ai.tool.name", "once"),
    ] {
        assert_eq!(said.get(key).map(String::as_str), Some(value), "{key}");
    }
    let trace = rig.token(&response).trace.unwrap();
    assert_eq!((&trace.trace_id[..], &trace.span_id[..]), (&check.trace_id[..], &check.span_id[..]));
    let audit = rig.audit();
    let record = &records(&audit)[0];
    let parts = [&record["trace_id"], &record["span_id"]].map(|id| id.as_str().unwrap());
    assert_eq!(format!("00-{}-{}-01", parts[0], parts[1]), trace.traceparent(), "the record leads to the trace");
}

#[tokio::test]
async fn what_envoy_does_not_sample_leaves_no_span_and_no_trace_in_the_token() {
    let traces = all();
    let rig = traced(&traces);
    let response = rig.under(Some(TraceContext { sampled: false, ..PARENT }), request(CALL)).await;
    assert_eq!((rig.token(&response).trace, traces.taken().len()), (None, 0));
    let never = Traces::new(Sampler { heeds_parent: true, ratio: Ratio::NONE }, false);
    let rig = traced(&never);
    rig.under(None, request(CALL)).await;
    assert_eq!(never.taken().len(), 0);
    let off = super::rig(SETTINGS);
    assert!(!off.adapter.wants_traces());
    assert_eq!(off.token(&off.under(Some(PARENT), request(CALL)).await).trace, None);
}

/// Trace and span of a record.
fn place(record: &Json) -> (&str, &str) {
    (record["trace_id"].as_str().unwrap_or_default(), record["span_id"].as_str().unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn records_of_a_recorded_call_name_its_span_and_others_name_none() {
    let traces = all();
    let rig = traced(&traces);
    let held = rig.under(Some(PARENT), request(CALL)).await;
    rig.adapter.logged(&log_entry(&held, &[]));
    rig.under(Some(PARENT), without(request(CALL), "authorization")).await;
    let checks: Vec<Read> = traces.taken().into_iter().filter(|span| span.kind == 2).collect();
    let [allowed, denied] = &checks[..] else { panic!("{checks:?}") };
    let free = HttpRequest { id: Bytes::from_static(b"125"), ..request(&CALL.replace("once", "free")) };
    let unsampled = rig.under(Some(TraceContext { sampled: false, ..PARENT }), free).await;
    assert_eq!(verdict(&unsampled), "allow");
    rig.adapter.logged(&log_entry(&unsampled, &[]));
    let records = records(&rig.audit());
    let trace = hex(&PARENT.trace_id);
    let (first, second) = (hex(&allowed.span_id), hex(&denied.span_id));
    let [call, outcome, refusal, rest @ ..] = &records[..] else { panic!("{records:?}") };
    assert_eq!((call["outcome"].as_str(), place(call)), (Some("allowed"), (&*trace, &*first)));
    assert_eq!((outcome["event_type"].as_str(), place(outcome)), (Some("outcome"), (&*trace, &*first)));
    assert_eq!((refusal["outcome"].as_str(), place(refusal)), (Some("denied"), (&*trace, &*second)));
    assert_eq!(rest.iter().map(place).collect::<Vec<_>>(), [("", ""); 2], "{rest:?}");
}

#[tokio::test]
async fn denials_and_failures_end_where_they_end() {
    let traces = all();
    let rig = traced(&traces);
    rig.under(Some(PARENT), without(request(CALL), "authorization")).await;
    let spans = traces.taken();
    assert_eq!(names(&spans), ["_none", "mcp_authz.identity"]);
    let said = attributes(&spans[0].attributes);
    assert_eq!((said["mcp_authz.reason"].as_str(), said["mcp_authz.rule"].as_str()), ("token_missing", "(identity)"));
    assert!(spans[0].status.is_none());

    let unknown = CALL.replace("once", "unnamed");
    rig.under(Some(PARENT), request(&unknown)).await;
    let spans = traces.taken();
    assert_eq!(names(&spans), ["tools/call _other", "mcp_authz.identity", "mcp_authz.parse", "mcp_authz.evaluate"]);
    assert_eq!(attributes(&spans[0].attributes)["mcp_authz.reason"], "default_deny");

    rig.under(Some(PARENT), request("{")).await;
    assert_eq!(names(&traces.taken()), ["_none", "mcp_authz.identity", "mcp_authz.parse"]);

    let full = Settings { checks_in_flight_max: 0, ..SETTINGS };
    let crowded = super::rig(full);
    let crowded = Rig { adapter: crowded.adapter.with_tracer(traces.tracer.clone()), ..crowded };
    crowded.under(Some(PARENT), request(CALL)).await;
    let spans = traces.taken();
    assert_eq!(attributes(&spans[0].attributes)["error.type"], "overload");
    assert_eq!(spans[0].status.as_ref().map(|status| status.code), Some(2));
}

#[tokio::test]
async fn the_clients_traces_are_linked_from_header_and_message() {
    let traces = all();
    let rig = traced(&traces);
    let body = CALL.replace("\"arguments\"", &format!("\"_meta\":{{\"traceparent\":\"{SECOND}\"}},\"arguments\""));
    rig.under(Some(PARENT), with(request(&body), "traceparent", CLIENT)).await;
    let check = traces.taken().remove(0);
    assert_eq!(check.trace_id, PARENT.trace_id);
    let from = |at: usize| attributes(&check.links[at].attributes)["mcp_authz.link"].clone();
    assert_eq!((check.links.len(), from(0), from(1)), (2, "header".to_owned(), "meta".to_owned()));
    assert_eq!((check.links[0].trace_id[0], check.links[1].trace_id[0]), (0x0a, 0x1b));

    let twice = with(with(request(CALL), "traceparent", CLIENT), "traceparent", SECOND);
    rig.under(Some(PARENT), twice).await;
    rig.under(Some(PARENT), with(request(CALL), "traceparent", "canary")).await;
    let spans = traces.taken();
    assert!(spans.iter().all(|span| span.links.is_empty()), "neither two headers nor a bad one");
    let list = r#"{"jsonrpc":"2.0","id":7,"method":"prompts/get","params":{"name":"p","_meta":{"traceparent":7}}}"#;
    rig.under(Some(PARENT), request(list)).await;
    let spans = traces.taken();
    assert_eq!((spans[0].name.as_str(), spans[0].links.len()), ("prompts/get", 0));
    assert_eq!(attributes(&spans[0].attributes)["gen_ai.prompt.name"], "p");
}

/// Everything a client can put into a request that must not leave.
#[tokio::test]
async fn no_span_holds_what_is_the_clients_alone() {
    let traces = all();
    let rig = traced(&traces);
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"once","arguments":{"canary":"canary"},"_meta":{"canary":1}}}"#;
    let read = r#"{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"file:///canary"}}"#;
    let other = r#"{"jsonrpc":"2.0","id":7,"method":"canary","params":{}}"#;
    for body in [call, read, other, "canary", "{\"canary\":1}"] {
        let http = ["mcp-session-id", "x-request-id", "tracestate", "baggage", "cookie", "mcp-protocol-version"]
            .into_iter()
            .fold(without(request(body), "x-request-id"), |http, name| with(http, name, "canary"));
        rig.under(Some(PARENT), http).await;
    }
    let mut http = request(call);
    http.path = Bytes::from_static(b"/canary");
    http.host = Bytes::from_static(b"canary");
    http.method = Bytes::from_static(b"CANARY");
    rig.under(Some(PARENT), http).await;
    let spans = traces.taken();
    assert!(spans.len() > 12, "{}", spans.len());
    let shown = format!("{spans:?}").to_lowercase();
    assert!(!shown.contains("canary") && !shown.contains(TOKEN) && !shown.contains("upstream-secret"), "{shown}");
}

#[tokio::test]
async fn a_check_that_envoy_gives_up_is_recorded_as_such() {
    let traces = all();
    let rig = traced(&traces);
    let meta = CallMeta { received: Instant::now(), grpc_timeout: None, trace: Some(PARENT) };
    drop(rig.adapter.check(asked(request(CALL), &[("server", "one")]), meta));
    assert_eq!(traces.taken().len(), 0, "it had not begun");
    let late = CallMeta { grpc_timeout: Some(Duration::ZERO), ..meta };
    let response = rig.adapter.check(asked(request(CALL), &[("server", "one")]), late).await.sent();
    assert_eq!(verdict(&response), "200 deadline");
    let spans = traces.taken();
    assert_eq!(attributes(&spans[0].attributes)["error.type"], "deadline");
}

#[tokio::test]
async fn the_settlement_of_a_recorded_call_is_in_its_trace() {
    let traces = all();
    let rig = traced(&traces);
    let response = rig.under(Some(PARENT), request(CALL)).await;
    let check = traces.taken().remove(0);
    let token = rig.token(&response);
    assert_eq!(token.booking.id, ReservationId::from_envoy("123").unwrap());
    let settler = Settler {
        ledger: Arc::clone(&rig.ledger),
        clock: Arc::clone(&rig.adapter.clock),
        metrics: rig.adapter.metrics.clone(),
        audit: Arc::clone(&rig.adapter.audit),
        hold: Duration::from_secs(60),
    };
    let (settlements, settling) = settler.start_traced(traces.tracer.clone());
    let text = token.sign(&rig.ledger.keys()).unwrap();
    let plain = Token { trace: None, ..token }.sign(&rig.ledger.keys()).unwrap();
    let ended = |fate: Fate| Seen::Ended(Facts { fate, attempts: 1, came: None });
    settlements.offer(text.as_bytes(), ended(Fate::Answered(200)));
    settlements.offer(plain.as_bytes(), ended(Fate::Answered(200)));
    settlements.offer(text.as_bytes(), ended(Fate::NotSent));
    settlements.offer(text.as_bytes(), Seen::Running);
    drop(settlements);
    settling.await;
    let spans = traces.taken();
    let outcomes: Vec<String> =
        spans.iter().map(|span| attributes(&span.attributes)["mcp_authz.outcome"].clone()).collect();
    assert_eq!(outcomes, ["confirmed", "refunded"], "of those whose token has a trace");
    for span in &spans {
        assert_eq!((&span.trace_id, &span.parent_span_id), (&check.trace_id, &check.span_id));
    }
    let records = records(&rig.audit());
    let settled = records.iter().find(|record| record["settled"] == "refunded").unwrap();
    assert_eq!(place(settled), (&*hex(&check.trace_id), &*hex(&check.span_id)));
}

#[tokio::test]
async fn a_response_is_recorded_under_the_call_that_shows_it_and_only_if_it_is_sampled() {
    let traces = all();
    let rig = traced(&traces);
    let responses = Responses::new(
        Arc::clone(&rig.adapter.state),
        || Arc::new(Keys::derive(&[7; 32])),
        Arc::new(response::NoPins),
        Arc::clone(&rig.adapter.clock),
        rig.adapter.metrics.clone(),
        Arc::clone(&rig.adapter.audit),
    );
    let responses = Arc::new(responses.with_tracer(traces.tracer.clone()));
    let head = mcp_authz_core::response::Head {
        status: 200,
        content_types: &[b"application/json"],
        content_encodings: &[],
        content_length: None,
        is_end: false,
    };
    for trace in [Some(PARENT), Some(TraceContext { sampled: false, ..PARENT })] {
        let mut session = Session::new(&responses, RESPONSE).under(trace);
        // A ticket that is not ours: the response is withheld.
        session.head(b"forged", &head, None).await;
        drop(session);
    }
    let mut alone = Session::new(&responses, RESPONSE).under(Some(PARENT));
    alone.leave_alone();
    drop(alone);
    let spans = traces.taken();
    assert_eq!(names(&spans), ["mcp_authz.response"]);
    let said = attributes(&spans[0].attributes);
    assert_eq!((said["mcp_authz.outcome"].as_str(), said["mcp_authz.withheld"].as_str()), ("withheld", "ticket"));
    assert_eq!((said["error.type"].as_str(), &spans[0].parent_span_id[..]), ("ticket", &PARENT.span_id[..]));
    let records = records(&rig.audit());
    let (trace, span) = (hex(&PARENT.trace_id), hex(&spans[0].span_id));
    assert_eq!(records.iter().map(place).collect::<Vec<_>>(), [(&*trace, &*span), ("", "")], "{records:?}");
}
