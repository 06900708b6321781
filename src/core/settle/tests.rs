use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ledger::CounterId;

const NONE: RefundOn =
    RefundOn { is_error: false, protocol_error: false, reset: false, timeout: false, upstream_5xx: false };
const ALL: RefundOn = RefundOn { reset: true, timeout: true, upstream_5xx: true, ..NONE };
const BODY: RefundOn = RefundOn { is_error: true, protocol_error: true, ..NONE };

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
    Promise { count_on, refund_on, actual: Actual::Held }
}

/// The plan without a word of the answer.
fn plan_of(lines: &[Line], promises: &[Promise], fate: Fate, attempts: u32) -> Plan {
    plan(lines, promises, &[], &Facts { fate, attempts, came: None })
}

/// Whether the units of a single consuming line come back.
fn comes_back(count_on: CountOn, refund_on: RefundOn, fate: Fate) -> bool {
    let lines = [total(Mode::Consume, 3)];
    match plan_of(&lines, &[promise(count_on, refund_on)], fate, 1) {
        Plan::RollBack => true,
        Plan::Keep => false,
        Plan::Settle { .. } => panic!("one line is kept or rolled back"),
    }
}

#[test]
fn units_come_back_on_proof_or_where_the_limit_says_so_and_never_else() {
    use CountOn::{Admitted, Forwarded, Success};
    let only = |reset, timeout, upstream_5xx| RefundOn { reset, timeout, upstream_5xx, ..NONE };
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
    let expected = Plan::Settle { actual: [9, 6, 3, 1].into(), change: Change::Surplus };
    assert_eq!(plan_of(&lines, &promises, Fate::Answered(200), 3), expected);
    assert_eq!(plan_of(&lines, &promises, Fate::ClientGone, 3), expected);
    assert_eq!(plan_of(&lines, &promises, Fate::NotSent, 3), Plan::RollBack);
    assert_eq!(plan_of(&lines, &promises, Fate::Answered(200), 0), Plan::Keep);
    let huge = [total(Mode::Consume, AMOUNT_MAX)];
    let expected = Plan::Keep;
    assert_eq!(plan_of(&huge, &promises, Fate::Answered(200), u32::MAX), expected, "no count goes beyond the bound");
}

#[test]
fn one_call_can_refund_one_counter_and_keep_another() {
    let lines = [total(Mode::Consume, 5), total(Mode::Consume, 1)];
    let promises = [promise(CountOn::Forwarded, NONE), promise(CountOn::Admitted, NONE)];
    let expected = Plan::Settle { actual: [0, 1].into(), change: Change::Refund };
    assert_eq!(plan_of(&lines, &promises, Fate::NotSent, 1), expected);
}

#[test]
fn attempts_alone_do_not_keep_a_rollback_from_being_one() {
    let lines = [total(Mode::Consume, 5), total(Mode::Attempt, 1), total(Mode::Gate, 0)];
    let promises = [promise(CountOn::Forwarded, NONE); 3];
    assert_eq!(plan_of(&lines, &promises, Fate::NotSent, 1), Plan::RollBack);
}

#[test]
fn the_store_is_asked_for_slots_and_pending_releases_and_for_nothing_else() {
    let plain = total(Mode::Consume, 1);
    let slot = line(Span::InFlight { lease_ms: 1_000 }, Mode::Consume, 1);
    let pending = Line { release: true, ..plain.clone() };
    let promises = [promise(CountOn::Forwarded, NONE); 2];
    for fate in FATES.into_iter().filter(|fate| *fate != Fate::NotSent) {
        assert_eq!(plan_of(std::slice::from_ref(&plain), &promises, fate, 1), Plan::Keep);
        for other in [&slot, &pending] {
            let expected = Plan::Settle { actual: [1, 1].into(), change: Change::None };
            assert_eq!(plan_of(&[plain.clone(), other.clone()], &promises, fate, 1), expected);
        }
    }
    let expected = Plan::Settle { actual: [1].into(), change: Change::None };
    assert_eq!(
        plan_of(&[slot], &promises, Fate::Answered(200), 3),
        expected,
        "a slot is one however often Envoy sends"
    );
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
        let counted: Vec<u64> = match plan_of(&lines, &promises, fate, attempts) {
            Plan::Keep => amounts.clone(),
            Plan::RollBack => vec![0; amounts.len()],
            Plan::Settle { actual, .. } => actual.to_vec(),
        };
        for (amount, counted) in amounts.iter().zip(counted) {
            prop_assert!(counted >= amount.saturating_mul(executed), "{counted} of {amount} x {executed}");
        }
    }
}

