//! The record of how a call ended whose response was not looked at, as Envoy's access log tells it.

use super::{Core, Outcome, UNSAID, draft, members::Members, span, trace_id};
use crate::settle::{Facts, Fate};
use crate::trace::TraceContext;

/// What one record of an outcome says. The decision's record has the same `stream_id`. All of it is Envoy's word, and the names
/// are those that our answer to the Check gave it.
#[derive(Clone, Copy, Debug)]
pub struct OutcomeRecord<'a> {
    /// Unix milliseconds.
    pub time_ms: u64,
    /// What Envoy saw of the call.
    pub facts: &'a Facts,
    /// Whether the decision had asked to look at the response: then nobody did.
    pub is_unseen: bool,
    /// Subject of the grant, as it is now.
    pub principal: Option<&'a str>,
    /// Grant label.
    pub grant: Option<&'a str>,
    /// Method from the closed set.
    pub method: Option<&'a str>,
    /// Policy id.
    pub policy: Option<&'a str>,
    /// Digest of the policy that decided.
    pub policy_digest: Option<&'a str>,
    /// Server name from the registry.
    pub server: Option<&'a str>,
    /// Envoy's own id of the stream.
    pub stream_id: Option<&'a str>,
    /// The span of the Check, if it is recorded.
    pub trace: Option<TraceContext>,
}

impl OutcomeRecord<'_> {
    /// Appends the draft.
    pub fn write(&self, out: &mut String) {
        let principal = self.principal.unwrap_or(UNSAID);
        let core = Core { time_ms: self.time_ms, outcome: Outcome::Allowed, principal, tool: None };
        draft(out, "outcome", "outcome", &core, |out| self.members(out));
    }

    fn members(&self, out: &mut Members<'_>) {
        out.number("attempts", u64::from(self.facts.attempts));
        out.word("fate", self.facts.fate.name());
        out.text("grant", self.grant);
        out.text("method", self.method);
        out.text("policy", self.policy);
        out.text("policy_digest", self.policy_digest);
        out.text("server", self.server);
        span(out, self.trace);
        if let Fate::Answered(status) = self.facts.fate {
            out.number("status", u64::from(status));
        }
        out.text("stream_id", self.stream_id);
        trace_id(out, self.trace);
        if self.is_unseen {
            out.flag("unseen", true);
        }
    }
}
