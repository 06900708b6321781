//! Runs policy test cases: a file of calls and the decisions that are expected.
//!
//! The format is `mcp-policy-cases/1`: suites with a policy, single cases, sequences that share counters and have a clock,
//! lists of tools, and policies that must be refused. The same runner serves us and the authors of policies. It reads
//! case files as strictly as policies: a misspelled key must not turn a test into one that always passes.

use std::borrow::Cow;

use crate::document::{Cursor, Defect, Fields, Format, Node, Report, Shape, quoted};
use crate::http::Headers;
use crate::json::Limits;
use crate::json::Value;
use crate::text::push_json_string;

mod answer;
mod results;
mod run;
mod store;

pub use store::Counters;

/// Bytes of a case file.
pub const CASES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Work that one case file may ask for: bytes that are read, over and over for `times`, and a thousand for each call. The admission
/// webhook runs files of people whom nobody trusts yet; these are some seconds.
pub const WORK_MAX: u64 = 100_000_000;
const CASES_NODES_MAX: usize = 1_000_000;
const CASES_DEPTH_MAX: usize = 64;
const FORMAT: &str = "mcp-policy-cases/1";
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// Keys that hold remarks.
const REMARKS: &[&str] = &["basis", "lint", "note", "source", "title"];

/// Under which reading the policies are tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As the policies are written; `expect` counts.
    AsWritten,
    /// As if every policy said `compat: lenient`; `expect_compat` counts where there is one.
    Compat,
}

/// A case file.
#[derive(Clone, Copy, Debug)]
pub struct CaseFile<'a> {
    /// The file as the user names it.
    pub file: &'a str,
    /// The whole document.
    pub bytes: &'a [u8],
    /// Its syntax.
    pub format: Format,
}

/// Another file that a case file names: its name for messages, its content, its syntax.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file as the user would name it.
    pub file: String,
    /// The whole document.
    pub bytes: Vec<u8>,
    /// Its syntax.
    pub format: Format,
}

/// What came of a case file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Cases, steps of sequences, lists and invalid policies that went as expected.
    pub passed: usize,
    /// The others, in the order of the file.
    pub failures: Vec<Failure>,
}

/// One expectation that was not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Id of the case; for a step of a sequence with its number from 1.
    pub id: String,
    /// What the file expects.
    pub expected: String,
    /// What happened.
    pub actual: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: expected {}, got {}", self.id, self.expected, self.actual)
    }
}

/// Runs every case of a file. `load` reads the file of a `policy_file`, whose name is relative to the case file.
///
/// # Errors
/// Every defect of the case file; then nothing ran. A policy that does not compile is one of them.
pub fn run(
    cases: &CaseFile<'_>,
    reading: Reading,
    load: &mut dyn FnMut(&str) -> Result<Loaded, String>,
) -> Result<Results, Vec<Defect>> {
    run_on(cases, reading, load, &mut store::unbounded())
}

/// The same with the counters of another engine.
///
/// # Errors
/// As [`run`].
pub fn run_on(
    cases: &CaseFile<'_>,
    reading: Reading,
    load: &mut dyn FnMut(&str) -> Result<Loaded, String>,
    counters: &mut dyn Counters,
) -> Result<Results, Vec<Defect>> {
    let limits = Limits { bytes_max: CASES_BYTES_MAX, depth_max: CASES_DEPTH_MAX, nodes_max: CASES_NODES_MAX };
    let report = Report::read_within(cases.file, cases.bytes, cases.format, limits);
    let mut results = Results::default();
    if let Some(root) = report.root() {
        run::File { reading, load, counters, results: &mut results, work: run::Work::default() }.run(&root);
    }
    let (defects, _) = report.finish();
    if defects.is_empty() { Ok(results) } else { Err(defects) }
}

/// The keys of a map, remarks included.
fn fields<'a>(cursor: &Cursor<'a>, known: &[&str]) -> Option<Fields<'a>> {
    cursor.fields(&[known, REMARKS].concat())
}

fn items<'a>(keys: &Fields<'a>, name: &str) -> Vec<Cursor<'a>> {
    keys.optional(name).and_then(|list| list.items()).unwrap_or_default()
}

/// The text of a value as JSON; numbers exactly as they are written in the file.
fn json_text(node: &Node) -> String {
    let mut out = String::new();
    push_json(&mut out, node);
    out
}

