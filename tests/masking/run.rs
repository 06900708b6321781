//! The corpora of masking: see README.md beside this file.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: a panic is its way to say no")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mcp_authz_core::document::Format;
use mcp_authz_core::json::{Document, Limits};
use mcp_authz_core::mask::{Detector, Findings, Judged, MaskKey};
use mcp_authz_core::policy::{Policy, Source};
use mcp_authz_core::selftest::{self, CaseFile, Loaded, Reading};
use mcp_authz_core::splice::Splices;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

fn files(name: &str, suffix: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_str().is_some_and(|name| name.ends_with(suffix)));
    files.sort();
    files
}

fn compile(file: &str, text: &str) -> Policy {
    let source = Source { id: "corpus", file, bytes: text.as_bytes(), format: Format::Yaml };
    Policy::compile(&source).unwrap_or_else(|defects| panic!("{defects:?}")).policy
}

fn key() -> MaskKey {
    MaskKey(Arc::new([0; 32]))
}

/// What a line of a corpus says.
fn spelled(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.replace('¦', "");
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let (shown, after) = match after.strip_prefix("u{").and_then(|code| code.split_once('}')) {
            Some((code, after)) => (char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap(), after),
            None => match after.split_at_checked(1).unwrap() {
                ("n", after) => ('\n', after),
                ("t", after) => ('\t', after),
                _ => ('\\', after),
            },
        };
        out.push(shown);
        rest = after.to_owned();
    }
    out + &rest
}

#[test]
fn the_lines_become_what_they_say() {
    let detectors: Vec<&str> = Detector::ALL.iter().map(|detector| detector.name()).collect();
    let policy = compile(
        "corpus",
        &format!(
            "version: \"2\"\ndefault: allow\nmask: [{{detect: [{}]}}]\n\
             inspect: {{hidden_text: mask, links: {{hosts: [docs.example.com, github.com], action: mask}}}}\n",
            detectors.join(", ")
        ),
    );
    let mut count = 0;
    let mut faults = Vec::new();
    for file in files("tests/masking", ".txt") {
        if file.to_str().is_some_and(|name| name.ends_with(".withheld.txt")) {
            continue;
        }
        for line in
            fs::read_to_string(&file).unwrap().lines().filter(|line| !line.is_empty() && !line.starts_with("# "))
        {
            let (input, expected) = line.split_once(" => ").unwrap_or((line, line));
            let (input, expected) = (spelled(input), spelled(expected));
            let judged = policy.messages().judge_text(&input, &key(), &mut Findings::default()).unwrap();
            let actual = judged.unwrap_or_else(|| input.clone());
            if actual != expected {
                faults.push(format!("{}: {line}\n  became {actual:?}", file.display()));
            }
            // The same in a message, where every character that may be is written as an escape.
            let escaped: String = input.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let message = format!("{{\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":\"{escaped}\"}}]}}}}");
            let out: serde_json::Value = serde_json::from_str(&judge(&policy, None, &message).unwrap()).unwrap();
            let text = out.pointer("/result/content/0/text").and_then(serde_json::Value::as_str).unwrap();
            if text != expected {
                faults.push(format!("{}: {line}\n  became in JSON {text:?}", file.display()));
            }
            count += 1;
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count >= 100, "only {count} lines");
}

fn judge(policy: &Policy, tool: Option<&str>, message: &str) -> Result<String, String> {
    let document = Document::parse(message.as_bytes(), Limits::default()).unwrap();
    let (mut splices, mut findings) = (Splices::default(), Findings::default());
    let rules = if tool.is_some() { policy.results(tool) } else { policy.messages() };
    match rules.judge(&document, &key(), &mut splices, &mut findings) {
        Judged::Pass => Ok(splices.apply(message).unwrap()),
        Judged::Block(text) => Err(text.to_string()),
    }
}

#[test]
fn the_messages_leave_as_they_say() {
    let inputs = files("tests/masking", ".in.json");
    assert!(inputs.len() >= 5, "only {} messages", inputs.len());
    for input in inputs {
        let named = |suffix: &str| PathBuf::from(input.to_str().unwrap().replace(".in.json", suffix));
        let policy = compile(input.to_str().unwrap(), &fs::read_to_string(named(".yaml")).unwrap());
        let message = fs::read_to_string(&input).unwrap();
        let judged = judge(&policy, Some("tool"), message.trim_end());
        let expected = match fs::read_to_string(named(".out.json")) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(_) => Err(fs::read_to_string(named(".withheld.txt")).unwrap().trim_end().to_owned()),
        };
        assert_eq!(judged, expected, "{}", input.display());
    }
}

#[test]
fn the_cases_of_the_sample_hold() {
    let path = folder("policies/crm.test.yaml");
    let bytes = fs::read(&path).unwrap();
    let cases = CaseFile { file: "crm.test.yaml", bytes: &bytes, format: Format::Yaml };
    let mut load = |name: &str| -> Result<Loaded, String> {
        let bytes = fs::read(folder("policies").join(name)).map_err(|error| error.to_string())?;
        Ok(Loaded { file: name.to_owned(), bytes, format: Format::Yaml })
    };
    let results = selftest::run(&cases, Reading::AsWritten, &mut load).unwrap();
    let failures: Vec<String> = results.failures.iter().map(ToString::to_string).collect();
    assert_eq!((results.passed, failures), (11, Vec::new()));
}
