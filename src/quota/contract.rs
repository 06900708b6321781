//! What every [`Ledger`] must do, whatever store is below it: claims with names, and a comparison with a model too small to be
//! wrong. A new engine calls [`ledger_contract`] with a way to make an empty ledger.

use std::{sync::Arc, time::Duration};

use mcp_authz_core::decision::{Charge, CounterKey, Denial, Reason, Rule, Window};
use proptest::prelude::*;

use super::{Hold, Ledger, LedgerError, ReservationId, RollbackReason, Settled, Settlement};

/// A minute, an hour and a day begin here.
pub(crate) const T0: u64 = 1_800_057_600_000;
pub(crate) const LEASE: Duration = Duration::from_secs(120);
pub(crate) const ROLLBACK: Settlement = Settlement::Rollback(RollbackReason::NotSent);

pub(crate) fn id(name: &str) -> ReservationId {
    ReservationId::from_envoy(name).unwrap()
}

pub(crate) fn charge(counter: &str, window: Window, amount: u64, max: u64) -> Charge {
    let denial = Denial {
        reason: Reason::QuotaExhausted,
        rule: Rule::built_in("(test)"),
        message: Arc::from("used up"),
        retry_after_ms: None,
    };
    Charge { counter: CounterKey::of(&[counter]), amount, max, window, denial: Arc::new(denial) }
}

pub(crate) fn minute(counter: &str, amount: u64, max: u64) -> Charge {
    charge(counter, Window::Minute, amount, max)
}

/// Units that can still be taken from a counter, found by trying; gives them back.
async fn left<L: Ledger>(ledger: &L, counter: &str, now_ms: u64, probe: &str) -> u64 {
    for amount in (1..=20).rev() {
        let id = id(&format!("{probe}-{amount}"));
        if let Hold::Held = ledger.reserve(&id, &[minute(counter, amount, 20)], now_ms, LEASE).await.unwrap() {
            assert_eq!(ledger.settle(&id, ROLLBACK, now_ms).await.unwrap(), Settled::Now);
            return amount;
        }
    }
    0
}

/// Makes one test of each claim.
macro_rules! ledger_contract {
    ($keep_ms:expr, $make:expr) => {
        $crate::quota::contract::ledger_contract!(@claims $make;
            all_charges_or_none,
            a_replayed_id_charges_once,
            a_replayed_id_cannot_be_rolled_back,
            an_id_for_other_charges_is_refused,
            an_id_rolled_back_is_refused,
            a_rollback_before_its_hold_refuses_the_hold,
            a_rollback_restores_once,
            a_commit_cannot_be_rolled_back,
            an_ended_lease_counts_as_spent,
            an_id_used_again_keeps_its_own_lease,
            a_new_window_starts_at_zero_and_old_rollbacks_do_not_reach_it,
            a_clock_stepping_back_reopens_nothing,
            the_first_failing_charge_is_reported,
            the_longest_blocking_window_is_the_wait,
            an_amount_above_the_limit_has_no_retry,
            amounts_at_the_end_of_u64_do_not_overflow,
            one_counter_named_twice_is_charged_once_under_both_limits,
            zero_is_free,
        );
        #[test]
        fn agrees_with_the_model() {
            $crate::quota::contract::agrees_with_the_model($keep_ms, || $make);
        }
    };
    (@claims $make:expr; $($claim:ident,)+) => {
        $(#[tokio::test]
        async fn $claim() {
            $crate::quota::contract::$claim(&$make).await;
        })+
    };
}
pub(crate) use ledger_contract;

