//! The page about the delivery of policies: its samples are those that the code takes, its tables say what the code does.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Output, Stdio},
};

use mcp_authz::{
    config::{Config, WebhookConfig},
    kubernetes::Cluster,
    telemetry::metrics::webhook::WebhookMetrics,
    watch::CREDENTIAL_FOLDERS_MAX,
    webhook::REVIEW_BYTES_MAX,
};
use mcp_authz_core::document::{Cursor, Format, Report};
use prometheus_client::{encoding::text, registry::Registry};

use super::{Block, README, blocks_of, root, spans, table, table_in};

const PAGE: &str = include_str!("../../deploy/POLICY_DELIVERY.md");

/// The blocks, each with the test that checks it.
const KNOWN: &[(&str, &str)] = &[
    ("sh check", "the_repository_passes_its_own_check"),
    ("yaml kustomization", "the_manifests_say_what_the_code_needs"),
    ("sh configmap", "the_manifests_say_what_the_code_needs"),
    ("yaml pod", "the_manifests_say_what_the_code_needs"),
    ("yaml config", "the_settings_load"),
    ("sh verify", "the_command_is_understood"),
    ("text verify", "tests/live/verify.rs"),
    ("promql refused", "the_queries_name_metrics_that_there_are"),
    ("promql apart", "the_queries_name_metrics_that_there_are"),
    ("yaml role", "the_manifests_say_what_the_code_needs"),
    ("yaml webhook config", "the_settings_load"),
    ("yaml webhook", "the_manifests_say_what_the_code_needs"),
];

fn block(name: &str) -> String {
    let mut found = blocks_of(PAGE).into_iter().filter(|block| block.name == name);
    let Block { text, .. } = found.next().unwrap_or_else(|| panic!("the page has no block `{name}`"));
    assert!(found.next().is_none(), "the page has two blocks `{name}`");
    text
}

/// Runs a line of the page.
fn run(line: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
    command.args(line.split(' ').skip(1)).args(more).current_dir(root()).env_remove("MCP_AUTHZ_CONFIG");
    command.stdin(Stdio::null()).output().unwrap()
}

/// Every scalar of the documents of a block, with its path; elements of lists have their number in it.
fn scalars(name: &str) -> BTreeMap<String, String> {
    fn walk(at: &Cursor<'_>, path: &str, out: &mut BTreeMap<String, String>) {
        use mcp_authz_core::document::Shape;
        let text = match &at.node().shape {
            Shape::Bool(value) => value.to_string(),
            Shape::Number(literal) => literal.clone(),
            Shape::String(text) => text.clone(),
            Shape::Null => String::new(),
            Shape::List(_) => {
                let items = at.items().unwrap_or_default();
                return items.iter().enumerate().for_each(|(n, item)| walk(item, &format!("{path}/{n}"), out));
            }
            Shape::Map(members) => {
                let keys: Vec<&str> = members.iter().map(|(key, _)| &**key).collect();
                let fields = at.fields(&keys).unwrap();
                return keys.iter().for_each(|key| walk(&fields.required(key).unwrap(), &format!("{path}/{key}"), out));
            }
        };
        out.insert(path.to_owned(), text);
    }
    let mut out = BTreeMap::new();
    for (number, text) in block(name).split("---\n").enumerate() {
        let report = Report::read(name, text.as_bytes(), Format::Yaml);
        let root = report.root().unwrap_or_else(|| panic!("{name} is no YAML"));
        walk(&root, &number.to_string(), &mut out);
    }
    out
}

#[test]
fn every_block_is_checked_by_a_test() {
    let names: BTreeSet<&str> = blocks_of(PAGE).iter().map(|block| block.name).collect();
    assert_eq!(names, KNOWN.iter().map(|(name, _)| *name).collect());
}

#[test]
fn links_lead_somewhere() {
    let anchors: BTreeSet<String> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| heading.to_lowercase().replace(' ', "-"))
        .collect();
    for link in PAGE.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        match link.strip_prefix('#') {
            Some(anchor) => assert!(anchors.contains(anchor), "no heading for {link}"),
            None => assert!(root().join("deploy").join(link.split('#').next().unwrap()).exists(), "nothing at {link}"),
        }
    }
    assert!(README.contains("](deploy/POLICY_DELIVERY.md)"));
}

