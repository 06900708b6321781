//! From a document to a policy: every defect at once, and nothing ignored.

use std::collections::BTreeSet;
#[expect(clippy::disallowed_types, reason = "looked up, never iterated")]
use std::collections::HashMap;
use std::sync::Arc;

use super::condition::{Compat, Condition, Path, Test};
use super::limit::Limit;
use super::{Compiled, Conditions, Entry, Policy, Section, Source, Tool, Unlisted, default_message};
use crate::decision::PolicyDigest;
use crate::document::{self, Cursor, Defect, Fields, Node, Report, Shape, quoted};
use crate::json::Limits;
use crate::mask::PolicyRules;

mod limit;
mod results;
mod terms;
mod window;

use limit::{AmountFrom, Counters, Place};
pub use limit::{COUNTERS_MAX, LIMITS_MAX};
pub use results::{HOSTS_MAX, MASK_TEXT_CHARS_MAX, RESULT_RULES_MAX, REVEALED_MAX};

/// Bytes of a policy document.
pub const POLICY_BYTES_MAX: usize = 9 * 1024 * 1024;
/// Values in a policy document.
const POLICY_NODES_MAX: usize = 1_000_000;
/// Tools that a policy may name, and entries of `hide`.
pub const TOOLS_MAX: usize = 100_000;
/// Conditions in a policy.
pub const CONDITIONS_MAX: usize = 100_000;
/// Rules in one `require` or `deny_if`.
pub const RULES_MAX: usize = 256;
/// Conditions in one rule.
pub const CONDITIONS_PER_RULE_MAX: usize = 64;
/// Patterns in a policy.
pub const PATTERNS_MAX: usize = 256;
/// Bytes that all patterns of a policy take once they are compiled: a short text can stand for a large program.
pub const PATTERN_BYTES_MAX: usize = 4 << 20;
/// Values of one `in` or `not_in`.
pub const VALUES_MAX: usize = 1_000;
/// Characters of the name of a tool.
pub const NAME_CHARS_MAX: usize = 256;
/// Characters of `on_deny`.
pub const MESSAGE_CHARS_MAX: usize = 1_024;
/// Names in a path, `args` not counted.
pub const PATH_SEGMENTS_MAX: usize = 16;
/// Characters of one name in a path.
pub const SEGMENT_CHARS_MAX: usize = 256;

/// A version of the language. The second has all of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Version::One => "1",
            Version::Two => "2",
        }
    }
}

/// Keys that later versions of the language give a meaning. Ignoring one would be a rule that does not hold.
const PLANNED: &[&str] = &[
    "approve_if",
    "bindings",
    "concurrency",
    "counters",
    "credential",
    "hide_match",
    "history",
    "kill_if",
    "labels",
    "methods",
    "mode",
    "prompts",
    "quantifier",
    "refund_on",
    "resources",
    "who",
];

pub(super) fn compile(source: &Source<'_>, forced: Option<Compat>) -> Result<Compiled, Vec<Defect>> {
    let limits = Limits { bytes_max: POLICY_BYTES_MAX, nodes_max: POLICY_NODES_MAX, ..document::LIMITS };
    let report = Report::read_within(source.file, source.bytes, source.format, limits);
    let policy = report.root().and_then(|root| read_policy(&root, source, forced));
    let (defects, warnings) = report.finish();
    match policy {
        Some(policy) if defects.is_empty() => Ok(Compiled { policy, warnings }),
        Some(_) | None => Err(defects),
    }
}

