//! The ledger in Redis: one script for each call, on the one master that has our slot.
//!
//! A topology is only a way to find that master. We own the connections, so that a master is looked at before it is used: it
//! must not evict, must keep its data, and must know what we knew. What a failover lost is restored from what each of our
//! replicas remembers of the last seconds, and strict limits deny until that is done. The tasks run on a thread of their own;
//! callers may come from any runtime.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use mcp_authz_core::ledger::{Code, Finish, Finished, Line, Reply, Standing};
use redis::{Cmd, Value};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout_at},
};

mod breaker;
mod connection;
mod failure;
mod journal;
mod keeper;
mod link;
mod pins;
mod probe;
mod records;
mod script;
mod server;
mod settings;
mod topology;

pub use connection::FileProblem;
pub use failure::Outage;
pub use server::Problem;
pub use settings::{Durability, Place, PlaceError, Settings, TlsFiles, Topology};

use breaker::Breaker;
use connection::{Connection, Opener, secret_text};
use failure::Failure;
use journal::{Entry, Journal};
use keeper::{
    Keeper, Unlinked,
    data::{evaluate, hex, unhex},
};
use link::{Lane, Link};
use script::{Form, Head, Malformed, Names, SCRIPTS, finished, millis, numbers, reply};

use super::{Booking, Keys, Ledger, LedgerError, random_bytes};
use crate::clock::Clock;

/// How long strict limits deny after a failover. Longer than the longest pause between two attempts to connect, so that
/// every replica has told what it remembers.
pub const FENCE: Duration = Duration::from_millis(1_500);
/// Connections for reservations that wait for replicas. One alone would answer one call at a time: Redis reads nothing more
/// from a client that waits.
const CONNECTIONS_WITH_WAIT: usize = 8;
/// Pause before a slot that is being moved is asked again.
const PASSING: Duration = Duration::from_millis(5);
/// Messages to the keeper that may wait. It acts on the first; the rest says the same.
const WAKES_MAX: usize = 64;
/// Counters of one look or reset.
const LINES_AT_ONCE: usize = 32;

/// What the engine tells whoever counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A question was answered after that long.
    Answered(Duration),
    /// The store is left alone for a while.
    BreakerOpened,
    /// The store is in use.
    Connected,
    /// Counts were lost with the store's data.
    CountsLost,
    /// The store is not in use.
    Disconnected,
    /// A question was not answered.
    Outage(Outage),
    /// So many calls that were let go without a hold can never be counted.
    Uncounted(u64),
    /// The store is there and must not be used as it is.
    Unsafe,
}

