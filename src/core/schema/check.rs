//! Runs a schema over arguments, within a budget.

use std::{collections::BTreeSet, fmt};

use super::{ArrayRules, CHECK_DEPTH_MAX, Index, Node, NumberRules, ObjectRules, Rules, STEPS_MAX, Schema, Values};
use crate::{
    decision::pointer,
    json::{Document, Kind, Limits, Value},
    number::Decimal,
    pins::push_canonical,
    text::push_json_string_cut,
};

/// Which value does not fit, and which keyword says so. Names only: no value is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// RFC 6901 pointer into the arguments; empty for the arguments themselves.
    pub pointer: String,
    /// The keyword that does not hold.
    pub keyword: &'static str,
    /// Names a member that is missing, where that is what is wrong.
    pub missing: Option<Box<str>>,
}

/// The keyword under which it is told that a value cannot be judged.
const UNJUDGED: &str = "(cannot be judged)";
/// Bytes of a pointer that is told.
const POINTER_BYTES_MAX: usize = 256;
/// Bytes of a name that is told.
const NAME_BYTES_MAX: usize = 64;

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = String::new();
        push_json_string_cut(&mut at, &self.pointer, POINTER_BYTES_MAX);
        if self.keyword == UNJUDGED {
            return write!(
                f,
                "The arguments cannot be judged by the schema of the tool: the value at {at} is beyond what can be compared"
            );
        }
        write!(f, "The arguments do not fit the schema of the tool: the value at {at} breaks `{}`", self.keyword)?;
        if let Some(name) = &self.missing {
            let mut text = String::new();
            push_json_string_cut(&mut text, name, NAME_BYTES_MAX);
            write!(f, ": {text} is missing")?;
        }
        Ok(())
    }
}

/// Why a value does not fit, while the way to it is being walked back.
struct Misfit {
    path: Vec<String>,
    keyword: &'static str,
    missing: Option<Box<str>>,
}

/// Either it does not fit, or nobody can say; the latter ends everything, also under `not` and `anyOf`.
enum No {
    Misfit(Misfit),
    Unjudged(Vec<String>),
}

type Fit = Result<(), No>;

/// What of a value some rule has looked at, for `unevaluated…`.
#[derive(Default)]
struct Seen {
    members: BTreeSet<usize>,
    all_members: bool,
    elements: BTreeSet<usize>,
    all_elements: bool,
}

impl Seen {
    fn merge(&mut self, other: Self) {
        self.members.extend(other.members);
        self.elements.extend(other.elements);
        self.all_members |= other.all_members;
        self.all_elements |= other.all_elements;
    }
}

pub(super) fn check(schema: &Schema, arguments: Option<Value<'_>>) -> Result<(), Violation> {
    let mut checker = Checker { schema, steps: STEPS_MAX, depth: 0 };
    let outcome = match arguments {
        Some(arguments) => checker.fit(schema.root, arguments, &mut Seen::default()),
        None => match Document::parse(b"{}", Limits::default()) {
            Ok(empty) => checker.fit(schema.root, empty.root(), &mut Seen::default()),
            Err(_) => Err(No::Unjudged(Vec::new())),
        },
    };
    let at = |path: Vec<String>| pointer(&path.iter().rev().map(String::as_str).collect::<Vec<_>>());
    outcome.map_err(|no| match no {
        No::Misfit(Misfit { path, keyword, missing }) => Violation { pointer: at(path), keyword, missing },
        No::Unjudged(path) => Violation { pointer: at(path), keyword: UNJUDGED, missing: None },
    })
}

fn misfit(keyword: &'static str) -> No {
    No::Misfit(Misfit { path: Vec::new(), keyword, missing: None })
}

fn unjudged() -> No {
    No::Unjudged(Vec::new())
}

fn ensure(holds: bool, keyword: &'static str) -> Fit {
    if holds { Ok(()) } else { Err(misfit(keyword)) }
}

/// Says at which member or element it was.
fn below(fit: Fit, name: &dyn Fn() -> String) -> Fit {
    fit.map_err(|mut no| {
        match &mut no {
            No::Misfit(Misfit { path, .. }) | No::Unjudged(path) => path.push(name()),
        }
        no
    })
}

/// Says which keyword has schemas below it that do not fit: which of them is of no use to anybody.
fn under(fit: Fit, keyword: &'static str) -> Fit {
    fit.map_err(|no| match no {
        No::Misfit(_) => misfit(keyword),
        No::Unjudged(path) => No::Unjudged(path),
    })
}

