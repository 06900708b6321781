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

/// A span of the text.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

/// The span of a string without its quotes; `escaped` says that it holds at least one escape sequence.
#[derive(Clone, Copy, Debug, Default)]
struct Text {
    span: Span,
    escaped: bool,
}

/// One value. Nodes stand in document order; `next` is the index after the last node of the subtree. A list of tools has some
/// thousands, and writing them is much of what reading costs: hence the flags beside the kind instead of in the spans.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Member name without its quotes, for the members of an object.
    key: Span,
    /// The value: without its quotes for a string, with its brackets for a container.
    value: Span,
    next: u32,
    /// Members or elements.
    children: u32,
    kind: Kind,
    key_escaped: bool,
    value_escaped: bool,
}

impl Node {
    fn key(&self) -> Text {
        Text { span: self.key, escaped: self.key_escaped }
    }
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
        // Messages have a value in some twelve bytes; growing the list in steps would copy most of it twice.
        let nodes = Vec::with_capacity(bytes.len().div_ceil(12).saturating_add(8).min(limits.nodes_max));
        let (open, in_object) = (Vec::with_capacity(8), false);
        let has_plain_names = is_without_controls(bytes);
        let mut scanner = Scanner { text, bytes, at: 0, nodes, open, in_object, limits, equal_names, has_plain_names };
        match scanner.run() {
            Ok(()) => Ok(Self { text, nodes: scanner.nodes }),
            Err(defect) => Err(JsonError { defect, offset: scanner.at }),
        }
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
            key: Span::default(),
            value: Span::default(),
            next: self.index.saturating_add(1),
            children: 0,
            kind: Kind::Null,
            key_escaped: false,
            value_escaped: false,
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
        (node.kind == Kind::String).then(|| unescape(self.document.slice(node.value), node.value_escaped))
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
        let mut members = self.members();
        loop {
            let (node, value) = members.next_node()?;
            let key = self.document.slice(node.key);
            if if node.key_escaped { unescape(key, true) == name } else { key == name } {
                return Some(value);
            }
        }
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

impl<'d> Members<'d> {
    #[inline]
    fn next_node(&mut self) -> Option<(Node, Value<'d>)> {
        self.left = self.left.checked_sub(1)?;
        let value = Value { document: self.document, index: self.index };
        let node = value.node();
        self.index = node.next;
        Some((node, value))
    }
}

impl<'d> Iterator for Members<'d> {
    type Item = (Cow<'d, str>, Value<'d>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (node, value) = self.next_node()?;
        Some((unescape(self.document.slice(node.key), node.key_escaped), value))
    }
}

/// Iterator over elements.
#[derive(Clone, Debug)]
pub struct Elements<'d>(Members<'d>);

impl<'d> Iterator for Elements<'d> {
    type Item = Value<'d>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_node().map(|(_, value)| value)
    }
}

// === impl Scanner ===

/// Up to this many members comparing all pairs is cheaper than sorting.
const PAIRS_MAX: usize = 8;

/// What becomes of an object two of whose members have one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EqualNames {
    Kept,
    Refused,
}

/// A container that is being read.
#[derive(Clone, Copy)]
struct Open {
    index: u32,
    /// Members or elements so far.
    children: u32,
    /// A bit for each name so far, and whether two could be equal: most objects need no closer look.
    names: u64,
    may_repeat: bool,
    is_object: bool,
}

/// The offset of a defect is where the scanner stands: an error of one byte comes back in a register.
type Scan<T> = Result<T, JsonDefect>;

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    /// The containers that are open, outermost first, and whether the innermost is an object.
    open: Vec<Open>,
    in_object: bool,
    limits: Limits,
    equal_names: EqualNames,
    /// Whether no name can hold a control character unless it is escaped.
    has_plain_names: bool,
}

