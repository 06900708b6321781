//! The master dies with calls that its replica never got, or two masters live at once.

use std::sync::Arc;

use mcp_authz::quota::redis::Durability;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::harness::{
    Dice,
    load::Load,
    log::{History, Writer},
    proxy::{Flow, Proxy},
    replica::{Replica, Skewed, settings},
    resp::Value,
    server::Server,
    soak,
    store::{Limit, contents},
    until,
    worker::{Menu, limits_held, offsets_s, work},
};

/// A master, a replica that follows it through a proxy, and the name under which clients find the master.
struct Pair {
    master: Server,
    replica: Server,
    link: Proxy,
    service: Proxy,
}

impl Pair {
    async fn start() -> Self {
        let (master, replica) = tokio::join!(Server::start(&[]), Server::start(&[]));
        let (link, service) = (Proxy::start(master.address).await, Proxy::start(master.address).await);
        let port = link.address.port().to_string();
        replica.must(&["REPLICAOF", "127.0.0.1", &port]).await;
        replica.in_sync().await;
        // Until then `WAIT` does not count it.
        until("the master knows its replica", async || {
            let reply = master.call(&["WAIT", "1", "100"]).await.ok()?;
            (reply == Value::Int(1)).then_some(())
        })
        .await;
        Self { master, replica, link, service }
    }

    /// What the master sends to its replica stays in the proxy from now on.
    fn stall(&self) {
        self.link.down(Flow::Stall);
    }

    /// Kills the master and makes its replica the master, which nobody is told yet.
    async fn fail_over(&mut self) {
        self.master.kill().await;
        self.link.close(true);
        self.replica.must(&["REPLICAOF", "NO", "ONE"]).await;
    }
}

