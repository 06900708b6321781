//! The engine as one replica of the program uses it, with a record of what the store answered.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mcp_authz::{
    clock::{Clock, SystemClock},
    quota::{
        Booking, Keys, Ledger, LedgerError, OnLeak, Reservation, ReservationId, Reserve, Ticket,
        leaks::{Leak, LeakSettler},
        redis::{Event, RedisLedger, Settings, StartError, Topology},
        reserve,
    },
};
use mcp_authz_core::ledger::{Finish, Finished, Line, Reply, Standing};
use tokio::time::Instant;

use super::{PATIENCE, log::Entry, store::Limit, until};

/// A clock that is wrong by a constant.
#[derive(Debug)]
pub(crate) struct Skewed {
    clock: SystemClock,
    skew_ms: i64,
}

impl Skewed {
    pub(crate) fn by(skew_ms: i64) -> Arc<dyn Clock> {
        Arc::new(Self { clock: SystemClock::new(), skew_ms })
    }
}

impl Clock for Skewed {
    fn now_ms(&self) -> u64 {
        self.clock.now_ms().saturating_add_signed(self.skew_ms)
    }
}

/// Passes everything on and remembers the answers: [`reserve`] keeps them to itself.
pub(crate) struct Recorder {
    inner: Arc<RedisLedger>,
    replies: Mutex<BTreeMap<ReservationId, Reply>>,
}

impl Recorder {
    fn replies(&self) -> MutexGuard<'_, BTreeMap<ReservationId, Reply>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, id: &ReservationId) -> Option<Reply> {
        self.replies().remove(id)
    }
}

impl Ledger for Recorder {
    fn keys(&self) -> Arc<Keys> {
        self.inner.keys()
    }

    fn now_ms(&self) -> u64 {
        self.inner.now_ms()
    }

    async fn reserve(&self, booking: &Booking, hold: Duration, deadline: Instant) -> Result<Reply, LedgerError> {
        let reply = self.inner.reserve(booking, hold, deadline).await?;
        self.replies().insert(booking.id.clone(), reply.clone());
        Ok(reply)
    }

    async fn finish(&self, booking: &Booking, how: &Finish) -> Result<Finished, LedgerError> {
        self.inner.finish(booking, how).await
    }

    async fn renew(&self, booking: &Booking, hold: Duration) -> Result<bool, LedgerError> {
        self.inner.renew(booking, hold).await
    }

    async fn peek(&self, lines: &[Line]) -> Result<Vec<Standing>, LedgerError> {
        self.inner.peek(lines).await
    }

    async fn reset(&self, lines: &[Line]) -> Result<(), LedgerError> {
        self.inner.reset(lines).await
    }

    async fn accept_loss(&self) -> Result<bool, LedgerError> {
        Ledger::accept_loss(&*self.inner).await
    }

    fn admitted_unmetered(&self, booking: &Arc<Booking>) {
        self.inner.admitted_unmetered(booking);
    }
}

/// What became of a call.
pub(crate) enum Answer {
    Failed(LedgerError),
    Held(Reservation<Recorder>, Reply),
    Limited(Reply),
    /// Held, and nobody will give it back.
    Spent,
    Unmetered,
}

impl Answer {
    /// Whether the call goes.
    pub(crate) const fn goes(&self) -> bool {
        matches!(self, Answer::Held(..) | Answer::Spent | Answer::Unmetered)
    }

    /// How long it has to wait for counts that were lost, ms; the inner `None` is for ever.
    pub(crate) const fn lost(&self) -> Option<Option<u64>> {
        if let Answer::Failed(LedgerError::Lost { wait_ms }) = self { Some(*wait_ms) } else { None }
    }
}

/// See the module.
pub(crate) struct Replica {
    pub(crate) ledger: Arc<Recorder>,
    pub(crate) hold: Duration,
    /// How long a reservation may take.
    pub(crate) budget: Duration,
    on_leak: OnLeak,
    opened: Arc<AtomicU64>,
    owed: Arc<AtomicU64>,
    _settler: LeakSettler,
}

impl Replica {
    /// Opens the engine, which must find a store that it can use.
    pub(crate) async fn open(settings: Settings) -> Self {
        Self::open_at(settings, Skewed::by(0)).await
    }

    /// As [`Replica::open`], with a clock.
    pub(crate) async fn open_at(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        let replica = Self::start(settings, clock).await.unwrap_or_else(|error| panic!("{error}"));
        // A store that was empty lets strict calls wait, until whoever knew another one has had the time to say so.
        until("the engine holds a call", async || {
            replica.take(&Limit::hour("first", 1 << 30)).await.goes().then_some(())
        })
        .await;
        replica
    }

