//! Values that a path masks, wherever else they stand in `content`: servers write there what `structuredContent` holds, and not
//! always as the same JSON.

use aho_corasick::{AhoCorasick, MatchKind};

use super::path::Step;
use super::plan::{Here, Plan};
use super::rule::{Then, What};
use super::{ECHOES_MAX, NESTED_MAX, TEXT_BYTES_MAX};
use crate::json::{Document, Kind, Limits, Value};

/// Characters of a value that is looked for: shorter ones stand in many texts by chance.
const CHARS_MIN: usize = 4;

/// The values, to be looked for.
#[derive(Debug)]
pub(super) struct Echoes {
    automaton: AhoCorasick,
    /// For each value the index of its rule.
    rules: Vec<usize>,
}

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
        let (texts, rules): (Vec<String>, Vec<usize>) = values.into_iter().unzip();
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts).map_err(drop)?;
        Ok(Some(Self { automaton, rules }))
    }

    /// Where they stand in a text, as words of their own, with the index of the rule.
    pub(super) fn find<'t>(&'t self, text: &'t str) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> + 't {
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        self.automaton.find_iter(text).filter_map(move |found| {
            let value = text.get(found.range())?;
            let before = text.get(..found.start())?.chars().next_back();
            let after = text.get(found.end()..)?.chars().next();
            let inside = (is_word(before) && is_word(value.chars().next()))
                || (is_word(after) && is_word(value.chars().next_back()));
            let rule = self.rules.get(found.pattern().as_usize())?;
            (!inside).then(|| (found.range(), *rule))
        })
    }
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
