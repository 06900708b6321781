//! Server processes and the CPU time they use.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use mcp_authz::envoy::server::Endpoint;

/// A server that ends with this value.
pub(crate) struct Server {
    child: Child,
    /// TCP first, then Unix.
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Server {
    /// Starts this program again as a server of that kind, listening on TCP and on a Unix socket in the folder.
    pub(crate) fn start(kind: &str, folder: &Path) -> anyhow::Result<Self> {
        let unix = format!("unix://{}/{kind}.sock", folder.display());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", kind, "tcp://127.0.0.1:0", &unix]);
        Self::spawn(command)
    }

    /// Starts a server that writes its endpoints to its output, one a line.
    fn spawn(mut command: Command) -> anyhow::Result<Self> {
        // The server ends when its input does, so it never outlives us.
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a server")?;
        let output = child.stdout.take().context("the output is piped")?;
        let lines = BufReader::new(output).lines().take(2);
        let endpoints = lines.map(|line| Ok(line?.parse()?)).collect::<anyhow::Result<Vec<_>>>()?;
        if endpoints.len() != 2 {
            bail!("a server ended before it listened");
        }
        Ok(Self { child, endpoints })
    }

    /// CPU time of all its threads so far, user and system. Threads that ended are not counted; ours do not end.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let first = text.split_whitespace().next().context("schedstat is empty")?;
            nanoseconds += first.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Largest resident memory so far, in KiB.
    pub(crate) fn memory_peak_kib(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
