//! The place of a line in its chain, read from the line as it stands.

use super::chain::{HASH_DIGITS, HASH_END, Hash, ID_DIGITS, LINE_START};

/// What a line says of its place. Borrowed from the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The hash that it claims.
    pub hash: Hash,
    /// Name of its chain.
    pub chain: &'a str,
    /// Its number in it.
    pub seq: u64,
    /// The type of its event.
    pub event: &'a str,
    /// When, RFC 3339.
    pub occurred_at: &'a str,
    /// The hash of the record before it.
    pub previous: Option<Hash>,
    /// What its hash is computed of.
    body: &'a [u8],
}

impl Place<'_> {
    /// Whether the line is what its hash says.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        Hash::of_body(self.body) == self.hash
    }
}

/// Whether a line claims to be a record.
#[must_use]
pub fn is_claimed(line: &[u8]) -> bool {
    line.starts_with(LINE_START.as_bytes())
}

/// Reads the place of a line without its line feed; `None` if it is not written as a record is. Nothing is parsed that the place
/// does not need: no string of a record holds an unescaped quote, so its members are found by their names.
#[must_use]
pub fn place(line: &[u8]) -> Option<Place<'_>> {
    let mut rest = Rest(line.strip_prefix(LINE_START.as_bytes())?);
    let hash = Hash::parse(rest.take(HASH_DIGITS)?)?;
    rest.expect(HASH_END)?;
    let body = rest.0;
    rest.expect("\"event_id\":\"")?;
    let id = rest.until(b'"')?;
    rest.expect(",\"event_type\":\"")?;
    let event = text(rest.until(b'"')?)?;
    rest.expect(",\"extensions\":{\"io.mcp-authz/chain\":{\"id\":\"")?;
    let chain = text(rest.take(ID_DIGITS)?).filter(|id| id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))?;
    rest.expect("\",\"seq\":\"")?;
    let digits = text(rest.until(b'"')?)?;
    let seq: u64 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()?;
    if text(id)?.split_once('-') != Some((chain, digits)) || (digits.starts_with('0')) {
        return None;
    }
    // From the end, since what stands before it is long.
    let link = rest.0;
    let name = b"\"previous_hash\":";
    let at = rfind(link, name)?;
    let (before, mut after) = (link.get(..at)?, Rest(link.get(at.checked_add(name.len())?..)?));
    let previous = if after.expect("null").is_some() {
        None
    } else {
        after.expect("\"")?;
        let hash = Hash::parse(after.take(HASH_DIGITS)?)?;
        after.expect("\"")?;
        Some(hash)
    };
    after.expect(",\"principal_id\":\"")?;
    if !line.ends_with(b"}") {
        return None;
    }
    let key = b"\"occurred_at\":\"";
    let at = rfind(before, key)?;
    let occurred_at = text(Rest(before.get(at.checked_add(key.len())?..)?).until(b'"')?)?;
    Some(Place { hash, chain, seq, event, occurred_at, previous, body })
}

/// The text of a member of our own words, wherever it stands in the line.
pub(super) fn word<'a>(line: &'a [u8], name: &str) -> Option<&'a str> {
    let key = format!("\"{name}\":\"");
    let at = rfind(line, key.as_bytes())?;
    text(Rest(line.get(at.checked_add(key.len())?..)?).until(b'"')?)
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn rfind(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let first = what.first()?;
    let mut end = bytes.len();
    while let Some(at) = bytes.get(..end)?.iter().rposition(|byte| byte == first) {
        if bytes.get(at..).is_some_and(|rest| rest.starts_with(what)) {
            return Some(at);
        }
        end = at;
    }
    None
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn expect(&mut self, what: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(what.as_bytes())?;
        Some(())
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// What stands before the next such byte, which is passed over.
    fn until(&mut self, byte: u8) -> Option<&'a [u8]> {
        let at = self.0.iter().position(|b| *b == byte)?;
        let taken = self.take(at)?;
        self.take(1)?;
        Some(taken)
    }
}
