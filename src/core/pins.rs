//! Pinned definitions of tools: what a server's tools looked like when somebody trusted them.
//!
//! Owns what a definition is, whether it is approved, and what follows from that for a list and for a call. Where pins are
//! kept, and who asks when, is the shell's affair.

use std::sync::{Arc, OnceLock};

use crate::{
    decision::{Denial, Reason, Rule},
    json::{Document, JsonDefect, Limits, Value},
    policy::{Call, Policy},
};

mod canonical;
mod diff;
mod image;
mod register;

pub use canonical::Digest;
pub(crate) use canonical::push_value as push_canonical;
pub use diff::{CHANGES_MAX, Change, changes};
pub use image::Corrupt;
pub use register::{Noted, Pin, Pins, Refusal};

/// Bytes of the name of a tool that can be pinned; a longer one is never approved.
pub const NAME_BYTES_MAX: usize = 256;
/// How a definition is read that has been pinned: it was read under limits of the response before.
const READ: Limits = Limits { bytes_max: 16 << 20, depth_max: 256, nodes_max: 1_000_000 };

/// Whom a server's definitions are trusted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// What the first complete list shows is approved; what comes later waits for approval.
    FirstUse,
    /// Every definition waits for approval.
    Pinned,
}

/// What happens to a tool whose definition is not approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// It is hidden from lists, and calls of it are denied.
    Hide,
    /// It is shown and may be called, and that is counted.
    Report,
}

/// What the operator says of one server's definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whom they are trusted by.
    pub trust: Trust,
    /// What happens without approval.
    pub on_change: OnChange,
}

/// Bounds on what is kept of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Tools.
    pub tools_max: usize,
    /// Bytes of one definition as the server wrote it.
    pub definition_bytes_max: usize,
    /// Tools that nobody has approved yet: a server that makes up names cannot push out others.
    pub pending_max: usize,
    /// Bytes of all approved definitions, and as many again of those that wait.
    pub bytes_max: usize,
}

impl Default for Bounds {
    /// 1,000 tools, 64 KiB, 200 tools, 4 MiB.
    fn default() -> Self {
        Self { tools_max: 1_000, definition_bytes_max: 65_536, pending_max: 200, bytes_max: 4 << 20 }
    }
}

/// One definition that was seen. Immutable.
#[derive(Debug)]
pub struct Definition {
    digest: Digest,
    text: Box<str>,
    seen_ms: u64,
    schema: OnceLock<Result<crate::schema::Schema, crate::schema::SchemaError>>,
}

impl PartialEq for Definition {
    fn eq(&self, other: &Self) -> bool {
        (self.digest, &self.text, self.seen_ms) == (other.digest, &other.text, other.seen_ms)
    }
}

impl Eq for Definition {}

impl Definition {
    fn new(digest: Digest, text: Box<str>, seen_ms: u64) -> Self {
        Self { digest, text, seen_ms, schema: OnceLock::new() }
    }

    /// SHA-256 of the canonical definition.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The definition as the server wrote it; empty if it was too long to be kept. Such a one cannot be approved.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When it was first seen, Unix ms.
    #[must_use]
    pub fn seen_ms(&self) -> u64 {
        self.seen_ms
    }

    /// The definition, read.
    ///
    /// # Errors
    /// It is no JSON text; never for one that was pinned.
    pub fn document(&self) -> Result<Document<'_>, JsonDefect> {
        Document::parse(self.text.as_bytes(), READ).map_err(|error| error.defect)
    }

    /// What its `inputSchema` says, compiled at the first question.
    ///
    /// # Errors
    /// [`crate::schema::SchemaError`]: the schema cannot be enforced; the server's owner can mend it.
    pub fn input_schema(&self) -> Result<&crate::schema::Schema, &crate::schema::SchemaError> {
        self.schema.get_or_init(|| crate::schema::Schema::of_tool(&self.text)).as_ref()
    }
}

/// What is known of one server's tools, and by which rules it is judged. Immutable; another one is made when something
/// changes.
#[derive(Clone, Debug)]
pub struct Book {
    pins: Arc<Pins>,
    rules: Rules,
    bounds: Bounds,
}

/// What a pin says of a tool in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Pinned as it is: show it.
    Approved,
    /// It is to be recorded, and the book asked again, before the list may leave. If the book says so once more after
    /// recording, the tool is to be hidden: two elements of the list share its name.
    Record(Observed),
    /// Show it, and count that it is not approved (`on_change: report`).
    Reported,
    /// Hide it.
    Hidden,
}

/// A definition that was seen, to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Name of the tool.
    pub name: Box<str>,
    /// SHA-256 of the canonical definition.
    pub digest: [u8; 32],
    /// The definition as the server wrote it; empty if it is too long to be kept.
    pub definition: Box<str>,
}

/// What one page of a list has to tell the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Definitions that the book does not know.
    pub seen: Vec<Observed>,
    /// Whether this was the last page: a result without `nextCursor`. From then on names that are not known are new.
    pub is_last_page: bool,
}

impl Book {
    /// A book of these pins.
    #[must_use]
    pub fn new(pins: Arc<Pins>, rules: Rules, bounds: Bounds) -> Self {
        Self { pins, rules, bounds }
    }

