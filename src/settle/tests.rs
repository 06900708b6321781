use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use mcp_authz_core::{
    decision::{Denial, Reason},
    ledger::{Line, Reply, Standing, machine::Bounds},
    quota::{Actual, Charge, CountOn, CounterKey, Measure, OnExpiry, OnUnavailable, RefundOn, Terms},
    response::{Came, Kind},
    settle::Fate,
};
use prometheus_client::registry::Registry;

use super::*;
use crate::{
    clock::ManualClock,
    quota::{Booking, Keys, ReservationId, Reserve, embedded::EmbeddedLedger, reserve},
    telemetry::audit::{Sink, WhenUnavailable, read_back::records},
};

/// The real ledger, whose failures a test chooses.
#[derive(Debug)]
struct Shaky {
    inner: EmbeddedLedger,
    /// How many calls fail before one succeeds.
    failures: AtomicUsize,
    finished: Mutex<Vec<Finish>>,
    renewed: AtomicUsize,
}

impl Ledger for Shaky {
    fn keys(&self) -> Arc<Keys> {
        self.inner.keys()
    }

    fn now_ms(&self) -> u64 {
        self.inner.now_ms()
    }

    async fn reserve(&self, booking: &Booking, hold: Duration, deadline: Instant) -> Result<Reply, LedgerError> {
        self.inner.reserve(booking, hold, deadline).await
    }

    async fn finish(&self, booking: &Booking, how: &Finish) -> Result<Finished, LedgerError> {
        let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match fails {
            Ok(left) if left % 2 == 0 => Err(LedgerError::Refused("down".into())),
            // Applied, and the answer lost.
            Ok(_) => self.inner.finish(booking, how).await.and(Err(LedgerError::Unknown("lost".into()))),
            Err(_) => {
                self.finished.lock().unwrap().push(how.clone());
                self.inner.finish(booking, how).await
            }
        }
    }

    async fn renew(&self, booking: &Booking, hold: Duration) -> Result<bool, LedgerError> {
        self.renewed.fetch_add(1, Ordering::SeqCst);
        self.inner.renew(booking, hold).await
    }

    async fn peek(&self, lines: &[Line]) -> Result<Vec<Standing>, LedgerError> {
        self.inner.peek(lines).await
    }

    async fn reset(&self, lines: &[Line]) -> Result<(), LedgerError> {
        self.inner.reset(lines).await
    }

    async fn accept_loss(&self) -> Result<bool, LedgerError> {
        Ok(false)
    }

    fn admitted_unmetered(&self, _: &Arc<Booking>) {}
}

struct Rig {
    ledger: Arc<Shaky>,
    clock: Arc<ManualClock>,
    registry: Registry,
    audit: Arc<AuditSink>,
    folder: tempfile::TempDir,
    settlements: Option<Settlements>,
    settling: tokio::task::JoinHandle<()>,
}

fn rig() -> Rig {
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let bounds = Bounds { counters_max: 100, reservations_max: 100 };
    let inner = EmbeddedLedger::new(bounds, Arc::clone(&shared), Arc::new(|_| {})).unwrap();
    let ledger =
        Shaky { inner, failures: AtomicUsize::new(0), finished: Mutex::default(), renewed: AtomicUsize::new(0) };
    let ledger = Arc::new(ledger);
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, 0);
    metrics.set_counters([("ops", "c"), ("ops", "slot")], 10);
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::File(folder.path().join("audit.jsonl"));
    let audit = Arc::new(AuditSink::open(&sink, WhenUnavailable::Count, 1 << 20, metrics.clone()).unwrap());
    let hold = Duration::from_secs(60);
    let settler = Settler { ledger: Arc::clone(&ledger), clock: shared, metrics, audit: Arc::clone(&audit), hold };
    let (settlements, settling) = settler.start();
    Rig { ledger, clock, registry, audit, folder, settlements: Some(settlements), settling: tokio::spawn(settling) }
}

