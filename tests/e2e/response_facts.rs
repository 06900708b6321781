//! What Envoy does by itself with responses, measured with a stub in place of the authorizer: the response phase leans on it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse, OkHttpResponse};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use envoy_types::pb::google::rpc::Status;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Streaming};

use super::harness::envoy::{Authorizer, Envoy, Settings};
use super::harness::hand::{Client, Hand};
use super::harness::http1;
use super::harness::message;

/// How the stub ends a stream after the first piece of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Well,
    Badly,
}

#[derive(Debug)]
struct Stub(End);

#[tonic::async_trait]
impl Authorization for Stub {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, tonic::Status> {
        let needed = Value { kind: Some(Kind::StringValue("1".to_owned())) };
        Ok(Response::new(CheckResponse {
            status: Some(Status::default()),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
            dynamic_metadata: Some(Struct { fields: HashMap::from([("response".to_owned(), needed)]) }),
        }))
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Stub {
    type ProcessStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<ProcessingResponse, tonic::Status>> + Send + 'static>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, tonic::Status> {
        let (answers, stream) = mpsc::channel(4);
        let (mut messages, end) = (request.into_inner(), self.0);
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let is_body = matches!(message.request, Some(Part::ResponseBody(_)));
                let answer = if is_body {
                    Answer::ResponseBody(Default::default())
                } else {
                    Answer::ResponseHeaders(Default::default())
                };
                let answer = ProcessingResponse { response: Some(answer), ..Default::default() };
                answers.send(Ok(answer)).await.unwrap_or_default();
                if is_body {
                    if end == End::Badly {
                        answers.send(Err(tonic::Status::aborted("no more"))).await.unwrap_or_default();
                    }
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn start(end: End) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(async move {
        let server = tonic::transport::Server::builder()
            .add_service(AuthorizationServer::new(Stub(end)))
            .add_service(ExternalProcessorServer::new(Stub(end)));
        server.serve_with_incoming(incoming).await.expect("serving on loopback does not end");
    });
    address
}

/// Whether the rest of a response arrives after the stream of it has ended in the middle.
async fn passes(end: End) -> bool {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut hand = Hand::start().await;
    let authorizer = Authorizer::Tcp(start(end).await);
    let envoy = Envoy::start(dir.path(), &Settings { authorizer, upstream: hand.address, ..Settings::shipped() }).await;
    let request = http1::Request::post("/mcp", message::call("tool", "{}"));
    let mut client = Client::send(&request, envoy.address).await;
    let mut asked = hand.next().await;
    asked.begin("200 OK", "text/event-stream").await;
    asked.chunk(": first\n\n").await;
    client.until(": first").await;
    asked.chunk(": rest\n\n").await;
    asked.end().await;
    let (seen, whole) = client.read_to_end().await;
    assert_eq!(seen.contains(": rest"), whole, "{seen}");
    whole
}

/// This is why we never end a stream well before Envoy does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_well_lets_the_rest_pass_and_one_that_ends_badly_cuts_it_off() {
    assert!(passes(End::Well).await);
    assert!(!passes(End::Badly).await);
}
