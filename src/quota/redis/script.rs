//! The scripts, the commands that run them, and what their answers mean.

use std::{fmt::Write as _, sync::LazyLock, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mcp_authz_core::{
    ledger::{Code, Finish, Finished, Line, Reply, Span, Speaker, Standing},
    number::AMOUNT_MAX,
    quota::Mode,
};
use redis::{Cmd, Value};

use super::super::booking::mode_letter;
use crate::quota::Booking;

/// How long entries are kept beyond their time, ms: clocks of a master and of its successor differ.
const GRACE_MS: u64 = 5_000;
/// How long the end of a reservation is remembered, ms: a rollback must outlive every copy of the hold that is still under
/// way, in the queue of a server that stood still too.
const FINISHED_KEEP_MS: u64 = 120_000;

/// A script and its digest.
pub(super) struct Script {
    text: String,
    sha: String,
}

/// How a script is named in a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// By its digest.
    Sha,
    /// By its text, which the server then knows.
    Text,
}

/// Every script of ours.
pub(super) struct Scripts {
    pub(super) accept: Script,
    pub(super) beat: Script,
    pub(super) finish: Script,
    pub(super) open: Script,
    pub(super) pins_read: Script,
    pub(super) pins_write: Script,
    pub(super) plain: Script,
    pub(super) records: Script,
    pub(super) renew: Script,
    pub(super) replay: Script,
    pub(super) reserve: Script,
    pub(super) reset: Script,
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| {
    let common = include_str!("common.lua");
    Scripts {
        accept: Script::of("", include_str!("accept.lua")),
        beat: Script::of("", include_str!("beat.lua")),
        finish: Script::of(common, include_str!("finish.lua")),
        open: Script::of("", include_str!("open.lua")),
        pins_read: Script::of("", include_str!("pins_read.lua")),
        pins_write: Script::of("", include_str!("pins_write.lua")),
        plain: Script::of("", include_str!("plain.lua")),
        records: Script::of("", include_str!("records.lua")),
        renew: Script::of(common, include_str!("renew.lua")),
        replay: Script::of(common, include_str!("replay.lua")),
        reserve: Script::of(common, include_str!("reserve.lua")),
        reset: Script::of(common, include_str!("reset.lua")),
    }
});

impl Script {
    fn of(common: &str, own: &str) -> Self {
        let text = format!("{common}{own}");
        let sha = redis::Script::new(&text).get_hash().to_owned();
        Self { text, sha }
    }

    pub(super) fn command(&self, form: Form, keys: usize) -> Cmd {
        let mut command = Cmd::new();
        match form {
            Form::Sha => command.arg("EVALSHA").arg(&self.sha),
            Form::Text => command.arg("EVAL").arg(&self.text),
        };
        command.arg(keys);
        command
    }
}

/// Names of the keys of one domain. All of them hash to one slot.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn of(domain: &str) -> Self {
        Self { prefix: format!("pq1:{{{domain}}}:") }
    }

    pub(super) fn plain(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn record(&self, id: &str) -> String {
        format!("{}r:{id}", self.prefix)
    }

    fn counter(&self, line: &Line) -> String {
        let mut key = String::with_capacity(self.prefix.len().saturating_add(line.label.len()).saturating_add(28));
        key.push_str(&self.prefix);
        key.push(line.span.letter());
        key.push(':');
        key.push_str(&line.label);
        key.push(':');
        URL_SAFE_NO_PAD.encode_string(line.counter.0.to_be_bytes(), &mut key);
        key
    }

    fn pending(&self, line: &Line) -> String {
        let mut key = self.counter(line);
        key.push_str(":p");
        key
    }
}

/// What every question about lines says besides them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    pub(super) names: &'a Names,
    /// The epoch whose data we know.
    pub(super) epoch: &'a str,
    /// The node of a cluster that we believe to be the master of our slot; empty elsewhere.
    pub(super) node: &'a str,
}

