//! What istiod makes of a recipe for a sidecar, as far as mcp-authz relies on it: a bootstrap with one listener.
//!
//! `tests/recipes` holds it to what istiod itself makes of the shipped recipe.

use serde_json::{Map, Value, json};

use super::{
    ReadError,
    read::{self, Document},
    setup::Made,
    tree::{Flag, Tree},
    write::{copy, set},
};

const HCM: &str = "envoy.filters.network.http_connection_manager";
const AUTHZ: &str = "envoy.filters.http.ext_authz";
const ROUTER: &str = "envoy.filters.http.router";
const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// The objects by what they say.
struct Objects<'a> {
    trees: Vec<Tree<'a>>,
    mesh: Value,
}

impl<'a> Objects<'a> {
    fn of(&self, kind: &str) -> impl Iterator<Item = Tree<'a>> {
        self.trees.iter().filter(move |tree| tree.text("kind") == Some(kind)).filter_map(|tree| tree.get("spec"))
    }

    /// The provider of that name in the MeshConfig.
    fn provider(&self, name: &str) -> Option<Tree<'_>> {
        let mesh = Tree::root(&self.mesh, "MeshConfig");
        mesh.items("extension_providers").into_iter().find(|provider| provider.text("name") == Some(name))
    }
}

/// Makes it.
pub(super) fn make(documents: &[&Document]) -> Result<Made, ReadError> {
    let trees: Vec<_> = documents.iter().map(|document| Tree::root(&document.value, &document.name)).collect();
    let mut mesh = json!({});
    for tree in &trees {
        let found = match tree.text("kind") {
            Some("ConfigMap") => match tree.at(&["data"]).and_then(|data| data.text("mesh")) {
                Some(text) => read::yaml("MeshConfig", text)?,
                None => continue,
            },
            Some("IstioOperator") => match tree.at(&["spec", "mesh_config"]) {
                Some(config) => config.value().clone(),
                None => continue,
            },
            Some(_) | None => continue,
        };
        merge(&mut mesh, &found);
    }
    let objects = Objects { trees, mesh };
    let (mut hcm, clusters) = manager(&objects);
    let mut gaps = Vec::new();
    for filter in objects.of("EnvoyFilter") {
        for patch in filter.items("config_patches") {
            if apply(&mut hcm, &patch).is_none() {
                gaps.push(patch.value().clone());
            }
        }
    }
    let mut chain = json!({"filters": [{"name": HCM, "typed_config": hcm}]});
    if is_strict(&objects) {
        set(
            &mut chain,
            "transport_socket",
            json!({"name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext")}}),
        );
    }
    let mut value = json!({"admin": {"address": {"socket_address": {"address": "127.0.0.1"}}}, "static_resources": {
        "listeners": [{"name": "virtualInbound",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}}, "filter_chains": [chain]}],
        "clusters": clusters,
    }});
    // What is not understood is somewhere that nobody looked at.
    if !gaps.is_empty() {
        set(&mut value, "dynamic_resources", json!({"lds_config": gaps}));
    }
    Ok(Made { name: "the recipe for Istio, as Envoy's configuration".to_owned(), value })
}

/// What Istio makes without EnvoyFilters.
fn manager(objects: &Objects<'_>) -> (Value, Vec<Value>) {
    let (mut filters, mut clusters) = (Vec::new(), Vec::new());
    let policy = objects.of("AuthorizationPolicy").find(|policy| policy.text("action") == Some("CUSTOM"));
    if let Some(policy) = &policy {
        filters.push(shadow(policy));
        let name = policy.get("provider").and_then(|provider| provider.text("name")).unwrap_or_default();
        if let Some(provider) = objects.provider(name) {
            filters.push(authz(&provider));
            if let Some(grpc) = provider.get("envoy_ext_authz_grpc") {
                clusters.push(cluster(&grpc, objects));
            }
        }
    }
    filters.push(json!({"name": ROUTER, "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")}}));
    let mesh = Tree::root(&objects.mesh, "MeshConfig");
    let normalization = mesh.get("path_normalization").and_then(|path| path.text("normalization")).unwrap_or("BASE");
    let mut hcm = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "normalize_path": normalization != "NONE",
        "merge_slashes": matches!(normalization, "MERGE_SLASHES" | "DECODE_AND_MERGE_SLASHES"),
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": filters,
        "route_config": {"name": "inbound", "virtual_hosts": [{"name": "inbound|http", "domains": ["*"], "routes": [
            {"name": "default", "match": {"prefix": "/"}, "route": {"cluster": "inbound", "timeout": "0s",
                "max_stream_duration": {"max_stream_duration": "0s"},
                "retry_policy": {"retry_on": "reset-before-request", "num_retries": 2}}},
        ]}]},
    });
    if normalization == "DECODE_AND_MERGE_SLASHES" {
        set(&mut hcm, "path_with_escaped_slashes_action", json!("UNESCAPE_AND_FORWARD"));
    }
    let logs: Vec<_> = objects.of("Telemetry").filter_map(|telemetry| log(&telemetry, objects)).collect();
    set(&mut hcm, "access_log", Value::Array(logs));
    (hcm, clusters)
}

