//! How a call that ended is settled: from what Envoy saw of it to what each of its counters keeps.
//!
//! Units come back only where it is certain that the server never got a byte, or where the limit asks for it. Everything
//! else, and whatever is not known, stays spent: a call that ran must never be free.
//!
//! What the body of the answer said counts in full only where the server's status agrees with it. In every doubt it can only
//! add to what was held.

use std::sync::Arc;

use crate::ledger::{Line, Span};
use crate::number::{AMOUNT_MAX, unit};
use crate::quota::{Actual, CountOn, Mode, RefundOn, Terms};
use crate::response::{Came, Kind};

/// When a line counts; from the limit's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// From when on a call counts.
    pub count_on: CountOn,
    /// Outcomes that give units back all the same.
    pub refund_on: RefundOn,
    /// Where the units come from once the call is answered.
    pub actual: Actual,
}

impl Promise {
    /// What the terms promise.
    #[must_use]
    pub const fn of(terms: &Terms) -> Self {
        Self { count_on: terms.count_on, refund_on: terms.refund_on, actual: terms.actual }
    }

    /// Whether it cannot be kept without the body of the answer.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        self.refund_on.needs_body() || self.actual != Actual::Held
    }
}

/// What became of a call, as far as Envoy can tell. Variants are exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// The server answered with this status.
    Answered(u16),
    /// The caller left after the request was sent and before the server had answered.
    ClientGone,
    /// Certainly not one byte reached a server.
    NotSent,
    /// The connection to the server broke before it answered.
    Reset,
    /// Envoy gave up waiting for an answer.
    TimedOut,
    /// Sent, and not answered for another reason.
    Unanswered,
}

impl Fate {
    /// Every name, sorted.
    pub const NAMES: &'static [&'static str] =
        &["answered", "client_gone", "not_sent", "reset", "timed_out", "unanswered"];

    /// The name in the audit record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Fate::Answered(_) => "answered",
            Fate::ClientGone => "client_gone",
            Fate::NotSent => "not_sent",
            Fate::Reset => "reset",
            Fate::TimedOut => "timed_out",
            Fate::Unanswered => "unanswered",
        }
    }

    /// Whether it is known that the call ran or did not. Where it is not, its units stay spent.
    #[must_use]
    pub const fn is_known(self) -> bool {
        matches!(self, Fate::Answered(_) | Fate::NotSent)
    }
}

/// One call that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What became of it.
    pub fate: Fate,
    /// How often Envoy may have sent it; 0 counts as 1.
    pub attempts: u32,
    /// What its answer was; `None` where the answer was not looked at, or not seen whole.
    pub came: Option<Came>,
}

impl Facts {
    /// What the answer was, if the status agrees that the server gave one. A status of 500 or above says that it failed, and
    /// without a status of its own nobody knows what became of the answer that was seen.
    fn answer(&self) -> Option<&Came> {
        let agrees = matches!(self.fate, Fate::Answered(..500));
        self.came.as_ref().filter(|_| agrees)
    }
}

/// What has to be done about a reservation whose call has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the hold is the charge, and it stands.
    Keep,
    /// Everything comes back.
    RollBack,
    /// What each line came to, in the order of the lines.
    Settle {
        /// Units.
        actual: Box<[u64]>,
        /// Whether the counts change; otherwise only slots are given up and pending releases called off.
        change: Change,
    },
}

/// How the counts change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    None,
    /// Some units come back.
    Refund,
    /// More is charged than was held.
    Surplus,
}

