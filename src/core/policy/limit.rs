//! One limit: what it charges for a call, and which counter it names.

use std::sync::Arc;

use super::amount::Amount;
use super::condition::Compat;
use super::window::{Kind, Window};
use crate::decision::{Denial, Reason};
use crate::json::Value;
use crate::principal::Principal;
use crate::quota::{Calendar, Charge, CounterKey, Fingerprint, LINES_MAX, Mode, Terms, Unit, Zone};

/// One `tools/call`, as far as a policy is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Name of the server that the request is bound to.
    pub server: &'a str,
    /// Name of the tool, exactly as the server reads it.
    pub tool: &'a str,
    /// `params.arguments`, or `None` where the call has none.
    pub arguments: Option<Value<'a>>,
    /// Bytes of the whole request body.
    pub request_bytes: u64,
}

impl<'a> Call<'a> {
    /// A call of which nothing else is known.
    #[must_use]
    pub const fn of(tool: &'a str, arguments: Option<Value<'a>>) -> Self {
        Self { server: "", tool, arguments, request_bytes: 0 }
    }
}

/// A call, who makes it, and under which policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) policy: &'a str,
    pub(super) who: &'a Principal,
    pub(super) call: &'a Call<'a>,
    pub(super) compat: Compat,
}

/// What tells counters of one name apart. In the order in which values stand in the name of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Nothing but the name: every policy that names it counts on it.
    Global,
    /// Calls under one grant.
    Grant,
    /// Calls of one group; a caller in several counts in each.
    Group,
    /// Calls of one subject, under whichever grant.
    Identity,
    /// Every call under the policy.
    Policy,
    /// Calls to one server.
    Server,
    /// Calls of one tool.
    Tool,
}

impl Part {
    pub(super) const ALL: &'static [Part] =
        &[Part::Global, Part::Grant, Part::Group, Part::Identity, Part::Policy, Part::Server, Part::Tool];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Part::Global => "global",
            Part::Grant => "grant",
            Part::Group => "group",
            Part::Identity => "identity",
            Part::Policy => "policy",
            Part::Server => "server",
            Part::Tool => "tool",
        }
    }
}

/// Who shares a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// Sorted, each once; at least one.
    parts: Box<[Part]>,
    name: Arc<str>,
}

impl Scope {
    pub(super) fn new(mut parts: Vec<Part>) -> Self {
        parts.sort_unstable();
        parts.dedup();
        let name = parts.iter().map(|part| part.name()).collect::<Vec<_>>().join("+").into();
        Self { parts: parts.into(), name }
    }

    /// `grant`, or `grant+tool`.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

/// Whose name the name of a counter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// All tools mean one counter by it.
    Policy,
    /// Each tool means its own.
    Tool,
}

/// What a name counts.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    pub(super) name: Arc<str>,
    pub(super) owner: Owner,
    pub(super) window: Window,
    pub(super) scope: Scope,
    /// Decimal places, where the author states them.
    pub(super) scale: Option<u8>,
}

impl Counter {
    /// Whether version 1 can say it. Such a counter keeps its name from version to version, and so what is used of it.
    fn is_plain(&self) -> bool {
        let plain_window = matches!(
            self.window.kind,
            Kind::Calendar(Calendar { unit: Unit::Minute | Unit::Hour | Unit::Day, zone: Zone::Utc, .. })
        );
        plain_window && self.scale.unwrap_or(0) == 0 && matches!(*self.scope.parts, [Part::Grant | Part::Policy])
    }
}

/// One limit of a tool or of `all_tools`.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) counter: Arc<Counter>,
    /// What stands for the window in the name of the counter.
    pub(super) window_key: Arc<str>,
    pub(super) mode: Mode,
    /// Units, of which one is what the author counts, divided by its decimal places.
    pub(super) max: u64,
    pub(super) amount: Amount,
    /// The rest, the refusal among it: that holds the rule and the message of every other refusal by this limit.
    pub(super) terms: Arc<Terms>,
}

