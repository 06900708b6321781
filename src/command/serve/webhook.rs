//! `mcp-authz serve --webhook`: the admission webhook and nothing else.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::{chain, fail, refuse, say, told_to_stop, warn_of};
use crate::{
    clock::{Clock as _, SystemClock},
    config::{Webhook, WebhookConfig},
    envoy::tls::{Tls, TlsSettings},
    telemetry::{
        log,
        metrics::webhook::{WebhookError, WebhookMetrics},
    },
    watch::{Folders, Watch},
    webhook::{router, server},
};

/// How often the mount of the certificate is looked at.
const POLL: Duration = Duration::from_secs(1);

/// Runs it to its end.
pub(super) fn run(file: &Path) -> ExitCode {
    let config = match WebhookConfig::load(file) {
        Ok(config) => config,
        Err(defects) => return refuse(&defects),
    };
    let log = match log::init(config.log.level, config.log.format, None) {
        Ok(log) => log,
        Err(error) => return say(&format!("mcp-authz: {}", chain(&error))),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail("the runtime cannot start", &error),
    };
    let code = runtime.block_on(serve(config)).map_or_else(|code| code, |()| ExitCode::SUCCESS);
    // A judgment that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    drop(log);
    code
}

async fn serve(config: WebhookConfig) -> Result<(), ExitCode> {
    let WebhookConfig { webhook: Webhook { listen, certificate, key }, warnings, response_phase, .. } = config;
    warn_of(&warnings);
    let mut registry = Registry::default();
    let metrics = WebhookMetrics::new(&mut registry, SystemClock::new().now_ms());
    let watch = Watch::new(Folders::of_files([certificate.as_path(), key.as_path()]), POLL);
    let settings = TlsSettings { certificate, key, ..TlsSettings::default() };
    let tls = Arc::new(Tls::load(&settings).map_err(|error| fail("`webhook.certificate` and `webhook.key`", &error))?);
    let listener = TcpListener::bind(listen).await.map_err(|error| fail("the webhook's listener", &error))?;
    let bound = listener.local_addr().unwrap_or(listen);
    let reloads = tokio::spawn(reload(watch, Arc::clone(&tls), settings, metrics.clone()));
    tracing::info!(service = "webhook", address = %bound, "Listening.");
    let pages = router(metrics.clone(), Arc::new(registry), response_phase);
    server::serve(listener, tls, pages, metrics, told_to_stop()).await;
    reloads.abort();
    tracing::info!("Stopped.");
    Ok(())
}

/// Reads the certificate again when its mount was replaced, and on SIGHUP.
async fn reload(mut watch: Watch, tls: Arc<Tls>, settings: TlsSettings, metrics: WebhookMetrics) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        tracing::error!("SIGHUP cannot be received; a new certificate needs a restart.");
        return;
    };
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            _ = watch.changed() => {}
        }
        match tls.reload(&settings) {
            Ok(()) => tracing::info!("TLS files reloaded."),
            Err(error) => {
                metrics.error(WebhookError::Tls);
                tracing::error!(error = chain(&error), "TLS files not reloaded: the last good ones stay in use.");
            }
        }
    }
}
