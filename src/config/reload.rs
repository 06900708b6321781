//! The sections `reload:` and `kubernetes:` of `config.yaml`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use mcp_authz_core::document::Fields;
use serde_json::{Value, json};

use super::{
    read::{Section, path},
    shown::{ms, text},
};

/// Where the kubelet mounts the service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How changes of mounted files are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Whether mounts are looked at; default yes. Without it only SIGHUP reads files again.
    pub watch: bool,
    /// Between two looks: 100 ms to 60 s, default 1 s.
    pub poll: Duration,
}

/// What Kubernetes is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// Whether reloads are told as events of the pod; default no.
    pub events: bool,
    /// Folder with the `token` and the `ca.crt` of the service account.
    pub account: PathBuf,
}

pub(super) fn reload(parent: &Fields<'_>) -> Option<Reload> {
    let section = Section::of(parent, "reload", &["watch", "poll_ms"])?;
    let watch = section.optional("watch").map_or(Some(true), |value| value.bool());
    let poll = section.millis("poll_ms", 1_000, 100, 60_000);
    Some(Reload { watch: watch?, poll: poll? })
}

pub(super) fn kubernetes(parent: &Fields<'_>, folder: &Path) -> Option<Kubernetes> {
    let section = Section::of(parent, "kubernetes", &["events", "service_account"])?;
    let events = section.flag("events");
    let account = section.optional("service_account").map_or(Some(ACCOUNT.into()), |value| path(&value, folder));
    Some(Kubernetes { events: events?, account: account? })
}

pub(super) fn shown(reload: Reload) -> Value {
    json!({ "watch": reload.watch, "poll_ms": ms(reload.poll) })
}

pub(super) fn kubernetes_shown(kubernetes: &Kubernetes) -> Value {
    json!({ "events": kubernetes.events, "service_account": text(&kubernetes.account) })
}
