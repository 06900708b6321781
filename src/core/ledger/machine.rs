//! The counters of one process as a state machine: a function of its past and of the time it is given.
//!
//! The same machine as the scripts in `src/quota/redis`, answer for answer; a differential test holds them together. It has no
//! clock and writes nothing down; who owns it does.

#[expect(clippy::disallowed_types, reason = "looked up by digests, swept by time, never iterated for an answer")]
use std::collections::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Attempt, Code, CounterId, Finish, Finished, Line, Reply, Span, Speaker, Standing};
use crate::number::AMOUNT_MAX;
use crate::quota::{Fingerprint, Mode};

/// Pending releases that one operation works off; the rest waits, spent, for the next.
const RELEASES_MAX: usize = 64;
/// Ended entries that one operation forgets; more than one adds, so that it keeps up.
const SWEEP_MAX: usize = 64;

/// Bounds of the memory taken. Beyond them calls that need an entry are denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Counters.
    pub counters_max: usize,
    /// Reservations held, or finished a while ago.
    pub reservations_max: usize,
}

/// Entries in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Counters, as in [`Bounds::counters_max`].
    pub counters: usize,
    /// Reservations, as in [`Bounds::reservations_max`].
    pub reservations: usize,
}

/// Why the machine refuses to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quota store is full: `{limit}` reached")]
pub struct Full {
    /// Which bound: `counters_max` or `reservations_max`.
    pub limit: &'static str,
}

/// What a reservation is asked with besides its lines.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Name of the reservation.
    pub id: &'a str,
    /// Keeps the name from being used for something else.
    pub digest: u64,
    /// Which handling of the request asks.
    pub attempt: Attempt,
    /// How long the record is kept, ms: for a reservation the time that it may stay unsettled.
    pub hold_ms: u64,
    /// How much longer than needed entries are kept, ms: for clocks that differ.
    pub grace_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    bounds: Bounds,
    #[expect(clippy::disallowed_types, reason = "looked up by digests, swept by time")]
    counters: HashMap<(CounterId, char), Counter>,
    #[expect(clippy::disallowed_types, reason = "looked up by id, swept by time")]
    records: HashMap<Arc<str>, Record>,
    // INVARIANT: one entry for each counter that ends and for each record, under its end.
    ends: BTreeSet<(u64, End)>,
    /// Records that ran out while they were held.
    expired: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Counter(CounterId, char),
    Record(Arc<str>),
}

#[derive(Debug)]
struct Counter {
    state: State,
    /// Unix ms from which on it is as if it were not there; `None` for never.
    ends_ms: Option<u64>,
    /// Holds whose units come back when they run out, by the time of that.
    pending: BTreeMap<(u64, Arc<str>), Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    amount: u64,
    window: u64,
    since_ms: u64,
}

