//! What a reload of ten thousand policies does to Checks that are decided meanwhile.
//!
//! The folder of policies is a link that is moved between two folders, in which no policy has the same bytes, so that each reload
//! compiles all of them and frees all of the others. One Check is open at a time: with more the machine, not the reload, would
//! decide how long one waits.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use mcp_authz::envoy::server::Endpoint;
use tokio::time::Instant;

use crate::load::{self, Load};
use crate::process::Server;
use crate::requests;
use crate::scene::Crowd;

const ROUNDS: usize = 5;
/// Of each of the two kinds of round.
const ROUND: Duration = Duration::from_secs(3);
const CROWD: Crowd = Crowd { grants: 0, servers: 0, policies: 9_999 };
/// Checks between two looks at the clock.
const CHUNK: usize = 200;

pub(crate) fn run(out: &mut impl Write) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    prepare(folder.path())?;
    let server = Server::start_on(folder.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut quiet, mut loaded) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let endpoint = server.endpoints.last().cloned().unwrap_or(Endpoint::Unix("/nowhere".into()));
        let (load, message) =
            (Load::connect(&endpoint).await?, load::frame(&requests::check_request(&requests::body(300)))?);
        load.run(&message, 2_000, 1).await?;
        for round in 0..ROUNDS {
            quiet.extend(checks(&load, &message).await?);
            turn(folder.path(), round + 1)?;
            server.hangup()?;
            loaded.extend(checks(&load, &message).await?);
        }
        anyhow::Ok(())
    })?;
    writeln!(out, "One Check of 300 B at a time over a Unix socket, µs; {ROUNDS} rounds in turns, 10,000 policies\n")?;
    writeln!(out, "| | Checks | p50 | p99 | p99.9 | worst |\n|---|---|---|---|---|---|")?;
    for (name, mut times) in [("no reload", quiet), ("all policies are replaced", loaded)] {
        times.sort_unstable();
        let at = |permille: usize| times.get(times.len() * permille / 1_000).map_or(0, Duration::as_micros);
        let worst = times.last().map_or(0, Duration::as_micros);
        writeln!(out, "| {name} | {} | {} | {} | {} | {worst} |", times.len(), at(500), at(990), at(999))?;
    }
    writeln!(out, "\nreloads that were taken: {}", server.reloads(folder.path())?)?;
    Ok(())
}

async fn checks(load: &Load, message: &bytes::Bytes) -> anyhow::Result<Vec<Duration>> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < ROUND {
        times.extend(load.run(message, CHUNK, 1).await?);
    }
    Ok(times)
}

/// Two folders, and a link to the first.
fn prepare(folder: &Path) -> anyhow::Result<()> {
    crate::scene::write(folder, CROWD)?;
    let (first, second) = (folder.join("policies-0"), folder.join("policies-1"));
    fs::rename(folder.join("policies"), &first)?;
    fs::create_dir(&second)?;
    for entry in fs::read_dir(&first)? {
        let entry = entry?;
        // A blank is another text, and so another policy.
        fs::write(second.join(entry.file_name()), fs::read_to_string(entry.path())? + " ")?;
    }
    symlink("policies-0", folder.join("policies"))?;
    Ok(())
}

fn turn(folder: &Path, round: usize) -> anyhow::Result<()> {
    symlink(format!("policies-{}", round % 2), folder.join("policies-next"))?;
    fs::rename(folder.join("policies-next"), folder.join("policies"))?;
    Ok(())
}
