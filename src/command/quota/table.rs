//! Counters as a table for people.

use mcp_authz_core::{number::units_shown, text::is_unsafe};
use serde_json::Value;

const HEAD: [&str; 10] = ["COUNTER", "WINDOW", "SCOPE", "POLICY", "SERVER", "TOOL", "USED", "MAX", "LEFT", "RESETS AT"];

/// One line for each counter under each limit, below a heading; or one line that there is none.
pub(super) fn table(rows: &[Value]) -> String {
    if rows.is_empty() {
        return "no counters: the policy of the grant has no limits, or the grant has no policy\n".to_owned();
    }
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    let mut widths = [0_usize; HEAD.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Whether others than the grant use the counter too.
pub(super) fn is_shared(row: &Value) -> bool {
    text(row, "scope").split('+').all(|part| part != "grant")
}

fn cells(row: &Value) -> [String; HEAD.len()] {
    let scale = row.get("scale").and_then(Value::as_u64).and_then(|scale| u8::try_from(scale).ok()).unwrap_or(0);
    let units = |name: &str| row.get(name).and_then(Value::as_u64).map_or("-".to_owned(), |n| units_shown(n, scale));
    let of = |name: &str| text(row, name);
    [
        of("counter"),
        of("window"),
        of("scope"),
        of("policy"),
        of("server"),
        of("tool"),
        units("used"),
        units("max"),
        units("left"),
        of("resets_at"),
    ]
}

/// A text without anything that steers a terminal; `-` for none.
fn text(row: &Value, name: &str) -> String {
    let text: String =
        row.get(name).and_then(Value::as_str).unwrap_or("-").chars().filter(|c| !is_unsafe(*c)).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}
