//! The arguments of a call against the `inputSchema` of its tool: JSON Schema, draft 2020-12, and draft-07 where the schema
//! says so.
//!
//! Our own checker, because a schema is written by one stranger and arguments by another: numbers are compared by their exact
//! decimal value, every check has a budget of steps and of depth, references lead nowhere but into the schema, and patterns
//! take linear time. What cannot be judged within that is refused. `format` and `content…` are annotations, as in MCP.

use std::{collections::BTreeMap, fmt};

use crate::{
    json::{Document, Limits, Value},
    number::Decimal,
    pattern::Pattern,
};

mod check;
mod compile;
mod regex;
#[cfg(test)]
mod tests;

pub use check::Violation;

/// Bytes of a definition whose schema is compiled.
pub const SCHEMA_BYTES_MAX: usize = 65_536;
/// Nesting of a schema.
pub const SCHEMA_DEPTH_MAX: usize = 64;
/// Schemas in a schema, itself included.
pub const SCHEMAS_MAX: usize = 5_000;
/// Patterns in a schema.
pub const SCHEMA_PATTERNS_MAX: usize = 32;
/// Steps that one check may take: visits of a value by a schema, and what compares texts costs more.
pub const STEPS_MAX: u32 = 200_000;
/// Schemas that may be at work inside each other.
pub const CHECK_DEPTH_MAX: u32 = 192;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    nodes: Vec<Node>,
    root: Index,
    /// Whether any of it asks what others have looked at.
    tracks: bool,
}

/// Why a schema cannot be enforced; the owner of the server can mend it. Names no more than where and which keyword.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaError {
    /// RFC 6901 pointer into the schema, cut.
    pub pointer: String,
    /// What is wrong there.
    pub what: &'static str,
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = String::new();
        crate::text::push_json_string_cut(&mut at, &self.pointer, POINTER_BYTES_MAX);
        write!(f, "at {at}: {}", self.what)
    }
}

impl std::error::Error for SchemaError {}

/// Bytes of a pointer that is told.
const POINTER_BYTES_MAX: usize = 256;

type Index = usize;

/// One schema.
#[derive(Debug)]
enum Node {
    /// `true`
    Any,
    /// `false`
    Never,
    /// An object.
    Rules(Box<Rules>),
}

/// The rules of one schema. What is not there is `None`, empty or `false`.
#[derive(Debug, Default)]
struct Rules {
    types: Option<Types>,
    values: Option<Values>,
    constant: Option<Values>,
    number: NumberRules,
    string: StringRules,
    array: ArrayRules,
    object: ObjectRules,
    all_of: Vec<Index>,
    any_of: Vec<Index>,
    one_of: Vec<Index>,
    not: Option<Index>,
    condition: Option<Condition>,
    reference: Option<Index>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Types(u8);

/// Canonical texts of values, and whether a number is in them.
#[derive(Debug)]
struct Values {
    texts: Vec<String>,
    has_number: bool,
}

#[derive(Debug, Default)]
struct NumberRules {
    multiple_of: Option<Decimal>,
    minimum: Option<Decimal>,
    exclusive_minimum: Option<Decimal>,
    maximum: Option<Decimal>,
    exclusive_maximum: Option<Decimal>,
}

#[derive(Debug, Default)]
struct StringRules {
    min_length: Option<u64>,
    max_length: Option<u64>,
    pattern: Option<Pattern>,
}

#[derive(Debug, Default)]
struct ArrayRules {
    min: Option<u64>,
    max: Option<u64>,
    unique: bool,
    prefix: Vec<Index>,
    items: Option<Index>,
    contains: Option<Contains>,
    unevaluated: Option<Index>,
}

#[derive(Debug)]
struct Contains {
    schema: Index,
    min: u64,
    max: Option<u64>,
}

#[derive(Debug, Default)]
struct ObjectRules {
    min: Option<u64>,
    max: Option<u64>,
    required: Vec<Box<str>>,
    properties: BTreeMap<Box<str>, Index>,
    patterns: Vec<(Pattern, Index)>,
    additional: Option<Index>,
    names: Option<Index>,
    dependent_required: Vec<(Box<str>, Vec<Box<str>>)>,
    dependent_schemas: Vec<(Box<str>, Index)>,
    unevaluated: Option<Index>,
}

#[derive(Debug)]
struct Condition {
    test: Index,
    then: Option<Index>,
    otherwise: Option<Index>,
}

impl Schema {
    /// Compiles the `inputSchema` of a tool's definition.
    ///
    /// # Errors
    /// [`SchemaError`]; the server's owner can mend it.
    pub fn of_tool(definition: &str) -> Result<Self, SchemaError> {
        let error = |what| SchemaError { pointer: String::new(), what };
        let limits = Limits { bytes_max: SCHEMA_BYTES_MAX, depth_max: SCHEMA_DEPTH_MAX, nodes_max: SCHEMA_BYTES_MAX };
        let document =
            Document::parse(definition.as_bytes(), limits).map_err(|_| error("larger or deeper than is checked"))?;
        let schema = document.root().get("inputSchema").ok_or(error("the tool has no `inputSchema`"))?;
        compile::compile(schema)
    }

    /// Holds arguments against the schema. No arguments are an empty object.
    ///
    /// # Errors
    /// [`Violation`]: which value does not fit, and which keyword says so. Never the value.
    pub fn check(&self, arguments: Option<Value<'_>>) -> Result<(), Violation> {
        check::check(self, arguments)
    }
}
