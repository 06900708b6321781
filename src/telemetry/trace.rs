//! Spans of what we do: a Check and its steps, a response, a settlement.
//!
//! A Check that is recorded notes when its steps began, in a structure of fixed size; when its answer stands, all its spans are
//! encoded at once, from what the Check has at hand, and handed over (`otlp/batch.rs`). One that is not recorded costs a branch at
//! each of these places. The SDK of OpenTelemetry is not used: it makes a value of its own of each span and attribute, moves them
//! through a queue and encodes them elsewhere, which costs about as much as a whole decision.
//!
//! Whose trace it is: Envoy sends its own context in the metadata of its gRPC calls, and its flag decides whether we record. What
//! the client says of its trace, in a header or in `params._meta`, is only linked: it could put its spans into any trace, or have
//! everything recorded. `tracestate` is not read: it says something to those whom a participant calls, and we call nobody; nor is a
//! client's text to end up in spans. Without a context of Envoy's, the trace is named after Envoy's id of the stream: so the
//! response, which may be judged by another replica, finds the trace of its Check without any word between them.
//!
//! What a span may hold is a closed list. Names of spans come from the protocol, the policy or the pins; a tool that neither
//! knows is `_other`. Texts from the wire are made fit for one line and cut. No argument, no token, no header value, no URI of a
//! resource and no session id is among them.

mod encode;
mod ids;
pub mod sampler;

use std::{fmt, sync::Arc, time::Duration};

use mcp_authz_core::{decision::Reason, trace::TraceContext};
use tokio::time::Instant;

use self::{
    encode::{Attributes, Head, Kind, Link, encode},
    ids::Ids,
    sampler::Sampler,
};
use super::otlp::{Settings, batch::Batcher};
use crate::clock::Clock;

/// Steps that one Check may note; more are not noted.
const MARKS_MAX: usize = 8;
/// Room that the spans of most Checks fit into, in bytes.
const SPANS_BYTES: usize = 1536;
/// What a span of a Check is called that was given up before its answer.
const UNANSWERED: &str = "cancelled";
/// What stands for a tool that nobody knows in the name of a span.
const OTHER: &str = "_other";

/// Records spans, or nothing at all. Clones share the queue.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    queue: Arc<Batcher>,
    sampler: Sampler,
    propagates: bool,
    clock: Arc<dyn Clock>,
    /// Whether counters are kept in a Redis: asking it is a call to another service.
    is_store_shared: bool,
    ids: Ids,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracer").field(&self.0.as_ref().map(|inner| inner.sampler)).finish()
    }
}

/// A part of a Check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Putting the credential into the answer.
    Credential,
    /// Judging by the policy.
    Evaluate,
    /// Finding out who calls.
    Identity,
    /// Reading the body.
    Parse,
    /// Holding units of quotas.
    Reserve,
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Credential => "mcp_authz.credential",
            Self::Evaluate => "mcp_authz.evaluate",
            Self::Identity => "mcp_authz.identity",
            Self::Parse => "mcp_authz.parse",
            Self::Reserve => "mcp_authz.reserve",
        }
    }
}

/// Where a client named a trace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFrom {
    /// In its header `traceparent`.
    Header,
    /// In `params._meta.traceparent`.
    Meta,
}

impl LinkFrom {
    const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Meta => "meta",
        }
    }
}

/// What the span of a Check says. Texts of the wire may be of any length and content here.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckFacts<'a> {
    /// The method, of a closed set.
    pub method: &'static str,
    /// The revision of the protocol, of a closed set.
    pub version: Option<&'static str>,
    /// The request's id as written.
    pub id: Option<&'a str>,
    /// The tool that is called.
    pub tool: Option<&'a str>,
    /// Whether policy or pins know it.
    pub is_tool_known: bool,
    /// The prompt that is asked for.
    pub prompt: Option<&'a str>,
    /// Name of the server.
    pub server: Option<&'a str>,
    /// Label of the grant.
    pub grant: Option<&'a str>,
    /// Id of the policy.
    pub policy: Option<&'a str>,
    /// Its digest.
    pub policy_digest: Option<&'a str>,
    /// Why it was refused; `None` for an OK.
    pub reason: Option<Reason>,
    /// Whether that is a failure of ours.
    pub is_failure: bool,
    /// Pointer of the rule that refused it.
    pub rule: Option<&'a str>,
    /// Envoy's id of the stream.
    pub stream_id: Option<&'a str>,
    /// Whether units are held, under the id of the stream.
    pub is_held: bool,
    /// Whether it goes although its quotas could not be counted.
    pub is_unmetered: bool,
}

