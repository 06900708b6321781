//! OpenTelemetry: settings, the way to the collector, and what all three signals share.
//!
//! There is no SDK of OpenTelemetry here. One decision takes 18 µs, and recording it with an SDK takes about as long again: it
//! allocates for each span and attribute, keeps them as values of their own, and encodes them from there. What we send is
//! known beforehand, so spans are encoded where they end, numbers are taken from the registry of `/metrics`, and only the wire format is
//! shared. That is a few hundred lines, of which every limit is ours; and the SDK's way of making connections stays out.
//!
//! Nothing here slows a decision: whoever records hands over bytes and never waits (`batch.rs`), and what finds no room, or no
//! collector, is dropped and counted in `mcp_authz_telemetry_items_total`.

pub mod batch;
pub mod endpoint;
pub mod env;
pub mod logs;
pub mod metrics;
mod openmetrics;
pub mod proto;
mod record;
pub mod records;
pub mod settings;
#[cfg(test)]
mod signal_tests;
pub mod transport;

use bytes::Bytes;

pub use crate::telemetry::metrics::Signal;
pub use settings::Settings;
pub use transport::{ExportError, Transport};

/// The encoded `opentelemetry.proto.resource.v1.Resource` of this process.
#[must_use]
pub fn resource(settings: &Settings) -> Bytes {
    let mut out = Vec::with_capacity(256);
    for (key, value) in &settings.attributes {
        proto::key_value(&mut out, 1, key, proto::Value::Text(value));
    }
    out.into()
}

#[cfg(test)]
pub(crate) mod tests;
