//! The record of a settlement that changed a count or left a doubt.

use super::{Core, NAME_BYTES_MAX, Outcome, UNSAID, draft, members::Members, short_digest, span, trace_id};
use crate::ledger::Line;
use crate::settle::Facts;
use crate::trace::TraceContext;

/// What became of a reservation after its call had ended. Names no caller: the decision's record does, under the same id.
#[derive(Clone, Copy, Debug)]
pub struct Settlement<'a> {
    /// Unix milliseconds.
    pub time_ms: u64,
    /// From the closed set of the metrics.
    pub outcome: &'static str,
    /// What Envoy said; `None` where its word could not be taken.
    pub facts: Option<&'a Facts>,
    /// Name of the reservation; `stream_id` of the decision, unless Envoy gave none.
    pub reservation: Option<&'a str>,
    /// First bytes of the digest of the policy that decided; zeros for none.
    pub policy: Option<[u8; 8]>,
    /// Unix milliseconds of the decision.
    pub issued_ms: Option<u64>,
    /// What was held.
    pub lines: &'a [Line],
    /// The span of the settlement, if it is recorded.
    pub trace: Option<TraceContext>,
}

impl Settlement<'_> {
    /// Appends the draft.
    pub fn write(&self, out: &mut String) {
        let outcome = match self.outcome {
            "forged" => Outcome::Denied,
            "expired" | "failed" => Outcome::Error,
            _ => Outcome::Allowed,
        };
        let core = Core { time_ms: self.time_ms, outcome, principal: UNSAID, tool: None };
        draft(out, "settlement", "settlement", &core, |out| self.members(out));
    }

    fn members(&self, out: &mut Members<'_>) {
        if let Some(issued_ms) = self.issued_ms {
            out.number("age_ms", self.time_ms.saturating_sub(issued_ms));
        }
        if let Some(facts) = self.facts {
            out.text("answer", facts.came.as_ref().map(|came| came.kind.name()));
            out.number("attempts", u64::from(facts.attempts));
        }
        if !self.lines.is_empty() {
            out.texts("counters", self.lines.iter().map(|line| &*line.label), NAME_BYTES_MAX);
        }
        out.text("fate", self.facts.map(|facts| facts.fate.name()));
        out.text("policy_digest", self.policy.and_then(short_digest).as_deref());
        out.text("reservation", self.reservation);
        out.word("settled", self.outcome);
        span(out, self.trace);
        trace_id(out, self.trace);
    }
}
