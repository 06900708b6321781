//! One response from its head to its end, and the record of it.

use std::{sync::Arc, time::Duration};

use mcp_authz_core::{
    audit::{Outcome, ResponseRecord},
    policy::Policy,
    response::{Asked, Begun, Came, Exchange, Head, Kind, Report, Step},
    trace::TraceContext,
};
use tokio::time::Instant;

use super::{Replacement, Responses, Settings, Ticket, withheld::replacement};
use crate::telemetry::{
    metrics::{Exemplar, Label as _, NO_METHOD, OpenResponse, ResponseOutcome, UNKNOWN_SERVER, WithheldReason},
    trace::ResponseFacts,
};

/// From so many bytes on a piece is judged off the thread that serves Checks.
const OFF_THREAD_BYTES: usize = 128 * 1024;

/// What happens to a response after its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Nothing of it concerns us, or no more.
    Pass,
    /// Its body is to be handed in.
    Body,
    /// This goes out in its place.
    Withheld(Replacement),
}

/// What goes out for a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The chunk itself.
    Same,
    /// These bytes, maybe none.
    Bytes(Vec<u8>),
    /// Nothing any more: the response is to be cut off.
    Cut,
}

/// Where a response stands.
enum Stage {
    /// Its head has not come.
    Head,
    /// Its body is under way.
    Body(Box<Exchange>),
    /// Nothing more is looked at.
    Over,
}

