//! The real MCP server of `tests/fixture`, as a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::Value;

use super::process::Process;
use super::{root, until};

/// A running fixture server.
pub(crate) struct Fixture {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    record: PathBuf,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Fixture {
    /// Builds it if need be, starts it, and waits until it listens. It demands `authorization` on every request, if given.
    pub(crate) async fn start(authorization: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let record = dir.path().join("record.jsonl");
        let binary = tokio::task::spawn_blocking(binary).await.expect("cargo builds the fixture");
        let mut command = tokio::process::Command::new(binary);
        command.args(["--listen", "127.0.0.1:0", "--allow-host", "mcp.test", "--record"]).arg(&record);
        if let Some(authorization) = authorization {
            command.args(["--require-authorization", authorization]);
        }
        let mut process = Process::start("fixture", dir.path(), command);
        let address = until("the fixture listens", async || {
            process.assert_running();
            let line = process.stdout();
            line.strip_prefix("listening on http://")?.lines().next()?.strip_suffix("/mcp")?.parse().ok()
        })
        .await;
        Self { address, record, _process: process, _dir: dir }
    }

    /// The tools that really ran, in order.
    pub(crate) fn executed(&self) -> Vec<String> {
        let lines = std::fs::read_to_string(&self.record).unwrap_or_default();
        let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let executed = events.filter(|event| event["event"] == "executed");
        executed.filter_map(|event| event["tool"].as_str().map(str::to_owned)).collect()
    }
}

fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build)
}

/// Cargo says where it put the program; a guess would be wrong under another target folder or target.
fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .current_dir(root())
        .args(["build", "--package", "mcp-authz-fixture", "--message-format=json"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8_lossy(&output.stdout);
    let executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executables.reduce(|_, last| last).expect("the package has a program")
}
