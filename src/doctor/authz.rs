//! The filter that asks for decisions: whether it stands in every way, and how it asks.

use std::time::Duration;

use super::{
    Expect, Findings, Version, checks,
    gates::{Applied, Filter, Gate, Route},
    setup::Setup,
    tree::{Flag, Tree, Typed},
    ways,
};

/// Nobody waits longer for a decision.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

pub(super) fn examine(gates: &[Gate<'_>], setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    for gate in gates.iter().filter(|gate| gate.asks) {
        for (at, what) in &gate.gaps {
            findings.unknown(checks::AUTHZ_PRESENT, at, *what);
        }
        for route in &gate.routes {
            if on_route(gate, route, setup, expect, findings) == 0 {
                findings.broken(checks::AUTHZ_PRESENT, &route.route, "no ext_authz is at work on this route");
            }
        }
    }
    elsewhere(gates, setup, expect, findings);
}

/// How many filters are asked on the route.
fn on_route(gate: &Gate<'_>, route: &Route<'_>, setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) -> usize {
    let mut asked = 0usize;
    for filter in gate.authz() {
        match route.applied(filter) {
            Applied::Off(at) => {
                // One that is off in the list is for other routes.
                if !filter.is_disabled {
                    findings.broken(checks::AUTHZ_PRESENT, &at, "it is disabled here");
                }
            }
            Applied::Odd(at) => {
                asked = asked.saturating_add(1);
                findings.unknown(checks::AUTHZ_PRESENT, &at, "what this does to ext_authz is not known");
            }
            Applied::On(word) => {
                asked = asked.saturating_add(1);
                findings.holds(checks::AUTHZ_PRESENT);
                let Some(typed) = &filter.typed else { continue };
                always(gate, filter, &typed.config, findings);
                asks(&typed.config, setup, expect, findings);
                per_route(&word, &typed.config, setup, expect, findings);
                let bytes = size_limit(gate, route, filter);
                limit_filter(gate, bytes, &typed.config, setup, expect, findings);
            }
        }
    }
    asked
}

/// Whether the filter is asked about every request.
fn always(gate: &Gate<'_>, filter: &Filter<'_>, config: &Tree<'_>, findings: &mut Findings) {
    findings.holds(checks::AUTHZ_ALWAYS);
    if let Some(matcher) = &filter.matcher {
        findings.unknown(checks::AUTHZ_ALWAYS, matcher, "a matcher may skip it");
    }
    if config.flag("shadow_mode") != Flag::Absent && config.flag("shadow_mode") != Flag::No {
        findings.broken(checks::AUTHZ_ALWAYS, config, "shadow_mode: denials are not applied");
    }
    if let Some(enabled) = config.get("filter_enabled") {
        findings.broken(checks::AUTHZ_ALWAYS, &enabled, "only a share of the requests is asked about");
    }
    if let Some(enabled) = config.get("filter_enabled_metadata")
        && !asks_all(gate, filter, &enabled)
    {
        let what = "asked only about requests that a rule before it matches; all others pass unasked";
        findings.broken(checks::AUTHZ_ALWAYS, &enabled, what);
    }
}

/// Istio lets an RBAC filter before ext_authz say by shadow rules about which requests to ask. Whether that is about all: there must
/// be a rule for everything, and its name must be the one that ext_authz waits for.
fn asks_all(gate: &Gate<'_>, filter: &Filter<'_>, enabled: &Tree<'_>) -> bool {
    let path: Vec<_> = enabled.items("path").iter().filter_map(|part| part.text("key")).collect();
    let wanted = enabled.at(&["value", "string_match"]).and_then(|value| value.text("prefix"));
    let is_plain = matches!(enabled.flag("invert"), Flag::Absent | Flag::No)
        && enabled.text("filter") == Some("envoy.filters.http.rbac");
    let ([key], Some(wanted), true) = (path.as_slice(), wanted, is_plain) else { return false };
    let is_any = |rules: &Tree<'_>, name: &str| {
        let list = rules.items(name);
        !list.is_empty() && list.iter().all(any)
    };
    let before = gate.position(filter).unwrap_or_default();
    let rules = gate.filters.iter().take(before).filter(|rbac| rbac.matcher.is_none() && !rbac.is_disabled);
    rules.filter_map(|rbac| rbac.typed.as_ref()).any(|typed| {
        let prefix = typed.config.text("shadow_rules_stat_prefix").unwrap_or_default();
        if key.strip_prefix(prefix) != Some("shadow_effective_policy_id") {
            return false;
        }
        let Some(policies) = typed.config.at(&["shadow_rules", "policies"]).filter(|_| typed.is("rbac.v3.RBAC")) else {
            return false;
        };
        // With several rules the first that fits gives the name, so each has to be one that is waited for.
        let policies = policies.members();
        policies.iter().all(|(name, _)| name.starts_with(wanted))
            && policies.iter().any(|(_, rules)| is_any(rules, "permissions") && is_any(rules, "principals"))
    })
}

