//! Against real servers, each test with its own.

use mcp_authz_core::{
    ledger::{Attempt, CounterId, Span, Speaker},
    quota::Mode,
};
use test_redis::RedisServer;

use super::*;
use crate::{
    clock::{ManualClock, SystemClock},
    quota::ReservationId,
};

mod access;
mod loss;
mod outage;
mod records;

const HOLD: Duration = Duration::from_secs(60);
const DAY_MS: u64 = 86_400_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that an engine said.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<Event>>>);

impl Said {
    fn observer(&self) -> Observer {
        let said = self.clone();
        Arc::new(move |event| said.0.lock().unwrap().push(event))
    }

    fn count(&self, of: impl Fn(&Event) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| of(event)).count()
    }

    fn has(&self, event: Event) -> bool {
        self.count(|said| *said == event) > 0
    }
}

/// A server that keeps nothing, which the tests that do not care say is fine.
fn settings(server: &RedisServer) -> Settings {
    let url = format!("unix://{}", server.socket().display());
    Settings {
        allow_unsafe: true,
        timeout: Duration::from_millis(500),
        fence: Duration::ZERO,
        ..Settings::new(Topology::standalone(&url).unwrap())
    }
}

async fn start(settings: Settings) -> (RedisLedger, Said) {
    let said = Said::default();
    let ledger = RedisLedger::connect(settings, Arc::new(SystemClock::new()), said.observer()).await.unwrap();
    (ledger, said)
}

async fn ready(settings: Settings) -> (RedisLedger, Said) {
    let (ledger, said) = start(settings).await;
    assert!(ledger.connected(Instant::now() + PATIENCE).await, "{:?}", said.0.lock().unwrap());
    (ledger, said)
}

/// What every ledger must do. The claims about time are not for a clock that no test can move.
mod contract {
    use super::*;
    use crate::quota::contract::{Subject, ledger_contract};

    async fn over_redis() -> Subject<RedisLedger> {
        let server = RedisServer::start(&[]);
        let (ledger, _) = ready(settings(&server)).await;
        Subject { ledger: Arc::new(ledger), advance: Box::new(|_| ()), _keep: Box::new(server) }
    }

    ledger_contract!(over_redis());
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn day(ledger: &RedisLedger) -> Span {
    let start_ms = ledger.now_ms() / DAY_MS * DAY_MS;
    Span::Calendar { start_ms, end_ms: start_ms + DAY_MS, next_end_ms: start_ms + 2 * DAY_MS }
}

fn line(counter: u128, span: Span, max: u64) -> Line {
    Line {
        counter: CounterId(counter),
        label: Arc::from("test:day-utc"),
        span,
        mode: Mode::Consume,
        amount: 1,
        max,
        strict: true,
        release: false,
    }
}

fn booking(id: &str, lines: Vec<Line>) -> Booking {
    let id = ReservationId::from_envoy(id).unwrap();
    Booking { id, attempt: Attempt(7), digest: 42, lines: lines.into() }
}

/// One call of a limit of that many a day.
fn call(ledger: &RedisLedger, id: &str, max: u64) -> Booking {
    booking(id, vec![line(1, day(ledger), max)])
}

fn own(booking: &Booking) -> Finish {
    Finish::RollBack(Speaker::Attempt(booking.attempt))
}

async fn used(ledger: &RedisLedger) -> u64 {
    ledger.peek(&[line(1, day(ledger), 1_000)]).await.unwrap()[0].used
}

/// Says something to the server that it does not refuse.
#[track_caller]
fn tell(server: &RedisServer, command: &[&str]) {
    let answer = server.cli(command);
    assert!(!answer.contains("ERR") && !answer.contains("WRONG"), "{command:?}: {answer}");
}

async fn wait_for(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < until, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_limit_holds_and_what_is_rolled_back_can_be_had_again() {
    let server = RedisServer::start(&[]);
    let (ledger, _) = ready(settings(&server)).await;
    for id in 1..=5 {
        let reply = ledger.reserve(&call(&ledger, &id.to_string(), 5), HOLD, soon()).await.unwrap();
        assert_eq!((reply.code, reply.standings[0].used, reply.standings[0].left), (Code::Held, id, 5 - id));
    }
    let sixth = ledger.reserve(&call(&ledger, "6", 5), HOLD, soon()).await.unwrap();
    assert_eq!(sixth.code, Code::Limited { line: 0 });
    let third = call(&ledger, "3", 5);
    assert_eq!(ledger.reserve(&third, HOLD, soon()).await.unwrap().code, Code::HeldBefore);
    assert_eq!(ledger.finish(&third, &own(&third)).await.unwrap(), Finished::Now { credited: 1 });
    assert_eq!(ledger.finish(&third, &own(&third)).await.unwrap(), Finished::Before { same: true });
    assert_eq!(used(&ledger).await, 4);
    assert_eq!(ledger.reserve(&call(&ledger, "7", 5), HOLD, soon()).await.unwrap().code, Code::Held);
    let late = call(&ledger, "8", 9);
    assert_eq!(ledger.finish(&late, &own(&late)).await.unwrap(), Finished::Unknown);
    assert_eq!(ledger.reserve(&late, HOLD, soon()).await.unwrap().code, Code::RolledBack);
    ledger.reset(&[line(1, day(&ledger), 5)]).await.unwrap();
    assert_eq!(used(&ledger).await, 0);
}

#[tokio::test]
async fn slots_are_renewed_while_they_are_held() {
    let server = RedisServer::start(&[]);
    let (ledger, _) = ready(settings(&server)).await;
    let slot = booking("1", vec![line(2, Span::InFlight { lease_ms: 60_000 }, 1)]);
    assert!(!ledger.renew(&slot, HOLD).await.unwrap());
    assert_eq!(ledger.reserve(&slot, HOLD, soon()).await.unwrap().code, Code::Held);
    assert!(ledger.renew(&slot, HOLD).await.unwrap());
    ledger.finish(&slot, &own(&slot)).await.unwrap();
    assert!(!ledger.renew(&slot, HOLD).await.unwrap());
}

#[tokio::test]
async fn it_is_used_from_other_runtimes_than_its_own() {
    let server = RedisServer::start(&[]);
    let (ledger, _) = ready(settings(&server)).await;
    let ledger = Arc::new(ledger);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let ledger = Arc::clone(&ledger);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let mut held = 0;
                    for n in 0..100 {
                        let booking = call(&ledger, &format!("{thread}-{n}"), 250);
                        held += usize::from(ledger.reserve(&booking, HOLD, soon()).await.unwrap().code == Code::Held);
                    }
                    held
                })
            })
        })
        .collect();
    let held: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!((held, used(&ledger).await), (250, 250));
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = RedisServer::start(&[]);
    let (ledger, _) = ready(settings(&server)).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flusher = {
        let (stop, mut connection) = (Arc::clone(&stop), server.connect());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                connection.call(&["SCRIPT", "FLUSH"]).unwrap();
            }
        })
    };
    for n in 0..300 {
        let booking = call(&ledger, &n.to_string(), 1_000);
        assert_eq!(ledger.reserve(&booking, HOLD, soon()).await.unwrap().code, Code::Held);
        if n % 3 == 0 {
            assert_eq!(ledger.finish(&booking, &own(&booking)).await.unwrap(), Finished::Now { credited: 1 });
        }
    }
    stop.store(true, Ordering::Relaxed);
    flusher.join().unwrap();
    assert_eq!(used(&ledger).await, 200);
}

