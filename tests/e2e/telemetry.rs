//! Telemetry at a real OpenTelemetry collector: from the real Envoy and the real authorizer, as `deploy/TELEMETRY.md` sets them up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mcp_authz::clock::SystemClock;
use mcp_authz::config;
use mcp_authz::telemetry::metrics::Metrics;
use mcp_authz::telemetry::names::{CHECK_SPAN, SPANS, SpanOf};
use mcp_authz::telemetry::otlp::endpoint::Endpoint;
use mcp_authz::telemetry::otlp::env::Said;
use mcp_authz::telemetry::otlp::logs::LineExport;
use mcp_authz::telemetry::otlp::{Settings as OtlpSettings, Transport, resource};
use prometheus_client::registry::Registry;
use serde_json::Value;
use test_redis::RedisServer;

use super::harness::authz::{Grant, Settings, token};
use super::harness::collector::{Collector, Record, Span, attributes};
use super::harness::http1::Request;
use super::harness::message;
use super::harness::stack::{Options, Stack};
use super::harness::{free_address, root, until};

const POLICY: &str = "version: '2'\ndefault: deny\ntools:\n  list_issues: {}\n";

fn settings(telemetry: &str) -> Settings {
    Settings {
        config: format!("{telemetry}\nresponse: {{record: policy}}\n"),
        policies: vec![("main.yaml".to_owned(), POLICY.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    }
}

fn call(tool: &str) -> Request {
    Request::post("/mcp", message::call(tool, "{}")).bearer(&token("agent"))
}

/// The sum of the points of a metric whose attributes hold these.
fn value(metric: &Value, wanted: &[(&str, &str)]) -> f64 {
    let points = ["sum", "gauge"].iter().find_map(|kind| metric[kind]["dataPoints"].as_array());
    let is_wanted = |point: &&Value| {
        let labels = attributes(&point["attributes"]);
        wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|label| label == value))
    };
    let number = |point: &Value| {
        let whole = point["asInt"].as_str().and_then(|text| text.parse().ok());
        whole.or_else(|| point["asDouble"].as_f64()).unwrap_or_default()
    };
    points.into_iter().flatten().filter(is_wanted).map(number).sum()
}

/// What a scrape says of a series.
async fn scraped(stack: &Stack, series: &str) -> f64 {
    let page = stack.authz.admin("/metrics").await.text();
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("no {series} in {page}"))
}

/// The whole way of metrics and logs, over both protocols; the last of both goes out at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_logs_arrive_over_both_protocols() {
    for (protocol, is_grpc) in [("grpc", true), ("http/protobuf", false)] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let collector = Collector::start(dir.path()).await;
        let address = if is_grpc { collector.grpc } else { collector.http };
        let telemetry = format!(
            "telemetry: {{otlp: {{endpoint: 'http://{address}', protocol: {protocol}}}, metrics: {{interval_ms: 1000}}}}"
        );
        let mut stack = Stack::start(&Options { authz: settings(&telemetry), ..Options::default() }).await;
        assert_eq!(stack.send(&call("list_issues")).await.status, 200);
        let allowed = [("decision", "allow"), ("server", "alpha"), ("method", "tools/call")];
        let (resource, metrics) = until("the decision is counted at the collector", async || {
            let (resource, metrics) = collector.metrics();
            let requests = metrics.get("mcp_authz_requests")?;
            (value(requests, &allowed) >= 1.0).then_some((resource, metrics))
        })
        .await;
        assert_eq!(resource.get("service.name").map(String::as_str), Some("mcp-authz"));
        assert_eq!(resource.get("service.version").map(String::as_str), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(resource.get("service.instance.id").map(String::len), Some(36));
        kinds_are_right(&metrics);
        stack.send(&call("nobody_allows_this")).await;
        stack.authz.process.signal("TERM").await;
        assert!(stack.authz.process.ended().await.success());
        // The collector has taken all of it, and writes it in its own time.
        until("the last of both is written", async || {
            let (_, metrics) = collector.metrics();
            let is_told = collector.logs().iter().any(|record| record.body == "Stopped.");
            (is_told && value(&metrics["mcp_authz_requests"], &[]) == 2.0).then_some(())
        })
        .await;
        let logs = collector.logs();
        for (severity, body) in [("INFO", "Listening."), ("INFO", "Ready."), ("INFO", "Stopped.")] {
            let record = logs.iter().find(|record| record.body == body);
            let record = record.unwrap_or_else(|| panic!("no `{body}` in {logs:?}"));
            assert_eq!(record.severity, severity);
            assert_eq!(
                record.attributes.get("mcp_authz.target").map(String::as_str),
                Some("mcp_authz::command::serve")
            );
        }
        let ready = logs.iter().find(|record| record.body == "Ready.").expect("found above");
        assert!(ready.attributes.get("mcp_authz.revision").is_some_and(|revision| revision.starts_with("sha256:")));
    }
}

