//! The recipes, run: the shipped configuration on every line of Envoy, and what Istio and Envoy Gateway themselves made of theirs.
//!
//! `tests/recipes/translate.sh` wrote that down. Here only what a test must change is changed: addresses, certificates, and the
//! extensions that only Istio's build of Envoy has.

use std::net::SocketAddr;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};

use super::harness::authz::{ALPHA_SECRET, Authz, Grant, Settings, token};
use super::harness::envoy::{Authorizer, Envoy};
use super::harness::http1::{self, Request};
use super::harness::message::{self, Said};
use super::harness::stack::{Options, Stack};
use super::harness::upstream::{Mode, Upstream};
use super::harness::{root, until};

const POLICY: &str = r#"
version: "2"
default: deny
hide: [secret_tool]
tools:
  tool: {limits: [{counter: calls, window: day, scope: grant, max: 50}]}
"#;
/// The host that the recipe for Envoy Gateway serves.
const HOST: &str = "mcp.example.com";

fn settings() -> Settings {
    Settings {
        policies: vec![("main.yaml".to_owned(), POLICY.to_owned())],
        grants: vec![Grant::new("agent", "main")],
        ..Settings::default()
    }
}

fn post(message: String) -> Request {
    Request::post("/mcp", message).with("host", HOST).bearer(&token("agent"))
}

