//! `mcp-authz audit query`, and what it shares with `tail`: which records fit, and how they look.

use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
};

use mcp_authz_core::{
    audit::{Outcome, escaped, line::is_claimed},
    text::{is_unsafe, spelled_out},
};
use serde_json::Value;

use super::{AuditError, lines::each};

/// How it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    Json,
    Text,
}

/// Which records fit: all that is named has to.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Filters {
    /// `allowed`, `denied`, `deferred` or `error`.
    #[arg(long, value_parser = outcome)]
    outcome: Option<&'static str>,
    /// Subject of the caller.
    #[arg(long)]
    principal: Option<String>,
    /// Name of the tool.
    #[arg(long)]
    tool: Option<String>,
    /// Name of the server.
    #[arg(long)]
    server: Option<String>,
    /// Pointer of the rule, or the beginning of it.
    #[arg(long)]
    rule: Option<String>,
    /// Type of the event, e.g. `decision` or `response`.
    #[arg(long)]
    event: Option<String>,
    /// Envoy's id of the request: every record of one call.
    #[arg(long, value_name = "ID")]
    stream_id: Option<String>,
    /// Id of a trace, 32 hexadecimal digits: every record of it.
    #[arg(long, value_name = "ID")]
    trace_id: Option<String>,
    /// Not before this time: a date, or a time such as 2026-11-21T10:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<i64>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<i64>,
    /// Whole records instead of one line of text each.
    #[arg(long)]
    json: bool,
}

fn outcome(text: &str) -> Result<&'static str, String> {
    let found = Outcome::ALL.iter().map(|outcome| outcome.name()).find(|name| *name == text);
    found.ok_or_else(|| "one of `allowed`, `deferred`, `denied`, `error`".to_owned())
}

/// Unix milliseconds.
fn time(text: &str) -> Result<i64, String> {
    let time = text.parse().or_else(|_| format!("{text}T00:00:00Z").parse());
    time.map(jiff::Timestamp::as_millisecond).map_err(|_| "a date, or a time such as 2026-11-21T10:00:00Z".to_owned())
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The files, oldest first; `-` for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    filters: Filters,
}

pub(super) fn run(args: &Args, stdin: &mut dyn BufRead, out: &mut dyn Write) -> Result<(), AuditError> {
    each(&args.files, stdin, &mut |_, _, line| args.filters.show(line, out).map(drop))
}

impl Filters {
    /// Prints the record of a line if it fits; whether it does.
    pub(super) fn show(&self, line: &[u8], out: &mut dyn Write) -> io::Result<bool> {
        if !is_claimed(line) {
            return Ok(false);
        }
        // Nobody has checked yet who wrote the line; no record of ours holds what steers a terminal.
        let Some(text_of) = std::str::from_utf8(line).ok().filter(|text| !text.contains(is_unsafe)) else {
            return Ok(false);
        };
        let Ok(record) = serde_json::from_str::<Value>(text_of) else { return Ok(false) };
        if !self.fits(&record) {
            return Ok(false);
        }
        if self.json {
            out.write_all(line)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", text(&record))?;
        }
        out.flush()?;
        Ok(true)
    }

    fn fits(&self, record: &Value) -> bool {
        let is =
            |wanted: Option<&str>, found: Option<&str>| wanted.is_none_or(|wanted| found == Some(&*escaped(wanted)));
        let when =
            || record["occurred_at"].as_str().and_then(|text| text.parse().ok()).map(jiff::Timestamp::as_millisecond);
        is(self.outcome, record["outcome"].as_str())
            && is(self.event.as_deref(), record["event_type"].as_str())
            && is(self.principal.as_deref(), record["principal_id"].as_str())
            && is(self.tool.as_deref(), record["tool_name"].as_str())
            && is(self.server.as_deref(), member(record, "server"))
            && is(self.stream_id.as_deref(), member(record, "stream_id").or(member(record, "reservation")))
            && is(self.trace_id.as_deref(), member(record, "trace_id"))
            && self
                .rule
                .as_deref()
                .is_none_or(|rule| member(record, "rule").is_some_and(|found| found.starts_with(&*escaped(rule))))
            && self.since.is_none_or(|since| when().is_some_and(|when| when >= since))
            && self.until.is_none_or(|until| when().is_some_and(|when| when < until))
    }
}

/// A member of the extension.
fn member<'r>(record: &'r Value, name: &str) -> Option<&'r str> {
    let extensions = record["extensions"].as_object()?;
    extensions.iter().find_map(|(_, extension)| extension.get(name)?.as_str())
}

/// One line for people. Values of records hold nothing that steers a terminal; those of a line that somebody else wrote are spelled
/// out.
fn text(record: &Value) -> String {
    let core = |name: &str| record[name].as_str().unwrap_or("-");
    let mut out = format!(
        "{} {} {} {} {}",
        core("occurred_at"),
        core("outcome"),
        core("event_type"),
        core("principal_id"),
        core("tool_name")
    );
    for name in ["server", "method", "reason", "rule", "answer", "withheld", "fate", "settled", "lost", "stream_id"] {
        if let Some(value) = member(record, name).filter(|value| !value.is_empty()) {
            out.push_str(&format!(" {name}={value}"));
        }
    }
    spelled_out(&out)
}
