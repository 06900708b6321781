//! Every documented scenario: linted, valid for the oldest and the newest Kubernetes, and a configuration that the program takes.

use std::process::Command;

use serde_json::{Value, json};

use super::{
    chart::{Manifests, RELEASE, chart, helm, render, root, scenarios, tool, tree},
    documents::check,
};

/// Schemas of these are there: tests/tools/install.sh says which.
const VERSIONS: [&str; 2] = ["1.30.0", super::chart::KUBERNETES];

#[test]
fn the_scenarios_of_the_contract_are_there() {
    let names = scenarios();
    for name in [
        "quickstart",
        "production-redis",
        "istio",
        "envoy-gateway",
        "daemonset",
        "daemonset-socket",
        "sidecar",
        "webhook-cert-manager",
        "webhook-generated",
        "audit-file",
        "observability",
    ] {
        assert!(names.iter().any(|known| known == name), "no scenario `{name}`");
    }
    let readme = std::fs::read_to_string(chart().join("README.md")).unwrap();
    for name in names {
        assert!(readme.contains(&format!("scenarios/{name}.yaml")), "the README does not name `{name}`");
    }
}

#[test]
fn lint_finds_nothing() {
    for name in scenarios() {
        let output = helm(&["lint", "--strict"], &name, &Value::Null);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {said}");
        // The icon is a picture that a gallery of charts would show.
        let findings = said.lines().filter(|line| line.starts_with('[') && !line.contains("icon is recommended"));
        assert_eq!(findings.count(), 0, "{name}: {said}");
    }
}

