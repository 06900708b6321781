//! Each guarantee: where it holds and where it is broken. The shipped configuration is damaged in one place after the other.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use super::*;

/// What is done to the shipped configuration.
type Damage = fn(&mut Value);

fn shipped() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/envoy.yaml");
    let text = std::fs::read(&path).expect("the shipped configuration");
    Document::read("envoy.yaml", &text).expect("YAML").remove(0).value
}

fn expect() -> Expect {
    Expect {
        version: Some(Version { major: 1, minor: 40, patch: 0 }),
        response_phase: Some(true),
        servers: Some(vec!["demo".to_owned()]),
        ..Expect::default()
    }
}

fn judged(value: Value, expect: &Expect) -> Vec<Finding> {
    examine(&[Document { name: "envoy.yaml".to_owned(), value }], expect).expect("a configuration")
}

/// The ids with that verdict.
fn with(findings: &[Finding], verdict: Verdict) -> BTreeSet<&'static str> {
    findings.iter().filter(|finding| finding.verdict == verdict).map(|finding| finding.check.id).collect()
}

fn hcm(value: &mut Value) -> &mut Value {
    &mut value["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
}

fn filters(value: &mut Value) -> &mut Vec<Value> {
    hcm(value)["http_filters"].as_array_mut().expect("filters")
}

fn authz(value: &mut Value) -> &mut Value {
    &mut filters(value)[1]["typed_config"]
}

fn processor(value: &mut Value) -> &mut Value {
    &mut filters(value)[2]["typed_config"]["extension_config"]["typed_config"]
}

fn route(value: &mut Value) -> &mut Value {
    &mut hcm(value)["route_config"]["virtual_hosts"][0]["routes"][0]
}

fn word(value: &mut Value) -> &mut Value {
    &mut route(value)["typed_per_filter_config"]["envoy.filters.http.ext_authz"]
}

fn cluster<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    let clusters = value["static_resources"]["clusters"].as_array_mut().expect("clusters");
    clusters.iter_mut().find(|cluster| cluster["name"] == name).expect("a cluster of that name")
}

fn remove(value: &mut Value, key: &str) {
    value.as_object_mut().expect("a map").remove(key).expect("the shipped configuration has it");
}

fn insert(value: &mut Value, at: usize, kind: &str) {
    let filter = json!({"name": "new", "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.filters.http.{kind}")}});
    filters(value).insert(at, filter);
}

#[test]
fn everything_holds_in_the_shipped_configuration() {
    let findings = judged(shipped(), &expect());
    let others: Vec<_> = findings.iter().filter(|finding| finding.verdict != Verdict::Holds).collect();
    assert!(others.is_empty(), "{others:#?}");
    assert_eq!(findings.len(), checks::ALL.len());
}

