//! Books kept of every answer, and the promises checked against them and against what is stored. Knows nothing of how the
//! scripts or the machine count, so that an error that both share shows here.

use std::collections::{BTreeMap, BTreeSet};

use mcp_authz_core::ledger::{Code, Finished};
use proptest::prelude::*;
use test_redis::RedisServer;

use crate::differential::{STEPS, runner};
use crate::scripts::{Entry, Scripts};
use crate::world::{self, Answer, History, Kind, Op, SPECS, Step, WINDOW_MS, Weather, all_lines, on_scripts};

/// Units that were handed out.
#[derive(Debug)]
struct Sale {
    at_us: u64,
    spec: usize,
    amount: u64,
    id: String,
}

#[derive(Debug, Default)]
struct Books {
    sales: Vec<Sale>,
    returned: BTreeMap<String, u64>,
}

impl Books {
    fn kept(&self, spec: usize) -> impl Iterator<Item = &Sale> {
        self.sales.iter().filter(move |sale| sale.spec == spec && !self.returned.contains_key(&sale.id))
    }

    /// An id whose rollback is forgotten by now may be used again: for something new, with books of its own.
    fn retire(&mut self, id: &str) {
        let Some(returned_us) = self.returned.remove(id) else { return };
        let old = format!("{id} until {returned_us}");
        self.sales.iter_mut().filter(|sale| sale.id == id).for_each(|sale| sale.id.clone_from(&old));
        self.returned.insert(old, returned_us);
    }

    /// I5: what is stored is what was handed out and not returned, to the unit. I7: nothing is negative, everything ends.
    fn agree(&self, stored: &[Entry], now_us: u64) -> Result<(), String> {
        for entry in stored {
            let name = entry.key.split(':').nth(3).unwrap_or_default();
            let spec = SPECS.iter().position(|spec| spec.name == name);
            let endless =
                entry.key == "pq1:{t}:epoch" || spec.is_some_and(|spec| SPECS[spec].kind == Kind::Lifetime(0));
            if (entry.ends_ms < 0) != endless {
                return Err(format!("ends at {}: {entry:?}", entry.ends_ms));
            }
            let Some(spec) = spec else { continue };
            if entry.parts.iter().any(|part| part.starts_with('-')) {
                return Err(format!("negative: {entry:?}"));
            }
            let number = |index: usize| entry.parts[index].parse::<u64>().unwrap_or(u64::MAX);
            let fits = match SPECS[spec].kind {
                Kind::Calendar => {
                    let (start, used) = entry.parts[0].split_once(' ').expect("a start and a sum");
                    let start: u64 = start.parse().expect("a start");
                    let mine = self.kept(spec).filter(|sale| sale.at_us / 1_000 / WINDOW_MS * WINDOW_MS == start);
                    used.parse() == Ok(mine.map(|sale| sale.amount).sum::<u64>())
                }
                Kind::Lifetime(0) => number(0) == self.kept(spec).map(|sale| sale.amount).sum::<u64>(),
                Kind::Rolling(bucket_ms, _) => (0..entry.parts.len()).step_by(2).all(|index| {
                    let mine = self.kept(spec).filter(|sale| sale.at_us / 1_000 / bucket_ms == number(index));
                    number(index + 1) == mine.map(|sale| sale.amount).sum::<u64>()
                }),
                Kind::InFlight(lease_ms) => {
                    let live = |sale: &&Sale| sale.at_us / 1_000 + lease_ms > now_us / 1_000;
                    let mine: BTreeSet<&str> = self.kept(spec).filter(live).map(|sale| sale.id.as_str()).collect();
                    let slots = (0..entry.parts.len()).step_by(2).filter(|index| number(index + 1) > now_us / 1_000);
                    slots.map(|index| entry.parts[index].as_str()).collect::<BTreeSet<_>>() == mine
                }
                Kind::Lifetime(_) | Kind::Streak(_) | Kind::TokenBucket(_) | Kind::Uneven => true,
            };
            if !fits {
                return Err(format!("stored is not what was handed out: {entry:?}"));
            }
        }
        Ok(())
    }

