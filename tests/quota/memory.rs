//! Servers that have no room, evict, only read, or no longer let us in.

use std::sync::Arc;

use crate::harness::{
    load::Load,
    replica::{Replica, settings},
    server::Server,
    soak,
    store::{Limit, contents},
    until,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_denies_and_applies_nothing_by_halves() {
    let server = Server::start(&[]).await;
    let replicas = [open(&server).await, open(&server).await];
    let (hour, total) = (Limit::hour("hour", 1 << 30), Limit::lifetime("total", 1 << 30));
    let load = Load::start(&replicas, 2, &[(hour, 1), (total, 1)]);
    for _ in 0..4 * soak() {
        load.more("calls go", 50, |tally| tally.held).await;
        server.must(&["CONFIG", "SET", "maxmemory", "1"]).await;
        load.more("calls are denied", 30, |tally| tally.refused).await;
        server.must(&["CONFIG", "SET", "maxmemory", "0"]).await;
    }
    let tally = load.stop().await;
    for replica in &replicas {
        replica.settled().await;
    }
    let contents = contents(&server).await;
    let (hour, total) = (contents.used("hour"), contents.used("total"));
    eprintln!("{tally:?}; {hour} and {total} counted");
    assert_eq!(hour, total, "all or nothing");
    assert!(hour >= tally.held && hour <= tally.held + tally.unknown, "{hour} counted, {tally:?}");
}

async fn open(server: &Server) -> Arc<Replica> {
    Arc::new(Replica::open(settings(server.address)).await)
}

/// Strict calls are denied once `broken` is noticed, and go again after `mended`; what went is counted, and nothing else.
async fn denies_while(server: &Server, broken: &[&str], mended: &[&str]) {
    let replica = open(server).await;
    let strict = Limit::lifetime("total", 1 << 30);
    assert!(replica.take(&strict).await.goes());
    let mut went = 1;
    server.must(broken).await;
    until("strict calls are denied", async || {
        let goes = replica.take(&strict).await.goes();
        went += u64::from(goes);
        (!goes).then_some(())
    })
    .await;
    for _ in 0..10 {
        assert!(!replica.take(&strict).await.goes(), "a call went after it had been noticed");
    }
    server.must(mended).await;
    replica.settled().await;
    until("calls go again", async || replica.take(&strict).await.goes().then_some(())).await;
    assert_eq!(contents(server).await.used("total"), went + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_policy_that_loses_counts_is_noticed_while_we_run() {
    let server = Server::start(&[]).await;
    denies_while(
        &server,
        &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"],
        &["CONFIG", "SET", "maxmemory-policy", "noeviction"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_becomes_a_replica_denies() {
    let (server, other) = tokio::join!(Server::start(&[]), Server::start(&[]));
    let port = other.address.port().to_string();
    let replica = open(&server).await;
    let strict = Limit::lifetime("total", 1 << 30);
    assert!(replica.take(&strict).await.goes());
    // The other has nothing, and whoever becomes its replica loses what it had.
    server.must(&["REPLICAOF", "127.0.0.1", &port]).await;
    server.in_sync().await;
    for _ in 0..10 {
        assert!(!replica.take(&strict).await.goes(), "a replica does not write");
    }
    server.must(&["REPLICAOF", "NO", "ONE"]).await;
    let wait_ms = until("the loss is noticed", async || {
        let answer = replica.take(&strict).await;
        assert!(!answer.goes(), "a call went although the counts are gone");
        answer.lost()
    })
    .await;
    assert_eq!(wait_ms, None, "a total of a lifetime waits for an operator");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_denies() {
    let server = Server::start(&[]).await;
    denies_while(
        &server,
        &["ACL", "SETUSER", "default", "-eval", "-evalsha"],
        &["ACL", "SETUSER", "default", "+eval", "+evalsha"],
    )
    .await;
    let server = Server::start(&[]).await;
    denies_while(
        &server,
        &["ACL", "SETUSER", "default", "resetkeys", "~other:*"],
        &["ACL", "SETUSER", "default", "allkeys"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_misses_its_replicas_denies() {
    let server = Server::start(&[]).await;
    denies_while(
        &server,
        &["CONFIG", "SET", "min-replicas-to-write", "1"],
        &["CONFIG", "SET", "min-replicas-to-write", "0"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsafe_server_is_refused_at_the_start() {
    let evicting = Server::start(&["--maxmemory-policy", "allkeys-lru"]).await;
    let error = Replica::try_open(settings(evicting.address)).await.err().expect("refused").to_string();
    assert!(error.contains("noeviction"), "{error}");
    let mut settings_of_risk = settings(evicting.address);
    settings_of_risk.allow_unsafe = true;
    Replica::open(settings_of_risk).await;

    let (master, replica) = tokio::join!(Server::start(&[]), Server::start(&[]));
    let port = master.address.port().to_string();
    replica.must(&["REPLICAOF", "127.0.0.1", &port]).await;
    replica.in_sync().await;
    let error = Replica::try_open(settings(replica.address)).await.err().expect("refused").to_string();
    assert!(error.contains("replica"), "{error}");
}
