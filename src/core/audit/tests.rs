//! What records say, and that all of them are canonical.

use proptest::prelude::*;

use super::*;
use crate::audit::chain::Chain;
use crate::decision::Reason;
use crate::json::{Document, Limits};
use crate::mask::{Action, Findings, Hit};
use crate::response::{Came, Kind, Report, Withheld};
use crate::settle::{Facts, Fate};
use crate::{ledger::CounterId, ledger::Line, ledger::Span, quota::Mode};

const EMPTY: Record<'_> = Record {
    time_ms: 1_781_604_300_007,
    reason: None,
    rule: "",
    rule_exact: None,
    policy: None,
    policy_digest: None,
    server: None,
    principal: None,
    grant: None,
    method: "tools/call",
    tool: None,
    arguments: None,
    args: ArgsMode::Keys,
    args_key: None,
    request_id: None,
    stream_id: None,
    trace: None,
    is_unmetered: false,
    latency_us: 10,
};

/// The line of a draft as the first of a chain.
#[track_caller]
fn sealed(write: impl Fn(&mut String)) -> String {
    let (mut draft, mut out) = (String::new(), Vec::new());
    write(&mut draft);
    assert!(Chain::new([7; 16], None, None).seal(draft.as_bytes(), &mut out));
    let line = String::from_utf8(out).unwrap();
    let line = line.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'));
    // Canonical: a reader that sorts and writes it anew makes the same bytes, and the hash is over all but itself.
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(serde_json::to_string(&value).unwrap(), line);
    assert!(line::place(line.as_bytes()).unwrap().is_whole());
    assert_no_numbers(&value);
    line.to_owned()
}

fn assert_no_numbers(value: &serde_json::Value) {
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(assert_no_numbers),
        serde_json::Value::Object(members) => members.values().for_each(assert_no_numbers),
        serde_json::Value::Number(number) => panic!("{number}"),
        serde_json::Value::Bool(_) | serde_json::Value::Null | serde_json::Value::String(_) => {}
    }
}

/// What stands in the extension of a record.
#[track_caller]
fn members(write: impl Fn(&mut String)) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_str(&sealed(write)).unwrap();
    let extensions = value["extensions"].as_object().unwrap();
    assert_eq!(extensions.len(), 2);
    extensions.values().nth(1).unwrap().clone()
}

fn line() -> Line {
    Line {
        counter: CounterId(7),
        label: "deletions:hour-utc".into(),
        span: Span::Lifetime { idle_ms: 0 },
        mode: Mode::Consume,
        amount: 1,
        max: 5,
        strict: true,
        release: false,
    }
}

fn arguments(text: &str) -> Document<'_> {
    Document::parse(text.as_bytes(), Limits::default()).unwrap()
}

