//! "Guard your own server", run as it stands: the commands of the section in one bash, in order, in a fresh folder.
//!
//! Only what a machine of tests must change is changed: nothing is built or installed, ports are free ones, and the server
//! to guard is the fixture. Every wait has a condition and an end.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::{Block, README, block, blocks, fits, root};

/// For all of it, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the MCP server asks for, and what the reader pastes.
const SECRET: &str = "readme-upstream-secret";
/// What marks the output of our own lines.
const MARK: &str = "@@";

/// Ends every process with this one: the other end of the standard input is the test's, and a dead test closes it.
const PRELUDE: &str = r#"set -u
trap 'echo "@@failed $? ${BASH_COMMAND%%$'"'"'\n'"'"'*}"' ERR
exec 3<&0 < secret
( read -r _ <&3; kill -KILL 0 ) &
exec 3<&-
wait_for() {
  local tries=0
  until "$@"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 3000 ]; then echo "@@timeout $*"; exit 1; fi
    sleep 0.01
  done
}
has() { grep -qs -- "$1" "$2"; }
reloaded() { curl -sS "http://127.0.0.1:9192/config" | grep -q "\"reloads_ok\": $1"; }
"$FIXTURE" --listen "127.0.0.1:$FIXTURE_PORT" --require-authorization "Bearer $(cat secret)" --record seen.jsonl > fixture.log 2>&1 &
fixture=$!
wait_for has 'listening on' fixture.log
"#;

/// What stands in front of a command: the conditions that a person would wait for by reading.
const BEFORE: &[(&str, &str)] = &[
    ("grep '\"decision\":\"deny\"'", "wait_for has '\"decision\":\"deny\"' my-gateway/audit.jsonl\n"),
    ("grep -E 'reloads_", "wait_for reloaded 1\n"),
    ("mcp-authz grant revoke", "echo '@@begin changed'\ncall '#agent-log'\n"),
    (
        "kill \"$(cat my-gateway/envoy.pid)\"",
        r#"wait_for reloaded 2
echo '@@begin revoked'; call '#support'
echo '@@begin pages'; curl -sS http://127.0.0.1:9192/nothing
echo '@@begin before'; curl -sS http://127.0.0.1:9192/config
sed -i.old '/^envoy:$/{N;d;}' my-gateway/config.yaml
printf '%s\n' "$CHANGES" >> my-gateway/config.yaml
kill -HUP "$(cat my-gateway/mcp-authz.pid)"
wait_for reloaded 3
echo '@@begin after'; curl -sS http://127.0.0.1:9192/config
wait_for has 'only at the next start' my-gateway/mcp-authz.log
"#,
    ),
];

const CALL: &str = r#"call() {
  curl -sS -w '\nstatus %{http_code}\n' -H @my-gateway/agent.headers http://127.0.0.1:10000/mcp -d '{"jsonrpc": "2.0", "id": 9,
    "method": "tools/call", "params": {"name": "post_message", "arguments": {"channel": "'"$1"'", "text": "hi"}}}'
}
"#;

/// Both ends are awaited, so that nothing is left behind.
const POSTLUDE: &str = r#"echo '@@begin ends'
wait "$(cat my-gateway/envoy.pid)"; echo "envoy $?"
wait "$(cat my-gateway/mcp-authz.pid)"; echo "mcp-authz $?"
trap - ERR
kill "$fixture"
wait "$fixture"
echo '@@done'
"#;

/// The ports that the README and the shipped files name: of Envoy, of its admin page, of ours, and of the server.
const PORTS: [&str; 4] = ["10000", "9901", "9192", "3000"];

/// A port that the system just said is free; another process will bind it. None that would be replaced again.
fn free_port() -> u16 {
    let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let is_plain = |port: &u16| !PORTS.iter().any(|named| port.to_string().starts_with(named));
    std::iter::repeat_with(port).find(is_plain).unwrap()
}

