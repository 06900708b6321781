//! From a `CheckRequest` to a decision and back: the ext_authz side of the adapter.
//!
//! Owns the translation only. What a header means is `core::http`'s, what a message means `core::mcp`'s, who is calling is
//! the snapshot's and what may happen is the engine's. Every way out of [`Adapter::check`] passes one place that answers,
//! records and counts, so that no refusal can be silent.

mod traced;

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use mcp_authz_core::{
    answer::{Asked, Context, answer},
    audit::{ArgsMode, OutcomeRecord, Record},
    decision::{Class, Denial, Reason},
    http::{HeaderLimits, Headers, Method as HttpMethod, OWN_PREFIX, Repeats, plain_path},
    json::{Document, Limits, Value},
    judge::is_concealed,
    mcp::{Body, Era, Message, Method, ProtocolVersion},
    pins::Known,
    policy::Policy,
    server::Server,
    trace::TraceContext,
};
use tokio::time::Instant;

use self::traced::{End, link_header, look_into};
use super::{
    logged,
    process::{self, Processor, Warned},
    respond,
    server::{Answered, CallMeta, Check, Owed, Process, Room},
    wire::{CheckRequest, HttpRequest, Struct, log::LogEntry},
};
use crate::{
    clock::Clock,
    credential::HeaderNames,
    engine::{Case, Engine, Permit},
    pins::Pinboard,
    quota::{Ledger, Reservation, token::Token},
    response::{self, Responses, Session, Ticket, need::need},
    settle::Settlements,
    snapshot::{BoundServer, Caller, Snapshot},
    state::State,
    telemetry::{
        audit::AuditSink,
        metrics::{ErrorKind, Exemplar, Metrics, SettlementOutcome, UNKNOWN_SERVER, Verdict},
        trace::{Span, Step, Tracer},
    },
};

/// Key in `context_extensions` under which a route names its server.
pub const SERVER_KEY: &str = "server";

/// Bounds and switches of the adapter, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bounds on bodies.
    pub body: Limits,
    /// Bounds on headers.
    pub headers: HeaderLimits,
    /// Checks that may run at once.
    pub checks_in_flight_max: usize,
    /// Time for one Check where Envoy sets none, and the most it may take in any case.
    pub check: Duration,
    /// Taken off Envoy's time: an answer that arrives later than this is thrown away by Envoy now and then.
    pub margin: Duration,
    /// Judge `body`, in which Envoy has replaced bytes that are not UTF-8, where `raw_body` is missing.
    pub accept_lossy_body: bool,
    /// Bounds and switches of the response phase.
    pub response: response::Settings,
    /// What audit records say of arguments.
    pub args: ArgsMode,
    /// Whether the access log makes an audit record of a call whose response nobody looked at.
    pub outcomes: bool,
}

/// Settings that may change while requests run; each request takes them once. Clones share them.
#[derive(Clone, Debug)]
pub struct LiveSettings(Arc<ArcSwap<Settings>>);

impl LiveSettings {
    /// What is in force now.
    #[must_use]
    pub fn now(&self) -> Settings {
        **self.0.load()
    }

    /// Puts others in force, for requests that begin from now on.
    pub fn replace(&self, settings: Settings) {
        self.0.store(Arc::new(settings));
    }
}

impl From<Settings> for LiveSettings {
    fn from(settings: Settings) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(settings)))
    }
}

/// The ext_authz service.
pub struct Adapter<L: Ledger> {
    engine: Engine<L>,
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    audit: Arc<AuditSink>,
    settings: LiveSettings,
    settlements: Settlements,
    responses: Arc<Responses>,
    pins: Option<Arc<Pinboard>>,
    tracer: Tracer,
    in_flight: AtomicUsize,
    warned_of_lossy_body: AtomicBool,
    warned_of_responses: Arc<Warned>,
}

impl<L: Ledger> fmt::Debug for Adapter<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter").field("settings", &self.settings.now()).finish_non_exhaustive()
    }
}

/// What looks after a request that was let go.
#[derive(Debug)]
pub struct After {
    /// Takes what Envoy's access log says.
    pub settlements: Settlements,
    /// Judges the response.
    pub responses: Arc<Responses>,
}

