//! Bytes as a message: the reading agrees with serde_json, and refusing it gives an answer that can be sent.

use mcp_authz_core::{
    answer::{Answer, Asked, Context, answer},
    audit::{ArgsMode, KEY_BYTES_MAX, KEYS_MAX, Record, chain::Chain, escaped},
    decision::{Denial, Reason},
    http::Headers,
    json::{Document, JsonDefect, Kind, Limits, Value},
    mcp::{Body, Message, Method, ProtocolVersion, Refused},
    selftest::MirroredHeaders,
};
use serde_json::Value as Reference;

/// What serde_json reads and we refuse on purpose.
const STRICTER: &[JsonDefect] =
    &[JsonDefect::Control, JsonDefect::Depth, JsonDefect::DuplicateKey, JsonDefect::Nodes, JsonDefect::Size];

/// Reads the bytes as a JSON text and as a message of the protocol.
///
/// # Panics
/// If a property does not hold.
pub fn parse(data: &[u8]) {
    let reference = serde_json::from_slice::<Reference>(data);
    let document = match Document::parse(data, Limits::default()) {
        Ok(document) => document,
        Err(error) => {
            assert!(error.offset <= data.len() || error.defect == JsonDefect::Size, "{error} is outside of the text");
            let stricter = STRICTER.contains(&error.defect);
            assert!(reference.is_err() || stricter, "serde_json reads what we refuse: {error}");
            return;
        }
    };
    let text = std::str::from_utf8(data);
    assert!(text.is_ok(), "text that is not UTF-8 was accepted");
    let text = text.unwrap_or_default();
    walk(document.root(), text);
    match &reference {
        Ok(reference) => assert_same(document.root(), reference),
        Err(error) => assert!(holds_unreadable_number(document.root()), "serde_json refuses what we read: {error}"),
    }
    message(&document, reference.as_ref().ok());
}

/// Every span lies in the text, and cut out and read by itself it is the same value.
fn walk(value: Value<'_>, text: &str) {
    let source = value.source();
    let start = source.as_ptr().addr().checked_sub(text.as_ptr().addr());
    assert!(
        start.and_then(|start| text.get(start..)?.get(..source.len())) == Some(source),
        "a span is not of the text"
    );
    assert!(value.offset() <= text.len());
    let again = Document::parse(source.as_bytes(), Limits { bytes_max: usize::MAX, ..Limits::default() });
    assert!(again.is_ok_and(|again| again.root().kind() == value.kind() && again.root().source() == source));
    match value.kind() {
        Kind::Array => {
            assert_eq!(value.elements().count(), value.len());
            value.elements().for_each(|element| within(element, source, text));
        }
        Kind::Object => {
            assert_eq!(value.members().count(), value.len());
            for (key, member) in value.members() {
                assert_eq!(value.get(&key).map(Value::offset), Some(member.offset()), "two members of one name");
                assert!(!key.chars().any(char::is_control), "a control character in a name");
                within(member, source, text);
            }
        }
        Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => {
            assert!(value.is_empty() && value.members().next().is_none() && value.elements().next().is_none());
        }
    }
}

fn within(child: Value<'_>, parent: &str, text: &str) {
    let (outer, inner) = (parent.as_bytes().as_ptr_range(), child.source().as_bytes().as_ptr_range());
    assert!(outer.start < inner.start && inner.end < outer.end, "a child is not inside of its parent");
    walk(child, text);
}

