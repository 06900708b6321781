//! What changed between two definitions, member by member.

use crate::{
    decision::pointer,
    json::{Kind, Value},
};

/// Changes that are told; the last says how many more there are by being missing.
pub const CHANGES_MAX: usize = 200;

/// One change: something was added, removed or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// RFC 6901 pointer into the definition.
    pub pointer: String,
    /// JSON text of what stood there; `None` for something added.
    pub old: Option<String>,
    /// JSON text of what stands there now; `None` for something removed.
    pub new: Option<String>,
}

/// What changed, in the order of the new definition, then what is gone. Spelling is no change. At most [`CHANGES_MAX`].
#[must_use]
pub fn changes(old: Option<Value<'_>>, new: Value<'_>) -> Vec<Change> {
    let mut out = Vec::new();
    push(&mut out, &mut Vec::new(), old, Some(new));
    out
}

/// Depth is bounded by the parser's limits, so recursion is.
fn push(out: &mut Vec<Change>, path: &mut Vec<String>, old: Option<Value<'_>>, new: Option<Value<'_>>) {
    if out.len() >= CHANGES_MAX {
        return;
    }
    let at = |path: &[String]| pointer(&path.iter().map(String::as_str).collect::<Vec<_>>());
    match (old, new) {
        (Some(old), Some(new)) if old.kind() == Kind::Object && new.kind() == Kind::Object => {
            for (name, value) in new.members() {
                path.push(name.clone().into_owned());
                push(out, path, old.get(&name), Some(value));
                path.pop();
            }
            for (name, value) in old.members().filter(|(name, _)| new.get(name).is_none()) {
                path.push(name.into_owned());
                push(out, path, Some(value), None);
                path.pop();
            }
        }
        (Some(old), Some(new)) if old.kind() == Kind::Array && new.kind() == Kind::Array => {
            let (mut before, mut after) = (old.elements(), new.elements());
            for index in 0..old.len().max(new.len()) {
                path.push(index.to_string());
                push(out, path, before.next(), after.next());
                path.pop();
            }
        }
        // A definition that is all new is told member by member, so that each can be read.
        (None, Some(new)) if path.is_empty() && new.kind() == Kind::Object => {
            for (name, value) in new.members() {
                path.push(name.into_owned());
                push(out, path, None, Some(value));
                path.pop();
            }
        }
        (Some(old), Some(new)) if canonical(old) == canonical(new) => {}
        (None, None) => {}
        (old, new) => out.push(Change {
            pointer: at(path),
            old: old.map(|value| value.source().to_owned()),
            new: new.map(|value| value.source().to_owned()),
        }),
    }
}

fn canonical(value: Value<'_>) -> String {
    let mut out = String::new();
    super::canonical::push_value(&mut out, value);
    out
}
