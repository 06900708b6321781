//! The section `telemetry:` of `config.yaml`: what is sent to a collector. What it leaves open, the variables of OpenTelemetry
//! say (`telemetry/otlp/env.rs`), and else a default.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use mcp_authz_core::document::{Cursor, Fields, Shape, quoted};
use serde_json::{Value, json};

use super::read::{Section, path};
use crate::{
    outbound::TlsFiles,
    telemetry::{
        otlp::{
            endpoint::{Endpoint, EndpointError, Protocol},
            settings::{BATCH_MAX, DELAY, METRIC_INTERVAL, QUEUE_MAX},
        },
        trace::sampler::Ratio,
    },
};

/// What is sent to a collector. Where a field is `None`, the environment says, and else a default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// The collector; `None` sends nothing unless the environment names one.
    pub otlp: Option<Otlp>,
    /// Spans.
    pub traces: Traces,
    /// Numbers.
    pub metrics: Metrics,
    /// Messages.
    pub logs: Logs,
}

/// The collector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Otlp {
    /// Its address for all signals; default `http://localhost:4317`.
    pub endpoint: Option<Endpoint>,
    /// How it is spoken to; default gRPC.
    pub protocol: Option<Protocol>,
    /// Longest time for one export with its retries: 1 ms to 10 min, default 10 s.
    pub timeout: Option<Duration>,
    /// File with header lines `name: value`, at most 32 of them with 8 KiB.
    pub headers_file: Option<PathBuf>,
    /// Whom we trust and who we are.
    pub tls: Option<TlsFiles>,
}

/// Spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Whether any are sent; default: if there is a collector.
    pub is_enabled: Option<bool>,
    /// Which share of the requests is recorded about which Envoy says nothing: 0 to 1, default 1.
    pub ratio: Option<Ratio>,
    /// Checks, responses and settlements that wait to be sent: 1 to 1,000,000, default 2,048.
    pub queue_max: Option<usize>,
    /// How many of them go out at once: 1 to 100,000, default 512.
    pub batch_max: Option<usize>,
    /// How long they wait for others: 1 ms to 10 min, default 5 s.
    pub delay: Option<Duration>,
}

/// Numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Whether any are sent; default: if there is a collector.
    pub is_enabled: Option<bool>,
    /// How often: 1 s to 10 min, default 60 s.
    pub interval: Option<Duration>,
}

/// Messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// Whether any are sent; default: if there is a collector.
    pub is_enabled: Option<bool>,
}

pub(super) fn telemetry(parent: &Fields<'_>, folder: &Path) -> Option<Telemetry> {
    let section = Section::of(parent, "telemetry", &["otlp", "traces", "metrics", "logs"])?;
    let otlp = section.optional("otlp").map(|value| otlp(&value, folder));
    let traces = section.optional("traces").map_or(Some(Traces::default()), |value| traces(&value));
    let metrics = section.optional("metrics").map_or(Some(Metrics::default()), |value| {
        let section = Section::within(value.fields(&["enabled", "interval_ms"])?);
        let (is_enabled, interval) = (enabled(&section), millis(&section, "interval_ms", 1_000));
        Some(Metrics { is_enabled: is_enabled?, interval: interval? })
    });
    let logs = section.optional("logs").map_or(Some(Logs::default()), |value| {
        Some(Logs { is_enabled: enabled(&Section::within(value.fields(&["enabled"])?))? })
    });
    Some(Telemetry {
        otlp: otlp.map_or(Some(None), |otlp| otlp.map(Some))?,
        traces: traces?,
        metrics: metrics?,
        logs: logs?,
    })
}

fn otlp(value: &Cursor<'_>, folder: &Path) -> Option<Otlp> {
    let fields = value.fields(&["endpoint", "protocol", "timeout_ms", "headers_file", "tls"])?;
    let section = Section::within(fields);
    let endpoint = optional(&section, "endpoint", endpoint);
    let protocol = optional(&section, "protocol", |value| value.one_of(&Protocol::NAMES).and_then(Protocol::parse));
    let timeout = millis(&section, "timeout_ms", 1);
    let headers_file = optional(&section, "headers_file", |value| path(value, folder));
    let tls = optional(&section, "tls", |value| tls(value, folder));
    Some(Otlp { endpoint: endpoint?, protocol: protocol?, timeout: timeout?, headers_file: headers_file?, tls: tls? })
}

