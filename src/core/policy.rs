//! The policy language: what a document says of one call.
//!
//! A policy is compiled once, whole and strictly; what it cannot enforce it refuses to load. Evaluation then is one hash
//! lookup of the tool and its own rules in document order: hidden, default, every `require`, every `deny_if`, limits.
//! Nothing here counts: limits become charges, which a ledger holds all or none.

#[expect(clippy::disallowed_types, reason = "looked up, never iterated")]
use std::collections::HashMap;
use std::sync::Arc;

use crate::decision::{Decision, Denial, PolicyDigest, Reason, Rule, pointer};
use crate::document::{Defect, Format};
use crate::json::Value;
use crate::mask::{PolicyRules, RuleSet};
use crate::principal::Principal;
use crate::quota::{Charge, LINES_MAX};

mod amount;
mod compile;
mod condition;
mod explain;
mod fingerprint;
mod limit;
mod listing;
mod terms;
mod usage;
mod value;
mod window;

pub use compile::{
    CONDITIONS_MAX, CONDITIONS_PER_RULE_MAX, COUNTERS_MAX, HOSTS_MAX, LIMITS_MAX, MASK_TEXT_CHARS_MAX,
    MESSAGE_CHARS_MAX, NAME_CHARS_MAX, PATH_SEGMENTS_MAX, PATTERN_BYTES_MAX, PATTERNS_MAX, POLICY_BYTES_MAX,
    RESULT_RULES_MAX, REVEALED_MAX, RULES_MAX, SEGMENT_CHARS_MAX, TOOLS_MAX, VALUES_MAX,
};
pub use condition::Truth;
pub use explain::{ConditionStep, Explanation, Step, StepKind, StepOutcome};
pub use limit::Call;
pub use listing::Listed;

use condition::Condition;
pub(crate) use condition::{Compat, Test};
use limit::{Facts, Limit};

/// A policy document as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Name of the policy: the stem of its file.
    pub id: &'a str,
    /// The file as the operator names it, for defects.
    pub file: &'a str,
    /// The whole document.
    pub bytes: &'a [u8],
    /// Its syntax.
    pub format: Format,
}

/// A policy that may be served, and what its author should know.
#[derive(Debug)]
pub struct Compiled {
    /// The policy.
    pub policy: Policy,
    /// What is legal and probably not meant.
    pub warnings: Vec<Defect>,
}

/// One compiled policy. Immutable.
#[derive(Debug)]
pub struct Policy {
    id: Arc<str>,
    digest: PolicyDigest,
    default: Unlisted,
    compat: Compat,
    hides_all: bool,
    hides_as_unknown: bool,
    #[expect(clippy::disallowed_types, reason = "looked up; whoever lists them sorts them")]
    tools: HashMap<Box<str>, Entry>,
    tool_count: usize,
    pattern_bytes: usize,
    /// Limits of `all_tools`.
    limits: Box<[Limit]>,
    results: PolicyRules,
    /// Where the arguments of every tool are held against its schema.
    schema_from: bool,
    may_hide: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unlisted {
    Allow,
    Deny,
}

/// Why no call of a tool passes, whatever its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Hidden,
    Unlisted,
}

/// What a policy says of a tool by name.
#[derive(Debug)]
enum Entry {
    Hidden,
    Listed(Tool),
}

#[derive(Debug)]
struct Tool {
    require: Box<[Conditions]>,
    deny_if: Box<[Conditions]>,
    limits: Box<[Limit]>,
    /// `None` for a tool without rules for its results.
    results: Option<Box<RuleSet>>,
    schema_from: bool,
}

/// One rule of `require` or `deny_if`.
#[derive(Debug)]
struct Conditions {
    all: Box<[Condition]>,
    on_deny: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    DenyIf,
    Require,
}

impl Section {
    const fn name(self) -> &'static str {
        match self {
            Section::DenyIf => "deny_if",
            Section::Require => "require",
        }
    }
}

/// Where a rule stands: enough to name it when it denies, so that allowing costs nothing.
#[derive(Clone, Copy)]
struct Place<'a> {
    tool: &'a str,
    section: Section,
    rule: usize,
}

impl Policy {
    /// Reads and compiles a document.
    ///
    /// # Errors
    /// Every defect of the document, each with its line and pointer.
    pub fn compile(source: &Source<'_>) -> Result<Compiled, Vec<Defect>> {
        compile::compile(source, None)
    }

    /// As [`Policy::compile`], under `compat: lenient` whatever the document says.
    pub(crate) fn compile_lenient(source: &Source<'_>) -> Result<Compiled, Vec<Defect>> {
        compile::compile(source, Some(Compat::Lenient))
    }

    /// The name of the policy.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Digest of the document's bytes.
    #[must_use]
    pub fn digest(&self) -> &PolicyDigest {
        &self.digest
    }

