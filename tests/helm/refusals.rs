//! What the chart refuses to render, one rule after the other, and that it tells all at once.

use serde_json::{Value, json};

use super::chart::{Manifests, chart, refusal, render};

/// Scenario, values over it, and what the message must hold.
type Rule = (&'static str, Value, &'static str);

fn rules() -> Vec<Rule> {
    [of_transport_and_documents(), of_what_is_kept(), of_running()].concat()
}

fn of_transport_and_documents() -> Vec<Rule> {
    vec![
        ("quickstart", json!({"image.repository": ""}), "image.repository is empty"),
        ("quickstart", json!({"image.tag": "latest"}), "image.tag is `latest`"),
        ("quickstart", json!({"grpc.transport": "mesh"}), "nothing says that a mesh encrypts it"),
        ("quickstart", json!({"grpc.tls.existingSecret": ""}), "`mtls` without a certificate"),
        ("quickstart", json!({"grpc.tls.allowedSans": []}), "grpc.tls.allowedSans is empty"),
        ("envoy-gateway", json!({"grpc.tls.certManager.issuerRef": {}}), "needs grpc.tls.certManager.issuerRef"),
        ("quickstart", json!({"grpc.transport": "unix"}), "`unix` in a Deployment"),
        ("sidecar", json!({"grpc": {"transport": "mesh", "meshEncrypts": true}}), "mode is `sidecar` with a TCP port"),
        ("daemonset-socket", json!({"daemonset.socketFolder": ""}), "set daemonset.socketFolder"),
        ("quickstart", json!({"grants.existingSecrets": []}), "grants.existingSecrets is empty"),
        ("quickstart", json!({"policies.inline": {}}), "there is no policy"),
        ("quickstart", json!({"servers.inline": {}}), "there is no server"),
        (
            "quickstart",
            json!({"servers.existingConfigMap": "servers"}),
            "servers.inline and servers.existingConfigMap are both set",
        ),
        ("quickstart", json!({"credentials": {}}), "takes its credential from a Secret that is not mounted"),
        ("quickstart", json!({"policies.inline": {"demo.json": MASKS}}), "rules for results (mask in demo.json)"),
        ("quickstart", json!({"policies.inline": {"demo.yaml": BLOCKS}}), "rules for results (block_if in demo.yaml)"),
        ("quickstart", json!({"servers.inline.demo.tools": {"trust": "first_use"}}), "servers.inline.demo pins tools"),
    ]
}

fn of_what_is_kept() -> Vec<Rule> {
    let redis = json!({"quotas.redis.url": "redis://u:p@redis:6379"});
    vec![
        ("quickstart", json!({"grpc.host": "127.0.0.1"}), "grpc.host is loopback with grpc.transport `mtls`"),
        ("quickstart", json!({"replicas": 2}), "several replicas count quotas apart"),
        ("quickstart", json!({"autoscaling.enabled": true}), "several replicas count quotas apart"),
        ("daemonset", json!({"quotas.engine": "embedded"}), "each pod counts quotas apart"),
        ("sidecar", json!({"quotas.engine": "embedded"}), "each pod counts quotas apart"),
        ("quickstart", json!({"quotas.embedded.persistence": false}), "every restart would hand out every quota anew"),
        (
            "quickstart",
            json!({"strategy": {"type": "RollingUpdate"}}),
            "strategy is a rolling update with embedded quotas",
        ),
        ("production-redis", json!({"quotas.redis.url": ""}), "set one of quotas.redis.url"),
        ("production-redis", json!({"quotas.redis.cluster": ["redis://a:1"]}), "set one of quotas.redis.url"),
        ("production-redis", redis, "holds a user or a password"),
        ("production-redis", json!({"quotas.redis.caSecret": ""}), "set quotas.redis.caSecret"),
        (
            "production-redis",
            json!({"quotas.redis.passwordSecret": ""}),
            "quotas.redis.username needs quotas.redis.passwordSecret",
        ),
        ("quickstart", json!({"audit": {"sink": "none", "failClosed": true}}), "a record that nobody keeps"),
        ("audit-file", json!({"audit.sink": "none"}), "a record that nobody keeps"),
        (
            "quickstart",
            json!({"extraConfig": {"audit": {"sink": "none", "fail_closed": true}}}),
            "a record that nobody keeps",
        ),
        ("audit-file", json!({"audit.volume.type": "none"}), "the container cannot write there"),
        ("audit-file", json!({"audit.sink": "/tmp/audit.jsonl"}), "the container cannot write there"),
        ("audit-file", json!({"audit.volume.existingClaim": ""}), "set audit.volume.existingClaim"),
        (
            "production-redis",
            json!({"audit": {"sink": "/var/log/mcp-authz/a", "volume": {"type": "claim", "existingClaim": "a"}}}),
            "write into one audit file",
        ),
        ("audit-file", emptied(&json!({"bytesMax": 0, "filesMax": 5})), "files without an end"),
        ("audit-file", emptied(&json!({"bytesMax": 100_000_000, "filesMax": 0})), "files without an end"),
        ("quickstart", json!({"audit.sink": "otlp"}), "logs are sent to no collector"),
        (
            "observability",
            json!({"audit.sink": "otlp", "extraConfig": {"telemetry": {"logs": {"enabled": false}}}}),
            "logs are sent to no collector",
        ),
        ("quickstart", json!({"audit.sink": "redis"}), "quotas are counted without one"),
        ("quickstart", json!({"audit.args": "full"}), "secrets among them"),
    ]
}

