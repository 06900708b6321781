//! The tables: each says what the code does, row by row, and leaves nothing out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use mcp_authz::{
    config::{Config, Log},
    telemetry::log::{Format as LogFormat, Level as LogLevel},
    telemetry::metrics::{Label as _, METHODS, Metrics, ResponseOutcome, Verdict},
};
use mcp_authz_core::{
    answer::{Answer, Asked, Context, answer},
    decision::{Class, Denial, Reason},
    document::{Defect, Format},
    json::{Document, Limits},
    mcp::{Era, Group, Method, ProtocolVersion},
    number::AMOUNT_MAX,
    pattern::{PATTERN_CHARS_MAX, SUBJECT_BYTES_MAX},
    policy::{self, Call, Policy, Source, StepOutcome},
    principal::Principal,
};
use prometheus_client::{encoding::text, registry::Registry};
use serde_json::{Value, json};

use super::{README, spans, table};

/// Settings with `key` (dotted) set, and nothing else that is not required.
fn settings(changes: &[(&str, Value)]) -> Value {
    let mut settings = json!({"listen": {"grpc": ["tcp://127.0.0.1:0"], "admin": "127.0.0.1:0"}});
    for (key, value) in changes {
        let place = key.split('.').fold(&mut settings, |place, name| &mut place[name]);
        *place = value.clone();
    }
    settings
}

fn parse(settings: &Value) -> Result<Config, Vec<Defect>> {
    Config::parse("config.json", settings.to_string().as_bytes(), Format::Json, Path::new(""))
}

/// What a setting of Redis needs beside it.
fn redis_url() -> (&'static str, Value) {
    ("ledger.redis.url", json!("redis://a"))
}

/// A default as the table writes it.
fn shown_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

#[test]
fn the_settings_are_those_of_the_code() {
    let rows = table("config.yaml", "key");
    let documented: BTreeSet<&str> = rows.iter().flat_map(|row| spans(&row[0])).collect();
    assert_eq!(documented, known_settings().iter().map(String::as_str).collect(), "keys");

    let config = parse(&settings(&[])).unwrap();
    let mut effective = BTreeMap::new();
    flatten("", &config.to_json(), &mut effective);
    effective.retain(|key, value| !key.starts_with("listen.") && !value.is_null());
    let mut defaults = BTreeMap::new();
    for row in rows.iter().filter(|row| row[1].starts_with('`')) {
        let (key, default) = (spans(&row[0])[0], shown_value(spans(&row[1])[0]));
        // Written out, a default changes nothing.
        let of_redis = key.starts_with("ledger.redis.");
        let base = if of_redis { vec![redis_url()] } else { vec![] };
        let plain = parse(&settings(&base)).unwrap();
        let changed = [base, vec![(key, default.clone())]].concat();
        let written = parse(&settings(&changed)).unwrap_or_else(|defects| panic!("{key}: {defects:?}"));
        assert_eq!(written.to_json(), plain.to_json(), "{key}");
        if of_redis {
            let mut of_plain = BTreeMap::new();
            flatten("", &plain.to_json(), &mut of_plain);
            assert_eq!(of_plain.get(key), Some(&default), "{key}");
            continue;
        }
        assert_eq!(written.log, config.log, "{key}");
        defaults.insert(key.to_owned(), default);
    }
    // These three are not among the settings that the admin port shows.
    assert_eq!(defaults.remove("danger_plaintext_tcp"), Some(json!(false)));
    assert_eq!(
        (defaults.remove("log.level"), defaults.remove("log.format")),
        (Some(json!("info")), Some(json!("text")))
    );
    assert_eq!(config.log, Log { level: LogLevel::Info, format: LogFormat::Text });
    effective.retain(|key, _| !key.starts_with("log.") && key != "danger_plaintext_tcp");
    assert_eq!(defaults, effective, "defaults");
}

#[test]
fn the_ranges_are_those_of_the_code() {
    let mut checked = 0;
    for row in table("config.yaml", "key").iter().filter(|row| !row[2].is_empty()) {
        let key = spans(&row[0])[0];
        let (min, max) = row[3].split_once(" to ").unwrap();
        let (min, max): (u64, u64) = (min.parse().unwrap(), max.parse().unwrap());
        // The one rule between two settings is kept out of the way.
        let other = if key == "timeouts.check_ms" { ("timeouts.margin_ms", 0) } else { ("timeouts.check_ms", 60_000) };
        let redis = key.starts_with("ledger.redis.").then(redis_url);
        let legal = |value: u64| {
            let mut changes = vec![(other.0, json!(other.1)), (key, json!(value))];
            changes.extend(redis.clone());
            parse(&settings(&changes)).is_ok()
        };
        assert!(legal(min) && legal(max) && !legal(max + 1), "{key}");
        assert!(min == 0 || !legal(min - 1), "{key}");
        checked += 1;
    }
    assert_eq!(checked, 39);
}

