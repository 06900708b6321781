use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::json::{Document, Limits};

fn paths(texts: &[&str]) -> Vec<Path> {
    texts.iter().map(|text| Path(text.split('.').map(Box::from).collect())).collect()
}

fn of_text(text: &str, ignore: &[&str]) -> Fingerprint {
    let document = Document::parse(text.as_bytes(), Limits::default()).unwrap();
    of("t", Some(document.root()), &paths(ignore))
}

#[test]
fn spelling_changes_nothing() {
    for (a, b) in [
        (r#"{"a":1,"b":{"c":2,"d":[3]}}"#, r#" { "b" : {"d":[3.0],"c":2e0} , "a" : 1.00 } "#),
        (r#"{"a":"é\n"}"#, "{\"\\u0061\":\"\\u00e9\\u000a\"}"),
        (r#"{"a":100}"#, r#"{"a":1e2}"#),
        (r#"{"a":0}"#, r#"{"a":-0.00e99999999999999999999999999}"#),
        (r#"{"a":0.001}"#, r#"{"a":1E-03}"#),
        (r#"{"a":1e400}"#, r#"{"a":10e+399}"#),
    ] {
        assert_eq!(of_text(a, &[]), of_text(b, &[]), "{a} {b}");
    }
    let long = format!("{{\"a\":1.{}}}", "0".repeat(500));
    assert_eq!(of_text(&long, &[]), of_text(r#"{"a":1}"#, &[]));
    assert_eq!(of("t", None, &[]), of_text("{}", &[]));
}

#[test]
fn any_other_difference_counts() {
    let all = [
        "{}",
        r#"{"a":1}"#,
        r#"{"a":-1}"#,
        r#"{"a":10}"#,
        r#"{"a":0.1}"#,
        r#"{"a":0}"#,
        r#"{"a":"1"}"#,
        r#"{"a":[1]}"#,
        r#"{"a":[[1]]}"#,
        r#"{"a":[1,1]}"#,
        r#"{"a":{"a":1}}"#,
        r#"{"a":null}"#,
        r#"{"a":true}"#,
        r#"{"a":false}"#,
        r#"{"a":""}"#,
        r#"{"a":[]}"#,
        r#"{"a":{}}"#,
        r#"{"b":1}"#,
        r#"{"a":1,"b":1}"#,
        r#"{"a":[1,2]}"#,
        r#"{"a":[2,1]}"#,
        r#"{"a":9007199254740993}"#,
        r#"{"a":9007199254740992}"#,
        r#"{"a":1e99999999999999999999999999999999999999999}"#,
        r#"{"a":1e99999999999999999999999999999999999999998}"#,
    ];
    for (index, one) in all.iter().enumerate() {
        for other in all.iter().skip(index + 1) {
            assert_ne!(of_text(one, &[]), of_text(other, &[]), "{one} {other}");
        }
    }
    assert_ne!(of("t", None, &[]), of("u", None, &[]));
}

#[test]
fn what_is_ignored_makes_no_difference() {
    let ignore = ["at", "meta.id"];
    let plain = of_text(r#"{"a":1,"meta":{"x":1}}"#, &ignore);
    for text in [
        r#"{"a":1,"at":5,"meta":{"x":1}}"#,
        r#"{"at":{"a":1},"a":1,"meta":{"id":[1],"x":1}}"#,
        r#"{"a":1,"meta":{"x":1,"\u0069d":null}}"#,
    ] {
        assert_eq!(of_text(text, &ignore), plain, "{text}");
    }
    // Only at that path, and not below a list.
    for text in [r#"{"a":1,"id":1,"meta":{"x":1}}"#, r#"{"a":1,"meta":{"x":1,"at":1}}"#, r#"{"a":1,"meta":[{"x":1}]}"#]
    {
        assert_ne!(of_text(text, &ignore), plain, "{text}");
    }
    assert_ne!(of_text(r#"{"l":[{"at":1}]}"#, &["l.at"]), of_text(r#"{"l":[{"at":2}]}"#, &["l.at"]));
}

fn tree() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        (-50i64..50).prop_map(Json::from),
        "[a-c\"\\\\é\n]{0,3}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[a-d]{1,2}", inner, 0..4)
                .prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Json> {
    prop::collection::btree_map("[a-d]{1,2}", tree(), 0..5).prop_map(|map| Json::Object(map.into_iter().collect()))
}

/// The same value, spelled otherwise: members turned around, numbers as fractions or with exponents, texts escaped.
fn respelled(value: &Json, out: &mut String) {
    match value {
        Json::Array(items) => {
            out.push_str("[ ");
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { " ,\n" } else { "" });
                respelled(item, out);
            }
            out.push(']');
        }
        Json::Object(members) => {
            out.push('{');
            for (index, (key, item)) in members.iter().rev().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                escaped(key, out);
                out.push(':');
                respelled(item, out);
            }
            out.push_str("\t}");
        }
        Json::Number(number) => {
            let integer = number.as_i64().unwrap();
            out.push_str(&if integer % 2 == 0 { format!("{integer}.00") } else { format!("{integer}0e-1") });
        }
        Json::String(text) => escaped(text, out),
        Json::Bool(_) | Json::Null => out.push_str(&value.to_string()),
    }
}

fn escaped(text: &str, out: &mut String) {
    out.push('"');
    for unit in text.encode_utf16() {
        out.push_str(&format!("\\u{unit:04x}"));
    }
    out.push('"');
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_value_has_one_fingerprint_however_it_is_spelled(value in object()) {
        let mut other = String::new();
        respelled(&value, &mut other);
        prop_assert_eq!(of_text(&value.to_string(), &[]), of_text(&other, &[]), "{}", other);
    }

    #[test]
    fn two_values_have_two(a in object(), b in object()) {
        prop_assert_eq!(a == b, of_text(&a.to_string(), &[]) == of_text(&b.to_string(), &[]));
    }

    #[test]
    fn an_ignored_member_may_be_anything_or_missing(value in object(), a in tree(), key in "[a-d]{1,2}") {
        let (mut with, mut without) = (value.clone(), value);
        with.as_object_mut().unwrap().insert(key.clone(), a);
        without.as_object_mut().unwrap().remove(&key);
        prop_assert_eq!(of_text(&with.to_string(), &[&key]), of_text(&without.to_string(), &[&key]));
    }
}
