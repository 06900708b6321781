//! What this process let go in the last seconds: a new master may have missed it, and is then told once more.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::quota::{Booking, Keys, ReservationId};

/// How far back it goes, ms. A master that is further behind has lost counts for good, and is treated so.
pub(super) const SPAN_MS: u64 = 10_000;

/// One booking that was let go.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) booking: Arc<Booking>,
    /// Under which keys its counters are named.
    pub(super) keys: Arc<Keys>,
    pub(super) hold: Duration,
    /// The store's time when it was held; for one that could not be held our guess of it.
    pub(super) since_ms: u64,
    /// What each line came to, once that is known.
    pub(super) settled: Option<Box<[u64]>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    max: usize,
    /// `None` for one that was rolled back.
    entries: VecDeque<Option<Entry>>,
    /// Number of the first of `entries`.
    first: u64,
    numbers: HashMap<ReservationId, u64>,
    /// Time of the newest.
    newest_ms: u64,
    /// Time of the newest one that was given up for want of room.
    evicted_ms: u64,
    /// Let go without a hold.
    unmetered: VecDeque<Entry>,
}

impl Journal {
    /// Room for so many of each kind.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            entries: VecDeque::new(),
            first: 0,
            numbers: HashMap::new(),
            newest_ms: 0,
            evicted_ms: 0,
            unmetered: VecDeque::new(),
        }
    }

    /// Takes down a hold.
    pub(super) fn held(&mut self, entry: Entry) {
        self.newest_ms = self.newest_ms.max(entry.since_ms);
        let oldest_ms = self.newest_ms.saturating_sub(SPAN_MS);
        // Only a newer one makes old ones go: while the store is away nothing is forgotten.
        while let Some(front) = self.entries.front() {
            let since_ms = front.as_ref().map_or(0, |entry| entry.since_ms);
            if since_ms >= oldest_ms && self.entries.len() < self.max {
                break;
            }
            if since_ms >= oldest_ms {
                self.evicted_ms = since_ms;
            }
            if let Some(Some(entry)) = self.entries.pop_front()
                && self.numbers.get(&entry.booking.id) == Some(&self.first)
            {
                self.numbers.remove(&entry.booking.id);
            }
            self.first = self.first.saturating_add(1);
        }
        let number = self.first.saturating_add(u64::try_from(self.entries.len()).unwrap_or(u64::MAX));
        self.numbers.insert(entry.booking.id.clone(), number);
        self.entries.push_back(Some(entry));
    }

    /// Units came back: a new master must not be told that they are held.
    pub(super) fn rolled_back(&mut self, id: &ReservationId) {
        if let Some(entry) = self.entry(id) {
            *entry = None;
        }
        self.numbers.remove(id);
    }

    /// A new master has to be told what it came to.
    pub(super) fn settled(&mut self, id: &ReservationId, actual: &[u64]) {
        if let Some(Some(entry)) = self.entry(id) {
            entry.settled = Some(actual.into());
        }
    }

    fn entry(&mut self, id: &ReservationId) -> Option<&mut Option<Entry>> {
        let number = *self.numbers.get(id)?;
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }

    /// How far back it goes without a gap, ms.
    pub(super) fn covers_ms(&self) -> u64 {
        if self.evicted_ms == 0 { SPAN_MS } else { self.newest_ms.saturating_sub(self.evicted_ms).min(SPAN_MS) }
    }

    /// Time of the newest hold that was given up for want of room, ms; 0 for none.
    pub(super) const fn evicted_ms(&self) -> u64 {
        self.evicted_ms
    }

    /// Every hold that it remembers under these keys.
    pub(super) fn holds(&self, keys: &Arc<Keys>) -> Vec<Entry> {
        self.entries.iter().flatten().filter(|entry| Arc::ptr_eq(&entry.keys, keys)).cloned().collect()
    }

    /// Takes down a call that was let go without a hold; `false` if there is no room.
    pub(super) fn unmetered(&mut self, entry: Entry) -> bool {
        let room = self.unmetered.len() < self.max;
        if room {
            self.unmetered.push_back(entry);
        }
        room
    }

    /// Up to so many calls that were let go without a hold. Whoever cannot count them puts them back.
    pub(super) fn take_unmetered(&mut self, count: usize) -> Vec<Entry> {
        let count = count.min(self.unmetered.len());
        self.unmetered.drain(..count).collect()
    }

    /// Puts back what was taken.
    pub(super) fn put_back(&mut self, entries: Vec<Entry>) {
        for entry in entries.into_iter().rev() {
            self.unmetered.push_front(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use mcp_authz_core::ledger::Attempt;

    use super::*;

    fn entry(id: u64, since_ms: u64, keys: &Arc<Keys>) -> Entry {
        let id = ReservationId::from_envoy(&id.to_string()).unwrap();
        let booking = Arc::new(Booking { id, attempt: Attempt(1), digest: 1, lines: Box::default() });
        Entry { booking, keys: Arc::clone(keys), hold: Duration::from_secs(1), since_ms, settled: None }
    }

    fn ids(journal: &Journal, keys: &Arc<Keys>) -> Vec<String> {
        journal.holds(keys).iter().map(|entry| entry.booking.id.to_string()).collect()
    }

    #[test]
    fn it_remembers_ten_seconds() {
        let keys = Arc::new(Keys::derive(&[1; 32]));
        let mut journal = Journal::new(100);
        for (id, since_ms) in [(1, 50_000), (2, 59_999), (3, 60_000)] {
            journal.held(entry(id, since_ms, &keys));
        }
        assert_eq!(ids(&journal, &keys), ["1", "2", "3"]);
        journal.held(entry(4, 60_001, &keys));
        assert_eq!(ids(&journal, &keys), ["2", "3", "4"]);
        assert_eq!(journal.covers_ms(), SPAN_MS);
        assert!(journal.holds(&Arc::new(Keys::derive(&[1; 32]))).is_empty(), "names under other keys say nothing");
    }

    #[test]
    fn beyond_its_room_it_says_how_far_back_it_goes() {
        let keys = Arc::new(Keys::derive(&[1; 32]));
        let mut journal = Journal::new(3);
        for id in 1..=3 {
            journal.held(entry(id, 10_000 + id * 100, &keys));
        }
        assert_eq!(journal.covers_ms(), SPAN_MS);
        journal.held(entry(4, 10_400, &keys));
        assert_eq!(ids(&journal, &keys), ["2", "3", "4"]);
        assert_eq!((journal.covers_ms(), journal.evicted_ms()), (300, 10_100));
        assert_eq!(journal.numbers.len(), 3);
    }

    #[test]
    fn what_ended_is_told_as_it_ended() {
        let keys = Arc::new(Keys::derive(&[1; 32]));
        let mut journal = Journal::new(2);
        for id in 1..=3 {
            journal.held(entry(id, 10_000, &keys));
        }
        journal.rolled_back(&ReservationId::from_envoy("2").unwrap());
        journal.rolled_back(&ReservationId::from_envoy("1").unwrap());
        journal.settled(&ReservationId::from_envoy("3").unwrap(), &[7]);
        assert_eq!(ids(&journal, &keys), ["3"]);
        assert_eq!(journal.holds(&keys)[0].settled.as_deref(), Some([7].as_slice()));
        journal.held(entry(4, 10_000, &keys));
        assert_eq!(ids(&journal, &keys), ["3", "4"]);
    }

    #[test]
    fn calls_without_a_hold_wait_in_order_and_are_bounded() {
        let keys = Arc::new(Keys::derive(&[1; 32]));
        let mut journal = Journal::new(2);
        assert!(journal.unmetered(entry(1, 1, &keys)) && journal.unmetered(entry(2, 2, &keys)));
        assert!(!journal.unmetered(entry(3, 3, &keys)));
        let taken = journal.take_unmetered(5);
        assert_eq!(taken.len(), 2);
        journal.put_back(taken);
        assert_eq!(journal.take_unmetered(1)[0].booking.id.as_str(), "1");
    }
}
