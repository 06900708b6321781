//! The counters of one process as a state machine: a function of its past and of the time it is given.
//!
//! The same machine as the scripts in `src/quota/redis`, answer for answer; a differential test holds them together. It has no
//! clock and writes nothing down; who owns it does.

#[expect(clippy::disallowed_types, reason = "looked up by digests, swept by time, never iterated for an answer")]
use std::collections::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Attempt, Code, CounterId, Finish, Finished, Line, Reply, Span, Speaker};
use crate::quota::{Fingerprint, Mode};

mod apply;
mod image;
mod judge;

use apply::reindex;
use judge::{Verdict, look};

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

/// A counter, by its name and the letter of its kind.
type Key = (CounterId, char);
/// A pending release: when its hold runs out, and whose.
type Row = (u64, Arc<str>);
#[expect(clippy::disallowed_types, reason = "looked up by digests, swept by time, never iterated for an answer")]
type Counters = HashMap<Key, Counter>;

/// See the module.
#[derive(Debug)]
pub struct Machine {
    bounds: Bounds,
    counters: Counters,
    #[expect(clippy::disallowed_types, reason = "looked up by id, swept by time")]
    records: HashMap<Arc<str>, Record>,
    // INVARIANT: one entry for each record, under its end, and for each counter, under the first end of its parts.
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
    /// Unix ms after which the state is as if it were not there; `None` for never, 0 once it has been forgotten.
    ends_ms: Option<u64>,
    /// Holds whose units come back when they run out.
    pending: BTreeMap<Row, Pending>,
    /// Unix ms after which nothing is pending; `None` for never.
    pending_ends_ms: Option<u64>,
    /// Where it stands in the index of ends.
    indexed_ms: Option<u64>,
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
#[derive(Debug, Default)]
struct Seen {
    used: u64,
    window: u64,
    /// When the counter ends once it is charged.
    ends_ms: Option<u64>,
    /// For a token bucket: when it would be full again, µs.
    full_at_us: u64,
    /// Pending entries that are due.
    due: Vec<(Row, Pending)>,
    /// The counter's time lies absurdly far ahead: what is used of the window, or lies in buckets ahead, or when the token
    /// bucket is to be full.
    repair: Option<u64>,
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