/// One response.
pub struct Session {
    responses: Arc<Responses>,
    settings: Settings,
    stage: Stage,
    /// What the ticket says, once it is verified.
    ticket: Option<Ticket>,
    policy: Option<Arc<Policy>>,
    /// The caller, by the grants as they are now.
    subject: Option<Arc<str>>,
    status: u16,
    report: Report,
    /// Why it was withheld by us rather than by the exchange.
    withheld: Option<WithheldReason>,
    outcome: Option<ResponseOutcome>,
    /// How long the head took to come, since the decision.
    upstream_ms: Option<u64>,
    /// Since when, by when the head had come.
    begun: Option<Instant>,
    held: usize,
    /// Envoy's place in its trace.
    parent: Option<TraceContext>,
    _open: OpenResponse,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl Session {
    /// A response that is about to come.
    #[must_use]
    pub fn new(responses: &Arc<Responses>, settings: Settings) -> Self {
        Self {
            responses: Arc::clone(responses),
            settings,
            stage: Stage::Head,
            ticket: None,
            policy: None,
            subject: None,
            status: 0,
            report: Report::default(),
            withheld: None,
            outcome: None,
            upstream_ms: None,
            begun: None,
            held: 0,
            parent: None,
            _open: responses.metrics.response_open(),
        }
    }

    /// With the place in its trace of whoever asks.
    #[must_use]
    pub fn under(mut self, parent: Option<TraceContext>) -> Self {
        self.parent = parent;
        self
    }

    /// A response whose head was not shown: nobody can tell what its body is.
    pub fn headless(&mut self) {
        self.stage = Stage::Over;
        self.withheld = Some(WithheldReason::Mode);
        self.outcome = Some(ResponseOutcome::Withheld);
    }

    /// A response without a ticket: Envoy's own, a denial, or one that needs nothing.
    pub fn leave_alone(&mut self) -> Opened {
        self.stage = Stage::Over;
        self.outcome = Some(ResponseOutcome::LeftAlone);
        Opened::Pass
    }

    /// Takes the head. `obstacle` says why it cannot be judged whatever the ticket says.
    pub async fn head(&mut self, ticket: &[u8], head: &Head<'_>, obstacle: Option<WithheldReason>) -> Opened {
        self.begun = Some(Instant::now());
        self.status = head.status;
        let read = Ticket::read(ticket, &(self.responses.keys)());
        let ticket = match read {
            Ok(ticket) => {
                self.upstream_ms = Some(self.responses.clock.now_ms().saturating_sub(ticket.issued_ms));
                self.ticket.insert(ticket)
            }
            Err(error) => {
                if self.responses.may_warn() {
                    tracing::warn!(
                        %error,
                        "A response was withheld because its ticket is not ours. Who reaches the gRPC listener, and do all replicas use one store?"
                    );
                }
                return self.withhold(WithheldReason::Ticket);
            }
        };
        let job = match obstacle {
            Some(reason) => Err(reason),
            None => self.responses.job(ticket, &self.settings).await,
        };
        let job = match job {
            Ok(job) => job,
            Err(reason) => return self.withhold(reason),
        };
        self.policy = Some(Arc::clone(&job.policy));
        self.subject = Some(Arc::clone(&job.who.subject));
        match Exchange::begin(job, head) {
            Begun::Pass => {
                self.stage = Stage::Over;
                self.outcome = Some(ResponseOutcome::Passed);
                Opened::Pass
            }
            Begun::Body(exchange) => {
                self.stage = Stage::Body(exchange);
                Opened::Body
            }
            Begun::Withheld(body, report) => {
                self.report = *report;
                self.stage = Stage::Over;
                self.outcome = Some(ResponseOutcome::Withheld);
                let asked = self.ticket.as_ref().map(|ticket| &ticket.asked);
                Opened::Withheld(Replacement::of(body, asked, self.status))
            }
        }
    }

    fn withhold(&mut self, reason: WithheldReason) -> Opened {
        self.stage = Stage::Over;
        self.withheld = Some(reason);
        self.outcome = Some(ResponseOutcome::Withheld);
        Opened::Withheld(replacement(self.ticket.as_ref(), self.status, reason))
    }

    /// Takes the next chunk; `is_end` with the last one. The future may be dropped at any `.await`: then the response is cut.
    pub async fn chunk(&mut self, chunk: bytes::Bytes, is_end: bool) -> Chunk {
        let Stage::Body(mut exchange) = std::mem::replace(&mut self.stage, Stage::Over) else {
            // What was let pass goes on passing; what was withheld must not.
            let passes = matches!(self.outcome, Some(ResponseOutcome::LeftAlone | ResponseOutcome::Passed));
            return if passes { Chunk::Same } else { Chunk::Cut };
        };
        let step = if self.held.saturating_add(chunk.len()) < OFF_THREAD_BYTES {
            exchange.chunk(&chunk, is_end)
        } else {
            let piece = chunk.clone();
            let Ok(place) = Arc::clone(&self.responses.judging).acquire_owned().await else { return Chunk::Cut };
            let judged = tokio::task::spawn_blocking(move || {
                // Kept to the end of the work, also if nobody waits for it any more.
                let _place = place;
                let step = exchange.chunk(&piece, is_end);
                (exchange, step)
            });
            let Ok(judged) = judged.await else { return Chunk::Cut };
            exchange = judged.0;
            judged.1
        };
        let mut step = self.recorded(&mut exchange, step).await;
        if self.hold(exchange.held_bytes()) > self.settings.memory_bytes_max && self.held > 0 {
            step = step.map(|step| behind(step, &chunk, exchange.give_up()));
            // What is only recorded passes all the same.
            if exchange.report().withheld.is_some() {
                self.withheld = Some(WithheldReason::Overload);
            }
            self.hold(exchange.held_bytes());
        }
        self.report.clone_from(exchange.report());
        if is_end {
            self.outcome = Some(self.ended());
        } else {
            self.stage = Stage::Body(exchange);
        }
        match step {
            Some(Step::Same) => Chunk::Same,
            Some(Step::Bytes(bytes)) => Chunk::Bytes(bytes),
            Some(Step::Record(_)) | None => Chunk::Cut,
        }
    }

    /// Records definitions before they leave, as often as one chunk brings any. `None` if there is no end to it.
    async fn recorded(&self, exchange: &mut Exchange, mut step: Step) -> Option<Step> {
        /// Lists in one chunk; each is an event of its own.
        const LISTS_MAX: usize = 1_000;
        for _ in 0..LISTS_MAX {
            let Step::Record(seen) = step else { return Some(step) };
            let server = self.ticket.as_ref().map_or("", |ticket| &ticket.server);
            let recording = self.responses.pins.record(server, seen);
            let book = match tokio::time::timeout(self.settings.patience, recording).await {
                Ok(Ok(book)) => Some(book),
                Ok(Err(error)) => {
                    if self.responses.may_warn() {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "Definitions of tools cannot be recorded; lists are withheld.");
                    }
                    None
                }
                Err(_) => None,
            };
            step = exchange.recorded(book);
        }
        None
    }

