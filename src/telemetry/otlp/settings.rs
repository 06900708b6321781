//! What is sent where: the settings file first, then the environment, then defaults.
//!
//! Of the environment, what is said of a signal goes before what is said of all. Where neither file nor environment names a
//! collector, nothing is sent. `OTEL_SDK_DISABLED` turns everything off, whatever the file says: it is there for emergencies.

use std::{fmt, path::Path, time::Duration};

use http::Uri;
use mcp_authz_core::document::Defect;
use serde_json::{Value, json};

use super::{
    endpoint::{Endpoint, HeaderLines, Protocol, grpc_path, http_path},
    env::{Given, Said},
};
use crate::{
    config::telemetry::{self as config, number},
    files,
    outbound::TlsFiles,
    telemetry::{
        metrics::{Label as _, Signal},
        trace::sampler::Sampler,
    },
};

/// Checks, responses and settlements that wait to be sent, by default.
pub const QUEUE_MAX: usize = 2_048;
/// How many of them go out at once, by default.
pub const BATCH_MAX: usize = 512;
/// How long they wait for others, by default.
pub const DELAY: Duration = Duration::from_secs(5);
/// How often metrics are sent, by default.
pub const METRIC_INTERVAL: Duration = Duration::from_secs(60);
/// Longest time for one export with its retries, by default.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Name of the service, by default.
pub const SERVICE_NAME: &str = "mcp-authz";
/// Longest file of header lines, in bytes.
const HEADERS_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where one signal goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The whole URL that is asked.
    pub url: Uri,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Header lines of operators.
    pub headers: HeaderLines,
    /// Longest time for one export with its retries.
    pub timeout: Duration,
    /// Whom we trust and who we are.
    pub tls: TlsFiles,
}

/// How what is to be sent is gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Items that wait.
    pub queue_max: usize,
    /// Items of one request.
    pub items_max: usize,
    /// How long the first of them waits.
    pub delay: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self { queue_max: QUEUE_MAX, items_max: BATCH_MAX, delay: DELAY }
    }
}

/// What is sent where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    targets: [Option<Target>; Signal::ALL.len()],
    /// What every request says of us; each key once.
    pub attributes: Vec<(String, String)>,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// Whether the trace of the caller is joined.
    pub propagates: bool,
    /// How spans are gathered.
    pub traces: Batch,
    /// How often metrics are sent.
    pub metric_interval: Duration,
    /// What is legal and probably not meant.
    pub warnings: Vec<Defect>,
}

/// A value, and the words by which the operator knows where it is from.
#[derive(Clone, Debug)]
struct From<T> {
    value: T,
    place: String,
}

impl Settings {
    /// Puts file and environment together. `instance` tells this process from others of the same service.
    ///
    /// # Errors
    /// Every defect that shows only when both are known, and those of the file of header lines.
    pub fn new(config: &config::Telemetry, said: &Said, instance: &str) -> Result<Self, Vec<Defect>> {
        let mut merge = Merge { config, said, file: None, defects: Vec::new(), warnings: said.warnings.clone() };
        merge.file = merge.headers_file();
        let target = |merge: &mut Merge<'_>, at: usize| Signal::ALL.get(at).and_then(|signal| merge.target(*signal));
        let targets = [target(&mut merge, 0), target(&mut merge, 1), target(&mut merge, 2)];
        merge.warn(&targets);
        let Merge { defects, warnings, .. } = merge;
        if !defects.is_empty() {
            return Err(defects);
        }
        let sampler = said.sampler.unwrap_or_default();
        let ratio = config.traces.ratio.unwrap_or(sampler.ratio);
        let traces = Batch {
            queue_max: config.traces.queue_max.or(said.queue_max).unwrap_or(QUEUE_MAX),
            items_max: config.traces.batch_max.or(said.batch_max).unwrap_or(BATCH_MAX),
            delay: config.traces.delay.or(said.delay).unwrap_or(DELAY),
        };
        Ok(Self {
            targets,
            attributes: attributes(said, instance),
            sampler: Sampler { ratio, ..sampler },
            propagates: said.propagates.unwrap_or(true),
            // More at once than may wait would never come together.
            traces: Batch { items_max: traces.items_max.min(traces.queue_max), ..traces },
            metric_interval: config.metrics.interval.or(said.metric_interval).unwrap_or(METRIC_INTERVAL),
            warnings,
        })
    }

    /// Where that signal goes; `None` if it is not sent.
    #[must_use]
    pub fn target(&self, signal: Signal) -> Option<&Target> {
        self.targets.get(signal.index()).and_then(Option::as_ref)
    }

