//! Nobody gets what was not judged, whatever the server sends and however it is cut.

use super::*;
use crate::{document::Format, policy::Source};

/// A policy of default deny that shows `echo` and `add`.
const POLICY: &str = r#"{"version":"1","default":"deny","tools":{"echo":{},"add":{}}}"#;
const LIMITS: Limits = Limits { bytes_max: 1 << 20, depth_max: 64, nodes_max: 100_000, list_ttl_max_ms: 60_000 };

fn policy(text: &str) -> Arc<Policy> {
    let source = Source { id: "p", file: "p.json", bytes: text.as_bytes(), format: Format::Json };
    Arc::new(Policy::compile(&source).unwrap_or_else(|defects| panic!("{text}: {}", defects[0])).policy)
}

fn job(text: &str, asked: Asked) -> Job {
    let id = (asked != Asked::Stream).then(|| "1".into());
    Job {
        policy: policy(text),
        who: Principal::of_grant("g"),
        server: "s".into(),
        asked,
        era: Era::Legacy,
        id,
        pins: None,
        key: MaskKey(Arc::new([7; 32])),
        limits: LIMITS,
    }
}

const JSON: Head<'_> = Head {
    status: 200,
    content_types: &[b"application/json"],
    content_encodings: &[],
    content_length: None,
    is_end: false,
};
const SSE: Head<'_> = Head { content_types: &[b"text/event-stream"], ..JSON };

/// What comes out for these chunks, and what is reported.
fn run(job: Job, head: &Head<'_>, chunks: &[&[u8]]) -> (Vec<u8>, Report) {
    let mut exchange = match Exchange::begin(job, head) {
        Begun::Pass => return (chunks.concat(), Report::default()),
        Begun::Body(exchange) => exchange,
        Begun::Withheld(text, report) => return (text.into_bytes(), *report),
    };
    let mut out = Vec::new();
    let mut left = chunks.len();
    for chunk in chunks {
        left = left.saturating_sub(1);
        match exchange.chunk(chunk, left == 0) {
            Step::Same => out.extend_from_slice(chunk),
            Step::Bytes(bytes) => out.extend(bytes),
            Step::Record(sighting) => panic!("{sighting:?}"),
        }
    }
    assert_eq!(exchange.held_bytes(), 0, "held at the end");
    (out, exchange.report().clone())
}

fn text(job: Job, head: &Head<'_>, body: &str) -> (String, Report) {
    let (out, report) = run(job, head, &[body.as_bytes()]);
    (String::from_utf8(out).unwrap(), report)
}

const LIST: &str =
    r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"echo"}, {"name":"rm"} ,{"name":"add"}],"x": 1}}"#;
const SHOWN: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"echo"} ,{"name":"add"}],"x": 1}}"#;

#[test]
fn a_list_loses_what_may_not_be_called() {
    let (out, report) = text(job(POLICY, Asked::Request(Method::ToolsList)), &JSON, LIST);
    assert_eq!((out.as_str(), report.hidden, report.withheld), (SHOWN, 1, None));
    assert_eq!(report.came, Some(Came { kind: Kind::Ok, bytes: LIST.len() as u64, usage: vec![] }));
    let sse = format!("event: message\nid: 7\ndata: {LIST}\n\n");
    let (out, _) = text(job(POLICY, Asked::Request(Method::ToolsList)), &SSE, &sse);
    assert_eq!(out, format!("event: message\nid: 7\ndata: {SHOWN}\n\n"));
}
