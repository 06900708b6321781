//! The task that owns the connections: finds the master, looks at it before it is used, restores what a failover lost, and
//! gives the connections up when they are no longer to be trusted.

pub(super) mod data;

use std::{
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use redis::Cmd;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, sleep},
};

use data::{Status, evaluate, random};

use super::{
    CONNECTIONS_WITH_WAIT, Event, Shared, Wake,
    breaker::OPEN,
    connection::{Connection, OpenError, Opener},
    failure::Failure,
    link::Link,
    probe,
    script::{Head, SCRIPTS, numbers},
    server::{Facts, Problem, text, until},
    settings::Durability,
    topology,
};
use crate::telemetry::log::chain;

/// First pause between two attempts to connect; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause. Shorter than the fence, so that no replica is late with what it remembers.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often the server is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unlinked {
    /// A question on the way failed.
    #[error("the quota store failed")]
    Failed(#[source] Failure),
    /// It names its counters with another secret than ours.
    #[error(
        "the quota store names its counters with another secret: `secret_file` differs from that of other replicas"
    )]
    OtherSecret,
    /// It does not open.
    #[error("the quota store does not open")]
    Open(#[from] OpenError),
    /// It is still reading its data, or is about to become master.
    #[error("the quota store is not ready")]
    NotReady,
    /// It must not be used as it is.
    #[error("the quota store is unsafe: {}", join(.0))]
    Unsafe(Vec<Problem>),
}

impl From<Failure> for Unlinked {
    fn from(failure: Failure) -> Self {
        match failure.denial() {
            Some("NOPERM") => Unlinked::Unsafe(vec![Problem::Restricted { code: "NOPERM".to_owned() }]),
            Some(code) => Unlinked::Open(OpenError::Denied(code.to_owned())),
            None => Unlinked::Failed(failure),
        }
    }
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What we know of the data that we used last.
#[derive(Debug, Default)]
struct Known {
    epoch: String,
    secret: String,
    run_id: String,
    node: String,
    /// The last heartbeat that was written, in the store's time.
    beat_ms: u64,
}

/// See the module.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    opener: Opener,
    known: Known,
    wakes: mpsc::Receiver<Wake>,
    stop: watch::Receiver<bool>,
    /// Whether the store has still to be told what we remember.
    owes: bool,
    /// What stood in the way last time: said once, not at every attempt.
    said: String,
}