struct Checker<'s> {
    schema: &'s Schema,
    steps: u32,
    depth: u32,
}

impl Checker<'_> {
    fn spend(&mut self, steps: usize) -> Fit {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.steps = self.steps.checked_sub(steps).ok_or_else(unjudged)?;
        Ok(())
    }

    fn fit(&mut self, index: Index, value: Value<'_>, seen: &mut Seen) -> Fit {
        self.spend(1)?;
        let schema = self.schema;
        match schema.nodes.get(index) {
            None | Some(Node::Never) => Err(misfit("false")),
            Some(Node::Any) => Ok(()),
            Some(Node::Rules(rules)) => {
                if self.depth >= CHECK_DEPTH_MAX {
                    return Err(unjudged());
                }
                self.depth = self.depth.saturating_add(1);
                let fit = self.rules(rules, value, seen);
                self.depth = self.depth.saturating_sub(1);
                fit
            }
        }
    }

    /// As [`Checker::fit`], for a schema that holds beside others: it sees what it looked at itself, and the others see that.
    fn also(&mut self, index: Index, value: Value<'_>, seen: &mut Seen) -> Fit {
        let mut own = Seen::default();
        self.fit(index, value, &mut own)?;
        seen.merge(own);
        Ok(())
    }

    /// Whether it fits; what it looked at counts only then.
    fn fits(&mut self, index: Index, value: Value<'_>, seen: &mut Seen) -> Result<bool, No> {
        let mut own = Seen::default();
        match self.fit(index, value, &mut own) {
            Ok(()) => {
                seen.merge(own);
                Ok(true)
            }
            Err(No::Misfit(_)) => Ok(false),
            Err(no @ No::Unjudged(_)) => Err(no),
        }
    }

    fn rules(&mut self, rules: &Rules, value: Value<'_>, seen: &mut Seen) -> Fit {
        let number = (value.kind() == Kind::Number).then(|| Number::of(value)).transpose()?;
        if let Some(types) = rules.types {
            ensure(types.allows(value.kind(), number.as_ref().is_some_and(|one| one.value.is_integer())), "type")?;
        }
        if let Some(values) = &rules.values {
            self.is_one_of(values, value, "enum")?;
        }
        if let Some(values) = &rules.constant {
            self.is_one_of(values, value, "const")?;
        }
        match value.kind() {
            Kind::Number => {
                if let Some(number) = &number {
                    number.fit(&rules.number)?;
                }
            }
            Kind::String => self.string(rules, value)?,
            Kind::Array => self.array(&rules.array, value, seen)?,
            Kind::Object => self.object(&rules.object, value, seen)?,
            Kind::False | Kind::Null | Kind::True => {}
        }
        if let Some(target) = rules.reference {
            self.also(target, value, seen)?;
        }
        self.combined(rules, value, seen)?;
        match value.kind() {
            Kind::Array => self.unevaluated_elements(&rules.array, value, seen),
            Kind::Object => self.unevaluated_members(&rules.object, value, seen),
            Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => Ok(()),
        }
    }

    fn combined(&mut self, rules: &Rules, value: Value<'_>, seen: &mut Seen) -> Fit {
        for index in &rules.all_of {
            self.also(*index, value, seen)?;
        }
        if !rules.any_of.is_empty() {
            let mut any = false;
            for index in &rules.any_of {
                any |= self.fits(*index, value, seen)?;
                // The others count only if somebody asks what they looked at.
                if any && !self.schema.tracks {
                    break;
                }
            }
            ensure(any, "anyOf")?;
        }
        if !rules.one_of.is_empty() {
            let mut fitting = 0_usize;
            for index in &rules.one_of {
                fitting = fitting.saturating_add(usize::from(self.fits(*index, value, seen)?));
            }
            ensure(fitting == 1, "oneOf")?;
        }
        if let Some(index) = rules.not {
            ensure(!self.fits(index, value, &mut Seen::default())?, "not")?;
        }
        if let Some(condition) = &rules.condition {
            let holds = self.fits(condition.test, value, seen)?;
            if let Some(index) = if holds { condition.then } else { condition.otherwise } {
                self.also(index, value, seen)?;
            }
        }
        Ok(())
    }

    fn is_one_of(&mut self, values: &Values, value: Value<'_>, keyword: &'static str) -> Fit {
        self.spend(values.texts.len().saturating_add(value.source().len() / 64))?;
        if values.has_number && holds_changeable(value)? {
            return Err(unjudged());
        }
        let mut text = String::new();
        push_canonical(&mut text, value);
        ensure(values.texts.contains(&text), keyword)
    }

    fn string(&mut self, rules: &Rules, value: Value<'_>) -> Fit {
        let rules = &rules.string;
        if rules.min_length.is_none() && rules.max_length.is_none() && rules.pattern.is_none() {
            return Ok(());
        }
        let text = value.as_str().unwrap_or_default();
        self.spend(text.len() / 64)?;
        let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        ensure(rules.min_length.is_none_or(|min| length >= min), "minLength")?;
        ensure(rules.max_length.is_none_or(|max| length <= max), "maxLength")?;
        if let Some(pattern) = &rules.pattern {
            self.spend(text.len() / 8)?;
            ensure(pattern.is_match(&text).ok_or_else(unjudged)?, "pattern")?;
        }
        Ok(())
    }

    fn array(&mut self, rules: &ArrayRules, value: Value<'_>, seen: &mut Seen) -> Fit {
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
        ensure(rules.min.is_none_or(|min| length >= min), "minItems")?;
        ensure(rules.max.is_none_or(|max| length <= max), "maxItems")?;
        if rules.unique {
            self.unique(value)?;
        }
        for (at, element) in value.elements().enumerate() {
            let Some(index) = rules.prefix.get(at).copied().or(rules.items) else { break };
            let keyword = if at < rules.prefix.len() { "prefixItems" } else { "items" };
            let fit = self.fit(index, element, &mut Seen::default());
            below(named(fit, keyword), &|| at.to_string())?;
            if self.schema.tracks {
                seen.elements.insert(at);
            }
        }
        seen.all_elements |= rules.items.is_some();
        if let Some(contains) = &rules.contains {
            let mut count = 0_u64;
            for (at, element) in value.elements().enumerate() {
                if self.fits(contains.schema, element, &mut Seen::default())? {
                    count = count.saturating_add(1);
                    if self.schema.tracks {
                        seen.elements.insert(at);
                    }
                }
            }
            ensure(count >= contains.min, if contains.min == 1 { "contains" } else { "minContains" })?;
            ensure(contains.max.is_none_or(|max| count <= max), "maxContains")?;
        }
        Ok(())
    }

    fn unique(&mut self, value: Value<'_>) -> Fit {
        self.spend(value.source().len() / 16)?;
        let mut texts = BTreeSet::new();
        for (at, element) in value.elements().enumerate() {
            if holds_changeable(element)? {
                return below(Err(unjudged()), &|| at.to_string());
            }
            let mut text = String::new();
            push_canonical(&mut text, element);
            ensure(texts.insert(text), "uniqueItems")?;
        }
        Ok(())
    }

    fn object(&mut self, rules: &ObjectRules, value: Value<'_>, seen: &mut Seen) -> Fit {
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
        ensure(rules.min.is_none_or(|min| length >= min), "minProperties")?;
        ensure(rules.max.is_none_or(|max| length <= max), "maxProperties")?;
        self.spend(rules.required.len())?;
        let has = |name: &str| value.get(name).is_some();
        let lacks =
            |name: &str, keyword| Err(No::Misfit(Misfit { path: Vec::new(), keyword, missing: Some(name.into()) }));
        if let Some(name) = rules.required.iter().find(|name| !has(name)) {
            return lacks(name, "required");
        }
        for (_, names) in rules.dependent_required.iter().filter(|(name, _)| has(name)) {
            if let Some(name) = names.iter().find(|name| !has(name)) {
                return lacks(name, "dependentRequired");
            }
        }
        for (at, (name, member)) in value.members().enumerate() {
            let mut known = false;
            if let Some(index) = rules.properties.get(&*name) {
                known = true;
                let fit = self.fit(*index, member, &mut Seen::default());
                below(named(fit, "properties"), &|| name.clone().into_owned())?;
            }
            for (pattern, index) in &rules.patterns {
                self.spend(name.len() / 8)?;
                if pattern.is_match(&name).ok_or_else(unjudged)? {
                    known = true;
                    let fit = self.fit(*index, member, &mut Seen::default());
                    below(named(fit, "patternProperties"), &|| name.clone().into_owned())?;
                }
            }
            if let Some(index) = rules.additional.filter(|_| !known) {
                known = true;
                let fit = self.fit(index, member, &mut Seen::default());
                below(named(fit, "additionalProperties"), &|| name.clone().into_owned())?;
            }
            if let Some(index) = rules.names {
                self.name(index, &name)?;
            }
            if known && self.schema.tracks {
                seen.members.insert(at);
            }
        }
        for (_, index) in rules.dependent_schemas.iter().filter(|(name, _)| has(name)) {
            self.also(*index, value, seen)?;
        }
        Ok(())
    }

    /// Holds the name of a member against a schema, as the text that it is.
    fn name(&mut self, index: Index, name: &str) -> Fit {
        let mut text = String::new();
        crate::text::push_json_string(&mut text, name);
        let document = Document::parse(text.as_bytes(), Limits::default()).map_err(|_| unjudged())?;
        let fit = self.fit(index, document.root(), &mut Seen::default());
        below(under(fit, "propertyNames"), &|| name.to_owned())
    }

    fn unevaluated_elements(&mut self, rules: &ArrayRules, value: Value<'_>, seen: &mut Seen) -> Fit {
        let Some(index) = rules.unevaluated else { return Ok(()) };
        if seen.all_elements {
            return Ok(());
        }
        for (at, element) in value.elements().enumerate().filter(|(at, _)| !seen.elements.contains(at)) {
            let fit = self.fit(index, element, &mut Seen::default());
            below(named(fit, "unevaluatedItems"), &|| at.to_string())?;
        }
        seen.all_elements = true;
        Ok(())
    }

    fn unevaluated_members(&mut self, rules: &ObjectRules, value: Value<'_>, seen: &mut Seen) -> Fit {
        let Some(index) = rules.unevaluated else { return Ok(()) };
        if seen.all_members {
            return Ok(());
        }
        for (_, (name, member)) in value.members().enumerate().filter(|(at, _)| !seen.members.contains(at)) {
            let fit = self.fit(index, member, &mut Seen::default());
            below(named(fit, "unevaluatedProperties"), &|| name.clone().into_owned())?;
        }
        seen.all_members = true;
        Ok(())
    }
}

