//! The acceptance cases of policies on the scripts: sequences whose calls share counters come out as published.
//!
//! `tests/policy_cases/run.rs` runs the same files on the machine.

use std::fmt;

use mcp_authz_core::document::Format;
use mcp_authz_core::ledger::machine::{Full, Head};
use mcp_authz_core::ledger::{Finish, Finished, Line, Reply, Span};
use mcp_authz_core::selftest::{self, CaseFile, Counters, Loaded, Reading};
use test_redis::RedisServer;

use crate::scripts::Scripts;

/// The cases happen in the past, and the server would forget at once what ended then. So all of them happen later by so many
/// whole days.
const LATER_MS: u64 = 10_000 * 86_400_000;

const FILES: &[(&str, &[u8])] = &[
    ("published.test.json", include_bytes!("../policy_cases/published.test.json")),
    ("edges.test.yaml", include_bytes!("../policy_cases/edges.test.yaml")),
];

/// The scripts, on a clock that is ahead.
struct Later {
    scripts: Scripts,
    reserved: usize,
    refused: usize,
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later")
            .field("reserved", &self.reserved)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

fn later(lines: &[Line]) -> Vec<Line> {
    let shift = |line: &Line| match line.span {
        Span::Calendar { start_ms, end_ms, next_end_ms } => {
            let [start_ms, end_ms, next_end_ms] = [start_ms, end_ms, next_end_ms].map(|ms| ms + LATER_MS);
            Line { span: Span::Calendar { start_ms, end_ms, next_end_ms }, ..line.clone() }
        }
        Span::InFlight { .. }
        | Span::Lifetime { .. }
        | Span::Rolling { .. }
        | Span::Streak { .. }
        | Span::TokenBucket { .. } => line.clone(),
    };
    lines.iter().map(shift).collect()
}

impl Counters for Later {
    fn clear(&mut self) {
        self.scripts.clear();
    }

    fn reserve(&mut self, head: &Head<'_>, lines: &[Line], now_us: u64) -> Result<Reply, Full> {
        let now_us = now_us + LATER_MS * 1_000;
        if lines.is_empty() {
            let held = mcp_authz_core::ledger::Code::Held;
            return Ok(Reply { code: held, now_ms: now_us / 1_000, standings: Vec::new() });
        }
        self.scripts.reap(now_us);
        let reply = self.scripts.reserve(head, &later(lines), now_us);
        if reply.code == mcp_authz_core::ledger::Code::Held {
            self.reserved += 1;
        } else {
            self.refused += 1;
        }
        Ok(reply)
    }

    fn finish(&mut self, head: &Head<'_>, lines: &[Line], how: &Finish, now_us: u64) -> Result<Finished, Full> {
        let now_us = now_us + LATER_MS * 1_000;
        if lines.is_empty() {
            return Ok(Finished::Now { credited: 0 });
        }
        self.scripts.reap(now_us);
        Ok(self.scripts.finish(head, &later(lines), how, now_us))
    }
}

#[test]
fn the_published_sequences_hold_on_the_scripts() {
    let server = RedisServer::start(&[]);
    let mut counters = Later { scripts: Scripts::new(&server), reserved: 0, refused: 0 };
    for (name, bytes) in FILES {
        for reading in [Reading::AsWritten, Reading::Compat] {
            let file = CaseFile { file: name, bytes, format: Format::of_name(name).unwrap() };
            let mut load = |file: &str| -> Result<Loaded, String> { Err(format!("no file {file} here")) };
            let results = selftest::run_on(&file, reading, &mut load, &mut counters).unwrap();
            let failures: Vec<String> = results.failures.iter().map(ToString::to_string).collect();
            assert!(failures.is_empty() && results.passed > 40, "{name}: {failures:#?}");
        }
    }
    // Without these the sequences would not have reached the scripts at all.
    assert!(counters.reserved > 60 && counters.refused > 20, "{counters:?}");
}
