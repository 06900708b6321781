//! Which traces are recorded.

use std::fmt;

/// Parts of [`Ratio::ALL`].
const WHOLE: u32 = 1_000_000_000;

/// A share of traces: 0 to 1, with up to nine digits after the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(u32);

impl Ratio {
    /// Every trace.
    pub const ALL: Self = Self(WHOLE);
    /// No trace.
    pub const NONE: Self = Self(0);

    /// Reads `0`, `1`, `0.25`; up to nine digits after the point, no exponent. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        const DIGITS_MAX: usize = 9;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = fraction.len();
        if whole.len() > 1 || digits == 0 || digits > DIGITS_MAX || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let scale = 10_u32.checked_pow(u32::try_from(DIGITS_MAX.checked_sub(digits)?).ok()?)?;
        let parts = fraction.parse::<u32>().ok()?.checked_mul(scale)?;
        match whole {
            "0" => Some(Self(parts)),
            "1" if parts == 0 => Some(Self::ALL),
            _ => None,
        }
    }

    /// Whether it takes that trace. The last seven bytes of its id are compared, which the W3C Recommendation (level 2) has
    /// random; so every participant with the same ratio takes the same traces, and one with a larger ratio takes these too.
    #[must_use]
    pub fn takes(self, trace_id: &[u8; 16]) -> bool {
        const SPACE: u128 = 1 << 56;
        const RANDOM: u128 = SPACE - 1;
        let random = u128::from_be_bytes(*trace_id) & RANDOM;
        // Compared as fractions of the same denominator.
        let left_out = u128::from(WHOLE.saturating_sub(self.0)).saturating_mul(SPACE);
        random.saturating_mul(u128::from(WHOLE)) >= left_out
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, parts) = (self.0 / WHOLE, self.0 % WHOLE);
        let digits = format!("{parts:09}");
        match digits.trim_end_matches('0') {
            "" => write!(f, "{whole}"),
            digits => write!(f, "{whole}.{digits}"),
        }
    }
}

/// Whose word decides whether a trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Whether the flag of a parent decides. Envoy sends one wherever it traces.
    pub heeds_parent: bool,
    /// What is taken otherwise.
    pub ratio: Ratio,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { heeds_parent: true, ratio: Ratio::ALL }
    }
}

impl Sampler {
    /// Whether a trace is recorded of which the parent, if there is one, says `parent`.
    #[must_use]
    pub fn takes(&self, parent: Option<bool>, trace_id: &[u8; 16]) -> bool {
        match parent {
            Some(sampled) if self.heeds_parent => sampled,
            Some(_) | None => self.ratio.takes(trace_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ratios_read_back_and_nothing_else_is_one() {
        for text in ["0", "1", "0.5", "0.01", "0.000000001", "0.999999999"] {
            assert_eq!(Ratio::parse(text).map(|ratio| ratio.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Ratio::parse("1.0"), Some(Ratio::ALL));
        assert_eq!(Ratio::parse("0.00"), Some(Ratio::NONE));
        for text in ["", ".", ".5", "1.", "2", "1.000000001", "0.0000000001", "-0", "+1", "1e-3", "0.+5", "NaN", "00.5"]
        {
            assert_eq!(Ratio::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_ends_take_all_and_nothing() {
        for id in [[0; 16], [0xff; 16]] {
            assert!(Ratio::ALL.takes(&id));
            assert!(!Ratio::NONE.takes(&id), "{id:?}");
        }
        let half = Ratio::parse("0.5").unwrap();
        let id = |byte: u8| [9, 9, 9, 9, 9, 9, 9, 9, 9, byte, 0, 0, 0, 0, 0, 0];
        assert_eq!([0x7f, 0x80].map(|byte| half.takes(&id(byte))), [false, true]);
    }

    #[test]
    fn a_parent_decides_where_it_is_heeded() {
        let sampler = Sampler { heeds_parent: true, ratio: Ratio::NONE };
        let takes = |sampler: Sampler| [Some(true), Some(false), None].map(|parent| sampler.takes(parent, &[1; 16]));
        assert_eq!(takes(sampler), [true, false, false]);
        assert_eq!(takes(Sampler { ratio: Ratio::ALL, ..sampler }), [true, false, true]);
        assert_eq!(takes(Sampler { heeds_parent: false, ..sampler }), [false; 3]);
        assert_eq!(takes(Sampler { heeds_parent: false, ratio: Ratio::ALL }), [true; 3]);
    }

    proptest! {
        #[test]
        fn a_larger_ratio_takes_what_a_smaller_one_takes(id in any::<[u8; 16]>(), a in 0..=WHOLE, b in 0..=WHOLE) {
            let (small, large) = (Ratio(a.min(b)), Ratio(a.max(b)));
            prop_assert!(!small.takes(&id) || large.takes(&id));
        }
    }
}
