//! The guard over a ledger, and the embedded engine under the contract of all.
#![expect(clippy::arithmetic_side_effects, reason = "sums over small tables; an overflow would only fail a test")]

use std::{collections::VecDeque, pin::pin, sync::Mutex, task::Poll};

use mcp_authz_core::{ledger::machine::Bounds, quota::Measure};

use super::{
    contract::{HOLD, Subject, T0, charge, id, ledger_contract, ledger_contract_of_time, minute, total},
    embedded::{EmbeddedLedger, LOG_BYTES_MAX, Settings, settle_leaks},
    *,
};
use crate::clock::ManualClock;

mod mutants;

async fn embedded(folder: Option<tempfile::TempDir>) -> Subject<EmbeddedLedger> {
    let clock = Arc::new(ManualClock::new(T0 + 1_500));
    let settings = Settings {
        bounds: Bounds { counters_max: 1_000, reservations_max: 1_000 },
        folder: folder.as_ref().map(|folder| folder.path().to_owned()),
        log_bytes_max: LOG_BYTES_MAX,
    };
    let ledger = Arc::new(EmbeddedLedger::open(&settings, clock.clone(), Arc::new(|_| ())).unwrap());
    Subject { ledger, advance: Box::new(move |ms| clock.advance_ms(ms)), _keep: Box::new(folder) }
}

mod contract_in_memory {
    use super::*;

    ledger_contract!(embedded(None));
    ledger_contract_of_time!(embedded(None));
}

mod contract_with_a_journal {
    use super::*;

    ledger_contract!(embedded(Some(tempfile::tempdir().unwrap())));
    ledger_contract_of_time!(embedded(Some(tempfile::tempdir().unwrap())));
}

/// What a store is made to answer.
type Answer = Result<Reply, LedgerError>;

/// A store that answers what it is told, late if it is told so.
#[derive(Debug)]
struct Remote {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<Booking>>,
    unmetered: Mutex<usize>,
    keys: Arc<Keys>,
    slow: bool,
}

impl Remote {
    fn new(answers: impl IntoIterator<Item = Answer>, slow: bool) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers.into_iter().collect()),
            asked: Mutex::default(),
            unmetered: Mutex::default(),
            keys: Arc::new(Keys::derive(&[7; 32])),
            slow,
        })
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Ledger for Remote {
    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys)
    }

    fn now_ms(&self) -> u64 {
        // Another minute each time, as after a look at the store's clock.
        T0 + 60_000 * u64::try_from(self.asked()).unwrap()
    }

    async fn reserve(&self, booking: &Booking, _: Duration, _: Instant) -> Answer {
        self.asked.lock().unwrap().push(booking.clone());
        if self.slow {
            std::future::pending::<()>().await;
        }
        self.answers.lock().unwrap().pop_front().expect("an answer is prepared")
    }

    async fn finish(&self, booking: &Booking, _: &Finish) -> Result<Finished, LedgerError> {
        match booking.id.as_str() {
            "lost" => Err(LedgerError::Unknown("lost".into())),
            _ => Ok(Finished::Now { credited: 1 }),
        }
    }

    async fn renew(&self, _: &Booking, _: Duration) -> Result<bool, LedgerError> {
        Ok(true)
    }

    async fn peek(&self, _: &[Line]) -> Result<Vec<Standing>, LedgerError> {
        Ok(Vec::new())
    }

    async fn reset(&self, _: &[Line]) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn accept_loss(&self) -> Result<bool, LedgerError> {
        Ok(false)
    }

    fn admitted_unmetered(&self, _: &Arc<Booking>) {
        *self.unmetered.lock().unwrap() += 1;
    }
}

fn reply(code: Code, standings: &[(u64, u64, Option<u64>)]) -> Answer {
    let standings = standings.iter().map(|&(used, left, reset_ms)| Standing { used, left, reset_ms }).collect();
    Ok(Reply { code, now_ms: T0, standings })
}

fn held() -> Answer {
    reply(Code::Held, &[(1, 0, None)])
}

fn unknown() -> Answer {
    Err(LedgerError::Unknown("no answer".into()))
}

fn refused() -> Answer {
    Err(LedgerError::Refused("no connection".into()))
}

type Leaks = Arc<Mutex<Vec<(String, Finish)>>>;

fn leaks() -> (Leaks, OnLeak) {
    let leaks = Leaks::default();
    let seen = Arc::clone(&leaks);
    (leaks, Arc::new(move |ticket, how| seen.lock().unwrap().push((ticket.booking.id.to_string(), how))))
}

async fn get(
    remote: &Arc<Remote>,
    name: &str,
    charges: &[Charge],
    on_leak: &OnLeak,
) -> Result<Reserve<Remote>, LedgerError> {
    reserve(remote, id(name), charges, HOLD, Instant::now() + HOLD, Arc::clone(on_leak)).await
}

/// A limit that lets calls go when the store is out of reach.
fn lenient(mut charge: Charge) -> Charge {
    let terms = Terms { on_unavailable: OnUnavailable::Allow, ..(*charge.terms).clone() };
    charge.terms = Arc::new(terms);
    charge
}

