//! The commands over files as the sink writes them.

use std::{fs, path::Path, time::Duration};

use clap::Parser;
use mcp_authz_core::{
    audit::{ArgsMode, Record},
    decision::Reason,
    trace::TraceContext,
};
use prometheus_client::registry::Registry;

use super::*;
use crate::{
    clock::ManualClock,
    telemetry::{
        audit::{AuditSink, Checkpoints, Rotation, Settings, Sink, WhenUnavailable, key::SigningKey},
        metrics::Metrics,
    },
};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Status, output and errors.
fn audit(args: &[&str], input: &str) -> (ExitCode, String, String) {
    let line = Line::try_parse_from([&["audit"], args].concat()).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = run(&line.args, &mut input.as_bytes(), &mut out, &mut err);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// A process that decides about these tools and stops.
fn write(path: &Path, key: Option<&Path>, rotation: Rotation, tools: &[&str]) {
    let settings = Settings {
        when_unavailable: WhenUnavailable::Deny,
        buffer_bytes_max: 1 << 20,
        rotation,
        checkpoints: Checkpoints { records: 2, every: Duration::from_secs(60) },
        signer: key.map(|path| Box::new(SigningKey::load(path).unwrap()) as Box<_>),
        clock: std::sync::Arc::new(ManualClock::new(1_781_604_300_000)),
        remote: None,
    };
    let metrics = Metrics::new(&mut Registry::default(), 0);
    let sink = AuditSink::open_with(&Sink::File(path.to_owned()), settings, metrics).unwrap();
    for (time_ms, tool) in (1_781_604_300_000..).step_by(1000).zip(tools) {
        let mut draft = String::new();
        Record {
            time_ms,
            reason: tool.starts_with("bad").then_some(Reason::Condition),
            rule: if tool.starts_with("bad") { "/tools/bad/deny_if/args.a-gt" } else { "" },
            rule_exact: None,
            policy: None,
            policy_digest: None,
            server: Some("demo"),
            principal: Some("user:ann"),
            grant: None,
            method: "tools/call",
            tool: Some(tool),
            arguments: None,
            args: ArgsMode::Keys,
            args_key: None,
            request_id: None,
            stream_id: Some("77"),
            trace: (*tool == "a").then_some(TraceContext { trace_id: [0xab; 16], span_id: [0xcd; 8], sampled: true }),
            is_unmetered: false,
            latency_us: 1,
        }
        .write(&mut draft);
        sink.append(draft.as_bytes()).unwrap();
    }
    sink.close(Duration::from_secs(60)).unwrap();
}

#[test]
fn a_key_is_made_once_and_signs_what_verify_checks() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (status, public, err) = audit(&["keygen", "--out", &at("key")], "");
    assert!(status == ExitCode::SUCCESS && public.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{public}{err}");
    fs::write(at("pub"), public).unwrap();
    let (status, _, err) = audit(&["keygen", "--out", &at("key")], "");
    assert_eq!(status, ExitCode::from(64), "a key is not written over: {err}");
    let path = folder.path().join("audit.jsonl");
    write(
        &path,
        Some(&folder.path().join("key")),
        Rotation { bytes_max: 2_500, files_max: 0 },
        &["a", "bad", "c", "d"],
    );
    let files = [at("audit.jsonl.000001"), at("audit.jsonl.000002"), at("audit.jsonl")];
    let all: Vec<&str> =
        ["verify", "--public-key", &at("pub"), "--whole"].into_iter().map(str::to_owned).map(|s| &*s.leak()).collect();
    let with = |more: &[&str]| audit(&[&all, more].concat(), "");
    let names: Vec<&str> = files.iter().map(String::as_str).filter(|file| Path::new(file).exists()).collect();
    assert!(names.len() >= 2, "{names:?}");
    let (status, out, _) = with(&names);
    assert_eq!(status, ExitCode::SUCCESS, "{out}");
    assert!(out.contains("nothing was changed, moved or taken out"), "{out}");
    let (status, out, _) = with(&names[1..]);
    assert!(status == ExitCode::from(1) && out.contains("begins in the middle"), "{out}");
    let other = audit(&["keygen", "--out", &at("other")], "").1;
    fs::write(at("other.pub"), other).unwrap();
    let (status, out, _) = audit(&[&["verify", "--public-key", &at("other.pub")], &*names].concat(), "");
    assert!(status == ExitCode::from(1) && out.contains("is not of this key"), "{out}");
    let (status, out, _) =
        audit(&[&["verify", "--public-key", &at("pub"), "--public-key", &at("other.pub")], &*names].concat(), "");
    assert_eq!(status, ExitCode::SUCCESS, "one of several keys: {out}");
}

#[test]
fn verify_says_which_line_and_reads_from_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    write(&path, None, Rotation::default(), &["a", "b", "c"]);
    let text = fs::read_to_string(&path).unwrap();
    let noise = text.replace('\n', "\nlevel=info msg=\"hello\"\n");
    let (status, out, _) = audit(&["verify", "-"], &noise);
    assert!(status == ExitCode::SUCCESS && out.contains("note: 5 lines of others"), "{out}");
    let changed = text.replacen("\"tool_name\":\"b\"", "\"tool_name\":\"x\"", 1);
    fs::write(&path, &changed).unwrap();
    let name = path.display().to_string();
    let (status, out, _) = audit(&["verify", &name], "");
    assert_eq!(status, ExitCode::from(1));
    assert!(out.starts_with(&format!("{name}:3: record 3 of chain ")) && out.contains(" was changed"), "{out}");
    let (status, out, _) = audit(&["verify", "--output", "json", &name], "");
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (status, &told["ok"], &told["told"][0]["finding"]),
        (ExitCode::from(1), &false.into(), &"changed".into())
    );
    assert_eq!((&told["records"], &told["told"][0]["line"]), (&5.into(), &3.into()));
    // The end is cut off; whoever noted the last hash finds out.
    let cut: String = text.split_inclusive('\n').take(3).collect();
    let (status, out, _) = audit(&["verify", "-"], &cut);
    assert!(status == ExitCode::SUCCESS && out.contains("note: 1 chain has no end"), "{out}");
    let whole = audit(&["verify", "-"], &text).1;
    let hash = whole.trim().rsplit(' ').next().unwrap().to_owned();
    let (status, out, _) = audit(&["verify", "--anchor", &hash, "-"], &cut);
    assert!(status == ExitCode::from(1) && out.contains("is not here"), "{out}");
    assert_eq!(audit(&["verify", "--anchor", &hash, "-"], &text).0, ExitCode::SUCCESS);
    assert_eq!(audit(&["verify", "--whole", "-"], &cut).0, ExitCode::from(1));
    // Nothing at all is not well.
    let (status, out, _) = audit(&["verify", "-"], "hello\n");
    assert!(status == ExitCode::from(1) && out.contains("there is no record"), "{out}");
    let (status, _, err) = audit(&["verify", "/nonexistent"], "");
    assert!(status == ExitCode::from(64) && err.contains("/nonexistent: cannot be read"), "{err}");
    assert_eq!(audit(&["verify", &folder.path().display().to_string()], "").0, ExitCode::from(64));
}

