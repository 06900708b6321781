//! What every [`Ledger`] must do, whatever store is below it: claims with names.
//!
//! A new engine calls [`ledger_contract`] with a way to make an empty ledger. Engines whose clock a test can move call
//! [`ledger_contract_of_time`] as well; no claim of the first list depends on when it runs.
#![expect(clippy::arithmetic_side_effects, reason = "sums over small tables; an overflow would only fail a test")]

use std::{fmt, sync::Arc, time::Duration};

use mcp_authz_core::{
    decision::{Denial, Reason},
    ledger::{Attempt, Code, Finish, Finished, Reply, Speaker, Standing, ask::line},
    number::AMOUNT_MAX,
    quota::{
        Actual, Calendar, Charge, CountOn, CounterKey, Fingerprint, Measure, Mode, OnExpiry, OnUnavailable, RefundOn,
        Terms, Unit,
    },
};
use tokio::time::Instant;

use super::{Booking, Ledger, ReservationId};

/// A minute, an hour and a day begin here.
pub(crate) const T0: u64 = 1_800_057_600_000;
pub(crate) const HOLD: Duration = Duration::from_secs(120);
const MINUTE_MS: u64 = 60_000;
const YEAR_MS: u64 = 366 * 86_400_000;

/// An empty ledger, and how to move its clock.
pub(crate) struct Subject<L> {
    pub(crate) ledger: Arc<L>,
    /// Moves the clock forward by so many ms.
    pub(crate) advance: Box<dyn Fn(u64) + Send + Sync>,
    /// What must live as long as the ledger: a server, a folder.
    pub(crate) _keep: Box<dyn std::any::Any + Send + Sync>,
}

impl<L> fmt::Debug for Subject<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").finish_non_exhaustive()
    }
}

/// Makes one test of each claim that holds at any time. `$make` is a future of a [`Subject`].
macro_rules! ledger_contract {
    ($make:expr) => {
        $crate::quota::contract::claims!($make;
            all_lines_or_none,
            a_replayed_id_charges_once,
            an_attempt_cannot_take_back_what_another_relies_on,
            an_id_for_other_charges_is_refused,
            an_id_rolled_back_is_refused,
            a_rollback_before_its_hold_refuses_the_hold,
            a_rollback_restores_once,
            a_settlement_cannot_be_rolled_back,
            a_settlement_gives_back_what_is_left_and_charges_what_is_more,
            the_first_failing_line_is_reported,
            an_amount_above_the_limit_never_fits,
            the_largest_amounts_do_not_overflow,
            modes_do_what_they_say,
            a_row_of_equal_calls_ends_with_another,
            slots_come_back,
            a_look_changes_nothing,
            a_reset_forgets,
            concurrent_calls_get_exactly_the_maximum,
        );
    };
}
pub(crate) use ledger_contract;

/// The claims about time, for engines whose clock a test can move.
macro_rules! ledger_contract_of_time {
    ($make:expr) => {
        $crate::quota::contract::claims!($make;
            an_ended_hold_counts_as_spent,
            a_new_window_starts_at_zero_and_old_rollbacks_do_not_reach_it,
            a_span_is_never_exceeded,
            a_bucket_refills,
            a_slot_ends_with_its_lease_and_lives_as_long_as_it_is_renewed,
            released_units_come_back_when_the_hold_runs_out,
            idle_counters_start_anew,
        );
    };
}
pub(crate) use ledger_contract_of_time;

macro_rules! claims {
    ($make:expr; $($claim:ident,)+) => {
        $(#[tokio::test]
        async fn $claim() {
            $crate::quota::contract::$claim(&$make.await).await;
        })+
    };
}
pub(crate) use claims;

pub(crate) fn id(name: &str) -> ReservationId {
    ReservationId::from_envoy(name).unwrap()
}

