//! Reading `window`, `time_zone`, `week_start`, `scope` and `scale`: what a counter is.

use std::sync::Arc;

use super::{Version, fields, read_path};
use crate::document::{Cursor, Fields, Shape, quoted, suggestion};
use crate::number::{SCALE_MAX, unit};
use crate::policy::condition::Path;
use crate::policy::limit::{Counter, Owner, Part, Scope};
use crate::policy::window::{DURATION_MS_MAX, Kind, Window, parse_duration};
use crate::quota::{BUCKETS_MAX, Calendar, Unit, Weekday, Zone};

/// Buckets of a sliding window whose author names no number.
pub(super) const BUCKETS: u64 = 60;
/// How long a call in flight keeps its slot without a sign of life, where the author does not say.
pub(super) const LEASE_MS: u64 = 120_000;
/// Paths that a streak leaves out.
pub(super) const IGNORED_MAX: usize = 16;
/// Units that a token bucket may refill with at a time.
const REFILL_MAX: u64 = 1_000_000_000;

/// The keys that make a counter, all but the first two since version 2.
pub(super) const KEYS: &[&str] = &["window", "scope", "time_zone", "week_start", "scale"];
const UNITS_1: &[&str] = &["minute", "hour", "day"];
const UNITS: &[&str] = &["minute", "hour", "day", "week", "month"];
const KINDS: &[&str] = &["sliding", "token_bucket", "in_flight", "streak", "lifetime"];

/// Reads what a counter is from the map that holds it.
pub(super) fn read_counter(keys: &Fields<'_>, version: Version, name: Option<&str>, owner: Owner) -> Option<Counter> {
    let window = keys.required("window").and_then(|cursor| read_kind(&cursor, version));
    let scope = keys.required("scope").and_then(|cursor| read_scope(&cursor, version));
    let scale = keys.optional("scale").map(|cursor| cursor.u64_in(&(0..=u64::from(SCALE_MAX))));
    let scale = match scale {
        None => None,
        Some(scale) => Some(u8::try_from(scale?).ok()?),
    };
    let window = read_calendar(keys, window?)?;
    let window = in_units(keys, window, scale)?;
    if let Some(cursor) = keys.optional("scale").filter(|_| window.counts_calls_only()) {
        cursor.defect(format!("{} counts whole calls: it has no decimal places", quoted(&window.text)));
    }
    Some(Counter { name: name?.into(), owner, window, scope: scope?, scale })
}

/// A window as it is written; zone, week and scale follow.
enum Written {
    Calendar(Unit),
    Other(Kind),
}

fn read_kind(cursor: &Cursor<'_>, version: Version) -> Option<Written> {
    match (&cursor.node().shape, version) {
        (Shape::Map(_), Version::Two) => read_map(cursor),
        (Shape::Map(_), Version::One) => {
            let message = "expected one of `minute`, `hour`, `day`, found a map";
            cursor.defect_with_hint(message, "version \"2\" has other windows");
            None
        }
        (Shape::Bool(_) | Shape::List(_) | Shape::Null | Shape::Number(_) | Shape::String(_), _) => {
            read_word(cursor, version)
        }
    }
}

fn read_word(cursor: &Cursor<'_>, version: Version) -> Option<Written> {
    let text = cursor.string()?;
    let known = if version == Version::One { UNITS_1 } else { UNITS };
    match text {
        "minute" => return Some(Written::Calendar(Unit::Minute)),
        "hour" => return Some(Written::Calendar(Unit::Hour)),
        "day" => return Some(Written::Calendar(Unit::Day)),
        "week" if version == Version::Two => return Some(Written::Calendar(Unit::Week)),
        "month" if version == Version::Two => return Some(Written::Calendar(Unit::Month)),
        "in_flight" if version == Version::Two => {
            return Some(Written::Other(Kind::InFlight { lease_ms: LEASE_MS }));
        }
        "lifetime" if version == Version::Two => return Some(Written::Other(Kind::Lifetime { idle_ms: 0 })),
        _ => {}
    }
    let words = if version == Version::One { &[][..] } else { &["in_flight", "lifetime"] };
    let list: Vec<String> = known.iter().chain(words).map(|word| format!("`{word}`")).collect();
    let message = format!("expected one of {}, found {}", list.join(", "), quoted(text));
    let needs_more = match text {
        "sliding" => Some("write a map, such as `{\"sliding\": \"15m\"}`"),
        "streak" => Some("write a map, such as `{\"streak\": {\"idle\": \"10m\"}}`"),
        "token_bucket" => Some("write a map, such as `{\"token_bucket\": {\"refill\": 10, \"per\": \"1m\"}}`"),
        _ => None,
    };
    let close = suggestion(text, known.iter().chain(words).copied());
    match (version, needs_more, close) {
        (Version::One, _, _) if UNITS.contains(&text) || KINDS.contains(&text) => {
            cursor.defect_with_hint(message, format!("version \"2\" has `{text}`"));
        }
        (Version::Two, Some(hint), _) => cursor.defect_with_hint(message, hint),
        (_, _, Some(close)) => cursor.defect_with_hint(message, format!("did you mean `{close}`?")),
        (_, _, None) => cursor.defect(message),
    }
    None
}

