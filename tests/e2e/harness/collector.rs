//! A real OpenTelemetry collector that writes what it takes into a file, and what is in that file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::process::Process;
use super::{tool, until};

const CONFIG: &str = r#"
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "@GRPC@"}
      http: {endpoint: "@HTTP@"}
exporters:
  file: {path: @FILE@, append: true, flush_interval: 50ms}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [file]}
    metrics: {receivers: [otlp], exporters: [file]}
    logs: {receivers: [otlp], exporters: [file]}
"#;

/// A running collector.
pub(crate) struct Collector {
    /// Where it takes OTLP over gRPC.
    pub(crate) grpc: SocketAddr,
    /// Where it takes OTLP over HTTP.
    pub(crate) http: SocketAddr,
    _process: Process,
    file: PathBuf,
}

/// One span, of whoever sent it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// `service.name` of its sender.
    pub(crate) service: String,
    pub(crate) trace_id: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    /// Number of the kind: 1 internal, 2 server, 3 client.
    pub(crate) kind: u64,
    pub(crate) start_ns: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Number of the status: 0 unset, 2 error.
    pub(crate) status: u64,
}

/// One log record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) severity: String,
    pub(crate) body: String,
    pub(crate) event: String,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Collector {
    /// Starts it on ports that the system chooses.
    pub(crate) async fn start(dir: &Path) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_at(dir, any, any).await
    }

    /// Starts it at these addresses.
    pub(crate) async fn start_at(dir: &Path, grpc: SocketAddr, http: SocketAddr) -> Self {
        let (file, config) = (dir.join("collected.jsonl"), dir.join("collector.yaml"));
        let text = CONFIG.replace("@GRPC@", &grpc.to_string()).replace("@HTTP@", &http.to_string());
        let text = text.replace("@FILE@", &file.display().to_string());
        std::fs::write(&config, text).expect("the temporary folder is writable");
        let mut command = tokio::process::Command::new(tool("otelcol", "bin/otelcol"));
        command.arg("--config").arg(&config);
        let mut process = Process::start("otelcol", dir, command);
        let (grpc, http) = until("the collector listens", async || {
            process.assert_running();
            let said = process.output();
            said.contains("Everything is ready").then_some(())?;
            Some((endpoint(&said, "Starting GRPC server")?, endpoint(&said, "Starting HTTP server")?))
        })
        .await;
        Self { grpc, http, _process: process, file }
    }

    /// Everything that it took so far, one request after the other.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        // The last line may still be written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The items of one kind with the resource of their sender.
    fn items(&self, [of_resource, of_scope, items]: [&str; 3]) -> Vec<(BTreeMap<String, String>, Value)> {
        let requests = self.requests();
        let of_resources = requests.iter().flat_map(|request| list(&request[of_resource]));
        let with = of_resources.flat_map(|of_resource| {
            let resource = attributes(&of_resource["resource"]["attributes"]);
            let scopes = list(&of_resource[of_scope]).iter();
            scopes.flat_map(|scope| list(&scope[items])).map(move |item| (resource.clone(), item.clone()))
        });
        with.collect()
    }

    /// Every span.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let items = self.items(["resourceSpans", "scopeSpans", "spans"]);
        let span = |(resource, item): (BTreeMap<String, String>, Value)| Span {
            service: resource.get("service.name").cloned().unwrap_or_default(),
            trace_id: text(&item["traceId"]),
            id: text(&item["spanId"]),
            parent: text(&item["parentSpanId"]),
            name: text(&item["name"]),
            kind: item["kind"].as_u64().unwrap_or_default(),
            start_ns: text(&item["startTimeUnixNano"]).parse().unwrap_or_default(),
            attributes: attributes(&item["attributes"]),
            status: item["status"]["code"].as_u64().unwrap_or_default(),
        };
        items.into_iter().map(span).collect()
    }

    /// Every log record.
    pub(crate) fn logs(&self) -> Vec<Record> {
        let items = self.items(["resourceLogs", "scopeLogs", "logRecords"]);
        let record = |(_, item): (_, Value)| Record {
            severity: text(&item["severityText"]),
            body: any(&item["body"]),
            event: text(&item["eventName"]),
            trace_id: text(&item["traceId"]),
            span_id: text(&item["spanId"]),
            attributes: attributes(&item["attributes"]),
        };
        items.into_iter().map(record).collect()
    }

    /// The resources of all metrics, and for each metric the last points that came.
    pub(crate) fn metrics(&self) -> (BTreeMap<String, String>, BTreeMap<String, Value>) {
        let items = self.items(["resourceMetrics", "scopeMetrics", "metrics"]);
        let resource = items.last().map(|(resource, _)| resource.clone()).unwrap_or_default();
        (resource, items.into_iter().map(|(_, item)| (text(&item["name"]), item)).collect())
    }
}

fn endpoint(said: &str, what: &str) -> Option<SocketAddr> {
    let line = said.lines().rev().find(|line| line.contains(what))?;
    let (_, rest) = line.split_once("\"endpoint\": \"")?;
    rest.split('"').next()?.parse().ok()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The value of an attribute as text.
fn any(value: &Value) -> String {
    let inner = value.as_object().and_then(|value| value.values().next()).cloned().unwrap_or_default();
    inner.as_str().map_or_else(|| inner.to_string(), str::to_owned)
}

/// Attributes by their keys.
pub(crate) fn attributes(value: &Value) -> BTreeMap<String, String> {
    list(value).iter().map(|attribute| (text(&attribute["key"]), any(&attribute["value"]))).collect()
}