/// What the span of a response says.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseFacts<'a> {
    /// What became of it, of a closed set.
    pub outcome: &'static str,
    /// Why it was withheld, of a closed set.
    pub withheld: Option<&'static str>,
    /// Whether that is a failure of ours.
    pub is_failure: bool,
    /// The method, of a closed set.
    pub method: Option<&'static str>,
    /// The tool that was called.
    pub tool: Option<&'a str>,
    /// Name of the server.
    pub server: Option<&'a str>,
    /// Label of the grant.
    pub grant: Option<&'a str>,
    /// Id of the policy.
    pub policy: Option<&'a str>,
    /// Digest of the policy that judged it.
    pub policy_digest: Option<&'a str>,
    /// Envoy's id of the stream, from the ticket: that of the Check.
    pub stream_id: Option<&'a str>,
}

/// What the span of a settlement says.
#[derive(Clone, Copy, Debug)]
pub struct SettlementFacts<'a> {
    /// What it came to, of a closed set.
    pub outcome: &'static str,
    /// Whether the store could not be asked.
    pub is_failure: bool,
    /// Whether the store was asked at all.
    pub is_asked: bool,
    /// Id of the reservation.
    pub reservation: &'a str,
    /// Id of the policy.
    pub policy: &'a str,
}

impl Tracer {
    /// One that hands its spans to that queue.
    #[must_use]
    pub fn new(queue: Arc<Batcher>, settings: &Settings, clock: Arc<dyn Clock>, is_store_shared: bool) -> Self {
        let Settings { sampler, propagates, .. } = *settings;
        Self(Some(Arc::new(Inner { queue, sampler, propagates, clock, is_store_shared, ids: Ids::default() })))
    }

    /// One that records nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Whether anything may be recorded: only then somebody has to read the context of a call.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the span of a Check whose call arrived at `received` under `parent`.
    #[must_use]
    pub fn check(&self, parent: Option<TraceContext>, stream_id: &[u8], received: Instant) -> Span {
        let Some(inner) = &self.0 else { return Span(None) };
        let Some(place) = inner.place(parent, stream_id) else { return Span(None) };
        let recording = Recording {
            tracer: Arc::clone(inner),
            place,
            received,
            method: UNANSWERED,
            marks: [None; MARKS_MAX],
            links: [None; 2],
        };
        Span(Some(Box::new(recording)))
    }

    /// Records the span of a response whose head came at `begun`, and says its place; `None` if it is not recorded. `parent` is
    /// the context of Envoy's call.
    pub fn response(
        &self,
        parent: Option<TraceContext>,
        begun: Instant,
        facts: &ResponseFacts<'_>,
    ) -> Option<TraceContext> {
        let inner = self.0.as_ref()?;
        let stream_id = facts.stream_id.unwrap_or_default().as_bytes();
        let mut place = inner.place(parent, stream_id)?;
        if place.parent.is_none() && !stream_id.is_empty() {
            // The trace is that of the Check, whose span has this id.
            place.parent = Some(TraceContext { sampled: true, ..place.own });
            place.own.span_id = inner.ids.span();
        }
        let times = Times::now(&*inner.clock);
        let mut out = Vec::with_capacity(SPANS_BYTES);
        let head = Head {
            place,
            name: ["mcp_authz.response", "", ""],
            kind: Kind::Server,
            start_ns: times.ns(begun),
            end_ns: times.end_ns,
            is_failure: facts.is_failure,
        };
        encode(&mut out, &head, |out| {
            let mut out = Attributes(out);
            out.own("mcp.method.name", facts.method);
            out.wire("gen_ai.tool.name", facts.tool);
            out.own("error.type", facts.withheld.filter(|_| facts.is_failure));
            out.own("mcp_authz.server", facts.server);
            out.own("mcp_authz.grant", facts.grant);
            out.own("mcp_authz.outcome", Some(facts.outcome));
            out.own("mcp_authz.withheld", facts.withheld);
            out.own("mcp_authz.policy", facts.policy);
            out.own("mcp_authz.policy.digest", facts.policy_digest);
            out.wire("mcp_authz.stream_id", facts.stream_id);
        });
        inner.queue.offer(&out);
        Some(place.own)
    }

