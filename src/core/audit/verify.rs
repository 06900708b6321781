//! Whether lines are the records that were written: all of them, unchanged, in order. In bounded memory.
//!
//! What can be told without a key: that a record was changed, moved, repeated or taken out, by anybody who did not make all that
//! follow anew. With the public key: also that, as far as a signature reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::chain::{CHECKPOINT, END, EVERY, GAP, Hash, START, signed_text};
use super::line::{Place, is_claimed, place, word};

/// Chains that are known at a time: as many processes as may have written into one input at the same time.
pub const CHAINS_MAX: usize = 1_024;
/// Chains of one input, of which the names are remembered: one that comes again is a copy.
pub const CHAINS_SEEN_MAX: usize = 1_000_000;
/// Times that go back by no more are those of threads that decide side by side, ms.
const BACK_MS: i64 = 1_000;

/// Checks signatures.
pub trait Checker {
    /// Names the key.
    fn key_id(&self) -> &str;
    /// Whether the signature, as base64, is of this text.
    fn is_of(&self, text: &[u8], signature: &str) -> bool;
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A record of a chain after its end.
    AfterEnd(At),
    /// A record that is not here although it has to be.
    Anchor(Hash),
    /// The record is not what its hash says.
    Changed(At),
    /// A line begins like a record and is none.
    Damaged,
    /// More chains than are kept apart.
    ManyChains,
    /// So many records before this one are not here.
    Missing(At, u64),
    /// A record again, or in a place where it does not belong.
    Moved(At),
    /// The same record twice in a row.
    Repeated(At),
    /// A signature that is not of this record, or of no known key.
    Signature(At),
    /// There must be a checkpoint before it, and none is.
    Uncovered(At),
    /// The record before it, by its hash, is not the one that is here.
    Unlinked(At),
    /// A checkpoint without a signature, where there must be one.
    Unsigned(At),
}

/// The place of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// Name of the chain.
    pub chain: Box<str>,
    /// Number in it.
    pub seq: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of chain {}", self.seq, self.chain)
    }
}

impl Finding {
    /// The kind, for machines.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Finding::AfterEnd(_) => "after_end",
            Finding::Anchor(_) => "anchor",
            Finding::Changed(_) => "changed",
            Finding::Damaged => "damaged",
            Finding::ManyChains => "many_chains",
            Finding::Missing(..) => "missing",
            Finding::Moved(_) => "moved",
            Finding::Repeated(_) => "repeated",
            Finding::Signature(_) => "signature",
            Finding::Uncovered(_) => "uncovered",
            Finding::Unlinked(_) => "unlinked",
            Finding::Unsigned(_) => "unsigned",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::AfterEnd(at) => write!(f, "{at} stands after the end of its chain"),
            Finding::Anchor(hash) => write!(f, "the record with the hash {hash:?} is not here"),
            Finding::Changed(at) => write!(f, "{at} was changed: its hash is another"),
            Finding::Damaged => f.write_str("a line begins like a record and is none: it was changed or cut"),
            Finding::ManyChains => {
                write!(
                    f,
                    "more than {CHAINS_MAX} chains at a time or {CHAINS_SEEN_MAX} in all: verify fewer files at once"
                )
            }
            Finding::Missing(at, 1) => write!(f, "one record is missing before {at}"),
            Finding::Missing(at, n) => write!(f, "{n} records are missing before {at}"),
            Finding::Moved(at) => write!(f, "{at} is out of order, or here again"),
            Finding::Repeated(at) => write!(f, "{at} is here twice"),
            Finding::Signature(at) => write!(f, "the signature of {at} is not of this key and this place"),
            Finding::Uncovered(at) => {
                write!(
                    f,
                    "{at} has no checkpoint before it where one must be: the signatures from there on were taken out"
                )
            }
            Finding::Unlinked(at) => write!(f, "{at} follows another record than the one before it"),
            Finding::Unsigned(at) => write!(f, "{at} is a checkpoint without a signature"),
        }
    }
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lines that are records.
    pub records: u64,
    /// Lines that are not ours.
    pub foreign: u64,
    /// Chains.
    pub chains: u64,
    /// Chains that begin in the middle, which is so where older files are kept elsewhere.
    pub headless: u64,
    /// Chains without an end that no other continues: their process runs still, or was killed, or the end was cut off.
    pub open: u64,
    /// Records that could not be kept, as the chains tell.
    pub lost: u64,
    /// Lines that broke off and were written again, or were the last of a process.
    pub torn: u64,
    /// Times that went back.
    pub clock_back: u64,
    /// Signatures that were checked and are good.
    pub signatures: u64,
    /// Records that no good signature reaches.
    pub unsigned: u64,
    /// The last record.
    pub last: Option<(At, Hash)>,
    /// Things that must not be.
    pub findings: u64,
}

