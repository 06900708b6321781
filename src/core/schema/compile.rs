//! From the text of a schema to rules that can be run.

use std::collections::BTreeMap;

use super::{
    Condition, Contains, Index, Node, ObjectRules, Rules, SCHEMA_PATTERNS_MAX, SCHEMAS_MAX, Schema, SchemaError, Types,
    Values, regex,
};
use crate::{
    decision::pointer,
    json::{Kind, Value},
    number::Decimal,
    pattern::Pattern,
    pins::push_canonical,
};

/// Vocabularies that are understood. Where the schema names none, it is the newest, as in MCP.
const DIALECTS: &[(&str, Draft)] = &[
    ("json-schema.org/draft/2020-12/schema", Draft::New),
    ("json-schema.org/draft/2019-09/schema", Draft::New),
    ("json-schema.org/draft-07/schema", Draft::Old),
    ("json-schema.org/draft-06/schema", Draft::Old),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draft {
    /// Rules beside `$ref` hold.
    New,
    /// Rules beside `$ref` are no rules.
    Old,
}

pub(super) fn compile(schema: Value<'_>) -> Result<Schema, SchemaError> {
    let mut compiler = Compiler {
        root: schema,
        draft: Draft::New,
        nodes: Vec::new(),
        by_offset: BTreeMap::new(),
        waiting: Vec::new(),
        path: Vec::new(),
        patterns: 0,
        tracks: false,
    };
    compiler.draft = compiler.dialect()?;
    let root = compiler.schema(schema)?;
    while let Some((index, value, path)) = compiler.waiting.pop() {
        compiler.path = path;
        compiler.fill(index, value)?;
    }
    Ok(Schema { nodes: compiler.nodes, root, tracks: compiler.tracks })
}

struct Compiler<'d> {
    root: Value<'d>,
    draft: Draft,
    nodes: Vec<Node>,
    /// Schemas that are compiled, or are being compiled, by where their text begins: references may lead round in a circle.
    by_offset: BTreeMap<usize, Index>,
    /// What references lead to and is not compiled yet. A list, so that a long chain of them never becomes stack.
    waiting: Vec<(Index, Value<'d>, Vec<String>)>,
    path: Vec<String>,
    patterns: usize,
    tracks: bool,
}

type Compiled<T> = Result<T, SchemaError>;

impl<'d> Compiler<'d> {
    fn error<T>(&self, keyword: &str, what: &'static str) -> Compiled<T> {
        let mut path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        path.extend((!keyword.is_empty()).then_some(keyword));
        Err(SchemaError { pointer: pointer(&path), what })
    }

    fn dialect(&self) -> Compiled<Draft> {
        let Some(name) = self.root.get("$schema") else { return Ok(Draft::New) };
        let name = name.as_str().unwrap_or_default();
        let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or_default();
        let name = name.strip_suffix('#').unwrap_or(name);
        match DIALECTS.iter().find(|(known, _)| *known == name) {
            Some((_, draft)) => Ok(*draft),
            None => self.error("$schema", "no draft of JSON Schema that is understood"),
        }
    }

    fn schema(&mut self, value: Value<'d>) -> Compiled<Index> {
        if let Some(known) = self.by_offset.get(&value.offset()) {
            return Ok(*known);
        }
        let index = self.place(value)?;
        self.fill(index, value)?;
        Ok(index)
    }

    /// A place for a schema that is not compiled yet.
    fn place(&mut self, value: Value<'d>) -> Compiled<Index> {
        if self.nodes.len() >= SCHEMAS_MAX {
            return self.error("", "more schemas than are checked");
        }
        let index = self.nodes.len();
        self.by_offset.insert(value.offset(), index);
        self.nodes.push(Node::Never);
        Ok(index)
    }

    fn fill(&mut self, index: Index, value: Value<'d>) -> Compiled<()> {
        let node = match value.kind() {
            Kind::True => Node::Any,
            Kind::False => Node::Never,
            Kind::Object => Node::Rules(Box::new(self.rules(value)?)),
            Kind::Array | Kind::Null | Kind::Number | Kind::String => {
                return self.error("", "a schema is an object or a boolean");
            }
        };
        if let Some(slot) = self.nodes.get_mut(index) {
            *slot = node;
        }
        Ok(())
    }

    fn rules(&mut self, schema: Value<'d>) -> Compiled<Rules> {
        if schema.get("$id").is_some() && schema.offset() != self.root.offset() {
            return self.error("$id", "schemas with names of their own are not understood");
        }
        let mut rules = Rules::default();
        if let Some(reference) = schema.get("$ref").or_else(|| schema.get("$dynamicRef")) {
            rules.reference = Some(self.reference(reference)?);
            if self.draft == Draft::Old {
                return Ok(rules);
            }
            if schema.get("$ref").is_some() && schema.get("$dynamicRef").is_some() {
                return self.error("$dynamicRef", "two references in one schema are not understood");
            }
        }
        if let Some(old) = ["$recursiveRef", "extends", "disallow"].into_iter().find(|name| schema.get(name).is_some())
        {
            return self.error(old, "this keyword is not understood");
        }
        self.scalars(schema, &mut rules)?;
        self.array(schema, &mut rules)?;
        self.object(schema, &mut rules.object)?;
        rules.all_of = self.list(schema, "allOf")?;
        rules.any_of = self.list(schema, "anyOf")?;
        rules.one_of = self.list(schema, "oneOf")?;
        rules.not = self.one(schema, "not")?;
        if let Some(test) = self.one(schema, "if")? {
            let (then, otherwise) = (self.one(schema, "then")?, self.one(schema, "else")?);
            rules.condition = Some(Condition { test, then, otherwise });
        }
        Ok(rules)
    }

    fn scalars(&mut self, schema: Value<'d>, rules: &mut Rules) -> Compiled<()> {
        if let Some(value) = schema.get("type") {
            let mut types = Types::default();
            let names: Vec<Value<'d>> =
                if value.kind() == Kind::Array { value.elements().collect() } else { vec![value] };
            for name in &names {
                match name.as_str().and_then(|name| Types::of_name(&name)) {
                    Some(one) => types = types.and(one),
                    None => return self.error("type", "no type of JSON"),
                }
            }
            if names.is_empty() {
                return self.error("type", "no type of JSON");
            }
            rules.types = Some(types);
        }
        if let Some(values) = schema.get("enum") {
            if values.kind() != Kind::Array {
                return self.error("enum", "expected a list");
            }
            rules.values = Some(Values::of(values.elements()));
        }
        rules.constant = schema.get("const").map(|value| Values::of([value].into_iter()));
        let number = &mut rules.number;
        number.multiple_of = self.decimal(schema, "multipleOf")?;
        if number.multiple_of.is_some_and(|one| !one.is_positive()) {
            return self.error("multipleOf", "expected a number above zero");
        }
        number.minimum = self.decimal(schema, "minimum")?;
        number.maximum = self.decimal(schema, "maximum")?;
        number.exclusive_minimum = self.decimal(schema, "exclusiveMinimum")?;
        number.exclusive_maximum = self.decimal(schema, "exclusiveMaximum")?;
        rules.string.min_length = self.count(schema, "minLength")?;
        rules.string.max_length = self.count(schema, "maxLength")?;
        if let Some(pattern) = schema.get("pattern") {
            let text = pattern.as_str();
            rules.string.pattern = Some(self.pattern("pattern", text.as_deref())?);
        }
        Ok(())
    }

    fn array(&mut self, schema: Value<'d>, rules: &mut Rules) -> Compiled<()> {
        let array = &mut rules.array;
        array.min = self.count(schema, "minItems")?;
        array.max = self.count(schema, "maxItems")?;
        array.unique = self.flag(schema, "uniqueItems")?;
        array.prefix = self.list(schema, "prefixItems")?;
        if schema.get("items").is_some_and(|items| items.kind() == Kind::Array) {
            // As drafts up to 2019-09 have it.
            if !array.prefix.is_empty() {
                return self.error("items", "a list beside `prefixItems`");
            }
            array.prefix = self.list(schema, "items")?;
            array.items = self.one(schema, "additionalItems")?;
        } else {
            array.items = self.one(schema, "items")?;
        }
        if let Some(contains) = self.one(schema, "contains")? {
            let (min, max) = (self.count(schema, "minContains")?, self.count(schema, "maxContains")?);
            array.contains = Some(Contains { schema: contains, min: min.unwrap_or(1), max });
        }
        array.unevaluated = self.one(schema, "unevaluatedItems")?;
        self.tracks |= array.unevaluated.is_some();
        Ok(())
    }

    fn object(&mut self, schema: Value<'d>, object: &mut ObjectRules) -> Compiled<()> {
        object.min = self.count(schema, "minProperties")?;
        object.max = self.count(schema, "maxProperties")?;
        if let Some(names) = schema.get("required") {
            object.required = self.names("required", names)?;
        }
        object.properties = self.map(schema, "properties")?.into_iter().collect();
        for (text, index) in self.map(schema, "patternProperties")? {
            object.patterns.push((self.pattern("patternProperties", Some(&text))?, index));
        }
        object.additional = self.one(schema, "additionalProperties")?;
        object.names = self.one(schema, "propertyNames")?;
        object.dependent_schemas = self.map(schema, "dependentSchemas")?;
        for (name, names) in self.members(schema, "dependentRequired")? {
            object.dependent_required.push((name, self.names("dependentRequired", names)?));
        }
        for (name, value) in self.members(schema, "dependencies")? {
            if value.kind() == Kind::Array {
                object.dependent_required.push((name, self.names("dependencies", value)?));
            } else {
                self.path.extend(["dependencies".to_owned(), name.clone().into()]);
                object.dependent_schemas.push((name, self.schema(value)?));
                self.path.truncate(self.path.len().saturating_sub(2));
            }
        }
        object.unevaluated = self.one(schema, "unevaluatedProperties")?;
        self.tracks |= object.unevaluated.is_some();
        Ok(())
    }

    fn one(&mut self, schema: Value<'d>, keyword: &str) -> Compiled<Option<Index>> {
        let Some(value) = schema.get(keyword) else { return Ok(None) };
        self.path.push(keyword.to_owned());
        let index = self.schema(value)?;
        self.path.pop();
        Ok(Some(index))
    }

    fn list(&mut self, schema: Value<'d>, keyword: &str) -> Compiled<Vec<Index>> {
        let Some(value) = schema.get(keyword) else { return Ok(Vec::new()) };
        if value.kind() != Kind::Array || (value.is_empty() && keyword.ends_with("Of")) {
            return self.error(keyword, "expected a list of schemas");
        }
        self.path.push(keyword.to_owned());
        let mut all = Vec::with_capacity(value.len());
        for (at, element) in value.elements().enumerate() {
            self.path.push(at.to_string());
            all.push(self.schema(element)?);
            self.path.pop();
        }
        self.path.pop();
        Ok(all)
    }

    fn members(&self, schema: Value<'d>, keyword: &str) -> Compiled<Vec<(Box<str>, Value<'d>)>> {
        let Some(value) = schema.get(keyword) else { return Ok(Vec::new()) };
        if value.kind() != Kind::Object {
            return self.error(keyword, "expected an object");
        }
        Ok(value.members().map(|(name, value)| (name.into(), value)).collect())
    }

    fn map(&mut self, schema: Value<'d>, keyword: &str) -> Compiled<Vec<(Box<str>, Index)>> {
        let mut all = Vec::new();
        for (name, value) in self.members(schema, keyword)? {
            self.path.extend([keyword.to_owned(), name.clone().into()]);
            all.push((name, self.schema(value)?));
            self.path.truncate(self.path.len().saturating_sub(2));
        }
        Ok(all)
    }

    fn names(&self, keyword: &str, value: Value<'d>) -> Compiled<Vec<Box<str>>> {
        let names: Option<Vec<Box<str>>> = value.elements().map(|name| Some(name.as_str()?.into())).collect();
        match names {
            Some(names) if value.kind() == Kind::Array => Ok(names),
            Some(_) | None => self.error(keyword, "expected a list of names"),
        }
    }

    fn flag(&self, schema: Value<'d>, keyword: &str) -> Compiled<bool> {
        match schema.get(keyword).map(Value::as_bool) {
            None => Ok(false),
            Some(Some(flag)) => Ok(flag),
            Some(None) => self.error(keyword, "expected `true` or `false`"),
        }
    }

    fn decimal(&self, schema: Value<'d>, keyword: &str) -> Compiled<Option<Decimal>> {
        let Some(value) = schema.get(keyword) else { return Ok(None) };
        match value.number_text().and_then(Decimal::parse).filter(Decimal::is_comparable) {
            Some(number) => Ok(Some(number)),
            None => self.error(keyword, "expected a number that can be compared"),
        }
    }

    /// A length that no text can have is no bound.
    fn count(&self, schema: Value<'d>, keyword: &str) -> Compiled<Option<u64>> {
        match self.decimal(schema, keyword)? {
            None => Ok(None),
            Some(number) if number.is_integer() => match number.to_amount() {
                Ok(count) => Ok(Some(count)),
                Err(_) => self.error(keyword, "expected a whole number from zero on"),
            },
            Some(_) => self.error(keyword, "expected a whole number from zero on"),
        }
    }

    fn pattern(&mut self, keyword: &str, text: Option<&str>) -> Compiled<Pattern> {
        self.patterns = self.patterns.saturating_add(1);
        if self.patterns > SCHEMA_PATTERNS_MAX {
            return self.error(keyword, "more patterns than are checked");
        }
        match text.and_then(regex::compile) {
            Some(pattern) => Ok(pattern),
            None => self.error(keyword, "no pattern that can be run in linear time"),
        }
    }

    /// Where a reference leads: into this very schema, or nowhere. Nothing is ever fetched.
    fn reference(&mut self, value: Value<'d>) -> Compiled<Index> {
        let text = value.as_str().unwrap_or_default();
        let target = match text.strip_prefix('#') {
            Some("") => Some(self.root),
            Some(path) if path.starts_with('/') => self.follow(path),
            Some(anchor) => find_anchor(self.root, anchor),
            None => return self.error("$ref", "leads out of the schema: nothing is fetched"),
        };
        match target {
            Some(target) => {
                if let Some(known) = self.by_offset.get(&target.offset()) {
                    return Ok(*known);
                }
                let index = self.place(target)?;
                let path = [&self.path[..], &["$ref".to_owned()]].concat();
                self.waiting.push((index, target, path));
                Ok(index)
            }
            None => self.error("$ref", "leads nowhere"),
        }
    }

    fn follow(&self, path: &str) -> Option<Value<'d>> {
        path.split('/').skip(1).try_fold(self.root, |value, part| {
            let part = percent_decoded(part)?.replace("~1", "/").replace("~0", "~");
            match value.kind() {
                Kind::Object => value.get(&part),
                Kind::Array => value.elements().nth(part.parse().ok()?),
                Kind::False | Kind::Null | Kind::Number | Kind::String | Kind::True => None,
            }
        })
    }
}