/// Told of events. Called on the way of a request: must not block.
pub type Observer = Arc<dyn Fn(Event) + Send + Sync>;

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not let us in.
    #[error("the quota store at `{place}` denies access: {why}")]
    Denied {
        /// Where.
        place: String,
        /// What it said.
        why: String,
    },
    /// A file cannot be used.
    #[error("the quota store: {0}")]
    File(#[from] FileProblem),
    /// The operating system gives no thread or no randomness.
    #[error("the quota store cannot be used")]
    System(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It would lose counts, or cannot run what we need.
    #[error("the quota store at `{place}` is unsafe: {}", list(problems))]
    Unsafe {
        /// Where.
        place: String,
        /// Each with what to change.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let hint = if problems.iter().all(Problem::may_pass) { "; or set `allow_unsafe: true`" } else { "" };
    format!("{}{hint}", texts.join("; "))
}

/// A message to the keeper. The numbers are those of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Lost(u64),
    Opened(u64),
    Unmetered,
}

/// What names of counters come from if the settings name a file.
struct SecretFile {
    /// Stands in the store in the place of the secret, so that replicas with another file are found out.
    mark: String,
}

/// What the engine and its keeper share.
struct Shared {
    settings: Settings,
    names: Arc<Names>,
    clock: Arc<dyn Clock>,
    observer: Observer,
    secret: Option<SecretFile>,
    keys: ArcSwap<Keys>,
    link: ArcSwapOption<Link>,
    /// Number of the last link that was published.
    published: watch::Sender<u64>,
    links: AtomicU64,
    /// How often data had to be restored. INVARIANT: grows before the journal is read for it, so that whoever was held by the
    /// old master either is in what was read, or sees that it grew.
    recoveries: AtomicU64,
    /// The store's clock minus ours, ms.
    offset_ms: AtomicI64,
    hold_ms: AtomicU64,
    /// How long strict limits deny at first, ms: whoever knew the store before us must have the time to say so.
    first_fence_ms: AtomicU64,
    journal: Mutex<Journal>,
    breaker: Mutex<Breaker>,
    wakes: mpsc::Sender<Wake>,
}

/// See the module.
pub struct RedisLedger {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl fmt::Debug for RedisLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLedger").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

impl RedisLedger {
    /// Starts the engine, and waits for its first attempt to use the store, which takes as long as the fence if the store is
    /// new. If the store cannot be reached the engine goes on
    /// trying; until then every reservation is refused at once.
    ///
    /// # Errors
    /// [`StartError`] if the store is there and must not be used, or does not let us in: the operator must act.
    pub async fn connect(settings: Settings, clock: Arc<dyn Clock>, observer: Observer) -> Result<Self, StartError> {
        let opener = Opener::new(&settings)?;
        let place = settings.topology.places().first().map(ToString::to_string).unwrap_or_default();
        let (secret, keys) = match &settings.secret_file {
            Some(path) => {
                let (mark, keys) = secret_file(path)?;
                (Some(SecretFile { mark }), keys)
            }
            // Names under these keys mean nothing to the store; it is not asked before they are the right ones.
            None => (None, Keys::derive(&random_bytes().map_err(|error| StartError::System(error.into()))?)),
        };
        let (wakes, woken) = mpsc::channel(WAKES_MAX);
        let shared = Arc::new(Shared {
            names: Arc::new(Names::of(&settings.domain)),
            journal: Mutex::new(Journal::new(settings.journal_max)),
            settings,
            clock,
            observer,
            secret,
            keys: ArcSwap::from_pointee(keys),
            link: ArcSwapOption::empty(),
            published: watch::Sender::new(0),
            links: AtomicU64::new(0),
            recoveries: AtomicU64::new(0),
            offset_ms: AtomicI64::new(0),
            hold_ms: AtomicU64::new(0),
            first_fence_ms: AtomicU64::new(0),
            breaker: Mutex::default(),
            wakes,
        });
        let (stop, stopped) = watch::channel(false);
        let (first, outcome) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        let keeper = Keeper::new(Arc::clone(&shared), opener, woken, stopped);
        let system = |error: std::io::Error| StartError::System(error.into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
        let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(move || {
            runtime.block_on(keeper.run(first));
            // Dropping the runtime ends the connections.
            drop(runtime);
            drop(end);
        });
        // The thread ends when it is told to stop, or with the engine.
        drop(thread.map_err(system)?);
        let ledger = Self { shared, stop, ended: Mutex::new(Some(ended)) };
        match outcome.await {
            Ok(Err(Unlinked::Unsafe(problems))) => Err(StartError::Unsafe { place, problems }),
            Ok(Err(Unlinked::OtherSecret)) => Err(StartError::Denied { place, why: Unlinked::OtherSecret.to_string() }),
            Ok(Err(Unlinked::Open(error @ (connection::OpenError::Denied(_) | connection::OpenError::File(_))))) => {
                Err(StartError::Denied { place, why: error.to_string() })
            }
            Ok(Err(Unlinked::Open(connection::OpenError::Tls(error)))) => {
                Err(StartError::Denied { place, why: format!("TLS failed: {error}") })
            }
            Ok(Ok(())) => {
                // Better a start that takes a moment than calls that are denied for no reason of theirs.
                sleep(Duration::from_millis(ledger.shared.first_fence_ms.load(Ordering::Relaxed))).await;
                Ok(ledger)
            }
            Ok(Err(_)) | Err(_) => Ok(ledger),
        }
    }

    /// Whether the store is in use now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.link.load().is_some()
    }

    /// Waits until the store is in use, or until then; whether it is.
    pub async fn connected(&self, until: Instant) -> bool {
        let mut published = self.shared.published.subscribe();
        while !self.is_connected() {
            if !matches!(timeout_at(until, published.changed()).await, Ok(Ok(()))) {
                return self.is_connected();
            }
        }
        true
    }

    /// An operator takes it that counts were lost: limits that deny for it start anew. Whether there was a loss.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub async fn accept_loss(&self) -> Result<bool, LedgerError> {
        let link = self.shared.link()?;
        let names = &self.shared.names;
        let keys = [names.plain("epoch"), names.plain("accepted")];
        let value =
            evaluate(&link.control, &SCRIPTS.accept, &keys, &[]).await.map_err(|failure| failure.into_error(false))?;
        numbers(&value).map(|(code, ..)| code == 1).map_err(|_| Failure::Malformed.into_error(false))
    }

    /// Ends the connections; waits until then for it.
    pub async fn close(&self, until: Instant) {
        self.stop.send_replace(true);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            // The sender is dropped at the end of the thread.
            drop(timeout_at(until, ended).await);
        }
    }
}

