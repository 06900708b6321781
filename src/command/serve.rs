//! `mcp-authz serve`: puts the parts together and runs them until a signal.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use mcp_authz_core::document::Defect;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

mod audit;
mod ledger;
mod pins;
mod reload;
mod telemetry;
mod webhook;

use telemetry::Telemetry;

use crate::{
    admin::{self, AdminView, PinPages, QuotaPages, Readiness, router, token::AdminToken},
    clock::{Clock, rfc3339},
    config::{self, Config, Envoy, Limits, Paths, WebhookConfig},
    engine::Engine,
    envoy::{
        check::{Adapter, After, LiveSettings, Settings as CheckSettings},
        server::{Drained, Event, Observer, Server, Settings as ServerSettings},
        tls::{Tls, TlsSettings},
    },
    kubernetes::{self, Happened},
    pins::{Pinboard, desk::PinDesk},
    quota::{Ledger as _, any::AnyLedger, desk::LedgerDesk},
    response::{self, Responses, pins::PinStore},
    settle::{Settlements, Settler},
    snapshot::Snapshot,
    state::{Reloaded, State},
    telemetry::{
        audit::AuditSink,
        log::{self, chain},
        metrics::{ErrorKind, Metrics},
        seldom::Seldom,
        trace::Tracer,
    },
    watch::{Folders, Watch},
};

/// Room for headers and metadata in a CheckRequest, above the body.
const MESSAGE_HEADROOM_BYTES: usize = 1_048_576;
/// Time for what Envoy has told to be settled.
const SETTLE_CLOSE: Duration = Duration::from_secs(5);

/// Answer Envoy's Checks until SIGTERM or SIGINT; SIGHUP reads policies, servers, grants and credentials again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mcp-authz serve --config deploy/config.yaml
  mcp-authz serve --webhook --config webhook.yaml
  kill -HUP $(pidof mcp-authz)     # read policies, servers, grants and credentials again

Exit status: 0 after a signal, 64 if the configuration has defects or an address cannot be opened.")]
pub struct Args {
    /// The settings file.
    #[arg(long, env = "MCP_AUTHZ_CONFIG", default_value = "/etc/mcp-authz/config.yaml")]
    config: PathBuf,
    /// Run only the admission webhook for Kubernetes: the sections `webhook`, `log` and `envoy` of the settings.
    #[arg(long)]
    webhook: bool,
}

/// Runs the service to its end.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    if args.webhook {
        return webhook::run(&args.config);
    }
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(defects) => {
            hint_at_webhook(&args.config, &defects);
            return refuse(&defects);
        }
    };
    let telemetry = match Telemetry::prepare(&config) {
        Ok(telemetry) => telemetry,
        Err(defects) => return refuse(&defects),
    };
    let log = match log::init(config.log.level, config.log.format, telemetry.layer()) {
        Ok(log) => log,
        Err(error) => return say(&format!("mcp-authz: {}", chain(&error))),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail("the runtime cannot start", &error),
    };
    let code =
        runtime.block_on(serve(&args.config, config, &telemetry)).map_or_else(|code| code, |()| ExitCode::SUCCESS);
    drop(log);
    code
}

/// Every defect on standard error, then the status for bad configuration.
/// Says what is missing on the command line where settings are those of the admission webhook alone.
fn hint_at_webhook(file: &Path, defects: &[Defect]) {
    let has_no_listener = defects.iter().any(|defect| defect.to_string().ends_with("missing key `listen`"));
    if has_no_listener && WebhookConfig::load(file).is_ok() {
        say("mcp-authz: these settings are those of the admission webhook alone: add `--webhook`");
    }
}

fn refuse(defects: &[Defect]) -> ExitCode {
    let lines: String = defects.iter().map(|defect| format!("error: {defect}\n")).collect();
    let count = match defects.len() {
        1 => "1 defect".to_owned(),
        n => format!("{n} defects"),
    };
    say(&format!("{lines}mcp-authz: {count} in the configuration; nothing is served until it is mended"))
}

/// Tells the operator why nothing was started.
fn say(text: &str) -> ExitCode {
    // Nobody is left to tell if standard error is gone; the status still says it.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
    ExitCode::from(super::USAGE)
}

fn fail(what: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(error = chain(error), "Cannot start: {what}.");
    ExitCode::from(super::USAGE)
}

