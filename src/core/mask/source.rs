//! From a text back to how it is written in JSON.

use std::borrow::Cow;

use super::text::Edit;
use crate::text::push_json_string;

/// The text between the quotes of a JSON string.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len().saturating_add(2));
    push_json_string(&mut out, text);
    out.pop();
    if !out.is_empty() {
        out.remove(0);
    }
    out
}

/// Turns edits of a string's text into edits of its source: `raw` is what stands between its quotes, `offset` where. The edits
/// are in order and do not overlap. `None` if one of them cuts a character, which must not happen.
pub(super) fn to_source(raw: &str, offset: usize, edits: &[Edit], out: &mut Vec<Edit>) -> Option<()> {
    if edits.is_empty() {
        return Some(());
    }
    let mut places = Places { raw, at: 0, done: 0 };
    for edit in edits {
        let start = places.find(edit.range.start)?.checked_add(offset)?;
        let end = places.find(edit.range.end)?.checked_add(offset)?;
        out.push(Edit { range: start..end, with: escaped(&edit.with) });
    }
    Some(())
}

/// A position in the source of a string, and how much of the text stands before it.
struct Places<'r> {
    raw: &'r str,
    at: usize,
    done: usize,
}

impl Places<'_> {
    /// The position in the source of a position in the text, which is not before the last one.
    fn find(&mut self, wanted: usize) -> Option<usize> {
        while self.done < wanted {
            let rest = self.raw.get(self.at..)?;
            // Up to the next escape, source and text are the same. Looking further than needed would be quadratic in the edits.
            let ahead = rest.as_bytes().get(..wanted.checked_sub(self.done)?).unwrap_or(rest.as_bytes());
            let plain = ahead.iter().position(|b| *b == b'\\').unwrap_or(ahead.len());
            let (written, meant) = if plain > 0 { (plain, plain) } else { escape(rest)? };
            self.at = self.at.checked_add(written)?;
            self.done = self.done.checked_add(meant)?;
        }
        (self.done == wanted && self.raw.is_char_boundary(self.at)).then_some(self.at)
    }
}

/// Bytes of an escape sequence as it is written, and of the character that it means.
fn escape(text: &str) -> Option<(usize, usize)> {
    if !text.starts_with("\\u") {
        return (text.len() >= 2).then_some((2, 1));
    }
    let unit = u32::from_str_radix(text.get(2..6)?, 16).ok()?;
    if (0xd800..0xe000).contains(&unit) {
        return Some((12, 4));
    }
    Some((6, char::from_u32(unit)?.len_utf8()))
}

/// A number as a detector should see it: a whole one without fraction and exponent, as far as it is one.
pub(super) fn integer(literal: &str) -> Cow<'_, str> {
    if !literal.contains(['.', 'e', 'E']) {
        return Cow::Borrowed(literal);
    }
    let (mantissa, exponent) = literal.split_once(['e', 'E']).unwrap_or((literal, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let power = exponent.strip_prefix('+').unwrap_or(exponent).parse::<usize>().ok().filter(|power| *power <= 40);
    match power.and_then(|power| power.checked_sub(fraction.len())) {
        Some(zeros) => Cow::Owned(format!("{whole}{fraction}{}", "0".repeat(zeros))),
        None => Cow::Borrowed(literal),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_are_followed() {
        let raw = r"a\n\u00e9\ud83d\ude00é\/b";
        let text = "a\n\u{e9}😀é/b";
        let mut out = Vec::new();
        let edits = [(1, 2), (2, 4), (4, 8), (8, 10), (10, 11)].map(|(a, b)| Edit { range: a..b, with: "\"".into() });
        to_source(raw, 100, &edits, &mut out).unwrap();
        let pieces: Vec<&str> = out
            .iter()
            .map(|edit| raw.get(edit.range.start.saturating_sub(100)..edit.range.end.saturating_sub(100)).unwrap())
            .collect();
        assert_eq!(pieces, [r"\n", r"\u00e9", r"\ud83d\ude00", "é", r"\/"]);
        assert!(out.iter().all(|edit| edit.with == "\\\""));
        assert_eq!(text.len(), 12);
        let cut = [Edit { range: 3..4, with: String::new() }];
        assert_eq!(to_source(raw, 0, &cut, &mut out), None, "half a character");
    }

    #[test]
    fn whole_numbers_are_spelled_out() {
        for (literal, expected) in [
            ("4111111111111111", "4111111111111111"),
            ("4111111111111111.0", "4111111111111111"),
            ("4.111111111111111e15", "4111111111111111"),
            ("4.111111111111111E+15", "4111111111111111"),
            ("0.5", "0.5"),
            ("1e400", "1e400"),
            ("1e-3", "1e-3"),
            ("-2.50e1", "-25"),
        ] {
            assert_eq!(integer(literal), expected, "{literal}");
        }
    }

    proptest! {
        #[test]
        fn every_position_is_found(text in any::<String>()) {
            let raw = serde_json::to_string(&text).unwrap();
            let raw = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).unwrap();
            let mut places = Places { raw, at: 0, done: 0 };
            for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                let found = places.find(at).unwrap();
                let head: String = serde_json::from_str(&format!("\"{}\"", raw.get(..found).unwrap())).unwrap();
                prop_assert_eq!(head, text.get(..at).unwrap());
            }
        }
    }
}
