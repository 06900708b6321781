//! Reading `counters` and `limits`: which limits there are, and whether they go together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Compiler, Version, bounded, default_message, fields_since, read_message, terms, window};
use crate::decision::{Denial, Reason, Rule, pointer};
use crate::document::{Cursor, Fields, quoted};
use crate::policy::limit::{Counter, Limit, Owner, Part};
use crate::policy::window::Kind;
use crate::quota::{Actual, Mode, Terms};

/// Limits of one tool, and of `all_tools`.
pub const LIMITS_MAX: usize = 8;
/// Counters that a policy may declare.
pub const COUNTERS_MAX: usize = 64;
/// Characters of the name of a counter.
pub(super) const COUNTER_CHARS_MAX: usize = 64;

/// Whether a limit may take its amount from single arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AmountFrom {
    Allowed,
    Refused,
}

/// Which list a limit stands in.
#[derive(Clone, Copy)]
pub(super) enum Place<'p> {
    AllTools,
    Tool(&'p str),
}

impl Place<'_> {
    pub(super) const fn amount_from(self) -> AmountFrom {
        match self {
            Place::AllTools => AmountFrom::Refused,
            Place::Tool(_) => AmountFrom::Allowed,
        }
    }

    fn pointer(self) -> String {
        match self {
            Place::AllTools => pointer(&["all_tools", "limits"]),
            Place::Tool(name) => pointer(&["tools", name, "limits"]),
        }
    }

    const fn owner(self) -> Owner {
        match self {
            Place::AllTools => Owner::Policy,
            Place::Tool(_) => Owner::Tool,
        }
    }
}

/// The counters that a policy declares, and who uses them.
#[derive(Default)]
pub(super) struct Counters<'a> {
    declared: BTreeMap<&'a str, Declared<'a>>,
    /// Gates on them, and what they look at.
    gates: Vec<(Cursor<'a>, Arc<Counter>)>,
    /// Names that limits add to.
    fed: BTreeSet<Arc<str>>,
}

struct Declared<'a> {
    cursor: Cursor<'a>,
    /// `None` for one with a defect: whoever names it has none of his own for it.
    counter: Option<Arc<Counter>>,
    used: bool,
    /// Of a token bucket: what the first limit says it holds, and where.
    capacity: Option<(u64, String)>,
}

impl<'a> Counters<'a> {
    /// Reads `counters`.
    pub(super) fn read(cursor: &Cursor<'a>, version: Version) -> Self {
        let entries = cursor.entries().unwrap_or_default();
        bounded(cursor, "counters", entries.len(), COUNTERS_MAX);
        let mut declared = BTreeMap::new();
        for (name, entry) in entries.into_iter().take(COUNTERS_MAX) {
            let known = check_name(&entry, name);
            let counter = entry
                .fields(window::KEYS)
                .and_then(|keys| window::read_counter(&keys, version, known, Owner::Policy))
                .map(Arc::new);
            declared.insert(name, Declared { cursor: entry, counter, used: false, capacity: None });
        }
        Self { declared, ..Self::default() }
    }

    /// Says what is declared and used by nobody, and which gates nobody can close.
    pub(super) fn warn(&self) {
        for (name, declared) in self.declared.iter().filter(|(_, declared)| !declared.used) {
            declared.cursor.warn(format!("no limit names the counter {}", quoted(name)), None);
        }
        for (cursor, counter) in &self.gates {
            let is_shared = self.declared.contains_key(&*counter.name);
            // Another policy may add to a global one.
            if !(counter.scope.has(Part::Global) || is_shared && self.fed.contains(&counter.name)) {
                let hint = "declare the counter under `counters`, and let another limit `consume` or `track` it";
                cursor.warn("nothing adds to this counter, so the gate never closes", Some(hint.to_owned()));
            }
        }
    }
}