fn charge(name: &str, measure: Measure, amount: u64, max: u64) -> Charge {
    let terms = Terms {
        policy: Arc::from("ops"),
        name: Arc::from(name),
        label: Arc::from(format!("{name}:lifetime")),
        scope: Arc::from("grant"),
        window: Arc::from("lifetime"),
        scale: 0,
        denial: Denial::built_in(Reason::QuotaExhausted),
        disclose: false,
        count_on: CountOn::Forwarded,
        refund_on: RefundOn::default(),
        actual: Actual::default(),
        on_unavailable: OnUnavailable::Deny,
        on_expiry: OnExpiry::Keep,
    };
    let counter = CounterKey::of(&[name]);
    Charge { counter, measure, mode: Mode::Consume, amount, max, terms: Arc::new(terms) }
}

fn plain() -> Charge {
    charge("c", Measure::Lifetime { idle_ms: 0 }, 3, 100)
}

fn slot() -> Charge {
    charge("slot", Measure::InFlight { lease_ms: 1_000 }, 1, 1)
}

const fn ended(fate: Fate, attempts: u32) -> Seen {
    Seen::Ended(Facts { fate, attempts, came: None })
}

impl Rig {
    /// Reserves, and gives the token as Envoy would bring it back.
    async fn hold(&self, id: &str, charges: &[Charge]) -> String {
        let id = ReservationId::from_envoy(id).unwrap();
        let deadline = Instant::now().checked_add(Duration::from_secs(1)).unwrap();
        let on_leak: crate::quota::OnLeak = Arc::new(|_, _| panic!("nothing leaks here"));
        let held = reserve(&self.ledger, id, charges, Duration::from_secs(60), deadline, on_leak).await.unwrap();
        let Reserve::Reserved(reservation) = held else { panic!("there is room") };
        let ticket = reservation.into_ticket().unwrap();
        Token::of(&ticket, None, self.clock.now_ms()).sign(&self.ledger.keys()).unwrap()
    }

    fn offer(&self, token: &str, seen: Seen) {
        self.settlements.as_ref().unwrap().offer(token.as_bytes(), seen);
    }

    /// Units used of the counter, by asking how many are left.
    async fn used(&self, charge: &Charge) -> u64 {
        let id = ReservationId::random().unwrap();
        let probe = Charge { amount: 0, mode: Mode::Gate, max: 1_000, ..charge.clone() };
        let deadline = Instant::now().checked_add(Duration::from_secs(1)).unwrap();
        let prepared = reserve(&self.ledger, id, &[probe], Duration::from_secs(1), deadline, Arc::new(|_, _| {})).await;
        let Ok(Reserve::Reserved(reservation)) = prepared else { panic!("a gate that is open") };
        let lines = reservation.into_ticket().unwrap().booking.lines.clone();
        self.ledger.peek(&lines).await.unwrap()[0].used
    }

    /// Closes the queue, waits for the work, and gives metrics and audit.
    async fn done(mut self) -> (Arc<Shaky>, String, Vec<serde_json::Value>) {
        self.settlements = None;
        (&mut self.settling).await.unwrap();
        self.audit.close(Duration::from_secs(5)).unwrap();
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).unwrap();
        let audit = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap();
        (self.ledger, page, records(&audit))
    }
}

/// What the records say of the settlements, in order.
fn outcomes(audit: &[serde_json::Value]) -> Vec<&str> {
    audit.iter().map(|record| record["settled"].as_str().unwrap()).collect()
}

