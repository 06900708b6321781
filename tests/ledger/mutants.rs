//! Deliberate damage to the scripts, each of which must be noticed: by the books or a claim, which know nothing of the machine, or
//! by the comparison with it. A mutant that survives fails the test, and so does one whose place in the script is gone.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use test_redis::RedisServer;

use crate::books::audit;
use crate::differential::{STEPS, compare, plain};
use crate::directed::CLAIMS;
use crate::scripts::{Mutation, Scripts};
use crate::world::{Step, Weather, step};

/// Who must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Books,
    Claim,
    Comparison,
}

const fn mutant(file: &'static str, edits: &'static [(&'static str, &'static str)]) -> Mutation {
    Mutation { file, edits }
}

const MUTANTS: &[(&str, By, Mutation)] = &[
    (
        "each counter is charged by itself",
        By::Books,
        mutant("reserve", &[("if o.m ~= 'g' and (bad == 0 or o.m == 'a') then", "if o.m ~= 'g' then")]),
    ),
    ("an id is charged again", By::Books, mutant("reserve", &[("  return {2, now, 0}\nend", "end")])),
    (
        "slots that ended count as free for all",
        By::Books,
        mutant("reserve", &[("used = redis.call('ZCOUNT', o.key, '(' .. S(now), '+inf')", "used = 0")]),
    ),
    (
        "the oldest bucket is skipped",
        By::Books,
        mutant("reserve", &[("if ix < cur - o.p2 then", "if ix <= cur - o.p2 then")]),
    ),
    ("a look writes", By::Books, mutant("reserve", &[("if op == 'p' then return", "if false then return")])),
    (
        "a counter has no end",
        By::Books,
        mutant("reserve", &[("redis.call('SET', key, S(o.tat), 'PXAT', S(ends))", "redis.call('SET', key, S(o.tat))")]),
    ),
    (
        "one unit more than the maximum",
        By::Books,
        mutant("reserve", &[("elseif used + o.amt > o.max then", "elseif used + o.amt > o.max + 1 then")]),
    ),
    (
        "a bucket of one unit more",
        By::Books,
        mutant("reserve", &[("elseif need > burst then", "elseif need > burst + iv then")]),
    ),
    (
        "a rollback reaches any window",
        By::Books,
        mutant("finish", &[("if cw and tonumber(cw) == w then", "if cw then")]),
    ),
    (
        "a rollback comes twice",
        By::Books,
        mutant(
            "finish",
            &[
                ("if f[1] ~= 'h' and f[1] ~= 'p' then return {(f[1] == verb) and 0 or -1, now, 0} end", ""),
                ("  if #f ~= 4 + 2 * n then return {-4, now, 0} end\n", ""),
                (
                    "local amt = rec and N(rec[3 + 2 * i]) or o.amt",
                    "local amt = rec and rec[3 + 2 * i] and N(rec[3 + 2 * i]) or o.amt",
                ),
                (
                    "local w = rec and N(rec[4 + 2 * i]) or -1",
                    "local w = rec and rec[4 + 2 * i] and N(rec[4 + 2 * i]) or -1",
                ),
            ],
        ),
    ),
    (
        "a rollback gives back what time has given back",
        By::Books,
        mutant("common", &[("return amt * iv - math.max(0, us - t0 * 1000) end", "return amt * iv end")]),
    ),
    (
        "a step back gives back more than was taken",
        By::Claim,
        mutant(
            "common",
            &[("return amt * iv - math.max(0, us - t0 * 1000) end", "return amt * iv - (us - t0 * 1000) end")],
        ),
    ),
    ("the epoch is not looked at", By::Claim, mutant("reserve", &[("if id ~= ARGV[7] then", "if false then")])),
    (
        "a rollback does not look at the epoch",
        By::Claim,
        mutant("finish", &[("if epoch(redis.call('GET', KEYS[2])) ~= ARGV[7] then", "if false then")]),
    ),
    (
        "the record is the last write",
        By::Claim,
        mutant(
            "reserve",
            &[
                (
                    "  redis.call('SET', KEYS[1], table.concat(r, ' '), 'PXAT', S(now + hold + grace))\n",
                    "  c.late = table.concat(r, ' ')\n",
                ),
                (
                    "  end\nend\nreturn {code, now, bad, unpack(out)}",
                    "  end\nend\nif c.late then redis.call('SET', KEYS[1], c.late, 'PXAT', S(now + hold + grace)) end\nreturn {code, now, bad, unpack(out)}",
                ),
            ],
        ),
    ),
    (
        "no tombstone",
        By::Books,
        mutant(
            "finish",
            &[
                (
                    "redis.call('SET', KEYS[1], verb .. ' ' .. fp",
                    "if rec then return {1, now, 0} end local _ = (verb .. ' ' .. fp",
                ),
                (", 'PXAT', S(now + keep))", ")"),
            ],
        ),
    ),
    ("the fence is ignored", By::Claim, mutant("reserve", &[("if o.strict and fence > now then", "if false then")])),
    ("lost counts are ignored", By::Claim, mutant("reserve", &[("if lost > 0 and o.strict", "if false")])),
    (
        "an id may be used for something else",
        By::Claim,
        mutant("reserve", &[("if ofp ~= fp then return {-4, now, 0} end", "")]),
    ),
    (
        "an id may be ended by something else",
        By::Claim,
        mutant("finish", &[("if f[2] ~= fp then return {-4, now, 0} end", "")]),
    ),
    (
        "a second attempt pins nothing",
        By::Claim,
        mutant("reserve", &[("if st == 'h' and own ~= owner then", "if false then")]),
    ),
    (
        "a pinned hold can be taken back",
        By::Claim,
        mutant("finish", &[("(f[1] == 'p' or f[3] ~= owner)", "f[3] ~= owner")]),
    ),
    (
        "a step back opens an old window",
        By::Claim,
        mutant("common", &[("if cw > w and cw - w <= o.p3 - o.p1 then", "if false then")]),
    ),
    ("a wrong clock locks a window", By::Claim, mutant("reserve", &[("if astray then o.repair = u end", "")])),
    (
        "a wrong clock locks a bucket",
        By::Claim,
        mutant("reserve", &[("tat = us + burst; o.repair = tat end", "tat = us + burst end")]),
    ),
    (
        "a wrong clock locks a span",
        By::Claim,
        mutant("reserve", &[("elseif ix > cur + o.p2 then", "elseif false then")]),
    ),
    ("no grace", By::Claim, mutant("reserve", &[("ends = o.e + grace", "ends = o.e")])),
    (
        "no grace for spans",
        By::Claim,
        mutant("reserve", &[("ends = now + o.p1 * (o.p2 + 1) + grace", "ends = now + o.p1 * (o.p2 + 1)")]),
    ),
    ("what ran out is given back twice", By::Claim, mutant("finish", &[("if released then amt = 0 end", "")])),
    (
        "what ran out never comes back",
        By::Claim,
        mutant("reserve", &[("local rows = o.pend and", "local rows = false and")]),
    ),
    (
        "a pending release is forgotten too early",
        By::Claim,
        mutant(
            "reserve",
            &[("later(o.pend, math.max(ends, now + hold + grace))", "redis.call('PEXPIREAT', o.pend, S(ends))")],
        ),
    ),
    ("a shorter lease ends a longer one", By::Claim, mutant("common", &[("'GT') end", "'XX') end")])),
    (
        "a renewal takes a slot again",
        By::Claim,
        mutant(
            "renew",
            &[
                ("if s and tonumber(s) > now then", "if true then"),
                ("redis.call('ZADD', o.key, 'XX', S", "redis.call('ZADD', o.key, S"),
            ],
        ),
    ),
    (
        "a renewal leaves the release where it was",
        By::Claim,
        mutant("renew", &[("if row and redis.call('ZSCORE', o.pend, row) then", "if false then")]),
    ),
    (
        "a streak goes on with another call",
        By::Comparison,
        mutant("reserve", &[("used = (f == o.p1) and tonumber(x) or 0", "used = tonumber(x or '0')")]),
    ),
    (
        "a surplus is lost",
        By::Comparison,
        mutant("finish", &[("tat = us + math.min(math.max(tat, us) - us + d * iv, LIM)", "tat = math.max(tat, us)")]),
    ),
    (
        "attempts come back",
        By::Comparison,
        mutant("finish", &[("if verb == 'x' and o.m == 'a' then act = amt end", "")]),
    ),
    (
        "a surplus without a record is credited",
        By::Comparison,
        mutant("finish", &[("if not rec and d < 0 then d = 0 end", "if not rec then d = 0 end")]),
    ),
    (
        "gates add",
        By::Comparison,
        mutant("reserve", &[("if o.m ~= 'g' and (bad == 0 or o.m == 'a') then", "if bad == 0 or o.m == 'a' then")]),
    ),
    (
        "what cannot be read counts as nothing",
        By::Claim,
        mutant("common", &[("if not cw then error('BADDATA') end", "if not cw then return w, e, 0 end")]),
    ),
    (
        "short: what cannot be read counts as nothing",
        By::Claim,
        mutant("plain", &[("if not cw then error('BADDATA') end", "cw = cw or 0")]),
    ),
    ("short: an id is charged again", By::Comparison, mutant("plain", &[("  return {2, now, 0}\nend", "end")])),
    ("short: the epoch is not looked at", By::Claim, mutant("plain", &[("if id ~= ARGV[6] then", "if false then")])),
    (
        "short: the fence is ignored",
        By::Claim,
        mutant("plain", &[("if strict > 0 and fence > now then", "if false then")]),
    ),
    ("short: lost counts are ignored", By::Claim, mutant("plain", &[("if lost > 0 and strict > 0", "if false")])),
    (
        "short: one attempt takes back what two rely on",
        By::Comparison,
        mutant("plain", &[("if st == 'h' and own ~= owner then", "if false then")]),
    ),
    (
        "short: one more than the limit",
        By::Comparison,
        mutant("plain", &[("elseif used + amt > max and", "elseif used + amt > max + 1 and")]),
    ),
    (
        "short: a step back opens an old window",
        By::Comparison,
        mutant("plain", &[("if cw - w <= p3 - p1 then", "if false then")]),
    ),
    (
        "short: a wrong clock locks a window",
        By::Comparison,
        mutant("plain", &[("for _, i in ipairs(astray or {}) do", "for _, i in ipairs({}) do")]),
    ),
    ("short: a part of a call is charged", By::Comparison, mutant("plain", &[("if bad > 0 then", "if bad == 1 then")])),
    ("short: no grace", By::Claim, mutant("plain", &[("fmt('%d', now + e + grace)", "fmt('%d', now + e)")])),
];

