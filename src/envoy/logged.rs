//! From an entry of Envoy's access log to the facts that settle a reservation, and how what we saw of an answer gets there.
//!
//! Owns the translation only. What follows from the facts is `core::settle`'s.

use std::sync::Arc;

use bytes::Bytes;
use mcp_authz_core::{
    number::AMOUNT_MAX,
    policy::LIMITS_MAX,
    response::{Came, Kind},
    settle::{Facts, Fate},
};
use prost::Message as _;

use super::wire::{
    Entry, Struct,
    log::{LogCommon, LogEntry, LogFlags, LogStruct, LogText},
};
use crate::settle::Seen;

/// Under which Envoy keeps the dynamic metadata of our answers, however the filter is called in its configuration.
pub(super) const NAMESPACE: &[u8] = b"envoy.filters.http.ext_authz";
/// Field of the dynamic metadata that carries the settle token.
pub(super) const TOKEN_KEY: &str = "settle";
/// Field that carries the ticket of a response that has to be looked at.
pub(super) const TICKET_KEY: &str = "respond";
/// Under which Envoy keeps what our answers on the response path say, if it is told to receive it.
pub(super) const OUTCOME_NAMESPACE: &str = "mcp_authz";
/// Field with Envoy's id of the stream, by which records of one call find each other.
pub(super) const STREAM_KEY: &str = "stream_id";
/// Field with the span of the Check, as a `traceparent`: only where it is recorded.
pub(super) const TRACE_KEY: &str = "trace";
/// Field with the label of the grant.
pub(super) const GRANT_KEY: &str = "grant";
/// Counters that one answer may tell amounts of: those of the limits of one tool and of all tools.
const USAGE_MAX: usize = 2 * LIMITS_MAX;
/// Fields of [`OUTCOME_NAMESPACE`].
/// Every response that was looked at has it.
const SEEN_KEY: &str = "seen";
const KIND_KEY: &str = "kind";
const BYTES_KEY: &str = "bytes";
const USAGE_KEY: &str = "usage";
/// What `response_code_details` says of a response that the server made.
const VIA_UPSTREAM: &[u8] = b"via_upstream";

/// The token of an entry and what the entry says; `None` for entries that settle nothing.
pub(super) fn seen(entry: &LogEntry) -> Option<(Bytes, Seen)> {
    let common = entry.common.as_ref()?;
    let token = token(common)?;
    let seen = match (common.log_type, common.intermediate) {
        (LogCommon::END | LogCommon::UNSAID, false) => Seen::Ended(facts(entry, common)),
        (LogCommon::PERIODIC, _) | (LogCommon::UNSAID, true) => Seen::Running,
        // Logs of single attempts and of beginnings: the request goes on.
        _ => return None,
    };
    Some((token, seen))
}

/// Whether a response left although a decision asked to look at it, and nobody did: an Envoy without the filter for responses, or
/// with one that lets them pass when it fails.
pub(super) fn is_unseen(entry: &LogEntry) -> bool {
    let Some(common) = &entry.common else { return false };
    let is_end = matches!(common.log_type, LogCommon::END | LogCommon::UNSAID) && !common.intermediate;
    let has = |namespace, name: &str| {
        fields(common, namespace).is_some_and(|fields| fields.iter().any(|field| field.key == name.as_bytes()))
    };
    // Answers of Envoy's own are nobody's secret.
    let by_server = entry.response.as_ref().is_some_and(|response| response.response_code_details == VIA_UPSTREAM);
    is_end && by_server && has(NAMESPACE, TICKET_KEY) && !has(OUTCOME_NAMESPACE.as_bytes(), SEEN_KEY)
}

/// A call that was let go and has ended, and whose response nobody looked at.
#[derive(Debug)]
pub(super) struct Ended {
    facts: Facts,
    names: Vec<(Bytes, String)>,
}

impl Ended {
    /// What Envoy saw of it.
    pub(super) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// A name that our answer to the Check gave; each once.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let mut found = self.names.iter().filter(|(key, _)| *key == name.as_bytes());
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }
}

/// The call of an entry; `None` for entries of denials, of calls that go on, and of those whose response has a record.
pub(super) fn ended(entry: &LogEntry) -> Option<Ended> {
    let common = entry.common.as_ref()?;
    let is_end = matches!(common.log_type, LogCommon::END | LogCommon::UNSAID) && !common.intermediate;
    let seen = || fields(common, OUTCOME_NAMESPACE.as_bytes());
    if !is_end || seen().is_some_and(|fields| fields.iter().any(|field| field.key == SEEN_KEY.as_bytes())) {
        return None;
    }
    let text = |entry: Entry| {
        let text = LogText::decode(entry.value).ok()?.text;
        Some((entry.key, String::from_utf8(text.into()).ok()?))
    };
    // Signed texts are of no use here, and long.
    let is_name = |entry: &Entry| entry.key != TOKEN_KEY.as_bytes() && entry.key != TICKET_KEY.as_bytes();
    let names = fields(common, NAMESPACE)?.into_iter().filter(is_name).filter_map(text).collect();
    let ended = Ended { facts: facts(entry, common), names };
    (ended.text("decision") == Some("allow")).then_some(ended)
}

/// Says in the access log that a response was looked at.
pub(super) fn seen_metadata() -> Struct {
    let mut out = Struct::default();
    out.push_text(SEEN_KEY, "1");
    out
}

