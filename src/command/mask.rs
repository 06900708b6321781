//! `mcp-authz mask`: what the rules of a policy for results make of one, before and after.

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use mcp_authz_core::{
    json::{Document, Limits},
    mask::{Action, Findings, Judged, MaskKey},
    policy::{POLICY_BYTES_MAX, Policy, Source},
    splice::Splices,
};

use super::{FAILED, USAGE, test::load};

/// Bytes of a result that is read.
const RESULT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The key of `hash` in a preview, as in test cases: no server uses it.
const PREVIEW_KEY: [u8; 32] = [0; 32];

const EXAMPLES: &str = "\
Examples:
  mcp-authz mask --policy policies/crm.yaml --tool get_customer < result.json
  mcp-authz mask --policy policies/crm.yaml --result message.json

The input is a JSON-RPC message, with `jsonrpc`, or a result alone, such as an object with `content`.
Exit status: 0 the result would pass, maybe changed, 1 it would be withheld, 64 something cannot be read.";

/// Arguments of `mask`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The policy, *.json or *.yaml.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The tool that was called; without it only the rules at the root of the policy apply.
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// What the server answered; standard input without it.
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
}

/// Judges the result and writes it before and after, with what each rule did.
pub fn run(args: &Args, input: &mut impl Read, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let told = match preview(args, input, err) {
        Ok((text, status)) => out.write_all(text.as_bytes()).map(|()| status),
        Err(text) => err.write_all(text.as_bytes()).map(|()| ExitCode::from(USAGE)),
    };
    told.unwrap_or(ExitCode::from(USAGE))
}

fn preview(args: &Args, input: &mut impl Read, err: &mut impl Write) -> Result<(String, ExitCode), String> {
    let policy = read_policy(args, err)?;
    let message = read_message(args, input)?;
    let limits = Limits { bytes_max: RESULT_BYTES_MAX, ..Limits::default() };
    let document = Document::parse(message.as_bytes(), limits).map_err(|error| format!("the result: {error}\n"))?;
    let rules = if args.tool.is_some() { policy.results(args.tool.as_deref()) } else { policy.messages() };
    let (mut splices, mut findings) = (Splices::default(), Findings::default());
    let judged = rules.judge(&document, &MaskKey(Arc::new(PREVIEW_KEY)), &mut splices, &mut findings);
    let mut text = format!("before  {}\n", one_line(&message));
    let status = match judged {
        Judged::Pass => {
            let after = splices.apply(&message).ok_or("the changes overlap: the result would be withheld\n")?;
            text.push_str(&format!("after   {}\n", one_line(&after)));
            ExitCode::SUCCESS
        }
        Judged::Block(why) => {
            text.push_str(&format!("withheld: {}\n", one_line(&why)));
            ExitCode::from(FAILED)
        }
    };
    push_findings(&mut text, &findings);
    Ok((text, status))
}

fn push_findings(text: &mut String, findings: &Findings) {
    for hit in &findings.hits {
        let action = match hit.action {
            Action::Block => "blocked",
            Action::Mask => "masked",
            Action::Report => "reported",
        };
        text.push_str(&format!("{action:<8} {:>5}  {}\n", hit.count, one_line(&hit.rule)));
    }
    findings.new_fields.iter().for_each(|field| text.push_str(&format!("new field       {}\n", one_line(field))));
}

fn read_policy(args: &Args, err: &mut impl Write) -> Result<Policy, String> {
    let loaded = load(&args.policy, POLICY_BYTES_MAX).map_err(|error| error + "\n")?;
    let id = args.policy.file_stem().and_then(|stem| stem.to_str()).unwrap_or("policy");
    let source = Source { id, file: &loaded.file, bytes: &loaded.bytes, format: loaded.format };
    let compiled = Policy::compile(&source)
        .map_err(|defects| defects.iter().map(|defect| format!("{defect}\n")).collect::<String>())?;
    for warning in &compiled.warnings {
        writeln!(err, "warning: {warning}").map_err(|error| error.to_string())?;
    }
    Ok(compiled.policy)
}

/// The message, or one around the result.
fn read_message(args: &Args, input: &mut impl Read) -> Result<String, String> {
    let limit = u64::try_from(RESULT_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = match &args.result {
        Some(path) => fs::File::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(|error| format!("{}: {error}\n", path.display())),
        None => input.take(limit).read_to_end(&mut bytes).map_err(|error| format!("standard input: {error}\n")),
    };
    read?;
    let text = String::from_utf8(bytes).map_err(|_| "the result is not UTF-8\n".to_owned())?;
    let limits = Limits { bytes_max: RESULT_BYTES_MAX, ..Limits::default() };
    let document = Document::parse(text.as_bytes(), limits).map_err(|error| format!("the result: {error}\n"))?;
    let root = document.root();
    Ok(if root.get("jsonrpc").is_some() {
        text
    } else {
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}}", text.trim())
    })
}

/// Nothing in a result ends the line or moves the cursor.
fn one_line(text: &str) -> String {
    let shown = |c: char| {
        if mcp_authz_core::text::is_unsafe(c) { c.escape_unicode().collect::<String>() } else { c.to_string() }
    };
    text.trim().chars().map(|c| if matches!(c, '\n' | '\r' | '\t') { " ".to_owned() } else { shown(c) }).collect()
}

#[cfg(test)]
mod tests;
