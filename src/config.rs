//! The settings of the process: `config.yaml` from text to checked values.
//!
//! Owns every default, unit and range. Reads no other file; whether the files that it names exist is found out when they
//! are loaded. Relative paths are relative to the folder of the settings file.

mod audit;
mod ledger;
mod read;
mod reload;
mod response;
mod shown;
pub mod telemetry;
mod webhook;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use mcp_authz_core::{
    document::{Defect, Format, Report},
    http::HeaderLimits,
    json,
    pins::Bounds,
};

pub use audit::Audit;
pub use ledger::{Engine, Ledger};
pub use reload::{Kubernetes, Reload};
pub use response::Response;
pub use telemetry::Telemetry;
pub use webhook::{Webhook, WebhookConfig};

use crate::{
    envoy::server::Endpoint,
    files,
    telemetry::log::{self, Level},
};

/// Everything the process is told, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// TLS of the `tcp://` listeners; `None` for none.
    pub tls: Option<Tls>,
    /// Where the documents are.
    pub paths: Paths,
    /// Bounds on what requests may take.
    pub limits: Limits,
    /// Bounds on time.
    pub timeouts: Timeouts,
    /// What Envoy is known to do.
    pub envoy: Envoy,
    /// The record of decisions.
    pub audit: Audit,
    /// Diagnostics on standard error.
    pub log: Log,
    /// What the admin port offers beyond looking.
    pub admin: Admin,
    /// Where counters are kept.
    pub ledger: Ledger,
    /// What becomes of responses.
    pub response: Response,
    /// How changes of mounted files are noticed.
    pub reload: Reload,
    /// What Kubernetes is told.
    pub kubernetes: Kubernetes,
    /// The admission webhook; `None` where there is none.
    pub webhook: Option<Webhook>,
    /// What is sent to a collector.
    pub telemetry: Telemetry,
    /// What is legal and probably not meant.
    pub warnings: Vec<Defect>,
}

/// Where to listen.
#[derive(Clone, Debug)]
pub struct Listen {
    /// For Envoy's Checks: one or more, all different.
    pub grpc: Vec<Endpoint>,
    /// For probes, metrics and people. Port 0 lets the system pick.
    pub admin: SocketAddr,
}

/// TLS of the `tcp://` listeners.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM file with our certificate chain.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
    /// Who may connect; `None` lets anybody connect who speaks TLS.
    pub clients: Option<TlsClients>,
}

/// Who may connect with a client certificate.
#[derive(Clone, Debug)]
pub struct TlsClients {
    /// PEM file with the authorities that sign client certificates.
    pub ca: PathBuf,
    /// Exact URI or DNS names of which a certificate must carry one; empty for any certificate of the authorities.
    pub allowed_sans: Vec<String>,
}

/// Where the documents are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Folder of policies.
    pub policies: PathBuf,
    /// The servers file.
    pub servers: PathBuf,
    /// Folder of grant files.
    pub grants: PathBuf,
    /// Folder of upstream secrets.
    pub credentials: PathBuf,
    /// [`Envoy::response_phase`]: documents that promise something about responses are refused without it.
    pub response_phase: bool,
}

impl Paths {
    /// Where documents are unless the settings say otherwise.
    #[must_use]
    pub fn below(folder: &Path) -> Self {
        Self {
            policies: folder.join("policies"),
            servers: folder.join("servers.yaml"),
            grants: folder.join("grants"),
            credentials: folder.join("credentials"),
            response_phase: true,
        }
    }
}

/// Bounds on what requests may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one request body: 1 KiB to 64 MiB, default 1 MiB.
    pub body_bytes_max: usize,
    /// Nesting of its JSON: 8 to 512, default 64.
    pub json_depth_max: usize,
    /// Values in its JSON: 100 to 10,000,000, default 100,000.
    pub json_nodes_max: usize,
    /// Checks at the same time: 1 to 1,000,000, default 1,024.
    pub checks_in_flight_max: usize,
    /// Bytes of all headers of a request: 1 KiB to 1 MiB, default 64 KiB.
    pub header_bytes_max: usize,
    /// Headers of a request: 10 to 10,000, default 200.
    pub headers_max: usize,
    /// Counters kept in memory: 100 to 100,000,000, default 1,000,000.
    pub counters_max: usize,
    /// Reservations that the embedded ledger remembers, each for the lease: 100 to 10,000,000, default
    /// 1,000,000.
    pub reservations_max: usize,
    /// Counters that have series of their own in the metrics: 0 to 100,000, default 1,000.
    pub metric_counters_max: usize,
    /// Policies that the metrics show: 0 to 100,000, default 1,000.
    pub metric_policies_max: usize,
    /// Tools of one server whose definitions are pinned: 1 to 100,000, default 1,000.
    pub pinned_tools_max: usize,
    /// Bytes of one definition that is pinned: 1 KiB to 1 MiB, default 64 KiB.
    pub pinned_definition_bytes_max: usize,
    /// New tools of one server that wait for approval: 1 to 100,000, default 200.
    pub pending_tools_max: usize,
}