async fn replicas(pair: &Pair, count: usize, durability: Durability) -> Vec<Arc<Replica>> {
    let mut replicas = Vec::new();
    for _ in 0..count {
        let mut settings = settings(pair.service.address);
        settings.durability = durability;
        replicas.push(Arc::new(Replica::open(settings).await));
    }
    replicas
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lagging_replica_never_got_is_counted_again() {
    let mut pair = Pair::start().await;
    let replicas = replicas(&pair, 3, Durability::Async).await;
    let (hour, total) = (Limit::hour("hour", 1 << 30), Limit::lifetime("total", 1 << 30));
    let load = Load::start(&replicas, 2, &[(hour.clone(), 1), (total.clone(), 2)]);
    load.more("calls go", 100, |tally| tally.held).await;
    pair.stall();
    load.more("calls go that are not replicated", 300, |tally| tally.held).await;
    pair.fail_over().await;
    load.more("calls are denied", 20, |tally| tally.denied()).await;
    let known = contents(&pair.replica).await.used("hour");
    let held = load.tally().held;
    assert!(known + 250 < held, "the replica had {known} of {held}: nothing to count again");
    pair.service.retarget(pair.replica.address);
    load.more("strict calls are denied while every replica counts again", 1, |tally| tally.fenced).await;
    load.more("calls go again", 100, |tally| tally.held).await;
    let tally = load.stop().await;
    for replica in &replicas {
        replica.settled().await;
    }
    let contents = contents(&pair.replica).await;
    let (hour, total) = (contents.used("hour"), contents.used("total"));
    eprintln!("{tally:?}; the new master knew {known}; {hour} counted in the end");
    assert_eq!(total, 2 * hour, "all or nothing");
    assert!(hour >= tally.held, "{hour} counted of {}", tally.held);
    assert!(hour <= tally.held + tally.unknown, "{hour} counted of {} and {} unknown", tally.held, tally.unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_waits_for_a_replica_is_never_lost() {
    let mut pair = Pair::start().await;
    let replicas = replicas(&pair, 2, Durability::Wait(1)).await;
    let total = Limit::lifetime("total", 1 << 30);
    let load = Load::start(&replicas, 2, &[(total.clone(), 1)]);
    load.more("calls go", 100, |tally| tally.held).await;
    pair.stall();
    load.more("calls are denied that are not replicated", 20, |tally| tally.denied()).await;
    pair.fail_over().await;
    // Nobody has counted anything again yet: the engine cannot reach the new master.
    let known = contents(&pair.replica).await.used("total");
    let held = load.tally().held;
    assert!(known >= held, "{known} of {held} survived");
    pair.service.retarget(pair.replica.address);
    let tally = load.stop().await;
    eprintln!("{tally:?}; the new master knew {known}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_masters_admit_no_more_than_each_its_limit_and_are_added_up_afterwards() {
    const MAX: u64 = 200;
    let mut pair = Pair::start().await;
    let other = Proxy::start(pair.master.address).await;
    let mut far = settings(other.address);
    far.durability = Durability::Async;
    let near = replicas(&pair, 1, Durability::Async).await;
    let far = [Arc::new(Replica::open(far).await)];
    let limit = Limit::lifetime("total", MAX);
    let order = [(limit.clone(), 1)];
    let (here, there) = (Load::start(&near, 2, &order), Load::start(&far, 2, &order));
    here.more("calls go", 20, |tally| tally.held).await;
    there.more("calls go", 20, |tally| tally.held).await;
    // The network parts: one side promotes the replica, the other goes on with the old master.
    pair.link.close(true);
    pair.replica.must(&["REPLICAOF", "NO", "ONE"]).await;
    other.retarget(pair.replica.address);
    here.more("one side is used up", 5, |tally| tally.limited).await;
    there.more("the other side is used up", 5, |tally| tally.limited).await;
    let (mine, theirs) = (here.tally().held, there.tally().held);
    assert!(mine + theirs <= 2 * MAX, "{mine} and {theirs}");
    // It heals: the old master is gone, and everybody uses the new one.
    pair.master.kill().await;
    pair.service.retarget(pair.replica.address);
    here.more("the new master answers", 5, |tally| tally.limited).await;
    let (mine, theirs) = (here.stop().await, there.stop().await);
    for replica in near.iter().chain(&far) {
        replica.settled().await;
    }
    let counted = contents(&pair.replica).await.used("total");
    eprintln!("{mine:?}, {theirs:?}, {counted} counted");
    let held = mine.held + theirs.held;
    assert!(held <= 2 * MAX && counted >= held && counted <= held + mine.unknown + theirs.unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_limit_is_exceeded_while_the_master_changes() {
    let mut dice = Dice::for_test("change");
    let mut pair = Pair::start().await;
    let folder = TempDir::new().expect("a temporary folder");
    let log = folder.path().join("log");
    let offsets_s = offsets_s([4, 7, 11]);
    let (stop, stopped) = watch::channel(false);
    let mut clients = Vec::new();
    for skew_ms in [0, -5_000, 3_000, 700] {
        let replica = Replica::open_at(settings(pair.service.address), Skewed::by(skew_ms)).await;
        let (log, dice, stopped) = (Writer::open(&log), Dice::new(dice.next()), stopped.clone());
        clients.push(tokio::spawn(async move {
            work(&replica, &Menu::new(offsets_s), &log, dice, stopped).await;
            replica
        }));
    }
    let more = async |count: usize| {
        let before = History::read(&log).runs();
        until("calls run", async || (History::read(&log).runs() >= before + count).then_some(())).await;
    };
    more(150).await;
    pair.stall();
    more(100).await;
    pair.fail_over().await;
    pair.service.retarget(pair.replica.address);
    more(300).await;
    stop.send_replace(true);
    for client in clients {
        client.await.expect("no client panics").settled().await;
    }
    let history = History::read(&log);
    eprintln!("{} ran, {:?}", history.runs(), limits_held(&history));
    let contents = contents(&pair.replica).await;
    let (total, twin, ran) = (contents.used("total"), contents.used("twin"), history.executed("total"));
    assert_eq!(total, twin, "all or nothing");
    assert!(total >= ran, "{ran} ran, {total} counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_counts_on() {
    let mut server = Server::start(&[]).await;
    let replicas = [open(&server).await, open(&server).await];
    let load = Load::start(&replicas, 2, &[(Limit::hour("hour", 1 << 30), 1), (Limit::lifetime("total", 1 << 30), 1)]);
    for _ in 0..2 * soak() {
        load.more("calls go", 60, |tally| tally.held).await;
        server.kill().await;
        load.more("calls are denied", 5, |tally| tally.denied()).await;
        server.run().await;
    }
    load.more("calls go again", 60, |tally| tally.held).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_the_journal_holds_are_lost_and_strict_limits_deny() {
    let mut pair = Pair::start().await;
    let mut settings = settings(pair.service.address);
    settings.journal_max = 100;
    let busy = [Arc::new(Replica::open(settings).await)];
    // Whoever comes first must not hide from the other what is missing.
    let idle = replicas(&pair, 2, Durability::Async).await;
    let load = Load::start(&busy, 4, &[(Limit::lifetime("total", 1 << 30), 1)]);
    load.more("calls go", 50, |tally| tally.held).await;
    pair.stall();
    load.more("calls go that nobody will remember", 300, |tally| tally.held).await;
    pair.fail_over().await;
    load.more("calls are denied", 60, |tally| tally.denied()).await;
    let held = load.tally().held;
    pair.service.retarget(pair.replica.address);
    load.more("the loss is noticed", 10, |tally| tally.lost).await;
    assert_eq!(load.stop().await.held, held, "a strict call went although counts are missing");
    let counted = contents(&pair.replica).await.used("total");
    assert!(counted < held, "{counted} of {held} counted: nothing was lost");
    for replica in &idle {
        assert!(!replica.take(&Limit::lifetime("total", 1 << 30)).await.goes(), "the loss concerns everybody");
    }
}

async fn open(server: &Server) -> Arc<Replica> {
    Arc::new(Replica::open(settings(server.address)).await)
}
