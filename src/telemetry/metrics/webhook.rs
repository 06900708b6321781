//! What the admission webhook counts. It runs in a process of its own, with a page of its own.

use std::time::Duration;

use prometheus_client::{
    metrics::{gauge::Gauge, info::Info},
    registry::Registry,
};

use super::{ByLabel, Histogram, Label, Resident};

label! {
    /// What became of a review.
    ReviewOutcome "outcome" {
        /// The documents have no defect.
        Allowed = "allowed",
        /// They have some.
        Denied = "denied",
        /// It holds no documents of ours.
        Ignored = "ignored",
        /// It is no review.
        Malformed = "malformed",
        /// It could not be judged in time, and was denied.
        Undecided = "undecided",
    }
}

label! {
    /// What failed.
    WebhookError "kind" {
        /// A connection could not be accepted.
        Listener = "listener",
        /// A TLS handshake, or a certificate that could not be read again.
        Tls = "tls",
    }
}

/// The families of the webhook.
#[derive(Clone, Debug)]
pub struct WebhookMetrics {
    reviews: ByLabel<ReviewOutcome>,
    errors: ByLabel<WebhookError>,
    durations: super::LedgerDurations,
}

impl WebhookMetrics {
    /// Registers every family. `started_ms` is the Unix time of the start in milliseconds.
    #[must_use]
    pub fn new(registry: &mut Registry, started_ms: u64) -> Self {
        let metrics = Self {
            reviews: ByLabel::new(),
            errors: ByLabel::new(),
            durations: super::LedgerDurations(std::sync::Arc::<Histogram>::default()),
        };
        let m = metrics.clone();
        registry.register(
            "mcp_authz_build",
            "Version of this binary",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register("mcp_authz_webhook_duration_seconds", "Time of one review that was judged", m.durations);
        registry.register("mcp_authz_webhook_errors", "Failures of our own, by the part that failed", m.errors);
        registry.register("mcp_authz_webhook_reviews", "Reviews by what became of them", m.reviews);
        let started: Gauge<f64, std::sync::atomic::AtomicU64> = Gauge::default();
        started.set(Duration::from_millis(started_ms).as_secs_f64());
        registry.register("process_start_time_seconds", "Unix time of the start of the process", started);
        registry.register_collector(Box::new(Resident));
        metrics
    }

    /// Counts a review.
    pub fn review(&self, outcome: ReviewOutcome) {
        self.reviews.add(outcome, 1);
    }

    /// Counts the time of a review that was judged.
    pub fn judged(&self, elapsed: Duration) {
        self.durations.0.observe(elapsed, None);
    }

    /// Counts a failure of our own.
    pub fn error(&self, kind: WebhookError) {
        self.errors.add(kind, 1);
    }
}