#[test]
fn a_record_names_keys_and_never_values() {
    let arguments = arguments(r#"{"url":"SECRET","b\u0061":["SECRET"],"a":{"SECRET":1}}"#);
    let record = Record {
        reason: Some(Reason::Condition),
        rule: "/tools/t/deny_if/args.a-gt",
        rule_exact: Some("/tools/t/deny_if/0/conditions/0"),
        tool: Some("t\n\",\"level\":\"error\u{202e}"),
        arguments: Some(arguments.root()),
        ..EMPTY
    };
    let line = sealed(|out| record.write(out));
    let id = "07".repeat(16);
    let (start, hashed) = line.split_at(chain::LINE_START.len() + chain::HASH_DIGITS + 2);
    assert!(start.starts_with(r#"{"event_hash":""#), "{start}");
    assert_eq!(
        hashed,
        format!(
            concat!(
                r#""event_id":"{id}-1","event_type":"decision","extensions":{{"io.mcp-authz/chain":{{"id":"{id}","seq":"1"}},"#,
                r#""io.mcp-authz/decision":{{"arg_keys":["a","ba","url"],"decision":"deny","latency_us":"10","method":"tools/call","#,
                r#""reason":"condition","rule":"/tools/t/deny_if/args.a-gt","rule_exact":"/tools/t/deny_if/0/conditions/0"}}}},"#,
                r#""occurred_at":"2026-06-16T10:05:00.007Z","outcome":"denied","previous_hash":null,"principal_id":"anonymous","#,
                r#""tool_name":"t\\n\",\"level\":\"error\\u202e"}}"#
            ),
            id = id
        )
    );
}

#[test]
fn what_we_could_not_decide_is_an_error_and_a_refusal_a_denial() {
    let outcome = |reason| {
        let value: serde_json::Value =
            serde_json::from_str(&sealed(|out| Record { reason, ..EMPTY }.write(out))).unwrap();
        (
            value["outcome"].as_str().unwrap().to_owned(),
            value["extensions"]["io.mcp-authz/decision"]["decision"].clone(),
        )
    };
    assert_eq!(outcome(None), ("allowed".into(), "allow".into()));
    for (reason, expected) in [
        (Reason::TokenMissing, "denied"),
        (Reason::MalformedJson, "denied"),
        (Reason::QuotaExhausted, "denied"),
        (Reason::LedgerUnavailable, "error"),
        (Reason::Internal, "error"),
    ] {
        assert_eq!(outcome(Some(reason)), (expected.into(), "deny".into()), "{reason}");
    }
}

#[test]
fn keys_are_no_channel_out() {
    let keys = |n: usize| (0..n).map(|i| format!("\"{i:0>100}\":1")).collect::<Vec<_>>().join(",");
    for (n, total) in [(64, None), (65, Some("65"))] {
        let text = format!("{{{}}}", keys(n));
        let document = arguments(&text);
        let record = Record { arguments: Some(document.root()), ..EMPTY };
        let said = members(|out| record.write(out));
        let listed = said["arg_keys"].as_array().unwrap();
        assert_eq!(listed.len(), 64);
        assert!(listed.iter().all(|key| key.as_str().unwrap().len() <= KEY_BYTES_MAX + "…".len()));
        assert_eq!(said["arg_keys_total"].as_str(), total);
        for args in [ArgsMode::Full, ArgsMode::Redacted, ArgsMode::Hmac] {
            let said = members(|out| Record { args, args_key: Some(&[1; 32]), ..record }.write(out));
            assert_eq!((said["args"].as_array().unwrap().len(), said["args_total"].as_str()), (64, total));
        }
    }
}

const ARGUMENTS: &str = r#"{"b":"SECRET","a":1.50,"c":{"k":[1, 2]},"d":true,"e":"SECR\u0045T","f":[],"g":null}"#;

#[test]
fn each_mode_says_what_it_promises() {
    let document = arguments(ARGUMENTS);
    let with = |args, key: Option<&'static [u8; 32]>| {
        let record = Record { arguments: Some(document.root()), args, args_key: key, ..EMPTY };
        members(|out| record.write(out))
    };
    let said = with(ArgsMode::None, None);
    assert!(said.get("args").is_none() && said.get("arg_keys").is_none());
    let said = with(ArgsMode::Redacted, None).to_string();
    assert!(
        !said.contains("SECR") && !said.contains("1.5") && !said.contains('k'.to_string().as_str())
            || said.contains("key")
    );
    assert!(
        said.contains(r#""args":[{"key":"a","type":"number"},{"key":"b","length":"6","type":"string"},"#),
        "{said}"
    );
    assert!(said.contains(r#"{"key":"c","length":"1","type":"object"},{"key":"d","type":"boolean"}"#), "{said}");
    let said = with(ArgsMode::Full, None);
    assert_eq!(said["args"][0], serde_json::json!({"bytes": "4", "key": "a", "value": "1.50"}));
    assert_eq!(said["args"][2]["value"], r#"{"k":[1, 2]}"#);
    assert_eq!(said["args"][4]["value"], r#""SECR\\u0045T""#, "as it was written");
    // Without a key nothing but names.
    assert!(with(ArgsMode::Hmac, None).get("args").is_none());
}

#[test]
fn equal_values_have_equal_digests_and_no_others() {
    let document = arguments(ARGUMENTS);
    let digests = |key: &'static [u8; 32]| {
        let record = Record { arguments: Some(document.root()), args: ArgsMode::Hmac, args_key: Some(key), ..EMPTY };
        let said = members(|out| record.write(out));
        let text = said.to_string();
        assert!(!text.contains("SECR") && !text.contains("1.5"), "{text}");
        let of = |one: &serde_json::Value| one["digest"].as_str().unwrap().to_owned();
        said["args"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let (one, other) = (digests(&[1; 32]), digests(&[2; 32]));
    assert_eq!(one[1], one[4], "one string, written in two ways");
    let distinct: std::collections::BTreeSet<_> = one.iter().chain(&other).collect();
    assert_eq!(distinct.len(), 12, "six values under two keys");
    assert!(one.iter().all(|digest| digest.len() == 32));
}

#[test]
fn full_values_are_bounded_each_and_together() {
    let text = |n: usize, bytes: usize| {
        let all: Vec<String> = (0..n).map(|i| format!("\"{i:02}\":\"{}\"", "x".repeat(bytes - 2))).collect();
        format!("{{{}}}", all.join(","))
    };
    let said = |text: &str| {
        let document = arguments(text);
        let record = Record { arguments: Some(document.root()), args: ArgsMode::Full, ..EMPTY };
        let line = sealed(|out| record.write(out));
        assert!(line.len() < chain::LINE_BYTES_MAX);
        let all = members(|out| record.write(out))["args"].as_array().unwrap().clone();
        let of = |one: &serde_json::Value| {
            let value = one["value"].as_str();
            (value.map_or(0, str::len), value.is_some_and(|value| value.ends_with('…')))
        };
        all.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(said(&text(1, VALUE_BYTES_MAX)), [(VALUE_BYTES_MAX, false)]);
    assert_eq!(said(&text(1, VALUE_BYTES_MAX + 1)), [(VALUE_BYTES_MAX + 3, true)]);
    let most = RECORD_VALUE_BYTES_MAX / VALUE_BYTES_MAX;
    let all = said(&text(most + 1, VALUE_BYTES_MAX));
    assert!(all[..most].iter().all(|one| *one == (VALUE_BYTES_MAX, false)) && all[most] == (0, false), "{all:?}");
    // The worst that a value can become.
    said(&text(64, VALUE_BYTES_MAX).replace('x', "\u{7f}"));
}

#[test]
fn a_call_that_was_not_counted_says_so_and_a_traced_one_says_where() {
    let said = members(|out| Record { is_unmetered: true, ..EMPTY }.write(out));
    assert_eq!(said["quota"], "unmetered");
    let trace = TraceContext::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let said = members(|out| Record { trace, ..EMPTY }.write(out));
    assert_eq!(
        (said["span_id"].as_str(), said["trace_id"].as_str()),
        (Some("b7ad6b7169203331"), Some("0af7651916cd43dd8448eb211c80319c"))
    );
    let said = members(|out| EMPTY.write(out));
    assert!(["quota", "span_id", "trace_id", "arg_keys", "grant"].iter().all(|name| said.get(name).is_none()));
}

#[test]
fn a_settlement_names_its_reservation_and_nobody() {
    let facts = Facts { fate: Fate::NotSent, attempts: 1, came: None };
    let settlement = Settlement {
        time_ms: 1_781_604_300_007,
        outcome: "refunded",
        facts: Some(&facts),
        reservation: Some("9264854546074171864"),
        policy: Some([0x0a, 0xff, 0, 1, 2, 3, 4, 5]),
        issued_ms: Some(1_781_604_300_000),
        lines: &[line(), line()],
        trace: None,
    };
    let text = sealed(|out| settlement.write(out));
    assert!(text.contains(concat!(
        r#""io.mcp-authz/settlement":{"age_ms":"7","attempts":"1","counters":["deletions:hour-utc","deletions:hour-utc"],"#,
        r#""fate":"not_sent","policy_digest":"sha256:0aff000102030405","reservation":"9264854546074171864","settled":"refunded"}"#
    )));
    assert!(
        text.contains(r#""outcome":"allowed","previous_hash":null,"principal_id":"unknown","tool_name":null}"#),
        "{text}"
    );
    let forged = Settlement {
        facts: None,
        reservation: None,
        policy: None,
        issued_ms: None,
        lines: &[],
        outcome: "forged",
        ..settlement
    };
    let text = sealed(|out| forged.write(out));
    assert!(
        text.contains(r#""io.mcp-authz/settlement":{"settled":"forged"}},"#) && text.contains(r#""outcome":"denied""#),
        "{text}"
    );
}

#[test]
fn an_approval_names_the_tool_and_what_was_approved() {
    let (tool, digest) = (Some("t\u{202e}"), Some("sha256:ab"));
    let record = PinRecord { time_ms: 0, act: PinAct::Approve, server: "s", tool, digest };
    let line = sealed(|out| record.write(out));
    for part in [
        r#""event_type":"pins_approve""#,
        r#""io.mcp-authz/operator":{"digest":"sha256:ab","server":"s"}},"occurred_at":"1970-01-01T00:00:00.000Z""#,
        r#""outcome":"allowed""#,
        r#""principal_id":"operator","tool_name":"t\\u202e"}"#,
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let line = sealed(|out| PinRecord { act: PinAct::Failed, tool: None, digest: None, ..record }.write(out));
    assert!(line.contains(r#""event_type":"pins_failed""#) && line.contains(r#""outcome":"error""#), "{line}");
}

#[test]
fn a_reset_names_counters_and_who() {
    let one = CounterName {
        policy: "p",
        policy_digest: Some("sha256:00"),
        counter: "c",
        window: "hour",
        scope: "grant",
        tool: Some("t\n"),
    };
    let two = CounterName { tool: None, policy_digest: None, ..one };
    let record = OperatorRecord { time_ms: 1, act: Act::Reset, grant: Some("g1"), counters: &[one, two] };
    let line = sealed(|out| record.write(out));
    assert!(line.contains(concat!(
        r#""io.mcp-authz/operator":{"counters":[{"counter":"c","policy":"p","policy_digest":"sha256:00","scope":"grant","tool":"t\\n","#,
        r#""window":"hour"},{"counter":"c","policy":"p","scope":"grant","window":"hour"}],"grant":"g1"}"#
    )), "{line}");
    let line = sealed(|out| OperatorRecord { act: Act::AcceptLoss, grant: None, counters: &[], ..record }.write(out));
    assert!(line.contains(r#""event_type":"quota_accept_loss","#) && line.contains(r#"{"counters":[]}"#), "{line}");
}

#[test]
fn an_outcome_is_what_envoy_saw() {
    let facts = Facts { fate: Fate::Answered(503), attempts: 2, came: None };
    let some = Some("x");
    let record = OutcomeRecord {
        time_ms: 1,
        facts: &facts,
        is_unseen: true,
        principal: some,
        grant: some,
        method: some,
        policy: some,
        policy_digest: some,
        server: some,
        stream_id: some,
        trace: None,
    };
    let said = members(|out| record.write(out));
    assert_eq!(
        said,
        serde_json::json!({"attempts": "2", "fate": "answered", "grant": "x", "method": "x", "policy": "x", "policy_digest": "x",
            "server": "x", "status": "503", "stream_id": "x", "unseen": true})
    );
    let facts = Facts { fate: Fate::Reset, attempts: 1, came: None };
    let said = members(|out| OutcomeRecord { facts: &facts, is_unseen: false, ..record }.write(out));
    assert!(said.get("status").is_none() && said.get("unseen").is_none());
}

fn response(report: &Report) -> ResponseRecord<'_> {
    ResponseRecord {
        time_ms: 1_781_604_300_007,
        verdict: Outcome::Allowed,
        outcome: "ok",
        withheld: None,
        stream_id: Some("9264854546074171864"),
        request_id: Some("r-1"),
        server: Some("demo"),
        policy: Some("p"),
        policy_digest: Some("sha256:00"),
        principal: Some("ann"),
        grant: Some("agent"),
        method: Some("tools/call"),
        tool: Some("find\n\u{202e}"),
        trace: None,
        status: 200,
        report,
        upstream_ms: Some(31),
        duration_ms: 12,
    }
}

fn report() -> Report {
    Report {
        came: Some(Came { kind: Kind::Ok, bytes: 1, usage: Vec::new() }),
        sha256: Some([0x0a; 32]),
        bytes: 1234,
        hidden: 2,
        unapproved: 1,
        reported: 3,
        dropped: 4,
        unread: Some(Withheld::Size),
        withheld: None,
        findings: Findings {
            hits: vec![Hit { rule: "/mask/0".into(), action: Action::Mask, count: 3 }],
            new_fields: vec!["result.x\"".into()],
        },
    }
}

#[test]
fn a_record_says_what_was_taken_and_nothing_of_it() {
    let report = report();
    let line = sealed(|out| response(&report).write(out));
    let expected = concat!(
        r#""io.mcp-authz/response":{"answer":"ok","bytes":"1234","dropped":"4","duration_ms":"12","grant":"agent","hidden":"2","#,
        r#""method":"tools/call","new_fields":["result.x\""],"policy":"p","policy_digest":"sha256:00","reported":"3","request_id":"r-1","#,
        r#""result_sha256":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a","rules":[{"action":"mask","count":"3","#,
        r#""rule":"/mask/0"}],"server":"demo","status":"200","stream_id":"9264854546074171864","unapproved":"1","unread":"size","#,
        r#""upstream_ms":"31"}},"occurred_at":"2026-06-16T10:05:00.007Z","outcome":"allowed","previous_hash":null,"#,
        r#""principal_id":"ann","tool_name":"find\\n\\u202e"}"#
    );
    assert!(line.ends_with(expected), "{line}");
    let report = Report::default();
    let bare = ResponseRecord { withheld: Some("ticket"), outcome: "withheld", principal: None, ..response(&report) };
    let said = members(|out| bare.write(out));
    assert_eq!((&said["answer"], &said["withheld"]), (&"withheld".into(), &"ticket".into()));
    assert!(["rules", "result_sha256", "hidden"].iter().all(|name| said.get(name).is_none()), "{said}");
}

#[test]
fn names_from_the_wire_are_no_channel_out() {
    for (n, total) in [(KEYS_MAX, None), (KEYS_MAX + 1, Some("65"))] {
        let fields: Vec<String> = (0..n).map(|i| format!("{i:0>100}")).collect();
        let hits = (0..n).map(|i| Hit { rule: i.to_string().into(), action: Action::Report, count: 1 }).collect();
        let report = Report { findings: Findings { hits, new_fields: fields }, ..Report::default() };
        let said = members(|out| response(&report).write(out));
        let listed = said["new_fields"].as_array().unwrap();
        assert_eq!((listed.len(), said["rules"].as_array().unwrap().len()), (KEYS_MAX, KEYS_MAX));
        assert!(listed.iter().all(|field| field.as_str().unwrap().len() <= KEY_BYTES_MAX + "…".len()));
        assert_eq!((said["new_fields_total"].as_str(), said["rules_total"].as_str()), (total, total));
    }
}

#[test]
fn a_record_that_has_everything_is_canonical() {
    let some = Some("x");
    let trace = TraceContext::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let text = format!("{{{}}}", (0..65).map(|n| format!("\"a{n}\":{{\"b\":1}}")).collect::<Vec<_>>().join(","));
    let document = arguments(&text);
    for args in ArgsMode::ALL {
        let record = Record {
            rule_exact: some,
            policy: some,
            policy_digest: some,
            server: some,
            principal: some,
            grant: some,
            tool: some,
            arguments: Some(document.root()),
            args: *args,
            args_key: Some(&[3; 32]),
            request_id: some,
            stream_id: some,
            trace,
            is_unmetered: true,
            ..EMPTY
        };
        sealed(|out| record.write(out));
    }
    let report = Report { withheld: Some(Withheld::Size), ..report() };
    sealed(|out| ResponseRecord { withheld: some, trace, ..response(&report) }.write(out));
    let facts = Facts {
        fate: Fate::Answered(200),
        attempts: 1,
        came: Some(Came { kind: Kind::Ok, bytes: 1, usage: Vec::new() }),
    };
    let settlement = Settlement {
        time_ms: 1,
        outcome: "surplus",
        facts: Some(&facts),
        reservation: some,
        policy: Some([1; 8]),
        issued_ms: Some(1),
        lines: &[line()],
        trace,
    };
    sealed(|out| settlement.write(out));
}

#[test]
fn what_is_no_draft_gets_no_place() {
    let mut chain = Chain::new([1; 16], None, None);
    let mut out = Vec::new();
    for text in ["", "{}", "a\u{1f}b", "a\u{1f}b\u{1f}c\u{1f}d"] {
        assert!(!chain.seal(text.as_bytes(), &mut out), "{text:?}");
    }
    assert_eq!((out.len(), chain.seq()), (0, 0));
}

/// The hash can be made by anybody: SHA-256 over the line without its first member.
#[test]
fn the_hash_is_that_of_the_line_without_its_first_member() {
    use sha2::Digest as _;
    let line = sealed(|out| EMPTY.write(out));
    let hash = line.get(15..79).unwrap();
    let rest = format!("{{{}", line.get(81..).unwrap());
    let sum: [u8; 32] = sha2::Sha256::digest(rest.as_bytes()).into();
    assert_eq!(sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hash);
    assert!(serde_json::from_str::<serde_json::Value>(&rest).unwrap().get("event_hash").is_none());
}

proptest! {
    #[test]
    fn times_are_printed_as_the_calendar_says(ms in 0u64..4_102_444_800_000) {
        let mut out = String::new();
        push_time(&mut out, ms);
        let back: jiff::Timestamp = out.parse().unwrap();
        prop_assert_eq!(back.as_millisecond(), i64::try_from(ms).unwrap());
    }

    #[test]
    fn every_record_is_canonical_whatever_is_in_it(
        tool in proptest::option::of(any::<String>()),
        principal in proptest::option::of(any::<String>()),
        rule in any::<String>(),
        keys in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..5),
        mode in 0..5_usize,
    ) {
        let text = serde_json::to_string(&keys).unwrap();
        let document = Document::parse(text.as_bytes(), Limits::default());
        // Names that differ only in how they may be folded are refused before.
        let Ok(document) = &document else { return Ok(()) };
        let record = Record {
            tool: tool.as_deref(),
            principal: principal.as_deref(),
            rule: &rule,
            arguments: Some(document.root()),
            args: ArgsMode::ALL[mode],
            args_key: Some(&[3; 32]),
            ..EMPTY
        };
        sealed(|out| record.write(out));
    }
}
