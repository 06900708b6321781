//! The values: each is explained, the README shows them, and the schema knows them and nothing else.

use serde_json::{Value, json};

use super::chart::{chart, refusal, scenarios};

/// A value that has no values below it.
#[derive(Debug)]
struct Row {
    path: String,
    default: String,
    meaning: String,
}

/// Every value of values.yaml in order, from its comment and its line.
fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let (mut rows, mut place, mut comment): (Vec<Row>, Vec<String>, Vec<String>) = (Vec::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        let word = line.trim();
        if word.is_empty() {
            assert!(comment.is_empty(), "a comment without a value: {comment:?}");
        } else if let Some(text) = word.strip_prefix('#') {
            comment.push(text.trim().to_owned());
        } else if word.starts_with('{') {
            let last = rows.last_mut().unwrap();
            assert!(last.default.is_empty(), "{word} continues nothing");
            word.clone_into(&mut last.default);
        } else {
            let depth = line.len().checked_sub(line.trim_start().len()).unwrap().div_euclid(2);
            let (key, default) = word.split_once(':').unwrap();
            place.truncate(depth);
            place.push(key.to_owned());
            if comment.is_empty() {
                assert!(default.is_empty(), "{} has no comment", place.join("."));
                continue;
            }
            let meaning = std::mem::take(&mut comment).join(" ");
            rows.push(Row { path: place.join("."), default: default.trim().to_owned(), meaning });
        }
    }
    rows
}

/// The table of the README.
fn table() -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let lines = rows()
        .into_iter()
        .map(|row| format!("| `{}` | `{}` | {} |\n", row.path, cell(&row.default), cell(&row.meaning)));
    format!("| value | default | meaning |\n|---|---|---|\n{}", lines.collect::<String>())
}

/// `MCP_AUTHZ_GOLDEN=write cargo test --test helm values` writes it anew.
#[test]
fn the_readme_shows_every_value() {
    let file = chart().join("README.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = page.split_once("| value | default | meaning |\n").unwrap();
    let after = rest.lines().find(|line| !line.starts_with('|')).map_or("", |line| {
        let at = rest.find(&format!("|\n{line}\n")).unwrap().checked_add(2).unwrap();
        rest.get(at..).unwrap()
    });
    let expected = format!("{before}{}{after}", table());
    if std::env::var_os("MCP_AUTHZ_GOLDEN").is_some_and(|word| word == "write") {
        std::fs::write(&file, &expected).unwrap();
    }
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page == expected, "values.yaml says something else: MCP_AUTHZ_GOLDEN=write cargo test --test helm values");
}

#[test]
fn comments_are_sentences() {
    for row in rows() {
        assert!(row.meaning.ends_with('.') && row.meaning.len() > 10, "{}: {}", row.path, row.meaning);
        assert!(!row.default.is_empty(), "{} has no default", row.path);
    }
}

/// Every path that a schema allows, as far as it names members.
fn paths(schema: &Value, above: &str, out: &mut Vec<String>) {
    match schema.get("properties").and_then(Value::as_object) {
        Some(members)
            if schema["additionalProperties"] == false && (above.is_empty() || schema.get("description").is_none()) =>
        {
            for (key, member) in members {
                let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
                paths(member, &path, out);
            }
        }
        _ => out.push(above.to_owned()),
    }
}

#[test]
fn the_schema_knows_the_values_and_nothing_else() {
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap();
    let mut known = Vec::new();
    paths(&schema, "", &mut known);
    known.retain(|path| path != "global");
    known.sort();
    let mut values: Vec<String> = rows().into_iter().map(|row| row.path).collect();
    values.sort();
    assert_eq!(known, values);
    let text = schema.to_string();
    for row in rows() {
        let description = Value::String(row.meaning.clone()).to_string();
        assert!(text.contains(&description), "the schema says something else of {}", row.path);
    }
}

#[test]
fn typos_and_wrong_types_are_refused() {
    for (values, message) in [
        (json!({"replica": 2}), "additional properties 'replica' not allowed"),
        (json!({"grpc.tls.existingSecrets": "a"}), "additional properties 'existingSecrets' not allowed"),
        (json!({"quotas.redis.password": "secret"}), "additional properties 'password' not allowed"),
        (json!({"mode": "statefulset"}), "/mode"),
        (json!({"replicas": "two"}), "/replicas"),
        (json!({"replicas": 0}), "/replicas"),
        (json!({"quotas.engine": "memory"}), "/quotas/engine"),
        (json!({"image.digest": "sha256:abc"}), "/image/digest"),
        (json!({"policies.inline": {"demo.txt": "x"}}), "invalid propertyName 'demo.txt'"),
        (json!({"policies.inline": {"demo.json": {"version": "1"}}}), "/policies/inline/demo.json"),
        (json!({"telemetry.tracesRatio": 2}), "/telemetry/tracesRatio"),
        (json!({"quotas.redis.durability": "wait:11"}), "/quotas/redis/durability"),
        (json!({"networkPolicy.envoyPeers": []}), "/networkPolicy/envoyPeers"),
        (json!({"credentials": {"demo": {"name": "x"}}}), "/credentials/demo"),
        (json!({"grpc.port": 80}), "/grpc/port"),
    ] {
        let said = refusal("quickstart", &values);
        assert!(said.contains("values don't meet the specifications of the schema"), "{values}: {said}");
        assert!(said.contains(message), "{values}: {said}");
    }
}

#[test]
fn scenarios_start_with_what_they_are_for() {
    for name in scenarios() {
        let text = std::fs::read_to_string(super::chart::scenario(&name)).unwrap();
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("# ") && first.ends_with('.'), "{name}: {first}");
    }
}
