//! The rules of `block_if` that ask for values: which values stand at a path, and what a rule says of them.

use super::path::{Path, Segment};
use super::rule::{ConditionRule, ResultCondition};
use super::walk::looks_like_json;
use super::{NESTED_MAX, TEXT_BYTES_MAX};
use crate::json::{Document, Kind, Limits, Value};
use crate::policy::{Compat, Truth};

/// Whether the rule withholds the message: every condition holds for one of its values, or one cannot be judged. As in
/// `deny_if`, the latter counts even beside one that fails.
pub(super) fn applies(rule: &ConditionRule, root: Value<'_>) -> bool {
    let mut hit = true;
    for condition in &rule.all {
        match judge(condition, root, rule.compat) {
            Truth::Fails | Truth::Missing => hit = false,
            Truth::Holds => {}
            Truth::Unjudged => return true,
        }
    }
    hit
}

/// One value for which it holds is enough.
fn judge(condition: &ResultCondition, root: Value<'_>, compat: Compat) -> Truth {
    let mut truth = Truth::Missing;
    let mut take = |found: Truth| {
        truth = match (truth, found) {
            (Truth::Holds, _) | (_, Truth::Holds) => Truth::Holds,
            (Truth::Unjudged, _) | (_, Truth::Unjudged) => Truth::Unjudged,
            (Truth::Fails, _) | (_, Truth::Fails) => Truth::Fails,
            (Truth::Missing, Truth::Missing) => Truth::Missing,
        };
    };
    for Path(segments) in &condition.paths {
        find(root, segments, (compat, 0), &mut |value| match value {
            Some(value) => take(condition.test.judge(Some(value), compat)),
            None => take(Truth::Unjudged),
        });
    }
    // Only now is it known that nothing stands at any of the paths.
    if truth == Truth::Missing { condition.test.judge(None, compat) } else { truth }
}

/// Hands over each value at the path, and `None` for something on the way that has no such step, while a client might find
/// some in it. Depth is bounded by the path and [`NESTED_MAX`].
fn find(
    value: Value<'_>,
    path: &[Segment],
    (compat, nested): (Compat, usize),
    take: &mut dyn FnMut(Option<Value<'_>>),
) {
    let Some((segment, rest)) = path.split_first() else { return take(Some(value)) };
    match (value.kind(), segment) {
        (Kind::Object, Segment::Name(name)) => {
            if let Some(member) = value.get(name) {
                find(member, rest, (compat, nested), take);
            }
        }
        (Kind::Object, Segment::Members) => {
            value.members().for_each(|(_, member)| find(member, rest, (compat, nested), take));
        }
        (Kind::Array, Segment::Elements) => {
            value.elements().for_each(|element| find(element, rest, (compat, nested), take));
        }
        (Kind::String, Segment::Name(name)) if **name == *"json" => inside(value, rest, (compat, nested), take),
        (Kind::Null, _) => {}
        (Kind::Array | Kind::False | Kind::Number | Kind::Object | Kind::String | Kind::True, _) => {
            if compat == Compat::Strict {
                take(None);
            }
        }
    }
}

/// The JSON text in a string. Another text has no values.
fn inside(
    value: Value<'_>,
    path: &[Segment],
    (compat, nested): (Compat, usize),
    take: &mut dyn FnMut(Option<Value<'_>>),
) {
    let text = value.as_str().unwrap_or_default();
    let limits = Limits { bytes_max: TEXT_BYTES_MAX, ..Limits::default() };
    match Document::parse(text.as_bytes(), limits) {
        Ok(_) if nested >= NESTED_MAX => take(None),
        Ok(document) => find(document.root(), path, (compat, nested.saturating_add(1)), take),
        Err(_) if looks_like_json(&text) => take(None),
        Err(_) => {}
    }
}
