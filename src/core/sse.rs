//! A stream of server-sent events, cut into pieces that can be judged one by one.
//!
//! Owns the framing of WHATWG HTML section 9.2.6 only; what `data` means is the caller's. Every byte of the stream is in exactly
//! one piece, in order, so that what is not changed leaves as it came. Where a reader exists that would cut the bytes otherwise
//! than the standard does, the event is [`Odd`]: nobody may see `data` there that was not judged.

use std::{borrow::Cow, ops::Range};

/// What a stream cannot begin with twice: the mark is dropped by some readers and kept by others.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The next part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'i> {
    /// An event with the empty line that ends it, a comment line, an empty line; or, at the end of the stream, what is left.
    Whole(Cow<'i, [u8]>),
    /// The rest of an event that was too long: it is gone.
    Gone,
    /// An event that is longer than the limit: how it began. Its other bytes are gone.
    TooLong(Cow<'i, [u8]>),
}

/// Cuts a stream into pieces, at whatever place its chunks were cut. Keeps the event under way, and no more than the limit of it.
#[derive(Debug)]
pub struct Splitter {
    held: Vec<u8>,
    bytes_max: usize,
    /// Bytes of the event under way, and of its last line so far.
    event: usize,
    line: usize,
    /// Whether the line under way is a comment, and whether only comments came before it.
    line_is_comment: bool,
    only_comments: bool,
    /// Whether the last byte was a carriage return: a line feed now belongs to it.
    after_return: bool,
    /// Whether the event under way was given up.
    is_gone: bool,
}

impl Splitter {
    /// For events of at most so many bytes, line ends and all fields included.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            held: Vec::new(),
            bytes_max,
            event: 0,
            line: 0,
            line_is_comment: false,
            only_comments: true,
            after_return: false,
            is_gone: false,
        }
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// The next piece that ends in `input`, whose bytes are taken off; `None` once all are taken. Work is linear in the bytes,
    /// whatever the chunks.
    pub fn next<'i>(&mut self, input: &mut &'i [u8]) -> Option<Piece<'i>> {
        let chunk = *input;
        let mut at = 0usize;
        loop {
            let rest = chunk.get(at..).unwrap_or_default();
            let Some(first) = rest.first().copied() else { break };
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                // The second half of a line end that ended something already, unless the line is of an event under way.
                at = at.saturating_add(1);
                self.event = self.event.saturating_add(1);
                if self.event == 1 {
                    self.event = 0;
                    return Some(self.cut(input, at));
                }
                continue;
            }
            if self.line == 0 {
                self.line_is_comment = first == b':';
            }
            let text = line_prefix(rest);
            let ends = rest.get(text);
            let taken = text.saturating_add(usize::from(ends.is_some()));
            at = at.saturating_add(taken);
            self.event = self.event.saturating_add(taken);
            self.line = self.line.saturating_add(text);
            self.after_return = ends == Some(&b'\r');
            if ends.is_none() {
                break;
            }
            let is_empty = self.line == 0;
            self.line = 0;
            self.only_comments &= is_empty || self.line_is_comment;
            if is_empty || self.only_comments {
                self.only_comments = true;
                return Some(self.cut(input, at));
            }
        }
        self.keep(input)
    }

    /// What is left at the end of the stream: an event without its empty line. The standard says that it is not dispatched;
    /// readers exist that do.
    pub fn end(&mut self) -> Option<Piece<'static>> {
        let left = std::mem::take(&mut self.held);
        self.event = 0;
        (!std::mem::take(&mut self.is_gone) && !left.is_empty()).then_some(Piece::Whole(Cow::Owned(left)))
    }

    /// Gives the event under way up; says whether there is one.
    pub fn give_up(&mut self) -> bool {
        let is_under_way = self.event > 0 && !self.is_gone;
        self.is_gone |= is_under_way;
        self.held = Vec::new();
        is_under_way
    }

    /// A piece ends after so many bytes of the input.
    fn cut<'i>(&mut self, input: &mut &'i [u8], at: usize) -> Piece<'i> {
        let (taken, rest) = input.split_at_checked(at).unwrap_or((input, &[]));
        *input = rest;
        self.event = 0;
        if std::mem::take(&mut self.is_gone) {
            self.held = Vec::new();
            return Piece::Gone;
        }
        if self.held.len().saturating_add(taken.len()) > self.bytes_max {
            return Piece::TooLong(self.beginning(taken));
        }
        if self.held.is_empty() {
            return Piece::Whole(Cow::Borrowed(taken));
        }
        self.held.extend_from_slice(taken);
        Piece::Whole(Cow::Owned(std::mem::take(&mut self.held)))
    }

    /// Everything that is left of the input belongs to the event under way.
    fn keep<'i>(&mut self, input: &mut &'i [u8]) -> Option<Piece<'i>> {
        let taken = std::mem::take(input);
        if self.is_gone {
            return None;
        }
        if self.held.len().saturating_add(taken.len()) > self.bytes_max {
            self.is_gone = true;
            return Some(Piece::TooLong(self.beginning(taken)));
        }
        self.held.extend_from_slice(taken);
        None
    }

    /// As much of a long event as the limit allows: the same bytes however it was cut.
    fn beginning<'i>(&mut self, taken: &'i [u8]) -> Cow<'i, [u8]> {
        let room = self.bytes_max.saturating_sub(self.held.len());
        let taken = taken.get(..room).unwrap_or(taken);
        if self.held.is_empty() {
            return Cow::Borrowed(taken);
        }
        self.held.extend_from_slice(taken);
        Cow::Owned(std::mem::take(&mut self.held))
    }
}

