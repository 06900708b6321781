//! `mcp-authz pins`: shows which tools wait for approval and what changed in them, and approves them.
//!
//! An approval names the digest of what was read, so that nobody approves what came in between.

mod render;
mod words;

use std::{
    io::{BufRead, Write},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::operator::{Admin, OperatorError, Output, Target, confirm, ended, rows};

/// See which tools changed, and approve them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mcp-authz pins list
  mcp-authz pins diff --server tickets
  mcp-authz pins approve --server tickets --tool create_refund

It asks a running mcp-authz, whose settings name `admin.token_file`. Every approval is in the audit.

Exit status: 0 done; 1 not confirmed, or the running mcp-authz says no; 64 bad usage, or it cannot be reached.")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Approve what waits: what it shows after asking, or what a digest names without asking.
    #[command(after_help = "Examples:
  mcp-authz pins approve --server tickets --tool create_refund
  mcp-authz pins approve --server tickets --all --digest sha256:…")]
    Approve(ApproveArgs),
    /// Show what changed in the tools that wait, member by member.
    #[command(after_help = "Example:\n  mcp-authz pins diff --server tickets --tool create_refund")]
    Diff(DiffArgs),
    /// Forget a tool that is gone; if it is listed again, it waits for approval.
    #[command(after_help = "Example:\n  mcp-authz pins forget --server tickets --tool create_refund")]
    Forget(ForgetArgs),
    /// Show the servers whose tools are pinned, and what waits for approval.
    #[command(after_help = "Example:\n  mcp-authz pins list --server tickets")]
    List(ListArgs),
    /// Forget everything of a server, damaged or not: its next list is its first.
    #[command(after_help = "Example:\n  mcp-authz pins reset --server tickets")]
    Reset(ResetArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only this server.
    #[arg(long)]
    server: Option<String>,
    /// A table, or JSON as the admin port gives it.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct DiffArgs {
    /// Name of the server.
    #[arg(long)]
    server: String,
    /// Only this tool.
    #[arg(long)]
    tool: Option<String>,
    /// For reading, or JSON as the admin port gives it.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["tool", "all"])))]
struct ApproveArgs {
    /// Name of the server.
    #[arg(long)]
    server: String,
    /// The tool.
    #[arg(long)]
    tool: Option<String>,
    /// Everything that waits, or nothing.
    #[arg(long)]
    all: bool,
    /// What was read, as `list` and `diff` print it; then nothing is shown or asked.
    #[arg(long, value_name = "sha256:…")]
    digest: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct ForgetArgs {
    /// Name of the server.
    #[arg(long)]
    server: String,
    /// The tool.
    #[arg(long)]
    tool: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct ResetArgs {
    /// Name of the server.
    #[arg(long)]
    server: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

/// Runs the command; `input` is where a confirmation is read from.
#[must_use]
pub fn run(args: &Args, input: &mut impl BufRead, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let done = match &args.action {
        Action::Approve(args) => approve(args, input, out, err),
        Action::Diff(args) => diff(args, out),
        Action::Forget(args) => forget(args, input, out, err),
        Action::List(args) => list(args, out),
        Action::Reset(args) => reset(args, input, out, err),
    };
    ended(done, err)
}

fn list(args: &ListArgs, out: &mut impl Write) -> Result<(), OperatorError> {
    let page = Admin::of(&args.target)?.get("/pins", &[("server", args.server.as_deref())])?;
    match args.output {
        Output::Json => writeln!(out, "{page:#}")?,
        Output::Text => out.write_all(render::list(rows(&page, "servers")?).as_bytes())?,
    }
    Ok(())
}

fn diff(args: &DiffArgs, out: &mut impl Write) -> Result<(), OperatorError> {
    let page = changes(&Admin::of(&args.target)?, &args.server, args.tool.as_deref())?;
    match args.output {
        Output::Json => writeln!(out, "{page:#}")?,
        Output::Text => {
            out.write_all(render::diff(&args.server, rows(&page, "pending")?).as_bytes())?;
            if let (None, Some(digest), [_, _, ..]) = (&args.tool, text(&page, "digest"), rows(&page, "pending")?) {
                writeln!(out, "Approve all of it:\n  {}", render::approval(&args.server, None, digest))?;
            }
        }
    }
    Ok(())
}

fn approve(
    args: &ApproveArgs,
    input: &mut impl BufRead,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<(), OperatorError> {
    let admin = Admin::of(&args.target)?;
    let shown;
    let digest = match &args.digest {
        Some(digest) => digest,
        None => {
            let page = changes(&admin, &args.server, args.tool.as_deref())?;
            let pending = rows(&page, "pending")?;
            let digest = match (&args.tool, pending) {
                (None, []) => return Err(OperatorError::Refused("nothing waits for approval".into())),
                (Some(_), []) => return Err(OperatorError::Refused("nothing of that name waits for approval".into())),
                (Some(_), [one, ..]) => text(one, "digest"),
                (None, _) => text(&page, "digest"),
            };
            shown = digest.ok_or(OperatorError::Unreadable)?.to_owned();
            err.write_all(render::diff(&args.server, pending).as_bytes())?;
            confirm("Approve?", input, err)?;
            &shown
        }
    };
    let body = match &args.tool {
        Some(tool) => json!({ "server": args.server, "tool": tool, "digest": digest }),
        None => json!({ "server": args.server, "digest": digest }),
    };
    let page = admin.post("/pins/approve", &body)?;
    match page.get("approved").and_then(Value::as_u64).ok_or(OperatorError::Unreadable)? {
        1 => writeln!(out, "1 tool is approved")?,
        n => writeln!(out, "{n} tools are approved")?,
    }
    Ok(())
}

fn forget(
    args: &ForgetArgs,
    input: &mut impl BufRead,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<(), OperatorError> {
    let admin = Admin::of(&args.target)?;
    if !args.yes {
        confirm("If the tool is listed again, it will be hidden until it is approved. Forget it?", input, err)?;
    }
    admin.post("/pins/forget", &json!({ "server": args.server, "tool": args.tool }))?;
    writeln!(out, "1 tool is forgotten")?;
    Ok(())
}

fn reset(
    args: &ResetArgs,
    input: &mut impl BufRead,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<(), OperatorError> {
    let admin = Admin::of(&args.target)?;
    if !args.yes {
        writeln!(
            err,
            "With `trust: first_use` the next list of the server is approved as it comes, whatever is in it."
        )?;
        confirm("Forget everything of this server?", input, err)?;
    }
    admin.post("/pins/reset", &json!({ "server": args.server }))?;
    writeln!(out, "everything of the server is forgotten")?;
    Ok(())
}

fn changes(admin: &Admin, server: &str, tool: Option<&str>) -> Result<Value, OperatorError> {
    admin.get("/pins/diff", &[("server", Some(server)), ("tool", tool)])
}

fn text<'a>(row: &'a Value, name: &str) -> Option<&'a str> {
    row.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests;
