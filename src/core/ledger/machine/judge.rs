//! One line against its counter: what is used, what fits, when something comes back. Changes nothing.

use super::{Counter, Pending, RELEASES_MAX, Row, Seen, State, alive, sum};
use crate::ledger::{Line, Span, Standing};
use crate::number::AMOUNT_MAX;
use crate::quota::Mode;

/// The first line that does not fit, and whether any never will.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) first: Option<usize>,
    pub(super) never_fits: bool,
}

impl Verdict {
    fn fail(&mut self, line: usize, never_fits: bool) {
        self.first = self.first.or(Some(line));
        self.never_fits |= never_fits;
    }
}

/// One line and its counter at one moment.
struct Look<'a> {
    line: &'a Line,
    state: Option<&'a State>,
    due: Vec<(Row, Pending)>,
    now_us: u64,
    now_ms: u64,
}

/// Looks at one counter; `None` if the calendar windows do not hold the time.
pub(super) fn look(
    line: &Line,
    counter: Option<&Counter>,
    now_us: u64,
    index: usize,
    verdict: &mut Verdict,
) -> Option<(Standing, Seen)> {
    let now_ms = now_us / 1_000;
    let pending = counter.filter(|counter| line.release && alive(counter.pending_ends_ms, now_ms));
    let due = pending.map_or_else(Vec::new, |counter| {
        let rows = counter.pending.iter().take_while(|((ends_ms, _), _)| *ends_ms <= now_ms);
        rows.take(RELEASES_MAX).map(|(row, pending)| (row.clone(), *pending)).collect()
    });
    let state = counter.filter(|counter| alive(counter.ends_ms, now_ms)).map(|counter| &counter.state);
    let look = Look { line, state, due, now_us, now_ms };
    let mut seen = Seen::default();
    let reset_ms = match line.span {
        Span::Calendar { .. } => look.calendar(&mut seen)?,
        Span::InFlight { lease_ms } => look.in_flight(lease_ms, &mut seen),
        Span::Lifetime { idle_ms } => look.lifetime(idle_ms, &mut seen),
        Span::Rolling { bucket_ms, buckets } => look.rolling(bucket_ms, buckets, &mut seen),
        Span::Streak { idle_ms, .. } => look.streak(idle_ms, &mut seen),
        Span::TokenBucket { interval_us, burst_us } => {
            let standing = look.token_bucket(interval_us, burst_us, &mut seen, &mut |never| verdict.fail(index, never));
            seen.due = look.due;
            return Some((standing, seen));
        }
    };
    match line.mode {
        Mode::Gate if seen.used >= line.max => verdict.fail(index, false),
        Mode::Attempt | Mode::Consume if line.amount > line.max => verdict.fail(index, true),
        Mode::Attempt | Mode::Consume if sum(seen.used, line.amount) > line.max => verdict.fail(index, false),
        Mode::Attempt | Mode::Consume | Mode::Gate | Mode::Track => {}
    }
    seen.due = look.due;
    Some((Standing { used: seen.used, left: line.max.saturating_sub(seen.used), reset_ms }, seen))
}

