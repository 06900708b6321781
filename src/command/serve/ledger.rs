//! Opens the engine of quotas that the settings name, and ends what is left of it at the end.

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mcp_authz_core::{
    ledger::{Finished, machine::Bounds},
    quota::OnUnavailable,
};
use tokio::time::Instant;

use super::{chain, fail};
use crate::{
    admin::Readiness,
    clock::Clock,
    config::{Config, Engine},
    quota::{
        OnLeak,
        any::AnyLedger,
        embedded::{EmbeddedLedger, JournalError, LOG_BYTES_MAX, Settings as EmbeddedSettings},
        leaks::{Leak, LeakSettler, OnSettled},
        redis::{Event, Observer, Outage, RedisLedger, Settings},
    },
    snapshot::Snapshot,
    telemetry::{
        metrics::{ErrorKind, LedgerEvent, LedgerOutage, Metrics, QuotaOutcome, ReservationOutcome},
        seldom::Seldom,
    },
};

/// The engine in use, the callback for what is dropped, whether the store was reached, and who ends what was dropped.
pub(super) type Opened = (Arc<AnyLedger>, OnLeak, Reached, LeakSettler);

/// Whether the store was ever in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Reached(Arc<AtomicBool>);

impl Reached {
    /// A process that has not reached its store once is probably set up wrongly: it should not take the place of one that
    /// works. After that an outage is everybody's: taking every replica out would turn readable denials, and calls without
    /// limits, into broken connections.
    pub(super) fn readiness(&self, snapshot: &Snapshot) -> Readiness {
        if self.0.load(Ordering::Relaxed) {
            return Readiness::Ready;
        }
        let mut limits = snapshot.policies().flat_map(|policy| policy.terms()).peekable();
        if limits.peek().is_some() && limits.all(|terms| terms.on_unavailable == OnUnavailable::Deny) {
            return Readiness::NotReady("the quota store has not been reached yet".into());
        }
        Readiness::Ready
    }
}

/// Opens it.
pub(super) async fn open(config: &Config, clock: &Arc<dyn Clock>, metrics: &Metrics) -> Result<Opened, ExitCode> {
    let reached = Reached::default();
    let ledger = match &config.ledger.engine {
        Engine::Embedded { folder } => {
            let ledger = embedded(config, folder.as_deref(), clock, metrics)?;
            reached.0.store(true, Ordering::Relaxed);
            metrics.set_ledger_connected(true);
            AnyLedger::Embedded(ledger)
        }
        Engine::Redis(settings) => AnyLedger::Redis(redis(settings, clock, metrics, &reached).await?),
    };
    let ledger = Arc::new(ledger);
    let hold = config.timeouts.lease;
    let (on_leak, settler) =
        LeakSettler::start(Arc::clone(&ledger), config.ledger.leaks_max, hold, on_settled(metrics.clone()));
    Ok((ledger, on_leak, reached, settler))
}

/// Ends what was dropped, then the engine; for `drain` at most.
pub(super) async fn close(ledger: &AnyLedger, settler: LeakSettler, drain: Duration) {
    let now = Instant::now();
    let until = now.checked_add(drain).unwrap_or(now);
    if !settler.close(until).await {
        tracing::warn!("Some reservations were not given back in time; their units stay spent.");
    }
    if let AnyLedger::Redis(ledger) = ledger {
        ledger.close(until).await;
    }
}

fn embedded(
    config: &Config,
    folder: Option<&Path>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<EmbeddedLedger, ExitCode> {
    if folder.is_none() {
        tracing::warn!("Counters are kept in memory only: every restart hands out every quota anew.");
    }
    let counted = metrics.clone();
    let expired = Arc::new(move |n| counted.reservations(ReservationOutcome::Expired, n));
    let settings = EmbeddedSettings {
        bounds: Bounds { counters_max: config.limits.counters_max, reservations_max: config.limits.reservations_max },
        folder: folder.map(Path::to_owned),
        log_bytes_max: LOG_BYTES_MAX,
    };
    EmbeddedLedger::open(&settings, Arc::clone(clock), expired).map_err(|error| {
        if matches!(error, JournalError::Io { .. }) {
            tracing::error!(
                "Set `ledger.embedded.folder` to a folder that this user may write to, or to `none` to forget every counter at a \
                 restart."
            );
        }
        fail("the folder of counters", &error)
    })
}

async fn redis(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    reached: &Reached,
) -> Result<RedisLedger, ExitCode> {
    let observer = observer(metrics.clone(), reached.clone());
    let ledger = RedisLedger::connect(settings.clone(), Arc::clone(clock), observer).await;
    let ledger = ledger.map_err(|error| fail("the ledger", &error))?;
    if !ledger.is_connected() {
        tracing::warn!("The quota store cannot be reached yet: limits deny until it can, unless they say otherwise.");
    }
    Ok(ledger)
}

fn observer(metrics: Metrics, reached: Reached) -> Observer {
    Arc::new(move |event| match event {
        Event::Answered(elapsed) => metrics.ledger_answered(elapsed),
        Event::BreakerOpened => metrics.ledger_event(LedgerEvent::BreakerOpened, 1),
        Event::Connected => {
            reached.0.store(true, Ordering::Relaxed);
            metrics.set_ledger_connected(true);
        }
        Event::CountsLost => metrics.ledger_event(LedgerEvent::CountsLost, 1),
        Event::Disconnected => metrics.set_ledger_connected(false),
        Event::Outage(outage) => metrics.ledger_outage(match outage {
            Outage::Connection => LedgerOutage::Connection,
            Outage::Malformed => LedgerOutage::Malformed,
            Outage::Moved => LedgerOutage::Moved,
            Outage::NotDurable => LedgerOutage::NotDurable,
            Outage::Refused => LedgerOutage::Refused,
            Outage::Timeout => LedgerOutage::Timeout,
        }),
        Event::Uncounted(n) => metrics.ledger_event(LedgerEvent::Uncounted, n),
        Event::Unsafe => metrics.ledger_event(LedgerEvent::Unsafe, 1),
    })
}

fn on_settled(metrics: Metrics) -> OnSettled {
    let warnings = Seldom::new();
    Arc::new(move |ticket, leak| {
        metrics.reservations(ReservationOutcome::Leaked, 1);
        match leak {
            Leak::Ended(Finished::Now { .. }) => {
                metrics.reservations(ReservationOutcome::RolledBack, 1);
                metrics.quota_of(ticket, QuotaOutcome::Refunded);
            }
            Leak::Ended(_) => {}
            Leak::GivenUp(error) => {
                metrics.reservations(ReservationOutcome::LeftSpent, 1);
                metrics.error(ErrorKind::Ledger);
                if warnings.is_due() {
                    tracing::warn!(
                        error = chain(&error),
                        "Reservations could not be given back; their units stay spent."
                    );
                }
            }
            Leak::TooMany => {
                metrics.reservations(ReservationOutcome::LeftSpent, 1);
                metrics.error(ErrorKind::Ledger);
            }
        }
    })
}