impl Limits {
    /// The bounds of a request body.
    #[must_use]
    pub fn json(&self) -> json::Limits {
        json::Limits { bytes_max: self.body_bytes_max, depth_max: self.json_depth_max, nodes_max: self.json_nodes_max }
    }

    /// The bounds of pins.
    #[must_use]
    pub fn pins(&self) -> Bounds {
        Bounds {
            tools_max: self.pinned_tools_max,
            definition_bytes_max: self.pinned_definition_bytes_max,
            pending_max: self.pending_tools_max,
            ..Bounds::default()
        }
    }

    /// The bounds of request headers.
    #[must_use]
    pub fn headers(&self) -> HeaderLimits {
        HeaderLimits { count_max: self.headers_max, bytes_max: self.header_bytes_max }
    }
}

/// Bounds on time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// One Check from its arrival to its answer: 10 ms to 60 s, default 1 s.
    pub check: Duration,
    /// How long before Envoy's own deadline we answer: 0 to 10 s, default 20 ms; less than `check`.
    pub margin: Duration,
    /// How long a reservation waits for its response: 1 s to 1 day, default 120 s.
    pub lease: Duration,
    /// How long a stop waits for running Checks: 0 to 10 min, default 10 s.
    pub drain: Duration,
}

/// What Envoy is known to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envoy {
    /// Whether a body handed over as text (without `pack_as_bytes`) is judged, although bytes may be lost in it.
    pub accept_lossy_body: bool,
    /// Whether Envoy shows the responses that a decision asks for (ext_proc). Nobody else can tell: an Envoy without that filter
    /// sends them to the client as they are.
    pub response_phase: bool,
}

/// Diagnostics on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least serious messages that are written.
    pub level: Level,
    /// How a message is written.
    pub format: log::Format,
}

/// What the admin port offers beyond looking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// File with the token for the pages about quotas; without it they are off.
    pub token_file: Option<PathBuf>,
}

const SECTIONS: &[&str] = &[
    "listen",
    "tls",
    "danger_plaintext_tcp",
    "paths",
    "limits",
    "timeouts",
    "envoy",
    "audit",
    "log",
    "admin",
    "ledger",
    "response",
    "reload",
    "kubernetes",
    "webhook",
    "telemetry",
];

impl Config {
    /// Reads settings from text. `file` is how the operator names the file; relative paths in it start at `folder`.
    ///
    /// # Errors
    /// Every defect, in the order of the lines.
    pub fn parse(file: &str, bytes: &[u8], format: Format, folder: &Path) -> Result<Self, Vec<Defect>> {
        let report = Report::read(file, bytes, format);
        let config =
            report.root().and_then(|root| root.fields(SECTIONS)).and_then(|fields| read::config(&fields, folder));
        let (defects, warnings) = report.finish();
        match config {
            Some(config) if defects.is_empty() => Ok(Self { warnings, ..config }),
            Some(_) | None => Err(defects),
        }
    }

    /// Reads a settings file.
    ///
    /// # Errors
    /// Every defect; a file that cannot be read is one.
    pub fn load(path: &Path) -> Result<Self, Vec<Defect>> {
        let name = path.display().to_string();
        let format = Format::of_name(&name).unwrap_or(Format::Yaml);
        let bytes = files::read(path, files::DOCUMENT_BYTES_MAX)
            .map_err(|problem| vec![Defect::of_file(&name, problem.to_string())])?;
        Self::parse(&name, &bytes, format, path.parent().unwrap_or(Path::new("")))
    }

    /// Where the documents are, from a settings file that may have defects elsewhere; `None` if it does not say.
    #[must_use]
    pub fn load_paths(path: &Path) -> Option<Paths> {
        let name = path.display().to_string();
        let bytes = files::read(path, files::DOCUMENT_BYTES_MAX).ok()?;
        let report = Report::read(&name, &bytes, Format::of_name(&name).unwrap_or(Format::Yaml));
        let fields = report.root()?.fields(SECTIONS)?;
        read::paths(&fields, path.parent().unwrap_or(Path::new("")), true)
    }
}

#[cfg(test)]
mod tests;
