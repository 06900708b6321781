//! The scripts, asked as the ledger over Redis asks them, but with a clock of the test.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mcp_authz_core::ledger::machine::Head;
use mcp_authz_core::ledger::{Attempt, Code, Finish, Finished, Line, Reply, Span, Speaker, Standing};
use mcp_authz_core::quota::Mode;
use test_redis::{Connection, RedisServer, Value};

const COMMON: &str = include_str!("../../src/quota/redis/common.lua");
const FILES: [(&str, &str); 3] = [
    ("reserve", include_str!("../../src/quota/redis/reserve.lua")),
    ("finish", include_str!("../../src/quota/redis/finish.lua")),
    ("renew", include_str!("../../src/quota/redis/renew.lua")),
];
/// Has no prelude, so it is put together by itself.
const PLAIN: &str = include_str!("../../src/quota/redis/plain.lua");
const CLOCK: &str = "local T = {ARGV[#ARGV - 1], ARGV[#ARGV]} ARGV[#ARGV] = nil ARGV[#ARGV] = nil";
const EPOCH: &str = "epoch1";
/// What a replica does in the background and a server by itself: forget what has ended by the clock of the test.
const REAP: &str = "for _, key in ipairs(redis.call('KEYS', '*')) do local ends = redis.call('PEXPIRETIME', key)
  if ends >= 0 and ends < tonumber(ARGV[1]) then redis.call('DEL', key) end end";

/// Everything that is stored, one text a key: name, end, content.
const DUMP: &str = "local keys, out = redis.call('KEYS', '*'), {}
  table.sort(keys)
  for _, key in ipairs(keys) do
    local kind, all = redis.call('TYPE', key).ok, nil
    if kind == 'string' then all = {redis.call('GET', key)}
    elseif kind == 'hash' then all = redis.call('HGETALL', key)
    else all = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
    out[#out + 1] = key .. '\\n' .. string.format('%.0f', redis.call('PEXPIRETIME', key)) .. '\\n' .. table.concat(all, '\\n')
  end
  return out";

/// Deliberate damage to one file (`common` is the prelude): what to look for, and what to put there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mutation {
    pub(crate) file: &'static str,
    pub(crate) edits: &'static [(&'static str, &'static str)],
}

/// One stored entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Unix ms; -1 for never.
    pub(crate) ends_ms: i64,
    /// The text, or fields and values in turn.
    pub(crate) parts: Vec<String>,
}

/// The scripts in one server.
pub(crate) struct Scripts {
    pub(crate) redis: Connection,
    texts: BTreeMap<&'static str, String>,
    shas: BTreeMap<&'static str, String>,
    /// Whether calls go through the short script where they can, as they do in the product.
    short: bool,
}

impl Scripts {
    pub(crate) fn new(server: &RedisServer) -> Self {
        Self::mutated(server, None)
    }

    /// As [`Self::new`], with the short script for the calls that it can take.
    pub(crate) fn short(server: &RedisServer) -> Self {
        Self { short: true, ..Self::new(server) }
    }

    /// With damage; that of the short script is used through it.
    pub(crate) fn mutated(server: &RedisServer, mutation: Option<Mutation>) -> Self {
        let text = |name: &str, text: &str| match mutation {
            Some(Mutation { file, edits }) if file == name => edits.iter().fold(text.to_owned(), |text, (from, to)| {
                assert!(text.contains(from), "{name} has no `{from}` any more: give the mutant another place");
                text.replacen(from, to, 1)
            }),
            _ => text.to_owned(),
        };
        let common = with_clock(&text("common", COMMON));
        let mut texts: BTreeMap<&str, String> =
            FILES.iter().map(|(name, file)| (*name, format!("{common}\n{}", text(name, file)))).collect();
        texts.insert("plain", with_clock(&text("plain", PLAIN)));
        let mut redis = server.connect();
        let mut load = |text: &str| {
            let answer = redis.call(&["SCRIPT", "LOAD", text]).unwrap();
            answer.text().unwrap_or_else(|| panic!("{answer:?}: {text}")).to_owned()
        };
        let shas = texts.iter().map(|(name, text)| (*name, load(text))).collect();
        let short = mutation.is_some_and(|mutation| mutation.file == "plain");
        let mut scripts = Self { redis, texts, shas, short };
        scripts.clear();
        scripts
    }

