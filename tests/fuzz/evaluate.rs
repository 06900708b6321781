//! A policy, a tool and arguments: the decision is the model's, its explanation's, and no accident of spelling.
//!
//! Input: `POLICY \n%%\n TOOL \n%%\n ARGUMENTS`; without a separator the arguments for policies of our own.

use std::sync::Arc;

use mcp_authz_core::{
    answer::{Asked, Context, answer},
    decision::{Decision, Denial},
    document::Format,
    http::Headers,
    json::{Document, Limits, Value},
    judge::judge,
    ledger::Span,
    mcp::{Era, Message, ProtocolVersion, is_plain_tool_name},
    number::AMOUNT_MAX,
    policy::{Call, Compiled, Policy, Source, StepOutcome},
    principal::Principal,
    quota::{BUCKETS_MAX, Charge, LINES_MAX},
    text::push_json_string,
};
use serde_json::Value as Reference;

use crate::{model, parse::assert_answer};

/// Judges with the policy in the data, or with ours.
///
/// # Panics
/// If a property does not hold.
pub fn evaluate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, "\n%%\n");
    match (parts.next(), parts.next(), parts.next()) {
        (Some(policy), Some(tool), Some(arguments)) => judge_under(policy, tool, arguments),
        _ => {
            for tool in ["pay", "read", "gone", "post", "other"] {
                judge_under(OWN, tool, text);
            }
        }
    }
}

/// Every operator in both sections, a hidden tool, amounts.
const OWN: &str = include_str!("own.json");

/// Bytes of every request, as far as the policy is told.
pub(crate) const REQUEST_BYTES: u64 = 100;

/// Who calls, in every target.
pub(crate) fn caller() -> Principal {
    Principal {
        subject: Arc::from("agent:fuzz"),
        groups: [Arc::from("blue"), Arc::from("red")].into(),
        ..Principal::of_grant("fuzz")
    }
}

/// What is asked, in every target.
pub(crate) fn call<'a>(tool: &'a str, arguments: Option<Value<'a>>) -> Call<'a> {
    Call { server: "server", tool, arguments, request_bytes: REQUEST_BYTES }
}

/// Compiles what is JSON by its first character, else YAML.
pub(crate) fn compile(text: &str) -> Option<Policy> {
    let format = if text.trim_start().starts_with('{') { Format::Json } else { Format::Yaml };
    let compiled = Policy::compile(&Source { id: "fuzz", file: "fuzz", bytes: text.as_bytes(), format });
    compiled.ok().map(|Compiled { policy, .. }| policy)
}

fn judge_under(source: &str, tool: &str, arguments: &str) {
    let Some(policy) = compile(source) else { return };
    let document = Document::parse(arguments.as_bytes(), Limits::default()).ok();
    let arguments = document.as_ref().map(Document::root).filter(|root| root.source().starts_with('{'));
    let decision = decide(&policy, tool, arguments);
    let reference = serde_json::from_str::<Reference>(source).ok();
    as_modeled(&decision, reference.as_ref(), tool, arguments);
    as_explained(&policy, &decision, tool, arguments);
    as_respelled(source, &policy, &decision, tool, arguments);
    match &decision {
        Decision::Proceed(charges) => {
            assert!(policy.is_visible(&caller(), tool), "a tool that passes is not shown");
            assert!(charges.iter().all(|charge| charge.amount <= charge.max), "a charge that never fits");
            assert!(charges.len() <= LINES_MAX, "more counters than a store takes");
            assert!(charges.iter().all(is_sound), "a charge that no store can count");
            assert!(charges.iter().all(|charge| is_listed(&policy, tool, charge)), "a counter that is not listed");
        }
        Decision::Deny(denial) => denied(denial, reference.as_ref()),
    }
    as_judged(&policy, tool, arguments);
}

/// Whether a ledger can count it: the windows of a calendar exist, and a token bucket is not too large.
fn is_sound(charge: &Charge) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    let span = Span::of(&charge.measure, charge.max, 1_800_000_000_000);
    let sized = match span {
        Some(Span::TokenBucket { interval_us, burst_us }) => interval_us > 0 && burst_us <= AMOUNT_MAX,
        Some(Span::Rolling { bucket_ms, buckets }) => bucket_ms > 0 && (1..=BUCKETS_MAX).contains(&buckets),
        Some(_) => true,
        None => false,
    };
    sized && charge.max <= AMOUNT_MAX && charge.terms.label.chars().all(plain)
}

/// Whoever asks where the caller stands is told of every counter of the tools that the policy names.
fn is_listed(policy: &Policy, tool: &str, charge: &Charge) -> bool {
    let listed = policy.counters(&caller(), &["server"]);
    !policy.names_tool(tool) || listed.iter().any(|listed| listed.charge.counter == charge.counter)
}

/// Twice the same.
fn decide(policy: &Policy, tool: &str, arguments: Option<Value<'_>>) -> Decision {
    let decision = policy.decide(&caller(), &call(tool, arguments));
    assert_eq!(decision, policy.decide(&caller(), &call(tool, arguments)), "two decisions on one call");
    decision
}

