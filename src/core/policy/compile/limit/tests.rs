use crate::document::Format;
use crate::policy::{COUNTERS_MAX, Compiled, Policy, Source};

fn compile(version: &str, body: &str) -> Result<Compiled, Vec<String>> {
    let text = format!(r#"{{"version":"{version}","default":"deny",{body}}}"#);
    let source = Source { id: "p", file: "p", bytes: text.as_bytes(), format: Format::Json };
    Policy::compile(&source).map_err(|defects| defects.iter().map(ToString::to_string).collect())
}

/// The defects of a policy of version 2, without their line, which is the first.
fn defects(body: &str) -> String {
    compile("2", body).map(|_| ()).err().unwrap_or_default().join("\n").replace("p:1: ", "")
}

fn warnings(body: &str) -> Vec<String> {
    let compiled = compile("2", body).unwrap_or_else(|defects| panic!("{body}: {defects:?}"));
    compiled.warnings.iter().map(|warning| warning.to_string().replace("p:1: ", "")).collect()
}

/// One limit of the tool `t`.
fn limit(body: &str) -> String {
    format!(r#""tools":{{"t":{{"limits":[{{{body}}}]}}}}"#)
}

const DECLARED: &str = r#""counters":{"c":{"window":"hour","scope":"grant"},"b":{"window":{"token_bucket":{"refill":1,"per":"1s"}},"scope":"grant"}}"#;

/// One limit of the tool `t`.
const LIMIT: fn(&str) -> String = limit;
/// What stands beside `version` and `default`.
const TOP: fn(&str) -> String = str::to_owned;
/// One limit of the tool `t` beside declared counters.
const NAMED: fn(&str) -> String = |body| format!("{DECLARED},{}", limit(body));
/// The limits of the tool `t` beside declared counters.
const LIST: fn(&str) -> String = |body| format!(r#"{DECLARED},"tools":{{"t":{{"limits":[{body}]}}}}"#);
/// A limit of `all_tools`, and one of the tool `t`.
const BOTH: fn(&str) -> String = |body| {
    let (all, own) = body.split_once('|').unwrap();
    format!(r#"{DECLARED},"all_tools":{{"limits":[{all}]}},"tools":{{"t":{{"limits":[{own}]}}}}"#)
};
/// A limit of the tool `t`, and one of the tool `u`.
const TOOLS: fn(&str) -> String = |body| {
    let (one, other) = body.split_once('|').unwrap();
    format!(r#"{DECLARED},"tools":{{"t":{{"limits":[{one}]}},"u":{{"limits":[{other}]}}}}"#)
};

type Refusal = (fn(&str) -> String, &'static str, &'static str);

/// What is refused, and the whole text of it; `@` is `/tools/t/limits/0`.
const REFUSALS: &[Refusal] = &[
    (
        LIMIT,
        r#""counter":"c","window":"session","scope":"grant","max":1"#,
        r#"@/window: expected one of `minute`, `hour`, `day`, `week`, `month`, `in_flight`, `lifetime`, found `session`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"sliding","scope":"grant","max":1"#,
        r#"@/window: expected one of `minute`, `hour`, `day`, `week`, `month`, `in_flight`, `lifetime`, found `sliding` (write a map, such as `{"sliding": "15m"}`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"streak","scope":"grant","max":1"#,
        r#"@/window: expected one of `minute`, `hour`, `day`, `week`, `month`, `in_flight`, `lifetime`, found `streak` (write a map, such as `{"streak": {"idle": "10m"}}`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"token_bucket","scope":"grant","max":1"#,
        r#"@/window: expected one of `minute`, `hour`, `day`, `week`, `month`, `in_flight`, `lifetime`, found `token_bucket` (write a map, such as `{"token_bucket": {"refill": 10, "per": "1m"}}`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"houre","scope":"grant","max":1"#,
        r#"@/window: expected one of `minute`, `hour`, `day`, `week`, `month`, `in_flight`, `lifetime`, found `houre` (did you mean `hour`?)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":5,"scope":"grant","max":1"#,
        r#"@/window: expected a string, found a number (quote it)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{},"scope":"grant","max":1"#,
        r#"@/window: expected a map with one of `sliding`, `token_bucket`, `in_flight`, `streak`, `lifetime`, found none (calendar windows are words: `minute`, `hour`, `day`, `week`, `month`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"rolling":"15m"},"scope":"grant","max":1"#,
        r#"@/window: expected a map with one of `sliding`, `token_bucket`, `in_flight`, `streak`, `lifetime`, found none (calendar windows are words: `minute`, `hour`, `day`, `week`, `month`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"sliding":"15m","lifetime":{}},"scope":"grant","max":1"#,
        r#"@/window: expected a map with one of `sliding`, `token_bucket`, `in_flight`, `streak`, `lifetime`, found several (calendar windows are words: `minute`, `hour`, `day`, `week`, `month`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"sliding":"15m","size":3},"scope":"grant","max":1"#,
        r#"@/window: unknown key `size` (known: `sliding`, `buckets`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"sliding":"15 m"},"scope":"grant","max":1"#,
        r#"@/window/sliding: expected a duration from `1ms` to `366d`, such as `500ms`, `90s`, `15m`, `6h` or `7d`, found `15 m`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"sliding":900},"scope":"grant","max":1"#,
        r#"@/window/sliding: expected a duration from `1ms` to `366d`, such as `500ms`, `90s`, `15m`, `6h` or `7d`, found a number"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"sliding":"15m","buckets":0},"scope":"grant","max":1"#,
        r#"@/window/buckets: expected a whole number from 1 to 366, found `0`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"sliding":"15m","buckets":367},"scope":"grant","max":1"#,
        r#"@/window/buckets: expected a whole number from 1 to 366, found `367`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"sliding":"10ms","buckets":11},"scope":"grant","max":1"#,
        r#"@/window/buckets: a bucket would be shorter than 1 ms: at most 10 fit"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"token_bucket":{"refill":10}},"scope":"grant","max":1"#,
        r#"@/window/token_bucket: missing key `per`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"token_bucket":{"refill":0,"per":"1m"}},"scope":"grant","max":1"#,
        r#"@/window/token_bucket/refill: expected a whole number from 1 to 1000000000, found `0`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"token_bucket":{"refill":1001,"per":"1ms"}},"scope":"grant","max":1"#,
        r#"@/window: the bucket would refill faster than one unit in a microsecond"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"token_bucket":{"refill":1,"per":"366d"}},"scope":"grant","max":143"#,
        r#"@/max: the bucket takes too long to fill to be counted exactly, over 142 years (a smaller `max`, or a faster refill)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"in_flight":{}},"scope":"grant","max":1"#,
        r#"@/window/in_flight: missing key `lease`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"in_flight":{"lease":"0s"}},"scope":"grant","max":1"#,
        r#"@/window/in_flight/lease: expected a duration from `1ms` to `366d`, such as `500ms`, `90s`, `15m`, `6h` or `7d`, found `0s`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"streak":{}},"scope":"grant","max":1"#,
        r#"@/window/streak: missing key `idle`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"streak":{"idle":"10m","ignore":[]}},"scope":"grant","max":1"#,
        r#"@/window/streak/ignore: expected 1 to 16 paths, found 0"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"streak":{"idle":"10m","ignore":["timestamp"]}},"scope":"grant","max":1"#,
        r#"@/window/streak/ignore/0: expected a path that starts with `args.`, found `timestamp` (only the arguments of the call can be judged)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"streak":{"idle":"10m","ignore":["args.t","args.t"]}},"scope":"grant","max":1"#,
        r#"@/window/streak/ignore/1: `args.t` is in the list already"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"lifetime":{"idle":"367d"}},"scope":"grant","max":1"#,
        r#"@/window/lifetime/idle: expected a duration from `1ms` to `366d`, such as `500ms`, `90s`, `15m`, `6h` or `7d`, found `367d`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"day","time_zone":"Europe/Atlantis","scope":"grant","max":1"#,
        r#"@/time_zone: there is no time zone `Europe/Atlantis` (names of the IANA database, such as `Europe/Berlin`, or `UTC`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"day","time_zone":"europe/berlin","scope":"grant","max":1"#,
        r#"@/time_zone: there is no time zone `europe/berlin` (did you mean `Europe/Berlin`?)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"day","time_zone":"CET+1","scope":"grant","max":1"#,
        r#"@/time_zone: there is no time zone `CET+1` (names of the IANA database, such as `Europe/Berlin`, or `UTC`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"lifetime","time_zone":"UTC","scope":"grant","max":1"#,
        r#"@/time_zone: `lifetime` does not follow the calendar"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"day","week_start":"sunday","scope":"grant","max":1"#,
        r#"@/week_start: only `window: week` has a first day"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"week","week_start":"friday","scope":"grant","max":1"#,
        r#"@/week_start: expected one of `monday`, `sunday`, found `friday`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"user","max":1"#,
        r#"@/scope: expected one of `global`, `grant`, `group`, `identity`, `policy`, `server`, `tool`, found `user`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grants","max":1"#,
        r#"@/scope: expected one of `global`, `grant`, `group`, `identity`, `policy`, `server`, `tool`, found `grants` (did you mean `grant`?)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"session","max":1"#,
        r#"@/scope: expected one of `global`, `grant`, `group`, `identity`, `policy`, `server`, `tool`, found `session` (an agent opens a new session when it likes; use `grant` with the window `{"lifetime": {"idle": "30m"}}`)"#,
    ),
    (LIMIT, r#""counter":"c","window":"hour","scope":[],"max":1"#, r#"@/scope: needs at least one word"#),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":["grant","grant"],"max":1"#,
        r#"@/scope/1: `grant` is in the list already"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":["global","policy"],"max":1"#,
        r#"@/scope: a counter is of one policy or of all: not both `policy` and `global`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":["grant","policy"],"max":1"#,
        r#"@/scope: `policy` beside another word says nothing (leave it out: without `global` a counter is of its policy)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"scale":10"#,
        r#"@/scale: expected a whole number from 0 to 9, found `10`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"in_flight","scope":"grant","max":1,"scale":2"#,
        r#"@/scale: `in flight` counts whole calls: it has no decimal places"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1.005,"scale":2"#,
        r#"@/max: expected a number from 0 to 45035996273704.96 with at most 2 decimal places, found `1.005`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":"1","scale":2"#,
        r#"@/max: expected a number from 0 to 45035996273704.96 with at most 2 decimal places, found a string"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":45035996273704.97,"scale":2"#,
        r#"@/max: expected a number from 0 to 45035996273704.96 with at most 2 decimal places, found `45035996273704.97`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1.5"#,
        r#"@/max: expected a whole number from 0 to 4503599627370496, found `1.5`"#,
    ),
    (LIMIT, r#""counter":"c","window":"hour","scope":"grant""#, r#"@: missing key `max`"#),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"count""#,
        r#"@/mode: expected one of `consume`, `gate`, `track`, `attempt`, found `count`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"track""#,
        r#"@/max: `mode: track` denies nothing, so it has no `max` (leave it out)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"token_bucket":{"refill":1,"per":"1s"}},"scope":"grant","mode":"track""#,
        r#"@/mode: a bucket that denies nothing is none: `track` has no meaning here"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"gate","increment_from":"args.n""#,
        r#"@/increment_from: a gate adds nothing: it has no amount"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"gate","count_on":"success""#,
        r#"@/count_on: a gate adds nothing: nothing can come back"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"gate","on_expiry":"release""#,
        r#"@/on_expiry: a gate adds nothing: nothing can come back"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"in_flight","scope":"grant","max":1,"mode":"attempt""#,
        r#"@/mode: a denied call is not in flight: `attempt` has no meaning here"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"in_flight","scope":"grant","max":1,"increment_from":"args.n""#,
        r#"@/increment_from: `in flight` counts calls: it has no other amount"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"in_flight","scope":"grant","max":1,"refund_on":["reset"]"#,
        r#"@/refund_on: a call in flight gives its place back when it ends, however it ends"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"in_flight","scope":"grant","max":1,"on_expiry":"release""#,
        r#"@/on_expiry: calls in flight and streaks end by themselves: `release` has no meaning here"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"streak":{"idle":"1m"}},"scope":"grant","max":1,"mode":"gate""#,
        r#"@/mode: a streak is of one call: `gate` has no meaning here"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"streak":{"idle":"1m"}},"scope":"grant","max":1,"on_expiry":"release""#,
        r#"@/on_expiry: calls in flight and streaks end by themselves: `release` has no meaning here"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"streak":{"idle":"1m"}},"scope":"grant","max":1,"count_on":"success""#,
        r#"@/count_on: `mode: attempt` counts whatever becomes of the call"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"consume","count_on":"attempt""#,
        r#"@/count_on: `count_on: attempt` means `mode: attempt`, and `mode: consume` stands beside it"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"attempt","count_on":"admitted""#,
        r#"@/count_on: `mode: attempt` counts whatever becomes of the call"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"attempt","refund_on":["reset"]"#,
        r#"@/refund_on: `mode: attempt` counts whatever becomes of the call"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"count_on":"admitted","refund_on":["reset"]"#,
        r#"@/refund_on: `count_on: admitted` keeps what was let go"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"count_on":"success","refund_on":["reset"]"#,
        r#"@/refund_on: `count_on: success` gives units back on every failure already"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"count_on":"executed""#,
        r#"@/count_on: expected one of `attempt`, `admitted`, `forwarded`, `success`, found `executed`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"refund_on":[]"#,
        r#"@/refund_on: needs at least one word; without the key nothing is given back"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"refund_on":["reset","reset"]"#,
        r#"@/refund_on/1: `reset` is in the list already"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"refund_on":["is_error","protocol_error","is_error"]"#,
        r#"@/refund_on/2: `is_error` is in the list already"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"count_on":"success","refund_on":["is_error","timeout"]"#,
        r#"@/refund_on: `count_on: success` gives units back on every failure already"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"count_on":"admitted","refund_on":["protocol_error"]"#,
        r#"@/refund_on: `count_on: admitted` keeps what was let go"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"in_flight","scope":"grant","max":1,"refund_on":["is_error"]"#,
        r#"@/refund_on: a call in flight gives its place back when it ends, however it ends"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"gate","refund_on":["is_error"]"#,
        r#"@/refund_on: a gate adds nothing: nothing can come back"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"refund_on":["5xx"]"#,
        r#"@/refund_on/0: expected one of `upstream_5xx`, `timeout`, `reset`, `protocol_error`, `is_error`, found `5xx`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"on_unavailable":"prepaid""#,
        r#"@/on_unavailable: `prepaid` is not built (`deny` or `allow`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"on_unavailable":"open""#,
        r#"@/on_unavailable: expected one of `deny`, `allow`, found `open`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"on_expiry":"drop""#,
        r#"@/on_expiry: expected one of `keep`, `release`, found `drop`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","mode":"track","on_expiry":"release""#,
        r#"@/on_expiry: `release` is for `mode: consume`: what is only counted stays counted"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"disclose":"yes""#,
        r#"@/disclose: expected `true` or `false`, found a string (only these two words, unquoted)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"on_missing":1"#,
        r#"@/on_missing: the amount is never missing here: `on_missing` is for an `increment_from` with a path"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"bytes(args)","on_missing":1"#,
        r#"@/on_missing: the amount is never missing here: `on_missing` is for an `increment_from` with a path"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"args.n","on_missing":-1"#,
        r#"@/on_missing: expected a whole number from 0 to 4503599627370496, found `-1`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"args.n","on_missing":"allow""#,
        r#"@/on_missing: expected `deny` or a whole number from 0 to 4503599627370496, found a string"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"scale":2,"increment_from":"args.n","on_missing":"1""#,
        r#"@/on_missing: expected `deny` or a number from 0 to 45035996273704.96 with at most 2 decimal places, found a string"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"min_increment":1"#,
        r#"@/min_increment: a call is one unit: `min_increment` is for an `increment_from`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"scale":1,"increment_from":"args.n","min_increment":0.25"#,
        r#"@/min_increment: expected a number from 0 to 450359962737049.6 with at most 1 decimal places, found `0.25`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"args""#,
        r#"@/increment_from: expected a path that starts with `args.`, found `args` (only the arguments of the call can be judged)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"bytes(body)""#,
        r#"@/increment_from: expected a path that starts with `args.`, found `body` (only the arguments of the call can be judged)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"bytes(args.a""#,
        r#"@/increment_from: expected `bytes(args…)` or `count(args.…)`, found `bytes(args.a`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"count(args)""#,
        r#"@/increment_from: expected a path that starts with `args.`, found `args` (only the arguments of the call can be judged)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"sum(args.a)""#,
        r#"@/increment_from: expected `bytes(args…)` or `count(args.…)`, found `sum(args.a)`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"response.bytes""#,
        r#"@: missing key `hold`: the units that count while the answer is not known (what such a call costs at most, or nearly so)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"usage.total_tokens""#,
        r#"@/increment_from: `usage.total_tokens` names no part of a result (the whole path, such as `result._meta.usage.total_tokens`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"result","hold":1"#,
        r#"@/increment_from: expected a path that starts with `args.`, found `result` (only the arguments of the call can be judged)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"result.a..b","hold":1"#,
        r#"@/increment_from: `result.a..b`: a name in the path is empty"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"result.content[0]","hold":1"#,
        r#"@/increment_from: `result.content[0]`: elements of a list cannot be named"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"bytes(result.a)","hold":1"#,
        r#"@/increment_from: expected a path that starts with `args.`, found `result.a` (only the arguments of the call can be judged)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"response.bytes","hold":0"#,
        r#"@/hold: a hold of nothing lets any number of calls at once past the limit: at least one unit"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"response.bytes","hold":2"#,
        r#"@/hold: `hold` is above `max`, so no call would pass"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"response.bytes","hold":1,"min_increment":2"#,
        r#"@/min_increment: `min_increment` is above `max`, so no call would pass"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":9,"increment_from":"response.bytes","hold":1.5"#,
        r#"@/hold: expected a whole number from 0 to 4503599627370496, found `1.5`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"hold":1"#,
        r#"@/hold: the amount is known before the call: `hold` is for `response.bytes` and `result.…`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"args.n","hold":1"#,
        r#"@/hold: the amount is known before the call: `hold` is for `response.bytes` and `result.…`"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"response.bytes","hold":1,"on_missing":1"#,
        r#"@/on_missing: the amount is never missing here: `on_missing` is for an `increment_from` with a path"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"result.n","hold":1,"on_missing":"deny""#,
        r#"@/on_missing: the call has run when its result is read, so nothing can be denied any more (a number of units; without the key the hold stays)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"attempt","increment_from":"response.bytes","hold":1"#,
        r#"@/increment_from: `mode: attempt` counts denied calls too, and those have no answer to measure (`consume` or `track`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"gate","increment_from":"response.bytes","hold":1"#,
        r#"@/increment_from: a gate adds nothing: it has no amount"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"gate","hold":1"#,
        r#"@/hold: a gate adds nothing: it has no amount"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"in_flight","scope":"grant","max":1,"increment_from":"result.n","hold":1"#,
        r#"@/increment_from: `in flight` counts calls: it has no other amount"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":{"streak":{"idle":"1m"}},"scope":"grant","max":1,"increment_from":"response.bytes","hold":1"#,
        r#"@/increment_from: `streak` counts calls: it has no other amount"#,
    ),
    (
        LIST,
        r#"{"counter":"x","window":"hour","scope":"grant","max":9,"increment_from":"result.a","hold":1},{"counter":"x","window":"hour","scope":"policy","max":9,"increment_from":"result.b","hold":1}"#,
        r#"/tools/t/limits/1: `x` reads one part of a result here, and another at @ (give one of the counters another name)"#,
    ),
    (
        LIST,
        r#"{"counter":"c","max":9,"increment_from":"response.bytes","hold":1},{"counter":"c","max":9,"increment_from":"response.bytes","hold":2}"#,
        r#"/tools/t/limits/1: one call would add two amounts to the counter `c`: here, and at @ (use the same `increment_from`, `hold`, `on_missing` and `min_increment`)"#,
    ),
    (
        LIMIT,
        r#""counter":"c","window":"hour","scope":"grant","max":1,"concurrency":1"#,
        r#"@/concurrency: `concurrency` is not part of version 2 of the policy language"#,
    ),
    (
        TOP,
        r#""all_tools":{"limits":[{"counter":"c","window":"hour","scope":"grant","max":1,"increment_from":"bytes(args.a)"}]}"#,
        r#"/all_tools/limits/0/increment_from: a limit of `all_tools` takes `bytes(args)`, `request.bytes`, `response.bytes` or `result.…`: every other amount needs the arguments of one tool"#,
    ),
    (TOP, r#""counters":[]"#, r#"/counters: expected a map, found a list"#),
    (
        TOP,
        r#""counters":{"a b":{"window":"hour","scope":"grant"}}"#,
        r#"/counters/a b: expected at most 64 letters, digits, `_`, `-`, `.` or `:`, found `a b`"#,
    ),
    (TOP, r#""counters":{"c":{"window":"hour"}}"#, r#"/counters/c: missing key `scope`"#),
    (
        TOP,
        r#""counters":{"c":{"window":"hour","scope":"grant","max":1}}"#,
        r#"/counters/c: unknown key `max` (known: `window`, `scope`, `time_zone`, `week_start`, `scale`)"#,
    ),
    (
        NAMED,
        r#""counter":"c","window":"day","max":1"#,
        r#"@/window: counter `c` is declared, so its `window` belongs at /counters/c/window (leave it out here, or give the counter another name)"#,
    ),
    (
        NAMED,
        r#""counter":"c","window":"hour","scope":"grant","max":1"#,
        r#"@/scope: counter `c` is declared, so its `scope` belongs at /counters/c/scope (leave it out here, or give the counter another name)
@/window: counter `c` is declared, so its `window` belongs at /counters/c/window (leave it out here, or give the counter another name)"#,
    ),
    (
        NAMED,
        r#""counter":"c","time_zone":"UTC","scale":2,"max":1"#,
        r#"@/scale: counter `c` is declared, so its `scale` belongs at /counters/c/scale (leave it out here, or give the counter another name)
@/time_zone: counter `c` is declared, so its `time_zone` belongs at /counters/c/time_zone (leave it out here, or give the counter another name)"#,
    ),
    (
        LIST,
        r#"{"counter":"c","max":1},{"counter":"c","max":1,"mode":"gate"}"#,
        r#"/tools/t/limits/1: one call would meet the counter `c` as `gate` here and as `consume` at @ (use one mode, or two counters)"#,
    ),
    (
        LIST,
        r#"{"counter":"c","max":1},{"counter":"c","max":1,"increment_from":"args.n"}"#,
        r#"/tools/t/limits/1: one call would add two amounts to the counter `c`: here, and at @ (use the same `increment_from`, `hold`, `on_missing` and `min_increment`)"#,
    ),
    (
        LIST,
        r#"{"counter":"c","max":1},{"counter":"c","max":1,"count_on":"success"}"#,
        r#"/tools/t/limits/1: the counter `c` would count one call in two ways: here, and at @ (use the same `count_on`, `refund_on` and `on_expiry`)"#,
    ),
    (
        BOTH,
        r#"{"counter":"c","max":1}|{"counter":"c","mode":"track"}"#,
        r#"@: one call would meet the counter `c` as `track` here and as `consume` at /all_tools/limits/0 (use one mode, or two counters)"#,
    ),
    (
        BOTH,
        r#"{"counter":"c","max":1}|{"counter":"c","max":1,"increment_from":"bytes(args)"}"#,
        r#"@: one call would add two amounts to the counter `c`: here, and at /all_tools/limits/0 (use the same `increment_from`, `hold`, `on_missing` and `min_increment`)"#,
    ),
    (
        LIST,
        r#"{"counter":"x","window":"hour","scope":"grant","max":1},{"counter":"x","window":{"sliding":"1h"},"scope":"grant","max":1}"#,
        r#"/tools/t/limits/1: counter `x` has the window `hour` elsewhere, here `sliding 1h` (give it another name)"#,
    ),
    (
        LIST,
        r#"{"counter":"x","window":"day","scope":"grant","max":1},{"counter":"x","window":"day","time_zone":"Asia/Tokyo","scope":"policy","max":1}"#,
        r#"/tools/t/limits/1: counter `x` has the window `day` elsewhere, here `day Asia/Tokyo` (give it another name)"#,
    ),
    (
        LIST,
        r#"{"counter":"x","window":"hour","scope":["grant","server"],"max":1},{"counter":"x","window":"hour","scope":["server","grant"],"max":1}"#,
        r#"/tools/t/limits/1: counter `x` is in the list already with the same window and scope"#,
    ),
    (
        TOOLS,
        r#"{"counter":"b","max":5}|{"counter":"b","max":6}"#,
        r#"/tools/u/limits/0: `max` is the size of the bucket `b`, and @ has another (one bucket has one `max`; give the counter another name)"#,
    ),
];

#[test]
fn each_fault_is_named_where_it_stands() {
    for (around, body, expected) in REFUSALS {
        assert_eq!(defects(&around(body)), expected.replace('@', "/tools/t/limits/0"), "{body}");
    }
}

#[test]
fn what_version_2_has_loads() {
    for body in [
        r#""window":"minute","scope":"grant","max":1"#,
        r#""window":"week","week_start":"sunday","time_zone":"America/New_York","scope":"policy","max":1"#,
        r#""window":"month","time_zone":"Asia/Kathmandu","scope":["grant","group","identity","server","tool"],"max":1"#,
        r#""window":{"sliding":"1ms"},"scope":"global","max":1"#,
        r#""window":{"sliding":"366d","buckets":366},"scope":["global","group"],"max":1"#,
        r#""window":{"token_bucket":{"refill":1,"per":"366d"}},"scope":"grant","max":142"#,
        r#""window":{"token_bucket":{"refill":1000,"per":"1ms"}},"scope":"grant","max":4503599627370496"#,
        r#""window":"in_flight","scope":"grant","max":1"#,
        r#""window":{"in_flight":{"lease":"70s"}},"scope":"grant","mode":"track""#,
        r#""window":{"streak":{"idle":"10m","ignore":["args.timestamp","args.a.b"]}},"scope":"grant","max":3"#,
        r#""window":{"streak":{"idle":"10m"}},"scope":"grant","max":3,"mode":"consume","count_on":"success""#,
        r#""window":"lifetime","scope":"grant","max":1,"on_expiry":"release""#,
        r#""window":{"lifetime":{"idle":"30m"}},"scope":"grant","max":1,"count_on":"admitted""#,
        r#""window":"hour","scope":"grant","max":1,"mode":"attempt","count_on":"attempt""#,
        r#""window":"hour","scope":["grant"],"max":500.25,"scale":2,"increment_from":"args.n","on_missing":0.5,"min_increment":0.01"#,
        r#""window":"hour","scope":"grant","max":5.0,"scale":0,"increment_from":"args.n","on_missing":"deny""#,
        r#""window":"hour","scope":"grant","max":1e3,"scale":9,"increment_from":"count(args.a.b)""#,
        r#""window":"hour","scope":"grant","max":1,"increment_from":"bytes(args)","min_increment":1"#,
        r#""window":"hour","scope":"grant","max":1,"increment_from":"bytes(args.a)","on_missing":0"#,
        r#""window":"hour","scope":"grant","max":1,"increment_from":"request.bytes","disclose":true"#,
        r#""window":"hour","scope":"grant","max":1,"refund_on":["upstream_5xx","timeout","reset"],"on_unavailable":"allow""#,
        r#""window":"hour","scope":"grant","mode":"track","increment_from":"args.n""#,
        r#""window":"hour","scope":"grant","max":1,"refund_on":["protocol_error","is_error","reset"]"#,
        r#""window":"hour","scope":"grant","max":1,"count_on":"success","refund_on":["protocol_error","is_error"]"#,
        r#""window":{"streak":{"idle":"10m"}},"scope":"grant","max":3,"mode":"consume","refund_on":["is_error"]"#,
        r#""window":"hour","scope":"grant","max":5,"increment_from":"response.bytes","hold":5,"min_increment":5"#,
        r#""window":{"sliding":"1h"},"scope":"grant","max":5,"increment_from":"result._meta.usage.total_tokens","hold":1,"on_missing":0"#,
        r#""window":{"token_bucket":{"refill":10,"per":"1m"}},"scope":"grant","max":5,"increment_from":"result.n","hold":1"#,
        r#""window":"lifetime","scope":"grant","mode":"track","increment_from":"response.bytes","hold":51200"#,
        r#""window":"month","scope":"group","max":20.5,"scale":2,"increment_from":"result._meta.cost","hold":0.01,"on_expiry":"release""#,
    ] {
        assert_eq!(warnings(&limit(&format!(r#""counter":"c",{body}"#))), [""; 0], "{body}");
    }
    let all = r#""all_tools":{"limits":[{"counter":"a","window":"day","scope":"grant","max":1,"increment_from":"bytes(args)"},
        {"counter":"b","window":"day","scope":"tool","max":1,"increment_from":"request.bytes"},
        {"counter":"c","window":"day","scope":"grant","max":1,"increment_from":"response.bytes","hold":1},
        {"counter":"d","window":"day","scope":"grant","max":1,"increment_from":"result._meta.n","hold":1}]}"#;
    assert_eq!(warnings(all), [""; 0]);
}

#[test]
fn version_1_names_the_version_that_has_what_it_refuses() {
    let told = |body: &str| compile("1", &limit(body)).map(|_| ()).unwrap_err().join("\n").replace("p:1: ", "");
    let plain = r#""counter":"c","window":"hour","scope":"grant","max":1"#;
    let since = [
        "time_zone",
        "week_start",
        "scale",
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
    for key in since {
        let expected = format!(
            "/tools/t/limits/0/{key}: `{key}` is not part of version 1 of the policy language (write `version: \"2\"`)"
        );
        let all = told(&format!("{plain},\"{key}\":\"x\""));
        assert_eq!(all.lines().next(), Some(&*expected));
    }
    for (from, to, hint) in [
        ("\"hour\"", "\"month\"", "found `month` (version \"2\" has `month`)"),
        ("\"hour\"", "\"in_flight\"", "found `in_flight` (version \"2\" has `in_flight`)"),
        ("\"hour\"", "{\"sliding\":\"1h\"}", "found a map (version \"2\" has other windows)"),
        ("\"grant\"", "\"group\"", "found `group` (version \"2\" has `group`)"),
        ("\"grant\"", "[\"grant\"]", "found a list (version \"2\" has combinations)"),
    ] {
        let all = told(&plain.replace(from, to));
        assert!(all.ends_with(hint) && all.lines().count() == 1, "{all}");
    }
}

#[test]
fn a_policy_declares_at_most_64_counters() {
    let with = |count: usize| {
        let one = |index| format!(r#""c{index}":{{"window":"hour","scope":"grant"}}"#);
        format!(r#""counters":{{{}}}"#, (0..count).map(one).collect::<Vec<_>>().join(","))
    };
    assert_eq!(defects(&with(COUNTERS_MAX)), "");
    assert_eq!(defects(&with(COUNTERS_MAX + 1)), "/counters: has 65 counters, more than 64");
}

#[test]
fn a_streak_leaves_out_at_most_16_paths() {
    let with = |count: usize| {
        let paths: Vec<String> = (0..count).map(|index| format!("\"args.a{index}\"")).collect();
        let window = format!(r#"{{"streak":{{"idle":"1m","ignore":[{}]}}}}"#, paths.join(","));
        defects(&limit(&format!(r#""counter":"c","window":{window},"scope":"grant","max":1"#)))
    };
    assert_eq!(with(super::window::IGNORED_MAX), "");
    assert_eq!(
        with(super::window::IGNORED_MAX + 1),
        "/tools/t/limits/0/window/streak/ignore: expected 1 to 16 paths, found 17"
    );
}

#[test]
fn what_says_nothing_is_warned_of() {
    let unused = ["/counters/b: no limit names the counter `b`".to_owned()];
    assert_eq!(warnings(&NAMED(r#""counter":"c","max":1"#)), unused);
    let gate =
        "@: nothing adds to this counter, so the gate never closes (declare the counter under `counters`, and let \
                another limit `consume` or `track` it)"
            .replace('@', "/tools/t/limits/0");
    assert_eq!(
        warnings(&limit(r#""counter":"c","window":"hour","scope":"grant","max":1,"mode":"gate""#)),
        std::slice::from_ref(&gate)
    );
    assert_eq!(warnings(&limit(r#""counter":"c","window":"hour","scope":"global","max":1,"mode":"gate""#)), [""; 0]);
    assert_eq!(warnings(&NAMED(r#""counter":"c","max":1,"mode":"gate""#)), [unused[0].clone(), gate]);
    let fed = TOOLS(r#"{"counter":"c","max":1,"mode":"gate"}|{"counter":"c","mode":"track"}"#);
    assert_eq!(warnings(&fed), unused);
    let slow = r#""counter":"c","window":{"token_bucket":{"refill":900,"per":"1ms"}},"scope":"grant","max":1"#;
    assert!(warnings(&limit(slow))[0].contains("slows the refill by over 1 percent"));
}

#[test]
fn two_limits_of_one_call_may_share_a_counter_if_they_agree() {
    for body in [
        LIST(r#"{"counter":"c","max":1},{"counter":"c","max":5,"on_deny":"other"}"#),
        BOTH(
            r#"{"counter":"c","max":1,"increment_from":"bytes(args)"}|{"counter":"c","max":2,"increment_from":"bytes(args)"}"#,
        ),
        TOOLS(r#"{"counter":"c","max":1,"increment_from":"args.n"}|{"counter":"c","max":2,"mode":"attempt"}"#),
        TOOLS(r#"{"counter":"b","max":5}|{"counter":"b","max":5,"mode":"gate"}"#),
    ] {
        assert_eq!(defects(&body), "", "{body}");
    }
}
