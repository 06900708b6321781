//! What charges, credits and the end of a reservation do to the counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::judge::{in_force, unearned_us};
use super::{Counter, End, Head, Key, Machine, Pending, Seen, State, alive, sum};
use crate::ledger::{Line, Span};
use crate::number::AMOUNT_MAX;
use crate::quota::Mode;

impl Machine {
    /// Charges one line.
    pub(super) fn add(&mut self, head: &Head<'_>, line: &Line, seen: &Seen, now_us: u64, held: bool) {
        let now_ms = now_us / 1_000;
        let key = line.key();
        let counter = Counter::open(&mut self.counters, key, &line.span, now_ms);
        let total = sum(seen.used, line.amount).min(AMOUNT_MAX);
        let mut ends_ms = match line.span {
            Span::Calendar { .. } | Span::InFlight { .. } | Span::Rolling { .. } | Span::TokenBucket { .. } => {
                seen.ends_ms.map(|ms| sum(ms, head.grace_ms))
            }
            Span::Lifetime { .. } | Span::Streak { .. } => seen.ends_ms,
        };
        match (&mut counter.state, &line.span) {
            (State::Calendar { window, used }, _) => (*window, *used) = (seen.window, total),
            (State::InFlight { slots }, Span::InFlight { lease_ms }) => {
                slots.retain(|_, end| *end > now_ms);
                // Another slot may have been taken for longer, before an edit of the limit.
                ends_ms = if slots.is_empty() { ends_ms } else { ends_ms.max(counter.ends_ms) };
                slots.insert(Arc::from(head.id), sum(now_ms, *lease_ms));
            }
            (State::Lifetime { used }, _) => *used = total,
            (State::Rolling { buckets }, Span::Rolling { buckets: count, .. }) => {
                for (_, row) in &seen.due {
                    if let Some(used) = buckets.get_mut(&row.window) {
                        *used = used.saturating_sub(row.amount);
                    }
                }
                turn(buckets, *count, seen, line.amount);
            }
            (State::Streak { fingerprint, count }, Span::Streak { fingerprint: asked, .. }) => {
                (*fingerprint, *count) = (*asked, total);
            }
            (State::TokenBucket { full_at_us }, _) => *full_at_us = seen.full_at_us,
            // The letter of the span is part of the key.
            (State::InFlight { .. } | State::Rolling { .. } | State::Streak { .. }, _) => {}
        }
        counter.ends_ms = ends_ms;
        if line.release {
            for (row, _) in &seen.due {
                counter.forget_pending(row);
            }
            if held && line.mode == Mode::Consume {
                let row = Pending { amount: line.amount, window: seen.window, since_ms: now_ms };
                counter.pending.insert((sum(now_ms, head.hold_ms), Arc::from(head.id)), row);
            }
            if let Some(ends_ms) = ends_ms {
                counter.keep_pending(ends_ms.max(sum(sum(now_ms, head.hold_ms), head.grace_ms)));
            }
        }
        reindex(&mut self.ends, counter, key);
    }

    /// Writes down that a counter whose time lies absurdly far ahead goes by our time from now on. A refusal would leave it
    /// there, and with it everybody locked out.
    pub(super) fn repair(&mut self, line: &Line, seen: &Seen, grace_ms: u64, now_us: u64) {
        let (key, now_ms) = (line.key(), now_us / 1_000);
        let (Some(counter), Some(repair)) = (self.counters.get_mut(&key), seen.repair) else { return };
        let mut ends_ms = seen.ends_ms;
        match (&mut counter.state, &line.span) {
            (State::Calendar { window, used }, _) => (*window, *used) = (seen.window, repair),
            (State::Rolling { buckets }, Span::Rolling { buckets: count, .. }) => turn(buckets, *count, seen, 0),
            (State::TokenBucket { full_at_us }, _) => {
                *full_at_us = repair;
                ends_ms = Some(sum(now_ms, repair.saturating_sub(now_us).div_ceil(1_000)));
            }
            (State::InFlight { .. } | State::Lifetime { .. } | State::Rolling { .. } | State::Streak { .. }, _) => {}
        }
        counter.ends_ms = ends_ms.map(|ms| sum(ms, grace_ms));
        reindex(&mut self.ends, counter, key);
    }

