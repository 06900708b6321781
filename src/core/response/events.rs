//! A stream of events: each is judged as it ends, and holds no other one back.

use std::borrow::Cow;
use std::sync::Arc;

use super::{
    Report, Step, Withheld,
    judge::{Judge, Pass, Place, Role, Ruling, Verdict},
};
use crate::{
    pins::{Sighting, View},
    sse::{self, Event, Piece, Splitter},
};

/// What stands in the place of an event that nobody waits for.
const WITHHELD: &str = ": withheld";
/// What an answer of ours begins with.
const DATA: &str = "data: ";

/// A stream, as far as it has come.
#[derive(Debug)]
pub(super) struct Events {
    splitter: Splitter,
    /// Whether nothing has come yet: a byte order mark may.
    is_first: bool,
    /// Whether an answer was dropped that the request may be waiting for.
    is_lost: bool,
    is_ended: bool,
    /// An event that waits for the pins.
    waiting: Option<Waiting>,
}

/// An event that waits, what goes out before it, and what came after it.
#[derive(Debug)]
struct Waiting {
    before: Vec<u8>,
    event: Vec<u8>,
    place: InStream,
    rest: Vec<u8>,
    is_end: bool,
}

/// Where a piece stands in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InStream {
    is_first: bool,
    /// Left over at the end, without the empty line that would end it.
    is_left: bool,
}

/// What goes out for a chunk: the beginning of the chunk itself, as long as nothing differs.
struct Out<'c> {
    chunk: &'c [u8],
    same: usize,
    bytes: Option<Vec<u8>>,
}

impl<'c> Out<'c> {
    fn pass(&mut self, piece: Cow<'c, [u8]>) {
        let rest = self.chunk.get(self.same..).unwrap_or_default();
        match (&self.bytes, piece) {
            // Not if something before it was left out: then the piece stands where something else stood.
            (None, Cow::Borrowed(piece)) if rest.as_ptr() == piece.as_ptr() => {
                self.same = self.same.saturating_add(piece.len());
            }
            (_, piece) => self.push(&piece),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let so_far = self.chunk.get(..self.same).unwrap_or_default();
        self.bytes.get_or_insert_with(|| so_far.to_vec()).extend_from_slice(bytes);
    }

    /// The same for bytes that nobody else needs: they are not copied if they are the first.
    fn put(&mut self, bytes: Vec<u8>) {
        if self.bytes.is_none() && self.same == 0 {
            self.bytes = Some(bytes);
        } else {
            self.push(&bytes);
        }
    }

    fn step(self) -> Step {
        if self.bytes.is_none() && self.same == self.chunk.len() {
            return Step::Same;
        }
        Step::of(self.chunk, self.into_bytes())
    }

    fn into_bytes(self) -> Vec<u8> {
        self.bytes.unwrap_or_else(|| self.chunk.get(..self.same).unwrap_or_default().to_vec())
    }
}

impl Events {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { splitter: Splitter::new(bytes_max), is_first: true, is_lost: false, is_ended: false, waiting: None }
    }

    pub(super) fn held_bytes(&self) -> usize {
        let waiting = self.waiting.as_ref().map_or(0, |waiting| {
            waiting.event.len().saturating_add(waiting.before.len()).saturating_add(waiting.rest.len())
        });
        self.splitter.held_bytes().saturating_add(waiting)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_ended && self.waiting.is_none()
    }

    pub(super) fn chunk(&mut self, chunk: &[u8], is_end: bool, judge: &mut Judge, report: &mut Report) -> Step {
        if let Some(waiting) = &mut self.waiting {
            // The caller went on without the pins: the list is lost, and nothing else.
            waiting.rest.extend_from_slice(chunk);
            waiting.is_end |= is_end;
            return self.recorded(None, judge, report);
        }
        self.run(Out { chunk, same: 0, bytes: None }, chunk, is_end, judge, report)
    }

    pub(super) fn recorded(&mut self, pins: Option<View>, judge: &mut Judge, report: &mut Report) -> Step {
        let Some(Waiting { before, event, place, rest, is_end }) = self.waiting.take() else {
            return Step::Bytes(Vec::new());
        };
        let mut out = Out { chunk: &[], same: 0, bytes: Some(before) };
        let fate = if let Some(pins) = pins {
            judge.job.pins = Some(pins);
            self.event(&event, place, Pass::Recorded, judge, report)
        } else {
            let read = Event::read(&event, place.is_first).ok().filter(|_| !place.is_left);
            let loss = Loss { why: Withheld::Pins, words: None, role: Role::Answer };
            Fate::Replaced(self.lose(&loss, read.as_ref(), &event, judge, report))
        };
        match fate {
            Fate::Passes => out.push(&event),
            // Nothing can be observed any more: what is still not known was lost.
            Fate::Record(_) => {}
            Fate::Replaced(bytes) => out.push(&bytes),
        }
        self.run(out, &rest, is_end, judge, report)
    }