const UNITS: Actual = Actual::Usage;
const BYTES: Actual = Actual::Bytes { scale: 0, min: 0 };

fn came(kind: Kind, bytes: u64, usage: &[(&str, u64)]) -> Option<Came> {
    Some(Came { kind, bytes, usage: usage.iter().map(|(name, units)| (Arc::from(*name), *units)).collect() })
}

/// What a line of 100 held units comes to.
fn settles(mode: Mode, promise: Promise, facts: &Facts) -> u64 {
    let lines = [total(mode, 100)];
    match plan(&lines, &[promise], &[Arc::from("tokens")], facts) {
        Plan::Keep => 100,
        Plan::RollBack => 0,
        Plan::Settle { actual, .. } => actual[0],
    }
}

#[test]
fn units_come_back_for_a_kind_of_answer_where_the_limit_says_so_and_the_status_agrees() {
    let only = |is_error, protocol_error| RefundOn { is_error, protocol_error, ..NONE };
    let kinds = [Kind::Ok, Kind::ProtocolError, Kind::ServerError, Kind::ToolError];
    // For each kind in their order.
    for (refund_on, expected) in
        [(NONE, "...."), (ALL, "...."), (only(true, false), "...x"), (only(false, true), ".x.."), (BODY, ".x.x")]
    {
        for count_on in [CountOn::Forwarded, CountOn::Success] {
            let promise = promise(count_on, refund_on);
            let seen = |fate| -> String {
                let back = |kind: &Kind| {
                    let facts = Facts { fate, attempts: 1, came: came(*kind, 7, &[]) };
                    if settles(Mode::Consume, promise, &facts) == 0 { 'x' } else { '.' }
                };
                kinds.iter().map(back).collect()
            };
            for fate in [Fate::Answered(200), Fate::Answered(202), Fate::Answered(302)] {
                assert_eq!(seen(fate), expected, "{refund_on:?} {fate:?}");
            }
            // A sound server says with 400 or 404 that it did not take a request; `success` gives such a call back anyway.
            for fate in [Fate::Answered(400), Fate::Answered(404), Fate::Answered(499)] {
                let expected = if count_on == CountOn::Success { "xxxx" } else { expected };
                assert_eq!(seen(fate), expected, "{refund_on:?} {fate:?}");
            }
            for fate in [Fate::ClientGone, Fate::Unanswered] {
                assert_eq!(seen(fate), "....", "{refund_on:?} {fate:?}");
            }
        }
    }
    // The words for what Envoy sees go on deciding about what Envoy sees.
    for fate in [Fate::Answered(500), Fate::Answered(503), Fate::Reset, Fate::TimedOut] {
        for kind in kinds {
            let facts = Facts { fate, attempts: 1, came: came(kind, 7, &[]) };
            assert_eq!(settles(Mode::Consume, promise(CountOn::Forwarded, BODY), &facts), 100, "{fate:?} {kind:?}");
        }
    }
}

