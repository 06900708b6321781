//! The ledger in one process: exact, fast and bounded.
//!
//! One mutex over the machine, never held over an await.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mcp_authz_core::ledger::{
    Attempt, Finish, Finished, Line, Reply, Standing,
    machine::{Bounds, Full, Head, Machine, Usage},
};
use tokio::time::Instant;

use super::{Booking, Keys, Ledger, LedgerError, OnLeak, Ticket, random_bytes};
use crate::clock::Clock;

/// How long entries are kept beyond their time: for clocks that differ. One process has one clock.
const GRACE_MS: u64 = 5_000;
/// How long the end of a reservation is remembered: longer than Envoy can take to send a Check again.
const FINISHED_KEEP_MS: u64 = 10_000;

/// Told how many holds ran out unsettled; their units count as spent. Must not block.
pub type OnExpired = Arc<dyn Fn(u64) + Send + Sync>;

/// See the module.
pub struct EmbeddedLedger {
    machine: Mutex<Machine>,
    keys: Arc<Keys>,
    clock: Arc<dyn Clock>,
    on_expired: OnExpired,
}

impl fmt::Debug for EmbeddedLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLedger").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl EmbeddedLedger {
    /// An empty ledger.
    ///
    /// # Errors
    /// If the operating system has no randomness to give.
    pub fn new(bounds: Bounds, clock: Arc<dyn Clock>, on_expired: OnExpired) -> Result<Self, LedgerError> {
        let keys = Arc::new(Keys::derive(&random_bytes()?));
        Ok(Self { machine: Mutex::new(Machine::new(bounds)), keys, clock, on_expired })
    }

    /// Entries in use now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.lock().usage()
    }

    /// [`Ledger::finish`] without the future.
    ///
    /// # Errors
    /// [`LedgerError::Full`] if the rollback of an unknown id cannot be remembered.
    pub fn finish_now(&self, booking: &Booking, how: &Finish) -> Result<Finished, LedgerError> {
        let finished = self.with(|machine, now_us| {
            machine.finish(&head(booking, FINISHED_KEEP_MS), &booking.lines, how, now_us, || Ok::<_, Full>(()))
        });
        finished.map_err(full)
    }

    fn with<T>(&self, operation: impl FnOnce(&mut Machine, u64) -> T) -> T {
        let now_us = self.clock.now_ms().saturating_mul(1_000);
        let mut machine = self.lock();
        let answer = operation(&mut machine, now_us);
        let expired = machine.take_expired();
        drop(machine);
        if expired > 0 {
            (self.on_expired)(expired);
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // A panic under the lock can only leave units spent: they are added after the record, and returned after it is marked.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger for EmbeddedLedger {
    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys)
    }

    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    async fn reserve(&self, booking: &Booking, hold: Duration, _: Instant) -> Result<Reply, LedgerError> {
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        self.with(|machine, now_us| {
            machine.reserve(&head(booking, hold_ms), &booking.lines, now_us, || Ok::<_, Full>(()))
        })
        .map_err(full)
    }

    async fn finish(&self, booking: &Booking, how: &Finish) -> Result<Finished, LedgerError> {
        self.finish_now(booking, how)
    }

    async fn renew(&self, booking: &Booking, hold: Duration) -> Result<bool, LedgerError> {
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        self.with(|machine, now_us| machine.renew(&head(booking, hold_ms), &booking.lines, now_us, || Ok(())))
    }

    async fn peek(&self, lines: &[Line]) -> Result<Vec<Standing>, LedgerError> {
        Ok(self.with(|machine, now_us| machine.peek(lines, now_us)).standings)
    }

    async fn reset(&self, lines: &[Line]) -> Result<(), LedgerError> {
        self.with(|machine, _| machine.reset(lines, || Ok(())))
    }

    async fn accept_loss(&self) -> Result<bool, LedgerError> {
        Ok(false)
    }

    fn admitted_unmetered(&self, _: &Arc<Booking>) {
        debug_assert!(false, "this ledger is never out of reach");
    }
}

/// The leak callback for this ledger: settles at once, since that takes a microsecond and cannot wait for anything but the
/// ledger's own mutex. `report` is told what came of it and must not block.
pub fn settle_leaks(
    ledger: Arc<EmbeddedLedger>,
    report: impl Fn(&Ticket, Result<Finished, LedgerError>) + Send + Sync + 'static,
) -> OnLeak {
    Arc::new(move |ticket, how| report(&ticket, ledger.finish_now(&ticket.booking, &how)))
}

fn head(booking: &Booking, hold_ms: u64) -> Head<'_> {
    let (id, digest, attempt): (&str, u64, Attempt) = (booking.id.as_str(), booking.digest, booking.attempt);
    Head { id, digest, attempt, hold_ms, grace_ms: GRACE_MS }
}

fn full(full: Full) -> LedgerError {
    LedgerError::Full { limit: full.limit }
}