/// What the name of such a rule begins with.
const SHADOW_RULE: &str = "istio-ext-authz";

/// The rules that say about which requests to ask.
fn shadow(policy: &Tree<'_>) -> Value {
    let rules = policy.items("rules");
    let asks_all = |rule: &Tree<'_>| rule.is_empty();
    let rule = if rules.iter().any(asks_all) { json!({"any": true}) } else { json!({"or_rules": {}}) };
    json!({"name": "envoy.filters.http.rbac", "typed_config": {
        "@type": format!("{TYPES}.filters.http.rbac.v3.RBAC"),
        "shadow_rules": {"policies": {SHADOW_RULE: {"permissions": [rule], "principals": [{"any": true}]}}},
        "shadow_rules_stat_prefix": "istio_ext_authz_",
    }})
}

fn authz(provider: &Tree<'_>) -> Value {
    let mut config = json!({
        "@type": format!("{TYPES}.filters.http.ext_authz.v3.ExtAuthz"),
        "filter_enabled_metadata": {
            "filter": "envoy.filters.http.rbac",
            "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
            "value": {"string_match": {"prefix": SHADOW_RULE}},
        },
    });
    let Some(grpc) = provider.get("envoy_ext_authz_grpc") else {
        return json!({"name": AUTHZ, "typed_config": config});
    };
    set(
        &mut config,
        "grpc_service",
        json!({
            "envoy_grpc": {"cluster_name": cluster_name(&grpc), "authority": "mcp-authz"},
            "timeout": grpc.text("timeout").unwrap_or("600s"),
        }),
    );
    copy(&grpc, "fail_open", &mut config, "failure_mode_allow");
    if let Some(code) = grpc.text("status_on_error") {
        let code = code.parse::<u16>().map_or(Value::Null, Value::from);
        set(&mut config, "status_on_error", json!({"code": code}));
    }
    copy(&grpc, "include_request_body_in_check", &mut config, "with_request_body");
    json!({"name": AUTHZ, "typed_config": config})
}

fn log(telemetry: &Tree<'_>, objects: &Objects<'_>) -> Option<Value> {
    telemetry.items("access_logging").iter().find_map(|logging| {
        if logging.flag("disabled") == Flag::Yes {
            return None;
        }
        let names: Vec<_> = logging.items("providers").iter().filter_map(|provider| provider.text("name")).collect();
        let als = names
            .iter()
            .find_map(|name| objects.provider(name)?.get("envoy_http_als").map(|als| cluster_name(&als)))?;
        let mut log = json!({"name": "envoy.access_loggers.http_grpc", "typed_config": {
            "@type": format!("{TYPES}.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"),
            "common_config": {"grpc_service": {"envoy_grpc": {"cluster_name": als, "authority": "mcp-authz"}}},
        }});
        copy(logging, "filter", &mut log, "filter");
        Some(log)
    })
}

fn cluster_name(provider: &Tree<'_>) -> String {
    let port = provider.number("port").unwrap_or_default();
    // A namespace may stand in front of the host.
    let service = provider.text("service").unwrap_or_default();
    let host = service.rsplit('/').next().unwrap_or_default();
    format!("outbound|{port}||{host}")
}

fn cluster(provider: &Tree<'_>, objects: &Objects<'_>) -> Value {
    let name = cluster_name(provider);
    let host = name.rsplit('|').next().unwrap_or_default().to_owned();
    let mut cluster = json!({"name": name,
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
            {"explicit_http_config": {"http2_protocol_options": {}}}}});
    let entry = objects.of("ServiceEntry").find(|entry| entry.texts("hosts").contains(&host.as_str()));
    if let Some(entry) = entry {
        let endpoints: Vec<_> = entry
            .items("endpoints")
            .iter()
            .map(|endpoint| {
                let address = endpoint.text("address").unwrap_or_default();
                let address = match address.strip_prefix("unix://") {
                    Some(path) => json!({"pipe": {"path": path}}),
                    None => json!({"socket_address": {"address": address}}),
                };
                json!({"endpoint": {"address": address}})
            })
            .collect();
        set(&mut cluster, "load_assignment", json!({"endpoints": [{"lb_endpoints": endpoints}]}));
    }
    let rule = objects.of("DestinationRule").find(|rule| rule.text("host") == Some(host.as_str()));
    let Some(traffic) = rule.and_then(|rule| rule.get("traffic_policy")) else { return cluster };
    if let Some(http) = traffic.at(&["connection_pool", "http"]) {
        let mut threshold = json!({});
        copy(&http, "http2_max_requests", &mut threshold, "max_requests");
        copy(&http, "http1_max_pending_requests", &mut threshold, "max_pending_requests");
        set(&mut cluster, "circuit_breakers", json!({"thresholds": [threshold]}));
    }
    if let Some(tls) = traffic.get("tls") {
        set(&mut cluster, "transport_socket", transport(&tls));
    }
    cluster
}

