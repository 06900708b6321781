//! The sections of `config.yaml`, each read to its end before anything is refused.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use mcp_authz_core::document::{Cursor, Fields, quoted};

use super::{
    Admin, Config, Envoy, Limits, Listen, Log, Paths, Timeouts, Tls, TlsClients, audit, ledger::ledger, reload,
    response::response, telemetry::telemetry, webhook::webhook,
};
use crate::{
    envoy::server::Endpoint,
    telemetry::log::{self, Level},
};

pub(super) fn config(fields: &Fields<'_>, folder: &Path) -> Option<Config> {
    // Every section is read before the first `?`, so that all of them are judged.
    let plaintext = fields.optional("danger_plaintext_tcp").map_or(Some(false), |value| value.bool());
    let tls = fields.optional("tls").map(|value| tls(&value, folder));
    let encrypted = matches!(&tls, Some(Some(Tls { clients: Some(_), .. })));
    let exposure = if encrypted || plaintext != Some(false) || matches!(tls, Some(None)) {
        Exposure::Fine
    } else {
        Exposure::LoopbackOnly
    };
    let listen = fields.required("listen").and_then(|value| listen(&value, folder, exposure));
    let envoy = envoy(fields);
    // Where that is not known, it is told once, and not of every document.
    let paths = paths(fields, folder, envoy.is_none_or(|envoy| envoy.response_phase));
    let limits = limits(fields);
    let timeouts = timeouts(fields);
    let audit = audit::audit(fields, folder);
    let log = log(fields);
    let admin = admin(fields, folder);
    let ledger = ledger(fields, folder);
    audit::suits(audit.as_ref(), ledger.as_ref(), fields);
    let response = response(fields);
    let (reload, kubernetes) = (reload::reload(fields), reload::kubernetes(fields, folder));
    let webhook = webhook(fields, folder);
    let telemetry = telemetry(fields, folder);
    plaintext?;
    Some(Config {
        listen: listen?,
        tls: tls.map_or(Some(None), |tls| tls.map(Some))?,
        paths: paths?,
        limits: limits?,
        timeouts: timeouts?,
        envoy: envoy?,
        audit: audit?,
        log: log?,
        admin: admin?,
        ledger: ledger?,
        response: response?,
        reload: reload?,
        kubernetes: kubernetes?,
        webhook: webhook?,
        telemetry: telemetry?,
        warnings: Vec::new(),
    })
}

/// Whether Checks may be taken from the network as things stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exposure {
    Fine,
    LoopbackOnly,
}

fn listen(value: &Cursor<'_>, folder: &Path, exposure: Exposure) -> Option<Listen> {
    const ADDRESSES_MAX: usize = 16;
    let fields = value.fields(&["grpc", "admin"])?;
    let mut grpc: Vec<Endpoint> = Vec::new();
    if let Some(list) = fields.required("grpc") {
        let items = list.items().unwrap_or_default();
        if list.is_empty_list() {
            list.defect("must not be empty: Envoy could not ask anything");
        } else if items.len() > ADDRESSES_MAX {
            list.defect(format!("more than {ADDRESSES_MAX} addresses"));
        }
        for item in items {
            let Some(address) = grpc_address(&item, folder) else { continue };
            if let Endpoint::Tcp(tcp) = &address
                && !tcp.ip().is_loopback()
                && exposure == Exposure::LoopbackOnly
            {
                item.defect_with_hint(
                    "Checks from the network need client certificates",
                    "set `tls.client_ca`, listen on 127.0.0.1 or a Unix socket, or set `danger_plaintext_tcp: true`",
                );
            }
            let picked_by_system = matches!(&address, Endpoint::Tcp(tcp) if tcp.port() == 0);
            if grpc.contains(&address) && !picked_by_system {
                item.defect(format!("{} is listed twice", quoted(&address.to_string())));
            }
            grpc.push(address);
        }
    }
    let admin = fields.required("admin").and_then(|value| {
        let address = socket_address(value.string()?);
        if address.is_none() {
            value.defect_with_hint("is no address to listen on", "such as `127.0.0.1:9192`");
        }
        if address.is_some_and(|address| !address.ip().is_loopback()) {
            value.warn("metrics and policies can be read by anybody who reaches this address", None);
        }
        address
    });
    let clash = |address: &SocketAddr| address.port() != 0 && grpc.contains(&Endpoint::Tcp(*address));
    if admin.as_ref().is_some_and(clash) {
        value.defect("`admin` and `grpc` cannot listen on the same address");
    }
    Some(Listen { grpc, admin: admin? })
}

