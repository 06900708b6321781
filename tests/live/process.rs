//! The real binary on a folder of mounts.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use super::kubelet::Volume;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A port that nobody has.
pub(crate) fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until `found` gives something, and fails with `what` otherwise.
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A policy that names one tool.
pub(crate) fn policy(tool: &str) -> String {
    format!("version: '1'\ndefault: deny\ntools: {{{tool}: {{}}}}\n")
}

/// The mounts of a pod.
pub(crate) struct Pod {
    pub(crate) folder: TempDir,
    pub(crate) policies: Volume,
    pub(crate) servers: Volume,
    pub(crate) grants: Volume,
    pub(crate) credentials: Volume,
    pub(crate) admin: SocketAddr,
}

pub(crate) const SERVERS: &str =
    "servers: {s: {policy: p, credential: {kind: header, name: x-key, secret: s/token}}}\n";
pub(crate) const GRANTS: &str = "grants: []\n";

impl Pod {
    /// A folder with one policy `p`; `more` is added to the settings.
    pub(crate) fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let admin = free_port();
        let settings = format!(
            "listen: {{grpc: [\"unix://authz.sock\"], admin: \"{admin}\"}}\npaths: {{servers: servers/servers.yaml}}\n\
             ledger: {{embedded: {{folder: none}}}}\naudit: {{sink: none}}\nreload: {{poll_ms: 200}}\n{more}"
        );
        fs::write(at("config.yaml"), settings).unwrap();
        let policies = Volume::mount(at("policies"), &[("p.yaml", &policy("first"))]);
        let servers = Volume::mount(at("servers"), &[("servers.yaml", SERVERS)]);
        let grants = Volume::mount(at("grants"), &[("grants.yaml", GRANTS)]);
        let credentials = Volume::mount(at("credentials/s"), &[("token", "one\n")]);
        Self { policies, servers, grants, credentials, admin, folder }
    }

    /// Starts the binary and waits until it is ready.
    pub(crate) fn start(&self) -> Process {
        Process::start(self.folder.path(), self.admin, &[], &["serve", "--config", "config.yaml"])
    }
}

/// A process, killed at the end.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) admin: SocketAddr,
    log: std::path::PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}

impl Process {
    /// Starts the binary in a folder and waits until its admin port says that it is ready.
    pub(crate) fn start(folder: &Path, admin: SocketAddr, env: &[(&str, &str)], args: &[&str]) -> Self {
        let log = folder.join("log");
        let file = fs::File::options().append(true).create(true).open(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
        command.args(args).envs(env.iter().copied()).current_dir(folder).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let process = Self { child, admin, log };
        let is_ready = || process.get("/readyz").filter(|(status, _)| *status == 200).map(drop);
        until("the process is not ready", is_ready);
        process
    }

    /// Status and body of a page; `None` if nobody is there.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// A page of JSON.
    pub(crate) fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).unwrap().1).unwrap()
    }

    /// Waits until `/config` shows so many reloads that were refused and so many that were not, at least; gives the page.
    pub(crate) fn reloaded(&self, failed: u64, ok: u64) -> Value {
        until("there is no such reload", || {
            let page = self.json("/config");
            let at_least = |key: &str, n: u64| page.get(key).and_then(Value::as_u64).is_some_and(|found| found >= n);
            (at_least("reloads_failed", failed) && at_least("reloads_ok", ok)).then_some(page)
        })
    }

    /// The digest of the file of that path, as it is served.
    pub(crate) fn digest(&self, path: &str) -> String {
        let page = self.json("/policy");
        let files = page.get("files").and_then(Value::as_array).unwrap();
        let is_it = |file: &&Value| file.get("path").and_then(Value::as_str) == Some(path);
        files.iter().find(is_it).unwrap().get("digest").and_then(Value::as_str).unwrap().to_owned()
    }

    /// Waits until the page of metrics has that text.
    pub(crate) fn measures(&self, text: &str) {
        until(text, || self.get("/metrics").filter(|(_, page)| page.contains(text)).map(drop));
    }

    /// What it has written to standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}
/// Runs the binary to its end.
pub(crate) fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
    command.args(args).current_dir(folder).env_remove("MCP_AUTHZ_CONFIG").stdin(Stdio::null()).output().unwrap()
}