impl Head<'_> {
    pub(super) fn reserve(&self, form: Form, booking: &Booking, hold: Duration) -> Cmd {
        if let Some(lines) = booking.lines.iter().map(plain).collect::<Option<Vec<[u8; 48]>>>() {
            let mut command = self.start(&SCRIPTS.plain, form, booking.id.as_str(), &booking.lines, Pending::None);
            command.arg(millis(hold)).arg(GRACE_MS).arg(booking.id.as_str());
            command.arg(digest(booking)).arg(booking.attempt.to_string()).arg(self.epoch).arg(self.node);
            for line in &lines {
                command.arg(line.as_slice());
            }
            return command;
        }
        let mut command = self.start(&SCRIPTS.reserve, form, booking.id.as_str(), &booking.lines, Pending::Released);
        command.arg("r").arg(millis(hold)).arg(GRACE_MS).arg(booking.id.as_str());
        command.arg(digest(booking)).arg(booking.attempt.to_string()).arg(self.epoch).arg(self.node);
        for line in &booking.lines {
            push(&mut command, line, line.max, flags(line));
        }
        command
    }

    pub(super) fn peek(&self, form: Form, lines: &[Line]) -> Cmd {
        let mut command = self.start(&SCRIPTS.reserve, form, "-", lines, Pending::Released);
        command.arg("p").arg(0).arg(0).arg("-").arg("-").arg("-").arg(self.epoch).arg(self.node);
        for line in lines {
            // Whoever looks wants to see the count that there is.
            push(&mut command, line, line.max, if line.release { "r" } else { "" });
        }
        command
    }

    pub(super) fn finish(&self, form: Form, booking: &Booking, how: &Finish) -> Cmd {
        let mut command = self.start(&SCRIPTS.finish, form, booking.id.as_str(), &booking.lines, Pending::Released);
        let verb = if matches!(how, Finish::RollBack(_)) { "x" } else { "c" };
        command.arg(verb).arg(FINISHED_KEEP_MS).arg(GRACE_MS).arg(booking.id.as_str()).arg(digest(booking));
        match how {
            Finish::RollBack(Speaker::Attempt(attempt)) => command.arg(attempt.to_string()),
            Finish::RollBack(Speaker::Stream) | Finish::Settle(_) => command.arg("*"),
        };
        command.arg(self.epoch).arg(self.node);
        for (index, line) in booking.lines.iter().enumerate() {
            let actual = match how {
                Finish::Settle(actual) => actual.get(index).copied().unwrap_or(line.amount),
                Finish::RollBack(_) => 0,
            };
            push(&mut command, line, actual, flags(line));
        }
        command
    }

    pub(super) fn renew(&self, form: Form, booking: &Booking, hold: Duration) -> Cmd {
        let mut command = self.start(&SCRIPTS.renew, form, booking.id.as_str(), &booking.lines, Pending::Released);
        command.arg(millis(hold).saturating_add(GRACE_MS)).arg("-").arg(GRACE_MS).arg(booking.id.as_str());
        command.arg("-").arg("-").arg(self.epoch).arg(self.node);
        for line in &booking.lines {
            push(&mut command, line, line.max, flags(line));
        }
        command
    }

    pub(super) fn reset(&self, form: Form, lines: &[Line]) -> Cmd {
        let mut command = self.start(&SCRIPTS.reset, form, "-", lines, Pending::All);
        command.arg("-").arg("-").arg("-").arg("-").arg("-").arg("-").arg(self.epoch).arg(self.node);
        for line in lines {
            push(&mut command, line, line.max, "");
        }
        command
    }

    /// `since_ms` is when it was held, in the store's time; windows are chosen as the script chose them then.
    pub(super) fn replay(
        &self,
        form: Form,
        booking: &Booking,
        hold: Duration,
        since_ms: u64,
        settled: Option<&[u64]>,
    ) -> Cmd {
        let mut command = self.start(&SCRIPTS.replay, form, booking.id.as_str(), &booking.lines, Pending::None);
        let state = if settled.is_some() { "c" } else { "h" };
        command.arg(state).arg(millis(hold).saturating_add(GRACE_MS)).arg(GRACE_MS).arg(booking.id.as_str());
        command.arg(digest(booking)).arg(booking.attempt.to_string()).arg(self.epoch).arg(since_ms);
        for (index, line) in booking.lines.iter().enumerate() {
            let amount = settled.and_then(|actual| actual.get(index)).copied().unwrap_or(line.amount);
            let (window, ends_ms) = window(line, since_ms);
            push_amount(&mut command, line, amount, window, &ends_ms.to_string());
        }
        command
    }

    fn start(&self, script: &Script, form: Form, id: &str, lines: &[Line], pending: Pending) -> Cmd {
        let released = |line: &&Line| match pending {
            Pending::All => true,
            Pending::None => false,
            Pending::Released => line.release,
        };
        let sets = lines.iter().filter(released).count();
        let mut command = script.command(form, lines.len().saturating_add(sets).saturating_add(2));
        command.arg(self.names.record(id)).arg(self.names.plain("epoch"));
        for line in lines {
            command.arg(self.names.counter(line));
        }
        for line in lines.iter().filter(released) {
            command.arg(self.names.pending(line));
        }
        command
    }
}

