//! The shell's only sequencing of policy, reservation and credential. Nothing else makes a [`Permit`].

use std::{fmt, sync::Arc, time::Duration};

use mcp_authz_core::{
    decision::{Decision, Denial, Reason},
    judge::judge_pinned,
    ledger::ask::OverLimit,
    mcp::Message,
    number::units_shown,
    pins::Known,
    policy::{Policy, no_policy},
    principal::Principal,
    quota::{Charge, Mode, told},
};
use tokio::time::Instant;

use crate::{
    credential::Credential,
    quota::{self, Keys, Ledger, LedgerError, OnLeak, Reservation, ReservationId, Reserve, Ticket},
    telemetry::{
        metrics::{Metrics, QuotaOutcome, ReservationOutcome},
        seldom::Seldom,
        trace::{Span, Step},
    },
};

/// The log of a ledger that is gone: its metrics count every call.
static DENIED: Seldom = Seldom::new();
static UNCOUNTED: Seldom = Seldom::new();

/// One authenticated request and what it is judged by.
#[derive(Debug)]
pub struct Case<'a> {
    /// The caller's policy, if there is one.
    pub policy: Option<&'a Policy>,
    /// The caller.
    pub principal: &'a Principal,
    /// Name of the server that the request is bound to.
    pub server: &'a str,
    /// The message; `None` for GET and DELETE, which carry none.
    pub message: Option<&'a Message<'a>>,
    /// What is known of the definitions of the server's tools.
    pub known: Known,
    /// Envoy's id of the stream, from which the reservation takes its name.
    pub stream_id: &'a str,
    /// Unix milliseconds.
    pub now_ms: u64,
    /// When an answer stops being of use.
    pub deadline: Instant,
}

/// Decides and reserves.
pub struct Engine<L: Ledger> {
    ledger: Arc<L>,
    hold: Duration,
    on_leak: OnLeak,
    metrics: Metrics,
}

impl<L: Ledger> fmt::Debug for Engine<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("hold", &self.hold).finish_non_exhaustive()
    }
}

/// Proof that the policy allows the call, that every unit it costs is held and that its credential is at hand. Its fields
/// are private and only [`Engine::check`] makes one, so no adapter can build an OK any other way.
///
/// ```compile_fail,E0451
/// # use mcp_authz::{engine::Permit, quota::Ledger, credential::Credential};
/// fn forge<'s, L: Ledger>(credential: &'s Credential) -> Permit<'s, L> {
///     Permit { reservation: None, is_unmetered: false, credential }
/// }
/// ```
#[must_use = "a permit owns a reservation"]
pub struct Permit<'s, L: Ledger> {
    reservation: Option<Reservation<L>>,
    is_unmetered: bool,
    credential: &'s Credential,
}

impl<L: Ledger> fmt::Debug for Permit<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("reservation", &self.reservation).finish_non_exhaustive()
    }
}

impl<'s, L: Ledger> Permit<'s, L> {
    /// What is held, for the settle token. `None` for calls that cost nothing, and for those that go uncounted.
    #[must_use]
    pub fn ticket(&self) -> Option<&Ticket> {
        self.reservation.as_ref().and_then(Reservation::ticket)
    }

    /// Whether the call goes although its quotas could not be counted.
    #[must_use]
    pub const fn is_unmetered(&self) -> bool {
        self.is_unmetered
    }

    /// Takes the permit apart when the answer is written. The reservation goes with the answer: until the connection has taken
    /// that over, a drop gives the units back; from then on they count as spent unless whoever sees the response settles them.
    pub fn hand_over(self) -> (&'s Credential, Option<Reservation<L>>) {
        (self.credential, self.reservation)
    }
}

impl<L: Ledger> Engine<L> {
    /// An engine over that ledger. `on_leak` is told of reservations that were dropped without an end.
    pub fn new(ledger: Arc<L>, hold: Duration, on_leak: OnLeak, metrics: Metrics) -> Self {
        Self { ledger, hold, on_leak, metrics }
    }

    /// The ledger that calls are held in.
    pub fn ledger(&self) -> &Arc<L> {
        &self.ledger
    }