fn grpc_address(value: &Cursor<'_>, folder: &Path) -> Option<Endpoint> {
    /// `sockaddr_un` has room for 107 bytes and a NUL; the socket is made under this name with a dot and the process id, and
    /// takes its own name once it is ready.
    const SOCKET_PATH_BYTES_MAX: usize = 96;
    let text = value.string()?;
    let address = if let Some(rest) = text.strip_prefix("tcp://") {
        socket_address(rest).map(Endpoint::Tcp)
    } else {
        text.strip_prefix("unix://")
            .filter(|path| !path.is_empty() && !path.contains('\0'))
            .map(|path| Endpoint::Unix(folder.join(path)))
    };
    match &address {
        None => value.defect_with_hint(
            format!("{} is no address to listen on", quoted(text)),
            "such as `tcp://127.0.0.1:9191` or `unix:///run/mcp-authz/authz.sock`",
        ),
        Some(Endpoint::Unix(path)) if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX => {
            value.defect(format!("the path of a socket has at most {SOCKET_PATH_BYTES_MAX} bytes"));
        }
        Some(_) => {}
    }
    address
}

/// An IP address or `localhost`, and a port. Names are not resolved: that would be I/O, and an answer that changes.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?))
        }
        Some(_) => None,
        None => text.parse().ok(),
    }
}

fn tls(value: &Cursor<'_>, folder: &Path) -> Option<Tls> {
    const SANS_MAX: usize = 1_000;
    let fields = value.fields(&["certificate", "key", "client_ca", "allowed_sans"])?;
    let certificate = fields.required("certificate").and_then(|value| path(&value, folder));
    let key = fields.required("key").and_then(|value| path(&value, folder));
    let ca = fields.optional("client_ca").map(|value| path(&value, folder));
    let mut allowed_sans = Vec::new();
    if let Some(list) = fields.optional("allowed_sans") {
        if ca.is_none() {
            list.defect("names of client certificates need `client_ca`");
        }
        if list.is_empty_list() {
            list.defect_with_hint("must not be empty", "leave it out to take any certificate of `client_ca`");
        }
        let items = list.items()?;
        if items.len() > SANS_MAX {
            list.defect(format!("more than {SANS_MAX} names"));
        }
        for item in items {
            let Some(text) = item.non_empty() else { continue };
            if text.contains('*') || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
                item.defect_with_hint(
                    format!("{} is no exact name", quoted(text)),
                    "such as `spiffe://cluster.local/ns/mesh/sa/envoy` or `envoy.mesh.svc`; no wildcards",
                );
            }
            allowed_sans.push(text.to_owned());
        }
    }
    let clients = match ca {
        None => None,
        Some(ca) => Some(TlsClients { ca: ca?, allowed_sans }),
    };
    Some(Tls { certificate: certificate?, key: key?, clients })
}

pub(super) fn path(value: &Cursor<'_>, folder: &Path) -> Option<PathBuf> {
    let text = value.non_empty()?;
    if text.contains('\0') {
        value.defect("is no path");
        return None;
    }
    Some(folder.join(text))
}

pub(super) fn paths(parent: &Fields<'_>, folder: &Path, response_phase: bool) -> Option<Paths> {
    let section = Section::of(parent, "paths", &["policies", "servers", "grants", "credentials"])?;
    let default = Paths::below(folder);
    let read = |key: &str, default: PathBuf| match section.optional(key) {
        Some(value) => path(&value, folder),
        None => Some(default),
    };
    let (policies, servers) = (read("policies", default.policies), read("servers", default.servers));
    let (grants, credentials) = (read("grants", default.grants), read("credentials", default.credentials));
    let (policies, servers, grants, credentials) = (policies?, servers?, grants?, credentials?);
    Some(Paths { policies, servers, grants, credentials, response_phase })
}

/// A section that may be left out, and then all its keys are.
pub(super) struct Section<'a>(Option<Fields<'a>>);

impl<'a> Section<'a> {
    pub(super) fn of(parent: &Fields<'a>, name: &str, keys: &[&str]) -> Option<Self> {
        match parent.optional(name) {
            Some(value) => Some(Self(Some(value.fields(keys)?))),
            None => Some(Self(None)),
        }
    }

    /// Keys that are there already.
    pub(super) fn within(fields: Fields<'a>) -> Self {
        Self(Some(fields))
    }

    pub(super) fn optional(&self, key: &str) -> Option<Cursor<'a>> {
        self.0.as_ref().and_then(|fields| fields.optional(key))
    }

    /// Notes a defect of the whole section.
    pub(super) fn defect(&self, message: &str) {
        if let Some(fields) = &self.0 {
            fields.map().defect(message);
        }
    }

    /// Notes a defect of the whole section, and what to do.
    pub(super) fn defect_with_hint(&self, message: &str, hint: &str) {
        if let Some(fields) = &self.0 {
            fields.map().defect_with_hint(message, hint);
        }
    }

    pub(super) fn number(&self, key: &str, default: u64, min: u64, max: u64) -> Option<u64> {
        self.optional(key).map_or(Some(default), |value| value.u64_in(&(min..=max)))
    }

    pub(super) fn size(&self, key: &str, default: u64, min: u64, max: u64) -> Option<usize> {
        self.number(key, default, min, max).and_then(|value| usize::try_from(value).ok())
    }

    pub(super) fn millis(&self, key: &str, default: u64, min: u64, max: u64) -> Option<Duration> {
        self.number(key, default, min, max).map(Duration::from_millis)
    }

    /// A boolean that is false unless said otherwise.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.optional(key).map_or(Some(false), |value| value.bool())
    }
}

