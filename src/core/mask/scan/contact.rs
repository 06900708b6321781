//! Addresses at which somebody can be reached: e-mail, phone, IP.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::{Text, whole};

/// Bytes before the `@` that are looked at (RFC 5321 allows 64; what is longer is masked as far as this).
const LOCAL_MAX: usize = 128;
/// Bytes of a domain.
const DOMAIN_MAX: usize = 255;

const fn is_local(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'.' | b'_' | b'%' | b'+' | b'-' | b'&' | b'~' | b'!' | b'#' | b'$' | b'*' | b'^')
        || b >= 0x80
}

/// An address around the `@` at the position, or around the `%40` of one in a link.
pub(super) fn email(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let width = match text.at(at) {
        b'@' => 1,
        _ if text.starts_with(at, b"%40") => 3,
        _ => return None,
    };
    let mut start = local_start(text, at);
    // An apostrophe is part of a name only between letters: what stands in quotes is not.
    while text.before(start, 1) == b'\'' && text.before(start, 2).is_ascii_alphanumeric() && start < at {
        start = local_start(text, start.saturating_sub(1));
    }
    while start < at && !is_first(text.at(start)) {
        start = start.saturating_add(1);
    }
    if start == at || text.before(at, 1) == b'.' {
        return None;
    }
    let domain = at.saturating_add(width);
    let end = domain_end(text, domain)?;
    // `logo@2x.png` is a picture, `git@host:path` a repository.
    let label = text.slice(domain..end).split('.').next().unwrap_or_default();
    let is_scale = label.strip_suffix('x').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let is_repository = text.slice(start..at) == "git" && matches!(text.at(end), b':' | b'/');
    (!is_scale && !is_repository).then(|| whole(text, start..end))
}

fn local_start(text: &Text<'_>, at: usize) -> usize {
    text.run_back(at, LOCAL_MAX, is_local)
}

const fn is_first(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

/// The end of a domain name with at least two labels, the last one of letters, whatever number stands behind it.
fn domain_end(text: &Text<'_>, start: usize) -> Option<usize> {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.') || b >= 0x80;
    let mut end = text.run(start, DOMAIN_MAX, is_part);
    while end > start && matches!(text.before(end, 1), b'.' | b'-') {
        end = end.saturating_sub(1);
    }
    let mut domain = text.slice(whole(text, start..end));
    if domain.split('.').next().is_none_or(|label| label.is_empty() || label.starts_with('-')) {
        return None;
    }
    loop {
        let (rest, last) = domain.rsplit_once('.')?;
        let is_word = last.len() >= 2 && last.bytes().all(|b| b.is_ascii_alphabetic() || b >= 0x80);
        if !rest.is_empty() && (is_word || last.starts_with("xn--")) && !rest.ends_with('.') {
            return Some(start.saturating_add(domain.len()));
        }
        // `bob@example.com4111…`: no name of a domain, and an address once a mask takes the number away.
        let word = last.len().saturating_sub(last.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len());
        if word >= 2
            && !rest.is_empty()
            && !rest.ends_with('.')
            && last.as_bytes().get(word).is_some_and(u8::is_ascii_digit)
        {
            let cut = last.len().saturating_sub(word);
            return Some(start.saturating_add(domain.len().saturating_sub(cut)));
        }
        // `bob@example.com.5 more`: the address ends earlier.
        domain = rest;
    }
}

/// An IPv4 address at the start of a run of digits.
pub(super) fn ipv4(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let before = text.before(at, 1);
    if before.is_ascii_alphanumeric()
        || (before == b'.' && text.before(at, 2).is_ascii_alphanumeric())
        || before == b'_'
    {
        return None;
    }
    let end = text.run(at, 16, |b| b.is_ascii_digit() || b == b'.');
    let end = if text.before(end, 1) == b'.' { end.saturating_sub(1) } else { end };
    let after = text.at(end);
    if after.is_ascii_alphanumeric()
        || after == b'_'
        || (after == b'-' && text.at(end.saturating_add(1)).is_ascii_alphabetic())
    {
        return None;
    }
    let address: Ipv4Addr = text.slice(at..end).parse().ok()?;
    (!is_version(text, at, address)).then_some(at..end)
}

/// Versions of four numbers: `Chrome/120.0.0.0`, `version 1.2.3.4`.
fn is_version(text: &Text<'_>, at: usize, address: Ipv4Addr) -> bool {
    let of_product = text.before(at, 1) == b'/' && text.before(at, 2).is_ascii_alphabetic();
    let [_, _, c, d] = address.octets();
    if of_product && c == 0 && d == 0 {
        return true;
    }
    let near = text.bytes.get(at.saturating_sub(10)..at).unwrap_or_default().to_ascii_lowercase();
    let near = near.trim_ascii_end();
    [&b"version"[..], b"version:", b"version=", b"ver.", b"version\":", b"version\": \""]
        .iter()
        .any(|word| near.ends_with(word))
}

