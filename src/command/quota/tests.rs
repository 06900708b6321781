//! The command against a port that answers what it is told to, and the table.

use std::{
    io::{self, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

use clap::Parser as _;

use super::*;
use crate::command::{FAILED, USAGE};

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// A port that gives these answers, one for each connection, and what it was asked.
fn port(answers: Vec<(u16, String)>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = thread::spawn(move || {
        let exchange = |(status, body): (u16, String)| {
            let (mut stream, _) = listener.accept().unwrap();
            let request = request(&mut stream);
            write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            request
        };
        answers.into_iter().map(exchange).collect()
    });
    (address, asked)
}

fn request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut byte = [0];
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.split("\r\n").next());
            if body.len() == length.map_or(0, |length| length.parse::<usize>().unwrap()) {
                return text;
            }
        }
        stream.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
    }
}

fn token() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
    file
}

/// Status, standard output and standard error.
fn quota(address: SocketAddr, args: &[&str], input: &str) -> (ExitCode, String, String) {
    let token = token();
    let (address, file) = (address.to_string(), token.path().to_str().unwrap());
    let all = ["quota"].iter().chain(args).copied().chain(["--admin", &address, "--token-file", file]);
    let line = Line::try_parse_from(all).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = run(&line.args, &mut input.as_bytes(), &mut out, &mut err);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn row(counter: &str, scope: &str, tool: Option<&str>, scale: u8, used: Option<u64>) -> Value {
    json!({
        "policy": "refunds", "counter": counter, "window": "day", "scope": scope, "server": null, "tool": tool, "group": null,
        "mode": "consume", "grants": ["g1"], "scale": scale, "used": used, "max": 50_000,
        "left": used.map(|used| 50_000_u64.saturating_sub(used)), "resets_at": used.map(|_| "2027-01-16T00:00:00Z"),
    })
}

fn page(name: &str, rows: &[Value]) -> (u16, String) {
    (200, json!({"revision": "sha256:7", "time": "2027-01-15T08:00:00Z", name: rows}).to_string())
}

const TABLE: &str = "\
COUNTER         WINDOW  SCOPE   POLICY   SERVER  TOOL           USED    MAX     LEFT   RESETS AT
refunded_cents  day     grant   refunds  -       create_refund  480.00  500.00  20.00  2027-01-16T00:00:00Z
loops           day     policy  refunds  -       -              -       50000   -      -
";

#[test]
fn the_table_is_as_promised() {
    let rows =
        [row("refunded_cents", "grant", Some("create_refund"), 2, Some(48_000)), row("loops", "policy", None, 0, None)];
    let (address, asked) = port(vec![page("counters", &rows)]);
    let (status, out, err) = quota(address, &["show", "--grant", "a+b", "--tool", "t/1"], "");
    assert_eq!((status, &*out, &*err), (ExitCode::SUCCESS, TABLE, ""));
    let asked = asked.join().unwrap();
    assert!(asked[0].starts_with("GET /quota?grant=a%2Bb&tool=t%2F1 HTTP/1.1\r\n"), "{}", asked[0]);
    assert!(asked[0].contains("\r\nauthorization: Bearer 0123456789abcdef\r\n"), "{}", asked[0]);
}

#[test]
fn json_is_passed_on_whole() {
    let answer = page("counters", &[row("loops", "policy", None, 0, None)]);
    let (address, _) = port(vec![answer.clone()]);
    let (status, out, _) = quota(address, &["show", "--identity", "user:ann", "--output", "json"], "");
    assert_eq!(status, ExitCode::SUCCESS);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), serde_json::from_str::<Value>(&answer.1).unwrap());
}