fn read_policy(root: &Cursor<'_>, source: &Source<'_>, forced: Option<Compat>) -> Option<Policy> {
    let version = find_version(root);
    let known = ["version", "default", "hide", "all_tools", "tools", "compat"];
    let since_2 = [&["counters", "hidden_as"], results::KEYS].concat();
    let top = fields_since(root, version, &known, &since_2)?;
    check_version(&top);
    let default = top.required("default").and_then(|cursor| cursor.one_of(&["allow", "deny"]));
    let hidden_as = top.optional("hidden_as").map(|cursor| read_hidden_as(&cursor, default));
    let lenient = top.optional("compat").and_then(|cursor| cursor.one_of(&["lenient"])).is_some();
    let compat = forced.unwrap_or(if lenient { Compat::Lenient } else { Compat::Strict });
    let counters = top.optional("counters").filter(|_| version == Version::Two);
    let counters = counters.map(|cursor| Counters::read(&cursor, version)).unwrap_or_default();
    let policy = source.id.into();
    let mut compiler =
        Compiler { version, compat, policy, counters, conditions: 0, patterns: 0, pattern_bytes: 0, result_rules: 0 };
    let hidden = top.optional("hide").map(|cursor| read_hide(&cursor)).unwrap_or_default();
    let (limits, schema_from) = compiler.all_tools(&top);
    let mut results = PolicyRules { shared: compiler.results(&top), ..PolicyRules::default() };
    #[expect(clippy::disallowed_types, reason = "looked up, never iterated")]
    let mut tools: HashMap<Box<str>, Entry> = HashMap::new();
    let mut tool_count = 0usize;
    if let Some(cursor) = top.optional("tools") {
        let entries = cursor.entries().unwrap_or_default();
        bounded(&cursor, "tools", entries.len(), TOOLS_MAX);
        tool_count = entries.len();
        for (name, entry) in entries.iter().take(TOOLS_MAX) {
            check_name(entry, name, "the rules of all tools are `all_tools`");
            if let Some(tool) = compiler.tool(entry, name, &limits) {
                tool.results.iter().for_each(|own| results.every_tool.join(own));
                tools.insert((*name).into(), Entry::Listed(tool));
            }
            if hidden.contains(name) {
                entry.warn("the tool is hidden, so its rules have no effect", None);
            }
        }
    }
    compiler.counters.warn();
    let hides_all = hidden.contains("*");
    let says_more = schema_from || !results.shared.is_empty();
    if default == Some("allow") && tools.is_empty() && hidden.is_empty() && limits.is_empty() && !says_more {
        root.warn("the policy allows everything", None);
    }
    tools.extend(hidden.iter().filter(|name| **name != "*").map(|name| (Box::from(*name), Entry::Hidden)));
    let mut policy = Policy {
        id: source.id.into(),
        digest: PolicyDigest::of(source.bytes),
        default: if default == Some("allow") { Unlisted::Allow } else { Unlisted::Deny },
        compat,
        hides_all,
        hides_as_unknown: hidden_as.unwrap_or(Some(false))?,
        tools,
        tool_count,
        pattern_bytes: compiler.pattern_bytes,
        limits,
        results,
        schema_from,
        may_hide: true,
    };
    policy.may_hide = policy.can_hide();
    Some(policy)
}

/// The version by which the keys are read. A wrong one is told later; the first refuses more.
fn find_version(root: &Cursor<'_>) -> Version {
    let Shape::Map(members) = &root.node().shape else { return Version::One };
    let is_two = |node: &Node| matches!(&node.shape, Shape::String(text) if text == Version::Two.name());
    let two = members.iter().any(|(key, node)| key == "version" && is_two(node));
    if two { Version::Two } else { Version::One }
}

fn check_version(top: &Fields<'_>) {
    let Some(cursor) = top.required("version") else { return };
    let Some(version) = cursor.string() else { return };
    if version != Version::One.name() && version != Version::Two.name() {
        cursor.defect(format!("version {} is not supported, expected `1` or `2`", quoted(version)));
    }
}

/// Whether hidden tools are told as unknown ones. That needs one answer for both, and so a policy that answers for unknown
/// tools itself.
fn read_hidden_as(cursor: &Cursor<'_>, default: Option<&str>) -> Option<bool> {
    cursor.one_of(&["unknown"])?;
    if default == Some("allow") {
        let message = "under `default: allow` the server answers for tools that it does not know, and its text differs: \
                       hidden tools could be told from unknown ones";
        cursor.defect_with_hint(message, "`default: deny`, and name the tools that may be called");
        return None;
    }
    Some(true)
}