    /// Whether anything is sent.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.targets.iter().all(Option::is_none)
    }

    /// What is in force, for the admin port. Of headers it has the names only.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let target = |signal: Signal| {
            self.target(signal).map(|target| {
                json!({
                    "url": target.url.to_string(),
                    "protocol": target.protocol.name(),
                    "headers": target.headers.names(),
                    "timeout_ms": ms(target.timeout),
                })
            })
        };
        json!({
            "logs": target(Signal::Logs),
            "metrics": target(Signal::Metrics),
            "traces": target(Signal::Traces),
            "resource": self.attributes.iter().map(|(key, value)| (key.clone(), json!(value))).collect::<serde_json::Map<_, _>>(),
            "sampler": { "heeds_parent": self.sampler.heeds_parent, "ratio": number(self.sampler.ratio) },
            "propagates": self.propagates,
            "metric_interval_ms": ms(self.metric_interval),
        })
    }
}

/// What every request says of us: first what operators say, then what they leave out.
fn attributes(said: &Said, instance: &str) -> Vec<(String, String)> {
    let mut out = said.attributes.clone();
    if let Some(name) = &said.service_name {
        out.retain(|(key, _)| key != "service.name");
        out.push(("service.name".to_owned(), name.clone()));
    }
    let defaults = [
        ("service.name", SERVICE_NAME),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
    ];
    for (key, value) in defaults {
        if !out.iter().any(|(known, _)| known == key) && !value.is_empty() {
            out.push((key.to_owned(), value.to_owned()));
        }
    }
    out.sort();
    out
}

struct Merge<'a> {
    config: &'a config::Telemetry,
    said: &'a Said,
    /// The header lines of the settings file.
    file: Option<HeaderLines>,
    defects: Vec<Defect>,
    warnings: Vec<Defect>,
}

fn defect(place: &str, message: impl fmt::Display) -> Defect {
    Defect::of_file("telemetry", format!("{place} {message}"))
}

