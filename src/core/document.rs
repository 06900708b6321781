//! JSON and YAML documents written by people, read into one tree that knows its lines.
//!
//! Owns syntax and the shape of defects; what a key means is for the reader of each kind of document. Both formats give
//! the same tree, and both are strict in the same way: equal keys, a second document, nesting and size beyond the limits
//! are refused. Of YAML only the part that every parser reads alike is accepted: no anchors, aliases, tags, merge keys or
//! directives, and no scalar that one YAML version takes for a number or a boolean and another for text.

mod cursor;
mod yaml;

use std::{collections::BTreeMap, fmt, sync::Arc};

pub use cursor::{Cursor, Fields, Report, Site, suggestion};

use crate::{
    decision::pointer,
    json::{self, JsonDefect, JsonError, Limits},
    text::is_unsafe,
};

/// Bounds on one document: 1 MiB, 32 levels, 100,000 values. What people write nests less than what agents send.
pub const LIMITS: Limits = Limits { bytes_max: 1_048_576, depth_max: 32, nodes_max: 100_000 };

/// The syntax of a document, known by the extension of its file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.json`
    Json,
    /// `.yaml`, `.yml`
    Yaml,
}

impl Format {
    /// The format that a file name's extension stands for.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "json" => Some(Format::Json),
            "yaml" | "yml" => Some(Format::Yaml),
            _ => None,
        }
    }
}

/// Something wrong with a document, or something to warn of, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The file as the operator names it.
    pub file: Arc<str>,
    /// Line, from 1; `None` where the defect is of the whole file.
    pub line: Option<u32>,
    /// RFC 6901 pointer; empty for the whole document.
    pub pointer: String,
    /// What is wrong. Holds no secret.
    pub message: String,
    /// What to do about it, or a likely correction.
    pub hint: Option<String>,
}

impl Defect {
    /// A defect of a whole file.
    #[must_use]
    pub fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self { file: file.into(), line: None, pointer: String::new(), message: message.into(), hint: None }
    }

    /// Orders the defects of one file: by line, those of the whole file last.
    #[must_use]
    pub fn place(&self) -> (u32, &str) {
        (self.line.unwrap_or(u32::MAX), &self.pointer)
    }

    /// The same defect with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.file))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.pointer.is_empty() {
            write!(f, "{}: ", escape(&self.pointer))?;
        }
        // Messages may quote the document, and it goes to terminals and logs line by line.
        f.write_str(&escape(&self.message))?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({})", escape(hint)))
    }
}

/// One value of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Line, from 1: of the key for a member of a map, of the value otherwise.
    pub line: Option<u32>,
    /// The value.
    pub shape: Shape,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `true` or `false`
    Bool(bool),
    /// A list in document order.
    List(Vec<Node>),
    /// A map in document order, without equal keys.
    Map(Vec<(String, Node)>),
    /// `null`; in YAML also `~` and nothing at all.
    Null,
    /// The literal of a number exactly as written, in the syntax of JSON.
    Number(String),
    /// A text.
    String(String),
}

impl Shape {
    /// What it is, for people: `a list`, `null`, …
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Shape::Bool(_) => "a boolean",
            Shape::List(_) => "a list",
            Shape::Map(_) => "a map",
            Shape::Null => "null",
            Shape::Number(_) => "a number",
            Shape::String(_) => "a string",
        }
    }
}

/// Reads one document within [`LIMITS`].
///
/// # Errors
/// Every defect of syntax, in the order of the lines.
pub fn parse(file: &str, bytes: &[u8], format: Format) -> Result<Node, Vec<Defect>> {
    parse_within(file, bytes, format, LIMITS)
}

/// Reads one document within other limits, for documents that are not ours.
///
/// # Errors
/// Every defect of syntax, in the order of the lines.
pub fn parse_within(file: &str, bytes: &[u8], format: Format, limits: Limits) -> Result<Node, Vec<Defect>> {
    let Parsed { root, defects } = read(&Arc::from(file), bytes, format, limits);
    match root {
        Some(root) if defects.is_empty() => Ok(root),
        Some(_) | None => Err(defects),
    }
}