#[derive(Debug)]
enum State {
    Calendar { window: u64, used: u64 },
    InFlight { slots: BTreeMap<Arc<str>, u64> },
    Lifetime { used: u64 },
    Rolling { buckets: BTreeMap<u64, u64> },
    Streak { fingerprint: Fingerprint, count: u64 },
    TokenBucket { full_at_us: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Held,
    RolledBack,
    Settled,
    Shared,
}

#[derive(Debug)]
struct Record {
    phase: Phase,
    digest: u64,
    attempt: Attempt,
    since_ms: u64,
    /// Amount and window of each line.
    lines: Box<[(u64, u64)]>,
    ends_ms: u64,
}

/// What one line comes to before anything is written.
struct Seen {
    used: u64,
    window: u64,
    /// When the counter ends once it is charged.
    ends_ms: Option<u64>,
    /// For a token bucket: when it would be full again, µs.
    full_at_us: u64,
    /// Pending entries that are due.
    due: Vec<(u64, Arc<str>)>,
}

impl Machine {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, counters: Default::default(), records: Default::default(), ends: BTreeSet::new(), expired: 0 }
    }

    /// Entries in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { counters: self.counters.len(), reservations: self.records.len() }
    }

    /// How many holds ran out unsettled since it was last asked; their units count as spent.
    pub fn take_expired(&mut self) -> u64 {
        std::mem::take(&mut self.expired)
    }

    /// Holds every line or none; see `reserve.lua`.
    ///
    /// # Errors
    /// [`Full`] if it would need an entry more than it may have; nothing is held.
    pub fn reserve(&mut self, head: &Head<'_>, lines: &[Line], now_us: u64) -> Result<Reply, Full> {
        let now_ms = now_us / 1_000;
        self.sweep(now_ms);
        if let Some(record) = self.records.get_mut(head.id).filter(|record| record.ends_ms > now_ms) {
            let code = record.meet(head);
            return Ok(Reply { code, now_ms, standings: Vec::new() });
        }
        let (mut reply, seen) = self.judge(lines, now_us);
        let held = match reply.code {
            Code::Held => true,
            Code::Limited { .. } | Code::NeverFits { .. } => false,
            _ => return Ok(reply),
        };
        self.room(lines, held)?;
        if held {
            let pairs = lines.iter().zip(&seen);
            let pairs = pairs.map(|(line, seen)| (if line.mode == Mode::Gate { 0 } else { line.amount }, seen.window));
            self.remember(head, Phase::Held, now_ms, pairs.collect(), sum(now_ms, sum(head.hold_ms, head.grace_ms)));
        }
        for ((line, seen), standing) in lines.iter().zip(seen).zip(&mut reply.standings) {
            if line.mode == Mode::Gate || !(held || line.mode == Mode::Attempt) {
                continue;
            }
            self.add(head, line, seen, now_us, held);
            if held {
                standing.used = sum(standing.used, line.amount);
                standing.left = standing.left.saturating_sub(line.amount);
            }
        }
        Ok(reply)
    }

    /// Where the lines stand; nothing is changed but what has ended is forgotten.
    pub fn peek(&mut self, lines: &[Line], now_us: u64) -> Reply {
        self.sweep(now_us / 1_000);
        self.judge(lines, now_us).0
    }

    /// Rolls back or settles; see `finish.lua`.
    ///
    /// # Errors
    /// [`Full`] if a rollback of an unknown id cannot be remembered.
    pub fn finish(&mut self, head: &Head<'_>, lines: &[Line], how: &Finish, now_us: u64) -> Result<Finished, Full> {
        let now_ms = now_us / 1_000;
        self.sweep(now_ms);
        let phase = match how {
            Finish::RollBack(_) => Phase::RolledBack,
            Finish::Settle(_) => Phase::Settled,
        };
        let record = self.records.get(head.id).filter(|record| record.ends_ms > now_ms);
        if let Some(record) = record {
            if record.digest != head.digest {
                return Ok(Finished::Conflict);
            }
            match record.phase {
                Phase::Held | Phase::Shared => {}
                before @ (Phase::RolledBack | Phase::Settled) => {
                    return Ok(Finished::Before { same: before == phase });
                }
            }
            if record.lines.len() != lines.len() {
                return Ok(Finished::Conflict);
            }
            if let Finish::RollBack(Speaker::Attempt(attempt)) = how
                && (record.phase == Phase::Shared || record.attempt != *attempt)
            {
                return Ok(Finished::Shared);
            }
        } else if self.records.len() >= self.bounds.reservations_max && !self.records.contains_key(head.id) {
            return Err(Full { limit: "reservations_max" });
        }
        let known = record.map(|record| (record.lines.clone(), record.since_ms));
        self.remember(head, phase, now_ms, Box::default(), sum(now_ms, head.hold_ms));
        let mut credited = 0_usize;
        for (index, line) in lines.iter().enumerate() {
            let charged = known.as_ref().and_then(|(pairs, since_ms)| {
                pairs.get(index).map(|(amount, window)| Pending {
                    amount: *amount,
                    window: *window,
                    since_ms: *since_ms,
                })
            });
            let actual = match how {
                Finish::Settle(actual) => Some(actual.get(index).copied().unwrap_or(line.amount)),
                Finish::RollBack(_) => None,
            };
            if self.settle_line(head, line, charged, actual, now_us) {
                credited = credited.saturating_add(1);
            }
        }
        Ok(if known.is_some() { Finished::Now { credited } } else { Finished::Unknown })
    }

    /// Extends the slots that are still held; see `renew.lua`.
    pub fn renew(&mut self, head: &Head<'_>, lines: &[Line], now_us: u64) -> bool {
        let now_ms = now_us / 1_000;
        self.sweep(now_ms);
        let mut renewed = false;
        for line in lines {
            let Span::InFlight { lease_ms } = line.span else { continue };
            let Some(counter) = self.counters.get_mut(&line.key()) else { continue };
            let State::InFlight { slots } = &mut counter.state else { continue };
            let Some(end) = slots.get_mut(head.id).filter(|end| **end > now_ms) else { continue };
            *end = sum(now_ms, lease_ms);
            renewed = true;
            self.end_counter(line.key(), Some(sum(sum(now_ms, lease_ms), head.grace_ms)));
        }
        if renewed && let Some(record) = self.records.get_mut(head.id) {
            let id: Arc<str> = Arc::from(head.id);
            self.ends.remove(&(record.ends_ms, End::Record(Arc::clone(&id))));
            record.ends_ms = sum(now_ms, head.hold_ms);
            self.ends.insert((record.ends_ms, End::Record(id)));
        }
        renewed
    }

    /// Forgets what is used of the counters.
    pub fn reset(&mut self, lines: &[Line]) {
        for line in lines {
            if let Some(counter) = self.counters.remove(&line.key())
                && let Some(ends_ms) = counter.ends_ms
            {
                let (id, letter) = line.key();
                self.ends.remove(&(ends_ms, End::Counter(id, letter)));
            }
        }
    }

    /// Forgets what has ended, a bounded number of entries at a time.
    fn sweep(&mut self, now_ms: u64) {
        for _ in 0..SWEEP_MAX {
            if self.ends.first().is_none_or(|(ends_ms, _)| *ends_ms > now_ms) {
                break;
            }
            match self.ends.pop_first() {
                Some((_, End::Counter(id, letter))) => {
                    self.counters.remove(&(id, letter));
                }
                Some((_, End::Record(id))) => {
                    let ended = self.records.remove(&id);
                    if ended.is_some_and(|record| matches!(record.phase, Phase::Held | Phase::Shared)) {
                        self.expired = self.expired.saturating_add(1);
                    }
                }
                None => break,
            }
        }
    }

    /// Every line against its counter.
    fn judge(&self, lines: &[Line], now_us: u64) -> (Reply, Vec<Seen>) {
        let now_ms = now_us / 1_000;
        let mut verdict = Verdict { first: None, never_fits: false };
        let mut standings = Vec::with_capacity(lines.len());
        let mut all = Vec::with_capacity(lines.len());
        for (index, line) in lines.iter().enumerate() {
            let counter = self.counters.get(&line.key()).filter(|counter| !counter.has_ended(now_ms));
            let Some((standing, seen)) = look(line, counter, now_us, index, &mut verdict) else {
                let reply = Reply { code: Code::StaleWindows { line: index }, now_ms, standings: Vec::new() };
                return (reply, Vec::new());
            };
            standings.push(standing);
            all.push(seen);
        }
        let code = match (verdict.first, verdict.never_fits) {
            (None, _) => Code::Held,
            (Some(line), false) => Code::Limited { line },
            (Some(line), true) => Code::NeverFits { line },
        };
        (Reply { code, now_ms, standings }, all)
    }

    /// Whether the entries that the call needs may be made.
    fn room(&self, lines: &[Line], held: bool) -> Result<(), Full> {
        if held && self.records.len() >= self.bounds.reservations_max {
            return Err(Full { limit: "reservations_max" });
        }
        let new = lines.iter().filter(|line| line.mode != Mode::Gate && !self.counters.contains_key(&line.key()));
        if self.counters.len().saturating_add(new.count()) > self.bounds.counters_max {
            return Err(Full { limit: "counters_max" });
        }
        Ok(())
    }

    fn remember(&mut self, head: &Head<'_>, phase: Phase, now_ms: u64, lines: Box<[(u64, u64)]>, ends_ms: u64) {
        let id: Arc<str> = Arc::from(head.id);
        let (digest, attempt) = (head.digest, head.attempt);
        let record = Record { phase, digest, attempt, since_ms: now_ms, lines, ends_ms };
        if let Some(old) = self.records.insert(Arc::clone(&id), record) {
            self.ends.remove(&(old.ends_ms, End::Record(Arc::clone(&id))));
            if old.ends_ms <= now_ms && matches!(old.phase, Phase::Held | Phase::Shared) {
                self.expired = self.expired.saturating_add(1);
            }
        }
        self.ends.insert((ends_ms, End::Record(id)));
    }

    /// Charges one line.
    fn add(&mut self, head: &Head<'_>, line: &Line, seen: Seen, now_us: u64, held: bool) {
        let now_ms = now_us / 1_000;
        let key = line.key();
        let counter = self.counters.entry(key).or_insert_with(|| Counter {
            state: State::empty(&line.span),
            ends_ms: None,
            pending: BTreeMap::new(),
        });
        if counter.has_ended(now_ms) {
            counter.state = State::empty(&line.span);
            counter.pending.clear();
        }
        let total = sum(seen.used, line.amount).min(AMOUNT_MAX);
        match (&mut counter.state, &line.span) {
            (State::Calendar { window, used }, _) => (*window, *used) = (seen.window, total),
            (State::InFlight { slots }, Span::InFlight { lease_ms }) => {
                slots.retain(|_, end| *end > now_ms);
                slots.insert(Arc::from(head.id), sum(now_ms, *lease_ms));
            }
            (State::Lifetime { used }, _) => *used = total,
            (State::Rolling { buckets }, Span::Rolling { buckets: count, .. }) => {
                for row in seen.due.iter().filter_map(|key| counter.pending.get(key)) {
                    if let Some(used) = buckets.get_mut(&row.window) {
                        *used = used.saturating_sub(row.amount);
                    }
                }
                buckets.retain(|bucket, _| bucket.saturating_add(*count) >= seen.window);
                let used = buckets.entry(seen.window).or_insert(0);
                *used = sum(*used, line.amount);
            }
            (State::Streak { fingerprint, count }, Span::Streak { fingerprint: asked, .. }) => {
                (*fingerprint, *count) = (*asked, total);
            }
            (State::TokenBucket { full_at_us }, _) => *full_at_us = seen.full_at_us,
            // The letter of the span is part of the key.
            (State::InFlight { .. } | State::Rolling { .. } | State::Streak { .. }, _) => {}
        }
        if line.release {
            for key in &seen.due {
                counter.pending.remove(key);
            }
            if held && line.mode == Mode::Consume {
                let row = Pending { amount: line.amount, window: seen.window, since_ms: now_ms };
                counter.pending.insert((sum(now_ms, head.hold_ms), Arc::from(head.id)), row);
            }
        }
        let ends_ms = match line.span {
            Span::Calendar { .. } | Span::Rolling { .. } | Span::TokenBucket { .. } | Span::InFlight { .. } => {
                seen.ends_ms.map(|ms| sum(ms, head.grace_ms))
            }
            Span::Lifetime { .. } | Span::Streak { .. } => seen.ends_ms,
        };
        self.end_counter(key, ends_ms);
    }

    fn end_counter(&mut self, key: (CounterId, char), ends_ms: Option<u64>) {
        let Some(counter) = self.counters.get_mut(&key) else { return };
        if counter.ends_ms == ends_ms {
            return;
        }
        if let Some(before) = counter.ends_ms {
            self.ends.remove(&(before, End::Counter(key.0, key.1)));
        }
        counter.ends_ms = ends_ms;
        if let Some(ends_ms) = ends_ms {
            self.ends.insert((ends_ms, End::Counter(key.0, key.1)));
        }
    }

    /// Settles one line; whether units came back.
    fn settle_line(
        &mut self,
        head: &Head<'_>,
        line: &Line,
        charged: Option<Pending>,
        actual: Option<u64>,
        now_us: u64,
    ) -> bool {
        let now_ms = now_us / 1_000;
        let key = line.key();
        let ended = self.counters.get(&key).is_none_or(|counter| counter.has_ended(now_ms));
        if let Some(Counter { state: State::InFlight { slots }, .. }) = self.counters.get_mut(&key) {
            slots.remove(head.id);
            return false;
        }
        let mut amount = charged.map_or(line.amount, |charged| charged.amount);
        // Rolled back: nothing is owed, but attempts stay counted.
        let actual = actual.unwrap_or(if line.mode == Mode::Attempt { amount } else { 0 });
        if line.release && line.mode == Mode::Consume {
            let counter = if ended { None } else { self.counters.get_mut(&key) };
            let still_pending = counter.zip(charged).is_some_and(|(counter, charged)| {
                let found = counter.pending.iter().find(|((_, id), row)| &**id == head.id && **row == charged);
                let found = found.map(|(key, _)| key.clone());
                found.is_some_and(|key| counter.pending.remove(&key).is_some())
            });
            if !still_pending {
                // Given back when the hold ran out: all of it is owed again.
                amount = 0;
            }
        }
        if line.mode == Mode::Gate || actual == amount || (charged.is_none() && actual < amount) {
            return false;
        }
        if actual < amount {
            let credit = amount.saturating_sub(actual);
            return !ended
                && charged.is_some_and(|charged| self.credit(key, line, charged, credit, head.grace_ms, now_us));
        }
        self.surcharge(line, actual.saturating_sub(amount), head.grace_ms, now_us, ended)
    }

    /// Gives units back to the very window that was charged.
    fn credit(
        &mut self,
        key: (CounterId, char),
        line: &Line,
        charged: Pending,
        credit: u64,
        grace_ms: u64,
        now_us: u64,
    ) -> bool {
        let Some(counter) = self.counters.get_mut(&key) else { return false };
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
                let ends_ms = sum(sum(now_us / 1_000, (*full_at_us).saturating_sub(now_us).div_ceil(1_000)), grace_ms);
                self.end_counter(key, Some(ends_ms));
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
    fn surcharge(&mut self, line: &Line, more: u64, grace_ms: u64, now_us: u64, ended: bool) -> bool {
        let now_ms = now_us / 1_000;
        let key = line.key();
        if let Span::Streak { .. } | Span::InFlight { .. } = line.span {
            return false;
        }
        if ended {
            self.counters
                .remove(&key)
                .and_then(|old| old.ends_ms)
                .map(|ms| self.ends.remove(&(ms, End::Counter(key.0, key.1))));
        }
        let known = self.counters.contains_key(&key);
        let counter = self.counters.entry(key).or_insert_with(|| Counter {
            state: State::empty(&line.span),
            ends_ms: None,
            pending: BTreeMap::new(),
        });
        let mut ends_ms = counter.ends_ms;
        let mut counts = false;
        match (&mut counter.state, &line.span) {
            (State::Calendar { window, used }, Span::Calendar { .. }) => {
                match in_force(&line.span, known.then_some((*window, *used)), now_ms) {
                    Some((start, end, before)) => {
                        (*window, *used) = (start, sum(before, more).min(AMOUNT_MAX));
                        ends_ms = Some(sum(end, grace_ms));
                    }
                    None if known => *used = sum(*used, more).min(AMOUNT_MAX),
                    None => {
                        self.counters.remove(&key);
                        return false;
                    }
                }
            }
            (State::Rolling { buckets }, Span::Rolling { bucket_ms, buckets: count }) => {
                let used = buckets.entry(now_ms.checked_div(*bucket_ms).unwrap_or(0)).or_insert(0);
                *used = sum(*used, more);
                ends_ms = Some(sum(sum(now_ms, bucket_ms.saturating_mul(sum(*count, 1))), grace_ms));
            }
            (State::TokenBucket { full_at_us }, Span::TokenBucket { interval_us, .. }) => {
                *full_at_us = sum((*full_at_us).max(now_us), more.saturating_mul(*interval_us));
                ends_ms = Some(sum(sum(now_ms, full_at_us.saturating_sub(now_us).div_ceil(1_000)), grace_ms));
            }
            (State::Lifetime { used }, Span::Lifetime { idle_ms }) => {
                *used = sum(*used, more).min(AMOUNT_MAX);
                counts = true;
                if !known && *idle_ms > 0 {
                    ends_ms = Some(sum(now_ms, *idle_ms));
                }
            }
            _ => {}
        }
        self.end_counter(key, ends_ms);
        counts
    }
}

