//! The counters of one sequence: the very machine that serves, on the clock of the sequence.

use std::sync::Arc;

use sha2::Digest as _;

use crate::decision::{Denial, Reason};
use crate::ledger::ask::{Names, ask, over_limit};
use crate::ledger::machine::{Bounds, Full, Head, Machine};
use crate::ledger::{Attempt, Code, CounterId, Finish, Line, Speaker};
use crate::quota::{Charge, CounterKey, Fingerprint};

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
        let internal = || Denial::built_in(Reason::Internal);
        let question = ask(charges, &PlainNames, now_ms).map_err(|_| internal())?;
        let held = Held { id: self.next.to_string(), lines: question.lines.into() };
        let reply = self.machine.reserve(&head(&held), &held.lines, now_ms.saturating_mul(1_000), || Ok::<_, Full>(()));
        let reply = reply.map_err(|_| internal())?;
        match reply.code {
            Code::Held => return Ok(held),
            Code::Limited { .. } | Code::NeverFits { .. } => {}
            Code::Conflict
            | Code::EpochChanged
            | Code::Fenced { .. }
            | Code::HeldBefore
            | Code::Lost { .. }
            | Code::NodeChanged
            | Code::RolledBack
            | Code::Settled
            | Code::StaleWindows { .. } => return Err(internal()),
        }
        let over = over_limit(charges, &held.lines, &question.line_of, &reply);
        let reason = if over.never_fits { Reason::NeverFits } else { Reason::QuotaExhausted };
        let refused = charges.get(over.charge).map(|charge| charge.terms.denial.clone());
        Err(refused.map_or_else(internal, |denial| Denial { reason, retry_after_ms: over.retry_after_ms, ..denial }))
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

/// Nobody can look into these counters, so their names hide nothing.
struct PlainNames;

impl Names for PlainNames {
    fn counter(&self, key: &CounterKey) -> CounterId {
        let digest: [u8; 32] = sha2::Sha256::digest(key.as_str()).into();
        let (first, _) = digest.split_at(16);
        CounterId(u128::from_be_bytes(first.try_into().unwrap_or([0; 16])))
    }

    fn fingerprint(&self, fingerprint: Fingerprint) -> Fingerprint {
        fingerprint
    }
}
