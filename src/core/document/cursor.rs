//! Reading a tree field by field, with every defect collected instead of the first one returned.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    ops::RangeInclusive,
    sync::Arc,
};

use super::{Defect, Format, LIMITS, Node, Shape, quoted};
use crate::decision::pointer;
use crate::json::Limits;

/// Beyond this many findings a report only counts: nobody reads them, and a hostile file could ask for millions.
const FINDINGS_MAX: usize = 1_000;

/// One document and everything found about it.
///
/// A reader goes on after a defect, so that one look at the report mends the whole file. What a reader returns is of use
/// only if [`Report::finish`] gives no defects.
#[derive(Debug)]
pub struct Report {
    file: Arc<str>,
    root: Option<Node>,
    /// Places with a defect of syntax; what a reader finds there is only its consequence.
    spoiled: BTreeSet<String>,
    defects: RefCell<Vec<Defect>>,
    warnings: RefCell<Vec<Defect>>,
    dropped: Cell<usize>,
}

impl Report {
    /// Reads the syntax of a document within [`LIMITS`](super::LIMITS).
    #[must_use]
    pub fn read(file: &str, bytes: &[u8], format: Format) -> Self {
        Self::read_within(file, bytes, format, LIMITS)
    }

    /// Reads the syntax of a document.
    #[must_use]
    pub fn read_within(file: &str, bytes: &[u8], format: Format, limits: Limits) -> Self {
        let file: Arc<str> = file.into();
        let parsed = super::read(&file, bytes, format, limits);
        let mut defects = parsed.defects;
        let spoiled = defects.iter().map(|defect| defect.pointer.clone()).collect();
        let dropped = Cell::new(defects.len().saturating_sub(FINDINGS_MAX));
        defects.truncate(FINDINGS_MAX);
        let (defects, warnings) = (RefCell::new(defects), RefCell::default());
        Self { file, root: parsed.root, spoiled, defects, warnings, dropped }
    }

    /// The whole document; `None` if the syntax does not even give a tree, and then the defect is noted already.
    #[must_use]
    pub fn root(&self) -> Option<Cursor<'_>> {
        self.root.as_ref().map(|node| Cursor { report: self, node, pointer: String::new() })
    }

    /// Whether no defect was found so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.defects.borrow().is_empty()
    }

    /// Everything found, in the order of the lines: defects, then warnings.
    #[must_use]
    pub fn finish(self) -> (Vec<Defect>, Vec<Defect>) {
        let (mut defects, mut warnings) = (self.defects.into_inner(), self.warnings.into_inner());
        for list in [&mut defects, &mut warnings] {
            list.sort_by(|a, b| a.place().cmp(&b.place()));
        }
        if self.dropped.get() > 0 {
            let message = format!("{} more findings are not listed", self.dropped.get());
            defects.push(Defect::of_file(&self.file, message));
        }
        (defects, warnings)
    }

    fn is_full(&self) -> bool {
        self.defects.borrow().len() >= FINDINGS_MAX
    }

    fn push(&self, list: &RefCell<Vec<Defect>>, defect: Defect) {
        let mut list = list.borrow_mut();
        if list.len() < FINDINGS_MAX {
            list.push(defect);
        } else {
            self.dropped.set(self.dropped.get().saturating_add(1));
        }
    }
}

/// A place in a document that outlives the document, for defects that only other files can show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    file: Arc<str>,
    line: Option<u32>,
    pointer: String,
}

impl Site {
    /// A defect of that place.
    #[must_use]
    pub fn defect(&self, message: impl Into<String>) -> Defect {
        Defect {
            file: Arc::clone(&self.file),
            line: self.line,
            pointer: self.pointer.clone(),
            message: message.into(),
            hint: None,
        }
    }

    /// Whether the place is in the value at that pointer.
    #[must_use]
    pub fn is_below(&self, pointer: &str) -> bool {
        self.pointer.strip_prefix(pointer).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The file and the line, for a message about another place: `grants/a.yaml:12`.
    #[must_use]
    pub fn file_and_line(&self) -> String {
        self.line.map_or_else(|| self.file.to_string(), |line| format!("{}:{line}", self.file))
    }
}

/// One value of a document and its place. Each reading method notes a defect when it gives `None`.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    report: &'a Report,
    node: &'a Node,
    pointer: String,
}