    /// Whether a tool that the policy does not name may be called.
    #[must_use]
    pub fn default_allows(&self) -> bool {
        self.default == Unlisted::Allow
    }

    /// Whether a call of a tool that the caller cannot see is answered as if the server had no such tool.
    #[must_use]
    pub fn hides_as_unknown(&self) -> bool {
        self.hides_as_unknown
    }

    /// Bytes that its patterns take at most.
    #[must_use]
    pub fn pattern_bytes(&self) -> usize {
        self.pattern_bytes
    }

    /// How many tools have an entry under `tools`.
    #[must_use]
    pub fn tool_count(&self) -> usize {
        self.tool_count
    }

    /// Whether the policy names the tool, under `tools` or `hide`.
    #[must_use]
    pub fn names_tool(&self, tool: &str) -> bool {
        self.tools.contains_key(tool)
    }

    /// The rules for results that stand at the root, and those of all tools together.
    pub(crate) fn result_rules(&self) -> &PolicyRules {
        &self.results
    }

    /// The rules for results of that tool alone.
    pub(crate) fn result_rules_of(&self, tool: &str) -> Option<&RuleSet> {
        match self.tools.get(tool)? {
            Entry::Hidden => None,
            Entry::Listed(tool) => tool.results.as_deref(),
        }
    }

    /// The rule by which arguments of the tool are held against the schema that its server gave, if there is one.
    #[must_use]
    pub fn schema_rule(&self, tool: &str) -> Option<Rule> {
        let path = match self.tools.get(tool) {
            Some(Entry::Listed(Tool { schema_from: true, .. })) => pointer(&["tools", tool, "schema_from"]),
            _ if self.schema_from => pointer(&["all_tools", "schema_from"]),
            _ => return None,
        };
        Some(Rule { pointer: path.as_str().into(), exact: Some(path.into()) })
    }

    /// Whether some rule holds arguments against schemas of servers.
    #[must_use]
    pub fn needs_schemas(&self) -> bool {
        let is_asked = |entry: &Entry| matches!(entry, Entry::Listed(Tool { schema_from: true, .. }));
        self.schema_from || self.tools.values().any(is_asked)
    }

    /// Judges one `tools/call`.
    ///
    /// A function of its arguments: the same call gets the same decision until another document is compiled.
    #[must_use]
    pub fn decide(&self, who: &Principal, call: &Call<'_>) -> Decision {
        match self.find(call.tool).and_then(|rules| self.pass(who, call, rules)) {
            Ok(charges) => Decision::Proceed(charges),
            Err(denial) => Decision::Deny(denial),
        }
    }

    /// Whether some call of the tool by that caller could pass: what a list of tools may show.
    ///
    /// The same steps as [`Policy::decide`] with every argument unknown. Rules that contradict each other are not seen.
    #[must_use]
    pub fn is_visible(&self, who: &Principal, tool: &str) -> bool {
        let own = match self.look_up(tool) {
            Ok(rules) => rules.map_or(&[][..], |rules| &rules.limits),
            Err(_) => return false,
        };
        let all = || own.iter().chain(&*self.limits);
        let counters = all().fold(0_usize, |count, limit| count.saturating_add(limit.charges_of(who)));
        counters <= LINES_MAX && all().all(|limit| limit.can_pass(who))
    }

    /// Whether a list could lose anything for some caller. Names outside the specification's alphabet do not count: a policy that
    /// hides nothing has nothing to hide in them, and that calls of them are refused is for the caller to see.
    #[must_use]
    pub fn may_hide(&self) -> bool {
        self.may_hide
    }

    /// What [`Policy::may_hide`] says, found out once: it asks every tool.
    fn can_hide(&self) -> bool {
        let never = Principal { groups: Arc::default(), ..Principal::of_grant("") };
        let may_fail = |own: &[Limit]| {
            let charges = own.len().saturating_add(self.limits.len());
            charges > LINES_MAX || own.iter().any(|limit| !limit.can_pass(&never))
        };
        !self.default_allows()
            || self.hides_all
            || may_fail(&[])
            || self.limits.iter().any(|limit| !limit.can_pass(&never) || limit.counter.scope.has(limit::Part::Group))
            || self.tools.values().any(|entry| match entry {
                Entry::Hidden => true,
                Entry::Listed(tool) => {
                    may_fail(&tool.limits)
                        || tool.limits.iter().any(|limit| limit.counter.scope.has(limit::Part::Group))
                }
            })
    }

    /// Judges one `tools/call` and tells what every step and condition said of it. Shows values of the policy and types
    /// of the arguments; for the one who asks on the command line, never for a log.
    #[must_use]
    pub fn explain(&self, who: &Principal, call: &Call<'_>) -> Explanation {
        explain::explain(self, who, call)
    }