impl Drop for RedisLedger {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn secret_file(path: &Path) -> Result<(String, Keys), FileProblem> {
    let text = secret_text(path)?;
    let bytes = unhex(&text).ok_or_else(|| FileProblem::of(path, "is not 64 hexadecimal digits"))?;
    let keys = Keys::derive(&bytes);
    Ok((format!("file-{}", hex(&keys.sign(b"mark of the secret"))), keys))
}

impl Shared {
    fn link(&self) -> Result<Arc<Link>, LedgerError> {
        self.link.load_full().ok_or_else(|| {
            (self.observer)(Event::Outage(Outage::Connection));
            Failure::Disconnected.into_error(false)
        })
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        // Entries are put in and taken out whole.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_link(&self) -> u64 {
        self.links.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    fn publish(&self, link: &Arc<Link>) {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner).reset();
        self.link.store(Some(Arc::clone(link)));
        self.published.send_replace(link.number);
    }

    fn is_in_use(&self, link: &Link) -> bool {
        self.link.load().as_ref().is_some_and(|current| current.number == link.number)
    }

    /// Nobody asks over this link any more.
    fn drop_link(&self, link: &Arc<Link>) {
        let current = self.link.load();
        if current.as_ref().is_some_and(|current| current.number == link.number) {
            self.link.compare_and_swap(&*current, None);
        }
    }

    /// Gives the link up, and has the keeper look for another.
    fn lose(&self, link: &Arc<Link>, wake: Wake) {
        self.drop_link(link);
        // A keeper that has so much to do already finds out at its next look.
        self.wakes.try_send(wake).unwrap_or_default();
    }

