//! `mcp-authz serve`: puts the parts together and runs them until a signal.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mcp_authz_core::document::Defect;
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    admin::{self, AdminView, Readiness},
    clock::{Clock, SystemClock},
    config::{self, AuditSink as AuditPlace, Config, GrpcAddress},
    engine::Engine,
    envoy::{
        check::{Adapter, Settings as CheckSettings},
        server::{Drained, Endpoint, Event, Observer, Server, Settings as ServerSettings},
        tls::Tls,
    },
    quota::memory::{Bounds, MemoryLedger, settle_leaks},
    state::State,
    telemetry::{
        audit::{AuditSink, Sink, WhenUnavailable},
        log,
        metrics::{ErrorKind, Metrics, ReservationOutcome},
    },
};

/// Room for headers and metadata in a CheckRequest, above the body.
const MESSAGE_HEADROOM_BYTES: usize = 1_048_576;

/// Answer Envoy's Checks until SIGTERM or SIGINT; SIGHUP reads policies, servers, grants and credentials again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mcp-authz serve --config deploy/config.yaml
  kill -HUP $(pidof mcp-authz)     # read policies, servers, grants and credentials again

Exit status: 0 after a signal, 64 if the configuration has defects or an address cannot be opened.")]
pub struct Args {
    /// The settings file.
    #[arg(long, env = "MCP_AUTHZ_CONFIG", default_value = "/etc/mcp-authz/config.yaml")]
    config: PathBuf,
}

/// Runs the service to its end.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(defects) => return refuse(&defects),
    };
    log::init(&config.log);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail("the runtime cannot start", &error),
    };
    match runtime.block_on(serve(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

/// Every defect on standard error, then the status for bad configuration.
fn refuse(defects: &[Defect]) -> ExitCode {
    let mut err = std::io::stderr().lock();
    for defect in defects {
        // Nobody is left to tell if standard error is gone; the status still says it.
        if writeln!(err, "error: {defect}").is_err() {
            break;
        }
    }
    if writeln!(err, "mcp-authz: {} defects; nothing is served until they are mended", defects.len()).is_err() {
        return ExitCode::from(super::USAGE);
    }
    ExitCode::from(super::USAGE)
}

fn fail(what: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(error = chain(error), "Cannot start: {what}.");
    ExitCode::from(super::USAGE)
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn serve(config: &Config) -> Result<(), ExitCode> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, clock.now_ms());
    let state = load(config, &metrics, clock.now_ms())?;
    let audit = open_audit(&config.audit, &metrics)?;
    let server = bind(config, &metrics).await?;
    let admin_listener = bind_admin(config.listen.admin).await?;
    let health = server.health();
    let view = Arc::new(View { state: Arc::clone(&state), config: config.clone(), draining: AtomicBool::new(false) });
    let admin = tokio::spawn(admin::serve(admin_listener, Arc::clone(&view), registry));
    let reloads = tokio::spawn(reload_on_hangup(
        Arc::clone(&state),
        config.clone(),
        metrics.clone(),
        Arc::clone(&audit),
        Arc::clone(&clock),
    ));
    let adapter = adapter(config, &state, &clock, &metrics, &audit);
    health.serving().await;
    tracing::info!(revision = state.snapshot().revision(), "Ready.");
    let drained = server.serve(adapter, stop_signal(&view)).await.map_err(|error| fail("a listener", &error))?;
    if drained == Drained::Cut {
        tracing::warn!("Some calls were cut off: they did not end within timeouts.drain_ms.");
    }
    reloads.abort();
    admin.abort();
    let written = tokio::task::spawn_blocking(move || audit.close(Duration::from_secs(5))).await;
    if let Ok(Err(error)) = written {
        tracing::error!(error = chain(&error), "Audit records were lost at the end.");
    }
    tracing::info!("Stopped.");
    Ok(())
}

fn load(config: &Config, metrics: &Metrics, now_ms: u64) -> Result<Arc<State>, ExitCode> {
    let (state, warnings) = State::load(&config.paths, now_ms).map_err(|defects| refuse(&defects))?;
    warn_of(&warnings);
    metrics.set_servers(state.snapshot().server_names());
    metrics.config_taken(now_ms);
    Ok(Arc::new(state))
}

fn warn_of(warnings: &[Defect]) {
    for warning in warnings {
        tracing::warn!(at = %warning, "The configuration is legal here, and probably not meant.");
    }
}

fn open_audit(audit: &config::Audit, metrics: &Metrics) -> Result<Arc<AuditSink>, ExitCode> {
    let sink = match &audit.sink {
        AuditPlace::File(path) => Sink::File(path.clone()),
        AuditPlace::None => Sink::None,
        AuditPlace::Stderr => Sink::Stderr,
        AuditPlace::Stdout => Sink::Stdout,
    };
    let when = if audit.fail_closed { WhenUnavailable::Deny } else { WhenUnavailable::Count };
    let opened = AuditSink::open(&sink, when, audit.buffer_bytes_max, metrics.clone());
    opened.map(Arc::new).map_err(|error| fail("the audit sink", &error))
}

async fn bind(config: &Config, metrics: &Metrics) -> Result<Server, ExitCode> {
    let endpoints: Vec<Endpoint> = config
        .listen
        .grpc
        .iter()
        .map(|address| match address {
            GrpcAddress::Tcp(address) => Endpoint::Tcp(*address),
            GrpcAddress::Unix(path) => Endpoint::Unix(path.clone()),
        })
        .collect();
    let tls = config.tls.as_ref().map(Tls::load).transpose().map_err(|error| fail("TLS", &error))?.map(Arc::new);
    let settings = ServerSettings {
        message_bytes_max: config.limits.body_bytes_max.saturating_add(MESSAGE_HEADROOM_BYTES),
        drain: config.timeouts.drain,
        ..ServerSettings::default()
    };
    let server = Server::bind(&endpoints, tls, settings, observer(metrics.clone())).await;
    let server = server.map_err(|error| fail("a gRPC listener", &error))?;
    for endpoint in server.endpoints() {
        tracing::info!(service = "grpc", address = %endpoint, "Listening.");
    }
    Ok(server)
}

async fn bind_admin(address: SocketAddr) -> Result<TcpListener, ExitCode> {
    let listener = TcpListener::bind(address).await.map_err(|error| fail("the admin listener", &error))?;
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!(service = "admin", address = %bound, "Listening.");
    Ok(listener)
}

fn observer(metrics: Metrics) -> Observer {
    Arc::new(move |event| match event {
        Event::AcceptFailed | Event::ConnectionRefused | Event::ConnectionSilent => {
            metrics.error(ErrorKind::Listener);
            tracing::warn!(?event, "A connection to the gRPC listener failed.");
        }
        Event::CheckPanicked => {
            metrics.error(ErrorKind::Panic);
            tracing::error!("A Check panicked and was denied: a defect of mcp-authz, please report it.");
        }
        Event::HandshakeRefused(_) => {
            metrics.error(ErrorKind::Tls);
            tracing::warn!(?event, "A TLS handshake was refused.");
        }
        Event::ConnectionClosed | Event::ConnectionOpened => tracing::debug!(?event, "Connection."),
    })
}

fn adapter(
    config: &Config,
    state: &Arc<State>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    audit: &Arc<AuditSink>,
) -> Adapter<MemoryLedger> {
    let bounds =
        Bounds { counters_max: config.limits.counters_max, reservations_max: config.limits.reservations_max };
    let counted = metrics.clone();
    let expired = Arc::new(move |n| counted.reservations(ReservationOutcome::Expired, n));
    let ledger = Arc::new(MemoryLedger::new(bounds, expired));
    let counted = metrics.clone();
    let on_leak = settle_leaks(Arc::clone(&ledger), Arc::clone(clock), move |_, _, settled| {
        counted.reservations(ReservationOutcome::Leaked, 1);
        if let Err(error) = settled {
            counted.error(ErrorKind::Ledger);
            tracing::warn!(error = chain(&error), "A reservation could not be given back; its units count as spent.");
        }
    });
    let engine = Engine::new(ledger, config.timeouts.lease, on_leak, metrics.clone());
    let settings = CheckSettings {
        body: config.limits.json(),
        headers: config.limits.headers(),
        checks_in_flight_max: config.limits.checks_in_flight_max,
        check: config.timeouts.check,
        margin: config.timeouts.margin,
        accept_lossy_body: config.envoy.accept_lossy_body,
    };
    Adapter::new(engine, Arc::clone(state), Arc::clone(clock), metrics.clone(), Arc::clone(audit), settings)
}

/// Ready on SIGTERM or SIGINT. Where signals cannot be had the process is stopped by its supervisor's kill.
async fn stop_signal(view: &View) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("Signals cannot be received; only a kill will end this process.");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("Stopping: no new connections, running Checks are answered.");
    view.draining.store(true, Ordering::Relaxed);
}

