//! Small changes to grant files as text, so that comments and layout stay.
//!
//! Every change is tried, read back, and compared with what it should have done; one that did anything else is dropped.

use mcp_authz_core::document::{Format, Node, Shape, parse};

/// A grant to write.
pub(super) struct Entry<'a> {
    pub(super) label: &'a str,
    pub(super) sha256: &'a str,
    pub(super) servers: &'a [String],
    pub(super) policy: Option<&'a str>,
    pub(super) subject: Option<&'a str>,
    pub(super) groups: &'a [String],
    pub(super) expires: Option<&'a str>,
}

impl Entry<'_> {
    /// The keys and values in the order in which they are written.
    fn shape(&self) -> Vec<(&'static str, Shape)> {
        let text = |text: &str| Shape::String(text.to_owned());
        let list =
            |texts: &[String]| Shape::List(texts.iter().map(|one| Node { line: None, shape: text(one) }).collect());
        let mut members =
            vec![("label", text(self.label)), ("sha256", text(self.sha256)), ("servers", list(self.servers))];
        let named = |key, value: Option<&str>| value.map(|value| (key, text(value)));
        members.extend([named("policy", self.policy), named("subject", self.subject)].into_iter().flatten());
        if !self.groups.is_empty() {
            members.push(("groups", list(self.groups)));
        }
        members.extend(named("expires", self.expires));
        members
    }

    /// The lines of the entry, its `- ` after `indent`.
    fn lines(&self, indent: &str) -> String {
        let mut out = String::new();
        for (n, (key, value)) in self.shape().into_iter().enumerate() {
            let value = match &value {
                Shape::List(items) => {
                    let items: Vec<String> = items.iter().map(|item| quoted(&item.shape)).collect();
                    format!("[{}]", items.join(", "))
                }
                Shape::Bool(_) | Shape::Map(_) | Shape::Null | Shape::Number(_) | Shape::String(_) => quoted(&value),
            };
            out.push_str(indent);
            out.push_str(if n == 0 { "- " } else { "  " });
            out.push_str(&format!("{key}: {value}\n"));
        }
        out
    }
}

/// A text in double quotes. Labels, names and times need no escape; in a subject both signs that do are escaped.
fn quoted(shape: &Shape) -> String {
    match shape {
        Shape::String(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        Shape::Bool(_) | Shape::List(_) | Shape::Map(_) | Shape::Null | Shape::Number(_) => String::new(),
    }
}

/// The text of a YAML grants file with one more grant at its end; `None` if it is written so that no line can be added.
pub(super) fn append(old: &str, entry: &Entry<'_>) -> Option<String> {
    if old.trim().is_empty() {
        return verified(format!("grants:\n{}", entry.lines("  ")), &[], entry);
    }
    let root = parse("", old.as_bytes(), Format::Yaml).ok()?;
    let grants = grants_of(&root)?;
    let Some(first) = grants.first() else {
        // The list is empty: whatever stands for it makes room.
        let text = old.replacen("[]", "", 1);
        return verified(format!("{}\n{}", text.trim_end(), entry.lines("  ")), grants, entry);
    };
    let line = old.lines().nth(usize::try_from(first.line?).ok()?.checked_sub(1)?)?;
    let indent: String = line.chars().take_while(|c| *c == ' ').collect();
    verified(format!("{}\n{}", old.trim_end(), entry.lines(&indent)), grants, entry)
}

/// Gives the text back if it holds the grants of before and the entry after them.
fn verified(text: String, before: &[Node], entry: &Entry<'_>) -> Option<String> {
    let root = parse("", text.as_bytes(), Format::Yaml).ok()?;
    let (last, others) = grants_of(&root)?.split_last()?;
    let members = entry.shape().into_iter().map(|(key, shape)| (key.to_owned(), Node { line: None, shape })).collect();
    let same = same_lists(others, before) && same(last, &Node { line: None, shape: Shape::Map(members) });
    same.then_some(text)
}

/// What became of a grant that was to be revoked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Revoked {
    /// It is not in this text.
    Absent,
    /// It says `revoked: true`.
    Already,
    /// The text that says so now.
    Now(String),
    /// It is here, and no small change revokes it and nothing else.
    Unclear,
}

