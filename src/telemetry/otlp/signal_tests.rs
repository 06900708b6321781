//! What is sent, read by another reader: the messages of the OTLP definitions, as far as these tests look at them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mcp_authz_core::trace::TraceContext;
use prometheus_client::{encoding::text, registry::Registry};
use prost::Message as _;
use tracing_subscriber::{
    filter::LevelFilter,
    layer::{Layer as _, SubscriberExt as _},
};

use super::{
    logs::{self, LogLayer},
    metrics::{Times, requests},
    proto::{Value, key_value},
    tests::{Any, AnyValue, KeyValue},
};
use crate::{
    clock::ManualClock,
    telemetry::metrics::{ErrorKind, Exemplar, METHODS, Metrics, Page, Verdict},
};

/// `ExportMetricsServiceRequest` and `ExportLogsServiceRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfResource {
    #[prost(message, optional, tag = "1")]
    resource: Option<Attributes>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attributes {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfScope {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    /// Metrics or log records, each to be decoded.
    #[prost(bytes = "vec", repeated, tag = "2")]
    items: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Metric {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "3")]
    unit: String,
    #[prost(message, optional, tag = "5")]
    gauge: Option<Numbers>,
    #[prost(message, optional, tag = "7")]
    sum: Option<Numbers>,
    #[prost(message, optional, tag = "9")]
    histogram: Option<Histograms>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Numbers {
    #[prost(message, repeated, tag = "1")]
    points: Vec<Number>,
    #[prost(int32, tag = "2")]
    temporality: i32,
    #[prost(bool, tag = "3")]
    is_monotonic: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(message, repeated, tag = "7")]
    attributes: Vec<KeyValue>,
    #[prost(fixed64, tag = "2")]
    start: u64,
    #[prost(fixed64, tag = "3")]
    time: u64,
    #[prost(double, optional, tag = "4")]
    double: Option<f64>,
    #[prost(sfixed64, optional, tag = "6")]
    int: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Histograms {
    #[prost(message, repeated, tag = "1")]
    points: Vec<Histogram>,
    #[prost(int32, tag = "2")]
    temporality: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Histogram {
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(fixed64, tag = "2")]
    start: u64,
    #[prost(fixed64, tag = "3")]
    time: u64,
    #[prost(fixed64, tag = "4")]
    count: u64,
    #[prost(double, optional, tag = "5")]
    sum: Option<f64>,
    #[prost(fixed64, repeated, tag = "6")]
    counts: Vec<u64>,
    #[prost(double, repeated, tag = "7")]
    bounds: Vec<f64>,
    #[prost(message, repeated, tag = "8")]
    exemplars: Vec<Sampled>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sampled {
    #[prost(fixed64, tag = "2")]
    time: u64,
    #[prost(double, tag = "3")]
    value: f64,
    #[prost(bytes = "vec", tag = "4")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    trace_id: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LogRecord {
    #[prost(fixed64, tag = "1")]
    time: u64,
    #[prost(int32, tag = "2")]
    severity: i32,
    #[prost(string, tag = "3")]
    severity_text: String,
    #[prost(message, optional, tag = "5")]
    body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
    #[prost(uint32, tag = "7")]
    left_out: u32,
    #[prost(fixed32, tag = "8")]
    flags: u32,
    #[prost(bytes = "vec", tag = "9")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    span_id: Vec<u8>,
    #[prost(fixed64, tag = "11")]
    observed: u64,
    #[prost(string, tag = "12")]
    event_name: String,
}

/// Fields of number 2, as they wait.
#[derive(Clone, PartialEq, prost::Message)]
struct Waiting {
    #[prost(bytes = "vec", repeated, tag = "2")]
    items: Vec<Vec<u8>>,
}

fn resource() -> Vec<u8> {
    let mut out = Vec::new();
    key_value(&mut out, 1, "service.name", Value::Text("mcp-authz"));
    out
}

/// The items of a request, which is otherwise as it should be.
fn items(body: &[u8]) -> Vec<Vec<u8>> {
    let request = Request::decode(body).unwrap();
    let [of_resource] = request.resources.as_slice() else { panic!("{request:?}") };
    assert_eq!(of_resource.resource, Some(Attributes::decode(&resource()[..]).unwrap()));
    let [of_scope] = of_resource.scopes.as_slice() else { panic!("{request:?}") };
    assert_eq!(of_scope.scope.as_ref().unwrap().name, "mcp-authz");
    of_scope.items.clone()
}

fn metrics_of(body: &[u8]) -> Vec<Metric> {
    items(body).iter().map(|item| Metric::decode(&item[..]).unwrap()).collect()
}

fn said(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.any.as_ref()) {
        Some(Any::Text(text)) => text.clone(),
        Some(Any::Bool(value)) => format!("bool {value}"),
        Some(Any::Int(value)) => format!("int {value}"),
        None => String::new(),
    }
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    attributes.iter().map(|attribute| (&*attribute.key, said(attribute.value.as_ref()))).collect()
}

fn float<N: ToString>(whole: &N) -> f64 {
    whole.to_string().parse().unwrap()
}

const TIMES: Times = Times { started_ms: 1_000, now_ms: 1_800_000_000_250 };
const NOW_NS: u64 = 1_800_000_000_250_000_000;

fn busy() -> (Metrics, Page) {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, TIMES.started_ms);
    metrics.set_servers(["a", "b"]);
    metrics.set_counters([("p", "c")], 10);
    let span = TraceContext { trace_id: [0xab; 16], span_id: [0xcd; 8], sampled: true };
    for (at, method) in METHODS.iter().enumerate() {
        let elapsed = Duration::from_micros(10).saturating_mul(u32::try_from(at).unwrap());
        let exemplar = (at == 3).then_some(Exemplar { span, time_ms: TIMES.now_ms });
        metrics.request(Verdict::Allow, "a", method, elapsed, exemplar);
    }
    metrics.error(ErrorKind::Tls);
    metrics.rule_hit("p", "/tools/\"x\\y\"/mask/0", 2);
    metrics.config_taken(1_700_000_000_500);
    (metrics.clone(), Page::new(Arc::new(registry), metrics))
}

