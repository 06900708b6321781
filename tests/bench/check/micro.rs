//! Pieces of a Check in this process, wall-clock time.

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

use anyhow::{bail, ensure};
use bytes::Bytes;
use mcp_authz::clock::{Clock, SystemClock};
use mcp_authz::config::Config;
use mcp_authz::engine::Engine;
use mcp_authz::envoy::check::{Adapter, After, Settings};
use mcp_authz::envoy::server::{CallMeta, Check as _};
use mcp_authz::envoy::wire;
use mcp_authz::quota::Ledger as _;
use mcp_authz::quota::embedded::{EmbeddedLedger, settle_leaks};
use mcp_authz::response::{self, NoPins, Responses};
use mcp_authz::settle::Settler;
use mcp_authz::state::State;
use mcp_authz::telemetry::audit::{AuditSink, Sink, WhenUnavailable};
use mcp_authz::telemetry::metrics::Metrics;
use mcp_authz_core::decision::Decision;
use mcp_authz_core::document::Format;
use mcp_authz_core::json::{Document, Limits};
use mcp_authz_core::ledger::machine::Bounds;
use mcp_authz_core::policy::{Call, Policy, Source};
use mcp_authz_core::principal::Principal;
use prometheus_client::registry::Registry;
use prost::Message as _;
use tokio::time::{Duration, Instant};

use crate::report::median;
use crate::{requests, scene};

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
    let adapter = Whole::new(scene::Crowd::NONE)?;
    row(out, "whole Check in process", messages.each_ref().map(|message| time(|| adapter.check(message))))?;
    let crowded = Whole::new(scene::Crowd::LARGE)?;
    let name = "… beside 100,000 grants, 10,000 servers and policies";
    row(out, name, messages.each_ref().map(|message| time(|| crowded.check(message))))?;
    writeln!(out, "\n| piece | 1 rule | 100 rules | 10,000 rules |\n|---|---|---|---|")?;
    let policies = [1, 100, 10_000].map(scene::policy);
    let figures = policies.each_ref().map(|policy| decide(policy));
    let [one, hundred, many] = figures;
    row(out, "Policy::decide (2 conditions, 1 limit)", [one?, hundred?, many?])?;
    writeln!(out)?;
    Ok(())
}

/// Time of the decision about the call of [`requests`].
fn decide(policy: &str) -> anyhow::Result<f64> {
    let source = Source { id: "bench", file: "bench.json", bytes: policy.as_bytes(), format: Format::Json };
    let policy = match Policy::compile(&source) {
        Ok(compiled) => compiled.policy,
        Err(defects) => bail!("the policy has {} defects", defects.len()),
    };
    let who = Principal::of_grant("bench");
    let body = requests::body(300);
    let document = Document::parse(&body, Limits::default())?;
    let arguments = document.root().get("params").and_then(|params| params.get("arguments"));
    let run = || policy.decide(&who, &Call::of("tool_7", arguments));
    ensure!(matches!(run(), Decision::Proceed(_)), "the call passes");
    Ok(time(run))
}

/// The adapter as `serve` puts it together, without a network; no audit sink.
struct Whole {
    adapter: Adapter<EmbeddedLedger>,
    runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Whole {
    fn new(crowd: scene::Crowd) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = match Config::load(&scene::write(folder.path(), crowd)?) {
            Ok(config) => config,
            Err(defects) => bail!("the configuration has {} defects", defects.len()),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Metrics::new(&mut Registry::default(), clock.now_ms());
        // As in `serve`, another thread loads than decides: what loading leaves behind in the allocator stays there.
        let now_ms = clock.now_ms();
        let paths = config.paths.clone();
        let state = match std::thread::spawn(move || State::load(&paths, now_ms)).join() {
            Ok(Ok((state, _))) => Arc::new(state),
            Ok(Err(defects)) => bail!("the configuration has {} defects", defects.len()),
            Err(_) => bail!("loading panicked"),
        };
        let bounds =
            Bounds { counters_max: config.limits.counters_max, reservations_max: config.limits.reservations_max };
        let ledger = EmbeddedLedger::new(bounds, Arc::clone(&clock), Arc::new(|_| {}));
        let ledger = Arc::new(ledger?);
        let on_leak = settle_leaks(Arc::clone(&ledger), |_, _| {});
        let engine = Engine::new(Arc::clone(&ledger), config.timeouts.lease, on_leak, metrics.clone());
        let audit = Arc::new(AuditSink::open(&Sink::None, WhenUnavailable::Count, 1 << 20, metrics.clone())?);
        let settings = Settings {
            body: config.limits.json(),
            headers: config.limits.headers(),
            checks_in_flight_max: config.limits.checks_in_flight_max,
            check: config.timeouts.check,
            margin: config.timeouts.margin,
            accept_lossy_body: false,
            args: mcp_authz_core::audit::ArgsMode::Keys,
            outcomes: true,
            response: response::Settings::default(),
        };
        let keys = Arc::clone(&ledger);
        let settler = Settler {
            ledger,
            clock: Arc::clone(&clock),
            metrics: metrics.clone(),
            audit: Arc::clone(&audit),
            hold: config.timeouts.lease,
        };
        let (settlements, _) = settler.start();
        let (states, clocks, sink) = (Arc::clone(&state), Arc::clone(&clock), Arc::clone(&audit));
        let responses = Responses::new(states, move || keys.keys(), Arc::new(NoPins), clocks, metrics.clone(), sink);
        let after = After { settlements, responses: Arc::new(responses) };
        let adapter = Adapter::new(engine, state, clock, metrics, audit, settings, after);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let whole = Self { adapter, runtime, _folder: folder };
        let answer = whole.check(&requests::check_request(&requests::body(300)).into());
        ensure!(answer.status.is_some_and(|status| status.code == 0), "the call passes");
        Ok(whole)
    }

    /// Decoding included, encoding of the answer not.
    fn check(&self, message: &Bytes) -> wire::CheckResponse {
        let request = wire::CheckRequest::decode(message.clone()).unwrap_or_default();
        let meta = CallMeta { received: Instant::now(), grpc_timeout: None, trace: None };
        self.runtime.block_on(self.adapter.check(request, meta)).sent()
    }
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
