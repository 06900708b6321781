//! Numbers with check digits or ranges: payment cards, IBANs, US social security numbers.

use std::ops::Range;

use super::Text;

/// Shortest and longest number of a card (ISO/IEC 7812-1).
const CARD_DIGITS: Range<usize> = 12..20;

/// A card number at the start of a run of digits: as one run, or in the groups in which cards are printed.
pub(super) fn card(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    // Decimal places are no number of a card.
    let before = text.before(at, 1);
    if before.is_ascii_digit() || (matches!(before, b'.' | b',') && text.before(at, 2).is_ascii_digit()) {
        return None;
    }
    let first = text.run(at, CARD_DIGITS.end, |b| b.is_ascii_digit());
    let mut digits = [0u8; 20];
    let mut count = push_digits(text, at..first, &mut digits, 0)?;
    let mut best = None;
    // A run of digits among letters is a piece of a digest; groups of digits are not.
    if !before.is_ascii_alphabetic() && ends_well(text, first) && is_card(digits.get(..count)?) {
        best = Some(at..first);
    }
    if count != 4 && count != 6 {
        return best;
    }
    let separator = text.at(first);
    if !matches!(separator, b' ' | b'-' | b'.') {
        return best;
    }
    let mut groups = [count, 0, 0, 0, 0];
    let mut end = first;
    for index in 1..5 {
        let start = end.saturating_add(1);
        if text.at(end) != separator || !text.at(start).is_ascii_digit() {
            break;
        }
        end = text.run(start, CARD_DIGITS.end, |b| b.is_ascii_digit());
        let Some(sum) = push_digits(text, start..end, &mut digits, count) else { break };
        if let Some(group) = groups.get_mut(index) {
            *group = sum.saturating_sub(count);
        }
        count = sum;
        if are_card_groups(&groups) && !text.at(end).is_ascii_digit() && is_card(digits.get(..count)?) {
            best = Some(at..end);
        }
    }
    best
}

fn push_digits(text: &Text<'_>, range: Range<usize>, digits: &mut [u8; 20], count: usize) -> Option<usize> {
    let run = text.bytes.get(range)?;
    let end = count.checked_add(run.len())?;
    for (to, from) in digits.get_mut(count..end)?.iter_mut().zip(run) {
        *to = from.wrapping_sub(b'0');
    }
    Some(end)
}

fn ends_well(text: &Text<'_>, end: usize) -> bool {
    !text.at(end).is_ascii_alphanumeric()
}

/// The groups on the cards of the networks, and those in which people write them.
fn are_card_groups(groups: &[usize; 5]) -> bool {
    matches!(
        groups,
        [4, 4, 4, 2..=4, 0] | [4, 4, 4, 4, 1..=3] | [4, 6, 4 | 5, 0, 0] | [4, 5, 6, 0, 0] | [6, 6..=13, 0, 0, 0]
    )
}

fn is_card(digits: &[u8]) -> bool {
    CARD_DIGITS.contains(&digits.len())
        && is_issued(digits)
        && luhn(digits)
        && digits.iter().any(|d| Some(d) != digits.first())
}

/// The ranges of the networks with the lengths that they issue. Visa's of 13 digits are gone, and would take every eleventh
/// time stamp in milliseconds of another era for a card.
fn is_issued(digits: &[u8]) -> bool {
    let prefix = |length: usize| {
        digits.iter().take(length).fold(0u32, |n, d| n.saturating_mul(10).saturating_add(u32::from(*d)))
    };
    let (two, three, four, six) = (prefix(2), prefix(3), prefix(4), prefix(6));
    match digits.len() {
        12..=13 => is_maestro(four),
        14 => matches!(two, 36 | 38 | 39) || matches!(three, 300..=305) || four == 3095 || is_maestro(four),
        15 => matches!(two, 34 | 37) || is_maestro(four),
        16 => {
            matches!(two, 40..=49 | 51..=55 | 60..=62 | 64..=65 | 81)
                || matches!(four, 2221..=2720 | 2200..=2204 | 3528..=3589 | 9792 | 5066..=5067)
                || matches!(three, 300..=305 | 508 | 509)
                || matches!(two, 36 | 38 | 39)
                || matches!(six, 506_099..=506_198)
                || is_maestro(four)
        }
        17..=18 => matches!(two, 62 | 64 | 65 | 81) || four == 6011 || matches!(four, 3528..=3589) || is_maestro(four),
        19 => {
            matches!(two, 40..=49 | 62 | 64 | 65 | 81)
                || four == 6011
                || matches!(four, 3528..=3589 | 2200..=2204)
                || matches!(six, 506_099..=506_198)
                || is_maestro(four)
        }
        _ => false,
    }
}