/// A schema that is `false` says nothing; the keyword that it stands under does.
fn named(fit: Fit, keyword: &'static str) -> Fit {
    fit.map_err(|no| match no {
        No::Misfit(Misfit { path, keyword: "false", .. }) if path.is_empty() => misfit(keyword),
        No::Misfit(_) | No::Unjudged(_) => no,
    })
}

/// A number of the arguments.
struct Number {
    value: Decimal,
    /// Whether a server that reads binary64 reads another number.
    is_changeable: bool,
}

impl Number {
    /// One that is no integer and would be read as another number may be of another type to the server: it cannot be judged.
    fn of(value: Value<'_>) -> Result<Self, No> {
        let number =
            value.number_text().and_then(Decimal::parse).filter(Decimal::is_comparable).ok_or_else(unjudged)?;
        let is_changeable = number.is_changed_by_binary64();
        if is_changeable && !number.is_integer() { Err(unjudged()) } else { Ok(Self { value: number, is_changeable }) }
    }

    fn fit(&self, rules: &NumberRules) -> Fit {
        let NumberRules { multiple_of, minimum, exclusive_minimum, maximum, exclusive_maximum } = rules;
        let bounds = [multiple_of, minimum, exclusive_minimum, maximum, exclusive_maximum];
        if self.is_changeable && bounds.iter().any(|bound| bound.is_some()) {
            return Err(unjudged());
        }
        let value = &self.value;
        ensure(minimum.is_none_or(|bound| *value >= bound), "minimum")?;
        ensure(maximum.is_none_or(|bound| *value <= bound), "maximum")?;
        ensure(exclusive_minimum.is_none_or(|bound| *value > bound), "exclusiveMinimum")?;
        ensure(exclusive_maximum.is_none_or(|bound| *value < bound), "exclusiveMaximum")?;
        match multiple_of {
            Some(of) => ensure(value.is_multiple_of(of).ok_or_else(unjudged)?, "multipleOf"),
            None => Ok(()),
        }
    }
}

/// Whether a number in it would be read as another by a server that reads binary64.
fn holds_changeable(value: Value<'_>) -> Result<bool, No> {
    match value.kind() {
        Kind::Number => Number::of(value).map(|number| number.is_changeable),
        Kind::Array => value.elements().try_fold(false, |any, one| Ok(any || holds_changeable(one)?)),
        Kind::Object => value.members().try_fold(false, |any, (_, one)| Ok(any || holds_changeable(one)?)),
        Kind::False | Kind::Null | Kind::String | Kind::True => Ok(false),
    }
}