/// The guarantee, the damage.
const BROKEN: &[(&str, Damage)] = &[
    ("authz-present", |v| word(v)["disabled"] = json!(true)),
    ("authz-present", |v| {
        filters(v)[1]["disabled"] = json!(true);
        remove(route(v), "typed_per_filter_config");
    }),
    ("authz-present", |v| {
        hcm(v)["route_config"]["virtual_hosts"][0]["typed_per_filter_config"] = {
            let off = json!({"envoy.filters.http.ext_authz": {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true}});
            route(v).as_object_mut().expect("a map").remove("typed_per_filter_config");
            off
        }
    }),
    ("authz-always", |v| authz(v)["shadow_mode"] = json!(true)),
    ("authz-always", |v| authz(v)["filter_enabled"] = json!({"default_value": {"numerator": 99}})),
    ("authz-always", |v| authz(v)["filter_enabled_metadata"] = json!({"filter": "x"})),
    ("authz-elsewhere", |v| {
        second(v, |hcm| {
            hcm["http_filters"].as_array_mut().expect("filters").remove(1);
        })
    }),
    ("authz-elsewhere", |v| {
        let listeners = v["static_resources"]["listeners"].as_array_mut().expect("listeners");
        listeners.push(json!({"filter_chains": [{"filters": [{"typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": "mcp_server"}}]}]}));
    }),
    ("authz-elsewhere", |v| {
        network(
            v,
            &json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "weighted_clusters": {"clusters": [{"name": "mcp_server", "weight": 1}]}}),
        );
    }),
    ("authz-elsewhere", |v| {
        let mut alias = cluster(v, "mcp_server").clone();
        alias["name"] = json!("alias");
        bypass(v, alias);
    }),
    ("authz-elsewhere", |v| {
        bypass(
            v,
            json!({"name": "alias", "cluster_type": {"typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters": ["mcp_server"]}}}),
        );
    }),
    ("authz-always", |v| shadowed(v, "other_", "istio-ext-authz-a", &json!({}))),
    ("authz-always", |v| shadowed(v, "istio_ext_authz_", "another-provider", &json!({}))),
    ("authz-always", |v| shadowed(v, "istio_ext_authz_", "istio-ext-authz-a", &json!({"invert": true}))),
    ("route-retry", |v| of_cluster(v, &json!({"retry_policy": {"retry_on": "5xx"}}))),
    ("route-rest", |v| of_cluster(v, &json!({"request_mirror_policies": [{"cluster": "x"}]}))),
    ("responses-closed", |v| processor(v)["disable_immediate_response"] = json!(true)),
    ("responses-metadata", |v| authz(v)["enable_dynamic_metadata_ingestion"] = json!(false)),
    ("authz-grpc", |v| authz(v)["grpc_service"]["envoy_grpc"]["cluster_name"] = json!("other")),
    ("authz-grpc", |v| remove(authz(v), "grpc_service")),
    ("body-whole", |v| authz(v)["with_request_body"]["allow_partial_message"] = json!(true)),
    ("body-whole", |v| remove(authz(v), "with_request_body")),
    ("body-whole", |v| word(v)["check_settings"]["disable_request_body_buffering"] = json!(true)),
    ("body-bytes", |v| remove(&mut authz(v)["with_request_body"], "pack_as_bytes")),
    ("body-bytes", |v| word(v)["check_settings"]["with_request_body"] = json!({"max_request_bytes": 10})),
    ("body-limit", |v| authz(v)["with_request_body"]["max_request_bytes"] = json!(1_048_577)),
    ("body-limit", |v| authz(v)["with_request_body"]["max_request_bytes"] = json!(0)),
    ("body-filter", |v| {
        filters(v).remove(0);
    }),
    ("body-filter", |v| filters(v)[0]["typed_config"]["max_request_bytes"] = json!(1_048_577)),
    ("body-filter", |v| filters(v).swap(0, 1)),
    ("body-filter", |v| {
        let off = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true});
        route(v)["typed_per_filter_config"]["envoy.filters.http.body_size_limit"] = off;
    }),
    ("route-headers", |v| {
        let cluster = json!({"name": "mcp_server", "weight": 1, "request_headers_to_remove": ["mcp-name"]});
        remove(&mut route(v)["route"], "cluster");
        route(v)["route"]["weighted_clusters"] = json!({"clusters": [cluster]});
    }),
    ("headers-raw", |v| authz(v)["encode_raw_headers"] = json!(false)),
    ("headers-raw", |v| authz(v)["disallowed_headers"] = json!({"patterns": [{"exact": "mcp-name"}]})),
    ("fail-closed", |v| authz(v)["failure_mode_allow"] = json!(true)),
    ("error-status", |v| remove(authz(v), "status_on_error")),
    ("error-status", |v| authz(v)["status_on_error"]["code"] = json!("OK")),
    ("error-status", |v| processor(v)["status_on_error"]["code"] = json!(200)),
    ("authz-timeout", |v| remove(&mut authz(v)["grpc_service"], "timeout")),
    ("authz-timeout", |v| authz(v)["grpc_service"]["timeout"] = json!("0.999s")),
    ("authz-timeout", |v| authz(v)["grpc_service"]["timeout"] = json!("600s")),
    ("authz-retry", |v| authz(v)["grpc_service"]["retry_policy"] = json!({"num_retries": 2})),
    ("mutations", |v| remove(authz(v), "validate_mutations")),
    ("metadata", |v| authz(v)["metadata_context_namespaces"] = json!(["envoy.filters.http.header_to_metadata"])),
    ("metadata", |v| {
        insert(v, 0, "header_to_metadata.v3.Config");
        filters(v)[0]["typed_config"]["request_rules"] =
            json!([{"on_header_present": {"metadata_namespace": "envoy.filters.http.ext_authz"}}]);
    }),
    ("server-bound", |v| word(v)["check_settings"]["context_extensions"]["server"] = json!("nobody")),
    ("route-exact", |v| route(v)["match"] = json!({"prefix": "/mcp"})),
    ("route-exact", |v| route(v)["match"] = json!({"safe_regex": {"regex": "/mcp.*"}})),
    ("route-exact", |v| route(v)["match"]["case_sensitive"] = json!(false)),
    ("route-rest", |v| route(v)["route"]["request_mirror_policies"] = json!([{"cluster": "x"}])),
    ("route-rest", |v| route(v)["route"]["internal_redirect_policy"] = json!({})),
    ("route-rest", |v| {
        remove(&mut route(v)["route"], "cluster");
        route(v)["route"]["cluster_header"] = json!("x-to");
    }),
    ("route-retry", |v| route(v)["route"]["retry_policy"] = json!({"retry_on": "5xx"})),
    ("route-retry", |v| {
        hcm(v)["route_config"]["virtual_hosts"][0]["retry_policy"] = json!({"retry_on": "connect-failure,reset"})
    }),
    ("route-headers", |v| {
        route(v)["request_headers_to_add"] = json!([{"header": {"key": "Authorization", "value": "x"}}])
    }),
    ("route-headers", |v| hcm(v)["route_config"]["request_headers_to_remove"] = json!(["mcp-name"])),
    ("route-time", |v| remove(&mut route(v)["route"], "max_stream_duration")),
    ("route-time", |v| {
        remove(&mut route(v)["route"], "max_stream_duration");
        remove(&mut route(v)["route"], "timeout");
    }),
    ("route-time", |v| remove(hcm(v), "stream_idle_timeout")),
    ("route-upgrade", |v| hcm(v)["upgrade_configs"] = json!([{"upgrade_type": "websocket"}])),
    ("route-upgrade", |v| route(v)["route"]["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}])),
    ("path-normal", |v| hcm(v)["normalize_path"] = json!(false)),
    ("path-slashes", |v| remove(hcm(v), "merge_slashes")),
    ("path-escaped", |v| remove(hcm(v), "path_with_escaped_slashes_action")),
    ("path-escaped", |v| hcm(v)["path_with_escaped_slashes_action"] = json!(1)),
    ("header-underscores", |v| remove(hcm(v), "common_http_protocol_options")),
    ("client-address", |v| remove(hcm(v), "use_remote_address")),
    ("request-time", |v| hcm(v)["request_timeout"] = json!("0s")),
    ("callers-tls", |v| {
        v["static_resources"]["listeners"][0]["address"]["socket_address"]["address"] = json!("0.0.0.0")
    }),
    ("filter-order", |v| insert(v, 2, "lua.v3.Lua")),
    ("filter-order", |v| insert(v, 3, "header_mutation.v3.HeaderMutation")),
    ("filter-order", |v| processor(v)["processing_mode"]["request_body_mode"] = json!("BUFFERED")),
    ("filter-order", |v| {
        let filter = json!({"name": "x", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"}});
        cluster(v, "mcp_server")["typed_extension_protocol_options"] =
            json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"http_filters": [filter]}});
    }),
    ("responses-present", |v| {
        filters(v).remove(2);
    }),
    ("responses-order", |v| filters(v).swap(1, 2)),
    ("responses-closed", |v| processor(v)["failure_mode_allow"] = json!(true)),
    ("responses-closed", |v| processor(v)["observability_mode"] = json!(true)),
    ("responses-always", |v| {
        let off = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", "disabled": true});
        route(v)["typed_per_filter_config"]["envoy.filters.http.ext_proc"] = off;
    }),
    ("responses-mode", |v| processor(v)["processing_mode"]["response_body_mode"] = json!("BUFFERED")),
    ("responses-mode", |v| remove(processor(v), "allow_mode_override")),
    ("responses-metadata", |v| remove(&mut processor(v)["metadata_options"], "forwarding_namespaces")),
    ("responses-metadata", |v| remove(&mut processor(v)["metadata_options"], "receiving_namespaces")),
    ("responses-time", |v| remove(processor(v), "message_timeout")),
    ("responses-cluster", |v| {
        cluster(v, "mcp_authz")["circuit_breakers"]["thresholds"][0]["max_requests"] = json!(5120);
        processor(v)["grpc_service"]["envoy_grpc"]["cluster_name"] = json!("mcp_authz");
    }),
    ("cluster-http2", |v| remove(cluster(v, "mcp_authz"), "typed_extension_protocol_options")),
    ("cluster-authority", |v| {
        cluster(v, "mcp_authz")["name"] = json!("a|b");
        authz(v)["grpc_service"]["envoy_grpc"]["cluster_name"] = json!("a|b");
    }),
    ("cluster-transport", |v| remote(v, &json!(null))),
    ("cluster-transport", |v| {
        remote(v, &json!({"validation_context": {"trusted_ca": {}, "match_typed_subject_alt_names": [{}]}}))
    }),
    ("cluster-transport", |v| remote(v, &json!({"tls_certificates": [{}]}))),
    ("cluster-transport", |v| remote(v, &json!({"tls_certificates": [{}], "validation_context": {"trusted_ca": {}}}))),
    ("cluster-breaker", |v| remove(cluster(v, "mcp_authz"), "circuit_breakers")),
    ("settle-log", |v| {
        hcm(v)["access_log"].as_array_mut().expect("logs").remove(0);
    }),
    ("settle-interval", |v| remove(hcm(v), "access_log_options")),
    ("admin-closed", |v| v["admin"]["address"]["socket_address"]["address"] = json!("0.0.0.0")),
];

