//! From text to what can be looked at: Envoy's own documents as they are, recipes of meshes as what becomes of them.

use mcp_authz_core::{
    document::{self, Format, Node, Shape},
    json::Limits,
};
use serde_json::{Map, Number, Value};

use super::{gateway, istio, setup::Made};

/// Bounds on a document: 64 MiB, and for YAML 1,000,000 values nested 100 levels deep.
const LIMITS: Limits = Limits { bytes_max: 64 * 1024 * 1024, depth_max: 100, nodes_max: 1_000_000 };

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// As the operator names it.
    pub name: String,
    /// What it says.
    pub value: Value,
}

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing was given.
    #[error("there is no configuration in what was given")]
    Empty,
    /// Nobody asks anybody.
    #[error(
        "no listener with ext_authz was found, and no route to a cluster named by --upstream: this is not an Envoy in front of an MCP server, or the wrong one"
    )]
    NoGate,
    /// No listener at all.
    #[error("no listener was found: the configuration comes from elsewhere, or it is no configuration of Envoy")]
    NoListener,
    /// Neither Envoy's nor a recipe's.
    #[error("`{name}` is neither a configuration nor a dump of Envoy, nor a recipe for Istio or Envoy Gateway")]
    Odd {
        /// The document.
        name: String,
    },
    /// A defect of syntax.
    #[error("{0}")]
    Syntax(String),
}

impl Document {
    /// Reads a file of JSON, or of one or more documents of YAML.
    ///
    /// # Errors
    /// [`ReadError::Syntax`], [`ReadError::Empty`].
    pub fn read(name: &str, bytes: &[u8]) -> Result<Vec<Self>, ReadError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ReadError::Syntax(format!("{name}: is not UTF-8 text")))?;
        if text.trim_start().starts_with('{') {
            let value = serde_json::from_str(text)
                .map_err(|error| ReadError::Syntax(format!("{name}: is not JSON: {error}")))?;
            return Ok(vec![Self { name: name.to_owned(), value }]);
        }
        let mut documents = Vec::new();
        for (number, part) in parts(text).into_iter().enumerate() {
            let name = if number == 0 { name.to_owned() } else { format!("{name}#{}", number.saturating_add(1)) };
            documents.push(Self { value: yaml(&name, &part)?, name });
        }
        if documents.is_empty() { Err(ReadError::Empty) } else { Ok(documents) }
    }
}

/// The documents of a file; each keeps its lines where they were, so that defects are found.
fn parts(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut lines) = (Vec::new(), String::new(), 0usize);
    let is_said = |part: &str| part.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    for line in text.lines().chain(["---"]) {
        lines = lines.saturating_add(1);
        if line.trim_end() == "---" {
            if is_said(&part) {
                parts.push(std::mem::take(&mut part));
            }
            part = "\n".repeat(lines);
        } else {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts
}

pub(super) fn yaml(name: &str, text: &str) -> Result<Value, ReadError> {
    let node = document::parse_within(name, text.as_bytes(), Format::Yaml, LIMITS).map_err(|defects| {
        let all: Vec<String> = defects.iter().map(ToString::to_string).collect();
        ReadError::Syntax(all.join("\n"))
    })?;
    Ok(value_of(node))
}

/// Depth is bounded by the limits, so recursion is.
fn value_of(node: Node) -> Value {
    match node.shape {
        Shape::Bool(flag) => Value::Bool(flag),
        Shape::List(items) => Value::Array(items.into_iter().map(value_of).collect()),
        Shape::Map(members) => {
            Value::Object(members.into_iter().map(|(key, node)| (key, value_of(node))).collect::<Map<_, _>>())
        }
        Shape::Null => Value::Null,
        Shape::Number(text) => text.parse::<Number>().map_or(Value::String(text), Value::Number),
        Shape::String(text) => Value::String(text),
    }
}

/// Everything as configuration of Envoy.
pub(super) fn envoy(documents: &[Document]) -> Result<Vec<Made>, ReadError> {
    let (mut made, mut of_istio, mut of_gateway) = (Vec::new(), Vec::new(), Vec::new());
    for document in documents {
        let group = document.value.get("apiVersion").and_then(Value::as_str);
        match group.map(|version| version.split('/').next().unwrap_or_default()) {
            None => made.extend(plain(document)),
            Some("gateway.envoyproxy.io" | "gateway.networking.k8s.io") => of_gateway.push(document),
            Some(group) if group.ends_with(".istio.io") || group == "v1" => of_istio.push(document),
            Some(_) => return Err(ReadError::Odd { name: document.name.clone() }),
        }
    }
    if !of_istio.is_empty() {
        made.push(istio::make(&of_istio)?);
    }
    if !of_gateway.is_empty() {
        made.push(gateway::make(&of_gateway)?);
    }
    if made.is_empty() { Err(ReadError::Empty) } else { Ok(made) }
}

/// Envoy's own, also as `egctl x translate` prints it: a dump for each gateway below `xds`.
fn plain(document: &Document) -> Vec<Made> {
    let made = |value: &Value| Made { name: document.name.clone(), value: value.clone() };
    match document.value.get("xds").and_then(Value::as_object) {
        Some(gateways) => gateways.values().map(made).collect(),
        None => vec![made(&document.value)],
    }
}
