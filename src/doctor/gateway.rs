//! What Envoy Gateway makes of a recipe, as far as mcp-authz relies on it: a bootstrap with one listener.
//!
//! `tests/recipes` holds it to what Envoy Gateway itself makes of the shipped recipe.

mod patch;

use serde_json::{Value, json};

use super::{
    ReadError,
    read::Document,
    setup::Made,
    tree::{Flag, Tree},
    write::{copy, set},
};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// The objects by what they say.
pub(super) struct Objects<'a>(Vec<Tree<'a>>);

impl<'a> Objects<'a> {
    fn of(&self, kind: &str) -> impl Iterator<Item = Tree<'a>> {
        self.0.iter().filter(move |tree| tree.text("kind") == Some(kind)).filter_map(|tree| tree.get("spec"))
    }

    /// The policy of that kind for the route: its own before that of the gateway.
    fn for_route(&self, kind: &str, route: &str) -> Option<Tree<'a>> {
        let targets = |policy: &Tree<'_>, kind: &str, name: Option<&str>| {
            let refs = policy.items("target_refs").into_iter().chain(policy.get("target_ref"));
            refs.into_iter()
                .any(|target| target.text("kind") == Some(kind) && (name.is_none() || target.text("name") == name))
        };
        let mut policies = self.of(kind);
        policies
            .find(|policy| targets(policy, "HTTPRoute", Some(route)))
            .or_else(|| self.of(kind).find(|policy| targets(policy, "Gateway", None)))
    }
}

/// Makes it.
pub(super) fn make(documents: &[&Document]) -> Result<Made, ReadError> {
    let trees = documents.iter().map(|document| Tree::root(&document.value, &document.name)).collect();
    let objects = Objects(trees);
    let names: Vec<(&str, Tree<'_>)> = objects
        .0
        .iter()
        .filter(|tree| tree.text("kind") == Some("HTTPRoute"))
        .filter_map(|tree| Some((tree.get("metadata")?.text("name")?, tree.get("spec")?)))
        .collect();
    let (mut filters, mut clusters, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    for (name, spec) in &names {
        let mut words = json!({});
        if let Some(auth) = objects.for_route("SecurityPolicy", name).and_then(|policy| policy.get("ext_auth")) {
            let (filter, word) = authz(name, &auth);
            set(&mut words, filter.get("name").and_then(Value::as_str).unwrap_or_default(), word);
            clusters.extend(auth.get("grpc").map(|grpc| cluster(&format!("authz/{name}"), &grpc, &objects)));
            filters.insert(0, filter);
        }
        if let Some(policy) = objects.for_route("EnvoyExtensionPolicy", name) {
            for (number, external) in policy.items("ext_proc").iter().enumerate() {
                let filter = processor(&format!("{name}/{number}"), external);
                let word = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}});
                set(&mut words, filter.get("name").and_then(Value::as_str).unwrap_or_default(), word);
                clusters.push(cluster(&format!("responses/{name}/{number}"), external, &objects));
                filters.push(filter);
            }
            for kind in ["wasm", "lua", "dynamic_modules"] {
                filters.extend(
                    policy.items(kind).iter().map(
                        |_| json!({"name": kind, "typed_config": {"@type": format!("{TYPES}.filters.http.{kind}")}}),
                    ),
                );
            }
        }
        routes.extend(rules(name, spec, &words, &objects));
    }
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")}}));
    clusters.extend(sinks(&objects).iter().map(|sink| cluster("log", sink, &objects)));
    let mut listener = listener(&objects, &filters);
    let mut table = json!({"name": "mcp", "virtual_hosts": [{"name": "mcp", "domains": ["*"], "routes": routes}]});
    let gaps = patch::apply(&objects, &mut listener, &mut table);
    // A table of its own is what patches of routes are for.
    if let Some(hcm) = listener.pointer_mut("/filter_chains/0/filters/0/typed_config") {
        set(hcm, "route_config", table);
    }
    let mut value = json!({"admin": {"address": {"socket_address": {"address": "127.0.0.1"}}}, "static_resources": {"listeners": [listener], "clusters": clusters}});
    if !gaps.is_empty() {
        set(&mut value, "dynamic_resources", json!({"lds_config": gaps}));
    }
    Ok(Made { name: "the recipe for Envoy Gateway, as Envoy's configuration".to_owned(), value })
}

