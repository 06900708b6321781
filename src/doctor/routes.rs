//! What routes do with requests that were allowed.

use std::time::Duration;

use super::{
    Expect, Findings, checks,
    gates::{Applied, Gate, Route},
    setup::Setup,
    tree::{Flag, Tree},
};

/// After these, the server has seen nothing of the request.
const HARMLESS_RETRIES: &[&str] = &["connect-failure", "reset-before-request", "refused-stream"];
/// Headers that are decided about, or that carry the decision.
const JUDGED: &[&str] = &[
    "authorization",
    "accept",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "last-event-id",
    "origin",
    "transfer-encoding",
    "x-api-key",
];

pub(super) fn examine(gates: &[Gate<'_>], setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    for gate in gates.iter().filter(|gate| gate.asks) {
        for route in &gate.routes {
            let is_bound = bound(gate, route, expect, findings);
            exact(route, is_bound, findings);
            rest(route, findings);
            retries(route, findings);
            of_clusters(route, setup, findings);
            headers(route, findings);
            time(gate, route, findings);
            upgrades(gate, route, findings);
        }
        for at in gate.hcm.get("internal_redirect_policy").iter() {
            findings.broken(checks::ROUTE_REST, at, "internal redirects");
        }
    }
    for (at, what) in &setup.gaps {
        findings.unknown(checks::ROUTE_EXACT, at, *what);
    }
}

/// Whether the route names its server; without a name mcp-authz binds by host and exact path.
fn bound(gate: &Gate<'_>, route: &Route<'_>, expect: &Expect, findings: &mut Findings) -> bool {
    let words: Vec<_> = gate
        .authz()
        .filter_map(|filter| match route.applied(filter) {
            Applied::On(Some(typed)) => typed.config.at(&["check_settings", "context_extensions"]),
            Applied::On(None) | Applied::Off(_) | Applied::Odd(_) => None,
        })
        .collect();
    let named = words.iter().find_map(|word| Some((word, word.text("server")?)));
    match (named, &expect.servers) {
        // Envoy hides it in its dump. The route names one, and mcp-authz refuses those that it does not know.
        (Some((_, "[redacted]")), _) => findings.holds(checks::SERVER_BOUND),
        (Some((_, name)), Some(servers)) if servers.iter().any(|known| known == name) => {
            findings.holds(checks::SERVER_BOUND)
        }
        (Some((word, name)), Some(_)) => {
            findings.broken(checks::SERVER_BOUND, word, format!("servers.yaml has no server `{name}`"));
        }
        (Some(_), None) => findings.holds(checks::SERVER_BOUND),
        (None, _) => {
            let what = "the route names no server; mcp-authz refuses it unless a `match` in servers.yaml has its host and path";
            findings.unknown(checks::SERVER_BOUND, &route.route, what);
        }
    }
    named.is_some()
}

fn exact(route: &Route<'_>, is_bound: bool, findings: &mut Findings) {
    let Some(found) = route.route.get("match") else {
        findings.unknown(checks::ROUTE_EXACT, &route.route, "it has no match");
        return;
    };
    if found.flag("case_sensitive") == Flag::No {
        findings.broken(checks::ROUTE_EXACT, &found, "case_sensitive is false");
    } else if found.text("path").is_some() || !is_bound {
        // Without a name from the route, mcp-authz takes exact paths only.
        findings.holds(checks::ROUTE_EXACT);
    } else {
        let kind = ["prefix", "path_separated_prefix", "safe_regex", "path_match_policy", "connect_matcher"]
            .into_iter()
            .find(|kind| found.has(kind));
        findings.broken(
            checks::ROUTE_EXACT,
            &found,
            format!("it matches by {}", kind.unwrap_or("something else than a path")),
        );
    }
}

fn rest(route: &Route<'_>, findings: &mut Findings) {
    findings.holds(checks::ROUTE_REST);
    if route.is_open {
        findings.broken(checks::ROUTE_REST, &route.action, "callers or a plugin pick the cluster");
    }
    for key in ["request_mirror_policies", "internal_redirect_policy", "internal_redirect_action"] {
        for at in [&route.action, &route.host, &route.table].into_iter().filter_map(|at| at.get(key)) {
            let is_off = at.value().as_str() == Some("PASS_THROUGH_INTERNAL_REDIRECT")
                || at.value().as_array().is_some_and(Vec::is_empty);
            if !is_off {
                findings.broken(checks::ROUTE_REST, &at, format!("{key} is set"));
            }
        }
    }
    for key in ["regex_rewrite", "path_rewrite_policy", "host_rewrite_header", "host_rewrite_path_regex"] {
        if let Some(at) = route.action.get(key) {
            findings.unknown(checks::ROUTE_REST, &at, format!("what {key} makes of a request is not looked into"));
        }
    }
}

