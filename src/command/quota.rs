//! `mcp-authz quota`: asks a running mcp-authz where counters stand, and sets them back.
//!
//! Through its admin port, so that it is the same for every store of counters, and so that every reset is in the audit.

mod table;

use std::{
    io::{BufRead, Write},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::operator::{Admin, OperatorError, Output, Target, confirm, ended, rows};

/// See where counters stand, and set them back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mcp-authz quota show --grant triage-bot
  mcp-authz quota show --identity user:ann --output json
  mcp-authz quota reset --grant triage-bot --counter messages

It asks a running mcp-authz, whose settings name `admin.token_file`. Every reset is in the audit.

Exit status: 0 done; 1 not confirmed, or the running mcp-authz says no; 64 bad usage, or it cannot be reached.")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Take it that counts were lost with the data of the quota store, so that limits which wait for them go on.
    #[command(after_help = "Example:\n  mcp-authz quota accept-loss")]
    AcceptLoss(AcceptLossArgs),
    /// Set counters of a grant to zero, after asking.
    #[command(
        after_help = "Example:\n  mcp-authz quota reset --grant triage-bot --counter messages --tool post_message"
    )]
    Reset(ResetArgs),
    /// Show what is used of every counter, what is left and when it resets.
    #[command(after_help = "Example:\n  mcp-authz quota show --grant triage-bot")]
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Label of the grant.
    #[arg(long, required_unless_present = "identity")]
    grant: Option<String>,
    /// Subject of grants.
    #[arg(long)]
    identity: Option<String>,
    /// Only this policy.
    #[arg(long, value_name = "ID")]
    policy: Option<String>,
    /// Only counters of this name.
    #[arg(long)]
    counter: Option<String>,
    /// Only counters of this tool.
    #[arg(long)]
    tool: Option<String>,
    /// A table, or JSON as the admin port gives it.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct ResetArgs {
    /// Label of the grant.
    #[arg(long)]
    grant: String,
    /// Name of the counter.
    #[arg(long)]
    counter: String,
    /// Only this policy.
    #[arg(long, value_name = "ID")]
    policy: Option<String>,
    /// Only the counter of this tool.
    #[arg(long)]
    tool: Option<String>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct AcceptLossArgs {
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
        Action::AcceptLoss(args) => accept_loss(args, input, out, err),
        Action::Reset(args) => reset(args, input, out, err),
        Action::Show(args) => show(args, out),
    };
    ended(done, err)
}

fn show(args: &ShowArgs, out: &mut impl Write) -> Result<(), OperatorError> {
    let admin = Admin::of(&args.target)?;
    let page = admin.get(
        "/quota",
        &[
            ("grant", args.grant.as_deref()),
            ("identity", args.identity.as_deref()),
            ("policy", args.policy.as_deref()),
            ("counter", args.counter.as_deref()),
            ("tool", args.tool.as_deref()),
        ],
    )?;
    match args.output {
        Output::Json => writeln!(out, "{page:#}")?,
        Output::Text => out.write_all(table::table(rows(&page, "counters")?).as_bytes())?,
    }
    Ok(())
}

fn reset(
    args: &ResetArgs,
    input: &mut impl BufRead,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<(), OperatorError> {
    let admin = Admin::of(&args.target)?;
    let mut wanted = vec![("grant", Some(args.grant.as_str())), ("counter", Some(args.counter.as_str()))];
    wanted.extend([("policy", args.policy.as_deref()), ("tool", args.tool.as_deref())]);
    let page = admin.get("/quota", &wanted)?;
    let found = rows(&page, "counters")?;
    if !args.yes {
        err.write_all(table::table(found).as_bytes())?;
        if found.iter().any(table::is_shared) {
            writeln!(err, "Other callers share counters whose scope does not name the grant.")?;
        }
        confirm("Set to zero?", input, err)?;
    }
    // What was shown is what is reset: after a reload in between nothing is.
    wanted.push(("revision", page.get("revision").and_then(Value::as_str)));
    let body: serde_json::Map<String, Value> =
        wanted.iter().filter_map(|(name, value)| value.map(|value| ((*name).to_owned(), json!(value)))).collect();
    let page = admin.post("/quota/reset", &Value::Object(body))?;
    match rows(&page, "reset")?.len() {
        1 => writeln!(out, "1 counter is at zero")?,
        n => writeln!(out, "{n} counters are at zero")?,
    }
    Ok(())
}

fn accept_loss(
    args: &AcceptLossArgs,
    input: &mut impl BufRead,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<(), OperatorError> {
    let admin = Admin::of(&args.target)?;
    if !args.yes {
        writeln!(err, "What was counted and lost then counts as unused, for every caller.")?;
        confirm("Accept the loss?", input, err)?;
    }
    let page = admin.post("/quota/accept-loss", &json!({}))?;
    match page.get("accepted").and_then(Value::as_bool) {
        Some(true) => writeln!(out, "the loss is accepted")?,
        Some(false) => writeln!(out, "no counts were lost; nothing was changed")?,
        None => return Err(OperatorError::Unreadable),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
