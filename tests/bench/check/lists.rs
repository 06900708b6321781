//! What filtering a list costs, beside reading the same bytes once.
//!
//! The yardstick is serde_json reading the text into `IgnoredAny`: the least that anybody does who looks at JSON. Both take turns
//! in short batches.

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

use anyhow::{bail, ensure};
use mcp_authz_core::{
    document::Format,
    json::{Document, Limits as JsonLimits},
    mask::MaskKey,
    mcp::{Era, Method},
    policy::{Policy, Source},
    principal::Principal,
    response::{Asked, Begun, Exchange, Head, Job, Limits, Step},
};
use serde::de::IgnoredAny;
use tokio::time::Instant;

use crate::report::median;

const TOOLS: usize = 200;
/// Turns of every piece; an odd number has a median.
const TURNS: usize = 101;
/// Runs of a piece in one turn.
const RUNS: u32 = 10;

/// The chunks in which Envoy hands a body over.
const CHUNK_BYTES: usize = 16_384;

pub(crate) fn run(out: &mut impl Write) -> anyhow::Result<()> {
    let list = list();
    let stream = format!("event: message\ndata: {list}\n\n");
    let chunked: Vec<&[u8]> = list.as_bytes().chunks(CHUNK_BYTES).collect();
    let none = policy(r#"{"version":"1","default":"allow","hide":["no_such_tool"]}"#)?;
    let half = policy(&half_hidden())?;
    ensure!(filter(&half, JSON, &[list.as_bytes()])? < list.len() * 6 / 10, "half of the tools are hidden");
    ensure!(filter(&none, JSON, &[list.as_bytes()])? == list.len(), "nothing is hidden");
    let pieces: [Piece<'_>; 7] = [
        ("serde_json into IgnoredAny", Box::new(|| serde_json::from_str::<IgnoredAny>(&list).is_ok())),
        ("json::Document::parse", Box::new(|| Document::parse(list.as_bytes(), JsonLimits::default()).is_ok())),
        ("filter, nothing hidden", Box::new(|| filter(&none, JSON, &[list.as_bytes()]).is_ok())),
        ("filter, half hidden", Box::new(|| filter(&half, JSON, &[list.as_bytes()]).is_ok())),
        ("filter, half hidden, in chunks of 16 KiB", Box::new(|| filter(&half, JSON, &chunked).is_ok())),
        ("filter, half hidden, as an event", Box::new(|| filter(&half, SSE, &[stream.as_bytes()]).is_ok())),
        ("filter, half hidden, as a value tree and back", Box::new(|| by_value_tree(&half, &list).is_some())),
    ];
    let mut times: Vec<Vec<f64>> = pieces.iter().map(|_| Vec::new()).collect();
    for _ in 0..TURNS {
        for ((_, piece), times) in pieces.iter().zip(&mut times) {
            let begun = Instant::now();
            for _ in 0..RUNS {
                ensure!(black_box(piece()), "a piece failed");
            }
            times.push(begun.elapsed().as_secs_f64() * 1e6 / f64::from(RUNS));
        }
    }
    writeln!(
        out,
        "a list of {TOOLS} tools, {} bytes, median of {TURNS} turns\n\n| piece | µs | ratio |\n|---|---|---|",
        list.len()
    )?;
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    let yardstick = medians.first().copied().unwrap_or(1.0);
    for ((name, _), time) in pieces.iter().zip(&medians) {
        writeln!(out, "| {name} | {time:.1} | {:.2} |", time / yardstick)?;
    }
    writeln!(out)?;
    Ok(())
}

type Piece<'a> = (&'static str, Box<dyn Fn() -> bool + 'a>);

const JSON: Head<'_> = Head {
    status: 200,
    content_types: &[b"application/json"],
    content_encodings: &[],
    content_length: None,
    is_end: false,
};
const SSE: Head<'_> = Head { content_types: &[b"text/event-stream"], ..JSON };

/// Definitions as servers write them: 500 bytes each.
fn list() -> String {
    let tool = |at: usize| {
        format!(
            concat!(
                r#"{{"name":"tool_{at}","title":"Tool {at}","description":"Looks up what the caller asks for in the service number {at}. "#,
                r#"Returns one page of at most fifty entries, and a cursor if there are more of them.","inputSchema":{{"type":"object","#,
                r#""properties":{{"query":{{"type":"string","description":"What to look for"}},"limit":{{"type":"integer","#,
                r#""minimum":1,"maximum":50}},"cursor":{{"type":"string"}}}},"required":["query"]}},"#,
                r#""annotations":{{"readOnlyHint":true,"openWorldHint":false}}}}"#
            ),
            at = at
        )
    };
    let tools: Vec<String> = (0..TOOLS).map(tool).collect();
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{}]}}}}"#, tools.join(","))
}

fn half_hidden() -> String {
    let hidden: Vec<String> = (0..TOOLS).step_by(2).map(|at| format!("\"tool_{at}\"")).collect();
    format!(r#"{{"version":"1","default":"allow","hide":[{}]}}"#, hidden.join(","))
}

fn policy(text: &str) -> anyhow::Result<Arc<Policy>> {
    let source = Source { id: "bench", file: "bench.json", bytes: text.as_bytes(), format: Format::Json };
    match Policy::compile(&source) {
        Ok(compiled) => Ok(Arc::new(compiled.policy)),
        Err(defects) => bail!("the policy has {} defects", defects.len()),
    }
}

/// Bytes that leave.
fn filter(policy: &Arc<Policy>, head: Head<'_>, chunks: &[&[u8]]) -> anyhow::Result<usize> {
    let job = Job {
        policy: Arc::clone(policy),
        who: Principal::of_grant("bench"),
        server: "bench".into(),
        asked: Asked::Request(Method::ToolsList),
        era: Era::Modern,
        id: Some("1".into()),
        pins: None,
        key: MaskKey(Arc::new([0; 32])),
        limits: Limits { bytes_max: 1 << 22, depth_max: 64, nodes_max: 200_000, list_ttl_max_ms: 60_000 },
    };
    let Begun::Body(mut exchange) = Exchange::begin(job, &head) else { bail!("no body") };
    let (mut bytes, mut left) = (0, chunks.len());
    for chunk in chunks {
        left -= 1;
        bytes += match exchange.chunk(chunk, left == 0) {
            Step::Same => chunk.len(),
            Step::Bytes(out) => black_box(out).len(),
            Step::Record(_) => bail!("there are no pins"),
        };
    }
    ensure!(exchange.report().withheld.is_none(), "the list passes");
    Ok(bytes)
}

/// What one would write without thinking about speed, or about bytes.
fn by_value_tree(policy: &Policy, list: &str) -> Option<String> {
    let who = Principal::of_grant("bench");
    let mut value: serde_json::Value = serde_json::from_str(list).ok()?;
    let tools = value.pointer_mut("/result/tools")?.as_array_mut()?;
    tools.retain(|tool| {
        tool.get("name").and_then(|name| name.as_str()).is_some_and(|name| policy.is_visible(&who, name))
    });
    serde_json::to_string(&value).ok()
}
