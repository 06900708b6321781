//! What `/metrics` shows after every kind of traffic, from the registry of the binary itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mcp_authz::telemetry::metrics::{
    AuditOutcome, ErrorKind, KubernetesEvent, Label, LedgerEvent, LedgerOutage, Metrics, PinEvent, QuotaOutcome,
    ReservationOutcome, ResponseOutcome, SettlementOutcome, Signal, TelemetryOutcome, Verdict, WithheldReason,
};
use mcp_authz_core::decision::Reason;
use prometheus_client::{encoding::text, registry::Registry};

/// Labels that a scrape adds.
pub(crate) const OF_THE_SCRAPE: &[&str] = &["instance", "job", "namespace", "pod"];

/// The metrics of a process that has seen everything.
pub(crate) struct Traffic {
    registry: Registry,
    metrics: Metrics,
    rounds: u64,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 1_000);
        metrics.set_servers(["demo"]);
        let left_out = metrics.set_counters([("demo", "messages")], 10);
        assert_eq!(left_out, 0);
        metrics.set_ledger_connected(true);
        Self { registry, metrics, rounds: 0 }
    }

    /// One of everything more.
    pub(crate) fn more(&mut self) {
        let m = &self.metrics;
        for verdict in Reason::ALL.iter().copied().map(Verdict::Deny).chain([Verdict::Allow]) {
            m.request(verdict, "demo", "tools/call", Duration::from_micros(300), None);
        }
        m.rule_denial("demo", "/tools/create_refund/deny_if/args.amount-gt");
        m.rule_hit("demo", "/mask/0", 1);
        m.ledger_answered(Duration::from_micros(200));
        m.response_added(Duration::from_micros(50), None);
        m.quota("demo", "messages", QuotaOutcome::Held, 2);
        m.quota("demo", "messages", QuotaOutcome::Refunded, 1);
        m.quota("demo", "messages", QuotaOutcome::Refused, 1);
        every::<AuditOutcome>(|label| m.audit_records(label, 1));
        every::<ErrorKind>(|label| m.error(label));
        every::<LedgerEvent>(|label| m.ledger_event(label, 1));
        every::<LedgerOutage>(|label| m.ledger_outage(label));
        every::<PinEvent>(|label| m.pin_events(label, 1));
        every::<ReservationOutcome>(|label| m.reservations(label, 1));
        every::<ResponseOutcome>(|label| m.response(label, "demo", "tools/call"));
        every::<SettlementOutcome>(|label| m.settlements(label, 1));
        every::<WithheldReason>(|label| m.withheld(label));
        m.answer_unseen();
        m.response_unseen();
        m.lossy_body();
        m.set_policies("sha256:0123456789ab", [(&"demo".into(), "sha256:0123456789ab")].into_iter(), 10);
        every::<KubernetesEvent>(|label| m.kubernetes_event(label));
        every::<Signal>(|signal| every::<TelemetryOutcome>(|outcome| m.telemetry(signal, outcome, 1)));
        m.config_refused();
        m.config_taken(1_000 * (self.rounds + 1));
        self.rounds += 1;
    }

    /// The page as a scrape reads it.
    pub(crate) fn page(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).unwrap();
        let end = page.find("# EOF").unwrap();
        page.truncate(end);
        page + "# EOF\n"
    }
}

fn every<L: Label>(mut count: impl FnMut(L)) {
    L::ALL.iter().for_each(|label| count(*label));
}

/// Every series name with its labels and the values that each was seen with.
pub(crate) type Known = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// What there is to ask for.
pub(crate) fn known() -> Known {
    let mut traffic = Traffic::new();
    traffic.more();
    let mut known = Known::new();
    for line in traffic.page().lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let of_name = known.entry(name.to_owned()).or_default();
        for (key, value) in labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once("=\"")) {
            of_name.entry(key.to_owned()).or_default().insert(value.trim_end_matches('"').to_owned());
        }
    }
    known
}

/// The name of the metric in the table of the README.
pub(crate) fn family(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}
