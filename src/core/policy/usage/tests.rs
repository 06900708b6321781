use super::*;
use crate::document::Format;
use crate::json::Limits;
use crate::number::AMOUNT_MAX;
use crate::policy::Source;

fn compile(body: &str) -> Policy {
    let text = format!(r#"{{"version":"2","default":"deny",{body}}}"#);
    let source = Source { id: "p", file: "p", bytes: text.as_bytes(), format: Format::Json };
    Policy::compile(&source).unwrap_or_else(|defects| panic!("{text}: {}", defects[0])).policy
}

fn with_document<T>(text: &str, judge: impl FnOnce(&Document<'_>) -> T) -> T {
    judge(&Document::parse(text.as_bytes(), Limits::default()).unwrap())
}

/// A policy whose tool `t` has one limit with this body.
fn one(body: &str) -> Policy {
    let limit = format!(r#"{{"counter":"c","window":"day","scope":"grant","max":90000,"hold":1000,{body}}}"#);
    compile(&format!(r#""tools":{{"t":{{"limits":[{limit}]}}}}"#))
}

/// What the limit is told by a result.
fn told(policy: &Policy, result: &str) -> Option<u64> {
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
    let usage = with_document(&text, |message| policy.usage("t", message));
    assert!(usage.len() <= 1 && usage.iter().all(|(name, _)| &**name == "c"), "{usage:?}");
    usage.first().map(|(_, units)| *units)
}

#[test]
fn a_result_tells_the_amount_at_the_path() {
    let policy = one(r#""increment_from":"result._meta.usage.total_tokens""#);
    let at = |number: &str| told(&policy, &format!(r#"{{"_meta":{{"usage":{{"total_tokens":{number}}}}}}}"#));
    for (number, units) in [("0", 0), ("-0", 0), ("7", 7), ("7.0", 7), ("7.2", 8), ("1e-9", 1), ("1e3", 1_000)] {
        assert_eq!(at(number), Some(units), "{number}");
    }
    // Nobody can be denied any more, so what is too much counts as the most.
    for number in ["4503599627370496", "4503599627370497", "9007199254740993", "1e300", "1e400"] {
        assert_eq!(at(number), Some(AMOUNT_MAX), "{number}");
    }
    for number in ["-1", "-1e-9", "1e99999", "\"7\"", "true", "[7]", "{\"v\":7}"] {
        assert_eq!(at(number), None, "{number} is no amount");
    }
    for result in ["{}", "{\"_meta\":null}", "{\"_meta\":{\"usage\":{\"total_tokens\":null}}}", "7", "null", "[]"] {
        assert_eq!(told(&policy, result), None, "{result} has none");
    }
}

#[test]
fn what_is_missing_costs_what_the_author_says_and_what_is_in_the_way_tells_nothing() {
    let policy = one(r#""increment_from":"result._meta.n","on_missing":3"#);
    for result in ["{}", "{\"_meta\":{}}", "{\"_meta\":null}", "{\"_meta\":{\"n\":null}}"] {
        assert_eq!(told(&policy, result), Some(3), "{result}");
    }
    for result in ["{\"_meta\":\"{}\"}", "{\"_meta\":[{\"n\":1}]}", "{\"_meta\":{\"n\":\"\"}}", "[]", "\"\""] {
        assert_eq!(told(&policy, result), None, "{result}");
    }
}

#[test]
fn amounts_have_places_and_a_least() {
    let policy = one(r#""scale":2,"increment_from":"result.cost","min_increment":0.5,"on_missing":0"#);
    assert_eq!(told(&policy, r#"{"cost":1.25}"#), Some(125));
    assert_eq!(told(&policy, r#"{"cost":1.251}"#), Some(126), "a fraction is a unit more");
    assert_eq!(told(&policy, r#"{"cost":0.01}"#), Some(50));
    assert_eq!(told(&policy, "{}"), Some(50));
}

#[test]
fn an_answer_without_a_result_tells_nothing() {
    let policy = one(r#""increment_from":"result.n","on_missing":0"#);
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no","data":{"n":1}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"n":1},"error":{"code":1,"message":""}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"n":1}}"#,
        "[]",
    ] {
        assert_eq!(with_document(text, |message| policy.usage("t", message)), [], "{text}");
    }
}

#[test]
fn the_limits_of_the_tool_and_of_all_tools_are_told_once_by_name() {
    let limit = |name: &str, scope: &str, path: &str| {
        format!(r#"{{"counter":"{name}","window":"day","scope":"{scope}","max":9,"hold":1,"increment_from":"{path}"}}"#)
    };
    let own =
        [limit("a", "grant", "result.n"), limit("a", "policy", "result.n"), limit("b", "grant", "response.bytes")];
    let policy = compile(&format!(
        r#""tools":{{"t":{{"limits":[{}]}},"u":{{}}}},"hide":["h"],"all_tools":{{"limits":[{}]}}"#,
        own.join(","),
        limit("z", "grant", "result.m")
    ));
    let text = r#"{"jsonrpc":"2.0","id":1,"result":{"n":4,"m":5}}"#;
    let told = |tool: &str| {
        let usage = with_document(text, |message| policy.usage(tool, message));
        usage.iter().map(|(name, units)| format!("{name}={units}")).collect::<Vec<_>>().join(",")
    };
    assert_eq!((&*told("t"), &*told("u"), &*told("h"), &*told("unknown")), ("a=4,z=5", "z=5", "", ""));
}

#[test]
fn a_policy_says_which_tools_need_the_body() {
    let limit = |rest: &str| format!(r#"{{"counter":"c","window":"day","scope":"grant","max":9,{rest}}}"#);
    let tool = |name: &str, rest: &str| format!(r#""{name}":{{"limits":[{}]}}"#, limit(rest));
    let policy = compile(&format!(
        r#""hide":["hidden"],"tools":{{"plain":{{}},{},{},{},{},{}}}"#,
        tool("envoy", r#""refund_on":["reset","timeout","upstream_5xx"]"#),
        tool("error", r#""refund_on":["is_error"]"#),
        tool("refused", r#""refund_on":["protocol_error"]"#),
        tool("bytes", r#""increment_from":"response.bytes","hold":1"#),
        tool("result", r#""increment_from":"result.n","hold":1"#),
    ));
    let needs = |names: &[&str]| names.iter().map(|name| policy.settles_by_body(name)).collect::<Vec<_>>();
    assert_eq!(needs(&["error", "refused", "bytes", "result"]), [true; 4]);
    assert_eq!(needs(&["plain", "envoy", "hidden", "unknown"]), [false; 4]);
    let all = format!(
        r#""hide":["h"],"tools":{{"t":{{}}}},"all_tools":{{"limits":[{}]}}"#,
        limit(r#""refund_on":["is_error"]"#)
    );
    let policy = compile(&all);
    assert!(policy.settles_by_body("t") && !policy.settles_by_body("h") && !policy.settles_by_body("unknown"));
}

/// What was held is charged before, whatever will be told.
#[test]
fn the_hold_is_the_charge_until_the_answer_is_known() {
    use crate::decision::Decision;
    use crate::policy::Call;
    use crate::principal::Principal;
    for (body, held, actual) in [
        (r#""increment_from":"response.bytes""#, 1_000, Actual::Bytes { scale: 0, min: 0 }),
        (r#""increment_from":"response.bytes","min_increment":1500"#, 1_500, Actual::Bytes { scale: 0, min: 1_500 }),
        (r#""increment_from":"response.bytes","scale":2"#, 100_000, Actual::Bytes { scale: 2, min: 0 }),
        (r#""increment_from":"result.n""#, 1_000, Actual::Usage),
    ] {
        let decided = one(body).decide(&Principal::of_grant("g"), &Call::of("t", None));
        let Decision::Proceed(charges) = decided else { panic!("{body}: {decided:?}") };
        assert_eq!((charges[0].amount, charges[0].terms.actual), (held, actual), "{body}");
    }
}

#[test]
fn answers_are_told_apart() {
    let kind = |text: &str| with_document(text, |message| Kind::of_answer(message.root()));
    for code in NOT_EXECUTED {
        let text = format!(r#"{{"id":1,"error":{{"code":{code},"message":""}}}}"#);
        assert_eq!(kind(&text), Some(Kind::ProtocolError), "{code}");
    }
    for (text, expected) in [
        (r#"{"result":{}}"#, Some(Kind::Ok)),
        (r#"{"result":null}"#, Some(Kind::Ok)),
        (r#"{"result":{"isError":false}}"#, Some(Kind::Ok)),
        (r#"{"result":{"isError":"true"}}"#, Some(Kind::Ok)),
        (r#"{"result":{"isError":true}}"#, Some(Kind::ToolError)),
        (r#"{"error":{"code":-32603}}"#, Some(Kind::ServerError)),
        (r#"{"error":{"code":-32000}}"#, Some(Kind::ServerError)),
        (r#"{"error":{"code":"-32602"}}"#, Some(Kind::ServerError)),
        (r#"{"error":{"code":-32602.0}}"#, Some(Kind::ServerError)),
        (r#"{"error":"-32602"}"#, Some(Kind::ServerError)),
        (r#"{"error":{"code":-32602},"result":{}}"#, Some(Kind::ServerError)),
        (r#"{"method":"ping","id":1}"#, None),
        ("[]", None),
    ] {
        assert_eq!(kind(text), expected, "{text}");
    }
    assert!(Kind::NAMES.is_sorted());
    for name in Kind::NAMES {
        assert_eq!(Kind::parse(name).map(Kind::name), Some(*name));
    }
    assert_eq!(Kind::parse("Ok"), None);
}

#[test]
fn an_answer_is_measured_as_it_came() {
    let policy = one(r#""increment_from":"result.n""#);
    let text = "  {\"id\":1, \"result\":{\"n\":3}}\n";
    let came = with_document(text, |message| policy.came("t", message)).unwrap();
    assert_eq!((came.kind, came.bytes), (Kind::Ok, 29));
    assert_eq!(came.usage, [(Arc::from("c"), 3)]);
}
