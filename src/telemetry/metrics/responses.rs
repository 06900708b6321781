//! What became of responses, and what the rules of policies did to them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mcp_authz_core::response::Withheld;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, gauge::Gauge},
    registry::Registry,
};

use super::{
    ByLabel, Exemplar, Histogram, Label, Metrics, OTHER_COUNTER, encode_count,
    servers::{ByServer, Outcome},
};

label! {
    /// How a response ended.
    ResponseOutcome "outcome" {
        /// It ended before its end: the client or the server left, or we stopped.
        Cut = "cut",
        /// It came without a ticket: a denial, an answer of Envoy's own, or one that needs nothing.
        LeftAlone = "left_alone",
        /// It ended, and no answer to a request was in it: a stream, as a rule.
        NoAnswer = "no_answer",
        /// A result.
        Ok = "ok",
        /// Its head said that nothing of it concerns us.
        Passed = "passed",
        /// A JSON-RPC error by which the request was not executed.
        ProtocolError = "protocol_error",
        /// Another JSON-RPC error.
        ServerError = "server_error",
        /// A result of a tool that says that it failed.
        ToolError = "tool_error",
        /// It, or a part of it, did not get through.
        Withheld = "withheld",
    }
}

label! {
    /// Why a response was withheld, or a part of it.
    WithheldReason "reason" {
        /// A rule of the policy says so.
        Blocked = "blocked",
        /// Compressed, or otherwise encoded.
        Encoding = "encoding",
        /// Not a stream of events that can be read.
        Events = "events",
        /// The grant of the caller is gone or revoked.
        Grant = "grant",
        /// Not a JSON text that every parser reads alike.
        Json = "json",
        /// Neither JSON nor a stream of events.
        MediaType = "media_type",
        /// Envoy is not set up to show every byte.
        Mode = "mode",
        /// There were too many responses, or no memory for this one.
        Overload = "overload",
        /// The pins could not be read or written.
        Pins = "pins",
        /// The policy that decided is gone, and the one in force does not show the tool.
        Policy = "policy",
        /// Not a JSON-RPC message, or not one that may come there.
        Shape = "shape",
        /// Longer than the limit.
        Size = "size",
        /// The ticket cannot be read, is forged or too old.
        Ticket = "ticket",
        /// The server sent trailers where a body should have ended.
        Trailers = "trailers",
    }
}

impl WithheldReason {
    /// Whether nobody could judge the response, for which an operator has to see to something; the others are the policy's word or
    /// the server's doing.
    #[must_use]
    pub fn is_failure(self) -> bool {
        [Self::Mode, Self::Overload, Self::Pins, Self::Ticket].contains(&self)
    }
}

impl From<Withheld> for WithheldReason {
    fn from(withheld: Withheld) -> Self {
        match withheld {
            Withheld::Blocked => Self::Blocked,
            Withheld::Encoding => Self::Encoding,
            Withheld::Events => Self::Events,
            Withheld::Json => Self::Json,
            Withheld::MediaType => Self::MediaType,
            Withheld::Pins => Self::Pins,
            Withheld::Shape => Self::Shape,
            Withheld::Size => Self::Size,
        }
    }
}

/// Rules that have series of their own; more are counted as `_other`.
pub const RULES_MAX: usize = 1_000;

/// The families of the response phase. Clones share the counters.
#[derive(Clone, Debug)]
pub(super) struct Responses {
    added: Added,
    counts: ByServer<ResponseOutcome>,
    held: Gauge,
    open: Gauge,
    rules: Rules,
    withheld: ByLabel<WithheldReason>,
}

impl Responses {
    pub(super) fn new() -> Self {
        Self {
            added: Added(Arc::default()),
            counts: ByServer::new(),
            held: Gauge::default(),
            open: Gauge::default(),
            rules: Rules::default(),
            withheld: ByLabel::new(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let m = self.clone();
        let help = "Time from receiving a part of a response to answering it";
        registry.register("mcp_authz_response_added_seconds", help, m.added);
        let help = "Bytes of all responses that are held back now";
        registry.register("mcp_authz_response_held_bytes", help, m.held);
        let help = "What the rules of policies did to responses: values masked, reported, or responses blocked";
        registry.register("mcp_authz_response_rule_hits", help, m.rules);
        registry.register("mcp_authz_response_streams", "Responses that are looked at now", m.open);
        let help = "Responses that were withheld, wholly or in part, by the reason";
        registry.register("mcp_authz_response_withheld", help, m.withheld);
        registry.register("mcp_authz_responses", "Responses by how they ended", m.counts);
    }

    pub(super) fn added(&self) -> &Histogram {
        &self.added.0
    }

    pub(super) fn set_servers<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        self.counts.set_servers(names);
    }
}

impl Metrics {
    /// Counts a response as being looked at until the answer is dropped.
    #[must_use = "the response counts as open until this is dropped"]
    pub fn response_open(&self) -> OpenResponse {
        self.responses.open.inc();
        OpenResponse(self.responses.open.clone())
    }