/// The same tree, member for member.
pub(crate) fn assert_same(value: Value<'_>, reference: &Reference) {
    match (value.kind(), reference) {
        (Kind::Null, Reference::Null) => {}
        (Kind::False, Reference::Bool(false)) | (Kind::True, Reference::Bool(true)) => {}
        (Kind::Number, Reference::Number(number)) => {
            // Only the text is exact; serde_json reads both to the same number.
            let ours = serde_json::from_str::<serde_json::Number>(value.raw()).ok();
            assert_eq!(ours.as_ref(), Some(number));
        }
        (Kind::String, Reference::String(text)) => assert_eq!(value.as_str().as_deref(), Some(text.as_str())),
        (Kind::Array, Reference::Array(items)) => {
            assert_eq!(value.len(), items.len());
            value.elements().zip(items).for_each(|(element, item)| assert_same(element, item));
        }
        (Kind::Object, Reference::Object(members)) => {
            assert_eq!(value.len(), members.len());
            for (key, member) in value.members() {
                let other = members.get(&*key);
                assert!(other.is_some(), "serde_json has no member {key:?}");
                other.into_iter().for_each(|other| assert_same(member, other));
            }
        }
        (kind, other) => assert_eq!(format!("{kind:?}"), format!("{other:?}"), "another type for serde_json"),
    }
}

/// Numbers that no f64 holds are the one thing that we read and serde_json does not.
fn holds_unreadable_number(value: Value<'_>) -> bool {
    match value.kind() {
        Kind::Number => serde_json::from_str::<serde_json::Number>(value.raw()).is_err(),
        Kind::Array => value.elements().any(holds_unreadable_number),
        Kind::Object => value.members().any(|(_, member)| holds_unreadable_number(member)),
        Kind::False | Kind::Null | Kind::String | Kind::True => false,
    }
}

fn message(document: &Document<'_>, reference: Option<&Reference>) {
    let mirrored = MirroredHeaders::of(document.root());
    let session = Headers { mcp_session_id: Some("s"), ..mirrored.headers() };
    for headers in [mirrored.headers(), session, Headers::default()] {
        for versions in [ProtocolVersion::ALL, &[ProtocolVersion::V2026_07_28], &[ProtocolVersion::V2025_11_25]] {
            let read = Message::read(document, &headers, versions);
            let again = Message::read(document, &headers, versions);
            assert_eq!(format!("{read:?}"), format!("{again:?}"), "two readings of one message");
            match read {
                Ok(message) => accepted(&message, &headers, reference),
                Err(refused) => refuse(&refused, versions, reference),
            }
        }
    }
}

/// What passes is what a lenient parser makes of it.
fn accepted(message: &Message<'_>, headers: &Headers<'_>, reference: Option<&Reference>) {
    if let Body::ToolCall(call) = message.body {
        let name = call.name();
        assert!(!name.is_empty() && !name.chars().any(char::is_control));
        assert!(message.id.is_some(), "a call without an id");
        record(&name, call.arguments);
        if let Some(header) = headers.mcp_name.filter(|header| !header.starts_with("=?")) {
            assert_eq!(header, name);
        }
    }
    let Some(reference) = reference else { return };
    assert_eq!(message.id.and_then(|id| serde_json::from_str(id).ok()).as_ref(), reference.get("id"));
    let method = reference.get("method").and_then(Reference::as_str);
    match message.body {
        Body::ToolCall(call) => {
            assert_eq!(method, Some("tools/call"));
            let params = reference.get("params");
            assert_eq!(params.and_then(|params| params.get("name")?.as_str()), Some(&*call.name()));
            let arguments = params.and_then(|params| params.get("arguments"));
            assert_eq!(arguments.is_some(), call.arguments.is_some());
            call.arguments.into_iter().zip(arguments).for_each(|(ours, other)| assert_same(ours, other));
        }
        Body::Request(known) => assert!(method == Some(known.name()) && known != Method::ToolsCall),
        Body::Notification(known) => assert!(method == Some(known.name()) && message.id.is_none()),
        Body::Response => assert!(method.is_none() && headers.mcp_session_id.is_some()),
    }
}