    /// Whether nothing of the response has come.
    #[must_use]
    pub const fn awaits_head(&self) -> bool {
        matches!(self.stage, Stage::Head)
    }

    /// The body ended by trailers instead of its last chunk. Says whether anything was held back, and is lost.
    pub fn trailers(&mut self) -> bool {
        let is_held = matches!(&self.stage, Stage::Body(exchange) if exchange.held_bytes() > 0);
        if is_held {
            self.withheld = Some(WithheldReason::Trailers);
            self.outcome = Some(ResponseOutcome::Withheld);
        } else if matches!(self.stage, Stage::Body(_)) {
            self.outcome = Some(self.ended());
        }
        self.stage = Stage::Over;
        is_held
    }

    /// What the answer was, once it has been seen whole: for the settlement of its call.
    #[must_use]
    pub const fn came(&self) -> Option<&Came> {
        self.report.came.as_ref()
    }

    /// Time that handling one message has added to the response.
    pub fn added(&self, elapsed: Duration) {
        let span = self.parent.filter(|parent| parent.sampled && self.responses.tracer.is_on());
        let exemplar = span.map(|span| Exemplar { span, time_ms: self.responses.clock.now_ms() });
        self.responses.metrics.response_added(elapsed, exemplar);
    }

    fn ended(&self) -> ResponseOutcome {
        if self.withheld.is_some() || self.report.withheld.is_some() {
            return ResponseOutcome::Withheld;
        }
        match self.report.came.as_ref().map(|came| came.kind) {
            None => ResponseOutcome::NoAnswer,
            Some(Kind::Ok) => ResponseOutcome::Ok,
            Some(Kind::ProtocolError) => ResponseOutcome::ProtocolError,
            Some(Kind::ServerError) => ResponseOutcome::ServerError,
            Some(Kind::ToolError) => ResponseOutcome::ToolError,
        }
    }

    /// Notes how many bytes are held back now; gives those of all responses.
    fn hold(&mut self, bytes: usize) -> usize {
        let all = self.responses.held.exchange(self.held, bytes);
        self.held = bytes;
        self.responses.metrics.set_response_held(all);
        all
    }

    /// The one end: metrics and the audit record.
    fn finish(&mut self) {
        self.hold(0);
        let outcome = match (self.outcome, self.begun) {
            (Some(outcome), _) => outcome,
            // Nothing came.
            (None, None) => return,
            (None, Some(_)) => ResponseOutcome::Cut,
        };
        let reason = self.withheld.or(self.report.withheld.map(WithheldReason::from));
        let ticket = self.ticket.as_ref();
        let metrics = &self.responses.metrics;
        let server = ticket.map_or(UNKNOWN_SERVER, |ticket| &ticket.server);
        let method = ticket.filter(|ticket| ticket.asked != Asked::Stream).map_or(NO_METHOD, Ticket::method);
        metrics.response(outcome, server, method);
        if let Some(reason) = reason {
            metrics.withheld(reason);
        }
        if let Some(policy) = &self.policy {
            for hit in &self.report.findings.hits {
                metrics.rule_hit(policy.id(), &hit.rule, u64::from(hit.count));
            }
        }
        if outcome != ResponseOutcome::LeftAlone {
            let trace = self.trace(outcome, reason);
            self.record(outcome, reason, trace);
        }
    }

