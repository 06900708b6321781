//! Why a call is decided as it is: every step, and every condition with what it said.

use super::amount::Source;
use super::limit::{Call, Facts, Limit};
use super::window::{Kind, Window, duration_text};
use super::{Conditions, Entry, Place, Policy, Section, Truth};
use crate::decision::{Decision, Reason, pointer};
use crate::number::units_text;
use crate::principal::Principal;
use crate::quota::{LINES_MAX, Mode};

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
    /// The schema of the tool, told by whoever has it.
    Schema,
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
            StepKind::Schema => "schema_from",
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

pub(super) fn explain(policy: &Policy, who: &Principal, call: &Call<'_>) -> Explanation {
    let decision = policy.decide(who, call);
    let entry = policy.tools.get(call.tool);
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
    let mut teller = Teller { facts: Facts { policy: &policy.id, who, call, compat: policy.compat }, counters: 0 };
    if let Some(rules) = rules.filter(|_| !hidden) {
        steps.extend(rules.require.iter().enumerate().map(|(rule, all)| teller.rule(Section::Require, rule, all)));
        steps.extend(rules.deny_if.iter().enumerate().map(|(rule, all)| teller.rule(Section::DenyIf, rule, all)));
        steps.extend(rules.limits.iter().map(|limit| teller.limit(limit)));
    }
    if !hidden && (rules.is_some() || policy.default_allows()) {
        steps.extend(policy.limits.iter().map(|limit| teller.limit(limit)));
    }
    Explanation { decision, steps }
}

fn plain(kind: StepKind, denies: Option<Reason>, note: &str) -> Step {
    let outcome = denies.map_or(StepOutcome::Passes, StepOutcome::Denies);
    Step { kind, exact: None, outcome, note: note.to_owned(), conditions: Vec::new() }
}

struct Teller<'a> {
    facts: Facts<'a>,
    /// Counters of the limits told so far.
    counters: usize,
}

impl Teller<'_> {
    fn rule(&self, section: Section, rule: usize, conditions: &Conditions) -> Step {
        let Facts { call: Call { tool, arguments, .. }, compat, .. } = self.facts;
        let place = Place { tool, section, rule };
        let (kind, denies) = match section {
            Section::DenyIf => (StepKind::DenyIf, conditions.hit(*arguments, compat)),
            Section::Require => (StepKind::Require, conditions.unmet(*arguments, compat).map(|(_, reason)| reason)),
        };
        let told = conditions.all.iter().enumerate().map(|(index, condition)| ConditionStep {
            exact: conditions.rule(place, index).exact.as_deref().unwrap_or_default().to_owned(),
            path: condition.path.text(),
            operator: condition.test.operator(),
            value: condition.test.value_text(),
            found: condition.path.find(*arguments).map_or("missing", |value| value.kind().name()),
            truth: condition.judge(*arguments, compat),
        });
        Step {
            kind,
            exact: Some(pointer(&["tools", tool, section.name(), &rule.to_string()])),
            outcome: denies.map_or(StepOutcome::Passes, StepOutcome::Denies),
            note: String::new(),
            conditions: told.collect(),
        }
    }

    fn limit(&mut self, limit: &Limit) -> Step {
        let shown = |units: u64| units_text(units, limit.terms.scale);
        let source = match &limit.amount.source {
            Source::Call => "1 unit; ".to_owned(),
            Source::Nothing => String::new(),
            source @ (Source::Argument(_) | Source::Bytes(_) | Source::Count(_) | Source::RequestBytes) => {
                format!("units from {}; ", source.text())
            }
            source @ (Source::ResponseBytes | Source::Result(_)) => {
                format!("units from {}, and until that is known {}; ", source.text(), shown(limit.amount.hold))
            }
        };
        let counters = limit.charges_of(self.facts.who);
        self.counters = self.counters.saturating_add(counters);
        let denies = |reason, why: String| (StepOutcome::Denies(reason), why);
        let (outcome, cost) = match limit.units(&self.facts) {
            Err(Reason::NeverFits) => denies(Reason::NeverFits, "costs more than the whole limit".to_owned()),
            Err(reason) => denies(reason, "no amount can be read".to_owned()),
            Ok(_) if counters == 0 => denies(Reason::LimitSubjectMissing, "the caller is in no group".to_owned()),
            Ok(_) if self.counters > LINES_MAX => {
                denies(Reason::TooManyCounters, format!("a call may touch {LINES_MAX} counters"))
            }
            Ok(units) => (StepOutcome::Passes, cost_text(limit.mode, &shown(units), &shown(limit.max))),
        };
        let (counter, bound) = (&limit.terms.name, bound_text(limit, &shown(limit.max)));
        Step {
            kind: StepKind::Limit,
            exact: limit.terms.denial.rule.exact.as_deref().map(str::to_owned),
            outcome,
            note: format!("counter `{counter}`: {bound}; {source}{cost}"),
            conditions: Vec::new(),
        }
    }
}

fn cost_text(mode: Mode, units: &str, max: &str) -> String {
    match mode {
        Mode::Attempt => format!("costs {units}, even if it is denied for want of it"),
        Mode::Consume => format!("costs {units}, if that much is left"),
        Mode::Gate => format!("passes while fewer than {max} are used"),
        Mode::Track => format!("costs {units}, and never denies"),
    }
}

/// What the limit bounds, for people: `at most 5 per hour and grant`.
fn bound_text(limit: &Limit, max: &str) -> String {
    let Window { kind, text, .. } = &limit.counter.window;
    let scope = &limit.terms.scope;
    if limit.mode == Mode::Track {
        return format!("counts per {text} and {scope}");
    }
    match kind {
        Kind::Calendar(_) | Kind::Rolling { .. } => format!("at most {max} per {text} and {scope}"),
        Kind::InFlight { .. } => format!("at most {max} at once per {scope}"),
        Kind::Lifetime { idle_ms: 0 } => format!("at most {max} in all per {scope}"),
        Kind::Lifetime { idle_ms } => {
            format!("at most {max} in all per {scope}, until {} without any", duration_text(*idle_ms))
        }
        Kind::Streak { idle_ms, .. } => {
            format!("at most {max} equal calls in a row per {scope}, until {} without any", duration_text(*idle_ms))
        }
        Kind::TokenBucket { refill, per_ms, .. } => {
            format!("at most {max} at once and {refill} more per {}, per {scope}", duration_text(*per_ms))
        }
    }
}
