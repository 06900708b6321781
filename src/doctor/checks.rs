//! The guarantees: what each says, what it means if it is not kept, and how to mend it.

/// One guarantee.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, for people and programs.
    pub id: &'static str,
    /// What holds.
    pub promise: &'static str,
    /// What it means if it does not.
    pub means: &'static str,
    /// What to write where.
    pub fix: &'static str,
}

macro_rules! checks {
    ($($name:ident: $id:literal, $promise:literal, $means:literal, $fix:literal;)+) => {
        $(pub(super) const $name: &Check = &Check { id: $id, promise: $promise, means: $means, fix: $fix };)+
        /// All, in the order in which they are told.
        pub const ALL: &[&Check] = &[$($name),+];
    };
}

checks! {
    AUTHZ_PRESENT: "authz-present",
        "every route to an MCP server passes ext_authz",
        "calls reach the server without a decision",
        "add envoy.filters.http.ext_authz before the router, and enable it for the route";
    AUTHZ_ALWAYS: "authz-always",
        "ext_authz is asked about every request of such a route",
        "some requests reach the server without a decision",
        "remove disabled, filter_enabled, filter_enabled_metadata, shadow_mode and the matcher around the filter; on Istio `rules: [{}]`";
    AUTHZ_ELSEWHERE: "authz-elsewhere",
        "no other way leads to the same servers",
        "calls that come the other way are not decided",
        "give that listener the same filters, or take its route away; name the MCP clusters with --upstream";
    AUTHZ_GRPC: "authz-grpc",
        "ext_authz asks by gRPC, at a cluster that exists",
        "every call is refused, or another service decides",
        "grpc_service: {envoy_grpc: {cluster_name: …}} with a cluster of that name";
    BODY_WHOLE: "body-whole",
        "ext_authz sends the body, whole or not at all",
        "mcp-authz refuses calls whose body it does not see",
        "with_request_body: {allow_partial_message: false, …}, and no disable_request_body_buffering on the route";
    BODY_BYTES: "body-bytes",
        "ext_authz sends the bytes of the body as they are",
        "invalid bytes are replaced, so mcp-authz judges another text than the server reads; it refuses such calls unless envoy.accept_lossy_body is true",
        "with_request_body: {pack_as_bytes: true, …}";
    BODY_LIMIT: "body-limit",
        "Envoy's limit of a body is set and not above that of mcp-authz",
        "larger bodies are refused by mcp-authz after Envoy held them in memory",
        "with_request_body: {max_request_bytes: 1048576, …}, at most limits.body_bytes_max";
    BODY_FILTER: "body-filter",
        "from Envoy 1.40 on, bodies above the limit are refused before ext_authz",
        "an HTTP/2 caller can have a cut body checked; that mcp-authz refuses it is then the only line of defense",
        "envoy.filters.http.body_size_limit before ext_authz, with the same max_request_bytes";
    HEADERS_RAW: "headers-raw",
        "every header arrives, and repeated ones one by one",
        "a second Authorization or Mcp-Name is joined to the first by a comma, or a header is not judged",
        "encode_raw_headers: true; no allowed_headers and no disallowed_headers";
    FAIL_CLOSED: "fail-closed",
        "no decision means no call",
        "while mcp-authz cannot be asked, every call passes",
        "failure_mode_allow: false";
    ERROR_STATUS: "error-status",
        "an outage of mcp-authz is told from a decision",
        "an outage looks like a denial, or like success",
        "status_on_error: {code: ServiceUnavailable}";
    AUTHZ_TIMEOUT: "authz-timeout",
        "Envoy waits as long as mcp-authz may take, and no more than a minute",
        "decisions are thrown away although they were made and charged, or callers wait for minutes",
        "grpc_service: {timeout: 1s}, at least timeouts.check_ms";
    AUTHZ_RETRY: "authz-retry",
        "a Check is not sent twice",
        "retries multiply the load of an mcp-authz that is already slow, and come after its deadline",
        "remove retry_policy from grpc_service of ext_authz";
    MUTATIONS: "mutations",
        "a header that cannot be sent as written is an error",
        "the credential for the server could be dropped in silence",
        "validate_mutations: true";
    METADATA: "metadata",
        "nothing that callers control is sent or kept as metadata of ours",
        "a caller could claim what only Envoy or mcp-authz may say",
        "leave metadata_context_namespaces empty, and let no filter write envoy.filters.http.ext_authz or mcp_authz";
    SERVER_BOUND: "server-bound",
        "the route says which server it leads to",
        "mcp-authz refuses every call of the route, or decides it for another server",
        "check_settings: {context_extensions: {server: NAME}} with a NAME of servers.yaml";
    ROUTE_EXACT: "route-exact",
        "routes to MCP servers match one exact path",
        "other paths of the server are reached as if they were MCP",
        "match: {path: /mcp}, case-sensitive";
    ROUTE_REST: "route-rest",
        "routes say where requests go, callers do not",
        "a header decides which server gets the call and its credential, or a copy goes elsewhere",
        "route: {cluster: NAME}; no cluster_header, no request_mirror_policies, no internal redirects";
    ROUTE_RETRY: "route-retry",
        "a call is sent to its server once",
        "a tool call that failed half-way is made again, and each attempt has its effect",
        "remove retry_policy, or retry_on: connect-failure only";
    ROUTE_HEADERS: "route-headers",
        "routes change no header that was decided about",
        "the server gets another credential or another Mcp-Name than was judged",
        "remove those names from request_headers_to_add and request_headers_to_remove";
    ROUTE_TIME: "route-time",
        "long calls and silent streams are not cut, but have an end",
        "calls are cut after 15 seconds, or a revoked grant keeps its stream for ever",
        "route: {timeout: 0s, max_stream_duration: {max_stream_duration: 3600s}} and stream_idle_timeout: 0s";
    ROUTE_UPGRADE: "route-upgrade",
        "no upgrade and no CONNECT",
        "behind an upgrade flow bytes that nobody judges; that mcp-authz refuses the header is then the only line of defense",
        "remove upgrade_configs, or upgrade_configs: [{upgrade_type: websocket, enabled: false}] on the route; no connect_matcher";
    PATH_NORMAL: "path-normal",
        "paths are normalized before they are matched",
        "/x/../mcp is another path for Envoy than for the server",
        "normalize_path: true";
    PATH_SLASHES: "path-slashes",
        "// is one slash",
        "//mcp is another path for Envoy than for the server",
        "merge_slashes: true";
    PATH_ESCAPED: "path-escaped",
        "an escaped slash is refused or resolved",
        "/x%2f..%2fmcp is another path for Envoy than for the server",
        "path_with_escaped_slashes_action: REJECT_REQUEST";
    HEADER_UNDERSCORES: "header-underscores",
        "headers with underscores are refused",
        "a server that reads x_y as x-y takes a header that was never judged",
        "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}";
    CLIENT_ADDRESS: "client-address",
        "the address of a caller is that of its connection",
        "callers choose their address and their request id, and send x-envoy-* headers",
        "use_remote_address: true";
    REQUEST_TIME: "request-time",
        "a caller must finish its request in time",
        "slow bodies are held in memory for as long as callers like",
        "request_timeout: 10s";
    CALLERS_TLS: "callers-tls",
        "grant tokens come over TLS or loopback",
        "whoever reads the network has the token",
        "a transport_socket with TLS in every filter chain, or a loopback address; on Istio PeerAuthentication STRICT";
    FILTER_ORDER: "filter-order",
        "nothing between ext_authz and the server changes the request",
        "the server gets another request than was judged",
        "move the filter before ext_authz, or remove it";
    RESPONSES_PRESENT: "responses-present",
        "responses are shown to mcp-authz where it is told so",
        "lists show all tools and nothing is masked",
        "envoy.filters.http.ext_proc, or envoy.response_phase: false in config.yaml";
    RESPONSES_ORDER: "responses-order",
        "ext_proc stands behind ext_authz",
        "it sees no decision and leaves every response alone",
        "move envoy.filters.http.ext_proc between ext_authz and the router";
    RESPONSES_CLOSED: "responses-closed",
        "a response that cannot be checked is not sent",
        "responses are sent as they came",
        "failure_mode_allow: false and no observability_mode in ext_proc";
    RESPONSES_ALWAYS: "responses-always",
        "ext_proc is skipped only where the decision asked for nothing",
        "responses leave unseen that a decision asked to look at",
        "the matcher of deploy/envoy.yaml, or none; no disabled and no overrides on the route";
    RESPONSES_MODE: "responses-mode",
        "every byte of a response is shown before it is sent",
        "mcp-authz withholds all responses, or sees only some",
        "processing_mode: {request_header_mode: SKIP, response_header_mode: SEND, response_body_mode: STREAMED, response_trailer_mode: SEND} and allow_mode_override: true";
    RESPONSES_METADATA: "responses-metadata",
        "the decision reaches ext_proc, and its answer the access log",
        "every response looks like one that needs nothing, and limits that settle by the answer give nothing back",
        "metadata_options: {forwarding_namespaces: {untyped: [envoy.filters.http.ext_authz]}, receiving_namespaces: {untyped: [mcp_authz]}}";
    RESPONSES_TIME: "responses-time",
        "Envoy waits for an answer about a response as long as mcp-authz may take",
        "responses are cut off",
        "message_timeout: 1s, at least timeouts.check_ms";
    RESPONSES_CLUSTER: "responses-cluster",
        "streams that are looked at cannot use up the requests of decisions",
        "long streams make every decision fail",
        "a cluster of its own for ext_proc, or max_requests above checks_in_flight_max and streams_max together";
    CLUSTER_HTTP2: "cluster-http2",
        "mcp-authz is asked over HTTP/2",
        "every call is refused",
        "typed_extension_protocol_options with explicit_http_config: {http2_protocol_options: {}}";
    CLUSTER_AUTHORITY: "cluster-authority",
        "mcp-authz is asked by a name that a host can have",
        "every call is refused, or every response that is looked at, because the name of a cluster is no host",
        "authority: mcp-authz.mcp-system.svc.cluster.local beside cluster_name in envoy_grpc";
    CLUSTER_TRANSPORT: "cluster-transport",
        "Envoy reaches mcp-authz by a Unix socket, loopback or mutual TLS",
        "who is in between reads the credentials of servers, and decides",
        "address: {pipe: …}, or a transport_socket with a client certificate, trusted_ca and match_typed_subject_alt_names";
    CLUSTER_BREAKER: "cluster-breaker",
        "Envoy's own limit is above that of mcp-authz",
        "under load callers get 403 or 503 in place of an answer that they understand",
        "circuit_breakers: {thresholds: [{max_requests: 8192, max_pending_requests: 8192}]}";
    SETTLE_LOG: "settle-log",
        "mcp-authz is told how calls ended",
        "nothing is given back for calls that never reached the server, and slots of calls in flight stay taken for their lease",
        "envoy.access_loggers.http_grpc with buffer_size_bytes: 0 at a cluster of mcp-authz, filtered by nothing but `settle`, `respond` and `seen`";
    SETTLE_INTERVAL: "settle-interval",
        "calls that run are told of at least every minute",
        "the slot of a long call is given to another before it ends",
        "access_log_options: {access_log_flush_interval: 10s}, shorter than every lease";
    VERSION: "version",
        "Envoy is the newest patch release of a line that was tested",
        "what was found out about Envoy may not hold, and known defects may be in it",
        "1.40.0, 1.39.3, 1.38.3 or 1.36.4, or a newer patch release of these";
    ADMIN_CLOSED: "admin-closed",
        "Envoy's admin port is for this machine only",
        "whoever reaches it can stop Envoy and read its whole configuration",
        "admin: {address: {socket_address: {address: 127.0.0.1, …}}}";
}
