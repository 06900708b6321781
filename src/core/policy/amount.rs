//! How many units a call costs: from the text of what was sent, exactly, or not at all; or from the answer, for which an
//! amount is held until it is there.

use super::condition::{Compat, Path};
use super::limit::Facts;
use crate::decision::Reason;
use crate::json::{Kind, Value};
use crate::number::{AMOUNT_MAX, AmountError, Decimal, Rounding, unit};
use crate::quota::Actual;

/// Where units come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The number at the path.
    Argument(Path),
    /// Bytes of what stands at the path; of all arguments without one.
    Bytes(Option<Path>),
    /// A call is one.
    Call,
    /// Elements of the list at the path.
    Count(Path),
    /// Nothing is added: a gate only looks.
    Nothing,
    /// Bytes of the whole request.
    RequestBytes,
    /// Bytes of the answer.
    ResponseBytes,
    /// The number at the path below `result` of the answer.
    Result(Path),
}

impl Source {
    /// As written in the policy.
    pub(super) fn text(&self) -> String {
        match self {
            Source::Argument(path) => path.text(),
            Source::Bytes(None) => "bytes(args)".to_owned(),
            Source::Bytes(Some(path)) => format!("bytes({})", path.text()),
            Source::Call => "1".to_owned(),
            Source::Count(path) => format!("count({})", path.text()),
            Source::Nothing => "0".to_owned(),
            Source::RequestBytes => "request.bytes".to_owned(),
            Source::ResponseBytes => "response.bytes".to_owned(),
            Source::Result(path) => path.text_below("result"),
        }
    }

    /// Whether the amount is known only after the call.
    pub(super) const fn is_of_answer(&self) -> bool {
        match self {
            Source::ResponseBytes | Source::Result(_) => true,
            Source::Argument(_)
            | Source::Bytes(_)
            | Source::Call
            | Source::Count(_)
            | Source::Nothing
            | Source::RequestBytes => false,
        }
    }
}

/// What a limit charges for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) source: Source,
    /// Decimal places that count exactly; without them a fraction counts as a whole unit more.
    pub(super) scale: Option<u8>,
    /// Units of a call in which nothing stands at the path. Without them it is denied; where the path is of the result, what
    /// was held stays.
    pub(super) on_missing: Option<u64>,
    /// Units that a call costs at least.
    pub(super) min: u64,
    /// Units that are held until the answer tells the amount; 0 where it is known before.
    pub(super) hold: u64,
}

impl Amount {
    /// The units of one call.
    pub(super) fn units(&self, facts: &Facts<'_>) -> Result<u64, Reason> {
        let arguments = facts.call.arguments;
        let units = match &self.source {
            Source::Nothing => return Ok(0),
            Source::Call => self.whole(1)?,
            Source::RequestBytes => self.whole(facts.call.request_bytes)?,
            Source::ResponseBytes | Source::Result(_) => self.hold,
            Source::Bytes(None) => self.length(arguments.map_or(0, |value| value.source().len()))?,
            Source::Argument(path) | Source::Bytes(Some(path)) | Source::Count(path) => {
                match path.find(arguments).filter(|value| value.kind() != Kind::Null) {
                    // What stands in the way might be an object to the server, with anything in it.
                    None if path.is_blocked(arguments) => return Err(Reason::BadIncrement),
                    None => self.on_missing.ok_or(Reason::BadIncrement)?,
                    Some(value) => self.measure(value, facts.compat)?,
                }
            }
        };
        Ok(units.max(self.min))
    }

    /// The fewest units that any call can cost.
    pub(super) fn least(&self) -> u64 {
        match self.source {
            Source::Call | Source::RequestBytes => unit(self.scale.unwrap_or(0)).max(self.min),
            Source::Argument(_) | Source::Bytes(_) | Source::Count(_) | Source::Nothing => self.min,
            Source::ResponseBytes | Source::Result(_) => self.hold.max(self.min),
        }
    }

    /// What settling has to know.
    pub(super) fn actual(&self) -> Actual {
        match self.source {
            Source::ResponseBytes => Actual::Bytes { scale: self.scale.unwrap_or(0), min: self.min },
            Source::Result(_) => Actual::Usage,
            Source::Argument(_)
            | Source::Bytes(_)
            | Source::Call
            | Source::Count(_)
            | Source::Nothing
            | Source::RequestBytes => Actual::Held,
        }
    }

    /// Whether both read the same units from a result, whatever they hold.
    pub(super) fn tells_as(&self, other: &Self) -> bool {
        Self { hold: 0, ..self.clone() } == Self { hold: 0, ..other.clone() }
    }

    /// The units that a result tells, if it tells any. Nobody can be denied any more: what is too fine counts as one unit more
    /// and what is too large as the most that is counted. What is no amount at all tells nothing, so that the hold stays.
    pub(super) fn told(&self, result: Value<'_>) -> Option<u64> {
        let Source::Result(path) = &self.source else { return None };
        let units = match path.find(Some(result)).filter(|value| value.kind() != Kind::Null) {
            None if path.is_blocked(Some(result)) => return None,
            None => self.on_missing?,
            Some(value) => {
                let number = value.number_text().and_then(Decimal::parse)?;
                match number.to_units(self.scale.unwrap_or(0), Rounding::Up) {
                    Ok(units) => units,
                    Err(AmountError::TooLarge) => AMOUNT_MAX,
                    Err(AmountError::Negative | AmountError::TooFine | AmountError::Unreadable) => return None,
                }
            }
        };
        Some(units.max(self.min))
    }

    fn measure(&self, value: Value<'_>, compat: Compat) -> Result<u64, Reason> {
        match &self.source {
            Source::Bytes(_) => self.length(value.as_str().map_or_else(|| value.source().len(), |text| text.len())),
            Source::Count(_) if value.kind() == Kind::Array => self.length(value.len()),
            Source::Argument(_) => self.number(value, compat),
            Source::Call
            | Source::Count(_)
            | Source::Nothing
            | Source::RequestBytes
            | Source::ResponseBytes
            | Source::Result(_) => Err(Reason::BadIncrement),
        }
    }

    fn number(&self, value: Value<'_>, compat: Compat) -> Result<u64, Reason> {
        let number = value.number_text().and_then(Decimal::parse).ok_or(Reason::BadIncrement)?;
        let (scale, rounding) = self.scale.map_or((0, Rounding::Up), |scale| (scale, Rounding::Refused));
        match (number.to_units(scale, rounding), compat) {
            (Ok(amount), _) => Ok(amount),
            // The predecessor lets these pass and gives credit for them. They pass; there is no credit.
            (Err(AmountError::Negative), Compat::Lenient) => Ok(0),
            (
                Err(AmountError::Negative | AmountError::TooFine | AmountError::TooLarge | AmountError::Unreadable),
                _,
            ) => Err(Reason::BadIncrement),
        }
    }

    fn length(&self, length: usize) -> Result<u64, Reason> {
        self.whole(u64::try_from(length).unwrap_or(u64::MAX))
    }

    fn whole(&self, count: u64) -> Result<u64, Reason> {
        let units = count.checked_mul(unit(self.scale.unwrap_or(0)));
        units.filter(|units| *units <= AMOUNT_MAX).ok_or(Reason::BadIncrement)
    }
}