    /// The rules of a tool that may be called at all.
    fn find(&self, tool: &str) -> Result<Option<&Tool>, Denial> {
        self.look_up(tool).map_err(|refused| {
            let (reason, rule, text) = match refused {
                Refused::Hidden => (Reason::Hidden, "(hidden)", "hidden"),
                Refused::Unlisted => (Reason::DefaultDeny, "(default deny)", "not permitted"),
            };
            let message = Arc::from(format!("Tool \"{tool}\" is {text} by policy"));
            Denial { reason, rule: Rule::built_in(rule), message, retry_after_ms: None }
        })
    }

    /// The same for a list, which asks of hundreds of tools and has no use for words about each.
    fn look_up(&self, tool: &str) -> Result<Option<&Tool>, Refused> {
        let entry = if self.hides_all { Some(&Entry::Hidden) } else { self.tools.get(tool) };
        match (entry, self.default) {
            (Some(Entry::Hidden), _) => Err(Refused::Hidden),
            (Some(Entry::Listed(rules)), _) => Ok(Some(rules)),
            (None, Unlisted::Allow) => Ok(None),
            (None, Unlisted::Deny) => Err(Refused::Unlisted),
        }
    }

    fn pass(&self, who: &Principal, call: &Call<'_>, rules: Option<&Tool>) -> Result<Vec<Charge>, Denial> {
        let own = if let Some(rules) = rules {
            self.check(call, rules)?;
            &rules.limits[..]
        } else {
            &[]
        };
        let facts = Facts { policy: &self.id, who, call, compat: self.compat };
        let mut charges = Vec::new();
        if !own.is_empty() || !self.limits.is_empty() {
            charges.reserve_exact(own.len().saturating_add(self.limits.len()));
        }
        own.iter().chain(&*self.limits).try_for_each(|limit| limit.charge(&facts, &mut charges))?;
        Ok(charges)
    }

    /// Every rule of `require`, then every rule of `deny_if`; the first that denies answers.
    fn check(&self, call: &Call<'_>, rules: &Tool) -> Result<(), Denial> {
        let Call { tool, arguments, .. } = *call;
        for (rule, conditions) in rules.require.iter().enumerate() {
            if let Some((index, reason)) = conditions.unmet(arguments, self.compat) {
                return Err(conditions.denial(Place { tool, section: Section::Require, rule }, index, reason));
            }
        }
        for (rule, conditions) in rules.deny_if.iter().enumerate() {
            if let Some(reason) = conditions.hit(arguments, self.compat) {
                return Err(conditions.denial(Place { tool, section: Section::DenyIf, rule }, 0, reason));
            }
        }
        Ok(())
    }
}

impl Conditions {
    /// In `require`: the first condition that does not hold.
    fn unmet(&self, arguments: Option<Value<'_>>, compat: Compat) -> Option<(usize, Reason)> {
        self.all.iter().enumerate().find_map(|(index, condition)| match condition.judge(arguments, compat) {
            Truth::Holds => None,
            Truth::Fails | Truth::Missing => Some((index, Reason::Requirement)),
            Truth::Unjudged => Some((index, Reason::TypeMismatch)),
        })
    }

    /// In `deny_if`: whether all conditions hold, or one of them cannot be judged. The latter counts even beside one that
    /// fails, so that the order of conditions never matters and a caller cannot choose a type to slip past a rule.
    fn hit(&self, arguments: Option<Value<'_>>, compat: Compat) -> Option<Reason> {
        let mut reason = Some(Reason::Condition);
        for condition in &self.all {
            match condition.judge(arguments, compat) {
                Truth::Fails | Truth::Missing => reason = None,
                Truth::Holds => {}
                Truth::Unjudged => return Some(Reason::TypeMismatch),
            }
        }
        reason
    }

    fn denial(&self, place: Place<'_>, condition: usize, reason: Reason) -> Denial {
        let rule = self.rule(place, condition);
        let message = self.on_deny.clone().unwrap_or_else(|| default_message(&rule.pointer));
        Denial { reason, rule, message, retry_after_ms: None }
    }

    fn rule(&self, place: Place<'_>, index: usize) -> Rule {
        let section = place.section.name();
        let short = self.all.get(index).map_or_else(String::new, |condition| {
            let name = format!("{}-{}", condition.path.text(), condition.test.operator());
            pointer(&["tools", place.tool, section, &name])
        });
        let (rule, condition) = (place.rule.to_string(), index.to_string());
        let exact = pointer(&["tools", place.tool, section, &rule, "conditions", &condition]);
        Rule { pointer: short.into(), exact: Some(exact.into()) }
    }
}

/// The refusal of a caller to whom no policy is bound.
#[must_use]
pub fn no_policy() -> Denial {
    Denial::built_in(Reason::NoPolicy)
}

/// What the agent is told by a rule without `on_deny`.
fn default_message(pointer: &str) -> Arc<str> {
    format!("Call denied by policy rule {pointer}").into()
}

#[cfg(test)]
mod tests;