fn flatten(prefix: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    let Some(members) = value.as_object() else {
        out.insert(prefix.to_owned(), value.clone());
        return;
    };
    for (key, value) in members {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        flatten(&path, value, out);
    }
}

/// Every key that the parser knows, as its hints list them.
fn known_settings() -> BTreeSet<String> {
    let known = |prefix: &str| -> Vec<String> {
        let section = prefix.trim_end_matches('.');
        // What is no list of keys becomes one here, and is refused as such.
        let mut settings = if section.is_empty() { settings(&[]) } else { settings(&[(section, json!({}))]) };
        let place =
            section.split('.').filter(|name| !name.is_empty()).fold(&mut settings, |place, name| &mut place[name]);
        place["zzzzzzzzzz"] = json!(1);
        let defects = parse(&settings).unwrap_err();
        let hint = defects.iter().find(|defect| defect.message.contains("zzzzzzzzzz")).and_then(|d| d.hint.clone());
        spans(&hint.unwrap_or_default()).into_iter().map(str::to_owned).collect()
    };
    let mut keys = BTreeSet::new();
    let mut sections = vec![String::new()];
    while let Some(prefix) = sections.pop() {
        for key in known(&prefix) {
            let key = format!("{prefix}{key}");
            if known(&format!("{key}.")).is_empty() {
                keys.insert(key);
            } else {
                sections.push(format!("{key}."));
            }
        }
    }
    keys
}

#[test]
fn the_metrics_are_those_of_the_page() {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, 1);
    metrics.request(Verdict::Allow, "a", "ping", Duration::ZERO, None);
    ResponseOutcome::ALL.iter().for_each(|outcome| metrics.response(*outcome, "a", "ping"));
    metrics.rule_hit("p", "/mask/0", 1);
    metrics.set_policies("sha256:00", [(&"p".into(), "sha256:00")].into_iter(), 1);
    metrics.rule_denial("p", "(default deny)");
    let mut page = String::new();
    text::encode(&mut page, &registry).unwrap();
    let mut shown: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let labels = labels.split(',').filter_map(|label| label.split_once('=')).map(|(key, _)| key);
        shown.entry(histogram.unwrap_or(name)).or_default().extend(labels.filter(|key| *key != "le"));
    }
    let rows = table("Metrics", "metric");
    let documented = rows.iter().map(|row| (spans(&row[0])[0], spans(&row[1]).into_iter().collect())).collect();
    assert_eq!(shown, documented);
    for row in rows.iter().filter(|row| row[1].ends_with("`outcome`")) {
        for outcome in spans(&row[2]) {
            let (name, label) = (spans(&row[0])[0], format!("outcome=\"{outcome}\""));
            assert!(page.lines().any(|line| line.starts_with(name) && line.contains(&label)), "{name} {label}");
        }
    }
}

/// Status and code as the tables write them.
fn summary(answer: &Answer) -> String {
    if answer.body.is_empty() {
        return format!("{}, empty", answer.status);
    }
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    match body["error"]["code"].as_i64() {
        Some(code) => format!("{}, {code}", answer.status),
        None if body["result"]["isError"] == true => format!("{}, tool result", answer.status),
        None => panic!("{}", answer.body),
    }
}

fn refused(reason: Reason, asked: Asked, era: Era) -> String {
    let context = Context {
        asked,
        era,
        id: matches!(asked, Asked::Request | Asked::ToolCall | Asked::Initialize).then_some("1"),
        policy_digest: None,
        request_id: None,
        resource_metadata: None,
        requested_version: None,
        versions: ProtocolVersion::ALL,
        unknown_tool: None,
    };
    summary(&answer(&Denial::built_in(reason), &context))
}

fn names(reasons: impl Iterator<Item = Reason>) -> BTreeSet<&'static str> {
    reasons.map(Reason::name).collect()
}

fn named(name: &str) -> Reason {
    Reason::ALL.iter().copied().find(|reason| reason.name() == name).unwrap_or_else(|| panic!("no reason `{name}`"))
}

