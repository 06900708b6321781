//! Pieces of a Check in this process, wall-clock time.

use std::hint::black_box;
use std::io::Write;

use bytes::Bytes;
use mcp_authz::envoy::wire;
use mcp_authz_core::json::{Document, Limits};
use prost::Message as _;
use tokio::time::{Duration, Instant};

use crate::report::median;
use crate::requests;

/// Batches of one piece; the figure is their median.
const BATCHES: usize = 21;

/// Time of a batch: long against the clock, short against the time slice of a process.
const BATCH: Duration = Duration::from_millis(3);

pub(crate) fn run(out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "pieces, ns (median of {BATCHES} batches)\n\n| piece | 300 B | 4 KiB | 64 KiB |\n|---|---|---|---|")?;
    let bodies = [300, 4096, 65536].map(requests::body);
    row(out, "json::Document::parse", bodies.each_ref().map(|body| time(|| Document::parse(body, Limits::default()))))?;
    let messages = bodies.each_ref().map(|body| Bytes::from(requests::check_request(body)));
    row(
        out,
        "decode a CheckRequest, ours",
        messages.each_ref().map(|message| time(|| wire::CheckRequest::decode(message.clone()))),
    )?;
    row(
        out,
        "decode a CheckRequest, envoy-types",
        messages
            .each_ref()
            .map(|message| time(|| envoy_types::pb::envoy::service::auth::v3::CheckRequest::decode(message.clone()))),
    )?;
    writeln!(out)?;
    Ok(())
}

fn row(out: &mut impl Write, name: &str, values: [f64; 3]) -> std::io::Result<()> {
    let [small, medium, large] = values;
    writeln!(out, "| {name} | {small:.0} | {medium:.0} | {large:.0} |")
}

/// Nanoseconds that one run takes.
fn time<T>(mut piece: impl FnMut() -> T) -> f64 {
    let mut runs = 1_u32;
    let mut batch = |runs: u32| {
        let begun = Instant::now();
        for _ in 0..runs {
            black_box(piece());
        }
        begun.elapsed()
    };
    while batch(runs) < BATCH && runs < u32::MAX / 2 {
        runs *= 2;
    }
    median((0..BATCHES).map(|_| batch(runs).as_secs_f64() * 1e9 / f64::from(runs)).collect())
}