/// What is known of a request so far; all that answer, audit record and metrics may name.
#[derive(Debug)]
struct Trail<'a> {
    asked: Asked,
    era: Era,
    id: Option<&'a str>,
    server: Option<BoundServer<'a>>,
    caller: Option<Caller<'a>>,
    method: &'static str,
    tool: Option<Cow<'a, str>>,
    arguments: Option<Value<'a>>,
    request_id: Option<&'a str>,
    stream_id: Option<&'a str>,
    requested_version: Option<&'a str>,
    /// The signed ticket of the response, if that has to be looked at.
    ticket: Option<String>,
    /// The prompt that is asked for; looked for only if a span is recorded.
    prompt: Option<Cow<'a, str>>,
    span: Span,
}

impl Default for Trail<'_> {
    fn default() -> Self {
        Self {
            asked: Asked::Unread,
            era: Era::Legacy,
            id: None,
            server: None,
            caller: None,
            method: "_none",
            tool: None,
            arguments: None,
            request_id: None,
            stream_id: None,
            requested_version: None,
            ticket: None,
            prompt: None,
            span: Span::default(),
        }
    }
}

impl<'a> Trail<'a> {
    fn policy(&self) -> Option<&'a Policy> {
        self.caller.and_then(|caller| caller.policy).map(AsRef::as_ref)
    }

    /// The tool of the call, if its refusal must not tell that it exists.
    fn concealed_tool(&self, reason: Reason) -> Option<&str> {
        let who = self.caller?.principal;
        self.tool.as_deref().filter(|tool| is_concealed(self.policy(), who, tool, reason))
    }

    fn server_name(&self) -> Option<&'a str> {
        self.server.map(|server| &**server.server.name())
    }
}

/// Gives its place back when the Check ends, however it ends.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<L: Ledger> Check for Adapter<L> {
    async fn check(&self, request: CheckRequest, meta: CallMeta) -> Answered {
        let snapshot = self.state.snapshot();
        let now_ms = self.clock.now_ms();
        let settings = self.settings.now();
        let budget = meta.grpc_timeout.unwrap_or(settings.check).min(settings.check);
        let deadline = meta.received.checked_add(budget.saturating_sub(settings.margin)).unwrap_or(meta.received);
        let (mut document, mut trail) = (None, Trail::default());
        if self.tracer.is_on() {
            let stream_id = http_of(&request).map_or(&b""[..], |http| &http.id);
            trail.span = self.tracer.check(meta.trace, stream_id, meta.received);
        }
        let _counted = self.metrics.check_in_flight();
        let run = Run { adapter: self, snapshot: &snapshot, settings, now_ms, deadline };
        let outcome = run.decide(&request, &mut document, &mut trail).await;
        let mut span = std::mem::take(&mut trail.span);
        run.finish(outcome, &request, &trail, &mut span, meta.received)
    }

    fn logged(&self, entry: &LogEntry) {
        if let Some((token, seen)) = logged::seen(entry) {
            self.settlements.offer(&token, seen);
        }
        let is_unseen = logged::is_unseen(entry);
        if is_unseen {
            self.responses.unseen();
        }
        if self.settings.now().outcomes
            && let Some(ended) = logged::ended(entry)
        {
            self.record_outcome(&ended, is_unseen);
        }
    }

    fn log_lost(&self, entries: u64) {
        self.settlements.lost(entries);
    }

    fn wants_traces(&self) -> bool {
        self.tracer.is_on()
    }

    fn process(&self, room: Room, trace: Option<TraceContext>) -> impl Process {
        let session = Session::new(&self.responses, self.settings.now().response).under(trace);
        Processor::new(session, room, self.metrics.clone(), Arc::clone(&self.warned_of_responses))
    }
}

/// The reservation of a call on its way out with the answer.
impl<L: Ledger> Owed for Reservation<L> {
    fn sent(self: Box<Self>) {
        // The token has all that the ticket says.
        drop(self.into_ticket());
    }
}

impl<L: Ledger> Adapter<L> {
    /// Puts the parts together; nothing runs yet.
    pub fn new(
        engine: Engine<L>,
        state: Arc<State>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        audit: Arc<AuditSink>,
        settings: impl Into<LiveSettings>,
        After { settlements, responses }: After,
    ) -> Self {
        Self {
            engine,
            state,
            clock,
            metrics,
            audit,
            settings: settings.into(),
            settlements,
            responses,
            pins: None,
            tracer: Tracer::off(),
            in_flight: AtomicUsize::new(0),
            warned_of_lossy_body: AtomicBool::new(false),
            warned_of_responses: Arc::default(),
        }
    }

