//! Two-phase quota: every limit of a call is held before the call, all or none; what the server provably never got comes back.
//!
//! The hold is the charge: on the happy path nothing follows it. A hold that nobody finishes counts as spent when it runs out,
//! because an unknown outcome must not refill a looping agent's budget. Owns the [`Ledger`] trait and the guard; the engines
//! are below, what they share is `core::ledger`.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mcp_authz_core::{
    ledger::{
        Attempt, Code, Finish, Finished, Line, Reply, Speaker, Standing,
        ask::{OverLimit, over_limit},
    },
    quota::{Charge, OnUnavailable, Terms},
};
use tokio::time::Instant;

pub mod any;
mod booking;
#[cfg(test)]
pub(crate) mod contract;
pub mod desk;
pub mod embedded;
pub mod leaks;
pub mod redis;
#[cfg(test)]
mod tests;
pub mod token;

#[cfg(test)]
pub(crate) use booking::SIGNATURE_BYTES;
pub use booking::{Booking, Keys, SealError};

/// Longest id that is taken over from Envoy, in bytes; its own are 20 digits at most.
const ID_BYTES_MAX: usize = 64;
/// How often a reservation is asked for again because the store's clock was in another window than ours.
const STALE_MAX: usize = 2;

/// Names one reservation. Made by Envoy or by us, never by a client: a caller that could choose it could make its calls free.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId(Arc<str>);

impl ReservationId {
    /// Takes Envoy's `attributes.request.http.id`, so that a Check sent twice is one reservation. Where it is empty, holds
    /// other characters or more of them than Envoy uses, the id is random: such a Check sent twice is charged twice.
    ///
    /// # Errors
    /// If the operating system has no randomness to give; the caller denies.
    pub fn from_envoy(http_id: &str) -> Result<Self, LedgerError> {
        Self::from_token(http_id).map_or_else(Self::random, Ok)
    }

    /// Takes an id out of a settle token that we signed; `None` if it is none that [`Self::from_envoy`] takes over.
    pub(crate) fn from_token(id: &str) -> Option<Self> {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        (!id.is_empty() && id.len() <= ID_BYTES_MAX && plain).then(|| Self(Arc::from(id)))
    }

    /// 128 random bits.
    ///
    /// # Errors
    /// If the operating system has no randomness to give; the caller denies.
    pub fn random() -> Result<Self, LedgerError> {
        // The prefix keeps it apart from Envoy's, which are decimal.
        Ok(Self(Arc::from(format!("r{:032x}", u128::from_be_bytes(random_bytes()?)))))
    }

    /// The text, for the audit record.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A store of counters. One trait, several stores, one suite of contract tests for all; the answers are those of the scripts in
/// `src/quota/redis`, code for code.
pub trait Ledger: Send + Sync + 'static {
    /// The keys under which this store knows counters. They change only when the store's data was lost.
    fn keys(&self) -> Arc<Keys>;

    /// The store's time as far as we know it, Unix ms: what calendar windows are computed from.
    fn now_ms(&self) -> u64;

    /// Holds every line or none, atomically, for at most `hold`. Answers before `deadline`.
    ///
    /// Idempotent in the booking's id: the same id for the same charges is [`Code::HeldBefore`] and charged once. If another
    /// attempt asks, no attempt can roll back alone any more: nobody can tell which of the two reached the upstream.
    ///
    /// # Errors
    /// [`LedgerError::Unknown`] if the hold may exist; otherwise nothing is held. The caller denies, or does what the limits say.
    fn reserve(
        &self,
        booking: &Booking,
        hold: Duration,
        deadline: Instant,
    ) -> impl Future<Output = Result<Reply, LedgerError>> + Send;

    /// Ends a reservation once. A rollback returns units only to the very windows that were charged; one of an unknown id is
    /// remembered, so that the hold it overtook is refused.
    ///
    /// # Errors
    /// See [`LedgerError`]; the caller may try again with the same booking, or leave the units spent.
    fn finish(&self, booking: &Booking, how: &Finish) -> impl Future<Output = Result<Finished, LedgerError>> + Send;

    /// Keeps the slots of a call that still runs; `false` if they were lost already. Never takes a slot again.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn renew(&self, booking: &Booking, hold: Duration) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// Where counters stand; one answer for each line, nothing is changed.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn peek(&self, lines: &[Line]) -> impl Future<Output = Result<Vec<Standing>, LedgerError>> + Send;

    /// Forgets what is used of counters. Calls that run meanwhile may still give back what they held.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn reset(&self, lines: &[Line]) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Takes it that counts were lost with the store's data: limits start anew from what is there. `false` if none were.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn accept_loss(&self) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// Told of a call that was let go although its lines could not be held, so that they can be counted later.
    fn admitted_unmetered(&self, booking: &Arc<Booking>);
}

