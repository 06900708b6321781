//! The policy language once more, as simply as it can be said: over trees of serde_json, strict reading only.
//!
//! `None` is a question that this model does not answer: numbers that are no integers up to 2^53, and patterns that are more
//! than a literal with anchors.

use mcp_authz_core::number::AMOUNT_MAX;
use serde_json::{Map, Number, Value};

use crate::evaluate::REQUEST_BYTES;

/// What one condition says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Holds,
    Fails,
    Missing,
    Unjudged,
}

/// Whether the policy lets a call of the tool go ahead while no counter is used up.
pub(crate) fn allows(policy: &Value, tool: &str, arguments: Option<&Value>) -> Option<bool> {
    if policy.get("compat").is_some() {
        return None;
    }
    let hidden =
        policy.get("hide").and_then(Value::as_array).into_iter().flatten().any(|name| name == "*" || name == tool);
    let rules = policy.get("tools").and_then(|tools| tools.get(tool));
    if hidden || (rules.is_none() && policy.get("default")? != "allow") {
        return Some(false);
    }
    for rule in list(rules, "require") {
        for condition in list(Some(rule), "conditions") {
            if says(condition, arguments)? != Says::Holds {
                return Some(false);
            }
        }
    }
    for rule in list(rules, "deny_if") {
        let said: Option<Vec<Says>> =
            list(Some(rule), "conditions").into_iter().map(|condition| says(condition, arguments)).collect();
        let said = said?;
        if said.contains(&Says::Unjudged) || said.iter().all(|one| *one == Says::Holds) {
            return Some(false);
        }
    }
    for limit in list(rules, "limits").into_iter().chain(list(policy.get("all_tools"), "limits")) {
        if !fits(policy, limit, arguments)? {
            return Some(false);
        }
    }
    Some(true)
}

fn list<'a>(of: Option<&'a Value>, name: &str) -> Vec<&'a Value> {
    of.and_then(|of| of.get(name)?.as_array()).into_iter().flatten().collect()
}

/// Limits with decimal places and lengths of texts are not modeled.
fn fits(policy: &Value, limit: &Value, arguments: Option<&Value>) -> Option<bool> {
    let name = limit.get("counter")?.as_str()?;
    let counter = policy.get("counters").and_then(|counters| counters.get(name)).unwrap_or(limit);
    if counter.get("scale").is_some_and(|scale| scale != 0) {
        return None;
    }
    let mode = limit.get("mode").and_then(Value::as_str);
    if mode == Some("gate") {
        return Some(limit.get("max")?.as_u64()? > 0);
    }
    let amount = match limit.get("increment_from").map(|from| from.as_str()) {
        None => Some(1),
        Some(from) => amount(from?, limit, arguments)?,
    };
    let least = limit.get("min_increment").map_or(Some(0), Value::as_u64)?;
    let Some(amount) = amount.map(|amount| amount.max(least)) else { return Some(false) };
    if mode == Some("track") { Some(true) } else { Some(amount <= limit.get("max")?.as_u64()?) }
}

/// The inner `None`: no amount.
fn amount(from: &str, limit: &Value, arguments: Option<&Value>) -> Option<Option<u64>> {
    if from == "request.bytes" {
        return Some(Some(REQUEST_BYTES));
    }
    let count = from.strip_prefix("count(").and_then(|rest| rest.strip_suffix(')'));
    if from.contains('(') && count.is_none() {
        return None;
    }
    match find(count.unwrap_or(from), arguments) {
        Ok(Value::Null) | Err(Says::Missing) => match limit.get("on_missing") {
            Some(Value::Number(number)) => Some(Some(number.as_u64()?)),
            _ => Some(None),
        },
        Ok(Value::Array(items)) if count.is_some() => Some(u64::try_from(items.len()).ok()),
        Ok(Value::Number(number)) if count.is_none() => {
            number.as_i64().map(|amount| u64::try_from(amount).ok().filter(|amount| *amount <= AMOUNT_MAX))
        }
        Ok(_) | Err(_) => Some(None),
    }
}

/// The value at the path, or what is said where there is none: a value in the way that is no object might be one to the
/// upstream, which nobody can judge.
fn find<'a>(path: &str, arguments: Option<&'a Value>) -> Result<&'a Value, Says> {
    let mut value = arguments.ok_or(Says::Missing)?;
    for name in path.split('.').skip(1) {
        value = match value {
            Value::Object(members) => members.get(name).ok_or(Says::Missing)?,
            Value::Null => return Err(Says::Missing),
            Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(Says::Unjudged),
        };
    }
    Ok(value)
}

