//! Starts what sends telemetry to a collector, and ends it.

use std::{process::ExitCode, sync::Arc};

use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use super::{chain, fail, refuse};
use crate::{
    clock::Clock,
    config::{Config, Engine},
    telemetry::{
        metrics::{Metrics, Signal},
        otlp::{
            Settings, Transport,
            batch::Batcher,
            env::{Env, Said},
            resource,
        },
        trace::{FLUSH, Tracer},
    },
};

/// What sends telemetry.
pub(super) struct Telemetry {
    /// What is in force.
    settings: Settings,
    /// Records spans.
    pub(super) tracer: Tracer,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Reads the variables of OpenTelemetry beside the settings file, and starts what is asked for: as a rule nothing.
pub(super) fn open(config: &Config, clock: &Arc<dyn Clock>, metrics: &Metrics) -> Result<Telemetry, ExitCode> {
    let said = Said::read(&Env::of_process()).map_err(|defects| refuse(&defects))?;
    let settings = Settings::new(&config.telemetry, &said, &instance()).map_err(|defects| refuse(&defects))?;
    for warning in &settings.warnings {
        tracing::warn!(at = %warning, "The settings of telemetry are legal, and probably not meant.");
    }
    let (stop, stopped) = watch::channel(false);
    let mut telemetry = Telemetry { settings, tracer: Tracer::off(), stop, tasks: Vec::new() };
    if telemetry.settings.is_off() {
        return Ok(telemetry);
    }
    let settings = &telemetry.settings;
    let transport = Transport::new(settings, metrics.clone()).map_err(|error| fail("telemetry", &error))?;
    let (transport, resource) = (Arc::new(transport), resource(settings));
    if transport.sends(Signal::Traces) {
        let queue = Arc::new(Batcher::new(Signal::Traces, settings.traces, metrics.clone()));
        let is_store_shared = matches!(config.ledger.engine, Engine::Redis(_));
        telemetry.tracer = Tracer::new(Arc::clone(&queue), settings, Arc::clone(clock), is_store_shared);
        telemetry.tasks.push(tokio::spawn(queue.run(transport, resource, stopped, FLUSH)));
    }
    for signal in [Signal::Logs, Signal::Metrics, Signal::Traces] {
        if let Some(target) = telemetry.settings.target(signal) {
            tracing::info!(?signal, url = %target.url, protocol = target.protocol.name(), "Telemetry is sent.");
        }
    }
    Ok(telemetry)
}

impl Telemetry {
    /// What is in force, for the admin port.
    pub(super) fn to_json(&self) -> Value {
        if self.settings.is_off() { Value::Null } else { self.settings.to_json() }
    }

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

/// Tells this process from others of the same service; empty if the system has no random numbers.
fn instance() -> String {
    let mut id = [0; 16];
    let mut text = String::with_capacity(32);
    if getrandom::fill(&mut id).is_ok() {
        mcp_authz_core::trace::push_hex(&mut text, &id);
    }
    text
}