#[test]
fn an_answer_settles_the_amount_and_in_doubt_only_upwards() {
    let less = came(Kind::Ok, 30, &[("tokens", 30)]);
    let more = came(Kind::Ok, 300, &[("tokens", 300)]);
    let plain = |actual| Promise { actual, ..promise(CountOn::Forwarded, NONE) };
    for actual in [UNITS, BYTES] {
        for (fate, expected) in [
            (Fate::Answered(200), (30, 300)),
            (Fate::Answered(404), (30, 300)),
            (Fate::Answered(500), (100, 300)),
            (Fate::ClientGone, (100, 300)),
            (Fate::Reset, (100, 300)),
            (Fate::TimedOut, (100, 300)),
            (Fate::Unanswered, (100, 300)),
            // It never got there: whatever is said of an answer is of another one.
            (Fate::NotSent, (0, 0)),
        ] {
            for mode in [Mode::Consume, Mode::Track] {
                let settled = |came: &Option<Came>| {
                    settles(mode, plain(actual), &Facts { fate, attempts: 1, came: came.clone() })
                };
                assert_eq!((settled(&less), settled(&more)), expected, "{actual:?} {fate:?} {mode:?}");
                assert_eq!(
                    settled(&None),
                    if fate == Fate::NotSent { 0 } else { 100 },
                    "nothing said, nothing changed"
                );
            }
        }
    }
    let admitted = Promise { actual: BYTES, ..promise(CountOn::Admitted, NONE) };
    let facts = Facts { fate: Fate::NotSent, attempts: 1, came: more };
    assert_eq!(settles(Mode::Consume, admitted, &facts), 100);
    for mode in [Mode::Attempt, Mode::Gate] {
        let facts = Facts { fate: Fate::Answered(200), attempts: 1, came: less.clone() };
        assert_eq!(settles(mode, plain(BYTES), &facts), 100, "{mode:?} has no amount of an answer");
    }
}

#[test]
fn amounts_go_by_the_name_of_the_counter() {
    let promise = Promise { actual: UNITS, ..promise(CountOn::Forwarded, NONE) };
    let settled = |usage: &[(&str, u64)]| {
        let facts = Facts { fate: Fate::Answered(200), attempts: 1, came: came(Kind::Ok, 1, usage) };
        settles(Mode::Consume, promise, &facts)
    };
    assert_eq!(settled(&[("other", 1)]), 100, "of this counter nothing was told");
    assert_eq!(settled(&[("other", 1), ("tokens", 70)]), 70);
    assert_eq!(settled(&[("tokens", 70), ("tokens", 80)]), 80, "told twice, the larger counts");
    assert_eq!(settled(&[("tokens", 0)]), 0);
    assert_eq!(settled(&[("tokens", u64::MAX)]), AMOUNT_MAX);
}

#[test]
fn bytes_are_counted_in_units_and_have_a_least_amount() {
    let settled = |actual, bytes| {
        let promise = Promise { actual, ..promise(CountOn::Forwarded, NONE) };
        let facts = Facts { fate: Fate::Answered(200), attempts: 1, came: came(Kind::ToolError, bytes, &[]) };
        settles(Mode::Track, promise, &facts)
    };
    assert_eq!(settled(BYTES, 0), 0);
    assert_eq!(settled(Actual::Bytes { scale: 2, min: 0 }, 5), 500);
    assert_eq!(settled(Actual::Bytes { scale: 0, min: 64 }, 5), 64);
    assert_eq!(settled(Actual::Bytes { scale: 9, min: 0 }, u64::MAX), AMOUNT_MAX);
}

/// Of several attempts only the last one's answer is known; each of the others costs what was held for it.
#[test]
fn each_earlier_attempt_costs_what_was_held() {
    let facts = |attempts, kind| Facts { fate: Fate::Answered(200), attempts, came: came(kind, 30, &[]) };
    let measured = Promise { actual: BYTES, ..promise(CountOn::Forwarded, NONE) };
    let refunded = promise(CountOn::Forwarded, BODY);
    for (attempts, by_bytes, by_error) in [(0, 30, 0), (1, 30, 0), (2, 130, 100), (3, 230, 200)] {
        assert_eq!(settles(Mode::Consume, measured, &facts(attempts, Kind::Ok)), by_bytes);
        assert_eq!(settles(Mode::Consume, refunded, &facts(attempts, Kind::ToolError)), by_error);
    }
    assert_eq!(settles(Mode::Consume, measured, &facts(u32::MAX, Kind::Ok)), 100 * u64::from(u32::MAX - 1) + 30);
}

