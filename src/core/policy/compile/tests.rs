use super::limit::COUNTER_CHARS_MAX;
use super::*;
use crate::document::Format;

fn compile_text(text: &str, format: Format) -> Result<Compiled, Vec<String>> {
    let source = Source { id: "p", file: "p", bytes: text.as_bytes(), format };
    Policy::compile(&source).map_err(|defects| defects.iter().map(ToString::to_string).collect())
}

/// The defects of a policy with this body after `version` and `default`.
fn defects(body: &str) -> Vec<String> {
    compile_text(&format!(r#"{{"version":"1","default":"deny"{body}}}"#), Format::Json)
        .map(|_| ())
        .err()
        .unwrap_or_default()
}

fn tool(body: &str) -> Vec<String> {
    defects(&format!(r#","tools":{{"t":{{{body}}}}}"#))
}

fn condition(body: &str) -> Vec<String> {
    tool(&format!(r#""require":[{{"conditions":[{{{body}}}]}}]"#))
}

fn value(operator: &str, value: &str) -> Vec<String> {
    condition(&format!(r#""path":"args.a","op":"{operator}","value":{value}"#))
}

fn limit(body: &str) -> Vec<String> {
    tool(&format!(r#""limits":[{{{body}}}]"#))
}

fn path(text: &str) -> Vec<String> {
    condition(&format!(r#""path":{text},"op":"exists","value":true"#))
}

fn warnings(text: &str) -> Vec<String> {
    compile_text(text, Format::Yaml).unwrap().warnings.iter().map(ToString::to_string).collect()
}

const LIMIT: &str = r#""counter":"c","window":"hour","scope":"grant","max":1"#;

#[test]
fn every_defect_is_told_at_once_with_its_line() {
    let text = "version: 1
default: denny
hiden: []
tools:
  t:
    require:
      - conditions:
          - {path: amount, op: gt, value: 5}
          - {path: args.a, op: greater, value: 5}
        on_denny: no
    limits:
      - {counter: c, window: week, scope: grant}
";
    let told = compile_text(text, Format::Yaml).unwrap_err();
    assert_eq!(
        told,
        [
            "p:1: /version: expected a string, found a number (quote it)",
            "p:2: /default: expected one of `allow`, `deny`, found `denny` (did you mean `deny`?)",
            "p:3: unknown key `hiden` (did you mean `hide`?)",
            "p:8: /tools/t/require/0/conditions/0/path: expected a path that starts with `args.`, found `amount` \
         (only the arguments of the call can be judged)",
            "p:9: /tools/t/require/0/conditions/1/op: expected one of `eq`, `neq`, `lt`, `lte`, `gt`, `gte`, `in`, `not_in`, \
         `exists`, `regex`, `contains`, found `greater`",
            "p:10: /tools/t/require/0: unknown key `on_denny` (did you mean `on_deny`?)",
            "p:12: /tools/t/limits/0: missing key `max`",
            "p:12: /tools/t/limits/0/window: expected one of `minute`, `hour`, `day`, found `week` \
         (version \"2\" has `week`)",
        ]
    );
}

#[test]
fn sections_of_later_versions_are_named_and_refused() {
    for key in PLANNED {
        let told = |version: &str| {
            let text = format!(r#"{{"version":"{version}","default":"deny","{key}":{{}}}}"#);
            compile_text(&text, Format::Json).map(|_| ()).err().unwrap_or_default()
        };
        let expected =
            |version: &str| format!("p:1: /{key}: `{key}` is not part of version {version} of the policy language");
        if *key == "counters" {
            assert_eq!(told("1"), [expected("1") + " (write `version: \"2\"`)"]);
            assert_eq!(told("2"), [""; 0]);
        } else {
            assert_eq!((told("1"), told("2")), (vec![expected("1")], vec![expected("2")]));
        }
    }
    let expected = "p:1: /tools/t/approve_if: `approve_if` is not part of version 1 of the policy language";
    assert_eq!(tool(r#""approve_if":[]"#), [expected]);
}

#[test]
fn each_map_has_its_own_keys_and_no_others() {
    for told in [
        defects(r#","x":1"#),
        defects(r#","all_tools":{"require":[]}"#),
        tool(r#""x":[]"#),
        tool(r#""require":[{"conditions":[{"path":"args.a","op":"exists","value":true}],"x":1}]"#),
        condition(r#""path":"args.a","op":"exists","value":true,"x":1"#),
        limit(&format!("{LIMIT},\"x\":1")),
    ] {
        assert!(told.len() == 1 && told[0].contains("unknown key"), "{told:?}");
    }
}

#[test]
fn nothing_required_may_be_missing() {
    assert_eq!(
        compile_text("{}", Format::Json).unwrap_err(),
        ["p:1: missing key `version`", "p:1: missing key `default`"]
    );
    assert_eq!(condition("").len(), 3);
    assert_eq!(limit("").len(), 4);
    assert_eq!(tool(r#""require":[{}]"#), ["p:1: /tools/t/require/0: missing key `conditions`"]);
    for text in ["", "[]", "null", "5", "\"1\""] {
        assert!(compile_text(text, Format::Json).is_err(), "{text}");
    }
}

#[test]
fn each_operator_takes_its_own_values() {
    for (operator, good, bad) in [
        ("eq", &["\"\"", "\"x\"", "5", "-1.5e3", "true"][..], &["null", "[]", "{}", "1e400"][..]),
        ("neq", &["\"x\"", "0", "false"], &["null", "[\"x\"]", "{}"]),
        ("lt", &["5", "0.1", "-1e300"], &["\"5\"", "true", "null", "[5]", "1e400", "1e-400"]),
        ("lte", &["5"], &["\"5\"", "true", "null", "{}"]),
        ("gt", &["5"], &["\"5\"", "true", "null", "{}"]),
        ("gte", &["5"], &["\"5\"", "true", "null", "{}"]),
        ("in", &["[\"x\"]", "[1,\"a\",true]", "[\"\"]"], &["[]", "\"x\"", "[null]", "[[1]]", "[{}]", "{}", "5"]),
        ("not_in", &["[\"x\"]"], &["[]", "\"x\"", "[null]", "null"]),
        ("exists", &["true", "false"], &["\"true\"", "1", "null", "[]"]),
        ("regex", &["\"^a$\"", "\"\""], &["5", "null", "[\"a\"]", "\"[\"", "\"(?=a)\"", "\"\\\\<\""]),
        ("contains", &["\"x\"", "5", "true"], &["\"\"", "null", "[\"x\"]", "{}"]),
    ] {
        for text in good {
            assert_eq!(value(operator, text), [""; 0], "{operator} {text}");
        }
        for text in bad {
            let told = value(operator, text);
            assert!(
                told.len() == 1 && told[0].contains("/tools/t/require/0/conditions/0/value"),
                "{operator} {text}: {told:?}"
            );
        }
    }
}

#[test]
fn a_long_number_is_refused_where_it_cannot_be_compared() {
    assert_eq!(value("gt", &"9".repeat(64)), [""; 0]);
    assert_eq!(value("gt", &"9".repeat(65)).len(), 1);
}

#[test]
fn paths_name_members_below_args() {
    for text in ["args.a", "args.a.b", "args.a-b_c", "args.a b", "args.ключ", "args.$ref", "args.a:b", "args.args"]
    {
        assert_eq!(path(&format!("\"{text}\"")), [""; 0], "{text}");
    }
    for text in [
        "\"args\"",
        "\"args.\"",
        "\"args..a\"",
        "\"args.a.\"",
        "\"a\"",
        "\"\"",
        "5",
        "null",
        "\"Args.a\"",
        "\"state.t.c\"",
        "\"args.a[0]\"",
        "\"args.a[*].b\"",
        "\"args.*\"",
        "\"args. a\"",
        "\"args.a .b\"",
        "\"args.\\\"a\\\"\"",
        "\"args.a\\nb\"",
        "\"args/a\"",
        "\"identity.subject\"",
        "\"args.a/b\"",
    ] {
        assert_eq!(path(text).len(), 1, "{text}: {:?}", path(text));
    }
    let deep = |count: usize| format!("\"args{}\"", ".a".repeat(count));
    assert_eq!(path(&deep(PATH_SEGMENTS_MAX)), [""; 0]);
    assert_eq!(path(&deep(PATH_SEGMENTS_MAX + 1)).len(), 1);
    assert_eq!(path(&format!("\"args.{}\"", "é".repeat(SEGMENT_CHARS_MAX))), [""; 0]);
    assert_eq!(path(&format!("\"args.{}\"", "é".repeat(SEGMENT_CHARS_MAX + 1))).len(), 1);
}

#[test]
fn names_of_tools_are_exact_and_bounded() {
    for name in ["t", "http_request.post", "a/b", "a~b", "Ключ", "with space"] {
        assert_eq!(defects(&format!(r#","hide":["{name}"]"#)), [""; 0], "{name}");
        assert_eq!(defects(&format!(r#","tools":{{"{name}":{{}}}}"#)), [""; 0], "{name}");
    }
    for name in ["", " ", "get_*", "a\\u0000", "a\\nb"] {
        assert_eq!(defects(&format!(r#","hide":["{name}"]"#)).len(), 1, "{name}");
    }
    for name in ["", " ", "*", "get_*"] {
        assert_eq!(defects(&format!(r#","tools":{{"{name}":{{}}}}"#)).len(), 1, "{name}");
    }
    assert_eq!(defects(r#","hide":["*"]"#), [""; 0]);
    assert_eq!(defects(r#","hide":["a","b","a"]"#), ["p:1: /hide/2: `a` is in the list already"]);
    assert_eq!(defects(r#","hide":"a""#).len(), 1);
    assert_eq!(defects(r#","hide":[5]"#).len(), 1);
    assert_eq!(defects(r#","tools":null"#).len(), 1);
    assert_eq!(defects(r#","tools":{"t":null}"#).len(), 1);
    assert_eq!(defects(r#","tools":[]"#).len(), 1);
    let at = "n".repeat(NAME_CHARS_MAX);
    assert_eq!(defects(&format!(r#","hide":["{at}"]"#)), [""; 0]);
    assert_eq!(defects(&format!(r#","hide":["{at}n"]"#)).len(), 1);
}

#[test]
fn a_tool_twice_is_a_duplicate_key() {
    let told = defects(r#","tools":{"t":{},"t":{}}"#);
    assert!(told.len() == 1 && told[0].contains("duplicate key `t`"), "{told:?}");
    let told = defects(r#","tools":{"t":{},"\u0074":{}}"#);
    assert!(told.len() == 1 && told[0].contains("duplicate key `t`"), "{told:?}");
}

#[test]
fn limits_take_whole_numbers_up_to_2_to_the_52() {
    let with = |max: &str| limit(&format!(r#""counter":"c","window":"hour","scope":"grant","max":{max}"#));
    for max in ["0", "1", "4503599627370496"] {
        assert_eq!(with(max), [""; 0], "{max}");
    }
    for max in ["-1", "1.5", "4503599627370497", "1e3", "\"5\"", "null", "true"] {
        assert_eq!(with(max).len(), 1, "{max}");
    }
}

#[test]
fn limits_name_a_counter_a_window_and_a_scope() {
    for (key, bad) in [
        ("counter", &["\"\"", "5", "null", "\"a b\"", "\"a/b\"", "\"é\""][..]),
        ("window", &["\"week\"", "\"Hour\"", "60", "null"]),
        ("scope", &["\"session\"", "\"user\"", "[\"grant\"]", "null"]),
        ("increment_from", &["\"n\"", "5", "null", "\"args\"", "\"args.a[0]\""]),
        ("on_deny", &["\"\"", "5", "null"]),
    ] {
        for text in bad {
            let mut members = vec![("counter", "\"c\""), ("window", "\"hour\""), ("scope", "\"grant\""), ("max", "1")];
            members.retain(|(name, _)| *name != key);
            members.push((key, text));
            let body: Vec<String> = members.iter().map(|(name, text)| format!("\"{name}\":{text}")).collect();
            assert_eq!(limit(&body.join(",")).len(), 1, "{key} {text}");
        }
    }
    let named = |length: usize| {
        limit(&format!(r#""counter":"{}","window":"day","scope":"policy","max":1"#, "c".repeat(length)))
    };
    assert_eq!((named(COUNTER_CHARS_MAX).len(), named(COUNTER_CHARS_MAX + 1).len()), (0, 1));
}

#[test]
fn one_counter_has_one_window_and_counts_a_call_once() {
    let two = |a: &str, b: &str| {
        let limit = |text: &str| {
            let (window, scope) = text.split_once(' ').unwrap();
            format!(r#"{{"counter":"c","window":"{window}","scope":"{scope}","max":1}}"#)
        };
        tool(&format!(r#""limits":[{},{}]"#, limit(a), limit(b)))
    };
    assert_eq!(two("hour grant", "hour policy"), [""; 0]);
    assert_eq!(two("hour grant", "day grant").len(), 1);
    assert_eq!(two("hour grant", "day policy").len(), 1);
    assert_eq!(two("hour grant", "hour grant").len(), 1);
    let shared = |window: &str| {
        let own = format!(r#"{{"counter":"c","window":"{window}","scope":"grant","max":1}}"#);
        defects(&format!(r#","all_tools":{{"limits":[{{{LIMIT}}}]}},"tools":{{"t":{{"limits":[{own}]}}}}"#))
    };
    assert_eq!(shared("hour"), [""; 0]);
    assert_eq!(
        shared("day"),
        ["p:1: /tools/t/limits/0: counter `c` has the window `hour` elsewhere, here `day` \
         (`all_tools` has it too: give it another name)"]
    );
}

#[test]
fn the_same_counter_name_under_two_tools_is_two_counters() {
    let own = |window: &str| format!(r#"{{"limits":[{{"counter":"c","window":"{window}","scope":"grant","max":1}}]}}"#);
    assert_eq!(defects(&format!(r#","tools":{{"a":{},"b":{}}}"#, own("hour"), own("day"))), [""; 0]);
}

#[test]
fn limits_of_all_tools_only_count_calls() {
    assert_eq!(defects(&format!(r#","all_tools":{{"limits":[{{{LIMIT}}}]}}"#)), [""; 0]);
    assert_eq!(defects(&format!(r#","all_tools":{{"limits":[{{{LIMIT},"increment_from":"args.n"}}]}}"#)).len(), 1);
}

#[test]
fn messages_are_bounded_and_hold_no_control_characters() {
    let with = |message: &str| limit(&format!(r#"{LIMIT},"on_deny":"{message}""#));
    assert_eq!(with(&"é".repeat(MESSAGE_CHARS_MAX)), [""; 0]);
    assert_eq!(with(&"é".repeat(MESSAGE_CHARS_MAX + 1)).len(), 1);
    assert_eq!(with("two\\nlines\\tand {{template}} %s"), [""; 0]);
    assert_eq!(with("\\u001b[31m").len(), 1);
}

#[test]
fn counts_of_everything_are_bounded() {
    let repeat = |text: &str, count: usize| vec![text; count].join(",");
    let exists = r#"{"path":"args.a","op":"exists","value":true}"#;
    let rule = |conditions: &str| format!(r#"{{"conditions":[{conditions}]}}"#);
    for (count, expected) in [(CONDITIONS_PER_RULE_MAX, 0), (CONDITIONS_PER_RULE_MAX + 1, 1)] {
        assert_eq!(tool(&format!(r#""deny_if":[{}]"#, rule(&repeat(exists, count)))).len(), expected);
    }
    for (count, expected) in [(RULES_MAX, 0), (RULES_MAX + 1, 1)] {
        assert_eq!(tool(&format!(r#""require":[{}]"#, repeat(&rule(exists), count))).len(), expected);
    }
    let regex = rule(r#"{"path":"args.a","op":"regex","value":"a"}"#);
    for (count, expected) in [(PATTERNS_MAX, 0), (PATTERNS_MAX + 1, 1)] {
        let (own, other) = (repeat(&regex, count / 2), repeat(&regex, count.div_ceil(2)));
        assert_eq!(tool(&format!(r#""require":[{own}],"deny_if":[{other}]"#)).len(), expected);
    }
    // Four programs of at most 1 MiB are the limit; nothing of one more is compiled.
    let large = rule(r#"{"path":"args.a","op":"regex","value":"[^a]{1000}"}"#);
    for (count, expected) in [(4, 0), (5, 1)] {
        let found = tool(&format!(r#""deny_if":[{}]"#, repeat(&large, count)));
        assert_eq!(found.len(), expected, "{found:?}");
    }
    for (count, expected) in [(VALUES_MAX, 0), (VALUES_MAX + 1, 1)] {
        assert_eq!(value("in", &format!("[{}]", repeat("\"x\"", count))).len(), expected);
    }
    for (count, expected) in [(LIMITS_MAX, 0), (LIMITS_MAX + 1, 1)] {
        let limits: Vec<String> = (0..count)
            .map(|index| format!(r#"{{"counter":"c{index}","window":"hour","scope":"grant","max":1}}"#))
            .collect();
        assert_eq!(tool(&format!(r#""limits":[{}]"#, limits.join(","))).len(), expected);
        assert_eq!(defects(&format!(r#","all_tools":{{"limits":[{}]}}"#, limits.join(","))).len(), expected);
    }
}

#[test]
fn a_policy_has_at_most_100_000_tools_and_conditions() {
    let tools = |count: usize, body: &str| {
        let tools: Vec<String> = (0..count).map(|index| format!("\"t{index}\":{{{body}}}")).collect();
        format!(r#"{{"version":"1","default":"deny","tools":{{{}}}}}"#, tools.join(","))
    };
    let compiled = compile_text(&tools(TOOLS_MAX, ""), Format::Json).unwrap();
    assert_eq!(compiled.policy.tool_count(), TOOLS_MAX);
    let told = compile_text(&tools(TOOLS_MAX + 1, ""), Format::Json).unwrap_err();
    assert_eq!(told, ["p:1: /tools: has 100001 tools, more than 100000"]);
    let exists = r#"{"path":"args.a","op":"exists","value":true}"#;
    let rule = format!(r#""require":[{{"conditions":[{}]}}]"#, vec![exists; 50].join(","));
    assert!(compile_text(&tools(CONDITIONS_MAX / 50, &rule), Format::Json).is_ok());
    let told = compile_text(&tools(CONDITIONS_MAX / 50 + 1, &rule), Format::Json).unwrap_err();
    assert!(told.len() == 1 && told[0].contains("more than 100000 conditions"), "{told:?}");
}

#[test]
fn a_document_of_10_mb_is_refused() {
    let pad = |bytes: usize| {
        let rest = r#"{"version":"1","default":"deny"}"#;
        format!("{}{rest}", " ".repeat(bytes - rest.len()))
    };
    assert!(compile_text(&pad(POLICY_BYTES_MAX), Format::Json).is_ok());
    assert!(compile_text(&pad(POLICY_BYTES_MAX + 1), Format::Json).is_err());
    assert!(compile_text(&pad(10_000_000), Format::Json).is_err());
}

#[test]
fn yaml_and_json_mean_the_same() {
    let yaml = "version: \"1\"\ndefault: deny\ntools:\n  t:\n    require:\n      - conditions:\n          - {path: args.a, op: in, value: [yes, \"5\", 5]}\n";
    let compiled = compile_text(yaml, Format::Yaml).unwrap();
    let told =
        compiled.policy.explain(&crate::principal::Principal::of_grant("g"), &crate::policy::Call::of("t", None));
    assert_eq!(told.steps[2].conditions[0].value, r#"["yes", "5", 5]"#);
}

#[test]
fn authors_are_warned_of_what_they_hardly_mean() {
    assert_eq!(warnings("version: \"1\"\ndefault: allow\n"), ["p:1: the policy allows everything"]);
    let hidden = "version: \"1\"\ndefault: deny\nhide: [t]\ntools:\n  t: {}\n";
    assert_eq!(warnings(hidden), ["p:5: /tools/t: the tool is hidden, so its rules have no effect"]);
    let unguarded = "version: \"1\"\ndefault: deny\ntools:\n  t:\n    deny_if:\n      - conditions: [{path: args.n, op: gt, value: 5}]\n";
    assert_eq!(
        warnings(unguarded),
        ["p:5: /tools/t/deny_if: a call without `args.n` passes: `deny_if` does not match a missing path \
         (add a `require` on `args.n`, such as `exists: true`)"]
    );
    let guarded = format!("{unguarded}    require:\n      - conditions: [{{path: args.n, op: exists, value: true}}]\n");
    assert_eq!(warnings(&guarded), [""; 0]);
}

#[test]
fn lenient_policies_warn_of_each_verdict_that_could_differ() {
    let count = |section: &str, operator: &str, value: &str| {
        let text = format!(
            "version: \"1\"\ndefault: deny\ncompat: lenient\ntools:\n  t:\n    {section}:\n      - conditions: [{{path: args.a, op: {operator}, value: {value}}}]\n"
        );
        warnings(&text).iter().filter(|line| line.contains("`compat: lenient`")).count()
    };
    for (operator, value, require, deny_if) in [
        ("eq", "x", 0, 1),
        ("eq", "5", 1, 1),
        ("eq", "\"5\"", 1, 1),
        ("eq", "\"true\"", 1, 1),
        ("eq", "true", 1, 1),
        ("eq", "null", 1, 1),
        ("neq", "x", 1, 0),
        ("neq", "5", 1, 1),
        ("in", "[x]", 0, 1),
        ("in", "[x, 5]", 1, 1),
        ("not_in", "[x]", 1, 0),
        ("not_in", "[5]", 1, 1),
        ("lt", "5", 0, 1),
        ("lte", "5", 0, 1),
        ("gt", "5", 0, 1),
        ("gte", "5", 0, 1),
        ("regex", "x", 0, 1),
        ("contains", "x", 0, 1),
        ("contains", "5", 1, 1),
        ("exists", "true", 0, 0),
        ("exists", "false", 1, 0),
    ] {
        assert_eq!(
            (count("require", operator, value), count("deny_if", operator, value)),
            (require, deny_if),
            "{operator} {value}"
        );
    }
    let limit = "version: \"1\"\ndefault: deny\ncompat: lenient\ntools:\n  t:\n    limits: [{counter: c, window: hour, scope: grant, max: 1, increment_from: args.n}]\n";
    assert_eq!(warnings(limit).len(), 1);
}

#[test]
fn compat_is_lenient_or_absent() {
    assert_eq!(defects(r#","compat":"lenient""#), [""; 0]);
    for text in ["\"strict\"", "\"intercept\"", "true", "null"] {
        assert_eq!(defects(&format!(r#","compat":{text}"#)).len(), 1, "{text}");
    }
}

/// A whole policy, to be cut and altered at random places.
const WHOLE: &str = r#"{"version":"1","default":"deny","hide":["h"],"compat":"lenient","all_tools":{"limits":[{"counter":"c","window":"hour","scope":"grant","max":1}]},"tools":{"t":{"require":[{"conditions":[{"path":"args.a.b","op":"in","value":[1,"x",true]}],"on_deny":"no"}],"deny_if":[{"conditions":[{"path":"args.a","op":"regex","value":"^\\d+[a-z&&]"}]}],"limits":[{"counter":"d","window":"day","scope":"policy","max":5,"increment_from":"args.n"}]}}}"#;

proptest::proptest! {
    #[test]
    fn no_document_panics(at in 0..WHOLE.len(), length in 0usize..12, text in r#"[\[\]{}",:0-9a-z*\\-]{0,6}"#) {
        let end = at.saturating_add(length).min(WHOLE.len());
        let mut altered = WHOLE.to_owned();
        altered.replace_range(at..end, &text);
        for format in [Format::Json, Format::Yaml] {
            if let Err(told) = compile_text(&altered, format) {
                proptest::prop_assert!(!told.is_empty() && told.iter().all(|line| line.starts_with("p")));
            }
        }
    }
}

#[test]
fn hidden_tools_are_told_as_unknown_ones_only_where_the_policy_answers_for_both() {
    let told = |rest: &str| {
        let text = format!("{{{rest}}}");
        compile_text(&text, Format::Json).map(|compiled| compiled.policy.hides_as_unknown())
    };
    assert_eq!(told(r#""version":"2","default":"deny","hidden_as":"unknown""#), Ok(true));
    assert_eq!(told(r#""version":"2","default":"deny""#), Ok(false));
    for (rest, expected) in [
        (
            r#""version":"2","default":"allow","hidden_as":"unknown","hide":["x"]"#,
            "/hidden_as: under `default: allow` the server answers for tools that it does not know, and its text differs: \
             hidden tools could be told from unknown ones (`default: deny`, and name the tools that may be called)",
        ),
        (
            r#""version":"2","default":"deny","hidden_as":"denied""#,
            "/hidden_as: expected one of `unknown`, found `denied`",
        ),
        (
            r#""version":"1","default":"deny","hidden_as":"unknown""#,
            "/hidden_as: `hidden_as` is not part of version 1 of the policy language (write `version: \"2\"`)",
        ),
    ] {
        assert_eq!(told(rest).unwrap_err(), [format!("p:1: {expected}")]);
    }
}

#[test]
fn a_defect_of_a_pattern_is_one_line_without_control_characters() {
    let text = r#"{"version":"1","default":"deny","tools":{"t":{"require":[{"conditions":[{"path":"args.a","op":"regex","value":"[[:a\n\u001b[31m:]]"}]}]}}}"#;
    let source = Source { id: "p", file: "p.json", bytes: text.as_bytes(), format: crate::document::Format::Json };
    let defects = compile(&source, None).unwrap_err();
    assert_eq!(defects.len(), 1);
    assert!(!defects[0].to_string().chars().any(char::is_control), "{}", defects[0]);
}

#[test]
fn schemas_of_servers_are_part_of_version_2() {
    let told = |version: &str, body: &str| {
        let text = format!(r#"{{"version":"{version}","default":"deny",{body}}}"#);
        compile_text(&text, Format::Json).map(|compiled| compiled.policy)
    };
    let (all, one) = (r#""all_tools":{"schema_from":"server"}"#, r#""tools":{"t":{"schema_from":"server"},"u":{}}"#);
    for body in [all, one] {
        assert!(told("1", body).unwrap_err()[0].contains("write `version: \"2\"`"), "{body}");
    }
    assert!(told("2", r#""tools":{"t":{"schema_from":"file"}}"#).is_err());
    let rule = |policy: &Policy, tool: &str| policy.schema_rule(tool).map(|rule| rule.pointer.to_string());
    let policy = told("2", one).unwrap();
    assert_eq!((rule(&policy, "t").as_deref(), rule(&policy, "u")), (Some("/tools/t/schema_from"), None));
    assert!(policy.needs_schemas());
    let policy = told("2", all).unwrap();
    assert_eq!(rule(&policy, "any").as_deref(), Some("/all_tools/schema_from"));
    assert!(policy.needs_schemas() && !told("2", r#""tools":{}"#).unwrap().needs_schemas());
    // It is not nothing: such a policy does not allow everything.
    let open = r#"{"version":"2","default":"allow","all_tools":{"schema_from":"server"}}"#;
    assert_eq!(compile_text(open, Format::Json).unwrap().warnings, []);
}
