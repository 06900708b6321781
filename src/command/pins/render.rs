//! Pins for people. Nothing that a server wrote steers the terminal, and what cannot be seen is shown.

use serde_json::Value;

use super::{text, words};

/// Characters of a tool's name in a table.
const NAME_CHARS_MAX: usize = 64;

/// The servers, and below them what waits and how to go on.
pub(super) fn list(servers: &[Value]) -> String {
    if servers.is_empty() {
        return "no server has `tools.trust` in the servers file: their tools are trusted as they come\n".to_owned();
    }
    let count =
        |row: &Value, name: &str| row.get(name).and_then(Value::as_u64).map_or("-".to_owned(), |n| n.to_string());
    let mut lines = vec![["SERVER", "TRUST", "ON CHANGE", "APPROVED", "WAITING"].map(str::to_owned).to_vec()];
    for row in servers {
        let waiting = pending(row).len().to_string();
        let waiting = if row.get("error").is_some() { "-".to_owned() } else { waiting };
        lines.push(vec![
            shown(row, "server"),
            shown(row, "trust"),
            shown(row, "on_change"),
            count(row, "approved"),
            waiting,
        ]);
    }
    let mut out = table(&lines);
    for row in servers {
        let server = shown(row, "server");
        if let Some(error) = text(row, "error") {
            out.push_str(&format!("\n{server}: {}\n", words::visible(error)));
            continue;
        }
        if row.get("complete").and_then(Value::as_bool) == Some(false) {
            out.push_str(&format!("\n{server}: no complete list has been seen yet\n"));
        }
        let pending = pending(row);
        let Some(digest) = text(row, "digest").filter(|_| !pending.is_empty()) else { continue };
        let mut lines = vec![["  TOOL", "WHAT", "SINCE", "DIGEST"].map(str::to_owned).to_vec()];
        for one in pending {
            let name = format!("  {}", words::visible_cut(text(one, "tool").unwrap_or("-"), NAME_CHARS_MAX));
            lines.push(vec![name, shown(one, "kind"), shown(one, "seen_at"), shown(one, "digest")]);
        }
        let tools = if pending.len() == 1 { "1 tool waits" } else { &format!("{} tools wait", pending.len()) };
        out.push_str(&format!("\n{server}: {tools} for approval\n{}", table(&lines)));
        out.push_str(&format!("  see      mcp-authz pins diff --server {server}\n"));
        out.push_str(&format!("  approve  {}\n", approval(&server, None, digest)));
    }
    out
}

/// What changed in each tool that waits, and how to approve it.
pub(super) fn diff(server: &str, pending: &[Value]) -> String {
    if pending.is_empty() {
        return "nothing waits for approval\n".to_owned();
    }
    let mut out = String::new();
    for row in pending {
        let name = text(row, "tool").unwrap_or("-");
        let kind = shown(row, "kind");
        out.push_str(&format!("{server}: {} is {kind}, seen {}\n", words::visible(name), shown(row, "seen_at")));
        if row.get("is_kept").and_then(Value::as_bool) == Some(false) {
            out.push_str("  Its definition is too long to be kept, so nobody can read it here or approve it.\n\n");
            continue;
        }
        let changes = row.get("changes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for change in changes {
            let at = words::visible(text(change, "at").unwrap_or_default());
            out.push_str(&format!("  {}\n", if at.is_empty() { "(all of it)" } else { &at }));
            words::push_change(&mut out, text(change, "old"), text(change, "new"));
        }
        if row.get("is_cut").and_then(Value::as_bool) == Some(true) {
            out.push_str("  … and more: read the definition itself before you approve it.\n");
        }
        out.push_str(&format!("  approve  {}\n\n", approval(server, Some(name), &shown(row, "digest"))));
    }
    out
}

/// The command that approves exactly this.
pub(super) fn approval(server: &str, tool: Option<&str>, digest: &str) -> String {
    let what = match tool {
        Some(tool) => format!("--tool {}", quoted(tool)),
        None => "--all".to_owned(),
    };
    format!("mcp-authz pins approve --server {server} {what} --digest {}", words::visible(digest))
}

/// As one word of a shell. A name that cannot be written so is shown, and the command does not find it.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain) {
        return name.to_owned();
    }
    format!("'{}'", words::visible(name).replace('\'', r"'\''"))
}

fn pending(row: &Value) -> &[Value] {
    row.get("pending").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn shown(row: &Value, name: &str) -> String {
    words::visible(text(row, name).unwrap_or("-"))
}

fn table(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}
