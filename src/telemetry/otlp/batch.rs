//! What waits to be sent: encoded items of one signal, bounded, and the work that hands them to the collector.
//!
//! Whoever records encodes its own item, because what it has at hand is borrowed and would have to be copied into a structure
//! first; a copy of the bytes is then all that is left to do under the lock. Items lie one behind the other as they do in the
//! request, so sending a batch copies it once and looks at no item again.
//! Nobody is woken for an item: only for a full batch, else a timer runs. Waking another thread costs more than encoding a span.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{proto, settings::Batch, transport::Transport};
use crate::telemetry::{
    metrics::{Metrics, Signal, TelemetryOutcome},
    seldom::Seldom,
};

/// Bytes of one item; longer ones are dropped and counted.
pub const ITEM_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one batch, from which on another is begun: collectors take 4 MiB unless told otherwise.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all that waits, for each item that may.
const BYTES_PER_ITEM: usize = 4 * 1024;

/// Takes encoded items. Share it behind an `Arc`.
#[derive(Debug)]
pub struct Batcher {
    signal: Signal,
    bounds: Batch,
    metrics: Metrics,
    waiting: Mutex<Waiting>,
    is_full: Notify,
    warnings: Seldom,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Items>,
    items: usize,
    bytes: usize,
}

/// Encoded items, one behind the other.
#[derive(Debug, Default)]
struct Items {
    bytes: Vec<u8>,
    count: usize,
}

impl Batcher {
    /// An empty one.
    #[must_use]
    pub fn new(signal: Signal, bounds: Batch, metrics: Metrics) -> Self {
        let (waiting, is_full) = (Mutex::default(), Notify::new());
        Self { signal, bounds, metrics, waiting, is_full, warnings: Seldom::new() }
    }

    /// Takes one item: the bytes of one or more fields `spans`, `metrics` or `log_records`, which all have the number 2. Never
    /// waits; where there is no room it is dropped and counted.
    pub fn offer(&self, item: &[u8]) {
        match self.take(item) {
            Taken::Room => {}
            Taken::Full => self.is_full.notify_one(),
            Taken::Dropped => {
                self.metrics.telemetry(self.signal, TelemetryOutcome::Dropped, 1);
                if self.warnings.is_due() {
                    tracing::warn!("Telemetry is dropped: more is recorded than the collector takes. Decisions go on.");
                }
            }
        }
    }

    fn take(&self, item: &[u8]) -> Taken {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = waiting.bytes.saturating_add(item.len());
        let bytes_max = self.bounds.queue_max.saturating_mul(BYTES_PER_ITEM).max(ITEM_BYTES_MAX);
        if waiting.items >= self.bounds.queue_max || bytes > bytes_max || item.len() > ITEM_BYTES_MAX {
            return Taken::Dropped;
        }
        waiting.items = waiting.items.saturating_add(1);
        waiting.bytes = bytes;
        let has_room = |items: &Items| {
            items.count < self.bounds.items_max && items.bytes.len().saturating_add(item.len()) <= BATCH_BYTES_MAX
        };
        if !waiting.batches.back().is_some_and(has_room) {
            waiting.batches.push_back(Items::default());
        }
        let Some(last) = waiting.batches.back_mut() else { return Taken::Dropped };
        last.bytes.extend_from_slice(item);
        last.count = last.count.saturating_add(1);
        if last.count >= self.bounds.items_max { Taken::Full } else { Taken::Room }
    }

    fn next(&self) -> Option<Items> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let items = waiting.batches.pop_front()?;
        waiting.items = waiting.items.saturating_sub(items.count);
        waiting.bytes = waiting.bytes.saturating_sub(items.bytes.len());
        Some(items)
    }

    /// The bytes of everything that waits.
    #[cfg(test)]
    pub(super) fn take_all(&self) -> Vec<u8> {
        std::iter::from_fn(|| self.next()).flat_map(|items| items.bytes).collect()
    }

    /// Sends what comes until `stop` is true or its sender gone, and then what is left, for at most `within`.
    pub async fn run(
        self: Arc<Self>,
        transport: Arc<Transport>,
        resource: Bytes,
        mut stop: watch::Receiver<bool>,
        within: Duration,
    ) {
        let mut sent_by = None;
        while sent_by.is_none() {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                () = self.is_full.notified() => {}
                () = sleep(self.bounds.delay) => {}
            }
            let mut sending = std::pin::pin!(self.send(&transport, &resource));
            tokio::select! {
                biased;
                () = &mut sending => {}
                // What is under way is not given up, and shares its time with what is left.
                () = stopped(&mut stop) => {
                    let end = after(within);
                    drop(timeout_at(end, sending).await);
                    sent_by = Some(end);
                }
            }
        }
        let end = sent_by.unwrap_or_else(|| after(within));
        drop(timeout_at(end, self.send(&transport, &resource)).await);
        let lost = std::iter::from_fn(|| self.next()).fold(0, |lost: u64, items| lost.saturating_add(items.count()));
        if lost > 0 {
            self.metrics.telemetry(self.signal, TelemetryOutcome::Dropped, lost);
            tracing::warn!(lost, "Telemetry was not sent in time at the end.");
        }
    }

    async fn send(&self, transport: &Transport, resource: &[u8]) {
        while let Some(items) = self.next() {
            // Given up in the middle, it counts as dropped.
            let mut unsent = Unsent { batcher: self, items: items.count() };
            transport.deliver(self.signal, items.count(), request(resource, &items.bytes)).await;
            unsent.items = 0;
        }
    }
}

impl Items {
    fn count(&self) -> u64 {
        u64::try_from(self.count).unwrap_or(u64::MAX)
    }
}

/// Ready when the end has come: a sender that is gone is an end as well.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

fn after(within: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(within).unwrap_or(now)
}

/// What became of an item that was offered.
enum Taken {
    Dropped,
    /// And the batch can go.
    Full,
    Room,
}

/// Counts as dropped what was being sent when the work ended.
struct Unsent<'a> {
    batcher: &'a Batcher,
    items: u64,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if self.items > 0 {
            self.batcher.metrics.telemetry(self.batcher.signal, TelemetryOutcome::Dropped, self.items);
        }
    }
}

/// An `Export…ServiceRequest`, which has the same shape for all three signals: `{1: {1: resource, 2: {1: scope, 2: items}}}`.
/// `items` are fields of number 2.
#[must_use]
pub fn request(resource: &[u8], items: &[u8]) -> Bytes {
    const ENVELOPE_BYTES: usize = 64;
    let mut scope = Vec::with_capacity(ENVELOPE_BYTES);
    proto::message(&mut scope, 1, |out| {
        proto::string(out, 1, env!("CARGO_PKG_NAME"));
        proto::string(out, 2, env!("CARGO_PKG_VERSION"));
    });
    let length = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    let mut inner = Vec::with_capacity(resource.len().saturating_add(ENVELOPE_BYTES));
    proto::bytes(&mut inner, 1, resource);
    proto::head(&mut inner, 2, length(scope.len().saturating_add(items.len())));
    inner.extend_from_slice(&scope);
    let mut out = Vec::with_capacity(inner.len().saturating_add(items.len()).saturating_add(ENVELOPE_BYTES));
    proto::head(&mut out, 1, length(inner.len().saturating_add(items.len())));
    out.extend_from_slice(&inner);
    out.extend_from_slice(items);
    out.into()
}

#[cfg(test)]
mod tests;
