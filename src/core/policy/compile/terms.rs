//! Reading the rest of a limit: what it does, what it costs, and when it counts.

use super::{AmountFrom, Place, Version, read_path};
use crate::document::{Cursor, Fields, Shape, quoted};
use crate::number::{AMOUNT_MAX, Decimal, Rounding, units_text};
use crate::policy::amount::{Amount, Source};
use crate::policy::condition::Compat;
use crate::policy::limit::Counter;
use crate::policy::window::Kind;
use crate::quota::{CountOn, Mode, OnExpiry, OnUnavailable, RefundOn};

/// What version 2 adds to a limit, besides what makes its counter.
pub(super) const KEYS: &[&str] = &[
    "mode",
    "hold",
    "on_missing",
    "min_increment",
    "count_on",
    "refund_on",
    "on_unavailable",
    "on_expiry",
    "disclose",
];

/// When a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settlement {
    pub(super) count_on: CountOn,
    pub(super) refund_on: RefundOn,
    pub(super) on_unavailable: OnUnavailable,
    pub(super) on_expiry: OnExpiry,
}

/// Reads `mode`, and `count_on: attempt`, which says the same.
pub(super) fn read_mode(keys: &Fields<'_>, counter: Option<&Counter>) -> Option<Mode> {
    let kind = counter.map(|counter| &counter.window.kind);
    let stated = match keys.optional("mode") {
        None => None,
        Some(cursor) => Some(match cursor.one_of(&["consume", "gate", "track", "attempt"])? {
            "attempt" => Mode::Attempt,
            "gate" => Mode::Gate,
            "track" => Mode::Track,
            _ => Mode::Consume,
        }),
    };
    let by_count = keys.optional("count_on").filter(|cursor| is_text(cursor, "attempt"));
    let default = match (&by_count, kind) {
        (Some(_), _) | (None, Some(Kind::Streak { .. })) => Mode::Attempt,
        (None, _) => Mode::Consume,
    };
    let mode = stated.unwrap_or(default);
    let name = mode.name();
    if let Some(cursor) = by_count.filter(|_| mode != Mode::Attempt) {
        cursor.defect(format!("`count_on: attempt` means `mode: attempt`, and `mode: {name}` stands beside it"));
        return None;
    }
    let place = keys.optional("mode").or_else(|| keys.optional("count_on")).unwrap_or_else(|| keys.map().clone());
    match (kind, mode) {
        (Some(Kind::InFlight { .. }), Mode::Attempt) => {
            place.defect("a denied call is not in flight: `attempt` has no meaning here");
            None
        }
        (Some(Kind::Streak { .. }), Mode::Gate | Mode::Track) => {
            place.defect(format!("a streak is of one call: `{name}` has no meaning here"));
            None
        }
        (Some(Kind::TokenBucket { .. }), Mode::Track) => {
            place.defect("a bucket that denies nothing is none: `track` has no meaning here");
            None
        }
        _ => Some(mode),
    }
}

