//! `mcp-authz audit tail`.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufReader, Write},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::Duration,
};

use mcp_authz_core::audit::chain::LINE_BYTES_MAX;

use super::{AuditError, lines::next, query::Filters};

/// How often a file is looked at for more.
const POLL: Duration = Duration::from_millis(200);
/// Records that can be shown of what is there.
const LAST_MAX: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file that is written to.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Go on with the records to come, also when the file ends and another takes its place.
    #[arg(short, long)]
    follow: bool,
    /// So many of those that fit already.
    #[arg(short = 'n', long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    lines: u16,
    #[command(flatten)]
    filters: Filters,
}

/// Waits for more; true to go on.
pub(super) fn wait() -> bool {
    std::thread::sleep(POLL);
    true
}

pub(super) fn run(args: &Args, out: &mut dyn Write, wait: &mut dyn FnMut() -> bool) -> Result<(), AuditError> {
    let failed = |problem| AuditError::Read { path: args.file.clone(), problem };
    let mut file = File::open(&args.file).map_err(failed)?;
    let mut reader = BufReader::new(file.try_clone().map_err(failed)?);
    let (mut line, mut part) = (Vec::new(), Vec::new());
    let mut last: VecDeque<Vec<u8>> = VecDeque::new();
    let kept = usize::from(args.lines).min(LAST_MAX);
    while next(&mut reader, &mut line).map_err(failed)? {
        let Some(whole) = line.strip_suffix(b"\n") else {
            // One that was cut because it is too long is no record, and others follow.
            if line.len() >= LINE_BYTES_MAX {
                continue;
            }
            part.clone_from(&line);
            break;
        };
        let mut shown = Vec::new();
        if kept > 0 && args.filters.show(whole, &mut shown)? {
            if last.len() >= kept {
                last.pop_front();
            }
            last.push_back(shown);
        }
    }
    for shown in last {
        out.write_all(&shown)?;
    }
    out.flush()?;
    if !args.follow {
        return Ok(());
    }
    loop {
        // Looked at before reading on: what is written to the old file after it was renamed is read, too.
        let is_other = fs::metadata(&args.file)
            .is_ok_and(|now| file.metadata().is_ok_and(|open| (open.dev(), open.ino()) != (now.dev(), now.ino())));
        while next(&mut reader, &mut line).map_err(failed)? {
            if line.len() >= LINE_BYTES_MAX && !line.ends_with(b"\n") {
                part.clear();
                continue;
            }
            part.append(&mut line);
            if part.len() > LINE_BYTES_MAX {
                part.clear();
            }
            if let Some(whole) = part.strip_suffix(b"\n") {
                args.filters.show(whole, out)?;
                part.clear();
            }
        }
        if is_other {
            file = File::open(&args.file).map_err(failed)?;
            reader = BufReader::new(file.try_clone().map_err(failed)?);
            part.clear();
            continue;
        }
        if !wait() {
            return Ok(());
        }
    }
}
