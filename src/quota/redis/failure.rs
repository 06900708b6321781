//! What can go wrong with one question, and whether it may have been applied all the same.

use redis::{RedisError, ServerError};

use crate::quota::LedgerError;

/// Why the store could not answer: the closed set of kinds for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outage {
    /// There is no connection, or it broke.
    Connection,
    /// Its answer was none of ours.
    Malformed,
    /// The slot is on its way to another node, or another node is master now.
    Moved,
    /// Too few replicas confirmed in time.
    NotDurable,
    /// The server said no: out of memory, read-only, loading, not permitted.
    Refused,
    /// No answer in time.
    Timeout,
}

/// A question without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// Lost on the way there, or on the way back.
    #[error("the connection to the quota store broke")]
    Broken,
    /// Nothing was sent.
    #[error("there is no connection to the quota store")]
    Disconnected,
    /// Nothing that a script of ours answers.
    #[error("the answer of the quota store cannot be read")]
    Malformed,
    /// Held by the master, not by so many of its replicas.
    #[error("{confirmed} of {wanted} replicas of the quota store confirmed in time")]
    NotDurable { confirmed: i64, wanted: u8 },
    /// The server does not know the script; nothing was applied.
    #[error("the quota store does not know the script")]
    NoScript,
    /// Said no before anything was applied. The word is one of Redis's.
    #[error("the quota store answered `{0}`")]
    Refused(String),
    /// Failed in the middle of a script.
    #[error("a script failed in the quota store with `{0}`")]
    Script(String),
    /// No answer in time.
    #[error("the quota store did not answer in time")]
    Timeout,
}

/// Errors of Redis before which nothing is applied: said instead of running a command, or by the first write of a script.
const NOT_APPLIED: &[&str] = &[
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "DENIED",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "WRONGPASS",
];

impl Failure {
    pub(super) fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Failure::Timeout;
        }
        match error.code() {
            Some(code) => Self::of_code(code, error.detail()),
            None if error.kind() == redis::ErrorKind::Parse => Failure::Malformed,
            None => Failure::Broken,
        }
    }

    pub(super) fn of_server(error: &ServerError) -> Self {
        Self::of_code(error.code(), error.details())
    }

    fn of_code(code: &str, detail: Option<&str>) -> Self {
        let word = || code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(32).collect::<String>();
        let in_script = detail.is_some_and(|detail| detail.contains("script"));
        match code {
            "NOSCRIPT" => Failure::NoScript,
            // The arguments are read before the first write.
            _ if detail.is_some_and(|detail| detail.contains("BADARG")) => Failure::Refused("BADARG".to_owned()),
            // A command that the user may not run can be any command of a script, after others that he may. Releases differ
            // in how they say so.
            "ERR" if detail.is_some_and(|detail| detail.contains("The user executing the script can't")) => {
                Failure::Script("NOPERM".to_owned())
            }
            "NOPERM" if !in_script => Failure::Refused(word()),
            code if NOT_APPLIED.contains(&code) => Failure::Refused(word()),
            _ => Failure::Script(word()),
        }
    }

    pub(super) const fn may_be_applied(&self) -> bool {
        match self {
            Failure::Broken
            | Failure::Malformed
            | Failure::NotDurable { .. }
            | Failure::Script(_)
            | Failure::Timeout => true,
            Failure::Disconnected | Failure::NoScript | Failure::Refused(_) => false,
        }
    }

    pub(super) fn outage(&self) -> Outage {
        match self {
            Failure::Broken | Failure::Disconnected => Outage::Connection,
            Failure::Malformed => Outage::Malformed,
            Failure::NotDurable { .. } => Outage::NotDurable,
            Failure::NoScript | Failure::Script(_) => Outage::Refused,
            Failure::Refused(_) if self.is_redirect() || self.is_passing() => Outage::Moved,
            Failure::Refused(_) => Outage::Refused,
            Failure::Timeout => Outage::Timeout,
        }
    }

    /// Another server has to be asked.
    pub(super) fn is_redirect(&self) -> bool {
        matches!(self, Failure::Refused(code) if matches!(&**code, "MOVED" | "READONLY" | "MASTERDOWN"))
    }

    /// The same server may well answer in a moment.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Failure::Refused(code) if matches!(&**code, "ASK" | "TRYAGAIN" | "CLUSTERDOWN"))
    }

    /// Its word if who we are, or what we may do, is not what the server expects.
    pub(super) fn denial(&self) -> Option<&str> {
        match self {
            Failure::Refused(code) | Failure::Script(code)
                if matches!(&**code, "DENIED" | "NOAUTH" | "NOPERM" | "WRONGPASS") =>
            {
                Some(code)
            }
            Failure::Broken
            | Failure::Disconnected
            | Failure::Malformed
            | Failure::NotDurable { .. }
            | Failure::NoScript
            | Failure::Refused(_)
            | Failure::Script(_)
            | Failure::Timeout => None,
        }
    }

    /// `maybe` says that an earlier try of the same question may have been applied.
    pub(super) fn into_error(self, maybe: bool) -> LedgerError {
        if maybe || self.may_be_applied() {
            LedgerError::Unknown(self.into())
        } else {
            LedgerError::Refused(self.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: &str, detail: &str) -> Failure {
        Failure::of_code(code, Some(detail))
    }

    #[test]
    fn what_the_server_says_before_it_applies_anything_is_a_refusal() {
        for code in NOT_APPLIED {
            assert!(!of(code, "x").may_be_applied(), "{code}");
        }
        assert!(!of("OOM", "command not allowed. script: 1, on @user_script:118.").may_be_applied());
        assert!(!of("ERR", "user_script:13: BADARG script: 1").may_be_applied());
        assert!(!of("NOPERM", "this user has no permissions to run the 'evalsha' command").may_be_applied());
        assert!(of("NOPERM", "ACL failure in script: this user").may_be_applied());
        assert!(of("ERR", "Error running script").may_be_applied());
        assert!(of("WRONGTYPE", "Operation against a key").may_be_applied());
        assert!(Failure::Timeout.may_be_applied() && Failure::Broken.may_be_applied());
    }

    #[test]
    fn only_words_of_the_server_are_shown() {
        assert_eq!(of("ERR", "secret").to_string(), "a script failed in the quota store with `ERR`");
        assert_eq!(of("O O\nM", "x").to_string(), "a script failed in the quota store with `OOM`");
    }
}
