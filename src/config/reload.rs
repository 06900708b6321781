//! The sections `reload:` and `kubernetes:` of `config.yaml`.

use std::time::Duration;

use mcp_authz_core::document::Fields;
use serde_json::{Value, json};

use super::{read::Section, shown::ms};

/// How changes of mounted files are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Whether mounts are looked at; default yes. Without it only SIGHUP reads files again.
    pub watch: bool,
    /// Between two looks: 100 ms to 60 s, default 1 s.
    pub poll: Duration,
}

/// What Kubernetes is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// Whether reloads are told as events of the pod; default no.
    pub events: bool,
}

pub(super) fn reload(parent: &Fields<'_>) -> Option<Reload> {
    let section = Section::of(parent, "reload", &["watch", "poll_ms"])?;
    let watch = section.optional("watch").map_or(Some(true), |value| value.bool());
    let poll = section.millis("poll_ms", 1_000, 100, 60_000);
    Some(Reload { watch: watch?, poll: poll? })
}

pub(super) fn kubernetes(parent: &Fields<'_>) -> Option<Kubernetes> {
    let section = Section::of(parent, "kubernetes", &["events"])?;
    Some(Kubernetes { events: section.flag("events")? })
}

pub(super) fn shown(reload: Reload) -> Value {
    json!({ "watch": reload.watch, "poll_ms": ms(reload.poll) })
}
