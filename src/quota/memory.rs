//! The ledger in the memory of one process: exact, fast, bounded, and gone with the process.
//!
//! One mutex over a few map operations, never held over an await. What it forgets is only what can refill no budget: counters
//! of windows that have ended, and reservations whose lease has run out.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mcp_authz_core::decision::{Charge, CounterKey, Window};

use crate::{
    clock::Clock,
    quota::{Hold, Ledger, LedgerError, OnLeak, ReservationId, RollbackReason, Settled, Settlement},
};

/// How long a settled reservation is remembered, unless its lease ends earlier: longer than Envoy can take to send a Check
/// again. Forgetting one too early only charges a repetition twice.
pub(super) const SETTLED_KEEP_MS: u64 = 10_000;
/// Work on what has ended that one operation takes over from those before it; more than one, so that it keeps up.
const SWEEP_MAX: usize = 64;

/// Told how many leases ran out unsettled; their units count as spent. Must not block.
pub type OnExpired = Arc<dyn Fn(u64) + Send + Sync>;

/// Bounds of the memory taken. Beyond them, calls that need an entry are denied.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Counters of the minute, hour and day that run, together.
    pub counters_max: usize,
    /// Reservations open, or settled within the last ten seconds.
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

/// See the module.
pub struct MemoryLedger {
    state: Mutex<State>,
    on_expired: OnExpired,
}

