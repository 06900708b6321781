//! The counters of one sequence: fixed windows in UTC, all or none, and a rollback that reaches no other window.

use std::collections::BTreeMap;

use crate::decision::{Charge, CounterKey, Denial};

/// Counters and the calls that will be taken back.
#[derive(Debug, Default)]
pub(super) struct Store {
    used: BTreeMap<CounterKey, Used>,
    pending: Vec<(u64, Vec<Held>)>,
}

#[derive(Clone, Copy, Debug)]
struct Used {
    window_start_ms: u64,
    units: u64,
}

/// What a call holds of one counter.
#[derive(Clone, Debug)]
pub(super) struct Held {
    counter: CounterKey,
    window_start_ms: u64,
    units: u64,
}

impl Store {
    /// Holds every charge or none; the first that does not fit answers.
    pub(super) fn reserve(&mut self, charges: &[Charge], now_ms: u64) -> Result<Vec<Held>, Denial> {
        self.settle(now_ms);
        let mut next = self.used.clone();
        let mut held = Vec::new();
        for charge in charges {
            let window_start_ms = charge.window.start_ms(now_ms);
            let fresh = Used { window_start_ms, units: 0 };
            let used = next.entry(charge.counter.clone()).or_insert(fresh);
            if used.window_start_ms != window_start_ms {
                *used = fresh;
            }
            let units = used.units.saturating_add(charge.amount);
            if units > charge.max {
                let retry_after_ms = Some(charge.window.end_ms(now_ms).saturating_sub(now_ms));
                return Err(Denial { retry_after_ms, ..Denial::clone(&charge.denial) });
            }
            used.units = units;
            held.push(Held { counter: charge.counter.clone(), window_start_ms, units: charge.amount });
        }
        self.used = next;
        Ok(held)
    }

    /// Gives back what a call held, as far as its window still is the current one.
    pub(super) fn roll_back(&mut self, held: &[Held]) {
        for part in held {
            if let Some(used) = self.used.get_mut(&part.counter)
                && used.window_start_ms == part.window_start_ms
            {
                used.units = used.units.saturating_sub(part.units);
            }
        }
    }

    /// Notes that a call will turn out to have failed at that time.
    pub(super) fn roll_back_at(&mut self, at_ms: u64, held: Vec<Held>) {
        self.pending.push((at_ms, held));
    }

    fn settle(&mut self, now_ms: u64) {
        let (due, later) = std::mem::take(&mut self.pending).into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        self.pending = later;
        let due: Vec<(u64, Vec<Held>)> = due;
        due.iter().for_each(|(_, held)| self.roll_back(held));
    }
}
