//! `mcp-authz audit keygen`.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use mcp_authz_core::audit::chain::Signer as _;

use super::AuditError;
use crate::telemetry::audit::key::SigningKey;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file for the private key; there must be none yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), AuditError> {
    let failed = |problem| AuditError::Save { path: args.out.clone(), problem };
    let (key, pem) = SigningKey::generate()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.out).map_err(failed)?;
    file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    write!(out, "{}", key.public_pem())?;
    writeln!(
        err,
        "key {} is in {}; keep the public key where nobody who can write records can change it",
        key.key_id(),
        args.out.display()
    )?;
    Ok(())
}