    /// Records the span of a settlement that began at `begun`, under the span of the Check that its token names.
    pub fn settlement(&self, check: Option<TraceContext>, begun: Instant, facts: &SettlementFacts<'_>) {
        let (Some(inner), Some(check)) = (&self.0, check) else { return };
        let times = Times::now(&*inner.clock);
        let is_call = facts.is_asked && inner.is_store_shared;
        let own = TraceContext { span_id: inner.ids.span(), ..check };
        let head = Head {
            place: Place { own, parent: Some(check) },
            name: ["mcp_authz.settle", "", ""],
            kind: if is_call { Kind::Client } else { Kind::Internal },
            start_ns: times.ns(begun),
            end_ns: times.end_ns,
            is_failure: facts.is_failure,
        };
        let mut out = Vec::with_capacity(SPANS_BYTES);
        encode(&mut out, &head, |out| {
            let mut out = Attributes(out);
            out.own("db.system.name", is_call.then_some("redis"));
            out.own("error.type", facts.is_failure.then_some(facts.outcome));
            out.own("mcp_authz.outcome", Some(facts.outcome));
            out.own("mcp_authz.policy", Some(facts.policy));
            out.wire("mcp_authz.reservation.id", Some(facts.reservation));
        });
        inner.queue.offer(&out);
    }
}

impl Inner {
    /// Where a span stands that begins under `parent`; `None` if it is not recorded.
    fn place(&self, parent: Option<TraceContext>, stream_id: &[u8]) -> Option<Place> {
        let parent = parent.filter(|_| self.propagates);
        let own = match parent {
            // Most are unsampled; they get no id.
            Some(parent) if !self.sampler.takes(Some(parent.sampled), &parent.trace_id) => return None,
            Some(parent) => TraceContext { span_id: self.ids.span(), sampled: true, ..parent },
            None if stream_id.is_empty() => self.ids.root(),
            None => Ids::of_stream(stream_id),
        };
        if parent.is_none() && !self.sampler.takes(None, &own.trace_id) {
            return None;
        }
        Some(Place { own, parent })
    }
}

/// A span and the one above it.
#[derive(Clone, Copy, Debug)]
struct Place {
    own: TraceContext,
    parent: Option<TraceContext>,
}

/// Places moments of the monotonic clock in the time of day.
struct Times {
    end: Instant,
    end_ns: u64,
}

impl Times {
    fn now(clock: &dyn Clock) -> Self {
        Self { end: Instant::now(), end_ns: clock.unix_ns() }
    }

