//! Cases of results: what a server answers, and what the agent gets of it.

use std::sync::Arc;

use super::run::{File, contains};
use super::{fields, items, json_text};
use crate::document::{Cursor, Fields, Shape};
use crate::json::{Document, Limits};
use crate::mask::{Findings, Judged, MaskKey};
use crate::policy::Policy;
use crate::splice::Splices;

/// The key of `hash` in test cases: a case can name the replacement that it expects, and no server uses this key.
const TEST_KEY: [u8; 32] = [0; 32];

/// What a case gives: a message of the server, and the tool whose call it answers.
struct Case<'a> {
    id: &'a str,
    tool: Option<&'a str>,
    message: String,
}

/// What came of it.
struct Outcome {
    judged: Result<String, Arc<str>>,
    findings: Findings,
}

impl File<'_> {
    /// Runs the `results` of a suite.
    pub(super) fn results(&mut self, policy: Option<&Policy>, keys: &Fields<'_>) {
        for cursor in items(keys, "results") {
            let Some(policy) = policy else {
                cursor.defect("without a policy there are no results: nothing may be called");
                continue;
            };
            let Some(keys) = fields(&cursor, &["id", "tool", "result", "message", "expect"]) else { continue };
            let expected = keys.required("expect").and_then(|expect| read_expected(&expect));
            let (Some(case), Some(expected)) = (read_case(&keys), expected) else { continue };
            if !self.work.looks(&cursor, case.message.len()) {
                return;
            }
            let outcome = match judge(policy, &case) {
                Ok(outcome) => outcome,
                Err(error) => {
                    keys.map().defect(error);
                    continue;
                }
            };
            let fault = expected.fault(&outcome);
            self.note(case.id.to_owned(), fault.is_none(), || fault.unwrap_or_default());
        }
    }
}

fn read_case<'a>(keys: &Fields<'a>) -> Option<Case<'a>> {
    let id = keys.required("id")?.non_empty()?;
    let tool = keys.optional("tool").map_or(Some(None), |tool| tool.non_empty().map(Some))?;
    let message = match (keys.optional("result"), keys.optional("message")) {
        (Some(result), None) => format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}}", json_text(result.node())),
        (None, Some(message)) => json_text(message.node()),
        (Some(_), Some(message)) => {
            message.defect("a case has `result` or `message`, not both");
            return None;
        }
        (None, None) => {
            keys.map().defect("missing key `result` or `message`: what the server answers");
            return None;
        }
    };
    Some(Case { id, tool, message })
}

fn judge(policy: &Policy, case: &Case<'_>) -> Result<Outcome, String> {
    let document = Document::parse(case.message.as_bytes(), Limits::default()).map_err(|error| error.to_string())?;
    let rules = if case.tool.is_some() { policy.results(case.tool) } else { policy.messages() };
    let (mut splices, mut findings) = (Splices::default(), Findings::default());
    let judged = match rules.judge(&document, &MaskKey(Arc::new(TEST_KEY)), &mut splices, &mut findings) {
        Judged::Pass => Ok(splices.apply(&case.message).ok_or("the changes overlap")?),
        Judged::Block(text) => Err(text),
    };
    Ok(Outcome { judged, findings })
}

/// What is expected of a result.
struct Expected<'a> {
    /// The whole message, or its result.
    message: Option<String>,
    result: Option<String>,
    /// `true`, or the text for the agent.
    withheld: Option<Option<&'a str>>,
    new_fields: Option<Vec<&'a str>>,
    /// How often each rule did something.
    hits: Option<Vec<(&'a str, u64)>>,
}

fn read_expected<'a>(cursor: &Cursor<'a>) -> Option<Expected<'a>> {
    let keys = fields(cursor, &["result", "message", "withheld", "new_fields", "hits"])?;
    let withheld = match keys.optional("withheld") {
        None => None,
        Some(withheld) => match &withheld.node().shape {
            Shape::Bool(true) => Some(None),
            Shape::String(text) => Some(Some(text.as_str())),
            Shape::Bool(false) | Shape::List(_) | Shape::Map(_) | Shape::Null | Shape::Number(_) => {
                withheld.expected("`true` or the text for the agent");
                return None;
            }
        },
    };
    let text = |key: &str| keys.optional(key).map(|value| json_text(value.node()));
    let (result, message) = (text("result"), text("message"));
    if [withheld.is_some(), result.is_some(), message.is_some()].iter().filter(|given| **given).count() != 1 {
        cursor.defect("needs one of `result`, `message` and `withheld`");
        return None;
    }
    let new_fields = match keys.optional("new_fields") {
        None => None,
        Some(list) => Some(list.items()?.iter().map(Cursor::string).collect::<Option<Vec<_>>>()?),
    };
    let hits = match keys.optional("hits") {
        None => None,
        Some(map) => {
            let counts = map.entries()?.into_iter().map(|(rule, count)| Some((rule, count.u64_in(&(1..=u64::MAX))?)));
            Some(counts.collect::<Option<Vec<_>>>()?)
        }
    };
    Some(Expected { message, result, withheld, new_fields, hits })
}

impl Expected<'_> {
    /// What was expected and what happened, where they differ.
    fn fault(&self, outcome: &Outcome) -> Option<(String, String)> {
        let wanted = match (&self.withheld, &self.result, &self.message) {
            (Some(Some(text)), ..) => format!("withheld with \"{text}\""),
            (Some(None), ..) => "withheld".to_owned(),
            (None, Some(text), _) => format!("the result {text}"),
            (None, None, text) => format!("the message {}", text.as_deref().unwrap_or_default()),
        };
        let came = match &outcome.judged {
            Ok(text) => text.clone(),
            Err(text) => format!("withheld with \"{text}\""),
        };
        let is_met = match (&outcome.judged, &self.withheld) {
            (Err(text), Some(wanted)) => wanted.is_none_or(|wanted| *wanted == **text),
            (Ok(text), None) => {
                let wrapped = self.result.as_ref().map(|result| format!("{{\"result\":{result}}}"));
                match (&wrapped, &self.message) {
                    (Some(wanted), _) => same(text, wanted, true),
                    (None, wanted) => same(text, wanted.as_deref().unwrap_or_default(), false),
                }
            }
            (Ok(_), Some(_)) | (Err(_), None) => false,
        };
        if !is_met {
            return Some((wanted, came));
        }
        let fields = &outcome.findings.new_fields;
        if let Some(wanted) = self.new_fields.as_ref().filter(|wanted| *wanted != fields) {
            return Some((format!("the new fields {wanted:?}"), format!("{fields:?}")));
        }
        let mut counts: Vec<(&str, u64)> =
            outcome.findings.hits.iter().map(|hit| (&*hit.rule, u64::from(hit.count))).collect();
        counts.sort_unstable();
        let mut wanted = self.hits.clone().unwrap_or_else(|| counts.clone());
        wanted.sort_unstable();
        (wanted != counts).then(|| (format!("the hits {wanted:?}"), format!("{counts:?}")))
    }
}

/// Whether two texts are the same JSON, or only their results.
fn same(actual: &str, wanted: &str, only_results: bool) -> bool {
    let limits = Limits::default();
    let (Ok(actual), Ok(wanted)) =
        (Document::parse(actual.as_bytes(), limits), Document::parse(wanted.as_bytes(), limits))
    else {
        return false;
    };
    let (actual, wanted) = (actual.root(), wanted.root());
    let parts = if only_results { actual.get("result").zip(wanted.get("result")) } else { Some((actual, wanted)) };
    parts.is_some_and(|(actual, wanted)| contains(actual, wanted) && contains(wanted, actual))
}
