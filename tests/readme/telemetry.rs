//! The page about telemetry: its tables are made from the code, its samples load, and its links lead somewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mcp_authz::{
    config::Config,
    telemetry::{
        metrics::{Label as _, Metrics, Page, ResponseOutcome, Verdict},
        names::{self, CHECK_SPAN, Named, SpanOf},
    },
};
use mcp_authz_core::document::Format;
use prometheus_client::registry::Registry;

use super::{blocks_of, root};

const FILE: &str = "deploy/TELEMETRY.md";
const WRITE: &str = "MCP_AUTHZ_WRITE_TABLES";
/// More values of a label are not listed: they have tables of their own, or are names of the configuration.
const VALUES_MAX: usize = 16;

fn page() -> String {
    fs::read_to_string(root().join(FILE)).unwrap()
}

/// One family of the page of metrics.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Every family under the name of its samples.
fn families() -> BTreeMap<String, Family> {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, 1);
    metrics.request(Verdict::Allow, "a", "ping", Duration::ZERO, None);
    ResponseOutcome::ALL.iter().for_each(|outcome| metrics.response(*outcome, "a", "ping"));
    metrics.rule_hit("p", "/mask/0", 1);
    metrics.rule_denial("p", "/tools");
    let policy = "p".into();
    metrics.set_policies("sha256:0", [(&policy, "sha256:0")].into_iter(), 1);
    let text = Page::new(Arc::new(registry), metrics).text().unwrap();
    let mut families = BTreeMap::<String, Family>::new();
    let (mut name, mut end, mut help) = (String::new(), "", "");
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap().1;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap();
            end = if kind == "counter" {
                "_total"
            } else if kind == "info" {
                "_info"
            } else {
                ""
            };
            family.clone_into(&mut name);
            let new = Family { kind: kind.to_owned(), help: help.to_owned(), ..Family::default() };
            families.insert(format!("{name}{end}"), new);
        } else {
            let labels =
                line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
            let of = &mut families.get_mut(&format!("{name}{end}")).unwrap().labels;
            for (key, value) in
                labels.split(',').filter_map(|label| label.split_once('=')).filter(|(key, _)| *key != "le")
            {
                of.entry(key.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
            }
        }
    }
    families
}

/// A metric as it is told to collectors.
fn as_sent(name: &str, kind: &str) -> String {
    let sent = name.strip_suffix("_total").unwrap_or(name);
    let unit = if sent.ends_with("_seconds") {
        ", `s`"
    } else if sent.ends_with("_bytes") {
        ", `By`"
    } else {
        ""
    };
    let kind = match kind {
        "counter" => "sum",
        "histogram" => "histogram",
        _ => "gauge",
    };
    format!("{kind}{unit}")
}

fn metrics_table() -> String {
    let mut out = "| metric | kind | sent as | labels | meaning |\n|---|---|---|---|---|\n".to_owned();
    for (name, Family { kind, help, labels }) in families() {
        let sent = as_sent(&name, &kind);
        let meaning = help.trim_end_matches('.');
        let labels: Vec<String> = labels
            .into_iter()
            .map(|(key, values)| {
                // Of these the values are names of the configuration, or have tables of their own.
                let open = ["server", "method", "policy", "digest", "counter", "revision", "rule", "version"];
                let is_open = open.contains(&key.as_str());
                let is_closed = !is_open && values.len() <= VALUES_MAX && name != "mcp_authz_requests_total";
                let values = values.into_iter().collect::<Vec<_>>().join(", ");
                if is_closed { format!("`{key}`: {values}") } else { format!("`{key}`") }
            })
            .collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{} ", labels.join("; ")) };
        writeln!(out, "| `{name}` | {kind} | {sent} | {labels}| {meaning} |").unwrap();
    }
    out
}

fn named_table(title: &str, names: &[Named]) -> String {
    let mut out = format!("| {title} | meaning |\n|---|---|\n");
    for Named { name, meaning } in names {
        writeln!(out, "| `{name}` | {meaning} |").unwrap();
    }
    out
}

