//! The official conformance suite finds no difference between the server itself and the server behind us: neither where only
//! requests are judged, nor where every response is read as well.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use super::harness::authz::{Grant, Settings, token};
use super::harness::fixture::Fixture;
use super::harness::stack::{Options, Stack};
use super::harness::{PATIENCE, free_address, tool};

/// Status of every check, by scenario and check id; a check may run more than once in a scenario.
type Checks = BTreeMap<(String, String), Vec<String>>;

struct Run {
    checks: Checks,
    /// Whether every required scenario passed.
    passed: bool,
}

async fn run(url: &str, requirements: &str) -> Run {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let suite = "conformance/node_modules/@modelcontextprotocol/conformance/dist/index.js";
    let mut command = Command::new(tool("node22", "bin/node22"));
    command.arg(tool("conformance", suite)).args(["server", "--url", url, "--requirements", requirements, "-o"]);
    command.arg(dir.path()).current_dir(dir.path()).kill_on_drop(true);
    let output =
        tokio::time::timeout(PATIENCE * 6, command.output()).await.expect("the suite ends").expect("it starts");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let checks = read_checks(dir.path());
    assert!(!checks.is_empty(), "the suite checked nothing\n{report}\n{}", String::from_utf8_lossy(&output.stderr));
    Run { checks, passed: output.status.success() }
}

/// Each scenario has a folder `server-<scenario>-<time>` with its checks.
fn read_checks(dir: &Path) -> Checks {
    let mut checks = Checks::new();
    for folder in std::fs::read_dir(dir).expect("the suite's output").filter_map(Result::ok) {
        let name = folder.file_name().to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(folder.path().join("checks.json")) else { continue };
        let list: Value = serde_json::from_str(&text).expect("the suite writes JSON");
        let scenario = name.split("-20").next().unwrap_or_default().to_owned();
        for check in list.as_array().expect("a list of checks") {
            let text = |member: &str| check[member].as_str().unwrap_or_default().to_owned();
            checks.entry((scenario.clone(), text("id"))).or_default().push(text("status"));
        }
    }
    checks
}

/// Which responses are read.
#[derive(Clone, Copy, Debug)]
enum Responses {
    /// Every one, to be recorded.
    All,
    /// Every one, and searched for what nobody has: events are judged and put together again.
    Masked,
    /// Those that the policy needs: none.
    Policy,
}

impl Responses {
    const fn record(self) -> &'static str {
        match self {
            Self::All | Self::Masked => "response:\n  record: all",
            Self::Policy => "response:\n  record: policy",
        }
    }

    const fn policy(self) -> &'static str {
        match self {
            Self::All | Self::Policy => r#"{"version": "1", "default": "allow"}"#,
            Self::Masked => {
                r#"{"version": "2", "default": "allow", "hide": ["no_such_tool"], "mask": [{"detect": ["payment_card", "iban", "jwt", "private_key", "aws_key"]}]}"#
            }
        }
    }
}

async fn compare(requirements: &str, responses: Responses) {
    let (direct, behind) = (Fixture::start(None).await, Fixture::start(None).await);
    // The suite checks its own address as origin, so the port has to be known before the servers are described.
    let port = free_address().port();
    let authz = Settings {
        alpha: format!("    origins: [\"http://localhost:{port}\", \"http://127.0.0.1:{port}\"]"),
        config: responses.record().to_owned(),
        policies: vec![("open.json".to_owned(), responses.policy().to_owned())],
        grants: vec![Grant::new("suite", "open")],
        ..Settings::default()
    };
    let options = Options {
        authz,
        upstream: Some(behind.address),
        port,
        authorization: Some(format!("Bearer {}", token("suite"))),
        ..Options::default()
    };
    let stack = Stack::start(&options).await;
    let (direct_url, our_url) =
        (format!("http://{}/mcp", direct.address), format!("http://{}/mcp", stack.envoy.address));
    let (wanted, seen) = tokio::join!(run(&direct_url, requirements), run(&our_url, requirements));
    let differing: Vec<String> = wanted
        .checks
        .iter()
        .filter(|(check, statuses)| seen.checks.get(*check) != Some(statuses))
        .map(|(check, statuses)| format!("{check:?}: {statuses:?} direct, {:?} behind us", seen.checks.get(check)))
        .collect();
    assert!(differing.is_empty(), "{requirements}:\n{}", differing.join("\n"));
    assert_eq!(seen.checks.len(), wanted.checks.len());
    assert!(wanted.passed && seen.passed, "{requirements}: a required scenario fails");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_legacy_revision_passes_check_for_check() {
    compare("2025-11-25", Responses::Policy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_modern_revision_passes_check_for_check() {
    compare("2026-07-28", Responses::Policy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_legacy_revision_passes_with_every_response_recorded() {
    compare("2025-11-25", Responses::All).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_modern_revision_passes_with_every_response_recorded() {
    compare("2026-07-28", Responses::All).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_legacy_revision_passes_with_every_response_judged() {
    compare("2025-11-25", Responses::Masked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_modern_revision_passes_with_every_response_judged() {
    compare("2026-07-28", Responses::Masked).await;
}
