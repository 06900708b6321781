//! `deploy/AUDIT.md`: its tables have the fields of records, and its commands run as they stand.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, sync::Arc, time::Duration};

use mcp_authz::{
    clock::ManualClock,
    config::Config,
    telemetry::{
        audit::{AuditSink, Checkpoints, Rotation, Settings, Sink, WhenUnavailable, key::SigningKey},
        metrics::Metrics,
    },
};
use mcp_authz_core::{
    audit::{
        Act, ArgsMode, CounterName, OperatorRecord, Outcome, OutcomeRecord, PinAct, PinRecord, Record, ResponseRecord,
        Settlement, chain::Chain, chain::Signer,
    },
    document::Format,
    json::{Document, Limits},
    ledger::{CounterId, Line, Span},
    mask::{Action, Findings, Hit},
    quota::Mode,
    response::{Came, Kind, Report, Withheld},
    settle::{Facts, Fate},
    trace::TraceContext,
};
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::{blocks_of, spans, table_in};

const PAGE: &str = include_str!("../../deploy/AUDIT.md");

fn table(first: &str) -> Vec<Vec<String>> {
    table_in(PAGE, "Every field", first)
}

fn block(name: &str) -> String {
    let mut found = blocks_of(PAGE).into_iter().filter(|block| block.name == name);
    let block = found.next().unwrap_or_else(|| panic!("deploy/AUDIT.md has no block `{name}`"));
    assert!(found.next().is_none(), "two blocks `{name}`");
    block.text
}

/// A draft as the line of a record.
fn line(write: impl Fn(&mut String)) -> String {
    let (mut draft, mut out) = (String::new(), Vec::new());
    write(&mut draft);
    assert!(Chain::new([0; 16], None, None).seal(draft.as_bytes(), &mut out));
    String::from_utf8(out).unwrap()
}

/// The names of members in the order of the text: of the core, and of the extension of that name.
fn members(line: &str, extension: &str) -> (Vec<String>, Vec<String>) {
    let document = Document::parse(line.trim().as_bytes(), Limits::default()).unwrap();
    let names = |value: mcp_authz_core::json::Value<'_>| value.members().map(|(name, _)| name.into_owned()).collect();
    let extension = document.root().get("extensions").and_then(|all| all.get(&format!("io.mcp-authz/{extension}")));
    (names(document.root()), names(extension.unwrap_or_else(|| panic!("{line}"))))
}

fn documented(first: &str) -> Vec<String> {
    table(first).iter().flat_map(|row| spans(&row[0])).map(str::to_owned).collect()
}

/// What the table says of a field.
fn said(first: &str, field: &str) -> String {
    let rows = table(first);
    rows.iter().find(|row| spans(&row[0]).contains(&field)).unwrap_or_else(|| panic!("no `{field}`"))[1].clone()
}

/// Every field of these lines is in the table, and no other.
#[track_caller]
fn holds(first: &str, extension: &str, lines: &[String]) {
    let mut all = std::collections::BTreeSet::new();
    for line in lines {
        let (core, members) = members(line, extension);
        assert_eq!(core, documented("field"), "core");
        all.extend(members);
    }
    assert_eq!(documented(first), all.into_iter().collect::<Vec<_>>(), "{first}");
}

fn trace() -> Option<TraceContext> {
    TraceContext::parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
}

#[test]
fn the_fields_of_decisions_are_those_of_a_record() {
    let arguments: String = (0..65).map(|n| format!("\"a{n}\":1,")).collect();
    let text = format!("{{{}}}", arguments.trim_end_matches(','));
    let document = Document::parse(text.as_bytes(), Limits::default()).unwrap();
    let some = Some("x");
    let lines: Vec<String> = ArgsMode::ALL
        .iter()
        .map(|args| {
            let record = Record {
                time_ms: 0,
                reason: None,
                rule: "",
                rule_exact: some,
                policy: some,
                policy_digest: some,
                server: some,
                principal: some,
                grant: some,
                method: "tools/call",
                tool: some,
                arguments: Some(document.root()),
                args: *args,
                args_key: Some(&[0; 32]),
                request_id: some,
                stream_id: some,
                trace: trace(),
                is_unmetered: true,
                latency_us: 1,
            };
            line(|out| record.write(out))
        })
        .collect();
    holds("field of a decision", "decision", &lines);
    let outcomes = said("field", "outcome");
    assert!(Outcome::ALL.iter().all(|outcome| outcomes.contains(&format!("`{}`", outcome.name()))), "{outcomes}");
    let modes = table_in(PAGE, "Say more or less of arguments", "`audit.args`");
    let named: std::collections::BTreeSet<&str> = modes.iter().flat_map(|row| spans(&row[0])).collect();
    assert_eq!(named, ArgsMode::ALL.iter().map(|mode| mode.name()).collect());
    let (_, example) = members(&block("json decision"), "decision");
    assert!(example.iter().all(|name| documented("field of a decision").contains(name)), "{example:?}");
}

