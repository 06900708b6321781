//! Reading what a policy says of results: `mask`, `reveal`, `report_new_fields`, `block_if`, `inspect`.

use std::sync::Arc;

use super::{CONDITIONS_MAX, CONDITIONS_PER_RULE_MAX, Compiler, RULES_MAX, bounded, fields};
use crate::document::{Cursor, Fields, Shape, quoted};
use crate::mask::{
    Action, ConditionRule, Detector, Detectors, Hidden, Links, Path, PathList, ResultCondition, Rule, RuleSet, Style,
    Then, What, blocked_by,
};
use crate::pattern::{PATTERN_CHARS_MAX, build};

/// The keys, at the root of a policy and in a tool.
pub(super) const KEYS: &[&str] = &["mask", "reveal", "report_new_fields", "block_if", "inspect"];

/// Rules for results in a policy: entries of `mask` and `block_if`, and the other keys one each.
pub const RESULT_RULES_MAX: usize = 2_000;
/// Paths in one `reveal` or `report_new_fields`.
pub const REVEALED_MAX: usize = 256;
/// Hosts in one `links`.
pub const HOSTS_MAX: usize = 1_000;
/// Characters of the name of a rule, and of a fixed text.
pub const MASK_TEXT_CHARS_MAX: usize = 128;

impl<'a> Compiler<'a> {
    /// Reads the rules that stand in this map.
    pub(super) fn results(&mut self, keys: &Fields<'a>) -> RuleSet {
        let mut set = RuleSet::default();
        if let Some(list) = keys.optional("mask") {
            for item in rules_of(&list) {
                set.rules.extend(self.mask(&item).map(Arc::new));
            }
        }
        if let Some(list) = keys.optional("block_if") {
            for item in rules_of(&list) {
                self.block(&item, &mut set);
            }
        }
        if let Some(cursor) = keys.optional("reveal") {
            let paths = read_paths(&cursor);
            set.reveals.push(Arc::new(PathList { pointer: cursor.pointer().into(), paths }));
        }
        if let Some(cursor) = keys.optional("report_new_fields") {
            set.new_fields.extend(read_new_fields(&cursor).map(Arc::new));
        }
        if let Some(cursor) = keys.optional("inspect") {
            read_inspect(&cursor, &mut set);
        }
        self.result_rules = self.result_rules.saturating_add(set.count());
        if self.result_rules > RESULT_RULES_MAX {
            keys.map().defect(format!("the policy has more than {RESULT_RULES_MAX} rules for results"));
            return RuleSet::default();
        }
        set
    }

    fn mask(&mut self, cursor: &Cursor<'a>) -> Option<Rule> {
        let keys = fields(cursor, &["detect", "pattern", "path", "name", "with"])?;
        let what = self.what(&keys);
        let paths = keys.optional("path").map(|path| read_path(&path));
        let style = keys.optional("with").map_or(Some(Style::Fixed(None)), |with| read_style(&with));
        let name = keys.optional("name").map_or(Some("masked"), |name| read_name(&name));
        if let (Some(name), Some(Some(What::Detect(_)))) = (keys.optional("name"), &what) {
            name.defect_with_hint("detectors have names of their own", "`name` is for `pattern` and for whole values");
        }
        let what = match what {
            None if paths.is_none() => {
                cursor.defect("needs `detect`, `pattern` or `path`: what is to be masked");
                return None;
            }
            None => What::Value,
            Some(what) => what?,
        };
        let paths = paths.map_or(Some(Box::default()), |paths| paths)?;
        let then = Then::Mask { style: style?, name: name?.into() };
        Some(Rule { pointer: cursor.pointer().into(), what, paths, then })
    }

    fn block(&mut self, cursor: &Cursor<'a>, set: &mut RuleSet) {
        let Some(keys) = fields(cursor, &["detect", "pattern", "conditions", "path", "on_block"]) else { return };
        let pointer: Arc<str> = cursor.pointer().into();
        let text = super::read_text(&keys, "on_block").unwrap_or_else(|| blocked_by(&pointer));
        let what = self.what(&keys);
        let paths = keys.optional("path").map(|path| read_path(&path));
        let Some(list) = keys.optional("conditions") else {
            let Some(what) = what else {
                return cursor.defect("needs `detect`, `pattern` or `conditions`: what is to be blocked");
            };
            let paths = paths.map_or(Some(Box::default()), |paths| paths);
            if let (Some(what), Some(paths)) = (what, paths) {
                set.rules.push(Arc::new(Rule { pointer, what, paths, then: Then::Block(text) }));
            }
            return;
        };
        if what.is_some() {
            list.defect("a rule has `detect`, `pattern` or `conditions`, only one of them");
        }
        if let Some(path) = keys.optional("path") {
            path.defect("conditions have paths of their own");
        }
        if let Some(all) = self.result_conditions(&list) {
            set.conditions.push(Arc::new(ConditionRule { pointer, all, compat: self.compat, text }));
        }
    }

