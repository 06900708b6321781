//! The audit records: who asked for what, what was decided, and what came of it.
//!
//! A record is one line of canonical JSON in the shape of SEP-3004: members sorted at every level, no spaces, strings and
//! booleans and null only, numbers as text. The core members are those of the SEP; what only we know stands in one extension.
//! Writers make a *draft*, which has all but its place; the one thread that writes gives each draft its number, the hash of the
//! record before it, and its own ([`chain`]). [`verify`] reads lines back.

use crate::decision::{Class, Reason};
use crate::text::push_padded;
use crate::trace::{TraceContext, push_hex};

mod args;
pub mod chain;
mod decision;
pub mod line;
mod members;
mod operator;
mod outcome;
mod response;
mod settlement;
pub mod verify;

pub use args::{ArgsMode, RECORD_VALUE_BYTES_MAX, VALUE_BYTES_MAX};
pub use decision::Record;
pub use members::escaped;
pub use operator::{Act, CounterName, OperatorRecord, PinAct, PinRecord};
pub use outcome::OutcomeRecord;
pub use response::ResponseRecord;
pub use settlement::Settlement;

use members::Members;

/// Argument keys that one record names.
pub const KEYS_MAX: usize = 64;
/// Bytes of each name that comes from the wire; longer ones are cut.
pub const NAME_BYTES_MAX: usize = 128;
/// Bytes of each argument key; longer ones are cut.
pub const KEY_BYTES_MAX: usize = 64;
/// Stands between the parts of a draft. No JSON text holds it raw.
pub const MARK: u8 = 0x1f;
/// `principal_id` before the caller is known.
pub const ANONYMOUS: &str = "anonymous";
/// `principal_id` of whoever has the admin token.
pub const OPERATOR: &str = "operator";
/// `principal_id` where another record of the same `stream_id` says who it was.
pub const UNSAID: &str = "unknown";
/// `principal_id` of records about the chain itself.
pub const OURSELVES: &str = "mcp-authz";

/// The member `outcome`: what became of the event, in the closed set of SEP-3004.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It went ahead.
    Allowed,
    /// It is held until somebody decides. Reserved: nothing is held yet.
    Deferred,
    /// It was refused.
    Denied,
    /// It could not be judged; the cause is ours or the operator's.
    Error,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &'static [Outcome] = &[Outcome::Allowed, Outcome::Deferred, Outcome::Denied, Outcome::Error];

    /// The name in the record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Allowed => "allowed",
            Outcome::Deferred => "deferred",
            Outcome::Denied => "denied",
            Outcome::Error => "error",
        }
    }

    /// What a decision came to; `None` for an allow.
    #[must_use]
    pub const fn of(reason: Option<Reason>) -> Self {
        match reason {
            None => Outcome::Allowed,
            Some(reason) => match reason.class() {
                Class::Unavailable => Outcome::Error,
                Class::Identity | Class::Invalid | Class::Policy => Outcome::Denied,
            },
        }
    }
}

/// Writes a draft: the type of the event, a mark, the extension and what stands between it and the link, a mark, the rest.
fn draft(out: &mut String, event: &str, extension: &str, core: &Core<'_>, write: impl FnOnce(&mut Members<'_>)) {
    out.push_str(event);
    out.push(char::from(MARK));
    out.push_str("\"io.mcp-authz/");
    out.push_str(extension);
    out.push_str("\":");
    Members::object(out, write);
    out.push_str("},\"occurred_at\":\"");
    push_time(out, core.time_ms);
    out.push_str("\",\"outcome\":\"");
    out.push_str(core.outcome.name());
    out.push_str("\",");
    out.push(char::from(MARK));
    out.push_str("\"principal_id\":");
    members::push_text(out, core.principal, NAME_BYTES_MAX);
    out.push_str(",\"tool_name\":");
    match core.tool {
        Some(tool) => members::push_text(out, tool, NAME_BYTES_MAX),
        None => out.push_str("null"),
    }
    out.push('}');
}

/// The core members of a record that its writer knows.
struct Core<'a> {
    time_ms: u64,
    outcome: Outcome,
    principal: &'a str,
    tool: Option<&'a str>,
}

/// The span of a record, and later its trace: where a trace is recorded. Their names stand apart in the order of members.
fn span(out: &mut Members<'_>, trace: Option<TraceContext>) {
    if let Some(trace) = trace {
        out.hex("span_id", &trace.span_id);
    }
}

fn trace_id(out: &mut Members<'_>, trace: Option<TraceContext>) {
    if let Some(trace) = trace {
        out.hex("trace_id", &trace.trace_id);
    }
}

/// The first bytes of a policy's digest, as tokens carry them.
fn short_digest(policy: [u8; 8]) -> Option<String> {
    (policy != [0; 8]).then(|| {
        let mut text = String::with_capacity(23);
        text.push_str("sha256:");
        push_hex(&mut text, &policy);
        text
    })
}

/// Appends a time as RFC 3339 in UTC with milliseconds. By hand: it runs once per decision, and the general printer costs ten
/// times more.
fn push_time(out: &mut String, unix_ms: u64) {
    let (days, ms) = (unix_ms.wrapping_div(86_400_000), unix_ms.wrapping_rem(86_400_000));
    // Days to civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"; years from 1970 on.
    let z = days.saturating_add(719_468);
    let (era, doe) = (z.wrapping_div(146_097), z.wrapping_rem(146_097));
    let yoe = (doe.saturating_sub(doe / 1460).saturating_add(doe / 36_524).saturating_sub(doe / 146_096)) / 365;
    let doy = doe.saturating_sub(yoe.saturating_mul(365).saturating_add(yoe / 4).saturating_sub(yoe / 100));
    let mp = doy.saturating_mul(5).saturating_add(2) / 153;
    let day = doy.saturating_sub(mp.saturating_mul(153).saturating_add(2) / 5).saturating_add(1);
    let month = if mp < 10 { mp.saturating_add(3) } else { mp.saturating_sub(9) };
    let year = yoe.saturating_add(era.saturating_mul(400)).saturating_add(u64::from(month <= 2));
    push_padded(out, year, 4);
    out.push('-');
    push_padded(out, month, 2);
    out.push('-');
    push_padded(out, day, 2);
    out.push('T');
    push_padded(out, ms / 3_600_000, 2);
    out.push(':');
    push_padded(out, (ms / 60_000).wrapping_rem(60), 2);
    out.push(':');
    push_padded(out, (ms / 1000).wrapping_rem(60), 2);
    out.push('.');
    push_padded(out, ms.wrapping_rem(1000), 3);
    out.push('Z');
}

#[cfg(test)]
mod tests;
