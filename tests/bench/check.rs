//! What one Check costs: `cargo bench --bench check`.
//!
//! The load part starts servers as child processes, sends them the same bytes in a closed loop, and compares the CPU
//! time that each used for a request. Times on a shared machine vary by half; ratios of CPU time within one run do not
//! vary much, because the servers take turns in short rounds, and every figure is the median over the rounds. The
//! yardstick is the *null server*: tonic and envoy-types, in the same arrangement of runtimes, window and frame sizes
//! and with the same allocator as ours, which decodes every request and always answers OK.
//!
//! A harness of our own, because the usual ones measure functions in this process by wall-clock time. Arguments: a part
//! (`lists`, `load`, `memory`, `micro`, `redis`, `tracing`) to run only that. For a profiler: `serve KIND tcp://… unix://…` runs one of the servers,
//! `scene FOLDER` writes what the real one is configured with, and `drive ENDPOINT BODY_BYTES COUNT` sends to a server
//! that runs already.

#![expect(clippy::arithmetic_side_effects, reason = "figures of a benchmark decide nothing")]

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;

#[path = "check/lists.rs"]
mod lists;
#[path = "check/load.rs"]
mod load;
#[path = "check/memory.rs"]
mod memory;
#[path = "check/micro.rs"]
mod micro;
#[path = "check/process.rs"]
mod process;
#[path = "check/redis.rs"]
mod redis_part;
#[path = "check/report.rs"]
mod report;
#[path = "check/requests.rs"]
mod requests;
#[path = "check/scene.rs"]
mod scene;
#[path = "check/servers.rs"]
mod servers;
#[path = "check/tracing.rs"]
mod tracing_part;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["serve", kind, endpoints @ ..] = &arguments[..] {
        return servers::run(kind, endpoints).map(|()| ExitCode::SUCCESS);
    }
    if let ["scene", folder] = &arguments[..] {
        return scene::write(std::path::Path::new(folder), scene::Crowd::NONE).map(|_| ExitCode::SUCCESS);
    }
    if let ["drive", endpoint, body_bytes, count] = &arguments[..] {
        return report::drive(&endpoint.parse()?, body_bytes.parse()?, count.parse()?).map(|()| ExitCode::SUCCESS);
    }
    if let ["collect"] = &arguments[..] {
        return tracing_part::collect().map(|()| ExitCode::SUCCESS);
    }
    let mut out = std::io::stdout().lock();
    let wanted = |part| arguments.is_empty() || arguments.contains(&part);
    if let Some(unknown) =
        arguments.iter().find(|argument| !["lists", "load", "memory", "micro", "redis", "tracing"].contains(*argument))
    {
        writeln!(
            std::io::stderr(),
            "unknown part `{unknown}`; there are `lists`, `load`, `memory`, `micro`, `redis` and `tracing`"
        )?;
        return Ok(ExitCode::from(64));
    }
    if wanted("micro") {
        micro::run(&mut out)?;
    }
    if wanted("lists") {
        lists::run(&mut out)?;
    }
    if wanted("memory") {
        memory::run(&mut out)?;
    }
    // Needs a redis-server, so it runs only where it is asked for.
    if arguments.contains(&"redis") {
        redis_part::run(&mut out).context("the redis part failed")?;
    }
    if arguments.contains(&"tracing") {
        tracing_part::run(&mut out).context("the tracing part failed")?;
    }
    if wanted("load") {
        report::run(&mut out).context("the load part failed")?;
    }
    Ok(ExitCode::SUCCESS)
}
