use super::Truth::{Fails, Holds, Missing, Unjudged};
use super::*;
use crate::document::Format;
use crate::json::{Document, Limits};
use crate::policy::{Entry, Policy, Source};

/// What a condition on `args.a` says of the arguments, strictly and leniently. `null` as policy value is lenient only.
fn truths(operator: &str, value: &str, arguments: &str) -> (Option<Truth>, Truth) {
    truths_at("args.a", operator, value, arguments)
}

fn truths_at(path: &str, operator: &str, value: &str, arguments: &str) -> (Option<Truth>, Truth) {
    let condition = format!(r#"{{"path":"{path}","op":"{operator}","value":{value}}}"#);
    let policy =
        format!(r#"{{"version":"1","default":"deny","tools":{{"t":{{"require":[{{"conditions":[{condition}]}}]}}}}}}"#);
    let source = Source { id: "p", file: "p.json", bytes: policy.as_bytes(), format: Format::Json };
    let document = Document::parse(arguments.as_bytes(), Limits::default()).unwrap();
    let judge = |policy: &Policy| match policy.tools.get("t") {
        Some(Entry::Listed(tool)) => tool.require[0].all[0].judge(Some(document.root()), policy.compat),
        _ => panic!("no tool"),
    };
    let strict = Policy::compile(&source).ok().map(|compiled| judge(&compiled.policy));
    let lenient = Policy::compile_lenient(&source).unwrap_or_else(|defects| panic!("{}", defects[0]));
    (strict, judge(&lenient.policy))
}

fn assert_rows(operator: &str, value: &str, rows: &[(&str, Truth, Truth)]) {
    for (found, strict, lenient) in rows {
        let arguments = if found.is_empty() { "{}".to_owned() } else { format!("{{\"a\":{found}}}") };
        let actual = truths(operator, value, &arguments);
        assert_eq!(actual, (Some(*strict), *lenient), "{operator} {value} on {arguments}");
    }
}

const TWO_TO_53_PLUS_1: &str = "9007199254740993";

#[test]
fn eq_compares_strings_with_strings() {
    assert_rows(
        "eq",
        "\"x\"",
        &[
            ("\"x\"", Holds, Holds),
            ("\"\\u0078\"", Holds, Holds),
            ("\"X\"", Fails, Fails),
            ("\"x \"", Fails, Fails),
            ("\"\"", Fails, Fails),
            ("", Missing, Missing),
            ("null", Unjudged, Fails),
            ("5", Unjudged, Fails),
            ("true", Unjudged, Fails),
            ("[\"x\"]", Unjudged, Fails),
            ("{\"k\":\"x\"}", Unjudged, Fails),
        ],
    );
}

#[test]
fn eq_compares_numbers_by_value() {
    assert_rows(
        "eq",
        "5",
        &[
            ("5", Holds, Holds),
            ("5.0", Holds, Holds),
            ("0.5e1", Holds, Holds),
            ("5.1", Fails, Fails),
            ("-5", Fails, Fails),
            ("", Missing, Missing),
            ("\"5\"", Unjudged, Holds),
            ("\"5.0\"", Unjudged, Fails),
            ("null", Unjudged, Fails),
            ("true", Unjudged, Fails),
            ("[5]", Unjudged, Fails),
            ("{\"a\":5}", Unjudged, Fails),
            ("1e400", Unjudged, Unjudged),
            ("1e999999999999999999999", Unjudged, Unjudged),
        ],
    );
    assert_rows("eq", "9007199254740992", &[("9007199254740992", Holds, Holds), ("9007199254740994", Fails, Fails)]);
    assert_rows("eq", "0", &[("-0", Holds, Holds), ("0.0", Holds, Holds), ("1e-9", Fails, Fails)]);
    assert_rows("eq", "100", &[("1e2", Holds, Holds)]);
}

#[test]
fn eq_compares_booleans_with_booleans() {
    assert_rows(
        "eq",
        "true",
        &[
            ("true", Holds, Holds),
            ("false", Fails, Fails),
            ("\"true\"", Unjudged, Holds),
            ("\"TRUE\"", Unjudged, Fails),
            ("1", Unjudged, Fails),
            ("null", Unjudged, Fails),
            ("", Missing, Missing),
        ],
    );
}

#[test]
fn lenient_equality_prints_numbers_as_go_does() {
    assert_rows("eq", "1000000", &[("\"1000000\"", Unjudged, Holds), ("1000000", Holds, Holds)]);
    assert_rows("eq", "\"1000000\"", &[("1000000", Unjudged, Fails), ("\"1000000\"", Holds, Holds)]);
    assert_rows("eq", "\"5\"", &[("5", Unjudged, Holds), ("5.0", Unjudged, Holds), ("\"5\"", Holds, Holds)]);
    assert_rows("eq", "\"1e+06\"", &[("1000000", Unjudged, Holds)]);
    assert_rows("eq", "1.5", &[("\"1.5\"", Unjudged, Holds)]);
}

#[test]
fn eq_null_is_lenient_only() {
    for (found, lenient) in [("null", Holds), ("5", Fails), ("\"\"", Fails), ("[]", Fails)] {
        assert_eq!(truths("eq", "null", &format!("{{\"a\":{found}}}")), (None, lenient), "{found}");
    }
    assert_eq!(truths("eq", "null", "{}"), (None, Missing));
}

#[test]
fn neq_is_the_contrary_of_eq_where_eq_can_judge() {
    assert_rows(
        "neq",
        "\"x\"",
        &[
            ("\"z\"", Holds, Holds),
            ("\"x\"", Fails, Fails),
            ("", Missing, Missing),
            ("null", Unjudged, Holds),
            ("5", Unjudged, Holds),
            ("[\"x\"]", Unjudged, Holds),
            ("{}", Unjudged, Holds),
        ],
    );
    assert_rows("neq", "5", &[("6", Holds, Holds), ("5.0", Fails, Fails), ("\"5\"", Unjudged, Fails)]);
    assert_rows("neq", "9007199254740992", &[("9007199254740994", Holds, Holds), ("1e400", Unjudged, Unjudged)]);
}

#[test]
fn order_is_of_numbers_only() {
    let rows = |at: Truth, below: Truth, above: Truth| {
        [
            ("10", at, at),
            ("10.0", at, at),
            ("1e1", at, at),
            ("9.99999999999999", below, below),
            ("10.0000000000001", above, above),
            ("9.999999999999999999999", Unjudged, Unjudged),
            ("10.000000000000000000001", Unjudged, Unjudged),
            ("-10", below, below),
            ("", Missing, Missing),
            ("null", Unjudged, Fails),
            ("\"5\"", Unjudged, Fails),
            ("\"z\"", Unjudged, Fails),
            ("true", Unjudged, Fails),
            ("[5]", Unjudged, Fails),
            ("{\"a\":5}", Unjudged, Fails),
            ("1e400", Unjudged, Unjudged),
            ("-1e400", Unjudged, Unjudged),
        ]
    };
    assert_rows("lt", "10", &rows(Fails, Holds, Fails));
    assert_rows("lte", "10", &rows(Holds, Holds, Fails));
    assert_rows("gt", "10", &rows(Fails, Fails, Holds));
    assert_rows("gte", "10", &rows(Holds, Fails, Holds));
    assert_rows("lte", "9007199254740992", &[(TWO_TO_53_PLUS_1, Fails, Fails)]);
    let digits = "9".repeat(10_000);
    assert_rows("gt", "10", &[(&digits, Unjudged, Unjudged)]);
}

#[test]
fn in_judges_the_types_of_its_list() {
    assert_rows(
        "in",
        "[\"x\",\"y\"]",
        &[
            ("\"x\"", Holds, Holds),
            ("\"y\"", Holds, Holds),
            ("\"z\"", Fails, Fails),
            ("\"X\"", Fails, Fails),
            ("", Missing, Missing),
            ("null", Unjudged, Fails),
            ("5", Unjudged, Fails),
            ("true", Unjudged, Fails),
            ("[\"x\"]", Unjudged, Fails),
            ("{\"k\":\"x\"}", Unjudged, Fails),
        ],
    );
    assert_rows("in", "[\"5\",\"a\"]", &[("5", Unjudged, Holds), ("\"5\"", Holds, Holds), ("[5]", Unjudged, Fails)]);
    assert_rows(
        "in",
        "[1,\"a\"]",
        &[
            ("1.0", Holds, Holds),
            ("2", Fails, Fails),
            ("\"b\"", Fails, Fails),
            ("\"1\"", Fails, Holds),
            ("true", Unjudged, Fails),
            ("1e400", Unjudged, Unjudged),
        ],
    );
    assert_rows("in", "[true]", &[("true", Holds, Holds), ("false", Fails, Fails), ("1", Unjudged, Fails)]);
}

#[test]
fn not_in_is_the_contrary_of_in_where_in_can_judge() {
    assert_rows(
        "not_in",
        "[\"x\",\"y\"]",
        &[
            ("\"z\"", Holds, Holds),
            ("\"5\"", Holds, Holds),
            ("\"x\"", Fails, Fails),
            ("", Missing, Missing),
            ("null", Unjudged, Holds),
            ("5", Unjudged, Holds),
            ("10.0", Unjudged, Holds),
            ("[]", Unjudged, Holds),
            ("{\"k\":\"x\"}", Unjudged, Holds),
        ],
    );
}

#[test]
fn exists_takes_null_for_nothing_of_use() {
    assert_rows(
        "exists",
        "true",
        &[
            ("", Fails, Fails),
            ("null", Fails, Fails),
            ("0", Holds, Holds),
            ("false", Holds, Holds),
            ("\"\"", Holds, Holds),
            ("[]", Holds, Holds),
            ("{}", Holds, Holds),
        ],
    );
    assert_rows(
        "exists",
        "false",
        &[
            ("", Holds, Holds),
            ("null", Unjudged, Holds),
            ("0", Fails, Fails),
            ("[]", Fails, Fails),
            ("\"\"", Fails, Fails),
        ],
    );
}

#[test]
fn regex_judges_strings_up_to_64_kib() {
    assert_rows(
        "regex",
        "\"^x$\"",
        &[
            ("\"x\"", Holds, Holds),
            ("\"z\"", Fails, Fails),
            ("\"x\\n\"", Fails, Fails),
            ("", Missing, Missing),
            ("null", Unjudged, Fails),
            ("5", Unjudged, Fails),
            ("true", Unjudged, Fails),
            ("[\"x\"]", Unjudged, Fails),
            ("{\"k\":\"x\"}", Unjudged, Fails),
        ],
    );
    let (at, above) = ("x".repeat(64 * 1024), "x".repeat(64 * 1024 + 1));
    assert_rows(
        "regex",
        "\"^x\"",
        &[(&format!("\"{at}\""), Holds, Holds), (&format!("\"{above}\""), Unjudged, Unjudged)],
    );
}

#[test]
fn contains_judges_strings_and_lists() {
    assert_rows(
        "contains",
        "\"x\"",
        &[
            ("\"axb\"", Holds, Holds),
            ("\"a\"", Fails, Fails),
            ("[\"x\"]", Holds, Holds),
            ("[5,\"x\"]", Holds, Holds),
            ("[\"y\"]", Fails, Fails),
            ("[\"axb\"]", Fails, Fails),
            ("[]", Fails, Fails),
            ("[5]", Unjudged, Fails),
            ("[[\"x\"]]", Unjudged, Fails),
            ("[null]", Unjudged, Fails),
            ("", Missing, Missing),
            ("null", Unjudged, Fails),
            ("5", Unjudged, Fails),
            ("true", Unjudged, Fails),
            ("{\"k\":\"x\"}", Unjudged, Fails),
        ],
    );
    assert_rows(
        "contains",
        "5",
        &[
            ("[5.0]", Holds, Holds),
            ("[6]", Fails, Fails),
            ("[\"5\"]", Unjudged, Holds),
            ("[1e400]", Unjudged, Unjudged),
            ("[1e400,5]", Holds, Holds),
            ("\"5\"", Unjudged, Fails),
            ("5", Unjudged, Fails),
        ],
    );
    assert_rows("contains", "true", &[("[true]", Holds, Holds), ("[false]", Fails, Fails)]);
}

#[test]
fn a_path_walks_members_only() {
    let find = |path: &[&str], arguments: &str| {
        let document = Document::parse(arguments.as_bytes(), Limits::default()).unwrap();
        let path = Path(path.iter().map(|segment| Box::from(*segment)).collect());
        path.find(Some(document.root())).map(|value| value.raw().to_owned())
    };
    assert_eq!(find(&["a", "b"], r#"{"a":{"b":1}}"#).as_deref(), Some("1"));
    assert_eq!(find(&["a", "b"], r#"{"a":{"\u0062":1}}"#).as_deref(), Some("1"));
    for arguments in [
        r#"{"a":[{"b":1}]}"#,
        r#"{"a":"b"}"#,
        r#"{"a":null}"#,
        r#"{"a.b":1}"#,
        r#"{"A":{"b":1}}"#,
        r#"{"a":{"B":1}}"#,
        "{}",
    ] {
        assert_eq!(find(&["a", "b"], arguments), None, "{arguments}");
    }
    assert_eq!(find(&["a", "0"], r#"{"a":[1]}"#), None);
    assert_eq!(find(&["a", "0"], r#"{"a":{"0":1}}"#).as_deref(), Some("1"));
}

/// A server that reads JSON out of strings, or a list of one as its element, finds a member where there is none for us; a
/// caller must not slip past a rule by writing the object so.
#[test]
fn a_value_in_the_way_of_a_path_cannot_be_judged() {
    let truths = |operator, value, arguments| truths_at("args.a.b", operator, value, arguments);
    for arguments in [r#"{"a":"{\"b\":1}"}"#, r#"{"a":[{"b":1}]}"#, r#"{"a":true}"#, r#"{"a":5}"#, r#"{"a":[]}"#] {
        assert_eq!(truths("eq", "1", arguments), (Some(Unjudged), Missing), "{arguments}");
        assert_eq!(truths("exists", "false", arguments), (Some(Unjudged), Holds), "{arguments}");
    }
    for arguments in ["{}", r#"{"a":null}"#, r#"{"a":{}}"#] {
        assert_eq!(truths("eq", "1", arguments), (Some(Missing), Missing), "{arguments}");
        assert_eq!(truths("exists", "false", arguments), (Some(Holds), Holds), "{arguments}");
    }
}

/// Most servers read numbers as binary64: to them these are the very number that the rule names.
#[test]
fn a_number_that_rounds_to_the_policys_cannot_be_judged() {
    for (bound, near) in [
        ("42", "42.00000000000000000001"),
        ("42", "41.99999999999999999999"),
        ("9007199254740992", "9007199254740992.5"),
        ("-0.1", "-0.10000000000000000001"),
    ] {
        for operator in ["eq", "neq", "lt", "gte"] {
            assert_rows(operator, bound, &[(near, Unjudged, Unjudged)]);
        }
        for operator in ["in", "not_in"] {
            assert_rows(operator, &format!("[7, {bound}]"), &[(near, Unjudged, Unjudged)]);
        }
        let list = format!("[{near}, 7]");
        assert_rows("contains", bound, &[(&list, Unjudged, Unjudged)]);
    }
    assert_rows("eq", "0.3", &[("0.30000000000000004", Fails, Fails)]);
    assert_rows("eq", "42", &[("42.000000000000000000000000", Holds, Holds)]);
    assert_rows("in", "[42, 7]", &[("7", Holds, Holds)]);
}
