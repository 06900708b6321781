//! Counts by server, method and outcome: the servers come from the configuration, the others are closed sets.

use std::{
    collections::HashMap,
    fmt,
    marker::PhantomData,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::MetricType,
};

use super::{METHODS, UNKNOWN_SERVER, encode_count};
use crate::retired::Retired;

/// A closed set of outcomes, each with its labels.
pub(super) trait Outcome: fmt::Debug + Send + Sync + 'static {
    /// How many there are.
    const COUNT: usize;

    /// Its place in the set, below [`Outcome::COUNT`].
    fn index(self) -> usize;

    /// The labels of the one in that place.
    fn labels(index: usize) -> Vec<(&'static str, &'static str)>;
}

/// Counts of one server: for each method, made at its first use, one for each outcome.
#[derive(Debug)]
struct Row(Vec<OnceLock<Box<[AtomicU64]>>>);

impl Row {
    fn new() -> Arc<Self> {
        Arc::new(Self(METHODS.iter().map(|_| OnceLock::new()).collect()))
    }

    fn count(&self, outcome: usize, outcomes: usize, method: &str) {
        // The second entry is `_other`; the table is small enough to be searched.
        let index = METHODS.binary_search(&method).unwrap_or(1);
        let Some(cells) = self.0.get(index) else { return };
        let cells = cells.get_or_init(|| (0..outcomes).map(|_| AtomicU64::new(0)).collect());
        if let Some(cell) = cells.get(outcome) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn encode<O: Outcome>(&self, encoder: &mut MetricEncoder<'_>, server: &str) -> fmt::Result {
        for (method, cells) in METHODS.iter().zip(&self.0) {
            for (index, cell) in cells.get().into_iter().flatten().enumerate() {
                let count = cell.load(Ordering::Relaxed);
                if count > 0 {
                    let mut labels: Vec<(&str, &str)> = O::labels(index);
                    labels.extend([("server", server), ("method", method)]);
                    encode_count(encoder, &labels, count)?;
                }
            }
        }
        Ok(())
    }
}

/// Counts of every server. Replaced as a whole when the configuration changes. Clones share the counts.
#[derive(Debug)]
pub(super) struct ByServer<O> {
    servers: Arc<ArcSwap<HashMap<Arc<str>, Arc<Row>>>>,
    /// Tables that were replaced, until no Check counts in them.
    retired: Arc<Retired<HashMap<Arc<str>, Arc<Row>>>>,
    unknown: Arc<Row>,
    outcomes: PhantomData<O>,
}

impl<O> Clone for ByServer<O> {
    fn clone(&self) -> Self {
        Self {
            servers: Arc::clone(&self.servers),
            retired: Arc::clone(&self.retired),
            unknown: Arc::clone(&self.unknown),
            outcomes: PhantomData,
        }
    }
}

impl<O: Outcome> ByServer<O> {
    pub(super) fn new() -> Self {
        Self { servers: Arc::default(), retired: Arc::default(), unknown: Row::new(), outcomes: PhantomData }
    }

    pub(super) fn set_servers<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let old = self.servers.load_full();
        let row = |name: &str| old.get(name).map_or_else(Row::new, Arc::clone);
        // A server of that very name would show the same series twice.
        let names = names.into_iter().filter(|name| *name != UNKNOWN_SERVER);
        let new = names.map(|name| (Arc::from(name), row(name))).collect();
        drop(old);
        self.retired.add(self.servers.swap(Arc::new(new)));
        self.retired.sweep();
    }

    pub(super) fn count(&self, outcome: O, server: &str, method: &str) {
        self.servers.load().get(server).unwrap_or(&self.unknown).count(outcome.index(), O::COUNT, method);
    }
}

impl<O: Outcome> EncodeMetric for ByServer<O> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let servers = self.servers.load();
        let mut rows: Vec<_> = servers.iter().map(|(name, row)| (&**name, row)).collect();
        rows.sort_unstable_by_key(|(name, _)| *name);
        rows.push((UNKNOWN_SERVER, &self.unknown));
        rows.into_iter().try_for_each(|(server, row)| row.encode::<O>(&mut encoder, server))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
