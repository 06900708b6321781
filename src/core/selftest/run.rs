//! Running what the file says, and comparing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::answer;
use super::store::{Counters, End, Held, Store};
use super::{
    Expected, Failure, Loaded, MirroredHeaders, Reading, Results, WORK_MAX, fields, items, json_text, read_expected,
};
use crate::answer::{Asked, Context};
use crate::decision::{Decision, Denial, Reason, Rule};
use crate::document::{Cursor, Fields, Format, Shape, quoted};
use crate::grant::read_groups;
use crate::json::{Document, Kind, Limits, Value};
use crate::judge::{is_concealed, judge_pinned};
use crate::mcp::{Body, Message, ProtocolVersion};
use crate::pins::Known;
use crate::policy::{Policy, Source};
use crate::principal::Principal;

/// When a case is that does not say: the start of 2026. Windows of a calendar need a time that some zone had.
const START_MS: u64 = 1_767_225_600_000;
/// How often a step may be repeated.
const TIMES_MAX: u64 = 1_000;
/// Bytes of a policy for which one look at it costs one byte of work; and what a look costs at least.
const LOOK_SHARE: usize = 16;
const LOOK: usize = 1_000;
/// What each byte of a policy costs that is compiled.
const COMPILE_COST: usize = 10;

/// A run over one file.
pub(super) struct File<'r> {
    pub(super) reading: Reading,
    pub(super) load: &'r mut dyn FnMut(&str) -> Result<Loaded, String>,
    pub(super) counters: &'r mut dyn Counters,
    pub(super) results: &'r mut Results,
    pub(super) work: Work,
}

/// What is left of [`WORK_MAX`].
pub(super) struct Work {
    left: u64,
    /// What one look at the policy costs.
    look: usize,
    is_told: bool,
}

impl Default for Work {
    fn default() -> Self {
        Self { left: WORK_MAX, look: LOOK, is_told: false }
    }
}

impl Work {
    /// Whether there is enough left for work over so many bytes; what is beyond is a defect, told once.
    fn takes(&mut self, cursor: &Cursor<'_>, bytes: usize) -> bool {
        let cost = u64::try_from(bytes).unwrap_or(u64::MAX);
        if let Some(left) = self.left.checked_sub(cost) {
            self.left = left;
            return true;
        }
        self.left = 0;
        if !std::mem::replace(&mut self.is_told, true) {
            cursor.defect("the cases up to here ask for more work than one file may; split it, or lower `times`");
        }
        false
    }

    /// One look at the policy, by something of so many bytes.
    pub(super) fn looks(&mut self, cursor: &Cursor<'_>, bytes: usize) -> bool {
        self.takes(cursor, self.look.saturating_add(bytes))
    }
}

/// A call that went through the whole evaluation.
struct Outcome {
    verdict: Result<Held, Denial>,
    tool: Option<String>,
    keys: BTreeSet<String>,
    body: Option<String>,
}

