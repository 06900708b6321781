//! Values that a path masks, wherever else they stand in `content`: servers write there what `structuredContent` holds, and not
//! always as the same JSON.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::path::Step;
use super::plan::{Here, Plan};
use super::rule::{Then, What};
use super::{ECHOES_MAX, NESTED_MAX, TEXT_BYTES_MAX};
use crate::json::{Document, Kind, Limits, Value};

/// Characters of a value that is looked for: shorter ones stand in many texts by chance.
const CHARS_MIN: usize = 4;
/// Bytes of a value that the search compares; how much more of a longer one stands in the text is looked at where it begins.
/// The time to prepare a search is quadratic in this.
const START_MAX: usize = 64;

/// The values, to be looked for.
#[derive(Debug)]
pub(super) struct Echoes {
    automaton: AhoCorasick,
    /// For each start the values that begin with it.
    starts: Vec<Range<usize>>,
    /// In order.
    values: Vec<Echo>,
}

/// A value and the index of its rule.
type Echo = (String, usize);

impl Echoes {
    /// Collects the values that paths of the plan mask in the message. `Err` if there are too many to be looked for.
    pub(super) fn of(plan: &Plan<'_>, root: Value<'_>) -> Result<Option<Self>, ()> {
        if !plan.rules.iter().any(|rule| matches!((&rule.what, &rule.then), (What::Value, Then::Mask { .. }))) {
            return Ok(None);
        }
        let mut collector = Collector { plan, values: Vec::new() };
        collector.value(root, &plan.root(), 0);
        let mut values = collector.values;
        if values.len() > ECHOES_MAX {
            return Err(());
        }
        values.sort();
        values.dedup_by(|a, b| a.0 == b.0);
        if values.is_empty() {
            return Ok(None);
        }
        let (mut texts, mut starts): (Vec<&str>, Vec<Range<usize>>) = (Vec::new(), Vec::new());
        for (index, (value, _)) in values.iter().enumerate() {
            let start = beginning(value);
            match (texts.last(), starts.last_mut()) {
                (Some(last), Some(range)) if *last == start => range.end = index.saturating_add(1),
                _ => {
                    texts.push(start);
                    starts.push(index..index.saturating_add(1));
                }
            }
        }
        // A table of all transitions would have hundreds of bytes for each byte of the values.
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let automaton =
            AhoCorasick::builder().kind(kind).match_kind(MatchKind::Standard).build(&texts).map_err(drop)?;
        Ok(Some(Self { automaton, starts, values }))
    }

    /// Where they stand in a text, as words of their own, with the index of the rule; of a long one also where only its beginning
    /// does. They may overlap.
    pub(super) fn find<'t>(&'t self, text: &'t str) -> impl Iterator<Item = (Range<usize>, usize)> + 't {
        let mut done = 0usize;
        self.automaton.find_overlapping_iter(text).filter_map(move |found| {
            let range = found.range();
            if is_word(text, range.start) {
                return None;
            }
            let values = self.values.get(self.starts.get(found.pattern().as_usize())?.clone())?;
            let (whole, rule) = values.first()?;
            if whole.len() == range.len() && values.len() == 1 {
                return (!is_word(text, range.end)).then_some((range, *rule));
            }
            // What stands within another's copy is gone with it, and comparing it again would cost time.
            if range.end <= done {
                return None;
            }
            let (length, rule) = closest(values, text.get(range.start..)?)?;
            done = range.start.saturating_add(length);
            Some((range.start..done, rule))
        })
    }
}

/// Whether a word goes on across the position.
fn is_word(text: &str, at: usize) -> bool {
    let (before, after) = text.split_at_checked(at).unwrap_or_default();
    before.chars().next_back().is_some_and(char::is_alphanumeric)
        && after.chars().next().is_some_and(char::is_alphanumeric)
}

/// As much of a value as the search compares.
fn beginning(value: &str) -> &str {
    let end = (0..=START_MAX.min(value.len())).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
    value.get(..end).unwrap_or_default()
}

/// How many bytes of the text are the beginning of one of the values, which are in order, at most; and the rule of that one.
fn closest(values: &[Echo], text: &str) -> Option<(usize, usize)> {
    let at = values.partition_point(|(value, _)| value.as_str() < text);
    let neighbors = [at.checked_sub(1), Some(at)].into_iter().flatten().filter_map(|at| values.get(at));
    neighbors.map(|(value, rule)| (shared(value, text), *rule)).max_by_key(|(length, _)| *length)
}

/// Bytes at the start that both have, whole characters.
fn shared(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    (0..=same).rev().find(|at| a.is_char_boundary(*at)).unwrap_or(0)
}

struct Collector<'w, 'p> {
    plan: &'w Plan<'p>,
    values: Vec<(String, usize)>,
}

/// Depth is bounded by the parser's limits and [`NESTED_MAX`], so recursion is.
impl Collector<'_, '_> {
    fn value(&mut self, value: Value<'_>, here: &Here, nested: usize) {
        let mut rules = here.ends.iter().map(|index| usize::from(*index));
        let is_whole = |index: &usize| self.plan.rules.get(*index).is_some_and(|rule| matches!(rule.what, What::Value));
        if let Some(rule) = rules.find(is_whole) {
            return self.leaves(value, rule);
        }
        if here.leads_nowhere() {
            return;
        }
        match value.kind() {
            Kind::Object => {
                for (key, member) in value.members() {
                    self.value(member, &self.plan.step(here, Step::Member(&key)), nested);
                }
            }
            Kind::Array => {
                let next = self.plan.step(here, Step::Element);
                value.elements().for_each(|element| self.value(element, &next, nested));
            }
            Kind::String if nested < NESTED_MAX => {
                let text = value.as_str().unwrap_or_default();
                let limits = Limits { bytes_max: TEXT_BYTES_MAX, ..Limits::default() };
                if text.trim_ascii_start().starts_with(['{', '['])
                    && let Ok(document) = Document::parse(text.as_bytes(), limits)
                {
                    let next = self.plan.step(here, Step::Member("json"));
                    self.value(document.root(), &next, nested.saturating_add(1));
                }
            }
            Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => {}
        }
    }

    fn leaves(&mut self, value: Value<'_>, rule: usize) {
        match value.kind() {
            Kind::Object => value.members().for_each(|(_, member)| self.leaves(member, rule)),
            Kind::Array => value.elements().for_each(|element| self.leaves(element, rule)),
            Kind::String => self.push(&value.as_str().unwrap_or_default(), rule),
            Kind::Number => self.push(value.raw(), rule),
            Kind::False | Kind::Null | Kind::True => {}
        }
    }

    fn push(&mut self, text: &str, rule: usize) {
        let text = text.trim();
        if self.values.len() <= ECHOES_MAX && text.chars().nth(CHARS_MIN.saturating_sub(1)).is_some() {
            self.values.push((text.to_owned(), rule));
        }
    }
}
