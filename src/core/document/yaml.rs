//! The part of YAML that every parser reads alike, from parser events into the tree.

use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span};

use super::{Defect, Node, Parsed, Shape, depth_message, nodes_message};
use crate::decision::pointer;
use crate::json::Limits;

/// After so many defects of syntax a document is not worth reading on.
const DEFECTS_MAX: usize = 100;

/// Reads one document. Nesting is checked here, so that the recursion of whoever walks the tree is bounded.
pub(super) fn read(file: &Arc<str>, text: &str, limits: Limits) -> Parsed {
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_unresolved_aliases: true,
        flow_nesting_limit: limits.depth_max.saturating_mul(2),
        block_nesting_limit: limits.depth_max.saturating_mul(2),
    };
    let mut builder =
        Builder { file, limits, open: Vec::new(), root: None, documents: 0, nodes: 0, defects: Vec::new() };
    for next in Parser::new_from_str_with_options(text, options) {
        let step = match next {
            Ok((event, span)) => builder.event(event, line_of(span)),
            Err(error) => {
                let line = u32::try_from(error.marker().line()).unwrap_or(u32::MAX).max(1);
                builder.syntax(line, error.kind());
                Err(Stop)
            }
        };
        if step.is_err() {
            return Parsed { root: None, defects: builder.defects };
        }
    }
    if builder.root.is_none() && builder.defects.is_empty() {
        builder.defects.push(Defect::of_file(file, "is empty"));
    }
    Parsed { root: builder.root, defects: builder.defects }
}

fn line_of(span: Span) -> u32 {
    u32::try_from(span.start.line()).unwrap_or(u32::MAX).max(1)
}

/// The document cannot be read on; the defect is noted.
struct Stop;

/// A list or map that is still open.
struct Frame {
    line: u32,
    body: Body,
}

enum Body {
    List(Vec<Node>),
    /// Members, and the key that waits for its value.
    Map(Vec<(String, Node)>, Option<(String, u32)>),
}