#[test]
fn each_invalid_request_gets_the_answer_of_the_table() {
    let rows = table("What is refused before any policy", "reason");
    let documented: BTreeSet<&str> = rows.iter().flat_map(|row| spans(&row[0])).collect();
    assert_eq!(documented, names(Reason::ALL.iter().copied().filter(|reason| reason.class() == Class::Invalid)));
    for row in rows.iter().filter(|row| row[2] != "see below") {
        let reason = named(spans(&row[0])[0]);
        for asked in [Asked::Initialize, Asked::NoAnswer, Asked::NoBody, Asked::Request, Asked::ToolCall, Asked::Unread]
        {
            assert_eq!(refused(reason, asked, Era::Legacy), row[2], "{reason} {asked:?}");
        }
    }
}

#[test]
fn each_refusal_gets_the_answer_of_the_table() {
    let rows = table("What is refused before any policy", "refusal");
    let mut documented = BTreeSet::new();
    for row in &rows {
        for name in spans(&row[1]) {
            let reason = named(name);
            documented.insert(name);
            for (cell, kinds) in [
                (&row[2], &[Asked::ToolCall][..]),
                (&row[3], &[Asked::Request]),
                (&row[4], &[Asked::Initialize, Asked::NoBody, Asked::Unread]),
                (&row[5], &[Asked::NoAnswer]),
            ] {
                for asked in kinds {
                    assert_eq!(refused(reason, *asked, Era::Legacy), *cell, "{name} {asked:?}");
                }
            }
        }
    }
    let others = |reason: &Reason| reason.class() != Class::Invalid || *reason == Reason::UnknownMethod;
    assert_eq!(documented, names(Reason::ALL.iter().copied().filter(others)));
    // What the text says of 2026-07-28.
    assert_eq!(refused(Reason::UnknownMethod, Asked::Request, Era::Modern), "404, -32601");
    assert_eq!(refused(Reason::Condition, Asked::NoAnswer, Era::Modern), "400, -32600");
    assert!(
        README.contains("in 2026-07-28 an unknown method is HTTP 404, and a refused notification is `400, -32600`")
    );
}

#[test]
fn each_method_is_in_its_group() {
    let mut documented = BTreeSet::new();
    let rows = table("Other methods", "methods");
    for row in &rows {
        for name in spans(&row[0]) {
            let needs_default = Method::parse(name).unwrap().group() == Group::Named;
            assert_eq!(row[1], if needs_default { "pass only with `default: allow`" } else { "pass" }, "{name}");
            documented.insert(name);
        }
    }
    let all = METHODS.iter().copied().filter(|name| !name.starts_with('_') && *name != "tools/call");
    assert_eq!(documented, all.collect());
}

/// A policy with one condition in the tool `t`.
fn one_condition(section: &str, path: &str, operator: &str, value: &Value) -> Result<Policy, Vec<Defect>> {
    let rules = json!([{"conditions": [{"path": path, "op": operator, "value": value}]}]);
    let document = json!({"version": "1", "default": "deny", "tools": {"t": {section: rules}}}).to_string();
    let source = Source { id: "p", file: "p.json", bytes: document.as_bytes(), format: Format::Json };
    Policy::compile(&source).map(|compiled| compiled.policy)
}

/// What the one condition says of these arguments, and whether its rule denies.
fn judged(policy: &Policy, arguments: &str) -> (&'static str, bool) {
    let document = Document::parse(arguments.as_bytes(), Limits::default()).unwrap();
    let who = Principal::of_grant("g");
    let explanation = policy.explain(&who, &Call::of("t", Some(document.root())));
    let step = explanation.steps.iter().find(|step| !step.conditions.is_empty()).unwrap();
    (step.conditions[0].truth.name(), matches!(step.outcome, StepOutcome::Denies(_)))
}

/// A value for the policy, one argument for which it holds, and one of another type.
fn operands(operator: &str, value: &str) -> (Value, Value, Value) {
    match operator {
        "eq" => (json!("a"), json!("a"), json!(1)),
        "neq" => (json!("a"), json!("b"), json!(1)),
        "lt" => (json!(5), json!(4), json!("4")),
        "lte" => (json!(5), json!(5), json!("4")),
        "gt" => (json!(5), json!(6), json!("6")),
        "gte" => (json!(5), json!(5), json!("6")),
        "in" => (json!(["a"]), json!("a"), json!(1)),
        "not_in" => (json!(["a"]), json!("b"), json!(1)),
        "exists" if value == "`true`" => (json!(true), json!(1), json!([])),
        "exists" => (json!(false), json!(null), json!([])),
        "regex" => (json!("^a"), json!("abc"), json!(["a"])),
        "contains" => (json!("a"), json!(["a"]), json!({"a": 1})),
        other => panic!("the README names an operator `{other}`"),
    }
}

