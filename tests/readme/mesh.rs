//! `deploy/MESH.md`: its commands run, its tables are those of the doctor, and the recipes that it offers keep every guarantee.

use std::collections::BTreeSet;
use std::process::Command;

use mcp_authz::doctor::{self, Document, Expect, Finding, Verdict, checks};
use sha2::{Digest as _, Sha256};

use super::{blocks_of, root, spans, table_in};

/// The text that is tested.
const PAGE: &str = include_str!("../../deploy/MESH.md");
const ISTIO: &[&str] = &["deploy/istio/mesh.yaml", "deploy/istio/mcp.yaml", "deploy/istio/responses.yaml"];
const GATEWAY: &[&str] =
    &["deploy/envoy-gateway/gateway.yaml", "deploy/envoy-gateway/mcp.yaml", "deploy/envoy-gateway/patch.yaml"];

fn file(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn expect(version: &str) -> Expect {
    Expect { version: version.parse().ok(), response_phase: Some(true), ..Expect::default() }
}

fn documents(name: &str, text: &str) -> Vec<Document> {
    Document::read(name, text.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The findings about these files, each changed first.
fn judged(files: &[&str], expect: &Expect, change: &dyn Fn(String) -> String) -> Vec<Finding> {
    let all: Vec<_> = files.iter().flat_map(|name| documents(name, &change(file(name)))).collect();
    doctor::examine(&all, expect).unwrap_or_else(|error| panic!("{files:?}: {error}"))
}

fn not_holding(findings: &[Finding]) -> BTreeSet<(&'static str, &'static str)> {
    let others = findings.iter().filter(|finding| finding.verdict != Verdict::Holds);
    others.map(|finding| (finding.check.id, finding.verdict.name())).collect()
}

#[test]
fn every_recipe_keeps_every_guarantee() {
    for (files, version) in [
        (&["deploy/envoy.yaml"][..], "1.40.0"),
        (&["deploy/envoy-1.36.yaml"], "1.36.4"),
        (&["deploy/envoy-1.36.yaml"], "1.39.3"),
        (ISTIO, "1.39.3"),
        (GATEWAY, "1.39.3"),
    ] {
        assert_eq!(not_holding(&judged(files, &expect(version), &|text| text)), BTreeSet::new(), "{files:?}");
    }
}

/// The doctor reads the recipes as the meshes do: what these made of them says the same.
#[test]
fn what_the_meshes_make_of_the_recipes_keeps_every_guarantee() {
    let found = judged(&["tests/recipes/envoy-gateway.json"], &expect("1.39.3"), &|text| text);
    assert_eq!(not_holding(&found), BTreeSet::new());
    let expect = Expect { upstreams: vec!["inbound|8080||".to_owned()], ..expect("1.39.3") };
    let found = judged(&["tests/recipes/istio.json"], &expect, &|text| text);
    // What istiod gives to a sidecar has no bootstrap.
    assert_eq!(not_holding(&found), BTreeSet::from([("admin-closed", "unknown")]));
}

/// What is written, what instead, and the guarantee that is broken then.
type Change = (&'static str, &'static str, &'static str);

const ISTIO_BROKEN: &[Change] = &[
    ("rules: [{}]", "rules: [{to: [{operation: {paths: [/mcp]}}]}]", "authz-always"),
    ("failOpen: false", "failOpen: true", "fail-closed"),
    ("timeout: 1s\n        # safety", "# safety", "authz-timeout"),
    ("statusOnError: \"503\"", "clearRouteCache: false", "error-status"),
    ("packAsBytes: true", "packAsBytes: false", "body-bytes"),
    ("allowPartialMessage: false", "allowPartialMessage: true", "body-whole"),
    ("maxRequestBytes: 1048576", "maxRequestBytes: 2097152", "body-limit"),
    ("encode_raw_headers: true", "encode_raw_headers: false", "headers-raw"),
    ("path_with_escaped_slashes_action: REJECT_REQUEST", "server_name: x", "path-escaped"),
    ("use_remote_address: true", "use_remote_address: false", "client-address"),
    ("match: {path: /mcp}", "match: {prefix: /mcp}", "route-exact"),
    ("upgrade_configs: [{upgrade_type: websocket, enabled: false}]", "priority: HIGH", "route-upgrade"),
    ("max_stream_duration: {max_stream_duration: 3600s}", "priority: HIGH", "route-time"),
    ("mode: STRICT", "mode: PERMISSIVE", "callers-tls"),
    ("mode: ISTIO_MUTUAL", "mode: SIMPLE", "cluster-transport"),
    ("http2MaxRequests: 16384", "http2MaxRequests: 1024", "cluster-breaker"),
    ("http2MaxRequests: 16384", "http2MaxRequests: 1025", "responses-cluster"),
    ("response_body_mode: STREAMED", "response_body_mode: NONE", "responses-mode"),
    ("INSERT_BEFORE", "INSERT_FIRST", "responses-order"),
    ("failure_mode_allow: false", "failure_mode_allow: true", "responses-closed"),
    ("authority: mcp-authz.mcp-system.svc.cluster.local", "authority: \"a|b\"", "cluster-authority"),
    ("- providers: [{name: mcp-authz-log}]", "- providers: [{name: other}]", "settle-log"),
    ("access_log_options: {access_log_flush_interval: 10s}", "server_name: x", "settle-interval"),
];

const GATEWAY_BROKEN: &[Change] = &[
    ("failOpen: false", "failOpen: true", "fail-closed"),
    ("failOpen: false", "failOpen: true", "responses-closed"),
    ("path: /pack_as_bytes, value: true", "path: /pack_as_bytes, value: false", "body-bytes"),
    ("path: /encode_raw_headers, value: true", "path: /encode_raw_headers, value: false", "headers-raw"),
    ("bodyToExtAuth: {maxRequestBytes: 1048576}", "recomputeRoute: false", "body-whole"),
    ("timeout: 1s\n    # safety", "timeout: 0.5s\n    # safety", "authz-timeout"),
    ("type: Exact", "type: PathPrefix", "route-exact"),
    ("maxStreamDuration: 3600s", "connectionIdleTimeout: 1s", "route-time"),
    ("circuitBreaker: {maxParallelRequests: 8192", "circuitBreaker: {maxParallelRequests: 100", "cluster-breaker"),
    ("escapedSlashesAction: RejectRequest", "escapedSlashesAction: KeepUnchanged", "path-escaped"),
    ("disableMergeSlashes: false", "disableMergeSlashes: true", "path-slashes"),
    ("withUnderscoresAction: RejectRequest", "withUnderscoresAction: Allow", "header-underscores"),
    ("requestReceivedTimeout: 10s", "idleTimeout: 10s", "request-time"),
    ("protocol: HTTPS", "protocol: HTTP", "callers-tls"),
    ("clientCertificateRef: {name: mcp-gateway-client}", "minVersion: \"1.2\"", "cluster-transport"),
    ("caCertificateRefs:", "other:", "cluster-transport"),
    ("body: Streamed", "body: Buffered", "responses-mode"),
    ("accessibleNamespaces: [envoy.filters.http.ext_authz]", "accessibleNamespaces: []", "responses-metadata"),
    ("$.virtual_hosts[*].routes[*].route.upgrade_configs", "$.other", "route-upgrade"),
    (
        "op: add, jsonPath: \"$.filter_chains[*].filters[*].typed_config\"",
        "op: add, jsonPath: \"$.other\"",
        "settle-interval",
    ),
    ("# No `retry` on purpose", "retry: {numRetries: 2}\n  #", "route-retry"),
];

#[test]
fn damage_to_a_recipe_is_found() {
    for (files, changes) in [(ISTIO, ISTIO_BROKEN), (GATEWAY, GATEWAY_BROKEN)] {
        for (from, to, id) in changes {
            assert!(files.iter().any(|name| file(name).contains(from)), "no recipe has `{from}`");
            let found = judged(files, &expect("1.39.3"), &|text| text.replace(from, to));
            assert!(not_holding(&found).contains(&(id, "broken")), "`{to}` breaks {id}: {:?}", not_holding(&found));
        }
    }
}

#[test]
fn a_patch_that_is_not_understood_leaves_everything_unknown() {
    let change = |text: String| text.replace("@.name =~ 'ext_authz/'", "@.name =~ 'ext_.*'");
    let found = judged(GATEWAY, &expect("1.39.3"), &change);
    assert!(not_holding(&found).contains(&("authz-elsewhere", "unknown")), "{found:?}");
    let change = |text: String| text.replace("applyTo: HTTP_ROUTE", "applyTo: VIRTUAL_HOST");
    let found = judged(ISTIO, &expect("1.39.3"), &change);
    assert!(not_holding(&found).contains(&("authz-elsewhere", "unknown")), "{found:?}");
}

#[test]
fn beside_the_server_mcp_authz_is_asked_on_loopback() {
    let page = blocks_of(PAGE);
    let entry = &page.iter().find(|block| block.name == "yaml same-pod").unwrap().text;
    let local = |text: String| text.replace("mcp-authz.mcp-system.svc.cluster.local", "mcp-authz.local");
    let mut all: Vec<_> = ISTIO.iter().flat_map(|name| documents(name, &local(file(name)))).collect();
    let plain = |text: String| local(text).replace("tls: {mode: ISTIO_MUTUAL}", "loadBalancer: {simple: RANDOM}");
    let without: Vec<_> = ISTIO.iter().flat_map(|name| documents(name, &plain(file(name)))).collect();
    all.extend(documents("entry", entry));
    let found = doctor::examine(&all, &expect("1.39.3")).unwrap();
    assert_eq!(not_holding(&found), BTreeSet::new());
    let lost = not_holding(&doctor::examine(&without, &expect("1.39.3")).unwrap());
    assert!(lost.contains(&("cluster-transport", "unknown")), "{lost:?}");
}

#[test]
fn the_older_configuration_differs_where_the_page_says() {
    let code = |name: &str| -> Vec<String> {
        let text = file(name);
        text.lines()
            .filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty())
            .map(str::to_owned)
            .collect()
    };
    let new: Vec<String> =
        code("deploy/envoy.yaml").iter().map(|line| line.replace("%REQUEST_HEADER(", "%REQ(")).collect();
    let start = new.iter().position(|line| line.contains("- name: envoy.filters.http.body_size_limit")).unwrap();
    let rest = new.iter().enumerate().filter(|(at, _)| !(start..start + 4).contains(at)).map(|(_, line)| line.clone());
    assert_eq!(rest.collect::<Vec<_>>(), code("deploy/envoy-1.36.yaml"));
}

#[test]
fn the_table_is_that_of_the_doctor() {
    let rows = table_in(PAGE, "Every guarantee", "id");
    let written: Vec<Vec<String>> = checks::ALL
        .iter()
        .map(|check| vec![format!("`{}`", check.id), check.promise.into(), check.means.into(), check.fix.into()])
        .collect();
    assert_eq!(rows, written);
}

#[test]
fn what_the_meshes_say_stands_in_their_recipes() {
    let mut rows = PAGE.lines().skip_while(|line| *line != "| id | Istio | Envoy Gateway |").skip(2).peekable();
    assert!(rows.peek().is_some());
    let text = |files: &[&str]| files.iter().map(|name| file(name)).collect::<String>();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').collect();
        for id in spans(cells[1]) {
            assert!(checks::ALL.iter().any(|check| check.id == id), "no guarantee `{id}`");
        }
        for (cell, files) in [(cells[2], ISTIO), (cells[3], GATEWAY)] {
            for span in spans(cell) {
                assert!(text(files).contains(span), "{files:?} have no `{span}`");
            }
        }
    }
}

#[test]
fn links_and_versions_are_right() {
    for link in PAGE.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        match link.strip_prefix('#') {
            Some(anchor) => {
                let heading = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                assert!(PAGE.lines().any(|line| line.starts_with('#') && heading(line) == anchor), "no heading {link}");
            }
            None => assert!(root().join("deploy").join(link).exists(), "no file {link}"),
        }
    }
    let pins = file("tests/tools/install.sh");
    for (pin, version) in [("ENVOY", "1.40.0"), ("ENVOY_1_36", "1.36.4"), ("ENVOY_1_38", "1.38.3"), ("EGCTL", "1.9.1")]
    {
        assert!(
            pins.contains(&format!("readonly {pin}={version}\n")) && PAGE.contains(version),
            "{pin} is not {version}"
        );
    }
}

/// The commands of the page.
#[test]
fn its_commands_are_understood() {
    let names: Vec<&str> = blocks_of(PAGE).iter().map(|block| block.name).collect();
    assert_eq!(names, ["sh doctor", "sh forward", "sh saved", "sh recipe", "yaml same-pod"]);
    let page = blocks_of(PAGE);
    let lines: Vec<&str> =
        page.iter().flat_map(|block| block.text.lines()).filter(|line| line.starts_with("mcp-authz ")).collect();
    assert_eq!(lines.len(), 5);
    for line in lines {
        let words: Vec<&str> = line.split(' ').skip(1).map(|word| word.trim_matches('\'')).collect();
        let is_recipe = line.contains("--recipe");
        let output = Command::new(env!("CARGO_BIN_EXE_mcp-authz")).args(&words).current_dir(root()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        // The others look for what is not here, and say so.
        assert_eq!(output.status.code(), Some(if is_recipe { 0 } else { 64 }), "{line}: {said}");
        assert!(is_recipe || said.starts_with("mcp-authz: ") || said.contains("cannot be"), "{line}: {said}");
    }
}

/// What the meshes made of the recipes is of these recipes, by these programs.
#[test]
fn the_translations_are_of_the_recipes_as_they_are() {
    let again = "run `make recipes` and commit what it writes";
    let mut files = BTreeSet::new();
    for line in file("tests/recipes/inputs.sha256").lines() {
        let (digest, name) = line.split_once("  ").unwrap();
        if name == "egctl" {
            assert!(file("tests/tools/install.sh").contains(&format!("readonly EGCTL={digest}\n")), "{again}");
            continue;
        }
        let found: String = Sha256::digest(file(name)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, digest, "{name} was changed: {again}");
        files.insert(name.to_owned());
    }
    for name in ISTIO.iter().chain(GATEWAY) {
        assert!(files.contains(*name), "{name} was never translated: {again}");
    }
}