/// The numbers of a line that the short script can take: a calendar window that is consumed, and kept unless it is settled.
fn plain(line: &Line) -> Option<[u8; 48]> {
    let Span::Calendar { start_ms, end_ms, next_end_ms } = line.span else { return None };
    if line.mode != Mode::Consume || line.release {
        return None;
    }
    let mut out = [0; 48];
    let numbers = [line.amount, line.max, start_ms, end_ms, next_end_ms, u64::from(line.strict)];
    for (number, slot) in numbers.into_iter().zip(out.chunks_exact_mut(8)) {
        slot.copy_from_slice(&exact(number)?.to_le_bytes());
    }
    Some(out)
}

/// The number as a binary64, if that is exact; amounts and times always are.
fn exact(number: u64) -> Option<f64> {
    let low = u32::try_from(number & 0xffff_ffff).ok()?;
    let high = u32::try_from(number >> 32).ok()?;
    (number <= AMOUNT_MAX).then(|| f64::from(high) * 4_294_967_296.0 + f64::from(low))
}

/// Which pending sets a command names.
#[derive(Clone, Copy, Debug)]
enum Pending {
    All,
    None,
    Released,
}

fn digest(booking: &Booking) -> String {
    format!("{:016x}", booking.digest)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn flags(line: &Line) -> &'static str {
    match (line.strict, line.release) {
        (false, false) => "",
        (false, true) => "r",
        (true, false) => "s",
        (true, true) => "sr",
    }
}

fn push(command: &mut Cmd, line: &Line, max: u64, last: &str) {
    push_amount(command, line, line.amount, max, last);
}

fn push_amount(command: &mut Cmd, line: &Line, amount: u64, max: u64, last: &str) {
    let kind = match line.span {
        Span::Calendar { .. } => "c",
        Span::InFlight { .. } => "f",
        Span::Lifetime { .. } => "l",
        Span::Rolling { .. } => "r",
        Span::Streak { .. } => "s",
        Span::TokenBucket { .. } => "g",
    };
    command.arg(kind).arg([mode_letter(line.mode)].as_slice()).arg(amount).arg(max);
    match line.span {
        Span::Calendar { start_ms, end_ms, next_end_ms } => command.arg(start_ms).arg(end_ms).arg(next_end_ms),
        Span::InFlight { lease_ms } => command.arg(lease_ms).arg(0).arg(0),
        Span::Lifetime { idle_ms } => command.arg(idle_ms).arg(0).arg(0),
        Span::Rolling { bucket_ms, buckets } => command.arg(bucket_ms).arg(buckets).arg(0),
        Span::Streak { fingerprint, idle_ms } => {
            let mut text = String::with_capacity(32);
            for byte in fingerprint.0 {
                // Writing to a `String` cannot fail.
                write!(text, "{byte:02x}").unwrap_or_default();
            }
            command.arg(text).arg(idle_ms).arg(0)
        }
        Span::TokenBucket { interval_us, burst_us } => command.arg(interval_us).arg(burst_us).arg(0),
    };
    command.arg(last);
}