#[track_caller]
fn counts(page: &str, outcome: &str, n: u64) {
    let line = format!("mcp_authz_settlements_total{{outcome=\"{outcome}\"}} {n}");
    assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_went_well_asks_the_store_nothing_and_writes_nothing() {
    let rig = rig();
    let token = rig.hold("1", &[plain()]).await;
    rig.offer(&token, ended(Fate::Answered(200), 1));
    rig.offer(&token, Seen::Running);
    let (ledger, page, audit) = rig.done().await;
    assert!(ledger.finished.lock().unwrap().is_empty());
    assert_eq!(ledger.renewed.load(Ordering::SeqCst), 0);
    counts(&page, "confirmed", 1);
    assert!(audit.is_empty(), "{audit:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_comes_back_once() {
    let rig = rig();
    let token = rig.hold("1", &[plain()]).await;
    assert_eq!(rig.used(&plain()).await, 3);
    for _ in 0..3 {
        rig.offer(&token, ended(Fate::NotSent, 1));
    }
    let (ledger, page, audit) = rig.done().await;
    assert_eq!(ledger.finished.lock().unwrap()[0], Finish::RollBack(Speaker::Stream));
    counts(&page, "refunded", 1);
    counts(&page, "repeated", 2);
    assert!(page.contains(r#"mcp_authz_quota_units_total{policy="ops",counter="c",outcome="refunded"} 3"#), "{page}");
    assert_eq!(audit.len(), 1, "{audit:?}");
    for (name, value) in [("settled", "refunded"), ("fate", "not_sent"), ("attempts", "1"), ("reservation", "1")] {
        assert_eq!(audit[0][name], value, "{audit:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_end_stays_spent_and_is_seen() {
    let rig = rig();
    for (n, fate) in [Fate::ClientGone, Fate::Reset, Fate::TimedOut, Fate::Unanswered].into_iter().enumerate() {
        let token = rig.hold(&n.to_string(), &[plain()]).await;
        rig.offer(&token, ended(fate, 1));
    }
    assert_eq!(rig.used(&plain()).await, 12);
    let (ledger, page, audit) = rig.done().await;
    assert!(ledger.finished.lock().unwrap().is_empty());
    counts(&page, "unknown", 4);
    assert_eq!(outcomes(&audit), ["unknown"; 4]);
}

#[tokio::test(start_paused = true)]
async fn each_further_attempt_is_charged() {
    let rig = rig();
    let token = rig.hold("1", &[plain()]).await;
    rig.offer(&token, ended(Fate::Answered(200), 3));
    let probe = rig.settlements.clone();
    drop(probe);
    let ledger = Arc::clone(&rig.ledger);
    let (_, page, _) = rig.done().await;
    counts(&page, "surplus", 1);
    assert_eq!(*ledger.finished.lock().unwrap(), [Finish::Settle([9].into())]);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_freed_however_the_call_ended_and_renewed_while_it_runs() {
    let rig = rig();
    let token = rig.hold("1", &[plain(), slot()]).await;
    rig.clock.advance_ms(900);
    rig.offer(&token, Seen::Running);
    let ledger = Arc::clone(&rig.ledger);
    while ledger.renewed.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    rig.clock.advance_ms(900);
    assert_eq!(rig.used(&slot()).await, 1, "renewed beyond its first lease");
    rig.offer(&token, ended(Fate::ClientGone, 1));
    while ledger.finished.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!((rig.used(&slot()).await, rig.used(&plain()).await), (0, 3));
    rig.offer(&token, Seen::Running);
    let (_, page, _) = rig.done().await;
    for (outcome, n) in [("renewed", 1), ("unknown", 1), ("expired", 1)] {
        counts(&page, outcome, n);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_asked_again_and_refunds_once() {
    let rig = rig();
    rig.ledger.failures.store(4, Ordering::SeqCst);
    let token = rig.hold("1", &[plain()]).await;
    rig.hold("2", &[plain()]).await;
    rig.offer(&token, ended(Fate::NotSent, 1));
    let ledger = Arc::clone(&rig.ledger);
    while ledger.finished.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(rig.used(&plain()).await, 3, "only one of the two came back");
    let (_, page, _) = rig.done().await;
    counts(&page, "repeated", 1);
}

#[tokio::test(start_paused = true)]
async fn patience_with_a_store_ends() {
    let rig = rig();
    rig.ledger.failures.store(usize::MAX - 1, Ordering::SeqCst);
    let token = rig.hold("1", &[plain()]).await;
    // Whatever fails, nothing is applied.
    let begun = Instant::now();
    rig.offer(&token, ended(Fate::NotSent, 1));
    let (_, page, audit) = rig.done().await;
    assert!(begun.elapsed() <= STORE_PATIENCE + STORE_CALL, "{:?}", begun.elapsed());
    counts(&page, "failed", 1);
    assert_eq!((outcomes(&audit), &audit[0]["outcome"]), (vec!["failed"], &"error".into()));
}

#[tokio::test(start_paused = true)]
async fn forged_and_foreign_tokens_change_nothing_and_are_seen() {
    let rig = rig();
    let token = rig.hold("1", &[plain()]).await;
    let mut forged = token.clone().into_bytes();
    forged[20] ^= 1;
    let foreign = Token::read(token.as_bytes(), &rig.ledger.keys()).unwrap().sign(&Keys::derive(&[1; 32])).unwrap();
    let long = "A".repeat(TOKEN_BYTES_MAX + 1);
    for text in [&String::from_utf8(forged).unwrap(), &foreign, "", "%%%", &long] {
        rig.offer(text, ended(Fate::NotSent, 1));
    }
    let (ledger, page, audit) = rig.done().await;
    assert!(ledger.finished.lock().unwrap().is_empty());
    counts(&page, "forged", 5);
    assert_eq!(outcomes(&audit), ["forged"; 4]);
    assert_eq!(audit[0]["outcome"], "denied");
    let audit = format!("{audit:?}");
    assert!(!audit.contains(foreign.get(..40).unwrap()) && !audit.contains("reservation"), "{audit}");
}

#[tokio::test(start_paused = true)]
async fn an_old_token_says_nothing_any_more() {
    let rig = rig();
    let token = rig.hold("1", &[plain()]).await;
    rig.clock.advance_ms(AGE_MAX_MS + 1);
    rig.offer(&token, ended(Fate::NotSent, 1));
    let (ledger, page, _) = rig.done().await;
    assert!(ledger.finished.lock().unwrap().is_empty());
    counts(&page, "expired", 1);
}

#[tokio::test(start_paused = true)]
async fn a_refund_after_the_hold_has_run_out_is_none() {
    let rig = rig();
    let token = rig.hold("1", &[plain()]).await;
    rig.clock.advance_ms(120_000);
    rig.offer(&token, ended(Fate::NotSent, 1));
    let ledger = Arc::clone(&rig.ledger);
    while ledger.finished.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.used(&plain()).await, 3);
    let (_, page, audit) = rig.done().await;
    counts(&page, "expired", 1);
    assert_eq!(outcomes(&audit), ["expired"]);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_dropped_and_counted() {
    let rig = rig();
    let token = rig.hold("1", &[plain()]).await;
    // The worker does not run in between: this runtime has one thread and nothing here waits.
    for _ in 0..QUEUE_MAX + 7 {
        rig.offer(&token, ended(Fate::Answered(200), 1));
    }
    rig.settlements.as_ref().unwrap().lost(3);
    let (_, page, _) = rig.done().await;
    counts(&page, "dropped", 10);
    counts(&page, "confirmed", QUEUE_MAX as u64);
}

/// 100 units held until the answer tells how many they are.
fn measured(name: &str, actual: Actual, refund_on: RefundOn) -> Charge {
    let plain = charge(name, Measure::Lifetime { idle_ms: 0 }, 100, 1_000);
    Charge { terms: Arc::new(Terms { actual, refund_on, ..Terms::clone(&plain.terms) }), ..plain }
}

fn answered(kind: Kind, bytes: u64, usage: &[(&str, u64)]) -> Seen {
    let usage = usage.iter().map(|(name, units)| (Arc::from(*name), *units)).collect();
    Seen::Ended(Facts { fate: Fate::Answered(200), attempts: 1, came: Some(Came { kind, bytes, usage }) })
}

async fn settled(rig: &Rig, calls: usize) {
    while rig.ledger.finished.lock().unwrap().len() < calls {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_settles_what_was_held_once() {
    let rig = rig();
    let c = measured("c", Actual::Usage, RefundOn::default());
    let token = rig.hold("1", std::slice::from_ref(&c)).await;
    assert_eq!(rig.used(&c).await, 100, "held before the answer");
    for _ in 0..3 {
        rig.offer(&token, answered(Kind::Ok, 9, &[("c", 30)]));
    }
    settled(&rig, 3).await;
    assert_eq!(rig.used(&c).await, 30);
    let token = rig.hold("2", std::slice::from_ref(&c)).await;
    for _ in 0..2 {
        rig.offer(&token, answered(Kind::Ok, 9, &[("c", 450)]));
    }
    settled(&rig, 5).await;
    assert_eq!(rig.used(&c).await, 480, "more than was held");
    let (_, page, audit) = rig.done().await;
    for (outcome, n) in [("refunded", 1), ("surplus", 1), ("repeated", 3)] {
        counts(&page, outcome, n);
    }
    assert!(page.contains(r#"mcp_authz_quota_units_total{policy="ops",counter="c",outcome="refunded"} 70"#), "{page}");
    assert!(page.contains(r#"mcp_authz_quota_units_total{policy="ops",counter="c",outcome="held"} 350"#), "{page}");
    let surplus = audit.iter().find(|record| record["settled"] == "surplus").unwrap();
    for (name, value) in [("fate", "answered"), ("attempts", "1"), ("answer", "ok")] {
        assert_eq!(surplus[name], value, "{surplus}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_of_answer_gives_back_where_the_limit_says_so() {
    let rig = rig();
    let refund_on = RefundOn { is_error: true, ..RefundOn::default() };
    let c = measured("c", Actual::Held, refund_on);
    for (id, kind) in
        ["1", "2", "3", "4"].iter().zip([Kind::Ok, Kind::ProtocolError, Kind::ServerError, Kind::ToolError])
    {
        let token = rig.hold(id, std::slice::from_ref(&c)).await;
        rig.offer(&token, answered(kind, 9, &[]));
    }
    settled(&rig, 1).await;
    assert_eq!(rig.used(&c).await, 300);
    let (_, page, audit) = rig.done().await;
    counts(&page, "refunded", 1);
    counts(&page, "confirmed", 3);
    assert_eq!((audit.len(), &audit[0]["answer"]), (1, &"tool_error".into()));
    assert!(page.contains("mcp_authz_answers_unseen_total 0"), "{page}");
}

/// A surplus is owed however late it is told; what was to come back of an old hold does not, and is not counted as if it had.
#[tokio::test(start_paused = true)]
async fn after_the_hold_has_run_out_only_the_surplus_is_settled() {
    let rig = rig();
    let c = measured("c", Actual::Usage, RefundOn::default());
    let slot = measured("slot", Actual::Usage, RefundOn::default());
    let token = rig.hold("1", &[c.clone(), slot.clone()]).await;
    rig.clock.advance_ms(120_000);
    for _ in 0..2 {
        rig.offer(&token, answered(Kind::Ok, 9, &[("c", 30), ("slot", 130)]));
    }
    settled(&rig, 2).await;
    assert_eq!((rig.used(&c).await, rig.used(&slot).await), (100, 130));
    let (_, page, _) = rig.done().await;
    counts(&page, "surplus", 1);
    assert!(!page.contains(r#"outcome="refunded"} 70"#), "{page}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_saw_leaves_the_hold_and_is_counted() {
    let rig = rig();
    let c = measured("c", Actual::Usage, RefundOn::default());
    let token = rig.hold("5", &[plain()]).await;
    rig.offer(&token, ended(Fate::Answered(200), 1));
    for (id, fate) in
        [("1", Fate::Answered(200)), ("2", Fate::Answered(404)), ("3", Fate::Answered(500)), ("4", Fate::Reset)]
    {
        let token = rig.hold(id, std::slice::from_ref(&c)).await;
        rig.offer(&token, ended(fate, 1));
    }
    let token = rig.hold("6", std::slice::from_ref(&c)).await;
    rig.offer(&token, answered(Kind::Ok, 9, &[]));
    assert_eq!(rig.used(&c).await, 503);
    let (ledger, page, _) = rig.done().await;
    assert!(ledger.finished.lock().unwrap().is_empty());
    // With 500 and above the body is no proof, and without an answer there is none to see.
    assert!(page.contains("mcp_authz_answers_unseen_total 2\n"), "{page}");
}