impl<'a> Compiler<'a> {
    /// Reads a list of limits. `shared` are the limits of `all_tools`, which each call has too.
    pub(super) fn limits(&mut self, cursor: &Cursor<'a>, place: Place<'_>, shared: &[Limit]) -> Box<[Limit]> {
        let items = cursor.items().unwrap_or_default();
        bounded(cursor, "limits", items.len(), LIMITS_MAX);
        let mut out: Vec<Limit> = Vec::new();
        for (index, item) in items.iter().enumerate().take(LIMITS_MAX) {
            let Some(limit) = self.limit(item, place, index) else { continue };
            if self.counters.declared.contains_key(&*limit.counter.name) {
                out.iter().chain(shared).for_each(|earlier| refuse_other_charge(item, &limit, earlier));
            } else {
                refuse_equal_counters(item, &limit, &out, shared);
                refuse_other_usage(item, &limit, out.iter().chain(shared));
            }
            out.push(limit);
        }
        out.into()
    }

    fn limit(&mut self, cursor: &Cursor<'a>, place: Place<'_>, index: usize) -> Option<Limit> {
        let known = ["counter", "window", "scope", "max", "increment_from", "on_deny"];
        let since = [window::KEYS.get(2..).unwrap_or_default(), terms::KEYS].concat();
        let keys = fields_since(cursor, self.version, &known, &since)?;
        let name = keys.required("counter").and_then(|cursor| check_name(&cursor, cursor.non_empty()?));
        let counter = self.counter(&keys, name, place);
        let mode = terms::read_mode(&keys, counter.as_deref());
        let amount = terms::read_amount(&keys, place, mode, counter.as_deref(), (self.version, self.compat));
        let max = terms::read_max(&keys, mode, counter.as_deref());
        terms::check_hold(&keys, amount.as_ref(), max);
        let settlement = terms::read_settlement(&keys, mode, counter.as_deref());
        let disclose = keys.optional("disclose").map_or(Some(false), |cursor| cursor.bool());
        let message = read_message(&keys);
        let exact = format!("{}/{index}", place.pointer());
        let (counter, mode, max) = (counter?, mode?, max?);
        self.note_use(cursor, &counter, mode, max, &exact);
        let short = format!("{}{}", place.pointer(), pointer(&[&counter.name]));
        let message = message.unwrap_or_else(|| default_message(&short));
        let rule = Rule { pointer: short.into(), exact: Some(exact.into()) };
        let terms::Settlement { count_on, refund_on, on_unavailable, on_expiry } = settlement?;
        let amount = amount?;
        let terms = Terms {
            policy: Arc::clone(&self.policy),
            name: Arc::clone(&counter.name),
            label: format!("{}:{}", counter.name, counter.window.slug).into(),
            scope: Arc::clone(counter.scope.name()),
            window: Arc::clone(&counter.window.text),
            scale: counter.scale.unwrap_or(0),
            denial: Denial { reason: Reason::QuotaExhausted, rule, message, retry_after_ms: None },
            disclose: disclose?,
            count_on,
            refund_on,
            actual: amount.actual(),
            on_unavailable,
            on_expiry,
        };
        let window_key = match counter.scope.has(Part::Global) {
            true => counter.window.full_key(max),
            false => Arc::clone(&counter.window.key),
        };
        Some(Limit { window_key, mode, max, amount, terms: Arc::new(terms), counter })
    }

    /// The counter that a limit means: the declared one of that name, or else its own.
    fn counter(&mut self, keys: &Fields<'a>, name: Option<&str>, place: Place<'_>) -> Option<Arc<Counter>> {
        let Some(declared) = name.and_then(|name| self.counters.declared.get_mut(name)) else {
            return window::read_counter(keys, self.version, name, place.owner()).map(Arc::new);
        };
        declared.used = true;
        for key in window::KEYS {
            if let Some(cursor) = keys.optional(key) {
                let there = format!("{}/{key}", declared.cursor.pointer());
                let name = quoted(name.unwrap_or_default());
                cursor.defect_with_hint(
                    format!("counter {name} is declared, so its `{key}` belongs at {there}"),
                    "leave it out here, or give the counter another name",
                );
            }
        }
        declared.counter.clone()
    }

    /// Notes who adds to the counter, and that a bucket has one size.
    fn note_use(&mut self, cursor: &Cursor<'a>, counter: &Arc<Counter>, mode: Mode, max: u64, exact: &str) {
        match mode {
            Mode::Gate => self.counters.gates.push((cursor.clone(), Arc::clone(counter))),
            Mode::Attempt | Mode::Consume | Mode::Track => {
                self.counters.fed.insert(Arc::clone(&counter.name));
            }
        }
        let Kind::TokenBucket { .. } = counter.window.kind else { return };
        let Some(declared) = self.counters.declared.get_mut(&*counter.name) else { return };
        match &declared.capacity {
            None => declared.capacity = Some((max, exact.to_owned())),
            Some((before, _)) if *before == max => {}
            Some((_, there)) => {
                let message =
                    format!("`max` is the size of the bucket {}, and {there} has another", quoted(&counter.name));
                cursor.defect_with_hint(message, "one bucket has one `max`; give the counter another name");
            }
        }
    }
}

