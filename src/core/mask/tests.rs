use proptest::prelude::*;

use super::*;
use crate::document::Format;
use crate::json::Limits;
use crate::policy::Source;

fn policy(text: &str) -> Policy {
    let text = format!("version: \"2\"\ndefault: allow\n{text}");
    let source = Source { id: "p", file: "p.yaml", bytes: text.as_bytes(), format: Format::Yaml };
    Policy::compile(&source).unwrap_or_else(|defects| panic!("{text}: {defects:?}")).policy
}

fn key() -> MaskKey {
    MaskKey(Arc::new([7; 32]))
}

/// What leaves, or why nothing does; and what was found.
fn judge(rules: ResultRules<'_>, message: &str) -> (Result<String, String>, Findings) {
    let document = Document::parse(message.as_bytes(), Limits::default()).unwrap();
    let (mut splices, mut findings) = (Splices::default(), Findings::default());
    let judged = match rules.judge(&document, &key(), &mut splices, &mut findings) {
        Judged::Pass => Ok(splices.apply(message).unwrap()),
        Judged::Block(text) => Err(text.to_string()),
    };
    (judged, findings)
}

fn passed(rules: &str, message: &str) -> String {
    judge(policy(rules).results(Some("t")), message).0.unwrap_or_else(|text| panic!("{message}: {text}"))
}

fn withheld(rules: &str, message: &str) -> String {
    judge(policy(rules).results(Some("t")), message).0.expect_err(message)
}

fn counts(findings: &Findings) -> Vec<(&str, Action, u32)> {
    findings.hits.iter().map(|hit| (&*hit.rule, hit.action, hit.count)).collect()
}

#[test]
fn a_policy_without_rules_for_results_asks_for_nothing() {
    let policy = policy("tools: {t: {}}");
    assert!(policy.results(Some("t")).is_empty() && policy.results(None).is_empty() && policy.messages().is_empty());
    assert!(policy.definitions().is_empty());
}

