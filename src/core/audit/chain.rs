//! The chain of records of one process: numbers, links and hashes, and the records about the chain itself.
//!
//! One line is `{"event_hash":"…","event_id":…}`. The hash is SHA-256 over the line without that member, which sorts first, so
//! nothing has to be parsed or written anew to check one. Each record holds the hash of the one before it; whoever changes one
//! has to change all that follow. That somebody did is told by a signature: [`Signer`].

use sha2::{Digest as _, Sha256};

use super::{Core, MARK, OURSELVES, Outcome, draft};
use crate::text::push_number;

/// The digits of a hash.
pub const HASH_DIGITS: usize = 64;
/// The digits of the name of a chain.
pub const ID_DIGITS: usize = 32;
/// What a line begins with, before the digits of its hash.
pub const LINE_START: &str = "{\"event_hash\":\"";
/// What stands after those digits.
pub(super) const HASH_END: &str = "\",";
/// Longest line that is a record, in bytes: what a draft has at most under every setting, and room.
pub const LINE_BYTES_MAX: usize = 262_144;

/// A hash as lower-case digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash([u8; HASH_DIGITS]);

impl Hash {
    /// Takes 64 hexadecimal digits in lower case.
    #[must_use]
    pub fn parse(digits: &[u8]) -> Option<Self> {
        let digits: [u8; HASH_DIGITS] = digits.try_into().ok()?;
        digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(digits))
    }

    /// The hash of a line: of what is left of it without its own hash.
    #[must_use]
    pub(super) fn of_body(body: &[u8]) -> Self {
        let sum: [u8; 32] = Sha256::new_with_prefix(b"{").chain_update(body).finalize().into();
        let mut digits = [b'0'; HASH_DIGITS];
        let (pairs, _) = digits.as_chunks_mut::<2>();
        for ([high, low], byte) in pairs.iter_mut().zip(sum) {
            *high = digit(byte >> 4);
            *low = digit(byte & 0xf);
        }
        Self(digits)
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

const fn digit(value: u8) -> u8 {
    if value < 10 { b'0'.wrapping_add(value) } else { b'a'.wrapping_add(value.wrapping_sub(10)) }
}

/// Signs what a checkpoint says.
pub trait Signer: Send {
    /// Names the key: 16 hexadecimal digits.
    fn key_id(&self) -> &str;
    /// The signature of a text, as base64.
    fn sign(&self, text: &[u8]) -> String;
}

/// What a checkpoint signs: its place and the hash of the record before it, and thereby every record up to there. The one at the
/// start signs `every` as well: else whoever takes out the others could say that none had to come.
#[must_use]
pub fn signed_text(
    event: &str,
    id: &str,
    seq: u64,
    previous: Option<&Hash>,
    occurred_at: &str,
    every: Option<u64>,
) -> String {
    let previous = previous.map_or("-", Hash::as_str);
    let every = every.map_or_else(String::new, |every| format!("{every}\n"));
    format!("mcp-authz audit 1\n{event}\n{id}\n{seq}\n{previous}\n{occurred_at}\n{every}")
}

/// The three parts of a draft. The first and the last are short, so they are looked for from both ends.
fn parts(draft: &[u8]) -> Option<[&[u8]; 3]> {
    let first = draft.iter().position(|byte| *byte == MARK)?;
    let last = draft.iter().rposition(|byte| *byte == MARK)?;
    let middle = draft.get(first.checked_add(1)?..last)?;
    let end = draft.get(last.checked_add(1)?..)?;
    (!middle.contains(&MARK)).then_some([draft.get(..first)?, middle, end])
}

/// The records about a chain.
pub(super) const START: &str = "chain_start";
pub(super) const CHECKPOINT: &str = "checkpoint";
pub(super) const END: &str = "chain_end";
pub(super) const GAP: &str = "gap";
/// The member of the first record that says after how many records a checkpoint comes.
pub(super) const EVERY: &str = "checkpoint_records";

/// Gives each draft its place. One for each process; used by the one thread that writes.
pub struct Chain {
    id: String,
    seq: u64,
    previous: Option<Hash>,
    signer: Option<Box<dyn Signer>>,
    draft: String,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("id", &self.id).field("seq", &self.seq).finish_non_exhaustive()
    }
}

impl Chain {
    /// A chain of that name, which nothing is in yet. `previous` is the hash of the last record of the chain that it continues.
    #[must_use]
    pub fn new(id: [u8; 16], previous: Option<Hash>, signer: Option<Box<dyn Signer>>) -> Self {
        let mut name = String::with_capacity(ID_DIGITS);
        crate::trace::push_hex(&mut name, &id);
        Self { id: name, seq: 0, previous, signer, draft: String::new() }
    }