/// What settling has to know of an answer, as fields of [`OUTCOME_NAMESPACE`]: texts only, because numbers of metadata are
/// floating. Envoy keeps them beside the settle token until the call ends, and [`seen`] reads them back.
pub(super) fn outcome_metadata(came: &Came) -> Struct {
    let mut out = seen_metadata();
    out.push_text(KIND_KEY, came.kind.name());
    out.push_text(BYTES_KEY, came.bytes.to_string());
    if !came.usage.is_empty() {
        // Names of counters have neither of the two signs.
        let usage: Vec<String> = came.usage.iter().map(|(name, units)| format!("{name}={units}")).collect();
        out.push_text(USAGE_KEY, usage.join(","));
    }
    out
}

/// What we saw of the answer. `None` for everything that we would not have written: a doubt about one field is a doubt about
/// all.
fn came(common: &LogCommon) -> Option<Came> {
    let fields = fields(common, OUTCOME_NAMESPACE.as_bytes())?;
    let text = |name: &str| {
        let mut found = fields.iter().filter(|field| field.key == name.as_bytes());
        let (value, None) = (found.next()?, found.next()) else { return Some(None) };
        Some(LogText::decode(value.value.clone()).ok().map(|value| value.text))
    };
    let said = |name: &str| text(name)?.and_then(|text| String::from_utf8(text.into()).ok());
    let usage = match text(USAGE_KEY) {
        None => Vec::new(),
        Some(_) => read_usage(&said(USAGE_KEY)?)?,
    };
    Some(Came { kind: Kind::parse(&said(KIND_KEY)?)?, bytes: read_number(&said(BYTES_KEY)?)?, usage })
}

fn read_usage(text: &str) -> Option<Vec<(Arc<str>, u64)>> {
    let mut usage: Vec<(Arc<str>, u64)> = Vec::new();
    for part in text.split(',') {
        let (name, units) = part.split_once('=')?;
        if name.is_empty() || usage.len() >= USAGE_MAX || usage.iter().any(|(known, _)| **known == *name) {
            return None;
        }
        usage.push((Arc::from(name), read_number(units).filter(|units| *units <= AMOUNT_MAX)?));
    }
    Some(usage)
}

/// Digits alone: the parser of the standard library also takes a sign.
fn read_number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn token(common: &LogCommon) -> Option<Bytes> {
    let value = fields(common, NAMESPACE)?.into_iter().find(|field| field.key == TOKEN_KEY.as_bytes())?.value;
    LogText::decode(value).ok().map(|value| value.text).filter(|text| !text.is_empty())
}

/// The fields of a namespace.
fn fields(common: &LogCommon, namespace: &[u8]) -> Option<Vec<Entry>> {
    let namespaces = &common.metadata.as_ref()?.filter_metadata;
    let ours = namespaces.iter().find(|entry| entry.key == namespace)?;
    LogStruct::decode(ours.value.clone()).ok().map(|fields| fields.fields)
}

fn facts(entry: &LogEntry, common: &LogCommon) -> Facts {
    let response = entry.response.as_ref();
    let code = response.and_then(|response| response.response_code).map_or(0, |code| code.value);
    let by_server = response.is_some_and(|response| response.response_code_details == VIA_UPSTREAM);
    let flags = common.response_flags.unwrap_or_default();
    let fate = if is_unsent(common) {
        Fate::NotSent
    } else if let Some(status) = answer(common, code, by_server) {
        Fate::Answered(status)
    } else if code == 0 || is_caller_gone(flags) {
        Fate::ClientGone
    } else if common.first_upstream_rx.is_some() {
        // An answer had begun, and Envoy put another in its place.
        Fate::Unanswered
    } else if is_timeout(flags) {
        Fate::TimedOut
    } else if flags.upstream_remote_reset || flags.upstream_connection_termination {
        Fate::Reset
    } else {
        Fate::Unanswered
    };
    Facts { fate, attempts: common.upstream_attempts, came: came(common) }
}

/// Whether it is certain that no server got a byte. The times are those of the last attempt only, and one that failed to
/// connect may follow one that ran; the bytes are those of all attempts, which a test holds Envoy to.
fn is_unsent(common: &LogCommon) -> bool {
    common.first_upstream_tx.is_none()
        && common.last_upstream_tx.is_none()
        && common.first_upstream_rx.is_none()
        && common.upstream_bytes_sent == 0
        && common.upstream_bytes_received == 0
}

/// The status that the server answered with. Once it has answered well, it does not matter how the transfer ended; a failure
/// counts as the server's only where Envoy says that it is.
fn answer(common: &LogCommon, code: u32, by_server: bool) -> Option<u16> {
    let status = u16::try_from(code).ok().filter(|status| (100..600).contains(status))?;
    (common.first_upstream_rx.is_some() && (by_server || status < 400)).then_some(status)
}

const fn is_caller_gone(flags: LogFlags) -> bool {
    flags.downstream_connection_termination || flags.downstream_protocol_error || flags.downstream_remote_reset
}

const fn is_timeout(flags: LogFlags) -> bool {
    flags.upstream_request_timeout
        || flags.stream_idle_timeout
        || flags.upstream_max_stream_duration_reached
        || flags.duration_timeout
}

#[cfg(test)]
mod tests;
