//! Metrics over OTLP: the page `/metrics`, read back and sent as it is.
//!
//! There is one source of truth. What counts in this process is the registry, and what it says is the page: names, labels, values
//! and exemplars. A second set of instruments for OTLP would cost every Check a second set of additions, and the two would drift
//! apart, as any two lists do; reading the registry's objects would need a visitor that the library does not offer. Reading the page
//! is work of a thread that serves no Check, once in an interval, and is checked from both ends: a test demands that every
//! line of it is read, and the end-to-end test that a collector shows the values that a scrape shows.
//!
//! Counters become monotonic cumulative sums, gauges gauges, histograms cumulative histograms with explicit bounds; an info
//! becomes a gauge that is 1. Names stay as they are on the page, without the `_total` that Prometheus appends and that collectors
//! append again. Units are taken from the ends of names.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::watch, time::MissedTickBehavior};

use super::{
    batch::request,
    openmetrics::{self, Exemplar, Family, Kind, Labels, Sample},
    proto::{Value, bytes, fixed64, key_value, message, string, uint},
    transport::{Signal, Transport},
};
use crate::{clock::Clock, telemetry::metrics::Page};

/// Bytes of one request: collectors take 4 MiB by default. One point alone may be longer.
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u64 = 2;
const NS_PER_MS: u64 = 1_000_000;

/// A request and how many points are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// An encoded `ExportMetricsServiceRequest`.
    pub body: Bytes,
    /// Data points.
    pub points: u64,
}

/// The times of an export, in Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When counting began.
    pub started_ms: u64,
    /// When the page was made.
    pub now_ms: u64,
}

/// Sends the registry once in an interval.
#[derive(Debug)]
pub struct MetricsExport {
    /// What is sent.
    pub page: Page,
    /// The way.
    pub transport: Arc<Transport>,
    /// Who sends: an encoded `Resource`.
    pub resource: Bytes,
    /// For the time of each point.
    pub clock: Arc<dyn Clock>,
    /// When counting began, in Unix milliseconds.
    pub started_ms: u64,
    /// Time between two exports.
    pub interval: Duration,
}

impl MetricsExport {
    /// Sends until `stop` is true or its sender gone, and then once more, for at most `within`. An export that takes longer than
    /// the interval is followed by the next after another interval: values are cumulative, so nothing is lost.
    pub async fn run(self, mut stop: watch::Receiver<bool>, within: Duration) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is ready at once, and there is nothing to tell yet.
        ticks.tick().await;
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = async {
                    ticks.tick().await;
                    self.export().await;
                } => {}
            }
        }
        // What does not arrive is counted by nobody any more.
        let _arrived = tokio::time::timeout(within, self.export()).await.is_ok();
    }

    async fn export(&self) {
        let Ok(page) = self.page.text() else { return };
        let times = Times { started_ms: self.started_ms, now_ms: self.clock.now_ms() };
        for batch in requests(&page, &self.resource, times) {
            self.transport.deliver(Signal::Metrics, batch.points, batch.body).await;
        }
    }
}

/// The page as requests. Lines that cannot be read are left out.
#[must_use]
pub fn requests(page: &str, resource: &[u8], times: Times) -> Vec<Batch> {
    let (families, _) = openmetrics::read(page);
    let mut batches = Batches { resource, done: Vec::new(), metrics: Vec::new(), points: 0 };
    for family in &families {
        let mut points = Vec::new();
        for point in family_points(family, times) {
            if batches.metrics.len().saturating_add(points.len()).saturating_add(point.len()) > REQUEST_BYTES_MAX {
                batches.metric(family, &std::mem::take(&mut points));
                batches.close();
            }
            // `Gauge`, `Sum` and `Histogram` all have their points in field 1.
            bytes(&mut points, 1, &point);
            batches.points = batches.points.saturating_add(1);
        }
        batches.metric(family, &points);
    }
    batches.close();
    batches.done
}

struct Batches<'a> {
    resource: &'a [u8],
    done: Vec<Batch>,
    /// Encoded metrics of the request that is open.
    metrics: Vec<u8>,
    points: u64,
}

impl Batches<'_> {
    fn metric(&mut self, family: &Family<'_>, points: &[u8]) {
        if points.is_empty() {
            return;
        }
        message(&mut self.metrics, 2, |out| {
            // As the page shows it: the samples of an info have a name of their own.
            let name = if family.kind == Kind::Info { &format!("{}_info", family.name) } else { family.name };
            string(out, 1, name);
            string(out, 2, family.help);
            string(out, 3, unit(family.name));
            let field = match family.kind {
                Kind::Gauge | Kind::Info => 5,
                Kind::Counter => 7,
                Kind::Histogram => 9,
            };
            message(out, field, |out| {
                out.extend_from_slice(points);
                if matches!(family.kind, Kind::Counter | Kind::Histogram) {
                    uint(out, 2, CUMULATIVE);
                }
                if family.kind == Kind::Counter {
                    uint(out, 3, 1);
                }
            });
        });
    }

    fn close(&mut self) {
        let (metrics, points) = (std::mem::take(&mut self.metrics), std::mem::take(&mut self.points));
        if metrics.is_empty() {
            return;
        }
        self.done.push(Batch { body: request(self.resource, &metrics), points });
    }
}