const fn is_maestro(four: u32) -> bool {
    matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761 | 6762 | 6763)
}

/// ISO/IEC 7812-1 annex B.
fn luhn(digits: &[u8]) -> bool {
    let sum = digits.iter().rev().enumerate().fold(0u32, |sum, (index, digit)| {
        let digit = u32::from(*digit);
        let doubled = digit.saturating_mul(2);
        let value = match index % 2 {
            0 => digit,
            _ if doubled > 9 => doubled.saturating_sub(9),
            _ => doubled,
        };
        sum.saturating_add(value)
    });
    sum.is_multiple_of(10)
}

/// Country and length of its IBANs (the SWIFT registry, ISO 13616).
const IBAN_LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

/// An IBAN whose check digits are the run of digits at the position, as one word or in groups with single separators.
pub(super) fn iban(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let start = at.checked_sub(2)?;
    let country = [text.at(start).to_ascii_uppercase(), text.at(start.saturating_add(1)).to_ascii_uppercase()];
    if text.before(start, 1).is_ascii_alphanumeric() || !text.at(at.saturating_add(1)).is_ascii_digit() {
        return None;
    }
    let length = IBAN_LENGTHS.iter().find(|(name, _)| **name == country).map(|(_, length)| *length)?;
    let (mut count, mut end, mut rest) = (0usize, start, Remainder(0));
    let mut head = Remainder(0);
    while count < length {
        let byte = text.at(end);
        if byte.is_ascii_alphanumeric() {
            // The first four characters count last.
            if count < 4 {
                head.push(byte)
            } else {
                rest.push(byte)
            }
            count = count.saturating_add(1);
        } else if !(matches!(byte, b' ' | b'-') && text.before(end, 1).is_ascii_alphanumeric() && count >= 4) {
            return None;
        }
        end = end.saturating_add(1);
    }
    let first = text.bytes.get(start..start.saturating_add(4))?;
    first.iter().for_each(|byte| rest.push(*byte));
    (rest.0 == 1 && ends_well(text, end)).then_some(start..end)
}

/// A number modulo 97, digit by digit; letters are 10 to 35.
struct Remainder(u32);

impl Remainder {
    fn push(&mut self, byte: u8) {
        let value = char::from(byte).to_digit(36).unwrap_or(0);
        let shift = if value > 9 { 100u32 } else { 10 };
        self.0 = self.0.saturating_mul(shift).saturating_add(value) % 97;
    }
}

/// `AAA-GG-SSSS`; with spaces or without separators only beside a word that says what it is.
pub(super) fn ssn(text: &Text<'_>, at: usize) -> Option<Range<usize>> {
    let before = text.before(at, 1);
    if before.is_ascii_alphanumeric() || (matches!(before, b'-' | b'.') && text.before(at, 2).is_ascii_alphanumeric()) {
        return None;
    }
    let digits = |from: usize, count: usize| -> Option<u32> {
        let run = text.bytes.get(from..from.checked_add(count)?)?;
        run.iter().try_fold(0u32, |n, b| Some(n.saturating_mul(10).saturating_add(char::from(*b).to_digit(10)?)))
    };
    let separator = text.at(at.saturating_add(3));
    let (width, needs_context) = match separator {
        b'-' => (1, false),
        b' ' => (1, true),
        b'0'..=b'9' => (0, true),
        _ => return None,
    };
    let group_at = at.saturating_add(3).saturating_add(width);
    let serial_at = group_at.saturating_add(2).saturating_add(width);
    let end = serial_at.saturating_add(4);
    if width == 1 && text.at(serial_at.saturating_sub(1)) != separator {
        return None;
    }
    let (area, group, serial) = (digits(at, 3)?, digits(group_at, 2)?, digits(serial_at, 4)?);
    let after = text.at(end);
    let goes_on =
        after.is_ascii_alphanumeric() || (after == b'-' && text.at(end.saturating_add(1)).is_ascii_alphanumeric());
    // The ranges that are never given out (SSA, since 2011).
    let is_given = matches!(area, 1..=665 | 667..=899) && group != 0 && serial != 0;
    let is_told = !needs_context || text.context(at, &["ssn", "social sec", "social_sec", "socialsec"]);
    (!goes_on && is_given && is_told).then_some(at..end)
}