pub(crate) async fn all_charges_or_none<L: Ledger>(ledger: &L) {
    let held = ledger.reserve(&id("1"), &[minute("b", 20, 20)], T0, LEASE).await.unwrap();
    assert_eq!(held, Hold::Held);
    let charges = [minute("a", 5, 20), minute("b", 1, 20), minute("c", 5, 20)];
    let refused = ledger.reserve(&id("2"), &charges, T0, LEASE).await.unwrap();
    assert_eq!(refused, Hold::OverLimit { charge: 1, retry_after_ms: Some(60_000) });
    assert_eq!(left(ledger, "a", T0, "a").await, 20);
    assert_eq!(left(ledger, "c", T0, "c").await, 20);
}

pub(crate) async fn a_replayed_id_charges_once<L: Ledger>(ledger: &L) {
    let charges = [minute("a", 15, 20)];
    assert_eq!(ledger.reserve(&id("1"), &charges, T0, LEASE).await.unwrap(), Hold::Held);
    assert_eq!(ledger.reserve(&id("1"), &charges, T0, LEASE).await.unwrap(), Hold::Held);
    assert_eq!(left(ledger, "a", T0, "probe").await, 5);
    assert!(matches!(ledger.reserve(&id("2"), &charges, T0, LEASE).await, Ok(Hold::OverLimit { .. })));
}

pub(crate) async fn a_replayed_id_cannot_be_rolled_back<L: Ledger>(ledger: &L) {
    let charges = [minute("a", 15, 20)];
    for _ in 0..2 {
        assert_eq!(ledger.reserve(&id("1"), &charges, T0, LEASE).await.unwrap(), Hold::Held);
    }
    assert_eq!(ledger.settle(&id("1"), ROLLBACK, T0).await.unwrap(), Settled::Before(Settlement::Commit));
    assert_eq!(left(ledger, "a", T0, "probe").await, 5);
}

pub(crate) async fn an_id_for_other_charges_is_refused<L: Ledger>(ledger: &L) {
    assert_eq!(ledger.reserve(&id("1"), &[minute("a", 15, 20)], T0, LEASE).await.unwrap(), Hold::Held);
    let others =
        [vec![minute("a", 14, 20)], vec![minute("b", 15, 20)], vec![charge("a", Window::Hour, 15, 20)], Vec::new()];
    for other in others {
        let answer = ledger.reserve(&id("1"), &other, T0, LEASE).await;
        assert!(matches!(answer, Err(LedgerError::Conflict)), "{other:?}");
    }
    // Another maximum is the same request after a reload.
    assert_eq!(ledger.reserve(&id("1"), &[minute("a", 15, 16)], T0, LEASE).await.unwrap(), Hold::Held);
}

pub(crate) async fn an_id_rolled_back_is_refused<L: Ledger>(ledger: &L) {
    let charges = [minute("a", 15, 20)];
    assert_eq!(ledger.reserve(&id("1"), &charges, T0, LEASE).await.unwrap(), Hold::Held);
    assert_eq!(ledger.settle(&id("1"), ROLLBACK, T0).await.unwrap(), Settled::Now);
    let late = ledger.reserve(&id("1"), &charges, T0, LEASE).await;
    assert!(matches!(late, Err(LedgerError::RolledBack)));
    assert_eq!(left(ledger, "a", T0, "probe").await, 20);
}

pub(crate) async fn a_rollback_before_its_hold_refuses_the_hold<L: Ledger>(ledger: &L) {
    assert_eq!(ledger.settle(&id("1"), ROLLBACK, T0).await.unwrap(), Settled::Expired);
    let late = ledger.reserve(&id("1"), &[minute("a", 15, 20)], T0, LEASE).await;
    assert!(matches!(late, Err(LedgerError::RolledBack)));
    assert_eq!(left(ledger, "a", T0, "probe").await, 20);
}

pub(crate) async fn a_rollback_restores_once<L: Ledger>(ledger: &L) {
    for name in ["1", "2"] {
        let held = ledger.reserve(&id(name), &[minute("a", 8, 20)], T0, LEASE).await.unwrap();
        assert_eq!(held, Hold::Held);
    }
    assert_eq!(ledger.settle(&id("1"), ROLLBACK, T0).await.unwrap(), Settled::Now);
    for how in [ROLLBACK, Settlement::Rollback(RollbackReason::UpstreamFailed), Settlement::Commit] {
        assert_eq!(ledger.settle(&id("1"), how, T0).await.unwrap(), Settled::Before(ROLLBACK));
    }
    assert_eq!(left(ledger, "a", T0, "probe").await, 12);
}