/// Whether a permission or a principal fits everything, as Istio writes it: lists of lists of `any`.
fn any(rule: &Tree<'_>) -> bool {
    if rule.flag("any") == Flag::Yes {
        return true;
    }
    let inner = ["and_rules", "and_ids"].iter().find_map(|key| rule.get(key));
    let inner = inner.map(|set| set.get("rules").or_else(|| set.get("ids")).map(|list| list.elements()));
    // A set of nothing is not read as all of it.
    inner.flatten().is_some_and(|list| !list.is_empty() && list.iter().all(any))
}

fn asks(config: &Tree<'_>, setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    service(config, setup, expect, findings);
    match config.get("with_request_body") {
        Some(body) => self::body(&body, expect, findings),
        None => findings.broken(checks::BODY_WHOLE, config, "with_request_body is missing"),
    }
    let yes = |check, name, findings: &mut Findings| {
        let what = format!("{name} is not true");
        findings.judge(check, config.flag(name) == Flag::Yes, config, what);
    };
    yes(checks::HEADERS_RAW, "encode_raw_headers", findings);
    for at in ["allowed_headers", "disallowed_headers"].iter().filter_map(|key| config.get(key)) {
        findings.broken(checks::HEADERS_RAW, &at, "it hides headers from mcp-authz");
    }
    if let Some(at) = config.get("decoder_header_mutation_rules") {
        findings.unknown(checks::MUTATIONS, &at, "these rules may drop what mcp-authz sets or removes");
    }
    if config.flag("clear_route_cache") != Flag::Absent && config.flag("clear_route_cache") != Flag::No {
        findings.unknown(
            checks::ROUTE_REST,
            config,
            "clear_route_cache: another route may be taken after the decision",
        );
    }
    yes(checks::MUTATIONS, "validate_mutations", findings);
    let is_closed = matches!(config.flag("failure_mode_allow"), Flag::Absent | Flag::No);
    findings.judge(checks::FAIL_CLOSED, is_closed, config, "failure_mode_allow is true");
    error_status(checks::ERROR_STATUS, config, findings);
    namespaces(config, findings);
}

/// `status_on_error` of ext_authz and of ext_proc.
pub(super) fn error_status(check: &'static checks::Check, config: &Tree<'_>, findings: &mut Findings) {
    let status = config.get("status_on_error");
    let code = status.as_ref().map(|status| {
        let named = match status.text("code") {
            Some("InternalServerError") => Some(500),
            Some("BadGateway") => Some(502),
            Some("ServiceUnavailable") => Some(503),
            Some("GatewayTimeout") => Some(504),
            Some(_) | None => None,
        };
        named.or_else(|| status.number("code")).unwrap_or_default()
    });
    let what =
        code.map_or_else(|| "status_on_error is missing".to_owned(), |_| "the status is none of 500 to 599".to_owned());
    findings.judge(check, code.is_some_and(|code| (500..600).contains(&code)), status.as_ref().unwrap_or(config), what);
}