    /// Counts a response that has ended.
    pub fn response(&self, outcome: ResponseOutcome, server: &str, method: &str) {
        self.responses.counts.count(outcome, server, method);
    }

    /// Counts a response that was withheld.
    pub fn withheld(&self, reason: WithheldReason) {
        self.responses.withheld.add(reason, 1);
    }

    /// Counts what a rule for results did; the pointer of the rule is from the policy.
    pub fn rule_hit(&self, policy: &str, rule: &str, n: u64) {
        self.responses.rules.add(policy, rule, n);
    }

    /// Counts the handling of one message.
    pub fn response_added(&self, elapsed: Duration, exemplar: Option<Exemplar>) {
        self.responses.added.0.observe(elapsed, exemplar);
    }

    /// Sets how many bytes are held back now.
    pub fn set_response_held(&self, bytes: usize) {
        self.responses.held.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// A response that is being looked at.
#[derive(Debug)]
pub struct OpenResponse(Gauge);

impl Drop for OpenResponse {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Outcome for ResponseOutcome {
    const COUNT: usize = Self::ALL.len();

    fn index(self) -> usize {
        Label::index(self)
    }

    fn labels(index: usize) -> Vec<(&'static str, &'static str)> {
        Self::ALL.get(index).map(|outcome| (Self::KEY, outcome.name())).into_iter().collect()
    }
}

type Hits = BTreeMap<Arc<str>, BTreeMap<Arc<str>, u64>>;

/// What rules did. A rule gets its series with its first hit.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(Arc<Mutex<(Hits, usize)>>);

impl Rules {
    pub(super) fn add(&self, policy: &str, rule: &str, n: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (hits, count) = &mut *all;
        if let Some(hit) = hits.get_mut(policy).and_then(|rules| rules.get_mut(rule)) {
            *hit = hit.saturating_add(n);
            return;
        }
        let (policy, rule) = if *count < RULES_MAX { (policy, rule) } else { (OTHER_COUNTER, OTHER_COUNTER) };
        *count = count.saturating_add(1);
        let hit = hits.entry(policy.into()).or_default().entry(rule.into()).or_default();
        *hit = hit.saturating_add(n);
    }
}

impl EncodeMetric for Rules {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (policy, rules) in &all.0 {
            for (rule, hits) in rules {
                encode_count(&mut encoder, &[("policy", policy), ("rule", rule)], *hits)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// The histogram of added time.
#[derive(Clone, Debug)]
struct Added(Arc<Histogram>);

impl EncodeMetric for Added {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::counted, *};

    #[test]
    fn responses_are_counted_by_what_the_configuration_names() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 0);
        metrics.set_servers(["a"]);
        metrics.response(ResponseOutcome::ToolError, "a", "tools/call");
        metrics.response(ResponseOutcome::Ok, "nobody's", "of a client's");
        let expected = [
            r#"mcp_authz_responses_total{outcome="tool_error",server="a",method="tools/call"} 1"#,
            r#"mcp_authz_responses_total{outcome="ok",server="_unknown",method="_other"} 1"#,
        ];
        assert_eq!(counted(&registry, "mcp_authz_responses_total"), expected);
        metrics.set_servers(["a", "b"]);
        assert_eq!(counted(&registry, "mcp_authz_responses_total"), expected, "a reload keeps counts");
        metrics.withheld(WithheldReason::Ticket);
        assert_eq!(
            counted(&registry, "mcp_authz_response_withheld"),
            [r#"mcp_authz_response_withheld_total{reason="ticket"} 1"#]
        );
        let open = metrics.response_open();
        metrics.set_response_held(7);
        assert_eq!(counted(&registry, "mcp_authz_response_streams"), ["mcp_authz_response_streams 1"]);
        assert_eq!(counted(&registry, "mcp_authz_response_held"), ["mcp_authz_response_held_bytes 7"]);
        drop(open);
        assert_eq!(counted(&registry, "mcp_authz_response_streams"), [""; 0]);
    }

    #[test]
    fn there_are_never_more_rules_than_the_limit_allows() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 0);
        for n in 0..RULES_MAX {
            metrics.rule_hit("p", &format!("/mask/{n}"), 2);
        }
        assert_eq!(counted(&registry, "mcp_authz_response_rule_hits_total").len(), RULES_MAX);
        for n in 0..=RULES_MAX {
            metrics.rule_hit("p", &format!("/mask/{n}"), 1);
        }
        metrics.rule_hit("q", "/mask/0", 1);
        let lines = counted(&registry, "mcp_authz_response_rule_hits_total");
        assert_eq!(lines.len(), RULES_MAX + 1);
        assert!(lines.contains(&r#"mcp_authz_response_rule_hits_total{policy="p",rule="/mask/0"} 3"#.to_owned()));
        assert!(lines.contains(&r#"mcp_authz_response_rule_hits_total{policy="_other",rule="_other"} 2"#.to_owned()));
    }
}
