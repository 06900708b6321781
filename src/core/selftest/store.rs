//! The counters of one sequence: the very machine that serves, on the clock of the sequence.

use std::sync::Arc;

use sha2::Digest as _;

use crate::decision::{Denial, Reason};
use crate::ledger::machine::{Bounds, Full, Head, Machine};
use crate::ledger::{Attempt, Code, CounterId, Finish, Line, Span, Speaker, Standing};
use crate::quota::{Charge, Measure, Mode, OnExpiry};

/// Longer than any sequence: what a case wants to run out, it ends itself.
const HOLD_MS: u64 = 365 * 86_400_000;

/// Counters and the calls that will be taken back.
#[derive(Debug)]
pub(super) struct Store {
    machine: Machine,
    next: u64,
    pending: Vec<(u64, Held, End)>,
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server answered: the call is spent.
    Answer,
    /// The server never got it: its units come back.
    Failure,
}

/// What a call holds.
#[derive(Clone, Debug)]
pub(super) struct Held {
    id: String,
    lines: Arc<[Line]>,
}

impl Default for Store {
    fn default() -> Self {
        let bounds = Bounds { counters_max: usize::MAX, reservations_max: usize::MAX };
        Self { machine: Machine::new(bounds), next: 0, pending: Vec::new() }
    }
}

impl Store {
    /// Holds every charge or none; the first that does not fit answers.
    pub(super) fn reserve(&mut self, charges: &[Charge], now_ms: u64) -> Result<Held, Denial> {
        self.settle(now_ms);
        self.next = self.next.saturating_add(1);
        let asked: Vec<&Charge> = charges.iter().filter(|charge| asks(charge)).collect();
        let Some((lines, line_of)) = join(&asked, now_ms) else { return Err(Denial::built_in(Reason::Internal)) };
        let held = Held { id: self.next.to_string(), lines: lines.into() };
        let reply = self.machine.reserve(&head(&held), &held.lines, now_ms.saturating_mul(1_000), || Ok::<_, Full>(()));
        let Ok(reply) = reply else { return Err(Denial::built_in(Reason::Internal)) };
        let reason = match reply.code {
            Code::Held => return Ok(held),
            Code::Limited { .. } => Reason::QuotaExhausted,
            Code::NeverFits { .. } => Reason::NeverFits,
            Code::Conflict
            | Code::EpochChanged
            | Code::Fenced { .. }
            | Code::HeldBefore
            | Code::Lost { .. }
            | Code::NodeChanged
            | Code::RolledBack
            | Code::Settled
            | Code::StaleWindows { .. } => return Err(Denial::built_in(Reason::Internal)),
        };
        let refused = asked.iter().zip(line_of).find_map(|(charge, line)| {
            let standing = reply.standings.get(line).filter(|standing| !fits(charge, standing))?;
            let retry_after_ms = standing.reset_ms.filter(|_| reason == Reason::QuotaExhausted);
            Some(Denial { reason, retry_after_ms, ..charge.terms.denial.clone() })
        });
        Err(refused.unwrap_or_else(|| Denial::built_in(Reason::Internal)))
    }

    /// Ends a call now.
    pub(super) fn end(&mut self, held: &Held, now_ms: u64, end: End) {
        let how = match end {
            End::Answer => Finish::Settle(held.lines.iter().map(|line| line.amount).collect()),
            End::Failure => Finish::RollBack(Speaker::Stream),
        };
        let done =
            self.machine.finish(&head(held), &held.lines, &how, now_ms.saturating_mul(1_000), || Ok::<_, Full>(()));
        debug_assert!(done.is_ok(), "the machine has no bounds here");
    }

    /// Notes that a call will have ended at that time.
    pub(super) fn end_at(&mut self, at_ms: u64, held: Held, end: End) {
        self.pending.push((at_ms, held, end));
    }

    fn settle(&mut self, now_ms: u64) {
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|(at_ms, ..)| *at_ms <= now_ms);
        self.pending = later;
        due.sort_by_key(|(at_ms, ..)| *at_ms);
        due.iter().for_each(|(at_ms, held, end)| self.end(held, *at_ms, *end));
    }
}

fn head(held: &Held) -> Head<'_> {
    Head { id: &held.id, digest: 0, attempt: Attempt(0), hold_ms: HOLD_MS, grace_ms: 0 }
}

fn asks(charge: &Charge) -> bool {
    charge.amount > 0 || charge.mode == Mode::Gate
}

/// One line for each counter, and for each charge the index of its line. Two charges of one counter are one: the larger
/// amount, under the smaller limit.
fn join(charges: &[&Charge], now_ms: u64) -> Option<(Vec<Line>, Vec<usize>)> {
    let mut lines: Vec<Line> = Vec::new();
    let mut line_of = Vec::new();
    for charge in charges {
        let new = line(charge, now_ms)?;
        let known = lines.iter_mut().enumerate().find(|(_, line)| line.counter == new.counter);
        if let Some((index, line)) = known {
            line.amount = line.amount.max(new.amount);
            line.max = line.max.min(new.max);
            line.release &= new.release;
            line_of.push(index);
        } else {
            line_of.push(lines.len());
            lines.push(new);
        }
    }
    Some((lines, line_of))
}

/// Whether the charge alone would have gone through.
fn fits(charge: &Charge, standing: &Standing) -> bool {
    match charge.mode {
        Mode::Track => true,
        Mode::Gate => standing.used < charge.max,
        Mode::Attempt | Mode::Consume => {
            charge.amount <= standing.left || standing.used.saturating_add(charge.amount) <= charge.max
        }
    }
}

fn line(charge: &Charge, now_ms: u64) -> Option<Line> {
    let digest: [u8; 32] = sha2::Sha256::digest(charge.counter.as_str()).into();
    let (first, _) = digest.split_at(16);
    let streak_or_slot = matches!(charge.measure, Measure::InFlight { .. } | Measure::Streak { .. });
    Some(Line {
        counter: CounterId(u128::from_be_bytes(first.try_into().ok()?)),
        label: Arc::clone(&charge.terms.label),
        span: Span::of(&charge.measure, charge.max, now_ms)?,
        mode: charge.mode,
        amount: charge.amount,
        max: charge.max,
        strict: false,
        release: charge.terms.on_expiry == OnExpiry::Release && !streak_or_slot,
    })
}
