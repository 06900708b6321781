//! Definitions in lists: what `inspect` at the root of a policy does to the texts that describe tools, prompts and resources.

use std::sync::Arc;

use super::fold::fold;
use super::rule::{Detectors, Hidden, Links, RuleSet};
use super::scan::{self, Found};
use super::source::to_source;
use super::text::Edit;
use super::{Action, Findings, HITS_MAX, Hit, TEXT_BYTES_MAX};
use crate::json::{Kind, Value};
use crate::splice::Splices;

/// Members whose text is for reading only: cleaning them changes no name by which anything is called.
const TEXTS: &[&str] = &["description", "title"];

/// The rules for elements of lists.
#[derive(Clone, Copy, Debug)]
pub struct DefinitionRules<'p> {
    hidden: Option<&'p Hidden>,
    links: &'p [Arc<Links>],
}

/// What becomes of an element of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It stays, with the splices made.
    Stays,
    /// It is hidden.
    Hidden,
}

impl<'p> DefinitionRules<'p> {
    pub(super) fn of(set: &'p RuleSet) -> Self {
        Self { hidden: set.hidden.first().map(|hidden| &**hidden), links: &set.links }
    }

    /// Whether nothing needs to be looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hidden.is_none() && self.links.is_empty()
    }

    /// Judges one element of a list, such as a tool of `result.tools`.
    ///
    /// `mask` cleans descriptions and titles at every depth; where hidden characters stand in a name or a schema, which cannot be
    /// changed, it hides the element as `block` does.
    pub fn judge(&self, element: Value<'_>, splices: &mut Splices, findings: &mut Findings) -> Shown {
        let mut inspection = Inspection { rules: *self, counts: Vec::new(), found: Vec::new(), edits: Vec::new() };
        let stays = self.is_empty() || inspection.value(element, false).is_some();
        if stays {
            inspection.edits.into_iter().for_each(|edit| splices.replace(edit.range, edit.with));
        }
        for (rule, action) in inspection.counts {
            if !stays && action != Action::Block {
                continue;
            }
            match findings.hits.iter_mut().find(|hit| hit.rule == rule && hit.action == action) {
                Some(hit) => hit.count = hit.count.saturating_add(1),
                None => findings.hits.push(Hit { rule, action, count: 1 }),
            }
        }
        if stays { Shown::Stays } else { Shown::Hidden }
    }
}

struct Inspection<'p> {
    rules: DefinitionRules<'p>,
    counts: Vec<(Arc<str>, Action)>,
    found: Vec<Found>,
    edits: Vec<Edit>,
}

/// `None` hides the element. Depth is bounded by the parser's limits, so recursion is.
impl Inspection<'_> {
    fn value(&mut self, value: Value<'_>, is_text: bool) -> Option<()> {
        match value.kind() {
            Kind::Object => {
                for (key, member) in value.members() {
                    self.text(&key, false)?;
                    // A property of a schema may be called so too: then its value is an object.
                    self.value(member, TEXTS.contains(&&*key) && member.kind() == Kind::String)?;
                }
                Some(())
            }
            Kind::Array => value.elements().try_for_each(|element| self.value(element, false)),
            Kind::String => {
                let text = value.as_str()?;
                let edits = self.text(&text, is_text)?;
                to_source(value.raw(), value.offset(), &edits, &mut self.edits)
            }
            Kind::False | Kind::Null | Kind::Number | Kind::True => Some(()),
        }
    }

    fn text(&mut self, text: &str, may_change: bool) -> Option<Vec<Edit>> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let mut edits = Vec::new();
        let folded = fold(text);
        if let (Some(rule), Some(folded)) = (self.rules.hidden, &folded) {
            for range in &folded.hidden {
                self.act(&rule.pointer, rule.action, may_change)?;
                if rule.action == Action::Mask {
                    edits.push(Edit { range: range.clone(), with: String::new() });
                }
            }
        }
        if may_change && !self.rules.links.is_empty() {
            let shown = folded.as_ref().map_or(text, |folded| &folded.text);
            self.found.clear();
            scan::scan(shown, "", Detectors::LINKS, HITS_MAX, &mut self.found);
            if self.found.len() > HITS_MAX {
                return None;
            }
            for Found { range, .. } in std::mem::take(&mut self.found) {
                let host = scan::host(shown.get(range.clone()).unwrap_or_default());
                for links in self.rules.links {
                    if host.as_deref().is_some_and(|host| links.allows(host)) {
                        continue;
                    }
                    self.act(&links.pointer, links.action, may_change)?;
                    if links.action == Action::Mask {
                        let range = folded.as_ref().map_or_else(|| range.clone(), |folded| folded.source(&range));
                        // Hidden characters inside of it leave with it.
                        edits.retain(|edit| edit.range.end <= range.start || edit.range.start >= range.end);
                        edits.push(Edit { range, with: "[link]".to_owned() });
                    }
                }
            }
            edits.sort_by_key(|edit| edit.range.start);
        }
        Some(edits)
    }

    fn act(&mut self, rule: &Arc<str>, action: Action, may_change: bool) -> Option<()> {
        let action = if action == Action::Mask && !may_change { Action::Block } else { action };
        if self.counts.len() >= HITS_MAX {
            return None;
        }
        self.counts.push((Arc::clone(rule), action));
        (action != Action::Block).then_some(())
    }
}
