//! The keys of checkpoints: Ed25519, the private one as PKCS#8 and the public one as SPKI, both as PEM.

use std::{fmt, path::Path};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use mcp_authz_core::{
    audit::{chain::Signer, verify::Checker},
    trace::push_hex,
};
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, pem::PemObject as _};
use secrecy::zeroize::Zeroizing;
use sha2::{Digest as _, Sha256};

use crate::files::{self, FileError};

/// Bytes of a file with a key.
const FILE_BYTES_MAX: u64 = 16_384;
/// What stands before the 32 bytes of a public key (RFC 8410, section 4).
const SPKI_START: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Bytes of the name of a key.
const ID_BYTES: usize = 8;

/// A key that cannot be used. Never holds it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file as such.
    #[error("{path}: {problem}")]
    File {
        /// The file as the operator names it.
        path: String,
        /// What is wrong with it.
        #[source]
        problem: FileError,
    },
    /// Its text.
    #[error("{0}: is no Ed25519 key of this kind as PEM: make one with `mcp-authz audit keygen`")]
    Illegal(String),
    /// The operating system has no randomness to give.
    #[error("no key can be made")]
    Random,
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let file = |problem| KeyError::File { path: path.display().to_string(), problem };
    files::read(path, FILE_BYTES_MAX).map(Zeroizing::new).map_err(file)
}

fn id_of(spki: &[u8]) -> String {
    let sum = Sha256::digest(spki);
    let mut id = String::with_capacity(ID_BYTES.saturating_mul(2));
    push_hex(&mut id, sum.get(..ID_BYTES).unwrap_or_default());
    id
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Signs checkpoints.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    id: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads a private key: PKCS#8 in PEM.
    ///
    /// # Errors
    /// [`KeyError`]; the operator mends the file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let illegal = || KeyError::Illegal(path.display().to_string());
        let text = read(path)?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| illegal())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(|_| illegal())?;
        Ok(Self::of(pair))
    }

    /// Makes a key; gives it and its file.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<(Self, Zeroizing<String>), KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?;
        let der = pair.to_pkcs8v1().map_err(|_| KeyError::Random)?;
        Ok((Self::of(pair), Zeroizing::new(pem("PRIVATE KEY", der.as_ref()))))
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let id = id_of(&[&SPKI_START, pair.public_key().as_ref()].concat());
        Self { pair, id }
    }

    /// The file with the public key.
    #[must_use]
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &[&SPKI_START, self.pair.public_key().as_ref()].concat())
    }
}

impl Signer for SigningKey {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn sign(&self, text: &[u8]) -> String {
        STANDARD.encode(self.pair.sign(text))
    }
}

/// Checks signatures of checkpoints.
#[derive(Debug)]
pub struct PublicKey {
    key: UnparsedPublicKey<Vec<u8>>,
    id: String,
}

impl PublicKey {
    /// Reads a public key: SPKI in PEM.
    ///
    /// # Errors
    /// [`KeyError`]; the operator mends the file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let illegal = || KeyError::Illegal(path.display().to_string());
        let text = read(path)?;
        let der = SubjectPublicKeyInfoDer::from_pem_slice(&text).map_err(|_| illegal())?;
        let key = der.strip_prefix(&SPKI_START).filter(|key| key.len() == 32).ok_or_else(illegal)?;
        Ok(Self { key: UnparsedPublicKey::new(&ED25519, key.to_vec()), id: id_of(&der) })
    }
}

impl Checker for PublicKey {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn is_of(&self, text: &[u8], signature: &str) -> bool {
        STANDARD.decode(signature).is_ok_and(|signature| self.key.verify(text, &signature).is_ok())
    }
}