    fn ns(&self, at: Instant) -> u64 {
        let before = self.end.saturating_duration_since(at);
        self.end_ns.saturating_sub(u64::try_from(before.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The span of a Check, if it is recorded. One that is dropped without [`Span::finish`] is recorded as given up: Envoy did not wait,
/// or the deadline of the call passed.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Recording>>);

struct Recording {
    tracer: Arc<Inner>,
    place: Place,
    received: Instant,
    method: &'static str,
    marks: [Option<(Option<Step>, Instant)>; MARKS_MAX],
    links: [Option<(LinkFrom, TraceContext)>; 2],
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Span {
    /// Whether it is recorded: what is only needed for a span is to be looked for only then.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Its place in the trace; `None` if it is not recorded.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_ref().map(|recording| recording.place.own)
    }

    /// A step begins, and the one before it ends.
    #[inline]
    pub fn enter(&mut self, step: Step) {
        if let Some(recording) = &mut self.0 {
            recording.mark(Some(step));
        }
    }

    /// The step ends that is under way.
    #[inline]
    pub fn leave(&mut self) {
        if let Some(recording) = &mut self.0 {
            recording.mark(None);
        }
    }

    /// The method is known: a span that is given up later says it.
    #[inline]
    pub fn set_method(&mut self, method: &'static str) {
        if let Some(recording) = &mut self.0 {
            recording.method = method;
        }
    }

    /// Notes a trace that the client named, the first for each place; left out if it is this one.
    pub fn link(&mut self, from: LinkFrom, to: TraceContext) {
        let Some(recording) = &mut self.0 else { return };
        let is_known = recording.links.iter().flatten().any(|(_, known)| known.trace_id == to.trace_id);
        if is_known || to.trace_id == recording.place.own.trace_id {
            return;
        }
        if let Some(free) = recording.links.iter_mut().find(|link| link.is_none()) {
            *free = Some((from, to));
        }
    }

    /// Ends it, and hands it over with its steps.
    pub fn finish(&mut self, facts: &CheckFacts<'_>) {
        if let Some(mut recording) = self.0.take() {
            recording.hand_over(facts, None);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(mut recording) = self.0.take() {
            let facts = CheckFacts { method: recording.method, is_failure: true, ..CheckFacts::default() };
            recording.hand_over(&facts, Some(UNANSWERED));
        }
    }
}

impl Recording {
    fn mark(&mut self, step: Option<Step>) {
        if let Some(free) = self.marks.iter_mut().find(|mark| mark.is_none()) {
            *free = Some((step, Instant::now()));
        }
    }

    fn hand_over(&mut self, facts: &CheckFacts<'_>, given_up: Option<&'static str>) {
        let times = Times::now(&*self.tracer.clock);
        let mut out = Vec::with_capacity(SPANS_BYTES);
        let [blank, tool] = match facts.tool {
            Some(tool) if facts.is_tool_known => [" ", tool],
            Some(_) => [" ", OTHER],
            None => ["", ""],
        };
        let head = Head {
            place: self.place,
            name: [facts.method, blank, tool],
            kind: Kind::Server,
            start_ns: times.ns(self.received),
            end_ns: times.end_ns,
            is_failure: facts.is_failure,
        };
        encode(&mut out, &head, |out| {
            check_attributes(&mut Attributes(out), facts, given_up);
            for (from, to) in self.links.iter().flatten() {
                Link { to: *to, attribute: ("mcp_authz.link", from.name()) }.encode(out);
            }
        });
        self.steps(&mut out, &times);
        self.tracer.queue.offer(&out);
    }

    fn steps(&self, out: &mut Vec<u8>, times: &Times) {
        let ends = self.marks.iter().skip(1).map(|mark| mark.map(|(_, at)| at)).chain([None]);
        for (mark, end) in self.marks.iter().zip(ends) {
            let Some((Some(step), begun)) = *mark else { continue };
            let is_call = step == Step::Reserve && self.tracer.is_store_shared;
            let own = TraceContext { span_id: self.tracer.ids.span(), ..self.place.own };
            let head = Head {
                place: Place { own, parent: Some(self.place.own) },
                name: [step.name(), "", ""],
                kind: if is_call { Kind::Client } else { Kind::Internal },
                start_ns: times.ns(begun),
                end_ns: end.map_or(times.end_ns, |end| times.ns(end)),
                is_failure: false,
            };
            encode(out, &head, |out| Attributes(out).own("db.system.name", is_call.then_some("redis")));
        }
    }
}

fn check_attributes(out: &mut Attributes<'_>, facts: &CheckFacts<'_>, given_up: Option<&'static str>) {
    out.own("rpc.system.name", Some("grpc"));
    out.own("mcp.method.name", (given_up != Some(facts.method)).then_some(facts.method));
    out.own("mcp.protocol.version", facts.version);
    out.id("jsonrpc.request.id", facts.id);
    out.wire("gen_ai.tool.name", facts.tool);
    out.wire("gen_ai.prompt.name", facts.prompt);
    let failure = facts.reason.filter(|_| facts.is_failure).map(Reason::name);
    out.own("error.type", failure.or(given_up));
    out.own("mcp_authz.server", facts.server);
    out.own("mcp_authz.grant", facts.grant);
    if given_up.is_none() {
        out.own("mcp_authz.decision", Some(if facts.reason.is_some() { "deny" } else { "allow" }));
        out.own("mcp_authz.reason", Some(facts.reason.map_or("allowed", Reason::name)));
    }
    out.own("mcp_authz.rule", facts.rule.filter(|rule| !rule.is_empty()));
    out.own("mcp_authz.policy", facts.policy);
    out.own("mcp_authz.policy.digest", facts.policy_digest);
    out.wire("mcp_authz.reservation.id", facts.stream_id.filter(|_| facts.is_held));
    out.wire("mcp_authz.stream_id", facts.stream_id);
    if facts.is_unmetered {
        out.flag("mcp_authz.unmetered");
    }
}

/// Longest time for the last spans to be sent at the end.
pub const FLUSH: Duration = Duration::from_secs(3);

#[cfg(test)]
pub(crate) mod tests;
