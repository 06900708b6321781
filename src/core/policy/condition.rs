//! One condition: a path into the arguments, an operator, a value; and what it says of one call.
//!
//! Four answers, not two: a path that is missing and a value that the operator cannot judge are neither true nor false,
//! and what they lead to differs between `require` and `deny_if`. The sections decide that, not the operators.

use std::{borrow::Cow, cmp::Ordering};

use crate::json::{Kind, Value};
use crate::number::Decimal;
use crate::pattern::Pattern;

/// How a condition treats types other than its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compat {
    /// As the open-source predecessor of the dialect: coercion, and wrong types are false.
    Lenient,
    /// No coercion; a present value of a wrong type cannot be judged.
    Strict,
}

/// What a condition says of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// The condition is false.
    Fails,
    /// The condition is true.
    Holds,
    /// Nothing stands at the path.
    Missing,
    /// Something stands at the path, or on the way to it, that cannot be judged: of another type, too long, or a number
    /// that cannot be read exactly.
    Unjudged,
}

impl Truth {
    /// The name in explanations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Truth::Fails => "fails",
            Truth::Holds => "holds",
            Truth::Missing => "missing",
            Truth::Unjudged => "cannot be judged",
        }
    }

    fn of(holds: bool) -> Self {
        if holds { Truth::Holds } else { Truth::Fails }
    }

    /// `None` is a value that cannot be judged.
    fn of_option(holds: Option<bool>) -> Self {
        holds.map_or(Truth::Unjudged, Truth::of)
    }
}

/// A path below `args`: names of members, outermost first. Arrays have no members.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path(pub(super) Box<[Box<str>]>);

impl Path {
    /// What stands at the path.
    pub(super) fn find<'d>(&self, arguments: Option<Value<'d>>) -> Option<Value<'d>> {
        self.0.iter().try_fold(arguments?, |value, segment| value.get(segment))
    }

    /// Whether the path ends at a value that is no object and so has no members here, while the upstream may find some in
    /// it: servers read a JSON text in a string, or take a list of one for its element. A null is nothing to anybody.
    pub(super) fn is_blocked(&self, arguments: Option<Value<'_>>) -> bool {
        let mut value = arguments;
        for segment in &self.0 {
            match value.map(Value::kind) {
                Some(Kind::Object) => value = value.and_then(|value| value.get(segment)),
                Some(Kind::Array | Kind::False | Kind::Number | Kind::String | Kind::True) => return true,
                Some(Kind::Null) | None => return false,
            }
        }
        false
    }

    /// As written in the policy: `args.a.b`.
    pub(super) fn text(&self) -> String {
        self.text_below("args")
    }

    /// The same below another root, such as `result`.
    pub(super) fn text_below(&self, root: &str) -> String {
        self.0.iter().fold(root.to_owned(), |text, segment| text + "." + segment)
    }
}

/// A value that stands in a policy.
#[derive(Clone, Debug)]
pub(crate) enum Scalar {
    Bool(bool),
    /// Only under `compat: lenient`: nothing equals null otherwise.
    Null,
    Number {
        value: Decimal,
        /// As written.
        text: Box<str>,
    },
    String(Box<str>),
}

/// A numeric comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Order {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Order::Greater => ordering.is_gt(),
            Order::GreaterOrEqual => ordering.is_ge(),
            Order::Less => ordering.is_lt(),
            Order::LessOrEqual => ordering.is_le(),
        }
    }
}

/// An operator and its value.
#[derive(Clone, Debug)]
pub(crate) enum Test {
    Contains(Scalar),
    Equal(Scalar),
    Exists(bool),
    In(Box<[Scalar]>),
    NotEqual(Scalar),
    NotIn(Box<[Scalar]>),
    Order(Order, Decimal),
    Regex(Box<Pattern>),
}

