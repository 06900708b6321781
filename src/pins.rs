//! Pinned definitions of tools, as this process knows them: read from a store, kept in memory, written where they change.
//!
//! A list is judged by what the store says at that moment; a call by what was read last, because no call may wait for it.
//! What cannot be read for [`STALE_MAX`], or is not what was written, is not believed: lists are withheld and calls denied.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use mcp_authz_core::{
    pins::{Book, Bounds, Corrupt, Digest, Known, Pins, Refusal, Rules, Sighting, View},
    server::Server,
};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout_at},
};

use crate::{
    clock::Clock,
    state::State,
    telemetry::metrics::{ErrorKind, Metrics, PinEvent},
};

#[cfg(test)]
pub(crate) mod contract;

pub mod desk;
mod folder;
pub mod store;
#[cfg(test)]
mod tests;

pub use folder::FolderStore;
use store::{AnyStore, Found, Store, StoreError, Version};

/// Time for one question of the response phase, all attempts together.
pub const WITHIN: Duration = Duration::from_millis(500);
/// How often what calls are judged by is read again.
pub const REFRESH: Duration = Duration::from_secs(1);
/// How old that may be: longer than a failover of the store takes, shorter than anybody needs to abuse an old approval.
pub const STALE_MAX: Duration = Duration::from_secs(30);
/// Time for what a person asked.
const ACT_WITHIN: Duration = Duration::from_secs(5);
/// Time for reading the pins of every server.
const REFRESH_WITHIN: Duration = Duration::from_secs(5);
/// Attempts to write where other processes write too.
const ATTEMPTS: usize = 8;

/// Why pins cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// Somebody else was faster, again and again.
    #[error("the pins of `{0}` are being changed by others: try again")]
    Busy(Arc<str>),
    /// What is kept is not what was written.
    #[error(
        "the pins of `{server}` are damaged ({what}), so nothing of the server is shown or called: look at its tools, then run \
         `mcp-authz pins reset --server {server}`, or restore the store from a copy"
    )]
    Corrupt {
        /// Which server.
        server: Arc<str>,
        /// What is wrong with them.
        what: Corrupt,
    },
    /// No such server, or its tools are trusted as they come.
    #[error("there is no server `{0}` with `tools.trust` in the servers file")]
    Off(Arc<str>),
    /// It cannot be done.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The store cannot be asked.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The store did not answer in time.
    #[error("the store of pins did not answer in time")]
    Timeout,
}

/// What is approved.
#[derive(Clone, Copy, Debug)]
pub enum Approval<'a> {
    /// Everything that waits, named by [`Pins::pending_digest`].
    All(Digest),
    /// One tool, named by the digest of its definition.
    Tool(&'a str, Digest),
}

impl Approval<'_> {
    /// Approves it; how many tools that were.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed.
    pub fn apply(&self, pins: &mut Pins, bounds: &Bounds) -> Result<usize, Refusal> {
        match self {
            Approval::All(digest) => pins.approve_all(*digest, bounds),
            Approval::Tool(tool, digest) => pins.approve(tool, *digest, bounds).map(|()| 1),
        }
    }
}

/// What is known of one server.
#[derive(Clone, Debug)]
struct Cell {
    version: Version,
    content: Result<Arc<Pins>, Corrupt>,
}

/// The pins of every server.
pub struct Pinboard<S = AnyStore> {
    store: S,
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    bounds: Bounds,
    cells: ArcSwap<BTreeMap<Arc<str>, Arc<Cell>>>,
    /// Held while pins are changed, so that this process does not compete with itself.
    writing: Mutex<()>,
    /// Versions of which every schema has been compiled.
    compiled: Mutex<BTreeMap<Arc<str>, Version>>,
    started: Instant,
    /// When everything was read last, ms after the start; 0 for never.
    read_ms: AtomicU64,
}