impl<'a> Cursor<'a> {
    /// RFC 6901 pointer of the value.
    #[must_use]
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// The place of the value.
    #[must_use]
    pub fn site(&self) -> Site {
        Site { file: Arc::clone(&self.report.file), line: self.node.line, pointer: self.pointer.clone() }
    }

    /// The value.
    #[must_use]
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// Notes a defect of this value.
    pub fn defect(&self, message: impl Into<String>) {
        self.note(&self.report.defects, self.node.line, message.into(), None);
    }

    /// Notes a defect of this value, with advice.
    pub fn defect_with_hint(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.note(&self.report.defects, self.node.line, message.into(), Some(hint.into()));
    }

    /// Notes something that is legal and probably not meant.
    pub fn warn(&self, message: impl Into<String>, hint: Option<String>) {
        self.note(&self.report.warnings, self.node.line, message.into(), hint);
    }

    fn note(&self, list: &RefCell<Vec<Defect>>, line: Option<u32>, message: String, hint: Option<String>) {
        if self.report.spoiled.contains(&self.pointer) && !self.pointer.is_empty() {
            return;
        }
        let file = Arc::clone(&self.report.file);
        self.report.push(list, Defect { file, line, pointer: self.pointer.clone(), message, hint });
    }

    /// Notes that something else should stand here. Only the type of what was found is told, never the value.
    pub fn expected(&self, what: &str) {
        self.defect(format!("expected {what}, found {}", self.node.shape.name()));
    }

    fn child(&self, segment: &str, node: &'a Node) -> Cursor<'a> {
        Cursor { report: self.report, node, pointer: format!("{}{}", self.pointer, pointer(&[segment])) }
    }

    /// A map that may hold the `known` keys and no others.
    #[must_use]
    pub fn fields(&self, known: &[&str]) -> Option<Fields<'a>> {
        let members = self.members()?;
        for (key, value) in members {
            if !known.contains(&key.as_str()) {
                // Beyond the limit nobody reads the advice, and looking for it takes time.
                let hint = (!self.report.is_full()).then(|| known_instead(key, known));
                self.note(&self.report.defects, value.line, format!("unknown key {}", quoted(key)), hint);
            }
        }
        Some(Fields { map: self.clone(), members })
    }

    /// A map whose keys are names that the author chose.
    #[must_use]
    pub fn entries(&self) -> Option<Vec<(&'a str, Cursor<'a>)>> {
        let members = self.members()?;
        Some(members.iter().map(|(key, node)| (key.as_str(), self.child(key, node))).collect())
    }

