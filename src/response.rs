//! The response phase: which responses are looked at, by what they are judged, and what is recorded of them.
//!
//! Owns everything between Envoy's messages (`envoy/process.rs`) and the judgment itself (`core/response.rs`): the ticket that
//! a Check puts on its answer, the policy and the caller that it names, the bounds on all responses together, and the one
//! record at the end of each. Whatever cannot be judged is withheld.

pub mod need;
pub mod pins;
mod session;
pub mod ticket;
mod withheld;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mcp_authz_core::{
    grant::GrantState,
    mask::MaskKey,
    mcp::Group,
    policy::Policy,
    principal::Principal,
    response::{Asked, Concern, Job, Limits},
};

use tokio::sync::Semaphore;

pub use self::{
    need::Recording,
    pins::{NoPins, PinStore, PinsError},
    session::{Chunk, Opened, Session},
    ticket::{Ticket, TicketError},
    withheld::Replacement,
};

use crate::{
    clock::Clock,
    quota::Keys,
    snapshot::Snapshot,
    state::State,
    telemetry::{
        audit::AuditSink,
        metrics::{Metrics, WithheldReason},
        seldom::Seldom,
        trace::Tracer,
    },
};

/// Tickets that are older say nothing any more, ms: longer than any call runs.
const AGE_MAX_MS: u64 = 7 * 86_400_000;

/// Bounds and switches of the response phase, from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of which responses there is a record although no policy asks for one.
    pub recording: Recording,
    /// Bounds on one response.
    pub limits: Limits,
    /// Bytes that are held back of all responses together.
    pub memory_bytes_max: usize,
    /// Time for the pins to be read or written, as long as Envoy waits for an answer.
    pub patience: Duration,
}

impl Default for Settings {
    /// As the configuration has them where it says nothing.
    fn default() -> Self {
        Self {
            recording: Recording::Calls,
            limits: Limits { bytes_max: 4_194_304, depth_max: 128, nodes_max: 1_000_000, list_ttl_max_ms: 60_000 },
            memory_bytes_max: 268_435_456,
            patience: Duration::from_millis(980),
        }
    }
}

/// What every response is judged with.
pub struct Responses {
    state: Arc<State>,
    /// The keys of the ledger, which may change while it is connected anew.
    keys: Box<dyn Fn() -> Arc<Keys> + Send + Sync>,
    pins: Arc<dyn PinStore>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    audit: Arc<AuditSink>,
    held: Held,
    /// Places for large pieces. What reading one takes is a multiple of its bytes, so only so many are read at once.
    judging: Arc<Semaphore>,
    warnings: Seldom,
    tracer: Tracer,
}