/// A charge under a name of its own.
pub(crate) fn charge(counter: &str, measure: Measure, amount: u64, max: u64) -> Charge {
    let terms = Terms {
        policy: Arc::from("p"),
        name: Arc::from(counter),
        label: format!("{counter}:test").into(),
        scope: Arc::from("grant"),
        window: Arc::from("test"),
        scale: 0,
        denial: Denial::built_in(Reason::QuotaExhausted),
        disclose: false,
        count_on: CountOn::Forwarded,
        refund_on: RefundOn::default(),
        actual: Actual::default(),
        on_unavailable: OnUnavailable::Deny,
        on_expiry: OnExpiry::Keep,
    };
    Charge { counter: CounterKey::of(&[counter]), measure, mode: Mode::Consume, amount, max, terms: Arc::new(terms) }
}

/// A counter that no time changes.
pub(crate) fn total(counter: &str, amount: u64, max: u64) -> Charge {
    charge(counter, Measure::Lifetime { idle_ms: 0 }, amount, max)
}

pub(crate) fn minute(counter: &str, amount: u64, max: u64) -> Charge {
    charge(counter, Measure::Calendar(Calendar::utc(Unit::Minute)), amount, max)
}

/// One of each measure that does not count calls, none of which ends while a test runs.
fn long(amount: u64, max: u64) -> Vec<Charge> {
    vec![
        charge("life", Measure::Lifetime { idle_ms: YEAR_MS }, amount, max),
        charge("rolling", Measure::Rolling { bucket_ms: 86_400_000, buckets: 30 }, amount, max),
        charge("bucket", Measure::TokenBucket { interval_us: 3_600_000_000 }, amount, max),
    ]
}

pub(crate) fn booking<L: Ledger>(ledger: &L, name: &str, charges: &[Charge]) -> Booking {
    let prepared = Booking::prepare(&id(name), Attempt(1), charges, &ledger.keys(), ledger.now_ms()).unwrap();
    prepared.expect("something is asked").booking
}

async fn ask<L: Ledger>(ledger: &L, booking: &Booking) -> Reply {
    ledger.reserve(booking, HOLD, Instant::now() + HOLD).await.unwrap()
}

async fn take<L: Ledger>(ledger: &L, name: &str, charges: &[Charge]) -> Code {
    ask(ledger, &booking(ledger, name, charges)).await.code
}

async fn roll_back<L: Ledger>(ledger: &L, booking: &Booking) -> Finished {
    ledger.finish(booking, &Finish::RollBack(Speaker::Stream)).await.unwrap()
}

async fn settle<L: Ledger>(ledger: &L, booking: &Booking, actual: &[u64]) -> Finished {
    ledger.finish(booking, &Finish::Settle(actual.into())).await.unwrap()
}

async fn standing<L: Ledger>(ledger: &L, charge: &Charge) -> Standing {
    let line = line(charge, &*ledger.keys(), ledger.now_ms()).unwrap();
    ledger.peek(&[line]).await.unwrap()[0]
}

async fn used<L: Ledger>(ledger: &L, charge: &Charge) -> u64 {
    standing(ledger, charge).await.used
}

pub(crate) async fn all_lines_or_none<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    assert_eq!(take(ledger, "1", &[total("b", 20, 20)]).await, Code::Held);
    let charges = [total("a", 5, 20), total("b", 1, 20), total("c", 5, 20)];
    assert_eq!(take(ledger, "2", &charges).await, Code::Limited { line: 1 });
    for charge in [&charges[0], &charges[2]] {
        assert_eq!(used(ledger, charge).await, 0);
    }
}

pub(crate) async fn a_replayed_id_charges_once<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    for charge in long(15, 20) {
        let one = booking(ledger, &format!("1-{}", charge.terms.name), std::slice::from_ref(&charge));
        assert_eq!(ask(ledger, &one).await.code, Code::Held);
        assert_eq!(ask(ledger, &one).await.code, Code::HeldBefore);
        assert_eq!(used(ledger, &charge).await, 15);
    }
}