    /// Settles one line; whether units came back.
    pub(super) fn settle_line(
        &mut self,
        head: &Head<'_>,
        line: &Line,
        charged: Option<Pending>,
        actual: Option<u64>,
        now_us: u64,
    ) -> bool {
        let now_ms = now_us / 1_000;
        let key = line.key();
        if let Span::InFlight { .. } = line.span {
            if let Some(Counter { state: State::InFlight { slots }, .. }) = self.counters.get_mut(&key) {
                slots.remove(head.id);
            }
            return false;
        }
        let mut amount = charged.map_or(line.amount, |charged| charged.amount);
        // Rolled back: nothing is owed, but attempts stay counted.
        let actual = actual.unwrap_or(if line.mode == Mode::Attempt { amount } else { 0 });
        if line.release && line.mode == Mode::Consume {
            let row = self.counters.get_mut(&key).zip(charged);
            let row =
                row.and_then(|(counter, charged)| Some((counter.find_pending(head.id, charged, now_ms)?, counter)));
            if let Some((row, counter)) = row {
                counter.forget_pending(&row);
                reindex(&mut self.ends, counter, key);
            } else {
                // Given back when the hold ran out: all of it is owed again.
                amount = 0;
            }
        }
        if line.mode == Mode::Gate || actual == amount {
            return false;
        }
        if actual < amount {
            let credit = amount.saturating_sub(actual);
            return charged.is_some_and(|charged| self.credit(key, line, charged, credit, head.grace_ms, now_us));
        }
        self.surcharge(line, actual.saturating_sub(amount), head.grace_ms, now_us)
    }

    /// Gives units back to the very window that was charged.
    fn credit(&mut self, key: Key, line: &Line, charged: Pending, credit: u64, grace_ms: u64, now_us: u64) -> bool {
        let now_ms = now_us / 1_000;
        let counter = self.counters.get_mut(&key).filter(|counter| alive(counter.ends_ms, now_ms));
        let Some(counter) = counter else { return false };
        match (&mut counter.state, &line.span) {
            (State::Calendar { window, used }, _) => {
                let same = *window == charged.window;
                if same {
                    *used = used.saturating_sub(credit);
                }
                same
            }
            (State::Rolling { buckets }, _) => {
                let bucket = buckets.get_mut(&charged.window);
                bucket.map(|used| *used = used.saturating_sub(credit)).is_some()
            }
            (State::TokenBucket { full_at_us }, Span::TokenBucket { interval_us, .. }) => {
                let left = unearned_us(credit, *interval_us, charged.since_ms, now_us);
                if left == 0 || *full_at_us <= now_us {
                    return false;
                }
                *full_at_us = now_us.max(full_at_us.saturating_sub(left));
                let full_in_ms = full_at_us.saturating_sub(now_us).div_ceil(1_000);
                counter.ends_ms = Some(sum(sum(now_ms, full_in_ms), grace_ms));
                reindex(&mut self.ends, counter, key);
                true
            }
            (State::Streak { fingerprint, count }, Span::Streak { fingerprint: asked, .. }) => {
                let same = fingerprint == asked;
                if same {
                    *count = count.saturating_sub(credit);
                }
                same
            }
            (State::Lifetime { used }, _) => {
                *used = used.saturating_sub(credit);
                true
            }
            (State::InFlight { .. } | State::Streak { .. } | State::TokenBucket { .. }, _) => false,
        }
    }

