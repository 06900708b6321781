//! Ends reservations that were dropped: a canceled Check, a lost answer. Nobody waits for it, and it tries until the hold has
//! run out.

use std::{sync::Arc, time::Duration};

use mcp_authz_core::ledger::{Finish, Finished};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout_at},
};

use super::{Ledger, LedgerError, OnLeak, Ticket};

/// Reservations that are being ended at the same time.
const AT_ONCE: usize = 64;
/// First pause between two attempts; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What became of a leak.
#[derive(Debug)]
pub enum Leak {
    /// Ended.
    Ended(Finished),
    /// Given up: the units stay spent until the window is over.
    GivenUp(LedgerError),
    /// Never tried: more of them wait than may.
    TooMany,
}

/// Told what became of each leak. Must not block.
pub type OnSettled = Arc<dyn Fn(&Ticket, Leak) + Send + Sync>;

/// Owns the task that ends reservations.
#[derive(Debug)]
#[must_use = "whoever starts it must close it"]
pub struct LeakSettler {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl LeakSettler {
    /// Starts the task on the current runtime, and gives the callback for leaks. At most `max` wait; each is tried for as long
    /// as `hold`.
    pub fn start<L: Ledger>(ledger: Arc<L>, max: usize, hold: Duration, report: OnSettled) -> (OnLeak, Self) {
        let (queue, leaks) = mpsc::channel(max.max(1));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(ledger, leaks, hold, Arc::clone(&report), stopped));
        let on_leak: OnLeak = Arc::new(move |ticket, how| {
            if let Err(mpsc::error::TrySendError::Full((ticket, _)) | mpsc::error::TrySendError::Closed((ticket, _))) =
                queue.try_send((ticket, how))
            {
                report(&ticket, Leak::TooMany);
            }
        });
        (on_leak, Self { stop, task })
    }

    /// Takes nothing more, and waits until then for what is left; whether all of it was ended.
    pub async fn close(mut self, until: Instant) -> bool {
        self.stop.send_replace(true);
        let in_time = timeout_at(until, &mut self.task).await.is_ok();
        // What is still tried is given up: its hold runs out, and the units stay spent.
        self.task.abort();
        in_time
    }
}

async fn run<L: Ledger>(
    ledger: Arc<L>,
    mut leaks: mpsc::Receiver<(Ticket, Finish)>,
    hold: Duration,
    report: OnSettled,
    mut stop: watch::Receiver<bool>,
) {
    let mut running = JoinSet::new();
    let mut stopping = false;
    loop {
        tokio::select! {
            Some(_) = running.join_next() => {}
            // An error means that the owner is gone.
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                leaks.close();
            }
            leak = leaks.recv(), if running.len() < AT_ONCE => match leak {
                Some((ticket, how)) => {
                    running.spawn(end(Arc::clone(&ledger), ticket, how, hold, Arc::clone(&report)));
                }
                None => break,
            },
        }
    }
    while running.join_next().await.is_some() {}
}

async fn end<L: Ledger>(ledger: Arc<L>, ticket: Ticket, how: Finish, hold: Duration, report: OnSettled) {
    let started = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let last = match ledger.finish(&ticket.booking, &how).await {
            Ok(Finished::NodeChanged) => LedgerError::Refused("another node of the cluster answers".into()),
            Ok(finished) => return report(&ticket, Leak::Ended(finished)),
            Err(error) => error,
        };
        if started.elapsed() >= hold {
            return report(&ticket, Leak::GivenUp(last));
        }
        sleep(pause).await;
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests;
