//! Envoy, `mcp-authz` and a recording upstream, wired to each other.

use std::net::SocketAddr;

use super::authz::{self, Authz};
use super::envoy::{self, Envoy};
use super::http1::{Request, Response};
use super::message;
use super::until;
use super::upstream::Upstream;

/// What differs between the tables; the default is what the shipped configuration does.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Which Envoy, as `tests/tools/install.sh` names it.
    pub(crate) tool: &'static str,
    /// Which of the shipped configurations of Envoy.
    pub(crate) file: &'static str,
    /// The authorizer's part.
    pub(crate) authz: authz::Settings,
    /// Bytes of a body.
    pub(crate) body_bytes_max: usize,
    /// Whether Envoy has the size filter of 1.40.
    pub(crate) body_size_limit: bool,
    /// Time that Envoy gives one Check.
    pub(crate) check_timeout: &'static str,
    /// An `authorization` value that Envoy sets first.
    pub(crate) authorization: Option<String>,
    /// The port of Envoy; 0 lets the OS choose.
    pub(crate) port: u16,
    /// Worker threads of Envoy; each has a connection of its own to the authorizer.
    pub(crate) workers: usize,
    /// Time that Envoy gives a call; 0 for all.
    pub(crate) route_timeout: &'static str,
    /// A retry policy for calls, as a YAML flow mapping.
    pub(crate) retry: Option<&'static str>,
    /// Time between two entries of the access log while a call runs.
    pub(crate) log_interval: &'static str,
    /// Texts of Envoy's configuration that stand there once, and what stands there instead.
    pub(crate) edits: &'static [(&'static str, &'static str)],
    /// Another upstream than the recorder.
    pub(crate) upstream: Option<SocketAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tool: "envoy",
            file: "deploy/envoy.yaml",
            authz: authz::Settings::default(),
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
            upstream: None,
        }
    }
}

/// The running system.
pub(crate) struct Stack {
    /// The authorizer.
    pub(crate) authz: Authz,
    /// The proxy.
    pub(crate) envoy: Envoy,
    /// The recorder.
    pub(crate) upstream: Upstream,
    /// Holds every file and output; goes last.
    _dir: tempfile::TempDir,
}

impl Stack {
    /// Starts everything and waits until it serves.
    pub(crate) async fn start(options: &Options) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let upstream = Upstream::start().await;
        let authz = Authz::start(dir.path(), &options.authz).await;
        let settings = envoy::Settings {
            tool: options.tool,
            file: options.file,
            authorizer: authz.listener.clone(),
            upstream: options.upstream.unwrap_or(upstream.address),
            body_bytes_max: options.body_bytes_max,
            body_size_limit: options.body_size_limit,
            check_timeout: options.check_timeout,
            authorization: options.authorization.clone(),
            port: options.port,
            workers: options.workers,
            route_timeout: options.route_timeout,
            retry: options.retry,
            log_interval: options.log_interval,
            edits: options.edits,
        };
        let envoy = Envoy::start(dir.path(), &settings).await;
        Self { authz, envoy, upstream, _dir: dir }
    }

    /// Everything that the authorizer let out, once the audit record of every earlier request is written: records keep
    /// their order, so one more call marks the end.
    pub(crate) async fn everything_said(&self, token: &str) -> String {
        const MARK: &str = "end_of_table";
        self.send(&Request::post("/mcp", message::call(MARK, "{}")).bearer(token)).await;
        until("the audit is written", async || self.authz.process.stdout().contains(MARK).then_some(())).await;
        self.authz.everything_said().await
    }

    /// Sends a request through Envoy.
    pub(crate) async fn send(&self, request: &Request) -> Response {
        request.send(self.envoy.address).await
    }
}
