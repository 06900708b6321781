use std::path::PathBuf;

use mcp_authz_core::document::Format;

use super::*;
use crate::{config::Config, telemetry::otlp::env::Env};

/// The section `telemetry` as YAML, and variables.
fn merge<const N: usize>(section: &str, variables: [(&str, &str); N]) -> Result<Settings, Vec<String>> {
    let text = format!("listen: {{grpc: ['tcp://127.0.0.1:0'], admin: '127.0.0.1:0'}}\ntelemetry: {section}\n");
    let shown = |defects: Vec<Defect>| defects.iter().map(ToString::to_string).collect::<Vec<_>>();
    let config = Config::parse("c.yaml", text.as_bytes(), Format::Yaml, Path::new("/etc")).map_err(shown)?;
    let said = Said::read(&Env::from(variables)).map_err(shown)?;
    Settings::new(&config.telemetry, &said, "one").map_err(shown)
}

fn urls(settings: &Settings) -> [Option<String>; 3] {
    [Signal::Logs, Signal::Metrics, Signal::Traces]
        .map(|signal| settings.target(signal).map(|target| target.url.to_string()))
}

const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");

#[test]
fn nothing_is_sent_unless_somebody_names_a_collector() {
    let off = merge("{}", []).unwrap();
    assert!(off.is_off() && off.warnings.is_empty());
    assert!(merge("{traces: {enabled: true, ratio: 0.5}}", []).unwrap().is_off());
    let half = merge("{}", [("OTEL_EXPORTER_OTLP_HEADERS", "a=b")]).unwrap();
    assert!(half.is_off());
    let told = "telemetry: OTEL_EXPORTER_OTLP_… is set, and no collector is named: nothing is sent (set `telemetry.otlp.endpoint` or OTEL_EXPORTER_OTLP_ENDPOINT)";
    assert_eq!(half.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [told]);
}

#[test]
fn any_of_three_ways_names_a_collector() {
    let grpc = |signal: Signal| Some(format!("http://localhost:4317{}", grpc_path(signal)));
    let all = [grpc(Signal::Logs), grpc(Signal::Metrics), grpc(Signal::Traces)];
    assert_eq!(urls(&merge("{otlp: {}}", []).unwrap()), all);
    assert_eq!(urls(&merge("{}", [COLLECTOR]).unwrap()), all);
    assert_eq!(urls(&merge("{}", [("OTEL_TRACES_EXPORTER", "otlp")]).unwrap()), [None, None, grpc(Signal::Traces)]);
    let http = merge("{otlp: {protocol: http/protobuf}}", []).unwrap();
    assert_eq!(urls(&http)[2].as_deref(), Some("http://localhost:4318/v1/traces"));
}

#[test]
fn signals_are_turned_off_one_by_one_or_all_at_once() {
    let sent = |settings: Settings| urls(&settings).map(|url| url.is_some());
    assert_eq!(sent(merge("{otlp: {}, logs: {enabled: false}}", []).unwrap()), [false, true, true]);
    assert_eq!(sent(merge("{otlp: {}}", [("OTEL_METRICS_EXPORTER", "none")]).unwrap()), [true, false, true]);
    let file_first = merge("{otlp: {}, metrics: {enabled: true}}", [("OTEL_METRICS_EXPORTER", "none")]).unwrap();
    assert_eq!(sent(file_first), [true; 3], "the file goes first");
    let off = merge("{otlp: {}}", [("OTEL_SDK_DISABLED", "true")]).unwrap();
    assert!(off.is_off());
    assert_eq!(off.warnings.len(), 1, "but not silently");
}

#[test]
fn the_file_goes_before_the_environment_and_one_signal_before_all() {
    let variables = [
        COLLECTOR,
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/whole/path/"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "200"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "100"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "b=2"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca"),
    ];
    let settings = merge("{}", variables).unwrap();
    let target = |signal: Signal| settings.target(signal).unwrap();
    assert_eq!(target(Signal::Traces).url.to_string(), "http://127.0.0.1:9/whole/path");
    assert_eq!(target(Signal::Logs).timeout, Duration::from_millis(100));
    assert_eq!(target(Signal::Traces).timeout, Duration::from_millis(200));
    assert_eq!(target(Signal::Metrics).headers.names(), ["b"]);
    assert_eq!(target(Signal::Logs).headers.names(), ["a"]);
    assert_eq!(target(Signal::Logs).tls.ca.as_deref(), Some(Path::new("/ca")));

    let section = "{otlp: {endpoint: 'https://c', protocol: http/protobuf, timeout_ms: 7, tls: {ca: mine.pem}}}";
    let settings = merge(section, variables).unwrap();
    let expected = ["/v1/logs", "/v1/metrics", "/v1/traces"].map(|path| Some(format!("https://c{path}")));
    assert_eq!(urls(&settings), expected);
    let target = settings.target(Signal::Logs).unwrap();
    assert_eq!(
        (target.timeout, target.tls.ca.clone()),
        (Duration::from_millis(7), Some(PathBuf::from("/etc/mine.pem")))
    );
}

