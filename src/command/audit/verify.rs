//! `mcp-authz audit verify`.

use std::{
    io::{BufRead, Write},
    path::{Path, PathBuf},
};

use mcp_authz_core::audit::{
    chain::Hash,
    verify::{Checker, Finding, Options, Summary, Verifier},
};
use serde_json::{Value, json};

use super::{AuditError, lines::each};
use crate::telemetry::audit::key::PublicKey;

/// Findings that are told; the rest is counted.
const TOLD_MAX: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The files, oldest first; `-` for standard input. Lines that are no records are passed over and counted.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A public key from `keygen`: every checkpoint has to be signed by it, or by another one that is named.
    #[arg(long, value_name = "PEM")]
    public_key: Vec<PathBuf>,
    /// The `event_hash` of a record that has to be here, as you noted it elsewhere.
    #[arg(long, value_name = "HASH", value_parser = super::hash)]
    anchor: Vec<Hash>,
    /// The input is an excerpt: chains of several processes may begin in the middle of it.
    #[arg(long)]
    excerpt: bool,
    /// Nothing may be missing at either end, and with a key everything has to be covered by a signature.
    #[arg(long, conflicts_with = "excerpt")]
    whole: bool,
    /// Text, or JSON for machines.
    #[arg(long, value_enum, default_value = "text")]
    output: super::query::Output,
}

/// Whether all is well.
pub(super) fn run(args: &Args, stdin: &mut dyn BufRead, out: &mut dyn Write) -> Result<bool, AuditError> {
    let keys = args.public_key.iter().map(|path| PublicKey::load(path)).collect::<Result<Vec<_>, _>>()?;
    let options = Options { is_excerpt: args.excerpt, anchors: args.anchor.clone() };
    let mut verifier = Verifier::new(keys.iter().map(|key| key as &dyn Checker).collect(), options);
    let mut told: Vec<Value> = Vec::new();
    let is_text = args.output == super::query::Output::Text;
    let mut tell = |finding: &Finding, path: &Path, line: u64, out: &mut dyn Write| {
        if told.len() >= TOLD_MAX {
            return Ok(());
        }
        let place = json!({ "file": path.display().to_string(), "line": line, "finding": finding.name(), "says": finding.to_string() });
        told.push(place);
        if is_text { writeln!(out, "{}:{line}: {finding}", path.display()) } else { Ok(()) }
    };
    let mut last = (PathBuf::new(), 0);
    each(&args.files, stdin, &mut |path, number, line| {
        let mut found = Vec::new();
        verifier.line(line, &mut |finding| found.push(finding));
        if last.1 == 0 || last.0 != path {
            path.clone_into(&mut last.0);
        }
        last.1 = number;
        found.iter().try_for_each(|finding| tell(finding, path, number, out))
    })?;
    let mut found = Vec::new();
    let summary = verifier.finish(&mut |finding| found.push(finding));
    for finding in &found {
        tell(finding, &last.0, last.1, out)?;
    }
    let wants = demands(args, &summary);
    let is_well = summary.findings == 0 && wants.is_empty();
    if is_text {
        text(&summary, &wants, told.len(), !keys.is_empty(), out)?;
    } else {
        writeln!(out, "{}", report(&summary, &wants, is_well, &told))?;
    }
    Ok(is_well)
}

/// What the input does not hold although it was asked for.
fn demands(args: &Args, seen: &Summary) -> Vec<String> {
    let mut wants = Vec::new();
    if seen.records == 0 {
        wants.push("there is no record".to_owned());
    }
    if args.whole && seen.headless > 0 {
        wants.push("the first chain begins in the middle: older files are missing".to_owned());
    }
    if args.whole && seen.open > 0 {
        wants.push(format!("{} without an end", count(seen.open, "chain", "chains")));
    }
    if args.whole && !args.public_key.is_empty() && seen.unsigned > 0 {
        wants.push(format!("{} after the last signature", count(seen.unsigned, "record", "records")));
    }
    wants
}

fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn text(seen: &Summary, wants: &[String], told: usize, has_keys: bool, out: &mut dyn Write) -> Result<(), AuditError> {
    let more = seen.findings.saturating_sub(u64::try_from(told).unwrap_or(u64::MAX));
    if more > 0 {
        writeln!(out, "and {more} more")?;
    }
    for want in wants {
        writeln!(out, "error: {want}")?;
    }
    let notes = [
        (
            seen.headless > 0,
            format!(
                "note: {} in the middle: older files are not here",
                count(seen.headless, "chain begins", "chains begin")
            ),
        ),
        (
            seen.open > 0,
            format!(
                "note: {} no end: the process runs still, was killed, or the end was cut off",
                count(seen.open, "chain has", "chains have")
            ),
        ),
        (
            seen.lost > 0,
            format!("note: {} could not be kept when they were made", count(seen.lost, "record", "records")),
        ),
        (seen.torn > 0, format!("note: {} by a crash", count(seen.torn, "line was cut", "lines were cut"))),
        (seen.clock_back > 0, format!("note: the clock went back {}", count(seen.clock_back, "time", "times"))),
        (seen.foreign > 0, format!("note: {} of others", count(seen.foreign, "line", "lines"))),
        (
            has_keys && seen.unsigned > 0,
            format!("note: {} after the last signature", count(seen.unsigned, "record", "records")),
        ),
        (!has_keys, "note: without --public-key nobody can tell whether all of it was made anew".to_owned()),
    ];
    for (_, note) in notes.iter().filter(|(is_so, _)| *is_so) {
        writeln!(out, "{note}")?;
    }
    let (records, chains) = (count(seen.records, "record", "records"), count(seen.chains, "chain", "chains"));
    let signatures = count(seen.signatures, "signature", "signatures");
    match seen.findings {
        0 => writeln!(out, "{records} in {chains}, {signatures} checked: nothing was changed, moved or taken out")?,
        n => writeln!(out, "{records} in {chains}, {signatures} checked: {}", count(n, "finding", "findings"))?,
    }
    if let Some((at, hash)) = &seen.last {
        writeln!(out, "the last is {at}: {}", hash.as_str())?;
    }
    Ok(())
}

fn report(seen: &Summary, wants: &[String], is_well: bool, told: &[Value]) -> Value {
    let last = seen.last.as_ref().map(|(at, hash)| json!({ "chain": at.chain, "seq": at.seq, "hash": hash.as_str() }));
    json!({
        "ok": is_well,
        "records": seen.records,
        "chains": seen.chains,
        "findings": seen.findings,
        "told": told,
        "errors": wants,
        "begins_in_the_middle": seen.headless,
        "without_end": seen.open,
        "lost": seen.lost,
        "torn": seen.torn,
        "clock_back": seen.clock_back,
        "foreign": seen.foreign,
        "signatures": seen.signatures,
        "after_last_signature": seen.unsigned,
        "last": last,
    })
}
