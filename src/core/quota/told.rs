//! What a refused caller may be told of a counter, where its limit says `disclose: true`.

use super::{Calendar, Charge, Measure, Unit};
use crate::ledger::Standing;
use crate::number::units_shown;

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 86_400_000;

/// What is used and left of the charge's counter, in the author's unit, and when something of it comes back:
/// `5 of 5 used this hour; resets in 12 min`. Names no caller and no argument.
#[must_use]
pub fn told(charge: &Charge, standing: Standing) -> String {
    let shown = |units| units_shown(units, charge.terms.scale);
    let (used, max) = (shown(standing.used), shown(charge.max));
    let left = match standing.left {
        0 => String::new(),
        left => format!(", {} left", shown(left)),
    };
    let when = |verb: &str| standing.reset_ms.map_or_else(String::new, |ms| format!("; {verb} {}", time_shown(ms)));
    match &charge.measure {
        Measure::Calendar(calendar) => format!("{used} of {max} used {}{left}{}", this(calendar), when("resets in")),
        Measure::InFlight { .. } => format!("{used} of {max} calls running{left}"),
        Measure::Lifetime { idle_ms: 0 } => format!("{used} of {max} used{left}; does not reset"),
        Measure::Lifetime { idle_ms } => {
            format!("{used} of {max} used{left}; resets after {} without a call", time_shown(*idle_ms))
        }
        Measure::Rolling { bucket_ms, buckets } => {
            let span = time_shown(bucket_ms.saturating_mul(*buckets));
            format!("{used} of {max} used in the last {span}{left}{}", when("more in"))
        }
        Measure::Streak { idle_ms, .. } => {
            let idle = time_shown(*idle_ms);
            format!("{used} equal calls in a row, at most {max}; another call or {idle} without one ends the row")
        }
        Measure::TokenBucket { .. } => format!("{used} of {max} used{left}{}", when("enough for this call in")),
    }
}

/// A time as people say it, rounded up, so that whoever waits that long has waited long enough: `45 s`, `12 min`, `3 h 20 min`.
#[must_use]
pub fn time_shown(ms: u64) -> String {
    let (large, small) = match ms {
        0..=120_000 => return format!("{} s", ms.div_ceil(SECOND_MS)),
        120_001..=7_200_000 => return format!("{} min", ms.div_ceil(MINUTE_MS)),
        7_200_001..=172_800_000 => ((HOUR_MS, "h"), (MINUTE_MS, "min")),
        _ => ((DAY_MS, "days"), (HOUR_MS, "h")),
    };
    let count = ms.div_ceil(small.0);
    let per = large.0.checked_div(small.0).unwrap_or(1);
    let (whole, rest) = (count.checked_div(per).unwrap_or(0), count.checked_rem(per).unwrap_or(0));
    match rest {
        0 => format!("{whole} {}", large.1),
        rest => format!("{whole} {} {rest} {}", large.1, small.1),
    }
}

const fn this(calendar: &Calendar) -> &'static str {
    match calendar.unit {
        Unit::Day => "today",
        Unit::Hour => "this hour",
        Unit::Minute => "this minute",
        Unit::Month => "this month",
        Unit::Week => "this week",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        decision::{Denial, Reason},
        quota::{
            Actual, CountOn, CounterKey, Fingerprint, Mode, OnExpiry, OnUnavailable, RefundOn, Terms, Weekday, Zone,
        },
    };

    fn charge(measure: Measure, max: u64, scale: u8) -> Charge {
        let terms = Terms {
            policy: "p".into(),
            name: "c".into(),
            label: "c:x".into(),
            scope: "grant".into(),
            window: "hour".into(),
            scale,
            denial: Denial::built_in(Reason::QuotaExhausted),
            disclose: true,
            count_on: CountOn::Forwarded,
            refund_on: RefundOn::default(),
            actual: Actual::default(),
            on_unavailable: OnUnavailable::Deny,
            on_expiry: OnExpiry::Keep,
        };
        let counter = CounterKey::of(&["c"]);
        Charge { counter, measure, mode: Mode::Consume, amount: 1, max, terms: Arc::new(terms) }
    }

    fn calendar(unit: Unit) -> Measure {
        Measure::Calendar(Calendar { unit, zone: Zone::Utc, week_start: Weekday::Monday })
    }

    #[test]
    fn each_measure_is_told_in_its_own_words() {
        let full = |reset_ms| Standing { used: 5, left: 0, reset_ms };
        let fingerprint = Fingerprint([7; 16]);
        for (measure, reset_ms, text) in [
            (calendar(Unit::Minute), Some(30_000), "5 of 5 used this minute; resets in 30 s"),
            (calendar(Unit::Hour), Some(720_000), "5 of 5 used this hour; resets in 12 min"),
            (calendar(Unit::Day), Some(10_800_001), "5 of 5 used today; resets in 3 h 1 min"),
            (calendar(Unit::Week), Some(172_800_001), "5 of 5 used this week; resets in 2 days 1 h"),
            (calendar(Unit::Month), Some(432_000_000), "5 of 5 used this month; resets in 5 days"),
            (Measure::InFlight { lease_ms: 9 }, Some(70_000), "5 of 5 calls running"),
            (Measure::Lifetime { idle_ms: 0 }, None, "5 of 5 used; does not reset"),
            (Measure::Lifetime { idle_ms: 1_800_000 }, None, "5 of 5 used; resets after 30 min without a call"),
            (
                Measure::Rolling { bucket_ms: 15_000, buckets: 60 },
                Some(1),
                "5 of 5 used in the last 15 min; more in 1 s",
            ),
            (
                Measure::Streak { fingerprint, idle_ms: 600_000 },
                Some(600_000),
                "5 equal calls in a row, at most 5; another call or 10 min without one ends the row",
            ),
            (Measure::TokenBucket { interval_us: 1 }, Some(11_001), "5 of 5 used; enough for this call in 12 s"),
        ] {
            assert_eq!(told(&charge(measure, 5, 0), full(reset_ms)), text);
        }
    }

    #[test]
    fn what_is_left_is_told_in_the_unit_of_the_author() {
        let standing = Standing { used: 48_000, left: 2_000, reset_ms: Some(60_000) };
        let text = told(&charge(calendar(Unit::Day), 50_000, 2), standing);
        assert_eq!(text, "480.00 of 500.00 used today, 20.00 left; resets in 60 s");
    }

    #[test]
    fn units_have_as_many_places_as_the_scale_says() {
        for (units, scale, text) in [
            (0, 0, "0"),
            (7, 0, "7"),
            (0, 2, "0.00"),
            (7, 2, "0.07"),
            (1_234, 3, "1.234"),
            (u64::MAX, 1, "1844674407370955161.5"),
        ] {
            assert_eq!(units_shown(units, scale), text);
        }
    }

    #[test]
    fn times_are_never_told_too_short() {
        for (ms, text) in [
            (0, "0 s"),
            (1, "1 s"),
            (120_000, "120 s"),
            (120_001, "3 min"),
            (7_200_000, "120 min"),
            (7_200_001, "2 h 1 min"),
            (172_800_000, "48 h"),
            (172_800_001, "2 days 1 h"),
        ] {
            assert_eq!(time_shown(ms), text);
        }
    }
}
