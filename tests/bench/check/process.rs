//! Server processes and the CPU time they use.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
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
        // It ends when its input does, so it never outlives us.
        command.args(["serve", kind, "tcp://127.0.0.1:0", &unix]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a server")?;
        let output = child.stdout.take().context("the output is piped")?;
        let endpoints = BufReader::new(output).lines().take(2).map(|line| Ok(line?.parse()?));
        let endpoints = endpoints.collect::<anyhow::Result<Vec<_>>>();
        Self::listening(child, endpoints)
    }

    /// Starts `mcp-authz serve` with everything switched on: grants, policy, limits, audit records and metrics.
    pub(crate) fn start_real(folder: &Path) -> anyhow::Result<Self> {
        Self::start_real_with(folder, &[])
    }

    /// As [`Server::start_real`], with these variables in its environment.
    pub(crate) fn start_real_with(folder: &Path, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let config = crate::scene::write(folder, crate::scene::Crowd::NONE)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
        command.arg("serve").arg("--config").arg(config).stdin(Stdio::null()).stderr(Stdio::piped());
        command.envs(variables.iter().copied());
        let mut child = command.spawn().context("cannot start mcp-authz")?;
        let mut log = BufReader::new(child.stderr.take().context("the log is piped")?);
        let mut seen = String::new();
        let endpoints = read_endpoints(&mut log, &mut seen);
        // Whoever stops reading would stop the writer one day.
        std::thread::spawn(move || drop(std::io::copy(&mut log, &mut std::io::sink())));
        Self::listening(child, endpoints).with_context(|| format!("mcp-authz said: {seen}"))
    }

    fn listening(child: Child, endpoints: anyhow::Result<Vec<Endpoint>>) -> anyhow::Result<Self> {
        // Made first, so that the process ends in any case.
        let mut server = Self { child, endpoints: Vec::new() };
        server.endpoints = endpoints?;
        ensure!(server.endpoints.len() == 2, "a server ended before it listened");
        Ok(server)
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

/// The addresses of the gRPC listeners, from the log.
fn read_endpoints(log: &mut impl BufRead, seen: &mut String) -> anyhow::Result<Vec<Endpoint>> {
    let mut endpoints = Vec::new();
    while endpoints.len() < 2 {
        let mut line = String::new();
        if log.read_line(&mut line)? == 0 {
            break;
        }
        seen.push_str(&line);
        // Whatever the layout of a line: an address of ours stands in quotes.
        let address = line.split('"').find(|text| text.starts_with("tcp://") || text.starts_with("unix://"));
        endpoints.extend(address.map(str::parse).transpose()?);
    }
    Ok(endpoints)
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
