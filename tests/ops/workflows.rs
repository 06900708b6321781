//! The workflows: sound by actionlint, pinned by commit, with no more rights than each job needs.

use std::{collections::BTreeMap, process::Command};

use super::{files, root, succeeds, text, tool, yaml};

/// What is used of others, by commit, with the version that the commit is.
const PINS: &[(&str, &str, &str)] = &[
    ("actions/attest-build-provenance", "a2bbfa25375fe432b6a289bc6b6cd05ecd0c4c32", "v4.1.0"),
    ("actions/checkout", "de0fac2e4500dabe0009e67214ff5f5447ce83dd", "v6.0.2"),
    ("sigstore/cosign-installer", "faadad0cce49287aee09b3a48701e75088a2c6ad", "v4.0.0"),
];

#[test]
fn workflows_are_sound() {
    succeeds(Command::new(tool("actionlint")).current_dir(root()).args(["-no-color", "-shellcheck=", "-pyflakes="]));
}

#[test]
fn what_is_used_of_others_is_pinned_by_commit() {
    let mut used = BTreeMap::new();
    for path in files(".github/workflows", ".yml") {
        for line in text(&path).lines() {
            let Some((_, action)) = line.split_once("uses: ") else { continue };
            if action.starts_with("./") {
                continue;
            }
            let pin = PINS.iter().find(|(name, commit, version)| action == format!("{name}@{commit} # {version}"));
            let Some((name, ..)) = pin else { panic!("{path}: `{action}` is not pinned as in the list") };
            used.insert(*name, ());
        }
    }
    assert_eq!(used.len(), PINS.len(), "a pin of nothing that is used");
}

#[test]
fn jobs_have_no_more_rights_than_they_need() {
    for path in files(".github/workflows", ".yml") {
        let workflow = yaml(&path);
        assert_eq!(workflow["permissions"], serde_json::json!({"contents": "read"}), "{path}");
        for (name, job) in workflow["jobs"].as_object().unwrap() {
            let rights: Vec<&String> =
                job["permissions"].as_object().into_iter().flatten().map(|(right, _)| right).collect();
            let expected: &[&str] = match name.as_str() {
                "build" => &["contents", "packages"],
                "publish" => &["attestations", "contents", "id-token", "packages"],
                _ => &[],
            };
            assert_eq!(rights, expected, "{path}: {name}");
            let is_bounded = job["timeout-minutes"].is_number() || job["uses"].is_string();
            assert!(is_bounded, "{path}: {name} has no timeout");
        }
        // What came from outside is handed to scripts by the environment only.
        for line in text(&path).lines().filter(|line| line.contains("${{")) {
            let (key, _) = line.split_once("${{").unwrap();
            let is_value = key.trim_end().ends_with([':', '-', '/']) || key.contains(": ");
            assert!(is_value && !key.contains("run:"), "{path}: an expression in a script: {line}");
        }
    }
}

#[test]
fn tests_run_before_anything_is_published() {
    let release = yaml(".github/workflows/release.yml");
    assert_eq!(release["jobs"]["test"]["uses"], "./.github/workflows/ci.yml");
    assert_eq!(
        (&release["jobs"]["build"]["needs"], &release["jobs"]["publish"]["needs"]),
        (&"test".into(), &"build".into())
    );
    assert!(text(".github/workflows/ci.yml").contains("run: .ci/run\n"));
}
