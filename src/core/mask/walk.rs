//! One message, value by value: which rules look at it, and what is spliced.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::echo::Echoes;
use super::fold::is_unseen;
use super::path::Step;
use super::plan::{Here, Plan};
use super::rule::{PathList, Then, What};
use super::scan::Found;
use super::source::{escaped, to_source};
use super::style::replacement;
use super::text::{Edit, Spot};
use super::{
    Action, FIELD_NAME_BYTES_MAX, Findings, HITS_MAX, Hit, MaskKey, NESTED_MAX, NEW_FIELDS_MAX, TEXT_BYTES_MAX,
};
use crate::json::{Document, JsonDefect, Kind, Limits, Value};
use crate::splice::Splices;

/// Bytes of the path of a field in a report.
const FIELD_PATH_BYTES_MAX: usize = 256;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The state of one message under judgment.
pub(super) struct Walk<'p, 'w> {
    pub(super) plan: &'w Plan<'p>,
    pub(super) key: &'w MaskKey,
    /// Room for what one text holds, kept between texts.
    pub(super) found: Vec<Found>,
    /// Values that paths mask, to be looked for in `content`.
    pub(super) echoes: Option<Echoes>,
    counts: Vec<Hit>,
    hits: usize,
    blocked: Option<Hit>,
    new_fields: Vec<String>,
    /// The path of the value, kept only where somebody asks for names of fields.
    trail: String,
    trails: bool,
}

impl<'p, 'w> Walk<'p, 'w> {
    pub(super) fn new(plan: &'w Plan<'p>, key: &'w MaskKey) -> Self {
        Self {
            plan,
            key,
            found: Vec::new(),
            echoes: None,
            counts: Vec::new(),
            hits: 0,
            blocked: None,
            new_fields: Vec::new(),
            trail: String::new(),
            trails: !plan.reveals.is_empty() || !plan.new_fields.is_empty(),
        }
    }

    /// Judges the members of a message, apart from those that make it one.
    ///
    /// # Errors
    /// The message is withheld.
    pub(super) fn message(&mut self, root: Value<'_>) -> Result<Vec<Edit>, Arc<str>> {
        if root.kind() != Kind::Object {
            return Err(super::unreadable());
        }
        self.conditions(root)?;
        self.echoes = Echoes::of(self.plan, root).map_err(|()| super::too_many())?;
        let (start, mut edits) = (self.plan.root(), Vec::new());
        for (key, value) in root.members().filter(|(key, _)| !matches!(&**key, "jsonrpc" | "id" | "method")) {
            self.member(&key, value, &start, (root, 0), &mut edits)?;
        }
        Ok(edits)
    }

    /// Judges a text in which nothing has a path.
    ///
    /// # Errors
    /// The message is withheld.
    pub(super) fn whole_text(&mut self, text: &str) -> Result<Vec<Edit>, Arc<str>> {
        let here = self.plan.anywhere();
        self.text(text, &here, (Spot { name: "", is_bytes: false }, 0))
    }

    /// Writes down what was found; after a block, only the rule that blocked.
    pub(super) fn finish(self, is_blocked: bool, findings: &mut Findings) {
        let hits = if is_blocked { self.blocked.into_iter().collect() } else { self.counts };
        for hit in hits {
            match findings.hits.iter_mut().find(|known| known.rule == hit.rule && known.action == hit.action) {
                Some(known) => known.count = known.count.saturating_add(hit.count),
                None => findings.hits.push(hit),
            }
        }
        let fields = if is_blocked { Vec::new() } else { self.new_fields };
        for field in fields {
            if findings.new_fields.len() < NEW_FIELDS_MAX && !findings.new_fields.contains(&field) {
                findings.new_fields.push(field);
            }
        }
    }

    pub(super) fn count(&mut self, rule: &Arc<str>, action: Action) {
        match self.counts.iter_mut().find(|hit| hit.rule == *rule && hit.action == action) {
            Some(hit) => hit.count = hit.count.saturating_add(1),
            None => self.counts.push(Hit { rule: Arc::clone(rule), action, count: 1 }),
        }
    }

    /// One more hit; a message with too many is given up.
    pub(super) fn spend(&mut self) -> Result<(), Arc<str>> {
        self.hits = self.hits.saturating_add(1);
        if self.hits > HITS_MAX { Err(super::too_many()) } else { Ok(()) }
    }

