//! What is sent to a collector while the process serves: set up before the log, because the log is a part of it; started when
//! there is a runtime; ended after the last message.
//!
//! The work is done by the thread of the admin port and of reloads. Checks have threads of their own.

use std::{process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use mcp_authz_core::document::Defect;
use prometheus_client::registry::Registry;
use tokio::{sync::watch, task::JoinSet};

use super::{fail, warn_of};
use crate::{
    clock::{Clock, SystemClock},
    config,
    telemetry::{
        metrics::{Metrics, Page, Signal},
        otlp::{
            Settings, Transport,
            batch::Batcher,
            env::{Env, Said},
            logs::{self, LogLayer},
            metrics::MetricsExport,
            resource,
        },
    },
};

/// Time for what is left at the end.
const CLOSE: Duration = Duration::from_secs(5);

/// Everything that is counted and told, before anything is sent.
pub(super) struct Telemetry {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    /// What `/metrics` shows.
    pub(super) page: Page,
    settings: Settings,
    /// Messages for the collector, if it gets any.
    messages: Option<Arc<Batcher>>,
    started_ms: u64,
}

impl Telemetry {
    /// Puts together what the settings and the environment say. There is no log yet.
    ///
    /// # Errors
    /// Every defect.
    pub(super) fn prepare(config: &config::telemetry::Telemetry) -> Result<Self, Vec<Defect>> {
        let settings = Settings::new(config, &Said::read(&Env::of_process())?, &instance())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let started_ms = clock.now_ms();
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, started_ms);
        let page = Page::new(Arc::new(registry), metrics.clone());
        let messages = settings.target(Signal::Logs).map(|_| logs::queue(metrics.clone()));
        Ok(Self { clock, metrics, page, settings, messages, started_ms })
    }

    /// What the log has to fill for the collector.
    pub(super) fn layer(&self) -> Option<LogLayer> {
        self.messages.as_ref().map(|queue| LogLayer::new(Arc::clone(queue), Arc::clone(&self.clock)))
    }

    /// Begins to send.
    pub(super) fn start(&self) -> Result<Sending, ExitCode> {
        warn_of(&self.settings.warnings);
        let transport = Transport::new(&self.settings, self.metrics.clone());
        let transport = Arc::new(transport.map_err(|error| fail("the connection to the collector", &error))?);
        let (stop, stopped) = watch::channel(false);
        let sending = Sending { transport, resource: resource(&self.settings), stop, tasks: JoinSet::new() };
        Ok(sending.begin(self, &stopped))
    }
}

/// What is being sent.
pub(super) struct Sending {
    /// The way to the collector.
    pub(super) transport: Arc<Transport>,
    /// Who sends.
    pub(super) resource: Bytes,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Sending {
    fn begin(mut self, telemetry: &Telemetry, stopped: &watch::Receiver<bool>) -> Self {
        if let Some(messages) = &telemetry.messages {
            let (transport, resource) = (Arc::clone(&self.transport), self.resource.clone());
            self.tasks.spawn(Arc::clone(messages).run(transport, resource, stopped.clone(), CLOSE));
        }
        if self.transport.sends(Signal::Metrics) {
            let export = MetricsExport {
                page: telemetry.page.clone(),
                transport: Arc::clone(&self.transport),
                resource: self.resource.clone(),
                clock: Arc::clone(&telemetry.clock),
                started_ms: telemetry.started_ms,
                interval: telemetry.settings.metric_interval,
            };
            self.tasks.spawn(export.run(stopped.clone(), CLOSE));
        }
        self
    }

    /// Sends what is left, for at most [`CLOSE`].
    pub(super) async fn close(self) {
        self.stop.send_replace(true);
        // Each task keeps its time itself; how it ended makes no difference any more.
        drop(self.tasks.join_all().await);
    }
}

/// Tells this process from others of the same service: a random UUID, as OpenTelemetry recommends. Empty where there is no
/// randomness; the attribute is left out then.
fn instance() -> String {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        return String::new();
    }
    // Version 4, variant 1.
    let id = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let digits = format!("{id:032x}");
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_a_name_of_its_own() {
        let (a, b) = (instance(), instance());
        assert_ne!(a, b);
        let lengths: Vec<usize> = a.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{a}");
        assert!(a.as_bytes()[14] == b'4' && b"89ab".contains(&a.as_bytes()[19]), "{a}");
    }
}