    /// The number of the last record; 0 before the first.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether checkpoints are signed.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        self.signer.is_some()
    }

    /// Appends the line of a draft, with its line feed. False for what is no draft; then nothing is appended.
    pub fn seal(&mut self, draft: &[u8], out: &mut Vec<u8>) -> bool {
        let Some([event, middle, end]) = parts(draft) else { return false };
        self.seq = self.seq.saturating_add(1);
        let start = out.len();
        out.extend_from_slice(LINE_START.as_bytes());
        out.extend_from_slice(&[b'0'; HASH_DIGITS]);
        out.extend_from_slice(HASH_END.as_bytes());
        let body = out.len();
        let mut number = String::with_capacity(20);
        push_number(&mut number, self.seq);
        for piece in
            [b"\"event_id\":\"", self.id.as_bytes(), b"-", number.as_bytes(), b"\",\"event_type\":\"", event].iter()
        {
            out.extend_from_slice(piece);
        }
        for piece in [
            &b"\",\"extensions\":{\"io.mcp-authz/chain\":{\"id\":\""[..],
            self.id.as_bytes(),
            b"\",\"seq\":\"",
            number.as_bytes(),
            b"\"},",
            middle,
            b"\"previous_hash\":",
        ] {
            out.extend_from_slice(piece);
        }
        match &self.previous {
            Some(hash) => {
                out.push(b'"');
                out.extend_from_slice(&hash.0);
                out.push(b'"');
            }
            None => out.extend_from_slice(b"null"),
        }
        out.push(b',');
        out.extend_from_slice(end);
        let hash = Hash::of_body(out.get(body..).unwrap_or_default());
        let at = start.saturating_add(LINE_START.len());
        if let Some(place) = out.get_mut(at..at.saturating_add(HASH_DIGITS)) {
            place.copy_from_slice(&hash.0);
        }
        out.push(b'\n');
        self.previous = Some(hash);
        true
    }

    /// Appends the first record: which program, and after how many records at most a checkpoint follows.
    pub fn start(&mut self, time_ms: u64, version: &str, every: Option<u64>, out: &mut Vec<u8>) {
        self.about(START, time_ms, out, |members, chain| {
            let every = every.filter(|_| chain.is_signed());
            if let Some(every) = every {
                members.number(EVERY, every);
            }
            chain.sign(members, START, time_ms, every);
            members.text("version", Some(version));
        });
    }

    /// Appends a record of everything up to here, signed if there is a key.
    pub fn checkpoint(&mut self, time_ms: u64, out: &mut Vec<u8>) {
        self.about(CHECKPOINT, time_ms, out, |members, chain| chain.sign(members, CHECKPOINT, time_ms, None));
    }

    /// Appends the last record.
    pub fn end(&mut self, time_ms: u64, out: &mut Vec<u8>) {
        self.about(END, time_ms, out, |members, chain| chain.sign(members, END, time_ms, None));
    }

    /// Appends a record of records that could not be kept: so many are missing here.
    pub fn gap(&mut self, time_ms: u64, lost: u64, out: &mut Vec<u8>) {
        self.about(GAP, time_ms, out, |members, _| members.number("lost", lost));
    }

    fn about(
        &mut self,
        event: &str,
        time_ms: u64,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut super::Members<'_>, &Self),
    ) {
        let mut text = std::mem::take(&mut self.draft);
        text.clear();
        let outcome = if event == GAP { Outcome::Error } else { Outcome::Allowed };
        let core = Core { time_ms, outcome, principal: OURSELVES, tool: None };
        let extension = if event == GAP { "gap" } else { "checkpoint" };
        draft(&mut text, event, extension, &core, |members| write(members, self));
        self.seal(text.as_bytes(), out);
        self.draft = text;
    }

    /// The signature over the record that comes next.
    fn sign(&self, out: &mut super::Members<'_>, event: &str, time_ms: u64, every: Option<u64>) {
        let Some(signer) = &self.signer else { return };
        let mut occurred_at = String::with_capacity(24);
        super::push_time(&mut occurred_at, time_ms);
        let (seq, previous) = (self.seq.saturating_add(1), self.previous.as_ref());
        let text = signed_text(event, &self.id, seq, previous, &occurred_at, every);
        out.word("key_id", signer.key_id());
        out.word("signature", &signer.sign(text.as_bytes()));
    }
}
