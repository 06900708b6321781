//! What mcp-authz relies on, from its own settings.

use std::{fmt, str::FromStr, time::Duration};

/// What is compared with Envoy's configuration.
#[derive(Clone, Debug)]
pub struct Expect {
    /// `limits.body_bytes_max`
    pub body_bytes_max: u64,
    /// `limits.checks_in_flight_max`
    pub checks_in_flight_max: u64,
    /// `response.streams_max`
    pub streams_max: u64,
    /// `timeouts.check_ms`
    pub check: Duration,
    /// `envoy.response_phase`; `None` if nobody said.
    pub response_phase: Option<bool>,
    /// Names in `servers.yaml`; `None` if nobody said.
    pub servers: Option<Vec<String>>,
    /// The version of Envoy; `None` if nobody said.
    pub version: Option<Version>,
    /// Clusters of MCP servers; empty for all that are reached through mcp-authz.
    pub upstreams: Vec<String>,
}

impl Default for Expect {
    /// The defaults of mcp-authz's settings.
    fn default() -> Self {
        Self {
            body_bytes_max: 1_048_576,
            checks_in_flight_max: 1024,
            streams_max: 4096,
            check: Duration::from_secs(1),
            response_phase: None,
            servers: None,
            version: None,
            upstreams: Vec::new(),
        }
    }
}

/// A version of Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1
    pub major: u32,
    /// For example 40.
    pub minor: u32,
    /// The patch level.
    pub patch: u32,
}

impl Version {
    /// The first with the filter that refuses every body above a size.
    pub(super) const SIZE_FILTER: Version = Version { major: 1, minor: 40, patch: 0 };
}

impl FromStr for Version {
    type Err = String;

    /// `1.40.0`, and the longer text of `/server_info`: `…/1.40.0/Clean/RELEASE/BoringSSL`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| {
            let part = part.strip_prefix('v').unwrap_or(part);
            let number = part.split('-').next().unwrap_or_default();
            let mut numbers = number.split('.').map(|number| number.parse::<u32>().ok());
            match (numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()) {
                (major, minor, patch, None) => Some(Version { major, minor, patch }),
                _ => None,
            }
        };
        text.split('/').find_map(parse).ok_or_else(|| "write it like 1.40.0".to_owned())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_envoy_says() {
        let version = Version { major: 1, minor: 40, patch: 0 };
        for text in ["1.40.0", "v1.40.0", "71f2ba1/1.40.0/Clean/RELEASE/BoringSSL", "a/1.40.0-dev/b"] {
            assert_eq!(text.parse(), Ok(version), "{text}");
        }
        for odd in ["", "1.40", "1.x.0", "1.40.0.1"] {
            assert!(odd.parse::<Version>().is_err(), "{odd}");
        }
    }
}