/// Revokes the grant of that label.
pub(super) fn revoke(old: &str, format: Format, label: &str) -> Revoked {
    let Ok(root) = parse("", old.as_bytes(), format) else { return Revoked::Absent };
    let Some(grants) = grants_of(&root) else { return Revoked::Absent };
    let is_it =
        |node: &&Node| matches!(member(node, "label"), Some(Node { shape: Shape::String(text), .. }) if text == label);
    let Some((index, grant)) = grants.iter().enumerate().find(|(_, node)| is_it(node)) else { return Revoked::Absent };
    let flag = member(grant, "revoked");
    if flag.is_some_and(|flag| flag.shape == Shape::Bool(true)) {
        return Revoked::Already;
    }
    let wanted = with_revoked(grants, index);
    let line = flag.or_else(|| member(grant, "label")).and_then(|node| node.line);
    let Some(line) = line.and_then(|line| usize::try_from(line).ok()?.checked_sub(1)) else { return Revoked::Unclear };
    let candidates = if flag.is_some() { unset(old, line) } else { inserted(old, line) };
    let fits = |text: &String| {
        let root = parse("", text.as_bytes(), format).ok();
        root.as_ref().and_then(grants_of).is_some_and(|grants| same_lists(grants, &wanted))
    };
    candidates.into_iter().find(fits).map_or(Revoked::Unclear, Revoked::Now)
}

/// The grants as they should be, the one at `index` revoked.
fn with_revoked(grants: &[Node], index: usize) -> Vec<Node> {
    let mut wanted = grants.to_vec();
    if let Some(Node { shape: Shape::Map(members), .. }) = wanted.get_mut(index) {
        members.retain(|(key, _)| key != "revoked");
        members.push(("revoked".to_owned(), Node { line: None, shape: Shape::Bool(true) }));
    }
    wanted
}

/// Each text with one `false` of the line made `true`.
fn unset(old: &str, line: usize) -> Vec<String> {
    edits(old, line, |text| {
        text.match_indices("false").map(|(at, word)| splice(text, at, word.len(), "true")).collect()
    })
}

/// Each text with `revoked: true` put before or after a `label` of the line.
fn inserted(old: &str, line: usize) -> Vec<String> {
    edits(old, line, |text| {
        let mut out = Vec::new();
        for (at, _) in text.match_indices("label") {
            let quote = at.saturating_sub(1);
            let is_quoted = text.get(quote..at).is_some_and(|before| before == "\"" || before == "'");
            let key = if is_quoted { quote } else { at };
            // On a line of its own, under the key: the key may follow the `- ` of its list.
            let column = text.get(..key).map_or(0, |before| before.chars().count());
            let end = if text.ends_with('\r') { "\r\n" } else { "\n" };
            let rest = text.trim_end_matches('\r');
            out.push(format!("{rest}{end}{}revoked: true{}", " ".repeat(column), end.trim_end_matches('\n')));
            // In the same line, for maps in braces; JSON wants quotes.
            out.push(splice(text, key, 0, "revoked: true, "));
            out.push(splice(text, key, 0, "\"revoked\": true, "));
        }
        out
    })
}

/// The texts that come of changing one line, counted from 0.
fn edits(old: &str, line: usize, change: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let lines: Vec<&str> = old.split('\n').collect();
    let Some(text) = lines.get(line) else { return Vec::new() };
    let with = |new: String| {
        let all: Vec<&str> =
            lines.iter().enumerate().map(|(n, text)| if n == line { new.as_str() } else { *text }).collect();
        all.join("\n")
    };
    change(text).into_iter().map(with).collect()
}

/// `text` with `length` bytes at `at` replaced.
fn splice(text: &str, at: usize, length: usize, with: &str) -> String {
    let (before, after) =
        (text.get(..at).unwrap_or_default(), text.get(at.saturating_add(length)..).unwrap_or_default());
    format!("{before}{with}{after}")
}

fn grants_of(root: &Node) -> Option<&[Node]> {
    match member(root, "grants") {
        Some(Node { shape: Shape::List(grants), .. }) => Some(grants),
        Some(_) | None => None,
    }
}

fn member<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    match &node.shape {
        Shape::Map(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
        Shape::Bool(_) | Shape::List(_) | Shape::Null | Shape::Number(_) | Shape::String(_) => None,
    }
}

