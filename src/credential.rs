//! Secrets for upstreams: made into one header when they are loaded, and shown to nobody after that.
//!
//! Only this module sees a secret's text. It leaves as the value of the header that Envoy puts on the request, and
//! nowhere else: there is no `Display`, no `Serialize`, no `Clone`, and `Debug` is redacted.

use std::collections::HashSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mcp_authz_core::server::CredentialSpec;
use secrecy::{ExposeSecret as _, SecretString, zeroize::Zeroizing};

/// Bytes of a secret file.
pub const SECRET_BYTES_MAX: u64 = 16_384;

/// A text that must never reach a log, a metric, a trace or an error.
///
/// ```compile_fail
/// fn print(secret: &mcp_authz::credential::UpstreamSecret) -> String { secret.to_string() }
/// ```
/// ```compile_fail
/// fn copy(secret: &mcp_authz::credential::UpstreamSecret) -> mcp_authz::credential::UpstreamSecret { secret.clone() }
/// ```
/// ```compile_fail
/// fn write(secret: &mcp_authz::credential::UpstreamSecret) -> String { serde_json::to_string(secret).unwrap() }
/// ```
#[derive(Debug)]
pub struct UpstreamSecret(SecretString);

/// What is put on a request to an upstream.
#[derive(Debug)]
pub enum Credential {
    /// One header.
    Header {
        /// Lower-case name.
        name: Box<str>,
        /// The whole value, secret included.
        value: UpstreamSecret,
    },
    /// The upstream asks for nothing.
    None,
}

/// A secret file that cannot be used. Never holds its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing, or line ends only.
    #[error("the secret is empty")]
    Empty,
    /// A byte that HTTP forbids or servers read differently.
    #[error("the secret holds a byte that no header may carry: printable ASCII only, one line, no spaces at its ends")]
    Illegal,
    /// Not UTF-8, or with control characters.
    #[error("the password is not one line of UTF-8 text")]
    Password,
}

/// Names of the headers that carry credentials of any server. A client's own copy of one must reach no server, in no
/// spelling: servers behind CGI or WSGI read an underscore as a hyphen, and might take the client's value for ours.
#[derive(Debug, Default)]
pub struct HeaderNames {
    /// With hyphens in place of underscores; asked, never walked.
    names: HashSet<Box<str>>,
    /// Bit n is set if a name has n bytes (63 for longer ones), which rules most headers out without hashing.
    lengths: u64,
}

impl HeaderNames {
    /// Takes the names together.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let names: HashSet<Box<str>> = names.map(|name| name.replace('_', "-").into()).collect();
        let lengths = names.iter().fold(0, |lengths, name| lengths | Self::bit(name));
        Self { names, lengths }
    }

    /// Whether a header of that name, lower case, could be taken for one that carries a credential. Takes the same time
    /// for any number of servers.
    #[must_use]
    pub fn hold(&self, name: &str) -> bool {
        if self.lengths & Self::bit(name) == 0 {
            return false;
        }
        if name.contains('_') { self.names.contains(&*name.replace('_', "-")) } else { self.names.contains(name) }
    }

    fn bit(name: &str) -> u64 {
        1u64.wrapping_shl(u32::try_from(name.len().min(63)).unwrap_or(63))
    }
}

impl Credential {
    /// Makes the header from the bytes of the secret file; line ends at the end of the file are not part of the secret.
    ///
    /// # Errors
    /// [`SecretError`]; the operator mends the file.
    pub fn prepare(spec: &CredentialSpec, file: &[u8]) -> Result<Self, SecretError> {
        match spec {
            CredentialSpec::None => Ok(Credential::None),
            CredentialSpec::Header { name, format, .. } => {
                let secret = text_of(file).ok_or(SecretError::Illegal)?;
                if secret.is_empty() {
                    return Err(SecretError::Empty);
                }
                let legal = secret.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
                if !legal || secret.trim() != secret {
                    return Err(SecretError::Illegal);
                }
                Ok(Self::header_of(name, format.replacen("{secret}", secret, 1)))
            }
            CredentialSpec::Basic { username, .. } => {
                let password = text_of(file).ok_or(SecretError::Password)?;
                if password.is_empty() {
                    return Err(SecretError::Empty);
                }
                if password.chars().any(char::is_control) {
                    return Err(SecretError::Password);
                }
                let pair = Zeroizing::new(format!("{username}:{password}"));
                Ok(Self::header_of("authorization", format!("Basic {}", STANDARD.encode(pair.as_bytes()))))
            }
        }
    }

