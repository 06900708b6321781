//! What becomes of a response: which part of it concerns us, piece by piece, and what goes out instead.
//!
//! A state machine over the bytes of one response. It is told the head, then chunks cut anywhere; it answers each with bytes.
//! It never asks, waits or keeps more than [`Limits`] allows.

use std::sync::Arc;

use crate::{
    mask::{Findings, MaskKey},
    mcp::{Era, Method},
    pins::{Sighting, View},
    policy::Policy,
    principal::Principal,
};

/// What a response is held to: made from the request's ticket.
#[derive(Clone, Debug)]
pub struct Job {
    /// The policy that decided about the request.
    pub policy: Arc<Policy>,
    /// Who asked.
    pub who: Principal,
    /// Name of the server.
    pub server: Arc<str>,
    /// What was asked.
    pub asked: Asked,
    /// The wire protocol of the request.
    pub era: Era,
    /// The request's id exactly as written, quotes included; `None` for GET.
    pub id: Option<Box<str>>,
    /// What lists of tools are compared with; `None` where the server's tools are trusted as they come.
    pub pins: Option<View>,
    /// The key of `hash` masks.
    pub key: MaskKey,
    /// Bounds.
    pub limits: Limits,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `tools/call` of that tool.
    Call(Box<str>),
    /// Any other request.
    Request(Method),
    /// GET: a legacy stream, on which anything may come.
    Stream,
}

/// Bounds on one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a JSON body or of one event of a stream that is read.
    pub bytes_max: usize,
    /// Nesting of its JSON.
    pub depth_max: usize,
    /// Values in it.
    pub nodes_max: usize,
    /// The longest `ttlMs` of a list, ms.
    pub list_ttl_max_ms: u64,
}

/// The head of a response.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// HTTP status.
    pub status: u16,
    /// Every `content-type` line.
    pub content_types: &'a [&'a [u8]],
    /// Every `content-encoding` line.
    pub content_encodings: &'a [&'a [u8]],
    /// `content-length`, where there is one that can be read.
    pub content_length: Option<u64>,
    /// Whether the response ends with its head.
    pub is_end: bool,
}

/// What happens to a response after its head.
#[derive(Debug)]
pub enum Begun {
    /// Nothing of it concerns us.
    Pass,
    /// Its body is to be handed in.
    Body(Box<Exchange>),
    /// This body, a JSON text, goes out in its place, with status 200 and `content-type: application/json`.
    Withheld(String, Box<Report>),
}

/// What goes out for a chunk that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The chunk itself, unchanged.
    Same,
    /// These bytes in its place, maybe none.
    Bytes(Vec<u8>),
    /// Nothing yet: this is to be recorded first, then [`Exchange::recorded`] tells what goes out.
    Record(Sighting),
}

/// The body of one response, under way.
#[derive(Debug)]
pub struct Exchange {
    report: Report,
}

/// What became of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the answer to the request was, once it has been seen whole.
    pub came: Option<Came>,
    /// SHA-256 of the answer's JSON text as it left; `None` while none has.
    pub sha256: Option<[u8; 32]>,
    /// Bytes of the body as the server sent it, so far.
    pub bytes: u64,
    /// Entries that were hidden from lists because the policy does not let them be used.
    pub hidden: u32,
    /// Tools that were hidden because their definition is not approved.
    pub unapproved: u32,
    /// What the policy's rules did.
    pub findings: Findings,
    /// Why the answer was withheld, or an event dropped.
    pub withheld: Option<Withheld>,
}

/// What the answer to a request was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    /// Its kind.
    pub kind: Kind,
    /// Bytes of its JSON text as the server sent it.
    pub bytes: u64,
    /// Amounts that limits read from it, by the name of the counter.
    pub usage: Vec<(Arc<str>, u64)>,
}

/// The kind of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A result.
    Ok,
    /// A JSON-RPC error by which the request was not executed: -32700, -32600, -32601 or -32602.
    ProtocolError,
    /// Another JSON-RPC error.
    ServerError,
    /// A result of `tools/call` with `isError: true`.
    ToolError,
}

/// Why an answer was withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Withheld {
    /// A rule of the policy says so.
    Blocked,
    /// Compressed, or otherwise encoded.
    Encoding,
    /// Neither JSON nor a stream of events.
    MediaType,
    /// Not a JSON text that every parser reads alike.
    Json,
    /// Not a stream of events that can be read.
    Events,
    /// Not a JSON-RPC message, or not one that may come here.
    Shape,
    /// Longer than the limit.
    Size,
    /// The pins could not be read or written.
    Pins,
}

impl Exchange {
    /// Looks at the head of a response.
    #[must_use]
    pub fn begin(job: Job, head: &Head<'_>) -> Begun {
        let _ = (job, head);
        Begun::Pass
    }

    /// Takes the next chunk; `is_end` with the last one, which may be empty.
    #[must_use]
    pub fn chunk(&mut self, chunk: &[u8], is_end: bool) -> Step {
        let _ = (chunk, is_end);
        Step::Same
    }

    /// Goes on after [`Step::Record`], with the pins as they are now; `None` if they could not be recorded.
    #[must_use]
    pub fn recorded(&mut self, pins: Option<View>) -> Step {
        drop(pins);
        Step::Same
    }

    /// Bytes that are held back now, for a bound on all responses together.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        0
    }

    /// Gives the response up because there is no room for it: what goes out in its place.
    #[must_use]
    pub fn give_up(&mut self) -> Step {
        Step::Same
    }

    /// What became of it so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }
}
