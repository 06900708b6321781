//! The README holds: its samples load, its tables say what the code does, and its commands run as they stand.
//!
//! Every fenced block has a name behind its language, and every name is known to a test; a sample that nobody checks
//! cannot be added.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: a panic is its way to say no")]
#![expect(clippy::indexing_slicing, reason = "a missing cell fails the test that looks for it")]

#[path = "readme/audit.rs"]
mod audit;
#[path = "readme/delivery.rs"]
mod delivery;
#[path = "readme/guide.rs"]
mod guide;
#[path = "readme/mesh.rs"]
mod mesh;
#[path = "readme/operators.rs"]
mod operators;
#[path = "readme/pins.rs"]
mod pins;
#[path = "readme/quotas.rs"]
mod quotas;
#[path = "readme/responses.rs"]
mod responses;
#[path = "readme/results.rs"]
mod results;
#[path = "readme/samples.rs"]
mod samples;
#[path = "readme/tables.rs"]
mod tables;
#[path = "readme/telemetry.rs"]
mod telemetry;

use std::path::Path;

/// The text that is tested.
const README: &str = include_str!("../README.md");

/// A fenced block.
#[derive(Debug)]
struct Block {
    /// What stands behind the fence: language and name.
    name: &'static str,
    text: String,
}

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every fenced block in order.
fn blocks() -> Vec<Block> {
    blocks_of(README)
}

/// Every fenced block of a page in order.
fn blocks_of(page: &'static str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```") else { continue };
        let text = lines.by_ref().take_while(|line| *line != "```").flat_map(|line| [line, "\n"]).collect();
        blocks.push(Block { name, text });
    }
    blocks
}

/// The one block of that name.
fn block(name: &str) -> String {
    let mut found = blocks().into_iter().filter(|block| block.name == name);
    let block = found.next().unwrap_or_else(|| panic!("the README has no block `{name}`"));
    assert!(found.next().is_none(), "the README has two blocks `{name}`");
    block.text
}

/// The rows of the first table below a heading whose first column has that title, without its head.
fn table(heading: &str, first: &str) -> Vec<Vec<String>> {
    table_in(README, heading, first)
}

fn table_in(page: &str, heading: &str, first: &str) -> Vec<Vec<String>> {
    let mut lines = page.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading);
    let head = lines.find(|line| cells(line).first().is_some_and(|cell| cell == first));
    assert!(head.is_some(), "below `{heading}` there is no table of `{first}`");
    let columns = cells(head.unwrap()).len();
    let rows: Vec<_> = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(rows.iter().all(|row| row.len() == columns), "a row of `{first}` has another number of cells");
    rows
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
    inner.map(|inner| inner.split('|').map(|cell| cell.trim().to_owned()).collect()).unwrap_or_default()
}

/// What stands between backticks.
fn spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Whether the text is the pattern, in which `…` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[test]
fn a_pattern_fits_what_it_says() {
    assert!(fits("a", "a") && fits("a…c", "abc") && fits("…", "x") && fits("a…b…c", "a1b2c"));
    assert!(!fits("a", "ab") && !fits("a…c", "ab") && !fits("a…b…c", "ac"));
}