/// Each answers when something comes back.
impl Look<'_> {
    fn calendar(&self, seen: &mut Seen) -> Option<Option<u64>> {
        let stored = match self.state {
            Some(State::Calendar { window, used }) => Some((*window, *used)),
            _ => None,
        };
        let window = in_force(&self.line.span, stored, self.now_ms)?;
        seen.repair = window.astray.then_some(window.used);
        let back = self.due.iter().filter(|(_, row)| row.window == window.start_ms);
        seen.used = back.fold(window.used, |used, (_, row)| used.saturating_sub(row.amount));
        (seen.window, seen.ends_ms) = (window.start_ms, Some(window.end_ms));
        Some(Some(window.end_ms.saturating_sub(self.now_ms)))
    }

    fn in_flight(&self, lease_ms: u64, seen: &mut Seen) -> Option<u64> {
        let mut first = None;
        if let Some(State::InFlight { slots }) = self.state {
            for end in slots.values().filter(|end| **end > self.now_ms) {
                seen.used = sum(seen.used, 1);
                first = Some(first.map_or(*end, |before: u64| before.min(*end)));
            }
        }
        seen.ends_ms = Some(sum(self.now_ms, lease_ms));
        let full = sum(seen.used, 1) > self.line.max;
        Some(first.filter(|_| full).map_or(0, |end| end.saturating_sub(self.now_ms)))
    }

    fn lifetime(&self, idle_ms: u64, seen: &mut Seen) -> Option<u64> {
        if let Some(State::Lifetime { used }) = self.state {
            seen.used = self.due.iter().fold(*used, |used, (_, row)| used.saturating_sub(row.amount));
        }
        seen.ends_ms = (idle_ms > 0).then(|| sum(self.now_ms, idle_ms));
        None
    }

    fn rolling(&self, bucket_ms: u64, count: u64, seen: &mut Seen) -> Option<u64> {
        let current = self.now_ms.checked_div(bucket_ms).unwrap_or(0);
        let mut oldest = None;
        if let Some(State::Rolling { buckets }) = self.state {
            for (bucket, used) in buckets.range(current.saturating_sub(count)..) {
                if bucket.saturating_sub(count) > current {
                    // Absurdly far ahead: counts as of now, or a clock that was wrong once would close the window for good.
                    seen.repair = Some(sum(seen.repair.unwrap_or(0), *used).min(AMOUNT_MAX));
                    seen.used = sum(seen.used, *used).min(AMOUNT_MAX);
                    oldest = if *used > 0 {
                        Some(oldest.map_or(current, |oldest: u64| oldest.min(current)))
                    } else {
                        oldest
                    };
                    continue;
                }
                let back = self.due.iter().filter(|(_, row)| row.window == *bucket);
                // The oldest bucket, partly out, counts whole: early, never late.
                let used = used.saturating_sub(back.fold(0, |all, (_, row)| sum(all, row.amount)));
                seen.used = sum(seen.used, used).min(AMOUNT_MAX);
                oldest = oldest.or_else(|| (used > 0).then_some(*bucket));
            }
        }
        let span = bucket_ms.saturating_mul(sum(count, 1));
        (seen.window, seen.ends_ms) = (current, Some(sum(self.now_ms, span)));
        Some(oldest.map_or(0, |oldest| sum(oldest.saturating_mul(bucket_ms), span).saturating_sub(self.now_ms)))
    }

    fn streak(&self, idle_ms: u64, seen: &mut Seen) -> Option<u64> {
        if let (Some(State::Streak { fingerprint: last, count }), Span::Streak { fingerprint, .. }) =
            (self.state, self.line.span)
            && *last == fingerprint
        {
            seen.used = *count;
        }
        seen.ends_ms = Some(sum(self.now_ms, idle_ms.max(1)));
        Some(idle_ms)
    }

    /// Tells `fail` whether the line never fits, if it does not.
    fn token_bucket(&self, interval_us: u64, burst_us: u64, seen: &mut Seen, fail: &mut dyn FnMut(bool)) -> Standing {
        let now_us = self.now_us;
        let mut full_at_us = match self.state {
            Some(State::TokenBucket { full_at_us }) => (*full_at_us).max(now_us),
            _ => now_us,
        };
        if full_at_us.saturating_sub(now_us) > sum(burst_us.saturating_mul(2), 1_000_000) {
            // The clock stepped back: lock out for one burst at most.
            full_at_us = sum(now_us, burst_us);
            seen.repair = Some(full_at_us);
        }
        for (_, row) in &self.due {
            let back = unearned_us(row.amount, interval_us, row.since_ms, now_us);
            full_at_us = now_us.max(full_at_us.saturating_sub(back));
        }
        let debt_us = full_at_us.saturating_sub(now_us);
        let cost_us = self.line.amount.saturating_mul(interval_us);
        let needed_us = sum(debt_us, cost_us);
        match self.line.mode {
            Mode::Gate if debt_us >= burst_us => fail(false),
            Mode::Attempt | Mode::Consume if cost_us > burst_us => fail(true),
            Mode::Attempt | Mode::Consume if needed_us > burst_us => fail(false),
            Mode::Attempt | Mode::Consume | Mode::Gate | Mode::Track => {}
        }
        seen.full_at_us = sum(now_us, needed_us.min(AMOUNT_MAX));
        seen.ends_ms = Some(sum(self.now_ms, needed_us.min(AMOUNT_MAX).div_ceil(1_000)));
        Standing {
            used: debt_us.div_ceil(interval_us.max(1)),
            left: burst_us.saturating_sub(debt_us).checked_div(interval_us).unwrap_or(0),
            reset_ms: Some(needed_us.min(sum(AMOUNT_MAX, AMOUNT_MAX)).saturating_sub(burst_us).div_ceil(1_000)),
        }
    }
}

/// What time has not given back yet of units taken from a token bucket, µs: what it has is not given twice, and a clock that
/// stepped back gives no more than was taken.
pub(super) fn unearned_us(units: u64, interval_us: u64, since_ms: u64, now_us: u64) -> u64 {
    let elapsed_us = now_us.saturating_sub(since_ms.saturating_mul(1_000));
    units.saturating_mul(interval_us).saturating_sub(elapsed_us)
}

/// The calendar window in force.
pub(super) struct Window {
    pub(super) start_ms: u64,
    pub(super) end_ms: u64,
    pub(super) used: u64,
    /// The stored start is absurdly far ahead, so that nothing but a write can end what it holds.
    astray: bool,
}

/// The window in force and what is used of it; `None` when the line's windows do not hold the time.
pub(super) fn in_force(span: &Span, stored: Option<(u64, u64)>, now_ms: u64) -> Option<Window> {
    let Span::Calendar { start_ms, end_ms, next_end_ms } = *span else { return None };
    if now_ms < start_ms || now_ms >= next_end_ms {
        return None;
    }
    let (start, end) = if now_ms >= end_ms { (end_ms, next_end_ms) } else { (start_ms, end_ms) };
    let ours = |used, astray| Window { start_ms: start, end_ms: end, used, astray };
    Some(match stored {
        None => ours(0, false),
        // A new window starts at zero.
        Some((window, _)) if window < start => ours(0, false),
        Some((window, used)) if window == start => ours(used, false),
        // The clock stepped back: never open an old window again.
        Some((window, used)) if window.saturating_sub(start) <= next_end_ms.saturating_sub(start_ms) => {
            let end = if window == end_ms { next_end_ms } else { sum(window, end_ms.saturating_sub(start_ms)) };
            Window { start_ms: window, end_ms: end, used, astray: false }
        }
        // A clock was wrong once: take our window, keep what is used.
        Some((_, used)) => ours(used, true),
    })
}