#[test]
fn a_line_without_end_takes_no_memory() {
    let mut text = "x".repeat(3 * mcp_authz_core::audit::chain::LINE_BYTES_MAX);
    text.push_str("\nnext\n");
    let mut seen = Vec::new();
    lines::each(&["-".into()], &mut text.as_bytes(), &mut |_, number, line| {
        seen.push((number, line.len()));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [(1, mcp_authz_core::audit::chain::LINE_BYTES_MAX), (2, 4)]);
}

#[test]
fn query_finds_by_everything_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    write(&path, None, Rotation::default(), &["a", "bad\u{202e}", "c d"]);
    let name = path.display().to_string();
    let query = |filters: &[&str]| {
        let (status, out, err) = audit(&[&["query"], filters, &[&name]].concat(), "");
        assert_eq!(status, ExitCode::SUCCESS, "{err}");
        out
    };
    assert_eq!(query(&[]).lines().count(), 5);
    assert_eq!(
        query(&["--outcome", "denied"]),
        "2026-06-16T10:05:01.000Z denied decision user:ann bad\\u202e server=demo method=tools/call reason=condition \
         rule=/tools/bad/deny_if/args.a-gt stream_id=77\n"
    );
    for (filters, n) in [
        (&["--principal", "user:ann"][..], 3),
        (&["--principal", "user:bob"], 0),
        (&["--tool", "bad\u{202e}"], 1),
        (&["--tool", "c d"], 1),
        (&["--server", "demo", "--outcome", "allowed"], 2),
        (&["--rule", "/tools/bad"], 1),
        (&["--event", "chain_start"], 1),
        (&["--stream-id", "77"], 3),
        (&["--trace-id", "abababababababababababababababab"], 1),
        (&["--trace-id", "ab"], 0),
        (&["--since", "2026-06-16T10:05:01Z", "--event", "decision"], 2),
        (&["--until", "2026-06-16T10:05:01Z", "--event", "decision"], 1),
        (&["--since", "2026-06-17"], 0),
        (&["--until", "2026-06-17"], 5),
    ] {
        assert_eq!(query(filters).lines().count(), n, "{filters:?}");
    }
    let json = query(&["--json"]);
    assert_eq!(json, fs::read_to_string(&path).unwrap());
    for filters in [["--outcome", "allow"], ["--since", "yesterday"]] {
        assert!(Line::try_parse_from([&["audit", "query"], &filters[..], &[&*name]].concat()).is_err());
    }
}