/// The first line that does not fit, and whether any never will.
struct Verdict {
    first: Option<usize>,
    never_fits: bool,
}

impl Verdict {
    fn fail(&mut self, line: usize, never_fits: bool) {
        self.first = self.first.or(Some(line));
        self.never_fits |= never_fits;
    }
}

impl Record {
    /// The answer to a reservation under an id that is known.
    fn meet(&mut self, head: &Head<'_>) -> Code {
        match self.phase {
            Phase::RolledBack => Code::RolledBack,
            _ if self.digest != head.digest => Code::Conflict,
            Phase::Settled => Code::Settled,
            Phase::Held | Phase::Shared => {
                // Two attempts now rely on one hold. If one of them rolled back, the other's call would be free.
                if self.attempt != head.attempt {
                    self.phase = Phase::Shared;
                }
                Code::HeldBefore
            }
        }
    }
}

impl Counter {
    fn has_ended(&self, now_ms: u64) -> bool {
        self.ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms)
    }
}

impl State {
    const fn empty(span: &Span) -> Self {
        match span {
            Span::Calendar { .. } => State::Calendar { window: 0, used: 0 },
            Span::InFlight { .. } => State::InFlight { slots: BTreeMap::new() },
            Span::Lifetime { .. } => State::Lifetime { used: 0 },
            Span::Rolling { .. } => State::Rolling { buckets: BTreeMap::new() },
            Span::Streak { fingerprint, .. } => State::Streak { fingerprint: *fingerprint, count: 0 },
            Span::TokenBucket { .. } => State::TokenBucket { full_at_us: 0 },
        }
    }
}

