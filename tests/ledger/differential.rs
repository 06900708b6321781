//! The scripts and the machine, step by step: every answer is equal, and so is what they hold in the end.

use mcp_authz_core::quota::Mode;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use test_redis::RedisServer;

use crate::scripts::Scripts;
use crate::world::{self, Answer, Ask, History, Step, Weather, all_lines, on_machine, on_scripts};

pub(crate) const STEPS: usize = 60;

/// Runs one sequence on both and compares; what differs is the error.
pub(crate) fn compare(scripts: &mut Scripts, steps: &[Step]) -> Result<(), String> {
    scripts.clear();
    let (mut machine, mut history) = (world::machine(), History::new());
    for (index, step) in steps.iter().enumerate() {
        if let Step::FlushScripts = step {
            scripts.call(&["SCRIPT", "FLUSH"]);
        }
        let Some(op) = history.operation(step) else { continue };
        let now_us = history.now_us;
        let (ours, theirs) = (on_machine(&mut machine, &op, now_us), on_scripts(scripts, &op, now_us));
        if ours != theirs {
            return Err(format!("step {index}, {op:?} at {now_us}\n machine: {ours:?}\n scripts: {theirs:?}"));
        }
        let lines = all_lines(now_us);
        scripts.reap(now_us);
        let (ours, theirs) = (machine.peek(&lines, now_us), scripts.peek(&lines, now_us));
        if ours != theirs {
            let differ = ours.standings.iter().zip(&theirs.standings).zip(&lines).filter(|((a, b), _)| a != b);
            let differ: Vec<_> = differ.map(|((a, b), line)| format!("{}: {a:?} {b:?}", line.label)).collect();
            return Err(format!(
                "after step {index}, {op:?} at {now_us}: {:?} {:?} {differ:?}",
                ours.code, theirs.code
            ));
        }
    }
    Ok(())
}

/// The same sequences in every run of the same binary and configuration.
pub(crate) fn runner(config: ProptestConfig) -> TestRunner {
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn the_scripts_and_the_machine_give_the_same_answers() {
    let server = RedisServer::start(&[]);
    let scripts = std::cell::RefCell::new(Scripts::new(&server));
    let steps = prop::collection::vec(world::step(Weather::Stormy), STEPS / 2..=STEPS);
    let mut kinds = std::collections::BTreeMap::<String, u32>::new();
    let counted = std::cell::RefCell::new(&mut kinds);
    runner(world::config(300))
        .run(&steps, |steps| {
            count(&steps, &mut counted.borrow_mut());
            compare(&mut scripts.borrow_mut(), &steps).map_err(TestCaseError::fail)
        })
        .unwrap_or_else(|error| panic!("{error}"));
    // A generator that no longer reaches an answer proves nothing about it.
    for answer in [
        "Held",
        "HeldBefore",
        "Limited",
        "NeverFits",
        "StaleWindows",
        "RolledBack",
        "Settled",
        "Conflict",
        "Now",
        "Before",
        "Shared",
        "Unknown",
        "Renewed(true)",
        "Renewed(false)",
    ] {
        assert!(kinds.get(answer).is_some_and(|count| *count >= 20), "{answer} is rare: {kinds:?}");
    }
}

/// What the short script takes: calendar windows that are consumed and kept.
pub(crate) fn plain(steps: &[Step]) -> Vec<Step> {
    let plain = |step: &Step| {
        let Step::Reserve { asks, lag_ms, hold_ms } = step else { return step.clone() };
        // The first two of the table are such windows.
        let ask = |ask: &Ask| Ask { spec: ask.spec % 2, mode: Mode::Consume, ..*ask };
        let mut asks: Vec<Ask> = asks.iter().map(ask).collect();
        asks.sort_by_key(|ask| ask.spec);
        asks.dedup_by_key(|ask| ask.spec);
        Step::Reserve { asks, lag_ms: *lag_ms, hold_ms: *hold_ms }
    };
    steps.iter().map(plain).collect()
}

#[test]
fn the_short_script_and_the_machine_give_the_same_answers() {
    let server = RedisServer::start(&[]);
    let scripts = std::cell::RefCell::new(Scripts::short(&server));
    let steps = prop::collection::vec(world::step(Weather::Stormy), STEPS / 2..=STEPS);
    runner(world::config(150))
        .run(&steps, |steps| compare(&mut scripts.borrow_mut(), &plain(&steps)).map_err(TestCaseError::fail))
        .unwrap_or_else(|error| panic!("{error}"));
}

/// Which answers a sequence brings, by the machine alone.
fn count(steps: &[Step], kinds: &mut std::collections::BTreeMap<String, u32>) {
    let (mut machine, mut history) = (world::machine(), History::new());
    for step in steps {
        let Some(op) = history.operation(step) else { continue };
        let name = match on_machine(&mut machine, &op, history.now_us) {
            Answer::Finished(finished) => format!("{finished:?}"),
            Answer::None => continue,
            Answer::Renewed(renewed) => format!("Renewed({renewed})"),
            Answer::Reply(reply) => format!("{:?}", reply.code),
        };
        let name = name.split(' ').next().unwrap_or_default().to_owned();
        *kinds.entry(name).or_default() += 1;
    }
}