/// The unit by the Unified Code for Units of Measure; empty where the name ends in none.
fn unit(name: &str) -> &'static str {
    if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        ""
    }
}

fn family_points(family: &Family<'_>, times: Times) -> Vec<Vec<u8>> {
    match family.kind {
        Kind::Histogram => histograms(&family.samples, times),
        Kind::Counter | Kind::Gauge | Kind::Info => {
            family.samples.iter().map(|sample| number(family.kind, sample, times)).collect()
        }
    }
}

fn number(kind: Kind, sample: &Sample<'_>, times: Times) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    attributes(&mut out, 7, &sample.labels);
    if kind == Kind::Counter {
        fixed64(&mut out, 2, times.started_ms.saturating_mul(NS_PER_MS));
    }
    fixed64(&mut out, 3, times.now_ms.saturating_mul(NS_PER_MS));
    match sample.value.parse::<i64>() {
        Ok(whole) => fixed64(&mut out, 6, whole.cast_unsigned()),
        Err(_) => fixed64(&mut out, 4, float(sample.value)),
    }
    if let Some(exemplar) = &sample.exemplar {
        push_exemplar(&mut out, 5, exemplar, times);
    }
    out
}

/// The points of a histogram, each of which is several lines that follow each other.
fn histograms(samples: &[Sample<'_>], times: Times) -> Vec<Vec<u8>> {
    let own = |sample: &Sample<'_>| -> Vec<(String, String)> {
        let labels = sample.labels.iter().filter(|(key, _)| *key != "le");
        labels.map(|(key, value)| ((*key).to_owned(), value.to_string())).collect()
    };
    samples.chunk_by(|a, b| own(a) == own(b)).map(|samples| histogram(samples, times)).collect()
}

fn histogram(samples: &[Sample<'_>], times: Times) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let labels = samples.first().map(|sample| sample.labels.iter().filter(|(key, _)| *key != "le").cloned());
    attributes(&mut out, 9, &labels.map(Iterator::collect).unwrap_or_default());
    fixed64(&mut out, 2, times.started_ms.saturating_mul(NS_PER_MS));
    fixed64(&mut out, 3, times.now_ms.saturating_mul(NS_PER_MS));
    let (mut counts, mut bounds, mut below) = (Vec::new(), Vec::new(), 0_u64);
    for sample in samples {
        match sample.part {
            "count" => fixed64(&mut out, 4, whole(sample.value)),
            "sum" => fixed64(&mut out, 5, float(sample.value)),
            _ => {
                let so_far = whole(sample.value);
                counts.extend_from_slice(&so_far.saturating_sub(below).to_le_bytes());
                below = so_far;
                let le = sample.labels.iter().find(|(key, _)| *key == "le").map_or("", |(_, value)| value);
                // What is above the last bound has none.
                if le != "+Inf" {
                    bounds.extend_from_slice(&float(le).to_le_bytes());
                }
                if let Some(exemplar) = &sample.exemplar {
                    push_exemplar(&mut out, 8, exemplar, times);
                }
            }
        }
    }
    // Packed: `repeated fixed64` and `repeated double`.
    bytes(&mut out, 6, &counts);
    bytes(&mut out, 7, &bounds);
    out
}

fn push_exemplar(out: &mut Vec<u8>, field: u32, exemplar: &Exemplar<'_>, times: Times) {
    let id = |name: &str| {
        let value = exemplar.labels.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value);
        hex(value)
    };
    message(out, field, |out| {
        let at = exemplar.time.and_then(|time| Duration::try_from_secs_f64(time).ok());
        let at_ns = at.and_then(|at| u64::try_from(at.as_nanos()).ok());
        fixed64(out, 2, at_ns.unwrap_or_else(|| times.now_ms.saturating_mul(NS_PER_MS)));
        fixed64(out, 3, exemplar.value.to_bits());
        bytes(out, 4, &id("span_id"));
        bytes(out, 5, &id("trace_id"));
    });
}

fn attributes(out: &mut Vec<u8>, field: u32, labels: &Labels<'_>) {
    for (key, value) in labels {
        key_value(out, field, key, Value::Text(value));
    }
}

fn whole(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

fn float(text: &str) -> u64 {
    text.parse::<f64>().unwrap_or_default().to_bits()
}

/// Empty if it is not hexadecimal.
fn hex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect::<Option<_>>().unwrap_or_default()
}