async fn serve(file: &Path, config: Config, telemetry: &Telemetry) -> Result<(), ExitCode> {
    let (clock, metrics) = (Arc::clone(&telemetry.clock), telemetry.metrics.clone());
    let sending = telemetry.start(&config)?;
    // Before anything is read, so that no change gets lost.
    let watch = config.reload.watch.then(|| Watch::new(Folders::of(file, &config), config.reload.poll));
    let state = load(&config.paths, config.limits, &metrics, clock.now_ms())?;
    let tls = load_tls(&config)?;
    let admin_token = load_admin_token(&config)?;
    let server = bind(&config, tls.clone(), &metrics).await?;
    let admin_listener = bind_admin(config.listen.admin).await?;
    let health = server.health();
    let (ledger, on_leak, reached, leaks) = ledger::open(&config, &clock, &metrics).await?;
    let audit = audit::open(&config.audit, &ledger, &clock, &metrics, sending.records.clone())?;
    let view = Arc::new(View {
        state: Arc::clone(&state),
        config: ArcSwap::from_pointee(config.clone()),
        draining: AtomicBool::new(false),
        reached,
        telemetry: telemetry.to_json(),
    });
    let pins = pins::open(&config, &ledger, &state, &clock, &metrics).await;
    let (stop_admin, admin_stopped) = tokio::sync::oneshot::channel::<()>();
    let engine = Engine::new(Arc::clone(&ledger), config.timeouts.lease, on_leak, metrics.clone());
    let desk = LedgerDesk::new(Arc::clone(&ledger), Arc::clone(&state), Arc::clone(&audit), Arc::clone(&clock));
    let quota = QuotaPages { desk: Arc::new(desk), token: Arc::clone(&admin_token) };
    let desk = PinDesk::new(Arc::clone(&pins.board), Arc::clone(&state), Arc::clone(&audit), Arc::clone(&clock));
    let pin_pages = PinPages { desk: Arc::new(desk), token: Arc::clone(&admin_token) };
    let pages = router(Arc::clone(&view) as Arc<dyn AdminView>, telemetry.page.clone(), quota, Some(pin_pages));
    let admin = tokio::spawn(admin::serve(admin_listener, pages, metrics.clone(), async {
        // Either way the end has come: a dropped sender is a stop as well.
        drop(admin_stopped.await);
    }));
    let settings = LiveSettings::from(check_settings(&config));
    let reloader = Reloader {
        state: Arc::clone(&state),
        metrics: metrics.clone(),
        audit: Arc::clone(&audit),
        clock: Arc::clone(&clock),
        tls: tls.zip(tls_settings(&config)),
        file: file.to_owned(),
        view: Arc::clone(&view),
        settings: settings.clone(),
        admin_token,
        refusals: reload::Refusals::default(),
        events: reload::events(&config, &clock, &metrics),
    };
    let reloads = tokio::spawn(reloader.run(watch));
    let (settlements, settling) = settle(&config, &ledger, &clock, &metrics, &audit, &sending.tracer);
    let responses = responses(&state, &ledger, &pins.board, &clock, &metrics, &audit, &sending.tracer);
    let after = After { settlements, responses };
    let adapter = Adapter::new(engine, Arc::clone(&state), clock, metrics, Arc::clone(&audit), settings, after)
        .with_pins(Arc::clone(&pins.board))
        .with_tracer(sending.tracer.clone());
    health.serving().await;
    tracing::info!(revision = state.snapshot().revision(), "Ready.");
    let drained = server.serve(adapter, stop_signal(&view)).await.map_err(|error| fail("a listener", &error))?;
    if drained == Drained::Cut {
        tracing::warn!("Some calls were cut off: they did not end within timeouts.drain_ms.");
    }
    reloads.abort();
    pins.close().await;
    close_settling(settling).await;
    // Before the ledger, through which it may be sent.
    audit::close(audit).await;
    ledger::close(&ledger, leaks, config.timeouts.drain).await;
    drop(stop_admin);
    if admin.await.is_err_and(|error| error.is_panic()) {
        tracing::error!("The admin listener panicked: a defect of mcp-authz, please report it.");
    }
    tracing::info!("Stopped.");
    sending.close().await;
    Ok(())
}

/// The adapter is gone and the queue closed with it; what is in it is worked off.
async fn close_settling(settling: JoinHandle<()>) {
    if tokio::time::timeout(SETTLE_CLOSE, settling).await.is_err() {
        tracing::warn!("Some reservations were not settled in time; their units count as spent.");
    }
}