#[test]
fn one_answer_gives_one_counter_back_and_charges_another_more() {
    let lines = [total(Mode::Consume, 100), total(Mode::Consume, 1), total(Mode::Track, 10)];
    let of = |actual, refund_on| Promise { actual, ..promise(CountOn::Forwarded, refund_on) };
    let promises = [of(BYTES, NONE), of(Actual::Held, BODY), of(UNITS, NONE)];
    let names = ["bytes", "calls", "tokens"].map(Arc::from);
    let facts = |kind| Facts { fate: Fate::Answered(200), attempts: 1, came: came(kind, 40, &[("tokens", 12)]) };
    let expected = Plan::Settle { actual: [40, 0, 12].into(), change: Change::Surplus };
    assert_eq!(plan(&lines, &promises, &names, &facts(Kind::ToolError)), expected);
    let expected = Plan::Settle { actual: [40, 1, 12].into(), change: Change::Surplus };
    assert_eq!(plan(&lines, &promises, &names, &facts(Kind::Ok)), expected);
    let expected = Plan::Settle { actual: [40, 0].into(), change: Change::Refund };
    assert_eq!(plan(&lines[..2], &promises, &names, &facts(Kind::ToolError)), expected);
}

fn any_came() -> impl Strategy<Value = Came> {
    let kind = proptest::sample::select(&[Kind::Ok, Kind::ProtocolError, Kind::ServerError, Kind::ToolError][..]);
    let usage = proptest::collection::vec((proptest::sample::select(&["a", "b", "c"][..]), any::<u64>()), 0..4);
    (kind, any::<u64>(), usage).prop_map(|(kind, bytes, usage)| came(kind, bytes, &usage).unwrap())
}

proptest! {
    /// Whatever is said of an answer, no more comes back than was held, earlier attempts stay charged, and nothing panics.
    #[test]
    fn no_word_of_an_answer_gives_back_more_than_was_held(
        fate in any_fate(),
        attempts in 0_u32..10,
        came in any_came(),
        lines in proptest::collection::vec((0_u64..=AMOUNT_MAX, 0_usize..4, any::<[bool; 2]>()), 1..6),
    ) {
        let actuals = [Actual::Held, UNITS, BYTES, Actual::Bytes { scale: 9, min: 5 }];
        let promises: Vec<Promise> = lines.iter().map(|(_, actual, [is_error, protocol_error])| Promise {
            actual: actuals[*actual],
            ..promise(CountOn::Forwarded, RefundOn { is_error: *is_error, protocol_error: *protocol_error, ..NONE })
        }).collect();
        let lines: Vec<Line> = lines.iter().map(|(amount, ..)| total(Mode::Consume, *amount)).collect();
        let names: Vec<Arc<str>> = ["a", "b", "c", "d", "e"].map(Arc::from).into();
        let facts = Facts { fate, attempts, came: Some(came) };
        let counted: Vec<u64> = match plan(&lines, &promises, &names, &facts) {
            Plan::Keep => lines.iter().map(|line| line.amount).collect(),
            Plan::RollBack => vec![0; lines.len()],
            Plan::Settle { actual, .. } => actual.to_vec(),
        };
        for (line, counted) in lines.iter().zip(counted) {
            prop_assert!(counted <= AMOUNT_MAX);
            if fate != Fate::NotSent {
                let earlier = u64::from(attempts.saturating_sub(1));
                prop_assert!(counted >= line.amount.saturating_mul(earlier).min(AMOUNT_MAX));
            }
        }
    }
}
