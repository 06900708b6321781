//! What an operator may ask of pins and do to them. Every change is in the audit before it is made.

use std::{fmt, sync::Arc};

use mcp_authz_core::{
    audit::{PinAct, PinRecord},
    pins::{CHANGES_MAX, Change, Definition, Digest, OnChange, Pin, Rules, Trust, changes},
};
use serde_json::{Value, json};

use super::{Approval, Pinboard, PinsError, store::AnyStore};
use crate::{
    clock::{Clock, rfc3339},
    state::State,
    telemetry::audit::AuditSink,
};

/// Servers in one answer.
pub const SERVERS_MAX: usize = 1_000;
/// Tools of one server whose changes one answer tells.
pub const DIFFS_MAX: usize = 100;
/// Bytes of changed values in one answer; beyond it a tool has to be named.
const DIFF_BYTES_MAX: usize = 2 << 20;

/// Which pins are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Name of a server.
    pub server: Option<String>,
    /// Name of a tool.
    pub tool: Option<String>,
    /// For an approval: the digest of the definition, or without a tool that of all that waits.
    pub digest: Option<String>,
}

/// Why an operator gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The act could not be recorded, and the settings say that then nothing is done.
    #[error("the audit record cannot be kept, so nothing was done")]
    Audit,
    /// Not enough is named.
    #[error("{0}")]
    Incomplete(&'static str),
    /// The pins.
    #[error("{0}")]
    Pins(#[from] PinsError),
}

/// The desk over the pins that decide.
pub struct PinDesk {
    board: Arc<Pinboard<AnyStore>>,
    state: Arc<State>,
    audit: Arc<AuditSink>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for PinDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinDesk").finish_non_exhaustive()
    }
}

impl PinDesk {
    /// A desk over these pins.
    #[must_use]
    pub fn new(
        board: Arc<Pinboard<AnyStore>>,
        state: Arc<State>,
        audit: Arc<AuditSink>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { board, state, audit, clock }
    }

    /// Servers with pins, and what waits for approval.
    ///
    /// # Errors
    /// [`DeskError`] if a server is named that has none; what is wrong with one of several is told beside it.
    pub async fn list(&self, wanted: &Wanted) -> Result<Value, DeskError> {
        let servers: Vec<Arc<str>> = {
            let snapshot = self.state.snapshot();
            let all = snapshot.servers().filter(|one| one.server.tools().is_some()).map(|one| one.server.name());
            all.filter(|name| wanted.server.as_deref().is_none_or(|wanted| *wanted == ***name))
                .take(SERVERS_MAX)
                .map(Arc::clone)
                .collect()
        };
        if let (Some(server), true) = (&wanted.server, servers.is_empty()) {
            return Err(PinsError::Off(server.as_str().into()).into());
        }
        let mut rows = Vec::with_capacity(servers.len());
        for server in servers {
            rows.push(match self.board.look(&server).await {
                Ok(view) => {
                    let pins = view.pins();
                    let mut row = rules_row(&server, view.rules());
                    let approved = pins.tools().filter(|(_, pin)| pin.approved.is_some()).count();
                    let pending: Vec<Value> =
                        pins.pending().map(|(name, pin, definition)| pending_row(name, pin, definition)).collect();
                    let digest = (!pending.is_empty()).then(|| pins.pending_digest().to_string());
                    push(&mut row, json!({ "complete": pins.is_sealed(), "approved": approved, "pending": pending, "digest": digest }));
                    row
                }
                Err(error) => json!({ "server": &*server, "error": error.to_string() }),
            });
        }
        Ok(json!({ "time": rfc3339(self.clock.now_ms()), "servers": rows }))
    }

    /// What changed in the definitions that wait.
    ///
    /// # Errors
    /// [`DeskError`].
    pub async fn diff(&self, wanted: &Wanted) -> Result<Value, DeskError> {
        let server = wanted.server.as_deref().ok_or(DeskError::Incomplete("name a server"))?;
        let view = self.board.look(server).await?;
        let pins = view.pins();
        let is_wanted = |name: &str| wanted.tool.as_deref().is_none_or(|wanted| wanted == name);
        let found: Vec<_> = pins.pending().filter(|(name, ..)| is_wanted(name)).collect();
        if found.len() > DIFFS_MAX {
            return Err(DeskError::Incomplete("more than 100 tools wait: name one"));
        }
        let (mut rows, mut bytes) = (Vec::with_capacity(found.len()), 0_usize);
        for (name, pin, definition) in &found {
            let mut row = pending_row(name, pin, definition);
            let list = all_changes(pin, definition);
            let each = |one: &Change| {
                one.old.as_ref().map_or(0, String::len).saturating_add(one.new.as_ref().map_or(0, String::len))
            };
            bytes = list.iter().map(each).fold(bytes, usize::saturating_add);
            if bytes > DIFF_BYTES_MAX && found.len() > 1 {
                return Err(DeskError::Incomplete("what waits is too much for one answer: name a tool"));
            }
            let is_cut = list.len() >= CHANGES_MAX;
            let list: Vec<Value> =
                list.iter().map(|one| json!({ "at": one.pointer, "old": one.old, "new": one.new })).collect();
            push(&mut row, json!({ "changes": list, "is_cut": is_cut }));
            rows.push(row);
        }
        let digest = (!found.is_empty()).then(|| pins.pending_digest().to_string());
        Ok(json!({ "server": server, "digest": digest, "pending": rows }))
    }

