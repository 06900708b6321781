//! Grants: who holds a token, for which servers, until when.
//!
//! Owns the meaning of grant files and the lookup of a token. Files hold only SHA-256 digests, so nobody who reads them
//! can call anything.

use std::{collections::BTreeMap, fmt, sync::Arc};

use sha2::Digest as _;
use subtle::ConstantTimeEq as _;

use crate::{
    decision::Reason,
    document::{Cursor, Defect, Fields, Format, Report, Site, quoted},
    principal::Principal,
    server::Reference,
    text::is_unsafe,
};

/// What every token starts with, so that secret scanners know one when they see it.
pub const TOKEN_PREFIX: &str = "mcpa_";

/// SHA-256 of a whole token text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Hashes a token.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        Self(sha2::Sha256::digest(token).into())
    }

    /// Reads 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        let mut bytes = [0u8; 32];
        for (slot, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *slot = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The 64 digits for a grant file.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut out, byte| {
            // Writing to a String cannot fail.
            if write!(out, "{byte:02x}").is_err() {
                debug_assert!(false, "a String takes every write");
            }
            out
        })
    }

    /// The first bytes as a number of `bits` bits.
    fn prefix(&self, bits: u32) -> usize {
        let [a, b, c, d, ..] = self.0;
        let word = u32::from_be_bytes([a, b, c, d]);
        let shift = 32u32.saturating_sub(bits);
        usize::try_from(word.checked_shr(shift).unwrap_or(0)).unwrap_or(0)
    }
}

/// Digests stay out of logs: whoever has one can test guesses.
impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(…)")
    }
}

/// What one token allows.
#[derive(Clone, Debug)]
pub struct Grant {
    principal: Principal,
    digest: TokenDigest,
    ordinal: usize,
    /// Sorted.
    servers: Vec<Arc<str>>,
    policy: Option<Arc<str>>,
    not_before_ms: u64,
    expires_ms: u64,
    revoked: bool,
}

/// Whether a grant can be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantState {
    /// It can.
    Active,
    /// `expires` has come.
    Expired,
    /// `not_before` has not come.
    NotYetValid,
    /// It was revoked.
    Revoked,
}

impl GrantState {
    /// The name for people: `active`, `expired`, `not yet valid`, `revoked`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            GrantState::Active => "active",
            GrantState::Expired => "expired",
            GrantState::NotYetValid => "not yet valid",
            GrantState::Revoked => "revoked",
        }
    }
}

impl Grant {
    /// Unique among all grants.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        &self.principal.grant
    }

    /// Who calls with this grant.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Position among all grants, from 0.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// The servers that may be called, sorted by name; never empty.
    #[must_use]
    pub fn servers(&self) -> &[Arc<str>] {
        &self.servers
    }

    /// Id of the policy, if the grant names one.
    #[must_use]
    pub fn policy(&self) -> Option<&Arc<str>> {
        self.policy.as_ref()
    }

    /// Unix milliseconds from which on the grant is refused; `None` for never.
    #[must_use]
    pub fn expires_ms(&self) -> Option<u64> {
        (self.expires_ms != u64::MAX).then_some(self.expires_ms)
    }

    /// Whether it can be used at that time, in Unix milliseconds.
    #[must_use]
    pub fn state(&self, now_ms: u64) -> GrantState {
        if self.revoked {
            GrantState::Revoked
        } else if now_ms >= self.expires_ms {
            GrantState::Expired
        } else if now_ms < self.not_before_ms {
            GrantState::NotYetValid
        } else {
            GrantState::Active
        }
    }

    /// Matches no server at no time; stands in where no grant was found, so that the same steps are taken.
    fn nobody() -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            principal: Principal { subject: Arc::clone(&empty), grant: empty, groups: Arc::default() },
            digest: TokenDigest([0; 32]),
            ordinal: usize::MAX,
            servers: Vec::new(),
            policy: None,
            not_before_ms: 0,
            expires_ms: 0,
            revoked: true,
        }
    }
}

