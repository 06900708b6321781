//! Records as tests look at them.

use serde_json::Value;

/// The records of an audit but for those about its chain: core members and those of the extension in one object.
pub(crate) fn records(text: &str) -> Vec<Value> {
    let flat = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        let members = record.as_object_mut().unwrap();
        let extensions = members.remove("extensions").unwrap();
        for (name, extension) in extensions.as_object().unwrap() {
            if name != "io.mcp-authz/chain" {
                members.extend(extension.as_object().unwrap().clone());
            }
        }
        record
    };
    text.lines().map(flat).filter(|record| record["principal_id"] != "mcp-authz").collect()
}