/// What ended a link.
enum End {
    Stopped,
    /// Look for the master at once.
    Lost,
    /// Leave it alone for a while.
    Opened,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        opener: Opener,
        wakes: mpsc::Receiver<Wake>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self { shared, opener, known: Known::default(), wakes, stop, owes: false, said: String::new() }
    }

    /// Runs until it is stopped. `first` is told how the first attempt went.
    pub(super) async fn run(mut self, first: oneshot::Sender<Result<(), Unlinked>>) {
        let mut first = Some(first);
        let mut pause = PAUSE_MIN;
        loop {
            let mut stop = self.stop.clone();
            let linked = tokio::select! {
                // An error means that the engine is gone.
                _ = stop.wait_for(|stop| *stop) => return,
                linked = self.link() => linked,
            };
            let rest = match linked {
                Ok(link) => {
                    if let Some(first) = first.take() {
                        // Whoever asked may have gone away; then `stop` says so.
                        first.send(Ok(())).unwrap_or_default();
                    }
                    let since = Instant::now();
                    let end = self.keep(&link).await;
                    self.shared.drop_link(&link);
                    (self.shared.observer)(Event::Disconnected);
                    let stable = since.elapsed() >= PAUSE_MAX;
                    if stable {
                        pause = PAUSE_MIN;
                    }
                    match end {
                        End::Stopped => return,
                        // A call may be waiting for the new master.
                        End::Lost if stable => Duration::ZERO,
                        End::Lost => pause,
                        End::Opened => OPEN.saturating_add(jitter(part(OPEN, 4))),
                    }
                }
                Err(error) => {
                    self.say(&error);
                    if let Some(first) = first.take() {
                        first.send(Err(error)).unwrap_or_default();
                    }
                    pause
                }
            };
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = sleep(part(rest, 2).saturating_add(jitter(part(rest, 2)))) => {}
            }
        }
    }

    fn say(&mut self, error: &Unlinked) {
        let text = chain(error);
        if self.said != text {
            if matches!(error, Unlinked::Unsafe(_) | Unlinked::OtherSecret) {
                tracing::error!(error = text, "The quota store is not used; strict limits deny.");
            } else {
                tracing::warn!(error = text, "The quota store cannot be used; strict limits deny until it can.");
            }
            self.said = text;
        }
        if matches!(error, Unlinked::Unsafe(_)) {
            (self.shared.observer)(Event::Unsafe);
        }
    }

    /// Finds the master, looks at it, restores what it may have lost, and only then lets calls use it.
    async fn link(&mut self) -> Result<Arc<Link>, Unlinked> {
        let settings = &self.shared.settings;
        let master = settings.topology.master(&self.opener, &settings.domain).await?;
        let control = self.opener.open(&master.place).await?;
        let facts = Facts::ask(&control).await?;
        self.look(&facts)?;
        let node = match master.node {
            None => String::new(),
            Some(_) => {
                let mut command = Cmd::new();
                command.arg("CLUSTER").arg("MYID");
                text(&control.ask(&command, until()).await?).ok_or(Failure::Malformed)?.to_owned()
            }
        };
        let first = self.known.run_id.is_empty();
        let other = !first && (facts.run_id != self.known.run_id || node != self.known.node);
        let moved = other
            && !node.is_empty()
            && node != self.known.node
            && topology::is_healthy_master(&control, &self.known.node).await;
        if other {
            // Before anything else: a call that the old master answers from now on is not let go.
            self.shared.recoveries.fetch_add(1, Ordering::SeqCst);
        }
        let opened = self.open(&control, other && !moved).await?;
        let head = Head { names: &self.shared.names, epoch: &opened.epoch, node: &node };
        probe::run(&control, &head, opened.now_ms).await?;
        self.owes |= other || opened.status != Status::AsKnown;
        if self.owes {
            self.replay(&control, &opened.epoch, other && !moved).await?;
            self.owes = false;
        }
        let (spare, reserves) = self.others(&master.place, &facts.run_id).await?;
        self.known.run_id.clone_from(&facts.run_id);
        self.known.node.clone_from(&node);
        self.known.epoch.clone_from(&opened.epoch);
        let link = Arc::new(Link {
            number: self.shared.next_link(),
            recoveries: self.shared.recoveries.load(Ordering::SeqCst),
            names: Arc::clone(&self.shared.names),
            epoch: opened.epoch,
            node,
            run_id: facts.run_id,
            control,
            spare,
            reserves,
            turn: AtomicUsize::new(0),
        });
        self.beat(&link).await?;
        self.said.clear();
        self.shared.publish(&link);
        (self.shared.observer)(Event::Connected);
        tracing::info!(recovered = other, "The quota store is in use.");
        Ok(link)
    }

    fn look(&self, facts: &Facts) -> Result<(), Unlinked> {
        if facts.is_loading() {
            return Err(Unlinked::NotReady);
        }
        let allowed = self.shared.settings.allow_unsafe;
        let (passing, problems): (Vec<_>, Vec<_>) =
            facts.problems().into_iter().partition(|problem| allowed && problem.may_pass());
        if self.known.run_id != facts.run_id {
            for problem in passing {
                tracing::warn!(%problem, "The quota store is unsafe, and used all the same: `allow_unsafe` is set.");
            }
        }
        // Sentinels and nodes name a master that may be one only in a moment.
        let elected = !matches!(self.shared.settings.topology, super::Topology::Standalone(_));
        match problems.as_slice() {
            [] => Ok(()),
            [Problem::Replica] if elected => Err(Unlinked::NotReady),
            _ => Err(Unlinked::Unsafe(problems)),
        }
    }

    /// Connections of their own for reservations and for second tries, each of them seen to lead to the same server.
    async fn others(&self, place: &super::Place, run_id: &str) -> Result<(Connection, Vec<Connection>), Unlinked> {
        let count = match self.shared.settings.durability {
            Durability::Async => 1,
            Durability::Wait(_) => CONNECTIONS_WITH_WAIT,
        };
        let mut all = Vec::with_capacity(count);
        for _ in 0..=count {
            let connection = self.opener.open(place).await?;
            if Facts::run_id(&connection).await? != run_id {
                return Err(Unlinked::NotReady);
            }
            all.push(connection);
        }
        let spare = all.pop().ok_or(Failure::Disconnected)?;
        Ok((spare, all))
    }

    /// Keeps looking at the server until the link is no good any more.
    async fn keep(&mut self, link: &Arc<Link>) -> End {
        let mut stop = self.stop.clone();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.count_unmetered(link).await;
        loop {
            if !self.shared.is_in_use(link) {
                return End::Lost;
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return End::Stopped,
                () = link.broken() => {
                    tracing::warn!("A connection to the quota store broke.");
                    return End::Lost;
                }
                wake = self.wakes.recv() => match wake {
                    None => return End::Stopped,
                    Some(Wake::Unmetered) => self.count_unmetered(link).await,
                    // Said of an older link.
                    Some(Wake::Lost(number) | Wake::Opened(number)) if number != link.number => {}
                    Some(Wake::Lost(_)) => return End::Lost,
                    Some(Wake::Opened(_)) => {
                        tracing::warn!("The quota store does not answer; it is left alone for a second.");
                        return End::Opened;
                    }
                },
                _ = looks.tick() => if let Err(error) = self.look_again(link).await {
                    self.say(&error);
                    return End::Lost;
                },
            }
        }
    }

    async fn look_again(&mut self, link: &Arc<Link>) -> Result<(), Unlinked> {
        let facts = Facts::ask(&link.control).await?;
        self.look(&facts)?;
        if facts.run_id != link.run_id {
            return Err(Unlinked::NotReady);
        }
        let settings = &self.shared.settings;
        if matches!(settings.topology, super::Topology::Sentinel { .. })
            && let Ok(master) = settings.topology.master(&self.opener, &settings.domain).await
        {
            // A master that is cut off from its sentinels goes on as if nothing had happened.
            let there = self.opener.open(&master.place).await?;
            if Facts::run_id(&there).await? != link.run_id {
                return Err(Unlinked::NotReady);
            }
        }
        self.beat(link).await?;
        Ok(())
    }

    /// Writes down how far the data goes. A store that cannot be written to says so to calls; it is not for us to judge.
    async fn beat(&mut self, link: &Arc<Link>) -> Result<(), Unlinked> {
        let names = &self.shared.names;
        let keys = [names.plain("beat"), names.plain("epoch")];
        match evaluate(&link.control, &SCRIPTS.beat, &keys, &[]).await {
            Ok(value) => {
                let (_, beat_ms, rest) = numbers(&value).map_err(|_| Failure::Malformed)?;
                let epoch = rest.first().and_then(text).and_then(|line| line.split(' ').next());
                if epoch != Some(&link.epoch) {
                    return Err(Unlinked::NotReady);
                }
                self.known.beat_ms = beat_ms;
                Ok(())
            }
            Err(Failure::Refused(_)) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }
}

fn part(of: Duration, parts: u32) -> Duration {
    of.checked_div(parts).unwrap_or(of)
}

fn jitter(most: Duration) -> Duration {
    let [byte] = random::<1>().unwrap_or([128]);
    most.saturating_mul(u32::from(byte)).checked_div(255).unwrap_or(most)
}
