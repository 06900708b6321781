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
        let near = self.bytes.get(start..at).unwrap_or_default().to_ascii_lowercase();
        // What stands on another line, or behind the end of a sentence, belongs to something else.
        let near = near.rsplit(|b| matches!(b, b'\n' | b';')).next().unwrap_or_default();
        let name = self.name.as_bytes().to_ascii_lowercase();
        words.iter().any(|word| holds(near, word.as_bytes()) || holds(&name, word.as_bytes()))
    }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len().max(1)).any(|window| window == part)
}

/// Bytes that may be the mark of something: `@` and `%` of addresses, `:` of IPv6 and links, `J` of `eyJ`, `K` `S` `B` `C` of
/// `AKIA` and its kin, `z` of `AIza`, `_` `-` `.` of tokens, digits.
const fn is_stop(byte: u8) -> bool {
    matches!(
        byte,
        b'0'..=b'9' | b'@' | b'%' | b':' | b'J' | b'K' | b'S' | b'B' | b'C' | b'z' | b'_' | b'-' | b'.' | b'+' | b'/'
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

type Find = fn(&Text<'_>, usize) -> Option<Range<usize>>;

/// Looks around one stop; gives the place where the pass goes on.
fn stop(text: &Text<'_>, at: usize, wanted: Detectors, link_end: &mut usize, out: &mut Vec<Found>) -> usize {
    let finders: &[(Detector, Find)] = match text.at(at) {
        b'0'..=b'9' => &[
            (Detector::PaymentCard, number::card),
            (Detector::Iban, number::iban),
            (Detector::UsSsn, number::ssn),
            (Detector::IpAddress, contact::ipv4),
            (Detector::Phone, contact::national_phone),
        ],
        b'+' => &[(Detector::Phone, contact::international_phone)],
        b'@' | b'%' => &[(Detector::Email, contact::email)],
        b':' => &[(Detector::IpAddress, contact::ipv6)],
        b'/' => &[(Detector::SlackToken, token::slack_hook)],
        b'J' => &[(Detector::Jwt, token::jwt)],
        b'K' | b'S' | b'B' | b'C' => &[(Detector::AwsKey, token::aws_id), (Detector::GcpKey, token::gcp_secret)],
        b'z' => &[(Detector::GcpKey, token::gcp_key)],
        b'.' => &[(Detector::GcpKey, token::gcp_access)],
        b'_' => &[(Detector::GithubToken, token::github), (Detector::StripeKey, token::stripe)],
        b'-' => &[(Detector::PrivateKey, token::pem), (Detector::SlackToken, token::slack)],
        _ => &[],
    };
    if wanted.meets(Detectors::LINKS) && at >= *link_end {
        let link = match text.at(at) {
            b':' => link::with_scheme(text, at),
            b'/' => link::without_scheme(text, at),
            _ => None,
        };
        if let Some(range) = link {
            *link_end = range.end;
            out.push(Found { range, detector: None });
        }
    }
    for (detector, find) in finders.iter().filter(|(detector, _)| wanted.has(*detector)) {
        if let Some(range) = find(text, at) {
            let end = range.end;
            out.push(Found { range, detector: Some(*detector) });
            return end.max(at.saturating_add(1));
        }
    }
    let next = at.saturating_add(1);
    // The rest of a run of digits starts no number of its own.
    if text.at(at).is_ascii_digit() { text.run(next, usize::MAX, |b| b.is_ascii_digit()) } else { next }
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