#[tokio::test]
async fn a_dropped_reservation_is_told_of_and_every_other_exit_is_not() {
    let remote = Remote::new([held(), held(), held(), held()], false);
    let (leaks, on_leak) = leaks();
    let charges = [total("a", 1, 1)];
    let Reserve::Reserved(one) = get(&remote, "back", &charges, &on_leak).await.unwrap() else { panic!() };
    assert_eq!(one.rollback().await.unwrap(), Finished::Now { credited: 1 });
    let Reserve::Reserved(one) = get(&remote, "over", &charges, &on_leak).await.unwrap() else { panic!() };
    assert_eq!(one.into_ticket().unwrap().booking.id, id("over"));
    assert!(leaks.lock().unwrap().is_empty());
    for name in ["dropped", "lost"] {
        let Reserve::Reserved(one) = get(&remote, name, &charges, &on_leak).await.unwrap() else { panic!() };
        if name == "lost" {
            assert!(one.rollback().await.is_err());
        } else {
            drop(one);
        }
    }
    let attempts: Vec<Attempt> = remote.asked.lock().unwrap().iter().map(|booking| booking.attempt).collect();
    let back = |attempt| Finish::RollBack(Speaker::Attempt(attempt));
    let wanted = [("dropped".to_owned(), back(attempts[2])), ("lost".to_owned(), back(attempts[3]))];
    assert_eq!(*leaks.lock().unwrap(), wanted);
    assert_ne!(attempts[0], attempts[1], "each handling is an attempt of its own");
}