pub(crate) async fn an_attempt_cannot_take_back_what_another_relies_on<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let first = booking(ledger, "1", &[total("a", 15, 20)]);
    let second = Booking { attempt: Attempt(2), ..first.clone() };
    let by = |attempt| Finish::RollBack(Speaker::Attempt(attempt));
    assert_eq!(ask(ledger, &first).await.code, Code::Held);
    assert_eq!(ledger.finish(&first, &by(Attempt(2))).await.unwrap(), Finished::Shared);
    assert_eq!(ask(ledger, &second).await.code, Code::HeldBefore);
    for one in [&first, &second] {
        assert_eq!(ledger.finish(one, &by(one.attempt)).await.unwrap(), Finished::Shared);
    }
    assert_eq!(used(ledger, &total("a", 1, 20)).await, 15);
    assert_eq!(roll_back(ledger, &second).await, Finished::Now { credited: 1 });
    assert_eq!(used(ledger, &total("a", 1, 20)).await, 0);
}

pub(crate) async fn an_id_for_other_charges_is_refused<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    assert_eq!(take(ledger, "1", &[total("a", 15, 20)]).await, Code::Held);
    let gate = Charge { mode: Mode::Gate, ..total("a", 15, 20) };
    for other in
        [vec![total("a", 14, 20)], vec![total("b", 15, 20)], vec![gate], vec![total("a", 15, 20), total("b", 1, 1)]]
    {
        let other = booking(ledger, "1", &other);
        assert_eq!(ask(ledger, &other).await.code, Code::Conflict);
        assert_eq!(roll_back(ledger, &other).await, Finished::Conflict);
    }
    // Another maximum is the same request after a reload.
    assert_eq!(take(ledger, "1", &[total("a", 15, 16)]).await, Code::HeldBefore);
}

pub(crate) async fn an_id_rolled_back_is_refused<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let one = booking(ledger, "1", &[total("a", 15, 20)]);
    assert_eq!(ask(ledger, &one).await.code, Code::Held);
    assert_eq!(roll_back(ledger, &one).await, Finished::Now { credited: 1 });
    assert_eq!(ask(ledger, &one).await.code, Code::RolledBack);
    assert_eq!(used(ledger, &total("a", 1, 20)).await, 0);
}

pub(crate) async fn a_rollback_before_its_hold_refuses_the_hold<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let late = booking(ledger, "1", &[total("a", 15, 20)]);
    assert_eq!(roll_back(ledger, &late).await, Finished::Unknown);
    assert_eq!(ask(ledger, &late).await.code, Code::RolledBack);
    assert_eq!(used(ledger, &total("a", 1, 20)).await, 0);
}

pub(crate) async fn a_rollback_restores_once<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    for charge in long(8, 20) {
        let name = charge.terms.name.clone();
        let [one, two] = ["1", "2"].map(|id| booking(ledger, &format!("{id}-{name}"), std::slice::from_ref(&charge)));
        assert_eq!(ask(ledger, &one).await.code, Code::Held);
        assert_eq!(ask(ledger, &two).await.code, Code::Held);
        assert_eq!(roll_back(ledger, &one).await, Finished::Now { credited: 1 });
        assert_eq!(roll_back(ledger, &one).await, Finished::Before { same: true });
        assert_eq!(settle(ledger, &one, &[8]).await, Finished::Before { same: false });
        assert!(is_used(ledger, &charge, 8).await, "{name}");
    }
}

/// Whether so much is used. A record knows its time in milliseconds: of a bucket that is counted in microseconds a part of one may
/// not come back, and what is used is rounded up.
async fn is_used<L: Ledger>(ledger: &L, charge: &Charge, units: u64) -> bool {
    let spare = u64::from(matches!(charge.measure, Measure::TokenBucket { .. }));
    (units..=units + spare).contains(&used(ledger, charge).await)
}

pub(crate) async fn a_settlement_cannot_be_rolled_back<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let one = booking(ledger, "1", &[total("a", 8, 20)]);
    assert_eq!(ask(ledger, &one).await.code, Code::Held);
    assert_eq!(settle(ledger, &one, &[8]).await, Finished::Now { credited: 0 });
    assert_eq!(roll_back(ledger, &one).await, Finished::Before { same: false });
    assert_eq!(ask(ledger, &one).await.code, Code::Settled);
    assert_eq!(used(ledger, &total("a", 1, 20)).await, 8);
}

