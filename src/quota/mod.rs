//! Two-phase quota: reserve before the call, then commit or roll back, once.
//!
//! A reservation nobody settles counts as spent when its lease ends: an unknown outcome must not refill a looping agent's
//! budget. Only an explicit rollback returns units. Owns the [`Ledger`] trait and the guard; the engines are below.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use mcp_authz_core::decision::Charge;

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a model that saturated would hide what it is to find; an overflow is a failure"
)]
mod contract;
pub mod memory;
#[cfg(test)]
mod tests;

/// Longest id that is taken over from Envoy, in bytes; its own are 20 digits at most.
const ID_BYTES_MAX: usize = 64;

/// Names one reservation. Made by Envoy or by us, never by a client: a caller that could choose it could make its calls free.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId(Arc<str>);

impl ReservationId {
    /// Takes Envoy's `attributes.request.http.id`, so that a Check sent twice is one reservation. Where it is empty, or
    /// longer than Envoy makes them, the id is random: such a Check sent twice is charged twice.
    ///
    /// # Errors
    /// If the operating system has no randomness to give; the caller denies.
    pub fn from_envoy(http_id: &str) -> Result<Self, LedgerError> {
        if http_id.is_empty() || http_id.len() > ID_BYTES_MAX {
            return Self::random();
        }
        Ok(Self(Arc::from(http_id)))
    }

    /// 128 random bits.
    ///
    /// # Errors
    /// If the operating system has no randomness to give; the caller denies.
    pub fn random() -> Result<Self, LedgerError> {
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes).map_err(|error| LedgerError::Unavailable(Box::new(error)))?;
        // The prefix keeps it apart from Envoy's, which are decimal.
        Ok(Self(Arc::from(format!("r{:032x}", u128::from_be_bytes(bytes)))))
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

/// The store of counters. One trait, several stores, one suite of contract tests for all.
///
/// Two charges of one call that name the same counter and window are one: the larger amount is added, once, and the `max`
/// of each is checked.
pub trait Ledger: Send + Sync + 'static {
    /// Holds every charge or none, atomically, for at most `lease`.
    ///
    /// Idempotent in `id`: the same id with the same charges is [`Hold::Held`] again and charged once. Such a repetition
    /// also commits the reservation: nobody can tell any more which of the two attempts reached the upstream, so no
    /// rollback may return its units. A refusal is not remembered, it held nothing.
    ///
    /// # Errors
    /// [`LedgerError::RolledBack`] for an id already rolled back, so that a late hold cannot follow its own rollback;
    /// otherwise see [`LedgerError`]. The caller denies.
    fn reserve(
        &self,
        id: &ReservationId,
        charges: &[Charge],
        now_ms: u64,
        lease: Duration,
    ) -> impl Future<Output = Result<Hold, LedgerError>> + Send;

    /// Ends a reservation once; a later call reports what the first one did. A rollback returns units only to the very
    /// windows that were charged. A rollback of an unknown id is remembered, so that the hold it overtook is refused.
    ///
    /// # Errors
    /// See [`LedgerError`]; the caller may try again with the same id, or leave it to the lease.
    fn settle(
        &self,
        id: &ReservationId,
        how: Settlement,
        now_ms: u64,
    ) -> impl Future<Output = Result<Settled, LedgerError>> + Send;
}

/// Answer to a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Held now, or already held under the same id.
    Held,
    /// At least one limit does not allow it; nothing was held.
    OverLimit {
        /// Index of the first charge that does not fit.
        charge: usize,
        /// Milliseconds until every limit that blocks has begun a new window; `None` if an amount is larger than its whole
        /// limit, so that no waiting helps.
        retry_after_ms: Option<u64>,
    },
}

/// How a reservation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The call was let go: the units are spent.
    Commit,
    /// The upstream never got a byte: the units return.
    Rollback(RollbackReason),
}

/// Why units come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackReason {
    /// A later step of our own refused or failed, or Envoy gave up before our answer.
    NotSent,
    /// The upstream answered with a failure that the policy says is free.
    UpstreamFailed,
}

/// Result of settling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It had been settled before, this way.
    Before(Settlement),
    /// No such reservation: its lease has run out and its units count as spent, or it never was.
    Expired,
    /// This call settled it.
    Now,
}

/// The ledger could not answer. The caller denies.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The id was used for other charges: two different requests, or a policy reloaded between two attempts.
    #[error("reservation id was used for other charges")]
    Conflict,
    /// The store holds as many live entries as it may, and none can be forgotten without refilling a budget.
    #[error("quota store is full: `{limit}` reached")]
    Full {
        /// Which limit of the configuration: `counters_max` or `reservations_max`.
        limit: &'static str,
    },
    /// The id was rolled back before.
    #[error("reservation was already rolled back")]
    RolledBack,
    /// The connection, the store or the source of randomness failed. Says nothing about whether the hold exists.
    #[error("quota store unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Told of a reservation that ended without the store hearing of it, and how it was to end. Called from `drop`: must not block
