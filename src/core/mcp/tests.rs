use super::*;
use crate::json::Limits;

const MODERN: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn headers<'a>(pairs: &[(&str, &'a str)]) -> Headers<'a> {
    let mut out = Headers::default();
    for (name, value) in pairs {
        match *name {
            "version" => out.mcp_protocol_version = Some(value),
            "method" => out.mcp_method = Some(value),
            "name" => out.mcp_name = Some(value),
            "session" => out.mcp_session_id = Some(value),
            other => panic!("no header {other}"),
        }
    }
    out
}

/// `ok <era> <id> <method> [tool]`, or the reason's name.
fn read(body: &str, pairs: &[(&str, &str)]) -> String {
    read_for(body, pairs, ProtocolVersion::ALL)
}

fn read_for(body: &str, pairs: &[(&str, &str)], versions: &[ProtocolVersion]) -> String {
    let document = match Document::parse(body.as_bytes(), Limits::default()) {
        Ok(document) => document,
        Err(error) => return error.defect.reason().name().to_owned(),
    };
    match Message::read(&document, &headers(pairs), versions) {
        Ok(message) => {
            let tool = match message.body {
                Body::ToolCall(call) => format!(" {}", call.name()),
                Body::Notification(_) | Body::Request(_) | Body::Response => String::new(),
            };
            format!("ok {:?} {} {}{tool}", message.era, message.id.unwrap_or("-"), message.method_name())
        }
        Err(refused) => refused.reason.name().to_owned(),
    }
}

#[track_caller]
fn check(body: &str, pairs: &[(&str, &str)], expected: &str) {
    assert_eq!(read(body, pairs), expected, "{body} {pairs:?}");
}

fn call(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{params}}}}}"#)
}

