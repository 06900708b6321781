//! Which rules apply at one place of a message.

use std::borrow::Cow;

use super::path::{Path, Step};
use super::rule::{ConditionRule, Detectors, Hidden, Links, PathList, Rule, RuleSet, What};

/// All rules for one message, from every place of the policy that has some.
#[derive(Debug, Default)]
pub(super) struct Plan<'p> {
    pub(super) rules: Vec<&'p Rule>,
    pub(super) conditions: Vec<&'p ConditionRule>,
    pub(super) reveals: Vec<&'p PathList>,
    pub(super) new_fields: Vec<&'p PathList>,
    pub(super) hidden: Option<&'p Hidden>,
    pub(super) links: Vec<&'p Links>,
    /// Where the paths lead that somebody waits for.
    targets: Vec<(&'p Path, Target)>,
    /// Detectors that look everywhere.
    everywhere: Detectors,
    /// Whether a pattern looks everywhere.
    patterns: bool,
    /// Rules that look everywhere, by index.
    general: Vec<u16>,
}

/// Places in messages that mean something to the protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'p> {
    /// What `reveal` never takes away.
    pub(super) envelope: &'p [Path],
    /// Tokens that are never masked.
    pub(super) opaque: &'p [Path],
    /// Where servers write what `structuredContent` holds once more.
    pub(super) content: &'p [Path],
}

/// What happens where a path ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// `result.content` starts here.
    Content,
    /// The field is known to that list of `report_new_fields`.
    Known(u16),
    /// A token of the protocol: clients send it back as it is.
    Opaque,
    /// The rule applies from here on.
    Rule(u16),
    /// That list of `reveal` shows the value.
    Shown(u16),
}

/// A place in a message.
#[derive(Clone, Debug, Default)]
pub(super) struct Here {
    /// Paths that lead on from here: index of the target, steps done.
    tracks: Vec<(u16, u16)>,
    /// Rules with paths that apply here, by index.
    pub(super) inside: Vec<u16>,
    /// Rules whose path ends at this very value.
    pub(super) ends: Vec<u16>,
    /// Lists of `reveal` that show the value.
    shown: Vec<u16>,
    /// Lists of `report_new_fields` that know the field.
    known: Vec<u16>,
    /// Detectors that look at the value.
    pub(super) detectors: Detectors,
    /// Whether patterns look at the value.
    pub(super) patterns: bool,
    /// Whether it is inside of `result.content`.
    pub(super) content: bool,
    /// Whether the value is gone already: only what blocks is still looked for.
    pub(super) muted: bool,
    /// Whether it is a token of the protocol, and muted as such.
    pub(super) is_token: bool,
}

impl Here {
    /// Whether no path ends at or below this value.
    pub(super) fn leads_nowhere(&self) -> bool {
        self.tracks.is_empty()
    }

    /// The place of the name of a member.
    pub(super) fn of_name(&self) -> Self {
        Self { content: false, ..self.clone() }
    }

    /// The same place in a value that is gone already.
    pub(super) fn gone(&self) -> Self {
        Self { muted: true, ..self.clone() }
    }
}

