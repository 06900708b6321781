//! What a refused caller is told of a counter, for every kind of it, from a ledger that really refuses.

use std::sync::Arc;

use mcp_authz_core::{
    ledger::machine::Bounds,
    quota::{
        Actual, Calendar, CountOn, CounterKey, Fingerprint, Measure, Mode, OnExpiry, OnUnavailable, RefundOn, Terms,
        Unit, Weekday, Zone,
    },
};

use super::*;
use crate::{clock::ManualClock, quota::embedded::EmbeddedLedger};

const NOW_MS: u64 = 1_800_000_000_000;

fn charge(measure: Measure, amount: u64, max: u64, disclose: bool) -> Charge {
    let denial = Denial { message: "Enough.".into(), ..Denial::built_in(Reason::QuotaExhausted) };
    let terms = Terms {
        policy: "p".into(),
        name: "c".into(),
        label: "c:x".into(),
        scope: "grant".into(),
        window: "x".into(),
        scale: 0,
        denial,
        disclose,
        count_on: CountOn::Forwarded,
        refund_on: RefundOn::default(),
        actual: Actual::default(),
        on_unavailable: OnUnavailable::Deny,
        on_expiry: OnExpiry::Keep,
    };
    Charge { counter: CounterKey::of(&["c"]), measure, mode: Mode::Consume, amount, max, terms: Arc::new(terms) }
}

fn ledger() -> Arc<EmbeddedLedger> {
    let bounds = Bounds { counters_max: 100, reservations_max: 100 };
    Arc::new(EmbeddedLedger::new(bounds, Arc::new(ManualClock::new(NOW_MS)), Arc::new(|_| {})).unwrap())
}

async fn reserve(ledger: &Arc<EmbeddedLedger>, charge: &Charge) -> Reserve<EmbeddedLedger> {
    let (hold, id) = (Duration::from_secs(60), ReservationId::random().unwrap());
    let deadline = Instant::now().checked_add(hold).unwrap();
    let charges = std::slice::from_ref(charge);
    quota::reserve(ledger, id, charges, hold, deadline, Arc::new(|_, _| {})).await.unwrap()
}

/// The refusal of the first call that does not fit.
async fn refused(charge: &Charge) -> Denial {
    let ledger = ledger();
    let mut held = Vec::new();
    for _ in 0..=charge.max {
        match reserve(&ledger, charge).await {
            Reserve::Reserved(reservation) => held.push(reservation),
            Reserve::OverLimit(over) => return refusal(charge, &over),
            other @ (Reserve::Free | Reserve::Unmetered(_)) => panic!("{other:?}"),
        }
    }
    panic!("nothing was refused")
}

fn hour() -> Measure {
    Measure::Calendar(Calendar { unit: Unit::Hour, zone: Zone::Utc, week_start: Weekday::Monday })
}

#[tokio::test]
async fn a_refusal_says_when_to_come_back_unless_waiting_never_helps() {
    let fingerprint = Fingerprint([1; 16]);
    for (measure, retry_after_ms) in [
        (hour(), Some(3_600_000)),
        (Measure::Rolling { bucket_ms: 1_000, buckets: 60 }, Some(61_000)),
        (Measure::TokenBucket { interval_us: 1_000_000 }, Some(1_000)),
        (Measure::InFlight { lease_ms: 5_000 }, Some(5_000)),
        (Measure::Streak { fingerprint, idle_ms: 600_000 }, Some(600_000)),
        (Measure::Lifetime { idle_ms: 0 }, None),
        (Measure::Lifetime { idle_ms: 60_000 }, None),
    ] {
        let denial = refused(&charge(measure.clone(), 1, 2, false)).await;
        assert_eq!((denial.reason, denial.retry_after_ms), (Reason::QuotaExhausted, retry_after_ms), "{measure:?}");
        assert_eq!(&*denial.message, "Enough.", "{measure:?}");
    }
    let denial = refused(&charge(hour(), 3, 2, false)).await;
    assert_eq!((denial.reason, denial.retry_after_ms), (Reason::NeverFits, None));
}

#[tokio::test]
async fn only_a_limit_that_discloses_tells_its_counter() {
    let told = refused(&charge(hour(), 1, 2, true)).await;
    assert_eq!(&*told.message, "Enough. (2 of 2 used this hour; resets in 60 min)");
    let never = refused(&charge(hour(), 3, 2, true)).await;
    assert_eq!(&*never.message, "Enough. (the whole limit is 2)");
    let silent = refused(&charge(hour(), 1, 2, false)).await;
    assert!(silent.message.chars().all(|c| !c.is_ascii_digit()));
}

#[test]
fn each_failure_of_the_ledger_says_who_can_do_something_about_it() {
    let io = || Box::new(std::io::Error::other("SECRET"));
    for (error, says, retry_after_ms) in [
        (LedgerError::Conflict, "Send it again", None),
        (LedgerError::RolledBack, "Send it again", None),
        (LedgerError::Settled, "Send it again", None),
        (LedgerError::Fenced { wait_ms: 900 }, "Try again in a moment", Some(900)),
        (LedgerError::Full { limit: "counters_max" }, "Ask the operator to raise its limits", None),
        (LedgerError::Lost { wait_ms: None }, "ask the operator to accept the loss", None),
        (LedgerError::Lost { wait_ms: Some(7) }, "Wait, or ask the operator", Some(7)),
        (LedgerError::Refused(io()), "Ask the operator", None),
        (LedgerError::Unknown(io()), "Ask the operator", None),
    ] {
        let denial = unavailable(&error);
        assert!(denial.message.contains(says) && !denial.message.contains("SECRET"), "{error}: {}", denial.message);
        assert_eq!((denial.reason, denial.retry_after_ms), (Reason::LedgerUnavailable, retry_after_ms), "{error}");
    }
}