#[test]
fn a_line_that_somebody_else_wrote_steers_no_terminal() {
    let start = "{\"event_hash\":\"0\",\"tool_name\":\"";
    let escaped = format!("{start}\\u001b[2J\\u202ex\"}}\n");
    assert_eq!(audit(&["query", "-"], &escaped).1, "- - - - \\u{1b}[2J\\u{202e}x\n");
    for raw in ["\u{9b}2J\"}", "\u{202e}\"}", "x\"\r}"] {
        let line = format!("{start}{raw}\n");
        assert_eq!((audit(&["query", "-"], &line).1, audit(&["query", "--json", "-"], &line).1), Default::default());
    }
}

#[test]
fn a_line_that_is_too_long_hides_no_record_from_tail() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    write(&path, None, Rotation::default(), &["a"]);
    let long = "x".repeat(mcp_authz_core::audit::chain::LINE_BYTES_MAX + 1);
    fs::write(&path, format!("{long}\n{}", fs::read_to_string(&path).unwrap())).unwrap();
    let name = path.display().to_string();
    assert_eq!(audit(&["tail", "--event", "decision", &name], "").1.lines().count(), 1);
    let line = Line::try_parse_from(["audit", "tail", "-f", "-n", "0", "--event", "decision", &name]).unwrap();
    let Action::Tail(args) = &line.args.action else { panic!("{line:?}") };
    let (mut out, mut turns) = (Vec::new(), 0);
    let mut step = || {
        turns += 1;
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, format!("{long}\n").as_bytes()).unwrap();
        write(&path, None, Rotation::default(), &["b"]);
        turns < 2
    };
    tail::run(args, &mut out, &mut step).unwrap();
    assert_eq!(String::from_utf8(out).unwrap().lines().count(), 1);
}

#[test]
fn tail_shows_the_last_and_follows_into_the_next_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    write(&path, None, Rotation::default(), &["a", "b", "c"]);
    let name = path.display().to_string();
    let (status, out, _) = audit(&["tail", "-n", "2", "--event", "decision", &name], "");
    assert!(status == ExitCode::SUCCESS && out.lines().count() == 2 && out.contains(" c server="), "{out}");
    let line = Line::try_parse_from(["audit", "tail", "-f", "-n", "0", "--event", "decision", &name]).unwrap();
    let Action::Tail(args) = &line.args.action else { panic!("{line:?}") };
    let (mut out, mut turns) = (Vec::new(), 0);
    let mut step = || {
        turns += 1;
        match turns {
            1 => write(&path, None, Rotation::default(), &["d"]),
            2 => {
                write(&path, None, Rotation::default(), &["e"]);
                fs::rename(&path, folder.path().join("audit.jsonl.1")).unwrap();
                write(&path, None, Rotation::default(), &["f"]);
            }
            _ => return false,
        }
        true
    };
    tail::run(args, &mut out, &mut step).unwrap();
    let out = String::from_utf8(out).unwrap();
    let tools: Vec<&str> = out.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    assert_eq!(tools, ["d", "e", "f"]);
    assert_eq!(audit(&["tail", "/nonexistent"], "").0, ExitCode::from(64));
}