/// Every grant of every file, found by token in time that does not grow with their number.
#[derive(Debug)]
pub struct Grants {
    /// Sorted by digest.
    grants: Vec<Grant>,
    /// Leading bits of a digest that select a bucket.
    bits: u32,
    /// Where each bucket starts in `grants`, and one more for the end of the last.
    starts: Vec<usize>,
    nobody: Grant,
}

impl Default for Grants {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Grants {
    fn new(mut grants: Vec<Grant>) -> Self {
        grants.sort_by_key(|grant| grant.digest);
        for (ordinal, grant) in grants.iter_mut().enumerate() {
            grant.ordinal = ordinal;
        }
        // About one grant a bucket: digests are spread evenly, whatever the tokens are.
        let bits = grants.len().checked_ilog2().unwrap_or(0).saturating_add(1).min(24);
        let buckets = 1usize.checked_shl(bits).unwrap_or(1);
        let starts =
            (0..=buckets).map(|bucket| grants.partition_point(|grant| grant.digest.prefix(bits) < bucket)).collect();
        Self { grants, bits, starts, nobody: Grant::nobody() }
    }

    /// Every grant, in an order that says nothing.
    pub fn iter(&self) -> std::slice::Iter<'_, Grant> {
        self.grants.iter()
    }

    /// How many grants there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// Finds the grant of a token and checks that it may call the server at `now_ms`, in Unix milliseconds.
    ///
    /// Known and unknown tokens take the same steps, so time tells nobody which tokens exist.
    ///
    /// # Errors
    /// [`Reason::TokenUnknown`], [`Reason::GrantRevoked`], [`Reason::GrantExpired`], [`Reason::GrantNotYetValid`] or
    /// [`Reason::GrantWrongServer`], the first of them that holds.
    pub fn resolve(&self, token: &[u8], server: &str, now_ms: u64) -> Result<&Grant, Reason> {
        let found = self.find(&TokenDigest::of(token));
        let grant = found.unwrap_or(&self.nobody);
        let state = grant.state(now_ms);
        let bound = grant.servers.binary_search_by(|name| name.as_ref().cmp(server)).is_ok();
        match (found.is_some(), state, bound) {
            (false, _, _) => Err(Reason::TokenUnknown),
            (true, GrantState::Revoked, _) => Err(Reason::GrantRevoked),
            (true, GrantState::Expired, _) => Err(Reason::GrantExpired),
            (true, GrantState::NotYetValid, _) => Err(Reason::GrantNotYetValid),
            (true, GrantState::Active, false) => Err(Reason::GrantWrongServer),
            (true, GrantState::Active, true) => Ok(grant),
        }
    }

    fn find(&self, digest: &TokenDigest) -> Option<&Grant> {
        let bucket = digest.prefix(self.bits);
        let start = self.starts.get(bucket).copied().unwrap_or(0);
        let end = self.starts.get(bucket.saturating_add(1)).copied().unwrap_or(start);
        // The whole bucket is compared, whether a match comes first, last or not at all.
        self.grants
            .get(start..end)
            .unwrap_or_default()
            .iter()
            .fold(None, |found, grant| if bool::from(grant.digest.0.ct_eq(&digest.0)) { Some(grant) } else { found })
    }
}

/// Reads grant files one after the other, and all of them to their ends.
#[derive(Debug, Default)]
pub struct GrantsReader {
    grants: Vec<Grant>,
    labels: BTreeMap<Arc<str>, Site>,
    digests: BTreeMap<TokenDigest, Arc<str>>,
    servers: Vec<Reference>,
    policies: Vec<Reference>,
    defects: Vec<Defect>,
    warnings: Vec<Defect>,
}