#[test]
fn sound_messages_of_both_eras_are_read() {
    check(&call(r#""name":"a","arguments":{}"#), &[], "ok Legacy 1 tools/call a");
    check(&call(r#""n\u0061me":"\u0061""#), &[("version", "2025-11-25")], "ok Legacy 1 tools/call a");
    check(
        r#"{"jsonrpc":"2.0","id":"x\u0041","method":"tools\/call","params":{"name":"a"}}"#,
        &[],
        "ok Legacy \"x\\u0041\" tools/call a",
    );
    check(
        &call(&format!(r#""name":"a",{MODERN}"#)),
        &[("version", "2026-07-28"), ("method", "tools/call"), ("name", "a")],
        "ok Modern 1 tools/call a",
    );
    check(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, &[], "ok Legacy - notifications/initialized");
    check(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, &[("session", "s")], "ok Legacy 7 _response");
    check(
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"m"}}"#,
        &[("session", "s"), ("version", "2025-06-18")],
        "ok Legacy 7 _response",
    );
    check(r#"{"jsonrpc":"2.0","id":-9007199254740992,"method":"ping"}"#, &[], "ok Legacy -9007199254740992 ping");
}

#[test]
fn shapes_that_are_no_message_are_refused() {
    for (body, reason) in [
        ("[]", "malformed.batch"),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, "malformed.batch"),
        ("1", "malformed.shape"),
        ("{}", "malformed.shape"),
        (r#"{"id":1,"method":"ping"}"#, "malformed.shape"),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, "malformed.shape"),
        (r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","id":1,"method":["ping"]}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","extra":1}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","result":{}}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","id":1}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","result":{}}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"notifications/initialized"}"#, "malformed.shape"),
        (r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#, "notification_call"),
        (r#"{"jsonrpc":"2.0","id":1,"METHOD":"ping","method":"ping"}"#, "malformed.key_fold"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"param\u017f":{}}"#,
            "malformed.key_fold",
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"ping"}"#, "malformed.dup_key"),
    ] {
        check(body, &[], reason);
    }
    for id in ["null", "1.5", "1.0", "1e2", "true", "{}", "[]", "9007199254740993", "18446744073709551617", "-0"] {
        check(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#), &[], "malformed.id");
    }
    let id = |n: usize| format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "i".repeat(n));
    assert!(read(&id(ID_BYTES_MAX - 2), &[]).starts_with("ok"));
    check(&id(ID_BYTES_MAX - 1), &[], "malformed.id");
}

#[test]
fn calls_without_a_sound_name_or_arguments_are_refused() {
    for params in [
        r#""arguments":{}"#,
        r#""name":null"#,
        r#""name":["a"]"#,
        r#""name":"""#,
        r#""name":"a","arguments":[1]"#,
        r#""name":"a","arguments":"x""#,
        r#""name":"a","arguments":null"#,
        r#""name":"a","_meta":1"#,
    ] {
        check(&call(params), &[], "malformed.shape");
    }
    for params in [
        r#""name":"a","Name":"b""#,
        r#""name":"a","argument\u017f":{}"#,
        r#""name":"a","to\u212aen":1,"ta\u017fk":1"#,
        r#""name":"a","task_id":1"#,
        r#""name":"a","na-me":"b""#,
        r#""name":"a","meta":{}"#,
        r#""name":"a","ur\u0131":"b""#,
    ] {
        check(&call(params), &[], "malformed.key_fold");
    }
    check(&call(r#""name":"a\u0000""#), &[], "malformed.control");
    check(&call(r#""name":"a","n\u0061me":"b""#), &[], "malformed.dup_key");
    check(&call(r#""name":"a","arguments":{"Path":1,"path":2}"#), &[], "ok Legacy 1 tools/call a");
    let name = |n: usize| call(&format!(r#""name":"{}""#, "n".repeat(n)));
    assert!(read(&name(NAME_BYTES_MAX), &[]).starts_with("ok"));
    check(&name(NAME_BYTES_MAX + 1), &[], "malformed.shape");
}

#[test]
fn methods_are_compared_exactly() {
    for method in ["Tools/Call", "tools/call ", "tools/call\\u0000", "", "interceptors/list", "__proto__"] {
        check(
            &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"name":"a"}}}}"#),
            &[],
            "unknown_method",
        );
    }
}

#[test]
fn the_era_is_told_by_the_body_and_the_header_must_agree() {
    let modern = call(&format!(r#""name":"a",{MODERN}"#));
    let with = |version| [("version", version), ("method", "tools/call"), ("name", "a")];
    check(&modern, &with("2026-07-28"), "ok Modern 1 tools/call a");
    check(&modern, &[("method", "tools/call"), ("name", "a")], "header_mismatch");
    check(&modern, &with("2025-11-25"), "header_mismatch");
    check(&modern.replace("2026-07-28", "1900-01-01"), &with("1900-01-01"), "unsupported_version");
    check(&modern.replace("2026-07-28", "2025-11-25"), &with("2025-11-25"), "unsupported_version");
    check(&call(r#""name":"a""#), &with("2026-07-28"), "missing_meta");
    check(&call(r#""name":"a""#), &with("2999-01-01"), "missing_meta");
    check(&call(r#""name":"a""#), &[("version", "latest")], "unsupported_version");
    check(&call(r#""name":"a""#), &[("version", "2025-12-01")], "unsupported_version");
    check(&modern.replace("clientCapabilities", "clientcaps"), &with("2026-07-28"), "missing_meta");
    check(&modern.replace("/clientCapabilities\":{}", "/clientCapabilities\":1"), &with("2026-07-28"), "missing_meta");
    check(&modern.replace("\"2026-07-28\"", "1"), &with("2026-07-28"), "missing_meta");
    check(&modern.replace("protocolVersion", "ProtocolVersion"), &[], "malformed.key_fold");
}

#[test]
fn a_server_may_raise_the_floor() {
    let modern_only = &[ProtocolVersion::V2026_07_28];
    let legacy = call(r#""name":"a""#);
    assert_eq!(read_for(&legacy, &[], modern_only), "unsupported_version");
    assert_eq!(read_for(&legacy, &[("version", "2025-11-25")], modern_only), "unsupported_version");
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
    assert_eq!(read_for(initialize, &[], modern_only), "unsupported_version");
    assert!(read_for(initialize, &[], &[ProtocolVersion::V2025_11_25]).starts_with("ok"));
    assert_eq!(read_for(&legacy, &[], &[ProtocolVersion::V2025_11_25]), "unsupported_version");
}

#[test]
fn mirrored_headers_must_mirror_the_body_in_both_eras() {
    let legacy = call(r#""name":"b""#);
    check(&legacy, &[("name", "a")], "header_mismatch");
    check(&legacy, &[("name", "b")], "ok Legacy 1 tools/call b");
    check(&legacy, &[("method", "tools/list")], "header_mismatch");
    check(&legacy, &[("method", "TOOLS/CALL")], "header_mismatch");
    check(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, &[("name", "a")], "header_mismatch");
    let modern = call(&format!(r#""name":"b",{MODERN}"#));
    check(&modern, &[("version", "2026-07-28"), ("method", "tools/call")], "header_mismatch");
    check(&modern, &[("version", "2026-07-28"), ("name", "b")], "header_mismatch");
    for (header, expected) in [
        ("=?base64?Yg==?=", "ok Modern 1 tools/call b"),
        ("=?base64?Yg?=", "header_mismatch"),
        ("=?BASE64?Yg==?=", "header_mismatch"),
        ("=?base64?/w==?=", "header_mismatch"),
        ("Yg==", "header_mismatch"),
    ] {
        check(&modern, &[("version", "2026-07-28"), ("method", "tools/call"), ("name", header)], expected);
    }
    let read = |uri: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{{"uri":"{uri}",{MODERN}}}}}"#)
    };
    check(
        &read("test://é"),
        &[("version", "2026-07-28"), ("method", "resources/read"), ("name", "=?base64?dGVzdDovL8OpPz0=?=")],
        "header_mismatch",
    );
    check(
        &read("test://é"),
        &[("version", "2026-07-28"), ("method", "resources/read"), ("name", "=?base64?dGVzdDovL8Op?=")],
        "ok Modern 1 resources/read",
    );
    check(
        &read("=?base64?Yg==?="),
        &[("version", "2026-07-28"), ("method", "resources/read"), ("name", "=?base64?Yg==?=")],
        "header_mismatch",
    );
}

#[test]
fn an_unknown_method_still_needs_headers_that_agree() {
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"vendor/x","params":{{{MODERN}}}}}"#);
    check(&body, &[("version", "2026-07-28"), ("method", "vendor/x")], "unknown_method");
    check(&body, &[("version", "2026-07-28"), ("method", "tools/list")], "header_mismatch");
}

/// With or without the name that the legacy era demands: the conformance suite asks without.
#[test]
fn methods_that_the_modern_era_removed_are_unknown_in_it() {
    for method in
        ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/list"]
    {
        let modern = [("version", "2026-07-28"), ("method", method)];
        check(
            &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{MODERN}}}}}"#),
            &modern,
            "unknown_method",
        );
        let named = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"uri":"a:b",{MODERN}}}}}"#);
        check(&named, &modern, "unknown_method");
        let legacy = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"uri":"a:b"}}}}"#);
        check(&legacy, &[], &format!("ok Legacy 1 {method}"));
    }
}

#[test]
fn modern_notifications_and_responses_are_refused() {
    let body = format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{{MODERN}}}}}"#);
    check(&body, &[("version", "2026-07-28")], "unknown_method");
    check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, &[("version", "2026-07-28"), ("session", "s")], "missing_meta");
}

#[test]
fn references_and_subscriptions_are_checked_for_shape() {
    let complete = |reference: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{{"ref":{reference},"argument":{{}}}}}}"#
        )
    };
    check(&complete(r#"{"type":"ref/prompt","name":"p"}"#), &[], "ok Legacy 1 completion/complete");
    check(&complete(r#"{"type":"ref/resource","uri":"file:///{x}"}"#), &[], "ok Legacy 1 completion/complete");
    check(&complete(r#"{"type":"ref/tool","name":"p"}"#), &[], "malformed.shape");
    check(&complete(r#"{"type":"ref/prompt","uri":"p"}"#), &[], "malformed.shape");
    check(&complete(r#"{"type":"ref/prompt","name":"p","Name":"q"}"#), &[], "malformed.key_fold");
    check(&complete("1"), &[], "malformed.shape");
}

/// The id is one of the server's; the client may wait for an answer under the same number.
#[test]
fn a_refused_response_is_not_answered_under_its_id() {
    for body in [r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, r#"{"jsonrpc":"2.0","id":1,"error":5}"#] {
        let document = Document::parse(body.as_bytes(), Limits::default()).unwrap();
        let refused = Message::read(&document, &Headers::default(), ProtocolVersion::ALL).unwrap_err();
        assert_eq!((refused.id, refused.expects_answer), (None, false), "{body}");
    }
    check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, &[("session", "s")], "ok Legacy 1 _response");
}

#[test]
fn a_refusal_keeps_what_an_answer_needs() {
    let body = call(&format!(r#""name":"b",{MODERN}"#));
    let document = Document::parse(body.as_bytes(), Limits::default()).unwrap();
    let refused = Message::read(&document, &headers(&[("version", "2026-07-28")]), ProtocolVersion::ALL).unwrap_err();
    assert_eq!(
        (refused.id, refused.era, refused.method, refused.expects_answer),
        (Some("1"), Era::Modern, Some(Method::ToolsCall), true)
    );
}

#[test]
fn tool_names_outside_the_specification_are_told_apart() {
    for good in ["a", "http_request.post", "A-1", &"x".repeat(128)] {
        assert!(is_plain_tool_name(good), "{good}");
    }
    for bad in ["", "a b", "a/b", "é", "a ", &"x".repeat(129)] {
        assert!(!is_plain_tool_name(bad), "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn names_fold_as_every_letter_says(
        key in "[_-]{0,2}(name|NAME|Name|na_me|ſort|\u{212a}ind|ıd|tools|TOOLſ|_meta|x|é|[a-z]{1,5})[_-]?",
        name in proptest::sample::select(vec!["name", "tools", "_meta", "id", "kind", "sort"]),
    ) {
        let folded = |text: &str| text.chars().filter(|c| !matches!(c, '_' | '-')).map(fold).collect::<String>();
        proptest::prop_assert_eq!(folds_to(&key, name), folded(&key) == folded(name));
    }
}
