//! The section `audit`: where records go, what they say, and what keeps them from being changed unnoticed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use mcp_authz_core::{
    audit::ArgsMode,
    document::{Cursor, Fields, quoted},
};
use serde_json::{Value, json};

use super::{Engine, Ledger, read};
use crate::telemetry::audit::{Checkpoints, Rotation, Sink};

/// The record of decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Where records go.
    pub sink: Sink,
    /// What they say of arguments.
    pub args: ArgsMode,
    /// Whether exact values may be written.
    pub danger_full_args: bool,
    /// Whether Envoy's access log makes records of calls whose response nobody looked at.
    pub outcomes: bool,
    /// Whether a call is denied when its record cannot be kept.
    pub fail_closed: bool,
    /// Bytes of records that wait for the sink: 64 KiB to 1 GiB, default 4 MiB.
    pub buffer_bytes_max: usize,
    /// When a file ends: after 0 (never) to 1 TiB, default 0; and how many others are kept: 0 (all) to 10,000, default 0.
    pub file: Rotation,
    /// File with the private key that signs checkpoints.
    pub signing_key: Option<PathBuf>,
    /// When they are written: after 1 to 1,000,000 records, default 1,000, and after 1 s to 1 day, default 1 min.
    pub checkpoints: Checkpoints,
    /// Records in the stream of [`Sink::Redis`], about: 1,000 to 1,000,000,000, default 1,000,000.
    pub redis_entries_max: u64,
}

pub(super) fn audit(parent: &Fields<'_>, folder: &Path) -> Option<Audit> {
    let keys = [
        "sink",
        "args",
        "danger_full_args",
        "outcomes",
        "fail_closed",
        "buffer_bytes_max",
        "file",
        "signing_key",
        "checkpoint_records",
        "checkpoint_ms",
        "redis",
    ];
    let section = read::Section::of(parent, "audit", &keys)?;
    let sink = section.optional("sink").map_or(Some(Sink::Stdout), |value| sink(&value, folder));
    let args = section.optional("args").map_or(Some(ArgsMode::default()), |value| args(&value));
    let danger_full_args = section.flag("danger_full_args");
    let outcomes = section.optional("outcomes").map_or(Some(true), |value| value.bool());
    let fail_closed = section.flag("fail_closed");
    let buffer_bytes_max = section.size("buffer_bytes_max", 4_194_304, 65_536, 1_073_741_824);
    let file = rotation(&section);
    let signing_key = section.optional("signing_key").map_or(Some(None), |value| read::path(&value, folder).map(Some));
    let records = section.number("checkpoint_records", 1_000, 1, 1_000_000);
    let every = section.millis("checkpoint_ms", 60_000, 1_000, 86_400_000);
    let redis_entries_max = match section.optional("redis") {
        Some(value) => value.fields(&["entries_max"]).and_then(|fields| entries(&read::Section::within(fields))),
        None => Some(ENTRIES_MAX),
    };
    if sink == Some(Sink::None) && fail_closed == Some(true) {
        section.defect("`fail_closed` with the sink `none` would deny every call");
    }
    if args == Some(ArgsMode::Full) && danger_full_args == Some(false) {
        section.defect_with_hint(
            "`args: full` writes every value of every call, secrets among them",
            "use `hmac` or `redacted`, or set `danger_full_args: true`",
        );
    }
    Some(Audit {
        sink: sink?,
        args: args?,
        danger_full_args: danger_full_args?,
        outcomes: outcomes?,
        fail_closed: fail_closed?,
        buffer_bytes_max: buffer_bytes_max?,
        file: file?,
        signing_key: signing_key?,
        checkpoints: Checkpoints { records: records?, every: every? },
        redis_entries_max: redis_entries_max?,
    })
}

/// Records in a stream unless the settings say otherwise.
const ENTRIES_MAX: u64 = 1_000_000;

fn entries(section: &read::Section<'_>) -> Option<u64> {
    section.number("entries_max", ENTRIES_MAX, 1_000, 1_000_000_000)
}

fn rotation(section: &read::Section<'_>) -> Option<Rotation> {
    let Some(value) = section.optional("file") else { return Some(Rotation::default()) };
    let section = read::Section::within(value.fields(&["bytes_max", "files_max"])?);
    let bytes_max = section.number("bytes_max", 0, 0, 1_099_511_627_776);
    let files_max = section.size("files_max", 0, 0, 10_000);
    Some(Rotation { bytes_max: bytes_max?, files_max: files_max? })
}

/// Notes what the sink asks of another section.
pub(super) fn suits(audit: Option<&Audit>, ledger: Option<&Ledger>, parent: &Fields<'_>) {
    let (Some(audit), Some(ledger)) = (audit, ledger) else { return };
    if audit.sink == Sink::Redis && !matches!(ledger.engine, Engine::Redis(_)) {
        parent.map().defect_with_hint(
            "`audit.sink: redis` writes into the Redis of `ledger.redis`, and there is none",
            "set `ledger.redis`, or name another sink",
        );
    }
}

fn args(value: &Cursor<'_>) -> Option<ArgsMode> {
    let names: Vec<&str> = ArgsMode::ALL.iter().map(|mode| mode.name()).collect();
    let name = value.one_of(&names)?;
    ArgsMode::ALL.iter().copied().find(|mode| mode.name() == name)
}

fn sink(value: &Cursor<'_>, folder: &Path) -> Option<Sink> {
    match value.non_empty()? {
        "none" => Some(Sink::None),
        "otlp" => Some(Sink::Otlp),
        "redis" => Some(Sink::Redis),
        "stderr" => Some(Sink::Stderr),
        "stdout" => Some(Sink::Stdout),
        // A misspelt word must not become a file of that name.
        text if text.contains(['/', '.']) => read::path(value, folder).map(Sink::File),
        text => {
            value.defect_with_hint(
                format!("expected `stdout`, `stderr`, `otlp`, `redis`, `none` or a path, found {}", quoted(text)),
                "for a file beside the settings write `./` before its name",
            );
            None
        }
    }
}

/// As the admin port shows it.
pub(super) fn shown(audit: &Audit) -> Value {
    json!({
        "sink": match &audit.sink {
            Sink::File(path) => path.display().to_string(),
            Sink::None => "none".to_owned(),
            Sink::Otlp => "otlp".to_owned(),
            Sink::Redis => "redis".to_owned(),
            Sink::Stderr => "stderr".to_owned(),
            Sink::Stdout => "stdout".to_owned(),
        },
        "args": audit.args.name(),
        "danger_full_args": audit.danger_full_args,
        "outcomes": audit.outcomes,
        "fail_closed": audit.fail_closed,
        "buffer_bytes_max": audit.buffer_bytes_max,
        "file": { "bytes_max": audit.file.bytes_max, "files_max": audit.file.files_max },
        "signing_key": audit.signing_key.as_deref().map(|path| path.display().to_string()),
        "checkpoint_records": audit.checkpoints.records,
        "checkpoint_ms": ms(audit.checkpoints.every),
        "redis": { "entries_max": audit.redis_entries_max },
    })
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
