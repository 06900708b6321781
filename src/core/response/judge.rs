//! One message from the server: what it is, what the policy says of it, and what stands in its place if it may not pass.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{Asked, Came, Concern, Job, Kind, Report, Withheld, list, rules_of};
use crate::{
    answer,
    json::{self, Document, JsonDefect, Value},
    mask::Judged,
    mcp::{Group, Method, refuse_twins},
    pins::Sighting,
    splice::Splices,
};

const ENVELOPE: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];

/// What the response is held to, and what the answer to a broken one is.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) job: Job,
    concern: Concern,
    /// Whether the answer to the request has left, or what stands in its place: another one is an answer to nothing.
    pub(super) is_answered: bool,
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the body of a response with a 2xx status.
    Body,
    /// It is the body of an HTTP error, and need not be JSON-RPC.
    ErrorBody,
    /// It is one of many.
    Event,
}

/// Whether the pins were asked to keep what they do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    First,
    /// What is still not known now cannot be recorded.
    Recorded,
}

/// What a message is to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The answer to it.
    Answer,
    /// No answer to anything: a notification, a request of the server's.
    Other,
    /// An answer to something else.
    Stray,
    /// It cannot be told.
    Unread,
}

/// What becomes of a message.
#[derive(Debug)]
pub(super) enum Ruling {
    Changed(String),
    Record(Sighting),
    Same,
    /// With the policy's own words, where it has any.
    Withhold(Withheld, Option<Arc<str>>),
}

/// A message that was judged.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) role: Role,
    pub(super) ruling: Ruling,
}

impl Verdict {
    fn withhold(role: Role, why: Withheld) -> Self {
        Self { role, ruling: Ruling::Withhold(why, None) }
    }
}

/// The parts of a JSON-RPC message.
enum Message<'d> {
    Error { id: Option<Value<'d>>, error: Value<'d> },
    Other,
    Result { id: Value<'d>, result: Value<'d> },
}

impl Judge {
    pub(super) fn new(job: Job) -> Self {
        let concern = Concern::of(&job.policy, &job.asked, job.pins.is_some());
        Self { job, concern, is_answered: false }
    }

    /// Whether nothing can be changed: what passes is only recorded.
    pub(super) const fn only_records(&self) -> bool {
        self.concern.is_none()
    }

    /// Whether there is nothing to record either: nobody asked for what comes on a stream.
    pub(super) const fn is_idle(&self) -> bool {
        self.concern.is_none() && matches!(self.job.asked, Asked::Stream)
    }

    /// Whether somebody waits for an answer.
    pub(super) const fn waits(&self) -> bool {
        self.job.id.is_some()
    }

    /// Bytes of a whole body that may pass.
    pub(super) fn bytes_max(&self) -> usize {
        let own = self.job.limits.bytes_max;
        match &self.job.asked {
            Asked::Call(_) => rules_of(&self.job.policy, &self.job.asked).bytes_max().map_or(own, |max| own.min(max)),
            Asked::Request(_) | Asked::Stream => own,
        }
    }

    /// Judges one message. The report learns what was found, unless something is to be recorded first.
    pub(super) fn message(&mut self, text: &[u8], place: Place, pass: Pass, report: &mut Report) -> Verdict {
        let limits = json::Limits {
            bytes_max: usize::MAX,
            depth_max: self.job.limits.depth_max,
            nodes_max: self.job.limits.nodes_max,
        };
        let document = match Document::parse(text, limits) {
            Ok(document) => document,
            Err(error) => return Verdict::withhold(Role::Unread, reason_of(error.defect)),
        };
        let Some(message) = read(document.root()) else {
            return match place {
                Place::ErrorBody => self.foreign(&document, text, report),
                Place::Body | Place::Event => Verdict::withhold(Role::Unread, Withheld::Shape),
            };
        };
        let role = self.role(&message, place);
        if role == Role::Stray {
            return Verdict::withhold(role, Withheld::Shape);
        }
        let ruling = self.rule(&document, &message, pass, report);
        if role == Role::Answer && !matches!(ruling, Ruling::Record(_)) {
            let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
            let usage = match &self.job.asked {
                Asked::Call(tool) => self.job.policy.usage(tool, &document),
                Asked::Request(_) | Asked::Stream => Vec::new(),
            };
            report.came = kind_of(&message, &self.job.asked).map(|kind| Came { kind, bytes, usage });
        }
        Verdict { role, ruling }
    }