impl Scanner<'_> {
    fn run(&mut self) -> Scan<()> {
        self.space();
        if self.peek().is_none() {
            return Err(JsonDefect::Empty);
        }
        let mut key = Text::default();
        loop {
            let opened = self.value(key)?;
            // After a value: close what ends here, then find the next value's place.
            let mut fresh = opened;
            loop {
                if self.open.is_empty() {
                    return self.end();
                }
                self.space();
                match self.peek() {
                    Some(b',') if !fresh => {
                        self.bump();
                        self.space();
                        key = self.member_start()?;
                        break;
                    }
                    Some(byte) if byte == if self.in_object { b'}' } else { b']' } => {
                        self.bump();
                        self.close()?;
                        fresh = false;
                    }
                    Some(_) if fresh => {
                        key = self.member_start()?;
                        break;
                    }
                    Some(_) => return Err(JsonDefect::Syntax),
                    None => return Err(JsonDefect::Truncated),
                }
            }
        }
    }

    /// Nothing but white space may follow the top-level value.
    fn end(&mut self) -> Scan<()> {
        self.space();
        if self.peek().is_some() { Err(JsonDefect::Syntax) } else { Ok(()) }
    }

    /// Reads `"name" :` in an object; counts the child in both kinds of container.
    #[inline(always)]
    fn member_start(&mut self) -> Scan<Text> {
        if !self.in_object {
            self.count_child(0, false);
            return Ok(Text::default());
        }
        match self.peek() {
            Some(b'"') => {}
            Some(_) => return Err(JsonDefect::Syntax),
            None => return Err(JsonDefect::Truncated),
        }
        let key = self.string()?;
        if key.escaped || !self.has_plain_names {
            self.refuse_control(key)?;
        }
        self.count_child(self.name_bit(key.span), key.escaped);
        self.space();
        match self.peek() {
            Some(b':') => self.bump(),
            Some(_) => return Err(JsonDefect::Syntax),
            None => return Err(JsonDefect::Truncated),
        }
        self.space();
        Ok(key)
    }

    /// Counts a child of the innermost container, with the bit of its name in an object.
    #[inline(always)]
    fn count_child(&mut self, name: u64, escaped: bool) {
        if let Some(parent) = self.open.last_mut() {
            parent.children = parent.children.wrapping_add(1);
            parent.may_repeat |= escaped || parent.names & name != 0;
            parent.names |= name;
        }
    }

    /// Parsers exist that end a name at NUL; no tool needs a control character in one.
    #[inline(never)]
    fn refuse_control(&mut self, key: Text) -> Scan<()> {
        let name = self.cut(key.span);
        if unescape(name, key.escaped).chars().any(char::is_control) {
            self.at = widen(key.span.start);
            return Err(JsonDefect::Control);
        }
        Ok(())
    }

    /// Reads a scalar or the opening bracket of a container; says whether a container was opened.
    #[inline(always)]
    fn value(&mut self, key: Text) -> Scan<bool> {
        if self.nodes.len() >= self.limits.nodes_max {
            return Err(JsonDefect::Nodes);
        }
        let (kind, value) = match self.peek() {
            Some(b'"') => {
                let text = self.string()?;
                self.push(Kind::String, key, text);
                return Ok(false);
            }
            Some(b'{') => return self.open(Kind::Object, key),
            Some(b'[') => return self.open(Kind::Array, key),
            Some(b't') => (Kind::True, self.literal(b"true")?),
            Some(b'f') => (Kind::False, self.literal(b"false")?),
            Some(b'n') => (Kind::Null, self.literal(b"null")?),
            Some(b'-' | b'0'..=b'9') => (Kind::Number, self.number()?),
            Some(_) => return Err(JsonDefect::Syntax),
            None => return Err(JsonDefect::Truncated),
        };
        self.push(kind, key, Text { span: value, escaped: false });
        Ok(false)
    }

    #[inline]
    fn push(&mut self, kind: Kind, key: Text, value: Text) {
        let next = narrow(self.nodes.len()).wrapping_add(1);
        self.nodes.push(Node {
            key: key.span,
            value: value.span,
            next,
            children: 0,
            kind,
            key_escaped: key.escaped,
            value_escaped: value.escaped,
        });
    }

    /// Reads an opening bracket.
    #[inline]
    fn open(&mut self, kind: Kind, key: Text) -> Scan<bool> {
        if self.open.len() >= self.limits.depth_max {
            return Err(JsonDefect::Depth);
        }
        let (index, start) = (narrow(self.nodes.len()), self.position());
        self.push(kind, key, Text { span: Span { start, end: start }, escaped: false });
        self.in_object = kind == Kind::Object;
        self.open.push(Open { index, children: 0, names: 0, may_repeat: false, is_object: self.in_object });
        self.bump();
        Ok(true)
    }

    /// After the closing bracket of the innermost container.
    #[inline]
    fn close(&mut self) -> Scan<()> {
        let Some(&Open { index, children, may_repeat, .. }) = self.open.last() else { return Ok(()) };
        if may_repeat && self.equal_names == EqualNames::Refused {
            self.refuse_equal_names(index, children)?;
        }
        let (end, next) = (self.position(), narrow(self.nodes.len()));
        if let Some(node) = self.nodes.get_mut(widen(index)) {
            node.value.end = end;
            node.next = next;
            node.children = children;
        }
        self.open.truncate(self.open.len().saturating_sub(1));
        self.in_object = self.open.last().is_some_and(|parent| parent.is_object);
        Ok(())
    }

    /// One bit of 64 by length, first and last byte: equal names have the same.
    fn name_bit(&self, key: Span) -> u64 {
        let byte = |at: u32| self.bytes.get(widen(at)).map_or(0, |byte| u32::from(*byte));
        let (first, last) = (byte(key.start), byte(key.end.saturating_sub(1)));
        let bytes = key.end.wrapping_sub(key.start);
        1u64.wrapping_shl(first.wrapping_mul(7) ^ last.wrapping_mul(29) ^ bytes.wrapping_mul(11))
    }

    /// Refuses an object two of whose members have one name, compared after unescaping.
    #[inline(never)]
    fn refuse_equal_names(&mut self, object: u32, members: u32) -> Scan<()> {
        let (first, count) = (object.saturating_add(1), widen(members));
        let keys = ChildKeys { scanner: self, index: first, left: count };
        let twin = if count <= PAIRS_MAX && keys.clone().all(|key| !key.escaped) {
            self.equal_pair(keys)
        } else {
            let mut names: Vec<(Cow<'_, str>, u32)> =
                keys.map(|key| (unescape(self.cut(key.span), key.escaped), key.span.start)).collect();
            names.sort_unstable();
            names.windows(2).find_map(|pair| match pair {
                [(a, _), (b, offset)] if a == b => Some(*offset),
                _ => None,
            })
        };
        let Some(offset) = twin else { return Ok(()) };
        self.at = widen(offset);
        Err(JsonDefect::DuplicateKey)
    }

    /// The same for few names without escapes, most of which differ in length already: where the first of two stands.
    fn equal_pair(&self, keys: ChildKeys<'_, '_>) -> Option<u32> {
        let mut before = [Span::default(); PAIRS_MAX];
        for (count, Text { span: key, .. }) in keys.enumerate() {
            let bytes = key.end.wrapping_sub(key.start);
            let alike = |other: &&Span| other.end.wrapping_sub(other.start) == bytes;
            let known = before.get(..count).unwrap_or_default();
            if let Some(twin) = known.iter().filter(alike).find(|other| self.bytes_of(**other) == self.bytes_of(key)) {
                return Some(twin.start);
            }
            before.get_mut(count).into_iter().for_each(|place| *place = key);
        }
        None
    }

    fn bytes_of(&self, span: Span) -> &[u8] {
        self.bytes.get(widen(span.start)..widen(span.end)).unwrap_or_default()
    }

    /// Reads a string; the span excludes the quotes. Inlined, so that the place and the span stay in registers.
    #[inline(always)]
    fn string(&mut self) -> Scan<Text> {
        self.bump();
        let start = self.at;
        let end = start.wrapping_add(plain_prefix(self.bytes.get(start..).unwrap_or_default()));
        self.at = end;
        if self.peek() != Some(b'"') {
            return self.odd_string(narrow(start));
        }
        self.bump();
        Ok(Text { span: Span { start: narrow(start), end: narrow(end) }, escaped: false })
    }

    /// The rest of a string from its first escape sequence; what ends it otherwise is a defect.
    #[inline(never)]
    fn odd_string(&mut self, start: u32) -> Scan<Text> {
        loop {
            match self.peek() {
                Some(b'"') => {
                    let span = Span { start, end: self.position() };
                    self.bump();
                    return Ok(Text { span, escaped: true });
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(JsonDefect::Syntax),
                None => return Err(JsonDefect::Truncated),
            }
            self.at = self.at.wrapping_add(plain_prefix(self.bytes.get(self.at..).unwrap_or_default()));
        }
    }

    fn escape(&mut self) -> Scan<()> {
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
                            return Err(JsonDefect::Utf8);
                        }
                        self.bump();
                        self.bump();
                        match self.hex()? {
                            0xdc00..=0xdfff => Ok(()),
                            _ => Err(JsonDefect::Utf8),
                        }
                    }
                    0xdc00..=0xdfff => Err(JsonDefect::Utf8),
                    _ => Ok(()),
                }
            }
            Some(_) => Err(JsonDefect::Syntax),
            None => Err(JsonDefect::Truncated),
        }
    }

    fn hex(&mut self) -> Scan<u32> {
        let mut value = 0u32;
        for _ in 0..4 {
            let Some(byte) = self.peek() else { return Err(JsonDefect::Truncated) };
            let Some(digit) = char::from(byte).to_digit(16) else { return Err(JsonDefect::Syntax) };
            value = value.wrapping_shl(4) | digit;
            self.bump();
        }
        Ok(value)
    }

    #[inline]
    fn literal<const N: usize>(&mut self, word: &[u8; N]) -> Scan<Span> {
        let start = self.position();
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.first_chunk() == Some(word) {
            self.at = self.at.wrapping_add(N);
            return Ok(Span { start, end: self.position() });
        }
        // Where the first byte stands that differs.
        let same = rest.iter().zip(word).take_while(|(found, expected)| found == expected).count();
        self.at = self.at.wrapping_add(same);
        Err(if same < rest.len() { JsonDefect::Syntax } else { JsonDefect::Truncated })
    }

    /// RFC 8259 section 6: no leading zero, no plus sign, digits on both sides of the point.
    fn number(&mut self) -> Scan<Span> {
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
        Ok(Span { start, end: self.position() })
    }

    fn digits(&mut self) -> Scan<()> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len()) {
            0 if rest.is_empty() => Err(JsonDefect::Truncated),
            0 => Err(JsonDefect::Syntax),
            count => {
                self.at = self.at.wrapping_add(count);
                Ok(())
            }
        }
    }

    /// Nearly always there is none, which one comparison tells.
    #[inline]
    fn space(&mut self) {
        while self.peek().is_some_and(|byte| byte <= b' ') {
            if !matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
                return;
            }
            self.bump();
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Only ever past a byte that was seen.
    #[inline]
    fn bump(&mut self) {
        self.at = self.at.wrapping_add(1);
    }

    #[inline]
    fn position(&self) -> u32 {
        narrow(self.at)
    }

    fn cut(&self, span: Span) -> &str {
        self.text.get(widen(span.start)..widen(span.end)).unwrap_or_default()
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
    type Item = Text;

    fn next(&mut self) -> Option<Text> {
        self.left = self.left.checked_sub(1)?;
        let node = self.scanner.nodes.get(widen(self.index))?;
        self.index = node.next;
        Some(node.key())
    }
}

/// Whether no string of a JSON text in UTF-8 holds a control character unless it is escaped. Those below U+0020 none may hold;
/// U+007F is one byte, and U+0080 to U+009F begin with a byte that few other characters begin with. As one fold it is done many
/// bytes at a time.
fn is_without_controls(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |any, byte| any | u8::from(*byte == 0x7f) | u8::from(*byte == 0xc2)) == 0
}

