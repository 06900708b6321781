//! The engine that the settings name.

use std::{sync::Arc, time::Duration};

use mcp_authz_core::ledger::{Finish, Finished, Line, Reply, Standing};
use tokio::time::Instant;

use super::{Booking, Keys, Ledger, LedgerError, embedded::EmbeddedLedger, redis::RedisLedger};

/// Either engine.
#[derive(Debug)]
pub enum AnyLedger {
    /// This process.
    Embedded(EmbeddedLedger),
    /// A Redis that several processes share.
    Redis(RedisLedger),
}

impl Ledger for AnyLedger {
    fn keys(&self) -> Arc<Keys> {
        match self {
            AnyLedger::Embedded(ledger) => ledger.keys(),
            AnyLedger::Redis(ledger) => ledger.keys(),
        }
    }

    fn now_ms(&self) -> u64 {
        match self {
            AnyLedger::Embedded(ledger) => ledger.now_ms(),
            AnyLedger::Redis(ledger) => ledger.now_ms(),
        }
    }

    async fn reserve(&self, booking: &Booking, hold: Duration, deadline: Instant) -> Result<Reply, LedgerError> {
        match self {
            AnyLedger::Embedded(ledger) => ledger.reserve(booking, hold, deadline).await,
            AnyLedger::Redis(ledger) => ledger.reserve(booking, hold, deadline).await,
        }
    }

    async fn finish(&self, booking: &Booking, how: &Finish) -> Result<Finished, LedgerError> {
        match self {
            AnyLedger::Embedded(ledger) => ledger.finish(booking, how).await,
            AnyLedger::Redis(ledger) => ledger.finish(booking, how).await,
        }
    }

    async fn renew(&self, booking: &Booking, hold: Duration) -> Result<bool, LedgerError> {
        match self {
            AnyLedger::Embedded(ledger) => ledger.renew(booking, hold).await,
            AnyLedger::Redis(ledger) => ledger.renew(booking, hold).await,
        }
    }

    async fn peek(&self, lines: &[Line]) -> Result<Vec<Standing>, LedgerError> {
        match self {
            AnyLedger::Embedded(ledger) => ledger.peek(lines).await,
            AnyLedger::Redis(ledger) => ledger.peek(lines).await,
        }
    }

    async fn reset(&self, lines: &[Line]) -> Result<(), LedgerError> {
        match self {
            AnyLedger::Embedded(ledger) => ledger.reset(lines).await,
            AnyLedger::Redis(ledger) => ledger.reset(lines).await,
        }
    }

    async fn accept_loss(&self) -> Result<bool, LedgerError> {
        match self {
            AnyLedger::Embedded(ledger) => ledger.accept_loss().await,
            // By its full name: the ledger has a method of its own of that name.
            AnyLedger::Redis(ledger) => Ledger::accept_loss(ledger).await,
        }
    }

    fn admitted_unmetered(&self, booking: &Arc<Booking>) {
        match self {
            AnyLedger::Embedded(ledger) => ledger.admitted_unmetered(booking),
            AnyLedger::Redis(ledger) => ledger.admitted_unmetered(booking),
        }
    }
}
