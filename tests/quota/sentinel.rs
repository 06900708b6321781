//! Sentinels replace the master, and the engine finds the new one.

use std::sync::Arc;

use mcp_authz::quota::redis::{Place, Settings, Topology};

use crate::harness::{
    PATIENCE,
    load::Load,
    replica::{Replica, tuned},
    resp::Value,
    server::Server,
    store::{Limit, contents},
    until,
};

/// Three Sentinels that agree on the master and know its replica.
async fn sentinels(master: &Server) -> Vec<Server> {
    let lines = format!(
        "sentinel monitor quotas 127.0.0.1 {} 2\nsentinel down-after-milliseconds quotas 700\n\
         sentinel failover-timeout quotas 3000",
        master.address.port()
    );
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        sentinels.push(Server::sentinel(&lines).await);
    }
    for sentinel in &sentinels {
        until("the sentinels know each other and the replica", async || {
            let reply = sentinel.call(&["SENTINEL", "MASTER", "quotas"]).await.ok()?;
            let words: Vec<String> = reply.list().iter().map(Value::text).collect();
            let field = |name: &str| words.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
            (field("num-other-sentinels")? == "2" && field("num-slaves")? == "1").then_some(())
        })
        .await;
    }
    sentinels
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_that_sentinels_choose_is_found_and_counts_on() {
    let (old, new) = tokio::join!(Server::start(&[]), Server::start(&[]));
    let port = old.address.port().to_string();
    new.must(&["REPLICAOF", "127.0.0.1", &port]).await;
    new.in_sync().await;
    let sentinels = sentinels(&old).await;
    let places = sentinels.iter().map(|server| Place::parse(&format!("redis://{}", server.address)).expect("a place"));
    let topology = Topology::Sentinel { sentinels: places.collect(), master: "quotas".to_owned(), password_file: None };
    let settings: Settings = tuned(Settings::new(topology));
    // One waits for an answer for as long as it takes, so that late ones of the old master reach it.
    let mut patient = settings.clone();
    patient.timeout = PATIENCE;
    let mut patient = Replica::open(patient).await;
    patient.budget = PATIENCE;
    let replicas = [Arc::new(Replica::open(settings).await), Arc::new(patient)];
    let load = Load::start(&replicas, 3, &[(Limit::lifetime("total", 1 << 30), 1)]);
    load.more("calls go", 100, |tally| tally.held).await;
    // It stands still with questions in its queue, and answers them when it goes on: as a master that is none any more.
    old.signal("STOP").await;
    load.more("calls are denied", 5, |tally| tally.denied()).await;
    for sentinel in &sentinels {
        until("every Sentinel names the new master", async || {
            let reply = sentinel.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "quotas"]).await.ok()?;
            (reply.list()[1].text() == new.address.port().to_string()).then_some(())
        })
        .await;
    }
    load.more("calls go again", 50, |tally| tally.held).await;
    until("the other one uses the new master", async || {
        replicas[1].take(&Limit::hour("other", 1 << 30)).await.goes().then_some(())
    })
    .await;
    let before = load.tally();
    old.signal("CONT").await;
    // What it says now was never counted by the new one, so it must not go. A Sentinel may be faster and cut its connections: then the
    // same question is asked of the new master, and may be held there.
    until("the questions that waited are answered", async || {
        let now = load.tally();
        (now.unknown > before.unknown || now.held >= before.held + 2_000).then_some(())
    })
    .await;
    load.more("calls go on the new master", 100, |tally| tally.held).await;
    let tally = load.stop().await;
    for replica in &replicas {
        replica.settled().await;
    }
    let counted = contents(&new).await.used("total");
    eprintln!("{tally:?}; {counted} counted");
    assert!(counted >= tally.held && counted <= tally.held + tally.unknown, "{counted} counted, {tally:?}");
}
