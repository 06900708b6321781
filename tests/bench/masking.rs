//! What masking costs on text without hits: `cargo bench -p mcp-authz-core --bench masking`.
//!
//! Times on a shared machine vary; so each kind of text is judged in short rounds that take turns with two yardsticks, and every
//! figure is the median over the rounds. The yardsticks: validating the bytes as UTF-8, and reading the message with our parser,
//! which is done anyway before anything is judged.

#![expect(clippy::arithmetic_side_effects, reason = "figures of a benchmark decide nothing")]
#![expect(clippy::disallowed_methods, reason = "a benchmark without a runtime needs the clock of the system")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a benchmark that cannot run ends")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use mcp_authz_core::document::Format;
use mcp_authz_core::json::{Document, Limits};
use mcp_authz_core::mask::{Detector, Findings, Judged, MaskKey};
use mcp_authz_core::policy::{Policy, Source};
use mcp_authz_core::splice::Splices;

const ROUNDS: usize = 201;
/// Small enough that most rounds fit into one time slice of a busy machine.
const BYTES: usize = 64 * 1024;

const PROSE: &str = "The committee met on Tuesday to discuss the proposal for a new library building. Several members, among them \
    the treasurer and two of the founders, asked whether the costs (about 2.4 million) had been reviewed; nobody knew. \
    \"We will come back to this,\" said the chair - and so the matter rests until the next meeting in 2027.\n";
const CODE: &str = "    pub fn insert(&mut self, key: K, value: V) -> Option<V> {\n        let hash = self.hasher.hash_one(&key);\n        \
    if let Some(index) = self.find(hash, |entry| entry.0 == key) {\n            return Some(std::mem::replace(&mut self.entries[index].1, value));\n        \
    }\n        self.table.reserve(1, |i| self.hash_of(*i)); // at least 8 slots\n        None\n    }\n\n";
const LOG: &str = "2026-11-21T17:48:07.123456Z  INFO request{method=GET path=/api/v2/orders/184467 id=3f2504e0-4f89-11d3-9a0c-0305e82c3301}: \
    served in 14 ms, status 200, 5120 bytes, commit da39a3ee5e6b4b0d3255bfef95601890afd80709\n";
const RECORD: &str = r#"{"order_id":184467,"sku":"BX-2210-44","quantity":3,"unit_price":1299.95,"currency":"EUR","status":"shipped","shipped_at":"2026-11-21T17:48:07Z","notes":"Leave at the front desk","tags":["gift","fragile"],"warehouse":{"code":"HAM-2","aisle":17}},"#;

/// A result whose only text is that piece, again and again; `is_json` makes it a JSON text in a string.
fn message(piece: &str, is_json: bool) -> String {
    let count = BYTES / piece.len() + 1;
    let text = if is_json { format!("[{}1]", piece.repeat(count)) } else { piece.repeat(count) };
    let text = serde_json::to_string(&text).unwrap();
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":{text}}}],"isError":false}}}}"#)
}

fn structured() -> String {
    let count = BYTES / RECORD.len() + 1;
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"structuredContent":{{"orders":[{}1]}}}}}}"#, RECORD.repeat(count))
}

fn main() {
    let detectors: Vec<&str> = Detector::ALL.iter().map(|detector| detector.name()).collect();
    let policy = format!(
        "version: \"2\"\ndefault: allow\nmask: [{{detect: [{}]}}]\ninspect: {{hidden_text: mask, links: {{hosts: [], action: mask}}}}\n",
        detectors.join(", ")
    );
    let source = Source { id: "bench", file: "bench.yaml", bytes: policy.as_bytes(), format: Format::Yaml };
    let policy = Policy::compile(&source).unwrap_or_else(|defects| panic!("{defects:?}")).policy;
    println!("all detectors, hidden text and links; MB/s, median of {ROUNDS} rounds\n");
    println!("| text | UTF-8 validation | reading | judging | reading and judging |\n|---|---|---|---|---|");
    let unicode = PROSE.replace("library", "bibliothèque").replace(" - ", " – ");
    for (name, message) in [
        ("prose", message(PROSE, false)),
        ("prose, not ASCII", message(&unicode, false)),
        ("code", message(CODE, false)),
        ("log", message(LOG, false)),
        ("JSON in a string", message(RECORD, true)),
        ("structured content", structured()),
    ] {
        row(name, &message, &policy);
    }
}

fn row(name: &str, message: &str, policy: &Policy) {
    let limits = Limits { bytes_max: 64 << 20, nodes_max: 10_000_000, ..Limits::default() };
    let (rules, key) = (policy.results(None), MaskKey(Arc::new([7; 32])));
    let (mut utf8, mut read, mut judge, mut both) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        utf8.push(time(|| assert!(black_box(std::str::from_utf8(black_box(message.as_bytes()))).is_ok())));
        read.push(time(|| drop(black_box(Document::parse(message.as_bytes(), limits)))));
        let document = Document::parse(message.as_bytes(), limits).unwrap();
        let judged = |document: &Document<'_>| {
            let (mut splices, mut findings) = (Splices::default(), Findings::default());
            let outcome = rules.judge(document, &key, &mut splices, &mut findings);
            assert!(outcome == Judged::Pass && splices.is_empty(), "{name}: {findings:?}");
        };
        judge.push(time(|| judged(&document)));
        both.push(time(|| judged(&Document::parse(message.as_bytes(), limits).unwrap())));
    }
    let shown = |times: Vec<f64>| format!("{:.0}", speed(message.len(), times));
    println!("| {name} | {} | {} | {} | {} |", shown(utf8), shown(read), shown(judge), shown(both));
}

/// Seconds.
fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn speed(bytes: usize, mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().unwrap_or(f64::INFINITY);
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / median / 1e6
}
