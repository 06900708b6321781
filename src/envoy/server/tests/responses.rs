//! Streams of responses.

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3 as proc;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use prost::Message as _;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;
use crate::envoy::wire::process::{
    Answer, BodyMutation, CommonAnswer, CommonResponse, Mutation, Part as OurPart, ProcessingRequest,
    ProcessingResponse,
};

/// Gives each piece of a body back, unless it says something else.
pub(super) struct Echo {
    room: Room,
    trace: Option<TraceContext>,
    _ended: Ended,
}

impl Echo {
    pub(super) fn new(room: Room, trace: Option<TraceContext>, ended: Ended) -> Self {
        Self { room, trace, _ended: ended }
    }
}

impl Process for Echo {
    async fn answer(&mut self, request: ProcessingRequest) -> Result<ProcessingResponse, tonic::Status> {
        let Some(OurPart::ResponseBody(body)) = request.part else { panic!("the test sends bodies only") };
        let said = match &body.body[..] {
            b"panic" => panic!("a bug"),
            b"refuse" => return Err(tonic::Status::aborted("no")),
            b"wait" => std::future::pending().await,
            b"trace" => self.trace.map(|trace| trace.traceparent()).unwrap_or_default().into(),
            b"room" if self.room == Room::None => Bytes::from_static(b"none"),
            _ => body.body,
        };
        let mutation = Some(BodyMutation { mutation: Some(Mutation::Body(said)) });
        let response = Some(CommonResponse { header_mutation: None, body_mutation: mutation });
        let answer = Some(Answer::ResponseBody(CommonAnswer { response }));
        Ok(ProcessingResponse { answer, ..ProcessingResponse::default() })
    }
}

/// A stream of Envoy's.
struct Response {
    messages: mpsc::Sender<proc::ProcessingRequest>,
    answers: Streaming<proc::ProcessingResponse>,
}

fn body(text: impl Into<Vec<u8>>) -> proc::ProcessingRequest {
    let body = proc::HttpBody { body: text.into(), ..proc::HttpBody::default() };
    proc::ProcessingRequest { request: Some(Part::ResponseBody(body)), ..proc::ProcessingRequest::default() }
}

impl Response {
    async fn open(channel: Channel) -> Self {
        let (messages, stream) = mpsc::channel(16);
        let opened = ExternalProcessorClient::new(channel).process(ReceiverStream::new(stream)).await;
        Self { messages, answers: opened.unwrap().into_inner() }
    }

    async fn send(&self, text: &str) {
        self.messages.send(body(text)).await.unwrap();
    }

    /// The next answer's bytes; `Ok(None)` for a good end.
    async fn next(&mut self) -> Result<Option<String>, Code> {
        let Some(answer) = self.answers.message().await.map_err(|status| status.code())? else { return Ok(None) };
        let Some(proc::processing_response::Response::ResponseBody(body)) = answer.response else {
            panic!("of the kind")
        };
        let mutation = body.response.unwrap().body_mutation.unwrap().mutation;
        let Some(proc::body_mutation::Mutation::Body(bytes)) = mutation else { panic!("bytes") };
        Ok(Some(String::from_utf8(bytes).unwrap()))
    }

    async fn ask(&mut self, text: &str) -> Result<Option<String>, Code> {
        // A stream that has been ended takes nothing more; by what it ended is read below.
        self.messages.send(body(text)).await.unwrap_or_default();
        self.next().await
    }
}

#[tokio::test]
async fn the_place_in_a_trace_is_that_of_the_stream() {
    let running = Running::tcp(settings()).await;
    let (messages, stream) = mpsc::channel(16);
    let mut call = tonic::Request::new(ReceiverStream::new(stream));
    call.metadata_mut().insert("traceparent", TRACEPARENT.parse().unwrap());
    let opened = ExternalProcessorClient::new(running.channel().await).process(call).await;
    let mut response = Response { messages, answers: opened.unwrap().into_inner() };
    assert_eq!(response.ask("trace").await, said(TRACEPARENT));
    let mut other = Response::open(running.channel().await).await;
    assert_eq!(other.ask("trace").await, said(""));
}

fn said(text: &str) -> Result<Option<String>, Code> {
    Ok(Some(text.to_owned()))
}

#[tokio::test]
async fn each_message_is_answered_in_order_and_the_end_is_envoys() {
    let running = Running::tcp(settings()).await;
    let mut response = Response::open(running.channel().await).await;
    assert_eq!(response.ask("one").await, said("one"));
    assert_eq!(response.ask("").await, said(""), "an empty answer is an answer");
    for text in ["a", "b", "c", "d"] {
        response.send(text).await;
    }
    for text in ["a", "b", "c", "d"] {
        assert_eq!(response.next().await, said(text));
    }
    assert_eq!(*running.script.dropped.borrow(), 0);
    let Response { messages, mut answers } = response;
    drop(messages);
    assert!(answers.message().await.unwrap().is_none(), "a good end");
    reach(&running.script.dropped, 1).await;
}

#[tokio::test]
async fn a_stream_whose_caller_leaves_is_dropped_even_in_the_middle_of_an_answer() {
    let running = Running::tcp(settings()).await;
    let response = Response::open(running.channel().await).await;
    response.send("wait").await;
    drop(response);
    reach(&running.script.dropped, 1).await;
}