    fn members(&self) -> Option<&'a [(String, Node)]> {
        match &self.node.shape {
            Shape::Map(members) => Some(members),
            Shape::Bool(_) | Shape::List(_) | Shape::Null | Shape::Number(_) | Shape::String(_) => {
                self.expected("a map");
                None
            }
        }
    }

    /// A list.
    #[must_use]
    pub fn items(&self) -> Option<Vec<Cursor<'a>>> {
        match &self.node.shape {
            Shape::List(items) => {
                let places = items.iter().enumerate();
                Some(places.map(|(index, node)| self.child(&index.to_string(), node)).collect())
            }
            Shape::Bool(_) | Shape::Map(_) | Shape::Null | Shape::Number(_) | Shape::String(_) => {
                self.expected("a list");
                None
            }
        }
    }

    /// Whether this is a map with that key; notes nothing.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        matches!(&self.node.shape, Shape::Map(members) if members.iter().any(|(name, _)| name == key))
    }

    /// Whether this is a list without items; notes nothing.
    #[must_use]
    pub fn is_empty_list(&self) -> bool {
        matches!(&self.node.shape, Shape::List(items) if items.is_empty())
    }

    /// A text.
    #[must_use]
    pub fn string(&self) -> Option<&'a str> {
        match &self.node.shape {
            Shape::String(text) => Some(text),
            Shape::Number(_) => {
                self.defect_with_hint("expected a string, found a number", "quote it");
                None
            }
            Shape::Bool(_) => {
                self.defect_with_hint("expected a string, found a boolean", "quote it");
                None
            }
            Shape::List(_) | Shape::Map(_) | Shape::Null => {
                self.expected("a string");
                None
            }
        }
    }

    /// A text with at least one character.
    #[must_use]
    pub fn non_empty(&self) -> Option<&'a str> {
        let text = self.string()?;
        if text.is_empty() {
            self.defect("must not be empty");
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    #[must_use]
    pub fn bool(&self) -> Option<bool> {
        match &self.node.shape {
            Shape::Bool(value) => Some(*value),
            Shape::String(_) => {
                self.defect_with_hint("expected `true` or `false`, found a string", "only these two words, unquoted");
                None
            }
            Shape::List(_) | Shape::Map(_) | Shape::Null | Shape::Number(_) => {
                self.expected("`true` or `false`");
                None
            }
        }
    }

    /// A whole number in the range, both ends included.
    #[must_use]
    pub fn u64_in(&self, range: &RangeInclusive<u64>) -> Option<u64> {
        let what = if *range.end() == u64::MAX {
            format!("a whole number of at least {}", range.start())
        } else {
            format!("a whole number from {} to {}", range.start(), range.end())
        };
        match &self.node.shape {
            Shape::Number(literal) => {
                let value = literal.parse().ok().filter(|value| range.contains(value));
                if value.is_none() {
                    self.defect(format!("expected {what}, found {}", quoted(literal)));
                }
                value
            }
            Shape::String(_) => {
                self.defect_with_hint(format!("expected {what}, found a string"), "write it without quotes and units");
                None
            }
            Shape::Bool(_) | Shape::List(_) | Shape::Map(_) | Shape::Null => {
                self.expected(&what);
                None
            }
        }
    }

    /// A text that is one of a few.
    #[must_use]
    pub fn one_of(&self, words: &[&'static str]) -> Option<&'static str> {
        let text = self.string()?;
        let word = words.iter().copied().find(|word| *word == text);
        if word.is_none() {
            let list = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
            let message = format!("expected one of {list}, found {}", quoted(text));
            let hint = suggestion(text, words.iter().copied()).map(|close| format!("did you mean `{close}`?"));
            self.note(&self.report.defects, self.node.line, message, hint);
        }
        word
    }
}

/// A map with known keys.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    map: Cursor<'a>,
    members: &'a [(String, Node)],
}

impl<'a> Fields<'a> {
    /// The map itself, for defects of the whole.
    #[must_use]
    pub fn map(&self) -> &Cursor<'a> {
        &self.map
    }

    /// The value of a key that may be missing. A `null` is a value, not a missing key.
    #[must_use]
    pub fn optional(&self, key: &str) -> Option<Cursor<'a>> {
        self.members.iter().find(|(name, _)| name == key).map(|(name, node)| self.map.child(name, node))
    }

    /// The value of a key that must not be missing; notes a defect if it is.
    #[must_use]
    pub fn required(&self, key: &str) -> Option<Cursor<'a>> {
        let found = self.optional(key);
        if found.is_none() {
            self.map.defect(format!("missing key `{key}`"));
        }
        found
    }
}

/// Advice for a key that is not known.
fn known_instead(key: &str, known: &[&str]) -> String {
    match suggestion(key, known.iter().copied()) {
        Some(close) => format!("did you mean `{close}`?"),
        None if known.is_empty() => "no key may stand here".into(),
        None => format!("known: {}", known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// The candidate that is most likely meant: the closest one, if at most a third of its characters differ.
pub fn suggestion<'c>(written: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    const CHARS_MAX: usize = 64;
    let folded: Vec<char> = written.chars().take(CHARS_MAX.saturating_add(1)).flat_map(char::to_lowercase).collect();
    if folded.len() > CHARS_MAX {
        return None;
    }
    candidates
        .map(|candidate| (distance(&folded, &candidate.to_lowercase().chars().collect::<Vec<_>>()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbors from one to the other.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i.saturating_add(1)];
        for (j, to) in b.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX);
            let replace = at(&above, j).saturating_add(usize::from(from != to));
            let insert = at(&row, j).saturating_add(1);
            let delete = at(&above, j.saturating_add(1)).saturating_add(1);
            let swapped =
                i > 0 && j > 0 && a.get(i.saturating_sub(1)) == Some(to) && b.get(j.saturating_sub(1)) == Some(from);
            let swap = if swapped { at(&before, j.saturating_sub(1)).saturating_add(1) } else { usize::MAX };
            row.push(replace.min(insert).min(delete).min(swap));
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(a.len())
}
