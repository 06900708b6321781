use super::*;

fn ms(text: &str) -> u64 {
    u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
}

#[track_caller]
fn check(unit: Unit, zone: &str, week_start: Weekday, now: &str, expected: [&str; 3]) {
    let calendar = Calendar { unit, zone: Zone::find(zone).unwrap(), week_start };
    let bounds = calendar.bounds(ms(now)).unwrap();
    assert_eq!([bounds.start_ms, bounds.end_ms, bounds.next_end_ms], expected.map(ms), "{unit:?} {zone} {now}");
}

#[test]
fn windows_of_utc() {
    let m = Weekday::Monday;
    check(
        Unit::Minute,
        "UTC",
        m,
        "2026-11-21T14:36:08Z",
        ["2026-11-21T14:36:00Z", "2026-11-21T14:37:00Z", "2026-11-21T14:38:00Z"],
    );
    check(
        Unit::Hour,
        "UTC",
        m,
        "2026-11-21T14:00:00Z",
        ["2026-11-21T14:00:00Z", "2026-11-21T15:00:00Z", "2026-11-21T16:00:00Z"],
    );
    check(
        Unit::Day,
        "UTC",
        m,
        "2026-11-21T23:59:59.999Z",
        ["2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"],
    );
    check(
        Unit::Week,
        "UTC",
        m,
        "2026-11-21T14:36:08Z",
        ["2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"],
    );
    check(
        Unit::Week,
        "UTC",
        Weekday::Sunday,
        "2026-11-21T14:36:08Z",
        ["2026-11-15T00:00:00Z", "2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"],
    );
    check(
        Unit::Month,
        "UTC",
        m,
        "2024-02-29T12:00:00Z",
        ["2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z", "2024-04-01T00:00:00Z"],
    );
    check(
        Unit::Month,
        "UTC",
        m,
        "2026-12-31T23:59:59Z",
        ["2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"],
    );
}

#[test]
fn days_of_a_time_zone_last_23_or_25_hours_when_clocks_change() {
    let m = Weekday::Monday;
    check(
        Unit::Day,
        "Europe/Berlin",
        m,
        "2026-03-29T12:00:00Z",
        ["2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", "2026-03-30T22:00:00Z"],
    );
    check(
        Unit::Day,
        "Europe/Berlin",
        m,
        "2026-10-25T12:00:00Z",
        ["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", "2026-10-26T23:00:00Z"],
    );
}

#[test]
fn a_day_whose_midnight_does_not_exist_begins_with_its_first_moment() {
    // In Beirut clocks went from 00:00 to 01:00 on 2022-03-27.
    let m = Weekday::Monday;
    check(
        Unit::Day,
        "Asia/Beirut",
        m,
        "2022-03-27T10:00:00Z",
        ["2022-03-26T22:00:00Z", "2022-03-27T21:00:00Z", "2022-03-28T21:00:00Z"],
    );
}

#[test]
fn hours_of_a_zone_with_half_an_hour_of_offset_are_its_own() {
    let m = Weekday::Monday;
    check(
        Unit::Hour,
        "Asia/Kolkata",
        m,
        "2026-11-21T14:36:08Z",
        ["2026-11-21T14:30:00Z", "2026-11-21T15:30:00Z", "2026-11-21T16:30:00Z"],
    );
}

#[test]
fn every_moment_is_in_the_window_that_it_is_given() {
    for zone in ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Pacific/Apia"] {
        for unit in [Unit::Minute, Unit::Hour, Unit::Day, Unit::Week, Unit::Month] {
            let calendar = Calendar { unit, zone: Zone::find(zone).unwrap(), week_start: Weekday::Monday };
            let mut now = ms("2011-12-25T00:00:00Z");
            while now < ms("2012-01-05T00:00:00Z") {
                let bounds = calendar.bounds(now).unwrap();
                assert!(bounds.start_ms <= now && now < bounds.end_ms, "{zone} {unit:?} {now} {bounds:?}");
                assert!(bounds.end_ms < bounds.next_end_ms, "{zone} {unit:?} {now} {bounds:?}");
                now += 17 * 60_000 + 1;
            }
        }
    }
}

#[test]
fn an_unknown_zone_is_none() {
    for name in ["", "Mars/Olympus", "../etc/passwd", "Europe/Berlin ", "CET5"] {
        assert!(Zone::find(name).is_none(), "{name}");
    }
    assert_eq!(Zone::find("europe/berlin").unwrap().name(), "Europe/Berlin");
}
