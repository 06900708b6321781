//! Windows of the calendar, in UTC or in a time zone.

use std::sync::Arc;

use jiff::{Timestamp, ToSpan as _, civil, tz::TimeZone};

/// How long a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// From midnight.
    Day,
    /// From the full hour.
    Hour,
    /// From the full minute.
    Minute,
    /// From midnight of the first.
    Month,
    /// From midnight of the day that the week starts with.
    Week,
}

impl Unit {
    /// The name in policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Day => "day",
            Unit::Hour => "hour",
            Unit::Minute => "minute",
            Unit::Month => "month",
            Unit::Week => "week",
        }
    }
}

/// The day that a week starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weekday {
    /// ISO 8601.
    Monday,
    /// As in the United States.
    Sunday,
}

/// Whose midnight counts.
#[derive(Clone, Debug)]
pub enum Zone {
    /// A zone of the IANA database that is compiled in, so that all replicas agree on it.
    Named {
        /// Its name, e.g. `Europe/Berlin`.
        name: Arc<str>,
        /// Its rules.
        rules: TimeZone,
    },
    /// Coordinated universal time.
    Utc,
}

impl Zone {
    /// Finds a zone by its IANA name; `None` if there is none.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        if name == "UTC" {
            return Some(Zone::Utc);
        }
        // The bundled database only: a machine's own could differ from another replica's.
        let rules = jiff::tz::TimeZoneDatabase::bundled().get(name).ok()?;
        Some(Zone::Named { name: Arc::from(rules.iana_name()?), rules })
    }

    /// The name: `UTC` or the IANA name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Zone::Named { name, .. } => name,
            Zone::Utc => "UTC",
        }
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Zone {}

/// A kind of calendar window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// Its length.
    pub unit: Unit,
    /// Whose midnight counts.
    pub zone: Zone,
    /// What a week starts with; of no meaning for other units.
    pub week_start: Weekday,
}

/// The window that holds a moment, and the one after it. Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Start of the window, inclusive.
    pub start_ms: u64,
    /// Its end, exclusive: the start of the next.
    pub end_ms: u64,
    /// End of the next one.
    pub next_end_ms: u64,
}

impl Calendar {
    /// A window in UTC.
    #[must_use]
    pub const fn utc(unit: Unit) -> Self {
        Self { unit, zone: Zone::Utc, week_start: Weekday::Monday }
    }

    /// The windows around `now_ms`; `None` for times outside the years that the calendar knows.
    ///
    /// Days of a time zone last 23 or 25 hours when its clocks change; where midnight does not exist, the day begins with the
    /// first moment that does. Hours and minutes are counted from the zone's offset at that moment.
    #[must_use]
    pub fn bounds(&self, now_ms: u64) -> Option<Bounds> {
        const DAY_MS: u64 = 86_400_000;
        let fixed = match (self.unit, &self.zone) {
            (Unit::Minute, Zone::Utc) => Some(60_000),
            (Unit::Hour, Zone::Utc) => Some(3_600_000),
            (Unit::Day, Zone::Utc) => Some(DAY_MS),
            (Unit::Minute | Unit::Hour | Unit::Day, Zone::Named { .. }) | (Unit::Month | Unit::Week, _) => None,
        };
        if let Some(length) = fixed {
            let start_ms = now_ms.checked_sub(now_ms.checked_rem(length)?)?;
            let end_ms = start_ms.checked_add(length)?;
            return Some(Bounds { start_ms, end_ms, next_end_ms: end_ms.checked_add(length)? });
        }
        let utc = TimeZone::UTC;
        let rules = match &self.zone {
            Zone::Named { rules, .. } => rules,
            Zone::Utc => &utc,
        };
        match self.unit {
            Unit::Minute => self.clock_window(now_ms, 60_000, rules),
            Unit::Hour => self.clock_window(now_ms, 3_600_000, rules),
            Unit::Day | Unit::Month | Unit::Week => self.date_window(now_ms, rules),
        }
    }

    /// Windows that are counted on the clock of the zone: half-hour offsets shift the hours.
    #[expect(clippy::unused_self, reason = "one shape with its sibling")]
    fn clock_window(&self, now_ms: u64, length: u64, rules: &TimeZone) -> Option<Bounds> {
        let now = i64::try_from(now_ms).ok()?;
        let length = i64::try_from(length).ok()?;
        let offset = rules.to_offset(Timestamp::from_millisecond(now).ok()?);
        let local = now.checked_add(i64::from(offset.seconds()).checked_mul(1_000)?)?;
        let start = now.checked_sub(local.checked_rem_euclid(length)?)?;
        let ms = |n: i64| start.checked_add(length.checked_mul(n)?).and_then(|ms| u64::try_from(ms).ok());
        Some(Bounds { start_ms: ms(0)?, end_ms: ms(1)?, next_end_ms: ms(2)? })
    }

    fn date_window(&self, now_ms: u64, rules: &TimeZone) -> Option<Bounds> {
        let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
        let today = rules.to_datetime(now).date();
        let first = match self.unit {
            Unit::Month => today.first_of_month(),
            Unit::Week => {
                let into = match self.week_start {
                    Weekday::Monday => today.weekday().to_monday_zero_offset(),
                    Weekday::Sunday => today.weekday().to_sunday_zero_offset(),
                };
                today.checked_sub(i64::from(into).days()).ok()?
            }
            Unit::Day | Unit::Hour | Unit::Minute => today,
        };
        let step = |date: civil::Date| match self.unit {
            Unit::Month => date.checked_add(1.month()).ok(),
            Unit::Week => date.checked_add(7.days()).ok(),
            Unit::Day | Unit::Hour | Unit::Minute => date.checked_add(1.day()).ok(),
        };
        let begin = |date: civil::Date| {
            // `compatible`: a midnight that does not exist is the first moment after the gap, one that comes twice the first.
            let zoned = rules.to_ambiguous_zoned(date.at(0, 0, 0, 0)).compatible().ok()?;
            u64::try_from(zoned.timestamp().as_millisecond()).ok()
        };
        let start_ms = begin(first)?;
        // A day that a zone skipped whole, as Samoa did in 2011, begins when the next one does: it is no window.
        let after = |date: civil::Date, ms: u64| {
            let mut next = step(date)?;
            while begin(next)? <= ms {
                next = step(next)?;
            }
            Some((next, begin(next)?))
        };
        let (second, end_ms) = after(first, start_ms)?;
        Some(Bounds { start_ms, end_ms, next_end_ms: after(second, end_ms)?.1 })
    }
}

#[cfg(test)]
mod tests;