/// The same sequences for every mutant.
fn sequences(weather: Weather, count: usize) -> Vec<Vec<Step>> {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let steps = prop::collection::vec(step(weather), STEPS..=2 * STEPS);
    (0..count).map(|_| steps.new_tree(&mut runner).expect("steps").current()).collect()
}

/// What a check found, be it an error of ours or a complaint of the server.
fn noticed(check: impl FnOnce() -> Result<(), String>) -> bool {
    !matches!(catch_unwind(AssertUnwindSafe(check)), Ok(Ok(())))
}

#[test]
fn every_mutant_of_the_scripts_is_noticed() {
    let server = RedisServer::start(&[]);
    let (fair, stormy) = (sequences(Weather::Fair, 60), sequences(Weather::Stormy, 60));
    let mut surprises = Vec::new();
    // Damage makes checks panic; what they say is not of interest.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    for (name, by, mutation) in MUTANTS {
        // Outside of the checks: a mutation whose place is gone is an error of this file, not something noticed.
        let scripts = catch_unwind(|| Scripts::mutated(&server, Some(*mutation)));
        let Ok(mut scripts) = scripts else {
            surprises.push(format!("{name}: its place in the script is gone, or it is no Lua any more"));
            continue;
        };
        let found = match by {
            By::Books => fair.iter().any(|steps| noticed(|| audit(&mut scripts, steps))),
            By::Claim => CLAIMS.iter().any(|(_, claim)| {
                scripts.clear();
                noticed(|| claim(&mut scripts))
            }),
            By::Comparison if mutation.file == "plain" => {
                stormy.iter().any(|steps| noticed(|| compare(&mut scripts, &plain(steps))))
            }
            By::Comparison => stormy.iter().any(|steps| noticed(|| compare(&mut scripts, steps))),
        };
        scripts.call(&["ACL", "SETUSER", "default", "+set"]);
        if !found {
            surprises.push(format!("{name}: not noticed by the {by:?}"));
        }
    }
    std::panic::set_hook(hook);
    assert!(surprises.is_empty(), "{surprises:#?}");
}
