//! The server comes back without its data.

use std::sync::Arc;

use mcp_authz_core::quota::Measure;

use crate::harness::{
    load::Load,
    replica::{Replica, settings},
    server::Server,
    store::{Limit, contents},
    until,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_empty_denies_what_it_cannot_know() {
    const SPAN_MS: u64 = 3_000;
    let mut server = Server::start(&[]).await;
    let replicas = [open(&server).await, open(&server).await];
    let total = Limit::lifetime("total", 5);
    let short = Limit::new("short", Measure::Rolling { bucket_ms: SPAN_MS / 10, buckets: 10 }, 1_000);
    let lenient = Limit::lifetime("lenient", 1_000).allowed_without();
    for replica in &replicas {
        for limit in [&total, &short, &lenient] {
            assert!(replica.take(limit).await.goes());
        }
    }
    server.kill().await;
    assert!(!replicas[0].take(&total).await.goes());
    server.wipe();
    server.run().await;
    for replica in &replicas {
        let wait_ms = until("the loss is noticed", async || {
            let answer = replica.take(&total).await;
            assert!(!answer.goes(), "a strict call went although nobody knows the count");
            answer.lost()
        })
        .await;
        assert_eq!(wait_ms, None, "a total of a lifetime waits for an operator");
        until("limits that may go go", async || replica.take(&lenient).await.goes().then_some(())).await;
    }
    // What was lost of a short window stops to matter by itself.
    until("the short window is over", async || replicas[0].take(&short).await.goes().then_some(())).await;
    assert!(!replicas[0].take(&total).await.goes());
    assert!(replicas[1].engine().accept_loss().await.expect("an answer"), "there was a loss");
    for replica in &replicas {
        until("calls go after the loss was accepted", async || replica.take(&total).await.goes().then_some(())).await;
    }
    // The counter has started anew, with what each of ours remembered of the last seconds.
    assert!((2..=4).contains(&contents(&server).await.used("total")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_emptied_while_it_is_used_lets_no_strict_call_go() {
    let server = Server::start(&[]).await;
    let replicas = [Arc::new(open(&server).await), Arc::new(open(&server).await)];
    let load = Load::start(&replicas, 2, &[(Limit::lifetime("total", 1 << 30), 1)]);
    load.more("calls go", 50, |tally| tally.held).await;
    server.must(&["FLUSHALL"]).await;
    // Answers from before it may still be on their way.
    load.more("calls are denied", 40, |tally| tally.denied()).await;
    let held = load.tally().held;
    load.more("the loss is noticed", 50, |tally| tally.lost).await;
    assert_eq!(load.tally().held, held, "a call went although nobody knows the count");
    replicas[0].engine().accept_loss().await.expect("an answer");
    load.more("calls go after the loss was accepted", 50, |tally| tally.held).await;
    let tally = load.stop().await;
    let counted = contents(&server).await.used("total");
    assert!(counted >= tally.held - held && counted <= tally.held + tally.unknown, "{counted} counted, {tally:?}");
}

async fn open(server: &Server) -> Replica {
    Replica::open(settings(server.address)).await
}