/// A second listener like the first, after a change.
fn second(value: &mut Value, change: fn(&mut Value)) {
    let mut copy = value["static_resources"]["listeners"][0].clone();
    change(&mut copy["filter_chains"][0]["filters"][0]["typed_config"]);
    value["static_resources"]["listeners"].as_array_mut().expect("listeners").push(copy);
}

/// A listener with one network filter.
fn network(value: &mut Value, config: &Value) {
    let listeners = value["static_resources"]["listeners"].as_array_mut().expect("listeners");
    listeners.push(json!({"filter_chains": [{"filters": [{"typed_config": config}]}]}));
}

/// A second listener that does not ask, and leads to this cluster.
fn bypass(value: &mut Value, alias: Value) {
    value["static_resources"]["clusters"].as_array_mut().expect("clusters").push(alias);
    second(value, |hcm| {
        hcm["http_filters"].as_array_mut().expect("filters").remove(1);
        hcm["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = json!("alias");
    });
}

/// What a cluster says of every request to it.
fn of_cluster(value: &mut Value, options: &Value) {
    cluster(value, "mcp_server")["typed_extension_protocol_options"] =
        json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options});
}

/// Asked where an RBAC filter says so, as Istio has it.
fn shadowed(value: &mut Value, prefix: &str, rule: &str, more: &Value) {
    let mut enabled = json!({"filter": "envoy.filters.http.rbac", "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
        "value": {"string_match": {"prefix": "istio-ext-authz-a"}}});
    enabled.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    authz(value)["filter_enabled_metadata"] = enabled;
    insert(value, 0, "rbac.v3.RBAC");
    filters(value)[0]["typed_config"]["shadow_rules_stat_prefix"] = json!(prefix);
    filters(value)[0]["typed_config"]["shadow_rules"] =
        json!({"policies": {rule: {"permissions": [{"any": true}], "principals": [{"any": true}]}}});
}

