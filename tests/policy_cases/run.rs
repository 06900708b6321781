//! The policy language against its acceptance cases.

mod lists;

use std::sync::Arc;

use mcp_authz_core::document::{Defect, Format};
use mcp_authz_core::json::{Document, Limits};
use mcp_authz_core::judge::judge;
use mcp_authz_core::mcp::{Message, ProtocolVersion};
use mcp_authz_core::policy::{Policy, Source};
use mcp_authz_core::principal::Principal;
use mcp_authz_core::selftest::{self, CaseFile, Loaded, MirroredHeaders, Reading};

const EDGES: &[u8] = include_bytes!("edges.test.yaml");
const LIMITS: &[u8] = include_bytes!("limits.test.yaml");
const OPERATORS: &[u8] = include_bytes!("operators.test.json");
const PUBLISHED: &[u8] = include_bytes!("published.test.json");

/// Runs a file and tells what did not go as expected; the number of checks guards against a file that is not read.
fn run(name: &str, bytes: &[u8], reading: Reading) -> (usize, Vec<String>) {
    let format = Format::of_name(name).unwrap_or(Format::Json);
    let file = CaseFile { file: name, bytes, format };
    let mut load = |file: &str| -> Result<Loaded, String> { Err(format!("no file {file} here")) };
    match selftest::run(&file, reading, &mut load) {
        Ok(results) => (results.passed, results.failures.iter().map(ToString::to_string).collect()),
        Err(defects) => (0, defects.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn the_published_cases_hold() {
    assert_eq!(run("published.test.json", PUBLISHED, Reading::AsWritten), (328, vec![]));
    assert_eq!(run("published.test.json", PUBLISHED, Reading::Compat), (328, vec![]));
}

/// Every operator on every kind of value, in both sections.
#[test]
fn the_table_of_operators_holds() {
    assert_eq!(run("operators.test.json", OPERATORS, Reading::AsWritten), (312, vec![]));
    assert_eq!(run("operators.test.json", OPERATORS, Reading::Compat), (312, vec![]));
}

#[test]
fn the_edges_hold() {
    assert_eq!(run("edges.test.yaml", EDGES, Reading::AsWritten), (44, vec![]));
    assert_eq!(run("edges.test.yaml", EDGES, Reading::Compat), (44, vec![]));
}

/// What version 2 adds.
#[test]
fn the_limits_hold() {
    assert_eq!(run("limits.test.yaml", LIMITS, Reading::AsWritten), (248, vec![]));
    assert_eq!(run("limits.test.yaml", LIMITS, Reading::Compat), (248, vec![]));
}

/// The published file as if every policy in it were of version 2: only the week, which that version has, is no defect any more.
#[test]
fn version_2_means_what_version_1_does() {
    let text = std::str::from_utf8(PUBLISHED).unwrap().replace("\"version\": \"1\"", "\"version\": \"2\"");
    let week = "invalid/bad-window: expected a policy that is refused, got one that loads".to_owned();
    for reading in [Reading::AsWritten, Reading::Compat] {
        assert_eq!(run("published.test.json", text.as_bytes(), reading), (327, vec![week.clone()]));
    }
}

/// To the letter: the same counters, amounts, limits and refusals, so that no quota is handed out anew by the change.
#[test]
fn version_2_decides_and_charges_as_version_1_does() {
    let mut compared = 0;
    for file in [PUBLISHED, OPERATORS] {
        let file: serde_json::Value = serde_json::from_slice(file).unwrap();
        for suite in file["suites"].as_array().unwrap().iter().filter(|suite| suite["policy"].is_object()) {
            let mut newer = suite["policy"].clone();
            newer["version"] = "2".into();
            let (older, newer) = (compile(&suite["policy"]).unwrap(), compile(&newer).unwrap());
            let steps =
                suite["sequences"].as_array().into_iter().flatten().flat_map(|one| one["steps"].as_array().unwrap());
            for case in suite["cases"].as_array().into_iter().flatten().chain(steps) {
                let request = &case["request"];
                let request = request.as_str().map_or_else(|| request.to_string(), str::to_owned);
                let Ok(document) = Document::parse(request.as_bytes(), Limits::default()) else { continue };
                let mirrored = MirroredHeaders::of(document.root());
                let Ok(message) = Message::read(&document, &mirrored.headers(), ProtocolVersion::ALL) else { continue };
                let mut who = Principal::of_grant("g");
                who.groups = [Arc::from("a")].into();
                let before = judge(Some(&older), &who, "s", &message);
                assert_eq!(before, judge(Some(&newer), &who, "s", &message), "{}", case["id"]);
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 622);
}

fn compile(policy: &serde_json::Value) -> Result<Policy, Vec<Defect>> {
    let bytes = policy.to_string();
    let source = Source { id: "p", file: "p.json", bytes: bytes.as_bytes(), format: Format::Json };
    Policy::compile(&source).map(|compiled| compiled.policy)
}

/// Every policy of the file that must be refused, with the whole text of its refusal.
const REFUSALS: &[(&str, &str)] = &[
    ("invalid/version-3", "p.json:1: /version: version `3` is not supported, expected `1` or `2`"),
    ("invalid/default-missing", "p.json:1: missing key `default`"),
    ("invalid/unknown-top-key", "p.json:1: unknown key `tool` (did you mean `tools`?)"),
    ("invalid/unknown-tool-key", "p.json:1: /tools/t: unknown key `denyif` (did you mean `deny_if`?)"),
    ("invalid/bad-regex", "p.json:1: /tools/t/require/0/conditions/0/value: invalid pattern: missing `]`"),
    (
        "invalid/lookahead",
        "p.json:1: /tools/t/require/0/conditions/0/value: invalid pattern: look-ahead is not supported",
    ),
    (
        "invalid/lt-not-number",
        "p.json:1: /tools/t/require/0/conditions/0/value: expected a number for `lt`, found a string",
    ),
    (
        "invalid/exists-not-bool",
        "p.json:1: /tools/t/require/0/conditions/0/value: expected `true` or `false`, found a string \
         (only these two words, unquoted)",
    ),
    ("invalid/empty-conditions", "p.json:1: /tools/t/require/0/conditions: needs at least one condition"),
    (
        "invalid/bad-window",
        "p.json:1: /tools/t/limits/0/window: expected one of `minute`, `hour`, `day`, found `week` \
         (version \"2\" has `week`)",
    ),
    (
        "invalid/max-negative",
        "p.json:1: /tools/t/limits/0/max: expected a whole number from 0 to 4503599627370496, found `-1`",
    ),
    (
        "invalid/duplicate-counter",
        "p.json:1: /tools/t/limits/1: counter `c` has the window `hour` elsewhere, here `day` (give it another name)",
    ),
    (
        "invalid/all-tools-increment-from",
        "p.json:1: /all_tools/limits/0/increment_from: a limit of `all_tools` counts calls: \
         `increment_from` needs the arguments of one tool",
    ),
    ("invalid/hide-empty", "p.json:1: /hide/0: the name of a tool must not be empty"),
];

#[test]
fn each_invalid_policy_is_refused_by_a_message_that_names_the_fault() {
    let file: serde_json::Value = serde_json::from_slice(PUBLISHED).unwrap();
    let invalid = file["invalid_policies"].as_array().unwrap();
    let mut actual = Vec::new();
    for case in invalid {
        let bytes = case["policy"].to_string();
        let source = Source { id: "p", file: "p.json", bytes: bytes.as_bytes(), format: Format::Json };
        let defects = Policy::compile(&source).expect_err(case["id"].as_str().unwrap());
        let lines: Vec<String> = defects.iter().map(ToString::to_string).collect();
        actual.push((case["id"].as_str().unwrap().to_owned(), lines.join("\n")));
    }
    let expected: Vec<(String, String)> = REFUSALS.iter().map(|(id, text)| ((*id).into(), (*text).into())).collect();
    assert_eq!(actual, expected);
}
