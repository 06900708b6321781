//! The log over OTLP, beside the one on standard error; and lines of the audit stream, whose arrival is awaited.
//!
//! Messages of our own are encoded where they happen and wait in a bounded queue; what does not fit is dropped and counted, and
//! nobody ever waits. What libraries say stays on standard error: they print what is on the wire. A loop is not possible, because
//! nothing that is said below `telemetry::otlp`, where the sending is, gets into the queue.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Deserialize;
use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, layer::Context};

use super::{
    batch::{Batcher, request},
    proto::{Value, bytes, fixed64, key_value, message, string, uint},
    record,
    settings::Batch,
    transport::{ExportError, Signal, Transport},
};
use crate::{
    clock::Clock,
    telemetry::{metrics::Metrics, names::AUDIT_EVENT},
};

/// Bytes of one request with lines: collectors take 4 MiB by default. One line alone may be longer.
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long a message waits for others to go with it.
const LINGER: Duration = Duration::from_secs(1);
const NS_PER_MS: u64 = 1_000_000;

/// Where messages wait until [`Batcher::run`] sends them.
#[must_use]
pub fn queue(metrics: Metrics) -> Arc<Batcher> {
    Arc::new(Batcher::new(Signal::Logs, Batch { delay: LINGER, ..Batch::default() }, metrics))
}

/// Takes the messages.
#[derive(Debug)]
pub struct LogLayer {
    queue: Arc<Batcher>,
    clock: Arc<dyn Clock>,
}

impl LogLayer {
    /// Fills that queue.
    #[must_use]
    pub fn new(queue: Arc<Batcher>, clock: Arc<dyn Clock>) -> Self {
        Self { queue, clock }
    }

    /// Which messages are sent: of our own those that the log shows, without what sending has to say itself.
    #[must_use]
    pub fn targets(level: LevelFilter) -> Targets {
        Targets::new().with_targets([("mcp_authz", level), ("mcp_authz::telemetry::otlp", LevelFilter::OFF)])
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let record = record::of_event(event, self.clock.now_ms());
        let mut item = Vec::with_capacity(record.len().saturating_add(8));
        bytes(&mut item, 2, &record);
        self.queue.offer(&item);
    }
}

/// Sends lines of the audit stream, and tells whether they arrived.
#[derive(Clone, Debug)]
pub struct LineExport {
    /// The way.
    pub transport: Arc<Transport>,
    /// Who sends: an encoded `Resource`.
    pub resource: Bytes,
    /// For the time at which they are sent.
    pub clock: Arc<dyn Clock>,
}

impl LineExport {
    /// Sends each line, without its end, as the text of one log record with `event.name: mcp_authz.audit`, in order.
    ///
    /// # Errors
    /// The collector has not confirmed that it has all of them. It may have some: who sends again sends those twice.
    pub async fn export_lines(&self, lines: &[&[u8]]) -> Result<(), ExportError> {
        let now_ms = self.clock.now_ms();
        let records = lines.iter().map(|line| of_line(line, now_ms));
        for (body, _) in requests(records, &self.resource) {
            self.transport.export(Signal::Logs, body).await?;
        }
        Ok(())
    }
}

/// What of an audit line says when it happened, and where in a trace.
#[derive(Debug, Default, Deserialize)]
struct Line {
    occurred_at: Option<String>,
    #[serde(default)]
    extensions: BTreeMap<String, Extension>,
}

#[derive(Debug, Default, Deserialize)]
struct Extension {
    trace_id: Option<String>,
    span_id: Option<String>,
}

pub(super) fn of_line(line: &[u8], now_ms: u64) -> Vec<u8> {
    // A line that is none of ours goes as it is.
    let read: Line = serde_json::from_slice(line).unwrap_or_default();
    let occurred = read.occurred_at.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let occurred_ns = occurred.and_then(|time| u64::try_from(time.as_nanosecond()).ok());
    let context =
        read.extensions.values().find_map(|of| record::context(of.trace_id.as_deref(), of.span_id.as_deref()));
    let now_ns = now_ms.saturating_mul(NS_PER_MS);
    let mut out = Vec::with_capacity(line.len().saturating_add(128));
    fixed64(&mut out, 1, occurred_ns.unwrap_or(now_ns));
    // Of an audit record none is more severe than another.
    uint(&mut out, 2, 9);
    string(&mut out, 3, "INFO");
    message(&mut out, 5, |out| string(out, 1, &String::from_utf8_lossy(line)));
    // In both forms: collectors of before 2025 know the attribute only.
    key_value(&mut out, 6, "event.name", Value::Text(AUDIT_EVENT));
    record::push_context(&mut out, context);
    fixed64(&mut out, 11, now_ns);
    string(&mut out, 12, AUDIT_EVENT);
    out
}

/// Records as encoded `ExportLogsServiceRequest`s, each with their number.
pub(super) fn requests(records: impl Iterator<Item = Vec<u8>>, resource: &[u8]) -> Vec<(Bytes, u64)> {
    let (mut done, mut open, mut count) = (Vec::new(), Vec::new(), 0_u64);
    for record in records {
        if count > 0 && open.len().saturating_add(record.len()) > REQUEST_BYTES_MAX {
            done.push((request(resource, &std::mem::take(&mut open)), std::mem::take(&mut count)));
        }
        bytes(&mut open, 2, &record);
        count = count.saturating_add(1);
    }
    if count > 0 {
        done.push((request(resource, &open), count));
    }
    done
}