pub(crate) async fn a_commit_cannot_be_rolled_back<L: Ledger>(ledger: &L) {
    assert_eq!(ledger.reserve(&id("1"), &[minute("a", 8, 20)], T0, LEASE).await.unwrap(), Hold::Held);
    assert_eq!(ledger.settle(&id("1"), Settlement::Commit, T0).await.unwrap(), Settled::Now);
    assert_eq!(ledger.settle(&id("1"), ROLLBACK, T0).await.unwrap(), Settled::Before(Settlement::Commit));
    assert_eq!(left(ledger, "a", T0, "probe").await, 12);
}

pub(crate) async fn an_ended_lease_counts_as_spent<L: Ledger>(ledger: &L) {
    let lease = Duration::from_secs(30);
    assert_eq!(ledger.reserve(&id("1"), &[minute("a", 8, 20)], T0, lease).await.unwrap(), Hold::Held);
    assert_eq!(ledger.settle(&id("1"), ROLLBACK, T0 + 30_000).await.unwrap(), Settled::Expired);
    assert_eq!(left(ledger, "a", T0 + 30_000, "probe").await, 12);
    assert_eq!(ledger.settle(&id("2"), Settlement::Commit, T0).await.unwrap(), Settled::Expired);
}

pub(crate) async fn an_id_used_again_keeps_its_own_lease<L: Ledger>(ledger: &L) {
    let (later, charges) = (T0 + 60_000, [charge("a", Window::Day, 8, 20)]);
    assert_eq!(ledger.reserve(&id("1"), &charges, T0, LEASE).await.unwrap(), Hold::Held);
    assert_eq!(ledger.settle(&id("1"), ROLLBACK, T0).await.unwrap(), Settled::Now);
    // The first one is forgotten by now, and when its lease would have ended the second one is still open.
    assert_eq!(ledger.reserve(&id("1"), &charges, later, LEASE).await.unwrap(), Hold::Held);
    assert_eq!(ledger.settle(&id("1"), ROLLBACK, T0 + 121_000).await.unwrap(), Settled::Now);
}

pub(crate) async fn a_new_window_starts_at_zero_and_old_rollbacks_do_not_reach_it<L: Ledger>(ledger: &L) {
    let (before, after) = (T0 + 59_900, T0 + 60_100);
    for (name, now_ms) in [("old", before), ("new", after)] {
        let held = ledger.reserve(&id(name), &[minute("a", 20, 20)], now_ms, LEASE).await.unwrap();
        assert_eq!(held, Hold::Held);
    }
    assert_eq!(ledger.settle(&id("old"), ROLLBACK, after).await.unwrap(), Settled::Now);
    assert_eq!(left(ledger, "a", after, "probe").await, 0);
}

pub(crate) async fn a_clock_stepping_back_reopens_nothing<L: Ledger>(ledger: &L) {
    for (name, now_ms) in [("1", T0 - 1), ("2", T0)] {
        let held = ledger.reserve(&id(name), &[minute("a", 20, 20)], now_ms, LEASE).await.unwrap();
        assert_eq!(held, Hold::Held);
    }
    for (name, back_ms) in [("3", 1), ("4", 60_001), ("5", 86_400_000)] {
        let refused = ledger.reserve(&id(name), &[minute("a", 1, 20)], T0 - back_ms, LEASE).await.unwrap();
        assert_eq!(refused, Hold::OverLimit { charge: 0, retry_after_ms: Some(60_000) });
    }
}

