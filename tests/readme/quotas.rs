//! The page for authors of policies: its samples load, their cases pass, and its tables say what the code does.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use mcp_authz_core::{
    decision::Decision,
    document::{Defect, Format},
    number::{AMOUNT_MAX, SCALE_MAX},
    policy::{self, Call, Policy, Source},
    principal::Principal,
    quota::{BUCKETS_MAX, Charge, LINES_MAX},
};
use serde_json::{Value, json};

use super::{Block, blocks_of, root, spans, table_in};

const QUOTAS: &str = include_str!("../../policies/QUOTAS.md");

/// The samples in files, each under its name.
fn write_samples(folder: &Path) -> usize {
    let samples: Vec<Block> = blocks_of(QUOTAS).into_iter().filter(|block| block.name != "sh test").collect();
    for Block { name, text } in &samples {
        let Some(("yaml", file)) = name.split_once(' ') else { panic!("no test checks the block `{name}`") };
        assert!(!folder.join(file).exists(), "two blocks `{name}`");
        std::fs::write(folder.join(file), text).unwrap();
    }
    samples.len()
}

pub(super) fn run(folder: &Path, line: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_mcp-authz"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh").args(["-ec", line]).current_dir(folder).env("PATH", path).output().unwrap();
    let said: String =
        [&output.stdout, &output.stderr].into_iter().map(|bytes| String::from_utf8_lossy(bytes)).collect();
    assert!(output.status.success(), "{line}: {said}");
    said
}

#[test]
fn the_samples_of_quotas_load_and_their_cases_pass() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let written = write_samples(&policies);
    let files = |suffix: &str| {
        let names =
            std::fs::read_dir(&policies).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(suffix)).count()
    };
    assert_eq!(files(".test.yaml") * 2, written, "each sample has its cases");
    let commands = blocks_of(QUOTAS).into_iter().find(|block| block.name == "sh test").unwrap().text;
    let mut lines = commands.lines();
    let mut next = || run(folder.path(), lines.next().unwrap());
    let checked = next();
    assert!(checked.ends_with("0 defects, 0 warnings\n"), "{checked}");
    let tested = next();
    assert!(tested.ends_with("passed, 0 failed\n") && tested.lines().count() == 1, "{tested}");
    let told = next();
    assert!(told.starts_with("allow\n  charge   12.50 of 500 per day Europe/Berlin"), "{told}");
    assert_eq!(lines.next(), None);
}

#[test]
fn links_of_quotas_lead_somewhere() {
    for link in QUOTAS.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        assert!(root().join("policies").join(link).exists(), "no file {link}");
    }
}

fn compile(document: &Value) -> Result<Policy, Vec<Defect>> {
    let bytes = document.to_string();
    let source = Source { id: "p", file: "p.json", bytes: bytes.as_bytes(), format: Format::Json };
    Policy::compile(&source).map(|compiled| compiled.policy)
}

fn limit(changes: &[(&str, Value)]) -> Value {
    let mut limit = json!({"counter": "c", "window": "day", "scope": "grant", "max": 5});
    for (key, value) in changes {
        limit[key] = value.clone();
    }
    json!({"version": "2", "default": "deny", "tools": {"t": {"limits": [limit]}}})
}

/// What a limit with these changes charges.
fn charge(changes: &[(&str, Value)]) -> Charge {
    let policy = compile(&limit(changes)).unwrap_or_else(|defects| panic!("{changes:?}: {defects:?}"));
    let arguments = mcp_authz_core::json::Document::parse(b"{\"n\":1}", Default::default()).unwrap();
    match policy.decide(&Principal::of_grant("g"), &Call::of("t", Some(arguments.root()))) {
        Decision::Proceed(mut charges) => charges.remove(0),
        Decision::Deny(denial) => panic!("{changes:?}: {denial:?}"),
    }
}

/// The keys that the code knows, as its advice lists them.
fn known(document: &Value) -> BTreeSet<String> {
    let defects = compile(document).unwrap_err();
    let hint =
        defects.iter().find(|defect| defect.message.contains("zzzzzzzzzz")).and_then(|defect| defect.hint.clone());
    spans(&hint.unwrap()).into_iter().map(str::to_owned).collect()
}

