//! The built-in detectors: one pass over a text stops only at bytes around which something could stand, and verifies there.
//!
//! Each detector verifies all that can be verified without asking anybody (lengths, check digits, ranges, decoding), because
//! what is masked by mistake is lost for the agent, and what is missed leaks. A detector looks at most a few hundred bytes around a
//! candidate, and what it found is skipped, so that the time is linear in the text.

use std::ops::Range;

use super::rule::{Detector, Detectors};

mod contact;
mod link;
mod number;
mod random;
mod token;

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) range: Range<usize>,
    /// `None` for a link.
    pub(crate) detector: Option<Detector>,
}

/// Bytes of the name of a member that are looked at.
const NAME_MAX: usize = 128;

/// A text under inspection. A position outside it reads as NUL, which is part of nothing.
#[derive(Clone, Copy, Debug)]
struct Text<'t> {
    text: &'t str,
    bytes: &'t [u8],
    /// The name of the member that holds the text: `"client_secret": "…"`.
    name: &'t str,
}

impl Text<'_> {
    fn at(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// The byte before the position, at that distance.
    fn before(&self, at: usize, distance: usize) -> u8 {
        at.checked_sub(distance).map_or(0, |at| self.at(at))
    }

    fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or_default()
    }

    fn starts_with(&self, at: usize, part: &[u8]) -> bool {
        self.bytes.get(at..).is_some_and(|rest| rest.starts_with(part))
    }

    fn ends_with(&self, end: usize, part: &[u8]) -> bool {
        self.bytes.get(..end).is_some_and(|text| text.ends_with(part))
    }

    /// The end of the run of such bytes from the position, looking at most that far.
    fn run(&self, at: usize, max: usize, is_part: impl Fn(u8) -> bool) -> usize {
        let rest = self.bytes.get(at..).unwrap_or_default();
        at.saturating_add(rest.iter().take(max).take_while(|b| is_part(**b)).count())
    }

    /// The start of the run of such bytes up to the position.
    fn run_back(&self, at: usize, max: usize, is_part: impl Fn(u8) -> bool) -> usize {
        let text = self.bytes.get(..at).unwrap_or_default();
        at.saturating_sub(text.iter().rev().take(max).take_while(|b| is_part(**b)).count())
    }

    /// Whether the name of the member, or what stands shortly before the position, holds one of the words (in lower case).
    fn context(&self, at: usize, words: &[&str]) -> bool {
        const BYTES: usize = 48;
        let start = at.saturating_sub(BYTES);
        let near = self.bytes.get(start..at).unwrap_or_default();
        // What stands on another line, or behind the end of a sentence, belongs to something else.
        let near = near.rsplit(|b| matches!(b, b'\n' | b';')).next().unwrap_or_default();
        // A name without end would be read once for each candidate.
        let name = self.name.as_bytes();
        holds_word(near, words) || holds_word(name.get(..NAME_MAX).unwrap_or(name), words)
    }
}

/// Whether one of the words, which are in lower case, stands in the text in any case.
fn holds_word(text: &[u8], words: &[&str]) -> bool {
    let starts = |rest: &[u8], word: &str| {
        rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
    };
    (0..text.len()).any(|at| {
        let rest = text.get(at..).unwrap_or_default();
        let first = rest.first().map(u8::to_ascii_lowercase);
        words.iter().any(|word| word.as_bytes().first() == first.as_ref() && starts(rest, word))
    })
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len().max(1)).any(|window| window == part)
}

/// Bytes that may be the mark of something: digits, `@` and `%` of addresses, `:` and `/` of links and IPv6, `+` of phones, `J` of
/// `eyJ`, `K` `S` `B` `C` of `AKIA` and its kin, `z` of `AIza`, `x` of `xoxb`, `G` of `-----BEGIN`, `_` of other tokens.
const fn is_stop(byte: u8) -> bool {
    matches!(
        byte,
        b'0'..=b'9' | b'@' | b'%' | b':' | b'/' | b'+' | b'J' | b'K' | b'S' | b'B' | b'C' | b'z' | b'x' | b'G' | b'_'
    )
}

/// Finds everything of the wanted kinds, in no order. `name` is the name of the member that holds the text. Stops after
/// `count_max`: the caller gives the text up.
pub(crate) fn scan(text: &str, name: &str, wanted: Detectors, count_max: usize, out: &mut Vec<Found>) {
    let text = Text { text, bytes: text.as_bytes(), name };
    let (mut at, mut link_end) = (0usize, 0usize);
    if wanted != Detectors::of(Detector::HighEntropy) {
        while let Some(ahead) = text.bytes.get(at..).and_then(|rest| rest.iter().position(|b| is_stop(*b))) {
            at = at.saturating_add(ahead);
            if out.len() > count_max {
                return;
            }
            at = stop(&text, at, wanted, &mut link_end, out);
        }
    }
    if wanted.has(Detector::HighEntropy) {
        random::find(&text, count_max, out);
    }
}

