//! What an operator may ask of counters and do to them: where they stand, and back to zero.
//!
//! Finds counters by the names that policies and grants give them, through the same snapshot that decides, so that a name shown
//! here is the counter that a call would touch. Every change is in the audit before it is made.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, sync::Arc};

use mcp_authz_core::{
    audit::{Act, CounterName, OperatorRecord},
    grant::Grant,
    ledger::{Line, Standing, ask::line},
    policy::{Listed, Policy},
    quota::{LINES_MAX, Measure, Mode},
};
use serde_json::{Value, json};

use super::{Ledger, LedgerError};
use crate::{
    clock::{Clock, rfc3339},
    snapshot::Snapshot,
    state::State,
    telemetry::audit::AuditSink,
};

/// Counters in one answer.
pub const SHOWN_MAX: usize = 1_000;
/// Counters that one reset takes: as many as fit into one audit record.
pub const RESET_MAX: usize = 100;

/// Which counters are meant. An empty selection is refused: it would name every counter of every grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Label of a grant.
    pub grant: Option<String>,
    /// Subject of grants.
    pub identity: Option<String>,
    /// Id of a policy.
    pub policy: Option<String>,
    /// Name of a counter.
    pub counter: Option<String>,
    /// The tool whose calls are counted.
    pub tool: Option<String>,
    /// For a reset: the revision of the configuration that the operator was shown.
    pub revision: Option<String>,
}

/// Why an operator gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The act could not be recorded, and the settings say that then nothing is done.
    #[error("the audit record cannot be kept, so nothing was done")]
    Audit,
    /// The configuration changed between the question and the act.
    #[error("the configuration was reloaded meanwhile; look again at what you want to reset")]
    Changed,
    /// Not enough is named.
    #[error("{0}")]
    Incomplete(&'static str),
    /// The store.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// The selection names more than one answer may hold.
    #[error("more than {0} counters; name a grant, a policy, a counter or a tool")]
    TooMany(usize),
    /// The names lead to nothing.
    #[error("{0}")]
    Unknown(&'static str),
}

/// An answer that is being made.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Value, DeskError>> + Send + 'a>>;

/// What the admin port offers about counters. The answers hold names of grants, policies, counters and tools, and numbers; no
/// subject.
pub trait Desk: Send + Sync + 'static {
    /// Takes it that counts were lost, after it is recorded; tells whether any were.
    fn accept_loss(&self) -> Answer<'_>;
    /// Where the counters stand.
    fn show<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a>;
    /// Sets counters to zero, after it is recorded; tells where they stood before.
    fn reset<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a>;
}

/// The desk over one ledger.
pub struct LedgerDesk<L: Ledger> {
    ledger: Arc<L>,
    state: Arc<State>,
    audit: Arc<AuditSink>,
    clock: Arc<dyn Clock>,
}

impl<L: Ledger> fmt::Debug for LedgerDesk<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerDesk").finish_non_exhaustive()
    }
}

/// One counter under one limit, and the grants of the selection that share it.
struct Found {
    listed: Listed,
    policy_digest: Arc<str>,
    line: Line,
    grants: Vec<Arc<str>>,
}

impl<L: Ledger> LedgerDesk<L> {
    /// A desk over the ledger that decides.
    pub fn new(ledger: Arc<L>, state: Arc<State>, audit: Arc<AuditSink>, clock: Arc<dyn Clock>) -> Self {
        Self { ledger, state, audit, clock }
    }

    fn find(&self, snapshot: &Snapshot, wanted: &Wanted) -> Result<Vec<Found>, DeskError> {
        let (keys, now_ms) = (self.ledger.keys(), self.ledger.now_ms());
        let mut found: BTreeMap<Order, Found> = BTreeMap::new();
        for grant in grants(snapshot, wanted)? {
            for (policy, servers) in policies(snapshot, grant) {
                if wanted.policy.as_deref().is_some_and(|id| id != &**policy.id()) {
                    continue;
                }
                for listed in policy.counters(grant.principal(), &servers) {
                    if !wanted.fits(&listed) {
                        continue;
                    }
                    let line = line(&listed.charge, &*keys, now_ms).map_err(LedgerError::from)?;
                    // Whoever looks after a loss wants to see what is left, not to be denied.
                    let line = Line { strict: false, ..line };
                    let entry = found.entry(order(&listed, &line)).or_insert_with(|| Found {
                        listed,
                        policy_digest: policy.digest().as_str().into(),
                        line,
                        grants: Vec::new(),
                    });
                    entry.grants.push(Arc::clone(grant.label()));
                    if found.len() > SHOWN_MAX {
                        return Err(DeskError::TooMany(SHOWN_MAX));
                    }
                }
            }
        }
        if found.is_empty() && wanted.names_counters() {
            return Err(DeskError::Unknown("no policy of the grant has such a counter"));
        }
        Ok(found.into_values().collect())
    }

