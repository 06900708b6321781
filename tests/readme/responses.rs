//! The page about responses, and the files that it offers.

use std::fmt::Write as _;
use std::process::Command;

use super::{root, spans};

const PAGE: &str = include_str!("../../deploy/RESPONSES.md");
const FILTER: &str = "          - name: envoy.filters.http.ext_proc\n";
const ROUTER: &str = "          - name: envoy.filters.http.router\n";

fn file(name: &str) -> String {
    std::fs::read_to_string(root().join("deploy").join(name)).unwrap()
}

/// A YAML text without comments and empty lines.
fn code(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The shipped configuration, cut at the filter: before it, the filter, after it.
fn shipped() -> (String, String, String) {
    let text = file("envoy.yaml");
    let (before, rest) = text.split_once(FILTER).unwrap();
    let (filter, after) = rest.split_once(ROUTER).unwrap();
    (before.to_owned(), code(&format!("{FILTER}{filter}")), format!("{ROUTER}{after}"))
}

/// The filter that the file for Istio puts in, as it would stand in a configuration of Envoy.
fn istio() -> String {
    let text = file("istio/responses.yaml");
    let (_, value) = text.split_once("      value:\n").unwrap();
    let mut out = String::new();
    for (number, line) in value.lines().enumerate() {
        let line = line.strip_prefix("        ").unwrap();
        writeln!(out, "          {}{line}", if number == 0 { "- " } else { "  " }).unwrap();
    }
    out
}

#[test]
fn the_filter_for_istio_is_the_shipped_one_and_envoy_takes_it() {
    let (before, shipped, after) = shipped();
    let filter = istio();
    let (head, rest) = filter.split_once("grpc_service:\n").unwrap();
    let (service, tail) = rest.split_once("                  message_timeout").unwrap();
    assert!(service.contains("cluster_name: \"outbound|9191||mcp-authz.mcp-system.svc.cluster.local\"\n"), "{service}");
    assert!(service.contains("authority: mcp-authz.mcp-system.svc.cluster.local\n"), "{service}");
    let own = "grpc_service: {envoy_grpc: {cluster_name: mcp_authz_responses}}\n                  message_timeout";
    let filter = code(&format!("{head}{own}{tail}"));
    assert_eq!(filter, shipped);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("envoy.yaml");
    std::fs::write(&config, format!("{before}{filter}{after}")).unwrap();
    let envoy = root().join(".tools/bin/envoy");
    assert!(envoy.exists(), "run tests/tools/install.sh envoy");
    let output = Command::new(envoy).args(["--mode", "validate", "-c"]).arg(&config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The program of the mesh reads the rest: `tests/e2e/recipes.rs`.
#[test]
fn the_file_for_envoy_gateway_says_the_same() {
    let text = code(&file("envoy-gateway/mcp.yaml"));
    for (line, times) in [
        ("failOpen: false", 2),
        ("messageTimeout: 1s", 1),
        ("allowModeOverride: true", 1),
        ("body: Streamed", 1),
        ("accessibleNamespaces: [envoy.filters.http.ext_authz]", 1),
        ("writableNamespaces: [mcp_authz]", 1),
    ] {
        assert_eq!(text.lines().filter(|have| have.trim() == line).count(), times, "{line}");
    }
}

#[test]
fn the_settings_of_the_page_are_those_of_the_shipped_file() {
    let (_, shipped, _) = shipped();
    let mut rows =
        PAGE.lines().skip_while(|line| *line != "| setting | why |").skip(2).take_while(|l| l.starts_with('|'));
    let mut settings = 0;
    for row in rows.by_ref() {
        let setting = spans(row.split('|').nth(1).unwrap())[0];
        assert!(shipped.contains(setting), "deploy/envoy.yaml has no `{setting}` in its ext_proc filter");
        settings += 1;
    }
    assert_eq!(settings, 9);
}

#[test]
fn what_the_page_names_is_there() {
    for link in PAGE.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        assert!(root().join("deploy").join(link).exists(), "no file {link}");
    }
    let readme = super::README;
    for name in spans(PAGE)
        .into_iter()
        .filter(|span| ["response.", "mcp_authz_re", "timeouts."].iter().any(|start| span.starts_with(start)))
    {
        assert!(readme.contains(&format!("`{name}`")), "the README does not know `{name}`");
    }
}