impl<'p> Plan<'p> {
    pub(super) fn of(sets: &[&'p RuleSet], known: &Known<'p>) -> Self {
        let mut plan = Plan::default();
        for set in sets {
            plan.rules.extend(set.rules.iter().map(|rule| &**rule));
            plan.conditions.extend(set.conditions.iter().map(|rule| &**rule));
            plan.reveals.extend(set.reveals.iter().map(|list| &**list));
            plan.new_fields.extend(set.new_fields.iter().map(|list| &**list));
            plan.links.extend(set.links.iter().map(|links| &**links));
            for hidden in &set.hidden {
                // The strictest decides: `Action` is in that order.
                if plan.hidden.is_none_or(|own| hidden.action < own.action) {
                    plan.hidden = Some(hidden);
                }
            }
        }
        if !plan.links.is_empty() {
            plan.everywhere |= Detectors::LINKS;
        }
        let mut targets = Vec::new();
        for (index, rule) in plan.rules.iter().enumerate() {
            if rule.paths.is_empty() {
                plan.general.push(narrow(index));
                match rule.what {
                    What::Detect(detectors) => plan.everywhere |= detectors,
                    What::Pattern(_) => plan.patterns = true,
                    What::Value => {}
                }
            }
            targets.extend(rule.paths.iter().map(|path| (path, Target::Rule(narrow(index)))));
        }
        for (index, list) in plan.reveals.iter().enumerate() {
            targets.extend(list.paths.iter().chain(known.envelope).map(|path| (path, Target::Shown(narrow(index)))));
        }
        for (index, list) in plan.new_fields.iter().enumerate() {
            let named = plan.rules.iter().flat_map(|rule| &*rule.paths);
            let judged = plan.conditions.iter().flat_map(|rule| &*rule.all).flat_map(|condition| &*condition.paths);
            let all = list.paths.iter().chain(named).chain(judged).chain(known.envelope);
            targets.extend(all.map(|path| (path, Target::Known(narrow(index)))));
        }
        if plan.rules.iter().any(|rule| matches!(rule.what, What::Value)) {
            targets.extend(known.content.iter().map(|path| (path, Target::Content)));
        }
        targets.extend(known.opaque.iter().map(|path| (path, Target::Opaque)));
        plan.targets = targets;
        plan
    }

    /// The place where a message starts.
    pub(super) fn root(&self) -> Here {
        let tracks = (0..narrow(self.targets.len())).map(|target| (target, 0)).collect();
        self.looked_at(Here { tracks, ..Here::default() })
    }

    /// A place to which every rule that looks for something applies.
    pub(super) fn anywhere(&self) -> Here {
        let scoped = self.rules.iter().enumerate().filter(|(_, rule)| !rule.paths.is_empty());
        self.looked_at(Here { inside: scoped.map(|(index, _)| narrow(index)).collect(), ..Here::default() })
    }

    /// One step further.
    pub(super) fn step<'h>(&self, here: &'h Here, step: Step<'_>) -> Cow<'h, Here> {
        if here.tracks.is_empty() && here.ends.is_empty() {
            return Cow::Borrowed(here);
        }
        let mut next = Here {
            tracks: Vec::new(),
            inside: here.inside.clone(),
            ends: Vec::new(),
            shown: here.shown.clone(),
            known: here.known.clone(),
            is_token: false,
            ..*here
        };
        for (target, done) in &here.tracks {
            let Some((path, wanted)) = self.targets.get(usize::from(*target)) else { continue };
            let Some(segment) = path.0.get(usize::from(*done)) else { continue };
            if !segment.takes(step) {
                continue;
            }
            let done = done.saturating_add(1);
            if usize::from(done) < path.0.len() {
                next.tracks.push((*target, done));
                continue;
            }
            match *wanted {
                Target::Content => next.content = true,
                Target::Opaque => (next.muted, next.is_token) = (true, true),
                Target::Known(list) => next.known.push(list),
                Target::Rule(rule) => {
                    next.ends.push(rule);
                    if !next.inside.contains(&rule) {
                        next.inside.push(rule);
                    }
                }
                Target::Shown(list) => next.shown.push(list),
            }
        }
        Cow::Owned(if next.ends.is_empty() { next } else { self.looked_at(next) })
    }

    /// Whether a path leads from here into the JSON text of a string.
    pub(super) fn leads_into_text(&self, here: &Here) -> bool {
        here.tracks.iter().any(|(target, done)| {
            let path = self.targets.get(usize::from(*target)).map(|(path, _)| *path);
            let is_rule = matches!(self.targets.get(usize::from(*target)), Some((_, Target::Rule(_))));
            is_rule
                && path.is_some_and(|path| {
                    path.0.get(usize::from(*done)).is_some_and(|next| next.takes(Step::Member("json")))
                })
        })
    }

    /// The rules that look at this place.
    pub(super) fn rules_at<'h>(&'h self, here: &'h Here) -> impl Iterator<Item = (usize, &'p Rule)> + 'h {
        let indexes = here.inside.iter().chain(&self.general).copied();
        indexes.filter_map(|index| Some((usize::from(index), *self.rules.get(usize::from(index))?)))
    }

    /// Notes what looks at the place.
    fn looked_at(&self, mut here: Here) -> Here {
        (here.detectors, here.patterns) = (self.everywhere, self.patterns);
        for rule in here.inside.iter().filter_map(|index| self.rules.get(usize::from(*index))) {
            match rule.what {
                What::Detect(detectors) => here.detectors |= detectors,
                What::Pattern(_) => here.patterns = true,
                What::Value => {}
            }
        }
        here
    }

    /// The first list of `reveal` that does not show the value.
    pub(super) fn concealed_by(&self, here: &Here) -> Option<&'p PathList> {
        first_without(&self.reveals, &here.shown)
    }

    /// The first list of `report_new_fields` that does not know the field.
    pub(super) fn new_to(&self, here: &Here) -> Option<&'p PathList> {
        first_without(&self.new_fields, &here.known)
    }
}

fn first_without<'p>(lists: &[&'p PathList], named: &[u16]) -> Option<&'p PathList> {
    let mut all = lists.iter().enumerate();
    all.find(|(index, _)| !named.contains(&narrow(*index))).map(|(_, list)| *list)
}

/// Lossless: a policy has fewer rules and paths than that.
fn narrow(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}