pub(crate) async fn a_settlement_gives_back_what_is_left_and_charges_what_is_more<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    for charge in long(10, 20) {
        let name = charge.terms.name.clone();
        for (id, actual, wanted) in [("less", 3, 3), ("more", 15, 18)] {
            let one = booking(ledger, &format!("{id}-{name}"), std::slice::from_ref(&charge));
            assert_eq!(ask(ledger, &one).await.code, Code::Held);
            settle(ledger, &one, &[actual]).await;
            assert!(is_used(ledger, &charge, wanted).await, "{name}");
        }
    }
}

pub(crate) async fn the_first_failing_line_is_reported<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    assert_eq!(take(ledger, "1", &[total("b", 2, 2), total("c", 1, 1)]).await, Code::Held);
    let reply = ask(ledger, &booking(ledger, "2", &[total("a", 1, 9), total("b", 1, 2), total("c", 1, 1)])).await;
    assert_eq!(reply.code, Code::Limited { line: 1 });
    let standings: Vec<(u64, u64, Option<u64>)> =
        reply.standings.iter().map(|standing| (standing.used, standing.left, standing.reset_ms)).collect();
    assert_eq!(standings, [(0, 9, None), (2, 0, None), (1, 0, None)]);
}

pub(crate) async fn an_amount_above_the_limit_never_fits<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    assert_eq!(take(ledger, "1", &[total("a", 21, 20)]).await, Code::NeverFits { line: 0 });
    // Also where another line is only used up, which is then the first.
    assert_eq!(take(ledger, "2", &[total("b", 1, 1)]).await, Code::Held);
    assert_eq!(take(ledger, "3", &[total("b", 1, 1), total("a", 21, 20)]).await, Code::NeverFits { line: 0 });
    for charge in long(21, 20) {
        assert_eq!(take(ledger, "4", &[charge]).await, Code::NeverFits { line: 0 });
    }
}

pub(crate) async fn the_largest_amounts_do_not_overflow<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let all = total("a", AMOUNT_MAX, AMOUNT_MAX);
    assert_eq!(take(ledger, "1", std::slice::from_ref(&all)).await, Code::Held);
    for (id, amount) in [("2", 1), ("3", AMOUNT_MAX)] {
        assert_eq!(take(ledger, id, &[total("a", amount, AMOUNT_MAX)]).await, Code::Limited { line: 0 });
    }
    let track = Charge { mode: Mode::Track, ..all.clone() };
    assert_eq!(take(ledger, "4", &[track]).await, Code::Held);
    assert_eq!(used(ledger, &all).await, AMOUNT_MAX);
}

pub(crate) async fn modes_do_what_they_say<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let with = |mode, amount| Charge { mode, ..total("a", amount, 5) };
    assert_eq!(take(ledger, "gate", &[with(Mode::Gate, 1)]).await, Code::Held);
    assert_eq!(take(ledger, "track", &[with(Mode::Track, 7)]).await, Code::Held);
    assert_eq!(take(ledger, "late gate", &[with(Mode::Gate, 0)]).await, Code::Limited { line: 0 });
    assert_eq!(used(ledger, &total("a", 1, 5)).await, 7);
    // An attempt is counted although the call is refused, and although it is taken back.
    let attempt = Charge { mode: Mode::Attempt, ..total("b", 1, 1) };
    let one = booking(ledger, "attempt", std::slice::from_ref(&attempt));
    assert_eq!(ask(ledger, &one).await.code, Code::Held);
    roll_back(ledger, &one).await;
    assert_eq!(take(ledger, "refused", std::slice::from_ref(&attempt)).await, Code::Limited { line: 0 });
    assert_eq!(used(ledger, &attempt).await, 2);
}

pub(crate) async fn a_row_of_equal_calls_ends_with_another<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let call = |byte| {
        let measure = Measure::Streak { fingerprint: Fingerprint([byte; 16]), idle_ms: YEAR_MS };
        [charge("row", measure, 1, 2)]
    };
    for (id, byte, code) in [
        ("1", 1, Code::Held),
        ("2", 1, Code::Held),
        ("3", 1, Code::Limited { line: 0 }),
        ("4", 2, Code::Held),
        ("5", 1, Code::Held),
    ] {
        assert_eq!(take(ledger, id, &call(byte)).await, code, "{id}");
    }
}

