//! One claim at a time, on the scripts alone: each of these fails if the line that it is about were gone.
//!
//! A claim is a function of the scripts, so that the mutants can be put to it as well.

use mcp_authz_core::ledger::{Attempt, Code, Finish, Finished, Line, Reply, Speaker};
use mcp_authz_core::quota::Mode;
use test_redis::{RedisServer, Value};

use crate::scripts::{Entry, Scripts, key};
use crate::world::{Ask, BASE_MS, Call, GRACE_MS, HOLD_MS, KEEP_MS, SPECS, WINDOW_MS};

/// What a claim found.
pub(crate) type Found = Result<(), String>;

/// Name and claim.
pub(crate) type Claim = (&'static str, fn(&mut Scripts) -> Found);

/// Every claim of this file.
pub(crate) const CLAIMS: &[Claim] = &[
    ("another epoch answers nothing", another_epoch_answers_nothing),
    ("strict lines wait for the fence and for what was lost", strict_lines_wait),
    ("what cannot be recorded charges nothing", what_cannot_be_recorded_charges_nothing),
    ("a rollback that came first refuses the hold", a_rollback_that_came_first_refuses_the_hold),
    ("an id is for one thing", an_id_is_for_one_thing),
    ("one attempt cannot take back what two rely on", one_attempt_cannot_take_back_what_two_rely_on),
    ("a rollback comes once", a_rollback_comes_once),
    ("an old rollback does not reach a new window", an_old_rollback_does_not_reach_a_new_window),
    ("a step back opens no old window", a_step_back_opens_no_old_window),
    ("entries outlive their time by the grace", entries_outlive_their_time_by_the_grace),
    ("time gives back first", time_gives_back_first),
    ("a step back gives back no more than was taken", a_step_back_gives_back_no_more_than_was_taken),
    ("a wrong clock locks nobody out", a_wrong_clock_locks_nobody_out),
    ("what ran out is given back once", what_ran_out_is_given_back_once),
    ("a pending release outlives its hold", a_pending_release_outlives_its_hold),
    ("releases are worked off in portions", releases_are_worked_off_in_portions),
    ("a renewed hold does not run out", a_renewed_hold_does_not_run_out),
    ("a lost slot is not taken again", a_lost_slot_is_not_taken_again),
    ("a shorter lease keeps the longer one", a_shorter_lease_keeps_the_longer_one),
    ("records end", records_end),
    ("a bad number leaves no trace", a_bad_number_leaves_no_trace),
    ("what nobody can read is not nothing", what_nobody_can_read_is_not_nothing),
];

const NOW: u64 = (BASE_MS + 1_000) * 1_000;
const S: u64 = 1_000_000;

fn ask(name: &str, amount: u64) -> Ask {
    let spec = SPECS.iter().position(|spec| spec.name == name).expect("a counter of the world");
    Ask { spec, mode: Mode::Consume, amount }
}

fn call(id: &str, asks: &[Ask], now_us: u64) -> Call {
    let lines = asks.iter().map(|ask| ask.line(now_us / 1_000)).collect();
    Call { id: id.to_owned(), digest: 1, attempt: 1, asks: asks.to_vec(), lines, hold_ms: HOLD_MS }
}

fn reserve(scripts: &mut Scripts, call: &Call, now_us: u64) -> Reply {
    scripts.reap(now_us);
    scripts.reserve(&call.head(), &call.lines, now_us)
}

fn finish(scripts: &mut Scripts, call: &Call, how: &Finish, now_us: u64) -> Finished {
    scripts.reap(now_us);
    scripts.finish(&call.finish_head(), &call.lines, how, now_us)
}

fn roll_back(scripts: &mut Scripts, call: &Call, now_us: u64) -> Finished {
    finish(scripts, call, &Finish::RollBack(Speaker::Stream), now_us)
}

fn take(scripts: &mut Scripts, id: &str, name: &str, amount: u64, now_us: u64) -> Code {
    reserve(scripts, &call(id, &[ask(name, amount)], now_us), now_us).code
}

fn used(scripts: &mut Scripts, name: &str, now_us: u64) -> u64 {
    scripts.reap(now_us);
    scripts.peek(&[ask(name, 1).line(now_us / 1_000)], now_us).standings[0].used
}

fn stored<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Entry> {
    let name = format!(":{name}:");
    entries.iter().find(|entry| entry.key.contains(&name) && !entry.key.ends_with(":p"))
}

fn expect<T: Copy + PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Found {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?} instead of {wanted:?}")) }
}