/// What kubeconform says of a text, and whether it is content.
fn conform(text: &str, version: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("manifests.yaml");
    std::fs::write(&file, text).unwrap();
    let schemas = tool("kubeconform", "kubeconform/schemas");
    let places = [
        "{{.NormalizedKubernetesVersion}}{{.StrictSuffix}}/{{.ResourceKind}}{{.KindSuffix}}.json",
        "{{.ResourceKind}}{{.KindSuffix}}.json",
    ];
    let mut command = Command::new(tool("kubeconform", "bin/kubeconform"));
    command.args(["-strict", "-summary", "-kubernetes-version", version]);
    for place in places {
        command.arg("-schema-location").arg(schemas.join(place));
    }
    let output = command.arg(&file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn every_object_is_valid_for_the_oldest_and_the_newest_kubernetes() {
    for version in VERSIONS {
        let all: String = scenarios().iter().map(|name| render(name, &Value::Null)).collect();
        let (well, said) = conform(&all, version);
        assert!(well && said.contains("Invalid: 0, Errors: 0, Skipped: 0"), "{version}: {said}");
    }
    let oldest = std::fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    assert!(
        oldest.contains(&format!("kubeVersion: \">={}-0\"", VERSIONS[0])),
        "Chart.yaml names another oldest version"
    );
}

#[test]
fn the_schemas_notice_what_is_wrong() {
    let good = render("webhook-cert-manager", &Value::Null);
    for (from, to) in [
        ("terminationGracePeriodSeconds: 45", "terminationGracePeriod: 45"),
        ("rotationPolicy: Always", "rotationPolicies: Always"),
        ("replicas: 1\n", "replicas: one\n"),
    ] {
        assert!(good.contains(from), "{from}");
        for version in VERSIONS {
            let (well, said) = conform(&good.replace(from, to), version);
            assert!(!well && said.contains("Invalid: 1"), "{to} is taken for {version}: {said}");
        }
    }
}

#[test]
fn the_program_takes_every_configuration() {
    for name in scenarios() {
        let said = check(&Manifests::of(&name, &Value::Null));
        assert!(said.contains("with 1 server, 1 policy, 1 grant; 0 defects"), "{name}: {said}");
    }
}

/// Values of the audit and what they become, with the key beside the token.
#[test]
fn the_audit_is_set_and_signed() {
    let audit = |name: &str, values: &Value| tree(Manifests::of(name, values).settings())["audit"].clone();
    let expected = json!({
        "sink": "/var/log/mcp-authz/audit.jsonl", "args": "keys", "outcomes": true, "fail_closed": true,
        "file": {"bytes_max": 104_857_600, "files_max": 0},
        "signing_key": "keys/audit.key", "checkpoint_records": 1000, "checkpoint_ms": 60_000,
    });
    assert_eq!(audit("audit-file", &Value::Null), expected);
    let stream =
        json!({"audit": {"sink": "redis", "args": "full", "dangerFullArgs": true, "redis": {"entriesMax": 5000}}});
    let expected = json!({
        "sink": "redis", "args": "full", "danger_full_args": true, "outcomes": true, "fail_closed": false,
        "redis": {"entries_max": 5000},
    });
    assert_eq!(audit("production-redis", &stream), expected);
    check(&Manifests::of("production-redis", &stream));
    let signed = json!({"admin.tokenSecret": "mcp-authz-admin", "audit.sink": "otlp", "audit.signingKeySecret": "mcp-authz-audit"});
    let both = Manifests::of("observability", &signed);
    let volumes = both.pod()["spec"]["volumes"].as_array().unwrap().clone();
    let keys = volumes.iter().find(|volume| volume["name"] == "keys").unwrap();
    let paths: Vec<&Value> = keys["projected"]["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|source| &source["secret"]["items"][0]["path"])
        .collect();
    assert_eq!(paths, [&json!("admin-token"), &json!("audit.key")]);
    check(&both);
}

#[test]
fn more_settings_are_merged_key_by_key() {
    let more = json!({"extraConfig": {"limits": {"json_depth_max": 32}, "timeouts": {"lease_ms": 60000}, "audit": {"buffer_bytes_max": 1048576}}});
    let manifests = Manifests::of("quickstart", &more);
    let settings = super::chart::tree(manifests.settings());
    assert_eq!(settings["limits"], json!({"json_depth_max": 32}));
    assert_eq!(settings["timeouts"], json!({"check_ms": 1000, "drain_ms": 10000, "lease_ms": 60000}));
    assert_eq!(settings["audit"]["sink"], "stdout");
    check(&manifests);
}

#[test]
fn large_numbers_stay_numbers() {
    // Helm reads numbers as floating point, and prints some of them as 1.0e+07.
    let more = json!({"extraConfig": {"limits": {"counters_max": 10_000_000, "reservations_max": 1_234_567}}});
    let manifests = Manifests::of("quickstart", &more);
    assert!(manifests.settings().contains("counters_max: 10000000"), "{}", manifests.settings());
    check(&manifests);
}

#[test]
fn policies_arrive_byte_for_byte() {
    let text = "{\"version\": \"1\",  \"default\": \"deny\",\n\n  \"tools\": {\"pay\": {\"require\": [{\"conditions\": [{\"path\": \"args.n\", \"op\": \"lt\", \"value\": 9007199254740993}]}]}}}\n";
    let manifests = Manifests::of("quickstart", &json!({"policies.inline": {"demo.json": text}}));
    let policies = manifests.object("ConfigMap", &format!("{RELEASE}-mcp-authz-policies"));
    assert_eq!(policies["data"]["demo.json"], text);
    check(&manifests);
}

#[test]
fn a_change_of_settings_starts_new_pods_and_a_change_of_documents_does_not() {
    let checksum = |overrides: &Value| {
        let manifests = Manifests::of("quickstart", overrides);
        manifests.pod()["metadata"]["annotations"]["mcp-authz.io/settings-checksum"].clone()
    };
    let before = checksum(&Value::Null);
    assert_ne!(before, checksum(&json!({"envoy.checkMs": 900})));
    assert_eq!(
        before,
        checksum(&json!({"policies.inline": {"demo.json": "{\"version\":\"1\",\"default\":\"deny\"}\n"}}))
    );
    assert_eq!(before, checksum(&json!({"servers.inline": {"demo": {"credential": {"kind": "none"}}}})));
}

#[test]
fn alerts_and_dashboards_are_those_of_deploy() {
    for (folder, extension) in [("alerts", "yaml"), ("dashboards", "json")] {
        let files = |base: std::path::PathBuf| -> Vec<(String, String)> {
            let Ok(entries) = std::fs::read_dir(base.join(folder)) else { return Vec::new() };
            let mut found: Vec<_> = entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|end| end == extension))
                .map(|path| {
                    (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap())
                })
                .filter(|(name, _)| !name.ends_with(".test.yaml"))
                .collect();
            found.sort();
            found
        };
        let (theirs, ours) = (files(root().join("deploy")), files(chart().join("files")));
        let command = format!("cp deploy/{folder}/*.{extension} helm/mcp-authz/files/{folder}/ (without *.test.yaml)");
        assert_eq!(theirs, ours, "the chart has other {folder}: {command}");
        let manifests = Manifests::of("observability", &Value::Null);
        let rendered = match folder {
            "alerts" => manifests.kind("PrometheusRule").len(),
            _ => manifests
                .kind("ConfigMap")
                .iter()
                .filter(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1")
                .count(),
        };
        assert_eq!(rendered, ours.len(), "not all {folder} are rendered");
    }
}

#[test]
fn the_values_of_the_page_about_installing_work_with_the_quickstart() {
    let page = std::fs::read_to_string(root().join("deploy/INSTALL.md")).unwrap();
    let (_, rest) = page.split_once("```yaml observe\n").unwrap();
    let more = super::chart::tree(rest.split_once("```").unwrap().0);
    let manifests = Manifests::of("quickstart", &more);
    check(&manifests);
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        assert!(!manifests.kind(kind).is_empty(), "no {kind}");
    }
    let policy = &manifests.object("NetworkPolicy", &format!("{RELEASE}-mcp-authz"))["spec"];
    assert!(policy["egress"].to_string().contains("4317"), "the collector cannot be reached: {policy}");
    // The Secrets that the page has somebody make are those that the chart mounts.
    for secret in ["mcp-authz-grants", "mcp-authz-credentials-demo", "mcp-authz-tls"] {
        assert!(page.contains(&format!("create secret generic {secret} ")), "{secret} is never made");
        assert!(manifests.pod().to_string().contains(&format!("\"{secret}\"")), "{secret} is not mounted");
    }
}