impl<S> fmt::Debug for Pinboard<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinboard").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl<S: Store> Pinboard<S> {
    /// Nothing is read yet.
    pub fn new(store: S, state: Arc<State>, clock: Arc<dyn Clock>, metrics: Metrics, bounds: Bounds) -> Self {
        Self {
            store,
            state,
            clock,
            metrics,
            bounds,
            cells: ArcSwap::default(),
            writing: Mutex::new(()),
            compiled: Mutex::default(),
            started: Instant::now(),
            read_ms: AtomicU64::new(0),
        }
    }

    /// What a call of the server is judged by: what was read last. Never waits.
    #[must_use]
    pub fn known(&self, server: &Server) -> Known {
        let Some(rules) = server.tools() else { return Known::Off };
        let age_ms = self.now_ms().saturating_sub(self.read_ms.load(Ordering::Relaxed));
        if u128::from(age_ms) > STALE_MAX.as_millis() || self.read_ms.load(Ordering::Relaxed) == 0 {
            return Known::Unavailable;
        }
        match self.cells.load().get(server.name()).map(|cell| &cell.content) {
            Some(Ok(pins)) => Known::View(self.view(pins, rules)),
            Some(Err(_)) | None => Known::Unavailable,
        }
    }

    /// The pins of a server as the store has them now; `None` if its tools are trusted as they come, or if no server has
    /// that name any more. Answers within [`WITHIN`].
    ///
    /// # Errors
    /// [`PinsError`]: the list must not leave.
    pub async fn book(&self, server: &str) -> Result<Option<View>, PinsError> {
        let Some((server, rules)) = self.rules(server) else { return Ok(None) };
        let cell = self.fresh(&server, later(WITHIN)).await;
        let pins = self.counted(cell.and_then(|cell| pins_of(&server, &cell)))?;
        Ok(Some(self.view(&pins, rules)))
    }

    /// The pins of a server as they were when they were read last, for what is no list: what a call brings must not hang on
    /// the store once the tool has run. Where they never were, they are read.
    ///
    /// # Errors
    /// [`PinsError`]: nothing is known.
    pub async fn last(&self, server: &str) -> Result<Option<View>, PinsError> {
        let Some((name, rules)) = self.rules(server) else { return Ok(None) };
        let cell = self.cells.load().get(&name).cloned();
        match cell {
            Some(cell) => Ok(Some(self.view(&self.counted(pins_of(&name, &cell))?, rules))),
            None => self.book(server).await,
        }
    }

    /// Takes down what a page of a list showed; the pins as they are then. Answers within [`WITHIN`].
    ///
    /// # Errors
    /// [`PinsError`]: the list must not leave.
    pub async fn record(&self, server: &str, sighting: Sighting) -> Result<View, PinsError> {
        let (server, rules) = self.rules(server).ok_or_else(|| PinsError::Off(server.into()))?;
        let now_ms = self.clock.now_ms();
        let note = |pins: &mut Pins| Ok(pins.note(&sighting, rules.trust, &self.bounds, now_ms));
        let changed = self.change(&server, later(WITHIN), note, |noted| noted.is_news()).await;
        let (pins, noted) = self.counted(changed)?;
        if noted.is_news() || noted.left_out > 0 {
            for (event, count) in [
                (PinEvent::Changed, noted.changed),
                (PinEvent::LeftOut, noted.left_out),
                (PinEvent::New, noted.new),
                (PinEvent::Pinned, noted.pinned),
                (PinEvent::Restored, noted.restored),
            ] {
                self.metrics.pin_events(event, u64::from(count));
            }
            if noted.changed > 0 || noted.new > 0 || noted.left_out > 0 {
                tracing::warn!(
                    server = &*server,
                    what = %noted,
                    "Tools of a server are not what was approved: look at `mcp-authz pins list`."
                );
            } else {
                tracing::info!(server = &*server, what = %noted, "Definitions of tools were pinned.");
            }
        }
        Ok(self.view(&pins, rules))
    }

    /// Reads the pins of every server again. On an error what is known grows old.
    ///
    /// # Errors
    /// [`PinsError`], which is counted.
    pub async fn refresh(&self) -> Result<(), PinsError> {
        let asked_ms = self.now_ms();
        let servers: Vec<Arc<str>> = {
            let snapshot = self.state.snapshot();
            snapshot
                .servers()
                .filter(|one| one.server.tools().is_some())
                .map(|one| Arc::clone(one.server.name()))
                .collect()
        };
        self.counted(self.read(&servers, later(REFRESH_WITHIN)).await)?;
        self.read_ms.fetch_max(asked_ms, Ordering::Relaxed);
        self.compile(&servers).await;
        let cells = self.cells.load();
        let pending = servers.iter().filter_map(|server| cells.get(server)?.content.as_ref().ok());
        self.metrics.set_pins_pending(pending.map(|pins| pins.pending().count()).sum());
        Ok(())
    }

    /// Compiles schemas that policies ask for before a call needs them; one that comes sooner compiles its own.
    async fn compile(&self, servers: &[Arc<str>]) {
        if !self.state.snapshot().policies().any(|policy| policy.needs_schemas()) {
            return;
        }
        let cells = self.cells.load_full();
        let mut compiled = self.compiled.lock().await;
        for (server, cell) in servers.iter().filter_map(|server| Some((server, cells.get(server)?))) {
            let Ok(pins) = &cell.content else { continue };
            if compiled.get(server) == Some(&cell.version) {
                continue;
            }
            let pins = Arc::clone(pins);
            let work = move || {
                // What cannot be compiled is told to whoever calls the tool.
                pins.tools()
                    .filter_map(|(_, pin)| pin.approved.as_ref())
                    .filter(|one| one.input_schema().is_err())
                    .count()
            };
            if let Ok(unusable @ 1..) = tokio::task::spawn_blocking(work).await {
                tracing::warn!(
                    server = &**server,
                    unusable,
                    "Schemas of tools cannot be enforced; calls that need them are denied."
                );
            }
            compiled.insert(Arc::clone(server), cell.version.clone());
        }
    }

    /// Reads everything again each [`REFRESH`] until told to stop.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut was_read = true;
        loop {
            let refreshed = self.refresh().await;
            match &refreshed {
                Err(error) if was_read => tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "Pins cannot be read; calls of servers with `tools.trust` will be denied if this lasts."
                ),
                Ok(()) if !was_read => tracing::info!("Pins can be read again."),
                Ok(()) | Err(_) => {}
            }
            was_read = refreshed.is_ok();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(REFRESH) => {}
            }
        }
    }

    /// What the store has of a server now, for people.
    ///
    /// # Errors
    /// [`PinsError`].
    pub async fn look(&self, server: &str) -> Result<View, PinsError> {
        let (server, rules) = self.rules(server).ok_or_else(|| PinsError::Off(server.into()))?;
        let cell = self.fresh(&server, later(ACT_WITHIN)).await?;
        Ok(self.view(&pins_of(&server, &cell)?, rules))
    }

    /// Approves what waits, if it is what the digest names. How many tools that were.
    ///
    /// # Errors
    /// [`PinsError`]; unless it says that the store did not answer, nothing was changed.
    pub async fn approve(&self, server: &str, what: Approval<'_>) -> Result<usize, PinsError> {
        let (server, _) = self.rules(server).ok_or_else(|| PinsError::Off(server.into()))?;
        let approve = |pins: &mut Pins| what.apply(pins, &self.bounds);
        let (_, tools) = self.change(&server, later(ACT_WITHIN), approve, |_| true).await?;
        self.metrics.pin_events(PinEvent::Approved, u64::try_from(tools).unwrap_or(u64::MAX));
        Ok(tools)
    }

    /// Forgets a tool of a server: if it is listed again, it is new.
    ///
    /// # Errors
    /// [`PinsError`]; unless it says that the store did not answer, nothing was changed.
    pub async fn forget(&self, server: &str, tool: &str) -> Result<(), PinsError> {
        let (server, _) = self.rules(server).ok_or_else(|| PinsError::Off(server.into()))?;
        let forget = |pins: &mut Pins| if pins.forget(tool) { Ok(()) } else { Err(Refusal::Unknown) };
        self.change(&server, later(ACT_WITHIN), forget, |()| true).await.map(drop)
    }

    /// Forgets everything of a server, damaged or not: its next list is its first.
    ///
    /// # Errors
    /// [`PinsError`]; unless it says that the store did not answer, nothing was changed.
    pub async fn reset(&self, server: &str) -> Result<(), PinsError> {
        let (server, _) = self.rules(server).ok_or_else(|| PinsError::Off(server.into()))?;
        let deadline = later(ACT_WITHIN);
        for _ in 0..ATTEMPTS {
            let cell = self.fresh(&server, deadline).await?;
            if self.write(&server, &cell.version, Pins::default(), deadline).await?.is_some() {
                return Ok(());
            }
        }
        Err(PinsError::Busy(server))
    }

    /// Changes the pins of a server, if `is_news` says that there is something to keep.
    async fn change<T>(
        &self,
        server: &Arc<str>,
        deadline: Instant,
        change: impl Fn(&mut Pins) -> Result<T, Refusal>,
        is_news: impl Fn(&T) -> bool,
    ) -> Result<(Arc<Pins>, T), PinsError> {
        let one_at_a_time = timeout_at(deadline, self.writing.lock()).await;
        let _one_at_a_time = one_at_a_time.map_err(|_| PinsError::Timeout)?;
        for _ in 0..ATTEMPTS {
            let cell = self.fresh(server, deadline).await?;
            let mut pins = Pins::clone(&*pins_of(server, &cell)?);
            let outcome = change(&mut pins)?;
            if !is_news(&outcome) {
                return Ok((Arc::new(pins), outcome));
            }
            if let Some(pins) = self.write(server, &cell.version, pins, deadline).await? {
                return Ok((pins, outcome));
            }
        }
        Err(PinsError::Busy(Arc::clone(server)))
    }

    /// Keeps pins if the store still has that version; `None` if it has not.
    async fn write(
        &self,
        server: &Arc<str>,
        known: &Version,
        pins: Pins,
        deadline: Instant,
    ) -> Result<Option<Arc<Pins>>, PinsError> {
        let at_least = match (known.as_str(), known.number()) {
            // What stands there is no version, and the last one is not known: larger than any.
            (text, None) if !text.is_empty() => self.clock.now_ms(),
            _ => self.cells.load().get(server).and_then(|cell| cell.version.number()).unwrap_or(0),
        };
        let version = known.next(at_least).map_err(|error| StoreError(error.into()))?;
        let data: Arc<[u8]> = pins.encode().into();
        let write = self.store.write(server, known, &version, &data, deadline);
        let won = timeout_at(deadline, write).await.map_err(|_| PinsError::Timeout)??;
        let pins = Arc::new(pins);
        if won {
            self.keep(server, Cell { version, content: Ok(Arc::clone(&pins)) });
        }
        Ok(won.then_some(pins))
    }

    /// What the store has of one server now.
    async fn fresh(&self, server: &Arc<str>, deadline: Instant) -> Result<Arc<Cell>, PinsError> {
        self.read(std::slice::from_ref(server), deadline).await?;
        self.cells.load().get(server).cloned().ok_or(PinsError::Timeout)
    }

    /// Reads what the store has into the cells.
    async fn read(&self, servers: &[Arc<str>], deadline: Instant) -> Result<(), PinsError> {
        let cells = self.cells.load_full();
        let wanted: Vec<(Arc<str>, Version)> = servers
            .iter()
            .map(|server| (Arc::clone(server), cells.get(server).map(|cell| cell.version.clone()).unwrap_or_default()))
            .collect();
        let read = timeout_at(deadline, self.store.read(&wanted, deadline)).await;
        let found = read.map_err(|_| PinsError::Timeout)??;
        for ((server, _), found) in wanted.iter().zip(found) {
            let known = cells.get(server);
            let (version, content) = match found {
                Found::Same => continue,
                Found::Nothing => (Version::default(), Ok(Arc::default())),
                Found::Other { version, data } => {
                    let before = known.and_then(|known| known.content.as_ref().ok());
                    let share = |pins: Pins| match before {
                        Some(before) => pins.sharing(before),
                        None => pins,
                    };
                    (version, Pins::decode(&data).map(share).map(Arc::new))
                }
            };
            let number = version.number();
            let lost = known.filter(|known| known.version.number() > number && content.is_ok());
            match lost.map(|known| known.content.clone()) {
                // A store that was emptied, or went back in a failover, must not make us trust anew what was pinned. Should
                // somebody else be faster, what we keep is older than what they wrote and is replaced at the next look.
                Some(Ok(pins)) => {
                    let pins = Pins::clone(&*pins);
                    if self.write(server, &version, pins, deadline).await?.is_some() {
                        self.metrics.pin_events(PinEvent::PutBack, 1);
                        tracing::warn!(server = &**server, "The store had lost pins; they were put back.");
                    }
                }
                Some(Err(_)) | None => {
                    let was_damaged = known.is_some_and(|known| known.content.is_err());
                    if let (Err(what), false) = (&content, was_damaged) {
                        let what = *what;
                        self.metrics.error(ErrorKind::Pins);
                        let error = PinsError::Corrupt { server: Arc::clone(server), what };
                        tracing::error!(error = &error as &dyn std::error::Error, "Pins are damaged.");
                    }
                    self.keep(server, Cell { version, content });
                }
            }
        }
        Ok(())
    }

    /// Takes over what is newer than what is known.
    fn keep(&self, server: &Arc<str>, cell: Cell) {
        let cell = Arc::new(cell);
        self.cells.rcu(|cells| {
            let is_older = |known: &Arc<Cell>| known.version.number() > cell.version.number();
            // What was read before something was written and arrives after it.
            if cell.content.is_ok() && cells.get(server).is_some_and(is_older) {
                return Arc::clone(cells);
            }
            let mut next = BTreeMap::clone(cells);
            next.insert(Arc::clone(server), Arc::clone(&cell));
            Arc::new(next)
        });
    }

    fn rules(&self, server: &str) -> Option<(Arc<str>, Rules)> {
        let snapshot = self.state.snapshot();
        let server = snapshot.server(server)?.server;
        Some((Arc::clone(server.name()), server.tools()?))
    }

    fn view(&self, pins: &Arc<Pins>, rules: Rules) -> View {
        Arc::new(Book::new(Arc::clone(pins), rules, self.bounds))
    }

    fn counted<T>(&self, outcome: Result<T, PinsError>) -> Result<T, PinsError> {
        if outcome.is_err() {
            self.metrics.error(ErrorKind::Pins);
        }
        outcome
    }

    /// Milliseconds since the start, from 1.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

fn pins_of(server: &Arc<str>, cell: &Cell) -> Result<Arc<Pins>, PinsError> {
    let corrupt = |what: &Corrupt| PinsError::Corrupt { server: Arc::clone(server), what: *what };
    cell.content.as_ref().map(Arc::clone).map_err(corrupt)
}

fn later(by: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(by).unwrap_or(now)
}