pub(crate) async fn the_first_failing_charge_is_reported<L: Ledger>(ledger: &L) {
    let charges = [minute("a", 1, 9), minute("b", 3, 2), minute("c", 1, 0)];
    let refused = ledger.reserve(&id("1"), &charges, T0, LEASE).await.unwrap();
    assert_eq!(refused, Hold::OverLimit { charge: 1, retry_after_ms: None });
}

pub(crate) async fn the_longest_blocking_window_is_the_wait<L: Ledger>(ledger: &L) {
    let one = [minute("a", 1, 1), charge("b", Window::Hour, 1, 1), charge("c", Window::Day, 1, 2)];
    let now_ms = T0 + 1_500;
    assert_eq!(ledger.reserve(&id("1"), &one, now_ms, LEASE).await.unwrap(), Hold::Held);
    let refused = ledger.reserve(&id("2"), &one, now_ms, LEASE).await.unwrap();
    assert_eq!(refused, Hold::OverLimit { charge: 0, retry_after_ms: Some(3_598_500) });
}

pub(crate) async fn an_amount_above_the_limit_has_no_retry<L: Ledger>(ledger: &L) {
    let refused = ledger.reserve(&id("1"), &[minute("a", 21, 20)], T0, LEASE).await.unwrap();
    assert_eq!(refused, Hold::OverLimit { charge: 0, retry_after_ms: None });
    // Also where another charge is only used up.
    assert_eq!(ledger.reserve(&id("2"), &[minute("b", 1, 1)], T0, LEASE).await.unwrap(), Hold::Held);
    let refused = ledger.reserve(&id("3"), &[minute("b", 1, 1), minute("a", 21, 20)], T0, LEASE).await.unwrap();
    assert_eq!(refused, Hold::OverLimit { charge: 0, retry_after_ms: None });
}

pub(crate) async fn amounts_at_the_end_of_u64_do_not_overflow<L: Ledger>(ledger: &L) {
    let all = [minute("a", u64::MAX, u64::MAX)];
    assert_eq!(ledger.reserve(&id("1"), &all, T0, LEASE).await.unwrap(), Hold::Held);
    for amount in [1, u64::MAX] {
        let refused = ledger.reserve(&id("2"), &[minute("a", amount, u64::MAX)], T0, LEASE).await.unwrap();
        assert_eq!(refused, Hold::OverLimit { charge: 0, retry_after_ms: Some(60_000) });
    }
}

pub(crate) async fn one_counter_named_twice_is_charged_once_under_both_limits<L: Ledger>(ledger: &L) {
    let twice = [minute("a", 8, 20), minute("a", 8, 16)];
    assert_eq!(ledger.reserve(&id("1"), &twice, T0, LEASE).await.unwrap(), Hold::Held);
    assert_eq!(left(ledger, "a", T0, "probe").await, 12);
    assert_eq!(ledger.reserve(&id("2"), &twice, T0, LEASE).await.unwrap(), Hold::Held);
    let refused = ledger.reserve(&id("3"), &[minute("a", 1, 20), minute("a", 1, 16)], T0, LEASE).await.unwrap();
    assert_eq!(refused, Hold::OverLimit { charge: 1, retry_after_ms: Some(60_000) });
    // Amounts that differ: the larger counts.
    let differ = [minute("a", 1, 20), minute("a", 5, 40)];
    let refused = ledger.reserve(&id("4"), &differ, T0, LEASE).await.unwrap();
    assert_eq!(refused, Hold::OverLimit { charge: 0, retry_after_ms: Some(60_000) });
}

pub(crate) async fn zero_is_free<L: Ledger>(ledger: &L) {
    assert_eq!(ledger.reserve(&id("1"), &[minute("a", 20, 20)], T0, LEASE).await.unwrap(), Hold::Held);
    let free = [minute("a", 0, 20), minute("b", 0, 0), minute("c", 1, 20)];
    assert_eq!(ledger.reserve(&id("2"), &free, T0, LEASE).await.unwrap(), Hold::Held);
    assert_eq!(left(ledger, "c", T0, "probe").await, 19);
}

