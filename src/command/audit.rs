//! `mcp-authz audit`: makes keys, checks that no record was changed, and finds records.

mod keygen;
mod lines;
mod query;
mod tail;
mod verify;

use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
    process::ExitCode,
};

use mcp_authz_core::audit::chain::Hash;

use crate::{
    command::{FAILED, USAGE},
    telemetry::audit::key::KeyError,
};

/// Check, find and follow audit records; make the key that signs them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mcp-authz audit verify /var/log/mcp-authz/audit.jsonl.* /var/log/mcp-authz/audit.jsonl
  kubectl logs deploy/mcp-authz | mcp-authz audit verify -
  mcp-authz audit query --outcome denied --since 2026-11-21 audit.jsonl
  mcp-authz audit tail -f audit.jsonl

Exit status: 0 all is well; 1 a record was changed, moved or is missing; 64 bad usage, or a file cannot be read.")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make the key that signs checkpoints; print its public half.
    #[command(after_help = "Example:\n  mcp-authz audit keygen --out audit.key > audit.pub")]
    Keygen(keygen::Args),
    /// Print the records that fit.
    #[command(after_help = "Example:\n  mcp-authz audit query --principal user:ann --outcome denied audit.jsonl")]
    Query(query::Args),
    /// Print the last records, and with -f those to come.
    #[command(after_help = "Example:\n  mcp-authz audit tail -f --outcome denied audit.jsonl")]
    Tail(tail::Args),
    /// Find records that were changed, moved, repeated or taken out.
    #[command(after_help = "Example:\n  mcp-authz audit verify --public-key audit.pub audit.jsonl.* audit.jsonl")]
    Verify(verify::Args),
}

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
enum AuditError {
    #[error("{}: cannot be read: {problem}", path.display())]
    Read { path: PathBuf, problem: io::Error },
    #[error("{}: cannot be written: {problem}", path.display())]
    Save { path: PathBuf, problem: io::Error },
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("output is closed")]
    Write(#[from] io::Error),
}

/// Runs the command.
#[must_use]
pub fn run(args: &Args, stdin: &mut dyn BufRead, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let done = match &args.action {
        Action::Keygen(args) => keygen::run(args, out, err).map(|()| true),
        Action::Query(args) => query::run(args, stdin, out).map(|()| true),
        Action::Tail(args) => tail::run(args, out, &mut tail::wait).map(|()| true),
        Action::Verify(args) => verify::run(args, stdin, out),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        // Whoever reads has had enough, as `head` does.
        Err(AuditError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error is gone; the status still says it.
            drop(writeln!(err, "mcp-authz: {error}"));
            ExitCode::from(USAGE)
        }
    }
}

fn hash(text: &str) -> Result<Hash, String> {
    Hash::parse(text.as_bytes()).ok_or_else(|| "a hash is 64 hexadecimal digits in lower case".to_owned())
}

#[cfg(test)]
mod tests;
