//! The order of filters: what changes a request behind the decision, and what writes metadata of ours.

use super::{
    Findings, checks,
    gates::{Applied, Filter, Gate},
    setup::Setup,
    tree::{Flag, Tree, Typed},
    ways::mentions,
};

/// Leave requests as they are, or refuse them. By the last words of their types.
const HARMLESS: &[&str] = &[
    "bandwidth_limit.v3.BandwidthLimit",
    "body_size_limit.v3.BodySizeLimit",
    "buffer.v3.Buffer",
    "compressor.v3.Compressor",
    "cors.v3.Cors",
    "csrf.v3.CsrfPolicy",
    "custom_response.v3.CustomResponse",
    "fault.v3.HTTPFault",
    "geoip.v3.Geoip",
    "grpc_stats.v3.FilterConfig",
    "health_check.v3.HealthCheck",
    "http_metrics.v3.HttpMetrics",
    "local_ratelimit.v3.LocalRateLimit",
    "on_demand.v3.OnDemand",
    "ratelimit.v3.RateLimit",
    "rbac.v3.RBAC",
    "router.v3.Router",
    "set_filter_state.v3.Config",
    "stateful_session.v3.StatefulSession",
    "stats.PluginConfig",
    "io.istio.http.peer_metadata.Config",
    "upstream_codec.v3.UpstreamCodec",
];

/// Change headers, path or body, or run code that can.
const CHANGING: &[&str] = &[
    "alternate_protocols_cache.v3.FilterConfig",
    "aws_lambda.v3.Config",
    "aws_request_signing.v3.AwsRequestSigning",
    "credential_injector.v3.CredentialInjector",
    "decompressor.v3.Decompressor",
    "dynamic_modules.v3.DynamicModuleFilter",
    "gcp_authn.v3.GcpAuthnFilterConfig",
    "golang.v3alpha.Config",
    "grpc_json_reverse_transcoder.v3.GrpcJsonReverseTranscoder",
    "grpc_json_transcoder.v3.GrpcJsonTranscoder",
    "header_mutation.v3.HeaderMutation",
    "lua.v3.Lua",
    "mcp_json_rest_bridge.v3.McpJsonRestBridge",
    "mcp_router.v3.McpRouter",
    "oauth2.v3.OAuth2",
    "wasm.v3.Wasm",
];

pub(super) fn examine(gates: &[Gate<'_>], setup: &Setup<'_>, findings: &mut Findings) {
    for gate in gates.iter().filter(|gate| gate.asks && !gate.routes.is_empty()) {
        let first = gate.authz().filter_map(|filter| gate.position(filter)).min().unwrap_or_default();
        for filter in gate.filters.iter().skip(first.saturating_add(1)) {
            // One that is off everywhere does nothing.
            let is_on = !filter.is_disabled
                || gate.routes.iter().any(|route| !matches!(route.applied(filter), Applied::Off(_)));
            if is_on {
                behind(filter, findings);
            }
        }
        for filter in &gate.filters {
            writes(filter, findings);
        }
        for router in gate.of_type("router.v3.Router").filter_map(|filter| filter.typed.as_ref()) {
            upstream(&router.config, "upstream_http_filters", findings);
        }
        for name in gate.routes.iter().flat_map(|route| &route.clusters) {
            for (key, typed) in setup
                .cluster(name)
                .and_then(|c| c.get("typed_extension_protocol_options"))
                .iter()
                .flat_map(Tree::members)
            {
                if key.ends_with("HttpProtocolOptions") {
                    upstream(&typed, "http_filters", findings);
                }
            }
        }
    }
}

fn upstream(at: &Tree<'_>, key: &str, findings: &mut Findings) {
    for at in at.items(key) {
        let filter = Filter {
            name: at.text("name").unwrap_or_default(),
            typed: at.typed("typed_config"),
            matcher: None,
            is_disabled: at.flag("disabled") == Flag::Yes,
            at,
        };
        behind(&filter, findings);
    }
}

fn behind(filter: &Filter<'_>, findings: &mut Findings) {
    let Some(typed) = &filter.typed else {
        findings.unknown(
            checks::FILTER_ORDER,
            &filter.at,
            format!("`{}`: its configuration was not given", filter.name),
        );
        return;
    };
    let is_one = |list: &[&str]| list.iter().any(|end| typed.is(end) || typed.name == *end);
    if is_one(HARMLESS) || typed.is(super::gates::AUTHZ) {
        findings.holds(checks::FILTER_ORDER);
    } else if typed.is("ext_proc.v3.ExternalProcessor") {
        processor(filter, typed, findings);
    } else if typed.is("jwt_authn.v3.JwtAuthentication") {
        let providers = typed.config.get("providers").map(|providers| providers.members()).unwrap_or_default();
        let writes = providers.iter().any(|(_, provider)| provider.has("claim_to_headers"));
        findings.judge(checks::FILTER_ORDER, !writes, &filter.at, "jwt_authn writes claims into headers");
    } else if is_one(CHANGING) {
        findings.broken(checks::FILTER_ORDER, &filter.at, format!("`{}` can change the request", filter.name));
    } else {
        findings.unknown(checks::FILTER_ORDER, &filter.at, format!("what `{}` does is not known", typed.name));
    }
}

/// One that is shown responses only.
fn processor(filter: &Filter<'_>, typed: &Typed<'_>, findings: &mut Findings) {
    let mode = typed.config.get("processing_mode");
    let is_off = |name| mode.as_ref().and_then(|mode| mode.text(name));
    let is_blind = is_off("request_header_mode") == Some("SKIP")
        && matches!(is_off("request_body_mode"), None | Some("NONE"))
        && matches!(is_off("request_trailer_mode"), None | Some("SKIP" | "DEFAULT"));
    findings.judge(checks::FILTER_ORDER, is_blind, &filter.at, "ext_proc is shown requests and may change them");
}

/// Filters that copy from the request into metadata.
fn writes(filter: &Filter<'_>, findings: &mut Findings) {
    let Some(typed) = &filter.typed else { return };
    let is_copying = ["header_to_metadata.v3.Config", "set_metadata.v3.Config", "json_to_metadata.v3.JsonToMetadata"];
    if is_copying.iter().any(|end| typed.is(end)) {
        for name in ["envoy.filters.http.ext_authz", "mcp_authz"] {
            if mentions(typed.config.value(), &|text| text == name) {
                findings.broken(checks::METADATA, &filter.at, format!("it writes the namespace `{name}`"));
            }
        }
    }
}
