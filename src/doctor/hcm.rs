//! What the HTTP connection manager makes of a request before anybody looks.

use super::{
    Findings, checks,
    gates::Gate,
    tree::{Flag, Tree},
};

pub(super) fn examine(gates: &[Gate<'_>], findings: &mut Findings) {
    for gate in gates.iter().filter(|gate| gate.asks && !gate.routes.is_empty()) {
        let hcm = &gate.hcm;
        for (check, name) in [
            (checks::PATH_NORMAL, "normalize_path"),
            (checks::PATH_SLASHES, "merge_slashes"),
            (checks::CLIENT_ADDRESS, "use_remote_address"),
        ] {
            findings.judge(check, hcm.flag(name) == Flag::Yes, hcm, format!("{name} is not true"));
        }
        let actions = [
            "IMPLEMENTATION_SPECIFIC_DEFAULT",
            "KEEP_UNCHANGED",
            "REJECT_REQUEST",
            "UNESCAPE_AND_REDIRECT",
            "UNESCAPE_AND_FORWARD",
        ];
        match hcm.choice("path_with_escaped_slashes_action", &actions) {
            None => findings.unknown(checks::PATH_ESCAPED, hcm, "path_with_escaped_slashes_action is not understood"),
            Some("IMPLEMENTATION_SPECIFIC_DEFAULT" | "KEEP_UNCHANGED") => {
                findings.broken(checks::PATH_ESCAPED, hcm, "path_with_escaped_slashes_action keeps them");
            }
            Some(_) => findings.holds(checks::PATH_ESCAPED),
        }
        let common = hcm.get("common_http_protocol_options");
        let action = common.as_ref().and_then(|options| {
            options.choice("headers_with_underscores_action", &["ALLOW", "REJECT_REQUEST", "DROP_HEADER"])
        });
        let is_safe = matches!(action, Some("REJECT_REQUEST" | "DROP_HEADER"));
        findings.judge(checks::HEADER_UNDERSCORES, is_safe, hcm, "headers_with_underscores_action lets them pass");
        let is_bounded = hcm.duration("request_timeout").is_some_and(|time| !time.is_zero());
        findings.judge(checks::REQUEST_TIME, is_bounded, hcm, "request_timeout is missing or 0");
        callers(gate, findings);
    }
}

/// Whether tokens come over TLS, or from this machine.
fn callers(gate: &Gate<'_>, findings: &mut Findings) {
    if is_local(&gate.listener) {
        findings.holds(checks::CALLERS_TLS);
        return;
    }
    match gate.chain.get("transport_socket") {
        Some(socket) if is_tls(&socket) => findings.holds(checks::CALLERS_TLS),
        Some(socket) => findings.unknown(checks::CALLERS_TLS, &socket, "this transport is not known"),
        None => findings.broken(checks::CALLERS_TLS, &gate.chain, "plain HTTP from other machines"),
    }
}

fn is_tls(socket: &Tree<'_>) -> bool {
    let typed = socket.typed("typed_config");
    typed.is_some_and(|typed| typed.is("tls.v3.DownstreamTlsContext") || typed.is("quic.v3.QuicDownstreamTransport"))
}

/// Whether an address is a Unix socket, an internal one or loopback.
pub(super) fn is_local(holder: &Tree<'_>) -> bool {
    let Some(address) = holder.get("address") else { return false };
    if address.has("pipe") || address.has("envoy_internal_address") {
        return true;
    }
    let Some(host) = address.get("socket_address").and_then(|socket| socket.text("address")) else { return false };
    host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
