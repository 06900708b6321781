//! One message of the log, or one line of the audit stream, as `opentelemetry.proto.logs.v1.LogRecord`.

use std::fmt::{self, Write as _};

use mcp_authz_core::trace::TraceContext;
use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use crate::telemetry::names::PREFIX;

use super::proto::{Value, bytes, fixed32, fixed64, key_value, message, string, uint};

/// Bytes of the text of one message, and of the value of one attribute; what is longer is cut.
const TEXT_BYTES_MAX: usize = 4_096;
/// Bytes of the values of all attributes of one message.
const ATTRIBUTES_BYTES_MAX: usize = 16_384;
const NS_PER_MS: u64 = 1_000_000;

/// A message of the log, encoded: at most some 22 KiB, as a rule 300 bytes.
pub(super) fn of_event(event: &Event<'_>, now_ms: u64) -> Vec<u8> {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    let (number, name) = severity(*metadata.level());
    let mut out = Vec::with_capacity(512);
    fixed64(&mut out, 1, now_ms.saturating_mul(NS_PER_MS));
    uint(&mut out, 2, number);
    string(&mut out, 3, name);
    message(&mut out, 5, |out| string(out, 1, &fields.message));
    key_value(&mut out, 6, TARGET, Value::Text(metadata.target()));
    out.extend_from_slice(&fields.attributes);
    if fields.left_out > 0 {
        uint(&mut out, 7, fields.left_out);
    }
    push_context(&mut out, context(fields.trace_id.as_deref(), fields.span_id.as_deref()));
    fixed64(&mut out, 11, now_ms.saturating_mul(NS_PER_MS));
    out
}

/// The attribute with the module that a message is from.
pub(super) const TARGET: &str = "mcp_authz.target";

/// Appends where in a trace something happened.
pub(super) fn push_context(out: &mut Vec<u8>, context: Option<TraceContext>) {
    if let Some(context) = context {
        fixed32(out, 8, u32::from(context.sampled));
        bytes(out, 9, &context.trace_id);
        bytes(out, 10, &context.span_id);
    }
}

/// Ids in hexadecimal; who writes them down has recorded the trace.
pub(super) fn context(trace_id: Option<&str>, span_id: Option<&str>) -> Option<TraceContext> {
    TraceContext::parse(format!("00-{}-{}-01", trace_id?, span_id?).as_bytes())
}

/// Numbers and names of the log data model.
const fn severity(level: Level) -> (u64, &'static str) {
    match level {
        Level::TRACE => (1, "TRACE"),
        Level::DEBUG => (5, "DEBUG"),
        Level::INFO => (9, "INFO"),
        Level::WARN => (13, "WARN"),
        Level::ERROR => (17, "ERROR"),
    }
}

#[derive(Debug, Default)]
struct Fields {
    message: String,
    /// Encoded.
    attributes: Vec<u8>,
    left_out: u64,
    trace_id: Option<String>,
    span_id: Option<String>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: Value<'_>) {
        let bytes = if let Value::Text(text) = value { text.len() } else { 8 };
        if self.attributes.len().saturating_add(bytes) > ATTRIBUTES_BYTES_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        key_value(&mut self.attributes, 6, &[PREFIX, field.name()].concat(), value);
    }

    fn push_text(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.message = text,
            "trace_id" => self.trace_id = Some(text),
            "span_id" => self.span_id = Some(text),
            _ => self.push(field, Value::Text(&text)),
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Bool(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Int(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push_text(field, cut(format_args!("{value}")));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = Cut(String::new());
        let causes = std::iter::successors(Some(value), |error| error.source());
        for (at, cause) in causes.enumerate() {
            // What does not fit is left out, which `Cut` says by an error.
            if write!(text, "{}{cause}", if at == 0 { "" } else { ": " }).is_err() {
                break;
            }
        }
        self.push_text(field, text.0);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push_text(field, cut(format_args!("{value:?}")));
    }
}

fn cut(text: fmt::Arguments<'_>) -> String {
    let mut out = Cut(String::new());
    // What does not fit is left out, which `Cut` says by an error.
    let _all = out.write_fmt(text).is_ok();
    out.0
}

/// Takes the first [`TEXT_BYTES_MAX`] bytes, in whole characters.
#[derive(Debug)]
struct Cut(String);

impl fmt::Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_BYTES_MAX.saturating_sub(self.0.len());
        let whole = (0..=room.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        let taken = text.get(..whole).unwrap_or_default();
        self.0.push_str(taken);
        if taken.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}
