//! What becomes of a response: which part of it concerns us, piece by piece, and what goes out instead.
//!
//! A state machine over the bytes of one response. It is told the head, then chunks cut anywhere; it answers each with bytes.
//! It never asks, waits or keeps more than [`Limits`] allows. What goes out does not depend on where the chunks were cut.
//!
//! What cannot be judged does not pass. In the place of an answer stands a readable one with the right id, so that nobody waits
//! for what will never come; in the place of any other event, a comment. Where nothing is to be judged but only recorded, every
//! byte passes at once and a copy is read.

use std::sync::Arc;

use crate::{
    mask::{Findings, MaskKey, ResultRules},
    mcp::{Era, Group, Method},
    pins::{Sighting, View},
    policy::Policy,
    principal::Principal,
};

mod events;
mod head;
mod judge;
mod list;
mod whole;

use events::Events;
use head::Framing;
use judge::Judge;
use whole::Whole;

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
    /// Whether [`Report::sha256`] is wanted: hashing costs as much as everything else together.
    pub hashes: bool,
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
    judge: Judge,
    body: Body,
    report: Report,
}

/// How the body is read.
#[derive(Debug)]
enum Body {
    /// A stream of events.
    Events(Events),
    /// Nothing more of it may pass: it ended, or its end was brought forward.
    Over,
    /// One text, held to its end.
    Whole(Whole),
}

/// What became of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the answer to the request was, once it has been seen whole.
    pub came: Option<Came>,
    /// SHA-256 of the answer's JSON text as it left; `None` while none has, and where nobody wants it.
    pub sha256: Option<[u8; 32]>,
    /// Bytes of the body as the server sent it, so far.
    pub bytes: u64,
    /// Entries that were hidden from lists because the policy does not let them be used.
    pub hidden: u32,
    /// Tools that were hidden because their definition is not approved.
    pub unapproved: u32,
    /// What the policy's rules did.
    pub findings: Findings,
    /// Tools that were shown although their definition is not approved.
    pub reported: u32,
    /// Events that were dropped.
    pub dropped: u32,
    /// Why the answer was withheld, or else why the first event was dropped.
    pub withheld: Option<Withheld>,
    /// Why the answer could not be read, where it was only to be recorded and passed all the same.
    pub unread: Option<Withheld>,
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

impl Withheld {
    /// Every reason, in declaration order.
    pub const ALL: &'static [Self] = &[
        Self::Blocked,
        Self::Encoding,
        Self::MediaType,
        Self::Json,
        Self::Events,
        Self::Shape,
        Self::Size,
        Self::Pins,
    ];

    /// The name in metrics, audit records and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Encoding => "encoding",
            Self::Events => "events",
            Self::Json => "json",
            Self::MediaType => "media_type",
            Self::Pins => "pins",
            Self::Shape => "shape",
            Self::Size => "size",
        }
    }

    /// What the agent is told where the policy says nothing of its own.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Blocked => "A rule of the policy withholds this answer.",
            Self::Encoding => "The server's answer is compressed, so it could not be checked. Ask the operator.",
            Self::Events => "The server's answer is not a sound stream of events. Ask the operator.",
            Self::Json => "The server's answer is not sound JSON. Ask the operator.",
            Self::MediaType => "The server's answer is neither JSON nor a stream of events. Ask the operator.",
            Self::Pins => "The approved definitions of this server's tools cannot be read now. Ask the operator.",
            Self::Shape => "The server's answer is not an answer to this request. Ask the operator.",
            Self::Size => "The server's answer is too large. Ask for less, or ask the operator.",
        }
    }
}

/// What of a response concerns a policy. With neither, it is only recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concern {
    /// Lists lose what may not be used.
    pub lists: bool,
    /// Rules look at results.
    pub results: bool,
}

impl Concern {
    /// What a response to that request has to be held to. The one place that says so, for the request's phase too.
    #[must_use]
    pub fn of(policy: &Policy, asked: &Asked, has_pins: bool) -> Self {
        let results = !rules_of(policy, asked).is_empty();
        let may_list = match asked {
            // What a task brings may be any result.
            Asked::Request(method) => {
                method.group() == Group::List || matches!(method, Method::TasksGet | Method::TasksResult)
            }
            Asked::Stream => true,
            Asked::Call(_) => false,
        };
        // Where a response is read anyway, a list in it is no less a list than elsewhere.
        let lists = (may_list || results) && (has_pins || policy.may_hide() || !policy.definitions().is_empty());
        Self { lists, results }
    }