pub(crate) async fn slots_come_back<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let slot = [charge("slots", Measure::InFlight { lease_ms: YEAR_MS }, 1, 2)];
    let [one, two] = ["1", "2"].map(|id| booking(ledger, id, &slot));
    assert_eq!(ask(ledger, &one).await.code, Code::Held);
    assert_eq!(ask(ledger, &two).await.code, Code::Held);
    assert_eq!(take(ledger, "3", &slot).await, Code::Limited { line: 0 });
    settle(ledger, &one, &[1]).await;
    assert_eq!(take(ledger, "4", &slot).await, Code::Held);
    roll_back(ledger, &two).await;
    assert!(!ledger.renew(&two, HOLD).await.unwrap(), "a slot that was given up is not taken again");
    assert_eq!(take(ledger, "5", &slot).await, Code::Held);
    assert_eq!(used(ledger, &slot[0]).await, 2);
}

pub(crate) async fn a_look_changes_nothing<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    assert_eq!(take(ledger, "1", &long(5, 5)).await, Code::Held);
    for charge in long(1, 5) {
        let before = standing(ledger, &charge).await;
        assert_eq!((before.used, before.left), (5, 0), "{}", charge.terms.name);
        assert_eq!(standing(ledger, &charge).await.used, 5);
    }
}

pub(crate) async fn a_reset_forgets<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let one = booking(ledger, "1", &long(5, 5));
    assert_eq!(ask(ledger, &one).await.code, Code::Held);
    ledger.reset(&one.lines).await.unwrap();
    for charge in long(1, 5) {
        assert_eq!(used(ledger, &charge).await, 0);
    }
    // What was held before gives nothing back that was not there.
    roll_back(ledger, &one).await;
    assert_eq!(take(ledger, "2", &long(5, 5)).await, Code::Held);
    assert_eq!(take(ledger, "3", &long(1, 5)).await, Code::Limited { line: 0 });
}

pub(crate) async fn concurrent_calls_get_exactly_the_maximum<L: Ledger>(subject: &Subject<L>) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let ledger = Arc::clone(&subject.ledger);
        tasks.spawn(async move {
            let mut held = 0;
            for call in 0..40_u32 {
                let one = booking(&*ledger, &format!("{task}-{call}"), &[total("a", 1, 100), total("b", 2, 1_000)]);
                if ask(&*ledger, &one).await.code == Code::Held {
                    // A third of the callers vanish; what they return, others may take.
                    if call % 3 == 0 {
                        assert_eq!(roll_back(&*ledger, &one).await, Finished::Now { credited: 2 });
                    } else {
                        held += 1;
                    }
                }
            }
            held
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<u32>(), 100);
    assert_eq!(used(&*subject.ledger, &total("b", 1, 1_000)).await, 200);
}

pub(crate) async fn an_ended_hold_counts_as_spent<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let one = booking(ledger, "1", &[total("a", 8, 20)]);
    assert_eq!(ask(ledger, &one).await.code, Code::Held);
    (subject.advance)(HOLD.as_secs() * 1_000 + 10_000);
    assert_eq!(roll_back(ledger, &one).await, Finished::Unknown);
    assert_eq!(used(ledger, &total("a", 1, 20)).await, 8);
}

pub(crate) async fn a_new_window_starts_at_zero_and_old_rollbacks_do_not_reach_it<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    (subject.advance)(MINUTE_MS - ledger.now_ms() % MINUTE_MS);
    let old = booking(ledger, "old", &[minute("a", 20, 20)]);
    let reply = ask(ledger, &old).await;
    assert_eq!(reply.code, Code::Held);
    assert_eq!(reply.standings[0].reset_ms, Some(MINUTE_MS - reply.now_ms % MINUTE_MS));
    assert_eq!(take(ledger, "early", &[minute("a", 1, 20)]).await, Code::Limited { line: 0 });
    (subject.advance)(MINUTE_MS);
    assert_eq!(take(ledger, "new", &[minute("a", 20, 20)]).await, Code::Held);
    assert_eq!(roll_back(ledger, &old).await, Finished::Now { credited: 0 });
    assert_eq!(used(ledger, &minute("a", 1, 20)).await, 20);
    // Windows of a caller that is behind by one are good enough; by two, the store says that they are not its own.
    assert_eq!(ask(ledger, &Booking { id: id("behind"), ..old.clone() }).await.code, Code::Limited { line: 0 });
    (subject.advance)(MINUTE_MS);
    assert_eq!(ask(ledger, &Booking { id: id("stale"), ..old }).await.code, Code::StaleWindows { line: 0 });
}

