use proptest::prelude::*;

use super::*;
use crate::json::{Document, Limits};
use crate::number::AMOUNT_MAX;

fn compile(text: &str) -> Policy {
    let source = Source { id: "p", file: "p.json", bytes: text.as_bytes(), format: Format::Json };
    Policy::compile(&source).unwrap_or_else(|defects| panic!("{text}: {}", defects[0])).policy
}

/// A policy of default deny with one tool `t` of this body.
fn tool(body: &str) -> Policy {
    compile(&format!(r#"{{"version":"1","default":"deny","tools":{{"t":{{{body}}}}}}}"#))
}

fn lenient(body: &str) -> Policy {
    compile(&format!(r#"{{"version":"1","default":"deny","compat":"lenient","tools":{{"t":{{{body}}}}}}}"#))
}

fn grant(label: &str) -> Principal {
    Principal::of_grant(label)
}

fn decide_as(policy: &Policy, who: &str, tool: &str, arguments: &str) -> Decision {
    let document = Document::parse(arguments.as_bytes(), Limits::default()).unwrap();
    policy.decide(&grant(who), &Call::of(tool, Some(document.root())))
}

fn denial(policy: &Policy, tool: &str, arguments: &str) -> Denial {
    match decide_as(policy, "g", tool, arguments) {
        Decision::Deny(denial) => denial,
        Decision::Proceed(_) => panic!("{tool} {arguments} is allowed"),
    }
}

fn charges(policy: &Policy, tool: &str, arguments: &str) -> Vec<Charge> {
    match decide_as(policy, "g", tool, arguments) {
        Decision::Deny(denial) => panic!("{tool} {arguments}: {denial:?}"),
        Decision::Proceed(charges) => charges,
    }
}

fn allows(policy: &Policy, arguments: &str) -> bool {
    matches!(decide_as(policy, "g", "t", arguments), Decision::Proceed(_))
}

fn named(denial: &Denial) -> (Reason, &str, Option<&str>) {
    (denial.reason, &denial.rule.pointer, denial.rule.exact.as_deref())
}

const GT_10: &str = r#"{"path":"args.a","op":"gt","value":10}"#;

#[test]
fn the_steps_come_in_their_order() {
    let policy = compile(
        r#"{"version":"1","default":"deny","hide":["h"],"tools":{"h":{},"t":{
        "limits":[{"counter":"c","window":"day","scope":"grant","max":0}],
        "deny_if":[{"conditions":[{"path":"args.a","op":"exists","value":true}]}],
        "require":[{"conditions":[{"path":"args.b","op":"exists","value":true}]}]}}}"#,
    );
    assert_eq!(named(&denial(&policy, "h", "{}")), (Reason::Hidden, "(hidden)", None));
    assert_eq!(named(&denial(&policy, "x", "{}")), (Reason::DefaultDeny, "(default deny)", None));
    let require = "/tools/t/require/args.b-exists";
    let exact = Some("/tools/t/require/0/conditions/0");
    assert_eq!(named(&denial(&policy, "t", r#"{"a":1}"#)), (Reason::Requirement, require, exact));
    let deny_if = "/tools/t/deny_if/args.a-exists";
    let exact = Some("/tools/t/deny_if/0/conditions/0");
    assert_eq!(named(&denial(&policy, "t", r#"{"a":1,"b":1}"#)), (Reason::Condition, deny_if, exact));
    let exact = Some("/tools/t/limits/0");
    assert_eq!(named(&denial(&policy, "t", r#"{"b":1}"#)), (Reason::NeverFits, "/tools/t/limits/c", exact));
}

#[test]
fn the_built_in_refusals_say_which_tool() {
    let policy = compile(r#"{"version":"1","default":"deny","hide":["h"]}"#);
    assert_eq!(&*denial(&policy, "h", "{}").message, "Tool \"h\" is hidden by policy");
    assert_eq!(&*denial(&policy, "x", "{}").message, "Tool \"x\" is not permitted by policy");
    let none = no_policy();
    assert_eq!(
        (named(&none), &*none.message),
        ((Reason::NoPolicy, "(no policy)", None), "No policy is assigned to this caller")
    );
}

#[test]
fn a_star_hides_every_tool() {
    let policy = compile(r#"{"version":"1","default":"allow","hide":["*"],"tools":{"t":{}}}"#);
    for name in ["t", "x", "*"] {
        assert_eq!(denial(&policy, name, "{}").reason, Reason::Hidden);
        assert!(!policy.is_visible(&grant("g"), name));
    }
}

#[test]
fn names_of_tools_are_compared_exactly() {
    let policy = compile(r#"{"version":"1","default":"allow","hide":["Delete"],"tools":{}}"#);
    assert_eq!(denial(&policy, "Delete", "{}").reason, Reason::Hidden);
    for name in ["delete", "DELETE", "Delete ", "Dele\u{301}te"] {
        assert!(charges(&policy, name, "{}").is_empty(), "{name}");
    }
}

#[test]
fn an_empty_tool_allows_under_default_deny() {
    assert!(charges(&tool(""), "t", "{}").is_empty());
    assert!(
        matches!(tool("").decide(&grant("g"), &Call::of("t", None)), Decision::Proceed(charges) if charges.is_empty())
    );
}

#[test]
fn a_call_without_arguments_misses_every_path() {
    let policy = tool(&format!(r#""require":[{{"conditions":[{GT_10}]}}]"#));
    match policy.decide(&grant("g"), &Call::of("t", None)) {
        Decision::Deny(denial) => assert_eq!(denial.reason, Reason::Requirement),
        Decision::Proceed(_) => panic!("allowed"),
    }
    let policy = tool(&format!(r#""deny_if":[{{"conditions":[{GT_10}]}}]"#));
    assert!(matches!(policy.decide(&grant("g"), &Call::of("t", None)), Decision::Proceed(_)));
}

#[test]
fn require_and_deny_if_take_the_four_truths_apart() {
    let require = tool(&format!(r#""require":[{{"conditions":[{GT_10}],"on_deny":"no"}}]"#));
    let deny_if = tool(&format!(r#""deny_if":[{{"conditions":[{GT_10}],"on_deny":"no"}}]"#));
    for (arguments, in_require, in_deny_if) in [
        (r#"{"a":11}"#, None, Some(Reason::Condition)),
        (r#"{"a":10}"#, Some(Reason::Requirement), None),
        ("{}", Some(Reason::Requirement), None),
        (r#"{"a":null}"#, Some(Reason::TypeMismatch), Some(Reason::TypeMismatch)),
        (r#"{"a":"5000"}"#, Some(Reason::TypeMismatch), Some(Reason::TypeMismatch)),
        (r#"{"a":[5000]}"#, Some(Reason::TypeMismatch), Some(Reason::TypeMismatch)),
        (r#"{"a":1e400}"#, Some(Reason::TypeMismatch), Some(Reason::TypeMismatch)),
    ] {
        for (policy, expected, section) in [(&require, in_require, "require"), (&deny_if, in_deny_if, "deny_if")] {
            let actual = match decide_as(policy, "g", "t", arguments) {
                Decision::Deny(denial) => Some(denial),
                Decision::Proceed(_) => None,
            };
            assert_eq!(actual.as_ref().map(|denial| denial.reason), expected, "{section} {arguments}");
            if let Some(denial) = actual {
                assert_eq!(&*denial.message, "no");
                assert_eq!(&*denial.rule.pointer, format!("/tools/t/{section}/args.a-gt"));
                assert_eq!(denial.retry_after_ms, None);
            }
        }
    }
}

#[test]
fn compat_lenient_takes_wrong_types_for_false() {
    let policy = lenient(&format!(r#""deny_if":[{{"conditions":[{GT_10}]}}]"#));
    assert!(allows(&policy, r#"{"a":"5000"}"#) && allows(&policy, r#"{"a":null}"#) && !allows(&policy, r#"{"a":11}"#));
    assert_eq!(denial(&policy, "t", r#"{"a":1e400}"#).reason, Reason::TypeMismatch);
}

#[test]
fn require_names_the_first_condition_that_does_not_hold() {
    let policy = tool(
        r#""require":[{"conditions":[{"path":"args.x","op":"exists","value":true}]},
        {"conditions":[{"path":"args.a","op":"eq","value":1},{"path":"args.b.c","op":"lt","value":5}]}]"#,
    );
    let first = denial(&policy, "t", r#"{"x":1,"a":2,"b":{"c":9}}"#);
    assert_eq!(named(&first).1, "/tools/t/require/args.a-eq");
    assert_eq!(named(&first).2, Some("/tools/t/require/1/conditions/0"));
    let second = denial(&policy, "t", r#"{"x":1,"a":1,"b":{"c":9}}"#);
    assert_eq!(named(&second).1, "/tools/t/require/args.b.c-lt");
    assert_eq!(named(&second).2, Some("/tools/t/require/1/conditions/1"));
    assert_eq!(&*second.message, "Call denied by policy rule /tools/t/require/args.b.c-lt");
}

#[test]
fn deny_if_names_the_first_condition_of_the_rule_whose_conditions_all_hold() {
    let policy = tool(
        r#""deny_if":[{"conditions":[{"path":"args.a","op":"eq","value":1},{"path":"args.b","op":"eq","value":1}]},
        {"conditions":[{"path":"args.c","op":"eq","value":1},{"path":"args.d","op":"eq","value":1}],"on_deny":"two"}]"#,
    );
    assert!(allows(&policy, r#"{"a":1,"c":1}"#));
    assert!(allows(&policy, r#"{"a":1,"b":2,"c":2,"d":1}"#));
    let hit = denial(&policy, "t", r#"{"a":1,"c":1,"d":1}"#);
    assert_eq!(named(&hit), (Reason::Condition, "/tools/t/deny_if/args.c-eq", Some("/tools/t/deny_if/1/conditions/0")));
    assert_eq!(&*hit.message, "two");
}

#[test]
fn a_value_that_cannot_be_judged_denies_whatever_stands_beside_it() {
    let (a, b) = (r#"{"path":"args.a","op":"eq","value":1}"#, r#"{"path":"args.b","op":"gt","value":5}"#);
    for order in [format!("{a},{b}"), format!("{b},{a}")] {
        let policy = tool(&format!(r#""deny_if":[{{"conditions":[{order}]}}]"#));
        for arguments in [r#"{"a":1,"b":"9"}"#, r#"{"a":2,"b":"9"}"#, r#"{"b":"9"}"#, r#"{"a":"1","b":1}"#] {
            assert_eq!(denial(&policy, "t", arguments).reason, Reason::TypeMismatch, "{arguments}");
        }
        assert!(allows(&policy, r#"{"a":2,"b":9}"#));
    }
}

#[test]
fn pointers_are_escaped() {
    let policy = compile(
        r#"{"version":"1","default":"deny","tools":{"a/b~c":{"require":[{"conditions":[{"path":"args.x","op":"eq","value":1}]}],
        "limits":[{"counter":"n","window":"day","scope":"grant","max":1}]}}}"#,
    );
    let refused = denial(&policy, "a/b~c", "{}");
    assert_eq!(named(&refused).1, "/tools/a~1b~0c/require/args.x-eq");
    assert_eq!(named(&refused).2, Some("/tools/a~1b~0c/require/0/conditions/0"));
    assert_eq!(&*charges(&policy, "a/b~c", r#"{"x":1}"#)[0].terms.denial.rule.pointer, "/tools/a~1b~0c/limits/n");
}

const METERED: &str = r#""limits":[{"counter":"bytes","window":"hour","scope":"policy","max":100,"increment_from":"args.n","on_deny":"budget"}]"#;

#[test]
fn an_amount_is_read_from_the_arguments_or_refused() {
    let policy = tool(METERED);
    for (text, expected) in [("0", 0), ("-0.0", 0), ("5", 5), ("0.1", 1), ("99.5", 100), ("1e2", 100), ("100", 100)] {
        assert_eq!(charges(&policy, "t", &format!("{{\"n\":{text}}}"))[0].amount, expected, "{text}");
    }
    for text in [
        "-1",
        "-1e-9",
        "-1000000",
        "1e300",
        "4503599627370497",
        "\"5\"",
        "true",
        "null",
        "[5]",
        "{\"v\":5}",
        "1e999999999999999999999",
        "11111111111111111111111111111111111111111111111111111111111111111",
    ] {
        let refused = denial(&policy, "t", &format!("{{\"n\":{text}}}"));
        assert_eq!(
            named(&refused),
            (Reason::BadIncrement, "/tools/t/limits/bytes", Some("/tools/t/limits/0")),
            "{text}"
        );
        assert_eq!((&*refused.message, refused.retry_after_ms), ("budget", None));
    }
    assert_eq!(denial(&policy, "t", "{}").reason, Reason::BadIncrement);
    assert!(
        matches!(policy.decide(&grant("g"), &Call::of("t", None)), Decision::Deny(d) if d.reason == Reason::BadIncrement)
    );
}

#[test]
fn more_than_the_whole_limit_never_fits() {
    let refused = denial(&tool(METERED), "t", r#"{"n":101}"#);
    assert_eq!((refused.reason, &*refused.message, refused.retry_after_ms), (Reason::NeverFits, "budget", None));
    let widest = METERED.replace("100", &AMOUNT_MAX.to_string());
    assert_eq!(charges(&tool(&widest), "t", r#"{"n":4503599627370496}"#)[0].amount, AMOUNT_MAX);
}

#[test]
fn lenient_lets_a_negative_amount_pass_and_gives_no_credit() {
    assert_eq!(charges(&lenient(METERED), "t", r#"{"n":-1000}"#)[0].amount, 0);
    for text in ["1e300", "\"5\"", "null"] {
        assert_eq!(denial(&lenient(METERED), "t", &format!("{{\"n\":{text}}}")).reason, Reason::BadIncrement, "{text}");
    }
    assert_eq!(denial(&lenient(METERED), "t", "{}").reason, Reason::BadIncrement);
}

#[test]
fn charges_come_from_the_tool_first_and_then_from_all_tools() {
    let policy = compile(
        r#"{"version":"1","default":"allow",
        "all_tools":{"limits":[{"counter":"all","window":"minute","scope":"grant","max":3}]},
        "tools":{"t":{"limits":[{"counter":"own","window":"hour","scope":"policy","max":2,"on_deny":"slow"},
        {"counter":"own","window":"hour","scope":"grant","max":1}]}}}"#,
    );
    let keys = |tool: &str, who: &str| -> Vec<String> {
        match decide_as(&policy, who, tool, "{}") {
            Decision::Proceed(charges) => charges.iter().map(|charge| charge.counter.as_str().to_owned()).collect(),
            Decision::Deny(denial) => panic!("{denial:?}"),
        }
    };
    assert_eq!(
        keys("t", "g"),
        [
            "1:p;1:t;3:own;4:hour;6:policy;0:;",
            "1:p;1:t;3:own;4:hour;5:grant;1:g;",
            "1:p;0:;3:all;6:minute;5:grant;1:g;"
        ]
    );
    assert_eq!(keys("x", "g2"), ["1:p;0:;3:all;6:minute;5:grant;2:g2;"]);
    let all = charges(&policy, "t", "{}");
    assert_eq!((all[0].amount, all[0].max, &*all[0].terms.window), (1, 2, "hour"));
    assert_eq!((&*all[0].terms.denial.message, all[0].terms.denial.reason), ("slow", Reason::QuotaExhausted));
    let last = &all[2].terms.denial;
    assert_eq!(named(last), (Reason::QuotaExhausted, "/all_tools/limits/all", Some("/all_tools/limits/0")));
    assert_eq!(&*last.message, "Call denied by policy rule /all_tools/limits/all");
}

#[test]
fn an_edit_of_a_limit_keeps_its_counter() {
    let body = r#""limits":[{"counter":"c","window":"day","scope":"grant","max":5}]"#;
    let edited = body.replace('5', "9").replace("\"max\":9", "\"max\":9,\"on_deny\":\"other\"");
    let key = |policy: &Policy| charges(policy, "t", "{}")[0].counter.clone();
    assert_eq!(key(&tool(body)), key(&tool(&edited)));
    assert_ne!(tool(body).digest(), tool(&edited).digest());
}

#[test]
fn a_tool_is_visible_if_some_call_could_pass() {
    let policy = compile(
        r#"{"version":"1","default":"deny","hide":["h","both"],"tools":{"plain":{},"both":{},
        "strict":{"require":[{"conditions":[{"path":"args.a","op":"eq","value":1}]}]},
        "never":{"limits":[{"counter":"c","window":"day","scope":"grant","max":0}]},
        "free":{"limits":[{"counter":"c","window":"day","scope":"grant","max":0,"increment_from":"args.n"}]}}}"#,
    );
    let visible: Vec<&str> = ["plain", "both", "h", "strict", "never", "free", "unlisted", "*"]
        .into_iter()
        .filter(|name| policy.is_visible(&grant("g"), name))
        .collect();
    assert_eq!(visible, ["plain", "strict", "free"]);
    let closed = r#"{"version":"1","default":"allow","all_tools":{"limits":[{"counter":"c","window":"day","scope":"grant","max":0}]}}"#;
    assert!(!compile(closed).is_visible(&grant("g"), "t"));
    assert!(compile(r#"{"version":"1","default":"allow"}"#).is_visible(&grant("g"), "t"));
}

#[test]
fn the_facts_of_a_policy_are_told() {
    let text = r#"{"version":"1","default":"allow","hide":["h"],"tools":{"a":{},"b":{}}}"#;
    let policy = compile(text);
    assert_eq!((&**policy.id(), policy.default_allows(), policy.tool_count()), ("p", true, 2));
    assert_eq!(*policy.digest(), PolicyDigest::of(text.as_bytes()));
    assert!(policy.names_tool("a") && policy.names_tool("h") && !policy.names_tool("c"));
    assert!(!tool("").default_allows());
}

/// Counters live in stores for up to a year: their names must outlast every change of this code.
#[test]
fn the_counters_of_version_1_keep_their_names() {
    let limits = r#""limits":[{"counter":"c","window":"WINDOW","scope":"SCOPE","max":1}]"#;
    for version in ["1", "2"] {
        for (window, scope, own, all) in [
            ("minute", "grant", "1:p;1:t;1:c;6:minute;5:grant;1:g;", "1:p;0:;1:c;6:minute;5:grant;1:g;"),
            ("hour", "policy", "1:p;1:t;1:c;4:hour;6:policy;0:;", "1:p;0:;1:c;4:hour;6:policy;0:;"),
            ("day", "grant", "1:p;1:t;1:c;3:day;5:grant;1:g;", "1:p;0:;1:c;3:day;5:grant;1:g;"),
        ] {
            let limits = limits.replace("WINDOW", window).replace("SCOPE", scope);
            let policy = compile(&format!(
                r#"{{"version":"{version}","default":"deny","tools":{{"t":{{{limits}}}}},"all_tools":{{{limits}}}}}"#
            ));
            let charges = charges(&policy, "t", "{}");
            let names: Vec<&str> = charges.iter().map(|charge| charge.counter.as_str()).collect();
            assert_eq!(names, [own, all]);
            assert_eq!(&*charges[0].terms.label, format!("c:{window}-utc"));
        }
    }
}

#[test]
fn an_explanation_tells_all_steps_and_no_argument_value() {
    let policy = tool(&format!(
        r#""require":[{{"conditions":[{{"path":"args.s","op":"in","value":["x","y"]}},{GT_10}]}}],
        "deny_if":[{{"conditions":[{GT_10}]}}],{METERED}"#
    ));
    let document = Document::parse(br#"{"a":"canary","s":"canary","n":-5}"#, Limits::default()).unwrap();
    let told = policy.explain(&grant("g"), &Call::of("t", Some(document.root())));
    assert_eq!(told.decision, policy.decide(&grant("g"), &Call::of("t", Some(document.root()))));
    let steps: Vec<(StepKind, StepOutcome)> = told.steps.iter().map(|step| (step.kind, step.outcome)).collect();
    assert_eq!(
        steps,
        [
            (StepKind::Hide, StepOutcome::Passes),
            (StepKind::Default, StepOutcome::Passes),
            (StepKind::Require, StepOutcome::Denies(Reason::Requirement)),
            (StepKind::DenyIf, StepOutcome::Denies(Reason::TypeMismatch)),
            (StepKind::Limit, StepOutcome::Denies(Reason::BadIncrement)),
        ]
    );
    let conditions = &told.steps[2].conditions;
    assert_eq!(conditions[0].value, r#"["x", "y"]"#);
    assert_eq!(
        (conditions[1].truth, conditions[1].found, &*conditions[1].exact),
        (Truth::Unjudged, "string", "/tools/t/require/0/conditions/1")
    );
    assert!(!format!("{told:?}").contains("canary"));
}

/// A policy whose rules are drawn from a few conditions on a few paths, so that they interact.
fn rule() -> impl Strategy<Value = String> {
    let condition = (
        prop::sample::select(vec!["args.a", "args.b", "args.c.d"]),
        prop::sample::select(vec![
            ("eq", "1"),
            ("neq", "\"x\""),
            ("in", "[1,\"x\"]"),
            ("not_in", "[\"y\",true]"),
            ("lt", "5"),
            ("gte", "2"),
            ("exists", "true"),
            ("exists", "false"),
            ("regex", "\"^x\""),
            ("contains", "\"x\""),
        ]),
    )
        .prop_map(|(path, (op, value))| format!(r#"{{"path":"{path}","op":"{op}","value":{value}}}"#));
    prop::collection::vec(condition, 1..3).prop_map(|all| format!(r#"{{"conditions":[{}]}}"#, all.join(",")))
}

fn rules() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(rule(), 0..4)
}

fn value() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "1",
        "2",
        "7.5",
        "\"x\"",
        "\"xy\"",
        "\"y\"",
        "null",
        "true",
        "[]",
        "[\"x\"]",
        "[1]",
        "{\"d\":1}",
        "{\"d\":\"x\"}",
        "1e400",
        "-0",
    ])
}

fn arguments() -> impl Strategy<Value = String> {
    let member = |name: &'static str| {
        prop::option::of(value()).prop_map(move |value| value.map(|value| format!("\"{name}\":{value}")))
    };
    (member("a"), member("b"), member("c"))
        .prop_map(|(a, b, c)| format!("{{{}}}", [a, b, c].into_iter().flatten().collect::<Vec<_>>().join(",")))
}

fn body(require: &[String], deny_if: &[String]) -> String {
    format!(r#""require":[{}],"deny_if":[{}]"#, require.join(","), deny_if.join(","))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn one_more_rule_never_allows(require in rules(), deny_if in rules(), more in rule(), arguments in arguments()) {
        let before = allows(&tool(&body(&require, &deny_if)), &arguments);
        let with = |rules: &[String]| [rules, std::slice::from_ref(&more)].concat();
        prop_assert!(before || !allows(&tool(&body(&require, &with(&deny_if))), &arguments));
        prop_assert!(before || !allows(&tool(&body(&with(&require), &deny_if)), &arguments));
    }

    #[test]
    fn the_order_of_rules_and_conditions_changes_no_verdict(
        require in rules().prop_shuffle(), deny_if in rules(), arguments in arguments(), seed in any::<u64>()
    ) {
        let policy = tool(&body(&require, &deny_if));
        let turn = |rules: &[String]| {
            let mut rules = rules.to_vec();
            if !rules.is_empty() {
                let by = usize::try_from(seed % 4).unwrap().min(rules.len());
                rules.rotate_left(by);
                if seed.is_multiple_of(2) { rules.reverse() }
            }
            rules
        };
        let turned = tool(&body(&turn(&require), &turn(&deny_if)));
        prop_assert_eq!(allows(&policy, &arguments), allows(&turned, &arguments));
    }

    #[test]
    fn evaluation_is_a_function_and_explanations_agree(require in rules(), deny_if in rules(), arguments in arguments()) {
        let policy = tool(&body(&require, &deny_if));
        let document = Document::parse(arguments.as_bytes(), Limits::default()).unwrap();
        let first = decide_as(&policy, "g", "t", &arguments);
        prop_assert_eq!(&first, &decide_as(&tool(&body(&require, &deny_if)), "g", "t", &arguments));
        let told = policy.explain(&grant("g"), &Call::of("t", Some(document.root())));
        prop_assert_eq!(&told.decision, &first);
        let denying = told.steps.iter().find_map(|step| match step.outcome {
            StepOutcome::Denies(reason) => Some(reason),
            StepOutcome::Passes => None,
        });
        match first {
            Decision::Deny(denial) => prop_assert_eq!(denying, Some(denial.reason)),
            Decision::Proceed(_) => prop_assert_eq!(denying, None),
        }
    }

    #[test]
    fn the_order_of_arguments_changes_nothing(require in rules(), deny_if in rules(), a in value(), b in value(), c in value()) {
        let policy = tool(&body(&require, &deny_if));
        let there = format!("{{\"a\":{a},\"b\":{b},\"c\":{c}}}");
        let back = format!("{{\"c\":{c},\"b\":{b},\"a\":{a}}}");
        prop_assert_eq!(decide_as(&policy, "g", "t", &there), decide_as(&policy, "g", "t", &back));
    }

    #[test]
    fn exact_pointers_are_unique(require in rules(), deny_if in rules()) {
        let policy = tool(&body(&require, &deny_if));
        let told = policy.explain(&grant("g"), &Call::of("t", None));
        let mut all: Vec<&str> = told.steps.iter().flat_map(|step| &step.conditions).map(|c| &*c.exact).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        prop_assert_eq!(all.len(), count);
    }

    #[test]
    fn a_hidden_or_visible_tool_is_so_for_calls_too(require in rules(), deny_if in rules(), arguments in arguments()) {
        let policy = tool(&body(&require, &deny_if));
        prop_assert!(policy.is_visible(&grant("g"), "t") || !allows(&policy, &arguments));
    }
}
