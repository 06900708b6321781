//! The store loses what it knew, in every way that a store can.

use super::*;

fn persistent() -> RedisServer {
    RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"])
}

async fn codes(ledger: &RedisLedger, ids: std::ops::Range<u64>, max: u64) -> Vec<Code> {
    let mut codes = Vec::new();
    for id in ids {
        codes.push(ledger.reserve(&call(ledger, &id.to_string(), max), HOLD, soon()).await.unwrap().code);
    }
    codes
}

#[tokio::test]
async fn an_emptied_store_is_no_fresh_quota() {
    let server = RedisServer::start(&[]);
    let (ledger, said) = ready(settings(&server)).await;
    assert_eq!(codes(&ledger, 0..3, 5).await, [Code::Held; 3]);
    tell(&server, &["FLUSHALL"]);
    let next = ledger.reserve(&call(&ledger, "3", 5), HOLD, soon()).await;
    assert!(
        matches!(&next, Ok(Reply { code: Code::EpochChanged | Code::Lost { .. }, .. }) | Err(LedgerError::Refused(_))),
        "{next:?}"
    );
    wait_for("the loss is known", async || said.has(Event::CountsLost) && ledger.is_connected()).await;
    let lost = codes(&ledger, 4..5, 5).await;
    let Code::Lost { line: 0, wait_ms: Some(wait_ms) } = lost[0] else { panic!("{lost:?}") };
    assert!(wait_ms > 0 && wait_ms <= DAY_MS);
    // What this process remembers was counted again.
    assert_eq!(used(&ledger).await, 3);
    // A process that knew nothing learns of the loss as well.
    let (fresh, _) = ready(settings(&server)).await;
    assert!(matches!(codes(&fresh, 5..6, 5).await[..], [Code::Lost { .. }]));
    assert!(fresh.accept_loss().await.unwrap());
    assert!(!fresh.accept_loss().await.unwrap());
    assert_eq!(codes(&ledger, 6..9, 5).await, [Code::Held, Code::Held, Code::Limited { line: 0 }]);
}

