//! One change of a machine as bytes: what a journal keeps, and what makes the same machine again.

use std::sync::Arc;

use super::bytes::{Reader, put_len, put_text, put_u64, put_u128};
use super::machine::{Full, Head, Machine};
use super::{Attempt, CounterId, Finish, Line, Span, Speaker};
use crate::quota::{Fingerprint, Mode};

/// What was asked of the machine.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// [`Machine::finish`].
    Finish(&'a Finish),
    /// [`Machine::renew`].
    Renew,
    /// [`Machine::reserve`].
    Reserve,
    /// [`Machine::reset`].
    Reset,
    /// [`Machine::set_back`], by so many ms.
    SetBack(u64),
}

/// The bytes are none of an entry, or the machine is not the one they were written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an entry of this journal")]
pub struct Unfit;

impl From<Full> for Unfit {
    fn from(_: Full) -> Self {
        Unfit
    }
}

/// Appends the bytes of an entry.
pub fn write(out: &mut Vec<u8>, now_us: u64, change: Change<'_>, head: &Head<'_>, lines: &[Line]) {
    put_u64(out, now_us);
    match change {
        Change::Reserve => out.push(b'r'),
        Change::Renew => out.push(b'n'),
        Change::Reset => out.push(b'0'),
        Change::SetBack(ms) => {
            out.push(b'b');
            put_u64(out, ms);
        }
        Change::Finish(Finish::RollBack(speaker)) => {
            out.push(b'x');
            match speaker {
                Speaker::Attempt(attempt) => put_u64(out, attempt.0),
                Speaker::Stream => put_u64(out, 0),
            }
            out.push(u8::from(matches!(speaker, Speaker::Stream)));
        }
        Change::Finish(Finish::Settle(actual)) => {
            out.push(b'c');
            put_len(out, actual.len());
            actual.iter().for_each(|amount| put_u64(out, *amount));
        }
    }
    put_text(out, head.id);
    for number in [head.digest, head.attempt.0, head.hold_ms, head.grace_ms] {
        put_u64(out, number);
    }
    put_len(out, lines.len());
    lines.iter().for_each(|line| write_line(out, line));
}

/// Applies the entry to the machine as it was applied when it was written, and tells its time, µs.
///
/// # Errors
/// [`Unfit`] if the bytes are no entry, or change nothing: then this is not the machine that they once changed.
pub fn apply(bytes: &[u8], machine: &mut Machine) -> Result<u64, Unfit> {
    let mut reader = Reader(bytes);
    let entry = read(&mut reader).filter(|_| reader.is_done()).ok_or(Unfit)?;
    let Read { now_us, change, head, lines } = entry;
    let mut changed = false;
    let note = || {
        changed = true;
        Ok::<(), Unfit>(())
    };
    match change {
        Owned::Finish(how) => {
            machine.finish(&head, &lines, &how, now_us, note)?;
        }
        Owned::Renew => {
            machine.renew(&head, &lines, now_us, note)?;
        }
        Owned::Reserve => {
            machine.reserve(&head, &lines, now_us, note)?;
        }
        Owned::Reset => machine.reset(&lines, note)?,
        Owned::SetBack(ms) => {
            machine.set_back(ms);
            changed = true;
        }
    }
    if changed { Ok(now_us) } else { Err(Unfit) }
}

enum Owned {
    Finish(Finish),
    Renew,
    Reserve,
    Reset,
    SetBack(u64),
}

struct Read<'a> {
    now_us: u64,
    change: Owned,
    head: Head<'a>,
    lines: Vec<Line>,
}

fn read<'a>(reader: &mut Reader<'a>) -> Option<Read<'a>> {
    let now_us = reader.u64()?;
    let change = match reader.u8()? {
        b'r' => Owned::Reserve,
        b'n' => Owned::Renew,
        b'0' => Owned::Reset,
        b'b' => Owned::SetBack(reader.u64()?),
        b'x' => {
            let attempt = Attempt(reader.u64()?);
            let speaker = if reader.u8()? == 1 { Speaker::Stream } else { Speaker::Attempt(attempt) };
            Owned::Finish(Finish::RollBack(speaker))
        }
        b'c' => Owned::Finish(Finish::Settle(reader.list(Reader::u64)?.into())),
        _ => return None,
    };
    let id = reader.text()?;
    let (digest, attempt) = (reader.u64()?, Attempt(reader.u64()?));
    let head = Head { id, digest, attempt, hold_ms: reader.u64()?, grace_ms: reader.u64()? };
    // People look into stores, not into journals.
    let label: Arc<str> = Arc::from("");
    let lines = reader.list(|reader| read_line(reader, &label))?;
    Some(Read { now_us, change, head, lines })
}

fn write_line(out: &mut Vec<u8>, line: &Line) {
    put_u128(out, line.counter.0);
    match line.span {
        Span::Calendar { start_ms, end_ms, next_end_ms } => {
            out.push(b'c');
            [start_ms, end_ms, next_end_ms].into_iter().for_each(|ms| put_u64(out, ms));
        }
        Span::InFlight { lease_ms } => {
            out.push(b'f');
            put_u64(out, lease_ms);
        }
        Span::Lifetime { idle_ms } => {
            out.push(b'l');
            put_u64(out, idle_ms);
        }
        Span::Rolling { bucket_ms, buckets } => {
            out.push(b'r');
            [bucket_ms, buckets].into_iter().for_each(|number| put_u64(out, number));
        }
        Span::Streak { fingerprint, idle_ms } => {
            out.push(b's');
            out.extend_from_slice(&fingerprint.0);
            put_u64(out, idle_ms);
        }
        Span::TokenBucket { interval_us, burst_us } => {
            out.push(b'g');
            [interval_us, burst_us].into_iter().for_each(|us| put_u64(out, us));
        }
    }
    let mode = match line.mode {
        Mode::Attempt => b'a',
        Mode::Consume => b'c',
        Mode::Gate => b'g',
        Mode::Track => b't',
    };
    out.extend_from_slice(&[mode, u8::from(line.release)]);
    put_u64(out, line.amount);
    put_u64(out, line.max);
}

fn read_line(reader: &mut Reader<'_>, label: &Arc<str>) -> Option<Line> {
    let counter = CounterId(reader.u128()?);
    let span = match reader.u8()? {
        b'c' => Span::Calendar { start_ms: reader.u64()?, end_ms: reader.u64()?, next_end_ms: reader.u64()? },
        b'f' => Span::InFlight { lease_ms: reader.u64()? },
        b'l' => Span::Lifetime { idle_ms: reader.u64()? },
        b'r' => Span::Rolling { bucket_ms: reader.u64()?, buckets: reader.u64()? },
        b's' => Span::Streak { fingerprint: Fingerprint(reader.bytes_16()?), idle_ms: reader.u64()? },
        b'g' => Span::TokenBucket { interval_us: reader.u64()?, burst_us: reader.u64()? },
        _ => return None,
    };
    let mode = match reader.u8()? {
        b'a' => Mode::Attempt,
        b'c' => Mode::Consume,
        b'g' => Mode::Gate,
        b't' => Mode::Track,
        _ => return None,
    };
    let release = reader.u8()? == 1;
    let (amount, max) = (reader.u64()?, reader.u64()?);
    // Fences and losses are the affair of stores that several processes share.
    Some(Line { counter, label: Arc::clone(label), span, mode, amount, max, strict: false, release })
}
