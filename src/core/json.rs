//! The one strict reading of a JSON text.
//!
//! Owns syntax only: what a member means is for `mcp`. Our own scanner rather than `serde_json`, because in the decision
//! path three things count that a general parser does not give: equal member names are refused at every depth *after*
//! unescaping (JavaScript, Python and serde_json keep the last, others the first, so two parsers would read two calls),
//! numbers stay text (no value passes through f64), and every value keeps its span, so that ids are echoed byte for byte.
//! It also costs a third of building a value tree. The scanner is iterative: depth never becomes stack.

use std::borrow::Cow;

use crate::decision::Reason;

/// Bounds on one text.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of text.
    pub bytes_max: usize,
    /// Nested arrays and objects; the top level counts as one.
    pub depth_max: usize,
    /// Values in all, members and elements included.
    pub nodes_max: usize,
}

impl Default for Limits {
    /// 1 MiB, 64 levels, 100,000 values.
    fn default() -> Self {
        Self { bytes_max: 1_048_576, depth_max: 64, nodes_max: 100_000 }
    }
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonDefect {
    /// A control character in a member name.
    #[error("control character in a member name")]
    Control,
    /// Nested too deep.
    #[error("nested too deep")]
    Depth,
    /// Two members of one object have the same name.
    #[error("duplicate member name")]
    DuplicateKey,
    /// No text, or white space only.
    #[error("empty")]
    Empty,
    /// Too many values.
    #[error("too many values")]
    Nodes,
    /// Longer than the limit.
    #[error("too large")]
    Size,
    /// Not JSON.
    #[error("not JSON")]
    Syntax,
    /// The text ends in the middle of a value.
    #[error("ends in the middle of a value")]
    Truncated,
    /// Not UTF-8, a byte order mark, or a lone surrogate.
    #[error("not UTF-8 text")]
    Utf8,
}

/// A refusal to read a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{defect} at byte {offset}")]
pub struct JsonError {
    /// What is wrong.
    pub defect: JsonDefect,
    /// Where, in bytes from the start.
    pub offset: usize,
}

impl JsonDefect {
    /// The reason under which a request with this defect is refused.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            JsonDefect::Control => Reason::MalformedControl,
            JsonDefect::Depth => Reason::MalformedDepth,
            JsonDefect::DuplicateKey => Reason::MalformedDupKey,
            JsonDefect::Empty => Reason::MalformedEmpty,
            JsonDefect::Nodes => Reason::MalformedNodes,
            JsonDefect::Size => Reason::MalformedSize,
            JsonDefect::Syntax | JsonDefect::Truncated => Reason::MalformedJson,
            JsonDefect::Utf8 => Reason::MalformedUtf8,
        }
    }
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[…]`
    Array,
    /// `false`
    False,
    /// `null`
    Null,
    /// A number.
    Number,
    /// `{…}`
    Object,
    /// A string.
    String,
    /// `true`
    True,
}

impl Kind {
    /// The JSON name of the type: `array`, `boolean`, `null`, `number`, `object` or `string`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Array => "array",
            Kind::False | Kind::True => "boolean",
            Kind::Null => "null",
            Kind::Number => "number",
            Kind::Object => "object",
            Kind::String => "string",
        }
    }
}

/// A span of the text. `escaped` says that it is a string with at least one escape sequence.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
    escaped: bool,
}

/// One value. Nodes stand in document order; `next` is the index after the last node of the subtree.
#[derive(Clone, Copy, Debug)]
struct Node {
    kind: Kind,
    /// Member name without its quotes, for the members of an object.
    key: Span,
    /// The value: without its quotes for a string, with its brackets for a container.
    value: Span,
    next: u32,
    /// Members or elements.
    children: u32,
}

/// A text that was read to its end and refused nothing.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    nodes: Vec<Node>,
}

/// One value of a document.
#[derive(Clone, Copy, Debug)]
pub struct Value<'d> {
    document: &'d Document<'d>,
    index: u32,
}

impl<'a> Document<'a> {
    /// Reads the whole text: exactly one value, with white space around it at most.
    ///
    /// # Errors
    /// The first defect and its byte offset.
    pub fn parse(bytes: &'a [u8], limits: Limits) -> Result<Self, JsonError> {
        Self::scan(bytes, limits, EqualNames::Refused)
    }

    /// Like [`Document::parse`], but keeps members with equal names, for a caller that refuses them itself and wants to
    /// tell of all of them. Never for a request.
    pub(crate) fn parse_with_equal_names(bytes: &'a [u8], limits: Limits) -> Result<Self, JsonError> {
        Self::scan(bytes, limits, EqualNames::Kept)
    }

    fn scan(bytes: &'a [u8], limits: Limits, equal_names: EqualNames) -> Result<Self, JsonError> {
        // Spans are 32-bit; a text beyond that is over any limit an operator can set.
        if bytes.len() > limits.bytes_max || u32::try_from(bytes.len()).is_err() {
            return Err(JsonError { defect: JsonDefect::Size, offset: limits.bytes_max });
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| JsonError { defect: JsonDefect::Utf8, offset: error.valid_up_to() })?;
        if text.starts_with('\u{feff}') {
            return Err(JsonError { defect: JsonDefect::Utf8, offset: 0 });
        }
        let (nodes, open) = (Vec::with_capacity(32), Vec::with_capacity(8));
        let mut scanner = Scanner { text, bytes, at: 0, nodes, open, limits, equal_names };
        scanner.run()?;
        Ok(Self { text, nodes: scanner.nodes })
    }

    /// The top-level value.
    #[must_use]
    pub fn root(&'a self) -> Value<'a> {
        Value { document: self, index: 0 }
    }

    /// The whole text, white space included.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Bytes of the whole text, white space included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    fn slice(&self, span: Span) -> &str {
        // INVARIANT: the scanner cuts spans at ASCII bytes only, so they are always character boundaries.
        self.text.get(widen(span.start)..widen(span.end)).unwrap_or_default()
    }
}

impl<'d> Value<'d> {
    fn node(self) -> Node {
        // INVARIANT: indexes come from the scanner or from `next` links; an impossible one reads as null, which no rule
        // accepts.
        self.document.nodes.get(widen(self.index)).copied().unwrap_or(Node {
            kind: Kind::Null,
            key: Span::default(),
            value: Span::default(),
            next: self.index.saturating_add(1),
            children: 0,
        })
    }

    /// The type.
    #[must_use]
    pub fn kind(self) -> Kind {
        self.node().kind
    }

    /// The exact text: a string without its quotes and still escaped, a container with its brackets.
    #[must_use]
    pub fn raw(self) -> &'d str {
        self.document.slice(self.node().value)
    }

    /// The exact text as it stands in the document, quotes included.
    #[must_use]
    pub fn source(self) -> &'d str {
        let node = self.node();
        let mut span = node.value;
        if node.kind == Kind::String {
            span.start = span.start.saturating_sub(1);
            span.end = span.end.saturating_add(1);
        }
        self.document.slice(span)
    }

    /// Where the value stands in the text, quotes included.
    #[must_use]
    pub fn range(self) -> std::ops::Range<usize> {
        let node = self.node();
        let quote = usize::from(node.kind == Kind::String);
        widen(node.value.start).saturating_sub(quote)..widen(node.value.end).saturating_add(quote)
    }

    /// Byte offset of the value in the text.
    #[must_use]
    pub fn offset(self) -> usize {
        widen(self.node().value.start)
    }

    /// The text of a string, unescaped.
    #[must_use]
    pub fn as_str(self) -> Option<Cow<'d, str>> {
        let node = self.node();
        (node.kind == Kind::String).then(|| unescape(self.document.slice(node.value), node.value.escaped))
    }

    /// A boolean.
    #[must_use]
    pub fn as_bool(self) -> Option<bool> {
        match self.kind() {
            Kind::True => Some(true),
            Kind::False => Some(false),
            Kind::Array | Kind::Null | Kind::Number | Kind::Object | Kind::String => None,
        }
    }

    /// The literal of a number, exactly as written.
    #[must_use]
    pub fn number_text(self) -> Option<&'d str> {
        (self.kind() == Kind::Number).then(|| self.raw())
    }

    /// Members or elements; zero for a scalar.
    #[must_use]
    pub fn len(self) -> usize {
        widen(self.node().children)
    }

    /// No members and no elements.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The member of that name; `None` for a missing one and for a value that is no object.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Value<'d>> {
        self.members().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The members of an object in document order; nothing for another type.
    #[must_use]
    pub fn members(self) -> Members<'d> {
        let node = self.node();
        let left = if node.kind == Kind::Object { node.children } else { 0 };
        Members { document: self.document, index: self.index.saturating_add(1), left }
    }

    /// The elements of an array in document order; nothing for another type.
    #[must_use]
    pub fn elements(self) -> Elements<'d> {
        let node = self.node();
        let left = if node.kind == Kind::Array { node.children } else { 0 };
        Elements(Members { document: self.document, index: self.index.saturating_add(1), left })
    }
}

/// Iterator over members: name, value.
#[derive(Clone, Debug)]
pub struct Members<'d> {
    document: &'d Document<'d>,
    index: u32,
    left: u32,
}

impl<'d> Iterator for Members<'d> {
    type Item = (Cow<'d, str>, Value<'d>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let value = Value { document: self.document, index: self.index };
        let node = value.node();
        self.index = node.next;
        Some((unescape(self.document.slice(node.key), node.key.escaped), value))
    }
}

/// Iterator over elements.
#[derive(Clone, Debug)]
pub struct Elements<'d>(Members<'d>);

impl<'d> Iterator for Elements<'d> {
    type Item = Value<'d>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(_, value)| value)
    }
}

// === impl Scanner ===

/// What becomes of an object two of whose members have one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EqualNames {
    Kept,
    Refused,
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    /// Indexes of the containers that are open, outermost first.
    open: Vec<u32>,
    limits: Limits,
    equal_names: EqualNames,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), JsonError> {
        self.space();
        if self.peek().is_none() {
            return self.fail(JsonDefect::Empty);
        }
        let mut key = Span::default();
        loop {
            let opened = self.value(key)?;
            // After a value: close what ends here, then find the next value's place.
            let mut fresh = opened;
            loop {
                let Some(&parent) = self.open.last() else { return self.end() };
                self.space();
                let object = self.nodes.get(widen(parent)).is_some_and(|node| node.kind == Kind::Object);
                match (self.peek(), object) {
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.bump();
                        self.close(parent, object)?;
                        fresh = false;
                    }
                    (Some(_), _) if fresh => {
                        key = self.member_start(object)?;
                        break;
                    }
                    (Some(b','), _) => {
                        self.bump();
                        self.space();
                        key = self.member_start(object)?;
                        break;
                    }
                    (Some(_), _) => return self.fail(JsonDefect::Syntax),
                    (None, _) => return self.fail(JsonDefect::Truncated),
                }
            }
        }
    }

    /// Nothing but white space may follow the top-level value.
    fn end(&mut self) -> Result<(), JsonError> {
        self.space();
        if self.peek().is_some() { self.fail(JsonDefect::Syntax) } else { Ok(()) }
    }

    /// Reads `"name" :` in an object; counts the child in both kinds of container.
    fn member_start(&mut self, object: bool) -> Result<Span, JsonError> {
        if let Some(node) = self.open.last().copied().and_then(|parent| self.nodes.get_mut(widen(parent))) {
            node.children = node.children.saturating_add(1);
        }
        if !object {
            return Ok(Span::default());
        }
        match self.peek() {
            Some(b'"') => {}
            Some(_) => return self.fail(JsonDefect::Syntax),
            None => return self.fail(JsonDefect::Truncated),
        }
        let key = self.string()?;
        // Parsers exist that end a name at NUL; no tool needs a control character in one.
        let plain = !key.escaped && self.cut(key).bytes().all(|b| b < 0x7f);
        if !plain && unescape(self.cut(key), key.escaped).chars().any(char::is_control) {
            return Err(JsonError { defect: JsonDefect::Control, offset: widen(key.start) });
        }
        self.space();
        match self.peek() {
            Some(b':') => self.bump(),
            Some(_) => return self.fail(JsonDefect::Syntax),
            None => return self.fail(JsonDefect::Truncated),
        }
        self.space();
        Ok(key)
    }

    /// Reads a scalar or the opening bracket of a container; says whether a container was opened.
    fn value(&mut self, key: Span) -> Result<bool, JsonError> {
        if self.nodes.len() >= self.limits.nodes_max {
            return self.fail(JsonDefect::Nodes);
        }
        let start = self.position();
        let (kind, value, opened) = match self.peek() {
            None => return self.fail(JsonDefect::Truncated),
            Some(b'"') => (Kind::String, self.string()?, false),
            Some(b'{') => (Kind::Object, self.open()?, true),
            Some(b'[') => (Kind::Array, self.open()?, true),
            Some(b't') => (Kind::True, self.literal(b"true")?, false),
            Some(b'f') => (Kind::False, self.literal(b"false")?, false),
            Some(b'n') => (Kind::Null, self.literal(b"null")?, false),
            Some(b'-' | b'0'..=b'9') => (Kind::Number, self.number()?, false),
            Some(_) => return self.fail(JsonDefect::Syntax),
        };
        debug_assert!(value.start >= start, "a value starts where it was seen");
        let index = narrow(self.nodes.len());
        self.nodes.push(Node { kind, key, value, next: index.saturating_add(1), children: 0 });
        if opened {
            self.open.push(index);
        }
        Ok(opened)
    }

    fn open(&mut self) -> Result<Span, JsonError> {
        if self.open.len() >= self.limits.depth_max {
            return self.fail(JsonDefect::Depth);
        }
        let start = self.position();
        self.bump();
        Ok(Span { start, end: start, escaped: false })
    }

    fn close(&mut self, index: u32, object: bool) -> Result<(), JsonError> {
        self.open.pop();
        if object && self.equal_names == EqualNames::Refused {
            self.refuse_equal_names(index)?;
        }
        let (end, next) = (self.position(), narrow(self.nodes.len()));
        if let Some(node) = self.nodes.get_mut(widen(index)) {
            node.value.end = end;
            node.next = next;
        }
        Ok(())
    }

    /// Refuses an object two of whose members have one name, compared after unescaping.
    fn refuse_equal_names(&self, index: u32) -> Result<(), JsonError> {
        /// Up to this many members comparing all pairs is cheaper than sorting.
        const PAIRS_MAX: usize = 8;
        let first = index.saturating_add(1);
        let count = self.nodes.get(widen(index)).map_or(0, |node| widen(node.children));
        if count < 2 {
            return Ok(());
        }
        let keys = ChildKeys { scanner: self, index: first, left: count };
        if count <= PAIRS_MAX && keys.clone().all(|key| !key.escaped) {
            let mut rest = keys;
            while let Some(key) = rest.next() {
                if rest.clone().any(|other| self.cut(other) == self.cut(key)) {
                    return Err(JsonError { defect: JsonDefect::DuplicateKey, offset: widen(key.start) });
                }
            }
            return Ok(());
        }
        let mut names: Vec<(Cow<'_, str>, u32)> =
            keys.map(|key| (unescape(self.cut(key), key.escaped), key.start)).collect();
        names.sort_unstable();
        let twin = names.windows(2).find_map(|pair| match pair {
            [(a, _), (b, offset)] if a == b => Some(*offset),
            _ => None,
        });
        twin.map_or(Ok(()), |offset| Err(JsonError { defect: JsonDefect::DuplicateKey, offset: widen(offset) }))
    }

    /// Reads a string; the span excludes the quotes.
    fn string(&mut self) -> Result<Span, JsonError> {
        self.bump();
        let start = self.position();
        let mut escaped = false;
        loop {
            self.at = self.at.saturating_add(plain_prefix(self.bytes.get(self.at..).unwrap_or_default()));
            match self.peek() {
                Some(b'"') => {
                    let span = Span { start, end: self.position(), escaped };
                    self.bump();
                    return Ok(span);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.fail(JsonDefect::Syntax),
                None => return self.fail(JsonDefect::Truncated),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        self.bump();
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.bump();
                Ok(())
            }
            Some(b'u') => {
                self.bump();
                match self.hex()? {
                    0xd800..=0xdbff => {
                        // A high half must be followed by an escaped low half.
                        if self.peek() != Some(b'\\') || self.bytes.get(self.at.saturating_add(1)) != Some(&b'u') {
                            return self.fail(JsonDefect::Utf8);
                        }
                        self.bump();
                        self.bump();
                        match self.hex()? {
                            0xdc00..=0xdfff => Ok(()),
                            _ => self.fail(JsonDefect::Utf8),
                        }
                    }
                    0xdc00..=0xdfff => self.fail(JsonDefect::Utf8),
                    _ => Ok(()),
                }
            }
            Some(_) => self.fail(JsonDefect::Syntax),
            None => self.fail(JsonDefect::Truncated),
        }
    }

    fn hex(&mut self) -> Result<u32, JsonError> {
        let mut value = 0u32;
        for _ in 0..4 {
            let Some(byte) = self.peek() else { return self.fail(JsonDefect::Truncated) };
            let Some(digit) = char::from(byte).to_digit(16) else { return self.fail(JsonDefect::Syntax) };
            value = value.wrapping_shl(4) | digit;
            self.bump();
        }
        Ok(value)
    }

    fn literal(&mut self, word: &[u8]) -> Result<Span, JsonError> {
        let start = self.position();
        for expected in word {
            match self.peek() {
                Some(byte) if byte == *expected => self.bump(),
                Some(_) => return self.fail(JsonDefect::Syntax),
                None => return self.fail(JsonDefect::Truncated),
            }
        }
        Ok(Span { start, end: self.position(), escaped: false })
    }

    /// RFC 8259 section 6: no leading zero, no plus sign, digits on both sides of the point.
    fn number(&mut self) -> Result<Span, JsonError> {
        let start = self.position();
        if self.peek() == Some(b'-') {
            self.bump();
        }
        if self.peek() == Some(b'0') {
            self.bump();
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.bump();
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.bump();
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.bump();
            }
            self.digits()?;
        }
        Ok(Span { start, end: self.position(), escaped: false })
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len()) {
            0 if rest.is_empty() => self.fail(JsonDefect::Truncated),
            0 => self.fail(JsonDefect::Syntax),
            count => {
                self.at = self.at.saturating_add(count);
                Ok(())
            }
        }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.bump();
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn bump(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn position(&self) -> u32 {
        narrow(self.at)
    }

    fn cut(&self, span: Span) -> &str {
        self.text.get(widen(span.start)..widen(span.end)).unwrap_or_default()
    }

    fn fail<T>(&self, defect: JsonDefect) -> Result<T, JsonError> {
        Err(JsonError { defect, offset: self.at })
    }
}

/// The member names of one object while it is still being read.
#[derive(Clone)]
struct ChildKeys<'s, 'a> {
    scanner: &'s Scanner<'a>,
    index: u32,
    left: usize,
}

impl Iterator for ChildKeys<'_, '_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        self.left = self.left.checked_sub(1)?;
        let node = self.scanner.nodes.get(widen(self.index))?;
        self.index = node.next;
        Some(node.key)
    }
}

/// Length of the prefix without quote, backslash or control character, eight bytes at a time.
fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Zero-byte test on each lane. A borrow runs into higher lanes only, so the lowest lane that is marked is exact.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut done = 0usize;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let quote = zero(word ^ ONES.wrapping_mul(0x22));
        let backslash = zero(word ^ ONES.wrapping_mul(0x5c));
        let control = word.wrapping_sub(ONES.wrapping_mul(0x20)) & !word & HIGHS;
        let stops = quote | backslash | control;
        if stops != 0 {
            return done.saturating_add(widen(stops.trailing_zeros() / 8));
        }
        done = done.saturating_add(8);
    }
    let tail = rest.iter().position(|b| matches!(b, b'"' | b'\\') || *b < 0x20).unwrap_or(rest.len());
    done.saturating_add(tail)
}

/// Undoes the escapes of a string that the scanner accepted.
fn unescape(text: &str, escaped: bool) -> Cow<'_, str> {
    if !escaped {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut left = text;
    while let Some((plain, escape)) = left.split_once('\\') {
        out.push_str(plain);
        let mut rest = escape.chars();
        match rest.next() {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                let mut unit = || {
                    (0..4).fold(0u32, |n, _| n.wrapping_shl(4) | rest.next().and_then(|c| c.to_digit(16)).unwrap_or(0))
                };
                let first = unit();
                let code = if (0xd800..=0xdbff).contains(&first) {
                    rest.nth(1);
                    let second = (0..4)
                        .fold(0u32, |n, _| n.wrapping_shl(4) | rest.next().and_then(|c| c.to_digit(16)).unwrap_or(0));
                    0x1_0000u32.wrapping_add((first & 0x3ff).wrapping_shl(10)).wrapping_add(second & 0x3ff)
                } else {
                    first
                };
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
        left = rest.as_str();
    }
    out.push_str(left);
    Cow::Owned(out)
}

/// Lossless: the parser refuses a text whose offsets do not fit 32 bits.
fn narrow(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Lossless on every platform this builds for.
fn widen(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