/// Reads where units come from, and what bounds them.
pub(super) fn read_amount(
    keys: &Fields<'_>,
    place: Place<'_>,
    mode: Option<Mode>,
    counter: Option<&Counter>,
    (version, compat): (Version, Compat),
) -> Option<Amount> {
    let scale = counter.and_then(|counter| counter.scale);
    let from = keys.optional("increment_from");
    let calls_only = counter.filter(|counter| counter.window.counts_calls_only());
    for key in ["increment_from", "hold", "on_missing", "min_increment"] {
        let Some(cursor) = keys.optional(key) else { continue };
        if mode == Some(Mode::Gate) {
            cursor.defect("a gate adds nothing: it has no amount");
            return None;
        }
        if let Some(counter) = calls_only {
            cursor.defect(format!("{} counts calls: it has no other amount", quoted(&counter.window.text)));
            return None;
        }
    }
    let source = match &from {
        None if mode == Some(Mode::Gate) => Some(Source::Nothing),
        None => Some(Source::Call),
        Some(from) => read_source(from, place, version),
    };
    if let (Some(from), Some(Source::Argument(_)), Compat::Lenient) = (&from, &source, compat) {
        let hint = "drop `compat` to deny it".to_owned();
        from.warn("`compat: lenient` lets a negative amount pass, at no cost", Some(hint));
    }
    if let (Some(from), Some(Mode::Attempt), true) = (&from, mode, is_of_answer(source.as_ref())) {
        let message = "`mode: attempt` counts denied calls too, and those have no answer to measure";
        from.defect_with_hint(message, "`consume` or `track`");
        return None;
    }
    let hold = read_hold(keys, source.as_ref(), scale);
    let on_missing = keys.optional("on_missing").map(|cursor| match &source {
        Some(Source::Call | Source::Bytes(None) | Source::RequestBytes | Source::ResponseBytes | Source::Nothing) => {
            cursor.defect("the amount is never missing here: `on_missing` is for an `increment_from` with a path");
            None
        }
        Some(Source::Result(_)) if is_text(&cursor, "deny") => {
            let message = "the call has run when its result is read, so nothing can be denied any more";
            cursor.defect_with_hint(message, "a number of units; without the key the hold stays");
            None
        }
        _ if is_text(&cursor, "deny") => Some(None),
        _ => read_units(&cursor, scale, "`deny` or ").map(Some),
    });
    let min = keys.optional("min_increment").map(|cursor| match &source {
        Some(Source::Call | Source::Nothing) => {
            cursor.defect("a call is one unit: `min_increment` is for an `increment_from`");
            None
        }
        _ => read_units(&cursor, scale, ""),
    });
    let (on_missing, min) = (on_missing.unwrap_or(Some(None))?, min.unwrap_or(Some(0))?);
    Some(Amount { source: source?, scale, on_missing, min, hold: hold? })
}

fn is_of_answer(source: Option<&Source>) -> bool {
    source.is_some_and(Source::is_of_answer)
}

/// Reads `hold`: 0 where there is none. It has no default, because none is right: too little lets many calls at once past the
/// limit, too much lets one call through at a time, and what a call costs only its author knows.
fn read_hold(keys: &Fields<'_>, source: Option<&Source>, scale: Option<u8>) -> Option<u64> {
    match (keys.optional("hold"), is_of_answer(source)) {
        (None, false) => Some(0),
        (Some(cursor), false) => {
            // A source with a defect says nothing of whether it wants a hold.
            if source.is_some() {
                let message = "the amount is known before the call: `hold` is for `response.bytes` and `result.…`";
                cursor.defect(message);
            }
            None
        }
        (None, true) => {
            let message = "missing key `hold`: the units that count while the answer is not known";
            keys.map().defect_with_hint(message, "what such a call costs at most, or nearly so");
            None
        }
        (Some(cursor), true) => {
            let hold = read_units(&cursor, scale, "")?;
            if hold == 0 {
                cursor.defect("a hold of nothing lets any number of calls at once past the limit: at least one unit");
                return None;
            }
            Some(hold)
        }
    }
}

/// A hold above `max` would deny every call.
pub(super) fn check_hold(keys: &Fields<'_>, amount: Option<&Amount>, max: Option<u64>) {
    let (Some(amount), Some(max)) = (amount, max) else { return };
    if amount.hold > 0 && amount.least() > max {
        let key = if amount.hold > max { "hold" } else { "min_increment" };
        if let Some(cursor) = keys.optional(key) {
            cursor.defect(format!("`{key}` is above `max`, so no call would pass"));
        }
    }
}

fn read_source(cursor: &Cursor<'_>, place: Place<'_>, version: Version) -> Option<Source> {
    if version == Version::One {
        if place.amount_from() == AmountFrom::Refused {
            let message = "a limit of `all_tools` counts calls: `increment_from` needs the arguments of one tool";
            cursor.defect(message);
            return None;
        }
        return read_path(cursor).map(Source::Argument);
    }
    let text = cursor.non_empty()?;
    let inside = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    let source = if text == "request.bytes" {
        Source::RequestBytes
    } else if text == "response.bytes" {
        Source::ResponseBytes
    } else if text.starts_with("result.") {
        Source::Result(super::read_path_below(cursor, text, "result")?)
    } else if text == "usage" || text.starts_with("usage.") {
        let hint = "the whole path, such as `result._meta.usage.total_tokens`";
        cursor.defect_with_hint(format!("{} names no part of a result", quoted(text)), hint);
        return None;
    } else if let Some(path) = inside("bytes") {
        Source::Bytes(if path == "args" { None } else { Some(super::read_path_text(cursor, path)?) })
    } else if let Some(path) = inside("count") {
        Source::Count(super::read_path_text(cursor, path)?)
    } else if text.contains('(') {
        cursor.defect(format!("expected `bytes(args…)` or `count(args.…)`, found {}", quoted(text)));
        return None;
    } else {
        Source::Argument(super::read_path_text(cursor, text)?)
    };
    let of_any_tool = matches!(source, Source::Bytes(None) | Source::RequestBytes) || source.is_of_answer();
    if place.amount_from() == AmountFrom::Refused && !of_any_tool {
        let message = "a limit of `all_tools` takes `bytes(args)`, `request.bytes`, `response.bytes` or `result.…`: \
                       every other amount needs the arguments of one tool";
        cursor.defect(message);
        return None;
    }
    Some(source)
}