fn as_modeled(decision: &Decision, policy: Option<&Reference>, tool: &str, arguments: Option<Value<'_>>) {
    let arguments = match arguments.map(|arguments| serde_json::from_str::<Reference>(arguments.source())) {
        Some(Err(_)) => return,
        Some(Ok(arguments)) => Some(arguments),
        None => None,
    };
    let expected = policy.and_then(|policy| model::allows(policy, tool, arguments.as_ref()));
    if let Some(expected) = expected {
        assert_eq!(matches!(decision, Decision::Proceed(_)), expected, "{decision:?} is not what the model says");
    }
}

/// The explanation decides alike, and its first step that denies is the reason.
fn as_explained(policy: &Policy, decision: &Decision, tool: &str, arguments: Option<Value<'_>>) {
    let explanation = policy.explain(&caller(), &call(tool, arguments));
    assert_eq!(explanation.decision, *decision);
    let first = explanation.steps.iter().find_map(|step| match step.outcome {
        StepOutcome::Denies(reason) => Some(reason),
        StepOutcome::Passes => None,
    });
    let reason = match decision {
        Decision::Deny(denial) => Some(denial.reason),
        Decision::Proceed(_) => None,
    };
    assert_eq!(first, reason, "{explanation:?}");
}

/// White space, the order of members and an empty object in place of nothing say nothing. Nor does a server that reads
/// numbers as binary64 find a call in what passes that would not have passed.
fn as_respelled(source: &str, policy: &Policy, decision: &Decision, tool: &str, arguments: Option<Value<'_>>) {
    let respelled = match arguments {
        None => Some("{}".to_owned()),
        Some(arguments) => {
            let reference = serde_json::from_str::<Reference>(arguments.source()).ok();
            reference.map(|reference| model::reversed(&reference))
        }
    };
    let document = respelled.as_ref().map(|text| Document::parse(text.as_bytes(), Limits::default()));
    let Some(Ok(document)) = &document else { return };
    // A length is of the spelling.
    if source.contains("bytes") {
        return;
    }
    let again = policy.decide(&caller(), &call(tool, Some(document.root())));
    if !arguments.is_some_and(has_long_number) {
        assert_eq!(again, *decision, "{respelled:?}");
    } else if matches!(decision, Decision::Proceed(_)) && !has_long_digits(source) {
        assert!(matches!(again, Decision::Proceed(_)), "passes, but not as {respelled:?}");
    }
}

/// More digits in a row than binary64 keeps apart: then even the policy means another number to such a server.
fn has_long_digits(source: &str) -> bool {
    source.split(|c: char| !c.is_ascii_digit() && c != '.').any(|digits| digits.len() > 15)
}

/// serde_json prints what it holds of a number, which is all of it only for short ones.
fn has_long_number(value: Value<'_>) -> bool {
    value.number_text().is_some_and(|literal| literal.len() > 15 || literal.contains(['e', 'E', '.', '-']))
        || value.elements().any(has_long_number)
        || value.members().any(|(_, member)| has_long_number(member))
}

/// The rule is in the document, and the answer can be sent.
fn denied(denial: &Denial, policy: Option<&Reference>) {
    if let (Some(exact), Some(policy)) = (&denial.rule.exact, policy) {
        assert!(policy.pointer(exact).is_some(), "no rule at {exact}");
    }
    let context = Context {
        asked: Asked::ToolCall,
        era: Era::Modern,
        id: Some("\"i\""),
        policy_digest: None,
        request_id: None,
        resource_metadata: None,
        requested_version: None,
        versions: ProtocolVersion::ALL,
        unknown_tool: None,
    };
    assert_answer(&answer(denial, &context), Some(&Reference::from("i")));
}

/// A whole message is judged as its call is; a name that MCP does not allow never gets more.
fn as_judged(policy: &Policy, tool: &str, arguments: Option<Value<'_>>) {
    let mut text = String::from("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":");
    push_json_string(&mut text, tool);
    if let Some(arguments) = arguments {
        text.push_str(",\"arguments\":");
        text.push_str(arguments.source());
    }
    text.push_str("}}");
    let Ok(document) = Document::parse(text.as_bytes(), Limits::default()) else { return };
    let Ok(message) = Message::read(&document, &Headers::default(), ProtocolVersion::ALL) else { return };
    let judged = judge(Some(policy), &caller(), "server", &message);
    if is_plain_tool_name(tool) || policy.names_tool(tool) {
        // The message has a length of its own.
        let call = Call { request_bytes: message.bytes, ..call(tool, arguments) };
        assert_eq!(judged, policy.decide(&caller(), &call));
    } else {
        assert!(matches!(judged, Decision::Deny(_)), "a name that no policy lists and MCP does not allow");
    }
    assert!(matches!(judge(None, &caller(), "server", &message), Decision::Deny(_)), "allowed without a policy");
}