impl Line {
    fn key(&self) -> (CounterId, char) {
        (self.counter, self.span.letter())
    }
}

/// Looks at one counter; `None` if the calendar windows do not hold the time.
fn look(
    line: &Line,
    counter: Option<&Counter>,
    now_us: u64,
    index: usize,
    verdict: &mut Verdict,
) -> Option<(Standing, Seen)> {
    let now_ms = now_us / 1_000;
    let due: Vec<(u64, Arc<str>)> = match counter {
        Some(counter) if line.release => {
            let end = counter.pending.range(..=(now_ms, Arc::from("\u{10ffff}")));
            end.take(RELEASES_MAX).map(|(key, _)| key.clone()).collect()
        }
        _ => Vec::new(),
    };
    let rows = || due.iter().filter_map(|key| counter.and_then(|counter| counter.pending.get(key)));
    let mut seen = Seen { used: 0, window: 0, ends_ms: None, full_at_us: 0, due: Vec::new() };
    let mut standing = Standing::default();
    let state = counter.map(|counter| &counter.state);
    match &line.span {
        Span::Calendar { .. } => {
            let stored = match state {
                Some(State::Calendar { window, used }) => Some((*window, *used)),
                _ => None,
            };
            let (start, end, mut used) = in_force(&line.span, stored, now_ms)?;
            for row in rows().filter(|row| row.window == start) {
                used = used.saturating_sub(row.amount);
            }
            (seen.used, seen.window, seen.ends_ms) = (used, start, Some(end));
            standing.reset_ms = Some(end.saturating_sub(now_ms));
        }
        Span::Rolling { bucket_ms, buckets: count } => {
            let current = now_ms.checked_div(*bucket_ms).unwrap_or(0);
            let mut oldest = None;
            if let Some(State::Rolling { buckets }) = state {
                for (bucket, used) in buckets.range(current.saturating_sub(*count)..) {
                    let back = rows().filter(|row| row.window == *bucket).fold(0, |all, row| sum(all, row.amount));
                    // The oldest bucket, partly out, counts whole: early, never late.
                    let used = used.saturating_sub(back);
                    seen.used = sum(seen.used, used);
                    oldest = oldest.or_else(|| (used > 0).then_some(*bucket));
                }
            }
            let span = bucket_ms.saturating_mul(sum(*count, 1));
            (seen.window, seen.ends_ms) = (current, Some(sum(now_ms, span)));
            standing.reset_ms =
                Some(oldest.map_or(0, |oldest| sum(oldest.saturating_mul(*bucket_ms), span).saturating_sub(now_ms)));
        }
        Span::TokenBucket { interval_us, burst_us } => {
            look_at_bucket(line, (*interval_us, *burst_us), state, rows(), now_us, &mut seen, &mut standing);
            let cost = line.amount.saturating_mul(*interval_us);
            match line.mode {
                Mode::Gate => {
                    if bucket_debt(&seen, cost, now_us) >= *burst_us {
                        verdict.fail(index, false);
                    }
                }
                Mode::Track => {}
                Mode::Attempt | Mode::Consume => {
                    if cost > *burst_us {
                        verdict.fail(index, true);
                    } else if seen.full_at_us.saturating_sub(now_us) > *burst_us {
                        verdict.fail(index, false);
                    }
                }
            }
            seen.due = due;
            return Some((standing, seen));
        }
        Span::InFlight { lease_ms } => {
            let mut first = None;
            if let Some(State::InFlight { slots }) = state {
                for end in slots.values().filter(|end| **end > now_ms) {
                    seen.used = sum(seen.used, 1);
                    first = Some(first.map_or(*end, |before: u64| before.min(*end)));
                }
            }
            seen.ends_ms = Some(sum(now_ms, *lease_ms));
            let full = sum(seen.used, 1) > line.max;
            standing.reset_ms = Some(first.filter(|_| full).map_or(0, |end| end.saturating_sub(now_ms)));
        }
        Span::Streak { fingerprint, idle_ms } => {
            if let Some(State::Streak { fingerprint: last, count }) = state
                && last == fingerprint
            {
                seen.used = *count;
            }
            seen.ends_ms = Some(sum(now_ms, (*idle_ms).max(1)));
            standing.reset_ms = Some(*idle_ms);
        }
        Span::Lifetime { idle_ms } => {
            if let Some(State::Lifetime { used }) = state {
                seen.used = rows().fold(*used, |used, row| used.saturating_sub(row.amount));
            }
            seen.ends_ms = (*idle_ms > 0).then(|| sum(now_ms, *idle_ms));
        }
    }
    match line.mode {
        Mode::Gate => {
            if seen.used >= line.max {
                verdict.fail(index, false);
            }
        }
        Mode::Track => {}
        Mode::Attempt | Mode::Consume => {
            if line.amount > line.max {
                verdict.fail(index, true);
            } else if sum(seen.used, line.amount) > line.max {
                verdict.fail(index, false);
            }
        }
    }
    standing.used = seen.used;
    standing.left = line.max.saturating_sub(seen.used);
    seen.due = due;
    Some((standing, seen))
}

