//! The section `ledger`: where counters are kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mcp_authz_core::document::{Cursor, Fields, quoted};

use super::read::{Section, path};
use crate::quota::redis::{Durability, Place, PlaceError, Settings as Redis, TlsFiles, Topology};

/// Where counters are unless the settings say otherwise.
const FOLDER: &str = "/var/lib/mcp-authz";
/// Addresses of sentinels or nodes.
const PLACES_MAX: usize = 16;
/// Replicas that may be waited for.
const REPLICAS_MAX: u8 = 10;

/// Where counters are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Which engine.
    pub engine: Engine,
    /// Reservations that were dropped and wait to be given back: 1 to 1,000,000, default 10,000. Beyond it they stay spent.
    pub leaks_max: usize,
}

/// Which engine keeps the counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// This process.
    Embedded {
        /// Folder of its journal; `None` forgets every counter at a restart.
        folder: Option<PathBuf>,
    },
    /// A Redis that several processes share.
    Redis(Box<Redis>),
}

const REDIS: &[&str] = &[
    "url",
    "sentinel",
    "cluster",
    "domain",
    "username",
    "password_file",
    "tls",
    "timeout_ms",
    "durability",
    "wait_timeout_ms",
    "secret_file",
    "allow_unsafe",
    "journal_max",
];

pub(super) fn ledger(parent: &Fields<'_>, folder: &Path) -> Option<Ledger> {
    let section = Section::of(parent, "ledger", &["embedded", "redis", "leaks_max"])?;
    let leaks_max = section.size("leaks_max", 10_000, 1, 1_000_000);
    let engine = match (section.optional("embedded"), section.optional("redis")) {
        (Some(_), Some(second)) => {
            second.defect_with_hint("a second engine", "counters are kept in one place: remove `embedded` or `redis`");
            None
        }
        (None, Some(value)) => redis(&value, folder).map(|redis| Engine::Redis(Box::new(redis))),
        (Some(value), None) => embedded(&value, folder),
        (None, None) => Some(Engine::Embedded { folder: Some(FOLDER.into()) }),
    };
    Some(Ledger { engine: engine?, leaks_max: leaks_max? })
}

fn embedded(value: &Cursor<'_>, folder: &Path) -> Option<Engine> {
    let fields = value.fields(&["folder"])?;
    let folder = match fields.optional("folder") {
        None => Some(FOLDER.into()),
        Some(value) => match value.non_empty()? {
            "none" => {
                value.warn("a restart hands out every quota anew, and forgets which tools were approved", None);
                None
            }
            // A misspelt word must not become a folder of that name.
            text if text.contains(['/', '.']) => Some(path(&value, folder)?),
            text => {
                value.defect_with_hint(
                    format!("expected `none` or a path, found {}", quoted(text)),
                    "for a folder beside the settings write `./` before its name",
                );
                return None;
            }
        },
    };
    Some(Engine::Embedded { folder })
}

fn redis(value: &Cursor<'_>, folder: &Path) -> Option<Redis> {
    let fields = value.fields(REDIS)?;
    let section = Section::within(fields);
    let topology = topology(value, &section, folder);
    let domain = section.optional("domain").map_or(Some("default".to_owned()), |value| domain(&value));
    let username = section.optional("username").map(|value| value.non_empty().map(ToOwned::to_owned));
    let file = |key: &str| section.optional(key).map_or(Some(None), |value| path(&value, folder).map(Some));
    let (password_file, secret_file) = (file("password_file"), file("secret_file"));
    let tls = tls(&section, folder, topology.as_ref());
    let timeout = section.millis("timeout_ms", 40, 1, 10_000);
    let wait_timeout = section.millis("wait_timeout_ms", 50, 1, 10_000);
    let durability = section.optional("durability").map_or(Some(Durability::Async), |value| durability(&value));
    let allow_unsafe = section.flag("allow_unsafe");
    let journal_max = section.size("journal_max", 100_000, 100, 10_000_000);
    if matches!(username, Some(Some(_))) && password_file == Some(None) {
        section.defect("`username` needs `password_file`");
    }
    Some(Redis {
        domain: domain?,
        username: username.map_or(Some(None), |name| name.map(Some))?,
        password_file: password_file?,
        tls: tls?,
        timeout: timeout?,
        durability: durability?,
        wait_timeout: wait_timeout?,
        secret_file: secret_file?,
        allow_unsafe: allow_unsafe?,
        journal_max: journal_max?,
        ..Redis::new(topology?)
    })
}

fn topology(value: &Cursor<'_>, section: &Section<'_>, folder: &Path) -> Option<Topology> {
    match (section.optional("url"), section.optional("sentinel"), section.optional("cluster")) {
        (Some(url), None, None) => place(&url).map(Topology::Standalone),
        (None, Some(value), None) => {
            let fields = value.fields(&["urls", "master", "password_file"])?;
            let sentinels = fields.required("urls").and_then(|list| places(&list));
            let master = fields.required("master").and_then(|value| value.non_empty().map(ToOwned::to_owned));
            let password_file =
                fields.optional("password_file").map_or(Some(None), |value| path(&value, folder).map(Some));
            Some(Topology::Sentinel { sentinels: sentinels?, master: master?, password_file: password_file? })
        }
        (None, None, Some(list)) => places(&list).map(|nodes| Topology::Cluster { nodes }),
        _ => {
            value.defect("needs one of `url`, `sentinel` and `cluster`");
            None
        }
    }
}