impl File<'_> {
    pub(super) fn run(&mut self, root: &Cursor<'_>) {
        let known = ["format", "generated_by", "date", "conventions", "suites", "invalid_policies"];
        let Some(keys) = fields(root, &known) else { return };
        if let Some(format) = keys.required("format") {
            let _known = format.one_of(&[super::FORMAT]);
        }
        for suite in items(&keys, "suites") {
            self.suite(&suite);
        }
        for invalid in items(&keys, "invalid_policies") {
            self.invalid(&invalid);
        }
    }

    fn suite(&mut self, cursor: &Cursor<'_>) {
        let known =
            ["suite", "policy", "policy_file", "cases", "sequences", "tools_list", "results", "cedar_equivalent"];
        let Some(keys) = fields(cursor, &known) else { return };
        let name = keys.required("suite").and_then(|name| name.non_empty()).unwrap_or("suite");
        let Some(policy) = self.policy(name, &keys) else { return };
        let policy = policy.as_ref();
        for case in items(&keys, "cases") {
            self.case(policy, &case);
        }
        for sequence in items(&keys, "sequences") {
            self.sequence(policy, &sequence);
        }
        for list in items(&keys, "tools_list") {
            self.tools_list(policy, &list);
        }
        self.results(policy, &keys);
    }

    /// The policy of a suite; `Some(None)` for a suite that says there is none.
    fn policy(&mut self, name: &str, keys: &Fields<'_>) -> Option<Option<Policy>> {
        match (keys.optional("policy"), keys.optional("policy_file")) {
            (Some(_), Some(file)) => {
                file.defect("a suite has `policy` or `policy_file`, not both");
                None
            }
            (None, None) => {
                keys.map().defect("missing key `policy` or `policy_file`; `policy: null` is a caller without a policy");
                None
            }
            (Some(inline), None) if inline.node().shape == Shape::Null => Some(None),
            (Some(inline), None) => {
                let text = json_text(inline.node());
                let source = Source { id: name, file: "policy", bytes: text.as_bytes(), format: Format::Json };
                self.compile(&inline, &source).map(Some)
            }
            (None, Some(file)) => {
                let loaded = match (self.load)(file.non_empty()?) {
                    Ok(loaded) => loaded,
                    Err(error) => {
                        file.defect(error);
                        return None;
                    }
                };
                let source = Source { id: name, file: &loaded.file, bytes: &loaded.bytes, format: loaded.format };
                self.compile(&file, &source).map(Some)
            }
        }
    }

    fn compile(&mut self, cursor: &Cursor<'_>, source: &Source<'_>) -> Option<Policy> {
        if !self.work.takes(cursor, source.bytes.len().saturating_mul(COMPILE_COST)) {
            return None;
        }
        self.work.look = LOOK.saturating_add(source.bytes.len() / LOOK_SHARE);
        let compiled = match self.reading {
            Reading::AsWritten => Policy::compile(source),
            Reading::Compat => Policy::compile_lenient(source),
        };
        match compiled {
            Ok(compiled) => Some(compiled.policy),
            Err(defects) => {
                defects.iter().for_each(|defect| cursor.defect(defect.to_string()));
                None
            }
        }
    }

    fn case(&mut self, policy: Option<&Policy>, cursor: &Cursor<'_>) {
        let known =
            ["id", "request", "call", "identity", "server", "state", "at", "input_schema", "expect", "expect_compat"];
        let Some(keys) = fields(cursor, &known) else { return };
        if let Some(state) = keys.optional("state") {
            let _known = state.one_of(&["fresh"]);
        }
        let id = keys.required("id").and_then(|id| id.non_empty());
        let call = Call::read(&keys, START_MS);
        let (Some(id), Some(call), Some(expected)) = (id, call, read_expected(&keys, self.reading)) else { return };
        if !self.work.looks(cursor, call.body.len()) {
            return;
        }
        let outcome = call.run(policy, &mut Store::new(self.counters));
        self.compare(id.to_owned(), &expected, &outcome, &call);
    }

    fn sequence(&mut self, policy: Option<&Policy>, cursor: &Cursor<'_>) {
        let Some(keys) = fields(cursor, &["id", "steps"]) else { return };
        let id = keys.required("id").and_then(|id| id.non_empty()).unwrap_or_default();
        let steps = keys.required("steps").and_then(|steps| steps.items()).unwrap_or_default();
        let (mut store, mut now_ms, mut done) = (Store::new(self.counters), START_MS, Vec::new());
        for (index, step) in steps.iter().enumerate() {
            let known = [
                "request",
                "call",
                "times",
                "identity",
                "server",
                "at",
                "upstream",
                "answer",
                "input_schema",
                "expect",
                "expect_compat",
            ];
            let Some(keys) = fields(step, &known) else { continue };
            let upstream = keys.optional("upstream").map_or(Some(Upstream::Answered), |cursor| read_upstream(&cursor));
            let call = Call::read(&keys, now_ms);
            let answer = keys.optional("answer").map_or(Some(None), |cursor| answer::read(&cursor, upstream).map(Some));
            let (Some(upstream), Some(call), Some(answer), Some(expected)) =
                (upstream, call, answer, read_expected(&keys, self.reading))
            else {
                continue;
            };
            now_ms = call.at_ms;
            let times = keys.optional("times").map_or(Some(1), |cursor| cursor.u64_in(&(1..=TIMES_MAX)));
            let mut outcomes = Vec::new();
            for _ in 0..times.unwrap_or(0) {
                if !self.work.looks(step, call.body.len()) {
                    return;
                }
                let outcome = call.run(policy, &mut store);
                if let Ok(held) = &outcome.verdict {
                    let came = answer.as_ref().zip(policy).zip(outcome.tool.as_deref());
                    let came = came.and_then(|((answer, policy), tool)| answer.came(policy, tool));
                    match upstream {
                        Upstream::Answered if came.is_some() => store.end(held, now_ms, End::Answer(came)),
                        Upstream::Answered => {}
                        Upstream::AnsweredAt(at_ms) => store.end_at(at_ms, held.clone(), End::Answer(came)),
                        Upstream::Failed => store.end(held, now_ms, End::Failure),
                        Upstream::FailedAt(at_ms) => store.end_at(at_ms, held.clone(), End::Failure),
                    }
                }
                outcomes.push(outcome);
            }
            done.push((format!("{id} step {}", index.saturating_add(1)), expected, outcomes, call));
        }
        for (id, expected, outcomes, call) in &done {
            outcomes.iter().for_each(|outcome| self.compare(id.clone(), expected, outcome, call));
        }
    }

    fn tools_list(&mut self, policy: Option<&Policy>, cursor: &Cursor<'_>) {
        let Some(keys) = fields(cursor, &["id", "identity", "upstream_tools", "visible_tools"]) else { return };
        let names =
            |key: &str| -> Option<Vec<&str>> { keys.required(key)?.items()?.iter().map(Cursor::string).collect() };
        let id = keys.required("id").and_then(|id| id.non_empty());
        let (Some(id), Some(all), Some(expected)) = (id, names("upstream_tools"), names("visible_tools")) else {
            return;
        };
        let who =
            keys.optional("identity").map_or_else(|| Some(Principal::of_grant("test")), |who| read_identity(&who));
        let Some(who) = who else { return };
        if !all.iter().all(|name| self.work.looks(cursor, name.len())) {
            return;
        }
        let visible = |name: &&str| policy.is_some_and(|policy| policy.is_visible(&who, name));
        let actual: Vec<&str> = all.into_iter().filter(visible).collect();
        self.note(id.to_owned(), actual == expected, || (list_text(&expected), list_text(&actual)));
    }

    fn invalid(&mut self, cursor: &Cursor<'_>) {
        let Some(keys) = fields(cursor, &["id", "policy", "expect"]) else { return };
        let id = keys.required("id").and_then(|id| id.non_empty());
        let (Some(id), Some(policy)) = (id, keys.required("policy")) else { return };
        let text = json_text(policy.node());
        if !self.work.takes(cursor, text.len().saturating_mul(COMPILE_COST)) {
            return;
        }
        let source = Source { id: "invalid", file: "policy", bytes: text.as_bytes(), format: Format::Json };
        let refused = match self.reading {
            Reading::AsWritten => Policy::compile(&source).is_err(),
            Reading::Compat => Policy::compile_lenient(&source).is_err(),
        };
        self.note(id.to_owned(), refused, || ("a policy that is refused".to_owned(), "one that loads".to_owned()));
    }

    fn compare(&mut self, id: String, expected: &Expected<'_>, outcome: &Outcome, call: &Call) {
        let fault = expected.fault(outcome, call);
        self.note(id, fault.is_none(), || fault.unwrap_or_default());
    }

    pub(super) fn note(&mut self, id: String, passed: bool, texts: impl FnOnce() -> (String, String)) {
        if passed {
            self.results.passed = self.results.passed.saturating_add(1);
        } else {
            let (expected, actual) = texts();
            self.results.failures.push(Failure { id, expected, actual });
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Upstream {
    Answered,
    AnsweredAt(u64),
    Failed,
    FailedAt(u64),
}

fn read_upstream(cursor: &Cursor<'_>) -> Option<Upstream> {
    let text = cursor.string()?;
    if let Some(at) = text.strip_prefix("failed_at:") {
        return read_time(cursor, at.trim()).map(Upstream::FailedAt);
    }
    if let Some(at) = text.strip_prefix("ok_at:") {
        return read_time(cursor, at.trim()).map(Upstream::AnsweredAt);
    }
    match text {
        "ok" => Some(Upstream::Answered),
        "failed" => Some(Upstream::Failed),
        _ => {
            cursor.defect(format!(
                "expected `ok`, `failed`, `ok_at:<time>` or `failed_at:<time>`, found {}",
                quoted(text)
            ));
            None
        }
    }
}

fn read_time(cursor: &Cursor<'_>, text: &str) -> Option<u64> {
    let time = text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    if time.is_none() {
        cursor.defect(format!("expected a time such as `2026-06-16T10:00:00Z`, found {}", quoted(text)));
    }
    time
}

/// The text of the request: as it is given, or around a call of a tool.
fn read_body(keys: &Fields<'_>) -> Option<String> {
    let Some(call) = keys.optional("call") else {
        let request = keys.required("request")?;
        return Some(match &request.node().shape {
            // A text is a body as it stands, so that malformed ones can be tested too.
            Shape::String(text) => text.clone(),
            Shape::Bool(_) | Shape::List(_) | Shape::Map(_) | Shape::Null | Shape::Number(_) => {
                json_text(request.node())
            }
        });
    };
    if let Some(request) = keys.optional("request") {
        request.defect("a case has `request` or `call`, not both");
        return None;
    }
    fields(&call, &["name", "arguments"])?.required("name").and_then(|name| name.string())?;
    let params = json_text(call.node());
    Some(format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{params}}}"))
}

/// One request of a case.
struct Call {
    body: String,
    who: Principal,
    server: String,
    at_ms: u64,
    /// The schema of the tool, where the case gives one.
    schema: Option<String>,
}

impl Call {
    fn read(keys: &Fields<'_>, before_ms: u64) -> Option<Self> {
        let body = read_body(keys);
        let who = keys
            .optional("identity")
            .map_or_else(|| Some(Principal::of_grant("test")), |cursor| read_identity(&cursor));
        let at_ms = keys.optional("at").map_or(Some(before_ms), |cursor| read_time(&cursor, cursor.string()?));
        let server = keys.optional("server").map_or(Some("test"), |cursor| cursor.non_empty());
        let schema = keys.optional("input_schema").map(|cursor| json_text(cursor.node()));
        Some(Self { body: body?, who: who?, server: server?.to_owned(), at_ms: at_ms?, schema })
    }

    fn run(&self, policy: Option<&Policy>, store: &mut Store<'_>) -> Outcome {
        let document = match Document::parse(self.body.as_bytes(), Limits::default()) {
            Ok(document) => document,
            Err(error) => return Outcome::refused(error.defect.reason()),
        };
        let mirrored = MirroredHeaders::of(document.root());
        let headers = mirrored.headers();
        let message = match Message::read(&document, &headers, ProtocolVersion::ALL) {
            Ok(message) => message,
            Err(refused) => return Outcome::refused(refused.reason),
        };
        let known = match (&message.body, &self.schema) {
            (Body::ToolCall(call), Some(schema)) => Known::of_schema(&call.name(), schema),
            _ => Known::Off,
        };
        let verdict = match judge_pinned(policy, &self.who, &self.server, &message, &known) {
            Decision::Proceed(charges) => store.reserve(&charges, self.at_ms),
            Decision::Deny(denial) => Err(denial),
        };
        let (tool, keys) = match message.body {
            Body::ToolCall(call) => (Some(call.name().into_owned()), argument_keys(call.arguments)),
            Body::Notification(_) | Body::Request(_) | Body::Response => (None, BTreeSet::new()),
        };
        let concealed = |denial: &Denial| {
            let tool = tool.as_deref().filter(|tool| is_concealed(policy, &self.who, tool, denial.reason));
            answer_body(denial, &message, tool)
        };
        let body = verdict.as_ref().err().map(concealed);
        Outcome { verdict, tool, keys, body }
    }
}

fn argument_keys(arguments: Option<Value<'_>>) -> BTreeSet<String> {
    arguments.map(|value| value.members().map(|(key, _)| key.into_owned()).collect()).unwrap_or_default()
}

fn answer_body(denial: &Denial, message: &Message<'_>, unknown_tool: Option<&str>) -> String {
    let asked = match message.body {
        Body::ToolCall(_) => Asked::ToolCall,
        Body::Request(_) => Asked::Request,
        Body::Notification(_) | Body::Response => Asked::NoAnswer,
    };
    let context = Context {
        asked,
        era: message.era,
        id: message.id,
        policy_digest: None,
        request_id: None,
        resource_metadata: None,
        requested_version: None,
        versions: ProtocolVersion::ALL,
        unknown_tool,
    };
    crate::answer::answer(denial, &context).body
}

impl Outcome {
    fn refused(reason: Reason) -> Self {
        let denial = Denial { rule: Rule::built_in("(invalid request)"), ..Denial::built_in(reason) };
        Self { verdict: Err(denial), tool: None, keys: BTreeSet::new(), body: None }
    }

    fn describe(&self) -> String {
        match &self.verdict {
            Ok(_) => "allow".to_owned(),
            Err(denial) => {
                let exact = denial.rule.exact.as_deref().map_or(String::new(), |exact| format!(" at {exact}"));
                let (rule, reason) = (&denial.rule.pointer, denial.reason);
                format!("deny {rule} with {}{exact}, reason {reason}", quoted(&denial.message))
            }
        }
    }
}

impl Expected<'_> {
    /// What was expected and what happened, where they differ.
    fn fault(&self, outcome: &Outcome, call: &Call) -> Option<(String, String)> {
        let denial = outcome.verdict.as_ref().err();
        let denies = |wanted: Option<&str>, found: Option<&str>| wanted.is_none_or(|wanted| found == Some(wanted));
        let same = self.allow == denial.is_none()
            && denial.is_none_or(|denial| {
                denies(self.rule, Some(&denial.rule.pointer))
                    && denies(self.exact, denial.rule.exact.as_deref())
                    && denies(self.reason, Some(denial.reason.name()))
                    && denies(self.message, Some(&denial.message))
            });
        if !same {
            return Some((self.describe(), outcome.describe()));
        }
        let body = outcome.body.as_deref().unwrap_or("null");
        if let Some(response) = self.response.map(json_text)
            && !holds_all_of(body, &response)
        {
            return Some((format!("the response {response}"), body.to_owned()));
        }
        if let Some(id) = self.response_id.map(json_text)
            && !holds_all_of(body, &format!("{{\"id\":{id}}}"))
        {
            return Some((format!("a response with the id {id}"), body.to_owned()));
        }
        let log = log_text(outcome, denial, &call.who);
        match self.log.map(json_text) {
            Some(wanted) if !holds_all_of(&log, &sort_args(&wanted)) => Some((format!("the log {wanted}"), log)),
            Some(_) | None => None,
        }
    }
}

