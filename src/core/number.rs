//! Exact decimal numbers, read from the text of a JSON literal and never through `f64`.
//!
//! `9007199254740993` and `9007199254740992` are one `f64`; a limit that cannot tell them apart is not a limit. Literals
//! that other parsers read as infinity, as zero or not at all have no place in an ordering: they do not parse here, and
//! whoever asked fails closed.

use std::cmp::Ordering;

/// Longest literal that is read; a longer one compares with nothing.
pub const LITERAL_CHARS_MAX: usize = 64;

/// Largest power of ten of the leading digit that compares, and its negative the smallest: the range of a binary64, beyond
/// which servers read infinity or zero.
pub const MAGNITUDE_MAX: i32 = 307;

/// Largest amount that a counter takes: 2^52, so that the sum of two amounts is exact in every store.
pub const AMOUNT_MAX: u64 = 1 << 52;

/// A decimal number of at most [`LITERAL_CHARS_MAX`] digits.
///
/// The value is `0.d₁d₂…dₙ × 10^point`, without leading or trailing zeros in the digits; zero has no digits and no sign.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    negative: bool,
    digits: [u8; LITERAL_CHARS_MAX],
    len: usize,
    point: i32,
}

/// Why a number is not an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Below zero. Never a credit.
    #[error("the amount is negative")]
    Negative,
    /// More decimal places than count.
    #[error("the amount has more decimal places than are counted")]
    TooFine,
    /// Above [`AMOUNT_MAX`].
    #[error("the amount is larger than 2^52")]
    TooLarge,
    /// No number, or a literal that does not parse as a [`Decimal`].
    #[error("the amount is not a number that can be read exactly")]
    Unreadable,
}

/// Most decimal places that a counter counts in.
pub const SCALE_MAX: u8 = 9;

/// What becomes of a fraction that is smaller than what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// It is no amount.
    Refused,
    /// It counts as one more.
    Up,
}

/// How many units of that many decimal places are one: 100 for 2. At most `10^SCALE_MAX`.
#[must_use]
pub fn unit(scale: u8) -> u64 {
    10_u64.saturating_pow(u32::from(scale.min(SCALE_MAX)))
}

/// Units with all the decimal places that their author counts in: 48000 units of scale 2 are `480.00`.
#[must_use]
pub fn units_shown(units: u64, scale: u8) -> String {
    let places = usize::from(scale);
    let digits = format!("{units:0>width$}", width = places.saturating_add(1));
    match digits.split_at_checked(digits.len().saturating_sub(places)) {
        Some((whole, parts)) if places > 0 => format!("{whole}.{parts}"),
        _ => digits,
    }
}

/// Units as people write them in a policy: 50025 is `500.25` with scale 2, and 50000 is `500`.
#[must_use]
pub fn units_text(units: u64, scale: u8) -> String {
    let shown = units_shown(units, scale);
    match shown.split_once('.') {
        Some((whole, parts)) if parts.bytes().all(|digit| digit == b'0') => whole.to_owned(),
        _ => shown,
    }
}