    /// I1 to I4: no window, no span, no bucket and no moment ever had more than its maximum.
    fn within_limits(&self) -> Result<(), String> {
        for (spec, known) in SPECS.iter().enumerate() {
            let mut sales: Vec<&Sale> = self.kept(spec).collect();
            sales.sort_by_key(|sale| sale.at_us);
            let too_many = match known.kind {
                Kind::Calendar | Kind::Uneven => {
                    let mut windows = BTreeMap::<String, u64>::new();
                    for sale in &sales {
                        let window = format!("{:?}", world::windows(known.kind, sale.at_us / 1_000));
                        *windows.entry(window).or_default() += sale.amount;
                    }
                    windows.values().any(|sum| *sum > known.max)
                }
                Kind::Rolling(bucket_ms, buckets) => {
                    let span_us = bucket_ms * buckets * 1_000;
                    any_span(&sales, |sum, elapsed_us| elapsed_us < span_us && sum > known.max)
                }
                Kind::TokenBucket(interval_us) => {
                    any_span(&sales, |sum, elapsed_us| sum * interval_us > known.max * interval_us + elapsed_us)
                }
                Kind::InFlight(lease_ms) => self.sales.iter().filter(|sale| sale.spec == spec).any(|sale| {
                    let now_ms = sale.at_us / 1_000;
                    let runs = |other: &&Sale| {
                        let returned_us = self.returned.get(&other.id).copied().unwrap_or(u64::MAX);
                        let ends_ms = other.at_us / 1_000 + lease_ms;
                        // What came back in the same microsecond came back first or last: both are right.
                        other.spec == spec && other.at_us <= sale.at_us && now_ms < ends_ms && sale.at_us < returned_us
                    };
                    u64::try_from(self.sales.iter().filter(runs).count()).unwrap() > known.max
                }),
                Kind::Lifetime(0) => sales.iter().map(|sale| sale.amount).sum::<u64>() > known.max,
                Kind::Lifetime(_) | Kind::Streak(_) => false,
            };
            if too_many {
                return Err(format!("{} handed out more than {}: {sales:?}", known.name, known.max));
            }
        }
        Ok(())
    }
}

/// Whether some span from one sale to another is too much.
fn any_span(sales: &[&Sale], too_much: impl Fn(u64, u64) -> bool) -> bool {
    (0..sales.len()).any(|first| {
        let mut sum = 0;
        sales[first..].iter().any(|sale| {
            sum += sale.amount;
            too_much(sum, sale.at_us - sales[first].at_us)
        })
    })
}

/// Runs one sequence of fair weather on the scripts alone.
pub(crate) fn audit(scripts: &mut Scripts, steps: &[Step]) -> Result<(), String> {
    scripts.clear();
    let (mut books, mut history) = (Books::default(), History::new());
    for step in steps {
        if let Step::FlushScripts = step {
            scripts.call(&["SCRIPT", "FLUSH"]);
        }
        let Some(op) = history.operation(step) else { continue };
        let now_us = history.now_us;
        scripts.reap(now_us);
        let before = scripts.dump();
        match (&op, on_scripts(scripts, &op, now_us)) {
            (Op::Reserve(call), Answer::Reply(reply)) if reply.code == Code::Held => {
                books.retire(&call.id);
                // Held twice under one id is one call, so its units may be counted once only.
                let known = books.sales.iter().any(|sale| sale.id == call.id);
                let lines = call.lines.iter().zip(&call.asks).filter(|_| !known);
                books.sales.extend(lines.map(|(line, ask)| Sale {
                    at_us: now_us,
                    spec: ask.spec,
                    amount: line.amount,
                    id: call.id.clone(),
                }));
            }
            // I6: what is refused leaves no trace.
            (Op::Reserve(_), Answer::Reply(reply)) if reply.code != Code::HeldBefore && scripts.dump() != before => {
                return Err(format!("{:?}, but something was written: {op:?}", reply.code));
            }
            (Op::Finish(call, _), Answer::Finished(Finished::Now { .. }))
                if books.returned.insert(call.id.clone(), now_us).is_some() =>
            {
                return Err(format!("returned twice: {}", call.id));
            }
            _ => {}
        }
        let stored = scripts.dump();
        books.agree(&stored, now_us)?;
        scripts.peek(&all_lines(now_us), now_us);
        if scripts.dump() != stored {
            return Err("a look changed something".to_owned());
        }
    }
    books.within_limits()
}

#[test]
fn no_limit_is_ever_exceeded_and_every_unit_is_accounted_for() {
    let server = RedisServer::start(&[]);
    let scripts = std::cell::RefCell::new(Scripts::new(&server));
    let steps = prop::collection::vec(world::step(Weather::Fair), STEPS..=2 * STEPS);
    runner(world::config(100))
        .run(&steps, |steps| audit(&mut scripts.borrow_mut(), &steps).map_err(TestCaseError::fail))
        .unwrap_or_else(|error| panic!("{error}"));
}
