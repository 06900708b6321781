//! Child processes that end with their owner, waits with deadlines, and one HTTP exchange.

use std::{
    fs::OpenOptions,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::time::Instant;

/// Long enough for a loaded machine; a wait that needs it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Polls until there is a value; panics with `what` once the time is used up.
pub(crate) fn until_in<T>(time: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(begun.elapsed() < time, "waited in vain until {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Polls with [`PATIENCE`].
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_in(PATIENCE, what, look)
}

/// A running program whose output lands in a file.
pub(crate) struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(name: &str, folder: &Path, mut command: Command) -> Self {
        let output = folder.join(format!("{name}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&output).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, output }
    }

    /// Everything it wrote so far.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Panics with the output if it has ended.
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended early: {status}\n{}", self.name, self.output());
        }
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success(), "cannot send {signal} to {}", self.name);
    }

    /// Waits for the end.
    pub(crate) fn ended_within(&mut self, time: Duration) -> ExitStatus {
        until_in(time, &format!("{} ends", self.name), || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let output = self.output();
            let from = output.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            eprintln!("---- output of {}\n{}----", self.name, output.get(from..).unwrap_or_default());
        }
    }
}

/// An address of loopback that nobody uses on any of these ports, as the address of a pod.
pub(crate) fn pod_address(ports: &[u16]) -> IpAddr {
    until("an address of loopback is free", || {
        let mut bytes = [0_u8; 3];
        getrandom(&mut bytes);
        let [a, b, c] = bytes;
        let address = IpAddr::from([127, a.max(1), b, c.clamp(1, 254)]);
        ports.iter().all(|port| TcpListener::bind((address, *port)).is_ok()).then_some(address)
    })
}

fn getrandom(bytes: &mut [u8]) {
    std::fs::File::open("/dev/urandom").unwrap().read_exact(bytes).unwrap();
}

/// Status and body of one request over a connection of its own.
pub(crate) fn http(address: SocketAddr, request: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    status.zip(body).ok_or_else(|| std::io::Error::other(format!("no answer of HTTP: `{answer}`")))
}

/// A page.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    http(address, &format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"))
}