fn listener(objects: &Objects<'_>, filters: &[Value]) -> Value {
    let client = objects.of("ClientTrafficPolicy").next();
    let at = |path: &[&str]| client.as_ref().and_then(|client| client.at(path));
    let escaped = at(&["path"]).and_then(|path| path.text("escaped_slashes_action"));
    let underscores = at(&["headers"]).and_then(|headers| headers.text("with_underscores_action"));
    let mut hcm = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "normalize_path": true,
        "merge_slashes": !at(&["path"]).is_some_and(|path| path.flag("disable_merge_slashes") == Flag::Yes),
        "path_with_escaped_slashes_action": match escaped {
            Some("KeepUnchanged") => "KEEP_UNCHANGED",
            Some("RejectRequest") => "REJECT_REQUEST",
            Some("UnescapeAndForward") => "UNESCAPE_AND_FORWARD",
            Some(_) | None => "UNESCAPE_AND_REDIRECT",
        },
        "use_remote_address": true,
        "common_http_protocol_options": {"headers_with_underscores_action": match underscores {
            Some("Allow") => "ALLOW",
            Some("DropHeader") => "DROP_HEADER",
            Some(_) | None => "REJECT_REQUEST",
        }},
        "http_filters": filters,
    });
    for (key, name) in [("request_received_timeout", "request_timeout"), ("stream_idle_timeout", "stream_idle_timeout")]
    {
        if let Some(http) = at(&["timeout", "http"]) {
            copy(&http, key, &mut hcm, name);
        }
    }
    let settings = objects.of("EnvoyProxy").filter_map(|proxy| proxy.at(&["telemetry", "access_log"]));
    let settings: Vec<_> = settings.flat_map(|log| log.items("settings")).collect();
    let logs: Vec<Value> =
        settings.iter().filter(|setting| setting.items("sinks").iter().any(|sink| sink.has("als"))).map(log).collect();
    set(&mut hcm, "access_log", Value::Array(logs));
    let mut chain =
        json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}]});
    let mut protocols = objects.of("Gateway").flat_map(|gateway| gateway.items("listeners")).peekable();
    if protocols.peek().is_some() && protocols.all(|listener| listener.text("protocol") == Some("HTTPS")) {
        set(
            &mut chain,
            "transport_socket",
            json!({"typed_config": {"@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext")}}),
        );
    }
    json!({"name": "mcp", "address": {"socket_address": {"address": "0.0.0.0"}}, "filter_chains": [chain]})
}

fn log(setting: &Tree<'_>) -> Value {
    let mut log = json!({"typed_config": {"@type": format!("{TYPES}.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"),
        "common_config": {"grpc_service": {"envoy_grpc": {"cluster_name": "log", "authority": "mcp-authz"}}}}});
    copy(setting, "matches", &mut log, "filter");
    log
}

/// The sinks by gRPC of the access log.
fn sinks<'a>(objects: &Objects<'a>) -> Vec<Tree<'a>> {
    let logs = objects.of("EnvoyProxy").filter_map(|proxy| proxy.at(&["telemetry", "access_log"]));
    let settings = logs.flat_map(|log| log.items("settings"));
    settings.flat_map(|setting| setting.items("sinks")).filter_map(|sink| sink.get("als")).collect()
}

/// The filter of a route, and what the route says of it.
fn authz(name: &str, auth: &Tree<'_>) -> (Value, Value) {
    let mut config = json!({"@type": format!("{TYPES}.filters.http.ext_authz.v3.ExtAuthz")});
    if auth.has("grpc") {
        let timeout = auth.text("timeout").unwrap_or("10s");
        set(
            &mut config,
            "grpc_service",
            json!({"envoy_grpc": {"cluster_name": format!("authz/{name}"), "authority": "mcp-authz"}, "timeout": timeout}),
        );
    }
    copy(auth, "fail_open", &mut config, "failure_mode_allow");
    if let Some(code) = auth.number("status_on_error") {
        set(&mut config, "status_on_error", json!({"code": code}));
    }
    copy(auth, "body_to_ext_auth", &mut config, "with_request_body");
    let mut extensions = json!({});
    for extension in auth.items("context_extensions") {
        copy(&extension, "value", &mut extensions, extension.text("name").unwrap_or_default());
    }
    let word = json!({"@type": format!("{TYPES}.filters.http.ext_authz.v3.ExtAuthzPerRoute"), "check_settings": {"context_extensions": extensions}});
    (json!({"name": format!("envoy.filters.http.ext_authz/{name}"), "disabled": true, "typed_config": config}), word)
}