impl Merge<'_> {
    fn is_enabled(&self, signal: Signal) -> Option<bool> {
        match signal {
            Signal::Logs => self.config.logs.is_enabled,
            Signal::Metrics => self.config.metrics.is_enabled,
            Signal::Traces => self.config.traces.is_enabled,
        }
    }

    fn given(&self, signal: Signal) -> Option<&Given> {
        self.said.signals.get(signal.index())
    }

    /// The endpoint, and whether it is for this signal alone.
    fn endpoint(&self, signal: Signal) -> Option<(From<Endpoint>, bool)> {
        let from = |value: &Endpoint, place: String| From { value: value.clone(), place };
        if let Some(endpoint) = self.config.otlp.as_ref().and_then(|otlp| otlp.endpoint.as_ref()) {
            return Some((from(endpoint, "telemetry.otlp.endpoint".to_owned()), false));
        }
        if let Some(endpoint) = self.given(signal).and_then(|given| given.endpoint.as_ref()) {
            let place = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name().to_ascii_uppercase());
            return Some((from(endpoint, place), true));
        }
        let endpoint = self.said.general.endpoint.as_ref()?;
        Some((from(endpoint, "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned()), false))
    }

    fn target(&mut self, signal: Signal) -> Option<Target> {
        let exporter = self.said.exporters.get(signal.index()).copied().flatten();
        let endpoint = self.endpoint(signal);
        let is_wanted = self.is_enabled(signal).or(exporter).unwrap_or(true);
        let has_place = self.config.otlp.is_some() || endpoint.is_some() || exporter == Some(true);
        if self.said.is_disabled || !is_wanted || !has_place {
            return None;
        }
        let otlp = self.config.otlp.clone().unwrap_or_default();
        let given = self.given(signal).cloned().unwrap_or_default();
        let general = &self.said.general;
        let protocol = otlp.protocol.or(given.protocol).or(general.protocol).unwrap_or(Protocol::Grpc);
        let headers =
            self.file.clone().or_else(|| given.headers.clone()).or_else(|| general.headers.clone()).unwrap_or_default();
        let timeout = otlp.timeout.or(given.timeout).or(general.timeout).unwrap_or(TIMEOUT);
        let tls = otlp.tls.unwrap_or_else(|| {
            let identity = |given: &Given| given.certificate.clone().zip(given.key.clone());
            let ca = given.ca.clone().or_else(|| general.ca.clone());
            TlsFiles { ca, identity: identity(&given).or_else(|| identity(general)) }
        });
        let default = || (From { value: Endpoint::of_protocol(protocol), place: "the default".to_owned() }, false);
        let (endpoint, is_own) = endpoint.unwrap_or_else(default);
        let url = self.url(signal, protocol, &endpoint, is_own)?;
        let timeout = match (signal, self.said.export_timeout) {
            (Signal::Traces, Some(longest)) => timeout.min(longest),
            (_, _) => timeout,
        };
        Some(Target { url, protocol, headers, timeout, tls })
    }

    fn url(&mut self, signal: Signal, protocol: Protocol, endpoint: &From<Endpoint>, is_own: bool) -> Option<Uri> {
        let From { value, place } = endpoint;
        let text = match (protocol, is_own) {
            (Protocol::Grpc, _) if value.has_path() => {
                let hint = "take the path away, or set the protocol to `http/protobuf`";
                self.refuse(defect(place, "has a path, which gRPC has no use for").with_hint(hint));
                return None;
            }
            (Protocol::Grpc, _) => value.join(grpc_path(signal)),
            (Protocol::HttpProtobuf, false) => value.join(http_path(signal)),
            (Protocol::HttpProtobuf, true) if value.has_path() => value.to_string(),
            (Protocol::HttpProtobuf, true) => value.join("/"),
        };
        let other = match (protocol, value.port()) {
            (Protocol::Grpc, Some(4318)) => Some(Protocol::HttpProtobuf),
            (Protocol::HttpProtobuf, Some(4317)) => Some(Protocol::Grpc),
            (_, _) => None,
        };
        if let (Some(other), Some(port)) = (other, value.port()) {
            let message =
                format!("has port {port}, where collectors speak `{}`; `{}` is spoken", other.name(), protocol.name());
            self.note(defect(place, message));
        }
        if !value.is_encrypted() && !value.is_loopback() {
            let message =
                "is not encrypted and not on this machine: whoever is on the way reads and changes what is sent";
            self.note(defect(place, message).with_hint("use `https://`, or see that the mesh encrypts"));
        }
        match text.parse() {
            Ok(url) => Some(url),
            Err(_) => {
                self.refuse(defect(place, "is no address of a collector"));
                None
            }
        }
    }

    /// What is true of three signals is told once.
    fn refuse(&mut self, defect: Defect) {
        if !self.defects.contains(&defect) {
            self.defects.push(defect);
        }
    }

    fn note(&mut self, warning: Defect) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn warn(&mut self, targets: &[Option<Target>]) {
        let in_the_clear = |target: &&Target| {
            let host = target.url.host().unwrap_or_default();
            let is_near = Endpoint::parse(host, Some("http")).is_ok_and(|endpoint| endpoint.is_loopback());
            !target.headers.is_empty() && target.url.scheme_str() == Some("http") && !is_near
        };
        if targets.iter().flatten().any(|target| in_the_clear(&target)) {
            let message = "are sent without encryption: whoever is on the way can read them";
            self.note(defect("the headers for the collector", message).with_hint("use `https://`"));
        }
        if self.said.is_disabled && self.config.otlp.is_some() {
            self.note(defect("OTEL_SDK_DISABLED", "is true: nothing is sent, although `telemetry.otlp` is set"));
        }
        let has_more = self.said.signals.iter().chain([&self.said.general]).any(|given| *given != Given::default());
        if has_more && !self.said.is_disabled && targets.iter().all(Option::is_none) && self.said.exporters == [None; 3]
        {
            let hint = "set `telemetry.otlp.endpoint` or OTEL_EXPORTER_OTLP_ENDPOINT";
            self.note(
                defect("OTEL_EXPORTER_OTLP_…", "is set, and no collector is named: nothing is sent").with_hint(hint),
            );
        }
    }

    /// Reads `telemetry.otlp.headers_file`.
    fn headers_file(&mut self) -> Option<HeaderLines> {
        let path = self.config.otlp.as_ref().and_then(|otlp| otlp.headers_file.clone())?;
        match read_headers(&path) {
            Ok(lines) => Some(lines),
            Err(message) => {
                let place = format!("telemetry.otlp.headers_file `{}`", path.display());
                self.refuse(defect(&place, message));
                None
            }
        }
    }
}

/// Lines `name: value`; empty ones are passed over.
fn read_headers(path: &Path) -> Result<HeaderLines, String> {
    let bytes = files::read(path, HEADERS_FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    // A line without a colon has no name, which is refused without showing it.
    let lines = lines.map(|line| line.split_once(':').map_or(("", ""), |(name, value)| (name.trim(), value.trim())));
    HeaderLines::new(lines).map_err(|error| format!("cannot be used: {error}"))
}

#[cfg(test)]
mod tests;
