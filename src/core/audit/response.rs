//! The audit record of a response: what it was and what was taken from it, never a value of it.

use super::{Core, KEY_BYTES_MAX, KEYS_MAX, Outcome, UNSAID, draft, members::Members, span, trace_id};
use crate::mask::{Action, Hit};
use crate::response::{Report, Withheld};
use crate::trace::TraceContext;

/// What one record of a response says. The decision's record has the same `stream_id`.
#[derive(Clone, Copy, Debug)]
pub struct ResponseRecord<'a> {
    /// Unix milliseconds of its end.
    pub time_ms: u64,
    /// What it came to for the client.
    pub verdict: Outcome,
    /// From the closed set of the metrics.
    pub outcome: &'static str,
    /// Why it, or a part of it, was withheld; from the closed set of the metrics.
    pub withheld: Option<&'static str>,
    /// Envoy's own id of the stream.
    pub stream_id: Option<&'a str>,
    /// Correlation id, as Envoy passed it on.
    pub request_id: Option<&'a str>,
    /// Server name from the registry.
    pub server: Option<&'a str>,
    /// Policy id.
    pub policy: Option<&'a str>,
    /// Digest of the policy that judged.
    pub policy_digest: Option<&'a str>,
    /// Subject of the grant; `None` where the ticket could not be read.
    pub principal: Option<&'a str>,
    /// Grant label.
    pub grant: Option<&'a str>,
    /// Method from the closed set, or `GET`.
    pub method: Option<&'a str>,
    /// Tool as called.
    pub tool: Option<&'a str>,
    /// The span of the judgment, if it is recorded.
    pub trace: Option<TraceContext>,
    /// HTTP status of the server; 0 if none came.
    pub status: u16,
    /// What became of it.
    pub report: &'a Report,
    /// From the decision to the head of the response, ms: the time that the server took, and Envoy beside it. By the clocks of the
    /// processes that saw the one and the other.
    pub upstream_ms: Option<u64>,
    /// From the head of the response to its end, ms.
    pub duration_ms: u64,
}

impl ResponseRecord<'_> {
    /// Appends the draft.
    pub fn write(&self, out: &mut String) {
        let core = Core {
            time_ms: self.time_ms,
            outcome: self.verdict,
            principal: self.principal.unwrap_or(UNSAID),
            tool: self.tool,
        };
        draft(out, "response", "response", &core, |out| self.members(out));
    }

    fn members(&self, out: &mut Members<'_>) {
        let Report { hidden, unapproved, reported, dropped, .. } = *self.report;
        out.word("answer", self.outcome);
        out.number("bytes", self.report.bytes);
        count(out, "dropped", dropped);
        out.number("duration_ms", self.duration_ms);
        out.text("grant", self.grant);
        count(out, "hidden", hidden);
        out.text("method", self.method);
        self.new_fields(out);
        out.text("policy", self.policy);
        out.text("policy_digest", self.policy_digest);
        count(out, "reported", reported);
        out.text("request_id", self.request_id);
        if let Some(digest) = &self.report.sha256 {
            out.hex("result_sha256", digest);
        }
        self.rules(out);
        out.text("server", self.server);
        span(out, self.trace);
        out.number("status", u64::from(self.status));
        out.text("stream_id", self.stream_id);
        trace_id(out, self.trace);
        count(out, "unapproved", unapproved);
        out.text("unread", self.report.unread.map(Withheld::name));
        if let Some(upstream_ms) = self.upstream_ms {
            out.number("upstream_ms", upstream_ms);
        }
        out.text("withheld", self.withheld);
    }

    /// Rules come from the policy; they are bounded all the same, as a policy may have thousands.
    fn rules(&self, out: &mut Members<'_>) {
        let hits: &[Hit] = &self.report.findings.hits;
        if hits.is_empty() {
            return;
        }
        out.objects("rules", hits.iter().take(KEYS_MAX), |out, hit| {
            out.word(
                "action",
                match hit.action {
                    Action::Block => "block",
                    Action::Mask => "mask",
                    Action::Report => "report",
                },
            );
            out.number("count", u64::from(hit.count));
            out.text("rule", Some(&hit.rule));
        });
        out.total("rules_total", hits.len(), KEYS_MAX);
    }

    fn new_fields(&self, out: &mut Members<'_>) {
        let fields = &self.report.findings.new_fields;
        if !fields.is_empty() {
            out.texts("new_fields", fields.iter().take(KEYS_MAX).map(|field| &**field), KEY_BYTES_MAX);
            out.total("new_fields_total", fields.len(), KEYS_MAX);
        }
    }
}

fn count(out: &mut Members<'_>, name: &str, count: u32) {
    if count > 0 {
        out.number(name, u64::from(count));
    }
}