    /// Where each stands, in their order.
    async fn standings(&self, found: &[Found]) -> Result<Vec<Standing>, LedgerError> {
        let mut standings = Vec::with_capacity(found.len());
        let mut rest = found;
        while !rest.is_empty() {
            // A store is asked for a bounded number of counters at a time, and for each of them once.
            let repeated =
                |(at, one): (usize, &Found)| rest.iter().take(at).any(|before| before.line.counter == one.line.counter);
            let end = rest.iter().enumerate().take(LINES_MAX).position(repeated);
            let (now, later) = rest.split_at(end.unwrap_or(LINES_MAX).min(rest.len()));
            let lines: Vec<Line> = now.iter().map(|found| found.line.clone()).collect();
            standings.extend(self.ledger.peek(&lines).await?);
            rest = later;
        }
        Ok(standings)
    }

    async fn rows(&self, found: &[Found]) -> Result<Vec<Value>, LedgerError> {
        let (standings, now_ms) = (self.standings(found).await?, self.ledger.now_ms());
        Ok(found.iter().zip(standings).map(|(found, standing)| row(found, standing, now_ms)).collect())
    }

    fn record(&self, act: Act, wanted: &Wanted, found: &[Found]) -> Result<(), DeskError> {
        let counters: Vec<CounterName<'_>> = found.iter().map(name).collect();
        let record =
            OperatorRecord { time_ms: self.clock.now_ms(), act, grant: wanted.grant.as_deref(), counters: &counters };
        let mut text = String::with_capacity(256);
        record.write(&mut text);
        self.audit.append(text.as_bytes()).map_err(|_| DeskError::Audit)
    }

    async fn accept_loss_now(&self) -> Result<Value, DeskError> {
        self.record(Act::AcceptLoss, &Wanted::default(), &[])?;
        let accepted = self.ledger.accept_loss().await?;
        tracing::info!(accepted, "An operator accepted the loss of counts.");
        Ok(json!({ "time": rfc3339(self.ledger.now_ms()), "accepted": accepted }))
    }

    async fn show_now(&self, wanted: &Wanted) -> Result<Value, DeskError> {
        let snapshot = Arc::clone(&self.state.snapshot());
        let found = self.find(&snapshot, wanted)?;
        let rows = self.rows(&found).await?;
        Ok(json!({ "revision": snapshot.revision(), "time": rfc3339(self.ledger.now_ms()), "counters": rows }))
    }

    async fn reset_now(&self, wanted: &Wanted) -> Result<Value, DeskError> {
        if wanted.grant.is_none() || wanted.counter.is_none() {
            return Err(DeskError::Incomplete("a reset names a grant and a counter"));
        }
        let snapshot = Arc::clone(&self.state.snapshot());
        if wanted.revision.as_ref().is_some_and(|revision| revision != snapshot.revision()) {
            return Err(DeskError::Changed);
        }
        let found = self.find(&snapshot, wanted)?;
        if found.len() > RESET_MAX {
            return Err(DeskError::TooMany(RESET_MAX));
        }
        let rows = self.rows(&found).await?;
        self.record(Act::Reset, wanted, &found)?;
        let mut lines: Vec<Line> = Vec::with_capacity(found.len());
        for found in &found {
            if !lines.iter().any(|line| line.counter == found.line.counter) {
                lines.push(found.line.clone());
            }
        }
        for lines in lines.chunks(LINES_MAX) {
            if let Err(error) = self.ledger.reset(lines).await {
                tracing::warn!(%error, "An operator's reset of quotas failed, at least in part.");
                self.record(Act::ResetFailed, wanted, &found)?;
                return Err(error.into());
            }
        }
        for name in found.iter().map(name) {
            tracing::info!(policy = name.policy, counter = name.counter, "An operator reset a quota.");
        }
        Ok(json!({ "revision": snapshot.revision(), "time": rfc3339(self.ledger.now_ms()), "reset": rows }))
    }
}