/// What grant files say. The grants are to be used only if there are no defects.
#[derive(Debug)]
pub struct GrantsFiles {
    /// The grants without defects.
    pub grants: Grants,
    /// Servers that grants name.
    pub servers: Vec<Reference>,
    /// Policies that grants name.
    pub policies: Vec<Reference>,
    /// Where each label stands.
    pub labels: BTreeMap<Arc<str>, Site>,
    /// What is wrong, file by file.
    pub defects: Vec<Defect>,
    /// What is legal and probably not meant.
    pub warnings: Vec<Defect>,
}

const KEYS: &[&str] =
    &["label", "sha256", "servers", "policy", "subject", "groups", "not_before", "expires", "revoked"];
/// Groups of one grant.
pub const GROUPS_MAX: usize = 16;
const LABEL_RULE: &str = "1 to 128 of A-Z, a-z, 0-9, `_`, `.`, `-`, `@`, `:`, `/`, `+`";

/// Whether a text may be the label of a grant.
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'@' | b':' | b'/' | b'+'))
}

/// Reads an RFC 3339 time to Unix milliseconds; one before 1970 counts as 1970.
#[must_use]
pub fn parse_time(text: &str) -> Option<u64> {
    // jiff takes more of ISO 8601 than RFC 3339 has, such as a comma, or hours without minutes.
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let rest = shape.strip_prefix("0000-00-00T00:00:00")?;
    let zone = rest.strip_prefix('.').map_or(rest, |fraction| fraction.trim_start_matches('0'));
    if rest.starts_with(".") && rest.get(1..).is_some_and(|fraction| !fraction.starts_with('0')) {
        return None;
    }
    if !matches!(zone, "Z" | "+00:00" | "-00:00") {
        return None;
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

impl GrantsReader {
    /// Reads one more file.
    pub fn add(&mut self, file: &str, bytes: &[u8], format: Format) {
        let report = Report::read(file, bytes, format);
        let items = report
            .root()
            .and_then(|root| root.fields(&["grants"]))
            .and_then(|fields| fields.required("grants"))
            .and_then(|list| list.items());
        for item in items.unwrap_or_default() {
            if let Some(grant) = item.fields(KEYS).and_then(|fields| self.grant(&fields)) {
                self.grants.push(grant);
            }
        }
        let (defects, warnings) = report.finish();
        self.defects.extend(defects);
        self.warnings.extend(warnings);
    }

    /// Ends the reading.
    #[must_use]
    pub fn finish(self) -> GrantsFiles {
        let Self { grants, labels, digests: _, servers, policies, defects, warnings } = self;
        GrantsFiles { grants: Grants::new(grants), servers, policies, labels, defects, warnings }
    }

    fn grant(&mut self, fields: &Fields<'_>) -> Option<Grant> {
        let label = fields.required("label").and_then(|value| self.label(&value));
        let digest = fields.required("sha256").and_then(|value| self.digest(&value, label.as_ref()));
        let servers = fields.required("servers").and_then(|value| self.servers(&value));
        let policy = fields.optional("policy").and_then(|value| {
            let name: Arc<str> = value.non_empty()?.into();
            self.policies.push(Reference { name: Arc::clone(&name), site: value.site() });
            Some(name)
        });
        let subject = fields.optional("subject").map(|value| subject(&value));
        let groups = fields.optional("groups").map_or_else(|| Some(Arc::default()), |value| read_groups(&value));
        let not_before = fields.optional("not_before").map(|value| time(&value));
        let expires = fields.optional("expires").map(|value| (time(&value), value));
        let revoked = fields.optional("revoked").map(|value| value.bool());
        if let (Some(Some(start)), Some((Some(end), value))) = (not_before, &expires)
            && start >= *end
        {
            value.defect("the grant expires before its `not_before`: it could never be used");
        }
        // A missing key has a default; a key with a defect has none, so it never widens a grant.
        let (label, expires) = (label?, expires.map(|(end, _)| end));
        Some(Grant {
            principal: Principal {
                subject: subject.unwrap_or_else(|| Some(format!("grant:{label}").into()))?,
                grant: label,
                groups: groups?,
            },
            digest: digest?,
            ordinal: 0,
            servers: servers?,
            policy,
            not_before_ms: not_before.unwrap_or(Some(0))?,
            expires_ms: expires.unwrap_or(Some(u64::MAX))?,
            revoked: revoked.unwrap_or(Some(false))?,
        })
    }

    fn label(&mut self, value: &Cursor<'_>) -> Option<Arc<str>> {
        let text = value.string()?;
        if !is_label(text) {
            value.defect(format!("{} is no label: {LABEL_RULE}", quoted(text)));
            return None;
        }
        let label: Arc<str> = text.into();
        if let Some(first) = self.labels.get(&label) {
            value.defect(format!("the label {} is taken by the grant at {}", quoted(text), first.file_and_line()));
            return None;
        }
        self.labels.insert(Arc::clone(&label), value.site());
        Some(label)
    }

    fn digest(&mut self, value: &Cursor<'_>, label: Option<&Arc<str>>) -> Option<TokenDigest> {
        let text = value.string()?;
        let Some(digest) = TokenDigest::parse(text) else {
            // The value is not repeated: it may be a token.
            if text.starts_with(TOKEN_PREFIX) {
                value.defect_with_hint(
                    "expected a SHA-256 digest, found a token",
                    "the token is exposed now: make another with `mcp-authz grant new`",
                );
            } else {
                value.defect_with_hint(
                    "expected a SHA-256 digest of 64 lower-case hexadecimal digits",
                    "`mcp-authz grant new` writes one",
                );
            }
            return None;
        };
        if let Some(first) = self.digests.get(&digest) {
            value.defect(format!("the grant {} has the same token", quoted(first)));
            return None;
        }
        self.digests.insert(digest, label.map_or_else(|| Arc::from("?"), Arc::clone));
        Some(digest)
    }

    fn servers(&mut self, value: &Cursor<'_>) -> Option<Vec<Arc<str>>> {
        let items = value.items()?;
        if items.is_empty() {
            value.defect("must not be empty: the grant could not be used");
        }
        let mut names: Vec<Arc<str>> = Vec::new();
        for item in items {
            let Some(name) = item.non_empty().map(Arc::<str>::from) else { continue };
            if names.contains(&name) {
                item.defect(format!("{} is listed twice", quoted(&name)));
                continue;
            }
            self.servers.push(Reference { name: Arc::clone(&name), site: item.site() });
            names.push(name);
        }
        names.sort_unstable();
        Some(names)
    }
}

/// Reads names of groups, by the rule of labels: at most [`GROUPS_MAX`], each once; gives them sorted.
pub(crate) fn read_groups(value: &Cursor<'_>) -> Option<Arc<[Arc<str>]>> {
    let items = value.items()?;
    if items.len() > GROUPS_MAX {
        value.defect(format!("has {} groups, more than {GROUPS_MAX}", items.len()));
        return None;
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut sound = true;
    for item in items {
        let Some(text) = item.string() else {
            sound = false;
            continue;
        };
        if !is_label(text) {
            item.defect(format!("{} is no group: {LABEL_RULE}", quoted(text)));
            sound = false;
        } else if names.iter().any(|name| **name == *text) {
            item.defect(format!("{} is listed twice", quoted(text)));
            sound = false;
        }
        names.push(text.into());
    }
    names.sort_unstable();
    sound.then(|| names.into())
}

fn subject(value: &Cursor<'_>) -> Option<Arc<str>> {
    let text = value.non_empty()?;
    if text.len() > 256 || text.trim() != text || text.chars().any(is_unsafe) {
        value.defect("is no subject: at most 256 bytes without control characters or spaces at its ends");
        return None;
    }
    Some(text.into())
}

fn time(value: &Cursor<'_>) -> Option<u64> {
    let text = value.string()?;
    let time = parse_time(text);
    if time.is_none() {
        value.defect_with_hint(
            format!("{} is no time", quoted(text)),
            "RFC 3339 with a zone, such as `2027-01-01T00:00:00Z`",
        );
    }
    time
}

#[cfg(test)]
mod tests;
