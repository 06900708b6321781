//! What became of telemetry for a collector, by signal.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::MetricType,
};

use super::{ByLabel, Label, Signal, TelemetryOutcome, encode_count};

/// Counters for each signal and outcome; all of them are always shown.
#[derive(Clone, Debug)]
pub(super) struct Items([ByLabel<TelemetryOutcome>; Signal::ALL.len()]);

impl Default for Items {
    fn default() -> Self {
        Self(std::array::from_fn(|_| ByLabel::new()))
    }
}

impl Items {
    pub(super) fn add(&self, signal: Signal, outcome: TelemetryOutcome, n: u64) {
        if let Some(outcomes) = self.0.get(signal.index()) {
            outcomes.add(outcome, n);
        }
    }
}

impl EncodeMetric for Items {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (signal, outcomes) in Signal::ALL.iter().zip(&self.0) {
            for (outcome, count) in outcomes.counts() {
                let labels = [(Signal::KEY, signal.name()), (TelemetryOutcome::KEY, outcome.name())];
                encode_count(&mut encoder, &labels, count)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