    /// The pins.
    #[must_use]
    pub fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The bounds.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Judges one element of `result.tools`. A definition that was recorded as changed is `Hidden` (or `Reported`); one that
    /// the book does not know yet is `Record`. To be asked of every element, also of those that the policy hides: otherwise
    /// who lists first would decide which names are known.
    #[must_use]
    pub fn standing(&self, name: &str, tool: Value<'_>) -> Standing {
        let pin = self.pins.get(name);
        let text = tool.source();
        // Nearly always it is what it was, byte for byte; comparing costs a fraction of hashing.
        if let Some(Pin { approved: Some(approved), pending: None }) = pin
            && *approved.text == *text
            && !text.is_empty()
        {
            return Standing::Approved;
        }
        let digest = Digest::of(tool);
        let is = |definition: &Option<Arc<Definition>>| definition.as_ref().is_some_and(|one| one.digest == digest);
        match pin {
            Some(Pin { approved, pending: None }) if is(approved) => Standing::Approved,
            Some(Pin { pending, .. }) if is(pending) => self.unapproved(),
            None if !self.pins.has_room_for(name, &self.bounds) => self.unapproved(),
            Some(_) | None => {
                let fits = text.len() <= self.bounds.definition_bytes_max;
                let definition = if fits { text.into() } else { Box::default() };
                Standing::Record(Observed { name: name.into(), digest: digest.0, definition })
            }
        }
    }

    /// Whether a last page of a list is news to the book even if every tool on it is known: [`Sighting::is_last_page`] is
    /// then to be recorded.
    #[must_use]
    pub fn expects_last_page(&self) -> bool {
        !self.pins.is_sealed() && !self.pins.is_empty()
    }

    /// Whether the tool may be called, as far as its definition goes.
    #[must_use]
    pub fn may_be_called(&self, name: &str) -> bool {
        match (self.rules.on_change, self.pins.get(name)) {
            (OnChange::Report, _) => true,
            (OnChange::Hide, Some(pin)) => pin.approved.is_some() && pin.pending.is_none(),
            // Nothing has been listed so far, so nothing is known to be new.
            (OnChange::Hide, None) => {
                self.rules.trust == Trust::FirstUse
                    && !self.pins.is_sealed()
                    && self.pins.has_room_for(name, &self.bounds)
            }
        }
    }

    /// The approved definition of a tool.
    #[must_use]
    pub fn approved(&self, name: &str) -> Option<&Arc<Definition>> {
        self.pins.get(name)?.approved.as_ref()
    }

    fn unapproved(&self) -> Standing {
        match self.rules.on_change {
            OnChange::Hide => Standing::Hidden,
            OnChange::Report => Standing::Reported,
        }
    }
}

/// The view of the pins that one list is judged by.
pub type View = Arc<Book>;

/// What is known of the pins of a server when one of its tools is called.
#[derive(Clone, Debug)]
pub enum Known {
    /// Its tools are trusted as they come.
    Off,
    /// They could not be read for too long, or cannot be trusted.
    Unavailable,
    /// This.
    View(View),
}

impl Known {
    /// As if a tool of that name with that `inputSchema`, a JSON text, had been approved: for test cases and explanations.
    #[must_use]
    pub fn of_schema(tool: &str, schema: &str) -> Self {
        let mut name = String::new();
        crate::text::push_json_string(&mut name, tool);
        let definition: Box<str> = format!("{{\"name\":{name},\"inputSchema\":{schema}}}").into();
        let seen = Observed { name: tool.into(), digest: Digest::of_text(&definition).0, definition };
        let bounds = Bounds { definition_bytes_max: usize::MAX, bytes_max: usize::MAX, ..Bounds::default() };
        let mut pins = Pins::default();
        pins.note(&Sighting { seen: vec![seen], is_last_page: true }, Trust::FirstUse, &bounds, 0);
        let rules = Rules { trust: Trust::FirstUse, on_change: OnChange::Hide };
        Known::View(Arc::new(Book::new(Arc::new(pins), rules, bounds)))
    }

    /// Why a call that the policy lets go must not go: the tool's definition is not approved, or the arguments do not fit
    /// its schema where the policy asks for that.
    #[must_use]
    pub fn refuse(&self, policy: &Policy, call: &Call<'_>) -> Option<Denial> {
        let schema = policy.schema_rule(call.tool);
        let view = match self {
            Known::Off => return schema.map(|rule| of_rule(Reason::SchemaMissing, rule, SCHEMA_OFF.into())),
            Known::Unavailable => return Some(Denial::built_in(Reason::PinsUnavailable)),
            Known::View(view) => view,
        };
        if !view.may_be_called(call.tool) {
            return Some(Denial::built_in(Reason::ToolUnapproved));
        }
        let rule = schema?;
        let missing = Reason::SchemaMissing;
        let Some(definition) = view.approved(call.tool) else {
            return Some(of_rule(missing, rule, missing.advice().into()));
        };
        match definition.input_schema() {
            Err(error) => {
                let text = format!("{} ({error})", Reason::SchemaUnusable.advice());
                Some(of_rule(Reason::SchemaUnusable, rule, text))
            }
            Ok(schema) => schema
                .check(call.arguments)
                .err()
                .map(|violation| of_rule(Reason::SchemaViolation, rule, violation.to_string())),
        }
    }
}

const SCHEMA_OFF: &str = "The policy checks arguments against the tool's schema, but the tools of this server are not pinned. \
                          Ask the operator to set `tools.trust` for it.";

fn of_rule(reason: Reason, rule: Rule, message: String) -> Denial {
    Denial { reason, rule, message: message.into(), retry_after_ms: None }
}

#[cfg(test)]
mod tests;
