//! The audit over a collector that takes what it gets, or not.

use std::{collections::HashSet, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use prost::Message as _;

use super::*;
use crate::{
    clock::ManualClock,
    telemetry::{
        audit::{
            AuditError, AuditSink, Settings, Sink, WhenUnavailable,
            tests::{draft, settings as settings_of, verified},
        },
        metrics::Metrics,
        otlp::{
            Transport,
            endpoint::Protocol,
            resource,
            tests::{Collector, Reply, settings},
        },
    },
};

const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, prost::Message)]
struct Logs {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfResource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LogRecord {
    #[prost(message, optional, tag = "5")]
    body: Option<Text>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn lines(request: &[u8]) -> Vec<String> {
    let scopes = Logs::decode(request).unwrap().resources.into_iter().flat_map(|of| of.scopes);
    scopes.flat_map(|of| of.records).map(|record| record.body.unwrap().text).collect()
}

fn audit(url: &str) -> AuditSink {
    let said = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
    ];
    let otlp = settings(said);
    let metrics = Metrics::new(&mut Registry::default(), 0);
    let clock = Arc::new(ManualClock::new(1_000_000));
    let transport = Arc::new(Transport::new(&otlp, metrics.clone()).unwrap());
    let export = LineExport { transport, resource: resource(&otlp), clock };
    let remote: Option<Box<dyn BatchSink>> = Some(Box::new(sink(export, Handle::current())));
    let settings = Settings { remote, ..settings_of(WhenUnavailable::Deny) };
    AuditSink::open_with(&Sink::Otlp, settings, metrics).unwrap()
}

async fn close(audit: Arc<AuditSink>) {
    tokio::task::spawn_blocking(move || audit.close(LONG)).await.unwrap().unwrap();
}

#[tokio::test]
async fn lines_arrive_as_they_are_and_their_chain_holds() {
    let collector = Collector::new(Protocol::HttpProtobuf, [Reply::http(200)]).await;
    let audit = Arc::new(audit(&collector.url));
    for tool in ["one", "two"] {
        audit.append(&draft(tool)).unwrap();
    }
    close(audit).await;
    let all: Vec<String> = collector.seen().iter().flat_map(|seen| lines(&seen.body)).collect();
    assert!(all.iter().any(|line| line.contains(r#""tool_name":"two""#)), "{all:?}");
    let (found, summary) = verified(&[&all.join("\n")], Vec::new());
    assert_eq!((found.as_slice(), summary.records), (&[][..], 4), "beginning, two calls, end: {all:?}");
}

#[tokio::test]
async fn what_is_refused_denies_until_it_is_taken() {
    let collector = Collector::new(Protocol::HttpProtobuf, [Reply::http(400)]).await;
    let audit = Arc::new(audit(&collector.url));
    // The writer says so once the collector has.
    let denied = async {
        while !matches!(audit.append(&draft("kept")), Err(AuditError::NotWritable)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, denied).await.expect("calls are denied");
    collector.then(Reply::http(200));
    let taken = async {
        while audit.append(&draft("again")).is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, taken).await.expect("and let go again");
    close(audit).await;
    let seen = collector.seen();
    // Whoever has got lines twice keeps the first of each.
    let (mut all, mut known) = (Vec::new(), HashSet::new());
    all.extend(seen.iter().flat_map(|seen| lines(&seen.body)).filter(|line| known.insert(line.clone())));
    assert_eq!(verified(&[&all.join("\n")], Vec::new()).0, []);
    assert!(all.iter().any(|line| line.contains(r#""tool_name":"again""#)), "{all:?}");
}
