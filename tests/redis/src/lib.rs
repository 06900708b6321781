//! Real `redis-server` processes for tests: each with a folder, a Unix socket and a TCP port of its own, killed on drop.
//!
//! Every wait asks the server whether it is ready and gives up after [`PATIENCE`]. A machine without `redis-server` fails with
//! what to install; nothing is skipped.
#![expect(clippy::panic, reason = "a test program: a panic is its way to say no")]

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

mod wire;

pub use wire::{Connection, Value};

/// How long a server may take to answer its first PING.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(5);
/// How often another port is tried because somebody was faster.
const PORTS_TRIED: usize = 20;
const INSTALL: &str = "install it with `apt-get install redis-server`, or run `tests/tools/install.sh redis`";

/// One running server.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
    args: Vec<String>,
}

impl RedisServer {
    /// Starts an empty server that saves nothing, and waits until it answers. `args` are options as on the command line of
    /// `redis-server`; they win over the ones given here.
    ///
    /// # Panics
    /// If it cannot be started, with what it wrote.
    #[must_use]
    pub fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        for _ in 0..PORTS_TRIED {
            let port = free_port();
            let mut child = spawn(folder.path(), port, &args);
            if wait_for_answer(&mut child, &socket_in(folder.path())) {
                return Self { child, folder, port, args };
            }
            // The port was free a moment ago; between two programs that look for one, the slower looks again.
            let log = log_in(folder.path());
            assert!(log.contains("Address already in use"), "redis-server ended at once:\n{log}");
        }
        panic!("no free port for a redis-server in {PORTS_TRIED} attempts")
    }

    /// Path of the Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its files; they outlive [`kill`](Self::kill) and [`restart`](Self::restart).
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new connection over the Unix socket.
    ///
    /// # Panics
    /// If the server does not accept it.
    #[must_use]
    pub fn connect(&self) -> Connection {
        Connection::open(&self.socket()).unwrap_or_else(|error| panic!("cannot connect: {error}\n{}", self.log()))
    }

    /// What `redis-cli` prints for a command, without the last line end.
    ///
    /// # Panics
    /// If there is no `redis-cli`, or no server that answers it.
    #[must_use]
    pub fn cli(&self, args: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(self.socket()).args(args).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run redis-cli ({error}): {INSTALL}"));
        let text = String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "redis-cli {args:?}: {text}{complaint}");
        text
    }

    /// What the server has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        log_in(self.folder.path())
    }

    /// Ends it with SIGKILL: no goodbye, nothing saved.
    pub fn kill(&mut self) {
        // Both fail only for a process that has ended, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Starts it again after [`kill`](Self::kill): same port, socket and folder.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn restart(&mut self) {
        self.kill();
        let mut child = spawn(self.folder.path(), self.port, &self.args);
        let up = wait_for_answer(&mut child, &self.socket());
        self.child = child;
        assert!(up, "redis-server did not come up again:\n{}", self.log());
    }

    /// Freezes it with SIGSTOP: connections stay open, nothing is answered. Returns when it stands still.
    ///
    /// # Panics
    /// If the process has ended.
    pub fn stop(&self) {
        self.signal("STOP");
        let stat = format!("/proc/{}/stat", self.child.id());
        let mut waited = Duration::ZERO;
        // The signal is on its way when `kill` returns.
        while !fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")) {
            assert!(waited < PATIENCE, "the redis-server does not stand still");
            std::thread::sleep(POLL);
            waited = waited.saturating_add(POLL);
        }
    }

    /// Lets it go on after [`stop`](Self::stop).
    ///
    /// # Panics
    /// If the process has ended.
    pub fn cont(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        // The shell has `kill` built in; the program of that name is missing in slim images.
        let script = format!("kill -s {name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &script]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send SIG{name} to the redis-server");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("redis.sock")
}

fn log_in(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.unwrap_or_else(|error| panic!("no free port: {error}")).port()
}

fn spawn(folder: &Path, port: u16, args: &[String]) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap_or_else(|error| panic!("cannot write a log: {error}"));
    // Left by a server that was killed; as long as it is there nobody can tell the new one from the old one.
    match fs::remove_file(socket_in(folder)) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("cannot remove the old socket: {error}"),
        _ => {}
    }
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--unixsocket"]).arg(socket_in(folder));
    command.arg("--dir").arg(folder).args(["--save", "", "--appendonly", "no", "--daemonize", "no"]).args(args);
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => panic!("there is no redis-server here: {INSTALL}"),
        Err(error) => panic!("cannot start redis-server: {error}"),
    }
}

/// `false` if the process ended instead.
fn wait_for_answer(child: &mut Child, socket: &Path) -> bool {
    let mut waited = Duration::ZERO;
    while waited < PATIENCE {
        // Any answer but LOADING means that it serves: an error here is one of the rights that the test took away.
        let answer = Connection::open(socket).and_then(|mut connection| connection.call(&["PING"]));
        if answer.is_ok_and(|answer| !matches!(&answer, Value::Error(text) if text.starts_with("LOADING"))) {
            return true;
        }
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return false;
        }
        std::thread::sleep(POLL);
        waited = waited.saturating_add(POLL);
    }
    drop(child.kill());
    panic!("redis-server did not answer within {PATIENCE:?}")
}

#[cfg(test)]
mod tests;