/// One kind, and for `sliding` its buckets.
fn read_map(cursor: &Cursor<'_>) -> Option<Written> {
    let present: Vec<&str> = KINDS.iter().copied().filter(|kind| cursor.has_key(kind)).collect();
    let [kind] = *present else {
        let list = KINDS.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
        let found = if present.is_empty() { "none" } else { "several" };
        let hint = "calendar windows are words: `minute`, `hour`, `day`, `week`, `month`";
        cursor.defect_with_hint(format!("expected a map with one of {list}, found {found}"), hint);
        return None;
    };
    let known: &[&str] = if kind == "sliding" { &["sliding", "buckets"] } else { &present };
    let keys = cursor.fields(known)?;
    let value = keys.required(kind)?;
    match kind {
        "sliding" => read_sliding(&keys, &value),
        "token_bucket" => read_bucket(&value),
        "in_flight" => {
            let lease_ms = fields(&value, &["lease"])?.required("lease").and_then(|lease| read_duration(&lease))?;
            Some(Written::Other(Kind::InFlight { lease_ms }))
        }
        "streak" => read_streak(&value),
        _ => {
            let idle_ms = fields(&value, &["idle"])?.required("idle").and_then(|idle| read_duration(&idle))?;
            Some(Written::Other(Kind::Lifetime { idle_ms }))
        }
    }
}

/// A bucket is whole milliseconds, rounded up, and there are as many as cover the length: a little longer, never shorter.
fn read_sliding(keys: &Fields<'_>, length: &Cursor<'_>) -> Option<Written> {
    let length_ms = read_duration(length);
    let buckets = keys.optional("buckets").map(|cursor| (cursor.u64_in(&(1..=BUCKETS_MAX)), cursor));
    let length_ms = length_ms?;
    let wanted = match &buckets {
        Some((count, _)) => (*count)?,
        None => BUCKETS.min(length_ms),
    };
    if let Some((_, cursor)) = buckets.as_ref().filter(|_| wanted > length_ms) {
        cursor.defect(format!("a bucket would be shorter than 1 ms: at most {length_ms} fit"));
        return None;
    }
    let bucket_ms = length_ms.div_ceil(wanted.max(1));
    let chosen = buckets.map(|_| wanted).filter(|wanted| *wanted != BUCKETS);
    Some(Written::Other(Kind::Rolling { length_ms, bucket_ms, buckets: length_ms.div_ceil(bucket_ms), chosen }))
}

fn read_bucket(cursor: &Cursor<'_>) -> Option<Written> {
    let keys = fields(cursor, &["refill", "per"])?;
    let refill = keys.required("refill").and_then(|refill| refill.u64_in(&(1..=REFILL_MAX)));
    let per_ms = keys.required("per").and_then(|per| read_duration(&per));
    // The interval follows once the decimal places are known.
    let kind = Kind::TokenBucket { interval_us: 0, refill: refill?.to_string().into(), per_ms: per_ms? };
    Some(Written::Other(kind))
}

fn read_streak(cursor: &Cursor<'_>) -> Option<Written> {
    let keys = fields(cursor, &["idle", "ignore"])?;
    let idle_ms = keys.required("idle").and_then(|idle| read_duration(&idle));
    let mut ignore: Vec<Path> = Vec::new();
    let mut sound = true;
    if let Some(list) = keys.optional("ignore") {
        let items = list.items()?;
        if items.is_empty() || items.len() > IGNORED_MAX {
            list.defect(format!("expected 1 to {IGNORED_MAX} paths, found {}", items.len()));
            return None;
        }
        for item in items {
            match read_path(&item) {
                Some(path) if ignore.contains(&path) => {
                    item.defect(format!("{} is in the list already", quoted(&path.text())));
                }
                Some(path) => ignore.push(path),
                None => sound = false,
            }
        }
    }
    let kind = Kind::Streak { idle_ms: idle_ms?, ignore: ignore.into() };
    sound.then_some(Written::Other(kind))
}

/// Puts zone and week start into a calendar window, and refuses them beside any other.
fn read_calendar(keys: &Fields<'_>, window: Written) -> Option<Window> {
    let (zone, week) = (keys.optional("time_zone"), keys.optional("week_start"));
    let unit = match window {
        Written::Calendar(unit) => unit,
        Written::Other(kind) => {
            let window = Window::of(kind);
            for cursor in [zone, week].into_iter().flatten() {
                cursor.defect(format!("{} does not follow the calendar", quoted(&window.text)));
            }
            return Some(window);
        }
    };
    let zone = zone.map_or(Some(Zone::Utc), |cursor| read_zone(&cursor));
    let week_start = match &week {
        None => Some(Weekday::Monday),
        Some(cursor) if unit != Unit::Week => {
            cursor.defect("only `window: week` has a first day");
            None
        }
        Some(cursor) => cursor.one_of(&["monday", "sunday"]).map(|day| match day {
            "sunday" => Weekday::Sunday,
            _ => Weekday::Monday,
        }),
    };
    Some(Window::of(Kind::Calendar(Calendar { unit, zone: zone?, week_start: week_start? })))
}

