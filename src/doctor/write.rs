//! Writing the configuration that Envoy gets from a mesh's objects: what both translations share.

use serde_json::Value;

use super::tree::Tree;

pub(super) fn set(value: &mut Value, key: &str, to: Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), to);
    }
}

pub(super) fn copy(from: &Tree<'_>, key: &str, to: &mut Value, name: &str) {
    if let Some(found) = from.get(key) {
        set(to, name, found.value().clone());
    }
}
