use http::header::CONTENT_TYPE;
use prometheus_client::registry::Registry;

use super::*;
use crate::telemetry::otlp::{
    proto,
    tests::{Collector, Reply, settings},
};

const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

struct Rig {
    collector: Collector,
    transport: Transport,
    registry: Registry,
}

impl Rig {
    async fn new(protocol: Protocol, timeout_ms: &str, replies: impl IntoIterator<Item = Reply>) -> Self {
        let collector = Collector::new(protocol, replies).await;
        let settings = settings([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", timeout_ms),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t"),
        ]);
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 0);
        let pauses = (Duration::from_millis(2), Duration::from_millis(2));
        let transport = Transport { pauses, ..Transport::new(&settings, metrics).unwrap() };
        Self { collector, transport, registry }
    }

    async fn export(&self) -> Result<(), ExportError> {
        self.transport.export(Signal::Traces, Bytes::from_static(b"body")).await
    }

    fn counted(&self) -> Vec<String> {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).unwrap();
        let of_items = page.lines().filter_map(|line| line.strip_prefix("mcp_authz_telemetry_items_total"));
        of_items.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
    }
}

const PATIENT: &str = "60000";

/// The success of either protocol.
fn success(protocol: Protocol) -> Reply {
    match protocol {
        Protocol::Grpc => Reply::grpc("0"),
        Protocol::HttpProtobuf => Reply::http(200),
    }
}

#[tokio::test]
async fn a_request_is_as_the_protocols_have_it() {
    for protocol in PROTOCOLS {
        let rig = Rig::new(protocol, PATIENT, [success(protocol)]).await;
        rig.export().await.unwrap();
        let seen = rig.collector.seen().remove(0);
        let header = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("authorization"), Some("Bearer t"));
        assert_eq!(header("user-agent"), Some(concat!("mcp-authz/", env!("CARGO_PKG_VERSION"))));
        let (path, content, te, body): (_, _, _, &[u8]) = match protocol {
            Protocol::Grpc => (
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                "application/grpc",
                Some("trailers"),
                b"\0\0\0\0\x04body",
            ),
            Protocol::HttpProtobuf => ("/v1/traces", "application/x-protobuf", None, b"body"),
        };
        assert_eq!((seen.path.as_str(), header(CONTENT_TYPE.as_str()), header("te")), (path, Some(content), te));
        assert_eq!(&seen.body[..], body);
    }
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_is_not() {
    let http = Protocol::HttpProtobuf;
    for (protocol, reply, again) in [
        (http, Reply::http(429), true),
        (http, Reply::http(502), true),
        (http, Reply::http(503), true),
        (http, Reply::http(504), true),
        (http, Reply::http(400), false),
        (http, Reply::http(401), false),
        (http, Reply::http(500), false),
        (http, Reply::http(302), false),
        (Protocol::Grpc, Reply::grpc("14"), true),
        (Protocol::Grpc, Reply::grpc("4"), true),
        (Protocol::Grpc, Reply::grpc("8"), false),
        (Protocol::Grpc, Reply::grpc("16"), false),
        (Protocol::Grpc, Reply { headers: vec![("grpc-status", "14".to_owned())], ..Reply::default() }, true),
        (Protocol::Grpc, Reply { headers: vec![("grpc-status", "3".to_owned())], ..Reply::default() }, false),
        (Protocol::Grpc, Reply::http(503), true),
        (Protocol::Grpc, Reply::http(404), false),
    ] {
        let rig = Rig::new(protocol, PATIENT, [reply.clone(), success(protocol)]).await;
        let outcome = rig.export().await;
        assert_eq!(
            (outcome.is_ok(), rig.collector.seen().len()),
            (again, 1 + usize::from(again)),
            "{reply:?} {outcome:?}"
        );
        assert!(again || matches!(outcome, Err(ExportError::Refused(_))), "{outcome:?}");
    }
}

/// A status that asks to come back after `seconds`.
fn come_back(seconds: u64) -> Reply {
    let mut status = Vec::new();
    proto::uint(&mut status, 1, 8);
    proto::message(&mut status, 3, |out| {
        proto::string(out, 1, "type.googleapis.com/google.rpc.RetryInfo");
        proto::message(out, 2, |out| {
            proto::message(out, 1, |out| {
                proto::uint(out, 1, seconds);
                proto::uint(out, 2, 1_000_000);
            })
        });
    });
    let mut reply = Reply::grpc("8");
    reply.trailers.push(("grpc-status-details-bin", base64::engine::general_purpose::STANDARD.encode(status)));
    reply
}

#[tokio::test]
async fn a_collector_may_say_when_and_is_not_waited_for_beyond_the_time() {
    let after = |seconds: &str| {
        let mut reply = Reply::http(503);
        reply.headers.push(("retry-after", seconds.to_owned()));
        reply
    };
    for (protocol, soon, late) in
        [(Protocol::Grpc, come_back(0), come_back(3_600)), (Protocol::HttpProtobuf, after("0"), after("3600"))]
    {
        let rig = Rig::new(protocol, PATIENT, [soon, success(protocol)]).await;
        rig.export().await.unwrap();
        assert_eq!(rig.collector.seen().len(), 2);
        let rig = Rig::new(protocol, PATIENT, [late, success(protocol)]).await;
        let outcome = rig.export().await;
        assert!(matches!(outcome, Err(ExportError::Unavailable(Unavailable::Asked(_)))), "{outcome:?}");
        assert_eq!(rig.collector.seen().len(), 1);
    }
    let rig =
        Rig::new(Protocol::HttpProtobuf, PATIENT, [after("Sat, 21 Nov 2026 00:00:00 GMT"), Reply::http(200)]).await;
    rig.export().await.unwrap();
}