fn another_epoch_answers_nothing(scripts: &mut Scripts) -> Found {
    let held = call("a", &[ask("c1", 1)], NOW);
    expect("first", reserve(scripts, &held, NOW).code, Code::Held)?;
    for epoch in ["epoch2 0 0", "broken"] {
        scripts.set_epoch(epoch);
        expect("reserve", take(scripts, "b", "c1", 1, NOW), Code::EpochChanged)?;
        expect("finish", roll_back(scripts, &held, NOW), Finished::EpochChanged)?;
    }
    scripts.call(&["DEL", "pq1:{t}:epoch"]);
    expect("no epoch", take(scripts, "b", "c1", 1, NOW), Code::EpochChanged)
}

fn strict_lines_wait(scripts: &mut Scripts) -> Found {
    let now_ms = NOW / 1_000;
    scripts.set_epoch(&format!("epoch1 {} 0", now_ms + 700));
    expect("fenced", take(scripts, "a", "c1", 1, NOW), Code::Fenced { line: 0, wait_ms: 700 })?;
    let mut lenient = call("a", &[ask("c1", 1)], NOW);
    lenient.lines[0].strict = false;
    expect("lenient", reserve(scripts, &lenient, NOW).code, Code::Held)?;
    scripts.set_epoch(&format!("epoch1 0 {now_ms}"));
    let window_ends = Code::Lost { line: 0, wait_ms: Some(WINDOW_MS - 1_000) };
    expect("lost in this window", take(scripts, "b", "c1", 1, NOW), window_ends)?;
    expect("lost for good", take(scripts, "c", "l1", 1, NOW), Code::Lost { line: 0, wait_ms: None })?;
    let lease = Code::Lost { line: 0, wait_ms: Some(45_000) };
    expect("lost slots", take(scripts, "d", "f1", 1, NOW), lease)?;
    let later = NOW + WINDOW_MS * 1_000;
    expect("the next window", take(scripts, "e", "c1", 1, later), Code::Held)
}

/// Somebody took the right to write texts away: a slot must not be taken without a record that frees it.
fn what_cannot_be_recorded_charges_nothing(scripts: &mut Scripts) -> Found {
    scripts.call(&["ACL", "SETUSER", "default", "-set"]);
    let both = call("a", &[ask("f1", 1), ask("r1", 1)], NOW);
    let lines = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        scripts.reserve(&both.head(), &both.lines, NOW);
    }));
    scripts.call(&["ACL", "SETUSER", "default", "+set"]);
    expect("refused", lines.is_err(), true)?;
    let entries = scripts.dump();
    expect("slots", stored(&entries, "f1").is_some() || stored(&entries, "r1").is_some(), false)
}

fn a_rollback_that_came_first_refuses_the_hold(scripts: &mut Scripts) -> Found {
    let late = call("a", &[ask("c1", 2)], NOW);
    expect("unknown", roll_back(scripts, &late, NOW), Finished::Unknown)?;
    expect("late", reserve(scripts, &late, NOW + KEEP_MS * 1_000).code, Code::RolledBack)?;
    expect("used", used(scripts, "c1", NOW), 0)
}

fn an_id_is_for_one_thing(scripts: &mut Scripts) -> Found {
    let first = call("a", &[ask("c1", 2)], NOW);
    let other = Call { digest: 2, ..first.clone() };
    expect("first", reserve(scripts, &first, NOW).code, Code::Held)?;
    expect("again", reserve(scripts, &first, NOW).code, Code::HeldBefore)?;
    expect("other", reserve(scripts, &other, NOW).code, Code::Conflict)?;
    expect("its end", roll_back(scripts, &other, NOW), Finished::Conflict)?;
    expect("used", used(scripts, "c1", NOW), 2)
}