    /// Notes who blocks; gives the text for the agent.
    pub(super) fn block(&mut self, rule: &Arc<str>, text: &Arc<str>) -> Arc<str> {
        self.blocked = Some(Hit { rule: Arc::clone(rule), action: Action::Block, count: 1 });
        Arc::clone(text)
    }

    /// Depth is bounded by the parser's limits and [`NESTED_MAX`], so recursion is.
    fn value(
        &mut self,
        value: Value<'_>,
        here: &Here,
        (spot, nested): (Spot<'_>, usize),
        edits: &mut Vec<Edit>,
    ) -> Result<(), Arc<str>> {
        let gone;
        let here = if !here.muted && self.whole(value, here, edits)? {
            gone = here.gone();
            &gone
        } else {
            here
        };
        match value.kind() {
            Kind::Object => {
                for (key, member) in value.members() {
                    self.member(&key, member, here, (value, nested), edits)?;
                }
                Ok(())
            }
            Kind::Array => {
                let next = self.plan.step(here, Step::Element);
                let length = self.trail.len();
                self.push_trail("[*]");
                for element in value.elements() {
                    self.value(element, &next, (spot, nested), edits)?;
                }
                self.trail.truncate(length);
                Ok(())
            }
            Kind::String => self.string(value, here, (spot, nested), edits),
            Kind::Number => self.number(value, here, spot, edits),
            Kind::False | Kind::True => {
                if self.is_concealed(here) {
                    edits.push(Edit { range: span(value), with: "false".to_owned() });
                }
                Ok(())
            }
            Kind::Null => Ok(()),
        }
    }

    fn member(
        &mut self,
        key: &str,
        value: Value<'_>,
        here: &Here,
        (parent, nested): (Value<'_>, usize),
        edits: &mut Vec<Edit>,
    ) -> Result<(), Arc<str>> {
        let mut next = self.plan.step(here, Step::Member(key));
        if next.is_token && matches!(value.kind(), Kind::Array | Kind::Object) {
            // A token is one text. What has parts is something else under its name.
            next.to_mut().muted = here.muted;
        }
        self.name(key, &next)?;
        let length = self.trail.len();
        self.push_trail(key);
        let spot = Spot { name: key, is_bytes: value.kind() == Kind::String && is_bytes(parent, key) };
        let outcome = self.value(value, &next, (spot, nested), edits);
        self.trail.truncate(length);
        outcome
    }

    /// The name of a member is never changed: the client would not find it. One that holds what is to be masked cannot be
    /// passed on.
    fn name(&mut self, key: &str, here: &Here) -> Result<(), Arc<str>> {
        if key.len() < 24 && key.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_') && !here.patterns {
            return Ok(());
        }
        let here = &here.of_name();
        if here.muted {
            return self.plain(key, here, Spot { name: "", is_bytes: false }).map(drop);
        }
        // What is counted here does not happen.
        let counts = self.counts.clone();
        let edits = self.plain(key, here, Spot { name: "", is_bytes: false })?;
        if edits.is_empty() {
            return Ok(());
        }
        let rule = self.counts.iter().find(|hit| !counts.contains(hit) && hit.action == Action::Mask);
        let rule = rule.map(|hit| Arc::clone(&hit.rule)).unwrap_or_default();
        Err(self.block(&rule, &super::in_a_name(&rule)))
    }

    /// Whether values that paths mask are looked for here.
    pub(super) fn looks_for_echoes(&self, here: &Here) -> bool {
        here.content && self.echoes.is_some()
    }

    /// Masks the whole value if a path ends here; says whether it did.
    fn whole(&mut self, value: Value<'_>, here: &Here, edits: &mut Vec<Edit>) -> Result<bool, Arc<str>> {
        let plan = self.plan;
        let mut rules = here.ends.iter().filter_map(|index| plan.rules.get(usize::from(*index)));
        let Some(rule) = rules.find(|rule| matches!(rule.what, What::Value)) else { return Ok(false) };
        let Then::Mask { style, name } = &rule.then else { return Ok(false) };
        let with = match value.kind() {
            Kind::Null => return Ok(false),
            Kind::Array => "[]".to_owned(),
            Kind::Object => "{}".to_owned(),
            Kind::False | Kind::True => "false".to_owned(),
            Kind::Number => "0".to_owned(),
            Kind::String => {
                let text = value.as_str().unwrap_or_default();
                format!("\"{}\"", escaped(&replacement(style, name, None, &text, self.key)))
            }
        };
        self.spend()?;
        self.count(&rule.pointer, Action::Mask);
        edits.push(Edit { range: span(value), with });
        Ok(true)
    }

    fn string(
        &mut self,
        value: Value<'_>,
        here: &Here,
        (spot, nested): (Spot<'_>, usize),
        edits: &mut Vec<Edit>,
    ) -> Result<(), Arc<str>> {
        let Some(text) = value.as_str() else { return Ok(()) };
        let found = if spot.is_bytes {
            self.bytes(&text, here, (spot, nested))?
        } else {
            self.text(&text, here, (spot, nested))?
        };
        to_source(value.raw(), value.offset(), &found, edits).ok_or_else(super::unreadable)
    }

    fn number(&mut self, value: Value<'_>, here: &Here, spot: Spot<'_>, edits: &mut Vec<Edit>) -> Result<(), Arc<str>> {
        /// The shortest number that a detector knows is of nine digits.
        const CHARS_MIN: usize = 9;
        let raw = value.raw();
        let concealed = self.is_concealed(here);
        let mut is_found = false;
        if raw.len() >= CHARS_MIN || here.patterns || self.looks_for_echoes(here) {
            let spelled = super::source::integer(raw);
            is_found = !self.plain(&spelled, here, spot)?.is_empty();
            if !is_found && spelled != raw {
                is_found = here.patterns && !self.plain(raw, here, spot)?.is_empty();
            }
        }
        if is_found || concealed {
            edits.push(Edit { range: span(value), with: "0".to_owned() });
        }
        Ok(())
    }

    /// Bytes in base 64: judged as the text that they are, if they are one. Pictures and sound are not looked into.
    fn bytes(&mut self, text: &str, here: &Here, (spot, nested): (Spot<'_>, usize)) -> Result<Vec<Edit>, Arc<str>> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(super::too_long());
        }
        let concealed = self.is_concealed(here);
        let decoded = decoded(text).and_then(|bytes| String::from_utf8(bytes).ok());
        let mut edits = self.plain(text, here, spot)?;
        if let Some(decoded) = decoded {
            let inner = if concealed { here.gone() } else { here.clone() };
            let inside = self.text(&decoded, &inner, (Spot { is_bytes: false, ..spot }, nested))?;
            if !inside.is_empty() {
                let mut splices = Splices::default();
                inside.into_iter().for_each(|edit| splices.replace(edit.range, edit.with));
                let masked = splices.apply(&decoded).ok_or_else(super::unreadable)?;
                edits = vec![Edit { range: 0..text.len(), with: BASE64.encode(masked) }];
            }
        }
        if concealed {
            edits = vec![Edit { range: 0..text.len(), with: String::new() }];
        }
        Ok(edits)
    }

    /// A text: JSON, if it is one to its last byte, else as it stands.
    pub(super) fn text(
        &mut self,
        text: &str,
        here: &Here,
        (spot, nested): (Spot<'_>, usize),
    ) -> Result<Vec<Edit>, Arc<str>> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(super::too_long());
        }
        if text.trim_ascii_start().starts_with(['{', '[', '"'])
            && let Some(edits) = self.json(text, here, (spot, nested))?
        {
            return Ok(edits);
        }
        // As behind a byte order mark: a rule that waits for a value in this text would never see it.
        if self.plan.leads_into_text(here) && looks_like_json(text) {
            return Err(super::unreadable());
        }
        if self.is_concealed(here) && !text.is_empty() {
            let muted = here.gone();
            self.plain(text, &muted, spot)?;
            let with = if spot.name == "uri" { super::MASKED_URI } else { super::MASKED };
            return Ok(vec![Edit { range: 0..text.len(), with: with.to_owned() }]);
        }
        self.plain(text, here, spot)
    }

    /// `None` for what is no JSON text.
    fn json(
        &mut self,
        text: &str,
        here: &Here,
        (spot, nested): (Spot<'_>, usize),
    ) -> Result<Option<Vec<Edit>>, Arc<str>> {
        let limits = Limits { bytes_max: TEXT_BYTES_MAX, ..Limits::default() };
        let document = match Document::parse(text.as_bytes(), limits) {
            Ok(document) => document,
            // Two readers could see two texts in it, or it cannot be followed to its end.
            Err(error) if is_ambiguous(error.defect) => return Err(super::unreadable()),
            // A rule that waits for a value in this text would never see it.
            Err(_) if self.plan.leads_into_text(here) && looks_like_json(text) => return Err(super::unreadable()),
            Err(_) => return Ok(None),
        };
        if nested >= NESTED_MAX {
            return Err(super::too_deep());
        }
        let next = self.plan.step(here, Step::Member("json"));
        let length = self.trail.len();
        self.push_trail("json");
        let mut edits = Vec::new();
        self.value(document.root(), &next, (Spot { is_bytes: false, ..spot }, nested.saturating_add(1)), &mut edits)?;
        self.trail.truncate(length);
        Ok(Some(edits))
    }

    /// Whether `reveal` takes this value away; notes the name of a field that nobody knows.
    fn is_concealed(&mut self, here: &Here) -> bool {
        if here.muted || !self.trails {
            return false;
        }
        if let Some(list) = self.plan.new_to(here) {
            self.note_field(list, Action::Report);
        }
        let Some(list) = self.plan.concealed_by(here) else { return false };
        self.note_field(list, Action::Mask);
        true
    }

    fn note_field(&mut self, list: &'p PathList, action: Action) {
        self.count(&list.pointer, action);
        if self.new_fields.len() < NEW_FIELDS_MAX && !self.new_fields.contains(&self.trail) {
            let cut = cut(&self.trail, FIELD_PATH_BYTES_MAX).to_owned();
            if !self.new_fields.contains(&cut) {
                self.new_fields.push(cut);
            }
        }
    }

    fn push_trail(&mut self, step: &str) {
        if !self.trails {
            return;
        }
        if !self.trail.is_empty() && step != "[*]" {
            self.trail.push('.');
        }
        self.trail.push_str(cut(step, FIELD_NAME_BYTES_MAX));
    }

    /// The rules of `block_if` that ask for values.
    fn conditions(&mut self, root: Value<'_>) -> Result<(), Arc<str>> {
        let plan = self.plan;
        match plan.conditions.iter().find(|rule| super::condition::applies(rule, root)) {
            Some(rule) => Err(self.block(&rule.pointer, &rule.text)),
            None => Ok(()),
        }
    }
}

/// The bytes of a text in base 64, as lenient readers take it: of either alphabet, and in lines as MIME has them.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let plain = |byte: u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    };
    let bytes: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).map(plain).collect();
    BASE64.decode(bytes).ok()
}