#[test]
fn a_rule_of_istio_about_everything_holds() {
    let mut value = shipped();
    shadowed(&mut value, "istio_ext_authz_", "istio-ext-authz-a-1", &json!({}));
    assert!(with(&judged(value, &expect()), Verdict::Holds).contains("authz-always"));
}

#[test]
fn a_cluster_by_another_name_is_the_same_server() {
    let mut value = shipped();
    let mut alias = cluster(&mut value, "mcp_server").clone();
    alias["name"] = json!("alias");
    value["static_resources"]["clusters"].as_array_mut().expect("clusters").push(alias);
    route(&mut value)["route"]["cluster"] = json!("alias");
    word(&mut value)["disabled"] = json!(true);
    let expect = Expect { upstreams: vec!["mcp_server".to_owned()], ..expect() };
    assert!(with(&judged(value, &expect), Verdict::Broken).contains("authz-present"));
}

/// mcp-authz on another machine.
fn remote(value: &mut Value, tls: &Value) {
    let cluster = cluster(value, "mcp_authz");
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] =
        json!({"socket_address": {"address": "10.0.0.1", "port_value": 9191}});
    if !tls.is_null() {
        cluster["transport_socket"] = json!({"typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "common_tls_context": tls}});
    }
}

#[test]
fn every_damage_is_found_and_told_where_it_is() {
    for (number, (id, damage)) in BROKEN.iter().enumerate() {
        let mut value = shipped();
        damage(&mut value);
        let findings = judged(value, &expect());
        assert!(with(&findings, Verdict::Broken).contains(id), "{id}, damage {number}: {findings:#?}");
        let told = findings.iter().find(|finding| finding.check.id == *id && finding.verdict == Verdict::Broken);
        assert!(
            told.is_some_and(|told| !told.what.is_empty() && told.place.starts_with("envoy.yaml")),
            "{id}: {told:?}"
        );
    }
}

#[test]
fn every_guarantee_has_a_damage() {
    let damaged: BTreeSet<&str> = BROKEN.iter().map(|(id, _)| *id).chain(["version"]).collect();
    let all: BTreeSet<&str> = checks::ALL.iter().map(|check| check.id).collect();
    assert_eq!(damaged, all);
}

/// The guarantee, and something that is not understood.
const UNKNOWN: &[(&str, Damage)] = &[
    ("authz-present", |v| word(v)["@type"] = json!("type.googleapis.com/x.Other")),
    ("authz-present", |v| {
        remove(hcm(v), "route_config");
        hcm(v)["rds"] = json!({"route_config_name": "elsewhere"});
    }),
    ("authz-always", |v| {
        let inner = filters(v)[1].clone();
        filters(v)[1]["typed_config"] = json!({"@type": "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": inner, "xds_matcher": {}});
    }),
    ("authz-elsewhere", |v| v["dynamic_resources"] = json!({"lds_config": {"ads": {}}})),
    ("authz-grpc", |v| authz(v)["grpc_service"] = json!({"google_grpc": {}, "timeout": "1s"})),
    ("filter-order", |v| insert(v, 2, "new.v3.Thing")),
    ("metadata", |v| authz(v)["metadata_context_namespaces"] = json!(["my.own"])),
    ("server-bound", |v| remove(route(v), "typed_per_filter_config")),
    ("responses-always", |v| filters(v)[2]["typed_config"]["xds_matcher"]["on_no_match"] = json!({})),
    ("callers-tls", |v| {
        v["static_resources"]["listeners"][0]["address"]["socket_address"]["address"] = json!("0.0.0.0");
        v["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"] =
            json!({"typed_config": {"@type": "x/y.Z"}});
    }),
    ("cluster-transport", |v| remove(cluster(v, "mcp_authz"), "load_assignment")),
    ("settle-log", |v| {
        hcm(v)["access_log"][0]["typed_config"]["common_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] =
            json!("other");
    }),
    ("mutations", |v| authz(v)["decoder_header_mutation_rules"] = json!({"disallow_all": true})),
    ("route-rest", |v| authz(v)["clear_route_cache"] = json!(true)),
    ("settle-log", |v| hcm(v)["access_log"][0]["filter"] = json!({"not_health_check_filter": {}})),
];

#[test]
fn what_is_not_understood_never_holds() {
    for (number, (id, damage)) in UNKNOWN.iter().enumerate() {
        let mut value = shipped();
        damage(&mut value);
        let findings = judged(value, &expect());
        assert!(with(&findings, Verdict::Unknown).contains(id), "{id}, case {number}: {findings:#?}");
        assert!(!with(&findings, Verdict::Holds).contains(id), "{id}, case {number}");
    }
}

#[test]
fn nothing_to_look_at_is_an_error() {
    let one = |value: Value| examine(&[Document { name: "f".to_owned(), value }], &expect());
    assert!(matches!(one(json!({})), Err(ReadError::Odd { .. })));
    assert!(matches!(one(json!({"configs": []})), Err(ReadError::NoListener)));
    assert!(matches!(one(json!({"static_resources": {}})), Err(ReadError::NoListener)));
    assert!(matches!(one(json!({"static_resources": {"listeners": [{}]}})), Err(ReadError::NoGate)));
    assert!(matches!(one(json!({"apiVersion": "apps/v1", "kind": "Deployment"})), Err(ReadError::Odd { .. })));
    assert!(matches!(examine(&[], &expect()), Err(ReadError::Empty)));
    let mut unguarded = shipped();
    filters(&mut unguarded).remove(1);
    assert!(matches!(one(unguarded), Err(ReadError::NoGate)));
}

#[test]
fn an_unguarded_server_that_is_named_is_no_error_but_broken() {
    let mut value = shipped();
    filters(&mut value).remove(1);
    let expect = Expect { upstreams: vec!["mcp_server".to_owned()], ..expect() };
    assert!(with(&judged(value, &expect), Verdict::Broken).contains("authz-elsewhere"));
}

#[test]
fn a_route_to_another_server_is_none_of_ours_if_ours_are_named() {
    let mut value = shipped();
    let other = json!({"match": {"prefix": "/web"}, "route": {"cluster": "web"}, "typed_per_filter_config":
        {"envoy.filters.http.ext_authz": {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", "disabled": true}}});
    hcm(&mut value)["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().expect("routes").insert(0, other);
    assert!(with(&judged(value.clone(), &expect()), Verdict::Broken).contains("authz-present"));
    let named = Expect { upstreams: vec!["mcp_server".to_owned()], ..expect() };
    assert_eq!(with(&judged(value, &named), Verdict::Broken), BTreeSet::new());
}

#[test]
fn old_and_new_versions_are_told_apart() {
    for (text, verdict) in [
        ("1.40.0", Verdict::Holds),
        ("1.40.3", Verdict::Holds),
        ("1.39.1", Verdict::Broken),
        ("1.36.4", Verdict::Holds),
        ("1.30.0", Verdict::Broken),
        ("1.37.0", Verdict::Unknown),
        ("1.41.0", Verdict::Unknown),
    ] {
        let expect = Expect { version: text.parse().ok(), ..expect() };
        let findings = judged(shipped(), &expect);
        let found = findings.iter().find(|finding| finding.check.id == "version").map(|finding| finding.verdict);
        assert_eq!(found, Some(verdict), "{text}");
    }
    let expect = Expect { version: None, ..expect() };
    assert!(with(&judged(shipped(), &expect), Verdict::Unknown).contains("version"));
}

#[test]
fn before_1_40_there_is_no_filter_to_miss() {
    let mut value = shipped();
    filters(&mut value).remove(0);
    let expect = Expect { version: "1.36.4".parse().ok(), ..expect() };
    assert!(with(&judged(value, &expect), Verdict::Holds).contains("body-filter"));
}

#[test]
fn mutual_tls_is_as_good_as_a_socket() {
    let mut value = shipped();
    remote(
        &mut value,
        &json!({"tls_certificates": [{}], "validation_context": {"trusted_ca": {}, "match_typed_subject_alt_names": [{}]}}),
    );
    assert!(with(&judged(value, &expect()), Verdict::Holds).contains("cluster-transport"));
}

#[test]
fn responses_are_not_missed_where_nothing_is_promised_of_them() {
    let mut value = shipped();
    filters(&mut value).remove(2);
    let off = Expect { response_phase: Some(false), ..expect() };
    assert_eq!(with(&judged(value.clone(), &off), Verdict::Broken), BTreeSet::new());
    let silent = Expect { response_phase: None, ..expect() };
    assert!(with(&judged(value, &silent), Verdict::Unknown).contains("responses-present"));
}

/// As Envoy dumps it: routes by RDS, filters by ECDS, a bootstrap beside the rest.
#[test]
fn a_dump_is_read_with_what_came_by_discovery() {
    let mut value = shipped();
    let table = hcm(&mut value)["route_config"].take();
    remove(hcm(&mut value), "route_config");
    hcm(&mut value)["rds"] = json!({"route_config_name": "mcp"});
    let mut filter = filters(&mut value)[1].take();
    filters(&mut value)[1] = json!({"name": "envoy.filters.http.ext_authz", "config_discovery": {}});
    filter["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
    let part = |kind: &str, key: &str, list: Value| json!({"@type": format!("type.googleapis.com/envoy.admin.v3.{kind}"), key: list});
    let clusters = value["static_resources"]["clusters"].as_array().expect("clusters").iter();
    let clusters: Vec<_> = clusters.map(|cluster| json!({"cluster": cluster})).collect();
    let listener = value["static_resources"]["listeners"][0].take();
    let dump = |extensions: Value| {
        json!({"configs": [
            part("BootstrapConfigDump", "bootstrap", json!({"admin": value["admin"], "dynamic_resources": {"lds_config": {}}})),
            part("ClustersConfigDump", "dynamic_active_clusters", json!(clusters)),
            part("ListenersConfigDump", "dynamic_listeners", json!([{"active_state": {"listener": listener}}])),
            part("RoutesConfigDump", "dynamic_route_configs", json!([{"route_config": table}])),
            part("EcdsConfigDump", "ecds_filters", extensions),
        ]})
    };
    let findings = judged(dump(json!([{"ecds_filter": filter}])), &expect());
    assert_eq!(with(&findings, Verdict::Holds).len(), checks::ALL.len(), "{findings:#?}");
    let lost = examine(&[Document { name: "f".to_owned(), value: dump(json!([])) }], &expect());
    assert!(matches!(lost, Err(ReadError::NoGate)), "without its filter nobody asks");
}

#[test]
fn the_spelling_of_names_makes_no_difference() {
    fn camel(value: &mut Value) {
        match value {
            Value::Object(map) => {
                let members: Vec<_> = std::mem::take(map).into_iter().collect();
                for (key, mut value) in members {
                    camel(&mut value);
                    let mut parts = key.split('_');
                    let first = parts.next().unwrap_or_default().to_owned();
                    let rest = parts.map(|part| {
                        part.chars()
                            .take(1)
                            .flat_map(char::to_uppercase)
                            .chain(part.chars().skip(1))
                            .collect::<String>()
                    });
                    map.insert(rest.fold(first, |all, part| all + &part), value);
                }
            }
            Value::Array(list) => list.iter_mut().for_each(camel),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut value = shipped();
    camel(&mut value);
    let findings = judged(value, &expect());
    assert_eq!(with(&findings, Verdict::Holds).len(), checks::ALL.len(), "{findings:#?}");
}

#[test]
fn documents_of_one_file_keep_their_lines() {
    let documents = Document::read("f.yaml", b"# c\n---\na: 1\n---\nb: 2\n").expect("YAML");
    assert_eq!(documents.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["f.yaml", "f.yaml#2"]);
    let error = Document::read("f.yaml", b"a: 1\n---\nb: [\n").expect_err("no YAML");
    assert!(error.to_string().starts_with("f.yaml#2:"), "{error}");
    assert!(matches!(Document::read("f.yaml", b"# nothing\n"), Err(ReadError::Empty)));
}