/// The part of an audit record that a case can speak of; argument names in the order of the alphabet.
fn log_text(outcome: &Outcome, denial: Option<&Denial>, who: &Principal) -> String {
    let text = |text: &str| serde_json::Value::from(text);
    let log = serde_json::json!({
        "decision": if denial.is_some() { "deny" } else { "allow" },
        "tool": outcome.tool.as_deref().map(text),
        "rule": denial.map_or("", |denial| &denial.rule.pointer),
        "reason": denial.map(|denial| text(&denial.message)),
        "args": outcome.keys.iter().collect::<Vec<_>>(),
        "grant": text(&who.grant),
    });
    log.to_string()
}

/// Argument names are compared as a set: whether a log keeps their order is not the policy's affair.
fn sort_args(log: &str) -> String {
    let Ok(serde_json::Value::Object(mut log)) = serde_json::from_str(log) else { return log.to_owned() };
    if let Some(serde_json::Value::Array(args)) = log.get_mut("args") {
        args.sort_by_key(|arg| arg.as_str().map(str::to_owned));
    }
    serde_json::Value::Object(log).to_string()
}

/// Whether `actual` has every member that `wanted` has, at every depth; lists have the same length.
fn holds_all_of(actual: &str, wanted: &str) -> bool {
    let limits = Limits::default();
    let (Ok(actual), Ok(wanted)) =
        (Document::parse(actual.as_bytes(), limits), Document::parse(wanted.as_bytes(), limits))
    else {
        return false;
    };
    contains(actual.root(), wanted.root())
}