    /// An empty store of the expected epoch.
    pub(crate) fn clear(&mut self) {
        self.call(&["FLUSHALL"]);
        self.set_epoch(&format!("{EPOCH} 0 0"));
    }

    pub(crate) fn set_epoch(&mut self, text: &str) {
        self.call(&["SET", "pq1:{t}:epoch", text]);
    }

    pub(crate) fn call(&mut self, command: &[&str]) -> Value {
        let answer = self.redis.call(command).unwrap();
        assert!(!matches!(answer, Value::Error(_)), "{command:?}: {answer:?}");
        answer
    }

    /// Everything that is stored.
    pub(crate) fn dump(&mut self) -> Vec<Entry> {
        let answer = self.call(&["EVAL", DUMP, "0"]);
        let entry = |text: &str| {
            let mut parts = text.split('\n').map(str::to_owned);
            let (key, ends) = (parts.next().unwrap(), parts.next().unwrap());
            Entry { key, ends_ms: ends.parse().unwrap(), parts: parts.collect() }
        };
        answer.items().iter().map(|item| entry(item.text().expect("a text"))).collect()
    }

    /// Forgets what ended before that moment.
    pub(crate) fn reap(&mut self, now_us: u64) {
        self.call(&["EVAL", REAP, "0", &(now_us / 1_000).to_string()]);
    }

    pub(crate) fn reserve(&mut self, head: &Head<'_>, lines: &[Line], now_us: u64) -> Reply {
        if self.short
            && let Some(packed) = lines.iter().map(packed).collect::<Option<Vec<_>>>()
        {
            return self.reserve_plain(head, lines, &packed, now_us);
        }
        let reply = self.run("reserve", &reserve_head("r", head), head.id, lines, None, now_us);
        read_reply(&reply, lines.len())
    }

    fn reserve_plain(&mut self, head: &Head<'_>, lines: &[Line], packed: &[Vec<u8>], now_us: u64) -> Reply {
        let mut keys = vec![format!("pq1:{{t}}:r:{}", head.id), "pq1:{t}:epoch".to_owned()];
        keys.extend(lines.iter().map(key));
        let [_, rest @ ..] = reserve_head("r", head);
        let mut command: Vec<Vec<u8>> = vec![b"EVALSHA".into(), self.shas["plain"].clone().into()];
        command.push(keys.len().to_string().into());
        command.extend(keys.into_iter().chain(rest).map(String::into_bytes));
        command.extend_from_slice(packed);
        command.push((now_us / 1_000_000).to_string().into());
        command.push((now_us % 1_000_000).to_string().into());
        let mut answer = self.redis.call(&command).unwrap();
        if matches!(&answer, Value::Error(error) if error.starts_with("NOSCRIPT")) {
            command[0] = b"EVAL".into();
            command[1] = self.texts["plain"].clone().into();
            answer = self.redis.call(&command).unwrap();
        }
        let numbers: Option<Vec<i64>> = answer.items().iter().map(Value::int).collect();
        let numbers = numbers.filter(|numbers| numbers.len() >= 3);
        read_reply(&numbers.unwrap_or_else(|| panic!("plain answered {answer:?}")), lines.len())
    }

    pub(crate) fn peek(&mut self, lines: &[Line], now_us: u64) -> Reply {
        let head = Head { id: "-", digest: 0, attempt: Attempt(0), hold_ms: 0, grace_ms: 0 };
        let reply = self.run("reserve", &reserve_head("p", &head), head.id, lines, None, now_us);
        read_reply(&reply, lines.len())
    }