/// The audit line of a call is one line of JSON that holds no value of an argument.
fn record(tool: &str, arguments: Option<Value<'_>>) {
    let record = Record {
        time_ms: 1_800_000_000_000,
        reason: Some(Reason::Condition),
        rule: "",
        rule_exact: None,
        policy: None,
        policy_digest: None,
        server: None,
        principal: None,
        grant: None,
        method: "tools/call",
        tool: Some(tool),
        arguments,
        args: ArgsMode::Keys,
        args_key: None,
        request_id: None,
        stream_id: None,
        trace: None,
        is_unmetered: false,
        latency_us: 1,
    };
    let (mut draft, mut out) = (String::new(), Vec::new());
    record.write(&mut draft);
    assert!(Chain::new([0; 16], None, None).seal(draft.as_bytes(), &mut out), "no draft: {draft}");
    let line = String::from_utf8_lossy(&out);
    let line = line.trim_end_matches('\n');
    assert!(!line.contains(char::is_control), "more than one line");
    let parsed = serde_json::from_str::<Reference>(line);
    assert!(parsed.is_ok(), "not JSON: {line}");
    let keys = parsed.ok().and_then(|record| {
        record.pointer("/extensions/io.mcp-authz~1decision/arg_keys").and_then(Reference::as_array).cloned()
    });
    let names: Vec<String> = arguments.into_iter().flat_map(|a| a.members().map(|(key, _)| escaped(&key))).collect();
    assert_eq!(keys.as_ref().map_or(0, Vec::len), names.len().min(KEYS_MAX));
    for key in keys.unwrap_or_default() {
        let key = key.as_str().unwrap_or_default();
        let whole = names.iter().any(|name| name == key);
        let cut = key.strip_suffix('…').is_some_and(|cut| names.iter().any(|name| name.starts_with(cut)));
        let is_short = key.len() <= KEY_BYTES_MAX.saturating_mul("\\u202e".len()).saturating_add("…".len());
        assert!(is_short && (whole || cut), "{key:?} is no key");
    }
}

/// Every refusal can be answered, with the id that was sent or with none.
fn refuse(refused: &Refused<'_>, versions: &[ProtocolVersion], reference: Option<&Reference>) {
    let asked = match (refused.expects_answer, refused.method) {
        (false, _) => Asked::NoAnswer,
        (true, None) if refused.id.is_none() => Asked::Unread,
        (true, Some(Method::Initialize)) => Asked::Initialize,
        (true, Some(Method::ToolsCall)) => Asked::ToolCall,
        (true, _) => Asked::Request,
    };
    let context = Context {
        asked,
        era: refused.era,
        id: refused.id,
        policy_digest: None,
        request_id: None,
        resource_metadata: None,
        requested_version: Some("x\"\u{202e}"),
        versions,
        unknown_tool: None,
    };
    let sent = reference.and_then(|reference| reference.get("id"));
    if let (Some(id), Some(sent)) = (refused.id, sent) {
        assert_eq!(serde_json::from_str::<Reference>(id).ok().as_ref(), Some(sent), "another id than was sent");
    }
    // A sound id of a message that has a method is never lost, or its sender waits forever.
    let is_request = reference.is_some_and(|reference| reference.get("method").is_some_and(Reference::is_string));
    if refused.id.is_none() && is_request && refused.reason != Reason::MalformedShape {
        let sound = sent.is_some_and(|id| id.is_string() || id.is_i64());
        assert!(!sound || matches!(refused.reason, Reason::MalformedId | Reason::MalformedKeyFold), "{refused:?}");
    }
    let denial = Denial::with_message(refused.reason, refused.message);
    let id = if refused.expects_answer { sent } else { None };
    assert_answer(&answer(&denial, &context), id.filter(|_| refused.id.is_some()));
}

/// An answer to a refusal: JSON that says no, with the id; or nothing where nobody waits.
pub(crate) fn assert_answer(answer: &Answer, id: Option<&Reference>) {
    assert!((200..600).contains(&answer.status) && answer.status != 204);
    if answer.body.is_empty() {
        assert_eq!((answer.status, id), (202, None), "an empty answer to a request");
        return;
    }
    let body: Reference = serde_json::from_str(&answer.body).unwrap_or_default();
    let refused = body.pointer("/result/isError") == Some(&Reference::Bool(true));
    assert!(refused != body.pointer("/error/code").is_some_and(Reference::is_i64), "no refusal: {}", answer.body);
    if id.is_some() {
        assert_eq!(body.get("id"), id, "{}", answer.body);
    }
}