/// Every sample of the page arrives with its value, under its labels; nothing else arrives.
#[test]
fn metrics_say_what_the_page_says() {
    let (_metrics, page) = busy();
    let page = page.text().unwrap();
    let batches = requests(&page, &resource(), TIMES);
    let [batch] = batches.as_slice() else { panic!("{}", batches.len()) };
    let mut sent = BTreeMap::new();
    for metric in metrics_of(&batch.body) {
        let key = |part: &str, attributes: &[KeyValue], more: Option<(&str, String)>| {
            let mut labels = self::attributes(attributes);
            labels.extend(more);
            format!("{}{part} {labels:?}", metric.name)
        };
        for (numbers, part) in [(&metric.gauge, ""), (&metric.sum, "_total")] {
            for point in numbers.iter().flat_map(|numbers| &numbers.points) {
                let value = point.double.unwrap_or_else(|| float(&point.int.unwrap()));
                assert!(sent.insert(key(part, &point.attributes, None), value).is_none());
            }
        }
        for point in metric.histogram.iter().flat_map(|histogram| &histogram.points) {
            assert_eq!((point.counts.len(), point.bounds.len()), (17, 16));
            sent.insert(key("_count", &point.attributes, None), float(&point.count));
            sent.insert(key("_sum", &point.attributes, None), point.sum.unwrap());
            let mut so_far = 0;
            for (at, count) in point.counts.iter().enumerate() {
                so_far += count;
                let bound = point.bounds.get(at).map_or("+Inf".to_owned(), |bound| format!("{bound:?}"));
                sent.insert(key("_bucket", &point.attributes, Some(("le", bound))), float(&so_far));
            }
        }
    }
    let mut shown = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.split(" # ").next().unwrap().rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap();
        let labels: BTreeMap<&str, String> = labels
            .split("\",")
            .filter_map(|label| label.split_once("=\""))
            .map(|(key, value)| {
                let value = value.trim_end_matches('"').to_owned();
                // The same number in the same form.
                let bound = value.parse::<f64>().ok().filter(|bound| key == "le" && bound.is_finite());
                (key, bound.map_or(value, |bound| format!("{bound:?}")))
            })
            .collect();
        // One label of this page holds what has to be escaped.
        let labels =
            format!("{labels:?}").replace("/tools/\\\\\\\"x\\\\\\\\y\\\\\\\"/mask", "/tools/\\\"x\\\\y\\\"/mask");
        shown.insert(format!("{name} {labels}"), value.parse::<f64>().unwrap());
    }
    assert_eq!(sent, shown);
    assert!(sent.len() > 200, "{}", sent.len());
    assert_eq!(super::openmetrics::read(&page).1, 0, "every line is read");
}