/// What is done with one reservation.
#[derive(Clone, Debug)]
enum Act {
    Reserve { charges: Vec<(u8, Window, u64, u64)>, lease_ms: u64 },
    Settle(Settlement),
}

/// One thing that happens to a ledger.
#[derive(Clone, Debug)]
enum Step {
    Act(u8, Act),
    /// From now on the caller's clock is behind by so many milliseconds.
    Lag(u64),
    /// So many milliseconds go by.
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let window = prop_oneof![Just(Window::Minute), Just(Window::Hour), Just(Window::Day)];
    let charges = prop::collection::vec((0..3_u8, window, 0..7_u64, 3..13_u64), 1..5);
    let lease = prop_oneof![Just(0), Just(700), Just(9_000), Just(45_000), Just(4_000_000)];
    let how = prop_oneof![
        Just(Settlement::Commit),
        Just(ROLLBACK),
        Just(Settlement::Rollback(RollbackReason::UpstreamFailed))
    ];
    let step = prop_oneof![
        5 => (0..9_u8, charges, lease).prop_map(|(id, charges, lease_ms)| Step::Act(id, Act::Reserve { charges, lease_ms })),
        4 => (0..9_u8, how).prop_map(|(id, how)| Step::Act(id, Act::Settle(how))),
        2 => prop_oneof![Just(1), Just(650), Just(10_000), Just(61_000), Just(3_600_000), Just(90_000_000)]
            .prop_map(Step::Wait),
        1 => prop_oneof![Just(0), Just(1), Just(5_000), Just(100_000)].prop_map(Step::Lag),
    ];
    prop::collection::vec(step, 1..60)
}

/// A reservation ever made. Nothing is ever forgotten or added up ahead: sums are taken anew from the whole history.
#[derive(Debug)]
struct Entry {
    id: u8,
    parts: Vec<(u8, Window, u64, u64)>,
    settled: Option<Settlement>,
    ends_ms: u64,
    returned: bool,
}

#[derive(Debug, Default)]
struct Model {
    now_ms: u64,
    entries: Vec<Entry>,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Conflict,
    Hold(Hold),
    RolledBack,
    Settled(Settled),
}

impl Model {
    fn used(&self, counter: u8, window: Window) -> u64 {
        let start = window.start_ms(self.now_ms);
        let counted = self.entries.iter().filter(|entry| !entry.returned).flat_map(|entry| &entry.parts);
        counted.filter(|part| (part.0, part.1, part.2) == (counter, window, start)).map(|part| part.3).sum()
    }

    fn live(&mut self, id: u8) -> Option<&mut Entry> {
        let now_ms = self.now_ms;
        self.entries.iter_mut().rev().find(|entry| entry.id == id).filter(|entry| entry.ends_ms > now_ms)
    }

