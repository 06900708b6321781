//! Settles reservations by what Envoy's access log says, off the path of every Check.
//!
//! Owns the queue between the log streams and the ledger, and the retries. What has to be done is `core::settle`'s decision.
//! The hold is the charge: whatever is lost here — an entry, the queue, the store — stays spent, and is counted.

use std::{future::Future, sync::Arc, time::Duration};

use mcp_authz_core::{
    audit::Settlement,
    ledger::{Finish, Finished, Span, Speaker},
    quota::Mode,
    settle::{Change, Facts, Fate, Plan, plan},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    clock::Clock,
    quota::{
        Ledger, LedgerError,
        token::{TOKEN_BYTES_MAX, Token, TokenError},
    },
    telemetry::{
        audit::AuditSink,
        metrics::{Label as _, Metrics, QuotaOutcome, SettlementOutcome},
        seldom::Seldom,
        trace::{SettlementFacts, Tracer},
    },
};

/// Entries that may wait. At 500 bytes each, as they are with few counters, that is 4 MiB; more are dropped and counted.
const QUEUE_MAX: usize = 8_192;
/// Calls to the store at once.
const STORE_CALLS_MAX: usize = 64;
/// Longest time for one call to the store.
const STORE_CALL: Duration = Duration::from_secs(2);
/// Longest time that a store is asked again and again.
const STORE_PATIENCE: Duration = Duration::from_secs(15);
/// First and longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Tokens that are older say nothing any more, ms: longer than any call runs.
const AGE_MAX_MS: u64 = 7 * 86_400_000;
/// The log of a store that is gone: metrics and audit have every settlement.
static UNSETTLED: Seldom = Seldom::new();
/// That of tokens that are not ours.
static FORGED: Seldom = Seldom::new();

/// What Envoy says of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It has ended.
    Ended(Facts),
    /// It still runs.
    Running,
}

/// Where entries of the access log are handed in. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Settlements {
    queue: mpsc::Sender<(Box<[u8]>, Seen)>,
    metrics: Metrics,
}

impl Settlements {
    /// Takes one entry; never waits. Where there is no room it is dropped and counted, and its units stay spent.
    pub fn offer(&self, token: &[u8], seen: Seen) {
        // A copy: a slice of the message would keep all of the message in memory.
        if token.len() > TOKEN_BYTES_MAX {
            self.metrics.settlements(SettlementOutcome::Forged, 1);
        } else if self.queue.try_send((Box::from(token), seen)).is_err() {
            self.metrics.settlements(SettlementOutcome::Dropped, 1);
        }
    }

    /// Counts entries that could not be handed in.
    pub fn lost(&self, entries: u64) {
        self.metrics.settlements(SettlementOutcome::Dropped, entries);
    }
}

/// What the settler works with.
#[derive(Debug)]
pub struct Settler<L: Ledger> {
    /// Where reservations are held.
    pub ledger: Arc<L>,
    /// Tells the age of tokens, and dates audit records.
    pub clock: Arc<dyn Clock>,
    /// Counts outcomes.
    pub metrics: Metrics,
    /// Takes a record of each settlement that changes a count or leaves a doubt.
    pub audit: Arc<AuditSink>,
    /// For how long a call that still runs is held further.
    pub hold: Duration,
}

impl<L: Ledger> Settler<L> {
    /// The queue, and the work on it: to be run until the queue is closed, that is until every clone of [`Settlements`] is
    /// gone and what they handed in is done.
    pub fn start(self) -> (Settlements, impl Future<Output = ()> + Send) {
        self.start_traced(Tracer::off())
    }

    /// As [`Settler::start`], with a record of each settlement whose Check was recorded.
    pub fn start_traced(self, tracer: Tracer) -> (Settlements, impl Future<Output = ()> + Send) {
        let (queue, entries) = mpsc::channel(QUEUE_MAX);
        let settlements = Settlements { queue, metrics: self.metrics.clone() };
        (settlements, Arc::new(self).run(entries, tracer))
    }

    async fn run(self: Arc<Self>, mut entries: mpsc::Receiver<(Box<[u8]>, Seen)>, tracer: Tracer) {
        let places = Arc::new(Semaphore::new(STORE_CALLS_MAX));
        let mut calls = JoinSet::new();
        let mut warned_of_unseen = false;
        while let Some((token, seen)) = entries.recv().await {
            while calls.try_join_next().is_some() {}
            let token = match Token::read(&token, &self.ledger.keys()) {
                Ok(token) => token,
                Err(error) => {
                    self.refuse(error);
                    continue;
                }
            };
            if let Seen::Ended(facts) = &seen {
                self.look_for_answer(&token, facts, &mut warned_of_unseen);
            }
            let record = Record { tracer: tracer.clone(), begun: Instant::now() };
            let Some(work) = self.work(token, seen, &record) else { continue };
            // No place, no next entry: the queue fills up and says so.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let me = Arc::clone(&self);
            calls.spawn(async move {
                me.ask(work, &record).await;
                drop(place);
            });
        }
        while calls.join_next().await.is_some() {}
    }