impl fmt::Debug for MemoryLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLedger").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl MemoryLedger {
    /// An empty ledger.
    #[must_use]
    pub fn new(bounds: Bounds, on_expired: OnExpired) -> Self {
        Self { state: Mutex::new(State::new(bounds)), on_expired }
    }

    /// Entries in use now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let state = self.lock();
        Usage { counters: state.counters(), reservations: state.records.len() }
    }

    /// [`Ledger::reserve`] without the future.
    ///
    /// # Errors
    /// As there, except that this store is never unavailable.
    pub fn reserve_now(
        &self,
        id: &ReservationId,
        charges: &[Charge],
        now_ms: u64,
        lease: Duration,
    ) -> Result<Hold, LedgerError> {
        self.with(now_ms, |state| state.reserve(id, charges, lease))
    }

    /// [`Ledger::settle`] without the future.
    ///
    /// # Errors
    /// [`LedgerError::Full`] if the rollback of an unknown id cannot be remembered.
    pub fn settle_now(&self, id: &ReservationId, how: Settlement, now_ms: u64) -> Result<Settled, LedgerError> {
        self.with(now_ms, |state| state.settle(id, how))
    }

    fn with<T>(&self, now_ms: u64, operation: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.move_to(now_ms);
        let answer = operation(&mut state);
        let expired = std::mem::take(&mut state.expired);
        drop(state);
        if expired > 0 {
            (self.on_expired)(expired);
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock can only leave units spent: they are added before the record, and returned after it is marked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for MemoryLedger {
    async fn reserve(
        &self,
        id: &ReservationId,
        charges: &[Charge],
        now_ms: u64,
        lease: Duration,
    ) -> Result<Hold, LedgerError> {
        self.reserve_now(id, charges, now_ms, lease)
    }

    async fn settle(&self, id: &ReservationId, how: Settlement, now_ms: u64) -> Result<Settled, LedgerError> {
        self.settle_now(id, how, now_ms)
    }
}

/// The leak callback for this ledger: settles at once, since that takes a microsecond and cannot wait for anything but the
/// ledger's own mutex. `report` is told what came of it and must not block.
pub fn settle_leaks(
    ledger: Arc<MemoryLedger>,
    clock: Arc<dyn Clock>,
    report: impl Fn(&ReservationId, Settlement, Result<Settled, LedgerError>) + Send + Sync + 'static,
) -> OnLeak {
    Arc::new(move |id, how| report(id, how, ledger.settle_now(id, how, clock.now_ms())))
}

/// Units added to one counter by one reservation.
#[derive(Debug)]
struct Part {
    counter: CounterKey,
    window: Window,
    start_ms: u64,
    amount: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Held,
    Settled(Settlement),
}

#[derive(Debug)]
struct Record {
    phase: Phase,
    /// Key of this record in [`State::ends`]: the time it is forgotten, and a number that makes it unique.
    end: (u64, u64),
    parts: Box<[Part]>,
}

/// The counters of one kind of window. All of them begin and end together, so an ended window is dropped as a whole.
#[derive(Debug)]
struct Counters {
    window: Window,
    // INVARIANT: only grows, so that no window opens twice.
    start_ms: u64,
    used: HashMap<CounterKey, u64>,
}

impl Counters {
    fn new(window: Window) -> Self {
        Self { window, start_ms: 0, used: HashMap::new() }
    }

    /// Opens the window of `now_ms` and returns the counters of the one that ended.
    fn move_to(&mut self, now_ms: u64) -> Option<HashMap<CounterKey, u64>> {
        let start_ms = self.window.start_ms(now_ms);
        if start_ms <= self.start_ms {
            return None;
        }
        self.start_ms = start_ms;
        let next = HashMap::with_capacity(self.used.len());
        Some(std::mem::replace(&mut self.used, next))
    }

    fn give_back(&mut self, part: &Part) {
        // Only to the very window that was charged: the next one owes nothing to this call.
        if self.start_ms != part.start_ms {
            return;
        }
        if let Some(used) = self.used.get_mut(&part.counter) {
            *used = used.saturating_sub(part.amount);
            if *used == 0 {
                self.used.remove(&part.counter);
            }
        }
    }
}

#[derive(Debug)]
struct State {
    bounds: Bounds,
    /// The latest time seen; the caller's may be older when two calls overtake each other.
    now_ms: u64,
    minute: Counters,
    hour: Counters,
    day: Counters,
    /// Ended counters, freed in small steps: freeing a million at once would stall a call for tens of milliseconds.
    retired: Vec<hash_map::IntoIter<CounterKey, u64>>,
    records: HashMap<ReservationId, Record>,
    // INVARIANT: one entry per record, under the record's `end`.
    ends: BTreeMap<(u64, u64), ReservationId>,
    next: u64,
    /// Leases that ran out and were not reported yet.
    expired: u64,
}

impl State {
    fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            now_ms: 0,
            minute: Counters::new(Window::Minute),
            hour: Counters::new(Window::Hour),
            day: Counters::new(Window::Day),
            retired: Vec::new(),
            records: HashMap::new(),
            ends: BTreeMap::new(),
            next: 0,
            expired: 0,
        }
    }

    fn counters(&self) -> usize {
        self.minute.used.len().saturating_add(self.hour.used.len()).saturating_add(self.day.used.len())
    }

    const fn of(&self, window: Window) -> &Counters {
        match window {
            Window::Day => &self.day,
            Window::Hour => &self.hour,
            Window::Minute => &self.minute,
        }
    }

    const fn of_mut(&mut self, window: Window) -> &mut Counters {
        match window {
            Window::Day => &mut self.day,
            Window::Hour => &mut self.hour,
            Window::Minute => &mut self.minute,
        }
    }

    /// Takes over the time and forgets what has ended, a bounded number of entries at a time.
    fn move_to(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        for counters in [&mut self.minute, &mut self.hour, &mut self.day] {
            if let Some(ended) = counters.move_to(self.now_ms) {
                self.retired.push(ended.into_iter());
            }
        }
        if let Some(ended) = self.retired.last_mut()
            && ended.by_ref().take(SWEEP_MAX).count() < SWEEP_MAX
        {
            self.retired.pop();
        }
        for _ in 0..SWEEP_MAX {
            let Some(first) = self.ends.first_entry().filter(|first| first.key().0 <= self.now_ms) else { break };
            let id = first.remove();
            let ended = self.records.remove(&id);
            self.count_expired(ended.as_ref());
        }
    }

    fn count_expired(&mut self, ended: Option<&Record>) {
        if ended.is_some_and(|record| matches!(record.phase, Phase::Held)) {
            self.expired = self.expired.saturating_add(1);
        }
    }

    fn reserve(&mut self, id: &ReservationId, charges: &[Charge], lease: Duration) -> Result<Hold, LedgerError> {
        if let Some(answer) = self.repeated(id, charges) {
            return answer;
        }
        let parts = self.merge(charges);
        if let Some(refusal) = self.over_limit(charges, &parts) {
            return Ok(refusal);
        }
        let new = parts.iter().filter(|part| !self.of(part.window).used.contains_key(&part.counter)).count();
        if self.counters().saturating_add(new) > self.bounds.counters_max {
            return Err(LedgerError::Full { limit: "counters_max" });
        }
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        self.room_for_record()?;
        for part in &parts {
            let used = self.of_mut(part.window).used.entry(part.counter.clone()).or_insert(0);
            // Cannot saturate: `over_limit` has seen that the sum is at most `max`.
            *used = used.saturating_add(part.amount);
        }
        self.remember(id, Phase::Held, lease_ms, parts.into_boxed_slice());
        Ok(Hold::Held)
    }

    /// The answer if `id` is known and its record has not ended.
    fn repeated(&mut self, id: &ReservationId, charges: &[Charge]) -> Option<Result<Hold, LedgerError>> {
        let now_ms = self.now_ms;
        let record = self.records.get(id).filter(|record| record.end.0 > now_ms)?;
        match record.phase {
            Phase::Settled(Settlement::Rollback(_)) => return Some(Err(LedgerError::RolledBack)),
            Phase::Held | Phase::Settled(Settlement::Commit) => {}
        }
        let same = |(ours, theirs): (&Part, &Part)| {
            ours.counter == theirs.counter && ours.window == theirs.window && ours.amount == theirs.amount
        };
        let parts = self.merge(charges);
        if record.parts.len() != parts.len() || !record.parts.iter().zip(&parts).all(same) {
            return Some(Err(LedgerError::Conflict));
        }
        // Two attempts now rely on one hold. If one of them rolled back, the other's call would be free.
        if let Some(record) = self.records.get_mut(id) {
            record.phase = Phase::Settled(Settlement::Commit);
        }
        Some(Ok(Hold::Held))
    }

    /// One part per counter and window, in the order of first mention; free charges are left out.
    fn merge(&self, charges: &[Charge]) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::with_capacity(charges.len());
        for charge in charges.iter().filter(|charge| charge.amount > 0) {
            match parts.iter_mut().find(|part| part.is_of(charge)) {
                Some(part) => part.amount = part.amount.max(charge.amount),
                None => parts.push(Part {
                    counter: charge.counter.clone(),
                    window: charge.window,
                    start_ms: self.of(charge.window).start_ms,
                    amount: charge.amount,
                }),
            }
        }
        parts
    }

    /// The refusal, if any limit does not allow its part.
    fn over_limit(&self, charges: &[Charge], parts: &[Part]) -> Option<Hold> {
        let mut first = None;
        let mut retry_after_ms = Some(0);
        for (index, charge) in charges.iter().enumerate().filter(|(_, charge)| charge.amount > 0) {
            let amount = parts.iter().find(|part| part.is_of(charge)).map_or(charge.amount, |part| part.amount);
            let used = self.of(charge.window).used.get(&charge.counter).copied().unwrap_or(0);
            if used.checked_add(amount).is_some_and(|sum| sum <= charge.max) {
                continue;
            }
            first = first.or(Some(index));
            let wait_ms = charge.window.end_ms(self.now_ms).saturating_sub(self.now_ms);
            // No waiting helps an amount above the whole limit, however soon the other windows end.
            retry_after_ms = retry_after_ms.filter(|_| amount <= charge.max).map(|before: u64| before.max(wait_ms));
        }
        first.map(|charge| Hold::OverLimit { charge, retry_after_ms })
    }

    fn settle(&mut self, id: &ReservationId, how: Settlement) -> Result<Settled, LedgerError> {
        let now_ms = self.now_ms;
        let Some(record) = self.records.get_mut(id).filter(|record| record.end.0 > now_ms) else {
            return self.settle_unknown(id, how);
        };
        match record.phase {
            Phase::Settled(before) => return Ok(Settled::Before(before)),
            Phase::Held => {}
        }
        let old_end = record.end;
        let end = (old_end.0.min(now_ms.saturating_add(SETTLED_KEEP_MS)), old_end.1);
        record.phase = Phase::Settled(how);
        record.end = end;
        // The units are back; what stays of a rolled back reservation is its id.
        let returned = match how {
            Settlement::Commit => Box::default(),
            Settlement::Rollback(_) => std::mem::take(&mut record.parts),
        };
        self.ends.remove(&old_end);
        self.ends.insert(end, id.clone());
        for part in &returned {
            self.of_mut(part.window).give_back(part);
        }
        Ok(Settled::Now)
    }

    fn settle_unknown(&mut self, id: &ReservationId, how: Settlement) -> Result<Settled, LedgerError> {
        match how {
            Settlement::Commit => {}
            Settlement::Rollback(RollbackReason::NotSent | RollbackReason::UpstreamFailed) => {
                self.room_for_record()?;
                self.remember(id, Phase::Settled(how), SETTLED_KEEP_MS, Box::default());
            }
        }
        Ok(Settled::Expired)
    }

    fn room_for_record(&self) -> Result<(), LedgerError> {
        // `move_to` has already forgotten ended records, more of them than one call adds.
        if self.records.len() >= self.bounds.reservations_max {
            return Err(LedgerError::Full { limit: "reservations_max" });
        }
        Ok(())
    }

    fn remember(&mut self, id: &ReservationId, phase: Phase, keep_ms: u64, parts: Box<[Part]>) {
        let end = (self.now_ms.saturating_add(keep_ms), self.next);
        self.next = self.next.saturating_add(1);
        // A record of the same id can only be one that has ended and was not swept yet.
        if let Some(ended) = self.records.insert(id.clone(), Record { phase, end, parts }) {
            self.ends.remove(&ended.end);
            self.count_expired(Some(&ended));
        }
        self.ends.insert(end, id.clone());
    }
}

impl Part {
    fn is_of(&self, charge: &Charge) -> bool {
        self.window == charge.window && self.counter == charge.counter
    }
}