fn read_hide<'a>(cursor: &Cursor<'a>) -> BTreeSet<&'a str> {
    let items = cursor.items().unwrap_or_default();
    bounded(cursor, "entries", items.len(), TOOLS_MAX);
    let mut names = BTreeSet::new();
    for item in items.iter().take(TOOLS_MAX) {
        let Some(name) = item.string() else { continue };
        if name != "*" {
            check_name(item, name, "`*` alone hides every tool");
        }
        if !names.insert(name) {
            item.defect(format!("{} is in the list already", quoted(name)));
        }
    }
    names
}

struct Compiler<'a> {
    version: Version,
    compat: Compat,
    policy: Arc<str>,
    counters: Counters<'a>,
    conditions: usize,
    patterns: usize,
    pattern_bytes: usize,
    result_rules: usize,
}

impl<'a> Compiler<'a> {
    fn all_tools(&mut self, top: &Fields<'a>) -> (Box<[Limit]>, bool) {
        let Some(all) = top.optional("all_tools").and_then(|cursor| self.fields(&cursor, &["limits"], SINCE_2)) else {
            return (Box::default(), false);
        };
        let limits = all.optional("limits").map(|cursor| self.limits(&cursor, Place::AllTools, &[]));
        (limits.unwrap_or_default(), reads_schema(&all))
    }

    fn tool(&mut self, cursor: &Cursor<'a>, name: &str, shared: &[Limit]) -> Option<Tool> {
        let since_2 = [SINCE_2, results::KEYS].concat();
        let keys = self.fields(cursor, &["require", "deny_if", "limits"], &since_2)?;
        let require = keys.optional("require").map(|rules| self.rules(&rules, Section::Require)).unwrap_or_default();
        let deny_if = keys.optional("deny_if").map(|rules| self.rules(&rules, Section::DenyIf)).unwrap_or_default();
        let limits = keys.optional("limits").map(|limits| self.limits(&limits, Place::Tool(name), shared));
        if let Some(rules) = keys.optional("deny_if") {
            warn_of_unguarded(&rules, &require, &deny_if);
        }
        let results = Some(self.results(&keys)).filter(|set| !set.is_empty()).map(Box::new);
        let (limits, schema_from) = (limits.unwrap_or_default(), reads_schema(&keys));
        Some(Tool { require, deny_if, limits, results, schema_from })
    }

