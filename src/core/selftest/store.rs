//! The counters of one sequence: the very machine that serves, on the clock of the sequence.

use std::sync::Arc;

use sha2::Digest as _;

use crate::decision::{Denial, Reason};
use crate::ledger::machine::{Bounds, Full, Head, Machine};
use crate::ledger::{Attempt, Code, CounterId, Finish, Line, Span, Speaker};
use crate::quota::{Charge, Measure, Mode, OnExpiry};

/// Longer than any sequence: what a case wants to run out, it ends itself.
const HOLD_MS: u64 = 365 * 86_400_000;

/// Counters and the calls that will be taken back.
#[derive(Debug)]
pub(super) struct Store {
    machine: Machine,
    next: u64,
    pending: Vec<(u64, Held)>,
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
        let asked: Vec<&Charge> =
            charges.iter().filter(|charge| charge.amount > 0 || charge.mode == Mode::Gate).collect();
        let lines: Option<Vec<Line>> = asked.iter().map(|charge| line(charge, now_ms)).collect();
        let Some(lines) = lines else { return Err(Denial::built_in(Reason::Internal)) };
        let held = Held { id: self.next.to_string(), lines: lines.into() };
        let reply = self.machine.reserve(&head(&held), &held.lines, now_ms.saturating_mul(1_000), || Ok::<_, Full>(()));
        let Ok(reply) = reply else { return Err(Denial::built_in(Reason::Internal)) };
        let (index, reason) = match reply.code {
            Code::Held => return Ok(held),
            Code::Limited { line } => (line, Reason::QuotaExhausted),
            Code::NeverFits { line } => (line, Reason::NeverFits),
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
        let denial = asked.get(index).map(|charge| charge.terms.denial.clone());
        let retry_after_ms = reply.standings.get(index).and_then(|standing| standing.reset_ms);
        let retry_after_ms = retry_after_ms.filter(|_| reason == Reason::QuotaExhausted);
        Err(denial
            .map_or_else(|| Denial::built_in(Reason::Internal), |denial| Denial { reason, retry_after_ms, ..denial }))
    }

    /// Gives back what a call held.
    pub(super) fn roll_back(&mut self, held: &Held, now_ms: u64) {
        let how = Finish::RollBack(Speaker::Stream);
        let done =
            self.machine.finish(&head(held), &held.lines, &how, now_ms.saturating_mul(1_000), || Ok::<_, Full>(()));
        debug_assert!(done.is_ok(), "the machine has no bounds here");
    }

    /// Notes that a call will turn out to have failed at that time.
    pub(super) fn roll_back_at(&mut self, at_ms: u64, held: Held) {
        self.pending.push((at_ms, held));
    }

    fn settle(&mut self, now_ms: u64) {
        let (due, later) = std::mem::take(&mut self.pending).into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        self.pending = later;
        let due: Vec<(u64, Held)> = due;
        due.iter().for_each(|(at_ms, held)| self.roll_back(held, *at_ms));
    }
}

fn head(held: &Held) -> Head<'_> {
    Head { id: &held.id, digest: 0, attempt: Attempt(0), hold_ms: HOLD_MS, grace_ms: 0 }
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