/// Reads `max`. What only counts has none.
pub(super) fn read_max(keys: &Fields<'_>, mode: Option<Mode>, counter: Option<&Counter>) -> Option<u64> {
    let interval_us = counter.and_then(|counter| match counter.window.kind {
        Kind::TokenBucket { interval_us, .. } => Some(interval_us),
        Kind::Calendar(_)
        | Kind::InFlight { .. }
        | Kind::Lifetime { .. }
        | Kind::Rolling { .. }
        | Kind::Streak { .. } => None,
    });
    // Also where the kind of window refuses the mode, so that one fault is told once.
    let tracks = keys.optional("mode").is_some_and(|cursor| is_text(&cursor, "track"));
    if mode == Some(Mode::Track) || tracks {
        let stated = keys.optional("max");
        if let Some(cursor) = &stated {
            cursor.defect_with_hint("`mode: track` denies nothing, so it has no `max`", "leave it out");
        }
        return stated.is_none().then_some(AMOUNT_MAX);
    }
    let cursor = keys.required("max")?;
    let max = read_units(&cursor, counter.and_then(|counter| counter.scale), "")?;
    let counted = interval_us.is_none_or(|interval| max.checked_mul(interval).is_some_and(|us| us <= AMOUNT_MAX));
    if !counted {
        let hint = "a smaller `max`, or a faster refill";
        cursor.defect_with_hint("the bucket takes too long to fill to be counted exactly, over 142 years", hint);
        return None;
    }
    Some(max)
}

/// A number of what the author counts, as units.
fn read_units(cursor: &Cursor<'_>, scale: Option<u8>, or: &str) -> Option<u64> {
    let Some(scale) = scale else {
        if or.is_empty() || matches!(cursor.node().shape, Shape::Number(_)) {
            return cursor.u64_in(&(0..=AMOUNT_MAX));
        }
        cursor.expected(&format!("{or}a whole number from 0 to {AMOUNT_MAX}"));
        return None;
    };
    let most = units_text(AMOUNT_MAX, scale);
    let what = format!("{or}a number from 0 to {most} with at most {scale} decimal places");
    let Shape::Number(literal) = &cursor.node().shape else {
        cursor.expected(&what);
        return None;
    };
    let units = Decimal::parse(literal).and_then(|number| number.to_units(scale, Rounding::Refused).ok());
    if units.is_none() {
        cursor.defect(format!("expected {what}, found {}", quoted(literal)));
    }
    units
}

