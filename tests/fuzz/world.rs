//! What requests are checked against: three servers, their policies and grants, and an adapter over them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mcp_authz::{
    clock::{Clock, ManualClock},
    config::Paths,
    engine::Engine,
    envoy::{
        check::{Adapter, After, Settings},
        server::{CallMeta, Check as _},
        wire::{CheckRequest, CheckResponse},
    },
    quota::{Ledger as _, embedded::EmbeddedLedger},
    response::{self, NoPins, Responses},
    settle::Settler,
    state::State,
    telemetry::{
        audit::{AuditSink, Sink, WhenUnavailable},
        metrics::Metrics,
    },
};
use mcp_authz_core::{grant::TokenDigest, http::HeaderLimits, json::Limits, ledger::machine::Bounds};
use tokio::{runtime::Runtime, time::Instant};

/// Unix milliseconds of every check.
const NOW_MS: u64 = 1_800_000_000_000;
/// The secret of every server; only an OK may carry it.
pub(crate) const SECRET: &str = "UPSTREAM-SECRET";

/// A token and what it is good for.
pub(crate) struct Token {
    pub(crate) text: &'static str,
    pub(crate) servers: &'static [&'static str],
    /// More of the grant.
    terms: &'static str,
    /// Whether it can be used at all.
    pub(crate) active: bool,
}

/// Every token that is on file.
pub(crate) const TOKENS: &[Token] = &[
    Token { text: "mcpa_GOOD", servers: &["plain", "other"], terms: "", active: true },
    Token { text: "mcpa_OPEN", servers: &["open"], terms: "policy: all, ", active: true },
    Token { text: "mcpa_BARE", servers: &["bare"], terms: "", active: true },
    Token { text: "mcpa_LATE", servers: &["plain"], terms: "expires: 2026-01-01T00:00:00Z, ", active: false },
    Token { text: "mcpa_GONE", servers: &["plain"], terms: "revoked: true, ", active: false },
];

/// Every server, and the host and path by which it is found without its name.
pub(crate) const SERVERS: &[(&str, Option<(&str, &str)>)] =
    &[("bare", None), ("open", Some(("open.test", "/mcp"))), ("other", None), ("plain", None)];

const SERVERS_YAML: &str = "\
servers:
  plain: {policy: own, credential: {kind: header, name: authorization, format: 'Bearer {secret}', secret: token}}
  other: {policy: all, credential: {kind: header, name: x-api-key, secret: token}}
  open: {match: [{host: open.test, path: /mcp}], hosts: [open.test], origins: ['https://app.test'], credential: {kind: none}}
  bare: {credential: {kind: none}}
";

/// The policy of the server `plain`.
pub(crate) const OWN: &str = include_str!("own.json");

struct World {
    folder: tempfile::TempDir,
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    runtime: Runtime,
    checks: AtomicU64,
}

/// One world for all checks of the process.
static WORLD: LazyLock<io::Result<World>> = LazyLock::new(build);

fn build() -> io::Result<World> {
    let folder = tempfile::tempdir()?;
    let paths = write(folder.path())?;
    let (state, _) = State::load(&paths, NOW_MS).map_err(|defects| io::Error::other(format!("{defects:?}")))?;
    let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default(), NOW_MS);
    metrics.set_servers(state.snapshot().server_names());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let clock = Arc::new(ManualClock::new(NOW_MS));
    Ok(World { folder, state: Arc::new(state), clock, metrics, runtime, checks: AtomicU64::new(0) })
}

fn write(root: &Path) -> io::Result<Paths> {
    let folder = |name: &str| -> io::Result<PathBuf> {
        let path = root.join(name);
        fs::create_dir(&path)?;
        Ok(path)
    };
    let (policies, grants, credentials) = (folder("policies")?, folder("grants")?, folder("credentials")?);
    fs::write(policies.join("own.json"), OWN)?;
    fs::write(policies.join("all.yaml"), "version: '1'\ndefault: allow\nhide: [gone]\n")?;
    fs::write(credentials.join("token"), SECRET)?;
    let servers = root.join("servers.yaml");
    fs::write(&servers, SERVERS_YAML)?;
    let mut text = String::from("grants:\n");
    for (index, token) in TOKENS.iter().enumerate() {
        let digest = TokenDigest::of(token.text.as_bytes()).hex();
        let names = token.servers.join(", ");
        text.push_str(&format!("- {{label: g{index}, {}sha256: {digest}, servers: [{names}]}}\n", token.terms));
    }
    fs::write(grants.join("all.yaml"), text)?;
    Ok(Paths { policies, servers, grants, credentials, response_phase: true })
}

/// What came of a check.
pub(crate) struct Outcome {
    pub(crate) response: CheckResponse,
    /// Everything that the audit sink got.
    pub(crate) audit: String,
}

/// Checks one request with fresh counters and an audit file of its own.
pub(crate) fn check(request: CheckRequest) -> io::Result<Outcome> {
    let world = WORLD.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
    let path = world.folder.path().join(format!("audit-{}", world.checks.fetch_add(1, Ordering::Relaxed)));
    let sink = AuditSink::open(&Sink::File(path.clone()), WhenUnavailable::Deny, 1 << 20, world.metrics.clone());
    let audit = Arc::new(sink.map_err(io::Error::other)?);
    let bounds = Bounds { counters_max: 100, reservations_max: 100 };
    let ledger = EmbeddedLedger::new(bounds, Arc::clone(&world.clock), Arc::new(|_| {}));
    let ledger = Arc::new(ledger.map_err(io::Error::other)?);
    let engine = Engine::new(Arc::clone(&ledger), Duration::from_secs(60), Arc::new(|_, _| {}), world.metrics.clone());
    let settings = Settings {
        body: Limits::default(),
        headers: HeaderLimits::default(),
        checks_in_flight_max: 1,
        // A slow machine must not turn an allow into a refusal for lack of time.
        check: Duration::from_secs(3600),
        margin: Duration::ZERO,
        accept_lossy_body: false,
        args: mcp_authz_core::audit::ArgsMode::Keys,
        outcomes: true,
        response: response::Settings::default(),
    };
    let (state, clock) = (Arc::clone(&world.state), Arc::clone(&world.clock));
    let keys = Arc::clone(&ledger);
    let settler = Settler {
        ledger,
        clock: Arc::clone(&clock),
        metrics: world.metrics.clone(),
        audit: Arc::clone(&audit),
        hold: Duration::from_secs(60),
    };
    let (settlements, _) = settler.start();
    let metrics = world.metrics.clone();
    let (states, clocks, sink) = (Arc::clone(&state), Arc::clone(&clock), Arc::clone(&audit));
    let responses = Responses::new(states, move || keys.keys(), Arc::new(NoPins), clocks, world.metrics.clone(), sink);
    let after = After { settlements, responses: Arc::new(responses) };
    let adapter = Adapter::new(engine, state, clock, metrics, Arc::clone(&audit), settings, after);
    let meta = CallMeta { received: Instant::now(), grpc_timeout: None, trace: None };
    let response = world.runtime.block_on(adapter.check(request, meta)).sent();
    audit.close(Duration::from_secs(60)).map_err(io::Error::other)?;
    let text = fs::read_to_string(&path)?;
    fs::remove_file(&path)?;
    Ok(Outcome { response, audit: text })
}