fn limits(parent: &Fields<'_>) -> Option<Limits> {
    let keys = [
        "body_bytes_max",
        "json_depth_max",
        "json_nodes_max",
        "checks_in_flight_max",
        "header_bytes_max",
        "headers_max",
        "counters_max",
        "reservations_max",
        "metric_counters_max",
        "metric_policies_max",
        "pinned_tools_max",
        "pinned_definition_bytes_max",
        "pending_tools_max",
    ];
    let section = Section::of(parent, "limits", &keys)?;
    let body_bytes_max = section.size("body_bytes_max", 1_048_576, 1_024, 67_108_864);
    let json_depth_max = section.size("json_depth_max", 64, 8, 512);
    let json_nodes_max = section.size("json_nodes_max", 100_000, 100, 10_000_000);
    let checks_in_flight_max = section.size("checks_in_flight_max", 1_024, 1, 1_000_000);
    let header_bytes_max = section.size("header_bytes_max", 65_536, 1_024, 1_048_576);
    let headers_max = section.size("headers_max", 200, 10, 10_000);
    let counters_max = section.size("counters_max", 1_000_000, 100, 100_000_000);
    let reservations_max = section.size("reservations_max", 1_000_000, 100, 10_000_000);
    let metric_counters_max = section.size("metric_counters_max", 1_000, 0, 100_000);
    let metric_policies_max = section.size("metric_policies_max", 1_000, 0, 100_000);
    let pinned_tools_max = section.size("pinned_tools_max", 1_000, 1, 100_000);
    let pinned_definition_bytes_max = section.size("pinned_definition_bytes_max", 65_536, 1_024, 1_048_576);
    let pending_tools_max = section.size("pending_tools_max", 200, 1, 100_000);
    Some(Limits {
        body_bytes_max: body_bytes_max?,
        json_depth_max: json_depth_max?,
        json_nodes_max: json_nodes_max?,
        checks_in_flight_max: checks_in_flight_max?,
        header_bytes_max: header_bytes_max?,
        headers_max: headers_max?,
        counters_max: counters_max?,
        reservations_max: reservations_max?,
        metric_counters_max: metric_counters_max?,
        metric_policies_max: metric_policies_max?,
        pinned_tools_max: pinned_tools_max?,
        pinned_definition_bytes_max: pinned_definition_bytes_max?,
        pending_tools_max: pending_tools_max?,
    })
}

fn timeouts(parent: &Fields<'_>) -> Option<Timeouts> {
    let section = Section::of(parent, "timeouts", &["check_ms", "margin_ms", "lease_ms", "drain_ms"])?;
    let check = section.millis("check_ms", 1_000, 10, 60_000);
    let margin = section.millis("margin_ms", 20, 0, 10_000);
    let lease = section.millis("lease_ms", 120_000, 1_000, 86_400_000);
    let drain = section.millis("drain_ms", 10_000, 0, 600_000);
    if let (Some(check), Some(margin)) = (check, margin)
        && margin >= check
    {
        let (margin, check) = (margin.as_millis(), check.as_millis());
        section.defect(&format!("`margin_ms` ({margin}) must be less than `check_ms` ({check})"));
    }
    Some(Timeouts { check: check?, margin: margin?, lease: lease?, drain: drain? })
}

pub(super) fn envoy(parent: &Fields<'_>) -> Option<Envoy> {
    let section = Section::of(parent, "envoy", &["accept_lossy_body", "response_phase"])?;
    let (accept_lossy_body, response_phase) = (section.flag("accept_lossy_body"), section.flag("response_phase"));
    Some(Envoy { accept_lossy_body: accept_lossy_body?, response_phase: response_phase? })
}

pub(super) fn log(parent: &Fields<'_>) -> Option<Log> {
    let section = Section::of(parent, "log", &["level", "format"])?;
    let level =
        section.optional("level").map_or(Some("info"), |value| value.one_of(&["error", "warn", "info", "debug"]));
    let format = section.optional("format").map_or(Some("text"), |value| value.one_of(&["text", "json"]));
    let level = match level? {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "debug" => Level::Debug,
        _ => Level::Info,
    };
    Some(Log { level, format: if format? == "json" { log::Format::Json } else { log::Format::Text } })
}

fn admin(parent: &Fields<'_>, folder: &Path) -> Option<Admin> {
    let section = Section::of(parent, "admin", &["token_file"])?;
    let token_file = section.optional("token_file").map_or(Some(None), |value| path(&value, folder).map(Some));
    Some(Admin { token_file: token_file? })
}
