//! What was encoded, read by another reader; and a collector that does as a test says.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;

use super::{batch::request, env::Env, *};
use crate::telemetry::otlp::env::Said;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ExportTraces {
    #[prost(message, repeated, tag = "1")]
    pub(crate) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(crate) resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub(crate) attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub(crate) scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Scope {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(crate) trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) name: String,
    #[prost(int32, tag = "6")]
    pub(crate) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(crate) start_ns: u64,
    #[prost(fixed64, tag = "8")]
    pub(crate) end_ns: u64,
    #[prost(message, repeated, tag = "9")]
    pub(crate) attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    pub(crate) links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    pub(crate) status: Option<SpanStatus>,
    #[prost(fixed32, tag = "16")]
    pub(crate) flags: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Link {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) span_id: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) attributes: Vec<KeyValue>,
    #[prost(fixed32, tag = "6")]
    pub(crate) flags: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SpanStatus {
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(int32, tag = "3")]
    pub(crate) code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 2, 3")]
    pub(crate) any: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
}

/// Attributes as text, each key once.
pub(crate) fn attributes(list: &[KeyValue]) -> BTreeMap<&str, String> {
    let shown = |value: &AnyValue| match value.any.as_ref().unwrap() {
        Any::Text(text) => text.clone(),
        Any::Bool(value) => value.to_string(),
        Any::Int(value) => value.to_string(),
    };
    let map: BTreeMap<&str, String> =
        list.iter().map(|pair| (pair.key.as_str(), shown(pair.value.as_ref().unwrap()))).collect();
    assert_eq!(map.len(), list.len(), "{list:?}");
    map
}

/// The spans of an encoded request.
pub(crate) fn spans(request: &[u8]) -> Vec<Span> {
    let request = ExportTraces::decode(request).unwrap();
    request.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans).collect()
}

/// Settings as they follow from variables.
pub(crate) fn settings<const N: usize>(variables: [(&str, &str); N]) -> Settings {
    let said = Said::read(&Env::from(variables)).unwrap();
    Settings::new(&crate::config::Telemetry::default(), &said, "one").unwrap()
}

/// One answer of a collector.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(&'static str, String)>,
    pub(crate) hangs: bool,
}

impl Reply {
    /// A good answer of HTTP.
    pub(crate) fn http(status: u16) -> Self {
        Self { status: StatusCode::from_u16(status).unwrap(), ..Self::default() }
    }

    /// An answer of gRPC: an empty message and a status behind it.
    pub(crate) fn grpc(status: &str) -> Self {
        Self { body: vec![0; 5], trailers: vec![("grpc-status", status.to_owned())], ..Self::default() }
    }
}

/// A request that a collector got.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A collector that gives these answers in turn, the last one again and again.
#[derive(Clone, Default)]
pub(crate) struct Collector {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) url: String,
}

impl Collector {
    pub(crate) async fn new(protocol: endpoint::Protocol, replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let me = Self { replies: Arc::new(Mutex::new(replies.into_iter().collect())), url, ..Self::default() };
        let collector = me.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let collector = collector.clone();
                let service = service_fn(move |request| {
                    let collector = collector.clone();
                    async move { collector.answer(request).await }
                });
                let io = TokioIo::new(stream);
                match protocol {
                    endpoint::Protocol::Grpc => {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        tokio::spawn(async move { drop(server.serve_connection(io, service).await) });
                    }
                    endpoint::Protocol::HttpProtobuf => {
                        let server = hyper::server::conn::http1::Builder::new();
                        tokio::spawn(async move { drop(server.serve_connection(io, service).await) });
                    }
                }
            }
        });
        me
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible> + use<>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.seen.lock().unwrap().push(Seen { path: head.uri.path().to_owned(), headers: head.headers, body });
        let reply = {
            let mut replies = self.replies.lock().unwrap();
            if replies.len() > 1 { replies.pop_front().unwrap() } else { replies[0].clone() }
        };
        if reply.hangs {
            std::future::pending::<()>().await;
        }
        let trailers: HeaderMap =
            reply.trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let trailers = (!trailers.is_empty()).then_some(Ok(trailers));
        let mut response = Response::new(Full::new(Bytes::from(reply.body)).with_trailers(async { trailers }));
        *response.status_mut() = reply.status;
        for (name, value) in reply.headers {
            response.headers_mut().append(name, value.parse().unwrap());
        }
        Ok(response)
    }

    /// From now on it gives this answer.
    pub(crate) fn then(&self, reply: Reply) {
        *self.replies.lock().unwrap() = VecDeque::from([reply]);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn wait(&self, requests: usize) -> Vec<Seen> {
        let came = async {
            while self.seen().len() < requests {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), came).await.expect("the requests come");
        self.seen()
    }
}

#[test]
fn a_request_holds_resource_scope_and_items() {
    let settings = settings([("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_RESOURCE_ATTRIBUTES", "zone=ü")]);
    let mut items = Vec::new();
    for name in ["a", "b"] {
        proto::message(&mut items, 2, |out| proto::string(out, 5, name));
    }
    let body = request(&resource(&settings), &items);
    let read = ExportTraces::decode(&body[..]).unwrap();
    let of = &read.resource_spans[0];
    let said = attributes(&of.resource.as_ref().unwrap().attributes);
    assert_eq!(
        (said["zone"].as_str(), said["service.name"].as_str(), said["service.instance.id"].as_str()),
        ("ü", "mcp-authz", "one")
    );
    let scope = of.scope_spans[0].scope.as_ref().unwrap();
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("mcp-authz", env!("CARGO_PKG_VERSION")));
    assert_eq!(spans(&body).iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}
