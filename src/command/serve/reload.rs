//! What makes a running process read its files again, and how often the log says that it did not take them.

use std::sync::Arc;

use mcp_authz_core::document::Defect;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{Duration, Instant, MissedTickBehavior, interval},
};

use crate::{
    clock::Clock,
    config::Config,
    kubernetes::{Cluster, Events},
    state::State,
    telemetry::metrics::Metrics,
    watch::Watch,
};

/// Between two looks whether what was replaced can be freed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Defects that the log has room for, of however many reloads, in [`LINES_PER`]. `/config` has all.
const LINES_MAX: usize = 100;
const LINES_PER: Duration = Duration::from_secs(10);

/// Why files are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// SIGHUP.
    Hangup,
    /// A mount was replaced.
    Mount,
}

/// Waits for the next reason to read files again.
pub(super) struct Causes {
    hangup: Option<Signal>,
    watch: Option<Watch>,
    sweeping: JoinHandle<()>,
}

impl Drop for Causes {
    fn drop(&mut self) {
        self.sweeping.abort();
    }
}

impl Causes {
    pub(super) fn new(watch: Option<Watch>, state: Arc<State>) -> Self {
        let hangup = signal(SignalKind::hangup()).ok();
        if hangup.is_none() {
            tracing::error!("SIGHUP cannot be received; a change of files that are no mounts needs a restart.");
        }
        Self { hangup, watch, sweeping: tokio::spawn(sweep(state)) }
    }

    /// The next reason; `None` if there will never be one.
    pub(super) async fn next(&mut self) -> Option<Cause> {
        match (&mut self.hangup, &mut self.watch) {
            (None, None) => None,
            (Some(hangup), None) => hangup.recv().await.map(|()| Cause::Hangup),
            (None, Some(watch)) => Some(mounted(watch).await),
            (Some(hangup), Some(watch)) => tokio::select! {
                Some(()) = hangup.recv() => Some(Cause::Hangup),
                cause = mounted(watch) => Some(cause),
            },
        }
    }
}

async fn mounted(watch: &mut Watch) -> Cause {
    let folders = watch.changed().await;
    tracing::info!(folders = folders.join(", "), "Mounted files were replaced; reading them.");
    Cause::Mount
}

/// Frees replaced snapshots once nobody uses them, away from the threads that serve.
async fn sweep(state: Arc<State>) {
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let state = Arc::clone(&state);
        // It ends only with the runtime, or by a panic of a destructor, which the hook has told.
        drop(tokio::task::spawn_blocking(move || state.sweep()).await);
    }
}

/// Who tells Kubernetes about reloads, if the settings want it and the environment says how. Its task ends with the runtime.
pub(super) fn events(config: &Config, clock: &Arc<dyn Clock>, metrics: &Metrics) -> Option<Events> {
    if !config.kubernetes.events {
        return None;
    }
    match Cluster::read(&config.kubernetes.account, |name| std::env::var(name).ok()) {
        Ok(cluster) => {
            let (events, sending) = Events::new(cluster, Arc::clone(clock), metrics.clone());
            tokio::spawn(sending);
            Some(events)
        }
        Err(missing) => {
            tracing::warn!(
                missing,
                "No events for Kubernetes: the environment does not say who we are; see deploy/POLICY_DELIVERY.md."
            );
            None
        }
    }
}

/// Keeps refused reloads from flooding the log.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    last: Vec<Defect>,
    /// Warnings of the last reload.
    warnings: Vec<Defect>,
    /// When the lines began to be counted, and how many there were.
    lines: Option<(Instant, usize)>,
}

impl Refusals {
    /// Logs what was found, unless it is what was found the last time, as far as the log has room.
    pub(super) fn log(&mut self, defects: &[Defect]) {
        let room = if self.last == defects { 0 } else { self.room(defects.len(), Instant::now()) };
        for defect in defects.iter().take(room) {
            tracing::error!(at = %defect, "The new configuration has a defect.");
        }
        self.last = defects.to_vec();
        let not_shown = defects.len().saturating_sub(room);
        tracing::error!(
            defects = defects.len(),
            not_shown,
            "Configuration not reloaded: the last good one goes on serving. The admin page /config has every defect."
        );
    }

    /// Logs what is legal and probably not meant, unless it was found the last time as well.
    pub(super) fn warn(&mut self, warnings: &[Defect]) {
        let room = if self.warnings == warnings { 0 } else { self.room(warnings.len(), Instant::now()) };
        super::warn_of(warnings.get(..room).unwrap_or(warnings));
        self.warnings = warnings.to_vec();
    }

    /// Whether the last reload was refused.
    pub(super) fn are_open(&self) -> bool {
        !self.last.is_empty()
    }

    /// Whatever was found is mended; if it comes back it is worth a line again.
    pub(super) fn mended(&mut self) {
        self.last.clear();
    }

    /// How many of so many lines there is room for.
    fn room(&mut self, wanted: usize, now: Instant) -> usize {
        let (since, used) = match self.lines {
            Some((since, used)) if now.saturating_duration_since(since) < LINES_PER => (since, used),
            _ => (now, 0),
        };
        let room = LINES_MAX.saturating_sub(used).min(wanted);
        self.lines = Some((since, used.saturating_add(room)));
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_room_for_so_many_defects_in_so_much_time() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let mut room = |wanted, seconds| refusals.room(wanted, start + Duration::from_secs(seconds));
        assert_eq!([room(60, 0), room(60, 1), room(60, 9)], [60, 40, 0]);
        assert_eq!([room(LINES_MAX, 10), room(1, 10)], [LINES_MAX, 0]);
    }
}