    /// Whether nothing is to be changed, whatever comes.
    #[must_use]
    pub const fn is_none(self) -> bool {
        !self.lists && !self.results
    }
}

/// The rules for what comes back. What a task brings is the result of a call whose tool is not known any more.
fn rules_of<'p>(policy: &'p Policy, asked: &Asked) -> ResultRules<'p> {
    match asked {
        Asked::Call(tool) => policy.results(Some(tool)),
        Asked::Request(
            Method::SubscriptionsListen
            | Method::TasksCancel
            | Method::TasksGet
            | Method::TasksList
            | Method::TasksResult
            | Method::TasksUpdate,
        )
        | Asked::Stream => policy.results(None),
        Asked::Request(_) => policy.messages(),
    }
}

impl Exchange {
    /// Looks at the head of a response.
    ///
    /// A body that concerns nobody, and one that is only to be recorded and cannot be read, passes; of a response without a
    /// body there is nothing to judge.
    #[must_use]
    pub fn begin(job: Job, head: &Head<'_>) -> Begun {
        let judge = Judge::new(job);
        match Framing::of(head, &judge) {
            Framing::Nothing => Begun::Pass,
            Framing::Unreadable(_) if judge.only_records() => Begun::Pass,
            Framing::Unreadable(why) => {
                let mut report = Report::default();
                let text = judge.withheld(why, None, &mut report);
                Begun::Withheld(text, Box::new(report))
            }
            Framing::Events => {
                let body = Body::Events(Events::new(judge.job.limits.bytes_max));
                Begun::Body(Box::new(Self { judge, body, report: Report::default() }))
            }
            Framing::Whole(form) => {
                let body = Body::Whole(Whole::new(form, head));
                Begun::Body(Box::new(Self { judge, body, report: Report::default() }))
            }
        }
    }

    /// Takes the next chunk; `is_end` with the last one, which may be empty. What comes after the end is dropped.
    #[must_use]
    pub fn chunk(&mut self, chunk: &[u8], is_end: bool) -> Step {
        self.report.bytes = self.report.bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        let only_records = self.judge.only_records();
        let step = match &mut self.body {
            Body::Events(events) => events.chunk(chunk, is_end, &mut self.judge, &mut self.report),
            Body::Over => Step::of(chunk, Vec::new()),
            Body::Whole(whole) => whole.chunk(chunk, is_end, &mut self.judge, &mut self.report),
        };
        self.rest(&step);
        if only_records { Step::Same } else { step }
    }

    /// Goes on after [`Step::Record`], with the pins as they are now; `None` if they could not be recorded. May answer with
    /// another [`Step::Record`] if the chunk held more than one list.
    #[must_use]
    pub fn recorded(&mut self, pins: Option<View>) -> Step {
        let step = match &mut self.body {
            Body::Events(events) => events.recorded(pins, &mut self.judge, &mut self.report),
            Body::Over => Step::Bytes(Vec::new()),
            Body::Whole(whole) => whole.recorded(pins, &mut self.judge, &mut self.report),
        };
        self.rest(&step);
        step
    }

    /// Bytes that are held back now, for a bound on all responses together.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match &self.body {
            Body::Events(events) => events.held_bytes(),
            Body::Over => 0,
            Body::Whole(whole) => whole.held_bytes(),
        }
    }

    /// Gives up what is held because there is no room for it. To be called after [`Exchange::chunk`]: what it answers goes out
    /// behind what that answered.
    #[must_use]
    pub fn give_up(&mut self) -> Step {
        let step = match &mut self.body {
            Body::Events(events) => events.give_up(&mut self.judge, &mut self.report),
            Body::Over => Step::Bytes(Vec::new()),
            Body::Whole(whole) => whole.give_up(&self.judge, &mut self.report),
        };
        self.rest(&step);
        if self.judge.only_records() { Step::Bytes(Vec::new()) } else { step }
    }

    /// What became of it so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Lets the body go once nothing more of it can pass.
    fn rest(&mut self, step: &Step) {
        let is_over = match &self.body {
            Body::Events(events) => events.is_over(),
            Body::Over => true,
            Body::Whole(whole) => whole.is_over(),
        };
        if is_over && !matches!(step, Step::Record(_)) {
            self.body = Body::Over;
        }
    }
}

impl Step {
    /// The bytes that go out for a chunk.
    fn of(chunk: &[u8], bytes: Vec<u8>) -> Self {
        if bytes == chunk { Self::Same } else { Self::Bytes(bytes) }
    }
}

#[cfg(test)]
mod tests;