fn processor(name: &str, external: &Tree<'_>) -> Value {
    let response = external.at(&["processing_mode", "response"]);
    let body = match response.as_ref().and_then(|response| response.text("body")) {
        Some("Streamed") => "STREAMED",
        Some("Buffered") => "BUFFERED",
        Some("BufferedPartial") => "BUFFERED_PARTIAL",
        Some("FullDuplexStreamed") => "FULL_DUPLEX_STREAMED",
        Some(_) | None => "NONE",
    };
    let asks = external.at(&["processing_mode", "request"]);
    let request_body = if asks.as_ref().is_some_and(|request| request.has("body")) { "BUFFERED" } else { "NONE" };
    let mut config = json!({
        "@type": format!("{TYPES}.filters.http.ext_proc.v3.ExternalProcessor"),
        "grpc_service": {"envoy_grpc": {"cluster_name": format!("responses/{name}"), "authority": "mcp-authz"}},
        "processing_mode": {
            "request_header_mode": if asks.is_some() { "SEND" } else { "SKIP" },
            "request_body_mode": request_body,
            "response_header_mode": if response.is_some() { "SEND" } else { "SKIP" },
            "response_body_mode": body,
            "response_trailer_mode": "SKIP",
        },
        "metadata_options": {},
    });
    copy(external, "fail_open", &mut config, "failure_mode_allow");
    copy(external, "shadow_mode", &mut config, "observability_mode");
    copy(external, "message_timeout", &mut config, "message_timeout");
    if let Some(mode) = external.get("processing_mode") {
        copy(&mode, "allow_mode_override", &mut config, "allow_mode_override");
    }
    if let Some(code) = external.number("status_on_error") {
        set(&mut config, "status_on_error", json!({"code": code}));
    }
    let names =
        |key| external.get("metadata").map(|metadata| json!({"untyped": metadata.texts(key)})).unwrap_or_default();
    let options = json!({"forwarding_namespaces": names("accessible_namespaces"), "receiving_namespaces": names("writable_namespaces")});
    set(&mut config, "metadata_options", options);
    json!({"name": format!("envoy.filters.http.ext_proc/{name}"), "disabled": true, "typed_config": config})
}

fn cluster(name: &str, service: &Tree<'_>, objects: &Objects<'_>) -> Value {
    let mut cluster = json!({"name": name,
        "typed_extension_protocol_options": {"HttpProtocolOptions": {"explicit_http_config": {"http2_protocol_options": {}}}}});
    if let Some(breaker) = service.at(&["backend_settings", "circuit_breaker"]) {
        let mut threshold = json!({});
        copy(&breaker, "max_parallel_requests", &mut threshold, "max_requests");
        copy(&breaker, "max_pending_requests", &mut threshold, "max_pending_requests");
        set(&mut cluster, "circuit_breakers", json!({"thresholds": [threshold]}));
    }
    let backends: Vec<_> = service.items("backend_refs").iter().filter_map(|backend| backend.text("name")).collect();
    let verifies = objects.of("BackendTLSPolicy").find(|policy| {
        policy
            .items("target_refs")
            .iter()
            .any(|target| target.text("name").is_some_and(|name| backends.contains(&name)))
    });
    let shows = objects.of("EnvoyProxy").any(|proxy| proxy.at(&["backendTLS", "client_certificate_ref"]).is_some());
    if let Some(validation) = verifies.and_then(|policy| policy.get("validation")) {
        let mut common = json!({});
        if shows {
            set(&mut common, "tls_certificates", json!([{}]));
        }
        if validation.has("ca_certificate_refs") || validation.has("well_known_ca_certificates") {
            let names = validation.get("hostname").map_or_else(|| json!([]), |name| json!([name.value()]));
            set(&mut common, "validation_context", json!({"trusted_ca": {}, "match_typed_subject_alt_names": names}));
        }
        set(
            &mut cluster,
            "transport_socket",
            json!({"typed_config": {
            "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"), "common_tls_context": common}}),
        );
    }
    let is_unix = objects.of("Backend").any(|backend| {
        let endpoints = backend.items("endpoints");
        !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.has("unix"))
    });
    let kinds = service.items("backend_refs");
    if is_unix && !kinds.is_empty() && kinds.iter().all(|backend| backend.text("kind") == Some("Backend")) {
        set(
            &mut cluster,
            "load_assignment",
            json!({"endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": ""}}}}]}]}),
        );
    }
    cluster
}