    /// Charges what exceeds the reserved amount: to the window in force, so that it is never lost. Whether the scripts count
    /// it as a credit, as they do for lifetimes.
    fn surcharge(&mut self, line: &Line, more: u64, grace_ms: u64, now_us: u64) -> bool {
        let (key, now_ms) = (line.key(), now_us / 1_000);
        let known = self.counters.get(&key).filter(|counter| alive(counter.ends_ms, now_ms));
        let window = match (&line.span, known.map(|counter| &counter.state)) {
            (Span::InFlight { .. } | Span::Streak { .. }, _) => return false,
            (Span::Calendar { .. }, Some(State::Calendar { window, used })) => {
                in_force(&line.span, Some((*window, *used)), now_ms)
            }
            (Span::Calendar { .. }, _) => match in_force(&line.span, None, now_ms) {
                // No window to charge, nothing stored to add it to.
                None => return false,
                window => window,
            },
            (Span::Lifetime { .. } | Span::Rolling { .. } | Span::TokenBucket { .. }, _) => None,
        };
        let known = known.is_some();
        let counter = Counter::open(&mut self.counters, key, &line.span, now_ms);
        match (&mut counter.state, &line.span) {
            (State::Calendar { window: start, used }, _) => match window {
                Some(window) => {
                    (*start, *used) = (window.start_ms, sum(window.used, more).min(AMOUNT_MAX));
                    counter.ends_ms = Some(sum(window.end_ms, grace_ms));
                }
                None => *used = sum(*used, more).min(AMOUNT_MAX),
            },
            (State::Rolling { buckets }, Span::Rolling { bucket_ms, buckets: count }) => {
                let used = buckets.entry(now_ms.checked_div(*bucket_ms).unwrap_or(0)).or_insert(0);
                *used = sum(*used, more).min(AMOUNT_MAX);
                counter.ends_ms = Some(sum(sum(now_ms, bucket_ms.saturating_mul(sum(*count, 1))), grace_ms));
            }
            (State::TokenBucket { full_at_us }, Span::TokenBucket { interval_us, .. }) => {
                let debt_us = sum(full_at_us.saturating_sub(now_us), more.saturating_mul(*interval_us)).min(AMOUNT_MAX);
                *full_at_us = sum(now_us, debt_us);
                counter.ends_ms = Some(sum(sum(now_ms, debt_us.div_ceil(1_000)), grace_ms));
            }
            (State::Lifetime { used }, Span::Lifetime { idle_ms }) => {
                *used = sum(*used, more).min(AMOUNT_MAX);
                if !known && *idle_ms > 0 {
                    counter.ends_ms = Some(sum(now_ms, *idle_ms));
                }
            }
            _ => {}
        }
        reindex(&mut self.ends, counter, key);
        matches!(line.span, Span::Lifetime { .. })
    }
}

/// Forgets the buckets that are out, takes in what lies absurdly far ahead, and adds to the bucket that runs.
fn turn(buckets: &mut BTreeMap<u64, u64>, count: u64, seen: &Seen, amount: u64) {
    let near = |bucket: u64| sum(bucket, count) >= seen.window && bucket.saturating_sub(count) <= seen.window;
    buckets.retain(|bucket, _| near(*bucket));
    let used = buckets.entry(seen.window).or_insert(0);
    *used = sum(*used, sum(amount, seen.repair.unwrap_or(0))).min(AMOUNT_MAX);
}

/// Keeps the index of ends after a counter's own have changed.
pub(super) fn reindex(index: &mut BTreeSet<(u64, End)>, counter: &mut Counter, key: Key) {
    let pending_ends_ms = counter.pending_ends_ms.filter(|_| !counter.pending.is_empty());
    let ends_ms = match (counter.ends_ms, pending_ends_ms) {
        // Forgotten already; what is pending goes on, or nothing is left to wait for.
        (Some(0), Some(pending)) => Some(pending),
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    if counter.indexed_ms == ends_ms {
        return;
    }
    if let Some(before) = counter.indexed_ms {
        index.remove(&(before, End::Counter(key.0, key.1)));
    }
    counter.indexed_ms = ends_ms;
    if let Some(ends_ms) = ends_ms {
        index.insert((ends_ms, End::Counter(key.0, key.1)));
    }
}