    fn result_conditions(&mut self, list: &Cursor<'a>) -> Option<Box<[ResultCondition]>> {
        let items = list.items()?;
        if items.is_empty() {
            list.defect("needs at least one condition");
            return None;
        }
        bounded(list, "conditions", items.len(), CONDITIONS_PER_RULE_MAX);
        self.conditions = self.conditions.saturating_add(items.len());
        if self.conditions > CONDITIONS_MAX {
            list.defect(format!("the policy has more than {CONDITIONS_MAX} conditions"));
            return None;
        }
        // Read all before giving up, so that every defect is told.
        let all: Vec<Option<ResultCondition>> =
            items.iter().take(CONDITIONS_PER_RULE_MAX).map(|item| self.result_condition(item)).collect();
        all.into_iter().collect()
    }

    fn result_condition(&mut self, cursor: &Cursor<'a>) -> Option<ResultCondition> {
        let keys = fields(cursor, &["path", "op", "value"])?;
        let paths = keys.required("path").and_then(|path| read_path(&path));
        let test = self.test(cursor, &keys);
        Some(ResultCondition { paths: paths?, test: test? })
    }

    /// What a rule looks for; `None` where it does not say.
    fn what(&mut self, keys: &Fields<'a>) -> Option<Option<What>> {
        match (keys.optional("detect"), keys.optional("pattern")) {
            (Some(_), Some(pattern)) => {
                pattern.defect("a rule has `detect` or `pattern`, not both");
                Some(None)
            }
            (Some(detect), None) => Some(read_detectors(&detect).map(What::Detect)),
            (None, Some(pattern)) => Some(self.result_pattern(&pattern)),
            (None, None) => None,
        }
    }

    fn result_pattern(&mut self, cursor: &Cursor<'a>) -> Option<What> {
        let text = cursor.non_empty()?;
        self.room_for_pattern(cursor)?;
        let length = text.chars().count();
        if length > PATTERN_CHARS_MAX {
            cursor.defect(format!("the pattern has {length} characters, more than {PATTERN_CHARS_MAX}"));
            return None;
        }
        match build(text) {
            Ok((regex, _)) if regex.is_match("") => {
                cursor.defect("the pattern matches the empty text, so it would match everywhere");
                None
            }
            Ok((regex, bytes)) => {
                self.pattern_bytes = self.pattern_bytes.saturating_add(bytes);
                Some(What::Pattern(Box::new(regex)))
            }
            Err(error) => {
                cursor.defect(format!("invalid pattern: {error}"));
                None
            }
        }
    }
}

fn rules_of<'a>(list: &Cursor<'a>) -> Vec<Cursor<'a>> {
    let items = list.items().unwrap_or_default();
    bounded(list, "rules", items.len(), RULES_MAX);
    items.into_iter().take(RULES_MAX).collect()
}

fn read_path(cursor: &Cursor<'_>) -> Option<Box<[Path]>> {
    let text = cursor.non_empty()?;
    match Path::parse(text) {
        Ok(path) => Some(path.with_copy().into()),
        Err(fault) => {
            cursor.defect(format!("{}: {fault}", quoted(text)));
            None
        }
    }
}

fn read_paths(cursor: &Cursor<'_>) -> Box<[Path]> {
    let items = cursor.items().unwrap_or_default();
    bounded(cursor, "paths", items.len(), REVEALED_MAX);
    items.iter().take(REVEALED_MAX).filter_map(read_path).flatten().collect()
}

/// One word, or a list of them.
fn read_detectors(cursor: &Cursor<'_>) -> Option<Detectors> {
    let names: Vec<&'static str> = Detector::ALL.iter().map(|detector| detector.name()).collect();
    let of = |item: &Cursor<'_>| {
        let name = item.one_of(&names)?;
        Detector::ALL.iter().find(|detector| detector.name() == name).map(|detector| Detectors::of(*detector))
    };
    if !matches!(cursor.node().shape, Shape::List(_)) {
        return of(cursor);
    }
    let items = cursor.items()?;
    if items.is_empty() {
        cursor.defect_with_hint("needs at least one detector", format!("known: {}", names.join(", ")));
        return None;
    }
    // Read all before giving up, so that every defect is told.
    let sets: Vec<Option<Detectors>> = items.iter().map(of).collect();
    sets.into_iter().try_fold(Detectors::default(), |all, set| Some(all | set?))
}

