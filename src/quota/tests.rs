//! The in-memory engine: the contract, its bounds, and the guard over it.

use std::{
    pin::pin,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use super::{
    contract::{LEASE, ROLLBACK, T0, charge, id, ledger_contract, minute},
    memory::{Bounds, MemoryLedger, SETTLED_KEEP_MS, Usage, settle_leaks},
    *,
};
use crate::clock::ManualClock;
use mcp_authz_core::decision::{Charge, Window};

fn ledger(counters_max: usize, reservations_max: usize) -> MemoryLedger {
    MemoryLedger::new(Bounds { counters_max, reservations_max }, Arc::new(|_| ()))
}

mod contract_of_memory {
    use super::*;

    ledger_contract!(SETTLED_KEEP_MS, ledger(1_000, 1_000));
}

fn held(ledger: &MemoryLedger, name: &str, charges: &[Charge], now_ms: u64) {
    assert_eq!(ledger.reserve_now(&id(name), charges, now_ms, LEASE).unwrap(), Hold::Held);
}

fn limit_reached(ledger: &MemoryLedger, name: &str, charges: &[Charge], now_ms: u64) -> Option<&'static str> {
    match ledger.reserve_now(&id(name), charges, now_ms, LEASE) {
        Err(LedgerError::Full { limit }) => Some(limit),
        _ => None,
    }
}

#[test]
fn full_of_live_counters_denies_new_ones_and_forgets_none() {
    let ledger = ledger(2, 100);
    held(&ledger, "1", &[minute("a", 5, 5)], T0);
    held(&ledger, "2", &[charge("b", Window::Day, 1, 5)], T0);
    assert_eq!(limit_reached(&ledger, "3", &[minute("c", 1, 5)], T0), Some("counters_max"));
    assert_eq!(
        limit_reached(&ledger, "4", &[charge("b", Window::Day, 1, 5), minute("c", 1, 5)], T0),
        Some("counters_max")
    );
    // The known ones go on, and a refusal needs no room.
    held(&ledger, "5", &[charge("b", Window::Day, 1, 5)], T0);
    let refused = ledger.reserve_now(&id("6"), &[minute("a", 1, 5)], T0, LEASE).unwrap();
    assert_eq!(refused, Hold::OverLimit { charge: 0, retry_after_ms: Some(60_000) });
    // The minute's end makes room; the day's counter is kept.
    held(&ledger, "7", &[minute("c", 1, 5)], T0 + 60_000);
    assert_eq!(limit_reached(&ledger, "8", &[minute("d", 1, 5)], T0 + 60_000), Some("counters_max"));
}

#[test]
fn full_of_open_reservations_denies_until_a_lease_ends() {
    let ledger = ledger(100, 2);
    held(&ledger, "1", &[minute("a", 1, 100)], T0);
    held(&ledger, "2", &[minute("a", 1, 100)], T0);
    assert_eq!(limit_reached(&ledger, "3", &[minute("a", 1, 100)], T0), Some("reservations_max"));
    assert!(matches!(ledger.settle_now(&id("4"), ROLLBACK, T0), Err(LedgerError::Full { .. })));
    // A settled one makes room after ten seconds, an open one when its lease ends.
    assert_eq!(ledger.settle_now(&id("1"), Settlement::Commit, T0).unwrap(), Settled::Now);
    assert_eq!(limit_reached(&ledger, "3", &[minute("a", 1, 100)], T0 + 9_999), Some("reservations_max"));
    held(&ledger, "3", &[minute("a", 1, 100)], T0 + 10_000);
    assert_eq!(limit_reached(&ledger, "5", &[minute("a", 1, 100)], T0 + 119_999), Some("reservations_max"));
    held(&ledger, "5", &[minute("a", 1, 100)], T0 + 120_000);
}

