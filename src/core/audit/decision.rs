//! The record of a decision.

use super::{ANONYMOUS, ArgsMode, Core, Outcome, args, draft, members::Members, span, trace_id};
use crate::decision::Reason;
use crate::json::Value;
use crate::trace::TraceContext;

/// What one record of a decision says. Borrowed, so that writing it costs one buffer.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Unix milliseconds of the decision.
    pub time_ms: u64,
    /// `None` where the call was allowed.
    pub reason: Option<Reason>,
    /// The short pointer of the rule that decided; empty for an allow.
    pub rule: &'a str,
    /// RFC 6901 pointer into the policy document.
    pub rule_exact: Option<&'a str>,
    /// Policy id.
    pub policy: Option<&'a str>,
    /// Digest of the policy bytes.
    pub policy_digest: Option<&'a str>,
    /// Server name from the registry.
    pub server: Option<&'a str>,
    /// Subject; `None` before it is known.
    pub principal: Option<&'a str>,
    /// Grant label.
    pub grant: Option<&'a str>,
    /// Method from the closed set.
    pub method: &'a str,
    /// Tool as sent.
    pub tool: Option<&'a str>,
    /// `params.arguments`, of which only the top-level members are read.
    pub arguments: Option<Value<'a>>,
    /// What is said of them.
    pub args: ArgsMode,
    /// The key of [`ArgsMode::Hmac`].
    pub args_key: Option<&'a [u8; 32]>,
    /// Correlation id, as Envoy passed it on.
    pub request_id: Option<&'a str>,
    /// Envoy's own id of the stream.
    pub stream_id: Option<&'a str>,
    /// The span of the Check, if it is recorded.
    pub trace: Option<TraceContext>,
    /// Let go although its quotas could not be counted.
    pub is_unmetered: bool,
    /// Microseconds from receipt to decision.
    pub latency_us: u64,
}

impl Record<'_> {
    /// Appends the draft.
    pub fn write(&self, out: &mut String) {
        let core = Core {
            time_ms: self.time_ms,
            outcome: Outcome::of(self.reason),
            principal: self.principal.unwrap_or(ANONYMOUS),
            tool: self.tool,
        };
        draft(out, "decision", "decision", &core, |out| self.members(out));
    }

    fn members(&self, out: &mut Members<'_>) {
        if let Some(arguments) = self.arguments {
            args::write(out, arguments, self.args, self.args_key);
        }
        out.word("decision", if self.reason.is_some() { "deny" } else { "allow" });
        out.text("grant", self.grant);
        out.number("latency_us", self.latency_us);
        out.text("method", Some(self.method));
        out.text("policy", self.policy);
        out.text("policy_digest", self.policy_digest);
        out.text("quota", self.is_unmetered.then_some("unmetered"));
        out.word("reason", self.reason.map_or("allowed", Reason::name));
        out.text("request_id", self.request_id);
        out.text("rule", Some(self.rule));
        out.text("rule_exact", self.rule_exact);
        out.text("server", self.server);
        span(out, self.trace);
        out.text("stream_id", self.stream_id);
        trace_id(out, self.trace);
    }
}
