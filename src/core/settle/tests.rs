use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ledger::CounterId;

const NONE: RefundOn = RefundOn { reset: false, timeout: false, upstream_5xx: false };
const ALL: RefundOn = RefundOn { reset: true, timeout: true, upstream_5xx: true };

const FATES: [Fate; 9] = [
    Fate::Answered(200),
    Fate::Answered(302),
    Fate::Answered(404),
    Fate::Answered(500),
    Fate::ClientGone,
    Fate::NotSent,
    Fate::Reset,
    Fate::TimedOut,
    Fate::Unanswered,
];

fn line(span: Span, mode: Mode, amount: u64) -> Line {
    let label = Arc::from("deletions:hour-utc");
    Line { counter: CounterId(1), label, span, mode, amount, max: 10, strict: true, release: false }
}

fn total(mode: Mode, amount: u64) -> Line {
    line(Span::Lifetime { idle_ms: 0 }, mode, amount)
}

fn promise(count_on: CountOn, refund_on: RefundOn) -> Promise {
    Promise { count_on, refund_on }
}

/// Whether the units of a single consuming line come back.
fn comes_back(count_on: CountOn, refund_on: RefundOn, fate: Fate) -> bool {
    let lines = [total(Mode::Consume, 3)];
    match plan(&lines, &[promise(count_on, refund_on)], Facts { fate, attempts: 1 }) {
        Plan::RollBack => true,
        Plan::Keep => false,
        Plan::Settle { .. } => panic!("one line is kept or rolled back"),
    }
}

#[test]
fn units_come_back_on_proof_or_where_the_limit_says_so_and_never_else() {
    use CountOn::{Admitted, Forwarded, Success};
    let only = |reset, timeout, upstream_5xx| RefundOn { reset, timeout, upstream_5xx };
    // For each fate in the order of FATES.
    for (count_on, refund_on, expected) in [
        (Admitted, NONE, "........."),
        (Forwarded, NONE, ".....x..."),
        (Success, NONE, "..xx.xxx."),
        (Forwarded, ALL, "...x.xxx."),
        (Forwarded, only(true, false, false), ".....xx.."),
        (Forwarded, only(false, true, false), ".....x.x."),
        (Forwarded, only(false, false, true), "...x.x..."),
        (Admitted, ALL, "...x..xx."),
        (Success, ALL, "..xx.xxx."),
    ] {
        let seen: String =
            FATES.iter().map(|fate| if comes_back(count_on, refund_on, *fate) { 'x' } else { '.' }).collect();
        assert_eq!(seen, expected, "{count_on:?} {refund_on:?}");
    }
}

#[test]
fn a_caller_that_leaves_gets_nothing_back_whatever_the_limit_says() {
    for count_on in [CountOn::Admitted, CountOn::Forwarded, CountOn::Success] {
        assert!(!comes_back(count_on, ALL, Fate::ClientGone));
    }
}

#[test]
fn each_attempt_of_envoy_is_charged_unless_nothing_was_sent() {
    let lines = [total(Mode::Consume, 3), total(Mode::Track, 2), total(Mode::Attempt, 1), total(Mode::Gate, 1)];
    let promises = [promise(CountOn::Forwarded, NONE); 4];
    let facts = |fate, attempts| Facts { fate, attempts };
    let expected = Plan::Settle { actual: [9, 6, 3, 1].into(), change: Change::Surplus };
    assert_eq!(plan(&lines, &promises, facts(Fate::Answered(200), 3)), expected);
    assert_eq!(plan(&lines, &promises, facts(Fate::ClientGone, 3)), expected);
    assert_eq!(plan(&lines, &promises, facts(Fate::NotSent, 3)), Plan::RollBack);
    assert_eq!(plan(&lines, &promises, facts(Fate::Answered(200), 0)), Plan::Keep);
    let huge = [total(Mode::Consume, AMOUNT_MAX)];
    let expected = Plan::Keep;
    assert_eq!(
        plan(&huge, &promises, facts(Fate::Answered(200), u32::MAX)),
        expected,
        "no count goes beyond the bound"
    );
}

#[test]
fn one_call_can_refund_one_counter_and_keep_another() {
    let lines = [total(Mode::Consume, 5), total(Mode::Consume, 1)];
    let promises = [promise(CountOn::Forwarded, NONE), promise(CountOn::Admitted, NONE)];
    let expected = Plan::Settle { actual: [0, 1].into(), change: Change::Refund };
    assert_eq!(plan(&lines, &promises, Facts { fate: Fate::NotSent, attempts: 1 }), expected);
}

#[test]
fn attempts_alone_do_not_keep_a_rollback_from_being_one() {
    let lines = [total(Mode::Consume, 5), total(Mode::Attempt, 1), total(Mode::Gate, 0)];
    let promises = [promise(CountOn::Forwarded, NONE); 3];
    assert_eq!(plan(&lines, &promises, Facts { fate: Fate::NotSent, attempts: 1 }), Plan::RollBack);
}

#[test]
fn the_store_is_asked_for_slots_and_pending_releases_and_for_nothing_else() {
    let plain = total(Mode::Consume, 1);
    let slot = line(Span::InFlight { lease_ms: 1_000 }, Mode::Consume, 1);
    let pending = Line { release: true, ..plain.clone() };
    let promises = [promise(CountOn::Forwarded, NONE); 2];
    for fate in FATES.into_iter().filter(|fate| *fate != Fate::NotSent) {
        let facts = Facts { fate, attempts: 1 };
        assert_eq!(plan(std::slice::from_ref(&plain), &promises, facts), Plan::Keep);
        for other in [&slot, &pending] {
            let expected = Plan::Settle { actual: [1, 1].into(), change: Change::None };
            assert_eq!(plan(&[plain.clone(), other.clone()], &promises, facts), expected);
        }
    }
    let facts = Facts { fate: Fate::Answered(200), attempts: 3 };
    let expected = Plan::Settle { actual: [1].into(), change: Change::None };
    assert_eq!(plan(&[slot], &promises, facts), expected, "a slot is one however often Envoy sends");
}

#[test]
fn names_are_sorted_and_complete() {
    assert!(Fate::NAMES.is_sorted());
    assert!(FATES.iter().all(|fate| Fate::NAMES.contains(&fate.name())));
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![proptest::sample::select(&FATES[..]), any::<u16>().prop_map(Fate::Answered)]
}

proptest! {
    /// What was sent and is not known to have failed is never given back, and what was sent n times is charged n times.
    #[test]
    fn executions_never_exceed_what_is_counted(
        fate in any_fate(),
        attempts in 0_u32..10,
        amounts in proptest::collection::vec(0_u64..1_000, 1..6),
    ) {
        let lines: Vec<Line> = amounts.iter().map(|amount| total(Mode::Consume, *amount)).collect();
        let promises = vec![promise(CountOn::Forwarded, NONE); lines.len()];
        let executed = if fate == Fate::NotSent { 0 } else { u64::from(attempts.max(1)) };
        let counted: Vec<u64> = match plan(&lines, &promises, Facts { fate, attempts }) {
            Plan::Keep => amounts.clone(),
            Plan::RollBack => vec![0; amounts.len()],
            Plan::Settle { actual, .. } => actual.to_vec(),
        };
        for (amount, counted) in amounts.iter().zip(counted) {
            prop_assert!(counted >= amount.saturating_mul(executed), "{counted} of {amount} x {executed}");
        }
    }
}
