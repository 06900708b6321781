//! Streams of access logs.

use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry, HttpResponseProperties};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, LogEntries, TcpAccessLogEntries,
};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// A stream of Envoy's, and what the server answers at its end.
struct Log {
    messages: mpsc::Sender<StreamAccessLogsMessage>,
    answer: JoinHandle<Result<(), Code>>,
}

impl Log {
    async fn open(running: &Running) -> Self {
        let (messages, stream) = mpsc::channel(16);
        let mut client = AccessLogServiceClient::new(running.channel().await);
        let answer = tokio::spawn(async move {
            let answer = client.stream_access_logs(ReceiverStream::new(stream)).await;
            answer.map(|_| ()).map_err(|status| status.code())
        });
        Self { messages, answer }
    }

    async fn send(&self, message: StreamAccessLogsMessage) {
        self.messages.send(message).await.unwrap();
    }

    async fn end(self) -> Result<(), Code> {
        drop(self.messages);
        self.answer.await.unwrap()
    }
}

fn entry() -> HttpAccessLogEntry {
    HttpAccessLogEntry { common_properties: Some(AccessLogCommon::default()), ..HttpAccessLogEntry::default() }
}

fn message(entries: Vec<HttpAccessLogEntry>) -> StreamAccessLogsMessage {
    let log_entries = Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry: entries }));
    StreamAccessLogsMessage { log_entries, ..StreamAccessLogsMessage::default() }
}

#[tokio::test]
async fn entries_arrive_while_the_stream_is_open_and_its_end_is_answered() {
    let running = Running::tcp(settings()).await;
    let log = Log::open(&running).await;
    log.send(message(vec![entry(), entry()])).await;
    reach(&running.script.logged, 2).await;
    assert_eq!(ask(&mut running.client().await, "/mcp").await, Ok(0), "decisions go on beside it");
    log.send(message(vec![entry()])).await;
    reach(&running.script.logged, 3).await;
    let tcp = LogEntries::TcpLogs(TcpAccessLogEntries::default());
    log.send(StreamAccessLogsMessage { log_entries: Some(tcp), ..StreamAccessLogsMessage::default() }).await;
    assert_eq!(log.end().await, Ok(()));
    assert_eq!((*running.script.logged.borrow(), *running.script.lost.borrow()), (3, 0));
}

#[tokio::test]
async fn a_message_of_logs_at_the_limit_is_read_and_one_above_ends_the_stream() {
    let sent = message(vec![entry(); 100]);
    let limit = sent.encoded_len();
    for (log_message_bytes_max, expected, read) in [(limit, Ok(()), 100), (limit - 1, Err(Code::OutOfRange), 0)] {
        let running = Running::tcp(Settings { log_message_bytes_max, ..settings() }).await;
        let log = Log::open(&running).await;
        log.send(sent.clone()).await;
        assert_eq!(log.end().await, expected);
        assert_eq!(*running.script.logged.borrow(), read);
    }
}

#[tokio::test]
async fn entries_above_the_limit_of_a_message_are_counted_and_not_looked_at() {
    for (entries, lost) in [(5, 0), (6, 1)] {
        let running = Running::tcp(Settings { log_entries_max: 5, ..settings() }).await;
        let log = Log::open(&running).await;
        log.send(message(vec![entry(); entries])).await;
        assert_eq!(log.end().await, Ok(()));
        assert_eq!((*running.script.logged.borrow(), *running.script.lost.borrow()), (5, lost));
    }
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_until_one_ends() {
    let mut running = Running::tcp(Settings { log_streams_max: 1, ..settings() }).await;
    let first = Log::open(&running).await;
    first.send(message(vec![entry()])).await;
    reach(&running.script.logged, 1).await;
    let second = Log::open(&running).await;
    assert_eq!(second.end().await, Err(Code::ResourceExhausted));
    running.see(Event::LogStreamRefused).await;
    assert_eq!(first.end().await, Ok(()));
    let third = Log::open(&running).await;
    third.send(message(vec![entry()])).await;
    assert_eq!(third.end().await, Ok(()));
}

#[tokio::test]
async fn a_panic_over_an_entry_costs_that_message_only() {
    let mut running = Running::tcp(settings()).await;
    let log = Log::open(&running).await;
    let response = Some(HttpResponseProperties::default());
    log.send(message(vec![HttpAccessLogEntry { response, ..entry() }])).await;
    running.see(Event::CheckPanicked).await;
    log.send(message(vec![entry()])).await;
    reach(&running.script.logged, 2).await;
    assert_eq!(log.end().await, Ok(()));
}

#[tokio::test]
async fn open_streams_of_logs_do_not_hold_up_the_end() {
    let running = Running::tcp(settings()).await;
    let log = Log::open(&running).await;
    log.send(message(vec![entry()])).await;
    reach(&running.script.logged, 1).await;
    assert_eq!(running.stop().await, Drained::Clean);
    // The client's sender lives on: the server ended the stream by itself.
    assert_eq!(log.answer.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn what_is_no_log_is_counted_and_the_stream_goes_on() {
    let running = Running::tcp(settings()).await;
    let mut grpc = tonic::client::Grpc::new(running.channel().await);
    grpc.ready().await.unwrap();
    // The text of a status stands where the entries should be.
    let broken = Status { code: 7, message: "no entries".to_owned() };
    let good = Status { code: 0, message: String::new() };
    let codec = tonic_prost::ProstCodec::<Status, Status>::default();
    let path = http::uri::PathAndQuery::from_static(wire::log::LOG_PATH);
    let stream = tokio_stream::iter([broken, good]);
    let outcome = grpc.client_streaming(tonic::Request::new(stream), path, codec).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!((*running.script.logged.borrow(), *running.script.lost.borrow()), (0, 1));
}
