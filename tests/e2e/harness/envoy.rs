//! Real Envoy with the shipped configuration, rewritten as little as a test needs.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::http1::{self, Request};
use super::process::Process;
use super::{root, tool, until};

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
    /// Which Envoy, as `tests/tools/install.sh` names it.
    pub(crate) tool: &'static str,
    /// Which of the shipped configurations.
    pub(crate) file: &'static str,
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
    /// Where to listen; 0 lets the OS choose.
    pub(crate) port: u16,
    /// Worker threads.
    pub(crate) workers: usize,
    /// Time that a call gets; 0 for all.
    pub(crate) route_timeout: &'static str,
    /// A retry policy for calls, as a YAML flow mapping.
    pub(crate) retry: Option<&'static str>,
    /// Time between two entries of the access log while a call runs.
    pub(crate) log_interval: &'static str,
    /// Texts of the configuration that stand there once, and what stands there instead.
    pub(crate) edits: &'static [(&'static str, &'static str)],
}

impl Settings {
    /// As shipped, towards addresses of nobody.
    pub(crate) fn shipped() -> Self {
        Self {
            tool: "envoy",
            file: "deploy/envoy.yaml",
            authorizer: Authorizer::Tcp(super::free_address()),
            upstream: super::free_address(),
            body_bytes_max: 1_048_576,
            body_size_limit: true,
            check_timeout: "2s",
            authorization: None,
            port: 0,
            workers: 1,
            route_timeout: "0s",
            retry: None,
            log_interval: "10s",
            edits: &[],
        }
    }
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
        Self::launch(dir, settings.tool, &render(settings), settings.workers).await
    }

    /// Starts one with any configuration of one listener.
    pub(crate) async fn launch(dir: &Path, name: &str, text: &str, workers: usize) -> Self {
        let config = dir.join("envoy.yaml");
        let admin_file = dir.join("envoy.admin");
        std::fs::write(&config, text).expect("the temporary folder is writable");
        let mut command = tokio::process::Command::new(tool(name, &format!("bin/{name}")));
        command.arg("-c").arg(&config).arg("--admin-address-path").arg(&admin_file);
        command.args(["--disable-hot-restart", "--log-level", "warning", "--concurrency", &workers.to_string()]);
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

    /// The value of one counter or gauge.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let page = Request::new("GET", &format!("/stats?filter=^{name}$")).send(self.admin).await.text();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in `{page}`"))
    }
}

fn socket(address: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
}

/// The shipped configuration with other ports, more routes and whatever the table asks for.
fn render(settings: &Settings) -> String {
    let path = root().join(settings.file);
    let shipped = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // Comments quote the values that are replaced below.
    let code = |line: &&str| !line.trim_start().starts_with('#');
    let mut text: String = shipped.lines().filter(code).flat_map(|line| [line, "\n"]).collect();
    let authorizer = match &settings.authorizer {
        Authorizer::Tcp(address) => socket(*address),
        Authorizer::Unix(path) => format!("{{pipe: {{path: {}}}}}", path.display()),
    };
    let retry = settings.retry.map(|retry| format!("                  retry_policy: {retry}\n")).unwrap_or_default();
    let route = format!("                  timeout: {}\n{retry}", settings.route_timeout);
    let body_bytes_max = format!("max_request_bytes: {}", settings.body_bytes_max);
    let bytes = "max_request_bytes: 1048576";
    let has_filter = text.contains("envoy.filters.http.body_size_limit");
    text = replaced(&text, 1 + usize::from(has_filter), bytes, &body_bytes_max);
    text = replaced(&text, 2, "{pipe: {path: /run/mcp-authz/authz.sock}}", &authorizer);
    for (from, to) in [
        ("port_value: 9901", "port_value: 0"),
        ("port_value: 10000", &format!("port_value: {}", settings.port)),
        ("{socket_address: {address: 127.0.0.1, port_value: 8080}}", &socket(settings.upstream)),
        (
            "{cluster_name: mcp_authz}, timeout: 1s",
            &format!("{{cluster_name: mcp_authz}}, timeout: {}", settings.check_timeout),
        ),
        ("{server: demo}", "{server: alpha}"),
        ("access_log_flush_interval: 10s", &format!("access_log_flush_interval: {}", settings.log_interval)),
        ("                  timeout: 0s\n", &route),
        ("              - name: nothing\n", &format!("{}              - name: nothing\n", routes())),
    ] {
        text = replaced(&text, 1, from, to);
    }
    if settings.route_timeout != "0s" {
        // Beside this one Envoy ignores `timeout`.
        let longest = "                  max_stream_duration: {max_stream_duration: 3600s}\n";
        text = replaced(&text, 1, longest, "");
    }
    for (from, to) in settings.edits {
        text = replaced(&text, 1, from, to);
    }
    if let Some(value) = &settings.authorization {
        let early = format!("{}          access_log:\n", EARLY_MUTATION.replace("@VALUE@", value));
        text = replaced(&text, 1, "          access_log:\n", &early);
    }
    if settings.body_size_limit || !has_filter { text } else { without_size_filter(&text) }
}

/// Replaces, and holds the shipped file to what the tests know of it.
fn replaced(text: &str, times: usize, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), times, "deploy/envoy.yaml has `{from}` another number of times");
    text.replace(from, to)
}

/// What an Envoy before 1.40 can do.
fn without_size_filter(text: &str) -> String {
    let (before, rest) =
        text.split_once("          - name: envoy.filters.http.body_size_limit\n").expect("the size filter is there");
    let next = "          - name: envoy.filters.http.ext_authz\n";
    let (_, after) = rest.split_once(next).expect("it stands before ext_authz");
    format!("{before}{next}{after}")
}

/// Beside the shipped route: a second server, one that is not registered, and a route that names none.
fn routes() -> String {
    let mut out = String::new();
    for (path, server) in [("/beta", Some("beta")), ("/unknown", Some("nobody")), ("/unbound", None)] {
        let target = format!("match: {{path: {path}}}, route: {{cluster: mcp_server, timeout: 0s}}");
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