impl fmt::Debug for Responses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responses").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Responses {
    /// Puts the parts together; nothing runs yet.
    pub fn new(
        state: Arc<State>,
        keys: impl Fn() -> Arc<Keys> + Send + Sync + 'static,
        pins: Arc<dyn PinStore>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        audit: Arc<AuditSink>,
    ) -> Self {
        let judging = Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));
        let warnings = Seldom::new();
        let (held, tracer) = (Held::default(), Tracer::off());
        Self { state, keys: Box::new(keys), pins, clock, metrics, audit, held, judging, warnings, tracer }
    }

    /// With a record of each response that is looked at.
    #[must_use]
    pub fn with_tracer(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Reads the ticket and finds what it names.
    async fn job(&self, ticket: &Ticket, settings: &Settings) -> Result<Job, WithheldReason> {
        if self.clock.now_ms().saturating_sub(ticket.issued_ms) > AGE_MAX_MS {
            return Err(WithheldReason::Ticket);
        }
        let Parties { policy, who, has_pins } = self.parties(ticket)?;
        // What is only recorded passes whatever became of the store.
        let pins = if Concern::of(&policy, &ticket.asked, has_pins).lists && has_pins {
            self.book(ticket, settings.patience).await?
        } else {
            None
        };
        Ok(Job {
            policy,
            who,
            server: Arc::clone(&ticket.server),
            asked: ticket.asked.clone(),
            era: ticket.era,
            id: ticket.id.clone(),
            pins,
            key: MaskKey(Arc::new((self.keys)().mask_key())),
            hashes: matches!(ticket.asked, Asked::Call(_)) || settings.recording == Recording::All,
            limits: settings.limits,
        })
    }

    /// The policy that decided, and caller and server as they are now.
    fn parties(&self, ticket: &Ticket) -> Result<Parties, WithheldReason> {
        let snapshot = self.state.snapshot();
        let grant = snapshot.grant(&ticket.grant).ok_or(WithheldReason::Grant)?;
        // One that has merely expired meanwhile had not when the call was let go.
        if grant.state(self.clock.now_ms()) == GrantState::Revoked {
            return Err(WithheldReason::Grant);
        }
        let who = grant.principal().clone();
        let policy = self.policy(&snapshot, ticket, &who).ok_or(WithheldReason::Policy)?;
        let has_pins = match (snapshot.server(&ticket.server), &ticket.asked) {
            (Some(server), _) => server.server.tools().is_some(),
            // The result of a call has nothing to do with definitions.
            (None, Asked::Call(_)) => false,
            // Of a server that is in no file any more nobody knows whether its tools are to be compared with anything.
            (None, Asked::Request(_) | Asked::Stream) => return Err(WithheldReason::Policy),
        };
        Ok(Parties { policy, who, has_pins })
    }

    fn policy(&self, snapshot: &Snapshot, ticket: &Ticket, who: &Principal) -> Option<Arc<Policy>> {
        let now = snapshot.policy(&ticket.policy);
        let is_it = |policy: &&Arc<Policy>| policy.digest().prefix() == ticket.policy_digest;
        if let Some(policy) = now.filter(is_it) {
            return Some(Arc::clone(policy));
        }
        let replaced = self.state.replaced();
        if let Some(policy) = replaced.iter().find(|policy| *policy.id() == ticket.policy && is_it(policy)) {
            return Some(Arc::clone(policy));
        }
        // Replaced too long ago, or decided by another replica. The one in force judges, unless it would not have let the
        // request go at all: then its rules for the result say nothing.
        let shows = |policy: &&Arc<Policy>| match &ticket.asked {
            Asked::Call(tool) => policy.is_visible(who, tool),
            Asked::Request(_) | Asked::Stream => true,
        };
        now.filter(shows).map(Arc::clone)
    }

    async fn book(
        &self,
        ticket: &Ticket,
        patience: Duration,
    ) -> Result<Option<mcp_authz_core::pins::View>, WithheldReason> {
        let is_list = match &ticket.asked {
            Asked::Call(_) => false,
            Asked::Request(method) => method.group() == Group::List,
            Asked::Stream => true,
        };
        let book = if is_list { self.pins.book(&ticket.server) } else { self.pins.last(&ticket.server) };
        match tokio::time::timeout(patience, book).await {
            Ok(Ok(book)) => Ok(book),
            Ok(Err(error)) => {
                if self.may_warn() {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "The pins of a server cannot be read; its responses are withheld.");
                }
                Err(WithheldReason::Pins)
            }
            Err(_) => Err(WithheldReason::Pins),
        }
    }

    /// Counts a response that left although a decision asked to look at it.
    pub fn unseen(&self) {
        self.metrics.response_unseen();
        if self.may_warn() {
            tracing::error!(
                "A response was sent to its client although the decision asked to look at it, and nobody did: nothing of it was hidden, masked or recorded. Does Envoy have the ext_proc filter of deploy/envoy.yaml, with `failure_mode_allow: false`, and with its namespaces forwarded and received?"
            );
        }
    }

    /// Whether the log has room for another warning: what goes wrong with one response goes wrong with many.
    fn may_warn(&self) -> bool {
        self.warnings.is_due()
    }
}

/// Those whom a ticket names.
struct Parties {
    policy: Arc<Policy>,
    who: Principal,
    has_pins: bool,
}

/// Bytes that are held back of all responses.
#[derive(Clone, Debug, Default)]
struct Held(Arc<AtomicUsize>);

impl Held {
    /// Changes the share of one response; gives the sum.
    fn exchange(&self, before: usize, after: usize) -> usize {
        if after >= before {
            let more = after.saturating_sub(before);
            self.0.fetch_add(more, Ordering::Relaxed).saturating_add(more)
        } else {
            let less = before.saturating_sub(after);
            self.0.fetch_sub(less, Ordering::Relaxed).saturating_sub(less)
        }
    }
}

#[cfg(test)]
mod tests;