#[test]
fn of_traces_everything_has_a_default_a_variable_and_a_key() {
    let plain = merge("{otlp: {}}", []).unwrap();
    assert_eq!((plain.traces, plain.sampler, plain.propagates), (Batch::default(), Sampler::default(), true));
    let variables = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "200"),
        ("OTEL_BSP_SCHEDULE_DELAY", "3"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "4"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
        ("OTEL_PROPAGATORS", "none"),
    ];
    let of_env = merge("{otlp: {}}", variables).unwrap();
    let batch = Batch { queue_max: 100, items_max: 100, delay: Duration::from_millis(3) };
    assert_eq!((of_env.traces, of_env.propagates), (batch, false), "a batch is no longer than the queue");
    assert_eq!(of_env.target(Signal::Traces).unwrap().timeout, Duration::from_millis(4));
    assert_eq!(of_env.target(Signal::Logs).unwrap().timeout, TIMEOUT);
    assert_eq!(of_env.sampler.ratio.to_string(), "0");
    assert_eq!(of_env.metric_interval, Duration::from_secs(5));
    let section =
        "{otlp: {}, traces: {ratio: 0.125, queue_max: 9, batch_max: 8, delay_ms: 7}, metrics: {interval_ms: 1000}}";
    let of_file = merge(section, variables).unwrap();
    assert_eq!(of_file.traces, Batch { queue_max: 9, items_max: 8, delay: Duration::from_millis(7) });
    assert_eq!(of_file.sampler.ratio.to_string(), "0.125");
    assert_eq!(of_file.metric_interval, Duration::from_secs(1));
}

#[test]
fn what_is_sent_in_the_clear_is_warned_of_once() {
    let told = |settings: Settings| settings.warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    let far = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    assert_eq!(told(merge("{}", [COLLECTOR, ("OTEL_EXPORTER_OTLP_HEADERS", "a=1")]).unwrap()), [""; 0]);
    let one = told(merge("{}", [far]).unwrap());
    assert!(one.len() == 1 && one[0].contains("OTEL_EXPORTER_OTLP_ENDPOINT is not encrypted"), "{one:?}");
    let two = told(merge("{}", [far, ("OTEL_EXPORTER_OTLP_HEADERS", "a=canary")]).unwrap());
    assert!(two.len() == 2 && two[1].contains("the headers for the collector"), "{two:?}");
    assert!(!two.concat().contains("canary"));
    let port = told(merge("{otlp: {endpoint: 'http://localhost:4318'}}", []).unwrap());
    assert!(port.len() == 1 && port[0].contains("has port 4318"), "{port:?}");
}

#[test]
fn what_cannot_be_used_is_told_with_its_place() {
    let told = merge("{otlp: {endpoint: 'http://localhost:4317/v1/traces'}}", []).unwrap_err();
    assert!(told.len() == 1 && told[0].starts_with("telemetry: telemetry.otlp.endpoint has a path"), "{told:?}");
    let told = merge("{otlp: {headers_file: /nowhere}}", []).unwrap_err();
    assert!(told.len() == 1 && told[0].starts_with("telemetry: telemetry.otlp.headers_file `/nowhere`"), "{told:?}");
    let section = "{otlp: {endpoint: 'https://u:canary@c', protocol: http/json, timeout_ms: 0, tls: {key: a}, x: 1}, traces: {ratio: 2, queue_max: 0, batch_max: 100001, delay_ms: 0}, metrics: {interval_ms: 999}, logs: {enabled: 1}}";
    let told = merge(section, []).unwrap_err();
    assert_eq!(told.len(), 11, "{told:#?}");
    assert!(!told.concat().contains("canary"));
}

#[test]
fn header_lines_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        merge(&format!("{{otlp: {{headers_file: {}}}}}", file.display()), [("OTEL_EXPORTER_OTLP_HEADERS", "b=2")])
    };
    let settings = read("Authorization: Bearer: canary\n\nx-tenant:a\n").unwrap();
    let target = settings.target(Signal::Traces).unwrap();
    assert_eq!(target.headers, HeaderLines::new([("authorization", "Bearer: canary"), ("x-tenant", "a")]).unwrap());
    let shown = format!("{settings:?}{}", settings.to_json());
    assert!(shown.contains("x-tenant") && !shown.contains("canary"), "{shown}");
    for text in ["canary", "a b: canary", "host: canary", "a: canary\u{1}"] {
        let told = read(text).unwrap_err().concat();
        assert!(told.contains("cannot be used") && !told.contains("canary"), "{told}");
    }
    let at_limit = "a:b\n".repeat(16 * 1024);
    assert!(read(&at_limit).unwrap_err().concat().contains("more than 32 headers"));
    assert!(read(&format!("{at_limit}\n")).unwrap_err().concat().contains("65536"));
}

#[test]
fn the_resource_says_who_we_are_and_operators_may_say_otherwise() {
    let of = |settings: Settings| {
        settings.attributes.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    let version = concat!("service.version=", env!("CARGO_PKG_VERSION"));
    assert_eq!(of(merge("{otlp: {}}", []).unwrap()), ["service.instance.id=one", "service.name=mcp-authz", version]);
    let variables =
        [("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,service.version=2,zone=b"), ("OTEL_SERVICE_NAME", "gate")];
    let expected = ["service.instance.id=one", "service.name=gate", "service.version=2", "zone=b"];
    assert_eq!(of(merge("{otlp: {}}", variables).unwrap()), expected);
}