    /// Judges, reserves and binds the server's credential, in that order; gives the reservation back when a later step
    /// fails. `span` takes note of the steps.
    ///
    /// # Errors
    /// The denial to answer with; nothing stays held.
    pub async fn check<'s>(
        &'s self,
        case: &Case<'_>,
        credential: &'s Credential,
        span: &mut Span,
    ) -> Result<Permit<'s, L>, Denial> {
        span.enter(Step::Evaluate);
        let charges = match decide(case) {
            Decision::Deny(denial) => return Err(denial),
            Decision::Proceed(charges) => charges,
        };
        let held = if charges.is_empty() {
            Held::Nothing
        } else {
            span.enter(Step::Reserve);
            self.reserve(case, &charges).await?
        };
        span.leave();
        Ok(match held {
            Held::Nothing => Permit { reservation: None, is_unmetered: false, credential },
            Held::Units(reservation) => Permit { reservation: Some(reservation), is_unmetered: false, credential },
            Held::Unmetered => Permit { reservation: None, is_unmetered: true, credential },
        })
    }

    /// The keys under which the ledger knows counters, for settle tokens.
    #[must_use]
    pub fn keys(&self) -> Arc<Keys> {
        self.ledger.keys()
    }

    async fn reserve(&self, case: &Case<'_>, charges: &[Charge]) -> Result<Held<L>, Denial> {
        let id = ReservationId::from_envoy(case.stream_id).map_err(|error| unavailable(&error))?;
        let reserve = quota::reserve(&self.ledger, id, charges, self.hold, case.deadline, Arc::clone(&self.on_leak));
        let (outcome, answer) = match tokio::time::timeout_at(case.deadline, reserve).await {
            Err(_) => (ReservationOutcome::Unavailable, Err(Denial::built_in(Reason::Deadline))),
            Ok(Err(error)) => (ReservationOutcome::Unavailable, Err(unavailable(&error))),
            Ok(Ok(Reserve::Free)) => return Ok(Held::Nothing),
            Ok(Ok(Reserve::Reserved(reservation))) => {
                if let Some(ticket) = reservation.ticket() {
                    self.metrics.quota_of(ticket, QuotaOutcome::Held);
                }
                (ReservationOutcome::Reserved, Ok(Held::Units(reservation)))
            }
            Ok(Ok(Reserve::Unmetered(error))) => {
                if UNCOUNTED.is_due() {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "The ledger could not answer; calls go uncounted, as their limits say.");
                }
                charges.iter().for_each(|charge| self.count(charge, QuotaOutcome::Unmetered));
                (ReservationOutcome::Unmetered, Ok(Held::Unmetered))
            }
            Ok(Ok(Reserve::OverLimit(over))) => {
                charges.iter().filter(|c| c.mode == Mode::Attempt).for_each(|c| self.count(c, QuotaOutcome::Held));
                let denial = charges.get(over.charge).map(|charge| {
                    self.count(charge, QuotaOutcome::Refused);
                    refusal(charge, &over)
                });
                (ReservationOutcome::OverLimit, Err(denial.unwrap_or_else(|| Denial::built_in(Reason::Internal))))
            }
        };
        self.metrics.reservations(outcome, 1);
        answer
    }

    fn count(&self, charge: &Charge, outcome: QuotaOutcome) {
        self.metrics.quota(&charge.terms.policy, &charge.terms.name, outcome, charge.amount);
    }
}

/// What the agent is told of a limit that is used up: of the counter only where the limit says so, because whoever shares it
/// could read the others' calls from it.
fn refusal(charge: &Charge, over: &OverLimit) -> Denial {
    let reason = if over.never_fits { Reason::NeverFits } else { Reason::QuotaExhausted };
    let denial = Denial { reason, retry_after_ms: over.retry_after_ms, ..charge.terms.denial.clone() };
    if !charge.terms.disclose {
        return denial;
    }
    // Of an amount that never fits no time is told: it would invite to try again.
    let told = if over.never_fits {
        format!("the whole limit is {}", units_shown(charge.max, charge.terms.scale))
    } else {
        told(charge, over.standing)
    };
    let message = format!("{} ({told})", denial.message);
    Denial { message: message.into(), ..denial }
}

fn decide(case: &Case<'_>) -> Decision {
    match (case.message, case.policy) {
        (Some(message), policy) => judge_pinned(policy, case.principal, case.server, message, &case.known),
        (None, Some(_)) => Decision::Proceed(Vec::new()),
        (None, None) => Decision::Deny(no_policy()),
    }
}

/// What a call holds.
enum Held<L: Ledger> {
    Nothing,
    Units(Reservation<L>),
    Unmetered,
}

fn unavailable(error: &LedgerError) -> Denial {
    if DENIED.is_due() {
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, "The ledger could not answer; calls with limits are denied.");
    }
    let text = match error {
        LedgerError::Conflict | LedgerError::RolledBack | LedgerError::Settled => {
            "The gateway sent this request to the policy service more than once, and an earlier one was given up. Send it again."
        }
        LedgerError::Fenced { .. } => {
            "The quota store has failed over, and its counts are being restored. Try again in a moment."
        }
        LedgerError::Full { .. } => "The quota store is full. Ask the operator to raise its limits.",
        LedgerError::Lost { .. } => {
            "The quota store has lost the counts of this limit. Wait, or ask the operator to accept the loss."
        }
        LedgerError::Refused(_) | LedgerError::Unknown(_) => Reason::LedgerUnavailable.advice(),
    };
    Denial { retry_after_ms: error.retry_after_ms(), ..Denial::with_message(Reason::LedgerUnavailable, text) }
}

#[cfg(test)]
mod tests;