    fn fields(&self, cursor: &Cursor<'a>, known: &[&str], since_2: &[&str]) -> Option<Fields<'a>> {
        fields_since(cursor, self.version, known, since_2)
    }

    fn rules(&mut self, cursor: &Cursor<'a>, section: Section) -> Box<[Conditions]> {
        let items = cursor.items().unwrap_or_default();
        bounded(cursor, "rules", items.len(), RULES_MAX);
        items.iter().take(RULES_MAX).filter_map(|item| self.rule(item, section)).collect()
    }

    fn rule(&mut self, cursor: &Cursor<'a>, section: Section) -> Option<Conditions> {
        let keys = self.fields(cursor, &["conditions", "on_deny"], &[])?;
        let on_deny = read_message(&keys);
        let list = keys.required("conditions")?;
        let items = list.items()?;
        if items.is_empty() {
            list.defect("needs at least one condition");
        }
        bounded(&list, "conditions", items.len(), CONDITIONS_PER_RULE_MAX);
        self.conditions = self.conditions.saturating_add(items.len());
        if self.conditions > CONDITIONS_MAX {
            list.defect(format!("the policy has more than {CONDITIONS_MAX} conditions"));
            return None;
        }
        let all = items.iter().take(CONDITIONS_PER_RULE_MAX).filter_map(|item| self.condition(item, section));
        Some(Conditions { all: all.collect(), on_deny })
    }

    fn condition(&mut self, cursor: &Cursor<'a>, section: Section) -> Option<Condition> {
        let keys = self.fields(cursor, &["path", "op", "value"], &[])?;
        let path = keys.required("path").and_then(|path| read_path(&path));
        let test = self.test(cursor, &keys)?;
        if self.compat == Compat::Lenient
            && let Some(difference) = super::value::lenient_difference(&test, section)
        {
            cursor.warn(format!("`compat: lenient` {difference}"), Some("drop `compat` to deny these".into()));
        }
        Some(Condition { path: path?, test })
    }

    /// The operator of a condition with its value.
    fn test(&mut self, cursor: &Cursor<'a>, keys: &Fields<'a>) -> Option<Test> {
        let operator = keys.required("op").and_then(|op| op.one_of(super::value::OPERATORS));
        let value = keys.required("value");
        if operator == Some("regex") {
            self.room_for_pattern(cursor)?;
        }
        let test = super::value::read_test(operator?, &value?, self.compat)?;
        if let Test::Regex(pattern) = &test {
            self.pattern_bytes = self.pattern_bytes.saturating_add(pattern.bytes());
        }
        Some(test)
    }

    /// Counts a pattern that is about to be compiled. `None` if it must not be: compiling costs time, whatever becomes of it.
    fn room_for_pattern(&mut self, cursor: &Cursor<'a>) -> Option<()> {
        self.patterns = self.patterns.saturating_add(1);
        if self.patterns > PATTERNS_MAX {
            cursor.defect(format!("the policy has more than {PATTERNS_MAX} patterns"));
            return None;
        }
        if self.pattern_bytes >= PATTERN_BYTES_MAX {
            cursor.defect_with_hint(
                format!("the patterns before this one take {PATTERN_BYTES_MAX} bytes together once compiled, and more may not be"),
                "counted repetitions such as `{1000}` are the large ones",
            );
            return None;
        }
        Some(())
    }
}

/// A missing path does not match in `deny_if`, so a caller who leaves the argument out passes; most authors do not want
/// that.
fn warn_of_unguarded(cursor: &Cursor<'_>, require: &[Conditions], deny_if: &[Conditions]) {
    let required: BTreeSet<&Path> =
        require.iter().flat_map(|rule| &rule.all).map(|condition| &condition.path).collect();
    let mut told = BTreeSet::new();
    for condition in deny_if.iter().flat_map(|rule| &rule.all) {
        let path = &condition.path;
        if !matches!(condition.test, Test::Exists(_)) && !required.contains(path) && told.insert(path) {
            let text = path.text();
            cursor.warn(
                format!("a call without `{text}` passes: `deny_if` does not match a missing path"),
                Some(format!("add a `require` on `{text}`, such as `exists: true`")),
            );
        }
    }
}

/// Keys of a tool that only version 2 has.
const SINCE_2: &[&str] = &["schema_from"];

/// Whether arguments are held against the schema that the server gave.
fn reads_schema(keys: &Fields<'_>) -> bool {
    keys.optional("schema_from").and_then(|cursor| cursor.one_of(&["server"])).is_some()
}

/// The keys of a map that is new in version 2.
fn fields<'a>(cursor: &Cursor<'a>, known: &[&str]) -> Option<Fields<'a>> {
    fields_since(cursor, Version::Two, known, &[])
}

/// The keys of a map, with those that only version 2 has; keys of later versions are named as such.
fn fields_since<'a>(cursor: &Cursor<'a>, version: Version, known: &[&str], since_2: &[&str]) -> Option<Fields<'a>> {
    let entries = cursor.entries()?;
    let mut all = known.to_vec();
    if version == Version::Two {
        all.extend(since_2);
    }
    for (key, entry) in entries {
        let message = || format!("{} is not part of version {} of the policy language", quoted(key), version.name());
        if all.contains(&key) {
            continue;
        }
        if since_2.contains(&key) {
            entry.defect_with_hint(message(), "write `version: \"2\"`");
        } else if PLANNED.contains(&key) {
            entry.defect(message());
        } else {
            continue;
        }
        all.push(key);
    }
    cursor.fields(&all)
}