    pub(super) fn give_up(&mut self, judge: &mut Judge, report: &mut Report) -> Step {
        let mut out = Out { chunk: &[], same: 0, bytes: Some(Vec::new()) };
        while self.waiting.is_some() {
            if let Step::Bytes(bytes) = self.recorded(None, judge, report) {
                out.push(&bytes);
            }
        }
        if self.splitter.give_up() {
            let loss = Loss { why: Withheld::Size, words: None, role: Role::Unread };
            out.push(&self.lose(&loss, None, &[], judge, report));
        }
        Step::Bytes(out.into_bytes())
    }

    /// Takes every piece of the input; after the last one, what is left at the end of the stream.
    fn run<'c>(
        &mut self,
        mut out: Out<'c>,
        mut input: &'c [u8],
        is_end: bool,
        judge: &mut Judge,
        report: &mut Report,
    ) -> Step {
        while let Some((piece, is_left)) = self.next(&mut input, is_end) {
            let place = InStream { is_first: std::mem::take(&mut self.is_first), is_left };
            let raw = match piece {
                Piece::Gone => continue,
                Piece::TooLong(beginning) => {
                    let loss = Loss { why: Withheld::Size, words: None, role: Role::Unread };
                    out.push(&self.lose(&loss, None, &beginning, judge, report));
                    continue;
                }
                Piece::Whole(raw) => raw,
            };
            match self.event(&raw, place, Pass::First, judge, report) {
                Fate::Passes => out.pass(raw),
                Fate::Record(sighting) => {
                    let (before, event, rest) = (out.into_bytes(), raw.into_owned(), input.to_vec());
                    self.waiting = Some(Waiting { before, event, place, rest, is_end });
                    return Step::Record(sighting);
                }
                Fate::Replaced(bytes) => out.put(bytes),
            }
            if is_left && self.is_lost && !judge.is_answered {
                // What is left has no end of its own, and what follows must not become part of it.
                out.push(b"\n\n");
            }
        }
        if is_end {
            self.is_ended = true;
            if self.is_lost && !judge.is_answered {
                let text = judge.withheld(Withheld::Shape, None, report);
                judge.is_answered = true;
                out.push(&sse::write(DATA, &text, &[]));
            }
        }
        out.step()
    }

    fn next<'c>(&mut self, input: &mut &'c [u8], is_end: bool) -> Option<(Piece<'c>, bool)> {
        if let Some(piece) = self.splitter.next(input) {
            return Some((piece, false));
        }
        let left: Option<Piece<'c>> = if is_end { self.splitter.end() } else { None };
        left.map(|piece| (piece, true))
    }

    /// Judges one event.
    fn event(&mut self, raw: &[u8], place: InStream, pass: Pass, judge: &mut Judge, report: &mut Report) -> Fate {
        let Ok(event) = Event::read(raw, place.is_first) else {
            let loss = Loss { why: Withheld::Events, words: None, role: Role::Unread };
            return Fate::Replaced(self.lose(&loss, None, raw, judge, report));
        };
        let Some(data) = event.data.as_deref().filter(|_| !event.is_empty()) else { return Fate::Passes };
        let Verdict { role, ruling } = judge.message(data, Place::Event, pass, report);
        match ruling {
            Ruling::Changed(text) => {
                let line = sse::one_line(&text);
                judge.leaves(role, line.as_bytes(), report);
                Fate::Replaced(event.replace(DATA, &line))
            }
            Ruling::Record(sighting) => Fate::Record(sighting),
            Ruling::Same => {
                judge.leaves(role, data, report);
                Fate::Passes
            }
            Ruling::Withhold(why, words) => {
                // Nobody takes an event of another type for an answer.
                let role = if role == Role::Unread && !event.is_message { Role::Other } else { role };
                let like = Some(&event).filter(|_| !place.is_left);
                Fate::Replaced(self.lose(&Loss { why, words, role }, like, raw, judge, report))
            }
        }
    }

    /// What goes out in the place of an event that may not pass: an answer if the request may be waiting for this one.
    fn lose(
        &mut self,
        loss: &Loss,
        event: Option<&Event<'_>>,
        raw: &[u8],
        judge: &mut Judge,
        report: &mut Report,
    ) -> Vec<u8> {
        if judge.only_records() {
            report.unread.get_or_insert(loss.why);
            return Vec::new();
        }
        let may_be_answer = matches!(loss.role, Role::Answer | Role::Unread);
        let (name, value) = if may_be_answer && judge.waits() && !judge.is_answered {
            judge.is_answered = true;
            (DATA, judge.withheld(loss.why, loss.words.as_deref(), report))
        } else {
            self.is_lost |= loss.role == Role::Stray && !judge.is_answered;
            report.dropped = report.dropped.saturating_add(1);
            report.withheld.get_or_insert(loss.why);
            (WITHHELD, String::new())
        };
        event.map_or_else(|| sse::write(name, &value, raw), |event| event.replace(name, &value))
    }
}

/// What becomes of an event.
enum Fate {
    Passes,
    Record(Sighting),
    Replaced(Vec<u8>),
}

/// An event that may not pass.
struct Loss {
    why: Withheld,
    words: Option<Arc<str>>,
    role: Role,
}