/// The window that a line was charged to at that time, and when the charge stops to matter; 0 for never, or where the script
/// knows by itself.
fn window(line: &Line, since_ms: u64) -> (u64, u64) {
    match line.span {
        Span::Calendar { start_ms, end_ms, next_end_ms } => {
            if since_ms < end_ms {
                (start_ms, end_ms)
            } else {
                (end_ms, next_end_ms)
            }
        }
        Span::InFlight { lease_ms } => (0, since_ms.saturating_add(lease_ms)),
        Span::Lifetime { idle_ms: 0 } => (0, 0),
        Span::Lifetime { idle_ms } => (0, since_ms.saturating_add(idle_ms)),
        Span::Rolling { bucket_ms, buckets } => {
            let span = bucket_ms.saturating_mul(buckets.saturating_add(1));
            (since_ms.checked_div(bucket_ms).unwrap_or(0), since_ms.saturating_add(span))
        }
        Span::Streak { idle_ms, .. } => (0, since_ms.saturating_add(idle_ms)),
        Span::TokenBucket { .. } => (0, 0),
    }
}

/// An answer of a script that no script of ours gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer of a script cannot be read")]
pub(super) struct Malformed;

/// The first number of every answer, the store's time, and what follows.
pub(super) fn numbers(value: &Value) -> Result<(i64, u64, &[Value]), Malformed> {
    let Value::Array(items) = value else { return Err(Malformed) };
    let [Value::Int(code), Value::Int(now), rest @ ..] = items.as_slice() else { return Err(Malformed) };
    Ok((*code, u64::try_from(*now).map_err(|_| Malformed)?, rest))
}

/// The answer of RESERVE and PEEK about so many lines.
pub(super) fn reply(value: &Value, lines: usize) -> Result<Reply, Malformed> {
    let (code, now_ms, rest) = numbers(value)?;
    let [Value::Int(first), rest @ ..] = rest else { return Err(Malformed) };
    let line = || {
        let index = usize::try_from(first.checked_sub(1).ok_or(Malformed)?).map_err(|_| Malformed)?;
        if index < lines { Ok(index) } else { Err(Malformed) }
    };
    let wait = || match rest {
        [Value::Int(ms)] => Ok(u64::try_from(*ms).ok()),
        _ => Err(Malformed),
    };
    let code = match code {
        1 => Code::Held,
        0 => Code::Limited { line: line()? },
        2 => Code::HeldBefore,
        3 => Code::NeverFits { line: line()? },
        -1 => Code::StaleWindows { line: line()? },
        -2 => Code::RolledBack,
        -3 => Code::Settled,
        -4 => Code::Conflict,
        -5 => Code::EpochChanged,
        -6 => Code::Fenced { line: line()?, wait_ms: wait()?.ok_or(Malformed)? },
        -7 => Code::NodeChanged,
        -8 => Code::Lost { line: line()?, wait_ms: wait()? },
        _ => return Err(Malformed),
    };
    let judged = matches!(code, Code::Held | Code::Limited { .. } | Code::NeverFits { .. });
    let standings = if judged { standings(rest, lines)? } else { Vec::new() };
    Ok(Reply { code, now_ms, standings })
}

fn standings(rest: &[Value], lines: usize) -> Result<Vec<Standing>, Malformed> {
    let (triples, more) = rest.as_chunks::<3>();
    if triples.len() != lines || !more.is_empty() {
        return Err(Malformed);
    }
    let of = |triple: &[Value; 3]| match triple {
        [Value::Int(used), Value::Int(left), Value::Int(reset)] => Ok(Standing {
            used: u64::try_from(*used).map_err(|_| Malformed)?,
            left: u64::try_from(*left).map_err(|_| Malformed)?,
            reset_ms: u64::try_from(*reset).ok(),
        }),
        _ => Err(Malformed),
    };
    triples.iter().map(of).collect()
}

/// The answer of FINISH.
pub(super) fn finished(value: &Value) -> Result<(Finished, u64), Malformed> {
    let (code, now_ms, rest) = numbers(value)?;
    let [Value::Int(credited)] = rest else { return Err(Malformed) };
    let finished = match code {
        1 => Finished::Now { credited: usize::try_from(*credited).map_err(|_| Malformed)? },
        0 => Finished::Before { same: true },
        -1 => Finished::Before { same: false },
        2 => Finished::Unknown,
        3 => Finished::Shared,
        -4 => Finished::Conflict,
        -5 => Finished::EpochChanged,
        -7 => Finished::NodeChanged,
        _ => return Err(Malformed),
    };
    Ok((finished, now_ms))
}