    pub(crate) fn finish(&mut self, head: &Head<'_>, lines: &[Line], how: &Finish, now_us: u64) -> Finished {
        let (verb, owner, actual) = match how {
            Finish::RollBack(Speaker::Attempt(attempt)) => ("x", attempt.to_string(), None),
            Finish::RollBack(Speaker::Stream) => ("x", "*".to_owned(), None),
            Finish::Settle(actual) => ("c", "*".to_owned(), Some(&**actual)),
        };
        let (keep, grace, digest) = (head.hold_ms.to_string(), head.grace_ms.to_string(), head.digest.to_string());
        let args = [verb, &keep, &grace, head.id, &digest, &owner, EPOCH, ""].map(str::to_owned);
        let reply = self.run("finish", &args, head.id, lines, actual, now_us);
        match (reply[0], reply[2]) {
            (1, credited) => Finished::Now { credited: usize::try_from(credited).unwrap() },
            (0, 0) => Finished::Before { same: true },
            (-1, 0) => Finished::Before { same: false },
            (2, _) => Finished::Unknown,
            (3, 0) => Finished::Shared,
            (-4, 0) => Finished::Conflict,
            (-5, 0) => Finished::EpochChanged,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn renew(&mut self, head: &Head<'_>, lines: &[Line], now_us: u64) -> bool {
        let (keep, grace) = (head.hold_ms.to_string(), head.grace_ms.to_string());
        let args = [&keep, "-", &grace, head.id, "-", "-", EPOCH, ""].map(str::to_owned);
        self.run("renew", &args, head.id, lines, None, now_us)[0] == 1
    }

    pub(crate) fn reset(&mut self, lines: &[Line]) {
        let keys: Vec<String> = lines.iter().flat_map(|line| [key(line), format!("{}:p", key(line))]).collect();
        let command: Vec<&str> = std::iter::once("DEL").chain(keys.iter().map(String::as_str)).collect();
        self.call(&command);
    }

    /// EVALSHA, and the whole text where the server does not know it.
    fn run(
        &mut self,
        script: &str,
        head: &[String; 8],
        id: &str,
        lines: &[Line],
        actual: Option<&[u64]>,
        now_us: u64,
    ) -> Vec<i64> {
        let mut keys = vec![format!("pq1:{{t}}:r:{id}"), "pq1:{t}:epoch".to_owned()];
        keys.extend(lines.iter().map(key));
        keys.extend(lines.iter().filter(|line| line.release).map(|line| format!("{}:p", key(line))));
        let mut command = vec!["EVALSHA".to_owned(), self.shas[script].clone(), keys.len().to_string()];
        command.append(&mut keys);
        command.extend_from_slice(head);
        for (index, line) in lines.iter().enumerate() {
            command.extend(arguments(line, actual.map(|actual| actual[index])));
        }
        command.push((now_us / 1_000_000).to_string());
        command.push((now_us % 1_000_000).to_string());
        let mut answer = self.redis.call(&command).unwrap();
        if matches!(&answer, Value::Error(error) if error.starts_with("NOSCRIPT")) {
            "EVAL".clone_into(&mut command[0]);
            command[1].clone_from(&self.texts[script]);
            answer = self.redis.call(&command).unwrap();
        }
        let numbers: Option<Vec<i64>> = answer.items().iter().map(Value::int).collect();
        numbers.filter(|numbers| numbers.len() >= 3).unwrap_or_else(|| panic!("{script} answered {answer:?}"))
    }
}

/// The script with a clock of the test.
fn with_clock(text: &str) -> String {
    let (before, after) = text.split_once("--@clock").expect("the script marks its clock");
    let before = before.rsplit_once('\n').expect("the clock has a line").0;
    let after = after.split_once('\n').expect("the clock has a line").1;
    format!("{before}\n{CLOCK}\n{after}")
}

/// The numbers of a line for the short script, if it can take it.
#[expect(clippy::cast_precision_loss, reason = "numbers above 2^53 are asked to see them refused")]
fn packed(line: &Line) -> Option<Vec<u8>> {
    let Span::Calendar { start_ms, end_ms, next_end_ms } = line.span else { return None };
    if line.mode != Mode::Consume || line.release {
        return None;
    }
    let numbers = [line.amount, line.max, start_ms, end_ms, next_end_ms, u64::from(line.strict)];
    Some(numbers.iter().flat_map(|number| (*number as f64).to_le_bytes()).collect())
}

/// The name of a counter in the store.
pub(crate) fn key(line: &Line) -> String {
    format!("pq1:{{t}}:{}:{}:{:032x}", line.span.letter(), line.label, line.counter.0)
}

fn reserve_head(op: &str, head: &Head<'_>) -> [String; 8] {
    let (hold, grace, digest) = (head.hold_ms.to_string(), head.grace_ms.to_string(), head.digest.to_string());
    [op, &hold, &grace, head.id, &digest, &head.attempt.to_string(), EPOCH, ""].map(str::to_owned)
}

fn arguments(line: &Line, actual: Option<u64>) -> [String; 8] {
    let numbers = match line.span {
        Span::Calendar { start_ms, end_ms, next_end_ms } => [start_ms, end_ms, next_end_ms].map(|ms| ms.to_string()),
        Span::InFlight { lease_ms } => [lease_ms, 0, 0].map(|ms| ms.to_string()),
        Span::Lifetime { idle_ms } => [idle_ms, 0, 0].map(|ms| ms.to_string()),
        Span::Rolling { bucket_ms, buckets } => [bucket_ms, buckets, 0].map(|number| number.to_string()),
        Span::Streak { fingerprint, idle_ms } => {
            let mut hex = String::new();
            fingerprint.0.iter().for_each(|byte| write!(hex, "{byte:02x}").unwrap());
            [hex, idle_ms.to_string(), "0".to_owned()]
        }
        Span::TokenBucket { interval_us, burst_us } => [interval_us, burst_us, 0].map(|us| us.to_string()),
    };
    let mode = match line.mode {
        Mode::Attempt => "a",
        Mode::Consume => "c",
        Mode::Gate => "g",
        Mode::Track => "t",
    };
    let flags = format!("{}{}", if line.strict { "s" } else { "" }, if line.release { "r" } else { "" });
    let [p1, p2, p3] = numbers;
    let kind = line.span.letter().to_string();
    [kind, mode.into(), line.amount.to_string(), actual.unwrap_or(line.max).to_string(), p1, p2, p3, flags]
}

fn read_reply(reply: &[i64], lines: usize) -> Reply {
    let line = || usize::try_from(reply[2] - 1).expect("a line is named");
    let wait = || u64::try_from(reply[3]).ok();
    let code = match reply[0] {
        1 => Code::Held,
        0 => Code::Limited { line: line() },
        2 => Code::HeldBefore,
        3 => Code::NeverFits { line: line() },
        -1 => Code::StaleWindows { line: line() },
        -2 => Code::RolledBack,
        -3 => Code::Settled,
        -4 => Code::Conflict,
        -5 => Code::EpochChanged,
        -6 => Code::Fenced { line: line(), wait_ms: wait().expect("a fence ends") },
        -7 => Code::NodeChanged,
        -8 => Code::Lost { line: line(), wait_ms: wait() },
        other => panic!("no code {other}"),
    };
    let now_ms = u64::try_from(reply[1]).unwrap();
    let mut standings = Vec::new();
    if matches!(code, Code::Held | Code::Limited { .. } | Code::NeverFits { .. }) {
        assert_eq!(reply.len(), 3 + 3 * lines, "three numbers for each line: {reply:?}");
        for numbers in reply[3..].chunks(3) {
            let [used, left] = [numbers[0], numbers[1]].map(|number| u64::try_from(number).expect("never below zero"));
            standings.push(Standing { used, left, reset_ms: u64::try_from(numbers[2]).ok() });
        }
    }
    Reply { code, now_ms, standings }
}
