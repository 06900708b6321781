//! Real `redis-server` processes that end with their owner.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{
    Dice, PATIENCE,
    resp::{Resp, Value},
    until,
};

/// Ports handed out by this process.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// An address of loopback that is free now and that the OS gives to nobody meanwhile.
///
/// Not one that the OS chooses: those come from the range of outgoing connections, so that the port of a server that is down
/// for a while may be taken by anybody, even by a client that connects to itself.
pub(crate) fn free_address() -> SocketAddr {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing = range.split_whitespace().next().and_then(|low| low.parse::<u16>().ok()).unwrap_or(32_768);
    let mut dice = Dice::from_os();
    for _ in 0..2_000 {
        let port = u16::try_from(dice.between(10_240, u64::from(outgoing.max(20_000)))).expect("below 65536");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if !taken.contains(&port) && TcpListener::bind(address).is_ok() {
            taken.insert(port);
            return address;
        }
    }
    panic!("no free port")
}

/// A server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    dir: TempDir,
    args: Vec<String>,
    mode: Mode,
    child: Option<Child>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Sentinel,
    Store,
}

impl Server {
    /// A store that never evicts and keeps what it has, with `args` appended to its command line.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let mut server = Self::prepare(Mode::Store, args);
        server.run().await;
        server
    }

    /// A Sentinel with the given lines as its configuration.
    pub(crate) async fn sentinel(lines: &str) -> Self {
        let mut server = Self::prepare(Mode::Sentinel, &[]);
        let text = format!("port {}\nbind 127.0.0.1\n{lines}\n", server.address.port());
        fs::write(server.dir.path().join("sentinel.conf"), text).expect("the temporary folder is writable");
        server.run().await;
        server
    }

    fn prepare(mode: Mode, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { address: free_address(), dir: TempDir::new().expect("a temporary folder"), args, mode, child: None }
    }

    /// Starts it (again): on the same port, in the same folder.
    pub(crate) async fn run(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("writable");
        let mut command = Command::new("redis-server");
        match self.mode {
            Mode::Sentinel => command.arg(self.dir.path().join("sentinel.conf")).arg("--sentinel"),
            Mode::Store => {
                let port = self.address.port().to_string();
                command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
                command.args(["--maxmemory-policy", "noeviction", "--repl-diskless-sync-delay", "0"]);
                command.args(["--repl-ping-replica-period", "1", "--enable-debug-command", "yes", "--dir"]);
                command.arg(self.dir.path()).args(&self.args)
            }
        };
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("a handle")).stdout(log).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("cannot start redis-server ({error}): install it, or run `tests/tools/install.sh redis`")
        });
        self.child = Some(child);
        until("redis-server answers", async || {
            if let Some(status) = self.child.as_mut().expect("started").try_wait().expect("own child") {
                panic!("redis-server ended: {status}");
            }
            self.call(&["PING"]).await.ok()
        })
        .await;
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Resp {
        Resp::open(self.address).await.unwrap_or_else(|error| panic!("{}: {error}", self.address))
    }

    /// One command on a connection of its own.
    pub(crate) async fn call(&self, words: &[&str]) -> std::io::Result<Value> {
        Resp::open(self.address).await?.call(words).await
    }

    /// One command that must succeed.
    pub(crate) async fn must(&self, words: &[&str]) -> Value {
        self.call(words).await.unwrap_or_else(|error| panic!("{words:?} at {}: {error}", self.address))
    }

    /// One field of `INFO`.
    pub(crate) async fn info(&self, section: &str, field: &str) -> Option<String> {
        let text = self.call(&["INFO", section]).await.ok()?.text();
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    }

    /// Waits until this replica has all that its master sent.
    pub(crate) async fn in_sync(&self) {
        until("the replica is in sync", async || {
            (self.info("replication", "master_link_status").await? == "up").then_some(())
        })
        .await;
    }

    /// Sends a signal by name.
    pub(crate) async fn signal(&self, name: &str) {
        signal(self.child.as_ref().and_then(Child::id).expect("running"), name).await;
    }

    /// Ends it at once.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.start_kill().expect("own child");
            tokio::time::timeout(PATIENCE, child.wait()).await.expect("a killed process ends").expect("own child");
        }
    }

    /// Removes what it has kept; it must not run.
    pub(crate) fn wipe(&self) {
        fs::remove_dir_all(self.dir.path().join("appendonlydir")).expect("the folder of a store");
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let from = log.char_indices().rev().nth(1_500).map_or(0, |(at, _)| at);
            eprintln!("---- log of redis-server {}\n{}----", self.address, log.get(from..).unwrap_or_default());
        }
    }
}

/// Sends a signal by name to a process that we started.
pub(crate) async fn signal(pid: u32, name: &str) {
    // The shell's own `kill` is everywhere; there is no signal call without unsafe code or one more dependency.
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().await;
    assert!(status.expect("sh runs").success(), "cannot send {name} to {pid}");
}