/// Who judges responses.
fn responses(
    state: &Arc<State>,
    ledger: &Arc<AnyLedger>,
    pins: &Arc<Pinboard>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    audit: &Arc<AuditSink>,
    tracer: &Tracer,
) -> Arc<Responses> {
    let ledger = Arc::clone(ledger);
    let pins: Arc<dyn PinStore> = Arc::clone(pins) as Arc<dyn PinStore>;
    let (state, clock, audit) = (Arc::clone(state), Arc::clone(clock), Arc::clone(audit));
    let responses = Responses::new(state, move || ledger.keys(), pins, clock, metrics.clone(), audit);
    Arc::new(responses.with_tracer(tracer.clone()))
}

/// Ends reservations by what Envoy's access log tells.
fn settle(
    config: &Config,
    ledger: &Arc<AnyLedger>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    audit: &Arc<AuditSink>,
    tracer: &Tracer,
) -> (Settlements, JoinHandle<()>) {
    let settler = Settler {
        ledger: Arc::clone(ledger),
        clock: Arc::clone(clock),
        metrics: metrics.clone(),
        audit: Arc::clone(audit),
        hold: config.timeouts.lease,
    };
    let (settlements, settling) = settler.start_traced(tracer.clone());
    (settlements, tokio::spawn(settling))
}

fn load(paths: &Paths, limits: Limits, metrics: &Metrics, now_ms: u64) -> Result<Arc<State>, ExitCode> {
    let (state, warnings) = State::load(paths, now_ms).map_err(|defects| refuse(&defects))?;
    warn_of(&warnings);
    metrics.set_servers(state.snapshot().server_names());
    show_documents(metrics, &state.snapshot(), limits);
    metrics.config_taken(now_ms);
    Ok(Arc::new(state))
}

/// Every policy and every counter of every policy becomes a label, as far as the limits go.
fn show_documents(metrics: &Metrics, snapshot: &Snapshot, limits: Limits) {
    let policies = snapshot.policies().map(|policy| (policy.id(), policy.digest().as_str()));
    let left_out = metrics.set_policies(snapshot.revision(), policies, limits.metric_policies_max);
    if left_out > 0 {
        tracing::warn!(left_out, "More policies than limits.metric_policies_max: the metrics do not show the rest.");
    }
    let terms = snapshot.policies().flat_map(|policy| policy.terms());
    let left_out = metrics.set_counters(terms.map(|terms| (&*terms.policy, &*terms.name)), limits.metric_counters_max);
    if left_out > 0 {
        tracing::warn!(left_out, "More counters than limits.metric_counters_max: the rest is measured as `_other`.");
    }
}

fn warn_of(warnings: &[Defect]) {
    for warning in warnings {
        tracing::warn!(at = %warning, "The configuration is legal here, and probably not meant.");
    }
}

fn tls_settings(config: &Config) -> Option<TlsSettings> {
    config.tls.as_ref().map(|tls| TlsSettings {
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        client_ca: tls.clients.as_ref().map(|clients| clients.ca.clone()),
        allowed_sans: tls.clients.as_ref().map(|clients| clients.allowed_sans.clone()).unwrap_or_default(),
    })
}

fn load_tls(config: &Config) -> Result<Option<Arc<Tls>>, ExitCode> {
    let tls = tls_settings(config).map(|settings| Tls::load(&settings)).transpose();
    tls.map(|tls| tls.map(Arc::new)).map_err(|error| fail("TLS", &error))
}

fn load_admin_token(config: &Config) -> Result<Arc<AdminToken>, ExitCode> {
    let token = AdminToken::load(config.admin.token_file.as_deref());
    token.map(Arc::new).map_err(|error| fail("the admin token", &error))
}

async fn bind(config: &Config, tls: Option<Arc<Tls>>, metrics: &Metrics) -> Result<Server, ExitCode> {
    let settings = ServerSettings {
        message_bytes_max: config.limits.body_bytes_max.saturating_add(MESSAGE_HEADROOM_BYTES),
        drain: config.timeouts.drain,
        process_streams_max: config.response.streams_max,
        ..ServerSettings::default()
    };
    let server = Server::bind(&config.listen.grpc, tls, settings, observer(metrics.clone())).await;
    let server = server.map_err(|error| fail("a gRPC listener", &error))?;
    for endpoint in server.endpoints() {
        tracing::info!(service = "grpc", address = %endpoint, "Listening.");
    }
    Ok(server)
}

async fn bind_admin(address: SocketAddr) -> Result<TcpListener, ExitCode> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| fail(&format!("the admin listener, `listen.admin` {address}"), &error))?;
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!(service = "admin", address = %bound, "Listening.");
    Ok(listener)
}