    /// Opens the engine if it agrees with the store.
    pub(crate) async fn try_open(settings: Settings) -> Result<Self, StartError> {
        Self::start(settings, Skewed::by(0)).await
    }

    async fn start(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let (opened, owed): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let count = Arc::clone(&opened);
        let observer = Arc::new(move |event| {
            if event == Event::BreakerOpened {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let engine = Arc::new(RedisLedger::connect(settings, clock, observer).await?);
        let ledger = Arc::new(Recorder { inner: Arc::clone(&engine), replies: Mutex::default() });
        let debt = Arc::clone(&owed);
        let report = Arc::new(move |ticket: &Ticket, leak| {
            // A hold that nobody could end stays spent, and these tests are about exact counts.
            assert!(matches!(leak, Leak::Ended(_)), "{}: {leak:?}", ticket.booking.id);
            debt.fetch_sub(1, Ordering::SeqCst);
        });
        let (settle, settler) = LeakSettler::start(engine, 10_000, PATIENCE, report);
        let debt = Arc::clone(&owed);
        let on_leak: OnLeak = Arc::new(move |ticket, how| {
            debt.fetch_add(1, Ordering::SeqCst);
            settle(ticket, how);
        });
        Ok(Self {
            ledger,
            hold: Duration::from_secs(60),
            budget: Duration::from_secs(2),
            on_leak,
            opened,
            owed,
            _settler: settler,
        })
    }

    /// The time by which a reservation must be answered that is asked for now.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.budget
    }

    /// One call with these charges.
    pub(crate) async fn reserve(&self, id: ReservationId, order: &[(&Limit, u64)]) -> Answer {
        self.reserve_with(id, order, Arc::clone(&self.on_leak)).await
    }

    /// As [`Replica::reserve`]; `on_leak` is told of what has to be rolled back.
    pub(crate) async fn reserve_with(&self, id: ReservationId, order: &[(&Limit, u64)], on_leak: OnLeak) -> Answer {
        let charges: Vec<_> = order.iter().map(|(limit, amount)| limit.charge(*amount)).collect();
        let reserved = reserve(&self.ledger, id.clone(), &charges, self.hold, self.deadline(), on_leak).await;
        let reply = self.ledger.take(&id);
        match reserved {
            Err(error) => Answer::Failed(error),
            Ok(Reserve::Free) => panic!("a call without charges"),
            Ok(Reserve::OverLimit(_)) => Answer::Limited(reply.expect("an answer")),
            Ok(Reserve::Reserved(reservation)) => Answer::Held(reservation, reply.expect("an answer")),
            Ok(Reserve::Unmetered(_)) => Answer::Unmetered,
        }
    }

    /// One call of one unit against one counter, under a random id; it is spent if it is held.
    pub(crate) async fn take(&self, limit: &Limit) -> Answer {
        self.spend(&[(limit, 1)]).await
    }

    /// One call with these charges, under a random id; they are spent if they are held.
    pub(crate) async fn spend(&self, order: &[(&Limit, u64)]) -> Answer {
        let answer = self.reserve(ReservationId::random().expect("randomness"), order).await;
        if let Answer::Held(reservation, _) = answer {
            drop(reservation.into_ticket());
            return Answer::Spent;
        }
        answer
    }

    /// Waits until everything that was dropped is rolled back.
    pub(crate) async fn settled(&self) {
        until("what was dropped is rolled back", async || (self.owed.load(Ordering::SeqCst) == 0).then_some(())).await;
    }

    /// How often the breaker opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// The engine itself.
    pub(crate) fn engine(&self) -> &RedisLedger {
        &self.ledger.inner
    }
}

/// Settings for a server that is always the master.
pub(crate) fn settings(address: SocketAddr) -> Settings {
    tuned(Settings::new(Topology::standalone(&format!("redis://{address}")).expect("an address")))
}

/// More patience with a loaded machine than an operator would have.
pub(crate) fn tuned(mut settings: Settings) -> Settings {
    settings.timeout = Duration::from_millis(400);
    settings.wait_timeout = Duration::from_millis(400);
    settings
}

/// What the log says of a call that was held: a reply to a second attempt has no standings, so no ends of windows.
pub(crate) fn entries(order: &[(&Limit, u64)], reply: &Reply) -> Vec<Entry> {
    let standings = reply.standings.iter().map(Some).chain(std::iter::repeat(None));
    order
        .iter()
        .zip(standings)
        .map(|((limit, amount), standing)| {
            let reset_ms = standing.and_then(|standing| standing.reset_ms).unwrap_or(0);
            Entry { label: limit.label.to_owned(), amount: *amount, end_ms: reply.now_ms + reset_ms }
        })
        .collect()
}
