use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use mcp_authz_core::ledger::{Attempt, Line, Reply, Speaker, Standing};

use super::*;
use crate::quota::{Booking, Keys, ReservationId};

/// Refuses so many times, then ends what it is told to.
struct Store {
    refusals: AtomicUsize,
    finished: AtomicUsize,
}

impl Ledger for Store {
    fn keys(&self) -> Arc<Keys> {
        Arc::new(Keys::derive(&[1; 32]))
    }

    fn now_ms(&self) -> u64 {
        0
    }

    async fn reserve(&self, _: &Booking, _: Duration, _: Instant) -> Result<Reply, LedgerError> {
        Err(LedgerError::Conflict)
    }

    async fn finish(&self, _: &Booking, _: &Finish) -> Result<Finished, LedgerError> {
        let left = self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            return Err(LedgerError::Refused("away".into()));
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
        Ok(Finished::Now { credited: 1 })
    }

    async fn renew(&self, _: &Booking, _: Duration) -> Result<bool, LedgerError> {
        Ok(false)
    }

    async fn peek(&self, _: &[Line]) -> Result<Vec<Standing>, LedgerError> {
        Ok(Vec::new())
    }

    async fn reset(&self, _: &[Line]) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn accept_loss(&self) -> Result<bool, LedgerError> {
        Ok(false)
    }

    fn admitted_unmetered(&self, _: &Arc<Booking>) {}
}

fn store(refusals: usize) -> Arc<Store> {
    Arc::new(Store { refusals: AtomicUsize::new(refusals), finished: AtomicUsize::new(0) })
}

fn ticket() -> Ticket {
    let id = ReservationId::random().unwrap();
    let booking = Arc::new(Booking { id, attempt: Attempt(1), digest: 1, lines: Box::default() });
    Ticket { booking, terms: Box::default() }
}

fn how() -> Finish {
    Finish::RollBack(Speaker::Stream)
}

type Said = Arc<Mutex<Vec<String>>>;

fn listen() -> (Said, OnSettled) {
    let said = Said::default();
    let to = Arc::clone(&said);
    (said, Arc::new(move |_, leak| to.lock().unwrap().push(format!("{leak:?}"))))
}

#[tokio::test(start_paused = true)]
async fn it_tries_until_the_store_is_back() {
    let (store, (said, report)) = (store(5), listen());
    let (on_leak, settler) = LeakSettler::start(Arc::clone(&store), 10, Duration::from_secs(60), report);
    on_leak(ticket(), how());
    assert!(settler.close(Instant::now() + Duration::from_secs(30)).await);
    assert_eq!(*said.lock().unwrap(), ["Ended(Now { credited: 1 })"]);
    on_leak(ticket(), how());
    assert_eq!(said.lock().unwrap()[1], "TooMany", "after the end nobody comes for it");
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_when_the_hold_has_run_out() {
    let (store, (said, report)) = (store(usize::MAX), listen());
    let (on_leak, settler) = LeakSettler::start(store, 10, Duration::from_secs(60), report);
    let started = Instant::now();
    on_leak(ticket(), how());
    assert!(settler.close(started + Duration::from_secs(80)).await);
    assert!((60..65).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(*said.lock().unwrap(), ["GivenUp(Refused(\"away\"))"]);
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_are_counted_and_stay_spent() {
    let (store, (said, report)) = (store(0), listen());
    let (on_leak, settler) = LeakSettler::start(Arc::clone(&store), 3, Duration::from_secs(60), report);
    // The task has not run yet.
    for _ in 0..4 {
        on_leak(ticket(), how());
    }
    assert_eq!(*said.lock().unwrap(), ["TooMany"]);
    assert!(settler.close(Instant::now() + Duration::from_secs(1)).await);
    assert_eq!(store.finished.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_no_longer_than_it_may() {
    let (store, (_, report)) = (store(usize::MAX), listen());
    let (on_leak, settler) = LeakSettler::start(store, 10, Duration::from_secs(600), report);
    on_leak(ticket(), how());
    let started = Instant::now();
    assert!(!settler.close(started + Duration::from_secs(2)).await);
    assert!(started.elapsed() < Duration::from_secs(3));
}
