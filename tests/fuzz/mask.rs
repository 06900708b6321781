//! One message through a policy that masks addresses and cards: what leaves is JSON, holds neither, and is the same however it is
//! cut.
//!
//! Input: a first byte that says what was asked and how the message comes, a second one that says where it is cut; the rest is the
//! text of the message.

use std::sync::{Arc, LazyLock};

use mcp_authz_core::{
    document::Format,
    mcp::Method,
    policy::{Policy, Source},
    response::{Asked, Head},
};
use serde_json::Value as Reference;

use crate::response::run;

/// What the corpus is full of, and what a reader must never find in what leaves.
const CANARIES: [&str; 2] = ["ada.lovelace@customers.test", "4111 1111 1111 1111"];

const POLICY: &str = r#"{"version":"2","default":"allow","mask":[
  {"detect":["email","payment_card"]},
  {"path":"result.structuredContent.customer.born"}],
  "inspect":{"hidden_text":"mask"}}"#;

static RULES: LazyLock<Option<Arc<Policy>>> = LazyLock::new(|| {
    let source = Source { id: "p", file: "p.json", bytes: POLICY.as_bytes(), format: Format::Json };
    Policy::compile(&source).ok().map(|compiled| Arc::new(compiled.policy))
});

/// Runs one message whole, cut in two and byte by byte.
///
/// # Panics
/// If a property does not hold.
pub fn mask(data: &[u8]) {
    let ([kind, cut, text @ ..], Some(policy)) = (data, &*RULES) else { return };
    let stream = kind & 1 == 1;
    let asked = if kind & 2 == 0 { Asked::Call("here".into()) } else { Asked::Request(Method::ResourcesRead) };
    let types: &[&[u8]] = if stream { &[b"text/event-stream"] } else { &[b"application/json"] };
    let head = Head { status: 200, content_types: types, content_encodings: &[], content_length: None, is_end: false };
    let body = if stream { [b"data: ", text, b"\n\n"].concat() } else { text.to_vec() };
    let (out, report) = run(policy, &asked, &head, &[&body]);
    let (a, b) = body.split_at(usize::from(*cut).min(body.len()));
    assert_eq!(run(policy, &asked, &head, &[a, b]).0, out, "cut at {cut}");
    if (1..=512).contains(&body.len()) {
        let single: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(run(policy, &asked, &head, &single).0, out, "byte by byte");
    }
    for line in String::from_utf8_lossy(&out).lines() {
        let json = if stream { line.strip_prefix("data:").unwrap_or_default() } else { line };
        if let Ok(message) = serde_json::from_str::<Reference>(json) {
            holds_no_canary(&message);
        }
    }
    if !stream && report.withheld.is_none() {
        let answer = serde_json::from_slice::<Reference>(&out);
        // A number that no binary64 holds is JSON all the same.
        let is_json = answer.err().is_none_or(|error| error.to_string().contains("number out of range"));
        assert!(is_json, "what leaves is no JSON: {}", out.escape_ascii());
    }
}

/// No text holds what is masked: not in JSON within JSON either, to the depth that is documented.
fn holds_no_canary(value: &Reference) {
    match value {
        Reference::Array(elements) => elements.iter().for_each(holds_no_canary),
        Reference::Object(members) => {
            for (name, value) in members {
                assert!(!CANARIES.iter().any(|canary| name.contains(canary)), "a canary is a name");
                // Tokens of the protocol are what the other side must get back as they are.
                if !TOKENS.contains(&&**name) {
                    holds_no_canary(value);
                }
            }
        }
        Reference::String(text) => {
            assert!(!CANARIES.iter().any(|canary| stands(text, canary)), "a canary leaves: {text:?}");
            if let Ok(inner @ (Reference::Array(_) | Reference::Object(_))) = serde_json::from_str(text) {
                holds_no_canary(&inner);
            }
        }
        Reference::Bool(_) | Reference::Null | Reference::Number(_) => {}
    }
}

/// Whether the text holds the canary by itself: a part of a longer word or of a longer number is something else.
fn stands(text: &str, canary: &str) -> bool {
    text.match_indices(canary).any(|(at, _)| {
        let before = text.get(..at).unwrap_or_default();
        let after = text.get(at.saturating_add(canary.len())..).unwrap_or_default();
        let goes_on = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || "-._+/\\@%&=#~".contains(c));
        let is_number = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        let (left, right) = (before.trim_end(), after.trim_start());
        !goes_on(before.chars().next_back())
            && !goes_on(after.chars().next())
            && !is_number(left.chars().next_back())
            && !is_number(right.chars().next())
    })
}

const TOKENS: [&str; 8] =
    ["id", "requestState", "nextCursor", "progressToken", "requestId", "taskId", "elicitationId", "method"];