fn same_lists(a: &[Node], b: &[Node]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

/// Equal but for lines and the order of keys.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.shape, &b.shape) {
        (Shape::Map(a), Shape::Map(other)) => {
            a.len() == other.len()
                && a.iter().all(|(key, value)| member(b, key).is_some_and(|found| same(value, found)))
        }
        (Shape::List(a), Shape::List(b)) => same_lists(a, b),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: &[String] = &[];

    fn entry<'a>(servers: &'a [String]) -> Entry<'a> {
        Entry {
            label: "new",
            sha256: "ab",
            servers,
            policy: Some("p"),
            subject: Some("a \"b\" \\ é"),
            groups: &[],
            expires: Some("2027-01-01T00:00:00Z"),
        }
    }

    fn revoked(old: &str, label: &str) -> String {
        let Revoked::Now(text) = revoke(old, Format::Yaml, label) else { panic!("{old}") };
        text
    }

    #[test]
    fn an_entry_is_added_in_the_layout_of_the_file() {
        let servers = ["s".to_owned(), "t".to_owned()];
        let lines = |indent: &str| {
            [
                "- label: \"new\"",
                "  sha256: \"ab\"",
                "  servers: [\"s\", \"t\"]",
                "  policy: \"p\"",
                "  subject: \"a \\\"b\\\" \\\\ é\"",
                "  expires: \"2027-01-01T00:00:00Z\"",
            ]
            .map(|line| format!("{indent}{line}\n"))
            .concat()
        };
        for (old, new) in [
            ("", format!("grants:\n{}", lines("  "))),
            ("# mine\ngrants: []\n", format!("# mine\ngrants:\n{}", lines("  "))),
            ("grants:\n- label: a # first\n\n\n", format!("grants:\n- label: a # first\n{}", lines(""))),
            ("grants:\n    - label: a", format!("grants:\n    - label: a\n{}", lines("    "))),
            ("grants:\n  - {label: a}\n  # end\n", format!("grants:\n  - {{label: a}}\n  # end\n{}", lines("  "))),
        ] {
            assert_eq!(append(old, &entry(&servers)).as_deref(), Some(new.as_str()), "{old}");
        }
    }

    #[test]
    fn groups_are_a_list_as_servers_are() {
        let (servers, groups) = (["s".to_owned()], ["b".to_owned(), "a".to_owned()]);
        let entry = Entry { groups: &groups, policy: None, subject: None, expires: None, ..entry(&servers) };
        let expected =
            "grants:\n  - label: \"new\"\n    sha256: \"ab\"\n    servers: [\"s\"]\n    groups: [\"b\", \"a\"]\n";
        assert_eq!(append("", &entry).as_deref(), Some(expected));
    }

    #[test]
    fn a_file_that_takes_no_more_lines_is_left_alone() {
        for old in
            ["grants: [{label: a}]\n", "{grants: [{label: a}]}\n", "grants:\n- label: a\n...\n", "grants: 5", "x: ["]
        {
            assert_eq!(append(old, &entry(SERVERS)), None, "{old}");
        }
    }

    #[test]
    fn a_grant_is_revoked_and_nothing_else_changes() {
        for (old, new) in [
            (
                "# top\ngrants:\n- label: a # one\n  servers: [s]\n- label: b\n",
                "# top\ngrants:\n- label: a # one\n  revoked: true\n  servers: [s]\n- label: b\n",
            ),
            (
                "grants:\n  - servers: [s]\n    \"label\": a\n",
                "grants:\n  - servers: [s]\n    \"label\": a\n    revoked: true\n",
            ),
            (
                "grants:\n  - label: a\n    revoked: false # not yet\n",
                "grants:\n  - label: a\n    revoked: true # not yet\n",
            ),
            ("grants: [{label: b}, {label: a}]", "grants: [{label: b}, {revoked: true, label: a}]"),
            (
                "grants: [{label: b, revoked: false}, {label: a, revoked: false}]",
                "grants: [{label: b, revoked: false}, {label: a, revoked: true}]",
            ),
            ("grants:\r\n- label: a\r\n  x: 1\r\n", "grants:\r\n- label: a\r\n  revoked: true\r\n  x: 1\r\n"),
            ("grants:\n- label: a", "grants:\n- label: a\n  revoked: true"),
        ] {
            assert_eq!(revoked(old, "a"), new);
        }
        let Revoked::Now(json) = revoke("{\"grants\": [{\"label\": \"a\"}]}", Format::Json, "a") else {
            panic!("json")
        };
        assert_eq!(json, "{\"grants\": [{\"revoked\": true, \"label\": \"a\"}]}");
    }

    #[test]
    fn a_grant_that_is_not_there_or_revoked_already_is_told() {
        assert_eq!(revoke("grants:\n- label: a\n", Format::Yaml, "b"), Revoked::Absent);
        assert_eq!(revoke("grants: [", Format::Yaml, "a"), Revoked::Absent);
        assert_eq!(revoke("grants:\n- {label: a, revoked: true}\n", Format::Yaml, "a"), Revoked::Already);
        assert_eq!(revoke("grants:\n- label: a\n  revoked: 5\n", Format::Yaml, "a"), Revoked::Unclear);
    }
}
