//! What became of calls and units of every counter, by the names that policies give them; never by who called.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::MetricType,
};

use super::{Label, OTHER_COUNTER, QuotaOutcome, encode_count};
use crate::retired::Retired;

/// Calls and units of one counter, for each outcome.
#[derive(Debug)]
struct Row {
    calls: Box<[AtomicU64]>,
    units: Box<[AtomicU64]>,
}

impl Row {
    fn new() -> Arc<Self> {
        let zeros = || QuotaOutcome::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { calls: zeros(), units: zeros() })
    }

    fn count(&self, outcome: QuotaOutcome, units: u64) {
        for (cells, n) in [(&self.calls, 1), (&self.units, units)] {
            if let Some(cell) = cells.get(outcome.index()) {
                cell.fetch_add(n, Ordering::Relaxed);
            }
        }
    }
}

type Rows = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Row>>>;

/// Counts of every counter. Replaced as a whole when the configuration changes.
#[derive(Clone, Debug)]
pub(super) struct Quotas {
    rows: Arc<ArcSwap<Rows>>,
    /// Tables that were replaced, until no Check counts in them.
    retired: Arc<Retired<Rows>>,
    other: Arc<Row>,
}

impl Quotas {
    pub(super) fn new() -> Self {
        Self { rows: Arc::default(), retired: Arc::default(), other: Row::new() }
    }

    /// Takes over the counters; gives how many of them had to be left out. Those that were there before come first, so that
    /// a new name never takes a row from an old one.
    pub(super) fn set<'a>(&self, names: impl IntoIterator<Item = (&'a str, &'a str)>, max: usize) -> usize {
        let old = self.rows.load_full();
        let known = |policy: &str, name: &str| old.get(policy).and_then(|names| names.get(name)).cloned();
        // A policy of that very name would show the same series twice.
        let names: BTreeSet<(&str, &str)> = names.into_iter().filter(|(policy, _)| *policy != OTHER_COUNTER).collect();
        let (mut taken, new): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|(policy, name)| known(policy, name).is_some());
        taken.extend(new);
        let left_out = taken.len().saturating_sub(max);
        taken.truncate(max);
        let mut rows = Rows::new();
        for (policy, name) in taken {
            let row = known(policy, name).unwrap_or_else(Row::new);
            rows.entry(policy.into()).or_default().insert(name.into(), row);
        }
        drop(old);
        self.retired.add(self.rows.swap(Arc::new(rows)));
        self.retired.sweep();
        left_out
    }

    pub(super) fn count(&self, policy: &str, name: &str, outcome: QuotaOutcome, units: u64) {
        let rows = self.rows.load();
        let row = rows.get(policy).and_then(|names| names.get(name));
        row.unwrap_or(&self.other).count(outcome, units);
    }

    /// The two families that share the rows.
    pub(super) fn families(&self) -> [Family; 2] {
        [Column::Calls, Column::Units].map(|column| Family { quotas: self.clone(), column })
    }
}

#[derive(Clone, Copy, Debug)]
enum Column {
    Calls,
    Units,
}

/// One family of the two: how many calls, or how many units.
#[derive(Debug)]
pub(super) struct Family {
    quotas: Quotas,
    column: Column,
}

impl Family {
    fn encode_row(&self, encoder: &mut MetricEncoder<'_>, policy: &str, name: &str, row: &Row) -> fmt::Result {
        let cells = match self.column {
            Column::Calls => &row.calls,
            Column::Units => &row.units,
        };
        for (outcome, cell) in QuotaOutcome::ALL.iter().zip(cells) {
            let labels = [("policy", policy), ("counter", name), (QuotaOutcome::KEY, outcome.name())];
            encode_count(encoder, &labels, cell.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}

impl EncodeMetric for Family {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (policy, names) in &**self.quotas.rows.load() {
            for (name, row) in names {
                self.encode_row(&mut encoder, policy, name, row)?;
            }
        }
        self.encode_row(&mut encoder, OTHER_COUNTER, OTHER_COUNTER, &self.quotas.other)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::{super::tests::counted, *};
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn calls_and_units_are_counted_by_policy_and_counter() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 0);
        assert_eq!(metrics.set_counters([("p", "a"), ("p", "a"), ("q", "a")], 10), 0);
        metrics.quota("p", "a", QuotaOutcome::Held, 250);
        metrics.quota("p", "a", QuotaOutcome::Held, 0);
        metrics.quota("q", "a", QuotaOutcome::Refused, 7);
        metrics.quota("nobody's", "a", QuotaOutcome::Refunded, 1);
        let series = |family: &str, policy: &str, name: &str, outcome: &str, n: u64| {
            format!(
                "mcp_authz_quota_{family}_total{{policy=\"{policy}\",counter=\"{name}\",outcome=\"{outcome}\"}} {n}"
            )
        };
        for (family, held, refused) in [("calls", 2, 1), ("units", 250, 7)] {
            let expected = [
                series(family, "p", "a", "held", held),
                series(family, "q", "a", "refused", refused),
                series(family, "_other", "_other", "refunded", 1),
            ];
            assert_eq!(counted(&registry, &format!("mcp_authz_quota_{family}_total")), expected);
        }
    }

    #[test]
    fn a_reload_keeps_the_counts_of_counters_that_stay() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 0);
        assert_eq!(metrics.set_counters([("p", "b"), ("p", "c")], 2), 0);
        for name in ["b", "c"] {
            metrics.quota("p", name, QuotaOutcome::Held, 1);
        }
        // `a` comes first by name, and still takes no row from one that was there.
        assert_eq!(metrics.set_counters([("p", "a"), ("p", "b"), ("p", "c")], 2), 1);
        metrics.quota("p", "a", QuotaOutcome::Held, 1);
        let lines = counted(&registry, "mcp_authz_quota_calls_total");
        let of = |name: &str| lines.iter().filter(|line| line.contains(&format!("counter=\"{name}\""))).count();
        assert_eq!((of("a"), of("b"), of("c"), of("_other")), (0, 1, 1, 1), "{lines:?}");
        assert_eq!(metrics.set_counters([("p", "c")], 2), 0);
        assert!(!counted(&registry, "mcp_authz_quota").iter().any(|line| line.contains("counter=\"b\"")));
    }

    #[test]
    fn there_are_never_more_series_than_the_limit_allows() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, 0);
        let names: Vec<String> = (0..101).map(|n| format!("c{n}")).collect();
        let pairs = |n: usize| names.iter().take(n).map(|name| ("p", name.as_str()));
        assert_eq!((metrics.set_counters(pairs(100), 100), metrics.set_counters(pairs(101), 100)), (0, 1));
        for name in &names {
            metrics.quota("p", name, QuotaOutcome::Held, 1);
        }
        assert_eq!(counted(&registry, "mcp_authz_quota_calls_total").len(), 101);
    }
}