impl Limit {
    /// Adds what one call has to hold.
    pub(super) fn charge(&self, facts: &Facts<'_>, charges: &mut Vec<Charge>) -> Result<(), Denial> {
        let amount = self.units(facts).map_err(|reason| self.refuse(reason))?;
        if !self.counter.scope.has(Part::Group) {
            return self.push(facts, amount, "", charges);
        }
        if facts.who.groups.is_empty() {
            return Err(self.refuse(Reason::LimitSubjectMissing));
        }
        facts.who.groups.iter().try_for_each(|group| self.push(facts, amount, group, charges))
    }

    fn push(&self, facts: &Facts<'_>, amount: u64, group: &str, charges: &mut Vec<Charge>) -> Result<(), Denial> {
        if charges.len() >= LINES_MAX {
            return Err(self.refuse(Reason::TooManyCounters));
        }
        charges.push(Charge {
            counter: self.key(facts, group),
            amount,
            max: self.max,
            measure: self.counter.window.measure(facts.call),
            mode: self.mode,
            terms: Arc::clone(&self.terms),
        });
        Ok(())
    }

    /// The units of one call, if they can fit at all.
    pub(super) fn units(&self, facts: &Facts<'_>) -> Result<u64, Reason> {
        let units = self.amount.units(facts)?;
        match self.mode {
            Mode::Attempt | Mode::Consume if units > self.max => Err(Reason::NeverFits),
            // Closed before anything was used.
            Mode::Gate if self.max == 0 => Err(Reason::NeverFits),
            Mode::Attempt | Mode::Consume | Mode::Gate | Mode::Track => Ok(units),
        }
    }

    /// Whether some call of that caller could pass an unused counter.
    pub(super) fn can_pass(&self, who: &Principal) -> bool {
        let fits = match self.mode {
            Mode::Attempt | Mode::Consume => self.amount.least() <= self.max,
            Mode::Gate => self.max > 0,
            Mode::Track => true,
        };
        fits && self.charges_of(who) > 0
    }

    /// How many counters a call of that caller touches.
    pub(super) fn charges_of(&self, who: &Principal) -> usize {
        if self.counter.scope.has(Part::Group) { who.groups.len() } else { 1 }
    }

    /// A charge of nothing, which says where the counter is.
    pub(super) fn listed(&self, facts: &Facts<'_>, group: &str) -> Charge {
        Charge {
            counter: self.key(facts, group),
            amount: 0,
            max: self.max,
            measure: self.counter.window.measure_with(Fingerprint([0; 16])),
            mode: self.mode,
            terms: Arc::clone(&self.terms),
        }
    }

    /// Parts in a fixed order; their number follows from the scope, which is one of them. An empty tool is no tool, and an
    /// empty grant no grant: neither may be empty by name. Neither `max` nor the policy's digest is a part, so that an edit
    /// does not hand out a fresh quota.
    fn key(&self, facts: &Facts<'_>, group: &str) -> CounterKey {
        let Counter { name, owner, scope, scale, .. } = &*self.counter;
        let tool = if *owner == Owner::Tool { facts.call.tool } else { "" };
        if self.counter.is_plain() {
            let grant = if scope.has(Part::Grant) { &*facts.who.grant } else { "" };
            return CounterKey::of(&[facts.policy, tool, name, &self.window_key, &scope.name, grant]);
        }
        let policy = if scope.has(Part::Global) { "" } else { facts.policy };
        let scale = scale.unwrap_or(0).to_string();
        // Never six parts, so never a name of version 1.
        let mut parts = vec!["2", policy, tool, name, &*self.window_key, &*scale, &*scope.name];
        for part in &scope.parts {
            match part {
                Part::Global | Part::Policy => {}
                Part::Grant => parts.push(&facts.who.grant),
                Part::Group => parts.push(group),
                Part::Identity => parts.push(&facts.who.subject),
                Part::Server => parts.push(facts.call.server),
                Part::Tool => parts.push(facts.call.tool),
            }
        }
        CounterKey::of(&parts)
    }

    /// The author's text says what to do when the limit is reached; who cannot be counted at all needs another.
    fn refuse(&self, reason: Reason) -> Denial {
        let mut denial = Denial { reason, ..self.terms.denial.clone() };
        if matches!(reason, Reason::LimitSubjectMissing | Reason::TooManyCounters) {
            denial.message = reason.advice().into();
        }
        denial
    }
}

#[cfg(test)]
mod tests;
