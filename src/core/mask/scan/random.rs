//! Strings that look random. There is no proof of a secret here, only statistics, so the thresholds matter:
//!
//! - Alone, a string counts if it has at least 20 characters of base 64 (either alphabet), with small letters, capitals and digits
//!   that change places as those of random text do. Words, names in camel case, paths, UUIDs and digests in hexadecimal do not.
//! - Beside a name such as `password`, `token` or `api_key`, 16 characters with a digit and a letter are enough, hexadecimal
//!   included.

use std::ops::Range;

use super::{Detector, Found, Text};

/// Characters of a string that counts beside a name that says what it is.
const NAMED_MIN: usize = 16;
/// Characters of a string that counts alone.
const ALONE_MIN: usize = 20;
/// Bits per character (Shannon) of a string of 20 random characters of base 64: 4.0 ± 0.15.
const ENTROPY_MIN: f64 = 3.4;
/// The same beside a name.
const NAMED_ENTROPY_MIN: f64 = 2.5;
/// Bytes of which the statistics are made; what follows belongs to the same string.
const SAMPLE: usize = 512;
const NAMES: &[&str] = &[
    "secret",
    "token",
    "passw",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "accesskey",
    "private_key",
    "credential",
    "bearer",
];

const fn is_part(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'/')
}

/// Finds them all. Steps by the least length: a run of that many characters has one at every such step.
pub(super) fn find(text: &Text<'_>, count_max: usize, out: &mut Vec<Found>) {
    let mut start = 0usize;
    while out.len() <= count_max {
        let window_end = start.saturating_add(NAMED_MIN);
        let Some(window) = text.bytes.get(start..window_end) else { return };
        if let Some(last) = window.iter().rposition(|b| !is_part(*b)) {
            start = start.saturating_add(last).saturating_add(1);
            continue;
        }
        let mut end = text.run(window_end, usize::MAX, is_part);
        let padding = text.run(end, 2, |b| b == b'=');
        if looks_random(text, start..end) {
            end = padding;
            out.push(Found { range: start..end, detector: Some(Detector::HighEntropy) });
        }
        start = end.max(padding).saturating_add(1);
    }
}

fn looks_random(text: &Text<'_>, range: Range<usize>) -> bool {
    let Some(whole) = text.bytes.get(range.clone()) else { return false };
    // A digest of a file, not a secret: SRI, lock files, fingerprints of SSH keys.
    let is_digest = [&b"sha1-"[..], b"sha256-", b"sha384-", b"sha512-"].iter().any(|prefix| whole.starts_with(prefix))
        || text.before(range.start, 1) == b':' && text.ends_with(range.start.saturating_sub(1), b"SHA256");
    // Pictures and the like in a link: bytes, not text.
    if is_digest || text.ends_with(range.start, b";base64,") {
        return false;
    }
    let sample = whole.get(..SAMPLE).unwrap_or(whole);
    let has = |is: fn(&u8) -> bool| sample.iter().any(is);
    let (small, capital, digit) = (has(u8::is_ascii_lowercase), has(u8::is_ascii_uppercase), has(u8::is_ascii_digit));
    let longest = sample.split(|b| !b.is_ascii_alphanumeric()).map(<[u8]>::len).max().unwrap_or(0);
    if !digit || !(small || capital) || longest < 8 || is_uuid(sample) {
        return false;
    }
    let share = changes(sample);
    if share >= 0.2 && is_named(text, range.start) {
        return entropy(sample) >= NAMED_ENTROPY_MIN;
    }
    // A sixth of random text are digits; a number at the end of a name is less.
    let digits = sample.iter().filter(|b| b.is_ascii_digit()).count();
    let is_long = whole.len() >= ALONE_MIN && longest >= 10 && digits.saturating_mul(20) >= sample.len();
    if !(small && capital && is_long) || share < 0.4 || (share < 0.5 && longest_word(sample) > 4) {
        return false;
    }
    entropy(sample) >= ENTROPY_MIN
}

fn is_named(text: &Text<'_>, at: usize) -> bool {
    text.context(at, NAMES)
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uuid(sample: &[u8]) -> bool {
    let mut lengths = sample.split(|b| *b == b'-').map(<[u8]>::len);
    sample.len() == 36
        && [8, 4, 4, 4, 12].iter().all(|length| lengths.next() == Some(*length))
        && sample.iter().all(|b| b.is_ascii_hexdigit() || *b == b'-')
}

/// The share of neighbors of different classes (small, capital, digit): about 0.65 in random text, 0.3 in camel case.
fn changes(sample: &[u8]) -> f64 {
    let class = |b: &u8| match b {
        b'a'..=b'z' => 1u8,
        b'A'..=b'Z' => 2,
        b'0'..=b'9' => 3,
        _ => 0,
    };
    let (mut pairs, mut changed) = (0u32, 0u32);
    for (a, b) in sample.iter().zip(sample.iter().skip(1)) {
        let (a, b) = (class(a), class(b));
        if a != 0 && b != 0 {
            pairs = pairs.saturating_add(1);
            changed = changed.saturating_add(u32::from(a != b));
        }
    }
    f64::from(changed) / f64::from(pairs.max(1))
}

/// The longest run of small letters.
fn longest_word(sample: &[u8]) -> usize {
    sample.split(|b| !b.is_ascii_lowercase()).map(<[u8]>::len).max().unwrap_or(0)
}

/// Bits per character.
fn entropy(sample: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    for byte in sample {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count = count.saturating_add(1);
        }
    }
    let total = f64::from(u32::try_from(sample.len()).unwrap_or(u32::MAX).max(1));
    counts.iter().filter(|count| **count > 0).fold(0.0, |sum, count| {
        let share = f64::from(*count) / total;
        sum - share * share.log2()
    })
}
