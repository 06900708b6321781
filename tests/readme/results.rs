//! The page about results: its samples load, their cases pass, and its tables say what the code does.

use std::collections::BTreeSet;
use std::path::Path;

use mcp_authz_core::{
    document::Format,
    mask::{Detector, HITS_MAX, NESTED_MAX, NEW_FIELDS_MAX, TEXT_BYTES_MAX},
    policy::{HOSTS_MAX, MASK_TEXT_CHARS_MAX, Policy, RESULT_RULES_MAX, REVEALED_MAX, RULES_MAX, Source},
};

use super::quotas::run;
use super::{Block, blocks_of, root, spans, table_in};

const RESULTS: &str = include_str!("../../policies/RESULTS.md");

/// The samples in files, each under its name.
fn write_samples(folder: &Path) -> usize {
    let samples: Vec<Block> = blocks_of(RESULTS).into_iter().filter(|block| !block.name.starts_with("sh ")).collect();
    for Block { name, text } in &samples {
        let Some(("yaml", file)) = name.split_once(' ') else { panic!("no test checks the block `{name}`") };
        assert!(!folder.join(file).exists(), "two blocks `{name}`");
        std::fs::write(folder.join(file), text).unwrap();
    }
    samples.len()
}

#[test]
fn the_samples_of_results_load_and_their_cases_pass() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let written = write_samples(&policies);
    assert!(written >= 10 && written.is_multiple_of(2), "each sample has its cases");
    let commands = |name: &str| blocks_of(RESULTS).into_iter().find(|block| block.name == name).unwrap().text;
    let lines: Vec<String> = commands("sh test").lines().map(str::to_owned).collect();
    let checked = run(folder.path(), &lines[0]);
    assert!(checked.ends_with("0 defects, 0 warnings\n"), "{checked}");
    let tested = run(folder.path(), &lines[1]);
    assert!(tested.ends_with("passed, 0 failed\n") && tested.lines().count() == 1, "{tested}");
    assert_eq!(lines.len(), 2);
    std::fs::write(folder.path().join("result.json"), r#"{"content":[{"type":"text","text":"ACME-204417"}]}"#).unwrap();
    let shown = run(folder.path(), commands("sh preview").trim_end());
    assert!(shown.contains("\"text\":\"[customer]\"") && shown.ends_with("masked       1  /mask/1\n"), "{shown}");
}

#[test]
fn the_detectors_are_those_of_the_code() {
    let rows = table_in(RESULTS, "Detectors", "detector");
    let documented: Vec<&str> = rows.iter().map(|row| spans(&row[0])[0]).collect();
    let known: Vec<&str> = Detector::ALL.iter().map(|detector| detector.name()).collect();
    assert_eq!(documented, known);
}

/// The keys that the code knows, as its advice lists them.
fn known(place: &str) -> BTreeSet<String> {
    let text = format!("version: \"2\"\ndefault: allow\n{place}\n");
    let source = Source { id: "p", file: "p.yaml", bytes: text.as_bytes(), format: Format::Yaml };
    let defects = Policy::compile(&source).unwrap_err();
    let defect = defects.iter().find(|defect| defect.message.contains("zzzzzzzzzz")).unwrap();
    spans(defect.hint.as_deref().unwrap()).into_iter().map(str::to_owned).collect()
}

#[test]
fn the_keys_are_those_of_the_code() {
    let rows = table_in(RESULTS, "All keys", "key");
    let documented: BTreeSet<&str> = rows.iter().map(|row| spans(&row[0])[0]).collect();
    let below = |prefix: &str| -> BTreeSet<String> {
        documented.iter().filter_map(|key| key.strip_prefix(prefix)).map(str::to_owned).collect()
    };
    assert_eq!(below("mask[]."), known("mask: [{zzzzzzzzzz: 1}]"));
    assert_eq!(below("inspect."), known("inspect: {zzzzzzzzzz: 1}"));
    let root = known("zzzzzzzzzz: 1");
    for key in documented {
        let name = key.split(['.', '[']).next().unwrap();
        assert!(root.contains(name), "{name} is no key");
    }
}

#[test]
fn the_bounds_are_those_of_the_code() {
    let rows = table_in(RESULTS, "What is judged, and how", "bound");
    let told: Vec<usize> = rows.iter().map(|row| row[1].parse().unwrap()).collect();
    let bounds = [RULES_MAX, RESULT_RULES_MAX, REVEALED_MAX, HOSTS_MAX, MASK_TEXT_CHARS_MAX, NEW_FIELDS_MAX];
    assert_eq!(told, bounds);
    let mebibytes = TEXT_BYTES_MAX / (1024 * 1024);
    for text in [
        format!("more than {mebibytes} MiB"),
        format!("more than {HITS_MAX} places"),
        format!("to {NESTED_MAX} levels"),
    ] {
        assert!(RESULTS.contains(&text), "{text}");
    }
}

#[test]
fn links_of_results_lead_somewhere() {
    for link in RESULTS.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        if link.starts_with("..") {
            assert!(root().join("policies").join(link).exists(), "no file {link}");
        }
    }
}
