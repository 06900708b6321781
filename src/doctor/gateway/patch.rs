//! EnvoyPatchPolicy: as much of JSONPath as a patch of filters and routes needs.

use serde_json::Value;

use super::Objects;

/// One step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// `.name`
    Member(&'a str),
    /// `..name`
    Anywhere(&'a str),
    /// `[*]`
    Each,
    /// `[?(@.name =~ 'text')]`, text without any sign of a pattern.
    Named(&'a str),
}

/// Applies every patch; gives those that are not understood, or change nothing.
pub(super) fn apply(objects: &Objects<'_>, listener: &mut Value, table: &mut Value) -> Vec<Value> {
    let mut gaps = Vec::new();
    for policy in objects.of("EnvoyPatchPolicy") {
        for patch in policy.items("json_patches") {
            let target = match patch.text("type").and_then(|url| url.rsplit('.').next()) {
                Some("Listener") => &mut *listener,
                Some("RouteConfiguration") => &mut *table,
                Some(_) | None => {
                    gaps.push(patch.value().clone());
                    continue;
                }
            };
            if one(target, patch.value()).is_none() {
                gaps.push(patch.value().clone());
            }
        }
    }
    gaps
}

fn one(target: &mut Value, patch: &Value) -> Option<()> {
    let operation = patch.get("operation")?;
    let text = |key| operation.get(key).and_then(Value::as_str);
    let mut steps = match text("jsonPath") {
        Some(path) => steps(path)?,
        None => Vec::new(),
    };
    let tail: Vec<&str> =
        text("path").map(|path| path.trim_start_matches('/').split('/').collect()).unwrap_or_default();
    steps.extend(tail.into_iter().map(Step::Member));
    let (last, way) = match steps.split_last()? {
        (Step::Member(last), way) => (*last, way),
        (_, _) => return None,
    };
    let (op, value) = (text("op")?, operation.get("value"));
    let mut done = 0usize;
    visit(target, way, &mut |found| {
        let changed = match (op, value, found) {
            ("add" | "replace", Some(value), Value::Object(map)) => {
                map.insert(last.to_owned(), value.clone());
                true
            }
            ("remove", None, Value::Object(map)) => map.remove(last).is_some(),
            ("add", Some(value), Value::Array(list)) => match (last, last.parse::<usize>()) {
                ("-", _) => {
                    list.push(value.clone());
                    true
                }
                (_, Ok(at)) if at <= list.len() => {
                    list.insert(at, value.clone());
                    true
                }
                (_, _) => false,
            },
            (_, _, _) => false,
        };
        done = done.saturating_add(usize::from(changed));
    });
    (done > 0).then_some(())
}

fn visit(value: &mut Value, way: &[Step<'_>], act: &mut dyn FnMut(&mut Value)) {
    let Some((step, rest)) = way.split_first() else { return act(value) };
    match step {
        Step::Member(name) => {
            let found = if value.is_array() {
                name.parse::<usize>().ok().and_then(|at| value.get_mut(at))
            } else {
                value.get_mut(*name)
            };
            if let Some(found) = found {
                visit(found, rest, act);
            }
        }
        Step::Each => value.as_array_mut().into_iter().flatten().for_each(|found| visit(found, rest, act)),
        Step::Named(text) => {
            let named =
                |found: &Value| found.get("name").and_then(Value::as_str).is_some_and(|name| name.contains(text));
            let list = value.as_array_mut().into_iter().flatten();
            list.filter(|found| named(found)).for_each(|found| visit(found, rest, act));
        }
        Step::Anywhere(name) => {
            if let Some(found) = value.get_mut(*name) {
                visit(found, rest, act);
            }
            match value {
                Value::Array(list) => list.iter_mut().for_each(|inner| visit(inner, way, act)),
                Value::Object(map) => map.values_mut().for_each(|inner| visit(inner, way, act)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
    }
}

fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut rest = path.strip_prefix('$')?;
    let mut out = Vec::new();
    let name = |text: &str| text.find(['.', '[']).unwrap_or(text.len());
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            let (word, after) = after.split_at_checked(name(after))?;
            out.push(Step::Anywhere(word));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('.') {
            let (word, after) = after.split_at_checked(name(after))?;
            out.push(Step::Member(word));
            rest = after;
        } else if let Some(after) = rest.strip_prefix("[*]") {
            out.push(Step::Each);
            rest = after;
        } else {
            let (text, after) = rest.strip_prefix("[?(@.name =~ '")?.split_once("')]")?;
            if !text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '-')) {
                return None;
            }
            out.push(Step::Named(text));
            rest = after;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_is_read_or_refused() {
        let read = steps("$..http_filters[?(@.name =~ 'ext_authz/')].typed_config").expect("a path");
        assert_eq!(read, [Step::Anywhere("http_filters"), Step::Named("ext_authz/"), Step::Member("typed_config")]);
        for odd in ["a", "$[0]", "$[?(@.name == 'a')]", "$[?(@.name =~ '.*')]"] {
            assert_eq!(steps(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_patch_that_changes_nothing_is_not_done() {
        let mut value = json!({"a": [{"name": "x/1", "c": {}}, {"name": "y"}]});
        let patch = |path: &str, op: &str, value: Value| json!({"operation": {"op": op, "jsonPath": path, "path": "/d", "value": value}});
        assert_eq!(one(&mut value, &patch("$.a[?(@.name =~ 'x/')].c", "add", json!(1))), Some(()));
        assert_eq!(value["a"][0]["c"]["d"], 1);
        assert_eq!(one(&mut value, &patch("$.b", "add", json!(1))), None);
        let remove = json!({"operation": {"op": "remove", "jsonPath": "$.a[*].c"}});
        assert_eq!(one(&mut value, &remove), Some(()));
        assert_eq!(one(&mut value, &remove), None);
    }
}