    /// Holds every line or none; see `reserve.lua`. `note` is called once before the first change, and not at all if nothing
    /// changes: there the owner writes down what is about to happen.
    ///
    /// # Errors
    /// [`Full`] if it would need an entry more than it may have, or what `note` came back with; nothing is changed.
    pub fn reserve<E: From<Full>>(
        &mut self,
        head: &Head<'_>,
        lines: &[Line],
        now_us: u64,
        note: impl FnOnce() -> Result<(), E>,
    ) -> Result<Reply, E> {
        let now_ms = now_us / 1_000;
        self.sweep(now_ms);
        if let Some(record) = self.records.get_mut(head.id).filter(|record| alive(Some(record.ends_ms), now_ms)) {
            let code = record.answer(head);
            if code == Code::HeldBefore && record.phase == Phase::Held && record.attempt != head.attempt {
                note()?;
                // Two attempts now rely on one hold. If one of them rolled back, the other's call would be free.
                record.phase = Phase::Shared;
            }
            return Ok(Reply { code, now_ms, standings: Vec::new() });
        }
        let (mut reply, seen) = self.judge(lines, now_us);
        if reply.standings.is_empty() {
            return Ok(reply);
        }
        let held = reply.code == Code::Held;
        let adds = |line: &Line| line.mode != Mode::Gate && (held || line.mode == Mode::Attempt);
        if !lines.iter().zip(&seen).any(|(line, seen)| held || adds(line) || seen.repair.is_some()) {
            return Ok(reply);
        }
        self.room(lines.iter().filter(|line| adds(line)), held)?;
        note()?;
        if held {
            let pairs = lines.iter().zip(&seen);
            let pairs = pairs.map(|(line, seen)| (if line.mode == Mode::Gate { 0 } else { line.amount }, seen.window));
            self.remember(head, Phase::Held, now_ms, pairs.collect(), sum(now_ms, sum(head.hold_ms, head.grace_ms)));
        }
        for ((line, seen), standing) in lines.iter().zip(seen).zip(&mut reply.standings) {
            if !adds(line) {
                self.repair(line, &seen, head.grace_ms, now_us);
                continue;
            }
            self.add(head, line, &seen, now_us, held);
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

    /// Rolls back or settles; see `finish.lua`. `note` as in [`reserve`](Self::reserve).
    ///
    /// # Errors
    /// [`Full`] if a rollback of an unknown id cannot be remembered, or what `note` came back with; nothing is changed.
    pub fn finish<E: From<Full>>(
        &mut self,
        head: &Head<'_>,
        lines: &[Line],
        how: &Finish,
        now_us: u64,
        note: impl FnOnce() -> Result<(), E>,
    ) -> Result<Finished, E> {
        let now_ms = now_us / 1_000;
        self.sweep(now_ms);
        let phase = match how {
            Finish::RollBack(_) => Phase::RolledBack,
            Finish::Settle(_) => Phase::Settled,
        };
        let record = self.records.get(head.id).filter(|record| alive(Some(record.ends_ms), now_ms));
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
            return Err(Full { limit: "reservations_max" }.into());
        }
        let known = record.map(|record| (record.lines.clone(), record.since_ms));
        note()?;
        self.remember(head, phase, now_ms, Box::default(), sum(now_ms, head.hold_ms));
        let mut credited = 0_usize;
        for (index, line) in lines.iter().enumerate() {
            let charged = known.as_ref().and_then(|(pairs, since_ms)| {
                let pair = pairs.get(index);
                pair.map(|(amount, window)| Pending { amount: *amount, window: *window, since_ms: *since_ms })
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

    /// Extends the slots that are still held, and with them the hold; see `renew.lua`. `note` as in
    /// [`reserve`](Self::reserve).
    ///
    /// # Errors
    /// What `note` came back with; nothing is changed.
    pub fn renew<E>(
        &mut self,
        head: &Head<'_>,
        lines: &[Line],
        now_us: u64,
        note: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let now_ms = now_us / 1_000;
        self.sweep(now_ms);
        let held = |line: &&Line| match self.counters.get(&line.key()).map(|counter| &counter.state) {
            Some(State::InFlight { slots }) => slots.get(head.id).is_some_and(|end| *end > now_ms),
            _ => false,
        };
        let held: Vec<&Line> = lines.iter().filter(held).collect();
        if held.is_empty() {
            return Ok(false);
        }
        note()?;
        for line in held {
            let Span::InFlight { lease_ms } = line.span else { continue };
            let Some(counter) = self.counters.get_mut(&line.key()) else { continue };
            let State::InFlight { slots } = &mut counter.state else { continue };
            slots.insert(Arc::from(head.id), sum(now_ms, lease_ms));
            counter.ends_ms = counter.ends_ms.max(Some(sum(sum(now_ms, lease_ms), head.grace_ms)));
            reindex(&mut self.ends, counter, line.key());
        }
        self.renew_hold(head, lines, now_ms);
        Ok(true)
    }

    /// Moves the end of a hold, and with it the time at which its units would come back.
    fn renew_hold(&mut self, head: &Head<'_>, lines: &[Line], now_ms: u64) {
        let Some(record) = self.records.get_mut(head.id).filter(|record| alive(Some(record.ends_ms), now_ms)) else {
            return;
        };
        let (id, ends_ms): (Arc<str>, u64) = (Arc::from(head.id), sum(now_ms, head.hold_ms));
        self.ends.remove(&(record.ends_ms, End::Record(Arc::clone(&id))));
        record.ends_ms = ends_ms;
        self.ends.insert((ends_ms, End::Record(Arc::clone(&id))));
        for (line, (amount, window)) in lines.iter().zip(&record.lines).filter(|(line, _)| line.release) {
            let Some(counter) = self.counters.get_mut(&line.key()) else { continue };
            let charged = Pending { amount: *amount, window: *window, since_ms: record.since_ms };
            if let Some(row) = counter.find_pending(head.id, charged, now_ms) {
                counter.pending.remove(&row);
                counter.pending.insert((ends_ms, Arc::clone(&id)), charged);
                counter.keep_pending(ends_ms);
                reindex(&mut self.ends, counter, line.key());
            }
        }
    }

    /// Forgets what is used of the counters. `note` as in [`reserve`](Self::reserve).
    ///
    /// # Errors
    /// What `note` came back with; nothing is changed.
    pub fn reset<E>(&mut self, lines: &[Line], note: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if lines.iter().any(|line| self.counters.contains_key(&line.key())) {
            note()?;
        }
        for key in lines.iter().map(Line::key) {
            if let Some(ends_ms) = self.counters.remove(&key).and_then(|counter| counter.indexed_ms) {
                self.ends.remove(&(ends_ms, End::Counter(key.0, key.1)));
            }
        }
        Ok(())
    }

    /// Forgets what has ended, a bounded number of entries at a time.
    fn sweep(&mut self, now_ms: u64) {
        for _ in 0..SWEEP_MAX {
            if self.ends.first().is_none_or(|(ends_ms, _)| alive(Some(*ends_ms), now_ms)) {
                break;
            }
            match self.ends.pop_first() {
                Some((_, End::Counter(id, letter))) => self.sweep_counter((id, letter), now_ms),
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

    /// Forgets the parts of a counter that have ended, and with the last one the counter.
    fn sweep_counter(&mut self, key: Key, now_ms: u64) {
        let Some(counter) = self.counters.get_mut(&key) else { return };
        counter.indexed_ms = None;
        if !alive(counter.pending_ends_ms, now_ms) {
            counter.pending.clear();
        }
        if !alive(counter.ends_ms, now_ms) {
            counter.ends_ms = Some(0);
            if counter.pending.is_empty() {
                self.counters.remove(&key);
                return;
            }
        }
        reindex(&mut self.ends, counter, key);
    }

    /// Every line against its counter.
    fn judge(&self, lines: &[Line], now_us: u64) -> (Reply, Vec<Seen>) {
        let now_ms = now_us / 1_000;
        let mut verdict = Verdict::default();
        let mut standings = Vec::with_capacity(lines.len());
        let mut all = Vec::with_capacity(lines.len());
        for (index, line) in lines.iter().enumerate() {
            let counter = self.counters.get(&line.key());
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
    fn room<'a>(&self, adding: impl Iterator<Item = &'a Line>, held: bool) -> Result<(), Full> {
        if held && self.records.len() >= self.bounds.reservations_max {
            return Err(Full { limit: "reservations_max" });
        }
        let new = adding.filter(|line| !self.counters.contains_key(&line.key()));
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
            if !alive(Some(old.ends_ms), now_ms) && matches!(old.phase, Phase::Held | Phase::Shared) {
                self.expired = self.expired.saturating_add(1);
            }
        }
        self.ends.insert((ends_ms, End::Record(id)));
    }
}

impl Record {
    /// The answer to a reservation under an id that is known.
    fn answer(&self, head: &Head<'_>) -> Code {
        match self.phase {
            Phase::RolledBack => Code::RolledBack,
            _ if self.digest != head.digest => Code::Conflict,
            Phase::Settled => Code::Settled,
            Phase::Held | Phase::Shared => Code::HeldBefore,
        }
    }
}

impl Counter {
    /// The counter, made or emptied if there is none or its state has ended. What is pending is kept.
    fn open<'a>(counters: &'a mut Counters, key: Key, span: &Span, now_ms: u64) -> &'a mut Self {
        let counter = counters.entry(key).or_insert_with(|| Counter {
            state: State::empty(span),
            ends_ms: None,
            pending: BTreeMap::new(),
            pending_ends_ms: None,
            indexed_ms: None,
        });
        if !alive(counter.ends_ms, now_ms) {
            (counter.state, counter.ends_ms) = (State::empty(span), None);
        }
        if counter.pending.is_empty() || !alive(counter.pending_ends_ms, now_ms) {
            counter.pending.clear();
            counter.pending_ends_ms = None;
        }
        counter
    }

    /// The row of a charge that still waits for its hold to run out.
    fn find_pending(&self, id: &str, charged: Pending, now_ms: u64) -> Option<Row> {
        let mut rows = self.pending.iter().filter(|_| alive(self.pending_ends_ms, now_ms));
        rows.find(|((_, whose), row)| &**whose == id && **row == charged).map(|(row, _)| row.clone())
    }

    fn forget_pending(&mut self, row: &Row) {
        self.pending.remove(row);
        if self.pending.is_empty() {
            self.pending_ends_ms = None;
        }
    }

    /// What is pending ends no earlier than `ends_ms`: a row that is gone while its hold lasts would read as given back.
    fn keep_pending(&mut self, ends_ms: u64) {
        self.pending_ends_ms = self.pending_ends_ms.max(Some(ends_ms));
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
    fn key(&self) -> Key {
        (self.counter, self.span.letter())
    }
}

/// Whether an entry with that end is still there: as in Redis, through the last millisecond of its time.
fn alive(ends_ms: Option<u64>, now_ms: u64) -> bool {
    ends_ms.is_none_or(|ends_ms| ends_ms >= now_ms)
}

/// Saturates: every bound on amounts and times lies far below.
const fn sum(a: u64, b: u64) -> u64 {
    a.saturating_add(b)
}
