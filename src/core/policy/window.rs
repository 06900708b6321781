//! What a counter measures, as the author wrote it.

use std::fmt::Write as _;
use std::sync::Arc;

use super::condition::Path;
use super::fingerprint;
use super::limit::Call;
use crate::quota::{Calendar, Fingerprint, Measure, Unit, Weekday, Zone};

/// A kind of window with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A calendar window.
    Calendar(Calendar),
    /// Calls that run now.
    InFlight { lease_ms: u64 },
    /// Everything, until it is idle for so long; 0 for never.
    Lifetime { idle_ms: u64 },
    /// The last so many milliseconds. `chosen` are the buckets that the author asks for.
    Rolling { length_ms: u64, bucket_ms: u64, buckets: u64, chosen: Option<u64> },
    /// Equal calls in a row.
    Streak { idle_ms: u64, ignore: Box<[Path]> },
    /// A bucket that refills.
    TokenBucket { interval_us: u64, refill: Arc<str>, per_ms: u64 },
}

/// A window and its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) kind: Kind,
    /// For people: `hour`, `day Europe/Berlin`, `sliding 15m`.
    pub(super) text: Arc<str>,
    /// For the labels of stores: `hour-utc`, `day-europe-berlin`, `sliding-15m`.
    pub(super) slug: Arc<str>,
    /// For the names of counters. What may change without a new counter is no part: an edit of a lease or of an idle time
    /// must not hand out a fresh quota.
    pub(super) key: Arc<str>,
}

impl Window {
    /// Names a calendar window.
    fn calendar(calendar: Calendar) -> Self {
        let mut text = calendar.unit.name().to_owned();
        let mut slug = text.clone();
        if (calendar.unit, calendar.week_start) == (Unit::Week, Weekday::Sunday) {
            text.push_str(" from Sunday");
            slug.push_str("-sunday");
        }
        if let Zone::Named { name, .. } = &calendar.zone {
            text.push(' ');
            text.push_str(name);
        }
        slug.push('-');
        slug.extend(calendar.zone.name().chars().map(plain));
        let key = text.as_str().into();
        Self { kind: Kind::Calendar(calendar), text: text.into(), slug: slug.into(), key }
    }

    /// Names any window.
    pub(super) fn of(kind: Kind) -> Self {
        let (text, slug, key) = match &kind {
            Kind::Calendar(calendar) => return Self::calendar(calendar.clone()),
            Kind::InFlight { .. } => ("in flight".to_owned(), "in_flight".to_owned(), None),
            Kind::Lifetime { idle_ms: 0 } => ("lifetime".to_owned(), "lifetime".to_owned(), None),
            Kind::Lifetime { idle_ms } => {
                (format!("lifetime idle {}", duration_text(*idle_ms)), "lifetime".to_owned(), Some("lifetime"))
            }
            Kind::Rolling { length_ms, chosen, .. } => {
                let length = duration_text(*length_ms);
                let mut slug = format!("sliding-{length}");
                let mut text = format!("sliding {length}");
                if let Some(buckets) = chosen {
                    slug.push_str(&format!("-{buckets}"));
                    text.push_str(&format!(" of {buckets} buckets"));
                }
                (text, slug, None)
            }
            Kind::Streak { .. } => ("streak".to_owned(), "streak".to_owned(), None),
            Kind::TokenBucket { refill, per_ms, .. } => {
                let per = duration_text(*per_ms);
                (format!("token bucket {refill} per {per}"), format!("token_bucket-{refill}-{per}"), None)
            }
        };
        let key = key.map_or_else(|| text.as_str().into(), Arc::from);
        Self { kind, text: text.into(), slug: slug.into(), key }
    }

    /// Every number of it: policies share a global counter only if they agree on all of them, because the one with the shorter
    /// lease or idle time would forget what the other counts on.
    pub(super) fn full_key(&self, max: u64) -> Arc<str> {
        let mut key = self.key.to_string();
        let more = match &self.kind {
            Kind::Calendar(_) | Kind::Rolling { .. } => None,
            Kind::InFlight { lease_ms } => Some(*lease_ms),
            Kind::Lifetime { idle_ms } | Kind::Streak { idle_ms, .. } => Some(*idle_ms),
            Kind::TokenBucket { .. } => Some(max),
        };
        if let Some(more) = more {
            // Writing to a String cannot fail.
            let _written = write!(key, " {more}").is_ok();
        }
        key.into()
    }

