//! What every rendered pod, policy and account keeps to, in every scenario.

use std::sync::Arc;

use base64::Engine as _;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use serde_json::{Value, json};

use super::chart::{Manifests, RELEASE, root, scenarios, tree};

/// Every spec of a pod, with a name for messages.
fn pods(scenario: &str) -> Vec<(String, Value)> {
    let manifests = Manifests::of(scenario, &Value::Null);
    let mut found = Vec::new();
    for object in manifests.all() {
        let spec = match object["kind"].as_str().unwrap() {
            "Deployment" | "DaemonSet" => &object["spec"]["template"]["spec"],
            "Pod" => &object["spec"],
            _ => continue,
        };
        found.push((format!("{scenario}: {} {}", object["kind"], object["metadata"]["name"]), spec.clone()));
    }
    if let Some(patch) = manifests.kind("ConfigMap").iter().find_map(|map| map["data"]["patch.yaml"].as_str()) {
        let mut spec = tree(patch)["spec"]["template"]["spec"].clone();
        // The pod is Envoy's; only what we put into it is ours.
        spec["containers"] = spec["initContainers"].clone();
        found.push((format!("{scenario}: sidecar"), spec));
    }
    assert!(!found.is_empty(), "{scenario} renders no pod");
    found
}

#[test]
fn containers_run_without_rights() {
    for scenario in scenarios() {
        for (name, spec) in pods(&scenario) {
            for container in spec["containers"].as_array().unwrap() {
                let security = &container["securityContext"];
                let expected = json!({
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": true,
                    "runAsNonRoot": true,
                });
                assert_eq!(*security, expected, "{name}");
                assert!(container["resources"]["requests"]["cpu"].is_string(), "{name} asks for no CPU");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{name} has no limit of memory");
                assert!(container["resources"]["limits"].get("cpu").is_none(), "{name} would be throttled");
            }
            if name.contains("sidecar") {
                continue;
            }
            let pod = &spec["securityContext"];
            assert_eq!(
                (&pod["runAsUser"], &pod["runAsGroup"], &pod["fsGroup"]),
                (&json!(65532), &json!(65532), &json!(65532))
            );
            assert_eq!(
                (&pod["runAsNonRoot"], &pod["seccompProfile"]["type"]),
                (&json!(true), &json!("RuntimeDefault"))
            );
            let events = scenario == "observability" && name.contains("mcp-authz\"") && name.contains("Deployment");
            assert_eq!(spec["automountServiceAccountToken"], events, "{name}");
            assert_eq!(spec["enableServiceLinks"], false, "{name}");
        }
    }
}