pub(crate) async fn a_span_is_never_exceeded<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let two = [charge("a", Measure::Rolling { bucket_ms: 1_000, buckets: 10 }, 2, 5)];
    let mut held = Vec::new();
    for step in 0..60 {
        if take(ledger, &step.to_string(), &two).await == Code::Held {
            held.push(step * 700_u64);
        }
        (subject.advance)(700);
    }
    assert!(held.windows(3).all(|three| three[2] - three[0] >= 10_000), "{held:?}");
    assert!(held.len() >= 7, "early by a bucket at most: {held:?}");
}

pub(crate) async fn a_bucket_refills<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let take_of = |amount| [charge("a", Measure::TokenBucket { interval_us: 7_000_000 }, amount, 5)];
    assert_eq!(take(ledger, "1", &take_of(5)).await, Code::Held);
    let reply = ask(ledger, &booking(ledger, "2", &take_of(1))).await;
    assert_eq!((reply.code, reply.standings[0].reset_ms), (Code::Limited { line: 0 }, Some(7_000)));
    (subject.advance)(6_999);
    assert_eq!(take(ledger, "3", &take_of(1)).await, Code::Limited { line: 0 });
    (subject.advance)(1);
    assert_eq!(take(ledger, "4", &take_of(1)).await, Code::Held);
    assert_eq!(take(ledger, "5", &take_of(1)).await, Code::Limited { line: 0 });
}

pub(crate) async fn a_slot_ends_with_its_lease_and_lives_as_long_as_it_is_renewed<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let slot = [charge("a", Measure::InFlight { lease_ms: 45_000 }, 1, 1)];
    let one = booking(ledger, "1", &slot);
    assert_eq!(ask(ledger, &one).await.code, Code::Held);
    (subject.advance)(44_000);
    assert!(ledger.renew(&one, HOLD).await.unwrap());
    (subject.advance)(44_000);
    assert_eq!(take(ledger, "2", &slot).await, Code::Limited { line: 0 });
    (subject.advance)(1_001);
    assert_eq!(take(ledger, "3", &slot).await, Code::Held);
    assert!(!ledger.renew(&one, HOLD).await.unwrap());
}

pub(crate) async fn released_units_come_back_when_the_hold_runs_out<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let mut lent = total("a", 5, 5);
    let terms = Terms { on_expiry: OnExpiry::Release, ..(*lent.terms).clone() };
    lent.terms = Arc::new(terms);
    let lent = [lent];
    let one = booking(ledger, "1", &lent);
    assert_eq!(ask(ledger, &one).await.code, Code::Held);
    assert_eq!(take(ledger, "2", &lent).await, Code::Limited { line: 0 });
    (subject.advance)(HOLD.as_secs() * 1_000);
    assert_eq!(take(ledger, "3", &lent).await, Code::Held);
    // It ran after all: it is owed again, on top.
    settle(ledger, &one, &[5]).await;
    assert_eq!(used(ledger, &lent[0]).await, 10);
}

pub(crate) async fn idle_counters_start_anew<L: Ledger>(subject: &Subject<L>) {
    let ledger = &*subject.ledger;
    let idle = [charge("a", Measure::Lifetime { idle_ms: 10_000 }, 2, 5)];
    assert_eq!(take(ledger, "1", &idle).await, Code::Held);
    (subject.advance)(9_000);
    assert_eq!(take(ledger, "2", &idle).await, Code::Held);
    (subject.advance)(9_000);
    assert_eq!(take(ledger, "3", &idle).await, Code::Limited { line: 0 });
    (subject.advance)(1_001);
    assert_eq!(take(ledger, "4", &idle).await, Code::Held);
}