fn read_zone(cursor: &Cursor<'_>) -> Option<Zone> {
    let name = cursor.non_empty()?;
    let found = Zone::find(name);
    // The database ignores letter case; a policy does not, so that one zone has one spelling.
    match found {
        Some(zone) if zone.name() == name => return Some(zone),
        Some(zone) => {
            let hint = format!("did you mean `{}`?", zone.name());
            cursor.defect_with_hint(format!("there is no time zone {}", quoted(name)), hint);
        }
        None => {
            let hint = "names of the IANA database, such as `Europe/Berlin`, or `UTC`";
            cursor.defect_with_hint(format!("there is no time zone {}", quoted(name)), hint);
        }
    }
    None
}

/// Computes what depends on the decimal places: how long a token bucket takes for one unit, rounded up, so that it never
/// refills faster than its author says.
fn in_units(keys: &Fields<'_>, window: Window, scale: Option<u8>) -> Option<Window> {
    let Kind::TokenBucket { refill, per_ms, .. } = &window.kind else { return Some(window) };
    let cursor = keys.optional("window")?;
    let per_us = per_ms.saturating_mul(1_000);
    let units = refill.parse::<u64>().ok()?.checked_mul(unit(scale.unwrap_or(0))).filter(|units| *units <= per_us);
    let Some(units) = units else {
        cursor.defect("the bucket would refill faster than one unit in a microsecond");
        return None;
    };
    let interval_us = per_us.div_ceil(units);
    // What rounding up takes from the author, in hundredths.
    let lost = interval_us.saturating_mul(units).saturating_sub(per_us).saturating_mul(100);
    if lost > per_us {
        let message =
            "one unit takes no whole number of microseconds, and rounding it up slows the refill by over 1 percent";
        cursor.warn(message, None);
    }
    let kind = Kind::TokenBucket { interval_us, refill: Arc::clone(refill), per_ms: *per_ms };
    Some(Window { kind, ..window })
}

/// `<integer><ms|s|m|h|d>`.
fn read_duration(cursor: &Cursor<'_>) -> Option<u64> {
    let days = DURATION_MS_MAX / 86_400_000;
    let what = format!("a duration from `1ms` to `{days}d`, such as `500ms`, `90s`, `15m`, `6h` or `7d`");
    let Shape::String(text) = &cursor.node().shape else {
        cursor.expected(&what);
        return None;
    };
    let duration = parse_duration(text);
    if duration.is_none() {
        cursor.defect(format!("expected {what}, found {}", quoted(text)));
    }
    duration
}

fn read_scope(cursor: &Cursor<'_>, version: Version) -> Option<Scope> {
    let items = match (&cursor.node().shape, version) {
        (Shape::List(_), Version::Two) => cursor.items()?,
        (Shape::List(_), Version::One) => {
            cursor.defect_with_hint("expected a string, found a list", "version \"2\" has combinations");
            return None;
        }
        (Shape::Bool(_) | Shape::Map(_) | Shape::Null | Shape::Number(_) | Shape::String(_), _) => vec![cursor.clone()],
    };
    if items.is_empty() {
        cursor.defect("needs at least one word");
        return None;
    }
    let mut parts: Vec<Part> = Vec::new();
    let mut sound = true;
    for item in &items {
        match read_part(item, version) {
            Some(part) if parts.contains(&part) => {
                item.defect(format!("{} is in the list already", quoted(part.name())));
                sound = false;
            }
            Some(part) => parts.push(part),
            None => sound = false,
        }
    }
    if sound && parts.contains(&Part::Policy) && parts.len() > 1 {
        if parts.contains(&Part::Global) {
            cursor.defect("a counter is of one policy or of all: not both `policy` and `global`");
        } else {
            let hint = "leave it out: without `global` a counter is of its policy";
            cursor.defect_with_hint("`policy` beside another word says nothing", hint);
        }
        return None;
    }
    sound.then(|| Scope::new(parts))
}

fn read_part(cursor: &Cursor<'_>, version: Version) -> Option<Part> {
    let text = cursor.string()?;
    let known: &[Part] = if version == Version::One { &[Part::Grant, Part::Policy] } else { Part::ALL };
    if let Some(part) = known.iter().copied().find(|part| part.name() == text) {
        return Some(part);
    }
    let list = known.iter().map(|part| format!("`{}`", part.name())).collect::<Vec<_>>().join(", ");
    let message = format!("expected one of {list}, found {}", quoted(text));
    let close = suggestion(text, known.iter().map(|part| part.name()));
    if text == "session" {
        let why = "an agent opens a new session when it likes; use `grant` with the window `{\"lifetime\": {\"idle\": \"30m\"}}`";
        cursor.defect_with_hint(message, why);
    } else if version == Version::One && Part::ALL.iter().any(|part| part.name() == text) {
        cursor.defect_with_hint(message, format!("version \"2\" has `{text}`"));
    } else if let Some(close) = close {
        cursor.defect_with_hint(message, format!("did you mean `{close}`?"));
    } else {
        cursor.defect(message);
    }
    None
}