#[test]
fn the_fields_of_responses_are_those_of_a_record() {
    let hits = (0..65).map(|n| Hit { rule: n.to_string().into(), action: Action::Mask, count: 1 }).collect();
    let new_fields = (0..65).map(|n| n.to_string()).collect();
    let report = Report {
        came: None,
        sha256: Some([1; 32]),
        bytes: 1,
        hidden: 1,
        unapproved: 1,
        findings: Findings { hits, new_fields },
        reported: 1,
        dropped: 1,
        withheld: Some(Withheld::Size),
        unread: Some(Withheld::Size),
    };
    let some = Some("x");
    let record = ResponseRecord {
        time_ms: 1,
        verdict: Outcome::Allowed,
        outcome: "ok",
        withheld: some,
        stream_id: some,
        request_id: some,
        server: some,
        policy: some,
        policy_digest: some,
        principal: some,
        grant: some,
        method: some,
        tool: some,
        trace: trace(),
        status: 200,
        report: &report,
        upstream_ms: Some(1),
        duration_ms: 1,
    };
    holds("field of a response", "response", &[line(|out| record.write(out))]);
}

#[test]
fn the_fields_of_outcomes_are_those_of_a_record() {
    let facts = Facts { fate: Fate::Answered(200), attempts: 1, came: None };
    let some = Some("x");
    let record = OutcomeRecord {
        time_ms: 1,
        facts: &facts,
        is_unseen: true,
        principal: some,
        grant: some,
        method: some,
        policy: some,
        policy_digest: some,
        server: some,
        stream_id: some,
        trace: trace(),
    };
    holds("field of an outcome", "outcome", &[line(|out| record.write(out))]);
    let fates = said("field of an outcome", "fate");
    assert!(Fate::NAMES.iter().all(|fate| fates.contains(&format!("`{fate}`"))));
}

#[test]
fn the_fields_of_settlements_are_those_of_a_record() {
    let held = Line {
        counter: CounterId(1),
        label: "deletions:hour-utc".into(),
        span: Span::Lifetime { idle_ms: 0 },
        mode: Mode::Consume,
        amount: 1,
        max: 1,
        strict: true,
        release: false,
    };
    let came = Came { kind: Kind::ProtocolError, bytes: 1, usage: Vec::new() };
    let facts = Facts { fate: Fate::Answered(200), attempts: 1, came: Some(came) };
    let record = Settlement {
        time_ms: 1,
        outcome: "refunded",
        facts: Some(&facts),
        reservation: Some("1"),
        policy: Some([1; 8]),
        issued_ms: Some(1),
        lines: &[held],
        trace: trace(),
    };
    holds("field of a settlement", "settlement", &[line(|out| record.write(out))]);
    let outcomes = ["expired", "failed", "forged", "refunded", "surplus", "unknown"];
    let settled = said("field of a settlement", "settled");
    assert!(outcomes.iter().all(|outcome| settled.contains(&format!("`{outcome}`"))));
    assert!(Kind::NAMES.iter().all(|kind| said("field of a settlement", "answer").contains(&format!("`{kind}`"))));
}

#[test]
fn the_fields_of_acts_are_those_of_their_records() {
    let counter = CounterName {
        policy: "p",
        policy_digest: Some("sha256:00"),
        counter: "c",
        window: "w",
        scope: "s",
        tool: Some("t"),
    };
    let quota = [Act::AcceptLoss, Act::Reset, Act::ResetFailed];
    let pins = [PinAct::Approve, PinAct::Forget, PinAct::Reset, PinAct::Failed];
    let acts = quota
        .map(|act| line(|out| OperatorRecord { time_ms: 0, act, grant: Some("g"), counters: &[counter] }.write(out)))
        .into_iter();
    let pinned = pins.map(|act| {
        line(|out| PinRecord { time_ms: 0, act, server: "s", tool: Some("t"), digest: Some("d") }.write(out))
    });
    let lines: Vec<String> = acts.chain(pinned).collect();
    holds("field of an act", "operator", &lines);
    let members = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        let counter = record["extensions"]["io.mcp-authz/operator"]["counters"][0].as_object().unwrap().clone();
        counter.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(spans(&said("field of an act", "counters")), members(&lines[0]));
    let events = said("field", "event_type");
    let names = quota.map(Act::name).into_iter().chain(pins.map(PinAct::name));
    let others = ["decision", "response", "outcome", "settlement", "chain_start", "checkpoint", "chain_end", "gap"];
    for name in names.chain(others) {
        assert!(events.contains(&format!("`{name}`")), "{name}");
    }
}

struct Key;

impl Signer for Key {
    fn key_id(&self) -> &str {
        "0123456789abcdef"
    }