/// How strict to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Chains may begin in the middle at any place: the input is an excerpt of several processes.
    pub is_excerpt: bool,
    /// Hashes of records that have to be here.
    pub anchors: Vec<Hash>,
}

#[derive(Debug)]
struct State {
    next: u64,
    last: Hash,
    time: Box<str>,
    ended: bool,
    /// Records since the last good signature.
    unsigned: u64,
    /// As many as that may be, as the start of the chain says under its signature.
    unsigned_max: Option<u64>,
}

/// Takes line after line; see the module.
pub struct Verifier<'k> {
    keys: Vec<&'k dyn Checker>,
    options: Options,
    chains: BTreeMap<Box<str>, State>,
    /// The names of all chains that began.
    names: BTreeSet<u128>,
    /// A line that is none, until the next one tells whether a crash explains it.
    broken: bool,
    seen: Summary,
}

impl fmt::Debug for Verifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl<'k> Verifier<'k> {
    /// Without keys signatures are not looked at; with some, each checkpoint has to have a good one.
    #[must_use]
    pub fn new(keys: Vec<&'k dyn Checker>, options: Options) -> Self {
        Self { keys, options, chains: BTreeMap::new(), names: BTreeSet::new(), broken: false, seen: Summary::default() }
    }

    /// Takes a line without its line feed, and says what is wrong with it, or with the one before it.
    pub fn line(&mut self, line: &[u8], say: &mut dyn FnMut(Finding)) {
        let mut found = Vec::new();
        if is_claimed(line) {
            match place(line) {
                Some(place) => self.record(line, &place, &mut found),
                None if self.broken => found.push(Finding::Damaged),
                None => self.broken = true,
            }
        } else if !line.is_empty() {
            self.seen.foreign = self.seen.foreign.saturating_add(1);
        }
        self.tell(found, say);
    }

    /// The end of the input.
    #[must_use]
    pub fn finish(mut self, say: &mut dyn FnMut(Finding)) -> Summary {
        let mut found = Vec::new();
        if self.broken {
            found.push(Finding::Damaged);
        }
        found.extend(std::mem::take(&mut self.options.anchors).into_iter().map(Finding::Anchor));
        self.tell(found, say);
        for state in self.chains.values() {
            self.seen.open = self.seen.open.saturating_add(u64::from(!state.ended));
            self.seen.unsigned = self.seen.unsigned.saturating_add(state.unsigned);
        }
        self.seen
    }

    fn tell(&mut self, found: Vec<Finding>, say: &mut dyn FnMut(Finding)) {
        for finding in found {
            self.seen.findings = self.seen.findings.saturating_add(1);
            say(finding);
        }
    }

    fn record(&mut self, line: &[u8], place: &Place<'_>, found: &mut Vec<Finding>) {
        let at = At { chain: place.chain.into(), seq: place.seq };
        self.seen.records = self.seen.records.saturating_add(1);
        let is_whole = place.is_whole();
        if !is_whole {
            found.push(Finding::Changed(at.clone()));
        }
        self.options.anchors.retain(|anchor| !is_whole || *anchor != place.hash);
        let before = found.len();
        let Some(is_next) = self.take_place(place, &at, found) else { return };
        // A line that broke off is no loss where the next one follows what stood before it.
        if std::mem::take(&mut self.broken) {
            if is_next && found.len() == before {
                self.seen.torn = self.seen.torn.saturating_add(1);
            } else {
                found.push(Finding::Damaged);
            }
        }
        if place.event == GAP {
            let lost = word(line, "lost").and_then(|lost| lost.parse().ok()).unwrap_or(0);
            self.seen.lost = self.seen.lost.saturating_add(lost);
        }
        if matches!(place.event, START | CHECKPOINT | END) && is_whole {
            self.signature(line, place, &at, found);
        }
        // Told once, where it begins.
        let state = self.chains.get(place.chain).filter(|_| found.is_empty());
        if state.is_some_and(|state| state.unsigned_max.is_some_and(|max| state.unsigned == max.saturating_add(1))) {
            found.push(Finding::Uncovered(at.clone()));
        }
        self.seen.last = Some((at, place.hash));
    }

