//! Metric families: an enum of everything that is counted, with labels from closed sets or from the configuration only.
//!
//! Nothing a client sends becomes a label: unknown servers are `_unknown`, unknown methods `_other`. One request costs a few
//! look-ups and atomic additions; nothing is locked and nothing allocated once a combination has been seen.

use std::{
    fmt,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mcp_authz_core::{decision::Reason, quota::Mode};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::Counter, gauge::Gauge, info::Info},
    registry::Registry,
};

use crate::quota::Ticket;

/// Label of requests that are bound to no configured server.
pub const UNKNOWN_SERVER: &str = "_unknown";
/// Label of methods that are not in [`METHODS`].
pub const OTHER_METHOD: &str = "_other";
/// Label of requests without a method, such as GET and DELETE, or a body that cannot be read.
pub const NO_METHOD: &str = "_none";

/// Labels of counters that are in no policy, or beyond `limits.metric_counters_max`.
pub const OTHER_COUNTER: &str = "_other";

/// Values of the label `method`, sorted.
pub const METHODS: &[&str] = &[
    NO_METHOD,
    OTHER_METHOD,
    "completion/complete",
    "initialize",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/initialized",
    "notifications/progress",
    "notifications/roots/list_changed",
    "notifications/tasks/status",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "tools/call",
    "tools/list",
];

/// A closed set of label values.
pub trait Label: Copy + fmt::Debug + Send + Sync + 'static {
    /// Name of the label.
    const KEY: &'static str;
    /// Every value, in the order of [`Label::index`].
    const ALL: &'static [Self];
    /// The value as text.
    fn name(self) -> &'static str;
    /// Position in [`Label::ALL`].
    fn index(self) -> usize;
}

