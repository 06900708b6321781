//! The ledger in one process: exact, fast and bounded, and with a folder also after a restart.
//!
//! One mutex over the machine, never held over an await. With a folder every change is written to a journal before it is
//! applied; `journal.rs` says what survives what.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use mcp_authz_core::ledger::{
    Attempt, Finish, Finished, Line, Reply, Standing,
    entry::{self, Change},
    machine::{Bounds, Full, Head, Machine, Usage},
};
use tokio::time::Instant;

use super::{Booking, Keys, Ledger, LedgerError, OnLeak, Ticket, random_bytes};
use crate::clock::Clock;

mod frame;
mod journal;
mod keeper;
#[cfg(test)]
mod tests;

pub use journal::JournalError;
use journal::{Folder, Found, Log};
use keeper::{Keeper, Shared};

/// How long entries are kept beyond their time: for clocks that differ. One process has one clock.
const GRACE_MS: u64 = 5_000;
/// How long the end of a reservation is remembered: longer than Envoy can take to send a Check again.
const FINISHED_KEEP_MS: u64 = 10_000;
/// How far the journal may be ahead of the clock and still be believed, ms: a day. Beyond it a clock was wrong.
const AHEAD_MS_MAX: u64 = 86_400_000;
/// Bytes of a log that is closed and made into a snapshot, by default 64 MiB: some 200,000 calls.
pub const LOG_BYTES_MAX: u64 = 64 << 20;

/// Told how many holds ran out unsettled; their units count as spent. Must not block.
pub type OnExpired = Arc<dyn Fn(u64) + Send + Sync>;

/// What an embedded ledger is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds of its memory.
    pub bounds: Bounds,
    /// Where it keeps its journal; without one a restart hands out every quota anew. Made if it is not there, for this user
    /// alone.
    pub folder: Option<PathBuf>,
    /// Length from which on a log is closed and made into a snapshot, bytes; [`LOG_BYTES_MAX`] by default.
    pub log_bytes_max: u64,
}

/// See the module.
pub struct EmbeddedLedger {
    shared: Arc<Shared>,
    keys: Arc<Keys>,
    time: Time,
    on_expired: OnExpired,
    _keeper: Option<Keeper>,
}

/// What the mutex holds.
#[derive(Debug)]
struct Inner {
    machine: Machine,
    log: Option<Log>,
    /// Time of the last operation, µs.
    last_us: u64,
}

/// The clock, and what the journal knows better.
///
/// Time must not go back behind what was written, or windows would open twice. Where the journal is ahead it goes on at half
/// the speed of the clock until that has caught up: nothing stands still, and nothing stays ahead for good.
#[derive(Debug)]
struct Time {
    clock: Arc<dyn Clock>,
    opened_ms: u64,
    journal_ms: u64,
}

impl Time {
    fn now_ms(&self) -> u64 {
        let now_ms = self.clock.now_ms();
        let elapsed_ms = now_ms.saturating_sub(self.opened_ms);
        now_ms.max(self.journal_ms.saturating_add(elapsed_ms / 2))
    }
}