/// How many bytes stand before the next line end. The line of a list has a hundred thousand, so 64 at a time are only asked
/// whether they hold one, which the compiler makes a few vector instructions of.
fn line_prefix(bytes: &[u8]) -> usize {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let is_end = |byte: &u8| u8::from(*byte == b'\n') | u8::from(*byte == b'\r');
    let has_end = |block: &&[u8; 64]| block.iter().fold(0, |any, byte| any | is_end(byte)) != 0;
    let plain = blocks.iter().take_while(|block| !has_end(block)).count();
    let last = blocks.get(plain).map_or(rest, |block| block.as_slice());
    let done = plain.saturating_mul(64);
    done.saturating_add(last.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(last.len()))
}

/// An event that two readers could read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Odd;

/// One piece of a stream, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'p> {
    raw: &'p [u8],
    /// Every `data` line with its line end.
    lines: Vec<Range<usize>>,
    /// The values of `data`, joined with line feeds; `None` without such a line.
    pub data: Option<Cow<'p, [u8]>>,
    /// Whether readers of MCP look at it: those of a type other than `message` they leave.
    pub is_message: bool,
}

impl<'p> Event<'p> {
    /// Reads a piece; `is_first` with the first one of a stream, which may begin with a byte order mark.
    ///
    /// # Errors
    /// [`Odd`]: it must not pass.
    pub fn read(raw: &'p [u8], is_first: bool) -> Result<Self, Odd> {
        let mut event = Self { raw, lines: Vec::new(), data: None, is_message: true };
        let mut at = if is_first && raw.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        while let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) {
            let text = line_prefix(rest);
            let line = rest.get(..text).unwrap_or_default();
            let end = match (rest.get(text), rest.get(text.saturating_add(1))) {
                (Some(b'\r'), Some(b'\n')) => 2,
                (Some(_), _) => 1,
                (None, _) => 0,
            };
            let next = at.saturating_add(text).saturating_add(end);
            event.line(line, at..next)?;
            at = next;
        }
        Ok(event)
    }

    fn line(&mut self, line: &'p [u8], place: Range<usize>) -> Result<(), Odd> {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at_checked(colon.unwrap_or(line.len())).unwrap_or((line, &[]));
        let value = value.get(1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if name == b"data" {
            self.lines.push(place);
            self.data = Some(match self.data.take() {
                None => Cow::Borrowed(value),
                Some(before) => {
                    let mut joined = before.into_owned();
                    joined.push(b'\n');
                    joined.extend_from_slice(value);
                    Cow::Owned(joined)
                }
            });
            return Ok(());
        }
        if ends_lines_for_some(line) || is_nearly_data(name) {
            return Err(Odd);
        }
        if name == b"event" {
            self.is_message = matches!(value, b"" | b"message");
        }
        Ok(())
    }

    /// Whether there is nothing in its `data` but white space: a priming event, or one that only sets an id.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.as_ref().is_none_or(|data| data.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\n')))
    }

    /// The piece with one line in the place of its `data` lines, and every other line as it was. `name` is what the line begins
    /// with, and `value` has no line end within ([`one_line`]).
    #[must_use]
    pub fn replace(&self, name: &str, value: &str) -> Vec<u8> {
        let before: usize = self.lines.iter().map(ExactSizeIterator::len).sum();
        let size = self.raw.len().saturating_sub(before).saturating_add(name.len()).saturating_add(value.len());
        let mut out = Vec::with_capacity(size.saturating_add(2));
        let mut done = 0usize;
        for (index, line) in self.lines.iter().enumerate() {
            out.extend_from_slice(self.raw.get(done..line.start).unwrap_or_default());
            if index == 0 {
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(value.as_bytes());
                let line = self.raw.get(line.clone()).unwrap_or_default();
                out.extend_from_slice(line.get(line_prefix(line)..).unwrap_or_default());
            }
            done = line.end;
        }
        out.extend_from_slice(self.raw.get(done..).unwrap_or_default());
        out
    }
}

/// A JSON text on one line: line ends in it can only be white space between its values.
#[must_use]
pub fn one_line(json: &str) -> Cow<'_, str> {
    if line_prefix(json.as_bytes()) < json.len() {
        return Cow::Owned(json.replace(['\n', '\r'], " "));
    }
    Cow::Borrowed(json)
}

/// An event of one line, in the style of the line ends of `like`.
#[must_use]
pub fn write(name: &str, value: &str, like: &[u8]) -> Vec<u8> {
    let at = line_prefix(like);
    let end: &[u8] = match (like.get(at), like.get(at.saturating_add(1))) {
        (Some(b'\r'), Some(b'\n')) => b"\r\n",
        (Some(b'\r'), Some(_)) => b"\r",
        _ => b"\n",
    };
    [name.as_bytes(), value.as_bytes(), end, end].concat()
}

/// Whether a reader exists that ends a line within this one: Python's `splitlines` does at all of these. In `data` they do no
/// harm, since neither part of a JSON text that was cut in two is one.
fn ends_lines_for_some(line: &[u8]) -> bool {
    if line.is_ascii() {
        return line.iter().any(|byte| matches!(byte, 0x0b | 0x0c | 0x1c..=0x1e));
    }
    std::str::from_utf8(line).map_or(true, |line| {
        line.chars().any(|c| matches!(c, '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'))
    })
}

/// Whether a reader that trims or ignores case takes the name for `data`.
fn is_nearly_data(name: &[u8]) -> bool {
    let letters = name.iter().filter(|byte| byte.is_ascii_alphanumeric());
    letters.map(u8::to_ascii_lowercase).eq(*b"data")
}

#[cfg(test)]
mod tests;
