//! The page `/metrics`: the registry in the OpenMetrics text format, with exemplars.
//!
//! The library lets only histograms of its own carry exemplars, and those take a mutex for each observation. So the exemplars of ours
//! are put behind the lines of their buckets once the registry has written them.

use std::{fmt, sync::Arc};

use prometheus_client::{encoding::text, registry::Registry};

use super::{Histogram, Metrics};

/// What `/metrics` shows, and what is sent to collectors.
#[derive(Clone, Debug)]
pub struct Page {
    registry: Arc<Registry>,
    metrics: Metrics,
}

impl Page {
    /// The page of a registry in which `metrics` are.
    #[must_use]
    pub const fn new(registry: Arc<Registry>, metrics: Metrics) -> Self {
        Self { registry, metrics }
    }

    /// The page as it is now.
    ///
    /// # Errors
    /// A metric cannot be written, which is a defect of its.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut plain = String::new();
        text::encode(&mut plain, &self.registry)?;
        let mut out = String::with_capacity(plain.len());
        let mut place = Place::default();
        for line in plain.lines() {
            out.push_str(line);
            if let Some(exemplar) = place.pass(line, &self.metrics) {
                out.push_str(&exemplar);
            }
            out.push('\n');
        }
        Ok(out)
    }
}

/// Where in the page we are: buckets follow the sum of their histogram, in order.
#[derive(Debug, Default)]
struct Place<'a> {
    histograms: Vec<&'a Histogram>,
    /// One more than the place in `histograms` of the one whose lines these are.
    sums: usize,
    buckets: usize,
}

impl<'a> Place<'a> {
    /// Goes over a line; gives what belongs behind it.
    fn pass(&mut self, line: &str, metrics: &'a Metrics) -> Option<String> {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let name = family.strip_suffix(" histogram").unwrap_or_default();
            *self = Self { histograms: metrics.histograms(name), ..Self::default() };
        }
        if self.histograms.is_empty() || line.starts_with('#') {
            return None;
        }
        let series = line.split(['{', ' ']).next().unwrap_or_default();
        if series.ends_with("_sum") {
            self.sums = self.sums.saturating_add(1);
            self.buckets = 0;
        }
        if !series.ends_with("_bucket") {
            return None;
        }
        let bucket = self.buckets;
        self.buckets = bucket.saturating_add(1);
        self.histograms.get(self.sums.checked_sub(1)?)?.exemplar(bucket)
    }
}

impl Metrics {
    /// The histograms of a family, in the order in which it writes them. Those without exemplars are left out.
    fn histograms(&self, family: &str) -> Vec<&Histogram> {
        match family {
            "mcp_authz_check_duration_seconds" => self.durations.0.iter().collect(),
            "mcp_authz_response_added_seconds" => vec![self.responses.added()],
            _ => Vec::new(),
        }
    }
}