/// What every recipe must do, by what a caller, the server and the authorizer see of it.
async fn keeps_its_promises(envoy: SocketAddr, upstream: &Upstream, authz: &mut Authz) {
    upstream.answer(Mode::Tools);
    let response = post(message::call("tool", r#"{"a": [1,  2]}"#)).send(envoy).await;
    assert_eq!(message::said(&response), Said::Result, "{} {}", response.status, response.text());
    let hits = upstream.take();
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].values("authorization"), [format!("Bearer {ALPHA_SECRET}")]);

    let response = post(message::call("other", "{}")).send(envoy).await;
    assert!(
        matches!(message::said(&response), Said::Denied { reason, .. } if reason == "default_deny"),
        "{response:?}"
    );
    let stranger = post(message::call("tool", "{}")).bearer("mcpa_nobody").send(envoy).await;
    assert_eq!(stranger.status, 401, "{}", stranger.text());
    assert_eq!(upstream.count(), 0);

    let list = post(message::request("tools/list", "{}")).send(envoy).await.text();
    assert!(list.contains(r#""name":"tool""#) && !list.contains("secret_tool"), "{list}");
    upstream.take();

    // A body beyond every buffer that is not made for it, with bytes that a text would not keep.
    let long = message::call("tool", &format!(r#"{{"a": "{}"}}"#, "é".repeat(450_000)));
    let response = post(long.clone()).send(envoy).await;
    assert_eq!(message::said(&response), Said::Result, "{}", response.status);
    assert_eq!(upstream.take()[0].body, long.as_bytes());
    let response = post(message::call("tool", &format!(r#"{{"a": "{}"}}"#, "x".repeat(1_048_577)))).send(envoy).await;
    assert_eq!((response.status, upstream.count()), (413, 0));

    // Two headers that decide stay two; joined, they would be one odd name of a tool.
    let twice = post(message::call("tool", "{}")).header("authorization", "Bearer x").send(envoy).await;
    assert!(twice.text().contains("malformed.multi_value") || twice.status == 400, "{} {}", twice.status, twice.text());
    for path in ["/mcp/", "/other", "/", "/MCP", "/x/%2e%2e%2fmcp"] {
        let response = Request::post(path, message::call("tool", "{}"))
            .with("host", HOST)
            .bearer(&token("agent"))
            .send(envoy)
            .await;
        assert!(response.status >= 400, "{path}: {}", response.status);
    }
    let upgrade = post(message::call("tool", "{}")).header("upgrade", "websocket").with("connection", "upgrade");
    assert!(upgrade.send(envoy).await.status >= 400);
    assert_eq!(upstream.count(), 0);

    until("both calls are settled", async || {
        let metrics = authz.admin("/metrics").await.text();
        let settled = r#"mcp_authz_settlements_total{outcome="confirmed"} 2"#;
        metrics.contains(settled).then_some(())
    })
    .await;
    authz.process.signal("KILL").await;
    authz.process.ended().await;
    let response = post(message::call("tool", "{}")).send(envoy).await;
    assert_eq!((response.status, upstream.count()), (503, 0));
}

async fn on(tool: &'static str, file: &'static str) {
    let options = Options { tool, file, authz: settings(), ..Options::default() };
    let mut stack = Stack::start(&options).await;
    keeps_its_promises(stack.envoy.address, &stack.upstream, &mut stack.authz).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_for_1_36_works_on_1_36() {
    on("envoy-1.36", "deploy/envoy-1.36.yaml").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_for_1_36_works_on_1_38() {
    on("envoy-1.38", "deploy/envoy-1.36.yaml").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_for_1_40_works_on_1_40() {
    on("envoy", "deploy/envoy.yaml").await;
}

/// Certificates of a mesh that lives as long as a test.
struct Mesh {
    ca: String,
    authz: (String, String),
    envoy: (String, String),
}

impl Mesh {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of a certificate with the subject of its issuer Envoy thinks that it signed itself.
        params.distinguished_name.push(DnType::CommonName, "the mesh of a test");
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        let issue = |names: Vec<SanType>| {
            let mut params = CertificateParams::default();
            params.subject_alt_names = names;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().expect("a key");
            (params.signed_by(&key, &issuer).expect("a certificate").pem(), key.serialize_pem())
        };
        let uri = |name: &str| SanType::URI(name.try_into().expect("a name"));
        let host = "mcp-authz.mcp-system.svc.cluster.local";
        let dns = SanType::DnsName(host.try_into().expect("a name"));
        let authz = issue(vec![dns, uri("spiffe://cluster.local/ns/mcp-system/sa/mcp-authz")]);
        Self { ca, authz, envoy: issue(vec![uri(ENVOY)]) }
    }

    /// The settings of mcp-authz, which asks Envoy for its certificate.
    fn config(&self, dir: &Path) -> String {
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("the temporary folder is writable");
            path.display().to_string()
        };
        let (certificate, key) = (write("tls.crt", &self.authz.0), write("tls.key", &self.authz.1));
        let ca = write("ca.crt", &self.ca);
        format!("tls: {{certificate: {certificate}, key: {key}, client_ca: {ca}, allowed_sans: [\"{ENVOY}\"]}}\n")
    }

    /// Under the names by which the recipes ask for them.
    fn secrets(&self) -> Value {
        let inline = |text: &str| json!({"inline_string": text});
        let own = json!({"certificate_chain": inline(&self.envoy.0), "private_key": inline(&self.envoy.1)});
        let trusted = json!({"trusted_ca": inline(&self.ca)});
        json!([
            {"name": "default", "tls_certificate": own},
            {"name": "mcp/mcp-gateway-client", "tls_certificate": own},
            {"name": "ROOTCA", "validation_context": trusted},
            {"name": "mcp-authz/mcp-system-ca", "validation_context": trusted},
        ])
    }
}

const ENVOY: &str = "spiffe://cluster.local/ns/mcp/sa/gateway";

/// A dump as a bootstrap, towards the processes of a test.
struct Adapted {
    dump: Value,
    authz: SocketAddr,
    upstream: SocketAddr,
}

impl Adapted {
    fn part(&self, kind: &str, list: &str) -> Vec<Value> {
        let configs = self.dump["configs"].as_array().expect("a dump");
        let part = configs.iter().find(|part| part["@type"].as_str().is_some_and(|name| name.ends_with(kind)));
        let part = part.unwrap_or_else(|| panic!("no {kind}"));
        part[list].as_array().unwrap_or_else(|| panic!("no {list}")).clone()
    }

    /// `listener` by its name, and of its chains the one with the TLS of `chain`.
    fn bootstrap(&self, listener: &str, chain: &str, secrets: &Value) -> String {
        let listeners = self.part("ListenersConfigDump", "dynamic_listeners");
        let mut found = listeners.iter().map(|one| one["active_state"]["listener"].clone());
        let mut listener = found.find(|one| one["name"] == listener).expect("the listener of the recipe");
        let chains = listener["filter_chains"].as_array().expect("chains").clone();
        let mut chain = chains.into_iter().find(|one| one["name"] == chain).expect("the chain of the recipe");
        // Clients of this test speak plain HTTP, and to whatever port there is.
        for key in ["filter_chain_match", "transport_socket"] {
            chain.as_object_mut().expect("a map").remove(key).expect("the recipe has it");
        }
        let hcm = chain["filters"].as_array_mut().expect("filters").last_mut().expect("one");
        if let Some(rds) = hcm["typed_config"].as_object_mut().and_then(|hcm| hcm.remove("rds")) {
            let tables = self.part("RoutesConfigDump", "dynamic_route_configs");
            let mut tables = tables.iter().map(|one| one["route_config"].clone());
            let table = tables.find(|one| one["name"] == rds["route_config_name"]).expect("its routes");
            hcm["typed_config"]["route_config"] = without_type(table);
        }
        listener["filter_chains"] = json!([chain]);
        listener["address"] = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
        for key in ["listener_filters", "access_log", "use_original_dst", "bind_to_port", "default_filter_chain"] {
            listener.as_object_mut().expect("a map").remove(key);
        }
        let clusters = self.part("ClustersConfigDump", "dynamic_active_clusters");
        let clusters: Vec<Value> = clusters.iter().filter_map(|one| self.cluster(one["cluster"].clone())).collect();
        let mut value = json!({
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {"listeners": [without_type(listener)], "clusters": clusters, "secrets": secrets},
        });
        only_what_envoy_has(&mut value);
        value.to_string().replace(r#""server":"demo""#, r#""server":"alpha""#)
    }

    /// The same cluster elsewhere; nothing for those that lead out of the test.
    fn cluster(&self, mut cluster: Value) -> Option<Value> {
        let name = cluster["name"].as_str().expect("a name").to_owned();
        let is_authz = ["mcp-authz", "extauth", "extproc", "accesslog"].iter().any(|part| name.contains(part));
        let is_server = ["inbound|", "httproute/"].iter().any(|part| name.starts_with(part));
        let to = if is_authz {
            self.authz
        } else if is_server {
            self.upstream
        } else {
            return None;
        };
        let endpoints = self.part("EndpointsConfigDump", "dynamic_endpoint_configs");
        let mut endpoints = endpoints.iter().map(|one| without_type(one["endpoint_config"].clone()));
        // What the endpoint says of itself picks the transport.
        let mut assigned = endpoints
            .find(|one| one["cluster_name"] == name.as_str())
            .unwrap_or_else(|| json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {}}]}]}));
        assigned["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] =
            json!({"socket_address": {"address": to.ip().to_string(), "port_value": to.port()}});
        for key in ["eds_cluster_config", "cleanup_interval", "upstream_bind_config"] {
            cluster.as_object_mut().expect("a map").remove(key);
        }
        if cluster["lb_policy"] == "CLUSTER_PROVIDED" {
            cluster["lb_policy"] = json!("ROUND_ROBIN");
        }
        cluster["type"] = json!("STATIC");
        cluster["load_assignment"] = assigned;
        Some(without_type(cluster))
    }
}

fn without_type(mut value: Value) -> Value {
    value.as_object_mut().expect("a map").remove("@type");
    value
}

/// Takes out the filters that are only in Istio's build, and asks for secrets in the configuration itself.
fn only_what_envoy_has(value: &mut Value) {
    match value {
        Value::Array(list) => {
            list.retain(|one| !one["name"].as_str().is_some_and(|name| name.starts_with("istio.")));
            list.iter_mut().for_each(only_what_envoy_has);
        }
        Value::Object(map) => {
            map.remove("sds_config");
            map.values_mut().for_each(only_what_envoy_has);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Envoy Gateway writes `maxRequestBytes` where Envoy's dump says `max_request_bytes`. Names with a dot are names of people.
fn snake(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(snake),
        Value::Object(map) => {
            for (key, mut value) in std::mem::take(map) {
                snake(&mut value);
                let is_field = key.starts_with(|c: char| c.is_ascii_lowercase()) && !key.contains(['.', '/', '-']);
                let letters = key
                    .chars()
                    .flat_map(|c| c.is_ascii_uppercase().then_some('_').into_iter().chain([c.to_ascii_lowercase()]));
                let name = if is_field { letters.collect() } else { key.clone() };
                map.insert(name, value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn translated(file: &str) -> Value {
    let path = root().join("tests/recipes").join(file);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

async fn translated_keeps_its_promises(dump: Value, listener: &str, chain: &str) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mesh = Mesh::new();
    let upstream = Upstream::start().await;
    let settings = Settings { tcp: true, config: mesh.config(dir.path()), ..settings() };
    let mut authz = Authz::start(dir.path(), &settings).await;
    let Authorizer::Tcp(address) = authz.listener.clone() else { panic!("asked for TCP") };
    let adapted = Adapted { dump, authz: address, upstream: upstream.address };
    let text = adapted.bootstrap(listener, chain, &mesh.secrets());
    let envoy = Envoy::launch(dir.path(), "envoy", &text, 1).await;
    keeps_its_promises(envoy.address, &upstream, &mut authz).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_envoy_gateway_makes_of_its_recipe_works() {
    let mut all = translated("envoy-gateway.json");
    let gateways = all["xds"].as_object_mut().expect("gateways");
    let mut dump = gateways.values_mut().next().expect("one").take();
    snake(&mut dump);
    translated_keeps_its_promises(dump, "mcp/mcp/https", "mcp/mcp/https").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_istio_makes_of_its_recipe_works() {
    translated_keeps_its_promises(translated("istio.json"), "virtualInbound", "0.0.0.0_8080").await;
}

/// The doctor on a running Envoy, and on the files of every recipe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_finds_nothing_in_a_running_envoy_and_what_is_wrong_with_another() {
    let stack = Stack::start(&Options { authz: settings(), ..Options::default() }).await;
    let config = stack.authz.folder().join("config.yaml");
    let (status, said) =
        doctor(&["--envoy", &format!("http://{}", stack.envoy.admin), "--config", &config.display().to_string()]).await;
    // The routes of the harness beside the shipped one have no end, and one of them names no server. All else is as shipped.
    assert_eq!(status, Some(1), "{said}");
    let others: Vec<&str> =
        said.lines().filter(|line| line.starts_with("broken") || line.starts_with("unknown")).collect();
    assert!(others.iter().all(|line| line.contains("server-bound") || line.contains("route-time")), "{said}");
    assert_eq!(others.len(), 4, "{said}");
    let (status, said) = doctor(&["--envoy", &format!("http://{}", stack.authz.admin)]).await;
    assert_eq!(status, Some(64), "{said}");
}

async fn doctor(args: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
    let output = command.arg("doctor").args(args).output().await.expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// What keeps a dump of what an unmodified Envoy says useful: it is the same before and after a save.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_dump_says_the_same_as_the_envoy() {
    let stack = Stack::start(&Options { authz: settings(), ..Options::default() }).await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let save = async |page: &str| {
        let answer = http1::exchange(stack.envoy.admin, &Request::new("GET", &format!("/{page}")).bytes()).await;
        let path = dir.path().join(format!("{}.json", page.split('?').next().unwrap_or_default()));
        std::fs::write(&path, answer.body).expect("the temporary folder is writable");
        path.display().to_string()
    };
    let (dump, info) = (save("config_dump?include_eds").await, save("server_info").await);
    let told = |said: String| said.lines().filter(|line| !line.starts_with(' ')).map(str::to_owned).collect::<Vec<_>>();
    let (_, live) = doctor(&["--envoy", &format!("http://{}", stack.envoy.admin)]).await;
    let (_, saved) = doctor(&["--config-dump", &dump, &info]).await;
    assert_eq!(told(live), told(saved));
}
