//! What people who run mcp-authz look at and read: dashboards, alerts, runbooks, pages, the image and the workflows.
//!
//! Needs `tests/tools/install.sh promtool hadolint actionlint`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: a panic is its way to say no")]
#![expect(clippy::indexing_slicing, reason = "a missing member of a document fails the test that looks for it")]
#![expect(clippy::arithmetic_side_effects, reason = "sums over small tables; an overflow would only fail a test")]
#![expect(clippy::string_slice, reason = "queries and pages are cut where an ASCII character was found")]

mod alerts;
mod dashboards;
mod image;
mod pages;
mod prometheus;
mod promql;
mod series;
mod unit;
mod workflows;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mcp_authz_core::document::{self, Format, Node, Shape};
use serde_json::Value;

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of the repository.
fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of a folder of the repository with that ending, sorted.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut paths: Vec<String> =
        names.filter(|name| name.ends_with(ending)).map(|name| format!("{folder}/{name}")).collect();
    assert!(!paths.is_empty(), "no {ending} in {folder}");
    paths.sort();
    paths
}

/// A YAML file of the repository as a value.
fn yaml(path: &str) -> Value {
    let node = document::parse(path, text(path).as_bytes(), Format::Yaml);
    value(&node.unwrap_or_else(|defects| panic!("{path}: {defects:?}")))
}

fn value(node: &Node) -> Value {
    match &node.shape {
        Shape::Bool(is) => Value::Bool(*is),
        Shape::List(items) => items.iter().map(value).collect(),
        Shape::Map(members) => Value::Object(members.iter().map(|(key, node)| (key.clone(), value(node))).collect()),
        Shape::Null => Value::Null,
        Shape::Number(literal) => serde_json::from_str(literal).unwrap(),
        Shape::String(text) => Value::String(text.clone()),
    }
}

/// A program of `.tools`.
fn tool(name: &str) -> PathBuf {
    let path = root().join(".tools/bin").join(name);
    assert!(path.exists(), "run tests/tools/install.sh {}", if name == "prometheus" { "promtool" } else { name });
    path
}

/// Runs to the end; says what it said if it failed.
fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}
