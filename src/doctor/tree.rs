//! A look at one value of a configuration that remembers where it stands. Envoy takes `max_request_bytes` and `maxRequestBytes`
//! alike, so both are found under the first name.

use std::time::Duration;

use serde_json::Value;

/// One value and its place.
#[derive(Clone, Debug)]
pub(super) struct Tree<'a> {
    value: &'a Value,
    file: &'a str,
    pointer: String,
}

/// A switch as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    /// Not there, or null.
    Absent,
    /// `false`
    No,
    /// No boolean.
    Odd,
    /// `true`
    Yes,
}

/// A message of a named type.
#[derive(Clone, Debug)]
pub(super) struct Typed<'a> {
    /// Full name, without the host in front of it.
    pub(super) name: &'a str,
    /// Its fields.
    pub(super) config: Tree<'a>,
}

impl Typed<'_> {
    /// Whether the type is this one, by the last words of its name, e.g. `ext_authz.v3.ExtAuthz`.
    pub(super) fn is(&self, end: &str) -> bool {
        self.name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl<'a> Tree<'a> {
    pub(super) const fn root(value: &'a Value, file: &'a str) -> Self {
        Self { value, file, pointer: String::new() }
    }

    pub(super) const fn value(&self) -> &'a Value {
        self.value
    }

    /// File and RFC 6901 pointer, for people.
    pub(super) fn place(&self) -> String {
        if self.pointer.is_empty() { self.file.to_owned() } else { format!("{}: {}", self.file, self.pointer) }
    }

    fn child(&self, key: &str, value: &'a Value) -> Tree<'a> {
        let key = key.replace('~', "~0").replace('/', "~1");
        Tree { value, file: self.file, pointer: format!("{}/{key}", self.pointer) }
    }

    /// The member of that name in either spelling; null is as good as nothing.
    pub(super) fn get(&self, name: &str) -> Option<Tree<'a>> {
        let map = self.value.as_object()?;
        let (key, value) = match map.get_key_value(name) {
            Some(found) => found,
            None => map.get_key_value(&camel(name))?,
        };
        (!value.is_null()).then(|| self.child(key, value))
    }

    pub(super) fn at(&self, path: &[&str]) -> Option<Tree<'a>> {
        path.iter().try_fold(self.clone(), |tree, name| tree.get(name))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The elements of a list; none if it is no list.
    pub(super) fn items(&self, name: &str) -> Vec<Tree<'a>> {
        self.get(name).map(|list| list.elements()).unwrap_or_default()
    }

    pub(super) fn elements(&self) -> Vec<Tree<'a>> {
        let list = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().enumerate().map(|(index, value)| self.child(&index.to_string(), value)).collect()
    }

    /// The members of a map.
    pub(super) fn members(&self) -> Vec<(&'a str, Tree<'a>)> {
        let map = self.value.as_object().into_iter().flatten();
        map.map(|(key, value)| (key.as_str(), self.child(key, value))).collect()
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.value.as_object().is_some_and(serde_json::Map::is_empty)
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.value.as_str()
    }

    /// The texts of a list of texts.
    pub(super) fn texts(&self, name: &str) -> Vec<&'a str> {
        self.items(name).iter().filter_map(|item| item.value.as_str()).collect()
    }

    pub(super) fn flag(&self, name: &str) -> Flag {
        match self.get(name).map(|found| found.value) {
            None => Flag::Absent,
            Some(Value::Bool(true)) => Flag::Yes,
            Some(Value::Bool(false)) => Flag::No,
            Some(_) => Flag::Odd,
        }
    }

    /// A number, also one in quotes: that is how protobuf writes the long ones.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)?.value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// An enum by name or by number: `names` in the order of their numbers. Absent is the first.
    pub(super) fn choice(&self, name: &str, names: &[&'static str]) -> Option<&'static str> {
        let Some(found) = self.get(name) else { return names.first().copied() };
        match found.value {
            Value::String(text) => names.iter().find(|known| *known == text).copied(),
            Value::Number(number) => names.get(usize::try_from(number.as_u64()?).ok()?).copied(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// `1s`, `0.250s`, and with the units of Go `250ms`, `5m`, `1h`.
    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        seconds(self.text(name)?)
    }

    /// The message in a field of any type, also one that is packed into a TypedStruct.
    pub(super) fn typed(&self, name: &str) -> Option<Typed<'a>> {
        self.get(name)?.as_typed()
    }

    pub(super) fn as_typed(&self) -> Option<Typed<'a>> {
        let name = type_name(self.text("@type")?);
        if name.ends_with(".TypedStruct") {
            let (inner, config) = (self.text("type_url")?, self.get("value")?);
            return Some(Typed { name: type_name(inner), config });
        }
        Some(Typed { name, config: self.clone() })
    }
}

fn type_name(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, name)| name)
}

fn seconds(text: &str) -> Option<Duration> {
    let (number, unit) = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]
        .into_iter()
        .find_map(|(unit, scale)| text.strip_suffix(unit).map(|number| (number, scale)))?;
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut is_start = false;
    for letter in name.chars() {
        match letter {
            '_' => is_start = true,
            letter if is_start => {
                out.extend(letter.to_uppercase());
                is_start = false;
            }
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_spellings_and_both_kinds_of_numbers_are_read() {
        let value = json!({"maxRequestBytes": "12", "pack_as_bytes": true, "mode": 2, "a/b": {"@type": "x/y.Z"}});
        let tree = Tree::root(&value, "f");
        assert_eq!(tree.number("max_request_bytes"), Some(12));
        assert_eq!(tree.flag("pack_as_bytes"), Flag::Yes);
        assert_eq!(tree.choice("mode", &["A", "B", "C"]), Some("C"));
        assert_eq!(tree.choice("other", &["A", "B"]), Some("A"));
        assert_eq!(tree.get("a/b").map(|tree| tree.place()).as_deref(), Some("f: /a~1b"));
        assert!(tree.typed("a/b").is_some_and(|typed| typed.is("Z") && !typed.is("y.Z")));
    }

    #[test]
    fn a_duration_is_read_in_every_spelling() {
        for (text, millis) in [("1s", 1000), ("0.250s", 250), ("250ms", 250), ("5m", 300_000), ("1h", 3_600_000)] {
            assert_eq!(seconds(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for odd in ["", "s", "-1s", "1", "1d"] {
            assert_eq!(seconds(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_typed_struct_is_unpacked() {
        let value = json!({"c": {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", "value": {"a": 1}}});
        let typed = Tree::root(&value, "f").typed("c").expect("a message");
        assert!(typed.is("ext_authz.v3.ExtAuthz") && typed.config.number("a") == Some(1));
    }
}