impl Decimal {
    /// Reads a literal by the grammar of RFC 8259.
    ///
    /// `None` for anything else, for more than [`LITERAL_CHARS_MAX`] characters and for an exponent of more than four
    /// digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LITERAL_CHARS_MAX {
            return None;
        }
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        if !is_digits(whole) || (whole.len() > 1 && whole.starts_with('0')) || fraction.is_some_and(|f| !is_digits(f)) {
            return None;
        }
        let mut number = Self { negative, digits: [0; LITERAL_CHARS_MAX], len: 0, point: exponent };
        number.point = number.point.checked_add(i32::try_from(whole.len()).ok()?)?;
        for byte in whole.bytes().chain(fraction.unwrap_or_default().bytes()) {
            number.push(byte)?;
        }
        number.trim();
        Some(number)
    }

    /// Whether the number can take part in a comparison: zero, or of a magnitude that every server reads alike.
    #[must_use]
    pub fn is_comparable(&self) -> bool {
        let magnitude = self.point.saturating_sub(1);
        self.len == 0 || (-MAGNITUDE_MAX..=MAGNITUDE_MAX).contains(&magnitude)
    }

    /// Whether the numbers differ, one of them is no integer, and yet they are one number to a server that reads binary64, as
    /// most do: `42.00000000000000000001` is 42 to it. Who compares exactly cannot say what such a server will do. Integers
    /// are told apart exactly, whatever their size: that is what the policy language promises.
    #[must_use]
    pub fn is_confusable(&self, other: &Self) -> bool {
        // Decimals of up to so many digits are different numbers in binary64 too.
        const DISTINCT_DIGITS: usize = 15;
        (self.len > DISTINCT_DIGITS || other.len > DISTINCT_DIGITS)
            && !(self.is_integer() && other.is_integer())
            && self != other
            && self
                .binary64()
                .is_some_and(|mine| other.binary64().is_some_and(|theirs| mine.to_bits() == theirs.to_bits()))
    }

    /// Whether a reader of binary64 takes it for another number: what it would write for it is not this one.
    #[must_use]
    pub fn is_changed_by_binary64(&self) -> bool {
        let read = self.binary64().and_then(|value| Self::parse(&format!("{value:e}")));
        read.is_none_or(|read| read != *self)
    }

    /// Whether it is above zero.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        self.len > 0 && !self.negative
    }

    /// Whether it is a whole number of times the other; `None` if the two are too far apart to be computed exactly.
    #[must_use]
    pub fn is_multiple_of(&self, of: &Self) -> Option<bool> {
        let places = [self, of].map(|one| i32::try_from(one.len).ok().map(|len| len.saturating_sub(one.point)));
        let [mine, theirs] = places;
        let places = mine?.max(theirs?);
        Some(self.scaled(places)?.checked_rem(of.scaled(places)?)? == 0)
    }

    /// The digits as a whole number of `10^-places`, without the sign; `None` if it is too large or not whole.
    fn scaled(&self, places: i32) -> Option<u128> {
        let zeros = self.point.checked_add(places)?.checked_sub(i32::try_from(self.len).ok()?)?;
        let digits = self
            .significant()
            .iter()
            .try_fold(0_u128, |sum, digit| sum.checked_mul(10)?.checked_add(u128::from(*digit)))?;
        if digits == 0 {
            return Some(0);
        }
        digits.checked_mul(10_u128.checked_pow(u32::try_from(zeros).ok()?)?)
    }

    /// Whether the value has no fraction, however it is written.
    #[must_use]
    pub fn is_integer(&self) -> bool {
        usize::try_from(self.point).map_or(self.len == 0, |whole| self.len <= whole)
    }

    /// The nearest binary64; only to find out what others may confuse.
    fn binary64(&self) -> Option<f64> {
        let sign = if self.negative { "-" } else { "" };
        let digits: String = self.significant().iter().map(|d| char::from(b'0'.saturating_add(*d))).collect();
        format!("{sign}0.{digits}0e{}", self.point).parse().ok()
    }

    /// The whole units of an amount: a fraction counts as a whole unit more, so that ten calls of 0.1 are not free.
    ///
    /// # Errors
    /// [`AmountError`]: the number is below zero or above [`AMOUNT_MAX`].
    pub fn to_amount(&self) -> Result<u64, AmountError> {
        self.to_units(0, Rounding::Up)
    }

    /// The units of an amount of which each has `scale` decimal places, at most [`SCALE_MAX`]: 5.25 is 525 with 2.
    ///
    /// # Errors
    /// [`AmountError`]: the number is below zero, comes to more than [`AMOUNT_MAX`], or has a fraction of a unit that
    /// `rounding` refuses.
    pub fn to_units(&self, scale: u8, rounding: Rounding) -> Result<u64, AmountError> {
        if self.negative {
            return Err(AmountError::Negative);
        }
        if self.len == 0 {
            return Ok(0);
        }
        let point = self.point.saturating_add(i32::from(scale.min(SCALE_MAX)));
        // Digits before the point, and whether there are others behind it.
        let whole = usize::try_from(point).unwrap_or(0);
        if self.len > whole && rounding == Rounding::Refused {
            return Err(AmountError::TooFine);
        }
        // 2^52 has 16 digits.
        if whole > 16 {
            return Err(AmountError::TooLarge);
        }
        let mut amount = 0u64;
        for index in 0..whole {
            let digit = self.significant().get(index).copied().unwrap_or(0);
            amount = amount.saturating_mul(10).saturating_add(u64::from(digit));
        }
        if self.len > whole {
            amount = amount.saturating_add(1);
        }
        if amount > AMOUNT_MAX { Err(AmountError::TooLarge) } else { Ok(amount) }
    }

    /// The number as Go's `%v` prints the same float, for `compat: lenient`: `5`, `1.5`, `1e+06`.
    pub(crate) fn go_text(&self) -> String {
        let sign = if self.negative { "-" } else { "" };
        let digit = |index: usize| self.significant().get(index).map_or('0', |d| char::from(b'0'.saturating_add(*d)));
        let exponent = self.point.saturating_sub(1);
        let mut out = String::from(sign);
        if self.len == 0 {
            out.push('0');
        } else if !(-4..6).contains(&exponent) {
            out.push(digit(0));
            for index in 1..self.len {
                out.push_str(if index == 1 { "." } else { "" });
                out.push(digit(index));
            }
            let sign = if exponent < 0 { '-' } else { '+' };
            out.push_str(&format!("e{sign}{:02}", exponent.unsigned_abs()));
        } else if let Ok(whole) = usize::try_from(self.point) {
            (0..whole).for_each(|index| out.push(digit(index)));
            out.push_str(if whole == 0 { "0" } else { "" });
            (whole..self.len).for_each(|index| {
                out.push_str(if index == whole { "." } else { "" });
                out.push(digit(index));
            });
        } else {
            out.push_str("0.");
            (self.point..0).for_each(|_| out.push('0'));
            (0..self.len).for_each(|index| out.push(digit(index)));
        }
        out
    }

    fn significant(&self) -> &[u8] {
        self.digits.get(..self.len).unwrap_or_default()
    }

    /// Appends a digit; leading zeros only move the point.
    fn push(&mut self, byte: u8) -> Option<()> {
        if self.len == 0 && byte == b'0' {
            self.point = self.point.checked_sub(1)?;
            return Some(());
        }
        *self.digits.get_mut(self.len)? = byte.saturating_sub(b'0');
        self.len = self.len.saturating_add(1);
        Some(())
    }

    fn trim(&mut self) {
        while self.significant().last() == Some(&0) {
            self.len = self.len.saturating_sub(1);
        }
        if self.len == 0 {
            self.negative = false;
            self.point = 0;
        }
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.len, number.negative) {
            (0, _) => 0i8,
            (_, true) => -1,
            (_, false) => 1,
        };
        let (mine, theirs) = (sign(self), sign(other));
        let size = self.point.cmp(&other.point).then_with(|| self.significant().cmp(other.significant()));
        match mine.cmp(&theirs) {
            Ordering::Equal if mine < 0 => size.reverse(),
            Ordering::Equal if mine > 0 => size,
            order @ (Ordering::Equal | Ordering::Greater | Ordering::Less) => order,
        }
    }
}

/// Reads the amount that a literal states.
///
/// # Errors
/// [`AmountError`]: why the literal is no amount.
pub fn amount(text: &str) -> Result<u64, AmountError> {
    Decimal::parse(text).ok_or(AmountError::Unreadable)?.to_amount()
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An optional sign and one to four digits; more zeros in front do no harm.
fn read_exponent(text: &str) -> Option<i32> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let short = digits.trim_start_matches('0');
    if !is_digits(digits) || short.len() > 4 {
        return None;
    }
    let value: i32 = if short.is_empty() { 0 } else { short.parse().ok()? };
    Some(if negative { value.saturating_neg() } else { value })
}

#[cfg(test)]
mod tests;