    /// With the pins of servers; without them calls of servers that have `tools.trust` are denied.
    #[must_use]
    pub fn with_pins(self, pins: Arc<Pinboard>) -> Self {
        Self { pins: Some(pins), ..self }
    }

    fn record_outcome(&self, ended: &logged::Ended, is_unseen: bool) {
        let text = |name| ended.text(name);
        let principal = text(logged::GRANT_KEY).map(|grant| self.state.subject(grant));
        let record = OutcomeRecord {
            time_ms: self.clock.now_ms(),
            facts: ended.facts(),
            is_unseen,
            principal: principal.as_deref(),
            grant: text(logged::GRANT_KEY),
            method: text("method"),
            policy: text("policy"),
            policy_digest: text("policy_digest"),
            server: text("server"),
            stream_id: text(logged::STREAM_KEY),
            trace: text(logged::TRACE_KEY).and_then(|text| TraceContext::parse(text.as_bytes())),
        };
        let mut draft = String::with_capacity(512);
        record.write(&mut draft);
        // The call is over; the sink counts what it loses.
        drop(self.audit.append(draft.as_bytes()));
    }

    /// With a record of what each Check does.
    #[must_use]
    pub fn with_tracer(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    fn known(&self, server: &Server) -> Known {
        match &self.pins {
            Some(pins) => pins.known(server),
            None if server.tools().is_none() => Known::Off,
            None => Known::Unavailable,
        }
    }

    fn enter(&self, checks_max: usize) -> Option<Place<'_>> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.in_flight);
        (before < checks_max).then_some(place)
    }

    fn body<'a>(&self, http: &'a HttpRequest, accept_lossy: bool) -> Result<&'a [u8], Reason> {
        match (http.raw_body.is_empty(), http.body.is_empty()) {
            (_, true) => Ok(&http.raw_body),
            // Envoy fills one of the two; both would leave open which of them the upstream gets.
            (false, false) => Err(Reason::MalformedRequest),
            (true, false) if accept_lossy => {
                self.metrics.lossy_body();
                if !self.warned_of_lossy_body.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "Envoy sends bodies without pack_as_bytes: bytes that are not UTF-8 arrive replaced, so policy and upstream may see different texts."
                    );
                }
                Ok(&http.body)
            }
            (true, false) => Err(Reason::MalformedRequest),
        }
    }
}

/// One Check: what it runs against and until when.
struct Run<'a, L: Ledger> {
    adapter: &'a Adapter<L>,
    snapshot: &'a Snapshot,
    settings: Settings,
    now_ms: u64,
    deadline: Instant,
}

