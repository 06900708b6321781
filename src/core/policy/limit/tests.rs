use proptest::prelude::*;

use super::*;
use crate::decision::Decision;
use crate::document::Format;
use crate::json::{Document, Limits};
use crate::policy::{Listed, Policy, Source};
use crate::quota::Measure;

fn compile(body: &str) -> Policy {
    let text = format!(r#"{{"version":"2","default":"deny",{body}}}"#);
    let source = Source { id: "p", file: "p", bytes: text.as_bytes(), format: Format::Json };
    Policy::compile(&source).unwrap_or_else(|defects| panic!("{text}: {}", defects[0])).policy
}

/// A policy whose tool `t` has these limits.
fn limits(list: &str) -> Policy {
    compile(&format!(r#""tools":{{"t":{{"limits":[{list}]}}}}"#))
}

fn one(body: &str) -> Policy {
    limits(&format!(r#"{{"counter":"c",{body}}}"#))
}

fn member(groups: &[&str]) -> Principal {
    let mut who = Principal::of_grant("g");
    who.subject = "ann".into();
    who.groups = groups.iter().map(|group| Arc::from(*group)).collect();
    who
}

fn decide_as(policy: &Policy, who: &Principal, tool: &str, arguments: &str) -> Decision {
    let document = Document::parse(arguments.as_bytes(), Limits::default()).unwrap();
    policy.decide(who, &Call { server: "s", tool, arguments: Some(document.root()), request_bytes: 1_000 })
}

fn charges_as(policy: &Policy, who: &Principal, tool: &str, arguments: &str) -> Result<Vec<Charge>, Denial> {
    match decide_as(policy, who, tool, arguments) {
        Decision::Deny(denial) => Err(denial),
        Decision::Proceed(charges) => Ok(charges),
    }
}

fn names(policy: &Policy, who: &Principal, tool: &str) -> Vec<String> {
    let charges = charges_as(policy, who, tool, "{}").unwrap();
    charges.iter().map(|charge| charge.counter.as_str().to_owned()).collect()
}

/// The units that the amount comes to, or why it is none.
fn units(body: &str, arguments: &str) -> Result<u64, Reason> {
    let policy = one(&format!(r#""window":"day","scope":"grant",{body}"#));
    charges_as(&policy, &member(&[]), "t", arguments).map(|charges| charges[0].amount).map_err(|denial| {
        assert_eq!(denial.rule.exact.as_deref(), Some("/tools/t/limits/0"));
        denial.reason
    })
}

#[test]
fn an_amount_with_a_scale_is_exact_or_none() {
    const SCALED: &str = r#""max":500.25,"scale":2,"increment_from":"args.n""#;
    let amount = |text: &str| units(SCALED, &format!("{{\"n\":{text}}}"));
    for (text, expected) in
        [("0", 0), ("-0.0", 0), ("0.01", 1), ("500.25", 50_025), ("5e2", 50_000), ("1.50000", 150), ("12e-2", 12)]
    {
        assert_eq!(amount(text), Ok(expected), "{text}");
    }
    for text in ["500.26", "501", "45035996273704.96"] {
        assert_eq!(amount(text), Err(Reason::NeverFits), "{text}");
    }
    for text in [
        "-1",
        "-0.01",
        "-1e-9",
        "0.001",
        "1.999",
        "1e-400",
        "1e300",
        "1e400",
        "45035996273704.97",
        "4503599627370497",
        "1e99999",
        "\"5\"",
        "true",
        "null",
        "[5]",
        "{\"v\":5}",
        "1.00000000000000000000000000000000000000000000000000000000000000000",
    ] {
        assert_eq!(amount(text), Err(Reason::BadIncrement), "{text}");
    }
    assert_eq!(units(SCALED, "{}"), Err(Reason::BadIncrement));
}

#[test]
fn without_a_scale_a_fraction_is_a_unit_more() {
    let amount =
        |text: &str| units(r#""max":4503599627370496,"increment_from":"args.n""#, &format!("{{\"n\":{text}}}"));
    assert_eq!((amount("0.1"), amount("1.0"), amount("1e-400")), (Ok(1), Ok(1), Ok(1)));
    assert_eq!(amount("4503599627370496"), Ok(AMOUNT));
    assert_eq!((amount("4503599627370496.1"), amount("4503599627370497")), (Err(BAD), Err(BAD)));
}

const AMOUNT: u64 = crate::number::AMOUNT_MAX;
const BAD: Reason = Reason::BadIncrement;

#[test]
fn lengths_are_of_what_is_sent() {
    for (source, arguments, expected) in [
        ("bytes(args)", r#"{ "a" : "é" }"#, Ok(14)),
        ("bytes(args.a)", r#"{"a":"\u00e9\n"}"#, Ok(3)),
        ("bytes(args.a)", r#"{"a":""}"#, Ok(0)),
        ("bytes(args.a)", r#"{"a":{"b": [1, 2]}}"#, Ok(13)),
        ("bytes(args.a)", r#"{"a":1.50}"#, Ok(4)),
        ("bytes(args.a)", r#"{"a":true}"#, Ok(4)),
        ("bytes(args.a)", r#"{"a":null}"#, Err(BAD)),
        ("bytes(args.a)", "{}", Err(BAD)),
        ("bytes(args.a.b)", r#"{"a":"{\"b\":1}"}"#, Err(BAD)),
        ("count(args.a)", r#"{"a":[1,[2,3],null]}"#, Ok(3)),
        ("count(args.a)", r#"{"a":[]}"#, Ok(0)),
        ("count(args.a)", r#"{"a":{"b":1}}"#, Err(BAD)),
        ("count(args.a)", r#"{"a":"[1]"}"#, Err(BAD)),
        ("count(args.a)", r#"{"a":3}"#, Err(BAD)),
        ("count(args.a)", "{}", Err(BAD)),
        ("request.bytes", "{}", Ok(1_000)),
    ] {
        assert_eq!(
            units(&format!(r#""max":9999,"increment_from":"{source}""#), arguments),
            expected,
            "{source} {arguments}"
        );
    }
    let policy = one(r#""window":"day","scope":"grant","max":9,"increment_from":"bytes(args)""#);
    assert!(matches!(policy.decide(&member(&[]), &Call::of("t", None)), Decision::Proceed(c) if c[0].amount == 0));
}

#[test]
fn a_scale_counts_calls_and_lengths_in_the_unit_of_the_author() {
    assert_eq!(units(r#""max":5,"scale":2"#, "{}"), Ok(100));
    assert_eq!(units(r#""max":5,"scale":1,"increment_from":"count(args.a)""#, r#"{"a":[1,2]}"#), Ok(20));
    assert_eq!(units(r#""max":0.99,"scale":2"#, "{}"), Err(Reason::NeverFits));
    let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(4_503_600));
    let document = Document::parse(huge.as_bytes(), Limits { bytes_max: 1 << 30, ..Limits::default() }).unwrap();
    let policy = one(r#""window":"day","scope":"grant","max":4503599.6,"scale":9,"increment_from":"bytes(args.a)""#);
    let decision = policy.decide(&member(&[]), &Call::of("t", Some(document.root())));
    assert!(matches!(decision, Decision::Deny(denial) if denial.reason == BAD));
}

#[test]
fn what_is_missing_is_denied_or_costs_what_the_author_says() {
    let with = |on_missing: &str, arguments| {
        units(&format!(r#""max":9,"scale":1,"increment_from":"args.a.n"{on_missing}"#), arguments)
    };
    for arguments in ["{}", r#"{"a":{}}"#, r#"{"a":null}"#, r#"{"a":{"n":null}}"#] {
        assert_eq!(with("", arguments), Err(BAD));
        assert_eq!(with(r#","on_missing":"deny""#, arguments), Err(BAD));
        assert_eq!(with(r#","on_missing":1.5"#, arguments), Ok(15));
        assert_eq!(with(r#","on_missing":0"#, arguments), Ok(0));
        assert_eq!(with(r#","on_missing":0,"min_increment":0.5"#, arguments), Ok(5));
        assert_eq!(with(r#","on_missing":10"#, arguments), Err(Reason::NeverFits));
    }
    // There is something, and it is no amount.
    for arguments in
        [r#"{"a":"{}"}"#, r#"{"a":[{"n":1}]}"#, r#"{"a":{"n":"1"}}"#, r#"{"a":{"n":-1}}"#, r#"{"a":{"n":0.05}}"#]
    {
        assert_eq!(with(r#","on_missing":1"#, arguments), Err(BAD), "{arguments}");
    }
}

#[test]
fn a_small_amount_counts_as_the_least() {
    let with = |n: &str| units(r#""max":9,"increment_from":"args.n","min_increment":3"#, &format!("{{\"n\":{n}}}"));
    assert_eq!((with("0"), with("2.5"), with("3"), with("4")), (Ok(3), Ok(3), Ok(3), Ok(4)));
    assert_eq!(with("-1"), Err(BAD));
}

#[test]
fn each_mode_charges_in_its_way() {
    let charge = |body: &str| {
        let charges =
            charges_as(&one(&format!(r#""window":"day","scope":"grant",{body}"#)), &member(&[]), "t", "{}").unwrap();
        (charges[0].mode, charges[0].amount, charges[0].max)
    };
    assert_eq!(charge(r#""max":5"#), (Mode::Consume, 1, 5));
    assert_eq!(charge(r#""max":5,"mode":"gate""#), (Mode::Gate, 0, 5));
    assert_eq!(units(r#""max":0,"mode":"gate""#, "{}"), Err(Reason::NeverFits));
    assert_eq!(charge(r#""mode":"track""#), (Mode::Track, 1, AMOUNT));
    assert_eq!(charge(r#""max":5,"mode":"attempt""#), (Mode::Attempt, 1, 5));
    assert_eq!(charge(r#""max":5,"count_on":"attempt""#), (Mode::Attempt, 1, 5));
    let streak = one(r#""window":{"streak":{"idle":"1m"}},"scope":"grant","max":5"#);
    assert_eq!(charges_as(&streak, &member(&[]), "t", "{}").unwrap()[0].mode, Mode::Attempt);
}

#[test]
fn each_window_is_measured_and_named() {
    for (window, more, label, text) in [
        ("\"minute\"", "", "c:minute-utc", "minute"),
        ("\"day\"", r#","time_zone":"Europe/Berlin""#, "c:day-europe-berlin", "day Europe/Berlin"),
        ("\"day\"", r#","time_zone":"UTC""#, "c:day-utc", "day"),
        ("\"day\"", r#","time_zone":"Etc/GMT+5""#, "c:day-etc-gmtp5", "day Etc/GMT+5"),
        ("\"day\"", r#","time_zone":"Etc/GMT-5""#, "c:day-etc-gmt-5", "day Etc/GMT-5"),
        ("\"week\"", "", "c:week-utc", "week"),
        (
            "\"week\"",
            r#","week_start":"sunday","time_zone":"America/New_York""#,
            "c:week-sunday-america-new-york",
            "week from Sunday America/New_York",
        ),
        ("\"month\"", "", "c:month-utc", "month"),
        (r#"{"sliding":"900s"}"#, "", "c:sliding-15m", "sliding 15m"),
        (r#"{"sliding":"15m","buckets":30}"#, "", "c:sliding-15m-30", "sliding 15m of 30 buckets"),
        (r#"{"token_bucket":{"refill":10,"per":"1m"}}"#, "", "c:token_bucket-10-1m", "token bucket 10 per 1m"),
        ("\"in_flight\"", "", "c:in_flight", "in flight"),
        (r#"{"in_flight":{"lease":"5s"}}"#, "", "c:in_flight", "in flight"),
        (r#"{"streak":{"idle":"10m"}}"#, "", "c:streak", "streak"),
        ("\"lifetime\"", "", "c:lifetime", "lifetime"),
        (r#"{"lifetime":{"idle":"30m"}}"#, "", "c:lifetime", "lifetime idle 30m"),
    ] {
        let policy = one(&format!(r#""window":{window},"scope":"grant","max":1{more}"#));
        let charge = charges_as(&policy, &member(&[]), "t", "{}").unwrap().remove(0);
        assert_eq!((&*charge.terms.label, &*charge.terms.window), (label, text));
        assert!(label.chars().all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c)));
    }
}

/// A zone that maps to another zone's label would share nothing, but people could not tell the two apart.
#[test]
fn no_two_time_zones_have_one_label() {
    let mut seen = std::collections::BTreeMap::new();
    for name in jiff::tz::TimeZoneDatabase::bundled().available() {
        let Some(zone) = Zone::find(name.as_str()) else { continue };
        let calendar = Calendar { unit: Unit::Day, zone, week_start: crate::quota::Weekday::Monday };
        let slug = Window::of(Kind::Calendar(calendar)).slug;
        assert_eq!(seen.insert(slug, name.to_string()), None, "{name}");
    }
    assert!(seen.len() > 400, "{}", seen.len());
}

#[test]
fn numbers_of_windows_are_rounded_so_that_they_never_allow_more() {
    let measure = |window: &str| {
        let policy = one(&format!(r#""window":{window},"scope":"grant","max":1"#));
        charges_as(&policy, &member(&[]), "t", "{}").unwrap().remove(0).measure
    };
    for (window, bucket_ms, buckets) in [
        (r#"{"sliding":"1h"}"#, 60_000, 60),
        (r#"{"sliding":"1s"}"#, 17, 59),
        (r#"{"sliding":"30ms"}"#, 1, 30),
        (r#"{"sliding":"100ms","buckets":60}"#, 2, 50),
        (r#"{"sliding":"366d","buckets":1}"#, 31_622_400_000, 1),
    ] {
        assert_eq!(measure(window), Measure::Rolling { bucket_ms, buckets });
    }
    for (window, interval_us) in [
        (r#"{"token_bucket":{"refill":10,"per":"1m"}}"#, 6_000_000),
        (r#"{"token_bucket":{"refill":7,"per":"1s"}}"#, 142_858),
        (r#"{"token_bucket":{"refill":1000,"per":"1ms"}}"#, 1),
    ] {
        assert_eq!(measure(window), Measure::TokenBucket { interval_us });
    }
    let scaled = one(r#""window":{"token_bucket":{"refill":10,"per":"1s"}},"scope":"grant","max":5,"scale":3"#);
    let charge = charges_as(&scaled, &member(&[]), "t", "{}").unwrap().remove(0);
    assert_eq!((charge.measure, charge.max, charge.amount), (Measure::TokenBucket { interval_us: 100 }, 5_000, 1_000));
}

#[test]
fn each_scope_tells_counters_apart_by_its_parts() {
    let name = |scope: &str| {
        names(&one(&format!(r#""window":"month","scope":{scope},"max":1"#)), &member(&["a"]), "t").remove(0)
    };
    for (scope, expected) in [
        ("\"grant\"", "1:2;1:p;1:t;1:c;5:month;1:0;5:grant;1:g;"),
        ("\"policy\"", "1:2;1:p;1:t;1:c;5:month;1:0;6:policy;"),
        ("\"server\"", "1:2;1:p;1:t;1:c;5:month;1:0;6:server;1:s;"),
        ("\"tool\"", "1:2;1:p;1:t;1:c;5:month;1:0;4:tool;1:t;"),
        ("\"identity\"", "1:2;1:p;1:t;1:c;5:month;1:0;8:identity;3:ann;"),
        ("\"group\"", "1:2;1:p;1:t;1:c;5:month;1:0;5:group;1:a;"),
        ("\"global\"", "1:2;0:;1:t;1:c;5:month;1:0;6:global;"),
        (r#"["tool","grant"]"#, "1:2;1:p;1:t;1:c;5:month;1:0;10:grant+tool;1:g;1:t;"),
        (r#"["server","group","global"]"#, "1:2;0:;1:t;1:c;5:month;1:0;19:global+group+server;1:a;1:s;"),
    ] {
        assert_eq!(name(scope), expected, "{scope}");
    }
    assert_eq!(name(r#"["grant","tool"]"#), name(r#"["tool","grant"]"#));
}

#[test]
fn a_declared_counter_is_one_for_all_tools() {
    let policy = compile(
        r#""counters":{"c":{"window":"hour","scope":"grant"},"m":{"window":"month","scope":["grant","tool"],"scale":2}},
        "tools":{"t":{"limits":[{"counter":"c","max":1},{"counter":"m","max":1}]},"u":{"limits":[{"counter":"c","max":2}]}},
        "all_tools":{"limits":[{"counter":"m","max":2.5}]}"#,
    );
    let who = member(&[]);
    let (t, u) = (names(&policy, &who, "t"), names(&policy, &who, "u"));
    assert_eq!(t, ["1:p;0:;1:c;4:hour;5:grant;1:g;", "1:2;1:p;0:;1:m;5:month;1:2;10:grant+tool;1:g;1:t;", &*t[1]]);
    assert_eq!(u, [&*t[0], "1:2;1:p;0:;1:m;5:month;1:2;10:grant+tool;1:g;1:u;"]);
}

#[test]
fn an_edit_of_what_is_no_part_of_the_name_keeps_the_counter() {
    let key = |window: &str| names(&one(&format!(r#""window":{window},"scope":"grant","max":1"#)), &member(&[]), "t");
    for (one, other) in [
        (r#""in_flight""#, r#"{"in_flight":{"lease":"5s"}}"#),
        (r#""lifetime""#, r#"{"lifetime":{"idle":"5s"}}"#),
        (r#"{"streak":{"idle":"5s"}}"#, r#"{"streak":{"idle":"9s","ignore":["args.t"]}}"#),
        (r#"{"sliding":"60m"}"#, r#"{"sliding":"1h"}"#),
    ] {
        assert_eq!(key(one), key(other), "{one}");
    }
    let all = [
        r#""hour""#,
        r#""hour","time_zone":"Asia/Tokyo""#,
        r#""hour","scale":1"#,
        r#""day""#,
        r#""week""#,
        r#""week","week_start":"sunday""#,
        r#""lifetime""#,
        r#""in_flight""#,
        r#"{"sliding":"1h"}"#,
        r#"{"sliding":"1h","buckets":30}"#,
        r#"{"token_bucket":{"refill":10,"per":"1m"}}"#,
        r#"{"token_bucket":{"refill":10,"per":"2m"}}"#,
    ];
    for (index, one) in all.iter().enumerate() {
        assert!(all.iter().skip(index + 1).all(|other| key(one) != key(other)), "{one}");
    }
}

/// What one policy forgets early must not be what another counts on.
#[test]
fn policies_share_a_global_counter_only_if_they_agree_on_it() {
    let key = |window: &str, max: u32| {
        names(&one(&format!(r#""window":{window},"scope":"global","max":{max}"#)), &member(&[]), "t")
    };
    for (one, other) in [
        (r#"{"in_flight":{"lease":"9s"}}"#, r#"{"in_flight":{"lease":"5s"}}"#),
        (r#""lifetime""#, r#"{"lifetime":{"idle":"5s"}}"#),
        (r#"{"streak":{"idle":"5s"}}"#, r#"{"streak":{"idle":"9s"}}"#),
    ] {
        assert_ne!(key(one, 1), key(other, 1), "{one}");
        assert_eq!(key(one, 1), key(one, 2), "{one}");
    }
    let bucket = r#"{"token_bucket":{"refill":10,"per":"1m"}}"#;
    assert_ne!(key(bucket, 1), key(bucket, 2));
    assert_eq!(key("\"hour\"", 1), key("\"hour\"", 2));
}

#[test]
fn a_limit_by_group_charges_each_group_and_denies_who_has_none() {
    let policy = one(r#""window":"hour","scope":["group","grant"],"max":1,"on_deny":"slow""#);
    assert_eq!(names(&policy, &member(&["a", "b"]), "t").len(), 2);
    let denial = charges_as(&policy, &member(&[]), "t", "{}").unwrap_err();
    assert_eq!(denial.reason, Reason::LimitSubjectMissing);
    assert_eq!((&*denial.rule.pointer, denial.rule.exact.as_deref()), ("/tools/t/limits/c", Some("/tools/t/limits/0")));
    assert_eq!(&*denial.message, Reason::LimitSubjectMissing.advice());
    assert!(policy.is_visible(&member(&["a"]), "t") && !policy.is_visible(&member(&[]), "t"));
}

/// 16 groups and 16 more fill a call; one counter more is too many.
#[test]
fn a_call_touches_at_most_32_counters() {
    let groups: Vec<String> = (0..16).map(|index| format!("g{index:02}")).collect();
    let who = member(&groups.iter().map(String::as_str).collect::<Vec<_>>());
    let by_group = |name: &str| format!(r#"{{"counter":"{name}","window":"hour","scope":"group","max":1}}"#);
    let full = limits(&[by_group("a"), by_group("b")].join(","));
    assert_eq!(charges_as(&full, &who, "t", "{}").unwrap().len(), LINES_MAX);
    assert!(full.is_visible(&who, "t"));
    let plain = r#"{"counter":"c","window":"hour","scope":"grant","max":1}"#.to_owned();
    for (order, at) in [([by_group("a"), by_group("b"), plain.clone()], 2), ([plain, by_group("a"), by_group("b")], 2)]
    {
        let over = limits(&order.join(","));
        let denial = charges_as(&over, &who, "t", "{}").unwrap_err();
        assert_eq!(denial.reason, Reason::TooManyCounters);
        assert_eq!(denial.rule.exact.as_deref(), Some(&*format!("/tools/t/limits/{at}")));
        assert!(!over.is_visible(&who, "t"));
        let told = over.explain(&who, &Call::of("t", None));
        assert!(matches!(told.decision, Decision::Deny(denial) if denial.reason == Reason::TooManyCounters));
        let denying = told.steps.iter().filter(|step| step.outcome != crate::policy::StepOutcome::Passes).count();
        assert_eq!(denying, 1);
    }
}

#[test]
fn a_streak_fingerprints_the_call() {
    let policy = one(r#""window":{"streak":{"idle":"1m","ignore":["args.at"]}},"scope":"grant","max":3"#);
    let print = |arguments: &str| {
        let charge = charges_as(&policy, &member(&[]), "t", arguments).unwrap().remove(0);
        let Measure::Streak { fingerprint, idle_ms: 60_000 } = charge.measure else { panic!("{charge:?}") };
        fingerprint
    };
    assert_eq!(print(r#"{"a":1,"at":5}"#), print(r#"{"at":6,"a":1.0}"#));
    assert_ne!(print(r#"{"a":1}"#), print(r#"{"a":2}"#));
}

#[test]
fn a_tool_is_visible_if_some_call_could_pass() {
    for (body, visible) in [
        (r#""max":0"#, false),
        (r#""max":1"#, true),
        (r#""max":0,"mode":"gate""#, false),
        (r#""max":1,"mode":"gate""#, true),
        (r#""mode":"track""#, true),
        (r#""max":0,"mode":"attempt""#, false),
        (r#""max":0.99,"scale":2"#, false),
        (r#""max":0,"increment_from":"args.n""#, true),
        (r#""max":1,"increment_from":"args.n","min_increment":2"#, false),
        (r#""max":0,"increment_from":"bytes(args)""#, true),
        (r#""max":0,"increment_from":"request.bytes""#, false),
    ] {
        let policy = one(&format!(r#""window":"hour","scope":"grant",{body}"#));
        assert_eq!(policy.is_visible(&member(&[]), "t"), visible, "{body}");
    }
}

#[test]
fn the_counters_of_a_caller_are_those_that_calls_touch() {
    let policy = compile(
        r#""counters":{"team":{"window":"day","scope":"group"},"slots":{"window":"in_flight","scope":["server","tool"]}},
        "hide":["h"],"tools":{
        "b":{"limits":[{"counter":"own","window":"hour","scope":"grant","max":3},{"counter":"team","max":9}]},
        "a":{"limits":[{"counter":"team","max":9},{"counter":"team","max":5},{"counter":"loop","window":{"streak":{"idle":"1m"}},"scope":"grant","max":3}]},
        "h":{"limits":[{"counter":"never","window":"hour","scope":"grant","max":3}]}},
        "all_tools":{"limits":[{"counter":"slots","max":2},{"counter":"all","window":"day","scope":"policy","max":7}]}"#,
    );
    let who = member(&["x", "y"]);
    let listed = policy.counters(&who, &["s", "z"]);
    let told: Vec<_> = listed
        .iter()
        .map(|Listed { charge, tool, server, group }| {
            (&*charge.terms.name, charge.max, tool.as_deref(), server.as_deref(), group.as_deref())
        })
        .collect();
    assert_eq!(
        told,
        [
            ("team", 9, None, None, Some("x")),
            ("team", 9, None, None, Some("y")),
            ("team", 5, None, None, Some("x")),
            ("team", 5, None, None, Some("y")),
            ("loop", 3, Some("a"), None, None),
            ("own", 3, Some("b"), None, None),
            ("slots", 2, Some("a"), Some("s"), None),
            ("slots", 2, Some("a"), Some("z"), None),
            ("slots", 2, Some("b"), Some("s"), None),
            ("slots", 2, Some("b"), Some("z"), None),
            ("all", 7, None, None, None),
        ]
    );
    for tool in ["a", "b"] {
        for charge in charges_as(&policy, &who, tool, "{}").unwrap() {
            assert!(listed.iter().any(|listed| listed.charge.counter == charge.counter), "{charge:?}");
        }
    }
    assert!(listed.iter().all(|listed| listed.charge.amount == 0));
}

#[test]
fn explanations_tell_what_a_limit_bounds() {
    let note = |body: &str| {
        let policy = one(&format!(r#""scope":"grant",{body}"#));
        let told = policy.explain(&member(&[]), &Call::of("t", None));
        told.steps.last().unwrap().note.clone()
    };
    for (body, expected) in [
        (r#""window":"hour","max":5"#, "at most 5 per hour and grant; 1 unit; costs 1, if that much is left"),
        (r#""window":"in_flight","max":3"#, "at most 3 at once per grant; 1 unit; costs 1, if that much is left"),
        (r#""window":"lifetime","max":3"#, "at most 3 in all per grant; 1 unit; costs 1, if that much is left"),
        (
            r#""window":{"lifetime":{"idle":"30m"}},"max":3,"mode":"gate""#,
            "at most 3 in all per grant, until 30m without any; passes while fewer than 3 are used",
        ),
        (
            r#""window":{"streak":{"idle":"10m"}},"max":3"#,
            "at most 3 equal calls in a row per grant, until 10m without any; 1 unit; costs 1, even if it is denied for want of it",
        ),
        (
            r#""window":{"token_bucket":{"refill":10,"per":"1m"}},"max":20"#,
            "at most 20 at once and 10 more per 1m, per grant; 1 unit; costs 1, if that much is left",
        ),
        (
            r#""window":{"sliding":"15m"},"mode":"track","increment_from":"bytes(args)""#,
            "counts per sliding 15m and grant; units from bytes(args); costs 0, and never denies",
        ),
        (
            r#""window":"day","max":500.25,"scale":2,"increment_from":"args.n","on_missing":1.5"#,
            "at most 500.25 per day and grant; units from args.n; costs 1.50, if that much is left",
        ),
    ] {
        assert_eq!(note(body), format!("counter `c`: {expected}"));
    }
}

/// Limits that differ in everything that can deny before a counter is asked.
fn limit() -> impl Strategy<Value = String> {
    let window = prop::sample::select(vec![
        r#""hour""#,
        r#""week""#,
        r#""lifetime""#,
        r#"{"sliding":"15m"}"#,
        r#"{"token_bucket":{"refill":1,"per":"1s"}}"#,
    ]);
    let scope = prop::sample::select(vec![r#""grant""#, r#""group""#, r#"["global","group","tool"]"#, r#""server""#]);
    let more = prop::sample::select(vec![
        "",
        r#","mode":"gate""#,
        r#","mode":"attempt""#,
        r#","increment_from":"args.n""#,
        r#","increment_from":"args.n","on_missing":2"#,
        r#","increment_from":"bytes(args.n)""#,
        r#","increment_from":"count(args.n)","min_increment":1"#,
        r#","increment_from":"args.n","scale":1"#,
    ]);
    (window, scope, more, 0..5_u32)
        .prop_map(|(window, scope, more, max)| format!(r#""window":{window},"scope":{scope},"max":{max}{more}"#))
}

fn named(bodies: &[String]) -> Vec<String> {
    bodies.iter().enumerate().map(|(index, body)| format!(r#"{{"counter":"c{index}",{body}}}"#)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn one_more_limit_never_allows(bodies in prop::collection::vec(limit(), 1..6), groups in 0..16_usize, n in argument()) {
        let all = named(&bodies);
        let who = caller(groups);
        let (fewer, more) = (limits(&all[1..].join(",")), limits(&all.join(",")));
        let (before, after) = (charges_as(&fewer, &who, "t", n), charges_as(&more, &who, "t", n));
        if let Ok(after) = after {
            let before = before.unwrap();
            prop_assert!(after.len() > before.len());
            // What was charged still is.
            for charge in &before {
                let same = |other: &&Charge| (&other.counter, other.amount, other.max, other.mode)
                    == (&charge.counter, charge.amount, charge.max, charge.mode);
                prop_assert!(after.iter().any(|other| same(&other)));
            }
        }
        prop_assert!(!more.is_visible(&who, "t") || fewer.is_visible(&who, "t"));
    }

    #[test]
    fn the_order_of_limits_changes_no_verdict(
        bodies in prop::collection::vec(limit(), 0..6), groups in 0..16_usize, n in argument(), by in 0..6_usize
    ) {
        let mut all = named(&bodies);
        let who = caller(groups);
        let sorted = |policy: &Policy| {
            let charges = charges_as(policy, &who, "t", n).ok()?;
            let mut told: Vec<_> = charges.iter().map(|c| (c.counter.clone(), c.amount, c.max, c.mode.name())).collect();
            told.sort();
            Some(told)
        };
        let before = sorted(&limits(&all.join(",")));
        let by = by.min(all.len());
        all.rotate_left(by);
        prop_assert_eq!(before, sorted(&limits(&all.join(","))));
    }

    #[test]
    fn what_passes_is_visible_and_explained(bodies in prop::collection::vec(limit(), 0..4), groups in 0..16_usize, n in argument()) {
        let (policy, who) = (limits(&named(&bodies).join(",")), caller(groups));
        let document = Document::parse(n.as_bytes(), Limits::default()).unwrap();
        let call = Call { server: "s", tool: "t", arguments: Some(document.root()), request_bytes: 1_000 };
        let told = policy.explain(&who, &call);
        let denying = told.steps.iter().find_map(|step| match step.outcome {
            crate::policy::StepOutcome::Denies(reason) => Some(reason),
            crate::policy::StepOutcome::Passes => None,
        });
        match policy.decide(&who, &call) {
            Decision::Proceed(_) => prop_assert!(policy.is_visible(&who, "t") && denying.is_none()),
            Decision::Deny(denial) => prop_assert_eq!(Some(denial.reason), denying),
        }
    }
}

fn caller(groups: usize) -> Principal {
    let names: Vec<String> = (0..groups).map(|index| format!("g{index:02}")).collect();
    member(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn argument() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{}",
        r#"{"n":0}"#,
        r#"{"n":1}"#,
        r#"{"n":2.5}"#,
        r#"{"n":0.25}"#,
        r#"{"n":-1}"#,
        r#"{"n":1e400}"#,
        r#"{"n":"abc"}"#,
        r#"{"n":[1,2,3]}"#,
        r#"{"n":null}"#,
    ])
}
