//! Why a call is decided as it is: every step, and every condition with what it said.

use super::condition::Compat;
use super::limit::{Amount, Limit};
use super::{Conditions, Entry, Place, Policy, Section, Truth};
use crate::decision::{Decision, Reason, pointer};
use crate::json::Value;
use crate::principal::Principal;

/// A decision and the way to it. All steps are told, also those after the one that denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decision, as [`Policy::decide`] gives it.
    pub decision: Decision,
    /// The steps in the order of evaluation.
    pub steps: Vec<Step>,
}

/// One step of the evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub kind: StepKind,
    /// RFC 6901 pointer of the rule or limit; `None` for `hide` and `default`.
    pub exact: Option<String>,
    /// What it said.
    pub outcome: StepOutcome,
    /// In words, where there is more to tell.
    pub note: String,
    /// The conditions of a rule.
    pub conditions: Vec<ConditionStep>,
}

/// The kinds of steps, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Is the tool hidden?
    Hide,
    /// Is the tool named, or else allowed by default?
    Default,
    /// A rule of `require`.
    Require,
    /// A rule of `deny_if`.
    DenyIf,
    /// A limit.
    Limit,
}

impl StepKind {
    /// The word in the policy.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            StepKind::Default => "default",
            StepKind::DenyIf => "deny_if",
            StepKind::Hide => "hide",
            StepKind::Limit => "limit",
            StepKind::Require => "require",
        }
    }
}

/// What a step said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// It denies, for this reason.
    Denies(Reason),
    /// It lets the call go on.
    Passes,
}

/// What one condition said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionStep {
    /// RFC 6901 pointer of the condition.
    pub exact: String,
    /// The path as in the policy.
    pub path: String,
    /// The operator.
    pub operator: &'static str,
    /// The policy's value as JSON.
    pub value: String,
    /// The type found in the call, `missing` for none. Never the value.
    pub found: &'static str,
    /// The answer.
    pub truth: Truth,
}

pub(super) fn explain(
    policy: &Policy,
    who: &Principal,
    server: &str,
    tool: &str,
    arguments: Option<Value<'_>>,
) -> Explanation {
    let decision = policy.decide(who, server, tool, arguments);
    let entry = policy.tools.get(tool);
    let hidden = policy.hides_all || matches!(entry, Some(Entry::Hidden));
    let mut steps = vec![plain(
        StepKind::Hide,
        hidden.then_some(Reason::Hidden),
        match hidden {
            true if policy.hides_all => "every tool is hidden",
            true => "the tool is hidden by name",
            false => "the tool is not hidden",
        },
    )];
    let rules = match entry {
        Some(Entry::Listed(rules)) => Some(rules),
        Some(Entry::Hidden) | None => None,
    };
    if !hidden {
        let refused = rules.is_none() && !policy.default_allows();
        steps.push(plain(
            StepKind::Default,
            refused.then_some(Reason::DefaultDeny),
            match rules {
                Some(_) => "the policy names the tool",
                None if refused => "the policy does not name the tool, and its default is deny",
                None => "the policy does not name the tool, and its default is allow",
            },
        ));
    }
    if let Some(rules) = rules.filter(|_| !hidden) {
        let teller = Teller { tool, arguments, compat: policy.compat };
        steps.extend(rules.require.iter().enumerate().map(|(rule, all)| teller.rule(Section::Require, rule, all)));
        steps.extend(rules.deny_if.iter().enumerate().map(|(rule, all)| teller.rule(Section::DenyIf, rule, all)));
        steps.extend(rules.limits.iter().map(|limit| teller.limit(limit)));
    }
    if !hidden && (rules.is_some() || policy.default_allows()) {
        let teller = Teller { tool, arguments, compat: policy.compat };
        steps.extend(policy.limits.iter().map(|limit| teller.limit(limit)));
    }
    Explanation { decision, steps }
}

fn plain(kind: StepKind, denies: Option<Reason>, note: &str) -> Step {
    let outcome = denies.map_or(StepOutcome::Passes, StepOutcome::Denies);
    Step { kind, exact: None, outcome, note: note.to_owned(), conditions: Vec::new() }
}

struct Teller<'a> {
    tool: &'a str,
    arguments: Option<Value<'a>>,
    compat: Compat,
}

impl Teller<'_> {
    fn rule(&self, section: Section, rule: usize, conditions: &Conditions) -> Step {
        let place = Place { tool: self.tool, section, rule };
        let (kind, denies) = match section {
            Section::DenyIf => (StepKind::DenyIf, conditions.hit(self.arguments, self.compat)),
            Section::Require => {
                (StepKind::Require, conditions.unmet(self.arguments, self.compat).map(|(_, reason)| reason))
            }
        };
        let told = conditions.all.iter().enumerate().map(|(index, condition)| ConditionStep {
            exact: conditions.rule(place, index).exact.as_deref().unwrap_or_default().to_owned(),
            path: condition.path.text(),
            operator: condition.test.operator(),
            value: condition.test.value_text(),
            found: condition.path.find(self.arguments).map_or("missing", |value| value.kind().name()),
            truth: condition.judge(self.arguments, self.compat),
        });
        Step {
            kind,
            exact: Some(pointer(&["tools", self.tool, section.name(), &rule.to_string()])),
            outcome: denies.map_or(StepOutcome::Passes, StepOutcome::Denies),
            note: String::new(),
            conditions: told.collect(),
        }
    }

    fn limit(&self, limit: &Limit) -> Step {
        let source = match &limit.amount {
            Amount::From(path) => format!("units from {}", path.text()),
            Amount::One => "1 unit".to_owned(),
        };
        let (outcome, cost) = match limit.units(self.arguments, self.compat) {
            Err(reason) => (StepOutcome::Denies(reason), "no amount can be read".to_owned()),
            Ok(units) if units > limit.max => (StepOutcome::Denies(Reason::NeverFits), format!("costs {units}")),
            Ok(units) => (StepOutcome::Passes, format!("costs {units}, if that much is left")),
        };
        let (counter, max, window, scope) = (&limit.terms.name, limit.max, &limit.terms.window, &limit.terms.scope);
        Step {
            kind: StepKind::Limit,
            exact: limit.terms.denial.rule.exact.as_deref().map(str::to_owned),
            outcome,
            note: format!("counter `{counter}`: at most {max} per {window} and {scope}; {source}; {cost}"),
            conditions: Vec::new(),
        }
    }
}
