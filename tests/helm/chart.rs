//! Helm itself, and what it renders as trees.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use mcp_authz_core::document::{self, Format, Node, Shape};
use serde_json::{Map, Value};

/// The newest Kubernetes that the chart is held to; the oldest is in `Chart.yaml`.
pub(crate) const KUBERNETES: &str = "1.37.0";
/// The release in every test.
pub(crate) const RELEASE: &str = "gate";

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The chart.
pub(crate) fn chart() -> PathBuf {
    root().join("helm/mcp-authz")
}

/// A program that `tests/tools/install.sh` provides; fails the test with the command to run.
pub(crate) fn tool(tool: &str, file: &str) -> PathBuf {
    let path = root().join(".tools").join(file);
    assert!(path.exists(), "{} is missing: run tests/tools/install.sh {tool}", path.display());
    path
}

/// The names of all scenarios, sorted.
pub(crate) fn scenarios() -> Vec<String> {
    let files = std::fs::read_dir(chart().join("scenarios")).unwrap();
    let names: BTreeSet<String> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(!names.is_empty(), "no scenarios");
    names.into_iter().collect()
}

/// The values file of a scenario.
pub(crate) fn scenario(name: &str) -> PathBuf {
    chart().join("scenarios").join(format!("{name}.yaml"))
}

/// Runs a subcommand on the chart with a scenario and more values, each as JSON over the scenario.
pub(crate) fn helm(words: &[&str], name: &str, overrides: &Value) -> Output {
    let mut command = Command::new(tool("helm", "bin/helm"));
    command.args(words).arg(chart()).arg("--values").arg(scenario(name));
    command.args(["--namespace", "default", "--kube-version", KUBERNETES]);
    for (key, value) in overrides.as_object().into_iter().flatten() {
        command.arg("--set-json").arg(format!("{key}={value}"));
    }
    command.output().unwrap()
}

/// What a scenario renders, as text.
pub(crate) fn render(name: &str, overrides: &Value) -> String {
    let output = helm(&["template", RELEASE], name, overrides);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} with {overrides}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Why a scenario with these values is not rendered.
pub(crate) fn refusal(name: &str, overrides: &Value) -> String {
    let output = helm(&["template", RELEASE], name, overrides);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{name} with {overrides} is rendered");
    assert!(output.stdout.is_empty(), "{name} with {overrides}: something is rendered beside the refusal");
    said
}

/// The objects that a scenario renders.
#[derive(Debug)]
pub(crate) struct Manifests(Vec<Value>);

impl Manifests {
    /// Renders them.
    pub(crate) fn of(name: &str, overrides: &Value) -> Self {
        let text = render(name, overrides);
        // Helm puts this line before each object, and no text of ours holds it.
        let objects = text.split("---\n# Source: ").filter(|part| part.contains("kind: "));
        Self(objects.map(|part| tree(part.split_once('\n').unwrap().1)).collect())
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Value> {
        self.0.iter()
    }

    /// Those of a kind.
    pub(crate) fn kind(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// The one of this kind and name.
    pub(crate) fn object(&self, kind: &str, name: &str) -> &Value {
        let mut found = self.0.iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        let object = found.next().unwrap_or_else(|| panic!("no {kind} `{name}`"));
        assert!(found.next().is_none(), "two of {kind} `{name}`");
        object
    }

    /// The pods that run `serve` for Envoys.
    pub(crate) fn pod(&self) -> &Value {
        let workload = self.0.iter().find(|object| {
            matches!(object["kind"].as_str(), Some("Deployment" | "DaemonSet"))
                && object["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
        });
        &workload.unwrap_or_else(|| panic!("no workload"))["spec"]["template"]
    }

    /// The settings that the process reads.
    pub(crate) fn settings(&self) -> &str {
        let config = self.object("ConfigMap", &format!("{RELEASE}-mcp-authz-config"));
        config["data"]["config.yaml"].as_str().unwrap()
    }
}

/// Reads YAML by the strict reader of the project: what it takes means the same to every reader.
pub(crate) fn tree(text: &str) -> Value {
    let node = document::parse("manifest", text.as_bytes(), Format::Yaml);
    value(&node.unwrap_or_else(|defects| panic!("{defects:?}\n{text}")))
}

fn value(node: &Node) -> Value {
    match &node.shape {
        Shape::Null => Value::Null,
        Shape::Bool(flag) => Value::Bool(*flag),
        Shape::Number(literal) => serde_json::from_str(literal).unwrap(),
        Shape::String(text) => Value::String(text.clone()),
        Shape::List(items) => items.iter().map(value).collect(),
        Shape::Map(members) => {
            Value::Object(members.iter().map(|(key, node)| (key.clone(), value(node))).collect::<Map<_, _>>())
        }
    }
}