impl Test {
    /// The operator as written in the policy.
    pub(super) const fn operator(&self) -> &'static str {
        match self {
            Test::Contains(_) => "contains",
            Test::Equal(_) => "eq",
            Test::Exists(_) => "exists",
            Test::In(_) => "in",
            Test::NotEqual(_) => "neq",
            Test::NotIn(_) => "not_in",
            Test::Order(Order::Greater, _) => "gt",
            Test::Order(Order::GreaterOrEqual, _) => "gte",
            Test::Order(Order::Less, _) => "lt",
            Test::Order(Order::LessOrEqual, _) => "lte",
            Test::Regex(_) => "regex",
        }
    }

    /// The value, for explanations.
    pub(super) fn value_text(&self) -> String {
        match self {
            Test::Contains(scalar) | Test::Equal(scalar) | Test::NotEqual(scalar) => scalar.json(),
            Test::Exists(wanted) => wanted.to_string(),
            Test::In(list) | Test::NotIn(list) => {
                format!("[{}]", list.iter().map(Scalar::json).collect::<Vec<_>>().join(", "))
            }
            Test::Order(_, bound) => bound.go_text(),
            Test::Regex(pattern) => Scalar::String(pattern.source().into()).json(),
        }
    }

    /// What the operator says of a value, `None` for a missing one.
    pub(crate) fn judge(&self, value: Option<Value<'_>>, compat: Compat) -> Truth {
        match (value, compat) {
            (None, _) => self.on_missing(),
            (Some(value), Compat::Lenient) => self.lenient(value),
            (Some(value), Compat::Strict) => self.strict(value),
        }
    }

    fn on_missing(&self) -> Truth {
        match self {
            Test::Exists(wanted) => Truth::of(!*wanted),
            Test::Contains(_)
            | Test::Equal(_)
            | Test::In(_)
            | Test::NotEqual(_)
            | Test::NotIn(_)
            | Test::Order(..)
            | Test::Regex(_) => Truth::Missing,
        }
    }

    fn strict(&self, value: Value<'_>) -> Truth {
        match self {
            Test::Contains(wanted) => contains_strictly(value, wanted),
            Test::Equal(wanted) => Truth::of_option(wanted.equals_strictly(value)),
            // A null is there and is nothing: it satisfies neither the wish for a value nor the wish for none.
            Test::Exists(wanted) => match (value.kind(), wanted) {
                (Kind::Null, false) => Truth::Unjudged,
                (Kind::Null, true) => Truth::Fails,
                (Kind::Array | Kind::False | Kind::Number | Kind::Object | Kind::String | Kind::True, wanted) => {
                    Truth::of(*wanted)
                }
            },
            Test::In(list) => Truth::of_option(is_in_strictly(value, list)),
            Test::NotEqual(wanted) => Truth::of_option(wanted.equals_strictly(value).map(|equal| !equal)),
            Test::NotIn(list) => Truth::of_option(is_in_strictly(value, list).map(|found| !found)),
            Test::Order(order, bound) => Truth::of_option(compare(value, bound).map(|ordering| order.holds(ordering))),
            Test::Regex(pattern) => Truth::of_option(value.as_str().and_then(|text| pattern.is_match(&text))),
        }
    }

    /// The table of the predecessor, measured. Only hostile numbers and texts beyond every limit remain unjudged.
    fn lenient(&self, value: Value<'_>) -> Truth {
        match self {
            Test::Contains(wanted) => contains_leniently(value, wanted),
            Test::Equal(wanted) => Truth::of_option(wanted.equals_leniently(value)),
            Test::Exists(wanted) => Truth::of((value.kind() != Kind::Null) == *wanted),
            Test::In(list) => Truth::of_option(is_in_leniently(value, list)),
            Test::NotEqual(wanted) => Truth::of_option(wanted.equals_leniently(value).map(|equal| !equal)),
            Test::NotIn(list) => Truth::of_option(is_in_leniently(value, list).map(|found| !found)),
            Test::Order(..) if value.kind() != Kind::Number => Truth::Fails,
            Test::Regex(_) if value.kind() != Kind::String => Truth::Fails,
            Test::Order(..) | Test::Regex(_) => self.strict(value),
        }
    }
}

/// A path, an operator, a value.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) path: Path,
    pub(super) test: Test,
}

impl Condition {
    pub(super) fn judge(&self, arguments: Option<Value<'_>>, compat: Compat) -> Truth {
        match (self.path.find(arguments), compat) {
            (None, Compat::Strict) if self.path.is_blocked(arguments) => Truth::Unjudged,
            (found, compat) => self.test.judge(found, compat),
        }
    }
}

impl Scalar {
    /// `None` for a value of another type, and for a number that cannot be read exactly.
    fn equals_strictly(&self, value: Value<'_>) -> Option<bool> {
        match self {
            Scalar::Bool(wanted) => value.as_bool().map(|found| found == *wanted),
            Scalar::Null => None,
            Scalar::Number { value: wanted, .. } => compare(value, wanted).map(Ordering::is_eq),
            Scalar::String(wanted) => value.as_str().map(|found| *found == **wanted),
        }
    }

    /// Whether a value of that type can be compared with this one strictly.
    fn is_of(&self, kind: Kind) -> bool {
        match self {
            Scalar::Bool(_) => matches!(kind, Kind::False | Kind::True),
            Scalar::Null => false,
            Scalar::Number { .. } => kind == Kind::Number,
            Scalar::String(_) => kind == Kind::String,
        }
    }