/// Whether the member is bytes in base 64: the contents of a resource, a picture, a sound.
fn is_bytes(parent: Value<'_>, key: &str) -> bool {
    let is_media = || {
        let kind = parent.get("type").and_then(Value::as_str);
        matches!(kind.as_deref(), Some("image" | "audio"))
    };
    match key {
        "blob" => parent.get("uri").is_some(),
        "data" => is_media(),
        _ => false,
    }
}

/// Defects of a text that one reader takes for JSON and another not, or that are bounds of ours.
const fn is_ambiguous(defect: JsonDefect) -> bool {
    match defect {
        JsonDefect::Control | JsonDefect::Depth | JsonDefect::DuplicateKey | JsonDefect::Nodes | JsonDefect::Size => {
            true
        }
        JsonDefect::Utf8 => true,
        JsonDefect::Empty | JsonDefect::Syntax | JsonDefect::Truncated => false,
    }
}

/// Whether a text that is no JSON looks as if it were meant to be: `{"` or `[{` at its start, apart from what nobody sees.
pub(super) fn looks_like_json(text: &str) -> bool {
    let mut marks = text.chars().filter(|c| !c.is_whitespace() && !is_unseen(*c));
    matches!((marks.next(), marks.next()), (Some('{'), Some('"' | '}')) | (Some('['), Some('{' | '[' | '"')))
}

/// The bytes of a value, quotes included.
fn span(value: Value<'_>) -> std::ops::Range<usize> {
    let (start, source) = (value.offset(), value.source());
    let start = if value.kind() == Kind::String { start.saturating_sub(1) } else { start };
    start..start.saturating_add(source.len())
}

/// At most that many bytes, whole characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}
