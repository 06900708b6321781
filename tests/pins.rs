//! Pins through the real binary: what waits is approved on the command line, and survives a killed process, whenever it comes.

#![expect(clippy::unwrap_used, reason = "a test program: a panic is its way to say no")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use mcp_authz::pins::{
    FolderStore,
    store::{Store as _, Version},
};
use mcp_authz_core::pins::{Bounds, Observed, Pins, Sighting, Trust};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(30);
const TOKEN: &str = "0123456789abcdef";

/// A process on a folder, killed at the end.
struct Authz {
    child: Child,
    admin: SocketAddr,
}

impl Drop for Authz {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}

impl Authz {
    /// Starts it and waits until it answers.
    fn start(folder: &Path) -> Self {
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = format!(
            "listen: {{grpc: [\"unix://authz.sock\"], admin: \"{admin}\"}}\nadmin: {{token_file: token}}\n\
             envoy: {{response_phase: true}}\nledger: {{embedded: {{folder: ./ledger}}}}\naudit: {{sink: ./audit.jsonl}}\n"
        );
        fs::write(folder.join("config.yaml"), settings).unwrap();
        let log = fs::File::options().append(true).create(true).open(folder.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
        command.args(["serve", "--config", "config.yaml"]).current_dir(folder).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let authz = Self { child, admin };
        let until = Instant::now().checked_add(PATIENCE).unwrap();
        while !authz.ask("GET /readyz", "").is_some_and(|answer| answer.starts_with("HTTP/1.0 200")) {
            assert!(Instant::now() < until, "{}", fs::read_to_string(folder.join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
        authz
    }

    /// One request, written and answered; `None` if nobody is there.
    fn ask(&self, what: &str, body: &str) -> Option<String> {
        let mut stream = self.send(what, body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn send(&self, what: &str, body: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        let length = body.len();
        write!(
            stream,
            "{what} HTTP/1.0\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        Some(stream)
    }
}

fn pins(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
    command.arg("pins").args(args).args(["--config", "config.yaml"]).current_dir(folder);
    command.env_remove("MCP_AUTHZ_CONFIG").stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat()
}

fn observed(name: &str, digest: u8) -> Observed {
    let definition = format!(r#"{{"name":"{name}","description":"number {digest}"}}"#);
    Observed { name: name.into(), digest: [digest; 32], definition: definition.into() }
}

/// A folder in which the response phase has seen one tool that was trusted, and then another one.
async fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["policies", "grants", "credentials", "ledger"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("servers.yaml"), "servers: {s: {credential: {kind: none}, tools: {trust: first_use}}}\n").unwrap();
    fs::write(at("token"), format!("{TOKEN}\n")).unwrap();
    let mut known = Pins::default();
    for digest in [1, 2] {
        let sighting = Sighting { seen: vec![observed("tool", digest)], is_last_page: true };
        known.note(&sighting, Trust::FirstUse, &Bounds::default(), 1);
    }
    let (nothing, data) = (Version::default(), Arc::from(known.encode()));
    let until = Instant::now().checked_add(PATIENCE).unwrap();
    let store = FolderStore::new(Some(&at("ledger")));
    assert!(store.write("s", &nothing, &nothing.next(0).unwrap(), &data, until).await.unwrap());
    folder
}

#[tokio::test]
async fn what_was_approved_survives_a_killed_process() {
    let folder = folder().await;
    let path = folder.path();
    let authz = Authz::start(path);
    let listed = pins(path, &["list"]);
    assert!(listed.status.success(), "{}", said(&listed));
    let text = said(&listed);
    assert!(text.contains("s: 1 tool waits for approval"), "{text}");
    let shown = pins(path, &["diff", "--server", "s"]);
    assert!(said(&shown).contains("    ~ number [-1-]{+2+}\n"), "{}", said(&shown));
    // The command as it is printed.
    let line = text.lines().find_map(|line| line.trim().strip_prefix("approve  mcp-authz pins ")).unwrap();
    let approved = pins(path, &line.split(' ').collect::<Vec<_>>());
    assert_eq!(said(&approved), "1 tool is approved\n");
    // Records are handed over before the act and written a moment later; what is not written dies with the process.
    let recorded = r#""event_type":"pins_approve","#;
    let until = Instant::now().checked_add(PATIENCE).unwrap();
    while !fs::read_to_string(path.join("audit.jsonl")).unwrap_or_default().contains(recorded) {
        assert!(Instant::now() < until, "no record of the approval");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(authz);
    let authz = Authz::start(path);
    assert!(!said(&pins(path, &["list"])).contains("waits"));
    assert!(authz.ask("GET /metrics", "").unwrap().contains("\nmcp_authz_pins_pending 0\n"));
}

#[tokio::test]
async fn a_kill_in_the_middle_leaves_the_pins_as_before_or_after() {
    let digest = format!("sha256:{}", "02".repeat(32));
    let body = format!(r#"{{"server":"s","tool":"tool","digest":"{digest}"}}"#);
    for pause_us in [0, 200, 1_000, 3_000, 10_000] {
        let folder = folder().await;
        let mut authz = Authz::start(folder.path());
        let stream = authz.send("POST /pins/approve", &body).unwrap();
        // No wait for a condition: the moment of the kill is what is tried out.
        std::thread::sleep(Duration::from_micros(pause_us));
        authz.child.kill().unwrap();
        drop(stream);
        drop(authz);
        let authz = Authz::start(folder.path());
        let page = authz.ask("GET /pins", "").unwrap();
        assert!(page.contains("\"approved\": 1") && !page.contains("\"error\""), "{page}");
        let waits = page.contains(&digest);
        let answer = authz.ask("POST /pins/approve", &body).unwrap();
        assert_eq!(answer.starts_with("HTTP/1.0 200"), waits, "{answer}");
    }
}