#[tokio::test]
async fn attempts_are_counted_and_time_is_kept() {
    let rig = Rig::new(Protocol::Grpc, PATIENT, [Reply::grpc("14")]).await;
    let error = rig.export().await.unwrap_err().to_string();
    assert_eq!(error, "the collector could not be reached: it answered gRPC status 14");
    assert_eq!(rig.collector.seen().len(), usize::try_from(ATTEMPTS_MAX).unwrap());
    let silent = Rig::new(Protocol::Grpc, "40", [Reply { hangs: true, ..Reply::default() }]).await;
    let begun = Instant::now();
    let error = silent.export().await.unwrap_err();
    assert!(
        matches!(error, ExportError::Unavailable(Unavailable::NoAnswer(OutboundError::Timeout { .. }))),
        "{error:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nonsense_is_refused_and_shown_to_nobody() {
    let answer = |body: Vec<u8>, status: &str| Reply { body, ..Reply::grpc(status) };
    let canary = |name: &'static str| (name, "canary".to_owned());
    for reply in [
        answer(vec![0; 5], "canary"),
        answer(vec![0; 5], "-1"),
        answer(vec![1; 5], "0"),
        answer(vec![0; 3], "0"),
        answer(vec![0; ANSWER_BYTES_MAX + 1], "0"),
        Reply { body: vec![0; 5], ..Reply::default() },
        Reply { headers: vec![("grpc-status", "13".to_owned()), canary("grpc-message")], ..Reply::default() },
    ] {
        let rig = Rig::new(Protocol::Grpc, PATIENT, [reply.clone()]).await;
        let error = rig.export().await.unwrap_err();
        assert!(matches!(error, ExportError::Refused(_)), "{reply:?} {error:?}");
        assert!(!format!("{error}{error:?}").contains("canary"), "{error:?}");
        assert_eq!(rig.collector.seen().len(), 1, "asked once");
    }
    let at_limit = answer(vec![0; ANSWER_BYTES_MAX], "0");
    Rig::new(Protocol::Grpc, PATIENT, [at_limit]).await.export().await.unwrap();
}

#[tokio::test]
async fn everything_that_was_to_be_sent_is_counted() {
    let partial = |rejected: u64| {
        let mut message = Vec::new();
        proto::message(&mut message, 1, |out| {
            proto::uint(out, 1, rejected);
            proto::string(out, 2, "canary");
        });
        message
    };
    let framed = |message: Vec<u8>| Reply {
        body: [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat(),
        ..Reply::grpc("0")
    };
    for (reply, expected) in [
        (Reply::grpc("0"), vec!["{signal=\"traces\",outcome=\"sent\"} 5"]),
        (framed(partial(0)), vec!["{signal=\"traces\",outcome=\"sent\"} 5"]),
        (
            framed(partial(2)),
            vec!["{signal=\"traces\",outcome=\"refused\"} 2", "{signal=\"traces\",outcome=\"sent\"} 3"],
        ),
        (framed(partial(9)), vec!["{signal=\"traces\",outcome=\"refused\"} 5"]),
        (Reply::grpc("3"), vec!["{signal=\"traces\",outcome=\"refused\"} 5"]),
        (Reply::grpc("14"), vec!["{signal=\"traces\",outcome=\"dropped\"} 5"]),
    ] {
        let rig = Rig::new(Protocol::Grpc, PATIENT, [reply]).await;
        rig.transport.deliver(Signal::Traces, 5, Bytes::new()).await;
        assert_eq!(rig.counted(), expected);
    }
}

#[tokio::test]
async fn a_collector_that_is_not_there_is_told_and_so_is_a_signal_that_is_not_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let settings = settings([("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &url), ("OTEL_EXPORTER_OTLP_TIMEOUT", "30")]);
    let transport = Transport::new(&settings, Metrics::new(&mut Registry::default(), 0)).unwrap();
    let outcome = transport.export(Signal::Traces, Bytes::new()).await;
    assert!(matches!(outcome, Err(ExportError::Unavailable(Unavailable::NoAnswer(_)))), "{outcome:?}");
    assert!(transport.sends(Signal::Traces) && !transport.sends(Signal::Logs));
    assert!(matches!(transport.export(Signal::Logs, Bytes::new()).await, Err(ExportError::Off)));
}

#[test]
fn a_pause_is_never_longer_and_at_least_half() {
    let pause = Duration::from_millis(500);
    for _ in 0..100 {
        let scattered = scattered(pause);
        assert!(scattered >= pause / 2 && scattered < pause, "{scattered:?}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let settings = settings([("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem")]);
    let error = Transport::new(&settings, Metrics::new(&mut Registry::default(), 0)).unwrap_err();
    let source = error.source.to_string();
    assert_eq!(error.to_string(), "the connection for traces cannot be set up");
    assert!(source.starts_with("`/nowhere.pem` cannot be used"), "{source}");
}
