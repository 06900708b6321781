//! The page about pinned tools: its samples load, its cases pass, and its numbers are those of the code.

use std::path::Path;
use std::process::Command;

use mcp_authz::pins::STALE_MAX;
use mcp_authz_core::schema;

use super::{Block, blocks_of, root};

const PINS: &str = include_str!("../../policies/PINS.md");

fn block(name: &str) -> String {
    let mut found = blocks_of(PINS).into_iter().filter(|block| block.name == name);
    found.next().unwrap_or_else(|| panic!("the page has no block `{name}`")).text
}

fn run(folder: &Path, line: &str) -> (Option<i32>, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_mcp-authz"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-ec", line]).current_dir(folder).env("PATH", path).env_remove("MCP_AUTHZ_CONFIG");
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn the_samples_of_pins_load_and_their_cases_pass() {
    let known = [
        "yaml servers.yaml",
        "sh pins",
        "text diff",
        "sh pipeline",
        "yaml tickets.yaml",
        "yaml tickets.test.yaml",
        "sh test",
    ];
    let names: Vec<&str> = blocks_of(PINS).iter().map(|Block { name, .. }| *name).collect();
    assert_eq!(names, known);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["policies", "grants", "credentials"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("policies/tickets.yaml"), block("yaml tickets.yaml")).unwrap();
    std::fs::write(at("policies/tickets.test.yaml"), block("yaml tickets.test.yaml")).unwrap();
    std::fs::write(at("servers.yaml"), block("yaml servers.yaml")).unwrap();
    let commands = block("sh test");
    let mut lines = commands.lines();
    let (status, checked) = run(folder.path(), lines.next().unwrap());
    assert_eq!(status, Some(0), "{checked}");
    assert!(checked.ends_with("0 defects, 0 warnings\n"), "{checked}");
    let (status, tested) = run(folder.path(), lines.next().unwrap());
    assert_eq!(status, Some(0), "{tested}");
    assert!(tested.ends_with("5 passed, 0 failed\n"), "{tested}");
    assert_eq!(lines.next(), None);
    // The servers file as part of a whole configuration.
    std::fs::write(
        at("config.yaml"),
        "listen: {grpc: [\"unix://authz.sock\"], admin: \"127.0.0.1:0\"}\nenvoy: {response_phase: true}\n",
    )
    .unwrap();
    let (status, checked) = run(folder.path(), "mcp-authz check config.yaml");
    assert_eq!(status, Some(0), "{checked}");
}

#[test]
fn the_commands_of_pins_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join("my-gateway").join(name);
    std::fs::create_dir(folder.path().join("my-gateway")).unwrap();
    // A port of nobody: there the command ends when all of its arguments and files were right.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = format!(
        "listen: {{grpc: [\"unix://authz.sock\"], admin: \"127.0.0.1:{port}\"}}\nadmin: {{token_file: admin.token}}\nenvoy: {{response_phase: true}}\n"
    );
    std::fs::write(at("config.yaml"), settings).unwrap();
    std::fs::write(at("admin.token"), "0123456789abcdef\n").unwrap();
    let pipeline =
        block("sh pipeline").replace("\"$(jq -r .digest pins.json)\"", "sha256:0").replace(" > pins.json", "");
    let pipeline = pipeline.lines().map(|line| format!("{line} --config my-gateway/config.yaml"));
    let mut count = 0;
    for line in block("sh pins").lines().map(str::to_owned).chain(pipeline) {
        let (status, said) = run(folder.path(), &line);
        assert_eq!(status, Some(64), "{line}: {said}");
        assert!(said.contains("is mcp-authz running there?"), "{line}: {said}");
        count += 1;
    }
    assert_eq!(count, 5);
}

#[test]
fn the_bounds_of_pins_are_those_of_the_code() {
    let bounds = format!(
        "at most {} bytes with its tool, {} levels, {} schemas and {} patterns; a check has a budget of {} steps and {} levels",
        schema::SCHEMA_BYTES_MAX,
        schema::SCHEMA_DEPTH_MAX,
        schema::SCHEMAS_MAX,
        schema::SCHEMA_PATTERNS_MAX,
        schema::STEPS_MAX,
        schema::CHECK_DEPTH_MAX,
    );
    assert!(PINS.contains(&bounds), "{bounds}");
    assert!(PINS.contains(&format!("not been read for {} seconds", STALE_MAX.as_secs())));
}

#[test]
fn links_of_pins_lead_somewhere() {
    for link in PINS.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let path = root().join("policies").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{link}: {error}"));
        let heading = anchor.replace('-', " ");
        assert!(text.lines().any(|line| line.to_lowercase().trim_start_matches(['#', ' ']) == heading), "{link}");
    }
}
