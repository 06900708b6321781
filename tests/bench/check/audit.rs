//! What a record of the audit costs from the draft to the file, and what verifying costs.

use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mcp_authz::telemetry::{
    audit::{AuditSink, Sink, WhenUnavailable},
    metrics::Metrics,
};
use mcp_authz_core::audit::{ArgsMode, Record, chain::Chain};
use mcp_authz_core::json::{Document, Limits};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

const BATCHES: usize = 200;
const BATCH: u32 = 500;
/// Records that go through a sink.
const RECORDS: u64 = 300_000;
/// So many at a time, and then 1 ms for others.
const PACE: u64 = 50;
/// Records that are verified, unless an argument says otherwise.
const VERIFIED: u64 = 1_000_000;
/// Ticks of the kernel's account of CPU time in a second.
const TICKS: u64 = 100;

/// Writes the table.
pub(crate) fn run(out: &mut impl Write, records: Option<u64>) -> anyhow::Result<()> {
    let arguments =
        Document::parse(br#"{"owner":"acme","repo":"web","title":"x","amount":25000,"labels":[]}"#, Limits::default());
    let arguments = arguments.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let record = Record {
        time_ms: 1_781_604_300_000,
        reason: None,
        rule: "",
        rule_exact: None,
        policy: Some("demo"),
        policy_digest: Some("sha256:f9080d69032975aa6de7a18ca6b22efd989d05ad75471d2d92368d98f0bcf6ee"),
        server: Some("demo"),
        principal: Some("grant:demo-agent"),
        grant: Some("demo-agent"),
        method: "tools/call",
        tool: Some("list_issues"),
        arguments: Some(arguments.root()),
        args: ArgsMode::Keys,
        args_key: Some(&[7; 32]),
        request_id: Some("0dcded13-de8f-4c2b-8bc7-e17e4a55e507"),
        stream_id: Some("9264854546074171864"),
        trace: None,
        is_unmetered: false,
        latency_us: 328,
    };
    writeln!(out, "audit, ns (fastest of {BATCHES} batches)\n\n| piece | ns |\n|---|---|")?;
    for args in ArgsMode::ALL {
        let record = Record { args: *args, ..record };
        let ns = fastest(|| {
            let mut draft = String::with_capacity(768);
            record.write(&mut draft);
            black_box(draft);
        });
        writeln!(out, "| a draft, `args: {}` | {ns} |", args.name())?;
    }
    let mut draft = String::new();
    record.write(&mut draft);
    let (mut chain, mut line) = (Chain::new([1; 16], None, None), Vec::new());
    let ns = fastest(|| {
        line.clear();
        black_box(chain.seal(draft.as_bytes(), &mut line));
    });
    writeln!(out, "| its place, link and hash ({} bytes) | {ns} |", line.len())?;
    let folder = tempfile::tempdir()?;
    let cpu = through_a_sink(&folder.path().join("audit"), &record)?;
    writeln!(out, "| all in, from the draft to the file, CPU time of both threads | {cpu} |\n")?;
    let path = folder.path().join("many.jsonl");
    let records = records.unwrap_or(VERIFIED);
    let bytes = generate(&path, &draft, records)?;
    let begun = Instant::now();
    let peak_kib = verify(&path)?;
    let seconds = begun.elapsed().as_secs_f64();
    writeln!(
        out,
        "verify: {records} records, {} MB, {seconds:.1} s, at most {} KiB of memory\n",
        bytes / 1_000_000,
        peak_kib
    )?;
    Ok(())
}

fn fastest(mut work: impl FnMut()) -> u128 {
    let batch = |_| {
        let begun = Instant::now();
        (0..BATCH).for_each(|_| work());
        begun.elapsed().as_nanos() / u128::from(BATCH)
    };
    (0..BATCHES).map(batch).min().unwrap_or_default()
}

/// CPU time of this process, ns.
fn cpu_ns() -> anyhow::Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).context("/proc/self/stat");
    Ok((ticks(11)? + ticks(12)?) * (1_000_000_000 / TICKS))
}

fn through_a_sink(path: &Path, record: &Record<'_>) -> anyhow::Result<u64> {
    let metrics = Metrics::new(&mut Registry::default(), 0);
    let sink = AuditSink::open(&Sink::File(path.to_owned()), WhenUnavailable::Deny, 1 << 22, metrics)?;
    let before = cpu_ns()?;
    for n in 0..RECORDS {
        // As calls come, not as fast as memory can be filled: what is measured then is the memory.
        if n.is_multiple_of(PACE) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut draft = String::with_capacity(768);
        record.write(&mut draft);
        sink.append(draft.as_bytes())?;
    }
    sink.close(Duration::from_secs(600))?;
    Ok((cpu_ns()? - before) / RECORDS)
}

fn generate(path: &Path, draft: &str, records: u64) -> anyhow::Result<u64> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    let (mut chain, mut lines, mut bytes) = (Chain::new([2; 16], None, None), Vec::new(), 0_u64);
    chain.start(0, "bench", None, &mut lines);
    for _ in 0..records {
        ensure!(chain.seal(draft.as_bytes(), &mut lines), "a draft");
        bytes += u64::try_from(lines.len())?;
        file.write_all(&lines)?;
        lines.clear();
    }
    chain.end(0, &mut lines);
    file.write_all(&lines)?;
    file.flush()?;
    Ok(bytes)
}

/// Runs the command; its largest resident set, KiB.
fn verify(path: &Path) -> anyhow::Result<u64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-authz"));
    let mut child = command.args(["audit", "verify", "--whole"]).arg(path).stdout(Stdio::null()).spawn()?;
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "verification failed");
            return Ok(peak);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
