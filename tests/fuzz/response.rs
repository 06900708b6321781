//! A response in chunks, through the response phase: nothing that should be hidden leaves, whatever comes and however it is cut.
//!
//! Input: a first byte that says what the response is and what was asked, a second one that says where it is cut; the rest is the
//! body.

use std::sync::{Arc, LazyLock};

use mcp_authz_core::{
    document::Format,
    mask::MaskKey,
    mcp::{Era, Method},
    policy::{Policy, Source},
    principal::Principal,
    response::{Asked, Begun, Exchange, Head, Job, Limits, Report, Step},
};
use serde_json::Value as Reference;

/// Hides one tool by name, and everything that it does not name.
const POLICY: &str = r#"{"version":"1","default":"deny","hide":["gone"],"tools":{"here":{},"also":{}}}"#;

const LIMITS: Limits = Limits { bytes_max: 4_096, depth_max: 16, nodes_max: 500, list_ttl_max_ms: 60_000 };

static RULES: LazyLock<Option<Arc<Policy>>> = LazyLock::new(|| {
    let source = Source { id: "p", file: "p.json", bytes: POLICY.as_bytes(), format: Format::Json };
    Policy::compile(&source).ok().map(|compiled| Arc::new(compiled.policy))
});

/// Runs one response whole, cut in two and byte by byte.
///
/// # Panics
/// If a property does not hold.
pub fn response(data: &[u8]) {
    let [kind, cut, body @ ..] = data else { return };
    let (head, asked) = case(*kind);
    let Some(policy) = &*RULES else { return };
    let run = |asked: &Asked, head: &Head<'_>, chunks: &[&[u8]]| run(policy, asked, head, chunks);
    let whole = run(&asked, &head, &[body]);
    let (a, b) = body.split_at(usize::from(*cut).min(body.len()));
    assert_eq!(run(&asked, &head, &[a, b]), whole, "cut at {cut}");
    let single: Vec<&[u8]> = body.chunks(1).collect();
    if !single.is_empty() {
        assert_eq!(run(&asked, &head, &single), whole, "byte by byte");
    }
    let (out, report) = whole;
    if head.content_types == [b"text/plain"] {
        return;
    }
    let stream = head.content_types == [b"text/event-stream"];
    let waits = asked != Asked::Stream;
    let texts = if stream { events(&out) } else { vec![out.clone()] };
    for text in &texts {
        holds_nothing_hidden(text);
    }
    if !stream && waits && head.status == 200 {
        let answer: Reference = serde_json::from_slice(&out).unwrap_or_default();
        assert_eq!(answer.get("id"), Some(&Reference::from(1)), "no answer to the request: {}", out.escape_ascii());
    }
    if stream && waits {
        let answers = texts.iter().filter(|text| is_answer(text)).count();
        assert!(answers <= 1, "{answers} answers");
        // Who is told that something was withheld is not left waiting.
        assert!(report.withheld.is_none() || answers == 1 || report.dropped > 0, "{report:?}");
    }
    if report.hidden == 0 && report.withheld.is_none() && out.len() == body.len() && !caches(body) {
        assert_eq!(out, body, "changed without a reason");
    }
}

/// Whether the text may hold a member that is changed without anything being hidden.
fn caches(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    text.contains("cacheScope") || text.contains("ttlMs") || text.contains("\\u")
}

fn case(kind: u8) -> (Head<'static>, Asked) {
    let types: &[&[u8]] = match kind & 3 {
        0 | 1 => &[b"text/event-stream"],
        2 => &[b"application/json"],
        _ => &[b"text/plain"],
    };
    let asked = match (kind >> 2) & 3 {
        0 => Asked::Stream,
        1 => Asked::Request(Method::PromptsList),
        _ => Asked::Request(Method::ToolsList),
    };
    let status = if kind & 16 == 0 { 200 } else { 404 };
    (Head { status, content_types: types, content_encodings: &[], content_length: None, is_end: false }, asked)
}

/// What leaves of a response that comes in these chunks.
pub(crate) fn run(policy: &Arc<Policy>, asked: &Asked, head: &Head<'_>, chunks: &[&[u8]]) -> (Vec<u8>, Report) {
    let job = Job {
        policy: Arc::clone(policy),
        who: Principal::of_grant("g"),
        server: "s".into(),
        asked: asked.clone(),
        era: Era::Legacy,
        id: (*asked != Asked::Stream).then(|| "1".into()),
        pins: None,
        key: MaskKey(Arc::new([7; 32])),
        hashes: true,
        limits: LIMITS,
    };
    let mut exchange = match Exchange::begin(job, head) {
        Begun::Body(exchange) => exchange,
        Begun::Pass => return (chunks.concat(), Report::default()),
        Begun::Withheld(text, report) => return (text.into_bytes(), *report),
    };
    let (mut out, mut left) = (Vec::new(), chunks.len());
    for chunk in chunks {
        left = left.saturating_sub(1);
        match exchange.chunk(chunk, left == 0) {
            Step::Same => out.extend_from_slice(chunk),
            Step::Bytes(bytes) => out.extend(bytes),
            // There are no pins; what was held would show below.
            Step::Record(_) => {}
        }
        assert!(exchange.held_bytes() <= LIMITS.bytes_max, "more is held than the limit");
    }
    assert_eq!(exchange.held_bytes(), 0, "held after the end");
    (out, exchange.report().clone())
}

/// The data of every event, read in the most careless way there is: every line that looks like data, at any line end that any
/// reader knows, alone and joined with its neighbors.
fn events(stream: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(stream);
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut found = Vec::new();
    let mut joined = String::new();
    for line in text.split(ends) {
        let line = line.trim().trim_start_matches('\u{feff}');
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if name.trim().eq_ignore_ascii_case("data") {
            found.push(value.trim().as_bytes().to_vec());
            joined.push_str(value.strip_prefix(' ').unwrap_or(value));
            joined.push('\n');
        } else if line.is_empty() {
            found.push(std::mem::take(&mut joined).into_bytes());
        }
    }
    found.push(joined.into_bytes());
    found.retain(|text| !text.is_empty());
    found.dedup_by(|a, b| a.trim_ascii() == b.trim_ascii());
    found
}

fn is_answer(text: &[u8]) -> bool {
    let message: Reference = serde_json::from_slice(text).unwrap_or_default();
    message.get("id") == Some(&Reference::from(1)) && message.get("method").is_none()
}

/// What a careless client reads as a list holds nothing that may not be used.
fn holds_nothing_hidden(text: &[u8]) {
    let Ok(message) = serde_json::from_slice::<Reference>(text) else { return };
    let messages = message.as_array().cloned().unwrap_or_else(|| vec![message]);
    for message in messages.iter().filter(|message| message.get("jsonrpc").is_some()) {
        let Some(result) = message.get("result").and_then(Reference::as_object) else { continue };
        for (member, elements) in result {
            let allowed: &[&str] = match &*member.to_ascii_lowercase() {
                "tools" => &["here", "also"],
                "prompts" | "resources" | "resourcetemplates" => &[],
                _ => continue,
            };
            for element in elements.as_array().into_iter().flatten() {
                let name = element.get("name").and_then(Reference::as_str).unwrap_or_default();
                assert!(allowed.contains(&name), "{name:?} is shown in {member}");
            }
        }
    }
}
