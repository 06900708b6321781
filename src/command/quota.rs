//! `mcp-authz quota`: asks a running mcp-authz where counters stand, and sets them back.
//!
//! Through its admin port, so that it is the same for every store of counters, and so that every reset is in the audit.

mod client;
mod table;

use std::{
    io::{self, BufRead, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use serde_json::{Value, json};

use crate::{
    admin::token::{self, TokenError},
    command::{FAILED, USAGE},
    config::Config,
};

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

/// Which process to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The settings of the running mcp-authz, which name its admin port and its token file.
    #[arg(long, value_name = "FILE", env = "MCP_AUTHZ_CONFIG", default_value = "/etc/mcp-authz/config.yaml")]
    config: PathBuf,
    /// Address of the admin port, instead of the one in the settings.
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
    /// File with the admin token, instead of the one in the settings.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    Json,
    Text,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum QuotaError {
    #[error("{0}")]
    Client(#[from] client::ClientError),
    #[error("not confirmed, nothing was done")]
    NotConfirmed,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("the answer is none of mcp-authz: is this its admin port?")]
    Unreadable,
    #[error("{0}")]
    Usage(String),
    #[error("output is closed")]
    Write(#[from] io::Error),
}

impl QuotaError {
    pub(super) const fn status(&self) -> u8 {
        match self {
            QuotaError::NotConfirmed | QuotaError::Refused(_) => FAILED,
            QuotaError::Client(_)
            | QuotaError::Token(_)
            | QuotaError::Unreadable
            | QuotaError::Usage(_)
            | QuotaError::Write(_) => USAGE,
        }
    }
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

/// Says what went wrong, if anything did; the status of the process.
pub(super) fn ended(done: Result<(), QuotaError>, err: &mut impl Write) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error is gone; the status still says it.
            let _told = writeln!(err, "mcp-authz: {error}").is_ok();
            ExitCode::from(error.status())
        }
    }
}

fn show(args: &ShowArgs, out: &mut impl Write) -> Result<(), QuotaError> {
    let admin = Admin::of(&args.target)?;
    let page = admin.show(&[
        ("grant", args.grant.as_deref()),
        ("identity", args.identity.as_deref()),
        ("policy", args.policy.as_deref()),
        ("counter", args.counter.as_deref()),
        ("tool", args.tool.as_deref()),
    ])?;
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
) -> Result<(), QuotaError> {
    let admin = Admin::of(&args.target)?;
    let mut wanted = vec![("grant", Some(args.grant.as_str())), ("counter", Some(args.counter.as_str()))];
    wanted.extend([("policy", args.policy.as_deref()), ("tool", args.tool.as_deref())]);
    let page = admin.show(&wanted)?;
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
    let page = admin.act("reset", &Value::Object(body))?;
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
) -> Result<(), QuotaError> {
    let admin = Admin::of(&args.target)?;
    if !args.yes {
        writeln!(err, "What was counted and lost then counts as unused, for every caller.")?;
        confirm("Accept the loss?", input, err)?;
    }
    let page = admin.act("accept-loss", &json!({}))?;
    match page.get("accepted").and_then(Value::as_bool) {
        Some(true) => writeln!(out, "the loss is accepted")?,
        Some(false) => writeln!(out, "no counts were lost; nothing was changed")?,
        None => return Err(QuotaError::Unreadable),
    }
    Ok(())
}

pub(super) fn confirm(question: &str, input: &mut impl BufRead, err: &mut impl Write) -> Result<(), QuotaError> {
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut line = String::new();
    input.read_line(&mut line)?;
    if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(QuotaError::NotConfirmed) }
}

pub(super) fn rows<'a>(page: &'a Value, name: &str) -> Result<&'a [Value], QuotaError> {
    page.get(name).and_then(Value::as_array).map(Vec::as_slice).ok_or(QuotaError::Unreadable)
}

/// A running process and the token for it.
pub(super) struct Admin {
    client: client::Client,
}

impl Admin {
    pub(super) fn of(target: &Target) -> Result<Self, QuotaError> {
        let (address, file) = match (target.admin, &target.token_file) {
            (Some(address), Some(file)) => (address, file.clone()),
            (address, file) => {
                let config = Config::load(&target.config).map_err(|defects| {
                    let lines: Vec<String> = defects.iter().map(ToString::to_string).collect();
                    QuotaError::Usage(format!("the settings cannot be read:\n  {}", lines.join("\n  ")))
                })?;
                let file = file.clone().or(config.admin.token_file).ok_or_else(|| {
                    let text =
                        "has no `admin.token_file`, so the running mcp-authz answers nobody about quotas and pins";
                    QuotaError::Usage(format!("{} {text}", target.config.display()))
                })?;
                (address.unwrap_or(config.listen.admin), file)
            }
        };
        if address.port() == 0 {
            return Err(QuotaError::Usage(
                "the settings let the system pick the admin port: give it as --admin".into(),
            ));
        }
        Ok(Self { client: client::Client::new(address, token::read(&file)?) })
    }

    fn show(&self, wanted: &[(&str, Option<&str>)]) -> Result<Value, QuotaError> {
        self.get("/quota", wanted)
    }

    fn act(&self, act: &str, body: &Value) -> Result<Value, QuotaError> {
        self.post(&format!("/quota/{act}"), body)
    }

    /// Asks a page for what is named.
    pub(super) fn get(&self, page: &str, wanted: &[(&str, Option<&str>)]) -> Result<Value, QuotaError> {
        let given = wanted.iter().filter_map(|(name, value)| value.map(|value| (name, value)));
        let query: Vec<String> = given.map(|(name, value)| format!("{name}={}", client::encode(value))).collect();
        Self::read(self.client.ask(&format!("GET {page}?{}", query.join("&")), None)?)
    }

    /// Has a page do something.
    pub(super) fn post(&self, page: &str, body: &Value) -> Result<Value, QuotaError> {
        Self::read(self.client.ask(&format!("POST {page}"), Some(&body.to_string()))?)
    }

    fn read((status, body): (u16, String)) -> Result<Value, QuotaError> {
        match status {
            200 => serde_json::from_str(&body).map_err(|_| QuotaError::Unreadable),
            _ => Err(QuotaError::Refused(body.trim().chars().filter(|c| !c.is_control()).take(500).collect())),
        }
    }
}

#[cfg(test)]
mod tests;
