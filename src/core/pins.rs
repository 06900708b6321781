//! Pinned definitions of tools: what a server's tools looked like when somebody trusted them.

use std::sync::Arc;

use crate::json::Value;

/// What is known of one server's tools. Immutable; another one is made when something changes.
#[derive(Clone, Debug, Default)]
pub struct Book {}

/// What a pin says of a tool in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Pinned as it is: show it.
    Approved,
    /// Not pinned yet: it is to be recorded, and the book asked again, before the list may leave.
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
    /// The definition as the server wrote it.
    pub definition: Box<str>,
}

impl Book {
    /// Judges one element of `result.tools`. A definition that was recorded as changed is `Hidden` (or `Reported`); one that
    /// the book does not know yet is `Record`.
    #[must_use]
    pub fn standing(&self, name: &str, tool: Value<'_>) -> Standing {
        let _ = (name, tool);
        Standing::Approved
    }
}

/// The view of the pins that one list is judged by.
pub type View = Arc<Book>;
