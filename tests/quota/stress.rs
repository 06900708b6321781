//! Many processes with wrong clocks, killed at random, while the scripts vanish from the server again and again.

use std::time::Duration;

use tempfile::TempDir;
use tokio::{sync::watch, time::Instant};

use crate::harness::{
    Dice,
    log::History,
    server::{Server, signal},
    soak,
    store::contents,
    worker::{FLIGHT_MAX, LEASE_MS, Orders, ROLLING_MAX, Worker, limits_held, offsets_s},
};

const WORKERS: usize = 5;
const SKEWS_MS: [i64; 7] = [0, 0, -5_000, 3_000, -900, 700, 0];

/// Empties the server's cache of scripts, again and again.
async fn flush_scripts(server: &Server, stop: watch::Receiver<bool>) -> u64 {
    let mut connection = server.connect().await;
    let mut count = 0;
    while !*stop.borrow() {
        connection.call(&["SCRIPT", "FLUSH"]).await.expect("a reply");
        count += 1;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn no_limit_is_exceeded_by_processes_that_are_killed_and_have_wrong_clocks() {
    let mut dice = Dice::for_test("stress");
    let server = Server::start(&[]).await;
    let folder = TempDir::new().expect("a temporary folder");
    let log = folder.path().join("log");
    let time = Duration::from_secs(13) * soak();
    let offsets_s = offsets_s([3, 6, 10]);
    let skew = |dice: &mut Dice| SKEWS_MS[usize::try_from(dice.between(0, 7)).expect("small")];
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|_| {
            let (seed, skew_ms) = (dice.next(), skew(&mut dice));
            Worker::start(Orders { address: server.address, log: log.clone(), seed, skew_ms, offsets_s })
        })
        .collect();
    let (stop, stopped) = watch::channel(false);
    let kills = async {
        let end = Instant::now() + time;
        let mut kills = 0;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(dice.between(20, 500))).await;
            let victim = usize::try_from(dice.next() % 5).expect("small");
            if dice.percent(20) {
                // Longer than a slot is leased, some of the time.
                signal(workers[victim].id(), "STOP").await;
                tokio::time::sleep(Duration::from_millis(dice.between(100, LEASE_MS + 300))).await;
                signal(workers[victim].id(), "CONT").await;
                continue;
            }
            let (seed, skew_ms) = (dice.next(), skew(&mut dice));
            workers[victim].replace(seed, skew_ms).await;
            kills += 1;
        }
        for worker in workers {
            worker.stop().await;
        }
        stop.send_replace(true);
        kills
    };
    let (kills, flushes) = tokio::join!(kills, flush_scripts(&server, stopped));
    let history = History::read(&log);
    eprintln!(
        "{kills} kills, {flushes} flushes; {} ran, {} refused, {} returned, {} unknown",
        history.runs(),
        history.refusals(),
        history.returns(),
        history.unknowns()
    );
    assert!(kills >= 8 && history.runs() > 200 && history.refusals() > 200 && history.returns() > 20);
    let most = limits_held(&history);
    eprintln!("{most:?}");
    // Otherwise the test has shown nothing.
    assert!(most.windows > 3, "no minute began in the test");
    assert!(most.rolling > ROLLING_MAX * 9 / 10, "the rolling window was never full");
    assert_eq!(most.flight, FLIGHT_MAX, "never enough calls at once");
    let contents = contents(&server).await;
    let (total, twin) = (contents.used("total"), contents.used("twin"));
    // All or nothing: what is charged together has equal counts, whoever was killed in the middle.
    assert_eq!(total, twin);
    // What ran is counted, and nothing else is but what nobody knows the end of.
    let (ran, unknown) = (history.executed("total"), history.unknown("total"));
    assert!(ran <= total && total <= ran + unknown, "{ran} ran, {total} counted, {unknown} unknown");
}