fn transport(tls: &Tree<'_>) -> Value {
    let mut common = json!({});
    let mode = tls.text("mode").unwrap_or_default();
    let is_mesh = mode == "ISTIO_MUTUAL";
    if is_mesh || mode == "MUTUAL" {
        set(&mut common, "tls_certificates", json!([{}]));
    }
    if is_mesh || tls.has("ca_certificates") || tls.has("credential_name") {
        let names = tls
            .get("subject_alt_names")
            .map_or_else(|| if is_mesh { json!(["mesh"]) } else { json!([]) }, |names| names.value().clone());
        set(&mut common, "validation_context", json!({"trusted_ca": {}, "match_typed_subject_alt_names": names}));
    }
    if mode == "DISABLE" {
        return Value::Null;
    }
    json!({"typed_config": {"@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"), "common_tls_context": common}})
}

/// Whether the workload takes nothing but the TLS of the mesh: some PeerAuthentication is strict, and none is not.
fn is_strict(objects: &Objects<'_>) -> bool {
    let modes: Vec<_> =
        objects.of("PeerAuthentication").map(|peer| peer.get("mtls").and_then(|mtls| mtls.text("mode"))).collect();
    !modes.is_empty() && modes.iter().all(|mode| *mode == Some("STRICT"))
}

/// One patch of an EnvoyFilter; `None` if it is not understood.
fn apply(hcm: &mut Value, patch: &Tree<'_>) -> Option<()> {
    let value = patch.at(&["patch", "value"])?.value();
    let operation = patch.get("patch")?.text("operation")?;
    let sub = patch.at(&["match", "listener", "filter_chain", "filter", "sub_filter"]);
    let sub = sub.as_ref().and_then(|sub| sub.text("name"));
    match (patch.text("apply_to")?, operation) {
        ("NETWORK_FILTER", "MERGE") => merge(hcm, value.get("typed_config")?),
        ("HTTP_FILTER", "MERGE") => {
            let filter = list(hcm, "http_filters")?
                .iter_mut()
                .find(|filter| filter.get("name").and_then(Value::as_str) == sub)?;
            merge(filter, value);
        }
        ("HTTP_FILTER", "INSERT_BEFORE" | "INSERT_AFTER" | "INSERT_FIRST" | "ADD") => {
            let filters = list(hcm, "http_filters")?;
            let found = filters.iter().position(|filter| filter.get("name").and_then(Value::as_str) == sub);
            let at = match operation {
                "INSERT_BEFORE" => found.unwrap_or_default(),
                "INSERT_AFTER" => found.map_or(filters.len(), |at| at.saturating_add(1)),
                "INSERT_FIRST" => 0,
                _ => filters.len(),
            };
            filters.insert(at, value.clone());
        }
        ("HTTP_ROUTE", "MERGE" | "INSERT_FIRST" | "ADD") => route(hcm, patch, operation, value)?,
        _ => return None,
    }
    Some(())
}

fn route(hcm: &mut Value, patch: &Tree<'_>, operation: &str, value: &Value) -> Option<()> {
    let host = hcm.pointer_mut("/route_config/virtual_hosts/0")?;
    let routes = list(host, "routes")?;
    match operation {
        "INSERT_FIRST" => routes.insert(0, value.clone()),
        "ADD" => routes.push(value.clone()),
        _ => {
            let name = patch.at(&["match", "route_configuration", "vhost", "route"]);
            let name = name.as_ref().and_then(|route| route.text("name"));
            for route in
                routes.iter_mut().filter(|route| name.is_none() || route.get("name").and_then(Value::as_str) == name)
            {
                // One action takes the place of another.
                if value.get("direct_response").is_some() || value.get("redirect").is_some() {
                    route.as_object_mut()?.remove("route");
                }
                merge(route, value);
            }
        }
    }
    Some(())
}

fn list<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    value.get_mut(key)?.as_array_mut()
}

/// As protobuf merges: maps by their members, lists one after the other, all else replaced.
fn merge(onto: &mut Value, from: &Value) {
    match (onto, from) {
        (Value::Object(onto), Value::Object(from)) => merge_maps(onto, from),
        (Value::Array(onto), Value::Array(from)) => onto.extend(from.iter().cloned()),
        (onto, from) => *onto = from.clone(),
    }
}

fn merge_maps(onto: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match onto.get_mut(key) {
            Some(found) => merge(found, value),
            None => {
                onto.insert(key.clone(), value.clone());
            }
        }
    }
}