/// The ledger could not answer, or will not. The caller denies, unless the limits say otherwise.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The id was used for other charges: two different requests, or a policy reloaded between two attempts.
    #[error("reservation id was used for other charges")]
    Conflict,
    /// A failover is being worked up.
    #[error("quota store failed over and its counts are being restored")]
    Fenced {
        /// Milliseconds until it can be asked again.
        wait_ms: u64,
    },
    /// The store holds as many live entries as it may, and none can be forgotten without refilling a budget.
    #[error("quota store is full: `{limit}` reached")]
    Full {
        /// Which limit of the configuration: `counters_max` or `reservations_max`.
        limit: &'static str,
    },
    /// The counts of a window were lost.
    #[error("counts of this window were lost with the data of the quota store")]
    Lost {
        /// Milliseconds until nothing of what was lost can matter; `None` until an operator accepts the loss.
        wait_ms: Option<u64>,
    },
    /// Nothing was applied: the store was not reached, or it said no.
    #[error("quota store unavailable")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The id was rolled back before.
    #[error("reservation was already rolled back")]
    RolledBack,
    /// The id was settled before.
    #[error("reservation was already settled")]
    Settled,
    /// The answer was lost, or did not come in time: it may have been applied.
    #[error("quota store did not answer")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl LedgerError {
    /// Whether the store as such failed, so that `on_unavailable` of a limit applies. The others are answers about this one
    /// request.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        match self {
            LedgerError::Fenced { .. } | LedgerError::Refused(_) | LedgerError::Unknown(_) => true,
            LedgerError::Conflict
            | LedgerError::Full { .. }
            | LedgerError::Lost { .. }
            | LedgerError::RolledBack
            | LedgerError::Settled => false,
        }
    }

    /// Whether a rollback must follow: the hold may exist.
    #[must_use]
    pub const fn may_be_applied(&self) -> bool {
        matches!(self, LedgerError::Unknown(_))
    }

    /// Milliseconds until another attempt can succeed, where that is known.
    #[must_use]
    pub const fn retry_after_ms(&self) -> Option<u64> {
        match self {
            LedgerError::Fenced { wait_ms } => Some(*wait_ms),
            LedgerError::Lost { wait_ms } => *wait_ms,
            LedgerError::Conflict
            | LedgerError::Full { .. }
            | LedgerError::Refused(_)
            | LedgerError::RolledBack
            | LedgerError::Settled
            | LedgerError::Unknown(_) => None,
        }
    }
}

/// Told of a reservation that ended without the store hearing of it, and how it was to end. Called from `drop`: must not block
/// for long and must not panic.
pub type OnLeak = Arc<dyn Fn(Ticket, Finish) + Send + Sync>;

/// Units are held and someone must end it. Every exit takes `self`, so it ends at most once:
///
/// ```compile_fail,E0382
/// # use mcp_authz::quota::*;
/// fn twice<L: Ledger>(r: Reservation<L>) {
///     let _ = r.into_ticket();
///     let _ = r.into_ticket();
/// }
/// ```
///
/// If it is dropped all the same — a canceled handler, a panic — `drop` reports it for rollback.
#[must_use = "a reservation must be rolled back or handed to the response path"]
pub struct Reservation<L: Ledger> {
    ledger: Arc<L>,
    on_leak: OnLeak,
    // INVARIANT: `Some` until an exit method has run to its end; `drop` acts only on `Some`.
    held: Option<Ticket>,
}

/// An open reservation, for whoever sees what becomes of the call. Its name must never come from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an open reservation counts as spent unless the response path finishes it"]
pub struct Ticket {
    /// What is held.
    pub booking: Arc<Booking>,
    /// What the limits say about each line, in the order of the lines.
    pub terms: Box<[Arc<Terms>]>,
}

impl<L: Ledger> fmt::Debug for Reservation<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("held", &self.held).finish_non_exhaustive()
    }
}

/// What [`reserve`] came back with.
#[derive(Debug)]
pub enum Reserve<L: Ledger> {
    /// Nothing to charge; the ledger was not asked and nothing is owed.
    Free,
    /// Refused; nothing is owed.
    OverLimit(OverLimit),
    /// Held; the caller now owes an end.
    Reserved(Reservation<L>),
    /// The store failed, and every limit of the call says that it may go all the same. It is counted later where that is
    /// possible.
    Unmetered(LedgerError),
}