    /// Puts a record behind those of its chain. Says whether it follows the one that was last; `None` if it has no place.
    fn take_place(&mut self, place: &Place<'_>, at: &At, found: &mut Vec<Finding>) -> Option<bool> {
        if !self.chains.contains_key(place.chain) {
            return self.begin(place, at, found);
        }
        let state = self.chains.get_mut(place.chain)?;
        if place.seq < state.next {
            let again = place.seq.checked_add(1) == Some(state.next) && place.hash == state.last;
            found.push(if again { Finding::Repeated(at.clone()) } else { Finding::Moved(at.clone()) });
            return None;
        }
        if state.ended {
            found.push(Finding::AfterEnd(at.clone()));
        }
        let missing = place.seq.saturating_sub(state.next);
        if missing > 0 {
            found.push(Finding::Missing(at.clone(), missing));
        } else if place.previous != Some(state.last) {
            found.push(Finding::Unlinked(at.clone()));
        }
        if place.occurred_at < &*state.time && is_back(place.occurred_at, &state.time) {
            self.seen.clock_back = self.seen.clock_back.saturating_add(1);
        }
        state.next = place.seq.saturating_add(1);
        state.last = place.hash;
        state.time = place.occurred_at.into();
        state.ended = place.event == END;
        state.unsigned = state.unsigned.saturating_add(1);
        Some(missing == 0)
    }

    fn begin(&mut self, place: &Place<'_>, at: &At, found: &mut Vec<Finding>) -> Option<bool> {
        if self.names.len() >= CHAINS_SEEN_MAX {
            found.push(Finding::ManyChains);
            return None;
        }
        if !u128::from_str_radix(place.chain, 16).is_ok_and(|name| self.names.insert(name)) {
            // One that another continued, or a copy of it.
            found.push(Finding::Moved(at.clone()));
            return None;
        }
        let is_first = self.seen.chains == 0;
        self.seen.chains = self.seen.chains.saturating_add(1);
        let before = place.previous.and_then(|previous| {
            self.chains.iter().find(|(_, state)| state.last == previous).map(|(name, _)| name.clone())
        });
        let mut unsigned = 1;
        if let (START, Some(name)) = (place.event, &before) {
            // What a signature of this chain covers, it covers of that one, too.
            unsigned = self.chains.remove(name).map_or(1, |state| state.unsigned.saturating_add(1));
        } else if place.event == START && place.seq == 1 && place.previous.is_none() {
        } else if is_first || self.options.is_excerpt {
            self.seen.headless = self.seen.headless.saturating_add(1);
        } else if place.event == START && place.seq == 1 {
            found.push(Finding::Unlinked(at.clone()));
        } else {
            found.push(Finding::Missing(at.clone(), place.seq.saturating_sub(1)));
        }
        if self.chains.len() >= CHAINS_MAX {
            let ended = self.chains.iter().find(|(_, state)| state.ended).map(|(name, _)| name.clone());
            let Some(ended) = ended else {
                found.push(Finding::ManyChains);
                return None;
            };
            let state = self.chains.remove(&ended);
            self.seen.unsigned = self.seen.unsigned.saturating_add(state.map_or(0, |state| state.unsigned));
        }
        let (next, time) = (place.seq.saturating_add(1), place.occurred_at.into());
        let ended = place.event == END;
        let state = State { next, last: place.hash, time, ended, unsigned, unsigned_max: None };
        self.chains.insert(place.chain.into(), state);
        Some(before.is_some())
    }

    fn signature(&mut self, line: &[u8], place: &Place<'_>, at: &At, found: &mut Vec<Finding>) {
        if self.keys.is_empty() {
            return;
        }
        let (Some(signature), Some(key_id)) = (word(line, "signature"), word(line, "key_id")) else {
            return found.push(Finding::Unsigned(at.clone()));
        };
        let every = word(line, EVERY).filter(|_| place.event == START).and_then(|every| every.parse::<u64>().ok());
        let text = signed_text(place.event, place.chain, place.seq, place.previous.as_ref(), place.occurred_at, every);
        let key = self.keys.iter().find(|key| key.key_id() == key_id);
        if !key.is_some_and(|key| key.is_of(text.as_bytes(), signature)) {
            return found.push(Finding::Signature(at.clone()));
        }
        self.seen.signatures = self.seen.signatures.saturating_add(1);
        if let Some(state) = self.chains.get_mut(place.chain) {
            state.unsigned = 0;
            if place.event == START {
                state.unsigned_max = every;
            }
        }
    }
}

fn is_back(time: &str, before: &str) -> bool {
    let ms = |text: &str| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
    match (ms(time), ms(before)) {
        (Some(time), Some(before)) => before.saturating_sub(time) > BACK_MS,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
