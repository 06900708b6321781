//! One text for one definition, however it is written: members sorted by name, strings unescaped, numbers by their exact
//! value. After RFC 8785, but for numbers, which no binary64 may touch.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::{
    json::{Kind, Value},
    text::push_json_string,
};

/// SHA-256 of a canonical definition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a whole definition, members that we do not know included: whatever a model may be shown counts.
    #[must_use]
    pub fn of(tool: Value<'_>) -> Self {
        let mut out = String::with_capacity(tool.source().len());
        push_value(&mut out, tool);
        Self::of_text(&out)
    }

    pub(super) fn of_text(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Reads `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::of_hex(text.strip_prefix("sha256:")?)
    }

    pub(super) fn of_hex(hex: &str) -> Option<Self> {
        let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
        let mut out = [0_u8; 32];
        if pairs.len() != out.len() {
            return None;
        }
        for (byte, [high, low]) in out.iter_mut().zip(pairs) {
            let digit = |c: u8| char::from(c).to_digit(16).filter(|_| !c.is_ascii_uppercase());
            *byte = u8::try_from(digit(*high)?.wrapping_shl(4) | digit(*low)?).ok()?;
        }
        Some(Self(out))
    }

    pub(super) fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Depth is bounded by the parser's limits, so recursion is.
pub(crate) fn push_value(out: &mut String, value: Value<'_>) {
    match value.kind() {
        Kind::Array => {
            out.push('[');
            for (at, element) in value.elements().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                push_value(out, element);
            }
            out.push(']');
        }
        Kind::False | Kind::Null | Kind::True => out.push_str(value.raw()),
        Kind::Number => push_number(out, value.raw()),
        Kind::Object => {
            let mut members: Vec<_> = value.members().collect();
            // No two are equal: the parser refuses equal names.
            members.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            out.push('{');
            for (at, (name, member)) in members.into_iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                push_json_string(out, &name);
                out.push(':');
                push_value(out, member);
            }
            out.push('}');
        }
        Kind::String => push_json_string(out, &value.as_str().unwrap_or_default()),
    }
}

/// A number by its value: all its digits without zeros at their ends, times a power of ten. An exponent that no computer
/// represents stays as it is written.
fn push_number(out: &mut String, literal: &str) {
    let (sign, rest) = literal.strip_prefix('-').map_or(("", literal), |rest| ("-", rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let all = digits.trim_start_matches('0');
    let significant = all.trim_end_matches('0');
    if significant.is_empty() {
        return out.push('0');
    }
    out.push_str(sign);
    out.push_str(significant);
    let shift = i128::try_from(all.len().saturating_sub(significant.len())).ok();
    let fraction = i128::try_from(fraction.len()).ok();
    let power = exponent.parse::<i128>().ok().zip(shift.zip(fraction)).and_then(|(exponent, (shift, fraction))| {
        exponent.checked_add(shift).and_then(|sum| sum.checked_sub(fraction))
    });
    match power {
        Some(0) => {}
        Some(power) => out.push_str(&format!("e{power}")),
        None => out.push_str(&format!("@{literal}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::{Document, Limits};

    fn canonical(text: &str) -> String {
        let document = Document::parse(text.as_bytes(), Limits::default()).unwrap();
        let mut out = String::new();
        push_value(&mut out, document.root());
        out
    }

    #[test]
    fn spelling_does_not_count() {
        assert_eq!(
            canonical(r#" { "b" : [ 1.0 , true,null ], "\u0061" : "\u0041\/" } "#),
            r#"{"a":"A/","b":[1,true,null]}"#
        );
        for (one, other) in
            [("1", "1.0"), ("100", "1e2"), ("0.5", "5E-1"), ("-0", "0.0e9"), ("120e-1", "12"), ("1e+2", "100")]
        {
            assert_eq!(canonical(one), canonical(other), "{one} {other}");
        }
        assert_eq!(canonical("1200"), "12e2");
        assert_eq!(canonical("-1.25"), "-125e-2");
    }

    #[test]
    fn what_differs_stays_different() {
        for (one, other) in [
            ("9007199254740993", "9007199254740992"),
            ("1", "\"1\""),
            ("[]", "{}"),
            ("[1,2]", "[2,1]"),
            (r#"{"a":{}}"#, r#"{"a":null}"#),
            (r#""a""#, r#""a\u200b""#),
            ("1e400", "1e401"),
            ("1e999999999999999999999999999999999999999999", "2e999999999999999999999999999999999999999999"),
            ("1e999999999999999999999999999999999999999999", "1e999999999999999999999999999999999999999998"),
            ("-1", "1"),
            ("12", "1.2"),
        ] {
            assert_ne!(canonical(one), canonical(other), "{one} {other}");
        }
    }

    #[test]
    fn a_digest_reads_back_and_nothing_else_does() {
        let digest = Digest::of_text("x");
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        let text = digest.to_string();
        for bad in [
            text.strip_prefix("sha256:").unwrap(),
            text.split_at(70).0,
            &text.to_uppercase(),
            &format!("{text}0"),
            "sha256:",
            &text.replace('a', "g"),
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn numbers_are_equal_exactly_if_their_values_are(a in -2000_i64..2000, b in -2000_i64..2000, shift in 0..4_u32) {
            let scaled = |n: i64| {
                let power = 10_i64.pow(shift);
                format!("{}{}.{:0width$}", if n < 0 { "-" } else { "" }, n.abs().div_euclid(power), n.abs().rem_euclid(power), width = usize::try_from(shift.max(1)).unwrap())
            };
            // With no place behind the point the fraction is a zero.
            prop_assert_eq!(canonical(&scaled(a)) == canonical(&scaled(b)), a == b);
            prop_assert_eq!(canonical(&format!("{a}e3")), canonical(&a.saturating_mul(1000).to_string()));
        }

        #[test]
        fn every_text_is_its_own(a in any::<String>(), b in any::<String>()) {
            let text = |s: &str| canonical(&serde_json::to_string(s).unwrap());
            prop_assert_eq!(text(&a) == text(&b), a == b);
        }
    }
}