/// Reads `count_on`, `refund_on`, `on_unavailable` and `on_expiry`, and refuses what contradicts the mode or itself.
pub(super) fn read_settlement(keys: &Fields<'_>, mode: Option<Mode>, counter: Option<&Counter>) -> Option<Settlement> {
    let on_unavailable = keys.optional("on_unavailable").map(|cursor| read_unavailable(&cursor));
    let count_on = keys.optional("count_on").map(|cursor| read_count_on(&cursor));
    let refund_on = keys.optional("refund_on").map(|cursor| read_refund_on(&cursor));
    let on_expiry = keys.optional("on_expiry").map(|cursor| {
        cursor.one_of(&["keep", "release"]).map(|word| if word == "keep" { OnExpiry::Keep } else { OnExpiry::Release })
    });
    let mut sound = true;
    let mut refuse = |key: &str, why: &str| {
        if let Some(cursor) = keys.optional(key) {
            cursor.defect(why);
            sound = false;
        }
    };
    let kind = counter.map(|counter| &counter.window.kind);
    match mode {
        Some(Mode::Gate) => {
            for key in ["count_on", "refund_on", "on_expiry"] {
                refuse(key, "a gate adds nothing: nothing can come back");
            }
        }
        Some(Mode::Attempt) => {
            if count_on.flatten().is_some_and(|count_on| count_on != Counted::Attempt) {
                refuse("count_on", "`mode: attempt` counts whatever becomes of the call");
            }
            refuse("refund_on", "`mode: attempt` counts whatever becomes of the call");
        }
        Some(Mode::Consume | Mode::Track) | None => {}
    }
    if let Some(Kind::InFlight { .. }) = kind {
        for key in ["count_on", "refund_on"] {
            refuse(key, "a call in flight gives its place back when it ends, however it ends");
        }
    }
    match count_on.flatten() {
        Some(Counted::On(CountOn::Admitted)) => refuse("refund_on", "`count_on: admitted` keeps what was let go"),
        // Of what the body says it knows nothing, so those words add to it.
        Some(Counted::On(CountOn::Success)) if refund_on.flatten().is_some_and(|words| !words.is_of_body_only()) => {
            refuse("refund_on", "`count_on: success` gives units back on every failure already");
        }
        Some(Counted::On(CountOn::Forwarded | CountOn::Success) | Counted::Attempt) | None => {}
    }
    if on_expiry == Some(Some(OnExpiry::Release)) {
        if let Some(Kind::InFlight { .. } | Kind::Streak { .. }) = kind {
            refuse("on_expiry", "calls in flight and streaks end by themselves: `release` has no meaning here");
        } else if !matches!(mode, Some(Mode::Consume | Mode::Gate) | None) {
            refuse("on_expiry", "`release` is for `mode: consume`: what is only counted stays counted");
        }
    }
    let count_on = match count_on.unwrap_or(Some(Counted::On(CountOn::Forwarded)))? {
        Counted::Attempt => CountOn::Admitted,
        Counted::On(CountOn::Forwarded) if mode == Some(Mode::Attempt) => CountOn::Admitted,
        Counted::On(count_on) => count_on,
    };
    let settlement = Settlement {
        count_on,
        refund_on: refund_on.unwrap_or(Some(RefundOn::default()))?,
        on_unavailable: on_unavailable.unwrap_or(Some(OnUnavailable::Deny))?,
        on_expiry: on_expiry.unwrap_or(Some(OnExpiry::Keep))?,
    };
    sound.then_some(settlement)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Attempt,
    On(CountOn),
}

fn read_count_on(cursor: &Cursor<'_>) -> Option<Counted> {
    Some(match cursor.one_of(&["attempt", "admitted", "forwarded", "success"])? {
        "admitted" => Counted::On(CountOn::Admitted),
        "attempt" => Counted::Attempt,
        "success" => Counted::On(CountOn::Success),
        _ => Counted::On(CountOn::Forwarded),
    })
}

fn read_refund_on(cursor: &Cursor<'_>) -> Option<RefundOn> {
    const WORDS: &[&str] = &["upstream_5xx", "timeout", "reset", "protocol_error", "is_error"];
    let items = cursor.items()?;
    if items.is_empty() {
        cursor.defect("needs at least one word; without the key nothing is given back");
        return None;
    }
    let mut refund_on = RefundOn::default();
    let mut sound = true;
    for item in items {
        let Some(word) = item.one_of(WORDS) else {
            sound = false;
            continue;
        };
        let slot = match word {
            "is_error" => &mut refund_on.is_error,
            "protocol_error" => &mut refund_on.protocol_error,
            "reset" => &mut refund_on.reset,
            "timeout" => &mut refund_on.timeout,
            _ => &mut refund_on.upstream_5xx,
        };
        if std::mem::replace(slot, true) {
            item.defect(format!("{} is in the list already", quoted(word)));
            sound = false;
        }
    }
    sound.then_some(refund_on)
}

fn read_unavailable(cursor: &Cursor<'_>) -> Option<OnUnavailable> {
    if let Some(word) = ["prepaid", "local"].into_iter().find(|word| is_text(cursor, word)) {
        cursor.defect_with_hint(format!("`{word}` is not built"), "`deny` or `allow`");
        return None;
    }
    cursor.one_of(&["deny", "allow"]).map(|word| match word {
        "allow" => OnUnavailable::Allow,
        _ => OnUnavailable::Deny,
    })
}

fn is_text(cursor: &Cursor<'_>, word: &str) -> bool {
    matches!(&cursor.node().shape, Shape::String(text) if text == word)
}