    /// A token that is not ours, or not readable. Its text is written nowhere.
    fn refuse(&self, error: TokenError) {
        self.metrics.settlements(SettlementOutcome::Forged, 1);
        self.record(SettlementOutcome::Forged, None, None);
        if FORGED.is_due() {
            tracing::warn!(
                %error,
                "The access log holds a settle token that is not ours; nothing is given back. Who reaches the gRPC listener?"
            );
        }
    }

    /// What the store has to be asked; `None` if it has not, which is the usual case.
    fn work(&self, token: Token, seen: Seen, record: &Record) -> Option<Work> {
        if self.clock.now_ms().saturating_sub(token.issued_ms) > AGE_MAX_MS {
            self.metrics.settlements(SettlementOutcome::Expired, 1);
            return None;
        }
        let lines = &token.booking.lines;
        let facts = match seen {
            Seen::Ended(facts) => facts,
            Seen::Running => {
                let has_slot = lines.iter().any(|line| matches!(line.span, Span::InFlight { .. }));
                return has_slot.then_some(Work { token, task: Task::Renew });
            }
        };
        let without_change =
            if facts.fate.is_known() { SettlementOutcome::Confirmed } else { SettlementOutcome::Unknown };
        let (how, outcome) = match plan(lines, &token.promises, &token.names, &facts) {
            Plan::Keep => {
                self.report(without_change, &token, &facts);
                record.write(without_change, &token, false);
                return None;
            }
            Plan::RollBack => (Finish::RollBack(Speaker::Stream), SettlementOutcome::Refunded),
            Plan::Settle { actual, change } => {
                let outcome = match change {
                    Change::None => without_change,
                    Change::Refund => SettlementOutcome::Refunded,
                    Change::Surplus => SettlementOutcome::Surplus,
                };
                (Finish::Settle(actual), outcome)
            }
        };
        Some(Work { token, task: Task::Finish { how, outcome, facts } })
    }

    async fn ask(&self, work: Work, record: &Record) {
        let Work { token, task } = work;
        match task {
            // The next entry is the next try.
            Task::Renew => {
                let outcome = match timeout(STORE_CALL, self.ledger.renew(&token.booking, self.hold)).await {
                    Ok(Ok(true)) => SettlementOutcome::Renewed,
                    Ok(Ok(false)) => SettlementOutcome::Expired,
                    Ok(Err(_)) | Err(_) => SettlementOutcome::Failed,
                };
                self.metrics.settlements(outcome, 1);
            }
            Task::Finish { how, outcome, facts } => {
                let outcome = match self.finish(&token, &how).await {
                    Ok(finished) => {
                        let outcome = came_to(finished, outcome);
                        self.count(outcome, finished, &token, &how);
                        outcome
                    }
                    Err(error) => {
                        if UNSETTLED.is_due() {
                            let error = &error as &dyn std::error::Error;
                            tracing::warn!(error, "Reservations could not be settled; their units count as spent.");
                        }
                        SettlementOutcome::Failed
                    }
                };
                self.report(outcome, &token, &facts);
                record.write(outcome, &token, true);
            }
        }
    }

    /// Limits that settle by the body of the answer keep what was held if nobody looked at it. The first time it is said aloud,
    /// because it is most likely an Envoy that does not show us answers.
    fn look_for_answer(&self, token: &Token, facts: &Facts, warned: &mut bool) {
        if facts.came.is_some() || !matches!(facts.fate, Fate::Answered(..500)) || !token.needs_body() {
            return;
        }
        self.metrics.answer_unseen();
        if !std::mem::replace(warned, true) {
            tracing::warn!(
                policy = &*token.policy,
                "A call whose limits settle by the body of the answer ended without it; what was held for it stays. Does Envoy show answers to the ext_proc service, and is the namespace mcp_authz received? Said once; mcp_authz_answers_unseen_total counts."
            );
        }
    }