struct Builder<'a> {
    file: &'a Arc<str>,
    limits: Limits,
    open: Vec<Frame>,
    root: Option<Node>,
    documents: u32,
    nodes: usize,
    defects: Vec<Defect>,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, line: u32) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) => {
                self.documents = self.documents.saturating_add(1);
                if self.documents > 1 {
                    self.note(line, "a second document starts here".into(), Some("one document a file"));
                    return Err(Stop);
                }
                Ok(())
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.note(line, "aliases are not accepted".into(), Some("write the value out"));
                self.value(line, Shape::Null)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.properties(line, anchor, tag.is_some());
                self.scalar(line, &text, style)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.properties(line, anchor, tag.is_some());
                self.open(line, Body::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.properties(line, anchor, tag.is_some());
                self.open(line, Body::Map(Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Frame { line, body: Body::List(items) }) => self.close(line, Shape::List(items)),
                Some(Frame { line, body: Body::Map(members, _) }) => self.close(line, Shape::Map(members)),
                None => Ok(()),
            },
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Anchor(..) | _ => Ok(()),
        }
    }

    /// Anchors alone do no harm, but nothing may refer to them either.
    fn properties(&mut self, line: u32, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.note(line, "anchors are not accepted".into(), Some("remove the `&name`"));
        }
        if tagged {
            self.note(
                line,
                "tags are not accepted".into(),
                Some("remove the `!tag`; quote the value to make it a string"),
            );
        }
    }

    fn scalar(&mut self, line: u32, text: &str, style: ScalarStyle) -> Result<(), Stop> {
        let plain = style == ScalarStyle::Plain;
        if self.wants_key() {
            return self.key(line, text, plain);
        }
        let shape = if plain { self.plain(line, text) } else { Shape::String(text.to_owned()) };
        self.value(line, shape)
    }

    /// The type of a scalar without quotes.
    fn plain(&mut self, line: u32, text: &str) -> Shape {
        match text {
            "" | "~" | "null" => return Shape::Null,
            "true" => return Shape::Bool(true),
            "false" => return Shape::Bool(false),
            "True" | "TRUE" | "False" | "FALSE" | "Null" | "NULL" => {
                let message = format!("`{text}` is a word in some YAML versions and a string in others");
                self.note(line, message, Some("write it in lower case, or quote it"));
                return Shape::String(text.to_owned());
            }
            _ => {}
        }
        if is_json_number(text) {
            return Shape::Number(text.to_owned());
        }
        if is_number_somewhere(text) {
            let message = format!("{} is a number in some YAML versions", super::quoted(text));
            self.note(line, message, Some("quote it or write a plain decimal number"));
        }
        Shape::String(text.to_owned())
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Frame { body: Body::Map(_, None), .. }))
    }

    fn key(&mut self, line: u32, text: &str, plain: bool) -> Result<(), Stop> {
        if plain && matches!(text, "" | "~" | "null") {
            self.note(line, "a key is missing or null".into(), Some("quote it to make it a string"));
        } else if plain && text == "<<" {
            self.note(line, "merge keys are not accepted".into(), Some("write the keys out"));
        } else if text.chars().any(char::is_control) {
            self.note(line, "control character in a key".into(), None);
        }
        self.set_key(line, text);
        self.enough()
    }

    fn set_key(&mut self, line: u32, text: &str) {
        if let Some(Frame { body: Body::Map(_, key), .. }) = self.open.last_mut() {
            *key = Some((text.to_owned(), line));
        }
    }

    fn open(&mut self, line: u32, body: Body) -> Result<(), Stop> {
        if self.wants_key() {
            self.note(line, "a key must be a plain text".into(), None);
            return Err(Stop);
        }
        if self.open.len() >= self.limits.depth_max {
            self.note(line, depth_message(self.limits), None);
            return Err(Stop);
        }
        self.open.push(Frame { line, body });
        self.count(line)
    }

    /// A scalar, or what stands for one.
    fn value(&mut self, line: u32, shape: Shape) -> Result<(), Stop> {
        if self.wants_key() {
            // Only an alias gets here; it was noted.
            self.set_key(line, "");
            return self.enough();
        }
        self.count(line)?;
        self.close(line, shape)
    }

    /// Puts a finished value in its place.
    fn close(&mut self, line: u32, shape: Shape) -> Result<(), Stop> {
        match self.open.last_mut() {
            None => self.root = Some(Node { line: Some(line), shape }),
            Some(Frame { body: Body::List(items), .. }) => items.push(Node { line: Some(line), shape }),
            Some(Frame { body: Body::Map(members, key), .. }) => {
                let (key, line) = key.take().unwrap_or_default();
                members.push((key, Node { line: Some(line), shape }));
            }
        }
        self.enough()
    }

    fn count(&mut self, line: u32) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > self.limits.nodes_max {
            self.note(line, nodes_message(self.limits), None);
            return Err(Stop);
        }
        Ok(())
    }

    fn enough(&self) -> Result<(), Stop> {
        if self.defects.len() < DEFECTS_MAX { Ok(()) } else { Err(Stop) }
    }

    fn syntax(&mut self, line: u32, kind: &ErrorKind) {
        if *kind == ErrorKind::RecursionLimitExceeded {
            self.note(line, depth_message(self.limits), None);
        } else if *kind == ErrorKind::DirectiveDisallowed {
            self.note(line, "directives are not accepted".into(), Some("remove the line that starts with `%`"));
        } else {
            self.note(line, format!("is not YAML: {kind}"), None);
        }
    }

    fn note(&mut self, line: u32, message: String, hint: Option<&str>) {
        let pointer = self.pointer();
        let hint = hint.map(str::to_owned);
        self.defects.push(Defect { file: Arc::clone(self.file), line: Some(line), pointer, message, hint });
    }

    /// Where the next value goes.
    fn pointer(&self) -> String {
        let mut out = String::new();
        for frame in &self.open {
            match &frame.body {
                Body::List(items) => out.push_str(&format!("/{}", items.len())),
                Body::Map(_, Some((key, _))) => out.push_str(&pointer(&[key])),
                Body::Map(_, None) => {}
            }
        }
        out
    }
}

/// RFC 8259 section 6.
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
    digits(whole)
        && (whole.len() == 1 || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

/// Whether YAML 1.1 or the core schema of 1.2 reads a number here although JSON has none: `010`, `0x1f`, `0o7`, `1_000`,
/// `+1`, `.5`, `1.`, `.inf`, `.nan`. Base 60 is left a string, for a time of day looks just so and no parser in use
/// still reads it otherwise.
fn is_number_somewhere(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let lower = unsigned.to_ascii_lowercase();
    if matches!(lower.as_str(), ".inf" | ".nan") {
        return true;
    }
    let based = |prefix: &str, radix: u32| {
        lower.strip_prefix(prefix).is_some_and(|rest| {
            rest.contains(|c: char| c.is_digit(radix)) && rest.chars().all(|c| c == '_' || c.is_digit(radix))
        })
    };
    if based("0x", 16) || based("0o", 8) || based("0b", 2) {
        return true;
    }
    let (mantissa, exponent) = lower.split_once('e').map_or((lower.as_str(), None), |(m, e)| (m, Some(e)));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && exponent.bytes().all(|byte| byte.is_ascii_digit())
    });
    exponent_fits
        && mantissa.contains(|c: char| c.is_ascii_digit())
        && !mantissa.starts_with('_')
        && mantissa.bytes().filter(|byte| *byte == b'.').count() <= 1
        && mantissa.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'_' | b'.'))
}