/// Depth is bounded by the parser's limits, so recursion is.
fn find_anchor<'d>(value: Value<'d>, anchor: &str) -> Option<Value<'d>> {
    let is = |name: &str| value.get(name).and_then(Value::as_str).is_some_and(|text| text == anchor);
    if value.kind() == Kind::Object && (is("$anchor") || is("$dynamicAnchor")) {
        return Some(value);
    }
    value.members().map(|(_, member)| member).chain(value.elements()).find_map(|inner| find_anchor(inner, anchor))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' {
            let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
            u8::try_from(digit()?.wrapping_shl(4) | digit()?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(out).ok()
}

impl Types {
    fn of_name(name: &str) -> Option<Self> {
        let names = ["null", "boolean", "object", "array", "string", "number", "integer"];
        let at = names.iter().position(|known| *known == name)?;
        Some(Self(1_u8.wrapping_shl(u32::try_from(at).ok()?)))
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn allows(self, kind: Kind, is_integer: bool) -> bool {
        let bits = match kind {
            Kind::Null => 1,
            Kind::False | Kind::True => 2,
            Kind::Object => 4,
            Kind::Array => 8,
            Kind::String => 16,
            Kind::Number if is_integer => 32 | 64,
            Kind::Number => 32,
        };
        self.0 & bits != 0
    }
}

impl Values {
    fn of<'d>(values: impl Iterator<Item = Value<'d>>) -> Self {
        let mut has_number = false;
        let text = |value: Value<'_>| {
            has_number |= holds_number(value);
            let mut text = String::new();
            push_canonical(&mut text, value);
            text
        };
        Self { texts: values.map(text).collect(), has_number }
    }
}

fn holds_number(value: Value<'_>) -> bool {
    value.kind() == Kind::Number
        || value.elements().any(holds_number)
        || value.members().any(|(_, member)| holds_number(member))
}
