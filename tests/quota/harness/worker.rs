//! Clients: what a replica does all day, with accidents. In this process or in one of their own that can be killed.

use std::{
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use mcp_authz::{
    clock::{Clock as _, SystemClock},
    quota::{Booking, Ledger as _, LedgerError, Reservation, ReservationId},
};
use mcp_authz_core::ledger::{Code, Finish, Finished, Speaker};
use serde::{Deserialize, Serialize};
use tokio::{
    process::{Child, Command},
    sync::watch,
};

use super::{
    Dice, PATIENCE,
    log::{Entry, History, Writer},
    replica::{Answer, Recorder, Replica, Skewed, entries, settings},
    store::Limit,
};

/// The environment variable that makes the test program a worker.
const VARIABLE: &str = "QUOTA_WORKER";
/// The test that is the worker's entry.
const ENTRY: &str = "harness::worker::runs_if_it_is_told_to";

/// What a worker process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) address: SocketAddr,
    pub(crate) log: PathBuf,
    pub(crate) seed: u64,
    pub(crate) skew_ms: i64,
    /// Offsets of the minutes, see [`Menu`].
    pub(crate) offsets_s: [i32; 3],
}

/// The limits of the stress: each call takes a counter that counts everything twice, and some others.
#[derive(Clone, Debug)]
pub(crate) struct Menu {
    pub(crate) total: Limit,
    pub(crate) twin: Limit,
    pub(crate) minutes: [Limit; 3],
    pub(crate) rolling: Limit,
    pub(crate) bucket: Limit,
    pub(crate) flight: Limit,
}

pub(crate) const MINUTE_MAX: u64 = 300;
pub(crate) const ROLLING_MAX: u64 = 90;
pub(crate) const ROLLING_MS: u64 = 2_000;
pub(crate) const BUCKET_MAX: u64 = 30;
pub(crate) const BUCKET_US: u64 = 20_000;
pub(crate) const FLIGHT_MAX: u64 = 2;
pub(crate) const LEASE_MS: u64 = 1_200;

impl Menu {
    /// The minutes begin `offsets_s` before those of UTC, so that a short test sees several begin.
    pub(crate) fn new(offsets_s: [i32; 3]) -> Self {
        use mcp_authz_core::quota::Measure;
        let [a, b, c] = offsets_s;
        let rolling = Measure::Rolling { bucket_ms: ROLLING_MS / 10, buckets: 10 };
        Self {
            total: Limit::lifetime("total", 1 << 40),
            twin: Limit::lifetime("twin", 1 << 40),
            minutes: [
                Limit::minute("minute-a", a, MINUTE_MAX),
                Limit::minute("minute-b", b, MINUTE_MAX),
                Limit::minute("minute-c", c, MINUTE_MAX),
            ],
            rolling: Limit::new("rolling", rolling, ROLLING_MAX),
            bucket: Limit::new("bucket", Measure::TokenBucket { interval_us: BUCKET_US }, BUCKET_MAX),
            flight: Limit::new("flight", Measure::InFlight { lease_ms: LEASE_MS }, FLIGHT_MAX),
        }
    }

    /// The charges of one call.
    fn order(&self, dice: &mut Dice) -> Vec<(&Limit, u64)> {
        let amount = dice.between(1, 4);
        let mut order = vec![(&self.total, amount)];
        match dice.between(0, 6) {
            0 => order.push((&self.rolling, amount)),
            1 => order.push((&self.bucket, amount)),
            2 => order.push((&self.flight, 1)),
            3 => order.extend([(&self.minutes[0], amount), (&self.flight, 1)]),
            4 => order.extend([(&self.minutes[1], amount), (&self.rolling, amount)]),
            _ => order.extend([(&self.minutes[2], amount), (&self.bucket, amount)]),
        }
        order.push((&self.twin, amount));
        order
    }
}

/// Offsets from UTC under which minutes begin in so many seconds each.
pub(crate) fn offsets_s(after_s: [u64; 3]) -> [i32; 3] {
    let second = SystemClock::new().now_ms() / 1_000 % 60;
    // Local time is UTC plus the offset: a minute begins when the sum is a multiple of sixty.
    after_s.map(|after_s| i32::try_from((120 - second - after_s) % 60).expect("below 60"))
}

/// How far the limits of the [`Menu`] were used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    /// Calendar windows that anything ran in.
    pub(crate) windows: usize,
    /// Units in one rolling window.
    pub(crate) rolling: u64,
    /// Calls at once.
    pub(crate) flight: u64,
}

/// Invariants 1 to 4 of the [`Menu`], from what ran alone.
pub(crate) fn limits_held(history: &History) -> Most {
    let minutes = ["minute-a", "minute-b", "minute-c"];
    history.bucket("bucket", BUCKET_US, BUCKET_MAX);
    Most {
        windows: minutes.iter().map(|label| history.calendar(label, MINUTE_MAX).len()).sum(),
        rolling: history.rolling("rolling", ROLLING_MS, ROLLING_MAX),
        flight: history.in_flight("flight", LEASE_MS, FLIGHT_MAX),
    }
}

/// Calls until it is told to stop: holds, runs, gives back, asks twice, walks away.
pub(crate) async fn work(replica: &Replica, menu: &Menu, log: &Writer, mut dice: Dice, stop: watch::Receiver<bool>) {
    let name = dice.next();
    let mut count = 0_u64;
    while !*stop.borrow() {
        count += 1;
        let id = format!("{name:016x}-{count}");
        let order = menu.order(&mut dice);
        one(replica, &id, &order, log, &mut dice).await;
    }
}