impl<'a, L: Ledger> Run<'a, L> {
    async fn decide(
        &self,
        request: &'a CheckRequest,
        document: &'a mut Option<Document<'a>>,
        trail: &mut Trail<'a>,
    ) -> Result<Permit<'a, L>, Denial> {
        let http = http_of(request).ok_or_else(|| Denial::built_in(Reason::MalformedRequest))?;
        let message = self.read(request, http, document, trail)?;
        let (Some(server), Some(caller)) = (trail.server, trail.caller) else {
            return Err(Denial::built_in(Reason::Internal));
        };
        let name = server.server.name();
        let policy = caller.policy.map(AsRef::as_ref);
        // Taken after reading, so that the refusal can carry the id; reading is bounded by the limits on the body.
        let Some(_place) = self.adapter.enter(self.settings.checks_in_flight_max) else {
            return Err(Denial::built_in(Reason::Overload));
        };
        let case = Case {
            policy,
            principal: caller.principal,
            server: name,
            message: message.as_ref(),
            known: self.adapter.known(server.server),
            stream_id: trail.stream_id.unwrap_or_default(),
            now_ms: self.now_ms,
            deadline: self.deadline,
        };
        let permit = self.adapter.engine.check(&case, server.credential, &mut trail.span).await?;
        // Past the deadline Envoy throws answers away now and then; a permit dropped here gives its units back.
        if Instant::now() >= self.deadline {
            return Err(Denial::built_in(Reason::Deadline));
        }
        let has_pins = server.server.tools().is_some();
        if let Some(asked) = need(policy, message.as_ref(), has_pins, self.settings.response.recording) {
            trail.ticket = Some(self.ticket(asked, caller, name, trail)?);
        }
        Ok(permit)
    }

    /// The ticket of the response.
    ///
    /// # Errors
    /// There can be none, so that nobody could judge the response: the request must not go.
    fn ticket(
        &self,
        asked: mcp_authz_core::response::Asked,
        caller: Caller<'_>,
        server: &Arc<str>,
        trail: &Trail<'_>,
    ) -> Result<String, Denial> {
        let ticket = Ticket {
            issued_ms: self.now_ms,
            server: Arc::clone(server),
            policy: caller.policy.map(|policy| Arc::clone(policy.id())).unwrap_or_default(),
            policy_digest: caller.policy.map(|policy| policy.digest().prefix()).unwrap_or_default(),
            grant: Arc::clone(&caller.principal.grant),
            id: (asked != mcp_authz_core::response::Asked::Stream).then(|| trail.id.map(Box::from)).flatten(),
            asked,
            era: trail.era,
            stream_id: trail.stream_id.map(Box::from),
            request_id: trail.request_id.map(Box::from),
        };
        let text = "The names in this request are too long for its response to be checked";
        ticket.sign(&self.adapter.engine.keys()).ok_or_else(|| Denial::with_message(Reason::MalformedRequest, text))
    }

    /// Everything up to the decision: facts, server, caller, message.
    fn read(
        &self,
        request: &'a CheckRequest,
        http: &'a HttpRequest,
        document: &'a mut Option<Document<'a>>,
        trail: &mut Trail<'a>,
    ) -> Result<Option<Message<'a>>, Denial> {
        let settings = &self.settings;
        trail.stream_id = std::str::from_utf8(&http.id).ok().filter(|id| !id.is_empty());
        let method = HttpMethod::parse(&http.method);
        trail.method = method.filter(|method| *method != HttpMethod::Post).map_or("_none", HttpMethod::name);
        let headers = classify(http, settings.headers).map_err(Denial::built_in)?;
        trail.request_id = headers.request_id.filter(|id| is_correlation_id(id));
        trail.requested_version = headers.mcp_protocol_version;
        let server = self.bind(request, http).map_err(Denial::built_in)?;
        trail.server = Some(server);
        check_origin(server.server, http, &headers).map_err(Denial::built_in)?;
        if trail.span.is_recorded() {
            link_header(&mut trail.span, http);
        }
        trail.span.enter(Step::Identity);
        let token = headers.bearer().map_err(Denial::built_in)?;
        let caller = self.snapshot.resolve(token.as_bytes(), server, self.now_ms).map_err(Denial::built_in)?;
        trail.caller = Some(caller);
        trail.span.enter(Step::Parse);
        let body = self.adapter.body(http, settings.accept_lossy_body).map_err(Denial::built_in)?;
        let size = u64::try_from(http.size).ok();
        match method {
            None => Err(Denial::built_in(Reason::HttpMethod)),
            Some(HttpMethod::Delete | HttpMethod::Get) => {
                trail.asked = Asked::NoBody;
                check_stream(&headers, body, size, server.server.versions(), trail).map_err(Denial::built_in)?;
                Ok(None)
            }
            Some(HttpMethod::Post) => {
                headers.check_body(body, size).map_err(Denial::built_in)?;
                let parsed = Document::parse(body, settings.body);
                let parsed = parsed.map_err(|error| Denial::built_in(error.defect.reason()))?;
                let document = &*document.insert(parsed);
                if trail.span.is_recorded() {
                    trail.prompt = look_into(&mut trail.span, document);
                }
                let message = read_message(document, &headers, server.server.versions(), trail);
                trail.span.set_method(trail.method);
                message.map(Some)
            }
        }
    }

    /// The route's own word comes first, since no client can change it; host and path only where the route says nothing.
    fn bind(&self, request: &'a CheckRequest, http: &'a HttpRequest) -> Result<BoundServer<'a>, Reason> {
        let path = plain_path(&http.path)?;
        let extensions = request.attributes.as_ref().map(|attributes| attributes.context_extensions.as_slice());
        let mut named = extensions.unwrap_or_default().iter().filter(|entry| entry.key == SERVER_KEY.as_bytes());
        let server = match (named.next(), named.next()) {
            (Some(entry), None) => std::str::from_utf8(&entry.value).ok().and_then(|name| self.snapshot.server(name)),
            (None, _) => {
                std::str::from_utf8(&http.host).ok().and_then(|host| self.snapshot.server_by_route(host, path))
            }
            (Some(_), Some(_)) => None,
        };
        server.ok_or(Reason::UnknownServer)
    }

    /// The one way out: answer, audit record, metrics.
    fn finish(
        &self,
        outcome: Result<Permit<'a, L>, Denial>,
        request: &CheckRequest,
        trail: &Trail<'_>,
        span: &mut Span,
        received: Instant,
    ) -> Answered {
        let denial = match outcome {
            Err(denial) => denial,
            // The record comes before the permit is handed over: without it there is no call.
            Ok(permit) => match self.record(trail, None, permit.is_unmetered(), span.context(), received) {
                Err(denial) => denial,
                Ok(()) => {
                    self.count(trail, None, span.context(), received);
                    return self.allow(permit, request, trail, span);
                }
            },
        };
        // A refusal that cannot be recorded stays a refusal; the sink has counted the loss.
        let denial = match self.record(trail, Some(&denial), false, span.context(), received) {
            Ok(()) => denial,
            Err(unrecorded) => unrecorded,
        };
        self.count(trail, Some(&denial), span.context(), received);
        self.end(span, trail, End { denial: Some(&denial), is_held: false, is_unmetered: false });
        let context = Context {
            asked: trail.asked,
            era: trail.era,
            id: trail.id,
            policy_digest: trail.policy().map(|policy| policy.digest().as_str()),
            request_id: trail.request_id,
            resource_metadata: trail.server.and_then(|server| server.server.resource_metadata()),
            requested_version: trail.requested_version,
            versions: trail.server.map_or(ProtocolVersion::ALL, |server| server.server.versions()),
            unknown_tool: trail.concealed_tool(denial.reason),
        };
        respond::deny(answer(&denial, &context), metadata(trail, Some(&denial))).into()
    }

    /// The permit's answer, with the reservation on it until the connection has taken it over.
    fn allow(&self, permit: Permit<'a, L>, request: &CheckRequest, trail: &Trail<'_>, span: &mut Span) -> Answered {
        let mut metadata = metadata(trail, None);
        if let Some(stream_id) = trail.stream_id.filter(|_| self.settings.outcomes) {
            metadata.push_text(logged::STREAM_KEY, stream_id);
            if let Some(trace) = span.context() {
                metadata.push_text(logged::TRACE_KEY, trace.traceparent());
            }
        }
        if let Some(ticket) = permit.ticket() {
            let token = Token::of(ticket, trail.policy().map(Policy::digest), self.now_ms);
            let token = token.with_trace(span.context());
            match token.sign(&self.adapter.engine.keys()) {
                Some(token) => metadata.push_text(logged::TOKEN_KEY, token),
                // It will never be settled, which only means that it stays spent.
                None => self.adapter.metrics.settlements(SettlementOutcome::Dropped, 1),
            }
        }
        let unread = trail.ticket.as_ref().map(|ticket| {
            metadata.push_text(process::NEEDED_KEY, "1");
            metadata.push_text(logged::TICKET_KEY, ticket.as_str());
            // A response that is compressed cannot be read, so the server must not be asked for one.
            "accept-encoding"
        });
        span.enter(Step::Credential);
        let is_unmetered = permit.is_unmetered();
        let (credential, reservation) = permit.hand_over();
        let others = guarded_headers(request, self.snapshot.credential_headers()).chain(unread);
        let response = respond::allow(credential, others, metadata);
        self.end(span, trail, End { denial: None, is_held: reservation.is_some(), is_unmetered });
        match reservation {
            Some(reservation) => Answered::owing(response, reservation),
            None => response.into(),
        }
    }

    fn record(
        &self,
        trail: &Trail<'_>,
        denial: Option<&Denial>,
        is_unmetered: bool,
        trace: Option<TraceContext>,
        received: Instant,
    ) -> Result<(), Denial> {
        let principal = trail.caller.map(|caller| caller.principal);
        let keys = (self.settings.args == ArgsMode::Hmac).then(|| self.adapter.engine.keys());
        let record = Record {
            time_ms: self.now_ms,
            reason: denial.map(|denial| denial.reason),
            rule: denial.map_or("", |denial| &denial.rule.pointer),
            rule_exact: denial.and_then(|denial| denial.rule.exact.as_deref()),
            policy: trail.policy().map(|policy| &**policy.id()),
            policy_digest: trail.policy().map(|policy| policy.digest().as_str()),
            server: trail.server_name(),
            principal: principal.map(|principal| &*principal.subject),
            grant: principal.map(|principal| &*principal.grant),
            method: trail.method,
            tool: trail.tool.as_deref(),
            arguments: trail.arguments,
            args: self.settings.args,
            args_key: keys.as_ref().map(|keys| keys.argument_key()),
            request_id: trail.request_id,
            stream_id: trail.stream_id,
            trace,
            is_unmetered,
            latency_us: u64::try_from(received.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        let mut line = String::with_capacity(768);
        record.write(&mut line);
        self.adapter.audit.append(line.as_bytes()).map_err(|_| Denial::built_in(Reason::AuditUnavailable))
    }

    fn count(&self, trail: &Trail<'_>, denial: Option<&Denial>, span: Option<TraceContext>, received: Instant) {
        let metrics = &self.adapter.metrics;
        let reason = denial.map(|denial| denial.reason);
        if let (Some(denial), Some(policy)) = (denial, trail.policy())
            && denial.reason.class() == Class::Policy
        {
            metrics.rule_denial(policy.id(), &denial.rule.pointer);
        }
        metrics.request(
            reason.map_or(Verdict::Allow, Verdict::Deny),
            trail.server_name().unwrap_or(UNKNOWN_SERVER),
            trail.method,
            received.elapsed(),
            span.map(|span| Exemplar { span, time_ms: self.now_ms }),
        );
        if let Some(kind) = reason.and_then(error_kind) {
            metrics.error(kind);
        }
    }
}

/// Which of the refusals are failures of our own, to be counted as such.
fn error_kind(reason: Reason) -> Option<ErrorKind> {
    const FAILURES: [(Reason, ErrorKind); 6] = [
        (Reason::AuditUnavailable, ErrorKind::Audit),
        (Reason::CredentialUnavailable, ErrorKind::Credential),
        (Reason::Deadline, ErrorKind::Deadline),
        (Reason::Internal, ErrorKind::Internal),
        (Reason::LedgerUnavailable, ErrorKind::Ledger),
        (Reason::Overload, ErrorKind::Overload),
    ];
    FAILURES.iter().find(|(failure, _)| *failure == reason).map(|(_, kind)| *kind)
}

fn http_of(request: &CheckRequest) -> Option<&HttpRequest> {
    request.attributes.as_ref()?.request.as_ref()?.http.as_ref()
}

/// Every header line, whichever of the two forms Envoy used.
fn header_lines(http: &HttpRequest) -> impl Iterator<Item = (&[u8], &[u8])> {
    let raw = http.header_map.iter().flat_map(|map| &map.headers).map(|header| {
        let value = if header.raw_value.is_empty() { &header.value } else { &header.raw_value };
        (&*header.key, &**value)
    });
    raw.chain(http.headers.iter().map(|entry| (&*entry.key, &*entry.value)))
}

fn classify(http: &HttpRequest, limits: HeaderLimits) -> Result<Headers<'_>, Reason> {
    // Envoy fills one of the two; which of them it would forward cannot be told.
    let mut lines = http.header_map.iter().flat_map(|map| &map.headers);
    if lines.any(|line| !line.value.is_empty() && !line.raw_value.is_empty()) {
        return Err(Reason::MalformedRequest);
    }
    // A line that is in both forms would be refused as a repeat, so nothing needs to trust either one alone.
    let repeats = if http.headers.is_empty() { Repeats::Apart } else { Repeats::Joined };
    Headers::classify(header_lines(http), repeats, limits)
}

