//! Rounds, medians and the table of the load part.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use mcp_authz::envoy::server::Endpoint;
use tokio::time::Instant;

use crate::load::{self, Load};
use crate::process::Server;
use crate::{requests, servers};

/// Rounds of every server on every load; an odd number has a median.
const ROUNDS: usize = 7;

struct Case {
    body_bytes: usize,
    /// Index into the endpoints of a server.
    endpoint: usize,
    in_flight: usize,
    /// Checks in a round.
    count: usize,
}

const TCP: usize = 0;
const UNIX: usize = 1;

const CASES: [Case; 7] = [
    Case { body_bytes: 300, endpoint: TCP, in_flight: 64, count: 8000 },
    Case { body_bytes: 300, endpoint: UNIX, in_flight: 64, count: 8000 },
    Case { body_bytes: 4096, endpoint: TCP, in_flight: 64, count: 6000 },
    Case { body_bytes: 4096, endpoint: UNIX, in_flight: 64, count: 6000 },
    Case { body_bytes: 65536, endpoint: TCP, in_flight: 64, count: 2000 },
    Case { body_bytes: 65536, endpoint: UNIX, in_flight: 64, count: 2000 },
    Case { body_bytes: 300, endpoint: UNIX, in_flight: 1, count: 2000 },
];

/// What a server did in a case, one entry a round.
#[derive(Default)]
struct Figures {
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

/// Sends Checks to a server that somebody else started.
pub(crate) fn drive(endpoint: &Endpoint, body_bytes: usize, count: usize) -> anyhow::Result<()> {
    let message = load::frame(&requests::check_request(&requests::body(body_bytes)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        Load::connect(endpoint).await?.run(&message, count, 64).await?;
        Ok(())
    })
}

/// The servers compared; the first is the yardstick.
fn start(folder: &std::path::Path) -> anyhow::Result<Vec<(&'static str, Server)>> {
    let kinds = [servers::NULL, servers::NULL_DEFAULT, servers::PLUMBING];
    let null = kinds.into_iter().map(|kind| Ok((kind, Server::start(kind, folder)?)));
    null.chain([Server::start_real(folder).map(|server| ("mcp-authz", server))]).collect()
}

pub(crate) fn run(out: &mut impl Write) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let servers = start(folder.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    writeln!(out, "CPU time of the server for one Check (user + system, µs), median of {ROUNDS} interleaved rounds")?;
    writeln!(out, "closed loop, {} connections; `null` is the yardstick of the ratio\n", 2)?;
    writeln!(out, "| body | over | in flight | server | CPU µs | ratio | Checks/s | p50 µs | p99 µs |")?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    for case in &CASES {
        let figures = runtime.block_on(measure(case, &servers))?;
        write(out, case, &servers, figures)?;
    }
    writeln!(out)?;
    for (name, server) in &servers {
        writeln!(out, "peak memory of {name}: {} MiB", server.memory_peak_kib()?.div_ceil(1024))?;
    }
    Ok(())
}

async fn measure(case: &Case, servers: &[(&'static str, Server)]) -> anyhow::Result<Vec<Figures>> {
    let message = load::frame(&requests::check_request(&requests::body(case.body_bytes)))?;
    let mut loads = Vec::new();
    for (_, server) in servers {
        let endpoint = server.endpoints.get(case.endpoint).cloned();
        let load = Load::connect(&endpoint.unwrap_or(Endpoint::Unix("/nowhere".into()))).await?;
        load.run(&message, case.count / 4, case.in_flight).await?;
        loads.push(load);
    }
    let mut figures: Vec<Figures> = servers.iter().map(|_| Figures::default()).collect();
    for _ in 0..ROUNDS {
        for (((_, server), load), figures) in servers.iter().zip(&loads).zip(&mut figures) {
            round(case, server, load, &message, figures).await?;
        }
    }
    Ok(figures)
}

async fn round(
    case: &Case,
    server: &Server,
    load: &Load,
    message: &Bytes,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let (cpu, begun) = (server.cpu()?, Instant::now());
    let times = load.run(message, case.count, case.in_flight).await?;
    let (elapsed, cpu) = (begun.elapsed(), server.cpu()?.saturating_sub(cpu));
    let count = f64::from(u32::try_from(case.count)?);
    let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, |time| micros(*time));
    figures.cpu_us.push(micros(cpu) / count);
    figures.per_second.push(count / elapsed.as_secs_f64());
    figures.p50_us.push(at(50));
    figures.p99_us.push(at(99));
    Ok(())
}

fn write(
    out: &mut impl Write,
    case: &Case,
    servers: &[(&'static str, Server)],
    figures: Vec<Figures>,
) -> anyhow::Result<()> {
    let mut yardstick = None;
    for ((name, _), figures) in servers.iter().zip(figures) {
        let cpu = median(figures.cpu_us);
        let ratio = cpu / *yardstick.get_or_insert(cpu);
        writeln!(
            out,
            "| {} | {} | {} | {name} | {cpu:.1} | {ratio:.2} | {:.0} | {:.0} | {:.0} |",
            case.body_bytes,
            if case.endpoint == TCP { "TCP" } else { "Unix" },
            case.in_flight,
            median(figures.per_second),
            median(figures.p50_us),
            median(figures.p99_us),
        )?;
    }
    out.flush()?;
    Ok(())
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The middle one of the values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
