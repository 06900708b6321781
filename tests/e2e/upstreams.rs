//! What a client sees of servers on four SDKs once lists are filtered and results are masked, in both eras.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::harness::authz::{Grant, Settings, token};
use super::harness::client::{CLIENTS, Client};
use super::harness::fixture::Fixture;
use super::harness::shop::{Sdk, Shop};
use super::harness::stack::{Options, Stack};

/// What must never reach a client: the address and the card of the invented customer, in every spelling that the servers use.
const CANARIES: &[&str] = &["ada.lovelace@customers.test", "ada.lovelace", "4111 1111 1111 1111", "4111111111111111"];

const POLICY: &str = r#"
version: "2"
default: allow
hide: [execute_command, delete_repository]
mask:
- detect: [email, payment_card]
"#;

/// The servers, by name, and what of them the client of an era can use.
async fn each_server(run: impl AsyncFn(&str, SocketAddr, bool)) {
    for sdk in [Sdk::TypeScript1, Sdk::TypeScript2, Sdk::Python2] {
        let shop = Shop::start(sdk).await;
        run(&format!("{sdk:?}"), shop.address, sdk != Sdk::TypeScript1).await;
    }
    let fixture = Fixture::start(None).await;
    run("Rust", fixture.address, true).await;
}

fn clients(is_modern_too: bool) -> impl Iterator<Item = &'static Client> {
    CLIENTS.iter().filter(move |client| is_modern_too || client.mode == "legacy")
}

fn steps() -> Value {
    json!([
        {"op": "list"},
        {"op": "call", "tool": "get_customer", "arguments": {"id": "c-1"}},
        {"op": "call", "tool": "list_issues", "arguments": {"repo": "acme/web"}},
        {"op": "call", "tool": "delete_repository", "arguments": {"owner": "acme", "repo": "web"}},
        {"op": "list_prompts"},
        {"op": "list_resources"},
    ])
}

/// What differs from what the same client sees of the server itself, beyond what the policy says.
fn wrong(direct: &[Value], behind: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    let mut names = direct[1]["names"].clone();
    let list = names.as_array_mut().expect("a list of tools");
    let all = list.len();
    list.retain(|name| name != "execute_command" && name != "delete_repository");
    assert_eq!(list.len() + 2, all, "the server itself has both");
    check(behind[1]["names"] == names, format!("tools: {} instead of {names}", behind[1]["names"]));
    for (at, step) in [(4, "the hidden tool"), (2, "the masked one")] {
        check(behind[at]["ok"] == true, format!("{step}: {}", behind[at]));
    }
    let (was, is) = (&direct[2], &behind[2]);
    check(is["isError"] == false && was["isError"] == false, format!("masked: {is}"));
    check(CANARIES.iter().all(|canary| !is.to_string().contains(canary)), format!("not masked: {is}"));
    let customer = &is["structured"]["customer"];
    check(customer["name"] == "Ada Lovelace" && customer["email"] != Value::Null, format!("more is gone: {is}"));
    check(behind[4]["isError"] == true, format!("hidden, and called: {}", behind[4]));
    // Nothing else may differ.
    for at in [3, 5, 6] {
        check(behind[at] == direct[at], format!("{} instead of {}", behind[at], direct[at]));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_of_every_server_sees_what_the_policy_leaves() {
    let mut problems = Vec::new();
    let problems_of = tokio::sync::Mutex::new(&mut problems);
    each_server(async |server, address, is_modern_too| {
        let authz = Settings {
            policies: vec![("main.yaml".to_owned(), POLICY.to_owned())],
            grants: vec![Grant::new("reader", "main")],
            ..Settings::default()
        };
        let stack = Stack::start(&Options { authz, upstream: Some(address), ..Options::default() }).await;
        let url = format!("http://{}/mcp", stack.envoy.address);
        for client in clients(is_modern_too) {
            let direct = client.run(&format!("http://{address}/mcp"), "none", &steps()).await;
            let behind = client.run(&url, &token("reader"), &steps()).await;
            assert_eq!(direct[0]["ok"], true, "{server}, {}: {}", client.name(), direct[0]);
            let found = wrong(&direct, &behind);
            problems_of.lock().await.extend(found.iter().map(|one| format!("{server}, {}: {one}", client.name())));
        }
    })
    .await;
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
