//! `opentelemetry.proto.trace.v1.Span`, written field by field. Source: opentelemetry-proto 1.9, `trace/v1/trace.proto`.

use std::borrow::Cow;

use mcp_authz_core::trace::TraceContext;

use super::Place;
use crate::telemetry::{
    log::safe,
    otlp::proto::{self, Value},
};

/// Longest text of the wire in an attribute, in bytes.
const TEXT_BYTES_MAX: usize = 128;
/// Longest id of a request, in bytes.
const ID_BYTES_MAX: usize = 64;

/// The context above is of another process.
const REMOTE_KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;
const SAMPLED: u32 = 1;

/// What kind of work a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// What every span has.
pub(super) struct Head<'a> {
    pub(super) place: Place,
    /// Its name, in pieces; never a text of a client's.
    pub(super) name: [&'a str; 3],
    pub(super) kind: Kind,
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) is_failure: bool,
}

/// Appends a span, as the field `spans` of its scope. `rest` appends attributes and links.
pub(super) fn encode(out: &mut Vec<u8>, head: &Head<'_>, rest: impl FnOnce(&mut Vec<u8>)) {
    const ERROR: u64 = 2;
    proto::message(out, 2, |out| {
        let Place { own, parent } = head.place;
        proto::bytes(out, 1, &own.trace_id);
        proto::bytes(out, 2, &own.span_id);
        if let Some(parent) = parent {
            proto::bytes(out, 4, &parent.span_id);
        }
        let length = head.name.iter().fold(0_u64, |sum, piece| sum.saturating_add(piece.len().try_into().unwrap_or(0)));
        proto::head(out, 5, length);
        head.name.iter().for_each(|piece| out.extend_from_slice(piece.as_bytes()));
        proto::uint(out, 6, head.kind as u64);
        proto::fixed64(out, 7, head.start_ns);
        proto::fixed64(out, 8, head.end_ns);
        rest(out);
        if head.is_failure {
            proto::message(out, 15, |out| proto::uint(out, 3, ERROR));
        }
        let remote = if parent.is_some() && head.kind == Kind::Server { REMOTE } else { 0 };
        proto::fixed32(out, 16, SAMPLED | REMOTE_KNOWN | remote);
    });
}

/// Appends attributes of a span; those without a value are left out.
pub(super) struct Attributes<'a>(pub(super) &'a mut Vec<u8>);

impl Attributes<'_> {
    const FIELD: u32 = 9;

    /// A text of ours, or of an operator: cut, because nothing is without a limit.
    pub(super) fn own(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            proto::key_value(self.0, Self::FIELD, key, Value::Text(cut(value, TEXT_BYTES_MAX)));
        }
    }

    /// A text of the wire.
    pub(super) fn wire(&mut self, key: &str, value: Option<&str>) {
        self.limited(key, value, TEXT_BYTES_MAX);
    }

    /// The id of a request, which is a text or a number; as written, without quotes.
    pub(super) fn id(&mut self, key: &str, value: Option<&str>) {
        self.limited(key, value.map(|id| id.trim_matches('"')), ID_BYTES_MAX);
    }

    pub(super) fn flag(&mut self, key: &str) {
        proto::key_value(self.0, Self::FIELD, key, Value::Bool(true));
    }

    fn limited(&mut self, key: &str, value: Option<&str>, bytes_max: usize) {
        if let Some(value) = value {
            let value: Cow<'_, str> = safe(cut(value, bytes_max));
            proto::key_value(self.0, Self::FIELD, key, Value::Text(cut(&value, bytes_max)));
        }
    }
}

/// As much of the text as fits, in whole characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

/// A trace that has to do with a span.
pub(super) struct Link {
    pub(super) to: TraceContext,
    pub(super) attribute: (&'static str, &'static str),
}

impl Link {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        proto::message(out, 13, |out| {
            proto::bytes(out, 1, &self.to.trace_id);
            proto::bytes(out, 2, &self.to.span_id);
            let (key, value) = self.attribute;
            proto::key_value(out, 4, key, Value::Text(value));
            proto::fixed32(out, 6, u32::from(self.to.sampled) | REMOTE_KNOWN | REMOTE);
        });
    }
}
