//! The samples: each loads, and the cases beside a policy pass.

use std::path::Path;
use std::process::Command;

use mcp_authz_core::{
    decision::Decision,
    document::Format,
    json::{Document, Limits},
    mask::{Findings, Judged, MaskKey},
    policy::{Call, Policy, Source},
    principal::Principal,
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
    ("sh admin", "the_steps_to_the_admin_token_lead_to_it"),
    ("sh quota", "the_steps_to_the_admin_token_lead_to_it"),
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
