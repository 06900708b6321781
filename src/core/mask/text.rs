//! One string: what the rules find in it, and what stands there instead.

use std::ops::Range;
use std::sync::Arc;

use super::fold::{Folded, fold};
use super::plan::Here;
use super::rule::{Detector, Detectors, Rule, Style, Then, What};
use super::scan::{self, Found};
use super::style::replacement;
use super::walk::Walk;
use super::{Action, HITS_MAX, TEXT_BYTES_MAX};

/// A piece of a text and what stands there instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) with: String,
}

/// A string in a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot<'a> {
    /// The name of its member.
    pub(super) name: &'a str,
    /// Whether it is bytes in base 64, of which only what has a form is looked for.
    pub(super) is_bytes: bool,
}

/// Something to be replaced.
struct Hit<'p> {
    range: Range<usize>,
    by: By<'p>,
}

#[derive(Clone, Copy)]
enum By<'p> {
    Hidden(&'p Arc<str>),
    Link(&'p Arc<str>),
    /// The place of the rule in the plan decides between equals.
    Rule(usize, &'p Rule, Option<Detector>),
}

impl<'p> Walk<'p, '_> {
    /// What becomes of a text that is no JSON.
    ///
    /// # Errors
    /// The message is withheld.
    pub(super) fn plain(&mut self, text: &str, here: &Here, spot: Spot<'_>) -> Result<Vec<Edit>, Arc<str>> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(super::too_long());
        }
        let detectors = if spot.is_bytes { here.detectors.without(Detector::HighEntropy) } else { here.detectors };
        if detectors.is_empty() && !here.patterns && self.plan.hidden.is_none() && !self.looks_for_echoes(here) {
            return Ok(Vec::new());
        }
        let folded = fold(text);
        let mut hits = Vec::new();
        self.hidden(folded.as_ref(), here, &mut hits)?;
        self.detected(text, folded.as_ref(), (here, spot.name, detectors), &mut hits)?;
        if here.patterns {
            self.matched(text, folded.as_ref(), here, &mut hits)?;
        }
        if self.looks_for_echoes(here) {
            self.echoed(text, folded.as_ref(), &mut hits)?;
        }
        if here.muted || hits.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.resolve(text, hits, spot))
    }

    fn hidden(&mut self, folded: Option<&Folded>, here: &Here, hits: &mut Vec<Hit<'p>>) -> Result<(), Arc<str>> {
        let (Some(rule), Some(folded)) = (self.plan.hidden, folded) else { return Ok(()) };
        for range in &folded.hidden {
            self.spend()?;
            match rule.action {
                Action::Block => {
                    return Err(self.block(&rule.pointer, &super::blocked_by(&rule.pointer)));
                }
                Action::Mask => hits.push(Hit { range: range.clone(), by: By::Hidden(&rule.pointer) }),
                Action::Report if here.muted => {}
                Action::Report => self.count(&rule.pointer, Action::Report),
            }
        }
        Ok(())
    }

    fn detected(
        &mut self,
        text: &str,
        folded: Option<&Folded>,
        (here, name, detectors): (&Here, &str, Detectors),
        hits: &mut Vec<Hit<'p>>,
    ) -> Result<(), Arc<str>> {
        if detectors.is_empty() {
            return Ok(());
        }
        let shown = folded.map_or(text, |folded| &folded.text);
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        scan::scan(shown, name, detectors, HITS_MAX, &mut found);
        if found.len() > HITS_MAX {
            // What comes after them was not looked at, and those of links that may stay are no hits.
            return Err(super::too_many());
        }
        let mut outcome = Ok(());
        for Found { range, detector } in found.iter().cloned() {
            let source = folded.map_or_else(|| range.clone(), |folded| folded.source(&range));
            outcome = match detector {
                None => self.link(shown.get(range).unwrap_or_default(), &source, here, hits),
                Some(detector) => self.by_rules(here, &source, detector, hits),
            };
            if outcome.is_err() {
                break;
            }
        }
        self.found = found;
        outcome
    }

    fn by_rules(
        &mut self,
        here: &Here,
        range: &Range<usize>,
        detector: Detector,
        hits: &mut Vec<Hit<'p>>,
    ) -> Result<(), Arc<str>> {
        let plan = self.plan;
        for (index, rule) in plan.rules_at(here) {
            if !matches!(rule.what, What::Detect(set) if set.has(detector)) {
                continue;
            }
            self.spend()?;
            match &rule.then {
                Then::Block(text) => return Err(self.block(&rule.pointer, text)),
                Then::Mask { .. } => hits.push(Hit { range: range.clone(), by: By::Rule(index, rule, Some(detector)) }),
            }
        }
        Ok(())
    }

    fn link(&mut self, link: &str, range: &Range<usize>, here: &Here, hits: &mut Vec<Hit<'p>>) -> Result<(), Arc<str>> {
        let host = scan::host(link);
        for links in &self.plan.links {
            if host.as_deref().is_some_and(|host| links.allows(host)) {
                continue;
            }
            self.spend()?;
            match links.action {
                Action::Block => return Err(self.block(&links.pointer, &super::blocked_by(&links.pointer))),
                Action::Mask => hits.push(Hit { range: range.clone(), by: By::Link(&links.pointer) }),
                Action::Report if here.muted => {}
                Action::Report => self.count(&links.pointer, Action::Report),
            }
        }
        Ok(())
    }

    /// Patterns see the text as it is, and once more as a reader sees it, where that differs.
    fn matched(
        &mut self,
        text: &str,
        folded: Option<&Folded>,
        here: &Here,
        hits: &mut Vec<Hit<'p>>,
    ) -> Result<(), Arc<str>> {
        let plan = self.plan;
        for (index, rule) in plan.rules_at(here) {
            let What::Pattern(regex) = &rule.what else { continue };
            let shown = folded.map(|folded| regex.find_iter(&folded.text).map(|found| folded.source(&found.range())));
            for range in regex.find_iter(text).map(|found| found.range()).chain(shown.into_iter().flatten()) {
                if range.is_empty() {
                    continue;
                }
                self.spend()?;
                match &rule.then {
                    Then::Block(text) => return Err(self.block(&rule.pointer, text)),
                    Then::Mask { .. } => hits.push(Hit { range, by: By::Rule(index, rule, None) }),
                }
            }
        }
        Ok(())
    }

    /// Values that a path masks elsewhere in the message.
    fn echoed(&mut self, text: &str, folded: Option<&Folded>, hits: &mut Vec<Hit<'p>>) -> Result<(), Arc<str>> {
        let Some(echoes) = self.echoes.take() else { return Ok(()) };
        let (plan, shown) = (self.plan, folded.map_or(text, |folded| &folded.text));
        let mut outcome = Ok(());
        for (range, index) in echoes.find(shown) {
            let Some(rule) = plan.rules.get(index) else { continue };
            outcome = self.spend();
            if outcome.is_err() {
                break;
            }
            let range = folded.map_or_else(|| range.clone(), |folded| folded.source(&range));
            hits.push(Hit { range, by: By::Rule(index, rule, None) });
        }
        self.echoes = Some(echoes);
        outcome
    }

    /// Hits that overlap become one: the widest decides what stands there, of equals the one that starts first, then the rule
    /// that comes first; all that any of them covers is gone.
    fn resolve(&mut self, text: &str, mut hits: Vec<Hit<'p>>, spot: Spot<'_>) -> Vec<Edit> {
        hits.sort_by(|a, b| {
            a.range.start.cmp(&b.range.start).then(b.range.end.cmp(&a.range.end)).then(a.order().cmp(&b.order()))
        });
        let mut edits = Vec::new();
        let mut rest = hits.iter().peekable();
        while let Some(first) = rest.next() {
            let (mut best, mut union, mut alone) = (first, first.range.clone(), true);
            while let Some(next) = rest.next_if(|next| next.range.start < union.end) {
                union.end = union.end.max(next.range.end);
                // Hidden characters inside of something leave with it.
                alone &= next.is_hidden() || (next.range == best.range && next.is_partial());
                if next.range.len() > best.range.len() || (next.range == best.range && next.order() < best.order()) {
                    best = next;
                }
            }
            alone &= union == best.range;
            let with = self.with(text, best, alone, spot);
            self.count(best.pointer(), Action::Mask);
            edits.push(Edit { range: union, with });
        }
        edits
    }

    /// What stands in the place of a hit. What `partial` would keep of a value may be what another rule masks.
    fn with(&self, text: &str, hit: &Hit<'p>, alone: bool, spot: Spot<'_>) -> String {
        match hit.by {
            By::Hidden(_) => String::new(),
            By::Link(_) if spot.name == "uri" => super::MASKED_URI.to_owned(),
            By::Link(_) => "[link]".to_owned(),
            By::Rule(_, rule, found) => {
                let Then::Mask { style, name } = &rule.then else { return String::new() };
                let style = if alone || *style != Style::Partial { style } else { &Style::Fixed(None) };
                // What nobody sees is no part of the value.
                let value = text.get(hit.range.clone()).unwrap_or_default();
                let folded = fold(value);
                replacement(style, name, found, folded.as_ref().map_or(value, |folded| &folded.text), self.key)
            }
        }
    }
}

impl Hit<'_> {
    fn order(&self) -> usize {
        match self.by {
            By::Rule(index, ..) => index,
            By::Link(_) => usize::MAX.saturating_sub(1),
            By::Hidden(_) => usize::MAX,
        }
    }

    fn is_hidden(&self) -> bool {
        matches!(self.by, By::Hidden(_))
    }

    fn is_partial(&self) -> bool {
        matches!(self.by, By::Rule(_, Rule { then: Then::Mask { style: Style::Partial, .. }, .. }, _))
    }

    fn pointer(&self) -> &Arc<str> {
        match &self.by {
            By::Hidden(pointer) | By::Link(pointer) => pointer,
            By::Rule(_, rule, _) => &rule.pointer,
        }
    }
}