fn spans_table() -> String {
    let mut out = "| span | kind | covers | attributes |\n|---|---|---|---|\n".to_owned();
    for SpanOf { name, kind, meaning, attributes } in names::SPANS {
        let attributes: Vec<String> = attributes.iter().map(|key| format!("`{key}`")).collect();
        let attributes = if attributes.is_empty() { String::new() } else { format!("{} ", attributes.join(", ")) };
        writeln!(out, "| `{name}` | {kind} | {meaning} | {attributes}|").unwrap();
    }
    out
}

/// Every table by its name on the page.
fn tables() -> [(&'static str, String); 6] {
    [
        ("spans", spans_table()),
        ("span attributes", named_table("attribute", names::SPAN_ATTRIBUTES)),
        ("metrics", metrics_table()),
        ("record attributes", named_table("attribute", names::RECORD_ATTRIBUTES)),
        ("log fields", named_table("field", names::LOG_FIELDS)),
        ("resource attributes", named_table("attribute", names::RESOURCE_ATTRIBUTES)),
    ]
}

/// The page with its tables made anew.
fn made(page: &str) -> String {
    let mut out = page.to_owned();
    for (name, table) in tables() {
        let (begin, end) = (format!("<!-- begin: {name} -->\n"), format!("<!-- end: {name} -->\n"));
        let (before, rest) = out.split_once(&begin).unwrap_or_else(|| panic!("{FILE} has no `{begin}`"));
        let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{FILE} has no `{end}`"));
        out = format!("{before}{begin}\n{table}\n{end}{after}");
    }
    out
}

#[test]
fn the_tables_of_telemetry_are_made_from_the_code() {
    let (page, made) = (page(), made(&page()));
    if std::env::var_os(WRITE).is_some() {
        fs::write(root().join(FILE), &made).unwrap();
        return;
    }
    let first = page.lines().zip(made.lines()).find(|(is, should)| is != should);
    assert!(
        page == made,
        "a table of {FILE} is not what the code says; make it anew:\n\n  {WRITE}=1 cargo test --test readme telemetry\n\n\
         first difference: {first:?}"
    );
}

/// Every Rust source of the program without its tests.
fn sources() -> Vec<(PathBuf, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.to_string_lossy().ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
                found.push((path, code));
            }
        }
    }
    found
}

/// The arguments of a macro, whose text begins behind its parenthesis, without what strings hold.
fn arguments(text: &str) -> Vec<String> {
    let (mut out, mut current, mut depth, mut chars) = (Vec::new(), String::new(), 0_usize, text.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                current.push('"');
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    if c == '\\' {
                        chars.next();
                    }
                }
            }
            ')' if depth == 0 => break,
            '(' | '[' | '{' => depth = depth.saturating_add(1),
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                out.push(std::mem::take(&mut current).trim().to_owned());
                continue;
            }
            _ => {}
        }
        current.push(c);
    }
    out.push(current.trim().to_owned());
    out
}

/// The field that an argument of a macro is; `None` for the message, its arguments and the target.
fn field(argument: &str) -> Option<&str> {
    let name = argument.split('=').next().unwrap_or_default().trim().trim_start_matches(['%', '?']);
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then_some(name)
}