/// Depth is bounded by the parser's limits.
pub(super) fn contains(actual: Value<'_>, wanted: Value<'_>) -> bool {
    match (actual.kind(), wanted.kind()) {
        (Kind::Object, Kind::Object) => {
            wanted.members().all(|(key, wanted)| actual.get(&key).is_some_and(|actual| contains(actual, wanted)))
        }
        (Kind::Array, Kind::Array) => {
            actual.len() == wanted.len() && actual.elements().zip(wanted.elements()).all(|(a, w)| contains(a, w))
        }
        (Kind::String, Kind::String) => actual.as_str() == wanted.as_str(),
        (found, kind) => found == kind && actual.raw() == wanted.raw(),
    }
}

fn read_identity(cursor: &Cursor<'_>) -> Option<Principal> {
    let keys = fields(cursor, &["grant", "subject", "groups"])?;
    let mut who = Principal::of_grant(keys.required("grant")?.non_empty()?);
    if let Some(subject) = keys.optional("subject") {
        who.subject = Arc::from(subject.non_empty()?);
    }
    if let Some(groups) = keys.optional("groups") {
        who.groups = read_groups(&groups)?;
    }
    Some(who)
}

fn list_text(names: &[&str]) -> String {
    format!("[{}]", names.join(", "))
}