fn service(config: &Tree<'_>, setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    let Some(grpc) = config.get("grpc_service") else {
        findings.broken(checks::AUTHZ_GRPC, config, "grpc_service is missing");
        return;
    };
    match grpc.get("envoy_grpc").and_then(|grpc| grpc.text("cluster_name")) {
        Some(name) if setup.cluster(name).is_some() => findings.holds(checks::AUTHZ_GRPC),
        Some(name) if setup.gaps.is_empty() => {
            findings.broken(checks::AUTHZ_GRPC, &grpc, format!("there is no cluster `{name}`"));
        }
        Some(name) => findings.unknown(checks::AUTHZ_GRPC, &grpc, format!("the cluster `{name}` was not given")),
        None => findings.unknown(checks::AUTHZ_GRPC, &grpc, "it asks by something else than envoy_grpc"),
    }
    time(checks::AUTHZ_TIMEOUT, &grpc, "timeout", expect, findings);
    let retries = grpc.get("retry_policy");
    findings.judge(checks::AUTHZ_RETRY, retries.is_none(), retries.as_ref().unwrap_or(&grpc), "retry_policy is set");
}

/// A time that must be at least ours, and bounded.
pub(super) fn time(check: &'static checks::Check, at: &Tree<'_>, name: &str, expect: &Expect, findings: &mut Findings) {
    let ours = expect.check.as_millis();
    match at.duration(name) {
        None if at.has(name) => findings.unknown(check, at, format!("{name} is not understood")),
        None => findings.broken(check, at, format!("{name} is missing, so it is 200 ms; mcp-authz may take {ours} ms")),
        Some(time) if time < expect.check => {
            findings.broken(check, at, format!("{name} is {} ms; mcp-authz may take {ours} ms", time.as_millis()));
        }
        Some(time) if time > TIMEOUT_MAX => {
            findings.broken(check, at, format!("{name} is {} s", time.as_secs()));
        }
        Some(_) => findings.holds(check),
    }
}

fn body(body: &Tree<'_>, expect: &Expect, findings: &mut Findings) {
    let is_whole = matches!(body.flag("allow_partial_message"), Flag::Absent | Flag::No);
    findings.judge(checks::BODY_WHOLE, is_whole, body, "allow_partial_message is true");
    findings.judge(checks::BODY_BYTES, body.flag("pack_as_bytes") == Flag::Yes, body, "pack_as_bytes is not true");
    let ours = expect.body_bytes_max;
    match body.number("max_request_bytes") {
        Some(bytes) if (1..=ours).contains(&bytes) => findings.holds(checks::BODY_LIMIT),
        Some(bytes) => {
            findings.broken(
                checks::BODY_LIMIT,
                body,
                format!("max_request_bytes is {bytes}; limits.body_bytes_max is {ours}"),
            );
        }
        None => findings.broken(checks::BODY_LIMIT, body, "max_request_bytes is missing"),
    }
}

/// What the route says of the filter.
fn per_route(word: &Option<Typed<'_>>, config: &Tree<'_>, setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    let Some(word) = word else { return };
    if !word.is("ext_authz.v3.ExtAuthzPerRoute") {
        findings.unknown(checks::AUTHZ_PRESENT, &word.config, "what this does to ext_authz is not known");
        return;
    }
    let Some(settings) = word.config.get("check_settings") else { return };
    if !matches!(settings.flag("disable_request_body_buffering"), Flag::Absent | Flag::No) {
        findings.broken(checks::BODY_WHOLE, &settings, "disable_request_body_buffering: no body is sent");
    }
    if let Some(own) = settings.get("with_request_body") {
        body(&own, expect, findings);
    }
    if settings.has("grpc_service") || settings.has("http_service") {
        service(&settings, setup, expect, findings);
        let asked = |at: &Tree<'_>| {
            at.at(&["grpc_service", "envoy_grpc"]).and_then(|at| at.text("cluster_name").map(str::to_owned))
        };
        if asked(&settings) != asked(config) {
            findings.unknown(checks::AUTHZ_GRPC, &settings, "this route asks another service than the filter does");
        }
    }
    for key in config.at(&["check_settings", "context_extensions"]).iter().flat_map(Tree::members) {
        findings.unknown(checks::SERVER_BOUND, &key.1, "this is not where the filter reads it");
    }
}

/// The least size that the filter of Envoy 1.40 before `authz` allows on the route.
fn size_limit(gate: &Gate<'_>, route: &Route<'_>, authz: &Filter<'_>) -> Option<u64> {
    let before = gate.filters.iter().take(gate.position(authz).unwrap_or_default());
    let plain = before.filter(|limit| limit.matcher.is_none() && matches!(route.applied(limit), Applied::On(None)));
    let limits =
        plain.filter_map(|limit| limit.typed.as_ref()).filter(|typed| typed.is("body_size_limit.v3.BodySizeLimit"));
    limits.filter_map(|typed| typed.config.number("max_request_bytes")).min()
}