    /// Records the span, and says where it is.
    fn trace(&self, outcome: ResponseOutcome, reason: Option<WithheldReason>) -> Option<TraceContext> {
        let begun = self.begun.filter(|_| self.responses.tracer.is_on())?;
        let ticket = self.ticket.as_ref();
        let facts = ResponseFacts {
            outcome: outcome.name(),
            withheld: reason.map(WithheldReason::name),
            is_failure: reason.is_some_and(WithheldReason::is_failure),
            method: ticket.map(Ticket::method),
            tool: ticket.and_then(Ticket::tool),
            server: ticket.map(|ticket| &*ticket.server),
            grant: ticket.map(|ticket| &*ticket.grant),
            policy: ticket.map(|ticket| &*ticket.policy),
            policy_digest: self.policy.as_ref().map(|policy| policy.digest().as_str()),
            stream_id: ticket.and_then(|ticket| ticket.stream_id.as_deref()),
        };
        self.responses.tracer.response(self.parent, begun, &facts)
    }

    fn record(&self, outcome: ResponseOutcome, reason: Option<WithheldReason>, trace: Option<TraceContext>) {
        let ticket = self.ticket.as_ref();
        let elapsed = self.begun.map_or(0, |begun| begun.elapsed().as_millis());
        // Where nobody could be looked up, the grant is all that is known.
        let by_grant = ticket.map(|ticket| format!("grant:{}", ticket.grant));
        let record = ResponseRecord {
            time_ms: self.responses.clock.now_ms(),
            verdict: verdict(outcome, reason),
            outcome: outcome.name(),
            withheld: reason.map(WithheldReason::name),
            stream_id: ticket.and_then(|ticket| ticket.stream_id.as_deref()),
            request_id: ticket.and_then(|ticket| ticket.request_id.as_deref()),
            server: ticket.map(|ticket| &*ticket.server),
            policy: ticket.map(|ticket| &*ticket.policy),
            policy_digest: self.policy.as_ref().map(|policy| policy.digest().as_str()),
            principal: self.subject.as_deref().or(by_grant.as_deref()),
            grant: ticket.map(|ticket| &*ticket.grant),
            method: ticket.map(Ticket::method),
            tool: ticket.and_then(Ticket::tool),
            trace,
            status: self.status,
            report: &self.report,
            upstream_ms: self.upstream_ms,
            duration_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
        };
        let mut line = String::with_capacity(512);
        record.write(&mut line);
        // What has left cannot be taken back; the sink counts what it loses.
        drop(self.responses.audit.append(line.as_bytes()));
    }
}

/// What a response came to for the client, in the words of the audit.
const fn verdict(outcome: ResponseOutcome, reason: Option<WithheldReason>) -> Outcome {
    match (outcome, reason) {
        // Nobody could judge it to its end, or at all.
        (ResponseOutcome::Cut, _)
        | (
            ResponseOutcome::Withheld,
            Some(WithheldReason::Mode | WithheldReason::Overload | WithheldReason::Pins | WithheldReason::Policy),
        ) => Outcome::Error,
        (ResponseOutcome::Withheld, _) => Outcome::Denied,
        (
            ResponseOutcome::LeftAlone
            | ResponseOutcome::NoAnswer
            | ResponseOutcome::Ok
            | ResponseOutcome::Passed
            | ResponseOutcome::ProtocolError
            | ResponseOutcome::ServerError
            | ResponseOutcome::ToolError,
            _,
        ) => Outcome::Allowed,
    }
}

/// What goes out for a chunk, and more behind it.
fn behind(step: Step, chunk: &[u8], more: Step) -> Step {
    match (step, more) {
        (Step::Same, Step::Bytes(more)) if !more.is_empty() => Step::Bytes([chunk, &more].concat()),
        (Step::Bytes(bytes), Step::Bytes(more)) => Step::Bytes([bytes, more].concat()),
        (step, Step::Bytes(_) | Step::Same) => step,
        // Nothing is recorded any more once a response is given up.
        (_, more @ Step::Record(_)) => more,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.finish();
    }
}