/// The level of a bucket before this call, µs.
fn bucket_debt(seen: &Seen, cost: u64, now_us: u64) -> u64 {
    seen.full_at_us.saturating_sub(cost).saturating_sub(now_us)
}

fn look_at_bucket<'a>(
    line: &Line,
    (interval_us, burst_us): (u64, u64),
    state: Option<&State>,
    rows: impl Iterator<Item = &'a Pending>,
    now_us: u64,
    seen: &mut Seen,
    standing: &mut Standing,
) {
    let stored = match state {
        Some(State::TokenBucket { full_at_us }) => *full_at_us,
        _ => 0,
    };
    let mut full_at = stored.max(now_us);
    if full_at.saturating_sub(now_us) > sum(burst_us.saturating_mul(2), 1_000_000) {
        // The clock stepped back: lock out for one burst at most.
        full_at = sum(now_us, burst_us);
    }
    for row in rows {
        full_at = now_us.max(full_at.saturating_sub(unearned_us(row.amount, interval_us, row.since_ms, now_us)));
    }
    let debt = full_at.saturating_sub(now_us);
    seen.full_at_us = sum(full_at, line.amount.saturating_mul(interval_us));
    seen.used = debt.div_ceil(interval_us.max(1));
    standing.used = seen.used;
    standing.left = burst_us.saturating_sub(debt).checked_div(interval_us).unwrap_or(0);
    standing.reset_ms = Some(seen.full_at_us.saturating_sub(sum(now_us, burst_us)).div_ceil(1_000));
    seen.ends_ms = Some(sum(now_us / 1_000, seen.full_at_us.saturating_sub(now_us).div_ceil(1_000)));
}

