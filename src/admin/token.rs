//! The token that admin pages about quotas ask for. Kept as a digest only, so that no dump of the process shows it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, header};
use secrecy::zeroize::Zeroizing;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::files::{self, FileError};

/// Bytes of a token: fewer could be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// Bytes of its file.
const FILE_BYTES_MAX: u64 = 4_096;

/// A token file that cannot be used. Never holds its text.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct TokenError {
    /// The file as the operator names it.
    pub path: String,
    /// What is wrong with it.
    #[source]
    pub problem: TokenProblem,
}

/// What is wrong with a token file.
#[derive(Debug, thiserror::Error)]
pub enum TokenProblem {
    /// The file as such.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its text.
    #[error("an admin token is one line of at least {TOKEN_BYTES_MIN} printable ASCII characters without spaces")]
    Illegal,
}

/// Whether a request may look at quotas, and change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It carries the token.
    Granted,
    /// No token file is configured.
    Off,
    /// It carries no token, another one, or several.
    Refused,
}

/// The digest of the token; without a file nobody has access.
pub struct AdminToken {
    file: Option<(PathBuf, ArcSwap<[u8; 32]>)>,
}

/// Whoever has the digest can test guesses.
impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminToken").field("file", &self.file.as_ref().map(|(path, _)| path)).finish()
    }
}

impl AdminToken {
    /// Reads the token, if a file is configured. Blocks on it.
    ///
    /// # Errors
    /// [`TokenError`]; the operator mends the file.
    pub fn load(path: Option<&Path>) -> Result<Self, TokenError> {
        let file = match path {
            Some(path) => Some((path.to_owned(), ArcSwap::from_pointee(digest(read(path)?.as_bytes())))),
            None => None,
        };
        Ok(Self { file })
    }

    /// Reads the file again. Blocks on it.
    ///
    /// # Errors
    /// [`TokenError`]; the token before stays good.
    pub fn reload(&self) -> Result<(), TokenError> {
        if let Some((path, current)) = &self.file {
            current.store(digest(read(path)?.as_bytes()).into());
        }
        Ok(())
    }

    /// Looks at the one `authorization` header, in time that does not depend on the token.
    #[must_use]
    pub fn access(&self, headers: &HeaderMap) -> Access {
        let Some((_, expected)) = &self.file else { return Access::Off };
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Access::Refused };
        let sent = value.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let Some((_, sent)) = sent else { return Access::Refused };
        let same: bool = digest(sent).ct_eq(&**expected.load()).into();
        if same { Access::Granted } else { Access::Refused }
    }
}

/// Reads the token of a file; line ends at its end are no part of it.
///
/// # Errors
/// [`TokenError`]; the operator mends the file.
pub fn read(path: &Path) -> Result<Zeroizing<String>, TokenError> {
    let text = files::read(path, FILE_BYTES_MAX).map_err(TokenProblem::from).and_then(text_of);
    text.map_err(|problem| TokenError { path: path.display().to_string(), problem })
}

fn text_of(bytes: Vec<u8>) -> Result<Zeroizing<String>, TokenProblem> {
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| TokenProblem::Illegal)?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.len() < TOKEN_BYTES_MIN || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(TokenProblem::Illegal);
    }
    Ok(Zeroizing::new(text.to_owned()))
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn only_the_token_itself_opens() {
        let file = file(b"0123456789abcdef\n");
        let token = AdminToken::load(Some(file.path())).unwrap();
        let access = |values: &[&str]| token.access(&headers(values));
        assert_eq!(access(&["Bearer 0123456789abcdef"]), Access::Granted);
        assert_eq!(access(&["bearer 0123456789abcdef"]), Access::Granted);
        for values in [
            &[][..],
            &["Bearer "],
            &["Bearer"],
            &["Basic 0123456789abcdef"],
            &["0123456789abcdef"],
            &["Bearer 0123456789abcde"],
            &["Bearer 0123456789abcdeff"],
            &["Bearer 0123456789ABCDEF"],
            &["Bearer  0123456789abcdef"],
            &["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"],
        ] {
            assert_eq!(access(values), Access::Refused, "{values:?}");
        }
        assert_eq!(AdminToken::load(None).unwrap().access(&headers(&["Bearer 0123456789abcdef"])), Access::Off);
        assert!(!format!("{token:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn a_reload_takes_a_new_token_or_keeps_the_old_one() {
        let file = file(b"0123456789abcdef");
        let token = AdminToken::load(Some(file.path())).unwrap();
        std::fs::write(file.path(), b"fedcba9876543210").unwrap();
        token.reload().unwrap();
        let access = || token.access(&headers(&["Bearer fedcba9876543210"]));
        assert_eq!(access(), Access::Granted);
        std::fs::write(file.path(), b"short").unwrap();
        assert!(token.reload().is_err());
        assert_eq!(access(), Access::Granted);
    }

    #[test]
    fn a_token_has_a_least_and_a_greatest_length() {
        assert!(read(file(&[b'a'; 16]).path()).is_ok());
        assert!(read(file(&[b'a'; 4_096]).path()).is_ok());
        for bad in [&[b'a'; 15][..], &[b'a'; 4_097], b"", b"0123456789 abcdef", b"0123456789abcdef\n0", &[0xff; 20]] {
            let error = read(file(bad).path()).unwrap_err().to_string();
            assert!(!error.contains("0123"), "{error}");
        }
    }
}
