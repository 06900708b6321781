//! The samples: each loads, and the cases beside a policy pass.

use std::path::Path;
use std::process::Command;

use mcp_authz_core::{
    audit::{Act, CounterName, OperatorRecord, PinAct, PinRecord, Record, ResponseRecord, Settlement},
    decision::Decision,
    document::Format,
    json::{Document, Limits},
    ledger::{CounterId, Line, Span},
    mask::{Action, Findings, Hit, Judged, MaskKey},
    policy::{Call, Policy, Source},
    principal::Principal,
    quota::Mode,
    response::{Came, Kind, Report, Withheld},
    settle::{Facts, Fate},
    splice::Splices,
};
use serde_json::Value;

use super::{README, block, blocks, root, spans, table};

/// Every block and who checks it.
const KNOWN: &[(&str, &str)] = &[
    ("text picture", "nobody: it is a picture"),
    ("sh demo", "the_targets_of_make_are_there"),
    ("text transcript", "the_transcript_is_what_the_demo_says"),
    ("sh guard", "guide"),
    ("text output", "guide"),
    ("json mcp.json", "guide"),
    ("json answer", "guide"),
    ("yaml cluster", "envoy_takes_the_cluster_of_a_server_elsewhere"),
    ("json refunds.json", "the_samples_load_and_their_cases_pass"),
    ("json refunds.test.json", "the_samples_load_and_their_cases_pass"),
    ("yaml deploys.yaml", "the_samples_load_and_their_cases_pass"),
    ("yaml deploys.test.yaml", "the_samples_load_and_their_cases_pass"),
    ("yaml config.yaml", "the_samples_load_and_their_cases_pass"),
    ("yaml servers.yaml", "the_samples_load_and_their_cases_pass"),
    ("yaml grants.yaml", "the_samples_load_and_their_cases_pass"),
    ("json audit", "the_audit_fields_are_those_of_a_record"),
    ("json response", "the_fields_of_responses_are_those_of_a_record"),
    ("json settlement", "the_fields_of_settlements_are_those_of_a_record"),
    ("sh admin", "the_steps_to_the_admin_token_lead_to_it"),
    ("sh quota", "the_steps_to_the_admin_token_lead_to_it"),
    ("json act", "the_fields_of_an_act_are_those_of_its_record"),
    ("json act of pins", "the_fields_of_an_act_upon_pins_are_those_of_its_record"),
    ("sh develop", "the_targets_of_make_are_there"),
];

#[test]
fn every_block_is_checked_by_a_test() {
    for block in blocks() {
        assert!(KNOWN.iter().any(|(name, _)| *name == block.name), "no test checks the block `{}`", block.name);
    }
}

#[test]
fn links_lead_somewhere() {
    let anchor = |heading: &str| {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let headings: Vec<String> =
        README.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect();
    for link in README.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        match link.strip_prefix('#') {
            Some(fragment) => assert!(headings.iter().any(|heading| heading == fragment), "no heading for {link}"),
            None => assert!(root().join(link).exists(), "no file {link}"),
        }
    }
}

#[test]
fn the_targets_of_make_are_there() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    for target in ["test", "demo", "bench"] {
        assert!(README.contains(&format!("make {target}")), "the README does not name `make {target}`");
        assert!(makefile.lines().any(|line| line == format!("{target}:")), "there is no `make {target}`");
    }
    assert_eq!((block("sh demo").as_str(), block("sh develop").as_str()), ("make demo\n", "make test\n"));
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.lines().any(|line| line == "exec make test"), "CI calls something else than `make test`");
}

fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// What the command says, if it ends well.
fn mcp_authz(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_mcp-authz")).args(args).output().unwrap();
    let said: String =
        [&output.stdout, &output.stderr].into_iter().map(|bytes| String::from_utf8_lossy(bytes)).collect();
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

#[test]
fn the_samples_load_and_their_cases_pass() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    for name in ["json refunds.json", "json refunds.test.json", "yaml deploys.yaml", "yaml deploys.test.yaml"] {
        let (_, file) = name.split_once(' ').unwrap();
        write(&dir.join("policies").join(file), &block(name));
    }
    write(&dir.join("config.yaml"), &block("yaml config.yaml"));
    write(&dir.join("servers.yaml"), &block("yaml servers.yaml"));
    write(&dir.join("grants/grants.yaml"), &block("yaml grants.yaml"));
    write(&dir.join("credentials/tickets/token"), "secret\n");
    write(&dir.join("credentials/deploys/password"), "secret\n");
    let said = mcp_authz(&["check", dir.to_str().unwrap()]);
    assert!(said.contains("with 3 servers, 2 policies, 1 grant; 0 defects, 0 warnings"), "{said}");
    let said = mcp_authz(&["test", dir.join("policies").to_str().unwrap()]);
    assert_eq!(said, "12 passed, 0 failed\n");
}

