//! What is sent to a collector while the process serves: set up before the log, because the log is a part of it; started when
//! there is a runtime; ended after the last message.
//!
//! The work is done by the thread of the admin port and of reloads. Checks have threads of their own.

use std::{process::ExitCode, sync::Arc};

use mcp_authz_core::document::Defect;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use super::{chain, fail};
use crate::{
    clock::{Clock, SystemClock},
    config::{Config, Engine},
    telemetry::{
        audit::Sink,
        metrics::{Metrics, Page, Signal},
        otlp::{
            Settings, Transport,
            batch::Batcher,
            env::{Env, Said},
            logs::{self, LineExport, LogLayer},
            metrics::MetricsExport,
            resource,
        },
        trace::{FLUSH, Tracer},
    },
};

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
    pub(super) fn prepare(config: &Config) -> Result<Self, Vec<Defect>> {
        let settings = Settings::new(&config.telemetry, &Said::read(&Env::of_process())?, &instance())?;
        suits(&config.audit.sink, &settings)?;
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

    /// What is in force, for the admin port.
    pub(super) fn to_json(&self) -> Value {
        if self.settings.is_off() { Value::Null } else { self.settings.to_json() }
    }

    /// Begins to send what is asked for: as a rule nothing.
    pub(super) fn start(&self, config: &Config) -> Result<Sending, ExitCode> {
        for warning in &self.settings.warnings {
            tracing::warn!(at = %warning, "The settings of telemetry are legal, and probably not meant.");
        }
        let (stop, stopped) = watch::channel(false);
        let mut sending = Sending { tracer: Tracer::off(), records: None, stop, tasks: Vec::new() };
        if self.settings.is_off() {
            return Ok(sending);
        }
        let transport =
            Transport::new(&self.settings, self.metrics.clone()).map_err(|error| fail("telemetry", &error))?;
        let (transport, resource) = (Arc::new(transport), resource(&self.settings));
        if self.settings.target(Signal::Traces).is_some() {
            let queue = Arc::new(Batcher::new(Signal::Traces, self.settings.traces, self.metrics.clone()));
            let is_store_shared = matches!(config.ledger.engine, Engine::Redis(_));
            sending.tracer = Tracer::new(Arc::clone(&queue), &self.settings, Arc::clone(&self.clock), is_store_shared);
            let run = queue.run(Arc::clone(&transport), resource.clone(), stopped.clone(), FLUSH);
            sending.tasks.push(tokio::spawn(run));
        }
        if let Some(messages) = &self.messages {
            sending.records = Some(LineExport {
                transport: Arc::clone(&transport),
                resource: resource.clone(),
                clock: Arc::clone(&self.clock),
            });
            let run = Arc::clone(messages).run(Arc::clone(&transport), resource.clone(), stopped.clone(), FLUSH);
            sending.tasks.push(tokio::spawn(run));
        }
        if self.settings.target(Signal::Metrics).is_some() {
            let (page, clock, started_ms) = (self.page.clone(), Arc::clone(&self.clock), self.started_ms);
            let interval = self.settings.metric_interval;
            let export = MetricsExport { page, transport, resource, clock, started_ms, interval };
            sending.tasks.push(tokio::spawn(export.run(stopped, FLUSH)));
        }
        for signal in [Signal::Logs, Signal::Metrics, Signal::Traces] {
            if let Some(target) = self.settings.target(signal) {
                tracing::info!(?signal, url = %target.url, protocol = target.protocol.name(), "Telemetry is sent.");
            }
        }
        Ok(sending)
    }
}

/// What is being sent.
pub(super) struct Sending {
    /// Records spans.
    pub(super) tracer: Tracer,
    /// Takes audit records, where logs are sent.
    pub(super) records: Option<LineExport>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Sending {
    /// Sends what is left, for a bounded time.
    pub(super) async fn close(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(
                    error = chain(&error),
                    "Telemetry was cut off: a defect of mcp-authz, please report it."
                );
            }
        }
    }
}

/// Whether the collector that the audit asks for is there.
fn suits(sink: &Sink, settings: &Settings) -> Result<(), Vec<Defect>> {
    if *sink != Sink::Otlp || settings.target(Signal::Logs).is_some() {
        return Ok(());
    }
    let defect =
        Defect::of_file("audit.sink", "`otlp` sends records to a collector as logs, and logs are sent nowhere");
    Err(vec![defect.with_hint(
        "set `telemetry.otlp.endpoint` or OTEL_EXPORTER_OTLP_ENDPOINT, and leave `telemetry.logs.enabled`, OTEL_LOGS_EXPORTER \
         and OTEL_SDK_DISABLED as they are by default; or name another sink",
    )])
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
    fn records_for_a_collector_ask_for_logs() {
        let with = |env: Env| {
            let said = Said::read(&env).unwrap();
            suits(&Sink::Otlp, &Settings::new(&crate::config::Telemetry::default(), &said, "").unwrap())
        };
        let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        assert_eq!(with(Env::from([collector])), Ok(()));
        let without = [
            Env::from([]),
            Env::from([collector, ("OTEL_LOGS_EXPORTER", "none")]),
            Env::from([collector, ("OTEL_SDK_DISABLED", "true")]),
        ];
        for env in without {
            let said = with(env).unwrap_err();
            let [defect] = said.as_slice() else { panic!("{said:?}") };
            assert!(defect.to_string().contains("set `telemetry.otlp.endpoint`"), "{defect}");
        }
        assert_eq!(suits(&Sink::Stdout, &Settings::default()), Ok(()));
    }

    #[test]
    fn each_process_has_a_name_of_its_own() {
        let (a, b) = (instance(), instance());
        assert_ne!(a, b);
        let lengths: Vec<usize> = a.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{a}");
        assert!(a.as_bytes()[14] == b'4' && b"89ab".contains(&a.as_bytes()[19]), "{a}");
    }
}
