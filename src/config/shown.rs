//! The effective settings as the admin port shows them.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use super::{Config, Limits, audit, ledger, reload, response, telemetry, webhook};
use crate::telemetry::log::{self, Level};

impl Config {
    /// Every setting with its default filled in. Holds no secret, since settings hold none.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let timeouts = &self.timeouts;
        json!({
            "listen": {
                "grpc": self.listen.grpc.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "admin": self.listen.admin.to_string(),
            },
            "tls": self.tls.as_ref().map(|tls| json!({
                "certificate": text(&tls.certificate),
                "key": text(&tls.key),
                "client_ca": tls.clients.as_ref().map(|clients| text(&clients.ca)),
                "allowed_sans": tls.clients.as_ref().map(|clients| &clients.allowed_sans),
            })),
            "paths": {
                "policies": text(&self.paths.policies),
                "servers": text(&self.paths.servers),
                "grants": text(&self.paths.grants),
                "credentials": text(&self.paths.credentials),
            },
            "limits": limits(&self.limits),
            "timeouts": {
                "check_ms": ms(timeouts.check),
                "margin_ms": ms(timeouts.margin),
                "lease_ms": ms(timeouts.lease),
                "drain_ms": ms(timeouts.drain),
            },
            "envoy": {
                "accept_lossy_body": self.envoy.accept_lossy_body,
                "response_phase": self.envoy.response_phase,
            },
            "audit": audit::shown(&self.audit),
            "ledger": ledger::shown(&self.ledger),
            "response": response::shown(&self.response),
            "reload": reload::shown(self.reload),
            "kubernetes": reload::kubernetes_shown(&self.kubernetes),
            "webhook": self.webhook.as_ref().map(webhook::shown),
            "telemetry": telemetry::shown(&self.telemetry),
            "admin": { "token_file": self.admin.token_file.as_deref().map(text) },
            "log": {
                "level": match self.log.level {
                    Level::Debug => "debug",
                    Level::Error => "error",
                    Level::Info => "info",
                    Level::Warn => "warn",
                },
                "format": match self.log.format {
                    log::Format::Json => "json",
                    log::Format::Text => "text",
                },
            },
        })
    }
}

fn limits(limits: &Limits) -> Value {
    json!({
        "body_bytes_max": limits.body_bytes_max,
        "json_depth_max": limits.json_depth_max,
        "json_nodes_max": limits.json_nodes_max,
        "checks_in_flight_max": limits.checks_in_flight_max,
        "header_bytes_max": limits.header_bytes_max,
        "headers_max": limits.headers_max,
        "counters_max": limits.counters_max,
        "reservations_max": limits.reservations_max,
        "metric_counters_max": limits.metric_counters_max,
        "metric_policies_max": limits.metric_policies_max,
        "pinned_tools_max": limits.pinned_tools_max,
        "pinned_definition_bytes_max": limits.pinned_definition_bytes_max,
        "pending_tools_max": limits.pending_tools_max,
    })
}

pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