/// What could be read. With a root *and* defects the tree is good enough to look for more defects, and for nothing else.
struct Parsed {
    root: Option<Node>,
    defects: Vec<Defect>,
}

impl Parsed {
    fn refused(defect: Defect) -> Self {
        Self { root: None, defects: vec![defect] }
    }
}

fn read(file: &Arc<str>, bytes: &[u8], format: Format, limits: Limits) -> Parsed {
    let whole =
        |line, message: String| Defect { file: Arc::clone(file), line, pointer: String::new(), message, hint: None };
    if bytes.len() > limits.bytes_max {
        let message = format!("is larger than {} bytes: it has {}", limits.bytes_max, bytes.len());
        return Parsed::refused(whole(None, message));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = line_at(bytes, error.valid_up_to());
            return Parsed::refused(whole(Some(line), "is not UTF-8 text".into()));
        }
    };
    if text.starts_with('\u{feff}') {
        let defect = whole(Some(1), "starts with a byte order mark".into());
        return Parsed::refused(defect.with_hint("save it as UTF-8 without one"));
    }
    let mut parsed = match format {
        Format::Json => read_json(file, text, limits),
        Format::Yaml => yaml::read(file, text, limits),
    };
    if let Some(root) = &mut parsed.root {
        drop_equal_keys(file, root, "", &mut parsed.defects);
    }
    parsed.defects.sort_by_key(|defect| defect.line);
    parsed
}

/// Reports every key that its map has already, and keeps the first of them.
fn drop_equal_keys(file: &Arc<str>, node: &mut Node, at: &str, defects: &mut Vec<Defect>) {
    match &mut node.shape {
        Shape::Bool(_) | Shape::Null | Shape::Number(_) | Shape::String(_) => {}
        Shape::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                drop_equal_keys(file, item, &format!("{at}/{index}"), defects);
            }
        }
        Shape::Map(members) => {
            let mut seen: BTreeMap<String, Option<u32>> = BTreeMap::new();
            members.retain_mut(|(key, value)| {
                let here = format!("{at}{}", pointer(&[key]));
                if let Some(first) = seen.get(key) {
                    let first = first.map_or(String::new(), |line| format!(", first on line {line}"));
                    let message = format!("duplicate key {}{first}", quoted(key));
                    defects.push(Defect {
                        file: Arc::clone(file),
                        line: value.line,
                        pointer: here,
                        message,
                        hint: None,
                    });
                    return false;
                }
                seen.insert(key.clone(), value.line);
                drop_equal_keys(file, value, &here, defects);
                true
            });
        }
    }
}

fn read_json(file: &Arc<str>, text: &str, limits: Limits) -> Parsed {
    match json::Document::parse_with_equal_names(text.as_bytes(), limits) {
        Ok(document) => {
            let mut lines = Lines { text, at: 0, line: 1 };
            let root = document.root();
            let start = root.source().as_ptr().addr().saturating_sub(text.as_ptr().addr());
            Parsed { root: Some(node_of_json(root, start, &mut lines)), defects: Vec::new() }
        }
        Err(error) => Parsed::refused(json_defect(file, text, error, limits)),
    }
}

/// Depth is bounded by the limits, so recursion is.
fn node_of_json(value: json::Value<'_>, start: usize, lines: &mut Lines<'_>) -> Node {
    let line = Some(lines.line_of(start));
    let shape = match value.kind() {
        json::Kind::Array => {
            Shape::List(value.elements().map(|item| node_of_json(item, value_start(item), lines)).collect())
        }
        json::Kind::False => Shape::Bool(false),
        json::Kind::Null => Shape::Null,
        json::Kind::Number => Shape::Number(value.raw().to_owned()),
        json::Kind::Object => Shape::Map(
            value
                .members()
                .map(|(key, member)| {
                    let key_end = key_end(lines.text, value_start(member));
                    (key.into_owned(), node_of_json(member, key_end, lines))
                })
                .collect(),
        ),
        json::Kind::String => Shape::String(value.as_str().unwrap_or_default().into_owned()),
        json::Kind::True => Shape::Bool(true),
    };
    Node { line, shape }
}