#[test]
fn ended_entries_are_freed_in_steps_and_leases_reported() {
    let expired = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&expired);
    let on_expired = Arc::new(move |n| {
        seen.fetch_add(n, Ordering::Relaxed);
    });
    let ledger = MemoryLedger::new(Bounds { counters_max: 1_000, reservations_max: 1_000 }, on_expired);
    for n in 0..200 {
        held(&ledger, &n.to_string(), &[minute(&n.to_string(), 1, 1)], T0);
    }
    assert_eq!(ledger.usage(), Usage { counters: 200, reservations: 200 });
    assert_eq!(ledger.settle_now(&id("0"), Settlement::Commit, T0).unwrap(), Settled::Now);
    let later = T0 + 120_000;
    for _ in 0..4 {
        assert_eq!(ledger.settle_now(&id("none"), Settlement::Commit, later).unwrap(), Settled::Expired);
    }
    assert_eq!(ledger.usage(), Usage { counters: 0, reservations: 0 });
    assert_eq!(expired.load(Ordering::Relaxed), 199);
}

#[test]
fn an_id_used_again_after_its_lease_is_a_new_reservation_and_counts_the_old_one() {
    let expired = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&expired);
    let on_expired = Arc::new(move |n| {
        seen.fetch_add(n, Ordering::Relaxed);
    });
    let ledger = MemoryLedger::new(Bounds { counters_max: 1_000, reservations_max: 1_000 }, on_expired);
    for n in 0..100 {
        held(&ledger, &n.to_string(), &[minute("a", 1, 300)], T0);
    }
    // More leases have ended than one operation sweeps, so the record of the last id is still there.
    held(&ledger, "99", &[charge("b", Window::Day, 1, 1)], T0 + 120_000);
    assert_eq!(ledger.settle_now(&id("99"), ROLLBACK, T0 + 120_000).unwrap(), Settled::Now);
    assert_eq!(ledger.usage(), Usage { counters: 0, reservations: 1 });
    assert_eq!(expired.load(Ordering::Relaxed), 100);
}