    /// Which request the message answers. On a GET stream anything may be answered, since it replays what was lost.
    fn role(&self, message: &Message<'_>, place: Place) -> Role {
        let id = match message {
            Message::Error { id, .. } => *id,
            Message::Other => return Role::Other,
            Message::Result { id, .. } => Some(*id),
        };
        match (&self.job.id, place, message) {
            (None, _, _) => Role::Other,
            (Some(_), _, _) if self.is_answered => Role::Stray,
            (Some(asked), _, _) if id.is_some_and(|id| is_same_id(id, asked)) => Role::Answer,
            // An HTTP error answers the request of its own exchange, and some servers do not read its id.
            (Some(_), Place::ErrorBody, Message::Error { .. }) => Role::Answer,
            (Some(_), _, _) => Role::Stray,
        }
    }

    /// Lists first, since the pins may want to know more before anything is found or counted.
    fn rule(&mut self, document: &Document<'_>, message: &Message<'_>, pass: Pass, report: &mut Report) -> Ruling {
        if self.only_records() {
            return Ruling::Same;
        }
        let mut splices = Splices::default();
        let result = match message {
            Message::Result { result, .. } => Some(*result),
            Message::Error { .. } | Message::Other => None,
        };
        if let Some(result) = result {
            if self.concern.lists {
                match list::filter(&self.job, result, pass, &mut splices) {
                    Ok(cut) => match cut.sighting {
                        Some(sighting) => return Ruling::Record(sighting),
                        None => cut.count(report),
                    },
                    Err(why) => return Ruling::Withhold(why, None),
                }
            }
            if !matches!(self.job.asked, Asked::Call(_)) {
                list::keep_private(result, self.job.limits.list_ttl_max_ms, &mut splices);
            }
        }
        if self.concern.results && !result.is_some_and(|result| self.is_list(result)) {
            let rules = rules_of(&self.job.policy, &self.job.asked);
            if rules.bytes_max().is_some_and(|max| document.bytes() > max) {
                return Ruling::Withhold(Withheld::Size, None);
            }
            if let Judged::Block(text) = rules.judge(document, &self.job.key, &mut splices, &mut report.findings) {
                return Ruling::Withhold(Withheld::Blocked, Some(text));
            }
        }
        if splices.is_empty() {
            return Ruling::Same;
        }
        // A text that cannot be changed as the rules say must not pass unchanged.
        splices.apply(document.text()).map_or(Ruling::Withhold(Withheld::Shape, None), Ruling::Changed)
    }

    /// Whether it is the very list that was asked for: to that, the rules for results do not apply. On a stream nobody knows what
    /// was asked, so they do.
    fn is_list(&self, result: Value<'_>) -> bool {
        let Asked::Request(method) = self.job.asked else { return false };
        method.group() == Group::List
            && list::LISTS.iter().any(|list| list.method == method && result.get(list.member).is_some())
    }

    /// JSON that is no JSON-RPC, as the error page of a gateway: read as a tree and as a text, for want of a known shape.
    fn foreign(&self, document: &Document<'_>, text: &[u8], report: &mut Report) -> Verdict {
        if self.only_records() {
            return Verdict { role: Role::Unread, ruling: Ruling::Same };
        }
        let mut splices = Splices::default();
        let rules = rules_of(&self.job.policy, &self.job.asked);
        if let Judged::Block(text) = rules.judge(document, &self.job.key, &mut splices, &mut report.findings) {
            return Verdict { role: Role::Unread, ruling: Ruling::Withhold(Withheld::Blocked, Some(text)) };
        }
        let Some(changed) = splices.apply(document.text()) else {
            return Verdict::withhold(Role::Unread, Withheld::Shape);
        };
        let ruling = self.words(&changed, report);
        let is_changed = matches!(ruling, Ruling::Same) && changed.as_bytes() != text;
        let ruling = if is_changed { Ruling::Changed(changed) } else { ruling };
        Verdict { role: Role::Unread, ruling }
    }

    /// Text that is no JSON.
    pub(super) fn words(&self, text: &str, report: &mut Report) -> Ruling {
        let rules = rules_of(&self.job.policy, &self.job.asked);
        if rules.is_empty() {
            return Ruling::Same;
        }
        match rules.judge_text(text, &self.job.key, &mut report.findings) {
            Ok(None) => Ruling::Same,
            Ok(Some(changed)) => Ruling::Changed(changed),
            Err(text) => Ruling::Withhold(Withheld::Blocked, Some(text)),
        }
    }