#[test]
fn the_keys_of_limits_are_those_of_the_code() {
    let rows = table_in(QUOTAS, "All keys of a limit", "key");
    let documented: BTreeSet<String> = rows.iter().map(|row| spans(&row[0])[0].to_owned()).collect();
    assert_eq!(documented, known(&limit(&[("zzzzzzzzzz", json!(1))])));
    let is_of_counter = |row: &&Vec<String>| row[2].ends_with("of the counter") || row[3].starts_with("of the counter");
    let of_counter = rows.iter().filter(is_of_counter);
    let of_counter: BTreeSet<String> = of_counter.map(|row| spans(&row[0])[0].to_owned()).collect();
    let counters = json!({"version": "2", "default": "deny", "counters": {"c": {"zzzzzzzzzz": 1}}});
    assert_eq!(of_counter, known(&counters));
    for row in &rows {
        let key = spans(&row[0])[0];
        let Some(default) = spans(&row[2]).first().copied() else {
            if row[2].starts_with("required") {
                let mut document = limit(&[]);
                document["tools"]["t"]["limits"][0].as_object_mut().unwrap().remove(key);
                assert!(compile(&document).is_err(), "{key} is not required");
            }
            continue;
        };
        let default = serde_json::from_str(default).unwrap_or_else(|_| json!(default));
        // What the key needs beside it, written or not.
        let beside: &[(&str, Value)] = match key {
            "week_start" => &[("window", json!("week"))],
            "on_missing" | "min_increment" => &[("increment_from", json!("args.n"))],
            _ => &[],
        };
        assert_eq!(charge(&[beside, &[(key, default)]].concat()), charge(beside), "{key}");
    }
    // Every word of a closed set is one.
    for (key, beside) in [("mode", "max"), ("on_unavailable", "max"), ("on_expiry", "max"), ("count_on", "max")] {
        let row = rows.iter().find(|row| spans(&row[0])[0] == key).unwrap();
        for word in spans(&row[1]) {
            let mut document = limit(&[(key, json!(word))]);
            if word == "track" {
                document["tools"]["t"]["limits"][0].as_object_mut().unwrap().remove(beside);
            }
            assert!(compile(&document).is_ok(), "{key}: {word}");
        }
    }
}

#[test]
fn windows_and_scopes_are_those_of_the_code() {
    let value = |text: &str| -> Value {
        // `{sliding: 15m}` as YAML writes it.
        let yaml = format!(
            "version: '2'\ndefault: deny\ntools: {{t: {{limits: [{{counter: c, max: 20, scope: grant, window: {text}}}]}}}}\n"
        );
        let source = Source { id: "p", file: "p.yaml", bytes: yaml.as_bytes(), format: Format::Yaml };
        Policy::compile(&source).unwrap_or_else(|defects| panic!("{text}: {defects:?}"));
        json!(text)
    };
    for row in table_in(QUOTAS, "Which window", "window") {
        assert!(spans(&row[0]).into_iter().map(value).count() > 0);
    }
    let documented: BTreeSet<String> =
        table_in(QUOTAS, "Who shares a counter", "scope").iter().map(|row| spans(&row[0])[0].to_owned()).collect();
    let defects = compile(&limit(&[("scope", json!("zzzzzzzzzz"))])).unwrap_err();
    let (known, _) = defects[0].message.split_once(", found").unwrap();
    assert_eq!(documented, spans(known).into_iter().map(str::to_owned).collect());
}

#[test]
fn the_bounds_of_quotas_are_those_of_the_code() {
    for text in [
        format!(
            "at most {} counters; a tool and `all_tools` have at most {} limits",
            policy::COUNTERS_MAX,
            policy::LIMITS_MAX
        ),
        format!("a call touches at most {LINES_MAX} counters"),
        format!("0 to {AMOUNT_MAX}"),
        format!("0 to {SCALE_MAX}"),
        format!("`buckets: 1` to `{BUCKETS_MAX}`"),
        "from `1ms` to `366d`".to_owned(),
    ] {
        assert!(QUOTAS.contains(&text), "the page does not say `{text}`");
    }
}
