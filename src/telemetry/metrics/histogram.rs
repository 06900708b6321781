//! Histograms of durations, with one exemplar for each bucket: the last sampled request that fell into it.

use std::{
    fmt::{self, Write as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mcp_authz_core::trace::{TraceContext, push_hex};
use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

/// Upper bounds of the buckets, in nanoseconds: 10 µs to 1 s, the longest a Check may take by default.
const BOUNDS_NS: [u64; 16] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
];
/// One for each bound, and one for what is longer.
const BUCKETS: usize = BOUNDS_NS.len() + 1;

/// Which request an observation is of. Only requests whose trace is recorded have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// The span of the request; observations of traces that nobody records leave no exemplar.
    pub span: TraceContext,
    /// When, in Unix milliseconds.
    pub time_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    of: Exemplar,
    elapsed: Duration,
}

/// One histogram of durations. The library's own takes a mutex for each observation.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
    /// Written by sampled requests only, and only where nobody else is at it: an exemplar is an example.
    exemplars: [Mutex<Option<Kept>>; BUCKETS],
}

impl Histogram {
    pub(super) fn observe(&self, elapsed: Duration, exemplar: Option<Exemplar>) {
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let at = BOUNDS_NS.partition_point(|bound| *bound < ns);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        // Wraps after 584 years of checks.
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        if let Some(of) = exemplar
            && of.span.sampled
            && let Some(Ok(mut kept)) = self.exemplars.get(at).map(Mutex::try_lock)
        {
            *kept = Some(Kept { of, elapsed });
        }
    }

    pub(super) fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let seconds = |ns: &u64| Duration::from_nanos(*ns).as_secs_f64();
        let bounds = BOUNDS_NS.iter().map(seconds).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets.iter().map(|b| b.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().fold(0_u64, |sum, (_, n)| sum.saturating_add(*n));
        let sum = seconds(&self.sum_ns.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    /// What the page shows behind the line of a bucket, in the form of OpenMetrics; `None` where there is nothing.
    pub(super) fn exemplar(&self, bucket: usize) -> Option<String> {
        let kept = *self.exemplars.get(bucket)?.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { of, elapsed } = kept?;
        let mut out = " # {trace_id=\"".to_owned();
        push_hex(&mut out, &of.span.trace_id);
        out.push_str("\",span_id=\"");
        push_hex(&mut out, &of.span.span_id);
        let (seconds, at) = (elapsed.as_secs_f64(), Duration::from_millis(of.time_ms));
        // Writing to a String cannot fail.
        let _ok = write!(out, "\"}} {seconds} {}.{:03}", at.as_secs(), at.subsec_millis()).is_ok();
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mcp_authz_core::decision::Reason;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::telemetry::metrics::{Metrics, Page, Verdict};

    fn exemplar(first: u8, sampled: bool) -> Option<Exemplar> {
        let mut trace_id = [0; 16];
        trace_id[0] = first;
        let span = TraceContext { trace_id, span_id: [7; 8], sampled };
        Some(Exemplar { span, time_ms: 1_800_000_000_250 })
    }

    #[test]
    fn the_last_sampled_request_of_a_bucket_is_its_exemplar() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 0);
        let page = Page::new(Arc::new(registry), metrics.clone());
        let with = || {
            let text = page.text().unwrap();
            text.lines().filter(|line| line.contains(" # ")).map(str::to_owned).collect::<Vec<_>>()
        };
        let observe = |us, exemplar| metrics.request(Verdict::Allow, "", "", Duration::from_micros(us), exemplar);
        observe(20, None);
        observe(20, exemplar(1, false));
        assert!(with().is_empty(), "unsampled requests leave none");
        observe(20, exemplar(2, true));
        observe(21, exemplar(3, true));
        observe(2_000_000, exemplar(4, true));
        metrics.request(Verdict::Deny(Reason::Internal), "", "", Duration::ZERO, exemplar(5, true));
        metrics.response_added(Duration::from_micros(10), exemplar(6, true));
        let shown = |family: &str, labels: &str, count: u64, first: u8, value: &str| {
            let (trace_id, span_id) = (format!("{first:02x}{}", "0".repeat(30)), "07".repeat(8));
            format!(
                "mcp_authz_{family}_seconds_bucket{{{labels}}} {count} # \
                 {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {value} 1800000000.250"
            )
        };
        let expected = [
            shown("check_duration", "le=\"0.000025\",decision=\"allow\"", 4, 3, "0.000021"),
            shown("check_duration", "le=\"+Inf\",decision=\"allow\"", 5, 4, "2"),
            shown("check_duration", "le=\"0.00001\",decision=\"deny\"", 1, 5, "0"),
            shown("response_added", "le=\"0.00001\"", 1, 6, "0.00001"),
        ];
        assert_eq!(with(), expected);
    }

    #[test]
    fn nobody_waits_for_an_exemplar() {
        let histogram = Histogram::default();
        let taken = histogram.exemplars[0].lock().unwrap();
        histogram.observe(Duration::ZERO, exemplar(1, true));
        assert!(taken.is_none(), "the observation counts, and its exemplar is left out");
        assert_eq!(histogram.buckets[0].load(Ordering::Relaxed), 1);
    }
}