/// Headers that the client sent and that must not pass: those of our own name space, those that some server takes for a
/// credential, and those that steer Envoy.
fn guarded_headers<'a>(request: &'a CheckRequest, credentials: &'a HeaderNames) -> impl Iterator<Item = &'a str> {
    http_of(request)
        .into_iter()
        .flat_map(header_lines)
        .filter_map(|(name, _)| std::str::from_utf8(name).ok())
        .filter(|name| name.starts_with(OWN_PREFIX) || credentials.hold(name) || respond::STEERING.contains(name))
}

/// A page in a browser may have been made to call a server on the user's own machine or network (DNS rebinding).
fn check_origin(server: &Server, http: &HttpRequest, headers: &Headers<'_>) -> Result<(), Reason> {
    let origin = headers.origin.is_none_or(|origin| server.allows_origin(origin));
    let host = std::str::from_utf8(&http.host).is_ok_and(|host| server.allows_host(host));
    if origin && host { Ok(()) } else { Err(Reason::Origin) }
}

/// GET opens and DELETE ends what only a legacy session has.
fn check_stream(
    headers: &Headers<'_>,
    body: &[u8],
    size: Option<u64>,
    versions: &[ProtocolVersion],
    trail: &mut Trail<'_>,
) -> Result<(), Reason> {
    headers.check_whole(body, size)?;
    if !body.is_empty() {
        return Err(Reason::MalformedEmpty);
    }
    if headers.mcp_method.is_some() || headers.mcp_name.is_some() {
        return Err(Reason::HeaderMismatch);
    }
    let version =
        headers.mcp_protocol_version.map(|name| ProtocolVersion::parse(name).ok_or(Reason::UnsupportedVersion));
    let legacy = match version.transpose()? {
        None => versions.iter().any(|version| version.era() == Era::Legacy),
        Some(version) if !versions.contains(&version) => return Err(Reason::UnsupportedVersion),
        Some(version) => version.era() == Era::Legacy,
    };
    if !legacy {
        trail.era = Era::Modern;
    }
    // Without a session there is no stream to open or to end; SDK clients read 405 as "no stream here".
    if legacy && headers.mcp_session_id.is_some() { Ok(()) } else { Err(Reason::HttpMethod) }
}