/// Two limits of one call on one declared counter are one charge, so they must agree on it. Their `max` may differ.
fn refuse_other_charge(cursor: &Cursor<'_>, limit: &Limit, earlier: &Limit) {
    if !Arc::ptr_eq(&limit.counter, &earlier.counter) {
        return;
    }
    let name = quoted(&limit.counter.name);
    let there = earlier.terms.denial.rule.exact.as_deref().unwrap_or_default();
    let agree = |a: &Terms, b: &Terms| (a.count_on, a.refund_on, a.on_expiry) == (b.count_on, b.refund_on, b.on_expiry);
    if limit.mode != earlier.mode {
        let (here, before) = (limit.mode.name(), earlier.mode.name());
        cursor.defect_with_hint(
            format!("one call would meet the counter {name} as `{here}` here and as `{before}` at {there}"),
            "use one mode, or two counters",
        );
    } else if limit.amount != earlier.amount {
        let message = format!("one call would add two amounts to the counter {name}: here, and at {there}");
        cursor.defect_with_hint(message, "use the same `increment_from`, `hold`, `on_missing` and `min_increment`");
    } else if !agree(&limit.terms, &earlier.terms) {
        let message = format!("the counter {name} would count one call in two ways: here, and at {there}");
        cursor.defect_with_hint(message, "use the same `count_on`, `refund_on` and `on_expiry`");
    }
}

/// One name is one counter: with two windows nobody could say which, and the same counter twice would count a call twice.
/// The same name with another scope is another counter, as is the same name under another tool.
fn refuse_equal_counters(cursor: &Cursor<'_>, limit: &Limit, before: &[Limit], shared: &[Limit]) {
    let name = quoted(&limit.terms.name);
    let other_window =
        |window: &str| format!("counter {name} has the window `{window}` elsewhere, here `{}`", limit.terms.window);
    for earlier in before.iter().filter(|earlier| earlier.terms.name == limit.terms.name) {
        if earlier.counter.window != limit.counter.window {
            cursor.defect_with_hint(other_window(&earlier.terms.window), "give it another name");
            return;
        }
        if earlier.counter.scope == limit.counter.scope {
            cursor.defect(format!("counter {name} is in the list already with the same window and scope"));
            return;
        }
    }
    let elsewhere = shared
        .iter()
        .find(|other| other.terms.name == limit.terms.name && other.counter.window != limit.counter.window);
    if let Some(other) = elsewhere {
        cursor.defect_with_hint(other_window(&other.terms.window), "`all_tools` has it too: give it another name");
    }
}

/// What a result says is told by the name of the counter, so one name stands for one part of it in one call.
fn refuse_other_usage<'l>(cursor: &Cursor<'_>, limit: &Limit, mut others: impl Iterator<Item = &'l Limit>) {
    let told = |limit: &Limit| (limit.amount.actual() == Actual::Usage).then(|| Arc::clone(&limit.terms.name));
    let Some(name) = told(limit) else { return };
    let other = |other: &&Limit| told(other).is_some_and(|told| told == name) && !limit.amount.tells_as(&other.amount);
    if let Some(other) = others.find(other) {
        let there = other.terms.denial.rule.exact.as_deref().unwrap_or_default();
        let message = format!("{} reads one part of a result here, and another at {there}", quoted(&name));
        cursor.defect_with_hint(message, "give one of the counters another name");
    }
}

fn check_name<'n>(cursor: &Cursor<'_>, name: &'n str) -> Option<&'n str> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':'));
    if !plain || name.is_empty() || name.len() > COUNTER_CHARS_MAX {
        let what = format!("expected at most {COUNTER_CHARS_MAX} letters, digits, `_`, `-`, `.` or `:`");
        cursor.defect(format!("{what}, found {}", quoted(name)));
        return None;
    }
    Some(name)
}

#[cfg(test)]
mod tests;