/// An IPv6 address around the first colon of a run of hexadecimal digits and colons.
pub(super) fn ipv6(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    const LENGTH_MAX: usize = 46;
    let is_part = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
    let start = text.run_back(at, LENGTH_MAX, |b| b.is_ascii_hexdigit());
    let before = text.before(start, 1);
    // Only the first colon of the run is looked at: the others belong to the same address or to none.
    if before.is_ascii_alphanumeric() || matches!(before, b':' | b'.' | b'_') || before >= 0x80 && start == at {
        return None;
    }
    let mut end = text.run(at, LENGTH_MAX, is_part);
    while end > at && matches!(text.before(end, 1), b'.') {
        end = end.saturating_sub(1);
    }
    if text.before(end, 1) == b':' && text.before(end, 2) != b':' {
        end = end.saturating_sub(1);
    }
    let word = text.slice(start..end);
    if text.at(end).is_ascii_alphanumeric() || text.at(end) == b'_' || !word.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    // Eight pairs are the name of a device, not of a host.
    let is_device = word.len() == 23 && word.split(':').all(|group| group.len() == 2);
    let parsed: Ipv6Addr = word.parse().ok()?;
    (!is_device && !parsed.is_unspecified()).then_some(start..end)
}

/// Country calling codes (ITU-T E.164), by their first digits.
fn calling_code(digits: &[u8]) -> Option<usize> {
    let [a, b, c, ..] = *digits else { return None };
    match (a, b, c) {
        (1 | 7, ..) => Some(1),
        (2, 0 | 7, _)
        | (3, 0..=4 | 6 | 9, _)
        | (4, 0 | 1 | 3..=9, _)
        | (5, 1..=8, _)
        | (6, 0..=6, _)
        | (8, 1 | 2 | 4 | 6, _)
        | (9, 0..=5 | 8, _) => Some(2),
        (2, 1..=6 | 8 | 9, _)
        | (3, 5 | 7 | 8, _)
        | (4, 2, _)
        | (5, 0 | 9, _)
        | (6, 7..=9, _)
        | (8, 0 | 5 | 7 | 8, _)
        | (9, 6 | 7 | 9, _) => Some(3),
        _ => None,
    }
}

/// `+`, a calling code and the rest, with single separators and parentheses (ITU-T E.164, E.123).
pub(super) fn international_phone(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let before = text.before(at, 1);
    if before.is_ascii_alphanumeric()
        || matches!(before, b'+' | b'/' | b'=') && text.before(at, 2).is_ascii_alphanumeric()
    {
        return None;
    }
    let (mut digits, mut count, mut separators) = ([0u8; 15], 0usize, 0usize);
    let (mut end, mut next) = (at, at.saturating_add(1));
    loop {
        match text.at(next) {
            digit @ b'0'..=b'9' => {
                *digits.get_mut(count)? = digit.wrapping_sub(b'0');
                count = count.saturating_add(1);
                end = next.saturating_add(1);
            }
            b' ' | b'-' | b'.' | b'(' | b')' | b'/' if count > 0 && next.saturating_sub(end) < 2 => {
                separators = separators.saturating_add(1);
            }
            _ => break,
        }
        next = next.saturating_add(1);
    }
    calling_code(digits.get(..count)?)?;
    let fewest =
        if separators == 0 || text.slice(at..end).bytes().skip(1).all(|b| b.is_ascii_digit()) { 10 } else { 8 };
    (count >= fewest && !text.at(end).is_ascii_alphanumeric()).then_some(at..end)
}

/// `(NXX) NXX-XXXX` and its kin, also with a `1` before it (North American Numbering Plan).
pub(super) fn national_phone(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let before = text.before(at, 1);
    if before.is_ascii_alphanumeric() || matches!(before, b'.' | b'-' | b'/' | b'+' | b'_') {
        return None;
    }
    // Columns of numbers are not phones.
    if before == b' ' && text.before(at, 2).is_ascii_digit() {
        return None;
    }
    let mut start = at;
    let mut area_at = at;
    if text.at(at) == b'1' && matches!(text.at(at.saturating_add(1)), b'-' | b'.' | b' ') {
        area_at = at.saturating_add(2);
        if text.at(area_at) == b'(' {
            area_at = area_at.saturating_add(1);
        }
    }
    let digits = |from: usize, count: usize| -> bool {
        text.run(from, count.saturating_add(1), |b| b.is_ascii_digit()) == from.saturating_add(count)
    };
    if !digits(area_at, 3) {
        return None;
    }
    let after = area_at.saturating_add(3);
    let in_parentheses = text.before(area_at, 1) == b'(' && text.at(after) == b')';
    let exchange_at = if in_parentheses {
        start = start.min(area_at.saturating_sub(1));
        let next = after.saturating_add(1);
        if matches!(text.at(next), b' ' | b'-' | b'.') { next.saturating_add(1) } else { next }
    } else {
        after.saturating_add(1)
    };
    let line_at = exchange_at.saturating_add(4);
    let (first, second) = (text.at(exchange_at.saturating_sub(1)), text.at(line_at.saturating_sub(1)));
    let separated = matches!(second, b'-' | b'.' | b' ') && (in_parentheses || first == second);
    let numbered = matches!(text.at(area_at), b'2'..=b'9')
        && text.at(area_at.saturating_add(1)) != b'9'
        && matches!(text.at(exchange_at), b'2'..=b'9');
    let end = line_at.saturating_add(4);
    let goes_on = text.at(end).is_ascii_alphanumeric()
        || (matches!(text.at(end), b'-' | b'.' | b' ' | b'/') && text.at(end.saturating_add(1)).is_ascii_digit());
    (separated && numbered && digits(exchange_at, 3) && digits(line_at, 4) && !goes_on).then_some(start..end)
}