#[tokio::test]
async fn clocks_that_differ_meet_in_the_windows_of_the_store() {
    let server = RedisServer::start(&[]);
    let now_ms = SystemClock::new().now_ms();
    for (counter, skew_ms) in [(1, -5_000_i64), (2, 3_000), (3, -3_600_000), (4, 3_600_000)] {
        let clock = Arc::new(ManualClock::new(now_ms.saturating_add_signed(skew_ms)));
        let ledger = RedisLedger::connect(settings(&server), clock, Arc::new(|_| {})).await.unwrap();
        let difference = i64::try_from(ledger.now_ms()).unwrap() - i64::try_from(SystemClock::new().now_ms()).unwrap();
        assert!(difference.abs() < 2_000, "learned when it connected: {difference}");
        // As if it had stepped meanwhile: the first answer teaches it again.
        ledger.shared.offset_ms.store(skew_ms, Ordering::Relaxed);
        let minute_ms = 60_000;
        for _ in 0..2 {
            let start_ms = ledger.now_ms() / minute_ms * minute_ms;
            let (end_ms, next_end_ms) = (start_ms + minute_ms, start_ms + 2 * minute_ms);
            let span = Span::Calendar { start_ms, end_ms, next_end_ms };
            let booking = booking(&format!("s{counter}"), vec![line(counter, span, 1)]);
            let code = ledger.reserve(&booking, HOLD, soon()).await.unwrap().code;
            assert!(matches!(code, Code::Held | Code::HeldBefore | Code::StaleWindows { line: 0 }), "{code:?}");
        }
        let minute = line(counter, day(&ledger), 1);
        assert_eq!(ledger.peek(&[Line { max: 1, ..minute }]).await.unwrap()[0].used, 1);
    }
}

#[test]
fn a_reply_is_read_strictly() {
    let value = |numbers: &[i64]| Value::Array(numbers.iter().map(|n| Value::Int(*n)).collect());
    let read = |numbers: &[i64]| reply(&value(numbers), 1).map(|reply| reply.code);
    assert_eq!(read(&[1, 5, 0, 3, 2, -1]), Ok(Code::Held));
    assert_eq!(reply(&value(&[1, 5, 0, 3, 2, -1]), 1).unwrap().standings[0].reset_ms, None);
    assert_eq!(read(&[0, 5, 1, 3, 2, 9]), Ok(Code::Limited { line: 0 }));
    assert_eq!(read(&[-6, 5, 1, 77]), Ok(Code::Fenced { line: 0, wait_ms: 77 }));
    assert_eq!(read(&[-8, 5, 1, -1]), Ok(Code::Lost { line: 0, wait_ms: None }));
    for wrong in [
        &[][..],
        &[1, 5],
        &[1, 5, 0],
        &[1, 5, 0, 3, 2],
        &[1, 5, 0, 3, 2, 1, 1],
        &[1, -5, 0, 3, 2, 1],
        &[1, 5, 0, -3, 2, 1],
        &[0, 5, 2, 3, 2, 1],
        &[0, 5, 0, 3, 2, 1],
        &[-6, 5, 1, -1],
        &[-6, 5, 1],
        &[9, 5, 0],
    ] {
        assert_eq!(read(wrong), Err(Malformed), "{wrong:?}");
    }
    assert_eq!(reply(&Value::Okay, 1), Err(Malformed));
    assert_eq!(reply(&Value::Array(vec![Value::Nil; 6]), 1), Err(Malformed));
}
