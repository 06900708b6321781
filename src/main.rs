//! The `mcp-authz` binary: reads the command line and hands over.

use std::{io, process::ExitCode};

use clap::Parser;
use mcp_authz::command;

/// Policy decision point for MCP traffic behind Envoy.
#[derive(Debug, Parser)]
#[command(name = "mcp-authz", version, about, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check, find and follow audit records; make the key that signs them.
    Audit(command::audit::Args),
    /// Check configuration, policies, servers and grants; print every defect.
    Check(command::check::Args),
    /// See whether an Envoy does what mcp-authz relies on.
    Doctor(command::doctor::Args),
    /// Decide one request and explain it, condition by condition.
    Eval(command::eval::Args),
    /// Make, list and revoke grants.
    Grant(command::grant::Args),
    /// Show what the rules of a policy for results make of one.
    Mask(command::mask::Args),
    /// See which tools changed, and approve them.
    Pins(command::pins::Args),
    /// See where counters stand, and set them back.
    Quota(command::quota::Args),
    /// Answer Envoy.
    Serve(command::serve::Args),
    /// Run policy test cases.
    Test(command::test::Args),
    /// Compare what running processes serve with files, digest by digest.
    Verify(command::verify::Args),
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let failed = error.print().is_err();
            // Help and version are no errors; anything else is a usage error (EX_USAGE).
            return if error.use_stderr() || failed { ExitCode::from(command::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match args.command {
        Command::Audit(args) => {
            command::audit::run(&args, &mut io::stdin().lock(), &mut io::stdout(), &mut io::stderr())
        }
        Command::Check(args) => command::check::run(args, &mut io::stdout(), &mut io::stderr()),
        Command::Doctor(args) => command::doctor::run(&args, &mut io::stdout(), &mut io::stderr()),
        Command::Eval(args) => command::eval::run(args, &mut io::stdout(), &mut io::stderr()),
        Command::Grant(args) => command::grant::run(args, &mut io::stdout(), &mut io::stderr()),
        Command::Mask(args) => command::mask::run(&args, &mut io::stdin().lock(), &mut io::stdout(), &mut io::stderr()),
        Command::Pins(args) => command::pins::run(&args, &mut io::stdin().lock(), &mut io::stdout(), &mut io::stderr()),
        Command::Quota(args) => {
            command::quota::run(&args, &mut io::stdin().lock(), &mut io::stdout(), &mut io::stderr())
        }
        // The server's own threads write to both, so nothing here may hold their locks.
        Command::Serve(args) => command::serve::run(&args),
        Command::Test(args) => command::test::run(args, &mut io::stdout(), &mut io::stderr()),
        Command::Verify(args) => command::verify::run(&args, &mut io::stdout(), &mut io::stderr()),
    }
}