/// `fixed`, `partial`, `hash`, or `{fixed: "text"}`.
fn read_style(cursor: &Cursor<'_>) -> Option<Style> {
    if !matches!(cursor.node().shape, Shape::Map(_)) {
        return Some(match cursor.one_of(&["fixed", "partial", "hash"])? {
            "hash" => Style::Hash,
            "partial" => Style::Partial,
            _ => Style::Fixed(None),
        });
    }
    let text = fields(cursor, &["fixed"])?.required("fixed")?;
    bounded_text(&text, text.string()?).map(|text| Style::Fixed(Some(text.into())))
}

fn read_name<'a>(cursor: &Cursor<'a>) -> Option<&'a str> {
    bounded_text(cursor, cursor.non_empty()?)
}

fn bounded_text<'a>(cursor: &Cursor<'_>, text: &'a str) -> Option<&'a str> {
    let length = text.chars().count();
    if length > MASK_TEXT_CHARS_MAX {
        cursor.defect(format!("has {length} characters, more than {MASK_TEXT_CHARS_MAX}"));
        return None;
    }
    if text.chars().any(crate::text::is_unsafe) {
        cursor.defect("must not hold control characters or hidden ones");
        return None;
    }
    Some(text)
}

/// `true`, or the list of fields that are known.
fn read_new_fields(cursor: &Cursor<'_>) -> Option<PathList> {
    let paths = match cursor.node().shape {
        Shape::List(_) => read_paths(cursor),
        Shape::Bool(true) => Box::default(),
        Shape::Bool(false) => return None,
        Shape::Map(_) | Shape::Null | Shape::Number(_) | Shape::String(_) => {
            cursor.defect_with_hint("expected `true` or a list of paths", "the list names the fields that are known");
            return None;
        }
    };
    Some(PathList { pointer: cursor.pointer().into(), paths })
}

fn read_inspect(cursor: &Cursor<'_>, set: &mut RuleSet) {
    let Some(keys) = fields(cursor, &["hidden_text", "links", "result_bytes_max"]) else { return };
    if let Some(cursor) = keys.optional("hidden_text")
        && let Some(action) = read_action(&cursor)
    {
        set.hidden.push(Arc::new(Hidden { pointer: cursor.pointer().into(), action }));
    }
    if let Some(cursor) = keys.optional("links") {
        set.links.extend(read_links(&cursor).map(Arc::new));
    }
    if let Some(cursor) = keys.optional("result_bytes_max") {
        let bytes = cursor.u64_in(&(1..=u64::from(u32::MAX))).and_then(|bytes| usize::try_from(bytes).ok());
        set.bytes_max = bytes.map(|bytes| (bytes, cursor.pointer().into()));
    }
}

fn read_action(cursor: &Cursor<'_>) -> Option<Action> {
    Some(match cursor.one_of(&["mask", "block", "report"])? {
        "block" => Action::Block,
        "report" => Action::Report,
        _ => Action::Mask,
    })
}

fn read_links(cursor: &Cursor<'_>) -> Option<Links> {
    let keys = fields(cursor, &["hosts", "action"])?;
    let action = keys.required("action").and_then(|action| read_action(&action));
    let list = keys.required("hosts")?;
    let items = list.items()?;
    bounded(&list, "hosts", items.len(), HOSTS_MAX);
    let hosts: Vec<Option<Box<str>>> = items.iter().take(HOSTS_MAX).map(read_host).collect();
    let hosts: Option<Box<[Box<str>]>> = hosts.into_iter().collect();
    Some(Links { pointer: cursor.pointer().into(), action: action?, hosts: hosts? })
}

/// A host name, or `*.` and one.
fn read_host(cursor: &Cursor<'_>) -> Option<Box<str>> {
    let text = cursor.non_empty()?;
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    let is_host = !name.is_empty() && name.bytes().all(is_part) && !name.starts_with('.') && !name.ends_with('.');
    let has_port = name.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty() && !host.contains(':'));
    if !is_host || has_port {
        let hint = "a host alone, without scheme, port and path; `*.example.org` is every host below example.org";
        cursor.defect_with_hint(format!("{} is no host", quoted(text)), hint);
        return None;
    }
    let star = if name.len() == text.len() { "" } else { "." };
    Some(format!("{star}{}", name.to_ascii_lowercase()).into())
}

#[cfg(test)]
mod tests;
