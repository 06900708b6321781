//! The counters of one case or sequence, on its clock: those of the machine that serves, or of another engine.

use std::sync::Arc;

use sha2::Digest as _;

use crate::decision::{Denial, Reason};
use crate::ledger::ask::{Names, ask, over_limit};
use crate::ledger::machine::{Bounds, Full, Head, Machine};
use crate::ledger::{Attempt, Code, CounterId, Finish, Finished, Line, Reply, Speaker};
use crate::quota::{Charge, CounterKey, Fingerprint, Terms};
use crate::response::Came;
use crate::settle::{Facts, Fate, Plan, Promise, plan};

/// Longer than any sequence: what a case wants to run out, it ends itself.
const HOLD_MS: u64 = 365 * 86_400_000;

/// Counters of some engine, on the clock of the cases.
pub trait Counters: std::fmt::Debug {
    /// Forgets everything: the next case begins.
    fn clear(&mut self);

    /// Holds every line or none.
    ///
    /// # Errors
    /// The engine could not answer; the case fails.
    fn reserve(&mut self, head: &Head<'_>, lines: &[Line], now_us: u64) -> Result<Reply, Full>;

    /// Rolls back or settles.
    ///
    /// # Errors
    /// The engine could not answer.
    fn finish(&mut self, head: &Head<'_>, lines: &[Line], how: &Finish, now_us: u64) -> Result<Finished, Full>;
}

impl Counters for Machine {
    fn clear(&mut self) {
        *self = unbounded();
    }

    fn reserve(&mut self, head: &Head<'_>, lines: &[Line], now_us: u64) -> Result<Reply, Full> {
        self.reserve(head, lines, now_us, || Ok(()))
    }

    fn finish(&mut self, head: &Head<'_>, lines: &[Line], how: &Finish, now_us: u64) -> Result<Finished, Full> {
        self.finish(head, lines, how, now_us, || Ok(()))
    }
}

/// The machine that serves, without bounds: a case has few counters.
pub(super) fn unbounded() -> Machine {
    Machine::new(Bounds { counters_max: usize::MAX, reservations_max: usize::MAX })
}

/// The counters of one case or sequence, and the calls that will end later.
#[derive(Debug)]
pub(super) struct Store<'c> {
    counters: &'c mut dyn Counters,
    next: u64,
    pending: Vec<(u64, Held, End)>,
}

/// How a call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server answered: the call is spent, unless its limits settle by the answer and the case has one.
    Answer(Option<Came>),
    /// The server never got it: its units come back.
    Failure,
}

/// What a call holds.
#[derive(Clone, Debug)]
pub(super) struct Held {
    id: String,
    lines: Arc<[Line]>,
    promises: Arc<[Promise]>,
    names: Arc<[Arc<str>]>,
}

impl<'c> Store<'c> {
    /// Empty ones.
    pub(super) fn new(counters: &'c mut dyn Counters) -> Self {
        counters.clear();
        Self { counters, next: 0, pending: Vec::new() }
    }

    /// Holds every charge or none; the first that does not fit answers.
    pub(super) fn reserve(&mut self, charges: &[Charge], now_ms: u64) -> Result<Held, Denial> {
        self.settle(now_ms);
        self.next = self.next.saturating_add(1);
        let internal = || Denial::built_in(Reason::Internal);
        let question = ask(charges, &PlainNames, now_ms).map_err(|_| internal())?;
        let terms: Vec<&Terms> = (0..question.lines.len())
            .filter_map(|line| question.line_of.iter().position(|of| *of == Some(line)))
            .filter_map(|charge| charges.get(charge).map(|charge| &*charge.terms))
            .collect();
        let held = Held {
            id: self.next.to_string(),
            promises: terms.iter().copied().map(Promise::of).collect(),
            names: terms.iter().map(|terms| Arc::clone(&terms.name)).collect(),
            lines: question.lines.into(),
        };
        let reply = self.counters.reserve(&head(&held), &held.lines, now_ms.saturating_mul(1_000));
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
        let as_held = || Finish::Settle(held.lines.iter().map(|line| line.amount).collect());
        let how = match end {
            End::Answer(came) => {
                let facts = Facts { fate: Fate::Answered(200), attempts: 1, came };
                match plan(&held.lines, &held.promises, &held.names, &facts) {
                    Plan::Keep => as_held(),
                    Plan::RollBack => Finish::RollBack(Speaker::Stream),
                    Plan::Settle { actual, .. } => Finish::Settle(actual),
                }
            }
            End::Failure => Finish::RollBack(Speaker::Stream),
        };
        let done = self.counters.finish(&head(held), &held.lines, &how, now_ms.saturating_mul(1_000));
        debug_assert!(done.is_ok(), "counters of cases have no bounds");
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
        due.into_iter().for_each(|(at_ms, held, end)| self.end(&held, at_ms, end));
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