#[test]
fn concurrent_calls_get_exactly_the_maximum() {
    let ledger = ledger(100, 10_000);
    let start = Barrier::new(4);
    let admitted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (ledger, start, admitted) = (&ledger, &start, &admitted);
            scope.spawn(move || {
                start.wait();
                for n in 0..200 {
                    let charges = [minute("a", 1, 100), charge("b", Window::Day, 2, 1_000)];
                    let id = id(&format!("{thread}-{n}"));
                    if let Hold::Held = ledger.reserve_now(&id, &charges, T0, LEASE).unwrap() {
                        admitted.fetch_add(1, Ordering::Relaxed);
                        // A third of the callers vanish; what they return, others may take.
                        if n % 3 == 0 {
                            assert_eq!(ledger.settle_now(&id, ROLLBACK, T0).unwrap(), Settled::Now);
                            admitted.fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert_eq!(admitted.load(Ordering::Relaxed), 100);
}

#[test]
fn ids_come_from_envoy_or_are_random() {
    assert_eq!(ReservationId::from_envoy("1234567890").unwrap().as_str(), "1234567890");
    let long = "x".repeat(65);
    for odd in ["", long.as_str()] {
        let (one, two) = (ReservationId::from_envoy(odd).unwrap(), ReservationId::from_envoy(odd).unwrap());
        assert_ne!(one, two);
        assert_eq!(one.as_str().len(), 33);
    }
}

/// A store that answers late, or not at all.
#[derive(Default)]
struct Remote {
    asked: Mutex<Vec<ReservationId>>,
}

impl Ledger for Remote {
    async fn reserve(&self, id: &ReservationId, _: &[Charge], _: u64, _: Duration) -> Result<Hold, LedgerError> {
        self.asked.lock().unwrap().push(id.clone());
        match id.as_str() {
            "conflict" => return Err(LedgerError::Conflict),
            "down" => return Err(LedgerError::Unavailable("down".into())),
            "slow" => tokio::task::yield_now().await,
            "over" => return Ok(Hold::OverLimit { charge: 0, retry_after_ms: None }),
            _ => {}
        }
        Ok(Hold::Held)
    }

    async fn settle(&self, id: &ReservationId, _: Settlement, _: u64) -> Result<Settled, LedgerError> {
        if id.as_str() == "lost" { Err(LedgerError::Unavailable("lost".into())) } else { Ok(Settled::Now) }
    }
}

type Leaks = Arc<Mutex<Vec<(String, Settlement)>>>;

fn leaks() -> (Leaks, OnLeak) {
    let leaks = Leaks::default();
    let seen = Arc::clone(&leaks);
    let on_leak: OnLeak = Arc::new(move |id, how| seen.lock().unwrap().push((id.to_string(), how)));
    (leaks, on_leak)
}

#[tokio::test]
async fn every_exit_but_a_drop_settles_once() {
    let remote = Arc::new(Remote::default());
    let (leaks, on_leak) = leaks();
    let charges = [minute("a", 1, 1)];
    let get = |name: &str| reserve(&remote, id(name), &charges, T0, LEASE, Arc::clone(&on_leak));
    let Reserve::Reserved(one) = get("committed").await.unwrap() else { panic!() };
    assert_eq!(one.commit(T0).await.unwrap(), Settled::Now);
    let Reserve::Reserved(one) = get("returned").await.unwrap() else { panic!() };
    assert_eq!(one.rollback(RollbackReason::UpstreamFailed, T0).await.unwrap(), Settled::Now);
    let Reserve::Reserved(one) = get("handed over").await.unwrap() else { panic!() };
    assert_eq!(one.into_ticket().into_id(), id("handed over"));
    assert!(matches!(get("over").await.unwrap(), Reserve::OverLimit { charge: 0, retry_after_ms: None }));
    assert!(matches!(get("conflict").await, Err(LedgerError::Conflict)));
    assert!(leaks.lock().unwrap().is_empty());
    let Reserve::Reserved(one) = get("forgotten").await.unwrap() else { panic!() };
    drop(one);
    assert!(matches!(get("down").await, Err(LedgerError::Unavailable(_))));
    let Reserve::Reserved(one) = get("lost").await.unwrap() else { panic!() };
    assert!(one.commit(T0).await.is_err());
    let expected = [("forgotten", ROLLBACK), ("down", ROLLBACK), ("lost", Settlement::Commit)];
    assert_eq!(*leaks.lock().unwrap(), expected.map(|(name, how)| (name.to_owned(), how)));
}

#[tokio::test]
async fn a_future_dropped_while_the_store_answers_is_rolled_back() {
    let remote = Arc::new(Remote::default());
    let (leaks, on_leak) = leaks();
    let charges = [minute("a", 1, 1)];
    {
        let mut future = pin!(reserve(&remote, id("slow"), &charges, T0, LEASE, on_leak));
        let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
        assert!(polled, "the store has not answered yet");
    }
    assert_eq!(*remote.asked.lock().unwrap(), [id("slow")]);
    assert_eq!(*leaks.lock().unwrap(), [("slow".to_owned(), ROLLBACK)]);
}

#[tokio::test]
async fn nothing_to_charge_does_not_touch_the_ledger() {
    let remote = Arc::new(Remote::default());
    let (_, on_leak) = leaks();
    for charges in [Vec::new(), vec![minute("a", 0, 0), minute("b", 0, 5)]] {
        let answer = reserve(&remote, id("1"), &charges, T0, LEASE, Arc::clone(&on_leak)).await.unwrap();
        assert!(matches!(answer, Reserve::Free));
    }
    assert!(remote.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_leak_is_rolled_back_in_memory_at_once() {
    let ledger = Arc::new(ledger(10, 10));
    let clock = Arc::new(ManualClock::new(T0));
    let reported = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&reported);
    let on_leak = settle_leaks(Arc::clone(&ledger), clock, move |_, how, settled| {
        seen.lock().unwrap().push((how, settled.unwrap()));
    });
    let charges = [minute("a", 1, 1)];
    for name in ["1", "2"] {
        let answer = reserve(&ledger, id(name), &charges, T0, LEASE, Arc::clone(&on_leak)).await.unwrap();
        assert!(matches!(answer, Reserve::Reserved(_)));
        drop(answer);
    }
    assert_eq!(*reported.lock().unwrap(), [(ROLLBACK, Settled::Now), (ROLLBACK, Settled::Now)]);
}
