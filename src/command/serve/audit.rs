//! Opens the sink of the audit that the settings name, and ends it.

use std::{io, process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use mcp_authz_core::audit::chain::Signer;
use tokio::runtime::Handle;

use super::{chain, fail};
use crate::{
    clock::Clock,
    config,
    quota::any::AnyLedger,
    telemetry::{
        audit::{AuditSink, BatchSink, Remote, Settings, Sink, WhenUnavailable, key::SigningKey},
        metrics::Metrics,
        otlp::{logs::LineExport, records},
    },
};

/// Time for the last records to be written.
const CLOSE: Duration = Duration::from_secs(5);
/// Time for the Redis to take a batch.
const DELIVERY: Duration = Duration::from_secs(5);

/// Opens it.
pub(super) fn open(
    audit: &config::Audit,
    ledger: &Arc<AnyLedger>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    export: Option<LineExport>,
) -> Result<Arc<AuditSink>, ExitCode> {
    let signer = match audit.signing_key.as_deref().map(SigningKey::load).transpose() {
        Ok(key) => key.map(|key| Box::new(key) as Box<dyn Signer>),
        Err(error) => return Err(fail("the signing key of the audit", &error)),
    };
    let remote = match &audit.sink {
        // Without a collector the settings were refused before; then opening the sink says so again.
        Sink::Otlp => export.map(|export| Box::new(records::sink(export, Handle::current())) as Box<dyn BatchSink>),
        Sink::Redis => Some(redis(ledger, audit.redis_entries_max)),
        Sink::File(_) | Sink::None | Sink::Stderr | Sink::Stdout => None,
    };
    let settings = Settings {
        when_unavailable: if audit.fail_closed { WhenUnavailable::Deny } else { WhenUnavailable::Count },
        buffer_bytes_max: audit.buffer_bytes_max,
        rotation: audit.file,
        checkpoints: audit.checkpoints,
        signer,
        clock: Arc::clone(clock),
        remote,
    };
    let opened = AuditSink::open_with(&audit.sink, settings, metrics.clone());
    opened.map(Arc::new).map_err(|error| fail("the audit sink", &error))
}

/// The stream in the Redis that has the counters.
fn redis(ledger: &Arc<AnyLedger>, entries_max: u64) -> Box<dyn BatchSink> {
    let ledger = Arc::clone(ledger);
    Box::new(Remote::new(Handle::current(), move |lines: Bytes| {
        let ledger = Arc::clone(&ledger);
        async move {
            match &*ledger {
                AnyLedger::Redis(ledger) => {
                    ledger.keep_records(&lines, entries_max, DELIVERY).await.map_err(io::Error::other)
                }
                AnyLedger::Embedded(_) => Err(io::Error::other("the ledger is in no Redis")),
            }
        }
    }))
}

/// Writes out what is left.
pub(super) async fn close(audit: Arc<AuditSink>) {
    let written = tokio::task::spawn_blocking(move || audit.close(CLOSE)).await;
    if let Ok(Err(error)) = written {
        tracing::error!(error = chain(&error), "Audit records were lost at the end.");
    }
}