fn retries(route: &Route<'_>, findings: &mut Findings) {
    let policy = route.action.get("retry_policy").or_else(|| route.host.get("retry_policy"));
    let Some(policy) = policy else {
        findings.holds(checks::ROUTE_RETRY);
        return;
    };
    let reasons = policy.text("retry_on").unwrap_or_default();
    let is_harmless =
        reasons.split(',').map(str::trim).all(|reason| reason.is_empty() || HARMLESS_RETRIES.contains(&reason));
    findings.judge(checks::ROUTE_RETRY, is_harmless, &policy, format!("it retries on {reasons}"));
    for at in ["retriable_status_codes", "retriable_request_headers", "retriable_headers"]
        .iter()
        .filter_map(|key| policy.get(key))
    {
        // Without its reason a list does nothing.
        if !is_harmless {
            findings.broken(checks::ROUTE_RETRY, &at, "more reasons to retry");
        }
    }
    if route.action.at(&["hedge_policy", "hedge_on_per_try_timeout"]).is_some() {
        findings.broken(checks::ROUTE_RETRY, &route.action, "hedge_policy sends a call twice");
    }
}

/// From Envoy 1.37 on, clusters can have the policies that else stand at routes.
fn of_clusters(route: &Route<'_>, setup: &Setup<'_>, findings: &mut Findings) {
    let clusters = route.clusters.iter().filter_map(|name| setup.cluster(name));
    for (_, options) in
        clusters.filter_map(|at| at.get("typed_extension_protocol_options")).flat_map(|all| all.members())
    {
        for (check, key) in [(checks::ROUTE_RETRY, "retry_policy"), (checks::ROUTE_REST, "request_mirror_policies")] {
            if let Some(at) = options.get(key) {
                findings.broken(check, &at, format!("the cluster has {key}"));
            }
        }
    }
}

fn headers(route: &Route<'_>, findings: &mut Findings) {
    findings.holds(checks::ROUTE_HEADERS);
    let weighted = route.action.at(&["weighted_clusters", "clusters"]).map(|list| list.elements()).unwrap_or_default();
    for at in [&route.route, &route.host, &route.table].into_iter().chain(&weighted) {
        for added in at.items("request_headers_to_add") {
            let name = added.get("header").and_then(|header| header.text("key")).unwrap_or_default();
            judged(name, &added, findings);
        }
        for removed in at.items("request_headers_to_remove") {
            judged(removed.value().as_str().unwrap_or_default(), &removed, findings);
        }
    }
}

fn judged(name: &str, at: &Tree<'_>, findings: &mut Findings) {
    let name = name.to_ascii_lowercase();
    if JUDGED.contains(&name.as_str())
        || name.starts_with("mcp-")
        || name.starts_with(':')
        || name.starts_with("x-mcp-authz-")
    {
        findings.broken(checks::ROUTE_HEADERS, at, format!("changes `{name}` behind the decision"));
    } else if name.is_empty() {
        findings.unknown(checks::ROUTE_HEADERS, at, "it names no header");
    }
}

fn time(gate: &Gate<'_>, route: &Route<'_>, findings: &mut Findings) {
    let longest = route.action.at(&["max_stream_duration"]).and_then(|most| most.duration("max_stream_duration"));
    let common = gate.hcm.at(&["common_http_protocol_options"]).and_then(|most| most.duration("max_stream_duration"));
    let timeout = route.action.duration("timeout");
    // Beside the longest duration of a stream Envoy ignores the time of the route.
    let cut = match (longest, timeout) {
        (Some(time), _) | (None, Some(time)) => Some(time),
        (None, None) => Some(Duration::from_secs(15)),
    };
    let end = longest.or(common).or(timeout).filter(|time| !time.is_zero());
    match (cut, end) {
        (Some(time), _) if !time.is_zero() && time < Duration::from_secs(60) => {
            findings.broken(checks::ROUTE_TIME, &route.action, format!("calls are cut after {} s", time.as_secs()));
        }
        (_, None) => findings.broken(checks::ROUTE_TIME, &route.action, "streams have no end"),
        (_, Some(_)) => findings.holds(checks::ROUTE_TIME),
    }
    let idle = route.action.duration("idle_timeout").or_else(|| gate.hcm.duration("stream_idle_timeout"));
    if !idle.is_some_and(|time| time.is_zero() || time >= Duration::from_secs(3600)) {
        findings.broken(checks::ROUTE_TIME, &gate.hcm, "silent streams are cut by stream_idle_timeout");
    }
}

fn upgrades(gate: &Gate<'_>, route: &Route<'_>, findings: &mut Findings) {
    findings.holds(checks::ROUTE_UPGRADE);
    let kind = |upgrade: &Tree<'_>| upgrade.text("upgrade_type").unwrap_or_default().to_ascii_lowercase();
    let on_route = route.action.items("upgrade_configs");
    for upgrade in on_route.iter().filter(|upgrade| upgrade.flag("enabled") != Flag::No) {
        findings.broken(checks::ROUTE_UPGRADE, upgrade, format!("`{}` is let through", kind(upgrade)));
    }
    for upgrade in gate.hcm.items("upgrade_configs").iter().filter(|upgrade| upgrade.flag("enabled") != Flag::No) {
        let is_off = on_route.iter().any(|own| kind(own) == kind(upgrade) && own.flag("enabled") == Flag::No);
        if !is_off {
            findings.broken(checks::ROUTE_UPGRADE, upgrade, format!("`{}` is let through", kind(upgrade)));
        }
    }
    if let Some(at) = route.route.at(&["match", "connect_matcher"]) {
        findings.broken(checks::ROUTE_UPGRADE, &at, "CONNECT is let through");
    }
}
