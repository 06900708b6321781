//! The clusters by which mcp-authz is asked.

use super::{
    Expect, Findings, checks,
    gates::Gate,
    hcm::is_local,
    setup::Setup,
    tree::{Flag, Tree},
};

/// What Envoy takes where nothing is written.
const REQUESTS_DEFAULT: u64 = 1024;

pub(super) fn examine(gates: &[Gate<'_>], setup: &Setup<'_>, expect: &Expect, findings: &mut Findings) {
    let mut names: Vec<&str> = Vec::new();
    for gate in gates.iter().filter(|gate| gate.asks) {
        for typed in gate.filters.iter().filter_map(|filter| filter.typed.as_ref()) {
            let asks = typed.is(super::gates::AUTHZ) || typed.is("ext_proc.v3.ExternalProcessor");
            let grpc = typed.config.at(&["grpc_service", "envoy_grpc"]).filter(|_| asks);
            let Some(grpc) = grpc else { continue };
            let Some(name) = grpc.text("cluster_name") else { continue };
            authority(&grpc, name, findings);
            if let Some(cluster) = setup.cluster(name).filter(|_| !names.contains(&name)) {
                one(cluster, setup, findings);
            }
            if typed.is(super::gates::AUTHZ)
                && let Some(cluster) = setup.cluster(name)
            {
                breaker(cluster, expect, findings);
            }
            names.push(name);
        }
        for log in gate.hcm.items("access_log").iter().filter(|log| super::process::is_grpc(log)) {
            let grpc = log.at(&["typed_config", "common_config", "grpc_service", "envoy_grpc"]);
            let Some((name, grpc)) = grpc.as_ref().and_then(|grpc| Some((grpc.text("cluster_name")?, grpc))) else {
                findings.unknown(checks::SETTLE_LOG, log, "it goes by something else than envoy_grpc");
                continue;
            };
            authority(grpc, name, findings);
            match setup.cluster(name) {
                Some(cluster) if !names.contains(&name) => one(cluster, setup, findings),
                Some(_) => {}
                None => findings.unknown(checks::SETTLE_LOG, grpc, format!("the cluster `{name}` was not given")),
            }
            names.push(name);
        }
    }
}

/// Envoy puts the name of the cluster where no other is given.
fn authority(grpc: &Tree<'_>, cluster: &str, findings: &mut Findings) {
    let name = grpc.text("authority").unwrap_or(cluster);
    let is_host = http::uri::Authority::try_from(name).is_ok();
    findings.judge(checks::CLUSTER_AUTHORITY, is_host, grpc, format!("`{name}` is no name of a host"));
}

fn one(cluster: &Tree<'_>, setup: &Setup<'_>, findings: &mut Findings) {
    let options = cluster.get("typed_extension_protocol_options").map(|options| options.members()).unwrap_or_default();
    let is_http2 = cluster.has("http2_protocol_options")
        || options.iter().any(|(_, options)| options.at(&["explicit_http_config", "http2_protocol_options"]).is_some());
    findings.judge(checks::CLUSTER_HTTP2, is_http2, cluster, "no http2_protocol_options");
    transport(cluster, setup, findings);
}

fn transport(cluster: &Tree<'_>, setup: &Setup<'_>, findings: &mut Findings) {
    let endpoints = setup.endpoints_of(cluster);
    let addresses =
        endpoints.as_ref().map(|endpoints| endpoints.iter().filter_map(|at| at.get("endpoint")).collect::<Vec<_>>());
    if addresses.as_ref().is_some_and(|all| !all.is_empty() && all.iter().all(is_local)) {
        findings.holds(checks::CLUSTER_TRANSPORT);
        return;
    }
    // Endpoints pick one of several transports by their metadata; none may be weak.
    let matches = cluster.items("transport_socket_matches");
    let sockets: Vec<_> = matches.iter().filter_map(|one| one.get("transport_socket")).collect();
    let sockets = if sockets.is_empty() { cluster.get("transport_socket").into_iter().collect() } else { sockets };
    if sockets.is_empty() {
        let what = "mcp-authz is asked over plain TCP";
        match addresses {
            Some(_) => findings.broken(checks::CLUSTER_TRANSPORT, cluster, what),
            None => findings.unknown(
                checks::CLUSTER_TRANSPORT,
                cluster,
                format!("{what}, at addresses that were not given"),
            ),
        }
        return;
    }
    for socket in &sockets {
        match weakness(socket) {
            None => findings.holds(checks::CLUSTER_TRANSPORT),
            Some(what) => findings.broken(checks::CLUSTER_TRANSPORT, socket, what),
        }
    }
}

/// What is missing for mutual TLS.
fn weakness(socket: &Tree<'_>) -> Option<&'static str> {
    let Some(typed) = socket.typed("typed_config").filter(|typed| typed.is("tls.v3.UpstreamTlsContext")) else {
        return Some("this transport is not TLS");
    };
    let common = typed.config.get("common_tls_context")?;
    let has = |path: &[&str]| {
        common.at(path).is_some_and(|found| found.value().as_array().is_none_or(|list| !list.is_empty()))
    };
    if !["tls_certificates", "tls_certificate_sds_secret_configs", "tls_certificate_provider_instance"]
        .iter()
        .any(|key| has(&[key]))
    {
        return Some("Envoy shows no certificate of its own");
    }
    let combined = common.at(&["combined_validation_context", "default_validation_context"]);
    let contexts = [common.get("validation_context"), combined];
    let names = |context: &Tree<'_>| {
        ["match_typed_subject_alt_names", "match_subject_alt_names"].iter().any(|key| !context.items(key).is_empty())
    };
    let trusts = contexts
        .iter()
        .flatten()
        .any(|context| context.has("trusted_ca") || context.has("ca_certificate_provider_instance"))
        || has(&["combined_validation_context", "validation_context_sds_secret_config"])
        || has(&["validation_context_sds_secret_config"]);
    if !trusts {
        return Some("the certificate of mcp-authz is not verified");
    }
    if !contexts.iter().flatten().any(names) && typed.config.flag("auto_sni_san_validation") != Flag::Yes {
        return Some("any certificate of the same authority passes for mcp-authz");
    }
    None
}

/// The requests that may run at the same time.
pub(super) fn requests_max(cluster: &Tree<'_>) -> u64 {
    threshold(cluster, "max_requests")
}

fn threshold(cluster: &Tree<'_>, name: &str) -> u64 {
    let thresholds = cluster.get("circuit_breakers").map(|breakers| breakers.items("thresholds")).unwrap_or_default();
    let default = thresholds.iter().find(|one| matches!(one.text("priority"), None | Some("DEFAULT")));
    default.and_then(|one| one.number(name)).unwrap_or(REQUESTS_DEFAULT)
}

fn breaker(cluster: &Tree<'_>, expect: &Expect, findings: &mut Findings) {
    let needed = expect.checks_in_flight_max;
    for name in ["max_requests", "max_pending_requests"] {
        let most = threshold(cluster, name);
        let what = format!("{name} is {most}; limits.checks_in_flight_max is {needed}");
        findings.judge(checks::CLUSTER_BREAKER, most > needed, cluster, what);
    }
}