/// Length of the prefix without quote, backslash or control character.
///
/// What comes next waits for this number, so the first words are looked at one by one: nearly every name and most values end in
/// them, and the processor goes on before it knows. What is longer is a text.
#[inline(always)]
fn plain_prefix(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    for done in [0usize, 8, 16] {
        let Some((word, after)) = rest.split_first_chunk::<8>() else { return done.wrapping_add(plain_bytes(rest)) };
        let marks = stops(u64::from_le_bytes(*word));
        if marks != 0 {
            return done.wrapping_add(widen(marks.trailing_zeros() / 8));
        }
        rest = after;
    }
    24usize.wrapping_add(plain_text(rest))
}

/// The same for a text, 32 bytes at a time.
#[inline(never)]
fn plain_text(bytes: &[u8]) -> usize {
    let is_stop = |byte: &u8| matches!(byte, b'"' | b'\\') | (*byte < 0x20);
    let (blocks, rest) = bytes.as_chunks::<32>();
    let has_stop = |block: &&[u8; 32]| block.iter().fold(false, |any, byte| any | is_stop(byte));
    let plain = blocks.iter().take_while(|block| !has_stop(block)).count();
    let last = blocks.get(plain).map_or(rest, |block| block.as_slice());
    let (words, rest) = last.as_chunks::<8>();
    let mut done = plain.wrapping_mul(32);
    for word in words {
        let marks = stops(u64::from_le_bytes(*word));
        if marks != 0 {
            return done.wrapping_add(widen(marks.trailing_zeros() / 8));
        }
        done = done.wrapping_add(8);
    }
    done.wrapping_add(plain_bytes(rest))
}