fn kinds_are_right(metrics: &BTreeMap<String, Value>) {
    let requests = &metrics["mcp_authz_requests"]["sum"];
    assert_eq!((&requests["aggregationTemporality"], &requests["isMonotonic"]), (&2.into(), &true.into()));
    let durations = &metrics["mcp_authz_check_duration_seconds"];
    assert_eq!(durations["unit"], "s");
    let points = durations["histogram"]["dataPoints"].as_array().expect("points");
    assert_eq!(points.len(), 2, "allow and deny");
    assert_eq!(points[0]["explicitBounds"].as_array().map(Vec::len), Some(16));
    assert_eq!(value(&metrics["mcp_authz_build_info"], &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert!(value(&metrics["process_start_time_seconds"], &[]) > 1.7e9);
}

/// Nobody listens, or somebody who never answers: calls go on as fast, and what is lost is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_gone_or_stuck_holds_up_nothing() {
    let stuck = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    for (what, address) in [("gone", free_address()), ("stuck", stuck.local_addr().expect("bound"))] {
        let telemetry = format!(
            "telemetry: {{otlp: {{endpoint: 'http://{address}', timeout_ms: 500}}, metrics: {{interval_ms: 1000}}}}"
        );
        let mut stack = Stack::start(&Options { authz: settings(&telemetry), ..Options::default() }).await;
        let started = tokio::time::Instant::now();
        for _ in 0..50 {
            assert_eq!(stack.send(&call("list_issues")).await.status, 200, "{what}");
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{what}: {:?}", started.elapsed());
        for signal in ["logs", "metrics"] {
            let series = format!("mcp_authz_telemetry_items_total{{signal=\"{signal}\",outcome=\"dropped\"}}");
            until(&format!("{signal} are dropped: {what}"), async || {
                (scraped(&stack, &series).await > 0.0).then_some(())
            })
            .await;
        }
        let denied =
            "mcp_authz_requests_total{decision=\"allow\",reason=\"allowed\",server=\"alpha\",method=\"tools/call\"}";
        assert_eq!(scraped(&stack, denied).await, 50.0);
        stack.authz.process.signal("TERM").await;
        assert!(stack.authz.process.ended().await.success(), "{what}: it ends all the same");
        assert!(stack.authz.process.output().contains("Telemetry did not get to the collector"), "{what}");
    }
}

/// What was not there when the process began is found once it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_comes_later_gets_the_whole_count() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let address = free_address();
    let telemetry = format!(
        "telemetry: {{otlp: {{endpoint: 'http://{address}', timeout_ms: 500}}, metrics: {{interval_ms: 1000}}}}"
    );
    let stack = Stack::start(&Options { authz: settings(&telemetry), ..Options::default() }).await;
    assert_eq!(stack.send(&call("list_issues")).await.status, 200);
    let dropped = "mcp_authz_telemetry_items_total{signal=\"metrics\",outcome=\"dropped\"}";
    until("an export failed", async || (scraped(&stack, dropped).await > 0.0).then_some(())).await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let collector = Collector::start_at(dir.path(), address, any).await;
    until("the count is there", async || {
        let (_, metrics) = collector.metrics();
        (value(metrics.get("mcp_authz_requests")?, &[("decision", "allow")]) == 1.0).then_some(())
    })
    .await;
}

/// What the sink of the audit stream relies on: that it is told whether its lines are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_lines_arrive_whole_or_it_is_told() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let collector = Collector::start(dir.path()).await;
    let lines = |address: SocketAddr| {
        let otlp = config::telemetry::Otlp {
            endpoint: Some(Endpoint::parse(&format!("http://{address}"), None).expect("an address")),
            timeout: Some(Duration::from_millis(500)),
            ..config::telemetry::Otlp::default()
        };
        let config = config::telemetry::Telemetry { otlp: Some(otlp), ..config::telemetry::Telemetry::default() };
        let settings = OtlpSettings::new(&config, &Said::default(), "").expect("legal");
        let transport = Transport::new(&settings, Metrics::new(&mut Registry::default(), 0)).expect("no files");
        LineExport {
            transport: Arc::new(transport),
            resource: resource(&settings),
            clock: Arc::new(SystemClock::new()),
        }
    };
    let own = format!(r#"{{"extensions":{{"io.mcp-authz/decision":{{"span_id":"{CALLER}","trace_id":"{TRACE}"}}}}}}"#);
    let long = format!("{{\"a\":\"{}\"}}", "é".repeat(1_000_000));
    let export = lines(collector.grpc);
    export.export_lines(&[own.as_bytes(), long.as_bytes()]).await.expect("the collector is there");
    // The collector has said that it has them; it writes them in its own time.
    let logs = until("both are written", async || Some(collector.logs()).filter(|logs| logs.len() == 2)).await;
    for (record, line) in logs.iter().zip([&own, &long]) {
        assert_eq!((&record.body, record.event.as_str()), (line, "mcp_authz.audit"));
        assert_eq!(record.attributes.get("event.name").map(String::as_str), Some("mcp_authz.audit"));
    }
    assert_eq!((logs[0].trace_id.as_str(), logs[0].span_id.as_str()), (TRACE, CALLER));
    assert_eq!(logs[1].trace_id, "");
    let error = lines(free_address()).export_lines(&[own.as_bytes()]).await.expect_err("nobody is there");
    assert!(error.to_string().contains("could not be reached"), "{error}");
}

/// The audit at the collector, as the real binary sends it: what is taken out of the collector is still proof.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_arrives_and_its_chain_holds() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let collector = Collector::start(dir.path()).await;
    let telemetry = format!(
        "telemetry: {{otlp: {{endpoint: 'http://{}'}}}}\naudit: {{sink: otlp, fail_closed: true}}",
        collector.grpc
    );
    let mut stack = Stack::start(&Options { authz: settings(&telemetry), ..Options::default() }).await;
    assert_eq!(stack.send(&call("list_issues")).await.status, 200);
    stack.send(&call("nobody_allows_this")).await;
    stack.authz.process.signal("TERM").await;
    assert!(stack.authz.process.ended().await.success());
    let records = until("the end of the chain is written", async || {
        let logs = collector.logs();
        let records: Vec<Record> = logs.into_iter().filter(|record| record.event == "mcp_authz.audit").collect();
        records.iter().any(|record| record.body.contains(r#""event_type":"chain_end""#)).then_some(records)
    })
    .await;
    let denied = |record: &&Record| record.body.contains(r#""tool_name":"nobody_allows_this""#);
    let record = records.iter().find(denied).unwrap_or_else(|| panic!("no denial in {records:?}"));
    assert!(record.body.contains(r#""outcome":"denied""#) && record.severity == "INFO", "{record:?}");
    // Without a tracing Envoy the trace is that of the stream; the collector puts the record under it.
    assert!(record.body.contains(&format!(r#""trace_id":"{}""#, record.trace_id)) && record.trace_id.len() == 32);
    let lines: String = records.iter().map(|record| format!("{}\n", record.body)).collect();
    assert_eq!(verify(&lines), Some(0));
    assert_eq!(verify(&lines.replace("nobody_allows_this", "list_issues")), Some(1));
}

/// How `mcp-authz audit verify` ends on these lines, of a whole chain.
fn verify(lines: &str) -> Option<i32> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
    command.args(["audit", "verify", "--whole", "-"]).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().expect("the binary is there");
    let mut stdin = child.stdin.take().expect("asked for");
    std::io::Write::write_all(&mut stdin, lines.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait().expect("it ends").code()
}

/// A block of the page for operators.
fn block(name: &str) -> String {
    let page = std::fs::read_to_string(root().join("deploy/TELEMETRY.md")).expect("the page");
    let (_, rest) = page.split_once(&format!("```yaml {name}\n")).unwrap_or_else(|| panic!("no block `{name}`"));
    rest.split_once("```").expect("it ends").0.to_owned()
}

/// What makes Envoy send its spans, at once instead of every five seconds.
fn tracing_envoy(collector: SocketAddr) -> &'static [(&'static str, &'static str)] {
    const AT_ONCE: &str = "layered_runtime: {layers: [{name: tests, static_layer: {tracing.opentelemetry.min_flush_spans: 1, \
        tracing.opentelemetry.flush_interval_ms: 50}}]}\n\nstatic_resources:\n";
    let cluster = block("envoy-cluster").replace("port_value: 4317", &format!("port_value: {}", collector.port()));
    let edits = [
        ("static_resources:\n", AT_ONCE.to_owned()),
        ("          request_timeout: 10s\n", format!("{}          request_timeout: 10s\n", block("envoy-tracing"))),
        ("  clusters:\n", format!("  clusters:\n{cluster}")),
    ];
    // The settings hold texts of the program; what a test adds lives as long as the test.
    let edits: Vec<(&'static str, &'static str)> =
        edits.into_iter().map(|(from, to)| (from, &*Box::leak(to.into_boxed_str()))).collect();
    Box::leak(edits.into_boxed_slice())
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Attributes of the drawing: those that are the same in every run.
const SHOWN: [&str; 10] = [
    "db.system.name",
    "ext_authz_status",
    "gen_ai.tool.name",
    "http.status_code",
    "mcp_authz.decision",
    "mcp_authz.grant",
    "mcp_authz.outcome",
    "mcp_authz.policy",
    "mcp_authz.server",
    "upstream_cluster",
];

/// A trace as the page for operators shows it: who, what, and the attributes that say what became of it.
fn drawn(spans: &[Span]) -> String {
    let mut out = String::new();
    let is_root = |span: &&Span| !spans.iter().any(|other| other.id == span.parent);
    spans.iter().filter(is_root).for_each(|root| draw(&mut out, spans, root, 0));
    out
}

fn draw(out: &mut String, spans: &[Span], span: &Span, depth: usize) {
    let kind = usize::try_from(span.kind).ok().and_then(|kind| ["", "internal", "server", "client"].get(kind));
    let shown = span.attributes.iter().filter(|(key, _)| SHOWN.contains(&key.as_str()));
    let said: String = shown.map(|(key, value)| format!("  {key}={value}")).collect();
    let (indent, kind) = ("  ".repeat(depth), kind.expect("a kind"));
    out.push_str(&format!("{indent}{} [{} {kind}]{said}\n", span.name, span.service));
    let mut children: Vec<&Span> = spans.iter().filter(|child| child.parent == span.id).collect();
    children.sort_by_key(|child| child.start_ns);
    children.into_iter().for_each(|child| draw(out, spans, child, depth + 1));
}

/// Holds the page to a run, or makes it anew.
fn page_shows(trace: &str) {
    let path = root().join("deploy/TELEMETRY.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once("```text trace\n").expect("the page shows a trace");
    let (shown, after) = rest.split_once("```").expect("it ends");
    if std::env::var_os("MCP_AUTHZ_WRITE_TABLES").is_some() {
        std::fs::write(&path, format!("{before}```text trace\n{trace}```{after}")).expect("writable");
    } else {
        let how = "MCP_AUTHZ_WRITE_TABLES=1 cargo test --test e2e telemetry::one_trace";
        assert_eq!(shown, trace, "the trace of deploy/TELEMETRY.md is of another run; make it anew: {how}");
    }
}

/// Every attribute is listed on the page, under its span.
fn attributes_are_listed(span: &Span) {
    let is_it = |listed: &&SpanOf| listed.name == span.name || (listed.name == CHECK_SPAN && span.name.contains('/'));
    let listed = SPANS.iter().find(is_it).unwrap_or_else(|| panic!("no span is called `{}`", span.name));
    for key in span.attributes.keys() {
        assert!(listed.attributes.contains(&key.as_str()), "`{key}` of `{}` is not listed", span.name);
    }
}

const LIMITED: &str = "version: '2'\ndefault: deny\ntools:\n  create_refund: {limits: [{counter: refunds, window: day, \
                       scope: grant, max: 5}]}\n";

/// One trace from the client to the server, through everything between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_goes_from_the_client_to_the_server() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let collector = Collector::start(dir.path()).await;
    let redis = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let telemetry = format!(
        "telemetry: {{otlp: {{endpoint: 'http://{}'}}, traces: {{delay_ms: 100}}, metrics: {{interval_ms: 1000}}}}\n\
         ledger: {{redis: {{url: 'unix://{}'}}}}\n",
        collector.grpc,
        redis.socket().display()
    );
    let authz = Settings {
        config: telemetry,
        policies: vec![("main.yaml".to_owned(), LIMITED.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    };
    let edits = tracing_envoy(collector.grpc);
    let stack = Stack::start(&Options { authz, edits, ..Options::default() }).await;
    let response = stack.send(&call("create_refund").header("traceparent", format!("00-{TRACE}-{CALLER}-01"))).await;
    assert_eq!(response.status, 200, "{}", response.text());
    // What ends last of each sender: they send on their own.
    let whole = [
        "ingress",
        "async envoy.service.ext_proc.v3.ExternalProcessor.Process egress",
        "router mcp_server egress",
        "mcp_authz.response",
        "mcp_authz.reserve",
        "mcp_authz.settle",
    ];
    let spans = until("the trace is whole", async || {
        let spans: Vec<Span> = collector.spans().into_iter().filter(|span| span.trace_id == TRACE).collect();
        whole.iter().all(|name| spans.iter().any(|span| span.name == *name)).then_some(spans)
    })
    .await;
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{}", drawn(&spans)));
    let (check, asked) =
        (named("tools/call create_refund"), named("async envoy.service.auth.v3.Authorization.Check egress"));
    assert_eq!((named("ingress").parent.as_str(), asked.parent.as_str()), (CALLER, named("ingress").id.as_str()));
    assert_eq!((check.parent.as_str(), check.service.as_str(), check.kind), (asked.id.as_str(), "mcp-authz", 2));
    spans.iter().filter(|span| span.service == "mcp-authz").for_each(attributes_are_listed);
    page_shows(&drawn(&spans));
    let page = stack.authz.admin("/metrics").await.text();
    assert!(page.contains(&format!("# {{trace_id=\"{TRACE}\",span_id=\"{}\"}}", check.id)), "{page}");
    until("the exemplar is at the collector", async || {
        let (_, metrics) = collector.metrics();
        metrics.get("mcp_authz_check_duration_seconds")?.to_string().contains(TRACE).then_some(())
    })
    .await;
}

/// What Envoy does not record we do not record, and the server is told the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_envoy_does_not_sample_leave_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let collector = Collector::start(dir.path()).await;
    let telemetry =
        format!("telemetry: {{otlp: {{endpoint: 'http://{}'}}, traces: {{delay_ms: 100}}}}", collector.grpc);
    let options = Options { authz: settings(&telemetry), edits: tracing_envoy(collector.grpc), ..Options::default() };
    let stack = Stack::start(&options).await;
    let unsampled = call("list_issues").header("traceparent", format!("00-{TRACE}-{CALLER}-00"));
    assert_eq!(stack.send(&unsampled).await.status, 200);
    let other = TRACE.replace("0af7", "1af7");
    let denied = call("nobody_allows_this").header("traceparent", format!("00-{other}-{CALLER}-01"));
    stack.send(&denied).await;
    let spans = until("the later call is there", async || {
        let spans = collector.spans();
        spans.iter().any(|span| span.service == "mcp-authz" && span.trace_id == other).then_some(spans)
    })
    .await;
    let check = spans.iter().find(|span| span.service == "mcp-authz" && span.kind == 2).expect("found above");
    assert_eq!(check.name, "tools/call _other", "no name of a client's making");
    assert_eq!(check.attributes.get("mcp_authz.reason").map(String::as_str), Some("default_deny"));
    assert_eq!(check.status, 0, "a denial is no error");
    assert!(!spans.iter().any(|span| span.trace_id == TRACE), "{}", drawn(&spans));
    let hits = stack.upstream.take();
    let [hit] = hits.as_slice() else { panic!("{} hits", hits.len()) };
    let told = hit.values("traceparent");
    assert!(told.len() == 1 && told[0].starts_with(&format!("00-{TRACE}-")) && told[0].ends_with("-00"), "{told:?}");
}
