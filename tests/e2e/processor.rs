//! Messages about responses that no Envoy of ours would send: each is answered, and what cannot be judged does not pass.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, HttpTrailers, ImmediateResponse, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::grpc::{check, http};
use super::harness::authz::{Authz, Grant, Settings};
use super::harness::envoy::Authorizer;
use super::harness::until;

struct Rig {
    authz: Authz,
    channel: Channel,
    _dir: tempfile::TempDir,
}

async fn start(config: &str) -> Rig {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let policy = "version: '2'\ndefault: allow\nhide: [secret_tool]\n";
    let settings = Settings {
        tcp: true,
        config: config.to_owned(),
        policies: vec![("main.yaml".to_owned(), policy.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    };
    let authz = Authz::start(dir.path(), &settings).await;
    let Authorizer::Tcp(address) = &authz.listener else { panic!("asked for TCP") };
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect().await;
    Rig { authz, channel: channel.expect("it listens"), _dir: dir }
}

fn text(fields: &HashMap<String, Value>, name: &str) -> Option<String> {
    let Kind::StringValue(text) = fields.get(name)?.kind.clone()? else { return None };
    Some(text)
}

impl Rig {
    async fn check(&self, tool: &str) -> CheckResponse {
        let answer = AuthorizationClient::new(self.channel.clone()).check(check(http(tool, "17"))).await;
        answer.expect("an answer").into_inner()
    }

    /// The metadata of the decision about a call.
    async fn decided(&self, tool: &str) -> HashMap<String, Value> {
        self.check(tool).await.dynamic_metadata.expect("metadata").fields
    }

    async fn open(&self) -> Response {
        let (messages, stream) = mpsc::channel(16);
        let opened = ExternalProcessorClient::new(self.channel.clone()).process(ReceiverStream::new(stream)).await;
        Response { messages, answers: opened.expect("it serves").into_inner(), is_first: true }
    }

    async fn withheld(&self, reason: &str, times: u64) {
        let line = format!("mcp_authz_response_withheld_total{{reason=\"{reason}\"}} {times}");
        until(&line, async || {
            self.authz.admin("/metrics").await.text().lines().any(|shown| shown == line).then_some(())
        })
        .await;
    }
}

/// A stream of Envoy's.
struct Response {
    messages: mpsc::Sender<ProcessingRequest>,
    answers: Streaming<ProcessingResponse>,
    is_first: bool,
}

impl Response {
    async fn ask(&mut self, part: Part, fields: HashMap<String, Value>) -> Result<ProcessingResponse, Code> {
        self.ask_in(part, fields, Some(BodySendMode::Streamed)).await
    }

    async fn ask_in(
        &mut self,
        part: Part,
        fields: HashMap<String, Value>,
        mode: Option<BodySendMode>,
    ) -> Result<ProcessingResponse, Code> {
        let filter_metadata = HashMap::from([("envoy.filters.http.ext_authz".to_owned(), Struct { fields })]);
        let protocol_config = mode
            .filter(|_| self.is_first)
            .map(|mode| ProtocolConfiguration { response_body_mode: mode.into(), ..ProtocolConfiguration::default() });
        self.is_first = false;
        self.tell(ProcessingRequest {
            request: Some(part),
            metadata_context: Some(Metadata { filter_metadata, ..Metadata::default() }),
            protocol_config,
            ..ProcessingRequest::default()
        })
        .await
    }

    async fn tell(&mut self, message: ProcessingRequest) -> Result<ProcessingResponse, Code> {
        self.messages.send(message).await.expect("the stream is open");
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => panic!("a good end: Envoy would let the rest pass"),
            Err(status) => Err(status.code()),
        }
    }

    async fn body(&mut self, bytes: &str, end_of_stream: bool) -> Result<ProcessingResponse, Code> {
        let body = HttpBody { body: bytes.into(), end_of_stream, ..HttpBody::default() };
        self.ask(Part::ResponseBody(body), HashMap::new()).await
    }
}

fn head(content_type: &str) -> HttpHeaders {
    let line = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let headers = vec![line(":status", "200"), line("content-type", content_type)];
    HttpHeaders { headers: Some(HeaderMap { headers }), ..HttpHeaders::default() }
}

fn json() -> Part {
    Part::ResponseHeaders(head("application/json"))
}

fn immediate(answer: ProcessingResponse) -> (i32, String) {
    let Some(Answer::ImmediateResponse(ImmediateResponse { status, body, headers, .. })) = answer.response else {
        panic!("{answer:?}")
    };
    let headers = headers.expect("headers").set_headers;
    let first = headers.first().and_then(|option| option.header.clone()).expect("a header");
    assert_eq!((first.key.as_str(), &first.raw_value[..]), ("content-type", &b"application/json"[..]));
    (status.expect("a status").code, String::from_utf8(body).expect("text"))
}

/// That nothing of the response is looked at any more.
fn assert_left_alone(answer: &ProcessingResponse) {
    let Some(Answer::ResponseHeaders(head)) = &answer.response else { panic!("{answer:?}") };
    assert_eq!(head.response.clone().unwrap_or_default(), Default::default(), "nothing is changed");
    assert_eq!(answer.mode_override.expect("an override").response_body_mode, i32::from(BodySendMode::None));
}

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_asks_for_the_response_only_if_it_is_needed() {
    let rig = start("response: {record: policy}\n").await;
    let fields = rig.decided("tool").await;
    assert!(text(&fields, "response").is_none() && text(&fields, "respond").is_none(), "nothing looks at it");
    let rig = start("response: {record: calls}\n").await;
    let fields = rig.decided("tool").await;
    assert!(text(&fields, "response").as_deref() == Some("1") && text(&fields, "respond").is_some());
    let Some(HttpResponse::OkResponse(ok)) = rig.check("tool").await.http_response else { panic!("allowed") };
    assert!(ok.headers_to_remove.iter().any(|name| name == "accept-encoding"));
    let fields = rig.decided("secret_tool").await;
    assert!(text(&fields, "response").is_none() && text(&fields, "respond").is_none(), "a denial has no response");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_ticket_a_response_is_left_alone() {
    let rig = start("").await;
    let denied = rig.decided("secret_tool").await;
    assert_eq!(text(&denied, "decision").as_deref(), Some("deny"));
    for fields in [denied, HashMap::new()] {
        let mut response = rig.open().await;
        assert_left_alone(&response.ask(json(), fields).await.expect("an answer"));
        // An Envoy that heeds no override goes on asking.
        let answer = response.body(RESULT, true).await.expect("an answer");
        assert_eq!(answer.response, Some(Answer::ResponseBody(Default::default())));
    }
    let mut response = rig.open().await;
    let answer = response.tell(ProcessingRequest { request: Some(json()), ..ProcessingRequest::default() }).await;
    assert_left_alone(&answer.expect("an answer"));
}

/// How often a text stands in what the program has said, once it stands there at all.
async fn said(rig: &Rig, text: &str) -> usize {
    until(text, async || {
        let times = rig.authz.process.output().matches(text).count();
        (times > 0).then_some(times)
    })
    .await
}

/// Everything that the program has had to say until now: lines come in their order, and the last one is asked for here.
async fn all_said(rig: &Rig) -> String {
    let observed =
        ProcessingRequest { request: Some(json()), observability_mode: true, ..ProcessingRequest::default() };
    assert_eq!(rig.open().await.tell(observed).await, Err(Code::FailedPrecondition));
    said(rig, "observability_mode: true").await;
    rig.authz.process.output()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_forwards_no_decision_is_told_of_once() {
    const TOLD: &str = "forwarding_namespaces";
    let rig = start("").await;
    let answered = |status: &str| {
        let mut head = head("text/html");
        let lines = &mut head.headers.as_mut().expect("lines").headers;
        lines.iter_mut().find(|line| line.key == ":status").expect("a status").raw_value = status.into();
        Part::ResponseHeaders(head)
    };
    // Envoy's own answers have no decision, and those of requests that were denied have one.
    assert_left_alone(&rig.open().await.ask(answered("413"), HashMap::new()).await.expect("an answer"));
    assert_left_alone(&rig.open().await.ask(json(), rig.decided("secret_tool").await).await.expect("an answer"));
    assert!(!all_said(&rig).await.contains(TOLD));
    for _ in 0..3 {
        assert_left_alone(&rig.open().await.ask(json(), HashMap::new()).await.expect("an answer"));
    }
    assert_eq!(said(&rig, TOLD).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_a_head_is_cut_off_and_told_of() {
    let rig = start("").await;
    for _ in 0..2 {
        assert_eq!(rig.open().await.body(RESULT, true).await, Err(Code::Aborted));
    }
    rig.withheld("mode", 2).await;
    assert_eq!(said(&rig, "response_header_mode: SEND").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_is_not_ours_withholds_and_is_said_nowhere() {
    let rig = start("").await;
    let stranger = start("").await;
    let fields = rig.decided("tool").await;
    let ticket = text(&fields, "respond").expect("a ticket");
    let mut forged = ticket.clone().into_bytes();
    forged[9] = if forged[9] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).expect("base64");
    let foreign = text(&stranger.decided("tool").await, "respond").expect("a ticket");
    let values = [
        Kind::StringValue(forged.clone()),
        Kind::StringValue(foreign.clone()),
        Kind::StringValue("no base64".to_owned()),
        Kind::StringValue(String::new()),
        Kind::StringValue("A".repeat(100_000)),
        Kind::NumberValue(1.0),
    ];
    for kind in values {
        let mut fields = fields.clone();
        fields.insert("respond".to_owned(), Value { kind: Some(kind) });
        let mut response = rig.open().await;
        let (status, body) = immediate(response.ask(json(), fields).await.expect("an answer"));
        assert!(status == 503 && body.contains("[POLICY WITHHELD]"), "{status} {body}");
        assert_eq!(response.body(RESULT, true).await, Err(Code::Aborted), "nothing follows");
    }
    rig.withheld("ticket", 6).await;
    let said = rig.authz.everything_said().await;
    assert!(said.contains("its ticket is not ours"), "the operator is told: {said}");
    for ticket in [&ticket, &forged, &foreign] {
        assert!(!said.contains(ticket.get(..40).expect("ASCII")), "no ticket in any output");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_mode_of_bodies_is_judged() {
    let rig = start("").await;
    let fields = rig.decided("tool").await;
    for mode in [None, Some(BodySendMode::None), Some(BodySendMode::Buffered), Some(BodySendMode::FullDuplexStreamed)] {
        let answer = rig.open().await.ask_in(json(), fields.clone(), mode).await.expect("an answer");
        let (status, body) = immediate(answer);
        assert!(status == 200 && body.contains("\"id\":1") && body.contains("tell the operator"), "{mode:?} {body}");
    }
    rig.withheld("mode", 4).await;
    // Without a body no mode matters.
    let end = HttpHeaders { end_of_stream: true, ..head("application/json") };
    let answer = rig.open().await.ask_in(Part::ResponseHeaders(end), fields.clone(), None).await;
    assert_left_alone(&answer.expect("an answer"));
    let observed =
        ProcessingRequest { request: Some(json()), observability_mode: true, ..ProcessingRequest::default() };
    assert_eq!(rig.open().await.tell(observed).await, Err(Code::FailedPrecondition));
    until("the operator is told", async || {
        rig.authz.process.output().contains("observability_mode: true").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_answered_by_its_kind_or_ends_the_stream() {
    let rig = start("").await;
    let fields = rig.decided("tool").await;
    let mut response = rig.open().await;
    let body = || HttpBody { body: b"request".to_vec(), ..HttpBody::default() };
    for (part, answer) in [
        (Part::RequestHeaders(head("text/plain")), Answer::RequestHeaders(Default::default())),
        (Part::RequestBody(body()), Answer::RequestBody(Default::default())),
        (Part::RequestTrailers(HttpTrailers::default()), Answer::RequestTrailers(Default::default())),
    ] {
        let answered = response.ask(part, fields.clone()).await.expect("an answer");
        assert_eq!((answered.response, answered.mode_override), (Some(answer), None));
    }
    let opened = response.ask(json(), fields.clone()).await.expect("an answer");
    let Some(Answer::ResponseHeaders(answered)) = opened.response else { panic!("of its kind") };
    let removed = answered.response.and_then(|common| common.header_mutation).expect("a change").remove_headers;
    assert!(removed.iter().any(|name| name == "content-length"), "{removed:?}");
    let answer = response.body(RESULT, true).await.expect("an answer");
    let Some(Kind::StructValue(facts)) =
        answer.dynamic_metadata.and_then(|mut metadata| metadata.fields.remove("mcp_authz")?.kind)
    else {
        panic!("facts")
    };
    assert_eq!(text(&facts.fields, "kind").as_deref(), Some("ok"));
    assert_eq!(text(&facts.fields, "bytes"), Some(RESULT.len().to_string()));
    let trailers = response.ask(Part::ResponseTrailers(HttpTrailers::default()), HashMap::new()).await;
    assert_eq!(trailers.expect("an answer").response, Some(Answer::ResponseTrailers(Default::default())));

    let mut second_head = rig.open().await;
    second_head.ask(json(), fields.clone()).await.expect("an answer");
    assert_eq!(second_head.ask(json(), fields.clone()).await, Err(Code::InvalidArgument));
    assert_eq!(rig.open().await.body(RESULT, true).await, Err(Code::Aborted), "a body without a head");
    let unknown = ProcessingRequest::default();
    assert_eq!(rig.open().await.tell(unknown).await, Err(Code::Unimplemented));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_responses_than_the_limit_are_withheld() {
    let rig = start("response: {streams_max: 2}\n").await;
    let fields = rig.decided("tool").await;
    let (mut first, mut second) = (rig.open().await, rig.open().await);
    for response in [&mut first, &mut second] {
        let answer = response.ask(json(), fields.clone()).await.expect("an answer");
        assert!(matches!(answer.response, Some(Answer::ResponseHeaders(_))), "{answer:?}");
    }
    let (status, body) = immediate(rig.open().await.ask(json(), fields.clone()).await.expect("an answer"));
    assert!(status == 200 && body.contains("no room"), "{body}");
    rig.withheld("overload", 1).await;
    assert_eq!(first.body(RESULT, true).await.map(|_| ()), Ok(()), "the others go on");
    drop(second);
    until("a place is free again", async || {
        let answer = rig.open().await.ask(json(), fields.clone()).await.expect("an answer");
        matches!(answer.response, Some(Answer::ResponseHeaders(_))).then_some(())
    })
    .await;
}