fn bounded(cursor: &Cursor<'_>, what: &str, count: usize, max: usize) {
    if count > max {
        cursor.defect(format!("has {count} {what}, more than {max}"));
    }
}

/// Names of tools are exact. One with a `*` would look like a pattern and match nothing.
fn check_name(cursor: &Cursor<'_>, name: &str, star: &str) {
    let length = name.chars().count();
    if name.trim().is_empty() {
        cursor.defect("the name of a tool must not be empty");
    } else if length > NAME_CHARS_MAX {
        cursor.defect(format!("the name of a tool has {length} characters, more than {NAME_CHARS_MAX}"));
    } else if name.chars().any(char::is_control) {
        cursor.defect("the name of a tool must not hold control characters");
    } else if name.contains('*') {
        cursor.defect_with_hint(format!("{}: names of tools are exact, there are no wildcards", quoted(name)), star);
    }
}

fn read_message(keys: &Fields<'_>) -> Option<Arc<str>> {
    read_text(keys, "on_deny")
}

/// A text for the agent.
fn read_text(keys: &Fields<'_>, key: &str) -> Option<Arc<str>> {
    let cursor = keys.optional(key)?;
    let text = cursor.non_empty()?;
    let length = text.chars().count();
    if length > MESSAGE_CHARS_MAX {
        cursor.defect(format!("the message has {length} characters, more than {MESSAGE_CHARS_MAX}"));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        cursor.defect("the message must not hold control characters");
    }
    Some(text.into())
}

/// `args.a.b`: names of members, separated by dots.
fn read_path(cursor: &Cursor<'_>) -> Option<Path> {
    read_path_text(cursor, cursor.non_empty()?)
}

/// A path that is all or a part of the text at the cursor.
fn read_path_text(cursor: &Cursor<'_>, text: &str) -> Option<Path> {
    read_path_below(cursor, text, "args")
}

/// A path below that root.
fn read_path_below(cursor: &Cursor<'_>, text: &str, root: &str) -> Option<Path> {
    let Some(rest) = text.strip_prefix(root).and_then(|rest| rest.strip_prefix('.')) else {
        let hint = "only the arguments of the call can be judged";
        cursor.defect_with_hint(format!("expected a path that starts with `{root}.`, found {}", quoted(text)), hint);
        return None;
    };
    let segments: Vec<&str> = rest.split('.').collect();
    if segments.len() > PATH_SEGMENTS_MAX {
        cursor.defect(format!("the path has {} names, more than {PATH_SEGMENTS_MAX}", segments.len()));
        return None;
    }
    for segment in &segments {
        if let Some(fault) = segment_fault(segment) {
            cursor.defect(format!("{}: {fault}", quoted(text)));
            return None;
        }
    }
    if let Some(number) = segments.iter().find(|segment| segment.bytes().all(|b| b.is_ascii_digit())) {
        cursor.warn(format!("`{number}` is the name of a member here; elements of a list cannot be named"), None);
    }
    Some(Path(segments.into_iter().map(Box::from).collect()))
}

/// What would never match silently is refused: to its author it looks like a rule.
fn segment_fault(segment: &str) -> Option<&'static str> {
    if segment.is_empty() {
        return Some("a name in the path is empty");
    }
    if segment.chars().count() > SEGMENT_CHARS_MAX {
        return Some("a name in the path is too long");
    }
    if segment.contains(['[', ']', '*']) {
        return Some("elements of a list cannot be named");
    }
    if segment.contains(['"', '\'', '`', '\\', '/', '~']) {
        return Some("names in a path cannot be quoted or escaped");
    }
    if segment.trim() != segment || segment.chars().any(char::is_control) {
        return Some("a name in the path has white space around it, or a control character");
    }
    None
}

#[cfg(test)]
mod tests;