#[test]
fn the_repository_passes_its_own_check() {
    for line in block("sh check").lines() {
        let output = run(line, &[]);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_command_is_understood() {
    let text = block("sh verify");
    let line = text.trim_end();
    // A port of nobody, and no time to wait for anybody.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let line = line.replace("127.0.0.1:9192", &nobody.to_string()).replace("--wait 180", "--wait 0");
    let output = run(&line, &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(69) && said.contains("cannot be asked"), "{said}");
    let documented: Vec<String> = table_in(PAGE, "Prove that they serve", "exit status").concat();
    assert_eq!(documented.iter().step_by(2).collect::<Vec<_>>(), ["0", "1", "64", "69"]);
}

#[test]
fn the_settings_load() {
    let parsed = Config::parse("config.yaml", block("yaml config").as_bytes(), Format::Yaml, Path::new("/etc"));
    let config = parsed.unwrap_or_else(|defects| panic!("{defects:?}"));
    assert!(config.reload.watch && config.kubernetes.events && config.warnings.is_empty());
    let pod = scalars("yaml pod");
    let mounts: Vec<&str> =
        pod.iter().filter(|(path, _)| path.ends_with("/mountPath")).map(|(_, mount)| &**mount).collect();
    let paths = &config.paths;
    let credentials = paths.credentials.join("demo");
    let folders = [paths.servers.parent().unwrap(), &paths.policies, &paths.grants, &credentials];
    for folder in folders.into_iter().chain([Path::new("/etc/mcp-authz/config")]) {
        assert!(mounts.contains(&folder.to_str().unwrap()), "nothing is mounted at {}", folder.display());
    }
    // A mount in a ConfigMap has no place to be.
    for (one, other) in mounts.iter().flat_map(|one| mounts.iter().map(move |other| (one, other))) {
        assert!(one == other || !other.starts_with(&format!("{one}/")), "{other} lies in {one}");
    }

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, block("yaml webhook config")).unwrap();
    let config = WebhookConfig::load(&file).unwrap_or_else(|defects| panic!("{defects:?}"));
    assert!(config.response_phase && config.warnings.is_empty());
    let webhook = scalars("yaml webhook");
    let port = config.webhook.listen.port().to_string();
    assert_eq!(webhook.get("0/spec/template/spec/containers/0/ports/0/containerPort"), Some(&port));
    let mounted = config.webhook.certificate.parent().unwrap().to_str().unwrap();
    assert!(webhook.iter().any(|(path, mount)| path.ends_with("/mountPath") && mount == mounted), "{mounted}");
}

#[test]
fn the_manifests_say_what_the_code_needs() {
    let kustomization = scalars("yaml kustomization");
    assert_eq!(kustomization.get("0/generatorOptions/labels/mcp-authz.io/documents").unwrap(), "policies");
    for n in 0..2 {
        let file = kustomization.get(&format!("0/configMapGenerator/0/files/{n}")).unwrap();
        assert!(root().join(file).exists(), "{file}");
    }
    assert!(block("sh configmap").contains("mcp-authz.io/documents=policies"));

    let pod = scalars("yaml pod");
    let named: BTreeSet<String> = (0..3).map(|n| pod[&format!("0/spec/containers/0/env/{n}/name")].clone()).collect();
    let missing = Cluster::read(Path::new(""), |name| name.starts_with("KUBERNETES").then(|| "x".into())).unwrap_err();
    assert_eq!(named, missing.split(", ").map(str::to_owned).collect());

    let role = scalars("yaml role");
    let of = |key: &str| role.get(&format!("0/rules/0/{key}/0")).map(String::as_str);
    assert_eq!(
        (of("apiGroups"), of("resources"), of("verbs")),
        (Some("events.k8s.io"), Some("events"), Some("create"))
    );
    assert_eq!(role.get("1/subjects/0/name"), pod.get("0/spec/serviceAccountName"));

    let webhook = scalars("yaml webhook");
    for (path, value) in [
        ("0/spec/template/spec/containers/0/args/1", "--webhook"),
        ("2/webhooks/0/admissionReviewVersions/0", "v1"),
        ("2/webhooks/0/sideEffects", "None"),
        ("2/webhooks/0/failurePolicy", "Fail"),
        ("2/webhooks/0/timeoutSeconds", "5"),
        ("2/webhooks/0/objectSelector/matchExpressions/0/key", "mcp-authz.io/documents"),
        ("2/webhooks/0/clientConfig/service/path", "/validate"),
    ] {
        assert_eq!(webhook.get(path).map(String::as_str), Some(value), "{path}");
    }
    assert_eq!(webhook.get("1/metadata/name"), webhook.get("2/webhooks/0/clientConfig/service/name"));
}

#[test]
fn the_queries_name_metrics_that_there_are() {
    let documented: BTreeSet<String> =
        table("Metrics", "metric").iter().flat_map(|row| spans(&row[0])).map(str::to_owned).collect();
    for query in [block("promql refused"), block("promql apart")] {
        for rest in query.split("mcp_authz_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let name = format!("mcp_authz_{}", rest.get(..end).unwrap());
            assert!(documented.contains(&name), "there is no metric `{name}`");
        }
    }
}

#[test]
fn the_metrics_of_the_webhook_are_those_of_its_page() {
    let mut registry = Registry::default();
    let _metrics = WebhookMetrics::new(&mut registry, 1);
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
    let rows = table_in(PAGE, "Refuse a bad edit before it is stored", "metric of the webhook");
    let documented = rows.iter().map(|row| (spans(&row[0])[0], spans(&row[1]).into_iter().collect())).collect();
    assert_eq!(shown, documented);
    for row in rows.iter().filter(|row| !row[1].is_empty() && row[0] != "`mcp_authz_build_info`") {
        for value in spans(&row[2]) {
            let label = format!("{}=\"{value}\"", spans(&row[1])[0]);
            assert!(page.contains(&label), "{label}");
        }
    }
}

#[test]
fn the_limits_are_those_of_the_code() {
    let rows = table_in(PAGE, "Limits", "what");
    let of = |what: &str| rows.iter().find(|row| row[0] == what).unwrap()[1].clone();
    assert_eq!(of("files in a folder"), mcp_authz::files::FILES_MAX.to_string());
    assert_eq!(mcp_authz::files::DOCUMENT_BYTES_MAX, 1024 * 1024);
    assert!(of("watched folders of credentials").starts_with(&format!("{CREDENTIAL_FOLDERS_MAX},")));
    assert!(of("a review").starts_with("6 MiB and 64 KiB:") && REVIEW_BYTES_MAX == 6 * 1024 * 1024 + 64 * 1024);
}
