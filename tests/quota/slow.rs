//! Servers that stand still, and replies that never come.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use mcp_authz::quota::{Ledger as _, LedgerError, ReservationId, Ticket};
use mcp_authz_core::ledger::{Finish, Finished, Speaker};

use crate::harness::{
    Dice,
    load::{Load, Tally},
    proxy::{Flow, Proxy},
    replica::{Answer, Replica, settings},
    server::Server,
    soak,
    store::{Limit, contents},
    until,
};

/// What is counted in the end is what clients were told is held: every unknown outcome was rolled back.
async fn exact(server: &Server, replicas: &[Arc<Replica>], tally: Tally) {
    for replica in replicas {
        replica.settled().await;
    }
    until("the count is exact", async || (contents(server).await.used("total") <= tally.held).then_some(())).await;
    let contents = contents(server).await;
    assert_eq!((contents.used("total"), contents.used("hour")), (tally.held, tally.held), "{tally:?}");
}

fn order() -> [(Limit, u64); 2] {
    [(Limit::lifetime("total", 1 << 30), 1), (Limit::hour("hour", 1 << 30), 1)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_denies_and_miscounts_nothing() {
    let mut dice = Dice::for_test("still");
    let server = Server::start(&[]).await;
    let mut settings = settings(server.address);
    settings.timeout = Duration::from_millis(40);
    let replicas = [Arc::new(Replica::open(settings.clone()).await), Arc::new(Replica::open(settings).await)];
    let load = Load::start(&replicas, 4, &order());
    for round in 0..4 * soak() {
        load.more("calls go", 40, |tally| tally.held).await;
        server.signal("STOP").await;
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(dice.between(80, 120))).await;
        } else {
            // Long enough for every call under way to run out of time, and for the rollbacks that follow to wait too.
            load.more("calls are denied", 30, |tally| tally.denied()).await;
            tokio::time::sleep(Duration::from_millis(dice.between(2_000, 3_000))).await;
        }
        server.signal("CONT").await;
    }
    load.more("calls go", 40, |tally| tally.held).await;
    let tally = load.stop().await;
    eprintln!("{tally:?}");
    assert!(tally.unknown > 0, "no call ran out of time: nothing was shown");
    exact(&server, &replicas, tally).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_command_of_somebody_else_miscounts_nothing() {
    let server = Server::start(&[]).await;
    let mut settings = settings(server.address);
    settings.timeout = Duration::from_millis(40);
    let replicas = [Arc::new(Replica::open(settings).await)];
    let load = Load::start(&replicas, 8, &order());
    for round in 0..6 * soak() {
        load.more("calls go", 40, |tally| tally.held).await;
        if round % 2 == 0 {
            server.must(&["DEBUG", "SLEEP", "0.2"]).await;
        } else {
            server.must(&["CLIENT", "PAUSE", "200", "WRITE"]).await;
        }
    }
    load.more("calls go", 40, |tally| tally.held).await;
    let tally = load.stop().await;
    eprintln!("{tally:?}");
    exact(&server, &replicas, tally).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_are_lost_miscount_nothing() {
    let mut dice = Dice::for_test("lost replies");
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.address).await;
    let replicas = [Arc::new(Replica::open(settings(proxy.address)).await)];
    let load = Load::start(&replicas, 4, &order());
    for round in 0..12 * soak() {
        load.more("calls go", 40, |tally| tally.held).await;
        match round % 3 {
            // Cut in the middle of a reply: the call is asked again over another connection, and held before.
            0 => proxy.cut_after(dice.between(1, 400)),
            1 => proxy.sever(),
            _ => {
                proxy.down(Flow::Drop);
                load.more("replies are missed", 2, |tally| tally.denied()).await;
                proxy.down(Flow::Pass);
            }
        }
    }
    load.more("calls go", 40, |tally| tally.held).await;
    let tally = load.stop().await;
    eprintln!("{tally:?}");
    exact(&server, &replicas, tally).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_beats_the_hold_that_it_overtook() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::start(server.address).await;
    let (near, far) = (Replica::open(settings(server.address)).await, Replica::open(settings(proxy.address)).await);
    let limit = Limit::lifetime("total", 10);
    assert!(far.take(&limit).await.goes());
    proxy.up(Flow::Stall);
    let leaked = Arc::new(Mutex::new(None));
    let leaks = Arc::clone(&leaked);
    let id = ReservationId::from_envoy("18446744073709551615").expect("randomness");
    let on_leak =
        Arc::new(move |ticket: Ticket, how: Finish| *leaks.lock().expect("no panic") = Some((ticket.booking, how)));
    let answer = far.reserve_with(id, &[(&limit, 1)], on_leak).await;
    assert!(matches!(answer, Answer::Failed(LedgerError::Unknown(_))), "nobody can know");
    let (booking, how) = leaked.lock().expect("no panic").take().expect("a rollback is owed");
    assert_eq!(how, Finish::RollBack(Speaker::Attempt(booking.attempt)));
    // The rollback goes another way, and is there first.
    assert_eq!(near.ledger.finish(&booking, &how).await.expect("an answer"), Finished::Unknown);
    proxy.both(Flow::Pass);
    until("the hold that was overtaken has arrived", async || far.take(&limit).await.goes().then_some(())).await;
    let key = format!("pq1:{{default}}:r:{}", booking.id);
    assert!(server.must(&["GET", &key]).await.text().starts_with("x "), "it stays rolled back");
    let again = near.reserve(booking.id.clone(), &[(&limit, 1)]).await;
    assert!(matches!(again, Answer::Failed(LedgerError::RolledBack)), "and cannot be held any more");
}