/// Declares a [`Label`] with its one text per variant, so that the list cannot drift from the type.
macro_rules! label {
    ($(#[doc = $doc:literal])+ $label:ident $key:literal { $($(#[doc = $of:literal])+ $variant:ident = $name:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $label {
            $($(#[doc = $of])+ $variant,)+
        }

        impl Label for $label {
            const KEY: &'static str = $key;
            const ALL: &'static [Self] = &[$($label::$variant),+];

            fn name(self) -> &'static str {
                match self { $($label::$variant => $name),+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

mod histogram;
mod page;
mod policies;
mod quota;
mod responses;
mod servers;
mod telemetry;
pub mod webhook;

use histogram::Histogram;
use quota::Quotas;
use servers::{ByServer, Outcome};

pub use histogram::Exemplar;
pub use page::Page;
pub use responses::{OpenResponse, RULES_MAX, ResponseOutcome, WithheldReason};

label! {
    /// What became of an audit record.
    AuditOutcome "outcome" {
        /// Not taken: the buffer was full, or the sink was failing under `fail_closed`; or given up at the end.
        Dropped = "dropped",
        /// An attempt to write failed; it is made again.
        Failed = "failed",
        /// Handed to the operating system.
        Written = "written",
    }
}

label! {
    /// Which part of us failed. Refusals are not errors.
    ErrorKind "kind" {
        /// The admin listener.
        Admin = "admin",
        /// The audit sink.
        Audit = "audit",
        /// Files of the configuration.
        Config = "config",
        /// An upstream credential.
        Credential = "credential",
        /// The deadline of a Check was near before its decision.
        Deadline = "deadline",
        /// A defect of ours.
        Internal = "internal",
        /// The counters could not be asked, or were full.
        Ledger = "ledger",
        /// A gRPC listener or connection.
        Listener = "listener",
        /// More Checks than may run.
        Overload = "overload",
        /// A request that panicked.
        Panic = "panic",
        /// Pins could not be read or written, or were damaged.
        Pins = "pins",
        /// A TLS handshake, or a peer that is not allowed.
        Tls = "tls",
    }
}

label! {
    /// What became of an event for Kubernetes.
    KubernetesEvent "outcome" {
        /// Too many came at once.
        Dropped = "dropped",
        /// The API server did not take it.
        Failed = "failed",
        /// The API server has it.
        Sent = "sent",
    }
}

label! {
    /// What happened to the quota store that several processes share.
    LedgerEvent "event" {
        /// It did not answer, and is left alone for a while.
        BreakerOpened = "breaker_opened",
        /// Its data was lost, or replaced by older data.
        CountsLost = "counts_lost",
        /// A call that was let go without a hold, and can never be counted.
        Uncounted = "uncounted",
        /// It is there and must not be used as it is.
        Unsafe = "unsafe",
    }
}

label! {
    /// Why the quota store did not answer a question.
    LedgerOutage "kind" {
        /// There is no connection, or it broke.
        Connection = "connection",
        /// Its answer cannot be read.
        Malformed = "malformed",
        /// Another server is master, or is about to be.
        Moved = "moved",
        /// Too few replicas confirmed in time.
        NotDurable = "not_durable",
        /// It said no.
        Refused = "refused",
        /// No answer in time.
        Timeout = "timeout",
    }
}

label! {
    /// What happened to the pinned definition of a tool.
    PinEvent "event" {
        /// An operator approved it.
        Approved = "approved",
        /// A known tool is defined otherwise: it waits for approval.
        Changed = "changed",
        /// There is no room for a new tool.
        LeftOut = "left_out",
        /// A new tool: it waits for approval.
        New = "new",
        /// It was approved because it was seen first.
        Pinned = "pinned",
        /// The pins of a server had been lost, and were put back.
        PutBack = "put_back",
        /// A tool is again what was approved.
        Restored = "restored",
    }
}

label! {
    /// What became of a reservation.
    ReservationOutcome "outcome" {
        /// Its time ran out before anybody settled it: spent.
        Expired = "expired",
        /// Dropped without an exit, and settled by the leak callback; counted besides that settlement.
        Leaked = "leaked",
        /// Dropped without an exit, and could not be given back: spent.
        LeftSpent = "left_spent",
        /// Refused: at least one limit was used up.
        OverLimit = "over_limit",
        /// Held.
        Reserved = "reserved",
        /// Returned.
        RolledBack = "rolled_back",
        /// The ledger could not answer: denied.
        Unavailable = "unavailable",
        /// The ledger could not answer, and every limit of the call lets it go then.
        Unmetered = "unmetered",
    }
}

label! {
    /// What became of a call's units of one counter.
    QuotaOutcome "outcome" {
        /// Added to the counter.
        Held = "held",
        /// Given back later: the server provably never got the call, or its limit gives back such an outcome.
        Refunded = "refunded",
        /// Not added: this counter was the first that had no room.
        Refused = "refused",
        /// Not added: the counter could not be asked, and its limit lets calls go then.
        Unmetered = "unmetered",
    }
}

label! {
    /// How a reload of the configuration ended.
    ReloadOutcome "outcome" {
        /// Defects were found; the last good configuration serves.
        Failure = "failure",
        /// A new configuration serves.
        Success = "success",
    }
}

label! {
    /// What became of a reservation once Envoy had said how its call ended.
    SettlementOutcome "outcome" {
        /// The call ran, or did not, and the charge stands.
        Confirmed = "confirmed",
        /// Not looked at, because too many came at once: the charge stands.
        Dropped = "dropped",
        /// Its reservation is gone, so nothing could be given back.
        Expired = "expired",
        /// The ledger could not be asked: the charge stands.
        Failed = "failed",
        /// The token is not ours: nothing is given back.
        Forged = "forged",
        /// Units came back.
        Refunded = "refunded",
        /// The call still runs, and keeps its slots.
        Renewed = "renewed",
        /// It had been settled before.
        Repeated = "repeated",
        /// More was charged than was held, because Envoy sent the call more than once.
        Surplus = "surplus",
        /// Nobody knows whether the call ran: the charge stands.
        Unknown = "unknown",
    }
}

label! {
    /// What telemetry is about.
    Signal "signal" {
        /// Messages for people, and audit records.
        Logs = "logs",
        /// Numbers.
        Metrics = "metrics",
        /// Spans.
        Traces = "traces",
    }
}

label! {
    /// What became of telemetry that was to be sent to a collector.
    TelemetryOutcome "outcome" {
        /// Given up: there was no room for more, or the collector could not be reached in time.
        Dropped = "dropped",
        /// The collector said no.
        Refused = "refused",
        /// The collector has it.
        Sent = "sent",
    }
}

/// What a request was answered, for the labels `decision` and `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let go; the reason is `allowed`.
    Allow,
    /// Refused.
    Deny(Reason),
}

impl Outcome for Verdict {
    const COUNT: usize = Reason::ALL.len().saturating_add(1);

    fn index(self) -> usize {
        match self {
            Self::Allow => 0,
            Self::Deny(reason) => (reason as usize).saturating_add(1),
        }
    }

    fn labels(index: usize) -> Vec<(&'static str, &'static str)> {
        let (decision, reason) = match index.checked_sub(1).and_then(|index| Reason::ALL.get(index)) {
            Some(reason) => ("deny", reason.name()),
            None => ("allow", "allowed"),
        };
        vec![("decision", decision), ("reason", reason)]
    }
}

/// The metrics of the process. Clones share the counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    answers_unseen: Counter,
    audit_records: ByLabel<AuditOutcome>,
    config_last_success: Gauge<f64, AtomicU64>,
    config_reloads: ByLabel<ReloadOutcome>,
    config_stale: Gauge,
    durations: Durations,
    errors: ByLabel<ErrorKind>,
    in_flight: Gauge,
    kubernetes_events: ByLabel<KubernetesEvent>,
    ledger_connected: Gauge,
    ledger_durations: LedgerDurations,
    ledger_events: ByLabel<LedgerEvent>,
    ledger_outages: ByLabel<LedgerOutage>,
    lossy_bodies: Counter,
    pin_events: ByLabel<PinEvent>,
    pins_pending: Gauge,
    policies: policies::Policies,
    quotas: Quotas,
    requests: ByServer<Verdict>,
    reservations: ByLabel<ReservationOutcome>,
    responses: responses::Responses,
    responses_unseen: Counter,
    rule_denials: responses::Rules,
    settlements: ByLabel<SettlementOutcome>,
    telemetry: telemetry::Items,
}

impl Metrics {
    /// Registers every family. `started_ms` is the Unix time of the start in milliseconds.
    #[must_use]
    pub fn new(registry: &mut Registry, started_ms: u64) -> Self {
        let metrics = Self {
            answers_unseen: Counter::default(),
            audit_records: ByLabel::new(),
            config_last_success: Gauge::default(),
            config_reloads: ByLabel::new(),
            config_stale: Gauge::default(),
            durations: Durations(Arc::default()),
            errors: ByLabel::new(),
            in_flight: Gauge::default(),
            kubernetes_events: ByLabel::new(),
            ledger_connected: Gauge::default(),
            ledger_durations: LedgerDurations(Arc::default()),
            ledger_events: ByLabel::new(),
            ledger_outages: ByLabel::new(),
            lossy_bodies: Counter::default(),
            pin_events: ByLabel::new(),
            pins_pending: Gauge::default(),
            policies: policies::Policies::default(),
            quotas: Quotas::new(),
            requests: ByServer::new(),
            reservations: ByLabel::new(),
            responses: responses::Responses::new(),
            responses_unseen: Counter::default(),
            rule_denials: responses::Rules::default(),
            settlements: ByLabel::new(),
            telemetry: telemetry::Items::default(),
        };
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let started: Gauge<f64, AtomicU64> = Gauge::default();
        started.set(Duration::from_millis(started_ms).as_secs_f64());
        let m = metrics.clone();
        let help = "Answered calls whose limits need the body of the answer, which was not seen";
        registry.register("mcp_authz_answers_unseen", help, m.answers_unseen);
        registry.register("mcp_authz_audit_records", "Audit records by what became of them", m.audit_records);
        registry.register("mcp_authz_build", "Version of this binary", build);
        registry.register("mcp_authz_check_duration_seconds", "Time from receiving a Check to its answer", m.durations);
        let name = "mcp_authz_config_last_success_timestamp_seconds";
        registry.register(name, "Unix time of the last configuration that was taken", m.config_last_success);
        registry.register("mcp_authz_config_reloads", "Loads of the configuration", m.config_reloads);
        let help = "Whether an older configuration serves because the last load was refused: 1 or 0";
        registry.register("mcp_authz_config_stale", help, m.config_stale);
        registry.register("mcp_authz_errors", "Failures of our own, by the part that failed", m.errors);
        registry.register("mcp_authz_in_flight_checks", "Checks being decided", m.in_flight);
        let help = "Events for Kubernetes by what became of them";
        registry.register("mcp_authz_kubernetes_events", help, m.kubernetes_events);
        metrics.register_ledger(registry);
        let help = "Bodies taken from the lossy text field because Envoy does not pack them as bytes";
        registry.register("mcp_authz_lossy_bodies", help, m.lossy_bodies);
        let help = "What happened to pinned definitions of tools";
        registry.register("mcp_authz_pin_events", help, m.pin_events);
        registry.register("mcp_authz_pins_pending", "Tools that wait for approval", m.pins_pending);
        m.policies.register(registry);
        let [calls, units] = m.quotas.families();
        registry.register("mcp_authz_quota_calls", "Calls against each counter by what became of them", calls);
        let help = "Units of each counter by what became of them, in the smallest unit of the limit";
        registry.register("mcp_authz_quota_units", help, units);
        registry.register("mcp_authz_requests", "Decisions", m.requests);
        registry.register("mcp_authz_reservations", "Quota reservations by what became of them", m.reservations);
        m.responses.register(registry);
        let help = "Responses that left although a decision asked to look at them, and nobody did";
        registry.register("mcp_authz_responses_unseen", help, m.responses_unseen);
        registry.register("mcp_authz_rule_denials", "Denials by the rule of the policy that denied", m.rule_denials);
        registry.register("mcp_authz_settlements", "Entries of Envoy's access log by what they settled", m.settlements);
        let help = "Spans, metrics and log records for a collector, by what became of them";
        registry.register("mcp_authz_telemetry_items", help, m.telemetry);
        registry.register("process_start_time_seconds", "Unix time of the start of the process", started);
        registry.register_collector(Box::new(Resident));
        metrics
    }

    fn register_ledger(&self, registry: &mut Registry) {
        let m = self.clone();
        let help = "Whether the quota store is in use: 1 or 0";
        registry.register("mcp_authz_ledger_connected", help, m.ledger_connected);
        let help = "Time of one question to a quota store that is shared, its repetition included";
        registry.register("mcp_authz_ledger_duration_seconds", help, m.ledger_durations);
        let help = "What happened to the quota store that is shared";
        registry.register("mcp_authz_ledger_events", help, m.ledger_events);
        let help = "Questions that the quota store did not answer, by the reason";
        registry.register("mcp_authz_ledger_outages", help, m.ledger_outages);
    }

    /// Whether the quota store is in use.
    pub fn set_ledger_connected(&self, connected: bool) {
        self.ledger_connected.set(i64::from(connected));
    }

    /// Counts what happened to the quota store.
    pub fn ledger_event(&self, event: LedgerEvent, n: u64) {
        self.ledger_events.add(event, n);
    }

    /// Counts a question that the quota store did not answer.
    pub fn ledger_outage(&self, outage: LedgerOutage) {
        self.ledger_outages.add(outage, 1);
    }

    /// Counts what happened to pinned definitions.
    pub fn pin_events(&self, event: PinEvent, n: u64) {
        self.pin_events.add(event, n);
    }

    /// How many tools wait for approval.
    pub fn set_pins_pending(&self, tools: usize) {
        self.pins_pending.set(i64::try_from(tools).unwrap_or(i64::MAX));
    }

    /// Counts a question that the quota store answered.
    pub fn ledger_answered(&self, elapsed: Duration) {
        self.ledger_durations.0.observe(elapsed, None);
    }

    /// Takes over the names of the configured servers, at most as many as the configuration holds. Counts of names that stay
    /// are kept. Requests to any other server count as [`UNKNOWN_SERVER`].
    pub fn set_servers<'a>(&self, names: impl IntoIterator<Item = &'a str> + Clone) {
        self.responses.set_servers(names.clone());
        self.requests.set_servers(names);
    }

    /// Takes over the counters of the configuration as pairs of policy and name, at most `max` of them; gives how many were left
    /// out. Counts of pairs that stay are kept. All others count as [`OTHER_COUNTER`].
    pub fn set_counters<'a>(&self, names: impl IntoIterator<Item = (&'a str, &'a str)>, max: usize) -> usize {
        self.quotas.set(names, max)
    }

    /// Shows which policies serve, each with the digest of its file, at most `max` of them; gives how many were left out.
    pub fn set_policies<'a>(
        &self,
        revision: &str,
        policies: impl Iterator<Item = (&'a Arc<str>, &'a str)>,
        max: usize,
    ) -> usize {
        self.policies.set(revision, policies, max)
    }

    /// Counts an event for Kubernetes.
    pub fn kubernetes_event(&self, outcome: KubernetesEvent) {
        self.kubernetes_events.add(outcome, 1);
    }

    /// Counts one call against one counter, and its units.
    pub fn quota(&self, policy: &str, counter: &str, outcome: QuotaOutcome, units: u64) {
        self.quotas.count(policy, counter, outcome, units);
    }

    /// As [`Metrics::quota`], for every counter that the ticket holds units of.
    pub fn quota_of(&self, ticket: &Ticket, outcome: QuotaOutcome) {
        for (line, terms) in ticket.booking.lines.iter().zip(&ticket.terms) {
            if line.mode != Mode::Gate {
                self.quota(&terms.policy, &terms.name, outcome, line.amount);
            }
        }
    }

    /// Counts one decision and its duration.
    pub fn request(&self, verdict: Verdict, server: &str, method: &str, elapsed: Duration, exemplar: Option<Exemplar>) {
        self.requests.count(verdict, server, method);
        self.durations.observe(verdict, elapsed, exemplar);
    }

    /// Counts a denial by a policy; the pointer of the rule is from the policy, or one of the closed set in parentheses.
    pub fn rule_denial(&self, policy: &str, rule: &str) {
        self.rule_denials.add(policy, rule, 1);
    }

    /// Counts a Check as in flight until the answer is dropped.
    #[must_use = "the Check counts as in flight until this is dropped"]
    pub fn check_in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts a failure of our own.
    pub fn error(&self, kind: ErrorKind) {
        self.errors.add(kind, 1);
    }

    /// Counts `n` reservations.
    pub fn reservations(&self, outcome: ReservationOutcome, n: u64) {
        self.reservations.add(outcome, n);
    }

    /// Counts `n` entries of the access log.
    pub fn settlements(&self, outcome: SettlementOutcome, n: u64) {
        self.settlements.add(outcome, n);
    }

    /// Counts a call whose limits need the body of its answer, which was not seen.
    pub fn answer_unseen(&self) {
        self.answers_unseen.inc();
    }

    /// Counts a response that left unseen although a decision asked to look at it.
    pub fn response_unseen(&self) {
        self.responses_unseen.inc();
    }

    /// Counts a load that was taken, at the Unix time `now_ms` in milliseconds.
    pub fn config_taken(&self, now_ms: u64) {
        self.config_reloads.add(ReloadOutcome::Success, 1);
        self.config_last_success.set(Duration::from_millis(now_ms).as_secs_f64());
        self.config_stale.set(0);
    }

    /// Counts a load that was refused.
    pub fn config_refused(&self) {
        self.config_reloads.add(ReloadOutcome::Failure, 1);
        self.config_stale.set(1);
    }

    /// Counts `n` audit records.
    pub fn audit_records(&self, outcome: AuditOutcome, n: u64) {
        self.audit_records.add(outcome, n);
    }

    /// Counts `n` things that were to be sent to a collector: a Check, a response or a settlement with all its spans, a point of
    /// a metric, a log record.
    pub fn telemetry(&self, signal: Signal, outcome: TelemetryOutcome, n: u64) {
        self.telemetry.add(signal, outcome, n);
    }

    /// Counts a body taken from the lossy field.
    pub fn lossy_body(&self) {
        self.lossy_bodies.inc();
    }
}

/// A Check that is being decided.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One counter for each value of a label; all of them are always shown.
#[derive(Debug)]
struct ByLabel<L> {
    cells: Arc<[AtomicU64]>,
    label: PhantomData<L>,
}

impl<L> Clone for ByLabel<L> {
    fn clone(&self) -> Self {
        Self { cells: Arc::clone(&self.cells), label: PhantomData }
    }
}

impl<L: Label> ByLabel<L> {
    fn new() -> Self {
        Self { cells: L::ALL.iter().map(|_| AtomicU64::new(0)).collect(), label: PhantomData }
    }

    fn add(&self, label: L, n: u64) {
        if let Some(cell) = self.cells.get(label.index()) {
            cell.fetch_add(n, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> impl Iterator<Item = (L, u64)> {
        L::ALL.iter().copied().zip(self.cells.iter().map(|cell| cell.load(Ordering::Relaxed)))
    }
}

impl<L: Label> EncodeMetric for ByLabel<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (label, count) in self.counts() {
            encode_count(&mut encoder, &[(L::KEY, label.name())], count)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

fn encode_count(encoder: &mut MetricEncoder<'_>, labels: &[(&str, &str)], count: u64) -> fmt::Result {
    encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

/// Durations of Checks allowed and denied.
#[derive(Clone, Debug)]
struct Durations(Arc<[Histogram; 2]>);

impl Durations {
    fn observe(&self, verdict: Verdict, elapsed: Duration, exemplar: Option<Exemplar>) {
        let [allow, deny] = &*self.0;
        match verdict {
            Verdict::Allow => allow.observe(elapsed, exemplar),
            Verdict::Deny(_) => deny.observe(elapsed, exemplar),
        }
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (decision, histogram) in ["allow", "deny"].into_iter().zip(&*self.0) {
            histogram.encode(encoder.encode_family(&[("decision", decision)])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// The histogram of questions to the quota store.
#[derive(Clone, Debug)]
struct LedgerDurations(Arc<Histogram>);

impl EncodeMetric for LedgerDurations {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Resident memory, read when asked for. Left out where `/proc` does not tell.
#[derive(Debug)]
struct Resident;

impl Collector for Resident {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(bytes) = std::fs::read_to_string("/proc/self/status").ok().and_then(|text| resident_bytes(&text))
        else {
            return Ok(());
        };
        let name = "process_resident_memory_bytes";
        encoder.encode_descriptor(name, "Resident memory", None, MetricType::Gauge)?.encode_gauge(&bytes)
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    fn metrics() -> (Registry, Metrics) {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 1_500);
        (registry, metrics)
    }

    /// Every series of that name that is not zero.
    pub(super) fn counted(registry: &Registry, name: &str) -> Vec<String> {
        let is_wanted = |line: &&str| line.starts_with(name) && !line.ends_with(" 0");
        shown(registry).lines().filter(is_wanted).map(str::to_owned).collect()
    }

    fn shown(registry: &Registry) -> String {
        let mut out = String::new();
        text::encode(&mut out, registry).unwrap();
        out
    }

    #[test]
    fn the_names_and_types_are_as_promised() {
        let (registry, metrics) = metrics();
        metrics.request(Verdict::Allow, "a", "ping", Duration::ZERO, None);
        let out = shown(&registry);
        let types: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let expected = [
            "mcp_authz_answers_unseen counter",
            "mcp_authz_audit_records counter",
            "mcp_authz_build info",
            "mcp_authz_check_duration_seconds histogram",
            "mcp_authz_config_last_success_timestamp_seconds gauge",
            "mcp_authz_config_reloads counter",
            "mcp_authz_config_stale gauge",
            "mcp_authz_errors counter",
            "mcp_authz_in_flight_checks gauge",
            "mcp_authz_kubernetes_events counter",
            "mcp_authz_ledger_connected gauge",
            "mcp_authz_ledger_duration_seconds histogram",
            "mcp_authz_ledger_events counter",
            "mcp_authz_ledger_outages counter",
            "mcp_authz_lossy_bodies counter",
            "mcp_authz_pin_events counter",
            "mcp_authz_pins_pending gauge",
            "mcp_authz_config info",
            "mcp_authz_policy info",
            "mcp_authz_quota_calls counter",
            "mcp_authz_quota_units counter",
            "mcp_authz_requests counter",
            "mcp_authz_reservations counter",
            "mcp_authz_response_added_seconds histogram",
            "mcp_authz_response_held_bytes gauge",
            "mcp_authz_response_rule_hits counter",
            "mcp_authz_response_streams gauge",
            "mcp_authz_response_withheld counter",
            "mcp_authz_responses counter",
            "mcp_authz_responses_unseen counter",
            "mcp_authz_rule_denials counter",
            "mcp_authz_settlements counter",
            "mcp_authz_telemetry_items counter",
            "process_start_time_seconds gauge",
            "process_resident_memory_bytes gauge",
        ];
        assert_eq!(types, expected);
        let version = concat!("mcp_authz_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n");
        assert!(out.contains(version), "{out}");
        assert!(out.contains("process_start_time_seconds 1.5\n"), "{out}");
        assert!(out.ends_with("# EOF\n"));
    }

    #[test]
    fn labels_come_from_closed_sets_only() {
        let (registry, metrics) = metrics();
        metrics.set_servers(["everything", UNKNOWN_SERVER]);
        let one = Duration::from_micros(1);
        metrics.request(Verdict::Allow, "everything", "tools/call", one, None);
        metrics.request(Verdict::Deny(Reason::Hidden), "everything", "tools/call", one, None);
        for n in 0..1_000 {
            let (server, method) = (format!("evil\"{n}"), format!("evil\n{n}"));
            metrics.request(Verdict::Deny(Reason::UnknownServer), &server, &method, one, None);
        }
        let out = shown(&registry);
        let requests: Vec<&str> = out.lines().filter(|line| line.starts_with("mcp_authz_requests_total")).collect();
        let expected = [
            "mcp_authz_requests_total{decision=\"allow\",reason=\"allowed\",server=\"everything\",method=\"tools/call\"} 1",
            "mcp_authz_requests_total{decision=\"deny\",reason=\"hidden\",server=\"everything\",method=\"tools/call\"} 1",
            "mcp_authz_requests_total{decision=\"deny\",reason=\"unknown_server\",server=\"_unknown\",method=\"_other\"} 1000",
        ];
        assert_eq!(requests, expected);
        assert!(!out.contains("evil"));
    }

    #[test]
    fn a_reload_keeps_the_counts_of_servers_that_stay() {
        let (registry, metrics) = metrics();
        metrics.set_servers(["a", "b"]);
        for server in ["a", "b"] {
            metrics.request(Verdict::Allow, server, "ping", Duration::ZERO, None);
        }
        metrics.set_servers(["b", "c"]);
        let out = shown(&registry);
        assert!(out.contains("server=\"b\",method=\"ping\"} 1\n"), "{out}");
        assert!(!out.contains("server=\"a\""));
    }

    #[test]
    fn every_reason_and_method_has_its_own_count() {
        let (registry, metrics) = metrics();
        for reason in Reason::ALL {
            for method in METHODS {
                metrics.request(Verdict::Deny(*reason), "x", method, Duration::ZERO, None);
            }
        }
        let out = shown(&registry);
        for reason in Reason::ALL {
            for method in METHODS {
                let labels = format!("reason=\"{}\",server=\"_unknown\",method=\"{method}\"}} 1\n", reason.name());
                assert!(out.contains(&labels), "{labels}");
            }
        }
    }

    #[test]
    fn methods_are_sorted_so_that_they_are_found() {
        assert!(METHODS.is_sorted());
        assert_eq!(METHODS[1], OTHER_METHOD);
        for method in &METHODS[2..] {
            assert_eq!(mcp_authz_core::mcp::Method::parse(method).map(|method| method.name()), Some(*method));
        }
    }

    #[test]
    fn durations_fall_into_the_bucket_that_holds_them() {
        let (registry, metrics) = metrics();
        for ns in [0, 10_000, 10_001, 1_000_000_000, 1_000_000_001] {
            metrics.request(Verdict::Deny(Reason::Internal), "", "", Duration::from_nanos(ns), None);
        }
        let out = shown(&registry);
        let name = "mcp_authz_check_duration_seconds";
        for (le, count) in [("0.00001", 2), ("0.000025", 3), ("1.0", 4), ("+Inf", 5)] {
            let line = format!("{name}_bucket{{le=\"{le}\",decision=\"deny\"}} {count}\n");
            assert!(out.contains(&line), "{line}{out}");
        }
        assert!(out.contains(&format!("{name}_count{{decision=\"deny\"}} 5\n")), "{out}");
        assert!(out.contains(&format!("{name}_sum{{decision=\"deny\"}} 2.000020002\n")), "{out}");
        assert!(out.contains(&format!("{name}_count{{decision=\"allow\"}} 0\n")), "{out}");
    }

    #[test]
    fn everything_else_counts() {
        let (registry, metrics) = metrics();
        metrics.error(ErrorKind::Tls);
        metrics.reservations(ReservationOutcome::Expired, 3);
        metrics.settlements(SettlementOutcome::Unknown, 4);
        metrics.audit_records(AuditOutcome::Written, 2);
        metrics.config_taken(1_800_000_000_250);
        metrics.config_refused();
        metrics.lossy_body();
        metrics.telemetry(Signal::Traces, TelemetryOutcome::Dropped, 5);
        let in_flight = metrics.check_in_flight();
        let out = shown(&registry);
        for line in [
            "mcp_authz_errors_total{kind=\"tls\"} 1",
            "mcp_authz_errors_total{kind=\"audit\"} 0",
            "mcp_authz_reservations_total{outcome=\"expired\"} 3",
            "mcp_authz_settlements_total{outcome=\"unknown\"} 4",
            "mcp_authz_audit_records_total{outcome=\"written\"} 2",
            "mcp_authz_config_reloads_total{outcome=\"success\"} 1",
            "mcp_authz_config_reloads_total{outcome=\"failure\"} 1",
            "mcp_authz_config_last_success_timestamp_seconds 1800000000.25",
            "mcp_authz_lossy_bodies_total 1",
            "mcp_authz_telemetry_items_total{signal=\"traces\",outcome=\"dropped\"} 5",
            "mcp_authz_telemetry_items_total{signal=\"logs\",outcome=\"sent\"} 0",
            "mcp_authz_in_flight_checks 1",
        ] {
            assert!(out.lines().any(|shown| shown == line), "{line}\n{out}");
        }
        drop(in_flight);
        assert!(shown(&registry).contains("mcp_authz_in_flight_checks 0\n"));
    }

    #[test]
    fn a_configuration_is_stale_from_a_refusal_to_the_next_that_is_taken() {
        let (registry, metrics) = metrics();
        let stale = || counted(&registry, "mcp_authz_config_stale");
        metrics.config_taken(1);
        assert!(stale().is_empty());
        metrics.config_refused();
        assert_eq!(stale(), ["mcp_authz_config_stale 1"]);
        metrics.config_taken(2);
        assert!(stale().is_empty());
    }

    #[test]
    fn denials_by_rule_are_bounded() {
        let (registry, metrics) = metrics();
        for n in 0..=RULES_MAX {
            metrics.rule_denial("p", &format!("/tools/t/deny_if/{n}"));
        }
        metrics.rule_denial("p", "/tools/t/deny_if/0");
        let lines = counted(&registry, "mcp_authz_rule_denials_total");
        assert_eq!(lines.len(), RULES_MAX + 1);
        let of = |policy: &str, rule: &str, n: u64| {
            format!("mcp_authz_rule_denials_total{{policy=\"{policy}\",rule=\"{rule}\"}} {n}")
        };
        assert!(lines.contains(&of("p", "/tools/t/deny_if/0", 2)) && lines.contains(&of("_other", "_other", 1)));
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(resident_bytes("VmSize:\t  9 kB\nVmRSS:\t     5124 kB\n"), Some(5_246_976));
        assert_eq!(resident_bytes("VmRSS: many kB"), None);
        assert_eq!(resident_bytes(""), None);
    }
}