fn one_attempt_cannot_take_back_what_two_rely_on(scripts: &mut Scripts) -> Found {
    let first = call("a", &[ask("c1", 2)], NOW);
    let second = Call { attempt: 2, ..first.clone() };
    reserve(scripts, &first, NOW);
    let stranger = Finish::RollBack(Speaker::Attempt(Attempt(9)));
    expect("a stranger", finish(scripts, &first, &stranger, NOW), Finished::Shared)?;
    expect("second", reserve(scripts, &second, NOW).code, Code::HeldBefore)?;
    for attempt in [1, 2] {
        let how = Finish::RollBack(Speaker::Attempt(Attempt(attempt)));
        expect("one of two", finish(scripts, &first, &how, NOW), Finished::Shared)?;
    }
    expect("used", used(scripts, "c1", NOW), 2)?;
    expect("proof", roll_back(scripts, &first, NOW), Finished::Now { credited: 1 })
}

fn a_rollback_comes_once(scripts: &mut Scripts) -> Found {
    for name in ["c1", "l1"] {
        let (one, two) =
            (call(&format!("{name}1"), &[ask(name, 3)], NOW), call(&format!("{name}2"), &[ask(name, 3)], NOW));
        reserve(scripts, &one, NOW);
        reserve(scripts, &two, NOW);
        expect("once", roll_back(scripts, &one, NOW), Finished::Now { credited: 1 })?;
        expect("twice", roll_back(scripts, &one, NOW), Finished::Before { same: true })?;
        let settle = Finish::Settle([0].into());
        expect("settled", finish(scripts, &one, &settle, NOW), Finished::Before { same: false })?;
        expect("used", used(scripts, name, NOW), 3)?;
    }
    Ok(())
}

fn an_old_rollback_does_not_reach_a_new_window(scripts: &mut Scripts) -> Found {
    let (before, after) = ((BASE_MS + WINDOW_MS - 100) * 1_000, (BASE_MS + WINDOW_MS + 100) * 1_000);
    let old = call("old", &[ask("c1", 7)], before);
    reserve(scripts, &old, before);
    expect("new", take(scripts, "new", "c1", 7, after), Code::Held)?;
    expect("old", roll_back(scripts, &old, after), Finished::Now { credited: 0 })?;
    expect("used", used(scripts, "c1", after), 7)
}

fn a_step_back_opens_no_old_window(scripts: &mut Scripts) -> Found {
    let (before, after) = ((BASE_MS + WINDOW_MS - 2_000) * 1_000, (BASE_MS + WINDOW_MS + 1_000) * 1_000);
    expect("five", take(scripts, "1", "c1", 5, after), Code::Held)?;
    expect("one while it is before", take(scripts, "2", "c1", 1, before), Code::Held)?;
    expect("used before", used(scripts, "c1", before), 6)?;
    expect("two too many", take(scripts, "3", "c1", 2, after), Code::Limited { line: 0 })
}

/// A store that takes over may have a clock that is behind.
fn entries_outlive_their_time_by_the_grace(scripts: &mut Scripts) -> Found {
    let end = (BASE_MS + WINDOW_MS) * 1_000;
    expect("held", take(scripts, "1", "c1", 7, end - S), Code::Held)?;
    scripts.reap(end + S);
    expect("again before", take(scripts, "2", "c1", 1, end - S), Code::Limited { line: 0 })?;
    let rolling = ((BASE_MS / 60_000) * 60_000 + 60_000 * 11) * 1_000;
    expect("held", take(scripts, "3", "r1", 6, BASE_MS * 1_000), Code::Held)?;
    scripts.reap(rolling + (GRACE_MS - 1) * 1_000);
    expect("rolling", take(scripts, "4", "r1", 1, rolling - S), Code::Limited { line: 0 })
}

fn time_gives_back_first(scripts: &mut Scripts) -> Found {
    // Five units of seven seconds each; after four intervals only one of them can still be given back.
    let all = call("all", &[ask("g1", 5)], NOW);
    expect("all", reserve(scripts, &all, NOW).code, Code::Held)?;
    let later = NOW + 28 * S;
    expect("four", take(scripts, "four", "g1", 4, later), Code::Held)?;
    expect("back", roll_back(scripts, &all, later), Finished::Now { credited: 1 })?;
    expect("used", used(scripts, "g1", later), 4)?;
    expect("one", take(scripts, "one", "g1", 1, later), Code::Held)?;
    expect("two", take(scripts, "two", "g1", 1, later), Code::Limited { line: 0 })
}