#[tokio::test]
async fn an_accepted_loss_stays_accepted_when_others_come_back() {
    let server = RedisServer::start(&[]);
    let (ledger, _) = ready(settings(&server)).await;
    let (away, _) = ready(settings(&server)).await;
    tell(&server, &["FLUSHALL"]);
    for ledger in [&ledger, &away] {
        wait_for("it is in use again", async || {
            matches!(
                ledger.reserve(&call(ledger, "x", 5), HOLD, soon()).await,
                Ok(Reply { code: Code::Lost { .. }, .. })
            )
        })
        .await;
    }
    assert!(ledger.accept_loss().await.unwrap());
    tell(&server, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    for (id, ledger) in [("a", &ledger), ("b", &away)] {
        wait_for("it is in use again", async || {
            ledger.reserve(&call(ledger, id, 5), HOLD, soon()).await.is_ok_and(|reply| reply.code == Code::Held)
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_starts_again_empty_has_lost_its_counts() {
    let mut server = RedisServer::start(&[]);
    let (ledger, said) = ready(settings(&server)).await;
    codes(&ledger, 0..3, 5).await;
    server.restart();
    wait_for("the loss is known", async || said.has(Event::CountsLost) && ledger.is_connected()).await;
    assert!(matches!(codes(&ledger, 3..4, 5).await[..], [Code::Lost { .. }]));
    assert_eq!(used(&ledger).await, 3);
    let lenient = Line { strict: false, ..line(1, day(&ledger), 5) };
    let reply = ledger.reserve(&booking("4", vec![lenient]), HOLD, soon()).await.unwrap();
    assert_eq!((reply.code, reply.standings[0].used), (Code::Held, 4));
}

#[tokio::test]
async fn a_server_that_starts_again_with_its_data_goes_on_within_two_seconds() {
    let mut server = persistent();
    let (ledger, said) = ready(Settings { fence: FENCE, ..settings(&server) }).await;
    // The store was new: others may have known another one.
    wait_for("it is open", async || {
        ledger.reserve(&call(&ledger, "0", 9), HOLD, soon()).await.is_ok_and(|reply| reply.code == Code::Held)
    })
    .await;
    codes(&ledger, 1..3, 9).await;
    server.restart();
    let back = Instant::now();
    let mut fenced = 0;
    wait_for("it is open again", async || {
        match ledger.reserve(&call(&ledger, "3", 9), HOLD, soon()).await {
            Ok(Reply { code: Code::Held, .. }) => return true,
            Ok(Reply { code: Code::Fenced { line: 0, wait_ms }, .. }) => {
                assert!(wait_ms <= millis(FENCE));
                fenced += 1;
            }
            Ok(reply) => panic!("{reply:?}"),
            Err(error) => assert!(error.is_outage(), "{error:?}"),
        }
        false
    })
    .await;
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    assert!(fenced > 0, "strict limits wait until everybody has told what they remember");
    assert!(!said.has(Event::CountsLost));
    assert_eq!(used(&ledger).await, 4);
}

#[tokio::test]
async fn what_the_last_seconds_lost_is_counted_again() {
    let mut server = RedisServer::start(&["--save", ""]);
    let (ledger, said) = ready(settings(&server)).await;
    codes(&ledger, 0..3, 9).await;
    tell(&server, &["SAVE"]);
    let settled = call(&ledger, "1", 9);
    ledger.finish(&settled, &Finish::Settle([2].into())).await.unwrap();
    codes(&ledger, 3..6, 9).await;
    let back = call(&ledger, "4", 9);
    ledger.finish(&back, &own(&back)).await.unwrap();
    assert_eq!(used(&ledger).await, 6);
    server.restart();
    wait_for("it is in use again", async || ledger.is_connected() && ledger.peek(&[]).await.is_ok()).await;
    wait_for("it is open again", async || {
        ledger.reserve(&call(&ledger, "6", 9), HOLD, soon()).await.is_ok_and(|reply| reply.code == Code::Held)
    })
    .await;
    assert!(!said.has(Event::CountsLost));
    // The surplus of the settlement is not told again: the new master has its hold, and says so.
    assert_eq!(used(&ledger).await, 6);
}

#[tokio::test]
async fn data_older_than_what_can_be_remembered_is_a_loss() {
    let mut server = RedisServer::start(&[]);
    let (ledger, said) = ready(settings(&server)).await;
    codes(&ledger, 0..3, 9).await;
    // The heartbeat of a store whose data ended long before what we saw of it.
    tell(&server, &["SET", "pq1:{default}:beat", "1000"]);
    tell(&server, &["SAVE"]);
    wait_for("a later heartbeat", async || server.cli(&["GET", "pq1:{default}:beat"]).len() > 4).await;
    server.restart();
    wait_for("the loss is known", async || said.has(Event::CountsLost) && ledger.is_connected()).await;
    assert!(matches!(codes(&ledger, 3..4, 9).await[..], [Code::Lost { .. }]));
}

#[tokio::test]
async fn the_secret_of_a_store_is_written_back_by_who_knows_it() {
    let server = RedisServer::start(&[]);
    let (ledger, said) = ready(settings(&server)).await;
    let (keys, secret) = (ledger.keys(), server.cli(&["GET", "pq1:{default}:secret"]));
    tell(&server, &["FLUSHALL"]);
    wait_for("the loss is known", async || said.has(Event::CountsLost) && ledger.is_connected()).await;
    assert_eq!(server.cli(&["GET", "pq1:{default}:secret"]), secret);
    assert!(Arc::ptr_eq(&keys, &ledger.keys()));
    // Another secret is another set of counters: as good as lost.
    tell(&server, &["SET", "pq1:{default}:secret", &"ab".repeat(32)]);
    tell(&server, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    wait_for("the other loss is known", async || said.count(|event| *event == Event::CountsLost) == 2).await;
    wait_for("it is in use", async || ledger.is_connected()).await;
    assert!(!Arc::ptr_eq(&keys, &ledger.keys()));
    assert!(matches!(codes(&ledger, 0..1, 9).await[..], [Code::Lost { .. }]));
}