/// What stands at one stop, with the detector that found it.
type Hit = Option<(Detector, Range<usize>)>;
/// Verifies what may stand at a position.
type Find = fn(&Text<'_>, usize) -> Option<Range<usize>>;

/// Looks around one stop; gives the place where the pass goes on. The conditions are what is cheap to ask; the rest is asked where
/// they hold.
fn stop(text: &Text<'_>, at: usize, wanted: Detectors, link_end: &mut usize, out: &mut Vec<Found>) -> usize {
    let next = at.saturating_add(1);
    let (byte, before, after) = (text.at(at), text.before(at, 1), text.at(next));
    let run_end = if byte.is_ascii_digit() { text.run(next, usize::MAX, |b| b.is_ascii_digit()) } else { next };
    let one = |detector: Detector, find: Find| -> Hit {
        if wanted.has(detector) { find(text, at).map(|range| (detector, range)) } else { None }
    };
    let hit = match byte {
        b'0'..=b'9' => digits(text, at, run_end, &one),
        b'+' if after.is_ascii_digit() => one(Detector::Phone, contact::international_phone),
        b'@' => one(Detector::Email, contact::email),
        b'%' if after == b'4' => one(Detector::Email, contact::email),
        b':' if after == b':' || (before.is_ascii_hexdigit() && after.is_ascii_hexdigit()) => {
            one(Detector::IpAddress, contact::ipv6)
        }
        b'/' if after == b's' => one(Detector::SlackToken, token::slack_hook),
        b'J' if before == b'y' => one(Detector::Jwt, token::jwt),
        b'K' | b'S' | b'B' | b'C' if before == b'A' => one(Detector::AwsKey, token::aws_id),
        b'S' if before == b'C' => one(Detector::GcpKey, token::gcp_secret),
        b'z' if before == b'I' => one(Detector::GcpKey, token::gcp_key),
        b'x' if matches!(after, b'o' | b'a') => one(Detector::SlackToken, token::slack),
        b'G' if before == b'E' => one(Detector::PrivateKey, token::pem),
        b'_' => match before {
            b'p' | b'o' | b'u' | b's' | b'r' | b'b' => one(Detector::GithubToken, token::github),
            b'k' | b'c' => one(Detector::StripeKey, token::stripe),
            _ => None,
        },
        _ => None,
    };
    if matches!(after, b'/' | b'\\') && matches!(byte, b':' | b'/') && at >= *link_end && wanted.meets(Detectors::LINKS)
    {
        let link = if byte == b':' { link::with_scheme(text, at) } else { link::without_scheme(text, at) };
        if let Some(range) = link {
            *link_end = range.end;
            out.push(Found { range, detector: None });
        }
    }
    // The rest of a run of digits starts no number of its own.
    let Some((detector, range)) = hit else { return run_end };
    let end = range.end.max(next);
    out.push(Found { range, detector: Some(detector) });
    end
}

/// What a run of digits may be the start of, by its length and its neighbors.
fn digits(text: &Text<'_>, at: usize, end: usize, one: &dyn Fn(Detector, Find) -> Hit) -> Hit {
    let (before, after) = (text.before(at, 1), text.at(end));
    let separated = matches!(after, b'-' | b' ' | b'.') && text.at(end.saturating_add(1)).is_ascii_digit();
    let length = end.saturating_sub(at);
    let mut hit = None;
    if (12..=19).contains(&length) || (separated && matches!(length, 4 | 6)) {
        hit = one(Detector::PaymentCard, number::card);
    }
    if hit.is_none() && before.is_ascii_alphabetic() && length >= 2 {
        hit = one(Detector::Iban, number::iban);
        if hit.is_none() && length == 2 && after == b'.' && before == b'a' {
            hit = one(Detector::GcpKey, token::gcp_access);
        }
    }
    if hit.is_none() && ((separated && length == 3) || length == 9) {
        hit = one(Detector::UsSsn, number::ssn);
    }
    if hit.is_none() && separated && after == b'.' && length <= 3 {
        hit = one(Detector::IpAddress, contact::ipv4);
    }
    if hit.is_none() && matches!(length, 1 | 3) && matches!(after, b'-' | b'.' | b' ' | b')') {
        hit = one(Detector::Phone, contact::national_phone);
    }
    hit
}

/// The host of a link, in lower case: `None` for one that cannot be read, which no list allows.
pub(crate) fn host(link: &str) -> Option<String> {
    link::host(link)
}

/// A range whose ends may lie in the middle of characters, made smaller until they do not.
fn whole(text: &Text<'_>, mut range: Range<usize>) -> Range<usize> {
    while range.start < range.end && !text.text.is_char_boundary(range.start) {
        range.start = range.start.saturating_add(1);
    }
    while range.end > range.start && !text.text.is_char_boundary(range.end) {
        range.end = range.end.saturating_sub(1);
    }
    range
}

#[cfg(test)]
mod tests;
