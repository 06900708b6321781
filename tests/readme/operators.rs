//! `deploy/QUOTAS.md`: its settings load, its commands parse, its queries name metrics that there are.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mcp_authz::{
    config::Config,
    telemetry::metrics::{Metrics, Verdict},
};
use mcp_authz_core::document::Format;
use prometheus_client::{encoding::text, registry::Registry};

use super::{Block, blocks_of, fits, root, spans, table};

/// The text that is tested.
const PAGE: &str = include_str!("../../deploy/QUOTAS.md");

/// Every block and who checks it.
const KNOWN: &[(&str, &str)] = &[
    ("yaml embedded", "the_settings_load"),
    ("yaml redis", "the_settings_load"),
    ("yaml sentinel", "the_settings_load"),
    ("yaml cluster", "the_settings_load"),
    ("yaml replicas", "the_demo_uses_the_lines_for_envoy"),
    ("text acl", "the_rights_are_those_that_the_engine_needs"),
    ("sh quota", "the_commands_are_understood"),
    ("sh accept", "the_commands_are_understood"),
    ("text table", "the_table_is_that_of_the_command"),
    ("promql spent", "the_queries_name_metrics_and_labels_that_there_are"),
    ("promql refused", "the_queries_name_metrics_and_labels_that_there_are"),
    ("promql slow", "the_queries_name_metrics_and_labels_that_there_are"),
];

fn block(name: &str) -> String {
    let mut found = blocks_of(PAGE).into_iter().filter(|block| block.name == name);
    let Block { text, .. } = found.next().unwrap_or_else(|| panic!("the page has no block `{name}`"));
    assert!(found.next().is_none(), "the page has two blocks `{name}`");
    text
}

/// A source of the repository.
fn source(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_block_is_checked_by_a_test() {
    let names: Vec<&str> = blocks_of(PAGE).iter().map(|block| block.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>(), KNOWN.iter().map(|(name, _)| name).collect());
}

#[test]
fn links_lead_somewhere() {
    let anchor = |heading: &str| {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let anchors = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
    };
    for link in PAGE.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
        let text = if file.is_empty() { PAGE.to_owned() } else { source(&format!("deploy/{file}")) };
        assert!(fragment.is_empty() || anchors(&text).contains(fragment), "no heading for {link}");
    }
}

#[test]
fn the_settings_load() {
    for name in ["yaml embedded", "yaml redis", "yaml sentinel", "yaml cluster"] {
        let parsed = Config::parse("config.yaml", block(name).as_bytes(), Format::Yaml, Path::new("/etc/mcp-authz"));
        let config = parsed.unwrap_or_else(|defects| panic!("{name}: {defects:?}"));
        assert_eq!(config.warnings, [], "{name}");
    }
    let documented: BTreeSet<String> =
        table("config.yaml", "key").iter().flat_map(|row| spans(&row[0])).map(str::to_owned).collect();
    let named = PAGE.lines().filter(|line| line.starts_with("| `")).flat_map(|line| spans(line).into_iter().next());
    for setting in named.filter(|name| name.contains('.')) {
        assert!(documented.contains(setting), "there is no setting `{setting}`");
    }
}

#[test]
fn the_demo_uses_the_lines_for_envoy() {
    assert!(source("tests/demo/stack.mjs").contains(&block("yaml replicas")), "the demo has other lines for Envoy");
}

#[test]
fn the_rights_are_those_that_the_engine_needs() {
    let tested = source("src/quota/redis/tests/access.rs");
    let (_, list) = tested.split_once("const RIGHTS: &[&str] = &[").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let needed: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
    let text = block("text acl");
    let (_, rights) = text.trim_end().split_once(">PASSWORD ").unwrap();
    assert_eq!(rights.split(' ').collect::<BTreeSet<_>>(), needed);
}

#[test]
fn the_commands_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    // A port of nobody: there the command ends when its arguments were understood.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for line in (block("sh quota") + &block("sh accept")).lines() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
        command.args(line.split(' ').skip(1)).args(["--admin", &port.to_string(), "--token-file"]).arg(&token);
        command.stdin(std::process::Stdio::null()).env_remove("MCP_AUTHZ_CONFIG");
        let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
        let asked = fits("…is mcp-authz running there?\n", &said) || said.contains("not confirmed");
        assert!(asked, "{line}: {said}");
    }
}

#[test]
fn the_table_is_that_of_the_command() {
    let tested = source("src/command/quota/tests.rs").replace("\\\n", "");
    assert!(tested.contains(&block("text table")), "the table of `quota show` looks otherwise");
}

/// Every series name of the page of metrics, and the labels that each has.
fn series() -> Vec<(String, BTreeSet<String>)> {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, 1);
    metrics.request(Verdict::Allow, "a", "ping", Duration::ZERO, None);
    let mut page = String::new();
    text::encode(&mut page, &registry).unwrap();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| format!("{key}={}", value.trim_end_matches('}')));
        (name.to_owned(), labels.collect())
    });
    series.collect()
}

#[test]
fn the_queries_name_metrics_and_labels_that_there_are() {
    let series = series();
    let blocks = blocks_of(PAGE).into_iter().filter(|block| block.name.starts_with("promql"));
    let mut seen = 0;
    for Block { text, .. } in blocks {
        for rest in text.split("mcp_authz_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            let name = format!("mcp_authz_{name}");
            let of_name: Vec<_> = series.iter().filter(|(known, _)| *known == name).collect();
            assert!(!of_name.is_empty(), "there is no metric `{name}`");
            let selector = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(inside, _)| inside);
            if let Some(selector) = selector {
                assert!(
                    of_name.iter().any(|(_, labels)| labels.contains(selector)),
                    "`{name}` is never {{{selector}}}"
                );
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 4);
}
