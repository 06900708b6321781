//! The `tools_list` expectations of the cases, through the filter that responses pass: as a body, and as an event byte by byte.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: a panic is its way to say no")]

use std::sync::Arc;

use mcp_authz_core::document::Format;
use mcp_authz_core::mask::MaskKey;
use mcp_authz_core::mcp::{Era, Method};
use mcp_authz_core::policy::{Policy, Source};
use mcp_authz_core::principal::Principal;
use mcp_authz_core::response::{Asked, Begun, Exchange, Head, Job, Limits, Step};
use serde_json::{Value, json};

const JSON: Head<'_> = Head {
    status: 200,
    content_types: &[b"application/json"],
    content_encodings: &[],
    content_length: None,
    is_end: false,
};
const SSE: Head<'_> = Head { content_types: &[b"text/event-stream"], ..JSON };

fn filter(policy: &Arc<Policy>, head: &Head<'_>, chunks: &[&[u8]]) -> String {
    let job = Job {
        policy: Arc::clone(policy),
        who: Principal::of_grant("cases"),
        server: "cases".into(),
        asked: Asked::Request(Method::ToolsList),
        era: Era::Legacy,
        id: Some("1".into()),
        pins: None,
        key: MaskKey(Arc::new([0; 32])),
        hashes: false,
        limits: Limits { bytes_max: 1 << 20, depth_max: 64, nodes_max: 100_000, list_ttl_max_ms: 60_000 },
    };
    let Begun::Body(mut exchange) = Exchange::begin(job, head) else { panic!("a body") };
    let mut out = Vec::new();
    let mut left = chunks.len();
    for chunk in chunks {
        left = left.saturating_sub(1);
        match exchange.chunk(chunk, left == 0) {
            Step::Same => out.extend_from_slice(chunk),
            Step::Bytes(bytes) => out.extend(bytes),
            Step::Record(_) => panic!("there are no pins"),
        }
    }
    String::from_utf8(out).unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

/// A list of those tools, as a server would write it.
fn list(names: &[&str]) -> String {
    let tools: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "inputSchema": {"type": "object"}, "description": "é"})).collect();
    json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools, "nextCursor": "c"}}).to_string()
}

#[test]
fn published_lists_show_what_may_be_called() {
    let file: Value = serde_json::from_slice(include_bytes!("published.test.json")).unwrap();
    let mut checked = Vec::new();
    for suite in file["suites"].as_array().unwrap() {
        for case in suite["tools_list"].as_array().into_iter().flatten() {
            let text = suite["policy"].to_string();
            let source = Source { id: "p", file: "p.json", bytes: text.as_bytes(), format: Format::Json };
            let policy = Arc::new(Policy::compile(&source).unwrap().policy);
            let (all, visible) = (names(&case["upstream_tools"]), names(&case["visible_tools"]));
            let (sent, expected) = (list(&all), list(&visible));
            assert_eq!(filter(&policy, &JSON, &[sent.as_bytes()]), expected, "{}", case["id"]);
            let (sent, expected) =
                (format!("id: 1\r\ndata: {sent}\r\n\r\n"), format!("id: 1\r\ndata: {expected}\r\n\r\n"));
            let bytes: Vec<&[u8]> = sent.as_bytes().chunks(1).collect();
            assert_eq!(filter(&policy, &SSE, &bytes), expected, "{}", case["id"]);
            checked.push(case["id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(checked, ["slack-channels/list", "k8s-namespaces/list"]);
}