    /// The answer that stands in the place of one that may not pass.
    pub(super) fn withheld(&self, why: Withheld, words: Option<&str>, report: &mut Report) -> String {
        report.withheld = Some(why);
        let (asked, notice) = match self.job.asked {
            Asked::Call(_) => (answer::Asked::ToolCall, " The tool may have run: do not repeat the call blindly."),
            Asked::Request(_) | Asked::Stream => (answer::Asked::Request, ""),
        };
        let text = format!("{}{notice}", words.unwrap_or(why.advice()));
        let digest = self.job.policy.digest();
        let withheld = answer::Withheld {
            asked,
            id: self.job.id.as_deref(),
            reason: why.name(),
            text: &text,
            policy_digest: digest.as_str(),
        };
        let text = answer::withheld(&withheld);
        self.sign(text.as_bytes(), report);
        text
    }

    /// A message leaves with this text.
    pub(super) fn leaves(&mut self, role: Role, text: &[u8], report: &mut Report) {
        if role == Role::Answer {
            self.is_answered = true;
            self.sign(text, report);
        }
    }

    /// Keeps the digest of the answer that leaves.
    fn sign(&self, text: &[u8], report: &mut Report) {
        report.sha256 = Some(Sha256::digest(text).into());
    }
}

/// Limits are one reason, other defects another: the operator can raise the former.
pub(super) const fn reason_of(defect: JsonDefect) -> Withheld {
    match defect {
        JsonDefect::Depth | JsonDefect::Nodes | JsonDefect::Size => Withheld::Size,
        JsonDefect::Control
        | JsonDefect::DuplicateKey
        | JsonDefect::Empty
        | JsonDefect::Syntax
        | JsonDefect::Truncated
        | JsonDefect::Utf8 => Withheld::Json,
    }
}

/// Reads the envelope; `None` for what is not exactly a JSON-RPC message, batches included. Members that JSON-RPC does not know
/// may stand beside its own: no client reads them as one of those.
fn read(root: Value<'_>) -> Option<Message<'_>> {
    if root.kind() != json::Kind::Object || refuse_twins(root, ENVELOPE).is_err() {
        return None;
    }
    let (mut version, mut id, mut method, mut result, mut error) = (None, None, None, None, None);
    for (name, value) in root.members() {
        match &*name {
            "error" => error = Some(value),
            "id" => id = Some(value),
            "jsonrpc" => version = Some(value),
            "method" => method = Some(value),
            "result" => result = Some(value),
            _ => {}
        }
    }
    if version.and_then(Value::as_str).as_deref() != Some("2.0") {
        return None;
    }
    match (method, result, error) {
        (Some(method), None, None) => (method.kind() == json::Kind::String).then_some(Message::Other),
        (None, Some(result), None) if result.kind() == json::Kind::Object => Some(Message::Result { id: id?, result }),
        (None, None, Some(error)) => (error.kind() == json::Kind::Object).then_some(Message::Error { id, error }),
        (_, _, _) => None,
    }
}

/// Whether the server's id is the request's: of one type, and equal. A server that parsed the id may write a string otherwise; a
/// number it cannot, since only plain integers were let through.
fn is_same_id(id: Value<'_>, asked: &str) -> bool {
    if id.source() == asked {
        return matches!(id.kind(), json::Kind::Number | json::Kind::String);
    }
    let Some(text) = id.as_str() else { return false };
    let asked = Document::parse(asked.as_bytes(), json::Limits::default());
    asked.is_ok_and(|asked| asked.root().as_str().is_some_and(|asked| asked == text))
}

fn kind_of(message: &Message<'_>, asked: &Asked) -> Option<Kind> {
    /// By these the server says that it did not run anything.
    const NOT_RUN: [&str; 4] = ["-32700", "-32600", "-32601", "-32602"];
    match message {
        Message::Error { error, .. } => {
            let code = error.get("code").and_then(Value::number_text);
            Some(if code.is_some_and(|code| NOT_RUN.contains(&code)) { Kind::ProtocolError } else { Kind::ServerError })
        }
        Message::Other => None,
        Message::Result { result, .. } => {
            let failed =
                matches!(asked, Asked::Call(_)) && result.get("isError").and_then(Value::as_bool) == Some(true);
            Some(if failed { Kind::ToolError } else { Kind::Ok })
        }
    }
}

/// The method that answers that list.
pub(super) fn is_asked(asked: &Asked, wanted: Method) -> bool {
    matches!(asked, Asked::Stream) || matches!(asked, Asked::Request(method) if *method == wanted)
}