/// for long and must not panic. For the in-memory ledger, see [`memory::settle_leaks`].
pub type OnLeak = Arc<dyn Fn(&ReservationId, Settlement) + Send + Sync>;

/// Units are held and someone must end it. Every exit takes `self`, so it ends at most once:
///
/// ```compile_fail,E0382
/// # use mcp_authz::quota::*;
/// async fn twice<L: Ledger>(r: Reservation<L>) {
///     assert!(r.commit(0).await.is_ok());
///     assert!(r.commit(0).await.is_ok());
/// }
/// ```
///
/// If it is dropped all the same — a canceled handler, a panic — `drop` reports it for rollback; if the store failed in the
/// middle of a commit, it reports it for commit.
#[must_use = "a reservation must be committed, rolled back or handed to the response path"]
pub struct Reservation<L: Ledger> {
    ledger: Arc<L>,
    id: ReservationId,
    on_leak: OnLeak,
    // INVARIANT: `Some` until an exit method has run to its end; `drop` acts only on `Some`.
    unsettled: Option<Settlement>,
}

impl<L: Ledger> fmt::Debug for Reservation<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("id", &self.id).field("unsettled", &self.unsettled).finish_non_exhaustive()
    }
}

/// What [`reserve`] came back with.
#[derive(Debug)]
pub enum Reserve<L: Ledger> {
    /// Nothing to charge; the ledger was not asked and nothing is owed.
    Free,
    /// Refused; nothing is owed.
    OverLimit {
        /// Index of the first charge that does not fit.
        charge: usize,
        /// See [`Hold::OverLimit`].
        retry_after_ms: Option<u64>,
    },
    /// Held; the caller now owes a settlement.
    Reserved(Reservation<L>),
}

/// Takes the holds; `on_leak` is told of a reservation that was dropped without an exit. Dropping this future is safe at any
/// point.
///
/// # Errors
/// If the ledger could not answer; the caller denies.
pub async fn reserve<L: Ledger>(
    ledger: &Arc<L>,
    id: ReservationId,
    charges: &[Charge],
    now_ms: u64,
    lease: Duration,
    on_leak: OnLeak,
) -> Result<Reserve<L>, LedgerError> {
    if charges.iter().all(|charge| charge.amount == 0) {
        return Ok(Reserve::Free);
    }
    // The guard comes first: if this future is dropped while the store is answering, the hold may exist.
    let not_sent = Settlement::Rollback(RollbackReason::NotSent);
    let mut reservation = Reservation { ledger: Arc::clone(ledger), id, on_leak, unsettled: Some(not_sent) };
    match ledger.reserve(&reservation.id, charges, now_ms, lease).await {
        Ok(Hold::Held) => Ok(Reserve::Reserved(reservation)),
        Ok(Hold::OverLimit { charge, retry_after_ms }) => {
            reservation.unsettled = None;
            Ok(Reserve::OverLimit { charge, retry_after_ms })
        }
        Err(error) => {
            // Of these the store says that this attempt holds nothing; a rollback could only hit another attempt's hold.
            if matches!(error, LedgerError::Conflict | LedgerError::Full { .. } | LedgerError::RolledBack) {
                reservation.unsettled = None;
            }
            Err(error)
        }
    }
}

impl<L: Ledger> Reservation<L> {
    /// The id, for the audit record.
    pub const fn id(&self) -> &ReservationId {
        &self.id
    }

    /// Spends the units.
    ///
    /// # Errors
    /// See [`LedgerError`]; the leak callback has been told to commit by id.
    pub async fn commit(self, now_ms: u64) -> Result<Settled, LedgerError> {
        self.end(Settlement::Commit, now_ms).await
    }

    /// Returns the units.
    ///
    /// # Errors
    /// See [`LedgerError`]; the leak callback has been told to roll back by id.
    pub async fn rollback(self, why: RollbackReason, now_ms: u64) -> Result<Settled, LedgerError> {
        self.end(Settlement::Rollback(why), now_ms).await
    }

    /// Gives up ownership to the response path, which may run in another process. If nobody comes for it, the lease ends and
    /// the units count as spent; until then it takes up one of `reservations_max`.
    pub fn into_ticket(mut self) -> Ticket {
        self.unsettled = None;
        Ticket(self.id.clone())
    }

    async fn end(mut self, how: Settlement, now_ms: u64) -> Result<Settled, LedgerError> {
        self.unsettled = Some(how);
        let settled = self.ledger.settle(&self.id, how, now_ms).await?;
        self.unsettled = None;
        Ok(settled)
    }
}

impl<L: Ledger> Drop for Reservation<L> {
    fn drop(&mut self) {
        if let Some(how) = self.unsettled {
            (self.on_leak)(&self.id, how);
        }
    }
}

/// Names an open reservation for whoever sees the response. Never put into a header that a client could send.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an open reservation counts as spent unless the response path settles it"]
pub struct Ticket(ReservationId);

impl Ticket {
    /// The id to settle by.
    #[must_use]
    pub fn into_id(self) -> ReservationId {
        self.0
    }
}