fn says(condition: &Value, arguments: Option<&Value>) -> Option<Says> {
    let (operator, wanted) = (condition.get("op")?.as_str()?, condition.get("value")?);
    let value = match find(condition.get("path")?.as_str()?, arguments) {
        Ok(value) => value,
        Err(Says::Missing) if operator == "exists" => return Some(truth(Some(wanted == false))),
        Err(other) => return Some(other),
    };
    let holds = match operator {
        "eq" => equal(value, wanted)?,
        "neq" => equal(value, wanted)?.map(|equal| !equal),
        "in" => among(value, wanted.as_array()?)?,
        "not_in" => among(value, wanted.as_array()?)?.map(|found| !found),
        "gt" | "gte" | "lt" | "lte" => order(operator, value, wanted)?,
        "exists" => match (value, wanted == true) {
            (Value::Null, true) => Some(false),
            (Value::Null, false) => None,
            (_, wanted) => Some(wanted),
        },
        "contains" => contains(value, wanted)?,
        "regex" => matches(value, wanted.as_str()?)?,
        _ => return None,
    };
    Some(truth(holds))
}

fn truth(holds: Option<bool>) -> Says {
    match holds {
        Some(true) => Says::Holds,
        Some(false) => Says::Fails,
        None => Says::Unjudged,
    }
}

/// The inner `None`: of different types, so nobody can say.
fn equal(value: &Value, wanted: &Value) -> Option<Option<bool>> {
    Some(match (value, wanted) {
        (Value::Bool(a), Value::Bool(b)) => Some(a == b),
        (Value::String(a), Value::String(b)) => Some(a == b),
        (Value::Number(a), Value::Number(b)) => Some(integer(a)? == integer(b)?),
        _ => None,
    })
}

/// An integer that every server reads alike.
fn integer(number: &Number) -> Option<i64> {
    number.as_i64().filter(|integer| integer.unsigned_abs() <= 1 << 53)
}

fn among(value: &Value, wanted: &[Value]) -> Option<Option<bool>> {
    let answers: Option<Vec<_>> = wanted.iter().map(|one| equal(value, one)).collect();
    Some(answers?.into_iter().flatten().reduce(|a, b| a || b))
}

fn order(operator: &str, value: &Value, wanted: &Value) -> Option<Option<bool>> {
    let (Value::Number(a), Value::Number(b)) = (value, wanted) else { return Some(None) };
    let (a, b) = (integer(a)?, integer(b)?);
    Some(Some(match operator {
        "gt" => a > b,
        "gte" => a >= b,
        "lt" => a < b,
        _ => a <= b,
    }))
}

fn contains(value: &Value, wanted: &Value) -> Option<Option<bool>> {
    match (value, wanted) {
        (Value::String(text), Value::String(part)) => Some(Some(text.contains(part))),
        (Value::Array(items), _) => {
            let answers: Option<Vec<_>> = items.iter().map(|item| equal(item, wanted)).collect();
            let answers = answers?;
            let unknown = answers.contains(&None);
            let found = answers.contains(&Some(true));
            Some(if found || !unknown { Some(found) } else { None })
        }
        _ => Some(None),
    }
}

fn matches(value: &Value, pattern: &str) -> Option<Option<bool>> {
    let Value::String(text) = value else { return Some(None) };
    let (start, rest) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let (end, literal) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
    if !literal.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'/' || b == b' ') || text.len() > 65_536 {
        return None;
    }
    Some(Some(match (start, end) {
        (true, true) => text == literal,
        (true, false) => text.starts_with(literal),
        (false, true) => text.ends_with(literal),
        (false, false) => text.contains(literal),
    }))
}

/// The arguments with the members of every object in the opposite order: the same call.
pub(crate) fn reversed(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(reversed).collect::<Vec<_>>().join(" , ")),
        Value::Object(members) => reversed_members(members),
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

fn reversed_members(members: &Map<String, Value>) -> String {
    let all: Vec<String> = members
        .iter()
        .map(|(name, value)| format!("{} : {}", Value::String(name.clone()), reversed(value)))
        .rev()
        .collect();
    format!("{{{}}}", all.join(" , "))
}
