//! Opens the pins of tools where the counters are kept, and keeps what is known of them fresh.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinHandle};

use super::chain;
use crate::{
    clock::Clock,
    config::{Config, Engine},
    pins::{FolderStore, Pinboard, store::AnyStore},
    quota::any::AnyLedger,
    state::State,
    telemetry::metrics::Metrics,
};

/// The pins, and the task that reads them again and again.
pub(super) struct Pins {
    pub(super) board: Arc<Pinboard>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Opens them, and reads them once before anybody asks.
pub(super) async fn open(
    config: &Config,
    ledger: &Arc<AnyLedger>,
    state: &Arc<State>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Pins {
    let store = match &config.ledger.engine {
        Engine::Embedded { folder } => {
            let snapshot = state.snapshot();
            if folder.is_none() && snapshot.servers().any(|one| one.server.tools().is_some()) {
                tracing::warn!("Pins of tools are kept in memory only: every restart trusts every server anew.");
            }
            AnyStore::Folder(FolderStore::new(folder.as_deref()))
        }
        Engine::Redis(_) => AnyStore::Ledger(Arc::clone(ledger)),
    };
    let board = Pinboard::new(store, Arc::clone(state), Arc::clone(clock), metrics.clone(), config.limits.pins());
    let board = Arc::new(board);
    if let Err(error) = board.refresh().await {
        tracing::warn!(
            error = chain(&error),
            "Pins cannot be read yet; calls of servers with `tools.trust` are denied."
        );
    }
    let (stop, stopped) = watch::channel(false);
    let run = Arc::clone(&board);
    Pins { board, stop, task: tokio::spawn(async move { run.run(stopped).await }) }
}

impl Pins {
    /// Ends the task.
    pub(super) async fn close(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err_and(|error| error.is_panic()) {
            tracing::error!("Reading pins panicked: a defect of mcp-authz, please report it.");
        }
    }
}
