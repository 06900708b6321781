//! Nobody is there: how fast a call is told, and what becomes of those that may go all the same.

use std::time::Duration;

use mcp_authz_core::quota::Measure;
use tokio::time::Instant;

use crate::harness::{
    replica::{Answer, Replica, settings},
    server::Server,
    store::{Limit, contents},
    until,
};

/// How long an answer may take while the breaker is open: the middle one of many, since others use this machine too.
const AT_ONCE: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_every_call_is_answered_at_once_and_counted_later() {
    let mut server = Server::start(&[]).await;
    let replica = Replica::open(settings(server.address)).await;
    let strict = Limit::hour("strict", 1 << 30);
    let lenient = Limit::hour("lenient", 1 << 30).allowed_without();
    let slots = Limit::new("slots", Measure::InFlight { lease_ms: 60_000 }, 1 << 30);
    assert!(replica.take(&strict).await.goes() && replica.take(&lenient).await.goes());
    server.kill().await;
    until("the breaker is open", async || {
        assert!(!replica.take(&strict).await.goes());
        (replica.opened() > 0 || !replica.engine().is_connected()).then_some(())
    })
    .await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        assert!(matches!(replica.take(&strict).await, Answer::Failed(_)));
        times.push(began.elapsed());
    }
    times.sort_unstable();
    eprintln!("answered within {:?}, {:?} at worst", times[100], times[199]);
    assert!(times[100] < AT_ONCE, "{:?}", times[100]);
    for _ in 0..50 {
        assert!(matches!(replica.take(&lenient).await, Answer::Unmetered));
    }
    let mixed = replica.spend(&[(&lenient, 1), (&slots, 1)]).await;
    assert!(!mixed.goes(), "one strict limit is enough to deny");
    server.run().await;
    let mut went = 1 + 50;
    until("calls are held again", async || {
        let answer = replica.take(&lenient).await;
        went += u64::from(answer.goes());
        matches!(answer, Answer::Spent).then_some(())
    })
    .await;
    until("what went meanwhile is counted", async || (contents(&server).await.used("lenient") == went).then_some(()))
        .await;
    until("strict calls go again", async || replica.take(&strict).await.goes().then_some(())).await;
    assert_eq!(contents(&server).await.used("strict"), 2, "what was denied is not counted");
}