fn read_message<'a>(
    document: &'a Document<'a>,
    headers: &Headers<'_>,
    versions: &[ProtocolVersion],
    trail: &mut Trail<'a>,
) -> Result<Message<'a>, Denial> {
    let message = Message::read(document, headers, versions).map_err(|refused| {
        trail.era = refused.era;
        trail.id = refused.id;
        trail.method = refused.method.map_or("_other", Method::name);
        trail.asked = match (refused.expects_answer, refused.method) {
            (false, _) => Asked::NoAnswer,
            (true, None) if refused.id.is_none() => Asked::Unread,
            (true, Some(Method::Initialize)) => Asked::Initialize,
            (true, Some(Method::ToolsCall)) => Asked::ToolCall,
            (true, _) => Asked::Request,
        };
        Denial::with_message(refused.reason, refused.message)
    })?;
    trail.era = message.era;
    trail.id = message.id;
    trail.method = message.method_name();
    trail.asked = match message.body {
        Body::Notification(_) | Body::Response => Asked::NoAnswer,
        Body::Request(Method::Initialize) => Asked::Initialize,
        Body::Request(_) => Asked::Request,
        Body::ToolCall(call) => {
            trail.tool = Some(call.name());
            trail.arguments = call.arguments;
            Asked::ToolCall
        }
    };
    // A response carries the id of the server's request; nobody waits for an answer under it.
    if trail.asked == Asked::NoAnswer {
        trail.id = None;
    }
    Ok(message)
}

/// `x-request-id` may be the client's own choice, so only what cannot hurt a log or carry much out is kept.
fn is_correlation_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// What Envoy's access log, tracer and later filters may know: `%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision)%`.
fn metadata(trail: &Trail<'_>, denial: Option<&Denial>) -> Struct {
    let mut out = Struct::default();
    out.push_text("decision", if denial.is_some() { "deny" } else { "allow" });
    out.push_text("reason", denial.map_or("allowed", |denial| denial.reason.name()));
    if let Some(denial) = denial {
        out.push_text("rule", &*denial.rule.pointer);
    }
    if let Some(server) = trail.server_name() {
        out.push_text("server", server);
    }
    if let Some(caller) = trail.caller {
        out.push_text(logged::GRANT_KEY, &*caller.principal.grant);
    }
    if let Some(policy) = trail.policy() {
        out.push_text("policy", &**policy.id());
        out.push_text("policy_digest", policy.digest().as_str());
    }
    out.push_text("method", trail.method);
    out
}

#[cfg(test)]
mod tests;