/// The same for the last bytes of the whole text.
#[cold]
fn plain_bytes(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| matches!(b, b'"' | b'\\') || *b < 0x20).unwrap_or(bytes.len())
}

/// Marks the bytes at which a plain string stops: where taking one (0x20 for control characters) from the byte, made zero if it is
/// the one that is looked for, borrows. A byte above 0x7f never stops. A borrow runs out of marked lanes only and into higher ones,
/// so the lowest lane that is marked is exact.
#[inline]
fn stops(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let quote = (word ^ ONES.wrapping_mul(0x22)).wrapping_sub(ONES);
    let backslash = (word ^ ONES.wrapping_mul(0x5c)).wrapping_sub(ONES);
    let control = word.wrapping_sub(ONES.wrapping_mul(0x20));
    (quote | backslash | control) & !word & HIGHS
}

/// Undoes the escapes of a string that the scanner accepted.
#[inline]
fn unescape(text: &str, escaped: bool) -> Cow<'_, str> {
    if escaped { Cow::Owned(unescape_all(text)) } else { Cow::Borrowed(text) }
}

fn unescape_all(text: &str) -> String {
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
    out
}

/// Lossless: the parser refuses a text whose offsets do not fit 32 bits.
#[inline]
fn narrow(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Lossless on every platform this builds for.
#[inline]
fn widen(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