    fn header_of(name: &str, value: String) -> Self {
        Credential::Header { name: name.into(), value: UpstreamSecret(SecretString::from(value)) }
    }

    /// Name and value of the header to set; the value goes to Envoy and nowhere else.
    #[must_use]
    pub fn expose_header(&self) -> Option<(&str, &str)> {
        match self {
            Credential::Header { name, value } => Some((name, value.0.expose_secret())),
            Credential::None => None,
        }
    }

    /// Name of the header to set, which is no secret.
    #[must_use]
    pub fn header_name(&self) -> Option<&str> {
        match self {
            Credential::Header { name, .. } => Some(name),
            Credential::None => None,
        }
    }
}

fn text_of(file: &[u8]) -> Option<&str> {
    std::str::from_utf8(file).ok().map(|text| text.trim_end_matches(['\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(format: &str) -> CredentialSpec {
        CredentialSpec::Header { name: "authorization".into(), format: format.into(), secret: "x".into() }
    }

    fn basic() -> CredentialSpec {
        CredentialSpec::Basic { username: "user".into(), password: "x".into() }
    }

    #[test]
    fn a_header_is_made_from_the_file_without_its_line_end() {
        for file in ["hunter2", "hunter2\n", "hunter2\r\n", "hunter2\n\n"] {
            let credential = Credential::prepare(&header("Bearer {secret}"), file.as_bytes()).unwrap();
            assert_eq!(credential.expose_header(), Some(("authorization", "Bearer hunter2")));
        }
        // The text of a secret is never read as a format.
        let credential = Credential::prepare(&header("{secret}"), b"{secret}").unwrap();
        assert_eq!(credential.expose_header().unwrap().1, "{secret}");
    }

    #[test]
    fn basic_is_the_pair_in_base64() {
        let credential = Credential::prepare(&basic(), "p:\u{e9}\n".as_bytes()).unwrap();
        assert_eq!(credential.expose_header(), Some(("authorization", "Basic dXNlcjpwOsOp")));
    }

    #[test]
    fn a_secret_that_no_header_may_carry_is_refused() {
        for file in [&b"a\nb"[..], b"a\0", b"\xff", "é".as_bytes(), b" a", b"a ", b"a\tb", b"a\r\nx: y", b"\x7f"] {
            assert_eq!(Credential::prepare(&header("{secret}"), file).unwrap_err(), SecretError::Illegal, "{file:?}");
        }
        for file in [&b"a\nb"[..], b"\xff", b"a\0"] {
            assert_eq!(Credential::prepare(&basic(), file).unwrap_err(), SecretError::Password, "{file:?}");
        }
        for file in [&b""[..], b"\n", b"\r\n"] {
            assert_eq!(Credential::prepare(&header("{secret}"), file).unwrap_err(), SecretError::Empty);
            assert_eq!(Credential::prepare(&basic(), file).unwrap_err(), SecretError::Empty);
        }
    }

    #[test]
    fn a_secret_never_shows() {
        let credential = Credential::prepare(&header("Bearer {secret}"), b"hunter2").unwrap();
        let shown = format!("{credential:?} {credential:#?}");
        assert!(!shown.contains("hunter2") && shown.contains("authorization"), "{shown}");
        let error = Credential::prepare(&header("{secret}"), b"hunter2\x01").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn every_spelling_of_a_credential_header_is_known_and_nothing_else() {
        let long = "x".repeat(100);
        let names = HeaderNames::of(["authorization", "x-api-key", "x_odd-key", &long].into_iter());
        for name in ["authorization", "x-api-key", "x_api_key", "x-api_key", "x-odd-key", "x_odd_key", &long] {
            assert!(names.hold(name), "{name}");
        }
        for name in ["", "x-api-keys", "x-other-k", "accept", "authorizatiom", &"y".repeat(100)] {
            assert!(!names.hold(name), "{name}");
        }
        assert!(!HeaderNames::default().hold("authorization"));
    }

    #[test]
    fn no_credential_is_no_header() {
        let credential = Credential::prepare(&CredentialSpec::None, b"").unwrap();
        assert_eq!((credential.expose_header(), credential.header_name()), (None, None));
    }
}
