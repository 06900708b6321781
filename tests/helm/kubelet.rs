//! The pods of the chart at work: probed, asked by Envoy for a real client, changed while they run, and stopped.

use serde_json::{Value, json};

use super::{
    chart::Manifests,
    documents::{host, identities, secrets},
    names::Names,
    process::until,
    replica::Replica,
    stack::{Envoy, Fixture, clusters},
};

/// The name in Envoy's certificate, as the scenarios allow it.
pub(crate) const ENVOY: &str = "envoy.mcp-system.svc.cluster.local";

const CHANGED: &str = r##"{
  "version": "1",
  "default": "deny",
  "tools": {
    "list_issues": {},
    "post_message": {
      "require": [{"conditions": [{"path": "args.channel", "op": "in", "value": ["#help"]}], "on_deny": "Only to #help since today."}]
    }
  }
}
"##;

fn post(channel: &str) -> Value {
    json!({"op": "call", "tool": "post_message", "arguments": {"channel": channel, "text": "hi"}})
}

#[test]
fn the_quickstart_works_as_rendered() {
    let folder = tempfile::tempdir().unwrap();
    let [server, envoy] = identities([&host(), ENVOY]);
    let (secrets, names) = (secrets(&server), Names::start());
    let manifests = Manifests::of("quickstart", &Value::Null);
    let mut replica = Replica::start(&manifests, &secrets, &folder.path().join("pod")).ready();
    names.set(&[replica.address]);
    let fixture = Fixture::start(folder.path());
    let envoy = Envoy::start(folder.path(), &clusters(&manifests), fixture.address, &names, &envoy);
    until("Envoy finds the pod", || (envoy.healthy("mcp_authz").len() == 1).then_some(()));

    let seen = envoy.client(&json!([
        {"op": "call", "tool": "list_issues", "arguments": {"repo": "acme/web"}},
        post("#general"),
        post("#support"),
    ]));
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen[1]["ok"] == true && seen[1]["isError"] == false, "{}\n{}", seen[1], envoy.output());
    assert!(
        seen[2]["text"].as_str().unwrap().starts_with("[POLICY DENIED] Messages may only go to #support."),
        "{}",
        seen[2]
    );
    assert!(seen[3]["isError"] == false, "{}", seen[3]);

    // Somebody edits the values and upgrades: the kubelet brings the new ConfigMaps to the pod that runs.
    let settings = std::fs::read(replica.pod.path("/etc/mcp-authz/config.yaml")).unwrap();
    let upgraded = Manifests::of("quickstart", &json!({"policies.inline": {"demo.json": CHANGED}}));
    replica.pod.update(&upgraded, &secrets);
    until("the new policy decides", || {
        let (_, answer) = envoy.call("post_message", &json!({"channel": "#support", "text": "hi"})).unwrap();
        answer.contains("Only to #help since today.").then_some(())
    });
    assert_eq!(std::fs::read(replica.pod.path("/etc/mcp-authz/config.yaml")).unwrap(), settings);

    names.set(&[]);
    replica.stop(|| envoy.healthy("mcp_authz").is_empty().then_some(()));
    let (status, _) = envoy.call("list_issues", &json!({})).unwrap();
    assert_eq!(status, 503, "without a pod nothing passes");
}

#[test]
fn a_certificate_of_somebody_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [server, stranger] = identities([&host(), "stranger.default.svc.cluster.local"]);
    let (secrets, names) = (secrets(&server), Names::start());
    let manifests = Manifests::of("quickstart", &Value::Null);
    let replica = Replica::start(&manifests, &secrets, &folder.path().join("pod")).ready();
    names.set(&[replica.address]);
    let envoy = Envoy::start(folder.path(), &clusters(&manifests), super::stack::answering(), &names, &stranger);
    until("mcp-authz refuses the name", || replica.process.output().contains("HandshakeRefused(Name)").then_some(()));
    let (status, _) = envoy.call("list_issues", &json!({})).unwrap();
    assert_eq!(status, 503);
    assert!(envoy.healthy("mcp_authz").is_empty());
}

#[test]
fn the_sidecar_is_found_at_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let [server, envoy] = identities([&host(), ENVOY]);
    let names = Names::start();
    let quotas = json!({"quotas": {"engine": "embedded", "embedded": {"countsPerReplica": true}}});
    let manifests = Manifests::of("sidecar", &quotas);
    let replica = Replica::start(&manifests, &secrets(&server), &folder.path().join("pod")).ready();
    assert_eq!(replica.pod.container["restartPolicy"], "Always", "it would have to end before Envoy starts");
    let clusters = replica.pod.prefixed(&clusters(&manifests));
    let fixture = Fixture::start(folder.path());
    let envoy = Envoy::start(folder.path(), &clusters, fixture.address, &names, &envoy);
    let seen = envoy.client(&json!([{"op": "list"}, post("#general"), post("#support")]));
    // Its policy says that Envoy shows responses, so what the policy denies is not listed.
    assert_eq!(seen[1]["names"], json!(["list_issues", "post_message"]), "{}\n{}", seen[1], envoy.output());
    assert!(seen[2]["isError"] == true && seen[3]["isError"] == false, "{seen:?}");
}

#[test]
fn the_audit_is_signed_with_the_key_of_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let [server] = identities([&host()]);
    let manifests = Manifests::of("audit-file", &Value::Null);
    let replica = Replica::start(&manifests, &secrets(&server), &folder.path().join("pod")).ready();
    let file = replica.pod.path("/var/log/mcp-authz/audit.jsonl");
    until("the chain begins with a signature", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let first = text.lines().next()?;
        (first.contains("\"event_type\":\"chain_start\"") && first.contains("\"signature\":\"")).then_some(())
    });
}
