//! What records cost: the same binary with audit and traces off and on, in turns.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::load::{self, Load, SampledOf};
use crate::process::Server;
use crate::report::{median, micros};
use crate::scene::{self, Crowd};
use crate::{requests, servers};

/// Rounds of every variant; an odd number has a median.
const ROUNDS: usize = 15;
/// Checks in a round.
const COUNT: usize = 8_000;
const IN_FLIGHT: usize = 64;
const BODY_BYTES: usize = 300;

/// One way to run the binary.
struct Variant {
    name: &'static str,
    audit: bool,
    traces: bool,
    sampled_of: SampledOf,
}

/// The first is the yardstick.
const VARIANTS: [Variant; 6] = [
    Variant { name: "nothing", audit: false, traces: false, sampled_of: 0 },
    Variant { name: "audit to a file", audit: true, traces: false, sampled_of: 0 },
    Variant { name: "Envoy traces 1 %, we do not", audit: false, traces: false, sampled_of: 100 },
    Variant { name: "traces, 1 % sampled", audit: false, traces: true, sampled_of: 100 },
    Variant { name: "traces, 100 % sampled", audit: false, traces: true, sampled_of: 1 },
    Variant { name: "audit, traces, 100 % sampled", audit: true, traces: true, sampled_of: 1 },
];

/// A running variant: its server, and who sends to it.
struct Contender {
    name: &'static str,
    server: Server,
    load: Load,
    cpu_us: Vec<f64>,
    collector_us: Vec<f64>,
}

pub(crate) fn run(out: &mut impl Write) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let collector = Server::start(servers::COLLECTOR, folder.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let contenders = runtime.block_on(measure(folder.path(), &collector))?;
    writeln!(out, "CPU time of the server for one Check of {BODY_BYTES} B over a Unix socket (user + system, µs),")?;
    writeln!(
        out,
        "closed loop, median of {ROUNDS} interleaved rounds; everything that the process does for it included\n"
    )?;
    writeln!(out, "| recorded | CPU µs | ratio | collector, µs | peak memory, MiB |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    let mut yardstick = None;
    for contender in contenders {
        let (cpu, collector) = (median(contender.cpu_us), median(contender.collector_us));
        let ratio = cpu / *yardstick.get_or_insert(cpu);
        let peak = contender.server.memory_peak_kib()?.div_ceil(1024);
        writeln!(out, "| {} | {cpu:.1} | {ratio:.2} | {collector:.1} | {peak} |", contender.name)?;
    }
    writeln!(out)?;
    Ok(())
}

async fn measure(folder: &Path, collector: &Server) -> anyhow::Result<Vec<Contender>> {
    let message = load::frame(&requests::check_request(&requests::body(BODY_BYTES)))?;
    let mut contenders = Vec::new();
    for (at, variant) in VARIANTS.iter().enumerate() {
        let folder = folder.join(at.to_string());
        settings(&folder, variant, collector)?;
        let server = Server::start_on(&folder)?;
        let [_, unix] = &server.endpoints[..] else { anyhow::bail!("two endpoints") };
        let load = Load::connect(unix).await?.traced(variant.sampled_of);
        load.run(&message, COUNT / 4, IN_FLIGHT).await?;
        let (cpu_us, collector_us) = (Vec::new(), Vec::new());
        contenders.push(Contender { name: variant.name, server, load, cpu_us, collector_us });
    }
    for _ in 0..ROUNDS {
        for contender in &mut contenders {
            let before = (contender.server.cpu()?, collector.cpu()?);
            contender.load.run(&message, COUNT, IN_FLIGHT).await?;
            // What waits for company, such as a batch of spans, belongs to this round.
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            let count = f64::from(u32::try_from(COUNT)?);
            contender.cpu_us.push(micros(contender.server.cpu()?.saturating_sub(before.0)) / count);
            contender.collector_us.push(micros(collector.cpu()?.saturating_sub(before.1)) / count);
        }
    }
    Ok(contenders)
}

fn settings(folder: &Path, variant: &Variant, collector: &Server) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let sink = if variant.audit { format!("{}/audit.jsonl", folder.display()) } else { "none".to_owned() };
    let mut sections = format!("audit: {{sink: \"{sink}\"}}\n");
    if variant.traces {
        let endpoint = collector.endpoints.first().map(ToString::to_string).unwrap_or_default();
        let address = endpoint.trim_start_matches("tcp://");
        // Only traces: a round of metrics or a line of the log would be counted for one variant and not for another.
        sections += &format!(
            "telemetry:\n  otlp: {{endpoint: \"http://{address}\"}}\n  metrics: {{enabled: false}}\n  logs: {{enabled: false}}\n  traces: {{queue_max: 100000}}\n"
        );
    }
    scene::write_with(folder, Crowd::NONE, &sections)?;
    Ok(())
}