    /// The measure of one call. Costs a hash of the arguments for a streak, and next to nothing for the others.
    pub(super) fn measure(&self, call: &Call<'_>) -> Measure {
        match &self.kind {
            Kind::Streak { ignore, .. } => self.measure_with(fingerprint::of(call.tool, call.arguments, ignore)),
            Kind::Calendar(_)
            | Kind::InFlight { .. }
            | Kind::Lifetime { .. }
            | Kind::Rolling { .. }
            | Kind::TokenBucket { .. } => self.measure_with(Fingerprint([0; 16])),
        }
    }

    /// The measure with that fingerprint for a streak.
    pub(super) fn measure_with(&self, fingerprint: Fingerprint) -> Measure {
        match &self.kind {
            Kind::Calendar(calendar) => Measure::Calendar(calendar.clone()),
            Kind::InFlight { lease_ms } => Measure::InFlight { lease_ms: *lease_ms },
            Kind::Lifetime { idle_ms } => Measure::Lifetime { idle_ms: *idle_ms },
            Kind::Rolling { bucket_ms, buckets, .. } => Measure::Rolling { bucket_ms: *bucket_ms, buckets: *buckets },
            Kind::Streak { idle_ms, .. } => Measure::Streak { fingerprint, idle_ms: *idle_ms },
            Kind::TokenBucket { interval_us, .. } => Measure::TokenBucket { interval_us: *interval_us },
        }
    }

    /// Whether a limit on it counts calls and nothing else.
    pub(super) const fn counts_calls_only(&self) -> bool {
        matches!(self.kind, Kind::InFlight { .. } | Kind::Streak { .. })
    }
}

/// Letters, digits and `-` only. No two zones of the database become one name.
fn plain(c: char) -> char {
    match c {
        '+' => 'p',
        c if c.is_ascii_alphanumeric() => c.to_ascii_lowercase(),
        _ => '-',
    }
}

const UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Longest duration in a policy.
pub(super) const DURATION_MS_MAX: u64 = 366 * 86_400_000;

/// Reads `<integer><ms|s|m|h|d>` from 1 ms to 366 days; `None` for anything else.
pub(super) fn parse_duration(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    // No leading zeros: one length has one spelling with each unit.
    if number.starts_with('0') || number.len() > 12 {
        return None;
    }
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor).filter(|ms| (1..=DURATION_MS_MAX).contains(ms))
}

/// The duration in the largest unit that has no fraction: `15m`, `90s`.
pub(super) fn duration_text(ms: u64) -> String {
    let unit = UNITS.iter().find(|(_, factor)| ms.checked_rem(*factor) == Some(0));
    let (name, factor) = unit.copied().unwrap_or(("ms", 1));
    format!("{}{name}", ms.checked_div(factor).unwrap_or(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        for (text, ms) in [
            ("1ms", 1),
            ("90s", 90_000),
            ("15m", 900_000),
            ("24h", 86_400_000),
            ("366d", DURATION_MS_MAX),
            ("31622400000ms", DURATION_MS_MAX),
        ] {
            assert_eq!(parse_duration(text), Some(ms), "{text}");
        }
        for text in [
            "",
            "0s",
            "00s",
            "01s",
            "s",
            "5",
            "1.5h",
            "-1s",
            "+1s",
            "1 s",
            " 1s",
            "1s ",
            "1S",
            "1M",
            "1w",
            "1h30m",
            "١s",
            "367d",
            "31622400001ms",
            "9999999999999ms",
            "1mss",
            "1ms\n",
        ] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_duration_is_told_in_its_largest_whole_unit() {
        for (ms, text) in
            [(1, "1ms"), (60_000, "1m"), (90_000, "90s"), (3_600_000, "1h"), (172_800_000, "2d"), (1_001, "1001ms")]
        {
            assert_eq!((duration_text(ms).as_str(), parse_duration(text)), (text, Some(ms)));
        }
    }
}