fn a_step_back_gives_back_no_more_than_was_taken(scripts: &mut Scripts) -> Found {
    let [a, b] = ["a", "b"].map(|id| call(id, &[ask("g1", 1)], NOW));
    reserve(scripts, &a, NOW);
    reserve(scripts, &b, NOW);
    expect("third", take(scripts, "c", "g1", 1, NOW), Code::Held)?;
    let before = NOW - 20 * S;
    roll_back(scripts, &a, before);
    roll_back(scripts, &b, before);
    expect("the third stays", used(scripts, "g1", NOW), 1)
}

fn a_wrong_clock_locks_nobody_out(scripts: &mut Scripts) -> Found {
    let ahead = NOW + 400 * 86_400 * S;
    for (name, amount) in [("c1", 7), ("g1", 5), ("r1", 6)] {
        expect("full", take(scripts, &format!("{name}1"), name, amount, ahead), Code::Held)?;
        expect("still full", take(scripts, &format!("{name}2"), name, 1, NOW), Code::Limited { line: 0 })?;
        let next = NOW + (WINDOW_MS + 61_000) * 1_000;
        expect(name, take(scripts, &format!("{name}3"), name, 1, next), Code::Held)?;
    }
    Ok(())
}

fn what_ran_out_is_given_back_once(scripts: &mut Scripts) -> Found {
    for (name, amount) in [("c3", 6), ("r3", 5), ("l3", 12)] {
        let lost = call(&format!("{name}1"), &[ask(name, amount)], NOW);
        reserve(scripts, &lost, NOW);
        let (before, after) = (NOW + (HOLD_MS - 1) * 1_000, NOW + HOLD_MS * 1_000);
        expect("held", take(scripts, &format!("{name}2"), name, 1, before), Code::Limited { line: 0 })?;
        expect("ran out", take(scripts, &format!("{name}3"), name, 1, after), Code::Held)?;
        expect("late rollback", roll_back(scripts, &lost, after), Finished::Now { credited: 0 })?;
        expect("used", used(scripts, name, after), 1)?;
        let late = call(&format!("{name}4"), &[ask(name, 2)], after);
        reserve(scripts, &late, after);
        let end = after + HOLD_MS * 1_000;
        expect("late settlement", take(scripts, &format!("{name}5"), name, 1, end), Code::Held)?;
        finish(scripts, &late, &Finish::Settle([2].into()), end);
        expect("all of it is owed again", used(scripts, name, end) >= 3, true)?;
    }
    Ok(())
}

/// A bucket that is full again long before the hold runs out: its settlement must not charge it once more.
fn a_pending_release_outlives_its_hold(scripts: &mut Scripts) -> Found {
    let held = call("a", &[ask("g4", 3)], NOW);
    expect("held", reserve(scripts, &held, NOW).code, Code::Held)?;
    let later = NOW + 60 * S;
    finish(scripts, &held, &Finish::Settle([3].into()), later);
    expect("used", used(scripts, "g4", later), 0)
}

fn releases_are_worked_off_in_portions(scripts: &mut Scripts) -> Found {
    for index in 0..70 {
        let mut one = call(&format!("{index:02}"), &[ask("l3", 1)], NOW);
        one.lines[0].max = 70;
        expect("held", reserve(scripts, &one, NOW).code, Code::Held)?;
    }
    let after = NOW + HOLD_MS * 1_000;
    expect("64 at once", used(scripts, "l3", after), 6)?;
    expect("held", take(scripts, "a", "l3", 1, after), Code::Held)?;
    expect("the rest", used(scripts, "l3", after), 1)
}

fn a_renewed_hold_does_not_run_out(scripts: &mut Scripts) -> Found {
    let stream = call("a", &[ask("f2", 1), ask("l3", 12)], NOW);
    expect("held", reserve(scripts, &stream, NOW).code, Code::Held)?;
    let later = NOW + 100 * S;
    expect("renewed", scripts.renew(&stream.head(), &stream.lines, later), true)?;
    expect("held on", take(scripts, "b", "l3", 1, NOW + 150 * S), Code::Limited { line: 0 })?;
    expect("ran out", take(scripts, "c", "l3", 1, later + HOLD_MS * 1_000), Code::Held)
}