#[test]
fn rules_of_root_and_tool_apply_together() {
    let policy = policy(
        "mask: [{detect: email}]\ntools:\n  t: {mask: [{detect: us_ssn}]}\n  u: {inspect: {result_bytes_max: 10}}",
    );
    let message = r#"{"result":{"content":[{"type":"text","text":"a@b.cd 123-45-6789"}]}}"#;
    let (t, findings) = judge(policy.results(Some("t")), message);
    assert_eq!(t.unwrap(), r#"{"result":{"content":[{"type":"text","text":"[email] [us_ssn]"}]}}"#);
    assert_eq!(counts(&findings), [("/mask/0", Action::Mask, 1), ("/tools/t/mask/0", Action::Mask, 1)]);
    for rules in [policy.results(Some("x")), policy.messages()] {
        assert!(judge(rules, message).0.unwrap().contains("[email] 123-45-6789"));
    }
    assert_eq!(policy.results(None).bytes_max(), Some(10));
    assert!(judge(policy.results(None), message).0.is_err());
}

#[test]
fn escapes_are_seen_through() {
    let rules = "mask: [{detect: [email, private_key]}]";
    for (message, expected) in [
        (r#"{"result":{"a":"x\u0061\u0040b.cd\/y"}}"#, r#"{"result":{"a":"[email]\/y"}}"#),
        (r#"{"result":{"a":"\ud83d\ude00 a@b.cd\n\"q\""}}"#, r#"{"result":{"a":"\ud83d\ude00 [email]\n\"q\""}}"#),
        ("{\"result\":{\"a\":\"bo\u{200b}b@example.com\"}}", r#"{"result":{"a":"[email]"}}"#),
    ] {
        assert_eq!(passed(rules, message), expected);
    }
}

#[test]
fn json_in_strings_stays_json_at_every_level() {
    let rules = "mask: [{detect: email, with: {fixed: 'a \"b\" \\\\'}}]";
    let inner = r#"{"to":"a@b.cd","n":[1,"x"]}"#;
    let middle = serde_json::json!({"text": inner, "mail": "c\u{e9}@d.ef"}).to_string();
    let message = serde_json::json!({"result": {"content": [{"type": "text", "text": middle}]}}).to_string();
    let out: serde_json::Value = serde_json::from_str(&passed(rules, &message)).unwrap();
    let middle: serde_json::Value =
        serde_json::from_str(out["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(middle["mail"], "a \"b\" \\\\");
    let inner: serde_json::Value = serde_json::from_str(middle["text"].as_str().unwrap()).unwrap();
    assert_eq!((inner["to"].as_str(), inner["n"][0].as_i64()), (Some("a \"b\" \\\\"), Some(1)));
}

#[test]
fn whole_values_keep_their_type() {
    let rules = "mask:\n  - path: result.structuredContent.*";
    let message = r#"{"result":{"structuredContent":{"s":"x","n":1.5,"t":true,"f":false,"z":null,"a":[1],"o":{"b":2}},"isError":true}}"#;
    let expected = r#"{"result":{"structuredContent":{"s":"[masked]","n":0,"t":false,"f":false,"z":null,"a":[],"o":{}},"isError":true}}"#;
    assert_eq!(passed(rules, message), expected);
}

#[test]
fn structured_content_and_its_copy_are_masked_alike() {
    let rules = "tools: {t: {mask: [{path: result.structuredContent.customer.email, with: hash, name: customer}]}}";
    let copy = r#"{"customer": {"email": "x"}, "b": 1}"#;
    let message = format!(
        r#"{{"result":{{"content":[{{"type":"text","text":{}}}],"structuredContent":{copy}}}}}"#,
        serde_json::to_string(copy).unwrap()
    );
    let out: serde_json::Value = serde_json::from_str(&passed(rules, &message)).unwrap();
    let masked = &out["result"]["structuredContent"];
    assert!(masked["customer"]["email"].as_str().unwrap().starts_with("[customer:"));
    let text = out["result"]["content"][0]["text"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(text).unwrap(), *masked);
    for unreadable in
        [r#"{"customer": {"email": "x"}, "customer": 1}"#, r#"{"customer": {"email": "x"}} and"#, r#"[{"a":1},"#]
    {
        let message = serde_json::json!({"result": {"content": [{"type": "text", "text": unreadable}]}}).to_string();
        withheld(rules, &message);
    }
    let prose = r#"{"result":{"content":[{"type":"text","text":"[INFO] no customer"}]}}"#;
    assert_eq!(passed(rules, prose), prose);
}

#[test]
fn masked_values_are_found_in_the_text_of_content() {
    let rules = "mask: [{path: result.structuredContent.result.*.name, name: person}, {path: 'result.structuredContent.total'}]";
    let message = r#"{"result":{"structuredContent":{"result":{"a":{"name":"Jo Smith"},"b":{"name":"Al"}},"total":1250,"owner":"Jo Smith"},"content":[{"type":"text","text":"Jo\u0020Smith (not Jo Smithson) owes 1250 or 12500; Al nothing"},{"type":"text","text":"{\"n\":1250}"}]}}"#;
    let expected = r#"{"result":{"structuredContent":{"result":{"a":{"name":"[person]"},"b":{"name":"[person]"}},"total":0,"owner":"Jo Smith"},"content":[{"type":"text","text":"[person] (not Jo Smithson) owes [masked] or 12500; Al nothing"},{"type":"text","text":"{\"n\":0}"}]}}"#;
    assert_eq!(passed(rules, message), expected);
    let many = |count: usize| {
        let values: Vec<String> = (0..count).map(|n| format!("{:06}", n + 100_000)).collect();
        let message = format!(r#"{{"result":{{"structuredContent":{{"a":[{}]}},"content":[]}}}}"#, values.join(","));
        judge(policy("mask: [{path: result.structuredContent.a}]").messages(), &message).0
    };
    assert!(many(ECHOES_MAX).is_ok() && many(ECHOES_MAX + 1).is_err());
}

#[test]
fn what_looks_like_json_behind_something_unseen_is_withheld_where_a_path_leads_into_it() {
    for start in ["\\ufeff", "\\u00a0", "\\u200b ", "\\u2028"] {
        let message =
            format!(r#"{{"result":{{"content":[{{"type":"text","text":"{start}{{\"mail\":\"a@b.cd\"}}"}}]}}}}"#);
        withheld("mask: [{path: result.structuredContent.mail}]", &message);
        withheld("block_if: [{conditions: [{path: 'result.content[*].text.json.mail', op: eq, value: x}]}]", &message);
        assert_eq!(passed("mask: [{path: result.other}]", &message), message);
    }
}

#[test]
fn long_values_are_found_in_the_text_of_content() {
    let rules = "mask: [{path: result.structuredContent.notes}]";
    let message = |notes: &[&str], text: &str| {
        let notes = notes.join("\",\"");
        format!(
            r#"{{"result":{{"structuredContent":{{"notes":["{notes}"]}},"content":[{{"type":"text","text":"{text}"}}]}}}}"#
        )
    };
    let masked = |text: &str| {
        format!(r#"{{"result":{{"structuredContent":{{"notes":[]}},"content":[{{"type":"text","text":"{text}"}}]}}}}"#)
    };
    let long = "Bob is ill; ".repeat(20);
    let (one, other) = (format!("{long}one"), format!("{long}other é"));
    let both = [one.as_str(), other.as_str(), &long];
    for (text, expected) in [
        (format!("a {one}, {other}."), "a [masked], [masked]."),
        (format!("cut: {}", one.get(..100).unwrap()), "cut: [masked]"),
        (format!("xB{}", one.get(1..60).unwrap()), &*format!("xB{}", one.get(1..60).unwrap())),
        (format!("{long}two"), "[masked]two"),
    ] {
        assert_eq!(passed(rules, &message(&both, &text)), masked(expected), "{text}");
    }
    // A word that goes on does not hide a shorter value in it.
    assert_eq!(passed(rules, &message(&["John", "John Doe"], "John Doers")), masked("[masked] Doers"));
}

#[test]
fn what_a_server_can_send_takes_no_more_time_than_its_bytes() {
    let judge_big = |rules: &str, message: String| {
        let limits = Limits { bytes_max: usize::MAX, nodes_max: 1_000_000, ..Limits::default() };
        let document = Document::parse(message.as_bytes(), limits).unwrap();
        let (mut splices, mut findings) = (Splices::default(), Findings::default());
        let judged = policy(rules).messages().judge(&document, &key(), &mut splices, &mut findings);
        assert_eq!(judged, Judged::Pass);
    };
    let notes = "Bob is ill. ".repeat(20_000);
    let message = r#"{"result":{"structuredContent":{"a":"NOTES"},"content":[{"type":"text","text":"NOTES"}]}}"#;
    judge_big("mask: [{path: result.structuredContent.a}]", message.replace("NOTES", &notes));
    let values: Vec<String> = (4..2_000).map(|length| format!("\"{}\"", "a".repeat(length))).collect();
    let message = message.replacen("\"NOTES\"", &format!("[{}]", values.join(",")), 1);
    judge_big("mask: [{path: result.structuredContent.a}]", message.replace("NOTES", &"a".repeat(50_000)));
    let name = "n".repeat(300_000);
    for value in ["123456789 ", "a8Kd0f9Lq2Zx7Wc1 "] {
        let message = format!(r#"{{"result":{{"{name}":"{}"}}}}"#, value.repeat(5_000));
        judge_big("mask: [{detect: [us_ssn, high_entropy]}]", message);
    }
    for text in ["(//", "=//", "'//a(//b(", "http:/"] {
        let message = format!(r#"{{"result":"{}"}}"#, text.repeat(100_000));
        judge_big("inspect: {links: {hosts: [a.b], action: mask}}", message);
    }
    // Hours, if the time were not in proportion.
    judge_big("mask: [{detect: email}]", format!(r#"{{"result":"{}"}}"#, "a@b.cd ".repeat(60_000)));
}

#[test]
fn numbers_are_judged() {
    let rules = "mask: [{detect: payment_card}, {pattern: '^77[0-9]$'}]";
    let message = r#"{"result":{"a":4111111111111111,"b":4111111111111112,"c":4.111111111111111e15,"d":771,"e":7712}}"#;
    assert_eq!(passed(rules, message), r#"{"result":{"a":0,"b":4111111111111112,"c":0,"d":0,"e":7712}}"#);
}

#[test]
fn the_widest_hit_wins_and_nothing_of_the_others_stays() {
    let rules = "mask:\n  - {pattern: 'bc', name: n}\n  - {pattern: 'abcd', name: w}\n  - {pattern: 'def', name: o}";
    let (out, findings) = judge(policy(rules).messages(), r#"{"result":"xabcdefy bc"}"#);
    assert_eq!(out.unwrap(), r#"{"result":"x[w]y [n]"}"#);
    assert_eq!(counts(&findings), [("/mask/1", Action::Mask, 1), ("/mask/0", Action::Mask, 1)]);
    let partial = "mask: [{pattern: '[a-z]{12}', with: partial, name: p}, {pattern: 'jkl'}]";
    assert_eq!(passed(partial, r#"{"result":"abcdefghijkl"}"#), r#"{"result":"[p]"}"#);
}

#[test]
fn names_of_members_cannot_be_masked() {
    let rules = "mask: [{detect: email}]";
    let text = withheld(rules, r#"{"result":{"structuredContent":{"a@b.cd":1}}}"#);
    assert!(text.contains("/mask/0"), "{text}");
    let scoped = "mask: [{detect: email, path: 'result.content[*].text'}]";
    let message = r#"{"result":{"structuredContent":{"a@b.cd":1}}}"#;
    assert_eq!(passed(scoped, message), message);
}

#[test]
fn what_makes_a_message_stays() {
    let rules = "mask: [{detect: email}]";
    let message = r#"{"jsonrpc":"2.0","id":"a@b.cd","error":{"code":-32000,"message":"no a@b.cd","data":["a@b.cd"]}}"#;
    let expected =
        r#"{"jsonrpc":"2.0","id":"a@b.cd","error":{"code":-32000,"message":"no [email]","data":["[email]"]}}"#;
    assert_eq!(passed(rules, message), expected);
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"a@b.cd"}}"#;
    assert!(passed(rules, notification).contains("[email]"));
    withheld(rules, "[]");
}

#[test]
fn bytes_that_are_text_are_judged() {
    use base64::Engine as _;
    let encode = |text: &[u8]| base64::engine::general_purpose::STANDARD.encode(text);
    let rules = "mask: [{detect: email}]";
    let message = |blob: &str| {
        format!(r#"{{"result":{{"content":[{{"type":"resource","resource":{{"uri":"f:x","blob":"{blob}"}}}}]}}}}"#)
    };
    assert_eq!(passed(rules, &message(&encode(b"to a@b.cd"))), message(&encode(b"to [email]")));
    let (lines, other) = (r"dG8g\nYUBi\r\nLmNk", base64::engine::general_purpose::URL_SAFE.encode("a@b.cd ~~~???>>>"));
    assert!(other.contains(['-', '_']));
    assert_eq!(passed(rules, &message(lines)), message(&encode(b"to [email]")), "as MIME has it");
    assert_eq!(passed(rules, &message(&other)), message(&encode(b"[email] ~~~???>>>")), "the other alphabet");
    let picture = message(&encode(&[0x89, 0x50, 0xff, 0xfe, 0x00]));
    assert_eq!(passed(rules, &picture), picture);
    withheld("block_if: [{detect: email}]", &message(&encode(b"to a@b.cd")));
}

#[test]
fn reveal_shows_nothing_else() {
    let rules = "tools: {t: {reveal: [result.structuredContent.id, 'result.structuredContent.items[*].name']}}";
    let message = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"{\"id\":1,\"x\":\"y\"}"},{"type":"text","text":"free"},{"type":"image","mimeType":"image/png","data":"aGk="},{"type":"resource_link","uri":"https://a","name":"n"}],"structuredContent":{"id":7,"items":[{"name":"n","price":2}],"new":{"deep":true},"none":null},"isError":false,"resultType":"complete"}}"#;
    let expected = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"{\"id\":1,\"x\":\"[masked]\"}"},{"type":"text","text":"[masked]"},{"type":"image","mimeType":"image/png","data":""},{"type":"resource_link","uri":"masked:value","name":"[masked]"}],"structuredContent":{"id":7,"items":[{"name":"n","price":0}],"new":{"deep":false},"none":null},"isError":false,"resultType":"complete"}}"#;
    let (out, findings) = judge(policy(rules).results(Some("t")), message);
    assert_eq!(out.unwrap(), expected);
    let fields = [
        "result.content[*].text.json.x",
        "result.content[*].text",
        "result.content[*].data",
        "result.content[*].uri",
        "result.content[*].name",
        "result.structuredContent.items[*].price",
        "result.structuredContent.new.deep",
    ];
    assert_eq!(findings.new_fields, fields);
    assert_eq!(counts(&findings), [("/tools/t/reveal", Action::Mask, 7)]);
}

#[test]
fn tokens_of_the_protocol_stay_and_may_block() {
    let message =
        r#"{"result":{"requestState":"kB7xQ2mZ9tR4vL1wN8pY a@b.cd","x":{"requestState":"kB7xQ2mZ9tR4vL1wN8pY"}}}"#;
    let expected = r#"{"result":{"requestState":"kB7xQ2mZ9tR4vL1wN8pY a@b.cd","x":{"requestState":"[high_entropy]"}}}"#;
    assert_eq!(passed("mask: [{detect: [email, high_entropy]}]", message), expected);
    withheld("block_if: [{detect: email}]", message);
    let parts = r#"{"result":{"nextCursor":{"by":["a@b.cd"]},"taskId":["a@b.cd"]}}"#;
    assert_eq!(passed("mask: [{detect: email}]", parts), parts.replace("a@b.cd", "[email]"), "no token has parts");
}

#[test]
fn envelope_paths_are_paths() {
    assert_eq!((ENVELOPE.len(), OPAQUE.len()), (ENVELOPE_PATHS.len(), OPAQUE_PATHS.len()));
}

#[test]
fn new_fields_are_reported_and_stay() {
    let rules = "report_new_fields: [result.structuredContent.id]\nmask: [{path: result.structuredContent.mail}]";
    let message = r#"{"result":{"structuredContent":{"id":1,"mail":"x","new":"y"}}}"#;
    let (out, findings) = judge(policy(rules).messages(), message);
    assert_eq!(out.unwrap(), message.replace("\"x\"", "\"[masked]\""));
    assert_eq!(findings.new_fields, ["result.structuredContent.new"]);
    assert_eq!(counts(&findings), [("/mask/0", Action::Mask, 1), ("/report_new_fields", Action::Report, 1)]);
}

#[test]
fn blocks_tell_their_text_and_leave_nothing_else() {
    let rules = "mask: [{detect: email}]\nblock_if:\n  - {detect: us_ssn, on_block: No numbers of people.}\n  - conditions: [{path: result.structuredContent.status, op: eq, value: secret}]";
    let (out, findings) = judge(policy(rules).messages(), r#"{"result":{"a":"a@b.cd","b":"123-45-6789"}}"#);
    assert_eq!(
        (out.unwrap_err().as_str(), counts(&findings)),
        ("No numbers of people.", vec![("/block_if/0", Action::Block, 1)])
    );
    for structured in [r#"{"status":"secret"}"#, r#"{"status":7}"#, "[1]", r#""x""#] {
        let message = format!(r#"{{"result":{{"structuredContent":{structured}}}}}"#);
        assert_eq!(withheld(rules, &message), "The result is withheld by policy rule /block_if/1");
    }
    withheld(rules, r#"{"result":{"content":[{"type":"text","text":"{\"status\":\"secret\"}"}]}}"#);
    for structured in [r#"{"status":"open"}"#, "{}", "null"] {
        passed(rules, &format!(r#"{{"result":{{"structuredContent":{structured}}}}}"#));
    }
    let hidden_in_masked = "mask: [{path: result.a}]\nblock_if: [{detect: email}]";
    withheld(hidden_in_masked, r#"{"result":{"a":{"b":"a@b.cd"}}}"#);
}

#[test]
fn hidden_text_is_cleaned_blocked_or_reported() {
    let message = "{\"result\":{\"a\":\"x\u{e0041}y\\u200bz\\u202e\"}}";
    let with = |action: &str| judge(policy(&format!("inspect: {{hidden_text: {action}}}")).messages(), message);
    let (out, findings) = with("mask");
    assert_eq!(out.unwrap(), r#"{"result":{"a":"xyz"}}"#);
    assert_eq!(counts(&findings), [("/inspect/hidden_text", Action::Mask, 3)]);
    assert!(with("block").0.is_err());
    let (out, findings) = with("report");
    assert_eq!(
        (out.unwrap().as_str(), counts(&findings)),
        (message, vec![("/inspect/hidden_text", Action::Report, 3)])
    );
    withheld("inspect: {hidden_text: mask}", "{\"result\":{\"a\u{200b}\":1}}");
}

#[test]
fn links_to_other_hosts() {
    let rules = "inspect: {links: {hosts: [docs.example.com, '*.example.org'], action: mask}}";
    let message = r#"{"result":{"content":[{"type":"text","text":"https://docs.example.com/a https://a.example.org https://example.org [x](https:\/\/evil.example/p)"},{"type":"resource_link","uri":"https://evil.example/x"}]}}"#;
    let expected = r#"{"result":{"content":[{"type":"text","text":"https://docs.example.com/a https://a.example.org [link] [x]([link])"},{"type":"resource_link","uri":"masked:value"}]}}"#;
    assert_eq!(passed(rules, message), expected);
    let bare =
        r#"{"result":"(//evil.example:80/p) (//docs.example.com:80/a) <//u@evil.example> (// no) \"//a\" LONG"}"#;
    let long = format!("(//{}@evil.example/)", "u".repeat(600));
    let expected = r#"{"result":"([link]) (//docs.example.com:80/a) <[link]> (// no) \"//a\" ([link])"}"#;
    assert_eq!(passed(rules, &bare.replace("LONG", &long)), expected);
}

#[test]
fn nothing_hides_behind_more_links_than_are_counted() {
    let rules = "mask: [{detect: email}]\ninspect: {links: {hosts: [a.b], action: mask}}";
    let text = |links: usize| format!("{}x@y.zz http://evil.example", "http://a.b ".repeat(links));
    let judged = |links: usize| {
        let message = format!(r#"{{"result":"{}"}}"#, text(links));
        judge(policy(rules).messages(), &message).0
    };
    assert!(judged(HITS_MAX - 2).unwrap().ends_with("[email] [link]\"}"));
    for links in [HITS_MAX + 1, HITS_MAX + 2] {
        assert!(judged(links).is_err(), "the rest was not looked at");
    }
    let definition = |links: usize| {
        let element = format!(r#"{{"description":"{}"}}"#, text(links));
        let limits = Limits { bytes_max: 4 << 20, ..Limits::default() };
        let document = Document::parse(element.as_bytes(), limits).unwrap();
        let (mut splices, mut findings) = (Splices::default(), Findings::default());
        policy(rules).definitions().judge(document.root(), &mut splices, &mut findings)
    };
    assert_eq!((definition(HITS_MAX - 1), definition(HITS_MAX + 1)), (Shown::Stays, Shown::Hidden));
}

#[test]
fn texts_that_are_no_json() {
    let policy = policy("mask: [{detect: email, path: 'result.content[*].text'}]\nblock_if: [{detect: us_ssn}]");
    let judge = |text: &str| policy.results(None).judge_text(text, &key(), &mut Findings::default());
    assert_eq!(judge("no such user a@b.cd").unwrap().as_deref(), Some("no such user [email]"));
    assert_eq!(judge("fine").unwrap(), None);
    assert!(judge("123-45-6789").is_err());
}

#[test]
fn bounds_hold() {
    let rules = "mask: [{pattern: 'a'}]\ninspect: {result_bytes_max: 4500000}";
    let message = |text: &str| format!(r#"{{"result":"{text}"}}"#);
    let judge_big = |text: String| {
        let message = message(&text);
        let limits = Limits { bytes_max: 10_000_000, ..Limits::default() };
        let document = Document::parse(message.as_bytes(), limits).unwrap();
        policy(rules).messages().judge(&document, &key(), &mut Splices::default(), &mut Findings::default())
    };
    assert_eq!(judge_big("b".repeat(TEXT_BYTES_MAX)), Judged::Pass);
    assert_eq!(judge_big("b".repeat(TEXT_BYTES_MAX + 1)), Judged::Block(too_long()));
    assert_eq!(judge_big("ab".repeat(HITS_MAX)), Judged::Pass);
    assert_eq!(judge_big("ab".repeat(HITS_MAX + 1)), Judged::Block(too_many()));
    assert!(matches!(judge_big("b".repeat(4_500_000)), Judged::Block(text) if text.contains("4500000")));
    let nested = |levels: usize| {
        let text = (0..levels).fold("b".to_owned(), |text, _| serde_json::to_string(&[text]).unwrap());
        judge_big(serde_json::to_string(&text).unwrap().trim_matches('"').to_owned())
    };
    assert_eq!((nested(NESTED_MAX), nested(NESTED_MAX + 1)), (Judged::Pass, Judged::Block(too_deep())));
    let fields = |count: usize| {
        let members: Vec<String> = (0..count).map(|n| format!("\"f{n}\":1")).collect();
        judge(policy("report_new_fields: true").messages(), &format!("{{\"result\":{{{}}}}}", members.join(","))).1
    };
    assert_eq!(fields(NEW_FIELDS_MAX).new_fields.len(), NEW_FIELDS_MAX);
    assert_eq!(fields(NEW_FIELDS_MAX + 1).new_fields.len(), NEW_FIELDS_MAX);
    let long = format!("{{\"result\":{{\"{}\":1}}}}", "x".repeat(FIELD_NAME_BYTES_MAX + 1));
    let found = judge(policy("report_new_fields: true").messages(), &long).1;
    assert_eq!(found.new_fields, [format!("result.{}", "x".repeat(FIELD_NAME_BYTES_MAX))]);
}

#[test]
fn descriptions_are_cleaned_and_names_hide() {
    let definitions = |action: &str, tool: &str| {
        let policy = policy(&format!("inspect: {{hidden_text: {action}, links: {{hosts: [], action: mask}}}}"));
        let document = Document::parse(tool.as_bytes(), Limits::default()).unwrap();
        let (mut splices, mut findings) = (Splices::default(), Findings::default());
        let shown = policy.definitions().judge(document.root(), &mut splices, &mut findings);
        (shown, splices.apply(tool).unwrap(), findings)
    };
    let tool = "{\"name\":\"t\",\"description\":\"do\\u200b https://a.example x\",\"inputSchema\":{\"$schema\":\"https://json-schema.org/x\",\"properties\":{\"description\":{\"description\":\"a\u{202e}\"}}}}";
    let (shown, out, findings) = definitions("mask", tool);
    assert_eq!(shown, Shown::Stays);
    assert_eq!(
        out,
        "{\"name\":\"t\",\"description\":\"do [link] x\",\"inputSchema\":{\"$schema\":\"https://json-schema.org/x\",\"properties\":{\"description\":{\"description\":\"a\"}}}}"
    );
    assert_eq!(counts(&findings), [("/inspect/hidden_text", Action::Mask, 2), ("/inspect/links", Action::Mask, 1)]);
    let (shown, out, findings) = definitions("block", tool);
    assert_eq!((shown, out.as_str()), (Shown::Hidden, tool));
    assert_eq!(counts(&findings), [("/inspect/hidden_text", Action::Block, 1)]);
    assert_eq!(definitions("report", tool).0, Shown::Stays);
    for named in ["{\"name\":\"t\u{200b}\"}", "{\"inputSchema\":{\"a\u{200b}\":1}}", "{\"enum\":[\"a\u{200b}\"]}"] {
        assert_eq!(definitions("mask", named).0, Shown::Hidden);
    }
}

/// Pieces that are found, pieces that are not, and pieces that are awkward in JSON.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a@b.cd".to_owned()),
        Just("4111 1111 1111 1111".to_owned()),
        Just("https://evil.example/x".to_owned()),
        Just("\u{200b}\u{e0041}".to_owned()),
        Just("ACME-123456".to_owned()),
        Just("{\"a\":\"b@c.de\"}".to_owned()),
        Just("\\u0040".to_owned()),
        "[ -~]{0,6}",
        any::<String>(),
    ]
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let text = proptest::collection::vec(piece(), 0..4).prop_map(|parts| serde_json::Value::from(parts.join(" ")));
    let leaf = prop_oneof![
        text,
        any::<i64>().prop_map(serde_json::Value::from),
        Just(serde_json::json!(4_111_111_111_111_111_i64)),
        any::<bool>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::btree_map("[a-z]{1,4}|text|uri|description", inner.clone(), 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            inner.prop_map(|value| serde_json::Value::from(value.to_string())),
        ]
    })
}

const EVERYTHING: &str =
    "mask: [{detect: [email, payment_card], with: partial}, {pattern: 'ACME-[0-9]{6}', with: hash}, {path: result.a.b}]
inspect: {hidden_text: mask, links: {hosts: [], action: mask}}";

/// The same shape: only leaves differ, and none by its type.
fn alike(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value as V;
    match (a, b) {
        (V::Array(a), V::Array(b)) => b.is_empty() || (a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))),
        (V::Object(a), V::Object(b)) => {
            b.is_empty() || (a.keys().eq(b.keys()) && a.iter().all(|(k, v)| alike(v, &b[k])))
        }
        (V::String(_), V::String(_)) | (V::Number(_), V::Number(_)) | (V::Bool(_), V::Bool(_)) | (V::Null, V::Null) => {
            true
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn the_output_is_json_of_the_same_shape_and_holds_nothing(value in value()) {
        let message = serde_json::json!({"result": value}).to_string();
        let policy = policy(EVERYTHING);
        if let (Ok(out), _) = judge(policy.messages(), &message) {
            let (before, after): (serde_json::Value, serde_json::Value) = (serde_json::from_str(&message).unwrap(), serde_json::from_str(&out).unwrap());
            prop_assert!(alike(&before, &after), "{message} -> {out}");
            // What was masked once has nothing left to mask, apart from what `partial` keeps on purpose.
            for gone in ["a@b.cd", "b@c.de", "4111 1111", "4111111111111111", "evil.example", "ACME-123456", "\u{e0041}"] {
                prop_assert!(!out.contains(gone), "{gone} in {out}");
            }
        }
    }

    #[test]
    fn texts_without_hits_stay_to_the_byte(value in value()) {
        let message = serde_json::json!({"result": value}).to_string();
        let policy = policy("mask: [{pattern: '\\x{10ffff}\\x{10fffe}'}]");
        if let (Ok(out), findings) = judge(policy.messages(), &message) {
            prop_assert_eq!((out, findings.hits.len()), (message, 0));
        }
    }
}