/// What time has not given back yet of units taken from a token bucket, µs: what it has is not given twice.
fn unearned_us(units: u64, interval_us: u64, since_ms: u64, now_us: u64) -> u64 {
    units.saturating_mul(interval_us).saturating_add(since_ms.saturating_mul(1_000)).saturating_sub(now_us)
}

/// The calendar window in force: its start, its end, and what is used of it. `None` when the windows do not hold the time.
fn in_force(span: &Span, stored: Option<(u64, u64)>, now_ms: u64) -> Option<(u64, u64, u64)> {
    let Span::Calendar { start_ms, end_ms, next_end_ms } = *span else { return None };
    if now_ms < start_ms || now_ms >= next_end_ms {
        return None;
    }
    let (start, end) = if now_ms >= end_ms { (end_ms, next_end_ms) } else { (start_ms, end_ms) };
    Some(match stored {
        None => (start, end, 0),
        // A new window starts at zero.
        Some((window, _)) if window < start => (start, end, 0),
        // The clock stepped back: never open an old window again.
        Some((window, used))
            if window > start && window.saturating_sub(start) <= next_end_ms.saturating_sub(start_ms) =>
        {
            let end = if window == end_ms { next_end_ms } else { sum(window, end_ms.saturating_sub(start_ms)) };
            (window, end, used)
        }
        // The same window; or a start absurdly far ahead: take ours, keep what is used.
        Some((_, used)) => (start, end, used),
    })
}

/// Saturates: every bound on amounts and times lies far below.
const fn sum(a: u64, b: u64) -> u64 {
    a.saturating_add(b)
}