/// Maps the facts to what has to be done. `names` are those of the lines' counters, under which usage is told.
#[must_use]
pub fn plan(lines: &[Line], promises: &[Promise], names: &[Arc<str>], facts: &Facts) -> Plan {
    let mut actual = Vec::with_capacity(lines.len());
    let (mut refunds, mut surplus, mut kept, mut asks) = (false, false, false, false);
    for (index, line) in lines.iter().enumerate() {
        if matches!(line.span, Span::InFlight { .. }) {
            // Whatever the amount, the slot is given up.
            asks = true;
            actual.push(line.amount);
            continue;
        }
        let name = names.get(index).map_or("", |name| name);
        let units = promises.get(index).map_or(line.amount, |promise| units(line, *promise, name, facts));
        actual.push(units);
        asks |= line.release;
        refunds |= units < line.amount;
        surplus |= units > line.amount;
        // A rollback leaves attempts counted, and gates have nothing to give back.
        kept |= units > 0 && line.amount > 0 && !matches!(line.mode, Mode::Attempt | Mode::Gate);
    }
    let change = match (refunds, surplus) {
        (_, true) => Change::Surplus,
        (true, false) => Change::Refund,
        (false, false) => Change::None,
    };
    match change {
        Change::Refund if !kept => Plan::RollBack,
        Change::None if !asks => Plan::Keep,
        Change::None | Change::Refund | Change::Surplus => Plan::Settle { actual: actual.into(), change },
    }
}

/// What one line came to.
fn units(line: &Line, promise: Promise, name: &str, facts: &Facts) -> u64 {
    let earlier = match (line.mode, facts.fate) {
        (Mode::Gate, _) | (_, Fate::NotSent) => 0,
        // Each attempt may have run, and only the last one is known.
        (Mode::Attempt | Mode::Consume | Mode::Track, _) => u64::from(facts.attempts.saturating_sub(1)),
    };
    let last = match line.mode {
        // What was tried was tried, however it ended.
        Mode::Attempt | Mode::Gate => line.amount,
        Mode::Consume | Mode::Track if refunded(promise, facts.fate) => return 0,
        Mode::Consume | Mode::Track => last(line, promise, name, facts),
    };
    line.amount.saturating_mul(earlier).saturating_add(last).min(AMOUNT_MAX.max(line.amount))
}

/// What the last attempt came to.
fn last(line: &Line, promise: Promise, name: &str, facts: &Facts) -> u64 {
    let Some(came) = &facts.came else { return line.amount };
    let measured = match (promise.actual, facts.fate) {
        // It never got there, so nothing can have come back.
        (Actual::Held, _) | (_, Fate::NotSent) => None,
        (Actual::Bytes { scale, min }, _) => Some(came.bytes.saturating_mul(unit(scale)).max(min)),
        (Actual::Usage, _) => usage(came, name),
    };
    let measured = measured.unwrap_or(line.amount);
    match facts.answer() {
        Some(answer) if returned(promise.refund_on, answer.kind) => 0,
        Some(_) => measured,
        None => measured.max(line.amount),
    }
}

/// What was told for that counter. Told twice, the larger counts.
fn usage(came: &Came, name: &str) -> Option<u64> {
    came.usage.iter().filter(|(counter, _)| **counter == *name).map(|(_, units)| *units).max()
}

const fn returned(refund_on: RefundOn, kind: Kind) -> bool {
    match kind {
        Kind::ProtocolError => refund_on.protocol_error,
        Kind::ToolError => refund_on.is_error,
        Kind::Ok | Kind::ServerError => false,
    }
}

fn refunded(promise: Promise, fate: Fate) -> bool {
    let Promise { count_on, refund_on, .. } = promise;
    let needs_success = count_on == CountOn::Success;
    match fate {
        Fate::NotSent => count_on != CountOn::Admitted,
        Fate::Answered(status) => {
            // A redirect or an interim answer is no failure of the call.
            (needs_success && status >= 400) || (refund_on.upstream_5xx && status >= 500)
        }
        Fate::Reset => needs_success || refund_on.reset,
        Fate::TimedOut => needs_success || refund_on.timeout,
        // The caller could leave on purpose, after the work was done.
        Fate::ClientGone | Fate::Unanswered => false,
    }
}

#[cfg(test)]
mod tests;
