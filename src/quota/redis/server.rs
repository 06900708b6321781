//! What a server says about itself, and what we make of it.

use std::{fmt, time::Duration};

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::{connection::Connection, failure::Failure};

/// Time for questions that no call waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The oldest release whose commands and scripts we rely on.
const MAJOR_MIN: u64 = 7;

/// What INFO says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Of this start of the server.
    pub(super) run_id: String,
    version: String,
    role: String,
    loading: bool,
    policy: String,
    aof: bool,
    /// Whether it keeps snapshots; `None` if we may not ask.
    snapshots: Option<bool>,
}

/// What makes a server unfit for limits, and what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It gives up keys when memory runs short: a counter that is gone is a full quota.
    Evicts {
        /// `maxmemory_policy`.
        policy: String,
    },
    /// It keeps nothing: after a restart every counter is gone.
    Forgets,
    /// It does not know what the scripts rely on.
    Old {
        /// `redis_version`.
        version: String,
    },
    /// It is no master.
    Replica,
    /// It does not let us run what the scripts run.
    Restricted {
        /// What it answered.
        code: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Evicts { policy } => write!(
                f,
                "it evicts counters when memory runs short (maxmemory-policy is `{policy}`): set `maxmemory-policy noeviction`"
            ),
            Problem::Forgets => f.write_str(
                "it keeps nothing over a restart, as far as it lets us see: set `appendonly yes`, \
                 or keep snapshots and permit `config|get` to our user",
            ),
            Problem::Old { version } => write!(f, "its version is `{version}`: 7.0 or newer is needed"),
            Problem::Replica => f.write_str("it is a replica: name the master, or use `sentinel` or `cluster`"),
            Problem::Restricted { code } => write!(
                f,
                "our user may not run what the scripts run (it answered `{code}`): permit the commands listed in deploy/QUOTAS.md"
            ),
        }
    }
}

impl Problem {
    /// Whether `allow_unsafe` lets it pass. What cannot work at all does not pass.
    pub(super) const fn may_pass(&self) -> bool {
        match self {
            Problem::Evicts { .. } | Problem::Forgets => true,
            Problem::Old { .. } | Problem::Replica | Problem::Restricted { .. } => false,
        }
    }
}

impl Facts {
    /// Asks.
    pub(super) async fn ask(connection: &Connection) -> Result<Self, Failure> {
        let until = until();
        let mut info = Cmd::new();
        info.arg("INFO").arg("server").arg("replication").arg("memory").arg("persistence");
        let mut facts = match connection.ask(&info, until).await {
            // Before 7.0 there is one section at a time.
            Err(Failure::Script(_)) => Self::of(&connection.ask(Cmd::new().arg("INFO"), until).await?)?,
            answer => Self::of(&answer?)?,
        };
        if !facts.aof {
            let mut save = Cmd::new();
            save.arg("CONFIG").arg("GET").arg("save");
            facts.snapshots = match connection.ask(&save, until).await {
                Ok(value) => Some(texts(&value).get(1).is_some_and(|points| !points.is_empty())),
                Err(failure) if failure.denial().is_some() || matches!(failure, Failure::Script(_)) => None,
                Err(failure) => return Err(failure),
            };
        }
        Ok(facts)
    }

    /// The number of this start of the server: tells whether two connections lead to one server.
    pub(super) async fn run_id(connection: &Connection) -> Result<String, Failure> {
        let mut info = Cmd::new();
        info.arg("INFO").arg("server");
        Ok(Self::of(&connection.ask(&info, until()).await?)?.run_id)
    }

    fn of(value: &Value) -> Result<Self, Failure> {
        let text = text(value).ok_or(Failure::Malformed)?;
        let mut facts = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            match key {
                "run_id" => facts.run_id = value.to_owned(),
                "redis_version" => facts.version = word(value),
                "role" => facts.role = word(value),
                "loading" => facts.loading = value != "0",
                "maxmemory_policy" => facts.policy = word(value),
                "aof_enabled" => facts.aof = value == "1",
                _ => {}
            }
        }
        if facts.run_id.is_empty() { Err(Failure::Malformed) } else { Ok(facts) }
    }

    /// Everything that makes it unfit.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let major = self.version.split('.').next().and_then(|major| major.parse::<u64>().ok());
        if major.is_none_or(|major| major < MAJOR_MIN) {
            problems.push(Problem::Old { version: self.version.clone() });
        }
        if self.role != "master" {
            problems.push(Problem::Replica);
        }
        if self.policy != "noeviction" {
            problems.push(Problem::Evicts { policy: self.policy.clone() });
        }
        if !self.aof && self.snapshots != Some(true) {
            problems.push(Problem::Forgets);
        }
        problems
    }

    /// Whether it is still reading its data.
    pub(super) const fn is_loading(&self) -> bool {
        self.loading
    }
}

pub(super) fn until() -> Instant {
    let now = Instant::now();
    now.checked_add(PATIENCE).unwrap_or(now)
}

/// The server's words are shown to operators; they are cut to what a word is.
fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')).take(32).collect()
}

pub(super) fn text(value: &Value) -> Option<&str> {
    if let Value::BulkString(bytes) = value {
        return std::str::from_utf8(bytes).ok();
    }
    if let Value::SimpleString(text) = value { Some(text) } else { None }
}

pub(super) fn texts(value: &Value) -> Vec<&str> {
    if let Value::Array(items) = value { items.iter().filter_map(text).collect() } else { Vec::new() }
}
