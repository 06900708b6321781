//! Real Envoy with a configuration of the test's own making.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::http1::{self, Request};
use super::process::Process;
use super::{tool, until};

/// Where the authorizer listens.
#[derive(Clone, Debug)]
pub(crate) enum Authorizer {
    /// TCP on loopback.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(std::path::PathBuf),
}

/// What differs between the tables.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Whom to ask.
    pub(crate) authorizer: Authorizer,
    /// Where allowed requests go.
    pub(crate) upstream: SocketAddr,
    /// Bytes of a body, in `with_request_body` and, where present, in the filter before it.
    pub(crate) body_bytes_max: usize,
    /// Whether the filter of Envoy 1.40 that closes the truncation hole is there.
    pub(crate) body_size_limit: bool,
    /// Time that Envoy gives one Check, e.g. `2s`.
    pub(crate) check_timeout: &'static str,
    /// An `authorization` value that Envoy sets before anybody looks, for clients that cannot send a token.
    pub(crate) authorization: Option<String>,
}

/// A running Envoy.
pub(crate) struct Envoy {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where its admin interface listens.
    pub(crate) admin: SocketAddr,
    /// The program.
    pub(crate) process: Process,
}

impl Envoy {
    /// Starts it and waits until it serves.
    pub(crate) async fn start(dir: &Path, settings: &Settings) -> Self {
        let config = dir.join("envoy.yaml");
        let admin_file = dir.join("envoy.admin");
        std::fs::write(&config, render(settings)).expect("the temporary folder is writable");
        let mut command = tokio::process::Command::new(tool("envoy", "bin/envoy"));
        command.arg("-c").arg(&config).arg("--admin-address-path").arg(&admin_file);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
        let mut process = Process::start("envoy", dir, command);
        let admin: SocketAddr = until("Envoy names its admin address", async || {
            process.assert_running();
            std::fs::read_to_string(&admin_file).ok()?.trim().parse().ok()
        })
        .await;
        let address = until("Envoy listens", async || {
            process.assert_running();
            let ready = Request::new("GET", "/ready").bytes();
            let ready = http1::try_exchange(admin, &ready).await.ok()?;
            let listeners = Request::new("GET", "/listeners?format=json").bytes();
            let listeners = http1::try_exchange(admin, &listeners).await.ok()?.json();
            let bound = listeners.pointer("/listener_statuses/0/local_address/socket_address/port_value")?.as_u64()?;
            let port = u16::try_from(bound).ok().filter(|port| *port != 0 && ready.status == 200)?;
            Some(SocketAddr::from(([127, 0, 0, 1], port)))
        })
        .await;
        Self { address, admin, process }
    }
}

fn socket(address: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
}

fn render(settings: &Settings) -> String {
    let authorizer = match &settings.authorizer {
        Authorizer::Tcp(address) => socket(*address),
        Authorizer::Unix(path) => format!("{{pipe: {{path: {}}}}}", path.display()),
    };
    let early =
        settings.authorization.as_ref().map_or_else(String::new, |value| EARLY_MUTATION.replace("@VALUE@", value));
    let limit = if settings.body_size_limit { BODY_SIZE_LIMIT } else { "" };
    TEMPLATE
        .replace("@EARLY_MUTATION@", &early)
        .replace("@BODY_SIZE_LIMIT@", limit)
        .replace("@ROUTES@", &routes())
        .replace("@BYTES@", &settings.body_bytes_max.to_string())
        .replace("@TIMEOUT@", settings.check_timeout)
        .replace("@UPSTREAM@", &socket(settings.upstream))
        .replace("@AUTHORIZER@", &authorizer)
}

/// Three exact paths: two servers, and one that no server is bound to.
fn routes() -> String {
    let mut out = String::new();
    for (path, server) in
        [("/mcp", Some("alpha")), ("/beta", Some("beta")), ("/unknown", Some("nobody")), ("/unbound", None)]
    {
        let target = format!("match: {{path: {path}}}, route: {{cluster: upstream, timeout: 0s}}");
        let bound = server.map_or_else(String::new, |server| {
            format!(
                ", typed_per_filter_config: {{envoy.filters.http.ext_authz: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, check_settings: {{context_extensions: {{server: {server}}}}}}}}}"
            )
        });
        // Writing to a String cannot fail.
        writeln!(out, "              - {{{target}{bound}}}").expect("memory");
    }
    out
}

const EARLY_MUTATION: &str = r#"
          early_header_mutation_extensions:
          - name: envoy.http.early_header_mutation.header_mutation
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
              mutations:
              - append: {header: {key: authorization, value: "@VALUE@"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
"#;

const BODY_SIZE_LIMIT: &str = r#"
          - name: envoy.filters.http.body_size_limit
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit
              max_request_bytes: @BYTES@
"#;

const TEMPLATE: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: mcp
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: mcp
          use_remote_address: true
          normalize_path: true
          merge_slashes: true
          path_with_escaped_slashes_action: REJECT_REQUEST
          common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}
          request_timeout: 10s
          stream_idle_timeout: 0s
@EARLY_MUTATION@
          access_log:
          - name: envoy.access_loggers.stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format:
                text_format_source: {inline_string: "%REQ(:METHOD)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA(envoy.filters.http.ext_authz)%\n"}
          http_filters:
@BODY_SIZE_LIMIT@
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service: {envoy_grpc: {cluster_name: authorizer}, timeout: @TIMEOUT@}
              with_request_body: {max_request_bytes: @BYTES@, allow_partial_message: false, pack_as_bytes: true}
              encode_raw_headers: true
              failure_mode_allow: false
              status_on_error: {code: 503}
              validate_mutations: true
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            name: mcp
            virtual_hosts:
            - name: mcp
              domains: ["*"]
              routes:
@ROUTES@
  clusters:
  - name: upstream
    type: STATIC
    connect_timeout: 1s
    load_assignment: {cluster_name: upstream, endpoints: [{lb_endpoints: [{endpoint: {address: @UPSTREAM@}}]}]}
  - name: authorizer
    type: STATIC
    connect_timeout: 0.25s
    circuit_breakers: {thresholds: [{max_requests: 8192, max_pending_requests: 8192}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {connection_keepalive: {interval: 30s, timeout: 5s}}}
    load_assignment: {cluster_name: authorizer, endpoints: [{lb_endpoints: [{endpoint: {address: @AUTHORIZER@}}]}]}
"#;
