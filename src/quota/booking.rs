//! What a store is asked for one call, under the names that only we can compute.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use mcp_authz_core::{
    ledger::{
        Attempt, CounterId, Line,
        ask::{AskError, Names, ask},
    },
    quota::{Charge, CounterKey, Fingerprint, Mode, Terms},
};
use sha2::{Digest as _, Sha256};

use super::{LedgerError, ReservationId};

/// Length of [`Keys::sign`]'s answer.
pub(crate) const SIGNATURE_BYTES: usize = 16;

/// Why a sealed text is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too long, or no base64.
    #[error("cannot be read")]
    Garbled,
    /// Not signed with these keys: forged, or the data of the store was lost since.
    #[error("is not signed with the keys of this store")]
    Signature,
}

/// The keys of one store's data: under them subjects become names of counters, and settle tokens are signed.
///
/// Whoever reads the store learns no subject from the names without them. Made from 32 random bytes that belong to the data.
#[derive(Clone)]
pub struct Keys {
    names: Hmac<Sha256>,
    tokens: Hmac<Sha256>,
    masks: [u8; 32],
    arguments: [u8; 32],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}

impl Keys {
    /// Derives every key from one secret.
    #[must_use]
    pub fn derive(secret: &[u8; 32]) -> Self {
        let root = mac(secret);
        let key = |purpose: &[u8]| mac(&root.clone().chain_update(purpose).finalize().into_bytes());
        let masks = root.clone().chain_update(b"masks 1").finalize().into_bytes().into();
        let arguments = root.clone().chain_update(b"audit arguments 1").finalize().into_bytes().into();
        Self { names: key(b"counter names 1"), tokens: key(b"settle tokens 1"), masks, arguments }
    }

    /// The key under which values are hashed that a policy masks by `hash`: the same on all replicas of a store.
    #[must_use]
    pub const fn mask_key(&self) -> [u8; 32] {
        self.masks
    }

    /// The key under which values of arguments are hashed for the audit: the same on all replicas of a store.
    #[must_use]
    pub const fn argument_key(&self) -> &[u8; 32] {
        &self.arguments
    }

    /// Signs the bytes of a settle token, or of the ticket of a response.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        first_16(self.tokens.clone().chain_update(bytes))
    }

    /// Whether the signature is ours, in constant time.
    #[must_use]
    pub fn verify(&self, bytes: &[u8], signature: &[u8]) -> bool {
        use subtle::ConstantTimeEq as _;
        self.sign(bytes).ct_eq(signature).into()
    }

    /// The bytes with their signature, as text that Envoy carries. `None` if it would have more than so many characters.
    #[must_use]
    pub fn seal(&self, mut bytes: Vec<u8>, chars_max: usize) -> Option<String> {
        let signature = self.sign(&bytes);
        bytes.extend_from_slice(&signature);
        let text = URL_SAFE_NO_PAD.encode(bytes);
        (text.len() <= chars_max).then_some(text)
    }

    /// The bytes of a text that [`Keys::seal`] wrote.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn open(&self, text: &[u8], chars_max: usize) -> Result<Vec<u8>, SealError> {
        if text.len() > chars_max {
            return Err(SealError::Garbled);
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::Garbled)?;
        let end = bytes.len().checked_sub(SIGNATURE_BYTES).ok_or(SealError::Garbled)?;
        let signature = bytes.split_off(end);
        if self.verify(&bytes, &signature) { Ok(bytes) } else { Err(SealError::Signature) }
    }

    fn name(&self, kind: &[u8], bytes: &[u8]) -> [u8; 16] {
        first_16(self.names.clone().chain_update(kind).chain_update(bytes))
    }
}

impl Names for Keys {
    fn counter(&self, key: &CounterKey) -> CounterId {
        CounterId(u128::from_be_bytes(self.name(b"c", key.as_str().as_bytes())))
    }

    /// Without the key nobody can test guesses of arguments.
    fn fingerprint(&self, fingerprint: Fingerprint) -> Fingerprint {
        Fingerprint(self.name(b"f", &fingerprint.0))
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

fn first_16(mac: Hmac<Sha256>) -> [u8; 16] {
    let bytes: [u8; 32] = mac.finalize().into_bytes().into();
    let (first, _) = bytes.split_at(16);
    first.try_into().unwrap_or([0; 16])
}

/// One reservation as a store is asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booking {
    /// Its name.
    pub id: ReservationId,
    /// Which handling of the request asks.
    pub attempt: Attempt,
    /// Of counters, modes and amounts: keeps the id from being used for something else.
    pub digest: u64,
    /// What is held: at least one line, at most [`LINES_MAX`](mcp_authz_core::quota::LINES_MAX), all of different
    /// counters.
    pub lines: Box<[Line]>,
}

/// A booking and where its lines come from.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) booking: Booking,
    /// For each charge the index of its line; `None` for one that asks nothing.
    pub(super) line_of: Vec<Option<usize>>,
    /// For each line what its first charge says.
    pub(super) terms: Box<[Arc<Terms>]>,
}

impl Booking {
    /// Builds it; `None` if nothing has to be asked.
    pub(super) fn prepare(
        id: &ReservationId,
        attempt: Attempt,
        charges: &[Charge],
        keys: &Keys,
        now_ms: u64,
    ) -> Result<Option<Prepared>, LedgerError> {
        let mut question = ask(charges, keys, now_ms)?;
        if question.lines.is_empty() {
            return Ok(None);
        }
        let terms = (0..question.lines.len()).filter_map(|line| {
            let first = question.line_of.iter().position(|of| *of == Some(line))?;
            charges.get(first).map(|charge| Arc::clone(&charge.terms))
        });
        let terms = terms.collect();
        let lines: Box<[Line]> = std::mem::take(&mut question.lines).into();
        let booking = Booking { id: id.clone(), attempt, digest: digest(&lines), lines };
        Ok(Some(Prepared { booking, line_of: question.line_of, terms }))
    }
}

impl From<AskError> for LedgerError {
    fn from(error: AskError) -> Self {
        LedgerError::Refused(Box::new(error))
    }
}

fn digest(lines: &[Line]) -> u64 {
    let mut bytes = Vec::with_capacity(lines.len().saturating_mul(26));
    for line in lines {
        bytes.extend_from_slice(&line.counter.0.to_be_bytes());
        bytes.extend_from_slice(&[u8::try_from(u32::from(line.span.letter())).unwrap_or(0), mode_letter(line.mode)]);
        bytes.extend_from_slice(&line.amount.to_be_bytes());
    }
    let sum: [u8; 32] = Sha256::digest(&bytes).into();
    let (first, _) = sum.split_at(8);
    u64::from_be_bytes(first.try_into().unwrap_or([0; 8]))
}

/// The letter of a mode in stores and journals.
pub(crate) const fn mode_letter(mode: Mode) -> u8 {
    match mode {
        Mode::Attempt => b'a',
        Mode::Consume => b'c',
        Mode::Gate => b'g',
        Mode::Track => b't',
    }
}