#[test]
fn a_reset_shows_what_it_will_do_and_asks() {
    let rows = [row("loops", "policy", None, 0, Some(7))];
    for (input, confirmed) in
        [("y\n", true), ("yes\n", true), ("\n", false), ("", false), ("n\n", false), ("yep\n", false)]
    {
        let mut answers = vec![page("counters", &rows)];
        answers.extend(confirmed.then(|| page("reset", &rows)));
        let (address, asked) = port(answers);
        let (status, out, err) = quota(address, &["reset", "--grant", "g1", "--counter", "loops"], input);
        let asked = asked.join().unwrap();
        assert!(
            err.starts_with("COUNTER") && err.contains("Other callers share") && err.contains("Set to zero? [y/N] ")
        );
        if confirmed {
            assert_eq!((status, &*out), (ExitCode::SUCCESS, "1 counter is at zero\n"));
            let (head, body) = asked[1].split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("POST /quota/reset HTTP/1.1\r\n"), "{head}");
            let expected = json!({"grant": "g1", "counter": "loops", "revision": "sha256:7"});
            assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
        } else {
            assert_eq!((status, &*out, asked.len()), (ExitCode::from(FAILED), "", 1));
            assert!(err.ends_with("mcp-authz: not confirmed, nothing was done\n"), "{err}");
        }
    }
}

#[test]
fn with_yes_nobody_is_asked() {
    let rows = [row("loops", "grant", None, 0, Some(7)), row("loops", "grant", Some("t"), 0, Some(7))];
    let (address, asked) = port(vec![page("counters", &rows), page("reset", &rows)]);
    let args = ["reset", "--grant", "g1", "--counter", "loops", "--tool", "t", "--policy", "p", "--yes"];
    let (status, out, err) = quota(address, &args, "");
    assert_eq!((status, &*out, &*err), (ExitCode::SUCCESS, "2 counters are at zero\n", ""));
    assert!(asked.join().unwrap()[0].starts_with("GET /quota?grant=g1&counter=loops&policy=p&tool=t HTTP"));
}

#[test]
fn a_refusal_is_told_and_is_no_success() {
    let (address, _) = port(vec![(404, "no such grant\n".into())]);
    let (status, out, err) = quota(address, &["show", "--grant", "g9"], "");
    assert_eq!((status, &*out, &*err), (ExitCode::from(FAILED), "", "mcp-authz: no such grant\n"));
    let (address, _) = port(vec![(200, "{}".into())]);
    assert_eq!(quota(address, &["show", "--grant", "g9"], "").0, ExitCode::from(USAGE));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (status, _, err) = quota(closed, &["show", "--grant", "g9"], "");
    assert_eq!(status, ExitCode::from(USAGE));
    assert!(err.contains("is mcp-authz running there?"), "{err}");
}

#[test]
fn settings_without_a_token_file_say_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, "listen: {grpc: ['tcp://127.0.0.1:0'], admin: '127.0.0.1:9192'}\n").unwrap();
    let run_with = |args: &[&str]| {
        let all = ["quota", "show", "--grant", "g", "--config", file.to_str().unwrap()];
        let line = Line::try_parse_from(all.iter().chain(args).copied()).unwrap();
        let mut err = Vec::new();
        let status = run(&line.args, &mut io::empty(), &mut Vec::new(), &mut err);
        (status, String::from_utf8(err).unwrap())
    };
    let (status, err) = run_with(&[]);
    assert_eq!(status, ExitCode::from(USAGE));
    assert!(err.contains("has no `admin.token_file`"), "{err}");
    std::fs::write(&file, "listen: {grpc: ['tcp://127.0.0.1:0'], admin: '127.0.0.1:0'}\nadmin: {token_file: t}\n")
        .unwrap();
    assert!(run_with(&[]).1.contains("give it as --admin"));
    assert!(run_with(&["--admin", "127.0.0.1:9"]).1.contains("cannot be read"));
}

#[test]
fn a_loss_is_accepted_only_on_purpose() {
    let answer = |accepted: bool| (200, json!({"time": "2027-01-15T08:00:00Z", "accepted": accepted}).to_string());
    for (accepted, text) in [(true, "the loss is accepted\n"), (false, "no counts were lost; nothing was changed\n")] {
        let (address, asked) = port(vec![answer(accepted)]);
        let (status, out, err) = quota(address, &["accept-loss"], "y\n");
        assert_eq!((status, &*out), (ExitCode::SUCCESS, text), "{err}");
        let asked = asked.join().unwrap();
        assert!(asked[0].starts_with("POST /quota/accept-loss HTTP/1.1\r\n") && asked[0].ends_with("\r\n\r\n{}"));
    }
    let (address, _) = port(Vec::new());
    assert_eq!(quota(address, &["accept-loss"], "").0, ExitCode::from(FAILED));
}