/// Cargo says where it put the program.
fn fixture() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.current_dir(root()).args(["build", "--package", "mcp-authz-fixture", "--message-format=json"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let mut programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    programs.next_back().unwrap()
}

/// What the steps need of a fresh clone that has been built.
fn clone_into(dir: &Path) {
    let program = Path::new(env!("CARGO_BIN_EXE_mcp-authz"));
    fs::create_dir_all(dir.join("deploy")).unwrap();
    fs::create_dir_all(dir.join("target/release")).unwrap();
    fs::copy(root().join("deploy/envoy.yaml"), dir.join("deploy/envoy.yaml")).unwrap();
    symlink(program, dir.join("target/release/mcp-authz")).unwrap();
    symlink(root().join(".tools"), dir.join(".tools")).unwrap();
    assert!(dir.join(".tools/bin/envoy").exists(), "run tests/tools/install.sh envoy");
    fs::write(dir.join("secret"), format!("{SECRET}\n")).unwrap();
}

/// Sections for the settings file in which every value is another one than the default.
const CHANGES: &str = r#"limits: {body_bytes_max: 2048, json_depth_max: 9, json_nodes_max: 101, checks_in_flight_max: 5, header_bytes_max: 2048, headers_max: 99, counters_max: 101, reservations_max: 101, metric_counters_max: 999, metric_policies_max: 999, pinned_tools_max: 999, pinned_definition_bytes_max: 2048, pending_tools_max: 99}
timeouts: {check_ms: 900, margin_ms: 21, lease_ms: 1001, drain_ms: 9999}
envoy: {accept_lossy_body: true, response_phase: true}
response: {record: all, body_bytes_max: 2048, depth_max: 9, nodes_max: 101, list_ttl_max_ms: 1, streams_max: 5, memory_bytes_max: 67108865}"#;

/// Puts free ports in the place of those that the README and the shipped files name.
fn with_ports(text: &str, ports: &[(&str, u16)]) -> String {
    ports.iter().fold(text.to_owned(), |text, (from, to)| {
        let at = |before: &str| (format!("{before}{from}"), format!("{before}{to}"));
        [at("127.0.0.1:"), at("port_value: ")].iter().fold(text, |text, (from, to)| text.replace(from, to))
    })
}

/// The commands of all steps, each with a mark in front.
fn script(steps: &[&Block]) -> String {
    let mut script = String::from(PRELUDE) + CALL;
    for (number, step) in steps.iter().enumerate() {
        let text: String = step
            .text
            .lines()
            .filter(|line| !matches!(*line, "cargo build --release" | "tests/tools/install.sh envoy"))
            .flat_map(|line| [line, "\n"])
            .collect();
        for (_, wait) in BEFORE.iter().filter(|(command, _)| text.contains(command)) {
            script.push_str(wait);
        }
        script.push_str(&format!("echo '{MARK}begin {number}'\n{text}"));
    }
    script + POSTLUDE
}

/// Runs the script to its end and gives what it wrote.
async fn run(dir: &Path, script: &str, fixture_port: u16) -> String {
    let program = tokio::task::spawn_blocking(fixture).await.unwrap();
    fs::write(dir.join("steps.sh"), script).unwrap();
    let output = fs::File::create(dir.join("output")).unwrap();
    let mut command = tokio::process::Command::new("bash");
    command.arg("steps.sh").current_dir(dir).env("FIXTURE", program).env("FIXTURE_PORT", fixture_port.to_string());
    command.env("CHANGES", CHANGES).env_remove("MCP_AUTHZ_CONFIG").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(output.try_clone().unwrap()).stderr(output);
    let mut child = command.spawn().unwrap();
    // Dropped at the end of this function, whatever the end is; then the script's watcher ends the whole group.
    let leash = child.stdin.take();
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
    let said = String::from_utf8_lossy(&fs::read(dir.join("output")).unwrap()).into_owned();
    drop(leash);
    let logs = ["my-gateway/mcp-authz.log", "my-gateway/envoy.log", "fixture.log"];
    let logs: String = logs.iter().map(|log| fs::read_to_string(dir.join(log)).unwrap_or_default()).collect();
    assert!(ended.is_ok_and(|status| status.is_ok_and(|status| status.success())), "{said}\n{logs}");
    assert!(said.contains("@@done"), "{said}\n{logs}");
    said
}

/// What was written between that mark and the next one.
fn part<'a>(said: &'a str, name: &str) -> &'a str {
    let (_, rest) = said.split_once(&format!("{MARK}begin {name}\n")).unwrap_or_else(|| panic!("no {name} in {said}"));
    rest.split_once(&format!("{MARK}begin ")).map_or(rest, |(part, _)| part)
}

/// Every line of the README's output is in what was written, in that order.
fn assert_said(expected: &str, said: &str) {
    let mut lines = said.lines();
    for line in expected.lines() {
        assert!(lines.any(|actual| fits(line, actual)), "the README promises `{line}`, but it was\n{said}");
    }
}

/// `…` in a text of the README's answer stands for anything.
fn assert_same(expected: &Value, actual: &Value) {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            assert_eq!(expected.keys().collect::<Vec<_>>(), actual.keys().collect::<Vec<_>>());
            expected.iter().for_each(|(key, value)| assert_same(value, &actual[key]));
        }
        (Value::Array(expected), Value::Array(actual)) => {
            assert_eq!(expected.len(), actual.len());
            expected.iter().zip(actual).for_each(|(expected, actual)| assert_same(expected, actual));
        }
        (Value::String(expected), Value::String(actual)) => assert!(fits(expected, actual), "{expected} {actual}"),
        (expected, actual) => assert_eq!(expected, actual),
    }
}