    /// Asks until there is an answer, or patience is over. Asking twice changes nothing twice.
    async fn finish(&self, token: &Token, how: &Finish) -> Result<Finished, LedgerError> {
        let begun = Instant::now();
        let (mut pause, longest) = PAUSES;
        loop {
            let error = match timeout(STORE_CALL, self.ledger.finish(&token.booking, how)).await {
                Ok(Ok(Finished::NodeChanged)) => LedgerError::Refused("another node answers".into()),
                Ok(Ok(finished)) => return Ok(finished),
                Ok(Err(error)) if error.is_outage() => error,
                Ok(Err(error)) => return Err(error),
                Err(elapsed) => LedgerError::Unknown(elapsed.into()),
            };
            if begun.elapsed().saturating_add(pause) > STORE_PATIENCE {
                return Err(error);
            }
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(longest);
        }
    }

    /// What changed, by counter.
    fn count(&self, outcome: SettlementOutcome, finished: Finished, token: &Token, how: &Finish) {
        // Of a hold that has run out nothing comes back, also beside a surplus.
        let refers = matches!(finished, Finished::Now { .. });
        if !matches!(outcome, SettlementOutcome::Refunded | SettlementOutcome::Surplus) {
            return;
        }
        for (index, (line, name)) in token.booking.lines.iter().zip(&token.names).enumerate() {
            let actual = match how {
                Finish::RollBack(_) => 0,
                Finish::Settle(actual) => actual.get(index).copied().unwrap_or(line.amount),
            };
            let keeps =
                matches!(line.mode, Mode::Gate) || (matches!(how, Finish::RollBack(_)) && line.mode == Mode::Attempt);
            if actual < line.amount && !keeps && refers {
                let back = line.amount.saturating_sub(actual);
                self.metrics.quota(&token.policy, name, QuotaOutcome::Refunded, back);
            } else if actual > line.amount && !keeps {
                let more = actual.saturating_sub(line.amount);
                self.metrics.quota(&token.policy, name, QuotaOutcome::Held, more);
            }
        }
    }

    fn report(&self, outcome: SettlementOutcome, token: &Token, facts: &Facts) {
        self.metrics.settlements(outcome, 1);
        let is_told = match outcome {
            SettlementOutcome::Confirmed
            | SettlementOutcome::Dropped
            | SettlementOutcome::Renewed
            | SettlementOutcome::Repeated => false,
            SettlementOutcome::Expired
            | SettlementOutcome::Failed
            | SettlementOutcome::Forged
            | SettlementOutcome::Refunded
            | SettlementOutcome::Surplus
            | SettlementOutcome::Unknown => true,
        };
        if is_told {
            self.record(outcome, Some(token), Some(facts));
        }
    }

    fn record(&self, outcome: SettlementOutcome, token: Option<&Token>, facts: Option<&Facts>) {
        let record = Settlement {
            time_ms: self.clock.now_ms(),
            outcome: outcome.name(),
            facts,
            reservation: token.map(|token| token.booking.id.as_str()),
            policy: token.map(|token| token.policy_digest),
            issued_ms: token.map(|token| token.issued_ms),
            lines: token.map_or(&[], |token| &token.booking.lines),
            trace: token.and_then(|token| token.trace),
        };
        let mut line = String::with_capacity(384);
        record.write(&mut line);
        // The call is over: there is nothing left to deny, and the sink counts what it loses.
        drop(self.audit.append(line.as_bytes()));
    }
}

/// When a settlement began, and where its span goes.
struct Record {
    tracer: Tracer,
    begun: Instant,
}

impl Record {
    fn write(&self, outcome: SettlementOutcome, token: &Token, is_asked: bool) {
        let facts = SettlementFacts {
            outcome: outcome.name(),
            is_failure: outcome == SettlementOutcome::Failed,
            is_asked,
            reservation: token.booking.id.as_str(),
            policy: &token.policy,
        };
        self.tracer.settlement(token.trace, self.begun, &facts);
    }
}

/// What the store's answer makes of the outcome that was asked for.
const fn came_to(finished: Finished, asked: SettlementOutcome) -> SettlementOutcome {
    match (finished, asked) {
        (Finished::Before { .. }, _) => SettlementOutcome::Repeated,
        (Finished::Now { .. }, asked) => asked,
        // The hold has run out. Slots are given up and a surplus is charged all the same; a refund has nothing to refer to.
        (Finished::Unknown, SettlementOutcome::Refunded) => SettlementOutcome::Expired,
        (Finished::Unknown, asked) => asked,
        (Finished::Conflict | Finished::EpochChanged | Finished::NodeChanged | Finished::Shared, _) => {
            SettlementOutcome::Expired
        }
    }
}

/// What the store is asked about one reservation.
struct Work {
    token: Token,
    task: Task,
}

enum Task {
    Finish { how: Finish, outcome: SettlementOutcome, facts: Facts },
    Renew,
}

#[cfg(test)]
mod tests;