    /// Numbers by value, everything else by the text that Go prints of it. Lists and maps equal nothing.
    fn equals_leniently(&self, value: Value<'_>) -> Option<bool> {
        let printed = match (value.kind(), self) {
            (Kind::Null, wanted) => return Some(matches!(wanted, Scalar::Null)),
            (Kind::Array | Kind::Object, _) => return Some(false),
            (Kind::Number, Scalar::Number { .. }) => return self.equals_strictly(value),
            (Kind::Number, Scalar::Bool(_) | Scalar::Null | Scalar::String(_)) => {
                Cow::Owned(readable(value.number_text()?)?.go_text())
            }
            (Kind::False, _) => Cow::Borrowed("false"),
            (Kind::String, _) => value.as_str()?,
            (Kind::True, _) => Cow::Borrowed("true"),
        };
        Some(self.printed().is_some_and(|wanted| wanted == printed))
    }

    /// What the predecessor prints of the policy's value, which it reads as an integer where it can.
    pub(super) fn printed(&self) -> Option<Cow<'_, str>> {
        match self {
            Scalar::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
            Scalar::Null => None,
            Scalar::Number { text, .. } if !text.contains(['.', 'e', 'E']) => Some(Cow::Borrowed(text)),
            Scalar::Number { value, .. } => Some(Cow::Owned(value.go_text())),
            Scalar::String(text) => Some(Cow::Borrowed(text)),
        }
    }

    /// Whether a value of another type can equal this one under `compat: lenient`.
    pub(super) fn is_coercible(&self) -> bool {
        match self {
            Scalar::Bool(_) | Scalar::Null | Scalar::Number { .. } => true,
            Scalar::String(text) => matches!(&**text, "true" | "false") || readable(text).is_some(),
        }
    }

    fn json(&self) -> String {
        match self {
            Scalar::Bool(value) => value.to_string(),
            Scalar::Null => "null".to_owned(),
            Scalar::Number { text, .. } => text.to_string(),
            Scalar::String(text) => {
                let mut out = String::new();
                crate::text::push_json_string(&mut out, text);
                out
            }
        }
    }
}

/// A number that can take part in a comparison.
fn readable(text: &str) -> Option<Decimal> {
    Decimal::parse(text).filter(Decimal::is_comparable)
}

/// Exactly; `None` also for a number so close to the bound that a server which rounds takes it for the bound itself.
fn compare(value: Value<'_>, bound: &Decimal) -> Option<Ordering> {
    let number = readable(value.number_text()?)?;
    (!number.is_confusable(bound)).then(|| number.cmp(bound))
}

/// Judged if the list holds a value of the same type.
fn is_in_strictly(value: Value<'_>, list: &[Scalar]) -> Option<bool> {
    let mut alike = list.iter().filter(|wanted| wanted.is_of(value.kind())).peekable();
    alike.peek()?;
    any_of(alike.map(|wanted| wanted.equals_strictly(value)))
}

fn is_in_leniently(value: Value<'_>, list: &[Scalar]) -> Option<bool> {
    any_of(list.iter().map(|wanted| wanted.equals_leniently(value)))
}

fn contains_strictly(value: Value<'_>, wanted: &Scalar) -> Truth {
    match (value.kind(), wanted) {
        (Kind::Array, _) => Truth::of_option(any_of(value.elements().map(|element| wanted.equals_strictly(element)))),
        (Kind::String, Scalar::String(part)) => Truth::of_option(value.as_str().map(|text| text.contains(&**part))),
        (
            Kind::False | Kind::Null | Kind::Number | Kind::Object | Kind::String | Kind::True,
            Scalar::Bool(_) | Scalar::Null | Scalar::Number { .. } | Scalar::String(_),
        ) => Truth::Unjudged,
    }
}

fn contains_leniently(value: Value<'_>, wanted: &Scalar) -> Truth {
    if value.kind() == Kind::Array {
        return Truth::of_option(any_of(value.elements().map(|element| wanted.equals_leniently(element))));
    }
    let truth = contains_strictly(value, wanted);
    if truth == Truth::Unjudged { Truth::Fails } else { truth }
}

/// True if one is true, however little is known of the others; unknown if one is unknown; else false.
fn any_of(mut answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut unknown = false;
    let found = answers.any(|answer| {
        unknown |= answer.is_none();
        answer == Some(true)
    });
    if found || !unknown { Some(found) } else { None }
}

#[cfg(test)]
mod tests;
