//! When to stop asking: a store that does not answer would hold every call up for its whole time budget.
//!
//! The breaker only says so. The keeper then gives up the connections, and what it does to get new ones is the probe; no call
//! waits for it.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Outages in a row that open it.
const IN_A_ROW: u32 = 5;
/// It opens as well when more than half of the questions of this time failed...
const SPAN: Duration = Duration::from_secs(1);
/// ...if there were so many.
const QUESTIONS_MIN: usize = 20;
/// Questions that are looked at.
const QUESTIONS_MAX: usize = 4_096;
/// How long it stays open, before jitter.
pub(super) const OPEN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    in_a_row: u32,
    recent: VecDeque<(Instant, bool)>,
    failed: usize,
}

impl Breaker {
    /// Takes down how a question ended; whether the breaker has to open.
    pub(super) fn record(&mut self, failed: bool, now: Instant) -> bool {
        self.in_a_row = if failed { self.in_a_row.saturating_add(1) } else { 0 };
        while let Some((at, was)) = self.recent.front().copied()
            && (self.recent.len() >= QUESTIONS_MAX || now.saturating_duration_since(at) > SPAN)
        {
            self.recent.pop_front();
            self.failed = self.failed.saturating_sub(usize::from(was));
        }
        self.recent.push_back((now, failed));
        self.failed = self.failed.saturating_add(usize::from(failed));
        let most = self.recent.len() >= QUESTIONS_MIN && self.failed.saturating_mul(2) > self.recent.len();
        failed && (self.in_a_row >= IN_A_ROW || most)
    }

    /// Forgets the past: the connections are new.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_in_a_row_open_it() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            assert!(!breaker.record(true, now));
        }
        assert!(!breaker.record(false, now));
        for _ in 0..4 {
            assert!(!breaker.record(true, now));
        }
        assert!(breaker.record(true, now));
        breaker.reset();
        assert!(!breaker.record(true, now));
    }

    #[test]
    fn more_than_half_of_twenty_in_a_second_open_it() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for n in 0..19 {
            assert!(!breaker.record(n % 2 == 0, now));
        }
        // Ten of nineteen failed, and the twentieth makes it eleven.
        assert!(breaker.record(true, now));
        breaker.reset();
        for n in 0..18 {
            now += Duration::from_millis(100);
            assert!(!breaker.record(n % 2 == 0, now), "old ones do not count");
        }
    }

    #[test]
    fn what_is_looked_at_is_bounded() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..QUESTIONS_MAX * 2 {
            breaker.record(false, now);
        }
        assert_eq!(breaker.recent.len(), QUESTIONS_MAX);
    }
}