#[test]
fn fields_of_the_log_are_those_of_the_list() {
    let mut used = BTreeMap::<String, PathBuf>::new();
    let mut messages = 0;
    for (path, code) in sources() {
        for level in ["error", "warn", "info", "debug", "trace"] {
            for rest in code.split(&format!("tracing::{level}!(")).skip(1) {
                messages += 1;
                let arguments = arguments(rest);
                // What follows the message is put into it.
                let fields = arguments.iter().take_while(|argument| !argument.starts_with('"'));
                used.extend(fields.filter_map(|argument| field(argument)).map(|name| (name.to_owned(), path.clone())));
            }
        }
        let other = ["event!(", "span!(", "#[instrument", "use tracing::{debug", "use tracing::{error"];
        let odd =
            other.iter().find(|word| code.contains(&format!("tracing::{word}")) || code.contains("use tracing::info"));
        assert_eq!(odd, None, "{}: write `tracing::info!(…)`, so that this test sees the fields", path.display());
    }
    assert!(messages > 50, "{messages}");
    let listed: BTreeSet<&str> = names::LOG_FIELDS.iter().map(|named| named.name).collect();
    for (name, path) in &used {
        assert!(
            listed.contains(name.as_str()),
            "the field `{name}` ({}) is not in LOG_FIELDS of src/telemetry/names.rs",
            path.strip_prefix(root()).unwrap_or(Path::new("")).display()
        );
    }
    let unused: Vec<_> = listed.iter().filter(|name| !used.contains_key(**name)).collect();
    assert!(unused.is_empty(), "LOG_FIELDS of src/telemetry/names.rs has what no message has: {unused:?}");
    assert!(names::LOG_FIELDS.is_sorted_by_key(|named| named.name), "LOG_FIELDS is not sorted");
}

/// The texts in quotes of a source.
fn literals(code: &str) -> impl Iterator<Item = &str> {
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.flat_map(|line| line.split('"').skip(1).step_by(2))
}

#[test]
fn spans_and_their_attributes_are_those_of_the_lists() {
    let mut used = BTreeSet::new();
    for (path, code) in sources() {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        if name.starts_with("src/telemetry/trace") {
            // The names of ours and of the semantic conventions have a point in them.
            let is_name = |text: &&str| {
                text.split_once('.').is_some_and(|(space, rest)| !space.is_empty() && !rest.is_empty())
                    && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'_')
            };
            used.extend(literals(&code).filter(is_name).map(str::to_owned));
        }
    }
    let listed: BTreeSet<&str> = names::SPAN_ATTRIBUTES.iter().map(|named| named.name).collect();
    let spans: BTreeSet<&str> = names::SPANS.iter().map(|span| span.name).filter(|name| *name != CHECK_SPAN).collect();
    let used: BTreeSet<&str> =
        used.iter().map(String::as_str).filter(|name| *name != "params._meta.traceparent").collect();
    assert_eq!(used, listed.union(&spans).copied().collect(), "src/telemetry/trace* and src/telemetry/names.rs");
    // What is in no span is of a link.
    let of_spans: BTreeSet<&str> = names::SPANS.iter().flat_map(|span| span.attributes).copied().collect();
    assert_eq!(listed.difference(&of_spans).collect::<Vec<_>>(), [&"mcp_authz.link"]);
    assert!(of_spans.is_subset(&listed));
    for list in [names::SPAN_ATTRIBUTES, names::RECORD_ATTRIBUTES, names::RESOURCE_ATTRIBUTES] {
        assert!(list.is_sorted_by_key(|named| named.name));
    }
    assert!(names::SPANS.iter().all(|span| span.attributes.is_sorted()));
}

#[test]
fn the_samples_of_telemetry_are_tested_and_load() {
    let blocks = blocks_of(include_str!("../../deploy/TELEMETRY.md"));
    let names: Vec<&str> = blocks.iter().map(|block| block.name).collect();
    // All but the first are held to a run by `tests/e2e/telemetry.rs`.
    assert_eq!(names, ["yaml collector", "yaml envoy-tracing", "yaml envoy-cluster", "text trace"]);
    let listen = "listen: {grpc: [\"tcp://127.0.0.1:0\"], admin: \"127.0.0.1:0\"}\n";
    let config = Config::parse("a", format!("{listen}{}", blocks[0].text).as_bytes(), Format::Yaml, Path::new(""));
    let endpoint = config.unwrap().telemetry.otlp.unwrap().endpoint.unwrap().to_string();
    assert!(endpoint.starts_with("http://127.0.0.1:4317"), "{endpoint}");
}

#[test]
fn links_of_telemetry_lead_somewhere() {
    let page = page();
    for link in page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        let file = link.split('#').next().unwrap();
        assert!(
            file.is_empty() || file.starts_with("https://") || root().join("deploy").join(file).exists(),
            "no file {link}"
        );
    }
}