#[test]
fn nothing_is_writable_but_what_must_be() {
    for scenario in scenarios() {
        for (name, spec) in pods(&scenario) {
            for mount in spec["containers"][0]["volumeMounts"].as_array().unwrap() {
                let path = mount["mountPath"].as_str().unwrap();
                let written = ["/var/lib/mcp-authz", "/var/log/mcp-authz", "/run/mcp-authz"].contains(&path);
                assert_eq!(mount["readOnly"] == true, !written, "{name}: {path}");
            }
            for volume in spec["volumes"].as_array().unwrap() {
                for secret in [&volume["secret"], &volume["projected"]].into_iter().filter(|volume| volume.is_object())
                {
                    if secret.to_string().contains("ecret") {
                        assert_eq!(secret["defaultMode"], 0o400, "{name}: {volume}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_kubelet_waits_longer_than_a_stop_takes() {
    for scenario in scenarios().iter().filter(|name| *name != "sidecar") {
        let manifests = Manifests::of(scenario, &Value::Null);
        let spec = &manifests.pod()["spec"];
        let sleep = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        let drain = tree(manifests.settings())["timeouts"]["drain_ms"].as_u64().unwrap().div_euclid(1000);
        assert!(
            sleep >= 10,
            "{scenario}: Envoys look for replicas every two seconds, and Kubernetes needs some to tell"
        );
        let least = sleep.checked_add(drain).unwrap();
        assert!(spec["terminationGracePeriodSeconds"].as_u64().unwrap() > least, "{scenario}");
    }
}

#[test]
fn only_who_is_named_gets_in_and_nothing_else_out() {
    let manifests = Manifests::of("production-redis", &Value::Null);
    let policy = &manifests.object("NetworkPolicy", &format!("{RELEASE}-mcp-authz"))["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    let ports = |rules: &Value| -> Vec<String> {
        rules.as_array().unwrap().iter().map(|rule| rule["ports"][0]["port"].to_string()).collect()
    };
    assert_eq!(ports(&policy["ingress"]), ["\"tls-grpc\"", "\"admin\""]);
    assert_eq!(ports(&policy["egress"]), ["53", "6379"]);
    assert_eq!(policy["ingress"][0]["from"][0]["podSelector"], json!({"matchLabels": {"app": "envoy"}}));
    for rule in policy["ingress"].as_array().unwrap() {
        assert!(!rule["from"].as_array().unwrap().is_empty(), "a rule without peers lets everybody in");
    }
    let quiet = Manifests::of("quickstart", &Value::Null);
    let policy = &quiet.object("NetworkPolicy", &format!("{RELEASE}-mcp-authz"))["spec"];
    assert_eq!(policy["egress"], json!([]), "nothing is asked, so nothing is reached");
    let observed = Manifests::of("observability", &Value::Null);
    let policy = &observed.object("NetworkPolicy", &format!("{RELEASE}-mcp-authz"))["spec"];
    assert_eq!(ports(&policy["egress"]), ["53", "4317", "443"]);
}

#[test]
fn the_recipes_for_meshes_name_what_the_chart_renders() {
    // Installed as the recipes assume: the release `mcp-authz`, in whatever namespace.
    let istio = Manifests::of("istio", &Value::Null);
    assert_eq!(tree(istio.settings())["listen"]["grpc"], json!(["tcp://127.0.0.1:9191"]));
    assert!(tree(istio.settings()).get("danger_plaintext_tcp").is_none(), "loopback needs no permission");
    let recipe = std::fs::read_to_string(root().join("deploy/istio/mesh.yaml")).unwrap();
    let selector = "{app.kubernetes.io/name: mcp-authz, app.kubernetes.io/component: server}";
    assert_eq!(recipe.matches(selector).count(), 3, "a selector that also takes the webhook, which has no sidecar");
    let labels = &istio.pod()["metadata"]["labels"];
    assert_eq!([&labels["app.kubernetes.io/name"], &labels["app.kubernetes.io/component"]], ["mcp-authz", "server"]);
    for (scenario, recipes) in [("istio", "deploy/istio"), ("envoy-gateway", "deploy/envoy-gateway")] {
        let manifests = Manifests::of(scenario, &json!({"fullnameOverride": "mcp-authz"}));
        let service = manifests.object("Service", "mcp-authz");
        assert_eq!(service["spec"]["ports"][0]["port"], 9191, "{recipes}");
        let texts = std::fs::read_dir(root().join(recipes)).unwrap();
        let texts: String = texts.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        assert!(texts.contains("mcp-authz.mcp-system.svc.cluster.local"), "{recipes}");
    }
    let gateway = Manifests::of("envoy-gateway", &json!({"fullnameOverride": "mcp-authz"}));
    let names = gateway.kind("Certificate")[0]["spec"]["dnsNames"].as_array().unwrap();
    assert!(names.contains(&json!("mcp-authz.default.svc.cluster.local")), "the name that the gateway asks for");
}

#[test]
fn ports_and_selectors_agree() {
    for scenario in scenarios() {
        let manifests = Manifests::of(&scenario, &Value::Null);
        for service in manifests.kind("Service") {
            let labels = service["spec"]["selector"].as_object().unwrap();
            let pods: Vec<&Value> = manifests
                .all()
                .filter_map(|object| object["spec"].get("template"))
                .filter(|pod| labels.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value))
                .collect();
            assert_eq!(
                pods.len(),
                1,
                "{scenario}: {} selects {} kinds of pods",
                service["metadata"]["name"],
                pods.len()
            );
            for port in service["spec"]["ports"].as_array().unwrap() {
                let open = pods[0]["spec"]["containers"][0]["ports"].as_array().unwrap();
                assert!(open.iter().any(|open| open["name"] == port["targetPort"]), "{scenario}: {port}");
            }
        }
    }
}

#[test]
fn a_daemonset_is_asked_on_its_own_node() {
    let manifests = Manifests::of("daemonset", &Value::Null);
    let service = &manifests.object("Service", &format!("{RELEASE}-mcp-authz"))["spec"];
    assert_eq!(service["internalTrafficPolicy"], "Local");
    let set = &manifests.kind("DaemonSet")[0]["spec"];
    assert_eq!(set["updateStrategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    for port in set["template"]["spec"]["containers"][0]["ports"].as_array().unwrap() {
        assert!(port.get("hostPort").is_none(), "{port}");
    }
    let manifests = Manifests::of("daemonset-socket", &Value::Null);
    let set = &manifests.kind("DaemonSet")[0]["spec"];
    assert_eq!(set["updateStrategy"]["rollingUpdate"], json!({"maxSurge": 0, "maxUnavailable": 1}));
}

#[test]
fn two_that_count_apart_never_run_at_once() {
    let manifests = Manifests::of("quickstart", &Value::Null);
    assert_eq!(manifests.kind("Deployment")[0]["spec"]["strategy"], json!({"type": "Recreate"}));
    let claim = manifests.kind("PersistentVolumeClaim")[0];
    assert_eq!(claim["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    let manifests = Manifests::of("production-redis", &Value::Null);
    let strategy = &manifests.kind("Deployment")[0]["spec"]["strategy"];
    assert_eq!(strategy["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    assert!(manifests.kind("PersistentVolumeClaim").is_empty());
}

#[test]
fn a_generated_certificate_is_for_the_service_of_the_webhook() {
    let manifests = Manifests::of("webhook-generated", &Value::Null);
    let secret = manifests.object("Secret", &format!("{RELEASE}-mcp-authz-webhook-tls"));
    let hook = &manifests.kind("ValidatingWebhookConfiguration")[0]["webhooks"][0];
    assert_eq!(hook["clientConfig"]["caBundle"], secret["data"]["ca.crt"], "the API server trusts another authority");
    let service = hook["clientConfig"]["service"]["name"].as_str().unwrap();
    assert!(manifests.kind("Service").iter().any(|object| object["metadata"]["name"] == service));
    let pem =
        |key: &str| base64::engine::general_purpose::STANDARD.decode(secret["data"][key].as_str().unwrap()).unwrap();
    let certificate = CertificateDer::from_pem_slice(&pem("tls.crt")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem("ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let host = ServerName::try_from(format!("{service}.default.svc")).unwrap();
    // What the API server does with it.
    verifier.verify_server_cert(&certificate, &[], &host, &[], UnixTime::now()).unwrap();
    let manifests = Manifests::of("webhook-cert-manager", &Value::Null);
    let hook = manifests.kind("ValidatingWebhookConfiguration")[0];
    let injected = hook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"].as_str().unwrap();
    let certificate = manifests
        .kind("Certificate")
        .into_iter()
        .find(|object| format!("default/{}", object["metadata"]["name"].as_str().unwrap()) == injected);
    let names = certificate.unwrap()["spec"]["dnsNames"].to_string();
    assert!(names.contains(&format!("{service}.default.svc\"")), "{names}");
}