fn rules(name: &str, spec: &Tree<'_>, words: &Value, objects: &Objects<'_>) -> Vec<Value> {
    let traffic = objects.for_route("BackendTrafficPolicy", name);
    let mut routes = Vec::new();
    for (number, rule) in spec.items("rules").iter().enumerate() {
        let mut action =
            json!({"cluster": format!("route/{name}/{number}"), "upgrade_configs": [{"upgrade_type": "websocket"}]});
        if let Some(http) = traffic.as_ref().and_then(|traffic| traffic.at(&["timeout", "http"])) {
            copy(&http, "request_timeout", &mut action, "timeout");
            if let Some(longest) = http.get("max_stream_duration") {
                set(&mut action, "max_stream_duration", json!({"max_stream_duration": longest.value()}));
            }
        }
        if let Some(timeout) = rule.get("timeouts").and_then(|timeouts| timeouts.get("request")) {
            set(&mut action, "timeout", timeout.value().clone());
        }
        if let Some(retry) = traffic.as_ref().and_then(|traffic| traffic.get("retry")).or_else(|| rule.get("retry")) {
            let triggers = retry.get("retry_on").map(|on| on.texts("triggers").join(",")).unwrap_or_default();
            let triggers =
                if triggers.is_empty() { "unavailable,cancelled,retriable-status-codes".to_owned() } else { triggers };
            set(&mut action, "retry_policy", json!({"retry_on": triggers}));
        }
        let mut route = json!({"route": action, "typed_per_filter_config": words});
        for filter in rule.items("filters") {
            filtered(&filter, &mut route);
        }
        for found in rule.items("matches") {
            let path = found.get("path");
            let kind = path.as_ref().and_then(|path| path.text("type"));
            let value = path.as_ref().and_then(|path| path.text("value")).unwrap_or("/");
            let key = match kind {
                Some("Exact") => "path",
                Some("RegularExpression") => "safe_regex",
                Some(_) | None => "prefix",
            };
            set(&mut route, "match", json!({key: value}));
            routes.push(route.clone());
        }
        if rule.items("matches").is_empty() {
            set(&mut route, "match", json!({"prefix": "/"}));
            routes.push(route);
        }
    }
    routes
}

/// What a filter of an HTTPRoute makes of its route.
fn filtered(filter: &Tree<'_>, route: &mut Value) {
    match filter.text("type") {
        Some("RequestHeaderModifier") => {
            let Some(modifier) = filter.get("request_header_modifier") else { return };
            let names = ["set", "add"].iter().flat_map(|key| modifier.items(key));
            let added: Vec<_> = names.map(|header| json!({"header": {"key": header.text("name")}})).collect();
            set(route, "request_headers_to_add", Value::Array(added));
            set(route, "request_headers_to_remove", json!(modifier.texts("remove")));
        }
        Some("RequestMirror") => {
            if let Some(action) = route.get_mut("route") {
                set(action, "request_mirror_policies", json!([{}]));
            }
        }
        Some("RequestRedirect") => set(route, "redirect", json!({})),
        Some("ResponseHeaderModifier") => {}
        Some(_) | None => {
            if let Some(action) = route.get_mut("route") {
                set(action, "path_rewrite_policy", json!({}));
            }
        }
    }
}
