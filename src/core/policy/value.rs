//! The value of a condition: which values an operator takes, and where `compat: lenient` would judge differently.

use super::Section;
use super::compile::VALUES_MAX;
use super::condition::{Compat, Order, Scalar, Test};
use crate::document::{Cursor, Shape, quoted};
use crate::number::Decimal;
use crate::pattern::Pattern;

/// Every operator.
pub(super) const OPERATORS: &[&str] =
    &["eq", "neq", "lt", "lte", "gt", "gte", "in", "not_in", "exists", "regex", "contains"];

/// Reads the value that an operator needs; notes a defect for any other.
pub(super) fn read_test(operator: &str, cursor: &Cursor<'_>, compat: Compat) -> Option<Test> {
    match operator {
        "eq" => read_scalar(cursor, operator, compat).map(Test::Equal),
        "neq" => read_scalar(cursor, operator, compat).map(Test::NotEqual),
        "in" => read_list(cursor, operator).map(Test::In),
        "not_in" => read_list(cursor, operator).map(Test::NotIn),
        "lt" => read_bound(cursor, operator).map(|bound| Test::Order(Order::Less, bound)),
        "lte" => read_bound(cursor, operator).map(|bound| Test::Order(Order::LessOrEqual, bound)),
        "gt" => read_bound(cursor, operator).map(|bound| Test::Order(Order::Greater, bound)),
        "gte" => read_bound(cursor, operator).map(|bound| Test::Order(Order::GreaterOrEqual, bound)),
        "exists" => cursor.bool().map(Test::Exists),
        "regex" => read_pattern(cursor).map(|pattern| Test::Regex(Box::new(pattern))),
        _ => read_part(cursor, operator).map(Test::Contains),
    }
}

/// What `compat: lenient` does otherwise than the strict reading, where a verdict can differ.
pub(super) fn lenient_difference(test: &Test, section: Section) -> Option<&'static str> {
    const COERCES: &str = "takes values of other types that print alike for equal";
    const PASSES: &str = "lets values of other types pass";
    match (test, section) {
        (Test::Equal(wanted), Section::Require) => wanted.is_coercible().then_some(COERCES),
        (Test::In(list), Section::Require) => list.iter().any(Scalar::is_coercible).then_some(COERCES),
        (Test::NotEqual(wanted), Section::DenyIf) => wanted.is_coercible().then_some(COERCES),
        (Test::NotIn(list), Section::DenyIf) => list.iter().any(Scalar::is_coercible).then_some(COERCES),
        (Test::Contains(wanted), Section::Require) => wanted.is_coercible().then_some(COERCES),
        (Test::Contains(_) | Test::Equal(_) | Test::In(_) | Test::Order(..) | Test::Regex(_), Section::DenyIf)
        | (Test::NotEqual(_) | Test::NotIn(_), Section::Require) => Some(PASSES),
        (Test::Exists(false), Section::Require) => Some("takes null for a missing value"),
        (Test::Order(..) | Test::Regex(_) | Test::Exists(true), Section::Require)
        | (Test::Exists(_), Section::DenyIf) => None,
    }
}

fn read_number(cursor: &Cursor<'_>, literal: &str) -> Option<Decimal> {
    let number = Decimal::parse(literal).filter(Decimal::is_comparable);
    if number.is_none() {
        cursor.defect(format!("{} is no number that can be compared exactly", quoted(literal)));
    }
    number
}

fn read_bound(cursor: &Cursor<'_>, operator: &str) -> Option<Decimal> {
    if let Shape::Number(literal) = &cursor.node().shape {
        return read_number(cursor, literal);
    }
    cursor.expected(&format!("a number for `{operator}`"));
    None
}

/// A string, a number or a boolean.
fn read_scalar(cursor: &Cursor<'_>, operator: &str, compat: Compat) -> Option<Scalar> {
    match (&cursor.node().shape, compat) {
        (Shape::Bool(value), _) => Some(Scalar::Bool(*value)),
        (Shape::Null, Compat::Lenient) => Some(Scalar::Null),
        (Shape::Null, Compat::Strict) => {
            let message = format!("expected a string, number or boolean for `{operator}`, found null");
            cursor.defect_with_hint(message, "null equals nothing; ask with `exists` whether a value is there");
            None
        }
        (Shape::Number(literal), _) => {
            let value = read_number(cursor, literal)?;
            Some(Scalar::Number { value, text: literal.as_str().into() })
        }
        (Shape::String(text), _) => Some(Scalar::String(text.as_str().into())),
        (Shape::List(_) | Shape::Map(_), _) => {
            cursor.expected(&format!("a string, number or boolean for `{operator}`"));
            None
        }
    }
}

fn read_list(cursor: &Cursor<'_>, operator: &str) -> Option<Box<[Scalar]>> {
    if !matches!(cursor.node().shape, Shape::List(_)) {
        cursor.expected(&format!("a list for `{operator}`"));
        return None;
    }
    let items = cursor.items()?;
    if items.is_empty() {
        cursor.defect(format!("`{operator}` needs at least one value"));
        return None;
    }
    if items.len() > VALUES_MAX {
        cursor.defect(format!("has {} values, more than {VALUES_MAX}", items.len()));
        return None;
    }
    // Read all before giving up, so that every defect is told.
    let scalars: Vec<Option<Scalar>> = items.iter().map(|item| read_scalar(item, operator, Compat::Strict)).collect();
    scalars.into_iter().collect()
}

fn read_part(cursor: &Cursor<'_>, operator: &str) -> Option<Scalar> {
    let scalar = read_scalar(cursor, operator, Compat::Strict)?;
    if matches!(&scalar, Scalar::String(text) if text.is_empty()) {
        cursor.defect("the empty string is contained in every string");
        return None;
    }
    Some(scalar)
}

fn read_pattern(cursor: &Cursor<'_>) -> Option<Pattern> {
    let Shape::String(text) = &cursor.node().shape else {
        cursor.expected("a pattern as a string for `regex`");
        return None;
    };
    match Pattern::compile(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            cursor.defect(format!("invalid pattern: {error}"));
            None
        }
    }
}