    /// Approves what waits, if it is what the digest names.
    ///
    /// # Errors
    /// [`DeskError`]; the failure is in the audit, too.
    pub async fn approve(&self, wanted: &Wanted) -> Result<Value, DeskError> {
        let (Some(server), Some(text)) = (wanted.server.as_deref(), wanted.digest.as_deref()) else {
            return Err(DeskError::Incomplete("an approval names a server and a digest"));
        };
        let digest = Digest::parse(text).ok_or(DeskError::Incomplete("a digest is `sha256:` and 64 digits"))?;
        let what = wanted.tool.as_deref().map_or(Approval::All(digest), |tool| Approval::Tool(tool, digest));
        // What is refused anyway needs no record of an act.
        let view = self.board.look(server).await?;
        let mut pins = mcp_authz_core::pins::Pins::clone(view.pins());
        what.apply(&mut pins, view.bounds()).map_err(PinsError::from)?;
        self.record(PinAct::Approve, server, wanted)?;
        let tools = self.done(server, wanted, self.board.approve(server, what).await)?;
        tracing::info!(server, tools, "An operator approved definitions of tools.");
        Ok(json!({ "server": server, "approved": tools }))
    }

    /// Forgets a tool.
    ///
    /// # Errors
    /// [`DeskError`]; the failure is in the audit, too.
    pub async fn forget(&self, wanted: &Wanted) -> Result<Value, DeskError> {
        let (Some(server), Some(tool)) = (wanted.server.as_deref(), wanted.tool.as_deref()) else {
            return Err(DeskError::Incomplete("name a server and a tool"));
        };
        self.record(PinAct::Forget, server, wanted)?;
        self.done(server, wanted, self.board.forget(server, tool).await)?;
        tracing::info!(server, "An operator had the pin of a tool forgotten.");
        Ok(json!({ "server": server, "forgotten": 1 }))
    }

    /// Forgets everything of a server.
    ///
    /// # Errors
    /// [`DeskError`]; the failure is in the audit, too.
    pub async fn reset(&self, wanted: &Wanted) -> Result<Value, DeskError> {
        let (Some(server), None) = (wanted.server.as_deref(), wanted.tool.as_deref()) else {
            return Err(DeskError::Incomplete("name a server and no tool"));
        };
        self.record(PinAct::Reset, server, wanted)?;
        self.done(server, wanted, self.board.reset(server).await)?;
        tracing::info!(server, "An operator had the pins of a server forgotten.");
        Ok(json!({ "server": server, "reset": true }))
    }

    fn done<T>(&self, server: &str, wanted: &Wanted, outcome: Result<T, PinsError>) -> Result<T, DeskError> {
        if let Err(error) = &outcome {
            tracing::warn!(error = error as &dyn std::error::Error, "An operator's act upon pins failed.");
            self.record(PinAct::Failed, server, wanted)?;
        }
        outcome.map_err(DeskError::from)
    }

    fn record(&self, act: PinAct, server: &str, wanted: &Wanted) -> Result<(), DeskError> {
        let (tool, digest) = (wanted.tool.as_deref(), wanted.digest.as_deref());
        let mut text = String::with_capacity(256);
        PinRecord { time_ms: self.clock.now_ms(), act, server, tool, digest }.write(&mut text);
        self.audit.append(text.as_bytes()).map_err(|_| DeskError::Audit)
    }
}

fn rules_row(server: &str, rules: Rules) -> Value {
    let trust = match rules.trust {
        Trust::FirstUse => "first_use",
        Trust::Pinned => "pinned",
    };
    let on_change = match rules.on_change {
        OnChange::Hide => "hide",
        OnChange::Report => "report",
    };
    json!({ "server": server, "trust": trust, "on_change": on_change })
}

fn pending_row(name: &str, pin: &Pin, definition: &Definition) -> Value {
    json!({
        "tool": name,
        "kind": if pin.approved.is_some() { "changed" } else { "new" },
        "digest": definition.digest().to_string(),
        "approved_digest": pin.approved.as_ref().map(|one| one.digest().to_string()),
        "seen_at": rfc3339(definition.seen_ms()),
        "is_kept": !definition.text().is_empty(),
    })
}

/// What changed; nothing for a definition that was too long to be kept, which cannot be approved either.
fn all_changes(pin: &Pin, definition: &Definition) -> Vec<Change> {
    let Ok(new) = definition.document() else { return Vec::new() };
    let old = pin.approved.as_ref().and_then(|one| one.document().ok());
    changes(old.as_ref().map(|one| one.root()), new.root())
}

fn push(row: &mut Value, more: Value) {
    if let (Value::Object(row), Value::Object(more)) = (row, more) {
        row.extend(more);
    }
}