fn traces(value: &Cursor<'_>) -> Option<Traces> {
    let section = Section::within(value.fields(&["enabled", "ratio", "queue_max", "batch_max", "delay_ms"])?);
    let size = |key: &str, max: u64| {
        optional(&section, key, |value| value.u64_in(&(1..=max)).and_then(|size| usize::try_from(size).ok()))
    };
    let (is_enabled, ratio) = (enabled(&section), optional(&section, "ratio", ratio));
    let (queue_max, batch_max) = (size("queue_max", 1_000_000), size("batch_max", 100_000));
    let delay = millis(&section, "delay_ms", 1);
    Some(Traces { is_enabled: is_enabled?, ratio: ratio?, queue_max: queue_max?, batch_max: batch_max?, delay: delay? })
}

/// A key that may be left out: `Some(None)` then, and `None` if it has a defect.
fn optional<'a, T>(section: &Section<'a>, key: &str, read: impl FnOnce(&Cursor<'a>) -> Option<T>) -> Option<Option<T>> {
    section.optional(key).map_or(Some(None), |value| read(&value).map(Some))
}

fn enabled(section: &Section<'_>) -> Option<Option<bool>> {
    optional(section, "enabled", Cursor::bool)
}

fn millis(section: &Section<'_>, key: &str, min: u64) -> Option<Option<Duration>> {
    optional(section, key, |value| value.u64_in(&(min..=600_000)).map(Duration::from_millis))
}

fn endpoint(value: &Cursor<'_>) -> Option<Endpoint> {
    let text = value.string()?;
    let endpoint = Endpoint::parse(text, None);
    match &endpoint {
        Ok(_) => {}
        // Neither shown nor quoted: it may hold a password.
        Err(error @ EndpointError::Credentials) => value.defect_with_hint(
            format!("holds a secret: {error}"),
            "put it as a header into a file, and name that as `telemetry.otlp.headers_file`",
        ),
        Err(error @ EndpointError::Malformed) => value.defect_with_hint(
            format!("{} {error}", quoted(text)),
            "such as `http://localhost:4317` or `https://collector.example`",
        ),
    }
    endpoint.ok()
}

fn ratio(value: &Cursor<'_>) -> Option<Ratio> {
    let Shape::Number(literal) = &value.node().shape else {
        value.expected("a number from 0 to 1");
        return None;
    };
    let ratio = Ratio::parse(literal);
    if ratio.is_none() {
        let message =
            format!("expected a number from 0 to 1 with at most 9 digits after the point, found {}", quoted(literal));
        value.defect(message);
    }
    ratio
}

fn tls(value: &Cursor<'_>, folder: &Path) -> Option<TlsFiles> {
    let section = Section::within(value.fields(&["ca", "certificate", "key"])?);
    let file = |key: &str| optional(&section, key, |value| path(value, folder));
    let (ca, certificate, key) = (file("ca"), file("certificate"), file("key"));
    let identity = match (certificate?, key?) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (_, _) => {
            value.defect("`certificate` and `key` need each other");
            return None;
        }
    };
    Some(TlsFiles { ca: ca?, identity })
}

pub(super) fn shown(telemetry: &Telemetry) -> Value {
    let Telemetry { otlp, traces, metrics, logs } = telemetry;
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let text = |path: &PathBuf| path.display().to_string();
    json!({
        "otlp": otlp.as_ref().map(|otlp| json!({
            "endpoint": otlp.endpoint.as_ref().map(ToString::to_string),
            "protocol": otlp.protocol.map(Protocol::name),
            "timeout_ms": otlp.timeout.map(ms),
            "headers_file": otlp.headers_file.as_ref().map(text),
            "tls": otlp.tls.as_ref().map(|tls| json!({
                "ca": tls.ca.as_ref().map(text),
                "certificate": tls.identity.as_ref().map(|(certificate, _)| text(certificate)),
                "key": tls.identity.as_ref().map(|(_, key)| text(key)),
            })),
        })),
        "traces": {
            "enabled": traces.is_enabled.unwrap_or(true),
            "ratio": number(traces.ratio.unwrap_or(Ratio::ALL)),
            "queue_max": traces.queue_max.unwrap_or(QUEUE_MAX),
            "batch_max": traces.batch_max.unwrap_or(BATCH_MAX),
            "delay_ms": ms(traces.delay.unwrap_or(DELAY)),
        },
        "metrics": {
            "enabled": metrics.is_enabled.unwrap_or(true),
            "interval_ms": ms(metrics.interval.unwrap_or(METRIC_INTERVAL)),
        },
        "logs": { "enabled": logs.is_enabled.unwrap_or(true) },
    })
}

/// A ratio as a number of JSON.
pub(crate) fn number(ratio: Ratio) -> Value {
    serde_json::from_str(&ratio.to_string()).unwrap_or_default()
}