    fn learn_time(&self, store_ms: u64) {
        let ours_ms = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let store_ms = i64::try_from(store_ms).unwrap_or(i64::MAX);
        self.offset_ms.store(store_ms.saturating_sub(ours_ms), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.clock.now_ms().saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    /// Takes down how a question over that link ended.
    fn record(&self, link: &Arc<Link>, failure: Option<&Failure>) {
        if let Some(failure) = failure {
            (self.observer)(Event::Outage(failure.outage()));
        }
        // What became of an older one says nothing about this one.
        if !self.is_in_use(link) {
            return;
        }
        let opens =
            self.breaker.lock().unwrap_or_else(PoisonError::into_inner).record(failure.is_some(), Instant::now());
        if opens {
            (self.observer)(Event::BreakerOpened);
            self.lose(link, Wake::Opened(link.number));
        }
    }

    /// Asks over one connection, and once more over another if the answer was lost: the same question, so that it is applied
    /// once.
    async fn ask<T>(
        &self,
        lane: Lane,
        question: impl Fn(&Head<'_>, Form) -> Cmd,
        read: impl Fn(&Value) -> Result<T, Malformed>,
        deadline: Option<Instant>,
    ) -> Result<(T, Arc<Link>), LedgerError> {
        let started = Instant::now();
        let each = self.settings.timeout.saturating_add(self.waits(lane).map_or(Duration::ZERO, |(_, ms)| ms));
        let end = later(started, each.saturating_mul(2));
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        let mut link = self.link()?;
        let (mut first, mut maybe) = (true, false);
        loop {
            let connection = if first { link.connection(lane) } else { &link.spare };
            let until = later(Instant::now(), each).min(end);
            let answer = self.once(connection, &link, lane, &question, until).await;
            let failure = match answer.and_then(|value| read(&value).map_err(|Malformed| Failure::Malformed)) {
                Ok(answer) => {
                    self.record(&link, None);
                    (self.observer)(Event::Answered(started.elapsed()));
                    return Ok((answer, link));
                }
                Err(failure) => failure,
            };
            maybe |= failure.may_be_applied();
            let again = if failure.may_be_applied() {
                std::mem::take(&mut first) && !matches!(failure, Failure::NotDurable { .. })
            } else {
                failure.is_redirect() || failure.is_passing()
            };
            if failure.is_redirect() {
                self.lose(&link, Wake::Lost(link.number));
            }
            if !again || Instant::now() >= end {
                self.record(&link, Some(&failure));
                return Err(failure.into_error(maybe));
            }
            if failure.is_redirect() {
                link = self.next(link.number, end).await.map_err(|failure| failure.into_error(maybe))?;
            } else if failure.is_passing() {
                sleep_until(later(Instant::now(), PASSING).min(end)).await;
            } else {
                self.record(&link, Some(&failure));
                // The keeper may have a new link by now; or none at all.
                link = self.link.load_full().ok_or_else(|| Failure::Disconnected.into_error(maybe))?;
            }
        }
    }

    /// The next link after that one.
    async fn next(&self, number: u64, until: Instant) -> Result<Arc<Link>, Failure> {
        let mut published = self.published.subscribe();
        loop {
            if let Some(link) = self.link.load_full().filter(|link| link.number > number) {
                return Ok(link);
            }
            if !matches!(timeout_at(until, published.changed()).await, Ok(Ok(()))) {
                (self.observer)(Event::Outage(Outage::Moved));
                return Err(Failure::Disconnected);
            }
        }
    }

    /// How many replicas have to confirm, and how long they may take.
    fn waits(&self, lane: Lane) -> Option<(u8, Duration)> {
        match (lane, self.settings.durability) {
            (Lane::Reserve, Durability::Wait(replicas)) => Some((replicas, self.settings.wait_timeout)),
            (Lane::Reserve | Lane::Control, _) => None,
        }
    }

    async fn once(
        &self,
        connection: &Connection,
        link: &Link,
        lane: Lane,
        question: &impl Fn(&Head<'_>, Form) -> Cmd,
        until: Instant,
    ) -> Result<Value, Failure> {
        let head = link.head();
        let mut form = Form::Sha;
        loop {
            let command = question(&head, form);
            let answer = match self.waits(lane) {
                None => connection.ask(&command, until).await,
                Some(waits) => self.ask_and_wait(connection, command, waits, until).await,
            };
            match (answer, form) {
                // Not SCRIPT LOAD: the cache may be emptied again before the script is named.
                (Err(Failure::NoScript), Form::Sha) => form = Form::Text,
                (answer, _) => return answer,
            }
        }
    }

    /// Asks, and lets replicas confirm what was written.
    async fn ask_and_wait(
        &self,
        connection: &Connection,
        command: Cmd,
        (wanted, wait): (u8, Duration),
        until: Instant,
    ) -> Result<Value, Failure> {
        let mut pipeline = redis::pipe();
        pipeline.add_command(command);
        // WAIT is about what this connection wrote; a hold that was made over another one is before this.
        pipeline.cmd("SET").arg(self.names.plain("wait")).arg(1).arg("PX").arg(60_000);
        pipeline.cmd("WAIT").arg(wanted).arg(millis(wait).max(1));
        let answers = connection.ask_all(&pipeline, until).await?;
        let [answer, wrote, waited] = <[_; 3]>::try_from(answers).map_err(|_| Failure::Malformed)?;
        let value = answer?;
        if !matches!(numbers(&value), Ok((1 | 2, ..))) {
            return Ok(value);
        }
        match (wrote, waited) {
            (Ok(_), Ok(Value::Int(confirmed))) if confirmed >= i64::from(wanted) => Ok(value),
            (_, Ok(Value::Int(confirmed))) => Err(Failure::NotDurable { confirmed, wanted }),
            _ => Err(Failure::NotDurable { confirmed: 0, wanted }),
        }
    }

    /// Takes down a hold that the caller will let go; an error if it was made by a master that has been given up since.
    fn admit(&self, booking: &Booking, hold: Duration, now_ms: u64, link: &Link) -> Result<(), LedgerError> {
        let entry = Entry {
            booking: Arc::new(booking.clone()),
            keys: self.keys.load_full(),
            hold,
            since_ms: now_ms,
            settled: None,
        };
        self.journal().held(entry);
        if self.recoveries.load(Ordering::SeqCst) == link.recoveries {
            return Ok(());
        }
        // The new master may have been told everything before this was taken down.
        (self.observer)(Event::Outage(Outage::Moved));
        Err(LedgerError::Unknown("the quota store failed over during the call".into()))
    }
}

fn later(now: Instant, by: Duration) -> Instant {
    now.checked_add(by).unwrap_or(now)
}

impl Ledger for RedisLedger {
    fn keys(&self) -> Arc<Keys> {
        self.shared.keys.load_full()
    }

    fn now_ms(&self) -> u64 {
        self.shared.now_ms()
    }

    async fn reserve(&self, booking: &Booking, hold: Duration, deadline: Instant) -> Result<Reply, LedgerError> {
        let shared = &self.shared;
        shared.hold_ms.store(millis(hold), Ordering::Relaxed);
        let lines = booking.lines.len();
        let (reply, link) = shared
            .ask(
                Lane::Reserve,
                |head, form| head.reserve(form, booking, hold),
                |value| reply(value, lines),
                Some(deadline),
            )
            .await?;
        shared.learn_time(reply.now_ms);
        match reply.code {
            Code::Held | Code::HeldBefore => shared.admit(booking, hold, reply.now_ms, &link)?,
            Code::EpochChanged | Code::NodeChanged => shared.lose(&link, Wake::Lost(link.number)),
            Code::Conflict
            | Code::Fenced { .. }
            | Code::Limited { .. }
            | Code::Lost { .. }
            | Code::NeverFits { .. }
            | Code::RolledBack
            | Code::Settled
            | Code::StaleWindows { .. } => {}
        }
        Ok(reply)
    }

    async fn finish(&self, booking: &Booking, how: &Finish) -> Result<Finished, LedgerError> {
        let shared = &self.shared;
        let ((finished, _), link) =
            shared.ask(Lane::Control, |head, form| head.finish(form, booking, how), finished, None).await?;
        match (&finished, how) {
            (Finished::EpochChanged | Finished::NodeChanged, _) => shared.lose(&link, Wake::Lost(link.number)),
            (Finished::Now { .. } | Finished::Before { same: true } | Finished::Unknown, Finish::RollBack(_)) => {
                shared.journal().rolled_back(&booking.id);
            }
            (Finished::Now { .. } | Finished::Before { same: true }, Finish::Settle(actual)) => {
                shared.journal().settled(&booking.id, actual);
            }
            (Finished::Before { .. } | Finished::Conflict | Finished::Shared | Finished::Unknown, _) => {}
        }
        Ok(finished)
    }

    async fn renew(&self, booking: &Booking, hold: Duration) -> Result<bool, LedgerError> {
        let shared = &self.shared;
        let read = |value: &Value| numbers(value).map(|(code, ..)| code);
        let (code, link) = shared.ask(Lane::Control, |head, form| head.renew(form, booking, hold), read, None).await?;
        if matches!(code, -5 | -7) {
            shared.lose(&link, Wake::Lost(link.number));
        }
        Ok(code == 1)
    }

    async fn peek(&self, lines: &[Line]) -> Result<Vec<Standing>, LedgerError> {
        let shared = &self.shared;
        let mut standings = Vec::with_capacity(lines.len());
        for lines in lines.chunks(LINES_AT_ONCE) {
            let read = |value: &Value| reply(value, lines.len());
            let (reply, link) = shared.ask(Lane::Control, |head, form| head.peek(form, lines), read, None).await?;
            shared.learn_time(reply.now_ms);
            if matches!(reply.code, Code::EpochChanged | Code::NodeChanged) {
                shared.lose(&link, Wake::Lost(link.number));
            }
            if reply.standings.len() != lines.len() {
                return Err(LedgerError::Refused("the quota store changed under the question".into()));
            }
            standings.extend(reply.standings);
        }
        Ok(standings)
    }

    async fn reset(&self, lines: &[Line]) -> Result<(), LedgerError> {
        let shared = &self.shared;
        for lines in lines.chunks(LINES_AT_ONCE) {
            let read = |value: &Value| numbers(value).map(|(code, ..)| code);
            let (code, link) = shared.ask(Lane::Control, |head, form| head.reset(form, lines), read, None).await?;
            if code != 1 {
                shared.lose(&link, Wake::Lost(link.number));
                return Err(LedgerError::Refused("the quota store changed under the question".into()));
            }
        }
        Ok(())
    }

    async fn accept_loss(&self) -> Result<bool, LedgerError> {
        RedisLedger::accept_loss(self).await
    }

    fn admitted_unmetered(&self, booking: &Arc<Booking>) {
        let shared = &self.shared;
        let entry = Entry {
            booking: Arc::clone(booking),
            keys: shared.keys.load_full(),
            hold: Duration::from_millis(shared.hold_ms.load(Ordering::Relaxed)),
            since_ms: shared.now_ms(),
            settled: None,
        };
        if shared.journal().unmetered(entry) {
            shared.wakes.try_send(Wake::Unmetered).unwrap_or_default();
        } else {
            (shared.observer)(Event::Uncounted(1));
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "times and counts of tests are small")]
mod tests;
