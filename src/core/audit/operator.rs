//! The audit record of what an operator did to counters.

use super::push_time;
use crate::text::push_json_string_cut;

/// An act of an operator upon quotas. There is no subject and no amount in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The loss of counts is accepted: what was lost counts as unused.
    AcceptLoss,
    /// Counters are set to zero.
    Reset,
    /// The act that was recorded before it could not be done, or only in part.
    ResetFailed,
}

impl Act {
    /// The name in the record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Act::AcceptLoss => "quota_accept_loss",
            Act::Reset => "quota_reset",
            Act::ResetFailed => "quota_reset_failed",
        }
    }
}

/// A counter as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterName<'a> {
    /// Id of the policy.
    pub policy: &'a str,
    /// As its author named it.
    pub counter: &'a str,
    /// The window, e.g. `hour`.
    pub window: &'a str,
    /// Whose counter it is, e.g. `grant`.
    pub scope: &'a str,
    /// The tool whose calls it counts, if it is of one tool.
    pub tool: Option<&'a str>,
}

/// What one record of an operator's act says.
#[derive(Clone, Copy, Debug)]
pub struct OperatorRecord<'a> {
    /// Unix milliseconds.
    pub time_ms: u64,
    /// What was done.
    pub act: Act,
    /// Label of the grant whose counters they are, where the act is about one.
    pub grant: Option<&'a str>,
    /// The counters.
    pub counters: &'a [CounterName<'a>],
}

/// An act of an operator upon pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinAct {
    /// Definitions are approved.
    Approve,
    /// A tool is forgotten.
    Forget,
    /// Everything of a server is forgotten.
    Reset,
    /// The act that was recorded before it could not be done.
    Failed,
}

impl PinAct {
    /// The name in the record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PinAct::Approve => "pins_approve",
            PinAct::Failed => "pins_failed",
            PinAct::Forget => "pins_forget",
            PinAct::Reset => "pins_reset",
        }
    }
}

/// What one record of an act upon pins says.
#[derive(Clone, Copy, Debug)]
pub struct PinRecord<'a> {
    /// Unix milliseconds.
    pub time_ms: u64,
    /// What was done.
    pub act: PinAct,
    /// Name of the server.
    pub server: &'a str,
    /// The tool; `None` for all that waits, or all that is known.
    pub tool: Option<&'a str>,
    /// What was approved: the digest of the definition, or of all that waits.
    pub digest: Option<&'a str>,
}

impl PinRecord<'_> {
    /// Appends the record as one line, without a line feed.
    pub fn write(&self, out: &mut String) {
        out.push_str("{\"time\":\"");
        push_time(out, self.time_ms);
        out.push_str("\",\"event\":\"");
        out.push_str(self.act.name());
        out.push_str("\",\"who\":\"operator\"");
        super::text(out, "server", Some(self.server));
        super::text(out, "tool", self.tool);
        super::text(out, "digest", self.digest);
        out.push('}');
    }
}

/// Bytes of each name.
const NAME_BYTES_MAX: usize = super::NAME_BYTES_MAX;

impl OperatorRecord<'_> {
    /// Appends the record as one line, without a line feed.
    pub fn write(&self, out: &mut String) {
        out.push_str("{\"time\":\"");
        push_time(out, self.time_ms);
        out.push_str("\",\"event\":\"");
        out.push_str(self.act.name());
        out.push_str("\",\"who\":\"operator\"");
        super::text(out, "grant", self.grant);
        out.push_str(",\"counters\":[");
        for (at, name) in self.counters.iter().enumerate() {
            out.push_str(if at == 0 { "{\"policy\":" } else { ",{\"policy\":" });
            push_json_string_cut(out, name.policy, NAME_BYTES_MAX);
            super::text(out, "counter", Some(name.counter));
            super::text(out, "window", Some(name.window));
            super::text(out, "scope", Some(name.scope));
            super::text(out, "tool", name.tool);
            out.push('}');
        }
        out.push_str("]}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_names_the_tool_and_what_was_approved() {
        let (tool, digest) = (Some("t\u{202e}"), Some("sha256:ab"));
        let record = PinRecord { time_ms: 0, act: PinAct::Approve, server: "s", tool, digest };
        let mut out = String::new();
        record.write(&mut out);
        let expected = concat!(
            r#"{"time":"1970-01-01T00:00:00.000Z","event":"pins_approve","who":"operator","server":"s","#,
            r#""tool":"t\u202e","digest":"sha256:ab"}"#
        );
        assert_eq!(out, expected);
        let mut out = String::new();
        PinRecord { act: PinAct::Reset, tool: None, digest: None, ..record }.write(&mut out);
        assert!(out.ends_with(r#""event":"pins_reset","who":"operator","server":"s"}"#), "{out}");
    }

    #[test]
    fn a_reset_names_counters_and_who() {
        let one = CounterName { policy: "p", counter: "c", window: "hour", scope: "grant", tool: Some("t\n") };
        let two = CounterName { tool: None, ..one };
        let record =
            OperatorRecord { time_ms: 1_781_604_300_007, act: Act::Reset, grant: Some("g1"), counters: &[one, two] };
        let mut out = String::new();
        record.write(&mut out);
        let expected = concat!(
            r#"{"time":"2026-06-16T10:05:00.007Z","event":"quota_reset","who":"operator","grant":"g1","counters":["#,
            r#"{"policy":"p","counter":"c","window":"hour","scope":"grant","tool":"t\n"},"#,
            r#"{"policy":"p","counter":"c","window":"hour","scope":"grant"}]}"#
        );
        assert_eq!(out, expected);
        let mut out = String::new();
        OperatorRecord { act: Act::AcceptLoss, grant: None, counters: &[], ..record }.write(&mut out);
        assert!(out.ends_with(r#""event":"quota_accept_loss","who":"operator","counters":[]}"#), "{out}");
    }
}
