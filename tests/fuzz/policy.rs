//! Any document as a policy: every defect has a place, and what compiles decides, in JSON and in YAML alike.

use mcp_authz_core::{
    decision::Decision,
    document::{self, Defect, Format, Node, Shape},
    json::{Document, Limits},
    policy::{Compiled, Policy, Source},
};

use crate::evaluate::{call, caller};

/// Calls that any policy must have an answer to.
const CALLS: &[(&str, Option<&str>)] = &[
    ("pay", Some(r#"{"amount":5,"to":{"country":"XX","kind":"wire"},"currency":"EUR"}"#)),
    ("pay", Some(r#"{"amount":"5","to":"{\"country\":\"XX\"}"}"#)),
    ("read", Some(r#"{"path":"/data/../etc","tags":["a",1e400,null,"secret"]}"#)),
    ("read", None),
    ("t", Some(r#"{"a":1,"b":[],"c":{},"d":"x","url":"https://a.example/","n":-1e-9}"#)),
    ("\u{202e}/~", Some("{}")),
    ("", None),
];

/// Compiles the bytes in both formats.
///
/// # Panics
/// If a property does not hold.
pub fn policy(data: &[u8]) {
    for format in [Format::Json, Format::Yaml] {
        match compile(data, format) {
            Ok(compiled) => compiles(data, &compiled),
            Err(defects) => {
                assert!(!defects.is_empty(), "refused without a defect");
                defects.iter().for_each(|defect| placed(defect, data));
            }
        }
    }
    if let Ok(node) = document::parse("f", data, Format::Json) {
        in_yaml(data, &node);
    }
}

fn compile(bytes: &[u8], format: Format) -> Result<Compiled, Vec<Defect>> {
    Policy::compile(&Source { id: "fuzz", file: "f", bytes, format })
}

/// A defect lies in the document and can be shown on a terminal.
fn placed(defect: &Defect, data: &[u8]) {
    let lines = data.iter().filter(|byte| **byte == b'\n').count().saturating_add(1);
    // YAML also ends a line at a carriage return.
    let returns = data.iter().filter(|byte| **byte == b'\r').count();
    let line = defect.line.map_or(1, |line| usize::try_from(line).unwrap_or(usize::MAX));
    assert!(line >= 1 && line <= lines.saturating_add(returns).saturating_add(1), "line {line} of {lines}: {defect}");
    assert!(defect.pointer.is_empty() || defect.pointer.starts_with('/'), "{}", defect.pointer);
    assert!(!defect.message.is_empty() && &*defect.file == "f");
    assert!(!defect.to_string().chars().any(char::is_control), "{:?}", defect.to_string());
}

fn compiles(data: &[u8], compiled: &Compiled) {
    compiled.warnings.iter().for_each(|warning| placed(warning, data));
    let policy = &compiled.policy;
    for (tool, arguments) in CALLS {
        let decision = decide(policy, tool, *arguments);
        if matches!(decision, Decision::Proceed(_)) {
            assert!(policy.is_visible(&caller(), tool) && (policy.names_tool(tool) || policy.default_allows()));
        }
    }
}

fn decide(policy: &Policy, tool: &str, arguments: Option<&str>) -> Decision {
    let document = arguments.and_then(|text| Document::parse(text.as_bytes(), Limits::default()).ok());
    let root = document.as_ref().map(Document::root);
    let decision = policy.decide(&caller(), &call(tool, root));
    assert_eq!(policy.explain(&caller(), &call(tool, root)).decision, decision);
    decision
}

/// The same tree in YAML is the same policy.
fn in_yaml(data: &[u8], node: &Node) {
    let mut yaml = String::new();
    if !push_yaml(&mut yaml, node) {
        return;
    }
    let pointers = |defects: &[Defect]| {
        let mut all: Vec<(String, String)> =
            defects.iter().map(|defect| (defect.pointer.clone(), defect.message.clone())).collect();
        all.sort();
        all
    };
    match (compile(data, Format::Json), compile(yaml.as_bytes(), Format::Yaml)) {
        (Err(json), Err(yaml)) => assert_eq!(pointers(&json), pointers(&yaml)),
        (Ok(json), Ok(yaml)) => {
            assert_eq!(pointers(&json.warnings), pointers(&yaml.warnings));
            for (tool, arguments) in CALLS {
                assert_eq!(decide(&json.policy, tool, *arguments), decide(&yaml.policy, tool, *arguments));
            }
        }
        (json, other) => assert_eq!(json.err(), other.err(), "only one of the formats compiles:\n{yaml}"),
    }
}

/// Writes YAML in flow style, every text quoted and escaped; `false` for a key longer than YAML takes.
fn push_yaml(out: &mut String, node: &Node) -> bool {
    match &node.shape {
        Shape::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Shape::List(items) => {
            out.push('[');
            for item in items {
                if !push_yaml(out, item) {
                    return false;
                }
                out.push_str(", ");
            }
            out.push(']');
        }
        Shape::Map(members) => {
            out.push('{');
            for (key, value) in members {
                let start = out.len();
                push_quoted(out, key);
                if out.len().saturating_sub(start) > 1_000 {
                    return false;
                }
                out.push_str(": ");
                if !push_yaml(out, value) {
                    return false;
                }
                out.push_str(", ");
            }
            out.push('}');
        }
        Shape::Null => out.push_str("null"),
        Shape::Number(literal) => out.push_str(literal),
        Shape::String(text) => push_quoted(out, text),
    }
    true
}

fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        if c == ' ' || c.is_ascii_alphanumeric() || "._-/$^".contains(c) {
            out.push(c);
        } else {
            out.push_str(&format!("\\U{:08x}", u32::from(c)));
        }
    }
    out.push('"');
}