    fn reserve(&mut self, id: u8, charges: &[(u8, Window, u64, u64)], lease_ms: u64) -> Answer {
        let mut parts: Vec<(u8, Window, u64, u64)> = Vec::new();
        for &(counter, window, amount, _) in charges.iter().filter(|charge| charge.2 > 0) {
            match parts.iter_mut().find(|part| (part.0, part.1) == (counter, window)) {
                Some(part) => part.3 = part.3.max(amount),
                None => parts.push((counter, window, window.start_ms(self.now_ms), amount)),
            }
        }
        if let Some(entry) = self.live(id) {
            let key = |parts: &[(u8, Window, u64, u64)]| parts.iter().map(|p| (p.0, p.1, p.3)).collect::<Vec<_>>();
            return match entry.settled {
                Some(Settlement::Rollback(_)) => Answer::RolledBack,
                _ if key(&entry.parts) != key(&parts) => Answer::Conflict,
                _ => {
                    entry.settled = Some(Settlement::Commit);
                    Answer::Hold(Hold::Held)
                }
            };
        }
        let blocking: Vec<(usize, Option<u64>)> = (0..charges.len())
            .filter_map(|index| {
                let (counter, window, amount, max) = charges[index];
                let merged = parts.iter().find(|part| (part.0, part.1) == (counter, window)).map_or(0, |part| part.3);
                let blocks = amount > 0 && self.used(counter, window) + merged > max;
                let wait_ms = window.end_ms(self.now_ms) - self.now_ms;
                blocks.then_some((index, (merged <= max).then_some(wait_ms)))
            })
            .collect();
        if let Some(&(charge, _)) = blocking.first() {
            let waits: Option<Vec<u64>> = blocking.iter().map(|(_, wait_ms)| *wait_ms).collect();
            return Answer::Hold(Hold::OverLimit { charge, retry_after_ms: waits.and_then(|w| w.into_iter().max()) });
        }
        let ends_ms = self.now_ms + lease_ms;
        self.entries.push(Entry { id, parts, settled: None, ends_ms, returned: false });
        for &(counter, window, amount, max) in charges {
            assert!(amount == 0 || self.used(counter, window) <= max, "committed and held are within the limit");
        }
        Answer::Hold(Hold::Held)
    }

    fn settle(&mut self, id: u8, how: Settlement, keep_ms: u64) -> Answer {
        let now_ms = self.now_ms;
        let Some(entry) = self.live(id) else {
            if how != Settlement::Commit {
                let ends_ms = now_ms + keep_ms;
                self.entries.push(Entry { id, parts: Vec::new(), settled: Some(how), ends_ms, returned: true });
            }
            return Answer::Settled(Settled::Expired);
        };
        if let Some(before) = entry.settled {
            return Answer::Settled(Settled::Before(before));
        }
        entry.settled = Some(how);
        entry.ends_ms = entry.ends_ms.min(now_ms + keep_ms);
        entry.returned = how != Settlement::Commit;
        Answer::Settled(Settled::Now)
    }
}

async fn real<L: Ledger>(ledger: &L, name: u8, act: &Act, now_ms: u64) -> Answer {
    let id = id(&name.to_string());
    match act {
        Act::Settle(how) => Answer::Settled(ledger.settle(&id, *how, now_ms).await.unwrap()),
        Act::Reserve { charges, lease_ms } => {
            let charges: Vec<Charge> =
                charges.iter().map(|(c, window, amount, max)| charge(&c.to_string(), *window, *amount, *max)).collect();
            match ledger.reserve(&id, &charges, now_ms, Duration::from_millis(*lease_ms)).await {
                Ok(hold) => Answer::Hold(hold),
                Err(LedgerError::Conflict) => Answer::Conflict,
                Err(LedgerError::RolledBack) => Answer::RolledBack,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Runs the same steps on both and compares every answer. `keep_ms` is how long the engine remembers settled reservations.
pub(crate) fn agrees_with_the_model<L: Ledger>(keep_ms: u64, make: impl Fn() -> L) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps())| {
        let (ledger, mut model) = (make(), Model::default());
        let (mut wall_ms, mut lag_ms) = (T0 + 40_000, 0);
        for step in &steps {
            match step {
                Step::Wait(ms) => wall_ms += ms,
                Step::Lag(ms) => lag_ms = *ms,
                Step::Act(name, act) => {
                    let now_ms = wall_ms - lag_ms;
                    model.now_ms = model.now_ms.max(now_ms);
                    let expected = match act {
                        Act::Reserve { charges, lease_ms } => model.reserve(*name, charges, *lease_ms),
                        Act::Settle(how) => model.settle(*name, *how, keep_ms),
                    };
                    prop_assert_eq!(runtime.block_on(real(&ledger, *name, act, now_ms)), expected, "{:?}", step);
                }
            }
        }
    });
}