/// The audit in a folder that ends with the pod.
fn emptied(file: &Value) -> Value {
    json!({"audit.file": file, "audit.volume": {"type": "emptyDir", "existingClaim": ""}})
}

fn of_running() -> Vec<Rule> {
    vec![
        ("observability", json!({"serviceAccount.automountToken": false}), "kubernetes.events needs a token"),
        ("quickstart", json!({"stop.gracePeriodSeconds": 44}), "a stop may take 45"),
        ("istio", json!({"podDisruptionBudget.minAvailable": 2}), "no node could ever be drained"),
        ("istio", json!({"podDisruptionBudget.minAvailable": "100%"}), "no node could ever be drained"),
        ("istio", json!({"podDisruptionBudget.maxUnavailable": 0}), "no node could ever be drained"),
        ("production-redis", json!({"podDisruptionBudget.minAvailable": 3}), "no node could ever be drained"),
        ("daemonset", json!({"autoscaling.enabled": true}), "autoscaling.enabled in mode `daemonset`"),
        ("production-redis", json!({"autoscaling.maxReplicas": 2}), "autoscaling.maxReplicas is less"),
        (
            "quickstart",
            json!({"extraConfig": {"listen": {"admin": "127.0.0.1:1"}}}),
            "extraConfig.listen would move what probes",
        ),
        (
            "quickstart",
            json!({"extraConfig": {"danger_plaintext_tcp": true}}),
            "extraConfig.danger_plaintext_tcp would move what probes",
        ),
        ("quickstart", json!({"extraConfig": {"ledger": {"redis": {"url": "redis://r"}}}}), "names another engine"),
        ("webhook-generated", json!({"webhook.replicas": 1}), "nobody can change a policy while it restarts"),
    ]
}

const MASKS: &str = r#"{"version": "2", "default": "deny", "tools": {"a": {"mask": []}}}"#;
const BLOCKS: &str = "version: \"2\"\ndefault: allow\nblock_if: []\n";

#[test]
fn each_rule_refuses_what_it_is_for_and_nothing_else() {
    for (scenario, values, message) in rules() {
        let said = refusal(scenario, &values);
        assert!(said.contains(message), "{scenario} with {values}: {said}");
        assert!(
            said.contains("mcp-authz: 1 of the values"),
            "{scenario} with {values} breaks more than one rule: {said}"
        );
    }
}

/// A rule that is added to the chart without a row above would be one that nobody has seen refuse.
#[test]
fn every_rule_of_the_chart_has_a_test() {
    let text = std::fs::read_to_string(chart().join("templates/refuse.yaml")).unwrap();
    let rules = rules();
    let mut seen = 0_usize;
    for line in text.lines().filter(|line| line.contains("append $defects")) {
        // What a row quotes may run over a `%s`, so a piece of it is enough.
        let piece = |known: &str| {
            known.as_bytes().windows(14).any(|piece| line.as_bytes().windows(14).any(|part| part == piece))
        };
        assert!(rules.iter().any(|(_, _, known)| piece(known)), "no row for: {line}");
        seen = seen.checked_add(1).unwrap();
    }
    assert!(seen > 30, "the rules stand elsewhere now: {seen}");
}

#[test]
fn all_defects_are_told_at_once() {
    let said = refusal(
        "quickstart",
        &json!({"image.tag": "latest", "replicas": 3, "grants.existingSecrets": [], "audit": {"sink": "none", "failClosed": true}}),
    );
    assert!(said.contains("mcp-authz: 4 of the values"), "{said}");
    for message in ["image.tag", "several replicas", "grants.existingSecrets", "audit.failClosed"] {
        assert!(said.contains(message), "{message}: {said}");
    }
}

#[test]
fn who_says_that_it_is_meant_gets_it() {
    for (scenario, values) in [
        (
            "quickstart",
            json!({"image": {"repository": "r", "tag": "latest", "digest": format!("sha256:{}", "0".repeat(64))}}),
        ),
        ("quickstart", json!({"quotas.embedded": {"persistence": false, "forgetOnRestart": true}})),
        ("daemonset", json!({"quotas": {"engine": "embedded", "embedded": {"countsPerReplica": true}}})),
        ("quickstart", json!({"envoy.responsePhase": true, "policies.inline": {"demo.json": MASKS}})),
        (
            "quickstart",
            json!({"policies.inline": {"demo.json": "{\"version\":\"1\",\"default\":\"deny\",\"tools\":{\"mask\":{}}}"}}),
        ),
        ("audit-file", emptied(&json!({"bytesMax": 100_000_000, "filesMax": 5}))),
        ("observability", json!({"audit.sink": "otlp"})),
        (
            "quickstart",
            json!({"audit.sink": "otlp", "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://c:4317"}]}),
        ),
        ("production-redis", json!({"audit.sink": "redis"})),
        ("quickstart", json!({"audit": {"args": "full", "dangerFullArgs": true}})),
    ] {
        let rendered = render(scenario, &values);
        assert!(rendered.contains("kind: "), "{scenario} with {values}");
    }
    let manifests = Manifests::of("observability", &Value::Null);
    assert_eq!(manifests.pod()["spec"]["automountServiceAccountToken"], true, "events need it");
}
