//! The filter that shows responses.

use super::{
    Expect, Findings, authz, checks,
    gates::{Applied, Filter, Gate},
    setup::Setup,
    tree::{Flag, Tree},
};

const PROCESSOR: &str = "ext_proc.v3.ExternalProcessor";

/// What belongs to the response phase beyond its presence.
const REST: &[&checks::Check] = &[
    checks::RESPONSES_ORDER,
    checks::RESPONSES_CLOSED,
    checks::RESPONSES_ALWAYS,
    checks::RESPONSES_MODE,
    checks::RESPONSES_METADATA,
    checks::RESPONSES_TIME,
    checks::RESPONSES_CLUSTER,
];

pub(super) fn examine(gates: &[Gate<'_>], setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    if expect.response_phase == Some(false) {
        // mcp-authz promises nothing about responses then.
        for check in std::iter::once(&checks::RESPONSES_PRESENT).chain(REST) {
            findings.holds(check);
        }
        return;
    }
    for gate in gates.iter().filter(|gate| gate.asks) {
        for route in &gate.routes {
            let mut shown = 0usize;
            for filter in gate.of_type(PROCESSOR) {
                match route.applied(filter) {
                    Applied::Off(at) => {
                        if !filter.is_disabled {
                            findings.broken(checks::RESPONSES_ALWAYS, &at, "it is disabled here");
                        }
                    }
                    Applied::Odd(at) => {
                        shown = shown.saturating_add(1);
                        findings.unknown(checks::RESPONSES_ALWAYS, &at, "what this does to ext_proc is not known");
                    }
                    Applied::On(word) => {
                        shown = shown.saturating_add(1);
                        if let Some(word) = word {
                            findings.unknown(checks::RESPONSES_ALWAYS, &word.config, "overrides are not looked into");
                        }
                        one(gate, filter, setup, expect, findings);
                    }
                }
            }
            match (shown, expect.response_phase) {
                (0, Some(true)) => {
                    findings.broken(checks::RESPONSES_PRESENT, &route.route, "no ext_proc is at work on this route")
                }
                (0, _) => {
                    let what =
                        "no ext_proc is at work on this route; whether mcp-authz needs it, its settings say (--config)";
                    findings.unknown(checks::RESPONSES_PRESENT, &route.route, what);
                }
                (_, _) => findings.holds(checks::RESPONSES_PRESENT),
            }
        }
    }
}

fn one(gate: &Gate<'_>, filter: &Filter<'_>, setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    let Some(config) = filter.typed.as_ref().map(|typed| &typed.config) else { return };
    let own = gate.position(filter);
    let is_behind = gate.authz().all(|authz| gate.position(authz) < own);
    findings.judge(checks::RESPONSES_ORDER, is_behind, &filter.at, "it stands before ext_authz");
    let is_off = |name| matches!(config.flag(name), Flag::Absent | Flag::No);
    findings.judge(checks::RESPONSES_CLOSED, is_off("failure_mode_allow"), config, "failure_mode_allow is true");
    findings.judge(checks::RESPONSES_CLOSED, is_off("observability_mode"), config, "observability_mode is true");
    let what = "disable_immediate_response is true: a response that is withheld is let through or breaks off";
    findings.judge(checks::RESPONSES_CLOSED, is_off("disable_immediate_response"), config, what);
    for at in ["allowed_override_modes", "forward_rules", "mutation_rules"].iter().filter_map(|key| config.get(key)) {
        findings.unknown(checks::RESPONSES_MODE, &at, "this may keep mcp-authz from seeing or changing a response");
    }
    authz::error_status(checks::ERROR_STATUS, config, findings);
    match &filter.matcher {
        None => findings.holds(checks::RESPONSES_ALWAYS),
        Some(matcher) if is_ours(matcher) => findings.holds(checks::RESPONSES_ALWAYS),
        Some(matcher) => {
            findings.unknown(checks::RESPONSES_ALWAYS, matcher, "this matcher is not the one of deploy/envoy.yaml")
        }
    }
    mode(config, findings);
    metadata(config, findings);
    for typed in gate.authz().filter_map(|authz| authz.typed.as_ref()) {
        if !matches!(typed.config.flag("enable_dynamic_metadata_ingestion"), Flag::Absent | Flag::Yes) {
            let what = "enable_dynamic_metadata_ingestion of ext_authz is false, so ext_proc sees no decision";
            findings.broken(checks::RESPONSES_METADATA, &typed.config, what);
        }
    }
    authz::time(checks::RESPONSES_TIME, config, "message_timeout", expect, findings);
    cluster(gate, config, setup, expect, findings);
}

