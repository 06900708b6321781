//! The store is slow, full, or away.

use super::*;

fn quick(server: &RedisServer) -> Settings {
    Settings { timeout: Duration::from_millis(40), ..settings(server) }
}

#[tokio::test]
async fn an_answer_that_comes_late_is_asked_for_again_and_charged_once() {
    let server = RedisServer::start(&[]);
    let (ledger, _) = ready(Settings { timeout: Duration::from_millis(300), ..settings(&server) }).await;
    server.stop();
    let (first, second) = (call(&ledger, "1", 9), call(&ledger, "2", 9));
    let go_on = async {
        tokio::time::sleep(Duration::from_millis(350)).await;
        server.cont();
    };
    let (one, two, ()) =
        tokio::join!(ledger.reserve(&first, HOLD, soon()), ledger.reserve(&second, HOLD, soon()), go_on);
    for reply in [one, two] {
        assert!(matches!(reply.unwrap().code, Code::Held | Code::HeldBefore));
    }
    assert_eq!(used(&ledger).await, 2);
}

#[tokio::test]
async fn a_hold_of_which_nobody_knows_is_taken_back_exactly() {
    let server = RedisServer::start(&[]);
    let (ledger, said) = ready(quick(&server)).await;
    assert_eq!(ledger.reserve(&call(&ledger, "before", 9), HOLD, soon()).await.unwrap().code, Code::Held);
    server.stop();
    let lost = [call(&ledger, "1", 9), call(&ledger, "2", 9)];
    for lost in &lost {
        let started = Instant::now();
        let error = ledger.reserve(lost, HOLD, soon()).await.unwrap_err();
        assert!(error.may_be_applied(), "{error:?}");
        assert!(started.elapsed() < Duration::from_millis(140), "{:?}", started.elapsed());
    }
    server.cont();
    for lost in &lost {
        wait_for("it is taken back", async || ledger.finish(lost, &own(lost)).await.is_ok()).await;
        // Whether the hold or the rollback was first, nothing is held.
        let again = ledger.reserve(lost, HOLD, soon()).await.unwrap();
        assert_eq!(again.code, Code::RolledBack);
    }
    assert_eq!(used(&ledger).await, 1);
    assert!(said.has(Event::Outage(Outage::Timeout)));
}

#[tokio::test]
async fn while_the_breaker_is_open_the_answer_is_no_and_at_once() {
    let server = RedisServer::start(&[]);
    let (ledger, said) = ready(quick(&server)).await;
    assert_eq!(ledger.reserve(&call(&ledger, "0", 99), HOLD, soon()).await.unwrap().code, Code::Held);
    server.stop();
    let mut unknown = Vec::new();
    wait_for("the breaker opens", async || {
        let booking = call(&ledger, &format!("u{}", unknown.len()), 99);
        let error = ledger.reserve(&booking, HOLD, soon()).await.unwrap_err();
        unknown.push(booking);
        assert!(unknown.len() < 10, "{error:?}");
        said.has(Event::BreakerOpened)
    })
    .await;
    let started = Instant::now();
    for n in 0..1_000 {
        let error = ledger.reserve(&call(&ledger, &format!("r{n}"), 99), HOLD, soon()).await.unwrap_err();
        assert!(matches!(error, LedgerError::Refused(_)), "{error:?}");
    }
    assert!(started.elapsed() < Duration::from_millis(250), "a thousand took {:?}", started.elapsed());
    // Three seconds after it stood still, as a test of its own would have it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!ledger.is_connected());
    server.cont();
    wait_for("it is in use again", async || ledger.is_connected()).await;
    for booking in &unknown {
        ledger.finish(booking, &own(booking)).await.unwrap();
    }
    assert_eq!(ledger.reserve(&call(&ledger, "1", 99), HOLD, soon()).await.unwrap().code, Code::Held);
    assert_eq!(used(&ledger).await, 2);
}