#[test]
fn the_entry_for_clients_names_the_gateway() {
    let entry: Value = serde_json::from_str(&block("json mcp.json")).unwrap();
    assert_eq!(entry["mcpServers"]["tickets"]["url"], "http://127.0.0.1:10000/mcp");
    let shipped = fs::read_to_string(root().join("deploy/envoy.yaml")).unwrap();
    for text in ["port_value: 10000", "port_value: 9901", "match: {path: /mcp}", "cluster: mcp_server"] {
        assert!(shipped.contains(text), "deploy/envoy.yaml has no `{text}`");
    }
}

#[tokio::test]
async fn the_steps_lead_to_a_guarded_server() {
    let ports = PORTS.map(|named| (named, free_port()));
    let section: Vec<Block> =
        blocks().into_iter().filter(|block| matches!(block.name, "sh guard" | "text output")).collect();
    let steps: Vec<&Block> = section.iter().filter(|block| block.name == "sh guard").collect();
    let folder = tempfile::tempdir().unwrap();
    clone_into(folder.path());
    let envoy = folder.path().join("deploy/envoy.yaml");
    fs::write(&envoy, with_ports(&fs::read_to_string(&envoy).unwrap(), &ports[..2])).unwrap();
    let said = run(folder.path(), &with_ports(&script(&steps), &ports), ports[3].1).await;

    // `eval` says with its status that the call is denied; nothing else may fail.
    let failed: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("@@failed ")).collect();
    assert_eq!(failed.len(), 1, "{said}");
    assert!(failed[0].starts_with("1 mcp-authz eval "), "{said}");
    let mut step = 0;
    for block in &section {
        match block.name {
            "sh guard" => step += 1,
            _ => assert_said(&block.text, part(&said, &(step - 1).to_string())),
        }
    }
    let denied = steps.iter().position(|step| step.text.contains("agent.headers") && step.text.contains("#general"));
    let denied: Value = serde_json::from_str(part(&said, &denied.unwrap().to_string())).unwrap();
    assert_same(&serde_json::from_str(&block("json answer").replace('\n', "")).unwrap(), &denied);
    let allowed = steps.iter().position(|step| step.text.contains("\"initialize\"")).unwrap().to_string();
    for text in ["\"list_issues\"", "posted \\\"hi\\\" to #support"] {
        assert!(part(&said, &allowed).contains(text), "{said}");
    }
    assert!(part(&said, "changed").contains("posted \\\"hi\\\" to #agent-log"), "{said}");
    assert!(part(&said, "revoked").ends_with("status 401\n"), "{said}");
    assert_said("envoy 0\nmcp-authz 0", part(&said, "ends"));
    assert_eq!(executed(&folder.path().join("seen.jsonl")), ["post_message", "post_message"]);
    assert_pages(part(&said, "pages"));
    assert_live_settings(part(&said, "before"), part(&said, "after"));
}

/// The tools that really ran.
fn executed(record: &Path) -> Vec<String> {
    let text = fs::read_to_string(record).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events
        .filter(|event| event["event"] == "executed")
        .map(|event| event["tool"].as_str().unwrap().to_owned())
        .collect()
}

/// The admin port lists its pages to whoever asks for another one.
fn assert_pages(said: &str) {
    let (_, pages) = said.trim_end().split_once("there are ").unwrap();
    let documented: Vec<String> =
        super::table("Admin port", "page").iter().map(|row| super::spans(&row[0])[0].to_owned()).collect();
    assert_eq!(documented, pages.split(' ').collect::<Vec<_>>());
    let acts = "All pages are read-only but `/quota/reset`, `/quota/accept-loss`, `/pins/approve`, `/pins/forget` and `/pins/reset`.";
    assert!(README.contains(acts));
}

/// Of the settings that were changed, a reload took over those that the README names.
fn assert_live_settings(before: &str, after: &str) {
    let settings = |page: &str| serde_json::from_str::<Value>(page).unwrap()["settings"].clone();
    let (before, after) = (settings(before), settings(after));
    let mut taken = Vec::new();
    for section in ["limits", "timeouts", "envoy", "response"] {
        for (key, value) in after[section].as_object().unwrap() {
            if before[section][key] != *value {
                taken.push(format!("{section}.{key}"));
            }
        }
    }
    let sentence = README.lines().find(|line| line.starts_with("SIGHUP takes over ")).unwrap();
    let mut documented = super::spans(sentence);
    documented.sort_unstable();
    taken.sort_unstable();
    assert_eq!(taken, documented);
}