fn mode(config: &Tree<'_>, findings: &mut Findings) {
    findings.holds(checks::RESPONSES_MODE);
    let Some(mode) = config.get("processing_mode") else {
        findings.broken(checks::RESPONSES_MODE, config, "processing_mode is missing");
        return;
    };
    let headers = ["DEFAULT", "SEND", "SKIP"];
    let bodies = ["NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED"];
    for (name, names, wanted) in [
        ("request_header_mode", headers.as_slice(), ["SKIP"].as_slice()),
        ("response_header_mode", headers.as_slice(), ["DEFAULT", "SEND"].as_slice()),
        ("request_body_mode", bodies.as_slice(), ["NONE"].as_slice()),
        ("response_body_mode", bodies.as_slice(), ["STREAMED"].as_slice()),
        ("request_trailer_mode", headers.as_slice(), ["DEFAULT", "SKIP"].as_slice()),
        ("response_trailer_mode", headers.as_slice(), ["SEND"].as_slice()),
    ] {
        match mode.choice(name, names) {
            Some(found) if wanted.contains(&found) => {}
            Some(found) => findings.broken(checks::RESPONSES_MODE, &mode, format!("{name} is {found}")),
            None => findings.unknown(checks::RESPONSES_MODE, &mode, format!("{name} is not understood")),
        }
    }
    if config.flag("allow_mode_override") != Flag::Yes {
        findings.broken(checks::RESPONSES_MODE, config, "allow_mode_override is not true");
    }
}

fn metadata(config: &Tree<'_>, findings: &mut Findings) {
    let names = |direction| {
        let untyped = config.at(&["metadata_options", direction]);
        untyped.map(|names| names.texts("untyped")).unwrap_or_default()
    };
    let has_decision = names("forwarding_namespaces").contains(&"envoy.filters.http.ext_authz");
    findings.judge(
        checks::RESPONSES_METADATA,
        has_decision,
        config,
        "forwarding_namespaces lack envoy.filters.http.ext_authz",
    );
    let has_answer = names("receiving_namespaces").contains(&"mcp_authz");
    findings.judge(checks::RESPONSES_METADATA, has_answer, config, "receiving_namespaces lack mcp_authz");
    if names("receiving_namespaces").contains(&"envoy.filters.http.ext_authz") {
        findings.broken(checks::METADATA, config, "receiving_namespaces let responses change the decision's metadata");
    }
}

fn cluster(gate: &Gate<'_>, config: &Tree<'_>, setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    let name_of = |config: &Tree<'_>| {
        config.at(&["grpc_service", "envoy_grpc"]).and_then(|grpc| grpc.text("cluster_name").map(str::to_owned))
    };
    let Some(own) = name_of(config) else {
        findings.unknown(checks::RESPONSES_CLUSTER, config, "it asks by something else than envoy_grpc");
        return;
    };
    let shares = gate
        .authz()
        .filter_map(|authz| authz.typed.as_ref())
        .any(|typed| name_of(&typed.config).as_ref() == Some(&own));
    let Some(cluster) = setup.cluster(&own) else {
        findings.unknown(checks::RESPONSES_CLUSTER, config, format!("the cluster `{own}` was not given"));
        return;
    };
    let needed =
        if shares { expect.checks_in_flight_max.saturating_add(expect.streams_max) } else { expect.streams_max };
    let most = super::clusters::requests_max(cluster);
    let what = format!("max_requests of `{own}` is {most}; more than {needed} are needed");
    findings.judge(checks::RESPONSES_CLUSTER, most > needed, cluster, what);
}

/// The matcher that skips the filter unless the decision says `response: "1"`, and nothing else.
fn is_ours(matcher: &Tree<'_>) -> bool {
    let entries = matcher.at(&["matcher_list", "matchers"]).map(|list| list.elements()).unwrap_or_default();
    let [entry] = entries.as_slice() else { return false };
    if matcher.has("on_no_match") {
        return false;
    }
    let Some(single) = entry.at(&["predicate", "not_matcher", "single_predicate"]) else { return false };
    let input = single.get("input").and_then(|input| input.typed("typed_config"));
    let is_input = input.is_some_and(|input| {
        let path: Vec<_> = input.config.items("path").iter().filter_map(|part| part.text("key")).collect();
        input.is("network.v3.DynamicMetadataInput")
            && input.config.text("filter") == Some("envoy.filters.http.ext_authz")
            && path == ["response"]
    });
    let value = single.get("custom_match").and_then(|custom| custom.typed("typed_config"));
    let is_value = value.is_some_and(|value| {
        value.is("metadata.v3.Metadata")
            && value.config.flag("invert") != Flag::Yes
            && value.config.at(&["value", "string_match"]).is_some_and(|text| text.text("exact") == Some("1"))
    });
    let action = entry.at(&["on_match", "action"]).and_then(|action| action.typed("typed_config"));
    is_input && is_value && action.is_some_and(|action| action.is("action.v3.SkipFilter"))
}