/// Whether the hole of HTTP/2 in `with_request_body` is closed.
fn limit_filter(
    gate: &Gate<'_>,
    bytes: Option<u64>,
    config: &Tree<'_>,
    setup: &Setup<'_>,
    expect: &Expect,
    findings: &mut Findings,
) {
    let allowed = config.get("with_request_body").and_then(|body| body.number("max_request_bytes")).unwrap_or_default();
    match (bytes, setup.version.or(expect.version)) {
        (Some(bytes), _) if bytes <= allowed => findings.holds(checks::BODY_FILTER),
        (Some(bytes), _) => {
            let what = format!("body_size_limit lets {bytes} bytes pass, ext_authz takes {allowed}");
            findings.broken(checks::BODY_FILTER, &gate.hcm, what);
        }
        (None, Some(version)) if version < Version::SIZE_FILTER => findings.holds(checks::BODY_FILTER),
        (None, Some(_)) => findings.broken(checks::BODY_FILTER, &gate.hcm, "body_size_limit is not before ext_authz"),
        (None, None) => {
            let what =
                "body_size_limit is not before ext_authz, and the version of Envoy is not known (--envoy-version)";
            findings.unknown(checks::BODY_FILTER, &gate.hcm, what);
        }
    }
}

fn namespaces(config: &Tree<'_>, findings: &mut Findings) {
    findings.holds(checks::METADATA);
    for key in ["metadata_context_namespaces", "typed_metadata_context_namespaces"] {
        for name in config.texts(key) {
            match name {
                "envoy.filters.http.jwt_authn" | "envoy.filters.http.ext_authz" => {}
                "envoy.filters.http.header_to_metadata"
                | "envoy.filters.http.json_to_metadata"
                | "envoy.filters.http.mcp" => {
                    findings.broken(checks::METADATA, config, format!("{key} sends `{name}`, which callers fill"));
                }
                _ => findings.unknown(
                    checks::METADATA,
                    config,
                    format!("{key} sends `{name}`; who fills it is not known"),
                ),
            }
        }
    }
}

/// Whether another way leads to the servers that mcp-authz guards.
fn elsewhere(gates: &[Gate<'_>], setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    let asking = gates.iter().filter(|gate| gate.asks).flat_map(|gate| &gate.routes);
    let named = expect.upstreams.iter().map(String::as_str);
    let guarded = ways::same(setup, asking.flat_map(|route| route.clusters.clone()).chain(named));
    findings.holds(checks::AUTHZ_ELSEWHERE);
    for gate in gates.iter().filter(|gate| !gate.asks) {
        for route in &gate.routes {
            if route.clusters.iter().any(|name| guarded.contains(*name)) {
                findings.broken(
                    checks::AUTHZ_ELSEWHERE,
                    &route.route,
                    "leads to a guarded server, and ext_authz is not asked",
                );
            } else if route.is_open || route.clusters.iter().any(|name| ways::is_open(setup, name)) {
                findings.unknown(
                    checks::AUTHZ_ELSEWHERE,
                    &route.route,
                    "callers or a plugin pick the server, and ext_authz is not asked",
                );
            }
        }
        for (at, what) in &gate.gaps {
            findings.unknown(checks::AUTHZ_ELSEWHERE, at, *what);
        }
    }
    for listener in &setup.listeners {
        for chain in listener.items("filter_chains").into_iter().chain(listener.get("default_filter_chain")) {
            for typed in chain.items("filters").iter().filter_map(|filter| filter.typed("typed_config")) {
                // Whatever it is: what names such a cluster can lead there.
                let is_http = typed.is("http_connection_manager.v3.HttpConnectionManager");
                if !is_http && ways::mentions(typed.config.value(), &|text| guarded.contains(text)) {
                    findings.broken(checks::AUTHZ_ELSEWHERE, &typed.config, "leads to a guarded server as plain TCP");
                }
            }
        }
    }
    for (at, what) in &setup.gaps {
        findings.unknown(checks::AUTHZ_ELSEWHERE, at, *what);
    }
}