#[test]
fn each_kind_of_metric_is_sent_as_its_kind() {
    let (_metrics, page) = busy();
    let batches = requests(&page.text().unwrap(), &resource(), TIMES);
    let all: BTreeMap<String, Metric> =
        metrics_of(&batches[0].body).into_iter().map(|metric| (metric.name.clone(), metric)).collect();
    let requests = all["mcp_authz_requests"].sum.as_ref().unwrap();
    assert_eq!((requests.temporality, requests.is_monotonic), (2, true));
    let point = &requests.points[0];
    assert_eq!((point.start, point.time, point.int), (1_000_000_000, NOW_NS, Some(1)));
    assert_eq!(
        (all["mcp_authz_requests"].description.as_str(), all["mcp_authz_requests"].unit.as_str()),
        ("Decisions.", "")
    );
    let build = all["mcp_authz_build_info"].gauge.as_ref().unwrap();
    assert_eq!(attributes(&build.points[0].attributes)["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((build.points[0].int, build.points[0].start), (Some(1), 0));
    let last = &all["mcp_authz_config_last_success_timestamp_seconds"];
    assert_eq!((last.gauge.as_ref().unwrap().points[0].double, last.unit.as_str()), (Some(1_700_000_000.5), "s"));
    assert_eq!(all["mcp_authz_response_held_bytes"].unit, "By");
    let durations = &all["mcp_authz_check_duration_seconds"];
    let histogram = durations.histogram.as_ref().unwrap();
    assert_eq!((histogram.temporality, histogram.points.len(), durations.unit.as_str()), (2, 2, "s"));
    let allow = histogram.points.iter().find(|point| attributes(&point.attributes)["decision"] == "allow").unwrap();
    assert_eq!((allow.start, allow.time), (1_000_000_000, NOW_NS));
    let sampled = Sampled { time: NOW_NS, value: 0.000_03, span_id: vec![0xcd; 8], trace_id: vec![0xab; 16] };
    assert_eq!(allow.exemplars, [sampled]);
}

#[test]
fn many_points_go_in_several_requests_that_collectors_take() {
    let (metrics, page) = busy();
    let names: Vec<String> = (0..30_000).map(|n| format!("counter_{n}")).collect();
    metrics.set_counters(names.iter().map(|name| ("policy", name.as_str())), usize::MAX);
    let page = page.text().unwrap();
    let batches = requests(&page, &resource(), TIMES);
    assert!(batches.len() > 5, "{}", batches.len());
    let mut points = 0;
    for batch in &batches {
        assert!(batch.body.len() < 3 * 1024 * 1024, "{}", batch.body.len());
        let of_batch: usize = metrics_of(&batch.body)
            .iter()
            .map(|metric| {
                let numbers = [&metric.gauge, &metric.sum].into_iter().flatten().map(|numbers| numbers.points.len());
                numbers.sum::<usize>() + metric.histogram.as_ref().map_or(0, |histogram| histogram.points.len())
            })
            .sum();
        assert_eq!(batch.points, u64::try_from(of_batch).unwrap());
        points += of_batch;
    }
    let samples = page.lines().filter(|line| !line.starts_with('#') && !line.contains("_seconds_bucket")).count();
    // The sum and the count of a histogram are one point.
    let histograms = page.lines().filter(|line| line.contains("_seconds_sum")).count();
    assert_eq!(points, samples - histograms);
}

#[test]
fn nothing_is_sent_of_an_empty_page() {
    assert_eq!(requests("# EOF\n", &resource(), TIMES), []);
}

/// What is in the queue after these events, and how many found no room.
fn logged(events: impl FnOnce()) -> (Vec<LogRecord>, u64) {
    let mut registry = Registry::default();
    let queue = logs::queue(Metrics::new(&mut registry, 0));
    let layer = LogLayer::new(Arc::clone(&queue), Arc::new(ManualClock::new(TIMES.now_ms)));
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(LogLayer::targets(LevelFilter::INFO)));
    tracing::subscriber::with_default(subscriber, events);
    let waiting = queue.take_all();
    let items = Waiting::decode(&waiting[..]).unwrap().items;
    let records = items.iter().map(|record| LogRecord::decode(&record[..]).unwrap()).collect();
    let mut page = String::new();
    text::encode(&mut page, &registry).unwrap();
    let line = "mcp_authz_telemetry_items_total{signal=\"logs\",outcome=\"dropped\"} ";
    (records, page.lines().find_map(|shown| shown.strip_prefix(line)?.parse().ok()).unwrap())
}

#[test]
fn a_message_becomes_a_record_with_its_fields() {
    let error = std::io::Error::other("outer");
    let (records, lost) = logged(|| {
        tracing::warn!(
            target: "mcp_authz::engine",
            server = "alpha", n = 3_u64, ok = true, what = ?Some("x"), error = &error as &dyn std::error::Error,
            trace_id = "0af7651916cd43dd8448eb211c80319c", span_id = "b7ad6b7169203331",
            "Something happened."
        );
        tracing::error!(target: "mcp_authz", "Worse.");
    });
    assert_eq!((records.len(), lost), (2, 0));
    let record = &records[0];
    assert_eq!((record.time, record.observed), (NOW_NS, NOW_NS));
    assert_eq!((record.severity, record.severity_text.as_str()), (13, "WARN"));
    assert_eq!(said(record.body.as_ref()), "Something happened.");
    let expected = [
        ("mcp_authz.error", "outer"),
        ("mcp_authz.n", "int 3"),
        ("mcp_authz.ok", "bool true"),
        ("mcp_authz.server", "alpha"),
        ("mcp_authz.target", "mcp_authz::engine"),
        ("mcp_authz.what", "Some(\"x\")"),
    ];
    assert_eq!(attributes(&record.attributes), expected.map(|(key, value)| (key, value.to_owned())).into());
    let context = TraceContext::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
    assert_eq!((&record.trace_id[..], &record.span_id[..]), (&context.trace_id[..], &context.span_id[..]));
    assert_eq!((record.flags, record.left_out, record.event_name.as_str()), (1, 0, ""));
    assert_eq!((records[1].severity, records[1].trace_id.len()), (17, 0));
}

#[test]
fn libraries_and_the_exporter_itself_are_not_sent() {
    let (records, lost) = logged(|| {
        tracing::error!(target: "h2::codec", "headers with a token");
        tracing::error!(target: "mcp_authz::telemetry::otlp::transport", "the collector is gone");
        tracing::debug!(target: "mcp_authz", "too fine");
        tracing::info!(target: "mcp_authz::settle", "ours");
    });
    assert_eq!((records.len(), lost), (1, 0));
    assert_eq!(said(records[0].body.as_ref()), "ours");
}

#[test]
fn a_long_message_is_cut_and_the_queue_is_bounded() {
    let long = "é".repeat(5_000);
    let (records, _) = logged(|| {
        let l = long.as_str();
        tracing::info!(target: "mcp_authz", a = l, b = l, c = l, d = l, e = l, "{long}x");
    });
    assert_eq!(said(records[0].body.as_ref()), "é".repeat(2_048));
    // The target and three values fit into 16 KiB.
    assert_eq!((records[0].attributes.len(), records[0].left_out), (4, 2));
    let exact = "x".repeat(4_096);
    let (records, _) = logged(|| tracing::info!(target: "mcp_authz", "{exact}"));
    assert_eq!(said(records[0].body.as_ref()), exact);
    let (records, lost) = logged(|| (0..2_050).for_each(|n| tracing::info!(target: "mcp_authz", n, "one of many")));
    assert_eq!((records.len(), lost), (2_048, 2));
}

#[test]
fn audit_lines_go_whole_and_say_when_and_where() {
    let line = concat!(
        r#"{"event_hash":"x","extensions":{"io.mcp-authz/decision":{"args":{"trace_id":"lie"},"span_id":"b7ad6b7169203331","#,
        r#""trace_id":"0af7651916cd43dd8448eb211c80319c"}},"occurred_at":"2027-01-15T08:00:00.25Z","outcome":"allowed"}"#
    );
    let record = LogRecord::decode(&logs::of_line(line.as_bytes(), TIMES.now_ms + 5)[..]).unwrap();
    assert_eq!(said(record.body.as_ref()), line);
    assert_eq!((record.time, record.observed), (NOW_NS, NOW_NS + 5_000_000));
    assert_eq!(attributes(&record.attributes), [("event.name", "mcp_authz.audit".to_owned())].into());
    assert_eq!((record.event_name.as_str(), record.severity), ("mcp_authz.audit", 9));
    assert_eq!((record.trace_id[0], record.span_id[7], record.flags), (0x0a, 0x31, 1));
    for odd in [&b"no json"[..], br#"{"occurred_at":7}"#, br#"{"extensions":{"a":{"trace_id":"00"}}}"#, b"\xff"] {
        let record = LogRecord::decode(&logs::of_line(odd, TIMES.now_ms)[..]).unwrap();
        assert_eq!(said(record.body.as_ref()), String::from_utf8_lossy(odd));
        assert_eq!((record.time, record.trace_id.len()), (NOW_NS, 0));
    }
}

#[test]
fn records_are_packed_into_requests_that_collectors_take() {
    let of = |count: usize, bytes: usize| {
        let packed = logs::requests(std::iter::repeat_n(vec![0x0a; bytes], count), &resource());
        packed
            .iter()
            .map(|(body, count)| {
                assert_eq!(u64::try_from(items(body).len()).unwrap(), *count);
                *count
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(of(0, 10), [] as [u64; 0]);
    assert_eq!(of(3, 10), [3]);
    assert_eq!(of(3, 1024 * 1024), [1, 1, 1]);
    assert_eq!(of(3, 1024 * 1024 - 10), [2, 1]);
    assert_eq!(of(2, 3 * 1024 * 1024), [1, 1], "what is longer than a request goes alone");
}