#[test]
fn envoy_takes_the_cluster_of_a_server_elsewhere() {
    const NEXT: &str = "  # safety: a cluster of its own.";
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("ca.pem");
    let certificate = rcgen::generate_simple_self_signed(["mcp.example.com".to_owned()]).unwrap().cert.pem();
    std::fs::write(&authorities, certificate).unwrap();
    let cluster = block("yaml cluster");
    let authority_file = "/etc/ssl/certs/ca-certificates.crt";
    assert!(cluster.contains(authority_file));
    let cluster = cluster.replace(authority_file, authorities.to_str().unwrap());
    let shipped = std::fs::read_to_string(root().join("deploy/envoy.yaml")).unwrap();
    let (before, rest) = shipped.split_once("  - name: mcp_server\n").unwrap();
    let (_, after) = rest.split_once(NEXT).unwrap();
    let route = "                  cluster: mcp_server\n";
    assert_eq!(before.matches(route).count(), 1);
    let rewrite = spans(README).into_iter().find(|span| span.starts_with("host_rewrite_literal: mcp")).unwrap();
    let before = before.replace(route, &format!("{route}                  {rewrite}\n"));
    let config = folder.path().join("envoy.yaml");
    std::fs::write(&config, format!("{before}{cluster}\n{NEXT}{after}")).unwrap();
    let envoy = root().join(".tools/bin/envoy");
    assert!(envoy.exists(), "run tests/tools/install.sh envoy");
    let output = Command::new(envoy).args(["--mode", "validate", "-c"]).arg(&config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_settings_of_envoy_are_those_of_the_shipped_file() {
    let shipped = std::fs::read_to_string(root().join("deploy/envoy.yaml")).unwrap();
    let code: String = shipped.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    for row in table("Envoy", "setting") {
        for setting in spans(&row[0]) {
            assert!(code.contains(setting), "deploy/envoy.yaml has no `{setting}`");
        }
    }
}

/// The excerpt, held to the policy of the demo and to the fields of a record.
#[test]
fn the_transcript_is_what_the_demo_says() {
    let bytes = std::fs::read(root().join("policies/demo.json")).unwrap();
    let source = Source { id: "demo", file: "policies/demo.json", bytes: &bytes, format: Format::Json };
    let policy = Policy::compile(&source).unwrap().policy;
    let who = Principal::of_grant("demo-agent");
    let mut decision = None;
    let mut said = None;
    let mut seen = (0, 0, 0);
    for line in block("text transcript").lines() {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("server says ") {
            said = Some(masked(&policy, text));
        } else if let Some(text) = line.strip_prefix("agent gets") {
            assert_eq!(Some(text.trim()), said.take().as_deref());
            seen.2 += 1;
        } else if let Some(call) = line.strip_prefix("agent ") {
            let (tool, arguments) = call.trim().split_once(' ').unwrap();
            let document = Document::parse(arguments.as_bytes(), Limits::default()).unwrap();
            decision = Some(policy.decide(&who, &Call::of(tool, Some(document.root()))));
            seen.0 += 1;
        } else if let Some(text) = line.strip_prefix("denied ") {
            let Some(Decision::Deny(denial)) = &decision else { panic!("the demo's policy allows this: {line}") };
            assert_eq!(text.trim(), format!("[POLICY DENIED] {}", denial.message));
            seen.1 += 1;
        } else if let Some(record) = line.strip_prefix("audit ") {
            let record: Value = serde_json::from_str(record).unwrap();
            let (reason, rule) = match decision.as_ref().unwrap() {
                Decision::Deny(denial) => (denial.reason.name(), &*denial.rule.pointer),
                Decision::Proceed(_) => ("allowed", ""),
            };
            assert_eq!((record["reason"].as_str(), record["rule"].as_str()), (Some(reason), Some(rule)));
        }
    }
    assert_eq!(seen, (3, 2, 1));
}

/// What the policy of the demo leaves of a customer's text.
fn masked(policy: &Policy, text: &str) -> String {
    let message =
        serde_json::json!({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": text}]}});
    let message = message.to_string();
    let document = Document::parse(message.as_bytes(), Limits::default()).unwrap();
    let (mut splices, mut findings) = (Splices::default(), Findings::default());
    let key = MaskKey(std::sync::Arc::new([0; 32]));
    let judged = policy.results(Some("get_customer")).judge(&document, &key, &mut splices, &mut findings);
    assert_eq!(judged, Judged::Pass);
    let left: Value = serde_json::from_str(&splices.apply(&message).unwrap()).unwrap();
    left["result"]["content"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn the_audit_fields_are_those_of_a_record() {
    let arguments: String = (0..65).map(|n| format!("\"a{n}\":1,")).collect();
    let text = format!("{{{}}}", arguments.trim_end_matches(','));
    let document = Document::parse(text.as_bytes(), Limits::default()).unwrap();
    let some = Some("x");
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
        request_id: some,
        stream_id: some,
        is_unmetered: true,
        latency_us: 1,
    };
    let mut line = String::new();
    record.write(&mut line);
    let documented: Vec<String> =
        table("Audit", "field").iter().flat_map(|row| spans(&row[0])).map(str::to_owned).collect();
    assert_eq!(documented, keys(&line));
    let example = keys(&block("json audit"));
    assert!(example.iter().all(|key| documented.contains(key)), "{example:?}");
    assert!(example.len() + 3 >= documented.len(), "the example lacks fields that every allowed call has");
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
        outcome: "ok",
        withheld: some,
        stream_id: some,
        request_id: some,
        server: some,
        policy: some,
        policy_digest: some,
        grant: some,
        method: some,
        tool: some,
        status: 200,
        report: &report,
        upstream_ms: Some(1),
        duration_ms: 1,
    };
    let mut line = String::new();
    record.write(&mut line);
    let documented: Vec<String> =
        table("Audit", "field of a response").iter().flat_map(|row| spans(&row[0])).map(str::to_owned).collect();
    assert_eq!(documented, keys(&line));
    let example = keys(&block("json response"));
    assert!(example.iter().all(|key| documented.contains(key)), "{example:?}");
}

#[test]
fn the_fields_of_settlements_are_those_of_a_record() {
    let line = Line {
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
    let record = Settlement {
        time_ms: 1,
        outcome: "refunded",
        facts: Some(&Facts { fate: Fate::Answered(200), attempts: 1, came: Some(came) }),
        reservation: Some("1"),
        policy: Some([1; 8]),
        issued_ms: Some(1),
        lines: &[line],
    };
    let mut text = String::new();
    record.write(&mut text);
    let rows = table("Audit", "field of a settlement");
    let documented: Vec<String> = rows.iter().flat_map(|row| spans(&row[0])).map(str::to_owned).collect();
    assert_eq!(documented, keys(&text));
    assert_eq!(keys(&block("json settlement")), documented);
    let said = |field: &str| rows.iter().find(|row| row[0].contains(field)).unwrap()[1].clone();
    let outcomes = ["expired", "failed", "forged", "refunded", "surplus", "unknown"];
    assert!(outcomes.iter().all(|outcome| said("outcome").contains(&format!("`{outcome}`"))));
    assert!(Fate::NAMES.iter().all(|fate| said("fate").contains(&format!("`{fate}`"))));
    assert!(Kind::NAMES.iter().all(|kind| said("answer").contains(&format!("`{kind}`"))));
}

#[test]
fn the_fields_of_an_act_are_those_of_its_record() {
    let counter = CounterName { policy: "p", counter: "c", window: "w", scope: "s", tool: Some("t") };
    let acts = [Act::AcceptLoss, Act::Reset, Act::ResetFailed];
    let written = acts.map(|act| {
        let mut line = String::new();
        OperatorRecord { time_ms: 0, act, grant: Some("g"), counters: &[counter] }.write(&mut line);
        line
    });
    let rows = table("Audit", "field of an act");
    let documented: Vec<String> = rows.iter().flat_map(|row| spans(&row[0])).map(str::to_owned).collect();
    let example = block("json act");
    for line in written.iter().map(String::as_str).chain([example.as_str()]) {
        assert_eq!(documented, keys(line));
    }
    let members =
        |line: &str| serde_json::from_str::<Value>(line).unwrap()["counters"][0].as_object().cloned().unwrap();
    let names = |line: &str| members(line).keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&written[0]), names(&example));
    let events = rows.iter().find(|row| row[0] == "`event`").unwrap();
    assert_eq!(spans(&events[1]), acts.map(Act::name));
}

#[test]
fn the_fields_of_an_act_upon_pins_are_those_of_its_record() {
    let acts = [PinAct::Approve, PinAct::Forget, PinAct::Reset, PinAct::Failed];
    let rows = table("Audit", "field of an act upon pins");
    let documented: Vec<String> = rows.iter().flat_map(|row| spans(&row[0])).map(str::to_owned).collect();
    for act in acts {
        let mut line = String::new();
        PinRecord { time_ms: 0, act, server: "s", tool: Some("t"), digest: Some("d") }.write(&mut line);
        assert_eq!(documented, keys(&line));
    }
    assert_eq!(documented, keys(&block("json act of pins")));
    let events = rows.iter().find(|row| row[0] == "`event`").unwrap();
    assert_eq!(spans(&events[1]), acts.map(PinAct::name));
}

#[test]
fn the_steps_to_the_admin_token_lead_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join("my-gateway").join(name);
    std::fs::create_dir(folder.path().join("my-gateway")).unwrap();
    // A port of nobody: there the command ends when all of its arguments and files were right.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = format!("listen: {{grpc: [\"unix://authz.sock\"], admin: \"127.0.0.1:{port}\"}}\n");
    std::fs::write(at("config.yaml"), settings).unwrap();
    let status = Command::new("bash").args(["-ec", &block("sh admin")]).current_dir(folder.path()).status().unwrap();
    assert!(status.success());
    assert!(mcp_authz::admin::token::read(&at("admin.token")).is_ok());
    let text = block("sh quota");
    assert_eq!(text.lines().count(), 2);
    for line in text.lines() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
        command.args(line.split(' ').skip(1)).current_dir(folder.path()).env_remove("MCP_AUTHZ_CONFIG");
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains("is mcp-authz running there?"), "{line}: {said}");
    }
}

/// The names of the members of an object, as they stand in the text.
fn keys(object: &str) -> Vec<String> {
    let document = Document::parse(object.as_bytes(), Limits::default()).unwrap();
    document.root().members().map(|(key, _)| key.into_owned()).collect()
}
