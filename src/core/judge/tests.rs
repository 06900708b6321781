use super::*;
use crate::answer::{Answer, Asked, Context, answer};
use crate::document::Format;
use crate::http::Headers;
use crate::json::{Document, Limits};
use crate::mcp::{Era, ProtocolVersion};
use crate::policy::Source;

fn compile(rest: &str) -> Policy {
    let text = format!(r#"{{"version":"2","default":"deny",{rest}}}"#);
    let source = Source { id: "p", file: "p", bytes: text.as_bytes(), format: Format::Json };
    Policy::compile(&source).unwrap_or_else(|defects| panic!("{text}: {}", defects[0])).policy
}

/// What a call of that tool is answered, and the true reason.
fn refused(policy: &Policy, name: &str, id: &str, era: Era) -> (Answer, Reason) {
    let name = serde_json::to_string(name).unwrap();
    let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":{name}}}}}"#);
    let document = Document::parse(text.as_bytes(), Limits::default()).unwrap();
    let message = Message::read(&document, &Headers::default(), ProtocolVersion::ALL).unwrap();
    let Body::ToolCall(call) = message.body else { panic!("a call") };
    let who = Principal::of_grant("g");
    let Decision::Deny(denial) = judge(Some(policy), &who, "s", &message) else { panic!("{text} is denied") };
    let name = call.name();
    let context = Context {
        asked: Asked::ToolCall,
        era,
        id: message.id,
        policy_digest: Some(policy.digest().as_str()),
        request_id: Some("r-1"),
        resource_metadata: None,
        requested_version: None,
        versions: ProtocolVersion::ALL,
        unknown_tool: Some(&*name).filter(|name| is_concealed(Some(policy), &who, name, denial.reason)),
    };
    (answer(&denial, &context), denial.reason)
}

const CLOSED: &str = r#"{"counter":"c","window":"day","scope":"grant","max":0}"#;
const GROUP: &str = r#"{"counter":"c","window":"day","scope":"group","max":1}"#;

fn policy() -> Policy {
    compile(&format!(
        r#""hidden_as":"unknown","hide":["hidden","odd name"],"tools":{{
            "guarded":{{"require":[{{"conditions":[{{"path":"args.a","op":"exists","value":true}}]}}]}},
            "closed":{{"limits":[{CLOSED}]}},"nobodys":{{"limits":[{GROUP}]}}}}"#
    ))
}

#[test]
fn what_a_caller_cannot_see_is_unknown_to_it_byte_for_byte() {
    let policy = policy();
    for (name, reason) in [
        ("hidden", Reason::Hidden),
        ("odd name", Reason::Hidden),
        ("closed", Reason::NeverFits),
        ("nobodys", Reason::LimitSubjectMissing),
        ("unlisted", Reason::DefaultDeny),
        ("no such", Reason::DefaultDeny),
        ("\u{202e}\"\\/<", Reason::DefaultDeny),
    ] {
        for (id, era) in [("1", Era::Legacy), ("\"x\\u0041\"", Era::Modern)] {
            let (answer, told) = refused(&policy, name, id, era);
            assert_eq!(told, reason, "{name}: operators are told the truth");
            let mut expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32602,"message":"#);
            crate::text::push_json_string(&mut expected, &format!("Unknown tool: {name}"));
            expected.push_str("}}");
            assert_eq!(answer.body, expected);
            assert_eq!(answer.status, 200);
            let headers = [("content-type", "application/json".to_owned()), ("cache-control", "no-store".to_owned())];
            assert_eq!(answer.headers, headers);
        }
    }
}

#[test]
fn what_a_caller_can_see_is_refused_as_ever() {
    let (answer, reason) = refused(&policy(), "guarded", "1", Era::Legacy);
    assert_eq!(reason, Reason::Requirement);
    assert!(answer.body.contains("[POLICY DENIED]") && answer.body.contains("policy_digest"), "{}", answer.body);
}

#[test]
fn without_the_word_nothing_is_concealed() {
    let policy = compile(r#""hide":["hidden"]"#);
    for name in ["hidden", "unlisted"] {
        let (answer, _) = refused(&policy, name, "1", Era::Legacy);
        assert!(answer.body.contains("by policy"), "{}", answer.body);
    }
}

/// Failures of ours and of the caller's identity have their own answers, for hidden tools as for all others.
#[test]
fn only_refusals_by_the_policy_are_concealed() {
    let (policy, who) = (policy(), Principal::of_grant("g"));
    for reason in Reason::ALL {
        let concealed = is_concealed(Some(&policy), &who, "hidden", *reason);
        assert_eq!(concealed, reason.class() == Class::Policy, "{reason}");
        let visible = is_concealed(Some(&policy), &who, "guarded", *reason);
        assert_eq!(
            visible,
            matches!(reason, Reason::DefaultDeny | Reason::Hidden | Reason::ToolUnapproved),
            "{reason}"
        );
        assert!(!is_concealed(None, &who, "hidden", *reason));
    }
}
