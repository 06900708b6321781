//! From the charges of a call to what a store is asked, and from its answer back to the limit that refused.

use std::sync::Arc;

use super::{CounterId, Line, Reply, Span, Standing};
use crate::quota::{Charge, CounterKey, Fingerprint, LINES_MAX, Measure, Mode, OnExpiry, OnUnavailable};

/// Under which names a store knows counters and calls.
pub trait Names {
    /// The name of a counter.
    fn counter(&self, key: &CounterKey) -> CounterId;
    /// What the store is told of a call's fingerprint.
    fn fingerprint(&self, fingerprint: Fingerprint) -> Fingerprint;
}

/// What a store is asked for one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// At most [`LINES_MAX`], all of different counters.
    pub lines: Vec<Line>,
    /// For each charge the index of its line; `None` for one that asks nothing.
    pub line_of: Vec<Option<usize>>,
}

/// Why a store cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The time is none that a calendar knows, or a token bucket is too large to be counted exactly; loaders refuse both.
    #[error("a window cannot be computed for this time")]
    Span,
    /// More counters than one call may touch.
    #[error("the call touches more than {LINES_MAX} counters")]
    TooMany,
}

/// Which limit refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverLimit {
    /// Index of the first charge that does not fit.
    pub charge: usize,
    /// Whether an amount is larger than its whole limit.
    pub never_fits: bool,
    /// Milliseconds until every limit that blocks has units again; `None` if no waiting helps.
    pub retry_after_ms: Option<u64>,
    /// Where the counter of that charge stands.
    pub standing: Standing,
}

/// Builds the question. Two charges of one counter are one line: the larger amount is added, once, under the smaller limit.
///
/// # Errors
/// See [`AskError`]; the caller denies.
pub fn ask(charges: &[Charge], names: &impl Names, now_ms: u64) -> Result<Question, AskError> {
    let mut lines: Vec<Line> = Vec::with_capacity(charges.len());
    let mut line_of = Vec::with_capacity(charges.len());
    for charge in charges {
        if !asks(charge) {
            line_of.push(None);
            continue;
        }
        let new = line(charge, names, now_ms)?;
        if let Some((index, known)) = lines.iter_mut().enumerate().find(|(_, known)| known.counter == new.counter) {
            known.join(&new);
            line_of.push(Some(index));
        } else {
            line_of.push(Some(lines.len()));
            lines.push(new);
        }
    }
    if lines.len() > LINES_MAX { Err(AskError::TooMany) } else { Ok(Question { lines, line_of }) }
}

/// One line of a charge, or of a counter that somebody wants to look at.
///
/// # Errors
/// [`AskError::Span`].
pub fn line(charge: &Charge, names: &impl Names, now_ms: u64) -> Result<Line, AskError> {
    let span = match &charge.measure {
        Measure::Streak { fingerprint, idle_ms } => {
            Some(Span::Streak { fingerprint: names.fingerprint(*fingerprint), idle_ms: *idle_ms })
        }
        measure @ (Measure::Calendar(_)
        | Measure::InFlight { .. }
        | Measure::Lifetime { .. }
        | Measure::Rolling { .. }
        | Measure::TokenBucket { .. }) => Span::of(measure, charge.max, now_ms),
    };
    let span = span.ok_or(AskError::Span)?;
    let (is_slot, is_streak) = (matches!(span, Span::InFlight { .. }), matches!(span, Span::Streak { .. }));
    Ok(Line {
        counter: names.counter(&charge.counter),
        label: Arc::clone(&charge.terms.label),
        span,
        mode: charge.mode,
        amount: if is_slot { 1 } else { charge.amount },
        max: charge.max,
        strict: charge.terms.on_unavailable == OnUnavailable::Deny,
        release: charge.terms.on_expiry == OnExpiry::Release && !is_slot && !is_streak,
    })
}

/// Whether the store has to be asked at all: nothing is charged for an amount of zero, but a gate looks at others' charges.
fn asks(charge: &Charge) -> bool {
    charge.amount > 0 || charge.mode == Mode::Gate || matches!(charge.measure, Measure::InFlight { .. })
}

impl Line {
    /// Takes in another charge of the same counter: what either denies is denied.
    fn join(&mut self, other: &Self) {
        self.amount = self.amount.max(other.amount);
        self.max = self.max.min(other.max);
        self.strict |= other.strict;
        self.release &= other.release;
        if let (Span::TokenBucket { burst_us: mine, .. }, Span::TokenBucket { burst_us: theirs, .. }) =
            (&mut self.span, &other.span)
        {
            *mine = (*mine).min(*theirs);
        }
    }
}

/// Which charge refused, and how long that will last.
#[must_use]
pub fn over_limit(charges: &[Charge], lines: &[Line], line_of: &[Option<usize>], reply: &Reply) -> OverLimit {
    let mut first = None;
    let mut never_fits = false;
    let mut wait_ms = Some(0_u64);
    for (index, (charge, line)) in charges.iter().zip(line_of).enumerate() {
        let Some(index_of_line) = *line else { continue };
        let standing = reply.standings.get(index_of_line).copied().unwrap_or_default();
        let amount = lines.get(index_of_line).map_or(charge.amount, |line| line.amount);
        if fits(charge, amount, standing) {
            continue;
        }
        first = first.or(Some((index, standing)));
        never_fits |= charge.mode != Mode::Gate && amount > charge.max;
        wait_ms = wait_ms.and_then(|before| standing.reset_ms.map(|reset_ms| before.max(reset_ms)));
    }
    let (charge, standing) = first.unwrap_or_default();
    OverLimit { charge, never_fits, retry_after_ms: wait_ms.filter(|_| !never_fits), standing }
}

/// Whether the charge alone would have gone through.
fn fits(charge: &Charge, amount: u64, standing: Standing) -> bool {
    match charge.mode {
        Mode::Track => true,
        Mode::Gate => standing.used < charge.max,
        // A charge that shares its line with another has a `max` of its own.
        Mode::Attempt | Mode::Consume => amount <= standing.left || standing.used.saturating_add(amount) <= charge.max,
    }
}