#[test]
fn each_operator_judges_as_the_table_says() {
    let mut documented = BTreeSet::new();
    for row in table("Operators", "op") {
        let operator = spans(&row[0])[0];
        documented.insert(operator.to_owned());
        let (value, good, other) = operands(operator, &row[1]);
        let policy = one_condition("require", "args.x", operator, &value).unwrap();
        let says = |arguments: Value| judged(&policy, &arguments.to_string()).0;
        assert_eq!(says(json!({})), row[3], "{operator}: missing");
        assert_eq!(says(json!({"x": null})), row[4], "{operator}: null");
        assert_eq!(says(json!({"x": other})), row[5], "{operator}: other type");
        if !good.is_null() {
            assert_eq!(says(json!({"x": good})), "holds", "{operator}");
        }
    }
    let defects = one_condition("require", "args.x", "zzzzzzzzzz", &json!(1)).unwrap_err();
    let message = defects.iter().find(|defect| defect.message.contains("zzzzzzzzzz")).unwrap().message.clone();
    let (known, _) = message.split_once(", found").unwrap();
    assert_eq!(documented, spans(known).into_iter().map(str::to_owned).collect());
}

#[test]
fn each_truth_leads_where_the_table_says() {
    let rows = table("Operators", "the condition");
    assert_eq!(rows.len(), 4);
    for row in rows {
        let arguments = match row[0].as_str() {
            "holds" => json!({"x": 6}),
            "fails" => json!({"x": 5}),
            "missing" => json!({}),
            _ => json!({"x": "6"}),
        };
        for (section, cell) in [("require", &row[1]), ("deny_if", &row[2])] {
            let policy = one_condition(section, "args.x", "gt", &json!(5)).unwrap();
            let (truth, denies) = judged(&policy, &arguments.to_string());
            assert_eq!((truth, denies), (row[0].as_str(), cell.starts_with("denies")), "{section}");
        }
    }
}

/// What the list below the tables says of numbers and of paths.
#[test]
fn numbers_and_paths_are_judged_as_the_list_says() {
    for (path, value, arguments, truth) in [
        ("args.x", 9_007_199_254_740_992_u64, r#"{"x": 9007199254740993}"#, "holds"),
        ("args.x", 9_007_199_254_740_992, r#"{"x": 9007199254740992.0}"#, "fails"),
        ("args.x", 42, r#"{"x": 42.00000000000000000001}"#, "cannot be judged"),
        ("args.x", 5, r#"{"x": 1e308}"#, "cannot be judged"),
        ("args.x", 5, r#"{"x": 1e-308}"#, "cannot be judged"),
        ("args.x", 5, r#"{"x": 1e307}"#, "holds"),
        ("args.x.y", 5, r#"{"x": "{}"}"#, "cannot be judged"),
        ("args.x.y", 5, r#"{"x": [{"y": 6}]}"#, "cannot be judged"),
        ("args.x.y", 5, r#"{"x": null}"#, "missing"),
        ("args.x.y", 5, r#"{"x": {}}"#, "missing"),
    ] {
        let policy = one_condition("require", path, "gt", &json!(value)).unwrap();
        assert_eq!(judged(&policy, arguments).0, truth, "{arguments}");
    }
}

#[test]
fn the_bounds_of_a_policy_are_those_of_the_code() {
    let words = [
        (policy::TOOLS_MAX, "tools"),
        (policy::CONDITIONS_MAX, "conditions"),
        (policy::RULES_MAX, "rules in a section"),
        (policy::CONDITIONS_PER_RULE_MAX, "conditions in a rule"),
        (policy::PATTERNS_MAX, "patterns"),
        (PATTERN_CHARS_MAX, "characters,"),
        (policy::PATTERN_BYTES_MAX, "bytes, and those of all policies 67108864."),
        (policy::VALUES_MAX, "values in a list"),
        (policy::LIMITS_MAX, "limits in a tool"),
        (policy::MESSAGE_CHARS_MAX, "characters in a message"),
        (policy::PATH_SEGMENTS_MAX, "names in a path"),
        (SUBJECT_BYTES_MAX, "bytes cannot be judged"),
    ];
    for (bound, what) in words {
        assert!(README.contains(&format!("{bound} {what}")), "the README does not say `{bound} {what}`");
    }
    assert!(README.contains(&format!("0 to {AMOUNT_MAX}")));
    assert_eq!(mcp_authz::files::DOCUMENT_BYTES_MAX, 1 << 20);
    assert!(README.contains("A policy file has at most 1 MiB."));
}