/// Where the value starts, its quote included.
fn value_start(value: json::Value<'_>) -> usize {
    value.offset().saturating_sub(usize::from(value.kind() == json::Kind::String))
}

/// Where the key of the member whose value starts at `start` ends. A key holds no line break.
fn key_end(text: &str, start: usize) -> usize {
    let before = text.get(..start).unwrap_or_default().trim_end();
    before.strip_suffix(':').unwrap_or(before).trim_end().len()
}

/// Counts lines for offsets that only grow.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl Lines<'_> {
    fn line_of(&mut self, offset: usize) -> u32 {
        let passed = self.text.as_bytes().get(self.at..offset).unwrap_or_default();
        self.line = self.line.saturating_add(line_at(passed, passed.len()).saturating_sub(1));
        self.at = self.at.max(offset);
        self.line
    }
}

/// The line, from 1, of a byte.
fn line_at(bytes: &[u8], offset: usize) -> u32 {
    let before = bytes.get(..offset).unwrap_or(bytes);
    u32::try_from(before.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u32::MAX).saturating_add(1)
}

fn json_defect(file: &Arc<str>, text: &str, error: JsonError, limits: Limits) -> Defect {
    let (message, hint) = match error.defect {
        JsonDefect::Control => ("control character in a key".into(), None),
        JsonDefect::Depth => (depth_message(limits), None),
        JsonDefect::DuplicateKey => ("duplicate key".into(), None),
        JsonDefect::Empty => ("is empty".into(), None),
        JsonDefect::Nodes => (nodes_message(limits), None),
        JsonDefect::Size => (format!("is larger than {} bytes", limits.bytes_max), None),
        JsonDefect::Syntax => syntax_message(text, error.offset),
        JsonDefect::Truncated => ("ends in the middle of a value".into(), None),
        JsonDefect::Utf8 => ("escape of half a surrogate pair".into(), None),
    };
    let line = (error.defect != JsonDefect::Empty).then(|| line_at(text.as_bytes(), error.offset));
    Defect { file: Arc::clone(file), line, pointer: String::new(), message, hint: hint.map(str::to_owned) }
}

fn syntax_message(text: &str, offset: usize) -> (String, Option<&'static str>) {
    let before = text.get(..offset).unwrap_or_default().trim_end();
    let found = text.get(offset..).and_then(|rest| rest.chars().next());
    let hint = match found {
        Some('}' | ']') if before.ends_with(',') => Some("JSON allows no comma after the last one"),
        Some('/' | '#') => Some("JSON has no comments"),
        Some('\'') => Some("JSON strings stand in double quotes"),
        Some('\n' | '\r' | '\t') => Some("inside a JSON string write \\n, \\r or \\t"),
        Some(_) | None => None,
    };
    let found = found.map_or_else(|| "the end".into(), |c| quoted(c.encode_utf8(&mut [0; 4])));
    (format!("is not JSON: unexpected {found}"), hint)
}

fn depth_message(limits: Limits) -> String {
    format!("nested deeper than {} levels", limits.depth_max)
}

fn nodes_message(limits: Limits) -> String {
    format!("holds more than {} values", limits.nodes_max)
}

/// A text of the document as it may stand in a message: in backticks, short, and without anything a terminal obeys.
#[must_use]
pub fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let cut = text.char_indices().nth(CHARS_MAX).map_or(text, |(end, _)| text.get(..end).unwrap_or_default());
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("`{}{dots}`", escape(cut))
}

/// Replaces characters that change how the text around them is shown by their escapes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests;