impl<L: Ledger> Desk for LedgerDesk<L> {
    fn accept_loss(&self) -> Answer<'_> {
        Box::pin(self.accept_loss_now())
    }

    fn show<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a> {
        Box::pin(self.show_now(wanted))
    }

    fn reset<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a> {
        Box::pin(self.reset_now(wanted))
    }
}

impl Wanted {
    /// Whether an answer without counters means that a name is wrong.
    fn names_counters(&self) -> bool {
        self.policy.is_some() || self.counter.is_some() || self.tool.is_some()
    }

    fn fits(&self, listed: &Listed) -> bool {
        let is = |wanted: &Option<String>, name: Option<&str>| wanted.is_none() || wanted.as_deref() == name;
        is(&self.counter, Some(&listed.charge.terms.name)) && is(&self.tool, listed.tool.as_deref())
    }
}

/// The grants that are meant, by label.
fn grants<'s>(snapshot: &'s Snapshot, wanted: &Wanted) -> Result<Vec<&'s Grant>, DeskError> {
    let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    let fits = |grant: &&Grant| is(&wanted.grant, grant.label()) && is(&wanted.identity, &grant.principal().subject);
    let mut grants: Vec<&Grant> = match (&wanted.grant, &wanted.identity) {
        (None, None) => return Err(DeskError::Incomplete("name a grant or an identity")),
        _ => snapshot.grants().filter(fits).collect(),
    };
    if grants.is_empty() {
        return Err(DeskError::Unknown("no such grant"));
    }
    grants.sort_unstable_by(|a, b| a.label().cmp(b.label()));
    Ok(grants)
}

/// The policies that judge a grant's calls, each with the servers for which it does.
fn policies<'s>(snapshot: &'s Snapshot, grant: &'s Grant) -> Vec<(&'s Arc<Policy>, Vec<&'s str>)> {
    let mut policies: BTreeMap<&str, (&Arc<Policy>, Vec<&str>)> = BTreeMap::new();
    for server in grant.servers() {
        let policy = match grant.policy() {
            Some(id) => snapshot.policy(id),
            None => snapshot.server(server).and_then(|bound| bound.policy),
        };
        if let Some(policy) = policy {
            policies.entry(policy.id()).or_insert_with(|| (policy, Vec::new())).1.push(server);
        }
    }
    policies.into_values().collect()
}

/// Order of the answer, and what makes two counters under limits the same.
type Order = (Arc<str>, Arc<str>, Option<Arc<str>>, Option<Arc<str>>, Option<Arc<str>>, u128, char, u64, &'static str);

fn order(listed: &Listed, line: &Line) -> Order {
    let terms = &listed.charge.terms;
    let (tool, server, group) = (listed.tool.clone(), listed.server.clone(), listed.group.clone());
    let (policy, name, mode) = (Arc::clone(&terms.policy), Arc::clone(&terms.name), mode(line.mode));
    (policy, name, tool, server, group, line.counter.0, line.span.letter(), line.max, mode)
}

fn name(found: &Found) -> CounterName<'_> {
    let (listed, terms) = (&found.listed, &found.listed.charge.terms);
    CounterName {
        policy: &terms.policy,
        policy_digest: Some(&found.policy_digest),
        counter: &terms.name,
        window: &terms.window,
        scope: &terms.scope,
        tool: listed.tool.as_deref(),
    }
}

fn row(found: &Found, standing: Standing, now_ms: u64) -> Value {
    let Found { listed, line, grants, .. } = found;
    let terms = &listed.charge.terms;
    // Of a row of equal calls it depends on the next call.
    let known = !matches!(listed.charge.measure, Measure::Streak { .. });
    let resets = standing.reset_ms.filter(|ms| known && standing.used > 0 && *ms > 0);
    json!({
        "policy": &*terms.policy,
        "counter": &*terms.name,
        "window": &*terms.window,
        "scope": &*terms.scope,
        "server": listed.server.as_deref(),
        "tool": listed.tool.as_deref(),
        "group": listed.group.as_deref(),
        "mode": mode(line.mode),
        "grants": grants.iter().map(|label| &**label).collect::<Vec<_>>(),
        "scale": terms.scale,
        "used": known.then_some(standing.used),
        "max": line.max,
        "left": known.then_some(standing.left),
        "resets_at": resets.map(|ms| rfc3339(now_ms.saturating_add(ms))),
    })
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Attempt => "attempt",
        Mode::Consume => "consume",
        Mode::Gate => "gate",
        Mode::Track => "track",
    }
}