/// Depth is bounded by the limits of the file, so recursion is.
fn push_json(out: &mut String, node: &Node) {
    match &node.shape {
        Shape::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Shape::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                push_json(out, item);
            }
            out.push(']');
        }
        Shape::Map(members) => {
            out.push('{');
            for (index, (key, value)) in members.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                push_json_string(out, key);
                out.push(':');
                push_json(out, value);
            }
            out.push('}');
        }
        Shape::Null => out.push_str("null"),
        Shape::Number(literal) => out.push_str(literal),
        Shape::String(text) => push_json_string(out, text),
    }
}

/// What the headers of a true client would say of its body.
#[derive(Clone, Debug)]
pub struct MirroredHeaders {
    version: Option<String>,
    method: Option<String>,
    name: Option<String>,
}

impl MirroredHeaders {
    /// Reads them off a body.
    #[must_use]
    pub fn of(root: Value<'_>) -> Self {
        let params = root.get("params");
        let text = |value: Option<Value<'_>>| value.and_then(Value::as_str).map(Cow::into_owned);
        let version = params.and_then(|params| params.get("_meta")).and_then(|meta| meta.get(META_VERSION));
        let modern = version.is_some();
        let name = params.and_then(|params| ["name", "uri", "taskId"].iter().find_map(|key| params.get(key)));
        Self {
            version: text(version),
            method: text(root.get("method").filter(|_| modern)),
            name: text(name.filter(|_| modern)),
        }
    }

    /// As [`crate::mcp::Message::read`] takes them.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        Headers {
            mcp_protocol_version: self.version.as_deref(),
            mcp_method: self.method.as_deref(),
            mcp_name: self.name.as_deref(),
            ..Headers::default()
        }
    }
}

/// What is expected of one call.
#[derive(Debug, Default)]
struct Expected<'a> {
    allow: bool,
    rule: Option<&'a str>,
    message: Option<&'a str>,
    reason: Option<&'a str>,
    exact: Option<&'a str>,
    response: Option<&'a Node>,
    response_id: Option<&'a Node>,
    log: Option<&'a Node>,
}

/// Reads `expect`, or under [`Reading::Compat`] `expect_compat` where there is one.
fn read_expected<'a>(keys: &Fields<'a>, reading: Reading) -> Option<Expected<'a>> {
    let strict = keys.required("expect").and_then(|cursor| read_expectation(&cursor));
    let compat = keys.optional("expect_compat").and_then(|cursor| read_expectation(&cursor));
    match reading {
        Reading::AsWritten => strict,
        // The verdict stays, its reason is of the strict reading: what was a type mismatch is plainly false now.
        Reading::Compat => compat.or(strict.map(|strict| Expected { reason: None, ..strict })),
    }
}

fn read_expectation<'a>(cursor: &Cursor<'a>) -> Option<Expected<'a>> {
    let known = ["decision", "rule", "message", "reason", "exact", "response", "response_id", "log"];
    let keys = fields(cursor, &known)?;
    let allow = keys.required("decision").and_then(|cursor| cursor.one_of(&["allow", "deny"]))? == "allow";
    // `null` is what a file says that does not care.
    let text = |name: &str| {
        keys.optional(name).filter(|cursor| cursor.node().shape != Shape::Null).and_then(|cursor| cursor.string())
    };
    let node = |name: &str| keys.optional(name).map(|cursor| cursor.node());
    let expected = Expected {
        allow,
        rule: text("rule"),
        message: text("message"),
        reason: text("reason"),
        exact: text("exact"),
        response: node("response"),
        response_id: node("response_id"),
        log: node("log"),
    };
    if allow && expected.rule.is_some_and(|rule| !rule.is_empty()) {
        cursor.defect("an allowed call has no rule: leave `rule` empty");
    }
    Some(expected)
}

impl Expected<'_> {
    fn describe(&self) -> String {
        if self.allow {
            return "allow".to_owned();
        }
        let mut out = "deny".to_owned();
        for part in [self.rule.filter(|rule| !rule.is_empty()), self.exact, self.reason].into_iter().flatten() {
            out.push(' ');
            out.push_str(part);
        }
        if let Some(message) = self.message {
            out.push_str(" with ");
            out.push_str(&quoted(message));
        }
        out
    }
}

#[cfg(test)]
mod tests;