#[tokio::test]
async fn a_full_store_refuses_and_counts_nothing() {
    let server = RedisServer::start(&[]);
    let (ledger, said) = ready(settings(&server)).await;
    assert_eq!(ledger.reserve(&call(&ledger, "0", 99), HOLD, soon()).await.unwrap().code, Code::Held);
    tell(&server, &["CONFIG", "SET", "maxmemory", "1mb"]);
    let lines = vec![line(1, day(&ledger), 99), line(2, day(&ledger), 99)];
    for n in 0..3 {
        let error = ledger.reserve(&booking(&format!("f{n}"), lines.clone()), HOLD, soon()).await.unwrap_err();
        assert!(matches!(&error, LedgerError::Refused(why) if why.to_string().contains("OOM")), "{error:?}");
    }
    assert!(said.has(Event::Outage(Outage::Refused)));
    tell(&server, &["CONFIG", "SET", "maxmemory", "0"]);
    let both = ledger.peek(&[line(1, day(&ledger), 99), line(2, day(&ledger), 99)]).await.unwrap();
    assert_eq!((both[0].used, both[1].used), (1, 0));
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_left() {
    let (server, other) = (RedisServer::start(&[]), RedisServer::start(&[]));
    let (ledger, said) = ready(settings(&server)).await;
    assert_eq!(ledger.reserve(&call(&ledger, "0", 99), HOLD, soon()).await.unwrap().code, Code::Held);
    tell(&server, &["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    let error = ledger.reserve(&call(&ledger, "1", 99), HOLD, soon()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Refused(_)), "{error:?}");
    wait_for("it is found out", async || said.has(Event::Unsafe)).await;
    assert!(!ledger.is_connected());
    tell(&server, &["REPLICAOF", "NO", "ONE"]);
    wait_for("it is in use again", async || ledger.is_connected()).await;
}

#[tokio::test]
async fn a_call_that_goes_uncounted_is_counted_when_the_store_is_back() {
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (ledger, _) = ready(settings(&server)).await;
    assert_eq!(ledger.reserve(&call(&ledger, "0", 99), HOLD, soon()).await.unwrap().code, Code::Held);
    server.kill();
    wait_for("it is away", async || !ledger.is_connected()).await;
    for n in 1..=4 {
        let booking = call(&ledger, &n.to_string(), 99);
        assert!(matches!(ledger.reserve(&booking, HOLD, soon()).await, Err(LedgerError::Refused(_))));
        ledger.admitted_unmetered(&Arc::new(booking));
    }
    server.restart();
    wait_for("it is in use again", async || ledger.is_connected()).await;
    wait_for("they are counted", async || used(&ledger).await == 5).await;
    // And once only.
    let again = ledger.reserve(&call(&ledger, "4", 99), HOLD, soon()).await.unwrap();
    assert_eq!(again.code, Code::HeldBefore);
}

#[tokio::test]
async fn a_hold_counts_when_replicas_have_it_or_not_at_all() {
    let server = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
    let durable =
        Settings { durability: Durability::Wait(1), wait_timeout: Duration::from_millis(500), ..settings(&server) };
    let (ledger, said) = ready(durable).await;
    let alone = call(&ledger, "0", 99);
    let error = ledger.reserve(&alone, HOLD, soon()).await.unwrap_err();
    assert!(error.may_be_applied() && said.has(Event::Outage(Outage::NotDurable)), "{error:?}");
    ledger.finish(&alone, &own(&alone)).await.unwrap();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &server.port().to_string()]);
    let mut writer = server.connect();
    let mut in_a_row = 0;
    wait_for("it is replicated", async || {
        writer.call(&["SET", "x", "y"]).unwrap();
        // A new replica confirms at first what it got with the snapshot, and starts to listen only a moment later.
        in_a_row = if writer.call(&["WAIT", "1", "50"]).unwrap().int() == Some(1) { in_a_row + 1 } else { 0 };
        in_a_row > 20
    })
    .await;
    let calls: Vec<_> = (1..=20).map(|n| call(&ledger, &n.to_string(), 99)).collect();
    let mut all = tokio::task::JoinSet::new();
    let ledger = Arc::new(ledger);
    for call in calls {
        let ledger = Arc::clone(&ledger);
        all.spawn(async move { ledger.reserve(&call, HOLD, soon()).await.unwrap().code });
    }
    assert!(all.join_all().await.iter().all(|code| *code == Code::Held));
    replica.stop();
    let error = ledger.reserve(&call(&ledger, "21", 99), HOLD, soon()).await.unwrap_err();
    assert!(error.may_be_applied(), "{error:?}");
    // The same question again, over whatever connection: still nobody has confirmed it.
    let error = ledger.reserve(&call(&ledger, "21", 99), HOLD, soon()).await.unwrap_err();
    assert!(error.may_be_applied(), "{error:?}");
    replica.cont();
}

#[tokio::test]
async fn a_store_that_is_away_at_the_start_is_used_when_it_comes() {
    let mut server = RedisServer::start(&[]);
    let settings = settings(&server);
    server.kill();
    let (ledger, _) = start(settings).await;
    let early = call(&ledger, "0", 9);
    let error = ledger.reserve(&early, HOLD, soon()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Refused(_)), "{error:?}");
    let before = ledger.keys();
    server.restart();
    assert!(ledger.connected(Instant::now() + PATIENCE).await);
    assert!(!Arc::ptr_eq(&before, &ledger.keys()), "names from before mean nothing to the store");
    assert_eq!(ledger.reserve(&call(&ledger, "1", 9), HOLD, soon()).await.unwrap().code, Code::Held);
    ledger.close(soon()).await;
    assert!(ledger.reserve(&call(&ledger, "2", 9), HOLD, soon()).await.is_err());
}
