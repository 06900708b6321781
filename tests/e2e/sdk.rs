//! What a denial does to a real client: the agent reads our text, and its session goes on.

use serde_json::{Value, json};

use super::harness::authz::{ALPHA_SECRET, Grant, Settings, token};
use super::harness::client::CLIENTS;
use super::harness::fixture::Fixture;
use super::harness::stack::{Options, Stack};

const POLICY: &str = r#"{
  "version": "1",
  "default": "allow",
  "hide": ["execute_command"],
  "tools": {
    "delete_repository": {
      "deny_if": [{"conditions": [{"path": "args.owner", "op": "eq", "value": "acme"}], "on_deny": "Repositories of acme stay."}]
    },
    "create_refund": {
      "require": [{"conditions": [{"path": "args.amount", "op": "lte", "value": 5000}], "on_deny": "Refunds up to $50 only."}],
      "limits": [{"counter": "refunds", "window": "day", "scope": "grant", "max": 1, "on_deny": "One refund a day."}]
    }
  }
}"#;

/// A step, and what its answer has to say: nothing for an allowed one, else the text of the denial.
fn script() -> Vec<(Value, Option<&'static str>)> {
    let call = |tool: &str, arguments: Value| json!({"op": "call", "tool": tool, "arguments": arguments});
    let issues = || call("list_issues", json!({"repo": "acme/web"}));
    let refund = |amount: u64| call("create_refund", json!({"charge_id": "ch_1", "amount": amount}));
    vec![
        (json!({"op": "list"}), None),
        (issues(), None),
        // This tool has an output schema: a client that checks it must not trip over a denial.
        (
            call("delete_repository", json!({"owner": "acme", "repo": "web"})),
            Some("[POLICY DENIED] Repositories of acme stay."),
        ),
        (json!({"op": "list"}), None),
        (refund(1_000_000), Some("[POLICY DENIED] Refunds up to $50 only.")),
        (refund(100), None),
        (refund(100), Some("[POLICY DENIED] One refund a day.")),
        (
            call("execute_command", json!({"command": "id"})),
            Some("[POLICY DENIED] Tool \"execute_command\" is hidden by policy"),
        ),
        (call("delete_repository", json!({"owner": "me", "repo": "scratch"})), None),
        (issues(), None),
    ]
}

fn wrong_step(seen: &Value, denial: Option<&str>) -> Option<String> {
    let text = seen["text"].as_str().unwrap_or_default();
    let is_right = match denial {
        None => seen["ok"] == true && seen["isError"] == false,
        Some(denial) => {
            let decision = &seen["meta"]["mcp-authz.dev/decision"]["decision"];
            seen["ok"] == true && seen["isError"] == true && text.starts_with(denial) && decision == "deny"
        }
    };
    (!is_right).then(|| format!("wanted {denial:?}, saw {seen}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_reads_the_denial_and_its_session_lives() {
    let fixture = Fixture::start(Some(&format!("Bearer {ALPHA_SECRET}"))).await;
    // Each client has its own grant, so that one client's refund is not another's.
    let grants = CLIENTS.iter().enumerate().map(|(at, _)| Grant::new(&format!("client-{at}"), "main")).collect();
    let authz = Settings { policies: vec![("main.json".to_owned(), POLICY.to_owned())], grants, ..Settings::default() };
    let stack = Stack::start(&Options { authz, upstream: Some(fixture.address), ..Options::default() }).await;
    let url = format!("http://{}/mcp", stack.envoy.address);
    let script = script();
    let steps = Value::from(script.iter().map(|(step, _)| step.clone()).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for (at, client) in CLIENTS.iter().enumerate() {
        let seen = client.run(&url, &token(&format!("client-{at}")), &steps).await;
        assert_eq!(seen[0]["ok"], true, "{} does not connect: {}", client.name(), seen[0]);
        assert_eq!(seen.len(), script.len() + 1, "{}", client.name());
        for (seen, (_, denial)) in seen.iter().skip(1).zip(&script) {
            wrong.extend(wrong_step(seen, *denial).map(|problem| format!("{}: {problem}", client.name())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let once = ["list_issues", "create_refund", "delete_repository", "list_issues"];
    let wanted: Vec<&str> = CLIENTS.iter().flat_map(|_| once).collect();
    assert_eq!(fixture.executed(), wanted, "what ran is what was allowed, and nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_connects_with_an_unknown_token() {
    let fixture = Fixture::start(None).await;
    let policies = vec![("main.json".to_owned(), POLICY.to_owned())];
    let authz = Settings { policies, grants: vec![Grant::new("other", "main")], ..Settings::default() };
    let stack = Stack::start(&Options { authz, upstream: Some(fixture.address), ..Options::default() }).await;
    let url = format!("http://{}/mcp", stack.envoy.address);
    let steps = json!([{"op": "call", "tool": "list_issues", "arguments": {"repo": "acme/web"}}]);
    for client in CLIENTS {
        let seen = client.run(&url, &token("nobody"), &steps).await;
        assert!(seen.iter().skip(1).all(|step| step["ok"] == false), "{}: {seen:?}", client.name());
    }
    assert!(fixture.executed().is_empty());
}