    fn sign(&self, _text: &[u8]) -> String {
        "AAAA".to_owned()
    }
}

#[test]
fn the_fields_of_the_chain_are_those_of_its_records() {
    let mut chain = Chain::new([0; 16], None, Some(Box::new(Key)));
    let mut out = Vec::new();
    chain.start(1, "0", Some(1), &mut out);
    chain.checkpoint(1, &mut out);
    chain.end(1, &mut out);
    let about = String::from_utf8(std::mem::take(&mut out)).unwrap();
    holds("field of a checkpoint", "checkpoint", &about.lines().map(str::to_owned).collect::<Vec<_>>());
    chain.gap(1, 1, &mut out);
    let gap = String::from_utf8(out).unwrap();
    holds("field of a gap", "gap", std::slice::from_ref(&gap));
    holds("field of a place", "chain", &[gap]);
}

/// Runs a block of the page in a folder where `mcp-authz` is the one that was built; gives what it prints.
fn sh(folder: &Path, text: &str) -> String {
    let bin = folder.join("bin");
    if !bin.exists() {
        fs::create_dir(&bin).unwrap();
        symlink(env!("CARGO_BIN_EXE_mcp-authz"), bin.join("mcp-authz")).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let done = Command::new("bash").args(["-ec", text]).current_dir(folder).env("PATH", path).output().unwrap();
    let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
    assert!(done.status.success(), "{text}{out}{err}");
    out
}

#[test]
fn every_step_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let known = ["sh keygen", "yaml settings", "sh verify", "sh pipe", "sh query", "json decision", "python check"];
    assert_eq!(blocks_of(PAGE).iter().map(|block| block.name).collect::<Vec<_>>(), known);
    sh(folder.path(), &block("sh keygen"));
    let listen = "listen: {grpc: ['unix://a.sock'], admin: '127.0.0.1:0'}\n";
    let settings = format!("{listen}{}", block("yaml settings"));
    let config = Config::parse("config.yaml", settings.as_bytes(), Format::Yaml, folder.path()).unwrap();
    let Sink::File(path) = &config.audit.sink else { panic!("{settings}") };
    // Files end soon, so that there are some.
    for rotation in [Rotation { bytes_max: 3_000, files_max: 0 }, config.audit.file] {
        let settings = Settings {
            when_unavailable: WhenUnavailable::Deny,
            buffer_bytes_max: 1 << 20,
            rotation,
            checkpoints: Checkpoints { ..config.audit.checkpoints },
            signer: Some(Box::new(SigningKey::load(config.audit.signing_key.as_deref().unwrap()).unwrap())),
            clock: Arc::new(ManualClock::new(1_781_604_300_000)),
            remote: None,
        };
        let metrics = Metrics::new(&mut Registry::default(), 0);
        let sink = AuditSink::open_with(&Sink::File(path.clone()), settings, metrics).unwrap();
        let facts = Facts { fate: Fate::Answered(200), attempts: 1, came: None };
        for n in 0..5 {
            let mut draft = String::new();
            let record = OutcomeRecord {
                time_ms: 1_781_604_300_000 + n,
                facts: &facts,
                is_unseen: false,
                principal: Some("käthe \"\u{202e}\u{7f}"),
                grant: None,
                method: None,
                policy: None,
                policy_digest: None,
                server: None,
                stream_id: Some("9264854546074171864"),
                trace: None,
            };
            record.write(&mut draft);
            sink.append(draft.as_bytes()).unwrap();
        }
        sink.close(Duration::from_secs(60)).unwrap();
    }
    let said = sh(folder.path(), &block("sh verify"));
    assert!(said.contains("14 records in 2 chains, 4 signatures checked: nothing was changed"), "{said}");
    let found = sh(folder.path(), &block("sh query"));
    let records: Vec<&str> = found.lines().filter(|line| line.starts_with('{')).collect();
    assert!(!records.is_empty() && records.iter().all(|line| line.contains("9264854546074171864")), "{found}");
    // The command of the pipe, with a file in the place of the cluster.
    let pipe = block("sh pipe").replace("kubectl logs deploy/mcp-authz", "cat audit.jsonl.* audit.jsonl");
    assert!(sh(folder.path(), &pipe).contains("nothing was changed"));
    sh(folder.path(), "cat audit.jsonl.* audit.jsonl > all.jsonl");
    fs::write(at("check.py"), block("python check")).unwrap();
    assert_eq!(sh(folder.path(), "python3 check.py all.jsonl"), "ok\n");
    let changed = fs::read_to_string(at("all.jsonl")).unwrap().replacen("k\u{e4}the", "kathe", 1);
    fs::write(at("changed.jsonl"), changed).unwrap();
    assert!(sh(folder.path(), "python3 check.py changed.jsonl 2>&1 || true").contains("AssertionError"));
}
