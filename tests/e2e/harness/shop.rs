//! The servers of `tests/servers`: the same shop on SDKs of other makers than the fixture's.

use std::net::SocketAddr;

use tokio::process::Command;

use super::process::Process;
use super::{root, tool, until};

/// Which SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// Python SDK v2.
    Python2,
    /// TypeScript SDK v1: legacy only.
    TypeScript1,
    /// TypeScript SDK v2.
    TypeScript2,
}

/// A running shop.
pub(crate) struct Shop {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Shop {
    /// Starts it and waits until it listens.
    pub(crate) async fn start(sdk: Sdk) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let script = |name: &str| root().join("tests/servers").join(name);
        let mut command = match sdk {
            Sdk::Python2 => {
                let mut command = Command::new(tool("client-py2", "client-py2/bin/python"));
                command.arg(script("py2.py")).env("PYTHONDONTWRITEBYTECODE", "1");
                command
            }
            Sdk::TypeScript1 => node("client-ts1", &script("ts1.mjs")),
            Sdk::TypeScript2 => node("server-ts2", &script("ts2.mjs")),
        };
        command.current_dir(dir.path());
        let mut process = Process::start("shop", dir.path(), command);
        let address = until("the shop listens", async || {
            process.assert_running();
            let line = process.stdout();
            line.strip_prefix("listening on http://")?.lines().next()?.strip_suffix("/mcp")?.parse().ok()
        })
        .await;
        Self { address, _process: process, _dir: dir }
    }
}

fn node(package: &str, script: &std::path::Path) -> Command {
    tool(package, package);
    let mut command = Command::new("node");
    command.arg(script);
    command
}