/// Addresses of sentinels or nodes: no databases, since they have none, and all with TLS or none.
fn places(list: &Cursor<'_>) -> Option<Vec<Place>> {
    let items = list.items()?;
    if items.is_empty() {
        list.defect("must not be empty");
    } else if items.len() > PLACES_MAX {
        list.defect(format!("more than {PLACES_MAX} addresses"));
    }
    let mut places = Vec::new();
    for item in &items {
        let place = place(item)?;
        if place.has_database() {
            item.defect("there are no databases but on a standalone server");
        }
        places.push(place);
    }
    if places.windows(2).any(|pair| matches!(pair, [a, b] if a.is_encrypted() != b.is_encrypted())) {
        list.defect("some addresses with TLS and some without");
    }
    Some(places)
}

fn place(value: &Cursor<'_>) -> Option<Place> {
    let text = value.string()?;
    let place = Place::parse(text);
    match &place {
        Ok(_) => {}
        // Neither shown nor quoted: it may hold a password.
        Err(PlaceError::Credentials) => value.defect_with_hint(
            "an address with a password in it would end up in logs",
            "write the user as `username` and put the password into a file named by `password_file`",
        ),
        Err(PlaceError::Malformed) => value.defect_with_hint(
            format!("{} is no address of a Redis server", quoted(text)),
            "such as `redis://redis.example:6379`, `rediss://redis.example:6380` or `unix:///run/redis.sock`",
        ),
    }
    place.ok()
}

fn domain(value: &Cursor<'_>) -> Option<String> {
    let text = value.non_empty()?;
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    if text.len() > 48 || !text.bytes().all(legal) {
        value.defect("must be 1 to 48 of `a` to `z`, `0` to `9`, `-` and `_`");
        return None;
    }
    Some(text.to_owned())
}

fn durability(value: &Cursor<'_>) -> Option<Durability> {
    let text = value.string()?;
    let replicas = text.strip_prefix("wait:").and_then(|number| number.parse::<u8>().ok());
    match replicas.filter(|replicas| (1..=REPLICAS_MAX).contains(replicas)) {
        Some(replicas) => Some(Durability::Wait(replicas)),
        None if text == "async" => Some(Durability::Async),
        None => {
            let found = quoted(text);
            value.defect(format!("expected `async`, or `wait:1` to `wait:{REPLICAS_MAX}`, found {found}"));
            None
        }
    }
}

fn tls(section: &Section<'_>, folder: &Path, topology: Option<&Topology>) -> Option<TlsFiles> {
    let encrypted = topology.map(Topology::is_encrypted);
    let Some(value) = section.optional("tls") else {
        if encrypted == Some(true) {
            section.defect_with_hint(
                "`rediss` needs `tls.ca`",
                "the PEM file with the authorities that sign the server's certificate",
            );
        }
        return Some(TlsFiles::default());
    };
    let fields = value.fields(&["ca", "certificate", "key"])?;
    let ca = fields.required("ca").and_then(|value| path(&value, folder));
    let file = |key: &str| fields.optional(key).map_or(Some(None), |value| path(&value, folder).map(Some));
    let (certificate, key) = (file("certificate")?, file("key")?);
    if certificate.is_some() != key.is_some() {
        value.defect("`certificate` and `key` need each other");
    }
    if encrypted == Some(false) {
        value.defect_with_hint("no address asks for TLS", "write `rediss://` in place of `redis://`");
    }
    Some(TlsFiles { ca: Some(ca?), certificate, key })
}

pub(super) fn shown(ledger: &Ledger) -> serde_json::Value {
    let text = |path: &Path| path.display().to_string();
    let places = |places: &[Place]| places.iter().map(ToString::to_string).collect::<Vec<_>>();
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut shown = serde_json::json!({ "leaks_max": ledger.leaks_max });
    let (name, engine) = match &ledger.engine {
        Engine::Embedded { folder } => {
            ("embedded", serde_json::json!({ "folder": folder.as_deref().map_or("none".to_owned(), text) }))
        }
        Engine::Redis(redis) => {
            let (mut url, mut sentinel, mut cluster) = (None, None, None);
            match &redis.topology {
                Topology::Cluster { nodes } => cluster = Some(places(nodes)),
                Topology::Sentinel { sentinels, master, password_file } => {
                    sentinel = Some(serde_json::json!({
                        "urls": places(sentinels),
                        "master": master,
                        "password_file": password_file.as_deref().map(text),
                    }));
                }
                Topology::Standalone(place) => url = Some(place.to_string()),
            }
            let tls = redis.topology.is_encrypted().then(|| {
                serde_json::json!({
                    "ca": redis.tls.ca.as_deref().map(text),
                    "certificate": redis.tls.certificate.as_deref().map(text),
                    "key": redis.tls.key.as_deref().map(text),
                })
            });
            let engine = serde_json::json!({
                "url": url,
                "sentinel": sentinel,
                "cluster": cluster,
                "domain": redis.domain,
                "username": redis.username,
                "password_file": redis.password_file.as_deref().map(text),
                "tls": tls,
                "timeout_ms": ms(redis.timeout),
                "durability": match redis.durability {
                    Durability::Async => "async".to_owned(),
                    Durability::Wait(replicas) => format!("wait:{replicas}"),
                },
                "wait_timeout_ms": ms(redis.wait_timeout),
                "secret_file": redis.secret_file.as_deref().map(text),
                "allow_unsafe": redis.allow_unsafe,
                "journal_max": redis.journal_max,
            });
            ("redis", engine)
        }
    };
    if let Some(shown) = shown.as_object_mut() {
        shown.insert(name.to_owned(), engine);
    }
    shown
}