async fn reload_on_hangup(
    state: Arc<State>,
    config: Config,
    metrics: Metrics,
    audit: Arc<AuditSink>,
    clock: Arc<dyn Clock>,
) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        tracing::error!("SIGHUP cannot be received; a change of configuration needs a restart.");
        return;
    };
    while hangup.recv().await.is_some() {
        audit.reopen();
        let (state, paths, now_ms) = (Arc::clone(&state), config.paths.clone(), clock.now_ms());
        // Reading and compiling may take a while with many files; Checks go on meanwhile on their own threads.
        let outcome = tokio::task::spawn_blocking(move || state.reload(&paths, now_ms).map(|warnings| (state, warnings)));
        match outcome.await {
            Ok(Ok((state, warnings))) => {
                warn_of(&warnings);
                let snapshot = state.snapshot();
                metrics.set_servers(snapshot.server_names());
                metrics.config_taken(now_ms);
                tracing::info!(revision = snapshot.revision(), "Configuration reloaded.");
            }
            Ok(Err(defects)) => {
                metrics.config_refused();
                metrics.error(ErrorKind::Config);
                for defect in &defects {
                    tracing::error!(at = %defect, "The new configuration has a defect.");
                }
                tracing::error!(defects = defects.len(), "Configuration not reloaded: the last good one goes on serving.");
            }
            Err(error) => {
                metrics.config_refused();
                tracing::error!(error = chain(&error), "Configuration not reloaded: the last good one goes on serving.");
            }
        }
    }
}

/// What the admin port shows.
struct View {
    state: Arc<State>,
    config: Config,
    draining: AtomicBool,
}