fn observer(metrics: Metrics) -> Observer {
    let warnings = Seldom::new();
    Arc::new(move |event| match event {
        Event::AcceptFailed | Event::ConnectionRefused | Event::ConnectionSilent | Event::LogStreamRefused => {
            metrics.error(ErrorKind::Listener);
            if warnings.is_due() {
                tracing::warn!(?event, "Connections to the gRPC listener fail.");
            }
        }
        Event::ResponsePanicked => {
            metrics.error(ErrorKind::Panic);
            tracing::error!(
                "The judgment of a response panicked, and the response was cut off: a defect of mcp-authz, please report it."
            );
        }
        Event::CheckPanicked => {
            metrics.error(ErrorKind::Panic);
            tracing::error!("A Check panicked and was denied: a defect of mcp-authz, please report it.");
        }
        Event::HandshakeRefused(_) => {
            metrics.error(ErrorKind::Tls);
            if warnings.is_due() {
                tracing::warn!(?event, "TLS handshakes are refused.");
            }
        }
        Event::ConnectionClosed | Event::ConnectionOpened => tracing::debug!(?event, "Connection."),
    })
}

/// What the configuration says of a single Check, and of a single response.
fn check_settings(config: &Config) -> CheckSettings {
    CheckSettings {
        body: config.limits.json(),
        headers: config.limits.headers(),
        checks_in_flight_max: config.limits.checks_in_flight_max,
        check: config.timeouts.check,
        margin: config.timeouts.margin,
        accept_lossy_body: config.envoy.accept_lossy_body,
        args: config.audit.args,
        outcomes: config.audit.outcomes,
        response: response::Settings {
            recording: config.response.record,
            limits: config.response.limits,
            memory_bytes_max: config.response.memory_bytes_max,
            // Envoy waits as long for an answer about a response as for a Check's.
            patience: config.timeouts.check.saturating_sub(config.timeouts.margin),
        },
    }
}

/// Ready on SIGTERM or SIGINT. Where signals cannot be had the process is stopped by its supervisor's kill.
async fn told_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("Signals cannot be received; only a kill will end this process.");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Ready when the process is told to stop; it is not ready for more from then on.
async fn stop_signal(view: &View) {
    told_to_stop().await;
    tracing::info!("Stopping: no new connections, running Checks are answered.");
    view.draining.store(true, Ordering::Relaxed);
}

/// Reads everything again that can be read again: on SIGHUP, and when a mount was replaced.
struct Reloader {
    state: Arc<State>,
    metrics: Metrics,
    audit: Arc<AuditSink>,
    clock: Arc<dyn Clock>,
    tls: Option<(Arc<Tls>, TlsSettings)>,
    file: PathBuf,
    view: Arc<View>,
    settings: LiveSettings,
    admin_token: Arc<AdminToken>,
    refusals: reload::Refusals,
    events: Option<kubernetes::Events>,
}

impl Reloader {
    async fn run(mut self, watch: Option<Watch>) {
        let mut causes = reload::Causes::new(watch, Arc::clone(&self.state));
        while let Some(cause) = causes.next().await {
            if cause == reload::Cause::Hangup {
                self.audit.reopen();
            }
            self.reload_tls();
            self.reload_admin_token();
            let (state, file, now_ms) = (Arc::clone(&self.state), self.file.clone(), self.clock.now_ms());
            let metrics = self.metrics.clone();
            // Settings first: a defect in them keeps everything as it is. Reading may take a while with many files; Checks go
            // on meanwhile on their own threads, and connections of the quota store on this one.
            let loaded = tokio::task::spawn_blocking(move || {
                let config = Config::load(&file).map_err(|defects| state.refuse(defects))?;
                let reloaded = state.reload(now_ms)?;
                metrics.set_servers(state.snapshot().server_names());
                show_documents(&metrics, &state.snapshot(), config.limits);
                Ok((config, reloaded))
            });
            match loaded.await {
                Ok(outcome) => self.report(outcome, now_ms),
                Err(error) => {
                    self.metrics.config_refused();
                    tracing::error!(
                        error = chain(&error),
                        "Configuration not reloaded: the last good one goes on serving."
                    );
                }
            }
        }
    }

