//! The drivers of `tests/clients`: real MCP clients that run a script and print what they saw.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{PATIENCE, root, tool};

/// Driver, interpreter below `.tools` (or on the path), and mode.
pub(crate) struct Client {
    tool: &'static str,
    interpreter: Option<&'static str>,
    script: &'static str,
    /// `legacy` or `modern`.
    pub(crate) mode: &'static str,
}

/// Every client in every era that it speaks.
pub(crate) const CLIENTS: &[Client] = &[
    Client { tool: "client-ts1", interpreter: None, script: "ts1.mjs", mode: "legacy" },
    Client { tool: "client-ts2", interpreter: None, script: "ts2.mjs", mode: "legacy" },
    Client { tool: "client-ts2", interpreter: None, script: "ts2.mjs", mode: "modern" },
    Client { tool: "client-py1", interpreter: Some("client-py1/bin/python"), script: "py1.py", mode: "legacy" },
    Client { tool: "client-py2", interpreter: Some("client-py2/bin/python"), script: "py2.py", mode: "legacy" },
    Client { tool: "client-py2", interpreter: Some("client-py2/bin/python"), script: "py2.py", mode: "modern" },
];

impl Client {
    /// For messages.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.script, self.mode)
    }

    /// Runs the steps and gives what the driver saw, the connection first.
    pub(crate) async fn run(&self, url: &str, token: &str, steps: &Value) -> Vec<Value> {
        let mut command = match self.interpreter {
            Some(file) => Command::new(tool(self.tool, file)),
            None => {
                tool(self.tool, self.tool);
                Command::new("node")
            }
        };
        command.arg(root().join("tests/clients").join(self.script)).arg(url);
        command.args(["--token", token, "--mode", self.mode]).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the interpreter starts");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(steps.to_string().as_bytes()).await.expect("the driver reads");
        drop(stdin);
        let output = tokio::time::timeout(PATIENCE * 3, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("{} hangs", self.name())).expect("own child");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}\n{stderr}", self.name(), output.status);
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        lines.lines().map(|line| serde_json::from_str(line).expect("one JSON line a step")).collect()
    }
}