impl fmt::Debug for EmbeddedLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLedger").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl EmbeddedLedger {
    /// An empty ledger that lives as long as the process.
    ///
    /// # Errors
    /// If the operating system has no randomness to give.
    pub fn new(bounds: Bounds, clock: Arc<dyn Clock>, on_expired: OnExpired) -> Result<Self, LedgerError> {
        Ok(Self::in_memory(bounds, clock, on_expired, &random_bytes()?))
    }

    /// A ledger with a journal, if the settings name a folder: it goes on where the last one ended, however that ended.
    ///
    /// A journal that is ahead of the clock by up to a day is believed, and time runs at half its speed until the clock has
    /// caught up. Beyond that a clock was wrong when it was written: everything in it is moved back to now, so that what was
    /// held ends as soon as it would have, and nobody is locked out for longer than one window.
    ///
    /// # Errors
    /// [`JournalError`], whose texts say what to do; the process should not serve without the ledger.
    pub fn open(settings: &Settings, clock: Arc<dyn Clock>, on_expired: OnExpired) -> Result<Self, JournalError> {
        let Some(path) = &settings.folder else {
            let secret = random_bytes().map_err(|_| JournalError::NoRandomness)?;
            return Ok(Self::in_memory(settings.bounds, clock, on_expired, &secret));
        };
        let folder = Folder::lock(path)?;
        let Found { secret, mut machine, mut log, last_us } = folder.recover()?;
        // Those that ran out before the end of the journal were told of then.
        machine.take_expired();
        machine.set_bounds(settings.bounds);
        let io_error = |source| JournalError::Io { file: path.clone(), source };
        let (opened_ms, mut journal_ms) = (clock.now_ms(), last_us / 1_000);
        let ahead_ms = journal_ms.saturating_sub(opened_ms);
        if ahead_ms > AHEAD_MS_MAX {
            tracing::warn!(
                ahead_ms,
                "The quota journal was written under a clock that was far ahead; its times are moved back."
            );
            let nobody = Head { id: "", digest: 0, attempt: Attempt(0), hold_ms: 0, grace_ms: 0 };
            let now_us = opened_ms.saturating_mul(1_000);
            let change = Change::SetBack(ahead_ms);
            log.append(|out| entry::write(out, now_us, change, &nobody, &[])).map_err(io_error)?;
            machine.set_back(ahead_ms);
            journal_ms = opened_ms;
        }
        let inner = Inner { machine, log: Some(log), last_us: journal_ms.saturating_mul(1_000) };
        let shared = Arc::new(Shared::new(inner));
        let keeper = Keeper::start(&shared, folder, settings.log_bytes_max).map_err(io_error)?;
        let time = Time { clock, opened_ms, journal_ms };
        Ok(Self { shared, keys: Arc::new(Keys::derive(&secret)), time, on_expired, _keeper: Some(keeper) })
    }

    fn in_memory(bounds: Bounds, clock: Arc<dyn Clock>, on_expired: OnExpired, secret: &[u8; 32]) -> Self {
        let inner = Inner { machine: Machine::new(bounds), log: None, last_us: 0 };
        let time = Time { clock, opened_ms: 0, journal_ms: 0 };
        let keys = Arc::new(Keys::derive(secret));
        Self { shared: Arc::new(Shared::new(inner)), keys, time, on_expired, _keeper: None }
    }

    /// Entries in use now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.shared.lock().machine.usage()
    }

    /// [`Ledger::reserve`] without the future.
    ///
    /// # Errors
    /// [`LedgerError::Full`], or [`LedgerError::Refused`] if the journal cannot be written; nothing is held.
    pub fn reserve_now(&self, booking: &Booking, hold: Duration) -> Result<Reply, LedgerError> {
        let (head, lines) = (head(booking, hold), &booking.lines);
        self.with(|machine, log, now_us| {
            machine.reserve(&head, lines, now_us, || note(log, now_us, Change::Reserve, &head, lines))
        })
    }

    /// [`Ledger::finish`] without the future.
    ///
    /// # Errors
    /// [`LedgerError::Full`] if the rollback of an unknown id cannot be remembered, or [`LedgerError::Refused`] if the journal
    /// cannot be written; nothing is changed.
    pub fn finish_now(&self, booking: &Booking, how: &Finish) -> Result<Finished, LedgerError> {
        let (head, lines) = (head(booking, Duration::from_millis(FINISHED_KEEP_MS)), &booking.lines);
        self.with(|machine, log, now_us| {
            machine.finish(&head, lines, how, now_us, || note(log, now_us, Change::Finish(how), &head, lines))
        })
    }

    fn with<T>(&self, operation: impl FnOnce(&mut Machine, &mut Option<Log>, u64) -> T) -> T {
        let mut inner = self.shared.lock();
        // Read under the lock: two callers must not overtake each other with the time.
        let now_us = inner.last_us.max(self.time.now_ms().saturating_mul(1_000));
        inner.last_us = now_us;
        let Inner { machine, log, .. } = &mut *inner;
        let before = log.as_ref().map(Log::len);
        let answer = operation(machine, log, now_us);
        let written = log.as_ref().map(Log::len) != before;
        let expired = machine.take_expired();
        drop(inner);
        if written {
            self.shared.written();
        }
        if expired > 0 {
            (self.on_expired)(expired);
        }
        answer
    }
}

impl Ledger for EmbeddedLedger {
    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys)
    }

    fn now_ms(&self) -> u64 {
        self.time.now_ms()
    }

    async fn reserve(&self, booking: &Booking, hold: Duration, _: Instant) -> Result<Reply, LedgerError> {
        self.reserve_now(booking, hold)
    }

    async fn finish(&self, booking: &Booking, how: &Finish) -> Result<Finished, LedgerError> {
        self.finish_now(booking, how)
    }

    async fn renew(&self, booking: &Booking, hold: Duration) -> Result<bool, LedgerError> {
        let (head, lines) = (head(booking, hold), &booking.lines);
        self.with(|machine, log, now_us| {
            machine.renew(&head, lines, now_us, || note(log, now_us, Change::Renew, &head, lines))
        })
    }

    async fn peek(&self, lines: &[Line]) -> Result<Vec<Standing>, LedgerError> {
        Ok(self.with(|machine, _, now_us| machine.peek(lines, now_us)).standings)
    }

    async fn reset(&self, lines: &[Line]) -> Result<(), LedgerError> {
        let nobody = Head { id: "", digest: 0, attempt: Attempt(0), hold_ms: 0, grace_ms: 0 };
        self.with(|machine, log, now_us| machine.reset(lines, || note(log, now_us, Change::Reset, &nobody, lines)))
    }

    async fn accept_loss(&self) -> Result<bool, LedgerError> {
        Ok(false)
    }

    fn admitted_unmetered(&self, _: &Arc<Booking>) {
        // Only a journal that cannot be written brings a call here, and to count it would be to write.
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

/// Writes down what is about to happen.
fn note(
    log: &mut Option<Log>,
    now_us: u64,
    change: Change<'_>,
    head: &Head<'_>,
    lines: &[Line],
) -> Result<(), LedgerError> {
    let Some(log) = log else { return Ok(()) };
    log.append(|out| entry::write(out, now_us, change, head, lines)).map_err(|error| LedgerError::Refused(error.into()))
}

fn head(booking: &Booking, hold: Duration) -> Head<'_> {
    let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
    let (id, digest, attempt) = (booking.id.as_str(), booking.digest, booking.attempt);
    Head { id, digest, attempt, hold_ms, grace_ms: GRACE_MS }
}

impl From<Full> for LedgerError {
    fn from(full: Full) -> Self {
        LedgerError::Full { limit: full.limit }
    }
}