#[tokio::test]
async fn what_goes_wrong_ends_the_stream_badly_and_hurts_nobody_else() {
    let mut running = Running::tcp(settings()).await;
    let mut neighbor = Response::open(running.channel().await).await;
    assert_eq!(neighbor.ask("one").await, said("one"));
    let channel = running.channel().await;
    for (text, code) in [("panic", Code::Internal), ("refuse", Code::Aborted)] {
        let mut response = Response::open(channel.clone()).await;
        assert_eq!(response.ask("fine").await, said("fine"));
        assert_eq!(response.ask(text).await, Err(code), "a good end would let the rest pass unseen");
    }
    running.see(Event::ResponsePanicked).await;
    assert_eq!(neighbor.ask("two").await, said("two"));
    assert_eq!(ask(&mut running.client().await, "/mcp").await, Ok(0));
}

#[tokio::test]
async fn a_message_of_a_response_at_the_limit_is_read_and_one_above_ends_the_stream() {
    let sent = body(vec![b'x'; 100_000]);
    let limit = sent.encoded_len();
    for (process_message_bytes_max, fits) in [(limit, true), (limit - 1, false)] {
        let running = Running::tcp(Settings { process_message_bytes_max, ..settings() }).await;
        let mut response = Response::open(running.channel().await).await;
        response.messages.send(sent.clone()).await.unwrap();
        let answer = response.next().await.map(|answer| answer.map(|text| text.len()));
        assert_eq!(answer, if fits { Ok(Some(100_000)) } else { Err(Code::OutOfRange) });
    }
}

#[tokio::test]
async fn there_is_room_for_as_many_responses_as_the_limit_says() {
    let running = Running::tcp(Settings { process_streams_max: 2, ..settings() }).await;
    let channel = running.channel().await;
    let mut streams = Vec::new();
    for expected in ["room", "room", "none"] {
        let mut response = Response::open(channel.clone()).await;
        assert_eq!(response.ask("room").await, said(expected));
        streams.push(response);
    }
    streams.remove(0);
    reach(&running.script.dropped, 1).await;
    let mut response = Response::open(channel).await;
    assert_eq!(response.ask("room").await, said("room"), "a place is free again");
}

#[tokio::test]
async fn idle_streams_do_not_hold_the_end_and_are_told_that_it_is_no_good_one() {
    let running = Running::tcp(Settings { drain: Duration::from_secs(2), ..settings() }).await;
    let channel = running.channel().await;
    let mut idle = Response::open(channel.clone()).await;
    assert_eq!(idle.ask("one").await, said("one"));
    let began = Instant::now();
    let stopping = tokio::spawn(running.stop());
    assert_eq!(timeout(Duration::from_secs(1), idle.ask("two")).await, Ok(said("two")), "it goes on for a while");
    assert_eq!(idle.next().await, Err(Code::Unavailable));
    assert_eq!(stopping.await.unwrap(), Drained::Clean);
    assert!(began.elapsed() < Duration::from_secs(2), "it did not use up the time of Checks");
}

#[tokio::test]
async fn streams_that_never_rest_do_not_hold_the_end_either() {
    let running = Running::tcp(Settings { drain: Duration::from_secs(4), ..settings() }).await;
    let mut busy = Response::open(running.channel().await).await;
    assert_eq!(busy.ask("one").await, said("one"));
    let stopping = tokio::spawn(running.stop());
    while busy.ask("more").await == said("more") {}
    assert_eq!(stopping.await.unwrap(), Drained::Clean, "it did not use up the time of Checks");
}

/// Calls that were let go before the stop get their responses after it.
#[tokio::test]
async fn a_connection_of_responses_alone_takes_more_of_them_for_a_while() {
    let running = Running::tcp(Settings { drain: Duration::from_secs(20), ..settings() }).await;
    let (responses, mut checks) = (running.channel().await, running.client().await);
    assert_eq!(ask(&mut checks, "/mcp").await, Ok(0));
    let mut response = Response::open(responses.clone()).await;
    assert_eq!(response.ask("before").await, said("before"));
    drop(response);
    let began = Instant::now();
    let stopping = tokio::spawn(running.stop());
    // Once Checks are refused, draining has begun.
    while timeout(Duration::from_secs(5), ask(&mut checks, "/mcp")).await == Ok(Ok(0)) {}
    let mut response = Response::open(responses).await;
    assert_eq!(response.ask("after").await, said("after"));
    drop(response);
    assert_eq!(stopping.await.unwrap(), Drained::Clean);
    assert!(began.elapsed() < Duration::from_secs(8), "it ends once no more come, before its patience is over");
}

#[tokio::test]
async fn checks_go_first_while_many_responses_flow() {
    let running = Running::tcp(Settings { workers: NonZeroUsize::MIN, ..settings() }).await;
    let channel = running.channel().await;
    let (stop, stopped) = watch::channel(false);
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut response = Response::open(channel.clone()).await;
        let stopped = stopped.clone();
        streams.push(tokio::spawn(async move {
            let text = "x".repeat(10_000);
            while !*stopped.borrow() {
                assert_eq!(response.ask(&text).await, said(&text));
            }
        }));
    }
    let mut client = running.client().await;
    for _ in 0..100 {
        assert_eq!(timeout(Duration::from_secs(5), ask(&mut client, "/mcp")).await, Ok(Ok(0)));
    }
    stop.send_replace(true);
    for stream in streams {
        stream.await.unwrap();
    }
}