fn a_lost_slot_is_not_taken_again(scripts: &mut Scripts) -> Found {
    let stream = call("a", &[ask("f1", 1)], NOW);
    reserve(scripts, &stream, NOW);
    expect("renewed", scripts.renew(&stream.head(), &stream.lines, NOW + 44 * S), true)?;
    expect("used", used(scripts, "f1", NOW + 80 * S), 1)?;
    let end = NOW + 89 * S;
    expect("ended", used(scripts, "f1", end), 0)?;
    expect("lost", scripts.renew(&stream.head(), &stream.lines, end), false)?;
    expect("gone", used(scripts, "f1", end), 0)
}

fn a_shorter_lease_keeps_the_longer_one(scripts: &mut Scripts) -> Found {
    let long = call("long", &[ask("f2", 1)], NOW);
    let mut short: Call = call("short", &[ask("f2", 1)], NOW);
    short.lines[0] =
        Line { span: mcp_authz_core::ledger::Span::InFlight { lease_ms: 1_000 }, ..short.lines[0].clone() };
    reserve(scripts, &long, NOW);
    reserve(scripts, &short, NOW);
    expect("the longer one", used(scripts, "f2", NOW + 190 * S), 1)
}

fn records_end(scripts: &mut Scripts) -> Found {
    let short = Call { hold_ms: 1_000, ..call("a", &[ask("l1", 1)], NOW) };
    let end = NOW + (1_000 + GRACE_MS) * 1_000;
    expect("held", reserve(scripts, &short, NOW).code, Code::Held)?;
    expect("to the last moment", reserve(scripts, &short, end).code, Code::HeldBefore)?;
    expect("spent", finish(scripts, &short, &Finish::Settle([1].into()), end + 1_000), Finished::Unknown)?;
    expect("kept", reserve(scripts, &short, end + 1_000 + KEEP_MS * 1_000).code, Code::Settled)?;
    expect("forgotten", reserve(scripts, &short, end + 2_000 + KEEP_MS * 1_000).code, Code::Held)?;
    expect("used", used(scripts, "l1", end), 2)
}

fn a_bad_number_leaves_no_trace(scripts: &mut Scripts) -> Found {
    let good = call("a", &[ask("c1", 1), ask("l1", 1)], NOW);
    for amount in [1 << 53, u64::MAX] {
        let mut bad = good.clone();
        bad.lines[1].amount = amount;
        let before = scripts.dump();
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            scripts.reserve(&bad.head(), &bad.lines, NOW);
        }));
        expect("refused", refused.is_err(), true)?;
        expect("untouched", scripts.dump() == before, true)?;
    }
    Ok(())
}

fn what_nobody_can_read_is_not_nothing(scripts: &mut Scripts) -> Found {
    let call = call("a", &[ask("c1", 1)], NOW);
    let counter = key(&call.lines[0]);
    scripts.call(&["SET", &counter, "seven"]);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        scripts.reserve(&call.head(), &call.lines, NOW);
    }));
    scripts.call(&["DEL", &counter]);
    expect("refused", refused.is_err(), true)
}

#[test]
fn every_claim_holds() {
    let server = RedisServer::start(&[]);
    for mut scripts in [Scripts::new(&server), Scripts::short(&server)] {
        for (name, claim) in CLAIMS {
            scripts.clear();
            claim(&mut scripts).unwrap_or_else(|found| panic!("{name}: {found}"));
        }
    }
}

/// The real clock of a real server ends entries by itself; every other test here does it for the server.
#[test]
fn the_server_forgets_what_has_ended() {
    let server = RedisServer::start(&[]);
    let mut scripts = Scripts::new(&server);
    let Value::Array(time) = scripts.call(&["TIME"]) else { panic!("no time") };
    let seconds: u64 = time[0].text().unwrap().parse().unwrap();
    let now_us = seconds * S;
    let short = Call { hold_ms: 1, ..call("a", &[ask("f1", 1)], now_us) };
    let head = mcp_authz_core::ledger::machine::Head { grace_ms: 0, ..short.head() };
    let mut line = short.lines[0].clone();
    line.span = mcp_authz_core::ledger::Span::InFlight { lease_ms: 2_000 };
    assert_eq!(scripts.reserve(&head, &[line], now_us).code, Code::Held);
    for _ in 0..1_000 {
        if scripts.dump().len() == 1 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("still there: {:?}", scripts.dump());
}
