//! What the engine is told: where Redis is, how to get in, and how long to wait for it.

use std::{fmt, path::PathBuf, time::Duration};

/// How the master is found, and how the engine behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the master is, or who knows.
    pub topology: Topology,
    /// Name of the quota domain, the hash tag of every key: `[a-z0-9_-]{1,48}`, default `default`. Replicas that share it
    /// share every counter.
    pub domain: String,
    /// User of the ACL; `None` for the default user.
    pub username: Option<String>,
    /// File with the password, read again at each new connection; `None` for none.
    pub password_file: Option<PathBuf>,
    /// Files of TLS, for `rediss://`.
    pub tls: TlsFiles,
    /// Time for one question, then for its repetition over another connection: 1 ms to 10 s, default 40 ms.
    pub timeout: Duration,
    /// When a hold counts as held.
    pub durability: Durability,
    /// Time for replicas to confirm: 1 ms to 10 s, default 50 ms.
    pub wait_timeout: Duration,
    /// File with the 32 bytes that names of counters are derived from, as 64 hexadecimal digits; `None` keeps them in Redis,
    /// beside the counters.
    pub secret_file: Option<PathBuf>,
    /// Whether a Redis that may lose counts is used all the same.
    pub allow_unsafe: bool,
    /// Calls of the last seconds that are remembered, to be counted again after a failover: 100 to 10,000,000, default
    /// 100,000. About 300 bytes each and 100 for each counter.
    pub journal_max: usize,
    /// How long strict limits deny after a failover, so that every replica can count again what it remembers. Not a setting
    /// of the process: tests shorten it.
    pub fence: Duration,
}

impl Settings {
    /// Everything but the place at its default.
    #[must_use]
    pub fn new(topology: Topology) -> Self {
        Self {
            topology,
            domain: "default".to_owned(),
            username: None,
            password_file: None,
            tls: TlsFiles::default(),
            timeout: Duration::from_millis(40),
            durability: Durability::Async,
            wait_timeout: Duration::from_millis(50),
            secret_file: None,
            allow_unsafe: false,
            journal_max: 100_000,
            fence: super::FENCE,
        }
    }
}

/// Where the master is, or who knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Any nodes of a cluster: they say which master has our slot.
    Cluster {
        /// At least one.
        nodes: Vec<Place>,
    },
    /// Sentinels: most of them agree on the master.
    Sentinel {
        /// At least one.
        sentinels: Vec<Place>,
        /// Name of the master.
        master: String,
        /// File with the password of the sentinels themselves; `None` for none.
        password_file: Option<PathBuf>,
    },
    /// The master itself.
    Standalone(Place),
}

impl Topology {
    /// One server that is always the master.
    ///
    /// # Errors
    /// See [`Place::parse`].
    pub fn standalone(url: &str) -> Result<Self, PlaceError> {
        Place::parse(url).map(Self::Standalone)
    }

    /// Whether any place asks for TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.places().iter().any(Place::is_encrypted)
    }

    /// Every place that is named.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        match self {
            Topology::Cluster { nodes: places } | Topology::Sentinel { sentinels: places, .. } => places,
            Topology::Standalone(place) => std::slice::from_ref(place),
        }
    }
}

/// When a hold counts as held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the master has it. What is lost with a master is counted again from what each replica of ours remembers.
    Async,
    /// When so many replicas of the master have it too: 1 to 10. Otherwise it is given back, and the call denied.
    Wait(u8),
}

/// Files of TLS towards Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the authorities that sign the server's certificate.
    pub ca: Option<PathBuf>,
    /// PEM file with our certificate, for servers that ask for one.
    pub certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
}

/// An address of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub(super) at: At,
    pub(super) encrypted: bool,
    /// Number of the database; 0 everywhere but on a standalone server.
    pub(super) database: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum At {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Why an address is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It holds a user or a password, which would end up in logs.
    #[error("holds a user or a password, which would end up in logs")]
    Credentials,
    /// Not of the form.
    #[error("is no address of a Redis server")]
    Malformed,
}

/// Port of Redis where an address names none.
const PORT: u16 = 6_379;

impl Place {
    /// Reads `redis://host:port/database`, `rediss://` for TLS, or `unix:///path`. Port and database may be left out.
    ///
    /// # Errors
    /// See [`PlaceError`]; the operator mends the address.
    pub fn parse(url: &str) -> Result<Self, PlaceError> {
        if url.contains('@') {
            return Err(PlaceError::Credentials);
        }
        if let Some(path) = url.strip_prefix("unix://") {
            let legal = path.starts_with('/') && !path.contains(['\0', '?', '#']);
            let place = Self { at: At::Unix(path.into()), encrypted: false, database: 0 };
            return legal.then_some(place).ok_or(PlaceError::Malformed);
        }
        let (encrypted, rest) = match (url.strip_prefix("redis://"), url.strip_prefix("rediss://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(PlaceError::Malformed),
        };
        let (authority, database) = match rest.split_once('/') {
            None | Some((_, "")) => (rest.trim_end_matches('/'), 0),
            Some((authority, number)) => (authority, small(number).ok_or(PlaceError::Malformed)?),
        };
        let (host, port) = host_and_port(authority).ok_or(PlaceError::Malformed)?;
        Ok(Self { at: At::Tcp { host, port }, encrypted, database })
    }

    /// Another server of the same kind.
    pub(super) fn moved_to(&self, host: String, port: u16) -> Self {
        Self { at: At::Tcp { host, port }, encrypted: self.encrypted, database: self.database }
    }

    /// Whether it asks for TLS.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Whether it names a database other than the first.
    #[must_use]
    pub const fn has_database(&self) -> bool {
        self.database != 0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.encrypted { "rediss" } else { "redis" };
        match &self.at {
            At::Tcp { host, port } if host.contains(':') => write!(f, "{scheme}://[{host}]:{port}")?,
            At::Tcp { host, port } => write!(f, "{scheme}://{host}:{port}")?,
            At::Unix(path) => write!(f, "unix://{}", path.display())?,
        }
        if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

fn small(number: &str) -> Option<i64> {
    let plain = (1..=4).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| number.parse().ok()).flatten()
}

fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if host.is_empty() || !(authority.starts_with('[') || host.bytes().all(legal)) {
        return None;
    }
    let port = match port {
        None => PORT,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok().filter(|port| *port > 0)?,
        Some(_) => return None,
    };
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://localhost/", "redis://localhost:6379"),
            ("rediss://redis.svc:1/12", "rediss://redis.svc:1/12"),
            ("redis://[::1]:7/0", "redis://[::1]:7"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ] {
            assert_eq!(Place::parse(url).unwrap().to_string(), shown);
        }
        for url in [
            "localhost",
            "redis://",
            "redis://:1",
            "redis://a:0",
            "redis://a:65536",
            "redis://a:1/x",
            "redis://a:1/1/2",
            "redis://a b",
            "redis://a:1?x",
            "redis://[x]:1",
            "unix://run",
            "http://a",
            "",
        ] {
            assert_eq!(Place::parse(url), Err(PlaceError::Malformed), "{url}");
        }
        for url in ["redis://:secret@a", "rediss://user@a:1", "redis://a/?password=@"] {
            assert_eq!(Place::parse(url), Err(PlaceError::Credentials), "{url}");
        }
    }
}