async fn one(replica: &Replica, id: &str, order: &[(&Limit, u64)], log: &Writer, dice: &mut Dice) {
    let asked: Vec<Entry> = order
        .iter()
        .map(|(limit, amount)| Entry { label: limit.label.to_owned(), amount: *amount, end_ms: 0 })
        .collect();
    log.asking(id, &asked);
    let reservation_id = ReservationId::from_envoy(id).expect("randomness");
    let (reservation, reply) = match replica.reserve(reservation_id, order).await {
        Answer::Held(reservation, reply) => (reservation, reply),
        Answer::Limited(..) => {
            log.refused(id);
            tokio::time::sleep(Duration::from_millis(dice.between(0, 4))).await;
            return;
        }
        Answer::Failed(LedgerError::Unknown(_)) => return log.unknown(id),
        Answer::Failed(_) => {
            log.refused(id);
            return tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Answer::Spent | Answer::Unmetered => panic!("every limit of the stress is strict"),
    };
    let booking = Arc::clone(&reservation.ticket().expect("held").booking);
    if dice.percent(10) {
        // The reply was lost and the same Check asks again.
        let again = replica.ledger.reserve(&booking, replica.hold, replica.deadline()).await;
        if let Ok(again) = again {
            assert_eq!(again.code, Code::HeldBefore, "{id}");
        }
    }
    match dice.between(0, 100) {
        0..20 => give_back(replica, reservation, &booking, log, dice).await,
        20..24 => {
            log.unknown(id);
            drop(reservation);
        }
        _ => {
            // An answer to a second question says neither when the first was applied nor which windows it charged.
            let held_ms = if reply.code == Code::Held { reply.now_ms } else { 0 };
            log.executed(id, held_ms, &entries(order, &reply));
            tokio::time::sleep(Duration::from_millis(dice.between(0, 5))).await;
            log.ended(id, SystemClock::new().now_ms());
            let ticket = reservation.into_ticket().expect("held");
            let amounts = ticket.booking.lines.iter().map(|line| line.amount).collect();
            // Without it the units stay spent, which is what an execution is due.
            let finished = replica.ledger.finish(&ticket.booking, &Finish::Settle(amounts)).await;
            if let Ok(finished) = finished {
                assert!(
                    matches!(finished, Finished::Now { .. } | Finished::Before { same: true }),
                    "{id}: {finished:?}"
                );
            }
        }
    }
}

async fn give_back(
    replica: &Replica,
    reservation: Reservation<Recorder>,
    booking: &Booking,
    log: &Writer,
    dice: &mut Dice,
) {
    let id = booking.id.as_str();
    if dice.percent(25) {
        // Late: time has given back a part already, or another window is in force.
        tokio::time::sleep(Duration::from_millis(dice.between(50, 500))).await;
    }
    match reservation.rollback().await {
        // The answer to a first try may be lost, and a second finds it done.
        Ok(Finished::Now { .. } | Finished::Before { same: true }) => log.returned(id),
        Ok(other) => panic!("{id}: {other:?}"),
        Err(_) => return log.unknown(id),
    }
    if dice.percent(30) {
        let how = Finish::RollBack(Speaker::Attempt(booking.attempt));
        if let Ok(finished) = replica.ledger.finish(booking, &how).await {
            assert_eq!(finished, Finished::Before { same: true }, "{id}");
        }
    }
}

/// A worker process.
pub(crate) struct Worker {
    orders: Orders,
    child: Child,
}

impl Worker {
    /// Starts it.
    pub(crate) fn start(orders: Orders) -> Self {
        let program = std::env::current_exe().expect("this test program");
        let mut command = Command::new(program);
        command.args([ENTRY, "--exact", "--nocapture", "--test-threads=1"]);
        command.env(VARIABLE, serde_json::to_string(&orders).expect("plain data"));
        command.env_remove("RUST_BACKTRACE");
        // Its end of file is the order to stop, so that no worker outlives the test.
        let errors = Self::errors(&orders.log);
        let errors = std::fs::OpenOptions::new().create(true).append(true).open(errors).expect("writable");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(errors).kill_on_drop(true);
        Self { child: command.spawn().expect("this test program starts"), orders }
    }

    fn errors(log: &Path) -> PathBuf {
        log.with_extension("errors")
    }

    /// Kills it as `kill -9` does and starts another in its place.
    pub(crate) async fn replace(&mut self, seed: u64, skew_ms: i64) {
        self.child.start_kill().expect("own child");
        self.child.wait().await.expect("own child");
        *self = Self::start(Orders { seed, skew_ms, ..self.orders.clone() });
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("running")
    }

    /// Lets it end its call and waits for it.
    pub(crate) async fn stop(mut self) {
        drop(self.child.stdin.take());
        let status =
            tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("a worker ends").expect("own child");
        let errors = std::fs::read_to_string(Self::errors(&self.orders.log)).unwrap_or_default();
        assert!(status.success(), "a worker failed: {status}\n{errors}");
    }
}

/// The entry of worker processes; otherwise there is nothing to do.
#[test]
fn runs_if_it_is_told_to() {
    let Ok(orders) = std::env::var(VARIABLE) else { return };
    let orders: Orders = serde_json::from_str(&orders).expect("orders of ours");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let (stop, stopped) = watch::channel(false);
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            std::io::stdin().read_to_end(&mut rest).expect("a pipe");
            stop.send_replace(true);
        });
        let replica = Replica::open_at(settings(orders.address), Skewed::by(orders.skew_ms)).await;
        let (menu, log) = (Menu::new(orders.offsets_s), Writer::open(&orders.log));
        work(&replica, &menu, &log, Dice::new(orders.seed), stopped).await;
        replica.settled().await;
    });
}
