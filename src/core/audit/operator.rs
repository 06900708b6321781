//! The audit records of what an operator did to counters and to pins.

use super::{Core, OPERATOR, Outcome, draft};

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
    /// Digest of the policy, where it is known.
    pub policy_digest: Option<&'a str>,
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
    /// Appends the draft.
    pub fn write(&self, out: &mut String) {
        let outcome = if self.act == PinAct::Failed { Outcome::Error } else { Outcome::Allowed };
        let core = Core { time_ms: self.time_ms, outcome, principal: OPERATOR, tool: self.tool };
        draft(out, self.act.name(), "operator", &core, |out| {
            out.text("digest", self.digest);
            out.text("server", Some(self.server));
        });
    }
}

impl OperatorRecord<'_> {
    /// Appends the draft.
    pub fn write(&self, out: &mut String) {
        let outcome = if self.act == Act::ResetFailed { Outcome::Error } else { Outcome::Allowed };
        let core = Core { time_ms: self.time_ms, outcome, principal: OPERATOR, tool: None };
        draft(out, self.act.name(), "operator", &core, |out| {
            out.objects("counters", self.counters, |out, name| {
                out.text("counter", Some(name.counter));
                out.text("policy", Some(name.policy));
                out.text("policy_digest", name.policy_digest);
                out.text("scope", Some(name.scope));
                out.text("tool", name.tool);
                out.text("window", Some(name.window));
            });
            out.text("grant", self.grant);
        });
    }
}