    /// Takes over what can change while running, and says so if there is more.
    fn take_settings(&self, new: &Config) {
        let mut effective = Config::clone(&self.view.config.load());
        // The transport was made for the old size; a longer body would not get as far as a readable refusal.
        let body_bytes_max = effective.limits.body_bytes_max;
        let (counters_max, reservations_max) = (effective.limits.counters_max, effective.limits.reservations_max);
        let Limits { pinned_tools_max, pinned_definition_bytes_max, pending_tools_max, .. } = effective.limits;
        effective.limits = Limits {
            body_bytes_max,
            counters_max,
            reservations_max,
            pinned_tools_max,
            pinned_definition_bytes_max,
            pending_tools_max,
            ..new.limits
        };
        effective.timeouts.check = new.timeouts.check;
        effective.timeouts.margin = new.timeouts.margin;
        let config::Audit { args, danger_full_args, outcomes, .. } = new.audit;
        effective.audit = config::Audit { args, danger_full_args, outcomes, ..effective.audit };
        // What documents were read under holds until a restart.
        let response_phase = effective.envoy.response_phase;
        effective.envoy = Envoy { response_phase, ..new.envoy };
        // The places for streams were made at the start.
        let streams_max = effective.response.streams_max;
        effective.response = config::Response { streams_max, ..new.response };
        if effective.to_json() != new.to_json() {
            tracing::warn!("The settings file has changes that take effect only at the next start.");
        }
        self.settings.replace(check_settings(&effective));
        self.view.config.store(Arc::new(effective));
    }

    fn reload_tls(&self) {
        let Some((tls, settings)) = &self.tls else { return };
        if let Err(error) = tls.reload(settings) {
            self.metrics.error(ErrorKind::Tls);
            tracing::error!(error = chain(&error), "TLS files not reloaded: the last good ones stay in use.");
        }
    }

    fn reload_admin_token(&self) {
        if let Err(error) = self.admin_token.reload() {
            self.metrics.error(ErrorKind::Admin);
            tracing::error!(error = chain(&error), "Admin token not reloaded: the last good one stays in use.");
        }
    }

    fn report(&mut self, outcome: Result<(Config, Reloaded), Vec<Defect>>, now_ms: u64) {
        match outcome {
            Err(defects) => {
                self.metrics.config_refused();
                self.metrics.error(ErrorKind::Config);
                self.refusals.log(&defects);
                if let Some(events) = &self.events {
                    events.tell(Happened::Refused { defects });
                }
            }
            Ok((config, Reloaded { changed, from, to, warnings })) => {
                self.refusals.warn(&[config.warnings.as_slice(), warnings.as_slice()].concat());
                if let Some(events) = self.events.as_ref().filter(|_| changed || self.refusals.are_open()) {
                    events.tell(Happened::Reloaded { from: Arc::clone(&from), to: Arc::clone(&to) });
                }
                self.refusals.mended();
                self.take_settings(&config);
                self.metrics.config_taken(now_ms);
                tracing::info!(%from, %to, changed, "Configuration reloaded.");
            }
        }
    }
}

/// What the admin port shows.
struct View {
    state: Arc<State>,
    config: ArcSwap<Config>,
    draining: AtomicBool,
    reached: ledger::Reached,
    /// Where telemetry goes, by file and environment; `null` for nowhere.
    telemetry: Value,
}

impl AdminView for View {
    fn readiness(&self) -> Readiness {
        // There is no process without a snapshot, so what is left are the end and the quota store.
        if self.draining.load(Ordering::Relaxed) {
            return Readiness::NotReady("stopping".into());
        }
        self.reached.readiness(&self.state.snapshot())
    }

    fn config(&self) -> Value {
        let status = self.state.status();
        let texts = |defects: &[Defect]| defects.iter().map(ToString::to_string).collect::<Vec<_>>();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "revision": &*status.revision,
            "loaded_at": rfc3339(status.loaded_at_ms),
            "reloads_ok": status.reloads_ok,
            "reloads_failed": status.reloads_failed,
            "defects_of_last_reload": texts(&status.defects),
            "warnings": texts(&status.warnings),
            "settings": self.config.load().to_json(),
            "telemetry": self.telemetry,
        })
    }

    fn policy(&self) -> Value {
        let snapshot = self.state.snapshot();
        let policies: Vec<Value> = snapshot
            .policies()
            .map(|policy| {
                json!({
                    "id": &**policy.id(),
                    "digest": policy.digest().as_str(),
                    "default": if policy.default_allows() { "allow" } else { "deny" },
                    "tools": policy.tool_count(),
                })
            })
            .collect();
        let files = snapshot.files().iter().map(|file| {
            json!({
                "path": file.kind.path_of(&file.name),
                "kind": file.kind.name(),
                "digest": file.digest.as_str(),
            })
        });
        json!({ "revision": snapshot.revision(), "files": files.collect::<Value>(), "policies": policies })
    }
}