#[tokio::test]
async fn a_future_dropped_while_the_store_answers_is_told_of() {
    let remote = Remote::new([], true);
    let (leaks, on_leak) = leaks();
    let charges = [total("a", 1, 1)];
    {
        let mut future = pin!(get(&remote, "slow", &charges, &on_leak));
        let pending = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
        assert!(pending && leaks.lock().unwrap().is_empty());
    }
    assert_eq!(leaks.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_taken_back_and_a_refusal_is_not() {
    let (leaks, on_leak) = leaks();
    let remote = Remote::new([refused(), unknown()], false);
    let strict = [lenient(total("a", 1, 1)), total("b", 1, 1)];
    assert!(matches!(get(&remote, "1", &strict, &on_leak).await, Err(LedgerError::Refused(_))));
    assert!(leaks.lock().unwrap().is_empty());
    assert!(matches!(get(&remote, "2", &strict, &on_leak).await, Err(LedgerError::Unknown(_))));
    assert_eq!(leaks.lock().unwrap().len(), 1);
    assert_eq!(*remote.unmetered.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_call_goes_unmetered_if_all_of_its_limits_say_so() {
    let (leaks, on_leak) = leaks();
    let fenced = Err(LedgerError::Fenced { wait_ms: 9 });
    let remote = Remote::new([refused(), unknown(), fenced, reply(Code::Conflict, &[])], false);
    let lenient = [lenient(total("a", 1, 1)), lenient(total("b", 1, 1))];
    for name in ["1", "2", "3"] {
        assert!(matches!(get(&remote, name, &lenient, &on_leak).await, Ok(Reserve::Unmetered(_))), "{name}");
    }
    assert_eq!(*remote.unmetered.lock().unwrap(), 3);
    assert!(leaks.lock().unwrap().is_empty(), "what may be held stays spent: the call goes");
    // An answer about the call itself is no outage.
    assert!(matches!(get(&remote, "4", &lenient, &on_leak).await, Err(LedgerError::Conflict)));
}

#[tokio::test]
async fn stale_windows_are_computed_anew_a_few_times() {
    let (leaks, on_leak) = leaks();
    let stale = || reply(Code::StaleWindows { line: 0 }, &[]);
    let remote = Remote::new([stale(), stale(), held(), stale(), stale(), stale()], false);
    let charges = [minute("a", 1, 1)];
    assert!(matches!(get(&remote, "1", &charges, &on_leak).await, Ok(Reserve::Reserved(_))));
    let spans: Vec<_> = remote.asked.lock().unwrap().iter().map(|booking| booking.lines[0].span).collect();
    assert!(spans[0] != spans[1] && spans[1] != spans[2]);
    assert!(matches!(get(&remote, "2", &charges, &on_leak).await, Err(LedgerError::Refused(_))));
    assert_eq!(remote.asked(), 6);
    // The reservation of the first call was dropped above.
    assert_eq!(leaks.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn nothing_to_charge_asks_nobody() {
    let remote = Remote::new([], false);
    let (_, on_leak) = leaks();
    for charges in [Vec::new(), vec![total("a", 0, 0), total("b", 0, 5)]] {
        assert!(matches!(get(&remote, "1", &charges, &on_leak).await, Ok(Reserve::Free)));
    }
    assert_eq!(remote.asked(), 0);
}

#[tokio::test]
async fn a_counter_named_twice_is_one_line_under_both_limits() {
    let (_, on_leak) = leaks();
    let full = reply(Code::Limited { line: 0 }, &[(12, 4, Some(500))]);
    let remote = Remote::new([full], false);
    let charges = [total("a", 1, 20), total("free", 0, 1), total("a", 5, 16)];
    let over = get(&remote, "1", &charges, &on_leak).await;
    let Ok(Reserve::OverLimit(over)) = over else { panic!("{over:?}") };
    let asked = remote.asked.lock().unwrap()[0].lines.clone();
    assert_eq!((asked.len(), asked[0].amount, asked[0].max), (1, 5, 16));
    assert_eq!((over.charge, over.never_fits, over.retry_after_ms), (2, false, Some(500)));
}

#[tokio::test]
async fn the_longest_wait_is_told_and_none_where_waiting_does_not_help() {
    let (_, on_leak) = leaks();
    let three = |second| [(5, 0, Some(700)), (5, 0, second), (0, 5, Some(9_999))];
    let limited = |second| reply(Code::Limited { line: 0 }, &three(second));
    let never = reply(Code::NeverFits { line: 0 }, &three(Some(800)));
    let remote = Remote::new([limited(Some(800)), limited(None), never], false);
    let mut charges = [total("a", 1, 5), total("b", 1, 5), total("c", 1, 5)];
    for (name, wait) in [("1", Some(800)), ("2", None)] {
        let over = get(&remote, name, &charges, &on_leak).await;
        let Ok(Reserve::OverLimit(over)) = over else { panic!("{over:?}") };
        assert_eq!((over.charge, over.never_fits, over.retry_after_ms), (0, false, wait));
    }
    charges[1].amount = 6;
    let over = get(&remote, "3", &charges, &on_leak).await;
    let Ok(Reserve::OverLimit(over)) = over else { panic!("{over:?}") };
    assert_eq!((over.never_fits, over.retry_after_ms), (true, None));
}

#[tokio::test]
async fn a_leak_is_settled_in_memory_at_once() {
    let subject = embedded(None).await;
    let reported = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&reported);
    let on_leak = settle_leaks(Arc::clone(&subject.ledger), move |_, finished| {
        seen.lock().unwrap().push(finished.unwrap());
    });
    let charges = [total("a", 1, 1)];
    for name in ["1", "2"] {
        let answer = reserve(&subject.ledger, id(name), &charges, HOLD, Instant::now() + HOLD, Arc::clone(&on_leak))
            .await
            .unwrap();
        assert!(matches!(answer, Reserve::Reserved(_)));
        drop(answer);
    }
    assert_eq!(*reported.lock().unwrap(), [Finished::Now { credited: 1 }; 2]);
}

#[tokio::test]
async fn a_full_ledger_denies_new_counters_and_forgets_none() {
    let clock = Arc::new(ManualClock::new(T0));
    let bounds = Bounds { counters_max: 2, reservations_max: 4 };
    let ledger = Arc::new(EmbeddedLedger::new(bounds, clock.clone(), Arc::new(|_| ())).unwrap());
    let take = |name: &str, charge: Charge| {
        let booking = super::contract::booking(&*ledger, name, &[charge]);
        ledger.reserve_now(&booking, HOLD).map(|reply| reply.code)
    };
    assert_eq!(take("1", minute("a", 5, 5)).unwrap(), Code::Held);
    assert_eq!(take("2", total("b", 1, 5)).unwrap(), Code::Held);
    assert!(matches!(take("3", minute("c", 1, 5)), Err(LedgerError::Full { limit: "counters_max" })));
    // The known ones go on, and a refusal needs no room.
    assert_eq!(take("4", total("b", 1, 5)).unwrap(), Code::Held);
    assert_eq!(take("5", minute("a", 1, 5)).unwrap(), Code::Limited { line: 0 });
    assert_eq!(take("6", total("b", 1, 5)).unwrap(), Code::Held);
    assert!(matches!(take("7", total("b", 1, 5)), Err(LedgerError::Full { limit: "reservations_max" })));
    // The minute's end makes room for counters, the hold's end for reservations.
    clock.advance_ms(125_001);
    assert_eq!(take("8", minute("c", 1, 5)).unwrap(), Code::Held);
    assert!(matches!(take("9", charge("d", Measure::Lifetime { idle_ms: 0 }, 1, 5)), Err(LedgerError::Full { .. })));
}

#[test]
fn ids_come_from_envoy_or_are_random() {
    assert_eq!(ReservationId::from_envoy("1234567890").unwrap().as_str(), "1234567890");
    assert_eq!(ReservationId::from_envoy(&"x".repeat(64)).unwrap().as_str().len(), 64);
    for odd in [String::new(), "x".repeat(65), "a b".to_owned(), "a:b".to_owned()] {
        let [one, two] = [0, 1].map(|_| ReservationId::from_envoy(&odd).unwrap());
        assert_ne!(one, two);
        assert_eq!(one.as_str().len(), 33);
    }
}
