//! Just enough of PromQL to say which metrics, labels and values an expression names.

use std::collections::BTreeSet;

/// One `name{label="value"}`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) name: String,
    /// Label, operator and value.
    pub(crate) matchers: Vec<(String, String, String)>,
}

/// Words of the language; everything else that is no label is a metric.
const WORDS: &[&str] =
    &["and", "bool", "by", "group_left", "group_right", "ignoring", "offset", "on", "or", "unless", "without"];
const GROUPINGS: &[&str] = &["by", "group_left", "group_right", "ignoring", "on", "without"];

/// The selectors of an expression, and the labels that it groups by.
pub(crate) fn read(expr: &str) -> (Vec<Selector>, BTreeSet<String>) {
    let (mut selectors, mut groups) = (Vec::new(), BTreeSet::new());
    let mut rest = expr;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '[' || c == '"') {
        if rest[start..].starts_with('[') {
            rest = rest[start..].split_once(']').unwrap().1;
            continue;
        }
        assert!(!rest[start..].starts_with('"'), "a text that is no value of a label: {rest}");
        // The `e` of a number is none of ours.
        let begins = rest[..start].chars().next_back().is_none_or(|before| !before.is_ascii_digit());
        let end = rest[start..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
            .unwrap_or(rest.len() - start);
        let word = &rest[start..start + end];
        rest = &rest[start + end..];
        let after = rest.trim_start();
        if GROUPINGS.contains(&word) {
            let (inside, beyond) = after.strip_prefix('(').unwrap().split_once(')').unwrap();
            groups.extend(inside.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()));
            rest = beyond;
        } else if begins
            && !WORDS.contains(&word)
            && !["(", "by (", "without ("].iter().any(|open| after.starts_with(open))
        {
            let mut selector = Selector { name: word.to_owned(), ..Selector::default() };
            if let Some(inside) = rest.strip_prefix('{') {
                let (matchers, beyond) = matchers(inside);
                selector.matchers = matchers;
                rest = beyond;
            }
            selectors.push(selector);
        }
    }
    (selectors, groups)
}

fn matchers(mut rest: &str) -> (Vec<(String, String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(beyond) = rest.strip_prefix('}') {
            return (found, beyond);
        }
        let (label, after) = rest.split_at(rest.find(['=', '!']).unwrap());
        let (op, after) = after.split_at(after.find('"').unwrap());
        let (value, after) = after[1..].split_once('"').unwrap();
        found.push((label.trim().to_owned(), op.trim().to_owned(), value.to_owned()));
        rest = after;
    }
}

#[test]
fn what_an_expression_names_is_found() {
    let (selectors, groups) =
        read(r#"1e3 + sum by (job, le) (rate(a_total{x="1",y!~"2|3"}[5m])) > 0.5 and on (pod) b:c offset 5m"#);
    let matcher = |label: &str, op: &str, value: &str| (label.to_owned(), op.to_owned(), value.to_owned());
    let a = Selector { name: "a_total".to_owned(), matchers: vec![matcher("x", "=", "1"), matcher("y", "!~", "2|3")] };
    let b = Selector { name: "b:c".to_owned(), matchers: vec![] };
    assert_eq!(selectors, [a, b]);
    assert_eq!(groups.into_iter().collect::<Vec<_>>(), ["job", "le", "pod"]);
}