/// Takes the holds; `on_leak` is told of a reservation that was dropped without an exit. Dropping this future is safe at any
/// point.
///
/// # Errors
/// If the ledger could not answer and not every limit says that calls may go then; the caller denies.
pub async fn reserve<L: Ledger>(
    ledger: &Arc<L>,
    id: ReservationId,
    charges: &[Charge],
    hold: Duration,
    deadline: Instant,
    on_leak: OnLeak,
) -> Result<Reserve<L>, LedgerError> {
    let keys = ledger.keys();
    let attempt = next_attempt()?;
    for _ in 0..=STALE_MAX {
        let Some(prepared) = Booking::prepare(&id, attempt, charges, &keys, ledger.now_ms())? else {
            return Ok(Reserve::Free);
        };
        let booking = Arc::new(prepared.booking);
        let ticket = Ticket { booking: Arc::clone(&booking), terms: prepared.terms };
        // The guard comes first: if this future is dropped while the store is answering, the hold may exist.
        let mut guard = Reservation { ledger: Arc::clone(ledger), on_leak: Arc::clone(&on_leak), held: Some(ticket) };
        let reply = match ledger.reserve(&booking, hold, deadline).await {
            Ok(reply) => reply,
            Err(error) => {
                if !error.may_be_applied() {
                    guard.held = None;
                }
                if error.is_outage() && charges.iter().all(|c| c.terms.on_unavailable == OnUnavailable::Allow) {
                    // The call goes, so whatever is held of it stays spent; the id keeps it from being counted twice.
                    guard.held = None;
                    ledger.admitted_unmetered(&booking);
                    return Ok(Reserve::Unmetered(error));
                }
                return Err(error);
            }
        };
        if matches!(reply.code, Code::Held | Code::HeldBefore) {
            // Counters named under other keys are not those of the limits: the store's data was lost meanwhile.
            if !Arc::ptr_eq(&keys, &ledger.keys()) {
                return Err(LedgerError::Unknown("the store's data was replaced during the call".into()));
            }
            return Ok(Reserve::Reserved(guard));
        }
        guard.held = None;
        if let Some(error) = refusal(reply.code) {
            return Err(error);
        }
        if !matches!(reply.code, Code::StaleWindows { .. }) {
            return Ok(Reserve::OverLimit(over_limit(charges, &booking.lines, &prepared.line_of, &reply)));
        }
    }
    Err(LedgerError::Refused("the store's clock is in another window than ours, again and again".into()))
}

/// What an answer says that is neither a hold nor about a limit nor about the time.
fn refusal(code: Code) -> Option<LedgerError> {
    Some(match code {
        Code::Held | Code::HeldBefore | Code::Limited { .. } | Code::NeverFits { .. } | Code::StaleWindows { .. } => {
            return None;
        }
        Code::Conflict => LedgerError::Conflict,
        Code::EpochChanged | Code::NodeChanged => LedgerError::Refused("the store changed under the call".into()),
        Code::Fenced { wait_ms, .. } => LedgerError::Fenced { wait_ms },
        Code::Lost { wait_ms, .. } => LedgerError::Lost { wait_ms },
        Code::RolledBack => LedgerError::RolledBack,
        Code::Settled => LedgerError::Settled,
    })
}

impl<L: Ledger> Reservation<L> {
    /// The id, for the audit record.
    #[must_use]
    pub fn id(&self) -> Option<&ReservationId> {
        self.held.as_ref().map(|ticket| &ticket.booking.id)
    }

    /// Returns the units.
    ///
    /// # Errors
    /// See [`LedgerError`]; the leak callback has been told to roll back.
    pub async fn rollback(mut self) -> Result<Finished, LedgerError> {
        let Some(ticket) = &self.held else { return Ok(Finished::Unknown) };
        let how = Finish::RollBack(Speaker::Attempt(ticket.booking.attempt));
        let finished = self.ledger.finish(&ticket.booking, &how).await?;
        self.held = None;
        Ok(finished)
    }

    /// What is held, without giving up the duty to end it: the answer is written from it.
    #[must_use]
    pub fn ticket(&self) -> Option<&Ticket> {
        self.held.as_ref()
    }

    /// Gives up ownership to the response path, which may run in another process. If nobody comes for it, the units count as
    /// spent.
    pub fn into_ticket(mut self) -> Option<Ticket> {
        self.held.take()
    }
}

impl<L: Ledger> Drop for Reservation<L> {
    fn drop(&mut self) {
        if let Some(ticket) = self.held.take() {
            let how = Finish::RollBack(Speaker::Attempt(ticket.booking.attempt));
            (self.on_leak)(ticket, how);
        }
    }
}

/// A name for one handling of a request: never the same twice in a process, and as good as random between processes. Asking
/// the system for each would cost as much as the reservation.
fn next_attempt() -> Result<Attempt, LedgerError> {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    /// Odd, so that every number comes before one comes again.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let next = match NEXT.get() {
        Some(next) => next,
        None => {
            let first = u64::from_be_bytes(random_bytes()?);
            NEXT.get_or_init(|| AtomicU64::new(first))
        }
    };
    Ok(Attempt(next.fetch_add(STEP, Ordering::Relaxed)))
}

/// Randomness of the operating system.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], LedgerError> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).map_err(|error| LedgerError::Refused(Box::new(error)))?;
    Ok(bytes)
}
